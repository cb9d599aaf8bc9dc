# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  quiesce:
    description:
      - What is to stand still, in this order, each a mapping with one key. It is let go in the reverse order, whatever
        happens, also when the module is killed. Nothing is held in check mode.
    type: list
    elements: dict
    suboptions:
      stop:
        description:
          - A systemd unit that is stopped, and started again. A unit that does not run is left alone. What runs and
            requires the unit is stopped before it and started after it. For example V(app).
        type: str
      freeze:
        description:
          - A systemd unit that is frozen, and thawed again. A unit that does not run is left alone. For example V(app).
        type: str
      command:
        description:
          - A command that holds something still, and one that lets it go.
        type: dict
        suboptions:
          argv:
            description:
              - The command that holds it still, a list of words. For example V([/opt/app/maintenance, 'on']).
            type: list
            elements: str
            required: true
          after:
            description:
              - The command that lets it go, a list of words. It has to do no harm where C(argv) has failed. For example
                V([/opt/app/maintenance, 'off']).
            type: list
            elements: str
            required: true
"""
