# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The frame of a command that is one run of the collection's playbook of the same name."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from evenkeel.ansible.answers import BAD
from evenkeel.ansible.beside import beside
from evenkeel.ansible.caller import Caller
from evenkeel.ansible.event import Event, mapping
from evenkeel.ansible.events import CHECKS_ARGUMENTS, Record, Result, feed, message
from evenkeel.ansible.options import Options
from evenkeel.ansible.plays import extra_names
from evenkeel.ansible.session import OwnRun
from evenkeel.ansible.targets import Inventory
from evenkeel.commands.arguments import Variables
from evenkeel.commands.fleet import FleetCommand
from evenkeel.outcome import Exit, RunResult, UsageError, under_way
from evenkeel.progress import Kind, Phase, Progress
from evenkeel.shared import BUSY, NOT_FOUND, REFUSED, RESTORE_FAILED, USAGE, misspelt
from evenkeel.show import summary

# Keys of a result that concern Ansible, and no host.
_INTERNAL = ("invocation", "exception", "deprecations")
_REFUSALS = (REFUSED, BUSY)
# The errors by which a task says that it touched nothing.
_UNTOUCHED = (*_REFUSALS, USAGE, NOT_FOUND)


class PlaybookCommand(FleetCommand[RunResult]):
    """A command that sends variables to one playbook and reports the end of each host.

    lost_is_doubt: a host that is lost on the way is in doubt, because its state is half changed, or unknown.
    usage_errors: the errors of a host that mean that the person typed something wrong.
    doubtful_errors: the errors of a host that leave it in doubt.
    question: the playbook only asks hosts, so that an answer takes minutes at most.
    """

    lost_is_doubt: ClassVar[bool] = False
    usage_errors: ClassVar[frozenset[str]] = frozenset({USAGE, NOT_FOUND})
    doubtful_errors: ClassVar[frozenset[str]] = frozenset({RESTORE_FAILED})
    question: ClassVar[bool] = False

    def add_own_arguments(self, parser: argparse.ArgumentParser) -> None:
        """A command without options of its own adds none."""

    def variables(self, args: argparse.Namespace) -> Variables:
        """The variables (evenkeel_*) that the playbook gets. Raises UsageError."""
        return {}

    def variables_of(
        self, hosts: Sequence[str], variables: Mapping[str, object], inventory: Callable[[], Inventory]
    ) -> Mapping[str, object]:
        """The variables, now that the hosts are known. Raises UsageError.

        inventory: reads the inventory, which takes a second.
        """
        return variables

    def run(self, args: argparse.Namespace, given: Options, caller: Caller) -> RunResult:
        return self.run_playbook(given, self.variables(args), caller)

    def show(self, result: RunResult, given: Options, console: Console) -> None:
        summary.print_run(result, console)

    def run_playbook(self, options: Options, variables: Mapping[str, object], caller: Caller) -> RunResult:
        """Run the playbook with ``variables``. Raises UsageError before any host is touched."""
        started = time.monotonic()
        ansible = caller.ansible()
        options = options.with_configuration(ansible.settings)
        if wrong := misspelt(extra_names(options.common)):
            raise UsageError("; ".join(wrong))
        secrets = caller.passwords(options)
        near = beside(options, ansible.cwd, ansible.settings)
        record = Record()

        def inventory() -> Inventory:
            return caller.controller.find_inventory(options, ansible, secrets, near)

        def on_event(event: Event) -> None:
            feed(record, event)
            self.told(event, record, caller)
            if event.get("event") == "playbook_on_task_start":
                caller.report(Progress(Kind.TASK, record.task, phase=Phase.RUN))
            if options.output and event.get("stdout"):
                caller.report(Progress(Kind.OUTPUT, str(event["stdout"])))

        def stop() -> str:
            return "stopped by the user" if caller.asked_to_stop() else ""

        base = Path(near) if near else None
        with caller.controller.open_session(ansible, options, secrets, base) as session:
            hosts = session.list_own(self.name, variables, options.limit)
            notes = list(ansible.notes)
            for note in notes:
                caller.report(Progress(Kind.NOTE, note))
            variables = self.variables_of(hosts, variables, inventory)
            count = f"{len(hosts)} {'host' if len(hosts) == 1 else 'hosts'}"
            caller.report(Progress(Kind.PLAN, f"{self.name} on {count}"))
            caller.report(Progress(Kind.HOST, hosts=hosts, phase=Phase.RUN))
            with under_way(caller.begins):
                # The hosts that are listed and no other: the controller may stand in the inventory as well.
                run = OwnRun(self.name, variables, hosts, question=self.question, wide=False)
                ended = session.run_own(run, on_event, stop)
        refusal = "" if ended.stopped else record.refusal(ended.rc, ended.errors)
        rows = self.rows(record, hosts, ended.stopped or refusal)
        code = Exit.USAGE if refusal else self.exit_code(list(rows.values()))
        reason = next((f"{host}: {found['msg']}" for host, found in rows.items() if found["state"] != "ok"), "")
        if code is Exit.DONE and ended.rc != 0:
            code = Exit.FAILED
            reason = ended.stopped or record.messages() or f"ansible-playbook ended with {ended.rc}"
        return RunResult(self.name, code, reason, rows, [*notes, *self.notes(record)], time.monotonic() - started)

    def told(self, event: Event, record: Record, caller: Caller) -> None:
        """Report what an event of the run means for a person, besides its tasks."""

    def rows(self, record: Record, hosts: Sequence[str], stopped: str) -> dict[str, Mapping[str, Any]]:
        """The row of each host (see ``row``). stopped: why the run was ended early, or empty."""
        return {host: row(record, host, stopped) for host in hosts}

    def notes(self, record: Record) -> list[str]:
        """Sentences about the run as a whole."""
        return []

    def exit_code(self, rows: Sequence[Mapping[str, Any]]) -> Exit:
        """The exit code of the command from the rows of its hosts (see ``row``)."""
        bad = [found for found in rows if found["state"] != "ok"]
        errors = {found.get("error") for found in bad}
        if not bad:
            return Exit.DONE
        silent = any(found["state"] in ("unreachable", "missing") for found in bad)
        if (silent and self.lost_is_doubt) or errors & {BAD, *self.doubtful_errors} or any(map(_is_unsettled, bad)):
            return Exit.IN_DOUBT
        # The codes from here on to FAILED say that nothing was touched on any host.
        if not all(map(_is_untouched, rows)):
            return Exit.FAILED
        if errors & set(_REFUSALS) or any(found.get("task") == "ft_guard" for found in bad):
            return Exit.REFUSED
        if all(found.get("task") == CHECKS_ARGUMENTS or found.get("error") in self.usage_errors for found in rows):
            return Exit.USAGE
        return Exit.FAILED


