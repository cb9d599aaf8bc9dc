# SPDX-License-Identifier: GPL-3.0-or-later

"""HAProxy by its runtime API: its word on the servers of its backends, and the state that a server is told to have."""

from __future__ import annotations

import csv
import os
import re
import socket
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from .._dataclasses import dataclass, field
from .._errors import Refused, ServiceFailed, UsageError
from .._host.options import Options
from .._host.processes import read_stat
from .._host.system import System
from .._host.trust import stranger, trusted

OPTIONS: Options = {
    "backend": {"type": "str", "required": True},
    "server": {"type": "str", "required": True},
    "socket": {"type": "str", "default": "/run/haproxy/admin.sock"},
}
# The characters that HAProxy itself takes in names. None of them ends a command or begins another.
_NAME = r"[A-Za-z0-9_.:-]{1,200}"
# The path of a socket has at most 107 bytes.
_SOCKET = r"/[!-~]{1,106}"
# The admin bits that are states. Others tell where a state came from (0x04 stays set on a server that the configuration
# disabled, after it was made ready), or that its name was changed (0x40).
_FORCED_MAINTENANCE, _FORCED_DRAIN = 0x01, 0x08
_INHERITED_MAINTENANCE, _INHERITED_DRAIN, _UNRESOLVED = 0x02, 0x10, 0x20
# Seconds for an answer, and for a socket that a reload replaces just now.
_PATIENCE, _RELOAD = 10.0, 2.0
# A line of a server has some 700 bytes.
_LONGEST = 32 << 20
_INFO = {key: re.compile(rf"^{key}: (\d{{1,9}})\r?$", re.MULTILINE) for key in ("Nbproc", "Pid")}
_ANSWERED = ("hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx")
_FAILED = ("econ", "eresp", "hrsp_5xx")


class Server(NamedTuple):
    """A server of a backend in the words of HAProxy.

    ``sessions``: those that it has, and those that wait for it. ``begun``: all that it ever had. ``answers``: responses
    of HTTP below 500, or sessions where the backend has no HTTP. ``errors``: failed connections and responses.
    ``tracked``: the server whose check and state it follows, as ``backend/server``; empty for none. ``backup``: whether
    it gets requests only where no other server of its backend is up.
    """

    backend: str
    server: str
    status: str
    detail: str
    sessions: int
    begun: int
    answers: int
    errors: int
    weight: int
    tracked: str
    backup: bool

    @property
    def name(self) -> str:
        return f"{self.backend}/{self.server}"

    @property
    def is_checked(self) -> bool:
        """Whether HAProxy has a check of it."""
        return self.status != "no check"

    @property
    def is_up(self) -> bool:
        """Whether HAProxy gives it requests, so far as its state goes."""
        return not self.is_checked or self.status.split(" ")[0] == "UP"

    @property
    def serves(self) -> bool:
        """Whether new requests may come to it."""
        return self.is_up and self.weight > 0

    @property
    def words(self) -> str:
        """The state of the server for a message."""
        return f"{self.name} is {self.status}{f' ({self.detail})' if self.detail else ''}"


@dataclass(frozen=True)
class View:
    """A server, and all that follows from its state, at one moment.

    ``followers``: the servers that track it, in other backends: they drain with it. ``others``: the servers that stay,
    for each of these backends.
    """

    bits: int
    server: Server
    followers: list[Server] = field(default_factory=list)
    others: Mapping[str, list[Server]] = field(default_factory=dict)

    @property
    def is_drained(self) -> bool:
        """Whether it was told to drain, by whomever."""
        return bool(self.bits & _FORCED_DRAIN) and not self.is_in_maintenance

    @property
    def is_in_maintenance(self) -> bool:
        return bool(self.bits & (_FORCED_MAINTENANCE | _INHERITED_MAINTENANCE | _UNRESOLVED))

    @property
    def is_forced(self) -> bool:
        """Whether it was told to be in maintenance."""
        return bool(self.bits & _FORCED_MAINTENANCE)

    @property
    def is_free(self) -> bool:
        """Whether nothing keeps requests from it but its check."""
        return not self.is_in_maintenance and not self.bits & (_FORCED_DRAIN | _INHERITED_DRAIN)

    @property
    def all(self) -> list[Server]:
        return [self.server, *self.followers]

    @property
    def sessions(self) -> int:
        return sum(one.sessions for one in self.all)

    @property
    def begun(self) -> int:
        return sum(one.begun for one in self.all)

    @property
    def carried(self) -> set[str]:
        """The backends in which new requests may come to it, or would without its drain."""
        drained = [one for one in self.all if self.is_drained and one.status.startswith("DRAIN") and one.weight > 0]
        return {one.backend for one in [*self.all, *drained] if one.serves or one in drained}

    def staying(self, backend: str) -> list[Server]:
        """The other servers that the backend goes on with. A backup takes the place of another backup, and of the only
        server beside backups. Where several servers share the load, a backup may only say that all are away."""
        others = self.others.get(backend, ())
        shares = any(not one.backup for one in others) and not all(
            one.backup for one in self.all if one.backend == backend
        )
        return [one for one in others if one.serves and not (shares and one.backup)]

    def alone(self, backends: Iterable[str]) -> list[str]:
        """The backends, out of these, that have no other server for new requests."""
        return sorted(one for one in backends if not self.staying(one))


