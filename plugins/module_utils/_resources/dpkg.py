# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages of Debian: what dpkg and apt know, where package files come from, one transaction that puts them back."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence

from .._errors import Damaged, EvenkeelError, RestoreFailed
from .._services import systemd
from .._store.durable import write_all
from .._store.objects import SMALL, Hasher
from .._system import Completed, System
from .kind import Restore, Sink
from .package import LATER, Ident, Package

_ARCHIVES = "/var/cache/apt/archives"
_MARKS = "/var/lib/apt/extended_states"
_FORMAT = "${Package}\\t${Architecture}\\t${Version}\\t${db:Status-Want}\\t${db:Status-Eflag}\\t${db:Status-Status}\\n"
# Not installed: nothing of them but perhaps configuration files. Whole: triggers run by themselves.
_GONE = ("not-installed", "config-files")
_WHOLE = ("installed", "triggers-awaited", "triggers-pending")
_LOOK = 60.0
# A transaction is only ever stopped by what must not happen; dpkg killed in the middle is worse than a late end.
_CHANGE = 3600.0
# Seconds to wait for another apt or dpkg.
_LOCK = 300
_WAIT = ("-o", f"DPkg::Lock::Timeout={_LOCK}")
# Seconds that a download may take: for the connection, and for each package. A rollback may be waiting.
_CONNECT, _EACH = 20.0, 2.0
# Everything apt knows is what is installed and what it is given: it can neither download nor choose anything else.
_OFFLINE = (
    *("-o", "Dir::Etc::sourcelist=/dev/null", "-o", "Dir::Etc::sourceparts=/dev/null"),
    *("-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="),
)
_KEEP_CONFIG = ("--force-confdef", "--force-confold")


def look(system: System) -> dict[str, Package]:
    """key -> package, of all that is installed or half so; none where dpkg is not the host's package manager."""
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
    """From the output of dpkg-query and the text of apt's extended_states. Pure."""
    auto = auto_marked(marks)
    names = {name for name, _arch in auto}
    found = {}
    for line in listed.splitlines():
        name, arch, version, want, flag, status = line.split("\t")
        if status in _GONE:
            continue
        # apt notes packages for all architectures under the host's own.
        marked = (name, arch) in auto or (arch == "all" and name in names)
        whole = status in _WHOLE and flag == "ok"
        state = "" if whole else (status if flag == "ok" else f"{status}-{flag}")
        package = Package(name, arch, version, want == "hold", marked, state)
        found[package.key] = package
    return found


def auto_marked(text: str) -> set[tuple[str, str]]:
    """(name, architecture) of what apt installed because something else needed it."""
    found = set()
    for paragraph in _paragraphs(text):
        if paragraph.get("Auto-Installed") == "1":
            found.add((paragraph.get("Package", ""), paragraph.get("Architecture", "")))
    return found


def _paragraphs(text: str) -> Iterable[dict[str, str]]:
    """The fields of each paragraph, without those that go on over several lines."""
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.splitlines() if ": " in line and line[:1] not in (" ", "\t")]
        if lines:
            yield dict(line.split(": ", 1) for line in lines)


def older(one: str, other: str, system: System) -> bool:
    return system.run(["dpkg", "--compare-versions", one, "lt", other], _LOOK).rc == 0


# -- package files


def keep(packages: Sequence[Package], sink: Sink, system: System) -> dict[Ident, str]:
    """ident -> name of the package file in the sink, for those of which one can be had.

    In this order: apt's cache, the mirror, a file made anew by dpkg-repack. With a Hasher nothing is downloaded or
    made: the name is that of the file which a Writer would get.
    """
    if not packages:
        return {}
    offered = _offered(packages, system)
    found = {}
    for package in packages:
        path = os.path.join(_ARCHIVES, f"{package.name}_{package.version.replace(':', '%3a')}_{package.arch}.deb")
        if os.path.isfile(path) and identity(path, system) == package.ident:
            sha = add_file(path, sink)
            if sha and sha == offered.get(package.ident, sha):
                found[package.ident] = sha
    missing = [package for package in packages if package.ident not in found]
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
    """ident -> SHA-256, of the versions that apt's lists say can be downloaded."""
    asked = [f"{package.key}={package.version}" for package in packages]
    shown = system.run(["apt-cache", "show", "--no-all-versions", *asked], _LOOK)
    wanted = {package.ident for package in packages}
    found = {}
    for record in _paragraphs(shown.out):
        ident = (record.get("Package", ""), record.get("Architecture", ""), record.get("Version", ""))
        if ident in wanted and re.fullmatch("[0-9a-f]{64}", record.get("SHA256", "")):
            found[ident] = record["SHA256"]
    return found


