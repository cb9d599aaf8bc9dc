# SPDX-License-Identifier: GPL-3.0-or-later

"""Keep the files of packages at the moment in which a package manager is about to replace them in an armed change.

apt, dpkg and dnf call a script of the store, and go on whatever the script does. Where apt runs dpkg, apt has named all
packages before, and the script ignores the call of dpkg. Nothing tells of what the command rpm is about to replace.
"""

from __future__ import annotations

import glob
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import repeat

from ..._errors import EvenkeelError
from ..._host.durable import write_file
from ..._host.system import System
from .. import ours
from . import dpkg, kept, rpm
from .package import Ident, Package

# The variable in the environment of a rollback: where it is set, the script keeps nothing.
BACK = "EVENKEEL_BACK"
_SCRIPT = """\
#!/bin/sh
{mark}
# Package managers call this while a change is armed. They go on whatever happens here.
[ -f {armed} ] && [ -f {agent} ] && [ -z "${back}" ] || exit 0
if [ "$1" = dpkg ]; then
  [ -z "$DPKG_FRONTEND_LOCKED" ] || exit 0
  case "$DPKG_HOOK_ACTION" in install|unpack|remove|purge) ;; *) exit 0 ;; esac
fi
exec {call} "$1" "$PPID"
"""
# apt finds the options of a hook by the first word of its command, so no other hook may have this word.
_APT = """\
# Written while a change is armed, and gone with it.
{mark}
DPkg::Pre-Install-Pkgs {{ "EVENKEEL=1 sh {script} apt || true"; }};
DPkg::Tools::Options::EVENKEEL=1::Version "3";
"""
_DPKG = """\
# Written while a change is armed, and gone with it.
{mark}
pre-invoke="sh {script} dpkg || true"
"""
# A plugin of dnf: a row of the standard input for each installed package that goes. The input is a file, because dnf
# dies of a pipe that nobody reads. The plugin ends the script where the script does not end itself. Packages below
# another root (dnf --installroot) are none of this host.
_DNF = '''\
"""
{mark}
Written while a change is armed, and gone with it."""

import logging
import os
import signal
import subprocess
import tempfile

import dnf


class Evenkeel(dnf.Plugin):
    name = "evenkeel"

    def pre_transaction(self):
        try:
            if self.base.conf.installroot != "/":
                return
            gone = self.base.transaction.remove_set
            row = "%s\\t%s\\t%s:%s-%s\\n"
            told = "".join(row % (one.name, one.arch, one.epoch or 0, one.version, one.release) for one in gone)
            if told:
                self._tell(told.encode())
        except Exception as error:
            logging.getLogger("dnf").warning("evenkeel: what is replaced now is not kept: %s", error)

    def _tell(self, told):
        with tempfile.TemporaryFile() as rows:
            rows.write(told)
            rows.seek(0)
            argv = ["sh", "{script}", "dnf"]
            with subprocess.Popen(argv, stdin=rows, stdout=subprocess.DEVNULL, start_new_session=True) as running:
                try:
                    running.wait(timeout={limit})
                except BaseException:
                    os.killpg(running.pid, signal.SIGKILL)
                    raise
'''
LIMIT = 630
_CONFIGURES = "**CONFIGURE**"
# dpkg acts on all packages that were selected for it, and removes those with these selections.
_PENDING, _GOES = frozenset({"-a", "--pending"}), ("deinstall", "purge")


def install(root: str, call: Sequence[str], manager: str = "deb") -> str:
    """Have apt and dpkg, or dnf, call the agent by this command line; return why that failed, or "". ``root``: the
    store's root."""
    script, agent = os.path.join(root, "replacing"), next((word for word in call if word.endswith(".pyz")), "")
    if any(character in root for character in "\"'\\ \n$`"):
        return f"{root} holds a character that apt's configuration cannot hold"
    values = {"mark": ours.MARK.decode(), "script": script, "limit": str(LIMIT)}
    text = _SCRIPT.format(
        armed=f"{root}/armed", agent=shlex.quote(agent), back=BACK, call=shlex.join(call), mark=values["mark"]
    )
    try:
        write_file(script, text.encode(), 0o700)
    except OSError as error:
        return str(error)
    hooks = zip(ours.HOOKS, (_APT, _DPKG))
    if manager == "rpm":
        hooks = zip(rpm.hooks(), repeat(_DNF))
    wrong = [ours.place(path, text.format(**values).encode()) for path, text in hooks]
    return "; ".join(filter(None, wrong))


def about(source: str, text: str, process: str, system: System) -> set[tuple[str, str]]:
    """(name, architecture) of the packages that are about to be replaced or removed. An architecture may be empty.

    ``source``: apt, which names the packages in the standard input ``text``; or dpkg, which is the parent of
    ``process``.
    """
    return of_apt(text) if source == "apt" else of_dpkg(*_command(process), system)


def archives(source: str, text: str, process: str) -> list[str]:
    """The package files that are about to be unpacked. The arguments are those of ``about``."""
    if source != "apt":
        return [one for found in _named(*_command(process)).values() for one in found]
    lines = (line.split(" ", 8) for line in text.partition("\n\n")[2].splitlines())
    return [words[8] for words in lines if len(words) == 9 and os.path.isfile(words[8])]


