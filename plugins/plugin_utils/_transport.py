# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way of a bundle from its source to each peer: straight over SSH, along a chain of peers, or by the controller.

The choice is pure. ``Direct`` carries it out: the controller starts the module on sender and receiver at the same time,
and hands nothing from one to the other but the public halves of keys and addresses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import failed, words
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._carry import Carrier
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Host, Inventory
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._seal import Seals

# The ids of the checkpoints that a receiver has already.
Known = tuple[str, ...]
AUTO, SSH, CHAIN, RELAY = "auto", "ssh", "chain", "relay"
# The inventory variable of the address at which other hosts of the inventory reach a host.
ADDRESS = "evenkeel_address"
# From this size on the time of a second transfer from the source is longer than the time to set up a chain.
_LARGE = 64 * 1024 * 1024
# Seconds in which hosts remove files that were made in vain; the next call of any module removes it otherwise.
_CLEAR = 60.0
_PLACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.%-]{0,254}|[0-9A-Fa-f:]+(?:%[A-Za-z0-9_.-]+)?")
_BY_WAY_OF_OTHERS = re.compile(r"(?:^|\s)-J|ProxyJump|ProxyCommand", re.IGNORECASE)
_SSH = ("ssh", "smart", "paramiko", "paramiko_ssh", "libssh")


@dataclass(frozen=True)
class Place:
    """Where other hosts reach a peer by SSH; or why they do not."""

    address: str = ""
    port: int = 22
    obstacle: str = ""


def place_of(connection: str, given: str, address: str, port: object, arguments: str) -> Place:
    """The place of a peer. Pure. connection: the plugin by which the controller reaches it; given: its own
    ``evenkeel_address``; address, port, arguments: those of the connection. UsageError for a wrong address or port."""
    if connection.rpartition(".")[2] not in _SSH:
        return Place(obstacle=f"the controller reaches it by {connection or 'no known connection'}, not by SSH")
    if not given and _BY_WAY_OF_OTHERS.search(arguments):
        return Place(obstacle=f"the controller reaches it by way of another host; {ADDRESS} names its own address")
    host, number = address, port
    if given:
        found = re.fullmatch(r"\[([^\]]+)\](?::([0-9]+))?|([^:]+):([0-9]+)", given)
        host, number = (found[1] or found[3], found[2] or found[4] or 22) if found else (given, 22)
    if not _PLACE.fullmatch(host) or not re.fullmatch("[0-9]{1,5}", str(number)) or not 0 < int(str(number)) < 65536:
        raise UsageError(
            f"{f'{host}:{number}'!r} is no address of a host: set {ADDRESS} to a name or an address, with a port where"
            " it is not 22"
        )
    return Place(host, int(str(number)))


def groups(wanted: str, lacking: Mapping[str, Known], sizes: Mapping[Known, int]) -> list[list[str]]:
    """The peers in the order in which each gets its bundle from the one before it, the first from the source. Pure.

    lacking: peer -> what it knows; sizes: bytes of the bundle for a receiver that knows this.
    """
    found: list[list[str]] = []
    for known in dict.fromkeys(lacking.values()):
        peers = [peer for peer, its in lacking.items() if its == known]
        chained = wanted == CHAIN or (wanted == AUTO and sizes[known] >= _LARGE)
        found += [peers] if chained else [[peer] for peer in peers]
    return found


def place(inventory: Inventory, peer: str) -> Place:
    """The place of a peer of the inventory. UsageError for a wrong address."""
    kinds = ("common", "extra")
    arguments = " ".join(str(inventory.variable(peer, f"ansible_ssh_{kind}_args") or "") for kind in kinds)
    given = str(inventory.own(peer, ADDRESS) or "")
    address, port = inventory.address(peer), inventory.port(peer) or 22
    return place_of(inventory.connection(peer), given, address, port, arguments)


@dataclass
class _Transfer:
    """The way of a bundle from ``sender`` to ``receiver``. key, opened: what their hosts have told; before,
    following: the transfers of a chain beside it."""

    sender: str
    receiver: str
    known: Known
    transport: str
    key: Answer = field(default_factory=dict)
    opened: Answer = field(default_factory=dict)
    before: _Transfer | None = None
    following: _Transfer | None = None

    @property
    def is_ready(self) -> bool:
        """Whether both hosts are ready for it, and all hosts before them."""
        return "path" in self.key and "path" in self.opened and (self.before is None or self.before.is_ready)

    def target(self, place: Place, seconds: int) -> dict[str, object]:
        """The receiver, as its sender needs to know it."""
        there = {"address": place.address, "port": place.port, "seconds": seconds}
        return {**there, "path": self.key["path"], "user": self.opened["user"], "host_keys": self.opened["host_keys"]}


