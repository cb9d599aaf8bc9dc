# SPDX-License-Identifier: GPL-3.0-or-later

"""systemd-boot as the boot loader of a change that plans a boot.

Arming copies the running kernel and its initramfs to the partition of its entry, adds an entry for the copies, and
makes this entry the default by the variable ``LoaderEntryDefault`` of the firmware. The planned boot takes what the
host's configuration names, by the variable ``LoaderEntryOneShot``: systemd-boot removes this variable as it reads it,
before it loads the kernel. Where a change plans several boots, each of them sets the variable for the next one.

The counters of systemd-boot in names of entries (``/etc/kernel/tries``) would not do. They count only entries that
``kernel-install`` adds during the change, and an entry of the running kernel that is written anew replaces the files
of the old one.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Mapping

from .._host.durable import remove_file, syncfs, write_file
from .._resources import ours
from .._store.store import Store
from .kept import PANIC, SIGN, copy_files, digest, drop_others, grub_kernel, is_missing, is_same, text

_NAME = os.path.basename(ours.BOOT_ENTRIES[0])
VARIABLES = "/sys/firmware/efi/efivars"
_VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_DEFAULT, _ONCE, _SELECTED = "LoaderEntryDefault", "LoaderEntryOneShot", "LoaderEntrySelected"
# Since this version it takes patterns for the next boot.
_OLDEST = 250
# The counters of attempts in the name of an entry.
_COUNTERS = r"\+\d+(?:-\d+)?(?=\.(?:conf|efi)$)"
_SETTING = r"(?m)^[ \t]*default[ \t]+(\S+)"
_PREFERRED = r"(?m)^[ \t]*preferred[ \t]"
_LOADED = r"(linux|initrd|devicetree)([ \t]+)(/\S+)"
# A line that loads a file which is not copied, and a line that our own line replaces.
_OTHER = r"(efi|uki|uki-url|extra|devicetree-overlay|linux|initrd|devicetree|profile)[ \t].*"
_REPLACED = r"(title|version|machine-id|sort-key)[ \t].*|#.*|"
_KNOWN = r"(?m)^# The configuration of before: ([0-9a-f]{64})$"
_BEFORE = r"(?m)^# The default entry of before: (\S*)$"
_CONFIG = """\
# Written for a change that boots this host, and gone once that change is over.
{mark}
# The configuration of before: {known}
# The default entry of before: {default}
title As before the change
"""
_PLUGIN = """\
#!/bin/sh
{mark}
[ "$1" = add ] && [ "$KERNEL_INSTALL_LAYOUT" = bls ] || exit 0
for entry in "$KERNEL_INSTALL_BOOT_ROOT/loader/entries/$KERNEL_INSTALL_ENTRY_TOKEN-$2"*.conf; do
  [ ! -f "$entry" ] || grep -q '^options.* panic=' "$entry" || sed -i 's/^options .*/& {panic}/' "$entry"
