# SPDX-License-Identifier: GPL-3.0-or-later

"""The proof that a peer really has the encrypted bundles that it names: an HMAC over the ciphertext of each, keyed with
the nonce of the controller. All holders of the same bundle give the same proof, and nobody needs a key for it.

The same reading compares the SHA-256 of each bundle. Damaged ones are put aside, so that they can be stored again.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from .._errors import Busy, Damaged
from .._results.copies import Candidate, Candidates, Sealed
from .._store.store import Store
from . import replicas, sealed, sealed_record
from .proving import Challenge


def possess(store: Store, host: str, challenge: Challenge, check_mode: bool = False) -> Candidates:
    """Every encrypted copy of ``host`` that is named here: ``verified``, ``damaged``, or ``unread`` for lack of time.

    The newest checkpoint is always read whole. Damaged bundles are put aside, unless in check mode.
    """
    target = replicas.replica(store, host)
    known = sealed_record.records(target)
    reading = _Reading(target, challenge)
    found = [reading.candidate(known, sha) for sha in _order(known, challenge)]
    told = Candidates(candidates=found)
    bad = [sha for sha, fault in reading.faults.items() if fault]
    if bad and not check_mode:
        try:
            with target.locked():
                for sha in bad:
                    sealed.put_aside(target, sha)
        except (Busy, OSError) as error:
            told.left = [f"could not put aside {len(bad)} encrypted bundles: {error}"]
            return told
    told.planned = [f"put aside the encrypted bundle {sha[:12]}" for sha in bad]
    told.done = [] if check_mode else list(told.planned)
    told.changed = bool(bad)
    return told


def _order(known: Mapping[str, sealed_record.Record], challenge: Challenge) -> list[str]:
    """The bundles of the newest checkpoint, then the others in an order of the nonce: see ``proving``."""
    newest = max(known.values(), key=lambda one: (one.created, one.id)).id if known else ""
    return sorted(known, key=lambda sha: (known[sha].id != newest, _keyed(challenge, sha.encode()).digest()))


def _keyed(challenge: Challenge, data: bytes = b"") -> hmac.HMAC:
    return hmac.new(challenge.nonce, data, hashlib.sha256)


class _Reading:
    """A reading of the bundles of one host. Each is read once, however many copies need it."""

    def __init__(self, target: Store, challenge: Challenge) -> None:
        self.faults: dict[str, str] = {}
        self._proofs: dict[str, str] = {}
        self._target = target
        self._challenge = challenge
        self._end = target.system.monotonic() + challenge.time_limit
        self._first = ""

    def candidate(self, known: Mapping[str, sealed_record.Record], sha: str) -> Candidate:
        one = known[sha]
        self._first = self._first or one.id
        wrong: list[str] = []
        whole = True
        try:
            links = [link.sha256 for link in sealed.chain(known, sha)]
            whole = self._read(links, one.id == self._first)
            wrong = [fault for link in links if (fault := self.faults.get(link))]
        except Damaged as error:
            wrong = [error.message]
        shown = Sealed(one.sha256, one.base, one.size, one.nonce, one.tag, one.key, one.card, self._proofs.get(sha, ""))
        copy = Candidate(one.id, replicas.mac_of(self._target, one.id), created=one.created, sealed=shown)
        copy.state = "damaged" if wrong else "verified" if whole else "unread"
        copy.detail = "; ".join(wrong[:10])
        return copy

    def _read(self, links: Iterable[str], always: bool) -> bool:
        """Read the bundles that were not read yet; whether there was time for all."""
        for sha in links:
            if sha in self.faults:
                continue
            if not always and self._target.system.monotonic() >= self._end:
                return False
            # Memory and cables fail, too: what reads wrong once is read again.
            self.faults[sha] = self._fault(sha) and self._fault(sha)
        return True

    def _fault(self, sha: str) -> str:
        made = _keyed(self._challenge)
        fault = sealed.problem(self._target, sha, made.update)
        if not fault:
            self._proofs[sha] = made.hexdigest()
        return fault
