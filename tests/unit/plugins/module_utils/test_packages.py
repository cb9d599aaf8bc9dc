# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource packages: read from dpkg's own words, compared, its package files found once, refused when unclear."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    RestoreFailed,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import footprint
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.step import Step
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import commands
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Restore
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.packages import (
    apt,
    architectures,
    choices,
    diversions,
    dpkg,
    forgetting,
    kept,
    keys,
    overrides,
    package,
    packages,
    rpm,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.packages.package import Package
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.packages.packages import Packages
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.registry import KINDS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Hasher, Writer
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback

from .conftest import SYSTEM

SHA = "a" * 64
FOR_PLAIN_HOST = Packages.for_plain_host
# A program that holds a lock on a file.
HOLDER = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(); time.sleep(60)"
WEB = Package("web", "amd64", "1:1.0-1~deb12u1", sha256=SHA)


def plan(then: Sequence[str], *live: Package) -> list[str]:
    steps = packages.compare(packages.parse(then), live, lambda one, other: one < other)
    return [f"{step.action} {step.target}: {step.why}" for step in steps]


# -- words


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": ["a"]}, "unknown key 'name'"),
        ({"names": []}, "leave it out for all packages"),
        ({"names": {"nginx": None}}, "must be a text"),
        ({"names": ["-o=x"]}, "no name of a package"),
        ({"names": ["../x"]}, "no name of a package"),
        ({"names": [True]}, "must be a text, not True"),
        ({"names": ["dpkg:any"]}, "no name of a package"),
    ],
)
def test_a_bad_declaration_is_named(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Packages().check(spec)


def test_all_packages_or_those_named() -> None:
    assert Packages().check({}) == {"names": None}
    assert Packages().check({"names": ["b", "a:i386", "b"]}) == {"names": ["a:i386", "b"]}


def test_what_dpkg_and_apt_say_is_read() -> None:
    listed = (
        "web\tamd64\t1.0\thold\tok\tinstalled\nlib\ti386\t2.0\tinstall\tok\tinstalled\n"
        "lib\tamd64\t2.0\tinstall\tok\ttriggers-awaited\ndocs\tall\t3.0\tinstall\tok\tinstalled\n"
        "old\tamd64\t1.0\tdeinstall\tok\tconfig-files\nnever\tamd64\t\tunknown\tok\tnot-installed\n"
        "half\tamd64\t1.0\tinstall\treinstreq\thalf-installed\nlate\tamd64\t1.0\tinstall\tok\thalf-configured\n"
    )
    marks = (
        "Package: lib\nArchitecture: i386\nAuto-Installed: 1\n\n"
        "Package: docs\nArchitecture: amd64\nAuto-Installed: 1\n\n"
        "Package: web\nArchitecture: amd64\nAuto-Installed: 0\n"
    )
    assert sorted(one.line() for one in dpkg.packages_of(listed, marks).values()) == [
        "deb docs:all 3.0 auto",
        "deb half:amd64 1.0 manual status=half-installed-reinstreq",
        "deb late:amd64 1.0 manual status=half-configured",
        "deb lib:amd64 2.0 manual",
        "deb lib:i386 2.0 auto",
        "deb web:amd64 1.0 manual hold",
    ]


@pytest.mark.parametrize(
    "package",
    [WEB._replace(manager="rpm", name="kernel-core", arch="x86_64", version="0:6.1^git~1-2.el9_4"), WEB]
    + [
        WEB._replace(sha256=""),
        WEB._replace(auto=None, manager="rpm"),
        WEB._replace(hold=True, auto=True, status="unpacked"),
        WEB._replace(name="g++-12"),
    ],
)
def test_a_line_is_read_as_it_was_written(package: Package) -> None:
    assert Package.parse(package.line()) == package
    assert packages.parse([package.line()]).present == [package]


@pytest.mark.parametrize(
    "line",
    [
        "deb ../web:amd64 1 manual",
        "deb -o:amd64 1 manual",
        "deb web 1 manual",
        "deb web:amd64 -1 manual",
        "deb web:amd64 1/2 manual",
        "deb web:amd64 1 sometimes",
        f"deb web:amd64 1 manual sha256={'a' * 63}",
        "deb -x -",
        "apk web:amd64 1 manual",
        "",
    ],
)
def test_a_line_that_was_never_written_is_damage(line: str) -> None:
    with pytest.raises(Damaged, match="cannot be read"):
        packages.parse([line])


# -- the plan


def test_no_difference_no_step() -> None:
    held = WEB._replace(hold=True, auto=True)
    assert plan([held.line()], held._replace(sha256=""), Package("other", "amd64", "1")) == []
    assert plan([held.line(), "deb * -"], held._replace(sha256="")) == []


def test_each_kind_of_difference_has_its_step() -> None:
    then = [WEB.line(), "deb * -"]
    now = WEB._replace(sha256="")
    assert plan(then) == ["install web:amd64 1:1.0-1~deb12u1: is not installed"]
    assert plan(then, now._replace(version="1:2")) == ["downgrade web:amd64 1:1.0-1~deb12u1: is 1:2"]
    assert plan(then, now._replace(version="0.9")) == ["upgrade web:amd64 1:1.0-1~deb12u1: is 0.9"]
    assert plan(then, now._replace(status="unpacked")) == ["reinstall web:amd64 1:1.0-1~deb12u1: is unpacked"]
    assert plan(then, now._replace(hold=True)) == ["unhold web:amd64: is held"]
    assert plan(then, now._replace(auto=True)) == ["manual web:amd64: is marked auto"]
    assert plan([WEB._replace(hold=True, auto=True).line()], now) == [
        "hold web:amd64: is not held",
        "auto web:amd64: is marked manual",
    ]
    stays = "was not installed; its configuration and data stay (state rc)"
    assert plan(then, now, Package("new", "all", "1")) == [f"remove new:all: {stays}"]
    assert "not in the store" in plan([now.line()])[0]


def test_only_what_was_declared_is_removed() -> None:
    then = [WEB.line(), "deb extra -"]
    live = [WEB, Package("extra", "amd64", "1"), Package("other", "amd64", "1")]
    assert [one.partition(":")[0] for one in plan(then, *live)] == ["remove extra"]
    assert plan(["deb extra:i386 -"], *live) == []


def test_what_a_kill_left_elsewhere_is_configured() -> None:
    broken = Package("other", "amd64", "1", status="half-configured")
    assert plan([WEB.line()], WEB, broken) == ["configure other:amd64: is half-configured"]


def test_a_package_that_changed_its_architecture_is_replaced_not_removed() -> None:
    then = [WEB._replace(arch="all").line(), "deb * -"]
    assert plan(then, WEB) == ["reinstall web:all 1:1.0-1~deb12u1: is amd64"]
    both = [WEB.line(), WEB._replace(arch="i386").line(), "deb * -"]
    assert plan(both, WEB) == ["install web:i386 1:1.0-1~deb12u1: is not installed"]


def test_a_transaction_does_what_was_asked_for_and_no_more() -> None:
    said = "Inst web [2] (1 local-deb [amd64])\nRemv lib [1]\nRemv other:i386 [1]\nConf web (1 local-deb [amd64])\n"
    lib = Package("lib", "amd64", "1")
    assert apt.beyond(said, [WEB], [lib]) == ["other:i386 (Remv)"]
    assert apt.beyond(said, [lib], [WEB]) == ["web (Inst)", "lib (Remv)", "other:i386 (Remv)"]
    assert apt.beyond("Remv lib:i386 [1]", [], [lib]) == ["lib:i386 (Remv)"]
    argv = apt.apt_install(["/tmp/web.deb"], [lib])
    assert argv[-2:] == ["/tmp/web.deb", "lib:amd64-"] and "Dpkg::Options::=--force-confold" in argv


def test_what_dpkg_leaves_out_is_read_in_its_order(tmp_path: Path) -> None:
    config = tmp_path / "dpkg.cfg"
    config.write_text("no-debsig\npath-exclude /usr/share/man/*\n# path-exclude=/no\n")
    (tmp_path / "dpkg.cfg.d").mkdir()
    (tmp_path / "dpkg.cfg.d" / "docs").write_text(
        "path-exclude=/usr/share/doc/*\npath-include = '/usr/share/doc/*/a'\n"
    )
    (tmp_path / "dpkg.cfg.d" / "docs.dpkg-old").write_text("path-exclude=/bin/*\n")
    assert dpkg.filters(str(config)) == [
        *("path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/a", "path-exclude=/usr/share/man/*"),
    ]
    assert dpkg.filters(str(tmp_path / "none")) == []


def test_what_a_change_lets_dpkg_leave_out_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, before = Debian([OLD], [OLD, NEW]), ["path-exclude=/usr/share/doc/*"]
    store = host.store(tmp_path)
    monkeypatch.setattr(dpkg, "filters", lambda: before)
    checkpoint(store, "before", ALL)
    host.installed = [NEW]
    monkeypatch.setattr(dpkg, "filters", lambda: ["path-exclude=/opt/*"])
    rollback(store, "before")
    (ran,) = [one for one in host.commands if "apt-get" in one and "--yes" in one]
    options = [word.partition("::=")[2] for word in ran if word.startswith("Dpkg::Options")]
    assert options[-2:] == ["--path-include=*", "--path-exclude=/usr/share/doc/*"]


def test_what_is_diverted_by_hand_is_read_and_compared(tmp_path: Path) -> None:
    listed = tmp_path / "diversions"
    listed.write_text("/bin/a\n/bin/a.real\n:\n/bin/sh\n/bin/sh.distrib\ndash\n")
    assert (
        diversions.read_diversions(str(listed)) == {"/bin/a": "/bin/a.real"}
        and diversions.read_diversions(str(tmp_path / "none")) == {}
    )
    steps = diversions.compare({"/bin/a": "/bin/a.old", "/bin/b": "/c"}, {"/bin/a": "/bin/a.real", "/bin/b": "/c"})
    assert [(one.action, one.target, one.detail["to"]) for one in steps] == [
        ("undivert", "/bin/a", "/bin/a.real"),
        ("divert", "/bin/a", "/bin/a.old"),
    ]


def test_what_a_change_has_diverted_is_in_its_place_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, away = tmp_path / "tool", tmp_path / "tool a"
    now: dict[str, str] = {}
    host = Debian([OLD], [OLD])
    store = host.store(tmp_path)
    monkeypatch.setattr(diversions, "read_diversions", lambda: dict(now))
    here.write_text("of the package")
    checkpoint(store, "before", ALL)
    os.rename(here, away)
    here.write_text("another")
    now[str(here)] = str(away)
    monkeypatch.setattr(host, "remove_diversion", lambda: now.clear())
    done = rollback(store, "before")["done"]
    assert [one["action"] for one in done] == ["undivert"]
    assert here.read_text() == "of the package" and not away.exists() and now == {}


@pytest.mark.parametrize(
    "lines",
    [
        ["overrides", "override --force root root 755"],
        ["overrides", "override /x --update root 755"],
        ["overrides", "override /x root -g 755"],
        ["overrides", "override /x root root rwx"],
        ["diversions", "diversion --rename /x"],
        ["diversions", "diversion /x --quiet"],
        ["override /x root root 755"],
    ],
)
def test_what_could_be_an_option_of_dpkg_s_programs_is_no_line_of_ours(lines: list[str]) -> None:
    with pytest.raises(Damaged, match="cannot be read"):
        packages.parse(lines)


def test_owners_and_modes_that_dpkg_was_told_are_as_they_were(tmp_path: Path) -> None:
    listed = tmp_path / "statoverride"
    listed.write_bytes(b"root adm 2750 /var/log/a b\xff\nroot #7 4755 /bin/su\n")
    told = {"/var/log/a b\udcff": "root adm 2750", "/bin/su": "root #7 4755"}
    assert overrides.read_overrides(str(listed)) == told and overrides.read_overrides(str(tmp_path / "none")) == {}
    lines = ["overrides", "override /var/log/a%20b%FF root adm 2750", "override /bin/su root #7 4755"]
    assert packages.parse(lines).overrides == told and packages.parse([]).overrides is None
    now = {"/bin/su": "root root 755", "/bin/new": "root root 700"}
    steps = overrides.compare(told, now)
    asked: list[str] = []

    def run(argv: Sequence[str], _timeout: float) -> Completed:
        asked.append(" ".join(argv))
        return Completed(tuple(argv), 2 if "2750" in argv else 0, "", "no such group")

    left = overrides.apply(steps, replace(SYSTEM, run=run))
    assert asked == [
        "dpkg-statoverride --remove /bin/new",
        "dpkg-statoverride --update --add root adm 2750 /var/log/a b\udcff",
        "dpkg-statoverride --remove /bin/su",
        "dpkg-statoverride --update --add root #7 4755 /bin/su",
    ]
    assert list(left) == ["/var/log/a b\udcff"] and "no such group" in str(left)
    assert "stays so until its package is installed again" in steps[0].detail["note"]


# -- rpm


def plan_rpm(then: Sequence[str], *live: Package) -> list[str]:
    return [f"{one.action} {one.target}: {one.why}" for one in packages.compare_versions(packages.parse(then), live)]


def test_what_rpm_and_dnf_say_is_read() -> None:
    listed = "web\tx86_64\t0:1.0-1.el9\nlib\tnoarch\t2:1-1\ngpg-pubkey\t(none)\t0:12-34\n"
    assert [one.line() for one in rpm.packages_of(listed, "\nweb:x86_64\n\nother:noarch\n")] == [
        "rpm web:x86_64 0:1.0-1.el9 manual",
        "rpm lib:noarch 2:1-1 auto",
    ]


@pytest.mark.parametrize("answers", [[0], [1, 0], [1, 1], [124]])
def test_marks_that_dnf_does_not_tell_are_not_guessed(tmp_path: Path, answers: list[int]) -> None:
    left = list(answers)

    def run(argv: Sequence[str], _timeout: float) -> Completed:
        if argv[0] == "dnf":
            rc = left.pop(0)
            return Completed(tuple(argv), rc, "" if rc else "web:noarch", "")
        listed = "web\tnoarch\t0:1-1\nlib\tnoarch\t0:1-1\n" if argv[0] == "rpm" else ""
        return Completed(tuple(argv), 0, listed, "")

    system = replace(SYSTEM, run=run, sleep=lambda _seconds: None)
    told, known = answers[-1] == 0, ["rpm lib:noarch 0:1-1 auto", "rpm web:noarch 0:1-1 manual"]
    store = Store(str(tmp_path / "store"), system)
    lines = Packages().capture({"names": None}, Hasher(store.objects), system)[:2]
    assert left == [] and lines == (known if told else ["rpm lib:noarch 0:1-1 unknown", "rpm web:noarch 0:1-1 unknown"])
    told_of = any("asked for by name" in one for one in Packages().not_restorable({}, lines))
    assert told_of is not told
    for then, wrong in ((known, not told), (lines, False)):
        left[:] = answers * 2
        assert packages.plan(then, system) == [], "no mark is set in place of a mark that is not known"
        assert ["asked for by name" in one for one in Packages().verify(then, system)] == ([True] if wrong else [])
    left[:] = [0]
    assert packages.plan(lines, system) == []


def test_without_dnf_all_packages_of_rpm_count_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: Sequence[str], _timeout: float) -> Completed:
        return Completed(tuple(argv), *((127, "") if argv[0] == "dnf" else (0, "web\tnoarch\t0:1-1\n")), "")

    system = replace(SYSTEM, run=run)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert [one.auto for one in rpm.read_packages(system)] == [False]
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")  # Its interpreter is gone.
    assert [one.auto for one in rpm.read_packages(system)] == [None]


