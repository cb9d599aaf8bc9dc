# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Back to a checkpoint, on the host that holds it: plan, undo checkpoint, what may change files (packages), files in
one transaction, what may need them (services), proof.

Only the files have a journal of their own. The rest is compared with the live state each time it is put back, so that
running the rollback again finishes it; ``resume`` in the store asks for that when a kill comes before the files, or
where no file changes.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from . import _deadman, _quiesce
from ._errors import Damaged, EvenkeelError, Refused, RestoreFailed, UsageError
from ._resources import files, services, subvolumes
from ._resources.entry import Tree
from ._resources.kind import Kind, Restore, Sink
from ._resources.registry import EARLY, KINDS, LATE, held, own_lines, path_lines, tree_spec
from ._resources.step import Step
from ._services.holders import holders
from ._store import transaction
from ._store.durable import remove_file, write_file
from ._store.manifest import Manifest, Section
from ._store.objects import Hasher, Writer
from ._store.store import UNDO, Store
from ._store.tree import mount_points


@dataclass
class Plan:
    """What a rollback to ``manifest`` does now. ``before`` are the same sections as they are, for the undo."""

    manifest: Manifest
    sections: list[Section]
    before: list[Section] = field(default_factory=list)
    early: list[Step] = field(default_factory=list)
    files: list[Step] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    late: list[Step] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)

    @property
    def steps(self) -> list[Step]:
        return self.early + self.files + self.late


Arm = Callable[[str], _deadman.Armed]


@dataclass(frozen=True)
class Options:
    """How a rollback is carried out.

    ``kinds``: only these of the checkpoint. ``boot``: early at boot. ``insist``: do without a lock that cannot be had.
    ``swap``: declared directories as a whole. ``arm``: arms the dead-man with the undo as its target. ``undo``: what an
    interrupted run of it has kept already; what it left half done is nothing to go back to. ``quiesce``: what stands
    still meanwhile.
    """

    kinds: Sequence[str] | None = None
    boot: bool = False
    insist: bool = False
    swap: bool = False
    arm: Arm | None = None
    undo: str = ""
    quiesce: Sequence[dict[str, Any]] = ()


def rollback(
    store: Store,
    to: str,
    kinds: Sequence[str] | None = None,
    generation: int | None = None,
    check_mode: bool = False,
    swap: bool = False,
    confirm_within: float | None = None,
    quiesce: Any = None,
) -> dict[str, Any]:
    """The operator's rollback (``ft_rollback``); the result as documented there. ``confirm_within`` in seconds.

    Ends a change under way when ``to`` is its checkpoint, and arms nothing then; refuses any other target meanwhile.
    ``swap``: put declared directories back as a whole where that is possible.
    """
    _deadman.check_within(confirm_within)
    hooks = _quiesce.check(quiesce)
    if check_mode:
        store.check_format()
        made = _plan(store, _manifest(store, to), kinds, Hasher(store.objects), swap=swap)
        made = _stopped(made, hooks)
        return _result(made, [], [])
    with store.locked():
        finished = finish(store)
        _deadman.fence(store, generation)
        manifest = _manifest(store, to)
        change = _deadman.armed(store)
        if change is not None and (change.checkpoint != manifest.id or kinds):
            _deadman.refuse_if_armed(store)
        arm = _arming(store, confirm_within) if change is None else None
        how = Options(kinds, swap=swap, arm=arm, quiesce=hooks)
        result = execute(store, manifest, change, "operator", how)
        if finished:
            result.update(done=[*finished, *result["done"]], changed=True)
        return result


def _arming(store: Store, within: float | None) -> Arm | None:
    """What arms the dead-man with the undo as its target, once there is one."""
    if within is None:
        return None
    from ._agent import install  # It imports us.

    agent = install(store)
    _deadman.prepare(store, within, agent)
    return lambda undo: _deadman.arm(store, undo, UNDO, within, agent)


def finish(store: Store, boot: bool = False) -> list[str]:
    """Under the lock, before anything else: complete what a kill left, and what a missed deadline asks for."""
    said, back = resume(store, boot)
    change = _deadman.armed(store)
    why = change.overdue(store.system) if change is not None else None
    if change is not None and change.checkpoint in back:
        why = why or "operator"  # Its rollback had begun: there is nothing left to confirm.
    if change is not None and why is not None:
        execute(store, store.manifest(change.checkpoint), change, why, Options(boot=boot))
        said.append(f"rolled back the unconfirmed change {change.name} (generation {change.generation}): {why}")
    return said


