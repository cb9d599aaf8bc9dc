# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proof that a peer has its encrypted bundles: only a reading now gives it, and damage is put aside."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import possession, sealed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.proving import Challenge
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.copies import Candidate, Candidates

from .test_sealed import Fleet
from .test_sealed import fleet as fleet

NONCE = b"n" * 32


def possess(fleet: Fleet, nonce: bytes = NONCE, time_limit: float = 600, check_mode: bool = False) -> Candidates:
    return possession.possess(fleet.peer, "web1", Challenge(nonce, time_limit), check_mode)


def proof(found: Candidates) -> str:
    (copy,) = found.candidates
    assert copy.sealed is not None
    return copy.sealed.proof


def bundle(fleet: Fleet) -> Path:
    (path,) = Path(fleet.peer.root, "replicas", "web1", "sealed").iterdir()
    return path


def flip(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"x" + path.read_bytes()[1:])


def test_the_proof_is_of_the_nonce_and_of_every_byte(fleet: Fleet) -> None:
    fleet.take()
    fleet.send()
    found = possess(fleet)
    assert proof(found) == hmac.new(NONCE, bundle(fleet).read_bytes(), hashlib.sha256).hexdigest()
    assert proof(possess(fleet, b"m" * 32)) != proof(found) and not found.changed


def test_a_damaged_bundle_gives_no_proof_and_is_put_aside_unless_in_check_mode(fleet: Fleet) -> None:
    fleet.take()
    fleet.send()
    path = bundle(fleet)
    flip(path)
    found = possess(fleet, check_mode=True)
    assert (found.candidates[0].state, proof(found), found.done, path.exists()) == ("damaged", "", [], True)
    found = possess(fleet)
    assert found.planned == found.done == [f"put aside the encrypted bundle {path.name[:12]}"]
    assert not path.exists() and (path.parents[1] / "quarantine" / path.name).exists()
    assert possess(fleet).candidates == []


def test_what_reads_wrong_once_is_read_again(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that fails must not have all good copies put aside."""
    fleet.take()
    fleet.send()
    whole = sealed.problem
    failed: list[int] = []

    def problem(*arguments: Any) -> str:
        if not failed:
            failed.append(1)
            return "it reads wrong"
        return whole(*arguments)

    monkeypatch.setattr(sealed, "problem", problem)
    found = possess(fleet)
    assert failed and found.candidates[0].state == "verified" and proof(found) and not found.changed


def test_without_time_the_newest_is_read_whole_and_nothing_else(fleet: Fleet) -> None:
    fleet.take()
    fleet.send()
    for name in ("second", "third"):
        (fleet.tree / name).write_text(name)
        fleet.take()
        fleet.receive(fleet.made(), nonce=hashlib.sha256(name.encode()).hexdigest())  # each of them is whole

    def read(time_limit: float) -> dict[str, bool]:
        copies: list[Candidate] = possess(fleet, time_limit=time_limit).candidates
        assert all(bool(one.sealed and one.sealed.proof) == (one.state == "verified") for one in copies)
        return {one.id: one.state == "verified" for one in copies}

    found = read(0)
    assert len(found) == 3 and [one for one, was_read in found.items() if was_read] == [fleet.newest]
    assert all(read(600).values())
