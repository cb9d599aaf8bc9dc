# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The caller of a command: its passwords, its wish to stop, and the steps by which it reaches Ansible."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from evenkeel.ansible.asking import never
from evenkeel.ansible.configuration import Ansible, ask_ansible
from evenkeel.ansible.options import Options, Secrets, ask
from evenkeel.ansible.session import Session, open_session
from evenkeel.ansible.targets import Inventory, Targets, find_inventory, find_targets
from evenkeel.outcome import UsageError
from evenkeel.progress import Kind, Progress, Report, ignore


class CallerArguments(TypedDict, total=False):
    """The keyword arguments of ``evenkeel.change`` and ``evenkeel.run``; see Caller."""

    secrets: Secrets | None
    report: Report
    asked_to_stop: Callable[[], int]
    cwd: str | None


@dataclass(frozen=True)
class Controller:
    """The steps that start programs of Ansible. A test puts others in their place."""

    ask_ansible: Callable[[str], Ansible] = ask_ansible
    find_targets: Callable[[str, Options, Ansible, Secrets], Targets] = find_targets
    find_inventory: Callable[[Options, Ansible, Secrets, str], Inventory] = find_inventory
    open_session: Callable[[Ansible, Options, Secrets, Path | None], AbstractContextManager[Session]] = open_session


def nothing() -> None:
    """The beginning, for a caller whom it does not concern."""


@dataclass(frozen=True)
class Caller:
    """A program that runs a command, and the person behind it. Errors before ``begins`` is called touched no host.

    secrets: passwords; None asks for them at the terminal. report: receives progress. asked_to_stop: the number of
    requests to stop: from 1 on the hosts in flight are rolled back, from 2 on they are left to their dead-men. cwd: the
    directory whose ansible.cfg counts; None for the current directory.
    """

    secrets: Secrets | None = None
    report: Report = ignore
    asked_to_stop: Callable[[], int] = never
    cwd: str | None = None
    controller: Controller = Controller()
    begins: Callable[[], None] = nothing

    def ansible(self) -> Ansible:
        """The user's Ansible, whose questions end when the caller stops. Raises UsageError."""
        try:
            cwd = self.cwd or os.getcwd()
        except OSError as error:
            raise UsageError(f"the directory from which you call is gone: {error.strerror}; go to another") from error
        found = self.controller.ask_ansible(cwd)
        found.ready.asked_to_stop = self.asked_to_stop
        return found

    def passwords(self, options: Options) -> Secrets:
        """The passwords that these options need. Raises UsageError where nobody can be asked."""
        secrets = ask(options) if self.secrets is None else self.secrets
        self.report(Progress(Kind.TASK))  # from now on the terminal is free for a table
        return secrets
