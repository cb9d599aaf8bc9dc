# SPDX-License-Identifier: GPL-3.0-or-later

"""Sockets that systemd listens on. A generator may write their addresses from the configuration of a program: that of
sshd writes them for ``ssh.socket``. Systemd goes on with the addresses of the last start, whatever the files say."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .._errors import ServiceFailed
from .._host.system import System
from . import systemd
from .unit import Unit
from .vital import is_vital

# The beginning of the paths that generators write to.
GENERATED = "/run/systemd/generator"
_PORT = r"[\[0-9][^/]*:(\d+)(?:%.*)? \(Stream\)"
_LISTENS = "0A"


def daemon_reload(names: Sequence[str], system: System) -> list[str]:
    """Have systemd read its units anew. Returns sentences on the units that were started anew: units that systemd lost,
    and active sockets of these units that are to listen elsewhere now. Raises ServiceFailed where one did not start.
    """
    known = {one.id: _written(one) for one in _active(names, system)}
    names_gone = systemd.daemon_reload(system, names)
    words = [f"systemd had lost sight of {', '.join(names_gone)}, started anew"] if names_gone else []
    failed = []
    open_ports = _open_ports() if known else set()
    # The name of a socket may have become an alias of another one.
    for before, unit in zip(known.values(), systemd.describe(list(known), system)):
        if before != _written(unit):
            why = "a generator wrote other files for it"
        elif open_ports and not _ports(unit) <= open_ports:
            why = "nobody listened on a port of it"
        else:
            continue
        try:
            systemd.act("restart", unit.id, system)
            words.append(f"{unit.id} was started anew, since {why}")
        except ServiceFailed as error:
            failed.append(f"{unit.id}, since {why}: {error.message}")
    if failed:
        raise ServiceFailed("; ".join(failed))
    return words


def _active(names: Sequence[str], system: System) -> list[Unit]:
    """The sockets among the units, and those that start one of them, as far as they are active and may be stopped."""
    wanted = {one for unit in systemd.describe(names, system) for one in (unit.id, *unit.triggered_by)}
    sockets = sorted(one for one in wanted if one.endswith(".socket") and not is_vital(one))
    active = [state.name for state in systemd.observe(sockets, system) if state.active]
    return [unit for unit in systemd.describe(active, system) if unit.starts and unit.stops]


def _written(unit: Unit) -> dict[str, bytes]:
    """The files of the unit that a generator has written."""
    found = {}
    for path in unit.files:
        if path.startswith(GENERATED):
            try:
                with open(path, "rb") as stream:
                    found[path] = stream.read()
            except OSError:
                found[path] = b""
    return found


def _ports(unit: Unit) -> set[int]:
    return {int(found[1]) for one in unit.listens if (found := re.fullmatch(_PORT, one))}


def _open_ports(proc: str = "/proc") -> set[int]:
    """The ports on which some program of this host accepts connections of TCP."""
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            with open(f"{proc}/net/{name}", encoding="ascii") as stream:
                rows = [line.split() for line in stream][1:]
        except OSError:
            continue
        found |= {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == _LISTENS}
    return found
