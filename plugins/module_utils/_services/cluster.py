# SPDX-License-Identifier: GPL-3.0-or-later

"""Units that a cluster manager starts and stops: a start by others would have them run on two hosts at once."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .._host.trust import read_small

# Pacemaker, its configuration, and the drop-in that it writes for a unit while the unit runs on this host.
MANAGER = "pacemaker.service"
CIB = "/var/lib/pacemaker/cib/cib.xml"
_DROP_IN = "/50-pacemaker.conf"
_PRIMITIVE = r'<primitive\b[^>]*\bclass="systemd"[^>]*>'
_TYPE = r'\btype="([^"]+)"'
_LARGEST = 1 << 24


def units() -> set[str]:
    """The services that Pacemaker may start on some host of its cluster, by its configuration."""
    try:
        text = read_small(CIB, _LARGEST)[0].decode("utf-8", "replace")
    except OSError:
        return set()
    found = {name for one in re.findall(_PRIMITIVE, text) for name in re.findall(_TYPE, one)}
    return {name if name.endswith((".service", ".socket", ".timer", ".path")) else f"{name}.service" for name in found}


def has_drop_in(files: Iterable[str]) -> bool:
    """Whether one of the files of a unit is the drop-in of Pacemaker."""
    return any(path.endswith(_DROP_IN) for path in files)
