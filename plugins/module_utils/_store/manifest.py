# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record of a checkpoint: line-based text whose name is its own SHA-256.

::

    evenkeel-manifest 1
    created 2026-11-23T23:50:11.123456Z
    host web1
    kind snapshot
    name before-upgrade
    parent <id, or ->
    root <sha256 of everything after the blank line>

    resource files {"exclude":[],"paths":["/etc/nginx"]}
    d /etc/nginx 755 0 0 1700000000000000000
    f /etc/nginx/nginx.conf 644 0 0 1700000000000000000 size=1447 sha256=...
    resource services {"names":["nginx"],"processes":[]}
    unit {"active":true,"enabled":"enabled","name":"nginx.service"}

Two checkpoints of the same state have the same root; their ids differ, because they were taken at another time.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from .._errors import Damaged

_MAGIC = "evenkeel-manifest 1"
_HEADER = ("created", "host", "kind", "name", "parent", "root")


@dataclass(frozen=True)
class Section:
    """What one resource recorded: its kind, what was declared of it, and its lines in its own words."""

    kind: str
    spec: dict[str, Any]
    lines: list[str] = field(default_factory=list)

    def text(self) -> str:
        declared = json.dumps(self.spec, sort_keys=True, separators=(",", ":"))
        return "\n".join([f"resource {self.kind} {declared}", *self.lines]) + "\n"


@dataclass(frozen=True)
class Manifest:
    """A checkpoint as it is written. ``id`` is None until it is encoded or parsed."""

    created: str
    host: str
    name: str
    sections: list[Section]
    kind: str = "snapshot"
    parent: str | None = None
    root: str = ""
    id: str = ""

    @classmethod
    def of(
        cls, created: str, host: str, name: str, sections: list[Section], parent: str | None
    ) -> tuple[Manifest, bytes]:
        """The manifest of these sections, with the bytes that are its file."""
        body = "".join(section.text() for section in sections).encode("ascii")
        root = hashlib.sha256(body).hexdigest()
        fields = {
            "created": created,
            "host": host,
            "kind": "snapshot",
            "name": name,
            "parent": parent or "-",
            "root": root,
        }
        head = "\n".join([_MAGIC, *(f"{key} {fields[key]}" for key in _HEADER)]).encode("ascii")
        data = head + b"\n\n" + body
        made = cls(created, host, name, sections, "snapshot", parent, root, hashlib.sha256(data).hexdigest())
        return made, data

    @classmethod
    def parse(cls, data: bytes, expected: str) -> Manifest:
        """The manifest with the id ``expected``; its hash is checked before anything of it is believed."""
        actual = hashlib.sha256(data).hexdigest()
        if actual != expected:
            raise Damaged(f"manifest {expected} is damaged: its SHA-256 is {actual}")
        try:
            head, body = data.split(b"\n\n", 1)
            lines = head.decode("ascii").split("\n")
            fields = dict(line.split(" ", 1) for line in lines[1:])
            if lines[0] != _MAGIC or tuple(fields) != _HEADER:
                raise ValueError("its header is not that of version 1")
            if hashlib.sha256(body).hexdigest() != fields["root"]:
                raise ValueError("its root hash does not match its body")
            sections: list[Section] = []
            for line in body.decode("ascii").splitlines():
                if line.startswith("resource "):
                    _word, kind, declared = line.split(" ", 2)
                    sections.append(Section(kind, json.loads(declared)))
                else:
                    sections[-1].lines.append(line)
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            raise Damaged(f"manifest {expected} cannot be read: {error}") from error
        parent = None if fields["parent"] == "-" else fields["parent"]
        return cls(
            fields["created"],
            fields["host"],
            fields["name"],
            sections,
            fields["kind"],
            parent,
            fields["root"],
            expected,
        )
