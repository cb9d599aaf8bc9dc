# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress for people: a table that updates at a terminal, lines with the time elsewhere."""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import NoReturn

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from evenkeel.ansible import clock
from evenkeel.progress import Kind, Phase, Progress, Report

STYLES = {
    Phase.HELD: "cyan",
    Phase.CONFIRMED: "green",
    Phase.RESTARTED: "green",
    Phase.ROLLED_BACK: "yellow",
    Phase.FAILED: "red",
    Phase.WAIT: "yellow",
    Phase.UNTOUCHED: "dim",
    Phase.IN_DOUBT: "bold red",
}
# The words for a host in this phase, as long as nothing more particular is known.
_DOING = {
    Phase.BEGIN: "guard, then checkpoint",
    Phase.ARMED: "checkpoint taken, dead-man armed",
    Phase.SETTLE: "probing, then confirm or roll back",
    Phase.WAIT: "not reached; its dead-man puts it back",
    Phase.HELD: "healthy; waits for the other hosts",
}
_ENDS = (Phase.CONFIRMED, Phase.RESTARTED, Phase.ROLLED_BACK, Phase.UNTOUCHED, Phase.IN_DOUBT)


# Ansible checks the arguments of a role in a task that nobody wrote.
_INTERNAL = "Validating arguments against arg spec"
_OURS = "evenkeel.fault_tolerance."
# A host that is waited for is mentioned in a log once in so many seconds.
_MENTION = 60.0
# The number of characters that are shown of a text of others in a table or a line.
_LONGEST = 2000


def text(said: object, limit: int = _LONGEST) -> str:
    """The words of a host, a playbook or a file, as one harmless line.

    Only here is text of others made fit for a terminal: a character that would move, colour, hide or reverse
    it is written as an escape, and no more than ``limit`` characters are shown. It goes into ``rich.text.Text`` or
    with ``markup=False``, so that no bracket in it is markup.
    """
    whole = str(said)
    cut = whole[: limit - 1] + "…" if len(whole) > limit else whole
    return "".join(map(_shown, cut))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character in "\t\n\r" else character.encode("unicode_escape", "surrogatepass").decode()


def task_name(name: str) -> str:
    """The name of a task as a person knows it: without the name of our role, and empty for an internal task."""
    role, _colon, task = name.rpartition(" : ")
    return "" if task.startswith(_INTERNAL) else task if role.startswith(_OURS) else name


