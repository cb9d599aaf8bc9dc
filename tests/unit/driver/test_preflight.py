# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked before any host is armed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from evenkeel.ansible.caller import Caller
from evenkeel.ansible.options import Options
from evenkeel.ansible.runner import Ended
from evenkeel.ansible.session import OnEvent, OwnRun, Session, Stop
from evenkeel.ansible.targets import Inventory, Targets, usable
from evenkeel.changes import flow, preflight
from evenkeel.changes.request import Request
from evenkeel.outcome import UsageError
from evenkeel.shared import OF_A_CHANGE

PROBES = [{"tcp": {"port": 80}}]
PROTECTED = {"evenkeel_resources": [{"files": {"paths": ["/etc"]}}]}


def fleet(**variables: Mapping[str, Any]) -> Targets:
    names = tuple(variables)
    protected = {name: {"evenkeel_resources": [{"files": {}}], **one} for name, one in variables.items()}
    return Targets(names, names, (), Inventory(names, {}, protected))


@pytest.mark.parametrize(
    ("words", "variables", "reason"),
    [
        (
            ["--extra-vars=evenkeel_confim_within=5m"],
            {},
            "confim_within (did you mean evenkeel_confirm_within?)",
        ),
        ([], {"evenkeel_min_helthy": 1}, "evenkeel_min_helthy (did you mean evenkeel_min_healthy?)"),
        ([], {"evenkeel_probes": [{"tcp": {"prot": 80}}]}, "web2: evenkeel_probes[0].tcp.prot is no option"),
        ([], {"evenkeel_resources": [{"flies": {}}]}, "evenkeel_resources[0].flies is no option (did you mean files?)"),
        ([], {"evenkeel_retention": {"lats": 3}}, "web2: evenkeel_retention.lats is no option (did you mean last?)"),
        ([], {"evenkeel_quiesce": [{"comand": {}}]}, "web2: evenkeel_quiesce[0].comand is no option"),
        ([], {"evenkeel_outside": {"exclud": []}}, "web2: evenkeel_outside.exclud is no option"),
        ([], {"evenkeel_reboot": "planed"}, "web2: value of evenkeel_reboot must be one of: never, planned"),
        ([], {"evenkeel_reboots": "twice"}, "web2: argument 'evenkeel_reboots'"),
        ([], {"evenkeel_deadline": "2 minuts"}, "web2: evenkeel_deadline: '2 minuts' is not a duration"),
    ],
)
def test_what_is_written_wrong_is_refused_by_its_place(
    words: list[str], variables: dict[str, Any], reason: str
) -> None:
    good = {**PROTECTED, "evenkeel_to": "an old name", "evenkeel_mine": 1}
    preflight.well_written(Request("site.yml", Options()), fleet(web1=good, web2=good))
    with pytest.raises(UsageError) as error:
        preflight.well_written(
            Request("site.yml", Options(common=tuple(words))), fleet(web1=good, web2={**good, **variables})
        )
    assert reason in str(error.value)


def test_a_limit_of_the_command_line_is_refused_before_a_host_is_asked() -> None:
    with pytest.raises(UsageError, match="^evenkeel_confirm_within: '5x' is not a duration"):
        preflight.well_written(Request("site.yml", Options(), confirm_within="5x"), fleet(web1={}))


def test_every_variable_of_the_role_begin_that_sets_an_option_of_the_checkpoint_is_checked() -> None:
    tasks = (Path(__file__).parents[3] / "roles/begin/tasks/main.yml").read_text()
    (task,) = re.findall(r"ft_checkpoint:\n(.*?)register:", tasks, re.DOTALL)
    named = set(re.findall(r"^ +(\w+): .*\bevenkeel_\1\b", task, re.MULTILINE))
    # The driver makes the last one itself, and hands the store over to each host.
    assert named == set(OF_A_CHANGE) | {"change", "store"}


@pytest.mark.parametrize(
    ("said", "sizes"),
    [([1, "25%", "100%"], "1,25%,100%"), ("1,100%", "1,100%"), (2, "2"), (None, "1,25%,100%")],
)
def test_the_sizes_of_waves_are_a_list_or_one_text(said: Any, sizes: str) -> None:
    targets = fleet(web1={} if said is None else {"evenkeel_waves": said})
    assert preflight.agreed(None, "evenkeel_waves", "1,25%,100%", targets) == sizes


