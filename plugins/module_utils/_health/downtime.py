# SPDX-License-Identifier: GPL-3.0-or-later

"""The downtime of a restart, measured: an address of this host is connected to again and again while it happens."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from .probe import HOST, Probe

# Seconds between two connections; after the first seconds, so that a stop of minutes leaves few sockets behind; and
# those that a connection may take.
_EVERY, _SLOWER, _LIMIT = 0.005, 0.05, 0.2
# Seconds of connections at the first pace, and seconds of good connections after the act that end the measurement.
_FAST, _ENOUGH = 10.0, 1.0
_ANSWERS = 0.5


class Downtime:
    """Connects in a thread of its own, and sends nothing. ``name``: the target in words; empty where there is none.

    Downtime is the time between the last good connection before a failed one and the first good one after it. What did
    not answer before the act has no downtime that can be measured.
    """

    def __init__(self, probes: Sequence[Probe]) -> None:
        self.name, self._address = "", ("", 0)
        for probe in probes:
            if probe.source == HOST and probe.address is not None and _is_here(probe.address[0]):
                self.name, self._address = f"{probe.kind} {probe.target}", probe.address
                break
        self._thread: threading.Thread | None = None
        self._acted, self._over = threading.Event(), threading.Event()
        self._good: float | None = None
        self._missing = False
        self._sum = 0.0

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
        if not self.name or (self._thread is not None and self._thread.is_alive()):
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
        if not seconds:
            return f"{self.name} answered all the time, as seen every {_EVERY * 1000:g} ms"
        return f"{self.name} did not answer for {seconds:.3f} s, as seen every {_EVERY * 1000:g} ms"

    def _measure(self) -> None:
        began = time.monotonic()
        since: float | None = None
        while not self._over.is_set():
            if self._try() and self._acted.is_set():
                since = since or time.monotonic()
                if time.monotonic() - since >= _ENOUGH:
                    return
            else:
                since = None
            self._over.wait(_EVERY if self._missing or time.monotonic() - began < _FAST else _SLOWER)

    def _try(self) -> bool:
        at = time.monotonic()
        try:
            socket.create_connection(self._address, _LIMIT).close()
        except OSError:
            self._missing = self._good is not None
            return False
        if self._missing and not self._try() and self._good is not None:
            self._sum += time.monotonic() - self._good
        # The moment before the connection: what fails after it may have failed from then on.
        self._good, self._missing = at, False
        return True


def _is_here(host: str) -> bool:
    """Whether the name or address is one of this host."""
    with suppress(OSError, UnicodeError):
        for family, kind, protocol, _name, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with suppress(OSError), socket.socket(family, kind, protocol) as end:
                end.bind(address)
                return True
    return False
