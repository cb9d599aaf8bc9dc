# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A session of the driver: runs of the user's Ansible, with a private directory that is removed after them."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from evenkeel.ansible.ahead import Awaited
from evenkeel.ansible.asking import program
from evenkeel.ansible.beside import link
from evenkeel.ansible.configuration import NO_FACTS, NO_TERMINAL, Ansible
from evenkeel.ansible.event import Event, mapping
from evenkeel.ansible.events import AGAIN, PREFIX
from evenkeel.ansible.options import Options, Secrets
from evenkeel.ansible.runner import Child, Ended, Job, Runner
from evenkeel.ansible.scratch import hang_up, scratch_directory
from evenkeel.ansible.targets import chosen_hosts
from evenkeel.ansible.wrapper import wrapped
from evenkeel.collection import FQCN, collections_path
from evenkeel.outcome import UsageError

WITNESS = f"{FQCN}.witness"
# The settings of a run whose results are values of variables, secrets among them. The callback is ours, and reads no
# result without its directory.
_UNSEEN = {
    "ANSIBLE_LOG_PATH": os.devnull,
    "ANSIBLE_CALLBACKS_ENABLED": WITNESS,
    "ANSIBLE_CALLBACK_PLUGINS": "",
    **NO_FACTS,
}
# Modules that change nothing on a host.
_READS = ("ft_guard", "ft_info", "ft_suggest")
# The playbooks by which the driver asks hosts that it has found before, armed ones among them. A host that has left the
# inventory gives no answer, and keeps none of the others from giving theirs.
_UNDER_WAY = ("settle", "status", "health", "facts")
# The seconds that a task may take on a host by default: a large checkpoint takes hours, unlike a question.
_HOURS = 6 * 3600.0
_MINUTES = 300.0
# A run of ours reaches so many hosts at the same time, where the user's forks are fewer.
_FORKS = 50
# Facts of a host of more bytes than this are not kept: each wave would read them again.
_LARGEST_FACTS = 16_000_000
# The paths of sockets are limited to about 108 bytes, and ssh appends 17 to the 10 of Ansible's name.
_LONGEST_SOCKET_DIRECTORY = 70
# A playbook for hosts whose names have fewer characters than this fits into a pipe, which takes 65,536 bytes.
_FITS = 50_000

OnEvent = Callable[[Event], None]
Stop = Callable[[], str]
Until = Callable[[], float]


@dataclass(frozen=True)
class OwnRun:
    """A run of a playbook of the collection, on ``hosts`` and no other.

    timeout: for connecting, in seconds. answer_within: the seconds that a task may take on a host until it counts as no
    answer. question: the playbook only asks, so that a few minutes are enough. fresh: use no connection of an earlier
    run, so that reaching a host proves that it still admits logins. facts: keep the gathered facts for the user's
    playbook. wide: reach more of the hosts at the same time than the user's forks. unseen: its results are values of
    variables. They hold secrets, which no log and no callback of the user's may see, and no variable there is a fact.
    """

    name: str
    variables: Mapping[str, object]
    hosts: Sequence[str]
    timeout: int | None = None
    answer_within: float | None = None
    question: bool = False
    fresh: bool = False
    facts: bool = False
    wide: bool = True
    unseen: bool = False


@dataclass(frozen=True)
class UsersRun:
    """A run of the user's playbook, unmodified, within ``limit``. The ``hosts`` that Ansible has not given up at its
    end report the task ``mark``. until: see ``runner.Job``.
    """

    playbook: str
    limit: Sequence[str]
    hosts: Sequence[str]
    mark: str
    until: Until | None = None


@dataclass(frozen=True)
class Seen:
    """Hosts that a run of the user's playbook reached beyond its wave, or did not reach within it.

    touched: hosts outside on which tasks ran by delegation. left_out: host -> the play that did not run there, as the
    host was added while the playbook ran. missed: hosts of the wave for which no play came.
    """

    touched: Sequence[str] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    missed: Sequence[str] = ()


