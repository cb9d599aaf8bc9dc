# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel recover`: bring a host back from a replica."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from evenkeel.ansible.caller import Caller
from evenkeel.ansible.event import Event, mapping
from evenkeel.ansible.events import Record, Result, message
from evenkeel.ansible.options import Options
from evenkeel.ansible.targets import Inventory
from evenkeel.commands.arguments import Variables, add_part, given, part
from evenkeel.commands.playbook import PlaybookCommand
from evenkeel.outcome import RunResult, UsageError, some_of
from evenkeel.progress import Kind, Progress
from evenkeel.shared import UNHEALTHY
from evenkeel.show import summary


class Recover(PlaybookCommand):
    """The playbook runs on the host that is restored, or on a spare."""

    name = "recover"
    text = "bring a host that lost its files or its store back from a replica, or let a spare take its place"
    lost_is_doubt = True
    # The recovery stays on a host that is not healthy, and somebody has to look at it.
    doubtful_errors = PlaybookCommand.doubtful_errors | {UNHEALTHY}

    def add_own_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("host", metavar="HOST", help="whose checkpoint")
        onto = "restore onto this host instead, a spare; any: the first of the group spares that can take it"
        parser.add_argument("--onto", metavar="HOST", help=onto)
        checkpoint = "latest (the default), a name such as logs or logs~5, or an id"
        parser.add_argument("--checkpoint", metavar="CHECKPOINT", help=checkpoint)
        identity = "keep: the spare stays itself (the default there); take: it becomes HOST, which must be off"
        parser.add_argument("--identity", choices=("keep", "take"), help=identity)
        add_part(parser)
        copies = "take only a checkpoint of which so many hosts hold a verified copy"
        parser.add_argument("--min-copies", type=int, metavar="N", help=copies)
        text = "restore also state that evenkeel_resources does not declare for HOST, after you have examined it"
        parser.add_argument("--undeclared", action="store_true", help=text)

    def variables(self, args: argparse.Namespace) -> Variables:
        kinds, paths = part(args)
        return given(
            recover_host=args.host,
            hosts=args.onto or args.host,
            checkpoint=args.checkpoint,
            identity=args.identity,
            kinds=kinds,
            paths=paths,
            recover_min_copies=args.min_copies,
            undeclared=args.undeclared or None,
        )

    def variables_of(
        self, hosts: Sequence[str], variables: Mapping[str, object], inventory: Callable[[], Inventory]
    ) -> Mapping[str, object]:
        owner, onto = variables.get("evenkeel_recover_host"), variables.get("evenkeel_hosts")
        if owner and onto != "any" and len(hosts) > 1:
            raise UsageError(
                f"{onto} stands for {len(hosts)} hosts ({some_of(hosts)}), and each of them would get the state of "
                f"{owner}: name one host, or --onto any for the first of the group spares that can take it"
            )
        return variables

    def told(self, event: Event, record: Record, caller: Caller) -> None:
        data = mapping(event.get("event_data"))
        task = str(data.get("resolved_action") or "").rpartition(".")[2]
        choice = _choice(record)
        if event.get("event") == "runner_on_ok" and task == "ft_recover" and choice is not None and not _done(record):
            caller.report(Progress(Kind.NOTE, f"onto {choice.result['onto']}"))

    def rows(self, record: Record, hosts: Sequence[str], stopped: str) -> dict[str, Mapping[str, Any]]:
        found = super().rows(record, hosts, stopped)
        choice = _choice(record)
        if choice is not None:
            onto = str(choice.result["onto"])
            row = _told(record, onto, found[onto]) if onto in found else {"state": "missing", "msg": "it did not run"}
            return {onto: {**row, "left": [*_listed(choice.result), *_listed(row)]}}
        refused = [host for host in hosts if _has_refused_all(record, host)]
        return {host: _told(record, host, found[host]) for host in refused or hosts}

    def show(self, result: RunResult, given: Options, console: Console) -> None:
        # Peers that lack a copy or answered wrongly do not fail the recovery, but a person should know them.
        summary.print_run(result, console, warn_of_left=True)


def _results(record: Record) -> list[tuple[str, Result]]:
    return [(host, one) for host, results in record.results.items() for one in results if one.task == "ft_recover"]


def _listed(row: Mapping[str, Any], key: str = "left") -> list[Any]:
    found = row.get(key)
    return found if isinstance(found, list) else []


def _choice(record: Record) -> Result | None:
    """The answer that names the chosen spare; None where none was chosen."""
    return next((one for _host, one in _results(record) if one.status == "ok" and one.result.get("onto")), None)


def _done(record: Record) -> bool:
    return any(one.result.get("source") for _host, one in _results(record))


def _has_refused_all(record: Record, host: str) -> bool:
    """Whether a choice among the spares was refused by this host, which was asked for all."""
    failed = [one for where, one in _results(record) if where == host and one.status == "failed"]
    return any("No spare can take" in str(one.result.get("msg")) for one in failed)


def _told(record: Record, host: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row of a host: its recovery first, then what was measured and copied afterwards."""
    recovery = record.of(host, "ft_recover")
    if recovery is None or recovery.status != "ok" or not recovery.result.get("restored"):
        return row
    done = recovery.result.get("done") or []
    said = [one for one in done if isinstance(one, str) and one.startswith("recovered ")][:1] or ["nothing to do"]
    health, copies = record.of(host, "ft_health"), record.of(host, "ft_replicate")
    copied = [f"{len(_listed(copies.result, 'proved'))} verified copies"] if copies and copies.status == "ok" else []
    if copies is not None and copies.status == "failed" and message(copies.result) != row["msg"]:
        copied = [f"copies: {message(copies.result)}"]
    if row["state"] != "ok":
        warnings = [*_listed(recovery.result, "warnings"), *_listed(row, "warnings")]
        msg = "; ".join([*said, *copied, str(row["msg"])])
        return {**row, "msg": msg, **({"warnings": warnings} if warnings else {})}
    said.append("healthy" if health is not None else "health was not measured: no probes are declared")
    said += copied
    kept = {key: value for key, value in recovery.result.items() if not key.startswith("_") and key != "invocation"}
    return {**row, **kept, "task": "ft_recover", "state": "ok", "msg": "", "done": said}
