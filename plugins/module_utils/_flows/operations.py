# SPDX-License-Identifier: GPL-3.0-or-later

"""Repeated execution: the journal of a host, and the decision whether an attempt of an operation may begin there.

::

    <store>/operations/<id>    one record, JSON, replaced as a whole and durable before the operation begins

An attempt is *open* from the moment its beginning is on disk until its end is. Where a kill or a lost connection left
an attempt open, nobody knows whether it took effect: the operation is in doubt, and verification decides.
``may_begin`` and ``concluded`` are the whole decision, and pure.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from .._dataclasses import asdict, dataclass, fields, replace
from .._deadman import changes
from .._errors import Damaged, Refused, UsageError
from .._health.evidence import evidence
from .._health.probe import FAIL, PASS, UNKNOWN
from .._health.probes import check
from .._health.wait import Health, Times, wait
from .._host.durable import TEMPORARY, ensure_dir, remove_file, write_file
from .._host.processes import program_name, user_ids
from .._host.system import System
from .._results.restart import Observation, Operated
from .._store.store import Store

# The classes of operations. An operation may be repeated at any time, or only after the checkpoint was restored, or it
# must never take effect twice.
IDEMPOTENT, COMPENSATABLE, ONCE = ("idempotent", "compensatable", "once")
# The states of a record: an attempt is open; the last attempt is over and did not take effect; verified.
OPEN, ENDED, VERIFIED = "open", "ended", "verified"
# The answers to the controller, besides VERIFIED: the attempt has begun; verification does not pass; an attempt still
# runs; the effect of one that is over may still have to show; the effect is not known; the checkpoint is to be restored
# first; not allowed.
BEGUN, NOT_VERIFIED, RUNNING, UNSHOWN, IN_DOUBT, RESTORE, REFUSED = (
    "begun",
    "not_verified",
    "running",
    "unshown",
    "in_doubt",
    "restore",
    "refused",
)
# In the environment of an attempt this holds its token, so that the host knows its processes.
VARIABLE = "EVENKEEL_OPERATION"
# Seconds after its beginning in which an attempt may not have a process yet.
SETTLING = 10.0
# The largest result that is stored, in characters of JSON, and the number of records that are kept.
_LONGEST_RESULT, _MOST = 1 << 16, 1000
_TAKEN_OVER = "another run has begun an attempt of this operation since"
_ID = r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,119}"


@dataclass(frozen=True)
class Record:
    """An operation on this host.

    ``request``: a hash of the module and its arguments. ``kind``: the class. ``attempts``: the number of attempts since
    the last verification. ``token`` and ``began`` (monotonic, under ``boot``): of the last attempt. ``said``: the
    operation's own word on that attempt, ``ok`` or ``failed``; empty while it is not known. ``checkpoint``: the id of
    the checkpoint that is restored between attempts. ``result``: of the verified attempt. ``at``: the time of the
    record.
    """

    request: str
    kind: str
    state: str
    attempts: int = 0
    token: str = ""
    began: float = 0.0
    boot: str = ""
    said: str = ""
    checkpoint: str = ""
    result: Any = None
    at: float = 0.0


@dataclass(frozen=True)
class Question:
    """The controller's question. ``begin``: an attempt is to begin, and not only to be looked at. ``checkpoint``: the
    id to restore between attempts, or empty; ``restored``: the number of attempts that were undone by that.
    ``patient``: the number of attempts whose effect had all its time to show (``verify_within``) while it was measured.
    """

    request: str
    kind: str
    begin: bool = True
    checkpoint: str = ""
    restored: int = 0
    patient: int = 0


@dataclass(frozen=True)
class Seen:
    """The measurements of the host. ``state``: of the verification. ``why``: in words. ``running``: processes of the
    open attempt; ``settling``: seconds for which it may still have no process."""

    state: str
    why: str = ""
    running: Sequence[str] = ()
    settling: float = 0.0


@dataclass(frozen=True)
class Decision:
    """The answer to the controller and why; ``record``: the record that is written before the answer is given.
    ``after``: seconds to wait before asking again."""

    answer: str
    why: str
    record: Record | None
    after: float = 0.0


def needs_measuring(record: Record | None, question: Question) -> bool:
    """Whether the decision depends on the verification. A verified operation that happens once stays verified."""
    return not (_refusal(record, question) or _is_final(record, question))


def may_begin(record: Record | None, question: Question, seen: Seen) -> Decision:
    """Decide whether an attempt begins. The record of the decision holds no token yet."""
    refusal = _refusal(record, question)
    if refusal:
        return Decision(REFUSED, refusal, record)
    if record is not None and _is_final(record, question):
        return Decision(VERIFIED, "it was verified before, and happens once", record)
    known = record or Record(question.request, question.kind, ENDED)
    if seen.state == PASS:
        result = known.result if known.request == question.request else None
        verified = replace(known, request=question.request, kind=question.kind, state=VERIFIED, result=result)
        return Decision(VERIFIED, seen.why, verified)
    if known.state == OPEN:
        decision = _while_open(known, question, seen)
        if decision is not None:
            return decision
        known = replace(known, state=ENDED)
    if question.kind == ONCE and seen.state == UNKNOWN:
        why = f"whether it has happened already is not known ({seen.why}), so that it does not begin"
        return Decision(IN_DOUBT, why, known)
    if not question.begin:
        return Decision(NOT_VERIFIED, seen.why, known)
    if known.state == VERIFIED:  # The work was done once, and its result is gone: it begins anew.
        known = Record(question.request, question.kind, ENDED)
    checkpoint = known.checkpoint or question.checkpoint
    if question.checkpoint and known.attempts > question.restored:
        return Decision(RESTORE, seen.why, replace(known, checkpoint=checkpoint))
    begun = Record(question.request, question.kind, OPEN, known.attempts + 1, checkpoint=checkpoint)
    return Decision(BEGUN, seen.why, begun)


def _while_open(record: Record, question: Question, seen: Seen) -> Decision | None:
    """The answer that leaves an open attempt open; None where the attempt is over, and did not take effect."""
    if seen.running:
        return Decision(RUNNING, f"an attempt still runs ({'; '.join(seen.running)})", record)
    if question.kind != IDEMPOTENT and seen.settling > 0:
        return Decision(RUNNING, "an attempt has begun a moment ago", record, seen.settling)
    if question.kind == ONCE and record.said == "ok":
        why = f"the operation says that it was done, and verification does not pass ({seen.why})"
        return Decision(IN_DOUBT, why, record)
    if question.kind == ONCE and seen.state == UNKNOWN:
        why = f"an attempt may have taken effect, and verification gives no answer ({seen.why})"
        return Decision(IN_DOUBT, why, record)
    if question.kind != IDEMPOTENT and question.patient < record.attempts:
        why = f"an attempt may have taken effect, which may not show yet ({seen.why})"
        return Decision(UNSHOWN, why, record)
    return None


def concluded(record: Record | None, token: str, said: str, seen: Seen, result: Any) -> Decision:
    """Decide how the attempt with this token ended. ``said``: the operation's own word, ``ok`` or ``failed``."""
    if record is None or not token or record.token != token:
        return Decision(REFUSED, _TAKEN_OVER, record)
    if seen.state == PASS or (record.state == VERIFIED and record.kind == ONCE):
        return Decision(VERIFIED, seen.why, replace(record, state=VERIFIED, said=said, result=result))
    known = replace(record, state=OPEN, said=said)
    asked = Question(record.request, record.kind, patient=record.attempts)
    # Processes that an answered attempt leaves behind are no reason to wait, where it may be done again at any time.
    still = seen if record.kind != IDEMPOTENT else replace(seen, running=())
    decision = _while_open(known, asked, replace(still, settling=0.0))
    return decision or Decision(NOT_VERIFIED, seen.why, replace(known, state=ENDED))


