# SPDX-License-Identifier: GPL-3.0-or-later

"""The kind ``mounts``: the mounted file systems with their mount points and options, swap, and /etc/fstab.

Nothing here formats a file system, checks a file system, or touches the data on it.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Union

from .._dataclasses import dataclass, field
from .._errors import EvenkeelError, RestoreFailed, UsageError
from .._files.mounts import PSEUDO
from .._files.step import Step
from .._host import kernel
from .._host import mounts as table
from .._host.mounts import REMOTE, Mount
from .._host.options import Options, read
from .._host.paths import check_path, make_dirs
from .._host.system import System
from .._host.trust import stranger, trusted
from .._services import systemd
from . import json_line
from .kind import Kind, Restore, Sink, Spec, Suggestion, is_within

_TIMEOUT = 30.0
# Seconds for the search for the processes that use a mount.
_LOOK = 2.0
# File systems that hold no data of their own, file systems that programs mount, and FUSE, where a user's program
# answers.
_APART = {
    *PSEUDO,
    *("pstore", "bpf", "configfs", "fusectl", "hugetlbfs", "efivarfs", "autofs", "binfmt_misc", "nsfs", "rpc_pipefs"),
    *("selinuxfs", "ramfs", "overlay", "squashfs", "fuse", "fuseblk", "rootfs"),
}
# Options that the kernel shows although nobody has given them, or whose values may differ at each mount.
_SHOWN = r"seclabel|(client|mount)?addr=.*|(mount)?port=.*|subvolid=.*|fd=.*|pgrp=.*"
# Flags of a single mount, each with the word that turns it off.
_FLAGS = {"ro": "rw", "nosuid": "suid", "nodev": "dev", "noexec": "exec", "nodiratime": "diratime"}
_FLAGS = {**_FLAGS, "nosymfollow": "symfollow"}
# Options of a file system that the kernel shows only where they are not the default -> the word for the default.
_DEFAULTS = {"sync": "async", "dirsync": "", "lazytime": "nolazytime", "mand": "nomand"}
# The default size of a tmpfs: half of the memory, in pages.
_HALF = os.sysconf("SC_PHYS_PAGES") // 2
_DEFAULTS = {
    **_DEFAULTS,
    "size": f"size={_HALF * (os.sysconf('SC_PAGE_SIZE') // 1024)}k",
    "nr_inodes": f"nr_inodes={_HALF}",
}
_CHANGES = ("mount", "remount", "unmount")
# A file system is known by its UUID: at a boot the kernel may give the names of disks to others.
_UUID = r"[A-Za-z0-9-]{1,64}"
_BY_BOOT = r"/dev/(sd|hd|vd|xvd|nvme|mmcblk|md|dm-|nbd|sr)\w+"
_WORD = r"[^\s,\x00-\x1f\x7f]+"
Record = dict[str, Any]
Found = Union[Record, None]


@dataclass
class _Seen:
    """Mounts and swap as they were seen: point -> record, path -> record. ``excepts``: patterns of mount points that
    stay as they are. ``local``: what other hosts serve stays as well."""

    mounts: dict[str, Record] = field(default_factory=dict)
    swaps: dict[str, Record] = field(default_factory=dict)
    excepts: list[str] = field(default_factory=list)
    local: bool = False


class Mounts(Kind):
    """File systems that are mounted, where and with which options, swap, and C(/etc/fstab).

    A rollback mounts what is missing, puts options back, and unmounts what was not there, unless a program uses it.
    The data on a file system is not touched; the content of a C(tmpfs) that was unmounted is lost. It leaves alone
    the mounts of programs (containers, snap, automounters), FUSE, and all below C(/dev), C(/media), C(/proc), C(/run)
    and C(/sys).

    except: Mount points that stay as they are, with C(*) for parts that vary. For example
    V([/mnt/backup, '/srv/ftp/*']).
    """

    name = "mounts"
    since = "0.2.0"
    order = 35
    of_the_machine = True
    mounts_file_systems = True
    unseen = ("daemon-reload",)
    options: Options = {"except": {"type": "list", "elements": "str", "default": []}}
    changes_files = True

    def __init__(
        self,
        fstab: str = "/etc/fstab",
        swaps: str = "/proc/swaps",
        mounts: Callable[[], Sequence[Mount]] = table.mounts,
        uuids: str = "/dev/disk/by-uuid",
        make_point: Callable[[str, Record], None] | None = None,
    ) -> None:
        """``fstab``: the table of mounts at boot. ``swaps``: the kernel's table of swap. ``mounts``: a function that
        reads the present mounts. ``uuids``: the links from UUIDs to devices. ``make_point``: a function that makes a
        mount point that the change has removed."""
        self.fstab = fstab
        self.uuids = uuids
        self.swaps = swaps
        self.mounts = mounts
        self.make_point = make_point or _make_point

    def check(self, spec: Spec) -> dict[str, object]:
        excepts = sorted(set(read(self.options, spec, self.name)["except"]))
        for one in excepts:
            check_path(os.fsencode(one))
        return {"except": excepts} if excepts else {}

    def trees(self, spec: Spec) -> list[str]:
        return [self.fstab]

    def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
        """``mount`` and a record: ``point``, ``source``, ``kind``, ``root``, ``options`` of the mount, ``own``
        options of the file system, and ``from``, the path of which the mount is another view. ``swap``: ``path`` and
        ``priority``. Both with the ``uuid``, or with the id of the ``boot`` where the name of the device may be
        another's after a boot. ``except``: ``points`` that stay as they are."""
        excepts = list(spec.get("except", []))
        seen = self._read_mounts(excepts)
        for one in (*seen.mounts.values(), *seen.swaps.values()):
            if "uuid" not in one and re.fullmatch(_BY_BOOT, _device(one)):
                one["boot"] = system.boot_id()
        lines = [json_line.write("except", {"points": excepts})] if excepts else []
        lines += [json_line.write("mount", seen.mounts[point]) for point in sorted(seen.mounts)]
        return lines + [json_line.write("swap", seen.swaps[path]) for path in sorted(seen.swaps)]

    def _read_mounts(self, excepts: Sequence[str]) -> _Seen:
        every = self.mounts()
        automatic = [os.fsdecode(one.point) for one in every if one.kind == "autofs"]
        seen = _Seen(excepts=list(excepts))
        for mount in table.visible(every):
            point = os.fsdecode(mount.point)
            mine = _is_ours(mount, point) and not any(is_within(point, one) for one in automatic)
            record = _record(mount, every) if mine and not _is_excepted(point, excepts) else None
            with suppress(ValueError, UsageError):  # Such a mount could not be made again.
                if record is not None:
                    _check(record)
                    seen.mounts[point] = record
        seen.swaps = {one["path"]: one for one in self._swaps() if not _is_excepted(one["path"], excepts)}
        known = self._uuids()
        for one in (*seen.mounts.values(), *seen.swaps.values()):
            # A loop device has its UUID only while its file is in use.
            lasts = _device(one).startswith("/dev/") and not _device(one).startswith("/dev/loop")
            uuid = known.get(os.path.realpath(_device(one))) if lasts else None
            one.update({"uuid": uuid} if uuid else {})
        return seen

    def _uuids(self) -> dict[str, str]:
        """Device -> the UUID of the file system on it."""
        with suppress(OSError):
            names = [name for name in os.listdir(self.uuids) if re.fullmatch(_UUID, name)]
            return {os.path.realpath(os.path.join(self.uuids, name)): name for name in names}
        return {}

    def _untold(self, recorded: Record, system: System) -> str:
        """Why nobody can tell which file system, or which swap, was recorded, in words; empty where it is told."""
        known = self._uuids() if "uuid" in recorded else {}
        if known and recorded["uuid"] not in known.values():
            return f"what was there, with UUID {recorded['uuid']}, is not on this host"
        if (
            "uuid" not in recorded
            and "from" not in recorded
            and "boot" in recorded
            and recorded["boot"] != system.boot_id()
        ):
            return f"the host was booted since, so that {_device(recorded)} may be another disk: see to it by hand"
        return ""

    def _swaps(self) -> Iterator[Record]:
        with suppress(OSError), open(self.swaps, encoding="utf-8", errors="surrogateescape") as stream:
            for line in stream.readlines()[1:]:
                path, _kind, _size, _used, priority = line.split()
                # Compressed memory belongs to the program that makes it at boot. A container sees its machine's swap.
                if not path.startswith("/dev/zram") and os.path.exists(path):
                    yield {"path": path, "priority": int(priority)}

    def not_restorable(self, spec: Spec, lines: Sequence[str]) -> list[str]:
        then, words = _read(lines), []
        memory = [point for point, one in then.mounts.items() if one["kind"] == "tmpfs" and "from" not in one]
        if memory:
            words.append(
                f"mounts: the content of {', '.join(memory)} (tmpfs) is lost when it is unmounted, and not put back"
            )
        for point in then.mounts:
            why = _strange(point)
            if why:
                words.append(f"mounts: {point} is not mounted again if it is unmounted: {why}")
        return words

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        """The steps. New mounts are unmounted first, and a deeper mount before the mount above it. Then come missing
        mounts."""
        then, detail = self._then(lines), {"lines": list(lines)}
        now = self._read_mounts(then.excepts)
        steps = []
        reloads = any(step.resource == self.name and step.action == "daemon-reload" for step in at.steps)
        is_new = self.fstab in at.changed or bool(at.failed(self.name, "systemd"))
        if is_new and not reloads and at.system.has_systemd():
            steps.append(Step(self.name, "daemon-reload", "systemd", f"{self.fstab} was put back", detail))
        off = _missing(now.swaps, then.swaps)
        steps += [Step(self.name, "swapoff", one, "was not there", detail) for one in off]
        untold = {point for point, recorded in then.mounts.items() if self._untold(recorded, at.system)}
        for point in sorted(now.mounts, reverse=True):
            if point in untold:
                continue
            if point not in then.mounts or _is_another(then.mounts[point], now.mounts[point]):
                why = "was not there" if point not in then.mounts else "another file system"
                steps.append(Step(self.name, "unmount", point, why, detail))
        for point in _in_order(then.mounts):
            recorded, live = then.mounts[point], now.mounts.get(point)
            if live is None or _is_another(recorded, live):
                if point not in untold and not (
                    at.boot and re.fullmatch(REMOTE, recorded["kind"])
                ):  # This mount has to wait for the network.
                    steps.append(Step(self.name, "mount", point, "is not mounted", detail))
            elif _different(recorded, live):
                steps.append(Step(self.name, "remount", point, f"other options: {_different(recorded, live)}", detail))
        on = [one for one in _missing(then.swaps, now.swaps) if not self._untold(then.swaps[one], at.system)]
        return steps + [Step(self.name, "swapon", one, "is off", detail) for one in on]

    def obstacles(self, lines: Sequence[str], at: Restore) -> list[str]:
        found = []
        for step in self.plan(lines, at):
            if step.action in ("mount", "unmount"):
                why = _strange(step.target) or (_users(step.target) if step.action == "unmount" else "")
                found += [f"{self.name}: {step.action} {step.target}: {why}"] if why else []
        return found

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        """Carry out the steps. RestoreFailed names the steps that failed: a mount that is in use stays."""
        then = self._then(steps[0].detail["lines"]) if steps else _Seen()
        done, left = [], []
        for step in steps:
            why = self._carry_out(step, then, at)
            if why:
                left.append(f"{step.target}: {step.action}: {why}")
            else:
                done.append(step)
        if left:
            raise RestoreFailed(
                f"mounts are not as they were: {'; '.join(left)}", done=[one.shown() for one in done], left=left
            )
        return done

    def _carry_out(self, step: Step, then: _Seen, at: Restore) -> str:
        """Carry out the step; return why it failed, in words, or an empty text."""
        point, commands = step.target, []
        if step.action == "daemon-reload":
            try:
                systemd.daemon_reload(at.system)
            except EvenkeelError as error:
                return error.cause
        elif step.action in ("swapon", "swapoff"):
            recorded = then.swaps[point] if step.action == "swapon" else {}
            priority, source = recorded.get("priority", -1), _source(recorded, point)
            commands = [[step.action, *(["-p", str(priority)] if priority >= 0 else []), source]]
        else:
            why = _strange(point)
            if why:
                return why
            if step.action == "unmount":
                return self._unmount(point, then, at)
            if step.action == "mount" and not self._is_there(point, then):
                self.make_point(point, then.mounts[point])
                commands = [self._mounting(then.mounts[point])]
        for argv in commands:
            done = at.system.run(argv, _TIMEOUT)
            if done.rc != 0:
                return done.words
        return self._set_options(point, then, at) if step.action in ("mount", "remount") else ""

    def _is_there(self, point: str, then: _Seen) -> bool:
        live = self._read_mounts(then.excepts).mounts.get(point)
        return live is not None and point in then.mounts and not _is_another(then.mounts[point], live)

    def _unmount(self, point: str, then: _Seen, at: Restore) -> str:
        """Unmount the file systems that hide the recorded mount, the last of them first; return why it failed, in
        words, or an empty text."""
        while point in self._read_mounts(then.excepts).mounts and not self._is_there(point, then):
            before = len(self.mounts())
            done = at.system.run(["umount", point], _TIMEOUT)
            if done.rc != 0 or len(self.mounts()) >= before:
                return f"{done.words}{_used(point)}"
        return ""

    def _mounting(self, recorded: Record) -> list[str]:
        """The command that makes the mount. Options of a mount that is another view of a path are set afterwards."""
        if "from" in recorded:
            return ["mount", "--bind", recorded["from"], recorded["point"]]
        if re.fullmatch(REMOTE, recorded["kind"]) or recorded["source"].startswith("/dev/loop"):
            # The kernel does not show all options that are needed.
            return ["mount", "--fstab", self.fstab, recorded["point"]]
        words = [*recorded["options"], *(one for one in recorded["own"] if one not in ("rw", "ro"))]
        return [
            "mount",
            "-t",
            recorded["kind"],
            "-o",
            ",".join(words),
            _source(recorded, recorded["source"]),
            recorded["point"],
        ]

    def _set_options(self, point: str, then: _Seen, at: Restore) -> str:
        """Set the recorded options; return why it failed, in words, or an empty text."""
        recorded = then.mounts[point]
        for number in range(3):
            live = self._read_mounts(then.excepts).mounts.get(point)
            if live is None:
                return "it is mounted elsewhere"
            words = _different(recorded, live)
            if not words or number == 2:
                return words and f"the options stay different: {words}"
            flags = ",".join(_flags(recorded))
            beyond = _beyond(recorded, live)
            if beyond:
                flags_of_all = ",".join([*(one for one in _flags(recorded) if one not in ("ro", "rw")), *beyond])
                named = ["-t", recorded["kind"], live["source"], point]
                done = at.system.run(["mount", "-o", f"remount,{flags_of_all}", *named], _TIMEOUT)
                if done.rc != 0:
                    return done.words
            # Set the flags of this mount alone, not of other views of the file system.
            done = at.system.run(["mount", "-o", f"remount,bind,{flags}", point], _TIMEOUT)
            if done.rc != 0:
                return done.words
        return ""

    def verify(self, lines: Sequence[str], system: System) -> list[str]:
        then = self._then(lines)
        now = self._read_mounts(then.excepts)
        words = [f"{one} is mounted, and was not" for one in now.mounts if one not in then.mounts]
        for point, recorded in then.mounts.items():
            live = now.mounts.get(point)
            if live is None or _is_another(recorded, live):
                why = self._untold(recorded, system)
                what = "not mounted" if live is None else "another file system"
                words.append(f"{point} is {what}{why and f': {why}'}")
            elif _different(recorded, live):
                words.append(f"{point} has other options: {_different(recorded, live)}")
        words += [f"{one} is used as swap, and was not" for one in _missing(now.swaps, then.swaps)]
        for one in _missing(then.swaps, now.swaps):
            why = self._untold(then.swaps[one], system)
            words.append(f"{one} is not used as swap{why and f': {why}'}")
        return words

    def access_lines(self, lines: Sequence[str]) -> list[str]:
        """All lines but the file systems of other hosts, and what lies below them: to mount, to unmount or to look at
        them may take long."""
        remote = [point for point, one in _read(lines).mounts.items() if re.fullmatch(REMOTE, one["kind"])]
        kept = [line for line in lines if not any(is_within(_of(line), point) for point in remote)]
        return [*kept, json_line.write("except", {"points": _at_or_below(remote), "local": True})] if kept else []

    def _then(self, lines: Sequence[str]) -> _Seen:
        """The mounts and swap of the lines, without those that have to stay as they are."""
        then = _read(lines)
        if then.local:
            remote = [os.fsdecode(one.point) for one in self.mounts() if re.fullmatch(REMOTE, one.kind)]
            then.excepts += _at_or_below(remote)
            then.mounts = {at: one for at, one in then.mounts.items() if not _is_excepted(at, then.excepts)}
        return then

    def reveals(self, steps: Sequence[Step]) -> list[str]:
        return [step.target for step in steps if step.resource == self.name and step.action in _CHANGES]

    def outside(self, spec: Spec, lines: Sequence[str], declared: Sequence[Spec], system: System) -> Iterator[str]:
        patterns = [one.get("except", []) for one in declared]
        for point in _read(lines).mounts:
            if patterns and all(_is_excepted(point, one) for one in patterns):
                yield f"at {point}"

    def covers(self, spec: Spec, lines: Sequence[str], changed: Mapping[str, str], at: Restore) -> set[str]:
        """The mounts and swap that differ, but for those that are left alone."""
        return {path for path in _of_kernel(changed) if not _is_excepted(path, spec.get("except", ()))}

    def suggest(self, changed: Mapping[str, str], taken: Sequence[str], at: Restore) -> Suggestion:
        found = ({self.fstab} & set(changed)) | _of_kernel(changed)
        return ({} if found else None), found


