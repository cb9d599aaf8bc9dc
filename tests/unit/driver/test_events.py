# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What recorded runs of Ansible say of each host. Recorded with ansible-core 2.19 and ansible-runner 2.4.

Each is a playbook within the play that ends it (wrapper.py), whose task is MARK.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evenkeel.ansible import answers
from evenkeel.ansible.events import AGAIN, Record, feed, judge, message, rescued

WEB = ["web1", "web2", "web3", "web4"]
HERE = Path(__file__).parent
MARK = "evenkeel: done 42"


def read(name: str, mark: str = MARK) -> tuple[Record, int | None, list[dict[str, Any]]]:
    head, *lines = [json.loads(line) for line in (HERE / "recorded" / f"{name}.jsonl").read_text().splitlines()]
    record = Record(mark=mark)
    for event in lines:
        feed(record, event)
    return record, head["rc"], lines


def judged(name: str, hosts: list[str] = WEB, **how: Any) -> dict[str, str]:
    record, rc, _ = read(name)
    return judge(record, hosts, rc=rc, **how)


def left(whys: dict[str, str]) -> list[str]:
    return [host for host, why in whys.items() if why]


@pytest.mark.parametrize(
    ("name", "hosts"),
    [
        ("well", []),
        ("silent", []),  # run_once and meta end_host: most hosts report no task at all
        ("rescued", []),
        ("one_fails", ["web2"]),
        ("one_fails_last", ["web2"]),
        ("taken_back", ["web2"]),  # by meta clear_host_errors
        ("run_once", WEB),  # although the recap names one
        ("given_up", WEB),  # any_errors_fatal, after always: ran everywhere
        ("serial", WEB),  # the third fails, and the second play never begins
    ],
)
def test_done_is_who_came_to_the_end_and_has_no_failure(name: str, hosts: list[str]) -> None:
    assert left(judged(name)) == hosts


def test_an_unreachable_host_is_told_and_the_others_that_went_on_are_done() -> None:
    whys = judged("unreachable", [*WEB, "web5"])
    assert whys["web5"].startswith("unreachable in 'First'")
    assert left(whys) == ["web5"]


def test_a_host_that_was_given_up_is_told_after_whose_failure() -> None:
    whys = judged("given_up")
    assert whys["web1"] == "the playbook did not come to its end on it after web2 failed in 'Breaks': broken"
    assert whys["web2"] == "failed in 'Breaks': broken"


def test_without_our_last_play_nobody_is_done() -> None:
    record, rc, _ = read("well", mark="evenkeel: done 43")
    assert left(judge(record, WEB, rc=rc)) == WEB


def test_a_rescued_failure_is_listed_and_counts_only_where_nothing_else_can_tell() -> None:
    record, rc, _ = read("rescued")
    assert rc == 0
    assert [rescued(record, host) for host in WEB] == [[], ["failed in 'Breaks': broken"], [], []]
    whys = judge(record, WEB, rc=rc, strict=["web1", "web2"])
    assert left(whys) == ["web2"] and "caught" in whys["web2"] and "Breaks" in whys["web2"]


@pytest.mark.parametrize(
    ("kind", "more", "why", "lost"),
    [
        ("runner_on_unreachable", {}, "unreachable in 'Task': gone (ignored)", ["web1"]),
        ("runner_on_failed", {"ignore_errors": True}, "failed in 'Task': gone (ignored)", []),
    ],
)
def test_what_the_playbook_ignores_is_listed_and_a_lost_host_counts_where_nothing_else_can_tell(
    kind: str, more: dict[str, Any], why: str, lost: list[str]
) -> None:
    record, _, lines = read("well")
    stats = lines[-1]["event_data"]
    feed(record, {"event": kind, "event_data": {"host": "web1", "task": "Task", "res": {"msg": "gone"}, **more}})
    feed(record, {"event": "playbook_on_stats", "event_data": {**stats, "ignored": {"web1": 1}}})
    assert [rescued(record, host) for host in WEB[:2]] == [[why], []]
    assert left(judge(record, WEB, rc=0)) == []
    assert left(judge(record, WEB, rc=0, strict=WEB)) == lost
    feed(record, {"event": "playbook_on_stats", "event_data": {**stats, "dark": {"web1": 1}}})
    assert rescued(record, "web1") == [], "it is unreachable for good"


def test_a_failure_on_the_controller_counts_against_the_whole_wave() -> None:
    record, _, lines = read("well")
    stats = lines[-1]["event_data"]
    feed(record, {"event": "playbook_on_stats", "event_data": {**stats, "failures": {"localhost": 1}}})
    whys = judge(record, WEB, rc=2)
    assert all("failed on localhost" in why for why in whys.values())


