# SPDX-License-Identifier: GPL-3.0-or-later

"""Draining a server on its balancer: no new requests, until its sessions have ended; and making it ready again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from .._errors import EvenkeelError, Refused, ServiceFailed, Unhealthy, UsageError
from .._host.options import read
from .._host.system import System
from .._results.restart import Drained
from .._services import haproxy, pair
from .._services.draining import KINDS
from .drain_pair import READY_BEFORE, DrainPair

LOOK, DRAINED, READY = "look", "drained", "ready"
# Seconds between two looks, and for a first request after the server is ready again.
_INTERVAL, _TRAFFIC = 0.25, 1.0


class Request(NamedTuple):
    """The arguments of ``ft_drain``. ``declared``: by kind, of which one is given. ``ours``: an earlier call of ours
    has drained it."""

    state: str
    declared: Mapping[str, object]
    ours: bool
    deadline: float


def drain(request: Request, system: System, check_mode: bool = False) -> Drained:
    """Look at the place, drain it, or make it ready.

    Raises UsageError or Refused with nothing touched; ServiceFailed where it was not drained, and Unhealthy where it is
    ready and not up.
    """
    given = {kind: value for kind, value in request.declared.items() if value is not None}
    if len(given) != 1:
        raise UsageError(f"give one of {' and '.join(KINDS)}; nothing was touched")
    ((kind, declared),) = given.items()
    options, check = KINDS[kind]
    found = check(read(options, declared, kind))
    place: DrainPair | _Balanced
    if isinstance(found, pair.Pair):
        place = DrainPair(found, request.ours, request.deadline, system, check_mode)
    else:
        place = _Balanced(found, request, system, check_mode)
    return {LOOK: place.observe, DRAINED: place.drained, READY: place.ready}[request.state]()


class _Balanced:
    """A server of an HAProxy, from the request to the result."""

    def __init__(self, address: haproxy.Address, request: Request, system: System, check_mode: bool) -> None:
        self.request, self.system, self.check_mode = request, system, check_mode
        self.runtime = haproxy.Runtime(address, system)
        self.result = Drained(kind="haproxy", name=address.name)
        self.process = self.runtime.process()
        self.first = self.told = self._seen()
        self.began = system.monotonic()
        self.warnings: list[str] = []

    def observe(self) -> Drained:
        """The state, and whether a drain would be refused."""
        self.result.obstacle = self._obstacle()
        self.result.proved = [*self._words(self.first), *self._staying(self.first)]
        return self.result

    def drained(self) -> Drained:
        """No new requests, and no session left."""
        first, result = self.first, self.result
        result.obstacle = self._obstacle()
        if result.obstacle:
            raise Refused(f"{result.name} is not drained: {result.obstacle}; nothing was touched", **result.report())
        result.proved = self._staying(first)
        if not first.is_drained:
            self._plan("drain")
        if self.check_mode:
            return result
        if not first.is_drained:
            self._begin()
        last = self._wait_for_sessions(first.carried)
        result.proved = [
            *self._staying(last),
            f"{last.server.words}, and has had no session and no queue twice, after {result.waited:.1f} s",
        ]
        self._warn_of_more(last)
        result.warnings = self.warnings or None
        return result

    def ready(self) -> Drained:
        """New requests, as far as HAProxy says so."""
        first, result = self.first, self.result
        if self.request.ours and first.is_forced:
            result.left = [result.name]
            raise Refused(
                f"{result.name} is in maintenance, which somebody else has set after it was drained: it is left so."
                " Make it ready without ours once that is done; nothing was touched",
                **result.report(),
            )
        if first.is_drained or first.is_forced:
            self._plan("ready")
        if self.check_mode:
            return result
        try:
            if result.planned:
                self._tell("ready")
                self.told = self._seen()
            last = self._wait_until_up()
            self._await_request(last)
        except EvenkeelError as error:
            if error.result:
                raise
            result.left = [result.name]
            raise ServiceFailed(
                f"whether {result.name} is ready is not known: {error.cause}", **result.report()
            ) from error
        if not last.server.is_checked:
            self.warnings.append(f"{result.name}: HAProxy has no check of it, so that being up is not measured")
        elif first.is_forced:
            self.warnings.append(
                f"{result.name}: HAProxy takes it for up before a check of it, as it leaves maintenance"
            )
        if self.request.ours and first.is_free:
            self.warnings.append(
                f"{result.name} {READY_BEFORE}. A reload of HAProxy forgets a drain, and an agent check can end one"
            )
        if not last.server.weight:
            self.warnings.append(f"{result.name} has a weight of 0, so that it gets no new requests")
        result.warnings = self.warnings or None
        return result

    # -- reading

    def _seen(self) -> haproxy.View:
        """Look, and put the state into the result."""
        view, result = self.runtime.read_server(), self.result
        result.state = "maintenance" if view.is_in_maintenance else "ready" if view.is_free else "drained"
        result.status, result.sessions = view.server.status, view.sessions
        return view

    def _obstacle(self) -> str:
        """The reason why a drain is refused; empty for none."""
        view = self.first
        if view.is_in_maintenance:
            return f"it is in maintenance ({view.server.status}), and not by Evenkeel: ask who did that"
        if not view.is_free and not (view.is_drained and self.request.ours):
            return f"it is drained already ({view.server.status}), and not by Evenkeel: ask who did that"
        alone = view.alone(view.carried)
        return f"backend {', '.join(alone)} has no other server that is up (a backup does not count)" if alone else ""

    @staticmethod
    def _words(view: haproxy.View) -> list[str]:
        return [f"{view.server.words}, with {view.sessions} sessions"]

    @staticmethod
    def _staying(view: haproxy.View) -> list[str]:
        found = {
            backend: [one.server + " (a backup)" * one.backup for one in view.staying(backend)]
            for backend in view.others
        }
        return [f"{backend} goes on with {', '.join(names[:20])}" for backend, names in found.items() if names]

    # -- changing

    def _plan(self, action: str) -> None:
        self.result.planned = [{"resource": "haproxy", "action": action, "target": self.result.name}]
        self.result.changed = True

    def _tell(self, state: str) -> None:
        self.runtime.tell(state)
        self.result.done = [*self.result.done, {"resource": "haproxy", "action": state, "target": self.result.name}]

    def _begin(self) -> None:
        """Tell it to drain. Where HAProxy does not say whether it took that, it is told to be ready."""
        try:
            self._tell("drain")
        except Refused:
            raise  # Nothing was told.
        except EvenkeelError as error:
            self._give_back(error.cause)
        try:
            self.told = self._seen()
        except EvenkeelError as error:
            self._give_back(error.cause)

    def _wait_for_sessions(self, carried: set[str]) -> haproxy.View:
        """Wait until nothing is left. At the deadline, and where it must not go on, the server is made ready again."""
        quiet = 0
        while True:
            try:
                view = self._seen()
            except EvenkeelError as error:
                self._give_back(f"HAProxy cannot be asked any more: {error.cause}")
            waited = self.result.waited = self.system.monotonic() - self.began
            if not view.is_drained:
                self.result.left = [self.result.name]
                raise ServiceFailed(
                    f"{view.server.words} and not drained any more: something else has changed it meanwhile. A reload"
                    " of HAProxy forgets a drain, and an agent check can end one; it was left as it is",
                    **self.result.report(),
                )
            alone = view.alone(carried)
            if alone:
                self._give_back(
                    f"backend {', '.join(alone)} has no other server any more that is up (a backup does not count)"
                )
            quiet = 0 if view.sessions else quiet + 1
            if quiet > 1:
                return view
            if waited >= self.request.deadline and not quiet:
                self._give_back(f"{view.sessions} sessions are left after {waited:.1f} s")
            self.system.sleep(_INTERVAL)

    def _give_back(self, why: str) -> NoReturn:
        """Make the server ready again, and see it. Raises ServiceFailed with the reason, and how that went."""
        result, words = self.result, ""
        try:
            self._tell("ready")
            view = self._seen()
            if view.is_drained:
                words = f"it could not be made ready again: {view.server.words}"
        except EvenkeelError as error:
            words = f"whether it is ready again is not known: {error.cause}"
        result.left = [result.name] if words else []
        shown = words or f"it is ready again, and HAProxy says {result.status}"
        raise ServiceFailed(f"{result.name} was not drained: {why}; {shown}", **result.report())

    def _warn_of_more(self, last: haproxy.View) -> None:
        """Name the requests that the drain does not keep away, or does not show."""
        more = last.begun - self.told.begun
        if more > 0:
            self.warnings.append(
                f"{self.result.name}: {more} sessions began while it was drained. HAProxy goes on sending clients there"
                " whose cookie or stick table names it (persistence)"
            )
        leavers = haproxy.leavers(self.process)
        if leavers:
            self.warnings.append(
                f"{self.result.name}: sessions in {len(leavers)} processes of HAProxy that a reload has replaced"
                f" (pid {', '.join(map(str, leavers[:20]))}) are not counted, and they may be on it"
            )

    def _wait_until_up(self) -> haproxy.View:
        while True:
            view = self._seen()
            waited = self.result.waited = self.system.monotonic() - self.began
            if view.is_free and view.server.is_up:
                return view
            if waited >= self.request.deadline:
                self.result.left = [self.result.name]
                raise Unhealthy(self._why_not_up(view, waited), **self.result.report())
            self.system.sleep(_INTERVAL)

    def _why_not_up(self, view: haproxy.View, waited: float) -> str:
        said = f"{view.server.words} after {waited:.1f} s"
        if view.is_free:
            return f"{said}: its state is ready, but its check does not pass. Look at the server itself"
        if view.server.tracked:
            return f"{said}: it follows {view.server.tracked}, which it tracks. Look at that server"
        return (
            f"{said}: something else keeps it from requests. Look at its agent check, and at the resolution of its name"
        )

    def _await_request(self, last: haproxy.View) -> None:
        """Whether a request was answered since it was told to be ready. None within a second is no failure."""
        begin, end = self.told.server, self.system.monotonic() + _TRAFFIC
        self.result.proved = self._words(last)
        while last.server.answers <= begin.answers and self.system.monotonic() < end:
            self.system.sleep(_INTERVAL / 2)
            last = self._seen()
        name, errors = self.result.name, last.server.errors - begin.errors
        # A reload starts the counters anew.
        self.result.served = max(0, last.server.answers - begin.answers)
        if errors > 0:
            self.warnings.append(f"{name}: {errors} requests to it have failed since")
        count = self.result.served
        self.result.proved.append(
            f"{name} has answered {count} requests since" if count else f"no request was answered by {name} since"
        )
