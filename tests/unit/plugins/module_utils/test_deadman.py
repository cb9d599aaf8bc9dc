# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nothing is kept unless it is confirmed: by settle in time, or the host puts itself back."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import (
    agent,
    changes,
    timers,
    units,
    watcher,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Busy,
    Damaged,
    Refused,
    RestoreFailed,
    Unhealthy,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import transaction
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.preflight import preflight as preflighted
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import info as telling
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import settle as settling
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import strays
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.flow import finish
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.run import Run
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import background
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.change import Owed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, host_state, info, rollback, settle


@pytest.fixture
def live(tmp_path: Path) -> Path:
    path = tmp_path / "live"
    path.mkdir()
    (path / "file").write_text("before")
    return path


def begin(store: Store, live: Path, within: float = 60.0) -> int:
    result = checkpoint(store, "change", [{"files": {"paths": [str(live)]}}], confirm_within=within)
    (live / "file").write_text("after")
    return int(result["generation"])


def end(store: Store, generation: int, probes: Any = (), verdict: str = "probe", **times: float) -> dict[str, Any]:
    soak, deadline = times.get("soak", 0.0), times.get("deadline", 5.0)
    return settle(store, generation, list(probes), soak, deadline, 0.1, verdict=verdict)


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No watcher: what the agent does is done by this test."""
    monkeypatch.setattr(watcher, "start", lambda *_words: None)
    monkeypatch.setattr(watcher, "is_running", lambda _agent: True)


def make_due(store: Store) -> None:
    """Let the time for the confirmation of what is armed be over."""
    path = Path(store.join("armed"))
    if path.exists():
        path.write_text(json.dumps(dict(json.loads(path.read_text()), due=0.0)))


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return True
        time.sleep(0.1)
    return False


def test_a_confirmed_change_stays(store: Store, live: Path) -> None:
    generation = begin(store, live)
    assert end(store, generation)["outcome"] == "confirmed"
    again = end(store, generation)
    assert again["outcome"] == "confirmed" and not again["changed"]
    assert (live / "file").read_text() == "after"
    assert info(store)["armed"] is None


def test_a_change_that_is_confirmed_tells_the_restarts_that_are_owed(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = [Owed("service", "app.service", ["/usr/lib/libz.so.1"], ["app[812]"])]
    asked = []

    def look(system: System) -> list[Owed]:
        asked.append(changes.armed(store))
        with store.locked():  # whoever looks holds up nobody
            return due

    monkeypatch.setattr(settling, "owed", look)
    monkeypatch.setattr(telling, "owed", look)
    generation = begin(store, live)
    assert "owed" not in end(store, generation, verdict="hold") and not asked
    assert end(store, generation)["owed"] == [asdict(due[0])] and asked == [None]
    assert end(store, generation)["owed"] == [asdict(due[0])], "asked once more"
    asked.clear()
    assert telling.info(store).report()["owed"] is None and not asked
    assert telling.info(store, with_owed=True).report()["owed"] == [asdict(due[0])]


def test_an_unhealthy_change_is_rolled_back_and_fails(store: Store, live: Path) -> None:
    generation = begin(store, live)
    with pytest.raises(Unhealthy, match="rolled back to change: .*command") as failed:
        end(store, generation, [{"command": {"argv": ["false"]}}], deadline=0.5)
    assert failed.value.result["outcome"] == "rolled_back" and failed.value.result["done"]
    assert (live / "file").read_text() == "before"


def test_a_probe_that_only_warns_is_told_of_a_change_that_stays_and_of_one_that_goes_back(
    store: Store, live: Path
) -> None:
    warns = {"command": {"argv": ["false"], "severity": "warn"}}
    said = "command false: fail, exit code 1, wanted 0: exit code 1"
    confirmed = end(store, begin(store, live), [warns, {"command": {"argv": ["true"]}}])
    assert (confirmed["outcome"], confirmed["warnings"]) == ("confirmed", [said])
    assert confirmed["proved"] == ["command true: exit code 0"]
    with pytest.raises(Unhealthy, match="rolled back to change: command sh") as failed:
        end(store, begin(store, live), [warns, {"command": {"argv": ["sh", "-c", "exit 1"]}}], deadline=0.0)
    assert failed.value.result["warnings"] == [said] and "command false" not in str(failed.value)


def test_the_verdict_roll_back_asks_no_probe(store: Store, live: Path) -> None:
    generation = begin(store, live)
    with pytest.raises(Unhealthy, match="as asked"):
        end(store, generation, verdict="roll_back")
    assert (live / "file").read_text() == "before"


def test_unconfirmed_at_the_deadline_the_host_puts_itself_back(store: Store, live: Path) -> None:
    generation = begin(store, live, within=1.5)
    assert eventually(lambda: (live / "file").read_text() == "before")
    assert eventually(lambda: info(store)["armed"] is None)
    assert info(store)["last"]["by"] == "deadline"
    with pytest.raises(Unhealthy, match="put itself back already, by deadline"):
        end(store, generation)


def test_a_soak_longer_than_what_is_left_is_never_a_confirmation(store: Store, live: Path) -> None:
    generation = begin(store, live, within=2.5)
    with pytest.raises(Unhealthy):
        end(store, generation, [{"command": {"argv": ["true"]}}], soak=10.0, deadline=20.0)
    assert (live / "file").read_text() == "before"


def test_after_a_reboot_the_next_call_rolls_back(store: Store, live: Path) -> None:
    generation = begin(store, live)
    rebooted = Store(store.root, replace(store.system, boot_id=lambda: "another"))
    with pytest.raises(Unhealthy, match="by boot"):
        end(rebooted, generation)
    assert (live / "file").read_text() == "before"


def test_a_second_change_is_refused_with_its_deadline(store: Store, live: Path) -> None:
    begin(store, live)
    with pytest.raises(Refused, match=r"another change is under way.*'change' \(generation 1\).*within \d+ s"):
        begin(store, live)
    with pytest.raises(Refused, match="another change is under way"):
        other = checkpoint(store, "other", [{"files": {"paths": [str(live)]}}])
        rollback(store, other["id"])
    assert (live / "file").read_text() == "after"


def test_an_older_generation_is_refused(store: Store, live: Path) -> None:
    first = begin(store, live)
    end(store, first)
    second = begin(store, live)
    with pytest.raises(Refused, match=f"generation {first}, the host is at {second}"):
        end(store, first)
    with pytest.raises(Refused, match=f"generation {first}, the host is at {second}"):
        rollback(store, "change", generation=first)
    assert info(store)["armed"]["generation"] == second


def test_an_operator_ends_a_change_by_its_name(store: Store, live: Path) -> None:
    begin(store, live)
    rollback(store, "change")
    state = info(store)
    assert state["armed"] is None and state["last"]["by"] == "operator"
    assert (live / "file").read_text() == "before"


def test_a_rollback_that_nobody_confirms_is_undone_at_boot_and_otherwise_stays(store: Store, live: Path) -> None:
    checkpoint(store, "before", [{"files": {"paths": [str(live)]}}])
    (live / "file").write_text("after")
    result = rollback(store, "before", confirm_within=60.0)
    assert (live / "file").read_text() == "before" and result["armed"]["checkpoint"] == result["undo"]
    with pytest.raises(Refused, match="'undo' .generation 1.*ft_rollback to [0-9a-f]{12} "):
        rollback(store, "before")
    rebooted = Store(store.root, replace(store.system, boot_id=lambda: "another"))
    with rebooted.locked():
        finish(rebooted)
    assert (live / "file").read_text() == "after" and info(store)["last"]["by"] == "boot"
    again = rollback(store, "before", confirm_within=60.0)
    assert end(store, again["generation"])["outcome"] == "confirmed"
    assert (live / "file").read_text() == "before"


def test_a_rollback_that_touches_nothing_arms_nothing(store: Store, live: Path) -> None:
    checkpoint(store, "before", [{"files": {"paths": [str(live)]}}])
    result = rollback(store, "before", confirm_within=60.0)
    assert (result["changed"], result["armed"], result["generation"]) == (False, None, None)
    (live / "file").write_text("after")
    for pack in Path(store.join("packs")).glob("*.pack"):
        pack.unlink()
    with pytest.raises(Damaged, match="nothing was changed"):
        rollback(store, "before", confirm_within=60.0)
    assert info(store)["armed"] is None and (live / "file").read_text() == "after"


def test_a_rollback_arms_nothing_over_a_change(store: Store, live: Path) -> None:
    checkpoint(store, "older", [{"files": {"paths": [str(live)]}}])
    begin(store, live)
    with pytest.raises(Refused, match="another change is under way"):
        rollback(store, "older", confirm_within=60.0)
    with pytest.raises(UsageError, match="0.5 s is too short"):
        rollback(store, "change", confirm_within=0.5)
    assert (live / "file").read_text() == "after"
    # The end of a change is no change of its own.
    result = rollback(store, "change", confirm_within=60.0)
    assert result["changed"] and result["armed"] is None and info(store)["armed"] is None
    assert info(store)["last"]["outcome"] == "rolled_back" and (live / "file").read_text() == "before"


def test_a_rollback_of_some_paths_neither_ends_a_change_nor_goes_beside_it(store: Store, live: Path) -> None:
    """It would leave the rest as the change made it, and call the change rolled back."""
    begin(store, live)
    for paths, kinds in (([str(live / "file")], None), (None, ["files"])):
        with pytest.raises(Refused, match="another change is under way"):
            rollback(store, "change", paths=paths, kinds=kinds)
    assert info(store)["armed"] is not None and (live / "file").read_text() == "after"


def test_settling_what_never_began_is_an_error(store: Store, live: Path) -> None:
    checkpoint(store, "before", [{"files": {"paths": [str(live)]}}])
    with pytest.raises(UsageError, match="no change of generation 0"):
        end(store, 0)


def test_an_outcome_counts_even_if_the_record_was_left_lying(store: Store, live: Path) -> None:
    generation = begin(store, live)
    record = Path(store.join("armed")).read_bytes()
    end(store, generation)
    Path(store.join("armed")).write_bytes(record)
    assert info(store)["armed"] is None
    assert begin(store, live) == generation + 1


def test_a_torn_event_is_no_outcome(store: Store, live: Path) -> None:
    generation = begin(store, live)
    with open(store.join("events"), "ab") as stream:
        stream.write(b'{"generation": 9, "outcome": "confir')
    assert info(store)["armed"]["generation"] == generation
    end(store, generation)
    assert info(store)["last"]["outcome"] == "confirmed"


def test_check_mode_does_not_arm(store: Store, live: Path) -> None:
    result = checkpoint(store, "change", [{"files": {"paths": [str(live)]}}], confirm_within=60.0, check_mode=True)
    assert result["changed"] and not os.path.exists(store.root)


def test_the_agent_needs_nothing_of_ours(store: Store, live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch)
    begin(store, live)
    make_due(store)
    (agent,) = Path(store.join("agent")).iterdir()
    environment = {"PATH": os.environ["PATH"]}
    argv = ["/usr/bin/env", "python3", "-I", str(agent), "--store", store.root, "deadline", "--generation", "1"]
    done = subprocess.run(argv, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rolled back the unconfirmed change" in done.stdout and (live / "file").read_text() == "before"


def test_a_timer_that_does_not_start_refuses_the_change(tmp_path: Path, live: Path, monkeypatch: Any) -> None:
    """The unit for the boot is in place before the tree is read."""
    _units, asked, system = recording_systemd(tmp_path, monkeypatch)
    agrees = system.run

    def run(argv: Any, timeout: float) -> Any:
        done = agrees(argv, timeout)
        return type("Done", (), {"rc": 1, "words": "no bus"}) if argv[1] == "start" else done

    store = Store(str(tmp_path / "store"), replace(system, run=run))
    with pytest.raises(Refused, match=r"cannot be armed: systemctl start .*no bus; nothing was changed"):
        begin(store, live)
    assert asked[-2] == "daemon-reload" and asked[-1].startswith("start evenkeel-deadman")
    assert info(store)["armed"] is None
    assert json.dumps(info(store)["last"]) == "null"


def recording_systemd(tmp_path: Path, monkeypatch: Any) -> tuple[Path, list[str], System]:
    """A directory for units, what is asked of systemctl, and a system whose systemctl agrees to everything."""
    folder = tmp_path / "units"
    folder.mkdir()
    monkeypatch.setattr(units, "_ETC", str(folder / "etc"))
    monkeypatch.setattr(units, "_RUN", str(folder / "run"))
    monkeypatch.setattr(units, "_BEFORE", (str(folder / "control"), str(folder / "etc")))
    alone(monkeypatch)
    asked: list[str] = []

    def run(argv: Any, timeout: float) -> Any:
        asked.append(" ".join(argv[1:]))
        return type("Done", (), {"rc": 0, "words": "", "out": "UserspaceTimestampMonotonic=5000000\n"})

    return folder, asked, replace(System(), has_systemd=lambda: True, run=run)


@pytest.mark.parametrize("name", ["a blank", "100%", "$HOME", "a;b", "gl*b", 'quo"te', "back\\slash", "é", "new\nline"])
def test_a_store_path_that_a_unit_cannot_hold_is_refused(
    tmp_path: Path, live: Path, monkeypatch: Any, name: str
) -> None:
    folder, asked, system = recording_systemd(tmp_path, monkeypatch)
    store = Store(str(tmp_path / name), system)
    with pytest.raises(UsageError, match=r"the store path .* unit of systemd; choose a store path of letters"):
        begin(store, live)
    assert not asked and not list(folder.iterdir()) and not os.listdir(store.join("manifests"))
    # Without systemd the path is the word of a command, and any will do.
    plain = Store(store.root, replace(System(), has_systemd=lambda: False))
    assert begin(plain, live) == 1 and end(plain, 1)["outcome"] == "confirmed"


def test_a_python_that_a_unit_cannot_hold_is_refused(tmp_path: Path, live: Path, monkeypatch: Any) -> None:
    folder, asked, system = recording_systemd(tmp_path, monkeypatch)
    monkeypatch.setattr(sys, "executable", "/opt/my python/bin/python3")
    with pytest.raises(UsageError, match=r"the path of Python '/opt/my python/bin/python3' .*_interpreter"):
        begin(Store(str(tmp_path / "store"), system), live)
    assert not asked and not list(folder.iterdir())


def test_every_store_has_units_of_its_own(tmp_path: Path, live: Path, monkeypatch: Any) -> None:
    folder, asked, system = recording_systemd(tmp_path, monkeypatch)
    roots = [tmp_path / name for name in ("app-1", "app.1", "app/1", "app_1", "App-1", "app+1", ".app/1")]
    for root in roots:
        begin(Store(str(root), system), live)
    assert len(list(folder.glob("run/evenkeel-deadman-*.timer"))) == len(roots)
    assert len({words for words in asked if words.startswith("start ")}) == len(roots)
    services = [path.read_text() for path in folder.glob("etc/evenkeel-boot-*.service")]
    assert all(sum(f"--store {root} boot" in text for text in services) == 1 for root in roots)


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ("/var/lib/evenkeel", "evenkeel-deadman"),
        ("/srv/app", "evenkeel-deadman-srv-app"),
        # What systemd-escape --path makes of them.
        ("/srv/app-1/.a.b", r"evenkeel-deadman-srv-app\x2d1-.a.b"),
        ("/.srv/a+b@c:d_e", r"evenkeel-deadman-\x2esrv-a\x2bb\x40c:d_e"),
    ],
)
def test_units_are_named_as_systemd_escapes_paths(root: str, name: str) -> None:
    assert units.unit(Store(root, System())) == name


def test_a_soak_longer_than_the_deadline_is_waited_for(store: Store, live: Path) -> None:
    generation = begin(store, live)
    result = end(store, generation, [{"command": {"argv": ["true"]}}], soak=1.0, deadline=0.2)
    assert result["outcome"] == "confirmed" and result["health"]["soaked"] >= 1.0


def refusing(monkeypatch: pytest.MonkeyPatch, times: int, and_then: Callable[[], None] = lambda: None) -> list[float]:
    """Let rollbacks be refused so often. When each was asked for."""
    asked: list[float] = []

    def preflight(*words: Any) -> Any:
        asked.append(time.monotonic())
        if len(asked) <= times:
            and_then()
            raise Refused("there is no room; nothing was changed")
        return preflighted(*words)

    monkeypatch.setattr(transaction, "preflight", preflight)
    return asked


def deadline(store: Store, generation: int = 1, pause: float = 0.3) -> int:
    make_due(store)
    words = ["--store", store.root, "deadline", "--generation", str(generation)]
    return agent.main(lambda: finish, words, (pause, pause))


def test_a_dead_man_that_was_refused_tries_again(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone(monkeypatch)
    begin(store, live)
    asked = refusing(monkeypatch, 2)
    assert deadline(store) == 0 and (live / "file").read_text() == "before"
    assert len(asked) == 3 and asked[1] - asked[0] > 0.2
    assert info(store)["last"]["outcome"] == "rolled_back" and "no room" in capsys.readouterr().err


def test_it_ends_in_doubt_when_it_is_refused_too_often(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(monkeypatch)
    begin(store, live)
    asked = refusing(monkeypatch, 99)
    monkeypatch.setattr(changes, "TRIES", 0.7)
    assert deadline(store) == agent.DOUBT and len(asked) >= 2 and (live / "file").read_text() == "after"
    assert info(store)["armed"] is None and info(store)["last"]["outcome"] == "in_doubt"
    assert "no room" in info(store)["last"]["left"][0]


def test_a_change_that_began_to_go_back_is_never_confirmed(store: Store, live: Path) -> None:
    generation = begin(store, live)
    change = changes.armed(store)
    assert change is not None and not change.shown().keys() & {"back", "left", "tries_until"}
    changes.begin_return(store, change, "settle")
    assert changes.begin_return(store, change, "operator").back == "settle", "the first mark stays"
    with pytest.raises(Unhealthy, match="put itself back already, by settle"):
        end(store, generation)
    assert (live / "file").read_text() == "before" and info(store)["last"]["outcome"] == "rolled_back"


def test_what_is_left_is_tried_again_for_one_hour_and_no_more(
    store: Store, live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A boot, another agent and another attempt do not begin a new hour; the dead-man is told at once."""
    alone(monkeypatch)
    begin(store, live)
    asked: list[Any] = []
    clock = [1000.0]

    def run(argv: Any, timeout: float) -> Any:
        asked.append(argv)
        return type("Done", (), {"rc": 0, "words": "", "out": "UserspaceTimestampMonotonic=5000000\n"})

    for name in ("_ETC", "_RUN"):
        monkeypatch.setattr(units, name, str(tmp_path / name))
    timed = Store(store.root, replace(store.system, now=lambda: clock[0], has_systemd=lambda: True, run=run))
    change = changes.armed(timed)
    assert change is not None
    changes.keep_trying(timed, change, "settle", ["/srv/a: is busy", "/srv/b: is busy"])
    clock[0] = 3000.0
    changes.keep_trying(timed, change, "boot", ["/srv/a: is busy"])  # With what was read before the first attempt.
    shown = info(store)["armed"]
    assert (shown["back"], shown["left"], shown["tries_until"]) == ("settle", ["/srv/a: is busy"], 4600.0)
    fired = [words for words in asked if words[1] == "start" and words[-1].endswith(".service")]
    assert len(fired) == 2 and all("--no-block" in words for words in fired)


