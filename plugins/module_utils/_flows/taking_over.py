# SPDX-License-Identifier: GPL-3.0-or-later

"""Prepare a host to hold a service address: its program, the settings of that, and the configuration of keepalived.

The configuration is only made here. The role has keepalived check it before it replaces the one before.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
from collections.abc import Sequence
from typing import Union

from .._dataclasses import asdict, dataclass, replace
from .._deadman import package
from .._deadman.invocation import python
from .._errors import Refused, UsageError
from .._health.address import AddressProbe
from .._health.probe import HOST
from .._health.probes import PROBES, check
from .._host import trust, wire
from .._host.durable import ensure_dir, write_file
from .._host.durations import seconds
from .._host.system import System
from .._results.host import Prepared
from . import holding

CONFIGURATION = "/etc/keepalived/keepalived.conf"
MARK = "# Managed by the role evenkeel.fault_tolerance.virtual_address."
# The member of the first place has this priority, and each further one as much less.
_FIRST, _STEP = 250, 10
_MOST_MEMBERS, _MOST_ADDRESSES = 16, 16
# The longest that a probe may take here; keepalived waits ten seconds for all of the program.
_LONGEST = 2.0
# keepalived takes a program that it cannot start for one that has not failed; a shell tells that it cannot.
_TEXT = """\
{mark}
global_defs {{
    enable_script_security
    script_user root
    vrrp_version 3
    vrrp_check_unicast_src
}}
vrrp_script evenkeel {{
    script "/bin/sh -c '{program} watch'"
    interval 1
    timeout 10
    fall 1
    rise 1
    init_fail
}}
vrrp_instance evenkeel {{
    state BACKUP
    nopreempt
    interface {interface}
    virtual_router_id {router_id}
    priority {priority}
    advert_int 0.5
    unicast_src_ip {own}
    unicast_peer {{
{peers}    }}
    garp_master_refresh 5
    virtual_ipaddress {{
{addresses}    }}
{excluded}    track_script {{
        evenkeel
    }}
    notify "{program} state"
}}
"""

_Interface = Union[ipaddress.IPv4Interface, ipaddress.IPv6Interface]


@dataclass(frozen=True)
class Wanted:
    """The declaration. ``own``, ``members``: addresses of the hosts; ``interface``: empty for the one with ``own``;
    ``witnesses``: None for the gateway, where the number of members is even."""

    addresses: Sequence[str]
    own: str
    members: Sequence[str]
    router_id: int
    interface: str = ""
    witnesses: Sequence[str] | None = None
    probes: Sequence[dict[str, dict[str, object]]] = ()


def prepare(wanted: Wanted, system: System, check_mode: bool) -> Prepared:
    """Install the program and its settings, where they differ. Nothing is touched where the declaration is wrong."""
    settings, warnings = _settings(wanted, system)
    why = _foreign() or trust.stranger(f"{python()}/any", {0}) or trust.stranger(holding.PROGRAM, {0})
    if why:
        raise Refused(f"{why}; nothing was touched")
    sources, library = package.program("_flows.holding")
    found = _installed()
    is_whole = found is not None and found.library == library and found.program == _hash_of(holding.PROGRAM)
    result = Prepared(interface=settings.interface, witnesses=[*settings.witnesses], warnings=warnings or None)
    result.configuration = configuration(settings)
    program = b"" if is_whole else package.executable(sources)
    digest = found.program if found is not None and is_whole else hashlib.sha256(program).hexdigest()
    settings = replace(settings, library=library, program=digest)
    result.planned = [] if is_whole else [holding.PROGRAM]
    result.planned += [] if found == settings else [holding.SETTINGS]
    result.changed = bool(result.planned)
    if check_mode or not result.changed:
        return result
    ensure_dir(os.path.dirname(holding.PROGRAM), 0o755)
    if not is_whole:
        write_file(holding.PROGRAM, program, 0o700)
    write_file(holding.SETTINGS, _plain(settings), 0o600)
    result.done = result.planned
    return result


def configuration(settings: holding.Settings) -> str:
    """The configuration of keepalived. One instance has all addresses: they move together."""
    version = ipaddress.ip_address(settings.own).version
    of = {True: "", False: ""}
    for one in settings.addresses:
        address = ipaddress.ip_interface(one)
        # The kernel would choose an IPv6 address of the service for the host's own connections, which a move would end.
        more = " preferred_lft 0" if address.version == 6 else ""
        of[address.version == version] += f"        {one} dev {settings.interface}{more}\n"
    return _TEXT.format(
        mark=MARK,
        program=holding.PROGRAM,
        interface=settings.interface,
        router_id=settings.router_id,
        priority=_FIRST - _STEP * list(settings.members).index(settings.own),
        own=settings.own,
        peers="".join(f"        {one} min_ttl 255 max_ttl 255\n" for one in settings.members if one != settings.own),
        addresses=of[True],
        excluded=f"    virtual_ipaddress_excluded {{\n{of[False]}    }}\n" if of[False] else "",
    )


def _settings(wanted: Wanted, system: System) -> tuple[holding.Settings, list[str]]:
    """The settings, and warnings. UsageError for a wrong declaration."""
    members = [_address(one, "members") for one in wanted.members]
    own = _address(wanted.own, "address")
    if own not in members or len(set(members)) != len(members) or not 1 < len(members) <= _MOST_MEMBERS:
        raise _wrong(f"members must be 2 to {_MOST_MEMBERS} different addresses, and {own} one of them")
    if len({one.version for one in members}) != 1:
        raise _wrong("members must be addresses of one family: the hosts advertise to each other over it")
    if not 1 <= wanted.router_id <= 255:
        raise _wrong(f"router_id {wanted.router_id} is not between 1 and 255")
    addresses = _service(wanted.addresses, members)
    known = wire.links(system)
    link = _link_of(known, own, wanted.interface)
    witnesses = _witnesses(wanted, members, link, system)
    for one in [*members, *witnesses]:
        if not any(one in has.network for has in link.addresses):
            raise _wrong(f"{one} is not in the network of {own} on {link.name}: it cannot be asked on the wire")
    probes, warnings = _probes(wanted.probes)
    texts = [str(one) for one in members]
    return holding.Settings(
        link.name, str(own), wanted.router_id, addresses, texts, [str(one) for one in witnesses], probes
    ), warnings


def _service(declared: Sequence[str], members: Sequence[wire.Address]) -> list[str]:
    """The service addresses, each once, with the length of its prefix."""
    if not 1 <= len(declared) <= _MOST_ADDRESSES:
        raise _wrong(f"addresses must be a list of 1 to {_MOST_ADDRESSES}")
    found: dict[wire.Address, str] = {}
    for text in declared:
        try:
            one: _Interface = ipaddress.ip_interface(text)
        except ValueError as error:
            raise _wrong(f"addresses: {error}") from error
        if "/" not in text or one.network.prefixlen == 0:
            raise _wrong(
                f"addresses: {text} has no length of its prefix: write it as {one.ip}/{24}, or as the network is"
            )
        if one.ip in members:
            raise _wrong(f"addresses: {one.ip} is the address of a member itself: take one that no host has")
        if one.ip.is_loopback or one.ip.is_multicast or one.ip.is_unspecified or one.ip.is_link_local:
            raise _wrong(f"addresses: {one.ip} is no address that can move between hosts")
        found[one.ip] = str(one)
    version = members[0].version
    if all(one.version != version for one in found):
        raise _wrong(f"addresses has none of IPv{version}, the family over which the members advertise: add one")
    return list(found.values())


def _link_of(known: Sequence[wire.Link], own: wire.Address, interface: str) -> wire.Link:
    link = next((one for one in known if one.name == interface), None) if interface else wire.towards(known, own)
    if link is None or all(one.ip != own for one in link.addresses):
        raise _wrong(f"this host does not have the address {own}{f' on {interface}' if interface else ''}")
    return link


def _witnesses(
    wanted: Wanted, members: Sequence[wire.Address], link: wire.Link, system: System
) -> Sequence[wire.Address]:
    if wanted.witnesses is not None:
        found = [_address(one, "witnesses") for one in wanted.witnesses]
        if len(set(found)) != len(found) or set(found) & set(members):
            raise _wrong("witnesses must be different addresses, and of no member")
        return found
    if len(members) % 2:
        return []
    argv = ["ip", "-json", f"-{members[0].version}", "route", "show", "default", "dev", link.name]
    done = system.run(argv, 10.0)
    try:
        gateways = [ipaddress.ip_address(one["gateway"]) for one in json.loads(done.out or "[]") if "gateway" in one]
    except (ValueError, TypeError) as error:
        raise OSError(f"ip shows routes in an unknown form: {error}") from error
    near = [one for one in gateways if one not in members and any(one in has.network for has in link.addresses)]
    return near[:1]


def _probes(declared: Sequence[dict[str, dict[str, object]]]) -> tuple[list[dict[str, object]], list[str]]:
    """The probes that this host can measure of itself every second, and a sentence on each of the others."""
    check([*declared])
    found: list[dict[str, object]] = []
    warnings = []
    for item in declared:
        ((kind, options),) = item.items()
        source = options.get("from") or PROBES[kind].SOURCES[0]
        if source != HOST or kind == AddressProbe.kind:
            # Without a holder the probe of the address fails everywhere, and nobody would take it.
            warnings.append(f"the probe {kind} does not decide who holds the address: {_why_not(kind, str(source))}")
        else:
            limit = min(_LONGEST, seconds(str(options.get("timeout") or "5s"), "timeout"))
            found.append({kind: {**options, "timeout": f"{limit:g}s"}})
    return found, warnings


def _why_not(kind: str, source: str) -> str:
    return "it fails while nobody holds it" if kind == AddressProbe.kind else f"it is measured from the {source}"


def _address(text: object, name: str) -> wire.Address:
    try:
        return ipaddress.ip_address(str(text))
    except ValueError as error:
        raise _wrong(f"{name}: {text!r} is no address; set ansible_host of the members to their addresses") from error


def _wrong(why: str) -> UsageError:
    return UsageError(f"{why}. Nothing was touched")


def _foreign() -> str:
    """Why the configuration that is there stays; empty where it may be replaced."""
    try:
        data, _owner = trust.read_small(CONFIGURATION, 1 << 20)
    except FileNotFoundError:
        return ""
    if not data.strip() or data.startswith(MARK.encode()):
        return ""
    return f"{CONFIGURATION} was not written by this role, which would replace it: move it away, and run again"


def _installed() -> holding.Settings | None:
    try:
        return holding.read_settings()
    except OSError:
        return None


def _hash_of(path: str) -> str:
    try:
        with trust.open_regular(path) as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except OSError:
        return ""


def _plain(settings: holding.Settings) -> bytes:
    return (json.dumps(asdict(settings), indent=1, sort_keys=True) + "\n").encode()
