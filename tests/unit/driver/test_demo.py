# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The demo leaves nothing behind: it does not begin where it would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evenkeel import demo


def test_as_root_it_hides_systemd_from_its_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def never(_demo: demo.Demo) -> None:
        raise demo.Broken("it has begun")

    monkeypatch.setattr(demo.Demo, "build", never)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    systemd = tmp_path / "run" / "system"
    assert demo.main(str(systemd)) == 1 and "it has begun" in capfd.readouterr().out
    systemd.mkdir(parents=True)
    can_hide = [0, 1]

    def run(argv: tuple[str, ...], **_how: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(argv, can_hide.pop(0))

    monkeypatch.setattr(subprocess, "run", run)
    again: list[list[str]] = []

    def replaced(_program: str, words: list[str]) -> None:
        again.append(words)
        raise OSError

    monkeypatch.setattr(os, "execvp", replaced)
    assert demo.main(str(systemd)) == 1 and "Nothing was touched" in " ".join(capfd.readouterr().out.split())
    assert again == [[*demo._HIDDEN, f"{tmp_path}/run", sys.executable, "-P", "-m", "evenkeel.demo"]]
    assert demo.main(str(systemd)) == 1 and len(again) == 1 and not can_hide
