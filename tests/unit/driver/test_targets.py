# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts a playbook is about."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evenkeel.ansible.configuration import Ansible, ask_ansible
from evenkeel.ansible.options import Options, Secrets
from evenkeel.ansible.targets import (
    Inventory,
    chosen_hosts,
    directory_of,
    find_targets,
    in_order,
    limit_names,
    list_hosts,
    parse_inventory,
    parse_plays,
    resolve,
    undeclared,
    unprotected,
)
from evenkeel.commands.arguments import specs
from evenkeel.outcome import UsageError

LISTED = """
playbook: site.yml

  play #1 (web:&blue): Web servers\tTAGS: [x]
    pattern: ['web:&blue']
    hosts (2):
      web1
      web3

  play #2 (localhost): Once\tTAGS: []
    pattern: ['localhost']
    hosts (1):
      localhost

  play #3 (none): Nobody\tTAGS: []
    pattern: ['none']
    hosts (0):
"""
DOCUMENT = {
    "_meta": {"hostvars": {"web3": {"evenkeel_resources": [{"files": {}}]}, "web1": {"evenkeel_resources": []}}},
    "all": {"children": ["ungrouped", "site", "db"]},
    "site": {"children": ["web"]},
    "web": {"hosts": ["web3", "web1"]},
    "db": {"hosts": ["db1", "web1"]},
}
INVENTORY = parse_inventory(DOCUMENT)


def test_the_listing_of_ansible_is_read() -> None:
    assert parse_plays(LISTED) == [
        ("web:&blue", frozenset({"web1", "web3"})),
        ("localhost", frozenset({"localhost"})),
        ("none", frozenset()),
    ]


FOLDED = """
playbook: site.yml

  play #1 (web
): Two
  lines
    hosts (1):
      evil
\tTAGS: []
    pattern: ['web']
    hosts (2):
      web1
      play #2 (x): y

  play #2 (db): Other\tTAGS: []
    pattern: ['db']
    hosts (1):
      db1
"""


def test_a_pattern_or_a_name_of_several_lines_neither_hides_a_play_nor_adds_a_host() -> None:
    assert parse_plays(FOLDED) == [("web", frozenset({"web1", "play #2 (x): y"})), ("db", frozenset({"db1"}))]


def test_ansible_lists_the_hosts_of_a_play_whose_pattern_is_folded(tmp_path: Path) -> None:
    play = tmp_path / "site.yml"
    play.write_text(
        "- hosts: >\n    web1,\n    web2\n  name: |\n    Two\n    lines\n  tasks: []\n- hosts: db\n  tasks: []\n"
    )
    ansible = ask_ansible(str(tmp_path))
    plays, _ = list_hosts(str(play), "", Options(inventory=("web1,web2,db,",)), ansible, Secrets())
    assert [hosts for _, hosts in plays] == [frozenset({"web1", "web2"}), frozenset({"db"})]


