# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A rollback as it is carried out, phase by phase. Kinds, and paths, go back independently: what fails is named, and
holds up nothing but itself.

1. ``access`` (of a host that goes back by itself): the firewall, accounts, sshd and the network.
2. ``prepare``: look, stage, verify, plan. Until here nothing has changed, and whoever asked for it may be refused.
3. ``hold``: what has to be restarted stops, and what the undo wants is read while it stands still.
4. ``put_back_files``: one journalled transaction.
5. ``put_back_packages``: their scripts find the configuration that they knew; what they change in files is put back
   once more.
6. ``put_back_rest``: values of the kernel, the firewall, databases; packages that failed, once more.
7. ``start``: the paths are proved, then services start.

A file ``resume`` in the store, written before the first change, has a killed rollback carried out again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from typing import Any

from ..._deadman.changes import Armed
from ..._errors import Damaged, EvenkeelError, Refused, RestoreFailed, ServiceFailed
from ..._files import anchors, transaction
from ..._files.entry import Entry
from ..._files.preflight import NO_ROOM, preflight
from ..._files.step import DELETE, FILES, PathStep, Step
from ..._host.durable import remove_file, write_file
from ..._host.trust import trusted
from ..._resources import files, registry
from ..._resources.kind import Restore
from ..._resources.registry import KINDS, locked, own_lines
from ..._services import outage, quiescing
from ..._services.holders import holders
from ..._store.manifest import Manifest, Section
from ..._store.objects import Hasher, Writer
from ..._store.store import UNDO, Store
from . import access, apart, plan
from .plan import Options, Plan

# Programs and libraries lie here; those that a package has replaced are known by their place.
_PROGRAMS = (b"/usr/", b"/opt/", b"/lib", b"/bin/", b"/sbin/")
# All may look as recorded, and be gone with the power (I7).
_NOT_DURABLE = f"{FILES}: what was put back may not be durable"
# Seconds for a look at who still works with what was replaced: users can have millions of files open.
_LOOK = 10.0


