# SPDX-License-Identifier: GPL-3.0-or-later

"""GRUB as the boot loader of a change that plans a boot.

Arming copies the running kernel and its initramfs into ``/boot/evenkeel``, and writes ``custom.cfg``. GRUB reads this
file after its own configuration, and no tool of the distribution writes it. GRUB counts the planned boots in its
environment block. Every further boot takes the kept entry, and so does a boot whose kernel GRUB cannot load.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping

from .._host.durable import remove_file, sync_paths, write_file
from .._resources import ours
from .._store.store import Store
from .kept import PANIC, SIGN, copy_files, digest, drop_others, grub_kernel, is_missing, is_same, text

GRUB = "/boot/grub"
_TRIES = "evenkeel_tries"
# The file systems on which GRUB can write its environment block.
_WRITABLE = ("ext2", "xfs", "fat")
_MOST, _OVER = 9, "over"
_MENU = re.compile(r"^[ \t]*menuentry [^\n]*\{\n(.*?)^[ \t]*\}", re.MULTILINE | re.DOTALL)
_LINUX = re.compile(r"^[ \t]*linux(?:16|efi)?[ \t]+(\S+)", re.MULTILINE)
_LOADED = re.compile(r"^([ \t]*(?:linux|initrd)(?:16|efi)?[ \t])(.*)$", re.MULTILINE)
_LEFT_OUT = re.compile(r"^[ \t]*(?:savedefault|recordfail|echo)\b.*\n", re.MULTILINE)
_HASH = re.compile(r"^# The configuration of before: ([0-9a-f]{64})$", re.MULTILINE)
_CONFIG = """\
# Written for a change that boots this host, and gone once that change is over.
{mark}
# The configuration of before: {known}
load_env
menuentry 'As before the change' --unrestricted --id evenkeel {{
{body}}}
if [ "${{evenkeel_tries}}" != "over" ]; then
  set fallback=evenkeel
fi
{tries}elif [ "${{evenkeel_tries}}" != "over" ]; then
  set default=evenkeel
