# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of ``make test`` run side by side: none fails unseen, and none outlives the run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci/side-by-side"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A copy of the script, whose logs are not those of the run that this test is part of."""
    (tmp_path / ".ci").mkdir()
    return Path(shutil.copy(SCRIPT, tmp_path / ".ci/side-by-side"))


def run(script: Path, *parts: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, script, *parts], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_parts_run_at_the_same_time_and_say_what_they_left_out(script: Path, tmp_path: Path) -> None:
    # Each waits for a file of the other's.
    meet = "touch %s; until [ -e %s ]; do sleep 0.05; done"
    one, other = (tmp_path / name for name in ("one", "other"))
    code, out = run(
        script, f"a=echo a is shown; {meet % (one, other)}", f"b={meet % (other, one)}; echo 'Left out: x'; echo noise"
    )
    assert code == 0
    assert "a is shown" in out and "Left out: x" in out and "noise" not in out
    assert out.splitlines()[-2].startswith("a: passed") and out.splitlines()[-1].startswith("b: passed")
    assert (tmp_path / ".build/b.log").read_text() == "Left out: x\nnoise\n"


@pytest.mark.parametrize("failing", ["first", "second", "third"])
def test_one_part_that_fails_fails_the_run_and_its_output_is_shown(script: Path, failing: str) -> None:
    names = ["first", "second", "third"]
    code, out = run(
        script, *(f"{name}=echo this is {name}; {'false' if name == failing else 'true'}" for name in names)
    )
    assert code == 1
    assert f"this is {failing}" in out
    assert [name for name in names if f"{name}: FAILED" in out.rpartition("=====")[2]] == [failing]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_every_part_and_waits_until_each_has_cleaned_up(
    script: Path, tmp_path: Path, number: signal.Signals
) -> None:
    part = "trap 'sleep 0.5; touch {0}.clean; exit 1' INT; touch {0}.began; while :; do sleep 0.05; done"
    parts = [f"{name}={part.format(tmp_path / name)}" for name in ("a", "b")]
    with subprocess.Popen([sys.executable, script, *parts]) as process:
        wait_for(tmp_path / "a.began", tmp_path / "b.began")
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number
    assert (tmp_path / "a.clean").exists() and (tmp_path / "b.clean").exists()


@pytest.mark.parametrize("victim", ["caller", "script"])
def test_parts_end_with_the_process_that_called_and_with_the_script_itself(
    script: Path, tmp_path: Path, victim: str
) -> None:
    part = f"a=echo $$ >{tmp_path / 'pid'}; while :; do sleep 0.05; done"
    caller = (
        "import subprocess, sys; child = subprocess.Popen(sys.argv[1:]); print(child.pid, flush=True); child.wait()"
    )
    argv = [sys.executable, "-c", caller, sys.executable, str(script), part]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        wait_for(tmp_path / "pid")
        os.kill(process.pid if victim == "caller" else child, signal.SIGKILL)
        # Whoever reads the output may be gone as well.
        process.stdout.close()
        pid = int((tmp_path / "pid").read_text())
        end = time.monotonic() + 30
        while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
            assert time.monotonic() < end, f"still there after the {victim} was killed"
            time.sleep(0.05)


def wait_for(*paths: Path) -> None:
    end = time.monotonic() + 30
    while not all(path.exists() and (path.suffix or path.read_text()) for path in paths):
        assert time.monotonic() < end
        time.sleep(0.05)
