# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kinds of state that a checkpoint holds: how they are declared, how they are captured, in which order they
are put back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from .._errors import Refused, UsageError
from .._host.mounts import mount_points
from .._host.options import mapping, meant, one_of
from .._host.system import System
from .._store.manifest import Section
from .._store.store import Forget, Store
from . import files, services, sysctl, users
from .firewall import firewall
from .kind import Kind, Sink
from .packages import packages
from .postgresql import postgresql
from .subvolumes import subvolumes

# In the order of putting back. What stands before ``files`` may change files (a package does), and is put back before
# them; what stands after may need them.
EARLY: dict[str, Kind] = {"packages": packages.KIND}
LATE: dict[str, Kind] = {
    "users": users.KIND,
    "subvolumes": subvolumes.KIND,
    "sysctl": sysctl.KIND,
    "firewall": firewall.KIND,
    "postgresql": postgresql.KIND,
    "services": services.KIND,
}
KINDS = {**EARLY, **LATE}
ORDER = [*EARLY, "files", *LATE]
# The option ``resources`` of modules and roles.
OPTION = one_of({kind: mapping(files.OPTIONS if kind == "files" else KINDS[kind].options) for kind in ORDER})


def check(resources: Any) -> list[Section]:
    """The declared resources, in the order of ``ORDER``, as sections without lines; UsageError names what is wrong."""
    if not isinstance(resources, list) or not resources:
        raise UsageError(
            "resources is empty: declare what is to be protected, for example - files: {paths: [/etc/nginx]}"
        )
    sections = []
    for number, item in enumerate(resources, 1):
        if not isinstance(item, dict) or len(item) != 1:
            raise UsageError(f"resources, item {number}: {item!r} must have one key, the kind: {' or '.join(ORDER)}")
        ((kind, spec),) = item.items()
        if kind not in ORDER:
            raise UsageError(
                f"resources, item {number}: unknown kind {kind!r}{meant(str(kind), ORDER)}; there are "
                f"{' and '.join(ORDER)}"
            )
        if not isinstance(spec, dict):
            raise UsageError(f"resources, item {number}: {kind} takes a mapping, not {spec!r}")
        try:
            sections.append(Section(kind, files.check(spec) if kind == "files" else KINDS[kind].check(spec)))
        except UsageError as error:
            raise UsageError(f"resources, item {number}: {error.message}") from error
    sections.sort(key=lambda section: ORDER.index(section.kind))
    _refuse_overlap(sections)
    return _with_trees(sections)


def _refuse_overlap(sections: Sequence[Section]) -> None:
    """Two declarations of one tree could disagree on what is excluded; a subvolume and a cluster go back as a whole."""
    seen: list[tuple[str, int, str, bool]] = []
    for number, section in enumerate(sections):
        spec = section.spec
        paths = spec.get("paths") or [spec[key] for key in ("data", "archive") if key in spec]
        added = KINDS[section.kind].trees(spec) if section.kind != "files" else []
        for path in [*paths, *added]:
            whole = section.kind in ("subvolumes", "postgresql") and path in paths
            for other, owner, kind, entire in seen:
                shorter, longer = sorted((path, other), key=len)
                # What a kind adds may lie in declared files: it is covered by them.
                matters = whole or entire or section.kind == kind == "files"
                if owner != number and matters and (longer + "/").startswith(shorter + "/"):
                    raise UsageError(f"{path} of {section.kind} and {other} of {kind} overlap; declare it once")
            seen.append((path, number, section.kind, whole))


def _with_trees(sections: Sequence[Section]) -> list[Section]:
    """The sections with the trees that their kinds add, as far as no other one covers them already."""
    covered = [path for section in sections if section.kind == "files" for path in section.spec["paths"]]
    found = []
    for section in sections:
        if section.kind != "files":
            trees = []
            for path in KINDS[section.kind].trees(section.spec):
                if any(other.kind == "files" and files.excludes(other.spec, path) for other in sections):
                    raise UsageError(
                        f"{path} belongs to {section.kind}, and files excludes it: take it out of exclude, or leave "
                        f"{section.kind} out"
                    )
                if not any((path + "/").startswith(other + "/") for other in covered):
                    trees.append(path)
                    covered.append(path)
            if trees:
                section = replace(section, spec=dict(section.spec, trees=sorted(trees)))
        found.append(section)
    return found


