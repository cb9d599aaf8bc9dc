# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that `evenkeel plan` reads: targets and groups, checked, with assumptions marked and measurements used.

Every error names the fault, the file and the key, and a value to write instead. A value that a group does not give is
assumed, and remembered as an assumption.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from evenkeel.outcome import UsageError
from evenkeel.plan.group import Group, Step, Targets
from evenkeel.plan.measured import Measured, of_attempts, of_changes, of_failures, read_status, reported
from evenkeel.plan.section import EXPECTED, NO_NAME, Section, is_name, load
from evenkeel.plan.text import time_text
from evenkeel.plan.values import count, price, rate, share, size, word
from evenkeel.shared import duration, hosts_of_budget

# A plan for more hosts than this takes longer than anybody waits.
_MOST_HOSTS = 10_000


@dataclass
class _Reader:
    """Takes values in order of trust: measured, written in the group, written for all, assumed."""

    measured: Measured
    assumed: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)

    def value(self, section: Section, key: str, read: Callable[[object], float], assume: str, name: str = "") -> float:
        """The value of ``key``. name: its name among measurements and assumptions."""
        name = name or key
        written = section.take(key, read) if section.has(key) else None
        if name in self.measured:
            number, how = self.measured[name]
            self.used.append(how)
            return number
        if written is not None:
            return written
        self.assumed.append(f"{name} {assume}")
        return read(assume)


class _Sections:
    """The mappings of one group in the file."""

    def __init__(self, group: Section) -> None:
        self.group = group
        self.checkpoint, self.store = group.section("checkpoint"), group.section("store")
        self.attempts, self.rolling = group.section("attempts"), group.section("rolling")
        self.change, self.cost, self.domain = group.section("change"), group.section("cost"), group.section("domain")

    def close(self) -> None:
        """Refuse every key that nobody took."""
        parts = (self.group, self.checkpoint, self.store, self.attempts, self.rolling, self.change, self.cost)
        for part in (*parts, self.domain):
            part.close()


def read_plan(path: str, status: str = "") -> list[Group]:
    """The groups of a plan file. status: a file that `evenkeel status --json` wrote, or empty.

    Raises UsageError.
    """
    top = Section(f"{path}: ", load(path))
    common = top.section("targets")
    groups = Section(top.at("groups"), top.take("groups", lambda value: value))
    if not groups.value:
        raise UsageError(f"{groups.where}: is empty; {EXPECTED['groups']}")
    top.close()
    hosts = read_status(status) if status else {}
    read = [
        _group(str(name), Section(groups.at(str(name)), groups.value[name]), common, hosts) for name in groups.value
    ]
    common.close()
    if status and not any(host in hosts for group in read for host in group.hosts):
        raise UsageError(f"{status}: reports none of the hosts of {path}; write the names of the hosts into the plan")
    return read


