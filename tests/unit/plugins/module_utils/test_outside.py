# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change has changed outside of what is protected is told when it ends, and nothing of that delays its end."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import report
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import changes, outside
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Unhealthy, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import footprint, places
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.footprint import Changed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import footprints, strays
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import accounts, flow, proof
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.flow import finish
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.suggest import suggest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import background, kernel
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.files import Files
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.firewall.firewall import Firewall
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Restore
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.packages import owners, packages
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.packages.package import Package
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.services import Services
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.sysctl import Sysctl
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.users import Users
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.change import (
    ChangedPath,
    Holder,
    Outside,
    RolledBack,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import links
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, info, settle

GOOD = [{"command": {"argv": ["true"]}}]
BAD = [{"command": {"argv": ["false"]}}]
NOW = (0.0, 0.1, 0.05)


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a test may lie in memory."""
    monkeypatch.setattr(footprint, "DISKS", footprint.DISKS | {"tmpfs"})


@pytest.fixture
def host(store: Store, tmp_path: Path) -> Path:
    """A host of three directories, of which etc/app is declared without its logs; it is armed."""
    root = tmp_path / "host"
    for name in ("etc/app", "usr/bin", "var"):
        (root / name).mkdir(parents=True)
    for name in ("etc/app/conf", "etc/app/one.log", "etc/other", "usr/bin/su", "usr/bin/gone"):
        (root / name).write_text("before")
    (root / "usr/bin/su").chmod(0o4755)
    arm(store, root)
    return root


def arm(store: Store, root: Path, **more: Any) -> int:
    declared = [{"files": {"paths": [str(root / "etc/app")], "exclude": ["*.log"]}}]
    places_ = {"paths": [str(root)], "exclude": [str(root / "var")], **more}
    return int(checkpoint(store, "change", declared, within=60.0, outside=places_)["generation"])


def change(root: Path) -> None:
    """A change that touches what is declared, and more."""
    (root / "etc/app/conf").write_text("after")
    (root / "etc/app/one.log").write_text("after and longer")
    (root / "usr/bin/su").chmod(0o755)
    (root / "usr/bin/new").write_text("after")
    (root / "usr/bin/gone").unlink()
    (root / "var/state").write_text("after")


def paths(root: Path, told: Any) -> dict[str, str]:
    told = told if isinstance(told, Mapping) else vars(told)
    found = [one if isinstance(one, dict) else vars(one) for one in told["paths"]]
    return {one["path"].removeprefix(f"{root}/"): one["what"] for one in found}


CHANGED = {"etc/app/one.log": "content", "usr/bin/gone": "removed", "usr/bin/new": "new", "usr/bin/su": "mode"}


def test_what_stays_changed_after_a_rollback_is_named_path_by_path(store: Store, host: Path) -> None:
    change(host)
    with pytest.raises(Unhealthy) as failed:
        settle(store, 1, BAD, *NOW)
    told = failed.value.result["outside"]
    assert paths(host, told) == CHANGED
    assert (told["count"], told["complete"]) == (4, True)
    assert "what is protected is as before; 4 paths outside of it stay changed: " in failed.value.message
    assert f"{host}/usr/bin/su (mode)" in failed.value.message
    assert (host / "etc/app/conf").read_text() == "before"
    assert paths(host, info(store)["outside"]) == CHANGED


def test_a_confirmation_warns_of_the_jobs_of_the_change_that_still_run(
    store: Store, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(host)
    monkeypatch.setattr(background, "running", lambda *_: ["pid 7: python3 async_wrapper.py"])
    told = settle(store, 1, GOOD, *NOW)
    assert told["outcome"] == "confirmed"
    assert told["warnings"] == [
        "a job of Ansible still runs, and may change the host once more: pid 7: python3 async_wrapper.py"
    ]


def test_a_rollback_warns_of_all_that_is_not_as_before(
    store: Store, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(host)
    monkeypatch.setattr(strays, "found", lambda *_: ["pid 7: sleep"])
    monkeypatch.setattr(accounts, "orphaned", lambda _known: ["/home/new still belongs to uid 7"])
    held: list[Holder] = [{"unit": "app.service", "processes": [], "paths": ["/etc/app/conf"]}]
    monkeypatch.setattr(proof, "holders", lambda *_words, **_more: held)
    with pytest.raises(Unhealthy) as failed:
        settle(store, 1, BAD, *NOW)
    assert failed.value.result["left"] == [
        "started since the host was armed, and goes on in the background: pid 7: sleep"
    ]
    assert failed.value.result["warnings"] == [
        "app.service still works with files that were replaced, such as /etc/app/conf; restart it to use the new files",
        "/home/new still belongs to uid 7",
    ]


def test_a_rollback_says_which_processes_it_could_not_look_at(
    store: Store, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def holders(*_words: object, skip: Callable[[str], object], **_more: object) -> list[Holder]:
        for pid in range(7):
            skip(f"app[{pid}]")
        return []

    change(host)
    monkeypatch.setattr(proof, "holders", holders)
    with pytest.raises(Unhealthy) as failed:
        settle(store, 1, BAD, *NOW)
    told = "app[0], app[1], app[2], app[3], app[4] and 2 more hold up whoever reads what they have mapped"
    assert failed.value.result["warnings"] == [f"restart_needed is not whole: {told}"]


def test_what_stays_changed_in_the_kernel_is_told_by_its_path(
    store: Store, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {"mounted": {"/data": ["xfs", "rw"]}, "swaps": [], "settings": {"/sys/pages": "always"}}
    monkeypatch.setattr(kernel, "read_settings", lambda: seen)
    monkeypatch.setattr(footprints, "command", SimpleNamespace(is_host=lambda _store: True))
    monkeypatch.setattr(places, "PATHS", (str(host),))
    monkeypatch.setattr(places, "FLAT", ())
    settle(store, 1, GOOD, *NOW)
    arm(store, host)
    seen = {
        "mounted": {"/data": ["xfs", "ro"], "/new": ["tmpfs", "rw"]},
        "swaps": ["/swap"],
        "settings": {"/sys/pages": "never"},
    }
    with pytest.raises(Unhealthy) as failed:
        settle(store, 2, BAD, *NOW)
    assert paths(host, failed.value.result["outside"]) == {
        "/data": "mount options",
        "/new": "mounted",
        "/swap": "swap on",
        "/sys/pages": "value",
    }
    told = suggest(store).suggested
    assert told == [{"mounts": {}}], "a setting below /sys is no file"


def test_notes_that_differ_in_their_first_word_are_one_sentence() -> None:
    notes = [f"{name} was removed; its data stay" for name in "abcdefg"]
    assert flow.beside(RolledBack(left=["l"], notes=[*notes[:1], "other", *notes[1:]])) == [
        "each of a, b, c, d, e and 2 more was removed; its data stay",
        "other",
    ]


def test_what_a_confirmed_change_did_beside_is_told_the_same(store: Store, host: Path) -> None:
    change(host)
    told = settle(store, 1, GOOD, *NOW)
    assert told["outcome"] == "confirmed" and paths(host, told["outside"]) == CHANGED
    assert paths(host, settle(store, 1, GOOD, *NOW)["outside"]) == CHANGED, "asked once more"
    assert paths(host, info(store)["outside"]) == CHANGED


def test_a_change_within_what_is_protected_leaves_nothing(store: Store, host: Path) -> None:
    (host / "etc/app/conf").write_text("after")
    (host / "etc/app/new").write_text("after")
    with pytest.raises(
        Unhealthy, match="outside of it no change is seen where programs and configuration lie$"
    ) as failed:
        settle(store, 1, BAD, *NOW)
    assert failed.value.result["outside"] == {"paths": [], "count": 0, "complete": True}


@pytest.mark.parametrize("probes", [GOOD, BAD])
def test_what_is_left_out_below_a_new_directory_is_named(store: Store, host: Path, probes: list[Any]) -> None:
    """A rollback removes the directory but for that, as for the jobs of ``at`` in a new ``/var/spool/cron``."""
    (host / "etc/app/jobs/of").mkdir(parents=True)
    for name in ("jobs/conf", "jobs/one.log", "jobs/of/two.log", "jobs/of/two.log~"):
        (host / "etc/app" / name).write_text("new")
    (host / "etc/app/jobs/all.log/deep").mkdir(parents=True)
    with suppress(Unhealthy):
        settle(store, 1, probes, *NOW)
    left = ("etc/app/jobs/all.log", "etc/app/jobs/of/two.log", "etc/app/jobs/one.log")
    assert paths(host, info(store)["outside"]) == dict.fromkeys(left, "new")
    assert (host / "etc/app/jobs/conf").exists() == (probes == GOOD)


@pytest.mark.parametrize("late", [False, True])
def test_no_link_is_followed_below_a_new_directory_and_the_time_is_limited(
    store: Store, host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """A link may lead to a server that is gone, and a user may fill a directory."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.log").write_text("of another")
    (host / "etc/app/link").symlink_to(tmp_path / "elsewhere")
    (host / "etc/app/new/deep").mkdir(parents=True)
    (host / "etc/app/new/deep/link").symlink_to(tmp_path / "elsewhere")
    (host / "etc/app/new/deep/b.log").write_text("new")
    if late:
        monkeypatch.setattr(footprints, "BELOW", 0.0)
    found = settle(store, 1, GOOD, *NOW)["outside"]
    assert paths(host, found) == ({} if late else {"etc/app/new/deep/b.log": "new"})
    assert found["complete"] is not late


