# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GRUB tries the kernel of a change once, and takes that of before in every further boot."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import (
    changes,
    command,
    grub,
    kept,
    loader,
    notices,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import by_hand
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import flow
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import ours
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, info, rollback, settle

GRUB = """\
menuentry 'Debian' --class gnu $menuentry_id_option 'gnulinux-simple-x' {
\tsavedefault
\tinsmod ext2
\tsearch --no-floppy --fs-uuid --set=root x
\techo\t'Loading Linux 6.1 ...'
\tlinux\t/boot/vmlinuz-6.1 root=UUID=x ro quiet
\tinitrd\t/boot/microcode.img /boot/initrd.img-6.1
}
submenu 'Advanced' {
\tmenuentry 'Debian, 6.0' {
\t\tlinux\t/boot/vmlinuz-6.0 root=UUID=x ro
\t}
}
if [ -f $prefix/custom.cfg ]; then source $prefix/custom.cfg; fi
"""


class Boot:
    """The directory /boot of a host, and GRUB's tools."""

    def __init__(self, root: Path) -> None:
        self.root, self.environment, self.fs, self.anew = root, dict[str, str](), "ext2", GRUB
        self.asked: list[str] = []
        (root / "boot/grub").mkdir(parents=True)
        (root / "defaults/grub.d").mkdir(parents=True)
        (root / "defaults/grub").write_text("GRUB_DEFAULT=0\n")
        (root / "cmdline").write_text("BOOT_IMAGE=/boot/vmlinuz-6.1 root=UUID=x ro quiet\n")
        (root / "boot/grub/grub.cfg").write_text(GRUB)
        (root / "boot/grub/grubenv").write_text("")
        for name in ("vmlinuz-6.1", "initrd.img-6.1", "microcode.img", "vmlinuz-6.0"):
            (root / "boot" / name).write_text(name)

    @property
    def custom(self) -> str:
        path = self.root / "boot/grub/custom.cfg"
        return path.read_text() if path.exists() else ""

    def run(self, argv: Sequence[str], timeout: float) -> Completed:
        self.asked.append(" ".join(argv))
        out = ""
        if argv[0] == "grub-editenv" and argv[2] == "set":
            self.environment.update([argv[3].split("=")])  # type: ignore[list-item]
        elif argv[0] == "grub-probe":
            out = f"{self.fs}\n" if "fs" in argv[1] else "\n"
        elif argv[0] == "update-grub":
            (self.root / "boot/grub/grub.cfg").write_text(self.anew)
        elif argv[:2] == ["systemctl", "show"]:
            out = "RuntimeWatchdogUSec=0\n"
        return Completed(tuple(argv), 0, out, "")


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boot:
    made = Boot(tmp_path)
    monkeypatch.setattr(grub, "GRUB", str(tmp_path / "boot/grub"))
    monkeypatch.setattr(kept, "PROC", str(tmp_path / "cmdline"))
    monkeypatch.setattr(loader, "WATCHDOG", str(tmp_path / "boot"))
    monkeypatch.setattr(loader, "LOADERS", (grub.Grub(),))
    monkeypatch.setattr(ours, "GRUB_CUSTOM", str(tmp_path / "boot/grub/custom.cfg"))
    monkeypatch.setattr(ours, "KEPT", str(tmp_path / "boot/evenkeel"))
    monkeypatch.setattr(ours, "KERNEL_ARGUMENTS", str(tmp_path / "defaults/grub.d/zz-evenkeel.cfg"))
    monkeypatch.setattr(ours, "MANAGER", str(tmp_path / "system.conf.d/zz-evenkeel.conf"))
    monkeypatch.setattr(command, "is_host", lambda _store: True)
    monkeypatch.setattr(flow, "AT_BOOT", re.compile(f"{tmp_path}/boot/"))
    monkeypatch.setattr(command, "install", lambda _store, _agent: "")
    monkeypatch.setattr(notices, "MOTD", str(tmp_path / "motd.d"))
    return made


