# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkpoint from host to host through the controller, in a file there that nobody else can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Host
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._scratch import run


class Carrier:
    """The phases of a module on any host. owner: whose checkpoints, by the name peers know; store: that of a host."""

    def __init__(self, module: str, owner: str, store: Callable[[str], str], **options: Any) -> None:
        self._module = module
        self._store = store
        self._options = {"host": owner, "peers": [], **options}

    def phase(self, host: Host, phase: str, **values: Any) -> dict[str, Any]:
        store = self._store(host.name)
        # So that no call of this run takes away a bundle of another call of it.
        values["run"] = run()
        return host.module(self._module, **self._options, store=store, _phase=phase, _values=values)

    def fetch(
        self, host: Host, checkpoint: str, known: Sequence[str], from_replica: bool, local: str
    ) -> dict[str, Any]:
        """Bring the bundle of a checkpoint, without what those in ``known`` hold, into the new file ``local``."""
        directory = host.directory()
        found = self.phase(host, "export", id=checkpoint, known=list(known), directory=directory, replica=from_replica)
        if not found.get("failed"):
            try:
                host.fetch(found["path"], local)
            finally:
                self.phase(host, "discard", path=found["path"])
        return found

    def deliver(self, host: Host, phase: str, checkpoint: str, local: str) -> dict[str, Any]:
        """Send the bundle ``local`` and have the host take it in (``receive`` or ``adopt``)."""
        found = self.phase(host, "land", directory=host.directory())
        if found.get("failed"):
            return found
        host.put(local, found["path"])
        return self.phase(host, phase, id=checkpoint, path=found["path"])
