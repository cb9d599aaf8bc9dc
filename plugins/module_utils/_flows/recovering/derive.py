# SPDX-License-Identifier: GPL-3.0-or-later

"""The state that a host is put back to in a recovery: as recorded, but for what has to stay as it is here. Pure.

The result has the declarations of the record and no path beyond them, so that a forged record gains nothing by it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from ..._dataclasses import dataclass, field, replace
from ..._files.entry import ABOVE, ABSENT, Entry, path_of
from ..._host.paths import ancestors
from ..._resources import files, plain
from ..._resources.kind import is_within
from ..._resources.registry import kind_of, own_lines, path_lines, tree_spec
from ..._store.manifest import Section
from . import identity

# The place of the time in a line of an entry.
_TIME = 5
# The service of a service address, and its configuration: without that it would not run, or with a sample.
_KEEPER, _ADDRESS = "keepalived.service", b"/etc/keepalived/keepalived.conf"


@dataclass(frozen=True)
class Choices:
    """``keeps``: whether the host keeps its identity; ``parts``: names of parts that it keeps even if not. ``mounts``:
    the mount points here, with the kinds of their file systems. ``ours``: paths of Evenkeel itself here. ``refused``:
    paths that cannot be put back here, and why. ``without``: kinds that cannot be put back here, and why.
    ``elsewhere``: the record is one of another host."""

    keeps: bool = False
    parts: Sequence[str] = ()
    mounts: Mapping[str, str] = field(default_factory=dict)
    ours: Sequence[str] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)
    elsewhere: bool = False

    @property
    def keeps_hardware(self) -> bool:
        """Whether state of the machine itself stays."""
        return self.keeps or bool(self.parts)

    def keep(self, part: identity.Part) -> bool:
        return self.keeps or part.name in self.parts


@dataclass(frozen=True)
class Derived:
    """``left_out``: the recorded state that is left out, each with the reason."""

    sections: list[Section]
    left_out: list[str]


def derive(recorded: Sequence[Section], present: Sequence[Section], choices: Choices) -> Derived:
    """The sections to go back to. ``present``: the same sections with the lines of this host now."""
    found: list[Section] = []
    left: list[str] = []
    # Where the recorded mounts are to be made here, the files belong where they were.
    mounting = any(kind_of(one).mounts_file_systems and one.kind not in choices.without for one in recorded)
    mounts_stay = choices.keeps_hardware or not mounting
    for section, now in zip(recorded, present):
        kind = kind_of(section)
        why = choices.without.get(section.kind, "the state of this host" if kind.of_the_machine else "")
        if section.kind in choices.without or (choices.keeps_hardware and kind.of_the_machine):
            left.append(f"{section.kind} ({why})")
            continue
        own = kind.carried(own_lines(section))
        if choices.keeps_hardware:
            own, more = kind.keep_here(own, own_lines(now))
            left += more
        if _keeps_address(choices):
            own, is_there = kind.leave_open(own, _KEEPER)
            left += [f"{_KEEPER} (network: the role virtual_address sets it up)"] if is_there else []
        lines, more = _paths(section, now, choices)
        left += more
        trees = tree_spec(section)
        lines, more = _parted(lines, files.mounted(trees, choices.mounts) if trees else ())
        left += more
        spec = {key: value for key, value in section.spec.items() if not (choices.keeps and key == files.MACHINE)}
        if files.MOUNTS in spec and mounts_stay:
            spec[files.MOUNTS] = files.mounted(tree_spec(section) or {}, choices.mounts)
        found.append(replace(section, spec=spec, lines=[*lines, *own]))
    return Derived(found, left)


def _keeps_address(choices: Choices) -> bool:
    own = identity.own(_ADDRESS)
    return own is not None and choices.keep(own.part)


def _paths(section: Section, now: Section, choices: Choices) -> tuple[list[str], list[str]]:
    """The entries to go back to, and the paths that are left out."""
    recorded, spec = path_lines(section), tree_spec(section)
    if spec is None:
        return recorded, []
    tops = _tops(recorded, spec, choices)
    keeps = choices.keeps_hardware and any(map(identity.concerns, spec["paths"]))
    if not keeps and not tops:
        return recorded, []
    there, here = (_split(lines, tops, choices if keeps else None) for lines in (recorded, path_lines(now)))
    if not there.stays and not here.stays:
        return recorded, []
    kept = {path_of(line): line for line in there.others}
    mine = {path_of(line): line for lines in here.stays.values() for line in lines}
    live = {path_of(line): line for line in path_lines(now)}
    blocked = {}
    for path, line in mine.items():
        for above in ancestors(path) if line[0] not in (ABSENT, ABOVE) else ():
            if above in live and above not in mine and kept.get(above, ABSENT)[0] not in ("d", ABOVE):
                if above in kept and kept[above][0] != ABSENT:
                    blocked[above] = f"a directory here, with {os.fsdecode(path)}"
                kept[above] = live[above]
    for path in set(there.stays_paths()) - set(mine):
        if path in map(os.fsencode, spec["paths"]):  # A declared path that is not on this host.
            mine[path] = Entry(path, ABSENT).line()
    lines = _relinked([line for _path, line in sorted({**kept, **mine}.items())])
    left = [
        f"{os.fsdecode(top)} ({there.why.get(top) or here.why[top]})"
        for top in sorted({*there.stays, *here.stays})
        if top not in map(os.fsencode, choices.ours)
        and _untimed(there.stays.get(top, [])) != _untimed(here.stays.get(top, []))
    ]
    return lines, left + [f"{os.fsdecode(path)} ({why})" for path, why in sorted(blocked.items())]


def _tops(recorded: Sequence[str], spec: Mapping[str, object], choices: Choices) -> dict[bytes, str]:
    """The paths that stay as they are with all below them, whoever the host is to be, and why."""
    found = {os.fsencode(one): why for one, why in choices.refused.items()}
    found.update({os.fsencode(one): "Evenkeel's own" for one in choices.ours})
    kinds = {path_of(line): line[0] for line in recorded if line[0] in ("d", ABOVE)}
    for point in files.mounted(spec, choices.mounts):
        inside = any(is_within(point, str(root)) for root in _list(spec["paths"]))
        if inside and os.fsencode(point) not in kinds:
            found[os.fsencode(point)] = "a mount point on this host"
    if choices.elsewhere:
        # That host lacked such a tree by chance: nobody has declared that this host must lack it.
        absent = {path_of(line) for line in recorded if line.startswith(ABSENT)}
        found.update({one: "the other host had none" for one in map(os.fsencode, plain.TREES) if one in absent})
    return found


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


@dataclass
class _Split:
    """``stays``: highest path that stays -> its lines and those below. ``others``: all other lines."""

    stays: dict[bytes, list[str]] = field(default_factory=dict)
    why: dict[bytes, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    def stays_paths(self) -> Iterable[bytes]:
        return (path_of(line) for lines in self.stays.values() for line in lines)


def _split(lines: Sequence[str], tops: Mapping[bytes, str], keeping: Choices | None) -> _Split:
    found = _Split()
    for line in lines:
        path = path_of(line)
        top = next((one for one in tops if path == one or path.startswith(one + b"/")), b"")
        why = tops.get(top, "")
        own = identity.own(path) if keeping and not top else None
        if own is not None and keeping is not None and keeping.keep(own.part):
            top, why = own.top, own.part.name
        if top:
            found.stays.setdefault(top, []).append(line)
            found.why[top] = why
        else:
            found.others.append(line)
    return found


def _untimed(lines: Sequence[str]) -> list[str]:
    """The lines without their times, by which nobody knows a host; none for paths that do not exist."""
    words = [line.split(" ") for line in lines if line[0] not in (ABSENT, ABOVE)]
    return [" ".join(one[:_TIME] + one[_TIME + 1 :]) for one in words]


def _parted(lines: list[str], points: Iterable[str]) -> tuple[list[str], list[str]]:
    """The lines, where each hard link stays within one mount of this host, and the links that are parted for that."""
    below = sorted((os.fsencode(point) for point in points), reverse=True)
    if not below:
        return lines, []

    def mount(path: bytes) -> bytes:
        return next((point for point in below if path == point or path.startswith(point + b"/")), b"")

    first: dict[tuple[bytes, bytes], bytes] = {}
    found, left = [], []
    for line in lines:
        entry = Entry.parse(line) if " link=" in line else None
        if entry is not None and mount(entry.path) != mount(entry.link):
            to = first.setdefault((entry.link, mount(entry.path)), entry.path)
            line = entry._replace(link=b"" if to == entry.path else to).line()
            path, other = map(os.fsdecode, (entry.path, entry.link))
            left.append(f"{path} (no hard link of {other}: that lies on another file system here)")
        found.append(line)
    return found, left


def _relinked(lines: list[str]) -> list[str]:
    """The lines, each hard link with the first path that is left of its file."""
    if not any(" link=" in line for line in lines):
        return lines
    known = {path_of(line): line for line in lines}
    first: dict[bytes, bytes] = {}
    found = []
    for line in lines:
        entry = Entry.parse(line) if " link=" in line else None
        if entry is not None:
            held = known.get(entry.link, "")
            same = bool(held) and held[0] == entry.type and " link=" not in held
            if not same or Entry.parse(held).sha256 != entry.sha256:
                to = first.setdefault(entry.link, entry.path)
                line = entry._replace(link=b"" if to == entry.path else to).line()
        found.append(line)
    return found