fi
"""


class Grub:
    """GRUB with a configuration below ``/boot/grub``, as Debian has it."""

    not_as_before = (
        f"{GRUB}/grub.cfg or the kernel is not as before the change. The host boots the kernel of before, by"
        f" {ours.GRUB_CUSTOM}: mend the boot loader, then remove that file"
    )
    entry_missing = (
        f"a copy of the kernel of before is gone from {ours.KEPT}. The host boots what {GRUB}/grub.cfg names: see that"
        " this is the kernel of before"
    )
    stays = (
        f"the host may still boot the kernel of before, by {ours.GRUB_CUSTOM}, although the change stays: see that"
        " /boot is mounted and can be written, then remove that file"
    )

    def is_in_use(self) -> bool:
        return os.path.isdir(GRUB)

    def folders(self) -> list[str]:
        return [os.path.dirname(ours.KERNEL_ARGUMENTS)] if self.is_in_use() else []

    def keep(self, store: Store, tries: int) -> str:
        return _lacking(store) or _keep(store, min(tries, _MOST))

    def discard(self) -> None:
        shutil.rmtree(ours.KEPT, ignore_errors=True)

    def add_panic(self) -> None:
        folder = os.path.dirname(os.path.dirname(ours.KERNEL_ARGUMENTS))
        if "panic=" not in text(os.path.join(folder, "grub")) and os.path.isdir(os.path.dirname(ours.KERNEL_ARGUMENTS)):
            mark = f"# Written for a change that boots this host.\n{ours.MARK.decode()}\n"
            setting = f'{mark}GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {PANIC} {SIGN}"\n'
            write_file(ours.KERNEL_ARGUMENTS, setting.encode(), 0o644)

    def is_ready(self) -> bool:
        return ours.is_ours(ours.GRUB_CUSTOM)

    def noted(self) -> dict[str, str]:
        return {"entry": ours.GRUB_CUSTOM} if self.is_ready() else {}

    def is_left(self, noted: Mapping[str, str]) -> bool:
        """Where ``/boot`` is not mounted, the entry is not seen."""
        return self.is_ready() or (
            noted.get("entry") == ours.GRUB_CUSTOM and is_missing(os.path.dirname(ours.GRUB_CUSTOM))
        )

    def fell_back(self) -> bool:
        """Early at boot ``/boot`` may not be mounted yet. The path of the running kernel alone shows it."""
        return _is_kept(grub_kernel())

    def go_on(self, store: Store) -> None:
        """GRUB counts by itself."""

    def is_missing(self) -> bool:
        words = [word for found in _LOADED.finditer(text(ours.GRUB_CUSTOM)) for word in found[2].split()]
        return any(is_missing(os.path.join(ours.KEPT, os.path.basename(word))) for word in words if _is_kept(word))

    def is_as_before(self) -> bool:
        known = _HASH.search(text(ours.GRUB_CUSTOM))
        files = [
            (os.path.join(ours.KEPT, name), os.path.join(os.path.dirname(ours.KEPT), name))
            for name in os.listdir(ours.KEPT)
        ]
        return (
            known is not None
            and known[1] == digest(text(f"{GRUB}/grub.cfg"))
            and all(os.path.isfile(now) and is_same(kept, now) for kept, now in files)
        )

    def stay(self, store: Store) -> None:
        _environment(store, f"{_TRIES}=0")

    def forget(self, store: Store, noted: Mapping[str, str]) -> None:
        """GRUB replays no journal of a file system, and may still see a removed file for a while; its environment
        block is changed in place."""
        _environment(store, f"{_TRIES}={_OVER}")
        sync_paths([f"{GRUB}/grubenv"])
        remove_file(ours.GRUB_CUSTOM)
        shutil.rmtree(ours.KEPT, ignore_errors=True)

    def write_anew(self, store: Store) -> None:
        if ours.is_ours(ours.KERNEL_ARGUMENTS):
            remove_file(ours.KERNEL_ARGUMENTS)
        if os.path.isfile(f"{GRUB}/grub.cfg") and SIGN in text(f"{GRUB}/grub.cfg"):
            store.system.run(["update-grub"], 300.0)


def _lacking(store: Store) -> str:
    """Why this boot loader cannot fall back to a kept entry; empty where it can."""
    if not os.path.isfile(f"{GRUB}/grub.cfg") or not os.path.isfile(f"{GRUB}/grubenv"):
        return f"it is neither systemd-boot nor GRUB with {GRUB}/grub.cfg and {GRUB}/grubenv"
    if os.path.lexists(ours.GRUB_CUSTOM) and not ours.is_ours(ours.GRUB_CUSTOM):
        return f"{ours.GRUB_CUSTOM} is there, and is not ours"
    if "custom.cfg" not in text(f"{GRUB}/grub.cfg"):
        return f"{GRUB}/grub.cfg does not read custom.cfg"
    for target, good in (("abstraction", ("",)), ("fs", _WRITABLE)):
        asked = store.system.run(["grub-probe", f"--target={target}", GRUB], 30.0)
        if asked.rc or asked.out.strip() not in good:
            return f"GRUB cannot write to {GRUB} ({target} {asked.out.strip() if not asked.rc else asked.words})"
    return ""


def _keep(store: Store, tries: int) -> str:
    """Keep the running kernel, and make its entry the default after ``tries`` boots. Return why that failed; empty
    where it did not."""
    grub, running = text(f"{GRUB}/grub.cfg"), grub_kernel()
    custom = text(ours.GRUB_CUSTOM) if ours.is_ours(ours.GRUB_CUSTOM) else ""
    body = _entry(grub, running) or _entry(custom, running)
    if not body:
        return f"no entry of {GRUB}/grub.cfg is that of the running kernel"
    if not custom:
        shutil.rmtree(ours.KEPT, ignore_errors=True)
    words = [word for found in _LOADED.finditer(body) for word in _loaded(found[0], found[2])]
    paths = [f"/{os.path.basename(word)}" for word in words if not _is_kept(word)]
    said = copy_files(os.path.dirname(ours.KEPT), paths, ours.KEPT)
    if said:
        return said
    sync_paths(
        [*(os.path.join(ours.KEPT, name) for name in os.listdir(ours.KEPT)), ours.KEPT, os.path.dirname(ours.KEPT)]
    )
    said = _environment(store, f"{_TRIES}={tries}")
    if said:
        return said
    kept = _LOADED.sub(lambda found: found[1] + _copied(found[0], found[2]), _LEFT_OUT.sub("", body))
    counts = "".join(
        f'{"elif" if left else "if"} [ "${{{_TRIES}}}" = "{left + 1}" ]; then\n'
        f"  set {_TRIES}={left}\n  save_env {_TRIES}\n"
        for left in range(tries)
    )
    config = _CONFIG.format(mark=ours.MARK.decode(), known=digest(grub), body=kept, tries=counts)
    write_file(ours.GRUB_CUSTOM, config.encode("utf-8", "surrogateescape"), 0o600)
    if not _is_kept(running):
        drop_others(paths, ours.KEPT)
    return ""


def _entry(config: str, kernel: str) -> str:
    """The body of the first entry that loads this kernel; empty where no entry does."""
    for found in _MENU.finditer(config):
        linux = _LINUX.search(found[1])
        if linux is not None and linux[1] == kernel:
            return found[1]
    return ""


def _loaded(line: str, words: str) -> list[str]:
    """The files that a line of GRUB loads."""
    return words.split()[: 1 if line.lstrip().startswith("linux") else None]


def _copied(line: str, words: str) -> str:
    """The words of a line of GRUB with the copies in place of the files that it loads."""
    found = words.split()
    for number, word in enumerate(_loaded(line, words)):
        if not _is_kept(word):
            folder = os.path.dirname(word).rstrip("/")
            found[number] = f"{folder}/{os.path.basename(ours.KEPT)}/{os.path.basename(word)}"
    return " ".join(found)


def _is_kept(path: str) -> bool:
    """Whether a path, as GRUB names it, is the path of a copy of ours."""
    return os.path.basename(os.path.dirname(path)) == os.path.basename(ours.KEPT)


def _environment(store: Store, setting: str) -> str:
    """Set a variable of GRUB's environment block. Return why that failed; empty where it did not."""
    done = store.system.run(["grub-editenv", f"{GRUB}/grubenv", "set", setting], 30.0)
    return done.words if done.rc else ""
