# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a checkpoint that comes from elsewhere lies inside what was declared for this host.

The host may have lost what a declaration is about: nothing here needs it, as taking a checkpoint does.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from .._errors import EvenkeelError, Refused, UsageError
from .._files.entry import path_of
from .._host.system import System
from .._services import process, systemd
from .._store.manifest import Manifest, Section
from . import files, own_line, services, sysctl
from .packages import packages
from .postgresql import restore_point
from .registry import KINDS, ORDER, own_lines

# Where what an administrator makes of a unit lies.
_OF_UNITS = ("/etc/systemd/system", "/run/systemd/system", "/etc/systemd/system.control", "/run/systemd/system.control")
_SHOWN = 10

Specs = dict[str, list[dict[str, Any]]]


def refuse_outside(manifest: Manifest, resources: Any, host: str, proved: bool, system: System) -> None:
    """Refused, naming what it is, where the checkpoint holds what ``resources`` do not declare. Changes nothing.

    ``proved``: the checkpoint is known to be one of ``host``, so that files of its units may have names (aliases) that
    are not known here any more.
    """
    declared = _declared(resources)
    found = [words for section in manifest.sections for words in _outside(section, declared, proved, system)]
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise Refused(
            f"checkpoint {manifest.name} ({manifest.id[:12]}) holds what the inventory does not declare for {host} "
            f"(evenkeel_resources): {'; '.join(found[:_SHOWN])}{more}. Nothing was changed. Declare it there; or, "
            "where all of it is to be restored, say so: undeclared of ft_recover, --undeclared of the driver"
        )


def _declared(resources: Any) -> Specs:
    """The declarations by kind; UsageError for what is none."""
    found: Specs = {}
    for item in resources if isinstance(resources, list) else [resources]:
        if not isinstance(item, dict) or len(item) != 1 or not isinstance(next(iter(item.values())), dict):
            raise UsageError(f"evenkeel_resources: {item!r} declares nothing; it takes a list of - kind: {{…}}")
        ((kind, spec),) = item.items()
        if kind not in ORDER:
            raise UsageError(f"evenkeel_resources: unknown kind {kind!r}; there are {' and '.join(ORDER)}")
        found.setdefault(kind, []).append(files.check(spec) if kind == "files" else spec)
    return found


def _outside(section: Section, declared: Specs, proved: bool, system: System) -> Iterator[str]:
    """What of the section is not declared, in words."""
    kind, spec = section.kind, section.spec
    if kind == "files":
        yield from _files(section, declared.get(kind, []))
        return
    if kind not in declared:
        yield f"{kind} {_names(spec)}".strip()
        return
    own = {key: value for key, value in spec.items() if key not in ("trees", files.MOUNTS)}
    try:
        yield from (f"{kind} {words}" for words in _OWN[kind](own, own_lines(section), declared[kind], system))
        covered = [path for one in declared.get("files", []) for path in one["paths"]]
        allowed = [*covered, *KINDS[kind].trees(own)]
        for path in spec.get("trees") or []:
            of_unit = proved and kind == "services" and os.path.dirname(path) in _OF_UNITS
            if not of_unit and not any(_within(path, one) for one in allowed):
                yield f"{kind} with the files of {path}"
    except (KeyError, TypeError, ValueError, AttributeError, EvenkeelError) as error:
        yield f"{kind} in a form that nobody declares ({error})"


def _files(section: Section, declared: Sequence[dict[str, Any]]) -> Iterator[str]:
    paths, left_out = section.spec.get("paths"), section.spec.get("exclude", [])
    if not isinstance(paths, list) or not isinstance(left_out, list) or not all(isinstance(one, str) for one in paths):
        yield "files in a form that nobody declares"
        return
    looked_at = []
    for path in paths:
        cover = next((one for one in declared for root in one["paths"] if _within(path, root)), None)
        if cover is None or files.excludes(cover, path):
            yield f"files {path}"
        elif not set(cover["exclude"]) <= set(map(str, left_out)):
            missing = sorted(set(cover["exclude"]) - set(map(str, left_out)))
            yield f"files {path} with what is left out now ({', '.join(missing)})"
        elif cover["exclude"]:
            looked_at.append((os.fsencode(path), files.left_out(cover)))
    for root, is_left_out in looked_at:
        for line in section.lines:
            path = path_of(line)
            if path.startswith(root + b"/") and is_left_out(path):
                yield f"files {os.fsdecode(path)}"


