# SPDX-License-Identifier: GPL-3.0-or-later

"""The one place where the library meets Ansible."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ._errors import OS_ERROR, EvenkeelError
from ._host import scratch
from ._host.background import mark_as_ours
from ._host.options import Option, Options, Params, given
from ._host.text import bounded, escaped, harmless, named, sentence
from ._results.result import Result

STORE: Option = {"type": "path", "default": "/var/lib/evenkeel"}


# The word for a declaration in the log of the host and in the invocation.
_HIDDEN = "(not shown)"


class _Module(AnsibleModule):
    """A module that shows no declaration, neither in the log of the host nor in its result: a command of ``quiesce``, a
    probe or a service may hold a secret."""

    params: dict[str, Any]

    def _log_invocation(self) -> None:
        given = self.params
        self.params = self._shown()
        super()._log_invocation()
        self.params = given

    def _return_formatted(self, kwargs: dict[str, Any]) -> None:
        kwargs.setdefault("invocation", {"module_args": self._shown()})
        super()._return_formatted(kwargs)

    def _shown(self) -> dict[str, Any]:
        """The arguments that are no declarations, nor lists of them."""

        def hides(value: object) -> bool:
            return isinstance(value, dict) or (isinstance(value, list) and any(map(hides, value)))

        return {key: _HIDDEN if hides(value) else value for key, value in self.params.items()}


class _Called(_Module):
    """A module with other arguments than Ansible has sent."""

    def __init__(self, call: Params, **options: Any) -> None:
        self._call = call
        super().__init__(**options)

    def _load_params(self) -> None:
        self.params = dict(self._call)


def run_module(
    argument_spec: Options,
    work: Callable[[Params, bool], Result],
    call: Params | None = None,
    **options: Any,
) -> None:
    """Run ``work(params, check_mode)`` and report its result; errors of the library fail with the same keys.

    call: all arguments, with Ansible's own, where another module was sent to make this call (``ft_call``).
    """
    mark_as_ours()
    options.update(argument_spec=dict(argument_spec, store=STORE), supports_check_mode=True)
    module = _Module(**options) if call is None else _Called(call, **options)
    if not module.check_mode:
        scratch.reclaim(str((module.params.get("_values") or {}).get("run", "")), time.time())
    try:
        result = work(named(_given(argument_spec, module.params)), module.check_mode).report()
    except EvenkeelError as error:
        _warn(module, error.result)
        module.fail_json(msg=sentence(error.message), error=error.code, **report(error.result))
    except OSError as error:
        module.fail_json(msg=sentence(f"{error}; nothing more was done"), error=OS_ERROR, **report({}))
    if not module._diff:
        result.pop("diff", None)
    _warn(module, result)
    module.exit_json(**report(result))


def _warn(module: AnsibleModule, result: dict[str, Any]) -> None:
    """Let Ansible tell the warnings of the result."""
    for said in result.pop("warnings", None) or []:
        module.warn(sentence(str(said)))


def _given(spec: Options, params: Params) -> Params:
    """The parameters, of declarations without the keys that were not given."""
    return {key: given(value) if spec.get(key, {}).get("options") else value for key, value in params.items()}


def report(result: Mapping[str, Any]) -> dict[str, Any]:
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
