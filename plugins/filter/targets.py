# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of a play: an empty or unresolvable target is an error, never all hosts and never success (F9)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible import context
from ansible.errors import AnsibleError, AnsibleFilterError
from ansible.inventory.manager import InventoryManager, split_host_pattern
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _waves

# Where nobody says how many hosts change at the same time; as the driver has it.
DEFAULT_WAVES = "1,25%,100%"


def targets(pattern: str | Sequence[str] | None, groups: Mapping[str, Sequence[str]], limit: str = "") -> list[str]:
    """The pattern, once every part of it and of the limit names a host of ``groups`` and together they leave one.

    pattern: of hosts, a text or a list. None where it was not given: then the limit selects the hosts, and a missing
    limit is an error. limit: the value of --limit. Raises AnsibleFilterError.
    """
    return _checked(pattern, groups, limit)[0]


def batches(
    waves: object,
    hostvars: Mapping[str, Mapping[str, Any]],
    groups: Mapping[str, Sequence[str]],
    pattern: str | Sequence[str] | None = None,
    limit: str = "",
) -> list[str]:
    """The sizes of the batches of a play: those of the whole run, or those of the variable of its hosts, which then
    must agree.

    waves: numbers and percentages, a text or a list; None where they were not given. hostvars is empty before the first
    play. pattern, limit: see ``targets``. Raises AnsibleFilterError.
    """
    if waves is None:
        hosts = sorted(_checked(pattern, groups, limit)[1]) if hostvars else []
        variables = [hostvars.get(host) or {} for host in hosts]
        told = [host for host, own in zip(hosts, variables, strict=True) if _is_fact(own, "evenkeel_waves")]
        if told:
            raise AnsibleFilterError(
                f"evenkeel_waves is a fact of {told[0]}, what the host says of itself, and decides nothing here. Clear"
                " the cache of facts (--flush-cache), and look at that host. Nothing was touched"
            )
        said = [own["evenkeel_waves"] for own in variables if "evenkeel_waves" in own]
        found = list(dict.fromkeys(tuple(_sizes(one)) for one in said)) or [tuple(_sizes(DEFAULT_WAVES))]
        if len(found) > 1:
            each = " and ".join(repr(",".join(one)) for one in found[:2])
            raise AnsibleFilterError(
                f"evenkeel_waves differs between hosts ({each}): give it with -e evenkeel_waves=…. Nothing was touched"
            )
        return list(found[0])
    return _sizes(waves)


def _is_fact(variables: Mapping[str, Any], name: str) -> bool:
    """Whether the variable of a host is what the host says of itself."""
    facts = variables.get("ansible_facts")
    return isinstance(facts, Mapping) and name in facts and name in variables and facts[name] == variables[name]


def _sizes(waves: object) -> list[str]:
    """The sizes, checked: Ansible takes 0 and less for all hosts at once. Raises AnsibleFilterError."""
    parts = waves if isinstance(waves, (list, tuple)) else [waves]
    try:
        return list(_waves.parse(",".join(str(part) for part in parts)))
    except ValueError as error:
        raise AnsibleFilterError(f"evenkeel_waves: {error}. Nothing was touched") from error


def _checked(
    pattern: str | Sequence[str] | None, groups: Mapping[str, Sequence[str]], limit: str
) -> tuple[list[str], set[str]]:
    """The patterns of a play, and the names of its hosts. Raises AnsibleFilterError."""
    wanted = ["all"] if pattern is None else [pattern] if isinstance(pattern, str) else [str(one) for one in pattern]
    limits = _limits(limit)
    if context.CLIARGS.get("syntax"):
        return wanted, set()  # checked without an inventory
    if pattern is None and not limits:
        raise AnsibleFilterError("no target: name the hosts with evenkeel_hosts, or with --limit")
    inventory = InventoryManager(loader=None, parse=False)
    for group, hosts in groups.items():
        inventory.add_group(group)
        for host in hosts:
            inventory.add_host(host, group)

    def names(parts: list[str]) -> set[str]:
        try:
            return {host.name for host in inventory.get_hosts(parts)}
        except AnsibleError as error:
            raise AnsibleFilterError(f"target {', '.join(parts)!r}: {error}") from error

    if not groups.get("all"):
        raise AnsibleFilterError("the inventory names no host: give one with -i, or correct it. Nothing was touched")
    for where, parts in (("target", wanted), ("limit", limits)):
        for part in split_host_pattern(parts):
            named = part.lstrip("!&")
            # A group that is empty today can be left out all the same.
            if not names([named]) and not (part.startswith("!") and named in groups):
                raise AnsibleFilterError(
                    f"{part!r} in the {where} names no host of the inventory: correct it. Nothing was touched"
                )
    chosen = names(wanted) & names(limits) if limits else names(wanted)
    if not split_host_pattern(wanted) or not chosen:
        within = f" within the limit {limit!r}" if limits else ""
        raise AnsibleFilterError(f"the target {', '.join(wanted)!r} leaves no host{within}. Nothing was touched")
    return wanted, chosen


def _limits(limit: str) -> list[str]:
    """The patterns of --limit; those in a file (@) as Ansible reads it."""
    found: list[str] = []
    for part in split_host_pattern(limit or ""):
        if part.startswith("@"):
            with open(part[1:], encoding="utf-8") as stream:
                found += [line.strip() for line in stream if line.strip()]
        else:
            found.append(part)
    return found


# A play without a host. Ansible takes an empty list of hosts for all hosts.
_NO_HOST = ["all", "!all"]


def planned(
    hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]], key: str = "order"
) -> Sequence[str] | list[int]:
    """The hosts of a planned roll in their order, or with ``key`` sizes the sizes of its waves; no host without a plan.
    With ``key`` onto the spare that ft_recover has chosen.

    The plan is the result of ft_roll, which the playbook registers as restart_plan; the choice is recover_choice.
    hostvars is empty before the first play.
    """
    name = "recover_choice" if key == "onto" else "restart_plan"
    found: Mapping[str, Any] = {}
    for host in groups.get("all", []):
        own = hostvars.get(host) or {}
        plan = own.get(name)
        if isinstance(plan, Mapping) and not _is_fact(own, name):
            found = plan
            break
    if key == "onto":
        return [str(found["onto"])] if found.get("onto") and not found.get("failed") else _NO_HOST
    waves = [] if found.get("failed") else found.get("waves") or []
    if key == "sizes":
        return [len(wave) for wave in waves] or [1]
    return [str(host) for wave in waves for host in wave] or _NO_HOST


class FilterModule:
    """The filters, by the names that playbooks use."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"targets": targets, "batches": batches, "planned": planned}
