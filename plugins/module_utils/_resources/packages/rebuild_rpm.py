# SPDX-License-Identifier: GPL-3.0-or-later

"""Make a package file of rpm anew from the installed files, without a mirror and without rpmbuild.

The database of rpm keeps the head of each package file, byte for byte. Its list of files tells what the payload has to
hold. A file that differs from the list now (changed by hand, or gone) is entered into the head as it is, and the
signature of the head is left out then: it would be wrong. rpm may write its content beside it (``.rpmnew``), with the
mode and owner of the list: so nobody may read it there who cannot read it now.
"""

from __future__ import annotations

import base64
import grp
import gzip
import hashlib
import lzma
import os
import pwd
import stat
import struct
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import BinaryIO, NamedTuple, cast

from ..._errors import EvenkeelError
from ..._host.hashing import chunks, hash_of, passing
from ..._host.system import System
from ..._host.trust import open_regular
from . import kept
from .package import Package

# The lead of a package file has a name that rpm does not read.
_MADE_HERE = b"made anew by Evenkeel"
_LEAD = struct.Struct(">4sBBHH66sHH16s")
_MAGIC = b"\x8e\xad\xe8\x01\0\0\0\0"
_ENTRY = struct.Struct(">IIII")
_LOOK = 60.0
_ASK = "\\n--\\n".join(
    ("%{SHA1HEADER}", "%{SHA256HEADER}", "%{RSAHEADER:base64}", "%{DSAHEADER:base64}", "%{HEADERIMMUTABLE:base64}")
)
_NONE = "(none)"
# Tags of a head, and of the head of signatures.
_SIZES, _MODES, _DIGESTS, _LINKS, _FLAGS, _DEVICES, _INODES = 1028, 1030, 1035, 1036, 1037, 1095, 1096
_USERS, _GROUPS = 1039, 1040
_PARENTS, _BASES, _DIRECTORIES, _FORMAT, _PACKER, _LONG_SIZES, _ALGORITHM = 1116, 1117, 1118, 1124, 1125, 5008, 5011
_REGION, _DSA, _RSA, _SHA1, _SHA256 = 62, 267, 268, 269, 273
_INT16, _INT32, _INT64, _STRING, _BINARY, _STRINGS = 3, 4, 5, 6, 7, 8
_WORDS = {_INT16: "H", _INT32: "I", _INT64: "Q"}
_HASHES = {1: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512"}
_GHOST, _CONFIG = 64, 1
# A block of a frame of zstd that is not compressed holds no more.
_BLOCK = 1 << 17


class _Head:
    """The head of a package file, as the database of rpm keeps it: a table of tags, and their data."""

    def __init__(self, blob: bytes) -> None:
        self.blob = bytearray(blob)
        try:
            count, size = struct.unpack_from(">II", blob)
            self.start = 8 + count * _ENTRY.size
            entries = (_ENTRY.unpack_from(blob, 8 + at * _ENTRY.size) for at in range(count))
            self.tags = {tag: (kind, offset, many) for tag, kind, offset, many in entries}
        except struct.error as error:
            raise EvenkeelError(f"the head of the package cannot be read: {error}") from error
        if self.start + size != len(blob):
            raise EvenkeelError("the head of the package has another length than it says")

    def numbers(self, tag: int) -> list[int]:
        kind, offset, many = self.tags.get(tag, (_INT32, 0, 0))
        return list(struct.unpack_from(f">{many}{_WORDS[kind]}", self.blob, self.start + offset))

    def texts(self, tag: int) -> list[bytes]:
        """The texts of the tag."""
        return [bytes(self.blob[begin:end]) for begin, end in self._spans(tag)]

    def _spans(self, tag: int) -> list[tuple[int, int]]:
        _kind, offset, many = self.tags.get(tag, (_STRINGS, 0, 0))
        begin, found = self.start + offset, []
        for _each in range(many):
            end = self.blob.index(b"\0", begin)
            found.append((begin, end))
            begin = end + 1
        return found

    def put_number(self, tag: int, at: int, value: int) -> None:
        kind, offset, _many = self.tags[tag]
        word = struct.Struct(f">{_WORDS[kind]}")
        try:
            word.pack_into(self.blob, self.start + offset + at * word.size, value)
        except struct.error as error:
            raise EvenkeelError(f"a file is too large for the list of the package: {error}") from error

    def put_text(self, tag: int, at: int, value: bytes) -> None:
        """Replace a text by one of the same length."""
        begin, end = self._spans(tag)[at]
        if end - begin != len(value):
            raise EvenkeelError("a file is no regular file in the list of the package, and is one now")
        self.blob[begin:end] = value


class _File(NamedTuple):
    """A file of the package: its place in the list, its path, what the list says, and the other names of it."""

    at: int
    path: str
    mode: int
    size: int
    flags: int
    digest: bytes
    link: bytes
    same: tuple[int, int]


def rebuild(package: Package, stream: BinaryIO, system: System, root: str = "") -> None:
    """Write the package file. Raises EvenkeelError or OSError where that fails.

    The package file holds the present files. A configuration file that was changed by hand gets one more newline: rpm
    then takes the installed file for changed, as before. A file that is gone is entered as one that the package only
    owns (ghost). ``root``: the root of the tree that is read, for a test.
    """
    name, arch, version = package.ident
    told = system.run(["rpm", "-q", "--qf", _ASK, f"{name}-{version}.{arch}"], _LOOK)
    if told.rc:
        raise EvenkeelError(f"rpm does not tell of the package: {told.words}")
    words = [word.strip() for word in told.out.split("\n--\n")]
    if len(words) != 5 or words[-1] == _NONE:
        raise EvenkeelError("the database of rpm does not have the head of the package file")
    sha1, sha256, rsa, dsa, blob = words
    head = _Head(base64.b64decode(blob))
    if hashlib.sha256(_MAGIC + head.blob).hexdigest() != sha256:
        raise EvenkeelError("the database of rpm does not have the head of the package file as it was")
    try:
        payload = _Payload(head, root)
    except (LookupError, ValueError, struct.error) as error:
        raise EvenkeelError(f"the list of files of the package cannot be read: {error!r}") from error
    kept.refuse_if_full(stream, payload.size)
    signed = [(_SHA1, sha1.encode())] if sha1 != _NONE else []
    if payload.differs:
        signed, sha256 = [], hashlib.sha256(_MAGIC + head.blob).hexdigest()
    else:
        signed += [(tag, base64.b64decode(word)) for tag, word in ((_RSA, rsa), (_DSA, dsa)) if word != _NONE]
    stream.write(_LEAD.pack(b"\xed\xab\xee\xdb", 3, 0, 0, 1, _MADE_HERE, 1, 5, b""))
    stream.write(_signatures([*signed, (_SHA256, sha256.encode())]))
    stream.write(_MAGIC + head.blob)
    payload.write(stream)


def is_made_here(path: str) -> bool:
    """Whether ``rebuild`` has written the package file. Its payload has another digest than its head says."""
    with open_regular(path) as stream:
        return stream.read(_LEAD.size)[10:].startswith(_MADE_HERE)


class _Payload:
    """The files of the package, in the order of its list. A file that differs now is entered into the head at once."""

    def __init__(self, head: _Head, root: str) -> None:
        packer = b"".join(head.texts(_PACKER)).decode() or "gzip"
        form = b"".join(head.texts(_FORMAT)) or b"cpio"
        if packer not in ("gzip", "xz", "lzma", "zstd") or form != b"cpio":
            raise EvenkeelError(f"a payload of {form.decode()} in {packer} cannot be made")
        self.head, self.root, self.packer = head, root, packer
        self.sizes = _LONG_SIZES if _LONG_SIZES in head.tags else _SIZES
        self.hash = _HASHES.get((head.numbers(_ALGORITHM) or [1])[0], "")
        self.differs = False
        self.more: set[int] = set()
        self.files = {one.at: found for one in self._listed() for found in [self._now(one)] if found is not None}
        groups: dict[tuple[int, int], list[int]] = {}
        for one in self.files.values():
            if stat.S_ISREG(one.mode):
                groups.setdefault(one.same, []).append(one.at)
        for group in groups.values():
            if len({self.files[at].digest for at in group}) > 1:
                raise EvenkeelError(f"{self.files[group[0]].path} and another name of it are two files by now")
        self.last = {group[-1] for group in groups.values()}
        self.groups = groups
        self.size = sum(one.size for one in self.files.values() if one.at in self.last)

    def _listed(self) -> list[_File]:
        """The files of the list."""
        head = self.head
        folders, bases = head.texts(_DIRECTORIES), head.texts(_BASES)
        paths = [os.fsdecode(folders[at] + base) for at, base in zip(head.numbers(_PARENTS), bases)]
        same = list(zip(head.numbers(_DEVICES), head.numbers(_INODES)))
        columns = zip(
            head.numbers(_MODES),
            head.numbers(self.sizes),
            head.numbers(_FLAGS),
            head.texts(_DIGESTS),
            head.texts(_LINKS),
        )
        found = [_File(at, paths[at], *row, same[at]) for at, row in enumerate(columns)]
        if bases and len(found) != len(bases):
            raise EvenkeelError("the list of files of the package cannot be read")
        return found

    def _now(self, entry: _File) -> _File | None:
        """The file as it is now, entered into the head where it differs; None where the payload leaves it out."""
        if entry.flags & _GHOST:
            return None
        kind = stat.S_IFMT(entry.mode)
        try:
            now = os.lstat(self.root + entry.path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            now = 0
        if kind == stat.S_IFREG:
            if stat.S_ISREG(now):
                return self._regular(entry)
        elif now and (kind == stat.S_IFDIR or kind == stat.S_IFMT(now)):
            return entry  # A link in the place of a directory stays where rpm unpacks the directory.
        self.head.put_number(_FLAGS, entry.at, entry.flags | _GHOST)
        self.differs = True
        return None

    def _regular(self, entry: _File) -> _File:
        if not self.hash:
            raise EvenkeelError("the list of files of the package has hashes of an unknown kind")
        with open_regular(self.root + entry.path) as stream:
            sum_ = hashlib.new(self.hash, usedforsecurity=False)
            _digest, size = hash_of(chunks(stream.fileno()), sum_)
            now = os.fstat(stream.fileno())
        if entry.digest in (b"", sum_.hexdigest().encode()) and size == entry.size:
            return entry
        self.differs, mode = True, self._narrowed(entry, now)
        self.head.put_number(_MODES, entry.at, mode)
        if entry.flags & _CONFIG:
            self.more.add(entry.at)
            sum_.update(b"\n")
            size += 1
        self.head.put_number(self.sizes, entry.at, size)
        self.head.put_text(_DIGESTS, entry.at, sum_.hexdigest().encode())
        return entry._replace(size=size, digest=sum_.hexdigest().encode(), mode=mode)

    def _narrowed(self, entry: _File, now: os.stat_result) -> int:
        """The mode of the list, as far as the file has it now, and without the bits of a group that may not read it."""
        mode = entry.mode & (now.st_mode | ~0o7777)
        if now.st_mode & 0o004:
            return mode
        user, group = (os.fsdecode(self.head.texts(tag)[entry.at]) for tag in (_USERS, _GROUPS))
        with suppress(KeyError):
            if grp.getgrnam(group).gr_gid == now.st_gid:
                group = ""
        owner = 0
        with suppress(KeyError):
            owner = pwd.getpwnam(user).pw_uid
        if owner not in (0, now.st_uid):
            raise EvenkeelError(f"{entry.path} was changed, and its package gives it to {user}, who may not read it")
        return mode & ~0o070 if group else mode

    def write(self, stream: BinaryIO) -> None:
        """Write the compressed payload."""
        if self.packer == "gzip":
            with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1, mtime=0) as packed:
                self._entries(cast(BinaryIO, packed))
        elif self.packer == "zstd":
            frame = _Frame(stream)
            self._entries(cast(BinaryIO, frame))
            frame.close()
        else:
            form = lzma.FORMAT_XZ if self.packer == "xz" else lzma.FORMAT_ALONE
            with lzma.open(stream, "wb", format=form, preset=0) as packed_:
                self._entries(cast(BinaryIO, packed_))

    def _entries(self, stream: BinaryIO) -> None:
        """Write the archive. An entry names its place in the list, where rpm reads the rest. Files that are one file
        follow each other, and the last of them has the content."""
        written: set[int] = set()
        for one in self.files.values():
            group = self.groups.get(one.same, [one.at]) if stat.S_ISREG(one.mode) else [one.at]
            for at in group if one.at not in written else ():
                written.add(at)
                stream.write(b"07070X%08x\0\0" % at)
                self._content(self.files[at], stream)
        end = b"TRAILER!!!\0"
        fields = (0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(end), 0)
        stream.write(b"070701" + b"".join(b"%08x" % one for one in fields) + end + b"\0" * 3)

    def _content(self, entry: _File, stream: BinaryIO) -> None:
        size = 0
        if stat.S_ISLNK(entry.mode):
            stream.write(entry.link)
            size = len(entry.link)
        elif stat.S_ISREG(entry.mode) and entry.at in self.last:
            sum_ = hashlib.new(self.hash, usedforsecurity=False)
            with open_regular(self.root + entry.path) as source:
                pieces = chain(chunks(source.fileno()), [b"\n"] if entry.at in self.more else [])
                for piece in passing(pieces, sum_):
                    stream.write(piece)
                    size += len(piece)
            if size != entry.size or entry.digest not in (b"", sum_.hexdigest().encode()):
                raise EvenkeelError(f"{entry.path} was changed while it was read")
        stream.write(b"\0" * (-size % 4))


class _Frame:
    """A frame of zstd whose blocks are not compressed: no Python of a host can compress in this form."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.open = bytearray()
        # No size and no checksum; a window of 128 KiB.
        stream.write(b"\x28\xb5\x2f\xfd\x00\x38")

    def write(self, data: bytes) -> int:
        self.open += data
        while len(self.open) > _BLOCK:
            self._block(bytes(self.open[:_BLOCK]), last=False)
            del self.open[:_BLOCK]
        return len(data)

    def close(self) -> None:
        """Write the last block."""
        self._block(bytes(self.open), last=True)

    def _block(self, data: bytes, last: bool) -> None:
        self.stream.write(((len(data) << 3) | last).to_bytes(3, "little") + data)


def _signatures(words: Sequence[tuple[int, bytes]]) -> bytes:
    """The head of signatures: hashes are texts, signatures are bytes. Its end is aligned."""
    entries, data = b"", b""
    for tag, value in sorted(words):
        is_text = tag in (_SHA1, _SHA256)
        entries += _ENTRY.pack(tag, _STRING if is_text else _BINARY, len(data), 1 if is_text else len(value))
        data += value + b"\0" * is_text
    count = len(words) + 1
    entries = _ENTRY.pack(_REGION, _BINARY, len(data), _ENTRY.size) + entries
    data += struct.pack(">IIiI", _REGION, _BINARY, -count * _ENTRY.size, _ENTRY.size)
    found = _MAGIC + struct.pack(">II", count, len(data)) + entries + data
    return found + b"\0" * (-len(found) % 8)
