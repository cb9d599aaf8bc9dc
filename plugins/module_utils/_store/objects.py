# SPDX-License-Identifier: GPL-3.0-or-later

"""Contents, named by their SHA-256: small ones in packs, large ones in files of their own.

A pack is written once under a temporary name and never changed after its rename. It is ``evenkeel-pack 1`` and then,
for each content, a line ``<sha256> <size>``, the bytes, a newline. Its name is its own SHA-256, so that sha256sum
alone audits it. The index beside it (``<sha256> <offset> <size>`` per line, then ``end <size of the pack> <SHA-256 of
the lines before>``) only saves reading the pack: where the index is missing or incomplete, the pack itself is read.

Files that nothing names any more lie in ``trash`` for a while, under the same names. A reader without the lock, and a
later checkpoint, find them there as in their places.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from typing import Any, BinaryIO, Callable

from .._errors import Damaged
from .._host.durable import clone, early, ensure_dir, fsync_dir, move_all, sync_paths, write_all
from .._host.hashing import CHUNK, chunks, hash_file, hash_of
from .index import Index, line_of

SMALL = 64 * 1024
PACK_LIMIT = 32 * 1024 * 1024
_MAGIC = b"evenkeel-pack 1\n"
_NAME = re.compile("[0-9a-f]{64}")


class Objects:
    """The contents below ``root`` (the folders ``packs``, ``objects``, ``tmp``, ``trash`` and ``quarantine``)."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._index: Index | None = None
        # Path of a stat cache -> the identity of the file that was read, and its contents (see ``cache``).
        self.cached: dict[str, tuple[tuple[int, int, int], Any]] = {}

    def path(self, sha: str) -> str:
        """The file of a large content. Damaged for a malformed name, which could lead anywhere."""
        if not _NAME.fullmatch(sha):
            raise Damaged(f"{sha[:100]!r} is not the name of a content")
        return os.path.join(self.root, "objects", sha[:2], sha[2:])

    def pack_path(self, name: str) -> str:
        return os.path.join(self.root, "packs", name + ".pack")

    def in_trash(self, path: str) -> str:
        """The place in the trash of a file of the store."""
        return os.path.join(self.root, "trash", path[len(self.root.rstrip("/")) + 1 :])

    @property
    def has_trash(self) -> bool:
        return os.path.isdir(os.path.join(self.root, "trash"))

    def _either(self, path: str) -> str:
        """The file in its place, or else the file in the trash."""
        trashed = self.in_trash(path)
        return trashed if os.path.exists(trashed) and not os.path.exists(path) else path

    def index(self) -> Index:
        """The index of all packs."""
        if self._index is None:
            folder = os.path.join(self.root, "packs")
            found = Index()
            # Without the lock: a file that is moved to or from the trash meanwhile is still found.
            seen = set()
            for where in (folder, self.in_trash(folder), folder):
                for entry in sorted(os.listdir(where)) if os.path.isdir(where) else []:
                    if entry.endswith(".pack") and entry not in seen:
                        with suppress(FileNotFoundError):
                            found.add(_pack_name(entry), self._lines_of(os.path.join(where, entry)), where != folder)
                            seen.add(entry)
            self._index = found
        return self._index

    def packs(self) -> dict[str, list[int]]:
        """Name -> size, and size and times of its index: while these stay, the pack has the same contents."""
        found = {}
        place = os.path.join(self.root, "packs")
        for folder, where in ((place, ""), (self.in_trash(place), "trash/")):
            for entry in os.listdir(folder) if os.path.isdir(folder) else []:
                if entry.endswith(".pack"):
                    with suppress(FileNotFoundError):
                        index = os.stat(os.path.join(folder, entry[: -len(".pack")] + ".idx"))
                        size = os.stat(os.path.join(folder, entry)).st_size
                        found[where + entry] = [size, index.st_size, index.st_mtime_ns, index.st_ctime_ns]
        return found

    def _lines_of(self, path: str) -> bytes:
        """The contents of the pack at ``path``, as the lines of its index."""
        lines = self._read_index(path)
        return b"".join(_scan_pack(path)) if lines is None else lines

    def _read_index(self, path: str) -> bytes | None:
        """The lines of the index of the pack at ``path``; None unless the whole index is as it was written."""
        size = os.path.getsize(path)
        try:
            with open(_index_path(path), "rb") as stream:
                body, _end, last = stream.read().rpartition(b"end ")
        except OSError:
            return None
        if b"end " + last != _index_end(body, size):
            return None
        return body

    def write_index(self, pack: str, body: bytes) -> None:
        """Write the index without sync: where it is missing or torn, the pack itself is read. ``pack`` is its path."""
        path = _index_path(pack)
        with open(path + ".tmp", "wb") as stream:
            stream.write(body)
            stream.write(_index_end(body, os.path.getsize(pack)))
        os.chmod(path + ".tmp", 0o400)
        os.rename(path + ".tmp", path)

    def drop(self, sha: str) -> None:
        """Let a damaged content of a pack count as missing, so that it can be stored again."""
        place = self.index().drop(sha)
        if place:
            pack = self._either(self.pack_path(place.pack))
            rest = [line for line in self._lines_of(pack).splitlines(True) if not line.startswith(sha.encode("ascii"))]
            self.write_index(pack, b"".join(rest))

    def has(self, sha: str) -> bool:
        return sha in self.index() or self.has_loose(sha)

    def has_loose(self, sha: str) -> bool:
        """Whether the content has its own file."""
        return os.path.exists(self._either(self.path(sha)))

    def size(self, sha: str) -> int:
        """Bytes of the content; Damaged when it is not there."""
        place = self.index().get(sha)
        if place:
            return place.size
        try:
            return os.path.getsize(self._either(self.path(sha)))
        except OSError as error:
            raise Damaged(f"object {sha} is missing from the store {self.root}") from error

    def open(self, sha: str) -> BinaryIO:
        """The content's stream; the caller checks the hash of what it reads (see ``read``)."""
        place = self.index().get(sha)
        try:
            if place:
                stream = self._open(self.pack_path(place.pack))
                stream.seek(place.offset)
                return stream
            return self._open(self.path(sha))
        except OSError as error:
            raise Damaged(f"object {sha} is missing from the store {self.root}: {error.strerror}") from error

    def _open(self, path: str) -> BinaryIO:
        for place in (path, self.in_trash(path)):
            with suppress(FileNotFoundError):
                return open(place, "rb")
        return open(path, "rb")  # The object was taken back meanwhile, or is missing.

    def read(self, sha: str) -> Iterator[bytes]:
        """The content in chunks. Raises Damaged where it cannot be read, with the error of the system as the cause, and
        at its end when its hash is not its name."""
        digest = hashlib.sha256()
        try:
            left = self.size(sha)
            with self.open(sha) as stream:
                while left:
                    chunk = stream.read(min(CHUNK, left))
                    if not chunk:
                        break
                    left -= len(chunk)
                    digest.update(chunk)
                    yield chunk
        except OSError as error:
            raise Damaged(f"object {sha} cannot be read from the store {self.root}: {error.strerror}") from error
        if digest.hexdigest() != sha:
            raise Damaged(f"object {sha} is damaged: its content has the SHA-256 {digest.hexdigest()}")

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        """(name, size, chunks) of each content, in this order. Each is read, as by ``read``, before the next comes."""
        with closing(Reader(self)) as reader:
            for sha in names:
                yield sha, self.size(sha), reader.read(sha)

    def verify(self, sha: str) -> str | None:
        """The fault of a content in words, or None where it is there and whole."""
        try:
            for _chunk in self.read(sha):
                pass
        except (Damaged, OSError) as error:
            return str(error)
        return None

    def loose_stream(self, sha: str) -> BinaryIO | None:
        """The open file of a content that has its own file, for a clone; None for another content."""
        if sha in self.index():
            return None
        try:
            return self._open(self.path(sha))
        except OSError:
            return None

    def pack_contents(self, path: str) -> Iterator[tuple[str, bytes | None]]:
        """(name, content) of all contents of the pack at ``path``; None for a damaged content."""
        with open(path, "rb") as stream:
            for sha, offset, size in map(str.split, self._lines_of(path).decode("ascii").splitlines()):
                data = b""
                with suppress(OSError):
                    stream.seek(int(offset))
                    data = stream.read(int(size))
                yield sha, data if hashlib.sha256(data).hexdigest() == sha else None

    def forget_index(self) -> None:
        """Read the indexes of the packs again at the next use."""
        self._index = None

    # -- under the lock

    def index_is_whole(self, path: str) -> bool:
        """Whether the index of the pack at ``path`` is as it was written."""
        return self._read_index(path) is not None

    def index_anew(self, path: str) -> None:
        self.write_index(path, b"".join(_scan_pack(path)))

    def forget_pack(self, pack: str) -> None:
        """Let all contents of the pack count as missing, so that they can be stored again."""
        self.index().drop_pack(pack)

    def throw_away(self, paths: Iterable[str], now: float) -> None:
        """Move files of the store to the trash, each with the time; durable. Nothing may name them any more."""
        moves = []
        for path in paths:
            os.utime(path, (now, now))
            moves.append((path, self.in_trash(path)))
        move_all(moves)
        self._index = None

    def take_back(self, needed: Iterable[str]) -> None:
        """Move the contents that lie in the trash to their places, durably, before a manifest names them."""
        if not self.has_trash:
            return
        index = self.index()
        paths = set()
        for sha in needed:
            place = index.get(sha)
            if place:
                pack = self.pack_path(place.pack)
                paths |= {pack, _index_path(pack)}
            else:
                paths.add(self.path(sha))
        found = [(self.in_trash(path), path) for path in sorted(paths) if not os.path.exists(path)]
        move_all([(trashed, path) for trashed, path in found if os.path.exists(trashed)])

    def empty_trash(self, before: float) -> None:
        """Delete files that were thrown away before that time."""
        for folder, _folders, names in os.walk(os.path.join(self.root, "trash")):
            for name in names:
                path = os.path.join(folder, name)
                if os.lstat(path).st_mtime < before:
                    os.unlink(path)
        self._index = None


