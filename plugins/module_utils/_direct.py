# SPDX-License-Identifier: GPL-3.0-or-later

"""The library on a host answers a call as a program of its own, without the code of Ansible's modules.

That code is sent with each module, and compiled and loaded anew for each: it takes longer than most calls.
"""

from __future__ import annotations

import os
import syslog
from collections.abc import Mapping
from typing import Any

from ._answering import answer, shown
from ._calls.every import call
from ._host.background import mark_as_ours
from ._host.secret import secrets, without

# The longest line for the log of the host, in characters.
_LONGEST = 2000


def run(request: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a call, in JSON's types.

    request: ``name`` of the module without ``ft_``, its ``arguments`` as the controller has checked them, whether it is
    in ``check`` and ``diff`` mode, and whether the host may ``log`` the call.
    """
    mark_as_ours()
    name = str(request["name"])
    spec, work = call(name)
    params = {**request["arguments"], "store": _path(request["arguments"]["store"])}
    for key, option in spec.items():
        if option.get("type") == "path" and isinstance(params.get(key), str):
            params[key] = _path(params[key])
    hidden = secrets(spec, params)
    told = shown({key: without(value, hidden) for key, value in params.items()})
    if request["log"]:
        _log(name, told)
    result = answer(spec, work, params, check_mode=request["check"], diff=request["diff"])
    return {**result, "invocation": {"module_args": told}}


def _path(text: str) -> str:
    """A path as Ansible reads it on the host."""
    return os.path.expanduser(os.path.expandvars(text))


def _log(name: str, told: Mapping[str, object]) -> None:
    """As Ansible does for each module."""
    syslog.openlog(f"ansible-evenkeel.fault_tolerance.ft_{name}", 0, syslog.LOG_USER)
    words = " ".join(f"{key}={value}" for key, value in told.items())
    syslog.syslog(syslog.LOG_INFO, f"Invoked with {words}"[:_LONGEST].encode("ascii", "backslashreplace").decode())
