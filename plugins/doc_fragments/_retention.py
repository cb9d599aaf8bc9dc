# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  retention:
    description:
      - "The checkpoints to keep, for example V({last: 10}) or V({within: 2d, daily: 7, weekly: 4, monthly: 12}). A
        checkpoint stays if any rule keeps it. By default everything is kept."
    type: dict
    suboptions:
      last:
        description:
          - The number of newest checkpoints to keep. For example V(10).
        type: int
      hourly:
        description:
          - The newest checkpoint of each of so many hours. For example V(48).
        type: int
      daily:
        description:
          - The newest checkpoint of each of so many days (UTC). For example V(7).
        type: int
      weekly:
        description:
          - The newest checkpoint of each of so many weeks (ISO 8601). For example V(4).
        type: int
      monthly:
        description:
          - The newest checkpoint of each of so many months. For example V(12).
        type: int
      yearly:
        description:
          - The newest checkpoint of each of so many years. For example V(5).
        type: int
      within:
        description:
          - All checkpoints that were taken up to this time before the newest. For example V(2d).
        type: str
      grace:
        description:
          - How long the contents that nothing needs any more lie in the trash of the store. A checkpoint that needs
            them before that takes them back; a later run with a retention deletes them. For example V(12h).
        type: str
        default: 1d
"""
