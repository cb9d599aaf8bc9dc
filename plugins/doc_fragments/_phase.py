# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  _phase:
    description:
      - The part of the work that the host does now. Set by the action plugin, never in a playbook.
    type: str
  _values:
    description:
      - The values that this part of the work needs. Set by the action plugin, never in a playbook.
    type: dict
  _secrets:
    description:
      - The secrets of the encrypted bundles that this part of the work needs. Set by the action plugin, never in a
        playbook.
    type: list
    elements: str
"""
