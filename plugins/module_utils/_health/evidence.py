# SPDX-License-Identifier: GPL-3.0-or-later

"""Evidence that was measured outside of the host, by the controller or by another host, before this module began."""

from __future__ import annotations

from typing import Any

from .._errors import UsageError
from .._host.options import Option, Options, read
from .._host.system import System
from .probe import COMMON, CONTROLLER, FAIL, PASS, UNKNOWN, Measurement, Probe

_RESULT: Options = {
    "kind": {"type": "str", "required": True},
    "target": {"type": "str", "required": True},
    "state": {"type": "str", "choices": [PASS, FAIL, UNKNOWN], "required": True},
    "detail": {"type": "str", "default": ""},
    "source": {"type": "str", "default": CONTROLLER},
    "severity": COMMON["severity"],
}
# The option ``measured`` of modules.
OPTION: Option = {"type": "list", "elements": "dict", "options": dict(_RESULT)}


class Evidence(Probe):
    """A result that somebody else has measured, as a probe that always measures the same."""

    kind = "evidence"
    OPTIONS = _RESULT
    final = True

    def prepare(self, declared: Any) -> str:
        if declared["state"] not in (PASS, FAIL, UNKNOWN):
            raise UsageError(f"state must be {PASS}, {FAIL} or {UNKNOWN}, not {declared['state']!r}")
        self.result = declared
        return str(declared["target"])

    def measure(self, system: System) -> Measurement:
        return Measurement(self.result["state"], self.result["detail"])


def evidence(measured: Any) -> list[Probe]:
    """The results, as probes. UsageError for a malformed result."""
    found: list[Probe] = []
    for number, item in enumerate(measured or [], 1):
        where = f"measured, item {number}"
        probe = Evidence({"timeout": "5s", **read(_RESULT, item, where)})
        probe.kind, probe.source = str(probe.result["kind"]), str(probe.result["source"])
        found.append(probe)
    return found
