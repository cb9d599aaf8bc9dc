# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Package files that are kept as something replaces them: from the cache, made anew, taken out, and deleted again."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import changes, command
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    EvenkeelError,
    RestoreFailed,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import keeping
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import ours
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.packages import (
    kept,
    rebuild,
    replacing,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.packages.package import Package
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.packages.packages import Packages
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback

from .conftest import SYSTEM
from .test_packages import NEW, OLD, Debian, _no_real_packages

ON_CHANGE: list[dict[str, Any]] = [{"packages": {}}]
LIB = Package("lib", "amd64", "1.0")
assert _no_real_packages  # The fixture of those tests is that of these, too.


def cached(home: Path, package: Package) -> None:
    """Put the package file into apt's cache."""
    path = home / "archives" / f"{package.name}_{package.version}_{package.arch}.deb"
    path.write_text(" ".join(package[:3]))


def from_apt(*lines: str) -> tuple[str, str, str]:
    return "apt", "VERSION 3\nAPT::Architecture=amd64\n\n" + "".join(f"{line}\n" for line in lines), "1"


UPGRADE = "web 1.0 amd64 none < 2.0 amd64 none /archives/web.deb"


@pytest.fixture
def armed(tmp_path: Path) -> tuple[Debian, Store]:
    """A host with a change under way, and packages of which nothing is kept."""
    host = Debian([LIB, OLD])
    store = host.store(tmp_path)
    taken = checkpoint(store, "before", ON_CHANGE)
    record = changes.Armed(1, taken["id"], "before", 9e9, 60.0, SYSTEM.boot_id(), SYSTEM.monotonic() + 600.0)
    changes._record(store, record)
    return host, store


def over(store: Store) -> None:
    os.unlink(store.join("armed"))


def test_nothing_is_fetched_at_the_checkpoint_and_that_is_said(tmp_path: Path) -> None:
    host = Debian([LIB, OLD], [LIB, OLD])
    store = host.store(tmp_path)
    foreseen = checkpoint(store, "before", ON_CHANGE, check_mode=True)
    taken = checkpoint(store, "before", ON_CHANGE)
    assert host.ran == [] and taken["stats"]["new_objects"] == 0
    assert taken["left"] == foreseen["left"]
    assert "nothing keeps the package files of 2 packages" in taken["left"][0] and "{keep: all}" in taken["left"][0]
    assert checkpoint(store, "all", [{"packages": {"keep": "all"}}])["left"] == []
    assert checkpoint(store, "again", ON_CHANGE)["left"] == [], "the store has them by now"
    assert Packages().check({"keep": "all"}) == {"names": None, "keep": "all"}
    assert Packages().check({"keep": "change"}) == {"names": None}


def test_what_is_replaced_is_kept_and_comes_back_without_a_mirror(armed: tuple[Debian, Store], tmp_path: Path) -> None:
    host, store = armed
    cached(tmp_path, OLD)
    assert keeping.keep(store, from_apt(UPGRADE)) == []
    assert set(kept.every(store.root)) == {OLD.ident}, "and nothing else"
    os.unlink(tmp_path / "archives" / "web_1.0_amd64.deb")
    host.installed = [LIB, NEW]
    over(store)
    foreseen = rollback(store, "before", check_mode=True)
    assert [step["why"] for step in foreseen["planned"]] == ["is 2.0"] and foreseen["left"] == []
    rollback(store, "before")
    assert host.installed == [LIB, OLD]


def test_what_the_store_has_already_is_not_kept_once_more() -> None:
    names = {("web", "amd64"), ("lib", "")}
    recorded = {OLD.ident: OLD._replace(sha256="a" * 64), LIB.ident: LIB}
    live = {one.key: one for one in (OLD, LIB)}
    assert replacing.chosen(recorded, live, names) == [LIB]
    assert replacing.chosen(recorded, {NEW.key: NEW}, names) == []


def test_what_was_not_kept_is_said(armed: tuple[Debian, Store]) -> None:
    host, store = armed
    (words,) = keeping.keep(store, from_apt(UPGRADE))
    assert words.startswith("the package file of web:amd64 1.0 is not kept: ")
    host.installed = [LIB, NEW]
    over(store)
    foreseen = rollback(store, "before", check_mode=True)
    assert "its package file is not in the store" in foreseen["left"][0]
    with pytest.raises(
        RestoreFailed, match="it was not kept when it was replaced, and neither apt's cache nor a mirror"
    ):
        rollback(store, "before")


def test_a_package_manager_is_not_held_up_beyond_the_deadline(armed: tuple[Debian, Store]) -> None:
    _host, store = armed
    change = changes.armed(store)
    assert change is not None and keeping.patience(store) in range(590, 601)
    for due, seconds in ((30.0, range(25, 31)), (9000.0, range(600, 601)), (-5.0, range(1, 2))):
        changes._record(store, replace(change, due=SYSTEM.monotonic() + due))
        assert keeping.patience(store) in seconds


@pytest.mark.parametrize("why", ["back", "late", "over", "other version"])
def test_nothing_is_kept_once_the_change_goes_back(armed: tuple[Debian, Store], tmp_path: Path, why: str) -> None:
    host, store = armed
    cached(tmp_path, OLD)
    change = changes.armed(store)
    assert change is not None
    if why == "over":
        over(store)
    elif why == "other version":
        host.installed = [LIB, NEW]
        cached(tmp_path, NEW)
    else:
        changes._record(store, replace(change, **({"back": "settle"} if why == "back" else {"due": 0.0})))
    assert keeping.keep(store, from_apt(UPGRADE)) == []
    assert kept.every(store.root) == {}


def test_the_state_that_a_rollback_replaces_is_kept_for_its_undo(armed: tuple[Debian, Store], tmp_path: Path) -> None:
    host, store = armed
    cached(tmp_path, OLD)
    keeping.keep(store, from_apt(UPGRADE))
    over(store)
    host.installed = [LIB, NEW]
    cached(tmp_path, NEW)
    rollback(store, "before")
    for name in ("web_1.0_amd64.deb", "web_2.0_amd64.deb"):
        os.unlink(tmp_path / "archives" / name)
    rollback(store, "undo")
    assert host.installed == [LIB, NEW]


def test_a_kept_file_is_deleted_with_the_last_checkpoint_that_has_its_version(
    armed: tuple[Debian, Store], tmp_path: Path
) -> None:
    _host, store = armed
    cached(tmp_path, OLD)
    keeping.keep(store, from_apt(UPGRADE))
    Packages().forget(store.root, SYSTEM, [OLD.line()], [LIB.line()])
    assert set(kept.every(store.root)) == {OLD.ident}
    left = Path(store.root, "packages", ".tmp-999999999")
    left.write_text("half")
    Packages().forget(store.root, SYSTEM, [NEW.line()], [OLD.line()])
    assert kept.every(store.root) == {} and not left.exists()


def test_a_kept_file_that_is_damaged_is_not_installed(armed: tuple[Debian, Store], tmp_path: Path) -> None:
    host, store = armed
    cached(tmp_path, OLD)
    keeping.keep(store, from_apt(UPGRADE))
    (one,) = kept.every(store.root).values()
    os.chmod(one.path, 0o600)
    Path(one.path).write_text("web amd64 1.0 or so")
    with pytest.raises(Damaged, match="its hash is another"):
        list(kept.read(one))
    os.unlink(tmp_path / "archives" / "web_1.0_amd64.deb")
    over(store)
    host.installed = [LIB, NEW]
    with pytest.raises(RestoreFailed, match="its hash is another"):
        rollback(store, "before")
    assert host.installed == [LIB, NEW]


def test_a_full_disk_keeps_nothing_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(kept, "RESERVE", 1 << 60)
    with pytest.raises(OSError, match="no room"):
        kept.put(str(tmp_path), OLD.ident, kept.copy(str(tmp_path / "file")))
    assert os.listdir(tmp_path / "packages") == []


# -- who tells of it


def test_apt_tells_what_it_installs_and_removes() -> None:
    told = from_apt(
        UPGRADE,
        "new - - none < 1.0 amd64 none /archives/new.deb",
        "gone 1:2 i386 same > - - none **REMOVE**",
        "lib 1.0 amd64 none = 1.0 amd64 none **CONFIGURE**",
        "down 2 all none > 1 all none /archives/with blank.deb",
    )
    assert replacing.of_apt(told[1]) == {("web", "amd64"), ("gone", "i386"), ("down", "all")}
    assert replacing.of_apt("") == replacing.of_apt("VERSION 3\n") == set()


def test_dpkg_s_own_command_line_tells_it(tmp_path: Path) -> None:
    system = replace(SYSTEM, run=Debian([]).run)
    for name, folder in (("web", "."), ("lib", "in/deep")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / f"{name}.deb").write_text(f"{name} amd64 2.0")
    assert replacing.of_dpkg(["dpkg", "--status-fd", "7", "-i", "web.deb"], str(tmp_path), system) == {
        ("web", "amd64"),
        ("7", ""),
    }
    found = replacing.of_dpkg(["dpkg", "--unpack", "--recursive", str(tmp_path / "in")], "/", system)
    assert found == {("lib", "amd64")}
    assert replacing.of_dpkg(["dpkg", "--purge", "web", "lib:i386"], "/", system) == {("web", ""), ("lib", "i386")}
    assert replacing.about("dpkg", "", "none", system) == set()


def test_dpkg_tells_what_makes_room_for_a_package_file_and_what_was_selected_before(tmp_path: Path) -> None:
    said = {
        "${Conflicts}": "mail-transport-agent, web (<< 2~) | old:any, ,",
        "${Provides}": (
            "post\tamd64\tinstall ok installed\tmail-transport-agent (= 1), smtp\n"
            "web\tamd64\tinstall ok installed\t\n"
            "held\tall\thold ok installed\tother\n"
            "marked\ti386\tpurge ok installed\t\n"
        ),
    }

    def run(argv: Sequence[str], _timeout: float) -> Completed:
        text = next((text for key, text in said.items() if key in " ".join(argv)), "new\tall\t2")
        return Completed(tuple(argv), 0, text, "")

    system = replace(SYSTEM, run=run)
    (tmp_path / "new.deb").touch()
    found = replacing.of_dpkg(["dpkg", "-i", "new.deb"], str(tmp_path), system)
    assert found == {("new", "all"), ("post", "amd64"), ("web", "amd64")}
    assert replacing.of_dpkg(["dpkg", "--remove", "--pending"], "/", system) == {("marked", "i386")}
    assert replacing.of_dpkg(["dpkg", "--remove", "web"], "/", system) == {("web", "")}


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    found = [tmp_path / "apt.conf.d" / "zz-evenkeel", tmp_path / "dpkg.cfg.d" / "zz-evenkeel"]
    for path in found:
        path.parent.mkdir()
        os.utime(path.parent, (1, 1))
    monkeypatch.setattr(ours, "HOOKS", tuple(map(str, found)))
    monkeypatch.setattr(ours, "stranger", lambda _path, _owners: "")
    return found


def agent(home: Path, text: str) -> list[str]:
    path = home / "agent.pyz"
    path.write_text(text)
    return ["/bin/sh", str(path), command.KEEP, "--store", str(home)]


def hook(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command of a hook as apt or dpkg does."""
    text = path.read_text()
    words = text.split('"')[1]
    return subprocess.run(
        ["sh", "-c", words], env={"PATH": os.environ["PATH"], **environment}, text=True, capture_output=True
    )


def test_apt_and_dpkg_call_the_agent_while_a_change_is_armed(tmp_path: Path, hooks: list[Path]) -> None:
    assert replacing.install(str(tmp_path), agent(tmp_path, 'echo "$@"')) == ""
    (tmp_path / "armed").touch()
    assert all(ours.is_ours(str(path)) and path.stat().st_mode & 0o777 == 0o644 for path in hooks)
    assert [path.parent.stat().st_mtime for path in hooks] == [1, 1], "a checkpoint sees no difference"
    assert hook(hooks[0]).stdout.split()[:4] == ["keep", "--store", str(tmp_path), "apt"]
    assert hook(hooks[1], DPKG_HOOK_ACTION="remove").stdout.split()[3] == "dpkg"
    assert hook(hooks[1], DPKG_HOOK_ACTION="configure").stdout == ""
    assert hook(hooks[1], DPKG_HOOK_ACTION="remove", DPKG_FRONTEND_LOCKED="true").stdout == "", "apt has told of it"
    assert hook(hooks[0], EVENKEEL_BACK="1").stdout == "", "a rollback keeps nothing of what it takes away"
    (tmp_path / "armed").unlink()
    assert hook(hooks[0]).stdout == ""
    ours.take_hooks_away()
    assert not any(path.exists() for path in hooks)
    assert [path.parent.stat().st_mtime for path in hooks] == [1, 1]


def test_apt_and_dpkg_go_on_whatever_becomes_of_us(tmp_path: Path, hooks: list[Path]) -> None:
    replacing.install(str(tmp_path), agent(tmp_path, "exit 7"))
    (tmp_path / "armed").touch()
    for path in hooks:
        assert hook(path, DPKG_HOOK_ACTION="remove").returncode == 0, "it fails"
    (tmp_path / "agent.pyz").unlink()
    assert [hook(path, DPKG_HOOK_ACTION="remove").returncode for path in hooks] == [0, 0], "it is gone"
    (tmp_path / "replacing").unlink()
    assert [hook(path, DPKG_HOOK_ACTION="remove").returncode for path in hooks] == [0, 0], "all of it is gone"


def test_a_file_of_somebody_else_stays_and_is_told(tmp_path: Path, hooks: list[Path]) -> None:
    hooks[0].write_text("theirs")
    assert replacing.install(str(tmp_path), agent(tmp_path, "")) == f"{hooks[0]} is there, and is not ours"
    ours.take_hooks_away()
    assert hooks[0].read_text() == "theirs"
    lines = [OLD.line()]
    (words,) = Packages().watch({}, lines, agent(tmp_path, ""), str(tmp_path))
    assert "are not kept when something replaces them" in words
    (words,) = Packages().watch({"keep": "all"}, lines, agent(tmp_path, ""), str(tmp_path))
    assert "files that one package takes over from another are not noticed: " in words
    assert "no host" not in replacing.install(f"{tmp_path}/a b", agent(tmp_path, ""))
    assert "holds a character" in replacing.install(f"{tmp_path}/a b", agent(tmp_path, ""))


# -- a package file made anew


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with a package of each sort of file."""
    top = tmp_path / "root"
    for name in ("usr/share/web", "etc/web", "var/lib/dpkg/info", "usr/lib/web"):
        (top / name).mkdir(parents=True)
    (top / "lib").symlink_to("usr/lib")
    (top / "usr/share/web/data").write_text("data")
    os.link(top / "usr/share/web/data", top / "usr/share/web/hard")
    (top / "usr/share/web/link").symlink_to("data")
    (top / "usr/lib/web/tool").write_text("#!/bin/sh\n")
    os.chmod(top / "usr/lib/web/tool", 0o4755)
    (top / "etc/web/as-shipped").write_text("shipped\n")
    (top / "etc/web/by-hand").write_text("by hand\n")
    (top / "usr/share/web/moved.diverted").write_text("ours\n")
    (top / "usr/share/web/moved").write_text("of another\n")
    info = top / "var/lib/dpkg/info"
    paths = [
        *("/.", "/etc", "/etc/web", "/etc/web/as-shipped", "/etc/web/by-hand", "/etc/web/removed", "/lib", "/lib/web"),
        *("/lib/web/tool", "/usr", "/usr/share", "/usr/share/web", "/usr/share/web/data", "/usr/share/web/hard"),
        *("/usr/share/web/link", "/usr/share/web/moved", "/usr/share/doc-left-out"),
    ]
    (info / "web.list").write_text("".join(f"{path}\n" for path in paths))
    (info / "web.postinst").write_text("#!/bin/sh\nexit 0\n")
    (info / "web.md5sums").write_text("of the past\n")
    (top / "var/lib/dpkg/diversions").write_text("/usr/share/web/moved\n/usr/share/web/moved.diverted\nother\n")
    return top


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


STATUS = f"""Package: web
Status: install ok installed
Installed-Size: 1
Architecture: amd64
Version: 1.0
Config-Version: 1.0
Maintainer: x <x@y>
Conffiles:
 /etc/web/as-shipped {md5("shipped" + chr(10))}
 /etc/web/by-hand {md5("shipped")}
 /etc/web/removed {md5("removed")}
 /etc/web/old {md5("old")} obsolete
Description: a package
 with: colons
 .
 and lines
"""


def query(argv: Sequence[str], _timeout: float) -> Completed:
    out = {"-s": STATUS, "--control-list": "postinst\nmd5sums\n"}.get(argv[1], "")
    return Completed(tuple(argv), 0 if out else 1, out, "")


def built(root: Path) -> bytes:
    stream = io.BytesIO()
    stream.fileno = lambda: os.open(root, os.O_RDONLY)  # type: ignore[method-assign]
    rebuild.rebuild(OLD, stream, replace(SYSTEM, run=query), str(root))
    return stream.getvalue()


def members(deb: bytes) -> dict[str, bytes]:
    """The members of an archive of ar, read by its definition."""
    assert deb[:8] == b"!<arch>\n"
    found, at = {}, 8
    while at < len(deb):
        head = deb[at : at + 60]
        assert head[58:] == b"`\n"
        size = int(head[48:58])
        found[head[:16].decode().strip()] = deb[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    return found


def test_a_package_file_is_made_anew_from_what_is_installed(root: Path, tmp_path: Path) -> None:
    parts = members(built(root))
    assert list(parts) == ["debian-binary", "control.tar.gz", "data.tar.gz"] and parts["debian-binary"] == b"2.0\n"
    with tarfile.open(fileobj=io.BytesIO(parts["control.tar.gz"])) as control:
        texts = {one.name: control.extractfile(one).read().decode() for one in control}  # type: ignore[union-attr]
        assert control.getmember("./postinst").mode == 0o755
    assert set(texts) == {"./control", "./conffiles", "./postinst"}
    assert "Status" not in texts["./control"] and "Conffiles" not in texts["./control"]
    assert texts["./control"].endswith("Description: a package\n with: colons\n .\n and lines\n")
    assert texts["./conffiles"] == "/etc/web/as-shipped\n/etc/web/by-hand\n"
    with tarfile.open(fileobj=io.BytesIO(parts["data.tar.gz"])) as data:
        names = {one.name: one for one in data}
        read = {name: data.extractfile(name).read().decode() for name, one in names.items() if one.isreg()}  # type: ignore[union-attr]
    assert read["./etc/web/as-shipped"] == "shipped\n"
    assert read["./etc/web/by-hand"] == "by hand\n\n", "dpkg has to take it for changed by hand"
    assert read["./usr/share/web/moved"] == "ours\n"
    assert "./etc/web/removed" not in names and "./usr/share/doc-left-out" not in names
    assert names["./lib"].isdir() and names["./lib/web/tool"].mode == 0o4755
    assert (names["./usr/share/web/hard"].islnk(), names["./usr/share/web/hard"].linkname) == (
        True,
        "./usr/share/web/data",
    )
    assert names["./usr/share/web/link"].linkname == "data"


def test_dpkg_reads_it(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "web.deb"
    path.write_bytes(built(root))
    shown = subprocess.run(["dpkg-deb", "--field", str(path), "Version"], check=True, capture_output=True, text=True)
    assert shown.stdout == "1.0\n"
    subprocess.run(["dpkg-deb", "--extract", str(path), str(tmp_path / "out")], check=True)
    assert (tmp_path / "out/lib/web/tool").read_text() == "#!/bin/sh\n"


def test_what_a_user_exchanges_or_inflates_is_not_taken(root: Path) -> None:
    with open(root / "usr/share/web/data", "r+b") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(EvenkeelError, match="far larger than the package"):
        built(root)
    os.unlink(root / "usr/share/web/data")
    os.mkfifo(root / "usr/share/web/data")
    with pytest.raises(EvenkeelError, match="neither a file nor a link"):
        built(root)
    with pytest.raises(EvenkeelError, match="dpkg-query -s"):
        rebuild.rebuild(OLD, io.BytesIO(), replace(SYSTEM, run=lambda argv, _t: Completed(tuple(argv), 1, "", "no")))
