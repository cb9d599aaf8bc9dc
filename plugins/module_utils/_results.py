# SPDX-License-Identifier: GPL-3.0-or-later

"""The results of the modules. Each has the keys of ``Result`` and keys of its own, on success and on failure alike.

RETURN of each module documents them, and a test compares both. A key with ``None`` for its value stands in the report
as null, unless the field is to be left out then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypedDict, TypeVar

_Result = TypeVar("_Result", bound="Result")
# Begins the sentence of a spot check that could not be made.
NOT_COMPARED = "what is declared was not compared with the newest checkpoint"
# A field that the report does not hold while it is None.
_LEFT_OUT = {"left_out": True}


@dataclass
class Result:
    """The keys of every module: the steps that were planned and done, the proof, and the things that are left."""

    changed: bool = False
    planned: list[Any] = field(default_factory=list)
    done: list[Any] = field(default_factory=list)
    proved: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """The keys and values that the module returns."""
        found = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None or not one.metadata:
                found[one.name] = _plain(value)
        return found

    @classmethod
    def read(cls: type[_Result], report: Mapping[str, Any]) -> _Result:
        """The result in a report. Keys that this result does not have are ignored; keys that the report lacks have
        their default."""
        return cls(**{one.name: report[one.name] for one in fields(cls) if report.get(one.name) is not None})


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [asdict(one) for one in value] if value and is_dataclass(value[0]) else value
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


@dataclass
class Accepted(Result):
    """``ft_accept``. ``accepted``: the end of the change that had left the host in doubt. ``restart``: the restart that
    no run had finished."""

    generation: int = 0
    accepted: Any = None
    restart: Any = None


@dataclass
class Checkpointed(Result):
    """``ft_checkpoint``. ``armed`` and ``generation``: the change that it began."""

    id: str = ""
    name: str = ""
    kind: str = "snapshot"
    root: str = ""
    generation: int | None = None
    armed: Any = None
    stats: dict[str, float] = field(default_factory=dict)
    consistency: str | None = field(default=None, metadata=_LEFT_OUT)
    kept: dict[str, list[str]] = field(default_factory=dict)
    protects: list[str] = field(default_factory=list)
    warnings: list[str] | None = field(default=None, metadata=_LEFT_OUT)


class Holder(TypedDict):
    """A unit, or processes without a unit, that still use the files of ``paths`` as they were before the replacement.

    ``unit`` is empty for processes without a unit; ``processes`` are written as ``name[pid]``.
    """

    unit: str
    processes: list[str]
    paths: list[str]


@dataclass
class RolledBack(Result):
    """``ft_rollback``. ``armed`` and ``generation``: the change that it is itself, if it has to be confirmed."""

    id: str = ""
    undo: str = ""
    pause: float = 0.0
    generation: int | None = None
    armed: Any = None
    notes: list[str] = field(default_factory=list)
    restart_needed: list[Holder] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] | None = field(default=None, metadata=_LEFT_OUT)


@dataclass
class ChangedPath:
    """A path and its difference: ``new``, ``removed``, ``replaced``, ``changed``, or a list of ``content``,
    ``content or time``, ``mode`` and ``owner`` with commas."""

    path: str
    what: str


@dataclass
class Outside:
    """The paths outside of the declared resources that a change has changed: the first paths, and the number of all.
    ``complete``: whether all places could be looked at."""

    paths: list[ChangedPath] = field(default_factory=list)
    count: int = 0
    complete: bool = False


@dataclass
class Owed:
    """A restart that is due, because something that was replaced or removed still runs.

    ``level``: ``service``, ``soft-reboot`` or ``reboot``; ``process`` for processes that their users have to end, and
    ``unknown`` where not everything could be looked at. ``unit``: empty where it is not one unit alone. ``why``: some
    of the replaced files, or sentences. ``processes``: some of the processes, written as ``name[pid]``.
    """

    level: str
    unit: str
    why: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)


@dataclass
class Settled(Result):
    """``ft_settle``, for a change that is confirmed, is kept open, or was over already. ``remaining``: seconds until
    the deadline of a change that is kept open. ``owed``: the restarts that are due once it is confirmed."""

    generation: int = 0
    outcome: str = ""
    by: str = ""
    health: Any = None
    login: str | None = field(default=None, metadata=_LEFT_OUT)
    warnings: list[str] | None = field(default=None, metadata=_LEFT_OUT)
    armed: Any = field(default=None, metadata=_LEFT_OUT)
    outside: Any = None
    remaining: float | None = field(default=None, metadata=_LEFT_OUT)
    owed: list[Owed] | None = field(default=None, metadata=_LEFT_OUT)


@dataclass
class SettledBack(RolledBack):
    """``ft_settle``, for a change that it rolled back: ``health`` was measured before, ``health_after`` after that."""

    outcome: str = ""
    by: str = ""
    health: Any = None
    health_after: Any = None
    login: str = ""
    outside: Any = None


@dataclass
class HostState:
    """The memory of a host: its newest change, and whether anything is under way, in doubt, or was interrupted.
    ``restart``: the restart that is open there, without its token."""

    generation: int = 0
    armed: Any = None
    last: Any = None
    doubt: Any = None
    interrupted: bool = False
    restart: Any = None


@dataclass
class Held:
    """The copies of the checkpoints of ``host`` that another host keeps: their number, and the newest of them
    that stands alone (no undo, and no checkpoint of logs alone).

    ``mac``: whether the newest has a MAC. ``verified``: by when each content was hashed last, in epoch seconds; None
    without a checkpoint. ``damaged``: contents and checkpoints that are known to be damaged and did not arrive again.
    """

    host: str
    id: str = ""
    name: str = ""
    created: str = ""
    count: int = 0
    mac: bool = False
    verified: float | None = None
    damaged: int = 0


@dataclass
class Listed:
    """Facts of the inventory, which the controller adds. ``copies``: how many there shall be of the host's checkpoints.
    ``variable`` and ``domain``: the failure domain of the host; empty for none. ``hosts``: the number of hosts in the
    inventory. ``gone``: hosts of which the host holds copies, and that the inventory does not have."""

    copies: int | None = None
    variable: str = ""
    domain: str = ""
    hosts: int = 0
    gone: list[str] = field(default_factory=list)


@dataclass
class Remembered(HostState, Result):
    """``ft_info``. ``owed`` and ``spot_check``: None when they were not asked for. ``listed``: the controller adds
    it."""

    checkpoints: list[Any] = field(default_factory=list)
    logs: list[Any] = field(default_factory=list)
    outside: Any = None
    owed: list[Owed] | None = None
    replicas: dict[str, list[str]] = field(default_factory=dict)
    holds: list[Held] = field(default_factory=list)
    spot_check: list[str] | None = None
    listed: Listed | None = field(default=None, metadata=_LEFT_OUT)


@dataclass
class Suggested(Result):
    """``ft_suggest``: the paths that the last change changed, and the resources that would have covered them."""

    outside: Any = None
    suggested: list[Any] = field(default_factory=list)


@dataclass
class Measured(Result):
    """``ft_health``: the last round of probes, the seconds it took, and the memory of the host."""

    state: str = ""
    probes: list[Any] = field(default_factory=list)
    waited: float = 0.0
    soaked: float = 0.0
    restarts: int = 0
    host_state: Any = None
    address: Any = field(default=None, metadata=_LEFT_OUT)
    warnings: list[str] | None = field(default=None, metadata=_LEFT_OUT)


@dataclass
class Prepared(Result):
    """``ft_address``: the interface and the witnesses that were chosen, and the configuration for keepalived."""

    interface: str = ""
    witnesses: list[str] = field(default_factory=list)
    configuration: str = ""
    warnings: list[str] | None = field(default=None, metadata=_LEFT_OUT)


@dataclass
class Rung:
    """A rung of a ladder that was tried, or left out: ``why`` it did not lead to health; empty where it did."""

    rung: str
    ok: bool
    seconds: float
    why: str = ""


@dataclass
class Restarted(Result):
    """``ft_restart``: the service before and after.

    ``seconds``: until it was healthy. ``downtime``: seconds for which ``downtime_of`` did not answer, None where nobody
    measured. ``rungs``: of a ladder, in the order of the tries; ``next``: the rung that a controller has to carry out.
    ``owed``: the restarts that are owed above the level of services.
    """

    mode: str = ""
    before: Any = None
    after: Any = None
    seconds: float = 0.0
    downtime: float | None = None
    downtime_of: str = ""
    rungs: list[Rung] = field(default_factory=list)
    next: str = ""
    owed: list[Any] = field(default_factory=list)
    health: Any = field(default=None, metadata=_LEFT_OUT)
    warnings: list[str] | None = field(default=None, metadata=_LEFT_OUT)


# The answer of a host while the controller restarts it in several calls (see ``_flows.restarting``).


@dataclass
class OpenRestart(Result):
    """``token`` and ``generation``: of the restart that has begun. ``deferred``: nothing has begun, because this host
    leads and comes last. ``earlier``: the restart that was taken over. ``restart``: the restart that is open, or was
    until its end. ``request``: the hash by which this host knows target and mode. ``finished``: the roll and the time
    of the last such restart, if that succeeded; ``history``: the number and the mean seconds of all of them. ``boot``:
    the identity of the boot, where the host itself restarts.
    ``leads``: whether the host leads, None where nobody asked or it is not known. ``before``: the target, and
    ``target`` its name. ``refusal``: why it cannot be restarted as asked; empty where it can."""

    token: str = ""
    generation: int = 0
    deferred: bool = False
    earlier: Any = None
    restart: Any = None
    target: str = ""
    request: str = ""
    finished: Any = None
    history: Any = None
    boot: str = ""
    leads: bool | None = None
    owed: list[Any] = field(default_factory=list)
    before: Any = None
    refusal: str = ""


@dataclass
class Damage:
    """A content or a manifest that is damaged or missing, with the checkpoints and the paths that need it.

    ``host``: empty, or the host whose copy it is.
    """

    host: str
    kind: str
    id: str
    problem: str
    checkpoints: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.kind} {self.id if self.id.startswith('/') else self.id[:12]}: {self.problem}"


@dataclass
class Scrubbed(Result):
    """``ft_scrub``. Times as in manifests."""

    damaged: list[Damage] = field(default_factory=list)
    complete: bool = False
    oldest: str | None = None
    unverified: int = 0
    last_pass: str | None = None
    stats: dict[str, float] = field(default_factory=dict)


@dataclass
class Offsite(Result):
    """``ft_offsite``. ``held``: the checkpoints of the host that the repository has."""

    id: str = ""
    held: list[dict[str, str]] = field(default_factory=list)


# The answers of a host while the controller carries a checkpoint, one for each phase (see ``_flows.replicas``).


@dataclass
class Offered(Result):
    """The checkpoint of the source that would be copied, the ids of all checkpoints of the source, and sentences on the
    data that a copy is ``lacking``. ``has_log``: it names a position in a log, whose copies are noted."""

    id: str = ""
    name: str = ""
    created: str = ""
    host: str = ""
    held: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    has_log: bool = False


@dataclass
class Copies(Result):
    """The ids of the copies that a peer holds, and how many of them have a MAC; with ``id`` also that copy's state.

    ``sealed``: how many encrypted copies it holds. Asked for an encrypted copy, it tells in ``plain`` how many other
    copies it holds, and in ``bases`` the bundles on which the next one can build (``id``,
    ``sha256``, ``bytes`` and ``length`` of its chain).
    """

    ids: list[str] = field(default_factory=list)
    macs: int = 0
    sealed: int = 0
    plain: int = 0
    bases: list[dict[str, Any]] = field(default_factory=list)
    id: str | None = field(default=None, metadata=_LEFT_OUT)
    state: str | None = field(default=None, metadata=_LEFT_OUT)
    wrong: list[str] | None = field(default=None, metadata=_LEFT_OUT)


@dataclass
class Exported(Result):
    """A bundle that was written, and its size."""

    path: str = ""
    bytes: int = 0
    objects: int = 0


@dataclass
class Landing(Result):
    """The place at which a bundle is to arrive, and the bytes for which there is room."""

    path: str = ""
    room: int = 0


@dataclass
class Copied(Result):
    """A copy that was stored, or verified again: ``verified`` or ``damaged``, and each damage in ``wrong``."""

    id: str = ""
    state: str = ""
    objects: int = 0
    bytes: int = 0
    wrong: list[str] | None = field(default=None, metadata=_LEFT_OUT)


@dataclass
class Received(Copied):
    """A copy that came straight from its sender. ``onward``: why the next host did not get it from here, or empty."""

    onward: str = ""


@dataclass
class Hop(Result):
    """On a sender: the path and the public half of its key for one transfer, and its own address, where it knows it."""

    path: str = ""
    public: str = ""
    source: str = ""


@dataclass
class Outgoing(Result):
    """On a sender: a key for each transfer, and the size of each bundle."""

    hops: list[Hop] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


@dataclass
class Opened(Result):
    """On a receiver: the place into which the sender's key writes, the user as whom it comes, the bytes for which there
    is room, and the keys of the host."""

    path: str = ""
    user: str = ""
    room: int = 0
    host_keys: list[str] = field(default_factory=list)


@dataclass
class Sent(Result):
    """The bytes that a receiver has taken."""

    bytes: int = 0


@dataclass
class Sealed:
    """The record of an encrypted bundle on a peer (see ``_flows.sealed_record.Record``). ``proof``: that the peer has
    read the bundle now, where a heal asks for it (``_flows.possession``)."""

    sha256: str
    base: str
    size: int
    nonce: str
    tag: str
    key: str
    card: str
    proof: str = ""


@dataclass
class Candidate:
    """A copy of a checkpoint on a peer, as it was verified now. ``release``, ``architecture``: of the host that it is
    from, and ``bytes``: of its contents; empty and 0 where the peer cannot tell. The host and the name of an encrypted
    copy are in the card of ``sealed``."""

    id: str
    mac: str
    host: str = ""
    name: str = ""
    created: str = ""
    state: str = "damaged"
    detail: str = ""
    release: str = ""
    architecture: str = ""
    bytes: int = 0
    sealed: Sealed | None = None


@dataclass
class Candidates(Result):
    """All copies of a host's checkpoints on a peer, newest first."""

    candidates: list[Candidate] = field(default_factory=list)


