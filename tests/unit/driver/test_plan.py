# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What evenkeel plan proposes, why, and what it says to a file that it cannot read."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._placement import choose
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel import cli, reliability
from evenkeel.commands.plan import finite
from evenkeel.outcome import UsageError
from evenkeel.plan.compare import fleet_of
from evenkeel.plan.copies import place
from evenkeel.plan.file import read_plan
from evenkeel.plan.group import Group, Step
from evenkeel.plan.proposal import Choice, Proposal, Verdict
from evenkeel.plan.propose import propose
from evenkeel.plan.simulate import events, play
from evenkeel.plan.text import nines_text, odds_text, share_text, time_text
from evenkeel.plan.values import rate, share, size
from evenkeel.shared import duration
from evenkeel.show.plan import variables_yaml

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

SAMPLE = Path(__file__).parents[3] / "docs/examples/plan.yml"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def write(tmp_path: Path, content: Any) -> str:
    path = tmp_path / "plan.yml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return str(path)


def group(tmp_path: Path, **keys: Any) -> Group:
    return read_plan(write(tmp_path, {"groups": {"web": {"hosts": 3, **keys}}}))[0]


def choice(proposal: Proposal, what: str) -> Choice:
    return next(one for one in proposal.choices if one.what == what)


def verdict(proposal: Proposal, target: str) -> Verdict:
    return next(one for one in proposal.verdicts if one.target == target)


# The sample


@pytest.fixture(scope="module")
def sample() -> dict[str, Proposal]:
    return {one.name: propose(one) for one in read_plan(str(SAMPLE))}


def test_the_sample_has_three_groups_and_every_part_of_a_proposal(sample: dict[str, Proposal]) -> None:
    assert list(sample) == ["web", "db", "queue"]
    parts = {"hosts", "copies", "generations", "checkpoints", "attempts", "restart ladder", "waves", "confirm within"}
    for proposal in sample.values():
        assert parts <= {one.what for one in proposal.choices}
        assert all(one.why.endswith(".") and len(one.why) > 20 for one in proposal.choices)
        assert {one.target for one in proposal.verdicts} == {
            "availability",
            "durability",
            "RPO",
            "RTO",
            "attempts",
            "rolling restart",
        }
        kinds = {one.choice for one in proposal.alternatives}
        assert kinds == {"hosts", "copies", "checkpoints", "attempts", "ladder", "waves"}
        for kind in kinds:
            assert sum(one.chosen for one in proposal.alternatives if one.choice == kind) == 1
        assert all(one.cost and one.effect for one in proposal.alternatives)
        for one in proposal.verdicts:
            assert one.met or one.remedies


def test_the_sample_meets_what_it_can_and_says_what_the_rest_would_take(sample: dict[str, Proposal]) -> None:
    assert all(one.met for one in sample["web"].verdicts)
    missed = {one.target: one.remedies for one in sample["db"].verdicts if not one.met}
    assert set(missed) == {"durability", "RPO", "attempts", "RTO"}
    assert "at most 0.0445 % of losses common to all stores (another kind, another place)" in missed["durability"]
    assert "recover within 12m30s instead of 20m" in missed["RTO"]
    assert missed["attempts"] == (
        "escalation, as repeating reaches 98 % at most",
        "fewer than 10 % permanent failures instead of 20 %",
    )


def test_it_says_when_more_no_longer_helps_and_diversity_would(sample: dict[str, Proposal]) -> None:
    assert "More hosts no longer help" in choice(sample["web"], "hosts").why
    assert "diversity" in choice(sample["web"], "hosts").why
    assert "More copies no longer help" in choice(sample["db"], "copies").why
    assert "no longer help" not in choice(sample["queue"], "hosts").why


def test_the_numbers_are_those_of_the_formulas(sample: dict[str, Proposal]) -> None:
    numbers = sample["web"].numbers
    host = reliability.availability(60 * DAY, 30 * MINUTE)
    assert 1 - numbers["unavailability"] == pytest.approx(reliability.k_of_n(4, 6, host, 0.02), rel=1e-12)
    assert numbers["interval_exact"] == reliability.checkpoint_interval(10, 60 * DAY)
    assert numbers["attempts"] == reliability.attempts_needed(0.95, 0.99, 0.1)
    alone = -math.expm1(-reliability.YEAR / reliability.mttdl(2, 1, reliability.YEAR / (0.99 * 0.02), DAY))
    assert numbers["loss_a_year"] == pytest.approx(reliability.any_of([alone, -math.expm1(-0.01 * 0.02)]), rel=1e-12)
    assert numbers["ladder_coverage"] == reliability.any_of([0.6, 0.8, 0.9, 0.99])


# Each choice


def test_copies_are_the_fewest_that_meet_the_target(tmp_path: Path) -> None:
    store = {"annual_failure_rate": 0.2, "repair": "3d", "common_cause": 0}
    keys: dict[str, Any] = {"hosts": 9, "store": store}
    for durability, copies in (("90%", 1), ("99.9%", 1), ("99.999%", 2), ("99.99999%", 3)):
        planned = propose(group(tmp_path, **keys, targets={"durability": durability}))
        assert planned.numbers["copies"] == copies == planned.variables["evenkeel_copies"]
        year = reliability.YEAR
        lost = [-math.expm1(-year / reliability.mttdl(c + 1, c, year / 0.2, 3 * DAY)) for c in range(copies + 1)]
        assert lost[copies] <= 1 - share(durability)
        assert copies == 1 or lost[copies - 1] > 1 - share(durability)
        assert verdict(planned, "durability").met


