# SPDX-License-Identifier: GPL-3.0-or-later

"""The base class of a kind of state, and the data that a plan of a kind may depend on.

A new kind is a subclass in a file of its own, or in a folder. ``make options`` finds it there. No other code names a
kind: every fact that the rest of the library needs about a kind is an attribute or a method of the base class.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Callable, NamedTuple, Optional, Union

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


class Restore(NamedTuple):
    """The circumstances of a rollback, on which a plan may depend and with which its steps work.

    ``changed``: paths that are put back. ``since``: epoch seconds of the checkpoint. ``boot``: the rollback runs
    early at boot, where systemd only queues jobs, and no job can be waited for. ``steps``: the steps of all other
    kinds that are put back. ``affecting``: the kinds among them whose state a service reads as it starts.
    ``patience``: seconds to wait for a lock that another program holds. ``unattended``: the host goes back by itself,
    and has to bring back as much state as it can. ``undo``: the kind's own lines in the undo of this rollback, which
    is durable; only for a kind that keeps data outside of the store. ``armed``: the time at which the change was armed,
    on the clock as it is now, where that is known. ``undone``: steps of ``Kind.unseen`` that failed before.
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
    undo: Sequence[str] = ()
    armed: float = 0.0
    undone: Sequence[Step] = ()

    def failed(self, kind: str, target: str) -> list[Step]:
        """The steps of this kind and target that failed before, and that no measurement can show to be done since."""
        return [one for one in self.undone if (one.resource, one.target) == (kind, target)]

    @property
    def began(self) -> float:
        """The time from which the start of a service may belong to the change, on the clock as it is now: the change
        may have set the clock."""
        return self.armed or self.since


class Row(NamedTuple):
    """A row of the table of kinds, so that a kind which nobody declares need not be loaded: its module and class, its
    options, and the attributes of ``Kind`` that are true for it."""

    module: str
    made_by: str
    options: Options
    facts: Sequence[str]


