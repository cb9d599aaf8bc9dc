# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What retention keeps, judged by a second, slower reckoning, and what pruning refuses."""

from __future__ import annotations

import datetime
import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import changes
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    EvenkeelError,
    Refused,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import exchange, proving, replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.making_room import make_room
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import scratch
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.copies import Landing
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import foreign, retention
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Writer
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import RECOVERY, Store
from flows import checkpoint, receive
from hypothesis import given, settings
from hypothesis import strategies as st

UTC = datetime.UTC
NOW = datetime.datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
HOUR = 3600.0


def policy(**declared: Any) -> retention.Policy:
    made = retention.check(declared)
    assert made is not None
    return made


def kept(hours_ago: list[float], **declared: Any) -> dict[float, list[str]]:
    """Age in hours -> why, of checkpoints with these ages."""
    taken = [(str(hours), NOW - datetime.timedelta(hours=hours)) for hours in hours_ago]
    return {float(one): why for one, why in retention.keep(taken, policy(**declared), NOW).items()}


def period(rule: str, moment: datetime.datetime) -> tuple[int, ...]:
    """The period by calendar arithmetic, where the code formats text."""
    if rule == "weekly":
        return tuple(moment.isocalendar())[:2]
    fields = {"yearly": 1, "monthly": 2, "daily": 3, "hourly": 4, "last": 7}[rule]
    at = (moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second, moment.microsecond)
    return at[:fields]


moments = st.datetimes(datetime.datetime(2019, 1, 1), datetime.datetime(2026, 11, 25), timezones=st.just(UTC))
counts = st.dictionaries(st.sampled_from(sorted(retention.PERIODS)), st.integers(1, 12), min_size=1)


@given(st.lists(moments, unique=True, max_size=40), counts)
@settings(max_examples=300, deadline=None)
def test_each_rule_keeps_the_newest_of_its_newest_periods_and_no_more(
    taken: list[datetime.datetime], rules: dict[str, int]
) -> None:
    found = retention.keep([(moment.isoformat(), moment) for moment in taken], policy(**rules), NOW)
    for rule, count in rules.items():
        newest: dict[tuple[int, ...], datetime.datetime] = {}
        for moment in sorted(taken):
            newest[period(rule, moment)] = moment
        expected = set(sorted(newest.values())[-count:])
        if taken and len(newest) < count:
            expected.add(min(taken))  # until the rule has its fill, the history keeps its beginning
        assert {one for one, why in found.items() if rule in {word.split(" ")[0] for word in why}} == {
            moment.isoformat() for moment in expected
        }
    assert all(found.values())
    if taken:
        assert max(taken).isoformat() in found


def test_grandfather_father_son() -> None:
    found = kept([hour + 0.5 for hour in range(24 * 800)], last=2, daily=3, weekly=2, monthly=2, yearly=3)
    assert found == {
        0.5: ["last", "daily 2026-11-25", "weekly 2026-W48", "monthly 2026-11", "yearly 2026"],
        1.5: ["last"],
        12.5: ["daily 2026-11-24"],
        36.5: ["daily 2026-11-23"],
        60.5: ["weekly 2026-W47"],  # Sunday the 22nd, 23:30
        24 * 24 + 12.5: ["monthly 2026-10"],
        24 * 328 + 12.5: ["yearly 2025"],
        24 * (328 + 365) + 12.5: ["yearly 2024"],
    }


def test_within_keeps_all_up_to_an_age_and_adds_to_the_rules() -> None:
    assert set(kept([0, 10, 24, 25, 100, 200], within="1d")) == {0, 10, 24}
    assert set(kept([0, 10, 24, 25, 100, 200], within="1d", yearly=1)) == {0, 10, 24}
    assert set(kept([30, 100], within="1d", last=1)) == {30}
    assert kept([30, 50, 100], within="1d") == {30: ["within"], 50: ["within"]}, "the age is that at the newest"


def test_dates_ahead_of_the_clock_cost_the_others_no_places() -> None:
    assert set(kept([-1000, -999, -998, 1, 2, 3], last=2)) == {-1000, -999, 1, 2}
    assert set(kept([-1000, -999, 1, 30], within="1d")) == {-1000, -999, 1}
    assert set(kept([-20, 1, 2], last=2)) == {-20, 1}, "clocks differ by so much"


