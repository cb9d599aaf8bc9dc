# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkpoint from host to host through the controller, in a file there that nobody else can read."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.foreign import room
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import failed, read
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Host
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._scratch import run

# Memory that Ansible may need besides, while a file comes in. It holds a whole file where a host has no sftp.
_MEMORY = 1024 * 1024 * 1024


class Carrier:
    """The phases of a module on any host. owner: whose checkpoints, by the name peers know; store: that of a host."""

    def __init__(self, module: str, owner: str, store: Callable[[str], str], **options: Any) -> None:
        self._module = module
        self._store = store
        self._options = {"host": owner, "peers": [], **options}

    def phase(self, host: Host, phase: str, **values: Any) -> Answer:
        """The answer of the host to the phase, in form; else the host has ``failed``."""
        store = self._store(host.name)
        # So that no call of this run takes away a bundle of another call of it.
        values["run"] = run()
        return read(phase, host.module(self._module, **self._options, store=store, _phase=phase, _values=values))

    def fetch(self, host: Host, checkpoint: str, known: Sequence[str], from_replica: bool, local: str) -> Answer:
        """Bring the bundle of a checkpoint, without what those in ``known`` hold, into the new file ``local``.

        No more than the host has announced, and there is room for, is taken.
        """
        directory = host.directory()
        found = self.phase(host, "export", id=checkpoint, known=list(known), directory=directory, replica=from_replica)
        if found.get("failed"):
            return found
        try:
            free = room(os.path.dirname(local))
            if found["bytes"] > free:
                return failed(
                    f"the bundle has {found['bytes']} bytes, and {os.path.dirname(local)} on the controller has room"
                    f" for {free}: free some, or set another local_tmp"
                )
            with _no_more_than(found["bytes"]):
                host.fetch(found["path"], local)
        except AnsibleConnectionFailure:
            raise
        except (AnsibleError, OSError, MemoryError) as error:
            return failed(f"a bundle of {found['bytes']} bytes was announced, and could not be brought: {error}")
        finally:
            self.phase(host, "discard", path=found["path"])
        if os.path.getsize(local) != found["bytes"]:
            return failed(f"a bundle of {found['bytes']} bytes was announced, and {os.path.getsize(local)} came")
        return found

    def deliver(self, host: Host, phase: str, checkpoint: str, local: str, **values: Any) -> Answer:
        """Send the bundle ``local``, and have a host that has room for it take it in (``receive`` or ``adopt``)."""
        size = os.path.getsize(local)
        found = self.phase(host, "land", directory=host.directory())
        if found.get("failed"):
            return found
        if size > found["room"]:
            self.phase(host, "discard", path=found["path"])
            return failed(f"the bundle has {size} bytes, and there is room for {found['room']}: free some")
        host.put(local, found["path"])
        return self.phase(host, phase, id=checkpoint, path=found["path"], **values)


@contextmanager
def _no_more_than(size: int) -> Iterator[None]:
    """Nothing that we or the programs that we start write meanwhile is larger, nor is much more held in memory.

    By one byte it may be, so that what is too large is not taken for whole.
    """
    limits = {resource.RLIMIT_FSIZE: size + 1}
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            used = int(stream.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")
        limits[resource.RLIMIT_DATA] = used + 3 * size + _MEMORY
    except OSError:
        pass  # No Linux: the time that a peer has is all that bounds what it says.
    before = {limit: resource.getrlimit(limit) for limit in limits}
    for limit, most in limits.items():
        soft, hard = before[limit]
        resource.setrlimit(limit, (most if soft == resource.RLIM_INFINITY else min(soft, most), hard))
    try:
        yield
    finally:
        for limit, were in before.items():
            resource.setrlimit(limit, were)