def _is_untouched(found: Mapping[str, Any]) -> bool:
    """Whether nothing was touched on a host: nothing ran there, or its task promises so by its error."""
    if found.get("changed"):
        return False
    promised = found.get("error") in _UNTOUCHED or found.get("task") == "ft_guard"
    return found["state"] == "missing" or (found["state"] == "failed" and promised)


def _is_unsettled(found: Mapping[str, Any]) -> bool:
    """Whether a host was put back, and neither keeps that nor has taken it back: it may still take it back."""
    if found.get("armed"):
        return True
    return found.get("task") == "ft_settle" and bool(found.get("changed")) and not found.get("outcome")


def _is_decision(result: Result) -> bool:
    """Whether it only let the run go on. Ansible reports it for one host of several, and nothing was done there yet."""
    return result.task in ("ft_guard", "ft_roll") and result.status == "ok"


def _confirmation(result: Result) -> bool:
    return result.task == "ft_settle" and result.status == "ok"


def _unconfirmed(result: Result, stopped: str) -> str:
    """Why a host that was put back, and is armed, has not ended well; empty where it waits for nobody."""
    armed = mapping(result.result.get("armed"))
    if result.task != "ft_rollback" or not armed:
        return ""
    until = armed.get("until")
    due = f"at {time.strftime('%H:%M:%S', time.localtime(until))}" if isinstance(until, (int, float)) else "in time"
    why = f"{stopped}: " if stopped else ""
    return f"{why}it was put back, and nobody confirmed that: it takes it back {due} unless somebody does, there"


def row(record: Record, host: str, stopped: str = "") -> dict[str, object]:
    """The row of ``host``: the result of its last task of ours, with state and msg.

    A host on which an earlier task changed something has changed, whatever the task says with which it failed.
    """
    results = [result for result in record.results.get(host, []) if not _is_decision(result)]
    # The confirmation of a rollback says nothing about the rollback itself.
    story: Sequence[Result] = [result for result in results if not _confirmation(result)] or results
    last = next((result for result in story if result.status != "ok"), story[-1] if story else None)
    if last is None:
        state = "unreachable" if host in record.unreachable else "failed" if host in record.failures else "missing"
        why = record.unreachable.get(host) or record.failures.get(host)
        return {"state": state, "msg": why or stopped or record.messages() or "nothing ran on it"}
    told = {key: value for key, value in last.result.items() if not key.startswith("_") and key not in _INTERNAL}
    if last.task == "ft_rollback" and _confirmation(results[-1]):
        told.pop("armed", None)  # it was armed until the confirmation
        told["outcome"] = results[-1].result.get("outcome")
    later = host in record.failures or host in record.unreachable
    if (last.status != "ok" or later) and any(result.result.get("changed") for result in results):
        told["changed"] = True
    if last.status == "ok" and later:
        state = "failed" if host in record.failures else "unreachable"
        return {**told, "state": state, "msg": record.failures.get(host) or record.unreachable.get(host)}
    if last.status == "ok" and (open_end := _unconfirmed(results[-1], stopped)):
        return {**told, "task": last.task, "state": "failed", "changed": True, "msg": open_end}
    return {**told, "task": last.task, "state": last.status, "msg": "" if last.status == "ok" else message(last.result)}
