# SPDX-License-Identifier: GPL-3.0-or-later

"""The checkpoints that were taken in the middle of a change, or while the host was in doubt: they hold a state that
nobody has confirmed. ``latest`` means none of them, unless their change has been confirmed.

The file ``amid`` of the store holds a line for each: its id, and the generation of its change. The line of a change
that was confirmed, or accepted, has the word ``stays`` as well (see ``Store.amid``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from .._host.durable import write_file
from .._store.store import AMID, STAYS, Store

_Line = list[str]


def note(store: Store, checkpoint: str, generation: int) -> None:
    """Under the lock: record that this checkpoint was taken in the middle of this change."""
    _rewrite(store, lambda lines: [*lines, [checkpoint, str(generation)]])


def judge(store: Store, generation: int, stays: bool) -> None:
    """Under the lock: record whether the change stays, and with it the state of the checkpoints in the middle of it."""

    def judged(lines: list[_Line]) -> list[_Line]:
        mark = [STAYS] if stays else []
        return [[*one[:2], *mark] if one[1] == str(generation) else one for one in lines]

    with suppress(OSError):  # A failure keeps no change from its end.
        _rewrite(store, judged)


def forget(store: Store, checkpoint: str) -> None:
    """Under the lock: record that the host has the state of this checkpoint outside of any change."""
    _rewrite(store, lambda lines: [one for one in lines if one[0] != checkpoint])


def _rewrite(store: Store, change: Callable[[list[_Line]], list[_Line]]) -> None:
    before = store.amid_lines()
    after = [one for one in change(before) if os.path.lexists(store.join("manifests", one[0]))]
    if after != before:
        write_file(store.join(AMID), "".join(f"{' '.join(one)}\n" for one in after).encode("ascii", "replace"))
