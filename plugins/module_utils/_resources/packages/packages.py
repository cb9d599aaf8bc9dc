# SPDX-License-Identifier: GPL-3.0-or-later

"""The kind ``packages``: the installed versions, with holds and marks.

The store keeps the package file of an installed version, so that the version comes back without a network, and after
the mirror has dropped it. The manifests record which file belongs to which version: a version whose file any
checkpoint has is not fetched again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Callable, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from ..._dataclasses import replace
from ..._errors import Damaged, RestoreFailed, UsageError
from ..._files.footprint import CHANGED, NEW, REPLACED
from ..._files.step import Step
from ..._host.options import Options, one_word, read
from ..._host.system import System
from ..._store.manifest import Manifest
from ..._store.objects import Hasher, Objects
from ..kind import Kind, Restore, Sink, Spec, Suggestion, is_within
from . import (
    apt,
    architectures,
    choices,
    diversions,
    dpkg,
    forgetting,
    kept,
    keys,
    overrides,
    owners,
    replacing,
    rpm,
    takeovers,
)
from .package import INSTALLS, REMOVES, Ident, Package

# The package files that are kept: the files of versions that the change replaces, or all files.
_CHANGE, _EVERY = "change", "all"
_NAME = r"[A-Za-z0-9][A-Za-z0-9.+_-]*(:[a-z0-9][a-z0-9_-]*)?"
# In place of the name in an absent line: only the packages of the other lines were installed.
_ALL = "*"
# A package that was not installed is removed with its data, unless a line ``data`` says that the data were there.
_PURGE = "purge"
# After this word, each line is an option by which dpkg leaves out files of packages.
_FILTERS = "filters"
# After these words, each line is a diversion or an override that somebody made by hand; only with all packages.
_DIVERSIONS = "diversions"
_OVERRIDES = "overrides"
# After this word, each line is a group of update-alternatives with the text of its book; only with all packages.
_CHOICES = "alternatives"
_CHOICE = rf"choices ({choices.NAME}) (\S+)"
_DIVERSION = r"diversion (/\S*) (/\S*)"
_OVERRIDE = r"override (/\S*) ([^\s-]\S* [^\s-]\S* [0-7]+)"
_FILTER = r"filter (path-(?:exclude|include)=[^\n]*)"
# After this word, each line is a package of which only configuration and data were there. At first none was recorded.
_REST = "rest"
# The action, and the mark of a removal, after which nothing knows the package any more.
_FORGET = "forget"
_RESTS = r"rest ([A-Za-z0-9][A-Za-z0-9.+_-]*:[a-z0-9][a-z0-9_-]*)"
# After this word, each line is an architecture of which dpkg takes packages; only with all packages.
_ARCHITECTURES = "architectures"
_ARCHITECTURE = r"architecture ([a-z0-9][a-z0-9-]*)"
# After this word, each line is a key that rpm trusts; only with all packages.
_KEYS = "keys"
_KEY = rf"key ({keys.NAME})"
_WORDS = (_PURGE, _FILTERS, _DIVERSIONS, _OVERRIDES, _CHOICES, _REST, _ARCHITECTURES, _KEYS)
_DATA = r"data ([A-Za-z0-9][A-Za-z0-9.+_-]*:[a-z0-9][a-z0-9_-]*)"
_UNKNOWN = (
    "packages: dnf did not answer, so that nobody knows which packages were asked for by name (see what "
    "'dnf -C repoquery --userinstalled' says)"
)
_NO_PACKAGES = "packages: neither dpkg nor rpm knows of an installed package on this host"
NO_FILE = "; its package file is not in the store"
# Packages by which a machine boots, and reaches its disks.
_BOOTS = (
    r"(linux-(image|headers|modules|base|firmware)|kernel|grub|shim|systemd-boot|initramfs-tools|dracut|firmware-|lvm2"
    r"|mdadm|cryptsetup|multipath|device-mapper|dmsetup|btrfs-progs|xfsprogs|zfs|efibootmgr|(amd64|intel)-microcode)"
    r"[^:]*"
)


class Recorded(NamedTuple):
    """``absent``: names, with or without architecture, of which only the packages in ``present`` were installed.

    ``data``: keys of the packages that were not installed, and had left data; None where no package is to be purged.
    ``filters``: the options by which dpkg left files out of packages. ``diversions``: path -> the path at which dpkg
    put files instead. ``overrides``: path -> owner and mode that dpkg gave. ``rest``: keys of the packages of which
    only configuration and data were there. ``architectures``: those of which dpkg took packages. ``trusted``: the keys
    that rpm trusted. ``choices``: a group of update-alternatives -> the text of its book. These seven are None where
    they are not recorded.
    """

    present: list[Package]
    absent: set[str]
    data: set[str] | None = None
    filters: list[str] | None = None
    diversions: dict[str, str] | None = None
    overrides: dict[str, str] | None = None
    rest: set[str] | None = None
    architectures: list[str] | None = None
    trusted: list[str] | None = None
    choices: dict[str, str] | None = None

    def covers(self, package: Package) -> bool:
        return not self.absent.isdisjoint({package.key, package.name, _ALL})


class Packages(Kind):
    """Packages of dpkg or rpm: versions, holds, and the marks auto and manual, in one transaction.

    While a change is armed, the package file of a version is kept in the store at the moment in which apt, dpkg or dnf
    is about to replace or remove it: from the cache, or made anew from the files that are installed. It comes back
    without a mirror then. Where no hook of dnf 4 can be had, all files of rpm are kept at the checkpoint, from the
    cache of dnf or else the mirror. Rpm needs its Python module, and locks of dnf are files.

    A package that was not installed is removed again, but its data stay, and configuration in no declared path, unless
    C(purge) is V(true). Where no configuration of it is left, dpkg, ucf and systemd's helper of Debian forget it, so
    that the same change finds the host as it was.

    As many packages as possible are put back; each of the others is named with its cause.

    names: Names of packages. By default all packages. For example V([nginx, libssl3:amd64]).

    keep: The package files that are kept. V(change) keeps those of versions that an armed change replaces, and nothing
    where no change is armed. V(all) keeps all of them at the checkpoint, from the cache or else the mirror. For example
    V(all).

    purge: Remove also the configuration and data of packages that were not installed (dpkg alone). For example
    V(true).
    """

    name = "packages"
    since = "0.2.0"
    order = 10
    options: Options = {
        "names": {"type": "list", "elements": "str"},
        "keep": {"type": "str", "choices": [_CHANGE, _EVERY], "default": _CHANGE},
        "purge": {"type": "bool", "default": False},
    }
    keeps_data_outside = True
    partly_of_the_machine = True
    # The scripts of packages may write to any path.
    installs = True
    on_plain_host: Spec = {}

    def __init__(self, system: System | None = None) -> None:
        """``system`` tells whether a plain host has packages."""
        self.system = system or System()

    def for_plain_host(self, beside: Sequence[Spec], taken: Sequence[str]) -> tuple[Spec | None, list[str]]:
        if not beside and not dpkg.read_packages(self.system) and not rpm.installed(self.system):
            raise UsageError(_NO_PACKAGES)
        return super().for_plain_host(beside, taken)

    def check(self, spec: Spec) -> dict[str, object]:
        """The declaration with all its keys; ``names`` is None for all packages. UsageError names a bad key."""
        found = read(self.options, spec, self.name)
        names = found["names"]
        one_word(found["keep"], self.options["keep"], "packages: keep")
        # A key with its default value is left out, so that equal declarations are equal texts.
        more: dict[str, object] = {"purge": True} if found["purge"] else {}
        more.update({"keep": _EVERY} if found["keep"] == _EVERY else {})
        if names is None:
            return {"names": None, **more}
        if not names:
            raise UsageError("packages: names is empty; leave it out for all packages")
        for name in names:
            if not re.fullmatch(_NAME, name) or name.endswith(":any"):
                raise UsageError(f"packages: {name!r} is no name of a package; write nginx, or nginx:amd64")
        return {"names": sorted(set(names)), **more}

    def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
        return _captured(spec, sink, system, fetch=True)

    def capture_for_undo(self, spec: Spec, sink: Sink, system: System, local_only: bool) -> list[str]:
        return _captured(spec, sink, system, fetch=not local_only)

    def not_restorable(self, spec: Spec, lines: Sequence[str]) -> list[str]:
        recorded = parse(lines)
        present, absent = recorded.present, sorted(recorded.absent - {_ALL})
        found = [f"{name} is not installed: a rollback removes it, no more" for name in absent]
        broken = [f"{one.name} is {one.status}" for one in present if one.status]
        if broken:
            found.append(
                f"{len(broken)} packages are not installed whole ({_some(broken)}): wait for the end of apt or dpkg, "
                "or run 'dpkg --configure -a', and take the checkpoint again"
            )
        if any(one.auto is None for one in present):
            found.append(f"{_UNKNOWN}, and a rollback leaves these marks as they are")
        without = [f"{one.name} {one.version}" for one in present if not one.sha256]
        if without and _keeps_all(spec, lines):
            is_deb = present[0].manager == "deb"
            advice = "Update the lists of apt, or install dpkg-repack" if is_deb else rpm.how_to_get()
            found.append(
                f"the package files of {len(without)} packages could not be had ({_some(without)}): these versions "
                f"cannot be installed again from the store. {advice}, and take the checkpoint again"
            )
        return found

    def watch(self, spec: Spec, lines: Sequence[str], call: Sequence[str], root: str) -> list[str]:
        present = parse(lines).present
        bare = [] if _keeps_all(spec, lines) else [one for one in present if not one.sha256]
        # With all files kept, there are still files that one package of dpkg takes over from another.
        if call and (bare or any(one.manager == "deb" for one in present)):
            why = replacing.install(root, call, present[0].manager)
            what = "of packages are not kept when something replaces them"
            what = what if bare else "that one package takes over from another are not noticed"
            return [f"packages: files {what}: {why}"] if why else []
        if bare:
            return [
                f"packages: nothing keeps the package files of {len(bare)} packages, as it is done while a change is "
                "armed: a version that is replaced comes back from a cache or a mirror alone. packages: {keep: all} "
                "keeps all of them"
            ]
        return []

    def keep_replaced(self, lines: Sequence[str], told: Sequence[str], at: Restore) -> list[str]:
        source, text, process = told
        recorded = {one.ident: one for one in parse(lines).present}
        if source == "dnf":
            gone = replacing.of_dnf(text)
            mine = [one for ident, one in recorded.items() if ident in gone and not one.sha256]
            return _not_kept(replacing.keep(mine, at.objects.root, at.system))
        names = replacing.about(source, text, process, at.system)
        files = replacing.archives(source, text, process)
        live = dpkg.read_packages(at.system) if names or files else {}
        taken = takeovers.find(files, live, at)
        takeovers.keep(at.objects.root, taken)
        mine = replacing.chosen(recorded, live, names | {one.ident[:2] for one in taken})
        return _not_kept(replacing.keep(mine, at.objects.root, at.system))

    def forget(self, store: str, system: System, stay: Sequence[str], go: Sequence[str]) -> None:
        found = [Package.parse(line) for line in stay]
        needed = {one.ident for one in found if one is not None}
        kept.forget(store, needed)
        takeovers.forget(store, needed)

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        steps = plan(lines, at.system, kept.every(at.objects.root))
        steps += _retaken(lines, steps, at)
        came = {step.target for step in steps if step.action == choices.TAKE}
        books = choices.read_choices() if came else {}
        stay = choices.staying({name: book for name, book in books.items() if name in came}, at)
        return [step for step in steps if step.action != choices.TAKE or step.target not in stay]

    def obstacles(self, lines: Sequence[str], at: Restore) -> list[str]:
        changes = _changes(plan(lines, at.system))
        return (apt if changes[0][1].manager == "deb" else rpm).obstacles(changes, at) if changes else []

    def keep_here(self, lines: Sequence[str], now: Sequence[str]) -> tuple[list[str], list[str]]:
        others, there = _without_boot(lines)
        others = [line for line in others if line != _KEYS and not re.fullmatch(_KEY, line)]
        here = _without_boot(now)[1]
        first = next((at for at, line in enumerate(others) if line in (_FILTERS, _DIVERSIONS, _PURGE)), len(others))
        found = [*others[:first], *here.values(), *others[first:]]
        left = sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key))
        return found, [f"packages {_some(left)} (boot)"] if left else []

    def cannot_be_had(self, lines: Sequence[str], at: Restore) -> list[str]:
        missing = [one for action, one in _changes(self.plan(lines, at)) if action in INSTALLS and not one.sha256]
        have = kept.every(at.objects.root)
        missing = [one for one in missing if one.ident not in have]
        by = rpm if missing and missing[0].manager == "rpm" else dpkg
        gone = [f"{one.key} {one.version}" for one in by.not_available(missing, at.system)]
        if not gone:
            return []
        return [
            f"the package files of {len(gone)} packages are neither in the checkpoint nor in a cache nor on a "
            f"mirror: {_some(gone)}. Make a mirror reachable, or leave out packages by kinds; packages: {{keep: all}} "
            "keeps all files in checkpoints"
        ]

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        """Install and remove as many packages as possible; RestoreFailed names the others, each with its cause."""
        changes = _changes(steps)
        try:
            _keep_for_undo(changes, at)
            # Diversions and overrides come first, so that each file of a package goes to its place.
            left = diversions.apply([step for step in steps if step.action in diversions.ACTIONS], at.system)
            left.update(overrides.apply([step for step in steps if step.action in overrides.ACTIONS], at.system))
            if changes and changes[0][1].manager == "deb":
                forget = {_key(step) for step in steps if step.action == _FORGET or _FORGET in step.detail}
                left.update(apt.transact(changes, at, steps[-1].detail.get("filters"), forget))
            elif changes:
                left.update(rpm.transact(changes, at))
            left.update(
                architectures.apply([step for step in steps if step.action in architectures.ACTIONS], at.system)
            )
            left.update(keys.apply([step for step in steps if step.action in keys.ACTIONS], at.system, bool(left)))
            # Scripts of packages have taken their groups away, or have made them anew.
            failed, stay = choices.apply([step for step in steps if step.action in choices.ACTIONS], at)
            left.update(failed)
            overrides.without_gone(steps)
        except OSError as error:
            raise RestoreFailed(
                f"packages cannot be put back: {error}; mend the cause, then run the rollback again",
                done=[],
                left=[f"packages: {error}"],
            ) from error
        steps = [step for step in steps if step.action != choices.TAKE or step.target not in stay]
        done = [step for step in steps if _key(step) not in left]
        if left:
            words = [f"{key}: {why}" for key, why in left.items()]
            raise RestoreFailed(
                f"{len(left)} packages cannot be put back: {'; '.join(words[:10])}",
                done=[step.shown() for step in done],
                left=words,
                notes=[step.detail["note"] for step in done if "note" in step.detail],
            )
        return done

    def verify(self, lines: Sequence[str], system: System) -> list[str]:
        # A package may lose the last of its configuration after its turn, and a group may have to stay.
        now, open_ = read_packages(system), (_FORGET, choices.TAKE)
        wrong = [f"{step.target}: {step.why}" for step in plan(lines, system, now=now) if step.action not in open_]
        marked = any(one.auto is not None for one in parse(lines).present)
        return wrong + ([_UNKNOWN] if marked and any(one.auto is None for one in now) else [])

    def outside(self, spec: Spec, lines: Sequence[str], declared: Sequence[Spec], system: System) -> Iterator[str]:
        if spec.get("purge") and not any(one.get("purge") for one in declared):
            yield "with the data of packages that go (purge)"
        if any(one.get("names") is None for one in declared):
            return
        known = {name for one in declared for name in one["names"]}
        if spec["names"] is None:
            yield "without a limit"
            return
        yield from sorted(set(spec["names"]) - known)
        recorded = parse(lines)
        for package in recorded.present:
            if {package.key, package.name}.isdisjoint(known):
                yield package.key
        yield from sorted(recorded.absent - known)
        if recorded.diversions is not None:
            yield "with diversions"
        if recorded.overrides is not None:
            yield "with owners and modes of files"
        if recorded.choices is not None:
            yield "with choices of alternatives"

    def covers(self, spec: Spec, lines: Sequence[str], changed: Mapping[str, str], at: Restore) -> set[str]:
        """The paths of declared packages that came, went or changed their version, without configuration, which a
        rollback leaves as it is. Packages that a rollback has brought back count with the files that are the same
        again."""
        if not changed:
            return set()
        then = parse(lines).present
        names = spec["names"]
        now = [one for one in read_packages(at.system) if names is None or not {one.key, one.name}.isdisjoint(names)]
        known, live = {one.ident for one in then}, {one.ident for one in now}
        found = owners.paths_of([one for one in now if one.ident not in known], at.system)
        manager = now[0].manager if now else "deb"
        anew = owners.installed_since(at.since, manager, at.system)
        back = owners.paths_of([one for one in now if one.ident in known and one.name in anew], at.system)
        found |= {path for path, what in changed.items() if what in (REPLACED, CHANGED) and path in back}
        if any(path not in found for path, what in changed.items() if what != NEW):
            found |= owners.paths_in([one for one in then if one.ident not in live], at.objects, at.system)
        found |= choices.paths(parse(lines).choices, at)
        return {path for path in found if not is_within(path, "/etc")}

    def suggest(self, changed: Mapping[str, str], taken: Sequence[str], at: Restore) -> Suggestion:
        """A declaration of the packages that own changed paths and were installed since ``at.since``. A path of
        another package was changed by hand: another kind has to cover it, and configuration too."""
        installed = (list(dpkg.read_packages(at.system).values()) or rpm.read_packages(at.system)) if changed else []
        managers = {one.manager for one in installed}
        owned = {path: name for one in managers for path, name in owners.owners(changed, one, at.system).items()}
        anew = {name for one in managers for name in owners.installed_since(at.since, one, at.system)}
        names = sorted({name for name in owned.values() if name in anew})
        handled = {path for path, name in owned.items() if name in anew and not is_within(path, "/etc")}
        return ({"names": names} if names else None), handled


def _not_kept(left: Mapping[str, str]) -> list[str]:
    return [f"the package file of {version} is not kept: {why}" for version, why in left.items()]


def _without_boot(lines: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(all other lines, key -> line of each package by which the machine boots)."""
    others: list[str] = []
    found: dict[str, str] = {}
    for line in lines:
        package = Package.parse(line)
        if package is not None and re.fullmatch(_BOOTS, package.name):
            found[package.key] = line
        else:
            others.append(line)
    return others, found


