# SPDX-License-Identifier: GPL-3.0-or-later

"""The results of the modules. Each has the keys of ``Result`` and keys of its own, on success and on failure alike.

RETURN of each module documents them, and a test compares both. A key with ``None`` for its value stands in the report
as null, unless the field is to be left out then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from .._dataclasses import asdict, dataclass, field, fields, is_dataclass

_Result = TypeVar("_Result", bound="Result")
# A field that the report does not hold while it is None.
LEFT_OUT = {"left_out": True}


@dataclass
class Result:
    """The keys of every module: the steps that were planned and done, the proof, and the things that are left."""

    changed: bool = False
    planned: list[Any] = field(default_factory=list)
    done: list[Any] = field(default_factory=list)
    proved: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """The keys and values that the module returns."""
        found = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None or not one.metadata:
                found[one.name] = _plain(value)
        return found

    @classmethod
    def read(cls: type[_Result], report: Mapping[str, Any]) -> _Result:
        """The result in a report. Keys that this result does not have are ignored; keys that the report lacks have
        their default."""
        return cls(**{one.name: report[one.name] for one in fields(cls) if report.get(one.name) is not None})


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [asdict(one) for one in value] if value and is_dataclass(value[0]) else value
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
