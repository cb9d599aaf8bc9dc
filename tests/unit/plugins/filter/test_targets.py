# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.fault_tolerance.plugins.filter.targets import batches, planned, targets

GROUPS = {
    "all": ["web1", "web2", "db1"],
    "ungrouped": [],
    "web": ["web1", "web2"],
    "db": ["db1"],
    "none": [],
}


@pytest.mark.parametrize(
    ("pattern", "limit"),
    [
        ("web", ""),
        ("web:!web2", ""),
        ("web[0],db", ""),
        (["web1", "db1"], ""),
        ("web*", "web2"),
        ("~web[12]", "all:!web1"),
        ("all", "db"),
        ("web", "web:!none"),
        ("web,!none", ""),
    ],
)
def test_a_target_that_names_hosts_stays_as_it_is(pattern: str | list[str], limit: str) -> None:
    assert targets(pattern, GROUPS, limit) == ([pattern] if isinstance(pattern, str) else pattern)


@pytest.mark.parametrize(
    ("pattern", "limit", "said"),
    [
        ("wbe", "", "'wbe' in the target"),
        ("web:dbb", "", "'dbb' in the target"),
        ("web:!wbe2", "", "'!wbe2' in the target"),
        ("web:&stging", "", "'&stging' in the target"),
        (["web1", "wbe2"], "", "'wbe2' in the target"),
        ("none", "", "'none' in the target"),
        ("web:&none", "", "'&none' in the target"),
        ("web[7]", "", "subscripted pattern 'web"),
        ("web:!web*", "", "leaves no host"),
        ("", "", "leaves no host"),
        ([], "web", "leaves no host"),
        ("web", "db", "leaves no host within the limit 'db'"),
        ("web", "web1,wbe2", "'wbe2' in the limit"),
        (None, "", "no target"),
    ],
)
def test_an_empty_or_unresolvable_target_is_an_error(pattern: str | list[str] | None, limit: str, said: str) -> None:
    with pytest.raises(AnsibleFilterError) as raised:
        targets(pattern, GROUPS, limit)
    assert said in str(raised.value)


def test_without_a_target_the_limit_says_which_hosts() -> None:
    assert targets(None, GROUPS, "web1") == ["all"]


def test_a_limit_in_a_file_counts_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "limit"
    file.write_text("web1\nweb2\n")
    assert targets("web", GROUPS, f"@{file}") == ["web"]
    file.write_text("web1\nwbe2\n")
    with pytest.raises(AnsibleFilterError, match="'wbe2' in the limit"):
        targets("web", GROUPS, f"@{file}")


def test_an_inventory_without_hosts_is_told_as_that() -> None:
    with pytest.raises(AnsibleFilterError, match="the inventory names no host"):
        targets("all", {"all": [], "ungrouped": []}, "")


def test_the_spare_that_was_chosen_is_the_host_of_the_next_play() -> None:
    no_host = ["all", "!all"]
    assert planned({}, GROUPS, "onto") == no_host
    for choice in ({}, {"onto": ""}, {"onto": "db1", "failed": True}, "odd"):
        assert planned({"web1": {"recover_choice": choice}}, GROUPS, "onto") == no_host
    assert planned({"web2": {"recover_choice": {"onto": "db1"}}}, GROUPS, "onto") == ["db1"]


def test_the_waves_of_the_inventory_count_where_the_run_gives_none() -> None:
    said: dict[str, dict[str, Any]] = {
        "web1": {"evenkeel_waves": "1,2"},
        "web2": {"evenkeel_waves": [1, 2]},
        "db1": {"evenkeel_waves": 7},
    }
    assert batches(None, said, GROUPS, "web") == ["1", "2"]
    assert batches(None, said, GROUPS, "all", "db1") == batches(7, said, GROUPS, "web") == ["7"]
    assert batches(None, {}, GROUPS, "web") == batches("1, 25%,100%", {}, GROUPS) == ["1", "25%", "100%"]
    with pytest.raises(AnsibleFilterError, match="evenkeel_waves differs between hosts"):
        batches(None, said, GROUPS, "all")


def test_what_a_host_says_of_itself_makes_no_waves() -> None:
    fact = {"evenkeel_waves": "100%", "ansible_facts": {"evenkeel_waves": "100%"}}
    with pytest.raises(AnsibleFilterError, match="evenkeel_waves is a fact of web1"):
        batches(None, {"web1": fact, "web2": {}}, GROUPS, "web")
    plan = {"waves": [["db1"]]}
    said = {"web1": {"restart_plan": plan, "ansible_facts": {"restart_plan": plan}}}
    assert planned(said, GROUPS) == ["all", "!all"] and planned(said, GROUPS, "sizes") == [1]
    assert planned({**said, "web2": {"restart_plan": plan}}, GROUPS) == ["db1"]


@pytest.mark.parametrize("waves", [0, -1, "0", "", [], [1, 0], "1,,2", "quorum", "0%", "101%", 1.5, {"a": 1}, True])
def test_a_wave_of_no_size_is_refused_as_ansible_would_change_all_hosts_at_once(waves: object) -> None:
    for said, given in ((waves, {}), (None, {"web1": {"evenkeel_waves": waves}, "web2": {}})):
        with pytest.raises(AnsibleFilterError, match=r"evenkeel_waves: waves .*as in 1,25%,100%\. Nothing was touched"):
            batches(said, given, GROUPS, "web")
