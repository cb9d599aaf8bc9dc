# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  group:
    description:
      - Names of hosts or groups. A probe with C(from=peer) is measured from the next of these hosts that
        answers, and last from hosts that change at the same time. By default all hosts of the play.
    type: list
    elements: str
  unchanged:
    description:
      - Names of hosts or groups that the change has not reached, for the probe C(compare). By default the hosts of
        O(group) that the play has not come to, batch by batch.
    type: list
    elements: str
  measured:
    description:
      - Results of measurements from outside of the host. They decide like the host's own probes. The controller adds
        the results of probes with C(from), which it measures for the whole soak before the module begins.
    type: list
    elements: dict
    suboptions:
      kind:
        description:
          - Kind of the measurement. For example V(http).
        type: str
        required: true
      target:
        description:
          - The address, query or command that was measured. For example V(http://web1/).
        type: str
        required: true
      state:
        description:
          - The result. Unknown never counts as healthy. For example V(pass).
        type: str
        choices: [pass, fail, unknown]
        required: true
      detail:
        description:
          - The measurement in words. For example V(status 200).
        type: str
        default: ''
      source:
        description:
          - The place that it was measured from. For example V(peer web2).
        type: str
        default: controller
      severity:
        description:
          - With V(fail) it decides. With V(warn) it is reported, and decides nothing. For example V(warn).
        type: str
        choices: [fail, warn]
        default: fail
"""
