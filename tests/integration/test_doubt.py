# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that ended in doubt, until it is rolled back or accepted; names that Ansible does not take as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Fleet

HOST = "web1"
# A package whose version 1 is content only while /srv/ek-good is there.
SETUP = r"""
set -e
rm -rf /srv/ek; mkdir -p /srv/ek; cd /srv/ek
for version in 1 2; do
  mkdir -p tree/DEBIAN
  printf "Package: ek-app\nVersion: $version\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: x\n" \
    > tree/DEBIAN/control
  printf '#!/bin/sh\n' > tree/DEBIAN/postinst
  [ $version = 2 ] ||
    echo 'test -e /srv/ek-good || { echo "ek-app: it is not good" >&2; exit 1; }' >> tree/DEBIAN/postinst
  chmod 755 tree/DEBIAN/postinst
  dpkg-deb --root-owner-group --build tree ek-app_${version}_all.deb > /dev/null
done
cp ek-app_1_all.deb /var/cache/apt/archives/
touch /srv/ek-good
dpkg --install ek-app_1_all.deb
"""
CLEAN = "dpkg --purge --force-all ek-app 2>/dev/null; rm -rf /srv/ek* /var/cache/apt/archives/ek-* /srv/www/caf*; true"
RESOURCES: list[dict[str, Any]] = [{"packages": {"names": ["ek-app"]}}]


@pytest.fixture
def host(fleet: Fleet) -> Iterator[Fleet]:
    fleet.on(HOST, CLEAN)
    yield fleet
    fleet.on(HOST, CLEAN)


@pytest.fixture
def doubtful(host: Fleet) -> dict[str, Any]:
    """The result of a change that ended in doubt."""
    host.on(HOST, SETUP)
    begun = host.module(HOST, "ft_checkpoint", name="before", resources=RESOURCES, confirm_within="10m")
    host.on(HOST, "dpkg --install /srv/ek/ek-app_2_all.deb; rm /srv/ek-good")
    ended = host.module(HOST, "ft_settle", generation=begun["generation"], verdict="roll_back")
    assert ended["failed"] and ended["outcome"] == "in_doubt", ended
    return ended


def begin(fleet: Fleet) -> dict[str, Any]:
    resources = [{"files": {"paths": ["/srv/www"]}}]
    return fleet.module(HOST, "ft_checkpoint", name="next", resources=resources, confirm_within="10m")


def playbook(fleet: Fleet, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), f"evenkeel.fault_tolerance.{name}"]
    argv += ["-i", "inventory", "-e", json.dumps(variables)]
    return subprocess.run(argv, cwd=fleet.home, env=dict(os.environ), capture_output=True, text=True, check=False)


def test_a_doubt_is_named_by_its_cause_and_refuses_the_next_change(host: Fleet, doubtful: dict[str, Any]) -> None:
    cause = "ek-app:all: ek-app: it is not good; installed ek-app package post-installation script"
    assert any(one.startswith(cause) for one in doubtful["left"]), doubtful["left"]
    refused = begin(host)
    assert refused["failed"] and "in doubt" in refused["msg"] and refused["armed"]["left"], refused
    assert any(one.startswith(cause) for one in host.module(HOST, "ft_info")["doubt"]["left"])
    # Its cause is gone: a rollback makes it good, and the host takes changes again.
    host.on(HOST, "touch /srv/ek-good")
    assert not host.module(HOST, "ft_rollback", checkpoint="before")["failed"]
    assert host.module(HOST, "ft_info")["doubt"] is None and begin(host)["armed"]


def test_a_host_is_accepted_by_name_and_never_all(host: Fleet, doubtful: dict[str, Any]) -> None:
    assert playbook(host, "accept").returncode != 0 and host.module(HOST, "ft_info")["doubt"]
    assert playbook(host, "accept", evenkeel_hosts=HOST).returncode == 0
    remembered = host.module(HOST, "ft_info")
    assert remembered["doubt"] is None and any("ek-app" in one for one in remembered["last"]["left"])
    assert begin(host)["armed"]


def test_what_cannot_be_put_back_is_refused_where_that_is_asked_for(host: Fleet) -> None:
    host.on(HOST, SETUP + "rm /var/cache/apt/archives/ek-*")
    every = [{"packages": {**RESOURCES[0]["packages"], "keep": "all"}}]
    words = {"name": "x", "resources": every, "confirm_within": "10m", "require_restorable": True}
    for check in (True, False):
        refused = host.module(HOST, "ft_checkpoint", check, **words)
        assert refused["failed"] and "ek-app 1" in refused["msg"] and "ek-app 1" in refused["left"][0], refused
    assert not host.armed(HOST) and not host.touched(HOST)


def test_names_that_are_not_utf_8_come_back_and_are_reported(host: Fleet) -> None:
    host.on(HOST, r"printf before > /srv/www/caf$(printf '\351'); printf x > '/srv/www/caf\xe9'")
    declared = r"/srv/www/caf\xe9"
    taken = host.module(HOST, "ft_checkpoint", name="before", resources=[{"files": {"paths": [declared]}}])
    assert not taken["failed"] and taken["stats"]["paths"] >= 1, taken
    host.on(HOST, r"printf after > /srv/www/caf$(printf '\351'); printf y > '/srv/www/caf\xe9'")
    result = host.module(HOST, "ft_rollback", checkpoint="before")
    assert not result["failed"] and [one["target"] for one in result["done"]] == [declared], result
    assert host.on(HOST, r"cat /srv/www/caf$(printf '\351') '/srv/www/caf\xe9'") == "beforey"
    # Of a whole tree, as the driver sees it.
    tree = [{"files": {"paths": ["/srv/www"]}}]
    begun = host.module(HOST, "ft_checkpoint", name="tree", resources=tree, confirm_within="10m")
    host.on(HOST, "rm /srv/www/caf*")
    settled = host.module(HOST, "ft_settle", generation=begun["generation"], verdict="roll_back")
    assert settled["outcome"] == "rolled_back", settled
    assert {r"/srv/www/caf\xe9", r"/srv/www/caf\x5cxe9"} <= {one["target"] for one in settled["done"]}
