# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An old name of an option or of a variable does what the new name does, and is told as deprecated."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from .conftest import Fleet, Run

OURS = "evenkeel.fault_tolerance."
PLUGINS = Path(__file__).parents[4] / "plugins"
DATA = "{{ base }}/data"
RESOURCES = [{"files": {"paths": [DATA]}}]


def rolled_back(fleet: Fleet, module: dict[str, Any]) -> Run:
    """A run that takes a checkpoint, changes a file and calls the module; the file is back."""
    name = fleet.directory("h1") / "data/name"
    fleet.play(
        [{f"{OURS}ft_checkpoint": {"name": "before", "resources": RESOURCES, "store": "{{ base }}/store"}}], "h1"
    )
    before = name.read_text()
    name.write_text("changed\n")
    found = fleet.play([{f"{OURS}ft_rollback": {"store": "{{ base }}/store", **module}}], "h1")
    assert name.read_text() == before, found.output
    return found


def refused(fleet: Fleet, module: dict[str, Any]) -> Run:
    """A run that asks the guard with a variable of failure domains that no host has."""
    found = fleet.play([{f"{OURS}ft_guard": {"group": ["h1", "h2"], **module}}], "h1")
    assert "no failure domain is known" in found.results["h1"]["msg"], found.output
    return found


OLD: dict[tuple[str, str], Callable[[Fleet], Run]] = {
    ("ft_rollback", "to"): lambda fleet: rolled_back(fleet, {"to": "before"}),
    ("ft_rollback", "resources"): lambda fleet: rolled_back(fleet, {"checkpoint": "before", "resources": ["files"]}),
    ("ft_guard", "failure_domain"): lambda fleet: refused(fleet, {"failure_domain": "nowhere"}),
}


def test_every_old_name_of_an_option_is_tested() -> None:
    found = {
        (path.stem, alias)
        for path in PLUGINS.glob("modules/ft_*.py")
        for option in import_module(f"ansible_collections.{OURS}plugins.modules.{path.stem}").ARGUMENTS.values()
        for alias in option.get("aliases", ())
    }
    assert found == set(OLD)


@pytest.mark.parametrize(("module", "old"), OLD)
def test_an_old_name_of_an_option_works_and_warns(fleet: Fleet, module: str, old: str) -> None:
    found = OLD[module, old](fleet)
    assert f"Alias '{old}' is deprecated" in " ".join(found.output.split())
    assert "evenkeel.fault_tolerance" in found.output and "0.3.0" in found.output


def test_an_old_name_of_an_option_works_where_ansible_copies_the_module(bare_fleet: Fleet) -> None:
    assert "Alias 'to' is deprecated" in " ".join(rolled_back(bare_fleet, {"to": "before"}).output.split())


def test_the_group_of_a_role_still_holds_copies_and_that_is_told(fleet: Fleet) -> None:
    variables = {"evenkeel_group": ["h1", "h2"], "evenkeel_copies": 1, "evenkeel_name": "before"}
    role = {"ansible.builtin.import_role": {"name": f"{OURS}protect"}}
    found = fleet.play([role], "h1", vars=variables)
    assert "evenkeel_group names only hosts whose health counts now" in " ".join(found.output.split())
    assert [one["peer"] for one in found.results["h1"]["copies"]] == ["h2"]
