# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# The resource of a step that changes a path, whichever kind the path belongs to.
FILES = "files"


@dataclass(frozen=True)
class Step:
    """One thing that a rollback does to one target. Plans are lists of these, shown as they are in results.

    ``detail`` is plain JSON and holds all that is needed to carry the step out later, in another process.
    """

    resource: str
    action: str
    target: str
    why: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, str]:
        """The step as a module returns it."""
        shown = {"resource": self.resource, "action": self.action, "target": self.target}
        return dict(shown, why=self.why) if self.why else shown
