# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tasks that ``--tags``, ``--skip-tags`` and ``--start-at-task`` leave of a playbook, as Ansible lists them.

A misspelt tag leaves nothing, and a change of nothing would be confirmed on every host. Ansible does not list tasks
that another task includes, nor those of a rescue or always section.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from evenkeel.ansible import plays
from evenkeel.ansible.asking import program
from evenkeel.ansible.configuration import Ansible, listing
from evenkeel.ansible.options import Options, Secrets
from evenkeel.ansible.targets import without_prompts
from evenkeel.outcome import UsageError, some_of

_TAGS, _SKIP, _START = "--tags", "--skip-tags", "--start-at-task"
# Tags that no task needs to have.
_SPECIAL = {"all", "always", "never", "tagged", "untagged"}


@dataclass(frozen=True)
class Play:
    """A play of the list. tasks: the name and the tags of each."""

    hosts: set[str] = field(default_factory=set)
    tasks: list[tuple[str, set[str]]] = field(default_factory=list)


@dataclass(frozen=True)
class Chosen:
    """The choice. start: the task to start at, and starts: the hosts of the plays that have it. Both are empty without
    such a task, or where Ansible may find it without listing it. notes: sentences for a person."""

    start: str = ""
    starts: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def starts_in(self, waves: Sequence[Sequence[str]], local: Sequence[str]) -> None:
        """Raises UsageError for a wave in which Ansible would not come to the task to start at. local: the names of the
        controller, whose plays run in each wave."""
        for number, wave in enumerate(waves, 1):
            if self.starts and not self.starts & {*wave, *local}:
                raise UsageError(
                    f"--start-at-task {self.start!r}: no play with this task comes to {some_of(wave)} (wave {number}),"
                    " so that Ansible would find no task there: choose hosts of that play with --limit, or other waves"
                )


def check(playbook: str, options: Options, ansible: Ansible, secrets: Secrets) -> Chosen:
    """The tasks that these options leave. Raises UsageError where there is none."""
    words = [word for word in options.users if word.partition("=")[0] in (_TAGS, _SKIP, _START)]
    if not words:
        return Chosen()
    argv = [program("ansible-playbook"), "--list-hosts", "--list-tasks", *options.inventories(), *words]
    argv += [*without_prompts(options.listing), *(["--limit", options.limit] if options.limit else []), playbook]
    text = listing(argv, ansible, ansible.environment(), secrets.vault).stdout
    return judge(playbook, words, parse(text), plays.unlisted(Path(os.path.join(ansible.cwd, playbook))))


def parse(text: str) -> list[Play]:
    """Read the output of ``ansible-playbook --list-hosts --list-tasks``."""
    found: list[Play] = []
    tasks = False
    for line in text.splitlines():
        entry = re.fullmatch(r"      (\S.*?)(?:\tTAGS: \[(.*)\])?", line)
        if re.match(r"  play #\d+ ", line):
            found.append(Play())
        elif line.startswith("    ") and not entry:
            tasks = line.startswith("    tasks:")
        elif found and entry and tasks:
            found[-1].tasks.append((entry[1], set(filter(None, (entry[2] or "").split(", ")))))
        elif found and entry:
            found[-1].hosts.add(entry[1].strip())
    return found


def judge(playbook: str, words: Sequence[str], found: Sequence[Play], unlisted: str) -> Chosen:
    """The same as ``check``. words: the options that choose tasks. unlisted: the text in which a task may stand that
    Ansible does not list."""
    said = {flag: [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")] for flag in (_TAGS, _START)}
    wanted = {tag.strip() for word in said[_TAGS] for tag in word.split(",")} - _SPECIAL - {""}
    tags = [tags for play in found for _name, tags in play.tasks]
    missing = sorted(wanted.difference(*tags))
    if not tags and not any(tag in unlisted for tag in wanted):
        raise UsageError(f"no task of {playbook} is left by {' '.join(words)}: look at ansible-playbook --list-tags")
    rest = (
        ""
        if not tags or any(own & wanted for own in tags)
        else ", and only tasks are left that run whatever --tags says"
    )
    which = "this tag" if len(missing) == 1 else "these tags"
    note = f"--tags {','.join(missing)}: no task that Ansible lists has {which}{rest}; included tasks are not listed"
    start = (said[_START] or [""])[-1]
    here = [play for play in found if start and any(_is(name, start) for name, _tags in play.tasks)]
    if start and not here and start not in unlisted and not re.search(r"[*?[]", start):
        raise UsageError(
            f"--start-at-task {start!r}: {playbook} has no task of this name; Ansible finds none in files that a task"
            " includes"
        )
    return Chosen(start, frozenset().union(*(play.hosts for play in here)), (note,) if missing else ())


def _is(name: str, start: str) -> bool:
    """Whether the task of the list is meant: by its name, or by that with the name of its role before it."""
    return any(one == start or fnmatch(one, start) for one in (name, name.partition(" : ")[2]) if one)
