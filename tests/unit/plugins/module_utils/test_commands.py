# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands end at their limit, also those that the kernel does not end."""

from __future__ import annotations

import os
import time
import tracemalloc
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import commands


def test_a_command_that_does_not_end_when_it_is_killed_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits for a disk or a dead server ends only with that."""
    kill, killed = os.killpg, []
    monkeypatch.setattr(os, "killpg", lambda pid, number: killed.append((pid, number)))
    monkeypatch.setattr(commands, "_ENDS", 0.1)
    began = time.monotonic()
    done = commands.run(["sleep", "10"], 0.1)
    assert time.monotonic() - began < 5.0
    assert done.rc == 124 and done.words == "killed after 0.1 s, and it has not ended"
    ((pid, number),) = killed
    kill(pid, number)
    os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('# "a comment\nLANG=de_DE.UTF-8\n LC_TIME="en_DK.UTF-8"\n', {"LANG": "de_DE.UTF-8", "LC_TIME": "en_DK.UTF-8"}),
        ("LANG='de_DE.UTF-8\nexport LANGUAGE=de:en\nPATH=/x\n", {"LANG": "de_DE.UTF-8", "LANGUAGE": "de:en"}),
        ("LANG=\"\nIt's mine\n", {"LANG": "C.UTF-8"}),
    ],
)
def test_a_stray_quote_in_the_file_of_the_locale_breaks_nothing(
    tmp_path: Path, text: str, expected: dict[str, str]
) -> None:
    (tmp_path / "locale").write_text(text)
    assert commands.locale([str(tmp_path / "none"), str(tmp_path / "locale")]) == expected


def test_a_command_that_ends_when_it_is_killed_has_no_more_words() -> None:
    done = commands.run(["sleep", "10"], 0.1)
    assert done.rc == 124 and done.words == "killed after 0.1 s"


@pytest.mark.parametrize("then", ["", "; sleep 10"])
def test_output_of_any_size_is_no_answer_and_takes_no_memory(then: str) -> None:
    """A command of another user can make its output as large as it wants, in a moment."""
    began = time.monotonic()
    tracemalloc.start()
    done = commands.run(["sh", "-c", f"truncate -s 12G /proc/self/fd/1{then}"], 5.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not done.has_answered and done.out == "" and "it printed more than 64 MiB" in done.words
    assert done.words.startswith("killed") == bool(then)
    assert peak < 1 << 20 and time.monotonic() - began < 3.0


def test_output_up_to_the_limit_is_whole() -> None:
    done = commands.run(["sh", "-c", f"head -c {64 << 20} /dev/zero; echo world >&2; exit 3"], 30.0)
    assert (done.rc, len(done.out), done.err) == (3, 64 << 20, "world\n")


def test_root_looks_for_commands_only_where_no_other_user_can_put_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    theirs.chmod(0o777)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"ours:{theirs}:{tmp_path}/missing:{ours}:/usr/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin"
    assert commands.search_path() == f"{ours}:/usr/bin:{usual}"
    (theirs / "date").write_text("#!/bin/sh\necho theirs\n")
    (theirs / "date").chmod(0o755)
    assert "theirs" not in commands.run(["date"], 10.0).out
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert commands.search_path().startswith(f"ours:{theirs}:")
