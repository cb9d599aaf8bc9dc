# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of a rollback, and the measurements that prove it afterwards. Looks, and changes nothing."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, NamedTuple

from ..._dataclasses import dataclass, field, replace
from ..._deadman import changes
from ..._errors import Damaged, EvenkeelError, NotFound, UsageError
from ..._files import comparison
from ..._files.entry import SOCKET, Entry, Tree, path_of
from ..._files.mounts import remounted
from ..._files.scanning import Scan
from ..._files.step import PUT, PathStep, Step
from ..._host.mounts import mount_points
from ..._host.paths import ancestors, check_path
from ..._resources import files, ours, registry
from ..._resources.kind import Kind, Restore, Sink, is_within
from ..._resources.registry import KINDS, own_lines, path_lines, seen_mounts, tree_spec
from ..._services import quiescing, traces
from ..._store.manifest import Manifest, Section
from ..._store.objects import Hasher
from ..._store.store import Store
from . import alternatives

# The largest number of paths that are remembered as written by services.
_MOST = 200
# The line of a file of a few bytes.
_SHORT = r" size=[0-9]{1,2} "


@dataclass(frozen=True)
class Options:
    """The manner of a rollback.

    ``kinds``, ``paths``: only these parts of the checkpoint. ``boot``: early at boot. ``unattended``: the host goes
    back by itself, so access comes first, and files that only the undo needs are not waited for. ``swap``: declared
    directories as a whole. ``quiesce``: the hooks of programs that stand still meanwhile. An interrupted run of the
    rollback has kept ``undo``, has put back the paths ``changed``, and has taken ``down`` the services in this record
    of ``outage.Down``; its steps ``undone`` failed, and no measurement shows that they are due. ``spared``: paths that
    are as services left them when they started again, with their lines. ``boots``: this process has the host boot
    again where that is needed.
    """

    kinds: Sequence[str] | None = None
    paths: Sequence[str] = ()
    boot: bool = False
    unattended: bool = False
    swap: bool = False
    quiesce: Sequence[quiescing.Declared] = ()
    undo: str = ""
    changed: Sequence[str] = ()
    down: Mapping[str, Any] = field(default_factory=dict)
    undone: Sequence[Step] = ()
    spared: Mapping[str, str] = field(default_factory=dict)
    boots: bool = False

    def __post_init__(self) -> None:
        # A request for paths means files.
        if self.paths and not self.kinds:
            object.__setattr__(self, "kinds", [registry.trees().name])

    def wants(self, path: str) -> bool:
        """Whether this path is to be put back."""
        return not self.paths or any(is_within(path, one) for one in self.paths)


@dataclass
class Plan:
    """The steps of a rollback to ``manifest``. ``before`` are the same sections in their present state, for the undo.

    ``away``: mount points at which nothing can be put back, and why. ``left``: parts that could not even be looked at,
    and why. ``unkept``: state that the undo lacks, in words, and ``unread``: the paths among that. ``spared``: trees of
    kinds that refuse to go back.
    """

    manifest: Manifest
    sections: list[Section]
    before: list[Section] = field(default_factory=list)
    early: list[Step] = field(default_factory=list)
    files: list[PathStep] = field(default_factory=list)
    directories: list[Entry] = field(default_factory=list)
    late: list[Step] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    away: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    unkept: list[str] = field(default_factory=list)
    unread: set[bytes] = field(default_factory=set)
    spared: list[str] = field(default_factory=list)

    @property
    def has_steps(self) -> bool:
        return bool(self.files or self.early or self.late)

    @property
    def steps(self) -> list[Step]:
        return [*(step.reported() for step in self.files), *self.early, *self.late]


def chosen(manifest: Manifest, kinds: Sequence[str] | None) -> list[Section]:
    """The sections of these kinds, which are loaded now. Raises Damaged for a kind of a later version, UsageError for a
    missing kind."""
    present = [section.kind for section in manifest.sections]
    unknown = sorted(set(present) - set(KINDS))
    if unknown:
        raise Damaged(
            f"checkpoint {manifest.name} has {', '.join(unknown)}, which this version does not know; nothing was "
            "changed. Use the version of evenkeel that took it"
        )
    for kind in kinds or ():
        if kind not in present:
            raise UsageError(f"checkpoint {manifest.name} has no {kind}; it has {', '.join(sorted(set(present)))}")
    found = [section for section in manifest.sections if not kinds or section.kind in kinds]
    registry.load([section.kind for section in found])
    return found


def check_declared(manifest: Manifest) -> None:
    """UsageError for a declaration of trees that nobody could have made: the checkpoint is not to be trusted."""
    for section in manifest.sections:
        spec = tree_spec(section)
        if spec is not None:
            files.check(files.declared(spec))


