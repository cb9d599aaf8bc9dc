# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What comes from a peer is as large as it has announced, and fits; what goes to one fits there."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _carry
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._carry import Carrier

# Another program writes, as sftp does.
ENDLESS = "import sys\nwith open(sys.argv[1], 'wb') as out:\n    for _ in range(64): out.write(b'x' * (1 << 20))"


@dataclass
class Peer:
    """Answers what it is told to, and sends ``sent`` bytes."""

    answers: dict[str, dict[str, Any]]
    sent: int = 0
    endless: bool = False
    name: str = "h2"
    put_: list[str] = field(default_factory=list)
    asked: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    breaks: bool = False

    def module(self, _name: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append((arguments["_phase"], arguments["_values"]))
        return self.answers.get(arguments["_phase"], {})

    def directory(self) -> str:
        return "/home/ops/.ansible/tmp/x/"

    def fetch(self, _remote: str, local: str) -> None:
        if self.endless:
            subprocess.run([sys.executable, "-c", ENDLESS, local], check=False)
        else:
            Path(local).write_bytes(b"x" * self.sent)

    def put(self, local: str, remote: str) -> None:
        self.put_.append(remote)
        if self.breaks:
            raise AnsibleError("no room left")


def fetch(peer: Peer, local: Path) -> Mapping[str, Any]:
    carrier = Carrier("ft_recover", "h1", lambda _host: "/store")
    host: Any = peer
    return carrier.fetch(host, "a" * 64, [], True, str(local))


def announcing(size: int, **more: Any) -> Peer:
    return Peer({"export": {"path": "/var/tmp/evenkeel-bundle-1/bundle", "bytes": size}}, **more)


def test_what_was_announced_is_taken(tmp_path: Path) -> None:
    assert fetch(announcing(10, sent=10), tmp_path / "b") == {
        "path": "/var/tmp/evenkeel-bundle-1/bundle",
        "bytes": 10,
        "left": "",
    }


@pytest.mark.parametrize("sent", [9, 11, 5_000_000])
def test_another_size_than_was_announced_is_a_failure(tmp_path: Path, sent: int) -> None:
    found = fetch(announcing(10, sent=sent), tmp_path / "b")
    assert found["failed"] and "10 bytes was announced" in found["msg"]
    assert (tmp_path / "b").stat().st_size <= 11


def test_a_file_without_end_is_cut_off_where_it_was_to_end(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert fetch(announcing(1000, endless=True), tmp_path / "b")["failed"]
    assert (tmp_path / "b").stat().st_size <= 1001
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before


@pytest.mark.parametrize(("code", "is_room"), [("Refused", True), ("Damaged", False)])
def test_a_peer_without_room_for_the_bundle_says_so(tmp_path: Path, code: str, is_room: bool) -> None:
    found = fetch(Peer({"export": {"failed": True, "msg": "the bundle has 9 bytes", "error": code}}), tmp_path / "b")
    assert found["failed"] and found.get("no_room", False) is is_room and found["msg"].startswith("h2: ") is is_room


def test_more_than_there_is_room_for_is_not_even_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_carry, "room", lambda *_directories: 100)
    found = fetch(announcing(101, sent=101), tmp_path / "b")
    assert found["failed"] and "has room for 100" in found["msg"] and not os.path.exists(tmp_path / "b")


@pytest.mark.parametrize("room, sends", [(9, False), (10, True), (-1, False), ("x", False)])
def test_a_bundle_goes_only_where_there_is_room_for_it(tmp_path: Path, room: Any, sends: bool) -> None:
    (tmp_path / "bundle-0").write_bytes(b"x" * 10)
    peer = Peer(
        {
            "land": {"path": "/var/tmp/evenkeel-bundle-1/bundle", "room": room},
            "receive": {"state": "verified", "bytes": 10},
        }
    )
    carrier = Carrier("ft_replicate", "h1", lambda _host: "/store")
    host: Any = peer
    found = carrier.deliver(host, "receive", "a" * 64, str(tmp_path / "bundle-0"))
    assert bool(peer.put_) is sends and bool(found.get("failed")) is not sends
    assert found.get("no_room", False) is (room == 9)


def test_a_part_of_a_bundle_does_not_stay_where_it_could_not_be_sent_whole(tmp_path: Path) -> None:
    (tmp_path / "bundle-0").write_bytes(b"x" * 10)
    peer = Peer({"land": {"path": "/var/tmp/evenkeel-bundle-1/bundle", "room": 10}}, breaks=True)
    host: Any = peer
    with pytest.raises(AnsibleError, match="no room left"):
        Carrier("ft_replicate", "h1", lambda _host: "/store").deliver(
            host, "receive", "a" * 64, str(tmp_path / "bundle-0")
        )
    assert [phase for phase, _values in peer.asked] == ["land", "discard"]
    assert peer.asked[0][1]["size"] == 10, "the peer makes room for it"
    assert peer.asked[1][1]["path"] == "/var/tmp/evenkeel-bundle-1/bundle"
