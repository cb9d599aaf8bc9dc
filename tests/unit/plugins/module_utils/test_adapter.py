# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a module tells Ansible, and the log of its host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils import _adapter
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import ServiceFailed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.options import Options, Params
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.result import Result

SPEC: Options = {
    "name": {"type": "str"},
    "quiesce": {"type": "list", "elements": "dict", "options": {"command": {"type": "dict"}}},
    "_values": {"type": "dict"},
}


class Run:
    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.logged: list[str] = []
        self.results: list[dict[str, Any]] = []
        self._store = str(path)
        monkeypatch.setattr(_adapter, "mark_as_ours", lambda: None)
        monkeypatch.setattr(AnsibleModule, "log", lambda _self, text, log_args=None: self.logged.append(text))
        monkeypatch.setattr(AnsibleModule, "_record_module_result", lambda _self, result: self.results.append(result))

    def __call__(self, error: ServiceFailed | None = None, **given: object) -> dict[str, Any]:
        def work(_params: Params, _check: bool) -> Result:
            if error is not None:
                raise error
            return Result()

        with patch_module_args({"store": self._store, **given}), pytest.raises(SystemExit):
            _adapter.run_module(SPEC, work)
        return {key: value for key, value in self.results.pop().items() if key != "exception"}  # Lines of this file.


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, monkeypatch)


@pytest.mark.parametrize("key", ["command", "comand"])
@pytest.mark.parametrize("failed", [False, True])
def test_no_declaration_is_told(run: Run, key: str, failed: bool) -> None:
    """Also where a key in it is misspelt, and Ansible itself refuses the call."""
    hooks = [{key: {"argv": ["login", "--password=s3cret"]}}]
    result = run(ServiceFailed("no") if failed else None, name="before", quiesce=hooks, _values={"key": "s3cret"})
    assert result.get("failed", False) is (failed or key == "comand")
    assert result["invocation"]["module_args"]["name"] == "before"
    assert "s3cret" not in str(result) + str(run.logged)
    assert key == "comand" or "name=before" in run.logged[0]


def test_a_failure_lets_ansible_tell_its_warnings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _self, text: warned.append(text))
    result = run(ServiceFailed("it does not run", warnings=["the reload was asked"], proved=["a fact"]))
    assert warned == ["the reload was asked"] and "warnings" not in result and result["proved"] == ["a fact"]
    assert run(ServiceFailed("it does not run", warnings=None))["failed"]
