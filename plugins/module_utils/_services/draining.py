# SPDX-License-Identifier: GPL-3.0-or-later

"""The places at which a host is drained: a server of an HAProxy, or a pair of commands, each on a balancer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from .._dataclasses import asdict, dataclass
from .._errors import Damaged, UsageError
from .._host.options import Options, given, mapping, meant, one_of, read, shown
from . import haproxy, pair

# kind -> its options, and the check of a declaration.
KINDS: Mapping[str, tuple[Options, Callable[[Mapping[str, object]], haproxy.Address | pair.Pair]]] = {
    "haproxy": (haproxy.OPTIONS, haproxy.check),
    "command": (pair.OPTIONS, pair.check),
}
_HOSTS: Options = {"hosts": {"type": "list", "elements": "str", "required": True}}
# The option ``drain`` of modules and roles.
OPTION = one_of({kind: mapping({**_HOSTS, **options}) for kind, (options, _check) in KINDS.items()})
_HOST = r"[!-~]{1,255}"
_MOST = 1000


@dataclass(frozen=True)
class Place:
    """A place at which a host is drained. ``host``: the balancer. ``options``: all of the kind, as plain JSON."""

    host: str
    kind: str
    options: Mapping[str, object]

    @property
    def words(self) -> str:
        """The place for a message."""
        return f"{KINDS[self.kind][1](self.options).name} on {self.host}"

    def record(self) -> dict[str, object]:
        """The place as plain JSON; ``read`` is the inverse."""
        return asdict(self)

    @classmethod
    def read(cls, recorded: object) -> Place:
        """The place in a record. Damaged for anything that ``record`` does not write.

        A record comes from the host that was drained, and names a command for another host: whoever took that host over
        could have written it. Ask ``known`` before anything is done with it.
        """
        if not isinstance(recorded, Mapping) or set(recorded) != {"host", "kind", "options"}:
            raise Damaged("the record of a drain is no place: it must have host, kind and options")
        host, kind, options = (recorded[key] for key in ("host", "kind", "options"))
        if not isinstance(host, str) or not re.fullmatch(_HOST, host) or not isinstance(kind, str) or kind not in KINDS:
            raise Damaged("the record of a drain names no host, or no kind of place")
        if not isinstance(options, Mapping) or set(options) != set(KINDS[kind][0]):
            raise Damaged(f"the record of a drain on {host} has other options than {kind} takes")
        try:
            return _place(host, kind, options, "drain")
        except UsageError as error:
            raise Damaged(f"the record of a drain on {host} cannot be read: {error.cause}") from error


def places(declared: object, hosts_of: Callable[[Sequence[str]], Sequence[str]] = list) -> list[Place]:
    """All places that are declared, in order. hosts_of: the hosts that names of hosts and groups stand for.

    UsageError names the item and the key that is wrong.
    """
    if declared is None:
        return []
    if not isinstance(declared, list):
        raise UsageError(f"drain must be a list, not {shown(declared)}; nothing was touched")
    found: list[Place] = []
    for number, item in enumerate(declared, 1):
        where = f"drain, item {number}"
        if not isinstance(item, Mapping) or len(item) != 1:
            raise UsageError(f"{where}: it must have one key, the kind: {' or '.join(KINDS)}; nothing was touched")
        ((kind, options),) = item.items()
        if kind not in KINDS:
            raise UsageError(f"{where}: unknown kind {kind!r}{meant(str(kind), KINDS)}; there are {', '.join(KINDS)}")
        values = read({**_HOSTS, **KINDS[kind][0]}, given(options), f"{where}: {kind}")
        hosts = hosts_of(values.pop("hosts"))
        if not hosts:
            raise UsageError(f"{where}: hosts stands for no host; nothing was touched")
        for host in hosts:
            place = _place(host, kind, values, where)
            if place in found:
                raise UsageError(f"{where}: {place.words} is declared twice; nothing was touched")
            found.append(place)
    if len(found) > _MOST:
        raise UsageError(f"drain: {len(found)} places are more than {_MOST}; nothing was touched")
    return found


def known(recorded: Sequence[Place], declared: Sequence[Place]) -> tuple[list[Place], list[Place]]:
    """(the recorded places that are declared as well, those that are not).

    The record of a drained host is the word of that host alone. The balancer is told only what the inventory declares
    too; all others are named to a person.
    """
    return [one for one in recorded if one in declared], [one for one in recorded if one not in declared]


def _place(host: str, kind: str, options: Mapping[str, object], where: str) -> Place:
    if not re.fullmatch(_HOST, host):
        raise UsageError(f"{where}: {host!r} is no name of a host; nothing was touched")
    values = read(KINDS[kind][0], given(dict(options)), f"{where}: {kind}")
    try:
        KINDS[kind][1](values)
    except UsageError as error:
        raise UsageError(f"{where}: {kind}: {error.message}") from error
    return Place(host, kind, values)
