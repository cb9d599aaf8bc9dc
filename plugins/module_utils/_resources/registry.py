# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of the kinds of state that a checkpoint holds, and the questions to all kinds together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any, cast

from .._dataclasses import replace
from .._errors import Refused, UsageError
from .._files.step import Step
from .._host import machine
from .._host.mounts import mount_points
from .._host.options import mapping, meant, one_of, shown
from .._host.system import System
from .._store.manifest import LOG, Manifest, Section
from .._store.store import Forget, Store
from . import files, ours, writers
from .kind import Kind, Programs, Row, Sink, is_within, names_of
from .kinds import IN_ORDER


class _Kinds(MutableMapping[str, Kind]):
    """Name -> the kind, in the order in which kinds are put back. The module of a kind is loaded when somebody asks for
    the kind: most hosts declare few kinds, and each call of the controller loads the library anew."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self._known: dict[str, Row | Kind] = dict(rows)

    def __getitem__(self, name: str) -> Kind:
        found = self._known[name]
        if isinstance(found, Row):
            found = cast(Kind, vars(import_module(found.module, __package__))[found.made_by]())
            self._known[name] = found
        return found

    def __setitem__(self, name: str, kind: Kind) -> None:
        self._known[name] = kind

    def __delitem__(self, name: str) -> None:
        del self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def where(self, fact: str) -> list[str]:
        """The names of the kinds for which this attribute of ``Kind`` is true. Loads no kind."""
        return [
            name
            for name, kind in self._known.items()
            if (fact in kind.facts if isinstance(kind, Row) else getattr(kind, fact) not in (False, None))
        ]


KINDS = _Kinds(IN_ORDER)
# The option ``resources`` of modules and roles.
OPTION = one_of({name: mapping(row.options) for name, row in IN_ORDER.items()})
# The resources of a host that declares no resources.
DEFAULT: list[dict[str, Any]] = [{name: {}} for name in KINDS.where("stands_for_others")]
# Stands for a kind of a later version: this version knows nothing but its lines.
_UNKNOWN = Kind()


def kind_of(section: Section) -> Kind:
    return KINDS.get(section.kind, _UNKNOWN)


def load(names: Iterable[str]) -> None:
    """Load these kinds, and the kind that starts programs: what follows may take the library away."""
    for name in (*names, programs().name):
        KINDS[name]


def early() -> list[str]:
    """The kinds that are put back before the last look at files, in their order."""
    return KINDS.where("installs")


def late() -> list[str]:
    """The kinds that are put back after all files, in their order."""
    installs = early()
    return [name for name in KINDS if name not in installs]


def programs() -> Programs:
    """The kind that starts and stops programs."""
    (name,) = KINDS.where("starts_programs")
    return cast(Programs, KINDS[name])


def trees() -> Kind:
    """The kind whose state is trees of files alone. Each step that changes a path is of this kind."""
    (name,) = KINDS.where("only_paths")
    return KINDS[name]


def stays(sections: Sequence[Section]) -> list[str]:
    """Sentences on the state of the sections that differs, and that a rollback leaves to the people who own it."""
    return [words for section in sections for words in kind_of(section).stays(own_lines(section))]


def of_steps(steps: Iterable[Step]) -> list[Kind]:
    """The kinds of the steps, in their order."""
    names = {step.resource for step in steps}
    return [KINDS[name] for name in KINDS if name in names]


def check(resources: Any) -> list[Section]:
    """The declared resources, in the order of ``KINDS``, as sections without lines; UsageError names the bad item."""
    if not isinstance(resources, list) or not resources:
        raise UsageError(
            "resources is empty: declare what is to be protected, for example - files: {paths: [/etc/nginx]}"
        )
    sections = []
    order = list(KINDS)
    for number, item in enumerate(resources, 1):
        if not isinstance(item, dict) or len(item) != 1:
            raise UsageError(
                f"resources, item {number}: {shown(item)} must have one key, the kind: {' or '.join(order)}"
            )
        ((kind, spec),) = item.items()
        if kind not in KINDS:
            raise UsageError(
                f"resources, item {number}: unknown kind {kind!r}{meant(str(kind), order)}; there are "
                f"{' and '.join(order)}"
            )
        if not isinstance(spec, dict):
            raise UsageError(f"resources, item {number}: {kind} takes a mapping, not {shown(spec)}")
        try:
            sections.append(Section(kind, KINDS[kind].check(spec)))
        except UsageError as error:
            raise UsageError(f"resources, item {number}: {error.message}") from error
    sections = _with_stand_ins(sections)
    sections.sort(key=lambda section: order.index(section.kind))
    _refuse_overlap(sections)
    return _with_trees(sections)


def declared(sections: Sequence[Section]) -> list[dict[str, dict[str, object]]]:
    """The resources from which the sections of a checkpoint came, as a person declared them. Kinds of a later version
    are left out."""
    implied = [one for section in sections if kind_of(section).stands_for_others for one in section.spec["for"]]
    return [one for section in sections if section.kind in KINDS and (one := _declaration(section)) not in implied]


def _declaration(section: Section) -> dict[str, dict[str, object]]:
    return {section.kind: {key: value for key, value in section.spec.items() if key in KINDS[section.kind].options}}


def outline(resources: Any) -> dict[str, list[Any]]:
    """The names in declarations, in a form that can be compared with a checkpoint without knowing any kind.

    ``kinds``: the declared kinds; ``trees``: declared trees, each with paths and exclude; ``stand``: the declared kinds
    that stand for others; ``tree_kinds``: all kinds that declare trees. UsageError for an item that is no declaration.
    """
    found: dict[str, list[Any]] = {"kinds": [], "trees": [], "stand": []}
    for item in resources if isinstance(resources, list) else [resources]:
        if not isinstance(item, Mapping) or len(item) != 1 or not isinstance(next(iter(item.values())), Mapping):
            raise UsageError(f"{str(item)[:300]} declares nothing; it takes a list of - kind: {{…}}")
        ((name, spec),) = item.items()
        if name not in KINDS:
            raise UsageError(f"unknown kind {str(name)[:300]}; there are {' and '.join(KINDS)}")
        kind = KINDS[name]
        found["kinds"].append(name)
        found["trees"] += [kind.declaration(spec)] if kind.only_paths else []
        found["stand"] += [name] if kind.stands_for_others else []
    return {**found, "tree_kinds": KINDS.where("only_paths")}


def _with_stand_ins(sections: list[Section]) -> list[Section]:
    """The sections, and the sections for which a section ``system`` stands. That section records their declarations
    and sentences on the state that is left out."""
    mine = [section for section in sections if not KINDS[section.kind].stands_for_others]
    if len(mine) == len(sections):
        return sections
    found: list[Section] = []
    left: list[str] = []
    for name in KINDS.where("on_plain_host"):
        kind, beside = KINDS[name], [section.spec for section in mine if section.kind == name]
        try:
            spec, more = kind.for_plain_host(beside, taken(mine))
            found += [Section(name, kind.check(spec))] if spec is not None else []
            left += [f"{name}: {words}" for words in more]
        except (UsageError, Refused) as error:  # A plain host need not have state of this kind.
            left.append(f"{error.message.removeprefix(name + ': ')} ({name} is not protected)")
    (alone,) = {section.kind for section in sections} - {section.kind for section in mine}
    return [*mine, *found, Section(alone, {"for": list(map(_declaration, found)), "not": left})]


def _refuse_overlap(sections: Sequence[Section]) -> None:
    """Raise UsageError where declarations overlap. Two declarations of a tree could exclude different paths, and a
    subvolume or a cluster goes back as a whole."""
    seen: list[tuple[str, int, Kind, bool]] = []
    for number, section in enumerate(sections):
        kind = KINDS[section.kind]
        owned = kind.trees_as_a_whole(section.spec)
        for path in [*owned, *kind.trees(section.spec)]:
            whole = path in owned
            for other, owner, owner_kind, entire in seen:
                shorter, longer = sorted((path, other), key=len)
                # A tree that a kind adds may lie in declared files: they cover the tree.
                matters = whole or entire or (kind.only_paths and owner_kind.only_paths)
                around = sections[owner if shorter == other else number]
                apart = KINDS[around.kind].only_paths and files.excludes(around.spec, longer)
                if owner != number and matters and is_within(longer, shorter) and not apart:
                    raise UsageError(
                        f"{path} of {section.kind} and {other} of {owner_kind.name} overlap; declare it once"
                    )
            seen.append((path, number, kind, whole))


def _with_trees(sections: Sequence[Section]) -> list[Section]:
    """The sections with the trees that their kinds add, where no other section covers the trees already."""
    declared = [section for section in sections if KINDS[section.kind].only_paths]
    covered = [path for section in declared for path in section.spec["paths"]]
    found = []
    for section in sections:
        if not KINDS[section.kind].only_paths:
            trees = []
            for path in KINDS[section.kind].trees(section.spec):
                holders = [one for one in declared if any(is_within(path, root) for root in one.spec["paths"])]
                by = next((other.kind for other in holders if files.excludes(other.spec, path)), "")
                if by and all(files.excludes(other.spec, path) for other in holders):
                    raise UsageError(
                        f"{path} belongs to {section.kind}, and {by} excludes it: take it out of exclude, or leave "
                        f"{section.kind} out"
                    )
                if not any(is_within(path, other) for other in covered):
                    trees.append(path)
                    covered.append(path)
            if trees:
                section = replace(section, spec=dict(section.spec, trees=sorted(trees)))
        found.append(section)
    return found


def in_words(sections: Sequence[Section]) -> list[str]:
    """The kinds of the sections, in words, where the declaration was ``system``; else nothing."""
    if not any(kind_of(section).stands_for_others for section in sections):
        return []
    mine = [section for section in sections if not kind_of(section).stands_for_others]
    return [f"{one.kind} ({names_of(one.spec)})" if kind_of(one).only_paths else one.kind for one in mine]


def tree_spec(section: Section) -> dict[str, Any] | None:
    """The trees of files of the section, as a declaration of ``files``; None where the section has no trees."""
    if kind_of(section).only_paths:
        return section.spec
    trees = section.spec.get("trees")
    if not trees:
        return None
    mounts = {files.MOUNTS: section.spec[files.MOUNTS]} if files.MOUNTS in section.spec else {}
    return {"paths": trees, "exclude": [], **mounts}


def path_lines(section: Section) -> list[str]:
    """The lines of the section that are entries of files: their first word is one letter."""
    return section.lines if kind_of(section).only_paths else [line for line in section.lines if line[1:2] == " "]


def own_lines(section: Section) -> list[str]:
    """The lines of the section that are in its kind's own words."""
    return [] if kind_of(section).only_paths else [line for line in section.lines if line[1:2] != " "]


