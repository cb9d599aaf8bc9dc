# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent: this library in one file on the host itself, so that it can put itself back with nobody's help."""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import os
import sys
import time
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec

from . import _deadman, _rollback
from ._errors import EvenkeelError
from ._settle import drain
from ._store.durable import ensure_dir, write_file
from ._store.store import Store
from ._system import System

_PACKAGE = "evenkeel_agent"
_MAIN = f"from {_PACKAGE}._agent import main\nraise SystemExit(main())\n"
# The exit code when the change has ended in doubt: nothing is left to be tried.
DOUBT = 3
# How long to wait, in seconds, before what could not be put back is tried again; the last one over and over.
_AGAIN = (10.0, 20.0, 60.0, 120.0, 300.0)
# At the deadline nobody waits long for what a controller may have left running.
_DRAIN = 3.0


def install(store: Store) -> str:
    """Write the zipapp of this library, as it runs now, below the store; its path.

    Its name holds its hash: an agent that is waiting keeps the file it was started from, until no change is armed.
    """
    data = _zipapp()
    folder = store.join("agent")
    ensure_dir(folder)
    path = os.path.join(folder, f"evenkeel-{hashlib.sha256(data).hexdigest()[:12]}.pyz")
    if not os.path.exists(path):
        write_file(path, data, 0o400)
    if _deadman.armed(store) is None:
        for other in os.listdir(folder):
            if other != os.path.basename(path):
                os.unlink(os.path.join(folder, other))
    return path


def _zipapp() -> bytes:
    """All modules of this library that are loaded; their own imports are among them, because they are relative."""
    base = __name__.rpartition(".")[0]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        files = {"__main__.py": _MAIN, f"{_PACKAGE}/__init__.py": ""}
        for name in sorted(sys.modules):
            if name.startswith(base + ".") and not name.endswith("._adapter"):
                spec = find_spec(name)
                loader = getattr(spec, "loader", None)
                source = loader.get_source(name) if loader is not None and hasattr(loader, "get_source") else None
                inside = name[len(base) + 1 :].replace(".", "/")
                is_package = spec is not None and spec.submodule_search_locations is not None
                files[f"{_PACKAGE}/{inside}/__init__.py" if is_package else f"{_PACKAGE}/{inside}.py"] = source or ""
        for path, text in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(path), text)
    return buffer.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """``deadline`` when the timer fires, ``boot`` early at boot, ``watch`` where there is no systemd."""
    parser = argparse.ArgumentParser(prog="evenkeel-agent", description="Put this host back.")
    parser.add_argument("--store", required=True)
    parser.add_argument("what", choices=["deadline", "boot", "watch"])
    parser.add_argument("--generation", type=int)
    parser.add_argument("--within", type=float, default=0.0)
    args = parser.parse_args(argv)
    system = System()
    store = Store(args.store, system)
    if args.what == "watch" and not _wait(store, args.generation, args.within):
        return 0
    if args.what != "boot":
        drain(store, _DRAIN, time.clock_gettime(time.CLOCK_BOOTTIME))
    if args.what == "boot":
        return _at_boot(store)
    return _until_done(store, args.generation)


def _at_boot(store: Store) -> int:
    """Once, because a boot waits for nothing; what cannot be done yet is left to the dead-man."""
    try:
        with store.locked(wait=600.0):
            _say(_rollback.finish(store, boot=True))
        return 0
    except (EvenkeelError, OSError) as error:
        sys.stderr.write(f"not put back yet: {_words(error)}\n")
        if _deadman.armed(store) is not None:
            _deadman.fire(store)
        return 1


def _until_done(store: Store, generation: int) -> int:
    """Put this change back, again and again, until it is done or the time for it is over: in doubt then."""
    for pause in itertools.chain(_AGAIN, itertools.repeat(_AGAIN[-1])):
        try:
            with store.locked(wait=600.0):
                pause = min(pause, _try(store, generation))
        except (EvenkeelError, OSError) as error:  # The lock, or no room for a record.
            sys.stderr.write(f"{_words(error)}\n")
        change = _deadman.armed(store)
        if change is None or change.generation != generation:
            break
        sys.stderr.write(f"not put back yet, tried again in {pause:g} s: {'; '.join(change.left[:10])}\n")
        # No longer than the change lasts: the next one needs this unit for its own dead-man.
        if not _wait(store, generation, pause):
            break
    last = _deadman.last_event(store)
    doubt = last is not None and last.generation == generation and last.outcome == _deadman.IN_DOUBT
    return DOUBT if doubt else 0


def _try(store: Store, generation: int) -> float:
    """Under the lock: finish what was begun, and undo what was not confirmed. Seconds for which it is tried again."""
    try:
        _say(_rollback.finish(store))
        change = _deadman.armed(store)
        if change is not None and change.generation == generation:
            result = _rollback.execute(store, store.manifest(change.checkpoint), change, "deadline")
            _say([f"not confirmed in time: rolled back to {change.name}, {len(result['done'])} steps"])
    except (EvenkeelError, OSError) as error:
        return _noted(store, generation, error)
    return 0.0


def _noted(store: Store, generation: int, error: EvenkeelError | OSError) -> float:
    """Record what is left; seconds until the end of trying, which concludes it."""
    sys.stderr.write(f"{_words(error)}\n")
    change = _deadman.armed(store)
    if change is None or change.generation != generation:
        return 0.0
    result = error.result if isinstance(error, EvenkeelError) else {}
    left = [str(one) for one in result.get("left", [])] or [_words(error)]
    change = _deadman.note_left(store, change, change.overdue(store.system) or "deadline", left)
    seconds = change.tries_until - store.system.now()
    if seconds <= 0:
        _deadman.conclude(store, change, _deadman.IN_DOUBT, change.back, left)
    return max(0.0, seconds)


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")


def _words(error: EvenkeelError | OSError) -> str:
    return error.message if isinstance(error, EvenkeelError) else str(error)


def _wait(store: Store, generation: int, within: float) -> bool:
    """Sleep until the deadline; False as soon as the change has ended otherwise."""
    end = store.system.monotonic() + within
    while store.system.monotonic() < end:
        store.system.sleep(min(1.0, max(0.0, end - store.system.monotonic())))
        last = _deadman.last_event(store)
        if not os.path.isdir(store.root) or (last is not None and last.generation >= generation):
            return False
    return True