def read_packages(system: System) -> list[Package]:
    """The installed packages, by name. UsageError where neither dpkg nor rpm has installed a package."""
    found = list(dpkg.read_packages(system).values()) or rpm.read_packages(system)
    if not found:
        raise UsageError(_NO_PACKAGES)
    return sorted(found)


def _captured(spec: Spec, sink: Sink, system: System, fetch: bool) -> list[str]:
    """A line for each package, with the name of its package file in the sink where the file is available."""
    live = read_packages(system)
    names = spec["names"]
    chosen = [one for one in live if names is None or not {one.key, one.name}.isdisjoint(names)]
    known = remembered(sink.objects, chosen)
    # A Writer tries again to get a file that was not available last time. A Hasher expects that it still is not.
    settled = {ident for ident, sha in known.items() if sha or isinstance(sink, Hasher)}
    unknown = [one for one in chosen if one.ident not in settled]
    manager = live[0].manager
    if _keeps_all(spec, [manager]):
        found = (dpkg if manager == "deb" else rpm).keep(unknown, sink, system, fetch)
    else:
        found = {}
    lines = [one._replace(sha256=known.get(one.ident) or found.get(one.ident, "")).line() for one in chosen]
    have = {one.key for one in chosen} | {one.name for one in chosen}
    lines += [f"{manager} {name} -" for name in ([_ALL] if names is None else names) if name not in have]
    if manager == "deb":
        lines += [_FILTERS, *(f"filter {one}" for one in dpkg.filters())]
    if manager == "deb" and names is None:
        lines += [
            _DIVERSIONS,
            *(f"diversion {_word(at)} {_word(to)}" for at, to in diversions.read_diversions().items()),
        ]
        lines += [_OVERRIDES, *(f"override {_word(at)} {told}" for at, told in overrides.read_overrides().items())]
        lines += [_ARCHITECTURES, *(f"architecture {one}" for one in architectures.read_architectures())]
        lines += [_CHOICES, *(f"choices {name} {_word(text)}" for name, text in choices.read_choices().items())]
    if manager == "rpm" and names is None:
        lines += [_KEYS, *(f"key {one}" for one in keys.read_keys(system))]
    if manager == "deb":
        rest = [one for one in dpkg.with_data(system).values() if names is None or {one.key, one.name} & set(names)]
        lines += [_REST, *(f"rest {one.key}" for one in rest)]
    return lines + ([_PURGE, *(f"data {key}" for key in dpkg.with_data(system))] if spec.get("purge") else [])


