# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension of deadlines, the terms of a change, and changes that a killed run has left."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import Any, cast

import pytest

from evenkeel.ansible.caller import Caller, Controller
from evenkeel.ansible.configuration import Ansible
from evenkeel.ansible.events import PREFIX
from evenkeel.ansible.options import Options, Secrets
from evenkeel.ansible.runner import Ended
from evenkeel.ansible.session import OnEvent, OwnRun, Session, Stop
from evenkeel.ansible.targets import Inventory, Targets
from evenkeel.changes import decide, preflight, resume
from evenkeel.changes.context import Context
from evenkeel.changes.extending import Extending
from evenkeel.changes.request import ALL, WAVE, Request, Terms
from evenkeel.outcome import ChangeResult, Exit, HostResult, State, UsageError
from evenkeel.progress import Progress
from evenkeel.show.advice import after_change
from evenkeel.show.summary import headline

from .test_flow import Hands, Script, ended

HOSTS = ("web1", "web2")
GONE = {"outcome": "rolled_back", "by": "settle"}
TARGETS = Targets(HOSTS, HOSTS, (), Inventory(HOSTS, {}, {}))


def armed(now: float, left: float = 600.0) -> decide.Armed:
    return decide.Armed(3, "f00", 600.0, now + left, now + left + 2)


def extending(*runs: Any) -> tuple[Extending, Hands, list[str]]:
    clock, told = Hands(), list[str]()

    def report(progress: Progress) -> None:
        told.append(progress.text)

    context = Context(
        cast(Session, Script(list(runs))),
        Request("s", Options()),
        TARGETS,
        {},
        (),
        Caller(report=report),
        clock.clock(),
    )
    return Extending(context), clock, told


def extension(host: str, remaining: float) -> Any:
    return ended(host, "evenkeel.fault_tolerance.ft_settle", outcome="extended", generation=3, remaining=remaining)


def test_a_host_is_extended_often_and_the_answer_counts() -> None:
    one, clock, told = extending(("settle", [extension("web1", 600.0)], 0))
    covered = {"web1": armed(clock.now), "web2": armed(clock.now, 900.0)}
    one.cover(covered)
    assert one.due(clock.now) == [] and one.due(clock.now + 14) == []
    clock.now += 16
    assert one.due(clock.now) == ["web1"]
    one.extend(["web1"])
    assert covered["web1"].earliest == clock.now + 600 and one.due(clock.now) == [] and not told


def test_half_of_a_short_time_is_waited_for_and_hosts_that_take_long_are_asked_less_often() -> None:
    one, clock, _told = extending()
    one.cover({"web1": decide.Armed(3, "f00", 8.0, clock.now + 8, clock.now + 8)})
    assert one.due(clock.now + 3.9) == [] and one.due(clock.now + 4.1) == ["web1"]
    one.cover({"web2": armed(clock.now)})

    def run_own(run: OwnRun, on_event: OnEvent, stop: Stop) -> Ended:
        clock.now += 20.0
        for host in run.hosts if len(run.hosts) == 1 else ():
            on_event(extension(host, 600.0))
        return Ended(0)

    cast(Any, one.context.session).run_own = run_own
    one.extend(["web2"])
    assert one.due(clock.now + 299) == ["web1"] and one.due(clock.now + 301) == ["web1", "web2"]
    one._took = 0.0
    one.extend(["web1", "web2"])
    assert one._took == 0.0, "a host that hangs says nothing of the others"


def test_the_first_asking_of_many_hosts_waits_longer_as_it_takes_longer() -> None:
    one, clock, _told = extending()
    many = [f"web{number}" for number in range(20)]
    one.cover({host: armed(clock.now) for host in many})
    assert one.due(clock.now + 119) == [] and one.due(clock.now + 121) == many


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        ("failed", {"outcome": "rolled_back", "by": "operator"}, "rolled back by operator"),
        ("failed", {"outcome": "in_doubt", "by": "settle"}, "in doubt by settle"),
        ("ok", {"outcome": "confirmed", "by": "operator"}, "confirmed by operator"),
        ("failed", {"error": "Refused", "msg": "the host is at 4"}, "the host is at 4"),
        ("failed", {"error": "UsageError", "msg": "there is no change"}, "there is no change"),
        ("failed", {"error": "Refused", "msg": "not extended", "login": "old"}, ""),
        ("failed", {"error": "Busy", "msg": "busy"}, ""),
        ("unreachable", {"msg": "timed out"}, ""),
    ],
)
def test_a_host_whose_change_is_over_is_told_to_the_wave(status: str, answer: dict[str, Any], said: str) -> None:
    event = ended("web1", "evenkeel.fault_tolerance.ft_settle", status, generation=3, **answer)
    one, clock, _told = extending(("settle", [event], 2))
    one.cover({"web1": armed(clock.now), "web2": armed(clock.now)})
    assert one.ended() == ""
    one.extend(["web1"])
    assert (said in one.ended()) if said else one.ended() == ""
    assert one.due(clock.now + 300) == (["web2"] if said else ["web1", "web2"])


