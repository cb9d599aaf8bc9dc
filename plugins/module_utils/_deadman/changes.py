# SPDX-License-Identifier: GPL-3.0-or-later

"""The change under way: it is armed before it begins, and goes back at its deadline unless it is confirmed.

The host keeps three files below its store:

- ``generation``: a counter that every arming raises. A request of a run with an older number is refused.
- ``armed``: the change under way: its generation, checkpoint and deadline. Once the change goes back also: the origin
  of its rollback, the state that is left so far, and the end of further attempts.
- ``events``: a JSON line for each outcome, appended and synced. From that moment the outcome counts: an ``armed`` of
  the same generation is over, even if a kill left the file behind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

from .._dataclasses import asdict, dataclass, field, fields, replace
from .._errors import Damaged, Refused, UsageError
from .._host.durable import append_line, remove_file, write_file
from .._host.processes import login_of
from .._host.system import System
from .._resources import ours
from .._store.store import Store
from . import amid, command, loader, notices, timers, units

# Seconds in which an extension has to succeed: a run ends its playbook half a minute before the deadline.
_TO_EXTEND = 60.0
CONFIRMED, ROLLED_BACK, IN_DOUBT, ACCEPTED = "confirmed", "rolled_back", "in_doubt", "accepted"
# The answer of a host whose change is not over, and has reached no stage yet.
EXTENDED = "extended"
# The stages of a host whose change over several hosts is not over: the host is healthy and waits for the other hosts;
# a person has let the change go on; the decision is made that all hosts keep the change.
HELD, APPROVED, DECIDED = "held", "approved", "decided"
STAGES = ("", HELD, APPROVED, DECIDED)
# Fields of a change that are shown where they have a value.
_SHOWN = ("back", "left", "tries_until", "change", "hosts", "stage")
# Seconds, from the first attempt on, in which a failed rollback is tried again.
TRIES = 3600.0
# Bytes that are reserved for the records of the end of a change, because the change may fill the disk.
_RESERVE = 1 << 20


@dataclass(frozen=True)
class Armed:
    """The record of the change under way.

    ``until``: the deadline in epoch seconds, for people. ``due``: the deadline on the monotonic clock of ``boot_id``;
    this value decides. ``back``: the origin of the rollback (settle, deadline, boot, health, operator); with an
    origin the change is never confirmed. ``began``: the time of arming, on the same clock as ``due``. ``at_most``:
    the longest time to confirm with all extensions, in seconds from ``began``. ``left``: state that could not be put
    back so far. ``tries_until``: the end of further attempts in epoch seconds. ``tries_due``: this end on the
    monotonic clock of ``tries_boot``, where it decides. ``login``: the user id of the login that armed the host, -1
    where it is not known. ``change`` and ``hosts``: the change over several hosts to which this change belongs, and
    the number of these hosts; empty and 0 where a host changes alone. ``stage``: the stage that the change over
    several hosts has reached here (see ``STAGES``). ``reboots``: the number of boots that the change plans.
    ``boots``: the number of these boots that have come. ``health``: the probes that the host measures on itself after
    a planned boot, with their times. ``kept``: values for the boot loader at the end of the change (see
    ``Loader.noted``).
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
    began: float = 0.0
    at_most: float = 0.0
    change: str = ""
    hosts: int = 0
    stage: str = ""
    reboots: int = 0
    boots: int = 0
    health: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def started(self) -> float:
        """The time of arming, on the monotonic clock. A record of version 0.1.0 was never extended."""
        return self.began or self.due - self.within

    @property
    def limit(self) -> float:
        """The latest deadline, with all extensions, on the same clock."""
        return self.started + max(self.at_most, self.within)

    def shown(self) -> dict[str, object]:
        """The fields for a result."""
        shown = {key: getattr(self, key) for key in ("generation", "checkpoint", "name", "until", "within")}
        return {**shown, **{key: value for key in _SHOWN if (value := getattr(self, key))}}

    def overdue(self, system: System) -> str | None:
        """Why the change can no longer be confirmed: the origin of its rollback, ``boot`` or ``deadline``. None while
        it can be confirmed."""
        if self.back:
            return self.back
        if self.boot_id != system.boot_id():
            return "boot"
        return "deadline" if system.monotonic() >= self.due else None

    def tries_left(self, system: System) -> float:
        """Seconds left for further attempts. After a boot only the date of their end is known."""
        if self.tries_boot == system.boot_id():
            return self.tries_due - system.monotonic()
        return min(TRIES, self.tries_until - system.now())


