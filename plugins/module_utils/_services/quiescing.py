# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs that stand still while files are read or put back: a unit is stopped or frozen, a command is run. They go on
afterwards whatever happens, also when this process is killed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Callable, NamedTuple

from .._errors import EvenkeelError, ServiceFailed, UsageError
from .._host.commands import Completed, detached
from .._host.options import mapping, one_of, read, shown
from .._host.system import System
from . import systemd

# The option ``quiesce`` of modules and roles.
OPTION = one_of(
    {
        "stop": {"type": "str"},
        "freeze": {"type": "str"},
        "command": mapping(
            {
                "argv": {"type": "list", "elements": "str", "required": True},
                "after": {"type": "list", "elements": "str", "required": True},
            }
        ),
    }
)
_TIMEOUT = 90.0
# The variable by which the watcher gets its script.
_SCRIPT = "EVENKEEL_AFTER"


class Hook(NamedTuple):
    """Commands that let a program stand still, and go on. ``unit``: the unit that must run afterwards, or empty."""

    begin: list[str]
    end: list[str]
    unit: str = ""

    def words(self, argv: list[str]) -> str:
        """A command of the hook, for a message. That of a user may hold a secret: its program alone is told."""
        return " ".join(argv if self.unit else ["quiesce", *argv[:1]])


# A declared hook: one key, ``stop`` or ``freeze`` with a unit, or ``command`` with ``argv`` and ``after``.
Declared = Mapping[str, Any]


def check(hooks: object) -> list[Declared]:
    """The declared hooks, checked. UsageError names the item and the key that is wrong."""
    if hooks is None:
        return []
    if not isinstance(hooks, list):
        raise UsageError(f"quiesce must be a list, not {shown(hooks)}")
    kinds = OPTION["options"]
    checked: list[Declared] = []
    for number, hook in enumerate(hooks, 1):
        where = f"quiesce, item {number}"
        if not isinstance(hook, dict) or len(hook) != 1 or not set(hook) <= set(kinds):
            raise UsageError(f"{where}: {shown(hook)} must have one key, {' or '.join(kinds)}")
        ((kind, value),) = hook.items()
        checked.append(read({kind: {**kinds[kind], "required": True}}, hook, where))
        if kind != "command":
            systemd.check_name(value)
    return checked


def _plan(hooks: Sequence[Declared], system: System) -> list[Hook]:
    """The hooks with their commands, in order. A unit that does not run needs none."""
    found = []
    for hook in hooks:
        ((kind, value),) = hook.items()
        if kind == "command":
            found.append(Hook(value["argv"], value["after"]))
            continue
        (state,) = systemd.observe([value], system)
        if not state.exists:
            raise UsageError(f"quiesce: there is no unit {state.name} on this host; nothing was touched")
        if state.active and kind == "stop":
            # Units that stop with this unit stop before it, so that they start again after it.
            units = systemd.observe(systemd.with_dependents(state.name, system), system)
            hooked = [_hook("stop", "start", unit.name) for unit in units if unit.active]
            found += [planned for planned in hooked if planned not in found]
        elif state.active:
            found.append(_hook("freeze", "thaw", state.name))
    return found


def _hook(begin: str, end: str, unit: str) -> Hook:
    return Hook(["systemctl", begin, "--", unit], ["systemctl", end, "--", unit], unit)


def stopped(hooks: Sequence[Declared]) -> set[str]:
    """Names of the units that the hooks stop."""
    return {systemd.unit_name(hook["stop"]) for hook in hooks if "stop" in hook}


