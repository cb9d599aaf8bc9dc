# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's part when the controller carries checkpoints between hosts: one phase for each call of the module."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._errors import UsageError
from .._host import scratch
from .._host.system import System
from .._results import Landing, Result
from .._store import foreign
from .._store.store import Store
from . import replicas, sealed


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

    @property
    def seal(self) -> Mapping[str, Any]:
        """The values of the controller for an encrypted copy; none for a plain one."""
        return self.values.get("seal") or {}

    @property
    def secrets(self) -> Sequence[str]:
        """The secrets of the bundles that are encrypted or decrypted here."""
        return self.params.get("_secrets") or []


def _offer(call: _Call) -> Result:
    return replicas.offer(call.store, call.host, call.params["checkpoint"])


def _have(call: _Call) -> Result:
    if call.seal:
        return sealed.have(call.store, call.host, call.values["id"], call.seal["key"], call.mac, call.check_mode)
    known, wanted = replicas.have(call.store, call.host), call.values["id"]
    known.sealed = len(sealed.shas(replicas.replica(call.store, call.host)))
    if wanted not in known.ids:
        return known
    if call.check_mode:  # and so without putting aside damaged contents
        copy = replicas.replica(call.store, call.host)
        known.state = "damaged" if copy.verify(copy.manifest(wanted)) else "verified"
        return known
    found = replicas.verify(call.store, call.host, wanted, call.mac)
    known.id, known.state, known.wrong = found.id, found.state, found.wrong
    return known


def _outgoing(call: _Call) -> replicas.Outgoing:
    """The bundle that is asked for."""
    values, seal = call.values, call.seal
    if not seal:
        return replicas.bundle(call.store, call.host, values["id"], values["known"], values["replica"])
    if not values["replica"]:
        return sealed.seal(call.store, call.host, values["id"], seal, call.secrets[0])
    return (sealed.pass_on if seal.get("alone") else sealed.give_back)(call.store, call.host, seal["sha256"])


def _export(call: _Call) -> Result:
    values = call.values
    owner = os.stat(values["directory"]).st_uid
    path = scratch.new(values["run"], owner)
    try:
        found = replicas.save(_outgoing(call), path)
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
    with scratch.taken(values["path"]) as path, replicas.opened(path) as incoming:
        retention = call.params["retention"]
        if call.seal:
            told = {**call.seal, "mac": call.mac}
            taken = sealed.receive(call.store, call.host, values["id"], incoming, told, retention)
        else:
            taken = replicas.receive(call.store, call.host, values["id"], incoming, retention, call.mac)
    taken.changed = True
    return taken


def _candidates(call: _Call) -> Result:
    found = replicas.candidates(call.store, call.host)
    found.candidates += sealed.candidates(call.store, call.host)
    return found


def _adopt(call: _Call) -> Result:
    values = call.values
    declared, proved = values.get("declared"), values.get("proved", False)
    with scratch.taken(values["path"]) as path, replicas.opened(path) as incoming:
        if call.seal:
            incoming = sealed.incoming(incoming, call.seal["chain"], call.secrets)
        taken = replicas.adopt(call.store, call.host, values["id"], incoming, declared, proved)
    taken.changed = True
    return taken


_PHASES: dict[str | None, Callable[[_Call], Result]] = {
    "offer": _offer,
    "have": _have,
    "export": _export,
    "land": _land,
    "discard": _discard,
    "receive": _receive,
    "candidates": _candidates,
    "adopt": _adopt,
}