def test_versions_of_rpm_are_a_set() -> None:
    old = Package("web", "noarch", "0:1.0-1", sha256=SHA, manager="rpm")
    new, third = old._replace(version="0:2.0-1"), old._replace(version="0:3.0-1")
    install, remove = "install web:noarch 0:1.0-1: is 0:2.0-1", "remove web:noarch 0:2.0-1: was not installed"
    assert plan_rpm([old.line()], new) == [install, remove]
    # What a kill leaves: the one is there already, the other one still.
    assert plan_rpm([old.line()], old, new) == [remove]
    assert plan_rpm([old.line(), new.line()], old, new) == []
    assert plan_rpm([old.line(), new.line()], new, third)[0] == "install web:noarch 0:1.0-1: is 0:2.0-1, 0:3.0-1"
    other = old._replace(name="other")
    assert plan_rpm([old.line()], old, other) == []
    assert plan_rpm([old.line(), "rpm * -"], old, other) == ["remove other:noarch 0:1.0-1: was not installed"]
    assert plan_rpm([old.line()], old._replace(auto=True)) == ["manual web:noarch: is marked auto"]
    assert "not in the store" in plan_rpm([old._replace(sha256="").line()])[0]


def test_an_older_version_that_is_missing_leaves_the_newer_one_of_rpm(tmp_path: Path) -> None:
    """Of a host whose rpm does all that it is told."""
    tested: list[dict[str, list[Any]]] = []

    def run(argv: Sequence[str], _timeout: float) -> Completed:
        if argv[-1].endswith("work.json") or argv[-1] == "test":
            plan = argv[-2] if argv[-1] == "test" else argv[-1]
            tested.append(json.loads(Path(plan).read_text()))
        listed = "web\tnoarch\t0:2.0-1\nnew\tnoarch\t0:1.0-1\n" if argv[0] == "rpm" else ""
        return Completed(tuple(argv), 0, listed, "")

    at = Restore(replace(SYSTEM, run=run), Store(str(tmp_path), SYSTEM).objects)
    (tmp_path / "tmp").mkdir()
    then = ["rpm web:noarch 0:1.0-1 manual", "rpm * -"]
    with pytest.raises(RestoreFailed, match="web:noarch: the store has no package file of version 0:1.0-1") as failed:
        Packages().apply(packages.plan(then, at.system), at)
    assert (
        tested[-1] == {"install": [], "erase": [["new", "noarch", "0:1.0-1"]]} and len(failed.value.result["left"]) == 1
    )
    assert Packages().obstacles(then, at) == ["web:noarch 0:1.0-1: its package file is not in the store"]


