# SPDX-License-Identifier: GPL-3.0-or-later

"""The keys whose signatures rpm trusts. rpm lists them as packages, and has no package file of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from ..._files.step import Step
from ..._host.system import System

NAME = r"gpg-pubkey-[0-9a-f]+-[0-9a-f]+"
_TAKE, _LACKS = "remove-key", "import-key"
ACTIONS = (_TAKE, _LACKS)


def read_keys(system: System) -> list[str]:
    seen = system.run(["rpm", "-qa", "gpg-pubkey*", "--qf", "%{NAME}-%{VERSION}-%{RELEASE}\\n"], 60.0)
    return sorted({line for line in seen.out.splitlines() if re.fullmatch(NAME, line)}) if seen.rc == 0 else []


def compare(then: Collection[str], now: Collection[str]) -> list[Step]:
    """The steps that bring back the recorded keys. Pure."""
    return [
        *(Step("packages", _TAKE, one, "was not trusted") for one in now if one not in then),
        *(Step("packages", _LACKS, one, "was trusted") for one in then if one not in now),
    ]


def apply(steps: Sequence[Step], system: System, needed: bool) -> dict[str, str]:
    """Carry out the steps; return (key -> why) for the steps that failed. ``needed``: packages are left that may be
    signed with a key that came with them, and no key goes then."""
    left = {}
    for step in steps:
        if step.action == _LACKS:
            left[step.target] = "rpm does not trust this key any more, and no checkpoint holds it: rpm --import"
            continue
        if needed:
            left[step.target] = "rpm came to trust this key, which stays as long as packages are left that may need it"
            continue
        done = system.run(["rpm", "-e", step.target], 60.0)
        if done.rc:
            left[step.target] = done.words
    return left
