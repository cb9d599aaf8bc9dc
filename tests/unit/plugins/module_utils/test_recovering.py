# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that takes over the files of another host stays itself, unless it is to become that host."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import changes, doubt
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman.changes import Event
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Refused, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import preflight as ahead
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.entry import Entry, path_of
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.recovering import (
    derive,
    flow,
    hardware,
    identity,
    preflight,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import machine
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.machine import FileSystem, Machine
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import files, json_line, registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import foreign
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.manifest import Section
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import adopt, checkpoint, rollback

from .conftest import SYSTEM

ROOT = Path(__file__).parents[4]


def entry(path: str, kind: str = "f", word: str = "0", **more: Any) -> str:
    """A line; ``word`` is the digit of which the hash of a file consists."""
    more = {"mode": 0o644, "mtime": 7, **({"sha256": word * 64} if kind == "f" else {}), **more}
    return Entry(os.fsencode(path), kind, **more).line()


def tree(*lines: str, paths: tuple[str, ...] = ("/etc",), **more: Any) -> Section:
    above = [entry("/", "D", mtime=0), *(entry(path, "d") for path in paths)]
    spec = {"paths": list(paths), "exclude": [], files.MOUNTS: {}, **more}
    return Section("files", spec, sorted([*above, *lines], key=path_of))


def made(recorded: Section, present: Section, **choices: Any) -> tuple[list[str], list[str]]:
    """(the lines below the tops, the state that is left out)."""
    found = derive.derive([recorded], [present], derive.Choices(**{"keeps": True, **choices}))
    # A reader of manifests accepts what comes out.
    files.recorded(found.sections[0].lines, found.sections[0].spec)
    return [line for line in found.sections[0].lines if path_of(line) not in (b"/", b"/etc")], found.left_out


@pytest.mark.parametrize(
    "path, name",
    [
        ("/etc/hostname", "name"),
        ("/etc/machine-id", "machine id"),
        ("/etc/ssh/ssh_host_ed25519_key.pub", "keys of the host"),
        ("/etc/pki/consumer/cert.pem", "keys of the host"),
        ("/root/.ssh/authorized_keys", "access"),
        ("/etc/sudoers.d/ops", "access"),
        ("/etc/netplan/50-cloud-init.yaml", "network"),
        ("/etc/network/interfaces.d/eth1", "network"),
        ("/etc/cloud/cloud.cfg.d/99-disable-network-config.cfg", "network"),
        ("/etc/cloud/cloud.cfg.d/99-installer.cfg", "cloud-init"),
        ("/etc/udev/rules.d/70-persistent-net.rules", "network"),
        ("/etc/fstab", "disks"),
        ("/etc/keepalived/keepalived.conf", "network"),
        ("/etc/keepalived/evenkeel-address.json", "network"),
        ("/etc/systemd/system/srv-data.mount", "disks"),
        ("/etc/systemd/system/local-fs.target.wants/srv-data.mount", "disks"),
        ("/boot/grub/grub.cfg", "boot"),
    ],
)
def test_what_makes_a_host_itself_is_known(path: str, name: str) -> None:
    found = identity.own(os.fsencode(path))
    assert found is not None and found.part.name == name
    assert path.startswith(os.fsdecode(found.top))


@pytest.mark.parametrize(
    "path",
    ["/etc/hostname.d", "/etc/ssh/ssh_config", "/etc/ssh/moduli", "/etc/nginx/fstab", "/etc/network/if-up.d/ntp"]
    + ["/etc/systemd/system/nginx.service", "/srv/boot", "/etc/hosts.allow", "/bootstrap", "/srv/etc/fstab"],
)
def test_other_files_are_nobodys_identity(path: str) -> None:
    assert identity.own(os.fsencode(path)) is None


@pytest.mark.parametrize(
    "root", ["/etc", "/boot", "/root/.ssh", "/etc/ssh/ssh_host_rsa_key", "/etc/netplan/a", "/var/lib/dbus"]
)
def test_a_root_in_which_identity_can_lie_is_looked_through(root: str) -> None:
    assert identity.concerns(root) and not identity.concerns("/srv/www") and not identity.concerns("/etc/nginx")


def test_files_that_come_back_to_somebody_else_are_named() -> None:
    section = tree(*(entry(f"/srv/{uid}", uid=uid) for uid in (0, 33, 1300, 1301, 1302)), paths=("/srv",))
    then = {"root": 0, "www-data": 33, "shop": 1300, "gone": 1301, "old-name": 1302}
    here = {"root": 0, "toor": 0, "www-data": 33, "mallory": 1300, "shop": 1304, "new-name": 1302}
    named = preflight.owners_of_another_name([section], then, here)
    assert named == [(1300, "shop", "mallory"), (1302, "old-name", "new-name")]
    assert preflight.owners_of_another_name([section], {}, here) == []


def test_a_hard_link_does_not_leave_the_file_system_on_which_it_is_to_lie() -> None:
    """The spare has a mount where the lost host had a plain directory."""
    names = ("/srv/a/f", "/srv/a/g", "/srv/b/f", "/srv/b/g")
    lines = [entry(name, link=b"/srv/a/f" if name != names[0] else b"") for name in names]
    recorded = tree(entry("/srv/a", "d"), entry("/srv/b", "d"), *lines, paths=("/srv",))
    found = derive.derive([recorded], [recorded], derive.Choices(mounts={"/srv/b": "ext4"}))
    links = {path_of(line): Entry.parse(line).link for line in found.sections[0].lines if line[0] == "f"}
    assert links == {b"/srv/a/f": b"", b"/srv/a/g": b"/srv/a/f", b"/srv/b/f": b"", b"/srv/b/g": b"/srv/b/f"}
    assert [one.partition(" ")[0] for one in found.left_out] == ["/srv/b/f", "/srv/b/g"]
    same = derive.derive([recorded], [recorded], derive.Choices(mounts={"/srv": "ext4"}))
    assert same.sections[0].lines == recorded.lines and same.left_out == []


def test_the_disks_that_debconf_names_belong_to_the_boot_of_this_host() -> None:
    (boot,) = [part for part in identity.IDENTITY if part.name == "boot"]
    assert {f"/var/cache/debconf/{name}.dat" for name in ("config", "passwords")} <= set(boot.paths)


def test_the_page_shows_every_path_of_the_identity() -> None:
    page = (ROOT / "docs/recovery.md").read_text()
    for part in identity.IDENTITY:
        assert f"| {part.name} |" in page
        missing = [
            path for path in part.paths if f"`{path}`" not in page and not path.startswith("/etc/systemd/system")
        ]
        assert not missing


def test_the_identity_is_that_of_this_host_and_all_else_is_as_recorded() -> None:
    recorded = tree(
        entry("/etc/app", word="1"),
        entry("/etc/fstab", word="1"),
        entry("/etc/hostname", word="1"),
        entry("/etc/machine-id", word="1"),
    )
    present = tree(entry("/etc/app", word="2"), entry("/etc/crypttab", word="2"), entry("/etc/hostname", word="2"))
    lines, left = made(recorded, present)
    assert lines == [entry("/etc/app", word="1"), entry("/etc/crypttab", word="2"), entry("/etc/hostname", word="2")]
    assert left == [
        "/etc/crypttab (disks)",
        "/etc/fstab (disks)",
        "/etc/hostname (name)",
        "/etc/machine-id (machine id)",
    ]
    assert made(recorded, present, keeps=False) == (recorded.lines[2:], [])


def test_what_differs_in_its_time_alone_is_not_named() -> None:
    recorded, present = tree(entry("/etc/hosts", mtime=1)), tree(entry("/etc/hosts", mtime=2))
    assert made(recorded, present) == ([entry("/etc/hosts", mtime=2)], [])


def test_directories_around_the_identity_of_this_host_stay() -> None:
    """The lost host had no NetworkManager, or a link in its place."""
    own = [
        entry("/etc/NetworkManager", "d"),
        entry("/etc/NetworkManager/conf", word="3"),
        entry("/etc/NetworkManager/system-connections", "d"),
        entry("/etc/NetworkManager/system-connections/wan", word="2"),
    ]
    lines, left = made(tree(), tree(*own))
    assert lines == [own[0], *own[2:]] and left == ["/etc/NetworkManager/system-connections (network)"]
    lines, left = made(tree(entry("/etc/NetworkManager", "l", target=b"/srv/nm")), tree(*own))
    assert lines == [own[0], *own[2:]]
    assert left[-1] == "/etc/NetworkManager (a directory here, with /etc/NetworkManager/system-connections)"


def test_a_declared_path_that_is_identity_and_not_here_stays_absent() -> None:
    recorded = tree(entry("/etc/fstab"), paths=("/etc/fstab",))
    recorded = replace(recorded, lines=[entry("/", "D"), entry("/etc", "D"), entry("/etc/fstab")])
    present = replace(recorded, lines=[entry("/", "D"), entry("/etc", "D"), Entry(b"/etc/fstab", "-").line()])
    assert made(recorded, present)[0] == ["- /etc/fstab"]
    assert made(recorded, replace(present, lines=present.lines[:2]))[0] == ["- /etc/fstab"]


def test_hard_links_to_what_is_left_out_are_links_to_what_is_left() -> None:
    recorded = tree(
        entry("/etc/hosts", word="1"),
        entry("/etc/hosts.a", word="1", link=b"/etc/hosts"),
        entry("/etc/hosts.b", word="1", link=b"/etc/hosts"),
    )
    lines, _left = made(recorded, tree(entry("/etc/hosts", word="2")))
    assert lines[1:] == [entry("/etc/hosts.a", word="1"), entry("/etc/hosts.b", word="1", link=b"/etc/hosts.a")]
    assert made(recorded, tree())[0] == lines[1:]


def test_a_mount_point_here_that_was_none_stays_and_a_directory_gets_what_was_there() -> None:
    mounts = {"/": "ext4", "/etc/resolv.conf": "tmpfs", "/etc/app": "ext4", "/etc/proc": "proc"}
    recorded = tree(entry("/etc/app", "d"), entry("/etc/app/x", word="1"), entry("/etc/motd", word="1"))
    present = tree(entry("/etc/app", "d", mode=0o700), entry("/etc/resolv.conf", word="2"))
    lines, left = made(recorded, present, keeps=False, mounts=mounts)
    assert [path_of(line) for line in lines] == [b"/etc/app", b"/etc/app/x", b"/etc/motd", b"/etc/resolv.conf"]
    assert lines[0] == entry("/etc/app", "d") and left == ["/etc/resolv.conf (a mount point on this host)"]
    found = derive.derive([recorded], [present], derive.Choices(mounts=mounts)).sections[0]
    assert found.spec[files.MOUNTS] == {"/etc/app": "ext4", "/etc/resolv.conf": "tmpfs"}


@pytest.mark.parametrize("keeps", [True, False])
def test_a_tree_of_a_plain_host_that_the_lost_host_lacks_stays_on_a_spare(keeps: bool) -> None:
    def host(*lines: str) -> Section:
        return replace(tree(paths=("/opt", "/srv")), lines=[entry("/", "D", mtime=0), *lines])

    absent = [entry(path, "-") for path in ("/opt", "/srv")]
    opt = [entry("/opt", "d"), entry("/opt/agent", word="1")]
    recorded, present = host(*absent), host(*opt, entry("/srv", "d"))
    lines, left = made(recorded, present, keeps=keeps, elsewhere=True)
    # Somebody has declared /srv, and it is to be absent.
    assert lines == [*opt, absent[1]] and left == ["/opt (the other host had none)"]
    # The host itself goes back to its own state, and a spare without the tree has nothing to keep.
    assert made(recorded, present, keeps=keeps) == (absent, [])
    assert made(recorded, recorded, keeps=keeps, elsewhere=True) == (absent, [])


def test_paths_that_are_refused_and_evenkeels_own_are_left_out() -> None:
    recorded = tree(entry("/etc/a", word="1"), entry("/etc/b", "d"), entry("/etc/b/c", word="1"))
    lines, left = made(
        recorded, tree(entry("/etc/a", word="2")), refused={"/etc/a": "it is immutable"}, ours=["/etc/b"]
    )
    assert lines == [entry("/etc/a", word="2")] and left == ["/etc/a (it is immutable)"]


def test_kinds_of_the_machine_and_packages_by_which_it_boots_stay() -> None:
    lines = ["deb nginx:amd64 1.22 manual", "deb linux-image-6.1:amd64 6.1 auto", "deb * -", "filters"]
    here = [
        "deb nginx:amd64 1.18 manual",
        "deb grub-efi:amd64 2 manual",
        "deb lvm2:amd64 2 manual",
        "deb * -",
        "filters",
    ]
    recorded = [Section("packages", {"names": None}, lines), Section("network", {}, ["link eth0"])]
    present = [Section("packages", {"names": None}, here), Section("network", {}, ["link eth0"])]
    found = derive.derive(recorded, present, derive.Choices(keeps=True))
    assert [one.kind for one in found.sections] == ["packages"]
    assert set(found.sections[0].lines) == {lines[0], "deb * -", "filters", here[1], here[2]}
    assert found.sections[0].lines[0].startswith("deb ")
    assert found.left_out[0].startswith("packages grub-efi:amd64, linux-image") and found.left_out[1].startswith(
        "network"
    )
    whole = derive.derive(recorded, present, derive.Choices())
    assert whole.sections == recorded and whole.left_out == []


DEBIAN = Machine("debian 12", "x86_64", disks={"vda": 10**11}, file_systems=(FileSystem("/srv", "ext4", 10**11),))


def test_another_release_or_architecture_refuses_programs_and_warns_of_data() -> None:
    data, etc = tree(paths=("/srv",)), tree()
    packages = Section("packages", {"names": None})
    other = replace(DEBIAN, release="debian 13", architecture="aarch64")
    found = preflight.compare_machines(DEBIAN, other, [data])
    assert not found.refusals and len(found.warnings) == 2 and "debian 13" in found.warnings[0]
    assert len(preflight.compare_machines(DEBIAN, other, [data, packages]).refusals) == 2
    assert len(preflight.compare_machines(DEBIAN, other, [etc]).refusals) == 1
    nothing = preflight.compare_machines(Machine(), other, [etc, packages])
    assert nothing == preflight.Findings()  # A checkpoint of an older version does not tell.


def test_a_file_system_that_is_missing_here_is_named_with_the_disks_where_it_matters() -> None:
    here = replace(DEBIAN, file_systems=())
    (said,) = preflight.compare_machines(DEBIAN, here, [tree(paths=("/srv/www",))]).warnings
    assert said.startswith("/srv was a file system of its own (ext4, 100.0 GB)") and "vda 100.0 GB" in said
    assert preflight.compare_machines(DEBIAN, here, [tree()]).warnings == []


def test_labels_that_this_host_does_not_have_are_left_out_and_missing_labels_refused() -> None:
    labelled = tree(entry("/etc/a", xattrs=(("security.selinux", b"x"), ("user.a", b"y"))))
    (bare,) = preflight.without_labels([labelled])
    assert bare.lines[-1] == entry("/etc/a", xattrs=(("user.a", b"y"),))
    assert preflight.compare_machines(DEBIAN, replace(DEBIAN, selinux=True), [labelled]).refusals


PASSWD = b"root:x:0:0::/root:/bin/sh\nops:x:1000:1000::/home/ops:/bin/sh\npostgres:x:106:110::/var/lib/p:/bin/sh\n"


def test_a_part_is_compared_by_its_own_paths() -> None:
    trees = [tree(paths=("/etc", "/srv"))]
    here = replace(DEBIAN, release="debian 99")
    assert preflight.compare_machines(DEBIAN, here, trees).refusals
    assert preflight.compare_machines(DEBIAN, here, trees, ["/etc"]).refusals
    for part in ("/srv", "/srv/www", "/etc/app.conf"):
        assert preflight.compare_machines(DEBIAN, here, trees, [part]).refusals == []


def test_the_login_of_the_controller_is_not_locked_out_and_moved_uids_are_named() -> None:
    here = preflight.accounts(PASSWD)
    assert preflight.compare_accounts(here, here, "ops") == preflight.Findings()
    gone = preflight.accounts(PASSWD.replace(b"ops:x:1000", b"dev:x:1000"))
    assert "is not in the checkpoint" in preflight.compare_accounts(gone, here, "ops").refusals[0]
    assert preflight.compare_accounts(gone, here, "") == preflight.Findings()
    moved = preflight.accounts(PASSWD.replace(b"106", b"107").replace(b"ops:x:1000", b"ops:x:1001"))
    found = preflight.compare_accounts(moved, here, "ops")
    assert "has uid 1001" in found.refusals[0] and "postgres (106, then 107)" in found.warnings[0]


def test_the_login_of_the_controller_is_known_however_it_became_root() -> None:
    here = preflight.accounts(PASSWD)
    assert preflight.login_name({"SUDO_USER": "ops"}, "106", here) == "ops"
    assert preflight.login_name({"DOAS_USER": "ops"}, "106", here) == "ops"
    assert preflight.login_name({}, "1000", here) == "ops"
    assert [preflight.login_name({}, audited, here) for audited in ("0", "4294967295", "")] == ["", "", ""]


def test_the_login_of_the_controller_still_becomes_root() -> None:
    here = b"sudo:x:27:ops,dev\nshop:x:1234:ops\n"
    assert preflight.missing_groups(here, here, "ops") == []
    (said,) = preflight.missing_groups(b"sudo:x:27:dev\nshop:x:1:\n", here, "ops")
    assert "is in the group sudo" in said
    assert preflight.missing_groups(b"sudo:x:27:\n", here, "") == []


def test_all_accounts_of_a_large_host_are_read(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("".join(f"a{uid}:x:{uid}:{uid}::/:/bin/sh\n" for uid in range(3000)))
    known = machine.read_machine(str(tmp_path)).accounts
    assert len(known) == 3000 and Machine.read(Machine(accounts=known).record()).accounts == known


def test_a_machine_is_read_from_any_record() -> None:
    assert Machine.read(DEBIAN.record()) == DEBIAN
    assert Machine.read(machine.read_machine().record()) == machine.read_machine()
    odd: object
    for odd in (None, 5, "x", [], {"release": 5, "disks": [1], "file_systems": {"a": 1}}, {"file_systems": [5, {}]}):
        assert Machine.read(odd).release == ""


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that stands for the root of a host, and in which the identity is known."""
    top = tmp_path / "host"
    (top / "etc/ssh").mkdir(parents=True)
    for name in ("hostname", "fstab", "ssh/ssh_host_rsa_key", "app.conf"):
        (top / "etc" / name).write_text(f"{name} of the lost host")
    known = identity.own

    def own(path: bytes) -> identity.Own | None:
        found = known(path.removeprefix(os.fsencode(top)))
        return found and found._replace(top=os.fsencode(top) + found.top)

    monkeypatch.setattr(identity, "own", own)
    monkeypatch.setattr(identity, "concerns", lambda _root: True)
    return top / "etc"


def spare(etc: Path) -> None:
    """Another host is seen in the place of the lost one."""
    for name in ("hostname", "ssh/ssh_host_rsa_key"):
        (etc / name).write_text(f"{name} of the spare")
    for name in ("fstab", "app.conf"):
        (etc / name).unlink()
    (etc / "crypttab").write_text("of the spare")


def prepare(
    store: Store, checkpoint: str, which: str = "keep", check_mode: bool = False, **more: Any
) -> dict[str, Any]:
    return flow.prepare(store, flow.Request(checkpoint, which, **more), check_mode).report()


def test_a_spare_gets_everything_but_the_identity_and_a_rollback_goes_there(store: Store, etc: Path) -> None:
    recorded = checkpoint(store, "base", [{"files": {"paths": [str(etc)]}}])["id"]
    spare(etc)
    told = prepare(store, recorded, check_mode=True)
    assert told["id"] == "" and len(told["left_out"]) == 4 and "recovery" not in store.refs()
    found = prepare(store, recorded)
    assert found["id"] != recorded and found["left_out"] == told["left_out"]
    assert prepare(store, recorded)["id"] == found["id"]
    undo = rollback(store, found["id"])["undo"]
    assert (etc / "app.conf").read_text() == "app.conf of the lost host"
    assert (etc / "hostname").read_text() == "hostname of the spare" and not (etc / "fstab").exists()
    assert (etc / "ssh/ssh_host_rsa_key").read_text().endswith("of the spare") and (etc / "crypttab").exists()
    assert prepare(store, recorded)["id"] == found["id"]
    rollback(store, undo)
    assert not (etc / "app.conf").exists()
    # Its own checkpoint says what it is, and the whole of it can be taken.
    assert prepare(store, recorded, "take")["id"] == recorded
    rollback(store, recorded)
    assert (etc / "hostname").read_text() == "hostname of the lost host" and not (etc / "crypttab").exists()


def test_a_whole_tree_that_cannot_be_put_back_is_no_recovery(
    store: Store, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One path below it is left out, and named."""
    recorded = checkpoint(store, "base", [{"files": {"paths": [str(etc), str(etc.parent / "etc2")]}}])["id"]
    (etc / "app.conf").write_text("of the spare")
    stays = {str(etc / "app.conf"): "it is immutable"}
    monkeypatch.setattr(flow, "preflight", lambda *_: dict(stays))
    assert prepare(store, recorded, check_mode=True)["left_out"] == [f"{etc}/app.conf (it is immutable)"]
    stays = {str(etc): "it is mounted read-only; remount it writable"}
    why = f"{etc}: it is mounted read-only; remount it writable, or recover other paths alone"
    with pytest.raises(Refused, match=why):
        prepare(store, recorded, check_mode=True)


def test_a_symlink_that_becomes_a_directory_is_named(store: Store, etc: Path) -> None:
    recorded = checkpoint(store, "base", [{"files": {"paths": [str(etc / "ssh")]}}], host="web3")["id"]
    (etc / "ssh").rename(etc / "there")
    (etc / "ssh").symlink_to("there")
    words = f"{etc}/ssh is a symlink to there here, and becomes a directory, as it was recorded"
    assert words in prepare(store, recorded, elsewhere=True)["notes"][0]
    # A change on the host itself goes back without a word.
    assert not any("symlink" in one for one in prepare(store, recorded, "take")["notes"])


def test_a_checkpoint_of_another_host_is_never_gone_back_to_itself(store: Store, etc: Path, tmp_path: Path) -> None:
    recorded = checkpoint(store, "base", [{"files": {"paths": [str(etc)]}}], host="web3")["id"]
    bundle = str(tmp_path / "bundle")
    replicas.export(store, "web3", recorded, [], bundle, False)
    here = Store(str(tmp_path / "spare"), SYSTEM)
    adopt(here, "web3", recorded, bundle, elsewhere=True)
    (etc / "hostname").write_text("of the spare")
    made = prepare(here, recorded, "take", elsewhere=True)["id"]
    assert made != recorded and prepare(here, recorded, "take", elsewhere=True)["id"] == made
    assert flow.survey(here).stands_for == "web3" and flow.survey(store).stands_for == ""
    rollback(here, made)
    assert (etc / "hostname").read_text() == "hostname of the lost host" and here.resolve("latest") == made


def test_keepalived_without_its_configuration_is_left_as_it_is() -> None:
    lines = [json_line.write("unit", {"name": f"{name}.service", "active": True}) for name in ("keepalived", "nginx")]
    recorded = Section("services", {"names": None, "processes": []}, lines)
    found = derive.derive([recorded], [recorded], derive.Choices(parts=["network"]))
    assert '"clustered": true' in found.sections[0].lines[0]
    assert found.sections[0].lines[1] == lines[1]
    assert found.left_out == ["keepalived.service (network: the role virtual_address sets it up)"]
    assert derive.derive([recorded], [recorded], derive.Choices(parts=["disks"])).sections == [recorded]


def test_the_disks_and_cards_that_a_machine_has_are_known(tmp_path: Path) -> None:
    fstab = b"""# UUID=comment / ext4 defaults 0 1
UUID="aa-1" / ext4 defaults 0 1
LABEL=my\\x20data /data xfs defaults,nofail 0 2
/dev/vg/srv /srv xfs noatime 0 2
UUID=bb-2 /backup ext4 noauto,user 0 0
/dev/sdb /iscsi ext4 _netdev 0 2
/dev/sdc /late ext4 x-systemd.automount 0 2
LABEL=my\\040root /old ext4 defaults 0 2
tmpfs /tmp tmpfs size=1G 0 0
"""
    assert hardware.disks(hardware.FSTAB, fstab) == ["UUID=aa-1", "/dev/vg/srv", "LABEL=my root"]
    assert hardware.disks(hardware.CRYPTTAB, b"root UUID=cc-3 none luks\nusb UUID=dd-4 none luks,nofail\n") == [
        "UUID=cc-3"
    ]
    assert hardware.is_here("UUID=aa-1", str(tmp_path)), "without udev nobody knows"
    assert hardware.is_here("/dev/evenkeel-none", str(tmp_path))
    (tmp_path / "disk/by-label").mkdir(parents=True)
    (tmp_path / "disk/by-label/my\\x20root").write_text("")
    assert hardware.is_here("LABEL=my root", str(tmp_path))
    (tmp_path / "disk/by-uuid").mkdir(parents=True)
    (tmp_path / "disk/by-uuid/AA-1").write_text("")
    assert hardware.is_here("UUID=aa-1", str(tmp_path)) and not hardware.is_here("UUID=aa-2", str(tmp_path))
    assert not hardware.is_here("PARTUUID=aa-1", str(tmp_path)) and not hardware.is_here(
        "/dev/evenkeel-none", str(tmp_path)
    )
    netplan = b"match: {macaddress: 52:54:00:AA:00:01}"
    assert hardware.missing_cards(netplan, [b"52:54:00:aa:00:01"]) == []
    assert hardware.missing_cards(netplan, [b"52:54:00:aa:00:02"]) == ["52:54:00:aa:00:01"]
    assert hardware.missing_cards(b"option 00:11:22:33:44:55:66:77", []) == []


@pytest.mark.parametrize(
    "name, text, stays",
    [
        ("fstab", "/dev/evenkeel-none / ext4 defaults 0 1", "the parts disks and boot stay as they are"),
        ("netplan", "02:00:00:00:00:01", "network stays as it is"),
    ],
)
def test_a_host_that_becomes_itself_again_keeps_what_names_its_hardware(
    store: Store, etc: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, stays: str
) -> None:
    """With the fstab of a disk that is gone, the next boot would end in the emergency mode."""
    monkeypatch.setattr(hardware, "FSTAB", str(etc / "fstab"))
    monkeypatch.setattr(hardware, "is_here", lambda _device: False)
    (etc / name).write_text(text)
    recorded = checkpoint(store, "base", [{"files": {"paths": [str(etc)]}}])["id"]
    assert prepare(store, recorded, "take", paths=[str(etc / "app.conf")])["notes"] == []
    (etc / name).write_text("of this machine")
    (etc / "hostname").write_text("localhost")
    found = prepare(store, recorded, "take")
    (said,) = [one for one in found["notes"] if "evenkeel-none" in one or "02:00" in one]
    assert said == f"{stays} here: {etc / name} names {text.split()[0]}, which this host has not"
    assert prepare(store, recorded, "take")["id"] == found["id"] != recorded
    rollback(store, found["id"])
    assert (etc / name).read_text() == "of this machine"
    assert (etc / "hostname").read_text() == "hostname of the lost host"
    network = Section("network", {}, ["link eth0"])
    derived = derive.derive([network], [network], derive.Choices(parts=["disks"]))
    assert not derived.sections and derived.left_out == ["network (the state of this host)"]


def test_the_keys_by_which_the_controller_logs_in_as_root_are_not_lost(
    store: Store, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "PASSWD", str(etc / "passwd"))
    (etc / "passwd").write_text(f"root:x:0:0::{etc}:/bin/sh\n")
    keys = etc / ".ssh/authorized_keys"
    keys.parent.mkdir()
    keys.write_text("ssh-ed25519 AAAAold lost\n")
    recorded = checkpoint(store, "base", [{"files": {"paths": [str(etc)]}}])["id"]
    keys.write_text("# AAAAold\nssh-ed25519 AAAAnew installer\n")
    found = prepare(store, recorded, "take")
    assert found["left_out"] == [f"{keys.parent} (none of the keys that let the controller in is in it)"]
    keys.write_text("ssh-ed25519 AAAAold other\nssh-ed25519 AAAAnew installer\n")
    assert prepare(store, recorded, "take")["left_out"] == []
    keys.unlink()
    os.mkfifo(keys)  # The user may have made anything of it.
    assert prepare(store, recorded, "take")["left_out"] == []


def test_a_part_with_the_accounts_does_not_lock_the_controller_out(
    store: Store, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "PASSWD", str(etc / "passwd"))
    monkeypatch.setattr(preflight, "AUDITED", str(etc / "audited"))
    (etc / "audited").write_text("1000")
    (etc / "passwd").write_bytes(PASSWD.replace(b"ops:x:1000", b"dev:x:1000"))
    recorded = checkpoint(store, "base", [{"files": {"paths": [str(etc)]}}])["id"]
    (etc / "passwd").write_bytes(PASSWD)
    for part in (etc, etc / "passwd"):
        with pytest.raises(Refused, match="the account ops .* is not in the checkpoint"):
            prepare(store, recorded, paths=[str(part)])
    assert prepare(store, recorded, paths=[str(etc / "app.conf")])["id"]


def test_a_spare_keeps_the_keys_of_the_account_by_which_the_controller_logs_in(
    store: Store, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = etc / "home"
    for name in ("ops", "dev"):
        (home / name / ".ssh").mkdir(parents=True)
        (home / name / ".ssh/authorized_keys").write_text("of the lost host")
    (home / "ops/notes").write_text("of the lost host")
    recorded = checkpoint(store, "base", [{"files": {"paths": [str(home)]}}])["id"]
    for path in home.rglob("*"):
        if path.is_file():
            path.write_text("of the spare")
    monkeypatch.setattr(preflight, "PASSWD", str(etc / "passwd"))
    (etc / "passwd").write_bytes(PASSWD.replace(b"/home/ops", os.fsencode(home / "ops")))
    monkeypatch.setenv("SUDO_USER", "ops")
    found = prepare(store, recorded)
    assert found["left_out"] == [f"{home}/ops/.ssh (access)"]
    rollback(store, found["id"])
    assert (home / "ops/.ssh/authorized_keys").read_text() == "of the spare"
    assert (home / "ops/notes").read_text() == (home / "dev/.ssh/authorized_keys").read_text() == "of the lost host"
    assert prepare(store, recorded, "take")["left_out"] == []


def test_data_outside_of_the_store_come_back_where_the_copy_has_brought_them(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = registry.KINDS["postgresql"]
    monkeypatch.setattr(kind, "missing_data", lambda _lines: {"/data": "its log is not here"})
    section = Section("postgresql", {"archive": "/archive"}, ["cluster {}"])
    assert flow._without([section]) == {"postgresql": "/data: its log is not here"}
    monkeypatch.setattr(kind, "beside", lambda _spec, _lines: {"name": "/archive/wal/1"})
    assert flow._without([section]) == {}


def test_a_part_is_checked_and_what_stays_cannot_be_asked_for(store: Store, etc: Path) -> None:
    recorded = checkpoint(store, "base", [{"files": {"paths": [str(etc)]}}])["id"]
    spare(etc)
    found = prepare(store, recorded, kinds=["files"], paths=[str(etc / "app.conf")])
    assert found["id"] and found["left_out"] == []
    (told,) = prepare(store, recorded, paths=[str(etc / "ssh")])["left_out"]
    assert told.endswith("ssh_host_rsa_key (keys of the host)")
    with pytest.raises(UsageError, match="has no users"):
        prepare(store, recorded, kinds=["users"])
    with pytest.raises(UsageError, match="holds nothing at or below"):
        prepare(store, recorded, paths=["/nowhere"])


def test_all_reasons_are_told_at_once_and_nothing_is_changed(
    store: Store, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = checkpoint(store, "base", [{"files": {"paths": [str(etc)]}}])["id"]
    spare(etc)
    before = sorted(path.read_text() for path in etc.rglob("*") if path.is_file())
    monkeypatch.setattr(preflight, "compare_machines", lambda *_: preflight.Findings(["one", "two"]))
    with pytest.raises(Refused, match="one; two.*Nothing but the store") as caught:
        prepare(store, recorded)
    assert caught.value.result["left"] == ["one", "two"]
    assert sorted(path.read_text() for path in etc.rglob("*") if path.is_file()) == before
    assert "recovery" not in store.refs()


def test_what_the_system_here_lacks_is_a_refusal_where_no_packages_come_back(
    store: Store, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = checkpoint(store, "base", [{"files": {"paths": [str(etc)]}}])["id"]
    monkeypatch.setattr(registry.KINDS["files"], "lacks_here", lambda _lines: ["it lacks a locale"])
    with pytest.raises(Refused, match="cannot be put back here: it lacks a locale. Nothing but the store"):
        prepare(store, recorded)
    monkeypatch.setattr(registry.KINDS["files"], "installs", True)
    assert prepare(store, recorded)["notes"] == ["it lacks a locale"]


def test_state_that_somebody_uses_is_kept_from_a_checkpoint_of_another_host_alone(
    store: Store, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = checkpoint(store, "base", [{"files": {"paths": [str(etc)]}}])["id"]
    monkeypatch.setattr(registry.KINDS["files"], "in_use", lambda _lines, _at: ["it is in use"])
    with pytest.raises(Refused, match="cannot be put back here: it is in use. Nothing but the store"):
        prepare(store, recorded, elsewhere=True)
    assert prepare(store, recorded)["id"]


def test_a_path_that_cannot_be_put_back_is_left_out_and_the_rest_comes_back(
    store: Store, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = checkpoint(store, "base", [{"files": {"paths": [str(etc)]}}])["id"]
    spare(etc)
    real = ahead.preflight

    def refusing(steps: Any, *more: Any) -> dict[str, str]:
        odd = [step.target for step in steps if step.target.endswith("/hostname")]
        return {**real(steps, *more), **dict.fromkeys(odd, "it is immutable")}

    monkeypatch.setattr(flow, "preflight", refusing)
    found = prepare(store, recorded, "take")
    assert found["left_out"] == [f"{etc / 'hostname'} (it is immutable)"]
    rollback(store, found["id"])
    assert (etc / "hostname").read_text() == "hostname of the spare" and (etc / "app.conf").exists()


def test_no_room_is_a_refusal(store: Store, etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = checkpoint(store, "base", [{"files": {"paths": [str(etc)]}}])["id"]
    shutil.rmtree(etc)
    monkeypatch.setattr(flow, "preflight", lambda *_: {str(etc): f"{ahead.NO_ROOM}: / has 5 bytes free"})
    with pytest.raises(Refused, match="1 paths have no room: / has 5 bytes"):
        prepare(store, recorded, "take")


@pytest.mark.skipif(os.geteuid() != 0, reason="it mounts")
def test_an_acl_that_the_file_system_here_does_not_keep_is_a_refusal(store: Store, etc: Path) -> None:
    """It is told before anything is touched, and nobody takes the data for recovered."""
    data = etc / "data"
    (data / "sub").mkdir(parents=True)
    (data / "plain").write_text("no ACL")
    for path in (data / "sub" / "one", data / "sub" / "two"):
        path.write_text("with an ACL")
        subprocess.run(["setfacl", "-m", "u:12345:r", path], check=True)
    recorded = checkpoint(store, "base", [{"files": {"paths": [str(etc)]}}])["id"]
    shutil.rmtree(data / "sub")
    assert prepare(store, recorded, "take")["left_out"] == [], "where it was, there is a place for it"
    subprocess.run(["mount", "-t", "ramfs", "none", data], check=True)
    try:
        words = f"{data}/sub/one: the file system there has no place for its ACL, and that of 1 more paths: mount one"
        with pytest.raises(Refused, match=words):
            prepare(store, recorded, "take")
        assert os.listdir(data) == []
        found = flow.prepare(store, flow.Request(recorded, "take", paths=[str(etc / "hostname")])).report()
        assert found["id"]
    finally:
        subprocess.run(["umount", data], check=True)


def test_a_checkpoint_tells_of_its_machine_and_a_rollback_does_not_mind(store: Store, tree_of: Path) -> None:
    made = checkpoint(store, "base", [{"files": {"paths": [str(tree_of)]}}])["id"]
    assert registry.machine_of(store.manifest(made).sections) == machine.read_machine()
    assert checkpoint(store, "base", [{"files": {"paths": [str(tree_of)]}}])["changed"] is False
    (tree_of / "a").write_text("new")
    assert rollback(store, made)["left"] == []


@pytest.fixture
def tree_of(tmp_path: Path) -> Path:
    (tmp_path / "live").mkdir()
    (tmp_path / "live/a").write_text("old")
    return tmp_path / "live"


def test_the_room_of_a_host_is_that_of_the_whole_way_of_a_copy(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def room(*places: str) -> int:
        asked.append(places)
        return 7

    monkeypatch.setattr(foreign, "room", room)
    assert flow.survey(store).room == 7 and asked == [("/var/tmp", store.root)]


def test_a_look_at_a_host_tells_what_is_in_the_way(
    store: Store, tree_of: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = flow.survey(store)
    assert found.obstacle == "" and found.room > 0 and found.host and not found.held
    made = checkpoint(store, "base", [{"files": {"paths": [str(tree_of)]}}])["id"]
    assert flow.survey(store, made).held
    # Not for another host, nor where the terms do not let it in, nor with a content that is damaged.
    assert not flow.survey(store, made, "web1", replicas.Terms(elsewhere=True)).held
    assert not flow.survey(store, made, "another", replicas.Terms(declared=[])).held
    monkeypatch.setattr(type(store.objects), "verify", lambda _self, sha: f"{sha} is damaged")
    assert not flow.survey(store, made).held
    event = Event(3, "in_doubt", "operator", 5.0, made, ["x"])
    monkeypatch.setattr(doubt, "in_doubt", lambda _store: event)
    found = flow.survey(store)
    assert "it is in doubt since the change of generation 3" in found.obstacle and not found.waits
    system = store.system
    now = system.monotonic()
    change = changes.Armed(3, made, "base", 0.0, 600.0, system.boot_id(), now + 600.0)
    monkeypatch.setattr(changes, "armed", lambda _store: change)
    found = flow.survey(store)
    assert "a change is under way there (generation 3)" in found.obstacle and found.waits == found.obstacle
    change = replace(change, due=now)  # A rollback puts it back first.
    found = flow.survey(store)
    assert "a change is under way there (generation 3)" in found.obstacle and not found.waits
