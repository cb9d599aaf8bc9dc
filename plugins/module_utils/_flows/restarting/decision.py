# SPDX-License-Identifier: GPL-3.0-or-later

"""The right to go on with a restart, and the memory of it: pure.

A restart is *open* on its host from its beginning until its end. The run that begins it gets a token, and needs it for
every further step. Where a run was killed or lost its host, the next run takes the restart over: it gets another token,
the old token counts for nothing from then on, and whatever the old run had drained is remembered until an end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ..._dataclasses import dataclass, replace
from ..._errors import Busy, Refused, UsageError

# The stages of an open restart: nothing has been done to the target; a process acts on it; it was restarted and is
# healthy; that has failed.
BEGUN, ACTING, ACTED, FAILED = STAGES = ("begun", "acting", "acted", "failed")
# The largest list of drained places: its entries, and their size as JSON.
MOST, LONGEST = 64, 1 << 16

Drained = Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class Record:
    """An open restart of this host.

    ``generation``: counts the restarts of this host. ``target`` and ``mode``: what is restarted, and how; ``request``:
    a hash of both. ``drained``: what a controller has drained for it, in the controller's words. ``roll``: the roll
    that it belongs to, and ``hosts`` the number of its hosts. ``identity``: of the target before. ``boot``: the id of
    the boot under which the stage was reached. ``at``: the time of its beginning. ``pid`` and ``started``: the process
    that acts on the target.
    """

    generation: int
    token: str
    target: str
    mode: str
    request: str
    stage: str = BEGUN
    drained: Drained = ()
    roll: str = ""
    hosts: int = 0
    identity: str = ""
    boot: str = ""
    at: float = 0.0
    pid: int = 0
    started: int = 0


def check_drained(drained: object) -> Drained:
    """The list, if it is one of mappings that can be remembered. UsageError otherwise."""
    if not isinstance(drained, (list, tuple)) or not all(isinstance(one, Mapping) for one in drained):
        raise UsageError("the drained places must be a list of mappings; nothing was touched")
    size = len(json.dumps(list(drained)))
    if len(drained) > MOST or size > LONGEST:
        raise UsageError(
            f"{len(drained)} drained places, {size} characters in all, are too many: a host remembers up to"
            f" {MOST} and {LONGEST}. Nothing was touched"
        )
    return tuple(drained)


def begun(known: Record | None, running: bool, wanted: Record) -> Record:
    """The record of a restart that begins, or that is taken over from a run that is gone. ``wanted``: with the token
    and the generation of the new run. Raises Busy while a process acts on the target of the open restart, and Refused
    where that is another target: nobody would measure it."""
    if known is None:
        return wanted
    if running:
        raise Busy(
            f"a restart of {known.target} is under way on this host (generation {known.generation}), and process"
            f" {known.pid} works on it. Nothing was touched: wait until it is done, then run again"
        )
    if known.target != wanted.target:
        raise Refused(
            f"no run has finished the restart of {known.target} on this host (generation {known.generation}). Nothing"
            " was touched: finish it by the same restart, or accept the host as it is (evenkeel accept), and run again"
        )
    return replace(wanted, drained=check_drained(united(known.drained, wanted.drained)))


def united(old: Drained, new: Drained) -> Drained:
    """All entries of both, each once, in their order."""
    return (*old, *(one for one in new if one not in old))


def with_drained(known: Record | None, token: str, drained: Drained) -> Record:
    """The record with another list of drained places. Raises Refused for a token that does not count."""
    return replace(owned(known, token), drained=check_drained(drained))


def acting(known: Record | None, token: str, running: bool) -> Record:
    """The record while a process acts. Raises Refused for a token that does not count, and where the restart is done;
    Busy while a process acts already."""
    record = owned(known, token)
    _refuse_running(record, running)
    if record.stage == ACTED:
        raise Refused(
            f"{record.target} was restarted by this run already (generation {record.generation}), and is not restarted"
            " again: end this restart, or begin another"
        )
    return replace(record, stage=ACTING)


def acted(known: Record | None, token: str, good: bool) -> Record:
    """The record after the act. Raises Refused where another run has taken over meanwhile."""
    return replace(owned(known, token), stage=ACTED if good else FAILED, pid=0, started=0)


def ended(known: Record | None, token: str, running: bool, leave: bool = False) -> Record:
    """The record that may be removed now. Raises Refused for a token that does not count, and while something is
    drained unless the run chooses to ``leave`` it so; Busy while a process acts."""
    record = owned(known, token)
    _refuse_running(record, running)
    if record.drained and not leave:
        raise Refused(
            f"the restart of {record.target} does not end while {len(record.drained)} of what it drained is not ready"
            " again: bring that back, or leave it drained on purpose"
        )
    return record


def owned(known: Record | None, token: str) -> Record:
    """The record, if the token is its own. Raises Refused otherwise."""
    if known is None:
        raise Refused("no restart is open on this host. Nothing was touched: begin one")
    if not token or token != known.token:
        raise Refused(
            f"another run has taken over the restart of {known.target} on this host (generation {known.generation})."
            " Nothing was touched: this run may not go on with it"
        )
    return known


def _refuse_running(record: Record, running: bool) -> None:
    if running:
        raise Busy(
            f"process {record.pid} of this host still works on the restart of {record.target} (generation"
            f" {record.generation}). Nothing was touched: wait until it is done"
        )
