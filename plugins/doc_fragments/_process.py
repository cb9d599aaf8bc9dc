# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from textwrap import indent

# The options of a service without systemd, in each place where one is declared.
PROCESS = r"""
name:
  description:
    - Name of the service, for results and messages. For example V(app).
  type: str
  required: true
pidfile:
  description:
    - Absolute path of the file that holds its process id. For example V(/run/app.pid).
  type: str
  required: true
argv:
  description:
    - The command that stays in the foreground, a list of words that begins with an absolute path. For example
      V([/opt/app/serve, --port, '8080']).
  type: list
  elements: str
  required: true
chdir:
  description:
    - Directory in which the command runs. For example V(/srv).
  type: str
  default: /
reload_signal:
  description:
    - Signal by which the process reads its configuration again. Without it there is no warm restart. For example
      V(HUP).
  type: str
stop_signal:
  description:
    - Signal that asks the process to end. For example V(QUIT). It has 10 seconds for that, and is killed then, which is
      told in C(warnings). Processes that it leaves behind in the process group that it leads end with it. Where it
      leaves processes in a group of others, they are named, and the stop has failed.
  type: str
  default: TERM
"""


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  process:
    description:
      - A service without systemd, a command that is known by its pid file. Either this or O(name).
    type: dict
    suboptions:
"""


# Within the class ansible-test reads plain texts alone.
ModuleDocFragment.DOCUMENTATION += indent(PROCESS, " " * 6)
