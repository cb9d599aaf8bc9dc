# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Service addresses that the role virtual_address gives to hosts: which a host may hold, and how it hands them over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import words
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Host, Inventory

VARIABLE = "evenkeel_virtual_addresses"
_PROGRAM = "/etc/keepalived/evenkeel-address"
# The program as a pair of commands that drain. It gives up after twenty seconds; the way there takes some more.
_COMMANDS = {
    "drain": [_PROGRAM, "hand-over"],
    "undrain": [_PROGRAM, "take-part"],
    "check": [_PROGRAM, "is-elsewhere"],
}
_DEADLINE, _LIMIT = "25s", 60.0


def declared(inventory: Inventory, hosts: Iterable[str]) -> dict[str, list[str]]:
    """Host -> the service addresses that it may hold. UsageError for a variable of another form."""
    found: dict[str, list[str]] = {}
    for host in hosts:
        value = inventory.variable(host, VARIABLE, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise UsageError(f"{host}: {VARIABLE} is no list of addresses such as 10.0.0.100/24")
        found[host] = value
    return found


def hand_over(inventory: Inventory, hosts: Sequence[str], store: str) -> str:
    """Have another host take the address of the last of these; the others stand aside meanwhile. Then all take part
    again, as those who do not preempt. Return a sentence where nobody has taken it; empty where another host has it.
    """
    why = ""
    for name in hosts:
        said = _call(inventory, [name], "drained", store)[name]
        if said:
            why = f"{name} did not hand its address over ({said}): repair that, and run again."
            break
    # A host that does not answer now takes part again by itself, within two minutes.
    _call(inventory, hosts, "ready", store)
    return why


def _call(inventory: Inventory, hosts: Sequence[str], state: str, store: str) -> dict[str, str]:
    """Host -> why it is not in the state; empty where it is."""

    def work(host: Host) -> Answer:
        given = {"state": state, "ours": True, "command": _COMMANDS, "deadline": _DEADLINE}
        result = host.module("ft_drain", **given, store=inventory.store(host.name, store))
        return {key: result.get(key) for key in ("failed", "msg", "state", "unreachable")}

    told = inventory.each(hosts, work, _LIMIT)
    return {
        host: ""
        if not one.get("failed") and not one.get("unreachable") and one.get("state") == state
        else words(str(one.get("msg") or "it does not answer")).rstrip(".")
        for host, one in told.items()
    }
