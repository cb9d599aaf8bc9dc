# SPDX-License-Identifier: GPL-3.0-or-later

"""The unit of systemd to which a process belongs, as its control group tells."""

from __future__ import annotations

import os

from .._host.processes import read_entry

# The types of units that have processes of their own.
_UNITS = (".service", ".scope", ".socket", ".mount", ".swap")


class Places:
    """The units of processes of this host.

    A unit may give its control group to its user, who makes groups of any name below it: a user's service manager does
    so. So the unit is the first one below the slices, whatever names follow.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        # The slice of our own systemd, which is not the first where this host is a container.
        self._above = self._groups("1")[0].removesuffix("/init.scope")

    def unit(self, pid: int | str) -> str:
        """The unit of the process; empty without one. All processes of a user's service manager, and of the units in
        it, belong to ``user@UID.service``."""
        for group in self._groups(str(pid)):
            below = (part for part in group.removeprefix(self._above).split("/") if part)
            first = next((part for part in below if not part.endswith(".slice")), "")
            if first.endswith(_UNITS):
                return first
        return ""

    def service(self, pid: int | str) -> str:
        """The service of the process that a restart on this host may name; empty where it belongs to none."""
        unit = self.unit(pid)
        return unit if unit.endswith(".service") and not unit.startswith("user@") else ""

    def _groups(self, pid: str) -> list[str]:
        """The control groups that systemd has put the process into; an empty path without any."""
        lines = [os.fsdecode(line).split(":", 2) for line in read_entry(pid, "cgroup", self._proc).splitlines()]
        # First the hierarchy of systemd alone, which a host has besides those of the controllers.
        wanted = [fields for fields in lines if len(fields) == 3 and fields[1] in ("", "name=systemd")]
        return [fields[2] for fields in sorted(wanted, key=lambda one: not one[1])] or [""]
