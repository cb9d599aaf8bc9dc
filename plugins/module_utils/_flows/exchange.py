# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's part when the controller carries checkpoints between hosts: one phase for each call of the module."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from .._dataclasses import dataclass
from .._errors import EvenkeelError, UsageError
from .._host import scratch
from .._host.durable import naming
from .._host.system import System
from .._resources import registry
from .._results.copies import Copied, Copies, Landing, Outgoing, Sent
from .._results.result import Result
from .._store import foreign
from .._store.store import Store
from . import replicas, sealed, sealed_record, sending, shipped
from .making_room import make_room


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

    def place(self) -> str:
        return self.store.place(str(self.values.get("run", "")), not self.check_mode)

    @property
    def seal(self) -> Mapping[str, Any]:
        """The values of the controller for an encrypted copy; none for a plain one."""
        return self.values.get("seal") or {}

    @property
    def secrets(self) -> Sequence[str]:
        """The secrets of the bundles that are encrypted or decrypted here."""
        return self.params.get("_secrets") or []


def _offer(call: _Call) -> Result:
    elsewhere = call.values.get("elsewhere") is True
    offered = replicas.offer(call.store, call.host, call.params["checkpoint"], elsewhere)
    offered.age = call.store.age()
    try:
        offered.place = call.place()
    except EvenkeelError as error:  # The checkpoints of this host are worth a copy all the more.
        offered.lacking = [*offered.lacking, error.message]
    if call.values.get("encrypted") is True and not call.check_mode:
        replicas.note_encrypted(call.store, call.host, True)
    offered.encrypted = replicas.was_encrypted(call.store, call.host)
    return offered


def _have(call: _Call) -> Result:
    where = call.place()
    found = _holds(call)
    found.place = where
    return found


def _holds(call: _Call) -> Copies:
    if call.seal:
        return sealed.have(call.store, call.host, call.values["id"], call.seal["key"], call.mac, call.check_mode)
    # Without an id the controller asks while it does not yet know the newest checkpoint of the source.
    known = replicas.have(call.store, call.host)
    wanted = call.values["id"] or replicas.newest(call.store, call.host)
    known.sealed = len(sealed_record.shas(replicas.replica(call.store, call.host)))
    if wanted not in known.ids:
        return known
    wrong = replicas.lacking(call.store, call.host, wanted)
    known.id, known.state, known.wrong = wanted, "damaged" if wrong else "verified", wrong[:20]
    if not wrong and not call.check_mode:
        replicas.mark(call.store, call.host, wanted, call.mac)
    known.mac = replicas.mac_of(replicas.replica(call.store, call.host), wanted) or None
    return known


def _noted(call: _Call) -> Result:
    return Result(changed=shipped.note(call.store, call.values["id"], call.values["copies"]))


def _outgoing(call: _Call) -> replicas.Outgoing:
    """The bundle that the controller fetches."""
    values, seal = call.values, call.seal
    if not values["replica"]:
        return _bundle(call, values["known"])
    if not seal:
        return replicas.bundle(call.store, call.host, values["id"], values["known"], True)
    return (sealed.pass_on if seal.get("alone") else sealed.give_back)(call.store, call.host, seal["sha256"])


def _export(call: _Call) -> Result:
    values = call.values
    owner = os.stat(values["directory"]).st_uid
    path = scratch.new(values["run"], owner, scratch.place(call.store.root))
    try:
        with naming(path):
            found = replicas.save(_outgoing(call), path)
    except BaseException:
        os.rmdir(os.path.dirname(path))
        raise
    scratch.hand_over(path, owner)
    if values.get("lacking"):
        found.left = registry.not_carried(call.store.manifest(values["id"]).sections)
    return found


def _land(call: _Call) -> Result:
    owner = os.stat(call.values["directory"]).st_uid
    path = scratch.new(call.values["run"], owner, scratch.place(call.store.root))
    scratch.make_empty(path, owner)
    places = [os.path.dirname(path), call.store.root]
    if "size" in call.values:
        make_room(call.store, call.host, call.values["size"], places, call.params["retention"])
    return Landing(path=path, room=foreign.room(*places))


