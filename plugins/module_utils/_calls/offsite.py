# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_offsite: its options, and the way to or from a repository that they ask for."""

from __future__ import annotations

import os

from .._host.options import PHASE, Options, Params
from .._results.copies import Offsite

ARGUMENTS: Options = {
    "repository": {"type": "str", "required": True},
    "password_file": {"type": "path", "required": True, "no_log": False},
    "state": {"type": "str", "choices": ["pushed", "fetched"], "default": "pushed"},
    "checkpoint": {"type": "str", "default": "latest"},
    "host": {"type": "str"},
}
# The options of the module: in addition, the name of the host in the inventory.
OPTIONS: Options = {**ARGUMENTS, **PHASE}


def work(params: Params, check_mode: bool) -> Offsite:
    # The imports stand here, as the controller imports this file for ARGUMENTS alone.
    from .._flows.offsite import Repository, fetch, push
    from .._host.system import System
    from .._store.store import Store

    system = System()
    repository = Repository(params["repository"], params["password_file"], system)
    node = os.uname().nodename
    host = params["host"] or node
    store, wanted = Store(params["store"], system), params["checkpoint"]
    if params["state"] == "pushed":
        return push(store, repository, host, wanted, check_mode)
    names = (node, (params["_values"] or {}).get("here"))
    return fetch(store, repository, host, wanted, check_mode, elsewhere=host not in names)
