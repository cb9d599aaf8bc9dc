# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drain a host on its balancers from inside an action plugin: at all places or at none, and make it ready again.

The places are those that the playbook or the inventory declares. A record of the drained host only selects among them
(``_services/draining.py``, ``known``), because it names commands for other hosts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.draining import Place, places
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import warning_texts, words
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Host, Inventory

DONE, REFUSED, FAILED, UNREACHABLE = "done", "refused", "failed", "unreachable"
_STATES = ("ready", "drained", "maintenance", "unknown")
# Seconds that the way to a balancer may take, and that the commands of a pair may take besides the deadline.
_WAY, _COMMANDS = 30.0, 180.0
_MOST = 20


@dataclass(frozen=True)
class Outcome:
    """The end of a call at one place, in one word and in words.

    ``state``: as the place was seen last, ``ready``, ``drained``, ``maintenance`` or ``unknown``. ``changed``: whether
    this call changed it. ``obstacle``: why a drain would be refused. ``facts``: what was measured. ``warnings``: what
    was not. ``left``: the place is not as was asked, and was not put back either: a person has to look.
    """

    place: Place
    end: str
    words: str
    state: str = "unknown"
    changed: bool = False
    obstacle: str = ""
    facts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    left: bool = False

    @property
    def may_be_drained(self) -> bool:
        """Whether the host may still be kept from requests here."""
        return self.state in ("drained", "unknown")


def declared(inventory: Inventory, option: object) -> list[Place]:
    """The places of the option ``drain``. UsageError or AnsibleError for a wrong one."""
    return places(option, inventory.hosts_of)


def read_states(inventory: Inventory, at: Sequence[Place], ours: Collection[Place], store: str) -> list[Outcome]:
    """The state of every place. ours: the places that an earlier run has drained."""
    return _call(inventory, at, _Request("look", 0.0, ours, store))


def drain(
    inventory: Inventory, at: Sequence[Place], deadline: float, ours: Collection[Place], store: str
) -> list[Outcome]:
    """Drain at every place, or at none: where one fails, the others that this call has drained are made ready again.

    All places are looked at before, so that a refusal, or a balancer that cannot be reached, leaves all untouched.
    """
    seen = read_states(inventory, at, ours, store)
    if any(one.end != DONE or one.obstacle for one in seen):
        return [_refused(one) for one in seen]
    found = _call(inventory, at, _Request("drained", deadline, ours, store))
    if all(one.end == DONE for one in found):
        return found
    if inventory.predicts:
        return found
    back = [one.place for one in found if _is_to_go_back(one)]
    ready = undrain(inventory, back, deadline, store)
    return [_gone_back(one, next((two for two in ready if two.place == one.place), None)) for one in found]


def undrain(inventory: Inventory, at: Sequence[Place], deadline: float, store: str) -> list[Outcome]:
    """Make the host ready at every place, whatever the others do."""
    return _call(inventory, at, _Request("ready", deadline, at, store))


@dataclass(frozen=True)
class _Request:
    state: str
    deadline: float
    ours: Collection[Place]
    store: str


def _call(inventory: Inventory, at: Sequence[Place], request: _Request) -> list[Outcome]:
    """Call ``ft_drain`` on all balancers at the same time, and on each for one place after the other."""
    by_host: dict[str, list[Place]] = {}
    for place in at:
        by_host.setdefault(place.host, []).append(place)

    def work(host: Host) -> Answer:
        return {"answers": [_ask(inventory, host, place, request) for place in by_host[host.name]]}

    if not at:
        return []
    limit = max(sum(_patience(place, request.deadline) for place in one) for one in by_host.values())
    told = inventory.each(by_host, work, limit)
    return [_outcome(place, _answer_of(told[place.host], by_host[place.host].index(place)), request) for place in at]


