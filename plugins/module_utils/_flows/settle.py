# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The end of a change on one host: measure health, then confirm or roll back."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any

from .._deadman import changes
from .._errors import EvenkeelError, RestoreFailed, Unhealthy, UsageError
from .._health import probes as probing
from .._health.wait import Health, wait
from .._host import background, logins
from .._host.processes import login_of
from .._store.store import Store
from .rollback import flow
from .rollback.plan import Options
from .rollback.run import Run

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
        changes.fence(store, generation)
        change = changes.armed(store)
        return dict(_report(generation, "", "", None), changed=change is not None, planned=["confirm, or roll back"])
    with store.locked():
        try:
            flow.finish(store)
        except EvenkeelError as error:
            raise _in_doubt(error, generation, None) from error
        changes.fence(store, generation)
        change = changes.armed(store)
    if change is None:
        return _ended(store, generation)
    health: Health | None = None
    login = logins.age(store.system.monotonic() - (change.due - change.within))
    if verdict == "probe" and login != logins.OLD:
        # Not under the lock: at the deadline the dead-man must get through.
        left = change.due - store.system.monotonic() - 1.0
        health = wait(
            checked, min(soak, max(left, 0.0)), max(0.0, min(max(soak, deadline), left)), interval, store.system
        )
        enough = health.state == "pass" and soak <= max(left, 0.0)
    else:
        enough = False
    jobs = background.Ended() if enough else _end_jobs(store, change)
    with store.locked():
        _said, back = flow.resume(store)  # Of an operator's, killed meanwhile.
        change = changes.armed(store)
        if change is None or change.generation != generation:
            return _ended(store, generation, health)
        if enough and change.checkpoint not in back and change.overdue(store.system) is None:
            changes.conclude(store, change, changes.CONFIRMED, "settle")
            report = _report(generation, changes.CONFIRMED, "settle", health)
            return dict(report, changed=True, done=["confirmed"], proved=_passed(health), login=login)
        manifest = store.manifest(change.checkpoint)
        try:
            result = flow.execute(store, manifest, change, "settle")
        except EvenkeelError as error:
            raise _in_doubt(error, generation, health) from error
    reason = _reason(health) if health is not None else _OLD_LOGIN if verdict == "probe" else "as asked"
    # It is as it was on disk, and its services run. Whether that is healthy is measured, and said.
    again = wait(checked, 0.0, RETURN, interval, store.system) if checked else None
    result.update(_report(generation, changes.ROLLED_BACK, "settle", health, result))
    result["done"] = [f"ended a job of Ansible, {one}" for one in jobs.ended] + result["done"]
    result["left"] = result["left"] + [f"a job of Ansible still runs, {one}" for one in jobs.running]
    result.update(changed=True, health_after=asdict(again) if again is not None else None, login=login)
    raise Unhealthy(f"rolled back to {manifest.name}: {reason}; {_health_now(again)}", **result)


def _health_now(again: Health | None) -> str:
    if again is None:
        return "its health is not measured, because no probe is declared"
    return "healthy again" if again.state == "pass" else f"still not healthy: {_reason(again)}"


def _in_doubt(error: EvenkeelError, generation: int, health: Health | None) -> EvenkeelError:
    """The error of a rollback that did not put back everything, as the end of this change for now."""
    error.result = {
        **_report(generation, changes.IN_DOUBT, "settle", health),
        **error.result,
        "outcome": changes.IN_DOUBT,
        "changed": True,
    }
    until = (error.result.get("armed") or {}).get("tries_until")
    if until:
        error.message += f". The host tries again until {time.strftime('%H:%M:%S', time.localtime(until))} (its clock)"
    return error


def _end_jobs(store: Store, change: changes.Armed) -> background.Ended:
    """What a killed controller, or the change itself, has left running would change the host once more."""
    since = background.boottime(store.system, change.due - change.within)
    # What was started at the same time as this module belongs to the same task, on a machine with several hosts.
    return background.end_jobs(store.system, since, background.started(os.getpid()) - 0.5, DRAIN, change.login)


def _ended(store: Store, generation: int, health: Health | None = None) -> dict[str, Any]:
    """The change is over already: what its end was."""
    event = changes.last_event(store)
    if event is None or event.generation != generation:
        raise UsageError(f"there is no change of generation {generation} on this host; begin one with ft_checkpoint")
    report = _report(generation, event.outcome, event.by, health)
    if event.outcome == changes.CONFIRMED:
        return report
    report["left"] = event.left
    if event.outcome == changes.ROLLED_BACK:
        again = _still_back(store, event, report)
        raise Unhealthy(
            f"the host has put itself back already, by {event.by}: the change was not confirmed{again}", **report
        )
    raise RestoreFailed(f"the rollback by {event.by} is in doubt: {'; '.join(event.left[:10])}", **report)


def _still_back(store: Store, event: changes.Event, report: dict[str, Any]) -> str:
    """Measure whether what was rolled back is so still: tasks of the controller may have run on since. They are put
    back as well, and RestoreFailed is raised where that cannot be done. What was found, in words."""
    try:
        manifest = store.manifest(event.checkpoint)
    except EvenkeelError as error:
        return f". Whether tasks have changed it since is not known: {error.message}"
    since = background.boottime(store.system, store.system.monotonic() - (store.system.now() - event.at)) - 1.0
    background.end_jobs(store.system, since, background.started(os.getpid()) - 0.5, 0.0, login_of("self"))
    try:
        done = Run(store, manifest, Options(insist=True, spared=event.written)).carry_out()["done"]
    except EvenkeelError as error:
        left = [str(one) for one in error.result.get("left", [])] or [error.message]
        record = changes.Armed(event.generation, event.checkpoint, manifest.name, 0.0, 0.0, "", 0.0)
        changes.conclude(store, record, changes.IN_DOUBT, "settle", left)
        error.result = {**report, **error.result, "left": left, "outcome": changes.IN_DOUBT}
        raise
    report.update(done=done, changed=bool(done))
    return f". {len(done)} things were changed on it after that, and are put back now as well" if done else ""


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
