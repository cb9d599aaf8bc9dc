# SPDX-License-Identifier: GPL-3.0-or-later

"""The trees of files of a plain host, and the paths in them that are left out on this host."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from .._files.mounts import PSEUDO
from .._host import logins
from .._host.mounts import mount_of
from .._host.processes import arguments, login_of, user_ids
from . import writers
from .kind import is_within

# Trees of configuration, and of programs that no package has installed. They hold no data of users and of programs.
# Debian makes files in /etc/pam.d from /var/lib/pam and other files. With the answers that debconf keeps, the scripts
# of packages write their configuration at each upgrade.
TREES = (
    *("/etc", "/usr/local", "/opt", "/root/.ssh", "/var/spool/cron", "/var/lib/pam"),
    *("/var/cache/debconf/config.dat", "/var/cache/debconf/passwords.dat"),
)
# The identity of a host, histories, and files that programs make anew from other files. All are whole paths: a
# pattern of a name would match in any directory, and a rollback could not remove a new directory with such a file.
# So are the books that programs keep of what does not go back with them: disks, mounted images, jobs that have run.
EXCLUDE = (
    *("/etc/machine-id", "/etc/.git", "/etc/.pwd.lock", "/etc/.updated", "/etc/adjtime", "/etc/mtab"),
    *("/etc/ld.so.cache", "/etc/udev/hwdb.bin", "/etc/lvm/archive", "/etc/lvm/backup", "/etc/lvm/cache"),
    *(f"/etc/{name}-" for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")),
    *("/etc/lvm/devices", "/etc/zfs/zpool.cache", "/etc/zfs/zfs-list.cache"),
    *(f"/etc/multipath/{name}" for name in ("bindings", "wwids", "prkeys")),
    *(f"/etc/systemd/{name}" for name in ("system/snap-*.mount", "system/*.wants/snap-*.mount", "system/snap.*")),
    *("/etc/systemd/user/snap.*", "/etc/udev/rules.d/70-snap.*"),
    *("/var/spool/cron/atjobs", "/var/spool/cron/atspool", "/var/spool/cron/lastrun"),
)
# The keys by which an account can be reached, below its home; the largest file of them that is kept.
KEYS = ("/.ssh/authorized_keys", "/.ssh/authorized_keys2")
_LARGEST_KEYS = 1 << 20
# Below these directories lie configuration and programs, and sometimes all data that a program writes.
_MIXED = ("/usr/local", "/opt")
# Names of directories there that hold programs and configuration, or data.
_FIXED = ("bin", "sbin", "lib", "lib64", "libexec", "share", "include", "src", "etc", "conf", "config")
_DATA = ("data", "log", "logs", "spool", "state", "uploads", "var")
# All data of a program lies at least so deep below such a tree.
_APART = 2
# The largest size of all trees together that is kept unasked: bytes and files.
_BYTES, _FILES = 256 << 20, 50_000
# A directory at this depth below its tree is measured as a whole.
_DEPTH = 2
_SHOWN = 5
# File systems of another machine or of a program, and images. File systems of the kernel are never read.
_ELSEWHERE = ("nfs", "cifs", "smb", "fuse", "9p", "ceph", "gluster", "afs", "autofs", "virtiofs", "squashfs", "iso9660")


# There where SELinux is enabled.
SELINUX = "/sys/fs/selinux/enforce"
# The virtual machines of libvirt, which may run on another host by now, and beside them its networks.
MACHINES = "/etc/libvirt/qemu"
_NETWORKS = "networks"


def unprotected() -> list[str]:
    """Sentences on the configuration of a host that lies in no tree."""
    found = []
    if os.path.exists(SELINUX):
        found.append(
            "SELinux: modules, ports and contexts of files that semanage keeps below /var/lib/selinux, and booleans of "
            "the running kernel, are not protected. The policy in /etc/selinux comes back, and is loaded"
        )
    return found


def machines(roots: Sequence[str], taken: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the patterns of ``exclude`` that match the definitions of virtual machines, a sentence on them) of a host that
    has such in the trees ``roots``. Where a change installs libvirt, all of it goes."""
    is_ours = any(is_within(MACHINES, one) for one in roots) and not any(is_within(MACHINES, one) for one in taken)
    if not is_ours or not os.path.isdir(MACHINES):
        return [], []
    # A star matches slashes too: these match each name but that of the directory of networks.
    begun = [f"{_NETWORKS[:at]}[!{_NETWORKS[at]}]*" for at in range(len(_NETWORKS))]
    return [f"{MACHINES}/{one}" for one in (*begun, f"{_NETWORKS}[!/]*")], [
        f"{MACHINES} is not protected, but for {_NETWORKS}: a machine that has moved to another host since would be "
        "here once more. Keep the definitions of machines elsewhere (virsh dumpxml)"
    ]


