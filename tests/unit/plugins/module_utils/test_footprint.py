# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The footprint of a change: each path that is different is told, by its metadata before and after."""

from __future__ import annotations

import gzip
import os
import stat
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import footprint
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.footprint import Changed, Recorded, Walk
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.mounts import mount_points


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a test may lie in memory."""
    monkeypatch.setattr(footprint, "DISKS", footprint.DISKS | {"tmpfs"})


def keep_all(_path: bytes) -> bool:
    return False


class Host:
    """A tree, with the record of its state before."""

    def __init__(self, root: Path) -> None:
        self.root = root / "host"
        self.root.mkdir()
        self.path = str(root / "before.gz")
        self.left_out: Callable[[bytes], bool] = keep_all
        self.roots: Sequence[bytes] = [os.fsencode(self.root)]
        self.flat: Sequence[bytes] = []

    def walk(self, goes_on: Callable[[], bool] = lambda: True) -> Walk:
        return Walk(self.roots, self.left_out, goes_on, self.flat)

    def record(self) -> Walk:
        walk = self.walk()
        footprint.record(self.path, {"a": 1}, walk)
        return walk

    def changed(self, walk: Walk | None = None) -> dict[str, str]:
        with gzip.open(self.path) as stream:
            found = list(footprint.differences(Recorded(stream), walk or self.walk(), self.left_out))
        start = os.fsencode(self.root) + b"/"
        assert all(one.path.startswith(start) for one in found)
        assert len({one.path for one in found}) == len(found), "a path is told once"
        return {os.fsdecode(one.path[len(start) :]): one.what for one in found}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    root = host.root
    for name in ("etc/ssh/conf.d", "usr/bin", "opt/app/data"):
        (root / name).mkdir(parents=True)
    for name in ("etc/ssh/sshd_config", "etc/motd", "etc/gone", "usr/bin/su", "usr/bin/tool", "opt/app/data/one"):
        (root / name).write_text(name)
    (root / "etc/link").symlink_to("motd")
    (root / "usr/bin/su").chmod(0o4755)
    host.record()
    return host


def test_a_host_that_stands_still_has_no_footprint(host: Host) -> None:
    assert host.changed() == {}


def test_each_sort_of_change_is_told_as_what_it_is(host: Host) -> None:
    etc, usr = host.root / "etc", host.root / "usr/bin"
    (etc / "ssh/sshd_config").write_text("PermitRootLogin no, and longer")
    (etc / "motd").write_text("etc/MOTD")
    (usr / "su").chmod(0o755)
    os.chown(usr / "tool", 1, 1)
    (usr / "new").write_text("new")
    (etc / "gone").unlink()
    (etc / "other").symlink_to("tdom")  # while the first is there, so that it has another inode
    (etc / "other").rename(etc / "link")
    assert host.changed() == {
        "etc/ssh/sshd_config": "content",
        "etc/motd": "content or time",
        "usr/bin/su": "mode",
        "usr/bin/tool": "owner",
        "usr/bin/new": "new",
        "etc/gone": "removed",
        "etc/link": "replaced",
    }


def test_two_changes_of_one_path_are_both_told(host: Host) -> None:
    (host.root / "usr/bin/su").write_text("another")
    (host.root / "usr/bin/su").chmod(0o644)
    assert host.changed() == {"usr/bin/su": "content, mode"}


def test_a_file_that_is_written_and_has_its_times_set_back_is_told_all_the_same(host: Host) -> None:
    path = host.root / "etc/motd"
    was = path.stat()
    path.write_text("etc/MOTD")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert host.changed() == {"etc/motd": "changed"}


def test_another_file_of_the_same_size_and_times_is_told_as_replaced(host: Host) -> None:
    path = host.root / "etc/motd"
    subprocess.run(["cp", "-a", path, host.root / "etc/copy"], check=True)
    (host.root / "etc/copy").rename(path)
    assert host.changed() == {"etc/motd": "replaced"}


def test_attributes_beside_owner_and_mode_are_told_of_files_and_directories(host: Host) -> None:
    os.setxattr(host.root / "usr/bin/tool", "user.x", b"1")
    os.setxattr(host.root / "etc/ssh", "user.x", b"1")
    assert host.changed() == {"usr/bin/tool": "changed", "etc/ssh": "changed"}


def test_a_mode_of_a_place_itself_that_is_set_once_more_is_no_change(host: Host) -> None:
    for root in host.roots:
        os.chmod(root, os.stat(root).st_mode & 0o7777)
    assert host.changed() == {}


def test_an_overlay_makes_directories_anew_and_that_is_no_change(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "_COPIED_UP", tuple(footprint.DISKS))
    host.record()
    os.setxattr(host.root / "etc/ssh", "user.x", b"1")
    (host.root / "etc/motd").write_text("other words")
    (host.root / "opt").chmod(0o700)
    assert host.changed() == {"etc/motd": "content", "opt": "mode"}


def test_a_clock_that_was_set_back_or_forward_hides_nothing(host: Host) -> None:
    # The record holds times of the future, as it does when the clock is set back during the change.
    with gzip.open(host.path) as stream:
        data = stream.read()
    then = b" %x " % (host.root / "etc/motd").stat().st_ctime_ns
    assert then in data
    with gzip.open(host.path, "wb") as stream:
        stream.write(data.replace(then, b" %x " % (int(then, 16) + 10**17)))
    assert host.changed()["etc/motd"] == "changed"


def test_a_new_directory_and_one_that_is_gone_stand_for_all_they_held(host: Host) -> None:
    (host.root / "srv/deep/down").mkdir(parents=True)
    (host.root / "srv/deep/file").write_text("x")
    subprocess.run(["rm", "-r", host.root / "opt/app"], check=True)
    assert host.changed() == {"srv": "new", "opt/app": "removed"}


def test_a_directory_in_which_entries_came_and_went_is_no_change_of_its_own(host: Host) -> None:
    (host.root / "etc/ssh/file").write_text("x")
    (host.root / "etc/ssh/file").unlink()
    assert host.changed() == {}
    (host.root / "etc/ssh").chmod(0o700)
    assert host.changed() == {"etc/ssh": "mode"}


def test_a_directory_that_became_a_link_is_replaced_and_the_link_is_not_followed(host: Host, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("x")
    subprocess.run(["rm", "-r", host.root / "opt/app"], check=True)
    (host.root / "opt/app").symlink_to(tmp_path / "elsewhere")
    assert host.changed() == {"opt/app": "replaced"}


def test_a_declared_path_that_is_a_link_is_not_walked(host: Host) -> None:
    (host.root / "lib").symlink_to("usr")
    host.roots = [os.fsencode(host.root / "lib"), os.fsencode(host.root / "nowhere")]
    walk = host.walk()
    assert [one[1] for one in walk.directories()] == [b"", b""] and walk.complete, "themselves alone"


def test_a_directory_that_two_paths_show_is_walked_once(host: Host) -> None:
    host.roots = [os.fsencode(host.root / "etc/ssh"), os.fsencode(host.root)]
    host.record()
    (host.root / "etc/ssh/sshd_config").write_text("other")
    (host.root / "etc/motd").write_text("other")
    assert list(host.changed()) == ["etc/ssh/sshd_config", "etc/motd"], "in the order of the declared paths"


ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, mode, who)
    for tag, mode, who in ((1, 7, 2**32 - 1), (2, 7, 7), (4, 5, 2**32 - 1), (16, 5, 2**32 - 1), (32, 5, 2**32 - 1))
)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: path.chmod(0o700), "mode"),
        (lambda path: os.chown(path, 7, 7), "owner"),
        (lambda path: os.setxattr(path, "system.posix_acl_access", ACL), "changed"),
        (lambda path: os.setxattr(path, "user.x", b"1"), "changed"),
        (lambda path: (path / "new").mkdir(), None),
        (lambda path: path.rename(path.with_name("old")), "removed"),
    ],
)
@pytest.mark.parametrize("copied_up", [False, True])
def test_a_declared_path_itself_is_compared_whatever_the_file_system(
    host: Host, monkeypatch: pytest.MonkeyPatch, copied_up: bool, change: Callable[[Path], None], told: str | None
) -> None:
    monkeypatch.setattr(footprint, "_COPIED_UP", tuple(footprint.DISKS) if copied_up else ())
    host.roots = [os.fsencode(host.root / name) for name in ("opt/app", "usr", "spool")]
    host.record()
    change(host.root / "opt/app")
    assert host.changed().get("opt/app") == told
    (host.root / "spool").mkdir()
    assert host.changed()["spool"] == "new"


def test_of_a_directory_of_data_its_own_entries_are_compared_and_no_content(host: Host) -> None:
    host.roots, host.flat = [os.fsencode(host.root / "etc")], [os.fsencode(host.root / "opt")]
    for name in ("opt/file", "opt/growing"):
        (host.root / name).write_text("before")
    host.record()
    (host.root / "opt/growing").write_text("grows and grows")
    (host.root / "opt/app/data/one").write_text("and so does this")
    os.utime(host.root / "opt/app")
    assert host.changed() == {}, "data are no configuration"
    (host.root / "opt/file").chmod(0o600)
    os.setxattr(host.root / "opt/app", "system.posix_acl_access", ACL)
    (host.root / "opt/new").mkdir()
    (host.root / "opt/link").symlink_to("app")
    assert host.changed() == {"opt/file": "mode", "opt/app": "changed", "opt/new": "new", "opt/link": "new"}
    os.chown(host.root / "opt/app", 7, 7)
    assert host.changed()["opt/app"] == "owner, changed"


def test_a_directory_of_data_that_somebody_fills_keeps_no_tree_from_being_compared(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.roots, host.flat = [os.fsencode(host.root / "etc")], [os.fsencode(host.root / "opt")]
    for number in range(footprint._OFTEN + 9):
        (host.root / f"opt/{number}").touch()
    assert host.record().complete
    (host.root / "etc/motd").write_text("other words")
    (host.root / "opt/new").touch()
    calls = [0]

    def goes_on() -> bool:
        calls[0] += 1
        return calls[0] < 4

    walk = host.walk(goes_on)
    assert host.changed(walk) == {"etc/motd": "content"} and not walk.complete
    assert host.changed() == {"etc/motd": "content", "opt/new": "new"}
    monkeypatch.setattr(footprint, "MOST_FLAT", footprint._OFTEN)
    walk = host.walk()
    assert host.changed(walk) == {"etc/motd": "content"} and not walk.complete, "no entry that was cut off is removed"
    monkeypatch.setattr(footprint, "MOST_FLAT", 5)
    host.left_out = lambda path: os.path.dirname(path).endswith(b"/opt")
    assert host.walk().complete and list(host.walk().directories()), "what is left out fills no directory"


def test_what_a_service_makes_anew_among_data_is_not_replaced(host: Host) -> None:
    host.roots, host.flat = [], [os.fsencode(host.root / "opt")]
    made: dict[Path, Callable[[Path], object]] = {
        host.root / "opt/fifo": lambda path: os.mkfifo(path, 0o600),
        host.root / "opt/socket": lambda path: os.mknod(path, 0o600 | stat.S_IFSOCK),
        host.root / "opt/link": lambda path: path.symlink_to("app"),
    }
    for path, make in made.items():
        make(path)
    host.record()
    for path, make in made.items():
        make(path.with_name("next"))
        path.with_name("next").rename(path)
    assert host.changed() == {"opt/link": "replaced"}, "another link leads elsewhere"
    (host.root / "opt/fifo").unlink()
    os.mknod(host.root / "opt/fifo", 0o600 | stat.S_IFSOCK)
    assert host.changed()["opt/fifo"] == "replaced", "another type"


def test_each_path_that_is_looked_at_alone_asks_whether_there_is_time(host: Host) -> None:
    alone = [os.fsencode(host.root / f"etc/{number}") for number in range(9)]
    rounds = iter([True] * 4)
    walk = Walk([], keep_all, lambda: next(rounds, False), [], alone)
    assert (len(list(walk.directories())), walk.complete) == (4, False)


def test_a_record_of_a_version_that_did_not_look_at_declared_paths_themselves_is_read(host: Host) -> None:
    host.roots = [os.fsencode(host.root / "etc")]
    host.record()
    with gzip.open(host.path) as stream:
        first, itself, rest = stream.read().split(b"\n", 2)
    assert itself.split(b" ")[:2] == [b"0", b"0"]
    with gzip.open(host.path, "wb") as stream:
        stream.write(first + b"\n" + rest[int(itself.split(b" ")[2]) :])
    (host.root / "etc").chmod(0o700)
    (host.root / "etc/motd").write_text("longer than it was")
    assert host.changed() == {"etc/motd": "content"}


def test_attributes_that_a_user_sets_cost_no_more_than_their_names(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def value(_fd: int, key: str) -> bytes:
        read.append(key)
        return b"1"

    monkeypatch.setattr(os, "listxattr", lambda _fd: ["user.large", "security.x"])
    monkeypatch.setattr(os, "getxattr", value)
    host.record()
    assert set(read) == {"security.x"}


def test_what_is_left_out_is_neither_walked_nor_told(host: Host) -> None:
    host.left_out = lambda path: path.endswith((b"/opt", b".cache"))
    host.record()
    (host.root / "opt/app/data/one").write_text("other")
    (host.root / "etc/x.cache").write_text("other")
    assert host.changed() == {}
    assert not any(b"/opt/" in path + b"/" for _number, path, _entries in host.walk().directories())


@pytest.mark.parametrize(
    "name", [b"a\nb", b"\x1b[31mred", b"not-\xff-utf8", b"blank and 3 4\n", b"n" * 255, "ünï".encode()]
)
def test_hostile_names_are_told_byte_by_byte(host: Host, name: bytes) -> None:
    folder = os.fsencode(host.root) + b"/etc/ssh"
    with open(folder + b"/" + name, "wb"):
        pass
    host.record()
    os.chmod(folder + b"/" + name, 0o600)
    with open(folder + b"/x" + name[:200], "wb"):
        pass
    found = host.changed()
    assert found == {
        os.fsdecode(b"etc/ssh/" + name): "mode",
        os.fsdecode(b"etc/ssh/x" + name[:200]): "new",
    }


def test_a_tree_deeper_than_all_descriptors_ends_the_walk_there_and_is_said(host: Host) -> None:
    fd = os.open(host.root / "opt", os.O_RDONLY)
    for _level in range(300):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    assert not host.record().complete
    assert len(os.listdir("/proc/self/fd")) == before
    (host.root / "etc/motd").write_text("other words")
    assert host.changed() == {"etc/motd": "content"}
    subprocess.run(["rm", "-r", host.root / "opt"], check=True)


def test_a_walk_that_has_no_more_time_tells_what_it_saw_and_that_it_is_not_whole(host: Host) -> None:
    (host.root / "etc/motd").write_text("other words")
    (host.root / "usr/bin/su").write_text("other words")
    rounds = iter([True] * 3)
    walk = host.walk(lambda: next(rounds, False))
    assert host.changed(walk) == {"etc/motd": "content"}
    assert not walk.complete


def test_a_directory_with_many_entries_is_left_in_the_middle_when_time_is_over(host: Host) -> None:
    for number in range(footprint._OFTEN):
        (host.root / f"etc/{number}").touch()
    walk = host.walk(lambda: False)
    host.roots = [os.fsencode(host.root / "etc")]
    walk = host.walk(lambda: False)
    assert ([one[1] for one in walk.directories()], walk.complete) == ([b""], False)


def test_a_directory_that_may_not_be_read_is_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refused(path: object, *args: object, **more: object) -> int:
        if path == "ssh":
            raise PermissionError(13, "no", path)
        return real(path, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refused)
    walk = host.walk()
    assert len(list(walk.directories())) > 3
    assert not walk.complete


def test_only_file_systems_of_disks_are_walked(host: Host) -> None:
    walk = Walk([b"/proc", b"/sys"], keep_all)
    assert list(walk.directories()) == []


def test_what_a_network_or_a_user_has_mounted_is_not_even_looked_at(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stat of the mount point of a server that is gone never returns."""
    real = mount_points()
    point = os.fsencode(host.root / "etc/ssh")
    monkeypatch.setattr(footprint, "mount_points", lambda: {**real, point: "nfs4"})
    walk = list(host.walk().directories())
    (etc,) = [entries for _number, path, entries in walk if path == os.fsencode(host.root / "etc")]
    assert b"motd" in etc and not etc.startswith(b"ssh\0") and b"\0ssh\0" not in etc
    assert not any(path.startswith(point) for _number, path, _entries in walk)
    assert host.walk().complete