@dataclass
class Examined:
    """A checkpoint that a host names: ``proved``, ``damaged``, or ``unread`` for lack of time."""

    id: str
    mac: str = ""
    host: str = ""
    name: str = ""
    created: str = ""
    state: str = "damaged"
    proof: str = ""
    detail: str = ""


@dataclass
class Audited(Result):
    """The checkpoints of one host that another host holds, or that it has itself. ``latest``: the newest readable one.

    ``before``: the number of files that earlier runs have put aside there. ``sealed``: the number of encrypted
    bundles, of which nothing is proved here.
    """

    held: list[Examined] = field(default_factory=list)
    latest: str = ""
    before: int = 0
    sealed: int = 0


@dataclass
class Owners(Result):
    """The hosts of which a host holds copies."""

    hosts: list[str] = field(default_factory=list)


@dataclass
class Surveyed(Result):
    """A host before a recovery. ``obstacle``: why it cannot be put back now; empty for nothing. ``room``: bytes for a
    copy. ``host``: words by which one host, at one boot, is known. ``held``: whether its store has the checkpoint."""

    obstacle: str = ""
    room: int = 0
    release: str = ""
    architecture: str = ""
    host: str = ""
    held: bool = False


@dataclass
class Derived(Result):
    """The checkpoint that a recovery goes back to, the recorded state that it leaves out, and what to know of it."""

    id: str = ""
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# The answers of a host while the controller repeats an operation (see ``_flows.operations``).


@dataclass
class Observation:
    """A measurement of the verification: the host that made it, ``pass``, ``fail`` or ``unknown``, and the reason."""

    source: str
    state: str
    detail: str


@dataclass
class Operated(Result):
    """The answer about an operation, and its reason. ``after``: seconds to wait before asking again. ``open``: an
    attempt has begun whose end is not known. ``result``: the stored result, as JSON."""

    answer: str = ""
    why: str = ""
    after: float = 0.0
    verification: str = ""
    observations: list[Observation] = field(default_factory=list)
    open: bool = False
    attempts: int = 0
    token: str = ""
    checkpoint: str = ""
    at: float = 0.0
    result: str = ""


@dataclass
class Drained(Result):
    """``ft_drain``. ``kind`` and ``name``: the place. ``status``: its state in its own words. ``sessions``: those that
    are left, None where nothing tells. ``served``: requests that were answered since it was made ready, None where that
    was not measured. ``obstacle``: why a drain would be refused now; empty for nothing."""

    kind: str = ""
    name: str = ""
    state: str = ""
    status: str = ""
    sessions: int | None = None
    served: int | None = None
    waited: float = 0.0
    obstacle: str = ""
    warnings: list[str] | None = field(default=None, metadata=_LEFT_OUT)
