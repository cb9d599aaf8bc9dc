# SPDX-License-Identifier: GPL-3.0-or-later

"""The kind ``sysctl``: values of the running kernel, below /proc/sys. Files set these values at boot."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from urllib.parse import unquote_to_bytes

from .._errors import Damaged, RestoreFailed, UsageError
from .._files.entry import quote
from .._files.step import Step
from .._host.durable import write_all
from .._host.kernel import VALUE
from .._host.options import Options, read
from .._host.system import System
from .._host.trust import open_regular
from .kind import Kind, Restore, Sink, Spec, Suggestion

# Writing a key may change other keys (ip_forward resets redirects, dirty_ratio clears dirty_bytes), so each pass
# looks for differences again.
_PASSES = 3
# Files that set values at boot, and the settings in them.
_SETS = r"/etc/sysctl\.conf|/etc/sysctl\.d/[^/]+\.conf"
_CONFIGURED = (
    *("/etc/sysctl.conf", "/etc/sysctl.d/*.conf", "/run/sysctl.d/*.conf", "/usr/local/lib/sysctl.d/*.conf"),
    *("/usr/lib/sysctl.d/*.conf", "/lib/sysctl.d/*.conf"),
)
_SETTING = re.compile(r"^[ \t]*-?[ \t]*([A-Za-z0-9_][^=\s#;]*)[ \t]*=", re.MULTILINE)
_LARGEST = 1 << 20
# The name of the host is a value of the kernel as well. It belongs to one machine.
_HOSTNAME = "kernel/hostname"
# Where all values are meant, the word of the line with the values that no file sets yet.
_OTHERS = "others"
# Values that change by themselves, keys that do something when they are read, and secrets of one boot.
_RESTLESS = (
    *("kernel/random/", "kernel/ns_last_pid", "kernel/cad_pid", "kernel/tainted", "kernel/perf_event_max_sample_rate"),
    *("kernel/sched_domain/", "kernel/hung_task_warnings", "vm/stat_refresh", "net/ipv4/tcp_fastopen_key"),
)
# systemd mounts this directory when somebody looks into it, and may not answer.
_MOUNTED_ON_DEMAND = "fs/binfmt_misc"
# Below these each network interface has keys of its own, about 150 in all. Interfaces of containers come and go.
_INTERFACES = ("net/ipv4/conf/", "net/ipv6/conf/", "net/ipv4/neigh/", "net/ipv6/neigh/")
_FOR_ALL_INTERFACES = ("all", "default")
_SECRET = "/stable_secret"


class Sysctl(Kind):
    """Values of the running kernel. Files set these values at boot.

    names: Keys of the kernel. By default all that files of C(sysctl.d) set and this kernel has, and the name of the
    host. Then a rollback that puts back or takes away such a file puts back all other values as well: the file may
    have set them. For example V([net.ipv4.ip_forward, vm.swappiness]).
    """

    name = "sysctl"
    since = "0.2.0"
    options: Options = {"names": {"type": "list", "elements": "str"}}
    changed_by_programs = True
    partly_of_the_machine = True
    on_plain_host: Spec = {}

    def __init__(self, root: str = "/proc/sys", configured: Sequence[str] = _CONFIGURED) -> None:
        """``configured``: patterns of the files that set values at boot."""
        self.root = root
        self.configured = configured

    def for_plain_host(self, beside: Sequence[Spec], taken: Sequence[str]) -> tuple[Spec | None, list[str]]:
        if not beside:
            return ({} if self._set_by_files() or any(_walk(self.root)) else None), []
        names = sorted(set(self._set_by_files()) - {name for spec in beside for name in spec["names"]})
        return ({"names": names} if names else None), []

    def _set_by_files(self) -> list[str]:
        """The keys that the configuration sets and this kernel has, as the kernel writes them, and the host's name."""
        paths = {path for pattern in self.configured for path in glob.glob(pattern)}
        return self._known({_HOSTNAME, *(key for path in paths for key in _keys_in(path))})

    def _known(self, keys: Iterable[str]) -> list[str]:
        """The keys that can be put back here, as the kernel writes them."""
        found = set()
        for key in keys:
            for name in self._matching(key):
                with suppress(UsageError):
                    _usable(name, self.root)
                    found.add(name)
        return sorted(found)

    def _matching(self, key: str) -> list[str]:
        """The keys that a key of a file stands for, which may be a pattern: without the keys of single interfaces."""
        try:
            name = canonical(key)
        except UsageError:
            return []
        if not set(name) & set("*?["):
            return [name]
        paths = glob.glob(os.path.join(glob.escape(self.root), name))
        return [one for path in paths if not _is_of_one_interface(one := os.path.relpath(path, self.root))]

    def _others(self, names: Collection[str]) -> dict[str, bytes]:
        """The values of all keys but these that can be put back."""
        found = {}
        for name in _walk(self.root):
            value = None if name in names or name.startswith(_RESTLESS) else _read(name, self.root)
            if value is not None:
                found[name] = value
        return found

    def check(self, spec: Spec) -> dict[str, object]:
        """The declaration with its names as the kernel writes them; UsageError names the key that cannot be
        protected."""
        names = read(self.options, spec, self.name)["names"]
        if names is None:
            return {"names": self._set_by_files(), _OTHERS: True}
        if not names:
            raise UsageError("sysctl: names is empty; leave it out for all values that the configuration sets")
        found = sorted({canonical(one) for one in names})
        for name in found:
            _usable(name, self.root)
        return {"names": found}

    def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
        """``value <key> =<value>`` for each key, percent-encoded. A key that has vanished since its declaration has
        no line. ``others sha256=<name>``: such lines for all other keys, after a line that names the machine and its
        kernel."""
        found = [(name, _read(name, self.root)) for name in spec["names"]]
        lines = [_line(name, value) for name, value in found if value is not None]
        if spec.get(_OTHERS):
            others = [_line(name, value) for name, value in sorted(self._others(set(spec["names"])).items())]
            lines.append(f"{_OTHERS} sha256={sink.add(chr(10).join([_kernel(), *others]).encode())}")
        return lines

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        """A step for each value that differs. At boot a key may appear later, with its module or its device."""
        drifted = self._drifted(lines, at)
        wanted = {**drifted, **_recorded(lines)}
        # Each step has all wanted values, because putting a value back may change another value.
        detail = {"wanted": {key: quote(one) for key, one in wanted.items()}, "others": sorted(drifted)}
        steps = []
        for name, value in wanted.items():
            live = _read(name, self.root)
            if live != value and not (at.boot and live is None):
                why = "is not there" if live is None else "another value"
                steps.append(Step(self.name, "set", name, why, detail))
        return steps

    def _drifted(self, lines: Sequence[str], at: Restore) -> dict[str, bytes]:
        """The other values that differ, where a file comes back or goes that may have set them."""
        # A directory of such files counts, too, because one may have been removed with it; /etc has many other files.
        folders = {os.path.dirname(one) for one in self.configured if one.endswith("/*.conf")}
        places = {*self.configured, *folders}
        names = [line.partition("sha256=")[2] for line in lines if line.startswith(_OTHERS)]
        if not names or not any(fnmatch.fnmatchcase(path, one) for path in at.changed for one in places):
            return {}
        found = self._others_then(names[0], at)
        return {name: value for name, value in found.items() if _read(name, self.root) not in (None, value)}

    def _others_then(self, name: str, at: Restore) -> dict[str, bytes]:
        """The other values at the checkpoint, from a content; nothing where another kernel runs."""
        kernel, *others = b"".join(at.objects.read(name)).decode("ascii", "replace").split("\n")
        return _recorded(others) if kernel == _kernel() else {}

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        """Set the values that differ, in several passes; RestoreFailed names the keys that could not be set."""
        wanted = {key: unquote_to_bytes(one) for step in steps for key, one in step.detail["wanted"].items()}
        if at.boot:  # A key that appears later has no step.
            planned = {step.target for step in steps}
            wanted = {key: one for key, one in wanted.items() if key in planned or _read(key, self.root) is not None}
        failed: dict[str, str] = {}
        for _pass in range(_PASSES):
            differing = [name for name, value in wanted.items() if _read(name, self.root) != value]
            failed = {}
            for name in differing:
                try:
                    _write(name, wanted[name], self.root)
                except OSError as error:
                    failed[name] = error.strerror or str(error)
        others = {name for step in steps for name in step.detail.get("others", ())}
        stay = {
            name: f"{name}: {failed.get(name, 'does not keep its value')}"
            for name, value in wanted.items()
            if _read(name, self.root) != value
        }
        left = [words for name, words in stay.items() if name not in others]
        done = [step for step in steps if _read(step.target, self.root) == wanted[step.target]]
        if left:
            raise RestoreFailed(
                f"values of the kernel are not as they were: {'; '.join(left)}",
                done=[step.shown() for step in done],
                left=left,
            )
        # Nobody has declared these, so that no proof speaks of them.
        notes = {name: f"sysctl: a value is not as it was: {words}" for name, words in stay.items() if name in others}
        return done + [Step(self.name, "leave", name, "another value", {"note": one}) for name, one in notes.items()]

    def verify(self, lines: Sequence[str], system: System) -> list[str]:
        """Sentences on the keys with another value, without the values, which may be secret."""
        wanted = _recorded(lines)
        return [f"{name} has another value" for name, value in wanted.items() if _read(name, self.root) != value]

    def access_lines(self, lines: Sequence[str]) -> list[str]:
        """The values of the network: one of them takes away all addresses of IPv6."""
        return [line for line in lines if line.startswith("value net/")]

    def outside(self, spec: Spec, lines: Sequence[str], declared: Sequence[Spec], system: System) -> list[str]:
        if any(one.get("names") is None for one in declared):
            return []
        known = {canonical(name) for one in declared for name in one["names"]}
        every = ["without a limit"] if any(line.startswith(_OTHERS) for line in lines) else []
        return every + sorted({*spec["names"], *_recorded(lines)} - known)

    def covers(self, spec: Spec, lines: Sequence[str], changed: Mapping[str, str], at: Restore) -> set[str]:
        return {f"{self.root}/{name}" for name in _recorded(lines)} & set(changed)

    def beyond(self, spec: Spec, lines: Sequence[str], at: Restore) -> Iterator[tuple[str, str]]:
        """The other values that differ, and that no file sets: a file that has come goes, and its values with it."""
        names = [line.partition("sha256=")[2] for line in lines if line.startswith(_OTHERS)]
        mine = set(self._set_by_files()) if names else set()
        for name, value in (self._others_then(names[0], at) if names else {}).items():
            if name not in mine and _read(name, self.root) not in (None, value):
                yield f"{self.root}/{name}", VALUE

    def keep_here(self, lines: Sequence[str], now: Sequence[str]) -> tuple[list[str], list[str]]:
        """The name of the host, and the values that no file sets, are those of one machine."""
        others = [line for line in lines if not line.startswith((f"value {_HOSTNAME} ", _OTHERS))]
        return others + [line for line in now if line.startswith(f"value {_HOSTNAME} ")], []

    def suggest(self, changed: Mapping[str, str], taken: Sequence[str], at: Restore) -> Suggestion:
        """The keys that the changed files set and this kernel has. Another kind has to cover the files themselves."""
        keys = {key for path in changed if re.fullmatch(_SETS, path) for key in _keys_in(path)}
        mine = {path for path, what in changed.items() if what == VALUE and path.startswith(f"{self.root}/")}
        found = self._known([*keys, *(path[len(self.root) + 1 :] for path in mine)])
        return ({"names": found} if found else None), mine