@dataclass(frozen=True)
class Event:
    """The end of a change. ``by``: settle, deadline, boot, health or operator; ``at`` in epoch seconds.
    ``left``: state that could not be put back; of a confirmed change, sentences on a boot loader that may still boot
    the kernel of before.

    ``until``: the end of further attempts in epoch seconds; an event with this value does not end the change yet.
    ``rollback``: the generation of the rollback that ended a doubt, where that rollback has to be confirmed itself.
    ``written``: files that services wrote as they started again, path -> line in a manifest. ``change`` and
    ``hosts``: as in ``Armed``. ``boots``: the planned boots that had come, for a confirmed change that is taken back.
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
    change: str = ""
    hosts: int = 0
    boots: int = 0

    def line(self) -> bytes:
        found = asdict(self)
        for key in ("until", "rollback", "written", "change", "hosts", "boots"):
            if not found[key]:
                del found[key]
        return json.dumps(found).encode()


# The types of the fields of records.
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(
        ("checkpoint", "name", "boot_id", "back", "outcome", "by", "tries_boot", "change", "stage"), (str,)
    ),
    **dict.fromkeys(("until", "within", "due", "tries_until", "tries_due", "at", "began", "at_most"), (int, float)),
    **dict.fromkeys(("generation", "login", "hosts", "reboots", "boots"), (int,)),
    "rollback": (int, type(None)),
    "left": (list,),
    **dict.fromkeys(("written", "health", "kept"), (dict,)),
}
_Record = TypeVar("_Record", "Armed", "Event")


def generation(store: Store) -> int:
    """The number of the newest arming; 0 before the first arming."""
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
    """The newest end of a change; a torn line (power cut while appending) does not count."""
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
    """The event of a line of ``events``; None where the line is torn or holds no event."""
    try:
        return _typed(Event, json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None


def _typed(record: type[_Record], values: object) -> _Record:
    """The record of these values. ValueError or TypeError where their types are wrong.

    Unknown keys are ignored, because a newer version may have written them.
    """
    if not isinstance(values, dict):
        raise ValueError("it is no mapping")
    found = record(**{item.name: values[item.name] for item in fields(record) if item.name in values})
    for item in fields(record):
        types = _TYPES[item.name]
        value = getattr(found, item.name)
        if not isinstance(value, types) or isinstance(value, bool):
            raise ValueError(f"{item.name} is {type(value).__name__}")
    return found


def armed(store: Store) -> Armed | None:
    """The change under way; None where no change is under way."""
    try:
        with open(store.join("armed"), "rb") as stream:
            found = json.loads(stream.read())
        record = _typed(Armed, found)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        raise _unreadable(store, "armed", error) from error
    last = last_event(store)
    return None if last is not None and last.generation >= record.generation else record


def fence(store: Store, expected: int | None) -> None:
    """Raise Refused for a request of a run whose generation number differs from the host's."""
    now = generation(store)
    if expected is not None and expected != now:
        raise Refused(
            f"refused: this run has generation {expected}, the host is at {now}; "
            + ("another run has changed it since. " if expected < now else "its store is not the one that was armed. ")
            + "Look with ft_info (evenkeel status), then start anew"
        )


def refuse_if_armed(store: Store) -> None:
    """Raise Refused while a change is under way."""
    change = armed(store)
    if change is not None:
        left = max(0.0, change.until - store.system.now())
        raise Refused(
            f"another change is under way on this host: {change.name!r} (generation {change.generation}), "
            f"to be confirmed within {left:.0f} s or rolled back. "
            f"Wait for its end, or undo all of it with ft_rollback to {change.checkpoint[:12]} (there: evenkeel-host"
            " rollback)"
        )


def would_refuse(store: Store) -> None:
    """``refuse_if_armed``, as a run would do that first finishes a change whose time is over."""
    change = armed(store)
    if change is not None and change.overdue(store.system) is None:
        refuse_if_armed(store)


def check_within(within: float | None) -> None:
    """Raise UsageError for a time to confirm that is too short."""
    if within is not None and within < 1:
        raise UsageError(f"confirm_within: {within:g} s is too short to confirm anything; use 1s or more")


def prepare(store: Store, agent: str) -> str:
    """Prepare the timers, and the command for a person, before the checkpoint is taken: so their files belong to no
    change. Return why the command could not be installed, and what is doubtful; empty where all is well.

    ``agent``: the path of the installed zipapp. Raises UsageError for a path that a unit file cannot hold.
    """
    refuse_if_armed(store)
    for timer in timers.available(store.system):
        timer.prepare(store, agent)
    lacking = [command.install(store, agent), units.doubtful_python(store.system) if command.is_host(store) else ""]
    return "; ".join(filter(None, lacking))


