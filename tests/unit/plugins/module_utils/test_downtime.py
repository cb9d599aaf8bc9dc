# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The downtime is what a client would have seen, and nothing is told that was not measured."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.downtime import Downtime
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.probes import check
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.reaching import connect, reach


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def listen(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=1000)


def tcp(port: int, **more: Any) -> dict[str, Any]:
    return {"tcp": {"port": port, **more}}


def test_the_time_between_two_good_connections_is_the_downtime(port: int) -> None:
    server = listen(port)
    with Downtime(check([{"command": {"argv": ["true"]}}, tcp(port)])) as downtime:
        downtime.acting()
        time.sleep(0.05)
        for _time in range(2):
            server.close()
            time.sleep(0.15)
            server = listen(port)
            time.sleep(0.1)
        downtime.acted()
        time.sleep(0.1)
    server.close()
    assert downtime.name == f"tcp 127.0.0.1:{port}"
    assert downtime.seconds is not None and 0.3 <= downtime.seconds < 0.4
    assert downtime.words.startswith(f"tcp 127.0.0.1:{port} did not answer for 0.3")


def test_what_answers_all_the_time_has_no_downtime_and_the_measurement_ends(port: int) -> None:
    with listen(port), Downtime(check([{"http": {"url": f"http://127.0.0.1:{port}/"}}])) as downtime:
        downtime.acting()
        downtime.acted()
        thread = downtime._thread
        assert thread is not None
        thread.join(3.0)
        assert not thread.is_alive(), "a healthy service is not connected to for the whole soak"
    assert downtime.seconds == 0 and "answered all the time" in downtime.words


def waiting(server: socket.socket) -> int:
    """The number of connections that nobody has accepted yet."""
    server.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            count += 1
    return count


def test_a_port_that_answers_again_is_connected_to_less_often(port: int) -> None:
    """A database may count connections that send nothing."""
    server = listen(port)
    with Downtime(check([tcp(port)])) as downtime:
        downtime.acting()
        server.close()
        time.sleep(0.1)
        with listen(port) as anew:
            downtime.acted()
            assert downtime._thread is not None
            downtime._thread.join(5.0)
            assert 5 < waiting(anew) < 25, "one each 50 ms, for a second"
    assert downtime.words.endswith("as seen every 5 ms")


def test_what_was_seen_at_the_slower_pace_is_told_so(port: int) -> None:
    with listen(port), Downtime(check([tcp(port)]), 0.05) as downtime:
        downtime.acting()
        time.sleep(0.3)
    assert downtime.words.endswith("answered all the time, as seen every 50 ms")


def test_no_connection_is_made_from_the_port_itself(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would succeed without a listener: a port of the range that the kernel gives out."""
    bind, ports = socket.socket.bind, iter([port, 0] * 2)

    class Given(socket.socket):
        def bind(self, address: Any) -> None:
            bind(self, (address[0], next(ports)))

    monkeypatch.setattr(socket, "socket", Given)
    with pytest.raises(ConnectionRefusedError):
        connect(socket.AF_INET, ("127.0.0.1", port), 1.0)
    with pytest.raises(ConnectionRefusedError):
        reach("127.0.0.1", port, 1.0)
    assert next(ports, None) is None


def test_what_does_not_come_back_is_down_until_the_end(port: int) -> None:
    server = listen(port)
    with Downtime(check([tcp(port)])) as downtime:
        downtime.acting()
        server.close()
        downtime.acted()
        time.sleep(0.2)
    assert downtime.seconds is not None and 0.2 <= downtime.seconds < 0.3


def test_a_second_act_counts_the_time_between(port: int) -> None:
    server = listen(port)
    with Downtime(check([tcp(port)])) as downtime:
        downtime.acting()
        server.close()
        time.sleep(0.1)
        downtime.acting()
        time.sleep(0.1)
        with listen(port):
            time.sleep(0.05)
    assert downtime.seconds is not None and 0.2 <= downtime.seconds < 0.3


@pytest.mark.parametrize(
    "probes",
    [
        [],
        [{"command": {"argv": ["true"]}}],
        [{"tcp": {"port": 1, "from": "controller"}}],
        [{"tcp": {"port": 1, "host": "192.0.2.1"}}],
        [{"http": {"url": "http://does-not-exist.invalid/"}}],
        [{"tcp": {"port": 1}}],  # it does not answer before
    ],
)
def test_what_cannot_be_measured_is_not_told(probes: list[Any]) -> None:
    with Downtime(check(probes)) as downtime:
        downtime.acting()
        downtime.acted()
    assert downtime.seconds is None and downtime.words == ""