def _of_kernel(changed: Mapping[str, str]) -> set[str]:
    """The paths among these that are mounts or swap, and that this kind brings back."""
    mine = {path for path, what in changed.items() if what in kernel.OF_MOUNTS}
    return {path for path in mine if not any(is_within(path, one) for one in table.OF_PROGRAMS)}


def _is_ours(mount: Mount, point: str) -> bool:
    if point == "/":
        return True
    fuse = mount.kind.startswith("fuse.")
    return mount.kind not in _APART and not fuse and not any(is_within(point, one) for one in table.OF_PROGRAMS)


def _is_excepted(point: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(point, one) for one in patterns)


def _at_or_below(points: Sequence[str]) -> list[str]:
    """The patterns of these mount points, and of all mount points below them."""
    return [pattern for one in map(glob.escape, points) for pattern in (one, f"{one.rstrip('/')}/*")]


def _record(mount: Mount, every: Sequence[Mount]) -> Found:
    """The record of a mount; None where the mount could not be made again, because its path is not seen elsewhere."""
    root = mount.point == b"/"
    own = [one for one in mount.own.split(",") if one and re.fullmatch(_SHOWN, one) is None]
    if mount.kind == "overlay":  # The places of its layers are not to be changed.
        own = [one for one in own if one in ("ro", "rw")]
    found: Record = {
        "point": os.fsdecode(mount.point),
        "source": os.fsdecode(mount.source),
        "kind": mount.kind,
        "root": os.fsdecode(mount.root),
        "options": sorted(mount.options.split(",")),
        "own": sorted(own),
    }
    origin = _origin(mount, every)
    if origin is not None:
        found["from"] = origin
    elif mount.root != b"/" and not root and not any(one.startswith("subvol=") for one in own):
        return None
    return found


