# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel confirm`: let a change that waits for a person (--hold-after) go on."""

from __future__ import annotations

from evenkeel.commands.open_change import OpenChangeCommand


class Confirm(OpenChangeCommand):
    """A person lets a change go on that waits for it."""

    name = "confirm"
    text = "let a change that waits for a person (--hold-after) go on"
