# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A full disk, a failing disk and short writes at every mutating system call: a clear error, and nothing lost.

strace lets one call fail, as test_kill.py kills before it. It cannot shorten a write (it returns what it is told and
writes nothing), so a limit on the size of files does that: the write that reaches it is short, the next one fails.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import leftovers
from .test_kill import LONG, argv, begin, calls, fresh, named, run, same, store_is_whole, work

__all__ = ["work"]

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")

OPERATIONS = {"rollback": "before", "checkpoint": "second", "log": "before", "prune": "before"}

WORDS = ("OSError: ", "EvenkeelError: ", "Damaged: ", "Refused: ", "RestoreFailed: ")


def attempt(what: str, work: Path, prefix: list[str]) -> bool:
    """Run the operation behind ``prefix``; True on success, False on an error that a module would report in words."""
    done = subprocess.run(
        [*prefix, *argv(what, work, OPERATIONS[what])], check=False, capture_output=True, text=True, timeout=60
    )
    if done.returncode == 0:
        return True
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith(WORDS), done.stdout
    return False


def faulty(call: str, number: int, fault: str, trace: Path) -> list[str]:
    return ["strace", "-f", "-o", str(trace), "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={number}"]


def judge(what: str, work: Path, before: list[str], succeeded: bool, where: object) -> str:
    """Nothing is lost whatever happened, and a success is one; which set of paths, or of checkpoints, there is."""
    assert store_is_whole(work), where
    if what == "rollback":
        if succeeded:
            assert same(work / "new", work / "live"), where
        run("finish", work)
        old, new = same(work / "old", work / "live"), same(work / "new", work / "live")
        part = not old and not new
        if part:
            # A path that could not be made ready was named, and kept nothing else back.
            assert not succeeded, where
            run("rollback", work)
            assert same(work / "new", work / "live"), f"neither old nor new: {where}"
        assert not list((work / "store").glob("journal/*")), where
        assert not leftovers(work.parent), where
        assert store_is_whole(work), where
        assert named(work, "before") == before, where
        return "part" if part else "old" if old else "new"
    ids = named(work, OPERATIONS[what])
    new = bool(set(ids) - set(before))
    assert new or not succeeded, where
    if what == "prune":
        assert before[0] in ids or new, where
        assert len(ids) == 1 or not succeeded, where
    elif what == "log":
        assert ids[: len(before)] == before, where
    else:
        assert named(work, "before") == before, where
    # The next run mends what is left over, and takes the checkpoint.
    run(what, work, OPERATIONS[what])
    assert store_is_whole(work), where
    assert named(work, OPERATIONS[what]) and not list((work / "store" / "tmp").iterdir()), where
    return "new" if new else "old"


def faults(found: list[tuple[str, int]]) -> list[tuple[str, int, str]]:
    """(system call, number, fault): all of them in the long run; else a sample, and the last call of each name."""
    made = [(call, number, fault) for call, number in found for fault in ("error=ENOSPC", "error=EIO")]
    made += [(call, number, "retval=0") for call, number in found if call in ("write", "pwrite64")]
    if LONG:
        return made
    return sorted({*made[::29], *((call, number, "error=EIO") for call, number in dict(found).items())})


@pytest.mark.parametrize("what", OPERATIONS)
def test_an_error_of_any_syscall_is_reported_and_loses_nothing(work: Path, tmp_path: Path, what: str) -> None:
    saved = begin(work, tmp_path)
    found = calls(what, work, OPERATIONS[what])
    ends, met, trace = set(), 0, tmp_path / "trace"
    for call, number, fault in faults(found):
        fresh(saved, work)
        before = named(work, "before")
        succeeded = attempt(what, work, faulty(call, number, fault, trace))
        if "(INJECTED)" not in trace.read_text():
            continue  # The number is that of the calls of all threads, and strace counts those of each.
        met += 1
        # A write that wrote nothing is repeated; an error of what makes durable is never passed over (I7).
        assert succeeded or fault != "retval=0", (call, number, fault)
        # Where the disk is full and old checkpoints may go, room is made, and the checkpoint is taken anew as a whole.
        anew = what == "prune" and fault == "error=ENOSPC"
        assert not succeeded or call not in ("fsync", "syncfs") or anew, (call, number, fault)
        ends.add((succeeded, judge(what, work, before, succeeded, (call, number, fault))))
    assert {(False, "old"), (False, "new")} <= ends and met > 0.9 * len(faults(found))


@pytest.mark.parametrize("what", OPERATIONS)
def test_a_short_write_is_reported_and_loses_nothing(work: Path, tmp_path: Path, what: str) -> None:
    saved = begin(work, tmp_path)
    ends = set()
    limits = [1, 5, 9, 20, 64, 100, 300, 700, 1000, 2000, 4000, 100_000]
    for limit in limits:
        fresh(saved, work)
        before = named(work, "before")
        succeeded = attempt(what, work, ["prlimit", f"--fsize={limit}"])
        ends.add((succeeded, judge(what, work, before, succeeded, limit)))
    assert ends - {(False, "part")} == {(False, "old"), (True, "new")}
