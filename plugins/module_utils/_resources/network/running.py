# SPDX-License-Identifier: GPL-3.0-or-later

"""The running network as ``ip`` shows it: facts that can be compared, and the commands of ``ip`` that bring facts
back."""

from __future__ import annotations

import fnmatch
import glob
import ipaddress
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..._errors import Refused
from ..._host.system import System
from ..._host.trust import read_small

TIMEOUT = 20.0
Record = dict[str, Any]
# The words of the lines whose records are compared: interface, address, dynamic address, route, rule, resolver, queue.
LINK, ADDRESS, LEASE, ROUTE, RULE, DNS, QUEUE = WORDS = ("link", "address", "lease", "route", "rule", "dns", "queue")
# The targets of steps that belong to no interface.
RULES, TABLES, RESOLVER = "rules", "routes", "resolver"

# Interfaces that containers, virtual machines, VPNs and their programs make and remove by themselves.
_OF_PROGRAMS = (
    r"veth.*|docker\d.*|docker_gwbridge|br-[0-9a-f]{12}|cni.*|flannel.*|cali.*|tunl\d+|vxlan\.calico|cilium.*|lxc.*"
    r"|podman\d+|nerdctl.*|virbr.*|vnet\d+|macvtap\d+|tap.*|tun\d.*|wg.*|tailscale\d+|zt[0-9a-z]{8,}|nebula\d+"
    r"|kube-.*|nodelocaldns|weave|vethwe.*|dummy_kube|antrea-.*|ovn.*|ovs-.*|genev_sys.*|lxdbr\d+|incusbr\d+|ppp\d+"
    r"|fw(br|pr|ln)\d.*|vif\d.*|qbr.*|qv[ob].*|brq.*|vrrp.*|v[ebz]-.*|mv-.*|ipvpn\d+|ipsec\d+|ifb\d+|azv.*|eni[0-9a-f]{11}"
    r"|gre0|gretap0|erspan0|sit0|ip6tnl0|ip6gre0|ip_vti0|ip6_vti0"
)
_KINDS_OF_PROGRAMS = ("wireguard", "tun", "openvswitch", "xfrm", "vti", "vti6", "ppp")
# Kinds of interfaces that exist by configuration alone: a rollback deletes a new interface of these kinds.
_CONFIGURED = ("bridge", "bond", "vlan", "dummy", "macvlan", "ipvlan", "vxlan", "team", "vrf")
# Kinds of interfaces that can be made anew from their record.
MADE_ANEW = ("bridge", "dummy", "vlan")
# Protocols of routes from the network, and of routes by an administrator or the kernel. All other protocols, names of
# /etc/iproute2/rt_protos or numbers, are for running programs.
_FROM_THE_NETWORK = ("dhcp", "ra", "redirect")
_BY_HAND = ("boot", "static", "kernel", "unspec", "none")
_KEEPALIVED = ("keepalived", "18")
# Protocols of programs that take their routes away and set them as the network changes. Nobody else may set these.
_OF_DAEMONS = (
    *("gated", "mrt", "zebra", "bird", "dnrouted", "xorp", "ntk", "babel", "ovn", "openr", "bgp", "isis", "ospf"),
    *("rip", "ripng", "nhrp", "eigrp", "ldp", "sharp", "pbr", "zstatic", "openfabric", "srte", *_KEEPALIVED),
    *map(str, (8, *range(10, 16), 42, 84, 99, *range(186, 199))),
)
_PASSING_FLAGS = ("dead", "linkdown", "pervasive", "offload", "offload_failed", "trap", "rt_offload", "rt_trap")
_PASSING_KEYS = (
    *("pref", "flags", "expires", "cacheinfo", "age", "error", "nhid", "iif_detached", "oif_detached"),
    *("uid_start", "uid_end", "dport_start", "dport_end", "sport_start", "sport_end"),
)
# The configuration of addresses that move between hosts: files, blocks in the files, addresses in the blocks.
_MOVED = (
    (
        "etc/keepalived/**/*.conf",
        re.compile(r"^[^#!\n]*\bvirtual_ipaddress(?:_excluded)?\s*\{([^}]*)\}", re.MULTILINE),
        re.compile(r"^\s*([0-9A-Fa-f.:]+)", re.MULTILINE),
    ),
    (
        "var/lib/pacemaker/cib/cib.xml",
        re.compile(r"<nvpair\b[^>]*\bname=\"ip\"[^>]*>"),
        re.compile(r'\bvalue="([^"]+)"'),
    ),
)
_LARGEST = 1 << 24
_NAME = r"[^\s/:-][^\s/:]{0,14}"
_WORD = r"[A-Za-z0-9_.:/@+][A-Za-z0-9_.:/@+%-]{0,253}"
_FAMILIES = {"inet": "-4", "inet6": "-6"}
# A kernel without IPv6 (ipv6.disable=1) lacks this file, and ip fails when it is asked for that family.
_IF_INET6 = "/proc/net/if_inet6"


