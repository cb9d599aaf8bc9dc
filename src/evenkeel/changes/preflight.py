# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The requirements of a change, checked before any of its hosts is armed."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evenkeel.ansible.event import Event, about, mapping
from evenkeel.ansible.events import Record, feed
from evenkeel.ansible.plays import extra_names
from evenkeel.ansible.session import OwnRun, Session, Stop
from evenkeel.ansible.targets import Targets, is_template, undeclared, unprotected
from evenkeel.changes.request import ALL, DEFAULT_AT_MOST, ON_FAILURE, STOP, Request, Terms
from evenkeel.outcome import UsageError, some_of
from evenkeel.shared import OF_A_CHANGE, BadValue, declarations, misspelt, seconds

RESCUED = ("probe", "fail")
# The variables of a host that the driver reads; Ansible resolves all others where they are used.
_TERMS = tuple(
    f"evenkeel_{name}" for name in ("on_failure", "at_most", "pause", "bake", "hold_after", "stop_if", "notify")
)
_DECLARATIONS = tuple(f"evenkeel_{name}" for name in (*OF_A_CHANGE, "reboot"))
_READ = (
    *dict.fromkeys((*_TERMS, *_DECLARATIONS)),
    "evenkeel_group",
    "evenkeel_guard_domain",
    "evenkeel_waves",
    "evenkeel_rescued",
)
# Two names mean one host where these variables are equal: the way to the host, and its store.
_ADDRESS = (
    "ansible_connection",
    "ansible_host",
    "ansible_ssh_host",
    "ansible_port",
    "ansible_ssh_port",
    "ansible_ssh_args",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
    "evenkeel_store",
)

_SSH = ("", "ssh", "smart", "paramiko", "paramiko_ssh")
# Variables of a connection that do not say to which host it leads.
_NO_WAY = re.compile("become|interpreter|pass|user|timeout|retries")
_STORE = "/var/lib/evenkeel"


def resolved(session: Session, targets: Targets, *more: str, stop: Stop) -> Targets:
    """The targets, with the templates in these variables resolved by Ansible. Raises UsageError where that fails.

    more: names of further variables that are read. stop: why the question is to be ended early, or nothing.
    """
    known = targets.inventory.variables
    asked = {
        host: [name for name in (*_READ, *_ADDRESS, *more) if is_template(known.get(host, {}).get(name))]
        for host in targets.hosts
    }
    asked = {host: names for host, names in asked.items() if names}
    if not asked:
        return targets
    record = Record()
    found: dict[str, Mapping[str, object]] = {}

    def on_event(event: Event) -> None:
        feed(record, event)
        if event.get("event") == "runner_on_ok":
            host, result = about(event)
            found[host] = mapping(result.get("msg"))

    wanted = {"evenkeel_hosts": list(asked), "evenkeel_asked": asked}
    run = OwnRun("variables", wanted, list(asked), question=True, unseen=True)
    ended = session.run_own(run, on_event, stop)
    if ended.stopped:
        raise UsageError(f"{ended.stopped} before anything was touched")
    for host, names in asked.items():
        if host not in found:
            why = record.failures.get(host) or record.messages() or ended.errors
            fact = " (a fact of the host is written ansible_facts['os_family'])" if "'ansible_" in str(why) else ""
            raise UsageError(f"{host}: {', '.join(names)} cannot be resolved: {why}{fact}")
    # A value that is omitted (default(omit)) is not in the answer: such a variable counts as not set.
    kept = {host: {name: own[name] for name in own if name not in asked.get(host, ())} for host, own in known.items()}
    variables = {host: {**own, **found.get(host, {})} for host, own in kept.items()}
    return replace(targets, inventory=replace(targets.inventory, variables=variables))


def agreed(given: str | None, variable: str, default: str, targets: Targets) -> str:
    """A value for the whole run: from the request, or from the variables of the hosts, which then must agree. It goes
    into variables of ours, whose templates Ansible trusts, so that a text that still is one is refused."""
    if given is not None:
        return given
    variables = [targets.inventory.variables.get(host, {}) for host in targets.hosts]
    said = [own[variable] for own in variables if variable in own]
    found = {",".join(map(str, one)) if isinstance(one, list) else str(one) for one in said}
    if any(map(is_template, found)):
        raise UsageError(f"{variable} is a template that Ansible does not resolve: say it on the command line")
    if len(found) > 1:
        raise UsageError(f"{variable} differs between hosts ({', '.join(sorted(found))}): say it on the command line")
    return found.pop() if found else default


def notify_url(given: str | None, targets: Targets) -> str:
    """The URL for outcomes, or nothing. It may hold a secret, so that no message repeats it. Raises UsageError."""
    try:
        return agreed(given, "evenkeel_notify", "", targets)
    except UsageError:
        raise UsageError(
            "evenkeel_notify differs between hosts, or is a template that Ansible does not resolve: say it on the"
            " command line"
        ) from None


