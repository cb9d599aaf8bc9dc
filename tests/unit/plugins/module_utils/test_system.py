# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kind system: it stands for other kinds, gives way to what is declared beside it, and names what it leaves out."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Refused, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import access
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import logins
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import files, plain, registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.declared import refuse_outside
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.files import Files
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.registry import KINDS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.manifest import Section
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback

from .conftest import SYSTEM

WHOLE: dict[str, Any] = {"system": {}}
EXCLUDE = plain.EXCLUDE


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with files alone: what the other kinds have is tested with them."""
    root = tmp_path / "host"
    for name in ("etc", "opt", "usr/local"):
        (root / name).mkdir(parents=True)
    monkeypatch.setattr(plain, "TREES", tuple(f"{root}/{name}" for name in ("etc", "usr/local", "opt", "srv")))
    monkeypatch.setattr(plain, "EXCLUDE", (f"{root}/etc/machine-id",))
    monkeypatch.setattr(plain, "_MIXED", (f"{root}/opt",))
    monkeypatch.setattr(logins, "home", lambda: "")
    monkeypatch.setattr(plain, "SELINUX", str(tmp_path / "enforce"))
    monkeypatch.setattr(plain, "MACHINES", str(root / "etc/libvirt/qemu"))
    for name, kind in KINDS.items():
        if name != "files":
            monkeypatch.setattr(type(kind), "on_plain_host", None)
    monkeypatch.setattr(Files, "on_plain_host", {"paths": list(plain.TREES), "exclude": list(plain.EXCLUDE)})
    return root


def sections(*beside: dict[str, Any]) -> dict[str, list[Section]]:
    found: dict[str, list[Section]] = {}
    for section in registry.check([WHOLE, *beside]):
        found.setdefault(section.kind, []).append(section)
    return found


def left(*beside: dict[str, Any]) -> list[str]:
    (section,) = sections(*beside)["system"]
    return KINDS["system"].not_restorable(section.spec, [])


def test_every_kind_of_a_plain_host_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    kinds = {name for name, kind in KINDS.items() if kind.on_plain_host is not None}
    assert kinds >= {"files", "packages", "users", "network", "services", "sysctl", "firewall"}
    assert not kinds & {"system", "mounts", "postgresql", "subvolumes"}
    assert registry.DEFAULT == [WHOLE]


def test_a_plain_host_comes_back(host: Path, store: Store) -> None:
    for name, text in (("etc/app.conf", "old"), ("etc/machine-id", "1"), ("opt/tool", "old")):
        (host / name).write_text(text)
    taken = checkpoint(store, "before", [WHOLE])
    trees = [str(host / name) for name in ("etc", "opt", "srv", "usr/local")]
    assert taken["protects"] == [f"files ({', '.join(trees)})"]
    assert taken["left"] == [], "nobody has named the tree that is not there"
    (host / "srv").mkdir()
    (host / "srv/key").write_text("of the change")
    for name in ("etc/app.conf", "etc/machine-id", "etc/new", "opt/tool", "usr/local/new"):
        (host / name).write_text("new")
    rollback(store, "before")
    assert (host / "etc/app.conf").read_text() == (host / "opt/tool").read_text() == "old"
    assert not (host / "etc/new").exists() and not (host / "usr/local/new").exists()
    assert not (host / "srv").exists(), "a tree that came goes"
    assert (host / "etc/machine-id").read_text() == "new", "the identity of a host is no part of it"
    assert checkpoint(store, "before", [{"files": {"paths": [str(host / "etc")]}}])["protects"] == []


@pytest.mark.parametrize(
    "path",
    [
        "/etc/lvm/devices/system.devices",
        "/etc/zfs/zpool.cache",
        "/etc/multipath/wwids",
        "/etc/systemd/system/snap-core22-1122.mount",
        "/etc/systemd/system/snapd.mounts.target.wants/snap-core22-1122.mount",
        "/etc/systemd/system/snap.lxd.daemon.service",
        "/var/spool/cron/atjobs/a0000101c5f2b0",
        "/var/spool/cron/atspool/a0000101c5f2b0",
    ],
)
def test_books_of_what_does_not_go_back_are_left_alone(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    spec: dict[str, Any] = dict(Files.on_plain_host or {})
    assert files.excludes(spec, path)
    for kept in ("/etc/lvm/lvm.conf", "/etc/multipath.conf", "/etc/systemd/system/snapd.service.d/x.conf"):
        assert not files.excludes(spec, kept)
    assert not files.excludes(spec, "/var/spool/cron/crontabs/root")


USER = 12345


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The keys of the account by which the controller has come."""
    path = tmp_path / "home" / "ops" / ".ssh" / "authorized_keys"
    path.parent.mkdir(parents=True)
    path.write_text("ssh-ed25519 A controller\n")
    path.chmod(0o600)
    for one in (path, path.parent, path.parent.parent):
        os.chown(one, USER, USER)
    monkeypatch.setattr(logins, "home", lambda: str(tmp_path / "home" / "ops"))
    return path


