# SPDX-License-Identifier: GPL-3.0-or-later

"""The variables that systemd gives to every service that it starts. ``systemctl set-environment`` adds to them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from .._errors import ServiceFailed
from .._host.system import System

# systemd reads the locale anew from files at each of its reloads.
_LOCALE = r"LANG|LANGUAGE|LC_[A-Z]+"
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
# MariaDB sets and removes this variable each time it starts, with the name of an instance at the end.
_PASSING = "_WSREP_START_POSITION"
_HASH = "sha256="
_GIVEN = "which systemd gives to every service that starts"


def read_variables(system: System) -> dict[str, str]:
    """Variable -> a hash of its value, which may be a secret. Empty where systemd does not answer."""
    done = system.run(["systemctl", "show-environment"], 10.0) if system.has_systemd() else None
    if done is None or done.rc != 0:
        return {}
    found = {}
    for name, sign, value in (line.partition("=") for line in done.out.splitlines()):
        if sign and re.fullmatch(_NAME, name) and not (name.startswith(_PASSING) or re.fullmatch(_LOCALE, name)):
            found[name] = _hashed(value)
    return found


def record(variables: Mapping[str, str], system: System) -> dict[str, object]:
    """The record in a line: a variable that is set by hand lasts until the next boot."""
    return {"boot": system.boot_id(), "variables": dict(variables)}


def check(recorded: Mapping[str, object]) -> tuple[str, dict[str, str]]:
    """(boot, variables) of a line. ValueError where ``record`` cannot have written it."""
    boot, variables = recorded.get("boot"), recorded.get("variables")
    if len(recorded) != 2 or not isinstance(boot, str) or not isinstance(variables, Mapping):
        raise ValueError("no variables")
    for name, value in variables.items():
        if re.fullmatch(_NAME, name) is None or not isinstance(value, str) or not value.startswith(_HASH):
            raise ValueError("no variables")
    return boot, dict(variables)


def take_away(name: str, system: System) -> tuple[str, str]:
    """Take a variable away, if it is still there: systemd has reloaded its files before. (words on what was done, a
    note where the variable stays). ServiceFailed where systemctl fails."""
    if name not in read_variables(system):
        return "it went with the files", ""
    done = system.run(["systemctl", "unset-environment", name], 10.0)
    if done.rc != 0:
        raise ServiceFailed(f"{name} of systemd's variables: {done.words}")
    stays = name in read_variables(system)
    return "", f"{name}, {_GIVEN}, is new, and systemd keeps it: remove it where it is set" if stays else ""


def notes(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Variable -> the sentence on it, for those that nobody can set again without their values. Pure."""
    found = {}
    for name in sorted(then):
        if now.get(name) != then[name]:
            how = "has another value" if name in now else "is gone"
            found[name] = f"{name}, {_GIVEN}, {how}: set it again where services need it"
    return found


def _hashed(value: str) -> str:
    return _HASH + hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()
