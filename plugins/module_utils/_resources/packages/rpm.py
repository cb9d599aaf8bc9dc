# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages of rpm, a set of versions: a transaction installs missing versions and erases versions that were not
there.

Locks of versions (``dnf versionlock``) are files, and belong to the kind ``files``.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..._errors import Damaged, EvenkeelError, RestoreFailed
from ..._host.durable import write_all
from ..._host.package_locks import RPM, holder
from ..._host.system import System
from ..._services import systemd
from ..._store.objects import Hasher
from .. import ours
from ..kind import Restore, Sink
from . import kept
from .dpkg import add_file
from .kept import RESERVE
from .package import LATER, Ident, Package, environment, most, wait_for_locks

_CACHES = ("/var/cache/dnf/*/packages", "/var/cache/libdnf5/*/packages", "/var/cache/yum/*/*/*/packages")
_FORMAT = "%{NAME}\\t%{ARCH}\\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\\n"
_SIZES = _FORMAT.replace("\\n", "\\t%{LONGSIZE}\\n")
_OPTIONS = r"skip-unavailable|\bstrict\b"
_ALONE = ("--disablerepo=*",)
_PATIENCE = ("--setopt=timeout=5", "--setopt=retries=1", "--setopt=skip_if_unavailable=1")
SETTINGS = "/etc/dnf/dnf.conf"
REPOSITORIES = ("/etc/yum.repos.d/*.repo", "/etc/yum/repos.d/*.repo", "/etc/distro.repos.d/*.repo")
_LOOK, _CHANGE = 60.0, 3600.0
_CONNECT, _EACH = 30.0, 2.0
# rpm lists signing keys as packages without an architecture.
_NONE = "(none)"
_PYTHONS = ("/usr/libexec/platform-python", "/usr/bin/python3")

# The command rpm can either install or erase. rpm's library does both at once, and may belong to another Python than
# ours. The script reads its work from a file, prints the problems, and ends with 1 where it failed. Where a
# scriptlet fails, or another program holds the lock, rpm tells it on stderr alone.
_TRANSACTION = r"""
import json, rpm, sys
with open(sys.argv[1]) as stream:
    work = json.load(stream)
ts = rpm.TransactionSet()
# The change may have taken the keys by which rpm trusts a package. The hashes of the store prove its files, and the
# files that dnf had were proved as they came.
ts.setVSFlags(rpm._RPMVSF_NOSIGNATURES)
if hasattr(ts, "setVfyLevel"):
    ts.setVfyLevel(rpm.RPMSIG_DIGEST_TYPE)
if work.get("anew"):
    # The hash of a payload that this host has made is not that of the head.
    ts.setVSFlags(rpm._RPMVSF_NOSIGNATURES | rpm._RPMVSF_NODIGESTS)
    if hasattr(ts, "setVfyLevel"):
        ts.setVfyLevel(0)
ts.setProbFilter(rpm.RPMPROB_FILTER_OLDPACKAGE | rpm.RPMPROB_FILTER_REPLACEPKG)
if len(sys.argv) > 2:
    ts.setFlags(rpm.RPMTRANS_FLAG_TEST)
for path in work["install"]:
    with open(path, "rb") as stream:
        ts.addInstall(ts.hdrFromFdno(stream.fileno()), path, "i")
for name, arch, version in work["erase"]:
    for one in ts.dbMatch("name", name):
        if (one["arch"], "%s:%s-%s" % (one["epoch"] or 0, one["version"], one["release"])) == (arch, version):
            ts.addErase(one)
ts.check()
problems = [str(one) for one in ts.problems()]
failed = None
opened = {}
def callback(what, amount, total, path, data):
    if what == rpm.RPMCALLBACK_INST_OPEN_FILE:
        opened[path] = open(path, "rb")
        return opened[path].fileno()
    if what == rpm.RPMCALLBACK_INST_CLOSE_FILE:
        opened.pop(path).close()
if not problems:
    ts.order()
    failed = ts.run(callback, "")
    problems = [one[0] for one in failed or []]
print("\n".join(problems))
sys.exit(bool(problems) or failed is not None)
"""


