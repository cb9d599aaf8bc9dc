# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A systemd of a few lines, in memory: it answers ``systemctl`` and ``journalctl`` as the real one does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System

BOOT = 1_000_000.0


@dataclass
class Unit:
    """``links``: enabled by links, which may outlive the unit file. ``fails``: verbs that end with an error.

    ``takes``: units that require this one, and are stopped with it. ``aliases``: other names of it.
    """

    name: str
    file: bool = True
    enabled: str = "enabled"
    active: str = "active"
    sub: str = "running"
    entered: float = 100.0
    identity: str = "id0"
    restarts: int = 0
    can_reload: bool = True
    queued: bool = False
    fails: tuple[str, ...] = ()
    # Verbs that succeed and do nothing.
    deaf: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    log: str = ""
    aliases: tuple[str, ...] = ()
    # What starts it on demand, and what it starts.
    triggered_by: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    # Further properties, as systemctl shows them.
    more: dict[str, str] = field(default_factory=dict)

    @property
    def load(self) -> str:
        return "masked" if self.enabled.startswith("masked") else "loaded" if self.file else "not-found"


@dataclass
class Machine:
    units: dict[str, Unit] = field(default_factory=dict)
    clock: float = 1000.0
    calls: list[str] = field(default_factory=list)
    broken: str = ""
    # What the journal has of a unit since a reload.
    said: str = ""
    # The programs that hold up a shutdown, as logind tells them.
    inhibitors: str = ""
    # The variables that it gives to each service.
    environment: dict[str, str] = field(default_factory=dict)
    # Those that it has from files, and has anew after a reload: nobody can unset them.
    from_files: dict[str, str] = field(default_factory=dict)
    boot: str = "this boot"

    def system(self) -> System:
        return replace(
            System(),
            run=self.run,
            command=self.run,
            now=lambda: BOOT + self.clock,
            monotonic=lambda: self.clock,
            sleep=self.sleep,
            has_systemd=lambda: True,
            boot_id=lambda: self.boot,
        )

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def acts(self) -> list[str]:
        """What was done, without what only reads."""
        return [
            call
            for call in self.calls
            if call.split()[1]
            not in ("show", "show-environment", "reset-failed", "list-unit-files", "list-units", "list-jobs")
            and not call.startswith(("journalctl", "busctl"))
        ]

    def run(self, argv: Sequence[str], timeout: float) -> Completed:
        words = tuple(argv)
        self.calls.append(" ".join(words))
        self.clock += 0.01
        if self.broken:
            return Completed(words, 1, "", self.broken)
        if words[0] == "journalctl":
            own = words[1].startswith("_SYSTEMD_UNIT=")
            name = words[1].partition("=")[2]
            if any(word.startswith("--since=@") for word in words):
                return Completed(words, 0, self.said, "")
            return Completed(words, 0, self.unit(name).log if own else "systemd's own words\n", "")
        if words[0] == "busctl":
            return Completed(words, 0, f"a(ssssuu) 0 {self.inhibitors}\n", "")
        if words[1] == "daemon-reload":
            return Completed(words, 0, "", "")
        if words[1].endswith("-environment"):
            for name, sign, value in (word.partition("=") for word in words[2:]):
                self.environment.pop(name, None)
                self.environment.update({name: value} if sign else {})
            shown = {**self.from_files, **self.environment}
            return Completed(words, 0, "".join(f"{name}={one}\n" for name, one in shown.items()), "")
        if words[1] == "list-unit-files":
            return Completed(words, 0, "".join(f"{one.name} {one.enabled} -\n" for one in self.files()), "")
        if words[1] == "list-units":
            states = next(word for word in words if word.startswith("--state=")).partition("=")[2].split(",")
            listed = [one for one in self.units.values() if one.active in states]
            return Completed(words, 0, "".join(f"{one.name} {one.load} {one.active}\n" for one in listed), "")
        if words[1] == "list-jobs":
            waiting = [one for one in self.units.values() if one.queued]
            return Completed(words, 0, "".join(f"7 {one.name} start running\n" for one in waiting), "")
        names = words[words.index("--") + 1 :]
        if words[1] == "show" and words[2].startswith("--property=RequiredBy"):
            return Completed(words, 0, " ".join(self.unit(names[0]).takes) + "\n", "")
        if words[1] == "show":
            asked = words[2].partition("=")[2].split(",")
            return Completed(words, 0, "\n".join(self.show(name, asked) for name in names), "")
        verb = next(word for word in words[1:] if not word.startswith("--"))
        return [self.act(words, verb, self.unit(name), "--no-block" in words) for name in names][-1]

    def files(self) -> list[Unit]:
        return [unit for unit in self.units.values() if unit.file]

    def unit(self, name: str) -> Unit:
        found = (unit for unit in self.units.values() if name == unit.name or name in unit.aliases)
        return next(found, Unit(name, file=False, enabled="", active="inactive", sub="dead", identity=""))

    def show(self, name: str, asked: Sequence[str] = ()) -> str:
        """The properties that were asked for; without names, all of them."""
        unit = self.unit(name)
        up = unit.active in ("active", "reloading")
        values = {
            "TimeoutStartUSec": "1min 30s",
            "TimeoutStopUSec": "1min 30s",
            "NRestarts": unit.restarts,
            **{key: value for key, value in unit.more.items() if key.startswith("Exec")},
            "Id": unit.name,
            "LoadState": unit.load,
            "ActiveState": unit.active,
            "SubState": unit.sub,
            "UnitFileState": unit.enabled if unit.file else "",
            "ActiveEnterTimestampMonotonic": int(unit.entered * 1e6) if up else 0,
            "CanReload": "yes" if unit.can_reload else "no",
            "InvocationID": unit.identity,
            "Job": "7" if unit.queued else "",
            "TriggeredBy": " ".join(unit.triggered_by),
            "Triggers": " ".join(unit.triggers),
            "RequiredBy": " ".join(unit.takes),
        }
        values.update(unit.more)
        return "".join(f"{key}={value}\n" for key, value in values.items() if not asked or key in asked)

    def act(self, words: tuple[str, ...], verb: str, unit: Unit, queued: bool) -> Completed:
        if verb in {"yes": ("stop", "restart")}.get(unit.more.get("RefuseManualStop", ""), ()):
            return Completed(words, 1, "", f"Operation refused, unit {unit.name} may be requested by dependency only")
        if verb in unit.fails:
            return Completed(words, 1, "", f"Job for {unit.name} failed.")
        if verb == "disable" and not unit.file and unit.enabled != "enabled":
            return Completed(words, 1, "", f"Failed to disable unit: Unit file {unit.name} does not exist.")
        if verb == "start" and unit.active == "active":
            return Completed(words, 0, "", "")
        if verb in unit.deaf or queued:
            return Completed(words, 0, "", "")
        if verb in ("start", "restart"):
            unit.active, unit.sub, unit.entered = "active", "running", self.clock
            unit.identity = f"id{len(self.calls)}"
        elif verb == "stop":
            unit.active, unit.sub, unit.identity = "inactive", "dead", ""
            for one in (self.units[name] for name in unit.takes):
                if one.active == "active":
                    self.act(words, verb, one, queued)
        elif verb in ("enable", "disable", "mask"):
            unit.enabled = {"enable": "enabled", "disable": "disabled", "mask": "masked"}[verb]
        elif verb == "unmask" and ("--runtime" in words) == (unit.enabled == "masked-runtime"):
            unit.enabled = "disabled"
        elif verb == "reset-failed" and unit.active == "failed":
            unit.active = "inactive"
        return Completed(words, 0, "", "")


def machine(*units: Unit) -> Machine:
    return Machine({unit.name: unit for unit in units})