def check_paths(manifest: Manifest, paths: Sequence[str]) -> None:
    """NotFound names a path that the checkpoint does not know, UsageError a path that is not absolute."""
    declared = [one for section in manifest.sections for one in (tree_spec(section) or {"paths": []})["paths"]]
    for path in paths:
        check_path(os.fsencode(path.rstrip("/") or "/"))
        covered = any(is_within(path, one) or is_within(one, path) for one in declared)
        # A rollback knows that a path which was not there has to go.
        if not covered or not (os.path.lexists(path) or _is_recorded(manifest, os.fsencode(path.rstrip("/")))):
            raise NotFound(
                f"checkpoint {manifest.name} holds nothing at or below {path}; it holds {', '.join(sorted(declared))}. "
                "Nothing was changed"
            )


def _is_recorded(manifest: Manifest, path: bytes) -> bool:
    paths = (path_of(line) for section in manifest.sections for line in section.lines if line[1:2] == " ")
    return any(f"{os.fsdecode(one)}/".startswith(f"{os.fsdecode(path)}/") for one in paths)


class Reading(NamedTuple):
    """The manner of reading the present state: contents go to ``sink``, and to ``still`` while programs stand still.

    ``running``: the state before programs stood still; services that were stopped for that are kept as they were.
    Without ``undo`` no state is read that only the undo needs.
    """

    sink: Sink
    still: Sink
    running: Sequence[Section] = ()
    undo: bool = True


def add_state_and_steps(store: Store, made: Plan, how: Options, reading: Reading) -> None:
    """Add the present state, and the steps that put back the paths."""
    sink, running, undo = reading.sink, reading.running, reading.undo
    for section in made.sections:
        lines: list[str] = []
        spec = tree_spec(section)
        if spec is not None:
            compared = False
            with _noting(made.left, section.kind, store=True):
                lines += _add_file_steps(store, made, section, how, sink)
                compared = True
            made.unread.update(map(os.fsencode, () if compared else spec["paths"]))
        if undo:
            unkept: dict[str, str] = {}
            before = next((one for one in running if one.kind == section.kind), None)
            # A person must be able to undo a requested rollback; a host that goes back by itself goes on without.
            with _noting(unkept, section.kind, store=True) if how.unattended else nullcontext():
                lines += _capture(section, how, before, reading, store)
            made.unkept += [f"{kind}: {why}" for kind, why in unkept.items()]
            if unkept and section.spec.get("trees") is None:
                continue
        known = dict(section.spec)
        if spec is not None:
            known[files.MOUNTS] = files.mounted(files.declared(spec), seen_mounts())
        made.before.append(replace(section, spec=known, lines=lines))
    if not running:
        made.spared = list(_refusing(store, made, how))
    made.files = [step for step in made.files if not any(is_within(step.target, root) for root in made.spared)]


def _refusing(store: Store, made: Plan, how: Options) -> Iterator[str]:
    """The trees of kinds that go back whole or not at all, and that refuse to go back now."""
    for section in made.sections:
        if KINDS[section.kind].all_or_nothing:
            why: dict[str, str] = {}
            with _noting(why, section.kind):
                KINDS[section.kind].plan(own_lines(section), restore(store, made.manifest, how, how.changed))
            if why:
                yield from (tree_spec(section) or {"paths": []})["paths"]


@contextmanager
def _noting(notes: dict[str, str], what: str, store: bool = False, damaged: bool = False) -> Iterator[None]:
    """Note an error, so that a part that cannot be looked at does not hinder the other parts. A damaged checkpoint does
    hinder them, unless ``damaged``, and so does a ``store`` without room, where something is written to it."""
    try:
        yield
    except EvenkeelError as error:
        if isinstance(error, Damaged) and not damaged:
            raise
        _note(notes, what, error.cause)
    except Exception as error:
        if store and isinstance(error, OSError):
            raise
        _note(notes, what, f"{type(error).__name__}: {error}")


def _note(notes: dict[str, str], what: str, why: str) -> None:
    notes[what] = f"{notes[what]}; {why}" if what in notes else why


def _add_file_steps(store: Store, made: Plan, section: Section, how: Options, sink: Sink) -> list[str]:
    spec = tree_spec(section)
    if spec is None:
        return []
    scan = _scan(store, section, spec, sink)
    then = entries(section, spec, scan)
    steps = _wanted(store, made.sections, then, scan, how)
    made.away.update(remounted(files.trees_of(spec), seen_mounts()))
    # A directory above two declarations stands in both; so does a path that a kind adds around a declared path.
    planned = {step.target for step in made.files}
    todo = (
        comparison.swapped(steps, then, scan, files.trees_of(spec), mount_points())
        if how.swap and not how.paths
        else steps
    )
    made.files += [step for step in todo if step.target not in planned]
    made.directories += comparison.directories(then, todo)
    made.diff += _diff(steps, scan)
    made.unkept += [f"{os.fsdecode(path)}: {why}" for path, why in scan.unread.items()]
    made.unread.update(scan.unread)
    return scan.lines()