# The library of rpm, as far as a transaction uses it: no key is trusted. A test appends to it.
LIBRARY = """
import types
error = RuntimeError
RPMPROB_FILTER_OLDPACKAGE = RPMPROB_FILTER_REPLACEPKG = RPMTRANS_FLAG_TEST = RPMSIG_DIGEST_TYPE = 1
_RPMVSF_NOSIGNATURES = 2
RPMCALLBACK_INST_OPEN_FILE, RPMCALLBACK_INST_CLOSE_FILE = 1, 2
class TransactionSet:
    flags = level = 0
    def setProbFilter(self, flags): pass
    def setVSFlags(self, flags): self.flags = flags
    def setVfyLevel(self, level): self.level = level
    def addInstall(self, header, path, how): pass
    def hdrFromFdno(self, fd):
        if not self.flags & _RPMVSF_NOSIGNATURES or self.level != RPMSIG_DIGEST_TYPE:
            raise error("public key not available")
    def check(self): pass
    def problems(self): return []
    def order(self): pass
    def run(self, callback, data): pass
"""


def rpm_transaction(tmp_path: Path, library: str, **more: bool) -> subprocess.CompletedProcess[str]:
    """Install a package file with a library of rpm that is made of this text."""
    (tmp_path / "rpm.py").write_text(library)
    (tmp_path / "work.json").write_text(json.dumps({"install": [str(tmp_path / "rpm.py")], "erase": [], **more}))
    argv = [sys.executable, "-c", rpm._TRANSACTION, str(tmp_path / "work.json")]
    return subprocess.run(argv, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False)


def test_a_package_comes_back_to_a_host_that_lacks_the_key_of_its_signature(tmp_path: Path) -> None:
    assert rpm_transaction(tmp_path, LIBRARY).returncode == 0
    older = LIBRARY.replace("def setVfyLevel", "level = 1\n    def other")
    assert rpm_transaction(tmp_path, older).returncode == 0, "an older library does not know the level"


def test_hashes_of_payloads_count_unless_this_host_has_made_one_of_the_files(tmp_path: Path) -> None:
    strict = LIBRARY + "    def run(self, callback, data): print(self.flags, self.level)\n_RPMVSF_NODIGESTS = 4\n"
    assert rpm_transaction(tmp_path, strict).stdout.split() == ["2", "1"]
    made = strict.replace("self.level != RPMSIG_DIGEST_TYPE", "self.level")
    assert rpm_transaction(tmp_path, made, anew=True).stdout.split() == ["6", "0"]


def test_where_rpm_tells_no_problem_its_own_words_are_the_cause(tmp_path: Path) -> None:
    """rpm does not wait for its lock where nobody looks on, and a scriptlet that failed is no problem to it."""
    fails = LIBRARY + "    def run(self, callback, data): import sys; print('no lock', file=sys.stderr); return []\n"
    done = rpm_transaction(tmp_path, fails)
    assert done.returncode == 1 and done.stdout.strip() == "" and done.stderr.strip() == "no lock"


def test_the_lock_of_rpm_is_waited_for_and_its_holder_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transactions: list[str] = []

    def run(argv: Sequence[str], _timeout: float) -> Completed:
        transactions.extend(argv[-1:] if rpm._TRANSACTION in argv else [])
        gone = argv[0] == "rpm" and transactions
        return Completed(tuple(argv), 0, "" if gone else "web\tnoarch\t0:1-1\n" if argv[0] == "rpm" else "", "")

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(rpm, "RPM", [str(tmp_path / "lock")])
    waited: list[float] = []
    system = replace(SYSTEM, run=run, sleep=waited.append, monotonic=lambda: float(len(waited)))
    at = Restore(system, Store(str(tmp_path), SYSTEM).objects, patience=2.0)
    changes = [("remove", Package("web", "noarch", "0:1-1", manager="rpm"))]
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        words = f"packages: {tmp_path}/lock is held by process {process.pid} (python"
        assert rpm.obstacles(changes, at)[0].startswith(words)
        with pytest.raises(RestoreFailed) as failed:
            rpm.transact(changes, at)
        process.kill()
    assert failed.value.result["left"][0].startswith(words) and len(waited) == 2 and not transactions
    assert rpm.obstacles(changes, at) == [] and rpm.transact(changes, at) == {} and transactions


