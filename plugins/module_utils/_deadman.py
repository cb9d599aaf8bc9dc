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
import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ._errors import Refused, UsageError
from ._store.durable import append_line, remove_file, write_file
from ._store.store import Store
from ._store.transaction import pending
from ._system import System, detached

CONFIRMED, ROLLED_BACK, IN_DOUBT, ACCEPTED = "confirmed", "rolled_back", "in_doubt", "accepted"
# How long what could not be put back is tried again, in seconds from the first attempt.
TRIES = 3600.0
_UNITS = "/etc/systemd/system"
_DEFAULT = "/var/lib/evenkeel"
# What stands for itself in every line of a unit file: no blank, quote, specifier, variable or wildcard.
_PLAIN = re.compile(r"[A-Za-z0-9/._@+:-]+")


@dataclass(frozen=True)
class Armed:
    """``until`` in epoch seconds, for people; ``due`` on the monotonic clock of ``boot_id``, which decides.

    ``back``: who began to go back (settle, deadline, boot, operator); from then on it is never confirmed. ``left``:
    what could not be put back so far. ``tries_until``: epoch seconds, until when that is tried again.
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


@dataclass(frozen=True)
class Event:
    """How a change ended. ``by``: settle, deadline, boot or operator; ``at`` in epoch seconds. ``rollback``: the
    generation of the rollback that made good what was in doubt, where that is to be confirmed itself."""

    generation: int
    outcome: str
    by: str
    at: float
    checkpoint: str
    left: list[str]
    rollback: int | None = None


def generation(store: Store) -> int:
    """The number of the newest arming; 0 before the first."""
    try:
        with open(store.join("generation")) as stream:
            return int(stream.read())
    except FileNotFoundError:
        return 0


def last_event(store: Store) -> Event | None:
    """The newest outcome; a torn line (power cut while appending) never was one."""
    try:
        with open(store.join("events"), "rb") as stream:
            lines = stream.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            return Event(**json.loads(line))
        except (ValueError, TypeError):
            continue
    return None


def armed(store: Store) -> Armed | None:
    """The change that waits for its confirmation, if there is one."""
    try:
        with open(store.join("armed")) as stream:
            found = json.load(stream)
        # A newer version may have written keys that this one does not know.
        record = Armed(**{key: found[key] for key in (one.name for one in fields(Armed)) if key in found})
    except FileNotFoundError:
        return None
    last = last_event(store)
    return None if last is not None and last.generation >= record.generation else record


def host_state(root: str, system: System | None = None) -> dict[str, Any]:
    """What a guard or a status asks of a host; reads only."""
    from ._doubt import in_doubt  # It imports us.

    store = Store(root, system or System())
    change, last, doubt = armed(store), last_event(store), in_doubt(store)
    return {
        "generation": generation(store),
        "armed": change.shown() if change else None,
        "last": asdict(last) if last else None,
        "doubt": asdict(doubt) if doubt else None,
        "interrupted": bool(pending(store)) or os.path.exists(store.join("resume")),
    }


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


def prepare(store: Store, within: float, agent: str) -> None:
    """Put the units of the dead-man in place. Before the checkpoint is taken, so that they are part of no change.

    ``agent`` is the path of the installed zipapp. Raises UsageError for a path that a unit file cannot hold as it is.
    """
    refuse_if_armed(store)
    if store.system.has_systemd():
        _check_paths(store)
        _install_units(store, generation(store) + 1, within, agent)


def arm(store: Store, checkpoint: str, name: str, within: float, agent: str) -> Armed:
    """Start the timer, then record the change: a record without a timer must not exist."""
    number = generation(store) + 1
    write_file(store.join("generation"), f"{number}\n".encode())
    system = store.system
    record = Armed(
        number, checkpoint, name, system.now() + within, within, system.boot_id(), system.monotonic() + within
    )
    if system.has_systemd():
        _systemctl(store, "start", _unit(store) + ".timer")
    else:
        _start_process(store, number, within, agent)
    return _record(store, record)


def conclude(store: Store, record: Armed, outcome: str, by: str, left: list[str] | None = None) -> Event:
    """Record how the change ended, and stop the dead-man. Durable once this returns."""
    event = Event(record.generation, outcome, by, store.system.now(), record.checkpoint, left or [])
    record_event(store, event)
    remove_file(store.join("armed"))
    if store.system.has_systemd() and by != "deadline":
        store.system.run(["systemctl", "stop", "--no-block", _unit(store) + ".timer"], 10.0)
    return event


def record_event(store: Store, event: Event) -> None:
    """Append the event. Durable once this returns."""
    # Without the key that version 0.1.0 does not know, where that says nothing.
    told = {key: value for key, value in asdict(event).items() if value is not None}
    append_line(store.join("events"), json.dumps(told).encode())


def begin_return(store: Store, record: Armed, by: str) -> Armed:
    """Mark, under the lock and before the first live change of its rollback, that this change goes back: it is never
    confirmed then, and whoever comes next carries on. Durable once this returns; the first mark stays."""
    known = _newest(store, record)
    return known if known.back else _record(store, replace(known, back=by))


def keep_trying(store: Store, record: Armed, by: str, left: Sequence[str]) -> Armed:
    """Record, under the lock, what could not be put back, and let the dead-man try it again, now and with growing
    pauses, for ``TRIES`` from the first time on; its end then is in doubt. Nothing is waited for."""
    known = note_left(store, record, by, left)
    fire(store)
    return known


def note_left(store: Store, record: Armed, by: str, left: Sequence[str]) -> Armed:
    """Record, under the lock, what could not be put back so far."""
    known = _newest(store, record)
    tries_until = known.tries_until or store.system.now() + TRIES
    return _record(store, replace(known, back=known.back or by, left=list(left), tries_until=tries_until))


def _newest(store: Store, record: Armed) -> Armed:
    """What is recorded of the same change by now."""
    known = armed(store)
    return known if known is not None and known.generation == record.generation else record


def _record(store: Store, record: Armed) -> Armed:
    write_file(store.join("armed"), json.dumps(asdict(record)).encode())
    return record


def fire(store: Store) -> None:
    """Start what the timer would start, once the host has booted. Nothing is waited for, and one that is at work
    already goes on alone."""
    if store.system.has_systemd():
        store.system.run(["systemctl", "start", "--no-block", _unit(store) + ".service"], 10.0)


# -- the two kinds of timer


def _unit(store: Store, kind: str = "deadman") -> str:
    """Unit name; stores elsewhere than the default have units of their own."""
    if store.root == _DEFAULT:
        return f"evenkeel-{kind}"
    # As systemd-escape --path does: no two paths have the same name.
    path = re.sub(r"^\.|[^A-Za-z0-9:_./]", lambda found: f"\\x{ord(found[0]):02x}", store.root.strip("/"))
    return f"evenkeel-{kind}-" + path.replace("/", "-")


def _python() -> str:
    return sys.executable or "/usr/bin/python3"


def _check_paths(store: Store) -> None:
    """Unit files would take other characters for something else, and fail when the time comes."""
    for what, path, mend in (
        ("the store path", store.root, "choose a store path"),
        ("the path of Python", _python(), "choose an interpreter (ansible_python_interpreter) with a path"),
    ):
        if not _PLAIN.fullmatch(path):
            raise UsageError(
                f"the dead-man cannot be armed: {what} {path!r} cannot stand in a unit of systemd; {mend} of letters, "
                "digits and / . _ - + @ :. Nothing was changed"
            )


def _install_units(store: Store, number: int, within: float, agent: str) -> None:
    command = f"{_python()} {agent} --store {store.root}"
    # KillMode: a process that the rollback starts again stays in the agent's control group, and outlives the agent.
    service = (
        "[Unit]\nDescription=Put this host back: a change was not confirmed in time\n\n"
        f"[Service]\nType=oneshot\nKillMode=process\nExecStart={command} deadline --generation {number}\n"
    )
    # AccuracySec: timers coalesce, by default within a minute.
    timer = (
        "[Unit]\nDescription=Deadline for the confirmation of a change\n\n"
        f"[Timer]\nOnActiveSec={math.ceil(within * 1000)}ms\nAccuracySec=100ms\nRemainAfterElapse=no\n"
    )
    # Early: before what the change may have broken starts. The units it starts are queued, never waited for.
    boot = (
        "[Unit]\nDescription=Put this host back after a reboot in the middle of a change\n"
        "DefaultDependencies=no\nAfter=local-fs.target systemd-remount-fs.service\n"
        f"Before=sysinit.target shutdown.target\nConflicts=shutdown.target\nRequiresMountsFor={store.root}\n"
        f"ConditionPathExistsGlob=|{store.root}/armed\nConditionPathExistsGlob=|{store.root}/journal/*\n"
        f"ConditionPathExists=|{store.root}/resume\n\n"
        f"[Service]\nType=oneshot\nKillMode=process\nExecStart={command} boot\n\n[Install]\nWantedBy=sysinit.target\n"
    )
    deadman, at_boot = _unit(store), _unit(store, "boot")
    units = {deadman + ".service": service, deadman + ".timer": timer, at_boot + ".service": boot}
    for name, text in units.items():
        write_file(os.path.join(_UNITS, name), text.encode(), 0o644)
    _systemctl(store, "stop", deadman + ".timer")
    _systemctl(store, "daemon-reload")
    _systemctl(store, "enable", "--quiet", at_boot + ".service")


def _systemctl(store: Store, *words: str) -> None:
    done = store.system.run(["systemctl", *words], 30.0)
    if done.rc != 0:
        raise Refused(f"the dead-man cannot be armed: systemctl {' '.join(words)}: {done.words}; nothing was changed")


def _start_process(store: Store, number: int, within: float, agent: str) -> None:
    """A process that sleeps until the deadline, or until the change has ended otherwise."""
    argv = [
        sys.executable,
        agent,
        "--store",
        store.root,
        "watch",
        "--generation",
        str(number),
        "--within",
        str(within),
    ]
    detached(argv)
