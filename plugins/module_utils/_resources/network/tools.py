# SPDX-License-Identifier: GPL-3.0-or-later

"""The tools that configure a network by files: their files and units, the interfaces that each tool manages, and the
commands that have it apply its files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..._host.system import System
from ..._services import systemd

# The verbs for units of tools, in the order in which they are carried out.
VERBS = ("stop", "unmask", "disable", "enable", "mask", "start")
_ASK = 20.0
# A tool may wait for a server that gives an address.
_APPLY = 60.0
# Files of distributions with rpm. NetworkManager reads them where it has its plugin ifcfg-rh.
_IFCFG = ("/etc/sysconfig/network", "/etc/sysconfig/network-scripts")
# Routes, rules and keys of the connection in ifcfg-NAME are in files of their own.
_PARTS = r"/(route6?|rule6?|keys)-(?=[^/]*$)"


class Tool(NamedTuple):
    """``files``: its trees. ``units``: its units of systemd. ``reload``: commands that have the tool read its files
    anew.

    ``command``: the program that we need to ask the tool. ``lists``: the interfaces that the tool manages -> the
    tool's name of the configuration in use. ``renew``: from the names of an interface and of its configuration, the
    commands that apply this configuration. ``reapply``: from the paths that were put back, the commands by which
    interfaces take over their configuration from there once it was read; the tool leaves them as they are otherwise.
    ``switch``: the command that tells, and with the word on changes, whether the tool configures anything at all. It
    remembers that over a boot.
    """

    name: str
    files: Sequence[str]
    units: Sequence[str] = ()
    command: str = ""
    reload: Sequence[Sequence[str]] = ()
    lists: Callable[[System], dict[str, str]] = lambda _system: {}
    renew: Callable[[str, str], list[list[str]]] = lambda _device, _configuration: []
    reapply: Callable[[Sequence[str], System], list[list[str]]] = lambda _paths, _system: []
    switch: Sequence[str] = ()


def _networkd(system: System) -> dict[str, str]:
    done = system.run(["networkctl", "--no-pager", "--no-legend", "list"], _ASK)
    rows = [line.split() for line in done.out.splitlines()] if done.rc == 0 else []
    return {row[1]: "" for row in rows if len(row) == 5 and row[4] not in ("unmanaged", "-")}


def _network_manager(system: System) -> dict[str, str]:
    rows = _rows("DEVICE,STATE,CON-UUID", ["device", "status"], system)
    # NetworkManager shows a connection that others have set up as connected (externally).
    return {row[0]: row[2] for row in rows if row[1] == "connected" and row[2]}


def _reapply(paths: Sequence[str], system: System) -> list[list[str]]:
    rows = _rows("DEVICE,FILENAME", ["connection", "show", "--active"], system)
    back = {re.sub(_PARTS, "/ifcfg-", path) for path in paths}
    return [["nmcli", "--wait", "30", "device", "reapply", device] for device, path in rows if device and path in back]


def _rows(fields: str, words: Sequence[str], system: System) -> list[list[str]]:
    """The rows of a table that NetworkManager shows."""
    done = system.run(["nmcli", "--terse", "--fields", fields, *words], _ASK)
    # A colon within a value is written with a backslash.
    rows = [re.split(r"(?<!\\):", line) for line in done.out.splitlines()] if done.rc == 0 else []
    return [[word.replace("\\", "") for word in row] for row in rows if len(row) == fields.count(",") + 1]


def _ifupdown(system: System) -> dict[str, str]:
    done = system.run(["ifquery", "--state"], _ASK)
    pairs = [line.strip().partition("=") for line in done.out.splitlines()] if done.rc == 0 else []
    return {device: logical for device, _sign, logical in pairs if logical and device != "lo"}


def _up(device: str, configuration: str) -> list[list[str]]:
    return [["nmcli", "--wait", "30", "connection", "up", "uuid", configuration, "ifname", device]]


def _down_and_up(device: str, configuration: str) -> list[list[str]]:
    return [["ifdown", "--force", device], ["ifup", "--force", f"{device}={configuration}"]]


TOOLS = (
    Tool("netplan", ("/etc/netplan",), (), "netplan", (("netplan", "apply"),)),
    Tool(
        "networkd",
        ("/etc/systemd/network",),
        ("systemd-networkd.socket", "systemd-networkd.service"),
        "networkctl",
        (("networkctl", "reload"),),
        _networkd,
        lambda device, _configuration: [["networkctl", "reconfigure", device]],
    ),
    Tool(
        "networkd.conf",
        ("/etc/systemd/networkd.conf", "/etc/systemd/networkd.conf.d"),
        reload=(("systemctl", "try-restart", "systemd-networkd.service"),),
    ),
    Tool(
        "NetworkManager",
        ("/etc/NetworkManager", *_IFCFG),
        ("NetworkManager.service",),
        "nmcli",
        (("nmcli", "general", "reload"), ("nmcli", "connection", "reload")),
        _network_manager,
        _up,
        _reapply,
        ("nmcli", "networking"),
    ),
    Tool("ifupdown", ("/etc/network",), ("networking.service",), "ifup", (), _ifupdown, _down_and_up),
    Tool(
        "resolved",
        ("/etc/systemd/resolved.conf", "/etc/systemd/resolved.conf.d"),
        ("systemd-resolved.service",),
        "resolvectl",
        (("systemctl", "try-restart", "systemd-resolved.service"),),
    ),
)
BY_NAME = {tool.name: tool for tool in TOOLS}
# The tools and units whose commands have systemd-networkd act: it takes away rules and routes that it did not set.
NETWORKD = ("networkd", "networkd.conf", "netplan", "systemd-networkd.socket", "systemd-networkd.service")
UNITS = tuple(unit for tool in TOOLS for unit in tool.units)
# Units whose work is done once they have started: it means nothing where they are not active.
_ONCE = ("networking.service",)


def managed(system: System) -> dict[str, tuple[str, str]]:
    """Interface -> (the tool that manages it, the tool's name of its configuration)."""
    found: dict[str, tuple[str, str]] = {}
    for tool in TOOLS:
        for device, configuration in tool.lists(system).items() if shutil.which(tool.command) else ():
            found.setdefault(device, (tool.name, configuration))
    return found


def switches(system: System) -> dict[str, bool]:
    """Tool -> whether it configures anything at all, for the tools that tell: a tool that does not run does not."""
    found = {}
    for tool in TOOLS:
        if tool.switch and shutil.which(tool.command):
            words = system.run(tool.switch, _ASK).out.strip()
            found.update({tool.name: words == "enabled"} if words in ("enabled", "disabled") else {})
    return found


def units(system: System) -> dict[str, dict[str, object]]:
    """Unit of a tool -> the state that is compared, for the units that this host has."""
    found: dict[str, dict[str, object]] = {}
    for state in systemd.observe(UNITS, system) if system.has_systemd() else ():
        enabled = "masked" if state.enabled.startswith("masked") else state.enabled
        enabled = enabled if enabled in ("enabled", "masked") else ""
        active = (state.active or state.queued) and state.name not in _ONCE
        found[state.name] = {"name": state.name, "enabled": enabled, "active": active}
    return found


def verbs(then: dict[str, object], now: dict[str, object]) -> list[str]:
    """The verbs that bring the unit back to its state ``then``."""
    found = []
    if now["enabled"] == "masked" and then["enabled"] != "masked":
        found.append("unmask")
    if now["active"] and not then["active"]:
        found.append("stop")
    if then["enabled"] != now["enabled"]:
        found += {"enabled": ["enable"], "masked": ["mask"]}.get(
            str(then["enabled"]), ["disable"] if now["enabled"] == "enabled" else []
        )
    if then["active"] and not now["active"]:
        found.append("start")
    return found


def apply(commands: Sequence[Sequence[str]], system: System) -> str:
    """Run all commands; return the words of the last command that failed, or an empty text."""
    words = ""
    for argv in commands:
        done = system.run(list(argv), _APPLY)
        if done.rc != 0:
            words = f"{' '.join(argv)}: {done.words}"
    return words
