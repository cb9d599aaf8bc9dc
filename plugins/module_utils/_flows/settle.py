# SPDX-License-Identifier: GPL-3.0-or-later

"""The end of a change on one host: measure health, then confirm or roll back."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from .._dataclasses import replace
from .._deadman import changes, outside
from .._errors import EvenkeelError, Refused, RestoreFailed, Unhealthy, UsageError
from .._health import probes as probing
from .._health.evidence import evidence
from .._health.wait import Health, Times, wait
from .._host import background, logins
from .._host.processes import login_of
from .._results.change import RolledBack, Settled, SettledBack
from .._services.owed import owed
from .._store.store import Store
from . import footprints, strays
from .rollback import flow
from .rollback.plan import Options
from .rollback.resume import resume
from .rollback.run import Run

# Seconds that a rollback waits for jobs that a killed controller has left running on this host.
DRAIN = 10.0
# Seconds after a rollback within which the services have to answer again; otherwise the report says that they do not.
RETURN = 10.0
_OLD_LOGIN = (
    "the login that was to confirm it is older than the change, so nobody has shown that a new login is let in; "
    "confirm over a connection that nothing shares (ssh: ControlPath=none)"
)


class Request(NamedTuple):
    """The arguments of ``ft_settle``. ``reason``: why the host is to go back, in words."""

    generation: int
    probes: Any
    times: Times
    verdict: str = "probe"
    measured: Any = ()
    reason: str = ""


# Verdict -> the next stage of a change that is not over yet; ``hold`` measures the host's health first.
_STAGES = {"hold": changes.HELD, "extend": "", "approve": changes.APPROVED, "decide": changes.DECIDED}
VERDICTS = ("probe", *_STAGES, "roll_back", "take_back")
_MEASURING = ("probe", "hold")
_PLANS = {
    **dict.fromkeys(VERDICTS, "move the deadline"),
    "probe": "confirm, or roll back",
    "hold": "hold, or roll back",
    **dict.fromkeys(("roll_back", "take_back"), "roll back"),
}


def settle(store: Store, request: Request, check_mode: bool = False) -> Settled:
    """Confirm the change of this generation, keep it open, or roll it back.

    Returns only for a change that is confirmed or is open as asked. Raises Unhealthy when it was rolled back,
    RestoreFailed when it is in doubt, Refused when another run has changed the host since, or when the change cannot be
    kept open.
    """
    settling = _Settling(store, request)
    if check_mode:
        return settling.predicted()
    result = settling.carry_out()
    if result.outcome == changes.CONFIRMED:
        result.owed = owed(store.system)  # without the lock, and with no deadline any more
    return result


class _Settling:
    """The end of one change, from its request to its result."""

    def __init__(self, store: Store, request: Request) -> None:
        self.store = store
        self.request = request
        self.generation = request.generation
        self.probes = [*probing.check(request.probes), *evidence(request.measured)]
        self.health: Health | None = None
        self.running: list[str] = []
        if request.verdict not in VERDICTS:
            raise UsageError(f"verdict must be one of {', '.join(VERDICTS)}, not {request.verdict!r}")

    def predicted(self) -> Settled:
        """The result in check mode: health is measured only when it counts."""
        changes.fence(self.store, self.generation)
        change, verdict = changes.armed(self.store), self.request.verdict
        if change is None and changes.last_event(self.store) is None:  # Check mode has armed nothing before.
            return Settled(changed=False, planned=[_PLANS[verdict]], generation=self.generation)
        if change is None and not (verdict == "take_back" and self._is_confirmed()):
            return _ended(self.store, self.generation, verified=False)
        if change is not None:
            self._check_stage(change)
        return Settled(changed=True, planned=[_PLANS[verdict]], generation=self.generation)

    def _is_confirmed(self) -> bool:
        """Whether the change was confirmed, so that it can be taken back."""
        event = changes.last_event(self.store)
        return event is not None and (event.generation, event.outcome) == (self.generation, changes.CONFIRMED)

    def _check_stage(self, change: changes.Armed) -> None:
        """Raise Refused where a change that is not held is to go to a stage after that."""
        if self.request.verdict in ("approve", "decide") and not change.stage:
            raise Refused(
                f"the change of generation {self.generation} is not held on this host: it still runs, or its health"
                " has not been measured. Look with ft_info (evenkeel status)"
            )

    def carry_out(self) -> Settled:
        """Measure, then confirm, hold or roll back."""
        store, verdict = self.store, self.request.verdict
        change = self._under_way()
        if change is None:
            if verdict == "take_back":
                return self._take_back()
            # The driver waits for the answer to an extension beside its playbook, and settles the host afterwards.
            return _ended(store, self.generation, verified=verdict != "extend")
        login = logins.age(store.system.monotonic() - change.started)
        if verdict in _STAGES and verdict not in _MEASURING:
            return self._keep_open(login)
        booted = change.boots >= min(change.reboots, 1)
        enough = verdict in _MEASURING and login != logins.OLD and booted and self._is_healthy(change)
        jobs = background.Ended() if enough else _end_jobs(store, change)
        self.running = background.running(store.system, *_since(store, change), change.login) if enough else []
        if enough and not change.stage:  # A held change was looked at when it was held.
            left = change.due - store.system.monotonic()
            footprints.find_changed(store, self.generation, change.checkpoint, back=False, seconds=left / 2)
        with store.locked(first=True):
            _said, resumed = resume(store)  # An operator's rollback may have been killed meanwhile.
            change = changes.armed(store)
            if change is None or change.generation != self.generation:
                return _ended(store, self.generation, self.health)
            if enough and change.checkpoint not in resumed and change.overdue(store.system) is None:
                if verdict == "hold":
                    return self._open(change, login)
                event = changes.conclude(store, change, changes.CONFIRMED, "settle")
                result = self._stays(changes.CONFIRMED, login)
                result.warnings = [*(result.warnings or []), *event.left] or None
                result.done = ["confirmed"]
                result.outside = outside.told(store)
                return result
            manifest = store.manifest(change.checkpoint)
            try:
                back = flow.execute(store, manifest, change, "settle")
            except EvenkeelError as error:
                raise self._in_doubt(error) from error
        raise self._rolled_back(back, manifest.name, jobs, login)

    def _locked(self) -> AbstractContextManager[None]:
        """The lock of the store. An extension ends no checkpoint beside the change while there is time for both: the
        playbook of the change may take it."""
        spare = changes.spare(self.store) if self.request.verdict == "extend" else 0.0
        return self.store.locked(first=True, spare=spare)

    def _keep_open(self, login: str) -> Settled:
        """Extend the change, and note its new stage, without a look at the host's health."""
        if login == logins.OLD:
            raise Refused(f"not extended: {_OLD_LOGIN}", login=login)
        with self._locked():
            change = changes.armed(self.store)
            if change is None or change.generation != self.generation:
                return _ended(self.store, self.generation, verified=self.request.verdict != "extend")
            self._check_stage(change)
            return self._open(change, login)

    def _open(self, change: changes.Armed, login: str) -> Settled:
        """Under the lock: the change stays open, with a new deadline."""
        change = changes.extend(self.store, change, stage=_STAGES[self.request.verdict])
        result = self._stays(change.stage or changes.EXTENDED, login)
        result.armed, result.remaining = change.shown(), round(change.due - self.store.system.monotonic(), 3)
        result.done = [f"to be confirmed within {result.remaining:.0f} s from now"]
        return result

    def _take_back(self) -> Settled:
        """Roll back a change that was confirmed already, by nobody on the host. Raises as ``settle`` says."""
        store = self.store
        with store.locked(first=True):
            event = changes.last_event(store)
            if event is None or not self._is_confirmed():
                return _ended(store, self.generation)
            if event.by == "operator":  # A person has confirmed it for this host, which keeps the change.
                return _ended(store, self.generation)
            manifest = store.manifest(event.checkpoint)
            record = replace(
                changes.Armed(self.generation, manifest.id, manifest.name, 0.0, 0.0, "", 0.0),
                change=event.change,
                hosts=event.hosts,
                boots=event.boots,
            )
            run = Run(store, manifest, Options(unattended=True))
            try:
                back = run.carry_out()
            except RestoreFailed as error:
                left = [str(one) for one in error.result.get("left", [])] or [error.message]
                changes.conclude(store, record, changes.IN_DOUBT, "settle", left)
                raise self._in_doubt(error) from error
            footprints.find_changed(store, self.generation, manifest.id, back=True)
            needs = flow.boot_it(record, back)
            changes.conclude(store, record, changes.ROLLED_BACK, "settle", needs, run.written)
        back.changed = True
        back.left += needs
        raise self._rolled_back(back, manifest.name, background.Ended(), logins.NOT_SHOWN)

    def _under_way(self) -> changes.Armed | None:
        """Finish the leftovers of a kill; the change under way, or None where the change is over."""
        with self._locked():
            try:
                flow.finish(self.store)
            except EvenkeelError as error:
                raise self._in_doubt(error) from error
            changes.fence(self.store, self.generation)
            return changes.armed(self.store)

    def _is_healthy(self, change: changes.Armed) -> bool:
        """Measure, without the lock: at the deadline the dead-man must get through."""
        times = self.request.times
        left = change.due - self.store.system.monotonic() - 1.0
        bounded = Times(
            min(times.soak, max(left, 0.0)), max(0.0, min(max(times.soak, times.deadline), left)), times.interval
        )
        self.health = wait(self.probes, bounded, self.store.system)
        return self.health.state == "pass" and times.soak <= max(left, 0.0)

    def _rolled_back(self, back: RolledBack, name: str, jobs: background.Ended, login: str) -> Unhealthy:
        """The failure for a rollback, with the health of the host measured once more."""
        if self.health is not None:
            reason = _reason(self.health)
        elif self.request.verdict in _MEASURING:
            reason = _OLD_LOGIN if login == logins.OLD else "the boot that was planned has not come"
        else:
            reason = self.request.reason or "as asked"
        times = Times(0.0, RETURN, self.request.times.interval)
        # Evidence from outside was measured before the rollback.
        own = [one for one in self.probes if not one.final]
        measured = wait(own, times, self.store.system) if own else None
        result = SettledBack(
            **{**vars(back), "generation": self.generation},
            outcome=changes.ROLLED_BACK,
            by="settle",
            health=self.health,
            health_after=measured,
            login=login,
            outside=outside.told(self.store),
        )
        result.done = [f"ended a job of Ansible, {one}" for one in jobs.ended] + back.done
        result.left = back.left + jobs.left
        result.warnings = [*(self._warnings() or []), *flow.beside(result)] or None
        beyond = outside.words(result.outside, outside.why_unknown(self.store))
        said = f"rolled back to {name}: {reason}; {_health_now(measured)}; {beyond}"
        return Unhealthy(said, **result.report())

    def _in_doubt(self, error: EvenkeelError) -> EvenkeelError:
        """The error of a rollback that did not put back everything, as the end of this change for now."""
        report = self._end(changes.IN_DOUBT).report()
        error.result = {**report, **error.result, "outcome": changes.IN_DOUBT, "changed": True}
        until = (error.result.get("armed") or {}).get("tries_until")
        if until:
            clock = time.strftime("%H:%M:%S", time.localtime(until))
            error.message += f". The host tries again until {clock} (its clock)"
        return error

    def _stays(self, outcome: str, login: str) -> Settled:
        """The result of a change that stays, for good or for now."""
        result = self._end(outcome)
        result.changed, result.login, result.warnings = True, login, self._warnings()
        result.proved = self.health.passed() if self.health is not None else []
        return result

    def _warnings(self) -> list[str] | None:
        jobs = [f"a job of Ansible still runs, and may change the host once more: {one}" for one in self.running]
        return [*(self.health.warnings() if self.health is not None else []), *jobs] or None

    def _end(self, outcome: str) -> Settled:
        return Settled(generation=self.generation, outcome=outcome, by="settle", health=self.health)


