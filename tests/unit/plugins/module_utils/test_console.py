# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command for a person on the host: each of its words, its exit codes, and the file that arming leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import (
    changes,
    command,
    package,
    units,
    watcher,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman.invocation import agent_arguments
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import console
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.flow import finish
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import logins
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.logins import Ancestor, of_person
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import ours
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.change import Owed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback

# No systemd: this machine plays the host.
SYSTEM = replace(System(), has_systemd=lambda: False)
TTY1, PTS0, SERIAL = os.makedev(4, 1), os.makedev(136, 0), os.makedev(4, 64)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the command belongs to root")


@pytest.fixture(autouse=True)
def no_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "start", lambda *_words: None)
    monkeypatch.setattr(console, "System", lambda: SYSTEM)


@pytest.fixture
def live(tmp_path: Path) -> Path:
    path = tmp_path / "live"
    path.mkdir()
    (path / "file").write_text("before")
    return path


def armed(store: Store, live: Path, name: str = "upgrade", **more: Any) -> dict[str, Any]:
    found = checkpoint(store, name, [{"files": {"paths": [str(live)]}}], **{"confirm_within": 60.0, **more})
    (live / "file").write_text("after")
    return found


def rewrite(store: Store, **fields: Any) -> None:
    path = Path(store.join("armed"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def over(login: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "of_person", lambda _since: login)


def run(store: Store, *words: str) -> int:
    return console.main(["--store", store.root, *words])


# -- status


def test_status_of_a_host_that_was_never_armed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(store, "status") == 0
    assert "No change was ever armed" in capsys.readouterr().out
    assert not os.path.exists(store.root)


def test_status_tells_which_restarts_are_owed(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    due = [
        Owed("reboot", "", ["the kernel 6.2 is installed, and 6.1 runs"]),
        Owed("service", "app.service", ["/usr/lib/libz.so.1"], ["app[812]"]),
    ]
    monkeypatch.setattr(console, "owed", lambda _system: due)
    assert run(store, "status") == 0
    said = capsys.readouterr().out
    assert "owed a reboot: the kernel 6.2 is installed" in said
    assert "owed a restart: app.service: /usr/lib/libz.so.1; app[812]" in said and "restart --owed" in said
    monkeypatch.setattr(console, "owed", lambda _system: [])
    run(store, "status")
    assert "owed" not in capsys.readouterr().out


def test_status_tells_since_when_and_for_how_long(store: Store, live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = armed(store, live)
    rewrite(store, due=time.monotonic() + 250.0, until=time.time() + 250.0)
    assert run(store, "status") == 0
    out = capsys.readouterr().out
    assert "goes back in 4 min 10 s" in out or "goes back in 4 min 9 s" in out
    assert time.strftime("armed at %H:%M", time.localtime()) in out
    assert "upgrade, generation 1" in out and found["id"][:12] in out and ": files" in out
    assert "evenkeel-host confirm" in out and "evenkeel-host rollback" in out


@pytest.mark.parametrize(
    ("fields", "words", "code"),
    [
        ({"due": 0.0}, "its time to confirm is over", 0),
        ({"boot_id": "another"}, "the host booted before it was confirmed", 0),
        ({"back": "operator"}, "a person asked for it", 0),
        ({"back": "deadline", "left": ["/etc/x: no room"], "tries_until": 4e9}, "- /etc/x: no room", 4),
    ],
)
def test_status_of_a_host_that_goes_back(
    fields: dict[str, Any], words: str, code: int, store: Store, live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    armed(store, live)
    rewrite(store, **fields)
    assert run(store, "status") == code
    out = capsys.readouterr().out
    assert words in out and "goes back to upgrade" in out and "confirm  " not in out


def test_status_after_the_end_of_a_change(store: Store, live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    armed(store, live)
    change = changes.armed(store)
    assert change is not None
    with store.locked():
        changes.conclude(store, change, changes.IN_DOUBT, "deadline", ["/etc/x: why"])
    assert run(store, "status") == 4
    out = capsys.readouterr().out
    assert "in doubt" in out and "  - /etc/x: why" in out and f"rollback {change.checkpoint[:12]}" in out
    rollback(store, "upgrade")
    assert run(store, "status") == 0
    assert "No change is under way" in capsys.readouterr().out


def test_names_never_move_the_terminal(store: Store, live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    armed(store, live)
    rewrite(store, name="\x1b[2J\x9bclear\u202e", back="deadline", left=["/srv/\x1b]0;title\x07: bad"])
    run(store, "status")
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x9b\x07\u202e") and "\\x1b[2J" in out and "\\x1b]0;title\\x07" in out


def test_a_damaged_record_is_said_and_in_doubt(store: Store, live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    armed(store, live)
    Path(store.join("armed")).write_text("{")
    assert run(store, "status") == 4
    assert "is damaged" in capsys.readouterr().err


# -- confirm


@pytest.mark.parametrize(
    ("login", "words", "code"),
    [
        (logins.NEW, (), 0),
        (logins.CONSOLE, (), 0),
        (logins.OLD, (), 3),
        (logins.NOT_SHOWN, (), 3),
        (logins.OLD, ("--from-here",), 0),
        (logins.NOT_SHOWN, ("--from-here",), 0),
    ],
)
def test_a_confirmation_counts_over_a_new_login_at_a_console_or_on_a_persons_word(
    login: str, words: tuple[str, ...], code: int, store: Store, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed(store, live)
    over(login, monkeypatch)
    assert run(store, "confirm", *words) == code
    assert (changes.armed(store) is None) is (code == 0)
    last = changes.last_event(store)
    assert (last.outcome, last.by) == ("confirmed", "operator") if last is not None else code == 3
    assert (live / "file").read_text() == "after"


def test_a_confirmation_that_comes_too_late_is_none(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    over(logins.NEW, monkeypatch)
    assert run(store, "confirm") == 1
    armed(store, live)
    rewrite(store, due=0.0)
    assert run(store, "confirm") == 2 and changes.armed(store) is not None
    assert "Too late" in capsys.readouterr().err
    with store.locked():
        finish(store)
    assert run(store, "confirm") == 2
    assert "was rolled back by the host itself" in capsys.readouterr().out


def test_a_change_over_several_hosts_is_not_confirmed_by_the_way(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    armed(store, live, change=("abc", 7))
    over(logins.NEW, monkeypatch)
    assert run(store, "confirm") == 3 and changes.armed(store) is not None
    assert "over 7 hosts" in capsys.readouterr().err
    assert run(store, "confirm", "--alone") == 0 and changes.armed(store) is None


def test_a_planned_boot_comes_before_the_confirmation(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    armed(store, live, reboots=1)
    over(logins.NEW, monkeypatch)
    assert run(store, "confirm", "--from-here") == 3 and changes.armed(store) is not None
    assert "plans a boot" in capsys.readouterr().err
    rewrite(store, boots=1)
    assert run(store, "confirm") == 0


def test_the_end_tells_of_what_is_not_protected(
    store: Store, live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    over(logins.NEW, monkeypatch)
    other = tmp_path / "other"
    for number, command_of in enumerate(("confirm", "rollback")):
        other.mkdir(exist_ok=True)
        armed(store, live, outside={"paths": [str(other)]})
        (other / f"new{number}").write_text("new")
        assert run(store, command_of) == 0
        assert str(other / f"new{number}") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("above", "found"),
    [
        # The change began at 100 and it is 120 now.
        ([("python3", 118, PTS0), ("bash", 117, PTS0), ("sshd", 117, 0), ("sshd", 1, 0)], "new"),
        ([("python3", 118, PTS0), ("sudo", 118, PTS0), ("bash", 117, PTS0), ("sshd-session", 117, 0)], "new"),
        # A shell that was open before, and a shared connection that was.
        ([("python3", 118, PTS0), ("bash", 20, PTS0), ("sshd", 20, 0), ("sshd", 1, 0)], "old"),
        ([("python3", 118, PTS0), ("bash", 117, PTS0), ("sshd", 20, 0), ("sshd", 1, 0)], "old"),
        # Consoles: with sudo, whose commands have a terminal of their own, and a serial line.
        ([("python3", 118, TTY1), ("bash", 20, TTY1), ("login", 20, TTY1), ("systemd", 0, 0)], "console"),
        ([("python3", 118, PTS0), ("sudo", 118, TTY1), ("bash", 20, TTY1)], "console"),
        ([("python3", 118, SERIAL), ("bash", 20, SERIAL)], "console"),
        # tmux, an entered container, a job of cron: nobody knows who is there.
        ([("python3", 118, PTS0), ("bash", 117, PTS0), ("tmux: server", 117, 0), ("systemd", 0, 0)], "not shown"),
        ([("python3", 118, PTS0), ("bash", 117, PTS0)], "not shown"),
        ([("python3", 118, 0), ("sh", 118, 0), ("cron", 1, 0)], "not shown"),
    ],
)
def test_the_login_of_a_person(above: list[tuple[str, float, int]], found: str) -> None:
    chain = [Ancestor(100 - number, *one) for number, one in enumerate(above)]
    assert of_person(20.0, chain, 120.0) == found


# -- rollback and extend


def test_a_change_under_way_ends_with_its_rollback(
    store: Store, live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    armed(store, live)
    assert run(store, "rollback") == 0
    assert (live / "file").read_text() == "before"
    last = changes.last_event(store)
    assert last is not None and (last.outcome, last.by) == ("rolled_back", "operator")
    out = capsys.readouterr().out
    assert changes.armed(store) is None and "Rolled back to upgrade" in out and f"{live}/file" in out


def test_a_rollback_without_a_change_has_to_be_confirmed(
    store: Store, live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(store, "first", [{"files": {"paths": [str(live)]}}])
    (live / "file").write_text("after")
    assert run(store, "rollback", "--confirm-within", "90s") == 0
    assert (live / "file").read_text() == "before"
    change = changes.armed(store)
    assert change is not None and change.name == "undo" and change.within == 90.0
    assert "undone in 1 min 30 s unless it is confirmed" in capsys.readouterr().out
    assert run(store, "rollback") == 0  # which is the change now
    assert (live / "file").read_text() == "after" and changes.armed(store) is None


def test_another_checkpoint_is_refused_while_a_change_is_under_way(store: Store, live: Path) -> None:
    checkpoint(store, "first", [{"files": {"paths": [str(live)]}}])
    (live / "more").write_text("more")
    armed(store, live)
    assert run(store, "rollback", "first") == 3
    assert (live / "file").read_text() == "after" and changes.armed(store) is not None


def test_a_missed_deadline_is_made_up_for_once(store: Store, live: Path) -> None:
    armed(store, live)
    rewrite(store, due=0.0)
    assert run(store, "rollback") == 0
    assert (live / "file").read_text() == "before" and changes.armed(store) is None
    assert len(store.refs()["undo"]) == 1


def test_what_cannot_go_back_is_named(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    armed(store, live)
    shutil.rmtree(store.join("packs"))
    os.mkdir(store.join("packs"))
    assert run(store, "rollback") == 4
    assert f"{live}/file" in capsys.readouterr().err
    assert run(store, "status") == 4


def test_an_extension_ends_at_the_limit_of_the_change(
    store: Store, live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(store, "extend") == 1
    armed(store, live, at_most=300.0)
    assert run(store, "extend", "2m") == 0
    change = changes.armed(store)
    assert change is not None and 119 < change.due - time.monotonic() <= 120
    assert "cannot be extended" not in capsys.readouterr().out
    assert run(store, "extend", "1h") == 0
    change = changes.armed(store)
    assert change is not None and 290 < change.due - time.monotonic() <= 300
    assert "cannot be extended beyond that" in capsys.readouterr().out
    assert run(store, "extend", "1h") == 3, "it gained no time"
    assert run(store, "status") == 0 and "more time:   none: it is at its limit" in capsys.readouterr().out
    rewrite(store, hosts=2, due=change.due - 100)
    assert run(store, "status") == 0
    shown = capsys.readouterr().out
    assert "evenkeel-host confirm --alone" in shown and "evenkeel-host extend 10m" in shown
    rewrite(store, hosts=0, reboots=1)
    assert run(store, "status") == 0 and "keep it:     only after the boot" in capsys.readouterr().out
    assert run(store, "extend", "soon") == 1
    rewrite(store, due=0.0)
    assert run(store, "extend", "2m") == 3


def test_a_wrong_use_says_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["confrim"], ["rollback", "a", "b"], ["confirm"], ["rollback"], ["extend"]):
        try:
            code = run(store, *words)
        except SystemExit as error:
            code = int(error.code or 0)
        assert code == 1, words
        assert "evenkeel-host: " in capsys.readouterr().err
    assert not os.path.exists(store.root)


# -- the command as a file


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the command, on a host that has systemd."""
    path = tmp_path / "usr" / "sbin" / "evenkeel-host"
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(ours, "COMMAND", str(path))
    monkeypatch.setattr(ours, "stranger", lambda _path, _owners: "")
    return path


def with_systemd(store: Store) -> Store:
    return Store(store.root, replace(SYSTEM, has_systemd=lambda: True))


@needs_root
def test_arming_leaves_a_command_that_works(store: Store, live: Path, place: Path) -> None:
    agent = package.install(store, finish)
    before = os.stat(place.parent).st_mtime_ns
    assert command.install(with_systemd(store), agent) == ""
    assert os.stat(place).st_mode & 0o7777 == 0o755 and os.stat(place.parent).st_mtime_ns == before
    armed(store, live)
    done = subprocess.run([place, "status"], cwd="/", capture_output=True, text=True, check=False, env={})
    assert done.returncode == 0 and "goes back in" in done.stdout, done.stderr
    helped = subprocess.run([place, "--help"], capture_output=True, text=True, check=True, env={}).stdout
    assert all(word in helped for word in ("status", "rollback", "confirm", "extend", "exit codes"))
    other = subprocess.run([place, "status", "--store", "/nowhere"], capture_output=True, text=True, check=True, env={})
    assert "no store at /nowhere" in other.stdout
    shutil.rmtree(store.join("agent"))
    gone = subprocess.run([place, "status"], capture_output=True, text=True, check=False, env={})
    assert gone.returncode == 1 and "is gone" in gone.stderr


@needs_root
def test_a_python_that_is_too_old_is_passed_over(store: Store, place: Path, tmp_path: Path) -> None:
    agent = package.install(store, finish)
    command.install(with_systemd(store), agent)
    old = tmp_path / "old"
    version = "import sys; sys.version_info = (3, 8, 18); exec(sys.argv.pop(1))"
    until_code = 'until [ "$1" = -c ]; do shift; done; shift'
    old.write_text(f'#!/bin/sh\n{until_code}\nexec {sys.executable} -I -c "{version}" "$@"\n')
    old.chmod(0o755)
    script = re.sub(r"for python in .*; do", f"for python in {old}; do", place.read_text())
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, env={})
    assert done.returncode == 1 and "3.9 or newer is needed" in done.stderr
    alone = subprocess.run([old, *agent_arguments(agent), "check"], capture_output=True, text=True, check=False)
    assert alone.returncode == 1 and alone.stderr == "", "it ends before it reads the agent"


@needs_root
def test_only_root_is_served(store: Store, place: Path) -> None:
    command.install(with_systemd(store), package.install(store, finish))
    script = place.read_text().replace("$(id -u)", "1000")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "only root" in done.stderr


@needs_root
def test_a_foreign_file_stays_and_is_protected(store: Store, place: Path) -> None:
    place.write_text("#!/bin/sh\necho mine\n")
    why = command.install(with_systemd(store), "/agent.pyz")
    assert "not ours" in why and place.read_text() == "#!/bin/sh\necho mine\n"
    checkpoint(store, "first", [{"files": {"paths": [str(place.parent)]}}])
    place.write_text("changed")
    rollback(store, "first")
    assert place.read_text() == "#!/bin/sh\necho mine\n"


@needs_root
def test_our_file_is_part_of_no_checkpoint_and_survives_each_rollback(store: Store, place: Path) -> None:
    spec = [{"files": {"paths": [str(place.parent)]}}]
    first = checkpoint(store, "first", spec)
    assert command.install(with_systemd(store), "/agent.pyz") == ""
    assert checkpoint(store, "first", spec)["changed"] is False and first["changed"]
    (place.parent / "other").write_text("other")
    rollback(store, "first")
    assert not (place.parent / "other").exists() and ours.is_ours(str(place))


@needs_root
def test_a_command_that_the_change_removed_is_back_after_its_rollback(
    store: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "DEFAULT", store.root)
    checkpoint(store, "change", [{"files": {"paths": [str(place.parent)]}}], confirm_within=60.0)
    assert ours.is_ours(str(place))
    before = os.stat(place.parent).st_mtime_ns
    place.unlink()
    (place.parent / "new").write_text("new")
    rollback(store, "change")
    assert ours.is_ours(str(place)) and os.stat(place.parent).st_mtime_ns == before


@needs_root
def test_no_command_where_others_could_replace_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "sbin" / "evenkeel-host"
    monkeypatch.setattr(ours, "COMMAND", str(place))
    assert "no directory" in command.install(with_systemd(store), "/agent.pyz")
    place.parent.mkdir()
    os.chmod(place.parent, 0o2775)
    assert "others can write to it" in command.install(with_systemd(store), "/agent.pyz")
    os.chmod(place.parent, 0o755)
    assert command.install(store, "/agent.pyz") == "" and not place.exists()  # This machine plays several hosts.


@needs_root
def test_a_host_without_a_place_for_it_is_armed_and_says_so(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "DEFAULT", store.root)
    found = armed(store, live)
    assert found["generation"] == 1 and "no directory" in found["warnings"][0]


def test_the_agent_packs_itself_again_as_it_is(store: Store, tmp_path: Path) -> None:
    """A rollback by the command arms, and so installs the agent out of the agent."""
    agent = package.install(store, finish)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from evenkeel_agent._deadman import package\n"
        "from evenkeel_agent._flows.rollback.flow import finish\n"
        "from evenkeel_agent._store.store import Store\n"
        "from evenkeel_agent._host.system import System\n"
        "print(package.install(Store(sys.argv[2], System()), finish))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, agent, store.root], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == agent