def test_a_held_host_that_a_person_confirmed_there_does_not_end_the_playbook_on_others() -> None:
    kept = ended("web1", PREFIX + "ft_settle", outcome="confirmed", by="operator", generation=3)
    one, clock, _told = extending(("settle", [kept], 0))
    one.cover({"web1": armed(clock.now), "web2": armed(clock.now)}, ["web1"])
    one.extend(["web1"])
    assert one.ended() == "" and one.due(clock.now + 300) == []


def test_a_host_that_is_released_meanwhile_is_not_told_of() -> None:
    over = ended("web1", "evenkeel.fault_tolerance.ft_settle", outcome="confirmed", by="settle", generation=3)
    one, clock, _told = extending()
    one.cover({"web1": armed(clock.now), "web2": armed(clock.now)})

    def run_own(run: OwnRun, on_event: OnEvent, stop: Stop) -> Ended:
        one.release(["web1"])
        on_event(over)
        assert stop() == ""
        one.release(["web2"])
        assert stop() == "the change is over"
        return Ended(None)

    cast(Any, one.context.session).run_own = run_own
    one.extend(["web1", "web2"])
    assert one.ended() == ""


def test_a_host_that_hangs_holds_up_no_other() -> None:
    lost = ended("web1", "evenkeel.fault_tolerance.ft_settle", "unreachable", msg="timed out")
    one, clock, _told = extending()
    covered = {"web1": armed(clock.now, 300), "web2": armed(clock.now)}
    one.cover(covered)
    runs: list[OwnRun] = []

    def run_own(run: OwnRun, on_event: OnEvent, stop: Stop) -> Ended:
        runs.append(run)
        assert stop() == ""
        clock.now += 16.0 * (len(runs) - 1)
        assert stop() == ("" if len(runs) == 1 else "other hosts are due")
        on_event(lost)
        return Ended(None)

    cast(Any, one.context.session).run_own = run_own
    one.extend(["web1"])
    one.extend(["web1"])
    assert [run.answer_within for run in runs] == [30.0, covered["web1"].within / 2], (
        "a slow host has more time once it is asked apart"
    )
    one.cover({"web1": decide.Armed(3, "f00", 20.0, clock.now, clock.now)})
    one.release(["web2"])
    runs.clear()
    one.extend(["web1"])
    assert runs[0].answer_within == 10.0


def test_a_host_that_does_not_answer_is_asked_again_and_told_once() -> None:
    lost = ended("web1", "evenkeel.fault_tolerance.ft_settle", "unreachable", msg="timed out")
    one, clock, told = extending(("settle", [lost], 4), ("settle", [lost], 4))
    before = armed(clock.now)
    covered = {"web1": before}
    one.cover(covered)
    clock.now += 301
    one.extend(["web1"])
    assert covered["web1"] == before and one.due(clock.now) == [] and one.due(clock.now + 6) == ["web1"]
    one.extend(["web1"])
    assert len(told) == 1 and "timed out" in told[0]


def test_the_cap_ends_the_extensions() -> None:
    one, clock, told = extending(("settle", [extension("web1", 299.0)], 0))
    one.cover({"web1": armed(clock.now)})
    clock.now += 301
    one.extend(["web1"])
    assert one.due(clock.now + 14) == [] and "--at-most" in told[0] and one.why("web1") == told[0]
    assert one.due(clock.now + 16) == ["web1"], "it is asked whether it is still armed"