def remembered(objects: Objects | None, wanted: Sequence[Package]) -> dict[Ident, str]:
    """ident -> the package file in the store, or "" where the newest checkpoint of that version could not get the
    file."""
    found: dict[Ident, str] = {}
    missing = {one.ident for one in wanted}
    folder = os.path.join(objects.root, "manifests") if objects is not None else ""
    if objects is None or not os.path.isdir(folder):
        return found
    paths = [os.path.join(folder, name) for name in os.listdir(folder) if re.fullmatch("[0-9a-f]{64}", name)]
    for path in sorted(paths, key=os.path.getmtime, reverse=True):
        if not missing:
            break
        with open(path, "rb") as stream:
            data = stream.read()
        if b"\nresource packages " not in data or hashlib.sha256(data).hexdigest() != os.path.basename(path):
            continue
        record = Manifest.parse(data, os.path.basename(path))
        for one in (Package.parse(line) for kind, line in record.written() if kind == "packages"):
            if one is not None and one.ident in missing and (not one.sha256 or objects.has(one.sha256)):
                found[one.ident] = one.sha256
                missing.remove(one.ident)
    return found


def _retaken(lines: Sequence[str], steps: Sequence[Step], at: Restore) -> list[Step]:
    """Steps for the packages that have their version and lack files: another package, which goes, has taken them."""
    if not takeovers.every(at.objects.root):
        return []
    wanted = {one.key: one for one in parse(lines).present}
    go = {one.name for action, one in _changes(steps) if action in (*INSTALLS, *REMOVES)}
    lacking = takeovers.lacking(at, list(wanted.values()), dpkg.read_packages(at.system), go)
    return [
        _step(
            takeovers.RETAKE, f"{key} {wanted[key].version}", f"has lost {_some(paths)} to another package", wanted[key]
        )
        for key, paths in lacking.items()
    ]


