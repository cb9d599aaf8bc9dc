# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The outcome of a run: states of hosts, results, exit codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, TypedDict

# A resource or a probe: one key, its kind, and the options of that kind.
Spec = Mapping[str, object]


class UsageError(Exception):
    """A request that cannot be fulfilled. Raised before any host is touched."""


@contextmanager
def under_way(begins: Callable[[], None]) -> Iterator[None]:
    """Wrap everything that happens once hosts may have been touched: no later error may say that none was touched.

    begins: is told that it begins.
    """
    begins()
    try:
        yield
    except UsageError as error:
        raise RuntimeError(str(error)) from error


class Exit(IntEnum):
    """Exit codes of the command line, the same for every command."""

    DONE = 0  # changed or nothing to do, and confirmed
    USAGE = 1  # usage or preflight; nothing touched
    FAILED = 2  # it failed or was stopped, and nothing is half-way; hosts confirmed before keep the change
    REFUSED = 3  # refused by the guard or by a host; nothing touched
    IN_DOUBT = 4  # something is in doubt or could not be put back
    PARTLY = 5  # part was kept: some hosts are confirmed, others were rolled back


# For people, at the end of --help.
EXIT_CODES = """\
exit codes, the same for every command:
  0  done: the hosts were changed, or there was nothing to do, and they are confirmed
  1  the usage is wrong, or the preflight failed; nothing was touched
  2  it failed or was stopped; hosts in flight were rolled back or had not begun; hosts that were confirmed before
     keep the change, also a host that is not known to be healthy since, and
     are named
  3  the guard or a host refused; nothing was touched
  4  a host is in doubt, or could not put something back; each is named
  5  a part was kept: some hosts are confirmed and keep the change, others were rolled back
"""


class Probe(TypedDict, total=False):
    """The result of a probe, with the keys that the driver reads.

    severity: fail, or warn for a probe that decides nothing. restarts: the number of times that its service was started
    anew after it had ended by itself.
    """

    kind: str | None
    target: str | None
    state: str | None
    detail: str | None
    severity: str | None
    restarts: int | None


class ChangedPath(TypedDict):
    """A path that a change changed, and the difference in the words of the host."""

    path: str
    what: str


class Outside(TypedDict):
    """The paths that a change changed on a host and that no resource covers: the first paths, and the number of all.

    complete: whether the host could look at all places.
    """

    paths: list[ChangedPath]
    count: int
    complete: bool


class Owed(TypedDict):
    """A restart that is due on a host, because something that was replaced still runs, in the words of the host.

    level: service, by-name, soft-reboot, reboot, process or unknown. unit: empty where it is not one unit alone.
    """

    level: str
    unit: str
    why: list[str]
    processes: list[str]


def read_owed(told: object) -> list[Owed]:
    """The restarts that an answer of a host names."""
    found = told if isinstance(told, list) else []
    return [
        Owed(
            level=one.get("level") or "unknown",
            unit=one.get("unit") or "",
            why=one.get("why") or [],
            processes=one.get("processes") or [],
        )
        for one in found
    ]


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

    why: the failure on it, in one line; empty without a failure. by: the cause of its end (settle, deadline, boot,
    operator). until: the time at which its dead-man is (or was) due, in epoch seconds of this machine's clock. login:
    whether the login that confirmed it was shown to be newer than the change (new), was not shown to be newer (not
    shown), or is not needed, because the connection is local (none). protects: the state that is protected on it, where
    the kind system stands for it; else empty. left: sentences on what a rollback would not leave as before.
    rescued: failures on it that the playbook caught. sick: after it was confirmed, while other hosts changed, its
    probes failed, it did not answer, or somebody put it back. outside: changed paths that no resource covers; None
    where they are unknown. owed: the restarts that are due on it once it is confirmed. warnings: sentences of the host
    on its end, as on jobs of the change that still run.
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
    owed: list[Owed] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class ChangeResult:
    """A whole change. exit_code is an Exit; reason says in one line why it stopped, empty when it did not.

    touched_outside: hosts on which tasks ran by delegation from a wave that is not theirs; they are not protected.
    left_out: hosts added while the playbook ran, on which its plays did not run. command: change, or the command that
    brought such a change to its end; its name then stands in place of the playbook.
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


def not_as_before(hosts: Iterable[HostResult]) -> list[str]:
    """A sentence for each thing that a rollback would not leave as before, as checkpoints tell, with its hosts."""
    hosts_of: dict[str, list[str]] = {}
    for host in hosts:
        for sentence in host.left:
            hosts_of.setdefault(sentence, []).append(host.host)
    return [f"a rollback would not leave all as before on {some_of(names)}: {said}" for said, names in hosts_of.items()]
