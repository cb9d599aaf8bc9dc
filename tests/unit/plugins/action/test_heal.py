# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of a host between directories: each kind of damage is found and healed, and nothing is ever deleted."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

from .conftest import Fleet, Run
from .test_guard import NOWHERE
from .test_replicate_recover import CHECKPOINT, candidates, copies, forge, lose, recover, replicate, temporary

BIG = os.urandom(200_000)


@pytest.fixture
def fleet(asked_fleet: Fleet) -> Fleet:
    """Each host has a large content besides its small ones."""
    for host in asked_fleet.hosts:
        (asked_fleet.directory(host) / "data" / "big").write_bytes(BIG)
    return asked_fleet


def heal(fleet: Fleet, hosts: str = "h1", *words: str, **options: Any) -> Run:
    given = {"peers": "all", "store": "{{ evenkeel_store }}", **options}
    return fleet.play([{"evenkeel.fault_tolerance.ft_heal": given}], hosts, *words)


def replica(fleet: Fleet, peer: str, host: str = "h1") -> Path:
    return fleet.directory(peer) / "store" / "replicas" / host


def one(place: Path, pattern: str) -> Path:
    (found,) = place.glob(pattern)
    found.chmod(0o600)
    return found


def whole(fleet: Fleet, peer: str) -> list[str]:
    """The checkpoints of h1 that the peer holds whole, by a reading of their own."""
    held = replicas.candidates(Store(str(fleet.directory(peer) / "store"), System()), "h1")
    return [one.id for one in held.candidates if one.state == "verified" and one.mac]


def test_smoke(fleet: Fleet) -> None:
    run = replicate(fleet, copies=2)
    assert run.rc == 0
    run = heal(fleet)
    assert run.rc == 0 and run.results["h1"]["changed"] is False
    assert run.results["h1"]["proved"]
