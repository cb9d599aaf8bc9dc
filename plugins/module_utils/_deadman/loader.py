# SPDX-License-Identifier: GPL-3.0-or-later

"""GRUB, for a change that plans a boot: that boot takes the kernel of the change, and every further one the kernel of
before.

Arming copies the running kernel and its initramfs into ``/boot/evenkeel``, and writes ``custom.cfg``, which GRUB reads
after its own configuration and which no tool of the distribution writes. As many boots as the change plans take the
default of the host's configuration, whatever the change makes of it; GRUB counts them in its environment block. Every
further boot takes the entry that was kept, so that a kernel that panics or hangs is left by the next boot. The agent
sees that this came to pass, and the host goes back.

A panic becomes a boot by ``panic=`` on the command line of the kernel. It gets there when the change has GRUB's
configuration written anew, as the installation of a kernel does. The watchdog of the machine turns a hang into a boot.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import suppress

from .._host.durable import remove_file, sync_paths, write_file
from .._resources import ours
from .._store.store import Store
from . import command

GRUB, PROC = "/boot/grub", "/proc/cmdline"
WATCHDOG = "/dev/watchdog"
_TRIES, _BACK = "evenkeel_tries", "evenkeel_back"
# The file systems that GRUB can write its environment block to.
_WRITABLE = ("ext2", "xfs", "fat")
_MOST, _OVER = 9, "over"
# The kernel ignores the second word, which tells that GRUB's configuration holds the first word because of us.
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
{tries}elif [ "${{evenkeel_tries}}" != "over" ]; then
  set default=evenkeel
  set {back}=1
  save_env {back}
fi
"""


def make_places(store: Store) -> None:
    """Before the checkpoint: make the directories of files that are ours, so that no rollback removes them."""
    if command.is_host(store) and os.path.isdir(GRUB):
        for path in (ours.KERNEL_ARGUMENTS, ours.MANAGER):
            with suppress(OSError):
                os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)


def prepare(store: Store, reboots: int) -> str:
    """Have the boot loader try the kernel of an armed change. Returns why it cannot; empty where it can."""
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
    """Whether this boot took the kernel of before the change, because the planned boots were used up."""
    if not (command.is_host(store) and ours.is_ours(ours.GRUB_CUSTOM)):
        return False
    return f"{_BACK}=1" in _environment(store, "list").split()


def confirmed(store: Store) -> None:
    """The change stays, so that the default is that of the host's configuration. Called before that is recorded: a host
    whose change is over must not fall back."""
    if command.is_host(store):
        with suppress(OSError):
            _forget(store)


def rolled_back(store: Store) -> list[str]:
    """The change went back. Where the kernel or GRUB's configuration is not as before, the kept entry stays the
    default: sentences on that."""
    if not command.is_host(store):
        return []
    try:
        _write_anew(store)
        if not ours.is_ours(ours.GRUB_CUSTOM):
            return []
        if _is_as_before():
            _forget(store)
            return []
        _environment(store, "set", f"{_TRIES}=0")
    except (OSError, ValueError):
        pass
    return [
        f"{GRUB}/grub.cfg or the kernel is not as before the change. The host boots the kernel of before, by"
        f" {ours.GRUB_CUSTOM}: mend the boot loader, then remove that file"
    ]


def _lacking(store: Store) -> str:
    """Why this boot loader cannot do it; empty where it can."""
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
    """Keep the running kernel, and make its entry the default of all boots but so many; why not, or empty."""
    grub, running = _text(f"{GRUB}/grub.cfg"), re.search(r"\bBOOT_IMAGE=(\S+)", _text(PROC))
    custom = _text(ours.GRUB_CUSTOM) if ours.is_ours(ours.GRUB_CUSTOM) else ""
    body = _entry(grub, running[1]) or _entry(custom, running[1]) if running else ""
    if not body:
        return f"no entry of {GRUB}/grub.cfg is that of the running kernel"
    if os.path.basename(os.path.dirname(running[1] if running else "")) != os.path.basename(ours.KEPT):
        shutil.rmtree(ours.KEPT, ignore_errors=True)
    kept = _LOADED.sub(lambda found: found[1] + _copied(found[0], found[2]), _LEFT_OUT.sub("", body))
    sync_paths(
        [*(os.path.join(ours.KEPT, name) for name in os.listdir(ours.KEPT)), ours.KEPT, os.path.dirname(ours.KEPT)]
    )
    said = _environment(store, "set", f"{_TRIES}={tries}") + _environment(store, "unset", _BACK)
    if said:
        return said
    counts = "".join(
        f'{"elif" if left else "if"} [ "${{{_TRIES}}}" = "{left + 1}" ]; then\n'
        f"  set {_TRIES}={left}\n  save_env {_TRIES}\n"
        for left in range(tries)
    )
    text = _CONFIG.format(mark=ours.MARK.decode(), known=_hash(grub), body=kept, tries=counts, back=_BACK)
    write_file(ours.GRUB_CUSTOM, text.encode("utf-8", "surrogateescape"), 0o600)
    return ""