def read_packages(system: System) -> list[Package]:
    """The installed packages; an empty list where the host has no rpm. Where dnf does not answer, nobody knows which
    packages the user asked for; where the host has no dnf, all count as asked for."""
    listed = installed(system)
    if not listed:
        return []
    argv = ["dnf", "-q", "-C", *_ALONE, "repoquery", "--userinstalled", "--qf", "%{name}:%{arch}\n"]
    wanted = system.run(argv, _LOOK)
    if wanted.rc and wanted.has_answered:
        system.sleep(1.0)
        wanted = system.run(argv, _LOOK)
    without = wanted.rc == 127 and not shutil.which("dnf")
    return packages_of(listed, wanted.out if wanted.rc == 0 else None, False if without else None)


def installed(system: System) -> str:
    """A row of rpm for each installed package; an empty text where the host has no rpm."""
    seen = system.run(["rpm", "-qa", "--qf", _FORMAT], _LOOK)
    if seen.rc and seen.rc != 127:
        raise EvenkeelError(f"the list of packages cannot be read: {seen.words}; see what 'rpm -qa' says")
    return "" if seen.rc else seen.out


def packages_of(listed: str, wanted: str | None, otherwise: bool | None = None) -> list[Package]:
    """The packages, from the output of rpm. ``wanted``: dnf's list of the packages that the user asked for; None
    where there is no list, and all packages have the mark ``otherwise``. Pure."""
    manual = None if wanted is None else set(wanted.split())
    found = []
    for line in listed.splitlines():
        name, arch, version = line.split("\t")
        if arch != _NONE:
            auto = otherwise if manual is None else f"{name}:{arch}" not in manual
            found.append(Package(name, arch, version, auto=auto, manager="rpm"))
    return found


def keep(
    packages: Sequence[Package], sink: Sink, system: System, fetch: bool = True, caches: Sequence[str] = _CACHES
) -> dict[Ident, str]:
    """ident -> name of the package file in the sink, from dnf's cache or else from its repositories.

    With a Hasher nothing is downloaded: a file that is not in the cache is LATER. Without ``fetch`` only the cache
    counts. No more is downloaded than the store has room for. ``caches``: patterns of the directories of the cache.
    """
    missing = {package.ident: package for package in packages}
    folders = [folder for pattern in caches for folder in glob.glob(pattern)]
    found = _taken(missing, folders, sink, system)
    left = [package for ident, package in missing.items() if ident not in found]
    if not fetch or not left or not shutil.which("dnf"):
        return found
    if isinstance(sink, Hasher):
        return {**dict.fromkeys((package.ident for package in left), LATER), **found}
    with tempfile.TemporaryDirectory(dir=os.path.join(sink.objects.root, "tmp")) as folder:
        # A package file is smaller than what it holds: a round may leave room for the packages that did not fit.
        while batch := _fitting(left, folder, system):
            _download(batch, folder, system)
            tried = {package.ident: package for package in batch}
            came = _taken(tried, [folder], sink, system, unlink=True)
            if not came:
                break
            found.update(came)
            left = [package for package in left if package.ident not in tried]
    return found


def _download(packages: Sequence[Package], folder: str, system: System) -> None:
    """Have dnf download as many of the package files as its repositories have."""
    options = [*_PATIENCE, "--destdir", folder]
    # A version that no repository has must not stop the download of all versions.
    options.append("--skip-unavailable" if _is_dnf5(system) else "--setopt=strict=0")
    argv, seconds = ["dnf", "-q", "download", *options], _CONNECT + _EACH * len(packages)
    end = system.monotonic() + seconds
    done = system.run([*argv, *map(_nevra, packages)], seconds)
    if done.rc and not os.listdir(folder) and re.search(_OPTIONS, done.err):
        # This dnf does not know the option: download each version by itself.
        for package in packages:
            if system.monotonic() < end:
                system.run([*argv[:-1], _nevra(package)], _CONNECT)


def cached(package: Package, system: System, caches: Sequence[str] = _CACHES) -> str:
    """The package file in the cache of dnf; empty where it is not there."""
    return _file(package.ident, [folder for pattern in caches for folder in glob.glob(pattern)], system)


