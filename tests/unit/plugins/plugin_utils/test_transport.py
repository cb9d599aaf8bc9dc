# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to each peer is chosen from the inventory alone, and a chain only where it saves time. All hosts of a
transfer are told of one secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import Mock

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.action import ft_replicate
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _remote
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._seal import find
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._transport import (
    AUTO,
    CHAIN,
    SSH,
    Direct,
    Place,
    _judged,
    _transfers,
    groups,
    place_of,
)

LARGE = 1 << 30


@pytest.mark.parametrize(
    "given, address, port, expected",
    [
        ("", "10.0.0.5", 22, ("10.0.0.5", 22)),
        ("", "web1.example.org", "2222", ("web1.example.org", 2222)),
        ("10.1.1.1", "10.0.0.5", 2222, ("10.1.1.1", 22)),
        ("10.1.1.1:2200", "10.0.0.5", 22, ("10.1.1.1", 2200)),
        ("fe80::1%eth0", "10.0.0.5", 22, ("fe80::1%eth0", 22)),
        ("[2001:db8::1]:2200", "10.0.0.5", 22, ("2001:db8::1", 2200)),
        ("[2001:db8::1]", "10.0.0.5", 22, ("2001:db8::1", 22)),
    ],
)
def test_a_peer_is_at_its_own_address_or_where_ansible_reaches_it(
    given: str, address: str, port: object, expected: tuple[str, int]
) -> None:
    assert place_of("ssh", given, address, port, "") == Place(*expected)


@pytest.mark.parametrize(
    "given, port", [("-oProxyCommand=x", 22), ("a b", 22), ("10.0.0.1:99999", 22), ("a\nb", 22), ("", "x"), ("", 0)]
)
def test_what_is_no_address_is_refused(given: str, port: object) -> None:
    with pytest.raises(UsageError, match="evenkeel_address"):
        place_of("ssh", given, "10.0.0.5", port, "")


@pytest.mark.parametrize("connection", ["local", "containers.podman.podman", "ansible.builtin.local", "docker", ""])
def test_a_peer_without_ssh_has_no_place(connection: str) -> None:
    assert "not by SSH" in place_of(connection, "", "10.0.0.5", 22, "").obstacle


@pytest.mark.parametrize("arguments", ["-o ProxyJump=bastion", "-J bastion", "-F x -o proxycommand='nc %h'"])
def test_a_peer_behind_another_host_needs_an_address_of_its_own(arguments: str) -> None:
    assert "by way of another host" in place_of("ssh", "", "10.0.0.5", 22, arguments).obstacle
    assert place_of("ansible.builtin.ssh", "10.1.1.1", "10.0.0.5", 22, arguments) == Place("10.1.1.1", 22)
    assert not place_of("ssh", "", "10.0.0.5", 22, "-F /home/me/-Jones/config").obstacle


@pytest.mark.parametrize(
    "wanted, size, expected",
    [
        (AUTO, LARGE, [["a", "c"], ["b"]]),
        (AUTO, 1000, [["a"], ["c"], ["b"]]),
        (CHAIN, 1000, [["a", "c"], ["b"]]),
        (SSH, LARGE, [["a"], ["c"], ["b"]]),
    ],
)
def test_peers_that_lack_the_same_large_bundle_form_a_chain(wanted: str, size: int, expected: list[list[str]]) -> None:
    lacking: dict[str, tuple[str, ...]] = {"a": (), "b": ("1" * 64,), "c": ()}
    assert groups(wanted, lacking, {(): size, ("1" * 64,): size}) == expected


class Hosts:
    """An inventory whose hosts answer in processes of their own, as those of Ansible do."""

    def at_once(self, works: Mapping[str, Callable[[], Answer]], timeout: float) -> dict[str, Answer]:
        return dict(_remote._forked(list(works), lambda name: works[name](), timeout, 9))

    def connect(self, name: str) -> Mock:
        host = Mock()
        host.name = name
        return host

    def address(self, name: str) -> str:
        return name


class Phases:
    """What hosts answer. A receiver tells the nonce of which it was told; a sender fails with its secret."""

    def phase(self, host: Mock, phase: str, **values: Any) -> Answer:
        if phase == "prepare":
            hop = {"path": "/key", "public": "ssh-ed25519 A", "source": ""}
            return {"sizes": [1 << 30 for _one in values["known"]], "hops": [hop for _one in values["hops"]]}
        if phase == "open":
            return {"path": "/fifo", "user": "root", "room": 1 << 40, "host_keys": ["k"]}
        if phase == "take":
            return {"state": "verified", "nonce": values["seal"]["nonce"]}
        return {"secret": values["secrets"][0]} if phase == "send" else {}


def test_a_receiver_that_waited_for_the_next_one_is_sent_to_again() -> None:
    first, second = _transfers("web1", [["b", "c"]], {"b": (), "c": ()})
    for one in (first, second):
        one.key, one.opened = {"path": "/key"}, {"path": "/fifo"}
    told: dict[str, Answer] = {name: {"unreachable": True, "msg": "no answer within 60 s"} for name in ("b", "c")}
    answers = {one.receiver: _judged(one, told) for one in (first, second)}
    assert {peer: ft_replicate._is_open(answer) for peer, answer in answers.items()} == {"b": True, "c": False}
    (alone,) = _transfers("web1", [["b"]], {"b": ()})
    alone.key, alone.opened = first.key, first.opened
    assert not ft_replicate._is_open(_judged(alone, told))


@pytest.mark.parametrize(("wanted", "secrets"), [(SSH, 2), (CHAIN, 1), (AUTO, 1)])
def test_sender_and_receivers_are_told_of_one_secret_which_no_other_ciphertext_has(
    monkeypatch: pytest.MonkeyPatch, wanted: str, secrets: int
) -> None:
    monkeypatch.setattr(_remote, "Display", Mock())
    offered = {"id": "a" * 64, "host": "web1", "name": "base", "created": "2026-01-01T00:00:00Z"}
    hosts: Any = Hosts()
    phases: Any = Phases()
    seals = find("k" * 32, "web1")
    places = {"b": Place("10.0.0.2"), "c": Place("10.0.0.3")}
    direct = Direct(hosts, hosts.connect("web1"), phases, offered, seals, 20.0, places)
    sent: dict[str, Answer] = {}
    at_once = hosts.at_once
    monkeypatch.setattr(hosts, "at_once", lambda works, timeout: sent.update(at_once(works, timeout)) or dict(sent))
    told = direct.send(wanted, {"b": (), "c": ()})
    assert [told[peer].get("state") for peer in ("b", "c")] == ["verified"] * 2, told
    proved = {peer: seals.keys[0].secret(offered["id"], told[peer]["nonce"]) for peer in ("b", "c")}
    assert len(set(proved.values())) == secrets
    assert all(answer["secret"] == proved[name[3:]] for name, answer in sent.items() if name.startswith("to "))
    assert len([name for name in sent if name.startswith("to ")]) == secrets
