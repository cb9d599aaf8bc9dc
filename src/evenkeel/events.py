# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the events of a run say: a fold over them, without I/O.

Neither Ansible's exit code nor its recap tells whether a host is done: a rescued failure counts as success, a
host that ``serial`` or a failed ``run_once`` left out counts as nothing at all. So each host is judged play by play.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

PREFIX = "evenkeel.fault_tolerance."
# No event of Ansible's: the run begins anew, and what it said until now does not count.
AGAIN = "again"
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# What Ansible says before it comes to the point.
_PREAMBLE = re.compile(
    r"^(Task failed: )?((Failed to connect to the host via ssh|Data could not be sent to remote host .*? over ssh): )?"
)
# Output that belongs to no result of a host: errors of Ansible itself, warnings.
_LOOSE = ("verbose", "error", "warning", "system_warning")


@dataclass
class PlayRun:
    """One play as it ran, all its ``serial`` batches together.

    reached: host -> number of the last task that reported from it. failed: numbers of the tasks in which some
    host failed or was lost, by batch; batch: host -> its batch.
    """

    name: str
    pattern: str = ""
    reached: dict[str, int] = field(default_factory=dict)
    batch: dict[str, int] = field(default_factory=dict)
    failed: dict[int, int] = field(default_factory=dict)
    batches: int = 1


@dataclass(frozen=True)
class Result:
    """The result of one of our own tasks on a host. status: ok, failed or unreachable. started: epoch seconds."""

    task: str
    status: str
    result: Mapping[str, Any]
    started: float | None = None


@dataclass
class Record:
    """What is known of a run so far."""

    plays: list[PlayRun] = field(default_factory=list)
    task: str = ""
    number: int = 0
    results: dict[str, list[Result]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)
    stats: Mapping[str, Mapping[str, int]] | None = None
    asked: str = ""
    loose: list[str] = field(default_factory=list)
    _play: str = ""

    def of(self, host: str, task: str) -> Result | None:
        """The last result of our task ``task`` (as ``ft_settle``) on ``host``."""
        return next((r for r in reversed(self.results.get(host, [])) if r.task == task), None)

    def messages(self) -> str:
        """What Ansible itself said outside of any task, without its decoration."""
        lines = [line for line in self.loose if line and not line.startswith(("PLAY", "TASK", "Using "))]
        return "\n".join(lines[-12:])


def feed(record: Record, event: Mapping[str, Any]) -> None:
    """Take one event of ansible-runner into the record."""
    kind = event.get("event", "")
    data: Mapping[str, Any] = event.get("event_data") or {}
    if kind == AGAIN:
        vars(record).update(vars(Record()))
    elif kind == "playbook_on_play_start":
        _play_started(record, data)
    elif kind == "playbook_on_task_start":
        record.number += 1
        record.task = str(data.get("name", ""))
    elif kind == "playbook_on_stats":
        record.stats = {key: value for key, value in data.items() if isinstance(value, dict)}
    elif kind == "playbook_on_vars_prompt":
        record.asked = str(data.get("varname", ""))
    elif kind in ("runner_on_ok", "runner_on_failed", "runner_on_unreachable", "runner_on_skipped"):
        _task_ended(record, kind.removeprefix("runner_on_"), data)
    elif kind in _LOOSE:
        record.loose.append(_COLOUR.sub("", str(event.get("stdout", ""))).rstrip())


def _play_started(record: Record, data: Mapping[str, Any]) -> None:
    # Every batch of a serial play starts it again; the runner then appends _2 to the id it had.
    ident = str(data.get("uuid", ""))
    again = bool(record._play) and ident.startswith(record._play)
    if again and record.plays:
        record.plays[-1].batches += 1
    else:
        record._play = ident
        record.plays.append(PlayRun(str(data.get("name", "")), str(data.get("pattern", ""))))


def _task_ended(record: Record, status: str, data: Mapping[str, Any]) -> None:
    host = str(data.get("host", ""))
    res: Mapping[str, Any] = data.get("res") or {}
    if record.plays:
        play = record.plays[-1]
        play.reached[host] = record.number
        play.batch[host] = play.batches
        if status == "unreachable" or (status == "failed" and not data.get("ignore_errors")):
            play.failed[play.batches] = record.number
    name = str(data.get("task") or "")
    if status == "unreachable":
        record.unreachable[host] = f"unreachable in {name!r}: {message(res)}"
    elif status == "failed" and not data.get("ignore_errors"):
        record.failures[host] = f"failed in {name!r}: {message(res)}"
    action = str(data.get("resolved_action") or data.get("task_action") or "")
    if action.startswith(PREFIX) and status != "skipped":
        record.results.setdefault(host, []).append(
            Result(action.removeprefix(PREFIX), status, res, _epoch(data.get("start")))
        )


