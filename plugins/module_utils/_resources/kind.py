# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The interface of a resource: what a checkpoint and a rollback ask of each kind of state."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Callable, Union

from .._files.step import Step
from .._host.options import Options
from .._host.system import System
from .._store.objects import Hasher, Objects, Writer

Sink = Union[Writer, Hasher]


@dataclass(frozen=True)
class Restore:
    """What a plan may depend on, and its steps work with.

    ``changed``: paths that are put back. ``since``: epoch seconds of the checkpoint. ``boot``: early at boot, where
    jobs of systemd are queued and nothing of it can be waited for. ``steps``: the steps of all other kinds that are
    put back. ``patience``: seconds to wait for a lock that another program holds. ``insist``: of a host that goes back
    by itself, where as much as can be has to come back.
    """

    system: System
    objects: Objects
    changed: Sequence[str] = ()
    since: float = 0.0
    boot: bool = False
    steps: Sequence[Step] = ()
    patience: float = 300.0
    insist: bool = False


def no_trees(_spec: dict[str, Any]) -> list[str]:
    return []


def loses_nothing(_lines: Sequence[str]) -> dict[str, str]:
    return {}


def lacks_nothing(_lines: Sequence[str]) -> list[str]:
    return []


def nothing_held(_system: System, _patience: float | None) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Kind:
    """One kind of state. All of it is looked at anew each time, so that an interrupted rollback is simply run again.

    - ``options``: what a declaration takes, in the words of Ansible's argument specs.
    - ``check``: the declaration with all its keys; UsageError names the bad one.
    - ``trees``: paths of files that belong to it. They are captured and put back together with ``files``.
    - ``capture``: lines in words of its own (the first word longer than one letter), without what changes by itself:
      equal states give equal lines. A content that goes into the sink stands there as ``sha256=<name>``, a word of
      its own.
    - ``before``: the same as ``capture`` for the undo, where that is not simply ``capture``: a state that cannot be
      recorded may be just what is to be rolled back.
    - ``brief``: the same as ``before`` from what is at hand: a host that goes back by itself waits for no mirror.
    - ``plan``: what makes the state as the lines say. Pure but for looking. Its steps are for ``apply``.
    - ``apply``: carries out the steps, all of them, and returns those that were done. Raises RestoreFailed at the
      end, with ``done`` and with what is ``left``.
    - ``verify``: what is not as the lines say, in words.
    - ``lacks``: what a rollback to the lines could not bring back, in words: it is said when they are recorded.
    - ``lacking``: what cannot be put back now, or has to be waited for, in words: it is said beforehand.
    - ``still``: captured while what is quiesced stands still, as files are.
    - ``lost``: for what it keeps outside of the store, path -> what is wrong with it. Only looks.
    - ``forget``: deletes what it keeps outside of the store. It is given the root of the store, the lines of all
      checkpoints that stay, in the trash or not, and those of the ones that are about to be deleted for good.
    - ``consistent``: whether what records it knows a consistent moment by itself, while it is being written.
    - ``whole``: its trees go back with it or not at all: a configuration without its data is neither state.
    - ``held``: holds off who else changes its trees, while they are captured and while they are put back. Raises
      Refused when that cannot be had in time (seconds, or None for the usual time).
    """

    check: Callable[[dict[str, Any]], dict[str, Any]]
    capture: Callable[[dict[str, Any], Sink, System], list[str]]
    plan: Callable[[Sequence[str], Restore], list[Step]]
    apply: Callable[[Sequence[Step], Restore], list[Step]]
    verify: Callable[[Sequence[str], System], list[str]]
    trees: Callable[[dict[str, Any]], list[str]] = no_trees
    lacks: Callable[[Sequence[str]], list[str]] = lacks_nothing
    lacking: Callable[[Sequence[str], Restore], list[str]] | None = None
    held: Callable[[System, float | None], AbstractContextManager[None]] = nothing_held
    before: Callable[[dict[str, Any], Sink, System], list[str]] | None = None
    brief: Callable[[dict[str, Any], Sink, System], list[str]] | None = None
    consistent: bool = False
    whole: bool = False
    still: bool = False
    lost: Callable[[Sequence[str]], dict[str, str]] = loses_nothing
    forget: Callable[[str, System, Sequence[str], Sequence[str]], None] | None = None
    options: Options = field(default_factory=dict)