def _keeps_all(spec: Spec, lines: Sequence[str]) -> bool:
    """Whether all package files are kept at the checkpoint. With rpm they are where no dnf tells us ahead which
    packages it replaces."""
    return spec.get("keep") == _EVERY or (any(line.startswith("rpm") for line in lines[:1]) and not rpm.hooks())


def _keep_for_undo(changes: Sequence[tuple[str, Package]], at: Restore) -> None:
    """Keep the package files of the versions that a rollback replaces. A host that goes back by itself keeps only
    files from the cache of apt or dnf."""
    if at.boot or not changes:
        return
    if changes[0][1].manager == "rpm":
        live = [one for action, one in changes if action in REMOVES]
    else:
        names = {(one.name, one.arch) for action, one in changes if action in (*INSTALLS, *REMOVES)}
        live = [one for one in dpkg.read_packages(at.system).values() if (one.name, one.arch) in names]
    have = remembered(at.objects, live)
    replacing.keep([one for one in live if not have.get(one.ident)], at.objects.root, at.system, at.unattended)


def _word(path: str) -> str:
    """A path of any bytes as a word of a line."""
    return quote(os.fsencode(path))


def _path(word: str) -> str:
    return os.fsdecode(unquote_to_bytes(word))


def _is_taken(into: Recorded, line: str) -> bool:
    """Whether the line belongs to one of the words ``_WORDS``; then it is taken into the record."""
    for form, one_by_one in ((_FILTER, into.filters), (_ARCHITECTURE, into.architectures), (_KEY, into.trusted)):
        found = re.fullmatch(form, line)
        if found is not None and one_by_one is not None:
            one_by_one.append(found[1])
            return True
    for form, names in ((_RESTS, into.rest), (_DATA, into.data)):
        found = re.fullmatch(form, line)
        if found is not None and names is not None:
            names.add(found[1])
            return True
    pairs = (
        (_DIVERSION, into.diversions, _path),
        (_OVERRIDE, into.overrides, str),
        (_CHOICE, into.choices, _path),
    )
    for form, told, read_value in pairs:
        found = re.fullmatch(form, line)
        if found is not None and told is not None:
            told[_path(found[1])] = read_value(found[2])
            return True
    return False


