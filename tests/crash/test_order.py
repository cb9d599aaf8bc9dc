# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is synced before what: the order that a power cut cannot undo, read off the system calls themselves.

A kill cannot tell a missing fsync, because the kernel's cache survives it. The order can: data before its rename, the
rename before what counts on it.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from .test_kill import argv, run, work

__all__ = ["work"]

# mutating names, and syncs with the path of their descriptor
_CALL = re.compile(
    r"\d+ +(?P<call>rename|renameat|renameat2|unlink|unlinkat|fsync|syncfs)\((?P<args>.*)\) += (?P<result>-?\d+)"
)


@dataclass(frozen=True)
class Call:
    name: str
    paths: list[str]


def trace(what: str, where: Path, name: str = "before") -> list[Call]:
    out = where / "trace"
    calls = "rename,renameat,renameat2,unlink,unlinkat,fsync,syncfs"
    subprocess.run(
        ["strace", "-f", "-y", "-s", "300", "-o", str(out), "-e", f"trace={calls}", *argv(what, where, name)],
        check=True,
        capture_output=True,
    )
    found = []
    for line in out.read_text().splitlines():
        match = _CALL.match(line)
        if match and match["result"] == "0":
            found.append(Call(match["call"], _paths(match["call"], match["args"])))
    return found


def _paths(call: str, args: str) -> list[str]:
    """Absolute paths of the arguments, descriptors resolved."""
    if call in ("fsync", "syncfs"):
        return re.findall(r"\d+<([^>]*)>", args)
    if call in ("rename", "unlink"):
        return re.findall(r'"([^"]*)"', args)
    return [f"{folder.rstrip('/')}/{name}" for folder, name in re.findall(r'<([^>]*)>, "([^"]*)"', args)]


def first(calls: list[Call], name: str, ending: str, start: int = 0) -> int:
    """Position of the first call of that name with a path that matches; fails when there is none."""
    for at in range(start, len(calls)):
        if calls[at].name.startswith(name) and any(re.search(ending, path) for path in calls[at].paths):
            return at
    raise AssertionError(f"no {name} of {ending} after call {start}")


def test_a_checkpoint_is_durable_before_it_is_visible(work: Path) -> None:
    calls = trace("checkpoint", work, "second")
    pack = first(calls, "rename", r"packs/[0-9a-f]{64}\.pack$")
    (temporary,) = [path for path in calls[pack].paths if "/tmp/" in path and "new-" in path]
    assert first(calls, "fsync", re.escape(temporary) + "$") < pack
    folder = first(calls, "fsync", r"/packs$", pack)
    manifest = first(calls, "rename", r"manifests/[0-9a-f]{64}$", folder)
    assert first(calls, "fsync", r"manifests/[0-9a-f]{64}\.tmp-") < manifest
    named = first(calls, "fsync", r"/manifests$", manifest)
    ref = first(calls, "rename", r"refs/second$", named)
    assert first(calls, "fsync", r"refs/second\.tmp-") < ref
    assert first(calls, "fsync", r"/refs$", ref) > ref


def test_what_is_taken_back_from_the_trash_is_there_before_it_is_named(work: Path) -> None:
    aside = (work / "live").rename(work / "aside")
    (work / "live").mkdir()
    run("prune", work)
    (work / "live").rmdir()
    aside.rename(work / "live")
    (trashed,) = (work / "store" / "trash" / "packs").glob("*.pack")
    calls = trace("checkpoint", work, "second")
    back = first(calls, "rename", rf"store/packs/{trashed.name}$")
    assert calls[back].paths[0] == str(trashed)
    named = first(calls, "rename", r"manifests/[0-9a-f]{64}$", first(calls, "fsync", r"store/packs$", back))
    assert first(calls, "rename", r"refs/second$", named) > named


def test_what_is_forgotten_loses_its_name_before_its_contents(work: Path) -> None:
    (work / "live").rename(work / "aside")
    (work / "live").mkdir()
    calls = trace("prune", work)
    forgotten = first(calls, "rename", r"refs/before$", first(calls, "rename", r"refs/before$") + 1)
    synced = first(calls, "fsync", r"/refs$", forgotten)
    for kind in ("manifests/[0-9a-f]{64}", r"packs/[0-9a-f]{64}\.pack"):
        thrown = first(calls, "rename", rf"trash/{kind}$")
        assert synced < thrown < first(calls, "fsync", rf"trash/{kind.split('/')[0]}$", thrown)


def test_a_rollback_is_staged_before_it_commits_and_synced_before_it_is_done(work: Path) -> None:
    live = re.escape(str(work / "live"))
    calls = trace("rollback", work)
    commit = first(calls, "rename", r"/COMMIT$")
    plan = first(calls, "rename", r"journal/[^/]*/plan$")
    assert first(calls, "syncfs", r"\.evenkeel-") < plan < commit
    assert first(calls, "fsync", r"journal/[^/]*/plan\.tmp-") < plan
    committed = first(calls, "fsync", r"journal/[^/]*$", commit)
    moves = [
        at for at, one in enumerate(calls) if one.name.startswith("rename") and re.search(live + "/", one.paths[-1])
    ]
    assert moves and committed < moves[0]
    done = first(calls, "unlink", r"/COMMIT$")
    for folder in ("live", "live/kept"):
        assert moves[-1] < first(calls, "fsync", re.escape(str(work / folder)) + "$", moves[-1]) < done
    forgotten = first(calls, "fsync", r"journal/[^/]*$", done)
    assert forgotten < first(calls, "unlink", r"\.evenkeel-[^/]*/", done)


# -- the same by a model of what a power cut may take away, and every sync left out of it in turn

