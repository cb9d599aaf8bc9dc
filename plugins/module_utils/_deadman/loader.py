# SPDX-License-Identifier: GPL-3.0-or-later

"""GRUB, for a change that plans a boot: the planned boot takes the kernel of the change, and every further boot takes
the old kernel.

Arming copies the running kernel and its initramfs into ``/boot/evenkeel``, and writes ``custom.cfg``. GRUB reads this
file after its own configuration, and no tool of the distribution writes it. As many boots as the change plans take
the default entry of the host's configuration, whatever entry the change makes the default. GRUB counts these boots in
its environment block. Every further boot takes the kept entry, so that the next boot leaves a kernel that panics or
hangs. A boot whose kernel GRUB cannot load takes the kept entry too. The agent sees that a boot took the kept entry,
and the host goes back.

The parameter ``panic=`` on the command line of the kernel turns a panic into a boot. The command line gets it when
the change has GRUB's configuration written anew, as the installation of a kernel does. The watchdog of the machine
turns a hang into a boot.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import suppress

from .._host.durable import remove_file, sync_paths, write_file
from .._host.paths import make_dirs
from .._resources import ours
from .._store.store import Store
from . import command

GRUB, PROC = "/boot/grub", "/proc/cmdline"
WATCHDOG = "/dev/watchdog"
_TRIES = "evenkeel_tries"
# The file systems on which GRUB can write its environment block.
_WRITABLE = ("ext2", "xfs", "fat")
_MOST, _OVER = 9, "over"
# The kernel ignores the second word. It shows that GRUB's configuration holds the first word because of us.
_PANIC, _SIGN = "panic=30", "evenkeel.tried=1"
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


def make_places(store: Store) -> None:
    """Before the checkpoint: make the directories of our files, so that no rollback removes the directories."""
    if command.is_host(store) and os.path.isdir(GRUB):
        for path in (ours.KERNEL_ARGUMENTS, ours.MANAGER):
            with suppress(OSError):
                make_dirs(os.path.dirname(path))


def prepare(store: Store, reboots: int) -> str:
    """Have the boot loader try the kernel of an armed change. Return why it cannot; empty where it can."""
    if not command.is_host(store):
        return ""
    try:
        why = _lacking(store) or _keep(store, min(reboots, _MOST))
        if not why:
            _make_it_boot(store)
    except (OSError, ValueError) as error:
        why = str(error)
    if why and not ours.is_ours(ours.GRUB_CUSTOM):
        shutil.rmtree(ours.KEPT, ignore_errors=True)
    return f"the boot loader does not leave a kernel that fails to boot: {why}" if why else ""


def fell_back(store: Store) -> bool:
    """Whether this boot took the old kernel: the planned boots are used up, or GRUB cannot load the kernel of the
    change."""
    return command.is_host(store) and ours.is_ours(ours.GRUB_CUSTOM) and _is_kept(_running())


def confirmed(store: Store) -> None:
    """Let the host's configuration decide the default entry again, because the change stays. Called before the
    confirmation is recorded: a host whose change is over must not fall back."""
    if command.is_host(store):
        with suppress(OSError):
            _forget(store)


def rolled_back(store: Store) -> list[str]:
    """Remove our files after a rollback. Where the kernel or GRUB's configuration is not as before, the kept entry
    stays the default; return sentences on that."""
    if not command.is_host(store):
        return []
    try:
        _write_anew(store)
        if not ours.is_ours(ours.GRUB_CUSTOM):
            return []
        if _is_as_before():
            _forget(store)
            return []
        _environment(store, f"{_TRIES}=0")
    except (OSError, ValueError):
        pass
    return [
        f"{GRUB}/grub.cfg or the kernel is not as before the change. The host boots the kernel of before, by"
        f" {ours.GRUB_CUSTOM}: mend the boot loader, then remove that file"
    ]


def _lacking(store: Store) -> str:
    """Why this boot loader cannot fall back to a kept entry; empty where it can."""
    if not os.path.isfile(f"{GRUB}/grub.cfg") or not os.path.isfile(f"{GRUB}/grubenv"):
        return f"it is not GRUB with {GRUB}/grub.cfg and {GRUB}/grubenv"
    if os.path.lexists(ours.GRUB_CUSTOM) and not ours.is_ours(ours.GRUB_CUSTOM):
        return f"{ours.GRUB_CUSTOM} is there, and is not ours"
    if "custom.cfg" not in _text(f"{GRUB}/grub.cfg"):
        return f"{GRUB}/grub.cfg does not read custom.cfg"
    for target, good in (("abstraction", ("",)), ("fs", _WRITABLE)):
        asked = store.system.run(["grub-probe", f"--target={target}", GRUB], 30.0)
        if asked.rc or asked.out.strip() not in good:
            return f"GRUB cannot write to {GRUB} ({target} {asked.out.strip() if not asked.rc else asked.words})"
    return ""


def _keep(store: Store, tries: int) -> str:
    """Keep the running kernel, and make its entry the default after ``tries`` boots. Return why that failed; empty
    where it did not."""
    grub, running = _text(f"{GRUB}/grub.cfg"), _running()
    custom = _text(ours.GRUB_CUSTOM) if ours.is_ours(ours.GRUB_CUSTOM) else ""
    body = _entry(grub, running) or _entry(custom, running)
    if not body:
        return f"no entry of {GRUB}/grub.cfg is that of the running kernel"
    if not _is_kept(running):
        shutil.rmtree(ours.KEPT, ignore_errors=True)
    kept = _LOADED.sub(lambda found: found[1] + _copied(found[0], found[2]), _LEFT_OUT.sub("", body))
    sync_paths(
        [*(os.path.join(ours.KEPT, name) for name in os.listdir(ours.KEPT)), ours.KEPT, os.path.dirname(ours.KEPT)]
    )
    said = _environment(store, f"{_TRIES}={tries}")
    if said:
        return said
    counts = "".join(
        f'{"elif" if left else "if"} [ "${{{_TRIES}}}" = "{left + 1}" ]; then\n'
        f"  set {_TRIES}={left}\n  save_env {_TRIES}\n"
        for left in range(tries)
    )
    text = _CONFIG.format(mark=ours.MARK.decode(), known=_hash(grub), body=kept, tries=counts)
    write_file(ours.GRUB_CUSTOM, text.encode("utf-8", "surrogateescape"), 0o600)
    return ""


def _entry(config: str, kernel: str) -> str:
    """The body of the first entry that loads this kernel; empty where no entry does."""
    for found in _MENU.finditer(config):
        linux = _LINUX.search(found[1])
        if linux is not None and linux[1] == kernel:
            return found[1]
    return ""


def _copied(line: str, words: str) -> str:
    """Copy the files that a line of GRUB loads; return the words of the line with the copies in place of the files.
    Raises OSError, ValueError."""
    found = words.split()
    count = 1 if line.lstrip().startswith("linux") else len(found)
    for number, word in enumerate(found[:count]):
        name = os.path.basename(word)
        source = os.path.join(os.path.dirname(ours.KEPT), name)
        if _is_kept(word):
            continue  # The host runs the kept kernel.
        if not os.path.isfile(source):
            raise ValueError(f"{word} is not in {os.path.dirname(ours.KEPT)}")
        os.makedirs(ours.KEPT, mode=0o700, exist_ok=True)
        shutil.copyfile(source, os.path.join(ours.KEPT, name))
        found[number] = f"{os.path.dirname(word).rstrip('/')}/{os.path.basename(ours.KEPT)}/{name}"
    return " ".join(found)


def _make_it_boot(store: Store) -> None:
    """Make a panic or a hang of the kernel boot the host again."""
    mark = f"# Written for a change that boots this host.\n{ours.MARK.decode()}\n"
    folder = os.path.dirname(os.path.dirname(ours.KERNEL_ARGUMENTS))
    if "panic=" not in _text(os.path.join(folder, "grub")) and os.path.isdir(os.path.dirname(ours.KERNEL_ARGUMENTS)):
        text = f'{mark}GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {_PANIC} {_SIGN}"\n'
        write_file(ours.KERNEL_ARGUMENTS, text.encode(), 0o644)
    shown = store.system.run(["systemctl", "show", "--property=RuntimeWatchdogUSec"], 10.0).out.strip()
    if os.path.exists(WATCHDOG) and shown.endswith("=0") and os.path.isdir(os.path.dirname(ours.MANAGER)):
        write_file(ours.MANAGER, f"{mark}[Manager]\nRuntimeWatchdogSec=60s\n".encode(), 0o644)


def _forget(store: Store) -> None:
    """Remove all of our files. The first step decides: from then on GRUB takes the default of its configuration. GRUB
    replays no journal of a file system, and may still see a removed file for a while; its environment block is
    changed in place."""
    if ours.is_ours(ours.GRUB_CUSTOM):
        _environment(store, f"{_TRIES}={_OVER}")
        sync_paths([f"{GRUB}/grubenv"])
        remove_file(ours.GRUB_CUSTOM)
        shutil.rmtree(ours.KEPT, ignore_errors=True)
    _write_anew(store)


def _write_anew(store: Store) -> None:
    """Remove our settings, and have GRUB's configuration written anew where it holds them."""
    for path in (ours.KERNEL_ARGUMENTS, ours.MANAGER):
        if ours.is_ours(path):
            remove_file(path)
    if os.path.isfile(f"{GRUB}/grub.cfg") and _SIGN in _text(f"{GRUB}/grub.cfg"):
        store.system.run(["update-grub"], 300.0)