def test_copies_never_outnumber_the_other_domains(tmp_path: Path) -> None:
    store = {"annual_failure_rate": 0.5, "repair": "10d", "common_cause": 0}
    two = propose(group(tmp_path, hosts=6, domains=2, store=store, targets={"durability": "99.9999%"}))
    assert two.numbers["copies"] == 1
    assert not verdict(two, "durability").met
    assert any("failure domains instead of 2" in text for text in verdict(two, "durability").remedies)
    one = propose(group(tmp_path, hosts=6, domains=1))
    assert one.numbers["copies"] == 0
    assert "lost with the original" in choice(one, "copies").why
    assert not {"evenkeel_copies", "evenkeel_peers"} & set(one.variables), "ft_replicate refuses 0 copies"
    assert "# web: evenkeel protect needs hosts in a second failure domain" in variables_yaml([one])
    assert "second failure domain" not in variables_yaml([two])


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12), st.integers(1, 5))
def test_placement_is_what_ft_replicate_chooses(domains: list[str], copies: int) -> None:
    hosts = {f"h{i}": domain for i, domain in enumerate(domains)}
    copies = min(copies, len(set(domains)) - 1)
    for host, on in place(hosts, copies).items():
        assert on == choose(host, copies, list(hosts), hosts)
        used = [hosts[other] for other in on]
        assert len(set(used)) == len(used) == copies
        assert hosts[host] not in used


def test_the_plan_prints_the_placement_that_ft_replicate_chooses(tmp_path: Path) -> None:
    racks = {f"web{i}": f"r{i % 3}" for i in range(9)}
    planned = propose(group(tmp_path, hosts=racks, failure_domain="rack"))
    copies = planned.numbers["copies"]
    assert planned.placement == {host: choose(host, copies, list(racks), racks) for host in racks}
    assert f"web0 on {' and '.join(planned.placement['web0'])}; " in choice(planned, "placement").why


def test_no_placement_is_printed_by_domains_that_the_inventory_does_not_name(tmp_path: Path) -> None:
    planned = propose(group(tmp_path, hosts={"a": "r1", "b": "r1", "c": "r2", "d": "r2"}))
    assert planned.placement == {}
    assert "add failure_domain" in choice(planned, "placement").why
    counted = propose(group(tmp_path, hosts=4, domains=2))
    assert "add failure_domain" in choice(counted, "placement").why
    told = propose(group(tmp_path, hosts=4, domains=2, failure_domain="rack"))
    assert not any(one.what == "placement" for one in (*told.choices, *propose(group(tmp_path, hosts=4)).choices))
    alone = propose(group(tmp_path, hosts=["a", "b", "c"]))
    copies = alone.numbers["copies"]
    assert alone.placement == {host: choose(host, copies, ["a", "b", "c"], None) for host in "abc"}


def test_the_interval_keeps_within_the_rpo(tmp_path: Path) -> None:
    checkpoint = {"cost": "20s", "size": "1GB", "bandwidth": "100MB"}
    tight = propose(group(tmp_path, checkpoint=checkpoint, targets={"rpo": "30m"})).numbers
    assert tight["interval"] == 29 * MINUTE  # 30m - 2*20s - 10s, in whole minutes
    assert tight["work_at_risk"] <= 30 * MINUTE
    far = propose(group(tmp_path, checkpoint={**checkpoint, "size": "60GB"}, targets={"rpo": "30m"})).numbers
    assert far["interval"] == 19 * MINUTE, "its copy takes ten minutes of the thirty"
    loose = propose(group(tmp_path, checkpoint=checkpoint, mtbf="1d", targets={"rpo": "1d"})).numbers
    assert 0.9 * loose["interval_exact"] <= loose["interval"] <= loose["interval_exact"]
    never = propose(group(tmp_path, checkpoint=checkpoint, mtbf="never", targets={"rpo": "10d"}))
    assert never.numbers["interval"] == DAY
    late = propose(group(tmp_path, checkpoint={"cost": "10m"}, targets={"rpo": "5m"}))
    assert not verdict(late, "RPO").met
    assert late.numbers["interval"] == 90 * MINUTE, "no more than a tenth of the time goes into checkpoints"


def test_no_interval_is_shorter_than_its_copy_takes(tmp_path: Path) -> None:
    """A copy takes 100 s here: checkpoints closer to each other would fall behind for ever."""
    slow = {"cost": "1s", "size": "10GB", "bandwidth": "100MB"}
    for rpo, met in (("3m", False), ("4m", True)):
        planned = propose(group(tmp_path, checkpoint=slow, targets={"rpo": rpo}))
        assert planned.numbers["interval"] >= 100
        assert planned.numbers["work_at_risk"] == planned.numbers["interval"] + 102
        assert verdict(planned, "RPO").met == met
    frequent = propose(group(tmp_path, checkpoint=slow, mtbf="10s"))
    assert frequent.numbers["interval"] == 100 and "the next copy cannot begin" in choice(frequent, "checkpoints").why
    days = propose(group(tmp_path, checkpoint={**slow, "size": "20TB"}, targets={"rpo": "30d"}))
    assert days.numbers["interval"] == 200_000 and verdict(days, "RPO").met


def test_an_interval_that_costs_too_much_is_named(tmp_path: Path) -> None:
    busy = propose(group(tmp_path, checkpoint={"cost": "1m", "size": 0}, targets={"rpo": "10m"}))
    assert not verdict(busy, "RPO").met
    assert "only an interval of 8m would keep within 10m" in choice(busy, "checkpoints").why
    assert "checkpoints would take 11.1 % of the time" in choice(busy, "checkpoints").why
    late = propose(group(tmp_path, checkpoint={"cost": "10m"}, targets={"rpo": "5m"}))
    assert "no interval keeps within 5m" in choice(late, "checkpoints").why