def terms(request: Request, targets: Targets, plan: Sequence[Sequence[str]]) -> Terms:
    """The terms of the whole change. Raises UsageError for a wrong value, or for values that exclude each other."""

    def time_of(given: str | None, name: str, default: str) -> float:
        text = agreed(given, f"evenkeel_{name}", default, targets)
        try:
            return seconds(text, name)
        except BadValue as error:
            raise UsageError(error.message) from error

    on_failure = agreed(request.on_failure, "evenkeel_on_failure", STOP, targets)
    if on_failure not in ON_FAILURE:
        raise UsageError(f"on_failure must be one of {', '.join(ON_FAILURE)}, not {on_failure!r}")
    hold = agreed(None if request.hold_after is None else str(request.hold_after), "evenkeel_hold_after", "0", targets)
    if not hold.isdecimal() or int(hold) > len(plan):
        raise UsageError(f"hold_after: {hold!r} is no wave of this change, which has {len(plan)} waves")
    found = Terms(
        on_failure,
        time_of(request.at_most, "at_most", DEFAULT_AT_MOST),
        time_of(request.pause, "pause", "0s"),
        time_of(request.bake, "bake", "0s"),
        int(hold),
        time.strftime("%Y%m%dT%H%M%S-", time.gmtime()) + uuid.uuid4().hex[:8],
    )
    waiting = found.pause * (len(plan) - 1) + found.bake
    if on_failure == ALL and waiting >= found.at_most:
        raise UsageError(
            f"with --on-failure all the first hosts stay unconfirmed through all pauses and the bake, which last"
            f" {waiting:.0f} s, and --at-most allows {found.at_most:.0f} s: give more with --at-most"
        )
    return found


def stop_if(given: Sequence[Any] | None, targets: Targets) -> Sequence[Any]:
    """The conditions that stop the change: from the request, or from the variables of the hosts, which must agree."""
    if given is not None:
        return given
    variables = [targets.inventory.variables.get(host, {}) for host in targets.hosts]
    found = [own["evenkeel_stop_if"] for own in variables if own.get("evenkeel_stop_if")]
    if any(one != found[0] for one in found):
        raise UsageError("evenkeel_stop_if differs between hosts: give it for all of them, or with --stop-if")
    return found[0] if found else []


def domains(variable: str, targets: Targets) -> dict[str, str]:
    """Host -> failure domain. Raises UsageError, which names the hosts without a domain."""
    variables = targets.inventory.variables
    without = [host for host in targets.hosts if variable not in variables.get(host, {})]
    if without:
        raise UsageError(f"--guard-domain {variable}: the inventory does not set it for {', '.join(without[:5])}")
    return {host: str(variables[host][variable]) for host in targets.hosts}


def group(targets: Targets) -> tuple[str, ...]:
    """The hosts whose health counts: those that evenkeel_group names for the hosts of the change; where it is not set,
    the hosts of the plays, as also where it names a group of others: it was once the name of those that hold copies.
    Different groups count as one. A second name of a host counts for nothing. Raises UsageError for a name that the
    inventory has not."""
    known, found = targets.inventory, set[str]()
    for host in targets.hosts:
        said = known.variables.get(host, {}).get("evenkeel_group")
        names = [str(name).strip() for name in (said if isinstance(said, list) else str(said or "").split(","))]
        for name in filter(None, names):
            if name not in known.groups and name not in known.order:
                raise UsageError(f"{host}: evenkeel_group names {name!r}, which is no host or group of the inventory")
        named = {one for name in filter(None, names) for one in known.groups.get(name, [name])}
        found.update(named if host in named else targets.group)
    first: dict[tuple[str, ...], str] = {}
    for host in [*targets.hosts, *(one for one in known.order if one in found)]:
        own = known.variables.get(host, {})
        if (
            not any(is_template(own.get(name)) for name in _ADDRESS)
            and first.setdefault(_where(host, own), host) != host
        ):
            found.discard(host)
    return tuple(host for host in known.order if host in found)


def probed(probes: Sequence[Any] | None, targets: Targets) -> list[str]:
    """The hosts that have probes which decide. probes: the probes of all hosts; None where each host has its own."""
    if probes is not None:
        return list(targets.hosts) if any(map(_decides, probes)) else []
    variables = targets.inventory.variables
    return [host for host in targets.hosts if any(map(_decides, variables.get(host, {}).get("evenkeel_probes") or []))]


def _decides(probe: Any) -> bool:
    """Whether a probe decides. A malformed declaration is refused elsewhere."""
    options = next(iter(probe.values()), None) if isinstance(probe, Mapping) else None
    return not isinstance(options, Mapping) or options.get("severity") != "warn"


def local(host: str, words: Sequence[str], targets: Targets) -> bool:
    """Whether a host is this machine itself, into which nobody logs. words: the options of ansible-playbook."""
    said = [word.partition("=")[2] for word in words if word.startswith("--connection=")]
    found = targets.inventory.variables.get(host, {}).get("ansible_connection") or (said or ["ssh"])[-1]
    return str(found).rpartition(".")[2] == "local"