def test_a_host_that_settles_is_extended_no_more() -> None:
    one, clock, _told = extending()
    one.cover({"web1": armed(clock.now)})
    one.release(["web1"])
    assert one.due(clock.now + 500) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"on_failure": "everything"}, "on_failure must be one of stop, wave, all, not 'everything'"),
        ({"hold_after": 3}, "hold_after: '3' is no wave of this change, which has 2"),
        ({"pause": "soon"}, "pause: 'soon' is not a duration"),
        ({"on_failure": "all", "bake": "2h"}, "--at-most allows 3600 s"),
    ],
)
def test_terms_that_cannot_be_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        preflight.terms(Request("s", Options(), **given), TARGETS, [("web1",), ("web2",)])


def test_hosts_wait_where_others_may_take_the_change_back_from_them() -> None:
    whole, wave, alone = Terms(ALL, ident="c"), Terms(WAVE, ident="c"), Terms(hold_after=2)
    assert whole.holds(1, ["a"], 3) and not whole.holds(1, ["a"], 1)
    assert wave.holds(1, ["a", "b"], 3) and not wave.holds(1, ["a"], 3)
    assert alone.holds(2, ["a"], 3) and not alone.holds(1, ["a", "b"], 3)
    assert whole.unit(2, ["a"], 3) == {"id": "c", "hosts": 3} and wave.unit(2, ["a"], 3) == {"id": "c.2", "hosts": 1}


def info(stage: str = "", outcome: str = "", total: int = 3, **more: Any) -> dict[str, Any]:
    change = {"generation": 3, "checkpoint": "f00", "change": "c", "hosts": total}
    if outcome:
        return {"generation": 3, "armed": None, "last": {**change, "outcome": outcome, "by": "settle"}}
    return {
        "generation": 3,
        "armed": {**change, "stage": stage, "until": 1.0, "remaining": 600.0, "overdue": None, **more},
        "last": None,
    }


@pytest.mark.parametrize(
    ("told", "end"),
    [
        # The run may still live; where it does not, the hosts go back by themselves.
        ([info("held"), info("held"), info("")], resume.WAIT),
        ([info("decided"), info("decided"), info("decided")], resume.KEEP),
        ([info("decided"), info("decided"), info("held")], resume.WAIT),
        # A host says so that lies, or was confirmed by hand: the others had not been told to keep it.
        ([info(outcome="confirmed"), info("held"), info("held")], resume.BACK),
        ([info(outcome="confirmed"), info("decided"), info("decided")], resume.KEEP),
        ([info(outcome="confirmed"), info("decided"), info(outcome="rolled_back")], resume.BACK),
        ([info(outcome="confirmed"), info(outcome="confirmed"), info("decided", overdue=5.0)], resume.BACK),
        ([info(outcome="confirmed"), info("decided"), None], resume.WAIT),
        ([info("held"), info("held"), None], resume.WAIT),
        ([info(outcome="confirmed")] * 3, None),
        ([info(outcome="rolled_back")] * 3, None),
        # Where each host ends alone, different ends are no split.
        ([info(outcome="rolled_back", total=0), info(outcome="confirmed", total=0)], None),
    ],
)
def test_the_end_that_a_change_is_brought_to(told: list[dict[str, Any] | None], end: str | None) -> None:
    found = resume.found({f"web{number}": one for number, one in enumerate(told)}, 0.0)
    assert [resume.verdict(change)[0] for change in found] == ([end] if end else [])


def by(operator: dict[str, Any], at: float = 1.0) -> dict[str, Any]:
    return {**operator, "last": {**operator["last"], "by": "operator", "at": at}}


def test_a_host_on_which_a_person_confirmed_the_change_is_not_taken_back() -> None:
    settled, undone, kept = info(outcome="confirmed"), info(outcome="rolled_back"), by(info(outcome="confirmed"))
    assert resume.found({"web1": kept, "web2": undone, "web3": kept}, 0.0) == []
    (change,) = resume.found({"web1": kept, "web2": undone, "web3": settled}, 0.0)
    assert change.kept == ["web3"]
    lonely, _clock, _told = extending(("settle", [ended("web3", PREFIX + "ft_settle", "failed", **GONE)], 2))
    reason, hosts = resume.Resumption(lonely.context, {}).bring(change, resume.BACK, "asked for")
    states = {host.host: host.state for host in hosts}
    assert states == {"web1": State.CONFIRMED, "web2": State.ROLLED_BACK, "web3": State.ROLLED_BACK} and reason