@dataclass
class Session:
    """scratch: private (0700), in memory where there is such a file system. base: the directory of the user's
    playbook, whose variables, plugins and collections count besides those of the inventory; None where no such
    directory counts. runner: runs the jobs. ready: the socket of a process that takes over runs of our own playbooks
    (see ``Job``).
    """

    ansible: Ansible
    options: Options
    secrets: Secrets
    scratch: Path
    base: Path | None
    runner: Runner
    ready: str = ""
    # Two runs may go on at the same time, and share no file.
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _pipelining: bool = field(default=True)
    _ahead: _Ahead | None = field(default=None)

    def run_own(self, run: OwnRun, on_event: OnEvent, stop: Stop) -> Ended:
        """Run a playbook of the collection; see ``Runner.execute()`` for ``on_event`` and ``stop``."""
        argv = [program("ansible-playbook"), *self.options.inventories(), *self.options.common]
        argv += ["-e", f"@{self._write('vars.json', json.dumps(run.variables))}"]
        argv += ["--timeout", str(run.timeout)] if run.timeout else []
        argv += ["--forks", str(self._forks(len(run.hosts)))] if run.wide else []
        named = run.name in _UNDER_WAY and run.variables.get("evenkeel_hosts") == [*run.hosts]
        own = self._own(run.name, self._answer_within(run), alone=run.unseen, named=named)
        argv += [*self._limit(run.hosts), str(own)]
        progress = _Progress()

        def watch(event: Event) -> None:
            progress.take(event)
            on_event(event)

        more = {**(self._facts() if run.facts else {}), **(_UNSEEN if run.unseen else {})}
        env = self.ansible.own(pipelining=self._pipelining) | more
        ended = self._execute(self._job(argv, env, ready=self.ready), watch, stop, fresh=run.fresh)
        if self._pipelining and self.ansible.pipelining is None and progress.wants_terminal and not progress.did:
            # sudo demands a terminal here (requiretty). Nothing has run yet, so the playbook is run once more.
            self._pipelining = False
            on_event({"event": AGAIN})
            env = self.ansible.own(pipelining=False) | more
            ended = self._execute(self._job(argv, env, ready=self.ready), on_event, stop, fresh=run.fresh)
        if run.facts:
            self._refuse_facts(on_event)
        return ended

    def rounds(self, hosts: int) -> int:
        """The number of hosts that a run of ours on ``hosts`` reaches one after the other, at most."""
        return math.ceil(hosts / max(1, self._forks(hosts)))

    def _forks(self, hosts: int) -> int:
        """The number of hosts that a run of ours on ``hosts`` reaches at the same time. A host keeps its place for the
        whole soak, or for as long as its login hangs."""
        said = [word.partition("=")[2] for word in self.options.common if word.startswith("--forks=")]
        theirs = str([self.ansible.settings.get("DEFAULT_FORKS"), *said][-1])
        return max(int(theirs) if theirs.isdecimal() else 0, min(hosts, _FORKS))

    def _answer_within(self, run: OwnRun) -> int:
        said = self.options.answer_within if run.answer_within is None else run.answer_within
        usual = _MINUTES if run.question else _HOURS
        return math.ceil(max(1.0, min(1e8, usual if said is None else said)))

    def _refuse_facts(self, on_event: OnEvent) -> None:
        """Remove facts that are too large to be kept, and report that as a failure of their host."""
        for path in (self.scratch / "facts").glob("*"):
            if path.stat().st_size > _LARGEST_FACTS:
                path.unlink()
                why = {"msg": f"they are larger than {_LARGEST_FACTS // 1_000_000} MB"}
                data = {"host": _host_of(path), "task": "Gathering Facts", "res": why}
                on_event({"event": "runner_on_failed", "event_data": data})

    def list_own(self, name: str, variables: Mapping[str, object], limit: str) -> tuple[str, ...]:
        """The hosts on which our playbook ``name`` would run. Raises UsageError when there is no host."""
        extra = f"-e=@{self._write('vars.json', json.dumps(variables))}"
        return chosen_hosts(str(self._own(name)), limit, self.options, self.ansible, self.secrets, extra)

    def load_for_users(self, limit: Sequence[str], hosts: Sequence[str]) -> None:
        """Start Ansible for the user's playbook on ``limit``, unless it was started. It loads while the ``hosts`` are
        armed, and waits for the playbook. An error is left to the run of that playbook."""
        if self._ahead or len(json.dumps(limit)) > _FITS or sys.platform != "linux":
            return
        with suppress(OSError, UsageError):
            self._forget_facts(hosts)  # An inventory can make groups of them.
            path = self._beside() / f".evenkeel-around-{next(self._numbers)}.yml"
            playbook = Awaited(path)
            self._ahead = _Ahead(tuple(limit), playbook, self.runner.begin(self._users_job(limit, path)))

    def run_users(self, run: UsersRun, on_event: OnEvent, stop: Stop) -> Ended:
        """Run the user's playbook; see ``Runner.execute()`` for ``on_event`` and ``stop``."""
        path = os.path.join(self.ansible.cwd, run.playbook)
        path = os.path.abspath(path) if os.path.exists(path) else run.playbook  # else a collection's playbook
        text = wrapped(path, run.hosts, run.mark, self.options.tags(self.ansible.settings) or [])
        around = self._write("around.yml", text)
        (self.scratch / "witness").mkdir(mode=0o700, exist_ok=True)
        (self.scratch / "witness" / "seen.json").unlink(missing_ok=True)
        self._forget_facts(run.hosts)
        ahead, self._ahead = self._ahead, None
        if ahead and (ahead.limit != tuple(run.limit) or not ahead.waits):
            ahead.end()
            ahead = None
        if ahead is None:
            playbook = self._beside() / ".evenkeel-around.yml"
            os.replace(around, playbook)
            job = replace(self._users_job(run.limit, playbook), until=run.until)
            return self.runner.execute(job, self._preparing(on_event), stop)

        def offering() -> str:
            ahead.playbook.offer()
            return stop()

        try:
            ahead.child.ends_by(run.until)  # This process can be stopped once the playbook is written.
            why = stop()
            if why:
                return Ended(None, why)
            ahead.playbook.write(around)
            return ahead.child.follow(self._preparing(on_event), offering, run.until)
        finally:
            ahead.end()

    def _forget_facts(self, hosts: Sequence[str]) -> None:
        """Remove the facts of ``hosts``: a host that changes gathers its facts itself."""
        for facts in (self.scratch / "facts").glob("*"):
            if facts.name in hosts or _host_of(facts) in hosts:
                facts.unlink()

    def _users_job(self, limit: Sequence[str], playbook: Path) -> Job:
        """The run of a playbook of the user's on ``limit``."""
        env = {"EVENKEEL_WITNESS": str(self.scratch / "witness"), "EVENKEEL_LIMIT": self.options.limit}
        argv = [program("ansible-playbook"), *self.options.inventories(), *self.options.common, *self.options.users]
        argv += [*self._limit(limit), str(playbook)]
        return self._equipped(self._job(argv, {**env, **self._facts()}), self.scratch / "c")

    def _preparing(self, on_event: OnEvent) -> OnEvent:
        """Prepare the run that follows this one, once this one is at its tasks."""

        def watch(event: Event) -> None:
            if event.get("event") == "playbook_on_task_start":
                self.runner.prepare()
            on_event(event)

        return watch

    def close(self) -> None:
        """End the processes that were started for runs that did not come."""
        if self._ahead:
            self._ahead.end()
        self.runner.close()

    def seen(self) -> Seen | None:
        """The hosts that the last run of the user's playbook reached; None when the run did not reach its recap."""
        try:
            found = json.loads((self.scratch / "witness" / "seen.json").read_text())
            return Seen(
                [str(host) for host in found["touched"]],
                {str(host): str(play) for host, play in found["left_out"].items()},
                [str(host) for host in found["missed"]],
            )
        except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None

    def _facts(self) -> dict[str, str]:
        """The settings of a fact cache: facts outlive a run for later waves, also where the user has no cache."""
        if self.ansible.settings.get("CACHE_PLUGIN", "memory") not in ("memory", "ansible.builtin.memory"):
            return {}
        return {
            "ANSIBLE_CACHE_PLUGIN": "ansible.builtin.jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(self.scratch / "facts"),
            "ANSIBLE_CACHE_PLUGIN_PREFIX": "",
            "ANSIBLE_CACHE_PLUGIN_TIMEOUT": "0",
        }

    def _job(self, argv: Sequence[str], env: Mapping[str, str], *, ready: str = "") -> Job:
        return Job(argv, self.ansible.cwd, env, self.secrets.answers(), self.scratch, ready=ready)

    def _execute(self, job: Job, on_event: OnEvent, stop: Stop, *, fresh: bool = False) -> Ended:
        sockets = self.scratch / (f"c{next(self._numbers)}" if fresh else "c")
        try:
            return self.runner.execute(self._equipped(job, sockets, fresh=fresh), on_event, stop)
        finally:
            if fresh:
                hang_up(sockets)

    def _equipped(self, job: Job, sockets: Path, *, fresh: bool = False) -> Job:
        """The job with all settings of its run. sockets: the directory of its connections."""
        enabled = [*(self.ansible.settings.get("CALLBACKS_ENABLED") or []), WITNESS]
        ours = {"ANSIBLE_CALLBACKS_ENABLED": ",".join(enabled), "EVENKEEL_WITNESS": ""}
        ours |= {"EVENKEEL_PLAYBOOK_DIR": str(self.base or ""), "EVENKEEL_SOCKETS": ""}
        env = {**self.ansible.environment(), **ours, **job.env}
        if len(str(sockets)) <= _LONGEST_SOCKET_DIRECTORY:
            # We open connections of our own: an older open connection has no keep-alive, and may already be dead.
            sockets.mkdir(mode=0o700, exist_ok=True)
            env["ANSIBLE_SSH_CONTROL_PATH_DIR"] = str(sockets)
            env["EVENKEEL_SOCKETS"] = str(sockets) if fresh else ""
        return replace(job, env=env)

    def _limit(self, hosts: Sequence[str]) -> list[str]:
        # In a file: a thousand names do not fit every command line. An empty file would mean all hosts.
        return ["--limit", f"@{self._write('limit', ''.join(f'{host}{chr(10)}' for host in hosts or ['!all']))}"]

    def _there(self) -> Path:
        """The private directory, made anew where somebody has removed it, as cleaners of temporary files may."""
        try:
            self.scratch.mkdir(mode=0o700)
        except FileExistsError:
            if self.scratch.lstat().st_uid != os.getuid():
                raise PermissionError(f"{self.scratch} was removed, and is somebody else's now") from None
        return self.scratch

    def _write(self, name: str, text: str) -> Path:
        path = self._there() / f"{next(self._numbers)}-{name}"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(text.encode("utf-8", "surrogateescape"))
        return path

    def _own(self, name: str, timeout: int = 0, *, alone: bool = False, named: bool = False) -> Path:
        """Our playbook ``name``, where it sees the group_vars, host_vars and plugins beside the user's playbook; with
        ``alone`` no callbacks. timeout: the seconds that a task of it may take on a host; 0 for no limit. named: it
        runs on the hosts that the inventory still has of those that the driver names. The arguments of ``settle`` were
        checked when the change began, and its module checks them itself."""
        path = self._beside("callback_plugins" if alone else "") / f".evenkeel-{name}.yml"
        ours = collections_path() / "ansible_collections" / FQCN.replace(".", "/") / "playbooks" / f"{name}.yml"
        text = re.sub(r"^  hosts: ", f"  timeout: {timeout}\n\\g<0>", ours.read_text(), flags=re.MULTILINE)
        if named:
            text = re.sub(r"^  hosts: .*$", '  hosts: "{{ evenkeel_hosts }}"', text, flags=re.MULTILINE)
        if name in ("begin", "restart", "settle"):
            # Unchecked: the arguments of begin and restart are checked for all hosts by their first task, and those of
            # settle were checked when the change began. Ansible starts a process for each host (0.07 s of CPU).
            text = text.replace("rolespec_validate: true", "rolespec_validate: false")
        # Another run may read it at the same time.
        os.replace(self._write(path.name, text), path)
        return path

    def _beside(self, without: str = "") -> Path:
        """A directory of links to the files beside the user's playbook, but one: Ansible searches beside a running
        playbook."""
        directory = self._there() / f"beside{without}"
        if not directory.is_dir():
            directory.mkdir(mode=0o700)
            if self.base is not None:
                link(self.base, directory, without)
        return directory


