# SPDX-License-Identifier: GPL-3.0-or-later

"""Links of update-alternatives. A group that came with a change has taken the place of a program's own link, outside of
what is declared: without the group that name would lead nowhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from ..._files.step import DELETE, PathStep
from ..._resources.kind import is_within
from ..._resources.registry import own_lines
from ..._store.manifest import Section

_LINKS = "/etc/alternatives"
# The books of update-alternatives, of Debian and of chkconfig: a file for each group.
_BOOKS = ("/var/lib/dpkg/alternatives", "/var/lib/alternatives")
# The line of a section that begins the recorded groups.
_RECORDED = "alternatives"


def needed(steps: Sequence[PathStep], roots: Sequence[str]) -> dict[str, str]:
    """The new paths that the steps would remove, and to which links outside of the ``roots`` lead: path -> why it
    stays."""
    gone = {step.target for step in steps if step.op == DELETE and is_within(step.target, _LINKS)}
    found = {}
    for name, link in _known() if gone else ():
        path = f"{_LINKS}/{name}"
        with suppress(OSError, ValueError):
            inside = any(is_within(link, root) for root in roots)
            if path in gone and os.readlink(link) == path and not inside:
                found[path] = (
                    f"was not there, and stays: {link} leads to it, and did not before. Put {link} back, then remove "
                    "the group with update-alternatives --remove-all"
                )
    return found


def manual(changed: Iterable[str], sections: Sequence[Section]) -> list[str]:
    """Sentences on the links that were put back, and whose groups update-alternatives leaves as they are. A change that
    has set such a link has taken the group from the mode auto, unless somebody had done so before. Where the sections
    record the groups, these are back as well."""
    found: list[str] = []
    if any(_RECORDED in own_lines(section) for section in sections):
        return found
    for path in sorted({path for path in changed if os.path.dirname(path) == _LINKS and os.path.islink(path)}):
        name = os.path.basename(path)
        for folder in _BOOKS:
            with suppress(OSError), open(f"{folder}/{name}", encoding="utf-8", errors="surrogateescape") as stream:
                if stream.readline().strip() == "manual":
                    found.append(
                        f"{path} is back, and its group is in the mode manual: no checkpoint records whether it was "
                        f"so. Where it was not, run update-alternatives --auto {name}"
                    )
    return found


def _known() -> Iterator[tuple[str, str]]:
    """(the name of a link in /etc/alternatives, the path of the link that leads to it)."""
    for folder in _BOOKS:
        groups: list[str] = []
        with suppress(OSError):
            groups = os.listdir(folder)
        for group in groups:
            with suppress(OSError), open(f"{folder}/{group}", encoding="utf-8", errors="surrogateescape") as stream:
                # The first line is the mode. The file may be empty, as after a loss of power.
                lines = stream.read().splitlines()[1:]
                lines = lines[: lines.index("")] if "" in lines else lines
                yield from zip([group, *lines[1::2]], lines[::2])