def _refusal(record: Record | None, question: Question) -> str:
    """The reason not to touch the operation; empty without a reason."""
    if record is None or ONCE not in (record.kind, question.kind):
        return ""
    if (record.request, record.kind) == (question.request, question.kind):
        return ""
    return (
        "this host knows an operation of this id that does something else, and happens once: give the other operation"
        " an id of its own"
    )


def _is_final(record: Record | None, question: Question) -> bool:
    return record is not None and record.state == VERIFIED and question.kind == ONCE


# -- verification


def majority(states: Sequence[str], needed: int, planned: int) -> str:
    """The state on which ``needed`` observations agree: pass, fail, or unknown without such a majority. Empty while
    further observations, up to ``planned``, can make a majority."""
    for state in (PASS, FAIL):
        if states.count(state) >= needed:
            return state
    left = planned - len(states)
    return "" if left and max(states.count(PASS), states.count(FAIL)) + left >= needed else UNKNOWN


@dataclass(frozen=True)
class Verification:
    """The verification of the effect: ``needed`` of ``planned`` observations must agree. ``measured``: evidence from
    outside for each observation. ``told``: the observations of other hosts, which replace observations of this host."""

    probes: Any
    times: Times
    needed: int = 1
    planned: int = 1
    measured: Sequence[Any] = ()
    told: Sequence[Observation] = ()

    def observe(self, system: System) -> tuple[str, str, list[Observation]]:
        """(state, its reason in words, the observations)."""
        seen = list(self.told)
        while not self.told and not majority([one.state for one in seen], self.needed, self.planned):
            if seen:
                system.sleep(self.times.interval)
            own = evidence(self.measured[len(seen)]) if len(seen) < len(self.measured) else []
            health = wait([*check(self.probes), *own], self.times, system)
            seen.append(Observation("host", health.state, _words(health)))
        states = [one.state for one in seen]
        state = majority(states, self.needed, len(states)) or UNKNOWN
        if self.planned == 1:
            return state, seen[0].detail, seen
        count = f"{states.count(PASS)} of {len(states)} observations pass, {self.needed} must agree"
        wrong = list(dict.fromkeys(f"{one.source}: {one.detail}" for one in seen if one.state != PASS))
        return state, "; ".join([count, *wrong]), seen


