# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a rollback gives back, judged by the tools of others: rsync both ways, getfattr, lsattr, bsdtar's mtree.

One fixture with the hardest cases, and trees that hypothesis makes up. The reference is not a copy but the same tree
built twice, so that no copier's shortcomings are taken for ours.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import SYSTEM

TOOLS = ("rsync", "getfattr", "lsattr", "bsdtar", "chattr")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, TOOLS)),
    reason=f"owners, devices and flags take root, and the judges are {', '.join(TOOLS)}",
)

YEAR = 31_556_952 * 10**9
# VFS_CAP_REVISION_2 with the effective bit, cap_net_bind_service (linux/capability.h).
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
# Version 2 of the POSIX ACL xattr (linux/posix_acl_xattr.h): user::rw-, user:12345:r--, group::r--, mask::r--, other::-
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, perm, who)
    for tag, perm, who in [(1, 6, 2**32 - 1), (2, 4, 12345), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)]
)


@dataclass(frozen=True)
class Node:
    """One path: ``kind`` as in ``ls -l`` (``-`` for a file), ``content`` also as the target of a link."""

    kind: str = "-"
    content: bytes = b""
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    mtime: int = 10**18 + 7
    xattrs: tuple[tuple[str, bytes], ...] = ()
    flags: str = ""
    hole: int = 0
    times: int = 1


Tree = dict[bytes, Node]


def build(root: Path, tree: Tree, links: list[tuple[bytes, bytes]] = []) -> None:  # noqa: B006
    """Make the tree below ``root``, with (new name, existing name) as hard links; what is in the way goes."""
    top = os.fsencode(root)
    os.makedirs(top, exist_ok=True)
    for name, node in sorted(tree.items()):
        path = top + b"/" + name
        clear(path, keep=node.kind == "d")
        if node.kind == "d":
            os.makedirs(path, exist_ok=True)
        elif node.kind == "l":
            os.symlink(node.content or b".", path)
        elif node.kind == "-":
            with open(path, "wb") as stream:
                stream.seek(node.hole)
                stream.write(node.content * node.times)
                stream.truncate(node.hole * 2 + len(node.content) * node.times)
        else:
            os.mknod(path, {"p": stat.S_IFIFO, "c": stat.S_IFCHR, "b": stat.S_IFBLK}[node.kind], os.makedev(7, 99))
    for new, name in links:
        clear(top + b"/" + new)
        os.link(top + b"/" + name, top + b"/" + new, follow_symlinks=False)
    for name, node in sorted(tree.items(), reverse=True):
        path = top + b"/" + name
        os.chown(path, *node.owner, follow_symlinks=False)
        if node.kind != "l":
            os.chmod(path, node.mode)
        for key, value in node.xattrs:
            os.setxattr(path, key, value, follow_symlinks=False)
        os.utime(path, ns=(node.mtime, node.mtime), follow_symlinks=False)
        if node.flags and subprocess.run(["chattr", node.flags, path], check=False).returncode:
            pytest.skip("this file system or user cannot set inode flags")
    os.utime(top, ns=(5, 5))


def clear(path: bytes, keep: bool = False) -> None:
    """Remove what is there; with ``keep`` not a directory."""
    if os.path.isdir(path) and not os.path.islink(path):
        if not keep:
            shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def judge(reference: Path, live: Path) -> dict[str, str]:
    """What each judge sees different; empty when all of them see none."""
    rsync = ["rsync", "-aHAXSn", "-i", "--checksum", "--delete", "--devices", "--specials"]
    found = {}
    subprocess.run(["sync", "--file-system", live], check=True)  # Until then blocks are still being counted.
    for name, one, other in (("rsync", reference, live), ("rsync back", live, reference)):
        found[name] = said([*rsync, f"{one}/", f"{other}/"], one)
    for name, argv in {
        "getfattr": [
            "getfattr",
            "--recursive",
            "--physical",
            "--no-dereference",
            "--dump",
            "--match=-",
            "--encoding=hex",
            ".",
        ],
        "lsattr": ["lsattr", "-a", "-R", "."],
        "mtree": ["bsdtar", "-cf-", "--format=mtree", "--options=mtree:!device,mtree:!inode,mtree:sha256", "."],
        "holes": ["find", ".", "-type", "f", "-printf", "%P %b\\0"],
        "times": ["find", ".", "-printf", "%P %T@ %M %U %G %n %l\\0"],
    }.items():
        then, now = (set(said(argv, where).replace("\0", "\n").splitlines()) for where in (reference, live))
        found[name] = "\n".join(sorted(then ^ now))
    return {name: text for name, text in found.items() if text}


