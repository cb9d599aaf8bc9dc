# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource mounts: what is recorded, in which order it comes back, and the real thing among mounts of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import flows
import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    RestoreFailed,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import mounts as table
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.mounts import Mount, free_bytes
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import mounts as module
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Restore
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.mounts import Mounts
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Hasher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

Argv = tuple[str, ...]


class Host:
    """A host with a table of mounts that its commands do not change: ``answers`` do."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.fstab = place / "fstab"
        self.fstab.write_text("/dev/a / ext4 defaults 0 1\n")
        self.swaps = place / "swaps"
        self.swaps.write_text("Filename\tType\tSize\tUsed\tPriority\n")
        self.uuids = place / "by-uuid"
        self.uuids.mkdir()
        self.boot = "one"
        self.table: list[Mount] = []
        self.ran: list[Argv] = []
        self.answers: dict[Argv, Callable[[], object] | str] = {}
        self.add("/", "ext4", "/dev/a", parent=1)

    def add(
        self, point: str, kind: str, source: str, options: str = "rw,relatime", own: str = "rw", **more: Any
    ) -> None:
        number = 20 + len(self.table)
        root, device, parent = (
            more.get(key, value) for key, value in (("root", "/"), ("device", source), ("parent", 20))
        )
        names = (point.encode(), root.encode(), device.encode())
        self.table.append(Mount(*names, kind, number, parent, options, source.encode(), own))

    def drop(self, point: str) -> None:
        self.table = [one for one in self.table if one.point != point.encode()]

    def kind(self) -> Mounts:
        return Mounts(str(self.fstab), str(self.swaps), lambda: self.table, str(self.uuids), lambda _point, _was: None)

    def name(self, **devices: str) -> None:
        """Give each UUID its device, as udev does after a boot."""
        for one in self.uuids.iterdir():
            one.unlink()
        for uuid, device in devices.items():
            (self.uuids / uuid).symlink_to(device)

    def system(self) -> System:
        return replace(System(), run=self.run, has_systemd=lambda: False, boot_id=lambda: self.boot)

    def run(self, argv: Sequence[str], timeout: float) -> Completed:
        words = tuple(argv)
        self.ran.append(words)
        for beginning, answer in self.answers.items():
            if words[: len(beginning)] == beginning:
                if isinstance(answer, str):
                    return Completed(words, 32, "", answer)
                answer()
        return Completed(words, 0, "", "")

    def lines(self, **spec: Any) -> list[str]:
        return self.kind().capture(self.kind().check(spec), Hasher(), self.system())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def at(host: Host, store: Store, **more: Any) -> Restore:
    return Restore(host.system(), store.objects, **more)


def acts(host: Host, store: Store, lines: Sequence[str], **more: Any) -> list[tuple[str, str]]:
    return [(step.action, step.target) for step in host.kind().plan(lines, at(host, store, **more))]


def test_a_file_system_that_does_not_count_its_room_has_room() -> None:
    counted = os.statvfs("/")
    assert free_bytes(counted) == counted.f_bavail * counted.f_frsize
    assert free_bytes(counted, reserved=True) == counted.f_bfree * counted.f_frsize
    proc = os.statvfs("/proc")
    assert (proc.f_blocks, proc.f_bavail) == (0, 0) and free_bytes(proc) >= 1 << 50


@pytest.mark.parametrize("spec", [{"except": ["mnt"]}, {"except": ["/mnt/../x"]}, {"exclude": ["/mnt"]}])
def test_a_bad_declaration_is_named(host: Host, spec: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        host.kind().check(spec)


def test_what_programs_mount_is_left_alone(host: Host, store: Store) -> None:
    lines = host.lines()
    assert len(lines) == 1 and '"point": "/"' in lines[0]
    for point, kind in (
        ("/var/lib/docker/overlay2/x", "overlay"),
        ("/srv/o", "overlay"),
        ("/run/user/1000", "tmpfs"),
        ("/home/u/cloud", "fuse.sshfs"),
        ("/srv/stick", "fuseblk"),
        ("/snap/core/1", "squashfs"),
        ("/media/u/stick", "vfat"),
        ("/dev/shm", "tmpfs"),
        ("/net", "autofs"),
    ):
        host.add(point, kind, "x")
    host.add("/net/server", "nfs4", "server:/x", parent=host.table[-1].number)
    host.add("/etc/hosts", "ext4", "/dev/b", root="/of/another/host")
    host.swaps.write_text("Filename\n/dev/zram0 partition 1 0 100\n/of/the/machine file 1 0 -2\n")
    assert host.lines() == lines and acts(host, store, lines) == []


def test_what_is_excepted_is_left_alone(host: Host, store: Store) -> None:
    host.add("/mnt/backup", "ext4", "/dev/b")
    lines = host.lines(**{"except": ["/mnt/*"]})
    assert "/dev/b" not in str(lines)
    host.add("/mnt/other", "ext4", "/dev/c")
    assert acts(host, store, lines) == [] and acts(host, store, host.lines()) == []
    assert acts(host, store, lines[1:]) == [("unmount", "/mnt/other"), ("unmount", "/mnt/backup")]


def test_mounts_come_back_in_an_order_in_which_they_can(host: Host, store: Store) -> None:
    host.add("/srv", "ext4", "/dev/b")
    host.add("/srv/deep", "xfs", "/dev/c", parent=21)
    host.add("/a", "xfs", "/dev/c", root="/part")
    host.add("/x", "tmpfs", "tmpfs", own="rw,size=1k")
    lines = host.lines()
    assert any('"from": "/srv/deep/part"' in line and '"point": "/a"' in line for line in lines)
    host.table = host.table[:1]
    host.add("/new", "ext4", "/dev/d")
    host.add("/new/deep", "ext4", "/dev/e", parent=21)
    host.answers = {("umount", point): partial(host.drop, point) for point in ("/new", "/new/deep")}
    steps = host.kind().plan(lines, at(host, store))
    assert [(step.action, step.target) for step in steps] == [
        *(("unmount", "/new/deep"), ("unmount", "/new")),
        *(("mount", "/srv"), ("mount", "/x"), ("mount", "/srv/deep"), ("mount", "/a")),
    ]
    with pytest.raises(RestoreFailed, match="mounted elsewhere"):  # These commands do nothing.
        host.kind().apply(steps, at(host, store))
    assert host.ran == [
        *(("umount", "/new/deep"), ("umount", "/new")),
        ("mount", "-t", "ext4", "-o", "relatime,rw", "/dev/b", "/srv"),
        ("mount", "-t", "tmpfs", "-o", "relatime,rw,size=1k", "tmpfs", "/x"),
        ("mount", "-t", "xfs", "-o", "relatime,rw", "/dev/c", "/srv/deep"),
        ("mount", "--bind", "/srv/deep/part", "/a"),
    ]


def test_a_view_of_another_mount_does_not_differ_when_that_one_is_mounted_again(host: Host, store: Store) -> None:
    host.add("/srv", "ext4", "/dev/b")
    host.add("/view", "ext4", "/dev/b")
    lines = host.lines()
    host.table = [host.table[0], host.table[2], host.table[1]]
    assert acts(host, store, lines) == []


def test_other_options_are_set_each_by_its_name(host: Host, store: Store) -> None:
    host.add("/srv", "tmpfs", "tmpfs", "rw,nosuid,relatime", "rw,size=1024k,mode=755")
    lines = host.lines()
    host.drop("/srv")
    host.add("/srv", "tmpfs", "tmpfs", "ro,noexec,noatime", "rw,size=2048k,mode=755,nr_inodes=5")
    assert host.kind().verify(lines, host.system()) != []
    (step,) = host.kind().plan(lines, at(host, store))
    assert step.action == "remount" and "nosuid is missing" in step.why and "noexec is new" in step.why
    with pytest.raises(RestoreFailed, match="the options stay different"):
        host.kind().apply([step], at(host, store))
    assert host.ran[:2] == [
        (
            *("mount", "-o", f"remount,nosuid,dev,exec,diratime,relatime,rw,size=1024k,nr_inodes={module._HALF}"),
            *("-t", "tmpfs", "tmpfs", "/srv"),
        ),
        ("mount", "-o", "remount,bind,rw,nosuid,dev,exec,diratime,relatime", "/srv"),
    ]


def test_a_file_system_is_known_by_its_uuid_when_a_boot_has_given_its_name_to_another(host: Host, store: Store) -> None:
    host.name(A="/dev/sda", B="/dev/sdb", C="/dev/sdc")
    host.add("/b", "ext4", "/dev/sdb")
    host.add("/c", "ext4", "/dev/sdc")
    lines = host.lines()
    host.table, host.boot = host.table[:1], "two"
    host.name(A="/dev/sda", B="/dev/sdc", C="/dev/sdb")
    host.add("/b", "ext4", "/dev/sdc")
    assert acts(host, store, lines) == [("mount", "/c")], "at /b is the file system that was there"
    host.add("/c", "ext4", "/dev/sdc")
    assert acts(host, store, lines) == [("unmount", "/c"), ("mount", "/c")], "the old name leads to another one"
    assert host.kind().verify(lines, host.system()) == ["/c is another file system"]
    host.drop("/c")
    host.answers = {("mount", "-t"): lambda: host.add("/c", "ext4", "/dev/sdb")}
    host.kind().apply(host.kind().plan(lines, at(host, store)), at(host, store))
    assert host.ran == [("mount", "-t", "ext4", "-o", "relatime,rw", "UUID=C", "/c")]
    assert host.kind().verify(lines, host.system()) == []


def test_what_is_not_on_this_host_any_more_is_named_and_nothing_else_moved(host: Host, store: Store) -> None:
    host.name(B="/dev/mapper/b", S="/dev/mapper/s")
    swaps = "Filename Type Size Used Priority\n{} partition 1 0 5\n"
    host.add("/b", "ext4", "/dev/mapper/b")
    lines = [*host.lines(), 'swap {"path": "/dev/mapper/s", "priority": 5, "uuid": "S"}']
    host.name(N="/dev/mapper/b", M="/dev/mapper/s")  # The change has made a new file system, and new swap.
    assert acts(host, store, lines) == []
    assert host.kind().verify(lines, host.system()) == [
        "/b is another file system: what was there, with UUID B, is not on this host",
        "/dev/mapper/s is not used as swap: what was there, with UUID S, is not on this host",
    ]
    host.name(B="/dev/mapper/b", S="/dev/null")
    host.swaps.write_text(swaps.format("/dev/null"))
    assert acts(host, store, lines) == [], "the same swap by another name"
    host.swaps.write_text(swaps.format("/dev/zero"))
    steps = host.kind().plan(lines, at(host, store))
    host.kind().apply(steps, at(host, store))
    assert host.ran == [("swapoff", "/dev/zero"), ("swapon", "-p", "5", "UUID=S")]


def test_a_name_that_may_be_another_s_since_a_boot_is_left_and_named(host: Host, store: Store) -> None:
    host.add("/b", "ext4", "/dev/sdb")
    host.add("/m", "ext4", "/dev/mapper/m")
    lines = host.lines()
    old = [line.replace('"boot": "one", ', "") for line in lines]
    assert "boot" in str(lines) and "boot" not in str(old)
    host.table = host.table[:1]
    assert acts(host, store, lines) == [("mount", "/b"), ("mount", "/m")]
    host.boot = "two"
    assert acts(host, store, lines) == [("mount", "/m")]
    assert host.kind().verify(lines, host.system())[0] == (
        "/b is not mounted: the host was booted since, so that /dev/sdb may be another disk: see to it by hand"
    )
    assert acts(host, store, old) == [("mount", "/b"), ("mount", "/m")], "an older version did not tell"


def test_what_other_hosts_serve_is_mounted_as_fstab_says_and_not_early(host: Host, store: Store) -> None:
    host.add("/srv", "nfs4", "server:/x", own="rw,vers=4.2,addr=10.0.0.1,clientaddr=10.0.0.2")
    lines = host.lines()
    assert "addr=" not in str(lines) and acts(host, store, host.kind().access_lines(lines)) == []
    host.drop("/srv")
    assert acts(host, store, lines, boot=True) == []
    assert acts(host, store, host.kind().access_lines(lines)) == []
    steps = host.kind().plan(lines, at(host, store))
    host.answers = {("mount",): lambda: host.add("/srv", "nfs4", "server:/x", own="rw,vers=4.2,addr=10.0.0.9")}
    assert host.kind().apply(steps, at(host, store)) == steps
    assert host.ran == [("mount", "--fstab", str(host.fstab), "/srv")]


def test_what_another_host_serves_now_is_not_touched_before_people_can_log_in(host: Host, store: Store) -> None:
    host.add("/srv", "ext4", "/dev/b")
    lines = host.lines()
    host.drop("/srv")
    host.add("/srv", "nfs4", "server:/x")
    host.add("/srv/deep", "ext4", "/dev/c", parent=host.table[-1].number)
    host.add("/new", "ext4", "/dev/d")
    assert acts(host, store, host.kind().access_lines(lines)) == [("unmount", "/new")]
    assert ("unmount", "/srv") in acts(host, store, lines) and ("mount", "/srv") in acts(host, store, lines)
    steps = host.kind().plan(host.kind().access_lines(lines), at(host, store))
    host.answers = {("umount", "/new"): lambda: host.drop("/new")}
    assert host.kind().apply(steps, at(host, store)) == steps and host.ran == [("umount", "/new")]


def test_a_host_whose_root_is_served_by_another_keeps_its_own_disks(host: Host, store: Store) -> None:
    host.table = []
    host.add("/", "nfs4", "server:/root")
    host.add("/scratch", "ext4", "/dev/b")
    assert host.kind().access_lines(['except {"points": ["/mnt"]}', *host.lines()]) == []
    assert acts(host, store, ['except {"points": ["/mnt"], "local": true}']) == []


def test_a_file_that_is_mounted_as_a_disk_is_mounted_again(host: Host, store: Store) -> None:
    host.name(A="/dev/sda", L="/dev/loop0")
    host.add("/data", "ext4", "/dev/loop0")
    lines = host.lines()
    host.drop("/data")
    host.name(A="/dev/sda")  # The loop device is free again, and has no UUID.
    assert acts(host, store, lines) == [("mount", "/data")]


def test_nothing_asks_a_mount_whose_server_may_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point, seen, ask = str(tmp_path / "gone"), [], os.lstat

    def lstat(path: Any, **how: Any) -> os.stat_result:
        seen.append(str(path))
        return ask(path, **how)

    monkeypatch.setattr(table, "mount_points", lambda: {point.encode(): "nfs4"})
    monkeypatch.setattr(os, "lstat", lstat)
    assert module._strange(point) == ""
    assert str(tmp_path) in seen and point not in seen


def test_a_mount_point_can_be_reached_by_those_who_could_before(tmp_path: Path) -> None:
    was = os.umask(0o077)
    try:
        module._make_point(str(tmp_path / "a" / "b"), {"kind": "ext4"})
        (tmp_path / "file").touch()
        module._make_point(str(tmp_path / "c" / "d"), {"kind": "ext4", "from": str(tmp_path / "file")})
    finally:
        os.umask(was)
    assert {oct((tmp_path / one).stat().st_mode) for one in ("a", "a/b", "c")} == {"0o40755"}
    assert (tmp_path / "c" / "d").is_file()


def test_a_mount_in_use_is_left_and_the_others_go(host: Host, store: Store) -> None:
    lines = host.lines()
    host.add("/a", "ext4", "/dev/b")
    host.add("/b", "ext4", "/dev/c")
    host.answers = {("umount", "/b"): "umount: /b: target is busy.", ("umount", "/a"): lambda: host.drop("/a")}
    with pytest.raises(RestoreFailed, match="/b: unmount: .*busy") as failed:
        host.kind().apply(host.kind().plan(lines, at(host, store)), at(host, store))
    assert [one["target"] for one in failed.value.result["done"]] == ["/a"]
    assert host.kind().verify(lines, host.system()) == ["/b is mounted, and was not"]


def test_swap_comes_back(host: Host, store: Store) -> None:
    one, other = host.place / "one", host.place / "other"
    one.touch()
    other.touch()
    host.swaps.write_text(f"Filename Type Size Used Priority\n{one} file 1 0 5\n")
    lines = host.lines()
    host.swaps.write_text(f"Filename Type Size Used Priority\n{other} file 1 0 -2\n")
    assert len(host.kind().verify(lines, host.system())) == 2
    host.kind().apply(host.kind().plan(lines, at(host, store)), at(host, store))
    assert host.ran == [("swapoff", str(other)), ("swapon", "-p", "5", str(one))]


def test_systemd_reads_fstab_again_once(host: Host, store: Store) -> None:
    lines = host.lines()
    system = replace(host.system(), has_systemd=lambda: True)
    there = Restore(system, store.objects, changed=[str(host.fstab)])
    steps = host.kind().plan(lines, there)
    assert [step.action for step in steps] == ["daemon-reload"]
    assert host.kind().apply(steps, there) == steps and host.ran == [("systemctl", "daemon-reload")]
    # One that failed is to be done, though the file comes back no more.
    assert host.kind().plan(lines, there._replace(changed=(), undone=steps)) == steps
    assert host.kind().plan(lines, there._replace(steps=steps)) == []


def test_a_place_that_a_user_could_move_is_not_mounted_on(tmp_path: Path, store: Store) -> None:
    host = Host(tmp_path)
    point = tmp_path / "of-a-user" / "x"
    point.mkdir(parents=True)
    host.add(str(point), "tmpfs", "tmpfs")
    point.parent.chmod(0o777)
    lines = host.lines()
    assert "is not mounted again" in " ".join(host.kind().not_restorable({}, lines))
    host.drop(str(point))
    assert "others can write to it" in " ".join(host.kind().obstacles(lines, at(host, store)))
    with pytest.raises(RestoreFailed, match="others can write to it"):
        host.kind().apply(host.kind().plan(lines, at(host, store)), at(host, store))
    point.parent.chmod(0o755)
    point.rmdir()
    point.symlink_to("/etc")
    with pytest.raises(RestoreFailed, match="leads to /etc"):
        host.kind().apply(host.kind().plan(lines, at(host, store)), at(host, store))
    assert host.ran == []


@pytest.mark.parametrize(
    "line",
    [
        'mount {"kind": "ext4", "options": ["rw"], "own": ["rw"], "point": "srv", "root": "/", "source": "/dev/b"}',
        'mount {"kind": "ext4", "options": ["rw,exec"], "own": [], "point": "/srv", "root": "/", "source": "/dev/b"}',
        'mount {"kind": "ext4", "options": ["-x"], "own": [], "point": "/srv", "root": "/", "source": "/dev/b"}',
        'mount {"kind": "../x", "options": ["rw"], "own": ["rw"], "point": "/srv", "root": "/", "source": "/dev/b"}',
        'mount {"kind": "ext4", "options": ["rw"], "own": ["rw"], "point": "/srv", "root": "/", "source": "--all"}',
        'mount {"from": "../x", "kind": "x", "options": [], "own": [], "point": "/srv", "root": "/", "source": "x"}',
        'swap {"path": "-a", "priority": 1}',
        'swap {"path": "/s", "priority": "high"}',
        'swap {"path": "/s", "priority": 1, "uuid": "../x"}',
        'mount {"kind": "x", "options": [], "own": [], "point": "/srv", "root": "/", "source": "x", "uuid": "a,b"}',
        "strange {}",
    ],
)
def test_a_doctored_line_is_refused(host: Host, store: Store, line: str) -> None:
    with pytest.raises(Damaged, match="refused"):
        host.kind().plan([line], at(host, store))


def test_what_memory_holds_is_said_to_be_lost(host: Host) -> None:
    host.add("/srv", "tmpfs", "tmpfs")
    assert "/srv (tmpfs)" in host.kind().not_restorable({}, host.lines())[0]


def test_fstab_suggests_it_and_what_is_left_alone_is_outside(host: Host, store: Store) -> None:
    fstab = str(host.fstab)
    assert host.kind().suggest({fstab: "content"}, [], at(host, store)) == ({}, {fstab})
    host.add("/mnt", "ext4", "/dev/b")
    lines = host.lines()
    assert list(host.kind().outside({}, lines, [{}], host.system())) == []
    assert list(host.kind().outside({}, lines, [{"except": ["/mnt"]}], host.system())) == ["at /mnt"]


# Among mounts of its own, with the kernel's own answers.
_REAL = (
    f"import sys; sys.path.append({str(Path(flows.__file__).parent)!r})"
    + """