def parse(lines: Sequence[str]) -> Recorded:
    """The record of the lines. Raises Damaged for a line that ``capture`` cannot have written."""
    recorded = Recorded(
        present=[],
        absent=set(),
        data=set() if _PURGE in lines else None,
        filters=[] if _FILTERS in lines else None,
        diversions={} if _DIVERSIONS in lines else None,
        overrides={} if _OVERRIDES in lines else None,
        rest=set() if _REST in lines else None,
        architectures=[] if _ARCHITECTURES in lines else None,
        trusted=[] if _KEYS in lines else None,
        choices={} if _CHOICES in lines else None,
    )
    for line in lines:
        if line in _WORDS or _is_taken(recorded, line):
            continue
        word, _blank, rest = line.partition(" ")
        name = rest[: -len(" -")]
        if word in ("deb", "rpm") and rest.endswith(" -") and (name == _ALL or re.fullmatch(_NAME, name)):
            recorded.absent.add(name)
            continue
        package = Package.parse(line)
        if package is None:
            raise Damaged(f"this line of a manifest cannot be read: {line[:200]!r}; nothing was changed")
        recorded.present.append(package)
    return recorded


def compare(then: Recorded, now: Sequence[Package], older: Callable[[str, str], bool]) -> list[Step]:
    """The steps that bring back the recorded packages of dpkg. Pure.

    ``older``: a function that tells whether its first version is before its second version.
    """
    steps = []
    replaced = set()
    live = {one.key: one for one in now}
    present = {one.key for one in then.present}
    for wanted in then.present:
        had = live.get(wanted.key) or _other_architecture(live, wanted)
        if had is not None and had.key != wanted.key:
            replaced.add(had.key)
        if had is None or had.status or (had.key, had.version) != (wanted.key, wanted.version):
            steps.append(_install(wanted, had, older))
        steps += _marks(wanted, had or wanted._replace(hold=False, auto=False))
    for key, one in live.items():
        if key in present or key in replaced:
            continue
        if then.covers(one):
            steps.append(_removal(then, one))
        elif one.status:
            steps.append(_step("configure", key, f"is {one.status}", one))
    return steps


