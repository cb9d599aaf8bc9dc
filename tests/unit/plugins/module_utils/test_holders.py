# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nobody who holds many files open delays the word that a host is back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.holders import holders


@pytest.mark.skipif(os.geteuid() != 0, reason="processes of another user need root")
def test_roots_processes_come_first_and_users_as_far_as_there_is_time(tmp_path: Path) -> None:
    for pid, uid in (("7", 12345), ("9", 0)):
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "comm").write_text("daemon\n")
        for number in range(50):
            (tmp_path / pid / "fd" / str(number)).symlink_to(f"/srv/{number} (deleted)")
        os.chown(tmp_path / pid, uid, uid)
    asked = []

    def goes_on() -> bool:
        asked.append(1)
        return len(asked) <= 60

    found = {
        one["processes"][0]: len(one["paths"])
        for one in holders(lambda path: path, proc=str(tmp_path), goes_on=goes_on)
    }
    assert found == {"daemon[9]": 50, "daemon[7]": 10}
    assert sum(len(one["paths"]) for one in holders(lambda path: path, proc=str(tmp_path))) == 100
