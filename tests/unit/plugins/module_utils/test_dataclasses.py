# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library's dataclasses are as Python's own in all that the library uses, and cost less."""

from __future__ import annotations

import dataclasses as pythons
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils import _dataclasses as ours

COLLECTIONS = Path(ours.__file__).parents[5]


class Pair(NamedTuple):
    left: int
    right: list[int]


def classes(of: ModuleType) -> tuple[Any, Any, Any]:
    @of.dataclass
    class Base:
        kind: ClassVar[str] = "base"
        one: int
        two: str = "two"
        three: list[Any] = of.field(default_factory=list)

    @of.dataclass
    class More(Base):
        four: dict[str, Any] | None = of.field(default=None, metadata={"left_out": True})
        two: str = "other"

        def __repr__(self) -> str:
            return "its own"

    @of.dataclass(frozen=True)
    class Fixed:
        one: Any
        two: tuple[int, ...] = ()

        @property
        def double(self) -> int:
            return int(self.one) * 2

    return Base, More, Fixed


BOTH = pytest.mark.parametrize("of", [ours, pythons], ids=["ours", "python's"])


@BOTH
def test_arguments_and_defaults(of: ModuleType) -> None:
    base, more, fixed = classes(of)
    assert vars(base(1)) == {"one": 1, "two": "two", "three": []}
    assert vars(more(1, three=[2])) == {"one": 1, "two": "other", "three": [2], "four": None}
    assert base(1).three is not base(1).three
    assert (base.two, base.kind, hasattr(base, "three"), more.four) == ("two", "base", False, None)
    assert (fixed(4).double, fixed(one=1, two=(2,)).two) == (8, (2,))


@BOTH
@pytest.mark.parametrize(("args", "named"), [((), {}), ((1, "", [], 2), {}), ((1,), {"one": 1}), ((1,), {"six": 1})])
def test_wrong_arguments_are_a_type_error(of: ModuleType, args: Any, named: Any) -> None:
    with pytest.raises(TypeError):
        classes(of)[0](*args, **named)


@BOTH
def test_comparison_hash_and_text(of: ModuleType) -> None:
    base, more, fixed = classes(of)
    assert base(1) == base(1) != base(2)
    assert base(1) != more(1)
    assert fixed(1) == fixed(1)
    assert len({fixed(1), fixed(1), fixed(2)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(base(1))
    assert repr(base(1)).endswith("Base(one=1, two='two', three=[])")
    assert repr(more(1)) == "its own"


@BOTH
def test_a_frozen_one_stays(of: ModuleType) -> None:
    one = classes(of)[2](1)
    with pytest.raises(AttributeError):
        one.one = 2
    with pytest.raises(AttributeError):
        del one.one
    assert one.one == 1


@pytest.mark.parametrize(("of", "by"), [(ours, ours), (ours, pythons), (pythons, pythons)])
def test_fields_replace_and_asdict(of: ModuleType, by: ModuleType) -> None:
    """The driver and tests use Python's functions on the library's dataclasses."""
    base, more, fixed = classes(of)
    assert [one.name for one in by.fields(more)] == ["one", "two", "three", "four"]
    assert [(one.name, one.type) for one in by.fields(base(1))] == [
        ("one", "int"),
        ("two", "str"),
        ("three", "list[Any]"),
    ]
    assert by.replace(base(1, "a"), one=3) == base(3, "a")
    assert by.replace(fixed(1, (2,)), one=3) == fixed(3, (2,))
    assert by.is_dataclass(more) and by.is_dataclass(more(1)) and not by.is_dataclass(Pair)
    shared = [1]
    whole = base(1, three=[fixed(Pair(1, shared), (1, 2)), {"a": base(2)}])
    found = by.asdict(whole)
    inner = {"one": Pair(1, [1]), "two": (1, 2)}
    assert found == {"one": 1, "two": "two", "three": [inner, {"a": {"one": 2, "two": "two", "three": []}}]}
    assert type(found["three"][0]["one"]) is Pair and found["three"][0]["one"].right is not shared


@BOTH
def test_post_init_runs_last_also_inherited_and_by_replace(of: ModuleType) -> None:
    @of.dataclass(frozen=True)
    class Base:
        one: int = 1
        two: int = 2

        def __post_init__(self) -> None:
            if self.one > 1:
                object.__setattr__(self, "two", self.one + 1)

    @of.dataclass(frozen=True)
    class More(Base):
        one: int
        three: int = 3

    base: Any = Base
    more: Any = More
    assert (base().two, base(5).two, more().one, more(7).two, more(7, three=1).three) == (2, 6, 1, 8, 1)
    assert of.replace(base(), one=8).two == 9


def test_metadata_of_a_field() -> None:
    assert {one.name: bool(one.metadata) for one in ours.fields(classes(ours)[1])}["four"]


def test_the_library_starts_without_pythons_dataclasses() -> None:
    """They load ``inspect``, and compile every class anew in each process."""
    library = "ansible_collections.evenkeel.fault_tolerance.plugins.module_utils"
    text = f"""import sys
sys.path.insert(0, {str(COLLECTIONS)!r})
import {library}._direct, {library}._flows.checkpoint, {library}._flows.rollback.flow, {library}._flows.settle
from {library} import _dataclasses as ours
class Outer:
    inner: list
Outer.__annotations__["inner"] = "list"
ours.asdict(ours.dataclass(Outer)([ours.dataclass(type("Inner", (), {{"__annotations__": {{"one": "int"}}}}))(1)]))
print(*sorted({{"dataclasses", "inspect"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_pythons_form_of_the_fields_is_made_once_for_a_class() -> None:
    base, more, _fixed = classes(ours)
    assert base.__dataclass_fields__ is base.__dataclass_fields__
    assert list(base.__dataclass_fields__) == ["one", "two", "three"]
    assert list(more.__dataclass_fields__) == ["one", "two", "three", "four"]
