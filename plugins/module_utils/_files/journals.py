# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The journals of a store: the plan of each, and its end."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from typing import Any

from .._errors import Damaged
from .._host.durable import (
    fsync_dir,
    remove_file,
)
from .._store.store import Store
from .anchors import STAGE, Anchor
from .removal import remove

# What reading a plan that is none may raise.
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RecursionError)


def read(journal: str) -> dict[str, Any]:
    path = os.path.join(journal, "plan")
    try:
        with open(path) as stream:
            return dict(json.load(stream))
    except OSError as error:
        raise unreadable(journal, str(error)) from error


def unreadable(journal: str, why: str) -> Damaged:
    path = os.path.join(journal, "plan")
    return Damaged(f"the plan of an interrupted rollback, {path}, cannot be read: {why}; run the rollback again")


def close(journal: str) -> None:
    """Remove the journal and its staging directories; a kill in between leaves the journal to be dropped again.

    COMMIT goes first, durably: all it stood for has been done, and must not be done again to what comes later.
    """
    remove_file(os.path.join(journal, "COMMIT"))
    removed = [remove(anchor) for anchor in _anchors_of(journal)]
    if all(removed):  # Otherwise the next run tries again.
        shutil.rmtree(journal)
        fsync_dir(os.path.dirname(journal))


def _anchors_of(journal: str) -> list[Anchor]:
    found: list[Anchor] = []
    # Where the file is damaged, what follows in it is not known.
    with suppress(FileNotFoundError, *MALFORMED), open(os.path.join(journal, "anchors")) as stream:
        for one in json.load(stream):
            found.append(Anchor.read(one))
    return [one for one in found if os.path.basename(one.path).startswith(STAGE)]


def pending(store: Store) -> list[str]:
    """The folders of unfinished journals, oldest first."""
    folder = store.join("journal")
    return [os.path.join(folder, one) for one in sorted(os.listdir(folder))] if os.path.isdir(folder) else []


def committed(store: Store) -> bool:
    """Whether a rollback was interrupted that has to be carried on. A journal without COMMIT asks for nothing."""
    return any(os.path.exists(os.path.join(journal, "COMMIT")) for journal in pending(store))
