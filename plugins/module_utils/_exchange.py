# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's part when the controller carries checkpoints between hosts: one phase for each call of the module."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from typing import Any

from . import _foreign, _replica
from ._errors import UsageError
from ._store.store import Store
from ._system import System

# Arguments that the action plugin sets, and that are no options of the user's.
PHASE = {"_phase": {"type": "str"}, "_values": {"type": "dict"}}

_BUNDLES = "/var/tmp/evenkeel-bundle-"
_LEFT_BEHIND = 86400.0  # seconds after which a bundle belongs to no run any more


def work(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """The result of one phase, as ``_replica`` has it. Raises UsageError where the module was called without one."""
    store, host, values = Store(params["store"], System()), params["host"], params["_values"] or {}
    phase = params["_phase"]
    if phase == "offer":
        return _replica.offer(store, host, params["checkpoint"])
    if phase == "have":
        known = _replica.have(store, host)
        if values["id"] not in known["ids"]:
            return known
        if check_mode:  # and so without putting aside what is damaged
            copy = _replica.replica(store, host)
            return {**known, "state": "damaged" if copy.verify(copy.manifest(values["id"])) else "verified"}
        return {**known, **_replica.verify(store, host, values["id"], values.get("mac", ""))}
    if phase == "export":
        path = _new_bundle(values["directory"], store.system.now())
        found = _replica.export(store, host, values["id"], values["known"], path, values["replica"])
        _hand_over(path, values["directory"])
        return found
    if phase == "discard":
        shutil.rmtree(os.path.dirname(values["path"]))
        return {}
    if phase == "room":
        return {"room": _foreign.room(values["directory"], store.root)}
    if phase == "receive":
        taken = _replica.receive(store, host, values["id"], values["path"], params["retention"], values.get("mac", ""))
        return dict(taken, changed=True)
    if phase == "candidates":
        return _replica.candidates(store, host)
    if phase == "adopt":
        taken = _replica.adopt(
            store, host, values["id"], values["path"], values.get("declared"), values.get("proved", False)
        )
        return dict(taken, changed=True)
    raise UsageError(
        "only the controller can carry checkpoints between hosts, and nothing was done: call this by its full name,"
        " evenkeel.fault_tolerance.ft_replicate or ft_recover, from a playbook"
    )


def _new_bundle(directory: str, now: float) -> str:
    """A new path, in the login user's ``directory``, or where that is not ours in one that only we can change.

    Writing as root into a directory of another user's would follow whatever that user puts there.
    """
    if os.stat(directory).st_uid == os.geteuid():
        return os.path.join(directory, f"bundle-{os.urandom(8).hex()}")
    for old in glob.glob(f"{_BUNDLES}*"):
        status = os.lstat(old)
        if status.st_uid == os.geteuid() and now - status.st_mtime > _LEFT_BEHIND:
            shutil.rmtree(old, ignore_errors=True)
    return os.path.join(tempfile.mkdtemp(prefix=os.path.basename(_BUNDLES), dir=os.path.dirname(_BUNDLES)), "bundle")


def _hand_over(path: str, directory: str) -> None:
    """Let the login user, and nobody else, read the bundle: the connection that fetches it is that user's."""
    owner = os.stat(directory).st_uid
    if owner != os.geteuid():
        os.chown(path, owner, -1)
        os.chmod(os.path.dirname(path), 0o711)