@pytest.mark.parametrize(
    ("version", "option"), [("dnf5 version 5.2", "--skip-unavailable"), ("4.14.0", "--setopt=strict=0")]
)
@pytest.mark.parametrize("knows", [True, False])
def test_a_version_that_no_repository_has_does_not_keep_the_others_from_coming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, option: str, knows: bool
) -> None:
    monkeypatch.setattr(rpm, "checks_signatures", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    asked: list[list[str]] = []

    def run(argv: Sequence[str], _timeout: float) -> Completed:
        words = list(argv)
        if words[1:] == ["--version"]:
            return Completed(tuple(argv), 0, version, "")
        if words[0] == "rpm":
            name, number, arch = Path(words[-1]).stem.split("-")[0], "0:1-1", "noarch"
            return Completed(tuple(argv), 0, f"{name}\t{arch}\t{number}\n", "")
        asked.append(words)
        folder = words[words.index("--destdir") + 1]
        if knows or option not in words:
            for word in words:
                if word.startswith("web-"):
                    Path(folder, "web-1-1.noarch.rpm").write_text("web")
        said = "No package gone available" if knows else f"dnf download: error: unrecognized arguments: {option}"
        return Completed(tuple(argv), 1, "", said)

    store = Store(str(tmp_path), replace(SYSTEM, run=run))
    (tmp_path / "tmp").mkdir()
    wanted = [Package(name, "noarch", "0:1-1", manager="rpm") for name in ("gone", "web")]
    assert list(rpm.keep(wanted, Writer(store.objects), store.system, caches=())) == [("web", "noarch", "0:1-1")]
    assert option in asked[0] and asked[0][-2:] == ["gone-0:1-1.noarch", "web-0:1-1.noarch"]
    assert len(asked) == (1 if knows else 3)


def test_a_dnf_that_cannot_download_is_asked_once_and_the_advice_is_for_rpm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: dict[str, str | None] = {"dnf": "/usr/bin/dnf"}
    monkeypatch.setattr(shutil, "which", there.get)
    asked: list[str] = []

    def run(argv: Sequence[str], _timeout: float) -> Completed:
        asked.extend(argv[2:3] if argv[0] == "dnf" else [])
        return Completed(tuple(argv), 1, "", "No such command: download. Please use /usr/bin/dnf --help")

    store = Store(str(tmp_path), replace(SYSTEM, run=run))
    (tmp_path / "tmp").mkdir()
    wanted = [Package(name, "noarch", "0:1-1", manager="rpm") for name in "ab"]
    assert rpm.keep(wanted, Writer(store.objects), store.system, caches=()) == {} and asked == ["download"]
    lines = [one.line() for one in wanted]
    assert "dnf-plugins-core" in Packages().not_restorable({}, lines)[0]
    there.clear()
    assert "There is no dnf on this host" in Packages().not_restorable({}, lines)[0]


@pytest.mark.parametrize(("room", "rounds"), [(30, ["ab"]), (29, ["b", "a"]), (24, ["b"]), (9, [])])
def test_no_more_package_files_of_rpm_are_fetched_than_the_store_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, rounds: list[str]
) -> None:
    """Of two packages of 20 and 10 MB, in files of 12 and 6 MB."""
    monkeypatch.setattr(rpm, "checks_signatures", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    there: list[int] = []
    asked: list[str] = []

    def statvfs(_path: str) -> os.statvfs_result:
        free = (room - (6 if "b" in "".join(asked) else 0) << 20) + kept.RESERVE
        return os.statvfs_result((1, 1, free, free, free, 0, 0, 0, 0, 255))

    def run(argv: Sequence[str], _timeout: float) -> Completed:
        words = list(argv)
        if words[1] == "-qa":
            listed = f"a\tnoarch\t0:1-1\t{20 << 20}\nb\tnoarch\t0:1-1\t{10 << 20}\ngpg-pubkey\t(none)\t1\t(none)\n"
            return Completed(tuple(argv), 0, listed, "")
        if words[1] == "-qp":
            there.append(len(os.listdir(Path(words[-1]).parent)))
            return Completed(tuple(argv), 0, f"{Path(words[-1]).name[0]}\tnoarch\t0:1-1\n", "")
        names = [word[0] for word in words[words.index("--destdir") + 3 :]] if "download" in words else []
        asked.extend(["".join(sorted(names))] if names else [])
        for name in names:
            Path(words[words.index("--destdir") + 1], f"{name}-1-1.noarch.rpm").write_text(name)
        return Completed(tuple(argv), 0, "", "")

    monkeypatch.setattr(os, "statvfs", statvfs)
    store = Store(str(tmp_path), replace(SYSTEM, run=run))
    (tmp_path / "tmp").mkdir()
    wanted = [Package(name, "noarch", "0:1-1", manager="rpm") for name in "ab"]
    found = rpm.keep(wanted, Writer(store.objects), store.system, caches=())
    assert asked == rounds and {name for name, _arch, _version in found} == set("".join(rounds))
    assert there == [left for names in rounds for left in range(len(names), 0, -1)], "a file goes once the store has it"


def test_packages_of_another_manager_are_refused(tmp_path: Path) -> None:
    store = Debian([OLD]).store(tmp_path)
    with pytest.raises(UsageError, match="packages of rpm were recorded, and this host has those of deb"):
        packages.plan(["rpm web:noarch 0:1-1 manual"], store.system)


# -- package files


@dataclass
class Debian:
    """A host as dpkg and apt describe it: a package file is the text "name architecture version"."""

    installed: list[Package]
    offered: list[Package] = field(default_factory=list)
    reachable: bool = True
    refuses: str = ""
    ran: list[str] = field(default_factory=list)
    # What cannot be installed without another one, and what fails to be configured until its cause is gone.
    needs: dict[str, str] = field(default_factory=dict)
    fails: dict[str, str] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)
    remains: list[str] = field(default_factory=list)
    replaces: str = ""
    # Package -> its configuration files.
    conffiles: dict[str, list[str]] = field(default_factory=dict)
    # The architectures of other machines whose packages it takes.
    foreign: list[str] = field(default_factory=list)

    def store(self, root: Path) -> Store:
        return Store(str(root / "store"), replace(SYSTEM, run=self.run))

    def remove_diversion(self) -> None:
        """Replaced by tests that have one."""

    def run(self, argv: Sequence[str], _timeout: float) -> Completed:
        words = list(argv)
        log = Path(words[4]) if words[0] == "sh" else Path(os.devnull)
        if words[0] == "sh":
            self.commands.append(words[5:])
            words = words[5:]
        if words[0] == "env":
            folder = words[2]
            words = [word for word in words[1:] if "=" not in word or word.startswith("Dpkg")]
            words = words[2:] if words[0] == "-C" else words[1:]
            if "download" in words:
                self.ran.append("download")
                for one in self.offered if self.reachable else []:
                    if f"{one.key}={one.version}" in argv:
                        Path(folder, f"{one.name}.deb").write_text(" ".join(one[:3]))
                return Completed(tuple(argv), 0 if self.reachable else 100, "", "")
        if words[:4] == ["dpkg-query", "-W", "-f", "${Replaces}, "]:
            return Completed(tuple(argv), 0, self.replaces, "")
        if words[0] == "dpkg-query" and "Conffiles" in " ".join(words):
            told = [
                f"{name}:amd64\n" + "".join(f" {one} 0a1\n" for one in self.conffiles.get(name, ["/etc"]))
                for name in self.remains
            ]
            return Completed(tuple(argv), 0, "".join(told), "")
        if words[0] == "dpkg-query":
            lines = [
                f"{one[0]}\t{one[1]}\t{one[2]}\tinstall\tok\t{one.status or 'installed'}\n" for one in self.installed
            ]
            lines += [f"{name}\tamd64\t1.0\tdeinstall\tok\tconfig-files\n" for name in self.remains]
            return Completed(tuple(argv), 0, "".join(lines), "")
        if words[:2] == ["apt-cache", "show"]:
            return Completed(tuple(argv), 0, "\n\n".join(map(record, self.offered)), "")
        if words[:2] == ["dpkg-deb", "--info"]:
            return Completed(tuple(argv), 0, "/etc/none\n" if "web" in words[2] else "", "")
        if words[0] == "dpkg-deb":
            return Completed(tuple(argv), 0, Path(words[-1]).read_text().replace(" ", "\t"), "")
        if words[0] == "apt-get" and "--simulate" in words:
            names = [Path(word).read_text().split()[0] for word in words if word.endswith(".deb")]
            archs = {Path(word).read_text().split()[1] for word in words if word.endswith(".deb")}
            if not archs <= {"amd64", "all", *self.foreign}:
                return Completed(tuple(argv), 100, "", "E: Unsupported architecture")
            unmet = [f" {one} : Depends: {self.needs[one]}" for one in names if self.needs.get(one, one) not in names]
            return Completed(tuple(argv), 100 if self.refuses or unmet else 0, "\n".join(unmet), self.refuses)
        self.ran.append(words[0])
        if words[:2] == ["dpkg", "--add-architecture"]:
            self.foreign.append(words[2])
        if words[0] == "dpkg-divert":
            self.remove_diversion()
        if words[:3] == ["dpkg", "--force-confdef", "--force-confold"]:
            self.installed = [one if one.name in self.fails else one._replace(status="") for one in self.installed]
        if words[:2] == ["dpkg", "--purge"]:
            kept = [name for name in self.remains if f"{name}:amd64" not in words or name in self.fails]
            log.write_text("".join(f"dpkg: error processing package {name} (--purge):\n no\n" for name in self.fails))
            self.remains = kept
        if words[0] == "apt-get":
            said, names = "", [word[:-1] for word in words if word.endswith("-")]
            gone = [one.name for one in self.installed if one.key in names]
            self.remains = [one for one in self.remains if "--purge" not in words] + gone
            self.installed = [one for one in self.installed if one.key not in names]
            for path in (word for word in words if word.endswith(".deb")):
                name, arch, version = Path(path).read_text().split()
                state = "half-configured" if name in self.fails else ""
                made = Package(name, arch, version, status=state)
                self.installed = [one for one in self.installed if one.name != name] + [made]
                said += f"Setting up {name} ({version}) ...\n"
                if state:
                    said += (
                        f"{self.fails[name]}\ndpkg: error processing package {name} (--configure):\n its script failed"
                    )
                    said += "\n"
            log.write_text(said + "E: Sub-process /usr/bin/dpkg returned an error code (1)\n")
            return Completed(tuple(argv), 100 if self.fails else 0, "", "")
        return Completed(tuple(argv), 0, "", "")