def _discard(call: _Call) -> Result:
    scratch.discard(call.values["path"])
    return Result()


def _receive(call: _Call) -> Result:
    with scratch.taken(call.values["path"]) as path, replicas.opened(path) as incoming:
        taken = _stored(call, incoming)
    taken.changed = True
    return taken


def _stored(call: _Call, incoming: replicas.Incoming) -> Copied:
    """Store the bytes that come, whoever carries them."""
    wanted, retention = call.values["id"], call.params["retention"]
    with naming(call.store.root):
        if call.seal:
            told = {**call.seal, "mac": call.mac}
            return sealed.receive(call.store, call.host, wanted, incoming, told, retention)
        return replicas.receive(call.store, call.host, wanted, incoming, retention, call.mac)


def _bundle(call: _Call, known: list[str]) -> replicas.Outgoing:
    """The bytes that leave, whoever carries them. ``known``: ids; of encrypted copies, the base (``sealed.BASE``)."""
    if not call.seal:
        replicas.note_encrypted(call.store, call.host, False)
        return replicas.bundle(call.store, call.host, call.values["id"], known, False)
    asked = dict(zip(sealed.BASE, known))
    return sealed.seal(call.store, call.host, call.values["id"], asked, call.secrets[0] if call.secrets else "")


# Straight from host to host: keys on all that send, admissions on all that receive, then both at the same time.


def _prepare(call: _Call) -> Result:
    values = call.values
    found = Outgoing(sizes=[_bundle(call, known).size for known in values["known"]])
    for address, port in values["hops"]:
        found.hops.append(sending.make_key(call.store.system, values["run"], address, port, values["seconds"]))
    return found


def _open(call: _Call) -> Result:
    values = call.values
    admission = sending.Admission(values["run"], values["public"], values["source"], values["seconds"])
    login = values["login"]
    try:
        user = pwd.getpwnam(login["user"]) if "user" in login else pwd.getpwuid(os.stat(login["directory"]).st_uid)
    except KeyError as error:
        raise EvenkeelError(f"the login user is no account of this host: {error}") from error
    make_room(call.store, call.host, values["size"], [call.store.root], call.params["retention"])
    return sending.open_for(call.store.system, admission, user, foreign.room(call.store.root))


def _send(call: _Call) -> Result:
    made = _bundle(call, call.values["known"])
    sending.send(sending.Target(**call.values["target"]), made.write)
    return Sent(bytes=made.size)


def _take(call: _Call) -> Result:
    size, onward = call.values["size"], call.values.get("onward")
    target = sending.Target(**onward) if onward else None

    def store(stream: BinaryIO) -> Copied:
        return _stored(call, replicas.Incoming(stream, size))

    taken = sending.receive(call.values["path"], size, store, target)
    taken.changed = True
    return taken


def _close(call: _Call) -> Result:
    for path in call.values["paths"]:
        scratch.forget(path)
    return Result()


def _candidates(call: _Call) -> Result:
    found = replicas.candidates(call.store, call.host)
    found.candidates += sealed.candidates(call.store, call.host)
    with suppress(EvenkeelError):  # Each copy is proved by its MAC, wherever it is.
        found.place = call.place()
    return found


def _adopt(call: _Call) -> Result:
    values = call.values
    terms = replicas.Terms.of(values)
    with naming(call.store.root), scratch.taken(values["path"]) as path, replicas.opened(path) as incoming:
        if call.seal:
            incoming = sealed.incoming(incoming, call.seal["chain"], call.secrets)
        taken = replicas.adopt(call.store, call.host, values["id"], incoming, terms)
        if call.seal:
            replicas.note_encrypted(call.store, call.host, True)
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
    "prepare": _prepare,
    "open": _open,
    "send": _send,
    "take": _take,
    "close": _close,
    "candidates": _candidates,
    "adopt": _adopt,
}