def _health_now(health: Health | None) -> str:
    if health is None:
        return "its health is not measured, because no probe is declared for the host itself"
    return "healthy again" if health.state == "pass" else f"still not healthy: {_reason(health)}"


def _since(store: Store, change: changes.Armed) -> tuple[float, float]:
    """The times, in seconds after boot, between which the jobs of the change have started."""
    # On a machine with several hosts, a job that was started together with this module belongs to the same task.
    return background.boottime(store.system, change.started), background.started(os.getpid()) - 0.5


def _end_jobs(store: Store, change: changes.Armed) -> background.Ended:
    """End the jobs that a killed controller, or the change itself, has left running, and name what else goes on."""
    since, before = _since(store, change)
    jobs = background.end_jobs(store.system, since, before, DRAIN, change.login)
    return replace(jobs, beside=strays.found(store.system, since, before, change.login))


def _ended(store: Store, generation: int, health: Health | None = None, verified: bool = True) -> Settled:
    """The end of a change that is over already. ``verified``: a host that was rolled back is verified once more."""
    event = changes.last_event(store)
    if event is None or event.generation != generation:
        raise UsageError(f"there is no change of generation {generation} on this host; begin one with ft_checkpoint")
    result = Settled(generation=generation, outcome=event.outcome, by=event.by, health=health)
    result.outside = outside.told(store)
    if event.outcome == changes.CONFIRMED:
        result.warnings = event.left or None
        return result
    result.left = event.left
    if event.outcome == changes.ROLLED_BACK:
        result.outside = None  # Tasks may have run since it was looked at.
        state = (
            _still_back(store, event, result) if verified else ". Whether tasks have changed it since was not looked at"
        )
        raise Unhealthy(
            f"the host has put itself back already, by {event.by}: the change was not confirmed{state}; "
            f"{outside.words(result.outside, outside.why_unknown(store))}",
            **result.report(),
        )
    raise RestoreFailed(f"the rollback by {event.by} is in doubt: {'; '.join(event.left[:10])}", **result.report())


