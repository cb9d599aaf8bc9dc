# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource sysctl: names are checked, values come back, in a tree of files and in a kernel's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import flows
import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    RestoreFailed,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry, sysctl
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Kind, Restore
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Hasher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback

NAMES = ["vm.swappiness", "net/ipv4/conf/eth0.5/forwarding", "kernel.core_pattern"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "sys"
    for name, value in (
        ("vm/swappiness", b"60\n"),
        ("net/ipv4/conf/eth0.5/forwarding", b"0\n"),
        ("kernel/core_pattern", b"|/usr/bin/dump \xff\tsha256=x\n"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(value)
    return root


@pytest.fixture
def values(root: Path, monkeypatch: pytest.MonkeyPatch) -> sysctl.Sysctl:
    """The kind on the tree ``root``, also as the registry knows it."""
    kind = sysctl.Sysctl(str(root))
    monkeypatch.setitem(registry.KINDS, "sysctl", kind)
    return kind


def test_all_values_are_those_that_the_configuration_sets(root: Path, tmp_path: Path) -> None:
    (tmp_path / "10.conf").write_text("# vm.dirty = 1\nvm.swappiness = 10\n-kernel/core_pattern=x\nvm.not_here = 1\n")
    kind = sysctl.Sysctl(str(root), [f"{tmp_path}/*.conf"])
    assert kind.check({}) == {"names": ["kernel/core_pattern", "vm/swappiness"], "others": True}
    beside = [kind.check({"names": ["vm.swappiness"]})]
    assert kind.for_plain_host(beside, []) == ({"names": ["kernel/core_pattern"]}, [])
    assert sysctl.Sysctl(str(root), []).for_plain_host([], []) == ({}, [])
    assert sysctl.Sysctl(str(tmp_path / "none"), []).for_plain_host([], []) == (None, [])
    assert kind.outside({"names": ["vm/swappiness"]}, [], [{}], System()) == []


def test_a_pattern_in_a_file_stands_for_the_keys_that_match_it(root: Path, tmp_path: Path) -> None:
    for name in ("all", "default"):
        (root / "net/ipv4/conf" / name).mkdir()
        (root / "net/ipv4/conf" / name / "forwarding").write_text("0\n")
    (tmp_path / "10.conf").write_text("net.ipv4.conf.*.forwarding = 1\n-net.ipv4.conf.all.forwarding\n")
    # An interface of a container is there at one look, and not at the next.
    names = [f"net/ipv4/conf/{name}/forwarding" for name in ("all", "default")]
    assert sysctl.Sysctl(str(root), [f"{tmp_path}/*.conf"]).check({})["names"] == names


def test_what_a_file_of_the_change_has_set_comes_back_with_the_file(
    store: Store, values: sysctl.Sysctl, root: Path, tmp_path: Path
) -> None:
    files = tmp_path / "sysctl.d"
    files.mkdir()
    values.configured = [f"{files}/*.conf"]
    (root / "kernel/hostname").write_text("web1\n")
    (root / "kernel/ns_last_pid").write_text("1\n")
    declared = [{"sysctl": {}}, {"files": {"paths": [str(files)]}}]
    taken = checkpoint(store, "before", declared)
    (root / "kernel/ns_last_pid").write_text("2\n")
    assert checkpoint(store, "before", declared)["id"] == taken["id"], "a value changes by itself"
    (root / "kernel/hostname").write_text("mistaken\n")
    (root / "vm/swappiness").write_text("10\n")
    rollback(store, "before")
    assert (root / "kernel/hostname").read_text() == "web1\n"
    assert (root / "vm/swappiness").read_text() == "10\n", "no file that sets values comes back"
    (files / "99.conf").write_text("vm.swappiness = 10\n")
    result = rollback(store, "before")
    assert (root / "vm/swappiness").read_text() == "60\n" and not (files / "99.conf").exists()
    assert (root / "kernel/ns_last_pid").read_text() == "2\n"
    targets = [one["target"] for one in result["done"]]
    assert str(files / "99.conf") in targets and [one for one in targets if "/" in one and one[0] != "/"] == [
        "vm/swappiness"
    ]


def test_a_value_that_no_file_sets_is_told_and_not_put_back(
    store: Store, values: sysctl.Sysctl, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "10.conf").write_text("vm.swappiness = 10\n")
    values.configured = [f"{tmp_path}/*.conf"]
    at = Restore(System(), store.objects)

    def told() -> dict[str, str]:
        section = store.manifest(taken["id"]).sections[0]
        lines = registry.own_lines(section)
        found = dict(values.beyond(section.spec, lines, at))
        swap = f"{root}/vm/swappiness"
        assert values.covers(section.spec, lines, {**found, swap: "value"}, at) == {swap}
        return found

    taken = checkpoint(store, "before", [{"sysctl": {}}])
    assert told() == {}
    core = f"{root}/kernel/core_pattern"
    (root / "kernel/core_pattern").write_text("core\n")
    (root / "vm/swappiness").write_text("1\n")
    assert told() == {core: "value"}
    assert rollback(store, "before")["left"] == [] and told() == {core: "value"}
    assert (root / "kernel/core_pattern").read_text() == "core\n"
    assert values.suggest({core: "value", "/x": "value"}, [], at) == ({"names": ["kernel/core_pattern"]}, {core})
    # A file that sets it comes with the change, and goes with it.
    (tmp_path / "20.conf").write_text("kernel.core_pattern = core\n")
    assert told() == {}
    assert list(values.beyond({"names": []}, ["value vm/swappiness =60"], at)) == []


def test_another_value_that_cannot_be_set_is_named(
    store: Store, values: sysctl.Sysctl, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values.configured = ["/etc/sysctl.d/*.conf"]
    lines = values.capture(values.check({}), Hasher(), store.system)
    kept: dict[str, bytes] = {}
    monkeypatch.setattr(Hasher, "add", lambda _self, data: kept.setdefault("data", data) and "0" * 64)
    lines = values.capture(values.check({}), Hasher(), store.system)
    monkeypatch.setattr(type(store.objects), "read", lambda _self, _sha: iter([kept["data"]]))
    (root / "vm/swappiness").write_text("10\n")
    values.configured = ["/etc/sysctl.conf", "/etc/sysctl.d/*.conf"]
    assert values.plan(lines, Restore(store.system, store.objects, changed=["/etc", "/etc/hosts"])) == []
    at = Restore(store.system, store.objects, changed=["/etc/sysctl.d"])
    (step,) = values.plan(lines, at)
    (root / "vm/swappiness").unlink()
    (root / "vm/swappiness").symlink_to("/dev/null")  # It takes every value, and has none.
    (leave,) = values.apply([step], at)
    assert leave.detail["note"] == "sysctl: a value is not as it was: vm/swappiness: does not keep its value"
    (root / "vm/swappiness").unlink()
    (root / "vm/swappiness").write_text("10\n")
    assert values.plan(lines, at) != []
    # On another machine, or under another kernel, a value may have another default.
    monkeypatch.setattr(os, "cpu_count", lambda: 1000)
    assert values.plan(lines, at) == []


def test_the_name_of_the_host_is_no_state_of_another(values: sysctl.Sysctl) -> None:
    lines = ["value kernel/hostname =lost", "value vm/swappiness =60", "others sha256=" + "0" * 64]
    kept, left = values.keep_here(lines, ["value kernel/hostname =spare", "value vm/swappiness =10"])
    assert (kept, left) == (["value vm/swappiness =60", "value kernel/hostname =spare"], [])
    foreign = values.outside({"names": ["vm/swappiness"]}, lines, [{"names": ["vm.swappiness"]}], System())
    assert foreign == ["without a limit", "kernel/hostname"]


def test_keys_of_single_interfaces_are_not_looked_at(root: Path) -> None:
    conf = root / "net/ipv4/conf"
    for name in ("all", "eth1", "eth2"):
        (conf / name).mkdir()
        (conf / name / "forwarding").write_text("0\n")
    (root / "read-only").mkdir()
    (root / "read-only/key").touch(0o444)
    (conf / "all/stable_secret").write_text("::1\n")
    assert {one.split("/")[3] for one in sysctl._walk(str(root)) if "conf" in one} == {"all"}
    # To look into the second would wait for systemd.
    (root / "fs/binfmt_misc").mkdir(parents=True)
    (root / "fs/binfmt_misc/status").touch()
    assert not {"read-only/key", "fs/binfmt_misc/status"} & set(sysctl._walk(str(root)))


def lines_of(kind: Kind, store: Store, *names: str) -> list[str]:
    return kind.capture(kind.check({"names": list(names)}), Hasher(), store.system)


def test_dots_and_slashes_name_the_same_key(values: Kind) -> None:
    assert values.check({"names": ["net.ipv4.conf.eth0/5.forwarding"]}) == values.check({"names": [NAMES[1]]})


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"names": []}, "leave it out for all"),
        ({"names": ["vm.swappiness"], "values": {}}, "unknown key 'values'"),
        ({"names": ["vm.swapiness"]}, "this kernel has no vm/swapiness"),
        ({"names": ["vm"]}, "'vm' is no key"),
        ({"names": ["net.ipv4"]}, "net/ipv4 is a group of keys"),
        ({"names": ["vm/../../secret"]}, "is no key"),
        ({"names": ["/etc/passwd"]}, "is no key"),
        ({"names": ["vm..swappiness"]}, "is no key"),
    ],
)
def test_a_bad_declaration_is_named(values: Kind, spec: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        values.check(spec)


def test_what_could_not_be_put_back_is_refused(values: Kind, root: Path) -> None:
    (root / "vm" / "swappiness").chmod(0o444)
    with pytest.raises(UsageError, match="vm/swappiness is read-only here"):
        values.check({"names": ["vm.swappiness"]})


def test_values_come_back_exactly(store: Store, values: Kind, root: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    taken = checkpoint(store, "before", [{"sysctl": {"names": NAMES}}])
    assert checkpoint(store, "before", [{"sysctl": {"names": NAMES}}])["id"] == taken["id"]
    assert store.verify(store.manifest(taken["id"])) == {}
    (root / "vm" / "swappiness").write_text("10\n")
    (root / "kernel" / "core_pattern").write_text("core\n")
    predicted = rollback(store, "before", check_mode=True)["planned"]
    result = rollback(store, "before")
    assert {path: path.read_bytes() for path in before} == before
    assert result["done"] == predicted and [one["target"] for one in predicted] == [
        "kernel/core_pattern",
        "vm/swappiness",
    ]
    assert "dump" not in str(result)
    rollback(store, "undo")
    assert (root / "vm" / "swappiness").read_text() == "10\n"
    assert (root / "kernel" / "core_pattern").read_text() == "core\n"


def test_a_key_that_is_gone_is_left_and_the_others_are_set(store: Store, values: Kind, root: Path) -> None:
    checkpoint(store, "before", [{"sysctl": {"names": NAMES}}])
    (root / "vm" / "swappiness").write_text("10\n")
    (root / NAMES[1]).unlink()
    (root / NAMES[1]).parent.rmdir()
    with pytest.raises(RestoreFailed, match="net/ipv4/conf/eth0.5/forwarding: No such file") as failed:
        rollback(store, "before")
    assert (root / "vm" / "swappiness").read_text() == "60\n"
    assert [one["target"] for one in failed.value.result["done"]] == ["vm/swappiness"]


def test_at_boot_a_key_may_be_still_to_come(store: Store, values: Kind, root: Path) -> None:
    lines = lines_of(values, store, *NAMES)
    (root / NAMES[1]).unlink()
    assert values.plan(lines, Restore(store.system, store.objects, boot=True)) == []
    assert [step.why for step in values.plan(lines, Restore(store.system, store.objects))] == ["is not there"]
    (root / "vm" / "swappiness").write_text("10\n")
    early = Restore(store.system, store.objects, boot=True)
    assert [step.target for step in values.apply(values.plan(lines, early), early)] == ["vm/swappiness"]
    assert (root / "vm" / "swappiness").read_text() == "60\n"


@pytest.mark.parametrize("line", ["value ../../etc/passwd =x", "value vm =1", "value vm/swappiness 1", "value x"])
def test_a_doctored_line_is_refused(store: Store, values: Kind, line: str) -> None:
    with pytest.raises(Damaged, match="refused"):
        values.plan([line], Restore(store.system, store.objects))


# Writing ip_forward changes redirects behind our back: in a network of its own, with the kernel's own values.
_REAL = (
    f"import sys; sys.path.append({str(Path(flows.__file__).parent)!r})"
    + """
sys.path.insert(0, sys.argv[1])
from flows import checkpoint, rollback
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
names = ["net.ipv4.ip_forward", "net.ipv4.conf.all.accept_redirects", "net.ipv4.ip_local_port_range"]
def values(): return [open("/proc/sys/" + name.replace(".", "/")).read() for name in names]
def write(name, value): open("/proc/sys/" + name.replace(".", "/"), "w").write(value)
write(names[0], "1"); write(names[1], "1")
before = values()
store = Store(sys.argv[2], System(has_systemd=lambda: False))
checkpoint(store, "before", [{"sysctl": {"names": names}}])
write(names[0], "0"); write(names[1], "1"); write(names[2], "2000 3000")
changed = values()
result = rollback(store, "before")
assert values() == before != changed, (before, changed, values())
print(result["proved"])
"""
)


@pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root")
def test_values_of_a_real_kernel_come_back(tmp_path: Path) -> None:
    base = next(path for path in sys.path if os.path.isdir(os.path.join(path, "ansible_collections", "evenkeel")))
    argv = ["unshare", "--net", sys.executable, "-c", _REAL, base, str(tmp_path / "store")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "sysctl: 3 as recorded" in done.stdout


def test_values_of_the_network_go_back_with_what_lets_people_in(values: sysctl.Sysctl) -> None:
    """One of them takes all addresses of IPv6 away, and the network comes back after them."""
    lines = values.capture(values.check({"names": NAMES}), Hasher(), System())
    assert [line.split(" ")[1] for line in values.access_lines(lines)] == ["net/ipv4/conf/eth0.5/forwarding"]
    assert not values.applies_files and registry.KINDS["network"].applies_files