def its_lines(section: Section) -> list[str]:
    """The lines of the section that its kind reads: the kind's own lines, or all lines where they are entries of
    files."""
    return section.lines if kind_of(section).only_paths else own_lines(section)


def taken(sections: Sequence[Section]) -> list[str]:
    """The paths of the sections that no further declaration may overlap."""
    found: list[str] = []
    for section in sections:
        kind = kind_of(section)
        found += section.spec["paths"] if kind.only_paths else kind.trees_as_a_whole(section.spec)
    return found


@contextmanager
def locked(kinds: Iterable[str], system: System, unattended: bool = False) -> Iterator[None]:
    """Keep other programs from the trees of these kinds.

    Raises Refused where another program keeps a lock. With ``unattended`` the work soon goes on without the lock: the
    host must come back even where somebody has left an editor open.
    """
    with ExitStack() as locks:
        for kind in sorted(set(kinds) & set(KINDS)):
            try:
                locks.enter_context(KINDS[kind].locked(system, 2.0 if unattended else None))
            except Refused:
                if not unattended:
                    raise
        yield


def capture(
    sections: Sequence[Section],
    sink: Sink,
    system: System,
    store: str,
    still: AbstractContextManager[Any] | None = None,
    left: list[str] | None = None,
) -> list[Section]:
    """The sections with the lines of the present state. The store is never part of a tree.

    ``still`` is held only while files are read: a service that it stops is recorded as it was before. ``left`` gets
    sentences on state that the lines cannot hold.
    """

    def own(section: Section, at_rest: bool) -> list[str]:
        kind = KINDS[section.kind]
        return kind.capture(section.spec, sink, system) if kind.captured_at_rest == at_rest else []

    running = [own(section, False) for section in sections]
    taken = []
    with still or nullcontext():
        for section, before in zip(sections, running):
            lines = before + own(section, True)
            spec = tree_spec(section)
            scan = files.scan(spec, sink, ours.paths(store)) if spec is not None else None
            scanned = scan.lines() if scan is not None else []
            if scan is not None and scan.parted and left is not None:
                left.append(_parted(scan.parted))
            known = dict(section.spec, **{files.MOUNTS: files.mounted(spec, seen_mounts())}) if spec else section.spec
            taken.append(replace(section, spec=known, lines=scanned + lines))
    # A recovery compares the machine with another; one section is enough for that.
    known = {files.MACHINE: machine.read_machine().record()} if taken else {}
    return [replace(one, spec={**one.spec, **known}) for one in taken[:1]] + taken[1:]


