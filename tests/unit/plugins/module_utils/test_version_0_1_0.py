# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A store that version 0.1.0 wrote, and a host that it armed, in the hands of the present code.

The old code itself writes the stores: it is kept in ``tests/unit/data`` and runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import changes
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Refused, Unhealthy
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.flow import finish
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import process
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, info, rollback, scrub, settle

from .conftest import SYSTEM, copy_of, differences
from .fake_systemd import Machine, Unit, machine

DATA = Path(__file__).parents[2] / "data"
# Runs one expression with the old library, without systemd, and prints what it comes to.
RUN = """
import json, os, signal, sys
from dataclasses import replace
from importlib import import_module
sys.path.insert(0, sys.argv[1])
# All of it is loaded, so that the old agent, which packs what is loaded, holds all of it.
names = ("_agent", "_checkpoint", "_deadman", "_info", "_replica", "_restart", "_rollback", "_settle", "_system")
loaded = {name[1:]: import_module("module_utils." + name) for name in names}
store = import_module("module_utils._store.store").Store(
    sys.argv[2], replace(loaded["system"].System(), has_systemd=lambda: False)
)

def kill_at(number):
    calls = iter(range(number))
    rename = os.rename
    def counted(*words, **options):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(*words, **options)
    os.rename = counted

print(json.dumps(eval(sys.argv[3], {**loaded, "store": store, "kill_at": kill_at})))
"""
Old = Callable[[str], Any]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("version-0.1.0")
    with zipfile.ZipFile(DATA / "module_utils-0.1.0.zip") as archive:
        archive.extractall(place)
    return place / "plugins"


def evaluate(library: Path, store: Store, expression: str) -> Any:
    """What version 0.1.0 makes of an expression on the store; None where it was killed."""
    argv = [sys.executable, "-c", RUN, str(library), store.root, expression]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def old(library: Path, store: Store) -> Old:
    return partial(evaluate, library, store)


def declared(*trees: Path) -> list[dict[str, Any]]:
    return [{"files": {"paths": [str(tree) for tree in trees]}}]


def take(name: str, *trees: Path, **options: Any) -> str:
    return f"checkpoint.checkpoint(store, {name!r}, {declared(*trees)!r}, **{options!r})"


def test_its_checkpoints_are_listed_and_rolled_back_to(old: Old, store: Store, tree: Path) -> None:
    first, before = old(take("daily", tree)), copy_of(tree)
    (tree / "a").write_text("second")
    (tree / "sub" / "large").unlink()
    (tree / "added").mkdir()
    old(take("daily", tree))

    assert [one["id"] for one in info(store)["checkpoints"]] == store.refs()["daily"]
    back = rollback(store, first["id"])
    assert back["changed"] and back["left"] == []
    assert differences(before, tree) == ""
    rollback(store, back["undo"])
    assert (tree / "a").read_text() == "second" and (tree / "added").is_dir()
    assert scrub(store)["damaged"] == []


def test_the_undo_that_it_left_is_taken(old: Old, store: Store, tree: Path) -> None:
    first = old(take("daily", tree))
    (tree / "a").write_text("second")
    second = copy_of(tree)
    old(f"rollback.rollback(store, {first['id']!r})")
    assert (tree / "a").read_text() == "first"
    rollback(store, "undo")
    assert differences(second, tree) == ""


def test_its_checkpoints_are_pruned_and_nothing_that_is_needed_with_them(old: Old, store: Store, tree: Path) -> None:
    first = old(take("daily", tree))
    kept, other = old(take("other", tree / "sub")), copy_of(tree / "sub")
    for text in ("second", "third"):
        (tree / "a").write_text(text)
        old(take("daily", tree))

    (tree / "a").write_text("fourth")
    result = checkpoint(store, "daily", declared(tree), retention={"last": 1, "grace": 0})
    assert store.refs() == {"daily": [result["id"]], "other": [kept["id"]]}
    checkpoint(store, "daily", declared(tree), retention={"last": 1, "grace": 0})  # Empties the trash.
    assert not [path for path in Path(store.root).rglob("*") if path.name == first["id"]]
    assert scrub(store)["complete"] and scrub(store)["damaged"] == []
    (tree / "sub" / "small").unlink()
    rollback(store, "other")
    assert differences(other, tree / "sub") == ""


def test_a_log_builds_on_none_of_its_checkpoints_but_begins_anew(old: Old, store: Store, tree: Path) -> None:
    """The state may hold what 0.1.0 did not record, so that whatever follows can be gone back to by itself."""
    old(take("daily", tree))
    (tree / "a").write_text("second")
    before = copy_of(tree)
    taken = checkpoint(store, "daily", declared(tree), kind="log")
    (tree / "a").write_text("third")
    rollback(store, taken["id"])
    assert differences(before, tree) == ""


