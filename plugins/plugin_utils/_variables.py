# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The variables of this collection. Ansible ignores an unknown name; here a misspelt name is found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.options import meant

PREFIX = "evenkeel_"
# Variables that the driver reads from the inventory, and that no role has.
OF_THE_DRIVER = frozenset(PREFIX + name for name in ("bake", "hold_after", "notify", "on_failure", "pause", "stop_if"))
# Variables that roles, playbooks and modules read, and the variables of the driver.
KNOWN = OF_THE_DRIVER | frozenset(
    PREFIX + name
    for name in (
        "address",
        "at_most",
        "boot_within",
        "checkpoint",
        "confirm_within",
        "container",
        "copies",
        "copy_timeout",
        "deadline",
        "drain",
        "encryption_key",
        "failure_domain",
        "forget",
        "generations",
        "group",
        "guard_domain",
        "heal",
        "hosts",
        "identity",
        "key",
        "kinds",
        "ladder",
        "last",
        "max_unavailable",
        "min_copies",
        "min_healthy",
        "mode",
        "only_logs",
        "outside",
        "owed",
        "paths",
        "peers",
        "postgresql_archive",
        "postgresql_cluster",
        "postgresql_data",
        "postgresql_replace_archive",
        "probes",
        "process",
        "quiesce",
        "reboot",
        "reboots",
        "recover_host",
        "recover_min_copies",
        "require_restorable",
        "rescued",
        "resources",
        "resume",
        "retention",
        "role",
        "roll",
        "schedule",
        "schedule_command",
        "schedule_delay",
        "schedule_directory",
        "schedule_name",
        "schedule_on_failure",
        "schedule_state",
        "schedule_user",
        "scope",
        "scrub_share",
        "scrub_time_limit",
        "service",
        "soak",
        "spares",
        "store",
        "strategy",
        "tasks",
        "transport",
        "unchanged",
        "undeclared",
        "undrained",
        "verdicts",
        "virtual_addresses",
        "virtual_interface",
        "virtual_members",
        "virtual_router_id",
        "virtual_witnesses",
        "waves",
    )
)
# Variables that the driver hands to playbooks, and that no person sets.
DRIVERS = frozenset(
    (
        f"{PREFIX}answer_within",
        f"{PREFIX}asked",
        f"{PREFIX}change",
        f"{PREFIX}checkpoints",
        f"{PREFIX}fleet",
        f"{PREFIX}plan_only",
    )
)
# Old name -> the name that replaces it. Version REMOVED removes the old name.
OLD = {f"{PREFIX}to": f"{PREFIX}checkpoint"}


# The form of a name that can be meant as one of ours. Names of another form come from no person, and are not shown.
_FORM = re.compile(PREFIX + r"[a-z0-9_]{1,64}")
# The largest number of names in a message: a playbook may set any number of names.
_TOLD = 20


def written(variables: Mapping[str, object]) -> list[str]:
    """The names with our prefix that a person has written. Facts are left out: a host can give a fact any name."""
    facts = variables.get("ansible_facts")
    said = facts.keys() if isinstance(facts, Mapping) else ()
    return sorted(name for name in variables if _FORM.fullmatch(str(name)) and name not in said)[: 5 * _TOLD]


def misspelt(names: Iterable[str]) -> list[str]:
    """For each name that is nearly one of ours, in words, the name that was meant."""
    return [f"no variable is named {name}{near}" for name in _unknown(names) if (near := _near(name))][:_TOLD]


def unread(names: Iterable[str]) -> list[str]:
    """For each other name with our prefix, in words, that nothing reads it."""
    return [
        f"nothing reads the variable {name}; names that begin with {PREFIX} belong to evenkeel.fault_tolerance"
        for name in _unknown(names)
        if not _near(name)
    ][:_TOLD]


def replaced(names: Iterable[str]) -> list[str]:
    """For each old name, in words, the name that replaces it."""
    return [f"the variable {name} is named {OLD[name]} now" for name in sorted(set(names) & set(OLD))]


def _unknown(names: Iterable[str]) -> list[str]:
    ours = {name for name in names if isinstance(name, str) and name.startswith(PREFIX)}
    return sorted(ours - KNOWN - DRIVERS - set(OLD))


def _near(name: str) -> str:
    """The words that name the variable that was meant. The common prefix does not count for the likeness of names.

    A name of ours with a further word (``evenkeel_probes_web``) is a deliberate name, and no slip.
    """
    if any(f"{name}_".startswith(f"{known}_") or name.endswith(known[len(PREFIX) - 1 :]) for known in KNOWN):
        return ""
    near = meant(name[len(PREFIX) :], (known[len(PREFIX) :] for known in KNOWN), 0.8)
    return near.replace("mean ", f"mean {PREFIX}")
