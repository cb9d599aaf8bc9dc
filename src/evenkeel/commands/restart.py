# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel restart`: restart a service, or hosts, wave by wave."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from evenkeel.ansible.caller import Caller
from evenkeel.ansible.event import Event, mapping
from evenkeel.ansible.events import Record, Result, message
from evenkeel.ansible.options import Options
from evenkeel.commands.arguments import Variables, add_guard, add_probes, given, specs
from evenkeel.commands.playbook import PlaybookCommand
from evenkeel.outcome import Exit, RunResult, UsageError
from evenkeel.progress import Kind, Phase, Progress
from evenkeel.show import roll, summary

_HOST_MODES = ("reboot", "soft-reboot", "kexec")
_MODES = ("warm", "cold", *_HOST_MODES)


class Restart(PlaybookCommand):
    """A plan from the answers of all hosts, then the restart of each wave. The guard measures the group before each."""

    name = "restart"
    text = "restart a service or hosts, wave by wave, drained, proved, and only as health allows"
    stopping = (
        "stopping: no further host begins; a restart that has begun may go on, or be left in the middle",
        "the run is being ended",
    )
    # Whether this run only plans. The command is one object for all runs, and has no state of its own.
    plans = False

    def add_own_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("service", metavar="SERVICE", nargs="?", help="systemd unit")
        parser.add_argument("--container", metavar="NAME", help="restart a container of podman or docker instead")
        parser.add_argument("--owed", action="store_true", help="restart what still runs replaced files instead")
        how = "warm keeps serving while it restarts; reboot, soft-reboot and kexec restart the hosts themselves"
        parser.add_argument("--mode", choices=_MODES, help=how)
        ladder = "instead of --mode, ways that are tried in turn: warm,cold,rollback,reboot"
        parser.add_argument("--ladder", metavar="WAY,…", help=ladder)
        parser.add_argument(
            "--drain", metavar="FILE", help="YAML list of the balancers that send no requests meanwhile"
        )
        leader = "a command that exits with 0 on the host that leads its group; that host is restarted last"
        parser.add_argument("--last", metavar="COMMAND", help=leader)
        parser.add_argument("--waves", metavar="N,…", help="hosts that restart at the same time (1)")
        boot = "time that a host that restarts may take to answer again (10m)"
        parser.add_argument("--boot-within", metavar="TIME", help=boot)
        text = "leave out the hosts that an interrupted run of the same restart has restarted"
        parser.add_argument("--resume", action="store_true", help=text)
        parser.add_argument("--plan", action="store_true", help="print who restarts when, and restart nothing")
        add_guard(parser)
        add_probes(parser)

    def variables(self, args: argparse.Namespace) -> Variables:
        host = args.mode in _HOST_MODES
        targets = [bool(args.service), bool(args.container), args.owed, host]
        if sum(targets) != 1:
            raise UsageError(
                "name one thing to restart: SERVICE, --container NAME, --owed, or the hosts themselves by --mode"
                " reboot, soft-reboot or kexec"
            )
        return given(
            service=args.service,
            container={"name": args.container} if args.container else None,
            owed=args.owed or None,
            scope="host" if host else None,
            mode=args.mode,
            ladder=args.ladder.split(",") if args.ladder else None,
            drain=specs(args.drain, "drain"),
            last=_words(args.last),
            waves=args.waves,
            boot_within=args.boot_within,
            resume=args.resume or None,
            plan_only=args.plan or None,
            min_healthy=args.min_healthy,
            max_unavailable=args.max_unavailable,
            guard_domain=args.guard_domain,
            probes=specs(args.probes, "probes"),
        )

    def run_playbook(self, options: Options, variables: Mapping[str, object], caller: Caller) -> RunResult:
        said = str(variables.get("evenkeel_plan_only", False)).lower()
        if self.plans or said not in ("yes", "on", "1", "true"):  # as Ansible reads it
            return super().run_playbook(options, variables, caller)
        return Planned(**vars(Planning().run_playbook(options, variables, caller)))

    def told(self, event: Event, record: Record, caller: Caller) -> None:
        data = mapping(event.get("event_data"))
        if event.get("event") not in ("runner_on_ok", "runner_on_failed", "runner_on_unreachable"):
            return
        host, task = str(data.get("host")), str(data.get("resolved_action") or "").rpartition(".")[2]
        plan = self._plan(record)
        if task == "ft_roll":
            for number, wave in enumerate(roll.waves(plan), 1):
                caller.report(Progress(Kind.NOTE, f"wave {number}: {', '.join(wave)}"))
            for note in () if self.plans else roll.notes(plan):
                caller.report(Progress(Kind.NOTE, note))
        elif task == "ft_restart" and (result := record.of(host, task)) is not None:
            well = result.status == "ok"
            phase = Phase.RESTARTED if well else Phase.FAILED
            caller.report(Progress(Kind.HOST, "" if well else message(result.result), (host,), phase))

    def rows(self, record: Record, hosts: Sequence[str], stopped: str) -> dict[str, Mapping[str, Any]]:
        plan = self._plan(record)
        skipped = plan.get("left_out") or {}
        found = super().rows(record, hosts, stopped)
        for host in hosts:
            if host in skipped:
                said = [f"not restarted: {skipped[host]}"]
                found[host] = {"state": "ok", "msg": "", "changed": False, "idle": True, "done": said}
            elif self.plans and (wave := roll.wave_of(plan, host)):
                found[host] = {"state": "ok", "msg": "", "changed": False, "wave": wave, "done": []}
            elif found[host]["state"] == "missing" and _let_through(record, plan, host):
                why = "its restart may have begun, and how it ended is not known: see evenkeel status"
                found[host] = {**found[host], "msg": f"{found[host]['msg']}: {why}", "lost": True}
        against = self._refused(record)
        for host in hosts if against else ():
            why = against.get(host) or against.get("") or "nothing was restarted, because of other hosts"
            found[host] = {"state": "failed", "task": "ft_roll", **self._why(record), "msg": why}
        return found

    def exit_code(self, rows: Sequence[Mapping[str, Any]]) -> Exit:
        """As for other commands. Hosts that were to be left out count for nothing; a host that was lost on the way, or
        that is not as it was to be, needs somebody to look."""
        code = super().exit_code([found for found in rows if not found.get("idle")] or rows)
        silent = any(found["state"] == "unreachable" or found.get("lost") or _is_left(found) for found in rows)
        return Exit.IN_DOUBT if silent and code in (Exit.FAILED, Exit.REFUSED) else code

    def notes(self, record: Record) -> list[str]:
        return roll.notes(self._plan(record))

    def _plan(self, record: Record) -> roll.Plan:
        """The plan that the run began with; empty where there is none."""
        told = self._told(record)
        return told.result if told is not None and told.status == "ok" else {}

    def _told(self, record: Record) -> Result | None:
        every = (result for results in record.results.values() for result in results)
        return next((result for result in every if result.task == "ft_roll"), None)

    def _refused(self, record: Record) -> Mapping[str, str]:
        """Why the plan was refused, by host; under an empty name for all of them."""
        told = self._told(record)
        if told is None or told.status == "ok":
            return {}
        against = told.result.get("against")
        return against if isinstance(against, dict) and against else {"": message(told.result)}

    def _why(self, record: Record) -> dict[str, object]:
        told = self._told(record)
        return {"error": told.result.get("error")} if told is not None else {}

    def show(self, result: RunResult, given: Options, console: Console) -> None:
        if isinstance(result, Planned) and result.exit_code is Exit.DONE:
            roll.print_plan(result, console)
        else:
            summary.print_run(result, console)


class Planning(Restart):
    """A run that ends with the plan."""

    plans = True


class Planned(RunResult):
    """The result of a run that ended with the plan."""


def _let_through(record: Record, plan: roll.Plan, host: str) -> bool:
    """Whether the guard let the wave of ``host`` begin. Ansible reports its decision for one host of the wave."""
    wave = next((wave for wave in roll.waves(plan) if host in wave), ())
    told = (record.of(other, "ft_guard") for other in wave)
    return any(one is not None and one.status == "ok" for one in told)


def _is_left(found: Mapping[str, Any]) -> bool:
    """Whether the restart failed, and left a service or a drain behind."""
    return found["state"] == "failed" and found.get("task") == "ft_restart" and bool(found.get("left"))


def _words(command: str | None) -> list[str] | None:
    if command is None:
        return None
    try:
        found = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--last {command!r} cannot be split into words: {error}") from error
    if not found or not found[0].strip():
        raise UsageError(
            "--last is empty, so that no host could say whether it leads: give it a command, or leave it out"
        )
    return found
