# SPDX-License-Identifier: GPL-3.0-or-later

"""The proof of a rollback: everything is measured once more, and a difference is named with its cause."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from ..._errors import EvenkeelError
from ..._files import declaration
from ..._resources import registry
from ..._resources.registry import KINDS, own_lines
from ..._results.change import Holder
from ..._services.holders import holders
from ..._store.manifest import Section
from . import plan
from .record import Record

# Programs and libraries lie here. If a package has replaced them, their place tells.
_PROGRAMS = (b"/usr/", b"/opt/", b"/lib", b"/bin/", b"/sbin/")
# Seconds for a look at the programs that still use replaced files: users can have millions of files open.
_LOOK = 10.0
# The number of processes that a note names.
_NAMED = 5


class Proof(Record):
    """The measurements at the end of a rollback."""

    def _prove_paths(self) -> None:
        self._proved, wrong = plan.prove_files(self.store, self._plan.sections, self.how)
        for path in sorted(wrong):
            above = path.rpartition("/")[0]
            # A path in a directory that did not come back is not named by itself.
            if above in wrong and above in self._causes:
                continue
            why = "; ".join(self._causes.get(path, [wrong[path]]))
            self._left.append(why if why.startswith(path) else f"{path}: {why}")

    def _prove_kinds(self) -> None:
        for section in self._plan.sections:
            if own_lines(section):
                proved, wrong = plan.prove_kind(self.store, section, self.how.boot)
                self._proved += proved
                causes = self._causes.get(section.kind, [])
                told = [one for one in wrong if not any(one.partition(" ")[0] in cause for cause in causes)]
                effect = bool(causes) and (bool(wrong) or self._is_due(section))
                self._left += dict.fromkeys([*(causes if effect else []), *told])

    def _is_due(self, section: Section) -> bool:
        """Whether a failed part of the section is still to be done, or cannot be measured yet."""
        if self.how.boot and section.kind in registry.late():
            return True
        try:
            at = plan.restore(self.store, self.manifest, self.how, ())._replace(undone=self._undone)
            return bool(plan.steps_of(KINDS[section.kind], [section], at))
        except (EvenkeelError, OSError):
            return True

    def _find_stale_programs(self, journal: str) -> list[Holder]:
        """Programs that still work with files that were replaced."""
        kinds = registry.of_steps(self._others)
        exchanged = {tree: users for kind in kinds for tree, users in kind.exchanged(self._others).items()}
        programs = any(KINDS[step.resource].installs for step in self._others)
        if not self._changed and not exchanged and not programs:
            return []
        replaced = _former_paths(journal, [step.target for step in self._plan.files], programs)
        end = self.store.system.monotonic() + _LOOK

        def goes_on() -> bool:
            return self.store.system.monotonic() < end

        def moved(shown: bytes) -> bytes | None:
            former = (kind.former_path(shown, exchanged) for kind in kinds if kind.exchanges_trees)
            return next((path for path in former if path is not None), None)

        skipped: list[str] = []
        found = holders(replaced, moved, exchanged, goes_on=goes_on, skip=skipped.append)
        if skipped:
            some = ", ".join(skipped[:_NAMED]) + (f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else "")
            self._notes.append(f"restart_needed is not whole: {some} hold up whoever reads what they have mapped")
        if not goes_on():
            self._notes.append(f"restart_needed is not whole: in {_LOOK:.0f} s not all open files could be looked at")
        return found


def _former_paths(journal: str, paths: Sequence[str], programs: bool) -> Callable[[bytes], bytes | None]:
    """A function that gives the original path for the name under which a file was removed. It gives None for files that
    this rollback did not replace, by its journal or (``programs``) by packages."""
    replaced = {os.fsencode(path) for path in paths}
    staged = {name: os.fsencode(path) for at, path in enumerate(paths) for name in (b"%d" % at, b"%d.old" % at)}
    stage = os.fsencode(f"/{declaration.STAGE}{journal}/")

    def former_path(path: bytes) -> bytes | None:
        if path in replaced or (programs and path.startswith(_PROGRAMS)):
            return path
        _above, found, rest = path.partition(stage)
        number, slash, below = rest.partition(b"/")
        return staged[number] + slash + below if found and number in staged else None

    return former_path
