# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import STORE
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import reported as report
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.repeat import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import EvenkeelError, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import operations
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health import probes as probing
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.probe import WARNS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import Times
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durations import seconds
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _repeat
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import check_variables, refused
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import operated, warning_texts, words
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._arguments import checked
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._outside import Item, Outside, parted
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Host, Inventory
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._tasks import Tasks, stored

# Seconds that a call of the host may take beside its measurements.
_WAY = 60.0
# Seconds after which the host is told again that an attempt of several tasks goes on. It is less than half of the time
# for which other runs wait for an attempt that has no process (``operations.SETTLING``).
_PULSE = 3.0
# The message of an attempt whose task has no_log.
_HIDDEN = "its output is hidden, as no_log is set"
# The answers of the host whose reason is the verification alone.
_MEASURED = (operations.BEGUN, operations.VERIFIED, operations.NOT_VERIFIED, operations.RESTORE)
# The answers of the host, and the events that they are.
_EVENTS = {
    operations.BEGUN: _repeat.BEGUN,
    operations.VERIFIED: _repeat.VERIFIED,
    operations.NOT_VERIFIED: _repeat.NOT_VERIFIED,
    operations.RUNNING: _repeat.UNSETTLED,
    operations.UNSHOWN: _repeat.UNSETTLED,
    operations.IN_DOUBT: _repeat.UNSETTLED,
    operations.RESTORE: _repeat.TO_RESTORE,
    operations.REFUSED: _repeat.BROKEN,
}


class ActionModule(ActionBase):
    """Repeat an operation on the host of the task until it is verified."""

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        try:
            check_variables(variables)
            params = checked({**ARGUMENTS, "store": STORE}, self._task.args)
            request = Request.read(params)
            inventory = Inventory(self, variables)
            verification = Verification.of(inventory, request, params, variables)
            operation = Operation(self, variables, request)
        except (EvenkeelError, AnsibleError, ValueError) as error:
            said = str(error).rstrip(".")
            return refused(UsageError(said if "othing was touched" in said else f"{said}. Nothing was touched"))
        repetition = Repetition(request, verification, operation)
        return report(repetition.predicted() if self._task.check_mode else repetition.run())


@dataclass(frozen=True)
class Request:
    """The options of the task, checked."""

    id: str
    module: str
    tasks: str
    args: Mapping[str, Any]
    kind: str
    restore: str
    needed: int
    planned: int
    policy: _repeat.Policy
    budget: str
    store: str

    @classmethod
    def read(cls, params: Mapping[str, Any]) -> Request:
        """Raises UsageError."""
        needed, planned = _vote(params["vote"])
        policy = _repeat.Policy(
            params["attempts"],
            params["unreachable_attempts"],
            seconds(params["deadline"], "deadline"),
            seconds(params["backoff"], "backoff"),
            seconds(params["backoff_limit"], "backoff_limit"),
        )
        kind, restore = params["class"], params["restore"] or ""
        module, tasks = params["module"] or "", params["tasks"] or ""
        wrong = [
            (bool(module) == bool(tasks), "the operation is either module or tasks: give one of them"),
            (bool(tasks and params["args"]), "args belongs to module: give a file of tasks its values with vars"),
            (policy.attempts < 1, "attempts must be 1 or more"),
            (policy.unreachable < 0, "unreachable_attempts must be 0 or more"),
            (policy.deadline <= 0, "deadline must be more than 0"),
            (policy.limit < policy.backoff, "backoff_limit must not be less than backoff"),
            (
                kind == operations.COMPENSATABLE and not restore,
                "class compensatable needs restore, the checkpoint that is put back before the next attempt",
            ),
            (kind == operations.ONCE and restore != "", "class once takes no restore: what has happened stays"),
        ]
        for is_wrong, why in wrong:
            if is_wrong:
                raise UsageError(f"{why}. Nothing was touched")
        operations.check_id(params["id"])
        _repeat.size_of(params["retry_budget"], 1)
        return cls(
            params["id"],
            module,
            tasks,
            params["args"] or {},
            kind,
            restore,
            needed,
            planned,
            policy,
            params["retry_budget"],
            params["store"],
        )

    @property
    def name(self) -> str:
        """The module, or the file of tasks."""
        return self.module or self.tasks


