# SPDX-License-Identifier: GPL-3.0-or-later

"""The phases of a restart on its host. A controller that drains asks for each by itself; a plain task for all at once.

``look`` reads. ``begin`` opens the restart, and gives out its
token. ``drained`` replaces the list of what is drained. ``act`` restarts, and proves it; of a whole host these are two
phases, ``boot`` and ``booted``. ``end`` closes the restart.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from ..._dataclasses import asdict, dataclass, replace
from ..._errors import EvenkeelError, Refused, ServiceFailed, Unhealthy, UsageError
from ..._health.probe import PASS, Probe
from ..._health.wait import wait
from ..._host.processes import undisturbed
from ..._host.system import System
from ..._results.restart import OpenRestart, Restarted
from ..._results.result import Result
from ..._services.owed import owed
from ..._services.state import ServiceState
from ..._store.store import Store
from . import decision, host, record
from .decision import ACTING, Record
from .job import Every, Job, ServiceRestart, Tried, check_here
from .ladder import Climb
from .target import HOST, REBOOT, Request, check, target_of_request

# Seconds to wait for the store once a restart has begun: its host may be drained, and waits for the end.
_PATIENCE = 300.0
# Seconds for the command that says whether this host leads.
_LEADS = 30.0


@dataclass(frozen=True)
class Phase:
    """The question of the controller; an empty name for all at once."""

    name: str
    values: Mapping[str, object]

    def text(self, key: str) -> str:
        value = self.values.get(key) or ""
        if not isinstance(value, str) or len(value) > record.LONGEST_ROLL or not value.isprintable():
            raise UsageError(f"{key} must be a text of up to {record.LONGEST_ROLL} characters; nothing was touched")
        return value

    def flag(self, key: str) -> bool:
        return self.values.get(key) is True

    @property
    def roll(self) -> tuple[str, int]:
        """The id of the roll that the restart belongs to, and the number of its hosts."""
        told = self.values.get("roll") or {}
        known, hosts = (told.get("id"), told.get("hosts")) if isinstance(told, Mapping) else (None, None)
        if not told:
            return "", 0
        if not isinstance(known, str) or not 0 < len(known) <= record.LONGEST_ROLL or not known.isprintable():
            raise UsageError(f"roll needs an id of up to {record.LONGEST_ROLL} characters; nothing was touched")
        if isinstance(hosts, bool) or not isinstance(hosts, int) or not 0 < hosts < 1 << 31:
            raise UsageError("roll needs the number of its hosts; nothing was touched")
        return known, hosts

    @property
    def drained(self) -> decision.Drained:
        return decision.check_drained(self.values.get("drained") or [])


def work(store: Store, request: Request, phase: Phase, check_mode: bool = False) -> Result:
    """Do what is asked for. Raises UsageError with nothing touched, and what the restart itself raises."""
    flow = Flow(store, request, check(request), phase)
    steps = {
        "": flow.all_at_once,
        "look": flow.read_state,
        "begin": flow.begin,
        "drained": flow.drained,
        "act": flow.act,
        "boot": flow.boot,
        "booted": flow.booted,
        "end": flow.end,
    }
    if phase.name not in steps:
        raise UsageError(f"there is no phase {phase.name!r} of a restart; nothing was touched")
    if not check_mode or phase.name == "look":
        return flow.told(steps[phase.name])
    if phase.name in ("", "act") and not request.scope:
        return flow.job().predicted()
    return flow.foreseen()


class Flow:
    """The phases, for one request."""

    def __init__(self, store: Store, request: Request, probes: Sequence[Probe], phase: Phase) -> None:
        self.store, self.request, self.probes, self.phase = store, request, probes, phase
        self.system: System = store.system
        # Sentences on the end of a restart that is not on record.
        self.unrecorded: list[str] = []

    def told(self, step: Callable[[], Result]) -> Result:
        """The result of a phase. A restart that was carried out tells of its end, also where the store took no more."""
        try:
            result = step()
        except EvenkeelError as error:
            if self.unrecorded:
                error.result["warnings"] = [*(error.result.get("warnings") or []), *self.unrecorded]
            raise
        if self.unrecorded and isinstance(result, Restarted):
            result.warnings = [*(result.warnings or []), *self.unrecorded]
        return result

    def job(self) -> Job:
        """The work of the act. Raises UsageError where it cannot be done."""
        check_here(self.request)
        if self.request.owed:
            return Every(self.request, self.probes, self.system)
        if self.request.ladder:
            return Climb(self.store, self.request, self.probes)
        return ServiceRestart(self.request, self.probes, self.system)

    def _checked(self) -> tuple[str, ServiceState | None]:
        """The name and the state of the target. Raises UsageError where it cannot be restarted as asked."""
        if self.request.scope:
            host.check(self.request.how, self.system)
            return HOST, host.observe(self.system)
        job = self.job()
        return job.name, job.before

    # -- what only reads

    def read_state(self) -> OpenRestart:
        """The state of this host, its open restart, and its earlier restarts. ``refusal`` says why the target cannot be
        restarted."""
        self.store.check_format()
        found = self._answer(record.read(self.store))
        with suppress(EvenkeelError):
            found.place = self.store.place(self.phase.text("run"))
        earlier = [one for one in record.history(self.store) if one.request == self.request.hash]
        found.history = _summary(earlier)
        rolled = next((one for one in reversed(earlier) if one.roll), None)
        if rolled is not None:
            ok = rolled.ok and earlier[-1].ok
            found.rolled = {"roll": rolled.roll, "at": rolled.at, "hosts": rolled.hosts, "ok": ok}
        if self.request.scope or REBOOT in self.request.ladder:
            found.boot = host.identity(self._boots(), self.system)
        found.leads = self._leads()
        if self.request.owed or self.phase.flag("owed"):
            found.owed = [asdict(one) for one in owed(self.system)]
        try:
            found.target, found.before = self._checked()
        except (UsageError, ServiceFailed) as error:
            found.refusal = error.message
            with suppress(EvenkeelError):
                found.before = target_of_request(self.request, self.system).before
        return found

    def foreseen(self) -> OpenRestart:
        """The answer of a phase that would write."""
        found = self._answer(record.read(self.store))
        if self.phase.name == "begin" or self.request.scope:
            name, found.before = self._checked()
            found.changed = True
            found.planned = [{"resource": name, "action": self.request.how, "target": name}]
        return found

    # -- the record

    def begin(self) -> OpenRestart:
        """Open the restart, unless this host leads and is to come last."""
        drained, (roll, hosts) = self.phase.drained, self.phase.roll
        name, before = self._checked()
        if self._comes_last(name):
            found = self._answer(record.read(self.store))
            found.deferred, found.leads, found.before = True, True, before
            return found
        known, made = self._open(name, before, drained, roll, hosts)
        found = self._answer(made)
        found.token, found.generation, found.before = made.token, made.generation, before
        found.earlier = record.shown(known, self.system)
        return found

    def _comes_last(self, name: str) -> bool:
        """Whether this host leads its group, and others are restarted after it. Raises Refused where nobody knows.

        A restart that was begun here goes on first, as the plan of a roll has it: the host may be drained already.
        """
        if not self.request.last or self.phase.flag("now"):
            return False
        known = record.read(self.store)
        if known is not None and known.target == name:
            return False
        leads = self._leads()
        if leads is None:
            raise Refused(
                f"whether this host leads is not known, because {self.request.last[0]} could not be run to its end."
                " Nothing was touched: mend that command, or leave out last"
            )
        return leads

    def _open(
        self, name: str, before: ServiceState | None, drained: decision.Drained, roll: str, hosts: int
    ) -> tuple[Record | None, Record]:
        """(The restart that was open, the restart that has begun). Raises Busy."""
        wanted = Record(
            generation=0,
            token=secrets.token_hex(16),
            target=name,
            mode=self.request.how,
            request=self.request.hash,
            drained=drained,
            roll=roll,
            hosts=hosts,
            identity=before.identity if before is not None else "",
            boot=self.system.boot_id(),
            at=self.system.now(),
        )
        with self._before_it(), self.store.locked():
            known = record.read(self.store)
            made = decision.begun(known, record.is_running(known, self.system), wanted)
            made = replace(made, generation=record.next_generation(self.store))
            return known, record.write(self.store, made)

    def drained(self) -> OpenRestart:
        """Replace the list of the places where the host is drained."""
        with self.store.locked(_PATIENCE):
            known = record.read(self.store)
            made = decision.with_drained(known, self.phase.text("token"), self.phase.drained)
            return self._answer(record.write(self.store, made))

    def act(self) -> Restarted:
        """Restart, prove it, and wait until it is healthy."""
        token = self.phase.text("token")
        decision.owned(record.read(self.store), token)
        return self._act(token, self.job())

    def _act(self, token: str, job: Job) -> Restarted:
        with self._before_it(), self.store.locked(_PATIENCE):
            known = record.read(self.store)
            made = decision.acting(known, token, record.is_running(known, self.system))
            made = replace(record.of_this_process(made, self.system), at=self.system.now())
            record.write(self.store, made)
        good = False
        # Where the login has a terminal and the connection is lost, a service must not stay down half-way.
        with undisturbed(signal.SIGHUP):
            try:
                result = job.carry_out()
                good = True
            finally:
                self._conclude(token, good, job.tried)
        return result

    def _conclude(self, token: str, good: bool, tried: Sequence[Tried]) -> None:
        """Remember the end of an act. Nobody can have taken over, unless somebody removed the record by hand."""
        with self._after_it(), self.store.locked(_PATIENCE):
            now = self.system.now()
            known = record.read(self.store)
            roll, hosts = (known.roll, known.hosts) if known is not None else ("", 0)
            for one in tried:
                entry = record.Entry(now, one.target, one.mode, one.ok, one.seconds, one.downtime)
                entry = replace(entry, request=self.request.hash, roll=roll, hosts=hosts)
                record.add_history(self.store, entry)
            with suppress(Refused):
                record.write(self.store, replace(decision.acted(known, token, good), at=now))

    def end(self) -> OpenRestart:
        """Close the restart."""
        token, leave = self.phase.text("token"), self.phase.flag("leave")
        with self.store.locked(_PATIENCE):
            known = record.read(self.store)
            made = decision.ended(known, token, record.is_running(known, self.system), leave)
            record.remove(self.store)
        return self._answer(made)

    # -- all at once

    def all_at_once(self) -> Restarted:
        """Restart, with the record around it. Raises Refused where an earlier run has drained this host."""
        roll, hosts = self.phase.roll
        job = self.job()
        if self._comes_last(job.name):
            raise Refused(
                "this host leads its group now, and other hosts restart after it. Nothing was touched: run the same"
                " restart again, which takes it last"
            )
        if not _can_write(self.store):
            return job.carry_out()
        known = record.read(self.store)
        if known is not None and known.drained:
            raise Refused(
                f"an earlier restart of {known.target} has drained this host, and did not end. Nothing was touched:"
                " restart it with the same drain, which makes it ready again"
            )
        made = self._open(job.name, job.before, (), roll, hosts)[1]
        try:
            result = self._act(made.token, job)
        finally:
            with self._after_it(), self.store.locked(_PATIENCE):
                now = record.read(self.store)
                if now is not None and now.token == made.token and not now.drained:
                    record.remove(self.store)
        return result

    # -- a whole host

    def boot(self) -> OpenRestart:
        """Have this host restart in a moment."""
        token, mode = self.phase.text("token"), self._boots()
        host.check(mode, self.system)
        with self._before_it(), self.store.locked(_PATIENCE):
            known = record.read(self.store)
            made = decision.acting(known, token, record.is_running(known, self.system))
            made = replace(made, pid=0, started=0, boot=self.system.boot_id(), at=self.system.now())
            made = record.write(self.store, replace(made, identity=host.identity(mode, self.system)))
        try:
            host.start(mode, made.generation, self.system)
        except ServiceFailed:
            self._conclude(token, False, ())
            raise
        return replace(self._answer(made), changed=True)

    def booted(self) -> Restarted:
        """Prove that this host was restarted, and wait until it is healthy."""
        token, mode = self.phase.text("token"), self._boots()
        made = decision.owned(record.read(self.store), token)
        if made.stage != ACTING or made.pid:
            raise Refused(f"no restart of this host was started: the open one is {made.stage}. Nothing was touched")
        now = host.identity(mode, self.system)
        if now == made.identity:
            raise ServiceFailed(
                f"this host was not restarted ({mode}): its identity is still {now}. It may be about to go down; ask"
                " again, or look at what holds it up (systemctl list-jobs, systemd-inhibit)"
                f"{host.last_words(made.generation, self.system)}"
            )
        began, good = self.system.now(), False
        result = Restarted(changed=True, mode=mode, after=host.observe(self.system))
        result.planned = result.done = [{"resource": HOST, "action": mode, "target": HOST}]
        probes = [*self._own_probes(), *self.probes]
        try:
            # Without a probe nothing is known of its health, and nothing is said.
            health = wait(probes, self.request.times, self.system) if probes else None
            result.health, result.warnings = health, (health.warnings() if health is not None else None) or None
            good = health is None or health.state == PASS
        finally:
            result.seconds = round(max(0.0, self.system.now() - made.at), 3)
            tried = Tried(HOST, mode, good, result.seconds)
            self._conclude(token, good, [tried])
        if health is not None and not good:
            result.left = [HOST]
            why = "; ".join(health.wrong()) or "it did not hold for the soak"
            raise Unhealthy(
                f"this host was restarted ({mode}), but is not healthy after {self.system.now() - began:.0f} s: {why}",
                **result.report(),
            )
        result.proved = [f"{HOST}: {made.identity} became {now}"]
        return result

    def _boots(self) -> str:
        """The mode of the boot. Raises UsageError for a request that boots no host."""
        if self.request.scope:
            return self.request.how
        if REBOOT in self.request.ladder:
            return REBOOT
        raise UsageError("this request restarts a service, and no host; nothing was touched")

    def _own_probes(self) -> list[Probe]:
        return [] if self.request.scope else [target_of_request(self.request, self.system).own]

    # -- helpers

    @contextmanager
    def _before_it(self) -> Iterator[None]:
        """Raise Refused where the store cannot take the record that comes before a restart."""
        try:
            yield
        except OSError as error:
            raise Refused(
                f"the restart cannot be put on record, as the store cannot be written: {error}. Nothing was touched:"
                f" make room in {self.store.root}, or mend its file system, and run again"
            ) from error

    @contextmanager
    def _after_it(self) -> Iterator[None]:
        """Keep an error of the store for the end: it must not hide the result of the restart."""
        try:
            yield
        except (OSError, EvenkeelError) as error:
            self.unrecorded.append(f"the end of this restart is not on record, as the store cannot be written: {error}")

    def _leads(self) -> bool | None:
        """Whether this host leads, as its own command says; None where nobody asks, or it does not tell."""
        if not self.request.last:
            return None
        done = self.system.command(self.request.last, _LEADS)
        return done.rc == 0 if done.has_answered else None

    def _answer(self, known: Record | None) -> OpenRestart:
        return OpenRestart(restart=record.shown(known, self.system), request=self.request.hash)


def _summary(earlier: Sequence[record.Entry]) -> dict[str, object]:
    """The number of earlier restarts, those that failed, and the mean seconds of the others."""
    good = [one.seconds for one in earlier if one.ok]
    mean = sum(good) / len(good) if good else 0.0
    return {"tries": len(earlier), "failures": len(earlier) - len(good), "seconds": round(mean, 3)}


def _can_write(store: Store) -> bool:
    """Whether we may write to the store, or make it. An ordinary user may restart a process of its own without one."""
    place = store.root
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    return os.geteuid() == 0 or os.access(place, os.W_OK)