def test_the_keys_by_which_the_controller_has_come_are_part_of_it(host: Path, keys: Path, store: Store) -> None:
    taken = checkpoint(store, "before", [WHOLE])
    assert str(keys) in taken["protects"][0] and taken["left"] == []
    keys.write_text("ssh-ed25519 B somebody else\n")  # As authorized_key with exclusive does.
    (keys.parent / "known_hosts").write_text("theirs")
    for section in store.manifest(taken["id"]).sections:
        narrow = access.narrowed(section)
        if section.kind == "files":
            assert narrow is not None and narrow.spec["paths"] == [str(keys)], "people can log in before the rest"
    rollback(store, "before")
    info = keys.stat()
    assert keys.read_text() == "ssh-ed25519 A controller\n" and (info.st_uid, info.st_mode) == (USER, 0o100600)
    assert (keys.parent / "known_hosts").exists(), "nothing else of the user is touched"


def test_a_link_of_the_user_is_not_followed(host: Path, keys: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of root")
    keys.unlink()
    assert left() == [] and str(keys) not in str(sections()), "it need not be there"
    keys.symlink_to(secret)
    assert left() == [f"files: {keys} lets the controller log in, and is not protected: {keys} is a link"]
    assert str(keys) not in str(sections()["files"])
    keys.unlink()
    keys.parent.rename(tmp_path / "moved")
    keys.parent.symlink_to(tmp_path / "moved")
    assert f"{keys.parent} is a link" in left()[0]
    # All homes may lie behind a link. The rest of the host is protected all the same.
    homes = keys.parent.parent.parent
    homes.rename(tmp_path / "elsewhere")
    homes.symlink_to(tmp_path / "elsewhere")
    assert f"{homes} is a link" in left()[0] and str(keys) not in str(sections()["files"])


def test_keys_that_may_not_be_had_are_named(host: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = str(keys.parent.parent)
    found, words = plain.keys_of_login([], {"/": "ext4", home: "nfs4"})
    assert found == [] and "it lies on nfs4" in words[0]
    with open(keys, "r+") as stream:
        stream.truncate(2 << 20)
    assert "larger than 1 MB" in plain.keys_of_login([], {"/": "ext4"})[1][0]
    assert plain.keys_of_login([home], {"/": "ext4"}) == ([], []), "somebody has declared it"


def test_the_account_by_which_we_have_come_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(logins, "login_of", lambda _pid: nobody.pw_uid)
    for name in ("SUDO_USER", "DOAS_USER"):
        monkeypatch.delenv(name, raising=False)
    assert logins.home() == nobody.pw_dir
    monkeypatch.setattr(logins, "login_of", lambda _pid: -1)
    assert logins.home() == ""
    monkeypatch.setenv("SUDO_USER", "nobody")
    assert logins.home() == nobody.pw_dir
    for name in ("root", "no-such-account"):
        monkeypatch.setenv("SUDO_USER", name)
        assert logins.home() == ""


def test_what_is_declared_beside_it_comes_in_its_place(host: Path) -> None:
    (host / "etc/web").mkdir()
    inside, whole = (
        {"files": {"paths": [f"{host}/etc/web"], "exclude": ["*.log"]}},
        {"files": {"paths": [f"{host}/opt"]}},
    )
    own, *theirs = sorted((one.spec for one in sections(inside, whole)["files"]), key=lambda spec: -len(spec["paths"]))
    assert own["paths"] == [f"{host}/etc", f"{host}/srv", f"{host}/usr/local"]
    assert f"{host}/etc/web" in own["exclude"]
    assert {one["paths"][0] for one in theirs} == {f"{host}/etc/web", f"{host}/opt"}
    assert left(inside, whole) == []


def test_a_name_that_is_a_pattern_leaves_out_itself_alone(host: Path, store: Store) -> None:
    for name in ("a*", "ab"):
        (host / "etc" / name).mkdir()
        (host / "etc" / name / "x").write_text("old")
    checkpoint(store, "before", [WHOLE, {"files": {"paths": [f"{host}/etc/a*"], "exclude": ["x"]}}])
    (host / "etc/ab/x").write_text("new")
    (host / "etc/a*/x").write_text("new")
    rollback(store, "before")
    assert (host / "etc/ab/x").read_text() == "old"
    assert (host / "etc/a*/x").read_text() == "new"


def test_what_it_stands_for_is_declared_as_it(host: Path) -> None:
    more = {"files": {"paths": [str(host / "etc")], "exclude": []}}
    assert registry.declared(registry.check([WHOLE])) == [WHOLE]
    assert registry.declared(registry.check([more, WHOLE])) in ([WHOLE, more], [more, WHOLE])


@pytest.mark.parametrize("error", [UsageError, Refused])
def test_a_kind_that_this_host_cannot_have_is_named(
    error: type[UsageError | Refused], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_spec: Any) -> dict[str, object]:
        raise error("firewall: there is no nft here")

    monkeypatch.setattr(type(KINDS["firewall"]), "on_plain_host", {})
    monkeypatch.setattr(KINDS["firewall"], "check", refuse)
    assert left() == ["there is no nft here (firewall is not protected)"]
    with pytest.raises(error, match="no nft"):
        registry.check([{"firewall": {}}])


def test_what_selinux_keeps_elsewhere_is_named_where_it_is_enabled(tmp_path: Path) -> None:
    assert left() == []
    (tmp_path / "enforce").touch()
    (words,) = left()
    assert words.startswith("files: SELinux: modules, ports and contexts") and "/var/lib/selinux" in words


def test_a_tree_that_leads_elsewhere_is_named(host: Path) -> None:
    os.rename(host / "opt", host / "data")
    os.symlink("data", host / "opt")
    assert left() == [f"files: {host}/opt leads to {host}/data, which is not protected unasked"]
    assert sections()["files"][0].spec["paths"] == [f"{host}/etc", f"{host}/srv", f"{host}/usr/local"]


def test_no_more_than_so_much_is_kept_unasked(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_BYTES", 2 << 20)
    monkeypatch.setattr(plain, "_FILES", 40)
    for name, size in (("opt/big/data/a", 1_500_000), ("opt/big/b", 100), ("opt/mid/a", 900_000), ("etc/one", 100_000)):
        (host / name).parent.mkdir(parents=True, exist_ok=True)
        (host / name).write_bytes(os.urandom(size))
    assert left() == [f"files: too large to be kept unasked: {host}/opt/big/data (1 MB)"]
    # What is declared for itself is kept, and does not count.
    assert left({"files": {"paths": [f"{host}/opt/big"]}}) == []
    for number in range(50):
        (host / "opt/many/x").mkdir(parents=True, exist_ok=True)
        (host / f"opt/many/x/{number}").touch()
    (words,) = left()
    assert f"{host}/opt/many/x (0 MB)" in words and f"{host}/opt/big/data" in words
    # Too many of them are too much as well.
    alone = left({"files": {"paths": [f"{host}/opt/big"]}})
    assert alone == [f"files: too large to be kept unasked: {host}/opt/many/x (0 MB)"]


def test_virtual_machines_may_run_elsewhere_by_now_and_are_named(host: Path) -> None:
    """A rollback would bring back one that has moved away, and take away one that has come."""
    assert "/var/spool/cron/lastrun" in EXCLUDE and left() == []
    here = host / "etc/libvirt/qemu"
    (section,) = sections()["files"]
    assert not files.excludes(section.spec, f"{here}/vm.xml"), "what a change installs goes as a whole"
    here.mkdir(parents=True)
    (words,) = left()
    assert f"{here} is not protected, but for networks: a machine that has moved to another host" in words
    (section,) = sections()["files"]
    for name in ("vm.xml", "n.xml", "net.xml", "networks.xml", "networks-1.xml", "autostart", "autostart/vm.xml"):
        assert files.excludes(section.spec, f"{here}/{name}"), name
    for name in ("", "/networks", "/networks/default.xml", "/networks/autostart/default.xml"):
        assert not files.excludes(section.spec, f"{here}{name}"), name
    # Who declares it has it.
    assert left({"files": {"paths": [str(here.parent)]}}) == []


def test_mounts_from_elsewhere_and_mounted_files_are_named(host: Path, tmp_path: Path) -> None:
    (host / "etc/hosts").touch()
    (host / "opt/share").mkdir()
    (host / "opt/disk").mkdir()
    roots = [f"{host}/etc", f"{host}/opt"]
    points = {f"{host}/etc/hosts": "ext4", f"{host}/opt/share": "nfs4", f"{host}/opt/disk": "ext4", "/": "ext4"}
    (tmp_path / "proc").mkdir()
    found, words = plain.left_out(roots, [], {**points, "/proc": "proc"}, str(tmp_path / "proc"))
    assert found == [f"{host}/etc/hosts", f"{host}/opt/share"]
    shown = f"{host}/etc/hosts (a file), {host}/opt/share (nfs4)"
    spec = {"paths": roots, "exclude": found}
    assert files.mounted(spec, points) == {f"{host}/opt/disk": "ext4"}, "what is left out is told once"
    assert words == [f"mounted there, and not protected unasked: {shown}"]


@pytest.fixture
def held(host: Path) -> Iterator[Path]:
    (host / "opt/app/logs").mkdir(parents=True)
    with open(host / "opt/app/logs/app.log", "w") as stream, open(host / "etc/state", "w") as other:
        stream.write("x")
        other.write("x")
        with open(host / "opt/tool", "w+"), open(host / "opt/app/logs/app.log"):
            (host / "etc/read").touch()
            with open(host / "etc/read"):
                yield host / "opt/app/logs"


def test_what_a_program_writes_is_left_out_and_named(host: Path, held: Path) -> None:
    (words,) = left()
    assert words.startswith("files: written by a program that runs, and not protected: ")
    # The directory of a log; and the file alone in the configuration, and at the top of a tree.
    for path in (held, host / "etc/state", host / "opt/tool"):
        assert f"{path} (" in words
    assert len(words.split(", ")) == 4


def test_a_user_who_writes_to_a_file_of_his_keeps_nobody_else_s_out(host: Path, tmp_path: Path) -> None:
    folder = host / "opt/shared"
    folder.mkdir()
    (folder / "theirs").touch()
    process = tmp_path / "proc" / "7"
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text("evil\n")
    with open(folder / "theirs", "w") as stream:
        os.symlink(os.readlink(f"/proc/self/fd/{stream.fileno()}"), process / "fd" / "3")
    (process / "status").write_text("Uid:\t0\t12345\t0\t0\n")  # Its directory in /proc may be root's all the same.
    found, _words = plain.left_out([f"{host}/opt"], [], {}, str(tmp_path / "proc"))
    assert found == [f"{folder}/theirs"]
    (process / "status").write_text("Uid:\t0\t0\t0\t0\n")
    assert plain.left_out([f"{host}/opt"], [], {}, str(tmp_path / "proc"))[0] == [str(folder)]


@pytest.mark.skipif(os.geteuid() != 0, reason="it gives files away")
def test_all_data_of_a_program_is_left_out_and_not_its_files_of_the_moment(host: Path, tmp_path: Path) -> None:
    """What the program makes there next would go, and what it counts on would change, under the running program."""
    made = ("kafka/store/topicA-0/00.log", "kafka/config/server.properties", "kafka/libs/kafka.jar", "kafka/store/meta")
    idle = ("vault/data/core", "vault/config/vault.hcl", "other/data/file", "vault/bin/vault")
    for name in (*made, *idle):
        (host / "opt" / name).parent.mkdir(parents=True, exist_ok=True)
        (host / "opt" / name).touch()
    for folder, _names, _files in os.walk(host / "opt"):
        os.chown(folder, 54321 if "/other" in folder else 12345, -1)
    process = tmp_path / "proc" / "7"
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text("java\n")
    (process / "status").write_text("Uid:\t12345\t12345\t12345\t12345\n")
    os.symlink("/usr/bin/java", process / "exe")
    os.symlink("/", process / "cwd")
    words = ["java", "-cp", f"x:{host}/opt/kafka/libs/kafka.jar", f"-Dlogs={host}/opt/kafka/store", "Kafka"]
    (process / "cmdline").write_text("\0".join(words))
    with open(host / "opt/kafka/store/topicA-0/00.log", "w") as stream:
        os.symlink(os.readlink(f"/proc/self/fd/{stream.fileno()}"), process / "fd" / "3")
        found, said = plain.left_out([f"{host}/opt"], [], {}, str(tmp_path / "proc"))
        assert found == [f"{host}/opt/kafka/store", f"{host}/opt/vault/data"]
        assert said == [
            f"written by a program that runs, and not protected: {host}/opt/kafka/store (java)",
            f"data of the user of a program that runs, not protected: {host}/opt/vault/data (java)",
        ]
        # Not so deep, its data lies beside its program.
        (host / "opt/kafka/store/run.py").touch()
        (process / "cmdline").write_text("\0".join(["python3", f"{host}/opt/kafka/store/run.py"]))
        found, _said = plain.left_out([f"{host}/opt"], [], {}, str(tmp_path / "proc"))
        assert found == [f"{host}/opt/kafka/store/topicA-0", f"{host}/opt/vault/data"]


@pytest.mark.skipif(os.geteuid() != 0, reason="it gives files away")
def test_what_a_person_owns_is_no_data_of_a_program(host: Path, tmp_path: Path) -> None:
    """One who is logged in has processes as well. A directory db has the migrations of an application."""
    for name in ("db", "data"):
        (host / "opt/rails" / name).mkdir(parents=True)
        os.chown(host / "opt/rails" / name, USER, USER)
    process = tmp_path / "proc" / "7"
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text("bash\n")
    (process / "status").write_text(f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}\n")
    (process / "loginuid").write_text(str(USER))
    assert plain.left_out([f"{host}/opt"], [], {}, str(tmp_path / "proc")) == ([], [])
    (process / "loginuid").write_text(str((1 << 32) - 1))
    assert plain.left_out([f"{host}/opt"], [], {}, str(tmp_path / "proc"))[0] == [f"{host}/opt/rails/data"]


@pytest.mark.parametrize(
    ("beside", "running", "left_out"),
    [
        ("conf", "", "app/logs"),  # Its name tells that the application lies there.
        ("x", "", "app"),
        ("x", "0", "app/logs"),  # It runs there.
        ("x", "54321", "app"),  # Of another user: he may run there what he likes.
        ("x", "login", "app"),
    ],
)
def test_a_log_that_another_program_holds_open_takes_no_application_with_it(
    host: Path, tmp_path: Path, beside: str, running: str, left_out: str
) -> None:
    """As rsyslogd does."""
    app = host / "opt/company/app"
    for name in ("logs/app.log", f"{beside}/file", "run.py"):
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).touch()
    user = running if running.isdigit() else "0"
    for pid, uid, words in ((7, "0", "rsyslogd"), *([(8, user, f"python3\0{app}/run.py")] if running else [])):
        process = tmp_path / "proc" / str(pid)
        (process / "fd").mkdir(parents=True)
        (process / "comm").write_text("rsyslogd\n")
        (process / "status").write_text(f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
        (process / "cmdline").write_text(words)
        (process / "loginuid").write_text("1000" if running == "login" else str((1 << 32) - 1))
        os.symlink("/usr/sbin/rsyslogd", process / "exe")
        os.symlink("/", process / "cwd")
    with open(app / "logs/app.log", "a") as stream:
        os.symlink(os.readlink(f"/proc/self/fd/{stream.fileno()}"), tmp_path / "proc" / "7" / "fd" / "3")
        found, _said = plain.left_out([f"{host}/opt"], [], {}, str(tmp_path / "proc"))
    assert found == [f"{host}/opt/company/{left_out}"]


def test_no_file_outside_of_the_trees_is_asked_for(host: Path, held: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may have a file open on a server that is gone."""
    asked, ask = [], os.lstat

    def lstat(path: Any, **how: Any) -> os.stat_result:
        asked.append(os.fspath(path))
        return ask(path, **how)

    monkeypatch.setattr(os, "lstat", lstat)
    with open(host.parent / "elsewhere", "w"):
        plain.left_out([f"{host}/opt"], [str(held)], {})
    assert f"{host}/opt/tool" in asked
    assert not [one for one in asked if one == f"{host.parent}/elsewhere" or one.startswith(f"{held}/")]


def test_a_path_of_another_mount_namespace_is_not_taken_for_one_of_the_host(
    host: Path, held: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user can mount a file of his own there, over any path."""
    (host / "etc/passwd").touch()
    seen = os.readlink

    def elsewhere(path: Any, **how: Any) -> Any:
        found = seen(path, **how)
        return f"{host}/etc/passwd" if found == f"{host}/etc/state" else found

    monkeypatch.setattr(os, "readlink", elsewhere)
    (words,) = left()
    assert "etc/passwd" not in words and str(held) in words


def test_a_checkpoint_of_it_lies_inside_a_declaration_of_it(host: Path, store: Store, keys: Path) -> None:
    (host / "etc/x").touch()
    checkpoint(store, "before", [WHOLE])
    manifest = store.manifest(store.resolve("before"))
    assert str(keys) in str(manifest.sections)
    refuse_outside(manifest, [WHOLE], "web1", True, SYSTEM)
    with pytest.raises(Refused, match="does not declare for web1.*system"):
        refuse_outside(manifest, [{"files": {"paths": [str(host)]}}], "web1", True, SYSTEM)
    checkpoint(store, "more", [{"files": {"paths": [str(host / "etc"), str(store.root) + "x"]}}])
    with pytest.raises(Refused, match="storex"):
        refuse_outside(store.manifest(store.resolve("more")), [WHOLE], "web1", True, SYSTEM)


def test_a_hole_that_nobody_fills_is_refused_as_before(host: Path) -> None:
    with pytest.raises(UsageError, match="excludes it"):
        registry.check([{"users": {}}, {"files": {"paths": ["/etc"], "exclude": ["passwd"]}}])
    both = [{"files": {"paths": ["/etc"], "exclude": ["/etc/passwd"]}}, {"files": {"paths": ["/etc/passwd"]}}]
    registry.check([{"users": {}}, *both])
    with pytest.raises(UsageError, match="overlap"):
        registry.check([{"files": {"paths": ["/etc"]}}, {"files": {"paths": ["/etc/passwd"]}}])