def test_an_inventory_that_ansible_cannot_read_is_named_and_refused_for_a_change(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("web1\n")
    (tmp_path / "site.yml").write_text("- hosts: all\n  tasks: []\n")
    (tmp_path / "none").mkdir()

    def asked(*inventories: str) -> tuple[Options, Ansible]:
        return Options(inventory=inventories), ask_ansible(str(tmp_path))

    options, ansible = asked("good", "none", "web2,")
    assert find_targets("site.yml", options, ansible, Secrets()).hosts == ("web1", "web2")
    assert ansible.unread == {}, "a directory without a file, and a list of hosts, are read"

    options, ansible = asked("good", "gone.yml")
    with pytest.raises(UsageError, match=r"could not read the inventory /.*/gone.yml.*Hosts or their variables"):
        find_targets("site.yml", options, ansible, Secrets())

    options, ansible = asked("good", "gone.yml")
    assert chosen_hosts("site.yml", "", options, ansible, Secrets()) == ("web1",)
    assert [os.path.basename(path) for path in ansible.unread] == ["gone.yml"]
    with pytest.raises(UsageError, match=r"web3 is no host.*could not read the inventory"):
        chosen_hosts("site.yml", "web1,web3", options, ansible, Secrets())

    (tmp_path / "none" / "Makefile").write_text("all: $(wildcard *.yml)\n\t@echo [\n")
    found = find_targets("site.yml", *asked("good", "none"), Secrets())
    assert found.hosts == ("web1",) and any("Makefile" in note for note in found.notes), "it is no inventory"
    (tmp_path / "none" / "aws_ec2.yml").write_text("plugin: none.at.all\n")
    with pytest.raises(UsageError, match=r"aws_ec2.yml.*Hosts or their variables"):
        find_targets("site.yml", *asked("good", "none"), Secrets())


def test_settings_that_ansible_ignores_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANSIBLE_CONFIG", raising=False)
    (tmp_path / "ansible.cfg").write_text("[defaults]\nforks=7\n")
    assert ask_ansible(str(tmp_path)).notes == []
    tmp_path.chmod(0o1777)
    ignored = ask_ansible(str(tmp_path)).ignored
    assert len(ignored) == 1 and f"Ansible ignores {tmp_path}/ansible.cfg" in ignored[0]
    (tmp_path / "other").mkdir()
    for name, said in (("gone.cfg", 1), ("other", 1), ("ansible.cfg", 0), (".", 0)):
        monkeypatch.setenv("ANSIBLE_CONFIG", name)
        ignored = ask_ansible(str(tmp_path)).ignored
        assert len(ignored) == said and all(f"ANSIBLE_CONFIG, as {tmp_path}/{name}" in one for one in ignored), name


def test_a_playbook_that_is_a_link_has_the_directory_of_the_link(tmp_path: Path) -> None:
    for name in ("common", "prod"):
        (tmp_path / name).mkdir()
    (tmp_path / "prod" / "site.yml").symlink_to("../common/site.yml")
    assert directory_of("common/../prod/site.yml", str(tmp_path)) == str(tmp_path / "prod"), "as Ansible has it"


def test_hosts_come_play_by_play_in_the_order_of_the_inventory() -> None:
    assert INVENTORY.order == ("web3", "web1", "db1")
    assert in_order([frozenset({"db1"}), frozenset({"web1", "web3", "localhost"})], INVENTORY.order) == (
        "db1",
        "web3",
        "web1",
    )


@pytest.mark.parametrize(
    ("limit", "why"),
    [("@none.retry", "names no host"), ("web1,@none.retry", "names no host"), ("@gone.retry", "No such file")],
)
def test_a_file_that_limits_to_nothing_is_an_error_and_not_all_hosts(limit: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "none.retry").write_text("\n \n")
    (tmp_path / "some.retry").write_text("web1\n")
    limit_names("@some.retry:web*:!web2", str(tmp_path))
    limit_names("", str(tmp_path))
    with pytest.raises(UsageError, match=why):
        limit_names(limit, str(tmp_path))


def test_groups_hold_the_hosts_of_their_children() -> None:
    assert INVENTORY.groups["site"] == {"web3", "web1"}


def test_the_controller_stays_in_the_plays_and_out_of_the_fleet() -> None:
    found = resolve("site.yml", parse_plays(LISTED), parse_plays(LISTED), INVENTORY)
    assert found.hosts == ("web3", "web1")
    assert found.local == ("localhost",)
    assert found.notes == ("play none matches no host",)


def test_the_group_for_the_guard_is_without_the_limit() -> None:
    limited = [("web", frozenset({"web1"}))]
    found = resolve("site.yml", [("web", frozenset({"web1", "web3"}))], limited, INVENTORY, "web1")
    assert (found.hosts, found.group) == (("web1",), ("web3", "web1"))


@pytest.mark.parametrize(
    ("plays", "limited", "word"),
    [
        ([("empty", frozenset())], [("empty", frozenset())], "matches no host"),
        ([("all", frozenset({"localhost"}))], [("all", frozenset({"localhost"}))], "controller alone"),
        ([("web", frozenset({"web1"}))], [("web", frozenset())], "--limit"),
        ([("web", frozenset({"web"}))], [("web", frozenset({"web"}))], "a host and of a group"),
    ],
)
def test_an_empty_or_ambiguous_target_is_an_error(
    plays: list[tuple[str, frozenset[str]]], limited: list[tuple[str, frozenset[str]]], word: str
) -> None:
    inventory = Inventory(("web1",), {"web": frozenset({"web1"})}, {})
    with pytest.raises(UsageError, match=word):
        resolve("site.yml", plays, limited, inventory, "typo")


def test_hosts_with_nothing_to_protect_are_found() -> None:
    assert unprotected(["web3", "web1", "db1"], INVENTORY) == ["web1"]
    assert undeclared(["web3", "web1", "db1"], INVENTORY) == ["db1"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "must hold a list"),
        ("files: {}", "must hold a list"),
        ("[]", "must hold a list"),
        ("- files", "item 1"),
        ("- {files: {}, services: {}}", "item 1"),
        ("- files: [", "not YAML"),
    ],
)
def test_a_file_that_is_not_a_list_of_specs_is_an_error_that_names_the_place(
    tmp_path: Path, text: str, word: str
) -> None:
    path = tmp_path / "specs.yml"
    path.write_text(text)
    with pytest.raises(UsageError, match=word):
        specs(str(path), "resources")


@pytest.mark.parametrize(("option", "kind"), [("resources", "files"), ("probes", "tcp"), ("drain", "haproxy")])
def test_the_example_is_one_for_the_option_of_the_file(tmp_path: Path, option: str, kind: str) -> None:
    """And what it says is right."""
    (tmp_path / "specs.yml").write_text("{}")
    with pytest.raises(UsageError, match=f"{option} file .*specs.yml must hold a list, as in '- {kind}: ") as error:
        specs(str(tmp_path / "specs.yml"), option)
    (tmp_path / "specs.yml").write_text(str(error.value).split("'")[1])
    assert [[*one] for one in specs(str(tmp_path / "specs.yml"), option) or []] == [[kind]]


def test_a_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UsageError, match="No such file"):
        specs("/nowhere/specs.yml", "probes")


@pytest.mark.parametrize("name", ["{{ lookup('pipe', 'id') }}", "a{% if 1 %}b", "{# c #}", "#jinja2: x"])
def test_no_name_of_the_inventory_is_run_as_a_template(name: str) -> None:
    listed = f"  play #1 (all): x\tTAGS: []\n    hosts (1):\n      {name}\n"
    for document in ({"all": {"hosts": ["web1", name]}}, {"all": {"children": [name]}, name: {"hosts": ["web1"]}}):
        with pytest.raises(UsageError, match="is a template"):
            parse_inventory(document)
    with pytest.raises(UsageError, match="is a template"):
        parse_plays(listed)
