# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kinds of state that a checkpoint holds: how they are declared, and how they are captured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .._errors import UsageError
from .._store.manifest import Section
from .._store.objects import Hasher, Writer
from .._system import System
from . import files, services

KINDS = {"files": files.check, "services": services.check}


def check(resources: Any) -> list[Section]:
    """The declared resources, files first, as sections without lines; UsageError names what is wrong and where."""
    if not isinstance(resources, list) or not resources:
        raise UsageError(
            "resources is empty: declare what is to be protected, for example - files: {paths: [/etc/nginx]}"
        )
    sections = []
    for number, item in enumerate(resources, 1):
        if not isinstance(item, dict) or len(item) != 1:
            raise UsageError(f"resources, item {number}: {item!r} must have one key, the kind: {' or '.join(KINDS)}")
        ((kind, spec),) = item.items()
        if kind not in KINDS:
            raise UsageError(f"resources, item {number}: unknown kind {kind!r}; there are {' and '.join(KINDS)}")
        if not isinstance(spec, dict):
            raise UsageError(f"resources, item {number}: {kind} takes a mapping, not {spec!r}")
        try:
            sections.append(Section(kind, KINDS[kind](spec)))
        except UsageError as error:
            raise UsageError(f"resources, item {number}: {error.message}") from error
    order = list(KINDS)
    sections.sort(key=lambda section: order.index(section.kind))
    _refuse_overlap(sections)
    return sections


def _refuse_overlap(sections: Sequence[Section]) -> None:
    """Two declarations of one tree could disagree on what is excluded."""
    seen: list[tuple[str, int]] = []
    for number, section in enumerate(sections):
        for path in section.spec.get("paths", []):
            for other, owner in seen:
                shorter, longer = sorted((path, other), key=len)
                if owner != number and (longer + "/").startswith(shorter + "/"):
                    raise UsageError(f"files: {path} and {other} overlap in two declarations; put them into one")
            seen.append((path, number))


def capture(sections: Sequence[Section], sink: Writer | Hasher, system: System, store: str) -> list[Section]:
    """The sections with what is true now. The store itself is never part of a tree."""
    taken = []
    for section in sections:
        if section.kind == "files":
            lines = files.scan(section.spec, sink, [os.path.realpath(store)]).lines()
        else:
            lines = services.capture(section.spec, system)
        taken.append(replace(section, lines=lines))
    return taken