sys.path.insert(0, sys.argv[1])
import os, subprocess
from flows import checkpoint, rollback
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.mounts import Mounts
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import rereading
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import mounts as table
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
rereading._APART = 0.0
place, change = sys.argv[2], sys.argv[3]
def sh(text): subprocess.run(["sh", "-ec", text], check=True, cwd=place)
def state():
    text = open("/proc/self/mountinfo").read()
    lines = [line.split(" ") for line in text.splitlines() if f" {place}/" in line]
    seen = sorted(" ".join([*line[3:6], *line[line.index("-"):]]) for line in lines)
    files = subprocess.run(["find", "bind", "-printf", "%P %s\\n"], cwd=place, text=True, stdout=subprocess.PIPE)
    return seen + sorted(files.stdout.split("\\n"))
os.chmod(place, 0o755)
mine = lambda: [one for one in table.mounts() if one.point == b"/" or one.point.startswith(place.encode() + b"/")]
registry.KINDS["mounts"] = Mounts(place + "/fstab", place + "/swaps", mine)
store = Store(place + "/store", System(has_systemd=lambda: False))
sh('''
mkdir data tmp bind own; touch fstab swaps file target; echo one > data/one
mount -t tmpfs -o size=1m,nosuid,nodev,noexec,mode=700 scratch tmp
mount --bind data bind; mount -o remount,bind,ro bind
mount -t tmpfs own own; mkdir own/below; mount -t tmpfs -o size=50%,noatime below own/below
mount --bind file target
''')
before = state()
resources = [{"mounts": {}}, {"files": {"paths": [place + "/bind", place + "/own/below"]}}]
checkpoint(store, "before", resources)
same = rollback(store, "before")
assert not same["changed"], same
sh(change)
changed = state()
assert changed != before
planned = rollback(store, "before", check_mode=True)
assert state() == changed
result = rollback(store, "before")
after = state()
assert after == before, (after, before)
assert result["left"] == planned["left"] == [], (planned, result)
same = rollback(store, "before")
assert not same["changed"], same
print(result["proved"])
"""
)


def among_mounts_of_its_own(place: Path, change: str) -> subprocess.CompletedProcess[str]:
    base = next(path for path in sys.path if os.path.isdir(os.path.join(path, "ansible_collections", "evenkeel")))
    # Its parents are a test's own: others cannot write to them where they lie in /root.
    argv = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", _REAL, base, str(place), change]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts of its own need root")
@pytest.mark.parametrize(
    "change",
    [
        "umount tmp; umount bind; rmdir bind",
        "mount -o remount,exec,suid,dev,ro tmp; mount -o remount,size=1m,nr_inodes=77 own",
        "mount -o remount,bind,rw bind; echo two > data/two",
        "umount own/below own; mkdir new; mount -t tmpfs x new; mkdir new/x; mount -t tmpfs y new/x",
        "umount target tmp; mount -t tmpfs -o size=3m other tmp; mount -t tmpfs over bind; echo other > bind/other",
    ],
)
def test_real_mounts_come_back(tmp_path: Path, change: str) -> None:
    done = among_mounts_of_its_own(tmp_path, change)
    assert done.returncode == 0, done.stderr
    assert "mounts: " in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts of its own need root")
def test_a_real_mount_in_use_is_left(tmp_path: Path) -> None:
    done = among_mounts_of_its_own(
        tmp_path, "mkdir new; mount -t tmpfs x new; cd new; sleep 30 >/dev/null 2>&1 & cd ..; umount tmp"
    )
    assert done.returncode != 0
    assert "1 thing is not as recorded" in done.stderr and "process" in done.stderr and "new: unmount" in done.stderr
