# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way of a checkpoint from host to host through the controller, in a file that nobody else can read."""

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

# Additional memory for Ansible while a file comes in: it holds a whole file where a host has no sftp.
_MEMORY = 1024 * 1024 * 1024


class Carrier:
    """The phases of a module on any host. owner: the host of the checkpoints, as peers know it; store: of a host."""

    def __init__(self, module: str, owner: str, store: Callable[[str], str], **options: Any) -> None:
        self._module = module
        self._store = store
        self._options = {"host": owner, "peers": [], **options}

    def without(self, option: str) -> Carrier:
        """The same carrier without an option of its module."""
        options = {name: value for name, value in self._options.items() if name != option}
        return Carrier(self._module, options.pop("host"), self._store, **options)

    def phase(self, host: Host, phase: str, **values: Any) -> Answer:
        """The answer of the host to the phase, in form; else the host has ``failed``."""
        store = self._store(host.name)
        # With this name, no call of this run removes a bundle of another call of the run.
        values["run"] = run()
        secrets = {"_secrets": values.pop("secrets")} if "secrets" in values else {}
        options = {**self._options, **secrets, "store": store}
        return read(phase, host.module(self._module, **options, _phase=phase, _values=values))

    def fetch(
        self, host: Host, checkpoint: str, known: Sequence[str], from_replica: bool, local: str, **more: Any
    ) -> Answer:
        """Bring the bundle of a checkpoint, without the contents of ``known`` checkpoints, into the new file ``local``.

        No more bytes are taken than the host has announced, and than there is room for here and there: else
        ``no_room``. ``more``: the values for an encrypted bundle (``_seal``); ``lacking``: have the host say what a
        copy lacks.
        """
        values = {"id": checkpoint, "known": list(known), "directory": host.directory(), "replica": from_replica}
        found = self.phase(host, "export", **values, **more)
        if found.get("failed"):  # A host refuses nothing but a bundle for which it has no room.
            refused = found["error"] == "Refused"
            return {**found, "msg": f"{host.name}: {found['msg']}", "no_room": True} if refused else found
        try:
            free = room(os.path.dirname(local))
            if found["bytes"] > free:
                why = (
                    f"the bundle has {found['bytes']} bytes, and {os.path.dirname(local)} on the controller has room"
                    f" for {free}: free some, or set another local_tmp"
                )
                return {**failed(why, "Refused"), "no_room": True}
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
        """Send the bundle ``local``, and have the host store it (``receive`` or ``adopt``), where it has room: else
        ``no_room``."""
        size = os.path.getsize(local)
        found = self.phase(host, "land", directory=host.directory(), **({"size": size} if phase == "receive" else {}))
        if found.get("failed"):
            return found
        if size > found["room"]:
            self.phase(host, "discard", path=found["path"])
            why = f"the bundle has {size} bytes, and {host.name} has room for {found['room']}: free some"
            return {**failed(why, "Refused"), "no_room": True}
        try:
            host.put(local, found["path"])
        except AnsibleConnectionFailure:
            raise
        except (AnsibleError, OSError):
            self.phase(host, "discard", path=found["path"])  # A part of the bundle may be there.
            raise
        return self.phase(host, phase, id=checkpoint, path=found["path"], **values)


@contextmanager
def _no_more_than(size: int) -> Iterator[None]:
    """Limit the size of files that we and our programs write meanwhile, and our memory.

    A file may be larger by a single byte, so that a too large file does not pass for a complete one.
    """
    limits = {resource.RLIMIT_FSIZE: size + 1}
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            used = int(stream.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")
        limits[resource.RLIMIT_DATA] = used + 3 * size + _MEMORY
    except OSError:
        pass  # This is no Linux: only the time limit of a peer bounds its answer.
    before = {limit: resource.getrlimit(limit) for limit in limits}
    for limit, most in limits.items():
        soft, hard = before[limit]
        resource.setrlimit(limit, (most if soft == resource.RLIM_INFINITY else min(soft, most), hard))
    try:
        yield
    finally:
        for limit, were in before.items():
            resource.setrlimit(limit, were)
