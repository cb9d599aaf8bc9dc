# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The flows of the library as tests call them: options by their names, and the report that a module would return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import checkpoint as _checkpoint
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import drain as _drain
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import info as _info
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import offsite as _offsite
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas as _replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import scrub as _scrub
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import settle as _settle
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.restarting import flow as _restart
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.restarting.target import (
    Request as _Target,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import flow as _flow
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import Times
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.copies import Copied
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

Report = dict[str, Any]


def checkpoint(
    store: Store, name: str | None, resources: Any, within: float | None = None, check_mode: bool = False, **more: Any
) -> Report:
    """Take a checkpoint; ``more`` as in the request of the flow. The host around the test is no part of it."""
    more.setdefault("outside", {"paths": []})
    more = more if within is None else {"confirm_within": within, **more}
    return _checkpoint.checkpoint(store, _checkpoint.Request(name, resources, **more), check_mode).report()


def rollback(store: Store, to: str, kinds: Any = None, *, check_mode: bool = False, **options: Any) -> Report:
    """Roll back; ``options`` as in the request of the flow."""
    return _flow.rollback(store, _flow.Request(to, kinds, **options), check_mode).report()


def settle(
    store: Store, generation: int, probes: Any, *times: float, verdict: str = "probe", check_mode: bool = False
) -> Report:
    """Settle a change; ``times``: soak, deadline and interval."""
    return _settle.settle(store, _settle.Request(generation, probes, Times(*times), verdict), check_mode).report()


def restart(
    store: Store, phase: str = "", check_mode: bool = False, values: Mapping[str, object] | None = None, **options: Any
) -> Report:
    """Restart a service, or one phase of that; ``options`` as in the request of the flow."""
    request = _Target(**{"name": None, "process": None, "mode": None, "probes": None, **options})
    return _restart.work(store, request, _restart.Phase(phase, values or {}), check_mode).report()


def scrub(store: Store, **options: Any) -> Report:
    """Read a store."""
    return _scrub.scrub(store, **options).report()


def push(store: Store, repository: _offsite.Repository, host: str, wanted: str, check_mode: bool = False) -> Report:
    """Put a checkpoint into a repository."""
    return _offsite.push(store, repository, host, wanted, check_mode).report()


def fetch(store: Store, repository: _offsite.Repository, host: str, wanted: str, *how: bool, **more: bool) -> Report:
    """Take a checkpoint out of a repository; ``how`` as in the flow."""
    return _offsite.fetch(store, repository, host, wanted, *how, **more).report()


def info(store: Store) -> Report:
    """Ask for the memory of a host."""
    return _info.info(store).report()


def host_state(root: str, system: System | None = None) -> Report:
    """Ask for the state that a guard asks for."""
    return dict(vars(_info.host_state(root, system)))


def drain(
    state: str,
    kind: str,
    declared: Any,
    system: System,
    deadline: float = 5.0,
    ours: bool = False,
    check_mode: bool = False,
) -> Report:
    """Drain a server, or make it ready."""
    return _drain.drain(_drain.Request(state, {kind: declared}, ours, deadline), system, check_mode).report()


def receive(store: Store, host: str, checkpoint: str, path: str, *options: Any, **more: Any) -> Copied:
    """Store the bundle in a file as a copy; ``options`` as in the flow."""
    with _replicas.opened(path) as incoming:
        return _replicas.receive(store, host, checkpoint, incoming, *options, **more)


def adopt(store: Store, host: str, checkpoint: str, path: str, *options: Any, **more: Any) -> Copied:
    """Add the bundle in a file to the host's own store; ``options`` as in ``Terms``."""
    with _replicas.opened(path) as incoming:
        return _replicas.adopt(store, host, checkpoint, incoming, _replicas.Terms(*options, **more))