def _download(
    packages: Sequence[Package], offered: Mapping[Ident, str], folder: str, sink: Sink, system: System
) -> dict[Ident, str]:
    if not packages:
        return {}
    options = [f"Acquire::{kind}::Timeout=5" for kind in ("http", "https", "ftp")] + ["Acquire::Retries=0"]
    argv = ["env", "-C", folder, "apt-get", "-q", *(word for one in options for word in ("-o", one)), "download"]
    argv += [f"{package.key}={package.version}" for package in packages]
    # Some may fail: what came is in the folder, under the name that apt gives it, and is known by its hash.
    system.run(argv, _CONNECT + _EACH * len(packages))
    idents = {offered[package.ident]: package.ident for package in packages}
    came = [add_file(os.path.join(folder, name), sink) for name in sorted(os.listdir(folder)) if name.endswith(".deb")]
    return {idents[sha]: sha for sha in came if sha in idents}


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
    """The file's content into the sink; its name there, or "" when it is gone."""
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
    """(name, architecture, version) of a package file; empty words where it is none."""
    words = system.run(["dpkg-deb", "--show", "--showformat=${Package}\\t${Architecture}\\t${Version}", path], _LOOK)
    name, arch, version = (words.out.split("\t") + ["", "", ""])[:3] if words.rc == 0 else ("", "", "")
    return name, arch, version


# -- putting back


def transact(changes: Sequence[tuple[str, Package]], at: Restore) -> None:
    """Make the packages as given, by (action of the step, package as recorded), in one transaction of apt.

    It is simulated first: RestoreFailed with nothing changed when a package file is missing, when apt refuses, or
    when it would change more than was asked for.
    """
    installs = [one for action, one in changes if action in ("install", "upgrade", "downgrade", "reinstall")]
    removes = [one for action, one in changes if action == "remove"]
    without = [f"{one.key} {one.version}" for one in installs if not one.sha256]
    if without:
        raise RestoreFailed(
            f"the store has no package file of {', '.join(without)}; no package was changed. Install these versions "
            "by hand, if a mirror still has them, then run the rollback again",
            left=without,
        )
    with tempfile.TemporaryDirectory(dir=os.path.join(at.objects.root, "tmp")) as folder:
        paths = {one.key: _take_out(one, folder, at) for one in installs}
        _repair(paths, removes, folder, at)
        left = look(at.system)
        removes = [one for one in removes if one.key in left]
        if installs or removes:
            argv = apt_install(list(paths.values()), removes)
            simulated = at.system.run([*argv, "--simulate"], _CHANGE)
            more = beyond(simulated.out, installs, removes)
            if simulated.rc or more:
                why = f"apt would also change {', '.join(more)}" if more else f"apt refuses: {simulated.words}"
                raise RestoreFailed(
                    f"the packages cannot be put back as recorded: {why}; none was changed. Declare all packages "
                    "(packages: {}) so that what belongs together is put back together, or resolve it by hand",
                    left=[one.key for one in [*installs, *removes]],
                )
            _change([*argv, "--yes"], folder, at)
        _mark(changes, folder, at)
    os.sync()
    if at.boot and at.system.has_systemd():
        systemd.daemon_reload(at.system)


def apt_install(paths: Sequence[str], removes: Sequence[Package]) -> list[str]:
    """The command that installs these files and removes these packages, and nothing else."""
    return [
        *("apt-get", "-q", *_OFFLINE, *_WAIT, "-o", "Dpkg::Use-Pty=0"),
        *(word for one in _KEEP_CONFIG for word in ("-o", f"Dpkg::Options::={one}")),
        *("-o", "APT::Get::AutomaticRemove=false", "--no-install-recommends"),
        *("--allow-downgrades", "--allow-change-held-packages", "install"),
        *paths,
        *(f"{one.key}-" for one in removes),
    ]