def test_the_deadline_of_a_host_with_a_wrong_clock_counts_from_its_answer() -> None:
    told = {"web1": info("decided", total=2, until=1.0, remaining=90.0, within=600.0)}
    (change,) = resume.found(told, 1_000_000.0)
    assert change.members[0].until == 1_000_090.0, "not 1970, as its clock has it"
    lonely, clock, _told = extending()
    clock.now = 1_000_001.0
    dead_man = resume.Resumption(lonely.context, {})._armed(change.members[0])
    assert dead_man.earliest == 1_000_090.0
    for said, left in ((-5.0, 0.0), (1e15, 86400.0), (None, 50.0)):
        assert decide.remaining({"remaining": said, "until": 1050.0}, 1000.0) == left


def test_a_change_of_hosts_whose_clocks_are_slow_is_as_old_as_its_id() -> None:
    ends = [by(info(outcome=outcome), at=5.0) for outcome in ("rolled_back", "rolled_back")]
    kept = info(outcome="confirmed")
    for one in (*ends, kept):
        one["last"]["change"] = "20260102T000000-0123abcd"
    change = resume.found({"web1": ends[0], "web2": ends[1], "web3": kept}, 0.0)
    began = 1767312000.0
    assert resume.chosen(change, "", began + 80_000) == (change, []) and resume.chosen(change, "", began + 90_000)[1]


def test_a_change_that_ended_long_ago_is_taken_back_only_where_it_is_named() -> None:
    kept = info(outcome="confirmed")
    kept["last"]["at"] = 100_000.0
    # The other one was off meanwhile, or was taken over and says so.
    old = {"web1": kept, "web2": by(info(outcome="rolled_back"), at=180_000.0)}
    change = resume.found(old, 0.0)
    assert resume.chosen(change, "", 100_000.0 + 80_000) == (change, [])
    left, said = resume.chosen(change, "", 100_000.0 + 90_000)
    assert left == [] and "change c ended long ago: web1 kept it" in said[0] and "--change c" in said[0]
    assert resume.chosen(change, "c", 1e9) == (change, []) and resume.chosen(change, "d", 1.0) == ([], [])
    waits = resume.found({**old, "web3": info("held")}, 0.0)
    assert resume.chosen(waits, "", 1e9) == (waits, []), "a host waits"
    now = info(outcome="confirmed")
    now["last"]["at"] = 190_000.0
    lately = resume.found({"web1": now, "web2": by(info(outcome="rolled_back"), at=0.0)}, 0.0)
    assert resume.chosen(lately, "", 190_000.0) == (lately, []), "whatever the other one says"
    assert resume.chosen(resume.found({**old, "web3": now}, 0.0), "", 190_000.0)[0] == []


@pytest.mark.parametrize("liar", [0.0, float("nan")])
def test_the_clock_of_one_host_makes_no_change_old(liar: float) -> None:
    told = {f"web{number}": info("", outcome="confirmed", total=4) for number in (1, 2, 3)}
    for one, at in zip(told.values(), (liar, 190_000.0, 190_001.0), strict=True):
        one["last"]["at"] = at
    undone = by(info(outcome="rolled_back", total=4), at=190_000.0)
    change = resume.found({**told, "web4": undone}, 0.0)
    assert len(change) == 1 and resume.chosen(change, "", 200_000.0) == (change, [])


WAVED = {"last": {"generation": 3, "change": "c.1", "hosts": 0, "outcome": "confirmed", "at": time.time()}}