def test_attempts_stop_where_the_permanent_failures_rule(tmp_path: Path) -> None:
    attempts = {"success": "80%", "permanent": "50%", "target": "99%", "delay": "2s"}
    planned = propose(group(tmp_path, attempts=attempts))
    assert not verdict(planned, "attempts").met
    assert planned.numbers["attempts"] == 3  # 0.9 / 9**3 is less than a tenth of the 0.1 that stay
    enough = propose(group(tmp_path, attempts={**attempts, "permanent": 0}))
    assert enough.numbers["attempts"] == 3
    assert enough.numbers["delays"] == [2.0, 4.0]
    why = choice(enough, "attempts").why
    assert "draws each wait between nothing and this: attempts 3, backoff 2s, backoff_limit 4s, and a deadline" in why
    slow = propose(group(tmp_path, attempts={**attempts, "permanent": 0, "success": "1%", "delay": "3m"}))
    assert "459 attempts, which is no plan" in verdict(slow, "attempts").remedies[0]
    assert slow.numbers["attempts"] == 20
    assert slow.numbers["delays"][:4] == [180.0, 360.0, 600.0, 600.0]
    hopeless = propose(group(tmp_path, attempts={**attempts, "success": 0, "permanent": "100%"}))
    assert hopeless.numbers["attempts"] == 1
    assert verdict(hopeless, "attempts").remedies == ("escalation, as repeating reaches 0 % at most",)
    sure = propose(group(tmp_path, attempts={**attempts, "permanent": 0, "target": 1}))
    assert verdict(sure, "attempts").remedies == ("escalation, as repeating is never sure to succeed",)
    weak = propose(group(tmp_path, attempts={**attempts, "success": "1%"}))
    assert verdict(weak, "attempts").remedies == ("escalation, as repeating reaches 50.5 % at most",)
    fewer = verdict(propose(group(tmp_path, attempts={**attempts, "success": "30%"})), "attempts").remedies[1]
    for share_of, met in ((0.99, True), (1.01, False)):
        permanent = share(fewer.split("fewer than ")[1].split(" perm")[0].replace(" ", "")) * share_of
        assert (
            verdict(
                propose(group(tmp_path, attempts={**attempts, "success": "30%", "permanent": permanent})), "attempts"
            ).met
            == met
        )


def test_the_ladder_is_in_the_order_of_least_time(tmp_path: Path) -> None:
    steps = [
        {"name": "recover", "time": "10m", "chance": "99%"},
        {"name": "warm", "time": "2s", "chance": "50%"},
    ]
    planned = propose(group(tmp_path, restart=steps, detection="1s"))
    assert planned.numbers["ladder"] == ["warm", "recover"]
    assert planned.numbers["time_to_restore"] == 1 + 2 + 600  # detection, and both steps until 99 % are cured
    weak = propose(group(tmp_path, restart=steps[1:]))
    assert not verdict(weak, "RTO").met
    assert "a further step" in verdict(weak, "RTO").remedies[0]


@given(
    st.lists(st.tuples(st.floats(1, 2000), st.floats(0.2, 0.999)), min_size=1, max_size=5),
    st.floats(1, 4000),
)
@settings(max_examples=60)
def test_the_remedies_for_a_slow_ladder_do_what_they_say(steps: list[tuple[float, float]], rto: float) -> None:
    base = read_plan(str(SAMPLE))[2]
    ladder = tuple(Step(f"s{i}", time, chance) for i, (time, chance) in enumerate(steps))
    made = replace(base, ladder=ladder, targets=replace(base.targets, rto=rto), detection=1.0)
    for one in verdict(propose(made), "RTO").remedies:
        if found := re.match(r"(s\d) within (\S+) instead", one):
            quicker = tuple(replace(s, time=duration(found[2])) if s.name == found[1] else s for s in ladder)
            assert verdict(propose(replace(made, ladder=quicker)), "RTO").met, one
        elif one.startswith("the order"):
            spent, failed = 1.0, 1.0
            for step in ladder:
                spent, failed = spent + step.time, failed * (1 - step.chance)
                if failed <= 0.01:
                    break
            assert spent <= rto and failed <= 0.01 + 1e-9
        else:
            assert one.startswith(("quicker steps", "a further step")), one


def test_the_order_of_the_file_is_a_remedy_where_it_is_quick_enough(tmp_path: Path) -> None:
    steps = [
        {"name": "recover", "time": "10m", "chance": "99%"},
        {"name": "warm", "time": "2m", "chance": "50%"},
    ]
    missed = verdict(propose(group(tmp_path, restart=steps, detection="1s", targets={"rto": "11m"})), "RTO")
    assert not missed.met and missed.remedies[0] == "recover within 8m59s instead of 10m"
    assert missed.remedies[-1] == "the order recover, warm"


def test_a_rolling_restart_takes_as_many_at_once_as_the_risk_allows(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"hosts": 10, "needed": 6, "mtbf": "30d", "common_cause": 0}
    calm = propose(group(tmp_path, **keys, rolling={"time": "1m", "risk": "0.1%"})).numbers
    wary = propose(group(tmp_path, **keys, rolling={"time": "1m", "risk": "0.000001%"})).numbers
    bold = propose(group(tmp_path, **keys, rolling={"time": "1m", "risk": "100%"})).numbers
    assert 1 <= wary["max_unavailable"] < calm["max_unavailable"] <= bold["max_unavailable"] == 4
    assert calm["roll_risk"] <= 0.001
    fails = -math.expm1(-MINUTE / (30 * DAY))
    wave = calm["max_unavailable"]
    one = reliability.unavailability(6, 10 - wave, fails)
    assert calm["roll_risk"] == pytest.approx(reliability.any_of([one] * calm["waves"]))


def test_the_times_of_a_change_are_never_shorter_than_planned(tmp_path: Path) -> None:
    times = {"time": "2h10m29s", "soak": "1h29s", "deadline": "3h0m29.2s"}
    planned = propose(group(tmp_path, change=times))
    told = [planned.variables[f"evenkeel_{name}"] for name in ("soak", "deadline", "confirm_within")]
    assert told == ["3629s", "10830s", "18719s"]  # the change, its deadline, and a minute
    assert planned.numbers["confirm_within"] == 18719


