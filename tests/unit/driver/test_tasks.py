# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tasks that a choice leaves of a playbook: none at all, none on a host, or others than were meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.ansible import plays, tasks
from evenkeel.outcome import UsageError

LISTED = """
playbook: site.yml

  play #1 (web): Web\tTAGS: [deploy]
    pattern: ['web']
    hosts (2):
      web1
      web2
    tasks:
      nginx : Install\tTAGS: [deploy, nginx]
      Ever\tTAGS: [always, deploy]

  play #2 (db): Base\tTAGS: []
    pattern: ['db']
    hosts (1):
      db1
    tasks:
      ansible.builtin.include_tasks\tTAGS: []
"""
NOTHING = """
  play #1 (web): Web\tTAGS: [deploy]
    hosts (1):
      web1
    tasks:
"""
FOUND = tasks.parse(LISTED)


def judged(text: str, *words: str, unlisted: str = "") -> str:
    try:
        found = tasks.judge("site.yml", words, tasks.parse(text), unlisted)
        found.starts_in([["web1", "web2"], ["db1"]], ["localhost"])
        return " ".join(found.notes)
    except UsageError as error:
        return f"refused: {error}"


def test_the_list_of_ansible_is_read() -> None:
    assert [play.hosts for play in FOUND] == [{"web1", "web2"}, {"db1"}]
    assert FOUND[0].tasks == [("nginx : Install", {"deploy", "nginx"}), ("Ever", {"always", "deploy"})]
    assert FOUND[1].tasks == [("ansible.builtin.include_tasks", set())]


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        (NOTHING, ["--tags=ngnix"], "refused: no task of site.yml is left by --tags=ngnix"),
        (NOTHING, ["--tags=all", "--skip-tags=deploy"], "refused: no task of site.yml is left by --tags=all --skip"),
        (LISTED, ["--tags=nginx"], ""),
        (LISTED, ["--tags=tagged,always"], ""),
        (LISTED, ["--skip-tags=slow"], ""),
        (LISTED, ["--tags=nginx,phpp"], "--tags phpp: no task that Ansible lists has this tag; "),
        (LISTED, ["--tags=phpp"], "has this tag, and only tasks are left that run whatever --tags says; "),
    ],
)
def test_tags_that_leave_no_task_are_refused_and_tags_that_no_task_has_are_named(
    text: str, words: list[str], said: str
) -> None:
    assert said in judged(text, *words) if said else judged(text, *words) == ""


def test_a_tag_that_only_a_task_of_a_section_has_that_is_not_listed_is_no_typo(tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text("- hosts: web\n  tasks:\n  - block: []\n    always:\n    - {tags: cleanup}\n")
    (tmp_path / "roles").mkdir()
    (tmp_path / "roles" / "main.yml").write_text("- debug:\n  tags: other\n")
    unlisted = plays.unlisted(tmp_path / "site.yml")
    assert "cleanup" in judged(NOTHING, "--tags=cleanup", unlisted=unlisted)
    assert "refused" in judged(NOTHING, "--tags=other", unlisted=unlisted)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("Nowhere", "refused: --start-at-task 'Nowhere': site.yml has no task of this name"),
        ("Now*", ""),
        ("Install", "refused: --start-at-task 'Install': no play with this task comes to db1 (wave 2)"),
        ("nginx : I*", "comes to db1"),
    ],
)
def test_a_task_to_start_at_that_a_wave_would_not_find_is_refused(start: str, said: str) -> None:
    told = judged(LISTED, f"--start-at-task={start}")
    assert said in told if said else told == ""
    both = judged(LISTED.replace("web2", "db1"), f"--start-at-task={start}")  # or one wave of both
    assert "comes to" not in both
    assert "comes to" not in judged(LISTED.replace("web2", "localhost"), f"--start-at-task={start}"), "in each wave"
