# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's part when the controller carries checkpoints between hosts: one phase for each call of the module."""

from __future__ import annotations

import os
from typing import Any

from .._errors import UsageError
from .._host import scratch
from .._host.system import System
from .._store import foreign
from .._store.store import Store
from . import replicas

# Arguments that the action plugin sets, and that are no options of the user's.
PHASE = {"_phase": {"type": "str"}, "_values": {"type": "dict"}}


def work(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """The result of one phase, as ``replicas`` has it. Raises UsageError where the module was called without one."""
    store, host, values = Store(params["store"], System()), params["host"], params["_values"] or {}
    phase = params["_phase"]
    if phase == "offer":
        return replicas.offer(store, host, params["checkpoint"])
    if phase == "have":
        known = replicas.have(store, host)
        if values["id"] not in known["ids"]:
            return known
        if check_mode:  # and so without putting aside what is damaged
            copy = replicas.replica(store, host)
            return {**known, "state": "damaged" if copy.verify(copy.manifest(values["id"])) else "verified"}
        return {**known, **replicas.verify(store, host, values["id"], values.get("mac", ""))}
    if phase == "export":
        owner = os.stat(values["directory"]).st_uid
        path = scratch.new(values["run"], owner)
        try:
            found = replicas.export(store, host, values["id"], values["known"], path, values["replica"])
        except BaseException:
            os.rmdir(os.path.dirname(path))
            raise
        scratch.hand_over(path, owner)
        return found
    if phase == "land":
        owner = os.stat(values["directory"]).st_uid
        path = scratch.new(values["run"], owner)
        scratch.make_empty(path, owner)
        return {"path": path, "room": foreign.room(os.path.dirname(path), store.root)}
    if phase == "discard":
        scratch.discard(values["path"])
        return {}
    if phase == "receive":
        with scratch.taken(values["path"]) as path:
            taken = replicas.receive(store, host, values["id"], path, params["retention"], values.get("mac", ""))
        return dict(taken, changed=True)
    if phase == "candidates":
        return replicas.candidates(store, host)
    if phase == "adopt":
        with scratch.taken(values["path"]) as path:
            taken = replicas.adopt(store, host, values["id"], path, values.get("declared"), values.get("proved", False))
        return dict(taken, changed=True)
    raise UsageError(
        "only the controller can carry checkpoints between hosts, and nothing was done: call this by its full name,"
        " evenkeel.fault_tolerance.ft_replicate or ft_recover, from a playbook"
    )
