# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""systemd-boot tries the kernel of a change once, and takes that of before in every further boot."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import (
    changes,
    command,
    kept,
    loader,
    notices,
    systemd_boot,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import flow
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import ours
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, info, rollback, settle

ENTRY = """\
title      Debian
version    {version}
machine-id 3f
sort-key   debian
options    root=UUID=x ro
linux      /3f/{version}/linux
initrd     /3f/{version}/initrd.img
"""
OURS, VENDOR = "00-evenkeel.conf", "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
TRIED = " panic=30 evenkeel.tried=1"


class Machine:
    """The firmware's partition of a host at /boot, its variables, bootctl, and how systemd-boot chooses an entry."""

    def __init__(self, root: Path) -> None:
        self.root, self.esp, self.refuses = root, root / "boot", ""
        for folder in ("boot/loader/entries", "efi", "vars", "kernel/install.d"):
            (root / folder).mkdir(parents=True)
        (root / "cmdline").write_text("initrd=\\3f\\6.1\\initrd.img root=UUID=x ro\n")
        (self.esp / "loader/loader.conf").write_text("#timeout 3\n")
        self.install("6.1")
        self.install("6.0")
        self.set("LoaderInfo", "systemd-boot 252.39-1~deb12u2")
        assert self.start() == "3f-6.1.conf"

    def install(self, version: str, options: str = "") -> None:
        """Install a kernel, as kernel-install does."""
        (self.esp / "3f" / version).mkdir(parents=True, exist_ok=True)
        for name in ("linux", "initrd.img"):
            (self.esp / "3f" / version / name).write_text(f"{name} {version}{options}")
        text = ENTRY.format(version=version).replace(" ro\n", f" ro{options}\n")
        (self.esp / f"loader/entries/3f-{version}.conf").write_text(text)

    def get(self, name: str) -> str:
        path = self.root / f"vars/{name}-{VENDOR}"
        return path.read_bytes()[4:].decode("utf-16-le").rstrip("\0") if path.exists() else ""

    def set(self, name: str, value: str) -> None:
        path = self.root / f"vars/{name}-{VENDOR}"
        if value:
            path.write_bytes(b"\7\0\0\0" + f"{value}\0".encode("utf-16-le"))
        else:
            path.unlink(missing_ok=True)

    def run(self, argv: Sequence[str], timeout: float) -> Completed:
        names = {"set-default": "LoaderEntryDefault", "set-oneshot": "LoaderEntryOneShot"}
        if argv[0] == "bootctl":
            name = names[argv[1]]
            if name == self.refuses:
                return Completed(tuple(argv), 1, "", "the variable cannot be written")
            self.set(name, argv[2])
        return Completed(tuple(argv), 0, "RuntimeWatchdogUSec=0\n" if argv[0] == "systemctl" else "", "")

    def start(self) -> str:
        """Boot, and return the entry that systemd-boot has chosen."""
        found = {path.name: path.read_text() for path in (self.esp / "loader/entries").glob("*.conf")}
        usable = {
            name for name, text in found.items() if (self.esp / text.split("linux ")[1].split()[0].strip("/")).is_file()
        }
        old = lambda name: "sort-key" not in found[name]  # noqa: E731
        order = sorted(sorted(usable, reverse=True), key=old)
        once = self.get("LoaderEntryOneShot")
        self.set("LoaderEntryOneShot", "")
        setting = re.findall(r"(?m)^default (\S+)", (self.esp / "loader/loader.conf").read_text())
        for pattern in (once, self.get("LoaderEntryDefault"), *setting, "*"):
            matching = [name for name in order if pattern and fnmatch.fnmatchcase(name, pattern)]
            if matching:
                self.set("LoaderEntrySelected", matching[0])
                return matching[0]
        raise AssertionError("nothing boots")

    @property
    def own(self) -> str:
        path = self.esp / "loader/entries" / OURS
        return path.read_text() if path.exists() else ""

    def is_clean(self) -> bool:
        """Whether nothing of ours is left."""
        folders = [self.root / name for name in ("boot", "kernel", "system.conf.d")]
        left = [path for folder in folders for path in folder.rglob("*evenkeel*")]
        return not left and not self.get("LoaderEntryOneShot") and self.get("LoaderEntryDefault") != OURS


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    mounted = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda path: path == str(tmp_path / "boot") or mounted(path))
    monkeypatch.setattr(systemd_boot, "VARIABLES", str(tmp_path / "vars"))
    monkeypatch.setattr(kept, "PROC", str(tmp_path / "cmdline"))
    monkeypatch.setattr(loader, "LOADERS", (systemd_boot.SystemdBoot(),))
    monkeypatch.setattr(loader, "WATCHDOG", str(tmp_path / "boot"))
    entries = tuple(f"{tmp_path}/{root}/loader/entries/{OURS}" for root in ("boot", "efi"))
    monkeypatch.setattr(ours, "BOOT_ENTRIES", entries)
    monkeypatch.setattr(ours, "KERNEL_INSTALL", str(tmp_path / "kernel/install.d/95-evenkeel.install"))
    monkeypatch.setattr(ours, "MANAGER", str(tmp_path / "system.conf.d/zz-evenkeel.conf"))
    monkeypatch.setattr(ours, "stranger", lambda *_arguments: "")
    monkeypatch.setattr(command, "is_host", lambda _store: True)
    monkeypatch.setattr(command, "install", lambda _store, _agent: "")
    monkeypatch.setattr(flow, "AT_BOOT", re.compile(f"{tmp_path}/boot/"))
    monkeypatch.setattr(notices, "MOTD", str(tmp_path / "motd.d"))
    return Machine(tmp_path)


