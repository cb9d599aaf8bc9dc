# SPDX-License-Identifier: GPL-3.0-or-later

"""The base class of probes, and the answers of a probe: pass, fail, or unknown, which means not measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple
from urllib.parse import SplitResult, urlsplit

from .._dataclasses import dataclass
from .._errors import UsageError
from .._host.durations import seconds
from .._host.options import Option, Options, one_word
from .._host.system import System
from .._services.state import ServiceState

PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"
# The severities: the probe decides, or is only reported.
DECIDES, WARNS = "fail", "warn"
# The places from which a host is measured: the host itself, the controller, another host of its group.
HOST, CONTROLLER, PEER = "host", "controller", "peer"
COMMON: Options = {
    "timeout": {"type": "str", "default": "5s"},
    "severity": {"type": "str", "choices": [DECIDES, WARNS], "default": DECIDES},
}


def split_url(written: str, instead: str) -> SplitResult:
    """The parts of a URL of HTTP. UsageError for a malformed one. A URL with a user or a password is refused and not
    repeated, and ``instead`` says what to use."""
    url, why = urlsplit(""), " is not an http or https address, as http://localhost:8080/"
    try:
        url = urlsplit(written)
        good = url.scheme in ("http", "https") and bool(url.hostname) and not re.search(r"[\x00-\x20\x7f]", written)
        _port = url.port
    except ValueError as error:
        good, why = False, f": {error}"
    # A password with a sign that ends the host is no password for urlsplit, and stands in its own error.
    if url.username is not None or (not good and "@" in written):
        raise UsageError(f"url holds a user or a password, which results and logs would show; use {instead}")
    if not good:
        raise UsageError(f"url {written!r}{why}")
    return url


@dataclass(frozen=True)
class ProbeResult:
    """``identity`` and ``restarts`` belong to a service; they show a restart between two rounds.

    ``severity``: ``fail`` for a probe that decides, ``warn`` for a probe that is only reported. ``source``: the place
    from which it was measured.
    """

    kind: str
    target: str
    state: str
    detail: str
    seconds: float
    identity: str = ""
    restarts: int = 0
    severity: str = DECIDES
    source: str = HOST

    @property
    def decides(self) -> bool:
        """Whether a host is not healthy when this does not pass."""
        return self.severity == DECIDES

    @property
    def words(self) -> str:
        """The result as a sentence."""
        place = "" if self.source == HOST else f" from {self.source}"
        return f"{self.kind} {self.target}{place}: {self.state}, {self.detail}"


class Measurement(NamedTuple):
    """The answer of one probe: ``detail`` says in words why the state is such. ``service``: the state of the service,
    if a service was measured."""

    state: str
    detail: str
    service: ServiceState | None = None


class Probe:
    """The base class of all probes: a declaration that was checked, ready to be measured.

    A subclass sets ``kind`` and ``OPTIONS``, reads its declaration in ``prepare``, and answers in ``measure``. Its
    place in ``PROBES`` of ``probes.py`` makes it known.
    """

    kind: str
    # The options of the declaration, in the words of an argument spec. ``COMMON`` are added for every probe.
    OPTIONS: ClassVar[Options]
    # The places from which it can be measured, the default first. A choice is an option, ``from``.
    SOURCES: ClassVar[Sequence[str]] = (HOST,)
    # Whether it always gives the same result, so that waiting is useless.
    final: ClassVar[bool] = False

    def __init__(self, declared: Mapping[str, Any]) -> None:
        """``declared``: a value for each of ``options()``. UsageError for a bad value."""
        self.timeout = seconds(declared["timeout"], "timeout")
        if not self.timeout:
            raise UsageError("timeout must be more than 0")
        self.severity: str = one_word(declared["severity"], COMMON["severity"], "severity")
        source = self.options().get("from")
        self.source: str = one_word(declared["from"], source, "from") if source else self.SOURCES[0]
        self.target = self.prepare(declared)

    @classmethod
    def options(cls) -> Options:
        """All options of the declaration."""
        source: Option = {"type": "str", "choices": list(cls.SOURCES), "default": cls.SOURCES[0]}
        return {**cls.OPTIONS, **({"from": source} if len(cls.SOURCES) > 1 else {}), **COMMON}

    @property
    def address(self) -> tuple[str, int] | None:
        """The host and the port that it connects to; None for a probe that connects to none."""
        return None

    def prepare(self, declared: Mapping[str, Any]) -> str:
        """Keep the parts of the declaration that ``measure`` needs; the target in words. UsageError for a bad value."""
        raise NotImplementedError

    def measure(self, system: System) -> Measurement:
        """Measure once, within ``timeout`` seconds. An exception counts as unknown."""
        raise NotImplementedError
