# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to stand still does while files are read or put back, and goes on afterwards, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    NotFound,
    RestoreFailed,
    ServiceFailed,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import staging, transaction
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry, sysctl
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.quiescing import Quiesced
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback

from evenkeel.collection import collections_path

from .fake_systemd import Machine, Unit, machine


def files(tree: Path) -> list[dict[str, Any]]:
    return [{"files": {"paths": [str(tree)]}}]


def shell(begin: str, after: str) -> dict[str, Any]:
    return {"command": {"argv": ["sh", "-c", begin], "after": ["sh", "-c", after]}}


def test_files_are_read_while_it_stands_still(store: Store, tree: Path) -> None:
    hooks = [
        shell(f"echo first >> {tree}/order; sleep 0.2", f"echo first ends >> {tree}/order"),
        shell(f"echo second >> {tree}/order", f"echo second ends >> {tree}/order"),
    ]
    result = checkpoint(store, "before", files(tree), quiesce=hooks)
    assert result["consistency"] == "quiesced" and 0.2 < result["stats"]["pause"] <= result["stats"]["seconds"]
    assert (tree / "order").read_text() == "first\nsecond\nsecond ends\nfirst ends\n"
    rollback(store, "before")
    assert (tree / "order").read_text() == "first\nsecond\n"


def test_what_lets_go_is_no_word_of_a_process_while_it_is_held(store: Store, tree: Path, tmp_path: Path) -> None:
    """Everybody on the host can read the words of all processes."""
    seen = tmp_path / "seen"
    look = f"sleep 0.2; cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' >{seen}"
    hooks = [{"command": {"argv": ["sh", "-c", look], "after": ["touch", f"{tmp_path}/let-go-s3cret"]}}]
    checkpoint(store, "before", files(tree), quiesce=hooks)
    assert str(seen) in seen.read_text() and "let-go-s3cret" not in seen.read_text()
    assert (tmp_path / "let-go-s3cret").exists()


def test_without_hooks_it_is_as_a_power_cut_would_leave_it(store: Store, tree: Path) -> None:
    result = checkpoint(store, "before", files(tree))
    assert result["consistency"] == "crash" and result["stats"]["pause"] == 0


def test_check_mode_holds_nothing(store: Store, tree: Path) -> None:
    checkpoint(store, "before", files(tree), check_mode=True, quiesce=[shell(f"touch {tree}/held", "true")])
    assert not (tree / "held").exists()


def test_what_cannot_be_held_is_let_go_and_nothing_is_recorded(store: Store, tree: Path) -> None:
    hooks = [shell("true", f"touch {tree}/first"), shell("echo is busy >&2; exit 4", f"touch {tree}/second")]
    with pytest.raises(ServiceFailed, match=r"^quiesce sh: is busy; no checkpoint was taken$"):
        checkpoint(store, "before", files(tree), quiesce=hooks)
    assert (tree / "first").exists() and (tree / "second").exists()
    with pytest.raises(NotFound):
        rollback(store, "before")


def test_what_does_not_go_on_is_an_error(store: Store, tree: Path) -> None:
    with pytest.raises(ServiceFailed, match=r"do not run again: quiesce sh: stuck$"):
        checkpoint(store, "before", files(tree), quiesce=[shell("true", "echo stuck >&2; exit 3")])


@pytest.mark.parametrize("thaws", [True, False])
def test_a_frozen_unit_is_thawed_and_proved_to_be(thaws: bool) -> None:
    # Containers cannot freeze their units, so that systemd is played here.
    said: list[str] = []

    def systemctl(argv: Sequence[str], _timeout: float) -> Completed:
        frozen = "freeze" in said and not (thaws and "thaw" in said)
        if argv[1] != "show":
            said.append(argv[1])
            out = ""
        elif "FreezerState" in argv[2]:
            out = "frozen" if frozen else "running"
        else:
            out = "LoadState=loaded\nActiveState=active\nSubState=running\nInvocationID=1\n"
        return Completed(tuple(argv), 0, out, "")

    still = Quiesced([{"freeze": "nginx"}], replace(System(), run=systemctl))
    stuck = pytest.raises(ServiceFailed, match=r"do not run again: nginx.service is frozen")
    with nullcontext() if thaws else stuck, still:
        assert said == ["freeze"]
    assert said == ["freeze", "thaw"] and still.seconds > 0


