# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The results of the modules are the documented ones, and their error codes stand in one place."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils import _errors
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman.changes import _SHOWN, Armed, Event
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import lag
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.restarting.decision import Record
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.probe import ProbeResult
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import Health
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.change import (
    Accepted,
    ChangedPath,
    Checkpointed,
    Outside,
    Owed,
    RolledBack,
    Settled,
    SettledBack,
    Suggested,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.copies import Offsite
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.host import (
    HostState,
    KeptCopies,
    Listed,
    Measured,
    Remembered,
    Scrubbed,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.restart import Drained, Restarted
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.result import Result
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.draining import Place
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Checkpoint
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import code_of

from evenkeel.ansible import answers

ROOT = Path(__file__).parents[2]
RESULTS: dict[str, list[type[Result]]] = {
    "ft_accept": [Accepted],
    "ft_checkpoint": [Checkpointed],
    "ft_drain": [Drained],
    "ft_health": [Measured],
    "ft_info": [Remembered],
    "ft_offsite": [Offsite],
    "ft_restart": [Restarted],
    "ft_rollback": [RolledBack],
    "ft_scrub": [Scrubbed],
    "ft_suggest": [Suggested],
    "ft_settle": [Settled, SettledBack],
}
# Ansible documents these itself. A rollback by ft_settle is documented by ft_rollback.
ANSIBLES = {"changed", "diff", "warnings"}
# Values of an argument ``error`` that is no reason.
NO_CODES = {"True", "False", "None", ""}
OF_A_ROLLBACK = {one.name for one in fields(RolledBack)}


# The modules that tell the state of the host, and the key under which they do.
PLACES = (("ft_health", "host_state"), ("ft_info", ""))
# Where a module documents the keys of a record of the host, but those that it does not tell or adds.
RECORDS: list[tuple[str, str, type[Any], set[str]]] = [
    *((module, f"{place}.{end}", Event, set()) for module, place in PLACES for end in ("last", "doubt")),
    *((module, f"{place}.restart", Record, {"token", "running"}) for module, place in PLACES),
    ("ft_accept", ".accepted", Event, set()),
    ("ft_accept", ".restart", Record, {"token", "running"}),
]


def returned(module: str) -> dict[str, Any]:
    tree = ast.parse((ROOT / f"plugins/modules/{module}.py").read_text())
    text = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RETURN"
    )
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@pytest.mark.parametrize(("module", "place", "record", "others"), RECORDS)
def test_a_module_documents_the_keys_of_a_record_of_the_host(
    module: str, place: str, record: type[Any], others: set[str]
) -> None:
    found = returned(module)
    for name in place.strip(".").split("."):
        found = found[name]["contains"]
    assert set(found) ^ {one.name for one in fields(record)} == others


@pytest.mark.parametrize("module", RESULTS)
def test_a_module_documents_the_keys_of_its_result(module: str) -> None:
    keys = {one.name for kind in RESULTS[module] for one in fields(kind)}
    told = set(returned(module))
    assert told - keys <= {"msg", "error"}, "documented, and never returned"
    lacking = keys - told - ANSIBLES - (OF_A_ROLLBACK if module == "ft_settle" else set())
    assert not lacking, "returned, and not documented"


def test_a_report_holds_every_key_but_those_to_be_left_out() -> None:
    assert Result().report() == {"changed": False, "planned": [], "done": [], "proved": [], "left": []}
    report = Settled(generation=3).report()
    assert report["health"] is None and "login" not in report
    assert Settled(generation=3, login="new").report()["login"] == "new"


def test_a_result_is_read_from_its_report() -> None:
    result = Settled(changed=True, done=["confirmed"], generation=3, outcome="confirmed", by="settle")
    assert Settled.read({**result.report(), "invocation": {}}) == result
    assert Settled.read({}) == Settled()


def test_every_error_has_a_code_of_its_own_and_docs_tell_them_all() -> None:
    classes = [
        one for one in vars(_errors).values() if isinstance(one, type) and issubclass(one, _errors.EvenkeelError)
    ]
    codes = [vars(one).get("code") for one in classes]
    assert None not in codes and len(set(codes)) == len(codes)
    assert set(codes) | {_errors.OS_ERROR, _errors.BAD_ANSWER} == _errors.CODES
    rows = (ROOT / "docs/errors.md").read_text().partition("|---|")[2]
    table = re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE)
    assert sorted(table) == sorted(_errors.CODES)


def test_the_word_of_an_error_is_its_code_and_never_the_name_of_its_class() -> None:
    class Renamed(_errors.Damaged):
        pass

    assert [code_of(error) for error in (Renamed(""), AnsibleError(), ValueError())] == ["Damaged", *["UsageError"] * 2]
    wrong = []
    for path in [*(ROOT / "plugins").rglob("*.py"), *(ROOT / "src").rglob("*.py")]:
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                given = errors_of(function)
                wrong += [(path.name, ast.unparse(one)) for one in given if "__name__" in ast.unparse(one)]
                literals = {str(one.value) for one in given if isinstance(one, ast.Constant)} - NO_CODES - _errors.CODES
                wrong += [(path.name, one) for one in literals]
    assert wrong == []


