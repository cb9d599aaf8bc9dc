# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL's write-ahead log: positions, timelines, segments. Pure.

An LSN is a position in bytes, an int here, ``16/B374D848`` in words. A timeline is a branch of the log; its history
says where it left the timelines before it. The log lies in segments of equal size, whose names hold timeline and
number.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import NamedTuple

# Sizes of the headers of a segment and of a page, behind which the next record begins, and the size of a page.
_LONG, _SHORT, _PAGE = 40, 24, 8192
# Records that the server writes while no client changes data, by resource manager. Even reading tidies pages up.
_QUIET = {
    "Heap2": {"PRUNE", "PRUNE_ON_ACCESS"},
    "Standby": {"RUNNING_XACTS"},
    "XLOG": {
        "CHECKPOINT_ONLINE",
        "CHECKPOINT_SHUTDOWN",
        "CHECKPOINT_REDO",
        "BACKUP_END",
        "END_OF_RECOVERY",
        "FPI_FOR_HINT",
        "FPW_CHANGE",
        "NOOP",
        "PARAMETER_CHANGE",
        "RESTORE_POINT",
        "SWITCH",
    },
}
_RECORD = re.compile(r"^rmgr: (\S+) .*, desc: (\w+)", re.MULTILINE)
_LSN = r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})"
_BASE = r"([0-9A-F]{8})-([0-9A-F]{16})-([0-9A-F]{16})-([0-9a-f]{16})-([0-9a-f]{16})"
_SEGMENT = r"[0-9A-F]{8}([0-9A-F]{8})([0-9A-F]{8})(\.partial|\.[0-9A-F]{8}\.backup)?"


class Leg(NamedTuple):
    """A stretch of the log on a timeline, from the LSN ``start`` up to the LSN ``end``."""

    timeline: int
    start: int
    end: int


class Base(NamedTuple):
    """A base backup: the log from ``start`` to ``end`` makes it consistent. ``digest``: the hash of its manifest.
    ``store``: the tag of the store whose checkpoints need it.

    The name of its directory holds all of these values, so that no file has to be read for them.
    """

    timeline: int
    start: int
    end: int
    digest: str
    store: str

    @property
    def name(self) -> str:
        return f"{self.timeline:08X}-{self.start:016X}-{self.end:016X}-{self.digest}-{self.store}"

    @classmethod
    def parse(cls, name: str) -> Base | None:
        """The base of a directory's name; None for a name of another form."""
        found = re.fullmatch(_BASE, name)
        if found is None:
            return None
        timeline, start, end, digest, store = found.groups()
        return cls(int(timeline, 16), int(start, 16), int(end, 16), digest, store)


def position(text: str) -> int:
    """The LSN of a text such as ``16/B374D848``; ValueError for a text of another form."""
    found = re.fullmatch(_LSN, text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is no position in the log")
    return (int(found[1], 16) << 32) + int(found[2], 16)


def words(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def end_of_last(lsn: int, segment_size: int) -> int:
    """The end of the last record, for a position behind it: without a header of a segment or page that follows. The
    server counts its written bytes so."""
    if lsn % segment_size == _LONG:
        return lsn - _LONG
    return lsn - _SHORT if lsn % _PAGE == _SHORT else lsn


def segment_name(timeline: int, number: int, segment_size: int) -> str:
    each = 0x100000000 // segment_size
    return f"{timeline:08X}{number // each:08X}{number % each:08X}"


def precedes(name: str, lsn: int, segment_size: int) -> bool:
    """Whether the file is a segment, or belongs to a segment, that ends before the position, on any timeline."""
    found = re.fullmatch(_SEGMENT, name)
    each = 0x100000000 // segment_size
    return found is not None and int(found[1], 16) * each + int(found[2], 16) < lsn // segment_size


def forks(history: str) -> list[tuple[int, int]]:
    """(timeline, LSN at which it was left) for all earlier timelines, the oldest first, from the text of a history
    file; ValueError for a text that is none."""
    found = []
    for line in history.splitlines():
        fields = line.split(None, 2)
        if fields and not fields[0].startswith("#"):
            timeline, lsn = fields[:2]
            found.append((int(timeline), position(lsn)))
    return found


def route(
    start_timeline: int, start: int, before: Sequence[tuple[int, int]], timeline: int, end: int
) -> list[Leg] | None:
    """The legs from the position ``start`` to the position ``end`` of ``timeline``, whose ``forks`` are ``before``.

    None where no way leads there: the start is on a branch that was left earlier, or is behind the end.
    """
    legs: list[Leg] = []
    for one, left in [*before, (timeline, end)]:
        if legs:
            legs.append(Leg(one, legs[-1].end, left))
        elif one == start_timeline:
            legs.append(Leg(one, start, left))
    return legs if legs and all(leg.start <= leg.end for leg in legs) else None


def parts(leg: Leg, segment_size: int) -> list[Leg]:
    """The leg in two parts, split after its first segment: that segment may be gone from a place that has the newest
    segments."""
    middle = leg.start - leg.start % segment_size + segment_size
    both = [Leg(leg.timeline, leg.start, min(middle, leg.end)), Leg(leg.timeline, middle, leg.end)]
    return [part for part in both if part.start < part.end]


def segments(legs: Sequence[Leg], segment_size: int) -> list[str]:
    """The segments that hold the legs. The segment in which a timeline was left is read from the next timeline."""
    found: dict[int, int] = {}
    for leg in legs:
        for number in range(leg.start // segment_size, max(leg.start, leg.end - 1) // segment_size + 1):
            found[number] = leg.timeline
    return [segment_name(timeline, number, segment_size) for number, timeline in sorted(found.items())]


def wrong_header(head: bytes, name: str, system: int, segment_size: int) -> str:
    """The fault of ``head``, the first bytes of the segment ``name`` of the cluster ``system``; empty where it has
    none."""
    if len(head) < _LONG:
        return "it is cut off"
    _magic, flags, timeline, start, _rest, found, size, _page = struct.unpack("=HHIQI4xQII", head[:_LONG])
    each = 0x100000000 // segment_size
    number = int(name[8:16], 16) * each + int(name[16:24], 16)
    if not flags & 2:
        return "it does not begin as a segment does"
    if found != system:
        return f"it is of the cluster {found}"
    # Segments that a timeline took over from the timeline before it keep the older timeline's number.
    if size != segment_size or start != number * segment_size or timeline > int(name[:8], 16):
        return "it holds another stretch of the log"
    return ""


def quiet(dump: str, limit: int) -> bool:
    """Whether no client changed data, judged by the output of pg_waldump for up to ``limit`` records."""
    records = _RECORD.findall(dump)
    return len(records) < limit and all(what in _QUIET.get(manager, ()) for manager, what in records)