@dataclass(frozen=True)
class Terms:
    """The terms of a change that is to be armed. ``within``: seconds to confirm it. ``at_most``: the same with all
    extensions. ``change`` and ``hosts``: the change over several hosts to which it belongs. ``reboots``: the number
    of boots that it plans. ``health``: the probes after such a boot."""

    within: float
    at_most: float = 0.0
    change: str = ""
    hosts: int = 0
    reboots: int = 0
    health: dict[str, Any] = field(default_factory=dict)


def arm(store: Store, checkpoint: str, name: str, terms: Terms, agent: str) -> Armed:
    """Start the timers, then record the change: there must be no record without timers."""
    number = generation(store) + 1
    write_file(store.join("generation"), f"{number}\n".encode())
    remove_file(store.join("reboot"))
    _reserve_room(store)
    system = store.system
    for timer in timers.available(system):
        timer.arm(store, number, agent)
    began = system.monotonic()
    record = Armed(
        number,
        checkpoint,
        name,
        system.now() + terms.within,
        terms.within,
        system.boot_id(),
        began + terms.within,
        login=login_of("self"),
        began=began,
        at_most=terms.at_most,
        change=terms.change,
        hosts=terms.hosts,
        reboots=terms.reboots,
        health=terms.health,
    )
    timers.ensure(store, number, record.due, agent, patience=30.0)
    _record(store, record)
    notices.armed(store, name, record.until)
    return record


def prepare_boot(store: Store, record: Armed) -> str:
    """Have the boot loader try the kernel of an armed change, where the change plans a boot. Return why it cannot;
    empty where it can, or need not."""
    if not record.reboots:
        return ""
    lacking = loader.prepare(store, record.reboots)
    _record(store, replace(record, kept=loader.noted(store)))
    return lacking


def after_boot(store: Store, record: Armed) -> Armed:
    """Under the lock: the record after a boot that the change planned. Its deadline counts on. After any other boot
    the record stays as it is, and is overdue. The same holds after a boot for which the boot loader took the old
    kernel.

    Over a boot only the date tells the time that has passed. The date may be wrong early at boot, so no deadline is
    farther away than the whole time to confirm.
    """
    system = store.system
    if record.back or record.boot_id == system.boot_id() or record.boots >= record.reboots:
        return record
    if loader.fell_back(store):
        return _record(store, replace(record, boots=record.boots + 1))
    if record.boots + 1 < record.reboots:
        loader.go_on(store)
    now, spent = system.monotonic(), system.now() - (record.until - (record.due - record.started))
    notices.extended(store, record.name, record.until)  # The boot has removed the message of the day.
    return _record(
        store,
        replace(
            record,
            boot_id=system.boot_id(),
            boots=record.boots + 1,
            due=now + min(record.within, max(0.0, record.until - system.now())),
            began=now - min(max(spent, 0.0), max(record.at_most, record.within)),
        ),
    )


def extend(store: Store, record: Armed, within: float | None = None, stage: str = "") -> Armed:
    """Under the lock: move the deadline to ``within`` seconds from now, or as far as ``at_most`` allows, and note the
    stage that the change has reached. A deadline never comes nearer, and a stage never goes back. Durable on return.
    Raises Refused once the change goes back.
    """
    why = record.overdue(store.system)
    if why is not None:
        raise Refused(
            f"the change of generation {record.generation} goes back ({why}), and cannot be extended any more. Look"
            " with ft_info (evenkeel status) whether it has come to its end"
        )
    now = store.system.monotonic()
    due = max(record.due, min(now + (record.within if within is None else within), record.limit))
    stage = max(stage, record.stage, key=STAGES.index)
    known = _record(store, replace(record, due=due, until=store.system.now() + due - now, stage=stage))
    # The timers that fire at the old deadline see the new deadline, and adjust themselves.
    with suppress(Refused, OSError):
        ensure_timers(store, known, agent_of(store))
    notices.extended(store, known.name, known.until)
    return known


def spare(store: Store) -> float:
    """Seconds for which an extension leaves a checkpoint alone that is taken beside the change: until a quarter of the
    time to confirm is left, and at least a minute or half of it. 0 where the change is over, or goes back."""
    with suppress(Damaged):  # The holder of the lock finds it as well, and says so.
        change = armed(store)
        if change is not None and change.overdue(store.system) is None:
            needed = max(change.within / 4, min(change.within / 2, _TO_EXTEND))
            return max(0.0, change.due - store.system.monotonic() - needed)
    return 0.0