def test_a_rollback_in_which_it_was_killed_ends_whole(library: Path, tmp_path: Path) -> None:
    """Killed at each of its renames in turn: those of the journal, of the undo, and of the paths."""
    seen = set()
    for number in range(30):
        place = tmp_path / str(number)
        live = place / "live"
        live.mkdir(parents=True)
        store = Store(str(place / "store"), SYSTEM)
        for name in "abc":
            (live / name).write_text("before")
        first, before = evaluate(library, store, take("daily", live)), copy_of(live)
        for name in "abc":
            (live / name).write_text("after")
        subprocess.run(["cp", "-a", live, place / "after"], check=True)

        ended = evaluate(library, store, f"(kill_at({number}), rollback.rollback(store, {first['id']!r}))")
        committed = bool(list(Path(store.root).glob("journal/*/COMMIT")))
        with store.locked():
            finish(store)
        assert differences(before if committed or ended is not None else place / "after", live) == "", number
        assert not list(Path(store.root).glob("journal/*")) and not list(live.glob(".evenkeel-*")), number
        assert scrub(store)["damaged"] == [], number
        if ended is not None:
            break
        seen.add(committed)
    assert ended is not None and seen == {True, False}


@pytest.fixture
def live(tmp_path: Path) -> Path:
    path = tmp_path / "live"
    path.mkdir()
    (path / "file").write_text("before")
    return path


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A systemd that answers both versions: the old library only asks it for states when it takes a checkpoint."""
    found = machine(
        Unit("web.service"),
        Unit("off.service", enabled="disabled", active="inactive", sub="dead", identity=""),
        Unit("gone.service", file=False, enabled="", active="inactive", sub="dead", identity=""),
    )
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    shown = {name: found.show(name) for name in found.units}
    text = f"print(*({shown!r}[name] for name in sys.argv[sys.argv.index('--') + 1 :]), sep='\\n')"
    program.write_text(f"#!{sys.executable}\nimport sys\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return found


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[process.Definition]:
    """A process with a pid file, which version 0.1.0 records as well."""
    argv, pidfile = ["/bin/sleep", "1000"], str(tmp_path / "worker.pid")
    definition = process.check({"name": "worker", "argv": argv, "pidfile": pidfile})
    yield definition
    process.act("stop", definition, SYSTEM)


def with_services(live: Path, worker: process.Definition) -> list[dict[str, Any]]:
    plain = {key: worker[key] for key in ("name", "argv", "pidfile")}
    services = {"names": ["web", "off", "gone"], "processes": [plain]}
    return [*declared(live), {"services": services}]


def on(store: Store, units: Machine) -> Store:
    return Store(store.root, replace(store.system, run=units.run, command=units.run))


def change_all(units: Machine, worker: process.Definition) -> None:
    """The change stops and disables one unit, starts and enables another, brings a third, and ends the process."""
    units.units["web.service"] = Unit("web.service", enabled="disabled", active="inactive", sub="dead", identity="")
    units.units["off.service"] = Unit("off.service")
    units.units["gone.service"] = Unit("gone.service")
    process.act("stop", worker, SYSTEM)


def states(units: Machine) -> dict[str, tuple[str, str]]:
    return {name: (unit.enabled, unit.active) for name, unit in units.units.items()}


BEFORE = {
    "web.service": ("enabled", "active"),
    "off.service": ("disabled", "inactive"),
    "gone.service": ("disabled", "inactive"),  # Its file was no declared path, and stays.
}


def test_its_services_are_rolled_back_to(
    old: Old, store: Store, live: Path, units: Machine, worker: process.Definition
) -> None:
    process.act("start", worker, SYSTEM)
    taken = old(f"checkpoint.checkpoint(store, 'daily', {with_services(live, worker)!r})")
    manifest = store.manifest(taken["id"])
    assert [section.kind for section in manifest.sections] == ["files", "services"]
    (live / "file").write_text("after")
    change_all(units, worker)

    host = on(store, units)
    back = rollback(host, taken["id"])
    assert back["left"] == [] and (live / "file").read_text() == "before"
    assert states(units) == BEFORE and process.observe(worker, SYSTEM).active
    assert not rollback(host, taken["id"])["changed"] and scrub(host)["damaged"] == []


def test_a_further_checkpoint_of_its_services_is_taken_and_its_own_is_pruned(
    old: Old, store: Store, live: Path, units: Machine, worker: process.Definition
) -> None:
    resources = with_services(live, worker)
    first = old(f"checkpoint.checkpoint(store, 'daily', {resources!r})")
    (live / "file").write_text("after")
    result = checkpoint(on(store, units), "daily", resources, retention={"last": 1, "grace": 0})
    assert store.refs() == {"daily": [result["id"]]} and result["id"] != first["id"]
    assert scrub(store)["complete"] and scrub(store)["damaged"] == []


@pytest.mark.parametrize("by", ["settle", "boot"])
def test_a_host_with_services_that_it_armed_goes_back(
    old: Old, store: Store, live: Path, units: Machine, worker: process.Definition, by: str
) -> None:
    process.act("start", worker, SYSTEM)
    resources = with_services(live, worker)
    number = int(old(f"checkpoint.checkpoint(store, 'change', {resources!r}, confirm_within=60.0)")["generation"])
    (live / "file").write_text("after")
    change_all(units, worker)
    host = on(store, units)
    if by == "settle":
        with pytest.raises(Unhealthy, match="rolled back to change"):
            settle(host, number, [], 0.0, 10.0, 0.1, verdict="roll_back")
    else:
        booted = Store(host.root, replace(host.system, boot_id=lambda: "another"))
        with booted.locked():
            finish(booted, boot=True)
    assert (live / "file").read_text() == "before"
    enabled = {name: enabled for name, (enabled, _active) in states(units).items()}
    assert enabled == {name: enabled for name, (enabled, _active) in BEFORE.items()}
    if by == "settle":
        assert states(units) == BEFORE
    else:  # At boot jobs are queued, and nothing waits for them.
        queued = [call for call in units.acts() if "--no-block" in call]
        assert [call.split("--no-block ")[1] for call in queued] == [
            *("stop -- gone.service", "stop -- off.service", "start -- web.service")
        ]
    assert process.observe(worker, SYSTEM).active
    last = info(store)["last"]
    assert (last["outcome"], last["by"], last["left"]) == ("rolled_back", by, [])
    assert wait_until(lambda: not watchers(store)), "the old watcher did not see the end"


def test_a_host_with_services_that_it_armed_is_confirmed(
    old: Old, store: Store, live: Path, units: Machine, worker: process.Definition
) -> None:
    resources = with_services(live, worker)
    number = int(old(f"checkpoint.checkpoint(store, 'change', {resources!r}, confirm_within=60.0)")["generation"])
    change_all(units, worker)
    changed = states(units)
    assert settle(on(store, units), number, [], 0.0, 10.0, 0.1)["outcome"] == "confirmed" and states(units) == changed


def begin(old: Old, live: Path, within: float = 60.0) -> int:
    begun = old(take("change", live, confirm_within=within))
    (live / "file").write_text("after")
    return int(begun["generation"])


def watchers(store: Store) -> list[Path]:
    """The processes that wait for the deadline of this store."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if store.root.encode() in words and b"watch" in words:
            found.append(folder)
    return found