def fetch(packages: Sequence[Package], folder: str, system: System, download: bool) -> dict[Ident, str]:
    """ident -> package file, from the cache of dnf or, with ``download``, from its repositories. Nothing raises."""
    found = {one.ident: path for one in packages for path in [cached(one, system)] if path}
    missing = [one for one in packages if one.ident not in found]
    if download and missing and shutil.which("dnf"):
        batch = _fitting(missing, folder, system)
        if batch:
            _download(batch, folder, system)
        found.update({one.ident: path for one in missing for path in [_file(one.ident, [folder], system)] if path})
    return found


def not_available(packages: Sequence[Package], system: System) -> list[Package]:
    """The packages whose files are neither in the cache of dnf nor in a repository."""
    missing = [one for one in packages if not cached(one, system)]
    if not missing or not shutil.which("dnf"):
        return missing
    argv = ["dnf", "-q", *_PATIENCE, "repoquery", "--qf", "%{name},%{arch},%{epoch}:%{version}-%{release}\n"]
    told = system.run([*argv, *map(_nevra, missing)], _CONNECT + _EACH * len(missing)).out.split()
    return [one for one in missing if ",".join(one.ident) not in told]


def hooks() -> list[str]:
    """The paths of our plugin of dnf; an empty list where dnf loads no plugin of ours: it is another dnf than dnf 4,
    its plugins are switched off or lie elsewhere, or nobody can write there."""
    if "dnf5" in os.path.realpath(shutil.which("dnf") or "dnf5"):
        return []
    with suppress(OSError), open(SETTINGS, encoding="utf-8", errors="replace") as stream:
        if re.search(r"(?mi)^(plugins\s*=\s*(0|no|false|off)\s*$|pluginpath\s*=)", stream.read()):
            return []
    folders = (folder for pattern in ours.DNF_PLUGINS for folder in sorted(glob.glob(pattern)))
    return [os.path.join(folder, ours.DNF_HOOK) for folder in folders if os.access(folder, os.W_OK)]


def how_to_get() -> str:
    """Advice to a person who wants package files kept."""
    if not shutil.which("dnf"):
        return "There is no dnf on this host, and nothing else fetches package files of rpm: install dnf"
    return (
        "See that 'dnf download' works (it is in the package dnf-plugins-core), that a repository has these versions, "
        "and that the store has room"
    )


def _fitting(packages: Sequence[Package], folder: str, system: System) -> list[Package]:
    """As many of the installed packages as the file system of the folder has room for. Their package files are
    compressed, and hardly larger than what they hold."""
    listed = system.run(["rpm", "-qa", "--qf", _SIZES], _LOOK).out
    rows = [line.split("\t") for line in listed.splitlines()]
    sizes = {tuple(row[:3]): int(row[3]) for row in rows if len(row) == 4 and row[3].isdigit()}
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize - RESERVE
    found = []
    for size, package in sorted((sizes.get(one.ident, 0), one) for one in packages):
        free -= size
        if free < 0:
            break
        found.append(package)
    return found


def _taken(
    missing: dict[Ident, Package], folders: Sequence[str], sink: Sink, system: System, unlink: bool = False
) -> dict[Ident, str]:
    """The wanted package files that are in the folders, under the names that dnf gives them. With ``unlink`` each file
    goes once the sink has it."""
    found = {}
    for ident in missing:
        path = _file(ident, folders, system)
        if path:
            sha = add_file(path, sink)
            if sha:
                found[ident] = sha
            if unlink:
                os.unlink(path)
    return found


def _file(ident: Ident, folders: Sequence[str], system: System) -> str:
    """The package file in one of the folders, under the name that dnf gives it; empty where no folder has one that is
    proved."""
    name, arch, version = ident
    for folder in folders:
        path = os.path.join(folder, f"{name}-{version.partition(':')[2]}.{arch}.rpm")
        if os.path.isfile(path) and identity(path, system) == ident and _is_proved(path, ident, system):
            return path
    return ""


