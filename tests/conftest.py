# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests import the collection by its full name, through the link that the driver itself uses."""

from __future__ import annotations

import importlib
import os

from evenkeel.collection import collections_path

# Before anything imports ansible: where a test starts its collection loader, that finds this checkout alone.
os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(collections_path())
# The call may just have made that directory, and Python remembers that it was not there.
importlib.invalidate_caches()
