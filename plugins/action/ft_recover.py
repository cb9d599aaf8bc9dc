# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import STORE
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import reported as report
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._duration import seconds
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, EvenkeelError, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._foreign import check_created
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import meant
from ansible_collections.evenkeel.fault_tolerance.plugins.modules.ft_recover import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _placement
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import (
    check_peers,
    check_variables,
    refused,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import words
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._arguments import checked
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._carry import Carrier
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._key import Keys
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import (
    RESOURCES_VARIABLE,
    Host,
    Inventory,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._scratch import scratch_directory

# Candidates that messages name.
_SHOWN = 50


class ActionModule(ActionBase):
    """Find the newest copy that holds, carry it to the host of the task, and roll that back to it."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        try:
            check_variables(task_vars or {})
            check_peers(self, task_vars or {})
            params = checked({**ARGUMENTS, "store": STORE}, self._task.args)
        except UsageError as error:
            return refused(error, candidates=[])
        inventory = Inventory(self, task_vars or {})
        here = inventory.here()
        owner = params["host"] or here.name
        try:
            timeout = seconds(params["timeout"], "timeout")
            peers = _placement.preference(here.name, inventory.hosts_of(params["peers"]))
            keys = inventory.keys(owner)
            declared = _declared(inventory.resources(owner))
        except (EvenkeelError, AnsibleError) as error:
            return report({"failed": True, "msg": str(error), "error": "UsageError", "candidates": []})

        carrier = Carrier("ft_recover", owner, lambda name: inventory.store(name, params["store"]))
        told = inventory.each(peers, lambda host: carrier.phase(host, "candidates"), timeout)
        candidates = [_judged(entry, owner, keys) for peer in peers for entry in _found(peer, told[peer])]
        wrong = [
            f"{entry['peer']}: {entry['state']} {str(entry['id'])[:12]} {entry['detail']}".replace("  ", " ")
            for entry in candidates
            if entry["state"] not in ("verified", "none")
        ]
        left = _some(wrong)
        usable = choose(candidates, params["checkpoint"])
        if not usable:
            return report(
                {
                    "failed": True,
                    "error": "NotFound",
                    "msg": f"No peer has a verified copy of checkpoint {params['checkpoint']} of {owner}."
                    f" Nothing was changed. {_inventory_of(candidates)}{_about_keys(candidates, keys)}",
                    "candidates": candidates,
                    "left": left,
                }
            )
        newest = usable[0]
        proved = newest[0]["state"] == "verified"
        warnings = _warnings(newest, owner, params["checkpoint"], proved, declared)
        left += warnings
        planned = [_plan(owner, newest[0])]
        found: dict[str, Any] = {
            "candidates": candidates,
            "id": newest[0]["id"],
            "planned": planned,
            "left": left,
            **({"warnings": warnings} if warnings else {}),
        }
        if self._task.check_mode:
            return report({**found, "changed": True, "source": newest[0]["peer"]})
        if params["undeclared"] or (declared is None and proved):
            limits: dict[str, Any] = {}
        else:
            limits = {"declared": declared or [], "proved": proved}
        source: dict[str, Any] | None = None
        with scratch_directory() as scratch:
            for copies in usable:
                source, why, stopped = _bring(inventory, here, carrier, copies, scratch, timeout, limits)
                left += why
                if stopped:
                    return report({**found, **stopped})
                if source is not None:
                    break
        if source is None:
            return report(
                {
                    **found,
                    "failed": True,
                    "error": "EvenkeelError",
                    "msg": f"No copy of a checkpoint of {owner} could be brought here, and none of its files was"
                    f" changed: {'; '.join(left)}",
                }
            )
        checkpoint = source["id"]
        if checkpoint != found["id"]:
            older = f"the newest checkpoint, {found['id'][:12]}, could not be brought: this is an older one"
            left.insert(0, older)
            warnings.insert(0, older)
        result = here.module("ft_rollback", checkpoint=checkpoint, store=params["store"])
        return report(
            {
                **result,
                **({"warnings": [*warnings, *result.get("warnings", [])]} if warnings else {}),
                "candidates": candidates,
                "source": source["peer"],
                "id": checkpoint,
                "planned": [_plan(owner, source), *result.get("planned", [])],
                "done": [f"took checkpoint {checkpoint[:12]} from {source['peer']}", *result.get("done", [])],
                "left": [*left, *result.get("left", [])],
            }
        )


def _declared(resources: Any) -> Any:
    """What the inventory declares, with each value of its type. UsageError names what is wrong with it."""
    if resources is None:
        return None
    return checked({RESOURCES_VARIABLE: registry.OPTION}, {RESOURCES_VARIABLE: resources})[RESOURCES_VARIABLE]


def _plan(owner: str, entry: dict[str, Any]) -> str:
    return f"recover {owner} from checkpoint {entry['name']} ({entry['id'][:12]}) of {entry['created']}"


def _found(peer: str, answer: dict[str, Any]) -> list[dict[str, Any]]:
    """What a peer said it holds, as entries of the result."""
    nothing = {"peer": peer, "id": "", "host": "", "name": "", "created": "", "mac": "", "state": "none", "detail": ""}
    for state in ("unreachable", "failed"):
        if answer.get(state):
            return [{**nothing, "state": state, "detail": words(answer.get("msg"))}]
    return [{**nothing, **entry} for entry in answer.get("candidates", [])] or [nothing]


def _judged(entry: dict[str, Any], owner: str, keys: Keys) -> dict[str, Any]:
    """The entry as the controller sees it: whole is not enough, a peer can make whole ones. Without its MAC."""
    found = {key: value for key, value in entry.items() if key != "mac"}
    if entry["state"] != "verified":
        return found
    try:
        check_created(entry["created"], time.time())
    except Damaged as error:
        return {**found, "state": "refused", "detail": error.message}
    return found if keys.know(owner, entry) else {**found, "state": "unproved"}


def choose(candidates: Sequence[dict[str, Any]], wanted: str) -> list[list[dict[str, Any]]]:
    """The verified copies of each checkpoint that ``wanted`` can mean, newest first, each in the order given.

    wanted: as in every store (``meant``). Of the unproved ones only a whole id means one: its beginning, its name and
    its date are what anybody likes to give it.
    """
    proved = sorted((one["created"], one["id"], one["name"]) for one in candidates if one["state"] == "verified")
    ids = meant(wanted, [(name, checkpoint) for _created, checkpoint, name in proved])
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in candidates:
        if (entry["state"] == "verified" and entry["id"] in ids) or (
            entry["state"] == "unproved" and entry["id"] == wanted
        ):
            found.setdefault(entry["id"], []).append(entry)
    # Of one checkpoint the proved copies come first: what proves one proves the checkpoint, and its date.
    groups = [sorted(copies, key=lambda one: one["state"] != "verified") for copies in found.values()]
    return sorted(groups, key=lambda copies: (copies[0]["created"], copies[0]["id"]), reverse=True)


def _warnings(copies: Sequence[dict[str, Any]], owner: str, wanted: str, proved: bool, declared: Any) -> list[str]:
    first = copies[0]
    found = []
    if not proved:
        found.append(
            f"nothing but its id says that checkpoint {first['id']} is one of {owner}: no copy has a MAC of ours."
            f" Protect {owner} again"
        )
    elif declared is None:
        found.append(
            f"the inventory declares nothing for {owner} ({RESOURCES_VARIABLE}): all of the checkpoint is restored"
        )
    if len(copies) == 1 and wanted != first["id"]:
        found.append(f"only {first['peer']} has the newest checkpoint, {first['id'][:12]} of {first['created']}")
    return found


def _about_keys(candidates: Sequence[dict[str, Any]], keys: Keys) -> str:
    unproved = list(dict.fromkeys(entry["id"] for entry in candidates if entry["state"] == "unproved"))
    if not unproved:
        return ""
    why = "have no MAC that was made with a key of " + keys.where if keys else f"cannot be proved ({keys.where})"
    return (
        f" The unproved ones {why}: a peer may have made them up. Where you know that one is right, ask for it by its"
        f" whole id: {', '.join(unproved[:5])}{' …' if len(unproved) > 5 else ''}."
    )


def _inventory_of(candidates: Sequence[dict[str, Any]]) -> str:
    if not candidates:
        return "There is no peer besides this host: name those that may hold a copy."
    held = [
        f"{entry['peer']}: "
        + " ".join(str(entry[key])[:300] for key in ("state", "name", "created", "detail") if entry[key])
        for entry in candidates
    ]
    return "Found: " + "; ".join(_some(held)) + "."


def _some(said: list[str]) -> list[str]:
    """As many as a person reads: a peer can have made up any number."""
    return said if len(said) <= _SHOWN else [*said[:_SHOWN], f"and {len(said) - _SHOWN} more"]


def _bring(
    inventory: Inventory,
    here: Host,
    carrier: Carrier,
    copies: Sequence[dict[str, Any]],
    scratch: str,
    timeout: float,
    limits: dict[str, Any],
) -> tuple[dict[str, Any] | None, list[str], dict[str, Any]]:
    """Which of the ``copies`` of a checkpoint is in the store of ``here`` now; why others were passed over; and how
    ``here`` refuses all of them. ``limits``: within which it takes one."""
    why: list[str] = []
    for entry in copies:
        peer, checkpoint = entry["peer"], entry["id"]
        local = os.path.join(scratch, f"bundle-{os.urandom(8).hex()}")

        def fetch(host: Host, checkpoint: str = checkpoint, path: str = local) -> dict[str, Any]:
            return carrier.fetch(host, checkpoint, [], True, path)

        got = inventory.each([peer], fetch, timeout)[peer]
        if not (got.get("failed") or got.get("unreachable")):
            got = carrier.deliver(here, "adopt", checkpoint, local, **limits)
            if not got.get("failed"):
                return entry, why, {}
            if got["error"] in ("Refused", "UsageError", "Busy"):
                return None, why, got
        why.append(f"{peer}: {checkpoint[:12]}: {words(got.get('msg'))}")
        if os.path.exists(local):
            os.unlink(local)
    return None, why, {}