@dataclass
class Direct:
    """Transfers of the checkpoint ``offered`` from the host ``source`` straight to peers, each at its place. Its MAC
    goes with each copy. seals: the keys of encrypted copies; timeout: seconds for a part."""

    inventory: Inventory
    source: Host
    carrier: Carrier
    offered: Mapping[str, Any]
    seals: Seals
    timeout: float
    places: Mapping[str, Place]

    @property
    def checkpoint(self) -> str:
        return str(self.offered["id"])

    @property
    def _seconds(self) -> int:
        """Seconds for which keys and admissions are good, and for which a sender sends."""
        return int(self.timeout) + 60

    def send(self, wanted: str, lacking: Mapping[str, Known]) -> dict[str, Answer]:
        """For each peer the answer of its receiver; or it has ``failed``, with ``msg`` and ``error``. ``transport``:
        the one that was tried. ``source_failed``: the source cannot give the checkpoint. ``final``: no other helps."""
        knowns = list(dict.fromkeys(lacking.values()))
        # Where a chain is wanted, all its hosts make their keys at once. Otherwise the sizes decide first.
        transfers = _transfers(self.source.name, groups(CHAIN, lacking, {}), lacking) if wanted == CHAIN else []
        heads = [one.receiver for one in transfers if one.before is None] or list(lacking)
        first = self._prepare(knowns, heads, transfers)
        if "sizes" in first and (len(first["sizes"]), len(first["hops"])) != (len(knowns), len(heads)):
            first = failed("its answer has no form of ours")
        if "sizes" not in first:
            self._clear(transfers)
            return {peer: _unsent(wanted, first) for peer in lacking}
        sizes = dict(zip(knowns, first["sizes"], strict=True))
        keys = dict(zip(heads, first["hops"], strict=True))
        if not transfers:
            transfers = _transfers(self.source.name, groups(wanted, lacking, sizes), lacking)
            self._keep_keys(transfers, self.inventory.at_once(self._key_works(transfers), self.timeout))
        for one in transfers:
            if one.before is None:
                one.key = keys.pop(one.receiver)
        self._open([one for one in transfers if "path" in one.key], sizes)
        told = self._carry([one for one in transfers if one.is_ready], sizes, [key["path"] for key in keys.values()])
        self._clear([one for one in transfers if told.get(one.receiver, {}).get("state") != "verified"])
        return {one.receiver: _judged(one, told) for one in transfers}

    def _prepare(self, knowns: Sequence[Known], heads: Sequence[str], transfers: Sequence[_Transfer]) -> Answer:
        """The answer of the source: the size of each bundle, and a key for each of these receivers. Hosts of a chain
        make theirs meanwhile."""
        hops = [[self.places[peer].address, self.places[peer].port] for peer in heads]
        sealing = {"seal": {"encrypt": True}} if self.seals else {}
        values = {"id": self.checkpoint, "known": list(knowns), "hops": hops, "seconds": self._seconds, **sealing}

        def prepare(host: Host) -> Answer:
            return self.carrier.phase(host, "prepare", **values)

        works = self._key_works(transfers)
        if not works:
            return prepare(self.source)
        own = self.source.name
        told = self.inventory.at_once({**works, own: partial(self._at, own, prepare)}, self.timeout)
        self._keep_keys(transfers, told)
        return told[own]

    def _clear(self, transfers: Sequence[_Transfer]) -> None:
        """Remove what may be left of transfers that did not succeed."""
        todo: dict[str, list[str]] = {}
        for one in transfers:
            for name, part in ((one.sender, one.key), (one.receiver, one.opened)):
                if "path" in part:
                    todo.setdefault(name, []).append(part["path"])
        if todo:
            self.inventory.at_once({name: partial(self._close, name, paths) for name, paths in todo.items()}, _CLEAR)

    def _close(self, name: str, paths: Sequence[str]) -> Answer:
        return self._at(name, lambda host: self.carrier.phase(host, "close", paths=list(paths)))

    def _key_works(self, transfers: Sequence[_Transfer]) -> dict[str, Callable[[], Answer]]:
        """By its receiver: a key on each peer that passes the bundle on."""

        def make(transfer: _Transfer, host: Host) -> Answer:
            place = self.places[transfer.receiver]
            hops = [[place.address, place.port]]
            values = {"id": self.checkpoint, "known": [], "hops": hops, "seconds": self._seconds}
            return self.carrier.phase(host, "prepare", **values)

        passing = [one for one in transfers if one.before is not None]
        return {one.receiver: partial(self._at, one.sender, partial(make, one)) for one in passing}

    def _keep_keys(self, transfers: Sequence[_Transfer], told: Mapping[str, Answer]) -> None:
        for one in transfers:
            if one.before is not None:
                answer = told[one.receiver]
                one.key = answer["hops"][0] if answer.get("hops") else answer

    def _open(self, transfers: Sequence[_Transfer], sizes: Mapping[Known, int]) -> None:
        """Let each sender in at its receiver, where there is room for the bundle."""

        def admit(transfer: _Transfer, host: Host) -> Answer:
            source = transfer.key["source"] if transfer.key["source"] == self.inventory.address(transfer.sender) else ""
            size = sizes[transfer.known]
            values = {"public": transfer.key["public"], "source": source, "seconds": self._seconds, "size": size}
            found = self.carrier.phase(host, "open", login=host.login(), **values)
            if not found.get("failed") and size > found["room"]:
                self.carrier.phase(host, "close", paths=[found["path"]])
                why = f"the bundle has {size} bytes, and there is room for {found['room']}: free some"
                return {**failed(why), "final": True}
            return found

        works = {one.receiver: partial(self._at, one.receiver, partial(admit, one)) for one in transfers}
        told = self.inventory.at_once(works, self.timeout) if works else {}
        for one in transfers:
            one.opened = told[one.receiver]

    def _carry(
        self, transfers: Sequence[_Transfer], sizes: Mapping[Known, int], unused: list[str]
    ) -> dict[str, Answer]:
        """Have all hosts send and take at the same time, and the source remove keys that nobody uses. Receiver -> its
        answer; "to <receiver>": its source's."""

        # A secret belongs to a single ciphertext, which may go along a chain. The processes that call sender and
        # receivers have to know the same one: it is made before them.
        seals: dict[str, Seals] = {}
        for one in transfers:
            seals[one.receiver] = seals[one.before.receiver] if one.before else Seals(self.seals.keys)
            seals[one.receiver].sealing(self.checkpoint, one.known)

        def send(transfer: _Transfer, host: Host) -> Answer:
            target = transfer.target(self.places[transfer.receiver], self._seconds)
            sealing = seals[transfer.receiver].sealing(self.checkpoint, transfer.known)
            return self.carrier.phase(host, "send", id=self.checkpoint, known=transfer.known, target=target, **sealing)

        def take(transfer: _Transfer, host: Host) -> Answer:
            size, after = sizes[transfer.known], transfer.following
            onward = after.target(self.places[after.receiver], self._seconds) if after and after.is_ready else None
            mac = self.offered.get("mac", "")
            values = {"path": transfer.opened["path"], "size": size, "mac": mac, "onward": onward}
            values.update(seals[transfer.receiver].receiving(self.offered, transfer.known))
            return self.carrier.phase(host, "take", id=self.checkpoint, **values)

        works: dict[str, Callable[[], Answer]] = {}
        for one in transfers:
            works[one.receiver] = partial(self._at, one.receiver, partial(take, one), one.following)
            if one.before is None:
                works[f"to {one.receiver}"] = partial(self._at, one.sender, partial(send, one), one)
        if unused:
            works[f"close {self.source.name}"] = partial(self._close, self.source.name, unused)
        return self.inventory.at_once(works, self.timeout)

    def _at(self, name: str, work: Callable[[Host], Answer], sending: _Transfer | None = None) -> Answer:
        """The answer of the host to the work. Where the work of ``sending`` does not succeed, its receiver is told."""
        host = self.inventory.connect(name)
        answer: Answer = {}
        try:
            answer = work(host)
        finally:
            host.close()
            if sending and sending.is_ready and (not answer or answer.get("failed") or answer.get("onward")):
                self._close(sending.receiver, [sending.opened["path"]])
        return answer