@dataclass(frozen=True)
class Address:
    """A server, and the socket of its HAProxy."""

    backend: str
    server: str
    socket: str

    @property
    def name(self) -> str:
        return f"{self.backend}/{self.server}"


def check(declared: Mapping[str, object]) -> Address:
    """The declared server. UsageError for a name that would be more than a name in a command."""
    for key in ("backend", "server"):
        if not re.fullmatch(_NAME, str(declared[key])):
            raise UsageError(
                f"{key} {declared[key]!r} is no name of HAProxy: letters, digits and _ . : - alone; nothing was touched"
            )
    path = str(declared["socket"])
    if not re.fullmatch(_SOCKET, path):
        raise UsageError(f"socket {path!r} is no absolute path of at most 107 characters; nothing was touched")
    return Address(str(declared["backend"]), str(declared["server"]), path)


class Runtime:
    """The runtime API of one HAProxy. Each command has a connection of its own, as the API ends after each."""

    def __init__(self, address: Address, system: System) -> None:
        self.address = address
        self._system = system

    def read_server(self) -> View:
        """The server as it is now. UsageError for a backend or a server that HAProxy does not have.

        The bits come last: a reload between the two answers forgets a drain, and that has to be seen.
        """
        address = self.address
        stat = self.ask("show stat -1 4 -1")
        bits = parse_bits(self.ask(f"show servers state {address.backend}"), address)
        return view(bits, parse_servers(stat), address)

    def tell(self, state: str) -> None:
        """Tell the server its state: ``drain`` or ``ready``."""
        said = self.ask(f"set server {self.address.name} state {state}").strip()
        if said:
            raise ServiceFailed(f"HAProxy did not take {state} of {self.address.name}: {_short(said)}")

    def process(self) -> int:
        """The process id of HAProxy. Refused where the socket speaks for one of several processes of it."""
        info = self.ask("show info")
        count, pid = (int(found[1]) if (found := _INFO[key].search(info)) else 0 for key in ("Nbproc", "Pid"))
        if count > 1:
            raise Refused(
                f"HAProxy has {count} processes, and {self.address.socket} speaks for one of them: the others would go"
                " on. Use threads (nbthread) instead of nbproc; nothing was touched"
            )
        return pid

    def ask(self, command: str) -> str:
        """The answer to a command. Refused where HAProxy, or its socket, does not take it from us."""
        end = self._system.monotonic() + _RELOAD
        while True:
            try:
                answer = self._exchange(command)
                break
            except (ConnectionRefusedError, ConnectionResetError, FileNotFoundError) as error:
                if self._system.monotonic() >= end:
                    raise self._silent(error) from error
                self._system.sleep(0.1)
            except OSError as error:
                raise self._silent(error) from error
        if answer.strip() == "Permission denied":
            raise Refused(
                f"HAProxy does not take {command.split()[0]!r} on {self.address.socket}: give that socket level admin"
                " in the section global of its configuration; nothing was touched"
            )
        return answer

    def _silent(self, error: OSError) -> ServiceFailed:
        why = error.strerror or str(error)
        return ServiceFailed(
            f"HAProxy does not answer at {self.address.socket}: {why}. See that it runs, and name its socket (stats"
            " socket … level admin) in haproxy.socket"
        )

    def _exchange(self, command: str) -> str:
        path = self.address.socket
        owners = _owners(path)
        end = self._system.monotonic() + _PATIENCE
        answer = bytearray()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_PATIENCE)
            connection.connect(path)
            # The user that listens, so that a socket that was put there since we looked is not taken for HAProxy's.
            _pid, user, _group = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if user not in owners:
                raise Refused(f"uid {user} listens at {path}, not root; nothing was touched")
            connection.sendall(f"{command}\n".encode("ascii"))
            while True:
                connection.settimeout(max(0.01, end - self._system.monotonic()))
                part = connection.recv(1 << 16)
                if not part:
                    return answer.decode("utf-8", "replace")
                answer += part
                if len(answer) > _LONGEST:
                    raise ServiceFailed(f"the answer at {path} has no end: it is not that of HAProxy")