@pytest.fixture
def host(store: Store, machine: Machine) -> Store:
    return Store(store.root, replace(store.system, run=machine.run))


def begin(host: Store, machine: Machine, reboots: int = 1, paths: str = "boot") -> list[str]:
    resources = [{"files": {"paths": [str(machine.root / paths)]}}]
    return list(checkpoint(host, "change", resources, within=300.0, reboots=reboots).get("warnings") or [])


def after(host: Store, boot: str = "another boot") -> tuple[Store, list[str]]:
    """The host after a boot, with what its agent did early at boot."""
    booted = Store(host.root, replace(host.system, boot_id=lambda: boot))
    with booted.locked():
        return booted, flow.finish(booted, True)


def test_the_running_kernel_is_kept_and_the_planned_boot_takes_that_of_the_change(
    host: Store, machine: Machine
) -> None:
    assert begin(host, machine) == []
    for line in (
        "linux      /loader/evenkeel/3f/6.1/linux\n",
        "initrd     /loader/evenkeel/3f/6.1/initrd.img\n",
        "options    root=UUID=x ro\n",
    ):
        assert line in machine.own, machine.own
    assert "sort-key" not in machine.own
    # The kernel of the same version is replaced.
    machine.install("6.1", " of the change")
    assert (machine.esp / "loader/evenkeel/3f/6.1/linux").read_text() == "linux 6.1"
    assert machine.start() == "3f-6.1.conf"
    assert machine.start() == OURS
    assert machine.start() == OURS
    assert "RuntimeWatchdogSec=60s" in (machine.root / "system.conf.d/zz-evenkeel.conf").read_text()


def test_without_a_planned_boot_nothing_is_touched(host: Store, machine: Machine) -> None:
    assert begin(host, machine, reboots=0) == []
    assert machine.is_clean() and machine.start() == "3f-6.1.conf"


@pytest.mark.parametrize(
    ("lacks", "why"),
    [
        ("version", "older than version 250"),
        ("saved", "@saved"),
        ("preferred", "preferred"),
        ("once", "chosen already"),
        ("image", "is the entry of this boot (debian.efi)"),
        ("unmounted", "is the entry of this boot"),
        ("theirs", "is not ours"),
        ("efi", "not a plain kernel"),
        ("file", "initrd.img is not in"),
        ("room", "MiB free"),
        ("firmware", "did not take LoaderEntryDefault"),
    ],
)
def test_a_boot_loader_that_cannot_do_it_is_a_warning(
    host: Store, machine: Machine, monkeypatch: pytest.MonkeyPatch, lacks: str, why: str
) -> None:
    entry, theirs = machine.esp / "loader/entries/3f-6.1.conf", machine.esp / "loader/entries" / OURS
    if lacks == "version":
        machine.set("LoaderInfo", "systemd-boot 249")
    elif lacks == "saved":
        (machine.esp / "loader/loader.conf").write_text("default @saved\n")
    elif lacks == "preferred":
        machine.set("LoaderEntryPreferred", "3f-*")
    elif lacks == "once":
        machine.set("LoaderEntryOneShot", "auto-windows")
    elif lacks == "image":
        machine.set("LoaderEntrySelected", "debian.efi")
    elif lacks == "unmounted":
        monkeypatch.setattr(os.path, "ismount", lambda _path: False)
    elif lacks == "theirs":
        theirs.write_text(ENTRY.format(version="6.0"))
    elif lacks == "efi":
        entry.write_text(entry.read_text() + "efi /EFI/other.efi\n")
    elif lacks == "file":
        (machine.esp / "3f/6.1/initrd.img").unlink()
    elif lacks == "room":
        with open(machine.esp / "3f/6.1/linux", "r+b") as stream:
            stream.truncate(1 << 40)
    else:
        machine.refuses = "LoaderEntryDefault"
    held = theirs.read_text() if lacks == "theirs" else ""
    said = loader.prepare(host, 1)
    assert "does not leave a kernel that fails to boot: " in said and why in said
    assert machine.own == held and not (machine.esp / "loader/evenkeel").exists()
    assert machine.get("LoaderEntryOneShot") == ("auto-windows" if lacks == "once" else "")
    assert not machine.get("LoaderEntryDefault")
    loader.confirmed(host, {})
    assert machine.own == held and loader.rolled_back(host, {}) == []


