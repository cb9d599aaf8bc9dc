# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The six techniques on one file, each as one task: the playbook of docs/examples that a reader begins with."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from .conftest import Fleet, Run

Technique = Callable[[str], Run]

PLAYBOOK = Path(__file__).parents[4] / "docs" / "examples" / "techniques.yml"


@pytest.fixture
def file(fleet: Fleet) -> Path:
    return fleet.directory("h1") / "data" / "name"


@pytest.fixture
def technique(fleet: Fleet, file: Path) -> Iterator[Technique]:
    def run(tag: str) -> Run:
        pidfile = fleet.directory("h1") / "server.pid"
        process = {"name": "server", "pidfile": str(pidfile), "argv": [sys.executable, "-m", "http.server", "0"]}
        words = ["-e", f"file={file}", "-e", f"{{process: {process}}}", "--limit", "h1", "--tags", tag]
        done = fleet.playbook(str(PLAYBOOK), *words)
        assert done.rc == 0, done.output
        return done

    yield run
    pidfile = fleet.directory("h1") / "server.pid"
    if pidfile.exists():
        psutil.Process(int(pidfile.read_text())).kill()


def test_a_file_is_copied_and_recovered(fleet: Fleet, file: Path, technique: Technique) -> None:
    (copy,) = technique("redundancy").results["h1"]["copies"]
    assert copy["state"] == "good" and (fleet.directory(copy["peer"]) / "store/replicas/h1").is_dir()
    file.unlink()
    shutil.rmtree(fleet.directory("h1") / "store")
    assert technique("recovery").results["h1"]["source"] == copy["peer"]
    assert file.read_text() == "I am h1\n"


def test_a_file_is_recorded_and_put_back(file: Path, technique: Technique) -> None:
    technique("checkpoint")
    file.write_text("something else")
    technique("rollback")
    assert file.read_text() == "I am h1\n"


def test_an_operation_is_repeated_until_its_result_is_there_and_a_process_is_restarted(
    file: Path, technique: Technique
) -> None:
    assert technique("repeat").results["h1"]["changed"] is True
    assert file.read_text() == "I am h1\n42\n"
    assert technique("repeat").results["h1"]["changed"] is False
    first, second = (technique("restart").results["h1"] for _ in range(2))
    assert first["after"]["identity"] != second["after"]["identity"]