class Run:
    """One rollback, under the lock of its store. ``arm``: arms the dead-man with the undo as its target. ``written``:
    what services have written as they started again, path -> its line."""

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
        self._down = outage.Down(**how.down)
        self._first: list[tuple[Section, Section]] = []
        self._is_part = False
        self._restart_needed: list[dict[str, Any]] = []
        self._still = quiescing.Quiesced(how.quiesce, store.system, "nothing was changed")
        if not how.insist:  # It was asked then, when a run was interrupted.
            plan.check_declared(manifest)
        plan.check_paths(manifest, how.paths)
        self._made = Plan(manifest, plan.chosen(manifest, how.kinds))

    def carry_out(self) -> dict[str, Any]:
        """All phases; the result as ``ft_rollback`` documents it.

        Raises Refused, UsageError or Damaged with nothing changed, and RestoreFailed with what is left.
        """
        try:
            with self._trying(FILES):
                self._roots_own()
            self._carry_out()
        except OSError as error:
            raise self._ended(RestoreFailed(f"the rollback to {self.manifest.name} stopped: {error}")) from error
        except EvenkeelError as error:
            raise self._ended(error)  # noqa: B904 - it is the same one
        except Exception as error:  # What nobody thought of is told, and tried again like all else.
            words = f"the rollback to {self.manifest.name} stopped: {type(error).__name__}: {error}"
            raise self._ended(RestoreFailed(words)) from error
        result = self.result()
        if self._left and not self._made.steps and not self.done and not self.how.insist:
            words = "; ".join(self._left[:20])
            raise Refused(
                f"what differs from {self.manifest.name} cannot be put back; nothing was changed: {words}", **result
            )
        if self._left:
            self._forget(whole=False)
            number = f"{len(self._left)} {'thing is' if len(self._left) == 1 else 'things are'}"
            raise RestoreFailed(
                f"{self.manifest.name} is put back, but {number} not as recorded: {'; '.join(self._left[:20])}",
                **dict(result, changed=bool(self.done)),
            )
        try:
            self._forget()
        except OSError as error:  # It would be carried out once more, over what comes later.
            left = f"{resume_path(self.store)}: it could not be removed durably: {error}"
            raise RestoreFailed(f"{self.manifest.name} is put back, but {left}", **dict(result, left=[left])) from error
        return result

    def predicted(self) -> dict[str, Any]:
        """The result that ``carry_out`` would have, as far as it can be known beforehand. Changes nothing."""
        made, hasher = self._made, Hasher(self.store.objects)
        plan.look(self.store, made, self.how, hasher, hasher, undo=False)
        left = preflight(made.files, made.directories, made.away)
        made.files = [step for step in made.files if step.target not in left]
        plan.add_steps(self.store, made, self.how)
        self._made = plan.stopped(made, self.how.quiesce)
        self._left = [f"{what}: {why}" for what, why in {**made.left, **left}.items()]
        for section in made.sections:
            if any(step.resource == section.kind for step in made.steps):
                self._left += KINDS[section.kind].obstacles(own_lines(section), self._at())
        return self.result()

    def _ended(self, error: EvenkeelError) -> EvenkeelError:
        """The error with what was done so far. It will be reported, and is not tried again unasked; a kill is."""
        self._forget(whole=False)
        done = [*self.done, *error.result.get("done", [])]
        causes = [words for cause in self._causes.values() for words in cause]
        left = [*self._left, *causes, *error.result.get("left", [])]
        error.result = {**self.result(), **error.result, "done": done, "left": left, "changed": bool(done)}
        return error

    def _carry_out(self) -> None:
        writer = Writer(self.store.objects)
        with transaction.Transaction(self.store, self._note()) as paths:
            with ExitStack() as quiet:
                quiet.callback(writer.discard)
                if self.how.insist and not self._first:
                    self.access()
                self.prepare(writer, paths)
                try:
                    if self._made.steps:
                        quiet.enter_context(self._standing_still())
                        self.hold(writer, paths)
                        self.put_back_files(paths)
                        self.put_back_packages()
                        self.put_back_rest()
                    self.start()
                except Exception:
                    self._bring_up()  # Whatever ends this, nothing that we took down stays so.
                    raise
            if self._still.seconds:  # What it held has started again, a service perhaps.
                self._once_more()
        self._prove_kinds()
        if self.how.insist and self._started_programs() and not self._left:
            with self._trying(FILES):
                self.written = plan.written_since(self.store, self._made.sections, self.how)
        self._restart_needed += self._holders(os.path.basename(paths.journal))

    # -- the phases

    def _roots_own(self) -> None:
        """Where a user has filled a directory since, a whole rollback of all else comes first (see ``apart``)."""
        if not self.how.insist or self.how.kinds or self.how.paths:
            return
        sections = self._made.sections
        theirs = [apart.Theirs(section, trusted()) for section in sections]
        if not any(map(apart.is_crowd, sections, theirs)):
            return
        parts = list(map(apart.without, sections, theirs))
        manifest = replace(self.manifest, sections=[part for part in parts if part is not None])
        first = Run(self.store, manifest, self.how)
        first._is_part = True
        try:
            first._carry_out()
        except Exception as error:  # The whole, which follows, tells what is left.
            self._changed = first._changed
            self.done += error.result.get("done", []) if isinstance(error, EvenkeelError) else []
        self.done = first.done + self.done
        # Of what was left then, all but this is measured again.
        self._left += [one for one in first._left if one.startswith(_NOT_DURABLE)]
        self._down = first._down
        self._restart_needed = first._restart_needed
        self._notes += [
            *first._notes,
            "users have filled directories of theirs since the checkpoint, so all else came first",
        ]
        if first._undo and self._keeps:
            for known in self.store.manifest(first._undo).sections:
                for section, part in zip(sections, parts):
                    if part is not None and access.is_of(known, part):
                        self._first.append((section, known))

    def access(self) -> None:
        """Put back what lets people log in. What fails here is tried again with the rest."""
        writer = Writer(self.store.objects)
        parts = [one for one in map(access.own_part, self._made.sections) if one is not None]
        running = registry.programs().name
        first = [part for part in parts if part.kind != running]
        try:
            for section in self._made.sections:
                # No room, or no nft: it has no undo, and goes back all the same.
                if any(part.kind == section.kind for part in first):
                    with suppress(OSError, EvenkeelError):
                        lines = KINDS[section.kind].capture(section.spec, writer, self.store.system)
                        self._first.append((section, replace(section, lines=lines)))
            for kind in dict.fromkeys(part.kind for part in first):
                self._put_back(kind, first)
            locks = [name for name, kind in KINDS.items() if kind.lock_guards_access]
            with self._trying(FILES), locked(locks, self.store.system, unattended=True):
                self._access_files(writer)
        finally:
            writer.discard()
        if not self.how.boot:
            self._put_back(running, parts)
        self._causes.clear()

    def _access_files(self, writer: Writer) -> None:
        skip = [os.path.realpath(self.store.root)]
        plans = []
        for section in self._made.sections:
            narrow = access.narrowed(section)
            with self._trying(section.kind):
                if narrow is None:
                    continue
                scan = files.scan(narrow.spec, Hasher(), skip, tolerant=True)
                then = plan.entries(narrow, narrow.spec, scan)
                steps = [step for step in files.compare(then, scan) if self.how.wants(step.target)]
                if steps:
                    plans.append((section, narrow, steps, files.directories(then, steps)))
        try:
            for section, narrow, _steps, _directories in plans:
                lines = files.scan(narrow.spec, writer, skip, tolerant=True, cached=False).lines()
                self._first.append((section, replace(narrow, lines=lines)))
            if self._first and self._keeps:
                self.store.commit(writer, UNDO, self.manifest.host, [known for _section, known in self._first])
        except (OSError, EvenkeelError):  # No room, perhaps: then there is no undo of this.
            self._first.clear()
        for _section, _narrow, steps, directories in plans:
            self._ask()
            self._commit(steps, directories)

    def prepare(self, writer: Writer, paths: transaction.Transaction) -> None:
        with locked(self._kinds(), self.store.system, self.how.insist):
            self._look(writer)
            self._stage(paths)
        plan.add_steps(self.store, self._made, self._how())
        self._made = plan.stopped(self._made, self.how.quiesce)
        self._verify()
        for what, why in self._made.left.items():
            self._causes.setdefault(what, []).append(why)

    def _look(self, writer: Writer) -> None:
        made, still = self._made, Hasher(self.store.objects) if self.how.quiesce else writer
        try:
            plan.look(self.store, made, self.how, writer, still, undo=self._keeps)
        except OSError as error:
            self._no_undo(error)
            writer.discard()
            hasher = Hasher(self.store.objects)
            self._made = Plan(made.manifest, made.sections)
            plan.look(self.store, self._made, self.how, hasher, hasher, undo=False)

    def _no_undo(self, error: OSError) -> None:
        """Whoever asked for a rollback is refused; a host that goes back by itself does so without an undo."""
        if not self.how.insist:
            raise Refused(
                f"what is there now cannot be kept in {self.store.root}: {error}; nothing was changed. "
                "Mend the cause, then run again"
            ) from error
        self._keeps = False
        self._notes.append(f"what was replaced is not kept: {error}")

    def _stage(self, paths: transaction.Transaction) -> None:
        """Make ready what can go back, and keep that alone in the plan."""
        try:
            self._staged(paths)
        except (OSError, EvenkeelError) as error:
            if not self.how.insist:
                raise
            why = error.cause if isinstance(error, EvenkeelError) else str(error)
            self._cause({step.target: why for step in self._made.files})
            self._made.files = []  # No path can; all the rest goes back.

    def _staged(self, paths: transaction.Transaction) -> None:
        made = self._made
        left = paths.stage(made.files, made.directories, made.away, partly=self.how.insist)
        if self.how.insist and any(why.startswith(NO_ROOM) for why in left.values()):
            # What came since goes first, and makes room for what was.
            coming = [step for step in made.files if step.op == DELETE and step.target not in left]
            gone = self._commit(coming, [])
            made.files = [step for step in made.files if step.target not in gone]
            left = paths.stage(made.files, made.directories, made.away, partly=True)
        self._cause(left)
        made.files = [step for step in made.files if step.target not in left]

    def _verify(self) -> None:
        """The contents that are not in the transaction of the files, which verifies its own (I3)."""
        kinds = {step.resource for step in (*self._made.early, *self._made.late)}
        wrong = {}
        for section in self._made.sections:
            if section.kind in kinds:
                only = replace(self.manifest, sections=[replace(section, lines=own_lines(section))])
                found = self.store.verify(only)
                wrong.update(found)
                if found and self.how.insist:
                    self._causes[section.kind] = list(found.values())
        if wrong and not self.how.insist:
            raise Damaged(
                f"the store cannot give back {len(wrong)} contents of {self.manifest.name}; nothing was changed. "
                f"Recover the checkpoint from a replica (ft_recover). {'; '.join(list(wrong.values())[:20])}"
            )

    def hold(self, writer: Writer, paths: transaction.Transaction) -> None:
        running = registry.programs()
        coming = outage.Down()
        with self._trying(running.name):
            coming = running.will_stop([step for step in self._made.late if step.resource == running.name], self._at())
        if coming.names:
            self._down = self._down.and_then(coming)
            self._ask(begun=False)  # What is down has to come up again, whatever happens.
            self._notes += outage.take_down(coming, self.store.system).left
        if self.how.quiesce or coming.names:
            self._look_again(writer, paths)
        if self._keeps:
            self._keep(writer)
        if self._arm is not None and self._undo:
            self.change = self._arm(self._undo)
        self._ask()

    @contextmanager
    def _standing_still(self) -> Iterator[None]:
        """Raises ServiceFailed with nothing changed; what cannot be let go again is left."""
        self._still.__enter__()
        try:
            yield
        finally:
            try:
                self._still.__exit__(None, None, None)
            except ServiceFailed as error:
                self._left += error.result["left"]

    def _look_again(self, writer: Writer, paths: transaction.Transaction) -> None:
        """Where something was written before all stood still, put that back as well, and have it in the undo."""
        made = self._made
        now = Plan(made.manifest, made.sections, early=made.early, late=made.late, spared=made.spared)
        sink = writer if self._keeps else Hasher(self.store.objects)
        with locked(self._kinds(), self.store.system, self.how.insist):
            try:
                plan.look(self.store, now, self.how, sink, sink, made.before, undo=self._keeps)
            except OSError as error:
                self._no_undo(error)
                return
            self._made = now
            self._stage(paths)

    def _keep(self, writer: Writer) -> None:
        """Take the undo: what is there now, and at what gives access what was there before."""
        before = self._made.before
        for section, known in self._first:
            before = [access.as_it_was(one, section, known) for one in before]
        self._notes += [f"not in the undo: {one}" for one in self._made.unkept]
        try:
            self._undo = self.store.commit(writer, UNDO, self.manifest.host, before).id
        except OSError as error:
            self._no_undo(error)

    def put_back_files(self, paths: transaction.Transaction) -> None:
        with self._trying(FILES), locked(self._kinds(), self.store.system, self.how.insist):
            self._take(self._made.files, self._committed(paths))
        self._ask()

    def put_back_packages(self) -> None:
        if self._made.early:
            for kind in registry.early():
                self._causes.pop(kind, None)
                self._put_back(kind, self._made.sections)
            self._files_again()

    def _files_again(self) -> None:
        """What the scripts of packages have written to paths that were put back already."""
        now, hasher = Plan(self.manifest, self._made.sections), Hasher(self.store.objects)
        with self._trying(FILES), locked(self._kinds(), self.store.system, unattended=True):
            plan.look(self.store, now, replace(self.how, swap=False), hasher, hasher, undo=False)
            self._commit(now.files, now.directories, now.away)

    def put_back_rest(self) -> None:
        if self.how.quiesce:
            self._still.hand_over(plan.recorded_down(self._made.sections))
        for kind in registry.late():
            if kind != registry.programs().name:
                self._put_back(kind, self._made.sections)
        if any(kind in self._causes for kind in registry.early()):
            self.put_back_packages()  # A script may have needed what is back only now.

    def start(self) -> None:
        """What a service writes as it starts is no difference: paths are proved before."""
        self._prove_paths()
        if not self._made.steps and not self._down.names:
            return
        running = registry.programs().name
        with self._trying(running):
            self._clear_traces()
        self._put_back(running, self._made.sections)
        self._bring_up()
        if self._started_programs():
            self._once_more()

    def _started_programs(self) -> bool:
        return any(step["resource"] == registry.programs().name for step in self.done)

    def _clear_traces(self) -> None:
        sections = self._made.sections
        steps = plan.steps_of(registry.programs(), sections, self._at()) if not self.how.boot else []
        if self._down.names or any(step.action in ("start", "restart") for step in steps):
            gone = plan.clear_traces(self.store, sections)
            self._notes += [f"{path} was taken away: whose it was does not run any more" for path in gone]

    def _bring_up(self) -> None:
        """Start what we took down. What is none of the checkpoint's, and was up, is left where it does not start."""
        if not self._down.names:
            return
        kind = registry.programs()
        with self._trying(kind.name):
            started, left = kind.start_again(self._down, self._at())
            self._add(started)
            mine = [section for section in self._made.sections if section.kind == kind.name]
            declared = {one for section in mine for one in kind.programs(own_lines(section))}
            # What is declared is proved, and named then.
            self._left += [f"{one}: {why}" for one, why in left.items() if one not in declared]
            self._causes.setdefault(kind.name, []).extend(why for one, why in left.items() if one in declared)
            self._down = self._down.only(left)

    def _once_more(self) -> None:
        """A service may set values of the kernel and rules of the firewall of its own as it starts."""
        for name, kind in KINDS.items():
            if kind.changed_by_programs:
                self._causes.pop(name, None)
                self._put_back(name, self._made.sections)

    # -- the proof

    def _prove_paths(self) -> None:
        self._proved, wrong = plan.prove_files(self.store, self._made.sections, self.how)
        for path in sorted(wrong):
            above = path.rpartition("/")[0]
            # What lies in a directory that is not back needs no word of its own.
            if above in wrong and above in self._causes:
                continue
            why = "; ".join(self._causes.get(path, [wrong[path]]))
            self._left.append(why if why.startswith(path) else f"{path}: {why}")

    def _prove_kinds(self) -> None:
        for section in self._made.sections:
            if own_lines(section):
                proved, wrong = plan.prove_kind(self.store, section, self.how.boot)
                self._proved += proved
                causes = self._causes.get(section.kind, [])
                told = [one for one in wrong if not any(one.partition(" ")[0] in cause for cause in causes)]
                effect = bool(causes) and (bool(wrong) or self._is_due(section))
                self._left += dict.fromkeys([*(causes if effect else []), *told])

    def _is_due(self, section: Section) -> bool:
        """Whether something of what failed is still to be done, or that cannot be measured yet."""
        if self.how.boot and section.kind in registry.late():
            return True
        try:
            at = plan.restore(self.store, self.manifest, self.how, ())
            return bool(plan.steps_of(KINDS[section.kind], [section], at))
        except (EvenkeelError, OSError):
            return True

    # -- what the phases share

    @contextmanager
    def _trying(self, what: str) -> Iterator[None]:
        """What fails is noted as the cause, should ``what`` turn out not to be as recorded."""
        try:
            yield
        except EvenkeelError as error:
            self.done += error.result.get("done", [])
            self._causes.setdefault(what, []).extend(error.result.get("left") or [error.cause])
        except OSError as error:
            self._causes.setdefault(what, []).append(str(error))
        except Exception as error:  # One kind that nobody thought of keeps no other one back.
            self._causes.setdefault(what, []).append(f"{what}: {type(error).__name__}: {error}")

    def _put_back(self, kind: str, sections: Sequence[Section]) -> None:
        """One kind, as far as it can be."""
        with self._trying(kind):
            at = self._at()
            steps = plan.steps_of(KINDS[kind], sections, at)
            if steps:
                self._ask()
                self._add(KINDS[kind].apply(steps, at))

    def _commit(
        self, steps: Sequence[PathStep], directories: Sequence[Entry], away: dict[str, str] | None = None
    ) -> list[str]:
        """Put back some paths by a transaction of their own; those that were."""
        with transaction.Transaction(self.store, self._note()) as paths:
            self._cause(paths.stage(steps, directories, away, partly=True))
            finished = self._committed(paths)
            self._take(steps, finished)
        return finished.paths

    def _committed(self, paths: transaction.Transaction) -> transaction.Finished:
        try:
            return paths.commit()
        except OSError as error:
            self._left.append(f"{_NOT_DURABLE}: {error}")
            raise

    def _take(self, steps: Sequence[PathStep], finished: transaction.Finished) -> None:
        self._cause(finished.left)
        back = set(finished.paths)
        known = set(self._changed)
        self._changed += [path for path in finished.paths if path not in known]
        self._add([step.reported() for step in steps if step.target in back])

    def _cause(self, left: dict[str, str]) -> None:
        self._causes.update({path: [why] for path, why in left.items()})

    def _add(self, steps: Sequence[Step]) -> None:
        """Note what was done. Of what was taken down before, a start is the second half of a restart."""
        running = registry.programs().name
        restarts = {one.target: one for one in self._made.late if (one.resource, one.action) == (running, "restart")}
        for step in steps:
            self.done.append((restarts.get(step.target, step) if step.action == "start" else step).shown())
            if step.resource != FILES:
                self._others.append(step)
            if "note" in step.detail:
                self._notes.append(str(step.detail["note"]))

    def _kinds(self) -> list[str]:
        return [section.kind for section in self._made.sections]

    def _how(self) -> Options:
        return replace(self.how, changed=self._changed)

    def _at(self) -> Restore:
        return replace(plan.restore(self.store, self.manifest, self.how, self._changed), steps=self._others)

    def _note(self) -> dict[str, Any]:
        """What a journal says that it is for."""
        return {"checkpoint": self.manifest.id, "kinds": self.how.kinds, "held": self._kinds()}

    def _ask(self, begun: bool = True) -> None:
        """From here on a kill is followed by the whole rollback, or, before it has ``begun``, by a start of what is
        down."""
        wanted = {"checkpoint": self.manifest.id, "kinds": self.how.kinds, "paths": list(self.how.paths)}
        # The undo of a part is not one of the whole: who carries on after a kill takes another beside it.
        undo = "" if self._is_part else self._undo
        so_far = {"undo": undo, "changed": self._changed, "down": asdict(self._down)}
        try:
            write_file(resume_path(self.store), json.dumps({**wanted, **so_far, "begun": begun}).encode())
        except OSError:
            if not self.how.insist:  # Its change is armed, and asks for the same.
                raise

    def _forget(self, whole: bool = True) -> None:
        """It is reported, and not tried again unasked. A host that goes back by itself does, and keeps the undo."""
        if self.how.insist and (self._undo or self._down.names) and not whole:
            self._changed = []
            self._ask()
            return
        with nullcontext() if whole else suppress(OSError):
            remove_file(resume_path(self.store))

    def _holders(self, journal: str) -> list[dict[str, Any]]:
        """Who still works with what was replaced."""
        exchanged = {tree: lost for kind in KINDS.values() for tree, lost in kind.exchanged(self._others).items()}
        programs = any(KINDS[step.resource].installs for step in self._others)
        if not self._changed and not exchanged and not programs:
            return []
        was = _was(journal, [step.target for step in self._made.files], programs)
        end = self.store.system.monotonic() + _LOOK

        def goes_on() -> bool:
            return self.store.system.monotonic() < end

        def moved(shown: bytes) -> bytes | None:
            former = (kind.former_path(shown, exchanged) for kind in KINDS.values() if kind.exchanges_trees)
            return next((path for path in former if path is not None), None)

        found = holders(was, moved, exchanged, goes_on=goes_on)
        if not goes_on():
            self._notes.append(f"restart_needed is not whole: in {_LOOK:.0f} s not all open files could be looked at")
        return found

    def result(self) -> dict[str, Any]:
        made = self._made
        return {
            "changed": bool(made.steps) or bool(self.done),
            "id": self.manifest.id,
            "undo": self._undo,
            "pause": round(self._still.seconds, 3),
            "generation": self.change.generation if self.change else None,
            "armed": self.change.shown() if self.change else None,
            "planned": [step.shown() for step in made.steps],
            "done": self.done,
            "proved": self._proved,
            "left": self._left,
            "notes": self._notes,
            "restart_needed": self._restart_needed,
            "diff": made.diff,
        }


def resume_path(store: Store) -> str:
    """The file that asks for an interrupted rollback to be carried out."""
    return store.join("resume")


def _was(journal: str, paths: Sequence[str], programs: bool) -> Callable[[bytes], bytes | None]:
    """For the name under which a file was removed, the path that it had; None for all but those that this rollback
    replaced: by its journal, or (``programs``) by packages."""
    replaced = {os.fsencode(path) for path in paths}
    staged = {name: os.fsencode(path) for at, path in enumerate(paths) for name in (b"%d" % at, b"%d.old" % at)}
    stage = os.fsencode(f"/{anchors.STAGE}{journal}/")

    def was(path: bytes) -> bytes | None:
        if path in replaced or (programs and path.startswith(_PROGRAMS)):
            return path
        _above, found, rest = path.partition(stage)
        number, slash, below = rest.partition(b"/")
        return staged[number] + slash + below if found and number in staged else None

    return was