def said(argv: list[str], cwd: Path) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, check=False)
    assert done.returncode == 0 or argv[0] == "lsattr", done.stderr  # It says that it cannot look at a device.
    return done.stdout.decode(errors="surrogateescape")


def goes_back(place: Path, then: Tree, links: list[tuple[bytes, bytes]], now: Tree, swap: bool) -> None:
    """Build, record, change, put back: no judge sees a difference, and neither do we."""
    live, reference = place / "live", place / "reference"
    build(reference, then, links)
    build(live, then, links)
    assert judge(reference, live) == {}, "the same tree twice"
    store = Store(str(place / "store"), SYSTEM)
    checkpoint(store, "before", [{"files": {"paths": [str(live)]}}])
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", live], check=False, capture_output=True)
    build(live, now)
    result = rollback(store, "before", swap=swap)
    assert result["left"] == [] and judge(reference, live) == {}
    assert not rollback(store, "before")["changed"]
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", live, reference], check=False, capture_output=True)


HARDEST: Tree = {
    b"dir": Node("d", mode=0o2750, owner=(1, 2), mtime=-3 * YEAR + 123_456_789),
    b"dir/past": Node(content=b"1900s", mtime=-(2**31) * 10**9 + 1),
    b"dir/future": Node(content=b"2400s", mtime=430 * YEAR + 987_654_321),
    b"dir/caps": Node(content=b"program", mode=0o755, xattrs=(("security.capability", CAPABILITY),)),
    b"dir/setuid": Node(content=b"program", mode=0o6755, owner=(12, 34)),
    b"dir/acl": Node(content=b"acl", mode=0o640, xattrs=(("system.posix_acl_access", ACL),)),
    b"dir/trusted": Node(content=b"x", xattrs=(("trusted.x", b"\0\xff\n"), ("user.empty", b""))),
    b"dir-default": Node("d", mode=0o755, xattrs=(("system.posix_acl_default", ACL),)),
    b"dir-default/below": Node(content=b"not what the default says", mode=0o600),
    b"dir-sorts-between": Node(content=b"between dir and dir/past in bytes"),
    b"sticky": Node("d", mode=0o1777),
    b"sticky/none": Node("d", mode=0),
    b"fifo": Node("p", mode=0o620, owner=(5, 6), mtime=7),
    b"char": Node("c", mode=0o660, owner=(0, 6), mtime=9),
    b"block": Node("b", mode=0o600, mtime=10),
    b"link": Node("l", content=b"dir/\xff\n away", owner=(9, 9), mtime=11),
    b"link-trusted": Node("l", content=b"nowhere", xattrs=(("trusted.link", b"on the link itself"),)),
    b"new\nline": Node(content=b"\n"),
    b"%41 per cent": Node(content=b"%"),
    b"\xfe\xff not utf-8": Node(content=b"\0"),
    b"-rf": Node(content=b"an option"),
    b"n" * 255: Node(content=b"long"),
    b"hole": Node(content=b"island", hole=3_000_000),
    b"hole-only": Node(hole=1_000_000),
    b"big": Node(content=bytes(range(256)), times=1000),
    b"empty": Node(),
    b"fixed": Node(content=b"immutable", flags="+i"),
    b"log": Node(content=b"appended", flags="+a"),
    b"nodump": Node(content=b"d", flags="+dA"),
    b"fixed-dir": Node("d", flags="+i"),
}
LINKS = [
    (b"dir/fifo-too", b"fifo"),
    (b"dir/char-too", b"char"),
    (b"dir/block-too", b"block"),
    (b"dir/link-too", b"link"),
    (b"a-first-name-of-big", b"big"),
    (b"sticky/empty-too", b"empty"),
]
EVERYTHING_ELSE: Tree = {
    **{name: Node("d") if node.kind != "d" else Node(content=b"turned") for name, node in HARDEST.items()},
    b"dir": Node("d", mode=0o700),
    b"dir/fifo-too": Node(content=b"a file now"),
    b"dir/past": Node(content=b"1900s", mtime=5),
    b"fixed": Node(content=b"changed"),
    b"added": Node("p"),
}
del EVERYTHING_ELSE[b"dir-default/below"], EVERYTHING_ELSE[b"sticky/none"]


