# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A server is drained, refused, or made ready again and named; HAProxy is a fake with the words of a real one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.evenkeel.fault_tolerance.plugins.doc_fragments import _drain
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    EvenkeelError,
    Refused,
    ServiceFailed,
    Unhealthy,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import trust
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.processes import Stat
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import haproxy as runtime
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.draining import (
    OPTION,
    Place,
    known,
    places,
)
from flows import drain

from . import fake_haproxy
from .conftest import SYSTEM
from .fake_haproxy import FORCED_DRAIN, FORCED_MAINTENANCE, Haproxy, Server, haproxy

# No test waits for the time of a person: a sleep counts whole, and takes a hundredth of its time.
_slept: list[float] = []


def _sleep(seconds: float) -> None:
    _slept.append(seconds)
    time.sleep(seconds / 100)


FAST = replace(SYSTEM, sleep=_sleep, monotonic=lambda: time.monotonic() + sum(_slept))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Haproxy]:
    with haproxy(tmp_path / "s", Server("web1"), Server("web2")) as fake:
        yield fake


def act(fake: Haproxy, state: str, /, **more: Any) -> dict[str, Any]:
    declared = {"backend": "web", "server": "web1", "socket": str(fake.path)}
    return drain(state, "haproxy", declared, FAST, **more)


# -- drained


def test_a_drain_is_told_once_and_ends_without_sessions(web: Haproxy) -> None:
    web.server("web1").sessions = 3
    web.server("web1").queued = 1

    def end(look: int) -> None:
        if look == 4:
            web.server("web1").sessions = web.server("web1").queued = 0

    web.on_look = end
    foreseen = act(web, "drained", check_mode=True)
    assert foreseen["changed"] and foreseen["sessions"] == 4 and web.told == []
    web.looks = 0
    result = act(web, "drained")
    assert result["changed"] and result["planned"] == result["done"] == foreseen["planned"]
    assert web.told == ["set server web/web1 state drain"] and web.looks == 5
    assert (result["state"], result["status"], result["sessions"]) == ("drained", "DRAIN", 0)
    assert result["proved"][0] == "web goes on with web2" and "no session" in result["proved"][1]

    again = act(web, "drained", ours=True)
    assert not again["changed"] and again["done"] == [] and len(web.told) == 1


def test_sessions_that_are_left_at_the_deadline_make_it_ready_again_and_are_counted(web: Haproxy) -> None:
    web.server("web1").sessions = 2
    with pytest.raises(ServiceFailed, match=r"not drained: 2 sessions are left after .* ready again") as failed:
        act(web, "drained", deadline=1.0)
    assert web.told == ["set server web/web1 state drain", "set server web/web1 state ready"]
    result = failed.value.result
    assert [one["action"] for one in result["done"]] == ["drain", "ready"]
    assert (result["left"], result["state"], result["sessions"]) == ([], "ready", 2)


@pytest.mark.parametrize("error", [Refused("x; nothing was touched"), UsageError("x. Nothing was touched")])
def test_a_refusal_after_the_drain_was_told_ends_it(
    web: Haproxy, monkeypatch: pytest.MonkeyPatch, error: EvenkeelError
) -> None:
    look, looks = runtime.Runtime.read_server, [0]

    def refuse(self: runtime.Runtime) -> runtime.View:
        looks[0] += 1
        if looks[0] == 2:
            raise error
        return look(self)

    monkeypatch.setattr(runtime.Runtime, "read_server", refuse)
    with pytest.raises(ServiceFailed, match="was not drained: x; it is ready again") as failed:
        act(web, "drained")
    assert "othing was touched" not in failed.value.message and web.server("web1").bits == 0
    assert [one["action"] for one in failed.value.result["done"]] == ["drain", "ready"]


def test_a_server_that_cannot_be_made_ready_again_is_left_and_named(web: Haproxy) -> None:
    web.server("web1").sessions = 2

    def deafen(look: int) -> None:
        web.deaf = look > 2

    web.on_look = deafen
    with pytest.raises(ServiceFailed, match="could not be made ready again: web/web1 is DRAIN") as failed:
        act(web, "drained", deadline=1.0)
    assert failed.value.result["left"] == ["web/web1"]


