# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver of the collection evenkeel.fault_tolerance: changes that undo themselves, over a fleet.

``evenkeel.change(Request("site.yml", Options(inventory=("hosts",))))`` returns a ChangeResult; ``evenkeel.run("status",
Options(...), {})`` runs another command and returns a RunResult. Both raise UsageError before anything is touched.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evenkeel.ansible.options import Options, Secrets
    from evenkeel.changes.flow import change
    from evenkeel.changes.request import Request
    from evenkeel.commands.registry import run
    from evenkeel.outcome import ChangeResult, Exit, HostResult, RunResult, State, UsageError
    from evenkeel.progress import Kind, Phase, Progress

__version__ = "0.1.0"
__all__ = [
    "ChangeResult",
    "Exit",
    "HostResult",
    "Kind",
    "Options",
    "Phase",
    "Progress",
    "Request",
    "RunResult",
    "Secrets",
    "State",
    "UsageError",
    "change",
    "run",
]

# These are loaded at their first use: the collection's path is needed where their dependencies are not installed.
# No room has the same name as any of these: an imported package would stand in its place.
_HOME = {"change": "changes.flow", "Request": "changes.request", "run": "commands.registry"}
_HOME |= dict.fromkeys(("Options", "Secrets"), "ansible.options")
_HOME |= dict.fromkeys(("Kind", "Phase", "Progress"), "progress")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'outcome')}"), name)
