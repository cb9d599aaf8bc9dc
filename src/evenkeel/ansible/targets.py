# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of a playbook, found before any host is touched."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from evenkeel.ansible.asking import program
from evenkeel.ansible.configuration import NO_FACTS, Ansible, document, listing
from evenkeel.ansible.options import Options, Secrets, prompts_for
from evenkeel.outcome import UsageError

# The controller itself is never a host of the fleet, whatever a play does on it.
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_UNMATCHED = re.compile(r"Could not match supplied host pattern, ignoring: (\S+)")
# The signs that make a text a template for Ansible, wherever in the text they stand.
_TEMPLATE = re.compile(r"\{[{%#]|#jinja2:")


@dataclass(frozen=True)
class Inventory:
    """order: every host, in the inventory's order. groups: group -> its hosts. variables: host -> its variables."""

    order: tuple[str, ...]
    groups: Mapping[str, frozenset[str]]
    variables: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Targets:
    """The hosts of a playbook.

    hosts: the fleet hosts that change under the user's --limit, in the order of the plays, and within a play in the
    order of the inventory. group: the hosts whose health counts for the guard: these hosts without --limit, unless the
    inventory names others (evenkeel_group). local: the names under which plays run on the controller.
    """

    hosts: tuple[str, ...]
    group: tuple[str, ...]
    local: tuple[str, ...]
    inventory: Inventory
    notes: tuple[str, ...] = field(default=())


def directory_of(playbook: str, cwd: str) -> str:
    """The directory of a playbook as Ansible has it: a playbook that is a link has the directory of the link."""
    return os.path.dirname(os.path.abspath(os.path.join(cwd, playbook)))


def find_targets(playbook: str, options: Options, ansible: Ansible, secrets: Secrets) -> Targets:
    """Ask Ansible for the hosts of ``playbook``. Raises UsageError when it does not parse or finds no host."""
    limit_names(options.limit, ansible.cwd)
    base = directory_of(playbook, ansible.cwd)

    def hosts(limit: str) -> tuple[list[tuple[str, frozenset[str]]], frozenset[str]]:
        return list_hosts(playbook, limit, options, ansible, secrets)

    with ThreadPoolExecutor() as pool:
        known = pool.submit(find_inventory, options, ansible, secrets, base)
        everywhere = pool.submit(hosts, "")
        limited = pool.submit(hosts, options.limit) if options.limit else everywhere
        inventory, (plays, unmatched), (some, also_unmatched) = known.result(), everywhere.result(), limited.result()

    missing = [said for path, said in ansible.unread.items() if _is_meant(path, options, ansible)]
    if missing:
        raise UsageError(f"{'; '.join(missing)}. Hosts or their variables are missing: correct it or leave it out")
    _no_typos(options.limit, also_unmatched - unmatched)
    found = resolve(playbook, plays, some, inventory, options.limit)
    return replace(found, notes=(*found.notes, *ansible.notes))


def _is_meant(path: str, options: Options, ansible: Ansible) -> bool:
    """Whether a file that Ansible could not read is meant as an inventory, and no other file in such a directory."""
    named = [*options.inventory, *(ansible.settings.get("DEFAULT_HOST_LIST") or [])]
    return (
        os.path.realpath(path) in [os.path.realpath(os.path.join(ansible.cwd, one)) for one in named]
        or path.endswith((".yml", ".yaml", ".json", ".ini", ".toml"))
        or os.access(path, os.X_OK)
        or re.fullmatch("[a-z0-9_-]+", os.path.basename(path)) is not None  # not Makefile, README or LICENSE
    )


def list_hosts(
    playbook: str, limit: str, options: Options, ansible: Ansible, secrets: Secrets, *more: str
) -> tuple[list[tuple[str, frozenset[str]]], frozenset[str]]:
    """The plays of a playbook as (pattern, hosts), and the patterns that matched nothing."""
    argv = [program("ansible-playbook"), "--list-hosts", *options.inventories(), *without_prompts(options.listing)]
    argv += [*more, *(["--limit", limit] if limit else []), playbook]
    try:
        done = listing(argv, ansible, ansible.environment(), secrets.vault)
    except UsageError as error:
        _no_typos(limit, frozenset(_UNMATCHED.findall(str(error))) if limit else frozenset())
        raise
    return parse_plays(done.stdout), frozenset(_UNMATCHED.findall(done.stderr))


