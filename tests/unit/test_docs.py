# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages that no tool writes agree with the files that they describe. ``make docs`` checks their links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
NAME = re.compile(r"\bevenkeel_\w+")
ROLE = re.compile(r"name: evenkeel\.fault_tolerance\.(\w+)")


def sections() -> dict[str, str]:
    """heading -> text of docs/playbooks.md."""
    parts = re.split(r"^## (\w+)$", (ROOT / "docs/playbooks.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_page_has_a_section_for_each_playbook() -> None:
    assert sorted(sections()) == [path.stem for path in PLAYBOOKS]
    table = (ROOT / "docs/playbooks.md").read_text().partition("\n## ")[0]
    assert {path.stem for path in PLAYBOOKS} == set(re.findall(r"\]\(#(\w+)\)", table))


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.stem)
def test_a_section_has_the_variables_and_roles_of_its_playbook(path: Path) -> None:
    text = path.read_text()
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    roles = set(ROLE.findall(code))
    section = sections()[path.stem]
    rows = [line.partition("|")[2].partition("|")[0] for line in section.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in NAME.findall(row)}
    of_roles: set[str] = set()
    for role in roles:
        specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())
        of_roles |= set(specs["argument_specs"]["main"]["options"])
    assert set(NAME.findall(code)) <= listed, "a variable is missing in docs/playbooks.md"
    assert listed <= set(NAME.findall(code)) | of_roles, "docs/playbooks.md lists a variable that is not there"
    assert roles == set(re.findall(r"\(\.\./roles/(\w+)/README\.md\)", section))


def test_the_execution_environment_names_files_that_are_there() -> None:
    """As ansible-builder reads them out of an installed collection."""
    described = yaml.safe_load((ROOT / "meta/execution-environment.yml").read_text())
    assert described["version"] == 1 and set(described["dependencies"]) == {"python", "system"}
    ignored = yaml.safe_load((ROOT / "galaxy.yml").read_text())["build_ignore"]
    for name in described["dependencies"].values():
        assert (ROOT / name).is_file() and name.partition("/")[0] not in ignored
    lines = (ROOT / described["dependencies"]["system"]).read_text().splitlines()
    wanted = [line for line in lines if not line.startswith("#")]
    assert wanted and all(re.fullmatch(r"[a-z0-9.+-]+ \[platform:(dpkg|rpm)\]", line) for line in wanted)
    python = (ROOT / described["dependencies"]["python"]).read_text().splitlines()
    assert all(line.startswith("#") for line in python), "docs/execution-environment.md says that nothing is needed"
