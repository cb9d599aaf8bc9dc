# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The outcome of a run: states of hosts, results, exit codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, TypedDict

# A resource or a probe: one key, its kind, and the options of that kind.
Spec = Mapping[str, object]


class UsageError(Exception):
    """A request that cannot be fulfilled as it stands. Raised before any host is touched."""


@contextmanager
def under_way() -> Iterator[None]:
    """Around everything that happens once hosts may have been touched: no error from there on may say that none was."""
    try:
        yield
    except UsageError as error:
        raise RuntimeError(str(error)) from error


class Exit(IntEnum):
    """Exit codes of the command line, the same for every command."""

    DONE = 0  # changed or nothing to do, and confirmed
    USAGE = 1  # usage or preflight; nothing touched
    FAILED = 2  # it failed or was stopped, and nothing is half-way; who was confirmed before keeps the change
    REFUSED = 3  # refused by the guard or by a host; nothing touched
    IN_DOUBT = 4  # something is in doubt or could not be put back
    PARTLY = 5  # part was kept: some hosts are confirmed, others were rolled back


# For people, at the end of --help.
EXIT_CODES = """\
exit codes, the same for every command:
  0  done: changed, or nothing to do, and confirmed
  1  usage or preflight; nothing was touched
  2  it failed or was stopped: what was in flight was rolled back or not begun; hosts that were confirmed before
     keep the change, also one that fell ill since, and are named
  3  refused by the guard or by a host; nothing was touched
  4  something is in doubt, or could not be put back: named, host by host
  5  part was kept: some hosts are confirmed and keep the change, others were rolled back
"""


class Probe(TypedDict, total=False):
    """A probe as it was measured, with the keys that the driver reads.

    severity: fail, or warn for one that decides nothing. restarts: how often its service was started anew after it
    ended by itself.
    """

    kind: str | None
    target: str | None
    state: str | None
    detail: str | None
    severity: str | None
    restarts: int | None


class ChangedPath(TypedDict):
    """A path that a change changed, and what is different there, as the host says it."""

    path: str
    what: str


class Outside(TypedDict):
    """The paths that a change changed on a host and that no resource covers: the first of them, and the number of all.

    complete: whether the host could look at all places.
    """

    paths: list[ChangedPath]
    count: int
    complete: bool


def warnings(probes: Iterable[Probe]) -> list[str]:
    """A sentence for each probe that did not pass and only warns."""
    return [
        f"{one.get('kind')} {one.get('target')}: {one.get('state')}, {one.get('detail')}"
        for one in probes
        if one.get("severity") == "warn" and one.get("state") != "pass"
    ]


class State(StrEnum):
    """The state of one host at the end of a change."""

    IN_DOUBT = "in_doubt"
    ROLLED_BACK = "rolled_back"
    HELD = "held"  # healthy, and not confirmed yet: it waits for the other hosts of the change
    CONFIRMED = "confirmed"
    UNTOUCHED = "untouched"  # its wave began, nothing was changed on it
    NOT_BEGUN = "not_begun"  # its wave never came


@dataclass
class HostResult:
    """A host of a change.

    why: what went wrong on it, in one line; empty when nothing did. by: who decided (settle, deadline, boot,
    operator). until: when its dead-man is (or was) due, in epoch seconds of this machine's clock. login: whether the
    login that confirmed it was shown to be newer than the change (new), could not be (not shown), or is not needed, as
    the connection is local (none). protects: what is protected on it, where the kind system stands for it; empty
    otherwise. left: sentences about what its checkpoint could not bring back. rescued: failures
    on it that the playbook caught. sick: its probes failed after it was confirmed, while others changed. outside: what
    changed on it that no resource covers; None where that is not known.
    """

    host: str
    wave: int
    state: State = State.NOT_BEGUN
    why: str = ""
    by: str = ""
    changed: bool = False
    generation: int | None = None
    checkpoint: str | None = None
    until: float | None = None
    login: str = ""
    protects: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    rescued: list[str] = field(default_factory=list)
    sick: bool = False
    outside: Outside | None = None


@dataclass
class ChangeResult:
    """A whole change. exit_code is an Exit; reason says in one line why it stopped, empty when it did not.

    touched_outside: hosts on which tasks ran by delegation from a wave that is not theirs; they are not protected.
    left_out: hosts added while the playbook ran, on which its plays did not run. command: change, or the one that
    brought such a change to its end, whose name stands for the playbook then.
    """

    playbook: str
    exit_code: Exit
    reason: str
    waves: list[list[str]]
    hosts: list[HostResult]
    notes: list[str]
    seconds: float
    touched_outside: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    command: str = "change"

    def to_dict(self) -> dict[str, object]:
        """The result as it is printed by ``--json``."""
        return {**asdict(self), "exit_code": int(self.exit_code)}


@dataclass
class RunResult:
    """A run of a playbook of the collection (rollback, protect, recover, restart, scrub, status).

    hosts: for each host the result of its last ft_* task, with ``state`` (ok, failed, unreachable, missing).
    """

    command: str
    exit_code: Exit
    reason: str
    hosts: Mapping[str, Mapping[str, Any]]
    notes: list[str]
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """The result as it is printed by ``--json``."""
        return {**asdict(self), "exit_code": int(self.exit_code)}


def exit_code(states: Iterable[State], *, complete: bool) -> Exit:
    """The exit code of a change from the states of its hosts.

    complete: every wave ran and the playbook itself succeeded in each. Doubt outweighs everything; a run that
    confirmed nothing and rolled back nothing touched nothing, so it can only have been refused.
    """
    seen = set(states)
    if State.IN_DOUBT in seen:
        return Exit.IN_DOUBT
    if complete and seen == {State.CONFIRMED}:
        return Exit.DONE
    if {State.CONFIRMED, State.ROLLED_BACK} <= seen:
        return Exit.PARTLY
    return Exit.FAILED if seen & {State.CONFIRMED, State.ROLLED_BACK} else Exit.REFUSED


def some_of(hosts: Sequence[str]) -> str:
    """The names of ``hosts``: five of them, and how many more there are."""
    return f"{', '.join(hosts[:5])}{f' and {len(hosts) - 5} more' if len(hosts) > 5 else ''}"


def protected(hosts: Iterable[HostResult]) -> list[str]:
    """A sentence for each set of things that is protected without having been declared one by one, with its hosts."""
    hosts_of: dict[str, list[str]] = {}
    for host in hosts:
        if host.protects:
            hosts_of.setdefault(", ".join(host.protects), []).append(host.host)
    return [f"protected on {some_of(names)}: {said}" for said, names in hosts_of.items()]


def cannot_bring_back(hosts: Iterable[HostResult]) -> list[str]:
    """A sentence for everything that checkpoints could not capture, with the hosts of which it is true."""
    hosts_of: dict[str, list[str]] = {}
    for host in hosts:
        for sentence in host.left:
            hosts_of.setdefault(sentence, []).append(host.host)
    return [f"a rollback could not bring back on {some_of(names)}: {said}" for said, names in hosts_of.items()]