def wait_until(holds: Callable[[], bool], seconds: float = 15.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.1)
    return holds()


def test_a_host_that_it_armed_is_confirmed(old: Old, store: Store, live: Path) -> None:
    number = begin(old, live)
    assert watchers(store)
    state = info(store)
    assert (state["armed"]["generation"], state["armed"]["name"], state["doubt"]) == (number, "change", None)
    result = settle(store, number, [], 0.0, 10.0, 0.1)
    assert result["outcome"] == "confirmed" and (live / "file").read_text() == "after"
    assert wait_until(lambda: not watchers(store)), "the old watcher did not see the end"
    assert info(store)["armed"] is None


def test_a_host_that_it_armed_is_rolled_back(old: Old, store: Store, live: Path) -> None:
    number = begin(old, live)
    with pytest.raises(Unhealthy, match="rolled back to change"):
        settle(store, number, [], 0.0, 10.0, 0.1, verdict="roll_back")
    assert (live / "file").read_text() == "before"
    last = info(store)["last"]
    assert (last["outcome"], last["by"], last["left"]) == ("rolled_back", "settle", [])
    assert wait_until(lambda: not watchers(store)), "the old watcher did not see the end"


def test_a_host_that_it_armed_is_ended_by_an_operator(old: Old, store: Store, live: Path) -> None:
    begin(old, live)
    with pytest.raises(Refused, match="another change is under way"):
        checkpoint(store, "next", declared(live), confirm_within=60.0)
    rollback(store, "change")
    assert (live / "file").read_text() == "before"
    following = checkpoint(store, "next", declared(live), confirm_within=60.0)
    assert following["generation"] == 2
    settle(store, 2, [], 0.0, 10.0, 0.1)


def test_a_host_that_it_armed_goes_back_at_the_boot(old: Old, store: Store, live: Path) -> None:
    begin(old, live)
    booted = Store(store.root, replace(store.system, boot_id=lambda: "another"))
    with booted.locked():
        finish(booted, boot=True)
    assert (live / "file").read_text() == "before"
    assert info(store)["last"]["by"] == "boot"


def test_its_own_agent_puts_the_host_back_and_the_present_code_says_so(old: Old, store: Store, live: Path) -> None:
    number = begin(old, live, within=2.0)
    assert wait_until(lambda: changes.last_event(store) is not None)
    assert (live / "file").read_text() == "before"
    with pytest.raises(Unhealthy, match="put itself back already, by deadline"):
        settle(store, number, [], 0.0, 10.0, 0.1)