def test_no_mount_below_a_new_directory_is_entered(tmp_path: Path) -> None:
    (tmp_path / "new/mount").mkdir(parents=True)
    (tmp_path / "new/mount/a.log").touch()
    (tmp_path / "new/b.log").touch()
    new, mount = os.fsencode(tmp_path / "new"), os.fsencode(tmp_path / "new/mount")

    def bare(*mounts: bytes) -> list[bytes]:
        return sorted(footprints._bare_below(new, lambda path: not path.endswith(b".log"), mounts, lambda: True))

    assert bare() == [new + b"/b.log", mount + b"/a.log"]
    assert bare(mount) == [new + b"/b.log"] and bare(new) == []


def test_a_host_that_puts_itself_back_names_what_stays_changed(store: Store, host: Path) -> None:
    change(host)
    armed = Path(store.join("armed"))
    armed.write_text(json.dumps(dict(json.loads(armed.read_text()), due=0.0)))
    with store.locked():
        finish(store)
    assert paths(host, info(store)["outside"]) == CHANGED
    with pytest.raises(
        Unhealthy, match="has put itself back already, by deadline: .*4 paths outside of it stay"
    ) as one:
        settle(store, 1, GOOD, *NOW)
    assert paths(host, one.value.result["outside"]) == CHANGED


