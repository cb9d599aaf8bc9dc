# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tasks of an operation, one module or a file of tasks: read, checked, and carried out by Ansible's own executor.

The file is read before anything is touched. Work outside of the process of one task (blocks, handlers, includes, other
hosts) has no place in it, and is refused by its name.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible import constants as C
from ansible._internal._datatag._tags import Origin
from ansible._internal._task import TaskContext
from ansible._internal._templating._engine import TemplateEngine
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.executor.task_executor import TaskExecutor
from ansible.playbook.block import Block
from ansible.playbook.task import Task
from ansible.plugins.action import ActionBase
from ansible.utils.vars import combine_vars
from ansible.vars.clean import clean_facts, namespace_facts
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import warning_texts, words

# Actions that no host carries out: they steer the run, or change the variables of the play.
_NO_OPERATION = {
    *("meta", "include_tasks", "import_tasks", "include_role", "import_role", "import_playbook", "include_vars"),
    *("add_host", "group_by", "set_stats", "async_status", "pause", "ft_repeat"),
}
# A module that is the operation cannot do this either; in a file later tasks see the facts.
_NO_MODULE = {"set_fact"}
# The keywords that a task of the file can have.
_KEYWORDS = {
    *("name", "action", "args", "when", "loop", "loop_control", "register", "vars", "environment", "become"),
    *("become_user", "become_method", "become_flags", "become_exe", "no_log", "changed_when", "failed_when"),
    *("ignore_errors", "check_mode", "diff", "module_defaults", "collections"),
}
# Keywords that are none of a task.
_OTHERS = {"block", "rescue", "always", "listen", "local_action", "hosts", "roles", "tasks", "import_playbook"}
# Keywords of the operation's own task, of which the values are final, that its tasks take over.
_INHERITED = (
    *("connection", "port", "remote_user", "become", "become_method", "become_user", "become_flags", "become_exe"),
    *("environment", "no_log", "check_mode", "diff", "collections", "module_defaults", "delegate_to", "delegate_facts"),
)
_LARGEST_FILE, _MOST_TASKS = 1 << 18, 100
# Characters of JSON of all results together, before the results of further tasks are shortened.
_LONGEST_RESULTS = 1 << 15
# A template that gives another value each time, or does something to get it.
_FLEETING = re.compile(r"\b(lookup|query|q|now|undef|random|shuffle)\b")
# Keys of a result that are Ansible's own, or stand in the result of the task of the operation.
_NOT_STORED = ("invocation", "ansible_facts", "exception", "deprecations", "warnings", "diff")
_HIDDEN = "the output has been hidden, as no_log is set for this task"

Result = dict[str, Any]


def stored(result: Mapping[str, Any]) -> Result:
    """The part of a result that is reported and stored."""
    return {key: value for key, value in result.items() if key not in _NOT_STORED and not key.startswith("_ansible_")}


@dataclass(frozen=True)
class _Done:
    """A task that was carried out. ``variables``: what later tasks see of it. ``ignored``: it may fail."""

    task: Task
    result: Result
    variables: Mapping[str, Any]
    ignored: bool

    @property
    def ends(self) -> bool:
        """Whether the attempt ends with this task."""
        return bool(self.result.get("unreachable") or (self.result.get("failed") and not self.ignored))


