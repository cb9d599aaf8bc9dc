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

Two checkpoints of the same state have the same root; their ids differ, because they were taken at different times.

A record of ``kind log`` holds for each resource only the changes since its ``parent``, which it follows: ``=<n>`` for n
lines that stay, ``-<line>`` for a line that went, ``+<line>`` for a line that came. Its root is that of the whole
state.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Callable

from .._dataclasses import dataclass, field, replace
from .._errors import Damaged

_MAGIC = "evenkeel-manifest 1"
LOG = "log"
# The number of lines that are written at once.
_BATCH = 8192
# The number of bytes that are read at once.
_PIECE = 1024 * 1024
# The first line of a section begins with this.
_FIRST = b"resource "
_HEADER = ("created", "host", "kind", "name", "parent", "root")
# Bounds for input: bytes of a header line, and of all declarations; levels of a declaration, digits of a number in it.
_HEADER_LINE = 4096
_DECLARATION = 4 * 1024 * 1024
_LEVELS = 20
_DIGITS = 30
_KIND = re.compile("[a-z][a-z0-9_]{0,39}")
_ID = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Section:
    """The part of one resource: its kind, its declaration, and its lines in the words of the kind."""

    kind: str
    spec: dict[str, Any]
    lines: list[str] = field(default_factory=list)

    def text(self) -> Iterator[bytes]:
        """The text of the section in pieces: a copy of all lines at once would double the memory."""
        declared = json.dumps(self.spec, sort_keys=True, separators=(",", ":"))
        yield f"resource {self.kind} {declared}\n".encode("ascii")
        for at in range(0, len(self.lines), _BATCH):
            yield ("\n".join(self.lines[at : at + _BATCH]) + "\n").encode("ascii")


@dataclass(frozen=True)
class Manifest:
    """A checkpoint as it is written. ``id`` is empty until it is encoded or parsed."""

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
        cls,
        created: str,
        host: str,
        name: str,
        sections: list[Section],
        parent: str | None,
        base: Manifest | None = None,
    ) -> tuple[Manifest, Iterator[bytes]]:
        """The manifest of these sections, and the text of its file in pieces. With ``base`` a record that follows it.

        ``base`` is whole, and has the same declarations (see ``Manifest.can_follow``).
        """
        root = cls.root_of(sections)
        written = sections
        if base is not None:
            parent = base.id
            pairs = zip(base.sections, sections)
            written = [replace(after, lines=_changes(before.lines, after.lines)) for before, after in pairs]
        kind = "snapshot" if base is None else LOG
        fields = {"created": created, "host": host, "kind": kind, "name": name, "parent": parent or "-", "root": root}
        head = "\n".join([_MAGIC, *(f"{key} {fields[key]}" for key in _HEADER)]).encode("ascii") + b"\n\n"

        def text() -> Iterator[bytes]:
            yield head
            for section in written:
                yield from section.text()

        digest = hashlib.sha256()
        for piece in text():
            digest.update(piece)
        return cls(created, host, name, sections, kind, parent, root, digest.hexdigest()), text()

    def can_follow(self, base: Manifest) -> bool:
        """Whether this state can be recorded as the changes since ``base``."""
        return base.host == self.host and _declared(base.sections) == _declared(self.sections)

    def following(self, base: Manifest) -> Manifest:
        """This record with its whole state, given the record that it follows. ``check_root`` verifies the state.

        Raises Damaged when it cannot be a record of changes since ``base``.
        """
        try:
            if base.id != self.parent or _declared(base.sections) != _declared(self.sections):
                raise ValueError("it follows another record")
            pairs = zip(base.sections, self.sections)
            sections = [replace(after, lines=_changed(before.lines, after.lines)) for before, after in pairs]
        except ValueError as error:
            raise Damaged(f"record {self.id} of the log {self.name} cannot be read: {error}") from error
        return replace(self, sections=sections)

    def check_root(self) -> Manifest:
        """Return the whole manifest if its state has the hash that its root names; Damaged otherwise."""
        if self.root_of(self.sections) != self.root:
            raise Damaged(f"record {self.id} of the log {self.name} does not lead to the state that its root names")
        return self

    def written(self) -> Iterator[tuple[str, str]]:
        """(kind of resource, line) of each line that the file itself holds; of a log record, the lines that came."""
        for section in self.sections:
            for line in section.lines:
                if self.kind != LOG:
                    yield section.kind, line
                elif line.startswith("+"):
                    yield section.kind, line[1:]

    @staticmethod
    def root_of(sections: Sequence[Section]) -> str:
        """The root of a manifest of these sections."""
        digest = hashlib.sha256()
        for section in sections:
            for piece in section.text():
                digest.update(piece)
        return digest.hexdigest()

    @classmethod
    def parse(cls, data: bytes, expected: str) -> Manifest:
        """``read`` of the bytes of its file."""
        return cls.read(io.BytesIO(data), expected)

    @classmethod
    def read(cls, stream: BinaryIO, expected: str, whole: bool = True) -> Manifest:
        """Read the manifest with the id ``expected`` in pieces: a copy of the text would double the memory.

        Its hash is checked before any part is trusted. Without ``whole`` it is checked too, but has no lines. The
        sections of a record of kind log hold changes: see ``following``.
        """
        head, odd = _read_head(stream)
        digest, body = hashlib.sha256(b"".join(head)), hashlib.sha256()
        found: list[tuple[bytes, list[str]]] = []
        for piece in iter(lambda: stream.read(_PIECE) + stream.readline(), b""):
            digest.update(piece)
            body.update(piece)
            if not piece.isascii() or not piece.endswith(b"\n"):
                odd = "it is not of ASCII, or ends within a line"
            for first, lines in _split(piece):
                if first:
                    found.append((first, []))
                if lines and not found:
                    odd = "it does not begin with a resource"
                elif lines and whole:
                    found[-1][1].extend(lines[:-1].decode("latin-1").split("\n"))
        _check(digest.hexdigest(), expected)
        with _reading(expected):
            if odd:
                raise ValueError(odd)
            if sum(len(line) for line, _lines in found) > _DECLARATION:
                raise ValueError("its declarations are too long")
            sections = [replace(_section(line), lines=lines) for line, lines in found]
            return cls._of_head(head, body.hexdigest(), sections, expected)

    @classmethod
    def read_head(cls, stream: BinaryIO, expected: str) -> Manifest:
        """The manifest without its sections, from its header alone. Nothing is verified. Damaged if malformed."""
        head, odd = _read_head(stream)
        with _reading(expected):
            if odd:
                raise ValueError(odd)
            return cls._of_head(head, None, [], expected)

    @classmethod
    def _of_head(cls, head: list[bytes], root: str | None, sections: list[Section], expected: str) -> Manifest:
        """The manifest of the header; ``root`` is the hash of the body, None where it was not read. ValueError if
        bad."""
        lines = b"".join(head[:-1])[:-1].decode("ascii").split("\n")
        fields = dict(line.split(" ", 1) for line in lines[1:])
        if lines[0] != _MAGIC or tuple(fields) != _HEADER:
            raise ValueError("its header is not that of version 1")
        if fields["kind"] != LOG and root is not None and root != fields["root"]:
            raise ValueError("its root hash does not match its body")
        parent = None if fields["parent"] == "-" else fields["parent"]
        created, host, name, kind = (fields[key] for key in ("created", "host", "name", "kind"))
        if kind not in ("snapshot", LOG) or not (parent is None or _ID.fullmatch(parent)):
            raise ValueError("its kind or its parent is none")
        return cls(created, host, name, sections, kind, parent, fields["root"], expected)


