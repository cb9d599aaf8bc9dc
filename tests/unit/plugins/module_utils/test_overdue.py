# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that nothing has put back in time says so, and who puts it back is told what that was."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, host_state, info, rollback


def test_an_overdue_change_is_put_back_and_told(store: Store, tmp_path: Path) -> None:
    live = tmp_path / "live"
    live.write_text("before")
    checkpoint(store, "change", [{"files": {"paths": [str(live)]}}], confirm_within=300.0)
    live.write_text("after")
    assert info(store)["armed"]["overdue"] is None
    slow = replace(store.system, now=lambda: 5.0)
    assert 250.0 < host_state(store.root, slow)["armed"]["remaining"] <= 300.0, "whatever its clock says"
    late = Store(store.root, replace(store.system, monotonic=lambda: time.monotonic() + 400.0))
    told = host_state(store.root, late.system)["armed"]["overdue"]
    assert 100.0 <= told < 200.0 and host_state(store.root, late.system)["armed"]["remaining"] == 0.0
    with open(store.join("armed")) as stream:
        record = json.load(stream)
    with open(store.join("armed"), "w") as stream:
        json.dump({**record, "back": "settle"}, stream)
    assert host_state(store.root, store.system)["armed"]["overdue"] == 0.0, "asked to go back before it was due"
    with open(store.join("armed"), "w") as stream:
        json.dump(record, stream)
    rebooted = replace(store.system, boot_id=lambda: "another", monotonic=lambda: 55.0)
    assert host_state(store.root, rebooted)["armed"]["overdue"] == 55.0

    result = rollback(late, "latest")
    assert live.read_text() == "before"
    assert result["changed"] and result["done"][0].startswith(
        "rolled back the unconfirmed change change (generation 1), whose time"
    )
    assert info(store)["armed"] is None
