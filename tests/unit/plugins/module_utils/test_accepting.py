# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A restart that no run has finished ends when a person takes the host as it is."""

from __future__ import annotations

import os
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Busy, Refused
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.accepting import accept
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.restarting import decision, record
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store


@pytest.fixture
def store(tmp_path: Any) -> Store:
    return Store(str(tmp_path / "store"), System())


def leave(store: Store, **more: Any) -> None:
    places = [{"host": "lb1", "words": "web/web1 on lb1"}]
    with store.locked():
        record.write(store, decision.Record(3, "t", "nginx.service", "cold", "", drained=places, **more))


def test_the_restart_ends_and_the_places_are_named(store: Store) -> None:
    leave(store)
    with pytest.raises(Refused, match="has drained this host at web/web1 on lb1"):
        accept(store)
    foreseen = accept(store, undrained=True, check_mode=True)
    assert foreseen.changed and record.read(store) is not None
    result = accept(store, undrained=True)
    assert result.planned == foreseen.planned and result.done == [
        "accepted the restart of nginx.service that no run has finished"
    ]
    assert (
        result.left == ["not measured: whether it gets requests at web/web1 on lb1"]
        and result.restart["generation"] == 3
    )
    assert record.read(store) is None and not accept(store).changed


def test_a_restart_that_acts_is_left_alone(store: Store) -> None:
    leave(store)
    known = record.read(store)
    assert known is not None
    with store.locked():
        acting = decision.acting(known, "t", False)
        record.write(store, record.of_this_process(acting, store.system))
    with pytest.raises(Busy, match="works on this host now"):
        accept(store)
    assert record.read(store) is not None and os.path.exists(store.join("restart"))