def _epoch(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


def message(res: Mapping[str, Any]) -> str:
    """The reason in a task's result, in one line: of a loop that of the first item, of a retry that of the last."""
    lines = [line.strip() for line in _reason(res).splitlines() if line.strip()]
    return _PREAMBLE.sub("", " ".join(lines))[:400] or "no reason given"


def _reason(res: Mapping[str, Any]) -> str:
    items = res.get("results")
    bad = [one for one in items if isinstance(one, dict) and one.get("failed")] if isinstance(items, list) else []
    if bad and items:
        first = bad[0]
        label = first.get("_ansible_item_label", first.get(str(first.get("ansible_loop_var") or "item"), ""))
        more = f" ({len(bad)} of {len(items)} items failed)" if len(bad) > 1 else ""
        return f"{f'item {str(label)[:80]}: ' if label != '' else ''}{_reason(first)}{more}"
    said = str(res.get("msg") or res.get("reason") or res.get("censored") or "")
    if res.get("module_stderr") or res.get("module_stdout"):
        said = f"the module died: {_last_line(res, 'module_stderr', 'module_stdout')} (exit code {res.get('rc', '?')})"
    elif said == "non-zero return code":
        said = f"exit code {res.get('rc', '?')}: {_last_line(res, 'stderr', 'stdout') or 'it said nothing'}"
    elif not said:
        why = "" if not res.get("failed_when_result") else "failed_when calls it failed"
        why = "what until waits for did not come" if "attempts" in res else why
        last = _last_line(res, "stderr", "stdout")
        return "; it said: ".join(part for part in (why, last) if part)
    return f"{said} (the last attempt)" if "attempts" in res else said


def _last_line(res: Mapping[str, Any], *keys: str) -> str:
    """The last line of the first of these that says anything; of a traceback that is the error."""
    said = (line.strip() for key in keys for line in reversed(str(res.get(key) or "").splitlines()))
    return next((line for line in said if line), "")


def judge(
    record: Record,
    hosts: Sequence[str],
    plays: Sequence[Collection[str]],
    *,
    rc: int | None,
    stopped: str = "",
) -> dict[str, str]:
    """For each of ``hosts``: why the user's playbook did not run on it to its end and well; empty when it did.

    plays: the hosts of each play of the playbook, in order, as Ansible listed them beforehand. When anything
    failed, a host counts as done only if it reported from a later task than the one that failed: a failure under
    ``any_errors_fatal`` or ``run_once`` leaves the other hosts behind half-way, without a word.
    """
    if stopped or rc is None or record.stats is None:
        said = record.messages() or f"ansible-playbook ended with {rc}"
        why = stopped or ("ansible-playbook was killed" if rc is None else said)
        return {host: _own(record, host) or why for host in hosts}
    stats = record.stats
    elsewhere = sorted(
        host for key in ("failures", "dark", "rescued") for host in stats.get(key, {}) if host not in hosts
    )
    whys = {}
    for host in hosts:
        why = ""
        if stats.get("dark", {}).get(host):
            why = record.unreachable.get(host, "unreachable")
        elif stats.get("failures", {}).get(host):
            why = record.failures.get(host, "failed")
        elif stats.get("rescued", {}).get(host):
            why = f"{record.failures.get(host, 'failed')} (rescued: the playbook caught it)"
        else:
            why = _left_out(record, host, plays, failed=rc != 0)
        if not why and elsewhere:
            why = f"the playbook failed on {elsewhere[0]}: {_own(record, elsewhere[0])}"
        whys[host] = why
    return whys


def _own(record: Record, host: str) -> str:
    return record.unreachable.get(host) or record.failures.get(host, "")


def _left_out(record: Record, host: str, plays: Sequence[Collection[str]], *, failed: bool) -> str:
    for index, expected in enumerate(plays):
        if host not in expected:
            continue
        if index >= len(record.plays):
            return f"play {index + 1} should have run on it and never did"
        play = record.plays[index]
        if not play.reached and not failed:
            continue  # tags left nothing of this play, for any host
        if host not in play.reached:
            return f"play {play.name!r} should have run on it and never did"
        broke = play.failed.get(play.batch[host])
        if failed and broke is not None and play.reached[host] <= broke:
            return f"play {play.name!r} was not seen to finish on it after another host failed"
    return ""
