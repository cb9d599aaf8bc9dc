# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kind of state is known by name in its own file or folder alone, and in the table of kinds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Programs

ROOT = Path(__file__).parents[2]
RESOURCES = ROOT / "plugins/module_utils/_resources"
SEARCHED = ("plugins/module_utils", "plugins/action", "plugins/plugin_utils", "src")
# Strings that are called like a kind and are none: file -> the strings, with the reason.
OTHERS = {
    "plugins/module_utils/_flows/scrub.py": {"files"},  # a number in its result
    # the identifier of a cluster
    **{
        f"plugins/module_utils/_resources/postgresql/{name}.py": {"system"}
        for name in ("postgresql", "recovery", "restore_point", "spare")
    },
    "plugins/module_utils/_flows/rollback/access.py": {"network"},  # /etc/network
    "plugins/module_utils/_flows/recovering/identity.py": {"network"},  # a part of the identity
    "plugins/module_utils/_resources/files.py": {"mounts"},  # a key of a declaration as it is recorded
    "src/evenkeel/demo.py": {"files", "services"},  # declarations, as a user writes them
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in SEARCHED:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path not in (RESOURCES / "kinds.py", RESOURCES / "logs.py"):  # the tables
                yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def own(name: str) -> tuple[str, ...]:
    """The beginnings of the paths of the kind's own files. Files and services have a room of the library as well."""
    beginning = f"{RESOURCES.relative_to(ROOT)}/{name}"
    return (f"{beginning}.py", f"{beginning}/", f"plugins/module_utils/_{name}/")


def test_no_string_outside_its_own_file_names_a_kind() -> None:
    seen = set()
    wrong = []
    for path, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or node.value not in registry.KINDS:
                continue
            name = str(node.value)
            if path.startswith(own(name)):
                seen.add(name)
            elif name not in OTHERS.get(path, ()):
                wrong.append(f"{path}:{node.lineno}: {name}")
    assert seen == set(registry.KINDS), "the files of the kinds are not seen"
    assert wrong == [], "give the base class Kind an attribute or a method for what is known by name here"


def test_no_constant_names_a_kind_outside_its_own_file() -> None:
    """A constant with the name of a kind is for the kind's own files, like the name itself."""
    constants = {
        (Path(path).stem, target.id): str(node.value.value)
        for path, tree in sources()
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.value.value in registry.KINDS
        for target in node.targets
        if isinstance(target, ast.Name) and node.value.value not in OTHERS.get(path, ())
    }
    assert {("step", "FILES"), ("service", "SERVICES")} <= constants.keys()
    wrong = []
    for path, tree in sources():
        for node in ast.walk(tree):
            used, line = [], getattr(node, "lineno", 0)
            if isinstance(node, ast.ImportFrom):
                used = [((node.module or "").rpartition(".")[2], alias.name) for alias in node.names]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used = [(node.value.id, node.attr)]
            kinds = [constants[one] for one in used if one in constants]
            wrong += [f"{path}:{line}: {kind}" for kind in kinds if not path.startswith(own(kind))]
    assert wrong == [], "ask the registry for the kind of which a fact is true"


def test_no_file_but_the_table_imports_a_kind() -> None:
    """Trees of files are the common ground of all kinds: their functions are imported by others."""
    wrong = []
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and "/module_utils/" in path:
                module = node.module or ""
                if module.startswith(("_host.", "_files")):  # Rooms that have files of such names.
                    continue
                named = {*module.split("."), *(alias.name for alias in node.names)}
                below = "_resources" in module.split(".") or (path.startswith("plugins/module_utils/_resources/"))
                for name in named & (set(registry.KINDS) - {"files"}) if below else ():
                    if not path.startswith(own(name)):
                        wrong.append(f"{path}:{node.lineno}: {name}")
    assert wrong == []


def test_a_row_of_the_registry_is_under_the_name_of_its_kind() -> None:
    assert all(name == kind.name for name, kind in registry.KINDS.items())


def test_one_kind_starts_programs_and_goes_back_last() -> None:
    assert [isinstance(kind, Programs) for kind in registry.KINDS.values()].index(True) == len(registry.KINDS) - 1
    assert registry.programs() is list(registry.KINDS.values())[-1]


def test_kinds_that_install_programs_stand_before_files() -> None:
    assert list(registry.KINDS)[: len(registry.early())] == list(registry.early())
    assert next(iter(registry.late())) == next(name for name, kind in registry.KINDS.items() if kind.only_paths)


@pytest.mark.parametrize("kind", registry.KINDS.values(), ids=list(registry.KINDS))
def test_a_kind_implements_all_that_has_no_default(kind: object) -> None:
    for method in ("check", "capture", "plan", "apply", "verify", "outside"):
        assert method in vars(type(kind)), f"{method} is missing"
