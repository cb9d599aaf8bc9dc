# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services on a real host: restarted with proof, and put back by a rollback."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from lab import Lab, unavailable

from .conftest import Fleet

HOST = "web1"
UNIT = "[Service]\nExecStart={command}\nTimeoutStopSec=5s\n{more}[Install]\nWantedBy=multi-user.target\n"
# Units of these tests; every test begins without them.
NAMES = ("ek-a", "ek-b", "ek-new", "ek-loop", "ek-plain", "ek-stop")


@pytest.fixture
def host(fleet: Fleet) -> Iterator[Fleet]:
    clear(fleet)
    yield fleet
    clear(fleet)


def clear(fleet: Fleet) -> None:
    units = " ".join(f"{name}.service" for name in NAMES)
    files = " ".join(f"/etc/systemd/system/{name}.service /etc/systemd/system/*.wants/{name}.service" for name in NAMES)
    files += " /etc/systemd/system/ek-a.socket"
    fleet.on(
        HOST,
        f"systemctl stop ek-a.socket; systemctl kill --signal=KILL {units}; systemctl stop {units};"
        f" rm -rf {files} /etc/systemd/system*/ek-*.d;"
        " rm -f /etc/nginx/conf.d/probe.conf; systemctl daemon-reload;"
        f" systemctl unmask --runtime --quiet nginx; systemctl reset-failed {units}; true",
    )


def install(fleet: Fleet, name: str, command: str, more: str = "", then: str = "") -> None:
    text = UNIT.format(command=command, more=more)
    script = f"cat > /etc/systemd/system/{name}.service <<'END'\n{text}END\nsystemctl daemon-reload"
    fleet.on(HOST, script + (f"\nsystemctl {then} --quiet {name}" if then else ""))


