# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource users: six files as one set, under a lock that other programs honour."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    Refused,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import applying, transaction
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.journals import Plan
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import access, accounts
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.flow import finish
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.plan import Options
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.run import Run
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import mounts
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import (
    json_line,
    passages,
    registry,
    users,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Kind, Restore
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Hasher, Objects
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, info, rollback

# Takes the lock as shadow's programs do, adds a user to one file, and to the other a while later.
_ADD = """
import fcntl, os, sys, time
etc, wait = sys.argv[1], float(sys.argv[2])
fd = os.open(etc + "/.pwd.lock", os.O_RDWR | os.O_CREAT, 0o600)
fcntl.lockf(fd, fcntl.LOCK_EX)
with open(etc + "/passwd", "a") as stream: stream.write("new:x:1001:\\n")
print("half", flush=True)
time.sleep(wait)
with open(etc + "/shadow", "a") as stream: stream.write("new:!:\\n")
"""
# Whether the lock of lckpwdf(3) could be had at once.
_TRY = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
try: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError: print("held")
else: print("free")
"""


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    etc = tmp_path / "etc"
    etc.mkdir()
    for name in ("passwd", "shadow", "group", "gshadow", "subuid"):
        (etc / name).write_text("root:\n")
    kind = users.Users(str(etc), patience=1.0)
    monkeypatch.setitem(registry.KINDS, "users", kind)
    return etc


@contextmanager
def adding(etc: Path, wait: float) -> Iterator[None]:
    """Another process is in the middle of adding a user, and done after ``wait`` seconds."""
    argv = [sys.executable, "-c", _ADD, str(etc), str(wait)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "half\n"
        try:
            yield
        finally:
            if wait > 5:
                process.kill()


def has_new(etc: Path) -> list[str]:
    return [name for name in ("passwd", "shadow") if "new" in (etc / name).read_text()]


def free(path: Path) -> bool:
    done = subprocess.run([sys.executable, "-c", _TRY, str(path)], capture_output=True, text=True, check=True)
    return done.stdout == "free\n"


def test_the_six_files_come_back_as_one_set(store: Store, etc: Path) -> None:
    taken = checkpoint(store, "before", [{"users": {}}])
    assert taken["stats"]["paths"] >= 6
    for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid"):
        with open(etc / name, "a") as stream:
            stream.write("new:\n")
    result = rollback(store, "before")
    assert {path.name: path.read_text() for path in etc.iterdir() if path.name != ".pwd.lock"} == dict.fromkeys(
        ("passwd", "shadow", "group", "gshadow", "subuid"), "root:\n"
    )
    assert len(result["done"]) == 6 and not rollback(store, "before")["changed"]
    rollback(store, "undo")
    assert (etc / "subgid").read_text() == "new:\n"


def test_a_home_that_belongs_to_an_account_that_went_is_named(
    store: Store, etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "read_homes", partial(accounts.read_homes, str(etc / "passwd")))
    monkeypatch.setattr(accounts, "mount_points", lambda: {b"/": "ext4", bytes(tmp_path / "nfs"): "nfs4"})
    (etc / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    checkpoint(store, "before", [{"users": {}}])
    homes = {name: tmp_path / name for name in ("deploy", "other", "nfs", "none", "same")}
    number = os.getuid() or 4_001_001
    with open(etc / "passwd", "a") as stream:
        for name, home in homes.items():
            stream.write(f"{name}:x:{0 if name == 'same' else number}:0::{home}:/bin/sh\n")
            if name != "none":
                home.mkdir()
            if name in ("deploy", "nfs"):
                os.chown(home, number, -1)
    result = rollback(store, "before")
    (note,) = [one for one in result["notes"] if "belongs to uid" in one]
    assert note.startswith(f"{homes['deploy']} still belongs to uid {number}, which is no account now")


def test_a_home_that_is_not_there_any_more_is_named(
    store: Store, etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "read_homes", partial(accounts.read_homes, str(etc / "passwd")))
    monkeypatch.setattr(accounts, "mount_points", lambda: {b"/": "ext4", bytes(tmp_path / "nfs"): "nfs4"})
    number = os.getuid() if os.getuid() > 999 else 4_001_001
    uids = {"gone": 4001, "moved": number, "renumbered": 4003, "nfs": 4004, "service": 99, "same": 4005}
    lines = {name: f"{name}:x:{uid}:0::{tmp_path / name}:/bin/sh\n" for name, uid in uids.items()}
    (etc / "passwd").write_text("".join(lines.values()))
    checkpoint(store, "before", [{"users": {}}])
    for name in ("elsewhere", "renumbered"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, number, -1)
    lines["moved"] = lines["moved"].replace(f"{tmp_path}/moved", f"{tmp_path}/elsewhere")
    lines["renumbered"] = lines["renumbered"].replace("4003", str(number))
    (etc / "passwd").write_text("".join(lines[name] for name in ("moved", "renumbered", "same")))
    notes = rollback(store, "before")["notes"]
    assert [one for one in notes if str(tmp_path / "gone") in one] == [
        f"{tmp_path}/gone, the home of uid 4001, is not there: data of accounts are not protected, and where the "
        "change has removed them, they are lost"
    ]
    assert (
        f"{tmp_path}/moved, the home of uid {number}, is at {tmp_path}/elsewhere since the change: move it back"
        in notes
    )
    assert not any(name in one for one in notes for name in ("nfs", "service", "same"))


def test_a_home_that_has_another_owner_again_is_to_be_given_back(
    etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "read_homes", partial(accounts.read_homes, str(etc / "passwd")))
    monkeypatch.setattr(accounts, "mount_points", lambda: {b"/": "ext4"})
    home = str(tmp_path)
    (etc / "passwd").write_text(f"erin:x:4003:0::{home}:/bin/sh\n")
    (found,) = accounts.orphaned({os.lstat(home).st_uid: [home]})
    assert found.endswith("it is the home of uid 4003 again: give it back (chown -R)")


def test_it_takes_no_keys(etc: Path) -> None:
    with pytest.raises(UsageError, match="unknown key 'names'"):
        registry.check([{"users": {"names": ["root"]}}])


def test_half_an_account_is_never_recorded(store: Store, etc: Path) -> None:
    with adding(etc, 0.4):
        checkpoint(store, "with", [{"users": {}}])
    for name in ("passwd", "shadow"):
        (etc / name).write_text("root:\n")
    rollback(store, "with")
    assert has_new(etc) == ["passwd", "shadow"]


def test_a_rollback_waits_for_the_account_and_records_all_of_it(store: Store, etc: Path) -> None:
    checkpoint(store, "before", [{"users": {}}])
    with adding(etc, 0.4):
        rollback(store, "before")
    assert has_new(etc) == []
    rollback(store, "undo")
    assert has_new(etc) == ["passwd", "shadow"]


def test_a_lock_that_is_not_to_be_had_refuses_with_its_holder(store: Store, etc: Path) -> None:
    checkpoint(store, "before", [{"users": {}}])
    with adding(etc, 60):
        for act in (lambda: checkpoint(store, "again", [{"users": {}}]), lambda: rollback(store, "before")):
            with pytest.raises(Refused, match=r"locked for 1 s by process \d+ .*nothing was changed"):
                act()
    assert has_new(etc) == ["passwd"] and "again" not in store.refs()


def test_a_host_comes_back_even_where_an_editor_was_left_open(store: Store, etc: Path) -> None:
    checkpoint(store, "change", [{"users": {}}], confirm_within=60.0)
    rebooted = Store(store.root, replace(store.system, boot_id=lambda: "another"))
    with adding(etc, 60):
        with rebooted.locked():
            finish(rebooted)
        assert has_new(etc) == [] and info(store)["last"]["outcome"] == "rolled_back"


def test_what_a_kill_left_is_finished_under_the_lock(store: Store, etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(store, "before", [{"users": {}}])
    (etc / "passwd").write_text("changed\n")
    apply, seen = applying.apply, []

    def kill(*_words: object) -> None:
        raise KeyboardInterrupt

    def look(plan: Plan) -> tuple[list[str], dict[str, str]]:
        seen.append(free(etc / ".pwd.lock"))
        return apply(plan)

    monkeypatch.setattr(transaction, "apply", kill)
    with pytest.raises(KeyboardInterrupt):
        rollback(store, "before")
    monkeypatch.setattr(transaction, "apply", look)
    with store.locked():
        finish(store)
    assert seen == [False] and (etc / "passwd").read_text() == "root:\n" and free(etc / ".pwd.lock")


def test_accounts_go_back_first_under_their_own_lock_alone(
    store: Store, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package manager that runs does not keep anybody out for longer."""
    monkeypatch.setattr(access, "PATHS", (str(etc / "passwd"),))
    checkpoint(store, "change", [{"users": {}}], confirm_within=60.0)
    (etc / "passwd").write_text("changed\n")
    apply, seen = applying.apply, []

    def look(plan: Plan) -> tuple[list[str], dict[str, str]]:
        seen.append((free(etc / ".pwd.lock"), [os.path.basename(one.path) for one in plan.operations]))
        return apply(plan)

    def lock(_kind: Kind, *_words: object) -> AbstractContextManager[None]:
        pytest.fail("the lock of a kind that gives no access is asked for")

    monkeypatch.setattr(transaction, "apply", look)
    monkeypatch.setattr(type(registry.KINDS["packages"]), "locked", lock)
    rebooted = Store(store.root, replace(store.system, boot_id=lambda: "another"))
    with rebooted.locked():
        finish(rebooted)
    assert seen == [(False, [b"passwd"])] and (etc / "passwd").read_text() == "root:\n"


def test_the_lock_is_not_held_while_services_start(store: Store, etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(store, "before", [{"users": {}}])
    (etc / "passwd").write_text("changed\n")
    start, seen = Run.start, []

    def look(run: Run) -> None:
        seen.append(free(etc / ".pwd.lock"))
        start(run)

    monkeypatch.setattr(Run, "start", look)
    rollback(store, "before")
    assert seen == [True]


def test_reading_the_tree_of_the_lock_does_not_drop_it(tmp_path: Path) -> None:
    lock = tmp_path / ".pwd.lock"
    with users.locked(str(lock), 1.0, System()):
        lock.read_bytes()
        assert not free(lock)
    assert free(lock)


@pytest.mark.skipif(os.geteuid() != 0, reason="the lock of the system's own files")
def test_it_is_the_lock_of_lckpwdf(tmp_path: Path) -> None:
    hold = "import ctypes, time; print(ctypes.CDLL(None).lckpwdf(), flush=True); time.sleep(30)"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "0\n"
        try:
            with (
                pytest.raises(Refused, match=f"by process {process.pid} "),
                users.locked("/etc/.pwd.lock", 0.1, System()),
            ):
                pass
        finally:
            process.kill()
    with users.Users().locked(System(), None):
        assert not free(Path("/etc/.pwd.lock"))


@pytest.mark.parametrize("pattern", ["passwd", "passwd*", "/etc/passwd", "/e*/pass*"])
def test_files_must_not_exclude_what_belongs_to_it(pattern: str) -> None:
    """It would be in neither of the two."""
    declared = [{"users": {}}, {"files": {"paths": ["/etc"], "exclude": [pattern]}}]
    with pytest.raises(UsageError, match="/etc/passwd belongs to users, and files excludes it"):
        registry.check(declared)
    registry.check([{"users": {}}, {"files": {"paths": ["/etc"], "exclude": ["*.dpkg-old", "/etc/x/passwd"]}}])
    registry.check([{"users": {}}, {"files": {"paths": ["/srv"], "exclude": [pattern]}}])


def test_the_directories_that_programs_of_all_users_pass_are_recorded(etc: Path) -> None:
    found = {one.path for one in passages.read_passages(str(etc / "passwd"))}
    wanted = ("/", "/etc", "/home", "/opt", "/root", "/srv", "/usr/local", "/usr/share", "/var/lib", "/var/log")
    near = [one for one in wanted if os.path.isdir(one) and mounts.file_system_of(one) in passages._NEAR]
    assert near and set(near) <= found


@pytest.fixture
def home(etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of an account that can log in, with a directory of keys; nothing else of this machine is looked at."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    home.chmod(0o755)
    (home / ".ssh").chmod(0o700)
    (etc / "passwd").write_text(f"ops:x:1:1::{home}:/bin/sh\nweb:x:2:2::{etc}:/usr/sbin/nologin\nbad:x:3\n")
    monkeypatch.setattr(passages, "_OF_ALL", ())
    monkeypatch.setattr(passages, "_NEAR", {*mounts.mount_points().values()})
    return home


def recorded(etc: Path) -> tuple[users.Users, list[str]]:
    kind = users.Users(str(etc), nologin=str(etc / "run-nologin"))
    return kind, kind.capture({}, Hasher(), System())


def back(kind: users.Users, lines: list[str], *changed: str, boot: bool = False) -> list[str]:
    """Plan and apply; the targets."""
    at = Restore(System(), Objects("/nowhere"), changed, boot=boot)
    return [step.target for step in kind.apply(kind.plan(lines, at), at)]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_directories_that_a_login_passes_get_their_modes_again(etc: Path, home: Path) -> None:
    """sshd refuses each key below a home that others can write to."""
    kind, lines = recorded(etc)
    assert recorded(etc)[1] == lines
    assert kind.access_lines(lines) == [line for line in lines if not line.startswith("linger ")]
    assert str(home) in str(lines) and f'"{etc}"' not in str(lines)
    home.chmod(0o777)
    (home / ".ssh").chmod(0o2770)
    assert kind.verify(lines, System()) == [
        f"{home} has the mode 777, and had 755",
        f"{home}/.ssh has the mode 2770, and had 700",
    ]
    assert kind.covers({}, lines, {str(home): "mode", f"{home}/.ssh": "new"}, Restore(System(), Objects("/n"))) == [
        str(home)
    ]
    # What goes back with the files is not done twice.
    assert back(kind, lines, f"{home}/.ssh") == [str(home)]
    assert back(kind, lines) == [f"{home}/.ssh"] and (mode(home), mode(home / ".ssh")) == (0o755, 0o700)
    assert kind.verify(lines, System()) == [] and back(kind, lines) == []


class Logind:
    """The files of logind in ``folder``; it answers in ``seconds`` of a clock of its own, if at all."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seconds, self.rc, self.clock = folder, 0.0, 0, 0.0
        self.ran: list[tuple[str, ...]] = []
        folder.mkdir()
        self.system = replace(System(), run=self.run, has_systemd=lambda: True, monotonic=lambda: self.clock)

    def run(self, argv: Sequence[str], _seconds: float) -> Completed:
        self.ran.append(tuple(argv[1:]))
        self.clock += self.seconds
        return Completed(tuple(argv), self.rc, "", "no such account")

    def kind(self, etc: Path) -> users.Users:
        return users.Users(str(etc), nologin=str(etc / "passwd"), linger=str(self.folder))

    def has(self, *names: str) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for name in names:
            (self.folder / name).touch()


PASSWD = "".join(f"{name}:x:{uid}:1::/:/bin/sh\n" for name, uid in (("svc", 900), ("other", 901), ("joe", 1000)))


@pytest.fixture
def logind(etc: Path, tmp_path: Path) -> Logind:
    (etc / "passwd").write_text(PASSWD)
    return Logind(tmp_path / "linger")


@pytest.mark.parametrize("rc", [0, 1])
def test_services_of_accounts_run_without_a_login_as_before(etc: Path, logind: Logind, rc: int) -> None:
    kind, at, linger = logind.kind(etc), Restore(logind.system, Objects("/nowhere")), logind.folder
    none = kind.capture({}, Hasher(), logind.system)
    logind.rc = rc
    logind.has("svc", "-x")
    lines = kind.capture({}, Hasher(), logind.system)
    logind.has("other", "-x")
    assert kind.verify(lines, logind.system) == [], "accounts may change it for themselves all the time"
    done = kind.apply(kind.plan(lines, at), at)
    assert sorted(os.listdir(linger)) == ["-x", "svc"] and kind.plan(lines, at) == []
    assert logind.ran == [("disable-linger", "other"), ("enable-linger", "svc")]
    assert [one.detail.get("note") for one in done] == (
        [
            "services of other may run until the next boot: no such account",
            "services of svc run without a login from the next boot on: no such account",
        ]
        if rc
        else [None, None]
    )
    # A checkpoint without any, the boot at which logind does not run yet, and one of an older version.
    shutil.rmtree(linger)
    boot = at._replace(boot=True)
    kind.apply(kind.plan(lines, boot), boot)
    assert os.listdir(linger) == ["svc"] and mode(linger / "svc") == 0o644
    kind.apply(kind.plan(none, boot), boot)
    assert os.listdir(linger) == [] and len(logind.ran) == 2
    older = [line for line in none if not line.startswith("linger ")]
    logind.has("svc")
    assert kind.plan(older, at) == [] and kind.covers({}, older, {f"{linger}/svc": "new"}, at) == []
    with pytest.raises(Damaged):
        kind.plan(['linger {"names": ["../x"]}'], at)


def test_logind_is_asked_no_more_once_it_has_not_answered(etc: Path, logind: Logind) -> None:
    kind, at = logind.kind(etc), Restore(logind.system, Objects("/nowhere"))
    lines = kind.capture({}, Hasher(), logind.system)
    logind.has("svc", "other")
    logind.rc, logind.seconds = 124, 10.0
    done = kind.apply(kind.plan(lines, at), at)
    assert logind.ran == [("disable-linger", "other")] and os.listdir(logind.folder) == []
    assert done[1].detail["note"] == "services of svc may run until the next boot: logind has not answered"


def test_people_keep_their_own_choice(etc: Path, logind: Logind) -> None:
    """Their jobs would end, or start; accounts that came or went with the change are the change's."""
    (etc / "passwd").write_text(PASSWD + "gone:x:1001:1::/:/bin/sh\n")
    kind, at, linger = logind.kind(etc), Restore(logind.system, Objects("/nowhere")), logind.folder
    logind.has("gone", "mary@example.com")
    lines = kind.capture({}, Hasher(), logind.system)
    logind.has("joe", "new", "svc")
    (etc / "passwd").write_text(PASSWD + "new:x:1001:1::/:/bin/sh\n")
    steps = kind.plan(lines, at)
    assert [(one.action, os.path.basename(one.target)) for one in steps] == [
        ("delete", "new"),
        ("delete", "svc"),
        ("create", "gone"),
    ]
    assert kind.first(steps) == steps[:2]
    assert kind.stays(lines) == [
        f"services of {who} without a login (loginctl), unlike at the checkpoint: people may change that for "
        "themselves, so that it stays"
        for who in ("joe run", "mary@example.com do not run")
    ]
    changed = {f"{linger}/{name}": "new" for name in ("joe", "new", "svc")} | {f"{linger}/gone": "removed"}
    covered = [f"{linger}/{name}" for name in ("new", "svc", "gone")]
    assert kind.covers({}, lines, changed, at) == covered
    # With its account back, only what was planned before tells that this is due.
    kind.apply(kind.first(steps), at)
    (etc / "passwd").write_text(PASSWD + "gone:x:1001:1::/:/bin/sh\n")
    assert kind.plan(lines, at) == [] and kind.plan(lines, at._replace(undone=steps[2:])) == steps[2:]
    kind.apply(steps[2:], at)
    assert kind.covers({}, lines, {f"{linger}/joe": "new", f"{linger}/gone": "content or time"}, at) == covered[2:]


@pytest.mark.parametrize(
    ("name", "account"),
    [
        ("joe@corp.example.com", "joe@corp.example.com"),
        ("CORP\\\\joe", "CORP\\joe"),
        ("joe\\x40corp", "joe@corp"),
        ("j\\303\\266rg", "jörg"),
        ("joe\\000", ""),
        ("joe\\x0a", ""),
        ("-joe", ""),
    ],
)
def test_a_file_of_logind_counts_as_covered_where_its_account_is_handled(
    etc: Path, logind: Logind, name: str, account: str
) -> None:
    kind, at, path = logind.kind(etc), Restore(logind.system, Objects("/nowhere")), f"{logind.folder}/{name}"
    lines = kind.capture({}, Hasher(), logind.system)
    logind.has(name)
    with open(etc / "passwd", "a", encoding="utf-8") as stream:
        stream.write(f"{account or 'joe'}:x:1002:1::/:/bin/sh\n")
    changed = {path: "new", str(logind.folder): "new", f"{path}/x": "new"}
    assert kind.covers({}, lines, changed, at) == ([path, str(logind.folder)] if account else [])
    kind.apply(kind.plan(lines, at), at)
    assert logind.ran == ([("disable-linger", account)] if account else [])


@pytest.mark.parametrize("unattended", [False, True])
def test_services_end_before_their_account_goes_and_start_after_it_is_back(
    etc: Path, logind: Logind, unattended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passages, "_OF_ALL", ())
    monkeypatch.setattr(access, "PATHS", (str(etc),))
    monkeypatch.setitem(registry.KINDS, "users", logind.kind(etc))
    seen: list[tuple[str, bool]] = []

    def run(argv: Sequence[str], _seconds: float) -> Completed:
        has = f"{argv[-1]}:" in (etc / "passwd").read_text()
        seen.append((" ".join(argv[1:]), has))
        return Completed(tuple(argv), int(not has), "", "")

    (etc / "passwd").write_text(PASSWD + "gone:x:1001:1::/:/bin/sh\n")
    logind.has("gone")
    store = Store(str(tmp_path / "store"), replace(System(), run=run, has_systemd=lambda: True))
    checkpoint(store, "before", [{"users": {}}])
    (etc / "passwd").write_text(PASSWD + "new:x:1001:1::/:/bin/sh\n")
    logind.has("new")
    seen.clear()
    manifest = store.manifest(store.resolve("before"))
    with store.locked():
        result = Run(store, manifest, Options(unattended=unattended)).carry_out()
    assert [one for one in seen if "linger" in one[0]] == [("disable-linger new", True), ("enable-linger gone", True)]
    assert os.listdir(logind.folder) == ["gone"] and not [one for one in result.notes if "services of" in one]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives directories away")
def test_they_get_their_owners_again_but_none_that_a_user_has_put_there(etc: Path, home: Path) -> None:
    os.chown(home, 4_001_001, 4_001_001)
    os.chown(home / ".ssh", 4_001_001, 4_001_001)
    kind, lines = recorded(etc)
    for path in (home, home / ".ssh"):
        os.chown(path, 0, 0)
    assert back(kind, lines) == [str(home), f"{home}/.ssh"] and (home / ".ssh").stat().st_uid == 4_001_001
    # A directory of root's that the user has moved there stays root's.
    (home / ".ssh").rename(home / "old")
    (home / ".ssh").mkdir(mode=0o755)
    at = Restore(System(), Objects("/nowhere"))
    (step,) = kind.apply(kind.plan(lines, at), at)
    assert step.action == "leave" and "belongs to 0:0" in step.detail["note"]
    assert "but it is another directory now, and the directory" in step.detail["note"]
    assert (home / ".ssh").stat().st_uid == 0 and kind.verify(lines, System()) == []


def seen_by_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """We count as a user, and the way to the homes of this test as root's."""
    monkeypatch.setattr(passages, "trusted", lambda: {4_001_009})
    monkeypatch.setattr(passages, "stranger", lambda path, _owners: "it is theirs" if path.endswith("/.ssh") else "")


def test_a_user_cannot_keep_a_host_in_doubt(etc: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another directory in the place of the keys, or by a mode that the user sets anew all the time."""
    kind, lines = recorded(etc)
    (home / ".ssh").rename(home / "old")
    (home / ".ssh").mkdir(mode=0o755)
    home.chmod(0o750)
    assert len(kind.verify(lines, System())) == 2, "root has changed its own directories"
    seen_by_root(monkeypatch)
    assert kind.verify(lines, System()) == []
    at = Restore(System(), Objects("/nowhere"))
    done = kind.apply(kind.plan(lines, at), at)
    assert [(step.action, step.target) for step in done] == [("attributes", str(home)), ("leave", f"{home}/.ssh")]
    assert done[1].detail["note"].startswith(f"{home}/.ssh stays as it is: it has the mode 755, and had 700, but it is")
    assert (mode(home), mode(home / ".ssh")) == (0o755, 0o755)
    # A link that comes between plan and apply.
    steps = kind.plan(lines, at)
    (home / ".ssh").rmdir()
    (home / ".ssh").symlink_to(home / "old")
    (step,) = kind.apply(steps, at)
    assert "no directory is there now" in step.detail["note"]


def test_what_others_could_reach_meanwhile_is_still_roots(etc: Path, home: Path) -> None:
    """The mode of a directory that is still the one of root, though the way to it was open."""
    kind, lines = recorded(etc)
    (home / ".ssh").chmod(0o777)
    home.chmod(0o777)
    assert len(kind.verify(lines, System())) == 2


def test_the_owner_of_a_home_is_not_up_to_its_user(etc: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen_by_root(monkeypatch)
    then = passages.check(json.loads(next(line for line in recorded(etc)[1] if ".ssh" not in line).partition(" ")[2]))
    assert then.is_up_to_them(then._replace(mode=0o777)) and then.is_up_to_them(then._replace(inode=1, uid=5))
    assert then.differs(None) == "" and then.is_up_to_them(None)
    assert not then.is_up_to_them(then._replace(uid=then.uid + 1))
    mine = then._replace(uid=4_001_009)
    assert not mine.is_up_to_them(mine._replace(mode=0o777))


def test_a_way_that_somebody_changes_meanwhile_is_not_roots(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: str, _owners: object) -> str:
        raise OSError(errno.ELOOP, "a loop")

    monkeypatch.setattr(passages, "stranger", fail)
    assert passages.Passage(str(home), 0o755, os.geteuid(), 0, 1, "/").is_theirs()


def test_homes_of_another_host_and_its_file_that_keeps_users_out_are_not_carried(etc: Path) -> None:
    def line(path: str, uid: int) -> str:
        return json_line.write("passage", passages.Passage(path, 0o755, uid, 0, 1, "/")._asdict())

    stay = [line("/home", 0), line("/home/opsy", 0), line("/root/.ssh", 0)]
    theirs = [line("/home/ops", 1000), line("/home/ops/.ssh", 0)]
    assert users.Users(str(etc)).carried([*stay, *theirs, json_line.write("nologin", {})]) == stay


def test_a_link_and_another_file_system_in_the_place_of_a_home_are_left_alone(
    etc: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, lines = recorded(etc)
    other = tmp_path / "other"
    other.mkdir(mode=0o711)
    home.rename(tmp_path / "moved")
    home.symlink_to(other)
    assert kind.verify(lines, System()) == [] and back(kind, lines) == [] and mode(other) == 0o711
    home.unlink()
    home.mkdir(mode=0o700)
    points = {**mounts.mount_points(), os.fsencode(home): next(iter(passages._NEAR))}
    monkeypatch.setattr(passages, "mount_points", lambda: points)
    assert kind.verify(lines, System()) == [] and back(kind, lines) == [] and mode(home) == 0o700


def telling(state: str) -> System:
    """A system of which systemd tells this state."""

    def run(argv: Sequence[str], _limit: float) -> Completed:
        return Completed(tuple(argv), 1, f"{state}\n", "")

    return replace(System(), has_systemd=lambda: True, run=run)


def test_a_file_that_keeps_all_users_out_goes_unless_the_host_shuts_down(etc: Path, home: Path) -> None:
    kind, lines = recorded(etc)
    nobody = Path(kind.nologin)
    nobody.write_text("maintenance")
    assert back(kind, lines, boot=True) == [] and nobody.exists()
    assert kind.verify(lines, System()) == [f"{nobody} keeps out all users but root, and was not there"]
    # Where it was there it stays.
    assert back(kind, recorded(etc)[1]) == [] and nobody.exists()
    planned = users.Users(str(etc), nologin=str(nobody), planned=str(home))
    assert back(planned, lines) == [] and planned.verify(lines, System()) == [] and nobody.exists()
    # While the host boots, systemd takes it away itself.
    for state, words in (("initializing", 0), ("starting", 0), ("degraded", 1), ("running", 1)):
        system = telling(state)
        assert len(kind.verify(lines, system)) == words
        assert (
            len([step for step in kind.plan(lines, Restore(system, Objects("/n"))) if step.action == "delete"]) == words
        )
    assert back(users.Users(str(etc), nologin=str(nobody)), lines) == [str(nobody)] and not nobody.exists()


@pytest.mark.parametrize(
    "line",
    [
        "passage {}",
        'passage {"path": "home", "mode": 1, "uid": 0, "gid": 0, "inode": 1, "mount": "/"}',
        'passage {"path": "/home", "mode": 65536, "uid": 0, "gid": 0, "inode": 1, "mount": "/"}',
        'passage {"path": "/home", "mode": 1, "uid": -1, "gid": 0, "inode": 1, "mount": "/"}',
        'strange {"path": "/home"}',
    ],
)
def test_a_line_of_a_directory_that_was_never_written_is_damage(etc: Path, line: str) -> None:
    with pytest.raises(Damaged, match="is refused"):
        users.Users(str(etc)).plan([line], Restore(System(), Objects("/nowhere")))
