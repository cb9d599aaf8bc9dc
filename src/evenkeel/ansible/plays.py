# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A playbook read before it runs: whether it gathers facts, and for which variables it would ask.

Ansible lists hosts and tasks beforehand, but not these two. A playbook that cannot be read here (a playbook of a
collection, an encrypted file, an import whose name is a template) is left to the run.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenkeel.ansible.targets import LOCAL
from evenkeel.outcome import UsageError
from evenkeel.shared import KNOWN

if TYPE_CHECKING:
    import yaml

_IMPORT = ("import_playbook", "ansible.builtin.import_playbook", "ansible.legacy.import_playbook")
# The roles and modules of this collection, wherever they stand in a play.
_OURS = "evenkeel.fault_tolerance."
_GATHERS = ("setup", "gather_facts")
_SETUP = re.compile(r"^[ -]*(ansible\.(builtin|legacy)\.)?(setup|(?<=\.)gather_facts)\s*:", re.MULTILINE)
_SECTION = re.compile(r"^[ -]*(rescue|always)\s*:|\b(rescue|always): *\[", re.MULTILINE)
_BLOCKS = ("pre_tasks", "tasks", "post_tasks", "handlers", "block", "rescue", "always")


@dataclass(frozen=True)
class Prompt:
    """A variable for which a play asks at the terminal. private: the answer is not shown."""

    name: str
    private: bool


def plays(path: Path, seen: frozenset[Path] = frozenset()) -> Iterator[Mapping[str, Any]]:
    """The plays of the playbook, including the plays that it imports."""
    if path in seen:
        return
    for entry in _list(_read(path)):
        if not isinstance(entry, dict):
            continue
        imported = next((str(entry[key]) for key in _IMPORT if key in entry), "")
        if not imported:
            yield entry
        elif "{{" not in imported:
            for play in plays(path.parent / imported, seen | {path}):
                yield {**play, "vars": {**_dict(entry.get("vars")), **_dict(play.get("vars"))}}


def gathers(path: Path, gathering: str) -> bool:
    """Whether a play gathers facts, or a task of it, of a role or of a file beside it.

    gathering: the setting, which decides where a play does not.
    """

    def play_gathers(play: Mapping[str, Any]) -> bool:
        said = play.get("gather_facts", gathering != "explicit")
        return str(said).lower() not in ("false", "no", "off", "0", "none") or any(map(_gathers, _tasks(play)))

    found = list(plays(path))
    if not found:
        return gathering != "explicit"
    return any(map(play_gathers, found)) or _beside_gathers(path.parent)


def prompts(path: Path, given: Sequence[str]) -> list[Prompt]:
    """The variables for which the plays would ask, without variables that are ``given`` (words of a command line)."""
    known = extra_names(given)
    asked = [prompt for play in plays(path) for prompt in _list(play.get("vars_prompt")) if isinstance(prompt, dict)]
    found = [
        Prompt(str(prompt["name"]), str(prompt.get("private", True)).lower() in ("true", "yes", "on", "1"))
        for prompt in asked
        if "name" in prompt
    ]
    return [prompt for prompt in dict.fromkeys(found) if prompt.name not in known]


def no_prompts(playbook: str, path: Path, given: Sequence[str]) -> None:
    """Raises UsageError where the playbook would ask: nobody is there to answer in the middle of a wave.

    A file of variables that cannot be read here (a vault) may give them, and is left to the run."""
    found = prompts(path, given)
    files = [word.partition("@")[2] for word in given if word.startswith("--extra-vars=@")]
    if found and all(isinstance(_variables(file), dict) for file in files):
        how = " ".join(f"-e {prompt.name}=…" for prompt in found if not prompt.private)
        secret = ", ".join(prompt.name for prompt in found if prompt.private)
        ways = [f"with {how}" if how else "", f"in a file for secrets ({secret}): -e @FILE" if secret else ""]
        names = ", ".join(prompt.name for prompt in found)
        raise UsageError(f"{playbook} asks for {names} (vars_prompt): give it {' and '.join(filter(None, ways))}")


def no_debugger(playbook: str, path: Path, strategy: str) -> None:
    """Raises UsageError where a play or a task of its own would wait for a person at Ansible's debugger.

    strategy: the setting, which decides where a play does not. The setting enable_task_debugger is off in our runs.
    """

    def waits(entry: Mapping[str, Any]) -> bool:
        said = str(entry.get("debugger", "never"))
        return said != "never" and "{{" not in said

    for play in plays(path):
        if waits(play) or any(map(waits, _tasks(play))):
            raise UsageError(f"{playbook} waits for a person at Ansible's debugger (debugger): take that out")
        if str(play.get("strategy", strategy)).rpartition(".")[2] == "debug":
            raise UsageError(f"{playbook} waits for a person at Ansible's debugger (strategy debug): use linear")