done
exit 0
"""


class SystemdBoot:
    """systemd-boot with an entry in a file of ``loader/entries``."""

    not_as_before = (
        "an entry of systemd-boot, its configuration or the kernel is not as before the change. The host boots the"
        f" kernel of before, by the entry {_NAME} in loader/entries: mend the entries,"
        " then remove that entry, and run bootctl set-default ''"
    )
    entry_missing = (
        f"the entry {_NAME} in loader/entries, or its copy of the kernel of before, is gone. The host boots what the"
        " configuration of systemd-boot names: see that this is the kernel of before"
    )
    stays = (
        f"the host may still boot the kernel of before, by the entry {_NAME} in loader/entries, although the change"
        " stays: run bootctl set-default '', see that the partition of the entry is mounted and can be written, then"
        " remove that entry"
    )

    def is_in_use(self) -> bool:
        return _variable("LoaderInfo").startswith("systemd-boot ") and not grub_kernel()

    def folders(self) -> list[str]:
        return [os.path.dirname(ours.KERNEL_INSTALL)]

    def keep(self, store: Store, tries: int) -> str:
        """Where bootctl failed at the end of an earlier change, the firmware still names the entry of that change."""
        if self.is_ready() and not _own() and _running():
            _set(store, _DEFAULT, "")
        return _lacking() or _keep(store)

    def discard(self) -> None:
        for entry in ours.BOOT_ENTRIES:
            shutil.rmtree(ours.kept_of(entry), ignore_errors=True)

    def add_panic(self) -> None:
        ours.place(
            ours.KERNEL_INSTALL, _PLUGIN.format(mark=ours.MARK.decode(), panic=f"{PANIC} {SIGN}").encode(), 0o755
        )

    def is_ready(self) -> bool:
        """The firmware still names the entry where its partition is not mounted."""
        return bool(_own()) or _variable(_DEFAULT) == _NAME

    def noted(self) -> dict[str, str]:
        return {"default": _chosen(text(_own()))} if self.is_ready() else {}

    def is_left(self, noted: Mapping[str, str]) -> bool:
        """Without its entry a default is passed over; where its partition is not mounted, the entry is not seen."""
        return _variable(_DEFAULT) == _NAME and (bool(_own()) or not _running())

    def fell_back(self) -> bool:
        """The entry that the configuration names may have become another one in the change. Then this boot does not
        show that the host boots it. Early at boot the partition of our entry may not be mounted yet."""
        selected = _selected()
        if selected == _NAME:
            return True
        entry = _own()
        return bool(entry) and not _matches(selected, _wanted(_chosen(text(entry))))

    def go_on(self, store: Store) -> None:
        """Where the partition is not mounted, nobody knows which entry the configuration names. Then the next boot
        takes the kept entry, and the host goes back."""
        entry = _own()
        if entry:
            _set(store, _ONCE, _wanted(_chosen(text(entry))))

    def is_missing(self) -> bool:
        """The missing entry was on the partition of the entry of this boot."""
        entry = _own()
        if not entry:
            return bool(_running())
        return any(is_missing(_root(entry) + path) for path in map(_file_of, text(entry).splitlines()) if path)

    def is_as_before(self) -> bool:
        entry = _own()
        found = re.search(_KNOWN, text(entry))
        if found is None or found[1] != _state():
            return False
        root, kept = _root(entry), ours.kept_of(entry)
        copies = [os.path.join(folder, name) for folder, _folders, names in os.walk(kept) for name in names]
        files = [(copy, os.path.join(root, os.path.relpath(copy, kept))) for copy in copies]
        return bool(files) and all(os.path.isfile(now) and is_same(copy, now) for copy, now in files)

    def stay(self, store: Store) -> None:
        _set(store, _DEFAULT, _NAME)
        _set(store, _ONCE, "")

    def forget(self, store: Store, noted: Mapping[str, str]) -> None:
        """Without its entry a default is passed over. So the removal of the entry decides as well."""
        entry = _own()
        _set(store, _DEFAULT, _chosen(text(entry), noted.get("default", "")))
        _set(store, _ONCE, "")
        if entry:
            remove_file(entry)
            shutil.rmtree(ours.kept_of(entry), ignore_errors=True)
            _sync(_root(entry))

    def write_anew(self, store: Store) -> None:
        if ours.is_ours(ours.KERNEL_INSTALL):
            remove_file(ours.KERNEL_INSTALL)
        for folder in _folders():
            for name in _listed(folder):
                path = os.path.join(folder, name)
                if SIGN in (found := text(path)):
                    data = _without_panic(found).encode("utf-8", "surrogateescape")
                    write_file(path, data, 0o644)


def _lacking() -> str:
    """Why this systemd-boot cannot fall back to a kept entry; empty where it can."""
    version = re.match(r"systemd-boot (\d+)", _variable("LoaderInfo"))
    if version is None or int(version[1]) < _OLDEST:
        return f"{_variable('LoaderInfo')} is older than version {_OLDEST}"
    settings = _settings()
    if "@saved" in (_variable(_DEFAULT), _default_of(settings)):
        return "systemd-boot takes the entry of the last boot (@saved)"
    if _variable("LoaderEntryPreferred") or re.search(_PREFERRED, settings):
        return "systemd-boot has a preferred entry, which takes precedence over its default entry"
    if _variable(_ONCE) not in ("", _wanted(_chosen(text(_own())))):
        return f"the entry of the next boot is chosen already ({_ONCE})"
    return ""


def _keep(store: Store) -> str:
    """Keep the running kernel, and make its entry the default after the next boot. Return why that failed; empty
    where it did not."""
    entry, chosen = _running(), _chosen(text(_own()))
    if not entry:
        where = ", ".join(_root(one) for one in ours.BOOT_ENTRIES)
        return f"no file in loader/entries of a partition at {where} is the entry of this boot ({_selected()})"
    own = os.path.join(os.path.dirname(entry), _NAME)
    if os.path.lexists(own) and not ours.is_ours(own):
        return f"{own} is there, and is not ours"
    root, state = _root(own), _state()
    if not ours.is_ours(own):
        shutil.rmtree(ours.kept_of(own), ignore_errors=True)
    lines = _lines(entry)
    files = [path for path in map(_file_of, lines) if path and not _is_kept(path)]
    why = copy_files(root, files, ours.kept_of(own))
    if why:
        return why
    _sync(root)
    head = _CONFIG.format(mark=ours.MARK.decode(), known=state, default=chosen)
    body = "".join(_copied(line, f"/loader/{os.path.basename(ours.kept_of(own))}") + "\n" for line in lines)
    write_file(own, (head + body).encode("utf-8", "surrogateescape"), 0o644)
    why = _set(store, _ONCE, _wanted(chosen)) or _set(store, _DEFAULT, _NAME)
    if why and entry != own:
        _set(store, _ONCE, "")
        remove_file(own)
    elif entry != own:
        drop_others(files, ours.kept_of(own))
    return why


def _lines(entry: str) -> list[str]:
    """The lines of an entry that say what it boots. Raises ValueError where such a line loads what we do not copy."""
    lines = [line for line in map(str.strip, text(entry).splitlines()) if not re.fullmatch(_REPLACED, line)]
    for line in lines:
        if not re.fullmatch(_LOADED, line) and re.fullmatch(_OTHER, line):
            raise ValueError(f"{entry} loads what is not a plain kernel or initramfs: {line[:200]}")
    if not any(line.startswith("linux") for line in lines):
        raise ValueError(f"{entry} names no kernel (linux)")
    return lines


def _file_of(line: str) -> str:
    """The path on its partition that a line of an entry loads; empty for another line."""
    found = re.fullmatch(_LOADED, line)
    return os.path.normpath("/" + found[3].lstrip("/")) if found else ""


def _copied(line: str, kept: str) -> str:
    """A line of an entry with the copy in the place of the file."""
    path, found = _file_of(line), re.fullmatch(_LOADED, line)
    return line if found is None or _is_kept(path) else f"{found[1]}{found[2]}{kept}{path}"


def _is_kept(path: str) -> bool:
    return path.startswith("/loader/evenkeel/")


def _own() -> str:
    """Our entry; empty where there is none."""
    return next((entry for entry in ours.BOOT_ENTRIES if ours.is_ours(entry)), "")


def _running() -> str:
    """The file of the entry of this boot; empty where there is none."""
    for folder in _folders():
        for name in _listed(folder):
            if _plain(name) == _selected():
                return os.path.join(folder, name)
    return ""


def _selected() -> str:
    return _plain(_variable(_SELECTED))


def _plain(name: str) -> str:
    """The name of an entry, as systemd-boot compares it, without its counters."""
    return re.sub(_COUNTERS, "", name.lower())


def _root(entry: str) -> str:
    """The directory at which the partition of an entry is mounted."""
    return os.path.dirname(os.path.dirname(os.path.dirname(entry)))


def _folders() -> list[str]:
    """The directories of entries on mounted partitions."""
    return [os.path.dirname(entry) for entry in ours.BOOT_ENTRIES if os.path.ismount(_root(entry))]


def _listed(folder: str) -> list[str]:
    """The names of the entries in a directory, sorted."""
    return sorted(name for name in os.listdir(folder) if name.endswith(".conf")) if os.path.isdir(folder) else []


def _images(folder: str) -> list[str]:
    """The names of the unified kernel images on the partition of a directory of entries, sorted."""
    place = os.path.join(os.path.dirname(os.path.dirname(folder)), "EFI/Linux")
    return sorted(name for name in os.listdir(place) if name.endswith(".efi")) if os.path.isdir(place) else []


def _settings() -> str:
    """The text of ``loader.conf``. The firmware's partition has it: that at /boot only where there is no other."""
    found = [text(os.path.join(os.path.dirname(folder), "loader.conf")) for folder in _folders()]
    return next((one for one in reversed(found) if one), "")