def test_periods_are_those_of_utc_whatever_the_zone() -> None:
    east = datetime.timezone(datetime.timedelta(hours=9))
    taken = [
        ("late", datetime.datetime(2026, 11, 24, 23, 0, tzinfo=UTC)),
        ("early", datetime.datetime(2026, 11, 25, 1, 0, tzinfo=east)),
        ("before", datetime.datetime(2026, 11, 23, 23, 0, tzinfo=UTC)),
    ]
    assert set(retention.keep(taken, policy(daily=2), NOW)) == {"late", "before"}


def test_a_week_over_new_year_is_one() -> None:
    days = [datetime.datetime(2024, 12, 31, tzinfo=UTC), datetime.datetime(2025, 1, 2, tzinfo=UTC)]
    before = datetime.datetime(2024, 12, 27, tzinfo=UTC)
    found = retention.keep([(str(day.date()), day) for day in [before, *days]], policy(weekly=2), NOW)
    assert found == {"2025-01-02": ["weekly 2025-W01"], "2024-12-27": ["weekly 2024-W52"]}


@pytest.mark.parametrize(
    "declared",
    [
        {"grace": "2d"},
        {"last": 1, "grace": -1},
        {"last": 0},
        {"last": -1},
        {"last": True},
        {"daily": "many"},
        {"keep": 2},
        {"within": "soon"},
    ],
)
def test_what_is_no_rule_is_refused(declared: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="retention"):
        retention.check(declared)
    assert retention.check({}) is None and retention.check(None) is None


# -- what pruning makes of it


class Clock:
    """Each call is a tick later; ``at`` in seconds since the epoch."""

    def __init__(self) -> None:
        self.at = NOW.timestamp()

    def __call__(self) -> float:
        self.at += 0.001
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(store: Store, clock: Clock) -> Store:
    return Store(store.root, replace(store.system, now=clock))


def series(store: Store, tree: Path, clock: Clock, count: int, every: float) -> list[str]:
    ids = []
    for number in range(count):
        (tree / "a").write_text(f"number {number}")
        ids.append(checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])["id"])
        clock.at += every
    return ids


def files(store: Store) -> Iterator[str]:
    for folder, _folders, names in os.walk(store.root):
        yield from (os.path.join(folder, name) for name in names if name != "lock")


def test_check_mode_foretells_what_is_forgotten(timed: Store, tree: Path, clock: Clock) -> None:
    ids = series(timed, tree, clock, 5, 24 * HOUR)
    (tree / "a").write_text("newest")
    resources = [{"files": {"paths": [str(tree)]}}]
    before = sorted(files(timed))
    foretold = checkpoint(timed, "before", resources, retention={"daily": 3}, check_mode=True)
    assert sorted(files(timed)) == before
    assert foretold["planned"] == ["checkpoint before", *sorted(f"forget checkpoint {one[:12]}" for one in ids[:3])]
    done = checkpoint(timed, "before", resources, retention={"daily": 3})
    assert [one for one in done["done"] if one.startswith("forgot")] == [
        one.replace("forget", "forgot") for one in foretold["planned"][1:]
    ]
    assert done["kept"] == {**foretold["kept"], done["id"]: ["daily 2026-11-30"]}
    assert [one.id for one in timed.checkpoints()] == [*ids[-2:], done["id"]]


def test_the_last_good_checkpoint_is_never_dropped(timed: Store, tree: Path, clock: Clock) -> None:
    series(timed, tree, clock, 2, 100 * 24 * HOUR)
    before = sorted(files(timed))
    assert timed.plan_prune("before", policy(within="1d"), set()).kept.keys() == {timed.resolve("before")}
    with pytest.raises(Refused, match="last good checkpoint of other"):
        timed.prune("other", policy(within="1d"), set())
    assert sorted(files(timed)) == before
    unchanged = checkpoint(timed, "before", [{"files": {"paths": [str(tree)]}}], retention={"within": "1d"})
    assert list(unchanged["kept"]) == [unchanged["id"]] == [one.id for one in timed.checkpoints()]


