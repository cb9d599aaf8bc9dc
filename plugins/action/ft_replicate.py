# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import STORE
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import reported as report
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.replicate import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import EvenkeelError, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durations import seconds
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.foreign import check_created
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _placement, _seal
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import (
    check_peers,
    check_variables,
    code_of,
    refused,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import failed, words
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._arguments import checked
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._carry import Carrier
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._key import VARIABLE
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Host, Inventory
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._scratch import scratch_directory
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._transport import (
    CHAIN,
    RELAY,
    SSH,
    Direct,
    Place,
    place,
)

COUNTS = ("verified", "planned")
# Seconds for which a store counts as new.
_YOUNG = 7 * 86400.0


class ActionModule(ActionBase):
    """Carry a checkpoint from the host of the task to its peers, over the controller's connection to each."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        try:
            check_variables(task_vars or {})
            check_peers(self, task_vars or {})
            params = checked({**ARGUMENTS, "store": STORE}, self._task.args)
        except UsageError as error:
            return refused(error, copies=[])
        inventory = Inventory(self, task_vars or {})
        here = inventory.here()
        owner, variable = params["host"] or here.name, params["failure_domain"]
        try:
            timeout = seconds(params["timeout"], "timeout")
            # After a recovery the copies stay where they are: the lost host's order counts, and not that of the spare.
            peers = _peers(inventory, params["peers"], owner, here.name)
            domains = {name: inventory.variable(name, variable) for name in [here.name, *peers]} if variable else None
            if domains is not None:
                domains[owner] = domains[here.name]
            fewest = _placement.fewest(params["copies"], params.get("min_copies"))
            # After a recovery there may be too few hosts. Each copy counts then, and the result tells the shortage.
            _placement.check(owner, fewest if owner == here.name else 1, peers, domains)
            first = _placement.choose(owner, params["copies"], peers, domains)
            for peer in first:
                place(inventory, peer)
            keys, seals, made = inventory.keys(owner), inventory.seals(owner), ""
        except (EvenkeelError, AnsibleError, ValueError) as error:
            return report({"failed": True, "msg": str(error), "error": code_of(error), "copies": []})

        options = {"checkpoint": params["checkpoint"], "retention": params["retention"]}
        carrier = Carrier("ft_replicate", owner, lambda name: inventory.store(name, params["store"]), **options)
        offered, early = inventory.beside(
            first,
            lambda host: carrier.phase(host, "have", id="", mac="", **seals.asking()),
            timeout,
            lambda: carrier.phase(here, "offer", elsewhere=owner != here.name, encrypted=bool(seals)),
        )
        if offered.get("failed"):
            return report({**offered, "copies": []})
        try:
            check_created(offered["created"], time.time())
            if not keys and not self._task.check_mode:
                keys = inventory.make_key(owner)
                made = _new_key(keys.where)
        except (EvenkeelError, AnsibleError) as error:
            return report({"failed": True, "msg": str(error), "error": code_of(error), "copies": []})
        offered = {**offered, "mac": keys.mac(owner, offered)} if keys else offered
        with scratch_directory() as scratch:
            replication = Replication(
                inventory, owner, here, carrier, offered, scratch, timeout, params["transport"], seals, early
            )
            replication.place(params["copies"], peers, domains)
        made += _other_key(replication.marked) if made and replication.marked else ""
        entries = list(replication.entries.values())
        result = _result(owner, (fewest, params["copies"]), offered["id"], entries, replication.broken)
        is_over = result.get("failed") or self._task.check_mode or not offered["has_log"]
        noted = "" if is_over else _noted(carrier, here, offered["id"], entries)
        result["left"] = [*offered["lacking"], *result["left"], *([noted] if noted else [])]
        said = (made, _new_store(owner, replication.strange), *result.pop("warnings", []))
        warnings = [one for one in (*said, *_seal.leftovers(owner, replication.plain)) if one]
        return {**result, "warnings": warnings} if warnings else result


def _peers(inventory: Inventory, names: Sequence[str], owner: str, here: str) -> list[str]:
    """The hosts that may hold copies. The stores tell of two names of the host ``here``; a lost owner is not asked."""
    peers = [peer for peer in inventory.hosts_of(names) if peer not in (owner, here)]
    return [peer for peer in peers if owner == here or not inventory.share_address(peer, owner)]


def _new_key(where: str) -> str:
    """The words where a key was made."""
    return (
        f"{where} is new: only this key proves that copies are yours. Keep it where it outlives the controller, or as"
        f" {VARIABLE} in a vault"
    )


def _other_key(marked: Sequence[str]) -> str:
    """The words to add where a key was made, and copies on peers have MACs already."""
    return (
        f". Copies on {', '.join(marked)} have MACs of another key, and only that key proves older copies. If it is not"
        f" lost, put it in place of the new key and run again; controllers that share hosts share a key ({VARIABLE})"
    )


def _new_store(owner: str, strange: Mapping[str, int]) -> str:
    """The words where a store knows none of the copies that peers hold."""
    if not strange:
        return ""
    there = ", ".join(f"{count} on {peer}" for peer, count in strange.items())
    return (
        f"the store of {owner} is new, or was lost: it does not know older copies of it ({there}). This run has no peer"
        f" drop old copies. If {owner} lost its state, recover it from a checkpoint before this one. ft_heal"
        " brings its older checkpoints back to its store"
    )


def _noted(carrier: Carrier, here: Host, checkpoint: str, entries: Iterable[Outcome]) -> str:
    """Have the source note how far its log was copied, and how often; why it could not, or nothing."""
    copies = sum(one.state == "verified" for one in entries)
    noted = carrier.phase(here, "noted", id=checkpoint, copies=copies)
    return f"{here.name} could not note how far its log was copied: {noted.get('msg')}" if noted.get("failed") else ""


@dataclass(frozen=True)
class Outcome:
    """The outcome at a peer that was asked for a copy: an entry of ``copies``. ``new``: it has just got the copy, by
    ``transport``. ``reason``: why it was not sent straight to it. ``left``: what the peer could not do afterwards."""

    state: str
    detail: str = ""
    new: bool = False
    transport: str = ""
    reason: str = ""
    peer: str = ""
    domain: str | None = None
    left: Sequence[str] = ()


@dataclass
class Replication:
    """The copies of one checkpoint of ``owner`` that the host ``here`` has.

    offered: its id, its MAC, and the ids ``held`` there. entries: the outcome of each peer that was asked. marked: the
    peers whose copies had MACs before. bundles: path of each bundle, by the ids that its receivers know. transport: the
    option. seals: the keys of encrypted copies. early: what peers said before the checkpoint was known. plain: the
    number of plain copies on peers that hold encrypted ones.
    strange: the number of copies on peers of which the source knows none. broken: why this host cannot give the
    checkpoint. places: the name of the host with the store at each place.
    """

    inventory: Inventory
    owner: str
    here: Host
    carrier: Carrier
    offered: Mapping[str, Any]
    scratch: str
    timeout: float
    transport: str
    seals: _seal.Seals
    early: dict[str, Answer] = field(default_factory=dict)
    entries: dict[str, Outcome] = field(default_factory=dict)
    marked: list[str] = field(default_factory=list)
    bundles: dict[tuple[str, ...], str] = field(default_factory=dict)
    plain: dict[str, int] = field(default_factory=dict)
    strange: dict[str, int] = field(default_factory=dict)
    broken: str = ""
    places: dict[str, str] = field(default_factory=dict)

    @property
    def _id(self) -> str:
        return str(self.offered["id"])

    @property
    def _mac(self) -> str:
        return str(self.offered.get("mac", ""))

    def place(self, copies: int, peers: Sequence[str], domains: dict[str, str | None] | None) -> None:
        """Ask peers until enough hold a verified copy, no peer is left, or this host cannot give it."""
        entries = self.entries
        if self.offered.get("place"):
            self.places[str(self.offered["place"])] = self.here.name
        if self.offered.get("encrypted") and not self.seals:
            self._enter(self._closed(peers), domains)
        while not self.broken:
            holding = [peer for peer, entry in entries.items() if entry.state in COUNTS]
            chosen = _placement.choose(self.owner, copies, peers, domains, holding, entries.keys() - set(holding))
            if not chosen:
                return
            self._enter(self._ask(chosen), domains)

    def _enter(self, found: Mapping[str, Outcome], domains: dict[str, str | None] | None) -> None:
        for peer, entry in found.items():
            self.entries[peer] = replace(entry, peer=peer, domain=str(domains[peer]) if domains else peer)

    def _have(self, host: Host) -> Answer:
        return self.carrier.phase(host, "have", id=self._id, mac=self._mac, **self.seals.asking())

    def _closed(self, peers: Sequence[str]) -> dict[str, Outcome]:
        """The peers because of which nothing is sent, where the last copies were encrypted and no key is set: those
        that hold encrypted copies, or do not say that they hold none. The variable may be missing by mistake, and the
        peers that hold the copies may be down."""
        self.early = dict(self.inventory.each(peers, self._have, self.timeout))
        closed = {}
        for peer, answer in self.early.items():
            refusal = self.seals.refusal(answer)
            if refusal or answer.get("unreachable") or answer.get("failed"):
                closed[peer] = Outcome("failed", refusal) if refusal else _outcome(answer)
        if closed:
            self.broken = (
                f"the last copies of {self.owner} were encrypted, {_seal.VARIABLE} is not set, and {', '.join(closed)}"
                " may hold encrypted ones: no peer got a plain copy. Set the variable; docs/copies.md says how to have"
                " plain copies again"
            )
        return closed

    def _ask(self, peers: Sequence[str]) -> dict[str, Outcome]:
        told = {peer: answer for peer in peers if (answer := self._decides(self.early.pop(peer, {})))}
        told.update(self.inventory.each([peer for peer in peers if peer not in told], self._have, self.timeout))
        entries: dict[str, Outcome] = {}
        lacking: dict[str, tuple[str, ...]] = {}
        for peer, answer in told.items():
            if answer.get("macs"):
                self.marked.append(peer)
            if answer.get("plain"):
                self.plain[peer] = answer["plain"]
            self._compare(peer, answer)
            refusal = self._twin(peer, answer) or self.seals.refusal(answer)
            if answer.get("unreachable") or answer.get("failed"):
                entries[peer] = _outcome(answer)
            elif refusal:
                entries[peer] = Outcome("failed", refusal)
            elif answer.get("state") == "verified":
                entries[peer] = Outcome("verified", "held already")
            elif self.inventory.predicts:
                entries[peer] = Outcome("planned", new=True)
            else:
                lacking[peer] = self.seals.known(self.offered["held"], answer)
        if lacking:
            entries.update(self._send(lacking))
            # A content that a peer holds may be damaged there. The peer then gets everything.
            repeated: dict[str, tuple[str, ...]] = {
                peer: () for peer, known in lacking.items() if known and entries[peer].state == "failed"
            }
            if repeated and not self.broken:
                entries.update(self._send(repeated))
        return entries

    def _decides(self, answer: Answer) -> Answer:
        """The answer of a peer that did not know which checkpoint is meant, where it tells all about that one; else
        nothing."""
        if answer.get("unreachable"):
            return answer
        if answer.get("failed"):
            return {}
        told = {key: value for key, value in answer.items() if key != "state"}
        if self._id not in [*answer.get("ids", []), *(one["id"] for one in answer.get("bases") or [])]:
            return told
        is_meant = answer.get("id") == self._id and answer.get("state") == "verified"
        return answer if is_meant and self._mac in ("", answer.get("mac")) else {}

    def _twin(self, peer: str, answer: Answer) -> str:
        """Why a copy on the peer would be none: it is a host that is known by another name. Else empty."""
        place = answer.get("place")
        other = self.places.setdefault(place, peer) if place else peer
        return "" if other == peer else f"it is {other} under another name, by its store: a copy there is lost with it"

    def _compare(self, peer: str, answer: Answer) -> None:
        """Note a peer most of whose copies the source does not know, although its store is new. Then this run has no
        peer drop old ones. A store that is old has dropped them itself."""
        there = [one["id"] for one in answer.get("bases") or []] if self.seals else answer.get("ids") or []
        counted = there if self.seals or answer.get("macs") else []
        unknown = set(counted) - set(self.offered["held"])
        age = self.offered.get("age")
        is_young = self.owner == self.here.name and age is not None and age < _YOUNG
        if is_young and len(unknown) > len(set(counted)) / 2:
            self.strange[peer] = len(unknown)
            self.carrier = self.carrier.without("retention")

    def _send(self, lacking: Mapping[str, tuple[str, ...]]) -> dict[str, Outcome]:
        """Send each peer its bundle: straight where that is wanted and works, and else by the controller."""
        entries: dict[str, Outcome] = {}
        reasons: dict[str, str] = {}
        if self.transport != RELAY:
            for peer, answer in self._send_straight(lacking).items():
                if answer.get("state") == "verified" or answer.get("final") or self.transport == SSH:
                    entries[peer] = _outcome(answer)
                else:
                    reasons[peer] = words(answer.get("msg"))
        rest = {peer: known for peer, known in lacking.items() if peer not in entries}
        if rest and not self.broken:
            for peer, outcome in self._relay(rest).items():
                entries[peer] = replace(outcome, transport=RELAY, reason=reasons.get(peer, ""))
        return {**{peer: Outcome("failed", self.broken) for peer in lacking}, **entries}

    def _send_straight(self, lacking: Mapping[str, tuple[str, ...]]) -> dict[str, Answer]:
        """The answer for each peer that was sent to straight, or the reason why it was not."""
        places = {peer: self._place(peer) for peer in lacking}
        answers: dict[str, Answer] = {peer: failed(there.obstacle) for peer, there in places.items() if there.obstacle}
        direct = Direct(self.inventory, self.here, self.carrier, self.offered, self.seals, self.timeout, places)
        for transport in (self.transport, SSH):
            # Peers behind a broken link of a chain are sent to one by one.
            todo = {peer: known for peer, known in lacking.items() if _is_open(answers.get(peer))}
            if todo:
                answers.update(direct.send(transport, todo))
            for answer in answers.values():
                if answer.get("source_failed"):
                    self._cannot_give(answer)
                    return answers
        return answers

    def _cannot_give(self, answer: Answer) -> None:
        self.broken = f"{self.here.name} cannot give checkpoint {self._id[:12]}: {answer.get('msg')}"

    def _place(self, peer: str) -> Place:
        """The place of a peer. Addresses of the peers that are asked first are known to be right."""
        try:
            return place(self.inventory, peer)
        except UsageError as error:
            return Place(obstacle=error.message)

    def _relay(self, lacking: Mapping[str, tuple[str, ...]]) -> dict[str, Outcome]:
        for known in set(lacking.values()) - self.bundles.keys():
            path = os.path.join(self.scratch, f"bundle-{len(self.bundles)}")
            sealing = self.seals.sealing(self._id, known)
            found = self.carrier.fetch(self.here, self._id, known, False, path, **sealing)
            if found.get("failed"):
                self._cannot_give(found)
            else:
                self.bundles[known] = path

        def deliver(host: Host) -> Answer:
            known = lacking[host.name]
            more = {"mac": self._mac, **self.seals.receiving(self.offered, known)}
            return self.carrier.deliver(host, "receive", self._id, self.bundles[known], **more)

        ready = [peer for peer, known in lacking.items() if known in self.bundles]
        told = self.inventory.each(ready, deliver, self.timeout)
        return {peer: _outcome(answer) for peer, answer in told.items()}


def _is_open(answer: Answer | None) -> bool:
    """Whether a peer is still to be sent to: it was not yet, or its copy was lost on its way along a chain."""
    if answer is None:
        return True
    silent = answer.get("failed") or answer.get("unreachable")
    return bool(silent) and answer.get("transport") == CHAIN and not answer.get("final")


def _outcome(answer: Answer) -> Outcome:
    transport = str(answer.get("transport", ""))
    if answer.get("unreachable"):
        return Outcome("unreachable", words(answer.get("msg")), transport=transport)
    if answer.get("state") == "verified":
        left = answer.get("left") or ()
        return Outcome("verified", f"{answer.get('bytes')} bytes", new=True, transport=transport, left=left)
    return Outcome("failed", words(answer.get("msg")), transport=transport)


def _result(
    source: str, numbers: tuple[int, int], checkpoint: str, entries: Sequence[Outcome], why: str
) -> dict[str, Any]:
    """The result. numbers: the copies without which it is a failure, and the copies that are wanted."""
    fewest, wanted = numbers
    good = [entry for entry in entries if entry.state in COUNTS]
    new = [f"a copy of {checkpoint[:12]} on {entry.peer}" for entry in good if entry.new]
    wrong = [f"{one.peer} ({one.domain}): {one.state}, {one.detail}" for one in entries if one not in good]
    verified = [entry for entry in good if entry.state == "verified"]
    afterwards = [f"{one.peer}: {said}" for one in verified for said in one.left]
    result = {
        "changed": bool(new),
        "id": checkpoint,
        "copies": [
            {
                "peer": one.peer,
                "domain": one.domain,
                "id": checkpoint,
                "state": one.state,
                "detail": one.detail,
                "transport": one.transport,
                "reason": one.reason,
            }
            for one in entries
        ],
        "planned": new,
        "done": new if verified else [],
        "proved": [_proof(entry, checkpoint) for entry in verified],
        "left": [*wrong, *afterwards],
    }
    if len(good) < wanted:
        have = ", ".join(f"{entry.peer} ({entry.domain})" for entry in good) or "none"
        said = (
            f"{len(good)} of {wanted} copies of checkpoint {checkpoint[:12]} of {source}. Verified: {have}."
            f" Without a copy: {why or '; '.join(wrong) or 'no other peer is in a further failure domain'}."
            " Repair these peers or name more peers, and run again: verified copies stay."
        )
        if len(good) < fewest:
            result.update(failed=True, error="EvenkeelError", msg=said)
        else:
            result.update(warnings=[said], left=[*(wrong or [said]), *afterwards])
    return report(result)


def _proof(entry: Outcome, checkpoint: str) -> str:
    if entry.new:
        return f"{entry.peer} holds a verified copy of {checkpoint[:12]}"
    return f"{entry.peer} holds every content of {checkpoint[:12]}, each in its size; ft_scrub hashes them again"