def content(package: Package) -> str:
    return hashlib.sha256(" ".join(package[:3]).encode()).hexdigest()


def record(package: Package) -> str:
    fields = f"Package: {package.name}\nArchitecture: {package.arch}\nVersion: {package.version}\n"
    return fields + f"Description: x\n SHA256: {SHA}\nSHA256: {content(package)}\n"


OLD, NEW = Package("web", "amd64", "1.0"), Package("web", "amd64", "2.0")
ALL: list[dict[str, Any]] = [{"packages": {"keep": "all"}}]


@pytest.fixture(autouse=True)
def _no_real_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dpkg, "_ARCHIVES", str(tmp_path / "archives"))
    monkeypatch.setattr(dpkg, "_MARKS", str(tmp_path / "marks"))
    monkeypatch.setattr(apt, "_LOCKS", ())
    monkeypatch.setattr(architectures, "_FILE", str(tmp_path / "arch"))
    monkeypatch.setattr(choices, "_BOOKS", str(tmp_path / "none"))
    monkeypatch.setattr(dpkg, "INFO", str(tmp_path / "info"))
    monkeypatch.setattr(forgetting, "_UCF", str(tmp_path / "ucf"))
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    (tmp_path / "archives").mkdir()


def test_a_file_is_downloaded_once_and_check_mode_says_the_same(tmp_path: Path) -> None:
    host = Debian([OLD], [OLD, NEW])
    store = host.store(tmp_path)
    foreseen = checkpoint(store, "before", ALL, check_mode=True)
    taken = checkpoint(store, "before", ALL)
    assert foreseen["root"] == taken["root"] and taken["left"] == [] and host.ran == ["download"]
    lines = [line for line in store.manifest(taken["id"]).sections[0].lines if line.startswith("deb")]
    assert lines == [OLD._replace(sha256=content(OLD)).line(), "deb * -"]
    host.offered = []
    assert checkpoint(store, "before", ALL)["changed"] is False
    assert checkpoint(store, "other", ALL)["root"] == checkpoint(store, "before", ALL, check_mode=True)["root"]
    assert host.ran == ["download"]


def test_a_file_that_a_record_of_a_log_brought_is_known_as_well(tmp_path: Path) -> None:
    other = Package("other", "amd64", "1.0")
    host = Debian([other, OLD], [other, OLD, NEW])
    store = host.store(tmp_path)
    assert checkpoint(store, "log", ALL, kind="log")["kind"] == "snapshot"
    host.installed = [other, NEW]
    taken = checkpoint(store, "log", ALL, kind="log")
    assert taken["kind"] == "log" and taken["left"] == [] and host.ran == ["download", "download"]
    host.offered = []  # the mirror has dropped both
    assert checkpoint(store, "log", ALL, check_mode=True)["changed"] is False
    assert checkpoint(store, "log", ALL, kind="log")["changed"] is False
    assert checkpoint(store, "again", ALL)["left"] == [] and host.ran == ["download", "download"]


def test_apt_s_own_copy_is_taken_when_it_is_that_package(tmp_path: Path) -> None:
    epoch = Package("web", "amd64", "2:1.0+b~1")
    host = Debian([epoch])
    kept = tmp_path / "archives" / "web_2%3a1.0+b~1_amd64.deb"
    kept.write_text(" ".join(epoch[:3]))
    assert checkpoint(host.store(tmp_path), "before", ALL)["left"] == [] and host.ran == []
    kept.write_text("web amd64 3.0")
    other = Debian([epoch])
    assert "web 2:1.0+b~1" in checkpoint(other.store(tmp_path / "other"), "before", ALL)["left"][0]


def test_a_file_that_cannot_be_had_is_said_and_asked_for_again(tmp_path: Path) -> None:
    host = Debian([OLD], [OLD], reachable=False)
    store = host.store(tmp_path)
    taken = checkpoint(store, "before", ALL)
    assert "1 packages could not be had (web 1.0)" in taken["left"][0]
    assert checkpoint(store, "before", ALL, check_mode=True)["changed"] is False
    assert checkpoint(store, "before", ALL)["changed"] is False
    host.installed = [NEW]
    with pytest.raises(RestoreFailed, match=r"web:amd64: nobody has the package file of version 1.0"):
        rollback(store, "before")
    assert host.installed == [NEW] and not os.path.exists(store.join("resume"))
    host.installed, host.reachable = [OLD], True
    assert checkpoint(store, "before", ALL)["left"] == []


def test_what_is_not_whole_is_said() -> None:
    assert Packages().not_restorable({}, [WEB.line()]) == []
    absent = [WEB.line(), "deb ngnix -", "deb * -"]
    assert Packages().not_restorable({}, absent) == ["ngnix is not installed: a rollback removes it, no more"]
    assert "web is unpacked" in Packages().not_restorable({}, [WEB._replace(status="unpacked").line()])[0]


def test_a_version_comes_back_without_a_mirror(tmp_path: Path) -> None:
    host = Debian([OLD], [OLD])
    store = host.store(tmp_path)
    checkpoint(store, "before", ALL)
    host.installed, host.offered = [NEW], []
    result = rollback(store, "before")
    assert host.installed == [OLD] and [one["target"] for one in result["done"]] == ["web:amd64 1.0"]
    assert rollback(store, "before")["changed"] is False