def resume(store: Store, boot: bool = False) -> tuple[list[str], set[str]]:
    """Complete the rollbacks that a kill left; what was done, in words, and the checkpoints that they were to."""
    said: list[str] = []
    back: set[str] = set()
    for left in transaction.unfinished(store, lambda note: held(note.get("held", ()), store.system, insist=True)):
        manifest = store.manifest(left.note["checkpoint"])
        sections = _chosen(manifest, left.note["kinds"])
        with _never_confirmed(store, manifest):
            try:
                at = _restore(store, manifest, boot, left.paths)
                _apply_late(_steps(LATE, sections, at), sections, at)
            finally:
                transaction.close(left.journal)
        back.add(manifest.id)
        said.append(f"finished an interrupted rollback to {manifest.name} ({manifest.id[:12]})")
    asked = _asked(store)
    if asked is not None:
        manifest = store.manifest(asked["checkpoint"])
        with _never_confirmed(store, manifest):
            _execute(store, manifest, Options(asked["kinds"], boot, insist=True, undo=asked.get("undo", "")))
        back.add(manifest.id)
        said.append(f"carried out an interrupted rollback to {manifest.name} ({manifest.id[:12]})")
    return said, back


@contextmanager
def _never_confirmed(store: Store, manifest: Manifest) -> Iterator[None]:
    """A change that is half undone for good ends in doubt. At its deadline it is tried again instead."""
    try:
        yield
    except EvenkeelError as error:
        change = _deadman.armed(store)
        if change is not None and change.checkpoint == manifest.id and change.overdue(store.system) is None:
            _deadman.conclude(store, change, _deadman.IN_DOUBT, "operator", [error.message])
        raise


def execute(
    store: Store, manifest: Manifest, change: _deadman.Armed | None, by: str, how: Options | None = None
) -> dict[str, Any]:
    """Roll back, under the lock; with ``change`` its end is recorded, whatever it is. Only where nothing was touched
    and the cause may pass it has none, and stays armed; who settles it is told an end all the same."""
    try:
        try:
            result = _execute(store, manifest, replace(how or Options(), insist=change is not None))
        except OSError as error:
            raise RestoreFailed(f"the rollback to {manifest.name} stopped: {error}", left=[str(error)]) from error
    except EvenkeelError as error:
        if change is not None and (by == "settle" or not _may_pass(error)):
            left = [str(one) for one in error.result.get("left", [])] or [error.message]
            error.result["left"] = left
            _deadman.conclude(store, change, _deadman.IN_DOUBT, by, left)
        raise
    if change is not None:
        _deadman.conclude(store, change, _deadman.ROLLED_BACK, by)
        result["changed"] = True
    return result


def _may_pass(error: EvenkeelError) -> bool:
    """Whether nothing was touched and the same may go well later: no room, a busy mount, a wrong word."""
    return not isinstance(error, (Damaged, RestoreFailed)) and not error.result.get("done")


def _execute(store: Store, manifest: Manifest, how: Options) -> dict[str, Any]:
    with ExitStack() as locks:
        return _carry_out(store, manifest, how, locks)


