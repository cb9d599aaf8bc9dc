# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The heal of the encrypted copies of one host: bundles go from peer to peer as they are, and nobody reads them.

The decisions come first, and are pure. A copy is a chain of bundles. It is good where each record of the chain has a
tag of ours, and the peer has proved each bundle. Peers with the same bundle give the same proof. Where they do not, the
controller fetches the bundle and sees who is right.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.hashing import chunks, hash_of
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import retention
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.foreign import check_created
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.proof import TRAILER_SIZE, trailer_of
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _heal
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import silence, without_twins, words
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._carry import Carrier
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._heal import Known, Standing, Told
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._key import Keys
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Inventory
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._seal import Seals

Record = Mapping[str, Any]
# The checkpoint of each bundle and its record, that of the whole bundle first.
Chain = Sequence[tuple[str, Record]]
# A copy is worth as much as the worst bundle of its chain.
_WORST_FIRST = (_heal.DAMAGED, _heal.FALSE, _heal.DISPUTED, _heal.UNREAD, _heal.GOOD)


@dataclass(frozen=True)
class Copy:
    """An encrypted copy on a peer. ``state``: what the peer and the tags tell. ``chain``: empty unless the tags are
    ours; ``ours``: whether its MAC is."""

    known: Known
    state: str
    detail: str
    chain: Chain = ()
    ours: bool = False

    def standing(self, peer: str, verdicts: Mapping[tuple[str, str], str]) -> str:
        """The state of the copy after the verdicts on its bundles: (peer, bundle) -> good, false or disputed."""
        if not self.chain:
            return _heal.DAMAGED
        found = {verdicts.get((peer, record["sha256"]), _heal.UNREAD) for _checkpoint, record in self.chain}
        return next(state for state in _WORST_FIRST if state in found)


def judge(
    proofs: Mapping[str, Mapping[str, str]], right: Mapping[str, str] | None = None
) -> dict[tuple[str, str], str]:
    """The verdict on each (peer, bundle). proofs: bundle -> peer -> its proof; right: those that the controller has
    computed itself."""
    found = {}
    for sha, given in proofs.items():
        known = (right or {}).get(sha)
        verdicts = _heal.judge("", {**given, **({"": known} if known else {})})  # No host has an empty name.
        found.update({(peer, sha): verdicts[peer] for peer in given})
    return found


