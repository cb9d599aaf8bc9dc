# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests on real hosts take for granted: that a lab host is a real host, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lab as command_line
import laboratory.lab
import pytest
from lab import Lab, LabError
from laboratory import image, machine
from laboratory.existing import containers, firewall_table, networks, remove
from laboratory.hosts import USERS, make_host
from laboratory.image import RELEASES, image_name
from laboratory.machine import podman


@pytest.fixture(scope="session")
def able() -> None:
    """Skips the test on a machine that can run no lab."""
    if reason := command_line.unavailable():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def fleet(able: None) -> Iterator[Lab]:
    """Three hosts, for tests that leave them as they found them."""
    with Lab("pytest", hosts=3) as lab:
        yield lab


def out(lab: Lab, host: str, command: str) -> str:
    """What a shell command prints on a host."""
    printed: str = lab.exec(host, ["sh", "-ec", command]).stdout
    return printed.strip()


def until(true: Callable[[], object], seconds: float = 20) -> None:
    """Wait for what must become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not become true"
        time.sleep(0.1)


def connects(address: str, port: int) -> str:
    """How a connection ends: connected, refused, or silence."""
    try:
        socket.create_connection((address, port), timeout=2).close()
    except TimeoutError:
        return "silence"
    except ConnectionRefusedError:
        return "refused"
    return "connected"


# -- A host is a real host


def test_every_host_boots_without_a_failed_unit(fleet: Lab) -> None:
    for host in fleet.hosts:
        assert out(fleet, host.name, "cat /proc/1/comm; systemctl is-system-running") == "systemd\nrunning"


def test_hosts_have_names_addresses_and_identities_of_their_own(fleet: Lab) -> None:
    assert [host.name for host in fleet.hosts] == ["web1", "web2", "web3"]
    for host in fleet.hosts:
        assert out(fleet, host.name, "hostname") == host.name
        assert host.address in out(fleet, host.name, "ip -brief -4 address show dev eth0")
    for identity in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"):
        assert len({out(fleet, host.name, f"cat {identity}") for host in fleet.hosts}) == 3


def test_ssh_lets_root_and_ops_in_and_ops_becomes_root(fleet: Lab) -> None:
    assert fleet.ssh("web1", ["id", "-un"]).stdout == "root\n"
    assert fleet.ssh("web1", ["id", "-un"], user="ops").stdout == "ops\n"
    assert fleet.ssh("web1", ["sudo", "-n", "id", "-un"], user="ops").stdout == "root\n"
    assert fleet.ssh("web1", ["cat", "/etc/shadow"], user="ops", check=False).returncode != 0


def test_a_host_with_another_host_key_is_refused(fleet: Lab) -> None:
    out(fleet, "web1", "cp -a /etc/ssh/ssh_host_ed25519_key /etc/ssh/kept; rm /etc/ssh/ssh_host_ed25519_key")
    out(
        fleet, "web1", "ssh-keygen -qt ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key </dev/null; systemctl restart ssh"
    )
    try:
        refused = fleet.ssh("web1", ["true"], check=False)
        assert refused.returncode == 255
        assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in refused.stderr
    finally:
        out(fleet, "web1", "mv /etc/ssh/kept /etc/ssh/ssh_host_ed25519_key; systemctl restart ssh")
    assert fleet.ssh("web1", ["true"]).returncode == 0


def test_nginx_serves_from_the_first_boot_and_stops_and_starts(fleet: Lab) -> None:
    address = fleet.host("web1").address
    assert connects(address, 80) == "connected"
    out(fleet, "web1", "systemctl stop nginx")
    assert connects(address, 80) == "refused"
    out(fleet, "web1", "systemctl start nginx")
    assert "Welcome to nginx" in out(fleet, "web1", f"curl -sS http://{address}/")


def test_a_firewall_in_the_host_cuts_it_off_and_lets_it_back(fleet: Lab) -> None:
    address = fleet.host("web1").address
    out(fleet, "web1", "nft add table inet t; nft 'add chain inet t in { type filter hook input priority 0; }'")
    out(fleet, "web1", "nft add rule inet t in tcp dport 22 drop")
    assert connects(address, 22) == "silence"
    assert connects(address, 80) == "connected"
    out(fleet, "web1", "nft flush ruleset")
    assert connects(address, 22) == "connected"


def test_a_reboot_is_a_real_one(fleet: Lab) -> None:
    out(fleet, "web2", "echo kept >/etc/kept; echo kept >/var/lib/kept; echo lost >/run/lost")
    out(fleet, "web2", "systemctl disable nginx; systemctl is-active nginx")
    before = fleet.started("web2")
    fleet.reboot("web2")
    after = fleet.started("web2")
    assert before and after and after > before
    assert out(fleet, "web2", "cat /etc/kept /var/lib/kept; test -e /run/lost || echo gone") == "kept\nkept\ngone"
    assert out(fleet, "web2", "systemctl is-active ssh nginx || true") == "active\ninactive"
    assert out(fleet, "web2", "systemctl enable --now nginx; systemctl is-active nginx") == "active"
    until(lambda: fleet.ssh("web2", ["true"], check=False).returncode == 0)


def test_a_host_that_was_used_is_known_and_one_that_was_not_as_well(fleet: Lab) -> None:
    fleet.ssh("web1", ["true"])
    before: dict[str, tuple[object, ...]] = {}

    def rests() -> bool:  # The last segments of a login may come after its end.
        earlier = dict(before)
        before.update({name: fleet.traffic(name) for name in ("web1", "web2")})
        return before == earlier

    until(rests)
    fleet.ssh("web1", ["true"])
    out(fleet, "web2", "true")
    assert all(fleet.traffic(name) != before[name] for name in before)


def test_an_enabled_unit_runs_at_boot(fleet: Lab) -> None:
    unit = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo x >>/var/lib/boots'\n"
    unit += "[Install]\nWantedBy=multi-user.target\n"
    fleet.exec("web2", ["sh", "-c", "cat >/etc/systemd/system/boots.service"], input=unit)
    out(fleet, "web2", "systemctl daemon-reload; systemctl enable boots")
    fleet.reboot("web2")
    assert out(fleet, "web2", "cat /var/lib/boots; systemctl disable boots") == "x"


def test_timers_fire_and_survive_a_daemon_reload(fleet: Lab) -> None:
    out(
        fleet, "web1", "rm -f /run/fired; systemd-run --on-active=2 --timer-property=AccuracySec=100ms touch /run/fired"
    )
    out(fleet, "web1", "systemctl daemon-reload")
    until(lambda: fleet.exec("web1", ["test", "-e", "/run/fired"], check=False).returncode == 0)


def test_files_of_etc_can_be_replaced_by_a_rename(fleet: Lab) -> None:
    for name in ("hosts", "resolv.conf", "ssh/ssh_host_ed25519_key"):
        out(fleet, "web1", f"cp -a /etc/{name} /etc/{name}.new; mv /etc/{name}.new /etc/{name}")


def test_acl_xattr_and_capabilities_can_be_set(fleet: Lab) -> None:
    assert "user:ops:r--" in out(fleet, "web1", "touch /srv/f; setfacl -m u:ops:r /srv/f; getfacl -c /srv/f")
    assert 'user.a="1"' in out(fleet, "web1", "setfattr -n user.a -v 1 /srv/f; getfattr --absolute-names -d /srv/f")
    assert "cap_net_raw=ep" in out(fleet, "web1", "setcap cap_net_raw+ep /srv/f; getcap /srv/f")


def test_strace_kills_before_the_call_it_is_told_to(fleet: Lab) -> None:
    fleet.exec("web1", ["touch", "/srv/f"])
    done = fleet.exec(
        "web1",
        ["strace", "-f", "-qq", "-e", "trace=/unlink", "-e", "inject=/unlink:signal=KILL:when=1", "rm", "/srv/f"],
        check=False,
    )
    assert done.returncode == 128 + signal.SIGKILL
    assert out(fleet, "web1", "ls /srv/f") == "/srv/f"


# -- The network


def test_a_disconnected_host_is_silent_until_it_is_connected(fleet: Lab) -> None:
    cut, other = fleet.host("web3"), fleet.host("web2")
    fleet.disconnect("web3")
    try:
        assert connects(cut.address, 22) == "silence"
        assert connects(other.address, 22) == "connected"
        # Among the hosts as well, in both directions.
        for here, there in ((other.name, cut.address), (cut.name, other.address)):
            done = fleet.exec(here, ["curl", "-sS", "-m", "2", f"http://{there}/"], check=False)
            assert done.returncode == 28, done.stderr
        assert {host.name: state for host, state in fleet.status()}["web3"] == "disconnected"
        # The host can do nothing about it, and a restart does not bring it back.
        out(fleet, "web3", "nft flush ruleset")
        fleet.reboot("web3")
        assert connects(cut.address, 22) == "silence"
    finally:
        fleet.connect("web3")
    assert connects(cut.address, 22) == "connected"
    assert fleet.ssh("web3", ["hostname"]).stdout == "web3\n"


def test_nothing_leaves_a_disconnected_host(fleet: Lab) -> None:
    gateway = out(fleet, "web3", "ip -4 route show default").split()[2]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((gateway, 0))
        listener.settimeout(1)
        send = f"import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(b'x', {listener.getsockname()})"
        fleet.exec("web3", ["python3", "-c", send])
        assert listener.recv(1) == b"x"
        fleet.disconnect("web3")
        try:
            fleet.exec("web3", ["python3", "-c", send])
            with pytest.raises(TimeoutError):
                listener.recv(1)
        finally:
            fleet.connect("web3")


def test_an_open_connection_survives_a_short_disconnection(fleet: Lab) -> None:
    with socket.create_connection((fleet.host("web3").address, 80), timeout=30) as connection:
        fleet.disconnect("web3")
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        time.sleep(0.5)
        fleet.connect("web3")
        assert connection.recv(8) == b"HTTP/1.1"


# -- The inventory


@pytest.mark.parametrize("user", USERS)
def test_ansible_reaches_every_host_through_the_inventory(fleet: Lab, user: str) -> None:
    ansible = shutil.which("ansible-playbook", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not ansible:
        pytest.skip("ansible-playbook is not installed")
    playbook = fleet.path / "who.yml"
    playbook.write_text(
        """
