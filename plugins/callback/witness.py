# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: witness
type: aggregate
short_description: Notes for the driver the hosts and variables beyond a wave
version_added: 0.2.0
author:
  - The Evenkeel Authors (@evenkeel)
description:
  - The driver evenkeel runs a playbook wave by wave, each wave a run of Ansible that is limited to its hosts. This
    callback keeps what a single run with C(serial) would keep in memory - variables that tasks set on hosts of earlier
    waves, and the groups they put them into - and notes which hosts outside of the wave were touched or left out.
  - It also lets the variables C(ansible_limit) and C(playbook_dir) be those of a run without the driver.
  - It does nothing unless the driver sets these options.
options:
  directory:
    description: Private directory of the driver; empty for none. It is absolute, and no path for Ansible, to which an
      empty path is the current directory.
    type: str
    env:
      - name: EVENKEEL_WITNESS
  limit:
    description: The limit that the user gave; empty for none.
    type: str
    env:
      - name: EVENKEEL_LIMIT
  playbook_dir:
    description: Directory of the playbook of the user; empty for that of the playbook that runs.
    type: str
    env:
      - name: EVENKEEL_PLAYBOOK_DIR
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.callback import CallbackBase
from ansible.release import __version__ as version

try:
    from ansible.template import is_trusted_as_template, trust_as_template
except ImportError as error:
    raise AnsibleError(
        f"evenkeel needs ansible-core 2.19 or newer, and this is {version} in {sys.prefix}: put a newer one on PATH"
    ) from error

LOCAL = ("localhost", "127.0.0.1", "::1")
# The key of a mapping that is written as pairs.
PAIRS = "__evenkeel_pairs"
# A variable of more characters than this is not carried to later waves.
LONGEST = 16_000_000
# The signs that make a text a template; the last one lets it choose signs of its own.
TEMPLATES = ("{{", "{%", "{#", "#jinja2:")
# Tasks that run no code on the host that they name.
IDLE = ("add_host", "assert", "debug", "fail", "gather_facts", "group_by", "include_vars", "meta", "pause", "set_fact",
        "set_stats", "setup")  # fmt: skip
# The rooms of the modules behind our plugins.
BEHIND = tuple(
    f"ansible_collections.evenkeel.fault_tolerance.plugins.{room}."
    for room in ("module_utils", "modules", "plugin_utils")
)


