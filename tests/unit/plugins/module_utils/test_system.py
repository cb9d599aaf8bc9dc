# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A command is over when it ends, whatever it leaves behind, and all that it said is known."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import command, environment, run
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.processes import start_time


@pytest.fixture(params=["memory", "disk"])
def _kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both places where the words of a command may be kept."""
    if request.param == "disk":
        monkeypatch.delattr(os, "memfd_create", raising=False)


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Path]:
    """Where a command writes the pid of what it leaves running."""
    path = tmp_path / "pid"
    yield path
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int(path.read_text()), 9)


@pytest.mark.usefixtures("_kept")
@pytest.mark.parametrize("how", ["sleep 60 &", "setsid sleep 60 &"])
def test_what_runs_in_the_background_is_not_waited_for(left: Path, how: str) -> None:
    started = time.monotonic()
    done = run(["sh", "-c", f"echo begun; {how} echo $! > {left}; echo done >&2"], 5.0)
    assert (done.rc, done.out, done.err) == (0, "begun\n", "done\n") and time.monotonic() - started < 4
    assert start_time(int(left.read_text())) is not None


def test_a_command_that_takes_too_long_is_killed_even_if_something_else_has_its_output(left: Path) -> None:
    started = time.monotonic()
    done = run(["sh", "-c", f"echo begun; setsid sleep 20 & echo $! > {left}; echo still >&2; sleep 30"], 0.5)
    assert (done.rc, done.out, done.err) == (124, "begun\n", "still\n\nkilled after 0.5 s")
    assert time.monotonic() - started < 5


@pytest.mark.usefixtures("_kept")
def test_large_output_is_known_to_its_end() -> None:
    done = run(["sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' a; head -c 3000000 /dev/zero | tr '\\0' b >&2"], 60.0)
    assert done.out == "a" * 5_000_000 and done.err == "b" * 3_000_000


@pytest.mark.usefixtures("_kept")
def test_who_opens_its_output_anew_leaves_no_hole() -> None:
    done = run(["sh", "-c", "echo first; echo second > /dev/stdout; echo third"], 5.0)
    assert done.out.endswith("second\nthird\n") and "\0" not in done.out


def test_there_is_no_input_and_what_is_not_there_is_said() -> None:
    assert run(["cat"], 5.0).out == ""
    done = run(["/nowhere/command"], 5.0)
    assert done.rc == 127 and done.words == "/nowhere/command: No such file or directory"


_SEEN = ["sh", "-c", "umask; env"]


def test_what_is_ours_alone_reaches_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("PYTHONPATH", "PYTHONHOME", "ANSIBLE_CONFIG", "LD_PRELOAD", "VIRTUAL_ENV")
    for name in ours:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("RESTIC_REPOSITORY", "given")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    before = os.umask(0o077)
    try:
        parsed, foreign = run(_SEEN, 5.0).out.splitlines(), command(_SEEN, 5.0).out.splitlines()
    finally:
        os.umask(before)
    for seen in (parsed, foreign):
        assert seen[0] == "0022"
        assert not [line for line in seen if line.partition("=")[0] in ours]
    # Of what is parsed the language is known, and who calls may give more.
    assert "LC_ALL=C.UTF-8" in parsed and "RESTIC_REPOSITORY=given" in parsed
    assert not [line for line in foreign if line.startswith(("LC_ALL", "RESTIC"))]


def test_a_command_of_others_speaks_the_language_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/opt/bin")
    one, two = tmp_path / "locale", tmp_path / "locale.conf"
    two.write_text('# of the host\nLANG="de_DE.UTF-8"\nLC_TIME=C\nPATH=/evil\n')
    found = environment([str(one), str(two)])
    assert (found["LANG"], found["LC_TIME"]) == ("de_DE.UTF-8", "C") and found["HOME"]
    assert found["PATH"].startswith("/opt/bin:") and found["PATH"].endswith(":/usr/sbin:/usr/bin:/sbin:/bin")
    assert environment([str(one)])["LANG"] == "C.UTF-8"
