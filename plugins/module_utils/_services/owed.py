# SPDX-License-Identifier: GPL-3.0-or-later

"""Restarts that are owed: what still runs replaced programs or libraries, and which kind of restart ends that.

The processes themselves are the memory. As long as one runs a replaced file its restart is owed, whoever replaced the
file and whatever became of the handler; after the restart it is not. Nothing is written down.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence

from .._dataclasses import dataclass, field
from .._errors import EvenkeelError
from .._host.patience import within
from .._host.system import System
from .._host.trust import open_regular
from .._results.change import Owed
from . import systemd
from .kernels import newer_kernel
from .running import newer
from .stale import Process, read_processes
from .unit import Unit
from .vital import KEPT, is_vital

REBOOT, SOFT_REBOOT, SERVICE, BY_NAME, PROCESS, UNKNOWN = LEVELS = (
    "reboot",
    "soft-reboot",
    "service",
    "by-name",
    "process",
    "unknown",
)
# Seconds for the look at all processes: users can have many, with many mappings each.
LIMIT = 5.0
# Seconds for the files of all units, where the processes have left less.
_FILES = 1.0
# The most reasons and processes of one entry, and the most characters of a reason.
_SHOWN = 5
_LONGEST = 300
# The first systemd that restarts everything but the kernel.
_SOFT = 254
# Units on which others depend, beside those that a rollback never stops: routes, tunnels, containers, clusters.
# needrestart leaves these and their like alone by its configuration (override_rc).
_DEPENDED_ON = (
    *("bird", "frr", "quagga", "ModemManager"),
    *("openvpn", "tinc", "strongswan", "openswan", "freeswan", "libreswan", "ipsec", "bluetooth"),
    *("docker", "containerd", "systemd-nspawn@", "lxc@", "libvirt", "virtlogd", "virtlockd", "xendomains"),
    *("corosync", "pacemaker", "drbd", "zfs-fuse", "mythtv-backend", "usbguard", "unattended-upgrades"),
)
BY_NAME_WHY = "others may depend on it and be cut off, so that it is restarted only by its name"
# Units of logins, which end by themselves. The units of a change under way are ours.
_OF_LOGINS = ("user@", "user-runtime-dir@")
_OURS = "evenkeel-"
# Settings of a unit that took effect as they were made.
_AT_ONCE = "/systemd/system.control/"


@dataclass
class _Whole:
    """The findings on a host so far. ``booted``: epoch seconds."""

    system: System
    proc: str
    root: str
    booted: float
    reboot: list[str] = field(default_factory=list)
    soft: list[str] = field(default_factory=list)
    units: list[Owed] = field(default_factory=list)
    rest: list[Process] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def owed(system: System, proc: str = "/proc", root: str = "", seconds: float = LIMIT) -> list[Owed]:
    """The restarts that are due on this host, the most far-reaching first; empty where nothing is owed.

    ``root``: the directory of the host's files, for tests. Changes nothing, and never raises for the state of the host:
    an entry of the level ``unknown`` says that not everything could be looked at.
    """
    end = system.monotonic() + seconds
    processes, lacking = read_processes(lambda: system.monotonic() < end, seconds, proc, root)
    whole = _Whole(system, proc, root, system.now() - time.clock_gettime(time.CLOCK_BOOTTIME))
    whole.reboot = _reboot(whole)
    whole.unknown += [lacking] if lacking else []
    left = max(_FILES, end - system.monotonic())
    _judge(whole, [one for one in processes if one.pid != os.getpid() and not one.place.startswith(_OURS)], left)
    return _told(whole)


def _reboot(whole: _Whole) -> list[str]:
    """Why the kernel, or the distribution, asks for a reboot."""
    kernel = "" if _is_container(whole) else newer_kernel(whole.booted, whole.proc, whole.root)
    found = [kernel] if kernel else []
    if os.path.exists(f"{whole.root}/run/reboot-required"):
        names = list(dict.fromkeys(_lines(f"{whole.root}/run/reboot-required.pkgs")))
        found.append(f"the distribution asks for it (/run/reboot-required): {', '.join(_some(names)) or 'no package'}")
    return found


def _judge(whole: _Whole, processes: Sequence[Process], seconds: float) -> None:
    """Give each process that runs replaced files to the restart that ends it. ``seconds``: for the files of units."""
    of_unit: dict[str, list[Process]] = {}
    for one in processes:
        if one.pid == 1:
            whole.soft += [f"the first process (pid 1) runs {path}, which was replaced" for path in one.stale]
        elif one.place.endswith(".service") and not one.place.startswith(_OF_LOGINS):
            of_unit.setdefault(one.place, []).append(one)
        elif one.stale:
            whole.rest.append(one)
    try:
        units = systemd.describe(sorted(of_unit), whole.system) if whole.system.has_systemd() else []
    except EvenkeelError as error:
        whole.unknown.append(error.message)
        units = []
    every = [(unit, of_unit[name]) for name, unit in zip(sorted(of_unit), units)]
    changed: dict[str, list[str]] = {}

    def read() -> None:
        for unit, members in every:
            changed[unit.id] = _outdated(whole.booted, unit, members)

    if every and not within(seconds, read):
        whole.unknown.append(f"not all files of units could be looked at in {seconds:.1f} s")
    for name, unit in zip(sorted(of_unit), units):
        _judge_unit(whole, unit, of_unit.pop(name), changed.get(unit.id, []))
    whole.rest += [one for left in of_unit.values() for one in left if one.stale]


def _judge_unit(whole: _Whole, unit: Unit, processes: Sequence[Process], changed: Sequence[str]) -> None:
    """``changed``: sentences on files that the unit reads as it starts."""
    main = _main(unit, processes)
    alone = unit.kill_mode in ("process", "none") and main is not None
    # A process that survived the last stop of the unit, or that its stop leaves alone, survives the next.
    ends = [one for one in processes if main is None or one is main or (not alone and one.ticks >= main.ticks)]
    stale = [one for one in ends if one.stale]
    why = [path for one in stale for path in one.stale] + [*changed]
    of_a_moment = unit.transient or unit.type == "oneshot" or unit.load != "loaded" or unit.is_of_a_connection
    # The timer starts it again, and it may be in the middle of its work.
    of_a_moment |= not unit.enabled.startswith("enabled") and any(one.endswith(".timer") for one in unit.triggered_by)
    kept = unit.id.startswith(KEPT) or not (unit.starts and unit.stops)
    whole.rest += [one for one in processes if one.stale and (of_a_moment or one not in stale)]
    if why and not of_a_moment:
        names = [_name(one) for one in stale or ends]
        by_name = (is_vital(unit.id) or unit.id.startswith(_DEPENDED_ON)) and not kept
        level = SOFT_REBOOT if kept else BY_NAME if by_name else SERVICE
        whole.units.append(Owed(level, unit.id, _some([*([BY_NAME_WHY] if by_name else []), *why]), _some(names)))


def _main(unit: Unit, processes: Sequence[Process]) -> Process | None:
    return next((one for one in processes if one.pid == unit.main), None)


def _outdated(booted: float, unit: Unit, processes: Sequence[Process]) -> list[str]:
    """Sentences on files that the unit reads as it starts: its own files, and scripts, which nobody maps."""
    found = ["its unit files changed, and systemd has not read them again"] if unit.outdated else []
    main = _main(unit, processes)
    if main is None:
        return found
    # The clock of processes is coarse.
    started = booted + main.ticks / os.sysconf("SC_CLK_TCK") + 1.0
    for path in unit.files:
        if _AT_ONCE not in path and newer([path], started) and not _is_program(path):
            found.append(f"{path} changed after its start")
    return found


def _told(whole: _Whole) -> list[Owed]:
    """The entries, each of bounded length."""
    if (whole.soft or any(one.level == SOFT_REBOOT for one in whole.units)) and not _has_soft_reboot(whole):
        whole.reboot, whole.soft = whole.reboot + whole.soft, []
        whole.units = [Owed(REBOOT, *_rest(one)) if one.level == SOFT_REBOOT else one for one in whole.units]
    first = "init[1]"
    found = [
        *([Owed(REBOOT, "", _some(whole.reboot))] if whole.reboot else []),
        *([Owed(SOFT_REBOOT, "", _some(whole.soft), [first])] if whole.soft else []),
        *sorted(whole.units, key=lambda one: (LEVELS.index(one.level), one.unit)),
    ]
    if whole.rest:
        rest = sorted(whole.rest, key=lambda one: one.pid)
        paths = [path for one in rest for path in one.stale]
        found.append(Owed(PROCESS, "", _some(paths), _some([_name(one) for one in rest])))
    return [*found, *([Owed(UNKNOWN, "", _some(whole.unknown))] if whole.unknown else [])]


def _rest(owed: Owed) -> tuple[str, list[str], list[str]]:
    return owed.unit, owed.why, owed.processes


def _has_soft_reboot(whole: _Whole) -> bool:
    """Whether the systemd that runs can start everything anew but the kernel. A container is started by another."""
    if _is_container(whole) or not whole.system.has_systemd():
        return False
    done = whole.system.run(["systemctl", "show", "--property=Version", "--value"], 10.0)
    number = re.search(r"\d+", done.out) if done.rc == 0 else None
    return number is not None and int(number[0]) >= _SOFT


def _is_container(whole: _Whole) -> bool:
    """Whether the host shares the kernel of another: systemd notes it in /run/systemd/container."""
    marks = ("/run/.containerenv", "/.dockerenv")
    if _lines(f"{whole.root}/run/systemd/container") or any(os.path.exists(whole.root + mark) for mark in marks):
        return True
    return any(one.startswith("container=") for line in _lines(f"{whole.proc}/1/environ") for one in line.split("\0"))


def _is_program(path: str) -> bool:
    """Whether the file is machine code, which a process that runs it has mapped. A user can have the path lead to
    anything: a pipe or a device is none."""
    try:
        with open_regular(os.path.realpath(path)) as stream:
            return stream.read(4) == b"\x7fELF"
    except OSError:
        return False


def _name(process: Process) -> str:
    return f"{process.name}[{process.pid}]"


def _some(items: Sequence[str]) -> list[str]:
    """The first items, each once and not too long, and the number of the others."""
    every = list(dict.fromkeys(items))
    more = [f"and {len(every) - _SHOWN} more"] if len(every) > _SHOWN else []
    return [one[:_LONGEST] for one in every[:_SHOWN]] + more


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return [line.strip() for line in stream.read(65536).splitlines() if line.strip()]
    except OSError:
        return []
