# SPDX-License-Identifier: GPL-3.0-or-later

"""Work in the background that a change has started, and that is no job of Ansible. It may change the host once more,
and is named."""

from __future__ import annotations

from contextlib import suppress

from .._errors import ServiceFailed
from .._host import background
from .._host.system import System
from .._services import systemd

_SHOWN = 20
_LIST = ("systemctl", "list-units", "--type=service,timer", "--plain", "--full", "--no-legend", "--no-pager", "run-*")


def found(system: System, since: float, before: float, login: int) -> list[str]:
    """The processes that a login has left behind (see ``background.left_behind``), and the units that ``systemd-run``
    has made since, in words."""
    if not system.has_systemd():  # This machine may play several hosts.
        return []
    words = background.left_behind(since, before, login)
    with suppress(ServiceFailed):
        words += _units(system, since)
    return words[:_SHOWN]


def _units(system: System, since: float) -> list[str]:
    """The units that ``systemd-run`` has made since, seconds after boot, and that run or wait for their time."""
    done = system.run(_LIST, 10.0)
    names = [line.split()[0] for line in done.out.splitlines() if line.strip()] if done.rc == 0 else []
    made = [unit.id for unit in systemd.describe(names, system) if unit.transient]

    def at(moment: float) -> float:
        return background.boottime(system, system.monotonic() - (system.now() - moment))

    return [f"{one.name}, {one.text}" for one in systemd.observe(made, system) if at(one.touched) >= since]