class Tasks:
    """The tasks of an operation, in order. ``file``: the path of their file, or empty."""

    def __init__(self, action: ActionBase, variables: Mapping[str, Any], file: str = "") -> None:
        self.file = file
        self.tasks: list[Task] = []
        self.digest = ""
        self._action, self._variables = action, variables
        self._manager = action._task.get_variable_manager()
        self._host = self._manager._inventory.get_host(str(variables["inventory_hostname"]))
        self._secret = bool(action._task.no_log)
        self._check_mode = bool(action._task.check_mode)

    @classmethod
    def of_module(
        cls, action: ActionBase, variables: Mapping[str, Any], module: str, arguments: Mapping[str, Any]
    ) -> Tasks:
        """Raises UsageError, AnsibleError."""
        self = cls(action, variables)
        _check_action(action, module, action._task.collections, "module", _NO_OPERATION | _NO_MODULE)
        task = self._loaded({"action": module})
        task.args = dict(arguments)
        self.tasks = [task]
        self.digest = _hash([module, self._final(module, arguments)])
        return self

    @classmethod
    def of_file(cls, action: ActionBase, variables: Mapping[str, Any], name: str) -> Tasks:
        """Raises UsageError, AnsibleError."""
        self = cls(action, variables, _found(action, name))
        if os.path.getsize(self.file) > _LARGEST_FILE:
            raise UsageError(f"tasks: {self.file} is longer than {_LARGEST_FILE >> 10} KiB. Nothing was touched")
        items = _read(action, self.file)
        if not isinstance(items, list) or not 0 < len(items) <= _MOST_TASKS:
            raise UsageError(f"tasks: {self.file} is no list of 1 to {_MOST_TASKS} tasks. Nothing was touched")
        content = json.dumps(items, sort_keys=True, default=str)
        for number, item in enumerate(items, 1):
            if not isinstance(item, Mapping):
                raise UsageError(f"tasks: {self.file}: item {number} is no task. Nothing was touched")
            self.tasks.append(self._checked(item))
        self.digest = _hash(["tasks", content, list(self._known(items))])
        return self

    def _checked(self, item: Mapping[str, Any]) -> Task:
        """A task of the file. Raises UsageError for one that cannot be a part of an operation."""
        where = _place(self.file, item)
        _check_keywords(self.file, item)
        try:
            task = self._loaded(item)
        except AnsibleError as error:
            raise UsageError(f"{where}: {_first_line(error)}. Nothing was touched") from error
        _check_action(self._action, task.action, task.collections, where, _NO_OPERATION)
        return task

    def run(self, token: Mapping[str, str], go_on: Callable[[], None]) -> Result:
        """Carry the tasks out, up to the first failure.

        ``token``: variables of their environment. ``go_on`` is called before each task but the first, and after each
        item of a loop; it raises AnsibleError where the attempt must not go on.
        """
        done: list[_Done] = []
        known: dict[str, Any] = {}
        stopped: Result = {}
        for task in self.tasks:
            stopped = _stopped(go_on) if done else {}
            if stopped:
                break
            task.environment = [*(task.environment or []), dict(token)]
            done.append(self._carried_out(task, known, go_on))
            known.update(done[-1].variables)
            if done[-1].ends:
                break
        return {**self._together(done), **stopped}

    def _loaded(self, item: Mapping[str, Any]) -> Task:
        """A task below a block that stands for the task of the operation, and for nothing around it: a condition or
        ``ignore_errors`` there is no part of the operation."""
        own = self._action._task
        block = Block(play=own.get_play(), implicit=True)
        block._dep_chain = own.get_dep_chain()
        for name in _INHERITED:
            value = getattr(own, name)
            setattr(block, name, list(value) if isinstance(value, list) else value)
        block.vars = dict(own.get_vars())
        block.ignore_errors = block.ignore_unreachable = False
        block.timeout = 0  # The deadline of the operation ends it.
        return Task.load(item, block=block, role=own._role, variable_manager=self._manager, loader=self._action._loader)

    def _vars(self, task: Task, known: Mapping[str, Any]) -> dict[str, Any]:
        """The variables of a task. ``known``: what the tasks before it have registered and set."""
        play = self._action._task.get_play()
        own = self._manager.get_vars(play=play, host=self._host, task=task)
        extra = self._manager.extra_vars
        return {**self._variables, **own, **{key: value for key, value in known.items() if key not in extra}}

    # -- what the operation is

    def _final(self, action: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments of an action with the defaults that the play has for its module. Raises AnsibleError."""
        task = self._loaded({"action": action})
        task.args = dict(arguments)
        task.squash()
        task.post_validate(TemplateEngine(loader=self._action._loader, variables=self._vars(task, {})))
        return dict(task.args)

    def _known(self, items: Sequence[Mapping[str, Any]]) -> Iterator[object]:
        """For each task its arguments and what it loops over, with all values that are known before the first task."""
        later = {name for item in items for name in _set_by(item)}
        for task in self.tasks:
            variables = {key: value for key, value in self._vars(task, {}).items() if key not in later}
            templar = TemplateEngine(loader=self._action._loader, variables=variables)
            try:
                defaults: object = self._final(task.action, {})
            except AnsibleError:
                defaults = str(task.module_defaults)
            yield [task.action, defaults, _values(task.args, templar), _values(task.loop, templar)]

    # -- an attempt

    def _carried_out(self, task: Task, known: Mapping[str, Any], go_on: Callable[[], None]) -> _Done:
        variables = self._vars(task, known)
        facts_before = variables.get("ansible_facts") or {}
        queue = _Queue(go_on)
        parts = {
            "host": self._host,
            "task": task,
            "job_vars": variables,
            "play_context": self._action._play_context.copy(),
            "loader": self._action._loader,
            "shared_loader_obj": self._action._shared_loader_obj,
            "final_q": queue,
            "variable_manager": self._manager,
        }
        accepted = inspect.signature(TaskExecutor).parameters
        passed = {key: value for key, value in parts.items() if key in accepted}
        if "task" in accepted:
            with TaskContext(task):
                result = dict(TaskExecutor(**passed).run())
            registered = {task.register: _registered(result)} if task.register else {}
            ignored = task.ignore_errors
        else:  # since 2.20
            task.squash()
            with TaskContext.create(task, variables, self._host.name):
                answer = TaskExecutor(**passed).run()
                answer.finalize_registered_values()
            result = dict(answer.as_result_dict())
            result["_ansible_no_log"] = any(one.no_log for one in (answer, *(answer.loop_results or ())))
            registered, ignored = answer.registered_values or {}, answer.ignore_errors
        if queue.items and "results" not in result:
            result["changed"] = True  # The task was stopped between two items, for all that is known after a change.
        return _Done(task, result, {**_facts(task.action, result, facts_before), **registered}, ignored is True)

    # -- its result

    def _together(self, done: Sequence[_Done]) -> Result:
        """The result of the attempt: that of the last task that was not skipped, and ``results`` of all of a file."""
        last = next((one for one in reversed(done) if not one.result.get("skipped")), done[-1])
        result = self._shown(last)
        unpredicted = [one for one in done if self._check_mode and _is_unpredicted(one.result)]
        warnings = [f"{self._name(one)} does not support check mode, and would be run" for one in unpredicted]
        if self._check_mode and last.ends:
            # Ansible shows warnings although no_log is set.
            why = _HIDDEN if _is_hidden(last.result) or self._secret else words(str(result.get("msg") or "no reason"))
            warnings.append(f"{self._name(last)} fails in check mode: {why}")
        more: Result = {
            "changed": bool(unpredicted) or any(one.result.get("changed") for one in done),
            "failed": bool(last.ends and last.result.get("failed")),
            "warnings": [
                *(
                    said
                    for one in done
                    if not _is_hidden(one.result)
                    for said in warning_texts(one.result.get("warnings"))
                ),
                *warnings,
            ],
        }
        if self.file:
            more["results"] = _bounded([{**self._shown(one), "task": one.task.get_name()} for one in done])
            more["diff"] = [diff for one in done if not _is_hidden(one.result) for diff in _diffs(one.result)]
            if last.ends:
                more["msg"] = f"{self._name(last)}: {result.get('msg') or 'it gives no reason'}"
        return {**result, **more}

    def _name(self, done: _Done) -> str:
        name = words(done.task.get_name(), 100)
        return f"the task {name} ({done.task.get_path()})" if self.file else f"the module {name}"

    def _shown(self, done: _Done) -> Result:
        """The result of a task as it may be seen. Where nothing of the operation may be, Ansible hides it as a
        whole."""
        if _is_hidden(done.result) and not self._secret:
            kept = ("changed", "failed", "skipped", "unreachable")
            return {"censored": _HIDDEN, **{key: done.result[key] for key in kept if key in done.result}}
        if not self.file:
            return done.result
        items = done.result.get("results")
        listed = {"results": [_plain(item) for item in items]} if isinstance(items, list) else {}
        return {**stored(done.result), **listed}


class _Queue:
    """Takes the place of the queue of the run, which only a process of Ansible's own may use: what is said of each item
    of a loop goes nowhere, and lets the attempt go on."""

    def __init__(self, go_on: Callable[[], None]) -> None:
        self._go_on, self.items = go_on, 0

    def send_callback(self, name: str, *_about: object) -> None:
        if name.startswith("v2_runner_item_on_"):
            self.items += 1
            self._go_on()


def _stopped(go_on: Callable[[], None]) -> Result:
    """The result of an attempt that must not go on; empty where it may."""
    try:
        go_on()
    except AnsibleConnectionFailure as error:
        return {"unreachable": True, "msg": str(error)}
    except AnsibleError as error:
        return {"failed": True, "msg": str(error)}
    return {}


def _found(action: ActionBase, name: str) -> str:
    """The path of a file of tasks, found as ``include_tasks`` finds it. Raises UsageError."""
    task, loader = action._task, action._loader
    folders = [os.path.join(task._role._role_path, "tasks")] if task._role is not None else []
    folders.append(os.path.dirname(str(task.get_path() or "")))
    places = list(dict.fromkeys([*(os.path.join(one, name) for one in folders if one), loader.path_dwim(name)]))
    found = next((one for one in places if os.path.isfile(one)), None)
    if found is None:
        raise UsageError(f"tasks: there is no file {name}; it was sought as {', '.join(places)}. Nothing was touched")
    return str(found)


def _read(action: ActionBase, file: str) -> object:
    """The content of a file of tasks. Raises UsageError."""
    try:
        return action._loader.load_from_file(file, cache="none", trusted_as_template=True)
    except AnsibleError as error:
        raise UsageError(f"tasks: {file} cannot be read: {_first_line(error)}. Nothing was touched") from error


def _first_line(error: AnsibleError) -> str:
    return (str(error).splitlines() or ["it gives no reason"])[0].rstrip(".")


def _check_keywords(file: str, item: Mapping[str, Any]) -> None:
    """Raises UsageError for a keyword that a task of an operation cannot have."""
    known = {*Task.fattributes, *(field.alias for field in Task.fattributes.values() if field.alias), *_OTHERS}
    for key in item:
        if key in known and key not in _KEYWORDS:
            raise UsageError(
                f"{_place(file, item[key], item)}: {key} is not possible in the tasks of an operation. Nothing was"
                " touched"
            )


def _check_action(action: ActionBase, name: str, collections: Sequence[str], where: str, refused: set[str]) -> None:
    """Raises UsageError for a word that is no action of Ansible, and for an action that no host carries out."""
    loaders = action._shared_loader_obj
    found = loaders.module_loader.find_plugin_with_context(name, collection_list=collections)
    own = found.action_plugin if found.resolved else None
    if not own and loaders.action_loader.has_plugin(name, collection_list=collections):
        own = name
    if not own and not found.resolved:
        raise UsageError(f"{where}: there is no module {name}. Nothing was touched")
    kind = loaders.action_loader.get(own or "ansible.legacy.normal", class_only=True, collection_list=collections)
    if name.rpartition(".")[2] in refused or getattr(kind, "BYPASS_HOST_LOOP", False):
        raise UsageError(f"{where}: {name} does nothing on a host that could be repeated. Nothing was touched")


def _place(file: str, *values: object) -> str:
    """The place of the first of these values that has one."""
    lines = (getattr(Origin.get_tag(value), "line_num", None) for value in values)
    line = next(filter(None, lines), None)
    return f"tasks: {file}:{line}" if line else f"tasks: {file}"


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _set_by(item: Mapping[str, Any]) -> Iterator[str]:
    """The variables that a task of the file sets."""
    register, control = item.get("register"), item.get("loop_control") or {}
    yield from [register] if isinstance(register, str) else register or ()
    if "loop" in item or any(str(key).startswith("with_") for key in item):
        yield str(control.get("loop_var") or "item")
        yield str(control.get("index_var") or "ansible_index_var")
    for key, value in item.items():
        if str(key).rpartition(".")[2] == "set_fact" and isinstance(value, Mapping):
            yield from map(str, value)


def _values(value: Any, templar: TemplateEngine) -> object:
    """The value with its templates filled in. A template that cannot be filled in yet, or whose value is fleeting,
    stays as it is written."""
    if isinstance(value, Mapping):
        return {str(key): _values(one, templar) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_values(one, templar) for one in value]
    if not isinstance(value, str) or _FLEETING.search(value):
        return value
    try:
        return templar.template(value)
    except AnsibleError:
        return value


def _facts(action: str, result: Result, before: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that a result sets besides those that are registered. ``before``: the facts of the host."""
    items = result.get("results")
    told = [one.get("ansible_facts") for one in [result, *(items if isinstance(items, list) else [])] if _is_map(one)]
    found: dict[str, Any] = {}
    for facts in filter(_is_map, [] if action in C._ACTION_DEBUG else told):
        if action in C._ACTION_SET_FACT:
            found.update(facts)
            continue
        found["ansible_facts"] = combine_vars(found.get("ansible_facts", dict(before)), namespace_facts(facts))
        if C.config.get_config_value("INJECT_FACTS_AS_VARS"):
            found.update(clean_facts(facts))
    return found


def _is_map(value: object) -> bool:
    return isinstance(value, Mapping)


def _plain(item: Any) -> Any:
    return stored(item) if _is_map(item) else item


def _registered(result: Result) -> Result:
    """The result as later tasks see it."""
    left_out = ("invocation", "exception", "deprecations", "warnings")
    kept = {key: value for key, value in result.items() if key not in left_out and not key.startswith("_ansible_")}
    if isinstance(kept.get("results"), list):
        kept["results"] = [_registered(item) if _is_map(item) else item for item in kept["results"]]
    return kept


def _is_hidden(result: Result) -> bool:
    return bool(result.get("_ansible_no_log"))


def _is_unpredicted(result: Result) -> bool:
    """Whether check mode has skipped the task, or an item of it; a condition has not."""
    items = [one for one in result.get("results") or [] if _is_map(one)]
    if "skipped_reason" in result or any("_ansible_item_label" in one for one in items):
        return any(_is_unpredicted(one) for one in items)
    return bool(result.get("skipped")) and "false_condition" not in result and "skip_reason" not in result


def _diffs(result: Result) -> Iterator[object]:
    items = result.get("results")
    for one in [result, *(items if isinstance(items, list) else [])]:
        found = one.get("diff") if _is_map(one) else None
        yield from found if isinstance(found, list) else [found] if found else []


def _bounded(results: Sequence[Result]) -> list[Result]:
    """The results, in order. Once they are long, only the outcome of each further one."""
    found, left = [], _LONGEST_RESULTS
    for result in results:
        length = len(json.dumps(result, default=str))
        if length > left:
            kept: Result = {key: result[key] for key in ("task", "changed", "failed", "skipped", "rc") if key in result}
            result = {**kept, "msg": words(str(result.get("msg") or ""), 200), "shortened": True}
        else:
            left -= length
        found.append(result)
    return found