def trees(taken: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the trees that this host has or may get, sentences on the trees that are left out): one that is not there is
    protected too, so that keys and jobs in it go where a change has brought it. ``taken``: paths that other
    declarations hold."""
    found, left = [], []
    for path in TREES:
        if any(is_within(path, one) for one in taken) or not os.path.isdir(os.path.dirname(path)):
            continue
        if os.path.islink(path) or os.path.realpath(path) != path:
            left.append(f"{path} leads to {os.path.realpath(path)}, which is not protected unasked")
        else:
            found.append(path)
    return found, left


def keys_of_login(taken: Sequence[str], points: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """(the files of keys of the account by which we have come, sentences on those that are left out). ``points``: as
    for ``left_out``. The home is the user's, who can put a link there: none is followed."""
    home = logins.home()
    found, left = [], []
    for path in (os.path.normpath(home) + one for one in KEYS) if home else ():
        if any(is_within(path, one) for one in (*taken, *TREES)):
            continue
        # A server that does not answer is not asked.
        kind = points.get(os.fsdecode(mount_of(os.fsencode(path), set(map(os.fsencode, points)))), "")
        why = f"it lies on {kind}" if kind.startswith(_ELSEWHERE) else _strange_keys(path)
        if why:
            left.append(f"{path} lets the controller log in, and is not protected: {why}")
        elif os.path.lexists(path):
            found.append(path)
    return found, left


def _strange_keys(path: str) -> str:
    """Why the file of keys is not kept, in words; empty where it is kept, or is not there."""
    parts = path.split("/")
    for one in ("/".join(parts[:number]) for number in range(2, len(parts) + 1)):
        with suppress(OSError):
            info = os.lstat(one)
            if stat.S_ISLNK(info.st_mode):
                return f"{one} is a link"
            if one == path and not (stat.S_ISREG(info.st_mode) and info.st_size <= _LARGEST_KEYS):
                return f"it is no file, or larger than {_LARGEST_KEYS >> 20} MB"
    return ""


def left_out(
    roots: Sequence[str], taken: Sequence[str], points: Mapping[str, str], proc: str = "/proc"
) -> tuple[list[str], list[str]]:
    """(paths to leave out of the trees, sentences on these paths). ``points``: mount point -> type of the file
    system."""
    inside = [one for one in taken if any(is_within(one, root) for root in roots)]
    left: list[str] = []
    mounted = {path: why for path, kind in points.items() if (why := _mounted(path, kind, roots))}
    written = _written(roots, [*inside, *mounted], proc)
    data = _data_of_users(roots, [*inside, *mounted, *written], proc)
    large = _too_large(roots, {*inside, *mounted, *written, *data, *EXCLUDE})
    for paths, words in (
        ([f"{path} ({why})" for path, why in mounted.items()], "mounted there, and not protected unasked"),
        ([f"{path} ({who})" for path, who in written.items()], "written by a program that runs, and not protected"),
        ([f"{path} ({who})" for path, who in data.items()], "data of the user of a program that runs, not protected"),
        ([f"{path} ({size >> 20} MB)" for path, size in large.items()], "too large to be kept unasked"),
    ):
        if paths:
            more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
            left.append(f"{words}: {', '.join(paths[:_SHOWN])}{more}")
    return sorted({*inside, *mounted, *written, *data, *large}), left


def pattern(path: str) -> str:
    """The pattern of ``exclude`` that matches this path alone."""
    return glob.escape(path)


def _mounted(path: str, kind: str, roots: Sequence[str]) -> str:
    """Why no file of this mount point is kept; empty where the mount point lies in no tree, or is a local file
    system."""
    if kind in PSEUDO or not any(is_within(path, root) for root in roots):
        return ""
    if not os.path.isdir(path):
        return "a file"
    return kind if kind.startswith(_ELSEWHERE) else ""


def _written(roots: Sequence[str], known: Sequence[str], proc: str) -> dict[str, str]:
    """Path -> name of the program that has a file open for writing at or below the path. The path is the directory of
    the program's data where configuration and data lie together and the program runs as root or as the owner of that
    directory; else the path is the file."""
    found: dict[str, str] = {}
    services: dict[str, set[int]] | None = None
    programs: dict[str, list[str]] = {}
    for pid in filter(str.isdigit, os.listdir(proc)):
        with suppress(OSError):
            for path in writers.open_for_writing(f"{proc}/{pid}", roots, known):
                folder = os.path.dirname(path)
                mixed = next((root for root in _MIXED if is_within(folder, root) and folder != root), "")
                # The owner of the directory in /proc is root for a process that hides its memory, whoever runs it.
                users, may = user_ids(int(pid), proc), {0, os.lstat(folder).st_uid}
                if mixed and users and users <= may:
                    services = _services(proc) if services is None else services
                    theirs = [pid, *(one for one, who in services.items() if who <= may)]
                    programs.update({one: _programs(one, known, proc) for one in theirs if one not in programs})
                    path = _around(folder, mixed, [program for one in theirs for program in programs[one]])
                with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as stream:
                    found[path] = stream.read().strip()
    return {path: who for path, who in found.items() if not any(is_within(path, one) for one in found if one != path)}


