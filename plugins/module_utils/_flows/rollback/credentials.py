# SPDX-License-Identifier: GPL-3.0-or-later

"""Credentials whose other half does not go back: others have renewed them, or count on those that were new."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

_SHOWN = 10


class Credential(NamedTuple):
    """``paths``: its files, with the path by which it is named as the first group. ``words``: what may be wrong now,
    and what to do."""

    paths: str
    words: str


_KNOWN = (
    Credential(
        r"(/etc/(?:letsencrypt/live|dehydrated/certs)/[^/]+)/.*",
        "where the certificate was renewed since, this one is older, and may have expired: look at its date, and renew "
        "it",
    ),
    Credential(
        r"(/etc/krb5\.keytab)",
        "where the password of this machine was renewed since, its keys are no longer valid: renew them (adcli "
        "update), or join the domain again",
    ),
)


def gone_back(changed: Sequence[str]) -> list[str]:
    """Sentences on the credentials among the paths that were put back. One that came with the change is gone, and is
    not named."""
    found: dict[str, str] = {}
    for one in _KNOWN:
        match_of = re.compile(one.paths).fullmatch
        for path in changed:
            match = match_of(path)
            if match is not None and os.path.lexists(path):
                found[match[1]] = f"{match[1]} was put back: {one.words}"
    return list(found.values())[:_SHOWN]
