# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CONTRIBUTING.md is true: everything that it names exists, and its examples are those of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
# Fenced examples are checked by themselves.
PROSE = re.sub(r"^ *```.*?^ *```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
TERMS = sorted(set(re.findall(r"`([^`\n]+)`", PROSE)))
EXAMPLES = re.findall(r"^( *)```python\n *# (\S+)\n(.*?)^ *```$", PAGE, flags=re.MULTILINE | re.DOTALL)
CODE = [path for folder in ("plugins", "src", "tests/unit") for path in sorted((ROOT / folder).rglob("*.py"))]


def _definitions() -> Iterator[str]:
    """Functions as ``name()``, methods as ``Class.name()``, classes, and constants of modules, by their names."""
    for path in CODE:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                yield node.name
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef):
                        yield f"{node.name}.{inner.name}()"
            elif isinstance(node, ast.FunctionDef):
                yield f"{node.name}()"
            elif isinstance(node, ast.AnnAssign):
                yield ast.unparse(node.target)
            elif isinstance(node, ast.Assign):
                yield from (ast.unparse(target) for target in node.targets)


DEFINED = set(_definitions())
# Words that a user writes, names of columns, and tools.
WORDS = {
    *("files", "services", "packages", "dns", "timeout", "severity", "tcp", "detail", "done", "left", "sha256=NAME"),
    *("minor_changes", "venv", "evenkeel", "since", "order", "system", "outer.inner:", "docs/NAME.md"),
}


def _exists(term: str) -> bool:
    if term.startswith("make "):
        return all(re.search(rf"^{word}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for word in term.split()[1:])
    term = term.removeprefix(".venv/bin/python ")
    if "/" in term or term in ("roles", "playbooks") or term.startswith("_") or term.endswith((".py", ".yml")):
        places = [ROOT, ROOT / "plugins/module_utils", ROOT / "changelogs/fragments"]
        return any((place / term).exists() for place in places) or any(path.name == term for path in CODE)
    return term in DEFINED


@pytest.mark.parametrize("term", [term for term in TERMS if term not in WORDS and not term.startswith("mypy")])
def test_everything_that_is_named_exists(term: str) -> None:
    assert _exists(term), f"CONTRIBUTING.md names {term}, and there is no such file, class, function or constant"


@pytest.mark.parametrize(("indent", "path", "text"), EXAMPLES, ids=[path for _indent, path, _text in EXAMPLES])
def test_an_example_is_the_code(indent: str, path: str, text: str) -> None:
    code = iter((ROOT / path).read_text().splitlines())
    for line in filter(str.strip, text.splitlines()):
        assert line.removeprefix(indent) in code, f"{path} has no {line.strip()!r} there"


def _members(path: str, name: str) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ClassDef) and node.name == name:
            yield from (inner for inner in node.body if isinstance(inner, ast.FunctionDef))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("plugins/module_utils/_resources/kind.py", "Kind"),
        ("plugins/module_utils/_health/probe.py", "Probe"),
        ("plugins/module_utils/_deadman/timers.py", "Timer"),
        ("src/evenkeel/commands/base.py", "Command"),
    ],
)
def test_every_method_that_has_to_be_written_is_named(path: str, name: str) -> None:
    """Those that only raise NotImplementedError, all of a protocol, and all abstract ones."""
    members = list(_members(path, name))
    needed = {
        member.name
        for member in members
        if name == "Timer"
        or "abstractmethod" in map(ast.unparse, member.decorator_list)
        or ast.unparse(member.body[-1]) == "raise NotImplementedError"
    }
    assert needed and {f"{name}.{member}()" for member in needed} <= set(TERMS)


def test_every_room_is_named() -> None:
    rooms = {
        path.name for path in (ROOT / "plugins/module_utils").iterdir() if path.is_dir() and path.name.startswith("_")
    }
    assert rooms - {"__pycache__"} <= set(TERMS)


def test_the_readme_leads_here() -> None:
    assert "(CONTRIBUTING.md)" in (ROOT / "README.md").read_text()