class Screen(Console):
    """rich leaves the program, with 1, when nobody reads its output any more; hosts may be armed then."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@dataclass
class Row:
    """A host in the table. until: when its dead-man is due."""

    phase: Phase = Phase.BEGIN
    text: str = ""
    until: float | None = None


@dataclass
class Board:
    """The state of the table that is drawn. past: a line for each wave that is over."""

    title: str = "reading the inventory"
    past: list[Text] = field(default_factory=list)
    wave: str = ""
    rows: dict[str, Row] = field(default_factory=dict)
    task: str = ""

    def take(self, progress: Progress) -> None:
        """Add one fact to the state."""
        if progress.kind is Kind.PLAN:
            self.title = text(progress.text)
        elif progress.kind is Kind.WAVE:
            if self.rows:
                self.past.append(Text(f"{self.wave}: {counts(self.rows)}", style="green"))
            self.rows = {host: Row() for host in progress.hosts}
            self.wave = f"wave {progress.wave} of {progress.waves}"
        elif progress.kind is Kind.TASK:
            self.task = task_name(progress.text) or self.task
        elif progress.kind is Kind.HOST and progress.phase is not None:
            self.task = ""
            for host in progress.hosts:
                row = self.rows.setdefault(host, Row())
                row.phase, row.text = progress.phase, progress.text
                row.until = None if progress.phase in _ENDS else progress.until or row.until

    def draw(self, width: int, height: int, now: float) -> RenderableType:
        """The table as it stands at ``now`` (epoch seconds), not larger than the terminal."""
        # The terminal's own echo of ^C must fit behind the last line, else it shifts the next picture.
        table = Table(box=None, width=max(20, width - 4), padding=(0, 1, 0, 0), show_edge=False)
        table.add_column("host", no_wrap=True, max_width=max(12, width // 4))
        table.add_column("phase", no_wrap=True, width=11)
        table.add_column("", no_wrap=True, ratio=1, overflow="ellipsis")
        table.add_column("dead-man", no_wrap=True, width=8, justify="right")
        # Hosts that still move come first; hosts that do not fit are counted.
        order = sorted(self.rows, key=lambda host: self.rows[host].phase in _ENDS)
        room = max(3, height - 6 - len(self.past[-5:]))
        for host in order[:room]:
            row = self.rows[host]
            doing = row.text or (self.task if row.phase in (Phase.CHANGE, Phase.RUN) else _DOING.get(row.phase, ""))
            style = STYLES.get(row.phase, "")
            cells = Text(row.phase, style), Text(text(doing), "" if row.text else "dim"), left(row.until, now)
            table.add_row(Text(text(host)), *cells)
        rest = {host: self.rows[host] for host in order[room:]}
        lines: list[RenderableType] = [Text(self.title, style="bold"), *self.past[-5:]]
        if self.wave:
            lines.append(Text(self.wave, style="bold cyan"))
        lines.append(table)
        if rest:
            lines.append(Text(f"… and {len(rest)} more: {counts(rest)}", style="dim"))
        return Group(*lines)


def counts(rows: dict[str, Row]) -> str:
    """The numbers of hosts by state: ``3 confirmed, 1 rolled back``."""
    return ", ".join(f"{number} {phase}" for phase, number in Counter(row.phase for row in rows.values()).items())


def left(until: float | None, now: float) -> str:
    """The time to a dead-man, as m:ss."""
    if until is None:
        return ""
    seconds = max(0, round(until - now))
    return f"{seconds // 60}:{seconds % 60:02}"


def line(progress: Progress) -> str:
    """The fact as a line; empty when it is not worth a line."""
    hosts = text(", ".join(progress.hosts))
    if progress.kind is Kind.WAVE:
        return f"wave {progress.wave} of {progress.waves}: {hosts}"
    if progress.kind is Kind.TASK:
        name = text(task_name(progress.text))
        return f"  task: {name}" if name and progress.phase in (Phase.CHANGE, Phase.RUN) else ""
    if progress.kind is Kind.HOST and progress.phase is not None:
        said = text(progress.text) or (_DOING.get(progress.phase, "") if progress.phase is not Phase.ARMED else "")
        if progress.until is not None and progress.phase in (Phase.ARMED, Phase.WAIT):
            due = time.strftime("%H:%M:%S", time.localtime(progress.until))
            said = f"{said}, dead-man due at {due}" if said else f"dead-man due at {due}"
        return f"  {hosts}: {progress.phase}{f' ({said})' if said else ''}"
    return "\n".join(text(part) for part in progress.text.splitlines())


@dataclass
class Log:
    """Progress as lines. A host that is waited for is mentioned once, and then once a minute; a task that begins
    host by host, once.
    """

    waited: dict[str, float] = field(default_factory=dict)
    task: str = ""

    def take(self, progress: Progress, now: float) -> str:
        """The line that is due for one fact at ``now``, or nothing."""
        before, self.task = self.task, progress.text if progress.kind is Kind.TASK else ""
        if progress.kind is not Kind.HOST:
            return line(progress) if not before or self.task != before else ""
        if progress.phase is not Phase.WAIT:
            for host in progress.hosts:
                self.waited.pop(host, None)
            return line(progress)
        due = tuple(host for host in progress.hosts if now - self.waited.get(host, -_MENTION) >= _MENTION)
        self.waited.update(dict.fromkeys(due, now))
        return line(replace(progress, hosts=due)) if due else ""


@contextmanager
def showing(console: Console) -> Iterator[Report]:
    """Show progress on ``console`` for as long as this lasts. The table stands from the first report on: before that, a
    password may be asked for."""
    if not (console.is_terminal and console.file.isatty()):  # FORCE_COLOR makes a terminal of a file
        lines = Log()

        def log(progress: Progress) -> None:
            said = lines.take(progress, time.monotonic())
            # Nobody may be there any more to read it, and the hosts go on.
            with suppress(OSError):
                if said:
                    console.print(f"{time.strftime('%H:%M:%S')} {said}", markup=False, highlight=False, soft_wrap=True)

        yield log
        return

    board = Board()

    def draw() -> RenderableType:
        return board.draw(console.width, console.height, clock.now())

    from rich.live import Live

    live = Live(get_renderable=draw, console=console, refresh_per_second=4, transient=True)

    def update(progress: Progress) -> None:
        with suppress(OSError):
            live.start()  # which does nothing from the second time on
            if progress.kind in (Kind.NOTE, Kind.OUTPUT):
                live.console.print(Text(line(progress), style="yellow" if progress.kind is Kind.NOTE else ""))
        board.take(progress)

    try:
        yield update
    finally:
        with suppress(OSError):
            live.stop()