def _words(health: Health) -> str:
    wrong = health.wrong() if health.state != PASS else health.passed()
    return "; ".join(wrong) or "it did not hold for the soak"


# -- the journal


def check_id(operation: str) -> str:
    """Return the id if it can name an operation, and so a file; UsageError otherwise."""
    if not re.fullmatch(_ID, operation) or TEMPORARY in operation:
        raise UsageError(
            f"id {operation!r} cannot name an operation: use up to 120 letters, digits and ._:@+- of which the first is"
            " a letter or a digit. Nothing was touched"
        )
    return operation


class Journal:
    """The record of one operation in a store. Raises UsageError for an id that cannot name an operation."""

    def __init__(self, store: Store, operation: str) -> None:
        self.store = store
        self.path = store.join("operations", check_id(operation))

    def read(self) -> Record | None:
        """The record, or None where the host knows no such operation. Raises Damaged."""
        try:
            with open(self.path, "rb") as stream:
                told = json.loads(stream.read())
            return Record(**{one.name: told[one.name] for one in fields(Record)})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(
                f"{self.path} cannot be read ({error}), so that it is not known whether the operation has happened, and"
                " nothing was done. Look whether it has, and remove the file"
            ) from error

    def write(self, record: Record) -> Record:
        """Under the lock of the store. Durable once this returns."""
        written = replace(record, at=self.store.system.now())
        ensure_dir(os.path.dirname(self.path))
        if not os.path.exists(self.path):
            self._make_room()
        write_file(self.path, json.dumps(asdict(written)).encode())
        return written

    def _make_room(self) -> None:
        """Forget the oldest records of operations that may be done again at any time, and that are over."""
        folder = os.path.dirname(self.path)
        names = [name for name in os.listdir(folder) if TEMPORARY not in name]
        if len(names) < _MOST:
            return
        known = [Journal(self.store, name) for name in names]
        old = []
        for journal in known:
            with suppress(Damaged):
                record = journal.read()
                if record is not None and record.kind == IDEMPOTENT and record.state != OPEN:
                    old.append((record.at, journal.path))
        for _at, path in sorted(old)[: len(names) - _MOST + 1]:
            remove_file(path)


def checkpoint_of(journal: Journal, wanted: str) -> str:
    """The id of the checkpoint to restore between attempts, ``wanted`` by its name; empty for none. Raises NotFound,
    and Refused while a change is under way, as a rollback would end that.

    It is the checkpoint of the first attempt: a newer checkpoint of that name may hold leftovers of that attempt.
    """
    if not wanted:
        return ""
    change = changes.armed(journal.store)
    if change is not None:
        raise Refused(
            f"the change of generation {change.generation} is under way on this host, and restoring a checkpoint would"
            " end it. Nothing was touched: repeat this operation outside of a change, or without restore"
        )
    known = journal.read()
    if known is not None and known.state != VERIFIED and known.checkpoint:
        return known.checkpoint
    return journal.store.resolve(wanted)


def begin(journal: Journal, question: Question, how: Verification, check_mode: bool = False) -> Operated:
    """Begin an attempt, or say why none begins. In check mode nothing is written."""
    store = journal.store
    known = journal.read()
    measuring = needs_measuring(known, question)
    state, why, observations = how.observe(store.system) if measuring else (UNKNOWN, "", [])
    if check_mode:
        decision = may_begin(known, question, _seen(known, state, why, store.system))
        return _operated(decision, state, observations)
    with store.locked():
        record = journal.read()
        if record != known:  # Another run was here meanwhile, and our measurement may be older than its attempt.
            return _operated(Decision(RUNNING, "another run works on it", record), state, observations)
        decision = may_begin(record, question, _seen(record, state, why, store.system))
        if decision.answer == BEGUN and decision.record is not None:
            decision = replace(decision, record=_dated(decision.record, store.system))
        if decision.record is not None and decision.record != record:
            journal.write(decision.record)
    return _operated(decision, state, observations)


