# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The end of a change on one host: measure health, then confirm or roll back."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from . import _deadman, _login, _rollback
from ._errors import EvenkeelError, RestoreFailed, Unhealthy, UsageError
from ._health import probes as probing
from ._health.wait import Health, wait
from ._store.store import Store
from ._system import start_time

# How long a rollback waits for what a killed controller has left running on this host.
DRAIN = 10.0
# How long after a rollback the services may take to answer again, before the report says that they do not.
RETURN = 10.0
_OLD_LOGIN = (
    "the login that was to confirm it is older than the change, so nobody has shown that a new one is let in; "
    "confirm over a connection that nothing shares (ssh: ControlPath=none)"
)


def settle(
    store: Store,
    generation: int,
    probes: Any,
    soak: float,
    deadline: float,
    interval: float,
    verdict: str = "probe",
    check_mode: bool = False,
) -> dict[str, Any]:
    """Confirm the change of this generation, or roll it back (``ft_settle``). Times in seconds.

    Returns only for a change that is confirmed. Raises Unhealthy when it was rolled back, RestoreFailed when it is
    in doubt, Refused when another run has changed the host since.
    """
    checked = probing.check(probes)
    if verdict not in ("probe", "roll_back"):
        raise UsageError(f"verdict: {verdict!r}; it is probe or roll_back")
    if check_mode:
        _deadman.fence(store, generation)
        change = _deadman.armed(store)
        return dict(_report(generation, "", "", None), changed=change is not None, planned=["confirm, or roll back"])
    with store.locked():
        _rollback.finish(store)
        _deadman.fence(store, generation)
        change = _deadman.armed(store)
    if change is None:
        return _ended(store, generation)
    health: Health | None = None
    login = _login.age(store.system.monotonic() - (change.due - change.within))
    if verdict == "probe" and login != _login.OLD:
        # Not under the lock: at the deadline the dead-man must get through.
        left = change.due - store.system.monotonic() - 1.0
        health = wait(
            checked, min(soak, max(left, 0.0)), max(0.0, min(max(soak, deadline), left)), interval, store.system
        )
        enough = health.state == "pass" and soak <= max(left, 0.0)
    else:
        # What was started at the same time as this module belongs to the same task, on a machine with several hosts.
        drain(store, DRAIN, _started(os.getpid()) - 0.5)
        enough = False
    with store.locked():
        _said, back = _rollback.resume(store)  # Of an operator's, killed meanwhile.
        change = _deadman.armed(store)
        if change is None or change.generation != generation:
            return _ended(store, generation, health)
        if enough and change.checkpoint not in back and change.overdue(store.system) is None:
            _deadman.conclude(store, change, _deadman.CONFIRMED, "settle")
            report = _report(generation, _deadman.CONFIRMED, "settle", health)
            return dict(report, changed=True, done=["confirmed"], proved=_passed(health), login=login)
        manifest = store.manifest(change.checkpoint)
        try:
            result = _rollback.execute(store, manifest, change, "settle")
        except EvenkeelError as error:
            error.result = {
                **_report(generation, _deadman.IN_DOUBT, "settle", health),
                **error.result,
                "changed": True,
            }
            error.result["outcome"] = _deadman.IN_DOUBT
            raise
    reason = _reason(health) if health is not None else _OLD_LOGIN if verdict == "probe" else "as asked"
    # It is as it was on disk, and its services run. Whether that is healthy is measured, and said.
    again = wait(checked, 0.0, RETURN, interval, store.system)
    if checked:  # Without a probe nothing is measured.
        reason += "; healthy again" if again.state == "pass" else f"; still not healthy: {_reason(again)}"
    result.update(_report(generation, _deadman.ROLLED_BACK, "settle", health, result))
    result.update(changed=True, health_after=asdict(again), login=login)
    raise Unhealthy(f"rolled back to {manifest.name}: {reason}", **result)


def drain(store: Store, limit: float, before: float) -> list[str]:
    """Wait until no module that a controller started ``before`` (seconds after boot) still runs here.

    Returns the command lines of what runs on after ``limit`` seconds.
    """
    end = store.system.monotonic() + limit
    running = _remote_modules(before)
    while running and store.system.monotonic() < end:
        store.system.sleep(0.2)
        running = _remote_modules(before)
    return running


def _started(pid: int) -> float:
    """Seconds after boot at which the process started."""
    return (start_time(pid) or 0) / os.sysconf("SC_CLK_TCK")


def _remote_modules(before: float) -> list[str]:
    """Command lines of Ansible's remote shells. Ansible ends each with ``&& sleep 0``, so that the shell stays."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as stream:
                    words = stream.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
            except OSError:
                continue
            if words.endswith("&& sleep 0") and " -c " in words and 0 < _started(int(entry)) < before:
                found.append(words)
    return found


def _ended(store: Store, generation: int, health: Health | None = None) -> dict[str, Any]:
    """The change is over already: what its end was."""
    event = _deadman.last_event(store)
    if event is None or event.generation != generation:
        raise UsageError(f"there is no change of generation {generation} on this host; begin one with ft_checkpoint")
    report = _report(generation, event.outcome, event.by, health)
    if event.outcome == _deadman.CONFIRMED:
        return report
    report["left"] = event.left
    if event.outcome == _deadman.ROLLED_BACK:
        raise Unhealthy(f"the host has put itself back already, by {event.by}: the change was not confirmed", **report)
    raise RestoreFailed(f"the rollback by {event.by} is in doubt: {'; '.join(event.left[:10])}", **report)


def _report(
    generation: int, outcome: str, by: str, health: Health | None, more: dict[str, Any] | None = None
) -> dict[str, Any]:
    measured = asdict(health) if health is not None else None
    return dict(
        {"changed": False, "planned": [], "done": [], "proved": [], "left": []} if more is None else {},
        generation=generation,
        outcome=outcome,
        by=by,
        health=measured,
    )


def _passed(health: Health | None) -> list[str]:
    return [f"{one.kind} {one.target}: {one.state}" for one in health.probes] if health is not None else []


def _reason(health: Health) -> str:
    bad = [f"{one.kind} {one.target}: {one.state}, {one.detail}" for one in health.probes if one.state != "pass"]
    return "; ".join(bad) or f"not healthy for the whole soak ({health.state})"