def _scan(store: Store, section: Section, spec: Mapping[str, Any], sink: Sink) -> Scan:
    """The trees of the section as they are now; what the checkpoint could read can be read again."""
    return files.scan(spec, sink, ours.paths(store.root), tolerant=True, then=path_lines(section))


def _wanted(store: Store, sections: Sequence[Section], then: Tree, now: Scan, how: Options) -> list[PathStep]:
    """The requested steps. Where services are declared, a file with the id of a process that is gone is no state of
    theirs: it would keep them from starting."""
    serves = any(section.kind == registry.programs().name for section in sections)
    steps = requested(comparison.compare(then, now), how)
    stay = _needed(sections, steps)
    now.holding.update(above for path in stay for above in ancestors(os.fsencode(path)))
    return [
        step
        for step in steps
        if step.target not in stay
        and not (serves and _is_trace(store, step))
        and not (step.target in how.spared and how.spared[step.target] == _line_of(now, step.target))
    ]


def _needed(sections: Sequence[Section], steps: Sequence[PathStep]) -> dict[str, str]:
    """The paths that would go and stay, because a link that does not go back leads there: path -> why."""
    specs = [spec for spec in map(tree_spec, sections) if spec is not None]
    return alternatives.needed(steps, [root for spec in specs for root in spec["paths"]])


def requested(steps: Sequence[PathStep], how: Options) -> list[PathStep]:
    """The requested steps, and the steps that make missing directories above them. Nothing above that is there is
    replaced, which nobody has asked for: what needs that is left, and named. Pure."""
    wanted = [step for step in steps if how.wants(step.target)]
    if not how.paths:
        return wanted
    above = {one for step in wanted for one in ancestors(step.path)}
    made = {step.path for step in steps if step.makes_directory and step.action == "create"} & above
    return [step for step in steps if how.wants(step.target) or step.path in made]


def _line_of(now: Scan, path: str) -> str:
    found = now.entries.find(os.fsencode(path))
    return found.line() if found is not None else ""


def written_since(store: Store, sections: Sequence[Section], how: Options) -> dict[str, str]:
    """The paths that were proved and have changed since, because services have started: path -> its line now."""
    found = {}
    for section in sections:
        spec = tree_spec(section)
        if spec is not None:
            scan = _scan(store, section, spec, Hasher(store.objects))
            steps = _wanted(store, sections, entries(section, spec, scan), scan, how)
            found.update({step.target: _line_of(scan, step.target) for step in steps})
    return found if len(found) <= _MOST else {}


def _is_trace(store: Store, step: PathStep) -> bool:
    entry = step.entry
    if step.op != PUT or entry is None or entry.type != "f" or not traces.may_hold_id(entry.path, entry.size):
        return False
    with suppress(Damaged):
        content = b"".join(store.objects.read(entry.sha256))
        return traces.is_of_the_gone(entry.path, content, entry.mtime / 1e9)
    return False


def clear_traces(store: Store, sections: Sequence[Section]) -> list[str]:
    """Before services start: remove the leftovers of programs that are gone from the declared trees; the paths."""
    found = []
    for section in sections:
        spec = tree_spec(section)
        if spec is not None:
            scan = files.scan(spec, Hasher(store.objects), ours.paths(store.root), tolerant=True)
            for line in scan.entries.lines:
                entry = Entry.parse(line) if line[0] == SOCKET or (line[0] == "f" and re.search(_SHORT, line)) else None
                if (
                    entry is not None
                    and (entry.type == SOCKET or traces.may_hold_id(entry.path, entry.size))
                    and traces.clear(entry.path, entry.type == SOCKET)
                ):
                    found.append(os.fsdecode(entry.path))
    return found


def _capture(section: Section, how: Options, running: Section | None, reading: Reading, store: Store) -> list[str]:
    kind = KINDS[section.kind]
    if running is not None and not kind.captured_at_rest:
        return own_lines(running)
    return kind.capture_for_undo(
        section.spec, reading.still if kind.captured_at_rest else reading.sink, store.system, how.unattended
    )


def add_steps(store: Store, made: Plan, how: Options) -> None:
    """Add the steps that put back state that is no path, given the steps of the paths."""
    at = restore(store, made.manifest, how, [*how.changed, *(step.target for step in made.files)])
    made.early = []
    kinds = {section.kind: KINDS[section.kind] for section in made.sections}
    for name in filter(kinds.get, registry.early()):
        noting = partial(_noting, made.left, name, damaged=how.unattended)
        made.early += steps_of(kinds[name], made.sections, at, noting)
    made.late = []
    for name in filter(kinds.get, registry.late()):
        here = at._replace(steps=[*made.early, *made.late])
        noting = partial(_noting, made.left, name, damaged=how.unattended)
        made.late += steps_of(kinds[name], made.sections, here, noting)


