# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for the repository as a whole and that no single file shows."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import evenkeel
from evenkeel.collection import collections_path
from evenkeel.commands.registry import NAMES

ROOT = Path(__file__).parents[2]
INSIDE = Path("ansible_collections/evenkeel/fault_tolerance")
# All of it but the one place where it meets Ansible.
LIBRARY = sorted(set((ROOT / "plugins/module_utils").rglob("*.py")) - {ROOT / "plugins/module_utils/_adapter.py"})
# What a newer standard library has and Python 3.9 on a host has not.
TOO_NEW = {"tomllib"}


def test_the_wheel_and_the_collection_have_one_version() -> None:
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    assert galaxy["version"] == evenkeel.__version__


def test_the_action_group_names_every_module() -> None:
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())
    modules = {path.stem for path in (ROOT / "plugins/modules").glob("ft_*.py")}
    assert set(runtime["action_groups"]["evenkeel"]) == modules


def test_the_wheel_carries_every_room_of_the_collection_that_ansible_reads() -> None:
    hook = ast.parse((ROOT / "hatch_build.py").read_text())
    carried = next(
        ast.literal_eval(node.value)
        for node in hook.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COLLECTION"
    )
    rooms = {"meta", "plugins", "roles", "playbooks"}
    assert {room for room in rooms if (ROOT / room).exists()} <= set(carried)


def test_the_wheel_carries_every_page_to_which_it_refers() -> None:
    hook = ast.parse((ROOT / "hatch_build.py").read_text())
    patterns = next(
        ast.literal_eval(node.value)
        for node in hook.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PAGES"
    )
    carried = {str(page.relative_to(ROOT)) for pattern in patterns for page in ROOT.glob(pattern)}
    code = [path for room in ("src", "plugins") for path in (ROOT / room).rglob("*.py")]
    told = {
        page
        for path in [*code, ROOT / "README.md"]
        for page in re.findall(r"\bdocs/[a-z/-]+\.(?:md|yml)", path.read_text())
    }
    assert "docs/reliability.md" in told and told <= carried


def test_the_archive_of_the_collection_leaves_out_every_room_that_is_none_of_it() -> None:
    ignored = set(yaml.safe_load((ROOT / "galaxy.yml").read_text())["build_ignore"])
    rooms = [path for path in (ROOT / "tests").iterdir() if path.name not in ("config.yml", "__pycache__")]
    programs = [*rooms, *(ROOT / "docs").glob("*.py")]
    assert {str(path.relative_to(ROOT)) for path in programs} <= ignored


def test_requirements_pin_what_the_driver_declares() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pinned = {line.split("==")[0] for line in (ROOT / "requirements/runtime.txt").read_text().splitlines()}
    assert {name.split(">=")[0] for name in declared} <= pinned


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_the_library_needs_the_standard_library_alone(path: Path) -> None:
    """The dead-man's agent runs it on the host, where there is no Ansible."""
    assert set(_foreign(ast.parse(path.read_text()))) == set()


def _foreign(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for top in (name.split(".")[0] for name in names):
            if top not in sys.stdlib_module_names or top in TOO_NEW:
                yield top


# Ansible, rich, argparse and urllib call these by their names.
CALLED_FROM_OUTSIDE = {
    "filters",
    "on_broken_pipe",
    "redirect_request",
    "send_callback",
    "writable",
    "readinto",
    "ActionModule",
    "CallbackModule",
    "FilterModule",
    "ModuleDocFragment",
    *map(str.capitalize, NAMES),  # the classes of the commands
}


def test_whatever_is_defined_is_used_outside_of_tests() -> None:
    defined: set[str] = set()
    used: set[str] = set()
    for path in (*(ROOT / "plugins").rglob("*.py"), *(ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                defined.add(node.name)
            elif isinstance(node, ast.Name):
                used.add(node.id)
            elif isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.ImportFrom):
                used.update(alias.name for alias in node.names)
    unused = {name for name in defined - used if not name.startswith(("__", "v2_"))}
    assert unused <= CALLED_FROM_OUTSIDE, unused - CALLED_FROM_OUTSIDE


@pytest.mark.parametrize("path", [*LIBRARY, ROOT / "plugins/module_utils/_adapter.py"], ids=lambda path: path.stem)
def test_what_is_sent_to_hosts_names_its_licence_in_one_line(path: Path) -> None:
    """A module call packs a hundred files, each compressed by itself: the full notice would be a thirtieth of it."""
    lines = path.read_text().splitlines()
    if path.name != "__init__.py":
        mended = "find plugins/module_utils -name '*.py' -exec sed -i '1,2{/^# Copyright/d;/^# GNU General/d}' {} +"
        assert lines[0] == "# SPDX-License-Identifier: GPL-3.0-or-later", mended


def test_a_wheel_is_found_by_what_it_carries(tmp_path: Path) -> None:
    (tmp_path / "collections" / INSIDE).mkdir(parents=True)
    assert collections_path(tmp_path) == tmp_path / "collections"


def test_a_checkout_links_itself(tmp_path: Path) -> None:
    (tmp_path / "galaxy.yml").touch()
    for _ in range(2):  # the second time the link is there
        found = collections_path(tmp_path / "src" / "evenkeel")
        assert (found / INSIDE / "galaxy.yml").samefile(tmp_path / "galaxy.yml")


def test_an_installation_without_its_collection_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="reinstall evenkeel"):
        collections_path(tmp_path / "src" / "evenkeel")


def test_files_whose_tests_share_something_costly_stay_in_one_process() -> None:
    conftest = ast.parse((ROOT / "tests/integration/conftest.py").read_text())
    values = {ast.unparse(node.targets[0]): node.value for node in conftest.body if isinstance(node, ast.Assign)}
    files = [*(ROOT / "tests/lab").glob("test_*.py"), *(ROOT / "tests/integration").glob("test_*.py")]
    sharing = {file.name for file in files if 'scope="module"' in file.read_text()}
    # What the tests of AWX share is built within seconds.
    assert set(ast.literal_eval(values["TOGETHER"])) == sharing - {"test_awx.py"}
