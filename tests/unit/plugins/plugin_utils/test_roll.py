# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a rolling restart: each host once, those in the middle first, leaders last, and nothing past a doubt."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _roll, _waves
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._roll import Question, Rolled, Seen, plan

WELL = Seen()
OTHER = {"target": "db.service", "mode": "cold", "stage": "failed", "at": 1.0, "running": False, "drained": []}
ANSWER: dict[str, Any] = {
    "target": "nginx.service",
    "refusal": "",
    "restart": None,
    "rolled": None,
    "history": None,
    "leads": None,
}


def question(hosts: dict[str, Seen], *sizes: str, **more: Any) -> Question:
    return Question(hosts, sizes or ("1",), **more)


def test_hosts_keep_their_order_and_waves_their_sizes() -> None:
    made = plan(question({f"web{n}": WELL for n in range(1, 7)}, "1", "50%"))
    assert made.waves == [("web1",), ("web2", "web3", "web4"), ("web5", "web6")]
    assert made.order == [f"web{n}" for n in range(1, 7)] and not made.reasons


def test_hosts_in_the_middle_come_first_and_leaders_last_one_by_one() -> None:
    left = Seen(left="a restart is under way")
    hosts = {"a": Seen(leads=True), "b": WELL, "c": left, "d": Seen(leads=True), "e": left, "f": WELL}
    assert plan(question(hosts, "2")).waves == [("c", "e"), ("b", "f"), ("a",), ("d",)]
    assert plan(question(hosts)).waves[:2] == [("c",), ("e",)], "never more at once than written"


def test_a_plan_tells_of_what_does_not_run_and_would_be_started() -> None:
    state = {"name": "nginx.service", "active": True, "text": "active (running)"}
    stopped = {**state, "active": False, "text": "inactive (dead)"}
    idle = {**ANSWER, "before": stopped}
    answers = {"a": {**ANSWER, "before": state}, "b": idle, "c": ANSWER, "d": idle}
    hosts = {name: _roll.seen(answer) for name, answer in answers.items()}
    assert plan(question(hosts)).notes == ["b, d: nginx.service does not run now (inactive (dead)), and is started"]
    under_way = {**OTHER, "target": "nginx.service", "generation": 1, "roll": ""}
    middle = {"b": _roll.seen({**answers["b"], "restart": under_way})}
    (note,) = plan(question(middle)).notes
    assert "is started" not in note, "it is down because of the restart that is finished now"


def test_a_leader_in_the_middle_of_a_restart_is_down_already() -> None:
    made = plan(question({"a": WELL, "b": Seen(left="under way", leads=True)}))
    assert made.order == ["b", "a"]


def test_waves_stay_within_a_failure_domain() -> None:
    domains = {"a": "r1", "b": "r2", "c": "r1", "d": "r2"}
    made = plan(question(dict.fromkeys(domains, WELL), "2", domains=domains))
    assert made.waves == [("a",), ("b",), ("c",), ("d",)]
    lacking = plan(question(dict.fromkeys(domains, WELL), "2", domains={**domains, "c": None}))
    assert "c: no failure domain" in lacking.reasons[""] and not lacking.waves


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (_roll.seen({"unreachable": True, "msg": "timed out"}), "unreachable: timed out"),
        (_roll.seen({"failed": True, "msg": "there is no unit x"}), "there is no unit x"),
        (_roll.seen({}), "its answer cannot be read"),
        (_roll.seen({**ANSWER, "restart": 3}), "its answer cannot be read"),
        (_roll.seen({**ANSWER, "restart": OTHER}), "a restart of db.service (cold) has failed since 1970"),
        (_roll.seen(ANSWER, asks_leader=True), "whether it leads its group is not known"),
        (_roll.seen({**ANSWER, "history": {"tries": -2}}), "a number is out of bounds"),
        (
            _roll.seen({**ANSWER, "rolled": {"roll": "r", "at": math.inf, "hosts": 1, "ok": True}}),
            "a number is out of bounds",
        ),
        (
            _roll.seen({**ANSWER, "rolled": {"roll": "r", "at": 1.0, "hosts": 10**400, "ok": True}}),
            "a number is out of bounds",
        ),
        (_roll.seen({**ANSWER, "refusal": "there is no unit ngnix.service"}), "there is no unit ngnix.service"),
        (Seen(left="a restart is under way", running=True), "it still runs"),
    ],
)
def test_one_host_that_is_not_clear_stops_the_whole_roll(seen: Seen, words: str) -> None:
    made = plan(question({"a": WELL, "b": seen}))
    assert not made.waves and list(made.reasons) == ["b"] and words in made.reasons["b"]


def test_two_names_of_one_host_are_a_fault_of_the_request() -> None:
    here = _roll.seen({**ANSWER, "place": "f" * 64})
    made = plan(question({"a": here, "b": _roll.seen({**ANSWER, "place": "e" * 64}), "c": here}))
    assert list(made.reasons) == ["c"] and "c is a under another name" in made.reasons["c"] and made.wrong
    assert plan(question({"a": WELL, "b": WELL})).order == ["a", "b"], "unknown places are not compared"


def test_no_host_is_a_reason_and_bad_sizes_are_an_error() -> None:
    assert plan(question({})).reasons
    with pytest.raises(ValueError, match="'0' is neither"):
        plan(question({"a": WELL}, "0"))


def test_a_request_that_is_wrong_everywhere_is_a_fault_of_the_request() -> None:
    wrong = _roll.seen({"failed": True, "error": "UsageError", "msg": "there is no unit"})
    assert plan(question({"a": wrong, "b": wrong})).wrong
    assert not plan(question({"a": wrong, "b": _roll.seen({"unreachable": True})})).wrong