def _keys_in(path: str) -> list[str]:
    """The keys that a file of sysctl.d(5) sets, each by its name."""
    try:
        with open_regular(path) as stream:
            text = stream.read(_LARGEST).decode("utf-8", "replace")
    except OSError:
        return []
    return [found[1] for found in _SETTING.finditer(text)]


def _walk(root: str) -> Iterator[str]:
    """The keys that can be read and written, as the kernel writes them. A container may have none."""
    todo = []
    with suppress(OSError):
        todo = [] if os.statvfs(root).f_flag & os.ST_RDONLY else [""]
    while todo:
        folder = todo.pop()
        entries = []
        with suppress(OSError), os.scandir(os.path.join(root, folder)) as found:
            entries = list(found)
        for entry in entries:
            name = f"{folder}{entry.name}"
            if name == _MOUNTED_ON_DEMAND or name.endswith(_SECRET) or _is_of_one_interface(name):
                continue
            mode = 0
            with suppress(OSError):  # The entry may go meanwhile.
                mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                todo.append(f"{name}/")
            elif folder and stat.S_ISREG(mode) and mode & 0o600 == 0o600:
                yield name


def _is_of_one_interface(name: str) -> bool:
    below = next((name[len(one) :] for one in _INTERFACES if name.startswith(one)), "")
    return bool(below) and below.partition("/")[0] not in _FOR_ALL_INTERFACES


