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

from evenkeel.ansible.configuration import Ansible, ask_ansible
from evenkeel.ansible.options import Options, Secrets, ask
from evenkeel.ansible.session import Session, open_session
from evenkeel.ansible.targets import Inventory, Targets, find_inventory, find_targets
from evenkeel.progress import Report, ignore


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
    open_session: Callable[[Ansible, Options, Secrets, Path], AbstractContextManager[Session]] = open_session


def never() -> int:
    """The wish to stop of a caller that never stops."""
    return 0


@dataclass(frozen=True)
class Caller:
    """A program that runs a command, and the person behind it.

    secrets: passwords; None asks for them at the terminal. report: receives progress. asked_to_stop: the number of
    requests to stop: from 1 on the hosts in flight are rolled back, from 2 on they are left to their dead-men. cwd: the
    directory whose ansible.cfg counts; None for the current directory.
    """

    secrets: Secrets | None = None
    report: Report = ignore
    asked_to_stop: Callable[[], int] = never
    cwd: str | None = None
    controller: Controller = Controller()

    def ansible(self) -> Ansible:
        """The user's Ansible. Raises UsageError."""
        return self.controller.ask_ansible(self.cwd or os.getcwd())

    def passwords(self, options: Options) -> Secrets:
        """The passwords that these options need. Raises UsageError where nobody can be asked."""
        return ask(options) if self.secrets is None else self.secrets