def _group(name: str, section: Section, common: Section, status: Mapping[str, object]) -> Group:
    reader = _Reader(of_attempts(section.section("measured")) if section.has("measured") else {})
    hosts, named = _hosts(name, section, reader)
    if section.has("measured"):
        reader.measured |= of_failures(section.section("measured"), len(hosts))
    now = reported(hosts, status)
    reader.measured |= of_changes(now)
    needed, needed_share = _needed(section, len(hosts), reader)
    targets = _targets(section.section("targets"), common, reader)
    part, value = _Sections(section), reader.value
    weight = value(part.checkpoint, "size", size, "1GiB", "checkpoint size")
    bandwidth = value(part.checkpoint, "bandwidth", size, "100MB", "bandwidth (per second)")
    if bandwidth <= 0:
        raise part.checkpoint.refuse("bandwidth", "moves nothing; write bytes per second, such as 100MB")
    transfer = _transfer(part.checkpoint, weight, bandwidth)
    group = Group(
        name=name,
        targets=targets,
        hosts=hosts,
        named=named,
        failure_domain=section.take("failure_domain", word) if section.has("failure_domain") else "",
        needed=needed,
        mtbf=value(section, "mtbf", duration, "90d"),
        mttr=value(section, "mttr", duration, "1h"),
        common_cause=value(section, "common_cause", share, "5%"),
        domain_mtbf=value(part.domain, "mtbf", duration, "never", "failures of whole domains"),
        domain_mttr=value(part.domain, "mttr", duration, "1h", "repair of a whole domain"),
        checkpoint_cost=value(part.checkpoint, "cost", duration, f"{transfer:.1f}s", "checkpoint cost"),
        size=weight,
        bandwidth=bandwidth,
        store_failure_rate=value(part.store, "annual_failure_rate", rate, "2%", "store failures a year"),
        store_repair=value(part.store, "repair", duration, "1d", "store repair"),
        store_common_cause=value(part.store, "common_cause", share, "1%", "store common cause"),
        generation_good=value(part.checkpoint, "good", share, "95%", "chance that a checkpoint is a good one"),
        success=value(part.attempts, "success", share, "95%", "success of one attempt"),
        permanent=value(part.attempts, "permanent", share, "10%", "permanent share of failed attempts"),
        attempts_target=value(part.attempts, "target", share, "99%", "attempts target"),
        delay=value(part.attempts, "delay", duration, "5s", "first delay"),
        ladder=_ladder(section, transfer, reader),
        detection=value(section, "detection", duration, "30s"),
        roll_time=value(part.rolling, "time", duration, "1m", "restart of one host"),
        roll_risk=value(part.rolling, "risk", share, "0.1%", "accepted risk of a rolling restart"),
        change_time=value(part.change, "time", duration, "5m", "change time"),
        change_failure=value(part.change, "failure", share, "5%", "bad changes"),
        change_every=value(part.change, "every", duration, "7d", "time between changes"),
        soak=value(part.change, "soak", duration, "30s", "soak"),
        deadline=value(part.change, "deadline", duration, "2m", "deadline of probes"),
        host_price=part.cost.take("host", price) if part.cost.has("host") else None,
        gib_price=part.cost.take("gib", price) if part.cost.has("gib") else None,
        currency=part.cost.take("currency", word) if part.cost.has("currency") else "",
        now=now,
        assumed=tuple(reader.assumed),
        measured=tuple(reader.used),
        needed_share=needed_share,
    )
    _check(group, part)
    return group


def _transfer(section: Section, weight: float, bandwidth: float) -> float:
    try:
        return duration(max(1.0, weight / bandwidth))
    except ValueError:
        wrong = f"takes too long to copy at {bandwidth:,.0f} bytes a second; write a smaller size or more bandwidth"
        raise section.refuse("size", wrong) from None


def _check(group: Group, part: _Sections) -> None:
    """Raises UsageError for times that cannot be, and for keys that nobody took."""
    if group.mtbf <= 0:
        wrong = "is no time at all; write the mean time between failures of one host, such as 60d"
        raise part.group.refuse("mtbf", wrong)
    if group.change_every <= 0:
        raise part.change.refuse("every", "is no time at all; write the time between changes, such as 7d")
    for section, key, length in (
        (part.group, "mttr", group.mttr),
        (part.group, "detection", group.detection),
        (part.checkpoint, "cost", group.checkpoint_cost),
        (part.store, "repair", group.store_repair),
        (part.attempts, "delay", group.delay),
        (part.rolling, "time", group.roll_time),
        (part.change, "time", group.change_time),
        (part.change, "soak", group.soak),
        (part.change, "deadline", group.deadline),
    ):
        if math.isinf(length):
            raise section.refuse(key, "is for ever; write a time that ends")
    if group.soak > group.deadline:
        wrong = (
            f"is longer than the deadline of {time_text(group.deadline)}, within which the probes have to pass so long"
        )
        raise part.change.refuse("soak", f"{wrong}; write a shorter soak, or a longer deadline")
    if group.domain_mtbf <= 0 or math.isinf(group.domain_mttr):
        wrong = "does not fit; write the mtbf and mttr of a failure domain, such as 5y and 4h"
        raise part.group.refuse("domain", wrong)
    part.close()


def _targets(own: Section, common: Section, reader: _Reader) -> Targets:
    def value(key: str, read: Callable[[object], float], assume: str) -> float:
        common.known.append(key)
        source = own if own.has(key) or key not in common.value else common
        return reader.value(source, key, read, assume, f"target {key}")

    targets = Targets(
        availability=value("availability", share, "99.9%"),
        rto=value("rto", duration, "1h"),
        rpo=value("rpo", duration, "1d"),
        durability=value("durability", share, "99.9%"),
    )
    own.close()
    return targets


