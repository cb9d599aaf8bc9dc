# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import STORE
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import reported as report
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._duration import seconds
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.modules.ft_recover import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _placement
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._carry import Carrier
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Host, Inventory
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._scratch import scratch_directory


class ActionModule(ActionBase):
    """Find the newest verified copy, carry it to the host of the task, and roll that back to it."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _valid, params = self.validate_argument_spec(argument_spec=dict(ARGUMENTS, store=STORE))
        inventory = Inventory(self, task_vars or {})
        here = inventory.here()
        owner = params["host"] or here.name
        try:
            timeout = seconds(params["timeout"], "timeout")
            peers = _placement.preference(here.name, inventory.hosts_of(params["peers"]))
        except (EvenkeelError, AnsibleError) as error:
            return report({"failed": True, "msg": str(error), "error": "UsageError", "candidates": []})

        carrier = Carrier("ft_recover", owner, lambda name: inventory.store(name, params["store"]))
        told = inventory.each(peers, lambda host: carrier.phase(host, "candidates"), timeout)
        candidates = [entry for peer in peers for entry in _found(peer, told[peer])]
        left = [
            f"{entry['peer']}: {entry['state']} {str(entry['id'])[:12]} {entry['detail']}".replace("  ", " ")
            for entry in candidates
            if entry["state"] not in ("verified", "none")
        ]
        chosen = choose(candidates, params["checkpoint"])
        if not chosen:
            return report(
                {
                    "failed": True,
                    "error": "NotFound",
                    "msg": f"No peer has a verified copy of checkpoint {params['checkpoint']} of {owner}."
                    f" Nothing was changed. {_inventory_of(candidates)}",
                    "candidates": candidates,
                    "left": left,
                }
            )
        checkpoint = str(chosen[0]["id"])
        plan = f"recover {owner} from checkpoint {chosen[0]['name']} ({checkpoint[:12]}) of {chosen[0]['created']}"
        found: dict[str, Any] = {"candidates": candidates, "id": checkpoint, "planned": [plan], "left": left}
        if self._task.check_mode:
            return report({**found, "changed": True, "source": chosen[0]["peer"]})
        with scratch_directory() as scratch:
            source, why = _bring(
                inventory, here, carrier, [str(entry["peer"]) for entry in chosen], checkpoint, scratch, timeout
            )
        left += why
        if not source:
            return report(
                {
                    **found,
                    "failed": True,
                    "error": "EvenkeelError",
                    "msg": f"No copy of checkpoint {checkpoint[:12]} of {owner} could be brought here, and none of its"
                    f" files was changed: {'; '.join(why)}",
                }
            )
        result = here.module("ft_rollback", to=checkpoint, store=params["store"])
        return report(
            {
                **result,
                "candidates": candidates,
                "source": source,
                "id": checkpoint,
                "planned": [plan, *result.get("planned", [])],
                "done": [f"took checkpoint {checkpoint[:12]} from {source}", *result.get("done", [])],
                "left": [*left, *result.get("left", [])],
            }
        )


def _found(peer: str, answer: dict[str, Any]) -> list[dict[str, Any]]:
    """What a peer said it holds, as entries of the result."""
    nothing = {"peer": peer, "id": "", "name": "", "created": "", "state": "none", "detail": ""}
    for state in ("unreachable", "failed"):
        if answer.get(state):
            return [{**nothing, "state": state, "detail": str(answer.get("msg"))}]
    return [{**nothing, **entry} for entry in answer.get("candidates", [])] or [nothing]


def choose(candidates: Sequence[dict[str, Any]], wanted: str) -> list[dict[str, Any]]:
    """The verified copies of the newest checkpoint that ``wanted`` can mean, in the order given; empty without any.

    wanted: ``latest``, a name, an id, or at least its first 8 digits.
    """

    def meant(entry: dict[str, Any]) -> bool:
        named = wanted in ("latest", entry["name"], entry["id"])
        return named or (len(wanted) >= 8 and str(entry["id"]).startswith(wanted))

    good = [entry for entry in candidates if entry["state"] == "verified" and meant(entry)]
    if not good:
        return []
    newest = max(good, key=lambda entry: (str(entry["created"]), str(entry["id"])))["id"]
    return [entry for entry in good if entry["id"] == newest]


def _inventory_of(candidates: Sequence[dict[str, Any]]) -> str:
    if not candidates:
        return "There is no peer besides this host: name those that may hold a copy."
    held = [
        f"{entry['peer']}: "
        + " ".join(str(entry[key])[:300] for key in ("state", "name", "created", "detail") if entry[key])
        for entry in candidates
    ]
    return "Found: " + "; ".join(held) + "."


def _bring(
    inventory: Inventory,
    here: Host,
    carrier: Carrier,
    sources: Sequence[str],
    checkpoint: str,
    scratch: str,
    timeout: float,
) -> tuple[str, list[str]]:
    """The peer whose copy is in the store of ``here`` now, empty if none; and why each before it was passed over."""
    why: list[str] = []
    for peer in sources:
        local = os.path.join(scratch, f"bundle-{len(why)}")

        def fetch(host: Host, path: str = local) -> dict[str, Any]:
            return carrier.fetch(host, checkpoint, [], True, path)

        got = inventory.each([peer], fetch, timeout)[peer]
        if not (got.get("failed") or got.get("unreachable")):
            got = carrier.deliver(here, "adopt", checkpoint, local)
            if not got.get("failed"):
                return peer, why
        why.append(f"{peer}: {got.get('msg')}")
    return "", why
