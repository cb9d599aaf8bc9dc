# SPDX-License-Identifier: GPL-3.0-or-later

"""Work that a change has started in the background or set for later, and that is no job of Ansible. It may change the
host once more, and is named."""

from __future__ import annotations

import os
import re
from contextlib import suppress

from .._errors import ServiceFailed
from .._host import background
from .._host.system import System
from .._services import systemd

_SHOWN = 20
_LIST = ("systemctl", "list-units", "--type=service,timer,scope,path,socket", "--state=active,activating,reloading")
_BARE = ("--plain", "--full", "--no-legend", "--no-pager")
# Logins, programs of snap, machines, units of ours, what watches a container, and the measurements that podman makes of
# its containers, old ones as well.
_NOT_MEANT = (
    r"(init|session-.*|snap\..*|machine-.*|(libpod|crio)-conmon-.*)\.scope|user@.*|evenkeel-.*"
    r"|[0-9a-f]{64}(-[0-9a-f]+)?\.(timer|service)"
)
# The scopes that engines make, one for each container.
_CONTAINER = r"(docker|cri-containerd|nerdctl|crio|libpod)-.*\.scope"
# The shutdown that is planned, in lines such as MODE=reboot.
_SHUTDOWN = "/run/systemd/shutdown/scheduled"


def found(system: System, since: float, before: float, login: int, planned: str = _SHUTDOWN) -> list[str]:
    """The processes that a login has left behind (see ``background.left_behind``), and what was set for later or made
    for a while since, seconds after boot, in words."""
    if not system.has_systemd():  # This machine may play several hosts.
        return []
    words = _shutdown(system, since, planned) + background.left_behind(system, since, before, login)
    with suppress(ServiceFailed):
        words += _units(system, since)
    return words[:_SHOWN]


def _after_boot(system: System, moment: float) -> float:
    return background.boottime(system, system.monotonic() - (system.now() - moment))


def _shutdown(system: System, since: float, planned: str) -> list[str]:
    """The shutdown that was planned since."""
    with suppress(OSError):
        if _after_boot(system, os.stat(planned).st_mtime) >= since:
            with open(planned, encoding="utf-8", errors="replace") as stream:
                mode = re.search("^MODE=([a-z-]{1,30})$", stream.read(4096), re.MULTILINE)
            return [f"a shutdown is planned ({mode[1] if mode else 'in ' + planned}); shutdown -c calls it off"]
    return []


def _units(system: System, since: float) -> list[str]:
    """The units without a file, as ``systemd-run`` and engines of containers make them, that began since, and that run
    or wait for their time. Scopes come last, and containers are counted: there may be many."""
    done = system.run([*_LIST, *_BARE], 10.0)
    names = [line.split()[0] for line in done.out.splitlines() if line.strip()] if done.rc == 0 else []
    names = [name for name in names if not re.fullmatch(_NOT_MEANT, name)]
    made = [unit.id for unit in systemd.describe(names, system) if unit.transient]
    began = [one for one in systemd.observe(made, system) if _after_boot(system, one.started or one.touched) >= since]
    held = [one.name for one in began if re.fullmatch(_CONTAINER, one.name)]
    others = [f"{one.name}, {one.text}" for one in began if not one.name.endswith(".scope")]
    if held:
        counted = f"{len(held)} container{'s' if len(held) > 1 else ''} began since: {', '.join(held[:2])}"
        others.append(counted + (", …" if len(held) > 2 else ""))
    return others + [f"{one.name}, {one.text}" for one in began if one.name.endswith(".scope") and one.name not in held]