def compare_versions(then: Recorded, now: Sequence[Package]) -> list[Step]:
    """The steps that bring back the recorded packages of rpm. Several versions may be installed at once. Pure."""
    steps = []
    present = {one.ident for one in then.present}
    recorded = {one.key for one in then.present}
    live = {one.ident: one for one in now}
    for wanted in then.present:
        had = live.get(wanted.ident)
        if had is None:
            others = ", ".join(one.version for one in now if one.key == wanted.key)
            why = f"is {others}" if others else "is not installed"
            why += "" if wanted.sha256 else NO_FILE
            steps.append(_step("install", f"{wanted.key} {wanted.version}", why, wanted))
        steps += _marks(wanted, had or wanted._replace(auto=False))
    for one in now:
        if one.ident not in present and (one.key in recorded or then.covers(one)):
            steps.append(_step("remove", f"{one.key} {one.version}", "was not installed", one))
    return steps


def _step(action: str, target: str, why: str, package: Package) -> Step:
    return Step("packages", action, target, why, {"package": list(package)})


def _removal(then: Recorded, package: Package) -> Step:
    if then.data is not None and package.key not in then.data:
        return _step("purge", package.key, "was not installed", package)
    known = then.rest if then.data is None else then.data
    stays = "its configuration and data stay (state rc)"
    if known is not None and package.key not in known:  # The package was unknown to dpkg, and is so again.
        stays = "its data stay, and configuration that is not declared"
    step = _step("remove", package.key, f"was not installed; {stays}", package)
    before = known is not None and package.key in known
    hint = ", as they were there before" if before else ": with packages: {purge: true} they are removed too"
    step.detail["note"] = f"{package.key} was removed, and {stays}{hint}"
    step.detail.update({_FORGET: True} if known is not None and not before else {})
    return step


