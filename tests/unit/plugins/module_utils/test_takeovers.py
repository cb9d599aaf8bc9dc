# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that a package of a change takes over from another one, which lacks them once the first is gone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import RestoreFailed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import keeping
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Restore
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.packages import kept, takeovers
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.packages.package import Package
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.packages.takeovers import Taken
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Objects
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback

from .test_packages import OLD, Debian, _no_real_packages
from .test_replacing import LIB, armed, cached, from_apt, over

assert _no_real_packages and armed  # The fixtures of those tests are those of these, too.
TAKER = Package("taker", "amd64", "3.0")
CONTENTS = """\
drwxr-xr-x root/root         0 2026-11-30 15:04 ./usr/bin/
-rwxr-xr-x root/root         7 2026-11-30 15:04 ./usr/bin/web
lrwxrwxrwx root/root         0 2026-11-30 15:04 ./usr/bin/link -> web
-rw-r--r-- root/root         7 2026-11-30 15:04 ./usr/share/taker
"""


def lists(home: Path, name: str, *paths: str) -> None:
    (home / "info").mkdir(exist_ok=True)
    (home / "info" / f"{name}.list").write_text("/.\n/usr/bin\n" + "".join(f"{path}\n" for path in paths))


class Taking(Debian):
    """A host on which the package file of ``TAKER`` has these relations; dpkg writes its lists in ``home``."""

    replaces_of = ""
    home = Path()
    gives_back = True

    def run(self, argv: Sequence[str], timeout: float) -> Completed:
        words = list(argv)
        if words[0] == "dpkg-deb" and "Replaces" in words[2]:
            return Completed(tuple(argv), 0, f"taker\t{self.replaces_of}", "")
        if words[:2] == ["dpkg-deb", "--contents"]:
            return Completed(tuple(argv), 0, CONTENTS, "")
        if words[:2] == ["dpkg", "--compare-versions"]:
            holds = {"lt": words[2] < words[4], "le": words[2] <= words[4]}[words[3]]
            return Completed(tuple(argv), int(not holds), "", "")
        if "--reinstall" in words and self.gives_back:
            lists(self.home, "web", "/usr/bin/web", "/usr/bin/link")
        return super().run(argv, timeout)


@pytest.fixture
def taking(armed: tuple[Debian, Store], tmp_path: Path) -> tuple[Taking, Store]:
    """A host with a change under way, whose package web lists two paths."""
    host, store = Taking([LIB, OLD]), armed[1]
    host.home = tmp_path
    cached(tmp_path, OLD)
    (tmp_path / "taker.deb").write_text("taker amd64 3.0")
    lists(tmp_path, "web", "/usr/bin/web", "/usr/bin/link")
    store.system = store.system.__class__(**{**vars(store.system), "run": host.run})
    return host, store


def install(host: Taking, store: Store) -> None:
    """apt installs ``TAKER``, and dpkg gives it the paths."""
    assert keeping.keep(store, from_apt(f"taker - - - < 3.0 amd64 none {host.home}/taker.deb")) == []
    host.installed = [*host.installed, TAKER]
    lists(host.home, "web")
    lists(host.home, "taker", "/usr/bin/web", "/usr/bin/link", "/usr/share/taker")


@pytest.mark.parametrize(
    ("relations", "taken"),
    [
        ("web", True),
        ("other, web (<< 2.0)", True),
        ("web:any (<= 1.0)", True),
        ("web (<< 1.0)", False),
        ("other", False),
        ("taker", False),
        ("", False),
    ],
)
def test_the_packages_that_lose_files_are_kept_with_the_paths(
    taking: tuple[Taking, Store], relations: str, taken: bool
) -> None:
    host, store = taking
    host.replaces_of = relations
    install(host, store)
    found = [one[:3] for one in takeovers.every(store.root)]
    assert found == ([(OLD.ident, "taker", ["/usr/bin/link", "/usr/bin/web"])] if taken else [])
    assert set(kept.every(store.root)) == ({OLD.ident} if taken else set())


