# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of the running kernel that a change leaves changed: mounts, swap, and settings, each told by its path."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import kernel
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.mounts import Mount


def mount(number: int, point: str, kind: str, options: str = "rw", own: str = "rw", parent: int = 1) -> Mount:
    return Mount(point.encode(), b"/", b"8:1", kind, number, parent, options, b"/dev/" + kind.encode(), own)


BEFORE = [
    mount(2, "/", "ext4"),
    mount(3, "/proc", "proc", parent=2),
    mount(4, "/dev/shm", "tmpfs", "rw,nosuid", "rw,size=1k", parent=2),
    mount(5, "/data", "xfs", parent=2),
    mount(6, "/gone", "xfs", parent=2),
    mount(7, "/home", "autofs", own="rw,indirect", parent=2),
]


def told(after: list[Mount]) -> dict[str, str]:
    def seen(every: list[Mount]) -> dict[str, Any]:
        return {"mounted": kernel.mounted(every), "swaps": [], "settings": {}}

    return dict(kernel.differences(seen(BEFORE), seen(after)))


def test_what_a_change_leaves_mounted_otherwise_is_told_by_its_place() -> None:
    after = [
        BEFORE[0],
        mount(3, "/proc", "proc", own="rw,hidepid=invisible", parent=2),
        mount(4, "/dev/shm", "tmpfs", "rw,nosuid,noexec", "rw,size=1k", parent=2),
        mount(5, "/data", "ext4", parent=2),
        BEFORE[5],
        mount(8, "/srv/new", "tmpfs", parent=2),
    ]
    assert told(after) == {
        "/proc": "mount options",
        "/dev/shm": "mount options",
        "/data": "another mount",
        "/gone": "unmounted",
        "/srv/new": "mounted",
    }
    assert told(BEFORE) == {}


@pytest.mark.parametrize(
    ("point", "kind"),
    [
        ("/run/user/0", "tmpfs"),
        ("/var/lib/docker/overlay2/x/merged", "overlay"),
        ("/snap/core/1", "squashfs"),
        ("/mnt/key", "fuse.sshfs"),
        ("/home/ops", "nfs4"),
    ],
)
def test_what_programs_mount_by_themselves_is_not_told(point: str, kind: str) -> None:
    assert told([*BEFORE, mount(9, point, kind, parent=7 if point.startswith("/home") else 2)]) == {}
    assert told([*BEFORE[:2], *BEFORE[2:], mount(9, point, kind, parent=2)]) == {}


def test_swap_and_settings_are_told(tmp_path: Path) -> None:
    swaps, pages, swap = tmp_path / "swaps", tmp_path / "enabled", tmp_path / "swapfile"
    swap.touch()
    read = partial(kernel.read_settings, str(swaps), (f"{tmp_path}/enabled*",))
    pages.write_text("always [madvise] never\n")
    swaps.write_text("Filename\tType\n/dev/zram0 partition 1 0 5\n/none file 1 0 -2\n")
    before = read()
    assert list(kernel.differences(before, read())) == []
    pages.write_text("always madvise [never]\n")
    (tmp_path / "enabled2").write_text("new with a device")
    swaps.write_text(f"Filename\tType\n{swap} file 1 0 -2\n")
    assert list(kernel.differences(before, read())) == [(str(swap), "swap on"), (str(pages), "value")]
    assert list(kernel.differences(read(), before))[:1] == [(str(swap), "swap off")]
    assert list(kernel.differences({}, {"mounted": {}, "swaps": [], "settings": {"/x": "1"}})) == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("", "0.0 0 0.0\n0\nLOCAL\n", True),
        ("0.0 0 0.0\n0\nUTC\n", "0.0 0 0.0\n0\nLOCAL\n", True),
        ("0.0 0 0.0\n0\nLOCAL\n", "", True),
        ("", "0.0 0 0.0\n0\nUTC\n", False),
        ("0.0 0 0.0\n0\nUTC\n", "1.5 1700000000 0.0\n1700000000\nUTC\n", False),
    ],
)
def test_a_hardware_clock_that_has_the_local_time_is_told_and_its_corrections_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, told: bool
) -> None:
    adjtime = tmp_path / "adjtime"
    monkeypatch.setattr(kernel, "_CLOCK", str(adjtime))
    monkeypatch.setattr(kernel, "_SETTINGS", ())
    seen = []
    for text in (before, after):
        adjtime.write_text(text) if text else adjtime.unlink(missing_ok=True)
        seen.append({**kernel.read_settings(), "mounted": {}, "swaps": []})
    assert list(kernel.differences(*seen)) == ([(str(adjtime), "value")] if told else [])


