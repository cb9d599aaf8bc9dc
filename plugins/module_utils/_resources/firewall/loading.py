# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules that are given to the programs that load them into the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..._host.commands import Completed, memory_file
from ..._host.durable import write_all
from ..._host.system import System

TIMEOUT = 60.0


def nft(text: str, system: System, *options: str) -> Completed:
    """Load the rules in one transaction: all rules, or no rule."""
    return load(["nft", *options, "--file"], text, system)


def load(argv: Sequence[str], text: str, system: System) -> Completed:
    """Run the command, whose last word is the path of a file with the text."""
    with readable(text.encode()) as (_fd, path):
        return system.run([*argv, path], TIMEOUT)


@contextmanager
def readable(data: bytes) -> Iterator[tuple[int, str]]:
    """A file without a name: its descriptor at offset 0, and its path for a command that we start."""
    with memory_file() as stream:
        fd = stream.fileno()
        write_all(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd, f"/proc/{os.getpid()}/fd/{fd}"