def stopped(made: Plan, hooks: Sequence[quiescing.Declared]) -> Plan:
    """The plan, given the services that the hooks stop: these are started anew where they would have been reloaded."""
    stops = quiescing.stopped(hooks)
    late = [
        replace(step, action="restart") if step.action == "reload" and step.target in stops else step
        for step in made.late
    ]
    return replace(made, late=late)


def recorded_down(sections: Sequence[Section]) -> set[str]:
    """The names of the programs that are recorded as not running."""
    kind = registry.programs()
    return {name for one in sections if one.kind == kind.name for name in kind.recorded_down(own_lines(one))}


def restore(store: Store, manifest: Manifest, how: Options, changed: Sequence[str]) -> Restore:
    since = datetime.datetime.fromisoformat(manifest.created.replace("Z", "+00:00")).timestamp()
    # A host that goes back by itself tries again, so it does not wait long for the lock of another program.
    patience = 10.0 if how.unattended else 300.0
    at = Restore(store.system, store.objects, changed, since, how.boot, patience=patience, unattended=how.unattended)
    return at._replace(armed=_armed(store, manifest), undone=how.undone)


def _armed(store: Store, manifest: Manifest) -> float:
    """The time at which the change after this checkpoint was armed, on the clock as it is now; 0 where that is not
    known."""
    with suppress(EvenkeelError, OSError):
        change = changes.armed(store)
        if change is not None and change.checkpoint == manifest.id and change.boot_id == store.system.boot_id():
            return store.system.now() - (store.system.monotonic() - change.started)
    return 0.0


def steps_of(
    kind: Kind,
    sections: Sequence[Section],
    at: Restore,
    trying: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[Step]:
    """The steps that put back the sections of the kind, after the steps of ``at``. ``trying``: may note the error of a
    part, so that it does not hinder the other parts."""
    # Services run files on disk, so they come after trees that are exchanged.
    exchanged = [step.target for step in at.steps if KINDS[step.resource].exchanges_trees]
    affecting = [step.resource for step in at.steps if KINDS[step.resource].read_at_start]
    here = at._replace(changed=[*at.changed, *exchanged], affecting=affecting)
    steps: list[Step] = []
    for section in sections:
        for part in kind.parts(own_lines(section)) if section.kind == kind.name else ():
            with trying():
                steps += kind.plan(part, here)
    return steps


def entries(section: Section, spec: Mapping[str, Any], now: Scan) -> Tree:
    return files.recorded(path_lines(section), spec, now)


def prove_files(store: Store, sections: Sequence[Section], how: Options) -> tuple[list[str], dict[str, str]]:
    """Measure the paths of the sections now: (sentences on paths as recorded, path -> its difference)."""
    proved: list[str] = []
    left: dict[str, str] = {}
    for section in sections:
        spec = tree_spec(section)
        if spec is None:
            continue
        with _noting(left, section.kind):
            scan = _scan(store, section, spec, Hasher(store.objects))
            then = entries(section, spec, scan)
            wrong = {step.target: step for step in _wanted(store, sections, then, scan, how)}
            away = remounted(files.trees_of(spec), seen_mounts())
            left.update(away)
            left.update({one: step.why or step.action for one, step in wrong.items()})
            stay = _needed(sections, requested(comparison.compare(then, scan), how))
            left.update(stay)
            if not wrong and not away and not stay:
                proved.append(f"{len(then)} paths are as recorded")
    return proved, left


def prove_kind(store: Store, section: Section, boot: bool) -> tuple[list[str], list[str]]:
    """Measure now the state that is no path: (sentences on state as recorded, differences). Early at boot nothing of a
    late kind is measured: its turn comes later."""
    if boot and section.kind in registry.late():
        return [], []
    own = own_lines(section)
    try:
        wrong = KINDS[section.kind].verify(own, store.system)
    except EvenkeelError as error:
        wrong = [f"{section.kind}: {error.cause}"]
    return ([] if wrong else [f"{section.kind}: {len(own)} as recorded"]), wrong


def _diff(steps: Sequence[PathStep], scan: Scan) -> list[dict[str, str]]:
    """Manifest lines, now and then: they show the changes, and only hashes of values that may be secret."""
    shown = []
    for step in steps:
        found = scan.entries.find(os.fsencode(step.target))
        shown.append(
            {
                "before_header": step.target,
                "after_header": step.target,
                "before": found.shown() + "\n" if found else "",
                "after": step.entry.shown() + "\n" if step.entry is not None else "",
            }
        )
    return shown
