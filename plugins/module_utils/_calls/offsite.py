# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_offsite: its options, and the way to or from a repository that they ask for."""

from __future__ import annotations

import os

from .._host.options import Options, Params
from .._results.copies import Offsite

ARGUMENTS: Options = {
    "repository": {"type": "str", "required": True},
    "password_file": {"type": "path", "required": True, "no_log": False},
    "state": {"type": "str", "choices": ["pushed", "fetched"], "default": "pushed"},
    "checkpoint": {"type": "str", "default": "latest"},
    "host": {"type": "str"},
}


def work(params: Params, check_mode: bool) -> Offsite:
    # Here, as the controller imports this file for ARGUMENTS alone.
    from .._flows.offsite import Repository, fetch, push
    from .._host.system import System
    from .._store.store import Store

    system = System()
    carry = push if params["state"] == "pushed" else fetch
    repository = Repository(params["repository"], params["password_file"], system)
    host = params["host"] or os.uname().nodename
    return carry(Store(params["store"], system), repository, host, params["checkpoint"], check_mode)
