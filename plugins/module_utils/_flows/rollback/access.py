# SPDX-License-Identifier: GPL-3.0-or-later

"""The part of a checkpoint that lets people in: accounts, sshd, the network, the firewall's files. It goes back first,
and waits for no other part. Pure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ..._dataclasses import replace
from ..._files.declaration import left_out
from ..._files.entry import ABOVE, ABSENT, Entry, path_of, place_of
from ..._host.paths import ancestors
from ..._resources import files
from ..._resources.kind import is_within
from ..._resources.plain import KEYS
from ..._resources.registry import kind_of, own_lines, path_lines, tree_spec, trees
from ..._services.unit import LISTENING
from ..._store.manifest import Section

_ETC = (
    *("ssh", "dropbear", "pam.d", "pam.conf", "security", "login.defs", "nsswitch.conf", "sudoers", "sudoers.d"),
    *("passwd", "shadow", "group", "gshadow", "subuid", "subgid", "shells", "nologin", "hosts.allow", "hosts.deny"),
    *("hosts", "resolv.conf", "network", "netplan", "NetworkManager", "systemd/network", "nftables.conf", "nftables.d"),
    *("systemd/networkd.conf", "systemd/networkd.conf.d", "systemd/resolved.conf", "systemd/resolved.conf.d", "dhcp"),
    *("iproute2", "resolvconf", "resolvconf.conf", "dhcpcd.conf", "dhclient.conf", "sysconfig/network"),
    *("sysconfig/network-scripts", "default/ssh", "sysconfig/sshd", "crypto-policies", "ld.so.preload"),
    *("sssd", "krb5.conf", "krb5.keytab"),
)
PATHS = (
    "/root/.ssh",
    *(f"/etc/{one}" for one in _ETC),
    *(f"/etc/systemd/system/{unit}{more}" for unit in LISTENING for more in ("", ".d")),
    *(f"/run/systemd/system/{unit}.d" for unit in LISTENING),
)


def narrowed(section: Section) -> Section | None:
    """The section with nothing but paths that give access; None where it has no such path.

    Its lines are those that a look at these paths alone would have written.
    """
    spec = tree_spec(section)
    if spec is None:
        return None
    declared = spec["paths"]
    wanted = {one for one in PATHS if any(is_within(one, root) for root in declared)}
    # Keys of a login that are declared by themselves: a user can make no more work of one file.
    wanted |= {root for root in declared if root.endswith(KEYS) or any(is_within(root, one) for one in PATHS)}
    roots = sorted(one for one in wanted if not files.excludes(spec, one))
    roots = [one for one in roots if not any(is_within(one, other) for other in roots if other != one)]
    if not roots:
        return None
    narrow: dict[str, Any] = dict(spec, paths=roots)
    return replace(section, kind=trees().name, spec=narrow, lines=lines_at(path_lines(section), roots))


def lines_at(lines: Sequence[str], roots: Sequence[str]) -> list[str]:
    """The lines that a look at these paths alone would have written."""
    found: dict[bytes, str] = {}
    for root in map(os.fsencode, roots):
        for above in ancestors(root):
            at = place_of(lines, above)
            if at < len(lines) and path_of(lines[at]) == above:
                entry = Entry.parse(lines[at])
                if entry.type not in ("d", ABOVE):
                    break
                found[above] = entry._replace(type=ABOVE, mtime=0, flags=0).line()
        mine = _below(lines, root)
        for line in mine:
            found[path_of(line)] = line
        if not mine:
            found[root] = Entry(root, ABSENT).line()
    return relinked([found[path] for path in sorted(found)])


def relinked(lines: Sequence[str]) -> list[str]:
    """Lines of which some were left out, with each inode under the first of its names that are left."""
    if not any(" link=" in line for line in lines):
        return list(lines)
    there, firsts, found = set(map(path_of, lines)), dict[bytes, bytes](), []
    for line in lines:
        entry = Entry.parse(line) if " link=" in line else None
        if entry is not None and entry.link not in there:
            first = firsts.setdefault(entry.link, entry.path)
            line = entry._replace(link=b"" if first == entry.path else first).line()
        found.append(line)
    return found


def _below(lines: Sequence[str], root: bytes) -> list[str]:
    """The lines of the path and of all paths below it."""
    found = []
    at = place_of(lines, root)
    if at < len(lines) and path_of(lines[at]) == root:
        found.append(lines[at])
    at = place_of(lines, root + b"/")
    while at < len(lines) and path_of(lines[at]).startswith(root + b"/"):
        found.append(lines[at])
        at += 1
    return found


def is_of(section: Section, other: Section) -> bool:
    """Whether both are of the same declaration."""
    return section.kind == other.kind and files.declared(section.spec) == files.declared(other.spec)


def with_former_part(now: Section, then: Section, known: Section) -> Section:
    """A section of the present state, with the state of a part of it that was ``known`` before this part was put back.

    ``then``: the section of the checkpoint to which ``known`` belongs.
    """
    if not is_of(now, then):
        return now
    if not kind_of(known).only_paths:
        return replace(now, lines=[*(path_lines(known) or path_lines(now)), *own_lines(known)])
    return replace(now, lines=sorted(_merged(now.lines, known), key=_order))


def _order(line: str) -> tuple[bool, bytes]:
    """Entries by their path, then lines in a kind's own words."""
    return (False, path_of(line)) if line[1:2] == " " else (True, b"")


def _merged(lines: Sequence[str], known: Section) -> list[str]:
    """Lines of a later look, with the lines of an earlier look at the paths of that look."""
    roots = [os.fsencode(one) for one in known.spec["paths"]]
    inside = tuple(root + b"/" for root in roots)
    is_left_out, apart = left_out(files.trees_of(known.spec)), set()
    kept = []
    for line in lines:
        if line[1:2] != " ":
            kept.append(line)
            continue
        path = path_of(line)
        if path.startswith(inside) and (os.path.dirname(path) in apart or is_left_out(path)):
            apart.add(path)  # The earlier look had no such path.
        elif path in roots or path.startswith(inside):
            continue
        kept.append(line)
    for root in roots:
        kept += [line for line in _below(known.lines, root) if not line.startswith(ABSENT)]
    return kept


def own_alone(section: Section, lines: Sequence[str]) -> Section:
    """The section with these lines of its kind's own, and no trees: without entries, a tree would be an empty one."""
    spec = {key: value for key, value in section.spec.items() if key not in ("trees", files.MOUNTS, files.MACHINE)}
    return replace(section, spec=spec, lines=list(lines))


def own_part(section: Section) -> Section | None:
    """The section with the lines of its kind that give access; None where it has no such line."""
    lines = kind_of(section).access_lines(own_lines(section))
    return replace(section, lines=lines) if lines else None