def test_confirmed_makes_it_the_default_of_the_hosts_configuration(host: Store, machine: Machine) -> None:
    machine.set("LoaderEntryDefault", "3f-*")
    begin(host, machine)
    machine.install("6.2", TRIED)
    assert machine.start() == "3f-6.2.conf"
    settle(after(host)[0], 1, None, 0.0, 0.1, 0.05)
    assert info(host)["last"]["outcome"] == "confirmed"
    assert machine.is_clean() and machine.get("LoaderEntryDefault") == "3f-*"
    assert "evenkeel" not in (machine.esp / "loader/entries/3f-6.2.conf").read_text()
    assert machine.start() == "3f-6.2.conf"


@pytest.mark.parametrize("refuses", ["", "LoaderEntryDefault"])
def test_a_default_that_the_firmware_did_not_give_up_is_nothing_of_a_later_change(
    host: Store, machine: Machine, refuses: str
) -> None:
    begin(host, machine)
    machine.start()
    machine.refuses = "LoaderEntryDefault"
    settle(after(host)[0], 1, None, 0.0, 0.1, 0.05)
    assert machine.get("LoaderEntryDefault") == OURS and not machine.own
    assert info(host)["last"]["left"] == [], "without its entry a default is passed over"
    machine.refuses = refuses
    machine.set("LoaderEntryPreferred", "3f-*")
    assert "preferred" in loader.prepare(host, 1) and machine.get("LoaderEntryDefault") == (OURS if refuses else "")
    said = str(loader.rolled_back(host, {}))
    assert "boots the kernel of before" not in said and ("boots what" in said) == bool(refuses)
    assert machine.start() == "3f-6.1.conf"


def test_a_boot_of_the_kernel_of_before_is_a_rollback(host: Store, machine: Machine) -> None:
    begin(host, machine)
    machine.install("6.2")
    assert (machine.start(), machine.start()) == ("3f-6.2.conf", OURS)
    _booted, said = after(host)
    assert "which a boot had ended" in said[0] and "the host boots again" in said[1]
    assert machine.is_clean() and not (machine.esp / "loader/entries/3f-6.2.conf").exists()
    assert machine.start() == "3f-6.1.conf"


