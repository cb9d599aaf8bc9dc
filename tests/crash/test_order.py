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
    return [f"{folder}/{name}" for folder, name in re.findall(r'<([^>]*)>, "([^"]*)"', args)]


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


def test_the_judge_sees_a_missing_sync(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("checkpoint", work, "other")
    calls = [one for one in trace("rollback", work) if one.name != "syncfs"]
    with pytest.raises(AssertionError, match="no syncfs"):
        first(calls, "syncfs", r"\.evenkeel-")
