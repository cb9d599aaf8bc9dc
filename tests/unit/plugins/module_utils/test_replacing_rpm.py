# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Package files of rpm that are kept as dnf replaces them: who tells of it, and a package file that is made anew."""

from __future__ import annotations

import base64
import grp
import gzip
import hashlib
import io
import lzma
import os
import pwd
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import keeping
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import ours
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Restore
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.packages import (
    kept,
    packages,
    rebuild_rpm,
    replacing,
    rpm,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.packages.package import Ident, Package
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.packages.packages import Packages
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

from .conftest import SYSTEM

WEB = Package("web", "x86_64", "0:1.0-1", manager="rpm")
LIB = Package("lib", "noarch", "2:1^a-1", manager="rpm")
SHA = "a" * 64
# A transaction of dnf in which a package goes, run by its own Python with our plugin.
TRANSACTION = """
import signal, sys, types
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # As the command dnf does.
class Plugin:
    pass
sys.modules["dnf"] = types.SimpleNamespace(Plugin=Plugin)
sys.path.insert(0, sys.argv[1])
import zz_evenkeel
gone = types.SimpleNamespace(name="web", arch="x86_64", epoch=0, version="1.0", release="1")
ours = zz_evenkeel.Evenkeel()
if sys.argv[2] != "broken":
    ours.base = types.SimpleNamespace(transaction=types.SimpleNamespace(remove_set=[gone] * int(sys.argv[2])))
    ours.base.conf = types.SimpleNamespace(installroot=sys.argv[3])
ours.pre_transaction()
print("dnf goes on")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of dnf's plugins on a host with dnf 4."""
    found = tmp_path / "python3.9" / "dnf-plugins"
    (found / "__pycache__").mkdir(parents=True)
    for path in (tmp_path / "dnf-3", tmp_path / "dnf5"):
        path.touch()
    (tmp_path / "dnf").symlink_to("dnf-3")
    monkeypatch.setattr(ours, "DNF_PLUGINS", (f"{tmp_path}/python3*/dnf-plugins",))
    monkeypatch.setattr(ours, "HOOKS", ())
    monkeypatch.setattr(ours, "stranger", lambda _path, _owners: "")
    monkeypatch.setattr(rpm.shutil, "which", lambda _name: str(tmp_path / "dnf"))  # type: ignore[attr-defined]
    monkeypatch.setattr(rpm, "SETTINGS", str(tmp_path / "dnf.conf"))
    (tmp_path / "web.repo").write_text("[web]\ngpgcheck=0\n")
    monkeypatch.setattr(rpm, "REPOSITORIES", (str(tmp_path / "*.repo"),))
    return found


def agent(home: Path, text: str) -> list[str]:
    (home / "agent.pyz").write_text(text)
    (home / "armed").touch()
    return ["/bin/sh", str(home / "agent.pyz"), "keep"]


def transaction(folder: Path, packages: str = "1", root: str = "/") -> str:
    argv = [sys.executable, "-c", TRANSACTION, str(folder), packages, root]
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(argv, check=True, env=environment, text=True, capture_output=True, timeout=20)
    return done.stdout + done.stderr


def test_dnf_tells_the_agent_what_goes_while_a_change_is_armed(tmp_path: Path, folder: Path) -> None:
    os.utime(folder, (1, 1))
    call = agent(tmp_path, f'echo "$@" > {tmp_path}/said; cat >> {tmp_path}/said')
    assert replacing.install(str(tmp_path), call, "rpm") == ""
    assert folder.stat().st_mtime == 1 and os.listdir(tmp_path / "python3.9" / "dnf-plugins" / "__pycache__") == []
    assert transaction(folder) == "dnf goes on\n"
    first, _line, rows = (tmp_path / "said").read_text().partition("\n")
    assert first.split()[:2] == ["keep", "dnf"] and replacing.of_dnf(rows) == {WEB.ident}
    (tmp_path / "said").unlink()
    assert transaction(folder, "0") == "dnf goes on\n" and not (tmp_path / "said").exists(), "nothing goes"
    assert transaction(folder, root="/mnt") == "dnf goes on\n" and not (tmp_path / "said").exists(), "another root"
    (tmp_path / "armed").unlink()
    assert transaction(folder) == "dnf goes on\n" and not (tmp_path / "said").exists(), "nothing is armed"

    translated = [str(path) for path in (folder / "__pycache__").iterdir()]
    assert len(translated) == 1 and {*translated, str(folder / ours.DNF_HOOK)} <= set(ours.paths(str(tmp_path)))
    ours.take_hooks_away()
    assert os.listdir(folder) == ["__pycache__"] and os.listdir(folder / "__pycache__") == []


def test_dnf_goes_on_whatever_becomes_of_us(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacing, "LIMIT", 1)
    assert replacing.install(str(tmp_path), agent(tmp_path, "sleep 60"), "rpm") == ""
    began = time.monotonic()
    said = transaction(folder)
    assert said.startswith("dnf goes on\n") and "is not kept: " in said and "timed out" in said
    assert time.monotonic() - began < 15, "a slow agent is ended"
    agent(tmp_path, "exit 7")
    assert transaction(folder) == "dnf goes on\n"
    assert "is not kept: 'Evenkeel' object has no attribute" in transaction(folder, "broken")
    for name in ("agent.pyz", "armed", "replacing"):
        (tmp_path / name).unlink()
        assert transaction(folder, "9999").startswith("dnf goes on\n"), f"{name} is gone"


def test_a_plugin_of_somebody_else_stays_and_is_told(tmp_path: Path, folder: Path) -> None:
    (folder / ours.DNF_HOOK).write_text("theirs")
    (words,) = Packages().watch({}, [WEB.line()], agent(tmp_path, ""), str(tmp_path))
    assert "of packages are not kept when something replaces them" in words and "is not ours" in words
    ours.take_hooks_away()
    assert (folder / ours.DNF_HOOK).read_text() == "theirs"


def test_where_dnf_tells_nothing_all_files_are_kept_at_the_checkpoint(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [WEB.line()]
    assert rpm.hooks() == [str(folder / ours.DNF_HOOK)] and not packages._keeps_all({}, lines)
    assert packages._keeps_all({"keep": "all"}, lines)
    (tmp_path / "dnf.conf").write_text("[main]\ngpgcheck=1\nplugins = False\n")
    assert rpm.hooks() == [] and packages._keeps_all({}, lines)
    (tmp_path / "dnf.conf").write_text("[main]\npluginpath=/opt/plugins\n")
    assert rpm.hooks() == [], "dnf looks for plugins elsewhere"
    (tmp_path / "dnf.conf").write_text("[main]\nplugins=1\n")
    assert rpm.hooks() != []
    with monkeypatch.context() as patched:
        patched.setattr(rpm.os, "access", lambda _path, _how: False)  # type: ignore[attr-defined]
        assert rpm.hooks() == [], "the system is read-only"
    (tmp_path / "dnf").unlink()
    (tmp_path / "dnf").symlink_to("dnf5")
    assert rpm.hooks() == [] and Packages().watch({}, lines, agent(tmp_path, ""), str(tmp_path)) == []
    assert os.listdir(folder) == ["__pycache__"]


def test_nothing_is_kept_where_no_change_is_armed_and_that_is_said(tmp_path: Path, folder: Path) -> None:
    (words,) = Packages().watch({}, [WEB.line()], (), str(tmp_path))
    assert words.startswith("packages: nothing keeps the package files of 1 packages") and os.listdir(folder)


# -- keep, and take out again


class Fedora:
    """A host that has these packages, and whose repositories offer those."""

    def __init__(self, installed: Sequence[Package], offered: Sequence[Package] = ()) -> None:
        self.installed = list(installed)
        self.offered = list(offered)
        self.signed = ""
        self.heads: dict[str, str] = {}

    def run(self, argv: Sequence[str], _timeout: float) -> Completed:
        words, code = "", 0
        if argv[:2] == ["rpm", "-qa"]:
            size = "\t1" if "SIZE" in argv[3] else ""
            words = "".join("\t".join(one.ident) + f"{size}\n" for one in self.installed)
        elif "%{SHA256HEADER}\\n" in argv:
            words, code = self.heads.get(argv[1], ""), 0 if self.heads else 1
        elif argv[0] == "rpmkeys":
            words, code = f"{argv[-1]}: {self.signed}\n", int("NOT" in self.signed)
        elif argv[:2] == ["rpm", "-qp"]:
            words = Path(argv[-1]).read_text().replace(" ", "\t")
        elif "download" in argv:
            for one in self.offered:
                if rpm._nevra(one) in argv:
                    name = f"{one.name}-{one.version.partition(':')[2]}.{one.arch}.rpm"
                    Path(argv[argv.index("--destdir") + 1], name).write_text(" ".join(one.ident))
        elif "repoquery" in argv:
            words = "\n".join(",".join(one.ident) for one in self.offered if rpm._nevra(one) in argv)
        elif argv[0] == "rpm":
            code = 1
        return Completed(tuple(argv), code, words, "")


def a_host(tmp_path: Path, host: Fedora) -> Restore:
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return Restore(replace(SYSTEM, run=host.run), Store(str(tmp_path), SYSTEM).objects)


def test_what_goes_is_kept_exactly_as_dnf_names_it(tmp_path: Path, folder: Path) -> None:
    """Of several versions side by side, only the one goes that dnf names; none of them is at hand as a file."""
    newer, other = WEB._replace(version="0:2.0-1"), WEB._replace(arch="i686")
    at = a_host(tmp_path, Fedora([WEB, newer, other, LIB], [WEB, newer, other]))
    lines = [one.line() for one in (WEB, newer, other, LIB._replace(sha256=SHA))]
    told = "".join("\t".join(one.ident) + "\n" for one in (WEB, LIB, WEB._replace(name="new")))
    assert Packages().keep_replaced(lines, ("dnf", told, "1"), at) == []
    assert set(kept.every(str(tmp_path))) == {WEB.ident}, "the store has that of lib"
    (words,) = Packages().keep_replaced([LIB.line()], ("dnf", told, "1"), at)
    assert words.startswith("the package file of lib:noarch 2:1^a-1 is not kept: rpm does not tell")


def test_a_kept_file_comes_back_and_one_that_nobody_has_is_named(tmp_path: Path, folder: Path) -> None:
    newer = WEB._replace(version="0:2.0-1")
    host = Fedora([newer])
    at = a_host(tmp_path, host)
    why = "is 0:2.0-1; its package file is not in the store"
    assert next(step.why for step in Packages().plan([WEB.line()], at)) == why
    assert Packages().obstacles([WEB.line()], at) == ["web:x86_64 0:1.0-1: its package file is not in the store"]
    assert "web:x86_64 0:1.0-1. Make a mirror reachable" in Packages().cannot_be_had([WEB.line()], at)[0]
    host.offered = [WEB]
    assert Packages().cannot_be_had([WEB.line()], at) == [], "the command rpm has replaced it, and a mirror has it"
    with_file = rpm.fetch([WEB, LIB], str(tmp_path / "tmp"), at.system, download=True)
    assert set(with_file) == {WEB.ident}
    assert rpm.fetch([LIB], str(tmp_path / "tmp"), at.system, download=False) == {}
    kept.put(str(tmp_path), WEB.ident, kept.copy(with_file[WEB.ident]))
    assert next(step.why for step in Packages().plan([WEB.line()], at)) == "is 0:2.0-1"
    assert Packages().obstacles([WEB.line()], at) == Packages().cannot_be_had([WEB.line()], at) == []
    path = rpm._take_out(WEB, kept.every(str(tmp_path)), str(tmp_path), at)
    assert Path(path).read_text() == "web x86_64 0:1.0-1"


def test_no_mirror_gives_a_file_that_dnf_would_not_install(tmp_path: Path, folder: Path) -> None:
    """``dnf download`` checks no signature, and the rollback installs without a check."""
    (tmp_path / "web.repo").write_text("[web]\n[other]\nenabled=0\ngpgcheck=0\n")
    (tmp_path / "dnf.conf").write_text("[main]\ngpgcheck=1\n")
    host = Fedora([], [WEB])
    at = a_host(tmp_path, host)

    def found() -> dict[Ident, str]:
        return rpm.fetch([WEB], str(tmp_path / "tmp"), at.system, download=True)

    host.signed = "digests OK"
    assert found() == {}, "anybody could have made it"
    assert "with a signature" in rpm.transact([("install", WEB)], at)[WEB.key]
    host.signed = "digests SIGNATURES NOT OK"
    assert found() == {}
    host.signed = "digests signatures OK"
    assert set(found()) == {WEB.ident}
    host.signed, host.heads = "digests OK", {"-q": SHA, "-qp": SHA}
    assert set(found()) == {WEB.ident}, "it is what is installed: its key may not be there yet"
    host.heads = {"-q": SHA, "-qp": "b" * 64}
    assert found() == {}
    host.heads = dict.fromkeys(("-q", "-qp"), "(none)")
    assert found() == {}, "an old head proves nothing"


@pytest.mark.parametrize(
    ("main", "more", "checks"),
    [
        ("gpgcheck=1", "[a]\n[b]\nenabled=0\ngpgcheck=0\n", True),
        ("gpgcheck=1", "[a]\ngpgcheck=no\n", False),
        ("", "[a]\ngpgcheck=1\nbaseurl=http://a/%25\n", True),
        ("", "[a]\n", False),
        ("gpgcheck=1", "words of nobody\n", True),
        ("gpgcheck=1", "[a]\ngpgcheck=perhaps\n", True),
        ("", "", True),
    ],
)
def test_signatures_count_where_dnf_checks_them_everywhere(
    tmp_path: Path, folder: Path, main: str, more: str, checks: bool
) -> None:
    (tmp_path / "dnf.conf").write_text(f"[main]\n{main}\n")
    (tmp_path / "web.repo").write_text(more)
    assert rpm.checks_signatures() is checks


# -- a package file made anew

FILES = [
    # (path, mode, flags, inode): a link of two names, a configuration file, a file that the package only owns.
    ("/etc/web.conf", 0o100644, 17, 1),
    ("/srv/web", 0o040755, 0, 2),
    ("/srv/web/data", 0o100644, 0, 3),
    ("/srv/web/ghost", 0o100644, 64, 4),
    ("/srv/web/hard", 0o100644, 0, 3),
    ("/srv/web/large", 0o100644, 0, 5),
    ("/srv/web/link", 0o120777, 0, 6),
]


# Our own group.
GROUP = grp.getgrgid(os.getegid()).gr_name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "root"
    (top / "srv/web").mkdir(parents=True)
    (top / "etc").mkdir()
    (top / "etc/web.conf").write_text("shipped\n")
    (top / "srv/web/data").write_text("data")
    os.link(top / "srv/web/data", top / "srv/web/hard")
    (top / "srv/web/large").write_bytes(bytes(300_000))
    (top / "srv/web/link").symlink_to("data")
    return top


def head(root: Path, packer: str, user: str = "root", group: str = GROUP) -> bytes:
    """The head of a package file with the files below ``root``, as the database of rpm keeps it."""
    paths = [root / path[1:] for path, *_rest in FILES]
    data = [path.read_bytes() if path.is_file() and not path.is_symlink() else b"" for path in paths]
    digests = [hashlib.sha256(one).hexdigest() if one else "" for one in data]
    links = [os.readlink(path) if path.is_symlink() else "" for path in paths]
    tags: list[tuple[int, int, Sequence[object]]] = [
        (1028, 4, [len(one) for one in data]),
        (1030, 3, [mode for _path, mode, _flags, _inode in FILES]),
        (1035, 8, digests),
        (1036, 8, links),
        (1037, 4, [flags for _path, _mode, flags, _inode in FILES]),
        (1039, 8, [user] * len(FILES)),
        (1040, 8, [group] * len(FILES)),
        (1095, 4, [1] * len(FILES)),
        (1096, 4, [inode for _path, _mode, _flags, inode in FILES]),
        (1116, 4, [0 if path.startswith("/etc") else 1 if path == "/srv/web" else 2 for path, *_rest in FILES]),
        (1117, 8, [os.path.basename(path) for path, *_rest in FILES]),
        (1118, 8, ["/etc/", "/srv/", "/srv/web/"]),
        (1124, 6, ["cpio"]),
        (1125, 6, [packer]),
        (5011, 4, [8]),
    ]
    entries, store = b"", b""
    for tag, kind, values in tags:
        store += b"\0" * (-len(store) % 8)
        entries += struct.pack(">IIII", tag, kind, len(store), len(values))
        for value in values:
            store += f"{value}\0".encode() if kind in (6, 8) else struct.pack(">H" if kind == 3 else ">I", value)
    return struct.pack(">II", len(tags), len(store)) + entries + store


def made(root: Path, blob: bytes, sha256: str = "") -> tuple[bytes, dict[int, bytes]]:
    """(the head, place in the list -> content) of the package file that is made of this head."""
    sha256 = sha256 or hashlib.sha256(rebuild_rpm._MAGIC + blob).hexdigest()
    words = ["abc", sha256, base64.b64encode(b"signed").decode(), "(none)", base64.encodebytes(blob).decode()]
    told = Completed((), 0, "\n--\n".join(words), "")
    with open(root.parent / "file", "w+b") as stream:
        rebuild_rpm.rebuild(WEB, stream, replace(SYSTEM, run=lambda _argv, _timeout: told), str(root))
    data = (root.parent / "file").read_bytes()
    assert data[:4] == b"\xed\xab\xee\xdb" and data[96:104] == rebuild_rpm._MAGIC
    at = data.index(rebuild_rpm._MAGIC, 104) + 8
    assert at % 8 == 0
    return data[: at + len(blob)], unpacked(data[at + len(blob) :], data[at : at + len(blob)])


def unpacked(payload: bytes, blob: bytes) -> dict[int, bytes]:
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        data, at, last = b"", 6, False
        while not last:
            word = int.from_bytes(payload[at : at + 3], "little")
            last, size = bool(word & 1), word >> 3
            data += payload[at + 3 : at + 3 + size]
            at += 3 + size
        assert at == len(payload)
    else:
        data = gzip.decompress(payload) if payload.startswith(b"\x1f\x8b") else lzma.decompress(payload)
    form = rebuild_rpm._Head(blob)
    found, at = {}, 0
    order = []
    while data[at : at + 6] == b"07070X":
        place = int(data[at + 6 : at + 14], 16)
        order.append(place)
        same = [one for one in order if FILES[one][3] == FILES[place][3]]
        is_first = FILES[place][3] == 3 and len(same) == 1
        size = 0 if is_first or FILES[place][1] & 0o170000 == 0o040000 else form.numbers(1028)[place]
        size = len(form.texts(1036)[place]) or size
        found[place] = data[at + 16 : at + 16 + size]
        at += 16 + size + -size % 4
    assert data[at : at + 6] == b"070701" and data[at:].endswith(b"TRAILER!!!\0\0\0\0")
    return found


@pytest.mark.parametrize("packer", ["zstd", "xz", "gzip", "lzma"])
def test_a_package_file_is_made_anew_from_the_installed_files(root: Path, packer: str) -> None:
    blob = head(root, packer)
    top, files = made(root, blob)
    assert top.endswith(blob) and b"signed" in top and b"abc\0" in top, (
        "the head is that of the maker, with its signature"
    )
    assert list(files) == [0, 1, 2, 4, 5, 6], "names of one file follow each other, and no ghost is there"
    assert files == {0: b"shipped\n", 1: b"", 2: b"", 4: b"data", 5: bytes(300_000), 6: b"data"}


def test_what_was_changed_by_hand_is_entered_as_it_is(root: Path) -> None:
    blob = head(root, "gzip")
    (root / "etc/web.conf").write_text("by hand\n")
    (root / "srv/web/data").write_text("other data")
    (root / "srv/web/large").unlink()
    (root / "srv/web/link").unlink()
    (root / "srv/web/link").mkdir()
    top, files = made(root, blob)
    assert b"signed" not in top and b"abc\0" not in top and not top.endswith(blob)
    assert files == {0: b"by hand\n\n", 1: b"", 2: b"", 4: b"other data"}, "rpm goes on to see that it was changed"
    entered = rebuild_rpm._Head(top[-len(blob) :])
    assert entered.numbers(1028)[:3] == [9, 0, 10] and entered.numbers(1037) == [17, 0, 0, 64, 0, 64, 64]
    assert entered.texts(1035)[2].decode() == hashlib.sha256(b"other data").hexdigest()
    assert hashlib.sha256(rebuild_rpm._MAGIC + entered.blob).hexdigest().encode() in top


@pytest.mark.parametrize(
    ("mode", "user", "group", "then"),
    [
        (0o600, "root", GROUP, 0o600),
        (0o640, "root", GROUP, 0o640),
        (0o640, "root", "daemon", 0o600),
        (0o755, "daemon", "daemon", 0o644),
        (0o604, "daemon", "daemon", 0o604),
        (0o600, "ghost-of-nobody", "ghost-of-nobody", 0o600),
    ],
)
def test_nobody_may_read_what_was_changed_who_may_not_read_it_now(
    root: Path, mode: int, user: str, group: str, then: int
) -> None:
    """rpm writes a file of configuration beside the changed one, for all to read."""
    blob = head(root, "gzip", user, group)
    conf = root / "etc/web.conf"
    conf.chmod(mode)
    assert rebuild_rpm._Head(made(root, blob)[0][-len(blob) :]).numbers(1030)[0] == 0o100644, "as the package has it"
    conf.write_text("password\n")
    assert rebuild_rpm._Head(made(root, blob)[0][-len(blob) :]).numbers(1030)[0] == 0o100000 | then


def test_what_was_changed_is_not_given_to_a_user_who_may_not_read_it(root: Path) -> None:
    """A user can put a link to a place of root's where a directory of the package was."""
    blob = head(root, "gzip", next(one.pw_name for one in pwd.getpwall() if one.pw_uid not in (0, os.geteuid())))
    conf = root / "etc/web.conf"
    conf.write_text("password\n")
    made(root, blob)
    conf.chmod(0o600)
    with pytest.raises(EvenkeelError, match="/etc/web.conf was changed, and its package gives it to"):
        made(root, blob)


def test_a_file_that_was_made_here_is_known_again(tmp_path: Path, root: Path) -> None:
    made(root, head(root, "gzip"))
    assert rebuild_rpm.is_made_here(str(tmp_path / "file"))
    (tmp_path / "file").write_bytes(b"\xed\xab\xee\xdb" + bytes(200))
    assert not rebuild_rpm.is_made_here(str(tmp_path / "file"))


def test_what_cannot_be_made_is_refused(root: Path) -> None:
    with pytest.raises(EvenkeelError, match="in bzip2 cannot be made"):
        made(root, head(root, "bzip2"))
    with pytest.raises(EvenkeelError, match="does not have the head of the package file as it was"):
        made(root, head(root, "gzip"), SHA)
    (root / "srv/web/hard").unlink()
    (root / "srv/web/hard").write_text("edited")
    with pytest.raises(EvenkeelError, match="/srv/web/data and another name of it are two files by now"):
        made(root, head(root, "gzip").replace(hashlib.sha256(b"edited").hexdigest().encode(), SHA.encode()))
    with pytest.raises(EvenkeelError, match="another length"):
        made(root, head(root, "gzip") + b"x")
    blob = bytearray(head(root, "gzip"))
    blob[8 + 4 : 8 + 8] = struct.pack(">I", 99)
    with pytest.raises(EvenkeelError, match="the list of files of the package cannot be read"):
        made(root, bytes(blob))


def test_the_words_of_dnf_are_read_from_the_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Sequence[str]] = []

    def keep(_store: Store, words: Sequence[str]) -> list[str]:
        told.append(words)
        return []

    monkeypatch.setattr(keeping, "keep", keep)
    monkeypatch.setattr(keeping, "patience", lambda _store: 60)
    monkeypatch.setattr(sys, "stdin", io.StringIO("web\tnoarch\t0:1-1\n"))
    for source in ("dpkg", "dnf"):
        assert keeping.main(["--store", str(tmp_path), source, "1"]) == 0
    keeping.signal.alarm(0)  # type: ignore[attr-defined]
    assert [words[1] for words in told] == ["", "web\tnoarch\t0:1-1\n"]