def _is_proved(path: str, ident: Ident, system: System) -> bool:
    """Whether dnf would install the package file of this package: ``dnf download`` checks no signature, and a mirror
    can give any file under any name. The head of the package that is installed proves a file as well, because the head
    has the hashes of all contents."""
    if not checks_signatures():
        return True
    name, arch, version = ident
    ask = ("--qf", "%{SHA256HEADER}\\n")
    here = system.run(["rpm", "-q", *ask, f"{name}-{version}.{arch}"], _LOOK)
    if here.rc == 0 and re.fullmatch("[0-9a-f]{64}", here.out.strip()):
        there = system.run(["rpm", "-qp", "--nosignature", *ask, path], _LOOK)
        if there.rc == 0 and there.out == here.out:
            return True
    told = system.run(["rpmkeys", "--checksig", path], _LOOK)
    return told.rc == 0 and told.out.rstrip().endswith("signatures OK")


def checks_signatures() -> bool:
    """Whether dnf checks the packages of all its repositories. Where it does not, it takes any file itself."""
    import configparser  # Few calls need it.

    settings = configparser.ConfigParser(interpolation=None, strict=False)
    paths = [path for pattern in REPOSITORIES for path in sorted(glob.glob(pattern))]
    try:
        settings.read([SETTINGS, *paths], encoding="utf-8")
        usual = settings.getboolean("main", "gpgcheck", fallback=False)
        repositories = [settings[name] for name in settings.sections() if name != "main"]
        return all(one.getboolean("gpgcheck", usual) for one in repositories if one.getboolean("enabled", True))
    except (configparser.Error, ValueError):
        return True


def _is_dnf5(system: System) -> bool:
    return system.run(["dnf", "--version"], _LOOK).out.startswith("dnf5")


def _nevra(package: Package) -> str:
    return f"{package.name}-{package.version}.{package.arch}"


def identity(path: str, system: System) -> Ident:
    """(name, architecture, version) of a package file; empty words where the path is no package file."""
    words = system.run(["rpm", "-qp", "--nosignature", "--qf", _FORMAT, path], _LOOK)
    name, arch, version = (words.out.strip().split("\t") + ["", "", ""])[:3] if words.rc == 0 else ("", "", "")
    return name, arch, version


def transact(changes: Sequence[tuple[str, Package]], at: Restore) -> dict[str, str]:
    """Install and erase packages in one transaction, then set the marks; return (name and architecture -> why) for
    the packages that are left out.

    ``changes``: (action of the step, package as recorded). A package that cannot be changed is left out, with the
    packages that depend on it. Each transaction is tested first. The versions of a package change together: the newer
    version is not erased where the file of the older version is missing. Raises RestoreFailed, with nothing changed,
    where another program holds the lock of rpm for longer than ``at.patience``.
    """
    wait_for_locks(RPM, at)
    left: dict[str, str] = {}
    work: dict[str, list[tuple[str, Any]]] = {}
    replaced = kept.every(at.objects.root)
    with tempfile.TemporaryDirectory(dir=os.path.join(at.objects.root, "tmp")) as folder:
        without = [one for action, one in changes if action == "install" and not _stored(one, replaced)]
        fetched = fetch(without, folder, at.system, not at.boot)
        for action, one in changes:
            if action not in ("install", "remove"):
                continue
            try:
                what: tuple[str, Any] = ("erase", one.ident)
                if action == "install":
                    what = ("install", fetched.get(one.ident) or _take_out(one, replaced, folder, at))
                work.setdefault(one.key, []).append(what)
            except (EvenkeelError, OSError) as error:
                left[one.key] = str(error)
        able = [key for key in work if key not in left]
        chosen, refused = most(able, lambda keys: _run(work, keys, folder, at, test=True))
        failed = _run(work, chosen, folder, at) if chosen else ""
    left.update({key: f"rpm refuses: {why}" for key, why in refused.items()})
    still = _open(changes, at) if failed else set()
    left.update({key: failed for key in chosen if key in still})
    left.update(_mark([one for one in changes if one[1].key not in left], at))
    os.sync()
    if at.boot and at.system.has_systemd():
        systemd.daemon_reload(at.system)
    return left


def _stored(package: Package, replaced: Mapping[Ident, kept.Kept]) -> bool:
    return bool(package.sha256) or package.ident in replaced