def _owners(path: str) -> set[int]:
    """The users who may listen at the path. Refused where a user other than root could have put a socket there.

    A socket of root's counts in any directory: HAProxy makes it before it becomes another user, in a directory of that
    user (Debian). Any other counts where only root can put it.
    """
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode):
        raise Refused(f"{path} is no socket; nothing was touched")
    if found.st_uid in trusted():
        return trusted()
    why = stranger(path, trusted())
    if why:
        raise Refused(
            f"{path} belongs to uid {found.st_uid}, and {why}: anybody there could answer for HAProxy. Make the socket"
            " root's; nothing was touched"
        )
    return {*trusted(), found.st_uid}


def leavers(pid: int) -> list[int]:
    """The processes of this HAProxy that a reload has replaced, and that still end their sessions.

    No answer of the runtime API names these processes. ``pid``: the process that answers; it may be one of a container,
    which has other process ids than we see.
    """
    own = read_stat(pid)
    master = read_stat(own.parent) if own else None
    if own is None or master is None or not own.name.startswith("haproxy") or not master.name.startswith("haproxy"):
        return []
    found = (read_stat(name) for name in os.listdir("/proc") if name.isdigit() and name != str(pid))
    return sorted(
        one.pid for one in found if one and (one.name, one.parent) == (own.name, own.parent) and not one.has_ended
    )


# -- the words of HAProxy


def parse_bits(text: str, address: Address) -> int:
    """The admin bits of the server in ``show servers state BACKEND``. UsageError where it has no such server."""
    lines = text.splitlines()
    if not lines or not lines[0].strip().isdigit():
        raise UsageError(f"HAProxy has no backend {address.backend}: {_short(text)}; nothing was touched")
    names, known = lines[1].lstrip("# ").split() if len(lines) > 1 else [], []
    for line in lines[2:]:
        row = dict(zip(names, line.split()))
        if row.get("be_name") == address.backend and row.get("srv_name"):
            known.append(row["srv_name"])
            if row["srv_name"] == address.server:
                return _number(row, "srv_admin_state")
    raise UsageError(
        f"backend {address.backend} of HAProxy has no server {address.server}; it has"
        f" {_short(', '.join(known)) or 'none'}; nothing was touched"
    )


def parse_servers(text: str) -> list[Server]:
    """The servers in ``show stat``. ServiceFailed for anything else."""
    lines = text.lstrip("# ").splitlines()
    try:
        rows = list(csv.DictReader((line for line in lines if line), restval=""))
    except csv.Error as error:
        raise ServiceFailed(f"show stat of HAProxy cannot be read: {error}") from error
    if not lines or not {"pxname", "svname"} <= set(lines[0].split(",")):
        raise ServiceFailed(f"show stat of HAProxy cannot be read: {_short(text)}")
    return [_server(row) for row in rows if row["svname"] not in ("FRONTEND", "BACKEND")]


def _server(row: Mapping[str, str]) -> Server:
    status, is_http = row.get("status"), bool(row.get("hrsp_2xx"))
    if not status:
        raise ServiceFailed(f"show stat of HAProxy gives no status for {_short(row['svname'])}")
    shown = [_short(row.get(key) or "") for key in ("check_status", "last_chk")] if status[:4] == "DOWN" else []
    return Server(
        row["pxname"],
        row["svname"],
        _short(status),
        " ".join(filter(None, shown)),
        _number(row, "scur") + _number(row, "qcur"),
        _number(row, "stot"),
        sum(_number(row, key) for key in _ANSWERED) if is_http else _number(row, "stot"),
        sum(_number(row, key) for key in _FAILED),
        _number(row, "weight"),
        row.get("tracked") or "",
        _number(row, "bck") > 0,
    )


def _number(row: Mapping[str, str], key: str) -> int:
    text = row.get(key) or "0"
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise ServiceFailed(f"HAProxy gives {_short(text)!r} for {key}, no number")
    return int(text)


def view(bits: int, servers: list[Server], address: Address) -> View:
    """The server among all servers of HAProxy."""
    followers = list(_following(address.name, servers))
    concerned = {address.name, *(one.name for one in followers)}
    backends = [address.backend, *(one.backend for one in followers)]
    own = next((one for one in servers if one.name == address.name), None)
    if own is None:
        raise ServiceFailed(f"show stat of HAProxy does not name {address.name}; look again")
    others = {
        backend: [one for one in servers if one.backend == backend and one.name not in concerned]
        for backend in backends
    }
    return View(bits, own, followers, others)


def _following(name: str, servers: list[Server], known: frozenset[str] = frozenset()) -> Iterator[Server]:
    """The servers that track the server ``name``, directly or by way of other servers."""
    for one in servers:
        if one.tracked == name and one.name not in known:
            yield one
            yield from _following(one.name, servers, known | {name, one.name})


def _short(text: str) -> str:
    return " ".join(text.split())[:300]