def test_of_memory_only_configuration_that_counts_until_the_next_boot_is_looked_at(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = os.fsencode(host.root / "etc")
    real = mount_points()
    monkeypatch.setattr(footprint, "DISKS", footprint.DISKS - {"tmpfs"})
    monkeypatch.setattr(footprint, "mount_points", lambda: {**real, point: "tmpfs"})
    host.roots = [point + b"/ssh", os.fsencode(host.root / "etc/motd")]
    assert list(host.walk().directories()) == []
    monkeypatch.setattr(footprint, "RUNTIME", point + b"/")
    host.record()
    (host.root / "etc/ssh/new").touch()
    (host.root / "etc/motd").write_text("a file may be declared, too")
    assert host.changed() == {"etc/ssh/new": "new", "etc/motd": "content"}


def test_a_number_that_a_file_system_may_change_at_any_time_is_not_compared(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "_PASSING_INODES", tuple(footprint.DISKS))
    host.record()
    path = host.root / "etc/motd"
    subprocess.run(["cp", "-a", path, host.root / "etc/copy"], check=True)
    (host.root / "etc/copy").rename(path)
    assert host.changed() == {"etc/motd": "changed"}


def test_other_file_systems_below_a_declared_path_are_not_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "DISKS", footprint.DISKS | {"proc", "sysfs"})
    walk = Walk([b"/"], lambda path: path not in (b"/proc", b"/sys"))
    assert [path for _number, path, _entries in walk.directories()] == [b"", b"/"]


@pytest.mark.parametrize("length", [0, 10, 200, -9])
def test_a_record_that_was_cut_off_is_none(host: Host, length: int) -> None:
    with open(host.path, "rb") as stream:
        data = stream.read()
    with open(host.path, "wb") as stream:
        stream.write(data[:length])
    with pytest.raises((ValueError, OSError, EOFError)):
        host.changed()


def test_a_record_that_cannot_be_written_leaves_none(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        host.record()
    assert os.listdir(os.path.dirname(host.path)) == ["host"]


def test_a_record_says_whether_it_is_whole(host: Host) -> None:
    with gzip.open(host.path) as stream:
        recorded = Recorded(stream)
        assert recorded.declared == {"a": 1}
        assert list(recorded.directories())
        assert recorded.complete


def test_hard_links_are_told_by_all_their_names(host: Host) -> None:
    os.link(host.root / "usr/bin/su", host.root / "usr/bin/other")
    host.record()
    (host.root / "usr/bin/su").chmod(0o755)
    assert host.changed() == {"usr/bin/su": "mode", "usr/bin/other": "mode"}
    assert Changed(b"/x", "new").path == b"/x"
