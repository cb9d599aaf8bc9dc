# SPDX-License-Identifier: GPL-3.0-or-later

"""The base class of a kind of state, and the data that a plan of a kind may depend on.

A new kind is a subclass in a file of its own, or in a folder. ``make options`` finds it there. Nothing else names it:
all that the rest of the library has to know of a kind is an attribute or a method here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Optional, Union

from .._files.step import Step
from .._host.options import Options
from .._host.system import System
from .._services.outage import Down
from .._store.objects import Hasher, Objects, Writer

Sink = Union[Writer, Hasher]
# A declaration as a checkpoint holds it: plain JSON, which ``Kind.check`` has made or accepts.
Spec = Mapping[str, Any]
# Process id -> start time, of the processes that had a tree mounted.
Processes = Mapping[int, int]
Suggestion = tuple[Optional[dict[str, object]], set[str]]
_SHOWN = 10


@dataclass(frozen=True)
class Restore:
    """The circumstances of a rollback, on which a plan may depend and with which its steps work.

    ``changed``: paths that are put back. ``since``: epoch seconds of the checkpoint. ``boot``: early at boot, where
    jobs of systemd are queued and nothing of it can be waited for. ``steps``: the steps of all other kinds that are
    put back. ``affecting``: those kinds among them that a service reads as it starts. ``patience``: seconds to wait for
    a lock that another program holds. ``unattended``: the host goes back by itself, and as much as can be has to come
    back.
    """

    system: System
    objects: Objects
    changed: Sequence[str] = ()
    since: float = 0.0
    boot: bool = False
    steps: Sequence[Step] = ()
    affecting: Sequence[str] = ()
    patience: float = 300.0
    unattended: bool = False


class Kind:
    """A kind of state. Every method looks at the host anew, so that an interrupted rollback is simply run again.

    Lines are the kind's own lines of a manifest: their first word is longer than one letter. (A line whose first word
    is one letter is an entry of a tree of files.) A content that goes into the store stands in a line as
    ``sha256=<name>``, a word of its own.
    """

    # The word for the kind in declarations, manifests, steps and results.
    name = ""
    # The keys of a declaration, in the words of Ansible's argument specs. The docstring of the class is the users'
    # documentation of the kind; it has a paragraph ``KEY: text`` for each of them.
    options: Options = {}
    # The version of the collection in which it first was.
    since = "0.1.0"

    # -- its place in a checkpoint and a rollback

    # State is put back in this order, and where that is the same in the order of names. A kind that installs programs
    # stands before files (20), because it may change files; services stand last (90); a kind may need those before it.
    order = 50
    # All of its lines are entries of trees that its declaration names itself.
    only_paths = False
    # It is captured together with the files, while the programs of ``quiesce`` stand still.
    captured_at_rest = False
    # A capture is of one moment by itself, while the state is being written.
    consistent = False
    # It installs programs: its scripts may write to any path, so that files are put back once more after it.
    installs = False
    # Its trees go back together with its own lines or not at all: a configuration without its data is neither state.
    all_or_nothing = False
    # Programs change it as they start: it is put back once more after services.
    changed_by_programs = False
    # A service reads it as it starts, so that a service has to do with its steps.
    read_at_start = True
    # The targets of its steps are paths of trees that are exchanged as a whole.
    exchanges_trees = False
    # It keeps data outside of the store, which ``forget`` deletes.
    keeps_data_outside = False
    # It has programs apply its files: of what gives access it goes back after the files.
    applies_files = False
    # Its steps change files, or which files are seen: paths are put back once more after it.
    changes_files = False
    # Its lock keeps other programs from files that give access.
    lock_guards_access = False

    # It stands for declarations of other kinds, which take its place (see ``registry.check``), and has no state itself.
    stands_for_others = False
    # Its declaration in the kind that stands for a plain host, None where a plain host has nothing of it.
    on_plain_host: Spec | None = None

    # -- the declaration

    def check(self, spec: Spec) -> dict[str, object]:
        """The declaration with all its keys. Raises UsageError that names the bad key."""
        raise NotImplementedError

    def for_plain_host(self, beside: Sequence[Spec], taken: Sequence[str]) -> tuple[Spec | None, list[str]]:
        """(the declaration of what this host has of ``on_plain_host``, sentences on what is left out of it).

        ``beside``: declarations of this kind that the user gave. They come in its place, or have to be left out of it.
        ``taken``: paths that other declarations hold. Raises UsageError where this host cannot have it.
        """
        return (None if beside else self.on_plain_host), []

    def trees(self, spec: Spec) -> list[str]:
        """Paths of files that belong to the kind. They are captured and put back together with ``files``."""
        return []

    def trees_as_a_whole(self, spec: Spec) -> list[str]:
        """Paths that the kind puts back as a whole, so that no other declaration may lie in them or around them."""
        return []

    def locked(self, system: System, patience: float | None) -> AbstractContextManager[None]:
        """A lock that keeps other programs from its trees, while they are captured and while they are put back.

        Raises Refused where it cannot be had within ``patience`` seconds (None: the usual time).
        """
        return nullcontext()

    # -- capture

    def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
        """The lines of the state now, without anything that changes by itself: equal states give equal lines."""
        raise NotImplementedError

    def capture_for_undo(self, spec: Spec, sink: Sink, system: System, local_only: bool) -> list[str]:
        """The lines of the state that a rollback is about to replace, which may be one that ``capture`` refuses.

        With ``local_only`` nothing is fetched from another host.
        """
        return self.capture(spec, sink, system)

    def not_restorable(self, spec: Spec, lines: Sequence[str]) -> list[str]:
        """Sentences on the state that a rollback to the lines could not bring back. They are told at the checkpoint."""
        return []

    # -- while a change is armed

    def watch(self, spec: Spec, lines: Sequence[str], call: Sequence[str], root: str) -> list[str]:
        """See to it that state is kept at the moment in which a change replaces it; sentences on what will not be.

        ``call``: the command line that has ``keep_replaced`` called, with two more words; empty where no change is
        armed, and nothing is put in place then. ``root``: of the store.
        """
        return []

    def keep_replaced(self, lines: Sequence[str], told: Sequence[str], at: Restore) -> list[str]:
        """Keep state that is about to be replaced; sentences on what could not be. ``told``: the caller's words: who it
        is, its standard input, and its process."""
        return []

    # -- rollback

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        """The steps that make the state as the lines say. Looks, and changes nothing."""
        raise NotImplementedError

    def obstacles(self, lines: Sequence[str], at: Restore) -> list[str]:
        """Sentences on steps that cannot be carried out now, or have to wait. Check mode tells them."""
        return []

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        """Carry out the steps, all of them; the steps that were done.

        Raises RestoreFailed at the end, with the steps that were ``done`` and sentences on those that are ``left``.
        """
        raise NotImplementedError

    def verify(self, lines: Sequence[str], system: System) -> list[str]:
        """Sentences on the state that is not as the lines say."""
        raise NotImplementedError

    def access_lines(self, lines: Sequence[str]) -> list[str]:
        """The lines that decide whether people can log in. They go back first on a host that goes back by itself."""
        return []

    def reveals(self, steps: Sequence[Step]) -> list[str]:
        """The paths at which other files are seen, or can be changed, once the steps are done."""
        return []

    def exchanged(self, steps: Sequence[Step]) -> dict[str, Processes]:
        """For the steps that were done: the tree that was exchanged -> the processes that lost the old one."""
        return {}

    def former_path(self, shown: bytes, trees: Collection[str]) -> bytes | None:
        """For the path at which the kernel shows a file of an exchanged tree, the path that the file had."""
        return None

    # -- what a change has changed

    def covers(self, spec: Spec, lines: Sequence[str], changed: Mapping[str, str], at: Restore) -> Iterable[str]:
        """The paths that a rollback to the lines brings back, beside the trees of files: those of ``changed`` at least.

        ``changed``: path -> what is different, in the words of ``_files/footprint.py``. ``at.since``: when the change
        was armed. Before a rollback and after it alike.
        """
        whole = self.trees_as_a_whole(spec)
        return [path for path in changed if any(is_within(path, one) for one in whole)]

    def suggest(self, changed: Mapping[str, str], taken: Sequence[str], at: Restore) -> Suggestion:
        """The declaration that would have covered some of the changed paths, None for none, and the paths that no other
        kind needs to cover then. ``taken``: paths that are declared already, which no other declaration may overlap."""
        return None, set()

    # -- data outside of the store

    def missing_data(self, lines: Sequence[str]) -> dict[str, str]:
        """For the data outside of the store: path -> the fault of it. Looks, and changes nothing."""
        return {}

    def forget(self, store: str, system: System, stay: Sequence[str], go: Sequence[str]) -> None:
        """Delete the data that only the lines ``go`` need, and not the lines ``stay``. ``store``: the store's root.

        ``stay``: the lines of all checkpoints that stay, in the trash or not. ``go``: those that are deleted for good.
        """

    # -- checkpoints from other hosts

    def declaration(self, spec: Spec) -> Spec:
        """A declaration of the inventory, ready for ``outside``. Needs nothing of what the host may have lost."""
        return spec

    def outside(self, spec: Spec, lines: Sequence[str], declared: Sequence[Spec], system: System) -> Iterable[str]:
        """Names of the state in a checkpoint from elsewhere that no declaration for this host covers.

        The host may have lost the state that a declaration is about: nothing here needs it, as ``check`` may.
        """
        raise NotImplementedError

    def may_have_tree(self, path: str) -> bool:
        """Whether a checkpoint that this host has provably taken may have a tree there that ``trees`` does not name."""
        return False


class Programs(Kind):
    """The kind that starts and stops programs. It goes back last, after the files are proved, and it is one alone."""

    read_at_start = False

    def programs(self, lines: Sequence[str]) -> set[str]:
        """The names of all programs of the lines."""
        raise NotImplementedError

    def recorded_down(self, lines: Sequence[str]) -> set[str]:
        """The names of the programs that the lines record as not running."""
        raise NotImplementedError

    def will_stop(self, steps: Sequence[Step], at: Restore) -> Down:
        """The programs that have to be down while files are exchanged, so that they do not write over them. Looks."""
        raise NotImplementedError

    def start_again(self, down: Down, at: Restore) -> tuple[list[Step], dict[str, str]]:
        """Start the programs that went down and are not up: (steps that were done, name -> why it does not start)."""
        raise NotImplementedError


def names_of(spec: Spec) -> str:
    """The subject of a declaration, for a message."""
    for key in ("names", "paths", "name", "cluster", "data"):
        value = spec.get(key)
        if isinstance(value, Collection) and value:
            return value if isinstance(value, str) else ", ".join(map(str, list(value)[:_SHOWN]))
    return ""


def is_within(path: str, root: str) -> bool:
    """Whether the path is the root, or lies below it."""
    return f"{path}/".startswith(root.rstrip("/") + "/")