def chosen_hosts(
    playbook: str, limit: str, options: Options, ansible: Ansible, secrets: Secrets, *more: str
) -> tuple[str, ...]:
    """The hosts of one of our own playbooks under ``limit``. Raises UsageError when there is no host, or for a typo."""
    limit_names(limit, ansible.cwd)
    try:
        plays, unmatched = list_hosts(playbook, limit, options, ansible, secrets, *more)
        _no_typos(limit, unmatched)
        return _fleet(plays)
    except UsageError as error:
        if not ansible.notes:
            raise
        raise UsageError("; ".join([str(error), *ansible.notes])) from error


def _fleet(plays: Sequence[tuple[str, frozenset[str]]]) -> tuple[str, ...]:
    """The fleet hosts of plays. Raises UsageError when there is none."""
    hosts = in_order((hosts for _, hosts in plays), ())
    if not hosts and any(found for _, found in plays):
        raise UsageError(
            "the machine on which you call is no host of the fleet, under the name localhost: give it another name in"
            " the inventory, with ansible_connection=local"
        )
    if not hosts:
        raise UsageError("no host of the inventory is selected: give -i INVENTORY, or another --limit")
    return hosts


def limit_names(limit: str, cwd: str) -> None:
    """Raises UsageError for a file in ``limit`` that names no host: Ansible takes it for a limit to all hosts."""
    for part in limit.split("," if "," in limit else ":"):
        path = part.strip()
        try:
            empty = path.startswith("@") and not Path(cwd, path[1:]).read_text("utf-8", "replace").strip()
        except OSError as error:
            raise UsageError(f"--limit {limit}: {path[1:]}: {error.strerror}") from error
        if empty:
            raise UsageError(f"--limit {limit}: the file {path[1:]} names no host")


def _no_typos(limit: str, unmatched: frozenset[str]) -> None:
    if unmatched:
        names = ", ".join(sorted(unmatched))
        raise UsageError(f"{f'--limit {limit}: ' if limit else ''}{names} is no host or group of the inventory")


def resolve(
    playbook: str,
    plays: Sequence[tuple[str, frozenset[str]]],
    limited: Sequence[tuple[str, frozenset[str]]],
    inventory: Inventory,
    limit: str = "",
) -> Targets:
    """Combine Ansible's lists: ``plays`` without and ``limited`` with the user's --limit, as (name, hosts)."""
    group = in_order((hosts for _, hosts in plays), inventory.order)
    chosen = in_order((hosts for _, hosts in limited), inventory.order)
    if not group:
        if any(hosts for _, hosts in plays):
            raise UsageError(f"{playbook} runs on the controller alone: there is no fleet host to protect")
        raise UsageError(f"{playbook} matches no host of the inventory: {', '.join(name for name, _ in plays)}")
    if not chosen:
        raise UsageError(f"--limit {limit} leaves {playbook} without any fleet host")
    odd = next((host for host in chosen if not usable(host)), "")
    if odd:
        raise UsageError(
            f"a wave cannot name the host {odd!r}: give it a name of letters, digits, dots, dashes and underscores,"
            " and keep the present name in ansible_host"
        )
    ambiguous = [host for host in chosen if host in inventory.groups]
    if ambiguous:
        raise UsageError(f"{ambiguous[0]} is the name of a host and of a group, so a wave cannot name the host alone")
    notes = [f"play {name} matches no host" for name, hosts in plays if not hosts]
    return Targets(
        hosts=chosen,
        group=group,
        local=tuple(sorted(LOCAL & frozenset().union(*(hosts for _, hosts in limited)))),
        inventory=inventory,
        notes=tuple(notes),
    )