def _carry_out(store: Store, manifest: Manifest, how: Options, locks: ExitStack) -> dict[str, Any]:
    writer = Writer(store.objects)
    chosen = [section.kind for section in _chosen(manifest, how.kinds)]
    locks.enter_context(held(chosen, store.system, how.insist))
    with _keeping(store):
        still_to_come = Hasher(store.objects) if how.quiesce else None
        made = _plan(store, manifest, how.kinds, writer, how.boot, how.swap, still_to_come)
        made = _stopped(made, how.quiesce)
    undo = how.undo
    change: _deadman.Armed | None = None
    done: list[Step] = []
    note = {"checkpoint": manifest.id, "kinds": how.kinds, "held": chosen}
    paths = transaction.Transaction(store, note)
    still = _quiesce.Quiesced(how.quiesce, store.system, "nothing was changed")
    try:
        with paths:
            with ExitStack() as quiet:
                quiet.callback(writer.discard)
                _prepare(store, made, paths)
                if made.steps:
                    quiet.enter_context(still)
                if made.steps and how.quiesce:
                    with _keeping(store):
                        now = _again(store, made, how, writer)
                    if now is not made:
                        made = now
                        _prepare(store, made, paths)
                if made.steps and not undo:
                    with _keeping(store):
                        undo = store.commit(writer, UNDO, manifest.host, made.before).id
                change = how.arm(undo) if how.arm is not None and undo else None
                if made.early or (made.late and not made.files):
                    _ask(store, manifest, how.kinds, undo)
                if made.early:
                    locks.close()  # A package may bring its users.
                    done += _apply(EARLY, made.early, _restore(store, manifest, how.boot))
                    locks.enter_context(held(chosen, store.system, insist=True))
                    again = _plan(store, manifest, how.kinds, Hasher(store.objects), how.boot, how.swap)
                    made = replace(again, early=made.early, before=made.before)
                    paths.stage(made.files, made.directories)
                paths.commit()
                done += made.files
                locks.close()  # A service may make one as it starts.
                if how.quiesce:
                    still.hand_over(_down(made.sections))
                at = _restore(store, manifest, how.boot, [step.target for step in made.files])
                done += _apply_late(made.late, made.sections, at)
            if still.seconds:  # What it held has started again, a service perhaps.
                done += _once_more(made.sections, at)
    except EvenkeelError as error:
        finished = [one.shown() for one in done] + error.result.get("done", [])
        ended = {"done": finished, "undo": undo, "changed": bool(finished), "pause": round(still.seconds, 3)}
        error.result = {**_result(made, [], []), **error.result, **ended}
        remove_file(_resume(store))  # It will be reported, and not tried again unasked; a kill leaves it.
        if change is not None and not finished and not isinstance(error, RestoreFailed):
            _deadman.conclude(store, change, _deadman.ROLLED_BACK, "operator")  # Nothing was touched.
        else:
            error.result.update(_shown(change))
        raise
    remove_file(_resume(store))
    proved, left = prove(store, made.sections, how.boot)
    result = _result(made, done, proved)
    result.update(_shown(change), undo=undo, pause=round(still.seconds, 3))
    exchanged = {step.target: step.detail["held"] for step in done if step.resource == "subvolumes"}
    if made.files or exchanged:
        was = _was(os.path.basename(paths.journal), [step.target for step in made.files])
        result["restart_needed"] = holders(was, lambda path: subvolumes.was(path, list(exchanged)), exchanged)
    if left:
        raise RestoreFailed(
            f"rolled back to {manifest.name}, but {len(left)} things are not as recorded: {'; '.join(left[:10])}",
            **dict(result, left=left),
        )
    return result


@contextmanager
def _keeping(store: Store) -> Iterator[None]:
    """While nothing has changed yet, and what is there is read and kept: an error of the system is a refusal."""
    try:
        yield
    except OSError as error:
        raise Refused(
            f"what is there now cannot be kept in {store.root}: {error}; nothing was changed. "
            "Mend the cause, then run again"
        ) from error


def _prepare(store: Store, made: Plan, paths: transaction.Transaction) -> None:
    """All that can be done before anything changes. The paths are staged after the packages, which may change them."""
    later = {step.resource for step in made.late}
    _verify(store, made.manifest, made.sections if made.early else _without_files(made.sections, later))
    if not made.early:
        paths.stage(made.files, made.directories)


def _again(store: Store, made: Plan, how: Options, writer: Writer) -> Plan:
    """The plan anew where something was written before all stood still, or else the same: the undo holds that too."""
    now = Plan(made.manifest, made.sections)
    _look(store, now, writer, how.swap, writer, made.before)
    if (now.files, now.before) == (made.files, made.before):
        return made
    _add_steps(store, now, how.boot)
    return _stopped(now, how.quiesce)


def _was(journal: str, paths: Sequence[str]) -> Callable[[bytes], bytes | None]:
    """For the name under which a file was removed, the path that it had; None for all but those of this journal."""
    replaced = {os.fsencode(path) for path in paths}
    staged = {name: os.fsencode(path) for at, path in enumerate(paths) for name in (b"%d" % at, b"%d.old" % at)}
    stage = os.fsencode(f"/{transaction.STAGE}{journal}/")

    def was(path: bytes) -> bytes | None:
        if path in replaced:
            return path
        _above, found, rest = path.partition(stage)
        number, slash, below = rest.partition(b"/")
        return staged[number] + slash + below if found and number in staged else None

    return was


def _resume(store: Store) -> str:
    return store.join("resume")