def test_the_kernel_of_before_is_known_before_its_partition_is_mounted(
    host: Store, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(host, machine)
    assert (machine.start(), loader.fell_back(host)) == ("3f-6.1.conf", False)
    assert (machine.start(), loader.fell_back(host)) == (OURS, True)
    monkeypatch.setattr(os.path, "ismount", lambda _path: False)
    (machine.root / "boot").rename(machine.root / "unmounted")
    assert loader.fell_back(host)
    assert "boots the kernel of before" in loader.rolled_back(host, {})[0] and machine.get("LoaderEntryDefault") == OURS
    loader.confirmed(host, {})
    assert not machine.get("LoaderEntryDefault")


@pytest.mark.parametrize("refuses", ["", "LoaderEntryDefault"])
def test_a_confirmed_change_says_that_the_kernel_of_before_may_still_be_booted(
    host: Store, machine: Machine, monkeypatch: pytest.MonkeyPatch, refuses: str
) -> None:
    machine.set("LoaderEntryDefault", "3f-*")
    begin(host, machine)
    machine.start()
    booted = after(host)[0]
    monkeypatch.setattr(os.path, "ismount", lambda _path: False)
    (machine.root / "boot").rename(machine.root / "unmounted")
    machine.refuses = refuses
    warnings = settle(booted, 1, None, 0.0, 0.1, 0.05).get("warnings")
    assert warnings == ([systemd_boot.SystemdBoot.stays] if refuses else None)
    assert machine.get("LoaderEntryDefault") == (OURS if refuses else "3f-*"), "the default of before is back"


def test_a_partition_that_cannot_be_read_keeps_no_host_from_going_back(
    host: Store, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(host, machine, reboots=2)
    machine.start()
    entries, names_of = f"{machine.esp}/loader/entries", os.listdir

    def broken(path: str) -> list[str]:
        if path == entries:
            raise OSError(errno.EIO, "Input/output error")
        return names_of(path)

    monkeypatch.setattr(os, "listdir", broken)
    # The planned boot is recorded, although nobody knows whether it took the entry of the configuration.
    booted, said = after(host, "second")
    record = changes.armed(booted)
    assert said == [] and record is not None and record.boots == 1 and record.overdue(booted.system) is None
    assert machine.start() == OURS
    assert loader.fell_back(host), "the firmware knows"


def test_a_further_boot_takes_the_kernel_of_before_while_the_partition_is_not_mounted(
    host: Store, machine: Machine
) -> None:
    begin(host, machine, reboots=2)
    machine.start()
    (machine.root / "boot").rename(machine.root / "unmounted")
    (machine.root / "boot").mkdir()
    loader.go_on(host)
    assert not machine.get("LoaderEntryOneShot")


def test_a_kernel_that_systemd_boot_cannot_find_is_a_rollback(host: Store, machine: Machine) -> None:
    (machine.esp / "loader/loader.conf").write_text("default 3f-*\n")
    begin(host, machine)
    for version in ("6.1", "6.0"):
        (machine.esp / f"3f/{version}/linux").unlink()
    assert machine.start() == OURS
    after(host)
    assert machine.is_clean() and machine.start() == "3f-6.1.conf"


def test_each_of_several_planned_boots_takes_the_kernel_of_the_change(host: Store, machine: Machine) -> None:
    begin(host, machine, reboots=2)
    machine.install("6.2")
    for boot in ("second", "third"):
        assert machine.start() == "3f-6.2.conf"
        assert after(host, boot)[1] == []
    assert machine.start() == OURS
    assert after(host, "fourth")[1] and machine.is_clean()


@pytest.mark.parametrize("by", ["loader.conf", "variable"])
def test_a_boot_of_another_entry_than_the_change_names_is_a_rollback(host: Store, machine: Machine, by: str) -> None:
    settings = machine.esp / "loader/loader.conf"
    settings.write_text("default 3f-6.1.conf\n")
    begin(host, machine)
    machine.install("6.2")
    if by == "variable":
        machine.set("LoaderEntryDefault", "3f-6.2.conf")
    else:
        settings.write_text("default 3f-6.2.conf\n")
    assert machine.start() == "3f-6.1.conf"
    assert after(host)[1]
    assert settings.read_text() == "default 3f-6.1.conf\n"
    assert machine.is_clean() and not machine.get("LoaderEntryDefault") and machine.start() == "3f-6.1.conf"


def test_where_the_boot_loader_is_not_as_before_the_kernel_of_before_stays(host: Store, machine: Machine) -> None:
    begin(host, machine, paths="kernel")
    machine.install("6.2")
    result = rollback(host, "change")
    assert "boots the kernel of before" in str(info(host)["last"]["left"]), result
    assert machine.start() == OURS
    # A change that plans no boot has nothing to do with it.
    assert begin(host, machine, reboots=0, paths="kernel") == []
    settle(host, 2, None, 0.0, 0.1, 0.05)
    assert machine.own
    # The host now runs the kernel that was kept: the next change begins with it.
    assert begin(host, machine) == []
    assert "linux      /loader/evenkeel/3f/6.1/linux\n" in machine.own
    assert (machine.start(), machine.start()) == ("3f-6.2.conf", OURS)


def test_a_kept_kernel_stays_until_the_next_one_is_copied(
    host: Store, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(host, machine, paths="kernel")
    machine.install("6.2")
    assert "boots the kernel of before" in loader.rolled_back(host, {})[0]
    # A person boots the kernel of the change.
    machine.set("LoaderEntrySelected", "3f-6.2.conf")
    held = machine.esp / "loader/evenkeel/3f"
    with monkeypatch.context() as now:
        now.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=10, f_frsize=1))
        assert "MiB free" in loader.prepare(host, 1)
    assert (held / "6.1/linux").exists() and (held / "6.1/initrd.img").exists() and machine.start() == OURS
    machine.set("LoaderEntrySelected", "3f-6.2.conf")
    assert loader.prepare(host, 1) == ""
    assert {path.name for path in held.rglob("*") if path.is_file()} == {"linux", "initrd.img"}
    assert not (held / "6.1/linux").exists() and (held / "6.2/linux").read_text() == "linux 6.2"
    assert (machine.start(), machine.start()) == ("3f-6.2.conf", OURS)


def test_a_changed_kernel_of_before_stays_out_of_use(host: Store, machine: Machine) -> None:
    begin(host, machine, paths="kernel")
    (machine.esp / "3f/6.1/initrd.img").write_text("of the change")
    rollback(host, "change")
    assert machine.start() == OURS


def test_a_partition_whose_files_belong_to_another_user_is_a_warning(
    host: Store, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry there would not be known as ours: no end of a change would remove it."""
    copy = shutil.copyfile

    def copyfile(source: str, target: str) -> None:
        copy(source, target)
        os.chown(target, 1000, 1000)

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    assert "belong to uid 1000" in loader.prepare(host, 1)
    assert machine.is_clean() and machine.start() == "3f-6.1.conf"


@pytest.mark.parametrize("lost", ["kernel", "entry"])
def test_a_kept_entry_that_cannot_be_booted_is_not_said_to_be_booted(host: Store, machine: Machine, lost: str) -> None:
    machine.set("LoaderEntryDefault", "3f-*")
    begin(host, machine)
    (machine.esp / ("loader/evenkeel/3f/6.1/linux" if lost == "kernel" else f"loader/entries/{OURS}")).unlink()
    record = changes.armed(host)
    assert record is not None
    said = loader.rolled_back(host, record.kept)
    assert len(said) == 1 and "is gone. The host boots what" in said[0]
    assert machine.get("LoaderEntryDefault") == "3f-*" and not machine.own
    assert machine.start() == "3f-6.1.conf" and loader.rolled_back(host, {}) == []


def test_counters_in_names_of_entries_are_no_difference(host: Store, machine: Machine) -> None:
    entries = machine.esp / "loader/entries"
    (entries / "3f-6.1.conf").rename(entries / "3f-6.1+2-1.conf")
    machine.set("LoaderEntrySelected", "3f-6.1+3.conf")
    assert begin(host, machine, paths="kernel") == []
    (entries / "3f-6.1+2-1.conf").rename(entries / "3f-6.1.conf")
    rollback(host, "change")
    assert machine.is_clean()


def test_what_is_ours_is_part_of_no_checkpoint(host: Store, machine: Machine) -> None:
    begin(host, machine)
    entry = ours.BOOT_ENTRIES[0]
    assert {entry, ours.kept_of(entry), ours.KERNEL_INSTALL, ours.MANAGER} <= set(ours.paths(host.root))


def test_grub_that_systemd_boot_has_started_is_grub(machine: Machine) -> None:
    assert systemd_boot.SystemdBoot().is_in_use()
    (machine.root / "cmdline").write_text("BOOT_IMAGE=/boot/vmlinuz-6.1 ro\n")
    assert not systemd_boot.SystemdBoot().is_in_use()


@pytest.mark.parametrize("options", ["root=UUID=x ro", "root=UUID=x panic=5 ro"])
def test_a_kernel_that_is_installed_boots_again_after_a_panic(host: Store, machine: Machine, options: str) -> None:
    begin(host, machine)
    entry = machine.esp / "loader/entries/3f-6.2+3.conf"
    entry.write_text(f"version 6.2\noptions    {options}\n")
    environment = {
        **os.environ,
        "KERNEL_INSTALL_LAYOUT": "bls",
        "KERNEL_INSTALL_BOOT_ROOT": str(machine.esp),
        "KERNEL_INSTALL_ENTRY_TOKEN": "3f",
    }
    for _time in ("installed", "installed anew"):
        subprocess.run([ours.KERNEL_INSTALL, "add", "6.2", "/3f/6.2", "image"], env=environment, check=True)
    tried = "" if "panic=" in options else TRIED
    assert entry.read_text() == f"version 6.2\noptions    {options}{tried}\n"
    assert "panic" not in (machine.esp / "loader/entries/3f-6.1.conf").read_text()
