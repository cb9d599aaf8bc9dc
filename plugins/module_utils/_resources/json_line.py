# SPDX-License-Identifier: GPL-3.0-or-later

"""Lines of a manifest that consist of a word of more than one letter and a record as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .._errors import Damaged, UsageError
from .._store.manifest import read_json


def write(word: str, record: Mapping[str, Any]) -> str:
    """The line of a word and a record."""
    return f"{word} {json.dumps(record, sort_keys=True)}"


@contextmanager
def read(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The word and the record of a line, for a block that reads them.

    A ValueError, KeyError, TypeError, AttributeError or UsageError of the block shows that no version has written the
    line: then Damaged is raised.
    """
    try:
        word, _blank, rest = text.partition(" ")
        yield word, read_json(rest)
    except (ValueError, KeyError, TypeError, AttributeError, UsageError):
        raise Damaged(f"this line of a manifest is refused: {text[:200]!r}; nothing was changed") from None
