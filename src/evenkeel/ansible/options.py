# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of ansible-playbook that are passed on, and the passwords they ask for."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import signal
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from evenkeel.ansible.answering import PROMPTS
from evenkeel.ansible.wrapper import tags_that_run
from evenkeel.outcome import UsageError
from evenkeel.shared import duration


def _whole(said: str) -> str:
    """A whole number, as it stands."""
    if not said.isdecimal():
        raise argparse.ArgumentTypeError(f"{said!r} is no whole number")
    return said


# Our own playbooks get the options for connecting and becoming; the user's playbook gets these as well.
_FLAG: Mapping[str, Any] = {"action": "store_true"}
_MANY: Mapping[str, Any] = {"action": "append", "default": []}
# An empty value adds nothing, and widens nothing.
_ARGS: Mapping[str, Any] = {"type": str, "metavar": "ARGS"}
_Flags = tuple[tuple[str, ...], Mapping[str, Any]]  # the names of an option, and the arguments of add_argument
_EVERYWHERE: list[_Flags] = [
    (("-e", "--extra-vars"), {**_MANY, "type": str, "metavar": "VARS", "help": "key=value, YAML/JSON, or @file"}),
    (("-u", "--user"), {"help": "connect as this user"}),
    (("-c", "--connection"), {"help": "connection type"}),
    (("-T", "--timeout"), {"type": _whole, "help": "connection timeout in seconds"}),
    (("--private-key", "--key-file"), {"metavar": "FILE"}),
    (("--ssh-common-args",), _ARGS),
    (("--ssh-extra-args",), _ARGS),
    (("--sftp-extra-args",), _ARGS),
    (("--scp-extra-args",), _ARGS),
    (("-k", "--ask-pass"), {**_FLAG, "help": "ask for the connection password"}),
    (("--connection-password-file", "--conn-pass-file"), {"metavar": "FILE"}),
    (("-b", "--become"), {**_FLAG, "help": "run with become"}),
    (("--become-method",), {"metavar": "METHOD"}),
    (("--become-user",), {"metavar": "USER"}),
    (("-K", "--ask-become-pass"), {**_FLAG, "help": "ask for the become password"}),
    (("--become-password-file", "--become-pass-file"), {"metavar": "FILE"}),
    (("-J", "--ask-vault-pass", "--ask-vault-password"), {**_FLAG, "help": "ask for the vault password"}),
    (("--vault-id",), {**_MANY, "metavar": "ID"}),
    (("--vault-password-file", "--vault-pass-file"), {**_MANY, "metavar": "FILE"}),
    (("-f", "--forks"), {"type": _whole, "help": "number of parallel processes"}),
    (("-M", "--module-path"), {**_MANY, "metavar": "PATH"}),
    (("-v", "--verbose"), {"action": "count", "default": 0, "help": "show Ansible's output as well"}),
]
_USERS_ONLY: list[_Flags] = [
    (("-t", "--tags"), {**_MANY, "metavar": "TAGS"}),
    (("--skip-tags",), {**_MANY, "metavar": "TAGS"}),
    (("--start-at-task",), {"metavar": "NAME"}),
    (("-D", "--diff"), {**_FLAG, "help": "show differences, with Ansible's output"}),
    (("--force-handlers",), _FLAG),
    (("--flush-cache",), _FLAG),
]
# Options that also count when Ansible only lists hosts: they define hosts, variables and secrets.
_LISTING = ("--extra-vars", "--vault-id", "--vault-password-file")


# An extra variable for reaching a host or its store that holds no secret.
_REACHING = re.compile(r"(?!\w*(?:pass|secret|token|private_key\b))(?:ansible_\w+|evenkeel_store)=\S+", re.IGNORECASE)