def test_a_confirmed_change_that_is_taken_back_names_what_stays_changed(store: Store, host: Path) -> None:
    change(host)
    settle(store, 1, GOOD, *NOW)
    (host / "etc/other").write_text("longer than before")
    with pytest.raises(Unhealthy, match="5 paths outside of it stay changed") as failed:
        settle(store, 1, GOOD, *NOW, verdict="take_back")
    assert paths(host, failed.value.result["outside"]) == {**CHANGED, "etc/other": "content"}


def test_a_boot_does_not_wait_and_then_it_is_not_known(store: Store, host: Path) -> None:
    change(host)
    after = Store(store.root, replace(store.system, boot_id=lambda: "another"))
    with after.locked():
        finish(after, boot=True)
    assert info(after)["last"]["outcome"] == "rolled_back" and info(after)["outside"] is None
    Path(store.join("before")).rename(store.join("away"))
    with pytest.raises(Unhealthy, match="whether anything outside of it changed is not known"):
        settle(after, 1, GOOD, *NOW)
    Path(store.join("away")).rename(store.join("before"))
    with pytest.raises(Unhealthy, match="4 paths outside of it stay changed"):
        settle(after, 1, GOOD, *NOW)


def test_what_lies_in_memory_is_not_compared_after_a_boot(
    store: Store, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "RUNTIME", os.fsencode(host / "usr") + b"/")
    change(host)
    with pytest.raises(Unhealthy, match="4 paths outside of it stay changed"):
        settle(store, 1, GOOD, *NOW, verdict="roll_back")
    after = Store(store.root, replace(store.system, boot_id=lambda: "another"))
    with pytest.raises(Unhealthy) as failed:
        settle(after, 1, GOOD, *NOW)
    assert paths(host, failed.value.result["outside"]) == {"etc/app/one.log": "content"}


def test_what_tasks_changed_after_the_host_went_back_is_told_as_well(store: Store, host: Path) -> None:
    with pytest.raises(Unhealthy, match="outside of it no change is seen"):
        settle(store, 1, None, *NOW, verdict="roll_back")
    change(host)
    with pytest.raises(Unhealthy, match="4 paths outside of it stay changed") as failed:
        settle(store, 1, None, *NOW, verdict="roll_back")
    assert paths(host, failed.value.result["outside"]) == CHANGED == paths(host, info(store)["outside"])


def test_of_the_change_before_nothing_is_told(store: Store, host: Path) -> None:
    change(host)
    settle(store, 1, GOOD, *NOW)
    assert arm(store, host) == 2
    (host / "etc/other").write_text("longer than before")
    assert paths(host, settle(store, 2, GOOD, *NOW)["outside"]) == {"etc/other": "content"}
    assert arm(store, host) == 3
    Path(store.join("before")).unlink()
    assert settle(store, 3, GOOD, *NOW)["outside"] is None
    assert info(store)["outside"] is None


def test_a_record_of_another_change_is_not_compared(store: Store, host: Path) -> None:
    kept = Path(store.join("before")).read_bytes()
    settle(store, 1, GOOD, *NOW)
    arm(store, host)
    Path(store.join("before")).write_bytes(kept)
    assert settle(store, 2, GOOD, *NOW)["outside"] is None


