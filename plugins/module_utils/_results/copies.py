# SPDX-License-Identifier: GPL-3.0-or-later

"""The results of copies on other hosts, and of recoveries from them."""

from __future__ import annotations

from typing import Any

from .._dataclasses import dataclass, field
from .result import LEFT_OUT, Result


@dataclass
class Offsite(Result):
    """``ft_offsite``. ``held``: the checkpoints of the host that the repository has."""

    id: str = ""
    held: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Offered(Result):
    """The checkpoint of the source that would be copied, the ids of all checkpoints of the source, and sentences on the
    data that a copy is ``lacking``. ``has_log``: it names a position in a log, whose copies are noted. ``place``: of
    its store (``Store.place``), and its ``age`` in seconds. ``encrypted``: its last copies were."""

    id: str = ""
    name: str = ""
    created: str = ""
    host: str = ""
    held: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    has_log: bool = False
    place: str = ""
    age: int | None = None
    encrypted: bool = False


@dataclass
class Copies(Result):
    """The ids of the copies that a peer holds, and how many of them have a MAC; with ``id`` also that copy's state
    and ``mac``.

    ``sealed``: how many encrypted copies it holds. Asked for an encrypted copy, it tells in ``plain`` how many other
    copies it holds, and in ``bases`` the bundles on which the next one can build (``id``,
    ``sha256``, ``bytes`` and ``length`` of its chain). ``place``: of its store (``Store.place``).
    """

    ids: list[str] = field(default_factory=list)
    macs: int = 0
    sealed: int = 0
    plain: int = 0
    bases: list[dict[str, Any]] = field(default_factory=list)
    place: str = ""
    id: str | None = field(default=None, metadata=LEFT_OUT)
    state: str | None = field(default=None, metadata=LEFT_OUT)
    wrong: list[str] | None = field(default=None, metadata=LEFT_OUT)
    mac: str | None = field(default=None, metadata=LEFT_OUT)


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
    wrong: list[str] | None = field(default=None, metadata=LEFT_OUT)


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
    """All copies of a host's checkpoints on a peer, newest first. ``place``: of its store (``Store.place``)."""

    candidates: list[Candidate] = field(default_factory=list)
    place: str = ""


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
    bundles, of which nothing is proved here; of its own, 1 where its last copies were encrypted. ``place``: of its
    store (``Store.place``).
    """

    held: list[Examined] = field(default_factory=list)
    latest: str = ""
    before: int = 0
    sealed: int = 0
    place: str = ""


@dataclass
class Owners(Result):
    """The hosts of which a host holds copies."""

    hosts: list[str] = field(default_factory=list)


@dataclass
class Surveyed(Result):
    """A host before a recovery. ``obstacle``: why it cannot take the place of another host now; empty for nothing.
    ``waits``: why it cannot be put back even to a checkpoint of its own. ``room``: bytes for a copy, in its store and
    on its way there. ``host``: words by which one host, at one boot, is known. ``held``: whether its store has the
    checkpoint whole, so that nothing is to be brought. ``stands_for``: the lost host whose place it has taken; empty
    for none. ``taken``: whether its store has the checkpoint as its own. ``place``: of its store (``Store.place``)."""

    obstacle: str = ""
    waits: str = ""
    room: int = 0
    release: str = ""
    architecture: str = ""
    host: str = ""
    held: bool = False
    stands_for: str = ""
    taken: bool = False
    place: str = ""


@dataclass
class Derived(Result):
    """The checkpoint that a recovery goes back to, the recorded state that it leaves out, and what to know of it."""

    id: str = ""
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