def tree_spec(section: Section) -> dict[str, Any] | None:
    """What of the section is files, as a declaration of ``files``; None when nothing is."""
    if section.kind == "files":
        return section.spec
    trees = section.spec.get("trees")
    if not trees:
        return None
    mounts = {files.MOUNTS: section.spec[files.MOUNTS]} if files.MOUNTS in section.spec else {}
    return {"paths": trees, "exclude": [], **mounts}


def path_lines(section: Section) -> list[str]:
    """Those lines of the section that are entries of files: their first word is one letter."""
    return [line for line in section.lines if line[1:2] == " "]


def own_lines(section: Section) -> list[str]:
    """Those lines of the section that are in its kind's own words."""
    return [line for line in section.lines if line[1:2] != " "]


@contextmanager
def held(kinds: Iterable[str], system: System, insist: bool = False) -> Iterator[None]:
    """Hold off who else changes the trees of these kinds. With ``insist`` one that cannot be had soon is done without:
    the host must come back even where somebody has left an editor open."""
    with ExitStack() as locks:
        for kind in sorted(set(kinds) & set(KINDS)):
            try:
                locks.enter_context(KINDS[kind].held(system, 2.0 if insist else None))
            except Refused:
                if not insist:
                    raise
        yield


def capture(
    sections: Sequence[Section],
    sink: Sink,
    system: System,
    store: str,
    still: AbstractContextManager[Any] | None = None,
) -> list[Section]:
    """The sections with what is true now. The store itself is never part of a tree.

    ``still`` is held while files are read, and only then: a service that is stopped for that is recorded as it was.
    """

    def own(section: Section, standing: bool) -> list[str]:
        kind = KINDS.get(section.kind)
        return kind.capture(section.spec, sink, system) if kind is not None and kind.still == standing else []

    running = [own(section, False) for section in sections]
    taken = []
    with still or nullcontext():
        for section, before in zip(sections, running):
            lines = before + own(section, True)
            spec = tree_spec(section)
            scanned = files.scan(spec, sink, [os.path.realpath(store)]).lines() if spec is not None else []
            known = dict(section.spec, **{files.MOUNTS: files.mounted(spec, seen_mounts())}) if spec else section.spec
            taken.append(replace(section, spec=known, lines=scanned + lines))
    return taken


def seen_mounts() -> dict[str, str]:
    """Mount point -> kind of file system."""
    return {os.fsdecode(point): kind for point, kind in mount_points().items()}


def consistent(sections: Sequence[Section]) -> bool:
    """Whether all of it is of one moment each, without anything being held still."""
    return all(section.kind != "files" and KINDS[section.kind].consistent for section in sections)


def lacks(sections: Sequence[Section]) -> list[str]:
    """What a rollback to the sections could not bring back, in words."""
    found = []
    for section in sections:
        if section.kind == "files":
            found += files.lacks(section.spec, section.lines)
        else:
            found += KINDS[section.kind].lacks(own_lines(section))
    return found


def lost(sections: Sequence[Section]) -> dict[tuple[str, str], str]:
    """What the sections need outside of the store and cannot have: (kind, path) -> what is wrong with it."""
    return {
        (section.kind, path): problem
        for section in sections
        if section.kind in KINDS
        for path, problem in KINDS[section.kind].lost(own_lines(section)).items()
    }


def forgetting(store: Store) -> dict[str, Forget]:
    """For each kind that keeps something outside of the store, what deletes it there (see ``Store.prune``)."""
    return {
        kind: partial(one.forget, store.root, store.system) for kind, one in KINDS.items() if one.forget is not None
    }