@dataclass(frozen=True)
class Options:
    """Options of Ansible that are passed on, as they stand on a command line.

    common: for every run. users: for the user's playbook alone. listing: for inventory and host lists.
    limit: the user's --limit, empty for none. prompts: vault ids for which Ansible asks. output: show the output of
    Ansible. answer_within: the seconds that a task of ours may take on a host; None for the usual time. playbook_dir:
    the directory whose variables and plugins count as those beside a playbook; empty for the current directory.
    """

    inventory: tuple[str, ...] = ()
    limit: str = ""
    common: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    listing: tuple[str, ...] = ()
    ask_pass: bool = False
    ask_become_pass: bool = False
    ask_vault_pass: bool = False
    prompts: tuple[str, ...] = ()
    output: bool = False
    answer_within: float | None = None
    playbook_dir: str = ""

    def base(self, cwd: str) -> str:
        """The directory that stands for that of a playbook, for a command called in ``cwd``. Raises UsageError."""
        found = os.path.abspath(os.path.join(cwd, self.playbook_dir))
        if not os.path.isdir(found):
            raise UsageError(f"--playbook-dir {self.playbook_dir}: there is no such directory")
        return found

    def inventories(self) -> list[str]:
        """The words that name the inventories."""
        return [word for source in self.inventory for word in ("-i", source)]

    def words_to_reach(self) -> tuple[list[str], bool]:
        """The words that reach the same hosts again, to be shown to a person, and whether some were left out.

        Extra variables are shown only as files, or where their names are known to be harmless: any other value may be a
        secret.
        """
        words, missing = self.inventories(), False
        if self.playbook_dir:
            words += ["--playbook-dir", self.playbook_dir]
        for word in self.common:
            name, _equals, value = word.partition("=")
            if name.startswith("-v"):
                continue
            if name == "--extra-vars" and not (value.startswith("@") or _REACHING.fullmatch(value)):
                missing = True
                continue
            words.append(word)
        return words, missing

    def tags(self, settings: Mapping[str, Any]) -> list[str] | None:
        """Tags with which a task of ours runs in the user's playbook; None when no task could run (see wrapper)."""

        def said(flag: str, setting: str) -> set[str]:
            words = [word.partition("=")[2] for word in self.users if word.startswith(f"{flag}=")]
            return {tag.strip() for word in [*words, *(settings.get(setting) or [])] for tag in word.split(",")} - {""}

        return tags_that_run(said("--tags", "TAGS_RUN"), said("--skip-tags", "TAGS_SKIP"))

    def with_configuration(self, settings: Mapping[str, Any]) -> Options:
        """These options, with the passwords for which the user's configuration makes Ansible ask. Raises UsageError for
        a file that a second run of Ansible could not read."""
        for word in (*self.common, *(f"--inventory={source}" for source in self.inventory)):
            _no_pipe(word)
        listed = settings.get("DEFAULT_VAULT_IDENTITY_LIST") or []
        return replace(
            self,
            ask_pass=self.ask_pass or bool(settings.get("DEFAULT_ASK_PASS")),
            ask_become_pass=self.ask_become_pass or bool(settings.get("DEFAULT_BECOME_ASK_PASS")),
            ask_vault_pass=self.ask_vault_pass or bool(settings.get("DEFAULT_ASK_VAULT_PASS")),
            prompts=(*self.prompts, *_prompting(map(str, listed))),
        )


@dataclass(frozen=True)
class Secrets:
    """Passwords, in memory only. vault: vault id -> password; the id ``default`` belongs to --ask-vault-pass."""

    connection: str | None = field(default=None, repr=False)
    become: str | None = field(default=None, repr=False)
    vault: dict[str, str] = field(default_factory=dict, repr=False)

    def answers(self) -> dict[str, str]:
        """Ansible's prompts, as regular expressions, and the answers."""
        found = {}
        if self.connection is not None:
            found[r"^SSH password: ?$"] = self.connection
        if self.become is not None:
            found[r"^(?!SSH)[A-Z]+ password(\[defaults to SSH password\])?: ?$"] = self.become
        for ident, password in self.vault.items():
            # --ask-vault-pass asks without the name of the id, --vault-id @prompt with it.
            optional = "?" if ident == "default" else ""
            found[rf"^Vault password( \({re.escape(ident)}\)){optional}: ?$"] = password
        return found


def add_arguments(parser: argparse.ArgumentParser, *, playbook: bool) -> None:
    """Add -i, --limit and Ansible's own options; with ``playbook`` also options for the user's playbook."""
    group = parser.add_argument_group("options of ansible-playbook, passed on")
    group.add_argument("-i", "--inventory", action="append", default=[], help="inventory file, directory or host list")
    group.add_argument("-l", "--limit", action="append", default=[], metavar="PATTERN", help="only these hosts")
    for flags, how in _EVERYWHERE + (_USERS_ONLY if playbook else []):
        group.add_argument(*flags, **how)
    if not playbook:
        text = "directory of the playbook, whose group_vars, host_vars and plugins count (.)"
        group.add_argument("--playbook-dir", metavar="DIR", help=text)
    text = "time that a task may take on a host until it counts as no answer (6h; 5m for tasks that only ask)"
    parser.add_argument("--answer-within", metavar="TIME", type=_time, help=text)