def _ask(store: Store, manifest: Manifest, kinds: Sequence[str] | None, undo: str) -> None:
    """From here on a kill is followed by the whole rollback: all new instead of all old."""
    write_file(_resume(store), json.dumps({"checkpoint": manifest.id, "kinds": kinds, "undo": undo}).encode())


def _asked(store: Store) -> dict[str, Any] | None:
    try:
        with open(_resume(store)) as stream:
            return dict(json.load(stream))
    except FileNotFoundError:
        return None


def _without_files(sections: Sequence[Section], kinds: Collection[str]) -> list[Section]:
    """The sections of these kinds, without the files in them."""
    return [replace(section, lines=own_lines(section)) for section in sections if section.kind in kinds]


def _verify(store: Store, manifest: Manifest, sections: list[Section]) -> None:
    """Before something changes that is not in the transaction of the files, which verifies its own (I3)."""
    wrong = store.verify(replace(manifest, sections=sections))
    if wrong:
        raise Damaged(
            f"the store cannot give back {len(wrong)} contents of {manifest.name}; nothing was changed. "
            f"Recover the checkpoint from a replica (ft_recover). {'; '.join(list(wrong.values())[:20])}"
        )


def prove(store: Store, sections: Sequence[Section], boot: bool = False) -> tuple[list[str], list[str]]:
    """(what holds, what does not) of the sections, measured now. At early boot only files: the rest is to come."""
    proved, left = [], []
    for section in sections:
        spec, own = tree_spec(section), own_lines(section)
        if spec is not None:
            scan = files.scan(spec, Hasher(store.objects), [os.path.realpath(store.root)])
            then = _entries(section, spec, scan)
            wrong = files.compare(then, scan)
            left += [f"{step.target}: {step.why or step.action}" for step in wrong]
            if not wrong:
                proved.append(f"{len(then)} paths are as recorded")
        if own and not (boot and section.kind in LATE):
            differences = KINDS[section.kind].verify(own, store.system)
            left += differences
            if not differences:
                proved.append(f"{section.kind}: {len(own)} as recorded")
    return proved, left


def _manifest(store: Store, to: str) -> Manifest:
    return store.manifest(store.resolve(to))


def _chosen(manifest: Manifest, kinds: Sequence[str] | None) -> list[Section]:
    present = [section.kind for section in manifest.sections]
    unknown = sorted(set(present) - {"files", *EARLY, *LATE})
    if unknown:
        raise Damaged(
            f"checkpoint {manifest.name} has {', '.join(unknown)}, which this version does not know; nothing was "
            "changed. Use the version of evenkeel that took it"
        )
    for kind in kinds or ():
        if kind not in present:
            raise UsageError(f"checkpoint {manifest.name} has no {kind}; it has {', '.join(sorted(set(present)))}")
    return [section for section in manifest.sections if not kinds or section.kind in kinds]


def _entries(section: Section, spec: dict[str, Any], now: files.Scan) -> Tree:
    return files.recorded(section.lines if section.kind == "files" else path_lines(section), spec, now)


def _plan(
    store: Store,
    manifest: Manifest,
    kinds: Sequence[str] | None,
    sink: Sink,
    boot: bool = False,
    swap: bool = False,
    still: Sink | None = None,
) -> Plan:
    made = Plan(manifest, _chosen(manifest, kinds))
    _look(store, made, sink, swap, still or sink)
    _add_steps(store, made, boot)
    return made


def _look(store: Store, made: Plan, sink: Sink, swap: bool, still: Sink, running: Sequence[Section] = ()) -> None:
    """Fill in what is there now, and what puts back the paths.

    ``still``: the sink of the kinds that are captured while all stands still. ``running``: what was there before it
    did; what was stopped for that is kept as it was.
    """
    for number, section in enumerate(made.sections):
        spec, lines = tree_spec(section), []
        if spec is not None:
            scan = files.scan(spec, sink, [os.path.realpath(store.root)])
            then = _entries(section, spec, scan)
            steps = files.compare(then, scan)
            # A directory above two declarations stands in both; so does a path that a kind adds around a declared one.
            planned = {step.target for step in made.files}
            todo = files.swapped(steps, then, scan, spec, mount_points()) if swap else steps
            made.files += [step for step in todo if step.target not in planned]
            made.directories += files.directories(then, todo)
            made.diff += _diff(steps, scan)
            lines += scan.lines()
        if section.kind != "files":
            kind = KINDS[section.kind]
            if running and not kind.still:
                lines += own_lines(running[number])
            else:
                capture = kind.before or kind.capture
                lines += capture(section.spec, still if kind.still else sink, store.system)
        made.before.append(replace(section, lines=lines))