class State(NamedTuple):
    """A network as it was seen. ``facts``: line -> (word, record), for all facts that are compared."""

    facts: Mapping[str, tuple[str, Record]]

    def records(self, *words: str) -> list[Record]:
        return [record for word, record in self.facts.values() if word in words]

    @property
    def links(self) -> dict[str, Record]:
        return {str(one["dev"]): one for one in self.records(LINK)}

    @property
    def leases(self) -> set[tuple[str, str]]:
        return {(str(one["dev"]), str(one["family"])) for one in self.records(LEASE)}


def of(facts: Iterable[tuple[str, Record]]) -> State:
    return State({f"{word} {json.dumps(record, sort_keys=True)}": (word, record) for word, record in facts})


# -- reading


def read_network(only: Sequence[str], system: System, excepts: Collection[str] = (), queues: bool = False) -> State:
    """The present network. ``only``: patterns of interfaces; without patterns, all interfaces but those of programs.
    ``excepts``: addresses and networks that are left alone. ``queues``: with the queues of the interfaces.

    Raises Refused where ``ip`` does not answer.
    """
    found = without((fact for fact in _facts(only, system) if _is_fine(*fact)), excepts)
    own = [(QUEUE, one) for one in _queues(system) if queues and one["dev"] in found.links]
    return State({**found.facts, **of(fact for fact in own if _is_fine(*fact)).facts})


def _queues(system: System) -> Iterator[Record]:
    """The queues that somebody gave to interfaces: the kernel's own have no number. ``tc`` may be missing."""
    done = system.run(["tc", "-json", "qdisc", "show"], TIMEOUT)
    found: object = None
    with suppress(ValueError):
        found = json.loads(done.out.strip() or "[]")
    for one in found if isinstance(found, list) and done.rc == 0 else ():
        if isinstance(one, dict) and one.get("root") and str(one.get("handle", "0:")) != "0:":
            yield queue(one)


def queue(shown: Record) -> Record:
    """The record of a queue. It has no options: counters are among them, and nothing tells of classes and filters."""
    return {"dev": shown.get("dev"), "kind": shown.get("kind")}


def without(facts: Iterable[tuple[str, Record]], excepts: Collection[str]) -> State:
    """The network without the addresses of ``excepts``, and without the routes that come with these addresses."""
    networks = [ipaddress.ip_network(one, strict=False) for one in excepts]

    def is_left(record: Record) -> bool:
        text = str(record.get("local") or record.get("prefsrc") or "")
        return bool(text) and any(ipaddress.ip_address(text) in one for one in networks)

    return of(fact for fact in facts if not (fact[0] in (ADDRESS, ROUTE) and is_left(fact[1])))


def moved(root: str = "/") -> set[str]:
    """The addresses that programs of a cluster move between hosts, from the programs' configuration."""
    found = set()
    for pattern, blocks, address in _MOVED:
        for path in sorted(glob.glob(os.path.join(root, pattern), recursive=True)):
            with suppress(OSError):
                text = read_small(path, _LARGEST)[0].decode("utf-8", "replace")
                found |= {one for block in blocks.findall(text) for one in address.findall(block)}
    return {one for one in found if _is_address(one)}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_fine(word: str, record: Record) -> bool:
    """Whether the fact can stand in a line and in a command. A name that looks like an option cannot."""
    try:
        checked(word, record)
    except (ValueError, KeyError, TypeError):
        return False
    return True


