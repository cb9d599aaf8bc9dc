# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""No secret of a call is in anything that leaves the host, whether Ansible's own code runs there or not."""

from __future__ import annotations

import syslog
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common import parameters
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils import _answering, _direct
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import ServiceFailed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.options import Options, Params
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.secret import secrets, without
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.result import Result

SPEC: Options = {
    "name": {"type": "str"},
    "token": {"type": "str", "no_log": True},
    "pin": {"type": "int", "no_log": True},
    "headers": {"type": "dict", "no_log": True},
    "file": {"type": "path", "no_log": False},
    "probes": {
        "type": "list",
        "elements": "dict",
        "options": {"http": {"type": "dict", "options": {"token": {"type": "str", "no_log": True}}}},
    },
}
PARAMS: list[dict[str, Any]] = [
    {"token": "s3cret", "pin": 8841},
    {"token": "s3", "headers": {"a": ["s3cret", {"b": 7, "z": 0}], "c": True, "d": None, "e": ""}},
    {"token": "e", "pin": 0, "file": "f"},
    {"token": "", "headers": {}, "probes": None},
    {"probes": [{"http": {"token": "s3cret and more"}}, {"http": None}, {}]},
]
VALUES: list[Any] = [
    *("s3cret", "it is s3cret, or s3cret and more, or s3", "f e", "", 8841, 188410, 7, 0, 2.7, True, None),
    {"s3cret": ["s3cret", {"deep": ["s3", "s3cret7"]}], "e": {"e": "e"}},
]


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("value", VALUES, ids=str)
def test_values_are_masked_as_ansible_masks_them(params: dict[str, Any], value: object) -> None:
    theirs = parameters._list_no_log_values(SPEC, params)
    assert set(secrets(SPEC, params)) == theirs
    assert without(value, secrets(SPEC, params)) == parameters.remove_values(value, theirs)


def test_what_a_person_reads_of_a_secret_is_masked_as_well() -> None:
    found = secrets(SPEC, {"token": "it's\n5ecret\x07\n"})
    for words in ("it's\n5ecret\x07", repr(KeyError("it's\n5ecret\x07\n")), "it's 5ecret\\x07 "):
        assert "5ecret" not in str(without(f"a line with {words}", found))
    assert not secrets(SPEC, {"token": "\n", "headers": {"a": " "}}), "every sentence has blanks"


def ends_well(token: str) -> Result:
    return Result(planned=[{"deep": [token]}], proved=[f"with {token}"])


def fails(token: str) -> Result:
    raise ServiceFailed(f"no answer to {token}", warnings=[f"of {token}"], left=[token])


def fails_in_a_call_of_the_system(token: str) -> Result:
    raise FileNotFoundError(2, "no such file", token)


def dies(token: str) -> Result:
    try:
        int(token)
    except ValueError as error:
        raise KeyError(token) from error
    return Result()


@pytest.mark.parametrize("act", [ends_well, fails, fails_in_a_call_of_the_system, dies])
def test_no_secret_leaves_the_host(
    act: Callable[[str], Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def work(params: Params, _check: bool) -> Result:
        return act(params["token"])

    logged: list[str] = []
    monkeypatch.setattr(syslog, "syslog", lambda _level, text: logged.append(text))
    monkeypatch.setattr(_direct, "mark_as_ours", lambda: None)
    monkeypatch.setattr(_direct, "call", lambda _name: (SPEC, work))
    given = {"token": "tok-8841", "name": "before tok-8841", "store": str(tmp_path)}
    asked = {"name": "info", "arguments": given, "check": False, "diff": False, "log": True}
    try:
        said = str(_direct.run(asked))
        assert act is not dies and "tok-" not in said and "********" in said
    except RuntimeError as error:
        assert act is dies
        said = "".join(traceback.format_exception(error))
        assert "KeyError: '********'" in said
        assert "tok-" not in said.partition("RuntimeError: ")[2]
        assert error.__context__ is None is error.__cause__
    (line,) = logged
    assert "name=before ********" in line and "tok-" not in line


def test_an_unexpected_error_of_a_call_without_secrets_is_its_own(tmp_path: Path) -> None:
    def work(_params: Params, _check: bool) -> Result:
        return dies("word")

    with pytest.raises(KeyError, match="word"):
        _answering.answer(SPEC, work, {"store": str(tmp_path)}, check_mode=True, diff=False)
