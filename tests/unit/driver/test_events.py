# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What recorded runs of Ansible say of each host. Recorded with ansible-core 2.19 and ansible-runner 2.4."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from evenkeel.events import AGAIN, Record, feed, judge, message

WEB = ["web1", "web2", "web3", "web4"]
HERE = Path(__file__).parent


def read(name: str) -> tuple[Record, int | None, list[dict[str, Any]]]:
    head, *lines = [json.loads(line) for line in (HERE / "recorded" / f"{name}.jsonl").read_text().splitlines()]
    record = Record()
    for event in lines:
        feed(record, event)
    return record, head["rc"], lines


def judged(name: str, plays: list[Collection[str]], hosts: list[str] = WEB) -> dict[str, str]:
    record, rc, _ = read(name)
    return judge(record, hosts, plays, rc=rc)


def test_a_playbook_that_went_well_leaves_no_host_with_a_reason() -> None:
    assert judged("well", [set(WEB), {"web1"}]) == dict.fromkeys(WEB, "")


def test_a_rescued_failure_is_a_failure_although_ansible_exits_0() -> None:
    assert read("rescued")[1] == 0
    whys = judged("rescued", [set(WEB)])
    assert "Breaks" in whys["web2"] and "rescued" in whys["web2"]
    assert not any(whys[host] for host in WEB if host != "web2")


def test_a_failed_run_once_leaves_no_host_done_although_the_recap_names_one() -> None:
    record, _, _ = read("run_once")
    assert record.stats is not None and set(record.stats["failures"]) == {"web1"}
    assert all(judged("run_once", [set(WEB)]).values())


def test_a_host_that_serial_never_came_to_and_a_play_that_never_began_are_told() -> None:
    # web3 fails in the second batch; web4 stops half-way with it; the second play never starts.
    whys = judged("serial", [set(WEB), {"web1"}])
    assert "Breaks" in whys["web3"]
    assert whys["web4"]
    assert whys["web1"] == "play 2 should have run on it and never did"
    assert whys["web2"] == ""


def test_an_unreachable_host_is_told_and_the_others_that_went_on_are_done() -> None:
    whys = judged("unreachable", [{*WEB, "web5"}], [*WEB, "web5"])
    assert whys.pop("web5").startswith("unreachable in 'First'")
    assert not any(whys.values())


def test_a_failed_host_does_not_taint_those_that_went_on() -> None:
    whys = judged("one_fails", [set(WEB)])
    assert [host for host in WEB if whys[host]] == ["web2"]


def test_a_host_that_should_have_run_and_never_did_is_told() -> None:
    whys = judged("well", [{*WEB, "web9"}], [*WEB, "web9"])
    assert whys["web9"] == "play 'One' should have run on it and never did"


def test_a_play_that_tags_left_empty_holds_nobody_back() -> None:
    record = Record()
    feed(record, {"event": "playbook_on_play_start", "event_data": {"name": "One", "uuid": "a"}})
    feed(record, {"event": "playbook_on_stats", "event_data": {"failures": {}}})
    assert judge(record, ["web1"], [{"web1"}], rc=0) == {"web1": ""}


def test_a_failure_on_the_controller_counts_against_the_whole_wave() -> None:
    record, _, lines = read("well")
    stats = lines[-1]["event_data"]
    feed(record, {"event": "playbook_on_stats", "event_data": {**stats, "failures": {"localhost": 1}}})
    whys = judge(record, WEB, [set(WEB), {"web1"}], rc=2)
    assert all("failed on localhost" in why for why in whys.values())


@pytest.mark.parametrize(("rc", "stopped", "word"), [(None, "", "killed"), (0, "too late", "too late")])
def test_a_run_that_was_cut_short_vouches_for_no_host(rc: int | None, stopped: str, word: str) -> None:
    record, _, _ = read("well")
    whys = judge(record, WEB, [set(WEB)], rc=rc, stopped=stopped)
    assert all(word in why for why in whys.values())


def test_every_prefix_of_a_run_without_its_recap_vouches_for_no_host() -> None:
    _, _, lines = read("well")
    for cut in range(len(lines) - 1):
        record = Record()
        for event in lines[:cut]:
            feed(record, event)
        assert all(judge(record, WEB, [set(WEB)], rc=0).values()), f"cut after {cut} events"


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
            {"msg": "", "rc": 0, "stdout": "not yet", "attempts": 1},
            "what until waits for did not come; it said: not yet",
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
