# SPDX-License-Identifier: GPL-3.0-or-later

"""Taking a checkpoint of the declared resources, and arming the dead-man with it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Callable, NamedTuple

from .._dataclasses import asdict, replace
from .._deadman import amid, changes, command, doubt, loader, units
from .._deadman.invocation import agent_arguments
from .._errors import Damaged, EvenkeelError, Refused
from .._files import places
from .._files.staging import FULL
from .._health import probes as probing
from .._health.probe import HOST
from .._health.wait import Times
from .._host import mounts
from .._host.processes import Stopped
from .._resources import ours, registry
from .._resources.kind import is_within
from .._results.change import Checkpointed
from .._services import quiescing
from .._store import retention as keeping
from .._store.manifest import LOG, Manifest, Section
from .._store.objects import Hasher, Writer
from .._store.store import LOGS, Pruning, Store, check_name, is_ahead, objects_of
from . import footprints
from .rollback.flow import finish

_APART = (
    "this process sees the file systems of the host as a unit of systemd, or a sandbox, that has its own view of them: "
    "what it records there may not be the state of the host, and cannot be put back from here. Reach the host over SSH"
)


class Request(NamedTuple):
    """The arguments of ``ft_checkpoint``; ``confirm_within`` and ``at_most`` in seconds. ``change``: the id of the
    change over several hosts to which this change belongs, and their number. ``outside``: the places in which changes
    are looked for that no resource covers.

    ``reboots``: the boots that the change plans. ``probes``: the host measures these alone after them, in ``times``.

    With ``kind`` log, only the changes since the newest checkpoint of the name are recorded, if that can be built on.
    With ``only_logs``, only the resources that have a log of their own are recorded. With ``require_restorable``, a
    resource that could not be put back refuses the checkpoint.
    """

    name: str | None
    resources: Any
    confirm_within: float | None = None
    retention: Any = None
    host: str | None = None
    kind: str = "snapshot"
    quiesce: Any = None
    require_restorable: bool = False
    only_logs: bool = False
    at_most: float = 0.0
    change: tuple[str, int] = ("", 0)
    reboots: int = 0
    outside: Any = None
    probes: Any = None
    times: Times | None = None


def checkpoint(store: Store, request: Request, check_mode: bool = False) -> Checkpointed:
    """Take a checkpoint, or predict it. A state that the newest checkpoint of this name holds is not recorded again."""
    taking = _Taking(store, request)
    if check_mode:
        return taking.predicted()
    with store.locked():
        return taking.carry_out()


class _Recorded(NamedTuple):
    """The state as it was found, and the checkpoint that holds it. ``restored_contents``: the number of contents that
    the store had lost."""

    manifest: Manifest
    root: str
    sections: list[Section]
    is_new: bool
    restored_contents: int
    lacking: list[str]
    stats: dict[str, float]


class _Taking:
    """A checkpoint, from its request to its result. Raises UsageError for a wrong request."""

    def __init__(self, store: Store, request: Request) -> None:
        self.store = store
        self.request = request
        self.declared = registry.check(request.resources)
        if request.only_logs:
            self.declared = registry.with_logs(self.declared)
        made = time.strftime("checkpoint-%Y%m%dT%H%M%S", time.gmtime(store.system.now()))
        self.name = check_name(request.name or (LOGS if request.only_logs else made))
        self.policy = keeping.check(request.retention)
        self.hooks = quiescing.check(request.quiesce)
        self.outside = places.check(request.outside)
        self.health = _health(request)
        self.host = request.host or os.uname().nodename
        self.warnings = [*_ahead(store, self.name), *([_APART] if mounts.is_apart() else [])]
        changes.check_within(request.confirm_within)

    def predicted(self) -> Checkpointed:
        """The result that ``carry_out`` would have. Writes nothing."""
        store, arms = self.store, self.request.confirm_within is not None
        store.check_whole()
        if arms:
            doubt.refuse_if_in_doubt(store)
            changes.would_refuse(store)
        beside: list[str] = []
        sections = registry.capture(self.declared, Hasher(store.objects), store.system, store.root, left=beside)
        lacking = self._lacking(sections, [] if arms else self._watch(sections, ""), beside)
        root = Manifest.root_of(sections)
        known = _known(store, self.name, root, sections)
        result = self._result(known, root, known is None or arms)
        result.left = lacking
        base = self._base(sections) if known is None else None
        if base is not None:
            result.kind = LOG
        missing = sum(not store.objects.has(sha) for sha in objects_of(known)) if known is not None else 0
        if missing:
            result.changed = True
            result.planned.append(f"store {missing} contents again that the store has lost")
        if self.policy is not None:
            policy = self.policy
            made = _pruned(
                result,
                lambda: store.plan_prune(self.name, policy, _needed(store, known or base), coming=known is None),
            )
            result.planned += [f"forget checkpoint {one[:12]}" for one in made]
        return result

    def carry_out(self) -> Checkpointed:
        """Record the state, arm the dead-man with it, and forget checkpoints that retention drops; under the lock."""
        store = self.store
        store.check_whole()
        finished = finish(store)
        agent = self._install_agent()
        started = store.system.monotonic()
        # The deadline of a change waits for no checkpoint beside it, and neither does whoever confirms the change.
        with store.giving_way() if changes.armed(store) is not None else nullcontext():
            try:
                recorded = self._recorded(agent)
            except OSError as error:
                if error.errno not in FULL or not self._made_room():
                    raise
                recorded = self._recorded(agent)
        manifest, stats = recorded.manifest, recorded.stats
        self._note_change(recorded)
        stats["seconds"] = round(store.system.monotonic() - started, 3)
        result = self._result(manifest, recorded.root, recorded.is_new)
        result.stats = stats
        result.consistency = (
            "engine" if registry.consistent(recorded.sections) else "quiesced" if self.hooks else "crash"
        )
        result.done = finished + ([f"checkpoint {self.name} ({manifest.id[:12]})"] if recorded.is_new else [])
        if recorded.restored_contents:
            result.changed = True
            result.done.append(f"stored {recorded.restored_contents} contents again that the store had lost")
        result.left = recorded.lacking
        try:
            self._arm(result, manifest, agent)
            self._forget(result, manifest)
        except EvenkeelError as error:
            error.result = {**result.report(), **error.result}
            raise
        except OSError as error:
            done = "; ".join(result.done) or "nothing"
            raise EvenkeelError(f"{error}. Done before: {done}", **result.report()) from error
        result.proved = [f"{stats['paths']} paths and their contents are durable"]
        change = changes.armed(store) if result.armed else None
        if change is not None:
            result.remaining = round(max(0.0, change.due - store.system.monotonic()), 3)
        return result

    def _note_change(self, recorded: _Recorded) -> None:
        """Note the change in whose middle this state was found: nobody has confirmed the state yet."""
        store, one = self.store, recorded.manifest.id
        change, unsure = changes.armed(store), doubt.in_doubt(store)
        generation = change.generation if change is not None else unsure.generation if unsure is not None else 0
        if not generation:
            amid.forget(store, one)
        elif recorded.is_new:
            amid.note(store, one, generation)
            self.warnings.append(
                f"this checkpoint was taken in the middle of the change of generation {generation}: latest means it "
                "only once that change is confirmed or accepted"
            )

    def _recorded(self, agent: str) -> _Recorded:
        """Capture the state, and store it unless the newest checkpoint of the name has it."""
        store, writer = self.store, Writer(self.store.objects)
        beside: list[str] = []
        with self._whole(writer, agent):
            still = quiescing.Quiesced(self.hooks, store.system)
            with registry.locked([section.kind for section in self.declared], store.system):
                sections = registry.capture(self.declared, writer, store.system, store.root, still, beside)
            lacking = self._lacking(sections, self._watch(sections, agent), beside)
            root = Manifest.root_of(sections)
            known, restored = _known(store, self.name, root, sections), 0
            stats: dict[str, float] = {"new_objects": writer.new_objects, "new_bytes": writer.new_bytes}
            stats["paths"] = sum(len(registry.path_lines(section)) for section in sections)
            stats["pause"] = round(still.seconds, 3)
            if known is None:
                manifest = store.commit(writer, self.name, self.host, sections, self._base(sections))
            else:
                # The store may have lost contents of it (a scrub put them aside), which are here again.
                restored = writer.new_objects
                (writer.publish if restored else writer.discard)()
                manifest = known
        return _Recorded(manifest, root, sections, known is None, restored, lacking, stats)

    @contextmanager
    def _whole(self, writer: Writer, agent: str) -> Iterator[None]:
        """Where an error ends the checkpoint, its contents take no room, and no package manager calls us."""
        try:
            yield
        except (OSError, EvenkeelError, Stopped) as error:
            writer.discard()
            if agent:
                ours.take_hooks_away()
            if isinstance(error, OSError) and error.errno in FULL and _is_of(self.store, error.filename):
                words = f"the store {self.store.root} has no room for the checkpoint {self.name}, which was not taken"
                raise OSError(error.errno, f"{words}: {error.strerror}. Make room, or declare less") from error
            raise

    def _made_room(self) -> bool:
        """Delete what lies in the trash for longer than its time of grace, as there is no room for the checkpoint;
        whether there is more room now. Where there is no such time, what retention drops goes first: else it would only
        go to the trash, and free nothing. The newest checkpoint of the name stays."""
        store, policy, ids = self.store, self.policy, self.store.refs().get(self.name)
        if policy is None or not ids:
            return False
        if policy.grace:
            policy = policy._replace(counts={"last": len(ids)})
        free = os.statvfs(store.root).f_bfree
        try:
            for _time in ("to the trash", "out of it"):
                store.prune(self.name, policy, {ids[-1], *_needed(store, None)}, registry.forgetting(store))
        except (EvenkeelError, OSError):
            return False
        return os.statvfs(store.root).f_bfree > free

    def _install_agent(self) -> str:
        """The agent that a dead-man will run; empty where no dead-man is to be armed."""
        if self.request.confirm_within is None:
            return ""
        from .._deadman import package  # With the whole agent, which a call that arms nothing does not need.

        doubt.refuse_if_in_doubt(self.store)
        agent = package.install(self.store, finish)
        if self.request.reboots:
            loader.make_places(self.store)
        lacking = changes.prepare(self.store, agent)
        self.warnings += [lacking] if lacking else []
        return agent

    def _lacking(self, sections: list[Section], more: list[str], beside: list[str]) -> list[str]:
        """Sentences on state that a rollback could not put back, and on what it would do ``beside`` that: these refuse
        nothing."""
        found = _not_restorable(sections, more, self.request.require_restorable)
        written, is_all = registry.written(sections)
        if not is_all:
            self.warnings.append("not all open files of this host were looked at: there are many")
        return found + beside + written

    def _watch(self, sections: list[Section], agent: str) -> list[str]:
        """Have state kept when the change replaces it; sentences on what will not be."""
        if agent and not command.is_host(self.store):
            return registry.watch(sections, (), self.store.root)
        python = units.trusted_python(self.store.system)
        call = [python, *agent_arguments(agent), command.KEEP, "--store", self.store.root] if agent else []
        return registry.watch(sections, call, self.store.root)

    def _base(self, sections: list[Section]) -> Manifest | None:
        """The checkpoint that a log record builds on; None where a snapshot is taken."""
        return self.store.base_of(self.name, self.host, sections) if self.request.kind == LOG else None

    def _arm(self, result: Checkpointed, manifest: Manifest, agent: str) -> None:
        within = self.request.confirm_within
        if within is not None:
            footprints.remember(self.store, changes.generation(self.store) + 1, self.outside)
            terms = changes.Terms(within, self.request.at_most, *self.request.change, self.request.reboots, self.health)
            change = changes.arm(self.store, manifest.id, self.name, terms, agent)
            result.changed, result.generation, result.armed = True, change.generation, change.shown()
            result.done.append(f"armed generation {change.generation}: rolled back unless confirmed in time")
            lacking = changes.prepare_boot(self.store, change)
            result.warnings = [*self.warnings, *([lacking] if lacking else [])] or None

    def _forget(self, result: Checkpointed, manifest: Manifest) -> None:
        if self.policy is not None:
            store, policy, needed = self.store, self.policy, _needed(self.store, manifest)
            made = _pruned(result, lambda: store.prune(self.name, policy, needed, registry.forgetting(store)))
            result.done += [f"forgot checkpoint {one[:12]}" for one in made]

    def _result(self, manifest: Manifest | None, root: str, changed: bool) -> Checkpointed:
        return Checkpointed(
            changed=changed,
            planned=[f"checkpoint {self.name}"] if changed else [],
            id=manifest.id if manifest else "",
            name=self.name,
            kind=manifest.kind if manifest else "snapshot",
            root=root,
            protects=registry.in_words(self.declared),
            warnings=self.warnings or None,
        )


def _pruned(result: Checkpointed, prune: Callable[[], Pruning]) -> list[str]:
    """The ids that retention drops. Where it refuses, a warning says why: the checkpoint counts, and so does the change
    that was armed with it. An error of the disk is raised."""
    try:
        made = prune()
    except EvenkeelError as error:
        result.warnings = [*(result.warnings or []), f"old checkpoints were not forgotten: {error}"]
        return []
    result.kept = made.kept
    result.changed = result.changed or bool(made.gone)
    return made.gone


def _ahead(store: Store, name: str) -> list[str]:
    """A sentence on the newest checkpoint of this name where its date lies ahead of the clock."""
    ids = store.refs().get(name)
    with suppress(Damaged):
        created = store.head(ids[-1]).created if ids else ""
        if ids and is_ahead(created, store.system.now()) and store.has_record(ids[-1]):
            return [
                f"checkpoint {ids[-1][:12]} of {name} has the date {created}, which lies ahead of the clock here: one "
                "of them is wrong. It counts as older than all others, and no other host takes a copy of it. A new one "
                "is taken with the date of the clock: if that is wrong, set it"
            ]
    return []


def _health(request: Request) -> dict[str, object]:
    """The probes that the host can measure without help, and their times; empty where none are declared."""
    declared = [
        item for item, probe in zip(request.probes or [], probing.check(request.probes)) if probe.source == HOST
    ]
    return (
        {"probes": declared, **asdict(request.times or Times(0.0, 120.0, 1.0))} if declared and request.reboots else {}
    )


def _not_restorable(sections: list[Section], more: list[str], refuse: bool) -> list[str]:
    """The state that a rollback to the sections could not put back, in words; with ``refuse`` Refused for it."""
    found = registry.not_restorable(sections) + more
    if found and refuse:
        raise Refused(
            f"a rollback could not put back everything, which require_restorable demands: {'; '.join(found)}. "
            "Nothing was recorded or armed. Mend the causes, or declare only state that can be put back",
            left=found,
        )
    return found


def _is_of(store: Store, path: str | None) -> bool:
    """Whether an error without a path, or with this one, is of a write to the store."""
    return path is None or is_within(os.fsdecode(path), store.root)


def _needed(store: Store, manifest: Manifest | None) -> set[str]:
    """Ids that no retention may drop: the checkpoint just taken, and those to which a change may still go back: one
    under way, one in doubt, and one that is confirmed here and that other hosts may not have kept."""
    last = changes.last_event(store)
    may_go_back = last is not None and last.outcome == changes.CONFIRMED and last.change
    ends = [changes.armed(store), *doubt.doubts(store), last if may_go_back else None]
    held = {one.checkpoint for one in ends if one is not None and store.has_record(one.checkpoint)}
    return held | ({manifest.id} if manifest is not None else set())


def _known(store: Store, name: str, root: str, sections: list[Section]) -> Manifest | None:
    """The newest checkpoint of this name, if it holds exactly these sections, whose root is ``root``."""
    ids = store.refs().get(name)
    try:
        newest = store.record(ids[-1], whole=False) if ids else None
        if newest is None or newest.root != root or is_ahead(newest.created, store.system.now()):
            return None
        return store.manifest(newest.id) if newest.kind == LOG else replace(newest, sections=sections)
    except Damaged:
        return None  # A rollback to it is impossible, whatever it holds.