def test_a_package_that_lost_files_to_one_that_goes_is_installed_once_more(taking: tuple[Taking, Store]) -> None:
    host, store = taking
    host.replaces_of = "web"
    install(host, store)
    os.unlink(host.home / "archives" / "web_1.0_amd64.deb")
    over(store)
    foreseen = rollback(store, "before", check_mode=True)["planned"]
    assert [(step["action"], step["target"]) for step in foreseen] == [
        ("remove", "taker:amd64"),
        ("retake", "web:amd64 1.0"),
    ]
    assert foreseen[1]["why"] == "has lost /usr/bin/link, /usr/bin/web to another package"
    result = rollback(store, "before")
    assert [step["action"] for step in result["done"]] == ["remove", "retake"]
    (again,) = [one for one in host.commands if "--reinstall" in one]
    assert any("web_" in word for word in again)
    assert not rollback(store, "before")["changed"], "it has them now"


def test_a_package_that_lacked_its_files_at_the_checkpoint_goes_on_without_them(taking: tuple[Taking, Store]) -> None:
    host, store = taking
    host.replaces_of = "web"
    store.system = replace(store.system, now=lambda: 1e9)  # The change has set the clock back.
    install(host, store)
    assert takeovers.every(store.root)[0].when > 1.5e9
    over(store)
    host.installed = [LIB, OLD]
    store.system = replace(store.system, now=System().now)
    checkpoint(store, "later", [{"packages": {}}])
    assert rollback(store, "later", check_mode=True)["planned"] == []
    assert [step["action"] for step in rollback(store, "before", check_mode=True)["planned"]] == ["retake"]


def test_what_cannot_be_had_back_is_left_and_named(taking: tuple[Taking, Store]) -> None:
    host, store = taking
    host.replaces_of, host.gives_back = "web", False
    install(host, store)
    over(store)
    with pytest.raises(RestoreFailed) as failed:
        rollback(store, "before")
    (words,) = failed.value.result["left"]
    assert words.startswith("web:amd64: it lacks /usr/bin/link, /usr/bin/web, which another package had taken over: ")


def test_files_that_another_package_keeps_are_not_missed(tmp_path: Path) -> None:
    root, live = str(tmp_path), {one.key: one for one in (OLD, TAKER)}
    at = Restore(System(), Objects(root))
    takeovers.keep(root, [Taken(OLD.ident, "taker", ["/usr/bin/web"])])
    takeovers.keep(root, [Taken(OLD.ident, "taker", ["/usr/bin/web"])])
    lists(tmp_path, "web")
    lists(tmp_path, "taker:amd64", "/usr/bin/web")
    assert takeovers.lacking(at, [OLD], live) == {}
    assert takeovers.lacking(at, [OLD], live, {"taker"}) == {OLD.key: ["/usr/bin/web"]}
    assert takeovers.lacking(at, [LIB], live, {"taker"}) == {}, "nobody has recorded it"
    lists(tmp_path, "taker:amd64")
    assert takeovers.lacking(at, [OLD], live) == {OLD.key: ["/usr/bin/web"]}
    other = OLD._replace(version="2.0")
    assert takeovers.lacking(at, [OLD], {OLD.key: other}) == {}, "another version comes back anyway"
    # A package that lacked its files at the checkpoint is as it was; the same paths may be taken over once more.
    for when, since, due in ((5.0, 9.0, False), (9.0, 9.0, True), (9.0, 5.0, True)):
        takeovers.keep(root, [Taken(OLD.ident, "taker", ["/usr/bin/web"], when)])
        assert bool(takeovers.lacking(at._replace(since=since), [OLD], live)) is due
    takeovers.forget(root, {OLD.ident})
    assert len(takeovers.every(root)) == 1
    takeovers.forget(root, set())
    assert takeovers.every(root) == []
    (tmp_path / "packages/taken").write_text("[[1]]")
    assert takeovers.every(root) == [], "a damaged record is none"
