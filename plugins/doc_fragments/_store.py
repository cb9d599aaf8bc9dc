# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  store:
    description:
      - Directory on the host where Evenkeel keeps checkpoints, journals and replicas. Readable by its owner alone.
      - Where systemd is to put the host back (C(confirm_within)), its path has letters, digits and C(/._-+@:) alone.
    type: path
    default: /var/lib/evenkeel
"""
