# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of a package manager that is about to replace something, while a change is armed: what goes is kept.

A failure here is a failure of ours alone: the package manager goes on, and a rollback says what it cannot bring back.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from .._deadman import changes, command
from .._errors import EvenkeelError
from .._host.system import System
from .._resources import registry
from .._resources.kind import Restore
from .._store.store import Store, time_of

# Seconds after which the package manager is not held up any longer, however late the deadline is.
_LIMIT = 600
# Characters of its words that are read.
_LONGEST = 1 << 24


def main(argv: Sequence[str]) -> int:
    """Keep what ``argv`` and the standard input tell of; 0."""
    parser = argparse.ArgumentParser(prog=f"evenkeel-agent {command.KEEP}")
    parser.add_argument("--store", required=True)
    parser.add_argument("source")
    parser.add_argument("process")
    args = parser.parse_args(argv)
    os.umask(0o077)
    try:
        store = Store(args.store, System(), armed=True)
        signal.alarm(patience(store))
        said = sys.stdin.read(_LONGEST) if args.source != "dpkg" else ""
        for words in keep(store, (args.source, said, args.process)):
            sys.stderr.write(f"evenkeel: {words}\n")
    except Exception as error:
        words = error.message if isinstance(error, EvenkeelError) else f"{type(error).__name__}: {error}"
        sys.stderr.write(f"evenkeel: what is replaced now is not kept: {words}\n")
    return 0


def patience(store: Store) -> int:
    """Seconds after which this process ends: at its deadline the host wants the lock of the package manager."""
    change = changes.armed(store)
    left = change.due - store.system.monotonic() if change is not None else 0.0
    return max(1, int(min(left, _LIMIT)))


def keep(store: Store, told: Sequence[str]) -> list[str]:
    """Keep what the words tell of, where a change waits; sentences on what could not be kept."""
    change = changes.armed(store)
    if change is None or change.overdue(store.system) is not None:
        return []
    manifest = store.manifest(change.checkpoint)
    at = Restore(store.system, store.objects, since=time_of(manifest.created).timestamp())
    return [
        words
        for section in manifest.sections
        for words in registry.kind_of(section).keep_replaced(registry.its_lines(section), told, at)
    ]
