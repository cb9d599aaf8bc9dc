# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kill at every mutating system call: the set of paths ends all old or all new, and the store stays whole.

strace counts the calls of a first run, then one run per call is killed just before it. Each run works on fresh copies
of the same tree and store. What recovers from a kill is killed as well, at every one of its calls, at a sample of the
points.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path

import pytest

from evenkeel.collection import collections_path

from .conftest import LIBRARY, leftovers

# Ends with 3 and one line for what a module would report as a failure; anything else that is raised is a traceback.
PROGRAM = f"""
import os, sys
sys.path.insert(0, sys.argv[1])
from contextlib import suppress
from dataclasses import replace
from {LIBRARY}._deadman import watcher
from {LIBRARY}._flows import checkpoint as taking
from {LIBRARY}._errors import Damaged, EvenkeelError
from {LIBRARY}._flows.rollback.flow import Request, finish, rollback
from {LIBRARY}._flows.scrub import scrub
from {LIBRARY}._files import declaration, transaction
from {LIBRARY}._store.store import Store
from {LIBRARY}._host import machine
from {LIBRARY}._host.system import System
machine.read_machine = machine.Machine  # Other tests mount file systems beside this one; a log stays with its machine.
declaration.STAGE = os.environ["EVENKEEL_STAGE"]
store = Store(sys.argv[3], replace(System(), has_systemd=lambda: False))
try:
    if sys.argv[2] in ("checkpoint", "prune", "log"):
        retention = {{"last": 1 if sys.argv[2] == "prune" else 2, "grace": 0}}
        kind = "log" if sys.argv[2] == "log" else "snapshot"
        resources = [{{"files": {{"paths": [sys.argv[4]]}}}}]
        request = taking.Request(sys.argv[5], resources, retention=retention, kind=kind)
        taking.checkpoint(store, request)
    elif sys.argv[2] in ("rollback", "swap"):
        rollback(store, Request(sys.argv[5], swap=sys.argv[2] == "swap"))
    elif sys.argv[2] == "guarded":
        watcher.start = lambda *_words: None  # Here it is a boot that ends it.
        rollback(store, Request(sys.argv[5], confirm_within=60.0))
    elif sys.argv[2] == "scrub":
        with suppress(Damaged):  # It says what it found and put aside.
            scrub(store)
    elif sys.argv[2] == "replay":  # The journal alone, without the rollback that is planned anew after it.
        with store.locked():
            sys.exit(4 if any(one.left for one in transaction.unfinished(store)) else 0)
    else:
        if sys.argv[2] == "boot":
            store.system = replace(store.system, boot_id=lambda: "another")
        with store.locked():
            finish(store, sys.argv[2] == "boot")
except (EvenkeelError, OSError) as error:
    sys.exit((print(f"{{type(error).__name__}}: {{error}}"), 3)[1])
"""
CALLS = [
    *("rename", "renameat", "renameat2", "link", "linkat", "symlinkat", "mkdir", "mkdirat", "mknodat", "unlink"),
    *("unlinkat", "rmdir", "chmod", "fchmod", "fchmodat", "chown", "fchown", "fchownat", "lchown", "setxattr"),
    *("fsetxattr", "removexattr", "fremovexattr", "utimensat", "ftruncate", "write", "pwrite64", "fsync", "syncfs"),
    "ioctl",
]
for imported in ("_deadman.watcher", "_flows.checkpoint", "_flows.rollback.flow", "_flows.scrub"):
    import_module(f"{LIBRARY}.{imported}")
LONG = os.environ.get("EVENKEEL_CRASH") == "all"

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")


def argv(what: str, work: Path, name: str = "before") -> list[str]:
    return [
        sys.executable,
        "-SB",  # The library needs no packages of others, and what it compiles would be counted.
        "-c",
        PROGRAM,
        str(collections_path()),
        what,
        str(work / "store"),
        str(work / "live"),
        name,
    ]


