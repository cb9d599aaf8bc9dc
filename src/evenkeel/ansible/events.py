# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a run: a fold over its events, without I/O.

Neither Ansible's exit code nor its recap tells whether a host is done: a host that ``any_errors_fatal``, ``serial`` or
a failed ``run_once`` left behind is in neither. So Ansible itself shows it: a play of ours follows the user's playbook
(wrapper.py), and a host that Ansible has given up does not reach that play.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from evenkeel.ansible import answers, clock
from evenkeel.ansible.event import Event, mapping
from evenkeel.shared import USAGE

PREFIX = "evenkeel.fault_tolerance."
# An event of the driver itself: the run begins anew, and its earlier events do not count.
AGAIN = "again"
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# The beginning of messages of Ansible, before the point.
_PREAMBLE = re.compile(
    r"^(Task failed: )?((Failed to connect to the host via ssh|Data could not be sent to remote host .*? over ssh): )?"
)
# Events whose output belongs to no result of a host (errors of Ansible itself, warnings), and the lines that are kept.
_LOOSE = ("verbose", "error", "warning", "system_warning")
_KEPT = 200
# The number of characters of a text that are read, and of the line that is made from it.
_LONGEST, _LINE = 20_000, 400


@dataclass(frozen=True)
class Result:
    """The result of one of our own tasks on a host. status: ok, failed or unreachable. started: see clock.py."""

    task: str
    status: str
    result: Mapping[str, Any]
    started: float | None = None


@dataclass
class Record:
    """A run so far, as its events show it.

    mark: the name of the task that ends the run; reached: the hosts that came to it. failures: why a host failed
    last; caught: every failure of a host, in order, including failures that the playbook rescued. ignored: every
    failure that the playbook ignored, and every time that a host was unreachable, which it may have ignored as well.
    """

    mark: str = ""
    began: bool = False
    task: str = ""
    reached: set[str] = field(default_factory=set)
    results: dict[str, list[Result]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    caught: dict[str, list[str]] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)
    stats: Mapping[str, Mapping[str, int]] | None = None
    prompt: str = ""
    loose: list[str] = field(default_factory=list)

    def of(self, host: str, task: str) -> Result | None:
        """The last result of our task ``task`` (as ``ft_settle``) on ``host``."""
        return next((r for r in reversed(self.results.get(host, [])) if r.task == task), None)

    def renew(self, hosts: Sequence[str], later: Record) -> None:
        """Take what a later run tells of these hosts in place of what this one told."""
        for host in hosts:
            for told, now in ((self.unreachable, later.unreachable), (self.failures, later.failures)):
                told.pop(host, None)
                told.update({host: now[host]} if host in now else {})
            self.results[host] = later.results.get(host, [])

    def messages(self) -> str:
        """The messages of Ansible itself, outside of any task, without their decoration."""
        lines = [line for line in self.loose if line and not line.startswith(("PLAY", "TASK", "Using "))]
        return "\n".join(lines[-12:])

    def refusal(self, ended: int | None, errors: str = "") -> str:
        """The reason for which Ansible ended before its first play, as for a wrong option; empty where it did not, or
        where it was ended. ended: its exit code. errors: what was said beside its output."""
        if self.began or not ended:
            return ""
        said = [line.strip() for line in (*self.loose, *errors.splitlines())]
        wrong = (line for line in said if "error: " in line or "[ERROR]" in line)
        return next(wrong, "") or self.messages() or errors.strip() or f"ansible-playbook ended with {ended}"


# Ansible's own action that checks the arguments of a role.
CHECKS_ARGUMENTS = "validate_argument_spec"


def feed(record: Record, event: Event) -> None:
    """Add one event of ansible-runner to the record."""
    kind, data = str(event.get("event", "")), mapping(event.get("event_data"))
    if kind == AGAIN:
        vars(record).update(vars(Record(mark=record.mark)))
    elif kind == "playbook_on_play_start":
        record.began = True
    elif kind == "playbook_on_task_start":
        if data.get("name") != record.mark:
            record.task = str(data.get("name", ""))
    elif kind == "playbook_on_stats":
        record.stats = {key: value for key, value in data.items() if isinstance(value, dict)}
    elif kind == "playbook_on_vars_prompt":
        record.prompt = str(data.get("varname", ""))
    elif kind in ("runner_on_ok", "runner_on_failed", "runner_on_unreachable", "runner_on_skipped"):
        _task_ended(record, kind.removeprefix("runner_on_"), data)
    elif kind in _LOOSE:
        record.loose.append(_COLOUR.sub("", str(event.get("stdout", ""))[:_LONGEST]).rstrip())
        del record.loose[:-_KEPT]


def _task_ended(record: Record, status: str, data: Mapping[str, object]) -> None:
    host = str(data.get("host", ""))
    name = str(data.get("task") or "")
    action = str(data.get("resolved_action") or data.get("task_action") or "")
    ours = action.startswith(PREFIX) and status != "skipped"
    status, res = _taken(status, data.get("res"), ours)
    if status == "unreachable":
        record.unreachable[host] = f"unreachable in {name!r}: {message(res)}"
        record.ignored.setdefault(host, []).append(record.unreachable[host])
    elif status == "failed" and data.get("ignore_errors"):
        record.ignored.setdefault(host, []).append(f"failed in {name!r}: {message(res)}")
    elif status == "failed":
        record.failures[host] = f"failed in {name!r}: {message(res)}"
        record.caught.setdefault(host, []).append(record.failures[host])
    elif status == "ok" and record.mark and name == record.mark:
        record.reached.add(host)
    if status == "failed" and action.rpartition(".")[2] == CHECKS_ARGUMENTS:  # of a role, before its first task
        error = {"failed": True, "error": USAGE, "msg": message(res)}
        record.results.setdefault(host, []).append(Result(CHECKS_ARGUMENTS, status, error, _epoch(data.get("start"))))
    if ours:
        record.results.setdefault(host, []).append(
            Result(action.removeprefix(PREFIX), status, res, _epoch(data.get("start")))
        )


