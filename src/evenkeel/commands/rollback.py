# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel rollback`: put hosts back to a checkpoint of their own."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from evenkeel.ansible.targets import Inventory
from evenkeel.commands.arguments import Variables, add_old_name, add_part, given, part
from evenkeel.commands.playbook import PlaybookCommand
from evenkeel.outcome import UsageError

# The checkpoint of each host, from the variable evenkeel_checkpoints.
FOR_EACH = "{{ evenkeel_checkpoints[inventory_hostname] }}"


class Rollback(PlaybookCommand):
    """Each host goes back to a checkpoint of its own store."""

    name = "rollback"
    text = "put hosts back to a checkpoint of their own"
    lost_is_doubt = True
    stopping = (
        "stopping: the run is ended; a host that has begun goes on by itself, and takes its rollback back unless it is"
        " confirmed in time",
        "the run is being ended",
    )

    def add_own_arguments(self, parser: argparse.ArgumentParser) -> None:
        text = "latest (the default), a name or an id; or for each host HOST=ID,… or @FILE with lines 'HOST ID'"
        parser.add_argument("--checkpoint", metavar="CHECKPOINT", help=text)
        add_old_name(parser, "--to", "--checkpoint")
        add_part(parser)
        within = "undo it unless a new connection confirms it in this time (5m)"
        parser.add_argument("--confirm-within", metavar="TIME", help=within)

    def variables(self, args: argparse.Namespace) -> Variables:
        kinds, paths = part(args)
        each = read_checkpoints(args.checkpoint) if args.checkpoint else None
        return given(
            checkpoint=FOR_EACH if each else args.checkpoint,
            checkpoints=each,
            kinds=kinds,
            paths=paths,
            confirm_within=args.confirm_within,
        )

    def variables_of(
        self, hosts: Sequence[str], variables: Mapping[str, object], inventory: Callable[[], Inventory]
    ) -> Mapping[str, object]:
        each = variables.get("evenkeel_checkpoints")
        without = [host for host in hosts if isinstance(each, Mapping) and host not in each]
        if without:
            raise UsageError(
                f"--checkpoint names none for {', '.join(without[:5])}: name one, or leave out the host by --limit"
            )
        return variables


def read_checkpoints(said: str) -> dict[str, str] | None:
    """Read ``--checkpoint`` where it names a checkpoint for each host: ``web1=ID,web2=ID`` or ``@FILE``; else None.

    Raises UsageError for a malformed text or file.
    """
    if said.startswith("@"):
        try:
            lines = Path(said[1:]).read_text("utf-8", "surrogateescape").splitlines()
        except OSError as error:
            raise UsageError(f"--checkpoint {said}: {error.strerror}") from error
        pairs = [tuple(line.split(None, 1)) for line in lines if line.strip()]
    elif "=" in said:
        pairs = [tuple(pair.rpartition("=")[::2]) for pair in said.split(",")]
    else:
        return None
    wrong = next((pair for pair in pairs if len(pair) != 2 or not all(part.strip() for part in pair)), None)
    if wrong is not None or not pairs:
        raise UsageError(
            f"--checkpoint {said}: say HOST=CHECKPOINT,… or name a file with a line 'HOST CHECKPOINT' for each"
        )
    return {host.strip(): ident.strip() for host, ident in pairs}