def of_apt(text: str) -> set[tuple[str, str]]:
    """(name, architecture) of the packages, from the words of apt's protocol, version 3. Pure."""
    found = set()
    for line in text.partition("\n\n")[2].splitlines():
        words = line.split(" ", 8)
        if len(words) == 9 and words[1] != "-" and words[8] != _CONFIGURES:
            found.add((words[0], words[2]))
    return found


def of_dnf(text: str) -> set[Ident]:
    """The packages of which our plugin of dnf tells. Pure."""
    rows = (line.split("\t") for line in text.splitlines())
    return {(row[0], row[1], row[2]) for row in rows if len(row) == 3}


def of_dpkg(argv: Sequence[str], folder: str, system: System) -> set[tuple[str, str]]:
    """(name, architecture) of the packages, from the command line of dpkg and its directory: those that it names, those
    that make room for a package file, and those that were selected for removal before."""
    found, displaced = set(), set()
    files = _named(argv, folder)
    for one in (one for paths in files.values() for one in paths):
        found.add(dpkg.identity(one, system)[:2])
        displaced |= dpkg.displaced(one, system)
    for word in argv[1:]:
        if not word.startswith("-") and word not in files:
            name, _colon, arch = word.partition(":")
            found.add((name, arch))
    pending = not _PENDING.isdisjoint(argv)
    for name, arch, wanted, provided in dpkg.selections(system) if displaced or pending else []:
        if not displaced.isdisjoint({name, *provided}) or (pending and wanted in _GOES):
            found.add((name, arch))
    return found


def _named(argv: Sequence[str], folder: str) -> dict[str, list[str]]:
    """Word of the command line of dpkg -> the package files that it names: itself, or those of a directory."""
    found = {}
    for word in argv[1:]:
        if not word.startswith("-") and ("/" in word or word.endswith(".deb")):
            path = os.path.join(folder, word)
            files = glob.glob(f"{glob.escape(path)}/**/*.deb", recursive=True) if os.path.isdir(path) else [path]
            found[word] = [one for one in files if os.path.isfile(one)]
    return found


def _command(process: str) -> tuple[list[str], str]:
    """(command line, directory) of the parent of the process."""
    with suppress(OSError, IndexError, ValueError):
        with open(f"/proc/{int(process)}/stat", "rb") as stream:
            parent = int(stream.read().rpartition(b")")[2].split()[1])
        with open(f"/proc/{parent}/cmdline", "rb") as stream:
            argv = os.fsdecode(stream.read()).split("\0")[:-1]
        return argv, os.readlink(f"/proc/{parent}/cwd")
    return [], "/"


def keep(packages: Sequence[Package], root: str, system: System, local: bool = False) -> dict[str, str]:
    """Keep a package file of each package; return ("name version" -> why) for the packages where that failed.
    ``local``: take files from the cache of apt or dnf alone."""
    have = kept.every(root)
    missing = [one for one in packages if one.ident not in have and not one.status]
    left: dict[str, str] = {}
    for package in missing:
        try:
            _keep(package, root, system, local)
        except (EvenkeelError, OSError) as error:
            left[f"{package.key} {package.version}"] = str(error)
    if left and not local:
        _download([one for one in missing if f"{one.key} {one.version}" in left], root, system, left)
    return left


def _keep(package: Package, root: str, system: System, local: bool) -> None:
    from . import rebuild, rebuild_rpm  # With tarfile, which few calls need.

    is_deb = package.manager == "deb"
    cached = (dpkg if is_deb else rpm).cached(package, system)
    anew = rebuild.rebuild if is_deb else rebuild_rpm.rebuild
    if cached:
        kept.put(root, package.ident, kept.copy(cached))
    elif local:
        raise EvenkeelError(f"the cache of {'apt' if is_deb else 'dnf'} does not have it")
    else:
        kept.put(root, package.ident, lambda stream: anew(package, stream, system))


def _download(packages: Sequence[Package], root: str, system: System, left: dict[str, str]) -> None:
    """Ask the mirror for the package files that could not be made anew."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        if packages[0].manager == "deb":
            files = dpkg.fetch(packages, folder, system, download=True)
            found = [(one, files[one.key]) for one in packages if one.key in files]
        else:
            files_ = rpm.fetch(packages, folder, system, download=True)
            found = [(one, files_[one.ident]) for one in packages if one.ident in files_]
        for package, path in found:
            with suppress(OSError):
                kept.put(root, package.ident, kept.copy(path))
                del left[f"{package.key} {package.version}"]


def chosen(
    recorded: Mapping[Ident, Package], live: Mapping[str, Package], names: set[tuple[str, str]]
) -> list[Package]:
    """The packages that are installed as recorded, have no file in the store, and are about to be replaced. Pure."""
    return [
        one
        for one in live.values()
        if one.ident in recorded
        and not recorded[one.ident].sha256
        and not names.isdisjoint({(one.name, one.arch), (one.name, "")})
    ]
