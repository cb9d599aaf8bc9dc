# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages of Debian: the packages that dpkg and apt know, and the sources of package files."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence

from ..._errors import EvenkeelError
from ..._host.system import System
from ..._store.objects import SMALL, Hasher
from ..kind import Sink
from .package import LATER, Ident, Package

_FILTER = re.compile(r"""^[ \t]*(path-exclude|path-include)[ \t]*[= \t][ \t]*["']?(.*?)["']?[ \t]*$""", re.MULTILINE)
_ARCHIVES = "/var/cache/apt/archives"
_MARKS = "/var/lib/apt/extended_states"
_FORMAT = "${Package}\\t${Architecture}\\t${Version}\\t${db:Status-Want}\\t${db:Status-Eflag}\\t${db:Status-Status}\\n"
# The states of a package that is not installed (configuration files may be left), and of a package that is fully
# installed (triggers run by themselves).
_GONE = ("not-installed", "config-files")
_WHOLE = ("installed", "triggers-awaited", "triggers-pending")
_LOOK = 60.0
_CONFIG = "/etc/dpkg/dpkg.cfg"
# The scripts of packages, each under the name of its package.
INFO = "/var/lib/dpkg/info"
# Seconds that a download may take: for the connection, and for each package. A rollback may wait for it.
_CONNECT, _EACH = 20.0, 2.0


def read_text(path: str) -> str:
    """The text of a file; empty where nobody can read it."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def read_packages(system: System) -> dict[str, Package]:
    """key -> package, for all packages that are fully or partly installed; empty where the host has no dpkg."""
    seen = system.run(["dpkg-query", "-W", "-f", _FORMAT], _LOOK)
    if seen.rc == 127 or (seen.rc and "no packages found" in seen.err):
        return {}
    if seen.rc:
        raise EvenkeelError(f"the list of packages cannot be read: {seen.words}; see what 'dpkg --audit' says")
    try:
        with open(_MARKS, encoding="utf-8", errors="replace") as stream:
            marks = stream.read()
    except FileNotFoundError:
        marks = ""
    return packages_of(seen.out, marks)


def packages_of(listed: str, marks: str) -> dict[str, Package]:
    """key -> package, from the output of dpkg-query and the text of apt's extended_states. Pure."""
    auto = auto_marked(marks)
    names = {name for name, _arch in auto}
    found = {}
    for line in listed.splitlines():
        name, arch, version, want, flag, status = line.split("\t")
        if status in _GONE:
            continue
        # apt notes a package for all architectures under the host's own architecture.
        marked = (name, arch) in auto or (arch == "all" and name in names)
        whole = status in _WHOLE and flag == "ok"
        state = "" if whole else (status if flag == "ok" else f"{status}-{flag}")
        package = Package(name, arch, version, want == "hold", marked, state)
        found[package.key] = package
    return found


def with_data(system: System) -> dict[str, Package]:
    """key -> package, for the packages that are not installed, and have left their configuration and data."""
    seen = system.run(["dpkg-query", "-W", "-f", _FORMAT], _LOOK)
    words = [line.split("\t") for line in seen.out.splitlines()] if seen.rc == 0 else []
    found = [Package(one[0], one[1], one[2]) for one in words if one[5:] == ["config-files"]]
    return {one.key: one for one in sorted(found)}


def auto_marked(text: str) -> set[tuple[str, str]]:
    """(name, architecture) of the packages that apt installed because another package needed them."""
    found = set()
    for paragraph in _paragraphs(text):
        if paragraph.get("Auto-Installed") == "1":
            found.add((paragraph.get("Package", ""), paragraph.get("Architecture", "")))
    return found


def _paragraphs(text: str) -> Iterable[dict[str, str]]:
    """The fields of each paragraph; of a field of several lines, the first line."""
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.splitlines() if ": " in line and line[:1] not in (" ", "\t")]
        if lines:
            yield dict(line.split(": ", 1) for line in lines)


def older(version: str, other: str, system: System) -> bool:
    return system.run(["dpkg", "--compare-versions", version, "lt", other], _LOOK).rc == 0


# -- files that dpkg leaves out of packages


def filters(config: str = _CONFIG) -> list[str]:
    """The options by which dpkg leaves out files of packages, in the order in which dpkg reads the options."""
    found = []
    parts = sorted(os.listdir(f"{config}.d")) if os.path.isdir(f"{config}.d") else []
    for path in [*(f"{config}.d/{name}" for name in parts if re.fullmatch("[A-Za-z0-9_-]+", name)), config]:
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                found += _FILTER.findall(stream.read())
        except OSError:
            continue
    return [f"{name}={pattern}" for name, pattern in found]


# -- package files


def keep(packages: Sequence[Package], sink: Sink, system: System, fetch: bool = True) -> dict[Ident, str]:
    """ident -> name of the package file in the sink, for the packages whose file is available.

    The sources are, in this order: apt's cache, the mirror, and dpkg-repack, which makes the file anew. With a Hasher
    nothing is downloaded or made: the name is the name of the file that a Writer would get. Without ``fetch`` only
    apt's cache counts.
    """
    if not packages:
        return {}
    offered = _offered(packages, system) if fetch else {}
    found = {}
    for package in packages:
        path = cached(package, system)
        if path:
            sha = add_file(path, sink)
            if sha and sha == offered.get(package.ident, sha):
                found[package.ident] = sha
    missing = [package for package in packages if package.ident not in found]
    if not fetch:
        return found
    if isinstance(sink, Hasher):
        last = LATER if shutil.which("dpkg-repack") else ""
        return {**{one.ident: offered.get(one.ident, last) for one in missing}, **found}
    with tempfile.TemporaryDirectory(dir=os.path.join(sink.objects.root, "tmp")) as folder:
        wanted = [package for package in missing if package.ident in offered]
        found.update(_download(wanted, offered, folder, sink, system))
        for package in missing:
            if package.ident not in found and shutil.which("dpkg-repack"):
                found.update(_repack(package, folder, sink, system))
    return found