def test_a_clock_that_was_ahead_once_dates_no_later_checkpoint(
    timed: Store, tree: Path, clock: Clock, tmp_path: Path
) -> None:
    resources = [{"files": {"paths": [str(tree)]}}]
    ids, year = series(timed, tree, clock, 2, HOUR), 365 * 24 * HOUR
    clock.at += year
    ahead = protect(timed, tree, "ahead")["id"]
    assert timed.resolve("latest") == ahead
    clock.at -= year
    foretold = checkpoint(timed, "before", resources, check_mode=True)
    taken = checkpoint(timed, "before", resources)
    assert taken["changed"] and taken["id"] != ahead, "no other host would take a copy of that"
    assert foretold["warnings"] == taken["warnings"] and ahead[:12] in taken["warnings"][0]
    clock.at += HOUR
    other = checkpoint(timed, "other", resources)["id"]
    assert [one.id for one in timed.checkpoints()] == [ahead, *ids, taken["id"], other]
    assert timed.resolve("latest") == other and timed.resolve("before") == taken["id"]
    assert "warnings" not in checkpoint(timed, "before", resources)
    challenge = proving.Challenge(b"n" * 32, 10.0, own=True)
    assert proving.prove(timed, "web1", challenge).latest == other
    log = checkpoint(timed, "before", resources, kind="log", retention={"last": 2})
    assert set(log["kept"]) == {ahead, ids[-1], taken["id"]}
    replicas.export(timed, "web1", taken["id"], [], str(tmp_path / "bundle"), from_replica=False)
    assert receive(Store(str(tmp_path / "peer"), timed.system), "web1", taken["id"], str(tmp_path / "bundle")).state


def test_what_was_taken_last_stays_the_newest_though_the_clock_was_behind(
    timed: Store, tree: Path, clock: Clock
) -> None:
    series(timed, tree, clock, 2, HOUR)
    clock.at -= 365 * 24 * HOUR
    taken = protect(timed, tree, "taken while the clock was behind", last=1)["id"]
    clock.at += 365 * 24 * HOUR
    assert timed.resolve("latest") == timed.resolve("before") == taken
    assert taken not in timed.plan_prune("before", policy(last=1), set()).gone


def test_what_recoveries_made_goes_with_the_others_but_for_the_newest(timed: Store, tree: Path, clock: Clock) -> None:
    series(timed, tree, clock, 2, HOUR)
    made = []
    for number in range(3):
        (tree / "a").write_text(f"recovered {number}")
        made.append(checkpoint(timed, RECOVERY, [{"files": {"paths": [str(tree)]}}])["id"])
        clock.at += HOUR
    timed.prune("before", policy(last=1), set())
    assert timed.refs()[RECOVERY] == made[-1:] and len(timed.refs()["before"]) == 1
    clock.at += 365 * 24 * HOUR  # Of which host this one stands for, that alone tells.
    assert made[-1] not in timed.plan_prune("before", policy(within="1h"), set()).gone


@pytest.mark.parametrize("harm", ["missing", "damaged", "garbled ref"])
@pytest.mark.parametrize("which", [0, 2])
def test_nothing_is_deleted_while_a_manifest_cannot_be_read(
    timed: Store, tree: Path, clock: Clock, harm: str, which: int
) -> None:
    ids = series(timed, tree, clock, 3, HOUR)
    checkpoint(timed, "other", [{"files": {"paths": [str(tree / "sub")]}}])
    path = Path(timed.join("manifests", ids[which]))
    if harm == "missing":
        path.unlink()
    elif harm == "damaged":
        os.chmod(path, 0o600)
        path.write_bytes(path.read_bytes().replace(b"number", b"numbed", 1) + b" ")
    else:
        ref = Path(timed.join("refs", "before"))
        ref.write_text(ref.read_text().replace(ids[which], ids[which][:-1] + "G"))
    before = sorted(files(timed))
    for name in ("before", "other"):
        with pytest.raises(Damaged, match="nothing was pruned: .*ft_heal"):
            timed.prune(name, policy(last=1), set())
        with pytest.raises(Damaged, match="nothing was pruned"):
            timed.plan_prune(name, policy(last=1), set())
    assert sorted(files(timed)) == before