- hosts: web
  gather_facts: false
  tasks:
    - ansible.builtin.command: id -un
      register: user
      changed_when: false
    - ansible.builtin.assert:
        that: user.stdout == "root" and rack in ["r1", "r2"]
"""
    )
    done = subprocess.run(
        [ansible, "-i", str(fleet.inventory_as(user)), str(playbook)], cwd="/", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok=2 ") == 3


def test_racks_alternate() -> None:
    hosts = [make_host("10.0.0.0/24", f"web{n}", []) for n in (1, 2, 3)]
    assert [(host.address, host.rack) for host in hosts] == [
        ("10.0.0.11", "r1"),
        ("10.0.0.12", "r2"),
        ("10.0.0.13", "r1"),
    ]
    spare = make_host("10.0.0.0/24", "spare", hosts, group="spare")
    assert make_host("10.0.0.0/24", "more", [*hosts, spare]).address not in {host.address for host in [*hosts, spare]}


# -- Up, down and what lies between


def container_ids(name: str) -> dict[str, str]:
    return {host: container for host, _, _, container in containers(name)}


def leftovers(name: str) -> list[str]:
    """What there is of a lab on this machine."""
    found = [f"container {host}" for host in container_ids(name)]
    if networks(name):
        found.append("network")
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    if firewall_table(name) in tables.split():
        found.append("firewall table")
    if Lab(name).path.exists():
        found.append("files")
    return found


def test_up_again_touches_nothing_that_is_right(fleet: Lab) -> None:
    before = container_ids("pytest"), [fleet.started(host.name) for host in fleet.hosts], fleet.ssh_config.read_text()
    Lab("pytest").up()
    assert before == (
        container_ids("pytest"),
        [fleet.started(host.name) for host in fleet.hosts],
        fleet.ssh_config.read_text(),
    )


def test_up_repairs_what_is_stopped_lost_or_half_made(fleet: Lab) -> None:
    before = container_ids("pytest")
    fleet.stop("web1", now=True)
    podman("rm", "--force", "--time", "0", before["web2"])
    # Killed between the creation of a container and its start.
    podman("rm", "--force", "--time", "0", before["web3"])
    fleet._create(image_name("bookworm"), fleet._network(), fleet.host("web3"))
    half_made = container_ids("pytest")["web3"]
    fleet.up()
    after = container_ids("pytest")
    assert after["web1"] == before["web1"]
    assert after["web2"] != before["web2"]
    assert after["web3"] not in (before["web3"], half_made)
    assert [state for _, state in fleet.status()] == ["running"] * 3


def test_a_host_added_and_one_recreated_are_fresh(fleet: Lab) -> None:
    spare = fleet.add("spare", group="spare", rack="r9")
    assert fleet.ssh("spare", ["hostname"]).stdout == "spare\n"
    assert f"spare: {{ansible_host: {spare.address}, rack: r9}}" in fleet.inventory.read_text()

    out(fleet, "web1", "echo old >/etc/old")
    before, key = fleet.host("web1"), out(fleet, "web1", "cat /etc/ssh/ssh_host_ed25519_key.pub")
    fleet.disconnect("web1")
    assert fleet.recreate("web1") == before
    assert fleet.ssh("web1", ["ls", "/etc/old"], check=False).returncode == 2
    assert out(fleet, "web1", "cat /etc/ssh/ssh_host_ed25519_key.pub") != key

    Lab("pytest", hosts=3).up()
    assert [host.name for host in fleet.hosts] == ["web1", "web2", "web3"]
    assert sorted(container_ids("pytest")) == ["web1", "web2", "web3"]


def test_labs_stand_side_by_side_and_down_leaves_nothing(fleet: Lab) -> None:
    with Lab("pytest-b", hosts=1) as other:
        assert other.host("web1").address != fleet.host("web1").address
        assert out(other, "web1", "touch /etc/b; hostname") == out(fleet, "web1", "hostname")
        assert fleet.exec("web1", ["test", "-e", "/etc/b"], check=False).returncode == 1
        other.disconnect("web1")
        assert connects(fleet.host("web1").address, 22) == "connected"
        assert leftovers("pytest-b") == ["container web1", "network", "firewall table", "files"]
        disks = json.loads(podman("inspect", *container_ids("pytest-b").values()))
    assert leftovers("pytest-b") == []
    assert not any(Path(disk["GraphDriver"]["Data"]["UpperDir"]).exists() for disk in disks)
    assert connects(fleet.host("web1").address, 22) == "connected"
    other.down()  # nothing to remove is no error


def test_addresses_are_not_used_again_soon_and_never_twice(fleet: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    subnets = set()
    try:
        for _ in range(2):
            subnets.add(Lab("pytest-net")._network().subnet)
            remove("pytest-net")
        assert len(subnets) == 2
        drawn = iter([networks("pytest")[0].subnet, subnets.pop()])
        monkeypatch.setattr(laboratory.lab, "random_subnet", lambda: next(drawn))
        free = Lab("pytest-net")._network().subnet
        assert free != networks("pytest")[0].subnet
    finally:
        remove("pytest-net")


def test_a_lab_whose_process_was_killed_goes_with_the_next_up(fleet: Lab) -> None:
    program = f"import sys; sys.path.insert(0, {str(image.HERE)!r}); from lab import Lab; import os\n"
    program += "with Lab('pytest-killed', hosts=1) as lab: lab.exec('web1', ['true']); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    # It had a host. Nothing is asserted of what it left: another lab may come up beside this one, and remove it.
    assert done.returncode == -signal.SIGKILL
    fleet.up()
    assert leftovers("pytest-killed") == []
    assert [state for _, state in fleet.status()] == ["running"] * 3


@pytest.mark.long
def test_a_lab_is_not_taken_over_from_another_clone(
    fleet: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "STATE", tmp_path / ".lab")
    (tmp_path / ".lab").mkdir()
    for attempt in (Lab("pytest").up, Lab("pytest").down):
        with pytest.raises(LabError, match="another --name"):
            attempt()
    assert len(container_ids("pytest")) == 3


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_boots_and_reboots(able: None, release: str) -> None:
    with Lab(f"pytest-{release}", hosts=1, release=release) as lab:
        assert out(lab, "web1", "systemctl is-system-running; . /etc/os-release; echo $VERSION_CODENAME") == (
            f"running\n{release}"
        )
        before = lab.started("web1")
        lab.reboot("web1")
        assert lab.started("web1") != before
        with pytest.raises(LabError, match=f"runs {release}"):
            Lab(lab.name, release=next(other for other in RELEASES if other != release)).up()


# -- The image


def test_a_changed_recipe_is_another_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = ("packages.txt", "configure.sh")
    for name in recipe:
        shutil.copy(image.HERE / name, tmp_path / name)
    names = {image_name("bookworm"), image_name("trixie")}
    monkeypatch.setattr(image, "HERE", tmp_path)
    assert image_name("bookworm") in names
    for name in recipe:
        with (tmp_path / name).open("a") as file:
            file.write("# changed\n")
        assert image_name("bookworm") not in names
        names.add(image_name("bookworm"))


# -- Errors say what, where and what next


def test_errors_say_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["inventory", "--name", "no-such-lab"]) == 1
    assert "lab.py up --name no-such-lab" in capsys.readouterr().err
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for command in ("up", "down", "status", "build"):
        assert command_line.main([command]) == 1
        assert "sudo" in capsys.readouterr().err


def test_an_unknown_host_is_named_with_those_there_are(fleet: Lab) -> None:
    with pytest.raises(LabError, match="no host 'web9': it has web1, web2, web3"):
        fleet.exec("web9", ["true"])


@pytest.mark.parametrize("bad", ["", "Web", "a_b", "../x", "a" * 32])
def test_a_bad_name_never_becomes_a_path(bad: str) -> None:
    with pytest.raises(LabError):
        Lab(bad)


def test_a_failed_command_is_quoted(fleet: Lab) -> None:
    with pytest.raises(LabError, match=r"rc 2.*No such file"):
        fleet.exec("web1", ["ls", "/nowhere"])