def _state() -> str:
    """The hash of all that decides which entry is booted, and how."""
    lines = [_settings()]
    for folder in _folders():
        lines += map(_plain, _images(folder))
        for name in _listed(folder):
            if name != _NAME:
                lines += [_plain(name), _without_panic(text(os.path.join(folder, name)))]
    return digest("\0".join(lines))


def _without_panic(entry: str) -> str:
    return entry.replace(f" {PANIC} {SIGN}", "")


def _default_of(settings: str) -> str:
    found = re.findall(_SETTING, settings)
    return str(found[-1]) if found else ""


def _chosen(own: str, noted: str = "") -> str:
    """The default entry that the user has chosen by a variable, beside our own entry with this text; the one that was
    noted at arming where our entry cannot be read."""
    chosen, found = _variable(_DEFAULT), re.search(_BEFORE, own)
    if chosen != _NAME:
        return chosen
    return found[1] if found else noted


def _wanted(chosen: str) -> str:
    """The name or pattern by which systemd-boot finds the entry that the host's configuration names."""
    found = {name for folder in _folders() for name in (*_listed(folder), *_images(folder))}
    for pattern in (chosen, _default_of(_settings())):
        if pattern and any(_matches(name, pattern) for name in found - {_NAME}):
            return pattern
    return "*"


def _matches(name: str, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(one, pattern.lower()) for one in (name.lower(), _plain(name)))


def _variable(name: str) -> str:
    """A variable of the boot loader in the firmware; empty where it is missing."""
    try:
        with open(f"{VARIABLES}/{name}-{_VENDOR}", "rb") as stream:
            return stream.read(4096)[4:].decode("utf-16-le", "replace").rstrip("\0")
    except OSError:
        return ""


def _set(store: Store, name: str, value: str) -> str:
    """Set a variable, or remove it with an empty value. Return why that failed; empty where it did not."""
    if _variable(name) == value:
        return ""
    done = store.system.run(["bootctl", "set-default" if name == _DEFAULT else "set-oneshot", value], 30.0)
    if done.rc or _variable(name) != value:
        return f"the firmware did not take {name} ({done.words if done.rc else 'bootctl reported no error'})"
    return ""


def _sync(root: str) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syncfs(fd)
    finally:
        os.close(fd)
