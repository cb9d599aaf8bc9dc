# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of operations on a host: what is on disk before an attempt begins, and what it decides afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, NotFound, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import operations
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.operations import (
    BEGUN,
    COMPENSATABLE,
    IDEMPOTENT,
    IN_DOUBT,
    NOT_VERIFIED,
    ONCE,
    OPEN,
    REFUSED,
    RESTORE,
    RUNNING,
    UNSHOWN,
    VERIFIED,
    Journal,
    Question,
    Record,
    Seen,
    Verification,
    begin,
    concluded,
    end,
    go_on,
    may_begin,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.probe import FAIL, PASS, UNKNOWN
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import Times
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.restart import Observation
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

NOW = Times(0.0, 0.0, 0.0)


@pytest.fixture
def journal(store: Store) -> Journal:
    return Journal(store, "op")


def exists(path: Path, **options: Any) -> Verification:
    return Verification([{"command": {"argv": ["test", "-e", str(path)]}}], NOW, **options)


def told(*states: str, needed: int = 1) -> Verification:
    """A verification that finds these states."""
    seen = [Observation(f"h{number}", state, state) for number, state in enumerate(states)]
    return Verification([], NOW, needed, len(states), told=seen)


def asked(kind: str = IDEMPOTENT, **options: Any) -> Question:
    return Question("request", kind, **options)


def test_the_attempt_is_on_disk_before_it_begins_and_its_result_after_it_is_verified(journal: Journal) -> None:
    answer = begin(journal, asked(), told(FAIL))
    assert (answer.answer, answer.attempts, answer.open) == (BEGUN, 1, True) and len(answer.token) == 32
    record = Journal(journal.store, "op").read()
    assert record is not None and (record.state, record.token, record.said) == (OPEN, answer.token, "")
    assert os.stat(journal.path).st_mode & 0o777 == 0o600 and os.stat(os.path.dirname(journal.path)).st_mode & 0o77 == 0
    answer = end(journal, answer.token, "ok", told(PASS), '{"stdout": "well"}')
    assert answer.answer == VERIFIED and json.loads(answer.result) == {"stdout": "well"}
    later = begin(journal, asked(), told(PASS))
    assert (later.answer, json.loads(later.result), later.open) == (VERIFIED, {"stdout": "well"}, False)


def test_check_mode_writes_nothing(journal: Journal) -> None:
    assert begin(journal, asked(), told(FAIL), check_mode=True).answer == BEGUN
    assert not os.path.exists(journal.store.root)


def test_what_happens_once_and_was_verified_is_not_measured_again(journal: Journal) -> None:
    answer = begin(journal, asked(ONCE), told(FAIL))
    end(journal, answer.token, "ok", told(PASS), '{"a": 1}')
    answer = begin(journal, asked(ONCE), told(FAIL))
    assert (answer.answer, answer.observations, json.loads(answer.result)) == (VERIFIED, [], {"a": 1})


def test_what_may_be_done_again_begins_anew_where_it_does_not_hold_any_more(journal: Journal) -> None:
    for expected in (1, 1):
        answer = begin(journal, asked(), told(FAIL))
        assert (answer.answer, answer.attempts) == (BEGUN, expected)
        end(journal, answer.token, "ok", told(PASS), "")


def test_an_id_that_happens_once_is_not_given_to_something_else(journal: Journal) -> None:
    end(journal, begin(journal, asked(ONCE), told(FAIL)).token, "ok", told(PASS), "")
    for wanted in (Question("another", ONCE), Question("request", IDEMPOTENT)):
        answer = begin(journal, wanted, told(FAIL))
        assert answer.answer == REFUSED and "an id of its own" in answer.why
    other = Journal(journal.store, "other")
    begin(other, asked(), told(PASS))
    answer = begin(other, Question("another", IDEMPOTENT), told(FAIL))
    end(other, answer.token, "ok", told(PASS), '{"of": "another"}')
    answer = begin(other, asked(), told(PASS))
    assert (answer.answer, answer.result) == (VERIFIED, ""), "the result of something else"


def test_a_run_whose_attempt_was_taken_over_is_told_so(journal: Journal) -> None:
    first = begin(journal, asked(), told(FAIL))
    second = begin(journal, asked(), told(FAIL))
    assert second.answer == BEGUN
    assert end(journal, first.token, "ok", told(FAIL), "").answer == REFUSED
    assert end(journal, second.token, "ok", told(FAIL), "").answer == NOT_VERIFIED
    assert end(journal, "", "ok", told(PASS), "").answer == REFUSED


def test_a_record_that_changed_while_it_was_measured_is_not_decided_on(journal: Journal) -> None:
    class Slow(Verification):
        def observe(self, system: System) -> tuple[str, str, list[Observation]]:
            end(journal, begin(journal, asked(), told(FAIL)).token, "ok", told(PASS), "")
            return FAIL, "", []

    assert begin(journal, asked(), Slow([], NOW)).answer == RUNNING


def test_of_many_runs_at_once_one_begins(journal: Journal) -> None:
    begin(Journal(journal.store, "another"), asked(), told(FAIL))  # makes the store
    pipe = os.pipe()
    pids = []
    for _number in range(8):
        pids.append(os.fork())
        if pids[-1] == 0:
            try:
                answer = begin(journal, asked(ONCE), told(FAIL)).answer
                os.write(pipe[1], answer.encode() + b"\n")
            finally:
                os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)
    assert sorted(os.read(pipe[0], 1000).decode().split()) == [BEGUN, *[RUNNING] * 7]


