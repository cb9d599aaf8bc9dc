# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that has the library is not sent it again."""

from __future__ import annotations

import errno
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils import _answering
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _direct

from .conftest import Fleet, Run

ROOT = Path(__file__).parents[4]

OURS = "evenkeel.fault_tolerance."
# The words with which the Python of a host is started for a direct call.
DIRECT = f"[{' '.join(shlex.split(_direct._OPTIONS))}]"


def sent(run: Run) -> list[str]:
    """The modules that were sent to the host, in order."""
    return [name for name in re.findall(r"Using module file \S*/(\w+)\.py", run.output) if name.startswith("ft_")]


def told(run: Run) -> list[bool]:
    """For each call of the library: whether it was sent."""
    words = re.findall(r"ft_\w+ is asked of the library|the library is sent with", run.output)
    return ["sent" in after for word, after in zip(words, [*words[1:], ""], strict=True) if "asked" in word]


def task(module: str, **arguments: Any) -> dict[str, Any]:
    return {f"{OURS}{module}": {"store": "{{ evenkeel_store }}", **arguments}}


CHECKPOINT = task("ft_checkpoint", name="n", resources="{{ evenkeel_resources }}", confirm_within="60s")
SETTLE = task("ft_settle", generation=1)


def test_the_library_is_sent_once(bare_fleet: Fleet) -> None:
    run = bare_fleet.play([CHECKPOINT, SETTLE], "h1", "-vvv")
    assert not sent(run) and told(run) == [True, False], "the library, which the checkpoint leaves"
    assert run.results["h1"]["outcome"] == "confirmed"
    (bare_fleet.directory("h1") / "data/name").write_text("changed")
    before = bare_fleet.play([task("ft_rollback")], "h1", "-vvv", "--check", "--diff")
    assert not sent(before) and told(before) == [False] and before.results["h1"]["changed"]
    assert (bare_fleet.directory("h1") / "data/name").read_text() == "changed", "check mode is passed on"
    run = bare_fleet.play([task("ft_rollback")], "h1", "-vvv")
    assert not sent(run) and (bare_fleet.directory("h1") / "data/name").read_text() == "I am h1\n"
    # Newer versions of Ansible tell it only where they are asked to.
    given = run.results["h1"].get("invocation", {"module_args": {"checkpoint", "kinds", "store"}})
    assert set(given["module_args"]) >= {"checkpoint", "kinds", "store"}, "the arguments of the module itself"


def test_a_checkpoint_without_a_deadman_leaves_the_library_as_well(bare_fleet: Fleet) -> None:
    alone = task("ft_checkpoint", name="n", resources="{{ evenkeel_resources }}")
    run = bare_fleet.play([alone, alone], "h1", "-vvv")
    assert run.rc == 0 and not sent(run) and told(run) == [True, False]


def test_a_result_without_warnings_has_no_key_for_them(piped: Fleet) -> None:
    """Playbooks ask whether there is one."""
    is_warned = {"register": "said", "failed_when": "said.warnings is defined"}
    assert piped.play([{**CHECKPOINT, **is_warned}, {**SETTLE, **is_warned}], "h1").rc == 0


def test_errors_are_those_of_the_module(fleet: Fleet) -> None:
    fleet.hosts["h1"]["ansible_pipelining"] = False
    fleet.play([CHECKPOINT, SETTLE], "h1")
    run = fleet.play([task("ft_rollback", checkpoint="none")], "h1", "-vvv")
    found = run.results["h1"]
    assert not sent(run) and found["error"] == "NotFound" and "none" in found["msg"]


@pytest.mark.long
def test_every_module_that_works_on_one_host_is_answered_there(bare_fleet: Fleet) -> None:
    bare_fleet.play([CHECKPOINT, SETTLE], "h1")
    peers = {"peers": ["h1", "h2"], "copies": 1}
    run = bare_fleet.play([task("ft_info"), task("ft_health"), task("ft_scrub")], "h1", "-vvv")
    assert run.rc == 0 and not sent(run) and told(run) == [False] * 3
    # The first copy brings a store to the peer, and with it the library.
    bare_fleet.play([task("ft_replicate", **peers)], "h1")
    (bare_fleet.directory("h1") / "data/name").write_text("changed")
    run = bare_fleet.play([task("ft_checkpoint", name="n", resources="{{ evenkeel_resources }}")], "h1", "-vvv")
    assert not sent(run) and told(run) == [False]
    run = bare_fleet.play([task("ft_replicate", **peers)], "h1", "-vvv")
    assert run.results["h1"]["changed"] and not sent(run) and not any(told(run))


