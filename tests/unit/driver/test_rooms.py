# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rooms of the driver: each imports from itself and from rooms below it alone; no file imports itself by others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import evenkeel

PACKAGE = Path(evenkeel.__file__).parent
# From the ground up. Files at the top of the package are rooms of their own; __init__ is the public face of all.
FLOORS = [
    {"collection", "outcome", "progress"},
    {"shared", "reliability"},
    {"ansible", "plan"},
    {"changes", "show"},
    {"commands"},
    {"cli"},
    {"demo"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the modules of the driver that it imports, wherever in it the import stands."""
    names = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    names = {name: path for name, path in names.items() if name.rpartition(".")[2] != "__init__"}
    found: dict[str, set[str]] = {}
    for name, path in names.items():
        nodes = list(ast.walk(ast.parse(path.read_text())))
        said = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: write from evenkeel.… import …"
                said |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        found[name] = {one.removeprefix("evenkeel.") for one in said if one.startswith("evenkeel.")} & names.keys()
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in imports()} == FLOOR.keys()


def test_a_room_imports_from_itself_and_from_floors_below_alone() -> None:
    found = imports()
    assert sum(map(len, found.values())) > 50, "imports are not seen"
    wrong = [
        f"{module} imports {other}"
        for module, others in found.items()
        for other in others
        if room(module) != room(other) and FLOOR[room(module)] <= FLOOR[room(other)]
    ]
    assert wrong == []


def test_no_file_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(PACKAGE)}: {node.name}", node


def test_no_function_is_longer_than_60_lines_or_takes_more_than_6_parameters() -> None:
    wrong = []
    for name, node in functions():
        lines = (node.end_lineno or 0) - node.lineno + 1
        arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        parameters = [one for one in arguments if one.arg not in ("self", "cls")]
        if lines > 60 or len(parameters) > 6:
            wrong.append(f"{name} ({lines} lines, {len(parameters)} parameters)")
    assert wrong == []


def test_signatures_name_their_types() -> None:
    """A mapping of anything, ``dict[str, Any]``, is left where Ansible or a host decides what is in it."""
    loose = [
        name
        for name, node in functions()
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if argument.annotation is not None and "dict[str, Any]" in ast.unparse(argument.annotation)
    ]
    loose += [name for name, node in functions() if node.returns and "dict[str, Any]" in ast.unparse(node.returns)]
    assert len(loose) <= 3, loose


@pytest.mark.parametrize("name", evenkeel.__all__)
def test_every_public_name_stands_where_its_users_find_it(name: str) -> None:
    """Also when a room has been imported, which sets an attribute of the package."""
    for module in imports():
        import_module(f"evenkeel.{module}")
    found = getattr(evenkeel, name)
    assert callable(found) and found.__module__.startswith("evenkeel.")
