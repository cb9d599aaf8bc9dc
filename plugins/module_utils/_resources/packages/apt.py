# SPDX-License-Identifier: GPL-3.0-or-later

"""Put back as many packages of Debian as possible. Each transaction of apt is simulated before it is carried out."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence

from ..._dataclasses import dataclass
from ..._errors import Damaged, EvenkeelError
from ..._host.commands import Completed
from ..._host.durable import write_all
from ..._host.package_locks import DPKG, holder
from ..._services import systemd
from ..kind import Restore
from . import dpkg, forgetting, kept, replacing, takeovers
from .dpkg import fetch, identity, read_packages
from .package import INSTALLS, REMOVES, Package, environment, locked_elsewhere, most, wait_for_locks

# The time limit ends only a transaction that hangs: to kill dpkg in the middle is worse than to wait long.
_CHANGE = 3600.0
_ASK = 60.0
# apt stops at the first failure, and goes on when it is called again.
_TURNS = 3
_LOCKS = (*DPKG, "/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock")
# apt knows only the installed packages and the given files: it can neither download nor choose other packages.
_OFFLINE = (
    *("-o", "Dir::Etc::sourcelist=/dev/null", "-o", "Dir::Etc::sourceparts=/dev/null"),
    *("-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="),
)
_KEEP_CONFIG = ("--force-confdef", "--force-confold")
_QUIET = {
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBIAN_PRIORITY": "critical",
    "UCF_FORCE_CONFFOLD": "1",
    "APT_LISTCHANGES_FRONTEND": "none",
    "APT_LISTBUGS_FRONTEND": "none",
    "NEEDRESTART_SUSPEND": "1",
    "NEEDRESTART_MODE": "l",
    replacing.BACK: "1",
}

Change = tuple[str, Package]


def transact(
    changes: Sequence[Change], at: Restore, filters: Sequence[str] | None = None, forget: Collection[str] = ()
) -> dict[str, str]:
    """Change the packages in one transaction of apt; return (name and architecture -> why) for the packages that are
    left out.

    ``changes``: (action of the step, package as recorded). ``filters``: the options by which dpkg leaves files out of
    packages, in place of its configuration. ``forget``: keys of packages that are forgotten once they are removed. A
    package that cannot be changed is left out, with the packages that depend on it. Raises RestoreFailed, with nothing
    changed, where another program holds the lock of dpkg or apt for longer than ``at.patience``.
    """
    wait_for_locks(_LOCKS, at)
    _add_architectures({one.arch for action, one in changes if action in INSTALLS}, at)
    with tempfile.TemporaryDirectory(dir=os.path.join(at.objects.root, "tmp")) as folder:
        wanted = [one for action, one in changes if action in (*INSTALLS, takeovers.RETAKE)]
        files, left = _files(wanted, folder, at)
        options = [] if filters is None else [f"--{one}" for one in ("path-include=*", *filters)]
        work = Work(changes, files, folder, at, options)
        work.repair()
        able = [key for key in work.open() if key not in left and not work.is_configuring(key)]
        chosen, refused = most(able, work.refusal)
        failed = work.carry_out(chosen) if chosen else {}
        still = {key: cause(work.said, key.partition(":")[0]) or reason(work.said) for key in work.open()}
        left = {**still, **refused, **{key: why for key, why in failed.items() if key in still}, **left}
        left.update(work.retake([one for one in wanted if one.key in files]))
        left.update(work.purge())
        left.update(work.forget(forget))
        left.update(_mark([one for one in changes if one[1].key not in left], folder, at))
    os.sync()
    if at.boot and at.system.has_systemd():
        systemd.daemon_reload(at.system)
    return left


def _add_architectures(wanted: set[str], at: Restore) -> None:
    """Let dpkg take packages of architectures of which nothing is installed any more: a change may have taken such an
    architecture from the host. Where that fails, apt refuses the packages, each by its name."""
    for arch in sorted(wanted - {"all"} - {one.arch for one in read_packages(at.system).values()}):
        at.system.run(["dpkg", "--add-architecture", arch], _ASK)


def obstacles(changes: Sequence[Change], at: Restore) -> list[str]:
    """Sentences on the changes that cannot be made now. Does not read the package files of the store."""
    waits = [f"packages: {words}" for words in [locked()] if words]
    replaced = kept.every(at.objects.root)
    gone = [one for action, one in changes if action in INSTALLS and not one.sha256 and one.ident not in replaced]
    return waits + [f"{one.key} {one.version}: its package file is not in the store" for one in gone]


@dataclass
class Work:
    """The changes, and the available package files by name and architecture. ``options``: more options of dpkg;
    ``said``: the output of apt and dpkg."""

    changes: Sequence[Change]
    files: Mapping[str, str]
    folder: str
    at: Restore
    options: Sequence[str] = ()
    said: str = ""

    def open(self) -> list[str]:
        """The keys of the packages that are not yet as recorded."""
        live = read_packages(self.at.system)
        return list(dict.fromkeys(one.key for action, one in self.changes if _is_open(action, one, live.get(one.key))))

    def is_configuring(self, key: str) -> bool:
        return all(action == "configure" for action, one in self.changes if one.key == key)

    def _of(self, keys: Iterable[str], actions: Sequence[str]) -> list[Package]:
        wanted = set(keys)
        return [one for action, one in self.changes if action in actions and one.key in wanted]

    def argv(self, keys: Sequence[str], force: Sequence[str] = ()) -> list[str]:
        paths = [self.files[one.key] for one in self._of(keys, INSTALLS)]
        options = [*self.options, *force]
        return apt_install(paths, self._of(keys, REMOVES), options, self.at.patience)

    def refusal(self, keys: Sequence[str]) -> str:
        """Why apt refuses to change these packages, or would change others too; "" where it would change only
        these."""
        simulated = self.at.system.run([*self.argv(keys), "--simulate"], _CHANGE)
        more = beyond(simulated.out, self._of(keys, INSTALLS), self._of(keys, REMOVES))
        if more:
            return (
                f"apt would also change {', '.join(more)}. Declare all packages (packages: {{}}) so that what belongs "
                "together is put back together, or resolve it by hand"
            )
        return f"apt refuses: {reason(simulated.out + simulated.err)}" if simulated.rc else ""

    def carry_out(self, keys: Sequence[str]) -> dict[str, str]:
        """Change the packages; return (key -> cause) for the packages where that failed."""
        live = read_packages(self.at.system)
        stripped = {key for key in keys if key in self.files and self._has_missing_conffiles(key)}
        # A deleted configuration file of a package that stayed installed does not come back, unless the package
        # fails.
        force = ["--force-confmiss"] if any(key not in live for key in stripped) else []
        torn = self._torn(keys, live)
        for _turn in range(_TURNS):
            self._run([*self.argv(keys, force), "--yes"])
            # Packages whose scripts succeeded must not wait for a package whose script failed.
            self.configure()
            still = set(self.open())
            keys = [key for key in keys if key in still]
            if not keys:
                break
            # A file that moved to a newer package belongs to that package until it is removed, too.
            moved = set(re.findall(r"trying to overwrite .* also in package (\S+) ", self.said))
            force = ["--force-confmiss"] if force or not stripped.isdisjoint(keys) else []
            force += ["--force-overwrite"] if moved and moved <= self._names() else []
        torn = [key for key in torn if key not in keys]
        if torn:
            self._run([*self.argv(torn), "--yes", "--reinstall"])
        return {key: cause(self.said, key.partition(":")[0]) or reason(self.said) for key in keys}

    def retake(self, wanted: Sequence[Package]) -> dict[str, str]:
        """Install the packages once more that lack files because another package had taken them; return (key -> cause)
        for those that still lack files."""
        lacking = takeovers.lacking(self.at, wanted, read_packages(self.at.system))
        if lacking:
            paths = [self.files[key] for key in lacking]
            self._run([*apt_install(paths, [], self.options, self.at.patience), "--yes", "--reinstall"])
            lacking = takeovers.lacking(self.at, wanted, read_packages(self.at.system))
        why = "it lacks {}, which another package had taken over: {}"
        return {
            key: why.format(", ".join(paths[:5]), cause(self.said, key.partition(":")[0]) or reason(self.said))
            for key, paths in lacking.items()
        }

    def purge(self) -> dict[str, str]:
        """Remove the data of the packages that are to be purged, once these are gone; return (key -> cause) for the
        packages where that failed. apt would purge all packages of a transaction, also those whose data were there
        before."""
        asked = [one.key for action, one in self.changes if action == "purge"]
        rest = dpkg.with_data(self.at.system) if asked else {}
        names = [one.name if one.arch == "all" else key for key, one in rest.items() if key in asked]
        if names:
            self._run(["dpkg", "--purge", *names])
            rest = dpkg.with_data(self.at.system)
        return {key: cause(self.said, one.name) or reason(self.said) for key, one in rest.items() if key in asked}

    def _torn(self, keys: Sequence[str], live: Mapping[str, Package]) -> list[str]:
        """The packages that have to be installed twice.

        Where a newer package declares that it replaces such a package, dpkg leaves out the files that moved to the
        newer package, and removes these files together with the newer package.
        """
        names = [live[key].name if live[key].arch == "all" else key for key in keys if key in live]
        seen = self.at.system.run(["dpkg-query", "-W", "-f", "${Replaces}, ", *names], 60.0) if names else None
        replaced = {one.split()[0] for one in seen.out.split(",") if one.strip()} if seen is not None else set()
        return [key for key in keys if key in self.files and key.partition(":")[0] in replaced]

    def _names(self) -> set[str]:
        """The names of all packages that are changed, as dpkg writes them."""
        return {name for _action, one in self.changes for name in (one.name, one.key)}

    def _has_missing_conffiles(self, key: str) -> bool:
        listed = self.at.system.run(["dpkg-deb", "--info", self.files[key], "conffiles"], 60.0)
        paths = [line.split()[-1] for line in listed.out.splitlines() if listed.rc == 0 and line.strip()]
        return any(path.startswith("/") and not os.path.lexists(path) for path in paths)

    def configure(self) -> None:
        self._run(["dpkg", *_KEEP_CONFIG, "--configure", "--pending"])

    def forget(self, keys: Collection[str]) -> dict[str, str]:
        """Have the removed packages of these keys forgotten; return (key -> cause) for those where that failed."""
        gone = [one for key, one in dpkg.with_data(self.at.system).items() if key in keys] if keys else []
        return forgetting.forget(gone, self.at.system, self._run)

    def _run(self, argv: Sequence[str]) -> str:
        said = run(argv, self.folder, self.at).out
        self.said += said
        return said

    def repair(self) -> None:
        """Let dpkg finish the work that a kill left. A package that dpkg cannot configure is replaced next, or the
        simulation reports it.

        For a package of which a kill left only a part, apt has no package file to go on from: dpkg unpacks the
        recorded file.
        """
        live = read_packages(self.at.system)
        if not any(package.status for package in live.values()):
            return
        self.configure()
        gone = {one.key for action, one in self.changes if action in REMOVES}
        for key, package in read_packages(self.at.system).items():
            partial = package.status.startswith("half-installed") or package.status.endswith("reinstreq")
            if partial and key in gone:
                self._run(["dpkg", "--force-depends", "--force-remove-reinstreq", "--remove", key])
            elif partial and key in self.files:
                self._run(["dpkg", *self.options, "--force-depends", "--force-breaks", "--unpack", self.files[key]])


def _is_open(action: str, wanted: Package, now: Package | None) -> bool:
    if action in REMOVES:
        return now is not None
    if action == "configure":
        return now is not None and bool(now.status)
    return action in INSTALLS and (now is None or bool(now.status) or now.version != wanted.version)


def apt_install(
    paths: Sequence[str],
    removes: Sequence[Package],
    more: Sequence[str] = (),
    wait: float = 300.0,
) -> list[str]:
    """The command that installs these files and removes these packages, and changes no other package. ``more``:
    options for dpkg."""
    options = [*_KEEP_CONFIG, *more]
    return [
        *("apt-get", "-q", *_OFFLINE, "-o", f"DPkg::Lock::Timeout={wait:.0f}", "-o", "Dpkg::Use-Pty=0"),
        *(word for one in options for word in ("-o", f"Dpkg::Options::={one}")),
        *("-o", "APT::Get::AutomaticRemove=false", "--no-install-recommends"),
        *("--allow-downgrades", "--allow-change-held-packages", "install"),
        *paths,
        *(f"{one.key}-" for one in removes),
    ]


def beyond(simulated: str, installs: Sequence[Package], removes: Sequence[Package]) -> list[str]:
    """Sentences on the effects of a simulated transaction that nobody asked for."""
    # apt names the architecture of foreign packages alone.
    asked = {("Inst", name) for one in installs for name in (one.name, one.key)}
    asked |= {(verb, name) for verb in ("Remv", "Purg") for one in removes for name in (one.name, one.key)}
    found = re.findall(r"^(Inst|Remv|Purg) (\S+)", simulated, re.MULTILINE)
    return [f"{name} ({verb})" for verb, name in found if (verb, name) not in asked]


# -- package files


def _files(installs: Sequence[Package], folder: str, at: Restore) -> tuple[dict[str, str], dict[str, str]]:
    """(key -> package file in ``folder``, key -> why there is no file). A mirror may have a file that the store
    lacks."""
    files: dict[str, str] = {}
    left: dict[str, str] = {}
    replaced = kept.every(at.objects.root)
    stored = [one for one in installs if one.sha256 or one.ident in replaced]
    for package in stored:
        try:
            files[package.key] = _take_out(package, replaced.get(package.ident), folder, at)
        except (EvenkeelError, OSError) as error:
            left[package.key] = str(error)
    without = [one for one in installs if one not in stored]
    files.update(fetch(without, folder, at.system, not at.boot))
    for one in without:
        if one.key not in files:
            left[one.key] = (
                f"nobody has the package file of version {one.version}: it was not kept when it was replaced, and "
                "neither apt's cache nor a mirror has it. "
                "Install this version by hand, then run the rollback again"
            )
    return files, left


def _take_out(package: Package, replaced: kept.Kept | None, folder: str, at: Restore) -> str:
    """Copy the package file from the store to ``folder``; Damaged where it is another package than the line says."""
    path = os.path.join(folder, f"{package.name}_{package.arch}.deb")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        pieces = at.objects.read(package.sha256) if package.sha256 or replaced is None else kept.read(replaced)
        for chunk in pieces:
            write_all(fd, chunk)
    finally:
        os.close(fd)
    found = identity(path, at.system)
    if found != package.ident:
        raise Damaged(
            f"object {package.sha256 or 'kept'} is recorded as the package {package.key} {package.version}, and is "
            f"{' '.join(found).strip() or 'no package'}"
        )
    return path


# -- marks


def _mark(changes: Sequence[Change], folder: str, at: Restore) -> dict[str, str]:
    """Hold and mark the packages that were changed, because a transaction marks each package that it installs as
    manual; return (key -> why) for the packages where that failed."""
    live = read_packages(at.system)
    wanted: dict[str, list[Package]] = {}
    for action, package in changes:
        now = live.get(package.key)
        if now is None or action in REMOVES or action == "configure":
            continue
        if package.auto != now.auto:
            wanted.setdefault("auto" if package.auto else "manual", []).append(package)
        if package.hold != now.hold:
            wanted.setdefault("hold" if package.hold else "unhold", []).append(package)
    left = {}
    for verb, packages in wanted.items():
        names = sorted({one.name if one.arch == "all" else one.key for one in packages})
        done = run(["apt-mark", *_OFFLINE, "-o", f"DPkg::Lock::Timeout={at.patience:.0f}", verb, *names], folder, at)
        if done.rc:
            left.update({one.key: f"cannot be marked {verb}: {reason(done.out)}" for one in packages})
    return left


# -- running


def run(argv: Sequence[str], folder: str, at: Restore) -> Completed:
    """Run a command that changes packages; all of its output is in ``out``. Waits up to ``at.patience`` for a lock
    that another program holds."""
    log = os.path.join(folder, "log")
    command = ["env", "-i", *(f"{key}={value}" for key, value in environment(_QUIET, at.boot).items()), *argv]
    # The output goes to a file, not to a pipe of ours: where we are killed, the command goes on and ends well.
    script = 'umask 022; log=$1; shift; exec "$@" >"$log" 2>&1'
    end = at.system.monotonic() + at.patience
    while True:
        done = at.system.run(["sh", "-c", script, "sh", log, *command], _CHANGE)
        said = dpkg.read_text(log) or done.err
        over = at.system.monotonic() >= end
        holder = locked() if over else ""
        if done.rc and holder and _is_locked(said):
            raise locked_elsewhere(holder)
        if done.rc == 0 or over or not _is_locked(said):
            return Completed(done.argv, done.rc, said, "")
        at.system.sleep(1.0)


def locked() -> str:
    """The program that holds a lock of dpkg or apt, in words; "" where no program does."""
    return holder(_LOCKS)


def _is_locked(said: str) -> bool:
    return "lock" in said and ("another process" in said or "held by process" in said)


# -- causes of failures

_BEGINS = (
    r"(Setting up|Unpacking|Preparing to unpack|Removing|Purging|Processing triggers|Selecting|\(Reading database|"
    r"Errors were|dpkg: error processing|Reading |Building |E: | \S)"
)


def cause(said: str, name: str) -> str:
    """Why dpkg failed with this package: the last words of its script, and dpkg's own error. "" where dpkg did not
    fail."""
    word = re.escape(name)
    failed = re.compile(rf"dpkg: error processing (package {word}[: ]|archive \S*/{word}_)")
    lines = said.splitlines()
    for number in range(len(lines) - 1, -1, -1):
        if failed.match(lines[number]):
            before: list[str] = []
            while number - len(before) > 0 and not re.match(_BEGINS, lines[number - len(before) - 1]):
                before.insert(0, lines[number - len(before) - 1].strip())
            after = lines[number + 1].strip() if number + 1 < len(lines) else ""
            return "; ".join(one for one in [*before[-3:], after] if one)
    return ""


def reason(said: str) -> str:
    """The lines in which apt or dpkg name the cause, without the lines that only report a failure."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    unmet = [line for line in lines if re.match(r"\S+ : (Pre)?(Depends|Breaks|Conflicts|Recommends)", line)]
    errors = [line for line in lines if re.match(r"(E: |dpkg: error)", line) and "returned an error code" not in line]
    return " / ".join((unmet or errors or lines[-3:])[:3]) or "it said nothing"