def family() -> Machine:
    """Two that require a database, one of them by way of the other; and one that would, but does not run."""
    return machine(
        Unit("db.service", takes=("web.service", "idle.service", "proxy.service")),
        Unit("idle.service", active="inactive", sub="dead", takes=("late.service",)),
        Unit("web.service", takes=("proxy.service",)),
        Unit("proxy.service"),
        Unit("late.service", takes=("db.service",)),
    )


@pytest.mark.parametrize("hooks", [["db"], ["db", "web"], ["proxy", "db"]])
def test_what_a_stop_takes_along_runs_again(hooks: list[str]) -> None:
    host = family()
    with Quiesced([{"stop": name} for name in hooks], host.system()):
        assert {unit.active for unit in host.units.values()} == {"inactive"}
        stops = host.acts()
    down = ["proxy", "web", "late", "db"]
    assert stops == [f"systemctl stop -- {name}.service" for name in down]
    assert host.acts()[4:] == [f"systemctl start -- {name}.service" for name in reversed(down)]
    assert [name for name, unit in host.units.items() if unit.active != "active"] == ["idle.service"]


def test_a_target_that_requires_it_is_left_alone() -> None:
    """Its start would start all that somebody has stopped on purpose."""
    host = machine(Unit("db.service", takes=("multi-user.target",)), Unit("multi-user.target"))
    with Quiesced([{"stop": "db"}], host.system()):
        pass
    assert host.acts() == ["systemctl stop -- db.service", "systemctl start -- db.service"]


def test_what_was_taken_along_and_does_not_run_again_is_an_error() -> None:
    host = family()
    host.units["proxy.service"].deaf = ("start",)
    stuck = pytest.raises(ServiceFailed, match=r"do not run again: proxy.service is inactive")
    with stuck, Quiesced([{"stop": "db"}], host.system()):
        pass


def test_nothing_is_stopped_when_systemd_does_not_tell_what_goes_with_it() -> None:
    host = family()
    systemd = host.system()

    def run(argv: Sequence[str], timeout: float) -> Completed:
        silent = any(word.startswith("--property=RequiredBy") for word in argv)
        return Completed(tuple(argv), 1, "", "no bus") if silent else systemd.run(argv, timeout)

    with pytest.raises(ServiceFailed, match=r"what depends on db.service: no bus; nothing was touched"):
        Quiesced([{"stop": "db"}], replace(systemd, run=run)).__enter__()
    assert host.acts() == []


