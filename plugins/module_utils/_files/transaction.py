# SPDX-License-Identifier: GPL-3.0-or-later

"""Changing a set of paths so that a kill or a power cut leaves all of them old, or all of them new.

1. Everything new is staged, whole and with its final attributes, in a private directory on the same file system.
2. The plan is written to the journal, all of it is synced, then the journal's COMMIT decides.
3. Each path is renamed into place, and objects that go are renamed into the staging directory. Directories get their
   attributes last. After them the immutable and append-only flags are set, which would hinder all of this.
4. Everything is synced again. After the rest of the rollback ``close`` removes the journal and the staging
   directories.

Before COMMIT nothing live has changed, and leftovers are thrown away. After COMMIT ``unfinished`` carries on, in any
process, as often as needed: every operation first looks whether it has been done.

The paths that can go back are settled before COMMIT. A path that fails all the same is named, and delays nothing else:
it is planned anew when the rollback is run again.

Other users may own the trees, and give the name of a directory to another directory at any moment. So directories are
known by their inode, from the first look on. Each is compared when it is opened again, and attributes are set on open
files. An object that goes is looked at once more when nobody else can reach it any more, and given back if it is
another object. A staging directory is ours, for us alone and empty when it is opened; nobody else can exchange its
contents.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Callable, NamedTuple

from .._errors import EvenkeelError, Refused
from .._host.durable import (
    ensure_dir,
    write_file,
)
from .._store.store import Store
from .applying import apply
from .entry import Entry
from .journals import MALFORMED, Note, Plan, close, read, unreadable
from .preflight import NO_ROOM, preflight
from .staging import Staging
from .step import PathStep


class Finished(NamedTuple):
    """A committed journal that was carried out: the paths it has put back, and path -> why for those that failed."""

    journal: str
    note: Note
    paths: list[str]
    left: dict[str, str]


class Transaction:
    """The change that puts paths back: ``stage``, then ``commit``. The end of a ``with`` removes all of its traces."""

    def __init__(self, store: Store, note: Note) -> None:
        self.journal = ""
        self._store = store
        self._note = note
        self._plan: Plan | None = None
        self._staged: tuple[Sequence[PathStep], Sequence[Entry]] = ((), ())
        self._left: dict[str, str] = {}
        self._committing = False

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Remove all traces: replaced objects, and objects that were staged and not put in place."""
        if not self._committing:
            self._discard()

    def stage(
        self,
        steps: Sequence[PathStep],
        directories: Sequence[Entry],
        away: Mapping[str, str] | None = None,
        partly: bool = False,
    ) -> dict[str, str]:
        """Stage all steps that can be staged, in place of the steps staged before; target -> why for the other steps.

        ``away``: mount points that are not as they were (see ``preflight``). Raises Refused or Damaged, with nothing
        changed, where there is no room or the store is damaged; ``partly``: the paths in question are left out then.
        """
        if (steps, directories) == self._staged:
            return self._left
        self._discard()
        self._left = {}
        if not steps:
            return {}
        with _nothing_changed():
            left = preflight(steps, directories, away or {}, self._store.root)
            if not partly:
                check_room(left)
            chosen = [step for step in steps if step.target not in left]
            if chosen:
                ensure_dir(self._store.join("journal"))
                self.journal = self._store.join("journal", f"{int(self._store.system.now() * 1000):015d}-{os.getpid()}")
                ensure_dir(self.journal)
                made = Staging(self._store, self.journal, partly, left)
                self._plan = made.plan(chosen, directories, self._note)
                left = made.left
        self._staged, self._left = (steps, directories), left
        return left

    def commit(self) -> Finished:
        """Carry out the steps that were staged."""
        if self._plan is None:
            return Finished(self.journal, self._note, [], {})
        self._committing = True  # A kill from here on leaves the journal to the next run.
        write_file(os.path.join(self.journal, "COMMIT"), b"")
        try:
            finished = Finished(self.journal, self._note, *apply(self._plan))
        except (OSError, EvenkeelError):
            self._committing = False  # The error is reported. Carried out later, the plan would undo later changes.
            raise
        self._committing = False
        return finished

    def _discard(self) -> None:
        if self.journal and os.path.isdir(self.journal):
            close(self.journal)
        self._plan, self._staged = None, ((), ())


def check_room(left: Mapping[str, str]) -> None:
    """Refused where paths of a preflight have no room."""
    short = [f"{path}: {why}" for path, why in left.items() if why.startswith(NO_ROOM)]
    if short:
        raise Refused(f"{'; '.join(short[:5])}; nothing was changed. Make room, then run again")


@contextmanager
def _nothing_changed() -> Iterator[None]:
    """Turn an error of the system into a refusal: until COMMIT no live path was touched."""
    try:
        yield
    except OSError as error:
        raise Refused(
            f"the rollback could not be staged: {error.strerror or error}"
            f"{f' ({error.filename})' if error.filename else ''}; nothing was changed. Mend the cause, then run again"
        ) from error


def unfinished(
    store: Store, locks: Callable[[Note], AbstractContextManager[None]] = lambda _note: nullcontext()
) -> Iterator[Finished]:
    """Carry out every committed journal and close it; throw away the others.

    ``locks`` gives the locks to hold meanwhile, for the note of the journal. The steps of a rollback after its paths
    are recorded elsewhere before a journal is committed: this function does not carry them out.
    """
    first: Exception | None = None
    for journal in store.journals():
        if os.path.exists(os.path.join(journal, "COMMIT")):
            try:
                plan = read(journal)
                with locks(plan.note):
                    finished = Finished(journal, plan.note, *apply(plan))
            except (OSError, EvenkeelError) as error:
                close(journal)  # The error is reported, and delays nothing else. The journal is not tried again.
                first = first or error
                continue
            except MALFORMED as error:
                close(journal)
                first = first or unreadable(journal, f"{type(error).__name__}: {error}")
                continue
            yield finished
        close(journal)
    if first is not None:
        raise first