class CallbackModule(CallbackBase):
    """carried.json, from wave to wave: host -> its groups and variables (set by tasks, included from files, given by
    add_host). seen.json: the hosts that this run reached, and those of its limit for which no play of the user's came.
    """

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "evenkeel.fault_tolerance.witness"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._manager: Any = None
        self._touched: dict[str, None] = {}
        self._left_out: dict[str, str] = {}
        self._played: set[str] = set()
        self._ours: set[str] = set()
        # The hosts that add_host of earlier waves added.
        self._added: set[str] = set()
        # Whether a play runs on the controller alone, and the variables there as it began. Such plays set values of
        # earlier waves there, and names of this wave.
        self._local = False
        self._began: dict[str, dict[str, Any]] = {}
        self._earlier: dict[str, dict[str, Any]] = {}
        self._own: dict[str, set[str]] = {}

    def v2_playbook_on_start(self, playbook: Any) -> None:
        if not os.path.basename(playbook._file_name).startswith(".evenkeel-"):
            self.disabled = True  # a playbook that the user's own starts, and which inherits our variables
            return
        if Compiled not in sys.meta_path:
            sys.meta_path.insert(0, Compiled)
        limit, beside = self.get_option("limit"), self.get_option("playbook_dir")
        for play in playbook.get_plays():
            if self.get_option("directory"):  # the limit of a wave is a file of ours
                known = play.get_variable_manager()._options_vars
                known.pop("ansible_limit", None)
                known.update({"ansible_limit": limit} if limit else {})
            if play._included_path is None:  # a play of the driver's, whose file lies in its own directory
                self._ours.add(play._uuid)
                play._included_path = beside or None

    def v2_playbook_on_play_start(self, play: Any) -> None:
        if self.disabled or not self.get_option("directory"):
            self.disabled = True
            return
        inventory = play.get_variable_manager()._inventory
        if self._manager is None:
            self._manager = play.get_variable_manager()
            self._restore(inventory)
        names = _names(inventory.get_hosts(play.hosts, ignore_restrictions=True))
        self._turn_to(bool(names) and all(name in LOCAL for name in names))
        if play._uuid not in self._ours:  # with later batches of serial, which the play may leave out (end_play)
            self._played.update(names)
        ours = _names(inventory.get_hosts(ignore_restrictions=True))
        meant = inventory.get_hosts(play.hosts, ignore_limits=True, ignore_restrictions=True)
        self._left_out.update(
            {host: play.get_name() for host in _names(meant) if host not in (*ours, *self._added, *LOCAL)}
        )

    def v2_runner_on_ok(self, result: Any) -> None:
        self._note(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._note(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        self._note(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        self._note(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self._manager is None:
            return
        inventory = self._manager._inventory
        ours = _names(inventory.get_hosts(ignore_restrictions=True))
        touched = [host for host in self._touched if host not in (*ours, *LOCAL)]
        missed = [host for host in ours if host not in self._played]
        self._write("seen.json", json.dumps({"touched": touched, "left_out": self._left_out, "missed": missed}))
        self._turn_to(False)
        carried = self._carried()
        given: dict[str, dict[str, object]] = {}
        for one in inventory._cached_dynamic_hosts:
            # A mapping until ansible-core 2.20, and an object since.
            host, told = (
                (one["host_name"], one.get("host_vars")) if isinstance(one, dict) else (one.host_name, one.host_vars)
            )
            given.setdefault(str(host), {}).update(_plain(told or {}))
        # Tasks set variables and groups on others as well (delegate_facts, add_host).
        for host in [*inventory.hosts.values(), *([inventory.localhost] if inventory.localhost else [])]:
            before = carried.get(host.name, {})
            set_here = _plain(self._manager._nonpersistent_fact_cache.get(host.name, {}))
            included = _plain(self._manager._vars_cache.get(host.name, {}), templates=True)
            carried[host.name] = {
                "vars": {**before.get("vars", {}), **set_here},
                "included": {**before.get("included", {}), **included},
                "groups": [group.name for group in host.get_groups()],
                "direct": [group.name for group in host.get_groups() if host.name in group.host_names],
                "given": given.get(host.name),
                "own": sorted({*self._own.get(host.name, ()), *self._earlier.get(host.name, ())}),
            }
        self._write("carried.json", json.dumps(_written(carried)))

    def _note(self, result: Any) -> None:
        task = getattr(result, "task", None) or result._task
        # A loop reports each item; its sum may still have the template.
        host = str(task.delegate_to or "")
        if host and "{{" not in host and task.action.rpartition(".")[2] not in IDLE:
            self._touched.setdefault(host)

    def _restore(self, inventory: Any) -> None:
        """Put back the variables that earlier waves left in memory, as a single run would find them now."""
        for host, one in self._carried().items():
            if one["given"] is not None:
                self._added |= {host} - inventory.hosts.keys()
                groups = [group for group in one["direct"] if group not in ("all", "ungrouped")]
                _add_host(inventory, host, groups, one["given"])
            known = inventory.get_host(host)
            if known is None:
                continue
            own = self._earlier[host] = {name: one["vars"].pop(name) for name in one["own"] if name in one["vars"]}
            if own or one["vars"]:
                self._manager.set_nonpersistent_facts(host, one["vars"])
            for name, value in one["included"].items():
                # Below what tasks set, and above it again what the wave includes anew.
                with suppress(RecursionError):
                    self._manager.set_host_variable(host, name, _trusted(value))
            for group in one["groups"]:
                if group not in inventory.groups:
                    inventory.add_group(group)
                # The group has its parents already. As a member of its own it would change their order.
                if inventory.groups[group] not in known.get_groups():
                    inventory.groups[group].add_host(known)
                    _keep_group(inventory, known, group)
        inventory.reconcile_inventory()

    def _turn_to(self, local: bool) -> None:
        """A play ends, and another begins. Plays on the controller run in each wave, and with serial they run once. So
        they begin without what they set in an earlier wave, and other plays find that again. Only the result of a task
        (``register``) is that of this wave: it may name a file that this wave has made."""
        for host in LOCAL:
            now = self._manager._nonpersistent_fact_cache.get(host, {})
            earlier, own = self._earlier.get(host, {}), self._own.setdefault(host, set())
            if self._local:
                before = self._began.get(host, {})
                own.update(name for name, value in now.items() if before.get(name, self) is not value)
            else:
                earlier.update({name: now[name] for name in earlier if name in now})
            for name, value in earlier.items():
                if not local and not (name in own and _is_of_this_wave(value, now.get(name))):
                    now[name] = value
                elif local and name not in own:
                    now.pop(name, None)
            self._began[host] = dict(now)
        self._local = local

    def _carried(self) -> dict[str, Any]:
        try:
            with open(os.path.join(self.get_option("directory"), "carried.json"), encoding="utf-8") as stream:
                return dict(json.load(stream, object_hook=_read))
        except FileNotFoundError:
            return {}

    def _write(self, name: str, text: str) -> None:
        path = os.path.join(self.get_option("directory"), name)
        with os.fdopen(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(text)
        os.replace(path + ".new", path)


class Compiled:
    """Finds the modules behind our plugins, so that Python keeps them compiled. Ansible's own finder, which comes after
    this one, compiles each module of a collection anew in every run: a quarter of a second for all of these."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if not path or not name.startswith(BEHIND):
            return None
        there = os.path.join(path[0], name.rpartition(".")[2])
        found = (file for file in (os.path.join(there, "__init__.py"), f"{there}.py") if os.path.isfile(file))
        file = next(found, "")
        return spec_from_file_location(name, file) if file else None


def _add_host(inventory: Any, host: str, groups: list[str], given: Mapping[str, object]) -> None:
    """As a task add_host does, in the form of this ansible-core: it adds the host again when it reads the inventory."""
    try:
        from ansible._internal._task import AddHost
    except ImportError:
        inventory.add_dynamic_host({"host_name": host, "groups": groups, "host_vars": given}, {})
    else:
        inventory.add_dynamic_host(AddHost(host_name=host, host_vars=dict(given), parent_group_names=groups))


def _keep_group(inventory: Any, host: Any, group: str) -> None:
    """Let the host be in the group as after a task group_by, in the form of this ansible-core: it puts the host there
    again when it reads the inventory."""
    try:
        from ansible._internal._task import AddGroup
    except ImportError:
        inventory._cached_dynamic_grouping.append((host, {"add_group": group, "parent_groups": []}))
    else:
        inventory._cached_dynamic_grouping.append((host.name, AddGroup(group_name=group, parent_group_names=[])))


def _is_of_this_wave(first: Any, now: Any) -> bool:
    """Whether a variable that a wave has set anew names what only this wave has: a result, or a path of the controller
    in place of a path that is there no more."""
    if _is_result(now):
        return True
    paths = isinstance(first, str) and isinstance(now, str) and first.startswith("/") and now.startswith("/")
    return paths and not os.path.lexists(first) and os.path.lexists(now)


def _is_result(value: Any) -> bool:
    return isinstance(value, dict) and "changed" in value


def _names(hosts: Any) -> list[str]:
    return [host.name for host in hosts]


def _plain(found: Any, templates: bool = False) -> dict[str, object]:
    """The variables of a host that can be written down. With ``templates`` they come from files, and only those are
    given whose templates are trusted as such, so that all of them can be again."""
    plain = {}
    for name, value in found.items():
        # A too deeply nested value of one host must not keep the others from being written.
        try:
            text = json.dumps(_written([[[[[[[[value]]]]]]]]))
            if len(text) <= LONGEST and not (templates and _has_foreign_template(value)):
                plain[str(name)] = json.loads(text, object_hook=_read)[0][0][0][0][0][0][0][0]
        except (TypeError, ValueError, RecursionError):
            continue
    return plain


def _written(value: Any) -> Any:
    """The value, in which a mapping whose keys are not all texts stands as pairs: JSON would make texts of its keys."""
    if isinstance(value, dict) and not all(isinstance(key, str) and key != PAIRS for key in value):
        return {PAIRS: [[key, _written(one)] for key, one in value.items()]}
    if isinstance(value, dict):
        return {key: _written(one) for key, one in value.items()}
    return [_written(one) for one in value] if isinstance(value, (list, tuple)) else value


def _read(found: dict[str, Any]) -> dict[Any, Any]:
    """A mapping of JSON, as it was before ``_written``."""
    return dict(found[PAIRS]) if PAIRS in found else found


def _has_foreign_template(value: Any) -> bool:
    """Whether a text in the value is no template now, and would become a template if Ansible trusted it."""
    if isinstance(value, str):
        return not is_trusted_as_template(value) and any(mark in value for mark in TEMPLATES)
    return any(map(_has_foreign_template, value.values() if isinstance(value, dict) else _items(value)))


def _trusted(value: Any) -> Any:
    """The value of a variable from a file, with its templates trusted as such."""
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {key: _trusted(one) for key, one in value.items()}
    return [_trusted(one) for one in value] if isinstance(value, list) else value


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []
