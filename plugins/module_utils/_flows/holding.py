# SPDX-License-Identifier: GPL-3.0-or-later

"""The part of a host in holding a service address: the program that keepalived starts, and a person may.

keepalived moves the address. This program tells it, every second, whether this host may have the address: whether it
is healthy by its probes, sees a majority of the group, and is not about to be a second holder. It is in one file of
root's, and needs neither the store nor the controller.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from .._dataclasses import dataclass, field
from .._errors import EvenkeelError, UsageError
from .._health import probes as probing
from .._health.probe import PASS
from .._host import trust, wire
from .._host.durable import write_file
from .._host.system import System

PROGRAM = "/etc/keepalived/evenkeel-address"
SETTINGS = f"{PROGRAM}.json"
# The state that keepalived told last, the end of a standing aside, and the reason why the address is given up.
STATE, ASIDE, WHY = (f"/run/evenkeel-address.{name}" for name in ("state", "aside", "why"))
BACKUP = "BACKUP"
# Seconds: two advertisements of keepalived, between which a listener hears one at least.
_HEARING = 1.2
# Seconds in which the others answer on the wire; between two looks at a probe that did not pass; for a hand-over, and
# for which a host stands aside after it.
_ANSWERS, _TWICE, _HAND_OVER, _STANDS_ASIDE = 0.4, 0.5, 20.0, 120.0
_VRRP, _LONGEST = 112, 1 << 20
# Seconds for a packet that has arrived already, and the packets that are looked at.
_AT_ONCE, _MOST_PACKETS = 0.02, 200
_USAGE = """\
usage: evenkeel-address status      what this host does for the address, and why
       evenkeel-address hand-over   stand aside, and wait until another host has the address
       evenkeel-address take-part   end that; without it a host takes part again after two minutes
       evenkeel-address is-elsewhere  exit code 0 where this host stands aside and another has the address
keepalived and systemd start it with: watch, state, clean
"""


@dataclass(frozen=True)
class Settings:
    """The file beside the program. ``addresses``: with the lengths of their prefixes. ``members``: the addresses of all
    hosts of the group, this one included, the first to take over first. ``library``, ``program``: hashes of the sources
    and of the program that is installed."""

    interface: str
    own: str
    router_id: int
    addresses: Sequence[str]
    members: Sequence[str]
    witnesses: Sequence[str] = ()
    probes: Sequence[Mapping[str, object]] = ()
    library: str = ""
    program: str = ""

    @property
    def targets(self) -> list[wire.Address]:
        """The addresses of the service alone."""
        return [ipaddress.ip_interface(one).ip for one in self.addresses]

    @property
    def voters(self) -> list[wire.Address]:
        """The other members, and the witnesses."""
        return [ipaddress.ip_address(one) for one in [*self.members, *self.witnesses] if one != self.own]

    @property
    def needed(self) -> int:
        """The number of voters that this host has to see. Two voters cannot tell which of them is cut off."""
        voters = len(self.voters) + 1
        return 0 if voters < 3 else voters // 2


def read_settings(path: str = SETTINGS) -> Settings:
    """The settings of this host. OSError where there are none, and where others than root could have written them."""
    data, owner = trust.read_small(path, _LONGEST)
    if owner not in trust.trusted():
        raise OSError(f"{path} belongs to uid {owner}, and counts for nothing")
    try:
        return Settings(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise OSError(f"{path} cannot be read: {error}; run the role virtual_address again") from error


@dataclass(frozen=True)
class Seen:
    """A look at the group. ``others``: the hardware addresses that answer for the service address. ``votes``: how many
    of the ``voters`` answer. ``hears``: whether an advertisement of another host arrives; asked only where needed."""

    holds: bool
    own: str
    others: frozenset[str] = frozenset()
    votes: int = 0
    voters: int = 0
    hears: Callable[[], bool] = field(default=lambda: True)


def against(seen: Seen, needed: int) -> str:
    """The reason in words why this host may not have the address, apart from its health; empty where it may."""
    if seen.votes < needed:
        return f"it sees {seen.votes + 1} of {seen.voters + 1} voters, no majority"
    if not seen.others:
        return ""
    said = ", ".join(sorted(seen.others))
    if seen.holds and min(seen.others) < seen.own:
        return f"another host has the address too ({said}), and the lower hardware address keeps it"
    if not seen.holds and not seen.hears():
        return f"{said} has the address, and its advertisements do not arrive here"
    return ""


def watch(settings: Settings, system: System) -> str:
    """Why this host gives the address up, or does not take it; empty where it takes part."""
    if stands_aside(system):
        return "it stands aside, as somebody has asked"
    with _Ear(settings) as ear:
        # A second look, as the address may just be moving.
        why = _reason_against(settings, system, ear) and _reason_against(settings, system, ear)
    return why or _sick(settings, system)


def _reason_against(settings: Settings, system: System, ear: _Ear) -> str:
    known = wire.links(system)
    if not wire.holds(known, ipaddress.ip_address(settings.own)):
        return f"no interface has {settings.own}, its own address: run the role virtual_address for this host"
    link = _link(settings, known)
    answers = wire.ask([*settings.targets, *settings.voters], link, _ANSWERS)
    others = frozenset(one for target in settings.targets for one in answers[target])
    votes = sum(bool(answers[one]) for one in settings.voters)
    holds = any(wire.holds(known, target) for target in settings.targets)
    return against(Seen(holds, link.hardware, others, votes, len(settings.voters), ear.hears), settings.needed)


def _sick(settings: Settings, system: System) -> str:
    """The probes that decide and did not pass, twice in a row."""
    probes = probing.check([*settings.probes])
    for _number in range(2):
        wrong = [one.words for one in probing.measure(probes, system) if one.decides and one.state != PASS]
        if not wrong:
            return ""
        if not _number:
            system.sleep(_TWICE)
    return "; ".join(wrong)


def _link(settings: Settings, known: Sequence[wire.Link]) -> wire.Link:
    for one in known:
        if one.name == settings.interface:
            return one
    raise OSError(f"there is no interface {settings.interface}")


class _Ear:
    """Listens for advertisements of the other members, from the moment it is made."""

    def __init__(self, settings: Settings) -> None:
        self.members = {one for one in settings.members if one != settings.own}
        self.router_id = settings.router_id
        self.version = ipaddress.ip_address(settings.own).version
        family = socket.AF_INET if self.version == 4 else socket.AF_INET6
        self.socket = socket.socket(family, socket.SOCK_RAW, _VRRP)
        self.began = time.monotonic()

    def __enter__(self) -> _Ear:
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def hears(self) -> bool:
        """Whether one has arrived, or does within the time of two."""
        for _number in range(_MOST_PACKETS):
            self.socket.settimeout(max(_AT_ONCE, self.began + _HEARING - time.monotonic()))
            try:
                data, sender = self.socket.recvfrom(512)
            except socket.timeout:
                return False
            words = data[(data[0] & 15) * 4 :] if self.version == 4 and data else data
            # Version 3, an advertisement; with the priority 0 a host gives the address up.
            is_advert = len(words) >= 8 and words[0] == 0x31 and words[1] == self.router_id and words[2] > 0
            if is_advert and sender[0].partition("%")[0] in self.members:
                return True
        return False


def stands_aside(system: System) -> bool:
    """Whether this host leaves the address to others for a while."""
    try:
        data, owner = trust.read_small(ASIDE, 64)
        return owner in trust.trusted() and system.monotonic() < float(data) <= system.monotonic() + _STANDS_ASIDE
    except (OSError, ValueError):
        return False


def is_elsewhere(settings: Settings, system: System) -> bool:
    """Whether another host answers for every address, and this one has none."""
    known = wire.links(system)
    answers = wire.ask(settings.targets, _link(settings, known), _ANSWERS)
    return all(answers[one] and not wire.holds(known, one) for one in settings.targets)


def hand_over(settings: Settings, system: System) -> str:
    """Stand aside, and wait until another host has the address. Return why it did not come to that; then this host
    takes part as before."""
    write_file(ASIDE, str(system.monotonic() + _STANDS_ASIDE).encode())
    end = system.monotonic() + _HAND_OVER
    while not is_elsewhere(settings, system):
        if system.monotonic() > end:
            take_part()
            return f"no other host has taken {' and '.join(settings.addresses)} within {_HAND_OVER:g} s"
        system.sleep(_ANSWERS)
    return ""


def take_part() -> None:
    """End the standing aside."""
    with suppress(FileNotFoundError):
        os.unlink(ASIDE)


def clean(settings: Settings, system: System) -> str:
    """Remove the address, which a killed keepalived leaves. Return why it is still there; empty where it is gone."""
    with suppress(FileNotFoundError):
        os.unlink(STATE)
    left = []
    for link in wire.links(system):
        for one in link.addresses:
            if one.ip in settings.targets:
                done = system.run(["ip", "address", "delete", str(one), "dev", link.name], 10.0)
                left += [f"{one} on {link.name}: {done.words}"] if done.rc else []
    return "; ".join(left)


@dataclass(frozen=True)
class Part:
    """The part of this host in some service addresses. ``ready``: it takes them when their holder gives them up.
    ``why``: why it is not ready; empty where it is."""

    holds: list[str]
    ready: bool
    why: str


def part(addresses: Sequence[str], system: System) -> Part:
    """The part of this host now, for the guard. UsageError for a text that is no address."""
    try:
        targets = {one: ipaddress.ip_interface(one).ip for one in addresses}
    except ValueError as error:
        raise UsageError(f"addresses: {error}") from error
    known = wire.links(system)
    holds = [one for one, target in targets.items() if wire.holds(known, target)]
    state = _text(STATE)
    if stands_aside(system):
        why = "it stands aside"
    elif state == BACKUP:
        why = ""
    elif state:
        why = f"keepalived there is in the state {state}" + (f": {_text(WHY)}" if _text(WHY) else "")
    else:
        why = "keepalived does not run there"
    return Part(holds, not why, why)


def _text(path: str) -> str:
    try:
        data, owner = trust.read_small(path, 4096)
    except OSError:
        return ""
    return data.decode("utf-8", "replace").strip() if owner in trust.trusted() else ""


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Exit codes: 0 yes or done, 1 no or not done, 2 wrong words."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.umask(0o077)
    task = _TASKS.get(words[0]) if words else None
    if task is None:
        sys.stderr.write(_USAGE)
        return 2
    try:
        why = task(read_settings(), System(), words[1:])
    except (OSError, EvenkeelError, ValueError) as error:
        why = str(error) or type(error).__name__
    if words[0] == "watch" and why != _text(WHY):
        write_file(WHY, why.encode("utf-8", "replace")[:4000])
    if why:
        sys.stderr.write(f"evenkeel-address: {why}\n")
    return 1 if why else 0


def _note(settings: Settings, system: System, words: Sequence[str]) -> str:
    """keepalived appends the type, the name, the state and the priority."""
    write_file(STATE, (words[2] if len(words) > 2 else "unknown").encode()[:40])
    return ""


def _show(settings: Settings, system: System, words: Sequence[str]) -> str:
    now = part(settings.addresses, system)
    sys.stdout.write(f"{', '.join(settings.addresses)}: {'held here' if now.holds else 'not held here'}\n")
    sys.stdout.write("ready to take over\n" if now.ready else f"{now.why}\n")
    return ""


def _is_drained(settings: Settings, system: System, words: Sequence[str]) -> str:
    return "" if stands_aside(system) and is_elsewhere(settings, system) else "this host may still have the address"


def _take_part(settings: Settings, system: System, words: Sequence[str]) -> str:
    take_part()
    return ""


_TASKS: Mapping[str, Callable[[Settings, System, Sequence[str]], str]] = {
    "watch": lambda settings, system, words: watch(settings, system),
    "state": _note,
    "clean": lambda settings, system, words: clean(settings, system),
    "status": _show,
    "hand-over": lambda settings, system, words: hand_over(settings, system),
    "take-part": _take_part,
    "is-elsewhere": _is_drained,
}
