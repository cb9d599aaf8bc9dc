# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The variables of this collection. Ansible reads a name that nobody knows as nothing; here a misspelt one is found."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.options import meant

PREFIX = "evenkeel_"
# Variables that roles, playbooks and modules read.
KNOWN = frozenset(
    PREFIX + name
    for name in (
        "checkpoint",
        "confirm_within",
        "copies",
        "deadline",
        "failure_domain",
        "generations",
        "group",
        "guard_domain",
        "hosts",
        "key",
        "kinds",
        "max_unavailable",
        "min_healthy",
        "mode",
        "paths",
        "peers",
        "postgresql_archive",
        "postgresql_cluster",
        "postgresql_data",
        "postgresql_replace_archive",
        "probes",
        "process",
        "quiesce",
        "recover_host",
        "require_restorable",
        "rescued",
        "resources",
        "retention",
        "role",
        "scrub_share",
        "scrub_time_limit",
        "service",
        "soak",
        "store",
        "strategy",
        "tasks",
        "undeclared",
        "verdicts",
        "waves",
    )
)
# Variables that the driver hands to playbooks, and that no person sets.
DRIVERS = frozenset((f"{PREFIX}answer_within", f"{PREFIX}asked", f"{PREFIX}checkpoints"))
# Old name -> the name that replaces it. The old one is gone with version REMOVED.
OLD = {f"{PREFIX}to": f"{PREFIX}checkpoint"}
REMOVED = "0.3.0"


def misspelt(names: Iterable[str]) -> list[str]:
    """For each name that is nearly one of ours, in words, which one was meant."""
    return [f"no variable is named {name}{near}" for name in _unknown(names) if (near := _near(name))]


def unread(names: Iterable[str]) -> list[str]:
    """For each other name with our prefix, in words, that nothing reads it."""
    return [
        f"nothing reads the variable {name}; names that begin with {PREFIX} belong to evenkeel.fault_tolerance"
        for name in _unknown(names)
        if not _near(name)
    ]


def replaced(names: Iterable[str]) -> list[str]:
    """For each old name, in words, the name that replaces it."""
    return [f"the variable {name} is named {OLD[name]} now" for name in sorted(set(names) & set(OLD))]


def _unknown(names: Iterable[str]) -> list[str]:
    ours = {name for name in names if isinstance(name, str) and name.startswith(PREFIX)}
    return sorted(ours - KNOWN - DRIVERS - set(OLD))


def _near(name: str) -> str:
    """The words that name the variable that was meant. The prefix, which all have, makes no name like another."""
    near = meant(name[len(PREFIX) :], (known[len(PREFIX) :] for known in KNOWN))
    return near.replace("mean ", f"mean {PREFIX}")