_ANY = re.compile(r"\d+ +(?P<call>\w+)\((?P<args>.*)\) += (?P<result>\d+)(?:<(?P<opened>[^>]*)>)?")
_CONTENT = ("write", "pwrite64", "ftruncate", "copy_file_range", "fsetxattr", "fchmod", "fchown", "utimensat")
_NAMES = ("rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir")
# Hints, the lock and what is being written: nothing is lost with them.
_HINT = re.compile(r"/store/(lock|tmp|cache.*|tmp/cache-.*|packs/[^/]*\.idx(\.tmp)?)$")


def everything(what: str, where: Path, name: str) -> list[Call]:
    """All that is made, changed, renamed, removed and synced, as ``make``, ``change`` and the calls' own names."""
    out = where / "trace"
    wanted = ",".join((*_CONTENT, *_NAMES, "openat", "fsync", "syncfs"))
    subprocess.run(
        ["strace", "-f", "-y", "-s", "300", "-o", str(out), "-e", f"trace={wanted}", *argv(what, where, name)],
        check=True,
        capture_output=True,
    )
    found = []
    for match in filter(None, map(_ANY.match, out.read_text().splitlines())):
        call, args = match["call"], match["args"]
        if call == "openat":
            if "O_CREAT" in args:
                found.append(Call("make", [match["opened"]]))
        elif call in _CONTENT:
            folder = re.match(r"\d+<([^>]*)>", args)
            below = re.match(r'\d+<[^>]*>, "([^"]*)"', args) if call == "utimensat" else None
            if folder and folder[1].startswith("/"):
                found.append(Call("change", [f"{folder[1]}/{below[1]}" if below else folder[1]]))
        elif call in ("mkdir", "rmdir"):
            found.append(Call(call, re.findall(r'"([^"]*)"', args)))
        else:
            found.append(Call(call, _paths(call, args)))
    return found


def too_early(calls: list[Call], store: str) -> list[str]:
    """What is done, or left at the end, before that on which it counts is synced.

    A file is written out before it is renamed, and in ``tmp`` nothing counts before that. In the store a name is synced
    before one in another directory changes, new names before old ones are put aside, and all is before a checkpoint
    gets its name and before a rollback commits, or forgets that it did. A staging directory is known durably before it
    is made, and which one it is before something is in it; it is durably gone before it is forgotten. The file system
    that holds the store counts as another one than that of the files.
    """
    dirty: set[str] = set()
    gained: set[str] = set()
    wrong: list[str] = []

    def demand(what: str, left: set[str]) -> None:
        wrong.extend(f"{what}, and {path} is not synced" for path in sorted(left))

    def of_store() -> set[str]:
        return {path for path in dirty if path.startswith(store) and not path.startswith(f"{store}/tmp/")}

    for call in calls:
        one, other = call.paths[0], call.paths[-1]
        if call.name == "fsync":
            dirty.discard(one)
        elif call.name == "syncfs":
            dirty = {path for path in dirty if path.startswith(store)}
        elif not _HINT.search(other):
            folders = {str(Path(path).parent) for path in call.paths}
            if call.name in ("make", "change"):
                if call.name == "make" and "/.evenkeel-" in one:
                    demand(f"{one} is made", of_store())
                dirty.add(one)
                continue
            if call.name.startswith("rename"):
                if one in dirty and one.startswith(store):
                    wrong.append(f"{one} is renamed, and was not written out")
                if re.search(r"/(trash|quarantine)/", other):
                    demand(f"{one} is put aside", {path for path in gained & dirty if path not in other})
                if re.search(r"store/(refs|manifests)/[^/]*$|/COMMIT$", other):
                    demand(f"{other} gets its name", dirty)
                elif other.startswith(store):
                    demand(f"{other} gets its name", of_store() - folders)
                gained.add(str(Path(other).parent))
            elif call.name.startswith("mkdir"):
                if Path(one).name.startswith(".evenkeel-"):
                    demand(f"{one} is made", of_store())
                gained |= folders
            elif "/.evenkeel-" in one:
                demand(f"{one} is removed", of_store())
            elif one.endswith("/COMMIT"):
                # What is still in a staging directory goes with it, and the journal knows it until after that.
                demand(f"{one} is removed", {path for path in dirty if "/.evenkeel-" not in path})
            elif "/journal/" in one:
                demand(f"{one} is removed", dirty - folders - {one})
            if not call.name.startswith("mkdir"):
                dirty = {path for path in dirty if not (path + "/").startswith(one + "/")}
            dirty |= folders - {path for path in folders if _HINT.search(path)}
            gained &= dirty
    demand("it ends", dirty)
    return wrong


def ready(what: str, work: Path) -> str:
    """Make of the tree what the operation needs; the name that it is for."""
    if what in ("prune", "log"):
        (work / "live" / "another").write_bytes(b"x" * 100_000)
        run("checkpoint", work)
        (work / "live" / "another").unlink()
    if what == "scrub":
        (pack,) = (work / "store" / "packs").glob("*.pack")
        pack.chmod(0o600)
        pack.write_bytes(pack.read_bytes().replace(b"as recorded", b"As recorded"))
    return "second" if what == "checkpoint" else "before"


@pytest.mark.parametrize("what", ["checkpoint", "log", "prune", "rollback", "swap", "scrub"])
def test_no_sync_can_be_left_out(work: Path, what: str) -> None:
    calls = everything(what, work, ready(what, work))
    store = str(work / "store")
    assert too_early(calls, store) == []
    syncs = [at for at, call in enumerate(calls) if call.name in ("fsync", "syncfs")]
    unnoticed = [at for at in syncs if not too_early(calls[:at] + calls[at + 1 :], store)]
    assert unnoticed == [] and len(syncs) > 5
