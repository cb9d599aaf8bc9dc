# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host answers is typed and bounded where it comes in; what is neither makes that host one in doubt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evenkeel.ansible import answers
from evenkeel.ansible.answers import BAD, BadAnswer, read
from evenkeel.ansible.events import PREFIX, Record, feed
from evenkeel.changes import decide
from evenkeel.commands import playbook
from evenkeel.commands.registry import playbooks
from evenkeel.outcome import Exit, State

PLAYBOOKS = playbooks()

INFO: dict[str, Any] = {
    "changed": False,
    "checkpoints": [
        {
            "id": "a" * 64,
            "name": "n",
            "names": ["n"],
            "kind": "snapshot",
            "created": "2026-11-28T01:02:03Z",
            "host": "w",
        }
    ],
    "replicas": {"web9": ["b" * 64]},
    "generation": 4,
    "armed": {"generation": 4, "checkpoint": "a" * 64, "name": "n", "until": 1.5, "within": 600, "overdue": None},
    "last": {"generation": 3, "outcome": "confirmed", "by": "settle", "at": 1.0, "checkpoint": "", "left": []},
    "doubt": None,
    "interrupted": False,
    "owed": [{"level": "service", "unit": "app.service", "why": ["/usr/lib/libz.so.1"], "processes": ["app[812]"]}],
    "planned": [],
    "done": ["a sentence", {"resource": "files", "action": "replace", "target": "/etc/x", "why": "content"}],
}


def nested(depth: int) -> Any:
    found: Any = "x"
    for _ in range(depth):
        found = [found]
    return found


def test_what_our_modules_answer_is_taken_as_it_is() -> None:
    assert read(json.loads(json.dumps(INFO))) == INFO


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (None, "no result"),
        ([], "no result"),
        ({"generation": "7"}, "generation should be a whole number"),
        ({"owed": [{"level": "service", "why": "all"}]}, r"owed\[0\].why should be a list"),
        ({"generation": -1}, "generation"),
        ({"generation": True}, "generation"),
        ({"generation": 10**400}, "generation"),
        ({"armed": "yes"}, "armed should be a mapping, and is 'yes'"),
        ({"armed": {"within": float("nan")}}, "armed.within should be a number"),
        ({"armed": {"until": float("inf")}}, "armed.until"),
        ({"armed": {"until": 10**400}}, "armed.until"),
        ({"armed": {"until": "soon"}}, "armed.until"),
        ({"armed": {"left": "all"}}, "armed.left should be a list"),
        ({"armed": {"checkpoint": "x,web2=y"}}, "armed.checkpoint should be the id"),
        ({"checkpoints": [{"id": "a b"}]}, r"checkpoints\[0\].id"),
        ({"checkpoints": [{"created": 5}]}, "created should be a text"),
        ({"checkpoints": {}}, "checkpoints should be a list"),
        ({"replicas": {"web9": 3}}, "replicas.web9 should be a list"),
        ({"last": {"at": []}}, "last.at"),
        ({"health": {"probes": ["x"]}}, r"health.probes\[0\] should be a mapping"),
        ({"probes": [{"restarts": 1.5}]}, "restarts"),
        ({"done": [5]}, r"done\[0\] should be a text"),
        ({"msg": {"a": 1}}, "msg should be a text"),
        ({"changed": "no"}, "changed should be true or false"),
        ({"x": nested(60)}, "nested"),
        ({"x": nested(900)}, "nested"),
        ({"x": [[0] * 15_000 for _ in range(100)]}, "more than"),
    ],
)
def test_a_bad_value_is_named_with_its_place(said: Any, why: str) -> None:
    with pytest.raises(BadAnswer, match=why) as found:
        read(said)
    assert len(str(found.value)) < 500


def test_what_is_kept_of_an_answer_is_bounded() -> None:
    huge = read({"msg": "m" * 10**6, "x" * 10**5: "y" * 10**6, "done": ["d"] * 10**5, "n": [float("nan"), 10**400, 1]})
    assert all(len(key) <= 200 for key in huge)
    assert max(len(one) for one in huge.values() if isinstance(one, str)) == answers.LONGEST_TEXT
    assert len(huge["done"]) == answers.LONGEST_LIST
    assert huge["n"] == [None, None, 1], "what is no number that JSON has is not passed on either"


def event(host: str, task: str, res: Any, status: str = "ok") -> dict[str, Any]:
    data = {"host": host, "task": "Do", "resolved_action": PREFIX + task, "res": res}
    return {"event": f"runner_on_{status}", "event_data": data}


def test_a_host_with_a_bad_answer_is_in_doubt_and_the_others_are_what_they_say() -> None:
    record = Record()
    feed(record, event("web1", "ft_info", {**INFO, "generation": "four"}))
    feed(record, event("web2", "ft_info", INFO))
    rows = {host: playbook.row(record, host) for host in ("web1", "web2")}
    assert rows["web1"]["state"] == "failed" and rows["web1"]["error"] == BAD
    assert "generation should be" in str(rows["web1"]["msg"])
    assert rows["web2"]["state"] == "ok"
    for command in ("status", "protect", "rollback", "recover", "restart", "scrub", "accept"):
        assert PLAYBOOKS[command].exit_code(list(rows.values())) is Exit.IN_DOUBT
        assert PLAYBOOKS[command].exit_code([rows["web1"]]) is Exit.IN_DOUBT


def test_a_bad_settlement_is_a_host_in_doubt_and_not_asked_again() -> None:
    record = Record()
    feed(record, event("web1", "ft_settle", {"outcome": "confirmed", "health": {"probes": 3}}))
    settled = decide.settled(record, "web1")
    assert settled is not None and settled.state is State.IN_DOUBT and "health.probes" in settled.why


def test_no_answer_in_time_is_a_host_that_was_not_reached() -> None:
    record = Record()
    late = {"failed": True, "msg": "Timed out after 300 second(s).", "timedout": {"period": 300, "frame": ""}}
    feed(record, event("web1", "ft_info", late, "failed"))
    row = playbook.row(record, "web1")
    assert row["state"] == "unreachable" and "no answer within 300 s" in str(row["msg"])
    assert PLAYBOOKS["rollback"].exit_code([row]) is Exit.IN_DOUBT
    assert decide.settled(record, "web1") is None, "it is asked again"


@pytest.mark.parametrize("within", [0.001, 1e11, 598.0])
def test_a_dead_man_of_another_length_is_not_the_one_that_was_asked_for(within: float) -> None:
    said = {"id": "f00", "armed": {"generation": 1, "until": 1.0, "within": within}}
    assert decide.armed(said, 1.0, 2.0, 600.0) is None
    record = Record()
    feed(record, event("web1", "ft_checkpoint", said))
    begun = decide.begun(record, ["web1"], {})
    assert begun.halt and begun.doubtful == {"web1"}


def test_a_run_that_says_much_outside_of_results_costs_no_more_memory() -> None:
    record = Record()
    for _ in range(5000):
        feed(record, {"event": "verbose", "stdout": "x" * 30_000})
    assert sum(len(one) for one in record.loose) < 5_000_000


@pytest.mark.parametrize(
    "res", [{"msg": {"a": nested(300)}}, {"results": "x", "msg": 5}, {"stderr": "\n" * 10**6}, [], 7]
)
def test_a_users_task_may_fail_with_anything(res: Any) -> None:
    record = Record()
    data = {"host": "web1", "task": "Do", "resolved_action": "ansible.builtin.command", "res": res}
    feed(record, {"event": "runner_on_failed", "event_data": data})
    assert record.failures["web1"].startswith("failed in 'Do': ") and len(record.failures["web1"]) < 600
