# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations that are repeated in real runs of Ansible."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.action import ft_repeat as action
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.repeat import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._arguments import checked

from .conftest import Fleet, Run

REPEAT = "evenkeel.fault_tolerance.ft_repeat"
# Takes effect at the third call, and counts all of them.
THIRD = 'echo . >> "$1/calls"; [ "$(wc -l < "$1/calls")" -lt 3 ] || echo done > "$1/effect"; echo {said}; exit {rc}'


def repeat(script: str, *more: Any, **options: Any) -> dict[str, Any]:
    argv = ["sh", "-c", script, "sh", "{{ base }}", *more]
    return {
        REPEAT: {
            "id": "op",
            "module": "ansible.builtin.command",
            "args": {"argv": argv},
            "verify": [{"command": {"argv": ["test", "-e", "{{ base }}/effect"]}}],
            "backoff": "0.1s",
            "verify_within": "0s",
            "store": "{{ evenkeel_store }}",
            **options,
        }
    }


def calls(fleet: Fleet, host: str = "h1") -> int:
    path = fleet.directory(host) / "calls"
    return len(path.read_text().splitlines()) if path.exists() else 0


def only(run: Run) -> dict[str, Any]:
    return run.results["h1"]


@pytest.mark.long
def test_it_is_repeated_until_it_is_verified_and_not_again(fleet: Fleet) -> None:
    task = repeat(THIRD.format(said="well", rc=0))
    run = fleet.play([task], "h1", "--check")
    assert run.rc == 0 and only(run)["changed"] and only(run)["outcome"] == "" and calls(fleet) == 0
    assert not fleet.kept("h1"), "check mode has written"
    run = fleet.play([task], "h1")
    result = only(run)
    assert run.rc == 0 and calls(fleet) == 3
    assert (result["outcome"], result["changed"], [one["said"] for one in result["attempts"]]) == (
        "verified",
        True,
        ["ok", "ok", "ok"],
    )
    assert result["result"]["stdout"] == "well" and result["verification"]["state"] == "pass"
    again = only(fleet.play([task], "h1"))
    assert not again["changed"] and again["attempts"] == [] and again["result"]["stdout"] == "well"
    assert calls(fleet) == 3
    (fleet.directory("h1") / "effect").unlink()
    assert only(fleet.play([task], "h1"))["changed"], "what does not hold any more is done again"


# -- options


def options(**given: Any) -> dict[str, Any]:
    task = repeat("true", **given)[REPEAT]
    return checked({**ARGUMENTS, "store": {"type": "path"}}, task)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"id": "../up"}, "cannot name an operation"),
        ({"attempts": 0}, "attempts must be 1 or more"),
        ({"unreachable_attempts": -1}, "unreachable_attempts must be 0 or more"),
        ({"deadline": "0s"}, "deadline must be more than 0"),
        ({"deadline": "soon"}, "deadline: 'soon' is not a duration"),
        ({"backoff": "2m"}, "backoff_limit must not be less than backoff"),
        ({"class": "compensatable"}, "class compensatable needs restore"),
        ({"class": "once", "restore": "x"}, "class once takes no restore"),
        ({"vote": "1 of 2"}, "no majority"),
        ({"vote": "0 of 0"}, "no majority"),
        ({"vote": "4 of 3"}, "no majority"),
        ({"vote": "two of three"}, "no majority"),
        ({"retry_budget": "much"}, "retry_budget: 'much' is no number"),
    ],
)
def test_a_wrong_option_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, ValueError), match=message):
        action.Request.read(options(**given))


