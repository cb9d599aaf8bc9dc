# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A runtime API on a real socket. It speaks the answers that HAProxy 2.6.12 of Debian 12 gave, with the states here."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

STATES = (
    "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight"
    " srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state"
    " bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr"
    " srv_agent_addr srv_agent_port\n"
)
STATE = "3 {backend} 1 {name} 127.0.0.1 2 {bits} 1 1 1 6 3 1 6 0 0 0 - 18081 - 0 0 - - 0\n"
STATS = (
    "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight,act,"
    "bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,throttle,lbtot,tracked,type,rate,rate_lim,rate_max,"
    "check_status,check_code,check_duration,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,hanafail,req_rate,"
    "req_rate_max,req_tot,cli_abrt,srv_abrt,comp_in,comp_out,comp_byp,comp_rsp,lastsess,last_chk,last_agt,\n"
)
STAT = (
    "{backend},{name},{queued},0,{sessions},1,,{begun},85,6586449,,0,,{errors},0,0,0,{status},{weight},{act},{bck},0,0,1,0,,1,3,"
    "2,,1,{tracked},2,1,,1,{check},,0,0,{answers},0,0,0,0,,,,1,1,0,,,,,1,{last},,\n"
)
INFO = "Name: HAProxy\nVersion: 2.6.12-1+deb12u4\nNbthread: 2\nNbproc: {processes}\nProcess_num: 1\nPid: {pid}\n"
FORCED_MAINTENANCE, INHERITED_MAINTENANCE, BY_CONFIGURATION, FORCED_DRAIN, INHERITED_DRAIN = 1, 2, 4, 8, 16


@dataclass
class Server:
    """health: the word of its check, or ``no check``."""

    name: str
    backend: str = "web"
    bits: int = 0
    health: str = "UP"
    weight: int = 1
    sessions: int = 0
    queued: int = 0
    begun: int = 7
    answers: int = 5
    errors: int = 0
    tracked: str = ""
    backup: bool = False

    @property
    def status(self) -> str:
        if self.bits & (FORCED_MAINTENANCE | INHERITED_MAINTENANCE | 32):
            return "MAINT"
        if self.health.startswith("DOWN"):
            return self.health
        return "DRAIN" if self.bits & (FORCED_DRAIN | INHERITED_DRAIN) else self.health

    def words(self) -> dict[str, object]:
        down = self.health.startswith("DOWN")
        return {
            **vars(self),
            "status": self.status,
            "act": int(not self.backup),
            "bck": int(self.backup),
            "check": "L4CON" if down else "L4OK",
            "last": "Connection refused" if down else "Layer4 check passed",
        }


@dataclass
class Haproxy:
    """``asked``: the lines that came. ``says``: its answer to a drain. ``on_look``: is called before each answer to
    ``show stat``."""

    path: Path
    servers: list[Server]
    asked: list[str] = field(default_factory=list)
    processes: int = 1
    pid: int = 0
    is_admin: bool = True
    deaf: bool = False
    says: str = ""
    on_look: Callable[[int], None] = lambda _number: None
    looks: int = 0

    def server(self, name: str) -> Server:
        return next(one for one in self.servers if one.name == name)

    @property
    def told(self) -> list[str]:
        return [line for line in self.asked if line.startswith("set ")]

    def answer(self, line: str) -> str:
        self.asked.append(line)
        words = line.split()
        if words[:3] == ["show", "servers", "state"]:
            here = [one for one in self.servers if one.backend == words[3]]
            rows = "".join(STATE.format(**one.words()) for one in here)
            return f"{STATES}{rows}\n" if here else "Can't find backend.\n"
        if words[:2] == ["show", "stat"]:
            self.looks += 1
            self.on_look(self.looks)
            return f"{STATS}{''.join(STAT.format(**one.words()) for one in self.servers)}\n"
        if words[:2] == ["show", "info"]:
            return INFO.format(processes=self.processes, pid=self.pid)
        if words[:2] == ["set", "server"] and words[3] == "state":
            return self._set(words[2], words[4])
        return "Unknown command, but maybe one of the following ones is a better match:\n"

    def _set(self, name: str, state: str) -> str:
        if not self.is_admin:
            return "Permission denied\n"
        found = next((one for one in self.servers if f"{one.backend}/{one.name}" == name), None)
        if found is None:
            return "No such server.\n"
        if not self.deaf:
            found.bits &= ~(FORCED_DRAIN | FORCED_MAINTENANCE)
            found.bits |= {"drain": FORCED_DRAIN, "maint": FORCED_MAINTENANCE, "ready": 0}[state]
            for follower in self.servers:
                if follower.tracked == name:
                    follower.bits = follower.bits & ~INHERITED_DRAIN | (INHERITED_DRAIN if state == "drain" else 0)
        return f"{self.says}\n" if self.says and state == "drain" else ""


@contextmanager
def haproxy(path: Path, *servers: Server) -> Iterator[Haproxy]:
    """An HAProxy that listens at the path."""
    fake = Haproxy(path, list(servers))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile.readline().decode().rstrip("\n").split(";"):
                self.wfile.write(f"{fake.answer(line)}\n".encode())

    class Listening(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Whoever asked may have gone before the end of the answer."""

    with Listening(str(path), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield fake
        listening.shutdown()
        thread.join()
