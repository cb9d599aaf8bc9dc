# SPDX-License-Identifier: GPL-3.0-or-later

"""A reload with a proof by the service. The command of a reload mostly sends a signal, and succeeds even if the service
fails to reload: nginx keeps its old configuration where a port is taken, and tells it in its log alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .._errors import ServiceFailed
from .._host.system import System
from .._host.trust import open_regular
from . import running, systemd
from .state import ServiceState
from .unit import Unit

ASKED = "asked, not shown"
# Seconds that the service may take to show the reload; nginx tries for 2.5 s to get a port.
_LIMIT = 4.0
_TAIL = 1 << 16
# The most characters of a line: the service writes it, and a search in it may take the square of its length.
_LINE = 4096
# Seconds after which lines of the log count: errors come last.
_LINES_AFTER = 1.0
# The level of a line, in its head after the time.
_HEAD = r"(?:\[[^\]]*\d\d:\d\d[^\]]*\])?[^\[\"']{0,80}\[(?:\w{1,40}:)?"
_EMERGENCY, _SEVERE = re.compile(_HEAD + r"emerg\]", re.I), re.compile(_HEAD + r"(?:emerg|alert|crit)", re.I)
_TAKEN = re.compile(r"re-?load|re-?read|re-?start|re-?exec|\bHUP|SIGHUP|listening on|configur", re.I)
# A line that shows that the reload failed has one of these words beside a word of failure.
_RELOAD = re.compile(_TAKEN.pattern + r"|\bconfig", re.I)
_OWN_RELOAD = re.compile(_RELOAD.pattern + r"|already in use|not bind", re.I)
# A failure that names the reload itself: no later line takes it back. Words of a line that tells of what was kept.
_OF_RELOAD, _KEPT = re.compile("re-?load", re.I), re.compile(r"\b(?:keep|kept|old|previous|unchanged)", re.I)
_FAILED = re.compile(
    r"\b(?:errors?|fail(?:ed|ure|s)?|fatal|invalid|(?:could|can) ?not|can't|unable|denied|refused|in use)\b", re.I
)
# Words of others that a line repeats: the name of a user, the path of a request, the address of a mail.
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|\([^()]*\)|<[^<>]*>")


class Reloaded(NamedTuple):
    """``shown``: the proof in words that the service reloaded; empty when it was only asked. ``said``: instead, a line
    of its log about an error."""

    state: ServiceState
    shown: str
    said: str = ""

    @property
    def words(self) -> str:
        """The outcome for a report: never more than was observed."""
        return self.shown or ASKED + (f"; it says: {self.said}" if self.said else "")


class _Before(NamedTuple):
    workers: Mapping[int, int]
    logs: Mapping[str, int]
    moment: float


def reload(name: str, system: System, proc: str = "/proc") -> Reloaded:
    """Reload the unit. Raises ServiceFailed when the reload fails, or when the log of the service shows a failure."""
    (unit,) = systemd.describe([name], system)
    before = _Before(running.workers(unit.main, proc), running.logs(unit.main, proc), system.now())
    others = [one.name for one in systemd.observe(unit.reloads_too, system) if one.active]
    state = systemd.act("reload", name, system)
    wrong_others = systemd.reloaded_too(others, system) if others else {}
    if wrong_others:
        raise ServiceFailed(
            f"{unit.id} was told to reload, and units that reload with it did not:"
            f" {'; '.join(f'{other}: {why}' for other, why in wrong_others.items())}"
        )
    if unit.type == "notify-reload":
        return Reloaded(state, "it told systemd that it is ready again")
    if not unit.main and not running.processes([unit.id], proc)[unit.id]:
        # An umbrella of instances says nothing of what they do.
        return Reloaded(state, "" if others else "its command ended well, and nothing else of it runs")
    began = system.monotonic()
    while True:
        shown = _workers(unit, before, proc)
        if shown:
            return Reloaded(state, shown)
        lines = _log_lines(unit, before, system)
        wrong, taken = _judged(lines)
        passed = system.monotonic() - began
        if taken and not wrong and passed >= _LINES_AFTER:
            return Reloaded(state, f"it says: {taken[-1][:200]}")
        if passed >= _LIMIT:
            break
        system.sleep(0.2)
    if wrong:
        raise ServiceFailed(
            f"{unit.id} was told to reload, and keeps its old configuration: {' / '.join(dict.fromkeys(wrong[-3:]))}"
        )
    return Reloaded(state, "", next((line.text[:200] for line in reversed(lines) if _FAILED.search(line.text)), ""))


def _workers(unit: Unit, before: _Before, proc: str) -> str:
    """The proof in words that new workers replaced the old ones. One additional worker may belong to a request, or to a
    session (sshd), also beside the only one before: while any stays, there must have been several, and as many new."""
    if not before.workers or not unit.main:  # The children of 0 are those of the kernel.
        return ""
    now = running.workers(unit.main, proc)
    new = [pid for pid, started in now.items() if before.workers.get(pid) != started]
    stay = len(now) - len(new)
    if new and (not stay or len(new) >= len(before.workers) > 1):
        return f"{len(new)} new worker{'s' if len(new) > 1 else ''}"
    return ""


class _Line(NamedTuple):
    """``is_own``: whether the main process wrote it, and not a child that serves others. ``log``: the file that it is
    of; empty for the journal."""

    text: str
    is_own: bool
    log: str = ""


def _judged(lines: Sequence[_Line]) -> tuple[list[str], list[str]]:
    """(lines that show that the reload failed, lines of the main process that show that it was taken).

    A failed login, or a request that was refused, is no failure of a reload. Lines of other processes count only while
    the main process says nothing, and never as a proof: they may repeat what a client has written. Where the main
    process reports later in the same log that it goes on anew, it goes on without the missing file (sshd: a host key).
    """
    wrong: dict[bool, list[_Line]] = {True: [], False: []}
    taken = []
    for line in lines:
        text, is_own, log = line
        words = _QUOTED.sub(" ", text)
        severe, about = (_SEVERE, _OWN_RELOAD) if is_own else (_EMERGENCY, _RELOAD)
        if severe.match(text) or (about.search(words) and _FAILED.search(words)):
            wrong[is_own].append(line)
        elif is_own and _TAKEN.search(words) and not _KEPT.search(words):
            taken.append(text)
            wrong[True] = [one for one in wrong[True] if one.log != log or _is_final(one.text)]
    return [line.text for line in wrong[True] or ([] if taken else wrong[False])], taken


def _is_final(text: str) -> bool:
    return bool(_SEVERE.match(text) or _OF_RELOAD.search(_QUOTED.sub(" ", text)))


def _log_lines(unit: Unit, before: _Before, system: System) -> list[_Line]:
    """The lines that the service has written since: to the files that its main process appends to, and the lines of the
    main process in the journal. A line of a file is its own where it names its id. Where systemd knows no main process,
    all lines of the unit in the journal are read, and none is its own."""
    lines: list[tuple[str, str]] = []
    for path, length in before.logs.items():
        if "access" in os.path.basename(path):
            continue  # This log tells of requests.
        try:
            with open_regular(path) as stream:
                if os.readlink(f"/proc/self/fd/{stream.fileno()}") != path:
                    continue  # The owner of a directory has replaced the file meanwhile.
                stream.seek(max(length, os.fstat(stream.fileno()).st_size - _TAIL))
                lines += [(path, line) for line in stream.read(_TAIL).decode("utf-8", "replace").splitlines()]
        except OSError:
            continue
    own = rf"\b{unit.main}\b"
    found = [
        _Line(line.strip()[:_LINE], bool(re.search(own, _QUOTED.sub(" ", line[:_LINE]))), path) for path, line in lines
    ]
    # A child of the service serves others: the words of a failed login are not about the reload.
    argv = ["journalctl", f"_SYSTEMD_UNIT={unit.id}", *([f"_PID={unit.main}"] if unit.main else [])]
    done = system.run(
        [*argv, f"--since=@{before.moment:.6f}", "--output=cat", "--no-pager", "--quiet", "--lines=50"], 10.0
    )
    found += [_Line(line.strip()[:_LINE], bool(unit.main)) for line in done.out.splitlines() if done.rc == 0]
    return [line for line in found if line.text]
