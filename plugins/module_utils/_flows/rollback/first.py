# SPDX-License-Identifier: GPL-3.0-or-later

"""The parts of a rollback that wait for nothing else: the way in for people, and everything beside a directory that a
user has filled.
"""

from __future__ import annotations

from contextlib import suppress

from ..._dataclasses import replace
from ..._errors import EvenkeelError
from ..._files import comparison
from ..._host.trust import trusted
from ..._resources import files, ours, registry
from ..._resources.registry import KINDS, locked
from ..._store.objects import Hasher, Writer
from ..._store.store import UNDO
from . import access, apart, plan
from .record import NOT_DURABLE, Record


class First(Record):
    """The first phases of a host that goes back by itself."""

    def _beside_crowds(self) -> None:
        """Where a user has filled a directory since, first roll back everything else (see ``apart``)."""
        if not self.how.unattended or self.how.kinds or self.how.paths:
            return
        sections = self._plan.sections
        theirs = [apart.Theirs(section, trusted()) for section in sections]
        if not any(map(apart.is_crowd, sections, theirs)):
            return
        parts = list(map(apart.without, sections, theirs))
        manifest = replace(self.manifest, sections=[part for part in parts if part is not None])
        first = type(self)(self.store, manifest, self.how)
        first._is_part = True
        try:
            first._carry_out()
        except Exception as error:  # The whole rollback, which follows, names everything that is left.
            self._changed = first._changed
            self.done += error.result.get("done", []) if isinstance(error, EvenkeelError) else []
        self.done = first.done + self.done
        # The whole rollback measures everything else again that was left.
        self._left += [one for one in first._left if NOT_DURABLE in one]
        self._down, self._undone = first._down, first._undone
        self._restart_needed = first._restart_needed
        self._notes += [
            *first._notes,
            "users have filled directories of theirs since the checkpoint, so all else came first",
        ]
        if first._undo and self._keeps:
            self._unread |= first._unread | first._plan.unread
            for known in first._kept:
                for section, part in zip(sections, parts):
                    if part is not None and access.is_of(known, part):
                        self._before_access.append((section, known))

    def access(self) -> None:
        """Put back everything that lets people log in. A failure is tried again with the rest."""
        writer = Writer(self.store.objects)
        parts = [one for one in map(access.own_part, self._plan.sections) if one is not None]
        running = registry.programs().name
        first = [part for part in parts if part.kind != running]
        try:
            for section in self._plan.sections:
                # No room, or no nft: it has no undo, and goes back all the same.
                if any(part.kind == section.kind for part in first):
                    with suppress(OSError, EvenkeelError):
                        lines = KINDS[section.kind].capture(section.spec, writer, self.store.system)
                        self._before_access.append((section, access.own_alone(section, lines)))
            self._precede_files()
            kinds = dict.fromkeys(part.kind for part in first)
            for kind in (one for one in kinds if not KINDS[one].applies_files):
                self._put_back(kind, first)
            with (
                self._trying(registry.trees().name),
                locked(KINDS.where("lock_guards_access"), self.store.system, unattended=True),
            ):
                self._access_files(writer)
            for kind in (one for one in kinds if KINDS[one].applies_files):
                self._put_back(kind, first)
        finally:
            writer.discard()
        if not self.how.boot:
            self._put_back(running, parts)
        self._causes.clear()

    def _access_files(self, writer: Writer) -> None:
        skip = ours.paths(self.store.root)
        plans = []
        for section in self._plan.sections:
            narrow = access.narrowed(section)
            with self._trying(section.kind):
                if narrow is None:
                    continue
                scan = files.scan(narrow.spec, Hasher(), skip, tolerant=True, then=narrow.lines)
                then = plan.entries(narrow, narrow.spec, scan)
                steps = plan.requested(comparison.compare(then, scan), self.how)
                if steps:
                    plans.append((section, narrow, steps, comparison.directories(then, steps)))
        try:
            for section, narrow, _steps, _directories in plans:
                found = files.scan(narrow.spec, writer, skip, tolerant=True, cached=False, then=narrow.lines)
                self._unread.update(found.unread)
                self._before_access.append((section, replace(narrow, lines=found.lines())))
            if self._before_access and self._keeps:
                known = self._undo_of([known for _section, known in self._before_access])
                self.store.commit(writer, UNDO, self.manifest.host, known)
        except (OSError, EvenkeelError):  # No room, perhaps: then there is no undo of this.
            self._before_access.clear()
        for _section, _narrow, steps, directories in plans:
            self._write_wanted()
            self._commit(steps, directories)
