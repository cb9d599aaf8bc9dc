# SPDX-License-Identifier: GPL-3.0-or-later

"""Make a package file of dpkg anew from the installed files, without a mirror and without dpkg-repack."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import stat
import tarfile
from collections.abc import Mapping, Sequence
from typing import BinaryIO, cast

from ..._errors import EvenkeelError
from ..._host.system import System
from . import kept
from .package import Package

_INFO = "/var/lib/dpkg/info"
_DIVERSIONS = "/var/lib/dpkg/diversions"
_LOOK = 60.0
# Fields of the status that do not belong to the package.
_STATE = ("Status", "Conffiles", "Config-Version", "Triggers-Pending", "Triggers-Awaited")
# Bytes that the files may have beyond the package's own size: users can write to some files of packages.
_MORE = 64 << 20
_FAST = 1
# Length of the head of a member of an archive of ar.
_HEAD = 60


def rebuild(package: Package, stream: BinaryIO, system: System, root: str = "") -> None:
    """Write the package file. Raises EvenkeelError or OSError where that fails.

    The package file holds the present files. A configuration file that was changed by hand gets one more newline:
    dpkg then takes the installed file for changed, as before, and keeps it. ``root``: the root of the tree that is
    read, for a test.
    """
    name = package.key if package.arch != "all" else package.name
    control, hashes = _control(_told(["-s", name], system))
    size = int(_field(control, "Installed-Size") or 0) * 1024
    kept.refuse_if_full(stream, 2 * size)
    contents = _Contents(_listed(package, root), hashes, _diverted(package.name, root), root, 4 * size + _MORE)
    texts = {"control": control.encode()}
    for member in _told(["--control-list", name], system).split():
        texts[member] = _read(_info(package, root, member))
    texts.pop("md5sums", None)  # The sum of a file that was changed by hand would be wrong.
    texts["conffiles"] = contents.conffiles()  # dpkg keeps this list in the status alone.
    stream.write(b"!<arch>\n")
    _member(stream, "debian-binary", b"2.0\n")
    _member(stream, "control.tar.gz", _control_tar(texts))
    _head(stream, "data.tar.gz", 0)
    start = stream.tell()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=_FAST, mtime=0) as packed:
        contents.write(cast(BinaryIO, packed))
    written = stream.tell() - start
    stream.write(b"\n" * (written % 2))
    stream.seek(start - _HEAD)
    _head(stream, "data.tar.gz", written)


class _Contents:
    """The files of a package."""

    def __init__(
        self, paths: Sequence[str], hashes: Mapping[str, str], diverted: Mapping[str, str], root: str, limit: int
    ) -> None:
        self.paths = paths
        self.hashes = hashes
        self.diverted = diverted
        self.root = root
        self.limit = limit
        self.above = {os.path.dirname(path) for path in paths}
        self._first: dict[tuple[int, int], str] = {}

    def conffiles(self) -> bytes:
        """The member ``conffiles``: the configuration files that exist."""
        return b"".join(os.fsencode(path) + b"\n" for path in self.hashes if os.path.isfile(self._real(path)))

    def _real(self, path: str) -> str:
        return self.root + self.diverted.get(path, path)

    def write(self, stream: BinaryIO) -> None:
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:
            for path in self.paths:
                self._add(path, archive)

    def _add(self, path: str, archive: tarfile.TarFile) -> None:
        real = self._real(path)
        try:
            info = os.lstat(real)
            # A directory of the package may be a link to a directory on this host, as /lib is.
            if stat.S_ISLNK(info.st_mode) and path in self.above:
                info = os.stat(real)
        except OSError:
            return  # dpkg left the file out, or somebody removed it: it does not come back.
        member = tarfile.TarInfo("./" if path == "/." else f".{path}")
        member.mode, member.uid, member.gid = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
        member.mtime = int(info.st_mtime)
        if stat.S_ISDIR(info.st_mode):
            member.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(info.st_mode):
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink(real)
        elif stat.S_ISREG(info.st_mode):
            self._add_file(path, real, member, archive)
            return
        else:
            raise EvenkeelError(f"{real} is neither a file nor a link")
        archive.addfile(member)

    def _add_file(self, path: str, real: str, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as stream:
            info = os.fstat(fd)  # The open file counts: another file may have its name by now.
            if not stat.S_ISREG(info.st_mode):
                raise EvenkeelError(f"{real} has become another")
            member.mode, member.uid, member.gid = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
            inode = (info.st_dev, info.st_ino)
            first = self._first.setdefault(inode, member.name)
            if first != member.name:
                member.type, member.linkname = tarfile.LNKTYPE, first
                archive.addfile(member)
                return
            self.limit -= info.st_size
            if self.limit < 0:
                raise EvenkeelError("its files are far larger than the package")
            member.size = info.st_size
            if path in self.hashes:
                data = stream.read(info.st_size)
                if hashlib.md5(data, usedforsecurity=False).hexdigest() != self.hashes[path]:
                    data += b"\n"
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
                return
            archive.addfile(member, stream)


def _told(words: Sequence[str], system: System) -> str:
    done = system.run(["dpkg-query", *words], _LOOK)
    if done.rc:
        raise EvenkeelError(f"dpkg-query {' '.join(words)}: {done.words}")
    return done.out


def _control(status: str) -> tuple[str, dict[str, str]]:
    """(the text of ``control``, configuration file -> MD5), from a paragraph of dpkg's status. Pure."""
    fields = re.findall(r"^([!-9;-~]+):(.*(?:\n[ \t].*)*)$", status, re.MULTILINE)
    text = "".join(f"{name}:{value}\n" for name, value in fields if name not in _STATE)
    told = next((value for name, value in fields if name == "Conffiles"), "")
    lines = [line.split() for line in told.splitlines() if line.strip()]
    return text, {words[0]: words[1] for words in lines if len(words) == 2}


def _field(control: str, name: str) -> str:
    found = re.search(rf"^{name}:\s*(\S+)", control, re.MULTILINE)
    return found[1] if found else ""


def _info(package: Package, root: str, member: str) -> str:
    """The file in which dpkg keeps a member of the package's control data, or its list of paths."""
    paths = [f"{root}{_INFO}/{stem}.{member}" for stem in (package.key, package.name)]
    return next((path for path in paths if os.path.exists(path)), paths[-1])


def _listed(package: Package, root: str) -> list[str]:
    return [line for line in os.fsdecode(_read(_info(package, root, "list"))).splitlines() if line.startswith("/")]


def _diverted(name: str, root: str) -> dict[str, str]:
    """Path -> the path at which dpkg puts this package's file instead."""
    try:
        lines = os.fsdecode(_read(root + _DIVERSIONS)).splitlines()
    except OSError:
        return {}
    return {at: to for at, to, by in zip(lines[::3], lines[1::3], lines[2::3]) if by != name}


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _control_tar(texts: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    scripts = ("preinst", "postinst", "prerm", "postrm", "config")
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.GNU_FORMAT) as archive:
        for name, data in texts.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mode = len(data), 0o755 if name in scripts else 0o644
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


# -- ar


def _head(stream: BinaryIO, name: str, size: int) -> None:
    stream.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{size:<10}`\n".encode())


def _member(stream: BinaryIO, name: str, data: bytes) -> None:
    _head(stream, name, len(data))
    stream.write(data + b"\n" * (len(data) % 2))
