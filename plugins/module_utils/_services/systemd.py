# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services under systemd: observed with one call, acted on with proof."""

from __future__ import annotations

from collections.abc import Sequence

from .._errors import ServiceFailed
from .._system import System
from .state import ServiceState

_PROPERTIES = (
    "Id,LoadState,UnitFileState,ActiveState,SubState,InvocationID,NRestarts,CanReload,Job,ActiveEnterTimestampMonotonic"
)
_TIMEOUT = 120.0
# A unit counts as started before its program has read its configuration: it must live this long to be proved.
_ALIVE = 0.3
# What a program says as it ends reaches the journal a little later.
_LOGGED = 0.5
_UNIT_FILES = ("enable", "disable", "mask", "unmask")
# What these are for is a state: where it holds they succeeded, even if systemctl complains that the unit is not loaded
# or that its file is gone.
_TO_A_STATE = ("stop", "disable", "mask", "unmask", "reset-failed")
# States on the way to another: wait for what they become.
_PASSING = ("activating", "deactivating", "reloading", "refreshing")


def unit_name(name: str) -> str:
    """``nginx`` means ``nginx.service``."""
    known = (".service", ".socket", ".timer", ".target", ".mount", ".path", ".automount", ".slice", ".scope", ".swap")
    return name if name.endswith(known) else name + ".service"


def observe(names: Sequence[str], system: System) -> list[ServiceState]:
    """The states of the units, in the order asked. Raises ServiceFailed when systemd does not answer."""
    if not names:
        return []
    units = [unit_name(name) for name in names]
    done = system.run(["systemctl", "show", f"--property={_PROPERTIES}", "--", *units], 30.0)
    found = done.out.strip().split("\n\n")
    if done.rc != 0 or len(found) != len(units):
        raise ServiceFailed(f"systemd does not tell the state of {', '.join(units)}: {done.words}")
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in found]
    return [_state(unit, block, system) for unit, block in zip(units, blocks)]


def _state(unit: str, block: dict[str, str], system: System) -> ServiceState:
    entered = int(block.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
    active = block["ActiveState"] in ("active", "reloading", "refreshing")
    return ServiceState(
        name=unit,
        exists=block["LoadState"] not in ("not-found", ""),
        enabled=block.get("UnitFileState", ""),
        active=active,
        text=f"{block['ActiveState']} ({block['SubState']})",
        started=system.now() - system.monotonic() + entered if active and entered else None,
        identity=block.get("InvocationID", "") if active else "",
        restarts=int(block.get("NRestarts") or 0),
        can_reload=block.get("CanReload") == "yes",
        queued=block.get("Job", "") not in ("", "0"),
    )


def passing(state: ServiceState) -> bool:
    """Whether the unit is on the way to another state."""
    return state.text.split(" ")[0] in _PASSING


def settled(name: str, system: System, limit: float = 30.0) -> ServiceState:
    """The state of the unit once it is not on the way to another, or after ``limit`` seconds."""
    end = system.monotonic() + limit
    while True:
        (state,) = observe([name], system)
        if not passing(state) or system.monotonic() >= end:
            return state
        system.sleep(0.1)


def act(verb: str, name: str, system: System, wait: bool = True) -> ServiceState:
    """Do it and prove it: start, stop, restart, reload, enable, disable, mask, unmask, reset-failed. The state after.

    With ``wait`` False the job is only queued, and nothing is proved (early at boot). Raises ServiceFailed.
    """
    unit = unit_name(name)
    if verb in ("start", "restart"):
        # A unit that failed too often refuses to start until this is forgotten.
        system.run(["systemctl", "reset-failed", "--", unit], 30.0)
    (before,) = observe([unit], system)
    options = ["--quiet"] if verb in _UNIT_FILES else []
    if verb == "unmask" and before.enabled == "masked-runtime":
        options.append("--runtime")
    if not wait and verb not in (*_UNIT_FILES, "reset-failed"):
        options.append("--no-block")
    done = system.run(["systemctl", *options, verb, "--", unit], _TIMEOUT)
    if not wait and done.rc == 0:
        return before
    after = settled(unit, system) if done.rc == 0 else observe([unit], system)[0]
    if done.rc == 0 and after.active and verb in ("start", "restart"):
        system.sleep(_ALIVE)
        (later,) = observe([unit], system)
        if not later.active:
            raise ServiceFailed(f"{unit} started and ended at once: it is {later.text}{last_words(unit, system)}")
    holds = _holds(verb, before, after)
    if holds and (done.rc == 0 or verb in _TO_A_STATE):
        return after
    if done.rc != 0:
        raise ServiceFailed(f"systemctl {verb} {unit}: {done.words}{last_words(unit, system)}")
    raise ServiceFailed(f"systemctl {verb} {unit} ended well, but the unit is {after.text}{last_words(unit, system)}")


def _holds(verb: str, before: ServiceState, after: ServiceState) -> bool:
    """The proof, by what is observed."""
    return {
        "start": after.active,
        "restart": after.active and after.identity != before.identity,
        "reload": after.active and after.identity == before.identity,
        "stop": not after.active and not passing(after),
        "enable": after.enabled not in ("disabled", "masked", "masked-runtime"),
        "disable": after.enabled not in ("enabled", "enabled-runtime"),
        "mask": after.enabled == "masked",
        "unmask": not after.enabled.startswith("masked"),
        "reset-failed": not after.text.startswith("failed"),
    }[verb]


def daemon_reload(system: System) -> None:
    done = system.run(["systemctl", "daemon-reload"], _TIMEOUT)
    if done.rc != 0:
        raise ServiceFailed(f"systemctl daemon-reload: {done.words}")


def last_words(unit: str, system: System) -> str:
    """The unit's own last words, what a person would look up next; systemd's about it when it said nothing itself."""
    system.sleep(_LOGGED)
    for which in (f"_SYSTEMD_UNIT={unit}", f"--unit={unit}"):
        words = ["journalctl", which, "--since=-5min", "--lines=8", "--output=cat", "--no-pager", "--quiet"]
        done = system.run(words, 10.0)
        said = [line.strip() for line in done.out.splitlines() if line.strip()]
        if done.rc == 0 and said:
            return f"; its log: {' / '.join(dict.fromkeys(said))}"
    return ""