def test_nobody_can_be_spared_when_all_are_needed(tmp_path: Path) -> None:
    planned = propose(group(tmp_path, hosts=2, needed=2))
    assert not verdict(planned, "rolling restart").met
    assert verdict(planned, "rolling restart").remedies == ("3 hosts", "warm restarts")
    assert "the guard refuses it" in choice(planned, "waves").why


@pytest.mark.parametrize("needed", ["quorum", "60%", "100%", 2])
@pytest.mark.parametrize("hosts", [2, 3, 4, 5])
def test_more_hosts_are_offered_only_where_they_help(tmp_path: Path, needed: str | int, hosts: int) -> None:
    """A fourth host raises a quorum from 2 to 3, which makes it worse."""
    keys: dict[str, Any] = {"needed": needed, "mtbf": "10d", "mttr": "5h", "common_cause": 0, "rolling": {"risk": "1%"}}
    targets = {"availability": "99.9999%"}

    def planned(count: int) -> Proposal:
        return propose(group(tmp_path, hosts=count, **keys, targets=targets))

    first = planned(hosts)
    offered = [one.option for one in first.alternatives if one.choice == "hosts"]
    for option in offered:
        count = int(option.split()[0])
        other = planned(count)
        assert ("needed" in option) == (
            other.variables["evenkeel_min_healthy"] != first.variables["evenkeel_min_healthy"]
        )
        assert count <= hosts or other.numbers["unavailability"] < first.numbers["unavailability"]
    assert (int(offered[-1].split()[0]) > hosts) == (needed != "100%")
    for target in ("availability", "rolling restart"):
        for one in verdict(first, target).remedies:
            if found := re.match(r"(\d+) hosts", one):
                assert verdict(planned(int(found[1])), target).met, one
                fewer = [verdict(planned(count), target).met for count in range(hosts, int(found[1]))]
                assert not any(fewer), one


def test_the_remedy_for_a_risky_restart_does_what_it_says(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"hosts": 3, "mtbf": "1d", "common_cause": 0}

    def judged(time: str, hosts: int = 3) -> Verdict:
        return verdict(propose(group(tmp_path, **{**keys, "hosts": hosts}, rolling={"time": time})), "rolling restart")

    missed = judged("10m")
    assert len(missed.remedies) == 2 and not missed.met
    within = missed.remedies[0].removeprefix("restarts within ").split()[0]
    assert judged(within).met and not judged(f"{duration(within) * 1.05}s").met
    assert judged("10m", int(missed.remedies[1].removesuffix(" hosts"))).met


def test_remedies_do_what_they_say(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"hosts": 2, "needed": 2, "mtbf": "30d", "mttr": "2h", "common_cause": 0}
    missed = verdict(propose(group(tmp_path, **keys, targets={"availability": "99.99%"})), "availability")
    assert missed.remedies[0] == "3 hosts instead of 2"
    assert verdict(
        propose(group(tmp_path, **{**keys, "hosts": 3}, targets={"availability": "99.99%"})), "availability"
    ).met
    within = missed.remedies[1].removeprefix("repair within ")
    assert verdict(
        propose(group(tmp_path, **{**keys, "mttr": within}, targets={"availability": "99.99%"})), "availability"
    ).met
    shared = {**keys, "hosts": 4, "common_cause": "50%"}
    floor = verdict(propose(group(tmp_path, **shared, targets={"availability": "99.99%"})), "availability")
    assert floor.remedies[0] == "more than hosts: common causes alone leave 99.86 %, however many there are"
    assert any("common causes (diversity)" in text for text in floor.remedies)


@pytest.mark.parametrize(
    ("cost", "copy", "remedies"),
    [(40, 10, 1), (20, 120, 2), (20, 200, 1), (5, 160, 1), (1, 400, 1), (30, 400, 1), (30, 200, 1)],
)
def test_the_remedy_for_lost_work_does_what_it_says(tmp_path: Path, cost: float, copy: float, remedies: int) -> None:
    """Also where the checkpoints alone are too slow, which must not take more than a tenth of the time."""

    def judged(takes: float, copied: float) -> Verdict:
        checkpoint = {"cost": takes, "size": f"{copied * 100:.0f}MB"}
        return verdict(propose(group(tmp_path, checkpoint=checkpoint, targets={"rpo": "5m"})), "RPO")

    missed = judged(cost, copy)
    assert not missed.met and len(missed.remedies) == remedies
    for one in missed.remedies:
        takes, copied = re.search(r"checkpoint within (\S+)", one), re.search(r"copy within (\S+)", one)
        quicker = duration(takes[1]) if takes else cost, duration(copied[1]) if copied else copy
        assert takes or copied
        assert judged(*quicker).met, one
        assert not judged(quicker[0] * (1.05 if takes else 1), quicker[1] * (1.05 if copied else 1)).met, one


def test_what_no_plan_reaches_is_said(tmp_path: Path) -> None:
    always = verdict(propose(group(tmp_path, targets={"availability": 1})), "availability")
    assert always.remedies == ("a target below 100 %: a host that can fail is not always up",)
    at_once = verdict(propose(group(tmp_path, targets={"rpo": "1s"})), "RPO")
    assert at_once.remedies == ("synchronous replication: checkpoints are a second apart at least",)
    steady = propose(group(tmp_path, mtbf="never", targets={"rpo": "2d"}))
    assert "and a host never fails" in choice(steady, "checkpoints").why