def strict(probes: Sequence[Any] | None, targets: Targets) -> list[str]:
    """The hosts on which a rescued failure counts: a variable says so, or they have no probes that decide."""
    said_so = {host: str(own.get("evenkeel_rescued", "probe")) for host, own in targets.inventory.variables.items()}
    for host in targets.hosts:
        if said_so.get(host, "probe") not in RESCUED:
            raise UsageError(f"{host}: evenkeel_rescued is {said_so[host]!r}, and can be {' or '.join(RESCUED)}")
    can_tell = probed(probes, targets)
    return [host for host in targets.hosts if said_so.get(host) == "fail" or host not in can_tell]


def well_written(request: Request, targets: Targets) -> None:
    """Raises UsageError for a variable or a key of a declaration that is misspelt, and for a limit of a wrong type, on
    any host of any wave: a later wave must not find it."""
    known = targets.inventory.variables
    words = request.options.common
    wrong = misspelt({*extra_names(words), *(name for host in targets.hosts for name in known.get(host, {}))})
    if wrong:
        raise UsageError("; ".join(wrong))
    seen = set()
    for host, variables in [("", request.variables()), *((host, known.get(host, {})) for host in targets.hosts)]:
        declared = {name: variables[name] for name in _DECLARATIONS if name in variables}
        text = json.dumps(declared, sort_keys=True, default=str)
        if declared and text not in seen:
            seen.add(text)
            try:
                declarations(declared, "evenkeel_")
            except BadValue as error:
                message = error.message.removesuffix(". Nothing was touched")
                raise UsageError(f"{host}: {message}" if host else message) from error


def check(probes: Sequence[Any] | None, resources: Sequence[Any] | None, targets: Targets) -> list[str]:
    """Raises UsageError where the change could not keep its promise. Returns warnings for a person."""
    if resources is None:
        bare = unprotected(targets.hosts, targets.inventory)
        if bare:
            raise UsageError(
                f"nothing to protect on {some_of(bare)}: evenkeel_resources is empty there. Name the files and services"
                " in it or in --resources FILE, or leave it out to protect all that a plain host consists of"
            )
    for name, other in _twins(targets):
        raise UsageError(
            f"{name} and {other} are one host by the inventory (the same address, port and store): a change would"
            " confirm or undo the one under the other. Leave one of them out, with --limit or in the inventory"
        )
    notes = []
    plain = undeclared(targets.hosts, targets.inventory) if resources is None else []
    if plain:
        notes.append(
            f"the inventory does not say what to protect on {some_of(plain)} (evenkeel_resources): what a plain host"
            " consists of is protected (system: {}), and each host says what that is before the playbook begins"
        )
    if len(probed(probes, targets)) < len(targets.hosts):
        notes.append("no probes for some hosts (evenkeel_probes, --probes): a new login alone confirms them")
    return notes


def _twins(targets: Targets) -> Iterator[tuple[str, str]]:
    seen: dict[tuple[str, ...], str] = {}
    for host in targets.hosts:
        key = _where(host, targets.inventory.variables.get(host, {}))
        if key in seen:
            yield seen[key], host
        seen[key] = host


def _where(host: str, variables: Mapping[str, Any]) -> tuple[str, ...]:
    """The way to a host and to its store, in one form for values that can be written in two ways or left out."""
    where = {name: str(variables.get(name) or "").strip() for name in _ADDRESS}
    store = where["evenkeel_store"].rstrip("/") or _STORE
    connection = where["ansible_connection"].rpartition(".")[2]
    if connection == "local":
        return "local", store
    # A name in DNS has no case, and a dot at its end changes nothing.
    address = (where["ansible_host"] or where["ansible_ssh_host"] or host).lower().rstrip(".")
    port = where["ansible_port"] or where["ansible_ssh_port"] or "22"
    reach = [where["ansible_ssh_args"], where["ansible_ssh_common_args"], where["ansible_ssh_extra_args"]]
    if connection in _SSH:
        # A bastion may have the host in the name of the user: vault@root@web1. A directory has name@domain.
        users = (str(variables.get(name) or "") for name in ("ansible_user", "ansible_ssh_user"))
        parts = {user: user for user in users if ":" in user or user.count("@") > 1 or ("@" in user and host in user)}
    else:
        parts = _of_connection(connection, variables)
    # A template that nobody resolves here can stand for another value on each host.
    reach += [f"{name}={host if is_template(value) else value}" for name, value in sorted(parts.items())]
    return "" if connection in _SSH else connection, address, port, *reach, store


def _of_connection(connection: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that say where a connection leads: its plugin knows them, and they have its name."""
    word = connection.partition("_")[0]
    begins = (f"{word}_", f"ansible_{word}_")
    return {
        name: value
        for name, value in variables.items()
        if name.startswith(begins)
        and isinstance(value, (str, int))
        and name not in _ADDRESS
        and not _NO_WAY.search(name)
    }
