# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the declarations for this host cover a checkpoint that comes from elsewhere.

The host may have lost the state that a declaration names. Taking a checkpoint needs that state; nothing here does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .._errors import EvenkeelError, Refused, UsageError
from .._host.system import System
from .._store.manifest import Manifest, Section
from .files import MACHINE, MOUNTS
from .kind import Kind, Spec, is_within, names_of
from .plain import KEYS
from .registry import KINDS, its_lines

_SHOWN = 10

Declared = dict[str, list[Spec]]


def refuse_outside(manifest: Manifest, resources: Any, host: str, proved: bool, system: System) -> None:
    """Raise Refused, with names, where the checkpoint holds state that ``resources`` do not declare. Changes nothing.

    ``proved``: the checkpoint is proved to be from ``host``, so that files of its units may have names (aliases) that
    the host no longer knows.
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


def _declared(resources: Any) -> Declared:
    """The declarations by kind. Raises UsageError for an item that is no declaration."""
    found: Declared = {}
    for item in resources if isinstance(resources, list) else [resources]:
        if not isinstance(item, dict) or len(item) != 1 or not isinstance(next(iter(item.values())), dict):
            raise UsageError(f"evenkeel_resources: {item!r} declares nothing; it takes a list of - kind: {{…}}")
        ((kind, spec),) = item.items()
        if kind not in KINDS:
            raise UsageError(f"evenkeel_resources: unknown kind {kind!r}; there are {' and '.join(KINDS)}")
        found.setdefault(kind, []).append(KINDS[kind].declaration(spec))
        if KINDS[kind].stands_for_others:
            for name in KINDS.where("on_plain_host"):
                found.setdefault(name, []).append(KINDS[name].declaration(KINDS[name].on_plain_host or {}))
    return found


def _outside(section: Section, declared: Declared, proved: bool, system: System) -> Iterator[str]:
    """The names of the state that the section holds and no declaration covers."""
    name, spec, kind = section.kind, section.spec, KINDS.get(section.kind)
    if kind is None or (name not in declared and not kind.only_paths):
        yield f"{name} {names_of(spec)}".strip()
        return
    own = {key: value for key, value in spec.items() if key not in ("trees", MOUNTS, MACHINE)}
    try:
        found = kind.outside(own, its_lines(section), declared.get(name, []), system)
        # A plain host holds the keys of the account by which the controller came.
        plain_host = kind.only_paths and any(KINDS[one].stands_for_others for one in declared)
        yield from (f"{name} {words}" for words in found if not (plain_host and words.endswith(KEYS)))
        if not kind.only_paths:
            yield from (f"{name} with the files of {path}" for path in _trees(kind, section, own, declared, proved))
    except (KeyError, TypeError, ValueError, AttributeError, EvenkeelError) as error:
        yield f"{name} in a form that nobody declares ({error})"


def _trees(kind: Kind, section: Section, own: Spec, declared: Declared, proved: bool) -> Iterator[str]:
    """The trees of the section that neither its kind adds nor a declaration covers."""
    covered = [
        path for other in declared if KINDS[other].only_paths for one in declared[other] for path in one["paths"]
    ]
    allowed = [*covered, *kind.trees(own)]
    for path in section.spec.get("trees") or []:
        if not (proved and kind.may_have_tree(path)) and not any(is_within(path, one) for one in allowed):
            yield path
