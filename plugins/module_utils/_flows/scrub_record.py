# SPDX-License-Identifier: GPL-3.0-or-later

"""The file ``scrub`` of a store: when each part of it was read last (see ``scrub``)."""

from __future__ import annotations

import hashlib
import json

from .._dataclasses import dataclass, field
from .._store.store import Store


@dataclass(frozen=True)
class Batch:
    """A pack or a folder of large contents, in the replica of ``host`` or the store itself. It is read as a whole."""

    host: str
    kind: str  # packs, objects
    name: str

    @property
    def key(self) -> str:
        return "/".join([*(["replicas", self.host] if self.host else []), self.kind, self.name])


@dataclass
class State:
    """The time at which each batch was read last, by its key, and the end of the last pass over all (epoch seconds)."""

    began: float
    passed: float | None = None
    verified: dict[str, float] = field(default_factory=dict)


def load(store: Store) -> State:
    """The record of earlier runs. A record that is damaged, or from the future, is ignored: everything is read anew."""
    now = store.system.now()
    try:
        with open(store.join("scrub"), "rb") as stream:
            line, digest = stream.read().split(b"\n")[:2]
        if hashlib.sha256(line).hexdigest().encode() != digest:
            return State(now)
        state = State(**json.loads(line))
    except (OSError, ValueError, TypeError):
        return State(now)
    state.began = min(state.began, now)
    state.verified = {key: at for key, at in state.verified.items() if at <= now}
    return state
