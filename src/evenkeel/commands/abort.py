# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel abort`: take changes under way back, on all their hosts."""

from __future__ import annotations

from evenkeel.commands.open_change import OpenChangeCommand


class Abort(OpenChangeCommand):
    """Changes under way are taken back."""

    name = "abort"
    text = "take changes under way back, on all their hosts"