@pytest.mark.parametrize(
    ("bits", "why"),
    [
        (FORCED_DRAIN, "drained already .DRAIN., and not by Evenkeel"),
        (fake_haproxy.INHERITED_DRAIN, "drained already"),
        (FORCED_MAINTENANCE, "maintenance .MAINT., and not by Evenkeel"),
        (fake_haproxy.INHERITED_MAINTENANCE, "maintenance"),
        (32, "maintenance"),
    ],
)
def test_a_state_that_somebody_else_has_set_is_refused(web: Haproxy, bits: int, why: str) -> None:
    web.server("web1").bits = bits
    assert act(web, "look")["obstacle"]
    for check_mode in (True, False):
        with pytest.raises(Refused, match=f"{why}.*nothing was touched"):
            act(web, "drained", check_mode=check_mode)
    if bits != FORCED_DRAIN:
        with pytest.raises(Refused):
            act(web, "drained", ours=True)
    assert web.told == []


def test_a_backup_does_not_take_the_place_of_servers_that_share_the_load(web: Haproxy) -> None:
    """It may be a page that says that all are away."""
    web.servers.append(Server("web3", health="DOWN"))
    web.server("web2").backup = True
    with pytest.raises(Refused, match="backend web has no other server that is up .a backup does not count.; nothing"):
        act(web, "drained")
    assert web.told == [] and act(web, "look")["obstacle"]
    web.server("web1").backup = True
    assert act(web, "drained")["proved"][0] == "web goes on with web2 (a backup)"
    act(web, "ready")
    web.server("web2").backup = False
    assert act(web, "drained")["proved"][0] == "web goes on with web2"


def test_a_backup_takes_the_place_of_the_only_server_beside_it(web: Haproxy) -> None:
    web.server("web2").backup = True
    assert act(web, "drained")["proved"][0] == "web goes on with web2 (a backup)"


def test_a_server_whose_place_only_a_backup_would_take_is_made_ready_again(web: Haproxy) -> None:
    web.servers.append(Server("sorry", backup=True))
    web.server("web1").sessions = 1

    def fail(look: int) -> None:
        web.server("web2").health = "DOWN" if look > 2 else "UP"

    web.on_look = fail
    with pytest.raises(ServiceFailed, match="no other server any more that is up .*; it is ready again"):
        act(web, "drained")


@pytest.mark.parametrize("bits", [fake_haproxy.BY_CONFIGURATION, 0x40, 0x44])
def test_the_origin_of_an_earlier_state_is_no_state(web: Haproxy, bits: int) -> None:
    """HAProxy keeps 0x04 on a server that its configuration disabled, after it was made ready."""
    web.server("web1").bits = bits
    assert act(web, "look")["state"] == "ready"
    assert act(web, "drained")["changed"]
    assert act(web, "ready")["state"] == "ready"


@pytest.mark.parametrize(
    "other",
    [
        {"health": "DOWN"},
        {"health": "DOWN 1/2"},
        {"health": "NOLB"},
        {"bits": FORCED_DRAIN},
        {"bits": 1},
        {"weight": 0},
    ],
)
def test_the_last_server_of_a_backend_is_refused(web: Haproxy, other: dict[str, Any]) -> None:
    for key, value in other.items():
        setattr(web.server("web2"), key, value)
    with pytest.raises(Refused, match="backend web has no other server that is up .*; nothing was touched") as refused:
        act(web, "drained")
    assert refused.value.result["obstacle"] and web.told == []
    # There is nothing to lose where it serves nobody either.
    web.server("web1").health = "DOWN"
    assert act(web, "drained")["changed"]


def test_the_last_server_of_a_backend_that_follows_it_is_refused_too(web: Haproxy) -> None:
    web.servers.append(Server("alias", "api", tracked="web/web1"))
    with pytest.raises(Refused, match="backend api has no other server"):
        act(web, "drained")
    web.servers.append(Server("more", "api", health="no check"))
    web.server("alias").sessions = 1
    with pytest.raises(ServiceFailed, match="1 sessions are left"):
        act(web, "drained", deadline=1.0)


def test_a_backend_that_loses_its_other_server_meanwhile_gets_this_one_back(web: Haproxy) -> None:
    web.server("web1").sessions = 1

    def lose(look: int) -> None:
        if look == 4:
            web.server("web2").health = "DOWN"

    web.on_look = lose
    with pytest.raises(ServiceFailed, match="no other server any more that is up .*; it is ready again"):
        act(web, "drained")
    assert web.server("web1").bits == 0


