# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/reliability.md: its examples give what it says, its pictures are there, it speaks of every formula."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from evenkeel import reliability

PAGE = Path(__file__).parents[3] / "docs/reliability.md"


def test_the_examples_are_true() -> None:
    # Without their fences, so that an expected result ends where its block does.
    text = PAGE.read_text().replace("```pycon\n", "\n").replace("```\n", "\n")
    test = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(test, out=said.append)
    assert not result.failed, "".join(said)
    assert result.attempted > 20


def test_every_formula_is_explained_and_every_picture_is_there() -> None:
    text = PAGE.read_text()
    for name in set(reliability.__all__) - {"YEAR", "UsageError"}:
        assert re.search(rf"\b{name}\b", text), name
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert len(pictures) == len(set(pictures)) >= 9
    for picture in pictures:
        assert (PAGE.parent / picture).is_file(), picture