@pytest.mark.parametrize(
    ("kind", "state", "said", "seen", "answer"),
    [
        # Cut off: verification decides.
        (IDEMPOTENT, OPEN, "", Seen(PASS), VERIFIED),
        (IDEMPOTENT, OPEN, "", Seen(FAIL), BEGUN),
        (IDEMPOTENT, OPEN, "", Seen(UNKNOWN), BEGUN),
        (ONCE, OPEN, "", Seen(PASS), VERIFIED),
        (ONCE, OPEN, "", Seen(FAIL), BEGUN),
        (ONCE, OPEN, "", Seen(UNKNOWN), IN_DOUBT),
        # The operation says that it was done: it is not done again.
        (ONCE, OPEN, "ok", Seen(FAIL), IN_DOUBT),
        (ONCE, OPEN, "failed", Seen(FAIL), BEGUN),
        # It still runs, or may.
        (IDEMPOTENT, OPEN, "", Seen(FAIL, running=["sh[7]"]), RUNNING),
        (ONCE, OPEN, "", Seen(FAIL, running=["sh[7]"]), RUNNING),
        (ONCE, OPEN, "", Seen(PASS, running=["sh[7]"]), VERIFIED),
        (ONCE, OPEN, "", Seen(FAIL, settling=3.0), RUNNING),
        (COMPENSATABLE, OPEN, "", Seen(FAIL, settling=3.0), RUNNING),
        (IDEMPOTENT, OPEN, "", Seen(FAIL, settling=3.0), BEGUN),
        # Nobody knows whether somebody else has done it.
        (ONCE, operations.ENDED, "", Seen(UNKNOWN), IN_DOUBT),
        (IDEMPOTENT, operations.ENDED, "", Seen(UNKNOWN), BEGUN),
        # Once is once.
        (ONCE, VERIFIED, "ok", Seen(FAIL), VERIFIED),
        (IDEMPOTENT, VERIFIED, "ok", Seen(FAIL), BEGUN),
    ],
)
def test_whether_an_attempt_begins(kind: str, state: str, said: str, seen: Seen, answer: str) -> None:
    record = Record("request", kind, state, 1, "t", said=said)
    assert may_begin(record, asked(kind, patient=1), seen).answer == answer
    look = may_begin(record, asked(kind, begin=False, patient=1), seen).answer
    assert look == (NOT_VERIFIED if answer == BEGUN else answer)


@pytest.mark.parametrize(
    ("kind", "patient", "answer"),
    [
        (ONCE, 1, UNSHOWN),
        (COMPENSATABLE, 0, UNSHOWN),
        (ONCE, 2, BEGUN),
        (COMPENSATABLE, 2, BEGUN),
        (IDEMPOTENT, 0, BEGUN),
    ],
)
def test_an_attempt_did_not_take_effect_once_that_had_its_time_to_show(kind: str, patient: int, answer: str) -> None:
    record = Record("request", kind, OPEN, 2, "t")
    decision = may_begin(record, asked(kind, patient=patient), Seen(FAIL))
    assert decision.answer == answer and (answer == BEGUN or decision.record == record)


