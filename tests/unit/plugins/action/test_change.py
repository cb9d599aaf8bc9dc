# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles change, begin and settle in plays of others."""

from __future__ import annotations

import time
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.evenkeel.fault_tolerance.plugins.action.ft_checkpoint import ActionModule

from evenkeel.collection import FQCN, collections_path

COLLECTION = collections_path() / "ansible_collections" / FQCN.replace(".", "/")


def tasks(role: str) -> list[dict[str, Any]]:
    found = yaml.safe_load((COLLECTION / "roles" / role / "tasks/main.yml").read_text())
    return list(found)


def test_the_time_of_a_host_counts_from_its_own_answer_however_long_the_wave_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    action: ActionModule = object.__new__(ActionModule)
    answered = action.completed({"armed": {"within": 120.0}})
    (until,) = (one["ansible.builtin.set_fact"] for one in tasks("change") if "ansible.builtin.set_fact" in one)

    def known(checkpoint: dict[str, Any]) -> float:
        templar = Templar(DataLoader(), {"begin_checkpoint": checkpoint})
        return float(templar.template(trust_as_template(until["change_until"])))

    assert known(answered) == 1118.0
    for unarmed in ({"armed": None}, {"failed": True}, {"armed": {"within": "odd"}}):
        assert action.completed(unarmed) == unarmed and known(unarmed) > 2e9
