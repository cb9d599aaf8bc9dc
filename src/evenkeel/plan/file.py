# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that `evenkeel plan` reads: targets and groups, checked, with assumptions marked and measurements used.

Every error says what is wrong, in which file and under which key, and what to write instead. All that a group does
not say is assumed, and remembered as such.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml

from evenkeel.outcome import UsageError
from evenkeel.shared import duration, hosts_of_budget

_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclass(frozen=True)
class Targets:
    """availability: of the group. rto: until a failed host serves again. rpo: work that may be lost. durability: chance
    that a host's checkpoints survive a year."""

    availability: float
    rto: float
    rpo: float
    durability: float


@dataclass(frozen=True)
class Step:
    """One rung of the restart ladder: how long it takes, and how often it is the cure."""

    name: str
    time: float
    chance: float


@dataclass(frozen=True)
class Now:
    """What the hosts themselves report (`evenkeel status --json`); None where they cannot know yet.

    interval: median time between checkpoints. copies: the least number of other hosts that hold a host's checkpoints.
    confirmed, rolled_back: how many last changes ended so.
    """

    interval: float | None = None
    copies: int | None = None
    confirmed: int = 0
    rolled_back: int = 0


@dataclass(frozen=True)
class Group:
    """One group of hosts; times in seconds, sizes in bytes, money a month.

    hosts: host -> failure domain; named: whether the file names them. domain_*: of a whole failure domain, which only
    the simulator plays. store_*: of one host's store of checkpoints.
    assumed, measured: what was not in the file, and what was measured instead of believed, as sentences.
    """

    name: str
    targets: Targets
    hosts: dict[str, str]
    named: bool
    failure_domain: str
    needed: int
    mtbf: float
    mttr: float
    common_cause: float
    domain_mtbf: float
    domain_mttr: float
    checkpoint_cost: float
    size: float
    bandwidth: float
    store_failure_rate: float
    store_repair: float
    store_common_cause: float
    generation_good: float
    success: float
    permanent: float
    attempts_target: float
    delay: float
    ladder: tuple[Step, ...]
    detection: float
    roll_time: float
    roll_risk: float
    change_time: float
    change_failure: float
    change_every: float
    soak: float
    deadline: float
    host_price: float | None
    gib_price: float | None
    currency: str
    now: Now = field(default_factory=Now)
    assumed: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()


# Values


def share(text: Any) -> float:
    """A number between 0 and 1, or a percentage such as ``99.95%``."""
    try:
        if isinstance(text, bool):
            raise InvalidOperation
        percent = isinstance(text, str) and text.strip().endswith("%")
        number = Decimal(str(text).strip().rstrip("%").strip()) / (100 if percent else 1)
        if number.is_nan():
            raise InvalidOperation
    except InvalidOperation:
        raise ValueError("is not a share; write a number between 0 and 1, or a percentage such as 99.95%") from None
    if not 0 <= number <= 1:
        raise ValueError("is not between 0 and 1 (or 0% and 100%)")
    return float(number)


def size(text: Any) -> float:
    """Bytes of ``2GiB``, ``500MB`` or a plain number."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B|B|)\s*", str(text)) if not isinstance(text, bool) else None
    if not found:
        raise ValueError("is not a size; write bytes, or a text such as 500MB or 2GiB")
    return float(found[1]) * _SIZES[found[2]]


def rate(text: Any) -> float:
    """Failures a year: a number, 0 or more, or a percentage."""
    value = str(text).strip() if not isinstance(text, bool) else ""
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:[eE]-?\d+)?)\s*(%?)", value)
    if not found:
        raise ValueError("is not a rate; write failures a year, such as 2% or 0.02")
    return float(found[1]) / (100 if found[2] else 1)


def price(text: Any) -> float:
    """An amount of money, 0 or more."""
    if isinstance(text, bool) or not isinstance(text, (int, float)) or not 0 <= text < math.inf:
        raise ValueError("is not a price; write a number")
    return float(text)


def count(text: Any) -> int:
    """A whole number, at least 1."""
    if isinstance(text, bool) or not isinstance(text, int) or text < 1:
        raise ValueError("is not a number of at least 1")
    return text


def natural(text: Any) -> int:
    """A whole number, at least 0."""
    if isinstance(text, bool) or not isinstance(text, int) or text < 0:
        raise ValueError("is not a whole number of at least 0")
    return text


def word(text: Any) -> str:
    """A text."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError("is not a text")
    return text