def test_packages_of_an_architecture_that_the_change_took_away_come_back(tmp_path: Path) -> None:
    lib = Package("lib", "i386", "1.0")
    host = Debian([OLD, lib], [OLD, lib], foreign=["i386"])
    store = host.store(tmp_path)
    checkpoint(store, "before", ALL)
    host.installed, host.foreign = [NEW], []
    rollback(store, "before")
    assert sorted(host.installed) == sorted([OLD, lib]) and host.foreign == ["i386"]


def test_an_architecture_that_the_change_added_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Debian([OLD], [OLD])
    store = host.store(tmp_path)
    checkpoint(store, "before", ALL)
    (tmp_path / "arch").write_text("amd64\ni386\n")
    asked: list[str] = []

    def apply(steps: Sequence[Step], system: System) -> dict[str, str]:
        asked.extend(f"{one.action} {one.target}" for one in steps)
        assert Package("lib", "i386", "1.0") not in host.installed, "dpkg would refuse it"
        (tmp_path / "arch").unlink()
        return {}

    monkeypatch.setattr(architectures, "apply", apply)
    host.installed = [OLD, Package("lib", "i386", "1.0")]
    assert rollback(store, "before")["left"] == []
    assert asked == ["remove-architecture i386"]


def test_a_key_that_rpm_came_to_trust_goes_and_one_that_went_is_named(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def run(argv: Sequence[str], _limit: float) -> Completed:
        asked.append(list(argv))
        listed = "gpg-pubkey-1a-2b\ngpg-pubkey-3c-4d\n; rm\n"
        return Completed(tuple(argv), 0, listed if "-qa" in argv else "", "")

    system = replace(SYSTEM, run=run)
    then = packages.parse(
        ["rpm web:x86_64 0:1-1 manual", "keys", "key gpg-pubkey-1a-2b", "key gpg-pubkey-5e-6f"]
    ).trusted
    assert then is not None and packages.parse(["rpm web:x86_64 0:1-1 manual"]).trusted is None
    other = ["rpm web:x86_64 0:1-1 manual", "rpm * -", "keys", "key gpg-pubkey-1a-2b"]
    assert Packages().keep_here(other, []) == (other[:2], []), "another machine trusts what it trusts"
    steps = keys.compare(then, keys.read_keys(system))
    assert [f"{one.action} {one.target}" for one in steps] == [
        "remove-key gpg-pubkey-3c-4d",
        "import-key gpg-pubkey-5e-6f",
    ]
    with pytest.raises(RestoreFailed, match="gpg-pubkey-5e-6f: rpm does not trust this key any more") as failed:
        Packages().apply(steps, Restore(system, Store(str(tmp_path), SYSTEM).objects))
    assert len(failed.value.result["left"]) == 1 and asked[1:] == [["rpm", "-e", "gpg-pubkey-3c-4d"]]


def test_no_key_goes_while_a_package_is_left_that_may_need_it(tmp_path: Path) -> None:
    """The package file of an older version is not in the store, so that the newer version stays."""
    asked: list[Sequence[str]] = []

    def run(argv: Sequence[str], _limit: float) -> Completed:
        asked.append(argv[:2])
        listed = "web\tnoarch\t0:2-1\n" if argv[:2] == ["rpm", "-qa"] and len(argv) == 4 else "gpg-pubkey-3c-4d\n"
        return Completed(tuple(argv), 0, listed if argv[0] == "rpm" else "", "")

    (tmp_path / "tmp").mkdir()
    at = Restore(replace(SYSTEM, run=run), Store(str(tmp_path), SYSTEM).objects)
    steps = packages.plan(["rpm web:noarch 0:1-1 manual", "rpm * -", "keys"], at.system)
    assert [one.action for one in steps] == ["install", "remove", "remove-key"]
    with pytest.raises(RestoreFailed, match="gpg-pubkey-3c-4d: rpm came to trust this key, which stays") as failed:
        Packages().apply(steps, at)
    assert len(failed.value.result["left"]) == 2 and ["rpm", "-e"] not in asked


def test_the_architectures_of_dpkg_are_compared(tmp_path: Path) -> None:
    def steps(then: list[str], now: list[str]) -> list[str]:
        return [f"{one.action} {one.target}" for one in architectures.compare(then, now)]

    assert steps(["amd64", "i386"], []) == ["add-architecture i386"] and steps([], []) == []
    both = ["add-architecture armhf", "remove-architecture i386"]
    assert steps(["amd64", "armhf"], ["amd64", "i386"]) == both
    no = replace(SYSTEM, run=lambda argv, _limit: Completed(tuple(argv), 2, "", "in use by the database"))
    left = architectures.apply(architectures.compare([], ["amd64", "i386"]), no)
    assert list(left) == ["i386"] and "in use by the database" in left["i386"]


def test_what_apt_refuses_changes_nothing(tmp_path: Path) -> None:
    host = Debian([OLD], [OLD], refuses="E: Unable to correct problems")
    store = host.store(tmp_path)
    checkpoint(store, "before", ALL)
    host.installed = [NEW]
    with pytest.raises(RestoreFailed, match="web:amd64: apt refuses: E: Unable to correct problems"):
        rollback(store, "before")
    assert host.installed == [NEW] and "apt-get" not in host.ran


LIB, OTHER = Package("lib", "amd64", "1.0"), Package("other", "amd64", "1.0")


def newer(*packages: Package) -> list[Package]:
    return [one._replace(version="2.0") for one in packages]


def test_what_nobody_has_any_more_keeps_nothing_else_back(tmp_path: Path) -> None:
    host = Debian([OLD, LIB, OTHER], [OLD, OTHER], needs={"web": "lib"})
    store = host.store(tmp_path)
    checkpoint(store, "before", ALL)
    host.installed, host.offered = newer(OLD, LIB, OTHER), []
    with pytest.raises(RestoreFailed) as failed:
        rollback(store, "before")
    assert sorted(host.installed) == sorted([*newer(OLD, LIB), OTHER])
    lost, depends = failed.value.result["left"]
    assert lost.startswith("lib:amd64: nobody has the package file of version 1.0")
    assert depends.startswith("web:amd64: apt refuses: web : Depends: lib")
    assert [one["target"] for one in failed.value.result["done"]] == ["other:amd64 1.0"]
    # A mirror has it again.
    host.offered = [LIB]
    assert not rollback(store, "before")["left"] and sorted(host.installed) == sorted([OLD, LIB, OTHER])


def test_a_script_that_fails_is_named_by_its_cause_and_the_others_are_configured(tmp_path: Path) -> None:
    host = Debian([OLD, OTHER], [OLD, OTHER], fails={"web": "grep: /etc/web: No such file"})
    store = host.store(tmp_path)
    checkpoint(store, "before", ALL)
    host.installed = newer(OLD, OTHER)
    with pytest.raises(RestoreFailed) as failed:
        rollback(store, "before")
    assert failed.value.result["left"] == ["web:amd64: grep: /etc/web: No such file; its script failed"]
    assert OTHER in host.installed and [one["target"] for one in failed.value.result["done"]] == ["other:amd64 1.0"]
    # It failed without the configuration file that somebody deleted: then, and only then, that comes back with it.
    asked = [" ".join(one) for one in host.commands if "install" in one]
    assert "confmiss" not in asked[0] and "confmiss" in asked[1]
    host.fails = {}
    assert not rollback(store, "before")["left"]


def test_a_package_that_a_newer_one_replaces_is_installed_again_when_that_is_gone(tmp_path: Path) -> None:
    host = Debian([OLD, LIB], [OLD, LIB], replaces=", web (<< 2), other, ")
    store = host.store(tmp_path)
    checkpoint(store, "before", ALL)
    host.installed = [*newer(OLD, LIB), OTHER]
    assert not rollback(store, "before")["left"]
    (again,) = [one for one in host.commands if "--reinstall" in one]
    assert any("web_" in word for word in again) and not any("lib_" in word for word in again)


def test_programs_that_change_packages_get_nothing_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locale").write_text('LANG="de_DE.UTF-8"\n')
    monkeypatch.setattr(package, "locale", partial(commands.locale, [str(tmp_path / "locale")]))
    host = Debian([OLD], [OLD])
    store = host.store(tmp_path)
    checkpoint(store, "before", ALL)
    host.installed = [NEW]
    rollback(store, "before")
    command = next(one for one in host.commands if "install" in one)
    assert command[:2] == ["env", "-i"] and "LANG=de_DE.UTF-8" in command and "LC_MESSAGES=C.UTF-8" in command
    assert "NEEDRESTART_SUSPEND=1" in command and not any(word.startswith("LC_ALL=") for word in command)


def test_a_lock_is_waited_for_and_its_holder_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, held = tmp_path / "free", tmp_path / "held"
    free.touch()
    monkeypatch.setattr(apt, "_LOCKS", [str(tmp_path / "none"), str(free), str(held)])
    host = Debian([OLD], [OLD])
    store = host.store(tmp_path)
    taken = checkpoint(store, "before", ALL)
    lines = store.manifest(taken["id"]).sections[0].lines
    host.installed = [NEW]
    waited: list[float] = []
    now = replace(store.system, sleep=waited.append, monotonic=lambda: float(len(waited)))
    at = Restore(now, store.objects, patience=2.0)
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(held)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        words = f"{held} is held by process {process.pid} (python"
        assert words in Packages().obstacles(lines, at)[0]
        with pytest.raises(RestoreFailed) as failed:
            Packages().apply(packages.plan(lines, at.system), at)
        process.kill()
    assert words in failed.value.result["left"][0] and failed.value.result["done"] == [] and len(waited) == 2
    assert Packages().obstacles(lines, at) == [] and Packages().apply(packages.plan(lines, at.system), at)


@pytest.mark.parametrize("stays", ["", "conf", "conf.dpkg-old", "ucf"])
def test_what_came_with_the_change_is_forgotten_once_its_configuration_is_gone(tmp_path: Path, stays: str) -> None:
    host = Debian([OLD], remains=["other"], conffiles={"other": [], "lib": [f"{tmp_path}/etc/conf"]})
    store = host.store(tmp_path)
    checkpoint(store, "before", ALL)
    lines = store.manifest(store.resolve("before")).sections[0].lines
    host.installed = [OLD, LIB]
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / (stays or "else")).write_text("of a person")
    (tmp_path / "ucf").write_text(f"lib \t {tmp_path}/etc/ucf\nother {tmp_path}/etc\n")
    script = tmp_path / "info" / "lib:amd64.postrm"
    script.parent.mkdir()
    script.write_text("deb-systemd-helper purge 'lib.service' 'lib.timer' >/dev/null || true\nrm -rf /srv/data\n")
    at, purge = Restore(store.system, store.objects), host.run

    def run(argv: Sequence[str], timeout: float) -> Completed:
        if "--purge" in argv and "dpkg" in argv:
            assert not script.exists(), "it would delete data"
        return purge(argv, timeout)

    host.commands.clear()
    at = at._replace(system=replace(store.system, run=run))
    (done,) = Packages().apply(packages.plan(lines, at.system), at)
    assert done.detail["note"].startswith("lib:amd64 was removed, and its data stay")
    said = [" ".join(words) for words in host.commands]
    assert any(
        "DPKG_MAINTSCRIPT_PACKAGE=lib deb-systemd-helper purge lib.service lib.timer" in one for one in said
    ) == (not stays)
    assert any(f"ucf --purge {tmp_path}/etc/ucf" in one for one in said) == (not stays)
    assert host.remains == (["other", "lib"] if stays else ["other"]) and script.exists() == bool(stays)
    assert packages.plan(lines, at.system) == []
    if stays:  # Whatever took its last configuration away: a run after a kill forgets it.
        (tmp_path / "etc" / stays).unlink()
        assert [one.action for one in packages.plan(lines, at.system)] == ["forget"]
        assert Packages().verify(lines, at.system) == []
        assert Packages().apply(packages.plan(lines, at.system), at) and host.remains == ["other"]
    old = [line for line in lines if not line.startswith("rest")]
    host.installed, host.remains = [OLD, LIB], []
    Packages().apply(packages.plan(old, at.system), at)
    assert host.remains == ["lib"], "an older checkpoint does not tell whether it was there"


