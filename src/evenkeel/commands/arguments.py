# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that several commands have, and the files that they name."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from evenkeel.outcome import Spec, UsageError
from evenkeel.shared import REMOVED, BadValue, declarations

Variables = dict[str, object]
# An item of the file of each option that ``specs`` reads.
_EXAMPLES = {
    "resources": "- files: {paths: [/etc/nginx]}",
    "probes": "- tcp: {port: 443}",
    "drain": "- haproxy: {hosts: [lb1], backend: web, server: web1}",
}


def add_json(parser: argparse._ActionsContainer) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON document on standard output, nothing else")


def add_guard(parser: argparse.ArgumentParser) -> None:
    """Add the limits of the guard."""
    parser.add_argument("--min-healthy", metavar="N", help="hosts that must stay healthy: a number, N%% or quorum")
    parser.add_argument("--max-unavailable", metavar="N", help="hosts in flight at most: a number or N%%")
    text = "inventory variable of the failure domain: hosts in flight share its value"
    parser.add_argument("--guard-domain", metavar="VAR", help=text)


def add_probes(parser: argparse.ArgumentParser) -> None:
    """Add --probes, a file that ``specs`` reads."""
    parser.add_argument("--probes", metavar="FILE", help="YAML list of probes; else the variable evenkeel_probes")


def add_resources(parser: argparse.ArgumentParser) -> None:
    """Add --resources, a file that ``specs`` reads."""
    text = "YAML list of resources; else the variable evenkeel_resources, else system: all of a plain host"
    parser.add_argument("--resources", metavar="FILE", help=text)
    add_old_name(parser, "--protect", "--resources")


def add_part(parser: argparse.ArgumentParser) -> None:
    """Add --kinds and --paths, which ``part`` reads."""
    kinds = "put back only these kinds of resource, such as files,packages"
    parser.add_argument("--kinds", action="append", metavar="KINDS", help=kinds)
    paths = "put back only these files and trees, absolute paths"
    parser.add_argument("--paths", nargs="+", action="extend", metavar="PATH", help=paths)


def part(args: argparse.Namespace) -> tuple[list[str] | None, list[str] | None]:
    """The kinds and the paths of --kinds and --paths; None where they were not given. Raises UsageError."""
    kinds = [kind.strip() for words in args.kinds for kind in words.split(",")] if args.kinds else None
    if kinds is not None and not all(kinds):
        raise UsageError("--kinds: name kinds of resource, separated by commas, as in files,packages")
    wrong = next((path for path in args.paths or [] if not path.startswith("/")), None)
    if wrong is not None:
        raise UsageError(f"--paths {wrong}: give the absolute path on the hosts")
    return kinds, args.paths


def add_old_name(parser: argparse.ArgumentParser, old: str, new: str) -> None:
    """Accept the old name of the option ``new``, which goes on working for one minor version."""
    parser.add_argument(old, dest=new[2:].replace("-", "_"), action=_OldName, const=new, help=argparse.SUPPRESS)


class _OldName(argparse.Action):
    """An option that has another name now (``const``)."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        print(f"{option} is named {self.const} now; the old name works until version {REMOVED}", file=sys.stderr)
        setattr(namespace, self.dest, values)


def given(**variables: object) -> Variables:
    """The variables (evenkeel_*) of the options that were given."""
    return {f"evenkeel_{name}": value for name, value in variables.items() if value is not None}


def stop_if(words: Sequence[str] | None) -> list[Spec] | None:
    """The conditions of --stop-if, each a command or the YAML list in @FILE; None without any.

    Raises UsageError.
    """
    if not words:
        return None
    found: list[Spec] = []
    for one in words:
        if one.startswith("@"):
            found += _listed(one[1:], "stop-if", "- command: {argv: [/opt/app/is-broken]}")
            continue
        try:
            argv = shlex.split(one)
        except ValueError as error:
            raise UsageError(f"--stop-if {one!r} cannot be split into words: {error}") from error
        found.append({"command": {"argv": argv}})
    return found


def specs(path: str | None, option: str) -> list[Spec] | None:
    """The items in a YAML file, each a mapping of one key; None where no file was given.

    option: resources, probes or drain. Raises UsageError.
    """
    if not path:
        return None
    found = _listed(path, option, _EXAMPLES[option])
    try:
        return declarations({option: found})[option]
    except BadValue as error:
        raise UsageError(f"{option} file {path}: {error.message.removesuffix('. Nothing was touched')}") from error


def _listed(path: str, option: str, example: str) -> list[Spec]:
    """The list of mappings of one key in a YAML file. Raises UsageError."""
    import yaml  # Few command lines name such a file.

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{option} file {path}: {error.strerror}") from error
    except UnicodeError as error:
        raise UsageError(f"{option} file {path} is not text in UTF-8: {error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{option} file {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, list) or not found:
        raise UsageError(f"{option} file {path} must hold a list, as in {example!r}")
    for number, item in enumerate(found, 1):
        if not isinstance(item, dict) or len(item) != 1:
            raise UsageError(f"{option} file {path}, item {number}: write one kind and its options, as in {example!r}")
    return found