@pytest.fixture
def host(store: Store, boot: Boot) -> Store:
    return Store(store.root, replace(store.system, run=boot.run))


def begin(host: Store, boot: Boot, reboots: int = 1) -> list[str]:
    resources = [{"files": {"paths": [str(boot.root / "boot"), str(boot.root / "defaults")]}}]
    return list(checkpoint(host, "change", resources, within=300.0, reboots=reboots).get("warnings") or [])


def booted(host: Store) -> Store:
    return Store(host.root, replace(host.system, boot_id=lambda: "another boot"))


def test_the_running_kernel_is_kept_and_is_the_default_once_the_tries_are_used_up(host: Store, boot: Boot) -> None:
    assert begin(host, boot, reboots=2) == []
    assert boot.environment == {"evenkeel_tries": "2"}
    for line in (
        "linux\t/boot/evenkeel/vmlinuz-6.1 root=UUID=x ro quiet",
        "initrd\t/boot/evenkeel/microcode.img /boot/evenkeel/initrd.img-6.1",
        'if [ "${evenkeel_tries}" = "1" ]; then\n  set evenkeel_tries=0\n  save_env evenkeel_tries\n'
        'elif [ "${evenkeel_tries}" = "2" ]; then\n  set evenkeel_tries=1\n  save_env evenkeel_tries\n'
        'elif [ "${evenkeel_tries}" != "over" ]; then\n  set default=evenkeel\nfi\n',
        "  set fallback=evenkeel\n",
    ):
        assert line in boot.custom, boot.custom
    assert "savedefault" not in boot.custom and "echo" not in boot.custom
    (boot.root / "boot/vmlinuz-6.1").write_text("of the change")
    assert (boot.root / "boot/evenkeel/vmlinuz-6.1").read_text() == "vmlinuz-6.1"
    arguments = (boot.root / "defaults/grub.d/zz-evenkeel.cfg").read_text()
    assert 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX panic=30 evenkeel.tried=1"' in arguments
    assert "RuntimeWatchdogSec=60s" in (boot.root / "system.conf.d/zz-evenkeel.conf").read_text()


def test_without_a_planned_boot_nothing_is_touched(host: Store, boot: Boot) -> None:
    assert begin(host, boot, reboots=0) == []
    assert not boot.custom and not boot.environment and not list((boot.root / "defaults/grub.d").iterdir())


@pytest.mark.parametrize("lacks", ["grub", "fs", "running", "theirs", "unread", "file"])
def test_a_boot_loader_that_cannot_do_it_is_a_warning(host: Store, boot: Boot, lacks: str) -> None:
    if lacks == "grub":
        (boot.root / "boot/grub/grub.cfg").unlink()
    elif lacks == "file":
        (boot.root / "boot/initrd.img-6.1").unlink()
    elif lacks == "fs":
        boot.fs = "btrfs"
    elif lacks == "running":
        (boot.root / "cmdline").write_text("BOOT_IMAGE=/boot/vmlinuz-7 ro\n")
    elif lacks == "unread":
        (boot.root / "boot/grub/grub.cfg").write_text(GRUB.replace("custom.cfg", "other.cfg"))
    else:
        (boot.root / "boot/grub/custom.cfg").write_text("# theirs\n")
    assert "does not leave a kernel that fails to boot" in begin(host, boot)[0]
    assert not boot.environment and boot.custom in ("", "# theirs\n")
    assert not (boot.root / "boot/evenkeel").exists()
    settle(booted_once(host), 1, None, 0.0, 0.1, 0.05)
    assert boot.custom in ("", "# theirs\n")


def booted_once(host: Store) -> Store:
    after = booted(host)
    with after.locked():
        assert flow.finish(after, True) == []
    return after