def errors_of(function: ast.FunctionDef) -> list[ast.expr]:
    """Each value that a function gives to a key or an argument ``error``; with a name, what the name gets."""
    given: list[ast.expr] = []
    named: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Dict):
            keys = [getattr(key, "value", None) for key in node.keys]
            given += [value for key, value in zip(keys, node.values, strict=True) if key == "error"]
        elif isinstance(node, ast.Call):
            given += [one.value for one in node.keywords if one.arg == "error"]
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                place = target.slice if isinstance(target, ast.Subscript) else None
                given += [node.value] if getattr(place, "value", None) == "error" else []
                named.setdefault(ast.unparse(target), []).append(node.value)
    return [*given, *(value for one in given if isinstance(one, ast.Name) for value in named.get(one.id, ()))]


# Of the record of a change, a result shows those that ``Armed.shown()`` names.
SHOWN = {"generation", "checkpoint", "name", "until", "within", *_SHOWN}
NOT_SHOWN = {one.name for one in fields(Armed)} - SHOWN
# The types of the driver's forms, which it reads where hosts answer, and those of the classes that hosts write.
TYPES: dict[int, str] = {
    id(answers._count): "int",
    id(answers._number): "float",
    id(answers._yes_or_no): "bool",
    **dict.fromkeys(map(id, (answers._text, answers._ident)), "str"),
    id(answers._step): "Any",
}
# Form, class, keys that only the record on the host has, and keys that are added for the answer.
FORMS: dict[str, tuple[dict[str, Any], type[Any], set[str], dict[str, str]]] = {
    "Armed": (answers._CHANGE, Armed, NOT_SHOWN, {"remaining": "float", "overdue": "float"}),
    "Event": (answers._END, Event, set(), {}),
    "Checkpoint": (answers._CHECKPOINT, Checkpoint, set(), {}),
    "ProbeResult": (answers._PROBE, ProbeResult, set(), {}),
    "Health": (answers._HEALTH, Health, set(), {}),
    "ChangedPath": (answers._CHANGED, ChangedPath, set(), {}),
    "Outside": (answers._OUTSIDE, Outside, set(), {}),
    "Owed": (answers._OWED, Owed, set(), {}),
    "KeptCopies": (answers._HELD, KeptCopies, set(), {}),
    "Listed": (answers._LISTED, Listed, set(), {}),
    "Place": (answers._PLACE, Place, set(), {"words": "str"}),
    "Record": (answers._RESTART, Record, {"token"}, {"running": "bool"}),
    "HostState": (answers._HOST, HostState, set(), {}),
}
# The words of a class for a mapping or a list.
SPELLED = {"Drained": "list[Place]", "Mapping[str, object]": "Any"}


def type_of(form: Any) -> str:
    if isinstance(form, list):
        return f"list[{type_of(form[0])}]"
    if isinstance(form, dict):
        if set(form) == {answers._OTHERS}:
            return f"dict[str, {type_of(form[answers._OTHERS])}]"
        return next((name for name, (known, *_) in FORMS.items() if known is form), "Any")
    return TYPES[id(form)]


def spelled(one: Any) -> str:
    text = str(one.type).removesuffix(" | None")
    return SPELLED.get(text, text)


@pytest.mark.parametrize("name", FORMS)
def test_the_driver_reads_what_a_host_writes(name: str) -> None:
    """Key by key, and type by type. Where a class says Any, the form is the one that tells the type."""
    form, kind, unshown, added = FORMS[name]
    wanted = {one.name: spelled(one) for one in fields(kind) if one.name not in unshown} | added
    assert unshown <= {one.name for one in fields(kind)}
    assert {key: "Any" if wanted.get(key) == "Any" else type_of(value) for key, value in form.items()} == wanted


def test_the_driver_reads_a_log_as_a_host_writes_it() -> None:
    assert set(answers._LOG) == lag._KEYS - {"line"} | {"name", "seconds", "bytes"}


def loose(read: str) -> set[str]:
    """The types of a class that say less than the form."""
    return {"Any", "list[Any]"} if read.startswith("list[") else {"Any"}


def test_the_driver_reads_each_key_of_a_result_with_the_type_that_modules_give_it() -> None:
    written: dict[str, set[str]] = {}
    for one in (one for kinds in RESULTS.values() for kind in kinds for one in fields(kind)):
        written.setdefault(one.name, set()).add(spelled(one))
    read = {key: type_of(form) for key, form in answers._RESULT.items()}
    assert set(read) - set(written) == {"msg", "error", "failed", "unreachable"}
    wrong = {
        key: (read[key], types)
        for key, types in written.items()
        if key in read and types - {read[key], *loose(read[key])}
    }
    assert wrong == {}


def test_no_code_is_written_out_in_the_driver() -> None:
    """It takes them from the collection, so that no other word can creep in."""
    quoted = re.compile(f'"({"|".join(_errors.CODES)})"')
    found = {}
    for path in (ROOT / "src/evenkeel").rglob("*.py"):
        if path.name not in ("__init__.py", "reliability.py") and (hits := quoted.findall(path.read_text())):
            found[path.name] = hits
    assert found == {} and answers.BAD == _errors.BAD_ANSWER