def test_only_what_is_owed() -> None:
    reboot = _roll.seen({**ANSWER, "owed": [{"level": "reboot", "unit": "", "why": ["kernel 6.1.0-30 is installed"]}]})
    made = plan(question({"a": WELL, "b": Seen(owed=["nginx.service"]), "c": reboot}, owed=True))
    assert made.order == ["b"] and made.skipped["a"] == "nothing is owed"
    assert made.skipped["c"] == "nothing is owed but a reboot (kernel 6.1.0-30 is installed)"


def roll(at: float, hosts: int = 3, name: str = "r1", ok: bool = True) -> Seen:
    return Seen(rolled=Rolled(name, at, hosts, ok))


def test_an_interrupted_roll_goes_on_only_when_it_is_asked_for() -> None:
    hosts = {"a": roll(100), "b": WELL, "c": Seen(left="a restart is under way")}
    anew = plan(question(hosts))
    assert anew.order == ["c", "a", "b"] and anew.roll == ""
    assert any("interrupted after a" in note for note in anew.notes)
    again = plan(question(hosts, resume=True))
    assert again.order == ["c", "b"] and again.roll == "r1" and "roll that goes on" in again.skipped["a"]


def under_way(name: str, at: float) -> Seen:
    """A host on which a roll has begun, and not ended."""
    begun = {**OTHER, "target": "nginx.service", "roll": name, "hosts": 3, "at": at}
    return _roll.seen({**ANSWER, "restart": begun, "rolled": {"roll": "r1", "at": 1.0, "hosts": 3, "ok": True}})


@pytest.mark.parametrize("last", [roll(9, name="r2", ok=False), under_way("r2", 9)])
def test_a_roll_that_failed_at_its_first_host_goes_on_and_not_an_older_one(last: Seen) -> None:
    """Whether the older one had ended, or not."""
    for third in (roll(3), WELL):
        made = plan(question({"a": last, "b": roll(2), "c": third}, resume=True))
        assert made.order == ["a", "b", "c"] and made.roll == "r2" and not made.skipped
    anew = plan(question({"a": last, "b": roll(2), "c": WELL}))
    assert any("interrupted after no host" in note for note in anew.notes)


def test_a_host_whose_restart_has_not_ended_keeps_its_roll_open() -> None:
    """It is healthy, say, and gets no requests yet. Or a single restart was begun on it since."""
    for last in (under_way("r1", 3), Seen(left="a restart is under way", rolled=Rolled("r1", 3, 3))):
        made = plan(question({"a": roll(1), "b": roll(2), "c": last}, resume=True))
        assert made.order == ["c"] and made.roll == "r1"


@pytest.mark.parametrize(
    "hosts",
    [
        {"a": roll(1), "b": roll(2), "c": roll(3)},  # it has restarted all
        {"a": roll(1, 2), "b": roll(2, 2), "c": WELL},  # it had two hosts
        {"a": WELL, "b": WELL},
        {"a": roll(9, 1, "later"), "b": roll(1), "c": WELL},  # a newer one has ended
    ],
)
def test_without_an_interrupted_roll_all_hosts_restart(hosts: dict[str, Seen]) -> None:
    made = plan(question(hosts, resume=True))
    assert made.order == list(hosts) and made.roll == "" and "no interrupted roll" in made.notes[0]


def test_the_forecast_comes_from_the_record_of_the_hosts() -> None:
    hosts = {"a": Seen(tries=8, failures=1, seconds=4.0), "b": Seen(tries=10, seconds=6.0)}
    told = _roll.forecast(plan(question(hosts)), hosts)
    assert told.tries == 18 and told.seconds == 12.0
    assert told.risk == pytest.approx(1 - (1 - 2 / 20) ** 2)
    assert _roll.forecast(plan(question({"a": WELL})), {"a": WELL}).risk is None


@pytest.mark.parametrize("fleets", [1000, pytest.param(10_000, marks=pytest.mark.long)])
def test_random_fleets(fleets: int) -> None:
    chance = random.Random(7)
    for _number in range(fleets):
        names = [f"h{n}" for n in range(chance.randint(1, 9))]
        hosts = {
            name: Seen(
                left=chance.choice(["", "", "", "under way"]),
                leads=chance.random() < 0.2,
                owed=["a.service"] if chance.random() < 0.5 else [],
                rolled=Rolled(chance.choice("rs"), chance.random(), chance.randint(1, 9), chance.random() < 0.7)
                if chance.random() < 0.5
                else None,
            )
            for name in names
        }
        size = chance.choice(["1", "2", "50%"])
        domains = {name: chance.choice("xy") for name in names} if chance.random() < 0.5 else None
        made = plan(Question(hosts, [size], domains, chance.random() < 0.3, chance.random() < 0.5))
        order = made.order
        assert sorted([*order, *made.skipped]) == names, "each host is restarted or skipped, and once"
        left = [name for name in names if hosts[name].left]
        assert set(order[: len(left)]) == set(left), "those in the middle come first"
        most = _waves.hosts_of_budget(size, len(order), "waves", round_up=True) if order else 0
        assert all(len(wave) <= most for wave in made.waves), "no wave is larger than written"
        led = [at for at, wave in enumerate(made.waves) if any(hosts[n].leads and not hosts[n].left for n in wave)]
        assert led == list(range(len(made.waves) - len(led), len(made.waves))), "leaders come last"
        assert all(len(made.waves[at]) == 1 for at in led), "and one at a time"
        if domains:
            assert all(len({domains[name] for name in wave}) == 1 for wave in made.waves)