def _entry(config: str, kernel: str) -> str:
    """The body of the first entry that loads this kernel; empty where there is none."""
    for found in _MENU.finditer(config):
        linux = _LINUX.search(found[1])
        if linux is not None and linux[1] == kernel:
            return found[1]
    return ""


def _copied(line: str, words: str) -> str:
    """The words of a line that loads files, with copies in place of the files. Raises OSError, ValueError."""
    found = words.split()
    count = 1 if line.lstrip().startswith("linux") else len(found)
    for number, word in enumerate(found[:count]):
        name = os.path.basename(word)
        source = os.path.join(os.path.dirname(ours.KEPT), name)
        if os.path.basename(os.path.dirname(word)) == os.path.basename(ours.KEPT):
            continue  # The host runs the kernel that was kept.
        if not os.path.isfile(source):
            raise ValueError(f"{word} is not in {os.path.dirname(ours.KEPT)}")
        os.makedirs(ours.KEPT, mode=0o700, exist_ok=True)
        shutil.copyfile(source, os.path.join(ours.KEPT, name))
        found[number] = f"{os.path.dirname(word).rstrip('/')}/{os.path.basename(ours.KEPT)}/{name}"
    return " ".join(found)


def _make_it_boot(store: Store) -> None:
    """Have a kernel that panics or hangs boot the host again."""
    mark = f"# Written for a change that boots this host.\n{ours.MARK.decode()}\n"
    folder = os.path.dirname(os.path.dirname(ours.KERNEL_ARGUMENTS))
    if "panic=" not in _text(os.path.join(folder, "grub")) and os.path.isdir(os.path.dirname(ours.KERNEL_ARGUMENTS)):
        text = f'{mark}GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {_PANIC} {_SIGN}"\n'
        write_file(ours.KERNEL_ARGUMENTS, text.encode(), 0o644)
    shown = store.system.run(["systemctl", "show", "--property=RuntimeWatchdogUSec"], 10.0).out.strip()
    if os.path.exists(WATCHDOG) and shown.endswith("=0") and os.path.isdir(os.path.dirname(ours.MANAGER)):
        write_file(ours.MANAGER, f"{mark}[Manager]\nRuntimeWatchdogSec=60s\n".encode(), 0o644)


def _forget(store: Store) -> None:
    """Remove all that is ours. The first step decides: from then on GRUB takes the default of its configuration. It
    replays no journal, and may see a file for a while that is gone; its environment block is changed in place."""
    if ours.is_ours(ours.GRUB_CUSTOM):
        _environment(store, "set", f"{_TRIES}={_OVER}")
        sync_paths([f"{GRUB}/grubenv"])
        remove_file(ours.GRUB_CUSTOM)
        shutil.rmtree(ours.KEPT, ignore_errors=True)
    _write_anew(store)


def _write_anew(store: Store) -> None:
    """Take our settings away, and have GRUB's configuration written without them where it holds them."""
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


def _environment(store: Store, *words: str) -> str:
    """Change GRUB's environment block, or ``list`` it: its text, or why it could not be changed."""
    done = store.system.run(["grub-editenv", f"{GRUB}/grubenv", *words], 30.0)
    return done.out if words == ("list",) else done.words if done.rc else ""


def _text(path: str) -> str:
    """The text of a file; empty where there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