def from_arguments(args: argparse.Namespace) -> Options:
    """The options of parsed arguments."""
    given = vars(args)
    vault_ids = [*given["vault_id"], *given["vault_password_file"]]
    return Options(
        inventory=tuple(given["inventory"]),
        limit=",".join(given["limit"]),
        common=_words(given, _EVERYWHERE),
        users=_words(given, _USERS_ONLY),
        listing=_words(given, [option for option in _EVERYWHERE if set(option[0]) & set(_LISTING)]),
        ask_pass=given["ask_pass"],
        ask_become_pass=given["ask_become_pass"],
        ask_vault_pass=given["ask_vault_pass"],
        prompts=_prompting(vault_ids),
        output=bool(given["verbose"] or given.get("diff")),
        answer_within=given.get("answer_within"),
        playbook_dir=given["playbook_dir"] or "" if "playbook_dir" in given else _beside(given.get("playbook") or ""),
    )


def _beside(playbook: str) -> str:
    """The directory of a playbook, as it is said; empty for the current one, and for a playbook of a collection."""
    found = os.path.dirname(playbook) if os.path.exists(playbook) else ""
    return "" if os.path.normpath(found or ".") == "." else found


def _no_pipe(word: str) -> None:
    """Raises UsageError where the word of a command line names a pipe, as ``<(…)`` of a shell does."""
    name, _equals, value = word.partition("=")
    try:
        pipe = stat.S_ISFIFO(os.stat(value.rpartition("@")[2]).st_mode)
    except (OSError, ValueError):
        return
    if pipe:
        raise UsageError(
            f"{name} {value} is a pipe, which can be read only once, and Ansible runs several times for one command:"
            " give a file, or for the password of a vault a script that prints it"
        )


def _time(said: str) -> float:
    try:
        return duration(said)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{said!r} {error}") from None


def _words(given: Mapping[str, Any], table: Sequence[_Flags]) -> tuple[str, ...]:
    words: list[str] = []
    for flags, how in table:
        name = next(flag for flag in flags if flag.startswith("--"))
        value = given.get(name[2:].replace("-", "_"))
        if not value:
            continue
        if how.get("action") == "store_true":
            words.append(name)
        elif how.get("action") == "count":
            words.append("-" + "v" * value)
        else:
            # A single word, so that a value that begins with a dash (--ssh-extra-args) stays a value.
            words += [f"{name}={item}" for item in (value if isinstance(value, list) else [value])]
    return tuple(words)


def _prompting(vault_ids: Iterable[str]) -> tuple[str, ...]:
    """The names of the vault ids whose source is a prompt, as in ``dev@prompt``."""
    return tuple(ident.rpartition("@")[0] or "default" for ident in vault_ids if prompts_for(ident))


def prompts_for(vault_id: str) -> bool:
    """Whether Ansible asks a person for the password of this vault id: ``dev@prompt``, or ``prompt`` alone."""
    return vault_id.rpartition("@")[2] in PROMPTS


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let signals end the process or the question as usual, in place of handlers that only note them."""
    here = threading.current_thread() is threading.main_thread()
    known = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if here}
    ours = {number: handler for number, handler in known.items() if callable(handler)}
    for number in ours:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


def ask(options: Options, prompt: Callable[[str], str] = getpass.getpass) -> Secrets:
    """Ask the user, once, for every password that Ansible would ask for in each run."""
    with _interruptible():
        return _prompted(options, prompt)


def _prompted(options: Options, prompt: Callable[[str], str]) -> Secrets:
    try:
        connection = prompt("SSH password: ") if options.ask_pass else None
        hint = "[defaults to SSH password]" if connection is not None else ""
        become = prompt(f"BECOME password{hint}: ") if options.ask_become_pass else None
        vault = {"default": prompt("Vault password: ")} if options.ask_vault_pass else {}
        vault |= {name: prompt(f"Vault password ({name}): ") for name in options.prompts if name not in vault}
    except EOFError:
        raise UsageError("a password is needed and there is no terminal to ask for it: use a password file") from None
    except KeyboardInterrupt:
        raise UsageError("stopped at the question for a password") from None
    return Secrets(connection, become, vault)