def _around(folder: str, root: str, programs: Sequence[str]) -> str:
    """The topmost directory from this one upwards that is its owner's, lies apart from other things of the tree
    ``root``, and holds none of the ``programs``, nor a directory of programs or configuration: what a program writes
    there next need not lie in this directory."""
    owner, found = os.lstat(folder).st_uid, folder
    while True:
        above = os.path.dirname(found)
        is_apart = above.count("/") - root.count("/") >= _APART and os.path.basename(above) not in _FIXED
        if not is_apart or os.lstat(above).st_uid != owner or any(is_within(one, above) for one in programs):
            return found
        if any(os.path.lexists(f"{above}/{one}") for one in _FIXED):
            return found
        found = above


def _services(proc: str) -> dict[str, set[int]]:
    """Id -> the users of each process that runs by itself: what writes the log of an application need not be the
    application, and what a person who is logged in looks at is no program."""
    return {pid: user_ids(pid, proc) for pid in filter(str.isdigit, os.listdir(proc)) if login_of(pid, proc) < 0}


def _programs(pid: str, known: Sequence[str], proc: str) -> list[str]:
    """The program of a process, the files that its command line names, and the directory in which it works; as far as
    they lie where configuration and data lie together."""
    found = []
    with suppress(OSError):
        cwd = os.readlink(f"{proc}/{pid}/cwd")
        found += [cwd, os.readlink(f"{proc}/{pid}/exe")]
        text = "\0".join(map(os.fsdecode, arguments(pid, proc)))
        words = text.replace("=", "\0").replace(":", "\0").split("\0")
        for path in (os.path.normpath(os.path.join(cwd, word)) for word in words if word):
            is_here = any(is_within(path, root) for root in _MIXED) and not any(is_within(path, one) for one in known)
            with suppress(OSError, ValueError):
                found += [path] if is_here and stat.S_ISREG(os.lstat(path).st_mode) else []
    return found


def _data_of_users(roots: Sequence[str], known: Sequence[str], proc: str) -> dict[str, str]:
    """Directory of data -> name of a program that runs by itself as its owner, other than root, and has no file open
    there now: where configuration and data lie together, by the directory's name. A person who is logged in is no
    program."""
    users: dict[int, str] = {}
    for pid in (name for name in os.listdir(proc) if name.isdigit() and login_of(name, proc) < 0):
        with suppress(OSError), open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            users.update(dict.fromkeys(user_ids(int(pid), proc) - {0}, stream.read().strip()))
    found: dict[str, str] = {}
    todo = [(root, 0) for root in _MIXED if root in roots]
    for folder, depth in todo:
        for entry in _entries(folder):
            if entry.is_dir(follow_symlinks=False) and not any(is_within(entry.path, one) for one in known):
                with suppress(OSError):
                    owner = entry.stat(follow_symlinks=False).st_uid
                    if depth + 1 >= _APART and entry.name in _DATA and owner in users:
                        found[entry.path] = users[owner]
                    elif depth < _APART:
                        todo.append((entry.path, depth + 1))
    return found


def _too_large(roots: Sequence[str], without: set[str]) -> dict[str, int]:
    """The largest directories and files, without which the trees are not too large -> bytes that were counted.

    The count of a directory ends where the directory alone is too large.
    """
    sizes: dict[str, list[int]] = {}
    for root in roots:
        for path, depth in _children(root, 1, without):
            sizes[path] = _measured(path, without) if depth == _DEPTH else _size(path)
    total, number = (sum(one[at] for one in sizes.values()) for at in (0, 1))
    found = {}
    while total > _BYTES or number > _FILES:
        path = max(sizes, key=lambda one: max(sizes[one][0] / _BYTES, sizes[one][1] / _FILES))
        size, count = sizes.pop(path)
        found[path] = size
        total, number = total - size, number - count
    return found


def _children(folder: str, depth: int, without: set[str]) -> Iterator[tuple[str, int]]:
    """The files down to the depth ``_DEPTH``, and the directories at that depth."""
    for entry in _entries(folder):
        if entry.path in without:
            continue
        if entry.is_dir(follow_symlinks=False) and depth < _DEPTH:
            yield from _children(entry.path, depth + 1, without)
        else:
            yield entry.path, depth if not entry.is_dir(follow_symlinks=False) else _DEPTH


def _measured(top: str, without: set[str]) -> list[int]:
    size = _size(top)
    todo = [top]
    while todo and size[0] <= _BYTES and size[1] <= _FILES:
        for entry in _entries(todo.pop()):
            if entry.path in without:
                continue
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)
            more = _size(entry.path)
            size = [size[0] + more[0], size[1] + more[1]]
    return size


def _size(path: str) -> list[int]:
    try:
        info = os.lstat(path)
    except OSError:
        return [0, 0]
    # A sparse file occupies fewer bytes than its size. A small file may occupy no block of its own.
    size = min(info.st_size, info.st_blocks * 512 or info.st_size)
    return [size if stat.S_ISREG(info.st_mode) else 0, 1]


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []
