# SPDX-License-Identifier: GPL-3.0-or-later

"""The one place where the library meets Ansible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ._answering import STORE, answer, shown
from ._host.background import mark_as_ours
from ._host.options import Options, Params
from ._results.result import Result


class _Module(AnsibleModule):  # type: ignore[misc]  # Ansible has no types
    """A module that shows no declaration, neither in the log of the host nor in its result."""

    params: dict[str, Any]

    def _log_invocation(self) -> None:
        given = self.params
        self.params = shown(given)
        super()._log_invocation()
        self.params = given

    def _return_formatted(self, kwargs: dict[str, Any]) -> None:
        kwargs.setdefault("invocation", {"module_args": shown(self.params)})
        super()._return_formatted(kwargs)


def run_module(argument_spec: Options, work: Callable[[Params, bool], Result], **options: Any) -> None:
    """Run ``work(params, check_mode)`` and report its result; errors of the library fail with the same keys."""
    mark_as_ours()
    options.update(argument_spec=dict(argument_spec, store=STORE), supports_check_mode=True)
    module = _Module(**options)
    result = answer(argument_spec, work, module.params, check_mode=module.check_mode, diff=module._diff)
    for said in result.pop("warnings", []):
        module.warn(said)
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)