def test_it_goes_on_when_we_are_killed(tmp_path: Path, tree: Path) -> None:
    library = "ansible_collections.evenkeel.fault_tolerance.plugins.module_utils"
    held, ended = tmp_path / "held", tmp_path / "ended"
    code = (
        f"import sys; sys.path.insert(0, {str(collections_path())!r})\n"
        f"from {library}._services.quiescing import Quiesced\nfrom {library}._host.system import System\nimport time\n"
        f"with Quiesced([{shell(f'touch {held}', f'touch {ended}')!r}], System()):\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert eventually(held.exists) and not ended.exists()
        # By what is on its command line, and all of its children with it, but for who does not belong to it.
        subprocess.run(["pkill", "-KILL", "-f", f"Quiesced.*{tmp_path}"], check=True)
        assert process.wait() == -signal.SIGKILL
        assert process.stdout is not None and process.stdout.read() == b""
        assert eventually(ended.exists)


def eventually(condition: Any) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end and not condition():
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.parametrize(
    ("hooks", "words"),
    [
        ("nginx", "quiesce must be a list"),
        ([{"pause": "nginx"}], "item 1.* must have one key, stop or freeze or command"),
        ([{"stop": "nginx", "freeze": "nginx"}], "item 1: a mapping of stop, freeze must have one key"),
        ([{"command": [{"argv": ["s3cret"]}]}], "command takes a mapping, not a list$"),
        ([{"stop": ["nginx"]}], "item 1: stop must be a text"),
        ([{"command": {"argv": ["true"]}}], "item 1: command: after is missing"),
        ([{"command": {"argv": ["echo", True], "after": ["true"]}}], "item 1: command: argv must be a text, not True"),
    ],
)
def test_bad_hooks_are_named_and_nothing_is_held(store: Store, tree: Path, hooks: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        checkpoint(store, "before", files(tree), quiesce=hooks)
    assert not os.path.exists(store.root)


# -- a rollback


def changed_since(store: Store, tree: Path, *resources: dict[str, Any]) -> None:
    """A checkpoint ``before`` whose file ``a`` says first, and a change of it."""
    checkpoint(store, "before", [*files(tree), *resources])
    (tree / "a").write_text("changed")


def recording(tree: Path, notes: Path) -> list[dict[str, Any]]:
    """A hook that notes what the file ``a`` says when it holds, and when it lets go."""
    return [shell(f"cat {tree}/a >> {notes}; echo >> {notes}; sleep 0.1", f"cat {tree}/a >> {notes}")]


@pytest.mark.parametrize("swap", [False, True])
def test_files_are_put_back_while_it_stands_still(store: Store, tree: Path, tmp_path: Path, swap: bool) -> None:
    changed_since(store, tree)
    result = rollback(store, "before", swap=swap, quiesce=recording(tree, tmp_path / "notes"))
    assert (tmp_path / "notes").read_text() == "changed\nfirst" and result["pause"] > 0.1


@pytest.mark.parametrize("swap", [False, True])
def test_what_is_written_before_it_stands_still_is_in_the_undo(store: Store, tree: Path, swap: bool) -> None:
    changed_since(store, tree)
    late = f"echo -n ' late' >> {tree}/a; mkdir {tree}/more; echo late > {tree}/more/file"
    result = rollback(store, "before", swap=swap, quiesce=[shell(late, "true")])
    assert {f"{tree}/a", f"{tree}/more"} <= {step["target"] for step in result["done"]} or swap
    assert (tree / "a").read_text() == "first" and not (tree / "more").exists() and result["left"] == []
    rollback(store, result["undo"])
    assert (tree / "a").read_text() == "changed late" and (tree / "more" / "file").read_text() == "late\n"


@pytest.mark.parametrize(("write", "times"), [("true", 1), ("echo late > {}/a", 1), ("echo late > {}/b", 2)])
def test_what_was_staged_stays_unless_more_has_to_be_put_back(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch, write: str, times: int
) -> None:
    changed_since(store, tree)
    plan, staged = staging.Staging.plan, []

    def counting(*given: Any) -> Any:
        staged.append(1)
        return plan(*given)

    monkeypatch.setattr(staging.Staging, "plan", counting)
    rollback(store, "before", quiesce=[shell(write.format(tree), "true")])
    assert len(staged) == times and not store.journals()
    assert (tree / "a").read_text() == "first"


def test_a_unit_that_is_stopped_is_in_the_undo_as_it_was(tmp_path: Path, tree: Path) -> None:
    host = machine(Unit("a.service"))
    systemd = host.system()

    def run(argv: Sequence[str], timeout: float) -> Completed:
        if argv[1] == "stop":  # It says what it had in mind.
            (tree / "late").write_text("late")
        return systemd.run(argv, timeout)

    store = Store(str(tmp_path / "store"), replace(systemd, run=run))
    changed_since(store, tree, {"services": {"names": ["a"]}})
    result = rollback(store, "before", quiesce=[{"stop": "a"}])
    assert host.units["a.service"].active == "active" and result["left"] == [] and not (tree / "late").exists()
    now = store.manifest(result["undo"]).sections
    assert any(f"{tree}/late" in line for line in now[0].lines) and '"active": true' in now[1].lines[-1]


def test_nothing_is_held_for_a_rollback_that_does_nothing(store: Store, tree: Path, tmp_path: Path) -> None:
    hooks = recording(tree, tmp_path / "notes")
    changed_since(store, tree)
    assert rollback(store, "before", check_mode=True, quiesce=hooks)["pause"] == 0
    with pytest.raises(UsageError, match="item 1"):
        rollback(store, "before", quiesce=[{"stop": ["nginx"]}])
    packs = list(Path(store.root, "packs").glob("*.pack"))
    kept = [pack.read_bytes() for pack in packs]
    for pack in packs:
        pack.chmod(0o600)
        pack.write_bytes(b"")
    with pytest.raises(Damaged):
        rollback(store, "before", quiesce=hooks)
    for pack, data in zip(packs, kept, strict=True):
        pack.write_bytes(data)
    assert not (tmp_path / "notes").exists() and (tree / "a").read_text() == "changed"
    rollback(store, "before")
    assert not rollback(store, "before", quiesce=hooks)["changed"] and not (tmp_path / "notes").exists()


def test_what_cannot_be_held_is_let_go_and_nothing_is_put_back(store: Store, tree: Path) -> None:
    changed_since(store, tree)
    live = sorted(os.listdir(tree))
    hooks = [shell("echo is busy >&2; exit 4", f"echo -n ' and let go' >> {tree}/a")]
    with pytest.raises(ServiceFailed, match=r"is busy; nothing was changed") as caught:
        rollback(store, "before", quiesce=hooks, confirm_within=60.0)
    assert caught.value.result["done"] == [] and caught.value.result["armed"] is None
    assert (tree / "a").read_text() == "changed and let go" and sorted(os.listdir(tree)) == live
    assert rollback(store, "before")["changed"]


def test_it_is_let_go_and_both_are_said_when_the_rollback_fails(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_since(store, tree)

    def fail(*_: Any) -> Any:
        raise RestoreFailed("no way", left=["a"])

    with monkeypatch.context() as patch, pytest.raises(RestoreFailed) as caught:
        patch.setattr(transaction, "apply", fail)
        rollback(store, "before", quiesce=[shell("true", "echo stuck >&2; exit 3")])
    left = caught.value.result["left"]
    assert any(f"{tree}/a: " in one for one in left) and any("stuck" in one for one in left)
    # The next run finishes it, and nothing that was staged stays on this machine.
    rollback(store, "before")
    assert not rollback(store, "before")["changed"] and (tree / "a").read_text() == "first"


def test_what_does_not_go_on_after_a_rollback_is_an_error_that_says_what_was_done(store: Store, tree: Path) -> None:
    changed_since(store, tree)
    with pytest.raises(RestoreFailed, match="1 thing is not as recorded: .*stuck") as caught:
        rollback(store, "before", quiesce=[shell("true", "echo stuck >&2; exit 3")])
    assert f"{tree}/a" in str(caught.value.result["done"]) and caught.value.result["undo"]
    assert (tree / "a").read_text() == "first" and not rollback(store, "before")["changed"]


@pytest.mark.parametrize("by", ["files", "service"])
def test_a_unit_that_was_not_active_is_stopped_and_not_started_again(tmp_path: Path, tree: Path, by: str) -> None:
    host = machine(Unit("a.service", active="inactive", sub="dead", identity=""))
    store = Store(str(tmp_path / "store"), host.system())
    checkpoint(store, "before", [*files(tree), {"services": {"names": ["a"]}}])
    if by == "files":
        (tree / "a").write_text("changed")
    unit = host.units["a.service"]
    unit.active, unit.sub, unit.identity = "active", "running", "id1"
    host.calls.clear()
    result = rollback(store, "before", quiesce=[{"stop": "a"}])
    assert [act for act in host.acts() if "reload" not in act] == ["systemctl stop -- a.service"]
    assert unit.active == "inactive"
    assert "services: 1 as recorded" in result["proved"] and result["pause"] > 0


def test_a_unit_that_was_active_is_started_once_and_proved_after_it(tmp_path: Path, tree: Path) -> None:
    host = machine(Unit("a.service"))
    store = Store(str(tmp_path / "store"), host.system())
    changed_since(store, tree, {"services": {"names": ["a"]}})
    host.calls.clear()
    hooks = [{"stop": "a"}]
    planned = rollback(store, "before", check_mode=True, quiesce=hooks)["planned"]
    result = rollback(store, "before", quiesce=hooks)
    # A unit that is stopped cannot be reloaded.
    assert result["done"] == planned and (planned[-1]["action"], planned[-1]["target"]) == ("restart", "a.service")
    acts = [act.split()[1] for act in host.acts()]
    assert acts[0] == "stop" and acts.count("start") >= 1 and "restart" not in acts
    assert "services: 1 as recorded" in result["proved"]


def test_a_unit_that_is_not_part_of_the_rollback_runs_again(tmp_path: Path, tree: Path) -> None:
    host = machine(Unit("a.service"), Unit("b.service", active="inactive", sub="dead", identity=""))
    store = Store(str(tmp_path / "store"), host.system())
    changed_since(store, tree, {"services": {"names": ["b"]}})
    host.act(("systemctl",), "start", host.units["b.service"], False)
    host.calls.clear()
    rollback(store, "before", kinds=["files"], quiesce=[{"stop": "a"}, {"stop": "b"}])
    assert host.acts() == [
        f"systemctl {words}.service" for words in ("stop -- a", "stop -- b", "start -- b", "start -- a")
    ]


def test_a_frozen_unit_goes_on_before_it_is_told_to_reload(tmp_path: Path, tree: Path) -> None:
    host = machine(Unit("a.service"))
    store = Store(str(tmp_path / "store"), host.system())
    changed_since(store, tree, {"services": {"names": ["a"]}})
    host.calls.clear()
    rollback(store, "before", quiesce=[{"freeze": "a"}])
    assert [act.split()[1] for act in host.acts()] == ["freeze", "thaw", "daemon-reload", "reload", "thaw"]


def test_what_starting_again_has_changed_is_put_back(
    store: Store, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = tmp_path / "sys" / "vm" / "swappiness"
    value.parent.mkdir(parents=True)
    value.write_text("60\n")
    monkeypatch.setitem(registry.KINDS, "sysctl", sysctl.Sysctl(str(tmp_path / "sys")))
    changed_since(store, tree, {"sysctl": {"names": ["vm.swappiness"]}})
    result = rollback(store, "before", quiesce=[shell("true", f"echo 10 > {value}")])
    assert value.read_text() == "60\n" and result["left"] == []


def test_it_goes_on_when_a_rollback_is_killed_and_the_next_run_finishes_it(store: Store, tree: Path) -> None:
    changed_since(store, tree)
    library = "ansible_collections.evenkeel.fault_tolerance.plugins.module_utils"
    held, ended = Path(store.root, "held"), Path(store.root, "ended")
    code = (
        f"import sys; sys.path.insert(0, {str(collections_path())!r})\n"
        f"from {library}._flows.rollback import flow\nfrom {library}._files import transaction\n"
        f"from {library}._store import store\n"
        f"from {library}._host.system import System\nimport time\n"
        "transaction.apply = lambda *_: time.sleep(60)\n"
        f"hooks = [{shell(f'touch {held}', f'touch {ended}')!r}]\n"
        f"flow.rollback(store.Store({store.root!r}, System()), flow.Request('before', quiesce=hooks))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        assert eventually(lambda: list(Path(store.root, "journal").glob("*/COMMIT"))) and held.exists()
        assert not ended.exists()
        os.kill(process.pid, signal.SIGKILL)
        assert eventually(ended.exists)
    assert (tree / "a").read_text() == "changed"
    rollback(store, "before")
    assert (tree / "a").read_text() == "first" and not store.journals()
