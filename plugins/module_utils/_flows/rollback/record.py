# SPDX-License-Identifier: GPL-3.0-or-later

"""The state of a rollback that is being carried out, and its record of the work so far: the steps that were done, the
causes of failures, and the result. Its phases share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial

from ..._dataclasses import asdict, replace
from ..._deadman.changes import Armed
from ..._errors import EvenkeelError
from ..._files import transaction
from ..._files.entry import Entry
from ..._files.journals import Note
from ..._files.step import PathStep, Step
from ..._resources import registry
from ..._resources.kind import Kind, Restore
from ..._resources.registry import KINDS
from ..._results.change import Holder, RolledBack
from ..._services import outage, quiescing
from ..._store.manifest import Manifest, Section
from ..._store.store import Store
from . import apart, plan, wanted
from .plan import Options, Plan
from .renewal import Renewal
from .wanted import Wanted

# Everything may look as recorded, and still be lost in a power cut (I7).
NOT_DURABLE = "what was put back may not be durable"


class Record:
    """A rollback, under the lock of its store.

    ``arm``: arms the dead-man with the undo as its target. ``written``: paths that services have written as they
    started again, each with its line.
    """

    def __init__(
        self, store: Store, manifest: Manifest, how: Options, arm: Callable[[str], Armed] | None = None
    ) -> None:
        self.store = store
        self.manifest = manifest
        self.how = how
        self.change: Armed | None = None
        self.done: list[dict[str, str]] = []
        self.written: dict[str, str] = {}
        self._arm = arm
        self._undo = how.undo
        self._keeps = not how.undo
        self._notes: list[str] = []
        self._causes: dict[str, list[str]] = {}
        self._proved: list[str] = []
        self._left: list[str] = []
        self._changed = list(how.changed)
        self._others: list[Step] = []
        # At a boot everything starts anew, and reads its files.
        self._undone: list[Step] = [] if how.boot else list(how.undone)
        self._down = outage.Down(**how.down)
        self._before_access: list[tuple[Section, Section]] = []
        self._unread: set[bytes] = set()  # Paths that could not be read before access was put back.
        self._kept: list[Section] = []
        self._is_part = False
        self._restart_needed: list[Holder] = []
        self._renewal = Renewal()
        self._rules: list[str] = []  # The rules that were loaded.
        self._still = quiescing.Quiesced(how.quiesce, store.system, "nothing was changed")
        if not how.unattended:  # An interrupted rollback was checked when it began.
            plan.check_declared(manifest)
        plan.check_paths(manifest, how.paths)
        self._plan = Plan(manifest, plan.chosen(manifest, how.kinds))

    def _carry_out(self) -> None:
        """Go through all phases."""
        raise NotImplementedError

    @contextmanager
    def _trying(self, what: str) -> Iterator[None]:
        """Note a failure as the cause, should ``what`` turn out not to be as recorded."""
        try:
            yield
        except EvenkeelError as error:
            self.done += error.result.get("done", [])
            self._causes.setdefault(what, []).extend(error.result.get("left") or [error.cause])
        except OSError as error:
            self._causes.setdefault(what, []).append(str(error))
        except Exception as error:  # An unforeseen failure of one kind does not hinder the other kinds.
            self._causes.setdefault(what, []).append(f"{what}: {type(error).__name__}: {error}")

    def _put_back(self, kind: str, sections: Sequence[Section]) -> bool:
        """Put back one kind as far as possible. Returns whether there was something to do."""
        steps: list[Step] = []
        if not any(section.kind == kind for section in sections):
            return False  # A kind that nobody declares is not loaded either.
        with self._trying(kind):
            at = self._circumstances()
            steps = plan.steps_of(KINDS[kind], sections, at, partial(self._trying, kind))
            if steps:
                self._write_wanted()
                with self._noting_undone(KINDS[kind], steps):
                    self._note_steps(KINDS[kind].apply(steps, at._replace(undo=self._undo_lines(kind))))
        return bool(steps)

    def _precede_files(self) -> None:
        """Carry out the steps of kinds that have to come before any file. Files that come back may hide that other
        steps are due: these are noted until they are done."""
        declared = {section.kind for section in self._plan.sections}
        for name in (one for one in KINDS.where("precedes_files") if one in declared):
            with self._trying(name):
                kind, at = KINDS[name], self._circumstances()
                steps = plan.steps_of(kind, self._plan.sections, at, partial(self._trying, name))
                self._undone += [one for one in steps if one.action in kind.unseen and one not in self._undone]
                now = kind.first(steps)
                if steps:
                    self._write_wanted()
                if now:
                    self._note_steps(kind.apply(now, at))

    @contextmanager
    def _noting_undone(self, kind: Kind, steps: Sequence[Step]) -> Iterator[None]:
        """Note the steps that fail and of which no measurement can tell whether they are still to be done."""
        mine = [step for step in steps if step.action in kind.unseen]
        targets = {step.target for step in mine}
        known = [one for one in self._undone if one.resource != kind.name or one.target not in targets]
        self._undone = [*known, *mine]  # Until they are done.
        done: set[tuple[str, str]] = set()
        try:
            yield
            done = {(step.action, step.target) for step in mine}
        except EvenkeelError as error:
            done = {(str(one["action"]), str(one["target"])) for one in error.result.get("done", [])}
            raise
        finally:
            # A restart takes the place of a reload that fails.
            left = [step for step in mine if not {(step.action, step.target), ("restart", step.target)} & done]
            self._undone = [*known, *left]

    def _undo_lines(self, kind: str) -> list[str]:
        """The lines of the kind in the undo that this rollback has committed; none where it has none, or where the
        undo cannot be read, which hinders no kind."""
        if self._undo and KINDS[kind].keeps_data_outside:
            with suppress(EvenkeelError, OSError):
                sections = self.store.manifest(self._undo).sections
                return [line for one in sections if one.kind == kind for line in registry.own_lines(one)]
        return []

    def _commit(
        self, steps: Sequence[PathStep], directories: Sequence[Entry], away: dict[str, str] | None = None
    ) -> list[str]:
        """Put back some paths by a transaction of their own; the paths that were put back."""
        with transaction.Transaction(self.store, self._journal_note()) as paths:
            self._note_causes(paths.stage(steps, directories, away, partly=True))
            finished = self._committed(paths)
            self._note_paths(steps, finished)
        return finished.paths

    def _committed(self, paths: transaction.Transaction) -> transaction.Finished:
        try:
            return paths.commit()
        except OSError as error:
            self._left.append(f"{registry.trees().name}: {NOT_DURABLE}: {error}")
            raise

    def _undo_of(self, sections: Sequence[Section]) -> list[Section]:
        """The sections for an undo: a rollback to it leaves paths alone that could not be read."""
        tops = apart.unread(self._unread | self._plan.unread)
        return [found for found in (apart.without(section, tops) for section in sections) if found is not None]

    def _note_paths(self, steps: Sequence[PathStep], finished: transaction.Finished) -> None:
        self._note_causes(finished.left)
        back = set(finished.paths)
        known = set(self._changed)
        self._changed += [path for path in finished.paths if path not in known]
        self._note_steps([step.reported() for step in steps if step.target in back])

    def _note_causes(self, left: dict[str, str]) -> None:
        self._causes.update({path: [why] for path, why in left.items()})

    def _note_steps(self, steps: Sequence[Step]) -> None:
        """Note steps that were done. The start of a unit that was taken down before is the second half of a restart."""
        running = registry.programs().name
        restarts = {one.target: one for one in self._plan.late if (one.resource, one.action) == (running, "restart")}
        for step in steps:
            self.done.append((restarts.get(step.target, step) if step.action == "start" else step).shown())
            if step.resource != registry.trees().name:
                self._others.append(step)
            if step.detail.get("note", "") not in ("", *self._notes):
                self._notes.append(str(step.detail["note"]))
            if step.detail.get("owed"):
                self._need_restart([{"unit": step.target, "processes": [], "paths": list(step.detail["owed"])}])

    def _need_restart(self, more: Sequence[Holder]) -> None:
        """Name the units and processes for a restart, each once."""
        known = {one["unit"] for one in more if one["unit"]}
        self._restart_needed = [one for one in self._restart_needed if one["unit"] not in known] + list(more)

    def _kinds(self) -> list[str]:
        return [section.kind for section in self._plan.sections]

    def _options_now(self) -> Options:
        return replace(self.how, changed=self._changed, undone=self._undone)

    def _circumstances(self) -> Restore:
        return plan.restore(self.store, self.manifest, self._options_now(), self._changed)._replace(steps=self._others)

    def _journal_note(self) -> Note:
        """The note in a journal on the rollback to which it belongs."""
        return {"checkpoint": self.manifest.id, "kinds": self.how.kinds, "held": self._kinds()}

    def _write_wanted(self, begun: bool = True) -> None:
        """Have a kill followed by the whole rollback, or, before it has ``begun``, by a start of the services that are
        down."""
        # The undo of a part is no undo of the whole: the run after a kill takes another undo beside it.
        undo = "" if self._is_part else self._undo
        kinds, paths, down = self.how.kinds, list(self.how.paths), asdict(self._down)
        undone = [asdict(step) for step in self._undone]
        try:
            wanted.write(self.store, Wanted(self.manifest.id, kinds, paths, undo, self._changed, down, begun, undone))
        except OSError:
            if not self.how.unattended:  # The armed change asks for the same rollback.
                raise

    def _forget_wanted(self, whole: bool = True) -> None:
        """Forget the rollback, which is reported now and not tried again unasked. A host that goes back by itself tries
        again, and keeps the undo."""
        if self.how.unattended and (self._undo or self._down.names or self._undone) and not whole:
            self._changed = []
            self._write_wanted()
            return
        with nullcontext() if whole else suppress(OSError):
            wanted.forget(self.store)

    def result(self) -> RolledBack:
        """The result so far."""
        made = self._plan
        return RolledBack(
            changed=made.has_steps or bool(self.done),
            planned=[step.shown() for step in made.steps],
            done=self.done,
            proved=self._proved,
            left=self._left,
            id=self.manifest.id,
            undo=self._undo,
            pause=round(self._still.seconds, 3),
            generation=self.change.generation if self.change else None,
            armed=self.change.shown() if self.change else None,
            notes=self._notes,
            restart_needed=self._restart_needed,
            diff=made.diff,
        )
