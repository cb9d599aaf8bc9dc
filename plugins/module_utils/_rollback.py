# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Back to a checkpoint, on the host that holds it: plan, undo checkpoint, files in one transaction, services, proof."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import _deadman
from ._errors import EvenkeelError, RestoreFailed, UsageError
from ._resources import files, services
from ._resources.entry import Entry
from ._resources.step import Step
from ._store import transaction
from ._store.manifest import Manifest, Section
from ._store.objects import Hasher, Writer
from ._store.store import UNDO, Store
from ._system import System


@dataclass
class Plan:
    """What a rollback to ``manifest`` does now. ``before`` are the same sections as they are, for the undo."""

    manifest: Manifest
    sections: list[Section]
    before: list[Section] = field(default_factory=list)
    files: list[Step] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    services: list[Step] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)

    @property
    def steps(self) -> list[Step]:
        return self.files + self.services


def rollback(
    store: Store,
    to: str,
    kinds: Sequence[str] | None = None,
    generation: int | None = None,
    check_mode: bool = False,
) -> dict[str, Any]:
    """The operator's rollback (``ft_rollback``); the result as documented there.

    Ends a change under way when ``to`` is its checkpoint; refuses any other target while one is.
    """
    if check_mode:
        store.check_format()
        made = _plan(store, _manifest(store, to), kinds, Hasher())
        return _result(made, [], [])
    with store.locked():
        finish(store)
        _deadman.fence(store, generation)
        manifest = _manifest(store, to)
        change = _deadman.armed(store)
        if change is not None and (change.checkpoint != manifest.id or kinds):
            _deadman.refuse_if_armed(store)
        return execute(store, manifest, kinds, change, "operator")


def finish(store: Store, boot: bool = False) -> list[str]:
    """Under the lock, before anything else: complete what a kill left, and what a missed deadline asks for."""
    said = []
    for left in transaction.unfinished(store):
        manifest = store.manifest(left.note["checkpoint"])
        sections = _chosen(manifest, left.note["kinds"])
        try:
            _apply_services(_services_plan(sections, store.system, left.paths, manifest), store.system, boot)
        finally:
            transaction.close(left.journal)
        said.append(f"finished an interrupted rollback to {manifest.name} ({manifest.id[:12]})")
    change = _deadman.armed(store)
    why = change.overdue(store.system) if change is not None else None
    if change is not None and why is not None:
        execute(store, store.manifest(change.checkpoint), None, change, why, boot)
        said.append(f"rolled back the unconfirmed change {change.name} (generation {change.generation}): {why}")
    return said


def execute(
    store: Store,
    manifest: Manifest,
    kinds: Sequence[str] | None,
    change: _deadman.Armed | None,
    by: str,
    boot: bool = False,
) -> dict[str, Any]:
    """Roll back, under the lock; with ``change`` its end is recorded, whatever it is."""
    try:
        try:
            result = _execute(store, manifest, kinds, boot)
        except OSError as error:
            raise RestoreFailed(f"the rollback to {manifest.name} stopped: {error}", left=[str(error)]) from error
    except EvenkeelError as error:
        if change is not None:
            left = [str(one) for one in error.result.get("left", [])] or [error.message]
            _deadman.conclude(store, change, _deadman.IN_DOUBT, by, left)
        raise
    if change is not None:
        _deadman.conclude(store, change, _deadman.ROLLED_BACK, by)
        result["changed"] = True
    return result


