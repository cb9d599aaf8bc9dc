# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import STORE
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import reported as report
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.recover import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, EvenkeelError, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durations import seconds
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.foreign import check_created
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import meant
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _placement
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import (
    check_peers,
    check_variables,
    refused,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import words
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._arguments import checked
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._carry import Carrier
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._key import Keys
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import (
    RESOURCES_VARIABLE,
    Inventory,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._scratch import scratch_directory
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._seal import Seals

# The largest number of candidates that messages name.
_SHOWN = 50


@dataclass(frozen=True)
class Copy:
    """A copy that a peer offers, with its MAC: an entry of the result ``candidates``."""

    peer: str
    id: str = ""
    host: str = ""
    name: str = ""
    created: str = ""
    state: str = "none"
    detail: str = ""
    mac: str = ""
    sealed: Any = None

    def shown(self) -> dict[str, str]:
        """The entry, without the MAC and the records of an encrypted copy."""
        return {key: value for key, value in asdict(self).items() if key not in ("mac", "sealed")}


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
            return report({"failed": True, "msg": str(error), "error": "UsageError", "candidates": []})
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
        self._peers = _placement.preference(self._here.name, inventory.hosts_of(params["peers"]))
        self._keys = inventory.keys(self._owner)
        self._seals = inventory.seals(self._owner)
        declared = inventory.resources(self._owner)
        self._declared = declared if self._undeclared else _declared(declared)
        self._carrier = Carrier("ft_recover", self._owner, lambda name: inventory.store(name, self._store))
        # The result so far, in success and in failure.
        self._candidates: list[Copy] = []
        self._left: list[str] = []
        self._warnings: list[str] = []

    def run(self, check_mode: bool) -> Answer:
        """The result of the module. Nothing is changed before a whole checkpoint is in the store of ``here``."""
        self._gather()
        usable = choose(self._candidates, self._wanted)
        if not usable:
            return self._nothing_found()
        newest = usable[0]
        proved = newest[0].state == "verified"
        self._warnings = _warnings(newest, self._owner, self._wanted, proved, self._declared)
        self._left += self._warnings
        found: dict[str, Any] = {
            "candidates": self._entries(),
            "id": newest[0].id,
            "planned": [_plan(self._owner, newest[0])],
            "left": self._left,
            **({"warnings": self._warnings} if self._warnings else {}),
        }
        if check_mode:
            return {**found, "changed": True, "source": newest[0].peer}
        source, refusal = self._bring(usable, proved)
        if source is None:
            return {**found, **(refusal or self._nothing_brought())}
        return self._roll_back(source, found["id"])

    def _gather(self) -> None:
        """Ask each peer for its copies, and judge them."""
        told = self._inventory.each(self._peers, lambda host: self._carrier.phase(host, "candidates"), self._timeout)
        self._candidates = [
            _judged(copy, self._owner, self._keys)
            for peer in self._peers
            for copy in _found(peer, told[peer], self._seals)
        ]
        wrong = [
            f"{copy.peer}: {copy.state} {copy.id[:12]} {copy.detail}".replace("  ", " ")
            for copy in self._candidates
            if copy.state not in ("verified", "none")
        ]
        self._left = _some(wrong)

    def _entries(self) -> list[dict[str, str]]:
        return [copy.shown() for copy in self._candidates]

    def _nothing_found(self) -> Answer:
        return {
            "failed": True,
            "error": "NotFound",
            "msg": f"No peer has a verified copy of checkpoint {self._wanted} of {self._owner}."
            f" Nothing was changed. {_inventory_of(self._candidates)}{_about_keys(self._candidates, self._keys)}",
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

    def _bring(self, usable: Sequence[Sequence[Copy]], proved: bool) -> tuple[Copy | None, Answer]:
        """Bring a copy into the store of ``here``: the copy or None, and the answer of ``here`` if it refuses all."""
        limits: dict[str, Any] = {}
        if not self._undeclared and not (self._declared is None and proved):
            limits = {"declared": self._declared or [], "proved": proved}
        with scratch_directory() as scratch:
            for copy in (copy for copies in usable for copy in copies):
                got = self._carry(copy, scratch, limits)
                if not got.get("failed") and not got.get("unreachable"):
                    return copy, {}
                if got.get("refused_here"):
                    return None, {key: value for key, value in got.items() if key != "refused_here"}
                self._left.append(f"{copy.peer}: {copy.id[:12]}: {words(got.get('msg'))}")
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
            return {**got, "refused_here": True} if is_refused else got
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _roll_back(self, source: Copy, newest: str) -> Answer:
        checkpoint = source.id
        if checkpoint != newest:
            older = f"the newest checkpoint, {newest[:12]}, could not be brought: this is an older checkpoint"
            self._left.insert(0, older)
            self._warnings.insert(0, older)
        result = self._here.module("ft_rollback", checkpoint=checkpoint, store=self._store)
        warnings = [*self._warnings, *result.get("warnings", [])] if self._warnings else []
        return {
            **result,
            **({"warnings": warnings} if warnings else {}),
            "candidates": self._entries(),
            "source": source.peer,
            "id": checkpoint,
            "planned": [_plan(self._owner, source), *result.get("planned", [])],
            "done": [f"took checkpoint {checkpoint[:12]} from {source.peer}", *result.get("done", [])],
            "left": [*self._left, *result.get("left", [])],
        }


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
    if len(copies) == 1 and wanted != first.id:
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
    return "Found: " + "; ".join(_some(held)) + "."


def _some(said: list[str]) -> list[str]:
    """The first sentences, as many as a person reads: a peer can make up any number."""
    return said if len(said) <= _SHOWN else [*said[:_SHOWN], f"and {len(said) - _SHOWN} more"]