def _facts(only: Sequence[str], system: System) -> Iterator[tuple[str, Record]]:
    every = _ask(system, "-details", "address", "show")
    mine = [one for one in every if is_ours(str(one.get("ifname", "")), _kind(one), only)]
    names = {str(one["ifname"]) for one in mine}
    lasting: set[str] = set()
    leases: dict[tuple[str, str], Record] = {}
    for link in mine:
        yield LINK, _link(link)
        for address in link.get("addr_info", ()):
            family = str(address.get("family", ""))
            if family not in _FAMILIES or (family == "inet6" and address.get("scope") == "link"):
                continue
            if str(address.get("protocol")) in _KEEPALIVED:
                continue
            if _is_dynamic(address):
                leases[link["ifname"], family] = {"dev": link["ifname"], "family": family}
            else:
                lasting |= {str(address["local"]), _network_of(address)}
                yield ADDRESS, _address(str(link["ifname"]), family, address)
    programs: set[str] = set()
    for family, option in _families().items():
        for route in _routes(system, option):
            devices = _devices(route)
            if devices and not devices & names:
                programs.add(str(route.get("table", "main")))
            elif _is_ours(route, lasting, leases, family):
                yield ROUTE, _route(route, family)
    yield from ((LEASE, one) for one in leases.values())
    for family, option in _families().items():
        yield from ((RULE, {"family": family, **one}) for one in _rules(_ask(system, option, "rule", "show"), programs))


def of_programs(compared: State, system: System) -> State:
    """The routes and rules that running programs set once: nobody compares them, but a tool may take them away as it
    applies its files. Routing daemons set theirs by themselves. ``compared``: the facts that are compared."""
    facts: list[tuple[str, Record]] = []
    for family, option in _families().items():
        for route in _routes(system, option):
            if str(route.get("protocol", "boot")) not in (*_BY_HAND, *_FROM_THE_NETWORK, *_OF_DAEMONS):
                facts.append((ROUTE, _route(route, family)))
        rules = _ask(system, option, "rule", "show")
        rules = [one for one in rules if str(one.get("protocol", "none")) not in _OF_DAEMONS]
        facts += [(RULE, {"family": family, **_rule(one)}) for one in rules]
    return of(fact for fact in facts if _is_fine(*fact) and not of([fact]).facts.keys() & compared.facts.keys())


def _families() -> dict[str, str]:
    """The families of addresses that the kernel has, each with its option of ``ip``."""
    return {one: option for one, option in _FAMILIES.items() if one != "inet6" or os.path.exists(_IF_INET6)}


def _routes(system: System, option: str) -> list[Record]:
    return _ask(system, option, "route", "show", "table", "all")


def _ask(system: System, *words: str) -> list[Record]:
    done = system.run(["ip", "-json", *words], TIMEOUT)
    try:
        found = json.loads(done.out.strip() or "[]") if done.rc == 0 else None
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise Refused(f"network: ip does not tell what is there (ip -json {' '.join(words)}): {done.words}")
    # Versions of ip before 6 print an empty mapping for an item that they leave out.
    return [one for one in found if isinstance(one, dict) and one]


def is_ours(name: str, kind: str, only: Sequence[str]) -> bool:
    """Whether the interface is protected: a pattern of ``only`` names it, or it is no interface of a program."""
    if only:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in only)
    return bool(name) and kind not in _KINDS_OF_PROGRAMS and re.fullmatch(_OF_PROGRAMS, name) is None


def _kind(link: Record) -> str:
    return str(link.get("linkinfo", {}).get("info_kind", ""))


def _link(link: Record) -> Record:
    found = {"dev": link["ifname"], "up": "UP" in link.get("flags", ()), "mtu": link.get("mtu"), "kind": _kind(link)}
    found.update({key: link[key] for key in ("master",) if key in link})
    number = link.get("linkinfo", {}).get("info_data", {}).get("id")
    if found["kind"] == "vlan" and number is not None:
        found.update(link=link.get("link"), id=number)
    return found


