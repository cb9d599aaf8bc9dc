# SPDX-License-Identifier: GPL-3.0-or-later

"""The state of a host in plain words, for a person who looks at it there. Reads, and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from .._deadman import changes, doubt
from .._errors import EvenkeelError
from .._results.change import Owed
from .._services.owed import BY_NAME, PROCESS, REBOOT, SERVICE, SOFT_REBOOT, UNKNOWN
from .._store.store import Store, time_of
from .info import host_state

# Exit codes, as the command evenkeel has them.
DONE, USAGE, FAILED, REFUSED, IN_DOUBT = 0, 1, 2, 3, 4
_SHOWN = 20
_ENDS = {
    changes.CONFIRMED: "was confirmed",
    changes.ROLLED_BACK: "was rolled back",
    changes.ACCEPTED: "was accepted with state that could not be put back",
}
_BY = {
    "settle": "by the controller",
    "deadline": "by the host itself, as it was not confirmed in time",
    "boot": "by the host itself, as it booted before it was confirmed",
    "health": "by the host itself, as it was not healthy after the boot that was planned",
    "operator": "by hand",
}
_STAGES = {
    "": "and still runs here",
    changes.HELD: "is healthy here, and waits for the other hosts",
    changes.APPROVED: "and a person has let it go on",
    changes.DECIDED: "and it has been decided that all keep it",
}
# The level of a restart that is due -> the beginning of its line.
_DUE = {
    REBOOT: "owed a reboot: ",
    SOFT_REBOOT: "owed a soft-reboot: ",
    SERVICE: "owed a restart: ",
    BY_NAME: "owed a restart by name: ",
    PROCESS: "until they end, processes run replaced files: ",
    UNKNOWN: "whether more restarts are owed is not known: ",
}
WHY = {
    "settle": "the controller asked for it",
    "deadline": "its time to confirm is over",
    "boot": "the host booted before it was confirmed",
    "health": "the host was not healthy after the boot that was planned",
    "operator": "a person asked for it",
}


def words(store: Store) -> tuple[list[str], int]:
    """Lines on the state of the host, and the exit code for it."""
    if not store.exists:
        return [f"No change was ever armed on this host: there is no store at {store.root} (--store names another)."], 0
    change, doubtful = changes.armed(store), doubt.in_doubt(store)
    if change is not None:
        why = change.overdue(store.system)
        lines = _waiting(store, change) if why is None else _returning(store, change, why)
        return lines, IN_DOUBT if change.left else DONE
    if doubtful is not None:
        return _doubtful(store, doubtful), IN_DOUBT
    last = changes.last_event(store)
    lines = ["No change is under way on this host.", *([f"The last change, {ended(store, last)}."] if last else [])]
    state = host_state(store.root, store.system)
    lines += _open_restart(state.restart)
    if state.interrupted:
        lines.append("A rollback was interrupted. The next rollback, or the next change, completes it.")
    newest = _newest(store)
    if newest:
        lines += [f"  newest checkpoint:  {newest}", "  go back to it:      evenkeel-host rollback"]
    return lines, DONE


def restarts(due: Sequence[Owed]) -> list[str]:
    """Lines on the restarts that are due on the host; none where nothing is owed."""
    lines = [f"{_DUE[one.level]}{one.unit and one.unit + ': '}{'; '.join(one.why + one.processes)}" for one in due]
    if not lines:
        return []
    more = ["  restart the units:      evenkeel restart --owed, on the controller; here: systemctl restart UNIT"]
    return [
        "This host runs files that were replaced, or waits for a boot:",
        *listed(lines),
        *(more if any(one.level in (SERVICE, BY_NAME) for one in due) else []),
    ]


def _open_restart(restart: Mapping[str, Any] | None) -> list[str]:
    """Lines on the restart that is open here."""
    if restart is None:
        return []
    what = f"A restart of {restart['target']} ({restart['mode']})"
    if restart["running"]:
        return [f"{what} is under way."]
    lines = [f"{what} is unfinished since {clock(restart['at'])}: the same restart from the controller ends it."]
    places = [str(one.get("words") or one.get("host")) for one in restart["drained"]]
    return lines + (["This host may get no requests. It was drained at:", *listed(places)] if places else [])


def ended(store: Store, event: changes.Event) -> str:
    """The end of a change in words, without a full stop."""
    done = _ENDS.get(event.outcome, "could not be rolled back as a whole")
    by = _BY.get(event.by, f"by {event.by}")
    return f"{name_of(store, event.checkpoint)} (generation {event.generation}), {done} {by} at {clock(event.at)}"


def listed(things: list[str]) -> list[str]:
    """Indented lines, not too many."""
    more = [f"  - and {len(things) - _SHOWN} more"] if len(things) > _SHOWN else []
    return [f"  - {one}" for one in things[:_SHOWN]] + more


def name_of(store: Store, checkpoint: str) -> str:
    """The name of a checkpoint, or the beginning of its id where it cannot be read."""
    try:
        return store.record(checkpoint, whole=False).name
    except EvenkeelError:
        return checkpoint[:12]


def clock(at: float) -> str:
    """A time of day in the zone of the host, with the date if it is not today."""
    then = time.localtime(at)
    same = time.strftime("%F", then) == time.strftime("%F")
    return time.strftime("%H:%M:%S" if same else "%F %H:%M:%S", then)


def span(seconds: float) -> str:
    """A duration in words."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def left(store: Store, change: changes.Armed) -> float:
    """Seconds until the change goes back."""
    return max(0.0, change.due - store.system.monotonic())