def _kernel() -> str:
    """The machine and its kernel, which gives many values their default. Memory varies a little from boot to boot."""
    return f"kernel {os.uname().release} {os.cpu_count()} {os.sysconf('SC_PHYS_PAGES').bit_length()}"


def _line(name: str, value: bytes) -> str:
    return f"value {quote(os.fsencode(name))} ={quote(value)}"


def canonical(name: str) -> str:
    """The key with slashes, like the path of its file. As for sysctl(8), the first ``.`` or ``/`` is the
    separator."""
    first = next((c for c in name if c in "./"), ".")
    path = name.translate({ord("."): "/", ord("/"): "."}) if first == "." else name
    if not _is_key(path):
        raise UsageError(f"sysctl: {name!r} is no key; write it like vm.swappiness or net/ipv4/conf/eth0.5/forwarding")
    return path


def _is_key(path: str) -> bool:
    parts = path.split("/")
    return len(parts) > 1 and not any(part in ("", ".", "..") for part in parts) and "\0" not in path


def _usable(name: str, root: str) -> None:
    path = os.path.join(root, name)
    try:
        info = os.stat(path)
    except OSError as error:
        raise UsageError(f"sysctl: this kernel has no {name} ({error.strerror}); mend or remove the name") from error
    if not stat.S_ISREG(info.st_mode):
        raise UsageError(f"sysctl: {name} is a group of keys; name the keys in it")
    if not info.st_mode & 0o222 or not os.access(path, os.W_OK):
        raise UsageError(f"sysctl: {name} is read-only here, and could not be put back; remove the name")
    if _read(name, root) is None:
        raise UsageError(f"sysctl: {name} cannot be read, and could not be put back; remove the name")


def _read(name: str, root: str) -> bytes | None:
    """The value as the kernel prints it, without the newline at its end; None where the key has no value (any
    more)."""
    try:
        with open(os.path.join(root, name), "rb") as stream:
            return stream.read().rstrip(b"\n")
    except OSError:
        return None


def _write(name: str, value: bytes, root: str) -> None:
    fd = os.open(os.path.join(root, name), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        write_all(fd, value + b"\n")
    finally:
        os.close(fd)


def _recorded(lines: Sequence[str]) -> dict[str, bytes]:
    found = {}
    for line in lines:
        if re.fullmatch(_OTHERS + " sha256=[0-9a-f]{64}", line):
            continue
        try:
            _word, name, value = line.split(" ")
            path = os.fsdecode(unquote_to_bytes(name))
            if not _is_key(path) or not value.startswith("="):
                raise ValueError("not a key and its value")
        except ValueError:
            raise Damaged(f"this line of a manifest is refused: {line[:200]!r}; nothing was changed") from None
        found[path] = unquote_to_bytes(value[1:])
    return found