# The file


class _Loader(yaml.SafeLoader):
    """YAML without the silent loss of a key that stands there twice."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a plain text", key.start_mark)
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands there twice", key.start_mark)
        seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


class Section:
    """A mapping of the file, taken key by key; what nobody took is a mistake of the writer's."""

    def __init__(self, where: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: {value!r} is not a mapping; write key: value lines below it")
        self.where, self.value = where, value
        self.known: list[str] = []

    def at(self, key: str) -> str:
        return f"{self.where}.{key}" if not self.where.endswith(": ") else f"{self.where}{key}"

    def has(self, key: str) -> bool:
        self.known.append(key)
        return self.value.get(key) is not None

    def take(self, key: str, read: Callable[[Any], Any]) -> Any:
        """The value of ``key``, which must be there."""
        if not self.has(key):
            raise UsageError(f"{self.at(key)}: is missing; {_EXPECTED.get(key, 'add it')}")
        try:
            return read(self.value[key])
        except ValueError as error:
            raise UsageError(f"{self.at(key)}: {self.value[key]!r} {error}") from None

    def section(self, key: str) -> Section:
        return Section(self.at(key), self.value[key] if self.has(key) else {})

    def refuse(self, key: str, problem: str) -> UsageError:
        return UsageError(f"{self.at(key)}: {self.value.get(key)!r} {problem}")

    def close(self) -> None:
        """Nothing else may stand here."""
        for key in self.value:
            if key not in self.known:
                near = difflib.get_close_matches(str(key), self.known, 1)
                hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(self.known)}"
                raise UsageError(f"{self.at(str(key))}: is not a key that evenkeel plan knows; {hint}")


_EXPECTED = {
    "groups": "add at least one group, such as groups: {web: {hosts: 3}}",
    "hosts": "write their number, or host: failure domain lines",
}


@dataclass
class _Reader:
    """Takes values in order of trust: measured, written in the group, written for all, assumed."""

    group: Section
    measured: dict[str, tuple[float, str]]
    assumed: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)

    def value(self, section: Section, key: str, read: Callable[[Any], Any], assume: Any, name: str = "") -> Any:
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


def read_plan(path: str, status: str = "") -> list[Group]:
    """The groups of a plan file. status: a file that `evenkeel status --json` wrote, or empty.

    Raises UsageError.
    """
    data = _load(path)
    top = Section(f"{path}: ", data)
    common = top.section("targets")
    groups = Section(top.at("groups"), top.take("groups", lambda value: value))
    if not groups.value:
        raise UsageError(f"{groups.where}: is empty; {_EXPECTED['groups']}")
    top.close()
    hosts = _read_status(status) if status else {}
    read = [
        _group(str(name), Section(groups.at(str(name)), groups.value[name]), common, hosts) for name in groups.value
    ]
    common.close()
    return read


def _load(path: str) -> Any:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise UsageError(f"{path}: {why}; give the path of a plan, such as docs/examples/plan.yml") from None
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, TypeError, RecursionError) as error:  # a date that is none, a key that can be none
        raise UsageError(f"{path}: {' '.join(str(error).split())[:200]}; correct the YAML there") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UsageError(f"{path}: {place}{getattr(error, 'problem', None) or error}; correct the YAML there") from None