@pytest.mark.parametrize(
    ("command", "ident", "told", "code", "said"),
    [
        ("resume", "", {}, Exit.DONE, "no change waits on web1"),
        ("abort", "", {}, Exit.REFUSED, "no change waits on web1"),
        ("resume", "", {"armed": {"generation": 3, "name": "undo"}}, Exit.DONE, "web1 is armed by a playbook"),
        ("abort", "", {"armed": {"generation": 3, "name": "undo"}}, Exit.REFUSED, "web1 is armed by a playbook"),
        ("confirm", "", {"armed": {"generation": 3, "name": "undo"}}, Exit.REFUSED, "evenkeel-host confirm keeps it"),
        (
            "abort",
            "",
            WAVED,
            Exit.REFUSED,
            "change c may still run, between two of its waves: web1 confirmed it lately",
        ),
        ("abort", "", {"last": {**WAVED["last"], "at": 990_000.0}}, Exit.REFUSED, "no change waits on web1"),
        ("abort", "", {"last": {**WAVED["last"], "change": "c"}}, Exit.REFUSED, "no change waits on web1"),
        ("resume", "", WAVED, Exit.DONE, "no change waits on web1"),
        ("resume", "d", info(outcome="confirmed"), Exit.REFUSED, "no change d waits on web1"),
    ],
)
def test_a_host_that_is_armed_by_itself_is_named(
    command: str, ident: str, told: dict[str, Any], code: Exit, said: str
) -> None:
    script: Any = Script([("status", [ended("web1", PREFIX + "ft_info", **told)], 0)])
    script.list_own = lambda *_: ("web1",)
    controller = Controller(
        ask_ansible=lambda cwd: Ansible(cwd, {}, ""),
        find_inventory=lambda *words: Inventory(("web1",), {}, {words[3]: {}}),
        open_session=lambda *words: cast(Any, contextlib.nullcontext(script if str(words[3]) == "/usr" else None)),
    )
    caller = Caller(secrets=Secrets(), controller=controller, cwd="/")
    result = resume.run(command, Options(playbook_dir="usr"), caller, ident)
    assert result.exit_code is code and said in result.reason


@pytest.mark.parametrize("order", [("web1", "web2", "liar"), ("liar", "web1", "web2")])
@pytest.mark.parametrize("claim", [info(outcome="rolled_back", total=3), info("held", total=2), info("", total=2)])
def test_a_host_that_was_taken_over_takes_back_no_change_that_ended_on_each_host_alone(
    order: tuple[str, ...], claim: dict[str, Any]
) -> None:
    told = {**dict.fromkeys(("web1", "web2"), info(outcome="confirmed", total=0)), "liar": claim}
    open_changes = resume.found({host: told[host] for host in order}, 0.0)
    assert {member.host for change in open_changes for member in change.members} <= {"liar"}
    assert resume.split(told, 0.0) == {}


def test_hosts_that_tell_of_the_same_change_with_other_numbers_are_brought_to_one_end_apart() -> None:
    told = {"liar": info(outcome="rolled_back", total=0), "web1": info("decided", total=2)}
    told["web2"] = info(outcome="confirmed", total=2)
    (change,) = resume.found(told, 0.0)
    assert change.hosts(*State) == ["web1", "web2"] and resume.verdict(change)[0] == resume.KEEP
    told.update(web1=info(outcome="rolled_back", total=2), web3=info(outcome="confirmed"))
    told["web4"] = info(outcome="rolled_back")
    assert resume.split(told, 0.0) == {"c": ["web1", "web2", "web3", "web4"]}


def test_a_host_that_has_begun_another_change_is_no_part_of_the_last_one() -> None:
    told = {"web1": {**info(outcome="confirmed"), "generation": 4}, "web2": info(outcome="rolled_back")}
    assert resume.found(told, 0.0) == []


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (info("held"), ""),
        (None, "did not answer"),
        (info(outcome="rolled_back"), "its change is over: rolled back by settle"),
        (info("held", back="operator"), "goes back"),
        (info("held", overdue=1.0), "goes back"),
    ],
)
def test_a_host_that_is_held_waits_until_it_says_otherwise(told: dict[str, Any] | None, why: str) -> None:
    found = decide.why_not_held(told, 3)
    assert (why in found) if why else not found


def test_a_person_has_let_a_change_go_on_only_where_the_host_says_so() -> None:
    assert not decide.approved(info("held")) and not decide.approved(None)
    assert decide.approved(info("approved"))