@pytest.mark.parametrize("swap", [False, True])
def test_the_hardest_cases_come_back(tmp_path: Path, swap: bool) -> None:
    # What is pinned keeps a directory from being swapped.
    then = {name: node for name, node in HARDEST.items() if not (swap and node.flags in ("+i", "+a"))}
    goes_back(tmp_path, then, LINKS, EVERYTHING_ELSE, swap)


def test_each_hard_case_comes_back_alone(tmp_path: Path) -> None:
    live, reference = tmp_path / "live", tmp_path / "reference"
    build(reference, HARDEST, LINKS)
    build(live, HARDEST, LINKS)
    store = Store(str(tmp_path / "store"), SYSTEM)
    checkpoint(store, "before", [{"files": {"paths": [str(live)]}}])
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", live], check=False, capture_output=True)
    for name in sorted(HARDEST):
        clear(os.fsencode(live) + b"/" + name)
        assert rollback(store, "before")["left"] == []
        assert judge(reference, live) == {}, name
        subprocess.run(["chattr", "-R", "-f", "-i", "-a", live], check=False, capture_output=True)
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", reference], check=False, capture_output=True)


names = st.one_of(
    st.sampled_from([b"a", b"a-b", b"b", b"c"]),
    st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"/", b"%").replace(b"\0", b"\n")),
).filter(lambda name: name not in (b".", b"..") and not name.startswith(b".evenkeel-"))
nodes = st.builds(
    Node,
    kind=st.sampled_from("----ddllpcb"),
    content=st.binary(max_size=40),
    times=st.sampled_from([1, 1, 1, 3000]),
    mode=st.integers(0, 0o7777),
    owner=st.sampled_from([(0, 0), (1, 2), (65534, 12345)]),
    mtime=st.one_of(st.sampled_from([0, -1, 10**18]), st.integers(-(2**31) * 10**9, 400 * YEAR)),
    xattrs=st.sampled_from([(), (("trusted.t", b"\xff"),)]),
    hole=st.sampled_from([0, 0, 0, 100_000]),
)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    found: Tree = {}
    folders = [b""]
    for _number in range(draw(st.integers(0, 12))):
        path = draw(st.sampled_from(folders)) + draw(names)
        if path in found:
            continue
        found[path] = node = draw(nodes)
        if node.kind == "l":
            target = node.content[:40].replace(b"\0", b"-") or b"."
            found[path] = Node("l", target, 0o777, node.owner, node.mtime, node.xattrs)
        elif node.kind == "d":
            folders.append(path + b"/")
    return found


@st.composite
def linked(draw: st.DrawFn) -> tuple[Tree, list[tuple[bytes, bytes]]]:
    tree = draw(trees())
    sources = sorted(name for name, node in tree.items() if node.kind != "d")
    folders = [b"", *(name + b"/" for name, node in tree.items() if node.kind == "d")]
    links: dict[bytes, bytes] = {}
    for _number in range(draw(st.integers(0, 4)) if sources else 0):
        new = draw(st.sampled_from(sorted(folders))) + draw(names)
        if new not in tree:
            links[new] = draw(st.sampled_from(sources))
    return tree, sorted(links.items())


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(then=linked(), now=trees(), swap=st.booleans())
def test_trees_nobody_thought_of_come_back(then: tuple[Tree, list[tuple[bytes, bytes]]], now: Tree, swap: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        goes_back(Path(place), *then, now, swap)