def _origin(mount: Mount, every: Sequence[Mount]) -> str | None:
    """The path of which the mount is another view; None where no earlier visible mount shows the path."""
    seen = {one.number for one in table.visible(every)}
    for other in every:
        if other.number == mount.number:
            break
        below = mount.root == other.root or mount.root.startswith(other.root.rstrip(b"/") + b"/")
        if other.device == mount.device and other.number in seen and below:
            rest = mount.root[len(other.root.rstrip(b"/")) :].strip(b"/")
            return os.fsdecode(os.path.join(other.point, rest) if rest else other.point)
    return None


def _of(line: str) -> str:
    with json_line.read(line) as (word, record):
        return str(record["point"]) if word == "mount" else ""


def _is_another(recorded: Record, live: Record) -> bool:
    """Whether another file system is mounted at the point, or another part of the same file system."""
    return not _is_same_device(recorded, live) or any(recorded[key] != live[key] for key in ("kind", "root"))


def _is_same_device(record: Record, other: Record) -> bool:
    """A record of an older version has no UUID."""
    if "uuid" in record and "uuid" in other:
        return bool(record["uuid"] == other["uuid"])
    return _device(record) == _device(other)


def _device(record: Record) -> str:
    """The device of a mount or of swap, or the word in its place."""
    return str(record["source"] if "source" in record else record["path"])