def test_a_drain_that_something_else_ends_is_no_drain(web: Haproxy) -> None:
    web.server("web1").sessions = 1

    def reload(look: int) -> None:
        if look == 4:
            web.server("web1").bits = 0

    web.on_look = reload
    with pytest.raises(ServiceFailed, match="not drained any more"):
        act(web, "drained")
    assert web.told == ["set server web/web1 state drain"]


def test_a_reload_between_two_answers_of_haproxy_is_no_drain(web: Haproxy) -> None:
    """Its sessions are those of one process, and its drain would be that of the process before."""

    def reload(look: int) -> None:
        if look == 4:
            web.server("web1").bits = 0

    answer = web.answer

    def answered(line: str) -> str:
        # The drain is forgotten once the statistics are told.
        said = answer(line)
        if line.startswith("show stat"):
            reload(web.looks)
        return said

    web.answer = answered  # type: ignore[method-assign]
    with pytest.raises(ServiceFailed, match="not drained any more"):
        act(web, "drained")


def test_a_drain_that_haproxy_does_not_take_for_sure_is_taken_back(web: Haproxy) -> None:
    web.says = "Something new."
    with pytest.raises(ServiceFailed, match=r"did not take drain of web/web1: Something new.*it is ready again"):
        act(web, "drained")
    assert web.told == ["set server web/web1 state drain", "set server web/web1 state ready"]


def test_sessions_that_come_in_spite_of_the_drain_are_told(web: Haproxy) -> None:
    def come(look: int) -> None:
        web.server("web1").begun += 1 if look == 3 else 0

    web.on_look = come
    (said,) = act(web, "drained")["warnings"]
    assert "1 sessions began while it was drained" in said and "cookie" in said


def test_one_of_several_processes_is_refused(web: Haproxy) -> None:
    web.processes = 4
    with pytest.raises(Refused, match="4 processes"):
        act(web, "drained")
    assert web.told == []


def test_a_process_that_a_reload_has_replaced_is_told(web: Haproxy, monkeypatch: pytest.MonkeyPatch) -> None:
    web.pid = 42
    monkeypatch.setattr(runtime, "leavers", lambda pid: [17] if pid == 42 else [])
    (said,) = act(web, "drained")["warnings"]
    assert "pid 17" in said and "not counted" in said


def test_processes_of_the_same_master_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {1: ("systemd", 0), 10: ("haproxy", 1), 11: ("haproxy", 10), 12: ("haproxy", 10), 13: ("haproxy", 99)}

    def stat(pid: int | str) -> Stat:
        name, parent = names.get(int(pid), ("sh", 1))
        return Stat(int(pid), name, b"S", parent, int(pid), 1)

    monkeypatch.setattr(runtime, "read_stat", stat)
    monkeypatch.setattr(os, "listdir", lambda _path: ["1", "10", "11", "12", "13", "self"])
    assert runtime.leavers(12) == [11]
    assert runtime.leavers(10) == []  # It has no master.


# -- ready


def test_ready_waits_for_the_check_and_tells_of_requests(web: Haproxy) -> None:
    server = web.server("web1")
    server.bits, server.health = FORCED_DRAIN, "DOWN"

    def come_up(look: int) -> None:
        server.health = "UP" if look > 3 else "DOWN"
        server.answers += 2 if look == 5 else 0

    web.on_look = come_up
    result = act(web, "ready", ours=True)
    assert web.told == ["set server web/web1 state ready"] and result["changed"]
    assert (result["status"], result["served"]) == ("UP", 2)
    assert result["proved"] == ["web/web1 is UP, with 0 sessions", "web/web1 has answered 2 requests since"]

    web.on_look = lambda _look: None
    assert "warnings" not in result
    again = act(web, "ready", ours=True)
    assert not again["changed"] and again["served"] == 0 and len(web.told) == 1
    # A drain of ours was to be there.
    assert "web/web1 was ready already: requests may have come to it" in again["warnings"][0]
    assert "warnings" not in act(web, "ready")
    assert again["proved"][1] == "no request was answered by web/web1 since"


