# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's part when the controller carries checkpoints between hosts: one phase for each call of the module."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .._errors import UsageError
from .._host import scratch
from .._host.system import System
from .._results import Landing, Result
from .._store import foreign
from .._store.store import Store
from . import replicas, shipped


def work(params: Mapping[str, Any], check_mode: bool) -> Result:
    """The result of one phase. Raises UsageError where the module was called without one."""
    phase = _PHASES.get(params["_phase"])
    if phase is None:
        raise UsageError(
            "only the controller can carry checkpoints between hosts, and nothing was done: call this by its full name,"
            " evenkeel.fault_tolerance.ft_replicate or ft_recover, from a playbook"
        )
    return phase(_Call(Store(params["store"], System()), params, params["_values"] or {}, check_mode))


@dataclass(frozen=True)
class _Call:
    """A call of the module: the options of the user, and the values of the controller."""

    store: Store
    params: Mapping[str, Any]
    values: Mapping[str, Any]
    check_mode: bool

    @property
    def host(self) -> str:
        return str(self.params["host"])

    @property
    def mac(self) -> str:
        return str(self.values.get("mac", ""))


def _offer(call: _Call) -> Result:
    return replicas.offer(call.store, call.host, call.params["checkpoint"])


def _have(call: _Call) -> Result:
    known, wanted = replicas.have(call.store, call.host), call.values["id"]
    if wanted not in known.ids:
        return known
    if call.values.get("quick"):  # A scrub reads the contents again.
        copy = replicas.replica(call.store, call.host)
        whole = all(map(copy.objects.has, copy.contents_of(copy.manifest(wanted))))
        known.state = "verified" if whole else "damaged"
        return known
    if call.check_mode:  # and so without putting aside damaged contents
        copy = replicas.replica(call.store, call.host)
        known.state = "damaged" if copy.verify(copy.manifest(wanted)) else "verified"
        return known
    found = replicas.verify(call.store, call.host, wanted, call.mac)
    known.id, known.state, known.wrong = found.id, found.state, found.wrong
    return known


def _noted(call: _Call) -> Result:
    return Result(changed=shipped.note(call.store, call.values["id"], call.values["copies"]))


def _export(call: _Call) -> Result:
    values = call.values
    owner = os.stat(values["directory"]).st_uid
    path = scratch.new(values["run"], owner)
    try:
        found = replicas.export(call.store, call.host, values["id"], values["known"], path, values["replica"])
    except BaseException:
        os.rmdir(os.path.dirname(path))
        raise
    scratch.hand_over(path, owner)
    return found


def _land(call: _Call) -> Result:
    owner = os.stat(call.values["directory"]).st_uid
    path = scratch.new(call.values["run"], owner)
    scratch.make_empty(path, owner)
    return Landing(path=path, room=foreign.room(os.path.dirname(path), call.store.root))


def _discard(call: _Call) -> Result:
    scratch.discard(call.values["path"])
    return Result()


def _receive(call: _Call) -> Result:
    values = call.values
    with scratch.taken(values["path"]) as path:
        taken = replicas.receive(call.store, call.host, values["id"], path, call.params["retention"], call.mac)
    taken.changed = True
    return taken


def _candidates(call: _Call) -> Result:
    return replicas.candidates(call.store, call.host)


def _adopt(call: _Call) -> Result:
    values = call.values
    declared, proved = values.get("declared"), values.get("proved", False)
    with scratch.taken(values["path"]) as path:
        taken = replicas.adopt(call.store, call.host, values["id"], path, declared, proved)
    taken.changed = True
    return taken


_PHASES: dict[str | None, Callable[[_Call], Result]] = {
    "offer": _offer,
    "have": _have,
    "noted": _noted,
    "export": _export,
    "land": _land,
    "discard": _discard,
    "receive": _receive,
    "candidates": _candidates,
    "adopt": _adopt,
}
