# SPDX-License-Identifier: GPL-3.0-or-later

"""The boot loader, for a change that plans a boot: the planned boot takes the kernel of the change, and every further
boot takes the old kernel.

Arming keeps the running kernel with an entry of its own (see ``Loader`` in ``kept.py``). As many boots as the change
plans take the default entry of the host's configuration, whatever entry the change makes the default. Every further
boot takes the kept entry, so that the next boot leaves a kernel that panics or hangs. The agent sees that a boot took
the kept entry, and the host goes back.

The parameter ``panic=`` on the command line of the kernel turns a panic into a boot. The command line gets it when
the change installs a kernel. The watchdog of the machine turns a hang into a boot.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from .._host.durable import remove_file, write_file
from .._host.paths import make_dirs
from .._resources import ours
from .._store.store import Store
from . import command
from .grub import Grub
from .kept import Loader
from .systemd_boot import SystemdBoot

# The last one stands for a boot loader that is not known.
LOADERS: tuple[Loader, ...] = (SystemdBoot(), Grub())
WATCHDOG = "/dev/watchdog"


def _in_use() -> Loader:
    return next((one for one in LOADERS if one.is_in_use()), LOADERS[-1])


def make_places(store: Store) -> None:
    """Before the checkpoint: make the directories of our files, so that no rollback removes the directories."""
    folders = _in_use().folders() if command.is_host(store) else []
    for folder in (*folders, os.path.dirname(ours.MANAGER)) if folders else ():
        with suppress(OSError):
            make_dirs(folder)


def prepare(store: Store, reboots: int) -> str:
    """Have the boot loader try the kernel of an armed change. Return why it cannot; empty where it can."""
    if not command.is_host(store):
        return ""
    loader = _in_use()
    try:
        why = loader.keep(store, reboots)
        if not why:
            loader.add_panic()
            _watch(store)
    except (OSError, ValueError) as error:
        why = str(error)
    if why and not loader.is_ready():
        loader.discard()
    return f"the boot loader does not leave a kernel that fails to boot: {why}" if why else ""


def noted(store: Store) -> dict[str, str]:
    """The values that the end of the armed change needs of now (see ``Loader.noted``)."""
    with suppress(OSError, ValueError):
        return _in_use().noted() if command.is_host(store) else {}
    return {}


def fell_back(store: Store) -> bool:
    """Whether this boot took the old kernel: the planned boots are used up, or the boot loader cannot load the kernel
    of the change. A partition that cannot be read shows nothing of it, and must not stop the agent."""
    for one in LOADERS if command.is_host(store) else ():
        with suppress(OSError, ValueError):
            if one.fell_back():
                return True
    return False


def go_on(store: Store) -> None:
    """A planned boot has come, and a further one is planned."""
    for loader in LOADERS if command.is_host(store) else ():
        with suppress(OSError, ValueError):
            if loader.is_ready():
                loader.go_on(store)


def confirmed(store: Store, noted: Mapping[str, str]) -> list[str]:
    """Let the host's configuration decide the default entry again, because the change stays; return sentences where
    it may not. Called before the confirmation is recorded: a host whose change is over must not fall back."""
    said = []
    for loader in LOADERS if command.is_host(store) else ():
        with suppress(OSError, ValueError):
            _forget(store, loader, noted)
        if _is_left(loader, noted):
            said.append(loader.stays)
    return said


def rolled_back(store: Store, noted: Mapping[str, str]) -> list[str]:
    """Remove our files after a rollback. Where the kernel or the boot loader's configuration is not as before, the
    kept entry stays the default, unless its kernel is gone; return sentences on that."""
    return [said for one in LOADERS for said in _left(store, one, noted)] if command.is_host(store) else []


def _is_left(loader: Loader, noted: Mapping[str, str]) -> bool:
    try:
        return loader.is_left(noted)
    except OSError:
        return True


def _left(store: Store, loader: Loader, noted: Mapping[str, str]) -> list[str]:
    said = [loader.not_as_before] if loader.is_ready() or _is_left(loader, noted) else []
    with suppress(OSError, ValueError):
        if said and loader.is_missing():
            said = [loader.entry_missing]
            _forget(store, loader, noted)
            return said
        _write_anew(store, loader)
        if said:
            loader.stay(store)  # The call takes back a default that the change has chosen.
            if loader.is_as_before():
                loader.forget(store, noted)
                return []
    with suppress(OSError, ValueError):
        if said == [loader.not_as_before]:
            loader.stay(store)
    return said


def _forget(store: Store, loader: Loader, noted: Mapping[str, str]) -> None:
    """Remove all of our files. The first step decides: from then on the host's configuration names the default."""
    if loader.is_ready():
        loader.forget(store, noted)
    _write_anew(store, loader)


def _write_anew(store: Store, loader: Loader) -> None:
    """Remove our settings, and have the boot loader's configuration written anew where it holds them."""
    if ours.is_ours(ours.MANAGER):
        remove_file(ours.MANAGER)
    loader.write_anew(store)


def _watch(store: Store) -> None:
    """Make a hang of the kernel boot the host again."""
    shown = store.system.run(["systemctl", "show", "--property=RuntimeWatchdogUSec"], 10.0).out.strip()
    if os.path.exists(WATCHDOG) and shown.endswith("=0") and os.path.isdir(os.path.dirname(ours.MANAGER)):
        text = (
            f"# Written for a change that boots this host.\n{ours.MARK.decode()}\n[Manager]\nRuntimeWatchdogSec=60s\n"
        )
        write_file(ours.MANAGER, text.encode(), 0o644)
