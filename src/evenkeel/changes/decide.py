# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decisions of a change, from the records of its runs; without I/O.

A wave goes begin (guard, checkpoint, arm) → the user's playbook → settle (probe, then confirm or roll back).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evenkeel.ansible.answers import BAD
from evenkeel.ansible.events import Record, Result, message
from evenkeel.outcome import ChangedPath, Outside, Owed, Probe, State, read_owed
from evenkeel.shared import REFUSED, UNDO, USAGE, results

# The verdicts of ft_settle.
PROBE, HOLD, EXTEND, APPROVE, DECIDE = "probe", "hold", "extend", "approve", "decide"
ROLL_BACK, TAKE_BACK = "roll_back", "take_back"
# The end of a change by a person on its host.
OPERATOR = "operator"
# The answers of a host whose change is open.
_OPEN = ("held", "approved", "decided")
# The number of seconds by which the clocks of two machines may differ and can still be compared.
_SKEW = 3.0
# A host that turned a login away is left alone for so many seconds: it may count the logins of half a minute.
QUIET = 31.0
# The words of ssh for such a login, and for one that nobody answered.
_TURNED_AWAY = r"[Cc]onnection (refused|reset|closed|timed out)|kex_exchange_identification|banner exchange"
# The words of a host on which another operation holds the store for longer than it waits.
_BUSY = r"the store .* is in use by process"
# The beginning of the words for a host that nobody tried to reach.
_UNNAMED = "the inventory did not name it"
# The words for a host that nobody could log in to: nothing has begun there.
_NEVER_IN = (
    r"ssh: (connect to host|Could not resolve)|kex_exchange_identification|banner exchange|Permission denied \("
    r"|Host key verification failed|IDENTIFICATION HAS CHANGED|[Ii]ncorrect .{0,20}password|create temporary directory"
)
# No dead-man is waited for longer, in seconds, whatever a host says of it.
_LONGEST = 86400.0


@dataclass(frozen=True)
class Armed:
    """The dead-man of one host, in epoch seconds of this machine's clock.

    It goes off between ``earliest`` (counted from when the task began) and ``latest`` (from when it had ended).
    """

    generation: int
    checkpoint: str
    within: float
    earliest: float
    latest: float


@dataclass(frozen=True)
class Begun:
    """The begin of a wave. halt: why the user's playbook must not run, empty when it may. whys: per host.

    doubtful: hosts that may be armed, and whose answer cannot be read.
    """

    armed: Mapping[str, Armed]
    whys: Mapping[str, str]
    halt: str = ""
    usage: bool = False
    doubtful: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Settled:
    """The end of a change as a host reports it."""

    state: State
    by: str
    why: str
    probes: list[Probe] = field(default_factory=list)
    login: str = ""
    outside: Outside | None = None
    owed: list[Owed] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def armed(result: Mapping[str, Any], started: float | None, now: float, expected: float | None = None) -> Armed | None:
    """The dead-man in a result of ft_checkpoint, if any; also when the task failed after arming.

    expected: the time that it was to wait. A dead-man with another time is not ours, and nobody waits for it.
    """
    told = results.Checkpointed.read(result)
    change = told.armed
    if not isinstance(change, dict) or change.get("generation") is None:
        return None
    within = min(float(change.get("within") or 0), _LONGEST if expected is None else math.inf)
    if expected is not None and abs(within - expected) > 1:
        return None
    return Armed(
        generation=int(change["generation"]),
        checkpoint=told.id or str(change.get("checkpoint") or ""),
        within=within,
        earliest=(started if started is not None else now) + within,
        latest=now + within,
    )


def adopted(info: Mapping[str, Any], began: float, now: float, expected: float | None = None) -> Armed | None:
    """The dead-man that a begin of ours armed before it was killed, from the answer of ft_info; None for another.

    began, now: epoch seconds. Only a change that the host began between them counts as ours. So a host with a wrong
    clock is left to its dead-man, and no change of another run is rolled back.
    """
    change = info.get("armed")
    if not isinstance(change, dict):
        return None
    at = float(change.get("until") or 0) - float(change.get("within") or 0)
    if not began - _SKEW <= at <= now + _SKEW:
        return None
    return armed({"armed": change}, began, now, expected)