def _ask(inventory: Inventory, host: Host, place: Place, request: _Request) -> Mapping[str, Any]:
    result = host.module(
        "ft_drain",
        state=request.state,
        ours=place in request.ours,
        deadline=f"{request.deadline:g}s",
        store=inventory.store(host.name, request.store),
        **{place.kind: {key: value for key, value in place.options.items() if value is not None}},
    )
    kept = ("failed", "msg", "error", "state", "changed", "obstacle", "proved", "warnings", "left")
    return {key: result.get(key) for key in kept}


def _patience(place: Place, deadline: float) -> float:
    return _WAY + deadline + (deadline + _COMMANDS if place.kind == "command" else 0.0)


def _answer_of(told: Answer, number: int) -> Answer:
    """The answer for one of the places of a host, or the end of the call to that host."""
    answers = told.get("answers")
    return answers[number] if isinstance(answers, list) else told


def _outcome(place: Place, answer: Answer, request: _Request) -> Outcome:
    """The outcome in an answer. The balancer's own words are text, and bounded."""
    if answer.get("unreachable"):
        why = words(answer.get("msg") or "it does not answer")
        said = f"{place.words}: {place.host} is unreachable: {why}"
        return Outcome(place, UNREACHABLE, said, left=request.state != "look")
    state = str(answer.get("state")) if answer.get("state") in _STATES else ""
    facts, warnings = _texts(answer.get("proved")), _texts(warning_texts(answer.get("warnings")))
    if not answer.get("failed") and state:
        said = f"{place.words}: {state}, {'; '.join(facts) or 'and nothing was measured'}"
        obstacle = words(answer.get("obstacle") or "")
        return Outcome(place, DONE, said, state, answer.get("changed") is True, obstacle, facts, warnings)
    if not answer.get("failed"):
        said = f"{place.words}: {place.host} answers what no host of ours does"
        return Outcome(place, FAILED, said, left=True)
    is_refusal = answer.get("error") in ("Refused", "UsageError")
    said = f"{place.words}: {words(answer.get('msg') or 'no reason is given', 1000)}"
    # A refusal has touched nothing. It leaves a place that was to be ready again as it is.
    left = request.state != "look" and (
        bool(answer.get("left")) or request.state == "ready" or not (is_refusal or state)
    )
    return Outcome(
        place,
        REFUSED if is_refusal else FAILED,
        said,
        state or "unknown",
        answer.get("changed") is True,
        facts=facts,
        warnings=warnings,
        left=left,
    )


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(words(one, 1000) for one in value[:_MOST]) if isinstance(value, (list, tuple)) else ()


def _refused(outcome: Outcome) -> Outcome:
    """The outcome at a place where nothing was asked, because this place or another one cannot be drained."""
    if outcome.end == UNREACHABLE:
        return replace(outcome, words=f"{outcome.words}; nothing was touched", left=False)
    if outcome.end != DONE:
        return replace(outcome, end=REFUSED, left=False)
    why = outcome.obstacle or "another place cannot be drained now"
    return replace(outcome, end=REFUSED, words=f"{outcome.place.words} is not drained: {why}; nothing was touched")


def _is_to_go_back(outcome: Outcome) -> bool:
    """Whether the place was drained by this call, or may have been."""
    return outcome.changed if outcome.end == DONE else outcome.left


def _gone_back(outcome: Outcome, ready: Outcome | None) -> Outcome:
    """The outcome at a place after the drain failed at one of them. ready: the end of its way back, if it had one."""
    if ready is None:
        if outcome.end == DONE:
            said = f"{outcome.place.words} stays drained, as it was before this call"
            return replace(outcome, end=FAILED, words=said)
        return outcome
    why = outcome.words if outcome.end != DONE else f"{outcome.place.words} was drained, and another place was not"
    end = FAILED if outcome.end == DONE else outcome.end
    if ready.end == DONE:
        return replace(ready, end=end, words=f"{why}; it was made ready again", changed=True)
    how = "it may still be drained" if ready.may_be_drained else "it is ready again, and not up"
    return replace(ready, end=end, words=f"{why}; {how}: {ready.words}", changed=True, left=True)
