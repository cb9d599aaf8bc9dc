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

from evenkeel.events import Record, feed, judge, message, rescued

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
    assert left(whys) == ["web2"] and "rescued" in whys["web2"] and "Breaks" in whys["web2"]


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


def test_messages_are_one_line_and_never_empty() -> None:
    assert message({"msg": "a\n  b"}) == "a b"
    assert message({"results": [{"failed": False, "msg": "no"}, {"failed": True, "msg": "yes"}]}) == "yes"
    assert message({}) == "no reason given"
    assert message({"msg": "Task failed: Failed to connect to the host via ssh: ssh: timed out"}) == "ssh: timed out"