@pytest.mark.parametrize(("rc", "stopped", "word"), [(None, "", "killed"), (0, "too late", "too late")])
def test_a_run_that_was_cut_short_vouches_for_no_host(rc: int | None, stopped: str, word: str) -> None:
    record, _, _ = read("well")
    whys = judge(record, WEB, rc=rc, stopped=stopped)
    assert all(word in why for why in whys.values())


def test_every_prefix_of_a_run_without_its_recap_vouches_for_no_host() -> None:
    _, _, lines = read("well")
    for cut in range(len(lines) - 1):
        record = Record(mark=MARK)
        for event in lines[:cut]:
            feed(record, event)
        assert left(judge(record, WEB, rc=0)) == WEB, f"cut after {cut} events"


@pytest.mark.parametrize(
    ("res", "said"),
    [
        # As ansible-core 2.19 reports them.
        (
            {
                "msg": "One or more items failed",
                "results": [
                    {"failed": False, "msg": "", "_ansible_item_label": 0},
                    {"failed": True, "msg": "non-zero return code", "rc": 3, "stderr": "a\nbad 3", "item": 3},
                    {"failed": True, "msg": "non-zero return code", "rc": 4, "stderr": "bad 4", "item": 4},
                ],
            },
            "item 3: exit code 3: bad 3 (2 of 3 items failed)",
        ),
        (
            {
                "msg": "One or more items failed",
                "results": [{"failed": True, "msg": "no b", "item": {"secret": 1}, "_ansible_item_label": "b"}],
            },
            "item b: no b",
        ),
        (
            {"msg": "non-zero return code", "rc": 7, "stderr": "sorry", "attempts": 1},
            "exit code 7: sorry (the last attempt)",
        ),
        (
            {"msg": "non-zero return code", "rc": 1, "stderr": "rules:3: Error: no such chain\n  ^^^^\n"},
            "exit code 1: rules:3: Error: no such chain",
        ),
        (
            {"msg": "", "rc": 0, "stdout": "not yet", "attempts": 1},
            "the condition of until was never true; it said: not yet",
        ),
        ({"msg": "", "stdout": "hello", "failed_when_result": True}, "failed_when calls it failed; it said: hello"),
        (
            {"include": "nope.yml", "reason": "Could not find or access 'nope.yml'"},
            "Could not find or access 'nope.yml'",
        ),
        (
            {
                "msg": "Module result deserialization failed: No start of json char found",
                "module_stdout": "some words\n",
                "module_stderr": "Traceback (most recent call last):\n  File x\nRuntimeError: the module broke\n",
                "rc": 1,
            },
            "the module died: RuntimeError: the module broke (exit code 1)",
        ),
        (
            {"msg": "Module result deserialization failed", "module_stderr": "Killed\n", "rc": 137},
            "the module died: Killed (exit code 137)",
        ),
        ({"censored": "the output has been hidden"}, "the output has been hidden"),
        ({"results": [{"failed": True, "censored": "hidden", "item": "a"}]}, "item a: hidden"),
        ({"msg": ["a", {"b": 1}]}, "['a', {'b': 1}]"),
        ({"results": "no list", "msg": "m"}, "m"),
        ({}, "no reason given"),
    ],
)
def test_the_reason_is_the_one_that_helps(res: dict[str, Any], said: str) -> None:
    assert message(res) == said


def test_a_run_that_begins_anew_has_said_nothing() -> None:
    seen = Record()
    feed(seen, {"event": "runner_on_failed", "event_data": {"host": "web1", "task": "t", "res": {"msg": "m"}}})
    feed(seen, {"event": AGAIN})
    assert seen == Record()


def test_messages_are_one_line_and_never_empty() -> None:
    assert message({"msg": "a\n  b"}) == "a b"
    assert message({"results": [{"failed": False, "msg": "no"}, {"failed": True, "msg": "yes"}]}) == "yes"
    assert message({}) == "no reason given"
    assert message({"msg": "Task failed: Failed to connect to the host via ssh: ssh: timed out"}) == "ssh: timed out"
    # A connection that broke while the module was sent: what Python printed of it comes first, and is long.
    broken = f"  File x\n    data='{'UEsDBBQ' * 50_000}\nSyntaxError: cut off\nConnection to web1 closed."
    told = message({"msg": f"Task failed: Failed to connect to the host via ssh: {broken}"})
    assert told.startswith("File x") and told.endswith("SyntaxError: cut off Connection to web1 closed.")
    assert len(told) == 400
    died = answers.read({"failed": True, "module_stderr": broken, "rc": 1})
    assert message(died) == "the module died: Connection to web1 closed. (exit code 1)"
