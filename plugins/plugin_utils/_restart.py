# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restart in steps, by the controller: begin, drain, act, measure from outside, make ready again, end.

The host keeps the record of all of it. So a run that is killed between two steps loses nothing: the next run takes the
restart over, and knows from the host where it is drained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    EvenkeelError,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.restarting.decision import BEGUN
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.draining import Place, known
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _drain
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import words
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Inventory

# Seconds between two questions to a host that boots, and for the answer to one.
_PAUSE, _LOOK = 2.0, 60.0
# The number of places that a message names.
_SHOWN = 20
# The way to restart a host that a ladder can end with.
REBOOT = "reboot"


class Drains(Protocol):
    """The balancers."""

    def drain(self, places: Sequence[Place], ours: Sequence[Place]) -> Outcome:
        """Drain the host at all places or at none. ours: places at which an earlier run has drained it."""

    def ready(self, places: Sequence[Place]) -> Outcome:
        """Make the host ready again."""


@dataclass(frozen=True)
class Outcome:
    """The end of a drain, or of its opposite.

    drained: where the host is drained, or may be. done: what was measured, in words. why: what went wrong, or empty.
    warnings: what was not measured, or not kept, in words.
    """

    drained: Sequence[Place] = ()
    done: Sequence[str] = ()
    why: str = ""
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Balancers:
    """The balancers of the inventory. deadline: seconds for sessions to end, and for the way back."""

    inventory: Inventory
    deadline: float
    store: str

    def drain(self, places: Sequence[Place], ours: Sequence[Place]) -> Outcome:
        found = _drain.drain(self.inventory, places, self.deadline, ours, self.store)
        bad = [one.words for one in found if one.end != _drain.DONE]
        if not bad:
            return Outcome(places, [one.words for one in found], warnings=_warned(found))
        drained = [one.place for one in found if one.left or (one.place in ours and one.state != "ready")]
        return Outcome(drained, why="; ".join(bad))

    def ready(self, places: Sequence[Place]) -> Outcome:
        found = _drain.undrain(self.inventory, places, self.deadline, self.store)
        bad = [one.words for one in found if one.end != _drain.DONE]
        drained = [one.place for one in found if one.end != _drain.DONE and one.may_be_drained]
        done = [one.words for one in found if one.end == _drain.DONE]
        return Outcome(drained, done, "; ".join(bad), _warned(found))


@dataclass(frozen=True)
class Wanted:
    """The request. host: its name. places: where it is drained. last: whether no other host of the roll restarts after
    it. boots: whether the host itself restarts. within: seconds for its boot."""

    host: str
    places: Sequence[Place] = ()
    roll: Mapping[str, Any] | None = None
    last: bool = True
    boots: bool = False
    within: float = 600.0


# Asks the host for a phase, with its values. Raises AnsibleError.
Ask = Callable[..., Answer]


