# SPDX-License-Identifier: GPL-3.0-or-later

"""The properties of a unit besides its state: its files, the verbs that it permits, and its time limits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# The units that systemd stops together with a unit.
DEPENDENTS = "RequiredBy,RequisiteOf,BoundBy,ConsistsOf,PropagatesStopTo"
PROPERTIES = (
    "Id,LoadState,FragmentPath,DropInPaths,SourcePath,Transient,CanStop,CanReload,RefuseManualStart,"
    "RefuseManualStop,UnitFileState,NeedDaemonReload,TriggeredBy,Triggers,MainPID,Type,KillMode,TimeoutStartUSec,"
    "TimeoutStopUSec,ExecStart,ExecStop,EnvironmentFiles,BusName,RemainAfterExit,Result,Listen,"
    "Conflicts,ConflictedBy,PropagatesReloadTo,ReloadResult,After,"
) + DEPENDENTS
# The properties of these whose text its author chose, line breaks included -> how systemctl ends a line of it.
TEXTS = {
    "ExecStart": " }",
    "ExecStop": " }",
    "EnvironmentFiles": ")",
    "Listen": ")",
    "SourcePath": "",
    "FragmentPath": "",
    "DropInPaths": "",
    "BusName": "",
}
OTHERS = (".socket", ".timer", ".target", ".mount", ".path", ".automount", ".slice", ".scope", ".swap", ".device")
# Seconds to wait for the start of a unit without a limit of its own.
CAP = 600.0
# Seconds for systemctl itself, and for the queue of jobs.
_MARGIN = 30.0
# A stop has up to three phases, each with the limit of the unit: its commands, its signal, and KILL.
_STOPS = 3
_INTERPRETER = r"(?:ba|da|k|z)?sh|python[\d.]*|perl|ruby[\d.]*|node|php[\d.]*|java|env"
# A word that names the script of an interpreter, as far as it is one of the first words; an option may have a row of
# paths. An option that stands for a script.
_SCRIPT, _WORDS, _NO_SCRIPT = r"/[^:]*", 7, r"-[A-Za-z]*c|-m"
_SPAN = r"(\d+(?:\.\d+)?)(us|ms|s|min|h|d|w|month|y)?"
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1, "": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800, "month": 2629800}
# Units that listen for logins, or without which no login arrives.
LISTENING = (
    *("ssh.service", "sshd.service", "ssh.socket", "sshd.socket", "dropbear.service", "dropbear.socket"),
    *("networking.service", "NetworkManager.service", "systemd-networkd.service", "systemd-networkd.socket"),
)
# Tables of disks, of which generators make units.
_TABLES = r"/etc/(fs|crypt|verity|integrity)tab"

# The name of an instance that a socket starts for one connection: its number, and both ends of it.
_CONNECTION = r".*@\d+-(?:.*:\d+-.*:\d+|\d+-\d+)(?:-[\d_]+)*\.service"
# Kinds of units that run a program, or start such a unit.
_KINDS = (".service", ".socket", ".timer", ".path")
# Kinds of units that mount something: those count that an administrator has written. Snapd writes units of its own.
MOUNTING = (".mount", ".automount", ".swap")
_OF_SNAPD = ("snap-", "snap.")
# Units of logins, and ours, which are never recorded.
_PASSING = (
    *("getty@", "serial-getty@", "container-getty@", "autovt@", "console-getty.", "user@", "user-runtime-dir@"),
    "evenkeel-",
)
# Instances of these templates are connections, unless an administrator has enabled them.
_OF_LOGINS = ("ssh@", "sshd@")


class Unit(NamedTuple):
    """``id``: the own name, even if an alias was given. ``files``: the sources of its processes: unit file, drop-ins,
    environment files, programs. ``source``: the file that a generator made the unit of. ``starts``, ``stops``,
    ``reloads``: whether systemd permits that. ``bus``: the name on D-Bus that starts it. ``begin``, ``end``: its limits
    in seconds for start and stop, or None. ``remains``: whether it counts as active once its program has ended.
    ``result``: how its last run ended, in the words of systemd. ``has_stop``: whether a command of its own stops it.
    ``takes``: units that stop with it. ``listens``: the addresses of a socket, in the words of systemd.
    ``clustered``: whether a cluster manager starts and stops it. ``conflicts``: units, but targets, that its start
    stops. ``reloads_too``: units that reload with it. ``reload_result``: how its last reload ended. ``after``: units
    for whose start its own waits."""

    id: str
    load: str = "loaded"
    enabled: str = ""
    files: tuple[str, ...] = ()
    source: str = ""
    transient: bool = False
    starts: bool = True
    stops: bool = True
    reloads: bool = False
    outdated: bool = False
    triggered_by: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    main: int = 0
    type: str = ""
    kill_mode: str = ""
    begin: float | None = None
    end: float | None = None
    bus: str = ""
    remains: bool = False
    result: str = ""
    has_stop: bool = False
    takes: tuple[str, ...] = ()
    listens: tuple[str, ...] = ()
    clustered: bool = False
    conflicts: tuple[str, ...] = ()
    reloads_too: tuple[str, ...] = ()
    reload_result: str = ""
    after: tuple[str, ...] = ()

    @property
    def is_job(self) -> bool:
        """Whether it runs to its end, and is never active: a start of it does its work once more."""
        return self.type == "oneshot" and not self.remains

    @property
    def acts_on_host(self) -> bool:
        """Whether it is a pair of commands, of which one sets something up on the host and the other takes it down."""
        return self.type == "oneshot" and self.remains and self.has_stop

    @property
    def is_of_a_connection(self) -> bool:
        """Whether a socket has started it for one connection, with which it ends."""
        is_login = self.id.startswith(_OF_LOGINS) and self.enabled in ("static", "")
        return is_login or bool(re.fullmatch(_CONNECTION, self.id))

    @property
    def is_of_snapd(self) -> bool:
        """Whether snapd has written it, and takes it away."""
        return self.id.startswith(_OF_SNAPD)

    @property
    def is_of_the_host(self) -> bool:
        """Whether the host runs it by itself: it is no login, made for a moment, or started by another on demand."""
        if self.transient or self.is_of_a_connection:
            return False
        if self.id.endswith(MOUNTING):
            written = any(path.startswith("/etc/") and path.endswith(f"/{self.id}") for path in self.files)
            return written and self.enabled != "generated" and not self.is_of_snapd
        if self.id.startswith(_PASSING) or not self.id.endswith(_KINDS):
            return False
        if self.enabled == "generated" and not self._is_of_a_file:
            return False
        return self.enabled not in ("static", "") or (self.starts and self.type != "oneshot" and not self.bus)

    @property
    def _is_of_a_file(self) -> bool:
        """Whether a generator has made it of a file of the administrator's, as Quadlet does. A unit that is made of a
        table of disks sets up disks."""
        return self.source.startswith("/etc/") and not re.fullmatch(_TABLES, self.source)

    @property
    def is_service(self) -> bool:
        """Whether the unit runs programs, which have read their files as they started."""
        return not self.id.endswith(OTHERS)

    def patience(self, verb: str, endless: float = 0.0) -> float:
        """Seconds to wait for the verb: the limit of the unit, and a margin. ``endless``: for a stop without a limit,
        which may never end; a whole rollback would wait for it."""
        begin = CAP if self.begin is None else self.begin
        end = endless if self.end is None else _STOPS * self.end
        return _MARGIN + {
            "reload": begin,
            "stop": end,
            "start": begin + end,  # The unit may still be stopping.
            "restart": begin + end,
        }.get(verb, 90.0)

    def waited(self, verb: str, endless: float = 0.0) -> str:
        """The time limit in words, for a message."""
        limits = {"reload": [self.begin], "stop": [self.end]}.get(verb, [self.begin, self.end])
        own = "the unit sets no limit of its own" if None in limits else "longer than the unit's own limit"
        return f"it is not done after {self.patience(verb, endless):g} s, {own}"


def read(block: Mapping[str, Sequence[str]]) -> Unit:
    """The unit of a block that ``systemctl show`` has printed, as property -> its values."""

    def first(key: str) -> str:
        return (block.get(key) or [""])[0]

    return Unit(
        id=first("Id"),
        load=first("LoadState"),
        enabled=first("UnitFileState"),
        files=tuple(dict.fromkeys([*_own_files(block), *_programs(block.get("ExecStart", ()))])),
        source=first("SourcePath"),
        transient=first("Transient") == "yes",
        starts=first("RefuseManualStart") != "yes",
        stops=first("RefuseManualStop") != "yes" and first("CanStop") != "no",
        reloads=first("CanReload") == "yes",
        outdated=first("NeedDaemonReload") == "yes",
        triggered_by=tuple(first("TriggeredBy").split()),
        triggers=tuple(first("Triggers").split()),
        main=int(first("MainPID") or 0),
        type=first("Type"),
        kill_mode=first("KillMode"),
        begin=span(first("TimeoutStartUSec")),
        end=span(first("TimeoutStopUSec")),
        bus=first("BusName"),
        remains=first("RemainAfterExit") == "yes",
        result=first("Result"),
        has_stop=bool(first("ExecStop")),
        takes=tuple(" ".join(map(first, DEPENDENTS.split(","))).split()),
        listens=tuple(block.get("Listen", ())),
        conflicts=tuple(
            one for one in f"{first('Conflicts')} {first('ConflictedBy')}".split() if not one.endswith(".target")
        ),
        reloads_too=tuple(first("PropagatesReloadTo").split()),
        reload_result=first("ReloadResult"),
        after=tuple(first("After").split()),
    )


def span(text: str) -> float | None:
    """Seconds of a time span as systemd prints it, ``1min 30s``; None for no limit."""
    found = re.findall(_SPAN, text)
    total = sum(float(number) * _UNITS.get(unit, 31557600) for number, unit in found)
    return total or None


def _own_files(block: Mapping[str, Sequence[str]]) -> list[str]:
    found = [path for key in ("FragmentPath", "SourcePath") for path in block.get(key, ()) if path]
    found += [path for line in block.get("DropInPaths", ()) for path in line.split()]
    return found + [line.partition(" (ignore_errors=")[0] for line in block.get("EnvironmentFiles", ()) if line]


def _programs(lines: Sequence[str]) -> list[str]:
    """The programs of the ExecStart lines; for an interpreter its script as well, which is not mapped."""
    found = []
    for line in lines:
        path = re.search(r"path=(.*?) ; argv\[\]=(.*?) ; ", line, re.DOTALL)
        if path is not None:
            program, words = path.group(1), re.split("[ \n]", path.group(2))[1:_WORDS]
            found.append(program)
            while re.fullmatch(_INTERPRETER, program.rpartition("/")[2]):
                at = next((at for at, word in enumerate(words) if re.fullmatch(_SCRIPT, word)), len(words))
                if not words[at:] or any(re.fullmatch(_NO_SCRIPT, word) for word in words[:at]):
                    break
                program, words = words[at], words[at + 1 :]
                found.append(program)
    return found
