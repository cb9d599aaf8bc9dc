# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Holding programs still while files are read or put back: stop or freeze a unit, run a command; and letting them go
again, whatever happens, also when this process is killed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Callable

from .._errors import EvenkeelError, ServiceFailed, UsageError
from .._host.commands import Completed, detached
from .._host.options import mapping, one_of, read
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
# The variable by which the watcher gets what it is to run.
_SCRIPT = "EVENKEEL_AFTER"


@dataclass(frozen=True)
class Hook:
    """Commands that hold something still, and let it go. ``unit``: which is to run afterwards; empty for none."""

    begin: list[str]
    end: list[str]
    unit: str = ""


def check(hooks: Any) -> list[dict[str, Any]]:
    """The declared hooks, each a mapping of one key; UsageError names what is wrong."""
    if hooks is None:
        return []
    if not isinstance(hooks, list):
        raise UsageError(f"quiesce must be a list, not {hooks!r}")
    kinds = OPTION["options"]
    checked = []
    for number, hook in enumerate(hooks, 1):
        where = f"quiesce, item {number}"
        if not isinstance(hook, dict) or len(hook) != 1 or not set(hook) <= set(kinds):
            raise UsageError(f"{where}: {hook!r} must have one key, {' or '.join(kinds)}")
        ((kind, what),) = hook.items()
        checked.append(read({kind: {**kinds[kind], "required": True}}, hook, where))
        if kind != "command":
            systemd.unit_name(what)
    return checked


def _plan(hooks: Sequence[dict[str, Any]], system: System) -> list[Hook]:
    """What to do, in order. A unit that does not run has nothing to hold still."""
    found = []
    for hook in hooks:
        ((kind, what),) = hook.items()
        if kind == "command":
            found.append(Hook(what["argv"], what["after"]))
            continue
        (state,) = systemd.observe([what], system)
        if not state.exists:
            raise UsageError(f"quiesce: there is no unit {state.name} on this host; nothing was touched")
        if state.active and kind == "stop":
            # What its stop would take along stops before it, so that it is started again after it.
            units = systemd.observe(systemd.with_dependents(state.name, system), system)
            hooked = [_hook("stop", "start", unit.name) for unit in units if unit.active]
            found += [one for one in hooked if one not in found]
        elif state.active:
            found.append(_hook("freeze", "thaw", state.name))
    return found


def _hook(begin: str, end: str, unit: str) -> Hook:
    return Hook(["systemctl", begin, "--", unit], ["systemctl", end, "--", unit], unit)


def stopped(hooks: Sequence[dict[str, Any]]) -> set[str]:
    """Names of the units that the hooks stop."""
    return {systemd.unit_name(hook["stop"]) for hook in hooks if "stop" in hook}


class Quiesced:
    """Holds still for the time of a ``with``, and lets go in the reverse order. ``seconds``: how long that was.

    Raises UsageError with nothing touched; ServiceFailed when something could not be held (``so``: what follows from
    that, in words), or does not run afterwards. Commands of ``after`` run even when their ``argv`` has failed, or was
    never reached.
    """

    def __init__(self, hooks: Sequence[dict[str, Any]], system: System, so: str = "no checkpoint was taken") -> None:
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
                why = f"{' '.join(hook.begin)}: {done.words}; {self._so}"
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
            # Both are to be known, and the first is what to act on.
            error.message += f". And {failed.message}"
            error.result["left"] = [*error.result.get("left", []), *failed.result["left"]]

    def hand_over(self, down: Collection[str]) -> None:
        """From here on units are put where they belong by somebody else: what is frozen goes on (its jobs would wait
        for that), and those that are to be ``down`` are no longer ours to start."""
        _end([hook for hook in self._planned if hook.begin[1:2] == ["freeze"]], self._system)
        self._planned = [hook for hook in self._planned if hook.unit not in down]

    def _let_go(self) -> None:
        if self._dismiss is None:
            return
        failed = _end(self._planned, self._system)
        self.seconds = self._system.monotonic() - self._started
        self._dismiss()
        failed += [why for hook in self._planned if hook.unit for why in _stands(hook.unit, self._system)]
        if failed:
            raise ServiceFailed(f"what was held still does not run again: {'; '.join(failed)}", left=failed)


def _end(planned: Sequence[Hook], system: System) -> list[str]:
    """Let go of all of it; which commands failed, in words. For a unit it is its state that counts."""
    ends = [(hook, _do(hook, hook.end, system)) for hook in reversed(planned)]
    return [f"{' '.join(hook.end)}: {done.words}" for hook, done in ends if done.rc != 0 and not hook.unit]


def _do(hook: Hook, argv: list[str], system: System) -> Completed:
    """A unit takes the time that it allows itself."""
    if not hook.unit:
        return system.command(argv, _TIMEOUT)
    (unit,) = systemd.describe([hook.unit], system)
    return system.run(argv, unit.patience(argv[1]))


def _stands(unit: str, system: System) -> list[str]:
    """In words, that the unit does not run again."""
    state = systemd.settled(unit, system)
    shown = system.run(["systemctl", "show", "--property=FreezerState", "--value", "--", unit], _TIMEOUT).out.strip()
    if not state.active:
        return [f"{state.name} is {state.text}"]
    return [f"{state.name} is {shown}"] if shown in ("frozen", "freezing") else []


def _watch(planned: Sequence[Hook]) -> Callable[[], None]:
    """A process that lets go when this one is killed. It is a shell, detached: it holds nothing of ours open, our locks
    least of all, and whoever kills this one by its name does not find it. What it is to run may hold secrets, and is
    no word of it, which everybody on the host could read while all stands still.

    Returns what dismisses it.
    """
    ends = [f"$limit {shlex.join(hook.end)}" for hook in reversed(planned)]
    limit = f'limit=$(command -v timeout) && limit="$limit {_TIMEOUT:g}"'
    script = "\n".join(["trap '' TERM INT HUP", "read -r word && exit", limit, *ends])
    reading, writing = os.pipe()
    begin = f'script=${_SCRIPT}; unset {_SCRIPT}; eval "$script"'
    watcher = detached(["/bin/sh", "-c", begin], stdin=reading, more={_SCRIPT: script})
    os.close(reading)

    def dismiss() -> None:
        with suppress(BrokenPipeError):  # It is gone already.
            os.write(writing, b".\n")
        os.close(writing)
        watcher.wait()

    return dismiss
