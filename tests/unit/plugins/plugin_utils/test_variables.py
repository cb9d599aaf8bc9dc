# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A slip in the name of a variable is told from a name that somebody chose, and from a name that a host made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.utils.display import Display
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _variables
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import (
    HostAction,
    check_peers,
    check_variables,
)


@pytest.mark.parametrize("slip", ["confim_within", "chekpoint", "waevs", "resuorces", "probe", "quiesse"])
def test_a_slip_is_refused(slip: str) -> None:
    with pytest.raises(UsageError, match=f"no variable is named evenkeel_{slip} .did you mean evenkeel_"):
        check_variables({f"evenkeel_{slip}": 1})


@pytest.mark.parametrize(
    "own", ["probes_web", "resources_common", "checkpoint_result", "service_name", "web_probes", "probes"]
)
def test_a_name_of_ours_with_a_further_word_is_no_slip(own: str) -> None:
    check_variables({f"evenkeel_{own}": 1})


def test_a_host_cannot_make_the_guard_refuse_by_the_name_of_a_fact() -> None:
    said = {"evenkeel_probs": 1, "evenkeel_\x1b[2J": 1}
    assert _variables.written({**said, "ansible_facts": said, "evenkeel_waevs": 1}) == ["evenkeel_waevs"]
    assert _variables.written({"evenkeel_\x1b[2J": 1}) == []
    assert len(_variables.written({f"evenkeel_{number}": 1 for number in range(100_000)})) == 100


def test_what_ends_a_change_or_only_looks_goes_on() -> None:
    check_variables({"evenkeel_waevs": 1}, refuse=False)
    assert HostAction.REFUSES_NAMES
    for module in ("ft_settle", "ft_info", "ft_health", "ft_accept"):
        path = f"ansible_collections.evenkeel.fault_tolerance.plugins.action.{module}"
        assert not __import__(path, fromlist=["ActionModule"]).ActionModule.REFUSES_NAMES


@pytest.mark.parametrize(
    ("role", "file", "variables", "warned"),
    [
        ("evenkeel.fault_tolerance.protect", "/x.yml", {"evenkeel_group": 1}, True),
        ("mine", "OURS/heal.yml", {"evenkeel_group": 1}, False),
        (None, "OURS/heal.yml", {"evenkeel_group": 1}, True),
        (None, "OURS/recover.yml", {"evenkeel_group": 1, "evenkeel_peers": 1}, False),
        (None, "/home/me/playbooks/heal.yml", {"evenkeel_group": 1}, False),
    ],
)
def test_the_old_use_of_the_group_is_told_for_roles_and_playbooks_of_ours(
    role: str | None, file: str, variables: dict[str, Any], warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Display, "deprecated", lambda _self, text, **_more: said.append(text))
    path = file.replace("OURS", str(Path(__file__).parents[4] / "playbooks"))
    ours = SimpleNamespace(get_name=lambda: role) if role else None
    action: Any = SimpleNamespace(_task=SimpleNamespace(_role=ours, get_path=lambda: f"{path}:9"))
    check_peers(action, variables)
    assert bool(said) is warned