def test_what_is_no_operation_and_what_verifies_nothing_is_refused_before_anything_is_touched(fleet: Fleet) -> None:
    warns = {"command": {"argv": ["true"], "severity": "warn"}}
    wrong = {
        "h1": ("no.such.module", {"command": {"argv": ["true"]}}, "there is no module no.such.module"),
        "h2": ("ansible.builtin.include_role", {"command": {"argv": ["true"]}}, "does nothing on a host"),
        "h3": ("ansible.builtin.ping", warns, "needs a probe that decides"),
        "h4": ("ansible.builtin.ping", {"tcp": {"port": 99999}}, "not between 1 and 65535"),
    }
    for host, (module, probe, _message) in wrong.items():
        fleet.hosts[host] |= {"module": module, "probe": [probe]}
    run = fleet.play([repeat("true", module="{{ module }}", verify="{{ probe }}")])
    for host, (_module, _probe, message) in wrong.items():
        assert message in run.results[host]["msg"] and "Nothing was touched" in run.results[host]["msg"]
        assert run.results[host]["error"] == "UsageError" and not fleet.kept(host)


# -- modules of every sort


@pytest.mark.long
def test_a_module_with_an_action_of_its_own_in_check_mode_and_for_good(fleet: Fleet) -> None:
    target, content = "{{ base }}/data/name", "new\n"
    task = repeat(
        "",
        module="ansible.builtin.copy",
        args={"dest": target, "content": content, "mode": "0600"},
        verify=[{"file": {"path": target, "sha256": hashlib.sha256(content.encode()).hexdigest()}}],
    )
    path = fleet.directory("h1") / "data/name"
    run = fleet.play([task], "h1", "--check", "--diff")
    assert only(run)["changed"] and "+new" in run.output and path.read_text() == "I am h1\n"
    assert only(fleet.play([task], "h1"))["changed"] and path.read_text() == content
    result = only(fleet.play([task], "h1", "--check"))
    assert (result["changed"], result["outcome"]) == (False, "verified")


def test_of_what_is_not_logged_nothing_is_stored(fleet: Fleet) -> None:
    task = {**repeat("echo tok-$((8000 + 841)); touch {{ base }}/effect"), "no_log": True}
    assert fleet.play([task], "h1", "-vvv").rc == 0
    record = (fleet.directory("h1") / "store/operations/op").read_text()
    assert json.loads(record)["state"] == "verified" and json.loads(record)["result"] is None
    assert "tok-8841" not in record and "8000 +" not in record, "neither the result nor the arguments"


@pytest.mark.parametrize("options", [{}, {"class": "once"}])
def test_of_what_is_not_logged_nothing_is_shown_where_it_fails(fleet: Fleet, options: dict[str, Any]) -> None:
    probe = [{"command": {"argv": ["sh", "-c", "echo out-$((8000 + 842)) >&2; exit 1"]}}]
    task = {**repeat("echo tok-$((8000 + 841)) >&2; exit 1", verify=probe, attempts=1, **options), "no_log": True}
    run = fleet.play([task], "h1")
    assert run.rc == 2 and "the operation op is not verified after 1 of 1 attempts" in run.output
    assert "verification: fail" in run.output and "its output is hidden, as no_log is set" in run.output
    assert "8841" not in run.output and "8842" not in run.output, run.output


def test_of_what_is_not_logged_a_prediction_shows_nothing(fleet: Fleet) -> None:
    task = {**repeat("", module="ansible.builtin.fail", args={"msg": "{{ 'tok-' ~ 8841 }}"}), "no_log": True}
    run = fleet.play([task], "h1", "--check")
    assert run.rc == 0 and "fails in check mode: the output has been hidden" in " ".join(run.output.split())
    assert "tok-8841" not in run.output


def test_a_result_that_ansible_cannot_read_is_no_reason_to_call_the_effect_unchanged(fleet: Fleet) -> None:
    task = repeat(r"printf 'caf\351'; touch {{ base }}/effect", **{"class": "once"})
    result = only(fleet.play([task], "h1"))
    assert result["attempts"][0]["said"] == "failed" and "UTF8" in result["attempts"][0]["msg"]
    assert (result["outcome"], result["changed"]) == ("verified", True)


