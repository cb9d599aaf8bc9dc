# SPDX-License-Identifier: GPL-3.0-or-later

"""A host in doubt: a change ended there, and not all of its state is back. The host takes no other change meanwhile.

The doubt ends with a good rollback of all kinds of the checkpoint of the change, or of an older checkpoint with the
same declarations, or when an operator accepts the host as it is. Both are events, like the ends of changes. A change
that goes back and has state left is in doubt too, as long as the host tries again. A rollback of a host in doubt may
leave it in doubt for more: then all doubts have to end.
"""

from __future__ import annotations

from collections.abc import Iterator

from .._dataclasses import asdict, replace
from .._errors import Damaged, Refused
from .._results.change import Accepted
from .._store.manifest import Manifest
from .._store.store import Store
from . import amid, notices, units
from .changes import (
    ACCEPTED,
    CONFIRMED,
    IN_DOUBT,
    ROLLED_BACK,
    TRIES,
    Event,
    armed,
    conclude,
    event_of,
    fence,
    generation,
    record_event,
    refuse_if_armed,
)


def in_doubt(store: Store) -> Event | None:
    """The event that put the host in doubt, where no later event has ended the doubt; else None."""
    change = armed(store)
    if change is not None and change.left:
        return Event(
            change.generation, IN_DOUBT, change.back, change.tries_until - TRIES, change.checkpoint, change.left
        )
    found = doubts(store)
    left = list(dict.fromkeys(line for one in found for line in one.left))
    return replace(found[-1], left=left) if found else None


def doubts(store: Store) -> list[Event]:
    """The events of changes that are over and whose doubt has not ended, the oldest first."""
    found: list[Event] = []
    taken: dict[int, list[Event]] = {}
    for event in _events(store):
        if event.outcome == IN_DOUBT:
            # The state that a rollback in doubt had put back is in doubt again: its end has to cover that too.
            found += taken.pop(event.generation, [])
            found = [*(one for one in found if one.generation != event.generation), event]
        elif event.outcome == ACCEPTED or (event.outcome == CONFIRMED and event.change):
            found = []  # A change of a run begins on no host in doubt; a rollback, which may, has no such name.
        elif event.outcome == ROLLED_BACK:
            ended = [one for one in found if event.generation == one.generation or event.checkpoint == one.checkpoint]
            found = [one for one in found if one not in ended]
            if event.rollback is not None:
                # This rollback has to be confirmed itself: if it is undone, the doubt is back.
                taken.setdefault(event.rollback, []).extend(ended)
            else:
                found += taken.pop(event.generation, [])
    return found


def _events(store: Store) -> Iterator[Event]:
    """The events, the oldest first; a torn line (power cut while appending) does not count."""
    try:
        with open(store.join("events"), "rb") as stream:
            lines = stream.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return
    yield from filter(None, map(event_of, lines))


def refuse_if_in_doubt(store: Store) -> None:
    """Raise Refused where the host is in doubt."""
    doubt = in_doubt(store)
    if doubt is not None:
        raise Refused(
            f"this host is in doubt since the change of generation {doubt.generation}: {_some(doubt.left)}. It takes "
            f"no other change until it is rolled back (ft_rollback to {doubt.checkpoint[:12]}), or accepted as it is "
            "(ft_accept, evenkeel accept)",
            left=doubt.left,
        )


def cleared(store: Store, back: Manifest, whole: bool, rollback: int | None = None) -> str:
    """Under the lock, after a good rollback to the checkpoint: end each doubt whose state has gone back with it.
    Return a sentence where the host stays in doubt; else empty.

    ``whole``: all kinds of the checkpoint went back. ``rollback``: the generation of the rollback, where it has to be
    confirmed itself.
    """
    for one in doubts(store) if whole else []:
        if _is_covered(store, one.checkpoint, back):
            _append(store, replace(one, outcome=ROLLED_BACK, by="operator", left=[], rollback=rollback))
    doubt = in_doubt(store)
    if doubt is None:
        return ""
    return (
        f"the host stays in doubt since the change of generation {doubt.generation}, as this rollback need not have put"
        f" back all of it: {_some(doubt.left)}. Roll it back as a whole (ft_rollback to {doubt.checkpoint[:12]}), or"
        " accept it as it is (ft_accept, evenkeel accept)"
    )


def _is_covered(store: Store, checkpoint: str, back: Manifest) -> bool:
    """Whether the checkpoint ``back`` is the one to which a change was to go back, or holds at least all its
    declarations in an older state."""
    if back.id == checkpoint:
        return True
    try:
        own = store.record(checkpoint, whole=False)
    except Damaged:
        return False
    declared = [(section.kind, section.spec) for section in back.sections]
    return back.created <= own.created and all((one.kind, one.spec) in declared for one in own.sections)


def accept(store: Store, number: int | None = None, check_mode: bool = False) -> Accepted:
    """Accept the host as it is (``ft_accept``). ``number``: the generation of the run."""
    if check_mode:
        store.check_format()
        return _accepted(store, number)
    if not store.exists:
        return _accepted(store, number)
    _accepted(store, number)  # Refused before the lock, so that a checkpoint beside a change does not end for it.
    with store.locked(first=True):
        result = _accepted(store, number)
        doubt, change = in_doubt(store), armed(store)
        if doubt is not None and change is not None:
            conclude(store, change, ACCEPTED, "operator", doubt.left)
        elif doubt is not None:
            _append(store, replace(doubt, outcome=ACCEPTED, by="operator"))
            amid.judge(store, doubt.generation, stays=True)
        if doubt is not None:
            result.done = [f"accepted what was in doubt since generation {doubt.generation}"]
        return result


def _accepted(store: Store, number: int | None) -> Accepted:
    fence(store, number)
    doubt, change = in_doubt(store), armed(store)
    if change is not None and not change.left:
        refuse_if_armed(store)
    result = Accepted(changed=doubt is not None, generation=generation(store))
    if doubt is not None:
        result.accepted = asdict(doubt)
        result.planned = [f"accept what is in doubt since generation {doubt.generation}"]
        result.left = list(doubt.left)
    return result


def _append(store: Store, event: Event) -> None:
    record_event(store, replace(event, at=store.system.now()))
    if in_doubt(store) is None:
        units.forget_failures(store)
    if armed(store) is None:
        notices.over(store, event.checkpoint[:12], event.outcome)


def _some(left: list[str]) -> str:
    return "; ".join(left[:5]) + (f"; and {len(left) - 5} more" if len(left) > 5 else "")