def module(fleet: Fleet, which: str, /, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """The result of a module on the host."""
    return fleet.module(HOST, which, check, **arguments)


def unit(fleet: Fleet, name: str, what: str) -> str:
    return fleet.on(HOST, f"systemctl show {name} --property={what} --value").strip()


# -- ft_restart


def test_a_cold_restart_is_proved_by_the_identity(host: Fleet) -> None:
    was = unit(host, "nginx", "InvocationID")
    foreseen = module(host, "ft_restart", check=True, name="nginx")
    assert foreseen["changed"] and unit(host, "nginx", "InvocationID") == was
    result = module(host, "ft_restart", name="nginx", probes=[{"http": {"url": "http://localhost/"}}], soak="1s")
    assert result["changed"] and result["planned"] == foreseen["planned"] == result["done"]
    assert result["before"]["identity"] == was
    assert result["after"]["identity"] == unit(host, "nginx", "InvocationID") != was
    assert result["health"]["state"] == "pass" and result["health"]["soaked"] >= 1


def request(connection: socket.socket, rest: bytes) -> bytes:
    """Send the rest of a request; all of the answer, or what a broken connection left of it."""
    answer = b""
    try:
        connection.sendall(rest)
        while True:
            part = connection.recv(65536)
            if not part:
                return answer
            answer += part
    except ConnectionError:
        return answer


def fresh(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=10) as connection:
        return request(connection, b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")


@pytest.mark.parametrize("mode", ["warm", pytest.param("cold", marks=pytest.mark.long)])
def test_a_connection_open_across_a_warm_restart_survives_and_a_cold_one_ends_it(host: Fleet, mode: str) -> None:
    host.on(HOST, "echo 'add_header X-Probe old;' > /etc/nginx/conf.d/probe.conf; systemctl restart nginx")
    identity, workers = unit(host, "nginx", "InvocationID"), host.on(HOST, "pgrep -f 'nginx: worker' | sort")
    address = (host.lab.host(HOST).address, 80)
    with socket.create_connection(address, timeout=10) as opened:
        opened.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        time.sleep(0.5)  # nginx has begun to read the request
        host.on(HOST, "echo 'add_header X-Probe new;' > /etc/nginx/conf.d/probe.conf")
        probes = [{"tcp": {"port": 80}}]
        result = module(host, "ft_restart", name="nginx", mode=mode, probes=probes)
        answer = request(opened, b"Connection: close\r\n\r\n")
    assert result["changed"] and not result["failed"]
    # nginx tells its workers to reload and does not wait: for a moment an old one may still accept.
    assert host.eventually(lambda: b"X-Probe: new" in fresh(address), 5)
    if mode == "warm":
        assert b"200 OK" in answer and b"version 1" in answer and b"X-Probe: old" in answer
        assert result["before"]["identity"] == result["after"]["identity"] == identity
        assert host.eventually(lambda: host.on(HOST, "pgrep -f 'nginx: worker' | sort") != workers, 5)
    else:
        assert b"200 OK" not in answer


def test_a_unit_that_cannot_reload_is_not_restarted_warm(host: Fleet) -> None:
    install(host, "ek-plain", "/bin/sleep 1000", then="start")
    was = unit(host, "ek-plain", "InvocationID")
    result = module(host, "ft_restart", name="ek-plain", mode="warm")
    assert result["failed"] and "ExecReload" in result["msg"] and "cold" in result["msg"]
    assert unit(host, "ek-plain", "InvocationID") == was


def test_a_restart_that_fails_says_what_the_service_said(host: Fleet) -> None:
    host.on(HOST, "echo 'no such directive;' > /etc/nginx/conf.d/probe.conf")
    warm = module(host, "ft_restart", name="nginx", mode="warm")
    assert warm["failed"] and "unknown directive" in warm["msg"]
    assert host.serves(HOST), "a reload that fails leaves nginx serving"
    cold = module(host, "ft_restart", name="nginx")
    assert cold["failed"] and "unknown directive" in cold["msg"] and cold["left"] == ["nginx.service"]
    assert not cold["after"]["active"]


def test_a_crash_loop_is_told_before_the_deadline(host: Fleet) -> None:
    more = "Restart=always\nRestartSec=100ms\n[Unit]\nStartLimitIntervalSec=0\n"
    install(host, "ek-loop", "/bin/sh -c 'sleep 0.6; exit 1'", more)
    began = time.monotonic()
    result = module(host, "ft_restart", name="ek-loop", soak="30s", deadline="60s", interval="200ms")
    assert result["failed"] and "crash loop" in result["msg"]
    assert time.monotonic() - began < 25


def test_a_program_that_ends_right_after_its_start_was_not_started(host: Fleet) -> None:
    install(host, "ek-plain", "/bin/sh -c 'sleep 0.1; echo this is why >&2; exit 1'")
    result = module(host, "ft_restart", name="ek-plain")
    assert result["failed"] and "this is why" in result["msg"]


def test_a_name_that_is_no_unit_is_named_and_nothing_touched(host: Fleet) -> None:
    result = module(host, "ft_restart", name="ngnix")
    assert result["failed"] and "ngnix.service" in result["msg"] and not result["changed"]


def test_a_process_is_restarted_too(host: Fleet) -> None:
    process = {"name": "sleeper", "pidfile": "/run/ek-sleeper.pid", "argv": ["/bin/sleep", "1000"]}
    try:
        first = module(host, "ft_restart", process=process)
        again = module(host, "ft_restart", process=process, soak="1s")
        assert again["before"]["identity"] == first["after"]["identity"] != again["after"]["identity"]
        pid = again["after"]["identity"].partition(":")[0]
        assert host.on(HOST, f"tr '\\0' ' ' < /proc/{pid}/cmdline").strip() == "/bin/sleep 1000"
    finally:
        host.on(HOST, "pkill -f '^/bin/sleep 1000'; rm -f /run/ek-sleeper.pid; true")


# -- ft_restart, and units that are not what they seem


def listener(port: int, before: str = "") -> str:
    """A program that listens, once it has done something else."""
    code = f"import socket, time; {before}s = socket.create_server(('127.0.0.1', {port})); exec('while 1: s.accept()')"
    return f'/usr/bin/python3 -c "{code}"'


def test_a_service_that_dies_two_seconds_after_its_start_is_not_healthy(host: Fleet) -> None:
    install(host, "ek-plain", "/bin/sh -c 'sleep 2; echo out of luck; exit 3'")
    result = module(host, "ft_restart", name="ek-plain", soak="4s", deadline="6s", interval="500ms")
    assert result["failed"] and result["error"] == "Unhealthy" and "out of luck" in result["msg"]
    assert result["left"] == ["ek-plain.service"] and result["proved"] == []


def test_a_service_that_ignores_the_signal_to_stop_is_said_to_be_killed(host: Fleet) -> None:
    command = "/bin/bash -c 'trap \"\" TERM; while :; do sleep 1; done'"
    install(host, "ek-stop", command, "TimeoutStopSec=2\n", then="start")
    time.sleep(0.5)
    result = module(host, "ft_restart", name="ek-stop")
    assert not result["failed"] and result["seconds"] >= 2
    assert "did not stop by itself in its time and was killed" in result["said"], result


@pytest.mark.long
def test_a_slow_stop_is_waited_for_and_an_endless_one_is_no_restart(host: Fleet) -> None:
    install(host, "ek-stop", "/bin/sleep 1000", "ExecStop=/bin/sleep 3\n", then="start")
    pid = unit(host, "ek-stop", "MainPID")
    result = module(host, "ft_restart", name="ek-stop")
    assert not result["failed"] and result["seconds"] >= 3 and "was killed" not in result["said"], result
    assert host.on(HOST, f"test -e /proc/{pid} || echo gone").strip() == "gone"


@pytest.mark.long
def test_what_kill_mode_leaves_alone_was_not_restarted(host: Fleet) -> None:
    install(host, "ek-stop", "/bin/sleep 1000", "KillMode=none\n", then="start")
    pid = unit(host, "ek-stop", "MainPID")
    try:
        result = module(host, "ft_restart", name="ek-stop")
        assert result["failed"] and f"process {pid} from before goes on" in result["msg"]
    finally:
        host.on(HOST, f"kill {pid}")


@pytest.mark.long
def test_a_reload_that_fails_tells_that_the_service_goes_on(host: Fleet) -> None:
    install(host, "ek-a", "/bin/sleep 1000", "ExecReload=/bin/false\n", then="start")
    was = unit(host, "ek-a", "InvocationID")
    result = module(host, "ft_restart", name="ek-a", mode="warm")
    assert result["failed"] and f"still runs, with the identity {was} from before" in result["msg"]
    assert unit(host, "ek-a", "InvocationID") == was


def test_what_is_active_before_it_listens_is_waited_for_and_its_downtime_is_measured(host: Fleet) -> None:
    install(host, "ek-a", listener(7998, "time.sleep(2); "), then="start")
    assert host.eventually(lambda: "7998" in host.on(HOST, "ss -ltn"), 10)
    result = module(host, "ft_restart", name="ek-a", probes=[{"tcp": {"port": 7998}}], deadline="10s", interval="100ms")
    assert not result["failed"], result
    assert 1.9 < result["downtime"] < 5 and result["downtime_of"] == "tcp 127.0.0.1:7998"
    assert result["downtime"] <= result["seconds"]


def test_a_unit_without_reload_hands_its_socket_over_and_no_connection_is_refused(host: Fleet) -> None:
    # It takes half a second to start, and answers each connection with its process id.
    loop = "for c in iter(lambda: s.accept()[0], 0): c.sendall(str(os.getpid()).encode()); c.close()"
    code = f"import os, socket, time; time.sleep(.5); s = socket.socket(fileno=3); exec('{loop}')"
    host.on(HOST, r"printf '[Socket]\nListenStream=7997\n' > /etc/systemd/system/ek-a.socket")
    install(host, "ek-a", f'/usr/bin/python3 -c "{code}"')
    host.on(HOST, "systemctl start ek-a.socket")
    answers: list[bytes] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.02):
            with socket.create_connection((host.lab.host(HOST).address, 7997), timeout=20) as connection:
                answers.append(connection.recv(100))

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        assert host.eventually(lambda: bool(answers), 10)
        result = module(host, "ft_restart", name="ek-a", mode="warm", probes=[{"tcp": {"port": 7997}}])
        before = len(answers)
        assert host.eventually(lambda: len(answers) > before, 10)
        over.set()
        asking.result()  # No connection was refused.
    assert not result["failed"] and result["downtime"] == 0, result
    assert any("ek-a.socket stayed open" in said for said in result["proved"]), result
    assert len({one for one in answers if one}) == 2, "the old process and the new one have answered"


def test_a_host_is_booted_by_the_roll_and_proved(host: Fleet) -> None:
    began = "cut -d ' ' -f 22 /proc/1/stat"  # Another one after a boot, in a container as well.
    before = host.on(HOST, began)
    code, said = host.evenkeel("restart", "--mode", "reboot", "-i", "inventory", "--limit", HOST)
    assert code == 0 and "restarted" in said, said
    assert host.on(HOST, began) != before and host.serves(HOST)


@pytest.mark.long
@pytest.mark.skipif(bool(unavailable()), reason="it needs hosts in containers")
def test_a_soft_reboot_is_one_and_is_proved() -> None:
    with Lab("soft", hosts=1, release="trixie") as lab:  # Its systemd is new enough.
        words = ["restart", "--mode", "soft-reboot", "-i", str(lab.inventory), "--limit", HOST]
        done = subprocess.run(
            [sys.executable, "-m", "evenkeel.cli", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and "restarted" in done.stderr + done.stdout, done.stdout + done.stderr
        count = lab.exec(HOST, ["systemctl", "show", "--property=SoftRebootsCount", "--value"])
        assert count.stdout.strip() == "1"


@pytest.mark.long
def test_a_warm_restart_has_no_downtime(host: Fleet) -> None:
    result = module(host, "ft_restart", name="nginx", mode="warm", probes=[{"tcp": {"port": 80}}])
    assert not result["failed"] and result["downtime"] == 0, result
    assert module(host, "ft_restart", name="nginx")["downtime"] is None


@pytest.mark.long
@pytest.mark.parametrize(
    ("more", "mode", "words"),
    [
        ("[Unit]\nRefuseManualStop=yes\n", "cold", "RefuseManualStop="),
        ("[Unit]\nRefuseManualStart=yes\n", "cold", "RefuseManualStart="),
        ("Type=oneshot\n", "cold", "Type=oneshot"),
    ],
)
def test_what_cannot_be_restarted_is_refused_before_it_is_touched(
    host: Fleet, more: str, mode: str, words: str
) -> None:
    command = "/bin/true" if "oneshot" in more else "/bin/sleep 1000"
    install(host, "ek-a", command, more.replace("[Unit]", "[Unit]"), then="" if "Start" in more else "start")
    was = unit(host, "ek-a", "InvocationID")
    result = module(host, "ft_restart", name="ek-a", mode=mode)
    assert result["failed"] and result["error"] == "UsageError" and words in result["msg"], result
    assert not result["changed"] and unit(host, "ek-a", "InvocationID") == was


@pytest.mark.long
def test_a_oneshot_that_stays_active_is_restarted(host: Fleet) -> None:
    install(host, "ek-a", "/bin/true", "Type=oneshot\nRemainAfterExit=yes\n", then="start")
    result = module(host, "ft_restart", name="ek-a")
    assert not result["failed"] and result["after"]["text"] == "active (exited)"


@pytest.mark.long
def test_a_masked_unit_is_refused(host: Fleet) -> None:
    host.on(HOST, "systemctl mask --runtime --quiet nginx")
    result = module(host, "ft_restart", name="nginx")
    assert result["failed"] and "is masked" in result["msg"] and host.serves(HOST)


@pytest.mark.long
def test_a_unit_that_failed_too_often_starts_again_and_that_is_told(host: Fleet) -> None:
    more = "Restart=always\nRestartSec=50ms\n[Unit]\nStartLimitIntervalSec=60\nStartLimitBurst=2\n"
    install(host, "ek-loop", "/bin/sh -c 'test -e /run/ek-good && exec sleep 1000; exit 1'", more)
    host.on(HOST, "rm -f /run/ek-good; systemctl start ek-loop", check=False)
    assert host.eventually(lambda: unit(host, "ek-loop", "ActiveState") == "failed", 10)
    host.on(HOST, "touch /run/ek-good")
    result = module(host, "ft_restart", name="ek-loop", soak="1s")
    assert not result["failed"] and "count of its failures is reset" in result["said"], result


@pytest.mark.long
def test_a_unit_that_is_just_starting_starts_anew(host: Fleet) -> None:
    install(host, "ek-a", "/bin/sh -c 'sleep 6; systemd-notify --ready; sleep 1000'", "Type=notify\nNotifyAccess=all\n")
    host.on(HOST, "systemctl start --no-block ek-a; sleep 1")
    was = unit(host, "ek-a", "InvocationID")
    assert unit(host, "ek-a", "ActiveState") == "activating" and was
    result = module(host, "ft_restart", name="ek-a")
    assert not result["failed"] and unit(host, "ek-a", "InvocationID") != was
    host.on(HOST, "echo '# newer' >> /etc/systemd/system/ek-a.service")
    assert "run systemctl daemon-reload" in module(host, "ft_restart", True, name="ek-a")["said"]


def test_a_ladder_ends_at_the_first_rung_that_helps(host: Fleet) -> None:
    install(host, "ek-a", listener(7998), "ExecReload=/bin/true\n", then="start")
    ladder, probes = ["warm", "cold", "rollback"], [{"tcp": {"port": 7998}}]
    was = unit(host, "ek-a", "InvocationID")
    result = module(host, "ft_restart", name="ek-a", ladder=ladder, probes=probes)
    assert [one["rung"] for one in result["rungs"]] == ["warm"] and unit(host, "ek-a", "InvocationID") == was
    host.on(HOST, "kill -STOP $(systemctl show -P MainPID ek-a); sleep 0.2")
    hung = [{"command": {"argv": ["sh", "-c", "! grep -q 'State:.T' /proc/$(systemctl show -P MainPID ek-a)/status"]}}]
    result = module(host, "ft_restart", name="ek-a", ladder=ladder, probes=hung, deadline="1s", interval="200ms")
    assert [(one["rung"], one["ok"]) for one in result["rungs"]] == [("warm", False), ("cold", True)], result
    assert result["mode"] == "cold" and unit(host, "ek-a", "InvocationID") != was


@pytest.mark.long
def test_a_ladder_goes_back_to_a_checkpoint_after_a_crash_loop(host: Fleet) -> None:
    more = "Restart=always\nRestartSec=100ms\n[Unit]\nStartLimitIntervalSec=0\n"
    install(host, "ek-loop", "/bin/sh -c '. /etc/ek-loop.conf; exec sleep $for'", more)
    host.on(HOST, "echo for=1000 > /etc/ek-loop.conf; systemctl start ek-loop")
    checkpoint(host, ["/etc/ek-loop.conf"], ["ek-loop"])
    host.on(HOST, "echo for=0.5 > /etc/ek-loop.conf")
    ladder = ["cold", "warm", "reboot", "rollback"]
    times: dict[str, Any] = {"soak": "4s", "deadline": "30s", "interval": "200ms"}
    result = module(host, "ft_restart", name="ek-loop", ladder=ladder, rollback_to="before", **times)
    tried = [(one["rung"], one["ok"], one["why"]) for one in result["rungs"]]
    assert "crash loop" in tried[0][2] and tried[1][2] == tried[2][2] == "not tried, because it is in a crash loop"
    assert tried[3][:2] == ("rollback", True) and not result["failed"], result
    assert host.on(HOST, "cat /etc/ek-loop.conf").strip() == "for=1000"


# -- the resource services, in a rollback


def checkpoint(fleet: Fleet, paths: list[str], names: list[str], **more: Any) -> dict[str, Any]:
    resources: list[dict[str, Any]] = [{"services": {"names": names}}]
    if paths:
        resources.append({"files": {"paths": paths}})
    result = module(fleet, "ft_checkpoint", name="before", resources=resources, **more)
    assert not result["failed"], result
    return result


def rollback(fleet: Fleet, **more: Any) -> dict[str, Any]:
    result = module(fleet, "ft_rollback", checkpoint="before", **more)
    assert not result["failed"], result
    return result


def actions(result: dict[str, Any]) -> list[str]:
    return [f"{one['action']} {one['target']}" for one in result["done"] if one["resource"] == "services"]


def test_what_was_active_gets_back_what_another_unit_took_from_it(host: Fleet) -> None:
    """Two services that want the same address: the one that was not active gives it up before the other starts."""
    listen = "import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 7999)); s.listen(); time.sleep(1000)"
    for name in ("ek-a", "ek-b"):
        install(host, name, f'/usr/bin/python3 -c "{listen}"')
    host.on(HOST, "systemctl enable --quiet --now ek-a")
    checkpoint(host, [], ["ek-a", "ek-b"])
    host.on(HOST, "systemctl disable --quiet --now ek-a; systemctl enable --quiet --now ek-b")
    rollback(host)
    assert host.on(HOST, "systemctl is-active ek-a ek-b", check=False).split() == ["active", "inactive"]
    assert host.on(HOST, "systemctl is-enabled ek-a ek-b", check=False).split() == ["enabled", "disabled"]
    assert not rollback(host)["changed"]


def test_a_unit_that_the_change_brought_is_gone_again(host: Fleet) -> None:
    checkpoint(host, [], ["ek-new", "nginx"])
    install(host, "ek-new", "/bin/sleep 1000", then="enable --now")
    foreseen = module(host, "ft_rollback", check=True, checkpoint="before")
    result = rollback(host)
    assert foreseen["planned"] == result["planned"]
    # What was done says how it was proved.
    assert actions(result) == [
        f"{step['action']} {step['target']}" for step in result["planned"] if step["resource"] == "services"
    ]
    assert unit(host, "ek-new", "LoadState") == "not-found" and unit(host, "ek-new", "ActiveState") == "inactive"
    assert host.on(HOST, "find /etc/systemd -name 'ek-new*'") == ""
    assert not rollback(host)["changed"]


def test_a_unit_that_the_change_removed_serves_again(host: Fleet) -> None:
    install(host, "ek-a", "/bin/sleep 1000", then="enable --now")
    checkpoint(host, [], ["ek-a"])
    host.on(HOST, "systemctl disable --quiet --now ek-a; rm /etc/systemd/system/ek-a.service; systemctl daemon-reload")
    rollback(host)
    assert host.on(HOST, "systemctl is-active ek-a; systemctl is-enabled ek-a").split() == ["active", "enabled"]
    assert not rollback(host)["changed"]


def test_a_drop_in_of_the_change_is_gone_from_the_running_service(host: Fleet) -> None:
    install(host, "ek-a", "/bin/sleep 1000", then="enable --now")
    checkpoint(host, [], ["ek-a"])
    host.on(
        HOST,
        "mkdir /etc/systemd/system/ek-a.service.d; cd /etc/systemd/system/ek-a.service.d\n"
        "printf '[Service]\\nEnvironment=CHANGED=1\\n' > x.conf\n"
        "systemctl daemon-reload; systemctl restart ek-a; systemctl set-property ek-a CPUWeight=50",
    )
    of_process = "tr '\\0' '\\n' < /proc/$(systemctl show -P MainPID ek-a)/environ | grep -c CHANGED"
    assert host.on(HOST, of_process, check=False).strip() == "1"
    assert actions(rollback(host)) == ["daemon-reload systemd", "restart ek-a.service"]
    assert host.on(HOST, of_process, check=False).strip() == "0"
    assert host.on(HOST, "find /etc/systemd -name 'ek-a.service.d'") == "" and unit(host, "ek-a", "CPUWeight") != "50"
    assert not rollback(host)["changed"]


@pytest.mark.parametrize("mask", ["mask", pytest.param("mask --runtime", marks=pytest.mark.long)])
def test_a_masked_unit_serves_again(host: Fleet, mask: str) -> None:
    checkpoint(host, [], ["nginx"])
    host.on(HOST, f"systemctl stop nginx; systemctl {mask} --quiet nginx")
    rollback(host)
    assert host.serves(HOST) and unit(host, "nginx", "UnitFileState") == "enabled"
    assert not rollback(host)["changed"]


@pytest.mark.long
def test_a_failed_unit_that_did_not_run_before_is_forgotten(host: Fleet) -> None:
    install(host, "ek-plain", "/bin/false")
    checkpoint(host, [], ["ek-plain"])
    host.on(HOST, "systemctl start ek-plain; sleep 0.3", check=False)
    assert unit(host, "ek-plain", "ActiveState") == "failed"
    rollback(host)
    assert unit(host, "ek-plain", "ActiveState") == "inactive"
    assert not rollback(host)["changed"]


def test_what_cannot_be_put_back_is_named_and_the_rest_is_put_back(host: Fleet) -> None:
    host.on(HOST, "cp /bin/sleep /opt/ek-sleep")
    install(host, "ek-a", "/opt/ek-sleep 1000", then="enable --now")
    checkpoint(host, [], ["ek-a", "nginx"], confirm_within="10m")
    host.on(HOST, "systemctl stop ek-a nginx; rm /opt/ek-sleep")
    result = module(host, "ft_rollback", checkpoint="before")
    assert result["failed"] and "ek-a.service" in result["msg"]
    assert [one.partition(":")[0] for one in result["left"]] == ["ek-a.service"]
    assert actions(result) == ["start nginx.service"] and host.serves(HOST)
    assert host.state(HOST)["outcome"] == "in_doubt"


def test_files_that_changed_back_are_reloaded_and_after_a_restart_restarted(host: Fleet) -> None:
    def answers(probe: bool) -> bool:
        # nginx does not wait for its workers to reload, so that an old one may answer for a moment.
        return host.eventually(lambda: ("X-Probe" in host.on(HOST, "curl -sI http://localhost/")) == probe, 10)

    was = unit(host, "nginx", "InvocationID")
    time.sleep(1)  # the checkpoint's time has whole seconds
    checkpoint(host, ["/etc/nginx"], ["nginx"])
    host.on(HOST, "echo 'add_header X-Probe bad;' > /etc/nginx/conf.d/probe.conf; systemctl reload nginx")
    assert answers(probe=True)
    assert actions(rollback(host)) == ["daemon-reload systemd", "reload nginx.service"]
    assert answers(probe=False) and unit(host, "nginx", "InvocationID") == was
    host.on(HOST, "echo 'add_header X-Probe bad;' > /etc/nginx/conf.d/probe.conf; systemctl restart nginx")
    assert actions(rollback(host)) == ["daemon-reload systemd", "restart nginx.service"]
    assert answers(probe=False)


def test_a_reload_that_fails_becomes_a_restart(host: Fleet) -> None:
    install(host, "ek-a", "/bin/sleep 1000", "ExecReload=/bin/false\n", then="enable --now")
    time.sleep(1)
    host.on(HOST, "echo 1 > /etc/ek-a.conf")
    checkpoint(host, ["/etc/ek-a.conf"], ["ek-a"])
    was = unit(host, "ek-a", "InvocationID")
    host.on(HOST, "echo 2 > /etc/ek-a.conf")
    assert actions(rollback(host)) == ["daemon-reload systemd", "restart ek-a.service"]
    assert unit(host, "ek-a", "InvocationID") != was


def test_what_the_change_enabled_does_not_start_at_the_boot_that_undoes_it(host: Fleet) -> None:
    install(host, "ek-a", "/bin/sleep 1000")
    install(host, "ek-b", "/bin/sleep 1000", then="enable --now")
    checkpoint(host, [], ["ek-a", "ek-b", "nginx"], confirm_within="10m")
    host.on(HOST, "systemctl enable --quiet --now ek-a; systemctl disable --quiet --now ek-b nginx; sync")
    host.lab.reboot(HOST)
    assert host.eventually(lambda: host.state(HOST).get("outcome") == "rolled_back", 20)
    assert host.state(HOST)["by"] == "boot"
    assert host.eventually(lambda: host.serves(HOST), 10)
    assert host.on(HOST, "systemctl is-enabled ek-a ek-b", check=False).split() == ["disabled", "enabled"]
    assert host.on(HOST, "systemctl is-active ek-a ek-b nginx", check=False).split() == ["inactive", "active", "active"]