def _transfers(source: str, chains: Sequence[Sequence[str]], lacking: Mapping[str, Known]) -> list[_Transfer]:
    found: list[_Transfer] = []
    for chain in chains:
        transport = CHAIN if len(chain) > 1 else SSH
        made: list[_Transfer] = []
        for peer in chain:
            before = made[-1] if made else None
            made.append(_Transfer(before.receiver if before else source, peer, lacking[peer], transport, before=before))
            if before:
                before.following = made[-1]
        found += made
    return found


def _unsent(transport: str, told: Answer) -> Answer:
    """The answer for a peer where the source could not begin."""
    answer = failed(f"the source could not begin: {words(told.get('msg'))}")
    return {**answer, "transport": transport, "source_failed": told.get("error") == "Damaged"}


def _judged(transfer: _Transfer, told: Mapping[str, Answer]) -> Answer:
    """The answer for the receiver of a transfer, from all answers."""
    found: dict[str, object] = {"transport": transfer.transport}
    for begun in (transfer.key, transfer.opened):
        if "path" not in begun:
            return {**failed(words(begun.get("msg"))), **found, "final": bool(begun.get("final"))}
    if not transfer.is_ready:
        return {**failed(f"{transfer.sender}, which was to pass it on, could not"), **found}
    answer, sent = told[transfer.receiver], told.get(f"to {transfer.receiver}", {})
    if answer.get("state") == "verified":
        return {**answer, **found}
    if answer.get("unreachable"):
        # A receiver that passes its bundle on may have been held up by the next one.
        return {**answer, **found, "final": transfer.following is None}
    before = told.get(transfer.sender, {}) if transfer.before else {}
    reasons = [sent.get("msg"), before.get("onward") or before.get("msg"), answer.get("msg")]
    final = answer.get("error") == "Busy" or (answer.get("error") == "Damaged" and bool(transfer.known))
    why = "; ".join(words(reason) for reason in reasons if reason)
    broken = bool(sent.get("failed")) and sent.get("error") == "Damaged"
    return {**failed(why, str(answer.get("error"))), **found, "final": final, "source_failed": broken}
