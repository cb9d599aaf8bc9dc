# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook around the user's playbook: it imports that, and then a play of ours shows which hosts reached its end.

Ansible itself decides which hosts go on after a failure, with ``any_errors_fatal``, ``serial``, handlers, ``meta`` and
every strategy. So the verdict does not follow from results: a host that Ansible has given up does not reach the last
play.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence


def wrapped(playbook: str, hosts: Sequence[str], mark: str, tags: Sequence[str]) -> str:
    """The text of the playbook (JSON is YAML): ``playbook``, an absolute path or a name of a collection, then our play.

    Our task runs on the controller and needs no connection; nobody else may use its name ``mark``.
    """
    ours = {
        "name": mark,
        "hosts": list(hosts),
        "gather_facts": False,
        "any_errors_fatal": False,
        "strategy": "ansible.builtin.linear",
        # The variables of a connection are templated even without a connection, and may need the user's play.
        "vars": {"ansible_connection": "local", "ansible_become": False},
        "tasks": [{"name": mark, "ansible.builtin.debug": {"msg": ""}, "tags": list(tags)}],
    }
    return json.dumps([{"import_playbook": playbook}, ours])


def tags_that_run(run: Collection[str], skip: Collection[str]) -> list[str] | None:
    """Tags with which a task runs under ``--tags`` and ``--skip-tags``; None when no task at all would run."""
    run = run or {"all"}
    for tags in (["always"], [], ["evenkeel"], *([tag] for tag in sorted(run))):
        if _runs(set(tags) or {"untagged"}, set(run), set(skip)):
            return tags
    return None


def _runs(tags: set[str], run: set[str], skip: set[str]) -> bool:
    """Whether Ansible runs a task with these tags (ansible.playbook.taggable)."""
    tagged = tags != {"untagged"}
    wanted = "always" in tags or bool(tags & run)
    if "never" not in tags:
        wanted = wanted or "all" in run or ("tagged" in run and tagged)
    if "all" in skip:
        return wanted and "always" in tags and "always" not in skip
    return wanted and not tags & skip and not ("tagged" in skip and tagged)