def go_on(journal: Journal, token: str) -> Operated:
    """Before a further task of the attempt with this token: let other runs wait for it as from its beginning, or say
    that another run has taken it over."""
    store = journal.store
    with store.locked():
        record = journal.read()
        if record is None or not token or record.token != token:
            return _operated(Decision(REFUSED, _TAKEN_OVER, record), UNKNOWN, [])
        if record.state != VERIFIED:
            begun = replace(record, state=OPEN, began=store.system.monotonic(), boot=store.system.boot_id())
            record = journal.write(begun)
    return _operated(Decision(BEGUN, "", record), UNKNOWN, [])


def end(journal: Journal, token: str, said: str, how: Verification, result: str) -> Operated:
    """Record the end of an attempt. ``result``: the operation's result as JSON, stored once it is verified."""
    store = journal.store
    state, why, observations = how.observe(store.system)
    stored = json.loads(result) if 0 < len(result) <= _LONGEST_RESULT else None
    with store.locked():
        record = journal.read()
        decision = concluded(record, token, said, _seen(record, state, why, store.system), stored)
        if decision.record is not None and decision.record != record:
            journal.write(decision.record)
    return _operated(decision, state, observations)


def work(store: Store, params: Mapping[str, Any], check_mode: bool) -> Operated:
    """A call of ``ft_repeat`` on the host. Raises UsageError where no controller has made it."""
    phase, values = params["_phase"], params["_values"] or {}
    if phase not in ("begin", "look", "go_on", "end"):
        raise UsageError(
            "only the controller can repeat an operation, and nothing was done: call this by its full name,"
            " evenkeel.fault_tolerance.ft_repeat, from a playbook"
        )
    journal = Journal(store, params["id"])
    if phase == "go_on":
        return go_on(journal, values["token"])
    how = Verification(
        params["verify"],
        Times(*values["times"]),
        values["needed"],
        values["planned"],
        values["measured"],
        [Observation(**one) for one in values["told"]],
    )
    if phase == "end":
        return end(journal, values["token"], values["said"], how, values["result"])
    checkpoint = checkpoint_of(journal, values["restore"])
    asked = Question(
        values["request"], values["kind"], phase == "begin", checkpoint, values["restored"], values["patient"]
    )
    return begin(journal, asked, how, check_mode)


def _dated(record: Record, system: System) -> Record:
    return replace(record, token=secrets.token_hex(16), began=system.monotonic(), boot=system.boot_id())


def _operated(decision: Decision, state: str, observations: list[Observation]) -> Operated:
    record = decision.record
    result = record.result if record is not None and decision.answer == VERIFIED else None
    return Operated(
        answer=decision.answer,
        why=decision.why,
        after=decision.after,
        verification=state,
        observations=observations,
        open=record is not None and record.state == OPEN,
        attempts=record.attempts if record else 0,
        token=record.token if record and decision.answer == BEGUN else "",
        checkpoint=record.checkpoint if record else "",
        at=record.at if record else 0.0,
        result=json.dumps(result) if result is not None else "",
    )


def _seen(record: Record | None, state: str, why: str, system: System) -> Seen:
    """The verification, and the processes of the open attempt. After a boot there are none."""
    if record is None or record.state != OPEN or record.boot != system.boot_id():
        return Seen(state, why)
    settling = max(0.0, record.began + SETTLING - system.monotonic())
    return Seen(state, why, processes_of(record.token), settling)


def processes_of(token: str, proc: str = "/proc") -> list[str]:
    """The processes that an attempt has started and that still run, in words.

    The environment of each process tells. Processes of other users do not count, and their environment is not read: it
    may say anything, and its memory can be made to hold up the reader.
    """
    mark, found = f"{VARIABLE}={token}".encode(), []
    for pid in sorted(map(int, filter(str.isdigit, os.listdir(proc)))) if token else []:
        users = user_ids(pid)
        if not users or not users <= {0, os.geteuid()}:
            continue
        with suppress(OSError), open(f"{proc}/{pid}/environ", "rb") as stream:
            if mark in stream.read().split(b"\0"):
                found.append(f"{program_name(pid) or 'a process'}[{pid}]")
    return found