VAULTED = {"__ansible_vault": "$ANSIBLE_VAULT;1.1;AES256\n33"}


@pytest.mark.parametrize("said", [VAULTED, {"__ansible_unsafe": "x"}, [{"http": {"password": VAULTED}}], "{{ url }}"])
def test_a_value_that_only_ansible_can_read_is_asked_of_it(said: Any) -> None:
    asked: list[object] = []

    class Answers:
        def run_own(self, run: OwnRun, on_event: OnEvent, stop: Stop) -> Ended:
            asked.append(run.variables["evenkeel_asked"])
            told = {"host": "web1", "res": {"msg": {"evenkeel_notify": "http://x"}}}
            on_event({"event": "runner_on_ok", "event_data": told})
            return Ended(0)

    found = preflight.resolved(cast(Session, Answers()), fleet(web1={"evenkeel_notify": said}), stop=lambda: "")
    assert asked == [{"web1": ["evenkeel_notify"]}] and preflight.notify_url(None, found) == "http://x"


def test_a_value_that_ansible_omits_is_as_one_that_is_not_set() -> None:
    class Answers:
        def run_own(self, run: OwnRun, on_event: OnEvent, stop: Stop) -> Ended:
            on_event({"event": "runner_on_ok", "event_data": {"host": "web1", "res": {"msg": {}}}})
            return Ended(0)

    written = {"evenkeel_soak": "{{ app_soak | default(omit) }}", "evenkeel_deadline": "2m", **PROTECTED}
    found = preflight.resolved(cast(Session, Answers()), fleet(web1=written), stop=lambda: "")
    preflight.well_written(Request("site.yml", Options()), found)
    assert "evenkeel_soak" not in found.inventory.variables["web1"]
    assert found.inventory.variables["web1"]["evenkeel_deadline"] == "2m"


PCT = {"ansible_host": "10.0.0.1", "ansible_connection": "community.general.proxmox_pct_remote"}