@pytest.mark.long
def test_the_guard_sends_no_library_to_the_hosts_of_a_group(bare_fleet: Fleet) -> None:
    bare_fleet.play([CHECKPOINT, SETTLE], "h1")
    python, ran = bare_fleet.home / "python", bare_fleet.home / "ran"
    python.write_text(f'#!/bin/sh\nwc -c </proc/self/fd/0 >>{ran}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    bare_fleet.hosts["h1"]["ansible_python_interpreter"] = str(python)
    assert bare_fleet.play([task("ft_guard", group=["h1", "h2"], wave=["h2"])], "h2").rc == 0
    sizes = [int(one) for one in ran.read_text().split()]
    assert sizes and max(sizes) < 10_000


def test_what_keeps_nothing_leaves_nothing(bare_fleet: Fleet) -> None:
    bare_fleet.play([task("ft_info"), task("ft_recover", peers=["h2"])], "h1")
    assert not (bare_fleet.directory("h1") / "store").exists() and not (bare_fleet.directory("h2") / "store").exists()


def ran(fleet: Fleet) -> list[str]:
    """The programs with which the Python of h1 was started, from now on; the file is emptied."""
    path = fleet.home / "ran"
    found = path.read_text().splitlines() if path.exists() else []
    path.write_text("")
    return found


@pytest.fixture
def piped(fleet: Fleet) -> Fleet:
    """The fleet, with the library, over connections with pipelining; h1 notes how its Python is started."""
    python = fleet.home / "python"
    python.write_text(f'#!/bin/sh\necho "[$*]" >>{fleet.home}/ran\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    fleet.hosts["h1"] |= {"ansible_pipelining": True, "ansible_python_interpreter": str(python)}
    return fleet


def test_the_library_answers_without_a_module(piped: Fleet) -> None:
    run = piped.play([CHECKPOINT, SETTLE], "h1", "-vvv")
    assert not sent(run) and set(ran(piped)) >= {DIRECT} and run.results["h1"]["outcome"] == "confirmed"
    (piped.directory("h1") / "data/name").write_text("changed")
    before = piped.play([task("ft_rollback")], "h1", "--check", "--diff")
    assert before.results["h1"]["changed"] and before.results["h1"]["diff"]
    assert (piped.directory("h1") / "data/name").read_text() == "changed", "check mode is passed on"
    run = piped.play([task("ft_rollback")], "h1", "-vvv")
    assert not sent(run) and (piped.directory("h1") / "data/name").read_text() == "I am h1\n"
    assert "diff" not in run.results["h1"]


def test_a_host_without_the_library_is_sent_it_once(piped: Fleet) -> None:
    shutil.rmtree(piped.directory("h1") / "store/agent")
    run = piped.play([task("ft_info"), task("ft_info")], "h1", "-vvv")
    assert run.rc == 0 and not sent(run) and run.results["h1"]["generation"] == 0
    assert ran(piped) == [DIRECT] * 4, "a call that only looks leaves no library"
    run = piped.play([CHECKPOINT, SETTLE, task("ft_info")], "h1", "-vvv")
    assert run.rc == 0 and not sent(run) and run.output.count("the library is sent") == 1
    (left,) = (piped.directory("h1") / "store/agent").iterdir()
    left.chmod(0o600)
    left.write_bytes(b"")
    again = task("ft_checkpoint", name="n", resources="{{ evenkeel_resources }}")
    run = piped.play([again, again], "h1", "-vvv")
    assert run.rc == 0 and run.output.count("the library is sent") == 1, "the damaged one is replaced"


def lacking(fleet: Fleet, words: str) -> None:
    """Have h1 lose the library, and its Python read every direct program with other words in place of these."""
    shutil.rmtree(fleet.directory("h1") / "store/agent")
    other = words[:-3] + "nil"
    without = f"[ \"$1\" != -I ] || exec 0< <(LC_ALL=C sed 's/{words}/{other}/g')"
    script = f'#!/bin/bash\necho "[$*]" >>{fleet.home}/ran\n{without}\nexec {sys.executable} "$@"\n'
    (fleet.home / "python").write_text(script)


def test_a_host_that_cannot_load_the_library_from_memory_is_sent_the_module_alone(piped: Fleet) -> None:
    lacking(piped, "memfd_create")
    run = piped.play([task("ft_info")], "h1", "-vvv")
    assert run.rc == 0 and sent(run) == ["ft_info"] and ran(piped) == [DIRECT, "[]"]


def test_a_python_without_bz2_is_sent_the_library_and_keeps_it(piped: Fleet) -> None:
    lacking(piped, "import bz2")
    run = piped.play([CHECKPOINT, SETTLE], "h1", "-vvv")
    assert run.rc == 0 and not sent(run) and told(run) == [True, False]


def test_a_host_that_cannot_load_the_library_is_not_sent_it() -> None:
    assert _direct.packing({"absent": True, "loads": "zlib"}) == "zlib"
    assert {_direct.packing({"absent": True, "loads": loads}) for loads in ("", "xz", True, None)} == {""}
    assert _direct.packing(_direct.ABSENT) == _direct.packing({"loads": "bz2"}) == ""


def test_a_program_that_ends_early_reads_all_that_is_sent() -> None:
    """The sender, ssh, would fail with a broken pipe, and the host count as unreachable."""
    asked = {"mark": "m", "library": "0" * 64, "arguments": {"store": "/nowhere"}}
    program = _direct.program(asked).replace(b"(3, 9)", b"(9, 9)")
    command = [sys.executable, *shlex.split(_direct._OPTIONS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdin and run.stdout
        run.stdin.write(program + bytes(1 << 20))
        run.stdin.close()
        assert _direct._result({"stdout": run.stdout.read().decode(), "rc": 0}, "m") == _direct.ABSENT


def test_the_library_is_packed_once_and_without_a_place_for_it_each_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[str] = []

    def archive(name: str, how: str) -> bytes:
        made.append(how)
        return f"{name} by {how}".encode()

    monkeypatch.setattr(_direct, "archive", archive)
    monkeypatch.setattr(_direct.C, "DEFAULT_LOCAL_TMP", str(tmp_path))
    (tmp_path / "evenkeel-info.bz2.new").write_bytes(b"torn")
    assert _direct.packed("info", "bz2") == _direct.packed("info", "bz2") == b"info by bz2" and made == ["bz2"]
    assert _direct.packed("info", "zlib") == b"info by zlib"
    made.clear()

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_direct.fcntl, "flock", no_locks)
    assert _direct.packed("info", "bz2") == b"info by bz2" and made == ["bz2"]
    monkeypatch.undo()
    monkeypatch.setattr(_direct, "archive", archive)
    monkeypatch.setattr(_direct.C, "DEFAULT_LOCAL_TMP", str(tmp_path))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_direct.os, "replace", full)
    assert _direct.packed("heal", "bz2") == b"heal by bz2" and not (tmp_path / "evenkeel-heal.bz2").exists()


def test_no_call_sends_more_than_the_modules_of_the_first_version_did() -> None:
    """Its ``ft_checkpoint`` was a module of 512 kB, and its ``ft_info`` one of 287 kB, in each call."""
    command = [sys.executable, str(ROOT / "tests/benchmark/payload.py")]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[2:]
    written = (ROOT / "docs/performance.md").read_text()
    for row in rows:
        name, *sizes = row.strip("| ").split(" | ")
        first, later = map(int, sizes[:2])
        assert first < 450 and later < 10, row
        (line,) = (line for line in written.splitlines() if line.startswith(f"| {name} | "))
        known = [int(one) for one in line.strip("| ").split(" | ")[2:5]]
        assert all(abs(one - int(other)) <= 3 + 0.1 * one for one, other in zip(known, sizes, strict=True)), (row, line)
    firsts = {row.split("`")[1]: int(row.split(" | ")[1]) for row in rows}
    assert len(firsts) == 14 and firsts["ft_info"] < 150 and firsts["ft_health"] < 170


def test_errors_and_wrong_arguments_are_those_of_the_module(piped: Fleet) -> None:
    tasks = [{**task("ft_rollback", checkpoint="none"), "ignore_errors": True, "register": "one"}]
    tasks += [{**task("ft_info", stor="x"), "ignore_errors": True, "register": "two"}]
    found = piped.play([*tasks, {"debug": {"msg": "{{ [one, two] }}"}}], "h1").results["h1"]["msg"]
    assert found[0]["error"] == "NotFound" and "none" in found[0]["msg"] and found[0]["failed"]
    assert "stor is no option" in found[1]["msg"] and ran(piped) == [DIRECT]


@pytest.mark.parametrize(
    ("python", "become"), [("auto_silent", False), ("auto_silent", True), ("/nowhere/python3", False)]
)
def test_a_python_is_found_where_ansible_finds_it(piped: Fleet, python: str, become: bool) -> None:
    piped.hosts["h1"] |= {"ansible_python_interpreter": python, "ansible_become": become}
    piped.hosts["h1"]["ansible_interpreter_python_fallback"] = ["/nowhere/python3", str(piped.home / "python")]
    run = piped.play([task("ft_info")], "h1", "-vvv")
    if python == "auto_silent":
        assert run.rc == 0 and not sent(run) and ran(piped) == [DIRECT]
    else:
        assert run.rc != 0 and sent(run) == ["ft_info"], "Ansible itself tells that there is no such Python"


def test_the_host_to_which_a_task_is_delegated_is_asked_with_its_own_python(piped: Fleet) -> None:
    run = piped.play([{**task("ft_info"), "delegate_to": "h1"}], "h2", "-vvv")
    assert run.rc == 0 and not sent(run) and ran(piped) == [DIRECT]


def test_a_program_that_dies_is_not_run_again(piped: Fleet) -> None:
    """It may have done half of its work."""
    (piped.home / "python").write_text(f'#!/bin/sh\necho "[$*]" >>{piped.home}/ran\necho killed >&2; exit 137\n')
    run = piped.play([task("ft_info")], "h1", "-vvv")
    assert run.rc != 0 and not sent(run) and ran(piped) == [DIRECT]
    assert "killed" in run.results["h1"]["module_stderr"]


def test_noise_of_the_host_is_no_answer(piped: Fleet) -> None:
    words = f'#!/bin/sh\necho Welcome; echo \'{{"changed": true}}\'\n{sys.executable} "$@"; echo "{{}}"\n'
    (piped.home / "python").write_text(words)
    run = piped.play([task("ft_info")], "h1", "-vvv")
    assert run.rc == 0 and not sent(run) and run.results["h1"]["generation"] == 0


ORDERS = {"add_host": {"host_name": "victim", "groups": ["web"]}, "_ansible_notify": ["nothing"], "changed": True}


@pytest.mark.parametrize(
    ("printed", "rc"), [(json.dumps(ORDERS), 0), ("{", 137), ("[]", 0), ('{"started": true}', 137)]
)
def test_what_a_host_answers_is_no_order_to_ansible_and_no_trace(piped: Fleet, printed: str, rc: int) -> None:
    """A host that was taken over reads the mark in the program that it gets."""
    (piped.home / "python").write_text(
        f"""#!{sys.executable}
import re, sys
program = sys.stdin.read()
print(re.search(r'"mark": "(\\w+)"', program)[1] + {printed!r})
sys.exit({rc})
"""
    )
    found = piped.play([task("ft_info")], "h1", "-vvv")
    assert not sent(found) and not found.results["h1"].keys() & ORDERS.keys() - {"changed"}
    assert (found.rc == 0) == (rc == 0 and printed != "[]") and "victim" not in found.output
    assert found.rc == 0 or "module_stdout" in found.results["h1"]


def test_no_more_is_told_than_ansible_tells() -> None:
    told = _answering.shown({"repository": "rest:https://user:s3cret@backup/r", "probes": [{"a": "s3cret"}], "n": 1})
    assert told == {"repository": "rest:https://user:***@backup/r", "probes": "(not shown)", "n": 1}
