# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from textwrap import indent

from ansible_collections.evenkeel.fault_tolerance.plugins.doc_fragments._probes import KINDS


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  verify:
    description:
      - Probes that measure the effect of the operation, each a mapping with one key, the kind. The operation is
        verified when all that decide pass.
    type: list
    elements: dict
    required: true
    suboptions:
"""


# Within the class ansible-test reads plain texts alone.
ModuleDocFragment.DOCUMENTATION += indent(KINDS, " " * 6)