@given(
    hosts=st.integers(1, 12),
    data=st.data(),
    mtbf=st.floats(60.0, 1e9),
    mttr=st.floats(0.0, 1e6),
    beta=st.floats(0.0, 1.0),
    cost=st.floats(0.0, 1e5),
    afr=st.floats(0.0, 5.0),
    success=st.floats(0.0, 1.0),
    targets=st.tuples(st.floats(0.0, 1.0), st.floats(1.0, 1e7), st.floats(1.0, 1e7), st.floats(0.0, 1.0)),
)
def test_whatever_the_numbers_there_is_a_proposal(
    hosts: int,
    data: st.DataObject,
    mtbf: float,
    mttr: float,
    beta: float,
    cost: float,
    afr: float,
    success: float,
    targets: tuple[float, float, float, float],
) -> None:
    base = read_plan(str(SAMPLE))[2]
    made = replace(
        base,
        targets=replace(base.targets, availability=targets[0], rto=targets[1], rpo=targets[2], durability=targets[3]),
        hosts={f"h{i}": f"d{i % 3}" for i in range(hosts)},
        needed=data.draw(st.integers(1, hosts)),
        mtbf=mtbf,
        mttr=mttr,
        common_cause=beta,
        checkpoint_cost=cost,
        store_failure_rate=afr,
        store_common_cause=beta,
        success=success,
        permanent=beta,
        generation_good=success,
        ladder=(Step("only", cost, success),),
    )
    proposal = propose(made)
    assert proposal.numbers["interval"] > 0
    assert 0 <= proposal.numbers["copies"] < max(2, len(set(made.hosts.values())))
    text = json.dumps(finite(proposal.__dict__), default=vars)
    assert "NaN" not in text and "Infinity" not in text
    for one in proposal.verdicts:
        assert one.met or one.remedies, one


# Assumed and measured


def test_what_is_missing_is_assumed_and_marked(tmp_path: Path) -> None:
    bare = group(tmp_path)
    assert bare.mtbf == 90 * DAY
    assert "mtbf 90d" in bare.assumed and "needed quorum (2)" in bare.assumed
    told = group(tmp_path, mtbf="10d", needed=2)
    assert told.mtbf == 10 * DAY
    assert not any(text.startswith(("mtbf", "needed")) for text in told.assumed)


@pytest.mark.parametrize("weight", ["90GB", "100GB", "215GB", "40TB", "1000TB"])
def test_the_cost_of_a_checkpoint_of_any_size_can_be_assumed(tmp_path: Path, weight: str) -> None:
    large = group(tmp_path, checkpoint={"size": weight})
    assert large.checkpoint_cost == size(weight) / 1e8
    assert f"checkpoint cost {large.checkpoint_cost:.1f}s" in large.assumed
    assert propose(large).numbers["interval"] > 0


def test_what_is_measured_counts_more_than_what_is_believed(tmp_path: Path) -> None:
    measured = {
        "over": "100d",
        "failures": 6,
        "downtime": "12h",
        "attempts": 200,
        "successes": 190,
        "checkpoint": ["4s", "9s", "5s"],
    }
    seen = group(
        tmp_path, mtbf="999d", mttr="1s", measured=measured, checkpoint={"cost": "1h"}, attempts={"success": 1}
    )
    assert seen.mtbf == (300 * DAY - 12 * HOUR) / 6
    assert seen.mttr == 2 * HOUR
    assert seen.success == 0.95
    assert seen.checkpoint_cost == 5.0
    assert len(seen.measured) == 4
    assert not any(text.startswith(("mtbf", "mttr")) for text in seen.assumed)


def test_no_failure_seen_is_no_proof_that_there_is_none(tmp_path: Path) -> None:
    """Rule of three (Hanley and Lippman-Hand, JAMA 249, 1983): 0 of n leaves up to 3/n at 95 %."""
    lucky = group(tmp_path, measured={"over": "100d", "failures": 0, "attempts": 300, "successes": 300})
    assert lucky.mtbf == 100 * DAY
    assert lucky.success == pytest.approx(0.99, abs=1e-4)
    assert "rule of three" in lucky.measured[0]
    assert group(tmp_path, measured={"attempts": 2, "successes": 2}).success == pytest.approx(math.sqrt(0.05))


def test_the_hosts_own_journals_are_read(tmp_path: Path) -> None:
    """What `evenkeel status --json` prints: intervals and copies as they are, and how the last changes ended."""
    stamps = ["2026-11-23T10:00:00.000000Z", "2026-11-23T12:00:00.000000Z", "2026-11-23T18:00:00.000000Z"]
    told: dict[str, Any] = {
        "hosts": {
            "a": {
                "state": "ok",
                "checkpoints": [{"created": s} for s in stamps],
                "replicas": {"b": ["x"]},
                "last": {"outcome": "rolled_back"},
            },
            "b": {"state": "ok", "checkpoints": [], "replicas": {}, "last": {"outcome": "confirmed"}},
            "c": {"state": "unreachable", "msg": "no route"},
        }
    }
    status = tmp_path / "status.json"
    status.write_text(json.dumps(told))
    path = write(tmp_path, {"groups": {"web": {"hosts": {"a": "r1", "b": "r2", "c": "r3"}}}})
    now = read_plan(path, str(status))[0].now
    assert (now.interval, now.copies, now.confirmed, now.rolled_back) == (4 * HOUR, 0, 1, 1)
    proposal = propose(read_plan(path, str(status))[0])
    assert choice(proposal, "copies now").value == "0"
    assert choice(proposal, "changes now").value == "1 of 2 rolled back"
    assert propose(read_plan(path)[0]).choices != proposal.choices
    measured = read_plan(path, str(status))[0]
    assert measured.change_failure == 0.5 and measured.measured == ("1 of the last 2 changes rolled back",)
    told["hosts"]["a"]["last"] = {"outcome": "confirmed"}
    status.write_text(json.dumps(told))
    believed = read_plan(path, str(status))[0]
    assert believed.change_failure == 0.05 and "bad changes 5%" in believed.assumed and not believed.measured


