# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel that runs, compared with the kernels that were installed since the host was booted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

# Kernels in /boot: of most hosts, of other processors, and of SUSE on ARM.
_IMAGE = r"(?:vmlinuz|vmlinux|Image)-(.*\d.*)"
# Words that change with the version; all others name the flavour.
_OF_VERSION = r"(?:el|fc|amzn|deb|arch|rc|bpo)\d*(?:_\d+)*"
# The header of a kernel of x86 (Documentation/arch/x86/boot.rst): a magic, and the place of the text of its version.
_MAGIC, _MAGIC_AT, _TEXT_AT, _TEXT_FROM = b"HdrS", 0x202, 0x20E, 0x200


def newer_kernel(booted: float, proc: str = "/proc", root: str = "") -> str:
    """The sentence on a kernel of the same flavour that was installed after ``booted`` (epoch seconds), and is newer
    than the one that runs or built anew; empty without one.

    A kernel that was there at the boot does not count: the boot has chosen another, and the next boot will as well.
    """
    running, built = (_text(f"{proc}/sys/kernel/{name}") for name in ("osrelease", "version"))
    found = {release: path for release, path in _installed(root) if _changed(path) > booted}
    alike = [one for one in found if _flavour(one) == _flavour(running) and order(one) > order(running)]
    if running and alike:
        return f"the kernel {max(alike, key=order)} is installed, and {running} runs"
    new = _build(found[running]) if running in found else ""
    if new and built and built not in new:
        return f"the kernel {running} was built anew, and its former build runs"
    return ""


def order(release: str) -> list[tuple[int, int, str]]:
    """A key that sorts releases as Debian and RPM do: numbers by their value, and ``~`` before the end."""
    text = re.sub(r"[-.]rc(?=\d)", "~rc", release)
    parts = [
        (0, 0, "") if word == "~" else (3, int(word), "") if word.isdigit() else (2, 0, word)
        for word in re.findall(r"~|\d+|[A-Za-z]+", text)
    ]
    return [*parts, (1, 0, "")]


def _flavour(release: str) -> list[str]:
    """``amd64`` of ``6.1.0-18-amd64``: a host that has several boots only one. A copy (``.old``) counts as another."""
    words = re.findall(r"[a-z]\w*", release.lower())
    return [word for word in words if not re.fullmatch(_OF_VERSION, word)]


def _installed(root: str) -> Iterator[tuple[str, str]]:
    """The releases of kernels of which there is an image. Modules alone are what a removed kernel has left."""
    for name in _list(f"{root}/boot"):
        found = re.fullmatch(_IMAGE, name)
        if found is not None:
            yield found[1], f"{root}/boot/{name}"
    for name in _list(f"{root}/lib/modules"):
        yield name, f"{root}/lib/modules/{name}/vmlinuz"


def _changed(path: str) -> float:
    """When the image was put in its place; 0 without one."""
    try:
        found = os.stat(path)
    except OSError:
        return 0.0
    return found.st_ctime if found.st_size else 0.0


def _build(path: str) -> str:
    """The release and the build that an image names; empty where it has no such text."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(65536 + _TEXT_FROM)
    except OSError:
        return ""
    if head[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        return ""
    start = int.from_bytes(head[_TEXT_AT : _TEXT_AT + 2], "little") + _TEXT_FROM
    return head[start : start + 512].partition(b"\0")[0].decode("ascii", "replace")


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