def twins(targets: Targets) -> bool:
    try:
        preflight.check(PROBES, None, targets)
    except UsageError as error:
        assert "one host" in str(error)
        return True
    return False


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {}, False),
        ({"ansible_host": "10.0.0.1"}, {"ansible_host": "10.0.0.1"}, True),
        ({"ansible_host": "10.0.0.1"}, {"ansible_host": "10.0.0.1", "ansible_port": 22}, True),
        ({"ansible_host": "10.0.0.1"}, {"ansible_host": "10.0.0.1", "ansible_port": 2222}, False),
        ({"ansible_host": "web2"}, {}, True),
        ({"ansible_ssh_host": "10.0.0.1"}, {"ansible_host": "10.0.0.1"}, True),
        ({"ansible_connection": "local"}, {"ansible_connection": "local"}, True),
        ({"ansible_connection": "local"}, {"ansible_connection": "local", "evenkeel_store": "/s"}, False),
        ({"ansible_host": "Web.example.com."}, {"ansible_host": "web.example.com"}, True),
        ({"ansible_host": "10.0.0.1", "ansible_connection": "ansible.builtin.ssh"}, {"ansible_host": "10.0.0.1"}, True),
        ({"ansible_host": "10.0.0.1", "evenkeel_store": "/var/lib/evenkeel/"}, {"ansible_host": "10.0.0.1"}, True),
        # The same private address behind two gateways.
        (
            {"ansible_host": "10.0.0.1", "ansible_ssh_common_args": "-J a"},
            {"ansible_host": "10.0.0.1", "ansible_ssh_common_args": "-J b"},
            False,
        ),
        (
            {"ansible_host": "10.0.0.1", "ansible_ssh_args": "-J a"},
            {"ansible_host": "10.0.0.1", "ansible_ssh_args": "-J b"},
            False,
        ),
        (
            {"ansible_host": "bastion", "ansible_user": "vault@root@web1"},
            {"ansible_host": "bastion", "ansible_user": "vault@root@web2"},
            False,
        ),
        (
            {"ansible_host": "bastion", "ansible_user": "vault@root@{{ inventory_hostname }}"},
            {"ansible_host": "bastion", "ansible_user": "vault@root@{{ inventory_hostname }}"},
            False,
        ),
        (
            {"ansible_host": "10.0.0.1", "ansible_user": "root"},
            {"ansible_host": "10.0.0.1", "ansible_user": "ops"},
            True,
        ),
        (
            {"ansible_host": "10.0.0.1", "ansible_user": "ops@corp.example.com"},
            {"ansible_host": "10.0.0.1", "ansible_user": "alice@corp.example.com"},
            True,
        ),
        ({"ansible_host": "b", "ansible_user": "root@web1"}, {"ansible_host": "b", "ansible_user": "root@web2"}, False),
        ({**PCT, "proxmox_vmid": 101}, {**PCT, "proxmox_vmid": 102}, False),
        ({**PCT, "ansible_user": "root"}, {**PCT, "ansible_user": "{{ app }}", "ansible_timeout": 5}, True),
        (
            {**PCT, "proxmox_vmid": 101, "ansible_become_password": "a", "role": "web"},
            {**PCT, "proxmox_vmid": 101, "ansible_become_password": "{{ b }}", "role": "db"},
            True,
        ),
    ],
)
def test_two_names_of_one_host_are_refused(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    assert twins(fleet(web1=one, web2=other)) is same


def test_a_rescued_failure_counts_where_it_is_said_to_and_where_there_are_no_probes() -> None:
    targets = fleet(web1={"evenkeel_probes": PROBES}, web2={}, web3={"evenkeel_rescued": "fail"})
    assert preflight.strict(None, targets) == ["web2", "web3"]
    assert preflight.strict(PROBES, targets) == ["web3"]
    warns = [{"tcp": {"port": 80, "severity": "warn"}}]
    assert preflight.probed(warns, targets) == [] and preflight.probed([*warns, *PROBES], targets) == [*targets.hosts]
    assert preflight.strict(None, fleet(web1={"evenkeel_probes": warns})) == ["web1"]
    with pytest.raises(UsageError, match="web1: evenkeel_rescued is 'ignore'"):
        preflight.strict(PROBES, fleet(web1={"evenkeel_rescued": "ignore"}))


@pytest.mark.parametrize("name", ["web1", "web_1.example.org", "10.0.0.1", "fe80::1", "root@web1"])
def test_names_that_can_be_used(name: str) -> None:
    assert usable(name)


@pytest.mark.parametrize(
    "name",
    ["web 1", "w\u00e9b1", "web,1", "web:1", "web[1]", "!web", "&web", "~web", "@web", "web*", "-web", "a/b", ""],
)
def test_names_that_ansible_would_take_for_something_else(name: str) -> None:
    assert not usable(name)


@pytest.mark.parametrize(
    ("one", "words", "local"),
    [
        ({}, (), False),
        ({"ansible_connection": "ansible.builtin.local"}, (), True),
        ({}, ("--connection=local",), True),
        ({"ansible_connection": "ssh"}, ("--connection=local",), False),
    ],
)
def test_nobody_logs_in_where_the_connection_is_local(one: dict[str, Any], words: tuple[str, ...], local: bool) -> None:
    assert preflight.local("web1", words, fleet(web1=one)) is local


def test_a_host_without_a_declaration_is_protected_and_named() -> None:
    targets = fleet(web1={}, web2={})
    bare: dict[str, Any] = {"web1": {"evenkeel_resources": []}, "web2": {}}
    plain = dict(targets.inventory.variables, web2={})
    (note,) = preflight.check(PROBES, None, replace(targets, inventory=replace(targets.inventory, variables=plain)))
    assert "what to protect on web2 (evenkeel_resources)" in note and "(system: {})" in note
    assert preflight.check(PROBES, [{"files": {}}], targets) == preflight.check(PROBES, None, targets) == []
    with pytest.raises(UsageError, match="nothing to protect on web1: evenkeel_resources is empty"):
        preflight.check(PROBES, None, replace(targets, inventory=replace(targets.inventory, variables=bare)))


WEB = ("web1", "web2", "web3", "db1")


def prepared(*hosts: str, request: Mapping[str, Any] | None = None, **variables: Mapping[str, Any]) -> flow.Change:
    """A change of ``hosts`` that is ready to run, over a fleet of four; variables: of hosts."""
    own = {name: {"evenkeel_resources": [{"files": {"paths": ["/srv"]}}], **variables.get(name, {})} for name in WEB}
    groups = {"web": frozenset(WEB[:3]), "all": frozenset(WEB)}
    targets = Targets(hosts, ("web1", "web2"), (), Inventory(WEB, groups, own))
    session: Any = None  # nothing is a template, so that nothing is asked
    return flow._prepare(session, Request("site.yml", Options(), **(request or {})), targets, Caller())


@pytest.mark.parametrize("said", ["web", ["web"], "web1, web2,web3", ["web3", "web", "web1"]])
def test_the_group_of_the_inventory_counts_and_not_the_hosts_of_the_plays(said: Any) -> None:
    whole = prepared("web2", web2={"evenkeel_group": said})
    assert whole.context.targets.group == ("web1", "web2", "web3")
    variables = whole.context.measuring(["web2"])
    assert variables["evenkeel_group"] == variables["evenkeel_unchanged"] == ["web1", "web2", "web3"]


def test_different_groups_count_as_one_and_without_any_the_hosts_of_the_plays_do() -> None:
    assert prepared("web1", "web2").context.targets.group == ("web1", "web2")
    both = prepared("web1", "db1", web1={"evenkeel_group": ["web1", "web3"]}, db1={"evenkeel_group": "db1"})
    assert both.context.targets.group == ("web1", "web3", "db1")
    some = prepared("web1", "db1", db1={"evenkeel_group": "db1"})
    assert some.context.targets.group == ("web1", "web2", "db1")
    others = prepared("web1", web1={"evenkeel_group": "db1"})
    assert others.context.targets.group == prepared("web1").context.targets.group, "once the name of copy holders"
    with pytest.raises(UsageError, match="web1: evenkeel_group names 'wbe', which is no host or group"):
        prepared("web1", web1={"evenkeel_group": "wbe"})


@pytest.mark.parametrize(("address", "counts"), [("10.0.0.2", False), ("10.0.0.3", True), ("{{ ip }}", True)])
def test_a_second_name_of_a_host_is_no_further_healthy_host(address: str, counts: bool) -> None:
    first = {"evenkeel_group": "web", "ansible_host": "10.0.0.2"}
    whole = prepared("web2", web2=first, web1={"ansible_host": address}, web3={"ansible_host": "{{ ip }}"})
    assert whole.context.targets.group == (("web1",) if counts else ()) + ("web2", "web3")


def test_waves_are_split_by_the_failure_domain_of_the_inventory_as_by_the_one_of_the_command_line() -> None:
    racks = {"web1": {"rack": "a"}, "web2": {"rack": "b"}, "web3": {"rack": "a"}}
    asked = {"waves": "100%"}
    assert prepared(*WEB[:3], request=asked, **racks).plan == [WEB[:3]]
    declared = {name: {**own, "evenkeel_guard_domain": "rack"} for name, own in racks.items()}
    whole = prepared(*WEB[:3], request=asked, **declared)
    assert whole.plan == [("web1", "web3"), ("web2",)]
    assert whole.context.variables["evenkeel_guard_domain"] == "rack", "of each host, also where one does not set it"
    assert prepared(*WEB[:3], request={**asked, "guard_domain": "rack"}, **racks).plan == whole.plan
    declared["web2"]["evenkeel_guard_domain"] = "zone"
    with pytest.raises(UsageError, match="evenkeel_guard_domain differs between hosts"):
        prepared(*WEB[:3], request=asked, **declared)


@pytest.mark.parametrize("name", ["confirm_within", "guard_domain", "waves", "notify"])
def test_no_value_of_the_inventory_goes_on_as_a_template(name: str) -> None:
    targets = fleet(web1={f"evenkeel_{name}": "{{ lookup('pipe', 'id') }}"})
    with pytest.raises(UsageError, match=f"evenkeel_{name}.* is a template"):
        preflight.notify_url(None, targets) if name == "notify" else preflight.agreed(
            None, f"evenkeel_{name}", "", targets
        )
