# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook of a restart takes waves as people write them."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from .conftest import Fleet

BOOK = Path(__file__).parents[4] / "playbooks/restart.yml"


def test_waves_are_a_text_a_list_or_a_list_of_lists(fleet: Fleet) -> None:
    (waves,) = (
        task["evenkeel.fault_tolerance.ft_roll"]["waves"] for task in yaml.safe_load(BOOK.read_text())[0]["tasks"]
    )
    given = ["1,50%", ["1", "50%"], [1, ["50%"]], [["1"], ["50%"]]]
    tasks = [
        {"debug": {"msg": waves}, "vars": {"evenkeel_waves": one}, "register": f"r{n}"} for n, one in enumerate(given)
    ]
    found = "{{ [r0.msg, r1.msg, r2.msg, r3.msg, none_given.msg] }}"
    tasks += [{"debug": {"msg": waves}, "register": "none_given"}, {"debug": {"msg": found}}]
    run = fleet.play(tasks, "h1")
    assert json.loads(json.dumps(run.results["h1"]["msg"])) == [["1,50%"], *[["1", "50%"]] * 3, ["1"]]
