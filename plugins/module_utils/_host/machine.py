# SPDX-License-Identifier: GPL-3.0-or-later

"""The machine and its system, for a comparison with another machine: release, architecture, disks, file systems."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice

from .._dataclasses import asdict, dataclass, field
from .mounts import mounts, visible

_SECTOR = 512
_WORD = r"""(ID|VERSION_ID)=["']?([A-Za-z0-9._-]{1,60})["']?"""
# Block devices that are no disks: memory, images, parts of other devices.
_NO_DISK = r"(ram|loop|zram|dm-|md|sr|fd|nbd)\d*"
# Disks and file systems, and accounts, that are kept, and read, of a machine.
_MOST, _MOST_ACCOUNTS = 200, 10_000
# Characters of a text that is read.
_LONGEST = 4096


@dataclass(frozen=True)
class FileSystem:
    """A mounted file system of a local device; ``bytes`` is the size of the device."""

    point: str
    kind: str
    bytes: int


@dataclass(frozen=True)
class Machine:
    """``release``: id and version of the system. ``selinux``: whether files have labels here. ``disks``: name ->
    bytes, of the disks that cannot be taken out. ``accounts``: name -> uid. An empty value is not known."""

    release: str = ""
    architecture: str = ""
    selinux: bool = False
    disks: Mapping[str, int] = field(default_factory=dict)
    file_systems: tuple[FileSystem, ...] = ()
    accounts: Mapping[str, int] = field(default_factory=dict)

    def record(self) -> dict[str, object]:
        """The machine as plain JSON."""
        return {**asdict(self), "file_systems": [asdict(one) for one in self.file_systems]}

    @classmethod
    def read(cls, value: object) -> Machine:
        """The machine of a record, which may come from anybody: parts of another form are not known."""
        found = value if isinstance(value, Mapping) else {}
        systems = found.get("file_systems")
        return cls(
            _text(found.get("release")),
            _text(found.get("architecture")),
            found.get("selinux") is True,
            _numbers(found.get("disks")),
            tuple(
                FileSystem(_text(one.get("point")), _text(one.get("kind")), _number(one.get("bytes")))
                for one in (systems[:_MOST] if isinstance(systems, list) else [])
                if isinstance(one, Mapping)
            ),
            _numbers(found.get("accounts"), _MOST_ACCOUNTS),
        )


def read_machine(root: str = "/") -> Machine:
    """This machine. ``root``: the directory that holds etc and sys."""
    words: dict[str, str] = {}
    with suppress(OSError), open(os.path.join(root, "etc/os-release"), encoding="utf-8", errors="replace") as stream:
        words = {found[1]: found[2] for line in stream if (found := re.fullmatch(_WORD, line.strip()))}
    return Machine(
        " ".join(words[key] for key in ("ID", "VERSION_ID") if key in words),
        os.uname().machine,
        os.path.exists(os.path.join(root, "sys/fs/selinux/enforce")),
        _disks(os.path.join(root, "sys/block")),
        _file_systems(os.path.join(root, "sys/dev/block")),
        _accounts(os.path.join(root, "etc/passwd")),
    )


def _accounts(path: str) -> dict[str, int]:
    """The accounts of the file, and none of a directory service: that may not answer."""
    found: dict[str, int] = {}
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
        for line in islice(stream, _MOST_ACCOUNTS):
            words = line.split(":")
            if len(words) == 7 and words[2].isdigit():
                found.setdefault(words[0], int(words[2]))
    return found


def _disks(folder: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        removable = _read(os.path.join(folder, name, "removable"))
        if removable == "0" and not re.fullmatch(_NO_DISK, name) and len(found) < _MOST:
            found[name] = _size(os.path.join(folder, name))
    return found


def _file_systems(folder: str) -> tuple[FileSystem, ...]:
    """The file systems of local devices whose mount point is a directory. Nothing is asked of the file systems
    themselves, which may not answer."""
    found: dict[str, FileSystem] = {}
    for mount in visible(mounts()):
        if mount.source.startswith(b"/dev/") and mount.root == b"/":
            point = os.fsdecode(mount.point)
            size = _size(os.path.join(folder, os.fsdecode(mount.device)))
            found[point] = FileSystem(point, mount.kind, size)
    return tuple(found[point] for point in sorted(found)[:_MOST])


def _size(device: str) -> int:
    sectors = _read(os.path.join(device, "size"))
    return int(sectors) * _SECTOR if sectors.isdigit() else 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.read(_LONGEST).strip()
    except OSError:
        return ""


def _text(value: object) -> str:
    return value[:_LONGEST] if isinstance(value, str) else ""


def _numbers(value: object, most: int = _MOST) -> dict[str, int]:
    pairs = list(value.items())[:most] if isinstance(value, Mapping) else []
    return {_text(name): _number(one) for name, one in pairs}


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
