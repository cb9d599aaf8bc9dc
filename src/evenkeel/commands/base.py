# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shape of a command: a name, options, and a run that ends with an exit code."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from evenkeel.outcome import Exit


class Command(ABC):
    """A command of the command line. text: its line in --help."""

    name: ClassVar[str]
    text: ClassVar[str]

    @abstractmethod
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of this command."""

    @abstractmethod
    def main(self, args: argparse.Namespace) -> int:
        """Run the command, print its end, and return its exit code."""


def not_blank(text: str) -> str:
    """The value of an option or an argument. One that names nothing, as a variable of the shell that is not set, is
    refused: it would count as not given, which mostly means all hosts. Raises ArgumentTypeError."""
    if not text.strip(" \t\r\n,:"):
        raise argparse.ArgumentTypeError(f"{text!r} names nothing: give a value, or leave the option out")
    return text


def refusal(command: str, code: Exit, reason: str) -> str:
    """The JSON document of a command that has no other result."""
    return json.dumps({"command": command, "exit_code": int(code), "reason": reason})


@contextlib.contextmanager
def readers() -> Iterator[list[OSError]]:
    """Wrap all output, so that a missing reader (| head, a closed terminal) changes no exit code. Holds the error where
    a file did not take the output: then whoever reads the file later is told nothing."""
    errors: list[OSError] = []
    try:
        yield errors
        sys.stdout.flush()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            errors.append(error)
            with contextlib.suppress(OSError):
                print(f"evenkeel: the output could not be written: {error.strerror}", file=sys.stderr, flush=True)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