def _source(record: Record, name: str) -> str:
    """The word by which a command finds the device."""
    return f"UUID={record['uuid']}" if "uuid" in record else name


def _missing(these: Mapping[str, Record], those: Mapping[str, Record]) -> list[str]:
    """The paths of these swaps that are not among those."""
    return [path for path, one in these.items() if not any(_is_same_device(one, other) for other in those.values())]


def _in_order(found: Mapping[str, Record]) -> list[str]:
    """The mount points, each after the mount points around it, and after the mount of which it is another view."""
    ordered: list[str] = []
    todo = sorted(found)
    while todo:
        ready = [point for point in todo if not any(_needs(found[point], one) for one in todo if one != point)]
        ordered += ready or todo
        todo = [point for point in todo if point not in ordered]
    return ordered


def _needs(record: Record, point: str) -> bool:
    return is_within(record["point"], point) or is_within(record.get("from", "/"), point)


def _different(recorded: Record, live: Record) -> str:
    """The options that differ, in words."""
    found = []
    for key in ("options", "own"):
        found += [f"{one} is missing" for one in recorded[key] if one not in live[key]]
        found += [f"{one} is new" for one in live[key] if one not in recorded[key]]
    return ", ".join(dict.fromkeys(found))


def _flags(recorded: Record) -> list[str]:
    """All flags of the mount, also the flags that are off: mount(8) keeps a flag that it is not told."""
    given = recorded["options"]
    flags = [flag if flag in given else off for flag, off in _FLAGS.items() if flag != "nosymfollow" or flag in given]
    time = next((one for one in ("noatime", "relatime") if one in given), "strictatime")
    return [*flags, time]