def test_confirmed_makes_it_the_default_of_the_hosts_configuration(host: Store, boot: Boot) -> None:
    begin(host, boot)
    (boot.root / "boot/grub/grub.cfg").write_text(GRUB.replace("quiet", "quiet panic=30 evenkeel.tried=1"))
    settle(booted_once(host), 1, None, 0.0, 0.1, 0.05)
    assert info(host)["last"]["outcome"] == "confirmed"
    assert not boot.custom and not (boot.root / "boot/evenkeel").exists()
    assert boot.environment["evenkeel_tries"] == "over"
    assert "update-grub" in boot.asked and (boot.root / "boot/grub/grub.cfg").read_text() == GRUB
    assert not list((boot.root / "defaults/grub.d").iterdir()) and not list((boot.root / "system.conf.d").iterdir())


def read_only(_path: str) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize("why", ["read-only", "not mounted"])
@pytest.mark.parametrize("by", ["settle", "by hand"])
def test_a_confirmed_change_says_that_the_kernel_of_before_may_still_be_booted(
    host: Store, boot: Boot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str, by: str
) -> None:
    begin(host, boot)
    after = booted_once(host)
    if why == "read-only":
        monkeypatch.setattr(grub, "remove_file", read_only)
    else:
        (boot.root / "boot/grub").rename(boot.root / "unmounted")
    if by == "settle":
        warnings = settle(after, 1, None, 0.0, 0.1, 0.05)["warnings"]
        assert settle(after, 1, None, 0.0, 0.1, 0.05)["warnings"] == warnings
    else:
        assert by_hand.confirm(after, from_here=True, alone=True) == 0
        warnings = [line for line in capsys.readouterr().out.splitlines() if "!" in line]
    assert len(warnings) == 1 and "may still boot the kernel of before" in warnings[0]
    last = info(host)["last"]
    assert last["outcome"] == "confirmed" and last["left"] == [grub.Grub.stays] and info(host)["doubt"] is None


def test_a_rollback_before_its_partition_is_mounted_says_which_kernel_is_booted(host: Store, boot: Boot) -> None:
    begin(host, boot)
    record = changes.armed(host)
    (boot.root / "boot").rename(boot.root / "unmounted")
    (boot.root / "boot").mkdir()
    assert record is not None and loader.rolled_back(host, {}) == []
    assert loader.rolled_back(host, record.kept) == [grub.Grub.not_as_before]


def test_a_boot_of_the_kernel_of_before_is_a_rollback(host: Store, boot: Boot) -> None:
    begin(host, boot)
    (boot.root / "boot/vmlinuz-6.2").write_text("of the change")
    (boot.root / "boot/grub/grub.cfg").write_text(GRUB.replace("6.1", "6.2"))
    (boot.root / "cmdline").write_text("BOOT_IMAGE=/boot/evenkeel/vmlinuz-6.1 root=UUID=x ro quiet\n")
    after = booted(host)
    with after.locked():
        said = flow.finish(after, True)
    assert "which a boot had ended" in said[0] and "the host boots again" in said[1]
    assert not boot.custom and not (boot.root / "boot/vmlinuz-6.2").exists()
    assert (boot.root / "boot/grub/grub.cfg").read_text() == GRUB


def test_the_kernel_of_before_is_known_before_its_partition_is_mounted(host: Store, boot: Boot) -> None:
    begin(host, boot)
    assert not loader.fell_back(host)
    (boot.root / "cmdline").write_text("BOOT_IMAGE=(hd0,gpt2)/evenkeel/vmlinuz-6.1 root=UUID=x ro quiet\n")
    (boot.root / "boot").rename(boot.root / "unmounted")
    (boot.root / "boot").mkdir()
    assert loader.fell_back(host)


