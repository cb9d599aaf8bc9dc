# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import STORE
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import reported as report
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.replicate import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, EvenkeelError, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durations import seconds
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.foreign import check_created
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _placement, _seal
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import (
    check_peers,
    check_variables,
    refused,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import words
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._arguments import checked
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._carry import Carrier
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._key import VARIABLE
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Host, Inventory
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._scratch import scratch_directory

COUNTS = ("verified", "planned")


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
        variable = params["failure_domain"]
        try:
            timeout = seconds(params["timeout"], "timeout")
            peers = inventory.hosts_of(params["peers"])
            domains = {name: inventory.variable(name, variable) for name in [here.name, *peers]} if variable else None
            _placement.check(here.name, params["copies"], peers, domains)
        except (EvenkeelError, AnsibleError, ValueError) as error:
            return report({"failed": True, "msg": str(error), "error": "UsageError", "copies": []})

        owner = params["host"] or here.name
        options = {"checkpoint": params["checkpoint"], "retention": params["retention"]}
        carrier = Carrier("ft_replicate", owner, lambda name: inventory.store(name, params["store"]), **options)
        offered = carrier.phase(here, "offer")
        if offered.get("failed"):
            return report({**offered, "copies": []})
        try:
            check_created(offered["created"], time.time())
            keys, seals, made = inventory.keys(owner), inventory.seals(owner), ""
            if not keys and not self._task.check_mode:
                keys = inventory.make_key(owner)
                made = (
                    f"{keys.where} is new: only this key proves that copies are yours. Keep it where it outlives the"
                    f" controller, or as {VARIABLE} in a vault"
                )
        except (EvenkeelError, AnsibleError) as error:
            return report({"failed": True, "msg": str(error), "error": type(error).__name__, "copies": []})
        if keys:
            offered = {**offered, "mac": keys.mac(owner, offered)}
        with scratch_directory() as scratch:
            replication = Replication(inventory, here, carrier, offered, scratch, timeout, self._task.check_mode, seals)
            try:
                replication.place(params["copies"], peers, domains)
                why = ""
            except Damaged as error:
                why = error.message
        if made and replication.marked:
            made += (
                f". Copies on {', '.join(replication.marked)} have MACs of another key, and only that key proves older"
                f" copies. If it is not lost, put it in place of the new key and run again; controllers that share"
                f" hosts share a key ({VARIABLE})"
            )
        result = _result(here.name, params["copies"], offered["id"], list(replication.entries.values()), why)
        said = [*([made] if made else []), *_seal.leftovers(owner, replication.plain)]
        return {**result, "warnings": said} if said else result


@dataclass(frozen=True)
class Outcome:
    """The outcome at a peer that was asked for a copy: an entry of ``copies``. ``new``: it has just got the copy."""

    state: str
    detail: str = ""
    new: bool = False
    peer: str = ""
    domain: str | None = None


@dataclass
class Replication:
    """The copies of one checkpoint of the host ``here``.

    offered: its id, its MAC, and the ids ``held`` there. entries: the outcome of each peer that was asked. marked: the
    peers whose copies had MACs before. bundles: path of each bundle, by the ids that its receivers know. seals: the
    keys of encrypted copies. plain: the number of plain copies on peers that hold encrypted ones.
    """

    inventory: Inventory
    here: Host
    carrier: Carrier
    offered: Mapping[str, Any]
    scratch: str
    timeout: float
    check_mode: bool
    seals: _seal.Seals
    entries: dict[str, Outcome] = field(default_factory=dict)
    marked: list[str] = field(default_factory=list)
    bundles: dict[tuple[str, ...], str] = field(default_factory=dict)
    plain: dict[str, int] = field(default_factory=dict)

    @property
    def _id(self) -> str:
        return str(self.offered["id"])

    @property
    def _mac(self) -> str:
        return str(self.offered.get("mac", ""))

    def place(self, copies: int, peers: Sequence[str], domains: dict[str, str | None] | None) -> None:
        """Ask peers until enough hold a verified copy or no peer is left. Damaged when this host cannot give it."""
        entries = self.entries
        while True:
            holding = [peer for peer, entry in entries.items() if entry.state in COUNTS]
            chosen = _placement.choose(self.here.name, copies, peers, domains, holding, entries.keys() - set(holding))
            if not chosen:
                return
            for peer, entry in self._ask(chosen).items():
                entries[peer] = replace(entry, peer=peer, domain=domains[peer] if domains else peer)

    def _ask(self, peers: Sequence[str]) -> dict[str, Outcome]:
        def have(host: Host) -> Answer:
            return self.carrier.phase(host, "have", id=self._id, mac=self._mac, **self.seals.asking())

        told = self.inventory.each(peers, have, self.timeout)
        entries: dict[str, Outcome] = {}
        lacking: dict[str, tuple[str, ...]] = {}
        for peer, answer in told.items():
            if answer.get("macs"):
                self.marked.append(peer)
            if answer.get("plain"):
                self.plain[peer] = answer["plain"]
            refusal = self.seals.refusal(answer)
            if answer.get("unreachable") or answer.get("failed"):
                entries[peer] = _outcome(answer)
            elif refusal:
                entries[peer] = Outcome("failed", refusal)
            elif answer.get("state") == "verified":
                entries[peer] = Outcome("verified", "held already")
            elif self.check_mode:
                entries[peer] = Outcome("planned", new=True)
            else:
                lacking[peer] = self.seals.known(self.offered["held"], answer)
        if lacking:
            entries.update(self._send(lacking))
            # A content that a peer holds may be damaged there. The peer then gets everything.
            again: dict[str, tuple[str, ...]] = {
                peer: () for peer, known in lacking.items() if known and entries[peer].state == "failed"
            }
            if again:
                entries.update(self._send(again))
        return entries

    def _send(self, lacking: dict[str, tuple[str, ...]]) -> dict[str, Outcome]:
        for known in set(lacking.values()) - self.bundles.keys():
            path = os.path.join(self.scratch, f"bundle-{len(self.bundles)}")
            sealing = self.seals.sealing(self._id, known)
            found = self.carrier.fetch(self.here, self._id, known, False, path, **sealing)
            if found.get("failed"):
                raise Damaged(f"{self.here.name} cannot give checkpoint {self._id[:12]}: {found.get('msg')}")
            self.bundles[known] = path

        def deliver(host: Host) -> Answer:
            known = lacking[host.name]
            more = {"mac": self._mac, **self.seals.receiving(self.offered, known)}
            return self.carrier.deliver(host, "receive", self._id, self.bundles[known], **more)

        told = self.inventory.each(lacking, deliver, self.timeout)
        return {peer: _outcome(answer) for peer, answer in told.items()}


def _outcome(answer: Answer) -> Outcome:
    if answer.get("unreachable"):
        return Outcome("unreachable", words(answer.get("msg")))
    if answer.get("state") == "verified":
        return Outcome("verified", f"{answer.get('bytes')} bytes", new=True)
    return Outcome("failed", words(answer.get("msg")))


def _result(source: str, wanted: int, checkpoint: str, entries: Sequence[Outcome], why: str) -> dict[str, object]:
    good = [entry for entry in entries if entry.state in COUNTS]
    new = [f"a copy of {checkpoint[:12]} on {entry.peer}" for entry in good if entry.new]
    wrong = [f"{one.peer} ({one.domain}): {one.state}, {one.detail}" for one in entries if one not in good]
    verified = [entry for entry in good if entry.state == "verified"]
    result = {
        "changed": bool(new),
        "id": checkpoint,
        "copies": [
            {"peer": one.peer, "domain": one.domain, "id": checkpoint, "state": one.state, "detail": one.detail}
            for one in entries
        ],
        "planned": new,
        "done": new if verified else [],
        "proved": [f"{entry.peer} holds a verified copy of {checkpoint[:12]}" for entry in verified],
        "left": wrong,
    }
    if len(good) < wanted:
        have = ", ".join(f"{entry.peer} ({entry.domain})" for entry in good) or "none"
        result.update(
            failed=True,
            error="EvenkeelError",
            msg=f"{len(good)} of {wanted} copies of checkpoint {checkpoint[:12]} of {source}. Verified: {have}."
            f" Without a copy: {why or '; '.join(wrong) or 'no other peer is in a further failure domain'}."
            " Repair these peers or name more peers, and run again: verified copies stay.",
        )
    return report(result)