def test_a_checkpoint_and_a_copy_count_although_an_old_manifest_is_damaged(
    timed: Store, tree: Path, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, resources = Store(str(tmp_path / "peer"), timed.system), [{"files": {"paths": [str(tree)]}}]
    old = protect(timed, tree, "first")["id"]
    replicas.export(timed, "web1", old, [], str(tmp_path / "first"), from_replica=False)
    receive(peer, "web1", old, str(tmp_path / "first"))
    for store in (timed, replicas.replica(peer, "web1")):
        Path(store.join("manifests", old)).unlink()
    clock.at += HOUR
    foretold = checkpoint(timed, "before", resources, check_mode=True, retention={"last": 1})
    new = checkpoint(timed, "before", resources, retention={"last": 1})
    assert new["id"] in [one.id for one in timed.checkpoints()] and new["warnings"] == foretold["warnings"]
    assert "nothing was pruned" in new["warnings"][0] and old in new["warnings"][0]
    replicas.export(timed, "web1", new["id"], [], str(tmp_path / "second"), from_replica=False)
    copied = receive(peer, "web1", new["id"], str(tmp_path / "second"), {"last": 1})
    assert copied.state == "verified" and "nothing was pruned" in copied.left[0]

    def broken(*_args: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(changes, "arm", broken)
    (tree / "a").write_text("third")
    with pytest.raises(EvenkeelError, match="the disk is full") as found:
        checkpoint(timed, "before", resources, within=60, retention={"last": 1})
    taken = found.value.result["id"]
    assert taken == timed.resolve("before") and found.value.result["done"] == [f"checkpoint before ({taken[:12]})"]
    monkeypatch.setattr(Store, "prune", broken)
    with pytest.raises(EvenkeelError, match="the disk is full") as found:
        checkpoint(timed, "before", resources, retention={"last": 1})
    assert found.value.result["id"] == taken


def test_retention_frees_a_full_disk_before_what_needs_the_room(
    timed: Store, tree: Path, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Store(str(tmp_path / "peer"), timed.system)
    for content in ("first", "second"):
        one = protect(timed, tree, content)["id"]
        replicas.export(timed, "web1", one, [], str(tmp_path / content), from_replica=False)
        receive(peer, "web1", one, str(tmp_path / content))
        clock.at += HOUR
    copies = replicas.replica(peer, "web1")
    leftover = Path(copies.join("tmp", "new-1-1"))
    leftover.write_text("of a transfer that broke")
    places = [copies.root]
    monkeypatch.setattr(foreign, "room", lambda place: 0 if len(copies.checkpoints()) > 1 else 1000)
    make_room(peer, "web1", 10, places)
    assert not leftover.exists() and len(copies.checkpoints()) == 2
    make_room(peer, "web1", 0, places, {"last": 1, "grace": 0})
    assert len(copies.checkpoints()) == 2
    make_room(peer, "web1", 10, places, {"last": 1, "grace": 0})
    assert [found.id for found in copies.checkpoints()] == [one]


@pytest.mark.parametrize("trash", [False, True], ids=["without grace", "over its grace"])
def test_a_checkpoint_without_room_is_tried_again_where_room_was_made(
    timed: Store, tree: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, trash: bool
) -> None:
    protect(timed, tree, "first")
    second = protect(timed, tree, "second", **({"last": 1} if trash else {}))["id"]
    add, tries = Writer.add, []
    monkeypatch.setattr(os, "statvfs", lambda place: SimpleNamespace(f_bfree=-len(contents(timed))))
    stored = len(contents(timed))

    def full(self: Writer, data: bytes) -> str:
        if len(contents(timed)) - len(contents(timed, "tmp")) >= stored:
            tries.append(data)
            raise OSError(errno.ENOSPC, "No space left on device")
        return add(self, data)

    monkeypatch.setattr(Writer, "add", full)
    for rules in ({}, {"last": 1}):
        # What is forgotten now goes to the trash, and frees nothing: nothing is forgotten.
        before = timed.checkpoints()
        with pytest.raises(OSError, match="No space left"):
            protect(timed, tree, "third", **rules)
        assert os.listdir(timed.join("tmp")) == [] and timed.checkpoints() == before
    assert len(tries) == 2 and timed.resolve("before") == second
    clock.at += 25 * HOUR if trash else 0
    third = protect(timed, tree, "third", last=1, **({} if trash else {"grace": 0}))["id"]
    assert [found.id for found in timed.checkpoints()] == [third]


# -- the trash


def contents(store: Store, *folder: str) -> set[str]:
    return {name for _folder, _folders, names in os.walk(store.join(*folder)) for name in names}


def protect(store: Store, tree: Path, content: str, **rules: Any) -> dict[str, Any]:
    """A checkpoint of one small and one large content."""
    (tree / "a").write_text(content)
    (tree / "sub" / "large").write_text(content * 100_000)
    return checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}], retention=rules or None)


