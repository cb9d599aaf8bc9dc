# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel resume`: finish changes over several hosts that a killed run has left: all keep it, or none."""

from __future__ import annotations

from evenkeel.commands.open_change import OpenChangeCommand


class Resume(OpenChangeCommand):
    """The changes that a killed run has left come to one end."""

    name = "resume"
    text = "finish changes over several hosts that a killed run has left: all keep it, or none"
