# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shape of a command: a name, options, and a run that ends with an exit code."""

from __future__ import annotations

import argparse
import json
from abc import ABC, abstractmethod
from typing import ClassVar

from evenkeel.outcome import Exit


class Command(ABC):
    """A command of the command line. text: its line in --help."""

    name: ClassVar[str]
    text: ClassVar[str]

    @abstractmethod
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of this command."""

    @abstractmethod
    def main(self, args: argparse.Namespace) -> int:
        """Run the command, print its end, and return its exit code."""


def refusal(command: str, code: Exit, reason: str) -> str:
    """The JSON document of a command that has no other result."""
    return json.dumps({"command": command, "exit_code": int(code), "reason": reason})
