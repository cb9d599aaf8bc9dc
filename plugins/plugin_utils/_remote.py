# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work on other hosts of the inventory from inside an action plugin, over the controller's own connections to them.

A host is reached as if the running task ran there: with its own connection, become and interpreter variables. Several
hosts are reached at once as Ansible does it, each by a forked process: a thread could neither be stopped when a
firewall silently drops its connection, nor keep Ansible's process-wide state apart.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

from ansible import constants as C
from ansible import context
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.executor.task_executor import TaskExecutor
from ansible.playbook.play_context import PlayContext
from ansible.plugins.action import ActionBase
from ansible.template import Templar
from ansible.utils.display import Display
from ansible.utils.sentinel import Sentinel
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _key, _library, _seal
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import ROOM, Answer, answer, bounded

COLLECTION = "evenkeel.fault_tolerance"
# Ansible templates an argument for the host of the task alone. These inventory variables are each host's own.
STORE_VARIABLE = "evenkeel_store"
PROBES_VARIABLE = "evenkeel_probes"
RESOURCES_VARIABLE = "evenkeel_resources"
# These are read for the first host of a play, and decide for all of its hosts.
FOR_ALL = tuple(
    f"evenkeel_{name}" for name in ("group", "guard_domain", "max_unavailable", "min_healthy", "resume", "waves")
)
_A_FACT = (
    "{name} is a fact of {host}, what the host says of itself, and decides nothing here; nothing was done."
    " Clear the cache of facts (--flush-cache), look at that host, and set it in the inventory"
)


class Host:
    """A host and the controller's connection to it, which is opened by the first call."""

    def __init__(self, name: str, action: ActionBase, variables: dict[str, Any]) -> None:
        self.name = name
        self._action = action
        self._variables = variables

    def module(self, name: str, /, **arguments: Any) -> Answer:
        """The result of a module of this collection. Raises AnsibleConnectionFailure where the host is
        unreachable."""
        result = _library.call(name, arguments, self._send, self._action, self._variables)
        died = [line for line in str(result.get("module_stderr") or "").splitlines() if line.strip()]
        # Ansible reports only that there was no result. The last line of standard error tells why.
        return dict(result, msg=f"the module died: {died[-1].strip()}") if died and result.get("failed") else result

    def _send(self, name: str, arguments: Mapping[str, Any]) -> Answer:
        module = {"module_name": f"{COLLECTION}.{name}", "module_args": dict(arguments), "task_vars": self._variables}
        return answer(self._action._connection, lambda: self._action._execute_module(**module))

    def directory(self) -> str:
        """A temporary directory of the login user on the host; ``close`` removes it."""
        shell = self._action._connection._shell
        with bounded(self._action._connection):
            return str(shell.tmpdir or self._action._make_tmp_path())

    def login(self) -> dict[str, str]:
        """The ``user`` as whom the connection logs in; where it does not tell, a ``directory`` of that user."""
        user = None
        with contextlib.suppress(AnsibleError, KeyError):
            user = self._action._connection.get_option("remote_user")
        return {"user": str(user)} if user else {"directory": self.directory()}

    def put(self, local: str, remote: str) -> None:
        """Send a file. Where a host has no sftp and no scp, Ansible holds all of it in memory."""
        with bounded(self._action._connection, ROOM + 3 * os.path.getsize(local)):
            self._action._connection.put_file(local, remote)

    def fetch(self, remote: str, local: str) -> None:
        """Fetch a file that the login user may read. Only the controller's user may read the local file (umask
        077)."""
        mask = os.umask(0o077)
        try:
            self._action._connection.fetch_file(remote, local)
        finally:
            os.umask(mask)

    def close(self) -> None:
        """Remove the temporary files on the host."""
        with bounded(self._action._connection):
            self._action.cleanup(force=True)


