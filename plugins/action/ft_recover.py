# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import STORE
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import reported as report
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.recover import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, EvenkeelError, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.recovering import identity
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durations import seconds
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.foreign import check_created, moment_of
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import meant
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _placement
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import (
    check_peers,
    check_variables,
    code_of,
    refused,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import few, first_names, words
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._arguments import checked
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._carry import Carrier
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._key import Keys
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import (
    PROBES_VARIABLE,
    RESOURCES_VARIABLE,
    Inventory,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._scratch import scratch_directory
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._seal import Seals

# The largest number of paths and reasons that a sentence names.
_FEW = 10
_ENTRY = ("peer", "id", "host", "name", "created", "state", "detail")
_KEEP, _TAKE = "keep", "take"
_SSH_KEYS = (b"/etc/ssh/ssh_host_", b"/etc/dropbear/dropbear_")
# The holder of copies whose store may be that of any other peer. No host has this name.
_NOBODY = "?"
# Seconds to wait for a host that should be gone.
_GONE = 30.0


@dataclass(frozen=True)
class Copy:
    """A copy that a peer offers, with its MAC: an entry of the result ``candidates``. ``holder``: the first name of the
    store of the peer, where another peer tells of the same store; ``_NOBODY`` where the peer does not tell its store
    from others."""

    peer: str
    id: str = ""
    host: str = ""
    name: str = ""
    created: str = ""
    state: str = "none"
    detail: str = ""
    mac: str = ""
    release: str = ""
    architecture: str = ""
    bytes: int = 0
    sealed: Any = None
    holder: str = ""

    def shown(self) -> dict[str, str]:
        """The entry, without the MAC, the records of an encrypted copy, and what only the choice of a spare needs."""
        return {key: str(getattr(self, key)) for key in _ENTRY}


class ActionModule(ActionBase):
    """Find the newest usable copy, carry it to the host of the task, and roll that host back to it."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        try:
            check_variables(task_vars or {})
            check_peers(self, task_vars or {})
            params = checked({**ARGUMENTS, "store": STORE}, self._task.args)
        except UsageError as error:
            return refused(error, candidates=[])
        try:
            recovery = Recovery(Inventory(self, task_vars or {}), params)
        except (EvenkeelError, AnsibleError) as error:
            return report({"failed": True, "msg": str(error), "error": code_of(error), "candidates": []})
        return report(recovery.run(self._task.check_mode))


class Recovery:
    """A recovery of the host ``owner`` onto the host ``here``: look for copies, bring the newest, roll back to it.

    Raises EvenkeelError or AnsibleError when the parameters name no peers, no time or no readable key.
    """

    def __init__(self, inventory: Inventory, params: Mapping[str, Any]) -> None:
        self._inventory = inventory
        self._here = inventory.here()
        self._owner = str(params["host"] or self._here.name)
        self._wanted = str(params["checkpoint"])
        self._store = params["store"]
        self._undeclared = bool(params["undeclared"])
        self._timeout = seconds(params["timeout"], "timeout")
        self._identity = params["identity"] or (_TAKE if self._owner == self._here.name else _KEEP)
        self._part = {key: params[key] for key in ("kinds", "paths") if params[key]}
        self._least = int(params["min_copies"])
        if self._least < 1:
            raise UsageError(f"min_copies is {self._least}, and must be 1 or more. Nothing was touched")
        self._onto = inventory.hosts_of(params["onto"]) if params["onto"] else []
        # A host that is lost holds no copy of itself, and to wait for it takes time.
        peers = [peer for peer in inventory.hosts_of(params["peers"]) if peer != self._owner]
        # A spare may hold a copy itself.
        self._peers = _placement.preference("", peers)
        self._keys = inventory.keys(self._owner)
        with suppress(AnsibleError):  # The host has left the inventory, and has no probes.
            inventory.refuse_facts(self._owner, [PROBES_VARIABLE])
        self._seals = inventory.seals(self._owner)
        declared = inventory.resources(self._owner)
        self._declared = declared if self._undeclared else _declared(declared)
        self._carrier = Carrier("ft_recover", self._owner, lambda name: inventory.store(name, self._store))
        # The result so far, in success and in failure.
        self._started = time.monotonic(), time.time()
        self._mine = ""
        self._candidates: list[Copy] = []
        self._left: list[str] = []
        self._warnings: list[str] = []

    def run(self, check_mode: bool) -> Answer:
        """The result of the module. Nothing but the store of ``here`` is changed before all that can refuse has not."""
        self._gather()
        known = choose(self._candidates, self._wanted)
        usable = [copies for copies in known if _holders(copies) >= self._least]
        if not usable:
            return self._nothing_found(known)
        newest = usable[0]
        proved = newest[0].state == "verified"
        self._warnings = [
            *_too_few(known[: known.index(newest)], self._least),
            *_warnings(newest, self._owner, self._wanted, proved, self._declared),
        ]
        self._left += self._warnings
        # The smallest size counts: no peer alone makes a checkpoint too large.
        first = replace(newest[0], bytes=min(copy.bytes for copy in newest))
        if self._onto:
            return self._chosen(first, proved)
        refusal, held = self._survey_here(first, proved)
        if refusal:
            return self._failure(refusal, "Refused", newest[0])
        if check_mode:
            return self._predicted(newest[0], held)
        # A run before may have ended after it had brought the copy.
        mine = replace(newest[0], peer=self._here.name)
        source, refused_here = (mine, {}) if held else self._bring(usable, proved)
        if source is None:
            return {**self._found(newest[0]), **(refused_here or self._nothing_brought())}
        if source.id != newest[0].id:
            older = f"the newest checkpoint, {newest[0].id[:12]}, could not be brought: this is an older checkpoint"
            self._left.insert(0, older)
            self._warnings.insert(0, older)
        return self._restore(source)

    def _gather(self) -> None:
        """Ask each peer for its copies, and judge them."""
        told = self._inventory.each(self._peers, lambda host: self._carrier.phase(host, "candidates"), self._timeout)
        names = first_names({peer: told[peer] for peer in self._peers})
        nowhere = [peer for peer in self._peers if "candidates" in told[peer] and not told[peer].get("place")]
        # The store decides on the number of holders alone: each copy is proved.
        self._candidates = [
            replace(_judged(copy, self._owner, self._keys), holder=names[peer] if peer not in nowhere else _NOBODY)
            for peer in self._peers
            for copy in _found(peer, told[peer], self._seals)
        ]
        twins = [
            f"{peer}: it is {other} under another name, by its store: both count as one holder"
            for peer, other in names.items()
            if peer != other
        ]
        twins += [f"{peer}: nobody can tell its store from others, so that it is no further holder" for peer in nowhere]
        wrong = [
            f"{copy.peer}: {copy.state} {copy.id[:12]} {copy.detail}".replace("  ", " ")
            for copy in self._candidates
            if copy.state not in ("verified", "none")
        ]
        self._left = few([*twins, *wrong])

    def _entries(self) -> list[dict[str, str]]:
        return [copy.shown() for copy in self._candidates]

    def _found(self, copy: Copy) -> dict[str, Any]:
        """The result, as far as a copy alone tells it."""
        return {
            "candidates": self._entries(),
            "id": copy.id,
            "created": copy.created,
            "age": max(0, round(self._started[1] - moment_of(copy.created).timestamp())) if copy.created else None,
            "identity": self._identity,
            "planned": [_plan(self._owner, copy)],
            "left": self._left,
            **({"warnings": self._warnings} if self._warnings else {}),
        }

    def _failure(self, msg: str, error: str, copy: Copy) -> Answer:
        return {**self._found(copy), "failed": True, "msg": msg, "error": error}

    def _nothing_found(self, known: Sequence[Sequence[Copy]]) -> Answer:
        few = f" min_copies asks for {self._least}: {'; '.join(_too_few(known, self._least)[:_FEW])}." if known else ""
        return {
            "failed": True,
            "error": "NotFound",
            "msg": f"No peer has a verified copy of checkpoint {self._wanted} of {self._owner}"
            f"{' often enough' if known else ''}. Nothing was changed.{few} {_inventory_of(self._candidates)}"
            f"{_about_keys(self._candidates, self._keys)}",
            "candidates": self._entries(),
            "left": self._left,
        }

    def _nothing_brought(self) -> Answer:
        return {
            "failed": True,
            "error": "EvenkeelError",
            "msg": f"No copy of a checkpoint of {self._owner} could be brought here, and none of its files was"
            f" changed: {'; '.join(self._left)}",
        }

    def _chosen(self, copy: Copy, proved: bool) -> Answer:
        """The first of the hosts ``onto`` that can take the place of the owner. Nothing is changed."""
        hosts = [host for host in self._onto if host != self._owner]
        asked = {"id": copy.id, **self._terms(proved), "elsewhere": True}
        told = self._inventory.each(hosts, lambda host: self._carrier.phase(host, "survey", **asked), self._timeout)
        unfit = {host: self._is_owner(host, told[host]) or _unfit(told[host], copy, host) for host in hosts}
        fitting = [host for host, why in unfit.items() if not why]
        # A run before may have begun on one of them.
        fit = next((host for host in fitting if told[host]["stands_for"] == copy.host), next(iter(fitting), ""))
        others = [f"{host}: {why}" for host, why in unfit.items() if why]
        if not fit:
            why = "; ".join(few(others)) or "the spares are no host but the lost one"
            return self._failure(
                f"No spare can take the place of {self._owner}: {why}. Nothing was changed", "Refused", copy
            )
        return {**self._found(copy), "changed": False, "onto": fit, "left": [*self._left, *few(others)]}

    def _terms(self, proved: bool) -> dict[str, Any]:
        """The terms on which ``here`` takes a copy."""
        terms: dict[str, Any] = {"elsewhere": self._is_elsewhere()}
        if not self._undeclared and not (self._declared is None and proved):
            terms.update(declared=self._declared or [], proved=proved)
        return terms

    def _survey_here(self, copy: Copy, proved: bool) -> tuple[str, bool]:
        """(why ``here`` must not be put back now, or an empty text; whether its store has the checkpoint)."""
        told = self._carrier.phase(self._here, "survey", id=copy.id, **self._terms(proved))
        if told.get("failed"):
            return f"{self._here.name} cannot be looked at: {told.get('msg')}. Nothing was changed", False
        # A recovery of the host itself ends a doubt there.
        own = self._is_owner(self._here.name, told)
        if own:
            return f"{own}: recover {self._owner} onto itself. Nothing was changed", False
        why = self._seems_owner(self._here.name, told)
        if why:
            self._warnings.append(f"{self._here.name}: {why}")
            self._left.append(self._warnings[-1])
        obstacle = (told["obstacle"] if self._is_elsewhere() else told["waits"]) or _no_room(told, copy)
        self._mine = str(told["host"])
        another = _stands_for(told, copy, self._here.name)
        if another:
            self._warnings.append(f"{self._here.name} stands in for {another}, and loses the state of {another} now")
            self._left.append(self._warnings[-1])
        why = f"{self._here.name}: {obstacle}" if obstacle else self._still_there()
        return (f"{why}. Nothing was changed" if why else ""), bool(told["held"])

    def _is_owner(self, host: str, told: Answer) -> str:
        """Why a host is the lost one under another name: one store answers to both; empty where that is not known."""
        if not told.get("place") or not self._seems_owner(host, told):
            return ""
        is_same = self._ask_owner().get("place") == told["place"]
        return f"{host} is {self._owner} under another name (one store answers to both)" if is_same else ""

    def _seems_owner(self, host: str, told: Answer) -> str:
        """Why a host may be the lost one under another name, or a copy of it; empty without a reason."""
        if host == self._owner:
            return ""
        if told.get("taken"):
            return f"its store has that checkpoint as its own: it may be {self._owner}, or a copy of its disk"
        if self._inventory.share_address(host, self._owner):
            return f"{self._owner} has the same address: it may be {self._owner}, or have come in its place"
        return ""

    def _ask_owner(self) -> Answer:
        """The answer of the lost host, by its name; empty where it has left the inventory: there is nothing to ask."""
        try:
            (owner,) = self._inventory.hosts_of([self._owner])
        except (AnsibleError, ValueError):
            return {}
        return self._inventory.each([owner], lambda host: self._carrier.phase(host, "survey"), _GONE)[owner]

    def _is_elsewhere(self) -> bool:
        return self._owner != self._here.name

    def _still_there(self) -> str:
        """Why the lost host is not lost, where ``here`` is to become it; an empty text where nothing answers in its
        name, or only ``here`` does."""
        if self._identity != _TAKE or not self._is_elsewhere():
            return ""
        told, owner = self._ask_owner(), self._owner
        if told.get("unreachable"):
            place = self._open_port(owner)
            return (
                f"something answers at {place}, the address of {owner}, though it does not let the controller in: two "
                f"hosts must not be {owner}. Shut it down, or recover with identity: keep"
                if place
                else ""
            )
        if not told or told.get("host") == self._mine:
            return ""
        return f"{owner} still answers: two hosts must not be {owner}. Shut it down, or recover with identity: keep"

    def _open_port(self, owner: str) -> str:
        """The address and port of a host where something accepts connections; empty where nothing does."""
        if self._inventory.is_here(owner):
            return ""
        address = self._inventory.address(owner)
        port = int(str(self._inventory.port(owner) or 22))
        try:
            socket.create_connection((address, port), 5).close()
        except OSError:
            return ""
        return f"{address} port {port}"

    def _predicted(self, copy: Copy, has_copy: bool) -> Answer:
        """The result in check mode: what is left out is known only where the host has the checkpoint already."""
        found = {**self._found(copy), "changed": True, "source": copy.peer, "left_out": []}
        if has_copy:
            made = self._prepare(copy)
            if made.get("failed"):
                return {**found, "failed": True, "msg": made["msg"], "error": made["error"]}
            found["left_out"] = made["left_out"]
            self._warn(made)
            found.update(left=self._left, **({"warnings": self._warnings} if self._warnings else {}))
        return found

    def _bring(self, usable: Sequence[Sequence[Copy]], proved: bool) -> tuple[Copy | None, Answer]:
        """Bring a copy into the store of ``here``: the copy or None, and the answer of ``here`` if it refuses all."""
        limits = self._terms(proved)
        with scratch_directory() as scratch:
            for copies in usable:
                too_large: Answer = {}
                for copy in copies:
                    got = self._carry(copy, scratch, limits)
                    if not got.get("failed") and not got.get("unreachable"):
                        return copy, {}
                    if got.get("refused_here"):
                        return None, {key: value for key, value in got.items() if key != "refused_here"}
                    self._left.append(f"{copy.peer}: {copy.id[:12]}: {words(got.get('msg'))}")
                    too_large = (
                        {key: got[key] for key in ("failed", "msg", "error")} if got.get("no_room") else too_large
                    )
                if too_large:  # An older checkpoint may be smaller, and nobody has asked for it.
                    return None, too_large
        return None, {}

    def _carry(self, copy: Copy, scratch: str, limits: Mapping[str, Any]) -> Answer:
        """Fetch a copy from its peer and give it to ``here``; the answer of the host that failed, or of ``here``."""
        peer, checkpoint = copy.peer, copy.id
        path = os.path.join(scratch, f"bundle-{os.urandom(8).hex()}")
        try:
            fetching = self._seals.fetching(copy.sealed)
            got = self._inventory.each(
                [peer], lambda host: self._carrier.fetch(host, checkpoint, [], True, path, **fetching), self._timeout
            )[peer]
            if got.get("failed") or got.get("unreachable"):
                return got
            more = {**limits, **self._seals.adopting(copy.sealed)}
            got = self._carrier.deliver(self._here, "adopt", checkpoint, path, **more)
            is_refused = bool(got.get("failed")) and got["error"] in ("Refused", "UsageError", "Busy")
            return {**got, "refused_here": True} if is_refused and not got.get("no_room") else got
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _prepare(self, source: Copy) -> Answer:
        """Have ``here`` make the checkpoint to go back to, from the one in its store."""
        how = {"identity": self._identity, "elsewhere": self._is_elsewhere()}
        return self._carrier.phase(self._here, "derive", id=source.id, **how, **self._part)

    def _warn(self, made: Answer) -> None:
        """Take the warnings of ``here`` over, and name what stays as it is there."""
        out = made["left_out"]
        more = f" and {len(out) - _FEW} more" if len(out) > _FEW else ""
        said = [f"stays as it is on {self._here.name}: {', '.join(out[:_FEW])}{more}"] if out else []
        self._warnings = [*self._warnings, *said, *made["notes"]]
        self._left = [*self._left, *made["notes"]]

    def _restore(self, source: Copy) -> Answer:
        made = self._prepare(source)
        if made.get("failed"):
            return {**self._failure(made["msg"], made["error"], source), "source": source.peer}
        why = self._still_there()  # Bringing the copy may have taken hours.
        if why:
            return self._failure(f"{why}. Nothing but the store of Evenkeel was changed", "Refused", source)
        self._warn(made)
        result = self._here.module("ft_rollback", checkpoint=made["id"], store=self._store, **self._part)
        warnings = [*self._warnings, *self._taken(result), *result.get("warnings", [])]
        took = round(time.monotonic() - self._started[0], 1)
        found = self._found(source)
        said = [
            f"recovered {self._owner} onto {self._here.name} from checkpoint {source.name} ({source.id[:12]}) of"
            f" {source.created} on {source.peer}, {_age(found['age'])} old, in {took:.0f} s"
        ]
        changed = bool(result.get("changed")) and not result.get("failed")
        return {
            **result,
            **{key: found[key] for key in ("candidates", "created", "age", "identity")},
            **({"warnings": warnings} if warnings else {}),
            "source": source.peer,
            "id": source.id,
            "restored": made["id"],
            "seconds": took,
            "left_out": made["left_out"],
            "planned": [_plan(self._owner, source), *result.get("planned", [])],
            "done": [
                *(said if changed else []),
                f"took checkpoint {source.id[:12]} from {source.peer}",
                *result.get("done", []),
            ],
            "left": [*self._left, *result.get("left", [])],
        }

    def _taken(self, result: Answer) -> list[str]:
        """Sentences on parts of the identity that were taken: some count from a boot on, by others a host is known."""
        if self._identity != _TAKE:
            return []
        targets = [str(step.get("target", "")) for step in result.get("done", []) if isinstance(step, dict)]
        owned = [own for own in map(identity.own, map(os.fsencode, targets)) if own is not None]
        late = list(dict.fromkeys(own.part.name for own in owned if own.part.at_boot))
        said = [f"{self._here.name} owes a reboot: {', '.join(late)} count from the next boot on"] if late else []
        if "cloud-init" in late and self._is_elsewhere():
            said.append(
                f"cloud-init may take {self._here.name} for another instance at the next boot, and make other SSH keys"
                " and another name: if that is not to be, make the file /etc/cloud/cloud-init.disabled there"
            )
        if any(own.top.startswith(_SSH_KEYS) for own in owned):
            whose = f"the SSH keys of {self._owner}" if self._is_elsewhere() else "its recorded SSH keys"
            said.append(
                f"{self._here.name} has {whose} now, and shows them to new connections: correct known_hosts of the"
                " controller"
            )
        return said


def _age(age: float | None) -> str:
    """An age in words."""
    if age is None:
        return "of unknown age,"
    for size, word in ((86400, "days"), (3600, "h"), (60, "min")):
        if age >= 2 * size:
            return f"{age / size:.0f} {word}"
    return f"{age:.0f} s"


def _holders(copies: Sequence[Copy]) -> int:
    """The number of stores that have these copies."""
    found = {copy.holder or copy.peer for copy in copies}
    return len(found - {_NOBODY}) or len(found)


def _too_few(known: Sequence[Sequence[Copy]], least: int) -> list[str]:
    """A sentence on each checkpoint that too few peers hold."""
    return [
        f"checkpoint {copies[0].id[:12]} of {copies[0].created} is left aside: {_holders(copies)} of"
        f" {least} peers hold a verified copy"
        for copies in known
    ]


def _stands_for(told: Answer, copy: Copy, host: str) -> str:
    """The host, but for that of the copy, in whose place ``host`` stands, by its own answer; empty for none."""
    return "" if told["stands_for"] in (copy.host, host) else str(told["stands_for"])


def _no_room(told: Answer, copy: Copy) -> str:
    """Why a host has no room for the copy, by its own answer; empty where it has room, or has it already."""
    if told["held"] or copy.bytes <= told["room"]:
        return ""
    return f"it has room for {told['room']} bytes, and the copy of {copy.created} takes {copy.bytes}: free some"


def _unfit(told: Answer, copy: Copy, host: str) -> str:
    """Why the spare ``host`` cannot take the copy, by its own answer; empty where it can."""
    if told.get("unreachable") or told.get("failed"):
        return words(told.get("msg"))
    if told["obstacle"]:
        return str(told["obstacle"])
    another = _stands_for(told, copy, host)
    if another:
        return f"it stands in for {another}; if it is free again, name it"
    if why := _no_room(told, copy):
        return why
    for name in ("release", "architecture"):
        then = getattr(copy, name)
        if then and then != told[name]:
            return f"it has {told[name]}, and {copy.host} had {then}"
    return ""


def _declared(resources: Any) -> Any:
    """The resources that the inventory declares, each value of its type. UsageError names a wrong value."""
    if resources is None:
        return None
    return checked({RESOURCES_VARIABLE: registry.OPTION}, {RESOURCES_VARIABLE: resources})[RESOURCES_VARIABLE]


def _plan(owner: str, copy: Copy) -> str:
    return f"recover {owner} from checkpoint {copy.name} ({copy.id[:12]}) of {copy.created}"


def _found(peer: str, answer: Answer, seals: Seals) -> list[Copy]:
    """The copies that a peer offers."""
    for state in ("unreachable", "failed"):
        if answer.get(state):
            return [Copy(peer, state=state, detail=words(answer.get("msg")))]
    return [Copy(peer, **entry) for entry in seals.opened(answer.get("candidates", []))] or [Copy(peer)]


def _judged(copy: Copy, owner: str, keys: Keys) -> Copy:
    """The copy with the verdict of the controller: an intact copy is not enough, because a peer can make one up."""
    if copy.state != "verified":
        return copy
    try:
        check_created(copy.created, time.time())
    except Damaged as error:
        return replace(copy, state="refused", detail=error.message)
    return copy if keys.know(owner, asdict(copy)) else replace(copy, state="unproved")


def choose(candidates: Sequence[Copy], wanted: str) -> list[list[Copy]]:
    """The verified copies of each checkpoint that ``wanted`` can mean, newest first, each in the order given.

    wanted: as in every store (``meant``). An unproved copy is meant by its whole id alone: anybody can choose the
    beginning of its id, its name and its date.
    """
    proved = sorted((one.created, one.id, one.name) for one in candidates if one.state == "verified")
    ids = meant(wanted, [(name, checkpoint) for _created, checkpoint, name in proved])
    found: dict[str, list[Copy]] = {}
    for copy in candidates:
        if (copy.state == "verified" and copy.id in ids) or (copy.state == "unproved" and copy.id == wanted):
            found.setdefault(copy.id, []).append(copy)
    # The proved copies of a checkpoint come first: one proof is a proof of the checkpoint, and of its date.
    groups = [sorted(copies, key=lambda one: one.state != "verified") for copies in found.values()]
    return sorted(groups, key=lambda copies: (copies[0].created, copies[0].id), reverse=True)


def _warnings(copies: Sequence[Copy], owner: str, wanted: str, proved: bool, declared: Any) -> list[str]:
    first = copies[0]
    found = []
    if not proved:
        found.append(
            f"only the id that you gave says that checkpoint {first.id} belongs to {owner}: no copy has a MAC of ours."
            f" Protect {owner} again"
        )
    elif declared is None:
        found.append(
            f"the inventory declares nothing for {owner} ({RESOURCES_VARIABLE}): the whole checkpoint is restored"
        )
    if _holders(copies) == 1 and wanted != first.id:
        found.append(f"only {first.peer} has the newest checkpoint, {first.id[:12]} of {first.created}")
    return found


def _about_keys(candidates: Sequence[Copy], keys: Keys) -> str:
    unproved = list(dict.fromkeys(copy.id for copy in candidates if copy.state == "unproved"))
    if not unproved:
        return ""
    why = "have no MAC that was made with a key of " + keys.where if keys else f"cannot be proved ({keys.where})"
    return (
        f" The unproved copies {why}: a peer may have made them up. If you know that a copy is right, ask for it by its"
        f" whole id: {', '.join(unproved[:5])}{' …' if len(unproved) > 5 else ''}."
    )


def _inventory_of(candidates: Sequence[Copy]) -> str:
    if not candidates:
        return "There is no peer besides this host: name the hosts that may hold a copy."
    held = [
        f"{copy.peer}: " + " ".join(filter(None, (copy.state, copy.name[:300], copy.created, copy.detail[:300])))
        for copy in candidates
    ]
    return "Found: " + "; ".join(few(held)) + "."