def test_a_change_of_several_hosts_counts_once(tmp_path: Path) -> None:
    def last(outcome: str, change: str = "") -> dict[str, Any]:
        return {"state": "ok", "last": {"outcome": outcome, "change": change} if change else {"outcome": outcome}}

    bad, good = last("rolled_back", "c1"), last("confirmed", "c2")
    told = {"a": bad, "b": bad, "c": last("confirmed", "c1"), "d": good, "e": good, "f": last("confirmed")}
    status = tmp_path / "status.json"
    status.write_text(json.dumps({"hosts": told | {"g": {"state": "ok", "last": None}}}))
    path = write(tmp_path, {"groups": {"web": {"hosts": list("abcdefg")}}})
    now = read_plan(path, str(status))[0].now
    assert (now.rolled_back, now.confirmed) == (1, 2)
    path = write(tmp_path, {"groups": {"web": {"hosts": 3}}})
    with pytest.raises(UsageError, match=r"status.json: reports none of the hosts of .*plan.yml; write the names"):
        read_plan(path, str(status))


# Bad files: what, where, what to do


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("groups: {web: {hosts: 3}", "plan.yml: line 1, column 25: .*correct the YAML there"),
        ("groups:\n  web: {hosts: 3}\n  web: {hosts: 4}\n", "plan.yml: line 3, column 3: 'web' stands there twice"),
        ("- 1", r"plan.yml: : \[1\] is not a mapping"),
        ("", "plan.yml: : None is not a mapping"),
        ({"targets": {}}, "plan.yml: groups: is missing; add at least one group"),
        ({"groups": {}}, "plan.yml: groups: is empty; add at least one group"),
        ({"groups": {"web": None}}, "groups.web: None is not a mapping"),
        ({"groups": {"web": {}}}, "groups.web.hosts: is missing; write their number"),
        ("groups: {web: {hosts: {a: , b: r1}}}", "groups.web.hosts.a: the failure domain None is not read as a text"),
        ("groups: {web: {hosts: {a: no}}}", "groups.web.hosts.a: the failure domain False is not read as a text"),
        ("groups: {web: {hosts: {yes: r1}}}", "plan.yml: line 1, column 24: 'yes' is not read as a text; write it in"),
        ("groups: {web: {hosts: {010: r1, 8: r2}}}", "plan.yml: line 1, column 33: '8' stands there twice"),
        ("groups: {web: {hosts: {8: r1, '8': r2}}}", "plan.yml: line 1, column 31: '8' stands there twice"),
        ("groups: {web: {hosts: [a, yes]}}", "groups.web.hosts: True is not read as a text; write it in quotes"),
        ("groups: {web: {hosts: [a, 2026-01-01]}}", "groups.web.hosts: datetime.date.* is not read as a text"),
        ("groups: {web: {hosts: [a, ]}, no: {hosts: 1}}", "plan.yml: .*'no' is not read as a text"),
        ({"groups": {"web": {"hosts": 0}}}, "groups.web.hosts: 0 is not a number of at least 1"),
        ({"groups": {"web": {"hosts": ["a", "a"]}}}, "groups.web.hosts: 'a' stands there twice"),
        ({"groups": {"web": {"hosts": 2, "domains": 3}}}, "groups.web.domains: 3 is more than the 2 hosts"),
        ({"groups": {"web": {"hosts": 2, "needed": 3}}}, "groups.web.needed: 3 is more than the 2 hosts"),
        ({"groups": {"web": {"hosts": 2, "mtfb": "1d"}}}, "groups.web.mtfb: is not a key .*did you mean mtbf"),
        ({"groups": {"web": {"hosts": 2, "mtbf": "soon"}}}, "groups.web.mtbf: 'soon' is not a duration; write seconds"),
        ({"groups": {"web": {"hosts": 2, "mtbf": 0}}}, "groups.web.mtbf: 0 is no time at all"),
        ({"groups": {"web": {"hosts": 2, "change": {"every": 0}}}}, "groups.web.change.every: 0 is no time at all"),
        ({"groups": {"web": {"hosts": 2, "domain": {"mttr": "never"}}}}, "groups.web.domain: .*does not fit; write"),
        ({"groups": {"web": {"hosts": 2, "mttr": "never"}}}, "groups.web.mttr: 'never' is for ever"),
        ({"groups": {"web": {"hosts": 2, "checkpoint": {"cost": "never"}}}}, "groups.web.checkpoint.cost: .*for ever"),
        ({"groups": {"web": {"hosts": 2, "store": {"repair": "never"}}}}, "groups.web.store.repair: .*for ever"),
        (
            {"groups": {"web": {"hosts": 2, "change": {"soak": "3m"}}}},
            "groups.web.change.soak: '3m' is longer than the deadline of 2m",
        ),
        ({"groups": {"web": {"hosts": 2, "change": {"deadline": "never"}}}}, "groups.web.change.deadline: .*for ever"),
        ("groups:\n  ? [1, 2]\n  : 3\n", "plan.yml: line 2, column 5: a key must be a plain text"),
        ({"groups": {"web": {"hosts": 2, "common_cause": 5}}}, "groups.web.common_cause: 5 is not between 0 and 1"),
        ({"groups": {"web": {"hosts": 2, "common_cause": "x%"}}}, "groups.web.common_cause: 'x%' is not a share"),
        ({"groups": {"web": {"hosts": 2, "checkpoint": {"size": "2 boxes"}}}}, "groups.web.checkpoint.size: .*2GiB"),
        ({"groups": {"web": {"hosts": 2, "checkpoint": {"bandwidth": 0}}}}, "checkpoint.bandwidth: 0 moves nothing"),
        ({"groups": {"web": {"hosts": 2, "checkpoint": 3}}}, "groups.web.checkpoint: 3 is not a mapping"),
        (
            {"groups": {"web": {"hosts": 2, "cost": {"host": "60 EUR"}}}},
            "groups.web.cost.host: '60 EUR' is not a price",
        ),
        ({"groups": {"web": {"hosts": 2, "cost": {"hots": 60}}}}, "groups.web.cost.hots: .*did you mean host"),
        (
            {"groups": {"web": {"hosts": 2, "store": {"annual_failure_rate": -1}}}},
            "annual_failure_rate: -1 is not a rate",
        ),
        ({"groups": {"web": {"hosts": 2, "restart": []}}}, r"groups.web.restart: \[\] is not a list"),
        ({"groups": {"web": {"hosts": 2, "restart": [{"name": "a"}]}}}, r"groups.web.restart\[0\].time: is missing"),
        ({"groups": {"web": {"hosts": 2, "targets": {"rto": "soon"}}}}, "groups.web.targets.rto: 'soon' is not a dur"),
        ({"targets": {"rta": "1h"}, "groups": {"web": {"hosts": 2}}}, "plan.yml: targets.rta: .*did you mean rto"),
        ({"groups": {"web": {"hosts": 2}}, "group": {}}, "plan.yml: group: .*did you mean groups"),
        ({"groups": {"web": {"hosts": 2, "measured": {"over": "1d"}}}}, "groups.web.measured.failures: is missing"),
        (
            {"groups": {"web": {"hosts": 2, "measured": {"over": "1h", "failures": 1, "downtime": "9h"}}}},
            "groups.web.measured.over: .*does not hold",
        ),
        (
            {"groups": {"web": {"hosts": 2, "measured": {"attempts": 3, "successes": 4}}}},
            "groups.web.measured.successes: 4 is more than the 3 attempts",
        ),
        ({"groups": {"web": {"hosts": 2, "measured": {"successes": 90}}}}, "measured.successes: 90 says nothing alone"),
        ({"groups": {"web": {"hosts": 2, "measured": {"failures": 9}}}}, "measured.failures: 9 says nothing alone"),
        (
            {"groups": {"web": {"hosts": 2, "measured": {"over": "9d", "failures": 0, "downtime": "1h"}}}},
            "groups.web.measured.downtime: '1h' has no failure that caused it",
        ),
        ({"groups": {"web": {"hosts": 10**6}}}, "groups.web.hosts: 1000000 is more than 10,000 hosts; plan groups"),
        (
            {"groups": {"web": {"hosts": 2, "measured": {"over": "1d", "failures": 10**400}}}},
            "groups.web.measured.failures: 10+ is more than 1,000,000,000,000; write",
        ),
        ({"groups": {"web": {"hosts": 2, "cost": {"host": 10**400}}}}, "groups.web.cost.host: 10+ is not a price"),
        (
            {"groups": {"web": {"hosts": 2, "checkpoint": {"size": "9" * 400}}}},
            "groups.web.checkpoint.size: '9+' is more than any number",
        ),
        (
            {"groups": {"web": {"hosts": 2, "checkpoint": {"size": "1000TB", "bandwidth": "0.00000000001"}}}},
            "groups.web.checkpoint.size: '1000TB' takes too long to copy at",
        ),
        (
            {"groups": {"web": {"hosts": 2, "store": {"annual_failure_rate": "1e400"}}}},
            "groups.web.store.annual_failure_rate: '1e400' is more than any number",
        ),
    ],
)
def test_bad_files(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_plan(write(tmp_path, content))


def test_a_merged_key_is_no_key_that_stands_there_twice(tmp_path: Path) -> None:
    text = "groups:\n  a: &a {hosts: 3, mtbf: 10d}\n  b: {<<: *a, mtbf: 20d}\n  7: {hosts: {1: 2, 2: 3}}\n"
    read = read_plan(write(tmp_path, text))
    assert [(one.name, one.mtbf) for one in read[:2]] == [("a", 10 * DAY), ("b", 20 * DAY)]
    assert (read[2].name, read[2].hosts) == ("7", {"1": "2", "2": "3"})


def test_other_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="missing.yml: No such file or directory; give the path"):
        read_plan(str(tmp_path / "missing.yml"))
    path = write(tmp_path, {"groups": {"web": {"hosts": 2}}})
    status = tmp_path / "status.json"
    status.write_text("[]")
    with pytest.raises(UsageError, match=r"status.json: has no hosts; write it with evenkeel status"):
        read_plan(path, str(status))
    assert cli.main(["plan", path, "--host-years", "1"]) == 1
    assert cli.main(["plan", path, "--seed", "-1"]) == 1
    assert cli.main(["plan", str(tmp_path / "missing.yml")]) == 1
    seen = capsys.readouterr()
    assert (
        "--host-years 1" in seen.err
        and "--seed -1: give 0 or more" in seen.err
        and "missing.yml" in seen.err
        and not seen.out
    )
    assert cli.main(["plan", str(tmp_path / "missing.yml"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["exit_code"] == 1


def test_values() -> None:
    assert [duration(x) for x in (90, 0, "30s", "1h30m", "1.5d", "2w", "1y")] == [
        90.0, 0.0, 30.0, 5400.0, 1.5 * DAY, 14 * DAY, 365 * DAY,
    ]  # fmt: skip
    assert duration("never") == math.inf
    assert [share(x) for x in (0.5, 1, "99.95%", "0.1 %", "0.2")] == [0.5, 1.0, 0.9995, 0.001, 0.2]
    assert [size(x) for x in (10, "2GiB", "500MB", "1.5 KiB")] == [10.0, 2 * 2**30, 5e8, 1536.0]
    assert [rate(x) for x in (0.02, "2%", 12, "1e-3")] == [0.02, 0.02, 12.0, 0.001]
    for bad in (True, None, -1, "", "1x", "1h later", [1], math.nan, math.inf):
        for read in (duration, share, size, rate):
            with pytest.raises(ValueError, match="is not"):
                read(bad)


# Output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.5, "0.5s"), (45, "45s"), (60, "1m"), (90, "1m30s"), (3600, "1h"), (5400, "1h30m"), (3599.7, "1h"),
     (86400, "1d"), (86399, "1d"), (90000, "1d1h"), (7261, "2h1m"), (20 * 365 * DAY, "20y"), (math.inf, "never")],
)  # fmt: skip
def test_times_are_written_as_they_are_read(seconds: float, text: str) -> None:
    assert time_text(seconds) == text
    assert duration(text) == pytest.approx(seconds, rel=0.03) or math.isinf(seconds)


@given(st.floats(0.0, 1e10))
def test_every_time_can_be_read_back(seconds: float) -> None:
    assert duration(time_text(seconds)) == pytest.approx(seconds, rel=0.26, abs=0.051)


def test_small_numbers_stay_readable() -> None:
    assert nines_text(0.0) == "100 %"
    assert nines_text(3.8e-4) == "99.962 %"
    assert nines_text(1e-9) == "99.9999999 %"
    assert odds_text(5e-5) == "1 in 20,000"
    assert odds_text(0.0) == "never"
    assert share_text(1e-9) == "1.0e-07 %"
    assert share_text(0.999999) == "99.9999 %"


def test_the_table_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["plan", str(SAMPLE)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for words in (
        "NOT MET. It would take",
        "Assumed, as the file does not say:",
        "Measured: 4 failures",
        "web: every target is met.",
    ):
        assert words in text


def test_json_is_one_document_without_infinities(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path, {"groups": {"web": {"hosts": 2, "mtbf": "never"}}})
    assert cli.main(["plan", path, "--json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=lambda text: pytest.fail(text))
    assert document["groups"][0]["numbers"]["interval_exact"] is None
    assert document["groups"][0]["variables"]["evenkeel_copies"] == 1


def test_json_has_the_keys_that_programs_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", str(SAMPLE), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == {"command", "exit_code", "groups"}
    group = {"group", "summary", "choices", "verdicts", "alternatives", "placement", "variables", "numbers"}
    assert {frozenset(one) for one in document["groups"]} == {frozenset(group | {"assumed", "measured"})}
    inner = {
        "choices": {"what", "value", "why"},
        "verdicts": {"target", "asked", "reached", "met", "remedies"},
        "alternatives": {"choice", "option", "effect", "cost", "chosen"},
    }
    for name, keys in inner.items():
        assert {frozenset(one) for whole in document["groups"] for one in whole[name]} == {frozenset(keys)}


def test_variables_are_an_inventory_in_the_words_of_the_roles(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["plan", str(SAMPLE), "--vars"]) == 0
    text = capsys.readouterr().out
    web = yaml.safe_load(text)["web"]["vars"]
    assert web == {
        "evenkeel_copies": 1,
        "evenkeel_failure_domain": "rack",
        "evenkeel_peers": "{{ groups['web'] }}",
        "evenkeel_retention": {"last": 4},
        "evenkeel_min_healthy": 4,
        "evenkeel_max_unavailable": 2,
        "evenkeel_waves": "1,2",
        "evenkeel_soak": "30s",
        "evenkeel_deadline": "120s",
        "evenkeel_confirm_within": "480s",
    }
    (tmp_path / "vars.yml").write_text(text)
    (tmp_path / "hosts.yml").write_text("web: {hosts: {web1: {rack: r1}}}\n")
    command = [sys.executable, "-m", "ansible.cli.inventory", "-i", "hosts.yml", "-i", "vars.yml", "--host", "web1"]
    merged = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(merged.stdout)["evenkeel_waves"] == "1,2"


def test_it_can_be_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", str(SAMPLE), "--simulate", "--host-years", "900", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [round(one["host_years"]) for one in document["simulated"]] == [300, 300, 300]
    assert cli.main(["plan", str(SAMPLE), "--simulate", "--host-years", "900"]) == 0
    text = capsys.readouterr().out
    assert "web: 300 host-years played" in text and "simulated (95 %)" in text
    proposals = [propose(one) for one in read_plan(str(SAMPLE))]
    fleet = fleet_of(read_plan(str(SAMPLE))[0], proposals[0])
    assert (fleet.hosts, fleet.needed, fleet.wave, fleet.copies) == (6, 4, 2, 1)
    assert fleet.domains == (0, 0, 1, 1, 2, 2)
    racks = fleet_of(read_plan(str(SAMPLE))[1], proposals[1])
    assert (racks.domain_mtbf, racks.domain_mttr) == (5 * 365 * DAY, 4 * HOUR)


@pytest.mark.parametrize(
    "keys",
    [
        {"store": {"annual_failure_rate": "1e9"}},
        {"mtbf": "10s", "mttr": "1s"},
        {"change": {"every": "1s"}},
        {"domain": {"mtbf": "1s", "mttr": "1s"}},
    ],
)
def test_a_simulation_that_would_not_end_is_refused(
    tmp_path: Path, keys: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evenkeel.plan.simulate.play", lambda *_: pytest.fail("it was played"))
    assert cli.main(["plan", write(tmp_path, {"groups": {"web": {"hosts": 2, **keys}}}), "--simulate"]) == 1
    seen = capsys.readouterr()
    assert "groups.web: " in seen.err and "events would be played" in seen.err and not seen.out


def test_the_expected_events_are_at_most_those_that_are_played(tmp_path: Path) -> None:
    keys = {"store": {"annual_failure_rate": 3}, "mtbf": "30d", "domain": {"mtbf": "60d"}, "change": {"every": "10d"}}
    busy = group(tmp_path, hosts=6, domains=3, mttr="1d", **keys)
    fleet = fleet_of(busy, propose(busy))
    played = play(fleet, 300).events
    assert 0.5 * events(fleet, 300) < played <= 1.05 * events(fleet, 300)