def possibly_armed(record: Record, hosts: Sequence[str], *, sent: bool) -> frozenset[str]:
    """The hosts that may be armed without our knowledge: the connection was lost while they took the checkpoint, or the
    run ended before their answers. sent: the run came to the checkpoint."""

    def is_possibly_armed(host: str) -> bool:
        result = record.of(host, "ft_checkpoint")
        if result is None:
            return sent and host not in record.unreachable and host not in record.failures
        return result.status == "unreachable" and not re.search(_NEVER_IN, str(result.result.get("msg")))

    return frozenset(host for host in hosts if is_possibly_armed(host))


def begun(
    record: Record,
    hosts: Sequence[str],
    found: Mapping[str, Armed],
    stopped: str = "",
    silent: frozenset[str] = frozenset(),
) -> Begun:
    """Whether the user's playbook may run on a wave: only when the guard let it, and every host is armed.

    stopped: why we, or somebody else, ended the run early. silent: the hosts that may be armed without our knowledge.
    """
    guard = [r for results in record.results.values() for r in results if r.task == "ft_guard" and r.status != "ok"]
    whys = {}
    strange = set(silent)
    may_be = "if it is armed, it disarms itself when its time to confirm is over"
    for host in hosts:
        result = record.of(host, "ft_checkpoint")
        if result is not None and result.status == "ok" and host in found:
            continue
        if result is not None and result.status == "ok" and result.result.get("armed"):
            whys[host] = "its dead-man is not the requested one, and may undo something else: look at the host"
            strange.add(host)
        elif result is not None and result.status == "ok":
            whys[host] = "took a checkpoint but armed no dead-man: give --confirm-within"
        elif result is not None:
            whys[host] = message(result.result)
            strange |= {host} if result.result.get("error") == BAD else set()
        else:
            whys[host] = record.unreachable.get(host) or record.failures.get(host, "")
        whys[host] += f"; {may_be}" if host in silent and whys[host] else ""
    if guard:
        usage, why = guard[0].result.get("error") == USAGE, _hinted(message(guard[0].result))
        return Begun(found, {}, why if usage else f"refused by the guard: {why}", usage)
    doubtful = frozenset(strange)
    if stopped:
        unknown = f"{stopped}; {may_be}"
        return Begun(found, {host: why or unknown for host, why in whys.items()}, stopped, doubtful=doubtful)
    first = next((host for host, why in whys.items() if why), "")
    if whys:
        halt = f"{first}: {_hinted(whys[first])}" if first else record.messages() or "the checkpoint was never taken"
        results = [record.of(host, "ft_checkpoint") for host in whys]
        usage = all(r is not None and r.result.get("error") == USAGE for r in results)
        return Begun(found, {host: why or "not begun" for host, why in whys.items()}, halt, usage, doubtful)
    return Begun(found, {})


def _hinted(why: str) -> str:
    """The reason, with a hint: the become of a play in the user's playbook does not apply to our plays."""
    return f"{why} (log in as root, or give --become)" if "Permission denied: '" in why else why


def verdicts(hosts: Sequence[str], whys: Mapping[str, str], how: str = PROBE) -> dict[str, str]:
    """The verdict on each armed host: ``how``, or a rollback at once where the change failed."""
    return {host: ROLL_BACK if whys.get(host) else how for host in hosts}


def settled(record: Record, host: str) -> Settled | None:
    """The end of the change on ``host``; None when the host did not report it, and must be asked again."""
    result = record.of(host, "ft_settle")
    if result is None or result.status == "unreachable":
        return None
    found = result.result
    told = results.Settled.read(found)
    probes: list[Probe] = (told.health or {}).get("probes") or []
    if told.outcome in _OPEN and result.status == "ok":
        return Settled(State.HELD, "", "", probes, told.login or "")
    if told.outcome in (State.CONFIRMED, State.ROLLED_BACK, State.IN_DOUBT):
        why = "" if told.outcome == State.CONFIRMED else message(found)
        beside, due = _outside(told.outside), read_owed(told.owed)
        known = tuple(f"{probe.get('kind')} {probe.get('target')}" for probe in probes)  # Probes are shown.
        left = told.left or [] if told.outcome == State.ROLLED_BACK else []  # In doubt, the message names it.
        more = [one for one in dict.fromkeys([*left, *(told.warnings or [])]) if not one.startswith(known)]
        return Settled(State(told.outcome), told.by, why, probes, told.login or "", beside, due, more)
    if found.get("error") in (REFUSED, USAGE, BAD):
        # Another run has changed the host since, the host forgot, or its answer is malformed: asking again is useless.
        return Settled(State.IN_DOUBT, "", message(found), probes)
    return None