def _group(name: str, section: Section, common: Section, status: Mapping[str, Any]) -> Group:
    measured = _measured(section.section("measured")) if section.has("measured") else {}
    reader = _Reader(section, measured)
    hosts, named = _hosts(name, section, reader)
    if section.has("measured"):
        measured = _rates(section.section("measured"), len(hosts), measured)
    now = _now(hosts, status)
    if now.rolled_back:  # of none rolled back so few changes tell nothing
        ended = now.confirmed + now.rolled_back
        measured["bad changes"] = now.rolled_back / ended, f"{now.rolled_back} of the last {ended} changes rolled back"
    reader.measured = measured
    needed = _needed(section, len(hosts), reader)
    targets = _targets(section.section("targets"), common, reader)
    checkpoint, store = section.section("checkpoint"), section.section("store")
    attempts, rolling = section.section("attempts"), section.section("rolling")
    change, cost, domain = section.section("change"), section.section("cost"), section.section("domain")
    value = reader.value
    weight = value(checkpoint, "size", size, "1GiB", "checkpoint size")
    bandwidth = value(checkpoint, "bandwidth", size, "100MB", "bandwidth (per second)")
    if bandwidth <= 0:
        raise checkpoint.refuse("bandwidth", "moves nothing; write bytes per second, such as 100MB")
    transfer = max(1.0, weight / bandwidth)
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
        domain_mtbf=value(domain, "mtbf", duration, "never", "failures of whole domains"),
        domain_mttr=value(domain, "mttr", duration, "1h", "repair of a whole domain"),
        checkpoint_cost=value(checkpoint, "cost", duration, f"{transfer:.3g}s", "checkpoint cost"),
        size=weight,
        bandwidth=bandwidth,
        store_failure_rate=value(store, "annual_failure_rate", rate, "2%", "store failures a year"),
        store_repair=value(store, "repair", duration, "1d", "store repair"),
        store_common_cause=value(store, "common_cause", share, "1%", "store common cause"),
        generation_good=value(checkpoint, "good", share, "95%", "chance that a checkpoint is a good one"),
        success=value(attempts, "success", share, "95%", "success of one attempt"),
        permanent=value(attempts, "permanent", share, "10%", "permanent share of failed attempts"),
        attempts_target=value(attempts, "target", share, "99%", "attempts target"),
        delay=value(attempts, "delay", duration, "5s", "first delay"),
        ladder=_ladder(section, transfer, reader),
        detection=value(section, "detection", duration, "30s"),
        roll_time=value(rolling, "time", duration, "1m", "restart of one host"),
        roll_risk=value(rolling, "risk", share, "0.1%", "accepted risk of a rolling restart"),
        change_time=value(change, "time", duration, "5m", "change time"),
        change_failure=value(change, "failure", share, "5%", "bad changes"),
        change_every=value(change, "every", duration, "7d", "time between changes"),
        soak=value(change, "soak", duration, "30s", "soak"),
        deadline=value(change, "deadline", duration, "2m", "deadline of probes"),
        host_price=cost.take("host", price) if cost.has("host") else None,
        gib_price=cost.take("gib", price) if cost.has("gib") else None,
        currency=cost.take("currency", word) if cost.has("currency") else "",
        now=now,
        assumed=tuple(reader.assumed),
        measured=tuple(reader.used),
    )
    if group.mtbf <= 0:
        raise section.refuse("mtbf", "is no time at all; write the mean time between failures of one host, such as 60d")
    for part, key, length in (
        (section, "mttr", group.mttr),
        (section, "detection", group.detection),
        (checkpoint, "cost", group.checkpoint_cost),
        (store, "repair", group.store_repair),
        (attempts, "delay", group.delay),
        (rolling, "time", group.roll_time),
        (change, "time", group.change_time),
        (change, "soak", group.soak),
        (change, "deadline", group.deadline),
    ):
        if math.isinf(length):
            raise part.refuse(key, "is for ever; write a time that ends")
    if group.domain_mtbf <= 0 or math.isinf(group.domain_mttr):
        raise section.refuse("domain", "does not fit; write the mtbf and mttr of a failure domain, such as 5y and 4h")
    for part in (section, checkpoint, store, attempts, rolling, change, cost, domain):
        part.close()
    return group


def _targets(own: Section, common: Section, reader: _Reader) -> Targets:
    def value(key: str, read: Callable[[Any], Any], assume: str) -> Any:
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
            raise section.refuse("hosts", f"is empty; {_EXPECTED['hosts']}")
        return {str(host): str(domain) for host, domain in given.items()}, True
    if isinstance(given, list) and given:
        names, named = [str(host) for host in given], True
        twice = next((host for host in names if names.count(host) > 1), None)
        if twice:
            raise UsageError(f"{section.at('hosts')}: {twice!r} stands there twice; name each host once")
    else:
        names, named = [f"{name}{i + 1}" for i in range(section.take("hosts", count))], False
    if domains is None:
        reader.assumed.append("each host a failure domain of its own")
        domains = len(names)
    if domains > len(names):
        raise section.refuse("domains", f"is more than the {len(names)} hosts; write how many domains they stand in")
    return {host: f"domain{i % domains + 1}" for i, host in enumerate(names)}, named


