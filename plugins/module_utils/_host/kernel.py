# SPDX-License-Identifier: GPL-3.0-or-later

"""The state of the running kernel that no walk over a disk shows: mounts, swap, settings below /sys, modules, devices
that were set up, rules of the audit, and whether the hardware's clock has the local time. Also settings of systemd that
are in no file."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Callable

from . import mounts as table
from .commands import Completed
from .mounts import OF_PROGRAMS, Mount
from .paths import ancestors
from .trust import read_small

# The differences, in words.
MOUNTED, UNMOUNTED, OTHER_MOUNT, OPTIONS = "mounted", "unmounted", "another mount", "mount options"
SWAP_ON, SWAP_OFF, VALUE = "swap on", "swap off", "value"
LOADED, UNLOADED, SET_UP, TAKEN_DOWN = "loaded", "unloaded", "set up", "taken down"
OF_MOUNTS = (MOUNTED, UNMOUNTED, OTHER_MOUNT, OPTIONS, SWAP_ON, SWAP_OFF)
OF_NO_FILE = (*OF_MOUNTS, VALUE, LOADED, UNLOADED, SET_UP, TAKEN_DOWN)
_SWAPS = "/proc/swaps"
# Settings that nothing but a boot puts back, and that no program changes by itself.
_SETTINGS = (
    *("/sys/kernel/mm/transparent_hugepage/*", "/sys/kernel/mm/ksm/run", "/sys/module/zswap/parameters/enabled"),
    *(f"/sys/block/*/queue/{name}" for name in ("scheduler", "read_ahead_kb", "nr_requests")),
    *(f"/sys/class/net/{name}/{what}" for name in ("[!v]*", "v[!e]*") for what in ("mtu", "tx_queue_len", "ifalias")),
    "/sys/fs/selinux/enforce",
)
# File systems that programs mount, or that come and go by themselves.
_PASSING = ("autofs", "overlay", "squashfs", "nsfs", "fuse", "fuseblk", "ramfs", "binfmt_misc")
# File systems of which the options are those that somebody has given.
_TOLD = ("proc", "tmpfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat")
# Mount points among those of programs whose options an administrator sets.
_OF_ALL = ("/proc", "/dev", "/dev/shm", "/run")
_LARGEST, _LONGEST = 4096, 1 << 20
# The third line tells whether the hardware's clock has the local time or UTC, which it has without such a line. hwclock
# writes its corrections into the other lines by itself.
_CLOCK, _UTC = "/etc/adjtime", b"UTC"
# The program that lists the rules of the audit, and the name under which they are told: no path shows them.
AUDIT, AUDIT_RULES = "/sbin/auditctl", "/sbin/auditctl -l"
_LOOK = 5.0
# A capability by its bit: without it, as in a container, modules and disks are another host's. They are another host's
# as well in a container with users of its own, which has all capabilities.
_CAP_SYS_MODULE = 16
_ALL_USERS = ["0", "0", "4294967295"]
# Modules that tell ``ss`` of open sockets, and that the kernel loads for it.
_OF_SS = "_diag"
# Devices that programs set up by themselves.
_OF_DOCKER, _OF_SNAPD = "/dev/mapper/docker-", "/var/lib/snapd/"
# Properties of systemd, and the commands that set them.
_MANAGER = {"LogLevel": "log-level", "LogTarget": "log-target", "ServiceWatchdogs": "service-watchdogs"}
_SYSTEMCTL = "/usr/bin/systemctl"


def read_settings(table_of_swap: str = _SWAPS, patterns: Sequence[str] = _SETTINGS) -> dict[str, object]:
    """``mounted``: point -> the file system and its options. ``swaps``: paths. ``settings``: path -> value. Plain
    JSON."""
    swaps: list[str] = []
    with suppress(OSError), open(table_of_swap, encoding="utf-8", errors="surrogateescape") as stream:
        paths = [line.split()[0] for line in stream.readlines()[1:]]
        # A container sees the swap of its machine, and compressed memory belongs to the program that makes it.
        swaps = [one for one in paths if os.path.exists(one) and not one.startswith("/dev/zram")]
    settings = {}
    for path in (path for one in patterns for path in glob.glob(one)):
        with suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
            settings[path] = stream.read(_LARGEST).strip()
    settings[_CLOCK] = _clock()
    found = {}
    with suppress(OSError):
        found = mounted(table.mounts("1" if table.is_apart() else "self"))
    return {"mounted": found, "swaps": swaps, "settings": settings}


def _clock() -> str:
    lines: list[bytes] = []
    with suppress(OSError):
        lines = read_small(_CLOCK, _LARGEST)[0].splitlines()
    return os.fsdecode(lines[2].strip() if len(lines) > 2 else _UTC)


def read_audit(run: Callable[[Sequence[str], float], Completed]) -> dict[str, str]:
    """A hash of the kernel's rules of the audit, and whether they are locked, as a setting; empty where no audit is, or
    where it is another host's, as in a container."""
    if not os.path.exists(AUDIT):
        return {}
    said = [run([AUDIT, word], _LOOK) for word in ("-s", "-l")]
    if any(one.rc for one in said):
        return {}
    state = [line for line in said[0].out.splitlines() if line.startswith("enabled ")]
    return {AUDIT_RULES: hashlib.sha256("\n".join([*state, said[1].out]).encode()).hexdigest()}


