# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One thing has one name and one default in modules, roles, variables and playbooks."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from evenkeel.changes.request import DEFAULT_CONFIRM_WITHIN, DEFAULT_WAVES
from evenkeel.collection import make_importable
from evenkeel.commands.change import Change
from evenkeel.commands.fleet import FleetCommand
from evenkeel.commands.registry import playbooks

PLAYBOOKS = playbooks()

make_importable()

ROOT = Path(__file__).parents[2]
OURS = "evenkeel.fault_tolerance."
PLUGINS = f"ansible_collections.{OURS}plugins"
VARIABLES = import_module(f"{PLUGINS}.plugin_utils._variables")
ERRORS = import_module(f"{PLUGINS}.module_utils._errors")
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
# Where a word of the module says less than a variable has to: module, option -> variable.
LONGER = {
    **{
        ("ft_address", name): f"evenkeel_virtual_{name}"
        for name in ("addresses", "interface", "router_id", "witnesses")
    },
    **{(module, "timeout"): "evenkeel_copy_timeout" for module in ("ft_heal", "ft_recover", "ft_replicate")},
    ("ft_heal", "time_limit"): "evenkeel_scrub_time_limit",
    ("ft_recover", "host"): "evenkeel_recover_host",
    ("ft_recover", "min_copies"): "evenkeel_recover_min_copies",
    ("ft_recover", "onto"): "evenkeel_spares",
    ("ft_replicate", "host"): "evenkeel_recover_host",
    ("ft_restart", "name"): "evenkeel_service",
    ("ft_restart", "rollback_to"): "evenkeel_checkpoint",
    ("ft_roll", "name"): "evenkeel_service",
    ("ft_scrub", "time_limit"): "evenkeel_scrub_time_limit",
    ("ft_scrub", "share"): "evenkeel_scrub_share",
    ("ft_settle", "generation"): "evenkeel_generations",
}
# Where an option of the command line says less than its variable.
WORDS = {"host": "recover_host", "time_limit": "scrub_time_limit", "share": "scrub_share"}
# Read by the action plugins, for every host its own.
BY_ACTIONS = {"evenkeel_address", "evenkeel_encryption_key", "evenkeel_key", "evenkeel_probes"}
_USE = re.compile(r"\b(evenkeel_\w+)(?: \| default\(([^()]*)\))?")


def options_of(role: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())
    options: dict[str, Any] = found["argument_specs"]["main"]["options"]
    return options


def text_of(role: str) -> str:
    return "".join(path.read_text() for name in ("tasks", "vars") for path in (ROOT / "roles" / role / name).glob("*"))