def _is_dynamic(address: Record) -> bool:
    """Whether a server or a router has given the address for a time, or the kernel made it from a router's prefix."""
    return any(address.get(key) for key in ("dynamic", "temporary", "mngtmpaddr"))


def _address(device: str, family: str, address: Record) -> Record:
    found = {"dev": device, "family": family, "local": address["local"], "prefixlen": address["prefixlen"]}
    for key in ("address", "broadcast", "scope", "label"):
        if address.get(key) not in (None, "", device):
            found[key] = address[key]
    return found


def _network_of(address: Record) -> str:
    """The network that an address lies in, as ip writes it."""
    try:
        return str(ipaddress.ip_interface(f"{address['local']}/{address['prefixlen']}").network).removesuffix("/128")
    except ValueError:
        return ""


def _devices(record: Record) -> set[str]:
    hops = [one.get("dev") for one in record.get("nexthops", ())]
    return {str(one) for one in (record.get("dev"), *hops) if one}


def _is_ours(route: Record, lasting: Collection[str], leases: dict[tuple[str, str], Record], family: str) -> bool:
    """Whether the route is compared. A route that the network gave is not; a default route of this kind is noted in
    its lease."""
    protocol = str(route.get("protocol", "boot"))
    device = str(route.get("dev", ""))
    lease = leases.get((device, family))
    by_script = protocol == "boot" and route.get("dst") == "default" and lease is not None  # As dhclient sets it.
    if protocol in _FROM_THE_NETWORK or by_script:
        if lease is not None and route.get("dst") == "default":
            lease["default"] = True
        return False
    if route.get("table") == "local" or protocol not in _BY_HAND or route.get("type") in ("local", "multicast"):
        return False
    if route.get("dst") in ("ff00::/8", "fe80::/64"):  # Routes of the kernel, whatever their protocol is.
        return False
    # Other routes of the kernel come with the addresses, and dynamic addresses may differ each time.
    return protocol != "kernel" or route.get("prefsrc" if family == "inet" else "dst") in lasting


def _route(route: Record, family: str) -> Record:
    flags = [one for one in route.get("flags", ()) if one not in _PASSING_FLAGS]
    found = {key: value for key, value in route.items() if key not in _PASSING_KEYS}
    if "nexthops" in found:
        hops = ({key: value for key, value in one.items() if key != "flags"} for one in found["nexthops"])
        found["nexthops"] = sorted(hops, key=lambda one: json.dumps(one, sort_keys=True))
    return {"family": family, **found, **({"flags": flags} if flags else {})}


def _rules(rules: Sequence[Record], programs: set[str]) -> Iterator[Record]:
    """The rules, without the rules that lead to tables of programs, and without rules that accompany these."""
    kept = [one for one in rules if str(one.get("table", "")) not in programs - {"main", "local", "default"}]
    for one in kept:
        beside = len(kept) < len(rules) and any(key.startswith("suppress_") for key in one)
        if not beside and str(one.get("protocol", "none")) in _BY_HAND:
            yield _rule(one)


def _rule(rule: Record) -> Record:
    found = {key: value for key, value in rule.items() if key not in _PASSING_KEYS}
    for key in ("uid", "dport", "sport"):
        if f"{key}_start" in rule:
            found[f"{key}range"] = f"{rule[f'{key}_start']}-{rule[f'{key}_end']}"
    return found


def resolver(path: str, system_file: str) -> Record | None:
    """The name servers in use, where ``path`` is a link to a file that a program writes; None for a plain file."""
    if not os.path.islink(path):
        return None
    real = os.path.realpath(path)
    # The stub file of resolved names only resolved itself; its other file names the servers that it asks.
    real = system_file if os.path.dirname(real) == os.path.dirname(system_file) else real
    found: dict[str, list[str]] = {"servers": [], "search": []}
    with suppress(OSError):
        for line in read_small(real, _LARGEST)[0].decode("utf-8", "replace").splitlines():
            words = line.split()
            if words[:1] == ["nameserver"]:
                found["servers"] += filter(is_word, words[1:2])
            elif words[:1] in (["search"], ["domain"]):
                found["search"] = list(filter(is_word, words[1:]))
    return {key: sorted(value) for key, value in found.items()}