def _outside(told: Any) -> Outside | None:
    if not isinstance(told, dict):
        return None
    paths = [ChangedPath(path=one.get("path") or "", what=one.get("what") or "") for one in told.get("paths") or []]
    return Outside(paths=paths, count=told.get("count") or len(paths), complete=bool(told.get("complete")))


def extended(result: Mapping[str, Any], before: Armed, started: float | None, now: float) -> Armed | None:
    """The dead-man after an extension, from a result of ft_settle; None when the result shows no extension."""
    remaining = results.Settled.read(result).remaining
    if remaining is None or result.get("generation") != before.generation:
        return None
    remaining = min(remaining, before.within + _SKEW)  # a host must not have us wait for ever
    return replace(before, earliest=(started if started is not None else now) + remaining, latest=now + remaining)


def remaining(armed: Mapping[str, Any], now: float) -> float:
    """Seconds until the deadline of a change, from the answer of ft_info. The clock of the host may be wrong, so that
    its date counts only where it says no seconds."""
    left = armed.get("remaining")
    left = float(armed.get("until") or 0) - now if left is None else float(left)
    return min(max(left, 0.0), _LONGEST)


def waiting(generation: int, checkpoint: str, until: float, within: float, now: float) -> Armed:
    """The dead-man of a change that another run began. until: by this machine's clock. within: as the host says."""
    within = min(within or _LONGEST, _LONGEST)
    left = min(max(until - now, 0.0), within + _SKEW, _LONGEST)
    return Armed(generation, checkpoint, within, now + left, now + left)


def over(answer: Result) -> str:
    """Why the change of a host is over, from its answer to an extension; empty while it is open, and where the answer
    does not tell."""
    told = results.Settled.read(answer.result)
    if told.outcome in (State.CONFIRMED, State.ROLLED_BACK, State.IN_DOUBT):
        return f"{told.outcome.replace('_', ' ')} by {told.by or 'nobody'}"
    # A login that is too old is refused as well, and tells nothing of the change.
    refused = answer.status == "failed" and answer.result.get("error") in (REFUSED, USAGE) and told.login != "old"
    return message(answer.result) if refused else ""


def with_time(record: Record, host: str, before: Armed, now: float) -> Armed:
    """The dead-man of a host after a run of ft_settle: with its new deadline, where its answer has one."""
    result = record.of(host, "ft_settle")
    return (extended(result.result, before, result.started, now) if result is not None else None) or before


def why_not_held(result: Mapping[str, Any] | None, generation: int | None) -> str:
    """Why a held host does not wait any more, from the answer of ft_info; empty while it waits."""
    if result is None:
        return "it did not answer"
    armed = result.get("armed")
    if not isinstance(armed, dict) or armed.get("generation") != generation:
        last = result.get("last") or {}
        return f"its change is over: {last.get('outcome', 'unknown')} by {last.get('by', 'nobody')}".replace("_", " ")
    return "it goes back" if armed.get("back") or armed.get("overdue") is not None else ""


def kept_by_a_person(end: Mapping[str, Any], generation: int | None) -> bool:
    """Whether a person has confirmed the change on its host, for that host alone, so that it keeps the change whatever
    becomes of the others. end: the end of a change, as ft_settle answers it and ft_info remembers it."""
    kept = end.get("outcome") == State.CONFIRMED and end.get("by") == OPERATOR
    return kept and end.get("generation") == generation


def approved(result: Mapping[str, Any] | None) -> bool:
    """Whether a person has let the change go on, from the answer of ft_info."""
    armed = (result or {}).get("armed")
    return isinstance(armed, dict) and armed.get("stage") in ("approved", "decided")


def until(result: Mapping[str, Any] | None) -> float:
    """The deadline of a change under way by the clock of its host, from the answer of ft_info; infinite without one."""
    armed = (result or {}).get("armed")
    return float(armed.get("until") or math.inf) if isinstance(armed, dict) else math.inf


def lives(result: Mapping[str, Any] | None, generation: int, before: float) -> bool:
    """Whether an approved host shows that a run drives its change, from the answer of ft_info: the change is decided,
    or over but not by the host itself, or has got a later deadline than ``before``."""
    if result is None:
        return False
    armed, last = result.get("armed"), result.get("last") or {}
    if isinstance(armed, dict) and armed.get("generation") == generation:
        return armed.get("stage") == "decided" or before + 0.5 < until(result) < math.inf
    return last.get("generation") == generation and last.get("by") == "settle"