class Inventory:
    """The hosts that a task can name, each with its variables as if the task ran there."""

    def __init__(self, action: ActionBase, task_vars: dict[str, Any]) -> None:
        self._action = action
        self._task_vars = task_vars
        self._manager = action._task.get_variable_manager()
        self._inventory = self._manager._inventory
        self._cache: dict[str, dict[str, Any]] = {}

    @property
    def predicts(self) -> bool:
        """Whether the running task is in check mode, in which modules change nothing."""
        return bool(self._action._task.check_mode)

    def here(self) -> Host:
        """The host of the running task, over the connection that Ansible has made for it."""
        return Host(self._task_vars["inventory_hostname"], self._action, self._task_vars)

    def has(self, name: str) -> bool:
        """Whether the inventory has a host of this name."""
        return self._inventory.get_host(name) is not None

    def hosts_of(self, names: Iterable[str]) -> list[str]:
        """The host names that names of hosts and groups stand for, each once and in order. Raises AnsibleError for
        another name."""
        groups = self._inventory.get_groups_dict()
        found: dict[str, None] = {}
        for name in names:
            if name in groups:
                found.update(dict.fromkeys(groups[name]))
            elif self._inventory.get_host(name) is not None:
                found[name] = None
            else:
                raise AnsibleError(f"{name}: the inventory has no host and no group of this name")
        return list(found)

    def variables(self, name: str) -> dict[str, Any]:
        if name not in self._cache:
            host = self._inventory.get_host(name)
            if host is None:
                raise AnsibleError(f"{name}: the inventory has no host of this name")
            task = self._action._task
            variables = self._manager.get_vars(play=task.get_play(), host=host, task=task)
            # Lookups search here. Ansible sets it for the host of the task alone.
            places = dict.fromkeys([*task.get_search_path(), self._action._loader.get_basedir()])
            self._cache[name] = {**variables, "ansible_search_path": [*places]}
        return self._cache[name]

    def variable(self, host: str, name: str, default: Any = None) -> Any:
        """The value that a variable has for a host, templated with that host's own variables."""
        variables = self.variables(host)
        if name not in variables:
            return default
        return self._templar(variables).template(variables[name])

    def values(self, host: str, names: Iterable[str]) -> Mapping[str, object]:
        """The values of those of these variables that a host has, templated with that host's own variables."""
        variables = self.variables(host)
        found: Mapping[str, object] = self._templar(variables).template(
            {name: variables[name] for name in names if name in variables}
        )
        return found

    def store(self, host: str, given: str) -> str:
        """The path of a host's store: ``given`` for the task's host; for another host its own variable, or else
        ``given``."""
        if host == self._task_vars["inventory_hostname"]:
            return given
        return str(self.variable(host, STORE_VARIABLE, given))

    def keys(self, owner: str) -> _key.Keys:
        """The keys for the MACs of a host's copies. UsageError for malformed keys."""
        return _key.find(self._ours(self._known(owner), _key.VARIABLE), self._directory(owner))

    def seals(self, owner: str) -> _seal.Seals:
        """The keys with which a host's copies are encrypted, if any. UsageError for malformed keys."""
        return _seal.find(self._ours(self._known(owner), _seal.VARIABLE), owner)

    def make_key(self, owner: str) -> _key.Keys:
        """The keys of a host, made where there are none. UsageError where they cannot be made."""
        return _key.make(self._directory(owner))

    def resources(self, owner: str) -> Any:
        """The resources that the inventory declares for a host, or None. UsageError where a fact declares them."""
        return self._ours(self._known(owner), RESOURCES_VARIABLE)

    def address(self, host: str) -> str:
        """The address at which Ansible reaches a host."""
        return str(self.variable(host, "ansible_host") or self.variable(host, "ansible_ssh_host") or host)

    def port(self, host: str) -> object:
        """The port at which Ansible reaches a host by SSH."""
        return self.variable(host, "ansible_port") or self.variable(host, "ansible_ssh_port") or C.DEFAULT_REMOTE_PORT

    def share_address(self, host: str, other: str) -> bool:
        """Whether Ansible reaches both names at one address, in the same way."""
        if any(not self.has(one) or self.is_here(one) for one in (host, other)):
            return False
        ways = [
            (self.connection(one), self.address(one), str(self.port(one) or 22))
            + tuple(str(self.variable(one, f"ansible_ssh_{kind}_args") or "") for kind in ("common", "extra"))
            for one in (host, other)
        ]
        return ways[0] == ways[1]

    def own(self, host: str, name: str) -> Any:
        """A variable of a host from the inventory, or None. UsageError where a fact sets it."""
        return self._ours(host, name)

    def connection(self, host: str) -> str:
        """The name of the plugin by which Ansible reaches a host."""
        variables = self.variables(host)
        return str(self.variable(host, "ansible_connection") or self._templar(variables).template(self.keyword()))

    def keyword(self) -> Any:
        """The plugin by which the play reaches hosts without a variable: the keyword of a block, a role or the play, or
        else what the command line says. A play that runs does not hand its keyword to its blocks any more, and the
        task's own holds the value of the running host since ansible-core 2.21."""
        task = self._action._task
        said = task._get_parent_attribute("connection", omit=True)
        return task._parent.connection if said in (Sentinel, None) else "ssh" if said == "smart" else said

    def is_here(self, host: str) -> bool:
        """Whether a host is the controller itself."""
        return self.connection(host).rpartition(".")[2] == "local"

    def refuse_facts(self, host: str, names: Iterable[str]) -> None:
        """Raise UsageError where a fact of the host itself sets one of these variables."""
        told = self._told(host) & set(names)
        if told:
            raise UsageError(_A_FACT.format(name=sorted(told)[0], host=host))

    def at_once(self, works: Mapping[str, Callable[[], Answer]], timeout: float) -> dict[str, Answer]:
        """The result (JSON) of each work. All works run at the same time. A work that does not end in time is
        unreachable."""
        return dict(_forked(list(works), lambda name: works[name](), timeout, max(1, len(works))))

    def _told(self, host: str) -> set[str]:
        """The names of the variables that are facts: the host itself has set them."""
        try:
            facts = self._manager._fact_cache.get(host) or {}
        except KeyError:
            facts = {}
        variables = self.variables(host)
        return {key for key in facts if key in variables and variables[key] == facts[key]}

    def _ours(self, host: str, name: str) -> Any:
        """The variable of the host from the inventory alone, without facts: facts override the inventory, and a cache
        keeps them. A template may use facts named ansible_…; all other facts are not defined here."""
        variables, told = self.variables(host), self._told(host)
        if name in told:
            raise UsageError(_A_FACT.format(name=name, host=host))
        kept = {key: value for key, value in variables.items() if key not in told or key.startswith("ansible_")}
        return self._templar(kept).template(variables[name]) if name in variables else None

    def _known(self, owner: str) -> str:
        """The host, or the task's host, which replaces a host that the inventory no longer has."""
        known = self._inventory.get_host(owner) is not None
        return owner if known else str(self._task_vars["inventory_hostname"])

    def _directory(self, owner: str) -> str | None:
        """The directory of a host's inventory; for a host that a task added, the directory of the first inventory on
        disk."""
        found = self.variables(self._known(owner)).get("inventory_dir")
        if found:
            return str(found)
        paths = [os.path.abspath(str(one)) for one in self._inventory._sources or () if os.path.exists(str(one))]
        return next((one if os.path.isdir(one) else os.path.dirname(one) for one in paths), None)

    def connect(self, name: str) -> Host:
        """The host, with a connection of its own. Ansible's task executor builds it, as for any task of that host."""
        action = self._action
        variables = dict(self.variables(name))
        task = action._task.copy()
        task.delegate_to = None
        templar = self._templar(variables)

        # Build a new play context. A copy of the running host's would keep its port or password where this host has
        # none.
        play_context = PlayContext(
            task.get_play(), self._passwords(), getattr(action._play_context, "connection_lockfd", None)
        ).set_task_and_variable_override(task=task, variables=variables, templar=templar)
        play_context.post_validate(templar=templar)
        if not play_context.remote_addr:
            play_context.remote_addr = self._inventory.get_host(name).address

        parts = {
            "host": self._inventory.get_host(name),
            "task": task,
            "job_vars": variables,
            "play_context": play_context,
            "loader": action._loader,
            "shared_loader_obj": action._shared_loader_obj,
            "final_q": None,
            "variable_manager": self._manager,
        }
        accepted = inspect.signature(TaskExecutor).parameters  # 2.20 moved the task and its variables elsewhere
        executor = TaskExecutor(**{key: value for key, value in parts.items() if key in accepted})
        transport = variables.get("ansible_connection")
        if transport is None:
            transport = self.keyword()
        executor._connection = executor._get_connection(variables, templar, templar.template(transport))
        executor._set_connection_options(variables, templar)
        executor._connection._play_context = play_context
        executor._connection.update_vars(variables)

        handler = action._shared_loader_obj.action_loader.get(
            "ansible.legacy.normal",
            task=task,
            connection=executor._connection,
            play_context=play_context,
            loader=action._loader,
            templar=templar,
            shared_loader_obj=action._shared_loader_obj,
        )
        return Host(name, handler, variables)

    def each(self, hosts: Iterable[str], work: Callable[[Host], Answer], timeout: float) -> dict[str, Answer]:
        """Call ``work`` for every host, as many at a time as Ansible has forks; a result (JSON) for each host.

        ``timeout``: seconds for each host. A host that cannot be reached or does not answer in time has the result
        ``{"unreachable": True, "msg": ...}``. A host whose work raised an error has ``{"failed": True, "msg": ...}``.
        """

        return dict(self._each(hosts, work, timeout, None))

    def beside(
        self, hosts: Iterable[str], work: Callable[[Host], Answer], timeout: float, own: Callable[[], Answer]
    ) -> tuple[Answer, dict[str, Answer]]:
        """The result of ``own``, done in this process, and those of ``each``, at the same time. Where ``own`` has
        failed, the hosts are not awaited."""
        done: list[Answer] = []

        def meanwhile() -> bool:
            done.append(own())
            return not done[0].get("failed")

        told = dict(self._each(hosts, work, timeout, meanwhile))
        return done[0] if done else own(), told

    def _each(
        self, hosts: Iterable[str], work: Callable[[Host], Answer], timeout: float, own: Callable[[], bool] | None
    ) -> Iterator[tuple[str, Answer]]:
        def call(name: str) -> Answer:
            host = self.connect(name)
            try:
                return work(host)
            finally:
                host.close()

        forks = int(context.CLIARGS.get("forks") or C.DEFAULT_FORKS)
        return _forked(list(dict.fromkeys(hosts)), call, timeout, forks, own)

    def _templar(self, variables: dict[str, Any]) -> Templar:
        return Templar(loader=self._action._loader, variables=variables)

    def _passwords(self) -> dict[str, str]:
        """The passwords of the command line, which count for every host. A password from a variable of the running
        host is left out."""
        known = C.MAGIC_VARIABLE_MAPPING
        become = getattr(self._action._connection, "become", None)
        own = {
            "conn_pass": {*known["password"], *_plugin_vars("connection", self._action._connection)},
            "become_pass": {*known["become_pass"], *(_plugin_vars("become", become) if become else ())},
        }
        value = {
            "conn_pass": self._action._play_context.password,
            "become_pass": self._action._play_context.become_pass,
        }
        return {
            key: value[key] or ""
            for key, names in own.items()
            if not any("pass" in name and name in self._task_vars for name in names)
        }