def test_what_nothing_names_is_deleted_after_its_time_of_grace_and_not_before(
    timed: Store, tree: Path, clock: Clock
) -> None:
    first = protect(timed, tree, "first", last=1, grace="2h")
    large = contents(timed, "objects")
    protect(timed, tree, "second", last=1, grace="2h")
    held = contents(timed, "trash")
    assert first["id"] in held and len(held & {one for one in held if len(one) == 62}) == 1
    assert not contents(timed, "manifests") & held and not contents(timed, "objects") & held
    clock.at += 1.9 * HOUR
    protect(timed, tree, "third", last=1, grace="2h")
    assert held < contents(timed, "trash")
    clock.at += 0.2 * HOUR
    protect(timed, tree, "third", last=1, grace="2h")
    assert not held & contents(timed, "trash") and contents(timed, "trash")
    assert not large <= contents(timed, "objects")
    assert timed.verify(timed.manifest(timed.resolve("before"))) == {}


def test_a_shorter_time_of_grace_costs_no_other_files_in_the_trash_theirs(
    timed: Store, tree: Path, clock: Clock
) -> None:
    """The checkpoints of logs, which are taken often, lie there for an hour."""
    usual = protect(timed, tree, "first", last=1)["id"]
    protect(timed, tree, "second", last=1)
    log = tree.with_name("log")

    def take(content: str) -> str:
        log.write_text(content)
        rules = {"last": 1, "grace": "1h"}
        return str(checkpoint(timed, "logs", [{"files": {"paths": [str(log)]}}], retention=rules)["id"])

    first = take("first")
    take("second")
    assert {usual, first} <= contents(timed, "trash", "manifests")
    clock.at += 1.1 * HOUR
    take("third")
    assert usual in contents(timed, "trash", "manifests") and first not in contents(timed, "trash", "manifests")
    clock.at += 22.8 * HOUR
    take("fourth")
    assert usual in contents(timed, "trash", "manifests")
    clock.at += 0.2 * HOUR
    take("fifth")
    assert usual not in contents(timed, "trash", "manifests")


def test_a_longer_time_of_grace_holds_whoever_empties_the_trash(timed: Store, tree: Path, clock: Clock) -> None:
    def take(name: str, content: str, grace: str) -> str:
        other = tree.with_name(name)
        other.write_text(content)
        rules = {"last": 1, "grace": grace}
        return str(checkpoint(timed, name, [{"files": {"paths": [str(other)]}}], retention=rules)["id"])

    first = take("monthly", "first", "30d")
    take("monthly", "second", "30d")
    clock.at += 29.9 * 24 * HOUR
    for name, grace in (("hourly", "1h"), ("daily", "1d"), ("monthly", "30d")):
        take(name, "third", grace)
        assert first in contents(timed, "trash", "manifests"), name
    clock.at += 0.2 * 24 * HOUR
    take("daily", "fourth", "1d")
    assert first not in contents(timed, "trash", "manifests")


def test_the_trash_is_emptied_also_when_nothing_is_forgotten(timed: Store, tree: Path, clock: Clock) -> None:
    protect(timed, tree, "first", last=1)
    protect(timed, tree, "second", last=1)
    assert contents(timed, "trash")
    clock.at += 25 * HOUR
    checkpoint(timed, "before", [{"files": {"paths": [str(tree)]}}], retention={"last": 1})
    assert not contents(timed, "trash")


def test_a_checkpoint_takes_back_what_it_needs(timed: Store, tree: Path, clock: Clock) -> None:
    protect(timed, tree, "first", last=1)
    protect(timed, tree, "second", last=1)
    again = protect(timed, tree, "first")
    assert again["stats"]["new_objects"] == 0
    clock.at += 25 * HOUR
    protect(timed, tree, "third", last=2)
    assert not contents(timed, "trash") & contents(timed, "packs")
    assert timed.verify(timed.manifest(again["id"])) == {}


def test_a_reader_without_the_lock_reads_on_while_it_is_pruned(timed: Store, tree: Path) -> None:
    first = protect(timed, tree, "first")
    reader = Store(timed.root, timed.system)
    manifest = reader.manifest(first["id"])
    assert reader.objects.index()
    protect(timed, tree, "second", last=1)
    assert [one.id for one in timed.checkpoints()] != [first["id"]]
    assert reader.verify(manifest) == {}
    assert Store(timed.root, timed.system).verify(manifest) == {}


