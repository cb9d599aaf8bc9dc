# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The progress of a command: small facts, for a program that draws or logs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The kinds of fact."""

    PLAN = "plan"  # text: the next thing to happen
    WAVE = "wave"  # hosts of wave number ``wave`` of ``waves`` are up
    HOST = "host"  # phase of ``hosts``; until: its dead-man
    TASK = "task"  # text: the task that runs now, in phase
    OUTPUT = "output"  # text: a line that Ansible printed
    NOTE = "note"  # text: a sentence that a person should know


class Phase(StrEnum):
    """The place of a host in its wave."""

    BEGIN = "begin"
    ARMED = "armed"
    CHANGE = "change"
    RUN = "running"  # one of our playbooks, outside of a change
    RESTARTED = "restarted"
    FAILED = "failed"
    SETTLE = "settle"
    WAIT = "wait"  # not reached: its dead-man is waited for
    HELD = "held"  # healthy; it waits for the other hosts of the change
    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled back"
    UNTOUCHED = "untouched"
    IN_DOUBT = "in doubt"


@dataclass(frozen=True)
class Progress:
    """A fact about a command under way; its kind says which fields count."""

    kind: Kind
    text: str = ""
    hosts: tuple[str, ...] = ()
    phase: Phase | None = None
    wave: int = 0
    waves: int = 0
    until: float | None = None


Report = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """The report of a caller who wants no progress."""