def test_a_result_that_was_too_long_to_be_kept_is_told(fleet: Fleet) -> None:
    task = repeat("head -c 99000 /dev/zero | tr '\\0' a; touch {{ base }}/effect")
    first = fleet.play([task], "h1")
    assert only(first)["changed"] and "not on record" not in first.output
    again = fleet.play([task], "h1")
    assert (only(again)["outcome"], only(again)["result"]) == ("verified", {})
    assert "its result is not on record: it was too long" in " ".join(again.output.split())


# -- faults

SSH = """#!{python}
import os, subprocess, sys
from pathlib import Path
here = Path({here!r})
command = sys.argv[-1]
if (here / "away").exists():
    sys.stderr.write("no route to host")
    sys.exit(255)
code = subprocess.run(["/bin/sh", "-c", command]).returncode
if "EVENKEEL_OPERATION=" in command and (here / "lose").exists():
    (here / "lose").unlink()
    sys.exit(255)
sys.exit(code)
"""


@pytest.fixture
def remote(fleet: Fleet, tmp_path: Path) -> Path:
    """h1 over a connection that loses the answer of an operation (file ``lose``), or all (``away``)."""
    (tmp_path / "ssh").write_text(SSH.format(python=sys.executable, here=str(tmp_path)))
    (tmp_path / "ssh").chmod(0o755)
    fleet.hosts["h1"] |= {
        "ansible_connection": "ssh",
        "ansible_ssh_executable": str(tmp_path / "ssh"),
        "ansible_ssh_retries": 0,
        "ansible_pipelining": True,
    }
    return tmp_path


def test_a_lost_answer_is_settled_by_verification(fleet: Fleet, remote: Path) -> None:
    (remote / "lose").touch()
    task = repeat('echo . >> "$1/calls"; touch "$1/effect"', **{"class": "once"})
    run = fleet.play([task], "h1")
    result = only(run)
    assert run.rc == 0 and result["outcome"] == "verified" and result["changed"]
    assert [one["said"] for one in result["attempts"]] == ["no answer"] and calls(fleet) == 1


@pytest.mark.long
def test_an_effect_that_shows_late_is_waited_for_after_a_lost_answer(fleet: Fleet, remote: Path) -> None:
    (remote / "lose").touch()
    late = "test $(($(date +%s) - $(stat -c %Y {{ base }}/calls))) -ge 14"
    task = repeat(
        'echo . >> "$1/calls"',
        **{"class": "once"},
        verify=[{"command": {"argv": ["sh", "-c", late]}}],
        verify_within="60s",
    )
    result = only(fleet.play([task], "h1"))
    assert result["outcome"] == "verified" and [one["said"] for one in result["attempts"]] == ["no answer"]
    assert calls(fleet) == 1


def test_a_lost_answer_in_the_middle_of_a_file_begins_it_again(fleet: Fleet, remote: Path) -> None:
    lose = f"[ -e {remote}/lost ] || touch {remote}/lost {remote}/lose"
    commands = ["echo a >> {{ base }}/calls", f"echo b >> {{{{ base }}}}/calls; {lose}", "touch {{ base }}/effect"]
    (fleet.home / "op.yml").write_text(json.dumps([{"ansible.builtin.shell": command} for command in commands]))
    task = {REPEAT: {key: value for key, value in repeat("")[REPEAT].items() if key not in ("module", "args")}}
    task[REPEAT]["tasks"] = "op.yml"
    result = only(fleet.play([task], "h1"))
    assert result["outcome"] == "verified" and [one["said"] for one in result["attempts"]] == ["no answer", "ok"]
    assert (fleet.directory("h1") / "calls").read_text().split() == ["a", "b", "a", "b"]


def test_an_unreachable_host_is_tried_again_and_fails_so_that_rescue_runs(fleet: Fleet, remote: Path) -> None:
    (remote / "away").touch()
    task = repeat("true", unreachable_attempts=2)
    rescue = {"ansible.builtin.set_fact": {"rescued": "{{ ansible_failed_result }}"}}
    told = {"ansible.builtin.debug": {"msg": "{{ rescued.outcome }}: {{ rescued.msg }}"}}
    run = fleet.play([{"block": [task], "rescue": [rescue, told]}], "h1")
    assert run.rc == 0 and "unreachable: the operation op could not be carried out" in only(run)["msg"]
    assert "no route to host" in only(run)["msg"]