@dataclass
class Steps:
    """A restart, step by step.

    outside: measures the host from outside after the act. reset: drops a dead connection. read_state: the answer to
    the phase look within so many seconds; a host that does not answer is unreachable, and raises nothing.
    """

    wanted: Wanted
    ask: Ask
    drains: Drains
    outside: Callable[[Answer], Answer]
    reset: Callable[[], None]
    read_state: Callable[[float], Answer]
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic
    _token: str = ""
    _earlier: bool = False
    _begun: str = ""
    _drained: list[Place] = field(default_factory=list)
    _proved: list[str] = field(default_factory=list)
    _warnings: list[str] = field(default_factory=list)

    def run(self) -> Answer:
        """The result of the task."""
        try:
            return self._run()
        except AnsibleError as error:
            cut = isinstance(error, AnsibleConnectionFailure)
            why = words(str(error)).rstrip(".")
            why = f"{self.wanted.host} does not answer: {why}" if cut else f"{self.wanted.host}: {why}"
            said = f"{why}.{self._begun}{self._whereabouts()} Run the same restart again"
            end: Answer = {"unreachable": True} if cut else {"failed": True, "error": EvenkeelError.code}
            left = [self.wanted.host] if self._begun else []
            return self._ended({**end, "changed": bool(self._begun), "left": left}, said)

    def _run(self) -> Answer:
        wanted = self.wanted
        # The host knows of the drain before it begins.
        recorded = [_recorded(place) for place in wanted.places]
        begun = self.ask("begin", drained=recorded, roll=wanted.roll, now=wanted.last)
        if begun.get("failed"):
            return dict(begun)
        if begun.get("deferred"):
            said = (
                f"{wanted.host} leads its group now, and other hosts restart after it: nothing was restarted on it. Run"
                " the same restart again, which takes it last"
            )
            return self._ended({"failed": True, "error": "Refused"}, said)
        self._token = str(begun.get("token") or "")
        self._earlier = bool(begun.get("earlier"))
        strange = self._take_over(begun)
        if strange:
            return self._unknown(strange)
        drained = self.drains.drain(wanted.places, self._drained)
        self._drained = list(drained.drained)
        self._note(drained)
        if drained.why:
            return self._not_drained(drained.why)
        acted = self._act()
        if acted.get("failed") and self._has_done_nothing():
            return self._refused(acted)
        if not acted.get("failed"):
            self._begun = " It was restarted."
            acted = self.outside(acted)
        if acted.get("failed"):
            why = str(acted.get("msg") or f"the restart of {self.wanted.host} failed without a reason").rstrip(".")
            return self._ended(acted, f"{why}.{self._whereabouts()}")
        return self._made_ready(acted)

    def _take_over(self, begun: Answer) -> list[Mapping[str, Any]]:
        """Remember where the host is drained already; the places of its record that are not declared now.

        A record is the word of the host: it names balancers and commands, and only declared ones are used.
        """
        strange: list[Mapping[str, Any]] = []
        for one in _drained_of(begun.get("earlier")):
            try:
                place = Place.read({key: value for key, value in one.items() if key != "words"})
            except Damaged:
                strange.append(one)
                continue
            ours, _others = known([place], self.wanted.places)
            self._drained += ours
            strange += [] if ours else [one]
        return strange

    def _unknown(self, strange: Sequence[Mapping[str, Any]]) -> Answer:
        """Refuse: the host is drained at places that nobody declares now, so nobody would make it ready there."""
        kept = [*strange, *(_recorded(place) for place in self._drained)]
        self.ask("drained", token=self._token, drained=kept)
        where = ", ".join(words(str(one.get("words") or one.get("host"))) for one in strange[:_SHOWN])
        said = (
            f"an earlier restart has drained {self.wanted.host} at {where}, which is not declared as it was then."
            " Nothing was restarted: declare it (drain) and run again, or make the host ready there by hand and"
            " accept it (evenkeel accept)"
        )
        return self._ended({"failed": True, "error": "Refused", "changed": False}, said)

    def _not_drained(self, why: str) -> Answer:
        """Close the restart where it has done nothing. That of an earlier run stays open: it is not finished."""
        self._remember()
        if not self._drained and not self._earlier:
            self.ask("end", token=self._token)
        said = f"{self.wanted.host} was not restarted, as it could not be drained: {why}.{self._whereabouts()}"
        return self._ended({"failed": True, "error": "Refused", "changed": False}, said)

    def _has_done_nothing(self) -> bool:
        """Whether the restart is still at its beginning, as the host has it on record for this run. It is further
        before anything is done to the target."""
        if self._earlier:
            return False
        told = self._remember().get("restart")
        return isinstance(told, Mapping) and told.get("stage") == BEGUN

    def _remember(self) -> Answer:
        """Tell the host where it is drained now."""
        return self.ask("drained", token=self._token, drained=[_recorded(place) for place in self._drained])

    def _refused(self, acted: Answer) -> Answer:
        """Make the host ready again, and close the restart: the host has refused it, and is as it was."""
        self._begun = ""
        why = str(acted.get("msg") or "the restart was refused without a reason").rstrip(".")
        if self._drained:
            ready = self.drains.ready(self._drained)
            self._drained = list(ready.drained)
            self._note(ready)
            why += f". It was not restarted, and gets no requests: {ready.why}" if ready.why else ". It is ready again"
        if self._drained:
            self._remember()
        else:
            self.ask("end", token=self._token, leave=True)
        return self._ended({**acted, "changed": False}, f"{why}.{self._whereabouts()}")

    def _act(self) -> Answer:
        self._begun = " Its restart may have begun, and how it ended is not known."
        if not self.wanted.boots:
            acted = self.ask("act", token=self._token)
            if acted.get("next") != REBOOT or not acted.get("failed"):
                return acted
        booting = self.ask("boot", token=self._token)
        return booting if booting.get("failed") else self._booted(booting)

    def _booted(self, booting: Answer) -> Answer:
        """Wait until the host has booted, and prove it."""
        told = booting.get("restart")
        end, before = self.now() + self.wanted.within, told.get("identity") if isinstance(told, Mapping) else None
        why = "it still runs as before"
        while self.now() < end:
            self.sleep(_PAUSE)
            self.reset()
            seen = self.read_state(min(_LOOK, max(1.0, end - self.now())))
            if seen.get("unreachable"):
                why = f"it does not answer: {words(str(seen.get('msg') or ''))}"
            elif seen.get("failed"):
                why = words(str(seen.get("msg") or "it gives no answer"))
            elif seen.get("boot") and seen.get("boot") != before:
                return self.ask("booted", token=self._token)
        said = f"{self.wanted.host} has not booted within {self.wanted.within:g} s ({why})"
        return {"failed": True, "changed": True, "error": "Unhealthy", "msg": said}

    def _made_ready(self, acted: Answer) -> Answer:
        ready = self.drains.ready(self._drained)
        self._drained = list(ready.drained)
        self._note(ready)
        if ready.why:
            self._remember()
            said = f"{self.wanted.host} was restarted and is healthy, but gets no requests: {ready.why}."
            return self._ended({**acted, "failed": True, "error": "Unhealthy"}, said + self._whereabouts())
        ended = self.ask("end", token=self._token, leave=True)
        if ended.get("failed"):
            said = f"{self.wanted.host} was restarted and is healthy, but its record could not be closed: "
            return self._ended({**acted, "failed": True, "error": ended.get("error")}, said + str(ended.get("msg")))
        return self._ended(acted, "")

    def _note(self, outcome: Outcome) -> None:
        """Keep the facts and the warnings of the balancers for the result."""
        self._proved += outcome.done
        self._warnings += outcome.warnings

    def _whereabouts(self) -> str:
        """Where the host is still drained, in words."""
        places = [place.words for place in self._drained]
        return f" It stays drained at {', '.join(places)}, until a restart of it succeeds." if places else ""

    def _ended(self, result: Answer, msg: str) -> Answer:
        """The result of the task, with what this half did."""
        left = [f"drained: {place.words}" for place in self._drained]
        proved = [*_texts(result.get("proved")), *self._proved]
        found = {**result, "proved": proved, "left": [*_texts(result.get("left")), *left]}
        if self._warnings:
            found["warnings"] = [*_texts(result.get("warnings")), *self._warnings]
        return {**found, "msg": msg} if msg else found