def test_a_package_that_dpkg_does_not_forget_keeps_its_script(tmp_path: Path) -> None:
    host = Debian([OLD], remains=["lib"], conffiles={"lib": []}, fails={"lib": "x"})
    (tmp_path / "info").mkdir()
    script = tmp_path / "info" / "lib.postrm"
    script.write_text("true")
    left = forgetting.forget([LIB], replace(SYSTEM, run=host.run), lambda argv: host.run(argv, 1.0).out + "no")
    assert left == {"lib:amd64": "dpkg does not forget it: no"} and script.read_text() == "true"
    assert os.listdir(script.parent) == ["lib.postrm"]


def test_what_was_not_there_before_leaves_its_data_unless_it_is_purged(tmp_path: Path) -> None:
    host = Debian([OLD], [OLD], remains=["other"])
    store = host.store(tmp_path)
    checkpoint(store, "before", ALL)
    checkpoint(store, "clean", [{"packages": {"purge": True}}])
    host.installed, host.remains = [OLD, LIB, OTHER], []
    at = Restore(store.system, store.objects)

    def planned(name: str) -> dict[str, str]:
        lines = store.manifest(store.resolve(name)).sections[0].lines
        return {f"{one.action} {one.target}": one.detail.get("note", "") for one in packages.plan(lines, at.system)}

    assert set(planned("before")) == {"remove lib:amd64", "remove other:amd64"}
    stays = (
        "lib:amd64 was removed, and its data stay, and configuration that is not declared: with packages: {purge: true}"
    )
    assert planned("before")["remove lib:amd64"] == f"{stays} they are removed too"
    assert "state rc), as they were there before" in planned("before")["remove other:amd64"]
    # The data of what was removed once before were there before.
    assert set(planned("clean")) == {"purge lib:amd64", "remove other:amd64"}
    assert (
        planned("clean")["purge lib:amd64"] == ""
        and "as they were there before" in planned("clean")["remove other:amd64"]
    )


def test_the_data_of_what_was_removed_before_the_checkpoint_stay_when_others_are_purged(tmp_path: Path) -> None:
    host = Debian([OLD], [OLD], remains=["other"])
    store = host.store(tmp_path)
    checkpoint(store, "clean", [{"packages": {"purge": True}}])
    host.installed, host.remains = [OLD, LIB, OTHER], []
    assert not rollback(store, "clean")["left"]
    assert host.remains == ["other"]
    assert [one for one in host.commands if "--purge" in one][-1][-1] == LIB.key
    # What a kill has left between both, or the change itself, goes as well; and what does not go is named.
    host.remains, host.fails = ["other", "lib"], {"lib": "no"}
    with pytest.raises(RestoreFailed) as failed:
        rollback(store, "clean")
    assert "lib:amd64: no" in str(failed.value.result["left"])
    host.fails = {}
    assert not rollback(store, "clean")["left"] and host.remains == ["other"]


def test_as_many_as_can_be_had_together() -> None:
    def refusal(names: Sequence[str]) -> str:
        unmet = {"a": "d", "b": "x"}
        return "; ".join(f"{one} needs {unmet[one]}" for one in names if unmet.get(one, one) not in names)

    assert package.most(["a", "b", "c", "d"], refusal) == (["c", "d", "a"], {"b": "b needs x"})
    assert package.most([], refusal) == ([], {})


