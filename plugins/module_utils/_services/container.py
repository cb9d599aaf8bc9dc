# SPDX-License-Identifier: GPL-3.0-or-later

"""Services in containers of podman or docker, known by the engine's own record of them."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, TypedDict

from .._dataclasses import dataclass
from .._errors import ServiceFailed, UsageError
from .._host.commands import Completed
from .._host.options import Options, read
from .._host.system import System
from .state import ServiceState

ENGINES = ("podman", "docker")
OPTIONS: Options = {
    "name": {"type": "str", "required": True},
    "engine": {"type": "str", "choices": list(ENGINES)},
}
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}"
# Podman writes the unit that runs a container into this label.
_UNIT = "PODMAN_SYSTEMD_UNIT"
# Podman's words on a container that did not stop by itself in its time.
_KILLED = "resorting to SIGKILL"
# Seconds for the engine itself; seconds that it gives a container to stop where nothing else is set.
_MARGIN, _STOP = 60.0, 10.0
# Seconds that a container must run to count as started.
_ALIVE = 0.3


class Definition(TypedDict):
    """A service that is declared as a container, with a value for each of ``OPTIONS``. ``engine``: None for the one
    that the host has."""

    name: str
    engine: str | None


def check(definition: object) -> Definition:
    """The definition with all its keys. UsageError names the bad key. The machine that checks may be another one than
    the host of the container, so that nothing is looked for on it."""
    made = read(OPTIONS, definition, "container")
    if not re.fullmatch(_NAME, made["name"]):
        raise UsageError(f"container: name {made['name']!r} cannot name a container")
    if made["engine"] not in (None, *ENGINES):
        raise UsageError(f"container {made['name']}: engine must be podman or docker, not {made['engine']!r}")
    return Definition(name=made["name"], engine=made["engine"])


class Inspected(NamedTuple):
    """The answer of the engine about a container. ``unit``: the unit of systemd that runs it; empty for none.
    ``patience``: seconds that it gets to stop."""

    state: ServiceState
    unit: str = ""
    patience: float = _STOP


@dataclass(frozen=True)
class ContainerService:
    """The backend of a service in a container."""

    definition: Definition
    what: ClassVar[str] = "such container"

    @property
    def name(self) -> str:
        return self.definition["name"]

    @property
    def engine(self) -> str:
        """The engine of this host. ServiceFailed where it has none."""
        found = self.definition["engine"] or next(filter(shutil.which, ENGINES), None)
        if found is None:
            raise ServiceFailed(f"container {self.name}: this host has no podman and no docker")
        return found

    def observe(self, system: System) -> ServiceState:
        return self.inspect(system).state

    def inspect(self, system: System) -> Inspected:
        """All that is of interest of it. ServiceFailed when the engine does not tell it."""
        engine = self.engine
        done = system.run([engine, "container", "inspect", "--", self.name], _MARGIN)
        if done.rc != 0 and "no such" in done.err.lower():
            return Inspected(ServiceState(self.name, False, "", False, "no such container", None, "", 0, False))
        try:
            if done.rc != 0:
                raise ValueError(done.words)
            (told,) = json.loads(done.out)
            return _inspected(self.name, told)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ServiceFailed(f"{engine} does not tell the state of container {self.name}: {error}") from error

    def act(self, verb: str, system: System, wait: bool = True) -> ServiceState:
        return self.carry_out(verb, system)[0]

    def carry_out(self, verb: str, system: System) -> tuple[ServiceState, bool]:
        """``act``; (the state afterwards, whether the engine had to kill the container)."""
        if verb not in ("start", "stop", "restart"):
            raise ServiceFailed(f"container {self.name} cannot be told to {verb}: only its program could")
        before, began = self.inspect(system), system.now()
        argv = [self.engine, verb, "--", self.name]
        done = system.run(argv, _MARGIN + before.patience)
        after = self.observe(system)
        if after.active and verb != "stop":
            system.sleep(_ALIVE)
            after = self.observe(system)
        if done.rc == 0 and _holds(verb, before.state, after):
            return after, _KILLED in done.err or (verb != "start" and self._was_killed(began, system))
        why = done.words if done.rc else f"ended well, but the container is {after.text}"
        raise ServiceFailed(f"{' '.join(argv)}: {why}{self._last_words(system)}")

    def _was_killed(self, since: float, system: System) -> bool:
        """Whether docker tells that it has sent KILL to the container. It says nothing of it by itself."""
        if os.path.basename(self.engine) != "docker":
            return False
        argv = [self.engine, "events", f"--since={since:.3f}", f"--until={system.now():.3f}", "--filter=event=kill"]
        ask = [f"--filter=container={self.name}", "--format={{.Actor.Attributes.signal}}"]
        done = system.run([*argv, *ask], 10.0)
        return done.rc == 0 and "9" in done.out.split()

    def _last_words(self, system: System) -> str:
        """The last lines that the container wrote, for a message."""
        done: Completed = system.run([self.engine, "logs", "--tail=8", "--", self.name], 10.0)
        lines = [line.strip() for line in (done.out + done.err).splitlines() if line.strip()]
        return f"; its log: {' / '.join(dict.fromkeys(lines))}" if done.rc == 0 and lines else ""


def _holds(verb: str, before: ServiceState, after: ServiceState) -> bool:
    """Whether the two states prove that the verb had its effect."""
    if verb == "stop":
        return not after.active
    return after.active and (verb == "start" or after.identity != before.identity)


def _inspected(name: str, told: Mapping[str, object]) -> Inspected:
    """The container as ``inspect`` tells it. Raises ValueError, TypeError or KeyError for another form."""
    state = _mapping(told["State"])
    active = state["Running"] is True and state.get("Paused") is not True and state.get("Restarting") is not True
    began, status = str(state.get("StartedAt", "")), str(state.get("Status", ""))
    health = str(_mapping(state.get("Health") or state.get("Healthcheck") or {}).get("Status") or "")[:40]
    config = _mapping(told.get("Config") or {})
    labels = _mapping(config.get("Labels") or {})
    seconds = config.get("StopTimeout")
    return Inspected(
        ServiceState(
            name=name,
            exists=True,
            enabled="",
            active=active,
            text=f"{status[:40]} ({health})" if health else status[:40] or "unknown",
            started=_epoch(began) if active else None,
            identity=f"{str(told['Id'])[:12]}:{began}" if active else "",
            restarts=int(str(told.get("RestartCount") or 0)),
            can_reload=False,
            health="" if health == "none" else health,
        ),
        unit=str(labels.get(_UNIT) or "")[:255],
        patience=float(seconds) if isinstance(seconds, (int, float)) and seconds >= 0 else _STOP,
    )


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise TypeError("its answer has another form")
    return value


def _epoch(text: str) -> float | None:
    """Seconds since the epoch of a time such as ``2026-11-29T06:00:00.123456789Z``; None for another text."""
    found = re.fullmatch(r"([^.]*?)(?:\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    if found is None:
        return None
    zone = "+00:00" if found[2] == "Z" else found[2]
    try:
        return datetime.datetime.fromisoformat(found[1] + zone).timestamp()
    except ValueError:
        return None