def _pack_name(path: str) -> str:
    return os.path.basename(path)[: -len(".pack")]


def _index_path(pack: str) -> str:
    return pack[: -len(".pack")] + ".idx"


def _index_end(body: bytes, size: int) -> bytes:
    """The last line of the index of a pack of ``size`` bytes, with the hash of the lines before it."""
    return b"end %d %s\n" % (size, hashlib.sha256(body).hexdigest().encode("ascii"))


def _scan_pack(path: str) -> Iterator[bytes]:
    """The lines of the index of a pack, read from the pack itself, without damaged contents."""
    with open(path, "rb") as stream:
        if stream.readline() != _MAGIC:
            return
        while True:
            line = stream.readline(128)
            try:
                sha, size = line.decode("ascii").split()
                length = int(size)
            except ValueError:
                return
            if not 0 <= length <= os.fstat(stream.fileno()).st_size:  # Python allocates the whole size before it reads.
                return
            offset = stream.tell()
            data = stream.read(length)
            if stream.read(1) != b"\n":
                return
            if hashlib.sha256(data).hexdigest() == sha:
                yield line_of(sha, offset, length)


def tag(root: str) -> str:
    """A mark for data outside of the store that belongs to it: several stores may protect the same state."""
    return hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]


class Reader:
    """Reads contents one after another. A pack stays open from one content to the next, as neighbours mostly lie in one
    pack."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._pack = ""
        self._stream: BinaryIO | None = None

    def read(self, sha: str) -> Iterator[bytes]:
        """The content in chunks, as by ``Objects.read``, which has the same errors."""
        place = self.objects.index().get(sha)
        if place is None or place.size > SMALL:
            return self.objects.read(sha)
        if self._stream is None or place.pack != self._pack:
            self.close()
            self._pack, self._stream = place.pack, self.objects.open(sha)
        data = b""
        with suppress(OSError):
            data = os.pread(self._stream.fileno(), place.size, place.offset)
        if hashlib.sha256(data).hexdigest() != sha:
            return self.objects.read(sha)  # This call names the fault.
        return iter((data,))

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None


class Writer:
    """Adds contents. None of them can be found before ``publish``, and all of them are durable afterwards.

    A writer that is dropped or killed leaves files in ``tmp``, which the next run removes.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._tmp = os.path.join(objects.root, "tmp")
        ensure_dir(self._tmp)
        self._packs: list[tuple[str, str, bytes]] = []  # temporary path, name, lines of the index
        self._pack: BinaryIO | None = None
        self._lines = bytearray()  # of the index of the pack that is being written
        self._digest = hashlib.sha256()
        self._offset = 0
        self._fresh: set[str] = set()
        self._loose: dict[str, str] = {}
        self._count = 0
        self._afterwards: list[Callable[[], None]] = []
        self.new_bytes = 0

    @property
    def objects(self) -> Objects:
        """The contents to which it adds."""
        return self._objects

    @property
    def new_objects(self) -> int:
        return len(self._fresh) + len(self._loose)

    def has(self, sha: str) -> bool:
        return sha in self._fresh or sha in self._loose or self._objects.has(sha)

    def add(self, data: bytes) -> str:
        """Store a small content unless the store has it; its name."""
        sha = hashlib.sha256(data).hexdigest()
        # A small content is in a pack or nowhere.
        if sha not in self._fresh and sha not in self._objects.index():
            head = b"%s %d\n" % (sha.encode("ascii"), len(data))
            if self._pack is None or self._offset + len(head) + len(data) > PACK_LIMIT:
                self._seal()
                self._pack = open(self._temporary(), "wb", buffering=CHUNK)  # noqa: SIM115 - closed when sealed
                self._put(_MAGIC)
            self._lines += line_of(sha, self._offset + len(head), len(data))
            self._put(b"%s%s\n" % (head, data))
            self._fresh.add(sha)
            self.new_bytes += len(data)
        return sha

    def add_file(self, fd: int) -> tuple[str, int]:
        """Store a large content from an open file at offset 0; (name, size).

        A clone is a consistent copy of one moment, and is hashed itself. Elsewhere the file is hashed first, because a
        content that the store has need not be written again.
        """
        temporary = self._temporary()
        target = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        keep = False
        try:
            most = os.fstat(fd).st_size
            if clone(fd, target):
                os.ftruncate(target, min(most, os.fstat(target).st_size))
                sha, size = hash_file(target)
            else:
                sha, size = hash_file(fd)
                if not self.has(sha):
                    os.lseek(fd, 0, os.SEEK_SET)
                    sha, size = hash_of(_copying(chunks(fd, size), target))
                    os.ftruncate(target, size)
            if not self.has(sha):
                keep = True
                self._loose[sha] = temporary
                self.new_bytes += size
            return sha, size
        finally:
            os.close(target)
            if not keep:
                os.unlink(temporary)

    def add_stream(self, stream: BinaryIO, size: int) -> str:
        """Store ``size`` bytes of a stream under their own hash; Damaged when it ends too early."""
        if size <= SMALL:
            data = stream.read(size)
            if len(data) != size:
                raise Damaged(f"the bundle ends {size - len(data)} bytes too early")
            return self.add(data)
        temporary = self._temporary()
        target = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            sha, written = hash_of(early(target, _copying(_limited(stream, size), target)))
            os.ftruncate(target, written)
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(target)
        if self.has(sha):
            os.unlink(temporary)
        else:
            self._loose[sha] = temporary
            self.new_bytes += size
        return sha

    def publish(self) -> None:
        """Make all added contents durable and findable: data first, then the names (invariant I1)."""
        self._seal()
        temporaries = [path for path, _name, _lines in self._packs] + list(self._loose.values())
        sync_paths(temporaries)
        folders = set()
        for temporary, name, lines in self._packs:
            path = self._objects.pack_path(name)
            ensure_dir(os.path.dirname(path))
            os.chmod(temporary, 0o400)
            os.rename(temporary, path)
            self._objects.write_index(path, lines)
            folders.add(os.path.dirname(path))
            index = self._objects._index
            if index is not None and len(index) < len(self._fresh):
                self._objects._index = None  # The next use reads the index; a first checkpoint has none.
            elif index is not None:
                index.add(name, lines)
        for sha, temporary in self._loose.items():
            path = self._objects.path(sha)
            ensure_dir(os.path.dirname(os.path.dirname(path)))
            ensure_dir(os.path.dirname(path))
            os.chmod(temporary, 0o400)
            os.rename(temporary, path)
            folders.add(os.path.dirname(path))
        for folder in folders:
            fsync_dir(folder)
        self._packs, self._loose, self._fresh = [], {}, set()
        self._end()

    def afterwards(self, action: Callable[[], None]) -> None:
        """Call the action once the contents are published or discarded."""
        self._afterwards.append(action)

    def _end(self) -> None:
        while self._afterwards:
            self._afterwards.pop(0)()

    def discard(self) -> None:
        """Forget all contents that were added and not published. It never fails: it is called where something else
        failed, and the next run removes files that stay."""
        paths = [path for path, _name, _lines in self._packs] + list(self._loose.values())
        if self._pack is not None:
            paths.append(self._pack.name)
            with suppress(OSError):  # The call writes the buffer, for which there may be no room.
                self._pack.close()
            self._pack = None
        for path in paths:
            with suppress(OSError):
                os.unlink(path)
        if self.new_objects:
            self._afterwards.clear()  # The actions rely on contents that are discarded here.
        self._packs, self._loose, self._fresh = [], {}, set()
        self._end()

    def _put(self, data: bytes) -> None:
        if self._pack is None:
            raise ValueError("the pack is closed")
        self._pack.write(data)
        self._digest.update(data)
        self._offset += len(data)

    def _seal(self) -> None:
        if self._pack is not None:
            self._pack.close()
            self._packs.append((self._pack.name, self._digest.hexdigest(), bytes(self._lines)))
        self._pack, self._lines, self._digest, self._offset = None, bytearray(), hashlib.sha256(), 0

    def _temporary(self) -> str:
        self._count += 1
        return os.path.join(self._tmp, f"new-{os.getpid()}-{self._count}")


class Hasher:
    """Takes the place of a Writer where nothing may be written (check mode): only names are computed.

    ``objects``: the contents to which that Writer would add, for names that depend on them.
    """

    new_bytes = 0
    new_objects = 0

    def __init__(self, objects: Objects | None = None) -> None:
        self.objects = objects

    def add(self, data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    def add_file(self, fd: int) -> tuple[str, int]:
        return hash_file(fd)


def _limited(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        chunk = stream.read(min(CHUNK, size))
        if not chunk:
            raise Damaged(f"the bundle ends {size} bytes too early")
        size -= len(chunk)
        yield chunk


def _copying(stream: Iterator[bytes], target: int) -> Iterator[bytes]:
    """Pass the chunks on, writing each to ``target``, with holes where a chunk is all zeros."""
    for chunk in stream:
        if not chunk[0] and not chunk[-1] and chunk.count(0) == len(chunk):
            os.lseek(target, len(chunk), os.SEEK_CUR)
        else:
            write_all(target, chunk)
        yield chunk
