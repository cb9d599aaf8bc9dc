# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Code, documentation and pages name their subject: no sentence begins with a clause in its place.

``What changed is named`` has to be decoded; ``The result names the paths that changed`` has not.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = sorted(path for room in ("plugins", "src") for path in (ROOT / room).rglob("*.py"))
YAML = sorted(path for room in ("roles", "playbooks") for path in (ROOT / room).rglob("*.yml"))
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "roles").glob("*/README.md")]
)
# The words that begin such a clause; a number, as in "One round", is written with another word.
CLAUSE = r"(?:What|Who|Whom|Whose|Which|Whoever|Whatever|Of|One|Ones|Those)\b(?!\.)"
BEGINS = re.compile(rf"\W*{CLAUSE}")
# A comment or a docstring that begins with a pronoun leaves its reader to look for the noun.
PRONOUN = re.compile(r"\W*(?:It|Its|They|Their|Theirs|He|She)\b")
# Names that do not say what they are: ``look`` reads something, ``lost`` gives something, but neither says what.
EMPTY_NAME = re.compile(
    r"_*(?:look|looks|looked|look_at|look_again|lost|held|one|ones|asked|was|again|insist|lacks)|\w+_again"
)
# Fields of results that playbooks and the controller know by these names.
IN_RESULTS = {"Offsite.held", "Offered.held", "Audited.held", "Surveyed.held", "Verdict.asked"}
# In prose a question may begin so, and a number may count hosts; a clause in the place of the subject may not.
SUBJECT = r"(?:What|Who|Whom|Whose|Whoever|Whatever|Of|Ones|Those)\b"
IN_PROSE = re.compile(rf"(?:^|(?<=[.!:] )){SUBJECT}[^.!?]*[.!:]")
# The same in code, where no sentence is a question.
IN_CODE = re.compile(rf"(?:^|(?<=[.!:;] )){SUBJECT}[^.!?]*")
# The beginnings of paragraphs, items and keys within a text of several lines.
PARTS = re.compile(r"\n\s*\n|\n\s*(?:#\s*)?- |\n\s*\w+:(?=\s)|description: ")


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """The beginning of each comment; a line that goes on with the comment above is none."""
    last = (-1, -1)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start != (last[0] + 1, last[1]):
                yield token.start[0], token.string.lstrip("# ")
            last = token.start


def _texts(source: str) -> Iterator[tuple[int, str]]:
    """All texts of several words in a file of Python: docstrings, comments, messages, documentation."""
    block = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            block += f"{token.string.lstrip('# ')} "
        elif token.type != tokenize.NL or token.string == "":
            yield token.start[0], block
            block = ""
    tree = ast.parse(source)
    within = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in within:
            yield node.lineno, node.value


def _clauses(text: str) -> Iterator[str]:
    """The sentences of a text that begin with a clause. A single word or two, as a heading, is no sentence."""
    for part in PARTS.split(text):
        line = " ".join(part.replace("#", " ").split()).strip("\"' ")
        yield from (found[0][:80] for found in IN_CODE.finditer(line) if found[0].count(" ") > 1)


def _prose(page: str) -> Iterator[str]:
    """The paragraphs and items of a page, each in one line; no headings, tables and examples."""
    page = re.sub(r"^ *```.*?^ *```$", "", page, flags=re.MULTILINE | re.DOTALL)
    page = re.sub(r"^(#|\||    ).*$", "", page, flags=re.MULTILINE)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:- |\d+\. ))", page):
        yield re.sub(r"^(?:- |\d+\. )|\*\*", "", " ".join(block.split()))


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_and_comments_begin_with_their_subject(path: Path) -> None:
    source = path.read_text()
    found = [*_docstrings(ast.parse(source)), *_comments(source)]
    assert [f"line {line}: {text[:60]}" for line, text in found if BEGINS.match(text) or PRONOUN.match(text)] == []


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_sentence_in_code_begins_with_its_subject(path: Path) -> None:
    assert [f"line {line}: {found}" for line, text in _texts(path.read_text()) for found in _clauses(text)] == []


@pytest.mark.parametrize("path", YAML, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_sentence_of_roles_and_playbooks_begins_with_its_subject(path: Path) -> None:
    assert list(_clauses(path.read_text())) == []


def _defined(node: ast.AST, owner: str = "") -> Iterator[str]:
    """The names of all functions, classes and fields below the node, each behind the name of its class."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            yield f"{owner}{child.name}"
            yield from _defined(child, f"{child.name}." if isinstance(child, ast.ClassDef) else "")
        elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name) and owner:
            yield f"{owner}{child.target.id}"
        else:
            yield from _defined(child, owner)


def test_names_say_what_they_are() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in CODE
        for name in _defined(ast.parse(path.read_text()))
        if EMPTY_NAME.fullmatch(name.rpartition(".")[2].lower()) and name not in IN_RESULTS
    }
    assert found == set()


def test_parameters_attributes_and_variables_name_their_noun() -> None:
    """The short name ``one`` is for an element of a loop, and for a lambda."""
    found = []
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.FunctionDef):
                names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names = [node.attr] if ast.unparse(node.value) == "self" else []
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names = [node.id] if node.id not in ("one", "_one", "asked", "held") else []
            found += [f"{path.relative_to(ROOT)}: {name}" for name in names if EMPTY_NAME.fullmatch(name)]
    assert found == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sentences_of_pages_begin_with_their_subject(path: Path) -> None:
    assert [match[0] for text in _prose(path.read_text()) for match in IN_PROSE.finditer(text)] == []