def _other_architecture(live: Mapping[str, Package], wanted: Package) -> Package | None:
    """The installed package that ``wanted`` replaces although its architecture differs: one of both is for all
    architectures."""
    for now in live.values():
        if now.name == wanted.name and "all" in (now.arch, wanted.arch):
            return now
    return None


def _install(wanted: Package, now: Package | None, older: Callable[[str, str], bool]) -> Step:
    if now is None:
        action, why = "install", "is not installed"
    elif now.version == wanted.version:
        action, why = "reinstall", f"is {now.status}" if now.status else f"is {now.arch}"
    else:
        action = "downgrade" if older(wanted.version, now.version) else "upgrade"
        why = f"is {now.version}" + (f", {now.status}" if now.status else "")
    if not wanted.sha256:
        why += NO_FILE
    return _step(action, f"{wanted.key} {wanted.version}", why, wanted)


def _marks(wanted: Package, now: Package) -> list[Step]:
    steps = []
    if wanted.hold != now.hold:
        action, why = ("hold", "is not held") if wanted.hold else ("unhold", "is held")
        steps.append(_step(action, wanted.key, why, wanted))
    if None not in (wanted.auto, now.auto) and wanted.auto != now.auto:
        action, why = ("auto", "is marked manual") if wanted.auto else ("manual", "is marked auto")
        steps.append(_step(action, wanted.key, why, wanted))
    return steps