def test_the_hour_of_trying_is_an_hour_whatever_happens_to_the_clock(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(monkeypatch)
    begin(store, live)
    wall, uptime, boot = [1_000_000.0], [50.0], ["one"]
    system = replace(
        store.system,
        now=lambda: wall[0],
        monotonic=lambda: uptime[0],
        boot_id=lambda: boot[0],
        has_systemd=lambda: False,
    )
    timed = Store(store.root, system)

    def tries() -> float:
        change = changes.armed(timed)
        assert change is not None
        return changes.note_left(timed, change, "deadline", ["/srv/a: is busy"]).tries_left(system)

    assert tries() == 3600.0
    uptime[0] += 600.0
    for moved in (7200.0, -86400.0 * 30):
        wall[0] = 1_000_000.0 + moved
        assert tries() == 3000.0
    # A boot begins no new hour, and no longer one.
    boot[0], uptime[0] = "two", 5.0
    wall[0] = 1_000_000.0 + 1800.0
    assert tries() == 1800.0
    uptime[0] += 100.0
    assert tries() == 1700.0
    boot[0], wall[0] = "three", 1_000_000.0 - 86400.0
    assert tries() == 3600.0


def test_records_of_older_and_newer_versions_are_read(store: Store, live: Path) -> None:
    begin(store, live)
    path = Path(store.join("armed"))
    record = json.loads(path.read_text())
    older = {key: record[key] for key in record if key not in ("back", "left", "tries_until", "kept")}
    for written in (older, dict(record, of_a_newer_version={"any": 1})):
        path.write_text(json.dumps(written))
        assert changes.armed(store) == changes.Armed(**older)


class Killed(BaseException):
    pass


def killed(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> None:
    """Run it, and kill it after COMMIT."""

    def die(*_args: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(transaction, "apply", die)
        with pytest.raises(Killed):
            run()


@pytest.mark.parametrize("verdict", ["probe", "roll_back"])
def test_a_change_whose_rollback_had_begun_is_never_confirmed(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch, verdict: str
) -> None:
    """Who settles it is killed, and run again within the deadline: the probes would pass on the old state."""
    alone(monkeypatch)
    generation = begin(store, live)
    killed(monkeypatch, lambda: end(store, generation, verdict="roll_back"))
    assert (live / "file").read_text() == "after" and store.journals()
    with pytest.raises(Unhealthy, match="put itself back already, by settle"):
        end(store, generation, verdict=verdict)
    assert (live / "file").read_text() == "before" and info(store)["last"]["outcome"] == "rolled_back"


def test_a_rollback_that_is_killed_while_it_is_measured_is_no_confirmation(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(monkeypatch)
    generation = begin(store, live)

    def interfere(_seconds: float) -> None:
        if not store.journals():
            killed(monkeypatch, lambda: rollback(Store(store.root, System()), "change"))

    store.system = replace(store.system, sleep=interfere)
    with pytest.raises(Unhealthy):
        end(store, generation, [{"command": {"argv": ["true"]}}], soak=0.3)
    assert (live / "file").read_text() == "before" and info(store)["last"]["outcome"] == "rolled_back"
    assert not store.journals()


def test_a_change_that_is_half_undone_is_in_doubt_until_it_is_undone(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(monkeypatch)
    generation = begin(store, live)
    killed(monkeypatch, lambda: end(store, generation, verdict="roll_back"))

    def fail(*_args: Any) -> Any:
        raise RestoreFailed("nginx does not start")

    with monkeypatch.context() as patched:
        patched.setattr(Run, "start", fail)
        with pytest.raises(RestoreFailed, match="nginx does not start") as caught:
            end(store, generation)
    assert caught.value.result["outcome"] == "in_doubt" and "tries again until" in caught.value.message
    change = info(store)["armed"]
    assert change["left"] == ["nginx does not start"] and change["tries_until"] > time.time()
    told = json.loads(Path(store.join("events")).read_text().splitlines()[-1])
    assert told["outcome"] == "in_doubt" and told["until"] == change["tries_until"] and info(store)["last"] is None
    with pytest.raises(Unhealthy, match="put itself back already"):
        end(store, generation)
    assert info(store)["armed"] is None and info(store)["last"]["outcome"] == "rolled_back"


def test_a_dead_man_whose_disk_is_full_tries_again(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone(monkeypatch)
    begin(store, live)
    lock, asked = Store.locked, []

    def full(self: Store, **wait: Any) -> Any:
        asked.append(wait)
        if len(asked) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return lock(self, **wait)

    monkeypatch.setattr(Store, "locked", full)
    assert deadline(store, pause=0.1) == 0 and len(asked) == 2 and (live / "file").read_text() == "before"
    assert "No space left on device" in capsys.readouterr().err


def test_what_the_store_has_lost_is_in_doubt_alone(store: Store, live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch)
    (live / "lost").write_bytes(os.urandom(100_000))
    begin(store, live)
    (live / "lost").write_text("after")
    monkeypatch.setattr(changes, "TRIES", 0.5)
    for lost in Path(store.join("objects")).rglob("*"):
        if lost.is_file():
            lost.unlink()
    assert deadline(store, pause=0.2) == agent.DOUBT and info(store)["last"]["outcome"] == "in_doubt"
    (left,) = info(store)["last"]["left"]
    assert left.startswith(f"{live}/lost: ") and (live / "file").read_text() == "before"


def test_it_waits_no_longer_than_the_change_lasts(store: Store, live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch)
    begin(store, live)
    change = changes.armed(store)
    assert change is not None
    later = threading.Timer(0.5, changes.conclude, (store, change, changes.CONFIRMED, "settle"))
    asked = refusing(monkeypatch, 1, later.start)
    started = time.monotonic()
    assert deadline(store, pause=60.0) == 0 and len(asked) == 1 and time.monotonic() - started < 20


def test_what_is_refused_at_boot_is_left_to_the_dead_man_and_does_not_hold_the_boot(
    store: Store, live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(monkeypatch)
    begin(store, live)
    refusing(monkeypatch, 1)
    for name in ("_ETC", "_RUN"):
        monkeypatch.setattr(units, name, str(tmp_path / name))
    said: list[str] = []

    def run(argv: Any, timeout: float) -> Any:
        said.append(" ".join(argv))
        return type("Done", (), {"rc": 0, "words": "", "out": "UserspaceTimestampMonotonic=5000000\n"})

    booted = replace(store.system, boot_id=lambda: "another", run=run, has_systemd=lambda: True)
    monkeypatch.setattr(agent, "System", lambda: booted)
    assert agent.main(lambda: finish, ["--store", store.root, "boot"]) == agent.DOUBT
    (started,) = {words for words in said if words.startswith("systemctl start") and words.endswith(".service")}
    assert started.startswith("systemctl start --no-block evenkeel-deadman-") and started.endswith(".service")
    assert info(store)["armed"] is not None and deadline(store) == 0
    assert info(store)["last"]["by"] == "boot" and (live / "file").read_text() == "before"


def test_an_operator_who_is_refused_leaves_the_dead_man_in_charge(store: Store, live: Path) -> None:
    begin(store, live)
    with pytest.raises(UsageError, match="no unit"):
        rollback(Store(store.root, replace(store.system, run=no_unit)), "change", quiesce=[{"stop": "nothing"}])
    assert info(store)["armed"] is not None and (live / "file").read_text() == "after"


def no_unit(argv: Any, timeout: float) -> Any:
    out = "LoadState=not-found\nActiveState=inactive\nSubState=dead\nUnitFileState=\n"
    return type("Done", (), {"rc": 0, "words": "", "out": out})


def test_who_waits_for_the_lock_leaves_once_the_change_is_over(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next change is armed under this lock, and its watcher waits for this one to leave."""
    alone(monkeypatch)
    generation = begin(store, live)
    change = changes.armed(store)
    assert change is not None
    with store.locked():
        later = threading.Timer(0.5, changes.conclude, (store, change, changes.ROLLED_BACK, "settle"))
        later.start()
        began = time.monotonic()
        with pytest.raises(Busy), agent._locked(store, generation):
            pass
        assert time.monotonic() - began < 20


def test_jobs_end_before_a_host_goes_back_and_are_left_where_it_stays(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ended(*_words: Any, **_more: Any) -> background.Ended:
        asked.append((live / "file").read_text())
        return background.Ended(ended=["pid 7: a job"], running=["pid 8: dpkg"])

    monkeypatch.setattr(background, "end_jobs", ended)
    monkeypatch.setattr(strays, "found", lambda *_words: ["run-r1.timer, active (waiting)"])
    generation = begin(store, live)
    (live / "file").write_text("new")
    end(store, generation)
    assert asked == []
    generation = begin(store, live)
    (live / "file").write_text("newer")
    with pytest.raises(Unhealthy) as failed:
        end(store, generation, verdict="roll_back")
    assert asked == ["newer"]
    assert "ended a job of Ansible, pid 7: a job" in failed.value.result["done"]
    assert "a job of Ansible still runs, pid 8: dpkg" in failed.value.result["left"]
    assert "goes on in the background: run-r1.timer, active (waiting)" in failed.value.result["left"][-1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("armed", b"{"),
        ("armed", b"[" * 100_000),
        ("armed", b"[]"),
        ("armed", b"{}"),
        ("armed", b"\xff"),
        (
            "armed",
            b'{"generation": "3", "checkpoint": "", "name": "", "until": 1, "within": 1, "boot_id": "", "due": 1}',
        ),
        ("generation", b"seven"),
        ("generation", b"9" * 10_000),
    ],
)
def test_a_record_that_cannot_be_read_is_named_and_no_traceback(store: Store, name: str, said: bytes) -> None:
    with store.locked():
        (Path(store.root) / name).write_bytes(said)
    if name == "generation" and said.startswith(b"9"):
        assert host_state(store.root, store.system)["generation"] > 0
        return
    with pytest.raises(Damaged, match=f"/{name} is damaged"):
        host_state(store.root, store.system)


def test_an_event_with_values_of_other_types_never_was_one(store: Store) -> None:
    good = changes.Event(3, "confirmed", "settle", 1.0, "", [])
    with store.locked():
        lines = [good.line(), b'{"generation": "x", "outcome": 5, "by": "", "at": [], "checkpoint": "", "left": {}}']
        (Path(store.root) / "events").write_bytes(b"\n".join([*lines, b"[" * 100_000, b""]))
    assert changes.last_event(store) == good


def test_a_timer_that_fails_keeps_no_other_from_its_turn(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Failing:
        def is_available(self, _system: System) -> bool:
            return True

        def ensure(self, *_words: object) -> None:
            seen.append("failing")
            raise Refused("systemd does not answer")

    class Working:
        def is_available(self, _system: System) -> bool:
            return True

        def ensure(self, *_words: object) -> None:
            seen.append("working")

    monkeypatch.setattr(timers, "TIMERS", (Failing(), Working()))
    with pytest.raises(Refused, match="systemd does not answer"):
        timers.ensure(store, 1, 0.0, "/agent.pyz")
    assert seen == ["failing", "working"]
    timers.ensure(store, 1, 0.0, "/agent.pyz", caller=Failing)
    assert seen[2:] == ["working"]