def _taken(status: str, said: object, ours: bool) -> tuple[str, Mapping[str, Any]]:
    """The end of a task, and its result; the result of a task of ours in the form that it promises, or a failure."""
    if not ours:
        return status, said if isinstance(said, Mapping) else {}
    try:
        res = answers.read(said)
    except answers.BadAnswer as error:
        why = (
            f"its answer cannot be trusted ({error}): look at the host itself, it may run something else than Evenkeel"
        )
        return "failed", {"failed": True, "error": answers.BAD, "msg": why}
    period = res.get("timedout")
    if status == "failed" and isinstance(period, Mapping):  # the task took too long
        return "unreachable", {**res, "msg": f"no answer within {period.get('period')} s"}
    return status, res


def _epoch(text: object) -> float | None:
    try:
        return clock.counted(datetime.fromisoformat(str(text)).timestamp())
    except ValueError:
        return None


def message(res: Mapping[str, Any]) -> str:
    """The reason in a task's result, in one line: for a loop that of the first item, for a retry that of the last."""
    said = _PREAMBLE.sub(
        "", " ".join(line.strip() for line in answers.cut(_reason(res), _LONGEST).splitlines() if line.strip())
    ).lstrip()
    return answers.cut(said, _LINE) or "no reason given"


def _reason(res: Mapping[str, Any]) -> str:
    items = res.get("results")
    bad = [item for item in items if isinstance(item, dict) and item.get("failed")] if isinstance(items, list) else []
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
        why = "the condition of until was never true" if "attempts" in res else why
        last = _last_line(res, "stderr", "stdout")
        return "; it said: ".join(part for part in (why, last) if part)
    return f"{said} (the last attempt)" if "attempts" in res else said


def _last_line(res: Mapping[str, Any], *keys: str) -> str:
    """The last line with a word in it, of the first of these keys that has any; for a traceback that is the error."""
    said = (line.strip() for key in keys for line in reversed(str(res.get(key) or "")[-_LONGEST:].splitlines()))
    return next((line for line in said if re.search(r"\w", line)), "")


def judge(
    record: Record, hosts: Sequence[str], *, rc: int | None, stopped: str = "", strict: Collection[str] = ()
) -> dict[str, str]:
    """For each of ``hosts``: why the user's playbook did not run to its end without a failure; empty when it did.

    strict: the hosts on which a failure counts although the playbook rescued it.
    """
    if stopped or rc is None or record.stats is None:
        said = _line(record.messages()) or f"ansible-playbook ended with {rc}"
        why = stopped or ("ansible-playbook was killed" if rc is None else said)
        return {host: _own(record, host) or why for host in hosts}
    # A failure on the controller is a failure of the change on every host.
    elsewhere = next((host for host in _troubled(record) if host not in hosts), "")
    whys = {host: _why(record, host, host in strict) for host in hosts}
    for host in hosts:
        if elsewhere and not whys[host]:
            whys[host] = f"the playbook failed on {elsewhere}: {_own(record, elsewhere) or 'no reason given'}"
    return whys


def rescued(record: Record, host: str) -> list[str]:
    """The failures on ``host`` that the playbook rescued, or ignored."""
    # The host that is unreachable for good has its last entry for that.
    ignored = record.ignored.get(host, [])[: _counted(record, "ignored", host)]
    return [*_caught(record, host), *(f"{why} (ignored)" for why in ignored)]


def _caught(record: Record, host: str) -> list[str]:
    count = _counted(record, "rescued", host)
    return record.caught.get(host, [])[-count:] or ["a failure without a result"] if count else []


def _why(record: Record, host: str, strict: bool) -> str:
    if _counted(record, "dark", host):
        return record.unreachable.get(host, "unreachable")
    # Also where meta clear_host_errors took the host back.
    if _counted(record, "failures", host):
        return record.failures.get(host, "failed")
    if host not in record.reached:
        rescued_there = [name for name in (record.stats or {}).get("rescued", {}) if _counted(record, "rescued", name)]
        other = next((name for name in [*_troubled(record), *rescued_there] if name != host), "")
        after = f" after {other} {_own(record, other) or 'failed'}" if other else ""
        said = _line(record.messages())
        return f"the playbook did not come to its end on it{after or (f': {said}' if said else '')}"
    # A failure that is ignored is one that does not matter; a host that was lost meanwhile is never a success.
    found = [*_caught(record, host), *([record.unreachable[host]] if host in record.unreachable else [])]
    if strict and found:
        return f"{found[-1]} (caught by the playbook, and no probe can tell whether the host is healthy)"
    return ""


def _troubled(record: Record) -> list[str]:
    """The hosts that failed or were lost, according to the recap."""
    stats = record.stats or {}
    found = [host for key in ("failures", "dark") for host, count in stats.get(key, {}).items() if count]
    return sorted(set(found))


def _counted(record: Record, key: str, host: str) -> int:
    return (record.stats or {}).get(key, {}).get(host, 0)


def _line(text: str) -> str:
    return answers.cut(" ".join(text.split()), _LINE)


def _own(record: Record, host: str) -> str:
    return record.unreachable.get(host) or record.failures.get(host, "")
