# SPDX-License-Identifier: GPL-3.0-or-later

"""The variables that systemd gives to every service that it starts. ``systemctl set-environment`` adds to them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from .._host.system import System

_LOCALE = r"LANG|LANGUAGE|LC_[A-Z]+"
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
# MariaDB sets and removes this variable each time it starts.
_PASSING = ("_WSREP_START_POSITION",)
_HASH = "sha256="


def read_variables(system: System) -> dict[str, str]:
    """Variable -> its value where it belongs to the locale, else a hash: it may be a secret. Empty where systemd does
    not answer."""
    done = system.run(["systemctl", "show-environment"], 10.0) if system.has_systemd() else None
    if done is None or done.rc != 0:
        return {}
    found = {}
    for name, sign, value in (line.partition("=") for line in done.out.splitlines()):
        if sign and re.fullmatch(_NAME, name) and name not in _PASSING:
            found[name] = value if re.fullmatch(_LOCALE, name) else _hashed(value)
    return found


def check(variables: Mapping[str, object]) -> dict[str, str]:
    """The variables of a line. ValueError where ``read_variables`` cannot have found them."""
    for name, value in variables.items():
        if re.fullmatch(_NAME, name) is None or type(value) is not str or not value.isprintable():
            raise ValueError("no variables")
    return {name: str(value) for name, value in variables.items()}


def commands(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str]]:
    """Variable -> the command that takes it away, or sets the value of a variable of the locale. Pure."""
    found = {name: ["systemctl", "unset-environment", name] for name in now if name not in then}
    for name, value in then.items():
        if now.get(name) != value and not value.startswith(_HASH):
            found[name] = ["systemctl", "set-environment", f"{name}={value}"]
    return found


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Sentences on the variables that differ, without their values. Pure."""
    words = []
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            how = "is new" if name not in then else "is gone" if name not in now else "has another value"
            words.append(f"{name}, which systemd gives to every service that starts, {how}")
    return words


def _hashed(value: str) -> str:
    return _HASH + hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()