def _read_head(stream: BinaryIO) -> tuple[list[bytes], str]:
    """(the lines of a header, the blank line last; what is wrong with them, in words, or nothing)."""
    head: list[bytes] = []
    for line in iter(lambda: stream.readline(_HEADER_LINE), b""):
        head.append(line)
        if line == b"\n" or len(head) > len(_HEADER) + 1:
            return head, "" if line == b"\n" else "its header is not that of version 1"
    return head, "it has a header alone"


def _check(actual: str, expected: str) -> None:
    if actual != expected:
        raise Damaged(f"manifest {expected} is damaged: its SHA-256 is {actual}")


@contextmanager
def _reading(expected: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, IndexError, UnicodeDecodeError, RecursionError) as error:
        raise Damaged(f"manifest {expected} cannot be read: {error}") from error


def _split(piece: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(first line of a section, lines below it) for each section in a piece of whole lines. The first may be cut off:
    then its first line is empty."""
    at = 0
    while at < len(piece):
        first = b""
        if piece.startswith(_FIRST, at):
            end = piece.find(b"\n", at) + 1 or len(piece)
            first, at = piece[at : end - 1], end
        end = piece.find(b"\n" + _FIRST, max(at - 1, 0)) + 1 or len(piece)
        yield first, piece[at:end]
        at = end


def _section(line: bytes) -> Section:
    """The section of a first line, without the lines below it. ValueError if malformed."""
    word, kind, spec = line.decode("ascii").split(" ", 2)
    if word != "resource" or not _KIND.fullmatch(kind):
        raise ValueError("it does not begin with a resource")
    return Section(kind, read_json(spec))


def read_json(text: str) -> dict[str, Any]:
    """A mapping in JSON with bounded length, depth and numbers. ValueError for anything else."""
    if len(text) > _DECLARATION:
        raise ValueError(f"a record of {len(text)} bytes is too long")
    try:
        found = json.loads(text, parse_int=_bounded(int), parse_float=_bounded(float), parse_constant=_bounded(None))
    except RecursionError:
        found = None
    if not isinstance(found, dict) or not _is_shallow(found, _LEVELS):
        raise ValueError(f"a record is no mapping, or of more than {_LEVELS} levels")
    return found


def _bounded(make: Callable[[str], Any] | None) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        if make is None or len(text) > _DIGITS:
            raise ValueError(f"{text[:_DIGITS]} is no number that a record has")
        return make(text)

    return number


def _is_shallow(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in inner)


def _declared(sections: Sequence[Section]) -> list[tuple[str, dict[str, object]]]:
    return [(section.kind, section.spec) for section in sections]


def _changes(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """The changes from ``before`` to ``after``, for ``_changed``; their number grows with the differences alone."""
    places = {line: at for at, line in enumerate(before)}
    script: list[str] = []
    at = same = 0
    for line in [*after, None]:
        place = len(before) if line is None else places.get(line, -1)
        if place == at and line is not None:
            at, same = at + 1, same + 1
            continue
        if same:
            script.append(f"={same}")
            same = 0
        if place >= at:
            script += [f"-{gone}" for gone in before[at:place]]
            at, same = place + 1, 1
        else:
            script.append(f"+{line}")
    return script


def _changed(before: Sequence[str], script: Sequence[str]) -> list[str]:
    """The lines after the changes. Raises ValueError when the changes do not fit these lines."""
    after: list[str] = []
    at = 0
    for step in script:
        word, rest = step[:1], step[1:]
        if word == "+":
            after.append(rest)
            continue
        count = int(rest) if word == "=" else 1
        kept = before[at : at + count]
        if count < 1 or word not in ("=", "-") or (word == "-" and kept != [rest]):
            raise ValueError(f"{step!r} is no change of line {at + 1} of the record before it")
        if word == "=":
            after += kept
        at += count
    if at != len(before):
        raise ValueError(f"its changes end at line {at} of {len(before)}")
    return after
