# SPDX-License-Identifier: GPL-3.0-or-later

"""The answer to a call of a module, whether Ansible's own module code runs on the host or not.

The library answers a call in two ways: within a module of Ansible (``_adapter``), or as a program of its own
(``_direct``). This file decides the contents of the answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ._errors import OS_ERROR, EvenkeelError
from ._host import scratch
from ._host.options import Option, Options, Params, given
from ._host.secret import secrets, traceback_without, without
from ._host.text import bounded, escaped, harmless, masked, named, sentence
from ._results.result import Result

STORE: Option = {"type": "path", "default": "/var/lib/evenkeel"}

# The word for a declaration in the log of the host and in the invocation.
_HIDDEN = "(not shown)"


def answer(
    argument_spec: Options, work: Callable[[Params, bool], Result], params: Params, *, check_mode: bool, diff: bool
) -> dict[str, Any]:
    """The result of ``work(params, check_mode)``, with the keys that every module promises. An error of the library has
    the same keys, and ``failed``. ``warnings`` are sentences for a person. No secret is in any of it, nor in the
    traceback of an unexpected error."""
    hidden = secrets(argument_spec, params)
    if not check_mode:
        run = str((params.get("_values") or {}).get("run", ""))
        scratch.reclaim(run, time.time(), str(params.get("store") or STORE["default"]))
    result: dict[str, Any] = {}
    failure: dict[str, Any] = {}
    unexpected = ""
    try:
        result = work(named(_given(argument_spec, params)), check_mode).report()
        if not diff:
            result.pop("diff", None)
    except EvenkeelError as error:
        result = dict(error.result)
        failure = {"failed": True, "msg": error.message, "error": error.code}
    except OSError as error:
        failure = {"failed": True, "msg": f"{error}; nothing more was done", "error": OS_ERROR}
    except Exception as error:
        if not hidden:
            raise
        unexpected = traceback_without(error, hidden)
    if unexpected:
        raise RuntimeError(unexpected)  # Outside of the handler: the first error would be its context, and shown.
    found: dict[str, Any] = {key: without(value, hidden) for key, value in {**result, **failure}.items()}
    warnings = [sentence(str(said)) for said in found.pop("warnings", None) or []]
    # As with Ansible's own modules, a result without warnings has no such key.
    return {**report(found), **({"warnings": warnings} if warnings else {})}


def shown(params: Params) -> dict[str, object]:
    """The arguments for a log: without declarations and lists of them, as a command of ``quiesce``, a probe or a
    service may hold a secret, and without the passwords of addresses."""

    def hides(value: object) -> bool:
        return isinstance(value, dict) or (isinstance(value, list) and any(map(hides, value)))

    told = {key: _HIDDEN if hides(value) else value for key, value in params.items()}
    return {key: masked(value) if isinstance(value, str) else value for key, value in told.items()}


def _given(spec: Options, params: Params) -> Params:
    """The parameters, of declarations without the keys that were not given."""
    return {key: given(value) if spec.get(key, {}).get("options") else value for key, value in params.items()}


def report(result: Mapping[str, Any]) -> dict[str, object]:
    """The result with the keys that every module promises, bounded, and with every name as printable text."""
    return _whole(escaped(result))


def reported(result: Mapping[str, Any]) -> dict[str, Any]:
    """``report`` on the controller, from results of hosts, in which names are already escaped."""
    return _whole(harmless(result))


def _whole(result: Mapping[str, Any]) -> dict[str, Any]:
    found = {**Result().report(), **result}
    if isinstance(found.get("msg"), str):
        found["msg"] = found["msg"].replace("\n", " ")
    return bounded(found)