class Kind:
    """A kind of state. Every method looks at the host anew, so that an interrupted rollback can run again.

    Lines are the kind's own lines of a manifest: their first word is longer than one letter. (A line whose first word
    is one letter is an entry of a tree of files.) A line names a content in the store by the word ``sha256=<name>``.
    """

    # The word for the kind in declarations, manifests, steps and results.
    name = ""
    # The keys of a declaration, as an argument spec of Ansible. The docstring of the class is the users'
    # documentation of the kind, and has a paragraph ``KEY: text`` for each key.
    options: Options = {}
    # The first version of the collection that has the kind.
    since = "0.1.0"

    # -- its place in a checkpoint and a rollback

    # Kinds are put back in this order; kinds of the same number, in the order of their names. A kind that installs
    # programs comes before files (20), because it may change files. Services come last (90). A kind may need the
    # kinds before it.
    order = 50
    # Each line is an entry of a tree that the declaration names.
    only_paths = False
    # The state is captured together with the files, while the programs of ``quiesce`` stand still.
    captured_at_rest = False
    # A capture shows the state of one moment, even while programs write to the state.
    consistent = False
    # The kind installs programs, whose scripts may write to any path: files are put back once more after it.
    installs = False
    # The trees and the own lines go back together or not at all: configuration without its data is neither state.
    all_or_nothing = False
    # Programs change the state as they start: it is put back once more after services.
    changed_by_programs = False
    # A service reads the state as it starts, so that a step of the kind may concern a service.
    read_at_start = True
    # The targets of its steps are paths of trees that are exchanged as a whole.
    exchanges_trees = False
    # The kind keeps data outside of the store, which ``forget`` deletes.
    keeps_data_outside = False
    # The state has a log of its own: a checkpoint of it is cheap, however large the state is.
    has_log = False
    # For such a kind: how far the state is ahead of the first line of a checkpoint, ``seconds`` and ``bytes``. The
    # function is called ``behind``, in a file that loads no kind: ``make options`` writes the table ``logs.py``.
    behind: Callable[[Sequence[str], System], Mapping[str, object]] | None = None
    # Programs apply the kind's files: when the state that gives access goes back, the kind comes after the files.
    applies_files = False
    # The steps change files, or change which files are seen: paths are put back once more after the kind.
    changes_files = False
    # The kind has steps that precede all files: see ``first``. Its steps of ``unseen`` are decided then, too.
    precedes_files = False
    # The lock keeps other programs from files that give access.
    lock_guards_access = False
    # The state belongs to one machine: another host keeps its own.
    of_the_machine = False
    # The actions of which ``verify`` cannot see the effect: where such a step has failed, ``plan`` gives it again.
    unseen: Sequence[str] = ()
    # The steps mount file systems.
    mounts_file_systems = False
    # A part of the state belongs to one machine: see ``keep_here``.
    partly_of_the_machine = False

    # The kind has no state of its own, and stands for declarations of other kinds: ``registry.check`` adds them.
    stands_for_others = False
    # The kind is of the class ``Programs``.
    starts_programs = False
    # The declaration of the kind for a plain host; None where a plain host has no state of the kind.
    on_plain_host: Spec | None = None

    # -- the declaration

    def step(self, action: str, target: str) -> Step:
        """A step of this kind for a result."""
        return Step(self.name, action, target)

    def check(self, spec: Spec) -> dict[str, object]:
        """The declaration with all its keys. Raises UsageError that names the bad key."""
        raise NotImplementedError

    def for_plain_host(self, beside: Sequence[Spec], taken: Sequence[str]) -> tuple[Spec | None, list[str]]:
        """(the part of ``on_plain_host`` that this host has, sentences on the state that is left out).

        ``beside``: declarations of this kind that the user gave. They replace ``on_plain_host``, or their subjects
        have to be left out of it. ``taken``: paths that other declarations hold. Raises UsageError where this host
        cannot have state of the kind.
        """
        return (None if beside else self.on_plain_host), []

    def trees(self, spec: Spec) -> list[str]:
        """Paths of files that belong to the kind. They are captured and put back together with ``files``."""
        return []

    def trees_as_a_whole(self, spec: Spec) -> list[str]:
        """Paths that the kind puts back as a whole: no other declaration may lie in them or around them."""
        return []

    def locked(self, system: System, patience: float | None) -> AbstractContextManager[None]:
        """A lock that keeps other programs from the kind's trees, while they are captured and while they are put
        back.

        Raises Refused where another program holds the lock for ``patience`` seconds (None: the usual time).
        """
        return nullcontext()

    # -- capture

    def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
        """The lines of the present state, without values that change by themselves: equal states give equal lines."""
        raise NotImplementedError

    def capture_for_undo(self, spec: Spec, sink: Sink, system: System, local_only: bool) -> list[str]:
        """The lines of the state that a rollback is about to replace, even where ``capture`` refuses that state.

        With ``local_only`` the kind fetches nothing from another host.
        """
        return self.capture(spec, sink, system)

    def not_restorable(self, spec: Spec, lines: Sequence[str]) -> list[str]:
        """Sentences on the state that a rollback to the lines could not bring back. The checkpoint reports them."""
        return []

    # -- while a change is armed

    def watch(self, spec: Spec, lines: Sequence[str], call: Sequence[str], root: str) -> list[str]:
        """Prepare to keep state in the moment in which a change replaces it; sentences on state that will not be
        kept.

        ``call``: the command line, to which the caller adds two words, that calls ``keep_replaced``; empty where no
        change is armed, and then the kind prepares nothing. ``root``: the root of the store.
        """
        return []

    def keep_replaced(self, lines: Sequence[str], told: Sequence[str], at: Restore) -> list[str]:
        """Keep state that is about to be replaced; sentences on state that could not be kept. ``told``: three words
        of the caller: its name, its standard input, and its process."""
        return []

    # -- rollback

    def parts(self, lines: Sequence[str]) -> list[Sequence[str]]:
        """The lines in parts that go back independently, so that one which cannot go back hinders no other. Pure."""
        return [lines]

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        """The steps that make the state as the lines say. Changes nothing."""
        raise NotImplementedError

    def obstacles(self, lines: Sequence[str], at: Restore) -> list[str]:
        """Sentences on steps that cannot be carried out now, or have to wait. Check mode reports them."""
        return []

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        """Carry out all steps, and return the steps that were done.

        Raises RestoreFailed at the end where steps failed, with the steps that were ``done`` and sentences on the
        steps that are ``left``.
        """
        raise NotImplementedError

    def verify(self, lines: Sequence[str], system: System) -> list[str]:
        """Sentences on the state that is not as the lines say."""
        raise NotImplementedError

    def access_lines(self, lines: Sequence[str]) -> list[str]:
        """The lines that decide whether people can log in. They go back first on a host that goes back by itself."""
        return []

    def first(self, steps: Sequence[Step]) -> list[Step]:
        """The steps among these that have to be done before any file goes back. Pure."""
        return []

    def stays(self, lines: Sequence[str]) -> list[str]:
        """Sentences on state that differs from the lines, and that a rollback leaves to the people who own it."""
        return []

    def reveals(self, steps: Sequence[Step]) -> list[str]:
        """The paths at which other files are seen, or can be changed, once the steps are done."""
        return []

    def exchanged(self, steps: Sequence[Step]) -> dict[str, Processes]:
        """For the steps that were done: the tree that was exchanged -> the processes that lost the old tree."""
        return {}

    def former_path(self, shown: bytes, trees: Collection[str]) -> bytes | None:
        """For the path at which the kernel shows a file of an exchanged tree, the path that the file had."""
        return None

    # -- what a change has changed

    def covers(self, spec: Spec, lines: Sequence[str], changed: Mapping[str, str], at: Restore) -> Iterable[str]:
        """The paths, beside the trees of files, that a rollback to the lines brings back: at least the paths of
        ``changed`` among them.

        ``changed``: path -> the difference, in the words of ``_files/footprint.py``. ``at.since``: the time at which
        the change was armed. The answer is the same before and after a rollback.
        """
        whole = self.trees_as_a_whole(spec)
        return [path for path in changed if any(is_within(path, one) for one in whole)]

    def suggest(self, changed: Mapping[str, str], taken: Sequence[str], at: Restore) -> Suggestion:
        """(the declaration that would have covered some of the changed paths, or None; the paths that no other kind
        needs to cover then). ``taken``: paths that are declared already, which no other declaration may overlap."""
        return None, set()

    def beyond(self, spec: Spec, lines: Sequence[str], at: Restore) -> Iterable[tuple[str, str]]:
        """(path, the difference in words) of the state that differs from the lines, that a rollback to them does not
        bring back, and that no walk over files shows."""
        return ()

    # -- another host

    def carried(self, lines: Sequence[str]) -> list[str]:
        """The lines without what they say of all that this host has: the host that gets them may have more. Pure."""
        return list(lines)

    def leave_open(self, lines: Sequence[str], name: str) -> tuple[list[str], bool]:
        """(the lines, but open whether this program is to run; whether it is among them). Pure."""
        return list(lines), False

    def keep_here(self, lines: Sequence[str], now: Sequence[str]) -> tuple[list[str], list[str]]:
        """(the lines of another host, but as they are on this host ``now`` where the state belongs to the machine; the
        state that is left out, in words). Pure."""
        return list(lines), []

    def cannot_be_had(self, lines: Sequence[str], at: Restore) -> list[str]:
        """Sentences on state that a host which has nothing of it cannot get. Changes nothing."""
        return []

    def lacks_here(self, lines: Sequence[str]) -> list[str]:
        """Sentences on what the system here lacks for this state, and packages that come back may bring. Only looks."""
        return []

    def in_use(self, lines: Sequence[str], at: Restore) -> list[str]:
        """Sentences on state of this host that somebody uses, so that a checkpoint of another host must not replace it.
        Changes nothing."""
        return []

    # -- data outside of the store

    def missing_data(self, lines: Sequence[str]) -> dict[str, str]:
        """The faults of the data outside of the store: path -> fault. Changes nothing."""
        return {}

    def beside(self, spec: Spec, lines: Sequence[str]) -> dict[str, str]:
        """The contents that the lines name as ``beside=<name>``, and that the host keeps beside its store: name -> path
        of the file that holds the content. A copy of the checkpoint holds them, so that a recovery has them."""
        return {}

    def not_carried(self, lines: Sequence[str]) -> list[str]:
        """Sentences on the data that a copy of the checkpoint on another host lacks."""
        return []

    def forget(self, store: str, system: System, stay: Sequence[str], go: Sequence[str]) -> None:
        """Delete the data that the lines ``go`` need and the lines ``stay`` do not need. ``store``: the store's root.

        ``stay``: the lines of all checkpoints that stay, in the trash or not. ``go``: the lines of the checkpoints
        that are deleted for good.
        """

    # -- checkpoints from other hosts

    def declaration(self, spec: Spec) -> Spec:
        """A declaration of the inventory, ready for ``outside``. Needs no state that the host may have lost."""
        return spec

    def outside(self, spec: Spec, lines: Sequence[str], declared: Sequence[Spec], system: System) -> Iterable[str]:
        """Names of the state in a checkpoint from elsewhere that no declaration for this host covers.

        The host may have lost the state that a declaration names. ``check`` may need that state; this method does
        not.
        """
        raise NotImplementedError

    def may_have_tree(self, path: str) -> bool:
        """Whether a checkpoint may have a tree at the path, though ``trees`` does not name it. The checkpoint is
        proved to be this host's."""
        return False


class Programs(Kind):
    """The kind that starts and stops programs. It goes back last, after the files are verified. No other kind may be
    of this class."""

    read_at_start = False
    starts_programs = True

    def programs(self, lines: Sequence[str]) -> set[str]:
        """The names of all programs of the lines."""
        raise NotImplementedError

    def named(self, lines: Sequence[str]) -> set[str]:
        """The names of the programs that a declaration names, so that files of theirs concern them."""
        raise NotImplementedError

    def recorded_down(self, lines: Sequence[str]) -> set[str]:
        """The names of the programs that the lines record as not running."""
        raise NotImplementedError

    def will_stop(self, steps: Sequence[Step], at: Restore) -> Down:
        """The programs that have to be down while files are exchanged, so that they do not write over the files.
        Changes nothing."""
        raise NotImplementedError

    def start_stopped(self, down: Down, at: Restore) -> tuple[list[Step], dict[str, str]]:
        """Start the programs that went down and are not up: (steps that were done, name of a program -> why it does
        not start)."""
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