def test_rules_of_the_audit_and_their_lock_are_told_where_the_kernel_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "AUDIT", str(tmp_path))

    def rules(state: str, listed: str, rc: int = 0) -> dict[str, str]:
        said = {"-s": f"{state}\nlost 7\nbacklog {len(listed)}\n", "-l": listed}
        return kernel.read_audit(lambda argv, _seconds: Completed(tuple(argv), rc, said[argv[1]], ""))

    before = rules("enabled 1", "No rules")
    assert before == rules("enabled 1", "No rules") and list(before) == [kernel.AUDIT_RULES]
    assert len({*before.values(), *rules("enabled 2", "No rules").values(), *rules("enabled 1", "-w /x").values()}) == 3
    assert rules("enabled 1", "No rules", rc=4) == {}
    monkeypatch.setattr(kernel, "AUDIT", str(tmp_path / "none"))
    assert rules("enabled 1", "No rules") == {}


def test_modules_mapped_disks_and_loops_are_told_where_they_are_the_hosts(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    def read(capabilities: str = "000001ffffffffff", users: str = "0 0 4294967295") -> dict[str, Any]:
        write("proc/self/status", f"Name:\tx\nCapEff:\t{capabilities}\nCapBnd:\t0\n")
        write("proc/self/uid_map", f"         {users}\n")
        found = kernel.read_devices(str(tmp_path / "proc"), str(tmp_path / "block"))
        return {"mounted": {}, "swaps": [], "settings": {}, **found}

    write("proc/modules", "ext4 999 1 - Live 0x0\nold 1 0 - Live 0x0\n")
    write("block/dm-0/dm/name", "vg-root\n")
    write("block/dm-0/size", "2048\n")
    write("block/dm-9/dm/name", "vg-gone\n")
    write("block/loop0/size", "0\n")
    before = read()
    assert list(kernel.differences(before, read())) == [] == list(kernel.differences({}, read()))
    told_to_ss = "inet_diag 1 1 tcp_diag, Live 0x0\ntcp_diag 1 0 - Live 0x0\n"
    write(
        "proc/modules",
        f"{told_to_ss}dummy 1 0 - Live 0x0\nbase 1 1 dummy,ext4, Live 0x0 [permanent]\next4 999 1 - Live 0x0\n",
    )
    write("block/dm-0/size", "4096\n")
    write("block/dm-1/dm/name", "vg-new\n")
    write("block/dm-2/dm/name", "docker-8:1-7-a\n")
    (tmp_path / "block/dm-9/dm/name").unlink()
    write("block/loop0/loop/backing_file", "/root/image\n")
    write("block/loop1/loop/backing_file", "/var/lib/snapd/snaps/core_1.snap\n")
    assert list(kernel.differences(before, read())) == [
        ("/sys/module/dummy", "loaded"),
        ("/sys/module/old", "unloaded"),
        ("/dev/loop0", "set up"),
        ("/dev/mapper/vg-gone", "taken down"),
        ("/dev/mapper/vg-new", "set up"),
        ("/dev/mapper/vg-root", "value"),
    ]
    in_container = read("00000000800435fb")
    assert list(kernel.differences(in_container, read("00000000800425fb"))) == []
    for seen in (in_container, read(users="0 100000 65536")):
        assert "modules" not in seen and "devices" not in seen
        assert list(kernel.differences(seen, read())) == list(kernel.differences(read(), seen)) == []


def test_settings_of_systemd_that_are_in_no_file_are_told_by_their_command() -> None:
    def read(level: str, rc: int = 0) -> dict[str, str]:
        said = f"LogLevel={level}\nLogTarget=journal\nServiceWatchdogs=yes\n"
        return kernel.read_manager(lambda argv, _seconds: Completed(tuple(argv), rc, said, ""))

    seen = [{"mounted": {}, "swaps": [], "settings": read(level)} for level in ("info", "debug")]
    assert list(kernel.differences(*seen)) == [("/usr/bin/systemctl log-level", "value")]
    assert len(read("info")) == 3 and read("info", rc=1) == {}