def _hosts(name: str, section: Section, reader: _Reader) -> tuple[dict[str, str], bool]:
    """Host -> failure domain, from a number, a list, or a mapping."""
    given = section.take("hosts", lambda value: value)
    domains = section.take("domains", count) if section.has("domains") else None
    if isinstance(given, Mapping):
        if domains is not None:
            raise section.refuse("domains", "is not needed: hosts says already in which domain each one is")
        if not given:
            raise section.refuse("hosts", f"is empty; {EXPECTED['hosts']}")
        for host, domain in given.items():
            if not is_name(domain):
                raise UsageError(f"{section.at('hosts')}.{host}: the failure domain {domain!r} {NO_NAME}")
        return {str(host): str(domain) for host, domain in given.items()}, True
    if isinstance(given, list) and given:
        wrong = next((host for host in given if not is_name(host)), "")
        if wrong != "":
            raise UsageError(f"{section.at('hosts')}: {wrong!r} {NO_NAME}")
        names, named = [str(host) for host in given], True
        twice = next((host for host in names if names.count(host) > 1), None)
        if twice:
            raise UsageError(f"{section.at('hosts')}: {twice!r} stands there twice; name each host once")
    else:
        names, named = [f"{name}{i + 1}" for i in range(section.take("hosts", _hosts_counted))], False
    if domains is None:
        reader.assumed.append("each host a failure domain of its own")
        domains = len(names)
    if domains > len(names):
        raise section.refuse("domains", f"is more than the {len(names)} hosts; write how many domains they stand in")
    return {host: f"domain{i % domains + 1}" for i, host in enumerate(names)}, named


def _hosts_counted(value: object) -> int:
    number = count(value)
    if number > _MOST_HOSTS:
        raise ValueError(f"is more than {_MOST_HOSTS:,} hosts; plan groups of a smaller number")
    return number


def _needed(section: Section, hosts: int, reader: _Reader) -> tuple[int, str]:
    """The hosts that must serve, and the text of it where it grows with the hosts."""
    if not section.has("needed"):
        quorum = _hosts_needed("quorum", hosts)
        reader.assumed.append(f"needed quorum ({quorum})")
        return quorum, "quorum"
    needed = int(section.take("needed", lambda text: _hosts_needed(text, hosts)))
    if needed > hosts:
        raise section.refuse("needed", f"is more than the {hosts} hosts; write how many must serve at once, or quorum")
    text = str(section.value["needed"]).strip()
    return needed, "" if text.isdigit() else text


def _hosts_needed(text: object, hosts: int) -> int:
    """The number of hosts, read as ``min_healthy`` of ft_guard is; at least 1."""
    try:
        needed = hosts_of_budget(str(text), hosts, "needed", round_up=True)
    except ValueError:
        needed = 0
    if needed < 1:
        raise ValueError("is not a number of at least 1; write one such as 2, 60% or quorum")
    return needed


def _ladder(section: Section, transfer: float, reader: _Reader) -> tuple[Step, ...]:
    if not section.has("restart"):
        recover = 60.0 + transfer
        reader.assumed.append(f"restart ladder warm 5s 50%, cold 30s 80%, rollback 1m 90%, recover {recover:.0f}s 99%")
        return (
            Step("warm", 5.0, 0.5),
            Step("cold", 30.0, 0.8),
            Step("rollback", 60.0, 0.9),
            Step("recover", recover, 0.99),
        )
    given = section.value["restart"]
    if not isinstance(given, list) or not given:
        raise section.refuse("restart", "is not a list; write - {name: warm, time: 5s, chance: 50%} lines below it")
    steps = []
    for i, rung in enumerate(given):
        step = Section(f"{section.at('restart')}[{i}]", rung)
        name = step.take("name", word)
        steps.append(Step(name, step.take("time", duration), step.take("chance", share)))
        step.close()
        if math.isinf(steps[-1].time):
            raise step.refuse("time", "is for ever; write how long the step takes")
    names = [step.name for step in steps]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"{section.at('restart')}: {twice!r} stands there twice; give each step a name of its own")
    return tuple(steps)
