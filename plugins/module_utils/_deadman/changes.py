# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The dead-man of a host: armed before a change, it puts the host back unless the change is confirmed in time.

What the host remembers, below its store:

- ``generation``: a counter, raised by every arming; what a run with an older number asks for is refused.
- ``armed``: the change under way: its generation, checkpoint and deadline; once it goes back, by whom, what is left so
  far, and until when that is tried again.
- ``events``: one JSON line per outcome, appended and synced. An outcome counts from that moment: an ``armed`` of the
  same generation is then over, even if a kill left it lying there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

from .._errors import Damaged, Refused, UsageError
from .._host.durable import append_line, remove_file, write_file
from .._host.processes import login_of
from .._host.system import System
from .._store.store import Store
from . import timers

CONFIRMED, ROLLED_BACK, IN_DOUBT, ACCEPTED = "confirmed", "rolled_back", "in_doubt", "accepted"
# How long what could not be put back is tried again, in seconds from the first attempt.
TRIES = 3600.0
# Kept free for the records of the end of a change: a disk that the change has filled must not stand in their way.
_RESERVE = 1 << 20


@dataclass(frozen=True)
class Armed:
    """``until`` in epoch seconds, for people; ``due`` on the monotonic clock of ``boot_id``, which decides.

    ``back``: who began to go back (settle, deadline, boot, operator); from then on it is never confirmed. ``left``:
    what could not be put back so far. ``tries_until``: epoch seconds, until when that is tried again; ``tries_due`` on
    the monotonic clock of ``tries_boot``, which decides there. ``login``: by whose login the host was armed (a user
    id), -1 where that is not known.
    """

    generation: int
    checkpoint: str
    name: str
    until: float
    within: float
    boot_id: str
    due: float
    back: str = ""
    left: list[str] = field(default_factory=list)
    tries_until: float = 0.0
    login: int = -1
    tries_due: float = 0.0
    tries_boot: str = ""

    def shown(self) -> dict[str, Any]:
        shown = {key: getattr(self, key) for key in ("generation", "checkpoint", "name", "until", "within")}
        return {**shown, **{key: value for key in ("back", "left", "tries_until") if (value := getattr(self, key))}}

    def overdue(self, system: System) -> str | None:
        """Why the time for a confirmation is over (who began to go back, ``boot``, ``deadline``), or None while it
        runs."""
        if self.back:
            return self.back
        if self.boot_id != system.boot_id():
            return "boot"
        return "deadline" if system.monotonic() >= self.due else None

    def tries_left(self, system: System) -> float:
        """Seconds for which what is left is tried again; of those before a boot only the date is known."""
        if self.tries_boot == system.boot_id():
            return self.tries_due - system.monotonic()
        return min(TRIES, self.tries_until - system.now())


@dataclass(frozen=True)
class Event:
    """How a change ended. ``by``: settle, deadline, boot or operator; ``at`` in epoch seconds.

    ``until``: epoch seconds, until when what is ``left`` is tried again; it is no end yet then. ``rollback``: the
    generation of the rollback that made good what was in doubt, where that is to be confirmed itself. ``written``: what
    services have written as they started again, path -> its line in a manifest.
    """

    generation: int
    outcome: str
    by: str
    at: float
    checkpoint: str
    left: list[str]
    until: float = 0.0
    rollback: int | None = None
    written: dict[str, str] = field(default_factory=dict)

    def line(self) -> bytes:
        found = asdict(self)
        for key in ("until", "rollback", "written"):
            if not found[key]:
                del found[key]
        return json.dumps(found).encode()


# What each field of a record can be.
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("checkpoint", "name", "boot_id", "back", "outcome", "by", "tries_boot"), (str,)),
    **dict.fromkeys(("until", "within", "due", "tries_until", "tries_due", "at"), (int, float)),
    **dict.fromkeys(("generation", "login"), (int,)),
    "rollback": (int, type(None)),
    "left": (list,),
    "written": (dict,),
}
_Record = TypeVar("_Record", "Armed", "Event")


def generation(store: Store) -> int:
    """The number of the newest arming; 0 before the first."""
    try:
        with open(store.join("generation"), "rb") as stream:
            return int(stream.read(64))
    except FileNotFoundError:
        return 0
    except ValueError as error:
        raise _unreadable(store, "generation", error) from error


def _unreadable(store: Store, name: str, error: Exception) -> Damaged:
    return Damaged(
        f"{store.join(name)} is damaged ({str(error)[:100]}), so that it is not known what this host is in the"
        " middle of. Look at the host, put it as it should be, and remove that file"
    )


def last_event(store: Store) -> Event | None:
    """The newest outcome; a torn line (power cut while appending) never was one."""
    try:
        with open(store.join("events"), "rb") as stream:
            lines = stream.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        event = event_of(line)
        if event is not None and not event.until:
            return event
    return None