def test_a_killed_controller_leaves_an_attempt_that_the_next_run_waits_for(fleet: Fleet) -> None:
    """It still runs, and takes effect later: nothing is done twice."""
    script = 'echo . >> "$1/calls"; sleep 4; touch "$1/effect"'
    task = repeat(script, **{"class": "once"})
    fleet.play([{"ansible.builtin.command": "true"}], "h1")  # writes the inventory
    (fleet.home / "play.yml").write_text(json.dumps([{"hosts": "h1", "gather_facts": False, "tasks": [task]}]))
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "inventory.yml", "play.yml"]
    environment = {**os.environ, "ANSIBLE_LOCAL_TEMP": str(fleet.home / "tmp")}
    with subprocess.Popen(argv, cwd=fleet.home, env=environment, start_new_session=True) as process:
        limit = time.monotonic() + 60
        while not calls(fleet) and time.monotonic() < limit:
            time.sleep(0.02)
        children = _below(process.pid)
        for pid in [process.pid, *(pid for pid, words in children if "ansible-playbook" in words)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert not (fleet.directory("h1") / "effect").exists()
    run = fleet.play([task], "h1")
    assert run.rc == 0 and only(run)["outcome"] == "verified" and only(run)["attempts"] == []
    assert calls(fleet) == 1


def _below(pid: int) -> list[tuple[int, str]]:
    """The descendants of a process, with their command lines."""
    told = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in told.splitlines()]
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        for row in rows:
            if int(row[1]) == parent:
                found.append((int(row[0]), row[2]))
                todo.append(int(row[0]))
    return found


def test_the_deadline_ends_an_attempt_that_hangs_and_says_that_it_still_runs(fleet: Fleet) -> None:
    task = repeat('echo . >> "$1/calls"; exec setsid --wait sleep 90', deadline="9s")
    began = time.monotonic()
    run = fleet.play([task], "h1")
    assert run.rc == 2 and time.monotonic() - began < 60 and only(run)["attempts"][0]["seconds"] < 15
    assert only(run)["outcome"] == "in_doubt" and "sleep[" in only(run)["msg"], only(run)["msg"]
    for pid in re.findall(r"sleep\[(\d+)\]", only(run)["msg"]):
        os.kill(int(pid), signal.SIGKILL)


@pytest.mark.long
def test_the_probes_have_time_to_pass_after_a_success(fleet: Fleet) -> None:
    script = 'echo . >> "$1/calls"; (sleep 6; touch "$1/effect") > /dev/null 2>&1 &'
    result = only(fleet.play([repeat(script, verify_within="60s")], "h1"))
    assert result["outcome"] == "verified" and calls(fleet) == 1
    assert result["waited"] == 0, "it was not asked again"


def test_what_says_that_it_was_done_once_is_not_done_again(fleet: Fleet) -> None:
    run = fleet.play([repeat('echo . >> "$1/calls"', **{"class": "once"}, deadline="20s")], "h1")
    assert run.rc == 2 and only(run)["outcome"] == "in_doubt" and calls(fleet) == 1
    assert "give the operation a new id" in only(run)["msg"]


# -- restored, voted, and together


