# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options are the same in what modules take, what their documentation says, and what roles take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
import yaml

from evenkeel.collection import make_importable

make_importable()

ROOT = Path(__file__).parents[2]
COLLECTION = "ansible_collections.evenkeel.fault_tolerance.plugins"
MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("ft_*.py"))
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
_FACTS = ("type", "elements", "required", "default", "choices")


def _script() -> Any:
    loader = SourceFileLoader("options", str(ROOT / ".ci/options"))
    spec = spec_from_loader("options", loader)
    assert spec is not None
    script = module_from_spec(spec)
    loader.exec_module(script)
    return script


SCRIPT = _script()


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    found: dict[str, Any] = SCRIPT.documentation()
    return found


def arguments(module: str) -> dict[str, Any]:
    found = import_module(f"{COLLECTION}.modules.{module}")
    adapter = import_module(f"{COLLECTION}.module_utils._answering")
    phase = getattr(found, "PHASE", {})
    return {**getattr(found, "ARGUMENTS", {}), **phase, "store": adapter.STORE}


def facts(options: Mapping[str, Any], inner: str) -> dict[str, Any]:
    """Name, dotted, of every option at any depth -> its facts. inner: the key of what a mapping takes."""
    found = {}
    for name, option in options.items():
        defaults = {"type": "str", "required": False}
        found[name] = {key: option.get(key, defaults.get(key)) for key in _FACTS}
        for deeper, fact in facts(option.get(inner) or {}, inner).items():
            found[f"{name}.{deeper}"] = fact
    return found


def leaves(options: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, option in options.items():
        if option.get("suboptions"):
            yield from leaves(option["suboptions"], f"{where}{name}.")
        elif where:
            yield where + name, option


@pytest.mark.parametrize("module", MODULES)
def test_what_a_module_takes_is_what_its_documentation_says(module: str, documented: dict[str, Any]) -> None:
    assert facts(arguments(module), "options") == facts(documented[module], "suboptions")


@pytest.mark.parametrize("module", MODULES)
def test_every_key_of_a_declaration_is_documented_with_an_example(module: str, documented: dict[str, Any]) -> None:
    without = [name for name, option in leaves(documented[module]) if "For example" not in str(option["description"])]
    assert not without


def test_the_documentation_shows_every_kind_and_every_probe(documented: dict[str, Any]) -> None:
    registry = import_module(f"{COLLECTION}.module_utils._resources.registry")
    assert set(documented["ft_checkpoint"]["resources"]["suboptions"]) == set(registry.KINDS)
    for kind, one in registry.KINDS.items():
        documented_keys = documented["ft_checkpoint"]["resources"]["suboptions"][kind].get("suboptions") or {}
        assert set(documented_keys) == set(one.options)


@pytest.mark.parametrize(("path", "text"), SCRIPT.of_kinds().items(), ids=lambda value: getattr(value, "name", ""))
def test_what_follows_from_the_files_of_the_kinds_is_up_to_date(path: Path, text: str) -> None:
    assert path.read_text() == text, "run make options"


class Declared:
    """A kind of the test.

    It has two paragraphs.

    names: Names of it. For example V(a).

    outer: A mapping.

    outer.inner: A key of that mapping.

    It has two as well.
    """

    name = "declared"
    since = "0.3.0"
    options: dict[str, dict[str, Any]] = {
        "names": {"type": "list", "elements": "str", "required": True},
        "outer": {"type": "dict", "options": {"inner": {"type": "int", "default": 3}}},
    }


def test_the_docstring_of_a_kind_is_the_documentation_of_its_options() -> None:
    found = SCRIPT.documented_resources([Declared])["options"]["resources"]["suboptions"]
    inner = {"description": ["A key of that mapping.", "It has two as well."], "type": "int", "default": 3}
    assert found == {
        "declared": {
            "description": ["A kind of the test.", "It has two paragraphs."],
            "type": "dict",
            "version_added": "0.3.0",
            "suboptions": {
                "names": {"description": ["Names of it. For example V(a)."], **Declared.options["names"]},
                "outer": {"description": ["A mapping."], "type": "dict", "suboptions": {"inner": inner}},
            },
        }
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": {}, "outer": {}, "outer.inner": {}, "more": {}}, "Declared: no paragraph .* begins with more:"),
        ({"names": {}, "outer": {}}, "Declared: .* outer.inner, which is no option"),
    ],
)
def test_an_option_without_a_paragraph_is_refused_and_the_reverse(options: dict[str, Any], message: str) -> None:
    kind = type("Declared", (Declared,), {"options": options, "__doc__": Declared.__doc__})
    with pytest.raises(SystemExit, match=message):
        SCRIPT.documented_resources([kind])


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_takes_is_what_the_modules_take(role: str, documented: dict[str, Any]) -> None:
    text = (ROOT / "roles" / role / "meta/argument_specs.yml").read_text()
    assert text == SCRIPT.rewritten(text, SCRIPT.variables(documented)), "run make options"
    options = yaml.safe_load(text)["argument_specs"]["main"]["options"]
    for variable, (module, option) in SCRIPT.DOCUMENTED.items():
        if variable in options:
            spec = arguments(module)[option]
            assert facts(options[variable]["options"], "options") == facts(spec["options"], "options")
            for rule in ("mutually_exclusive", "required_one_of"):
                assert options[variable].get(rule) == spec.get(rule)
    declarations = {"list", "dict"}
    open_ended = [
        name
        for name, option in options.items()
        if option["type"] in declarations and option.get("elements", "dict") == "dict" and "options" not in option
    ]
    assert set(open_ended) <= {"evenkeel_generations", "evenkeel_verdicts"}