def test_ready_fails_by_name_where_the_check_does_not_pass(web: Haproxy) -> None:
    web.server("web1").bits, web.server("web1").health = FORCED_DRAIN, "DOWN"
    with pytest.raises(Unhealthy, match=r"web/web1 is DOWN \(L4CON Connection refused\).*its state is ready") as failed:
        act(web, "ready", deadline=1.0)
    assert failed.value.result["left"] == ["web/web1"] and web.server("web1").bits == 0


def test_ready_names_what_else_keeps_it_from_requests(web: Haproxy) -> None:
    web.server("web1").bits, web.server("web1").tracked = fake_haproxy.INHERITED_DRAIN, "api/a"
    with pytest.raises(Unhealthy, match="it follows api/a"):
        act(web, "ready", deadline=1.0)


def test_failed_requests_and_a_missing_check_are_told(web: Haproxy) -> None:
    server = web.server("web1")
    server.bits, server.health = FORCED_DRAIN, "no check"

    def fail(look: int) -> None:
        server.errors += 1 if look == 4 else 0

    web.on_look = fail
    said = act(web, "ready")["warnings"]
    assert "1 requests to it have failed" in said[0] and "not measured" in said[1]


def test_a_server_without_weight_is_up_and_gets_no_requests(web: Haproxy) -> None:
    web.server("web1").bits, web.server("web1").weight = FORCED_DRAIN, 0
    (said,) = act(web, "ready", ours=True)["warnings"]
    assert said == "web/web1 has a weight of 0, so that it gets no new requests"


def test_a_maintenance_that_came_after_our_drain_stays(web: Haproxy) -> None:
    web.server("web1").bits = FORCED_MAINTENANCE
    with pytest.raises(Refused, match="somebody else has set") as refused:
        act(web, "ready", ours=True)
    assert refused.value.result["left"] == ["web/web1"] and web.told == []
    (said,) = act(web, "ready")["warnings"]
    assert "before a check" in said and web.server("web1").bits == 0


# -- the runtime API


@pytest.mark.parametrize("name", ["web;set server web/web2 state maint", "web1\n", "a b", "", "#1", "a/b", "a,b"])
@pytest.mark.parametrize("key", ["backend", "server"])
def test_a_name_that_would_be_a_command_is_refused(web: Haproxy, key: str, name: str) -> None:
    declared = {"backend": "web", "server": "web1", "socket": str(web.path), key: name}
    with pytest.raises(UsageError, match=f"{key}.*(no name of HAProxy|missing)"):
        drain("drained", "haproxy", declared, FAST)
    assert web.asked == []


def test_a_server_that_is_not_there_is_refused_by_name(web: Haproxy) -> None:
    declared = {"backend": "web", "server": "web3", "socket": str(web.path)}
    with pytest.raises(UsageError, match="backend web of HAProxy has no server web3; it has web1, web2"):
        drain("look", "haproxy", declared, FAST)
    with pytest.raises(UsageError, match="no backend nope"):
        drain("look", "haproxy", {**declared, "backend": "nope"}, FAST)


def test_a_socket_without_the_level_is_refused(web: Haproxy) -> None:
    web.is_admin = False
    assert act(web, "look")["state"] == "ready"
    with pytest.raises(Refused, match="level admin"):
        act(web, "drained")


def test_a_socket_that_others_could_have_put_there_is_refused(web: Haproxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "trusted", lambda: {os.geteuid() + 1})
    with pytest.raises(Refused, match="anybody there could answer for HAProxy"):
        act(web, "look")
    # A directory in which only trusted users write is enough, and then the owner of the socket listens.
    monkeypatch.setattr(runtime, "stranger", lambda _path, _owners: "")
    assert act(web, "look")["state"] == "ready"
    found, ask = os.lstat(web.path), os.lstat
    other = os.stat_result((found.st_mode, *found[1:4], os.geteuid() + 1, *found[5:]))
    monkeypatch.setattr(os, "lstat", lambda path, **how: other if path == str(web.path) else ask(path, **how))
    with pytest.raises(Refused, match="listens at"):
        act(web, "look")
    assert trust.trusted() == {0, os.geteuid()}


def test_what_is_no_socket_or_does_not_answer_is_named(tmp_path: Path) -> None:
    declared = {"backend": "web", "server": "web1", "socket": str(tmp_path / "s")}
    with pytest.raises(ServiceFailed, match="does not answer at .*No such file"):
        drain("look", "haproxy", declared, FAST)
    (tmp_path / "s").write_text("")
    with pytest.raises(Refused, match="is no socket"):
        drain("look", "haproxy", declared, FAST)
    with pytest.raises(UsageError, match="no absolute path"):
        drain("look", "haproxy", {**declared, "socket": "s"}, FAST)


