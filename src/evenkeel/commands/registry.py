# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All commands, in the order of --help. A new command is one file of this room, and its name here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Unpack

from evenkeel.commands.base import Command
from evenkeel.outcome import RunResult, UsageError

if TYPE_CHECKING:
    from evenkeel.ansible.caller import CallerArguments
    from evenkeel.ansible.options import Options
    from evenkeel.commands.playbook import PlaybookCommand

NAMES = (
    "change",
    "resume",
    "confirm",
    "abort",
    "rollback",
    "protect",
    "recover",
    "restart",
    "scrub",
    "heal",
    "accept",
    "status",
    "suggest",
    "plan",
)

# The commands that ask nothing of Ansible.
_ALONE = ("plan",)


@cache
def command(name: str) -> Command:
    """The command of this name, from the file of the same name."""
    found: Command = getattr(import_module(f"{__package__}.{name}"), name.capitalize())()
    return found


def every() -> tuple[Command, ...]:
    """All commands. To load them takes longer than most commands take to begin."""
    return tuple(map(command, NAMES))


def needed(words: Sequence[str]) -> tuple[Command, ...]:
    """The commands that a command line needs: the one that it names first, or all of them, for a help or an error."""
    first = words[0] if words else ""
    return () if first == "--version" else (command(first),) if first in NAMES else every()


def asks_ansible(words: Sequence[str]) -> bool:
    """Whether a command line asks Ansible, unless it is wrong."""
    return words[:1] != [] and words[0] in NAMES and words[0] not in _ALONE and not {"-h", "--help"} & set(words)


def playbooks() -> Mapping[str, PlaybookCommand]:
    """The commands that run a playbook of the collection."""
    from evenkeel.commands.playbook import PlaybookCommand

    return {one.name: one for one in every() if isinstance(one, PlaybookCommand)}


def run(
    command: str, options: Options, variables: Mapping[str, object], **caller: Unpack[CallerArguments]
) -> RunResult:
    """Run ``command``, which is a playbook of the collection, with ``variables`` (evenkeel_*).

    caller: see ``evenkeel.ansible.caller.Caller``. Raises UsageError before any host is touched.
    """
    from evenkeel.ansible.caller import Caller

    known = playbooks()
    if command not in known:
        raise UsageError(f"{command!r} is no command that runs a playbook: write one of {', '.join(known)}")
    return known[command].run_playbook(options, variables, Caller(**caller))