def test_a_record_of_a_walk_in_another_order_is_not_compared(store: Store, host: Path) -> None:
    with gzip.open(store.join("before")) as stream:
        first, rest = stream.read().split(b"\n", 1)
    with gzip.open(store.join("before"), "wb") as stream:
        stream.write(json.dumps({**json.loads(first), "flat": []}).encode() + b"\n" + rest)
    assert settle(store, 1, GOOD, *NOW)["outside"] is None


def test_nothing_is_looked_at_where_no_place_is_named(store: Store, host: Path) -> None:
    settle(store, 1, GOOD, *NOW)
    arm(store, host, paths=[])
    assert not os.path.exists(store.join("before"))
    (host / "etc/other").write_text("longer than before")
    assert settle(store, 2, GOOD, *NOW)["outside"] is None


@pytest.mark.parametrize("data", [b"", b"no gzip", None])
def test_a_damaged_record_keeps_no_change_from_its_end(store: Store, host: Path, data: bytes | None) -> None:
    path = Path(store.join("before"))
    path.write_bytes(path.read_bytes()[:-20] if data is None else data)
    change(host)
    told = settle(store, 1, GOOD, *NOW)
    assert told["outcome"] == "confirmed" and told["outside"] is None


def test_whatever_fails_there_keeps_no_change_from_its_end(
    store: Store, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_more: object) -> None:
        raise RuntimeError("nobody thought of it")

    monkeypatch.setattr(footprint, "differences", broken)
    change(host)
    with pytest.raises(Unhealthy, match=r"not known \(RuntimeError: nobody thought of it\)"):
        settle(store, 1, BAD, *NOW)
    assert (host / "etc/app/conf").read_text() == "before"


