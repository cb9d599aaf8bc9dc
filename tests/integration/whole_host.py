# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All of a host as one mapping, from what was declared and what was not: paths, packages, units, rules, users, values.

A judge that shares no code with what it judges. As a script it runs on the host itself, with whatever Python is there,
and prints JSON; as a module it says what differs between two of its answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import sys

# What changes by itself, or by being looked at. Everything else counts, wherever it is.
VOLATILE = (
    "/dev",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    "/root/.ansible",
    "/home/ops/.ansible",
    "/var/cache",  # apt's copies of packages, ldconfig's and man's of what is elsewhere
    "/var/lib/apt/lists",
    "/var/lib/apt/extended_states",  # what apt-mark showauto says is compared instead: the file is written anew
    "/var/lib/dpkg",  # what dpkg-query says is compared instead: its files keep a copy of their last state
    "/var/lib/evenkeel",
    "/var/lib/systemd",  # random seed, timers' stamps, and deb-systemd-helper's notes
    "/var/log",
    "/var/tmp",
    "/etc/.pwd.lock",
)
# The units that come and go with a login, and those of a change itself.
_PASSING = re.compile(r"^(session-|user@|user-|run-|evenkeel-|systemd-tmpfiles-clean|proc-|tmp-|dev-|sys-)|\.device$")
# Copies that useradd and its like keep of what they change, what a change installs to be undone, and the command for a
# person.
_PASSING_PATHS = re.compile(
    r"^(/etc/((passwd|shadow|group|gshadow|subuid|subgid)-|systemd/system/([\w.-]+/)?evenkeel-[\w.-]+)"
    r"|/usr/local/sbin/evenkeel-host)$"
)


def whole(top: str = "/") -> dict[str, str]:
    """Kind and name -> what there is of it, for all of the host."""
    found: dict[str, str] = {}
    _paths(top, found)
    for kind, argv in _LISTED.items():
        for line in _said(argv).splitlines():
            name, _, rest = line.strip().partition(" ")
            if kind.startswith("unit") and _PASSING.search(name):
                continue
            if kind == "unit":
                # Loaded because something names it, and inactive: not yet, or no more, it makes no difference.
                rest = " ".join(rest.split()[1:3])
                if rest.startswith("inactive"):
                    continue
            if name:
                found[f"{kind} {name}"] = " ".join(rest.split())
    found["rules"] = _said(["nft", "--stateless", "list", "ruleset"])
    _values("/proc/sys/net", found)
    return found


# Name first in each line.
_LISTED = {
    "package": ["dpkg-query", "-W", "-f", "${binary:Package} ${Version} ${Status}\\n"],
    "auto": ["apt-mark", "showauto"],
    "hold": ["apt-mark", "showhold"],
    "unit": [
        "systemctl",
        *("list-units", "--all", "--plain", "--no-legend", "--no-pager", "--type=service,socket,timer,path,mount"),
    ],
    "unit-file": ["systemctl", "list-unit-files", "--no-legend", "--no-pager"],
    "user": ["sh", "-c", "getent passwd | sed 's/:/ /'"],
    "group": ["sh", "-c", "getent group | sed 's/:/ /'"],
    "mount": ["sh", "-c", "cut -d' ' -f 5,6,9- /proc/self/mountinfo"],
}


def _said(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    return done.stdout


def _paths(top: str, found: dict[str, str]) -> None:
    device = os.lstat(top).st_dev
    todo = [top]
    while todo:
        path = todo.pop()
        if path in VOLATILE or _PASSING_PATHS.match(path):
            continue
        try:
            info = os.lstat(path)
            found["path " + _shown(path)] = _entry(path, info)
            if stat.S_ISDIR(info.st_mode) and info.st_dev == device:
                todo += [os.path.join(path, name) for name in os.listdir(path)]
        except FileNotFoundError:
            continue


def _entry(path: str, info: os.stat_result) -> str:
    """Type and mode, owners, extended attributes, and what is in it: all but the times."""
    words = [stat.filemode(info.st_mode), f"{info.st_uid}:{info.st_gid}"]
    if stat.S_ISLNK(info.st_mode):
        words.append("-> " + _shown(os.readlink(path)))
    elif stat.S_ISREG(info.st_mode):
        words += [str(info.st_size), _hash(path)[:16]]
    elif not stat.S_ISDIR(info.st_mode):
        words.append(hex(info.st_rdev))
    if stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode):
        for name in sorted(os.listxattr(path, follow_symlinks=False)):
            words.append(f"{name}={os.getxattr(path, name, follow_symlinks=False).hex()}")
    return " ".join(words)


def _hash(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _values(top: str, found: dict[str, str]) -> None:
    """The values of the running kernel that are this host's own, but for counters."""
    for above, _below, names in os.walk(top):
        for name in names:
            path = os.path.join(above, name)
            if os.access(path, os.W_OK) and "count" not in name and "flush" not in name:
                try:
                    with open(path) as stream:
                        found["value " + path[len("/proc/sys/") :]] = " ".join(stream.read().split())
                except OSError:
                    continue


def _shown(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def differences(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    """What is another than before -> how it was and is."""
    names = sorted(before.keys() | after.keys())
    return {
        name: f"{before.get(name, 'not there')} => {after.get(name, 'not there')}"
        for name in names
        if before.get(name) != after.get(name)
    }


if __name__ == "__main__":
    json.dump(whole(), sys.stdout)