def _beyond(recorded: Record, live: Record) -> list[str]:
    """The options to set for the file system itself, which all of its mounts share."""
    missing = [one for one in recorded["own"] if one not in live["own"]]
    keys = {one.partition("=")[0] for one in missing}
    for one in live["own"]:
        key, sign, _value = one.partition("=")
        if one in recorded["own"] or key in keys or one in ("ro", "rw"):
            continue
        if key in _DEFAULTS:
            missing += [_DEFAULTS[key]] if _DEFAULTS[key] else []
        elif not sign:
            opposite = key[2:] if key.startswith("no") else f"no{key}"
            missing += [opposite] if opposite not in missing else []
    access = "ro" if "ro" in recorded["own"] else "rw"
    return [access, *(one for one in missing if one not in ("ro", "rw"))] if missing else []


def _make_point(point: str, recorded: Record) -> None:
    """Make the mount point where the change has removed it: a directory, or a file where a file is mounted."""
    if os.path.lexists(point):
        return
    if not re.fullmatch(REMOTE, recorded["kind"]) and os.path.isfile(recorded.get("from", "")):
        make_dirs(os.path.dirname(point))
        os.close(os.open(point, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
    else:
        make_dirs(point)


def _strange(point: str) -> str:
    """How others than root could make the path lead elsewhere, in words; empty where they cannot."""
    if point == "/":
        return ""
    try:
        # This look comes first: below a user's directory, ``realpath`` may reach a file system that never answers.
        why = stranger(point, trusted())
        # Nothing asks the mount itself: its server may not answer. A mount point is no link.
        real = os.path.join(os.path.realpath(os.path.dirname(point)), os.path.basename(point))
        if not why and os.fsencode(point) not in table.mount_points() and os.path.islink(point):
            real = os.path.realpath(point)
        return why or (f"it leads to {real}" if real != point else "")
    except OSError as error:
        return error.strerror or str(error)


def _users(point: str) -> str:
    """The processes that use the mounted file system, in words."""
    pids: set[int] = set()
    end = time.monotonic() + _LOOK
    for link in glob.iglob("/proc/[0-9]*/cwd"):
        if time.monotonic() > end:  # Users can have any number of files open.
            break
        pid = link.split("/")[2]
        for name in (link, f"/proc/{pid}/root", f"/proc/{pid}/exe", *glob.iglob(f"/proc/{pid}/fd/*")):
            with suppress(OSError):
                if is_within(os.readlink(name), point):
                    pids.add(int(pid))
                    break
    return f"process {', '.join(map(str, sorted(pids)[:10]))} uses it" if pids else ""


def _used(point: str) -> str:
    words = _users(point)
    return f" ({words}; end it, then roll back again)" if words else ""


def _read(lines: Sequence[str]) -> _Seen:
    """The mounts and swap of the lines. Raises Damaged for a line that ``capture`` cannot have written."""
    found = _Seen()
    for line in lines:
        with json_line.read(line) as (word, record):
            if word == "except":
                found.excepts += [str(one) for one in record["points"]]
                found.local = found.local or record.get("local") is True
            elif word == "swap":
                check_path(os.fsencode(record["path"]))
                _check_device(record)
                found.swaps[record["path"]] = {**record, "priority": int(record["priority"])}
            elif word == "mount":
                _check(record)
                found.mounts[record["point"]] = record
            else:
                raise ValueError("no word of ours")
    return found


def _check(record: Record) -> None:
    """Raise ValueError or UsageError for a record whose command could do something else than mount."""
    check_path(os.fsencode(record["point"]))
    _check_device(record)
    if "from" in record:
        check_path(os.fsencode(record["from"]))
    words = [record["kind"], *record["options"], *record["own"]]
    if "/" in record["kind"] or not isinstance(record["root"], str):
        raise ValueError("no file system")
    if not all(isinstance(one, str) and re.fullmatch(_WORD, one) and not one.startswith("-") for one in words):
        raise ValueError("no options of a mount")
    if not isinstance(record["source"], str) or record["source"].startswith("-") or "\0" in record["source"]:
        raise UsageError("no source of a mount")


def _check_device(record: Record) -> None:
    if "uuid" in record and not (isinstance(record["uuid"], str) and re.fullmatch(_UUID, record["uuid"])):
        raise ValueError("no UUID")
