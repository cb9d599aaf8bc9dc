# SPDX-License-Identifier: GPL-3.0-or-later

"""A ladder: ways to make a service healthy, each tried when those before have failed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from ..._deadman import changes
from ..._deadman.doubt import in_doubt
from ..._errors import EvenkeelError, RestoreFailed, ServiceFailed, Unhealthy, UsageError
from ..._health.downtime import Downtime
from ..._health.probe import Probe
from ..._reliability import ladder as best_order
from ..._results.restart import Restarted, Rung
from ..._store.store import UNDO, Store
from .acting import Act, deed, planned
from .job import Tried
from .record import Entry, history
from .target import COLD, HOST, REBOOT, ROLLBACK, WARM, Request, refuse, target_of_request

# A host's own history orders the rungs where it has this many restarts by each of them.
_ENOUGH = 3


def order(rungs: Sequence[str], entries: Sequence[Entry], target: str) -> list[str]:
    """The rungs by their expected time over their chance, where the history tells it of every rung; else as written."""
    steps = []
    for rung in rungs:
        known = [one for one in entries if one.mode == rung and one.target == (HOST if rung == REBOOT else target)]
        if len(known) < _ENOUGH:
            return list(rungs)
        chance = sum(one.ok for one in known) / len(known)
        steps.append({"name": rung, "time": sum(one.seconds for one in known) / len(known), "chance": chance})
    return [str(name) for name in best_order(steps)["order"]]


def no_rollback(store: Store, wanted: str, entries: Sequence[Entry], target: str) -> str:
    """Why the service is not rolled back to this checkpoint; empty where the checkpoint is known to be good."""
    if wanted.partition("~")[0] == UNDO:
        return "an undo is the state that a rollback replaced, and nobody knows that it is good"
    change = changes.armed(store)
    if change is not None:
        return f"the change of generation {change.generation} is under way on this host, and a rollback would end it"
    since = takewhile(lambda one: not one.ok, (one for one in reversed(entries) if one.target == target))
    if any(one.mode == ROLLBACK for one in since):
        return "a rollback did not make it healthy, nothing has since, and a second one would not either"
    doubt = in_doubt(store)
    if doubt is not None:
        return f"this host is in doubt since its change of generation {doubt.generation}"
    wrong = store.verify(store.manifest(store.resolve(wanted)))
    return f"{len(wrong)} contents of checkpoint {wanted} are damaged or missing" if wrong else ""


class Climb:
    """A ladder, from its request to its result."""

    def __init__(self, store: Store, request: Request, probes: Sequence[Probe]) -> None:
        self.store, self.request, self.probes = store, request, probes
        self.target = target_of_request(request, store.system)
        if COLD in request.ladder or ROLLBACK in request.ladder:
            refuse(self.target, COLD)
        elif REBOOT not in request.ladder:
            refuse(self.target, WARM)
        if not self.target.before.exists:
            refuse(self.target, COLD)
        self.name, self.before = self.target.name, self.target.before
        self.entries = history(store)
        self.rungs = order(request.ladder, self.entries, self.name)
        self.tried: list[Tried] = []
        self.result = planned(self.target, request.how)
        self.result.planned = [self._step(rung) for rung in self.rungs]
        # Why the ladder goes no further, but for a rollback, and but for nothing.
        self.loops = self.over = False

    def _step(self, rung: str) -> dict[str, str]:
        action = rung if rung in (ROLLBACK, REBOOT) else self.target.verb(rung)
        return deed(action, HOST if rung == REBOOT else self.name)

    def predicted(self) -> Restarted:
        return self.result

    def carry_out(self) -> Restarted:
        """Try one rung after the other. Raises Unhealthy where none leads to health, or where a reboot comes next."""
        result = self.result
        with Downtime(self.probes) as downtime:
            for rung in self.rungs:
                if self.over or (self.loops and rung != ROLLBACK):
                    why = "a rollback has failed" if self.over else "it is in a crash loop"
                    result.rungs.append(Rung(rung, False, 0.0, f"not tried, because {why}"))
                elif rung == REBOOT:
                    result.next = REBOOT
                    break
                elif self._try(rung, downtime):
                    break
        result.downtime, result.downtime_of = downtime.seconds, downtime.name if downtime.words else ""
        if result.rungs and result.rungs[-1].ok:
            result.proved += filter(None, [downtime.words])
            return result
        result.left = [self.name]
        said = "; ".join(f"{one.rung}: {one.why}" for one in result.rungs) or "nothing was tried"
        more = "; the next rung is a reboot, which only a controller can carry out" if result.next else ""
        raise Unhealthy(f"{self.name} is not healthy ({said}){more}", **result.report())

    def _try(self, rung: str, downtime: Downtime) -> bool:
        """Whether the rung led to health."""
        system, result = self.store.system, self.result
        began = system.monotonic()
        try:
            if rung == ROLLBACK:
                self._roll_back()
            target = target_of_request(self.request, system)
            mode = WARM if rung == WARM else COLD
            refuse(target, mode)
            act = Act(target, mode, system)
        except (EvenkeelError, OSError) as error:
            why = error.cause if isinstance(error, EvenkeelError) else str(error)
            self.over = isinstance(error, RestoreFailed)
            seconds = round(system.monotonic() - began, 3)
            if self.over:  # The rung was tried, and is remembered.
                self.tried.append(Tried(self.name, rung, False, seconds))
            result.rungs.append(Rung(rung, False, seconds, why))
            return False
        why = ""
        try:
            act.carry_out(self.probes, self.request.times, downtime)
        except (ServiceFailed, Unhealthy) as error:
            why = error.message
            self.loops, self.over = act.crash_loop, rung == ROLLBACK
        seconds = round(system.monotonic() - began, 3)
        self.tried.append(Tried(self.name, rung, not why, seconds))
        result.rungs.append(Rung(rung, not why, seconds, why))
        made = act.result
        result.mode, result.after, result.health = rung, made.after, made.health
        result.seconds = round(result.seconds + seconds, 3)
        result.done, result.proved = [*result.done, *made.done], [*result.proved, *made.proved]
        result.warnings = list(dict.fromkeys([*(result.warnings or []), *(made.warnings or [])])) or None
        return not why

    def _roll_back(self) -> None:
        """To the checkpoint of the request. Raises UsageError with nothing touched, and whatever a rollback raises."""
        from ..rollback.flow import Request as Back
        from ..rollback.flow import rollback

        wanted = self.request.rollback_to
        why = no_rollback(self.store, wanted, self.entries, self.name)
        if why:
            raise UsageError(f"not rolled back, because {why}")
        back = rollback(self.store, Back(self.store.resolve(wanted)))
        self.result.done += back.done
        self.result.proved += back.proved