def _plugin_vars(kind: str, plugin: Any) -> Iterable[str]:
    names: Iterable[str] = C.config.get_plugin_vars(kind, plugin._load_name)
    return names


def _forked(
    names: list[str],
    call: Callable[[str], Answer],
    timeout: float,
    at_once: int,
    meanwhile: Callable[[], bool] | None = None,
) -> Iterator[tuple[str, Answer]]:
    """(name, result of ``call(name)``) for every name, each from a process of its own, in the order in which they
    end. ``meanwhile`` is called once, while the first of them run; they are ended where it returns False."""
    waiting = list(reversed(names))
    running: dict[int, tuple[str, int, float, bytearray]] = {}
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < max(1, at_once):
                    name = waiting.pop()
                    pid, pipe = _fork(call, name, timeout)
                    running[pipe] = (name, pid, time.monotonic() + timeout, bytearray())
                    selector.register(pipe, selectors.EVENT_READ)
                if meanwhile is not None:
                    began = time.monotonic()
                    if not meanwhile():
                        return
                    meanwhile, took = None, time.monotonic() - began  # In which nobody could read their results.
                    running = {pipe: (one[0], one[1], one[2] + took, one[3]) for pipe, one in running.items()}
                next_deadline = min(deadline for _name, _pid, deadline, _said in running.values())
                for key, _events in selector.select(max(0.0, next_deadline - time.monotonic())):
                    name, pid, _deadline, said = running[key.fd]
                    if chunk := os.read(key.fd, 1 << 16):
                        said += chunk
                        continue
                    _forget(selector, running, key.fd)
                    yield name, _result(said)
                for pipe, (name, _pid, deadline, _said) in list(running.items()):
                    if time.monotonic() >= deadline:
                        _forget(selector, running, pipe, kill=True)
                        yield name, {"unreachable": True, "msg": f"no answer within {timeout:g} s"}
        finally:
            for pipe in list(running):
                _forget(selector, running, pipe, kill=True)


