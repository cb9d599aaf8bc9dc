# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource ``sysctl``: values of the running kernel, below /proc/sys. What sets them at boot are files."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from .._errors import Damaged, RestoreFailed, UsageError
from .._files.entry import quote
from .._files.step import Step
from .._host.durable import write_all
from .._host.options import Options, read
from .kind import Kind, Restore

OPTIONS: Options = {"names": {"type": "list", "elements": "str", "required": True}}
# Writing one key may change others (ip_forward resets redirects, dirty_ratio clears dirty_bytes): what differs is
# looked for again.
_PASSES = 3


def kind(root: str = "/proc/sys") -> Kind:
    """The kind for the tree of values below ``root``."""
    return Kind(
        options=OPTIONS,
        check=lambda spec: check(spec, root),
        capture=lambda spec, _sink, _system: capture(spec["names"], root),
        plan=lambda then, at: plan(then, at, root),
        apply=lambda steps, at: apply(steps, root, at.boot),
        verify=lambda then, _system: verify(then, root),
    )


def check(spec: dict[str, Any], root: str) -> dict[str, Any]:
    """The declaration with its names as the kernel writes them; UsageError names what cannot be protected."""
    names = read(OPTIONS, spec, "sysctl")["names"]
    found = sorted({canonical(one) for one in names})
    for name in found:
        _usable(name, root)
    return {"names": found}


def canonical(name: str) -> str:
    """The key with slashes, as its file is called. As for sysctl, the first separator decides which one it is."""
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
    """The value as the kernel prints it, without the newline at its end; None when it has none (any more)."""
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


def capture(names: Sequence[str], root: str) -> list[str]:
    """``value <key> <value>`` for each, percent-encoded. A key that went since it was declared has no line."""
    found = [(name, _read(name, root)) for name in names]
    return [f"value {quote(os.fsencode(name))} ={quote(value)}" for name, value in found if value is not None]


def _recorded(then: Sequence[str]) -> dict[str, bytes]:
    found = {}
    for line in then:
        try:
            _word, name, value = line.split(" ")
            path = os.fsdecode(unquote_to_bytes(name))
            if not _is_key(path) or not value.startswith("="):
                raise ValueError("not a key and its value")
        except ValueError:
            raise Damaged(f"this line of a manifest is refused: {line[:200]!r}; nothing was changed") from None
        found[path] = unquote_to_bytes(value[1:])
    return found


def plan(then: Sequence[str], at: Restore, root: str) -> list[Step]:
    """A step for each value that is another. At boot a key may still be to come, with its module or its device."""
    wanted = _recorded(then)
    steps = []
    for name, value in wanted.items():
        live = _read(name, root)
        if live != value and not (at.boot and live is None):
            # All of them, because putting one back may change another one.
            detail = {"wanted": {key: quote(one) for key, one in wanted.items()}}
            steps.append(Step("sysctl", "set", name, "is not there" if live is None else "another value", detail))
    return steps


def apply(steps: Sequence[Step], root: str, boot: bool = False) -> list[Step]:
    """Set what differs, again as long as that changes others; RestoreFailed names what could not be set."""
    wanted = {key: unquote_to_bytes(one) for step in steps for key, one in step.detail["wanted"].items()}
    if boot:  # What is still to come has no step.
        planned = {step.target for step in steps}
        wanted = {key: one for key, one in wanted.items() if key in planned or _read(key, root) is not None}
    failed: dict[str, str] = {}
    for _pass in range(_PASSES):
        differing = [name for name, value in wanted.items() if _read(name, root) != value]
        failed = {}
        for name in differing:
            try:
                _write(name, wanted[name], root)
            except OSError as error:
                failed[name] = error.strerror or str(error)
    left = [
        f"{name}: {failed.get(name, 'does not keep its value')}"
        for name, value in wanted.items()
        if _read(name, root) != value
    ]
    done = [step for step in steps if _read(step.target, root) == wanted[step.target]]
    if left:
        raise RestoreFailed(
            f"values of the kernel are not as they were: {'; '.join(left)}",
            done=[step.shown() for step in done],
            left=left,
        )
    return done


def verify(then: Sequence[str], root: str) -> list[str]:
    """What is not as recorded, in words without the values, which may be secret."""
    return [f"{name} has another value" for name, value in _recorded(then).items() if _read(name, root) != value]


KIND = kind()