def obstacles(changes: Sequence[tuple[str, Package]], at: Restore) -> list[str]:
    """Sentences on the changes that cannot be made now, as far as the record and the lock show."""
    waits = [f"packages: {words}" for words in [holder(RPM)] if words]
    replaced = kept.every(at.objects.root)
    gone = [one for action, one in changes if action == "install" and not _stored(one, replaced)]
    return waits + [f"{one.key} {one.version}: its package file is not in the store" for one in gone]


def _open(changes: Sequence[tuple[str, Package]], at: Restore) -> set[str]:
    """The keys of the packages that are not yet as recorded."""
    live = {one.ident for one in packages_of(installed(at.system), None)}
    wanted = [(action == "install", one) for action, one in changes if action in ("install", "remove")]
    return {one.key for install, one in wanted if install != (one.ident in live)}


def _run(
    work: Mapping[str, Sequence[tuple[str, Any]]], keys: Sequence[str], folder: str, at: Restore, test: bool = False
) -> str:
    """Change these packages, or only test the change; return why it failed, "" where it did not."""
    todo = [one for key in keys for one in work[key]]
    plan = os.path.join(folder, "work.json")
    from .rebuild_rpm import is_made_here  # With compression, which few calls need.

    plans = {kind: [what for one, what in todo if one == kind] for kind in ("install", "erase")}
    with open(plan, "w", encoding="utf-8") as stream:
        json.dump({**plans, **({"anew": True} if any(map(is_made_here, plans["install"])) else {})}, stream)
    done = at.system.run([*_command(at), plan, *(["test"] if test else [])], _CHANGE)
    return ("; ".join(done.out.split("\n")[:10]).rstrip("; ") or done.words) if done.rc else ""


def _command(at: Restore) -> list[str]:
    """The command that runs the transaction with a Python that has rpm's library."""
    words = [f"{key}={value}" for key, value in environment({}, at.boot).items()]
    for python in _PYTHONS:
        if at.system.run([python, "-c", "import rpm"], _LOOK).rc == 0:
            clean = ["env", "-i", *words, "sh", "-c", 'umask 022; exec "$@"', "sh"]
            return [*clean, python, "-c", _TRANSACTION]
    raise RestoreFailed(
        "no Python on this host has the module rpm; no package was changed. Install python3-rpm, then run it again",
        done=[],
        left=["packages: no Python has the module rpm"],
    )


def _take_out(package: Package, replaced: Mapping[Ident, kept.Kept], folder: str, at: Restore) -> str:
    """Copy the package file from the store to ``folder``; Damaged where it is another package than the line says."""
    if not _stored(package, replaced):
        raise Damaged(
            f"the store has no package file of version {package.version}, and neither dnf's cache nor a repository "
            "has it (with a signature that rpm trusts here, unless dnf checks none). Install this version by hand, "
            "then run the rollback again"
        )
    pieces = at.objects.read(package.sha256) if package.sha256 else kept.read(replaced[package.ident])
    path = os.path.join(folder, f"{_nevra(package)}.rpm")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        for chunk in pieces:
            write_all(fd, chunk)
    finally:
        os.close(fd)
    if identity(path, at.system) != package.ident:
        raise Damaged(f"object {package.sha256 or 'kept'} is recorded as the package {_nevra(package)}, and is another")
    return path


def _mark(changes: Sequence[tuple[str, Package]], at: Restore) -> dict[str, str]:
    """Mark the packages that were changed, because rpm's library does not tell dnf the reason of an installation;
    return (key -> why) for the packages that could not be marked."""
    live = {one.key: one.auto for one in read_packages(at.system)}
    verbs = {False: "install", True: "remove"}
    if _is_dnf5(at.system):
        verbs = {False: "user", True: "dependency"}
    left = {}
    for auto, verb in verbs.items():
        keys = {
            one.key for action, one in changes if action != "remove" and one.auto == auto != live.get(one.key, auto)
        }
        if keys:
            names = [".".join(key.split(":")) for key in sorted(keys)]
            done = at.system.run(["dnf", "-q", "-y", "-C", *_ALONE, "mark", verb, *names], _LOOK)
            if done.rc:
                left.update(dict.fromkeys(keys, f"cannot be marked {verb}: {done.words}"))
    return left