@pytest.mark.parametrize(
    ("kind", "said", "seen", "answer", "state"),
    [
        (ONCE, "ok", Seen(PASS), VERIFIED, VERIFIED),
        (ONCE, "failed", Seen(PASS), VERIFIED, VERIFIED),
        (ONCE, "ok", Seen(FAIL), IN_DOUBT, OPEN),
        (ONCE, "failed", Seen(FAIL), NOT_VERIFIED, operations.ENDED),
        (ONCE, "failed", Seen(UNKNOWN), IN_DOUBT, OPEN),
        (ONCE, "failed", Seen(FAIL, running=["sh[7]"]), RUNNING, OPEN),
        (COMPENSATABLE, "failed", Seen(FAIL, running=["sh[7]"]), RUNNING, OPEN),
        (IDEMPOTENT, "ok", Seen(FAIL, running=["sh[7]"]), NOT_VERIFIED, operations.ENDED),
        (IDEMPOTENT, "ok", Seen(UNKNOWN), NOT_VERIFIED, operations.ENDED),
    ],
)
def test_how_an_attempt_ends(kind: str, said: str, seen: Seen, answer: str, state: str) -> None:
    decision = concluded(Record("request", kind, OPEN, 1, "t"), "t", said, seen, None)
    assert decision.answer == answer and decision.record is not None
    assert (decision.record.state, decision.record.said) == (state, said)


def test_the_checkpoint_of_the_first_attempt_is_restored_before_each_further_one(journal: Journal) -> None:
    wants = asked(COMPENSATABLE, checkpoint="a" * 64)
    first = begin(journal, wants, told(FAIL))
    end(journal, first.token, "failed", told(FAIL), "")
    # A later run has found a newer checkpoint of that name, which holds what the first attempt has left.
    answer = begin(journal, replace(wants, checkpoint="b" * 64), told(FAIL))
    assert (answer.answer, answer.checkpoint, answer.attempts, answer.open) == (RESTORE, "a" * 64, 1, False)
    assert operations.checkpoint_of(journal, "any name") == "a" * 64
    answer = begin(journal, replace(wants, restored=1), told(FAIL))
    assert (answer.answer, answer.checkpoint, answer.attempts) == (BEGUN, "a" * 64, 2)
    end(journal, answer.token, "ok", told(PASS), "")
    with pytest.raises(NotFound):
        operations.checkpoint_of(journal, "any-name")


# -- verification


def test_observations_are_made_until_a_majority_agrees(tmp_path: Path, journal: Journal) -> None:
    there = tmp_path / "there"
    there.touch()
    state, why, seen = exists(there, needed=2, planned=3).observe(journal.store.system)
    assert (state, len(seen)) == (PASS, 2) and "2 of 2 observations pass, 2 must agree" in why
    state, why, seen = told(PASS, FAIL, UNKNOWN, needed=2).observe(journal.store.system)
    assert state == UNKNOWN and "h1: fail" in why and "h2: unknown" in why
    measured = [[{"kind": "tcp", "target": "x", "state": one, "detail": "d"}] for one in (FAIL, PASS, PASS)]
    state, why, seen = exists(there, needed=2, planned=3, measured=measured).observe(journal.store.system)
    assert state == PASS and [one.state for one in seen] == [FAIL, PASS, PASS]


def test_no_majority_is_no_verification(journal: Journal) -> None:
    undecided = told(PASS, FAIL, UNKNOWN, needed=2)
    assert begin(journal, asked(ONCE), undecided).answer == IN_DOUBT
    token = begin(journal, asked(ONCE), told(FAIL)).token
    assert end(journal, token, "failed", undecided, "").answer == IN_DOUBT


# -- what still runs


