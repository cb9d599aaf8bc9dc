# SPDX-License-Identifier: GPL-3.0-or-later

"""The records of encrypted copies, as a peer reads them: see ``sealed``."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from .._dataclasses import dataclass, fields
from .._errors import Damaged
from .._host import openssl
from .._host.trust import open_regular
from .._store.proof import LONGEST
from .._store.store import Store

SEALED = "sealed"
RECORDS = "records"
_RECORD_SIZE = 16 * 1024
HEX = re.compile("[0-9a-f]{64}")
_FORMS = {
    "id": HEX,
    "sha256": HEX,
    "base": re.compile("([0-9a-f]{64})?"),
    "nonce": HEX,
    "tag": HEX,
    "key": re.compile("[0-9a-f]{16}"),
    "group": re.compile("[0-9a-f]{32}"),
    "created": re.compile("[0-9TZ:.-]{20,30}"),
    "card": re.compile("[A-Za-z0-9_=-]{1,4000}"),
}


@dataclass(frozen=True)
class Record:
    """The knowledge of a peer about a bundle. It needs ``id``, ``created`` and ``group`` (which stands for the name of
    the checkpoint) for its retention. ``key`` names the key; the ``card`` holds the names, for the controller alone."""

    id: str
    sha256: str
    base: str
    size: int
    nonce: str
    tag: str
    key: str
    group: str
    created: str
    card: str

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Record:
        """The record of these values; Damaged where one has another form."""
        for name, form in _FORMS.items():
            if not isinstance(values.get(name), str) or not form.fullmatch(values[name]):
                raise Damaged(f"the record of an encrypted copy is refused: {name} has no form of ours")
        size = values.get("size")
        if isinstance(size, bool) or not isinstance(size, int) or size < openssl.OVERHEAD:
            raise Damaged("the record of an encrypted copy is refused: size has no form of ours")
        return cls(**{one.name: values[one.name] for one in fields(cls)})


def file_of(target: Store, name: str, sha: str) -> str:
    if not HEX.fullmatch(sha):
        raise Damaged(f"{sha[:100]!r} is not the name of an encrypted bundle")
    return target.join(name, sha)


def bundle_path(target: Store, sha: str) -> str:
    """The file of a sealed bundle."""
    return file_of(target, SEALED, sha)


def record_path(target: Store, sha: str) -> str:
    """The file of its record."""
    return file_of(target, RECORDS, sha)


def record(target: Store, sha: str) -> Record:
    """The record of a bundle. Damaged where the record is missing, torn or that of another bundle."""
    try:
        with open_regular(record_path(target, sha)) as stream:
            line, digest = stream.read(_RECORD_SIZE).split(b"\n")[:2]
        if hashlib.sha256(line).hexdigest().encode() != digest:
            raise ValueError
        found = Record.of(json.loads(line))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Damaged(f"the record of the encrypted bundle {sha[:12]} is missing or damaged") from error
    if found.sha256 != sha:
        raise Damaged(f"the record of the encrypted bundle {sha[:12]} is that of another bundle")
    return found


def shas(target: Store) -> list[str]:
    """The names of all bundles that have a record, damaged ones too."""
    folder = target.join(RECORDS)
    return sorted(filter(HEX.fullmatch, os.listdir(folder))) if os.path.isdir(folder) else []


def records(target: Store) -> dict[str, Record]:
    """All records that can be read, by the names of their bundles."""
    found = {}
    for sha in shas(target):
        with suppress(Damaged):
            found[sha] = record(target, sha)
    return found


def reach(known: Mapping[str, Record], sha: str) -> list[Record]:
    """As much of the chain as there is, the checkpoint's own record last."""
    found: list[Record] = []
    while sha in known and len(found) < LONGEST:
        found.insert(0, known[sha])
        sha = found[0].base
    return found


def faults(target: Store) -> dict[str, str]:
    """The bundles that no copy can use, in words: without their record, their file, or a bundle before them."""
    found: dict[str, str] = {}
    known = records(target)
    for sha in shas(target):
        if sha not in known:
            found[sha] = "its record is damaged"
        elif not os.path.lexists(bundle_path(target, sha)):
            found[sha] = "it is missing"
        elif (first := reach(known, sha)[0]).base:
            found[sha] = f"the bundle {first.base[:12]}, on which it builds, is missing"
    # Without the lock, a bundle that is pruned while we look seems to be missing.
    return {sha: why for sha, why in found.items() if os.path.lexists(record_path(target, sha))}
