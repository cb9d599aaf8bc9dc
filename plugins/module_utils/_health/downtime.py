# SPDX-License-Identifier: GPL-3.0-or-later

"""The downtime of a restart, measured: an address of this host is connected to again and again while it happens."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence

from .probe import HOST, Probe
from .reaching import Address, connect

# Seconds between two connections; after the first seconds, and once the port answers again, as a server may count
# connections that send nothing, and a stop of minutes should leave few sockets behind; and those that a connection may
# take.
_EVERY, _SLOWER, _LIMIT = 0.005, 0.05, 0.2
# Seconds of connections at the first pace, and seconds of good connections after the act that end the measurement.
_FAST, _ENOUGH = 10.0, 1.0
_ANSWERS = 0.5


class Downtime:
    """Connects in a thread of its own, and sends nothing. ``name``: the target in words; empty where there is none.

    Downtime is the time between the last good connection before a failed one and the first good one after it. A target
    that did not answer before the act has no downtime that can be measured. ``fast``: the seconds of frequent
    connections.
    """

    def __init__(self, probes: Sequence[Probe], fast: float = _FAST) -> None:
        self.name = ""
        self._fast = fast
        self._places: list[tuple[int, Address]] = []
        for probe in probes:
            if probe.source == HOST and probe.address is not None and not self._places:
                self.name, self._places = f"{probe.kind} {probe.target}", _places_here(*probe.address)
        self._thread: threading.Thread | None = None
        self._acted, self._over = threading.Event(), threading.Event()
        self._good: float | None = None
        self._missing = False
        self._sum = 0.0
        # The sum as the act began, and the longest time between two connections that the sum depends on.
        self._before, self._pace = 0.0, _EVERY

    def __enter__(self) -> Downtime:
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(_LIMIT + _ANSWERS)
        if self._missing and not self._try() and self._good is not None:
            self._sum += time.monotonic() - self._good
            self._missing = False

    def acting(self) -> None:
        """An act begins: go on measuring, if it has been seen to answer before."""
        self._acted.clear()
        self._before = self._sum
        if not self._places or (self._thread is not None and self._thread.is_alive()):
            return
        if self._try() or self._missing:
            self._thread = threading.Thread(target=self._measure, daemon=True)
            self._thread.start()

    def acted(self) -> None:
        """The act is done. The measurement ends once connections have been good for a while."""
        self._acted.set()

    @property
    def seconds(self) -> float | None:
        """The sum, once the measurement is over; None where nothing was measured."""
        return None if self._good is None else round(self._sum, 3)

    @property
    def words(self) -> str:
        """The measurement as a sentence; empty where nothing was measured."""
        seconds = self.seconds
        if seconds is None:
            return ""
        seen = f"as seen every {self._pace * 1000:g} ms"
        return (
            f"{self.name} did not answer for {seconds:.3f} s, {seen}"
            if seconds
            else f"{self.name} answered all the time, {seen}"
        )

    def _measure(self) -> None:
        began = time.monotonic()
        since: float | None = None
        pace = _EVERY
        while not self._over.is_set():
            is_good = self._try()
            if not is_good or self._sum == self._before:
                self._pace = max(self._pace, pace)
            if is_good and self._acted.is_set():
                since = since or time.monotonic()
                if time.monotonic() - since >= _ENOUGH:
                    return
            else:
                since = None
            is_back = not self._missing and self._sum > self._before
            pace = _SLOWER if is_back or (not self._missing and time.monotonic() - began >= self._fast) else _EVERY
            self._over.wait(pace)

    def _try(self) -> bool:
        at = time.monotonic()
        if not any(_connects(*place) for place in self._places):
            self._missing = self._good is not None
            return False
        if self._missing and self._good is not None:
            self._sum += time.monotonic() - self._good
        # The moment before the connection: what fails after it may have failed from then on.
        self._good, self._missing = at, False
        return True


def _connects(family: int, address: Address) -> bool:
    """Whether the address takes a connection."""
    try:
        connect(family, address, _LIMIT)
    except OSError:
        return False
    return True


def _places_here(host: str, port: int) -> list[tuple[int, Address]]:
    """The addresses of the name; none where one of them is not of this host."""
    found: list[tuple[int, Address]] = []
    try:
        for family, kind, _protocol, _name, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as end:
                end.bind((address[0], 0, *address[2:]))
            found.append((family, address))
    except (OSError, UnicodeError):
        return []
    return found
