# SPDX-License-Identifier: GPL-3.0-or-later

"""A rollback, phase by phase. Kinds, and paths, go back independently: a failure is named, and delays nothing else.

1. ``access`` (of a host that goes back by itself): the firewall, accounts, sshd and the network.
2. ``prepare``: look, stage, verify, plan. Until here nothing has changed, and an operator may be refused.
3. ``hold``: services that have to be restarted stop, and the state for the undo is read while they stand still.
4. ``put_back_files``: one journalled transaction.
5. ``put_back_packages``: their scripts find the configuration that they knew. Files that the scripts change are put
   back once more.
6. ``put_back_rest``: mounts, the network, values of the kernel, the firewall, databases; files once more, where other
   files are seen since; packages that failed, once more.
7. ``start``: the paths are proved, then services start.

Phase 1 is in ``first``, the proof in ``proof``, and the state that all phases share in ``record``. The file ``resume``
of the store (``wanted``), written before the first change, has a killed rollback carried out again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from ..._dataclasses import replace
from ..._errors import Damaged, EvenkeelError, Refused, RestoreFailed, ServiceFailed
from ..._files import transaction
from ..._files.preflight import NO_ROOM, preflight
from ..._files.staging import check_contents
from ..._files.step import DELETE
from ..._resources import registry
from ..._resources.kind import is_within
from ..._resources.registry import KINDS, locked, own_lines
from ..._results.change import RolledBack
from ..._services import outage
from ..._store.manifest import Manifest
from ..._store.objects import Hasher, Writer
from ..._store.store import UNDO
from . import access, accounts, alternatives, audit, credentials, plan, wanted
from .first import First
from .plan import Plan, Reading
from .proof import Proof


class Run(First, Proof):
    """A rollback, phase by phase."""

    def carry_out(self) -> RolledBack:
        """Go through all phases; the result as ``ft_rollback`` documents it.

        Raises Refused, UsageError or Damaged with nothing changed, and RestoreFailed, which names everything left.
        """
        try:
            with self._trying(registry.trees().name):
                self._beside_crowds()
            self._carry_out()
        except OSError as error:
            raise self._ended(RestoreFailed(f"the rollback to {self.manifest.name} stopped: {error}")) from error
        except EvenkeelError as error:
            raise self._ended(error)  # noqa: B904 - it is the same error
        except Exception as error:  # An unforeseen error is reported, and the rollback is tried again, as for others.
            words = f"the rollback to {self.manifest.name} stopped: {type(error).__name__}: {error}"
            raise self._ended(RestoreFailed(words)) from error
        result = self.result()
        if self._left and not self._plan.has_steps and not self.done and not self.how.unattended:
            words = "; ".join(self._left[:20])
            raise Refused(
                f"the differences from {self.manifest.name} cannot be put back; nothing was changed: {words}",
                **result.report(),
            )
        if self._left:
            self._forget_wanted(whole=False)
            number = f"{len(self._left)} {'thing is' if len(self._left) == 1 else 'things are'}"
            raise RestoreFailed(
                f"{self.manifest.name} is put back, but {number} not as recorded: {'; '.join(self._left[:20])}",
                **dict(result.report(), changed=bool(self.done)),
            )
        try:
            self._forget_wanted()
        except OSError as error:  # The rollback would be carried out again, over later changes.
            left = f"{wanted.path(self.store)}: it could not be removed durably: {error}"
            report = dict(result.report(), left=[left])
            raise RestoreFailed(f"{self.manifest.name} is put back, but {left}", **report) from error
        return result

    def predicted(self) -> RolledBack:
        """The result that ``carry_out`` would have, as far as it can be known beforehand. Changes nothing.

        Raises what ``carry_out`` would raise where there is no room, or where the store lacks a content.
        """
        made, hasher = self._plan, Hasher(self.store.objects)
        plan.add_state_and_steps(self.store, made, self.how, Reading(hasher, hasher, undo=False))
        left = preflight(made.files, made.directories, made.away, self.store.root)
        transaction.check_room(left)
        made.files = [step for step in made.files if step.target not in left]
        check_contents(self.store, made.files)
        plan.add_steps(self.store, made, self.how)
        self._plan = plan.stopped(made, self.how.quiesce)
        self._verify(self.store.missing)
        steps = self._plan.steps
        revealed = [path for kind in registry.of_steps(steps) for path in kind.reveals(steps)]
        away = [path for path in {**left, **made.away} if any(is_within(path, one) for one in revealed)]
        self._notes += [f"{path}: looked at again once another file system is mounted there" for path in away]
        self._left = [f"{what}: {why}" for what, why in {**made.left, **left}.items() if what not in away]
        for section in made.sections:
            if any(step.resource == section.kind for step in made.steps):
                self._left += KINDS[section.kind].obstacles(own_lines(section), self._circumstances())
        return self.result()

    def _ended(self, error: EvenkeelError) -> EvenkeelError:
        """The error with the work done so far. The rollback is not tried again unasked, unlike after a kill."""
        self._forget_wanted(whole=False)
        done = [*self.done, *error.result.get("done", [])]
        causes = [words for cause in self._causes.values() for words in cause]
        left = [*self._left, *causes, *error.result.get("left", [])]
        error.result = {**self.result().report(), **error.result, "done": done, "left": left, "changed": bool(done)}
        return error

    def _carry_out(self) -> None:
        writer, known = Writer(self.store.objects), accounts.read_homes()
        with transaction.Transaction(self.store, self._journal_note()) as paths:
            with ExitStack() as quiet:
                quiet.callback(writer.discard)
                if self.how.unattended and not self._before_access:
                    self.access()
                self.prepare(writer, paths)
                try:
                    if self._plan.has_steps:
                        quiet.enter_context(self._standing_still())
                        self.hold(writer, paths)
                        self.put_back_files(paths)
                        self.put_back_packages()
                        if any(KINDS[step.resource].reveals([step]) for step in self._plan.late):
                            paths.end()  # The traces lie on file systems that may be gone or read-only then.
                        self.put_back_rest()
                    self.start()
                except Exception:
                    self._bring_up()  # In every case, services that we took down have to start again.
                    raise
            if self._still.seconds:  # The programs that stood still run again, and may have changed something.
                self._put_back_what_programs_changed()
        self._prove_kinds()
        self._notes += [*accounts.orphaned(known), *accounts.bereft(known), *credentials.gone_back(self._changed)]
        with self._trying(registry.trees().name):
            self._notes += registry.stays(self._plan.sections)
        if self.how.unattended and self._started_programs() and not self._left:
            with self._trying(registry.trees().name):
                self.written = plan.written_since(self.store, self._plan.sections, self.how)
        self._need_restart(self._find_stale_programs(os.path.basename(paths.journal)))

    def prepare(self, writer: Writer, paths: transaction.Transaction) -> None:
        with locked(self._kinds(), self.store.system, self.how.unattended):
            self._compare(writer)
            self._stage(paths)
        plan.add_steps(self.store, self._plan, self._options_now())
        self._plan = plan.stopped(self._plan, self.how.quiesce)
        self._verify(self.store.verify)
        for what, why in self._plan.left.items():
            self._causes.setdefault(what, []).append(why)

    def _compare(self, writer: Writer) -> None:
        made, still = self._plan, Hasher(self.store.objects) if self.how.quiesce else writer
        try:
            plan.add_state_and_steps(self.store, made, self.how, Reading(writer, still, undo=self._keeps))
        except OSError as error:
            self._no_undo(error, writer)
            hasher = Hasher(self.store.objects)
            self._plan = Plan(made.manifest, made.sections)
            plan.add_state_and_steps(self.store, self._plan, self.how, Reading(hasher, hasher, undo=False))

    def _no_undo(self, error: OSError, writer: Writer) -> None:
        """Refuse an operator; a host that goes back by itself goes on without an undo, and with the room for it."""
        if not self.how.unattended:
            raise Refused(
                f"the present state cannot be kept in {self.store.root}: {error}; nothing was changed. "
                "Mend the cause, then run again"
            ) from error
        writer.discard()
        self._keeps = False
        self._notes.append(f"the replaced state is not kept: {error}")

    def _stage(self, paths: transaction.Transaction) -> None:
        """Stage the paths that can go back, and keep these alone in the plan."""
        try:
            self._staged(paths)
        except (OSError, EvenkeelError) as error:
            if not self.how.unattended:
                raise
            why = error.cause if isinstance(error, EvenkeelError) else str(error)
            self._note_causes({step.target: why for step in self._plan.files})
            self._plan.files = []  # No path can go back; everything else does.

    def _staged(self, paths: transaction.Transaction) -> None:
        made = self._plan
        left = paths.stage(made.files, made.directories, made.away, partly=self.how.unattended)
        if self.how.unattended and any(why.startswith(NO_ROOM) for why in left.values()):
            # New paths go first, and make room for the paths that were there.
            coming = [step for step in made.files if step.op == DELETE and step.target not in left]
            gone = self._commit(coming, [])
            made.files = [step for step in made.files if step.target not in gone]
            left = paths.stage(made.files, made.directories, made.away, partly=True)
        self._note_causes(left)
        made.files = [step for step in made.files if step.target not in left]

    def _verify(self, find_faults: Callable[[Manifest], dict[str, str]]) -> None:
        """Verify the contents that are not in the transaction of the files, which verifies its own (I3).
        ``find_faults``: gives the faults of a checkpoint's contents."""
        kinds = {step.resource for step in (*self._plan.early, *self._plan.late)}
        wrong = {}
        for section in self._plan.sections:
            if section.kind in kinds:
                only = replace(self.manifest, sections=[replace(section, lines=own_lines(section))])
                found = find_faults(only)
                wrong.update(found)
                if found and self.how.unattended:
                    self._causes[section.kind] = list(found.values())
        if wrong and not self.how.unattended:
            raise Damaged(
                f"the store cannot give back {len(wrong)} contents of {self.manifest.name}; nothing was changed. "
                f"Recover the checkpoint from a replica (ft_recover). {'; '.join(list(wrong.values())[:20])}"
            )

    def hold(self, writer: Writer, paths: transaction.Transaction) -> None:
        running = registry.programs()
        coming = outage.Down()
        with self._trying(running.name):
            mine = [step for step in self._plan.late if step.resource == running.name]
            coming = running.will_stop(mine, self._circumstances())
        if coming.names:
            self._down = self._down.and_then(coming)
            self._write_wanted(begun=False)  # Services that are down have to start again in every case.
            self._notes += outage.take_down(coming, self.store.system).left
        if self.how.quiesce or coming.names:
            self._compare_still_programs(writer, paths)
        if self._keeps:
            self._keep(writer)
        if self._arm is not None and self._undo:
            self.change = self._arm(self._undo)
        self._write_wanted()

    @contextmanager
    def _standing_still(self) -> Iterator[None]:
        """Raises ServiceFailed with nothing changed; programs that cannot be released are left."""
        self._still.__enter__()
        try:
            yield
        finally:
            try:
                self._still.__exit__(None, None, None)
            except ServiceFailed as error:
                self._left += error.result["left"]

    def _compare_still_programs(self, writer: Writer, paths: transaction.Transaction) -> None:
        """Where programs wrote something before they stood still, put that back as well, and keep it in the undo."""
        made = self._plan
        now = Plan(made.manifest, made.sections, early=made.early, late=made.late, spared=made.spared)
        sink = writer if self._keeps else Hasher(self.store.objects)
        with locked(self._kinds(), self.store.system, self.how.unattended):
            try:
                plan.add_state_and_steps(self.store, now, self.how, Reading(sink, sink, made.before, undo=self._keeps))
            except OSError as error:
                self._no_undo(error, writer)
                return
            self._plan = now
            self._stage(paths)

    def _keep(self, writer: Writer) -> None:
        """Take the undo: the present state, and for the paths that give access the state before they were put back."""
        before = self._plan.before
        for section, known in self._before_access:
            before = [access.with_former_part(one, section, known) for one in before]
        self._kept = before
        self._notes += [f"not in the undo: {one}" for one in self._plan.unkept]
        try:
            self._undo = self.store.commit(writer, UNDO, self.manifest.host, self._undo_of(before)).id
        except OSError as error:
            self._no_undo(error, writer)

    def put_back_files(self, paths: transaction.Transaction) -> None:
        self._precede_files()
        with self._trying(registry.trees().name), locked(self._kinds(), self.store.system, self.how.unattended):
            self._note_paths(self._plan.files, self._committed(paths))
        self._write_wanted()
        self._renew()

    def _renew(self) -> None:
        self._left += self._renewal.carry_out(self._changed, self._plan.sections, self.store.system)
        rules = audit.files_of(self._changed)
        if rules != self._rules and not self.how.boot:  # The boot loads them later.
            self._rules = rules
            left, notes = audit.load(self.store, self.manifest)
            self._left += left
            self._notes += [one for one in notes if one not in self._notes]

    def put_back_packages(self) -> None:
        if self._plan.early:
            for kind in registry.early():
                self._causes.pop(kind, None)
                self._put_back(kind, self._plan.sections)
            self._repeat_files()

    def _repeat_files(self) -> None:
        """Put back once more the paths that something else has written to, or that are seen only now."""
        now, hasher = Plan(self.manifest, self._plan.sections), Hasher(self.store.objects)
        with self._trying(registry.trees().name), locked(self._kinds(), self.store.system, unattended=True):
            reading = Reading(hasher, hasher, undo=False)
            plan.add_state_and_steps(self.store, now, replace(self.how, swap=False), reading)
            self._commit(now.files, now.directories, now.away)

    def put_back_rest(self) -> None:
        if self.how.quiesce:
            self._still.hand_over(plan.recorded_down(self._plan.sections))
        for kind in registry.late():
            if kind == registry.programs().name:
                continue
            if self._put_back(kind, self._plan.sections) and KINDS[kind].changes_files:
                self._repeat_files()
        if any(kind in self._causes for kind in registry.early()):
            self.put_back_packages()  # A script may have needed state that is back only now.

    def start(self) -> None:
        """Prove the paths, then start services: a file that a service writes as it starts is no difference."""
        self._prove_paths()
        manual = alternatives.manual(self._changed, self._plan.sections)
        self._notes += [one for one in manual if one not in self._notes]
        self._renew()
        if not self._plan.has_steps and not self._down.names:
            return
        running = registry.programs().name
        with self._trying(running):
            self._clear_traces()
        self._put_back(running, self._plan.sections)
        self._bring_up()
        if self._started_programs():
            self._put_back_what_programs_changed()

    def _started_programs(self) -> bool:
        return any(step["resource"] == registry.programs().name for step in self.done)

    def _clear_traces(self) -> None:
        sections = self._plan.sections
        steps = plan.steps_of(registry.programs(), sections, self._circumstances()) if not self.how.boot else []
        if self._down.names or any(step.action in ("start", "restart") for step in steps):
            gone = plan.clear_traces(self.store, sections)
            self._notes += [f"{path} was removed: its program does not run any more" for path in gone]

    def _bring_up(self) -> None:
        """Start the services that we took down. Undeclared services that do not start are left."""
        if not self._down.names:
            return
        kind = registry.programs()
        with self._trying(kind.name):
            started, left = kind.start_stopped(self._down, self._circumstances())
            self._note_steps(started)
            mine = [section for section in self._plan.sections if section.kind == kind.name]
            declared = {one for section in mine for one in kind.programs(own_lines(section))}
            # Declared services are proved later, and named then.
            self._left += [f"{one}: {why}" for one, why in left.items() if one not in declared]
            self._causes.setdefault(kind.name, []).extend(why for one, why in left.items() if one in declared)
            self._down = self._down.only(left)

    def _put_back_what_programs_changed(self) -> None:
        """Put back values of the kernel and rules of the firewall that a service may have set as it started."""
        for name in KINDS.where("changed_by_programs"):
            self._causes.pop(name, None)
            self._put_back(name, self._plan.sections)