class Quiesced:
    """Programs stand still within the ``with``, and go on in the reverse order. ``seconds``: how long they stood still.

    Raises UsageError with nothing touched; ServiceFailed when a program could not be held (``so``: the consequence, in
    words), or does not run afterwards. Commands of ``after`` run even when their ``argv`` failed, or was not reached.
    """

    def __init__(self, hooks: Sequence[Declared], system: System, so: str = "no checkpoint was taken") -> None:
        self.seconds = 0.0
        self._hooks = hooks
        self._system = system
        self._so = so
        self._planned: list[Hook] = []
        self._started = 0.0
        self._dismiss: Callable[[], None] | None = None

    def __enter__(self) -> Quiesced:
        self._planned = _plan(self._hooks, self._system)
        if self._planned:
            self._dismiss = _watch(self._planned)
        self._started = self._system.monotonic()
        for hook in self._planned:
            done = _do(hook, hook.begin, self._system)
            if done.rc != 0:
                why = f"{hook.words(hook.begin)}: {done.words}; {self._so}"
                try:
                    self._let_go()
                except ServiceFailed as error:
                    raise ServiceFailed(f"{why}. And {error.message}", **error.result) from error
                raise ServiceFailed(why)
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        try:
            self._let_go()
        except ServiceFailed as failed:
            if not isinstance(error, EvenkeelError):
                raise
            # The message tells both errors; the user has to act on the first.
            error.message += f". And {failed.message}"
            error.result["left"] = [*error.result.get("left", []), *failed.result["left"]]

    def hand_over(self, down: Collection[str]) -> None:
        """From here on the caller starts and stops units: frozen units go on, because their jobs would wait for that,
        and units that must be ``down`` are not started by us."""
        _end([hook for hook in self._planned if hook.begin[1:2] == ["freeze"]], self._system)
        self._planned = [hook for hook in self._planned if hook.unit not in down]

    def _let_go(self) -> None:
        if self._dismiss is None:
            return
        failed = _end(self._planned, self._system)
        self.seconds = self._system.monotonic() - self._started
        self._dismiss()
        failed += [why for hook in self._planned if hook.unit for why in _not_running(hook.unit, self._system)]
        if failed:
            raise ServiceFailed(f"programs that stood still do not run again: {'; '.join(failed)}", left=failed)


def _end(planned: Sequence[Hook], system: System) -> list[str]:
    """Let all programs go on; the commands that failed, in words. For a unit its state counts, not its command."""
    ends = [(hook, _do(hook, hook.end, system)) for hook in reversed(planned)]
    return [f"{hook.words(hook.end)}: {done.words}" for hook, done in ends if done.rc != 0 and not hook.unit]


def _do(hook: Hook, argv: list[str], system: System) -> Completed:
    """Run a command of the hook. A unit may take the time that it allows itself."""
    if not hook.unit:
        return system.command(argv, _TIMEOUT)
    (unit,) = systemd.describe([hook.unit], system)
    return system.run(argv, unit.patience(argv[1]))


def _not_running(unit: str, system: System) -> list[str]:
    """The state of the unit in words, if it does not run again."""
    state = systemd.settled(unit, system)
    shown = system.run(["systemctl", "show", "--property=FreezerState", "--value", "--", unit], _TIMEOUT).out.strip()
    if not state.active:
        return [f"{state.name} is {state.text}"]
    return [f"{state.name} is {shown}"] if shown in ("frozen", "freezing") else []


def _watch(planned: Sequence[Hook]) -> Callable[[], None]:
    """Start a process that lets the programs go on when this process is killed; the function that dismisses it.

    It is a detached shell: it holds no file or lock of ours open, and a kill by our name does not find it. Its script
    may hold secrets, so that it is not passed as an argument, which every user of the host could read.
    """
    ends = [f"$limit {shlex.join(hook.end)}" for hook in reversed(planned)]
    limit = f'limit=$(command -v timeout) && limit="$limit {_TIMEOUT:g}"'
    script = "\n".join(["trap '' TERM INT HUP", "read -r word && exit", limit, *ends])
    reading, writing = os.pipe()
    begin = f'script=${_SCRIPT}; unset {_SCRIPT}; eval "$script"'
    watcher = detached(["/bin/sh", "-c", begin], stdin=reading, more={_SCRIPT: script})
    os.close(reading)

    def dismiss() -> None:
        with suppress(BrokenPipeError):  # The process has ended already.
            os.write(writing, b".\n")
        os.close(writing)
        watcher.wait()

    return dismiss
