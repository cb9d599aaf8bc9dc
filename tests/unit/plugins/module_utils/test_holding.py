# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a host may have a service address, what it is given for that, and how it hands the address over."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Refused, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import holding, taking_over
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.holding import Seen, Settings, against
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.taking_over import Wanted
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import trust
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System

from .conftest import SYSTEM

LOW, OWN, HIGH = (f"02:00:00:00:00:0{one}" for one in "abc")
PAIR = ["10.0.0.11", "10.0.0.12"]
SETTINGS = Settings("eth0", PAIR[0], 51, ["10.0.0.100/24", "fd00::100/64"], PAIR, ["10.0.0.1"])


class Machine:
    """A host whose ``ip`` shows one interface, and that notes the commands. Its clock goes on by its sleep alone."""

    def __init__(self, *addresses: str, gateway: str = "10.0.0.1") -> None:
        self.addresses = addresses or ("10.0.0.11/24", "fe80::1/64")
        self.gateway, self.ran, self.at = gateway, list[list[str]](), 1000.0
        self.system = replace(SYSTEM, run=self.run, monotonic=lambda: self.at, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.at += seconds

    def run(self, argv: Any, timeout: float) -> Completed:
        said: Any = []
        if argv[-2:] == ["address", "show"]:
            info = [{"local": one.split("/")[0], "prefixlen": int(one.split("/")[1])} for one in self.addresses]
            said = [{"ifname": "eth0", "link_type": "ether", "address": OWN, "addr_info": info}]
        elif "route" in argv:
            said = [{"dst": "default", "gateway": self.gateway}]
        else:
            self.ran.append(list(argv))
        return Completed(tuple(argv), 0, json.dumps(said), "")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that stands for /etc/keepalived and /run."""
    monkeypatch.setattr(holding, "PROGRAM", str(tmp_path / "evenkeel-address"))
    monkeypatch.setattr(holding, "SETTINGS", str(tmp_path / "evenkeel-address.json"))
    for name in ("STATE", "ASIDE", "WHY"):
        monkeypatch.setattr(holding, name, str(tmp_path / name))
    monkeypatch.setattr(taking_over, "CONFIGURATION", str(tmp_path / "keepalived.conf"))
    monkeypatch.setattr(trust, "stranger", lambda path, owners: "")
    monkeypatch.setattr(holding.read_settings, "__defaults__", (str(tmp_path / "evenkeel-address.json"),))
    return tmp_path


def never() -> bool:
    return False


@pytest.mark.parametrize(
    ("seen", "needed", "said"),
    [
        (Seen(True, OWN, votes=1, voters=2), 1, ""),
        (Seen(True, OWN, votes=0, voters=2), 1, "it sees 1 of 3 voters, no majority"),
        (Seen(False, OWN, votes=0, voters=2), 1, "it sees 1 of 3 voters, no majority"),
        (Seen(True, OWN, frozenset([HIGH])), 0, ""),
        (Seen(True, OWN, frozenset([LOW])), 0, f"another host has the address too ({LOW})"),
        (Seen(True, OWN, frozenset([LOW]), hears=never), 0, "the lower hardware address keeps it"),
        (Seen(False, OWN, frozenset([HIGH])), 0, ""),
        (Seen(False, OWN, frozenset([HIGH]), hears=never), 0, f"{HIGH} has the address, and its advertisements do not"),
        (Seen(False, OWN, hears=never), 0, ""),
    ],
)
def test_a_host_may_have_the_address_with_a_majority_and_beside_nobody(seen: Seen, needed: int, said: str) -> None:
    found = against(seen, needed)
    assert said in found and bool(said) == bool(found)


def test_of_two_holders_one_gives_up() -> None:
    """Whichever of two holders looks first, and whether they hear each other or not."""
    for hears in (never, lambda: True):
        sides = [
            against(Seen(True, mine, frozenset([others]), hears=hears), 0)
            for mine, others in ((LOW, HIGH), (HIGH, LOW))
        ]
        assert [bool(one) for one in sides] == [False, True]


@pytest.mark.parametrize(("members", "witnesses", "needed"), [(2, 0, 0), (2, 1, 1), (3, 0, 1), (4, 0, 2), (4, 1, 2)])
def test_a_majority_counts_the_host_itself(members: int, witnesses: int, needed: int) -> None:
    of = [f"10.0.0.{number}" for number in range(11, 11 + members)]
    settings = replace(SETTINGS, own=of[0], members=of, witnesses=[f"10.0.0.{9 - n}" for n in range(witnesses)])
    assert settings.needed == needed
    voters = members + witnesses
    assert voters == 2 or 2 * (settings.needed + 1) > voters >= 2 * settings.needed


def test_settings_of_others_count_for_nothing(place: Path) -> None:
    path = place / "evenkeel-address.json"
    with pytest.raises(OSError, match="No such file"):
        holding.read_settings()
    path.write_text('{"interface": "eth0"}')
    with pytest.raises(OSError, match="run the role virtual_address again"):
        holding.read_settings()
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
        with pytest.raises(OSError, match="belongs to uid 65534"):
            holding.read_settings()


def test_a_hand_over_ends_with_another_holder_or_with_all_as_before(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, looks = Machine(), iter([False, False, True])
    monkeypatch.setattr(holding, "is_elsewhere", lambda settings, system: next(looks))
    assert holding.hand_over(SETTINGS, machine.system) == ""
    assert holding.stands_aside(machine.system)
    machine.sleep(121)
    assert not holding.stands_aside(machine.system)

    monkeypatch.setattr(holding, "is_elsewhere", lambda settings, system: False)
    assert "no other host has taken 10.0.0.100/24 and" in holding.hand_over(SETTINGS, machine.system)
    assert not holding.stands_aside(machine.system) and not (place / "ASIDE").exists()


@pytest.mark.parametrize("text", ["", "soon", "99999", "nan"])
def test_nonsense_does_not_keep_a_host_aside(place: Path, text: str) -> None:
    (place / "ASIDE").write_text(text)
    assert not holding.stands_aside(Machine().system)


def test_what_a_killed_keepalived_leaves_is_removed_and_nothing_else(place: Path) -> None:
    machine = Machine("10.0.0.11/24", "10.0.0.100/24", "fd00::100/64", "10.0.0.101/24")
    (place / "STATE").write_text("MASTER")
    assert holding.clean(SETTINGS, machine.system) == ""
    assert machine.ran == [["ip", "address", "delete", one, "dev", "eth0"] for one in ("10.0.0.100/24", "fd00::100/64")]
    assert not (place / "STATE").exists()


def test_the_part_of_a_host_is_what_it_has_and_what_keepalived_told(place: Path) -> None:
    machine = Machine("10.0.0.11/24", "10.0.0.100/24")

    def part() -> tuple[list[str], bool, str]:
        found = holding.part(["10.0.0.100/24", "fd00::100/64"], machine.system)
        return found.holds, found.ready, found.why

    assert part() == (["10.0.0.100/24"], False, "keepalived does not run there")
    (place / "STATE").write_text("BACKUP")
    assert part()[1:] == (True, "")
    (place / "STATE").write_text("FAULT")
    (place / "WHY").write_text("http: fail")
    assert part()[1:] == (False, "keepalived there is in the state FAULT: http: fail")
    (place / "STATE").write_text("BACKUP")
    (place / "ASIDE").write_text(str(machine.at + 60))
    assert part()[1:] == (False, "it stands aside")
    with pytest.raises(UsageError, match="addresses"):
        holding.part(["here"], machine.system)


WANTED = Wanted(["10.0.0.100/24", "fd00::100/64"], PAIR[0], PAIR, 51, probes=[{"tcp": {"port": 80}}])


def test_a_host_is_prepared_once(place: Path) -> None:
    machine = Machine()
    foreseen = taking_over.prepare(WANTED, machine.system, check_mode=True)
    assert foreseen.changed and not list(place.iterdir())
    done = taking_over.prepare(WANTED, machine.system, check_mode=False)
    assert done.planned == foreseen.planned == done.done
    assert done.configuration == foreseen.configuration
    assert done.witnesses == ["10.0.0.1"] and done.interface == "eth0"
    assert (place / "evenkeel-address").stat().st_mode & 0o777 == 0o700
    assert (place / "evenkeel-address.json").stat().st_mode & 0o777 == 0o600
    again = taking_over.prepare(WANTED, machine.system, check_mode=False)
    assert not again.changed and not again.done

    # Only what differs is written.
    assert taking_over.prepare(replace(WANTED, router_id=52), machine.system, False).done == [holding.SETTINGS]
    (place / "evenkeel-address").write_text("something else")
    assert holding.PROGRAM in taking_over.prepare(WANTED, machine.system, False).done


def test_the_program_needs_nothing_but_its_file(place: Path) -> None:
    taking_over.prepare(WANTED, Machine().system, check_mode=False)
    done = subprocess.run([holding.PROGRAM], capture_output=True, text=True, env={}, cwd="/", check=False)
    assert done.returncode == 2 and done.stderr.startswith("usage: evenkeel-address"), done.stderr


def test_the_configuration_is_that_of_the_host() -> None:
    text = taking_over.configuration(replace(SETTINGS, own=PAIR[1]))
    for line in (
        "enable_script_security",
        "script_user root",
        "state BACKUP",
        "nopreempt",
        "priority 240",
        "unicast_src_ip 10.0.0.12",
        "        10.0.0.11 min_ttl 255 max_ttl 255",
        "    virtual_ipaddress {\n        10.0.0.100/24 dev eth0\n    }",
        "    virtual_ipaddress_excluded {\n        fd00::100/64 dev eth0 preferred_lft 0\n    }",
        "init_fail",
    ):
        assert line in text
    only = taking_over.configuration(replace(SETTINGS, addresses=["10.0.0.100/24"]))
    assert "excluded" not in only and "priority 250" in only


def test_probes_that_cannot_decide_are_told_and_a_slow_one_is_cut(place: Path) -> None:
    probes: Any = [
        {"http": {"url": "http://10.0.0.11/", "from": "controller"}},
        {"address": {"address": "10.0.0.100"}},
        {"tcp": {"port": 80, "timeout": "1m"}},
        {"tcp": {"port": 81, "timeout": "1s"}},
    ]
    result = taking_over.prepare(replace(WANTED, probes=probes), Machine().system, False)
    assert [one.split(":")[0] for one in result.warnings or []] == [
        f"the probe {kind} does not decide who holds the address" for kind in ("http", "address")
    ]
    kept = holding.read_settings().probes
    assert kept == [{"tcp": {"port": 80, "timeout": "2s"}}, {"tcp": {"port": 81, "timeout": "1s"}}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"router_id": 0}, "router_id 0 is not between"),
        ({"members": PAIR[:1]}, "members must be 2 to 16"),
        ({"members": PAIR * 2}, "members must be 2 to 16"),
        ({"members": ["10.0.0.12", "10.0.0.13"]}, "10.0.0.11 one of them"),
        ({"members": [PAIR[0], "fd00::12"]}, "of one family"),
        ({"members": [PAIR[0], ""]}, "set ansible_host of the members"),
        ({"members": [PAIR[0], "10.0.1.12"]}, "cannot be asked on the wire"),
        ({"addresses": []}, "addresses must be a list"),
        ({"addresses": ["10.0.0.100"]}, "has no length of its prefix"),
        ({"addresses": ["10.0.0.300/24"]}, "addresses: "),
        ({"addresses": ["10.0.0.12/24"]}, "is the address of a member itself"),
        ({"addresses": ["127.0.0.2/8"]}, "can move between hosts"),
        ({"addresses": ["fd00::100/64"]}, "has none of IPv4"),
        ({"addresses": ["10.0.0.100/24\n}"]}, "addresses: "),
        ({"interface": "eth1"}, "does not have the address 10.0.0.11 on eth1"),
        ({"witnesses": ["10.0.0.12"]}, "and of no member"),
        ({"witnesses": ["192.0.2.1"]}, "cannot be asked on the wire"),
        ({"probes": [{"tcp": {"prot": 80}}]}, "unknown key 'prot'"),
    ],
)
def test_a_wrong_declaration_touches_nothing(place: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        taking_over.prepare(replace(WANTED, **change), Machine().system, False)
    assert said in refused.value.message
    assert not list(place.iterdir())


@pytest.mark.parametrize("text", ["! Configuration File for keepalived\n", "global_defs {}\n"])
def test_the_configuration_of_others_is_not_replaced(place: Path, text: str) -> None:
    (place / "keepalived.conf").write_text(text)
    with pytest.raises(Refused, match="was not written by this role"):
        taking_over.prepare(WANTED, Machine().system, False)
    assert [one.name for one in place.iterdir()] == ["keepalived.conf"]
    (place / "keepalived.conf").write_text(f"{taking_over.MARK}\nglobal_defs {{}}\n")
    assert taking_over.prepare(WANTED, Machine().system, True).changed


def test_an_interpreter_that_others_can_replace_is_not_run_as_root(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "stranger", lambda path, owners: f"{path} belongs to uid 1000" if owners == {0} else "")
    with pytest.raises(Refused, match="nothing was touched"):
        taking_over.prepare(WANTED, Machine().system, False)
    assert not list(place.iterdir())


def test_a_probe_that_fails_twice_gives_the_address_up() -> None:
    states = iter([1, 1, 1, 0])
    machine = Machine()

    def command(argv: Any, timeout: float) -> Completed:
        return Completed(tuple(argv), next(states), "", "")

    settings = replace(SETTINGS, probes=[{"command": {"argv": ["true"]}}])
    system: System = replace(machine.system, command=command)
    sick: Callable[[Settings, System], str] = holding._sick
    assert "command true: fail" in sick(settings, system)
    assert sick(settings, system) == ""


def test_a_host_with_the_settings_of_another_host_takes_no_part(place: Path) -> None:
    machine = Machine("10.0.0.77/24")
    said = holding._reason_against(SETTINGS, machine.system, cast("Any", None))
    assert said == "no interface has 10.0.0.11, its own address: run the role virtual_address for this host"
