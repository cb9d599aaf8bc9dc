# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measured numbers: numbers that a person counted, and numbers that the hosts report."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from evenkeel.outcome import UsageError
from evenkeel.plan.group import Now
from evenkeel.plan.section import Section, load
from evenkeel.plan.values import count, natural
from evenkeel.shared import duration

# Name of a value -> the number that was measured, and how, as a sentence.
Measured = dict[str, tuple[float, str]]


def of_attempts(section: Section) -> Measured:
    """The success of attempts and the cost of checkpoints, which need no number of hosts."""
    found: Measured = {}
    if section.has("attempts"):
        tried = section.take("attempts", count)
        good = section.take("successes", natural)
        if good > tried:
            raise section.refuse("successes", f"is more than the {tried} attempts")
        if good == tried:
            found["success of one attempt"] = (
                _least(tried),
                f"no failure in {tried} attempts: success at least {100 * _least(tried):.3g} % (at 95 %)",
            )
        else:
            found["success of one attempt"] = good / tried, f"{good} of {tried} attempts succeeded"
    elif section.has("successes"):
        raise section.refuse("successes", "says nothing alone; write the number of attempts beside it")
    if section.has("checkpoint"):
        times = section.value["checkpoint"]
        times = times if isinstance(times, list) and times else [times]
        took = section.take("checkpoint", lambda _value: [duration(took) for took in times])
        typical = statistics.median(took)
        found["checkpoint cost"] = typical, f"checkpoints took {typical:.3g} s (median of {len(took)})"
    return found


def _least(trials: int) -> float:
    """The least chance of success with which so many trials without a failure are no surprise (one in twenty)."""
    return float(0.05 ** (1 / trials))


def of_failures(section: Section, hosts: int) -> Measured:
    """Failures and downtime of all hosts together, as mtbf and mttr of one host."""
    found: Measured = {}
    for key in ("attempts", "successes", "checkpoint"):
        section.known.append(key)
    if section.has("over"):
        over = section.take("over", duration)
        failures = section.take("failures", natural)
        downtime = section.take("downtime", duration) if section.has("downtime") else None
        total = over * hosts
        if not 0 < total < math.inf or (downtime or 0.0) >= total:
            raise section.refuse("over", f"does not hold the failures and the downtime of {hosts} hosts; check both")
        if downtime and not failures:
            raise section.refuse("downtime", "has no failure that caused it; correct the number of failures")
        if failures:
            mtbf = (total - (downtime or 0.0)) / failures
            found["mtbf"] = mtbf, f"{failures} failures in {total / 86400:.4g} host-days: mtbf {mtbf / 86400:.3g} d"
            if downtime:
                mttr = downtime / failures
                found["mttr"] = mttr, f"{downtime / 3600:.3g} h down in {failures} failures: mttr {mttr / 60:.3g} min"
        else:
            found["mtbf"] = (
                total / 3,
                (
                    f"no failure in {total / 86400:.4g} host-days: mtbf at least {total / 3 / 86400:.3g} d"
                    " (rule of three, 95 %)"
                ),
            )
    else:
        for key in ("failures", "downtime"):
            if section.has(key):
                raise section.refuse(key, "says nothing alone; write over beside it, the time in which it was counted")
    section.close()
    return found


def of_changes(now: Now) -> Measured:
    """The share of bad changes. Where no change was rolled back, so few changes prove nothing."""
    if not now.rolled_back:
        return {}
    ended = now.confirmed + now.rolled_back
    return {"bad changes": (now.rolled_back / ended, f"{now.rolled_back} of the last {ended} changes rolled back")}


def read_status(path: str) -> Mapping[str, object]:
    """The hosts in a file that `evenkeel status --json` wrote. Raises UsageError."""
    data = load(path)  # JSON is YAML
    hosts = data.get("hosts") if isinstance(data, Mapping) else None
    if not isinstance(hosts, Mapping):
        raise UsageError(f"{path}: has no hosts; write it with evenkeel status -i INVENTORY --json")
    return hosts


def reported(hosts: Iterable[str], status: Mapping[str, object]) -> Now:
    """The numbers that these hosts report; hosts that did not answer report none."""
    told = {host: _mapping(status[host]) for host in hosts if isinstance(status.get(host), Mapping)}
    gaps = [gap for row in told.values() for gap in _gaps(row.get("checkpoints"))]
    # A change of several hosts counts once. It is bad where any of them went back.
    ends: dict[object, list[object]] = {}
    for host, row in told.items():
        last = _mapping(row.get("last"))
        ends.setdefault(str(last.get("change") or f"of {host}"), []).append(last.get("outcome"))
    rolled_back = sum("rolled_back" in outcomes for outcomes in ends.values())
    copies = None
    if told:
        holders = {host: sum(host in _mapping(row.get("replicas")) for row in told.values()) for host in told}
        copies = min(holders.values())
    return Now(
        interval=statistics.median(gaps) if gaps else None,
        copies=copies,
        confirmed=sum("confirmed" in outcomes and "rolled_back" not in outcomes for outcomes in ends.values()),
        rolled_back=rolled_back,
    )


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _gaps(checkpoints: object) -> Iterator[float]:
    """The times between checkpoints, as far as the checkpoints have a date."""
    known = checkpoints if isinstance(checkpoints, list) else []
    times = sorted(when for checkpoint in known if (when := _when(_mapping(checkpoint).get("created"))) is not None)
    return (later - earlier for earlier, later in itertools.pairwise(times))


def _when(created: object) -> float | None:
    try:  # YAML reads times, JSON's are texts to it
        return (created if isinstance(created, datetime) else datetime.fromisoformat(str(created))).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