def _needed(section: Section, hosts: int, reader: _Reader) -> int:
    if not section.has("needed"):
        quorum = _hosts_needed("quorum", hosts)
        reader.assumed.append(f"needed quorum ({quorum})")
        return quorum
    needed = int(section.take("needed", lambda text: _hosts_needed(text, hosts)))
    if needed > hosts:
        raise section.refuse("needed", f"is more than the {hosts} hosts; write how many must serve at once, or quorum")
    return needed


def _hosts_needed(text: Any, hosts: int) -> int:
    """As ``min_healthy`` of ft_guard is read; at least 1."""
    try:
        needed = hosts_of_budget(text, hosts, "needed", round_up=True)
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
    for i, one in enumerate(given):
        step = Section(f"{section.at('restart')}[{i}]", one)
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


# Measurements


def _measured(section: Section) -> dict[str, tuple[float, str]]:
    """What needs no number of hosts: attempts and the cost of checkpoints."""
    found: dict[str, tuple[float, str]] = {}
    if section.has("attempts"):
        tried = section.take("attempts", count)
        good = section.take("successes", natural)
        if good > tried:
            raise section.refuse("successes", f"is more than the {tried} attempts")
        if good == tried:
            found["success of one attempt"] = (
                1 - min(1.0, 3 / tried),
                f"no failure in {tried} attempts: {_least(tried)}",
            )
        else:
            found["success of one attempt"] = good / tried, f"{good} of {tried} attempts succeeded"
    if section.has("checkpoint"):
        times = section.value["checkpoint"]
        times = times if isinstance(times, list) and times else [times]
        took = section.take("checkpoint", lambda _value: [duration(one) for one in times])
        typical = statistics.median(took)
        found["checkpoint cost"] = typical, f"checkpoints took {typical:.3g} s (median of {len(took)})"
    return found


def _least(trials: float) -> str:
    return f"success at least {100 * (1 - min(1.0, 3 / trials)):.3g} % (rule of three, 95 %)"


def _rates(section: Section, hosts: int, found: dict[str, tuple[float, str]]) -> dict[str, tuple[float, str]]:
    """Failures and downtime of all hosts together, as mtbf and mttr of one."""
    for key in ("attempts", "successes", "checkpoint"):
        section.known.append(key)
    if section.has("over"):
        over = section.take("over", duration)
        failures = section.take("failures", natural)
        downtime = section.take("downtime", duration) if section.has("downtime") else None
        total = over * hosts
        if not 0 < total < math.inf or (downtime or 0.0) >= total:
            raise section.refuse("over", f"does not hold the failures and the downtime of {hosts} hosts; check both")
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
    section.close()
    return found


def _read_status(path: str) -> Mapping[str, Any]:
    data = _load(path)  # JSON is YAML
    hosts = data.get("hosts") if isinstance(data, Mapping) else None
    if not isinstance(hosts, Mapping):
        raise UsageError(f"{path}: has no hosts; write it with evenkeel status -i INVENTORY --json")
    return hosts


def _now(hosts: Sequence[str] | Mapping[str, str], status: Mapping[str, Any]) -> Now:
    """What the journals of these hosts tell; hosts that did not answer tell nothing."""
    told = {host: status[host] for host in hosts if isinstance(status.get(host), Mapping)}
    gaps = [gap for one in told.values() for gap in _gaps(one.get("checkpoints"))]
    outcomes = [_told(one.get("last")).get("outcome") for one in told.values()]
    copies = None
    if told:
        holders = {host: sum(host in _told(one.get("replicas")) for one in told.values()) for host in told}
        copies = min(holders.values())
    return Now(
        interval=statistics.median(gaps) if gaps else None,
        copies=copies,
        confirmed=outcomes.count("confirmed"),
        rolled_back=outcomes.count("rolled_back"),
    )


def _told(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _gaps(checkpoints: object) -> Iterator[float]:
    """The times between checkpoints, of those that say when they were taken."""
    known = checkpoints if isinstance(checkpoints, list) else []
    times = sorted(when for one in known if (when := _when(_told(one).get("created"))) is not None)
    return (later - earlier for earlier, later in itertools.pairwise(times))


def _when(created: Any) -> float | None:
    try:  # YAML reads times, JSON's are texts to it
        return (created if isinstance(created, datetime) else datetime.fromisoformat(str(created))).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