# -- recorded facts


def checked(word: str, record: Record) -> tuple[str, Record]:
    """The fact of a line. ValueError, KeyError or TypeError where ``read_network`` cannot have found such a fact."""
    for device in (*_devices(record), *(record[key] for key in ("master", "link", "iif", "oif") if record.get(key))):
        if re.fullmatch(_NAME, str(device)) is None:
            raise ValueError("no name of an interface")
    if word in (LINK, ADDRESS, LEASE, QUEUE) and not record["dev"]:
        raise ValueError("no interface")
    if word in (ADDRESS, LEASE, ROUTE, RULE) and record["family"] not in _FAMILIES:
        raise ValueError("no family of addresses")
    if word == LINK and not (isinstance(record["up"], bool) and record["mtu"] == int(record["mtu"])):
        raise ValueError("no interface")
    if word == ADDRESS:
        ipaddress.ip_interface(f"{record['local']}/{int(record['prefixlen'])}")
    for value in _values(record):
        if not isinstance(value, (bool, int)) and value is not None and not is_word(str(value)):
            raise ValueError("no word of ip")
    return word, record


def is_word(text: str) -> bool:
    """Whether the text can stand in a command, and is no option."""
    return re.fullmatch(_WORD, text) is not None


def _values(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for one in value.values():
            yield from _values(one)
    elif isinstance(value, list):
        for one in value:
            yield from _values(one)
    elif value != "":
        yield value


# -- differences


class Difference(NamedTuple):
    """A fact that is missing now, or that is new. ``target``: the interface, or a word for a fact without
    interface."""

    target: str
    word: str
    record: Record
    missing: bool

    @property
    def shown(self) -> str:
        return f"{_shown(self.word, self.record)} {'is missing' if self.missing else 'was not there'}"


def differences(then: State, now: State) -> list[Difference]:
    """The facts that differ. A new interface counts only where it is of a kind that exists by configuration alone. A
    queue that is missing does not count: see ``missing_queues``."""
    found = []
    links, queues = set(then.links), {one["dev"] for one in then.records(QUEUE)}
    for line, (word, record) in then.facts.items():
        if word != QUEUE and line not in now.facts and not (word == LEASE and _is_had(record, now)):
            found.append(Difference(_target(word, record), word, record, True))
    for line, (word, record) in now.facts.items():
        had = (record.get("dev"), record.get("family")) in then.leases
        if line in then.facts or (word == LEASE and (had or record["family"] == "inet6")):
            continue  # Routers, which give addresses of IPv6, come and go.
        strangers = _devices(record) - links
        if word == LINK and (not strangers or record["kind"] not in _CONFIGURED):
            continue  # The interface was there, is a card, or belongs to another program.
        if word in (ADDRESS, LEASE, ROUTE, QUEUE) and strangers:
            continue  # The fact goes with its interface, or stays with it.
        if word == QUEUE and record["dev"] in queues:
            continue  # To remove it would take its classes and filters along.
        found.append(Difference(_target(word, record), word, record, False))
    return found


def missing_queues(then: State, now: State) -> list[Difference]:
    """The queues that are gone, or gave way to others. Nothing here makes one with its classes and filters."""
    return [one for one in missing_from(then, now) if one.word == QUEUE]


def missing_from(then: State, now: State) -> list[Difference]:
    """The facts that are gone."""
    gone = [fact for line, fact in then.facts.items() if line not in now.facts]
    return [Difference(_target(word, record), word, record, True) for word, record in gone]


def can_be_set(missing: Sequence[Difference], system: System) -> list[Difference]:
    """The missing facts that a command may set: their interfaces are there, and their destinations have no route."""
    names = {str(one.get("ifname", "")) for one in _ask(system, "address", "show")}
    taken = {_destination(one, family) for family, word in _families().items() for one in _routes(system, word)}
    return [
        one
        for one in missing
        if one.word != ROUTE
        or (_devices(one.record) <= names and _destination(one.record, one.record["family"]) not in taken)
    ]


def _destination(route: Record, family: str) -> tuple[str, str, str]:
    return family, str(route.get("table", "main")), str(route.get("dst"))


def allow_ipv6(found: Sequence[Difference], conf: str) -> None:
    """Switch IPv6 on for the interfaces that lack an address or a route of it: the kernel takes none while it is off.
    ``conf``: the directory of the kernel's values of interfaces."""
    missing = [one.record for one in found if one.missing and one.record.get("family") == "inet6"]
    for device in sorted({device for record in missing for device in _devices(record)}):
        path = os.path.join(conf, device, "disable_ipv6")
        with suppress(OSError):  # Missing addresses are named.
            if read_small(path, 16)[0].strip() == b"1":
                with open(path, "w") as stream:
                    stream.write("0")


def _is_had(lease: Record, network: State) -> bool:
    """Whether the network has a dynamic address of the same interface and family, with a default route where
    ``lease`` has a default route."""
    same = [one for one in network.records(LEASE) if (one["dev"], one["family"]) == (lease["dev"], lease["family"])]
    return any(one.get("default") or not lease.get("default") for one in same)


def _target(word: str, record: Record) -> str:
    if word == DNS:
        return RESOLVER
    return RULES if word == RULE else str(record.get("dev") or next(iter(sorted(_devices(record))), TABLES))


def _shown(word: str, record: Record) -> str:
    if word == LINK:
        state = "up" if record["up"] else "down"
        master = f", in {record['master']}" if record.get("master") else ""
        return f"interface {record['dev']} as {state}, mtu {record['mtu']}{master}"
    if word == ADDRESS:
        return f"address {record['local']}/{record['prefixlen']}"
    if word == LEASE:
        return f"a dynamic address ({record['family']})"
    if word == DNS:
        return f"resolver {' '.join(record.get('servers', [])) or '(none)'}"
    if word == QUEUE:
        return f"queue {record['kind']}"
    words = " ".join(route_words(record) if word == ROUTE else rule_words(record))
    return f"{word} {words}"


# -- the commands of ip


def commands(found: Sequence[Difference], now: State, removing: bool) -> Iterator[tuple[Difference, list[str]]]:
    """The commands of a pass, for missing facts or, with ``removing``, for new facts.

    A command may remove more facts than it names (the first address of a network takes the other addresses away), or
    mend several (a route replaces another route): look again after each pass.
    """
    order = (LINK, ADDRESS, ROUTE, RULE)
    if not removing:
        missing = [one for one in found if one.missing and one.word in order]
        for one in sorted(missing, key=lambda one: (order.index(one.word), _is_indirect(one.record))):
            yield from ((one, words) for words in _making(one, now))
        return
    extra = [one for one in found if not one.missing]
    for one in sorted(extra, key=lambda one: -order.index(one.word) if one.word in order else 1):
        yield from ((one, words) for words in _removing(one))


def _is_indirect(record: Record) -> bool:
    """Whether the record needs another fact first: a reachable gateway, a parent or a master."""
    return any(key in record for key in ("gateway", "via", "nexthops", "master", "link"))


def _making(difference: Difference, now: State) -> Iterator[list[str]]:
    record = difference.record
    if difference.word == LINK:
        yield from _making_link(record, now)
    elif difference.word == ADDRESS:
        words = [f"{record['local']}/{record['prefixlen']}", "dev", record["dev"]]
        if record.get("address"):
            words = [record["local"], "peer", f"{record['address']}/{record['prefixlen']}", "dev", record["dev"]]
        for key in ("broadcast", "scope", "label"):
            words += [key, str(record[key])] if key in record else []
        nodad = ["nodad"] if record["family"] == "inet6" else []
        yield ["ip", _FAMILIES[record["family"]], "address", "replace", *words, *nodad]
    elif difference.word == ROUTE:
        yield ["ip", _FAMILIES[record["family"]], "route", "replace", *route_words(record)]
    else:
        yield ["ip", _FAMILIES[record["family"]], "rule", "add", *rule_words(record)]


def _making_link(record: Record, now: State) -> Iterator[list[str]]:
    name = record["dev"]
    live = now.links.get(name)
    if live is None and record["kind"] in MADE_ANEW:
        below = ["link", record["link"]] if record.get("link") else []
        number = ["id", str(record["id"])] if "id" in record else []
        yield ["ip", "link", "add", *below, "name", name, "type", record["kind"], *number]
    if live is None and record["kind"] not in MADE_ANEW:
        return
    live = live or {}
    if record.get("master") != live.get("master"):
        master = ["master", record["master"]] if "master" in record else ["nomaster"]
        yield ["ip", "link", "set", "dev", name, *master]
    if record["mtu"] != live.get("mtu"):
        yield ["ip", "link", "set", "dev", name, "mtu", str(record["mtu"])]
    if record["up"] != live.get("up", False):
        yield ["ip", "link", "set", "dev", name, "up" if record["up"] else "down"]


def _removing(difference: Difference) -> Iterator[list[str]]:
    record = difference.record
    if difference.word == LINK:
        yield ["ip", "link", "delete", "dev", record["dev"]]
    elif difference.word == ADDRESS:
        address = f"{record['local']}/{record['prefixlen']}"
        yield ["ip", _FAMILIES[record["family"]], "address", "del", address, "dev", record["dev"]]
    elif difference.word == LEASE:
        yield ["ip", _FAMILIES[record["family"]], "address", "flush", "dev", record["dev"], "dynamic"]
    elif difference.word == QUEUE:
        yield ["tc", "qdisc", "del", "dev", record["dev"], "root"]
    elif difference.word in (ROUTE, RULE):
        words = route_words(record) if difference.word == ROUTE else rule_words(record)
        yield ["ip", _FAMILIES[record["family"]], difference.word, "del", *words]


def route_words(record: Record) -> list[str]:
    """The route in the words of ``ip route``."""
    words = [str(record["type"])] if "type" in record else []
    words.append(str(record["dst"]))
    for key in ("gateway", "dev", "table", "protocol", "scope", "prefsrc", "metric", "tos"):
        # The kernel chooses the device of a route that leads nowhere.
        if key in record and not (key == "dev" and "type" in record and record["dev"] == "lo"):
            words += [{"gateway": "via", "protocol": "proto", "prefsrc": "src"}.get(key, key), str(record[key])]
    if "via" in record:
        words += ["via", str(record["via"]["family"]), str(record["via"]["host"])]
    words += [str(one) for one in record.get("flags", ())]
    for metrics in record.get("metrics", ()):
        words += [str(word) for pair in metrics.items() for word in pair]
    for hop in record.get("nexthops", ()):
        words += ["nexthop", *(["via", str(hop["gateway"])] if "gateway" in hop else [])]
        words += [str(word) for key in ("dev", "weight") if key in hop for word in (key, hop[key])]
    return words


def rule_words(record: Record) -> list[str]:
    """The rule in the words of ``ip rule``."""
    words = ["not"] if "not" in record else []
    for key, length in (("src", "srclen"), ("dst", "dstlen")):
        if key in record:
            end = f"/{record[length]}" if length in record else ""
            words += [{"src": "from", "dst": "to"}[key], f"{record[key]}{end}"]
    mark = f"/{record['fwmask']}" if "fwmask" in record else ""
    words += ["fwmark", f"{record['fwmark']}{mark}"] if "fwmark" in record else []
    for key in ("iif", "oif", "tos", "ipproto", "uidrange", "dportrange", "sportrange", "protocol"):
        if key in record:
            words += [{"dportrange": "dport", "sportrange": "sport"}.get(key, key), str(record[key])]
    words += ["priority", str(record["priority"])] if "priority" in record else []
    words += ["lookup", str(record["table"])] if "table" in record else []
    for key in ("suppress_prefixlen", "suppress_ifgroup"):
        words += [key.replace("prefixlen", "prefixlength"), str(record[key])] if key in record else []
    return [*words, *([str(record["action"])] if "action" in record else [])]