def beyond(simulated: str, installs: Sequence[Package], removes: Sequence[Package]) -> list[str]:
    """What a simulated transaction would do beyond what was asked for, in words."""
    # apt names the architecture of what is foreign alone.
    asked = {("Inst", name) for one in installs for name in (one.name, one.key)}
    asked |= {("Remv", name) for one in removes for name in (one.name, one.key)}
    found = re.findall(r"^(Inst|Remv|Purg) (\S+)", simulated, re.MULTILINE)
    return [f"{name} ({verb})" for verb, name in found if (verb, name) not in asked]


def _take_out(package: Package, folder: str, at: Restore) -> str:
    """The package file, out of the store, in ``folder``; Damaged when it is not what the line says."""
    path = os.path.join(folder, f"{package.name}_{package.arch}.deb")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        for chunk in at.objects.read(package.sha256):
            write_all(fd, chunk)
    finally:
        os.close(fd)
    held = identity(path, at.system)
    if held != package[:3]:
        raise Damaged(
            f"object {package.sha256} is recorded as the package {package.key} {package.version}, and is "
            f"{' '.join(held).strip() or 'no package'}; no package was changed"
        )
    return path


def _repair(paths: Mapping[str, str], removes: Sequence[Package], folder: str, at: Restore) -> None:
    """Let dpkg finish what a kill left. What it cannot configure is replaced next, or the simulation tells.

    A package of which a kill left only a part has no archive that apt could go on from: it gets the recorded one.
    """
    _change(["dpkg", *_KEEP_CONFIG, "--configure", "--pending"], folder, at, strict=False)
    gone = {package.key for package in removes}
    for key, package in look(at.system).items():
        partial = package.status.startswith("half-installed") or package.status.endswith("reinstreq")
        if partial and key in gone:
            _change(["dpkg", "--force-depends", "--force-remove-reinstreq", "--remove", key], folder, at, strict=False)
        elif partial and key in paths:
            _change(["dpkg", "--force-depends", "--force-breaks", "--unpack", paths[key]], folder, at, strict=False)


def _mark(changes: Sequence[tuple[str, Package]], folder: str, at: Restore) -> None:
    """Hold and mark all that was changed; a transaction marks what it installs as manual."""
    live = look(at.system)
    wanted: dict[str, list[str]] = {}
    for action, package in changes:
        now = live.get(package.key)
        if now is None or action in ("remove", "configure"):
            continue
        name = package.name if package.arch == "all" else package.key
        if package.auto != now.auto:
            wanted.setdefault("auto" if package.auto else "manual", []).append(name)
        if package.hold != now.hold:
            wanted.setdefault("hold" if package.hold else "unhold", []).append(name)
    for verb, names in wanted.items():
        _change(["apt-mark", *_OFFLINE, *_WAIT, verb, *sorted(set(names))], folder, at)


def _change(argv: Sequence[str], folder: str, at: Restore, strict: bool = True) -> None:
    log = os.path.join(folder, "log")
    command = ["env", *_environment(at), *argv]
    end = at.system.monotonic() + _LOCK
    while True:
        # Into a file, not a pipe of ours: when we are killed, it goes on and ends well.
        done = at.system.run(["sh", "-c", 'log=$1; shift; exec "$@" >"$log" 2>&1', "sh", log, *command], _CHANGE)
        said = _read(log)
        if done.rc == 0 or not _locked(said) or at.system.monotonic() >= end:
            break
        at.system.sleep(1.0)
    if done.rc and (strict or _locked(said)):
        words = Completed(done.argv, done.rc, "", said or done.err).words
        raise RestoreFailed(
            f"{argv[0]} failed in the middle of putting packages back: {words}. Run the rollback again when its cause "
            "is gone; it goes on from there",
            left=[words],
        )


def _environment(at: Restore) -> list[str]:
    words = [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND=noninteractive",
        "APT_LISTCHANGES_FRONTEND=none",
        "NEEDRESTART_SUSPEND=1",
    ]
    # Early at boot a maintainer script that waits for a service would wait for us.
    return [*words, "SYSTEMD_OFFLINE=1"] if at.boot else words


def _locked(said: str) -> bool:
    return "lock" in said and ("another process" in said or "held by process" in said)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
