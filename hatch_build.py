# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build hook: the wheel of the driver carries the collection, an editable install uses the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INSIDE = "evenkeel/collections/ansible_collections/evenkeel/fault_tolerance"
COLLECTION = ("galaxy.yml", "LICENSE", "README.md", "meta", "plugins", "roles", "playbooks")
# The pages to which messages, --help and README.md refer, and the plan that is an example.
PAGES = ("docs/*.md", "docs/examples/*")


class CarryCollection(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root = Path(self.root)
        pages = [str(page.relative_to(root)) for pattern in PAGES for page in sorted(root.glob(pattern))]
        for part in (*COLLECTION, *pages):
            if (root / part).exists():
                build_data["force_include"][part] = f"{INSIDE}/{part}"
