# SPDX-License-Identifier: GPL-3.0-or-later

"""The disks and network cards that recorded files name. Without them the host would not boot with these files, or would
not be reached: the parts of the identity that name them stay as they are."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from ..._files.entry import Entry, path_of
from ..._resources.registry import path_lines
from ..._store.manifest import Section
from . import identity
from .preflight import content_of

FSTAB, CRYPTTAB = "/etc/fstab", "/etc/crypttab"
_BY = {"UUID": "by-uuid", "PARTUUID": "by-partuuid", "LABEL": "by-label", "PARTLABEL": "by-partlabel"}
# A boot does not wait for these.
_OPTIONAL = ("nofail", "noauto", "_netdev", "x-systemd.automount")
# A blank and the like, as fstab and as udev write them.
_OCTAL, _HEX = r"\\([0-7]{3})", r"\\x([0-9a-f]{2})"
_MAC = rb"(?<![0-9a-f:])[0-9a-f]{2}(?::[0-9a-f]{2}){5}(?![0-9a-f:])"
_SHOWN = 5
_NO_CARD = (b"00:00:00:00:00:00", b"ff:ff:ff:ff:ff:ff")


def parts_of_missing_hardware(
    sections: Sequence[Section], read: Callable[[str], bytes], is_asked: Callable[[str], bool]
) -> dict[str, str]:
    """The parts of the identity that stay, since the record names hardware that is not here: part -> a sentence.

    ``read``: gives the content of a name. ``is_asked``: whether a path is to come back.
    """
    mine = cards()
    named = {path: content_of(sections, path) for path in (FSTAB, CRYPTTAB)}
    gone: dict[str, tuple[Sequence[str], list[str]]] = {
        path: (identity.DISKS, [one for one in disks(path, read(sha)) if not is_here(one)])
        for path, sha in named.items()
        if sha and is_asked(path)
    }
    gone.update(
        (path, (identity.NETWORK, missing_cards(read(sha), mine)))
        for path, sha in _network_files(sections).items()
        if is_asked(path)
    )
    found: dict[str, str] = {}
    for path, (parts, absent) in gone.items():
        if absent:
            why = f"{path} names {', '.join(absent[:_SHOWN])}, which this host has not"
            stay = f"the parts {' and '.join(parts)} stay as they are" if parts[1:] else f"{parts[0]} stays as it is"
            found.update(dict.fromkeys(parts, f"{stay} here: {why}"))
    return found


def disks(path: str, text: bytes) -> list[str]:
    """The devices that a boot waits for, by a recorded fstab or crypttab. Pure."""
    place = 1 if path == CRYPTTAB else 0
    rows = [line.split() for line in text.decode("utf-8", "replace").splitlines() if not line.lstrip().startswith("#")]
    named = [row[place].replace('"', "") for row in rows if len(row) > place and not _may_lack(row[3:4])]
    found = [re.sub(_OCTAL, lambda code: chr(int(code[1], 8)), one) for one in named]
    return [one for one in found if one.startswith("/dev/") or one.partition("=")[0] in _BY]


def _may_lack(options: Sequence[str]) -> bool:
    return bool(set(_OPTIONAL).intersection(",".join(options).split(",")))


def is_here(device: str, dev: str = "/dev") -> bool:
    """Whether this machine has the device. Without udev, as in a container, nobody knows: then it counts."""
    tag, _equals, value = device.partition("=")
    if not os.path.isdir(f"{dev}/disk"):
        return True
    if tag not in _BY:
        return os.path.exists(device)
    known = [os.path.basename(one) for one in glob.glob(f"{dev}/disk/{_BY[tag]}/*")]
    return value.lower() in [re.sub(_HEX, lambda code: chr(int(code[1], 16)), one).lower() for one in known]


def _network_files(sections: Sequence[Section]) -> Mapping[str, str]:
    """The recorded files of the network -> the names of their contents."""
    found = {}
    for line in (line for section in sections for line in path_lines(section) if line[0] == "f" and "/etc/" in line):
        own = identity.own(path_of(line))
        if own is not None and own.part.name in identity.NETWORK:
            found[os.fsdecode(path_of(line))] = Entry.parse(line).sha256
    return found


def missing_cards(text: bytes, here: Sequence[bytes]) -> list[str]:
    """The MAC addresses that a file of the network names, where this machine has none of them. Pure."""
    named = dict.fromkeys(one for one in re.findall(_MAC, text.lower()) if one not in _NO_CARD)
    return [] if set(named).intersection(here) else [one.decode("ascii") for one in named]


def cards(root: str = "/sys/class/net") -> list[bytes]:
    """The MAC addresses of this machine."""
    found = []
    for path in glob.glob(f"{root}/*/address"):
        with suppress(OSError), open(path, "rb") as stream:
            found.append(stream.read(100).strip().lower())
    return found
