# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever sets the clock of the controller moves no deadline."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from evenkeel.ansible.events import PREFIX, Record, feed
from evenkeel.changes import decide
from evenkeel.changes.context import Clock


@pytest.mark.parametrize("step", [-3600.0, 0.0, 3600.0])
def test_a_deadline_counts_on_although_the_clock_is_set(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    real, before = time.time, Clock().now()
    assert abs(before - real()) < 600, "a date for people"
    monkeypatch.setattr(time, "time", lambda: real() + step)
    now = Clock().now()
    assert 0 <= now - before < 60
    began = datetime.fromtimestamp(time.time() - 5.0).isoformat()
    answer = {"armed": {"generation": 3, "checkpoint": "a" * 64, "within": 600.0}}
    data = {"host": "web1", "task": "t", "resolved_action": PREFIX + "ft_checkpoint", "res": answer, "start": began}
    record = Record()
    feed(record, {"event": "runner_on_ok", "event_data": data})
    result = record.of("web1", "ft_checkpoint")
    assert result is not None
    dead_man = decide.armed(result.result, result.started, now)
    assert dead_man is not None and dead_man.earliest - now == pytest.approx(595.0, abs=10.0)
