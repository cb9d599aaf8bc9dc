# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  quiesce:
    description:
      - The programs to hold still, in this order, each a mapping with one key. They go on in the reverse order in every
        case, also when the module is killed. Nothing is held in check mode.
    type: list
    elements: dict
    suboptions:
      stop:
        description:
          - A systemd unit that is stopped, and started again. A unit that does not run is left alone. A running unit
            that requires it is stopped before it and started after it. For example V(app).
        type: str
      freeze:
        description:
          - A systemd unit that is frozen, and thawed again. A unit that does not run is left alone. For example V(app).
        type: str
      command:
        description:
          - A command that holds a program still, and a command that releases it.
        type: dict
        suboptions:
          argv:
            description:
              - The command that holds the program still, a list of words. For example V([/opt/app/maintenance, 'on']).
            type: list
            elements: str
            required: true
          after:
            description:
              - The command that releases the program, a list of words. It must do no harm if C(argv) has failed. For
                example V([/opt/app/maintenance, 'off']).
            type: list
            elements: str
            required: true
"""
