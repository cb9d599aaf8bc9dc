# SPDX-License-Identifier: GPL-3.0-or-later

"""The comparison of the host that a checkpoint is from with the host that it is to be put back on. Pure.

A difference that would leave a host that does not work is a refusal; any other difference is a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..._dataclasses import dataclass, field
from ..._files.entry import Entry
from ..._host.machine import Machine
from ..._resources.kind import is_within
from ..._resources.registry import kind_of, path_lines, tree_spec
from ..._store.manifest import Section

PASSWD, GROUP = "/etc/passwd", "/etc/group"
# The uid with which the session of this process began.
AUDITED = "/proc/self/loginuid"
# The groups whose members become root.
_ROOTS = ("admin", "sudo", "wheel")
_LABELS = "security.selinux"
_SHOWN = 10


@dataclass
class Findings:
    """``refusals``: why nothing may be put back. ``warnings``: what a person should know."""

    refusals: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Account(NamedTuple):
    """A line of passwd."""

    uid: int
    gid: int
    home: str
    shell: str


def compare_machines(then: Machine, now: Machine, sections: Sequence[Section], paths: Sequence[str] = ()) -> Findings:
    """The differences of the two machines that matter to the sections, or to these ``paths`` of them. A property that a
    record does not tell is no difference."""
    found = Findings()
    programs = any(kind_of(one).installs for one in sections)
    trees = [path for one in sections for path in (tree_spec(one) or {"paths": []})["paths"]]
    roots = [tree if is_within(tree, one) else one for tree in trees for one in paths or "/" if _touch(tree, one)]
    whole = programs or "/etc" in roots
    if then.release and then.release != now.release:
        words = f"the checkpoint is of {then.release}, and this host has {now.release or 'another system'}"
        more = "; use a host of that release, or recover data alone (kinds, paths)"
        (found.refusals if whole else found.warnings).append(words + (more if whole else ""))
    if then.architecture and then.architecture != now.architecture:
        words = f"the checkpoint is of {then.architecture}, and this host is {now.architecture}"
        more = "; use a host of that architecture, or leave out packages (kinds)"
        (found.refusals if programs else found.warnings).append(words + (more if programs else ""))
    if then.architecture and now.selinux and not then.selinux and roots:
        found.refusals.append(
            "files have SELinux labels here, and had none on the host of the checkpoint; use a host without SELinux, "
            "or recover kinds without files"
        )
    here = {one.point for one in now.file_systems}
    for one in then.file_systems:
        concerned = one.point != "/" and any(_touch(one.point, root) for root in roots)
        if concerned and one.point not in here:
            size = f", {_size(one.bytes)}" if one.bytes else ""
            found.warnings.append(
                f"{one.point} was a file system of its own ({one.kind}{size}), and none is mounted there here: what "
                f"comes back lies on the file system above. Disks then: {_disks(then)}; here: {_disks(now)}"
            )
    return found


def _touch(path: str, other: str) -> bool:
    return is_within(path, other) or is_within(other, path)


def _disks(machine: Machine) -> str:
    return ", ".join(f"{name} {_size(size)}" for name, size in list(machine.disks.items())[:_SHOWN]) or "not known"


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def without_labels(sections: Sequence[Section]) -> list[Section]:
    """The sections without labels of SELinux, for a host that has none."""
    word = f" x:{_LABELS}="
    return [
        Section(
            one.kind,
            one.spec,
            [_bare(line) if word in line and line[1:2] == " " else line for line in one.lines],
        )
        for one in sections
    ]


def _bare(line: str) -> str:
    entry = Entry.parse(line)
    return entry._replace(xattrs=tuple(pair for pair in entry.xattrs if pair[0] != _LABELS)).line()


def accounts(text: bytes) -> dict[str, Account]:
    """Name -> account, of the text of passwd. Lines of another form are left out."""
    found: dict[str, Account] = {}
    for line in text.decode("utf-8", "replace").splitlines():
        words = line.split(":")
        if len(words) == 7 and words[2].isdigit() and words[3].isdigit():
            found.setdefault(words[0], Account(int(words[2]), int(words[3]), words[5], words[6]))
    return found


def compare_accounts(then: Mapping[str, Account], now: Mapping[str, Account], login: str) -> Findings:
    """The differences of the accounts. ``login``: the account by which we have come; empty for root or unknown."""
    found = Findings()
    mine, known = now.get(login), then.get(login)
    if login and mine is not None and (known is None or (known.uid, known.home) != (mine.uid, mine.home)):
        why = "is not in the checkpoint" if known is None else f"has uid {known.uid} and home {known.home} there"
        found.refusals.append(
            f"the account {login} (uid {mine.uid}, home {mine.home}), by which the controller logs in here, {why}: it "
            "could not log in any more. Connect as root or as another account, or leave out what has the accounts "
            "(kinds, paths)"
        )
    moved = [name for name in sorted(then) if name in now and then[name].uid != now[name].uid]
    if moved:
        uids = _some([f"{one} ({now[one].uid}, then {then[one].uid})" for one in moved])
        found.warnings.append(
            f"accounts have other uids here: {uids}. Files of theirs outside of the checkpoint will belong to nobody "
            "or to others: look at them with find -nouser, and chown them"
        )
    return found


def missing_groups(then: bytes, now: bytes, login: str) -> list[str]:
    """A sentence where the account by which we have come would not be allowed to become root any more. ``then``,
    ``now``: texts of group."""
    mine, theirs = (
        {
            words[0]
            for line in text.decode("utf-8", "replace").splitlines()
            if login in (words := line.split(":"))[-1].split(",")
        }
        for text in (now, then)
    )
    gone = [name for name in _ROOTS if login and name in mine - theirs]
    return [
        f"the account {login}, by which the controller logs in here, is in the group {name}, and was not: "
        "it could not become root any more. Connect as root, or leave out what has the accounts (kinds, paths)"
        for name in gone
    ]


def locks_out(then: bytes, now: bytes) -> bool:
    """Whether the keys of ``now`` let somebody in, and none of them is in ``then``: texts of authorized_keys."""
    theirs, mine = (
        {
            word
            for line in text.splitlines()
            if line.lstrip()[:1] != b"#"
            for word in line.split()
            if word[:4] == b"AAAA"
        }
        for text in (then, now)
    )
    return bool(mine) and not mine & theirs


def owners_unknown(sections: Sequence[Section], uids: Sequence[int]) -> list[int]:
    """The owners of recorded files that no account here has. ``uids``: the uids of the accounts here."""
    known, found = set(uids), set()
    for section in sections:
        for line in path_lines(section):
            words = _owned(line)
            if words and int(words[3]) not in known:
                found.add(int(words[3]))
    return sorted(found)


def owners_of_another_name(
    sections: Sequence[Section], then: Mapping[str, int], here: Mapping[str, int]
) -> list[tuple[int, str, str]]:
    """(uid, name on the recorded host, name here) for the owners of recorded files that have another name here, so that
    somebody else gets the files. ``then``, ``here``: name -> uid."""
    names = [{uid: name for name, uid in reversed(list(one.items()))} for one in (then, here)]
    used = {int(words[3]) for section in sections for line in path_lines(section) if (words := _owned(line))}
    return [
        (uid, names[0][uid], names[1][uid])
        for uid in sorted(used)
        if uid in names[0] and uid in names[1] and then.get(names[1][uid]) != uid and here.get(names[0][uid]) != uid
    ]


def _owned(line: str) -> list[str]:
    """The words of a line that tells an owner; none for other lines."""
    words = line.split(" ", 5)
    return words if len(words) > 4 and words[0] != "-" else []


def content_of(sections: Sequence[Section], path: str) -> str:
    """The hash of the content that the sections give to a file; empty where they have no such file."""
    for section in sections:
        spec = tree_spec(section)
        if spec is not None and any(is_within(path, root) for root in spec["paths"]):
            for line in path_lines(section):
                if line.startswith(f"f {path} "):
                    return Entry.parse(line).sha256
    return ""


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def login_name(environment: Mapping[str, str], audited: str, here: Mapping[str, Account]) -> str:
    """The account that has logged in: the one from which sudo or doas made this process root's, and else, as after
    su, that of the uid ``audited``. Empty for root or unknown."""
    told = environment.get("SUDO_USER") or environment.get("DOAS_USER")
    return told or next((name for name, one in here.items() if one.uid and str(one.uid) == audited), "")