def _offered(packages: Sequence[Package], system: System) -> dict[Ident, str]:
    """ident -> SHA-256, for the versions that apt's lists offer for download."""
    asked = [f"{package.key}={package.version}" for package in packages]
    shown = system.run(["apt-cache", "show", "--no-all-versions", *asked], _LOOK)
    wanted = {package.ident for package in packages}
    found = {}
    for record in _paragraphs(shown.out):
        ident = (record.get("Package", ""), record.get("Architecture", ""), record.get("Version", ""))
        if ident in wanted and re.fullmatch("[0-9a-f]{64}", record.get("SHA256", "")):
            found[ident] = record["SHA256"]
    return found


def cached(package: Package, system: System) -> str:
    """The package file in apt's cache; "" where the cache does not have it."""
    path = os.path.join(_ARCHIVES, f"{package.name}_{package.version.replace(':', '%3a')}_{package.arch}.deb")
    return path if os.path.isfile(path) and identity(path, system) == package.ident else ""


def fetch(packages: Sequence[Package], folder: str, system: System, download: bool) -> dict[str, str]:
    """key -> package file, from apt's cache, or downloaded from the mirror to ``folder``."""
    found = {one.key: path for one in packages for path in [cached(one, system)] if path}
    missing = [one for one in packages if one.key not in found]
    if missing and download:
        idents = {one.ident: one.key for one in missing}
        for path in _downloaded(missing, folder, system):
            key = idents.get(identity(path, system))
            if key is not None:
                found[key] = path
    return found


def not_available(packages: Sequence[Package], system: System) -> list[Package]:
    """The packages of which neither apt's cache has the package file nor its lists offer it."""
    missing = [one for one in packages if not cached(one, system)]
    offered = _offered(missing, system) if missing else {}
    return [one for one in missing if one.ident not in offered]


def _download(
    packages: Sequence[Package], offered: Mapping[Ident, str], folder: str, sink: Sink, system: System
) -> dict[Ident, str]:
    if not packages:
        return {}
    # Some downloads may fail: the hash tells which files came.
    idents = {offered[package.ident]: package.ident for package in packages}
    came = [add_file(path, sink) for path in _downloaded(packages, folder, system)]
    return {idents[sha]: sha for sha in came if sha in idents}


def _downloaded(packages: Sequence[Package], folder: str, system: System) -> list[str]:
    """Download the package files that the mirror still has to a folder of their own; their paths, as apt names
    them."""
    inside = tempfile.mkdtemp(dir=folder)
    options = [f"Acquire::{kind}::Timeout=5" for kind in ("http", "https", "ftp")] + ["Acquire::Retries=0"]
    argv = ["env", "-C", inside, "apt-get", "-q", *(word for one in options for word in ("-o", one)), "download"]
    system.run([*argv, *(f"{one.key}={one.version}" for one in packages)], _CONNECT + _EACH * len(packages))
    return [os.path.join(inside, name) for name in sorted(os.listdir(inside)) if name.endswith(".deb")]


def _repack(package: Package, folder: str, sink: Sink, system: System) -> dict[Ident, str]:
    inside = tempfile.mkdtemp(dir=folder)
    name = package.name if package.arch == "all" else package.key
    system.run(["env", "-C", inside, "dpkg-repack", name], 600.0)
    for made in os.listdir(inside):
        path = os.path.join(inside, made)
        if made.endswith(".deb") and identity(path, system) == package.ident:
            return {package.ident: add_file(path, sink)}
    return {}


def add_file(path: str, sink: Sink) -> str:
    """Add the file's content to the sink; return its name there, or "" where the file is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if os.fstat(fd).st_size <= SMALL:
            return sink.add(os.read(fd, SMALL))
        return sink.add_file(fd)[0]
    finally:
        os.close(fd)


def identity(path: str, system: System) -> Ident:
    """(name, architecture, version) of a package file; empty words where the path is no package file."""
    words = system.run(["dpkg-deb", "--show", "--showformat=${Package}\\t${Architecture}\\t${Version}", path], _LOOK)
    name, arch, version = (words.out.split("\t") + ["", "", ""])[:3] if words.rc == 0 else ("", "", "")
    return name, arch, version


def displaced(path: str, system: System) -> set[str]:
    """The names of packages, and names that packages provide, which dpkg may remove to make room for a package file."""
    fields = system.run(["dpkg-deb", "--show", "--showformat=${Conflicts},${Breaks}", path], _LOOK)
    return _names(fields.out) if fields.rc == 0 else set()


def selections(system: System) -> list[tuple[str, str, str, set[str]]]:
    """(name, architecture, what the administrator wants of it, names that it provides) of each package."""
    shown = system.run(["dpkg-query", "-W", "-f", "${Package}\\t${Architecture}\\t${Status}\\t${Provides}\\n"], _LOOK)
    rows = (line.split("\t") for line in shown.out.splitlines())
    return [(row[0], row[1], row[2].partition(" ")[0], _names(row[3])) for row in rows if len(row) == 4]


def _names(relations: str) -> set[str]:
    """The names in a field of relations between packages."""
    found = (re.match(r"\s*([^\s:(]+)", one) for one in re.split("[,|]", relations))
    return {one.group(1) for one in found if one}