def may_retry(armed: Armed, why: str, now: float) -> bool:
    """Whether a host without an answer is asked the same once more, after a while: its login was turned away, as hosts
    do that limit logins, or its store was in use, or nobody tried to log in; and more than half of its time to confirm
    is left then."""
    waits = is_busy(why) or why.startswith(_UNNAMED) or re.search(_TURNED_AWAY, why) is not None
    return armed.earliest - now - QUIET > armed.within / 2 and waits


def is_busy(why: str) -> bool:
    """Whether the host let the login in, and could not answer because another operation holds its store."""
    return re.search(_BUSY, why) is not None


def missed(why: str) -> str:
    """Why a host that did not answer at the end of its change goes back, from why it was silent."""
    untried = is_busy(why) or why.startswith(_UNNAMED)
    return f"it could not be settled: {why}" if untried else f"no login after the change: {why}"


def why_unsettled(record: Record, host: str) -> str:
    """Why a host has not reported the end of its change."""
    result = record.of(host, "ft_settle")
    if result is not None:
        return message(result.result)
    return record.unreachable.get(host) or record.failures.get(host) or _unnamed(record, host) or record.messages()


def _unnamed(record: Record, host: str) -> str:
    """The words of Ansible on an inventory that did not name the host, as a dynamic one that could not ask its source;
    empty where it did."""
    passed_over = rf"Could not match supplied host pattern, ignoring: {re.escape(host)}(\s|$)"
    return f"{_UNNAMED}: {record.messages()}" if re.search(passed_over, " ".join(record.loose)) else ""


def unanswered(record: Record, hosts: Sequence[str], task: str) -> list[str]:
    """The hosts that have not answered our task ``task``. A host that was measured as unhealthy has answered."""
    answers = {host: record.of(host, task) for host in hosts}
    return [
        host
        for host, answer in answers.items()
        if answer is None or (answer.status != "ok" and answer.result.get("state") != "fail")
    ]


def sick(record: Record, confirmed: Mapping[str, Sequence[Probe]]) -> dict[str, tuple[str, str]]:
    """The hosts that are not known to be healthy now: what was found of each, and why. confirmed: hosts, with the
    probes that confirmed each.

    A host without an answer counts as well, but is not called unhealthy; a host whose service has crashed since is
    unhealthy, although it is up.
    """
    ill, unknown = "became unhealthy", "was not measured"
    found = {}
    for host, before in confirmed.items():
        result = record.of(host, "ft_health")
        if result is None or result.status != "ok":
            told = message(result.result) if result is not None else ""
            why = record.unreachable.get(host) or told or record.failures.get(host) or "it did not answer in time"
            measured = result is not None and result.result.get("state") == "fail"
            found[host] = (ill if measured else unknown, why)
            continue
        restarts = {(probe.get("kind"), probe.get("target")): probe.get("restarts") or 0 for probe in before}
        for probe in result.result.get("probes") or []:
            if probe.get("severity") == "warn":
                continue
            crashes = (probe.get("restarts") or 0) - restarts.get((probe.get("kind"), probe.get("target")), 0)
            if crashes > 0:
                times = "once" if crashes == 1 else f"{crashes} times"
                found[host] = (ill, f"{probe.get('target')} ended and was started anew {times} since")
    return found


def put_back(record: Record, host: str, generation: int | None) -> Settled | None:
    """The end of a host that was confirmed and does not keep the change any more, from the memory of the host beside
    its health; None where nothing shows that. A newer change of another run shows nothing."""
    measured = record.of(host, "ft_health")
    memory = (measured.result.get("host_state") if measured else None) or {}
    last, change = memory.get("last") or {}, memory.get("armed") or {}
    if last.get("generation") == generation is not None and last.get("outcome") not in (None, State.CONFIRMED):
        by, outcome = str(last.get("by") or "nobody"), str(last["outcome"])
        state = State.ROLLED_BACK if outcome == State.ROLLED_BACK else State.IN_DOUBT
        return Settled(state, by, f"{outcome.replace('_', ' ')} by {by}")
    if change.get("name") == UNDO and change.get("generation") != generation:  # only a rollback is armed with an undo
        return Settled(State.IN_DOUBT, "", "a rollback was made there since, and waits to be confirmed")
    return None


def time_to_change(armed: Sequence[Armed]) -> float:
    """The end of the time for the user's playbook, in epoch seconds: the first dead-man, less the time to settle."""
    return min(dead_man.earliest - min(30.0, dead_man.within / 4) for dead_man in armed)
