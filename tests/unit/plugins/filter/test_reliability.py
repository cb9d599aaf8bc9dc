# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters are the functions, documented, and run in a playbook."""

from __future__ import annotations

import inspect
import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.fault_tolerance.plugins.filter.reliability import FilterModule
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils import _reliability
from ready_ansible import run_playbook

from evenkeel.collection import collections_path

FILTERS = FilterModule().filters()
DOCUMENTS = Path(__file__).parents[4] / "plugins" / "filter"

# filter expression -> what it gives, in a playbook
EXPRESSIONS = {
    "86400 | evenkeel.fault_tolerance.availability(86400)": 0.5,
    "[0.5, 0.5] | evenkeel.fault_tolerance.series": 0.25,
    "[0.5, 0.5] | evenkeel.fault_tolerance.parallel": 0.75,
    "3 | evenkeel.fault_tolerance.k_of_n(4, 0.9)": 0.9477,
    "2 | evenkeel.fault_tolerance.k_of_n(2, 0.9, common_cause=1.0)": 0.9,
    "5 | evenkeel.fault_tolerance.pairs": 10,
    "0.5 | evenkeel.fault_tolerance.repeat_success(2)": 0.75,
    "0.9 | evenkeel.fault_tolerance.attempts_needed(0.9999)": 4,
    "[0.5, 0.5] | evenkeel.fault_tolerance.any_of": 0.75,
    "300 | evenkeel.fault_tolerance.checkpoint_interval(86400, method='young')": 7200.0,
    "100 | evenkeel.fault_tolerance.expected_time(10, 1, 0, 1000000000000)": 110.0,
    "6 | evenkeel.fault_tolerance.loss_probability(2, 0.1, 86400)": 1.4996781e-07,
    "2 | evenkeel.fault_tolerance.mttdl(1, 100, 100, parallel_repair=false)": 200.0,
    "[{'name': 'b', 'time': 9, 'chance': 0.5}, {'name': 'a', 'time': 1, 'chance': 1.0}]"
    " | evenkeel.fault_tolerance.ladder": {"order": ["a", "b"], "expected_time": 1.0, "coverage": 1.0},
    "0.75 | evenkeel.fault_tolerance.error_budget(100)": 25.0,
    "1 | evenkeel.fault_tolerance.burn_rate(10, 0.9)": 1.0,
}
REFUSED = "1.5 | evenkeel.fault_tolerance.repeat_success(2)"


def test_every_function_is_a_filter_and_documented_with_its_arguments() -> None:
    assert set(FILTERS) == set(_reliability.FUNCTIONS)
    for name, function in _reliability.FUNCTIONS.items():
        document = yaml.safe_load((DOCUMENTS / f"{name}.yml").read_text())["DOCUMENTATION"]
        parameters = list(inspect.signature(function).parameters.values())
        options = document["options"]
        assert document["name"] == name
        assert list(options) == ["_input", *(parameter.name for parameter in parameters[1:])]
        assert document.get("positional", "") == ", ".join(parameter.name for parameter in parameters[1:])
        for parameter in parameters[1:]:
            if parameter.default is inspect.Parameter.empty:
                assert options[parameter.name]["required"]
            else:
                assert options[parameter.name]["default"] == parameter.default


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FILTERS["repeat_success"](1.5, 2), r"repeat_success: success is 1\.5: give a probability"),
        (lambda: FILTERS["k_of_n"](2), "k_of_n: .*missing"),
        (lambda: FILTERS["pairs"](2, links=3), "pairs: .*links"),
    ],
)
def test_errors_are_those_of_ansible(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(AnsibleFilterError, match=message):
        call()


def test_the_filters_run_in_a_playbook(tmp_path: Path) -> None:
    """So do the examples of their documentation, and what is out of a domain fails the task."""
    examples = [
        task
        for name in FILTERS
        for task in yaml.safe_load(yaml.safe_load((DOCUMENTS / f"{name}.yml").read_text())["EXAMPLES"])
    ]
    assert len(examples) == len(FILTERS)
    results = {f"r{i}": "{{ " + expression + " }}" for i, expression in enumerate(EXPRESSIONS)}
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"results": results},
        "tasks": [
            *examples,
            {"ansible.builtin.copy": {"content": "{{ results | to_json }}", "dest": str(tmp_path / "out.json")}},
            {"ansible.builtin.debug": {"msg": "{{ " + REFUSED + " }}"}, "register": "refused", "ignore_errors": True},
            {"ansible.builtin.assert": {"that": ["refused is failed", "'success is 1.5' in refused.msg"]}},
        ],
    }
    playbook = tmp_path / "playbook.yml"
    playbook.write_text(yaml.safe_dump([play], sort_keys=False))
    environment = os.environ | {
        "ANSIBLE_COLLECTIONS_PATH": str(collections_path()),
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
    }
    interpreter = f"ansible_python_interpreter={sys.executable}"
    words = ["-i", "localhost,", "-c", "local", "-e", interpreter, str(playbook)]
    run = run_playbook(words, tmp_path, environment)
    assert run.returncode == 0, run.stdout + run.stderr
    got = json.loads((tmp_path / "out.json").read_text())
    for (expression, expected), result in zip(EXPRESSIONS.items(), got.values(), strict=True):
        if isinstance(expected, dict):
            assert result == expected, expression
        else:
            assert result == pytest.approx(expected, rel=1e-6), expression
