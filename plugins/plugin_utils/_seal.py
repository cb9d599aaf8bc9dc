# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of encrypted copies: the keys, a secret for each bundle, and the cards that name checkpoints.

The keys are the variable ``evenkeel_encryption_key`` of the host whose copies they are. The first key encrypts, all of
them decrypt. No host ever has such a key: the host that encrypts or decrypts a bundle gets the secret of that bundle.
All secrets follow from a key by HMAC-SHA256, and from the names of the owner, the checkpoint and the bundle.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.proof import LONGEST, tag_of
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

VARIABLE = "evenkeel_encryption_key"
_SHORTEST = 32
_NAMES = ("id", "host", "name", "created")


@dataclass(frozen=True)
class Key:
    """A key for the copies of one owner."""

    derived: bytes

    @classmethod
    def of(cls, key: str, owner: str) -> Key:
        return cls(hmac.new(key.encode(), _text("encrypted copies of", owner), hashlib.sha256).digest())

    def _hmac(self, *words: str) -> bytes:
        return hmac.new(self.derived, _text(*words), hashlib.sha256).digest()

    @property
    def name(self) -> str:
        """The name by which records tell with which key a bundle was encrypted."""
        return self._hmac("name of the key").hex()[:16]

    def secret(self, checkpoint: str, nonce: str) -> str:
        """The secret of one bundle: nothing else is ever encrypted with it."""
        return self._hmac("bundle", checkpoint, nonce).hex()

    def group(self, name: str) -> str:
        """A word that stands for the name of a checkpoint where the name shall not be known."""
        return self._hmac("checkpoints named", name).hex()[:32]

    def _card(self) -> Fernet:
        from cryptography.fernet import Fernet  # ansible-core needs this package for its vault; few tasks need it here

        return Fernet(base64.urlsafe_b64encode(self._hmac("card")))

    def card(self, copy: Mapping[str, Any]) -> str:
        """The names of a checkpoint, encrypted."""
        return self._card().encrypt(json.dumps([copy[name] for name in _NAMES]).encode()).decode()

    def read(self, card: str) -> dict[str, str]:
        """The names on a card. Damaged where it was not made with this key."""
        from cryptography.fernet import InvalidToken

        try:
            found = json.loads(self._card().decrypt(card.encode()))
        except (InvalidToken, ValueError) as error:
            raise Damaged("its card was altered, or is that of another host") from error
        return dict(zip(_NAMES, found, strict=True))


