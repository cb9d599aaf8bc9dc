# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All commands, in the order of --help. A new command is one file of this room and one row here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from evenkeel.ansible.caller import Caller, CallerArguments
from evenkeel.ansible.options import Options
from evenkeel.commands.abort import Abort
from evenkeel.commands.accept import Accept
from evenkeel.commands.base import Command
from evenkeel.commands.change import Change
from evenkeel.commands.confirm import Confirm
from evenkeel.commands.heal import Heal
from evenkeel.commands.plan import Plan
from evenkeel.commands.playbook import PlaybookCommand
from evenkeel.commands.protect import Protect
from evenkeel.commands.recover import Recover
from evenkeel.commands.restart import Restart
from evenkeel.commands.resume import Resume
from evenkeel.commands.rollback import Rollback
from evenkeel.commands.scrub import Scrub
from evenkeel.commands.status import Status
from evenkeel.commands.suggest import Suggest
from evenkeel.outcome import RunResult, UsageError

COMMANDS: tuple[Command, ...] = (
    Change(),
    Resume(),
    Confirm(),
    Abort(),
    Rollback(),
    Protect(),
    Recover(),
    Restart(),
    Scrub(),
    Heal(),
    Accept(),
    Status(),
    Suggest(),
    Plan(),
)
PLAYBOOKS = {command.name: command for command in COMMANDS if isinstance(command, PlaybookCommand)}


def run(
    command: str, options: Options, variables: Mapping[str, object], **caller: Unpack[CallerArguments]
) -> RunResult:
    """Run ``command``, which is a playbook of the collection, with ``variables`` (evenkeel_*).

    caller: see ``evenkeel.ansible.caller.Caller``. Raises UsageError before any host is touched.
    """
    if command not in PLAYBOOKS:
        raise UsageError(f"{command!r} is no command that runs a playbook: write one of {', '.join(PLAYBOOKS)}")
    return PLAYBOOKS[command].run_playbook(options, variables, Caller(**caller))