SAID = """\
Setting up lib (1.0) ...
Setting up web (1.0) ...
web: the port is in use
dpkg: error processing package web (--configure):
 installed web package post-installation script subprocess returned error exit status 1
dpkg: error processing archive /x/other_amd64.deb (--unpack):
 trying to overwrite '/usr/x', which is also in package y 1
Errors were encountered while processing:
 web
E: Sub-process /usr/bin/dpkg returned an error code (1)
"""


def test_the_line_that_names_the_cause_is_kept() -> None:
    script = "installed web package post-installation script subprocess returned error exit status 1"
    assert apt.cause(SAID, "web") == f"web: the port is in use; {script}"
    assert apt.cause(SAID, "other").startswith("trying to overwrite '/usr/x'") and apt.cause(SAID, "lib") == ""
    assert apt.reason("x\nE: Unable to lock\nE: Sub-process y returned an error code (1)") == "E: Unable to lock"
    assert apt.reason("hook: no room\nE: Sub-process /usr/bin/x returned an error code (1)").startswith("hook: no room")


def test_a_content_that_is_another_package_is_not_installed(tmp_path: Path) -> None:
    host = Debian([OLD], [OLD])
    store = host.store(tmp_path)
    taken = checkpoint(store, "before", ALL)
    lines = [OLD._replace(version="1.1", sha256=content(OLD)).line()]
    sections = [replace(store.manifest(taken["id"]).sections[0], lines=lines)]
    with store.locked():
        store.commit(Writer(store.objects), "doctored", "h", sections)
    host.installed = [NEW]
    with pytest.raises(RestoreFailed, match=r"recorded as the package web:amd64 1.1, and is web amd64 1.0"):
        rollback(store, "doctored")
    assert host.installed == [NEW]


def test_a_host_without_packages_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "store"), replace(SYSTEM, run=lambda argv, _time: Completed(tuple(argv), 127, "", "")))
    with pytest.raises(UsageError, match="neither dpkg nor rpm"):
        checkpoint(store, "before", ALL)
    for kind in KINDS.values():
        monkeypatch.setattr(type(kind), "for_plain_host", lambda _kind, _beside, _taken: (None, []))
    monkeypatch.setattr(Packages, "for_plain_host", FOR_PLAIN_HOST)
    monkeypatch.setattr(KINDS["packages"], "system", store.system)
    (alone,) = registry.check([{"system": {}}])
    assert alone.spec["not"] == [
        "neither dpkg nor rpm knows of an installed package on this host (packages is not protected)"
    ]
    monkeypatch.setattr(KINDS["packages"], "system", Debian([OLD]).store(tmp_path).system)
    assert [one.kind for one in registry.check([{"system": {}}])] == ["packages", "system"]


def test_no_note_speaks_of_an_owner_of_a_file_that_went_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {str(tmp_path / name): "root postdrop 2555" for name in ("gone", "there")}
    monkeypatch.setattr(overrides, "read_overrides", dict)
    store = Debian([OLD], [OLD]).store(tmp_path)
    checkpoint(store, "before", ALL)
    (tmp_path / "there").touch()
    monkeypatch.setattr(overrides, "read_overrides", lambda: dict(told))

    def apply(*_words: object) -> dict[str, str]:
        told.clear()
        return {}

    monkeypatch.setattr(overrides, "apply", apply)
    notes = rollback(store, "before")["notes"]
    assert [one.partition(" ")[0] for one in notes] == [f"{tmp_path}/there"]


# -- alternatives


@dataclass
class Alternatives:
    """The groups of update-alternatives below a directory of a test."""

    root: Path

    def __post_init__(self) -> None:
        for name in ("books", "links", "bin"):
            (self.root / name).mkdir()

    def write(self, name: str, mode: str = "auto", *choices: str) -> None:
        slave = f"{name}c\n{self.root}/bin/{name}c\n"
        text = "".join(f"{one}\n{at}\n{one}c\n" for at, one in enumerate(choices))
        (self.root / "books" / name).write_text(f"{mode}\n{self.root}/bin/{name}\n{slave}\n{text}\n")
        for one in (name, f"{name}c"):
            for path, to in ((f"links/{one}", choices[0]), (f"bin/{one}", f"{self.root}/links/{one}")):
                (self.root / path).unlink(missing_ok=True)
                (self.root / path).symlink_to(to)

    def seen(self) -> dict[str, str]:
        found = {f"books/{path.name}": path.read_text() for path in (self.root / "books").iterdir()}
        folders = (self.root / name for name in ("links", "bin"))
        return {
            **found,
            **{str(one.relative_to(self.root)): os.readlink(one) for at in folders for one in at.iterdir()},
        }


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Alternatives:
    (tmp_path / "alternatives").mkdir()
    made = Alternatives(tmp_path / "alternatives")
    monkeypatch.setattr(choices, "_BOOKS", str(made.root / "books"))
    monkeypatch.setattr(choices, "_LINKS", str(made.root / "links"))
    return made


def test_choices_of_alternatives_and_their_modes_are_as_they_were(tmp_path: Path, groups: Alternatives) -> None:
    for name in ("pager", "editor", "gone"):
        groups.write(name, "manual" if name == "editor" else "auto", "/usr/bin/less", "/usr/bin/more")
    (groups.root / "books/x.dpkg-tmp").touch()
    before = groups.seen()
    store = Debian([OLD], [OLD]).store(tmp_path)
    checkpoint(store, "before", ALL)
    assert rollback(store, "before")["changed"] is False
    groups.write("pager", "manual", "/usr/bin/less", "/usr/bin/more", "/opt/best")
    groups.write("editor", "auto", "/usr/bin/less", "/usr/bin/more")
    (groups.root / "books/gone").unlink()
    (groups.root / "bin/gone").unlink()
    result = rollback(store, "before")
    assert [(one["action"], one["target"], one["why"]) for one in result["done"]] == [
        ("choose", "editor", "is in the mode auto"),
        ("choose", "gone", "is no group of alternatives"),
        ("choose", "pager", "is in the mode manual"),
    ]
    assert groups.seen() == before and rollback(store, "before")["changed"] is False


@pytest.mark.parametrize("before", ["nothing", "a link", "unknown"])
def test_a_group_that_came_goes_with_its_links_unless_one_was_there(
    tmp_path: Path, groups: Alternatives, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "DISKS", footprint.DISKS | {"tmpfs"})
    if before == "a link":
        (groups.root / "bin/java").symlink_to("/usr/bin/java-17")
    store = Debian([OLD], [OLD]).store(tmp_path)
    checkpoint(store, "before", ALL)
    if before != "unknown":
        walk = footprint.Walk([os.fsencode(groups.root)], lambda _path: False)
        footprint.record(store.join("before"), {}, walk)
    groups.write("java", "auto", "/opt/jdk/bin/java")
    goes = before == "nothing"
    found = {f"{groups.root}/bin/{name}" for name in ("java", "javac")}
    assert choices.paths({}, Restore(store.system, store.objects)) == (found if goes else set())
    told = [("take-group", "java")] if goes else []
    predicted = rollback(store, "before", check_mode=True)["planned"]
    assert [(one["action"], one["target"]) for one in predicted] == told
    assert [(one["action"], one["target"]) for one in rollback(store, "before")["done"]] == told
    left = {"books/java", "links/java", "links/javac", "bin/java", "bin/javac"}
    assert groups.seen().keys() == (set() if goes else left)


@pytest.mark.parametrize("line", ["choices ../x auto", "choices -x auto", "choices x", "choices x auto y"])
def test_a_line_of_no_group_is_refused(line: str) -> None:
    with pytest.raises(Damaged, match="cannot be read"):
        packages.parse(["alternatives", line])
