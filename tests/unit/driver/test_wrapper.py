# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The play that ends the user's playbook runs whatever tags they chose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, combinations

from ansible.playbook.taggable import Taggable

from evenkeel.ansible.options import Options
from evenkeel.ansible.wrapper import tags_that_run, wrapped

NAMES = ("all", "always", "never", "tagged", "untagged", "x", "y")


class Tagged(Taggable):
    """A task as far as its tags go."""

    def __init__(self, tags: tuple[str, ...]) -> None:
        self.tags, self._loader = list(tags), None

    def _get_all_taggable_objects(self) -> list[object]:
        return []


def runs(tags: tuple[str, ...], run: tuple[str, ...], skip: tuple[str, ...]) -> bool:
    """What Ansible itself says."""
    return bool(Tagged(tags).evaluate_tags(set(run) or {"all"}, set(skip), {}))


def some(most: int, names: tuple[str, ...] = NAMES) -> Iterator[tuple[str, ...]]:
    return chain.from_iterable(combinations(names, number) for number in range(most + 1))


def test_a_tag_is_found_wherever_ansible_would_run_any_task_at_all() -> None:
    for run in some(2):
        for skip in some(3):
            found = tags_that_run(run, skip)
            if found is not None:
                assert runs(tuple(found), run, skip), (run, skip, found)
            else:
                any_task = [tags for tags in some(2, ("always", "never", "x", "y")) if runs(tags, run, skip)]
                assert not any_task, (run, skip, any_task)


def test_tags_come_from_the_command_line_and_the_configuration() -> None:
    options = Options(users=("--tags=a,b", "--skip-tags=always"))
    assert options.tags({}) == ["a"]
    assert Options(users=("--tags=a",)).tags({"TAGS_SKIP": ["always", "a"]}) is None
    assert Options().tags({"TAGS_RUN": [], "TAGS_SKIP": []}) == ["always"]


def test_the_users_playbook_comes_first_and_unmodified() -> None:
    theirs, ours = json.loads(wrapped("/a b/site.yml", ["web1"], "mark", ["always"]))
    assert theirs == {"import_playbook": "/a b/site.yml"}
    assert ours["hosts"] == ["web1"] and ours["gather_facts"] is False
    assert [task["name"] for task in ours["tasks"]] == ["mark"]
    # Nothing that the user's configuration says of all plays and tasks decides who comes to ours.
    assert ours["any_errors_fatal"] is False and ours["strategy"].endswith(".linear")
    assert [task["tags"] for task in ours["tasks"]] == [["always"]]