def _waiting(store: Store, change: changes.Armed) -> list[str]:
    keep = "evenkeel-host confirm    (over a login that is newer than the change)"
    if change.hosts > 1:
        keep = "evenkeel confirm, on the controller; this host alone: evenkeel-host confirm --alone"
    if change.boots < min(change.reboots, 1):
        keep = "only after the boot that it plans"
    more = "evenkeel-host extend 10m" if change.due < change.limit - 1.0 else "none: it is at its limit"
    return [
        f"A change is under way on this host. It goes back in {span(left(store, change))}, at {clock(change.until)}, "
        "unless it is confirmed.",
        f"  change:      {change.name}, generation {change.generation}, armed at {clock(began_at(store, change))}",
        f"  checkpoint:  {_checkpoint(store, change.checkpoint)}",
        f"  keep it:     {keep}",
        f"  more time:   {more}",
        "  undo it now: evenkeel-host rollback",
        *([f"It is part of a change over {change.hosts} hosts, {_STAGES[change.stage]}."] if change.hosts > 1 else []),
    ]


def began_at(store: Store, change: changes.Armed) -> float:
    """Epoch seconds at which the change was armed."""
    return store.system.now() - age(store, change)


def age(store: Store, change: changes.Armed) -> float:
    """Seconds since the change was armed."""
    return store.system.monotonic() - change.started


def _returning(store: Store, change: changes.Armed, why: str) -> list[str]:
    lines = [
        f"This host goes back to {change.name} (generation {change.generation}): {WHY.get(why, why)}.",
        f"  checkpoint:  {_checkpoint(store, change.checkpoint)}",
    ]
    if change.left:
        lines.append(f"It tries again until {clock(change.tries_until)}. It could not put back so far:")
        lines += listed(change.left)
    return lines


def _doubtful(store: Store, event: changes.Event) -> list[str]:
    return [
        f"This host is in doubt: {ended(store, event)}, and this could not be put back:",
        *listed(event.left),
        "It takes no other change until the doubt has ended.",
        f"  try to go back again:   evenkeel-host rollback {event.checkpoint[:12]}",
        "  keep the host as it is: evenkeel accept, on the controller (the module ft_accept)",
    ]


def _checkpoint(store: Store, checkpoint: str) -> str:
    try:
        found = store.record(checkpoint, whole=False)
    except EvenkeelError as error:
        return f"{checkpoint[:12]}, which cannot be read: {error.message}"
    kinds = ", ".join(section.kind for section in found.sections)
    return f"{checkpoint[:12]} of {clock(time_of(found.created).timestamp())}: {kinds}"


def _newest(store: Store) -> str:
    try:
        found = store.resolve("latest")
    except EvenkeelError as error:
        return "" if "there is no checkpoint" in error.message else error.message
    return f"{name_of(store, found)}, {_checkpoint(store, found)}"