def no_settings(playbook: str, path: Path) -> None:
    """Raises UsageError where a play sets a variable of ours: it counts for roles of ours in that play alone, and the
    driver, which checks and arms hosts before the play, does not see it."""
    for play in plays(path):
        found = sorted(KNOWN & _set_by(play, path.parent).keys())
        texts = [str(play), *map(_text, _beside(path.parent))] if found else []
        if found and not any(_OURS in text for text in texts):
            raise UsageError(
                f"{playbook} sets {', '.join(found)} in a play, where the driver does not read it: set it in the "
                "inventory (group_vars, host_vars) or with -e, and take it out of the play"
            )


def elsewhere(playbook: str, path: Path) -> list[str]:
    """Notes for a person: the plays for hosts whose tasks run on another machine, as far as that stands in the play."""
    notes = []
    for play in plays(path):
        name = play.get("name") or play.get("hosts")
        variables = _set_by(play, path.parent)
        if str(variables.get("ansible_connection", play.get("connection", ""))).rpartition(".")[2] == "local":
            if str(play.get("hosts")) not in LOCAL:
                notes.append(
                    f"{playbook}: the play {name} runs on this machine (connection local), which no change protects"
                )
        elif found := [key for key in ("ansible_host", "ansible_port", "ansible_connection") if key in variables]:
            notes.append(
                f"{playbook}: the play {name} sets {', '.join(found)}: where that leads to another machine than the "
                "inventory does, its tasks change what this change does not protect"
            )
    return list(dict.fromkeys(notes))


def _set_by(play: Mapping[str, Any], directory: Path) -> Mapping[str, Any]:
    """The variables that a play sets, in itself and in files that can be read here."""
    found = dict(_dict(play.get("vars")))
    files = play.get("vars_files")
    for file in _list([files] if isinstance(files, str) else files):
        if isinstance(file, str) and "{{" not in file:
            found.update(_dict(_read(directory / file)))
    return found


def extra_names(words: Sequence[str]) -> set[str]:
    """The names of the variables that the words ``--extra-vars=…`` give, in all their forms."""
    names: set[str] = set()
    for word in words:
        name, _, text = word.partition("=")
        if name != "--extra-vars":
            continue
        found = _variables(text[1:]) if text.startswith("@") else _parse(text) if text[:1] in ("{", "[") else None
        if isinstance(found, dict):
            names |= {str(key) for key in found}
        elif found is None and not text.startswith("@"):
            names |= {pair.partition("=")[0] for pair in _split(text)}
    return names


def _variables(file: str) -> Any:
    """The content of a file of variables, named as on a command line."""
    return _read(Path(os.path.expanduser(file)))


def _tasks(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for key in _BLOCKS:
        for task in _list(node.get(key)):
            if isinstance(task, dict):
                yield task
                yield from _tasks(task)


def _gathers(task: Mapping[str, Any]) -> bool:
    return any(str(key).rpartition(".")[2] in _GATHERS for key in task)


def unlisted(path: Path) -> str:
    """The text of the playbook, and of files beside it, that have a section whose tasks Ansible does not list."""
    texts = map(_text, [path, *path.parent.glob("*.y*ml"), *_beside(path.parent)])
    return "\n".join(text for text in texts if _SECTION.search(text))


def _beside_gathers(directory: Path) -> bool:
    return any(_SETUP.search(_text(path)) for path in _beside(directory))


def _beside(directory: Path) -> Iterator[Path]:
    """The files of roles and tasks beside a playbook."""
    files = (path for name in ("roles", "tasks") for path in (directory / name).rglob("*.y*ml"))
    return (path for path in files if path.is_file())


def _text(path: Path) -> str:
    """The text of a file; empty where it may not be read: if Ansible needs it, Ansible says so."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _read(path: Path) -> Any:
    try:
        return _parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _parse(text: str) -> Any:
    import yaml

    try:
        return yaml.load(text, _loader())
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):  # a date that is none, or too deep a nesting
        return None


def _dict(value: Any) -> Mapping[str, Any]:
    return {str(key): one for key, one in value.items()} if isinstance(value, dict) else {}


@cache
def _loader() -> type[yaml.SafeLoader]:
    """Reads any tag (!vault, !unsafe) as the value behind it."""
    import yaml  # Most commands read no such file, and it takes a while to load.

    class Loader(yaml.SafeLoader):
        pass

    def read(loader: yaml.SafeLoader, _tag: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None

    Loader.add_multi_constructor("!", read)
    return Loader


def _list(value: Any) -> list[Any]:
    """The value if it is a list, else an empty list: a playbook that is no playbook is left to Ansible's message."""
    return value if isinstance(value, list) else []