def test_a_socket_that_a_reload_replaces_is_asked_again(web: Haproxy) -> None:
    away = web.path.with_name("away")
    web.path.rename(away)
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            away.rename(web.path)

    declared = {"backend": "web", "server": "web1", "socket": str(web.path)}
    assert drain("look", "haproxy", declared, replace(SYSTEM, sleep=sleep))["state"] == "ready"
    assert slept == [0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    "text", ["", "Unknown command\n", "# pxname,status\n", f"{fake_haproxy.STATS}web,web1,0,0,many,0,,0,0,0\n"]
)
def test_an_answer_of_another_form_is_named(text: str) -> None:
    with pytest.raises(ServiceFailed, match="HAProxy"):
        runtime.parse_servers(text)


def test_an_answer_without_end_is_given_up(web: Haproxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "answer", lambda _line: "x" * (33 << 20))
    with pytest.raises(ServiceFailed, match="has no end"):
        act(web, "look")


# -- a command pair


@pytest.fixture
def pool(tmp_path: Path) -> dict[str, list[str]]:
    """Commands that keep the host out of a pool while a file is there."""
    out, log = tmp_path / "out", tmp_path / "log"
    script = "echo $1 >> {log}; case $1 in drain) touch {out};; undrain) rm -f {out};; check) test -e {out};; esac"
    program = ["/bin/sh", "-c", script.format(log=log, out=out), "pool"]
    return {verb: [*program, verb] for verb in ("drain", "undrain", "check")}


def verbs(tmp_path: Path) -> list[str]:
    log = tmp_path / "log"
    found = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def test_a_pair_drains_and_ends_that_as_its_check_shows(pool: dict[str, list[str]], tmp_path: Path) -> None:
    assert drain("look", "command", pool, FAST)["state"] == "ready"
    assert drain("drained", "command", pool, FAST, check_mode=True)["changed"] and "drain" not in verbs(tmp_path)
    result = drain("drained", "command", pool, FAST)
    assert result["changed"] and result["state"] == "drained" and result["proved"]
    assert verbs(tmp_path) == ["check", "drain", "check"]
    assert not drain("drained", "command", pool, FAST, ours=True)["changed"]
    with pytest.raises(Refused, match="drained already, and not by Evenkeel"):
        drain("drained", "command", pool, FAST)
    assert verbs(tmp_path) == ["check", "check"]
    assert drain("ready", "command", pool, FAST, ours=True)["state"] == "ready"
    again = drain("ready", "command", pool, FAST, ours=True)
    assert not again["changed"] and "was ready already" in again["warnings"][0]


def test_a_pair_without_a_check_is_asked_not_shown(pool: dict[str, list[str]], tmp_path: Path) -> None:
    del pool["check"]
    for state, verb in (("drained", "drain"), ("ready", "undrain")):
        result = drain(state, "command", pool, FAST)
        assert result["changed"] and result["state"] == "unknown" and result["proved"] == []
        assert "asked, not shown" in result["warnings"][0] and verbs(tmp_path) == [verb]


@pytest.mark.parametrize("end", ["kill -9 $$", "exit 139"])
def test_a_check_that_a_signal_ended_tells_nothing(pool: dict[str, list[str]], tmp_path: Path, end: str) -> None:
    pool["check"] = ["/bin/sh", "-c", end]
    assert drain("look", "command", pool, FAST)["state"] == "unknown"
    with pytest.raises(Refused, match="its check tells nothing"):
        drain("drained", "command", pool, FAST)
    assert verbs(tmp_path) == []