def _parted(paths: Sequence[bytes]) -> str:
    """A sentence on files that have further names outside of the declared trees."""
    have = f" and {len(paths) - 1} more files have" if len(paths) > 1 else " has"
    return (
        f"{os.fsdecode(paths[0])}{have} further names (hard links) outside of what is declared: a rollback parts "
        "a file that it puts back from these, and they keep what a change writes; declare them as well"
    )


def machine_of(sections: Sequence[Section]) -> machine.Machine:
    """The machine on which the sections were recorded. A checkpoint of an older version does not tell."""
    return machine.Machine.read(next((one.spec[files.MACHINE] for one in sections if files.MACHINE in one.spec), None))


def seen_mounts() -> dict[str, str]:
    """Mount point -> kind of file system."""
    return {os.fsdecode(point): kind for point, kind in mount_points().items()}


def consistent(sections: Sequence[Section]) -> bool:
    """Whether each section shows the state of one moment although no program stands still."""
    return all(KINDS[section.kind].consistent for section in sections)


def not_restorable(sections: Sequence[Section]) -> list[str]:
    """Sentences on the state that a rollback to the sections could not bring back."""
    return _links(sections) + [
        sentence
        for section in sections
        for sentence in KINDS[section.kind].not_restorable(section.spec, its_lines(section))
    ]