def tasks_of(entries: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(module of ours, its arguments) of all tasks, those of blocks and plays among them."""
    for entry in entries:
        for key in ("tasks", "block", "rescue", "always"):
            yield from tasks_of(entry.get(key) or [])
        for key, value in entry.items():
            if key.startswith(f"{OURS}ft_"):
                yield key.removeprefix(OURS), value


def uses() -> Iterator[tuple[str, str, str, str]]:
    """(role or empty, module, option, its template) wherever a variable of ours goes into an option."""
    for path in sorted([*(ROOT / "roles").glob("*/tasks/*.yml"), *(ROOT / "playbooks").glob("*.yml")]):
        role = path.parts[-3] if path.parent.name == "tasks" else ""
        for module, arguments in tasks_of(yaml.safe_load(path.read_text())):
            for option, value in arguments.items():
                if "evenkeel_" in str(value) and isinstance(value, str):
                    yield role, module, option, value


def test_the_known_variables_are_those_of_roles_and_playbooks() -> None:
    of_roles = {name for role in ROLES for name in options_of(role)}
    of_books = {
        name for path in (ROOT / "playbooks").glob("*.yml") for name in re.findall(r"evenkeel_\w+", path.read_text())
    }
    assert (of_roles | of_books) - VARIABLES.DRIVERS - set(VARIABLES.OLD) | VARIABLES.OF_THE_DRIVER == VARIABLES.KNOWN
    driver = "".join(path.read_text() for path in (ROOT / "src/evenkeel/changes").glob("*.py"))
    assert all(re.search(rf'"{name.removeprefix("evenkeel_")}"', driver) for name in VARIABLES.OF_THE_DRIVER)
    assert set(VARIABLES.OLD.values()) <= VARIABLES.KNOWN


def test_a_variable_has_the_name_of_the_option_that_it_sets() -> None:
    for role, module, option, value in uses():
        variable = LONGER.get((module, option), f"evenkeel_{option}")
        assert re.search(rf"\b{variable}\b", value), f"{role or 'a playbook'}: {module} takes {option} from {value}"


@pytest.mark.parametrize("role", ROLES)
def test_every_option_of_a_role_is_read_by_it(role: str) -> None:
    text = text_of(role)
    if role == "change":  # It imports them.
        text += text_of("begin") + text_of("settle")
    unread = {name for name in options_of(role) if not re.search(rf"\b{name}\b", text)} - BY_ACTIONS
    assert not unread
    undeclared = set(re.findall(r"\bevenkeel_(?!archive_wal)\w*[a-z]\b", text)) - set(options_of(role))
    assert role == "change" or undeclared <= {"evenkeel_group", "evenkeel_fleet"}


@pytest.mark.parametrize("module", sorted(path.stem for path in (ROOT / "plugins/modules").glob("ft_*.py")))
def test_every_option_of_a_module_is_read(module: str) -> None:
    sources = [ROOT / f"plugins/modules/{module}.py", ROOT / f"plugins/action/{module}.py"]
    sources += [ROOT / "plugins/plugin_utils/_evidence.py"]
    sources += (ROOT / "plugins/module_utils/_calls").glob(f"{module.removeprefix('ft_')}.py")
    sources += [ROOT / "plugins/module_utils" / name for name in ("_flows/exchange.py", "_health/wait.py")]
    text = "".join(path.read_text() for path in sources if path.is_file())
    found = import_module(f"{PLUGINS}.modules.{module}")
    assert {name for name in found.ARGUMENTS if not re.search(rf'"{name}"(?!:)', text)} == set()


@pytest.mark.parametrize("role", ROLES)
def test_a_default_that_a_role_sets_is_that_of_its_argument_specs(role: str) -> None:
    options = options_of(role)
    for variable, default in _USE.findall(text_of(role)):
        if re.fullmatch(r"'[^'~]*'|\{'.*\}|false|\d+", default):
            literal = yaml.safe_load(default)
            assert options[variable].get("default") == literal, f"{variable}: {default}"


def test_a_default_that_a_module_sets_is_that_of_the_roles_argument_specs() -> None:
    seen = set()
    for role, module, option, value in uses():
        # An old name stands before the name that replaces it, and has no default of its own.
        first = next((found for found in _USE.finditer(value) if found[1] not in VARIABLES.OLD), None)
        if role and first and re.search(r"default\(omit\)", value) and "default('" not in value:
            spec = import_module(f"{PLUGINS}.modules.{module}").ARGUMENTS.get(option, {"default": "/var/lib/evenkeel"})
            assert options_of(role)[first[1]].get("default") == spec.get("default"), f"{role}: {first[1]}"
            seen.add((role, option))
    assert len(seen) > 30


def test_the_role_change_takes_what_the_roles_in_it_take() -> None:
    inner = {**options_of("begin"), **options_of("settle")}
    own = options_of("change")
    handed_over = {"evenkeel_change", "evenkeel_generations", "evenkeel_verdicts"}
    assert {name: own.get(name) for name in inner if name not in handed_over} == {
        name: option for name, option in inner.items() if name not in handed_over
    }


def test_options_of_the_command_line_have_the_names_of_the_variables() -> None:
    commands: list[FleetCommand[Any]] = [*PLAYBOOKS.values(), Change()]
    for command in commands:
        parser = argparse.ArgumentParser()
        command.add_own_arguments(parser)
        for option in parser._actions:
            if option.dest not in ("help", "playbook", "onto", "check", "plan"):
                assert f"evenkeel_{WORDS.get(option.dest, option.dest)}" in VARIABLES.KNOWN, command.name


def test_the_defaults_of_the_command_line_are_those_of_roles_and_playbooks() -> None:
    assert options_of("begin")["evenkeel_confirm_within"]["default"] == DEFAULT_CONFIRM_WITHIN
    targets = import_module("ansible_collections.evenkeel.fault_tolerance.plugins.filter.targets")
    assert targets.DEFAULT_WAVES == DEFAULT_WAVES and "batches(" in (ROOT / "playbooks/change.yml").read_text()
    assert f"| `{DEFAULT_WAVES}` |" in (ROOT / "docs/playbooks.md").read_text()


def spelled(default: object) -> str:
    """A default as people write it."""
    if isinstance(default, list):
        return ",".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else str(default)


def defaults(book: str, variable: str) -> set[str]:
    """The defaults of a variable of a playbook: in its templates, in the role of its name, and in its modules."""
    path = ROOT / "playbooks" / f"{book}.yml"
    chain = rf"\b{variable}\)?(?: \| default\(evenkeel_\w+\))* \| default\(('[^']*'|false|true|\d+)\)"
    literals = re.findall(chain, path.read_text())
    found = {spelled(yaml.safe_load(literal)) for literal in literals}
    if variable == "evenkeel_waves" and "fault_tolerance.batches(" in path.read_text():
        found.add(import_module(f"{PLUGINS}.filter.targets").DEFAULT_WAVES)
    if book in ROLES and (default := options_of(book).get(variable, {}).get("default")) is not None:
        found.add(spelled(default))
    for module, arguments in tasks_of(yaml.safe_load(path.read_text())):
        spec = {**import_module(f"{PLUGINS}.modules.{module}").ARGUMENTS, "store": {"default": "/var/lib/evenkeel"}}
        for option, value in arguments.items():
            if re.search(rf"\b{variable} \| default\(omit", str(value)) and spec[option].get("default") is not None:
                found.add(spelled(spec[option]["default"]))
    return found


def told_in_pages() -> Iterator[tuple[str, str, str]]:
    """(playbook, variable, default) of each default that docs/playbooks.md shows."""
    for section in re.split(r"^## ", (ROOT / "docs/playbooks.md").read_text(), flags=re.MULTILINE)[1:]:
        for row in re.findall(r"^\| (`evenkeel_.*)$", section, re.MULTILINE):
            names, default = row.split(" | ")[0], row.rstrip("| ").rpartition(" | ")[2]
            variables, told = re.findall(r"`(\w+)`", names), re.findall(r"`([^`]+)`", default)
            if told and re.fullmatch(r"`[^`]+`(, `[^`]+`)*", default):
                for number, variable in enumerate(variables):
                    yield section.split()[0].strip(","), variable, told[min(number, len(told) - 1)]


def told_in_help() -> Iterator[tuple[str, str, str]]:
    """(command, variable, default) of each default that the help of the command line tells."""
    commands: list[FleetCommand[Any]] = [*PLAYBOOKS.values(), Change()]
    for command in commands:
        parser = argparse.ArgumentParser()
        command.add_own_arguments(parser)
        for option in parser._actions:
            for told in re.findall(r" \(([\d][^ )]*)\)$|^(\w+) \(the default\)", option.help or ""):
                yield command.name, f"evenkeel_{WORDS.get(option.dest, option.dest)}", "".join(told).replace("%%", "%")


# (playbook, variable): what the page says of hosts, or of a variable that stands for another one.
NO_DEFAULTS = {("heal", "evenkeel_min_copies"), ("heal", "evenkeel_peers"), ("heal", "evenkeel_group")}


def test_the_defaults_in_pages_and_help_are_those_of_playbooks_roles_and_modules() -> None:
    told = {"docs/playbooks.md": [*told_in_pages()], "--help": [*told_in_help()]}
    assert len(told["docs/playbooks.md"]) > 25 and len(told["--help"]) > 8
    wrong = [
        (place, *one, found)
        for place, ones in told.items()
        for one in ones
        if one[:2] not in NO_DEFAULTS and (found := defaults(*one[:2])) != {one[2]}
    ]
    assert wrong == []


def test_every_default_of_a_playbook_stands_in_its_page() -> None:
    told = {one[:2] for one in told_in_pages()}
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        for variable in set(re.findall(r"\b(evenkeel_\w+) \| default\((?:'[^']+'|false|true|\d+)\)", path.read_text())):
            assert (path.stem, variable) in told, variable


def test_arguments_of_roles_are_checked_wherever_playbooks_use_them() -> None:
    for path in (ROOT / "playbooks").glob("*.yml"):
        assert "rolespec_validate: false" not in path.read_text(), path.name
    within = [*(ROOT / "roles").rglob("*.yml"), *(ROOT / "src").rglob("*.py")]
    unchecked = {path.name: places for path in within if (places := unchecked_places(path.read_text()))}
    assert set(unchecked) == {"main.yml", "session.py"}
    assert all(reason.startswith("# Unchecked: the arguments ") for places in unchecked.values() for reason in places)
    told = " ".join((ROOT / "roles/change/README.md").read_text().split())
    assert "The arguments of the roles `begin` and `settle` within are checked once, as those of this role" in told


def unchecked_places(text: str) -> list[str]:
    """The comment before each place that switches the check of a role's arguments off."""
    lines = [line.strip() for line in text.splitlines()]
    found = []
    for number, line in enumerate(lines):
        if "rolespec_validate: false" in line:
            before = lines[max(0, number - 2) : number]
            found.append(next((one for one in before if one.startswith("# Unchecked")), ""))
    return found


def test_the_reasons_that_modules_give_are_documented_in_all_of_them() -> None:
    given = {name for name, one in vars(ERRORS).items() if isinstance(one, type) and issubclass(one, Exception)}
    for path in (ROOT / "plugins/modules").glob("ft_*.py"):
        returned = yaml.safe_load(import_module(f"{PLUGINS}.modules.{path.stem}").RETURN)
        documented = set(re.findall(r"V\((\w+)\)", " ".join(returned["error"]["description"])))
        assert documented == given | {"OSError", "BadAnswer"}, path.stem
        assert [*without_keys(returned)] == [], path.stem


def without_keys(returned: dict[str, Any], outer: str = "") -> Iterator[str]:
    """The mappings whose keys are not documented, at any depth. A key in capitals stands for keys such as hosts."""
    for name, value in returned.items():
        within = value.get("contains") or {}
        if "dict" in (value["type"], value.get("elements")) and not within:
            yield outer + name
        yield from without_keys(within, f"{outer}{name}.")


def test_no_code_of_ours_uses_an_old_name_of_an_option() -> None:
    """Each use gives the user a deprecation warning."""
    old = {
        (module.stem, alias)
        for module in (ROOT / "plugins/modules").glob("ft_*.py")
        for option in getattr(import_module(f"{PLUGINS}.modules.{module.stem}"), "ARGUMENTS", {}).values()
        for alias in option.get("aliases", ())
    }
    old |= {("ft_rollback", "to"), ("ft_rollback", "resources")}  # Its options stand with its call.
    assert ("ft_guard", "failure_domain") in old
    found = [
        (path.name, node.args[0].value, keyword.arg)
        for room in ("action", "plugin_utils")
        for path in (ROOT / "plugins" / room).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "module"
        for keyword in node.keywords
        if node.args and isinstance(node.args[0], ast.Constant) and (node.args[0].value, keyword.arg) in old
    ]
    assert found == []