def test_a_drain_that_its_check_does_not_show_is_taken_back(pool: dict[str, list[str]], tmp_path: Path) -> None:
    pool["check"] = ["/bin/false"]
    with pytest.raises(ServiceFailed, match="does not show that .* ready again, as its check shows") as failed:
        drain("drained", "command", pool, FAST, deadline=1.0)
    assert verbs(tmp_path) == ["drain", "undrain"] and failed.value.result["left"] == []
    pool["undrain"] = ["/bin/sh", "-c", "echo no way >&2; exit 3"]
    with pytest.raises(ServiceFailed, match="could not be made ready again: no way") as failed:
        drain("drained", "command", pool, FAST, deadline=1.0)
    assert failed.value.result["left"] == ["/bin/sh"]
    with pytest.raises(ServiceFailed, match="its drain failed: exit code 1"):
        drain("drained", "command", {**pool, "drain": ["/bin/false"]}, FAST)
    with pytest.raises(Refused, match="tells nothing"):
        drain("drained", "command", {**pool, "check": ["/nowhere"]}, FAST)
    with pytest.raises(ServiceFailed, match="not made ready: its check does not show"):
        drain("ready", "command", {**pool, "check": ["/bin/true"], "undrain": ["/bin/true"]}, FAST, deadline=1.0)


# -- places


DECLARED: list[dict[str, Any]] = [
    {"haproxy": {"hosts": ["lb1", "lb2"], "backend": "web", "server": "web1"}},
    {"command": {"hosts": ["router1"], "drain": ["/pool", "out"], "undrain": ["/pool", "in"], "check": None}},
]


def test_places_are_one_for_each_balancer_and_come_back_from_their_record() -> None:
    found = places(DECLARED)
    assert [one.words for one in found] == ["web/web1 on lb1", "web/web1 on lb2", "/pool on router1"]
    assert found[0].options["socket"] == "/run/haproxy/admin.sock"
    assert [Place.read(json.loads(json.dumps(one.record()))) for one in found] == found
    assert places(None) == []
    assert [one.host for one in places(DECLARED[:1], lambda names: [f"{name}.net" for name in names])] == [
        "lb1.net",
        "lb2.net",
    ]


def test_only_declared_places_count_out_of_a_record() -> None:
    """The drained host writes the record: it must not choose commands for another host."""
    declared = places(DECLARED)
    forged = replace(declared[2], options={**declared[2].options, "undrain": ["/bin/sh", "-c", "id"]})
    assert known([forged, declared[0]], declared) == ([declared[0]], [forged])


def test_the_list_of_places_is_documented_as_it_is_taken() -> None:
    def facts(options: Any, inner: str) -> dict[str, Any]:
        keys = {"type": "str", "elements": None, "required": False, "default": None}
        return {
            name: ({key: one.get(key, usual) for key, usual in keys.items()}, facts(one.get(inner) or {}, inner))
            for name, one in options.items()
        }

    told = yaml.safe_load(_drain.ModuleDocFragment.PLACES)["options"]
    assert facts(told, "suboptions") == facts({"drain": OPTION}, "options")


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ({}, "must be a list"),
        ([{}], "item 1: it must have one key"),
        ([{"nginx": {}}], "unknown kind 'nginx'"),
        ([{"haproxy": {"hosts": ["lb1"], "backend": "web"}}], "item 1: haproxy: server is missing"),
        ([{"haproxy": {"hosts": [], "backend": "web", "server": "a"}}], "hosts is missing"),
        ([{"haproxy": {"hosts": ["lb1"], "backend": "web;", "server": "a"}}], "item 1: haproxy: backend"),
        ([{"haproxy": {"hosts": ["l b"], "backend": "web", "server": "a"}}], "no name of a host"),
        ([DECLARED[0], DECLARED[0]], "web/web1 on lb1 is declared twice"),
        ([{"command": {"hosts": ["a"], "drain": [""], "undrain": ["b"]}}], "drain names no program"),
    ],
)
def test_a_wrong_place_is_refused_by_its_item(declared: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        places(declared)


@pytest.mark.parametrize(
    "change",
    [
        {"host": 5},
        {"host": "a b"},
        {"host": ""},
        {"kind": "shell"},
        {"kind": ["haproxy"]},
        {"options": None},
        {"options": {}},
        {"options": {"backend": "web", "server": "web1;", "socket": "/s"}},
        {"options": {"backend": "web", "server": ["web1"], "socket": "/s"}},
        {"options": {"backend": "web", "server": "web1", "socket": "/s", "more": 1}},
        {"more": 1},
    ],
)
def test_a_malformed_record_is_damaged(change: dict[str, Any]) -> None:
    with pytest.raises(Damaged, match="record of a drain"):
        Place.read({**places(DECLARED)[0].record(), **change})
    with pytest.raises(Damaged):
        Place.read(["lb1"])