def test_a_disk_that_is_full_does_not_keep_a_change_from_being_armed(
    store: Store, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    settle(store, 1, GOOD, *NOW)
    monkeypatch.setattr(footprint, "record", full)
    assert arm(store, host) == 2


def test_a_walk_without_time_tells_that_not_all_was_looked_at(
    store: Store, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(host)
    monkeypatch.setattr(footprints, "_AFTER", 0.0)
    with pytest.raises(Unhealthy, match="and not all places could be looked at$") as failed:
        settle(store, 1, BAD, *NOW)
    assert failed.value.result["outside"]["complete"] is False


def test_many_paths_are_counted_and_the_first_are_named(store: Store, host: Path) -> None:
    for number in range(250):
        (host / f"usr/bin/{number:03}").write_text("x")
    told = settle(store, 1, GOOD, *NOW)["outside"]
    assert (told["count"], len(told["paths"]), told["complete"]) == (250, 100, True)
    assert told["paths"][0]["path"] == f"{host}/usr/bin/000"


@pytest.mark.parametrize("name", [b"a\nb", b"\x1b[31mred", b"not-\xff-utf8", b"\xe2\x80\xaeturned", b"n" * 255])
def test_hostile_names_are_escaped_and_bounded(store: Store, host: Path, name: bytes) -> None:
    folder = os.fsencode(host) + b"/usr/" + b"d" * 200
    os.mkdir(folder)
    settle(store, 1, GOOD, *NOW)
    arm(store, host)
    with open(folder + b"/" + name, "wb"):
        pass
    with pytest.raises(Unhealthy) as failed:
        settle(store, 2, BAD, *NOW)
    told: Any = report({**failed.value.result, "msg": failed.value.message})
    text = json.dumps(told, ensure_ascii=False)
    text.encode("utf-8")
    said = outside.some(Outside([ChangedPath(os.fsdecode(folder + b"/" + name)[:500], "new")], 1, True))
    assert said.isprintable() and "\n" not in said
    assert all(len(one["path"]) <= 2000 for one in told["outside"]["paths"])
    assert told["outside"]["count"] == 1
    assert not set("\x1b\u202e") & set(text)


def test_the_store_and_our_own_units_are_no_change(store: Store, tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    declared = [{"files": {"paths": [str(tmp_path / "live")]}}]
    checkpoint(store, "change", declared, within=60.0, outside={"paths": [str(tmp_path)]})
    (tmp_path / "evenkeel-deadman.service").write_text("x")
    (tmp_path / "ansible-tmp-1.2-3").mkdir()
    for folder in (tmp_path, tmp_path / "live"):
        (folder / "evenkeel-bundle-run-1").mkdir()
    with pytest.raises(Unhealthy) as failed:
        settle(store, 1, BAD, *NOW)
    assert failed.value.result["outside"]["paths"] == []
    assert (tmp_path / "live/evenkeel-bundle-run-1").exists(), "a bundle in transit is part of no tree"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"paths": ["etc"]}, "outside: paths: 'etc' is not an absolute path"),
        ({"paths": ["/a/../b"]}, "outside: paths: "),
        ({"path": ["/etc"]}, "outside: unknown key 'path'"),
        ({"exclude": [""]}, "outside: exclude"),
        (["/etc"], "outside takes a mapping"),
    ],
)
def test_a_bad_declaration_is_named_before_anything_is_armed(
    store: Store, tmp_path: Path, spec: Any, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        checkpoint(store, "change", [{"files": {"paths": [str(tmp_path)]}}], within=60.0, outside=spec)
    assert changes.armed(store) is None


def test_the_usual_places_are_programs_and_configuration_and_no_data() -> None:
    found = places.check(None)
    assert found["paths"][0] == "/etc" and found["paths"][-1] == "/root"
    left_out = footprints._left_out(Store("/var/lib/evenkeel", System()), found)
    jobs = {"/var/spool/at", "/var/lib/systemd/linger", "/var/lib/gems", "/var/lib/flatpak/exports"}
    assert jobs < set(found["paths"]) and not any(left_out(os.fsencode(f"{path}/x")) for path in jobs)
    for path in (b"/root/.ansible", b"/usr/lib/x/__pycache__", b"/etc/passwd-"):
        assert left_out(path), path
    for path in (b"/usr", b"/etc", b"/opt", b"/etc/passwd", b"/root/.ssh", b"/boot/vmlinuz", b"/var/spool/cron/root"):
        assert not left_out(path), path
    for path in (b"systemd/network/10-netplan-eth0.network", b"NetworkManager/conf.d/10-globally-managed-devices.conf"):
        assert left_out(b"/run/" + path), "netplan makes it anew at each call"
    for volumes in (b"/var/lib/docker/volumes/", b"/var/lib/containers/storage/volumes/"):
        assert left_out(volumes + b"0a" * 32), "a volume without a name goes with its container"
        assert not left_out(volumes + b"0a" * 31) and not left_out(volumes + b"pictures")
    assert left_out(b"/var/lib/docker/volumes/backingFsBlockDev"), "docker makes it anew at each start"
    data = (b"/home", b"/var", b"/tmp", b"/srv")
    assert not any(map(left_out, data)), "they themselves are looked at, and their own entries"
    around = footprints._left_out(Store("/var/lib/evenkeel", System()), places.check({"paths": ["/"]}))
    assert all(map(around, data)), "nobody asked for data who asked for all of a host"
    srv = footprints._left_out(Store("/var/lib/evenkeel", System()), places.check({"paths": ["/", "/srv/"]}))
    assert [path for path in data if not srv(path)] == [b"/srv"], "a path that is declared counts itself"
    kept = places.check({"paths": ["/srv"], "exclude": ["/srv"]})
    assert footprints._left_out(Store("/var/lib/evenkeel", System()), kept)(b"/srv"), "a person left it out"


def test_units_that_count_until_the_next_boot_are_looked_at_and_our_own_are_none_of_them() -> None:
    units = "/run/systemd/system"
    left_out = footprints._left_out(Store("/var/lib/evenkeel", System()), places.check(None))
    ours = ["evenkeel-deadman.service", "evenkeel-deadman.timer.d", "evenkeel-watch.timer", "evenkeel-health.service"]
    seen = [name for name in (*ours, "app.service", "nginx.service.d") if not left_out(f"{units}/{name}".encode())]
    assert units in places.PATHS and seen == ["app.service", "nginx.service.d"]


def test_files_that_decide_about_logins_are_looked_at_in_each_home(
    store: Store, host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprints, "command", SimpleNamespace(is_host=lambda _store: True))
    monkeypatch.setattr(places, "PATHS", (str(host / "etc"),))
    monkeypatch.setattr(places, "FLAT", ())
    monkeypatch.setattr(footprints, "_PASSWD", str(tmp_path / "passwd"))
    accounts = {"a": "/bin/sh", "b": "/bin/bash", "c": "/usr/sbin/nologin", "d": "/bin/sh"}
    for name in accounts:
        (host / name / ".ssh").mkdir(parents=True)
        (host / name / ".ssh/authorized_keys").write_text("key")
    lines = [f"{name}:x:1:1::{host}/{name}:{shell}\n" for name, shell in accounts.items()]
    (tmp_path / "passwd").write_text("".join(lines))
    settle(store, 1, GOOD, *NOW)
    arm(store, host, paths=None, exclude=[])
    (host / "a/.ssh/authorized_keys").write_text("key and another one")
    (host / "b/.bashrc").write_text("new")
    (host / "b/.ssh/authorized_keys").unlink()
    (host / "b/.ssh/known_hosts").write_text("nobody logs in by that")
    (host / "c/.ssh/authorized_keys").write_text("nobody logs in there")
    (host / "d/.ssh").rename(host / "d/elsewhere")
    (host / "d/.ssh").symlink_to("elsewhere")
    with pytest.raises(Unhealthy) as failed:
        settle(store, 2, BAD, *NOW)
    assert paths(host, failed.value.result["outside"]) == {
        "a/.ssh/authorized_keys": "content",
        "b/.bashrc": "new",
        "b/.ssh/authorized_keys": "removed",
        "d/.ssh/authorized_keys": "removed",
    }


@pytest.mark.parametrize("most", [7, 1_000_000])
def test_files_of_homes_beyond_the_limit_make_the_result_a_part(
    store: Store, host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(footprints, "command", SimpleNamespace(is_host=lambda _store: True))
    monkeypatch.setattr(footprints, "MOST_ALONE", most)
    monkeypatch.setattr(places, "PATHS", (str(host / "etc"),))
    monkeypatch.setattr(places, "FLAT", ())
    monkeypatch.setattr(footprints, "_PASSWD", str(tmp_path / "passwd"))
    homes = [f"/{'x' * 200}/{number}" for number in range(500)]
    (tmp_path / "passwd").write_text("".join(f"a:x:1:1::{home}:/bin/sh\n" for home in homes))
    settle(store, 1, GOOD, *NOW)
    arm(store, host, paths=None, exclude=[])
    told = settle(store, 2, GOOD, *NOW)["outside"]
    assert (told["paths"], told["complete"]) == ([], most > 7)


def test_of_the_usual_places_those_with_data_are_looked_at_by_their_own_entries(
    store: Store, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprints, "command", SimpleNamespace(is_host=lambda _store: True))
    monkeypatch.setattr(places, "PATHS", (str(host / "etc"),))
    monkeypatch.setattr(places, "FLAT", (str(host / "var"),))
    (host / "var/lib").mkdir()
    settle(store, 1, GOOD, *NOW)
    arm(store, host, paths=None, exclude=[])
    (host / "var/lib").chmod(0o700)
    (host / "var/lib/deep").mkdir()
    (host / "var/new").mkdir()
    (host / "etc").chmod(0o700)
    with pytest.raises(Unhealthy) as failed:
        settle(store, 2, BAD, *NOW)
    assert paths(host, failed.value.result["outside"]) == {"var/lib": "mode", "var/new": "new", "etc": "mode"}


# -- what kinds cover


def at(system: System | None = None, since: float = 0.0) -> Restore:
    return Restore(system or System(), None, since=since)  # type: ignore[arg-type]


def test_a_tree_that_a_kind_exchanges_as_a_whole_is_covered() -> None:
    kind = registry.KINDS["subvolumes"]
    found = kind.covers({"paths": ["/srv/data"]}, [], {"/srv/data/x": "new", "/srv/database": "new"}, at())
    assert set(found) == {"/srv/data/x"}


def test_links_of_a_declared_unit_are_covered_those_of_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "system"
    monkeypatch.setattr(links, "KEPT", str(kept))
    wants = kept / "multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "web.service").symlink_to("/lib/systemd/system/web.service")
    (wants / "other.service").symlink_to("/lib/systemd/system/other.service")
    (kept / "web.target.wants").mkdir()
    (kept / "web.target.wants/web.service").symlink_to("/lib/systemd/system/web.service")
    changed = dict.fromkeys(
        [str(wants / "web.service"), str(wants / "other.service"), str(wants), str(kept / "web.target.wants")], "new"
    )
    gone = f"{kept}/gone.target.wants/web.service"
    unit = {"name": "web.service", "exists": True, "enabled": "enabled", "active": True, "links": {gone: "x"}}
    found = Services().covers({"names": ["web.service"], "processes": []}, [f"unit {json.dumps(unit)}"], changed, at())
    assert set(found) == {
        gone,
        str(wants / "web.service"),
        str(kept / "web.target.wants"),
        f"{kept}/web.target.wants/web.service",
    }


class Debian:
    """dpkg as it answers: tool was upgraded, fresh installed, old removed, su is as it was."""

    LISTS = {
        "tool": "/.\n/usr\n/usr/bin\n/bin/tool\n/etc/tool.conf\n",
        "fresh": "/.\n/usr/share/fresh\n/usr/share/fresh/data\n",
        "util-linux": "/.\n/usr/bin/su\n",
    }
    NOW = "tool\tamd64\t2\tinstall\tok\tinstalled\nfresh\tall\t1\tinstall\tok\tinstalled\n"
    NOW += "util-linux\tamd64\t1\tinstall\tok\tinstalled\n"
    OWNERS = {"/bin/tool": "tool:amd64", "/usr/bin/su": "util-linux:amd64", "/usr/share/fresh": "fresh, other"}

    def run(self, argv: Any, _timeout: float) -> Completed:
        if argv[:2] == ["dpkg-query", "-W"]:
            return Completed(tuple(argv), 0, self.NOW, "")
        if argv[:2] == ["dpkg-query", "-L"]:
            return Completed(tuple(argv), 0, "\n".join(self.LISTS[name.partition(":")[0]] for name in argv[2:]), "")
        if argv[:2] == ["dpkg-query", "-S"]:
            found = [f"{self.OWNERS[path]}: {path}\n" for path in argv[2:] if path in self.OWNERS]
            return Completed(tuple(argv), 1, "diversion by x from: /bin/tool\n" + "".join(found), "no path found")
        return Completed(tuple(argv), 127, "", "not found")


@pytest.fixture
def debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> System:
    monkeypatch.setattr(owners, "_INFO", str(tmp_path / "info"))
    monkeypatch.setattr(os.path, "islink", lambda path: path == "/bin")
    (tmp_path / "info").mkdir()
    for name in ("tool:amd64", "fresh", "util-linux"):
        (tmp_path / f"info/{name}.list").touch()
    os.utime(tmp_path / "info/util-linux.list", (100, 100))
    return replace(System(), run=Debian().run)


def test_files_of_packages_that_changed_their_version_are_covered_and_no_other(debian: System) -> None:
    then = ["deb tool:amd64 1 manual", "deb util-linux:amd64 1 manual", "deb old:amd64 1 manual"]
    changed = {
        "/usr/bin/tool": "replaced",
        "/usr/share/fresh": "new",
        "/etc/tool.conf": "new",
        "/usr/bin/su": "mode",
        "/usr/bin/stranger": "new",
    }
    kind = packages.Packages()
    covered = kind.covers({"names": None}, then, changed, at(debian, since=1000.0))
    assert set(changed) - set(covered) == {"/etc/tool.conf", "/usr/bin/su", "/usr/bin/stranger"}
    alone = kind.covers({"names": ["fresh"]}, then, changed, at(debian, since=1000.0))
    assert set(changed) & set(alone) == {"/usr/share/fresh"}


def test_after_a_rollback_a_file_of_a_package_is_covered_only_if_it_is_the_same_again(debian: System) -> None:
    then = ["deb tool:amd64 2 manual", "deb fresh:all 1 manual", "deb util-linux:amd64 1 manual"]
    kind = packages.Packages()
    for what, covered in (("replaced", True), ("changed", True), ("mode", False), ("content", False)):
        found = kind.covers({"names": None}, then, {"/usr/bin/tool": what}, at(debian, since=1000.0))
        assert ("/usr/bin/tool" in found) is covered
    assert "/usr/bin/su" not in kind.covers(
        {"names": None}, then, {"/usr/bin/su": "replaced"}, at(debian, since=1000.0)
    )


def test_the_files_of_a_package_that_is_gone_are_those_of_its_package_file(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "deb"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text("Package: old\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n")
    (root / "usr/share/old").mkdir(parents=True)
    (root / "usr/share/old/a b").write_text("x")
    (root / "usr/share/old/link").symlink_to("a b")
    subprocess.run(["dpkg-deb", "--build", root, tmp_path / "old.deb"], check=True, capture_output=True)
    with store.locked():
        from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Writer

        writer = Writer(store.objects)
        sha = writer.add((tmp_path / "old.deb").read_bytes())
        writer.publish()
    one = Package("old", "all", "1", sha256=sha)
    found = owners.paths_in([one], store.objects, System())
    assert {"/usr/share/old", "/usr/share/old/a b", "/usr/share/old/link"} <= found
    assert owners.paths_in([one._replace(sha256="0" * 64)], store.objects, System()) == set()


# -- suggestions


def suggested(kind: Any, changed: Mapping[str, str], taken: Any = (), **more: Any) -> Any:
    return kind.suggest(changed, list(taken), at(**more))


def test_packages_are_suggested_where_they_were_installed_and_files_where_somebody_changed_them(debian: System) -> None:
    changed = {"/usr/bin/tool": "replaced", "/usr/bin/su": "mode", "/usr/share/fresh": "new", "/opt/x[1]": "new"}
    spec, known = suggested(packages.Packages(), changed, system=debian, since=1000.0)
    assert spec == {"names": ["fresh", "tool"]} and known == {"/usr/bin/tool", "/usr/share/fresh"}


def test_units_are_suggested_for_their_files_and_links() -> None:
    base = "/etc/systemd/system"
    changed = [
        f"{base}/app.service",
        f"{base}/nginx.service.d/limits.conf",
        f"{base}/timers.target.wants/backup.timer",
        "/etc/rc2.d/S01old",
    ]
    others = [f"{base}/app@.service", f"{base}/service.d/all.conf", f"{base}/my.target", "/etc/systemd/journald.conf"]
    spec, known = suggested(Services(), dict.fromkeys(changed + others, "new"))
    assert spec == {"names": ["app.service", "backup.timer", "nginx.service", "old.service"]}
    assert known == set(changed)
    assert suggested(Services(), {f"{base}/evenkeel-boot.service": "new"}) == (None, set())


def test_keys_of_the_kernel_are_suggested_as_their_files_set_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import sysctl

    (tmp_path / "proc/vm").mkdir(parents=True)
    (tmp_path / "proc/vm/swappiness").write_text("60\n")
    text = b"# vm.other=1\n-vm.swappiness = 10\nvm.nowhere=1\nnet.*.x=1\n;vm.x=2\n"
    monkeypatch.setattr(sysctl, "open_regular", lambda _path: __import__("io").BytesIO(text))
    changed = {"/etc/sysctl.d/99-hard.conf": "new", "/etc/motd": "content"}
    assert suggested(Sysctl(str(tmp_path / "proc")), changed) == ({"names": ["vm/swappiness"]}, set())
    assert suggested(Sysctl(str(tmp_path / "proc")), {"/etc/motd": "content"}) == (None, set())


def test_accounts_and_rulesets_are_suggested_for_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert suggested(Users(), {"/etc/shadow": "content", "/etc/motd": "new"}) == ({}, {"/etc/shadow"})
    assert suggested(Users(), {"/etc/motd": "new"}) == (None, set())
    import shutil

    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/sbin/nft")
    assert suggested(Firewall(), {"/etc/nftables.conf": "content"}) == ({}, set())
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert suggested(Firewall(), {"/etc/nftables.conf": "content"}) == (None, set())


def test_files_are_suggested_by_the_directories_that_belong_together() -> None:
    changed = [
        *("/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/hard.conf", "/etc/motd", "/etc/pam.d/sshd"),
        *("/etc/systemd/journald.conf", "/etc/default/ufw", "/opt/app/bin/x", "/usr/local/bin/tool", "/usr/bin/su"),
        *("/root/.ssh/authorized_keys", "/root/.bashrc", "/var/spool/cron/crontabs/root", "/boot/grub/grub.cfg"),
    ]
    spec, known = suggested(Files(), dict.fromkeys(changed, "content"))
    assert spec == {
        "paths": [
            *("/boot/grub", "/etc/default/ufw", "/etc/motd", "/etc/pam.d", "/etc/ssh", "/etc/systemd/journald.conf"),
            *("/opt/app", "/root/.bashrc", "/root/.ssh", "/usr/bin/su", "/usr/local/bin", "/var/spool/cron"),
        ]
    }
    assert known == set(changed)


def test_no_directory_of_the_whole_system_is_suggested() -> None:
    spec, _known = suggested(Files(), {"/usr": "mode", "/usr/bin": "owner", "/etc": "changed", "/usr/bin/env": "mode"})
    assert spec == {"paths": ["/usr/bin/env"]}


def test_a_suggestion_overlaps_nothing_that_is_declared() -> None:
    changed = {
        "/etc/ssh/sshd_config": "content",
        "/etc/ssh/moduli": "content",
        "/opt/app/x.log": "new",
        "/opt/b": "new",
    }
    spec, _known = suggested(Files(), changed, ["/etc/ssh/sshd_config", "/opt/app", "/opt/b/c"])
    assert spec == {"paths": ["/etc/ssh/moduli"]}


def test_what_is_suggested_covers_what_was_changed(store: Store, host: Path) -> None:
    change(host)
    settle(store, 1, GOOD, *NOW)
    found = suggest(store).report()["suggested"]
    (files,) = [one["files"] for one in found if "files" in one]
    assert str(host / "usr/bin/su") in files["paths"] and str(host / "usr/bin/gone") in files["paths"]
    assert not any(path.startswith(str(host / "etc/app")) for path in files["paths"]), "left out there by a person"
    manifest = store.manifest(store.resolve("change"))
    sections = registry.check([*found])
    left = footprints.uncovered(
        [Changed(os.fsencode(host / path), what) for path, what in CHANGED.items()],
        replace(manifest, sections=[*manifest.sections, *sections]),
        at(),
    )
    assert [os.path.basename(one.path) for one in left] == [b"one.log"]


def test_nothing_is_suggested_where_nothing_is_known(store: Store, host: Path) -> None:
    assert suggest(store).report()["suggested"] == []


def test_a_held_host_was_looked_at_when_it_was_held_and_the_last_step_is_short(
    store: Store, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(host)
    settle(store, 1, GOOD, *NOW, verdict="hold")
    assert info(store)["outside"] is None, "the change is not over"
    monkeypatch.setattr(footprint, "differences", lambda *_args: pytest.fail("looked once more"))
    assert paths(host, settle(store, 1, GOOD, *NOW)["outside"]) == CHANGED


def test_on_a_machine_that_plays_several_hosts_the_usual_places_are_no_hosts(store: Store) -> None:
    with store.locked():
        footprints.remember(store, 1, places.check(None))
    assert not Path(store.join("before")).exists()