def _is_as_before() -> bool:
    """Whether GRUB's configuration and the files of the running kernel are as before the change."""
    known = _HASH.search(_text(ours.GRUB_CUSTOM))
    files = [
        (os.path.join(ours.KEPT, name), os.path.join(os.path.dirname(ours.KEPT), name))
        for name in os.listdir(ours.KEPT)
    ]
    return (
        known is not None
        and known[1] == _hash(_text(f"{GRUB}/grub.cfg"))
        and all(os.path.isfile(now) and _same(kept, now) for kept, now in files)
    )


def _same(one: str, other: str) -> bool:
    with open(one, "rb") as first, open(other, "rb") as second:
        while piece := first.read(1 << 20):
            if piece != second.read(1 << 20):
                return False
        return not second.read(1)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _running() -> str:
    """The path of the running kernel, as GRUB names it; empty where GRUB has not passed it."""
    found = re.search(r"\bBOOT_IMAGE=(\S+)", _text(PROC))
    return found[1] if found else ""


def _is_kept(path: str) -> bool:
    """Whether a path, as GRUB names it, is the path of a copy of ours."""
    return os.path.basename(os.path.dirname(path)) == os.path.basename(ours.KEPT)


def _environment(store: Store, setting: str) -> str:
    """Set a variable of GRUB's environment block. Return why that failed; empty where it did not."""
    done = store.system.run(["grub-editenv", f"{GRUB}/grubenv", "set", setting], 30.0)
    return done.words if done.rc else ""


def _text(path: str) -> str:
    """The text of a file; empty where the file is missing."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