def test_what_a_bundle_counts_on_is_taken_back(timed: Store, tree: Path, tmp_path: Path) -> None:
    """Between the question what a peer holds and the bundle, the peer may prune."""
    peer = Store(str(tmp_path / "peer"), timed.system)
    ids = [protect(timed, tree, content)["id"] for content in ("first", "second", "first")]
    bundles = []
    for number, (one, known) in enumerate(zip(ids, [[], [], ids[:1]], strict=True)):
        bundles.append(str(tmp_path / f"bundle-{number}"))
        replicas.export(timed, "web1", one, known, bundles[-1], from_replica=False)
    receive(peer, "web1", ids[0], bundles[0])
    receive(peer, "web1", ids[1], bundles[1], {"last": 1})
    copies = replicas.replica(peer, "web1")
    assert [one.id for one in copies.checkpoints()] == [ids[1]] and contents(copies, "trash")
    assert receive(peer, "web1", ids[2], bundles[2]).state == "verified"
    copies.objects.empty_trash(float("inf"))
    assert copies.verify(copies.manifest(ids[2])) == {}


def test_a_bad_content_in_the_trash_is_not_taken_back(timed: Store, tree: Path) -> None:
    protect(timed, tree, "first", last=1)
    sha = hashlib.sha256(b"first" * 100_000).hexdigest()
    protect(timed, tree, "second", last=1)
    assert timed.objects.has(sha) and not os.path.exists(timed.objects.path(sha))
    timed.quarantine(sha)
    assert not timed.objects.has(sha) and contents(timed, "quarantine") == {sha}
    again = protect(timed, tree, "first")
    assert timed.verify(timed.manifest(again["id"])) == {}


def test_what_is_needed_is_not_deleted_from_the_trash_even_when_it_lies_there(timed: Store, tree: Path) -> None:
    taken = protect(timed, tree, "first", last=1)
    paths = [*Path(timed.join("packs")).iterdir(), *(one for one in Path(timed.join("objects")).rglob("*/*"))]
    timed.objects.throw_away([str(path) for path in paths], 1.0)
    assert not contents(timed, "packs") and not contents(timed, "objects")
    timed.prune("before", policy(last=1, grace=0), set())
    assert timed.verify(timed.manifest(taken["id"])) == {} and not contents(timed, "trash")


def test_a_forgotten_checkpoint_comes_back_the_way_that_the_documentation_says(timed: Store, tree: Path) -> None:
    first = protect(timed, tree, "first", last=1)["id"]
    second = protect(timed, tree, "second", last=1)["id"]
    os.rename(timed.join("trash", "manifests", first), timed.join("manifests", first))
    Path(timed.join("refs", "before")).write_text(f"{first}\n{second}\n")
    timed.prune("before", policy(last=2, grace=0), set())
    assert not contents(timed, "trash")
    assert [timed.verify(timed.manifest(one)) for one in (first, second)] == [{}, {}]


def test_room_is_made_in_the_places_where_it_is_measured(
    timed: Store, tree: Path, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that lands on the file system of the store takes its room twice there."""
    peer = Store(str(tmp_path / "peer"), timed.system)
    copies = replicas.replica(peer, "web1")
    for content in ("first", "second"):
        one = protect(timed, tree, content)["id"]
        replicas.export(timed, "web1", one, [], str(tmp_path / content), from_replica=False)
        receive(peer, "web1", one, str(tmp_path / content))
        clock.at += HOUR
    (tmp_path / "landing").mkdir()
    monkeypatch.setattr(scratch, "new", lambda *_: str(tmp_path / "landing/bundle"))
    monkeypatch.setattr(foreign, "room", lambda *places: 15 // len(places) if len(copies.checkpoints()) > 1 else 1000)
    values = {"directory": str(tmp_path), "run": "1", "size": 10}
    asked = {"store": peer.root, "host": "web1", "retention": {"last": 1, "grace": 0}, "_phase": "land"}
    landing = exchange.work({**asked, "_values": values}, check_mode=False)
    assert isinstance(landing, Landing) and landing.room == 1000
    assert [found.id for found in copies.checkpoints()] == [one]
