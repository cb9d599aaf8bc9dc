# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The demo leaves nothing behind: it does not begin where it would."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evenkeel import demo


def test_root_is_refused_where_systemd_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(_demo: demo.Demo) -> None:
        raise demo.Broken("it has begun")

    monkeypatch.setattr(demo.Demo, "build", never)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(demo, "_SYSTEMD", str(tmp_path))
    assert demo.main() == 1
    said = capsys.readouterr().out
    assert "run it as" in said and "it has begun" not in said
    monkeypatch.setattr(demo, "_SYSTEMD", str(tmp_path / "none"))
    assert demo.main() == 1 and "it has begun" in capsys.readouterr().out