def _add_steps(store: Store, made: Plan, boot: bool) -> None:
    """Fill in what puts back all that is no path, given the paths that are."""
    at = _restore(store, made.manifest, boot, [step.target for step in made.files])
    made.early, made.late = _steps(EARLY, made.sections, at), _steps(LATE, made.sections, at)


def _stopped(made: Plan, hooks: Sequence[dict[str, Any]]) -> Plan:
    """The plan with what the hooks stop: that is started anew, where it would have been reloaded."""
    stops = _quiesce.stopped(hooks)
    late = [
        replace(step, action="restart") if step.action == "reload" and step.target in stops else step
        for step in made.late
    ]
    return replace(made, late=late)


def _down(sections: Sequence[Section]) -> set[str]:
    """The units that are recorded as not active."""
    return {unit for section in sections if section.kind == "services" for unit in services.down(own_lines(section))}


def _restore(store: Store, manifest: Manifest, boot: bool, changed: Sequence[str] = ()) -> Restore:
    since = datetime.datetime.fromisoformat(manifest.created.replace("Z", "+00:00")).timestamp()
    return Restore(store.system, store.objects, changed, since, boot)


def _steps(group: dict[str, Kind], sections: Sequence[Section], at: Restore) -> list[Step]:
    """The plan of the kinds of this group, kind by kind in its order."""
    steps: list[Step] = []
    for kind, resource in group.items():
        # What is put back before services, which run what is on disk.
        exchanged = [step.target for step in steps if step.resource == "subvolumes"]
        here = replace(at, changed=[*at.changed, *exchanged])
        for section in sections:
            if section.kind == kind:
                steps += resource.plan(own_lines(section), here)
    return steps


def _apply(group: dict[str, Kind], steps: Sequence[Step], at: Restore) -> list[Step]:
    """Carry out the steps kind by kind, the later kinds also when an earlier one fails; raises RestoreFailed then."""
    done: list[Step] = []
    failed: list[RestoreFailed] = []
    for kind, resource in group.items():
        mine = [step for step in steps if step.resource == kind]
        try:
            done += resource.apply(mine, at) if mine else []
        except RestoreFailed as error:
            failed.append(error)
    if failed:
        shown = [one.shown() for one in done] + [one for each in failed for one in each.result.get("done", [])]
        left = [one for each in failed for one in each.result.get("left", [each.message])]
        raise RestoreFailed("; ".join(each.message for each in failed), done=shown, left=left)
    return done


def _apply_late(steps: Sequence[Step], sections: Sequence[Section], at: Restore) -> list[Step]:
    """What comes after the files. A service may set values of the kernel and rules of the firewall of its own as it
    starts: they are put back once more after it."""
    done = _apply(LATE, steps, at)
    if any(step.resource == "services" for step in done):
        try:
            done += _once_more(sections, at)
        except RestoreFailed as error:
            error.result["done"] = [step.shown() for step in done] + error.result["done"]
            raise
    return done


def _once_more(sections: Sequence[Section], at: Restore) -> list[Step]:
    others = {kind: LATE[kind] for kind in ("sysctl", "firewall")}
    return _apply(others, _steps(others, sections, at), at)


def _shown(change: _deadman.Armed | None) -> dict[str, Any]:
    return {"generation": change.generation if change else None, "armed": change.shown() if change else None}


def _diff(steps: Sequence[Step], scan: files.Scan) -> list[dict[str, str]]:
    """Manifest lines, now and then: they tell exactly what changes, and no content (it may be secret)."""
    shown = []
    for step in steps:
        found = scan.entries.find(os.fsencode(step.target))
        shown.append(
            {
                "before_header": step.target,
                "after_header": step.target,
                "before": found.line() + "\n" if found else "",
                "after": step.detail["line"] + "\n" if "line" in step.detail else "",
            }
        )
    return shown


def _result(made: Plan, done: Sequence[Step], proved: list[str]) -> dict[str, Any]:
    return {
        "changed": bool(made.steps),
        "id": made.manifest.id,
        "undo": "",
        "pause": 0.0,
        **_shown(None),
        "planned": [step.shown() for step in made.steps],
        "done": [step.shown() for step in done],
        "proved": proved,
        "left": [],
        "restart_needed": [],
        "diff": made.diff,
    }
