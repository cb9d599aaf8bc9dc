# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import STORE, report
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._duration import seconds
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.modules.ft_recover import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _placement
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._carry import Carrier
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Host, Inventory


class ActionModule(ActionBase):
    """Find the newest copy that holds, carry it to the host of the task, and roll that back to it."""

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
        usable = choose(candidates, params["checkpoint"])
        if not usable:
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
        planned = [_plan(owner, usable[0][0])]
        found: dict[str, Any] = {"candidates": candidates, "id": usable[0][0]["id"], "planned": planned, "left": left}
        if self._task.check_mode:
            return report({**found, "changed": True, "source": usable[0][0]["peer"]})
        source: dict[str, Any] | None = None
        with tempfile.TemporaryDirectory(prefix="evenkeel-", dir=C.DEFAULT_LOCAL_TMP) as scratch:
            for copies in usable:
                source, why = _bring(inventory, here, carrier, copies, scratch, timeout)
                left += why
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
            left.insert(0, f"the newest checkpoint, {found['id'][:12]}, could not be brought: this is an older one")
        result = here.module("ft_rollback", to=checkpoint, store=params["store"])
        return report(
            {
                **result,
                "candidates": candidates,
                "source": source["peer"],
                "id": checkpoint,
                "planned": [_plan(owner, source), *result.get("planned", [])],
                "done": [f"took checkpoint {checkpoint[:12]} from {source['peer']}", *result.get("done", [])],
                "left": [*left, *result.get("left", [])],
            }
        )


def _plan(owner: str, entry: dict[str, Any]) -> str:
    return f"recover {owner} from checkpoint {entry['name']} ({entry['id'][:12]}) of {entry['created']}"


def _found(peer: str, answer: dict[str, Any]) -> list[dict[str, Any]]:
    """What a peer said it holds, as entries of the result."""
    nothing = {"peer": peer, "id": "", "host": "", "name": "", "created": "", "state": "none", "detail": ""}
    for state in ("unreachable", "failed"):
        if answer.get(state):
            return [{**nothing, "state": state, "detail": str(answer.get("msg"))}]
    return [{**nothing, **entry} for entry in answer.get("candidates", [])] or [nothing]


def choose(candidates: Sequence[dict[str, Any]], wanted: str) -> list[list[dict[str, Any]]]:
    """The verified copies of each checkpoint that ``wanted`` can mean, newest first, each in the order given.

    wanted: ``latest``, a name, an id, or at least its first 8 digits.
    """

    def meant(entry: dict[str, Any]) -> bool:
        named = wanted in ("latest", entry["name"], entry["id"])
        return named or (len(wanted) >= 8 and str(entry["id"]).startswith(wanted))

    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in candidates:
        if entry["state"] == "verified" and meant(entry):
            found.setdefault((entry["created"], entry["id"]), []).append(entry)
    return [found[key] for key in sorted(found, reverse=True)]


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
    copies: Sequence[dict[str, Any]],
    scratch: str,
    timeout: float,
) -> tuple[dict[str, Any] | None, list[str]]:
    """Which of the ``copies`` of a checkpoint is in the store of ``here`` now; and why others were passed over."""
    why: list[str] = []
    for entry in copies:
        peer, checkpoint = entry["peer"], entry["id"]
        local = os.path.join(scratch, f"bundle-{os.urandom(8).hex()}")

        def fetch(host: Host, checkpoint: str = checkpoint, path: str = local) -> dict[str, Any]:
            return carrier.fetch(host, checkpoint, [], True, path)

        got = inventory.each([peer], fetch, timeout)[peer]
        if not (got.get("failed") or got.get("unreachable")):
            got = carrier.deliver(here, "adopt", checkpoint, local)
            if not got.get("failed"):
                return entry, why
        why.append(f"{peer}: {checkpoint[:12]}: {got.get('msg')}")
        if os.path.exists(local):
            os.unlink(local)
    return None, why