def usable(host: str) -> bool:
    """Whether the name means this host alone for Ansible, in --limit and in the pattern of a play."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@+=-]*", host) is not None
    return True


def parse_plays(text: str) -> list[tuple[str, frozenset[str]]]:
    """Read the output of ``ansible-playbook --list-hosts``: for each play its pattern and its hosts.

    A pattern and a name are texts of the user's, and may go on in further lines. The hosts of a play are the last list
    before the next play, if the list has as many hosts as Ansible counts for it.
    """
    plays: list[tuple[str, list[str]]] = []
    lines = iter(text.split("\n"))
    for line in lines:
        play = re.match(rf"  play #{len(plays) + 1} \((.*?)(?:\): |$)", line)
        count = re.fullmatch(r"    hosts \((\d+)\):", line)
        if play:
            plays.append((play[1].rstrip(), []))
        elif count and plays:
            plays[-1] = (plays[-1][0], [host.strip() for host in islice(lines, int(count[1]))])
    _no_templates(host for _, hosts in plays for host in hosts)
    return [(name, frozenset(hosts)) for name, hosts in plays]


def is_template(value: object) -> bool:
    """Whether Ansible would run a part of the value as a template, in variables that we give it, or has to resolve a
    part of it first: the inventory shows a value with a tag (!vault, !unsafe) as a mapping."""
    if isinstance(value, Mapping):
        tagged = any(str(key).startswith("__ansible_") for key in value)
        return tagged or any(is_template(item) for item in value.values())
    if isinstance(value, list):
        return any(is_template(item) for item in value)
    return isinstance(value, str) and _TEMPLATE.search(value) is not None


def _no_templates(names: Iterable[str]) -> None:
    """Raises UsageError for a name that is a template: names stand in variables of ours, and Ansible trusts these."""
    for name in names:
        if is_template(name):
            raise UsageError(
                f"the inventory holds a host or group with the name {name!r}, which is a template: Ansible would run it"
                " on this machine. Find out who wrote that name, and take it out of the inventory"
            )


def in_order(sets: Iterable[frozenset[str]], order: Sequence[str]) -> tuple[str, ...]:
    """The fleet hosts of ``sets``, set by set, within each in the order of the inventory."""
    place = {host: number for number, host in enumerate(order)}
    found: dict[str, None] = {}
    for hosts in sets:
        for host in sorted(hosts - LOCAL, key=lambda name: (place.get(name, len(place)), name)):
            found.setdefault(host)
    return tuple(found)


def find_inventory(options: Options, ansible: Ansible, secrets: Secrets, base: str) -> Inventory:
    """Ask Ansible for the inventory, with the variables that lie beside the playbook in ``base``, if any. No variable
    is a fact: commands that run on this machine and the terms of the whole change are among them."""
    argv = [program("ansible-inventory"), "--list", *(["--playbook-dir", base] if base else [])]
    argv += [*options.inventories(), *without_prompts(options.listing)]
    environment = {**ansible.environment(), **NO_FACTS}
    return parse_inventory(document(listing(argv, ansible, environment, secrets.vault).stdout, dict))


def parse_inventory(document: Mapping[str, Any]) -> Inventory:
    """Read the document of ``ansible-inventory --list``."""
    order: dict[str, None] = {}
    groups: dict[str, frozenset[str]] = {}

    def walk(group: str) -> frozenset[str]:
        entry = document.get(group) or {}
        own = list(entry.get("hosts", []))
        order.update(dict.fromkeys(own))
        groups[group] = frozenset(own).union(*(walk(child) for child in entry.get("children", [])))
        return groups[group]

    walk("all")
    _no_templates([*order, *groups])
    hostvars = (document.get("_meta") or {}).get("hostvars") or {}
    return Inventory(tuple(order), groups, hostvars)


def unprotected(hosts: Iterable[str], inventory: Inventory) -> list[str]:
    """The hosts for which an inventory variable declares no resource at all."""
    declared = {host: inventory.variables.get(host, {}) for host in hosts}
    return [host for host, own in declared.items() if "evenkeel_resources" in own and not own["evenkeel_resources"]]


def undeclared(hosts: Iterable[str], inventory: Inventory) -> list[str]:
    """The hosts for which no inventory variable declares resources."""
    return [host for host in hosts if "evenkeel_resources" not in inventory.variables.get(host, {})]


def without_prompts(words: Sequence[str]) -> list[str]:
    """The words without prompts: listing runs have no terminal, and get the passwords as vault ids of their own."""
    return [word for word in words if not (word.startswith("--vault-id=") and prompts_for(word.partition("=")[2]))]