def ensure_timers(store: Store, record: Armed, agent: str) -> None:
    """Make sure that the timers of the change run, whatever was done to them. Raises Refused, OSError."""
    timers.ensure(store, record.generation, record.due, agent)


def fire(store: Store, agent: str) -> None:
    """Start the agent now, or once the host has booted. Where an agent works already, it goes on alone."""
    change = armed(store)
    if change is not None and agent:
        with suppress(Refused, OSError):
            ensure_timers(store, change, agent)
        for timer in timers.available(store.system):
            timer.fire(store)


def agent_of(store: Store) -> str:
    """The path of the newest installed zipapp; empty where there is none."""
    folder = store.join("agent")
    found = [os.path.join(folder, name) for name in os.listdir(folder)] if os.path.isdir(folder) else []
    return max((path for path in found if path.endswith(".pyz")), key=os.path.getmtime, default="")


def _reserve_room(store: Store) -> None:
    fd = os.open(store.join("reserve"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(fd, 0, _RESERVE)
    finally:
        os.close(fd)


def give_room(store: Store) -> None:
    """Free the reserved bytes, because the change ends."""
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
    """Record the end of the change, and disarm the timers. Durable on return."""
    left = list(left or [])
    if record.reboots and outcome in (CONFIRMED, ACCEPTED):
        left += loader.confirmed(store, record.kept)
    elif record.reboots:
        left += loader.rolled_back(store, record.kept)
    event = Event(
        record.generation,
        outcome,
        by,
        store.system.now(),
        record.checkpoint,
        left,
        written=written or {},
        change=record.change,
        hosts=record.hosts,
        boots=record.boots,
    )
    record_event(store, event)
    amid.judge(store, event.generation, outcome in (CONFIRMED, ACCEPTED))
    remove_file(store.join("armed"))
    remove_file(store.join("resume"))
    give_room(store)
    timers.disarm(store)
    if outcome != IN_DOUBT:
        units.forget_failures(store)
    if command.is_host(store):
        ours.take_hooks_away()
    if outcome == ROLLED_BACK:
        notices.rolled_back(store, record.name, by)
    elif outcome == IN_DOUBT:
        notices.in_doubt(store, record.name, len(event.left))
    else:
        notices.over(store, record.name, outcome)
    return event


def record_event(store: Store, event: Event) -> None:
    """Append the event. Durable on return."""
    append_line(store.join("events"), event.line())


def begin_return(store: Store, record: Armed, by: str) -> Armed:
    """Mark, under the lock and before the first live change of its rollback, that this change goes back: it is then
    never confirmed, and after a kill another process carries on. Durable on return; the first mark stays."""
    known = _newest(store, record)
    give_room(store)
    return known if known.back else _record(store, replace(known, back=by))


def keep_trying(store: Store, record: Armed, by: str, left: Sequence[str]) -> Armed:
    """Record, under the lock, the state that could not be put back. Have the agent try again, now and with growing
    pauses, for ``TRIES`` seconds from the first attempt on; then the host is in doubt. Does not wait for the
    agent."""
    known = note_left(store, record, by, left)
    fire(store, agent_of(store))
    return known


def note_left(store: Store, record: Armed, by: str, left: Sequence[str]) -> Armed:
    """Record, under the lock, the state that could not be put back so far."""
    known = _newest(store, record)
    tries_until = known.tries_until or store.system.now() + TRIES
    if list(left) != known.left:
        event = Event(record.generation, IN_DOUBT, by, store.system.now(), record.checkpoint, list(left), tries_until)
        record_event(store, event)
        if not known.left:
            notices.in_doubt(store, known.name, len(left))
    tries_left = known.tries_left(store.system) if known.tries_until else TRIES
    found = replace(known, back=known.back or by, left=list(left), tries_until=tries_until)
    return _record(
        store, replace(found, tries_due=store.system.monotonic() + tries_left, tries_boot=store.system.boot_id())
    )


def _newest(store: Store, record: Armed) -> Armed:
    """The newest record of the same change."""
    known = armed(store)
    return known if known is not None and known.generation == record.generation else record


def _record(store: Store, record: Armed) -> Armed:
    write_file(store.join("armed"), json.dumps(asdict(record)).encode())
    return record