@dataclass
class Seals:
    """The keys for the copies of one owner, possibly none: then copies are plain.

    ``nonces``: of the bundles of this run, by the base on which each builds.
    """

    keys: Sequence[Key]
    nonces: dict[Any, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.keys)

    # -- a copy to a peer

    def asking(self) -> Answer:
        """Values by which a peer is asked for encrypted copies."""
        return {"seal": {"key": self.keys[0].name}} if self.keys else {}

    def known(self, checkpoints: Sequence[str], answer: Answer) -> tuple[str, ...]:
        """The checkpoints of a peer that lacks a copy; of encrypted ones the newest, its bundle, bytes and length of
        its chain. ``checkpoints``: those of the source, oldest first."""
        if not self.keys:
            return tuple(sorted(set(checkpoints) & set(answer.get("ids", []))))
        bases = {one["id"]: one for one in answer.get("bases") or []}
        newest = next((bases[checkpoint] for checkpoint in reversed(checkpoints) if checkpoint in bases), None)
        return (newest["id"], newest["sha256"], str(newest["bytes"]), str(newest["length"])) if newest else ()

    def sealing(self, checkpoint: str, known: tuple[str, ...]) -> Answer:
        """Values by which the source encrypts the bundle for peers that know this."""
        if not self.keys:
            return {}
        nonce = self.nonces.setdefault((checkpoint, known), secrets.token_hex(32))
        base = dict(zip(("id", "sha256", "bytes", "length"), known, strict=False))
        return {"seal": {"encrypt": True, **base}, "secrets": [self.keys[0].secret(checkpoint, nonce)]}

    def receiving(self, offered: Mapping[str, Any], known: tuple[str, ...]) -> Answer:
        """The values that a peer needs to keep the ``offered`` bundle."""
        if not self.keys:
            return {}
        key = self.keys[0]
        groups = [one.group(offered["name"]) for one in self.keys]
        told = {
            "nonce": self.nonces[offered["id"], known],
            "key": key.name,
            "group": groups[0],
            "groups": groups,
            "created": offered["created"],
            "card": key.card(offered),
        }
        return {"seal": told}

    def refusal(self, answer: Answer) -> str:
        """Why a plain copy must not be sent to a peer; empty where it may."""
        if self.keys or not answer.get("sealed"):
            return ""
        return (
            f"it holds encrypted copies, and {VARIABLE} is not set: a plain copy was not sent. Set the variable; where"
            " copies shall be plain from now on, remove the encrypted ones there first (docs/copies.md)"
        )

    # -- a copy from a peer

    def opened(self, copies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The copies that one peer offers. An encrypted one gets its names from its card, and in ``sealed`` the records
        of its chain, once all of them are proved; else it is no ``verified`` copy."""
        known = {copy["sealed"]["sha256"]: copy for copy in copies if copy.get("sealed")}
        return [self._opened(copy, known) if copy.get("sealed") else dict(copy) for copy in copies]

    def _opened(self, copy: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {**copy, "host": "", "name": "", "sealed": None}
        key = self._key(copy)
        if key is None:
            detail = (
                f"it is encrypted, and no key of {VARIABLE} reads it"
                if self.keys
                else (f"it is encrypted, and {VARIABLE} is not set")
            )
            return {**found, "state": "locked", "detail": detail}
        try:
            names = key.read(copy["sealed"]["card"])
            if names["id"] != copy["id"]:
                raise Damaged("its card is that of another checkpoint")
            found.update(names)
            if copy["state"] != "damaged":
                found["sealed"] = self._proved(copy, known)
        except Damaged as error:
            return {**found, "state": "damaged", "detail": error.message}
        return found

    def _key(self, copy: Mapping[str, Any]) -> Key | None:
        return next((one for one in self.keys if one.name == copy["sealed"]["key"]), None)

    def _proved(
        self, copy: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]
    ) -> list[tuple[str, Mapping[str, Any]]]:
        """The chain of a copy, the whole bundle first, as (checkpoint, record). Damaged unless each tag is ours."""
        chain: list[tuple[str, Mapping[str, Any]]] = []
        link: Mapping[str, Any] | None = copy
        while link is not None:
            record, key = link["sealed"], self._key(link)
            if key is None:
                raise Damaged(f"it builds on a bundle that no key of {VARIABLE} reads")
            tag = tag_of(key.secret(link["id"], record["nonce"]), record["sha256"], record["base"])
            if not hmac.compare_digest(tag, record["tag"]):
                raise Damaged(f"the record of its bundle {record['sha256'][:12]} is not the one that was sent there")
            chain.insert(0, (link["id"], record))
            if not record["base"]:
                return chain
            link = known.get(record["base"]) if len(chain) < LONGEST else None
        raise Damaged("a bundle on which it builds is missing there")

    def passing(self, checkpoint: str, record: Mapping[str, Any]) -> tuple[Answer, dict[str, str]]:
        """Values by which another peer keeps the bundle of this proved record, and the names of its checkpoint. Damaged
        where the peer that has it has altered the rest of the record."""
        key = self._key({"sealed": record})
        if key is None:
            raise Damaged(f"no key of {VARIABLE} reads the bundle {record['sha256'][:12]}")
        names = key.read(record["card"])
        if names["id"] != checkpoint:
            raise Damaged(f"the card of the bundle {record['sha256'][:12]} is that of another checkpoint")
        told = {name: record[name] for name in ("nonce", "key", "card")}
        return {"seal": {**told, "group": key.group(names["name"]), "created": names["created"]}}, names

    def fetching(self, chain: Sequence[tuple[str, Mapping[str, Any]]] | None) -> Answer:
        """Values by which a peer gives a copy back."""
        return {"seal": {"sha256": chain[-1][1]["sha256"]}} if chain else {}

    def adopting(self, chain: Sequence[tuple[str, Mapping[str, Any]]] | None) -> Answer:
        """Values by which a host takes that copy in."""
        if not chain:
            return {}
        links = [{"sha256": record["sha256"], "size": record["size"]} for _checkpoint, record in chain]
        found = []
        for checkpoint, record in chain:
            key = self._key({"sealed": record})
            if key is None:
                raise UsageError(f"no key of {VARIABLE} reads the copy")
            found.append(key.secret(checkpoint, record["nonce"]))
        return {"seal": {"chain": links}, "secrets": found}


def find(given: Any, owner: str) -> Seals:
    """The keys ``given`` for the copies of ``owner``; none where nothing is given. UsageError for malformed keys: an
    empty one must not let copies leave the host in plain."""
    if given is None:
        return Seals([])
    keys = [given] if isinstance(given, str) else given
    if not isinstance(keys, (list, tuple)):
        raise UsageError(f"{VARIABLE} is no text and no list of texts")
    if not keys or any(not isinstance(key, str) or len(key) < _SHORTEST for key in keys):
        raise UsageError(
            f"{VARIABLE}: a key is a text of {_SHORTEST} characters or more; take the output of openssl rand -hex 32."
            " Nothing was sent. Take the variable away where copies shall be plain"
        )
    return Seals([Key.of(str(key), owner) for key in keys])


def leftovers(owner: str, plain: Mapping[str, int]) -> list[str]:
    """A warning of plain copies on peers that get encrypted ones. ``plain``: their number on each peer."""
    if not plain:
        return []
    named = ", ".join(f"{peer} ({count})" for peer, count in sorted(plain.items()))
    return [
        f"plain copies of {owner}, from before {VARIABLE} was set, lie on {named}: whoever has such a disk reads them."
        " They do not count, and nothing removes them by itself. Once you do not need them any more, empty the folders"
        f" refs, manifests, packs, objects and trash in replicas/{owner} of the store there"
    ]


def _text(*words: str) -> bytes:
    return json.dumps(["evenkeel encryption", 1, *words]).encode()
