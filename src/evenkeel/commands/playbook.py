# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that are one run of one of our playbooks: rollback, accept, protect, recover, restart, scrub, status."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evenkeel.ansible.answers import BAD
from evenkeel.ansible.configuration import ask_ansible
from evenkeel.ansible.events import Record, Result, feed, message
from evenkeel.ansible.options import Options, Secrets, ask
from evenkeel.ansible.runner import Event
from evenkeel.ansible.session import open_session
from evenkeel.ansible.targets import LOCAL, Inventory, find_inventory
from evenkeel.outcome import Exit, RunResult, UsageError, under_way
from evenkeel.progress import Kind, Phase, Progress, Report, ignore

# What leaves a host in doubt when it is lost on the way: its state is half moved, or what was asked is not known.
_DOUBTFUL = ("rollback", "accept", "recover", "scrub", "status")
# The checkpoint of each host, from the variable evenkeel_checkpoints.
FOR_EACH = "{{ evenkeel_checkpoints[inventory_hostname] }}"
# What a person typed wrong. Of a checkpoint it is no word of theirs: whoever owns a declared tree can make it too deep.
_USAGE = {False: ("UsageError", "NotFound"), True: ("NotFound",)}
# Of a result, what speaks of Ansible and of no host.
_INTERNAL = ("invocation", "exception", "deprecations")
_REFUSALS = ("Refused", "Busy")


def run(
    command: str,
    options: Options,
    variables: Mapping[str, Any],
    *,
    secrets: Secrets | None = None,
    report: Report = ignore,
    asked_to_stop: Callable[[], int] = lambda: 0,
    cwd: str | None = None,
) -> RunResult:
    """Run the playbook of the collection named ``command`` with ``variables`` (evenkeel_*).

    Raises UsageError before anything is touched.
    """
    started = time.monotonic()
    ansible = ask_ansible(cwd or os.getcwd())
    options = options.with_configuration(dict(ansible.settings))
    secrets = ask(options) if secrets is None else secrets
    record = Record()
    with open_session(ansible, options, secrets, Path(ansible.cwd)) as session:
        hosts = session.list_own(command, variables, options.limit)
        each = variables.get("evenkeel_checkpoints")
        without = [host for host in hosts if each is not None and host not in each]
        if without:
            raise UsageError(
                f"--to names no checkpoint for {', '.join(without[:5])}: name it, or leave it out by --limit"
            )
        if command == "protect":
            variables = {**peers(find_inventory(options, ansible, secrets, ansible.cwd), hosts), **variables}
        report(Progress(Kind.PLAN, f"{command} on {len(hosts)} {'host' if len(hosts) == 1 else 'hosts'}"))
        report(Progress(Kind.HOST, hosts=hosts, phase=Phase.RUN))

        def on_event(event: Event) -> None:
            feed(record, event)
            if event.get("event") == "playbook_on_task_start":
                report(Progress(Kind.TASK, record.task, phase=Phase.RUN))
            if options.output and event.get("stdout"):
                report(Progress(Kind.OUTPUT, str(event["stdout"])))

        def stop() -> str:
            return "stopped by the user" if asked_to_stop() else ""

        with under_way():
            ended = session.run_own(command, variables, on_event, stop, limit=options.limit)
    rows = {host: row(record, host, ended.stopped) for host in hosts}
    code = exit_code(command, list(rows.values()))
    reason = next((f"{host}: {one['msg']}" for host, one in rows.items() if one["state"] != "ok"), "")
    if code is Exit.DONE and ended.rc != 0:
        code, reason = Exit.FAILED, ended.stopped or record.messages() or f"ansible-playbook ended with {ended.rc}"
    return RunResult(command, code, reason, rows, [], time.monotonic() - started)


def peers(inventory: Inventory, hosts: Sequence[str]) -> dict[str, Any]:
    """Who may hold copies where the inventory does not say it: every host of it."""
    said = ("evenkeel_peers", "evenkeel_group")
    if all(any(name in inventory.variables.get(host, {}) for name in said) for host in hosts):
        return {}
    return {"evenkeel_group": [host for host in inventory.order if host not in LOCAL]}


def row(record: Record, host: str, stopped: str = "") -> dict[str, Any]:
    """What became of ``host``: the result of its last task of ours, with state and msg."""
    results = record.results.get(host, [])
    # That a rollback was confirmed is not what it did.
    found: Sequence[Result] = [one for one in results if (one.task, one.status) != ("ft_settle", "ok")] or results
    last = next((one for one in found if one.status != "ok"), found[-1] if found else None)
    if last is None:
        state = "unreachable" if host in record.unreachable else "failed" if host in record.failures else "missing"
        why = record.unreachable.get(host) or record.failures.get(host)
        return {"state": state, "msg": why or stopped or record.messages() or "nothing ran on it"}
    told = {key: value for key, value in last.result.items() if not key.startswith("_") and key not in _INTERNAL}
    if last.task == "ft_rollback" and results[-1].task == "ft_settle" and results[-1].status == "ok":
        told.pop("armed", None)  # it was, until this was confirmed
        told["outcome"] = results[-1].result.get("outcome")
    if last.status == "ok" and (host in record.failures or host in record.unreachable):
        state = "failed" if host in record.failures else "unreachable"
        return {**told, "state": state, "msg": record.failures.get(host) or record.unreachable.get(host)}
    return {**told, "task": last.task, "state": last.status, "msg": "" if last.status == "ok" else message(last.result)}


def exit_code(command: str, rows: Sequence[Mapping[str, Any]]) -> Exit:
    """The exit code of a command from what became of its hosts."""
    bad = [one for one in rows if one["state"] != "ok"]
    if not bad:
        return Exit.DONE
    if any(one.get("error") == BAD for one in bad):
        return Exit.IN_DOUBT
    refused = any(one.get("error") in _REFUSALS or one.get("task") == "ft_guard" for one in bad)
    if refused and all(one["state"] in ("failed", "missing") for one in rows):
        return Exit.REFUSED
    if all(one.get("error") in _USAGE[command == "protect"] for one in bad) and len(bad) == len(rows):
        return Exit.USAGE
    lost = any(one["state"] in ("unreachable", "missing") for one in bad)
    if (lost and command in _DOUBTFUL) or any(one.get("error") == "RestoreFailed" for one in bad):
        return Exit.IN_DOUBT
    if command == "scrub" and any(one.get("error") == "Damaged" for one in bad):
        return Exit.IN_DOUBT
    return Exit.FAILED