def _services(
    spec: dict[str, Any], lines: list[str], declared: Sequence[dict[str, Any]], system: System
) -> Iterator[str]:
    asked = [systemd.unit_name(name) for one in declared for name in one.get("names") or []]
    known = set(asked)
    for one in declared:
        if one.get("names"):  # An alias that this host knows.
            known.update(services.check({"names": one["names"]}, system)["names"])
    mine = [process.check(one) for given in declared for one in given.get("processes") or []]
    names = set(spec["names"])
    yield from sorted(names - known)
    for one in spec["processes"]:
        if one not in mine:
            yield f"process {_names(one)}"
    for line in lines:
        with own_line.read(line) as (word, record):
            if word == "unit" and record["name"] not in names:
                yield str(record["name"])
            if word == "process" and record["definition"] not in spec["processes"]:
                yield f"process {_names(record['definition'])}"


def _sysctl(
    spec: dict[str, Any], lines: list[str], declared: Sequence[dict[str, Any]], _system: System
) -> Iterator[str]:
    known = {sysctl.canonical(name) for one in declared for name in one["names"]}
    yield from sorted({*spec["names"], *(unquote(line.split(" ")[1]) for line in lines)} - known)


def _packages(
    spec: dict[str, Any], lines: list[str], declared: Sequence[dict[str, Any]], _system: System
) -> Iterator[str]:
    if spec.get("purge") and not any(one.get("purge") for one in declared):
        yield "with the data of packages that go (purge)"
    if any(one.get("names") is None for one in declared):
        return
    known = {name for one in declared for name in one["names"]}
    if spec["names"] is None:
        yield "without a limit"
        return
    yield from sorted(set(spec["names"]) - known)
    recorded = packages.parse(lines)
    for one in recorded.present:
        if {one.key, one.name}.isdisjoint(known):
            yield one.key
    yield from sorted(recorded.absent - known)
    if recorded.diversions is not None:
        yield "with diversions"
    if recorded.overrides is not None:
        yield "with owners and modes of files"


def _subvolumes(
    spec: dict[str, Any], lines: list[str], declared: Sequence[dict[str, Any]], _system: System
) -> Iterator[str]:
    known = {path for one in declared for path in one["paths"]}
    found = set(spec["paths"])
    for line in lines:
        with own_line.read(line) as (_word, record):
            found.add(record["path"])
    yield from sorted(found - known)


def _firewall(
    spec: dict[str, Any], _lines: list[str], declared: Sequence[dict[str, Any]], _system: System
) -> Iterator[str]:
    missing = {one for given in declared for one in given.get("except", [])} - set(spec.get("except", []))
    if missing:
        yield f"with what is left alone now ({', '.join(sorted(missing))})"


def _postgresql(
    spec: dict[str, Any], lines: list[str], declared: Sequence[dict[str, Any]], _system: System
) -> Iterator[str]:
    if spec not in [restore_point.check(one) for one in declared]:
        yield _names(spec)
    for line in lines:
        with own_line.read(line) as (_word, record):
            if any(record[key] != value for key, value in spec.items() if key in record):
                yield f"another cluster ({_names(record)})"


def _users(
    _spec: dict[str, Any], _lines: list[str], _declared: Sequence[dict[str, Any]], _system: System
) -> Iterator[str]:
    return iter(())


_OWN = {
    "services": _services,
    "sysctl": _sysctl,
    "packages": _packages,
    "subvolumes": _subvolumes,
    "firewall": _firewall,
    "postgresql": _postgresql,
    "users": _users,
}


def _names(spec: Mapping[str, Any]) -> str:
    """What a declaration is about, for a message."""
    for key in ("names", "paths", "name", "cluster", "data"):
        value = spec.get(key)
        if isinstance(value, Collection) and value:
            return value if isinstance(value, str) else ", ".join(map(str, list(value)[:_SHOWN]))
    return ""


def _within(path: str, root: str) -> bool:
    return f"{path}/".startswith(f"{root}/")