def plan(
    lines: Sequence[str], system: System, replaced: Collection[Ident] = (), now: Sequence[Package] | None = None
) -> list[Step]:
    """The steps that bring back the recorded packages. Raises UsageError where another manager has recorded them.

    ``replaced``: versions whose package file was kept when something replaced them. ``now``: the installed packages,
    where the caller has looked.
    """
    recorded, now = parse(lines), read_packages(system) if now is None else now
    manager = lines[0].split(" ")[0] if lines else now[0].manager
    if manager != now[0].manager:
        raise UsageError(f"packages of {manager} were recorded, and this host has those of {now[0].manager}")
    if manager == "rpm":
        trusted = [] if recorded.trusted is None else keys.compare(recorded.trusted, keys.read_keys(system))
        return _with_files(compare_versions(recorded, now), replaced) + trusted
    steps = _with_files(compare(recorded, now, lambda one, other: dpkg.older(one, other, system)), replaced)
    if recorded.data is not None:
        known = {*recorded.data, *(one.key for one in recorded.present)}
        rest = [one for key, one in dpkg.with_data(system).items() if key not in known and recorded.covers(one)]
        steps += [_step("purge", one.key, "has left configuration and data", one) for one in rest]
    elif recorded.rest is not None:
        known = {*recorded.rest, *(one.key for one in recorded.present)}
        rest = [one for key, one in dpkg.with_data(system).items() if key not in known and recorded.covers(one)]
        bare = forgetting.bare(rest, system)
        steps += [_step(_FORGET, one.key, "was not known, and its configuration is gone", one) for one in bare]
    if recorded.filters is not None and recorded.filters != dpkg.filters():
        # With other filters a package would come back without files that it had.
        steps = [replace(step, detail={**step.detail, "filters": recorded.filters}) for step in steps]
    if recorded.diversions is not None:
        steps = diversions.compare(recorded.diversions, diversions.read_diversions()) + steps
    if recorded.overrides is not None:
        steps = overrides.compare(recorded.overrides, overrides.read_overrides()) + steps
    if recorded.architectures is not None:
        steps = architectures.compare(recorded.architectures, architectures.read_architectures()) + steps
    if recorded.choices is not None:
        steps = choices.compare(recorded.choices, choices.read_choices()) + steps
    return steps


def _with_files(steps: Sequence[Step], replaced: Collection[Ident]) -> list[Step]:
    """The steps; none of them lacks a package file that was kept."""
    return [
        replace(step, why=step.why.removesuffix(NO_FILE))
        if Package.of(step.detail["package"]).ident in replaced
        else step
        for step in steps
    ]


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:5]) + (", …" if len(words) > 5 else "")


def _changes(steps: Sequence[Step]) -> list[tuple[str, Package]]:
    return [(step.action, Package.of(step.detail["package"])) for step in steps if "package" in step.detail]


def _key(step: Step) -> str:
    return Package.of(step.detail["package"]).key if "package" in step.detail else step.target
