# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The dead-man of a host: armed before a change, it puts the host back unless the change is confirmed in time.

What the host remembers, below its store:

- ``generation``: a counter, raised by every arming; what a run with an older number asks for is refused.
- ``armed``: the change under way: its generation, checkpoint and deadline.
- ``events``: one JSON line per outcome, appended and synced. An outcome counts from that moment: an ``armed`` of the
  same generation is then over, even if a kill left it lying there.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from dataclasses import asdict, dataclass
from typing import Any

from ._errors import Refused, UsageError
from ._store.durable import append_line, remove_file, write_file
from ._store.store import Store
from ._store.transaction import pending
from ._system import System, detached

CONFIRMED, ROLLED_BACK, IN_DOUBT = "confirmed", "rolled_back", "in_doubt"
_UNITS = "/etc/systemd/system"
_DEFAULT = "/var/lib/evenkeel"
# What stands for itself in every line of a unit file: no blank, quote, specifier, variable or wildcard.
_PLAIN = re.compile(r"[A-Za-z0-9/._@+:-]+")


@dataclass(frozen=True)
class Armed:
    """``until`` in epoch seconds, for people; ``due`` on the monotonic clock of ``boot_id``, which decides."""

    generation: int
    checkpoint: str
    name: str
    until: float
    within: float
    boot_id: str
    due: float

    def shown(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("generation", "checkpoint", "name", "until", "within")}

    def overdue(self, system: System) -> str | None:
        """Why the time for a confirmation is over (``boot``, ``deadline``), or None while it runs."""
        if self.boot_id != system.boot_id():
            return "boot"
        return "deadline" if system.monotonic() >= self.due else None


@dataclass(frozen=True)
class Event:
    """How a change ended. ``by``: settle, deadline, boot or operator; ``at`` in epoch seconds."""

    generation: int
    outcome: str
    by: str
    at: float
    checkpoint: str
    left: list[str]


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
            record = Armed(**json.load(stream))
    except FileNotFoundError:
        return None
    last = last_event(store)
    return None if last is not None and last.generation >= record.generation else record


def host_state(root: str, system: System | None = None) -> dict[str, Any]:
    """What a guard or a status asks of a host; reads only."""
    store = Store(root, system or System())
    change, last = armed(store), last_event(store)
    return {
        "generation": generation(store),
        "armed": dict(change.shown(), overdue=_late(change, store.system)) if change else None,
        "last": asdict(last) if last else None,
        "interrupted": bool(pending(store)) or os.path.exists(store.join("resume")),
    }


def _late(change: Armed, system: System) -> float | None:
    """For how many seconds the host should have been going back; None while a confirmation is waited for."""
    why = change.overdue(system)
    # The monotonic clock begins at the boot that ended the wait.
    return None if why is None else system.monotonic() - (change.due if why == "deadline" else 0.0)


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
    write_file(store.join("armed"), json.dumps(asdict(record)).encode())
    return record


def conclude(store: Store, record: Armed, outcome: str, by: str, left: list[str] | None = None) -> Event:
    """Record how the change ended, and stop the dead-man. Durable once this returns."""
    event = Event(record.generation, outcome, by, store.system.now(), record.checkpoint, left or [])
    append_line(store.join("events"), json.dumps(asdict(event)).encode())
    remove_file(store.join("armed"))
    if store.system.has_systemd() and by != "deadline":
        store.system.run(["systemctl", "stop", "--no-block", _unit(store) + ".timer"], 10.0)
    return event


def fire(store: Store) -> None:
    """Start what the timer would start, once the host has booted. Nothing is waited for."""
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