@pytest.mark.parametrize(
    ("looks", "lives"),
    [
        ([info("approved"), info("decided")], True),
        ([info("approved"), info(outcome="confirmed")], True),
        ([info("approved"), None, info("approved", until=700.0)], True),  # extended
        ([by(info(outcome="rolled_back"))], False),  # on the host itself
        ([info("approved"), None], False),
    ],
)
def test_an_approval_is_a_success_only_where_a_run_goes_on(looks: list[dict[str, Any] | None], lives: bool) -> None:
    answer = ended("web1", PREFIX + "ft_settle", outcome="approved", generation=3, remaining=600.0)
    runs: list[Any] = [("settle", [answer], 0)]
    for told in [*looks, *looks[-1:] * 30]:
        runs.append(("status", [ended("web1", PREFIX + "ft_info", **told)] if told else [], 0))
    one, _clock, _told = extending(*runs)
    (change,) = resume.found({"web1": info("held"), "web2": info("held")}, 0.0)
    change.members = change.members[:1]
    reason, results = resume.Resumption(one.context, {}).approve(change)
    assert (reason == "") is lives and [result.state for result in results] == [State.HELD if lives else State.IN_DOUBT]
    assert lives or "no run has gone on" in reason


@pytest.mark.parametrize(("took", "waited"), [(1.0, 120.0), (60.0, 400.0)])
@pytest.mark.parametrize("sign", [True, False])
def test_hosts_that_are_slow_to_answer_get_longer_to_show_that_a_run_goes_on(
    took: float, waited: float, sign: bool
) -> None:
    one, clock, _told = extending()
    began = clock.now

    def answer(run: OwnRun, on_event: OnEvent, stop: Stop) -> Ended:
        looked, clock.now = clock.now, clock.now + took
        told = info("decided" if sign and looked >= began + waited else "approved")
        on_event(ended("web1", PREFIX + "ft_info", **told))
        return Ended(0)

    cast(Any, one.context.session).run_own = answer
    (change,) = resume.found({"web1": info("held"), "web2": info("held")}, 0.0)
    silence = resume.Resumption(one.context, {})._silence(change.members[:1])
    # The last look begins after the end, so that no sign before the end is missed. No look takes the time of a person.
    assert silence == (0.0 if sign else clock.now - began) and clock.now - began >= waited + took


def test_an_extension_that_another_generation_tells_of_is_none() -> None:
    before = replace(armed(0.0), generation=4)
    assert decide.extended({"remaining": 600.0, "generation": 3}, before, 1.0, 2.0) is None
    assert decide.extended({"generation": 4}, before, 1.0, 2.0) is None
    found = decide.extended({"remaining": 600.0, "generation": 4}, before, 1.0, 2.0)
    assert found is not None and (found.earliest, found.latest) == (601.0, 602.0) and found.within == 600.0


@pytest.mark.parametrize(
    ("until", "within", "left"),
    [
        (1000.0 + 50, 600.0, 50.0),
        (1000.0 - 50, 600.0, 0.0),
        (1000.0 + 7200, 600.0, 603.0),  # its clock is hours ahead
        (1e12, 1e12, 86400.0),
    ],
)
def test_no_number_of_a_host_keeps_the_driver_waiting_for_ever(until: float, within: float, left: float) -> None:
    found = decide.waiting(3, "f00", until, within, 1000.0)
    # A deadline that comes with a decision counts from the whole time to confirm.
    assert (found.within, found.latest) == (min(within, 86400.0), 1000.0 + left)
    longer = decide.extended({"remaining": 1e12, "generation": 3}, armed(0.0), 1.0, 2.0)
    assert longer is not None and longer.latest == 605.0
    unknown = decide.armed({"armed": {"generation": 3, "within": 1e12}}, 1.0, 2.0)
    assert unknown is not None and unknown.latest == 86402.0


@pytest.mark.parametrize(
    ("command", "state", "code", "start"),
    [
        ("confirm", State.HELD, Exit.DONE, "APPROVED on 1 host ("),
        ("resume", State.CONFIRMED, Exit.DONE, "CONFIRMED on 1 host ("),
        ("abort", State.ROLLED_BACK, Exit.FAILED, "TAKEN BACK: 1 rolled back ("),
        ("change", State.CONFIRMED, Exit.DONE, "CONFIRMED on 1 host, 0 changed ("),
    ],
)
def test_a_command_says_of_a_change_what_it_has_done_itself(command: str, state: State, code: Exit, start: str) -> None:
    hosts = [HostResult("web1", 1, state)]
    result = ChangeResult("site.yml", code, "", [["web1"]], hosts, [], 1.0, command=command)
    assert headline(result).startswith(start)
    assert ("run it again" in " ".join(after_change(result, Options()))) is False