@dataclass(frozen=True)
class _Ahead:
    """A run of the user's playbook on ``limit`` that has begun, and waits for the playbook."""

    limit: tuple[str, ...]
    playbook: Awaited
    child: Child

    @property
    def waits(self) -> bool:
        """Whether it can run the playbook. A cleaner of temporary files may have removed the directory of either."""
        return self.child.waits and self.playbook.fits

    def end(self) -> None:
        self.child.end()


def _host_of(facts: Path) -> str:
    """The host of a file of facts: since ansible-core 2.19 the version of its form stands before the name."""
    return re.sub(r"^s\d+_", "", facts.name)


@dataclass
class _Progress:
    """Whether sudo demanded a terminal in a run of ours, and whether any module of ours did more than read."""

    wants_terminal: bool = False
    did: bool = False

    def take(self, event: Event) -> None:
        kind, data = event.get("event", ""), mapping(event.get("event_data"))
        if kind in ("runner_on_failed", "runner_on_unreachable"):
            self.wants_terminal |= bool(NO_TERMINAL.search(json.dumps(data.get("res") or {}, default=str)))
        elif kind == "runner_on_ok":
            action = str(data.get("resolved_action") or data.get("task_action") or "")
            self.did |= action.startswith(PREFIX) and action.removeprefix(PREFIX) not in _READS


@contextmanager
def open_session(ansible: Ansible, options: Options, secrets: Secrets, base: Path | None) -> Iterator[Session]:
    """A session; at its end connections are closed and its directory is gone."""
    with scratch_directory(ansible.settings.get("DEFAULT_LOCAL_TMP")) as scratch:
        runner = Runner(ansible.cwd, scratch)
        runner.prepare()  # The runner loads what it needs while the caller checks the rest.
        ready = scratch / "ready"
        session = Session(ansible, options, secrets, scratch, base, runner)
        try:
            session.ready = str(ready) if ansible.ready.take_runs(ready) else ""
            yield session
        finally:
            session.close()
