# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Suggested resources of several hosts as one YAML document, to be pasted into the inventory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from evenkeel.ansible.targets import is_template
from evenkeel.outcome import RunResult, some_of
from evenkeel.show.display import text


class _Dumper(yaml.SafeDumper):
    """YAML in which a text of a host stays a text: Ansible would run a template in it."""


def _literal(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if is_template(text):
        return dumper.represent_scalar("!unsafe", text, style="'" if text.isprintable() else '"')
    return dumper.represent_str(text)


_Dumper.add_representer(str, _literal)


def print_suggestion(result: RunResult, console: Console) -> None:
    """Print the suggestions of the hosts that answered; each line that is no YAML is a comment."""
    answered = {host: row for host, row in result.hosts.items() if row["state"] == "ok"}
    for line in comments(answered):
        console.print(Text(f"# {text(line, 10_000)}"), soft_wrap=True)
    found = merged(row.get("suggested") or [] for row in answered.values())
    if found:
        document = yaml.dump(
            {"evenkeel_resources": found}, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=10_000
        )
        for line in document.splitlines():
            console.print(Text(text(line, 10_000)), soft_wrap=True)


def comments(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The sentences on the hosts: whether the last change changed other paths, and whether all of them are known."""
    of: dict[str, list[str]] = {}
    for host, row in rows.items():
        outside = row.get("outside")
        if outside is None:
            said = "the changes outside of the declared resources are not known"
        elif not outside.get("count"):
            said = "the last change changed no other programs and configuration than the declared resources"
        else:
            said = "add these to the declared resources, so that they cover the last change as well"
            if outside["count"] > len(outside.get("paths") or []) or not outside.get("complete"):
                said += "; not all changes are known, so look again after the next change"
        of.setdefault(said, []).append(host)
    return [f"{some_of(hosts)}: {said}" for said, hosts in of.items()]


def merged(suggested: Iterable[Iterable[Any]]) -> list[dict[str, dict[str, list[str]]]]:
    """A declaration of each kind, with everything that the hosts name. A path within another path is left out."""
    kinds: dict[str, dict[str, set[str]]] = {}
    for one in suggested:
        for item in one:
            for kind, spec in item.items() if isinstance(item, Mapping) else ():
                keys = kinds.setdefault(str(kind), {})
                for key, values in spec.items() if isinstance(spec, Mapping) else ():
                    if isinstance(values, list):
                        keys.setdefault(str(key), set()).update(str(value) for value in values)
    return [{kind: {key: _outermost(values) for key, values in keys.items()}} for kind, keys in kinds.items()]


def _outermost(values: set[str]) -> list[str]:
    return sorted(one for one in values if not any(one.startswith(f"{other}/") for other in values))