def _warned(found: Sequence[_drain.Outcome]) -> list[str]:
    """The warnings of all places, each with its balancer."""
    return [f"{one.place.host}: {said}" for one in found for said in one.warnings]


def may_boot(values: Mapping[str, Any]) -> bool:
    """Whether the restart with these options boots the host, or may end with that."""
    return bool(values.get("scope")) or REBOOT in (values.get("ladder") or ())


def refuse_here(inventory: Inventory, host: str, values: Mapping[str, Any]) -> None:
    """Raise UsageError where the restart would boot the controller, and end with it."""
    if may_boot(values) and inventory.is_here(host):
        raise UsageError(
            f"{host} is the controller of this run (ansible_connection is local), and its boot would end the run."
            " Nothing was touched: leave that host out, and boot it by hand"
        )


def comes_last(
    everyone: Sequence[str], earlier: Sequence[str], batch: Sequence[str], leaders: Sequence[str] = ()
) -> bool:
    """Whether no host comes after the batch. After a leader of the plan, other leaders of the plan may come: each waits
    for its own group, and not for theirs."""
    later = set(everyone) - set(earlier) - set(batch)
    return not later or later | set(batch) <= set(leaders)


def _drained_of(record: object) -> list[Mapping[str, Any]]:
    """The places in the record of a host, which may say anything."""
    told = record.get("drained") if isinstance(record, Mapping) else None
    return [one if isinstance(one, Mapping) else {"words": str(one)} for one in told] if isinstance(told, list) else []


def _texts(told: object) -> list[Any]:
    return told if isinstance(told, list) else []


def _recorded(place: Place) -> Mapping[str, object]:
    """The place as the host keeps it, with words for a person."""
    return {**place.record(), "words": place.words}
