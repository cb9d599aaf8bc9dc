# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The user's own Ansible: its programs, its configuration, and the settings that a run adds."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evenkeel.ansible.asking import OWN, Done, Ready, program, quiet
from evenkeel.ansible.options import prompts_for
from evenkeel.collection import collections_path
from evenkeel.outcome import UsageError

# A connection that a firewall silently drops is noticed after fifteen seconds.
KEEP_ALIVE = "-o ServerAliveInterval=5 -o ServerAliveCountMax=3"
# Settings of a program that is asked for variables. A host can claim any fact of itself, a cache keeps it, and as a
# variable it would take precedence over the inventory. Groups that the inventory makes from facts stay.
NO_FACTS = {"ANSIBLE_INJECT_FACT_VARS": "False"}
# The message of sudo where sudoers has requiretty: it needs a terminal, and pipelining has no room for one.
NO_TERMINAL = re.compile(r"sudo: .{0,80}\b(tty|terminal)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Ansible:
    """settings: name -> value of the user's configuration, in the directory of the call.

    pipelining: None where the user does not set it. ready: runs the programs that print information. ignored: sentences
    on settings that Ansible passes over. unread: path -> sentence of each inventory that Ansible passed over with a
    warning alone.
    """

    cwd: str
    settings: Mapping[str, Any]
    ssh_args: str
    pipelining: bool | None = None
    ready: Ready = field(default_factory=Ready, compare=False)
    ignored: tuple[str, ...] = ()
    unread: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def notes(self) -> list[str]:
        """The sentences on all that Ansible passed over."""
        return [*self.ignored, *self.unread.values()]

    def environment(self) -> dict[str, str]:
        """The variables that every run of ansible-playbook gets in addition to the user's own environment.

        ansible-runner overrides settings that it takes for unset, so the settings of the user's files become explicit.
        """
        env = {
            "ANSIBLE_COLLECTIONS_PATH": self.collections(),
            "ANSIBLE_HOST_KEY_CHECKING": str(self.settings.get("HOST_KEY_CHECKING", True)),
            "ANSIBLE_SSH_ARGS": f"{self.ssh_args} {KEEP_ALIVE}".strip(),
            "ANSIBLE_NOCOLOR": "True",
            "ANSIBLE_ENABLE_TASK_DEBUGGER": "False",  # nobody is there to answer it
        }
        callbacks = self.settings.get("DEFAULT_CALLBACK_PLUGIN_PATH")
        if callbacks:
            env["ANSIBLE_CALLBACK_PLUGINS"] = os.pathsep.join(callbacks)
        return env

    def own(self, *, pipelining: bool = True) -> dict[str, str]:
        """Further variables for our own playbooks; ``pipelining`` counts where the user's configuration is silent."""
        return OWN if self.pipelining is not None else {**OWN, "ANSIBLE_PIPELINING": str(pipelining)}

    def collections(self) -> str:
        """The paths of collections: ours first, so that driver and collection fit, then those of the user."""
        theirs = self.settings.get("COLLECTIONS_PATHS") or []
        return os.pathsep.join([str(collections_path()), *theirs])


def ask_ansible(cwd: str) -> Ansible:
    """Read the user's configuration as Ansible itself resolves it in ``cwd``. Raises UsageError when it cannot."""
    empty = Ansible(cwd, {}, "")

    def dump(*words: str) -> Any:
        argv = [program("ansible-config"), "dump", "--format", "json", "--type", *words]
        return document(listing(argv, empty, {}).stdout, list)

    with ThreadPoolExecutor() as pool:  # ``--type all`` would load every plugin for a third of a second
        asked = pool.submit(dump, "base")
        ssh: list[dict[str, Any]] = [option for plugin in dump("connection", "ssh") for option in plugin.get("ssh", [])]
        base = [entry for entry in asked.result() if "name" in entry]
    said = [o for o in [*base, *ssh] if o["name"].lower().endswith("pipelining") and o.get("origin") != "default"]
    settings = {entry["name"]: entry.get("value") for entry in base}
    return Ansible(
        cwd,
        settings,
        next((str(option["value"]) for option in ssh if option["name"] == "ssh_args"), ""),
        bool(said[-1]["value"]) if said else None,
        empty.ready,
        tuple(_ignored(cwd, settings.get("CONFIG_FILE"))),
    )


def _ignored(cwd: str, used: object) -> list[str]:
    """A sentence where Ansible takes no settings from the file that ANSIBLE_CONFIG names or that of the directory.
    used: the file of its settings."""
    named = os.path.expandvars(os.path.expanduser(os.environ.get("ANSIBLE_CONFIG", "")))
    path = os.path.join(cwd, named or "ansible.cfg")
    if named and os.path.isdir(path):
        path = os.path.join(path, "ansible.cfg")
    if os.path.realpath(path) == _real(used) or not (named or os.path.exists(path)):
        return []
    if named:
        return [f"Ansible ignores ANSIBLE_CONFIG, as {path} cannot be read: correct the name, or unset it"]
    return [f"Ansible ignores {path}: take the right to write to {cwd} from others, or name the file in ANSIBLE_CONFIG"]


def _real(path: object) -> str:
    return os.path.realpath(path) if isinstance(path, str) and path else ""


def document(text: str, kind: type[Any]) -> Any:
    """The JSON document (of type ``kind``) in the output of a program, which may hold other lines as well.

    Raises UsageError where there is no such document.
    """
    decoder = json.JSONDecoder()
    found: list[tuple[int, Any]] = []
    at = 0
    for start in re.finditer(r"^[\[{]", text, re.MULTILINE):
        if start.start() < at:
            continue  # within the document before
        with contextlib.suppress(ValueError):
            value, at = decoder.raw_decode(text, start.start())
            if isinstance(value, kind):
                found.append((at - start.start(), value))
    if not found:
        raise UsageError(f"Ansible did not answer in JSON but with: {_point(text)[:400] or 'nothing'}")
    return max(found, key=lambda pair: pair[0])[1]


def listing(
    argv: Sequence[str], ansible: Ansible, env: Mapping[str, str], vault: Mapping[str, str] | None = None
) -> Done:
    """Run a program of Ansible that only prints information. Raises UsageError with its output on failure.

    vault: vault id -> password.
    """
    found = quiet({**os.environ, **env}) | _without_questions(ansible.settings)
    done = ansible.ready.run(argv, ansible.cwd, found, vault or {})
    if done.returncode:
        raise UsageError(f"{Path(argv[0]).name}: {_point(done.stderr or done.stdout)}")
    for source in re.findall(r"Unable to parse (.+) as an inventory source", done.stderr):
        if not os.path.isdir(source):  # each file of a directory is named
            said = f"Ansible could not read the inventory {source}: ansible-inventory -i {source} --list says why"
            ansible.unread[source] = said
    return done


def _without_questions(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings with which Ansible asks nobody for a password of a vault, as it has no terminal here: the driver has
    asked once, and hands it on."""
    listed = [str(one) for one in settings.get("DEFAULT_VAULT_IDENTITY_LIST") or []]
    found = {"ANSIBLE_ASK_VAULT_PASS": "False"} if settings.get("DEFAULT_ASK_VAULT_PASS") else {}
    if any(map(prompts_for, listed)):
        found["ANSIBLE_VAULT_IDENTITY_LIST"] = ",".join(one for one in listed if not prompts_for(one))
    return found


# The line of the output of Ansible that says why it ended begins so.
_ERROR = "[ERROR]: "


def _point(text: str) -> str:
    """The point of an error message of Ansible, without the place in its own files, and warnings before it."""
    warned, error, rest = text.partition(_ERROR)
    if warned.lstrip().startswith("[WARNING]") and error:
        text = error + rest
    before, _traceback, after = text.partition("Traceback (most recent call last)")
    if not before.strip():  # the error is the end of a traceback
        before = after.strip().rpartition("\n")[2]
    flat = " ".join(before.split()).partition(" Origin: ")[0]
    return re.sub(r"^.*The filter plugin \S+ failed: ", "", flat).removesuffix(". Nothing was touched")
