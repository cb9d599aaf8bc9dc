# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sockets whose addresses a generator writes: they listen where the files say, once these are back."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import ServiceFailed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.step import Step
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Restore
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.services import Services
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import sockets
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Objects

from .fake_systemd import Machine, Unit, machine

SSH, SOCKET = "ssh.service", "ssh.socket"


@pytest.fixture
def addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sockets, "GENERATED", str(tmp_path / "generator"))
    found = tmp_path / "generator" / "ssh.socket.d" / "addresses.conf"
    found.parent.mkdir(parents=True)
    found.write_text("ListenStream=2222\n")
    return found


def host(
    addresses: Path, listen: str = "/run/ssh (Stream)", active: str = "active", fails: tuple[str, ...] = ()
) -> Machine:
    known = {"DropInPaths": str(addresses), "Listen": listen}
    units = Unit(SSH, triggered_by=(SOCKET,)), Unit(SOCKET, active=active, triggers=(SSH,), more=known, fails=fails)
    return machine(*units)


def generating(one: Machine, addresses: Path, text: str) -> System:
    def run(argv: Sequence[str], timeout: float) -> Completed:
        if argv[1] == "daemon-reload" and text:
            addresses.write_text(text)
        elif argv[1] == "daemon-reload":
            addresses.unlink()
            one.units[SOCKET].more["DropInPaths"] = ""
        return one.run(argv, timeout)

    return replace(one.system(), run=run)


@pytest.mark.parametrize("text", ["ListenStream=22\n", ""], ids=["written", "gone"])
@pytest.mark.parametrize("name", [SSH, SOCKET])
def test_a_socket_for_which_a_generator_writes_other_files_listens_there(addresses: Path, text: str, name: str) -> None:
    one = host(addresses)
    words = sockets.daemon_reload([name], generating(one, addresses, text))
    assert words == ["ssh.socket was started anew, since a generator wrote other files for it"]
    # The service runs by the socket: it stops and starts with it.
    assert one.acts()[-3:] == [
        f"systemctl {act}" for act in (f"stop -- {SSH}", f"restart -- {SOCKET}", f"start -- {SSH}")
    ]


def test_a_socket_that_listens_where_it_should_goes_on(addresses: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = host(addresses, f"127.0.0.1:{server.getsockname()[1]} (Stream)")
        assert sockets.daemon_reload([SSH], generating(one, addresses, "ListenStream=2222\n")) == []
    assert one.acts() == ["systemctl daemon-reload"]


def test_a_port_on_which_nobody_listens_is_opened_whoever_read_the_units_before(addresses: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    one = host(addresses, f"[::]:{port} (Stream)")
    at = Restore(one.system(), Objects("/nowhere"), ["/etc/ssh/sshd_config"])
    (done,) = Services().apply([Step("services", "daemon-reload", "systemd", "x", {"units": [SSH]})], at)
    assert done.why == "x; ssh.socket was started anew, since nobody listened on a port of it"
    assert sockets.daemon_reload([SSH], host(addresses, f"vsock::{port} (Stream)").system()) == []


def test_the_name_of_a_socket_may_become_an_alias(addresses: Path) -> None:
    one = host(addresses)

    def run(argv: Sequence[str], timeout: float) -> Completed:
        if argv[1] == "daemon-reload":
            one.units["sshd.socket"] = replace(one.units.pop(SOCKET), name="sshd.socket", aliases=(SOCKET,))
        return one.run(argv, timeout)

    assert sockets.daemon_reload([SOCKET], replace(one.system(), run=run)) == []


def test_a_socket_that_is_down_stays_down_and_one_that_does_not_start_is_named(addresses: Path) -> None:
    down = host(addresses, active="inactive")
    assert sockets.daemon_reload([SSH], generating(down, addresses, "ListenStream=22\n")) == []
    with pytest.raises(ServiceFailed, match="ssh.socket, since a generator wrote other files for it: .*failed"):
        sockets.daemon_reload([SSH], generating(host(addresses, fails=("restart",)), addresses, ""))