def _still_back(store: Store, event: changes.Event, result: Settled) -> str:
    """Measure whether a host that was rolled back is still as recorded: tasks of the controller may have run since.
    Their changes are undone as well, and RestoreFailed is raised where that fails. Returns the findings, in words."""
    try:
        manifest = store.manifest(event.checkpoint)
    except EvenkeelError as error:
        return f". Whether tasks have changed it since is not known: {error.message}"
    since = background.boottime(store.system, store.system.monotonic() - (store.system.now() - event.at)) - 1.0
    background.end_jobs(store.system, since, background.started(os.getpid()) - 0.5, 0.0, login_of("self"))
    try:
        done = Run(store, manifest, Options(unattended=True, spared=event.written)).carry_out().done
    except EvenkeelError as error:
        left = [str(one) for one in error.result.get("left", [])] or [error.message]
        record = changes.Armed(event.generation, event.checkpoint, manifest.name, 0.0, 0.0, "", 0.0)
        changes.conclude(store, record, changes.IN_DOUBT, "settle", left)
        error.result = {**result.report(), **error.result, "left": left, "outcome": changes.IN_DOUBT}
        raise
    result.done, result.changed = done, bool(done)
    result.outside = footprints.find_changed(store, event.generation, event.checkpoint, back=True)
    return f". {len(done)} things were changed on it after that, and are put back now as well" if done else ""


def _reason(health: Health) -> str:
    return "; ".join(health.wrong()) or f"not healthy for the whole soak ({health.state})"