def disagreeing(proofs: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """The bundles of which peers give different proofs; the peers, those whose proof most peers give first."""
    found = {}
    for sha, given in proofs.items():
        count = Counter(given.values())
        if len(count) > 1:
            found[sha] = sorted(given, key=lambda peer: -count[given[peer]])
    return found


@dataclass
class Survey:
    """The copies that the peers hold. copies: peer -> checkpoint -> its best copy there; verdicts: of ``judge``."""

    copies: dict[str, dict[str, Copy]]
    verdicts: Mapping[tuple[str, str], str]

    def state(self, peer: str, checkpoint: str) -> str:
        copy = self.copies.get(peer, {}).get(checkpoint)
        return copy.standing(peer, self.verdicts) if copy else _heal.NONE

    def chain(self, peer: str, checkpoint: str) -> Chain:
        """The proved records of a copy; none where there is no copy with our tags."""
        copy = self.copies[peer].get(checkpoint)
        return copy.chain if copy else ()

    def known(self) -> dict[str, Known]:
        """The checkpoints of which a peer has a copy with our tags and our MAC."""
        return {one: copy.known for on in self.copies.values() for one, copy in on.items() if copy.ours and copy.chain}

    def standing(self, owner: str, copies: int, domains: Mapping[str, str | None] | None, checkpoint: str) -> Standing:
        """Where a checkpoint stands. A peer with damage gets it again only where no other peer is left."""
        states = {peer: self.state(peer, checkpoint) for peer in self.copies}
        wary = {peer for peer in self.copies if any(self.state(peer, o) == _heal.DAMAGED for o in self.copies[peer])}
        taking = {peer: _heal.NONE if state == _heal.DAMAGED else state for peer, state in states.items()}
        return Standing(owner, copies, taking, domains, None, wary)


def best(peer: str, found: Collection[Copy], verdicts: Mapping[tuple[str, str], str]) -> dict[str, Copy]:
    """By checkpoint the best of the copies that a peer has of it: it may have one for each key."""
    ordered = sorted(found, key=lambda copy: (_WORST_FIRST.index(copy.standing(peer, verdicts)), copy.ours))
    return {copy.known.id: copy for copy in ordered}


# -- the end of each step


@dataclass(frozen=True)
class Task:
    """The heal of one owner, as it is asked for. alive: the owner itself takes part in the run, and can send copies.
    fewest: the copies without which the run fails."""

    inventory: Inventory
    carrier: Carrier
    owner: str
    alive: bool
    peers: Sequence[str]
    copies: int
    fewest: int
    policy: retention.Policy | None
    domains: Mapping[str, str | None] | None
    time_limit: float
    timeout: float
    check_mode: bool
    scratch: str
    seals: Seals
    keys: Keys


@dataclass
class Sealed:
    """The heal of the encrypted copies of one owner."""

    task: Task
    told: Told
    _nonce: str = field(default_factory=lambda: secrets.token_hex(32))
    _answers: dict[str, Answer] = field(default_factory=dict)
    _survey: Survey = field(default_factory=lambda: Survey({}, {}))
    # (peer, bundle) that was sent in this run.
    _given: set[tuple[str, str]] = field(default_factory=set)
    # Bundles whose bytes are those of their record, by SHA-256: files of the controller.
    _files: dict[str, str] = field(default_factory=dict)

    def heal(self) -> None:
        task, told = self.task, self.told
        asked = {"nonce": self._nonce, "time_limit": task.time_limit}
        names = [*([task.owner] if task.alive else []), *task.peers]
        answers = task.inventory.each(
            names, lambda host: task.carrier.phase(host, "possess", **asked), task.time_limit + task.timeout
        )
        told_once = without_twins({name: answers[name] for name in names})
        self._answers = {peer: told_once[peer] for peer in task.peers}  # The owner itself is no peer of its own.
        copies = {
            peer: self._opened(peer) for peer, answer in self._answers.items() if self._has_answered(peer, answer)
        }
        verdicts = self._verdicts(copies)
        self._survey = Survey({peer: best(peer, found, verdicts) for peer, found in copies.items()}, verdicts)
        known = self._known()
        self._report_useless_copies(known)
        wanted = _heal.wanted(known, task.policy, datetime.now(UTC))
        for one in wanted:
            self._mend(known[one], one == wanted[-1])
        if not wanted:
            said = f"no peer that was reached has an encrypted copy of {task.owner} that counts"
            held = any(answer.get("candidates") for answer in self._answers.values())
            (told.warnings if held else told.left).append(f"{said}: ft_replicate sends one" if task.alive else said)
        self._mark(known)

    def _known(self) -> dict[str, Known]:
        found = {}
        for one, known in self._survey.known().items():
            try:
                check_created(known.created, time.time())
            except Damaged:
                continue
            found[one] = known
        return found

    def _has_answered(self, peer: str, answer: Answer) -> bool:
        """Whether the peer has answered. If so, its own words are told; if not, why."""
        if answer.get("unreachable") or answer.get("failed"):
            self.told.left.append(
                f"{peer} {silence(answer)}: {words(answer.get('msg'))}; its copies of {self.task.owner} do not count"
            )
            return False
        self.told.left += [f"{peer}: {said}" for said in answer["left"]]
        self.told.aside += [f"{peer}: {said}" for said in answer["planned"]]
        return True

    def _opened(self, peer: str) -> list[Copy]:
        """The copies of a peer that a key of ours reads."""
        owner, found, locked = self.task.owner, [], []
        for one in self.task.seals.opened(self._answers[peer]["candidates"]):
            if one["state"] == "locked":
                locked.append(str(one["detail"]))
                continue
            known = Known(one["id"], one["host"], one["name"], one["created"])
            ours = self.task.keys.know(owner, one)
            found.append(Copy(known, one["state"], one["detail"], one["sealed"] or (), ours))
        if locked:
            self.told.left.append(f"{peer} holds {len(locked)} copies of {owner} that do not count: {locked[0]}")
        return found

    # -- who holds what

    def _verdicts(self, copies: Mapping[str, Sequence[Copy]]) -> dict[tuple[str, str], str]:
        """The verdicts on all bundles with our tags. Where peers disagree, the controller reads the bundle itself."""
        records = {
            (peer, record["sha256"]): (one, record)
            for peer, found in copies.items()
            for copy in found
            for one, record in copy.chain
        }
        ours = {sha for _peer, sha in records}
        proofs: dict[str, dict[str, str]] = {}
        for peer in copies:
            for candidate in self._answers[peer]["candidates"]:
                sha, proof = candidate["sealed"]["sha256"], candidate["sealed"]["proof"]
                if proof and sha in ours:
                    proofs.setdefault(sha, {})[peer] = proof
        return judge(proofs, {} if self.task.check_mode else self._right(proofs, records))

    def _right(
        self, proofs: Mapping[str, Mapping[str, str]], records: Mapping[tuple[str, str], tuple[str, Record]]
    ) -> dict[str, str]:
        """The right proofs of the bundles of which peers give different ones. A peer that was caught is not believed
        again: so it cannot have the controller fetch every bundle.

        records: (peer, bundle) -> checkpoint and record. The tag does not prove the size, so that the bundle of a peer
        is compared with the record of the same peer alone.
        """
        right: dict[str, str] = {}
        caught: set[str] = set()
        for sha, peers in disagreeing(proofs).items():
            believed = {proofs[sha][peer] for peer in peers if peer not in caught}
            if len(believed) == 1:
                right[sha] = believed.pop()
                continue
            for peer in (one for one in peers if (one, sha) in records):
                checkpoint, record = records[peer, sha]
                path, why = self._fetch(peer, checkpoint, record)
                if path:
                    right[sha] = _proof(path, record["size"], self._nonce)
                    caught |= {one for one in peers if proofs[sha][one] != right[sha]}
                    break
                self.told.left.append(why)
            self._drop_files()
        return right

    def _report_useless_copies(self, known: Collection[str]) -> None:
        """Name the copies that are of no use."""
        told, owner, survey = self.told, self.task.owner, self._survey
        for (peer, sha), verdict in survey.verdicts.items():
            what = f"the encrypted bundle {sha[:12]} of {owner}"
            if verdict == _heal.FALSE:
                told.warnings.append(f"{peer} does not hold what it claims: its proof of {what} is wrong; look at it")
            elif verdict == _heal.DISPUTED:
                told.warnings.append(f"{peer} and another host disagree on {what}; neither counts; look at both")
        for peer, on in survey.copies.items():
            for one, copy in on.items():
                state, what = survey.state(peer, one), f"the copy of {owner}'s checkpoint {one[:12]}"
                if state == _heal.DAMAGED and one not in known:
                    self._report_missing(f"{what} is damaged on {peer}, and no other peer has it: {copy.detail}")
                elif state == _heal.DAMAGED:
                    told.warnings.append(f"{what} on {peer} is damaged: {copy.detail}")
                elif one not in known:
                    told.left.append(f"{peer} has {what}, which no MAC of ours proves: it is left alone")
                elif state == _heal.UNREAD:
                    told.left.append(f"{peer} did not read {what} in time; it counts as before")

    def _report_missing(self, said: str) -> None:
        """The owner itself may still have the checkpoint."""
        if self.task.alive:
            self.told.short.append(f"{said}. ft_replicate sends the newest checkpoint again")
        else:
            self.told.missing.append(said)

    # -- copies that are made

    def _mend(self, known: Known, newest: bool) -> None:
        """Bring the checkpoint to as many copies as are wanted, from peer to peer."""
        task = self.task
        standing = self._survey.standing(task.owner, task.copies, task.domains, known.id)
        sent = newest and task.alive
        while not sent and (steps := standing.steps()):
            for step in steps:
                # A peer that got the copy in this run has no record that was read.
                sources = [peer for peer in step.sources if self._survey.chain(peer, known.id)]
                self._make(standing, known, step.target, sources)
        self._end(standing, known, sent)
        self._drop_files()

    def _make(self, standing: Standing, known: Known, target: str, sources: Sequence[str]) -> None:
        told, what = self.told, f"the copy of {self.task.owner}'s checkpoint {known.id[:12]} ({known.name})"
        word = "rebuild" if self._survey.state(target, known.id) == _heal.DAMAGED else "place"
        if self.task.check_mode:
            told.planned.append(f"{word} {what} on {target} from {sources[0]}")
            standing.took(target)
            return
        source, why = "", "no peer can give it"
        for source in sources:
            why = self._pass_on(source, target, known.id)
            if not why:
                break
        if why:
            standing.refused(target, why)
            told.left.append(f"{target} did not get {what}: {why}")
            return
        standing.took(target)
        said = f"{'rebuilt' if word == 'rebuild' else 'placed'} {what} on {target} from {source}"
        told.planned.append(said)
        told.done.append(said)

    def _pass_on(self, source: str, target: str, checkpoint: str) -> str:
        """Bring the chain of the checkpoint to the target, the whole bundle first; why that failed, or nothing."""
        task = self.task
        for one, record in self._survey.chain(source, checkpoint):
            if self._has(target, record):
                continue
            path, why = self._fetch(source, one, record)
            if not path:
                return why
            try:
                values, names = task.seals.passing(one, record)
            except Damaged as error:
                return f"{source} cannot give it: {error.message}"
            mac = task.keys.mac(task.owner, names)
            deliver = partial(task.carrier.deliver, phase="receive", checkpoint=one, local=path, mac=mac, **values)
            answer = task.inventory.each([target], deliver, task.timeout)[target]
            if answer.get("failed") or answer.get("unreachable"):
                return words(answer.get("msg"))
            self.told.left += [f"{target}: {said}" for said in answer.get("left") or ()]
            self._given.add((target, record["sha256"]))
        return ""

    def _has(self, target: str, record: Record) -> bool:
        """Whether the target has proved the same bundle, under the same record, or got it in this run."""
        if (target, record["sha256"]) in self._given:
            return True
        if self._survey.verdicts.get((target, record["sha256"])) != _heal.GOOD:
            return False
        names = ("sha256", "base", "nonce", "tag", "key")
        there = [one["sealed"] for one in self._answers[target]["candidates"]]
        return any(all(one[name] == record[name] for name in names) for one in there)

    def _fetch(self, source: str, checkpoint: str, record: Record) -> tuple[str, str]:
        """The file of a bundle, whose bytes were compared with its proved record; or empty and the reason."""
        sha = record["sha256"]
        if sha not in self._files:
            path = os.path.join(self.task.scratch, f"bundle-{os.urandom(8).hex()}")
            found = self.task.inventory.each(
                [source],
                lambda host: self.task.carrier.fetch(
                    host, checkpoint, (), True, path, seal={"sha256": sha, "alone": True}
                ),
                self.task.timeout,
            )[source]
            if found.get("failed") or found.get("unreachable"):
                return "", f"{source} cannot give it: {words(found.get('msg'))}"
            if not _is_whole(path, record):
                os.unlink(path)
                return "", f"{source} gave another bundle in the place of {sha[:12]}; look at it"
            self._files[sha] = path
        return self._files[sha], ""

    def _drop_files(self) -> None:
        while self._files:
            os.unlink(self._files.popitem()[1])

    def _end(self, standing: Standing, known: Known, sent: bool) -> None:
        """Say where the checkpoint stands now. sent: the owner itself is to send it again."""
        told, task = self.told, self.task
        what = f"{known.name} ({known.id[:12]}) of {task.owner}"
        counted = standing.counted()
        for peer, state in standing.peers.items():
            before = self._survey.state(peer, known.id)
            shown = before if state == _heal.NONE else state
            if shown != _heal.NONE:
                detail = self._survey.copies[peer][known.id].detail if shown == _heal.DAMAGED else ""
                told.copies.append(
                    {
                        "host": task.owner,
                        "peer": peer,
                        "id": known.id,
                        "state": shown,
                        "detail": detail or standing.failed.get(peer, ""),
                    }
                )
        if sent and len(counted) < task.copies:
            said = f"{len(counted)} of {task.copies} copies of {what}: {', '.join(counted) or 'none'}"
            told.few(f"{said}. ft_replicate sends it again", len(counted) >= task.fewest)
        elif not standing.sources():
            told.missing.append(f"no peer that was reached has a whole copy of {what}")
        elif len(counted) < task.copies:
            told.few(
                f"{len(counted)} of {task.copies} copies of {what}: {', '.join(counted) or 'none'}, and no other peer"
                " in a further failure domain can take one",
                len(counted) >= task.fewest,
            )
        read = [peer for peer in counted if standing.peers[peer] == _heal.GOOD]
        if read and not task.check_mode:
            told.proved.append(f"{', '.join(read)} hold {what}, read in this run")

    def _mark(self, known: Mapping[str, Known]) -> None:
        """Have peers keep our MAC beside good copies that have none of ours, so that a recovery recognizes them."""
        task, told = self.task, self.told
        lacking: dict[str, dict[str, str]] = {}
        for peer, on in self._survey.copies.items():
            for one, copy in on.items():
                if one in known and not copy.ours and self._survey.state(peer, one) == _heal.GOOD:
                    lacking.setdefault(peer, {})[one] = task.keys.mac(task.owner, asdict(known[one]))
        told.planned += [
            f"keep the MAC of {len(macs)} copies of {task.owner} on {peer}" for peer, macs in lacking.items()
        ]
        if not lacking or task.check_mode:
            return
        answers = task.inventory.each(
            lacking, lambda host: task.carrier.phase(host, "mark", macs=lacking[host.name]), task.timeout
        )
        for peer, answer in answers.items():
            if answer.get("failed") or answer.get("unreachable"):
                told.left.append(f"{peer} could not keep MACs of copies of {task.owner}: {words(answer.get('msg'))}")
            else:
                told.done.append(f"kept the MAC of {len(lacking[peer])} copies of {task.owner} on {peer}")


def _proof(path: str, size: int, nonce: str) -> str:
    """The proof that a holder of this bundle gives."""
    made = hmac.new(bytes.fromhex(nonce), b"", hashlib.sha256)
    with open(path, "rb") as stream:
        return hash_of(chunks(stream.fileno(), size), made)[0]


def _is_whole(path: str, record: Record) -> bool:
    """Whether the file is the ciphertext of the record, and its trailer."""
    with open(path, "rb", buffering=0) as stream:
        digest, _size = hash_of(chunks(stream.fileno(), int(record["size"])))
        trailer = stream.read(TRAILER_SIZE + 1)
    expected = trailer_of(record["sha256"], record["base"], record["tag"])
    return digest == record["sha256"] and trailer == expected