def _execute(store: Store, manifest: Manifest, kinds: Sequence[str] | None, boot: bool) -> dict[str, Any]:
    writer = Writer(store.objects)
    made = _plan(store, manifest, kinds, writer)
    undo = ""
    if made.steps:
        undo = store.commit(writer, UNDO, manifest.host, made.before).id
    else:
        writer.discard()
    done: list[Step] = []
    journal = None
    try:
        if made.files:
            note = {"checkpoint": manifest.id, "kinds": kinds}
            journal = transaction.run(store, made.files, made.directories, note).journal
            done += made.files
        done += _apply_services(made.services, store.system, boot)
    except EvenkeelError as error:
        finished = [one.shown() for one in done] + error.result.get("done", [])
        ended = {"done": finished, "undo": undo, "changed": bool(finished)}
        error.result = {**_result(made, [], []), **error.result, **ended}
        raise
    finally:
        if journal is not None:
            transaction.close(journal)
    proved, left = prove(store, made.sections, boot)
    result = _result(made, done, proved)
    result["undo"] = undo
    if left:
        raise RestoreFailed(
            f"rolled back to {manifest.name}, but {len(left)} things are not as recorded: {'; '.join(left[:10])}",
            **dict(result, left=left),
        )
    return result


def prove(store: Store, sections: Sequence[Section], boot: bool = False) -> tuple[list[str], list[str]]:
    """(what holds, what does not) of the sections, measured now. At early boot services are still to come."""
    proved, left = [], []
    for section in sections:
        if section.kind == "files":
            scan = files.scan(section.spec, Hasher(), [os.path.realpath(store.root)])
            wrong = files.compare(_entries(section), scan)
            left += [f"{step.target}: {step.why or step.action}" for step in wrong]
            if not wrong:
                proved.append(f"{len(section.lines)} paths are as recorded")
        elif not boot:
            wrong_services = services.verify(section.lines, store.system)
            left += wrong_services
            if not wrong_services:
                proved.append(f"{len(section.lines)} services are as recorded")
    return proved, left


def _manifest(store: Store, to: str) -> Manifest:
    return store.manifest(store.resolve(to))


def _chosen(manifest: Manifest, kinds: Sequence[str] | None) -> list[Section]:
    present = [section.kind for section in manifest.sections]
    for kind in kinds or ():
        if kind not in present:
            raise UsageError(f"checkpoint {manifest.name} has no {kind}; it has {', '.join(sorted(set(present)))}")
    return [section for section in manifest.sections if not kinds or section.kind in kinds]


def _entries(section: Section) -> list[Entry]:
    return [Entry.parse(line) for line in section.lines]


def _plan(store: Store, manifest: Manifest, kinds: Sequence[str] | None, sink: Writer | Hasher) -> Plan:
    made = Plan(manifest, _chosen(manifest, kinds))
    for section in made.sections:
        if section.kind == "files":
            then = _entries(section)
            scan = files.scan(section.spec, sink, [os.path.realpath(store.root)])
            steps = files.compare(then, scan)
            made.files += steps
            made.directories += files.directories(then, steps)
            made.before.append(replace(section, lines=scan.lines()))
            made.diff += _diff(steps, scan)
        else:
            made.before.append(replace(section, lines=services.capture(section.spec, store.system)))
    changed = [step.target for step in made.files]
    made.services = _services_plan(made.sections, store.system, changed, manifest)
    return made


def _services_plan(
    sections: Sequence[Section], system: System, changed: Sequence[str], manifest: Manifest
) -> list[Step]:
    since = datetime.datetime.fromisoformat(manifest.created.replace("Z", "+00:00")).timestamp()
    steps: list[Step] = []
    for section in sections:
        if section.kind == "services":
            steps += services.plan(section.lines, system, changed, since)
    return steps


def _apply_services(steps: Sequence[Step], system: System, boot: bool) -> list[Step]:
    return services.apply(steps, system, boot) if steps else []


def _diff(steps: Sequence[Step], scan: files.Scan) -> list[dict[str, str]]:
    """Manifest lines, now and then: they tell exactly what changes, and no content (it may be secret)."""
    live = {entry.path: entry for entry in scan.entries}
    shown = []
    for step in steps:
        found = live.get(os.fsencode(step.target))
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
        "planned": [step.shown() for step in made.steps],
        "done": [step.shown() for step in done],
        "proved": proved,
        "left": [],
        "diff": made.diff,
    }