def _fork(call: Callable[[str], Answer], name: str, timeout: float) -> tuple[int, int]:
    """Start ``call(name)`` in a process and group of its own; (its process id, the pipe from which to read its
    result)."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _child(call, name, timeout, write)
    os.close(write)
    return pid, read


def _child(call: Callable[[str], Answer], name: str, timeout: float, pipe: int) -> NoReturn:
    """Run ``call(name)``, write its result, and end the process: the callers on the stack belong to the parent."""
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Where the parent was killed, only this alarm ends a connection that hangs.
        signal.signal(signal.SIGALRM, lambda _number, _frame: os.killpg(0, signal.SIGKILL))
        signal.alarm(int(timeout) + 5)
        # Send no messages to Ansible's queue: a process killed while it holds the queue's lock would stop the run.
        Display().set_queue(None)
        try:
            result = call(name)
        except AnsibleConnectionFailure as error:
            result = {"unreachable": True, "msg": str(error)}
        except Exception as error:
            result = {"failed": True, "msg": f"{type(error).__name__}: {error}"}
        signal.alarm(0)  # The parent may read it late. Where the parent is gone, nobody reads, and the write fails.
        with os.fdopen(pipe, "w") as stream:
            json.dump(result, stream, default=str)
    finally:
        os._exit(0)


def _forget(selector: selectors.BaseSelector, running: dict[int, Any], pipe: int, kill: bool = False) -> None:
    """Reap the process of this pipe, or kill it first. A finished process leaves its SSH master behind for later
    tasks."""
    _name, pid, _deadline, _said = running.pop(pipe)
    selector.unregister(pipe)
    os.close(pipe)
    for target in (-pid, pid) if kill else ():  # The group of the process, and the process where it has no group yet.
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, signal.SIGKILL)
    os.waitpid(pid, 0)


def _result(said: bytes | bytearray) -> Answer:
    try:
        result = json.loads(said.decode())
    except ValueError:
        return {"failed": True, "msg": "the process that worked on this host ended without a result"}
    return dict(result)
