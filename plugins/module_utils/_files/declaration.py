# SPDX-License-Identifier: GPL-3.0-or-later

"""The declaration of trees: their paths, and the names that are left out of them."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from typing import Callable, NamedTuple

from .._errors import UsageError

# The beginning of the name of a staging directory; the name of its journal follows.
STAGE = ".evenkeel-"
# Names of our own traces inside a declared tree: staging directories, bundles in transit (see ``_host/scratch.py``),
# and the units of the dead-man.
OWN_NAMES = (
    b".evenkeel-*",
    b"evenkeel-bundle-*",
    b"evenkeel-deadman*.service",
    b"evenkeel-deadman*.timer",
    b"evenkeel-boot*.service",
    b"evenkeel-health*.service",
    b"evenkeel-watch*.timer",
    b"evenkeel-deadman*.service.d",
    b"evenkeel-deadman*.timer.d",
    b"evenkeel-boot*.service.d",
    b"evenkeel-health*.service.d",
    b"evenkeel-watch*.timer.d",
)
NOTHING = re.compile(rb"(?!)")


class Declaration(NamedTuple):
    """Declared trees. ``exclude`` are patterns of fnmatch. ``mounts``: the mount points that a checkpoint has recorded,
    each with the kind of its file system; None where it recorded none, as version 0.1.0 did."""

    paths: Sequence[str]
    exclude: Sequence[str] = ()
    mounts: Mapping[str, str] | None = None


def stripped(patterns: Sequence[str]) -> list[str]:
    """The patterns, without a slash at the end: a path has none there, and no such pattern would match."""
    return sorted({one.rstrip("/") or one for one in patterns})


def check_patterns(patterns: Sequence[str], what: str) -> list[str]:
    """The patterns as ``stripped`` gives them. UsageError names one that matches no path, and so
    leaves out nothing of what a person means by it."""
    for one in patterns:
        if not _may_match(one):
            raise UsageError(
                f"{what}: {one!r} matches no path, so that nothing would be left out. A pattern with a slash is "
                "compared with the whole path: begin it with / or */, as /srv/app/uploads. One without a slash is "
                "compared with each name"
            )
    return stripped(patterns)


def _may_match(pattern: str) -> bool:
    text = pattern.rstrip("/")
    if "/" not in text:  # The pattern */ would become *, which leaves out everything.
        return text not in ("", ".", "..") and (text == pattern or text.strip("*") != "")
    return text[0] in "/*?[" and not {"", ".", ".."} & set(text.split("/")[1:])


def idle(declared: Declaration) -> list[str]:
    """The patterns of whole paths that match no path below the declared paths. Pure."""
    found = []
    for one in declared.exclude:
        known = re.split(r"[*?[]", one)[0]
        below = (known.startswith(f"{path}/") for path in declared.paths)
        above = (known != one and f"{path}/".startswith(known) for path in declared.paths)
        found += [one] if one.startswith("/") and not any((*below, *above)) else []
    return found


def left_out(declared: Declaration) -> Callable[[bytes], bool]:
    """A function that tells whether a path below a declared path is left out for its own name."""
    patterns = [os.fsencode(pattern) for pattern in declared.exclude]
    names = pattern([one for one in patterns if b"/" not in one])
    paths = pattern([one for one in patterns if b"/" in one])
    return lambda path: bool(names.match(os.path.basename(path)) or paths.match(path))


def excludes(declared: Declaration, path: str) -> bool:
    """Whether the path lies in a declared tree and is left out, or a directory above it is left out."""
    is_left_out = left_out(declared)
    raw = os.fsencode(path)
    for root in map(os.fsencode, declared.paths):
        if raw.startswith(root + b"/"):
            at = root
            for name in raw[len(root) + 1 :].split(b"/"):
                at += b"/" + name
                if is_left_out(at):
                    return True
    return False


def pattern(patterns: Sequence[bytes]) -> re.Pattern[bytes]:
    """An expression that matches wherever any of the patterns of fnmatch does."""
    found = "|".join(f"(?:{fnmatch.translate(one.decode('latin-1'))})" for one in patterns)
    return re.compile(found.encode("latin-1")) if patterns else NOTHING