def forked(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a copy of this process, which spares it most of its time: the imports."""
    with tempfile.TemporaryFile("w+") as said:
        pid = os.fork()
        if pid == 0:
            code: object = 1
            try:
                sys.argv, sys.stdout, sys.stderr = ["-c", *words], said, said
                exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
                code = 0
            except SystemExit as end:
                code = end.code
            except BaseException:
                traceback.print_exc()
            finally:
                said.flush()
                os._exit(code if isinstance(code, int) else 1)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        return subprocess.CompletedProcess(words, code, said.read())


def run(what: str, work: Path, name: str = "before") -> None:
    forked(PROGRAM, *argv(what, work, name)[4:]).check_returncode()


def calls(what: str, work: Path, name: str = "before") -> list[tuple[str, int]]:
    """(system call, its number) for each mutating call that the operation makes, start of the interpreter apart."""
    trace = work / "trace"
    subprocess.run(
        ["strace", "-f", "-o", str(trace), "-e", f"trace={','.join(CALLS)}", *argv(what, work, name)],
        check=True,
        capture_output=True,
    )
    counts: dict[str, int] = {}
    found = []
    for line in trace.read_text().splitlines():
        match = re.match(r"\d+ +(\w+)\(", line)
        if match:
            counts[match.group(1)] = counts.get(match.group(1), 0) + 1
            # Python asks of each file that it opens whether it is a terminal.
            if " TCGETS" not in line:
                found.append((match.group(1), counts[match.group(1)]))
    trace.unlink()
    return sorted(found, key=lambda one: (list(counts).index(one[0]), one[1]))


def killed(what: str, work: Path, call: str, number: int, name: str = "before") -> bool:
    """Run and kill before the call; False when the run ended before it."""
    inject = f"inject={call}:signal=KILL:when={number}"
    done = subprocess.run(
        ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject, *argv(what, work, name)],
        check=False,
        capture_output=True,
    )
    return done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)


def same(one: Path, other: Path) -> bool:
    judge = ["rsync", "-aHAXn", "-i", "--checksum", "--delete", f"{one}/", f"{other}/"]
    return subprocess.run(judge, check=True, capture_output=True, text=True).stdout == ""


def named(work: Path, name: str = "before") -> list[str]:
    """The ids of the checkpoints of that name."""
    ref = work / "store" / "refs" / name
    return ref.read_text().split() if ref.exists() else []


def store_is_whole(work: Path, besides: str = "") -> bool:
    """All named checkpoints verify, by sha256sum's own reckoning for the manifests; ``besides``: a damaged content."""
    store = work / "store"
    ids = {one for ref in (store / "refs").iterdir() if ".tmp-" not in ref.name for one in ref.read_text().split()}
    listing = "".join(f"{one}  {store}/manifests/{one}\n" for one in ids)
    if subprocess.run(
        ["sha256sum", "-c", "--quiet"], input=listing, text=True, capture_output=True, check=False
    ).returncode:
        return False
    code = (
        f"import sys; sys.path.insert(0, {str(collections_path())!r})\n"
        f"from {LIBRARY}._store.store import Store\nfrom {LIBRARY}._host.system import System\n"
        f"store = Store({str(store)!r}, System())\n"
        f"assert not any(set(store.verify(store.manifest(one))) - {{{besides!r}}} for one in {sorted(ids)!r})"
    )
    return forked(code).returncode == 0


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """``live`` (changed since), ``old`` (as it is), ``new`` (as the checkpoint has it), ``store``; as a master copy."""
    return prepare(tmp_path / "master")


def prepare(master: Path) -> Path:
    live = master / "live"
    (live / "kept" / "below").mkdir(parents=True)
    (live / "file").write_text("as recorded")
    (live / "kept" / "below" / "other").write_text("other")
    os.link(live / "file", live / "kept" / "hard")
    os.symlink("file", live / "link")
    (live / "turns").mkdir()
    (live / "turns" / "x").write_text("x")
    os.utime(live / "kept", ns=(5, 5))
    subprocess.run(["cp", "-a", live, master / "new"], check=True)
    run("checkpoint", master)
    (live / "file").write_text("changed")
    shutil.rmtree(live / "turns")
    (live / "turns").write_text("a file now")
    (live / "added").mkdir()
    (live / "added" / "y").write_text("y")
    os.unlink(live / "link")
    (live / "kept" / "below" / "other").chmod(0o600)
    subprocess.run(["cp", "-a", live, master / "old"], check=True)
    return master


def prepare_log(work: Path) -> None:
    """A snapshot and a record of a log of what is in ``was``, and ``live`` has changed since."""
    run("log", work)
    subprocess.run(["cp", "-a", work / "live", work / "was"], check=True)
    (work / "live" / "file").write_text("changed again")


def prepare_pruning(work: Path) -> None:
    """One checkpoint, of what is in ``was``, and of what the next one throws away, takes back from the trash and
    deletes there a bit each."""
    live = (work / "live").rename(work / "aside")
    for what in ("checkpoint", "prune"):
        (work / "live").mkdir(exist_ok=True)
        (work / "live" / "alone").write_text(what)
        run(what, work)
    (work / "live").rename(work / "was")
    live.rename(work / "live")
    (work / "live" / "link").symlink_to("file")
    (work / "live" / "file").write_text("as recorded")
    assert len(list((work / "store" / "trash" / "packs").iterdir())) == 4


def prepare_scrub(work: Path) -> str:
    """A byte of ``before`` is not what it was, in a pack that ``second``, of what is in ``old``, needs; its content."""
    run("checkpoint", work, "second")
    damaged = b"as recorded"
    (pack,) = [one for one in (work / "store" / "packs").glob("*.pack") if damaged in one.read_bytes()]
    pack.chmod(0o600)
    pack.write_bytes(pack.read_bytes().replace(damaged, b"as recordet"))
    pack.chmod(0o400)
    return hashlib.sha256(damaged).hexdigest()


def fresh(master: Path, to: Path) -> Path:
    """A copy at the same place each time: the checkpoint holds absolute paths."""
    shutil.rmtree(to, ignore_errors=True)
    subprocess.run(["cp", "-a", master, to], check=True)
    return to


def begin(master: Path, tmp_path: Path) -> Path:
    """A copy for all runs to begin with. The one that is counted does so too: a store on a copy has other times."""
    saved = fresh(master, tmp_path / "saved")
    fresh(saved, master)
    return saved


def points(found: list[tuple[str, int]], every: int = 8) -> list[tuple[str, int]]:
    """All of them in the long run (EVENKEEL_CRASH=all); otherwise one in so many, renames, links, the last of each."""
    if LONG:
        return found
    last = dict(found).items()
    return [
        one for at, one in enumerate(found) if at % every == 0 or one[0].startswith(("rename", "link")) or one in last
    ]


@pytest.mark.parametrize("what", ["rollback", "swap"])
def test_kill_at_every_syscall_of_a_rollback_leaves_old_or_new(work: Path, tmp_path: Path, what: str) -> None:
    saved = begin(work, tmp_path)
    found = calls(what, work)
    ends = {"old": 0, "new": 0}
    assert len(found) > 60
    for call, number in points(found, 16 if what == "swap" else 8):
        fresh(saved, work)
        assert killed(what, work, call, number), (call, number)
        if what == "swap":
            # Not only once it is finished: the directory is never half of anything.
            assert same(work / "old", work / "live") != same(work / "new", work / "live"), (call, number)
        run("finish", work)
        old, new = same(work / "old", work / "live"), same(work / "new", work / "live")
        assert old != new, f"killed before {call} number {number}: neither old nor new"
        ends["old" if old else "new"] += 1
        assert store_is_whole(work), (call, number)
        assert not list((work / "store").glob("journal/*")), (call, number)
        assert not leftovers(work.parent), (call, number)
    assert ends["old"] > 3 and ends["new"] > 3, ends


def test_kill_at_every_syscall_of_a_rollback_to_be_confirmed_ends_as_before_it(work: Path, tmp_path: Path) -> None:
    saved = begin(work, tmp_path)
    found = calls("guarded", work)
    if not LONG:
        found = found[::10]
    assert same(work / "new", work / "live") and (work / "store" / "armed").exists()
    armed = set()
    for call, number in found:
        fresh(saved, work)
        assert killed("guarded", work, call, number), (call, number)
        armed.add((work / "store" / "armed").exists())
        run("boot", work)
        assert same(work / "old", work / "live"), f"killed before {call} number {number}: not as before the rollback"
        assert store_is_whole(work), (call, number)
        assert not (work / "store" / "armed").exists() and not list((work / "store").glob("journal/*"))
    assert armed == {False, True}


def test_kill_at_every_syscall_of_a_checkpoint_leaves_the_old_or_the_new_set(work: Path, tmp_path: Path) -> None:
    saved = begin(work, tmp_path)
    found = calls("checkpoint", work, "second")
    seen = set()
    for call, number in points(found):
        fresh(saved, work)
        assert killed("checkpoint", work, call, number, "second"), (call, number)
        assert store_is_whole(work), (call, number)
        names = {one.name for one in (work / "store" / "refs").iterdir() if ".tmp-" not in one.name}
        assert names in ({"before"}, {"before", "second"}), (call, number)
        seen.add(len(names))
        run("checkpoint", work, "second")
        assert store_is_whole(work), (call, number)
        assert not list((work / "store" / "tmp").iterdir())
    assert seen == {1, 2}


def test_kill_at_every_syscall_of_a_record_leaves_the_log_whole(work: Path, tmp_path: Path) -> None:
    prepare_log(work)
    saved = begin(work, tmp_path)
    before = named(work)
    found = calls("log", work)
    seen = set()
    for call, number in points(found):
        fresh(saved, work)
        assert killed("log", work, call, number), (call, number)
        assert store_is_whole(work), (call, number)
        ids = named(work)
        assert ids[:2] == before and len(ids) <= 3, (call, number)
        seen.add(len(ids))
        run("log", work)
        assert store_is_whole(work), (call, number)
        ids = named(work)
        kinds = [(work / "store" / "manifests" / one).read_text().split("\n")[3] for one in ids]
        assert ids[:2] == before and kinds == ["kind snapshot", "kind log", "kind log"], (call, number)
    assert seen == {2, 3}


def test_kill_at_every_syscall_of_pruning_keeps_what_is_named(work: Path, tmp_path: Path) -> None:
    prepare_pruning(work)
    saved = begin(work, tmp_path)
    found = calls("prune", work)
    seen = set()
    for call, number in points(found):
        fresh(saved, work)
        (first,) = named(work)
        assert killed("prune", work, call, number), (call, number)
        assert store_is_whole(work), (call, number)
        ids = named(work)
        seen.add((first in ids, len(ids)))
        run("prune", work)
        assert store_is_whole(work), (call, number)
        (last,) = named(work)
        assert last != first
        assert not list((work / "store" / "tmp").iterdir())
    assert seen == {(True, 1), (True, 2), (False, 1)}


@pytest.mark.parametrize("what", ["rollback", "swap", "checkpoint", "log", "prune"])
def test_kill_at_every_syscall_of_the_recovery_is_mended_by_the_next(work: Path, tmp_path: Path, what: str) -> None:
    prepare_more = {"log": prepare_log, "prune": prepare_pruning}.get(what)
    if prepare_more:
        prepare_more(work)
    name = "second" if what == "checkpoint" else "before"
    then = "finish" if what in ("rollback", "swap") else what
    saved = begin(work, tmp_path)
    before = named(work, name)
    ends = set()
    starts = [one for one in calls(what, work, name) if one[0].startswith("rename")]
    for start in starts[:: -3 if LONG else -5]:
        fresh(saved, work)
        assert killed(what, work, *start, name), start
        found = calls(then, work, name)
        old = same(work / "old", work / "live")
        ends.add(old)
        for call, number in found if LONG else found[::20]:
            where = (start, call, number)
            fresh(saved, work)
            assert killed(what, work, *start, name) and killed(then, work, call, number, name), where
            assert store_is_whole(work), where
            run(then, work, name)
            assert store_is_whole(work), where
            if then == "finish":
                # What was decided at the first kill is what comes of it.
                assert same(work / ("old" if old else "new"), work / "live"), where
                assert not list((work / "store").glob("journal/*")), where
                assert not leftovers(work.parent), where
            else:
                ids = named(work, name)
                assert len(set(ids) - set(before)) == 1 and ids[-1] not in before, where
                assert ids == ids[-1:] or (what == "log" and ids[:-1] == before), where
                assert not list((work / "store" / "tmp").iterdir()), where
    assert ends == {True, False} or then != "finish"