def test_each_attempt_begins_from_the_checkpoint(fleet: Fleet) -> None:
    """Also where the run before was given up, and the playbook has taken a newer checkpoint of the name since."""
    checkpoint = {
        "evenkeel.fault_tolerance.ft_checkpoint": {
            "name": "before",
            "resources": "{{ evenkeel_resources }}",
            "store": "{{ evenkeel_store }}",
        }
    }
    script = 'cat "$1/data/name" >> "$1/saw"; echo half >> "$1/data/name"; echo . >> "$1/calls"; ' + (
        '[ "$(wc -l < "$1/calls")" -lt 4 ] || touch "$1/effect"; exit 1'
    )
    task = repeat(script, **{"class": "compensatable"}, restore="before", attempts=2)
    first = fleet.play([checkpoint, task], "h1")
    assert only(first)["outcome"] == "failed" and "2 of 2 attempts" in only(first)["msg"]
    second = fleet.play([checkpoint, task], "h1")
    assert only(second)["outcome"] == "verified" and calls(fleet) == 4
    assert (fleet.directory("h1") / "saw").read_text() == "I am h1\n" * 4


def test_nothing_is_restored_within_a_change_as_that_would_end_it(fleet: Fleet) -> None:
    checkpoint = {"name": "before", "resources": "{{ evenkeel_resources }}", "store": "{{ evenkeel_store }}"}
    begin = {"evenkeel.fault_tolerance.ft_checkpoint": {**checkpoint, "confirm_within": "60s"}, "register": "begun"}
    task = {**repeat("true", **{"class": "compensatable"}, restore="before"), "ignore_errors": True, "register": "it"}
    well = [{"command": {"argv": ["true"]}}]
    settle = {"generation": "{{ begun.generation }}", "probes": well, "store": "{{ evenkeel_store }}"}
    told = {"ansible.builtin.debug": {"msg": "{{ it.msg }}; {{ it.attempts | length }} attempts; {{ ended.outcome }}"}}
    ended = {"evenkeel.fault_tolerance.ft_settle": settle, "register": "ended"}
    run = fleet.play([begin, task, ended, told], "h1")
    assert "would end it" in only(run)["msg"] and "0 attempts; confirmed" in only(run)["msg"]


def test_other_hosts_vote(fleet: Fleet) -> None:
    fleet.hosts["h4"] |= {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    task = repeat('touch "$1/effect"', voters=["h2", "h3", "h4"], vote="2 of 3")
    run = fleet.play([task], "h1")
    seen = [(one["source"], one["state"]) for one in only(run)["verification"]["observations"]]
    assert run.rc == 0 and seen == [("h2", "pass"), ("h3", "pass"), ("h4", "unknown")]
    run = fleet.play([repeat("true", voters=["h2", "h3"], vote="2 of 3")], "h1")
    assert "as many as there are voters" in only(run)["msg"]


def test_all_hosts_share_one_budget_of_retries(fleet: Fleet) -> None:
    task = repeat('echo . >> "$1/calls"; exit 1', retry_budget="2", deadline="25s", attempts=5)
    run = fleet.play([task], "all", "--forks", "4")
    assert sum(calls(fleet, host) for host in fleet.hosts) == 4 + 2
    said = [run.results[host]["msg"] for host in fleet.hosts]
    assert sum("the retry budget of all hosts is used up" in one for one in said) == 4, said


@pytest.mark.long
def test_beside_until_and_retries_on_the_same_faults(fleet: Fleet, remote: Path) -> None:
    """The first call takes effect and reports a failure; or its answer is lost."""
    script = 'echo . >> "$1/calls"; touch "$1/effect"; [ "$(wc -l < "$1/calls")" -gt 1 ]'
    until = {
        "ansible.builtin.command": {"argv": ["sh", "-c", script, "sh", "{{ base }}"]},
        "register": "done",
        "until": "done is succeeded",
        "retries": 3,
        "delay": 0,
    }
    assert fleet.play([until], "h1").rc == 0 and calls(fleet) == 2, "until has done it twice"
    (fleet.directory("h1") / "calls").unlink()
    (fleet.directory("h1") / "effect").unlink()
    assert fleet.play([repeat(script, **{"class": "once"})], "h1").rc == 0 and calls(fleet) == 1
    (remote / "lose").touch()
    lost = {**until, "environment": {"EVENKEEL_OPERATION": "x"}}
    assert fleet.play([lost], "h1").rc == 4, "until gives an unreachable host up"
