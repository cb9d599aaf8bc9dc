# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declarations are read by their options, with one meaning for what Ansible and what a caller hands over."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.options import Options, given, meant, read

OPTIONS: Options = {
    "paths": {"type": "list", "elements": "str", "required": True},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "count": {"type": "int"},
    "purge": {"type": "bool", "default": False},
    "process": {"type": "dict", "options": {"argv": {"type": "list", "elements": "str", "required": True}}},
}


def test_what_is_not_declared_has_its_default() -> None:
    found = read(OPTIONS, {"paths": "/etc", "count": None}, "files")
    assert found == {"paths": ["/etc"], "exclude": [], "count": None, "purge": False, "process": None}
    found["exclude"].append("changed")
    assert OPTIONS["exclude"]["default"] == []


def test_values_are_taken_as_ansible_takes_them() -> None:
    found = read(OPTIONS, {"paths": "/etc,/srv", "count": "3", "process": {"argv": ["/bin/a", 8080, ""]}}, "files")
    assert (found["paths"], found["count"]) == (["/etc", "/srv"], 3)
    assert found["process"]["argv"] == ["/bin/a", "8080", ""]


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ("/etc", "files takes a mapping, not '/etc'"),
        ({"path": ["/etc"]}, r"files: unknown key 'path' \(did you mean paths\?\); it takes count, exclude, paths"),
        ({"paths": ["/etc"], "zzz": 1}, "files: unknown key 'zzz'; it takes"),
        ({}, "files: paths is missing"),
        ({"paths": []}, "files: paths is missing"),
        ({"paths": [None]}, "files: paths must be a text, not None"),
        ({"paths": ["a"], "count": "two"}, "files: count must be a whole number, not 'two'"),
        ({"paths": ["a"], "purge": "maybe"}, "files: purge must be true or false, not 'maybe'"),
        ({"paths": ["a"], "process": {}}, "files: process: argv is missing"),
        ({"paths": ["a"], "process": {"argv": ["x"], "user": "www"}}, "files: process: unknown key 'user'"),
        ({"paths": ["a"], "process": {"argv": ["/bin/maintenance", True]}}, "argv must be a text, not True"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(declared: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read(OPTIONS, declared, "files")


def test_keys_that_were_not_given_are_left_out() -> None:
    assert given([{"files": {"paths": ["a"], "exclude": None}, "users": None}]) == [{"files": {"paths": ["a"]}}]
    assert given({"last": 3, "within": None, "grace": ""}) == {"last": 3, "grace": ""}


def test_the_key_that_was_meant_is_named_where_one_is_near() -> None:
    assert meant("exlude", ["paths", "exclude"]) == " (did you mean exclude?)"
    assert meant("user", ["paths", "exclude"]) == ""