def _vote(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(\d{1,3}) of (\d{1,3})\s*", text)
    needed, planned = (int(found[1]), int(found[2])) if found else (0, 0)
    if not planned // 2 < needed <= planned:
        raise UsageError(f"vote: {text!r} is no majority; write one such as 2 of 3. Nothing was touched")
    return needed, planned


@dataclass
class Verification:
    """The verification of the effect. ``own``: probes that the host measures; ``items``: probes from elsewhere."""

    inventory: Inventory
    own: list[Item]
    items: list[Item]
    once: Outside
    after: Outside
    voters: list[str]
    planned: int
    longest: float

    @classmethod
    def of(
        cls, inventory: Inventory, request: Request, params: Mapping[str, Any], variables: Mapping[str, Any]
    ) -> Verification:
        """Raises UsageError, AnsibleError."""
        own, items = parted(params["verify"])
        probes = probing.check([*own]) + probing.check([*items])
        if all(one.severity == WARNS for one in probes):
            raise UsageError("verify needs a probe that decides, without severity: warn. Nothing was touched")
        times = Times(*(seconds(params[name], name) for name in ("soak", "verify_within", "interval")))
        if times.soak > times.deadline:
            raise UsageError("soak cannot pass within verify_within, which is shorter. Nothing was touched")
        voters = inventory.hosts_of(params["voters"] or [])
        if voters and (items or len(voters) != request.planned):
            why = "vote must be of as many as there are voters" if not items else "a probe of voters takes no from"
            raise UsageError(f"{why}. Nothing was touched")
        group = inventory.hosts_of(params["group"] or variables.get("ansible_play_hosts_all") or [])
        late = list(variables.get("ansible_play_batch") or [])
        host = str(variables["inventory_hostname"])
        once, after = (
            Outside(inventory, host, items, one, group, late, None, request.store)
            for one in (Times(0.0, 0.0, times.interval), times)
        )
        longest = max(one.timeout for one in probes) + times.interval + max(times.soak, times.deadline)
        return cls(inventory, own, items, once, after, voters, request.planned, longest)

    @property
    def limit(self) -> float:
        """Seconds that all observations take at most."""
        return self.planned * self.longest + _WAY

    def values(self, request: Request, waiting: bool) -> dict[str, object]:
        """The values of a call that verifies. ``waiting``: until ``verify_within``, and for the soak."""
        outside = self.after if waiting else self.once
        times = outside.times
        return {
            "times": [times.soak, times.deadline, times.interval],
            "needed": request.needed,
            "planned": request.planned,
            "measured": [outside.measure() for _number in range(self.planned)] if self.items else [],
            "told": self._told(times, request.store) if self.voters else [],
        }

    def _told(self, times: Times, store: str) -> list[dict[str, str]]:
        """The observations of the voters."""

        def ask(host: Host) -> Answer:
            return host.module(
                "ft_health",
                probes=self.own,
                soak=str(times.soak),
                deadline=str(times.deadline),
                interval=str(times.interval),
                store=self.inventory.store(host.name, store),
            )

        told = self.inventory.each(self.voters, ask, self.longest + _WAY)
        return [_observed(name, told[name]) for name in self.voters]


def _observed(name: str, answer: Answer) -> dict[str, str]:
    state = answer.get("state")
    known = state if state in ("pass", "fail") and not answer.get("unreachable") else "unknown"
    return {"source": name, "state": str(known), "detail": words(str(answer.get("msg") or known))}


class Operation:
    """The operation, as tasks of Ansible on the host of the task. Raises UsageError, AnsibleError for what is none."""

    def __init__(self, action: ActionBase, variables: dict[str, Any], request: Request) -> None:
        self.action, self.variables, self.request = action, variables, request
        self.check_mode = bool(action._task.check_mode)
        self.secret = bool(action._task.no_log)
        self.name = str(variables["inventory_hostname"])
        self.hosts = len(variables.get("ansible_play_hosts_all") or [self.name])
        self.place = str(action._task.get_path())
        if request.tasks:
            self._tasks = Tasks.of_file(action, variables, request.tasks)
        else:
            self._tasks = Tasks.of_module(action, variables, request.module, request.args)
        self.digest = self._tasks.digest

    def run(self, token: str) -> dict[str, object]:
        """The result of one attempt; without a token, that of check mode."""
        pulse = Pulse(self, token)
        return self._tasks.run({operations.VARIABLE: token}, pulse.beat if token else lambda: None)

    def host(self) -> Host:
        """The host, for calls of our own. Their arguments do not go into its log."""
        task = self.action._task.copy()
        task.no_log = True
        return Host(self.name, self._made("ansible.legacy.normal", task, None), self.variables)

    def ask(self, phase: str, values: Mapping[str, object], verify: Sequence[Mapping[str, object]]) -> Answer:
        """The answer of the host to a phase of its module. Raises AnsibleConnectionFailure."""
        host, request = self.host(), self.request
        how = {"module": request.name, "verify": [*verify], "store": request.store}
        try:
            return dict(host.module("ft_repeat", id=request.id, _phase=phase, _values=dict(values), **how))
        finally:
            host.close()

    def reconnect(self) -> None:
        """Drop a connection that may be dead."""
        with contextlib.suppress(Exception):
            self.action._connection.reset()

    def _made(self, name: str, task: Any, collections: Sequence[str] | None) -> ActionBase:
        action = self.action
        handler: ActionBase = action._shared_loader_obj.action_loader.get(
            name,
            task=task,
            connection=action._connection,
            play_context=action._play_context,
            loader=action._loader,
            templar=action._templar,
            shared_loader_obj=action._shared_loader_obj,
            collection_list=collections,
        )
        return handler


class Pulse:
    """Tells the host that an attempt goes on, so that no other run takes it for one that was cut off between two
    tasks. It lives in the process of the attempt."""

    def __init__(self, operation: Operation, token: str) -> None:
        self.operation, self.token = operation, token
        self.run, self.told = os.getppid(), -math.inf

    def beat(self) -> None:
        """Raises AnsibleError where the attempt must not go on."""
        if os.getppid() != self.run:
            raise AnsibleError("the run has ended, and no further task is begun")
        while (now := time.monotonic()) - self.told >= _PULSE:
            told = operated(self.operation.ask("go_on", {"token": self.token}, ()))
            if told.get("error") == "Busy":
                time.sleep(1)
                continue
            if told.get("failed") or told["answer"] != operations.BEGUN:
                raise AnsibleError(str(told.get("why") or told.get("msg")))
            self.told = now


@dataclass
class Repetition:
    """The repetition of an operation, from its request to its result: carry out what ``_repeat.decide`` says."""

    request: Request
    verification: Verification
    operation: Operation
    attempts: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    waited: float = 0.0
    _told: Answer = field(default_factory=dict)
    _result: dict[str, Any] | None = None
    _changed: bool = False
    _error: str = ""

    def run(self) -> Answer:
        """The result of the task."""
        # A generator of this process: all processes of this run were forked with one state of the shared generator.
        chance = random.Random().random
        progress = _repeat.start(self.request.policy, time.monotonic())
        event = _repeat.Event(_repeat.STARTED)
        while True:
            now = time.monotonic()
            progress, action = _repeat.decide(self.request.policy, progress, event, now, chance)
            if action.kind == _repeat.STOP:
                return self._finished(action)
            event = self._carried_out(action, progress.due - now)

    def _carried_out(self, action: _repeat.Action, left: float) -> _repeat.Event:
        if action.kind == _repeat.WAIT:
            self.waited += action.seconds
            time.sleep(action.seconds)
            return _repeat.Event(_repeat.WAITED)
        if action.kind == _repeat.TAKE:
            size = _repeat.size_of(self.request.budget, self.operation.hosts)
            return _repeat.Event(_repeat.TAKEN, after=_take(self.operation.place, size, action.seconds))
        if action.kind == _repeat.RUN:
            return self._attempt(left)
        return self._called(action)

    def _attempt(self, left: float) -> _repeat.Event:
        began, token = time.monotonic(), str(self._told["token"])
        # A process of its own, which the deadline ends; what it began on the host may go on there.
        result = self._at_once(lambda: self.operation.run(token), left)
        said = "no answer" if result.get("unreachable") else "failed" if result.get("failed") else "ok"
        # Ansible shows the key attempts, as the one of its own retries, and the message although no_log is set.
        msg = _HIDDEN if self.operation.secret and said == "failed" else _message(result)
        entry = {"number": len(self.attempts) + 1, "said": said, "msg": msg}
        self.attempts.append({**entry, "seconds": round(time.monotonic() - began, 3)})
        if result.get("unreachable"):
            self._changed = True  # for all that is known
            self.operation.reconnect()
            return _repeat.Event(_repeat.LOST, f"the host did not answer: {words(str(result.get('msg') or ''))}")
        self._changed = self._changed or bool(result.get("changed"))
        self._result = result
        return _repeat.Event(_repeat.RAN)

    def _called(self, action: _repeat.Action) -> _repeat.Event:
        """Call the host, and read its answer."""
        if action.kind == _repeat.RESTORE:
            told = self._restore()
        elif action.kind == _repeat.END:
            told = self._end()
        else:
            patient = int(self._told["attempts"]) if self._told.get("answer") == operations.UNSHOWN else 0
            told = self._ask(action.kind, self._question(action.restored, patient), waiting=patient > 0)
        if told.get("unreachable"):
            self.operation.reconnect()
            return _repeat.Event(_repeat.LOST, f"the host did not answer: {told['msg']}")
        if told.get("failed") and told.get("error") == "Busy":
            return _repeat.Event(_repeat.BUSY, str(told["msg"]))
        if told.get("failed"):
            self._error = str(told.get("error") or "")
            return _repeat.Event(_repeat.BROKEN, str(told["msg"]))
        if action.kind == _repeat.RESTORE:
            self._changed = True
            return _repeat.Event(_repeat.RESTORED)
        self._told = _without_output(told) if self.operation.secret else told
        if told["answer"] == operations.BEGUN:
            self._result = None
        why = str(self._told["why"])
        return _repeat.Event(_EVENTS[told["answer"]], why, told["after"], told["attempts"], told["open"])

    def _question(self, restored: int, patient: int) -> dict[str, object]:
        request = self.request
        return {
            "request": self.operation.digest,
            "kind": request.kind,
            "restore": request.restore,
            "restored": restored,
            "patient": patient,
        }

    def _end(self) -> Answer:
        result = self._result
        said = "failed" if result is None or result.get("failed") else "ok"
        text = "" if result is None or self.operation.secret else json.dumps(stored(result), default=str)
        values = {"token": self._told.get("token"), "said": said, "result": text}
        # An operation that happens once may have happened before it failed.
        may_show = said == "ok" or (result is not None and self.request.kind == operations.ONCE)
        return self._ask("end", values, waiting=may_show)

    def _restore(self) -> Answer:
        def work() -> Answer:
            host = self.operation.host()
            try:
                return dict(host.module("ft_rollback", checkpoint=self._told["checkpoint"], store=self.request.store))
            finally:
                host.close()

        # No deadline ends a rollback.
        told = self._at_once(work, _WAY * 60)
        kept = {key: told.get(key) for key in ("failed", "unreachable", "error")}
        return {**kept, "msg": f"the checkpoint could not be restored: {words(str(told.get('msg') or ''), 1000)}"}

    def _ask(self, phase: str, values: Mapping[str, Any], waiting: bool) -> Answer:
        how = self.verification.values(self.request, waiting)

        def work() -> Answer:
            return self.operation.ask(phase, {**how, **values}, self.verification.own)

        return operated(self._at_once(work, self.verification.limit))

    def _at_once(self, work: Callable[[], Answer], limit: float) -> dict[str, object]:
        name = self.operation.name
        return dict(self.verification.inventory.at_once({name: work}, max(1.0, limit))[name])

    # -- results

    def predicted(self) -> Answer:
        """The result of check mode: what the host would answer, and what the module of the operation predicts."""
        event = self._called(_repeat.Action(_repeat.BEGIN))
        if self._told.get("answer") == operations.UNSHOWN:
            event = self._called(_repeat.Action(_repeat.BEGIN))
        if event.kind in (_repeat.BEGUN, _repeat.TO_RESTORE):
            self._result = result = self.operation.run("")
            if result.get("unreachable"):
                return self._not_done(_repeat.UNREACHABLE, words(str(result.get("msg") or "")))
            self._changed = bool(result.get("changed"))
            return {**self._keys(""), "changed": self._changed, "planned": [self._step()]}
        if event.kind == _repeat.VERIFIED:
            return self._done()
        outcome = {_repeat.LOST: _repeat.UNREACHABLE, _repeat.BROKEN: _repeat.REFUSED}
        return self._not_done(outcome.get(event.kind, _repeat.IN_DOUBT), event.why)

    def _finished(self, action: _repeat.Action) -> Answer:
        return self._done() if action.outcome == _repeat.VERIFIED else self._not_done(action.outcome, action.why)

    def _done(self) -> Answer:
        if not self.attempts and self._told.get("result"):
            with contextlib.suppress(ValueError):
                self._result = json.loads(str(self._told["result"]))
        elif not self.attempts and self._told.get("attempts") and not self.operation.secret:
            self.warnings.append(
                f"{self.request.id} was done before, and its result is not on record: it was too long, hidden by"
                " no_log, or its run was cut off"
            )
        elif self.attempts and self.attempts[-1]["said"] == "failed":
            self._changed = True  # The attempt does not say what it did; its result is verified only now.
        return {**self._keys(_repeat.VERIFIED), "proved": [f"{self.request.id}: {self._told['why']}"]}

    def _not_done(self, outcome: str, why: str) -> Answer:
        request = self.request
        count = f"{len(self.attempts)} of {request.policy.attempts} attempts"
        last = next((one["msg"] for one in reversed(self.attempts) if one["msg"]), "")
        said = f" Its last attempt: {last}." if last else ""
        meaning = {
            _repeat.FAILED: f"the operation {request.id} is not verified after {count}: {why}.{said}",
            _repeat.UNREACHABLE: f"the operation {request.id} could not be carried out, {count} were made: {why}",
            _repeat.REFUSED: f"the operation {request.id} was not carried out: {why}",
            _repeat.IN_DOUBT: f"the operation {request.id} is in doubt after {count}: {why}.{said} Look at the host:"
            " run this again once verification tells whether it has happened"
            + (", or give the operation a new id to have it done again" if request.kind == operations.ONCE else ""),
        }
        error = {_repeat.FAILED: "Unhealthy", _repeat.REFUSED: "Refused"}.get(outcome, "EvenkeelError")
        more = {"failed": True, "msg": meaning[outcome], "error": self._error or error}
        return {**self._keys(outcome), **more, "left": [f"{request.id}: {outcome}"]}

    def _step(self) -> dict[str, str]:
        return {"resource": "operation", "action": self.request.name, "target": self.request.id}

    def _keys(self, outcome: str) -> Answer:
        """The keys that stand in every result."""
        told, result = self._told, self._result or {}
        found: dict[str, Any] = {
            "id": self.request.id,
            "outcome": outcome,
            "changed": self._changed,
            "attempts": self.attempts,
            "waited": round(self.waited, 3),
            "result": stored(result),
            "verification": {"state": told.get("verification"), "observations": told.get("observations") or []},
            "planned": [self._step()] if self.attempts else [],
            "done": [f"attempt {one['number']} of {self.request.name}: {one['said']}" for one in self.attempts],
        }
        warnings = [*warning_texts(result.get("warnings")), *self.warnings]
        if warnings:
            found["warnings"] = warnings
        if result.get("diff") and self.operation.action._task.diff:
            found["diff"] = result["diff"]
        return found


def _without_output(told: Answer) -> Answer:
    """The answer of the host without what the probes have said, which may be the output of a command."""
    if told.get("verification") and told["answer"] in _MEASURED:
        return {**told, "why": f"verification: {told['verification']}, the rest is hidden, as no_log is set"}
    return {**told, "why": str(told["why"]).partition(" (")[0]}


def _message(result: Mapping[str, Any]) -> str:
    """The words of the operation about its failure, with the last line of its error output."""
    if not result.get("failed") and not result.get("unreachable"):
        return ""
    lines = str(result.get("stderr") or result.get("module_stderr") or "").strip().splitlines()
    return words("; ".join(filter(None, [str(result.get("msg") or ""), *lines[-1:]])))


def _take(place: str, size: int, within: float) -> float:
    """Take a token of the bucket that all hosts of this run share for this task: seconds until it is there, or -1."""
    name = hashlib.sha256(f"{place} {size}".encode()).hexdigest()[:16]
    fd = os.open(os.path.join(C.DEFAULT_LOCAL_TMP, f"retries-{name}"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        said = os.pread(fd, 200, 0)
        known = _repeat.Bucket(*map(float, said.split())) if said else None
        bucket, wait = _repeat.take(known, size, time.monotonic(), within)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{bucket.tokens!r} {bucket.at!r}".encode(), 0)
        return wait
    finally:
        os.close(fd)
