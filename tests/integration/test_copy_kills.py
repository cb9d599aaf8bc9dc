# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kills of source, target and controller, and cuts of the network, while copies are made and brought back.

After each of them every copy that a peer shows is whole, as a judge finds that shares no code with the store, and the
next run completes.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

import psutil
import pytest

from .conftest import Fleet

pytestmark = pytest.mark.long

VARIABLES = """
evenkeel_peers: [web1, web2, web3]
evenkeel_copies: 2
evenkeel_resources:
  - files: {paths: [/srv/data]}
"""
# The part of an undisturbed run after which it is disturbed.
MOMENTS = EARLY, HALF, LATE, LAST = (0.3, 0.5, 0.7, 0.9)
# By docs/store-format.md: of each id in the names, the manifest and all contents that it names.
JUDGE = r"""
import hashlib, json, os, re, sys
top, found = sys.argv[1], {}
def read(*parts):
    with open(os.path.join(top, *parts), "rb") as stream:
        return stream.read()
packed = {}
for name in os.listdir(os.path.join(top, "packs")) if os.path.isdir(os.path.join(top, "packs")) else []:
    if name.endswith(".pack"):
        data = read("packs", name)
        at = data.index(b"\n") + 1
        while at < len(data):
            end = data.index(b"\n", at)
            sha, size = data[at:end].decode().split()
            packed[sha] = hashlib.sha256(data[end + 1 : end + 1 + int(size)]).hexdigest()
            at = end + 2 + int(size)
for ref in os.listdir(os.path.join(top, "refs")) if os.path.isdir(os.path.join(top, "refs")) else []:
    for one in [] if ".tmp" in ref else read("refs", ref).decode().split():
        text = read("manifests", one)
        wrong = [] if hashlib.sha256(text).hexdigest() == one else ["manifest"]
        for sha in set(re.findall(r"sha256=([0-9a-f]{64})", text.decode())):
            if packed.get(sha) != sha and hashlib.sha256(read("objects", sha[:2], sha[2:])).hexdigest() != sha:
                wrong.append(sha)
        found[one] = wrong
print(json.dumps(found))
"""


def copies(fleet: Fleet, peer: str) -> dict[str, list[str]]:
    """Id -> what is wrong, for each checkpoint that the copy of web1 on the peer shows."""
    script = f"python3 -c '{JUDGE}' /var/lib/evenkeel/replicas/web1"
    return dict(json.loads(fleet.on(peer, script)))


def change(fleet: Fleet) -> None:
    """Fill the tree of web1 anew: many small files, and a few large ones."""
    fleet.on(
        "web1",
        "mkdir -p /srv/data; cd /srv/data; for n in 1 2 3; do head -c 12000000 /dev/urandom >large$n; done;"
        " python3 -c 'import os\nfor n in range(1500):"
        ' open(f"small{n}", "wb").write(os.urandom(900))\'; rm -rf /var/before; cp -a /srv/data /var/before',
    )


def differs(fleet: Fleet) -> str:
    return fleet.on("web1", "rsync -aHAX --checksum --delete -n -i /var/before/ /srv/data/")


def controller(process: subprocess.Popen[str], _fleet: Fleet) -> None:
    """Kill the driver and all that it started, as the kernel does when memory runs out."""
    driver = psutil.Process(process.pid)
    for one in [driver, *driver.children(recursive=True)]:
        one.kill()


def source(_process: subprocess.Popen[str], fleet: Fleet) -> None:
    fleet.on("web1", "pkill -KILL python3 || true")


def targets(_process: subprocess.Popen[str], fleet: Fleet) -> None:
    for host in ("web2", "web3"):
        fleet.on(host, "pkill -KILL python3 || true")


def cut(_process: subprocess.Popen[str], fleet: Fleet) -> None:
    fleet.lab.disconnect("web2")


Disturb = Callable[[subprocess.Popen[str], Fleet], None]
PROTECT = [
    *((controller, moment) for moment in MOMENTS),
    *((source, moment) for moment in (EARLY, HALF, LATE)),
    *((targets, moment) for moment in (HALF, LATE, LAST)),
    *((cut, moment) for moment in (EARLY, HALF, LATE)),
]
RECOVER = [
    *((controller, moment) for moment in MOMENTS),
    *((source, moment) for moment in (HALF, LATE)),
    *((cut, moment) for moment in (EARLY, HALF)),
]


@pytest.fixture
def three(fleet: Fleet) -> Fleet:
    (fleet.home / "inventory" / "group_vars" / "all.yml").write_text(VARIABLES)
    for host in fleet.names[:3]:
        fleet.on(host, "rm -rf /srv/data /var/before")
    return fleet


def seconds(fleet: Fleet, *words: str) -> float:
    began = time.monotonic()
    code, said = fleet.evenkeel(*words)
    assert code == 0, said
    return time.monotonic() - began


def disturbed(fleet: Fleet, how: Disturb, after: float, *words: str) -> None:
    """Run the command, disturb it, and let it end by itself."""
    process = fleet.start(*words)
    time.sleep(after)
    how(process, fleet)
    process.communicate(timeout=300)
    fleet.lab.connect("web2")


def test_no_half_copy_is_ever_shown_and_the_next_run_completes(three: Fleet) -> None:
    # Without the reading that follows, so that the moments lie in the copying.
    words = ("protect", "-i", "inventory", "--limit", "web1", "-e", "evenkeel_heal=false")
    change(three)
    took, met = seconds(three, *words), 0
    for how, moment in PROTECT:
        change(three)
        before = {peer: copies(three, peer) for peer in ("web2", "web3")}
        disturbed(three, how, took * moment, *words)
        for peer in ("web2", "web3"):
            shown = copies(three, peer)
            assert not any(shown.values()), (how.__name__, moment, peer, shown)
            met += shown == before[peer]
        assert seconds(three, *words) and not any(copies(three, "web3").values())
        newest = three.on("web1", "tail -n 1 /var/lib/evenkeel/refs/protected").strip()
        assert all(newest in copies(three, peer) for peer in ("web2", "web3")), (how.__name__, moment)
    for host in three.names[:3]:
        three.on(host, "rm -f /var/tmp/evenkeel-bundle-*/until")  # As if the time for the transfers were over.
    time.sleep(16)  # Whatever is younger may belong to a run that is still at work.
    seconds(three, *words)
    left = "ls -d /var/tmp/evenkeel-* 2>/dev/null; grep -h evenkeel- ~root/.ssh/authorized_keys; true"
    assert [three.on(host, left) for host in three.names[:3]] == [""] * 3
    print(f"{len(PROTECT)} disturbances; {met} of {2 * len(PROTECT)} copies were not complete by then")
    assert met > len(PROTECT) // 2  # Else they came too late to mean anything.


def test_a_recovery_that_is_disturbed_is_completed_by_the_next(three: Fleet) -> None:
    change(three)
    seconds(three, "protect", "-i", "inventory", "--limit", "web1")
    words = ("recover", "web1", "-i", "inventory")
    lose = "rm -rf /srv/data /var/lib/evenkeel"
    three.on("web1", lose)
    took = seconds(three, *words)
    for how, moment in RECOVER:
        three.on("web1", lose)
        disturbed(three, how, took * moment, *words)
        # A tree of which nothing has come back yet, or all of it: never a part (I5).
        parts = int(three.on("web1", "ls /srv/data 2>/dev/null | wc -l"))
        seconds(three, *words)
        assert differs(three) == "", (how.__name__, moment)
        print(f"{how.__name__} at {moment:.0%}: {parts} of 1503 files were back")
