# SPDX-License-Identifier: GPL-3.0-or-later

"""Compare a host that is changed with hosts that are not, by a query to Prometheus."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from .._errors import UsageError
from .._host.system import System
from .probe import CONTROLLER, FAIL, PASS, UNKNOWN, Measurement, Probe
from .prometheus import SERVER, NoAnswer, Series, Server


class CompareProbe(Probe):
    """The value of this host is not above the median of the values of the unchanged hosts."""

    kind = "compare"
    SOURCES = (CONTROLLER,)
    OPTIONS = {
        **SERVER,
        "label": {"type": "str", "default": "instance"},
        "max_ratio": {"type": "float"},
        "max_difference": {"type": "float"},
        "min_samples": {"type": "int", "default": 1},
        "host": {"type": "list", "elements": "str"},
        "unchanged": {"type": "list", "elements": "str"},
    }

    def prepare(self, declared: Mapping[str, Any]) -> str:
        self._server, self._query, self._label = Server(declared), str(declared["query"]), str(declared["label"])
        self._ratio, self._difference = declared["max_ratio"], declared["max_difference"]
        if self._ratio is None and self._difference is None:
            raise UsageError("give max_ratio, max_difference or both")
        if (self._ratio is not None and self._ratio <= 0) or (self._difference is not None and self._difference < 0):
            raise UsageError("max_ratio must be more than 0, and max_difference not less than 0")
        self._needed: int = declared["min_samples"]
        if self._needed < 1:
            raise UsageError("min_samples must be 1 or more")
        self._host, self._unchanged = declared["host"] or [], declared["unchanged"] or []
        return self._query

    def measure(self, system: System) -> Measurement:
        try:
            series = self._server.ask(self._query, self.timeout)
            mine = self._values(series, self._host)
            others = self._values(series, self._unchanged)
        except NoAnswer as error:
            return Measurement(UNKNOWN, str(error))
        if len(mine) != 1:
            found = f"{len(mine)} values" if mine else "no value"
            return Measurement(UNKNOWN, f"the query gives {found} for {' or '.join(self._host)} ({self._label})")
        if len(others) < self._needed:
            return Measurement(
                UNKNOWN, f"{len(others)} unchanged hosts have a value, and min_samples is {self._needed}"
            )
        return self._judged(next(iter(mine.values())), _median(others.values()), len(others))

    def _judged(self, value: float, usual: float, number: int) -> Measurement:
        """With both limits a host fails that is beyond both: a ratio means little where values are near zero, and a
        difference little where they are large."""
        said = f"the value {value:g}, with {usual:g} on {number} unchanged {'host' if number == 1 else 'hosts'}"
        beyond = value > usual and (self._ratio is None or value > usual * self._ratio)
        beyond = beyond and (self._difference is None or value - usual > self._difference)
        return Measurement(FAIL if beyond else PASS, said)

    def _values(self, series: Iterable[Series], names: Iterable[str]) -> dict[str, float]:
        """Value of the label -> finite value, of the hosts with these names; the label may have a port behind it."""
        known = {name.lower() for name in names}
        found: dict[str, float] = {}
        for one in series:
            said = one.labels.get(self._label, "").lower()
            if said in known or _without_port(said) in known:
                if said in found:
                    raise NoAnswer(f"the query gives several series for {said}: sum them by {self._label}")
                found[said] = one.value
        return {said: value for said, value in found.items() if math.isfinite(value)}


def _median(values: Iterable[float]) -> float:
    # The module statistics takes longer to load than all of this.
    found = sorted(values)
    return (found[len(found) // 2] + found[(len(found) - 1) // 2]) / 2


def _without_port(address: str) -> str:
    host, colon, port = address.rpartition(":")
    return host.strip("[]") if colon and port.isdigit() else address