def event_of(line: bytes) -> Event | None:
    """What one line of ``events`` says; None when it is torn, or no event."""
    try:
        return _typed(Event, json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None


def _typed(record: type[_Record], said: Any) -> _Record:
    """The record of these values. ValueError, TypeError when they are not of its types."""
    if not isinstance(said, dict):
        raise ValueError("it is no mapping")
    found = record(**said)
    for one in fields(record):
        kinds = _KINDS[one.name]
        value = getattr(found, one.name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ValueError(f"{one.name} is {type(value).__name__}")
    return found


def armed(store: Store) -> Armed | None:
    """The change that waits for its confirmation, if there is one."""
    try:
        with open(store.join("armed"), "rb") as stream:
            found = json.loads(stream.read())
        # A newer version may have written keys that this one does not know.
        record = _typed(Armed, {key: found[key] for key in (one.name for one in fields(Armed)) if key in found})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        raise _unreadable(store, "armed", error) from error
    last = last_event(store)
    return None if last is not None and last.generation >= record.generation else record


def fence(store: Store, asked: int | None) -> None:
    """Refuse what a run with an older generation number asks for."""
    now = generation(store)
    if asked is not None and asked != now:
        raise Refused(
            f"refused: this run has generation {asked}, the host is at {now}; "
            + ("another run has changed it since. " if asked < now else "its store is not the one that was armed. ")
            + "Look with ft_info (evenkeel status), then start anew"
        )


def refuse_if_armed(store: Store) -> None:
    change = armed(store)
    if change is not None:
        left = max(0.0, change.until - store.system.now())
        raise Refused(
            f"another change is under way on this host: {change.name!r} (generation {change.generation}), "
            f"to be confirmed within {left:.0f} s or rolled back. "
            f"Wait for its end, or end it with ft_rollback to {change.name}"
        )


def check_within(within: float | None) -> None:
    """UsageError for a time to confirm that is no time."""
    if within is not None and within < 1:
        raise UsageError(f"confirm_within: {within:g} s is too short to confirm anything; use 1s or more")


def prepare(store: Store, agent: str) -> None:
    """Prepare the timers. Before the checkpoint is taken, so that their files are part of no change.

    ``agent`` is the path of the installed zipapp. Raises UsageError for a path that a unit file cannot hold.
    """
    refuse_if_armed(store)
    for timer in timers.available(store.system):
        timer.prepare(store, agent)


def arm(store: Store, checkpoint: str, name: str, within: float, agent: str) -> Armed:
    """Start the timers, then record the change: a record without timers must not exist."""
    number = generation(store) + 1
    write_file(store.join("generation"), f"{number}\n".encode())
    _keep_room(store)
    system = store.system
    for timer in timers.available(system):
        timer.arm(store, number, agent)
    record = Armed(
        number,
        checkpoint,
        name,
        system.now() + within,
        within,
        system.boot_id(),
        system.monotonic() + within,
        login=login_of("self"),
    )
    timers.ensure(store, number, record.due, agent)
    return _record(store, record)


def ensure_timers(store: Store, record: Armed, agent: str) -> None:
    """See to it that the timers of the change run, whatever was done to them. Raises Refused, OSError."""
    timers.ensure(store, record.generation, record.due, agent)


def fire(store: Store, agent: str) -> None:
    """Let the dead-man act now, or once the host has booted. What is at work already goes on alone."""
    change = armed(store)
    if change is not None and agent:
        with suppress(Refused, OSError):
            ensure_timers(store, change, agent)
        for timer in timers.available(store.system):
            timer.fire(store)


def agent_of(store: Store) -> str:
    """The path of the zipapp that the last arming has installed, or nothing."""
    folder = store.join("agent")
    found = [os.path.join(folder, name) for name in os.listdir(folder)] if os.path.isdir(folder) else []
    return max((path for path in found if path.endswith(".pyz")), key=os.path.getmtime, default="")


def _keep_room(store: Store) -> None:
    fd = os.open(store.join("reserve"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(fd, 0, _RESERVE)
    finally:
        os.close(fd)


def give_room(store: Store) -> None:
    """Give up what was kept free for now: the change ends."""
    with suppress(OSError):
        os.unlink(store.join("reserve"))


def conclude(
    store: Store,
    record: Armed,
    outcome: str,
    by: str,
    left: list[str] | None = None,
    written: dict[str, str] | None = None,
) -> Event:
    """Record how the change ended, and stop the dead-man. Durable once this returns."""
    event = Event(
        record.generation, outcome, by, store.system.now(), record.checkpoint, left or [], written=written or {}
    )
    record_event(store, event)
    remove_file(store.join("armed"))
    remove_file(store.join("resume"))
    give_room(store)
    timers.disarm(store)
    return event


def record_event(store: Store, event: Event) -> None:
    """Append the event. Durable once this returns."""
    append_line(store.join("events"), event.line())


def begin_return(store: Store, record: Armed, by: str) -> Armed:
    """Mark, under the lock and before the first live change of its rollback, that this change goes back: it is never
    confirmed then, and whoever comes next carries on. Durable once this returns; the first mark stays."""
    known = _newest(store, record)
    give_room(store)
    return known if known.back else _record(store, replace(known, back=by))


def keep_trying(store: Store, record: Armed, by: str, left: Sequence[str]) -> Armed:
    """Record, under the lock, what could not be put back, and let the dead-man try it again, now and with growing
    pauses, for ``TRIES`` from the first time on; its end then is in doubt. Nothing is waited for."""
    known = note_left(store, record, by, left)
    fire(store, agent_of(store))
    return known


def note_left(store: Store, record: Armed, by: str, left: Sequence[str]) -> Armed:
    """Record, under the lock, what could not be put back so far."""
    known = _newest(store, record)
    tries_until = known.tries_until or store.system.now() + TRIES
    if list(left) != known.left:
        event = Event(record.generation, IN_DOUBT, by, store.system.now(), record.checkpoint, list(left), tries_until)
        record_event(store, event)
    tries_left = known.tries_left(store.system) if known.tries_until else TRIES
    found = replace(known, back=known.back or by, left=list(left), tries_until=tries_until)
    return _record(
        store, replace(found, tries_due=store.system.monotonic() + tries_left, tries_boot=store.system.boot_id())
    )


def _newest(store: Store, record: Armed) -> Armed:
    """What is recorded of the same change by now."""
    known = armed(store)
    return known if known is not None and known.generation == record.generation else record


def _record(store: Store, record: Armed) -> Armed:
    write_file(store.join("armed"), json.dumps(asdict(record)).encode())
    return record