def read_manager(run: Callable[[Sequence[str], float], Completed]) -> dict[str, str]:
    """Settings of systemd that are in no file, each by the command that sets it."""
    done = run(["systemctl", "show", f"--property={','.join(_MANAGER)}"], _LOOK)
    pairs = (line.split("=", 1) for line in done.out.splitlines() if done.rc == 0 and "=" in line)
    return {f"{_SYSTEMCTL} {_MANAGER[key]}": value for key, value in pairs if key in _MANAGER}


def read_devices(proc: str = "/proc", disks: str = "/sys/block") -> dict[str, Mapping[str, object]]:
    """``modules``: name -> the modules that need it. ``devices``: mapped disks -> their sizes, and loop devices ->
    their files. Neither is there in a container. Plain JSON."""
    held = re.search(r"^CapEff:\s*([0-9a-f]+)$", _text(f"{proc}/self/status"), re.MULTILINE)
    if held is None or not int(held[1], 16) >> _CAP_SYS_MODULE & 1:
        return {}
    if _text(f"{proc}/self/uid_map").split() not in ([], _ALL_USERS):
        return {}
    modules, devices = {}, {}
    for words in (line.split() for line in _text(f"{proc}/modules").splitlines()):
        if not words[0].endswith(_OF_SS):
            modules[words[0]] = [one for one in words[3].split(",") if one not in ("", "-")]
    for path in glob.glob(f"{disks}/dm-*/dm/name"):
        devices[f"/dev/mapper/{_text(path).strip()}"] = _text(f"{path[: -len('/dm/name')]}/size").strip()
    for path in glob.glob(f"{disks}/loop*/loop/backing_file"):
        devices[f"/dev/{path.split('/')[-3]}"] = _text(path).strip()
    of_programs = [key for key, value in devices.items() if _OF_DOCKER in key or value.startswith(_OF_SNAPD)]
    return {"modules": modules, "devices": {key: devices[key] for key in devices if key not in of_programs}}


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(_LONGEST)
    except OSError:
        return ""


def mounted(every: list[Mount]) -> dict[str, list[str]]:
    """Mount point -> the file system there, and its options. Pure."""
    automatic = {one.point for one in every if one.kind == table.AUTOFS}
    found = {}
    for one in table.visible(every):
        by_itself = one.kind in _PASSING or one.kind.startswith("fuse.") or _is_of_program(os.fsdecode(one.point))
        if by_itself or not automatic.isdisjoint({*ancestors(one.point), one.point}):
            continue
        own = one.own.split(",") if one.kind in _TOLD else []
        options = ",".join(sorted({*one.options.split(","), *own}))
        found[os.fsdecode(one.point)] = [f"{one.kind} {os.fsdecode(one.source)} {os.fsdecode(one.root)}", options]
    return found


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, the difference in words). Pure."""
    yield from _of_mounts(then.get("mounted", {}), now["mounted"])
    before, after = set(then.get("swaps", ())), set(now["swaps"])
    yield from ((path, SWAP_ON if path in after else SWAP_OFF) for path in sorted(before ^ after))
    recorded = then.get("settings", {})
    yield from ((path, VALUE) for path, value in sorted(now["settings"].items()) if recorded.get(path, value) != value)
    if "devices" in then and "devices" in now:
        yield from _of_devices(then, now)


def _of_devices(
    then: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    before, after = then["modules"], now["modules"]
    came = after.keys() - before.keys()
    # A module that another one needs came with it.
    yield from ((f"/sys/module/{name}", LOADED) for name in sorted(came) if came.isdisjoint(after[name]))
    yield from ((f"/sys/module/{name}", UNLOADED) for name in sorted(before.keys() - after.keys()))
    before, after = then["devices"], now["devices"]
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            yield path, SET_UP if path not in before else TAKEN_DOWN if path not in after else VALUE


def _of_mounts(then: Mapping[str, list[str]], now: Mapping[str, list[str]]) -> Iterator[tuple[str, str]]:
    for point in sorted(then.keys() | now.keys()):
        recorded, live = then.get(point), now.get(point)
        if recorded is None or live is None:
            yield point, UNMOUNTED if live is None else MOUNTED
        elif recorded != live:
            yield point, OPTIONS if recorded[0] == live[0] else OTHER_MOUNT


def _is_of_program(point: str) -> bool:
    return point not in _OF_ALL and any(f"{point}/".startswith(f"{one}/") for one in OF_PROGRAMS)