def test_where_the_boot_loader_is_not_as_before_the_kernel_of_before_stays(host: Store, boot: Boot) -> None:
    live = boot.root / "live"
    live.write_text("before")
    checkpoint(host, "change", [{"files": {"paths": [str(live)]}}], within=300.0, reboots=1)
    (boot.root / "boot/grub/grub.cfg").write_text(GRUB.replace("6.1", "6.2"))
    result = rollback(host, "change")
    assert "evenkeel" in boot.custom and boot.environment["evenkeel_tries"] == "0"
    assert "boots the kernel of before" in str(info(host)["last"]["left"]), result
    # A change that plans no boot has nothing to do with it.
    assert begin(host, boot, reboots=0) == []
    settle(host, 2, None, 0.0, 0.1, 0.05)
    assert "evenkeel" in boot.custom
    # The host now runs the kernel that was kept: the next change begins with it.
    (boot.root / "cmdline").write_text("BOOT_IMAGE=/boot/evenkeel/vmlinuz-6.1 root=UUID=x ro quiet\n")
    assert begin(host, boot) == []
    assert "/boot/evenkeel/vmlinuz-6.1 root" in boot.custom and boot.environment["evenkeel_tries"] == "1"


def full(_path: str) -> SimpleNamespace:
    return SimpleNamespace(f_bavail=10, f_frsize=1)


def test_without_room_for_the_kernel_of_the_change_nothing_is_copied(
    host: Store, boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", full)
    assert "boot has " in (said := loader.prepare(host, 1)) and "one more kernel need" in said
    assert not boot.custom and not boot.environment and not (boot.root / "boot/evenkeel").exists()


def test_a_kept_kernel_stays_until_the_next_one_is_copied(
    host: Store, boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(host, boot)
    (boot.root / "boot/grub/grub.cfg").write_text(GRUB.replace("6.1", "6.2"))
    assert "boots the kernel of before" in loader.rolled_back(host, {})[0]
    # A person boots a third kernel.
    (boot.root / "cmdline").write_text("BOOT_IMAGE=/boot/vmlinuz-6.0 root=UUID=x ro\n")
    before = sorted(path.name for path in (boot.root / "boot/evenkeel").iterdir())
    assert before == ["initrd.img-6.1", "microcode.img", "vmlinuz-6.1"]
    with monkeypatch.context() as now:
        now.setattr(os, "statvfs", full)
        assert "one more kernel need" in loader.prepare(host, 1)
    assert before == sorted(path.name for path in (boot.root / "boot/evenkeel").iterdir())
    assert "/boot/evenkeel/vmlinuz-6.1" in boot.custom and boot.environment["evenkeel_tries"] == "0"
    assert loader.prepare(host, 1) == ""
    assert [path.name for path in (boot.root / "boot/evenkeel").iterdir()] == ["vmlinuz-6.0"]
    assert "/boot/evenkeel/vmlinuz-6.0 root" in boot.custom and "6.1" not in boot.custom


@pytest.mark.parametrize("lost", ["the directory", "its files", "a file"])
def test_a_kept_entry_whose_kernel_is_gone_is_not_made_the_default(host: Store, boot: Boot, lost: str) -> None:
    begin(host, boot)
    held = boot.root / "boot/evenkeel"
    for path in held.glob("initrd*" if lost == "a file" else "*"):
        path.unlink()
    if lost == "the directory":
        held.rmdir()
    said = loader.rolled_back(host, {})
    assert len(said) == 1 and "is gone from" in said[0] and "boots what" in said[0]
    assert boot.environment["evenkeel_tries"] == "over" and not boot.custom and not held.exists()
    assert "evenkeel_tries=0" not in str(boot.asked) and loader.rolled_back(host, {}) == []


def test_a_kept_kernel_that_cannot_be_seen_stays_the_default(
    host: Store, boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(host, boot)

    def unreadable(_path: str) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(grub, "is_missing", unreadable)
    assert "boots the kernel of before" in loader.rolled_back(host, {})[0]
    assert boot.custom and boot.environment["evenkeel_tries"] == "0"


def test_what_is_ours_is_part_of_no_checkpoint(host: Store, boot: Boot) -> None:
    begin(host, boot)
    held = ours.paths(host.root)
    assert {ours.GRUB_CUSTOM, ours.KEPT, ours.KERNEL_ARGUMENTS, ours.MANAGER} <= set(held)