def _links(sections: Sequence[Section]) -> list[str]:
    """Sentences on the declared paths that are symlinks to paths which nothing protects."""
    specs = [spec for spec in map(tree_spec, sections) if spec is not None]
    whole = [path for section in sections for path in kind_of(section).trees_as_a_whole(section.spec)]
    found = []
    for section in sections:
        for path, target in files.links(section.spec, section.lines) if kind_of(section).only_paths else ():
            roots = [root for spec in specs if not files.excludes(spec, target) for root in spec["paths"]]
            if not any(is_within(target, root) for root in (*roots, *whole)):
                found.append(
                    f"{path} is a symlink to {target}: the link alone is protected, and nothing behind it; "
                    f"declare {target} as well"
                )
    return found


def written(sections: Sequence[Section]) -> tuple[list[str], bool]:
    """(sentences on declared files that a program has open for writing and that no declaration names, whether there was
    time to look at all files)."""
    specs = [section.spec for section in sections if kind_of(section).only_paths]
    starting = [section for section in sections if section.kind in KINDS.where("starts_programs")]
    named = {name for section in starting for name in programs().named(own_lines(section))}

    def leaves_out(path: str) -> bool:
        return all(files.excludes(spec, path) for spec in specs if any(is_within(path, root) for root in spec["paths"]))

    return writers.undeclared([root for spec in specs for root in spec["paths"]], leaves_out, named)


def watch(sections: Sequence[Section], call: Sequence[str], root: str) -> list[str]:
    """``Kind.watch`` for all of the sections."""
    return [
        sentence
        for section in sections
        for sentence in KINDS[section.kind].watch(section.spec, its_lines(section), call, root)
    ]


def missing_data(sections: Sequence[Section]) -> dict[tuple[str, str], str]:
    """The data outside of the store that the sections need, and that has a fault: (kind, path) -> fault."""
    return {
        (section.kind, path): problem
        for section in sections
        for path, problem in kind_of(section).missing_data(own_lines(section)).items()
    }


def with_logs(sections: Sequence[Section]) -> list[Section]:
    """The sections whose state has a log of its own. UsageError where there is none."""
    found = [section for section in sections if kind_of(section).has_log]
    if not found:
        names = " or ".join(KINDS.where("has_log"))
        raise UsageError(
            f"only_logs: no declared resource has a log of its own ({names}); declare one, or limit the run to the "
            "hosts that have one. Nothing was done"
        )
    return found


def beside(records: Sequence[Manifest]) -> dict[str, str]:
    """The contents that this host keeps beside its store, and that the records name: name -> path of its file. In the
    record of a log the lines that came are looked at, and those that went."""
    found: dict[str, str] = {}
    for record in records:
        skip = 1 if record.kind == LOG else 0
        for section in record.sections:
            lines = [line[skip:] for line in section.lines if " beside=" in line]
            found.update(kind_of(section).beside(section.spec, lines) if lines else {})
    return found


def not_carried(sections: Sequence[Section]) -> list[str]:
    """Sentences on the data that a copy of the sections on another host lacks."""
    return [words for section in sections for words in kind_of(section).not_carried(own_lines(section))]


def has_log(sections: Sequence[Section]) -> bool:
    """Whether any of the sections names a position in a log of its own."""
    return any(kind_of(section).has_log for section in sections)


def forgetting(store: Store) -> dict[str, Forget]:
    """For each kind that keeps data outside of the store, the function that deletes it (see ``Store.prune``)."""
    return {name: partial(_forget, store, name) for name in KINDS.where("keeps_data_outside")}


def _forget(store: Store, name: str, stay: Sequence[str], go: Sequence[str]) -> None:
    # A kind without lines has nothing here, but for what a kill has left in the store's folder of its name.
    if stay or go or os.path.isdir(store.join(name)):
        KINDS[name].forget(store.root, store.system, stay, go)