def test_processes_of_an_attempt_are_known_by_their_environment(journal: Journal) -> None:
    answer = begin(journal, asked(), told(FAIL))
    environment = {**os.environ, operations.VARIABLE: answer.token}
    running = subprocess.Popen(["sleep", "60"], env=environment)
    other = subprocess.Popen(["sleep", "60"], env={**os.environ, operations.VARIABLE: "0" * 32})
    try:
        limit = time.monotonic() + 5
        while not operations.processes_of(answer.token) and time.monotonic() < limit:
            time.sleep(0.01)
        again = begin(journal, asked(), told(FAIL))
        assert again.answer == RUNNING and f"sleep[{running.pid}]" in again.why and str(other.pid) not in again.why
        # After a boot it cannot be that process.
        system = replace(journal.store.system, boot_id=lambda: "another")
        booted = Journal(Store(journal.store.root, system), "op")
        assert begin(booted, asked(begin=False), told(FAIL)).answer == NOT_VERIFIED
    finally:
        for one in (running, other):
            one.kill()
            one.wait()
    assert operations.processes_of(answer.token) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a process to another user")
def test_another_user_cannot_hold_up_an_operation(journal: Journal) -> None:
    answer = begin(journal, asked(), told(FAIL))
    environment = {**os.environ, operations.VARIABLE: answer.token}
    pretender = subprocess.Popen(["sleep", "60"], env=environment, user=65534)
    try:
        time.sleep(0.2)
        assert operations.processes_of(answer.token) == []
    finally:
        pretender.kill()
        pretender.wait()


# -- the file


def test_a_record_that_cannot_be_read_decides_nothing(journal: Journal) -> None:
    begin(journal, asked(ONCE), told(FAIL))
    for damage in ("", "{}", "[]", '{"state": "ended"}'):
        Path(journal.path).write_text(damage)
        with pytest.raises(Damaged, match="Look whether it has, and remove the file"):
            begin(journal, asked(ONCE), told(FAIL))


@pytest.mark.parametrize("operation", ["", ".", "..", "../x", "a/b", "-x", "x" * 121, "a b", "x.tmp-1", "é", "a\nb"])
def test_an_id_that_names_no_file_is_refused(operation: str, store: Store) -> None:
    with pytest.raises(UsageError, match="Nothing was touched"):
        Journal(store, operation)


def test_a_long_result_is_not_kept(journal: Journal) -> None:
    token = begin(journal, asked(), told(FAIL)).token
    assert end(journal, token, "ok", told(PASS), json.dumps({"stdout": "x" * 70_000})).answer == VERIFIED
    assert os.path.getsize(journal.path) < 1000


def test_old_records_go_but_none_of_what_happens_once_or_is_open(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "_MOST", 5)
    begin(Journal(store, "once"), asked(ONCE), told(PASS))
    begin(Journal(store, "open"), asked(), told(FAIL))
    for number in range(9):
        begin(Journal(store, f"n{number}"), asked(), told(PASS))
    assert sorted(os.listdir(store.join("operations"))) == ["n6", "n7", "n8", "once", "open"]


def test_an_attempt_of_several_tasks_goes_on_unless_another_run_has_taken_it_over(journal: Journal) -> None:
    """Other runs wait for it as from its beginning, also after a boot between two tasks."""
    token = begin(journal, asked(ONCE), told(FAIL)).token
    record = journal.read()
    assert record is not None
    journal.write(replace(record, began=record.began - 100, boot="another"))
    assert go_on(journal, token).answer == BEGUN
    after = begin(journal, asked(ONCE), told(FAIL))
    assert after.answer == RUNNING and after.after > 5
    journal.write(replace(record, began=record.began - 100))
    assert begin(journal, asked(ONCE, patient=1), told(FAIL)).answer == BEGUN
    refused = go_on(journal, token)
    assert refused.answer == REFUSED and refused.token == "" and "another run has begun" in refused.why
    assert go_on(Journal(journal.store, "none"), token).answer == REFUSED


def test_what_is_verified_while_its_tasks_go_on_stays_verified(journal: Journal) -> None:
    token = begin(journal, asked(), told(FAIL)).token
    assert begin(journal, asked(), told(PASS)).answer == VERIFIED
    record = journal.read()
    assert go_on(journal, token).answer == BEGUN and journal.read() == record
