# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tasks set on one host is carried to the waves after, unless it would keep all else from being written."""

from __future__ import annotations

import json
import runpy
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible import template
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook import Playbook
from ansible.template import Templar, trust_as_template
from ansible.vars.manager import VariableManager
from ansible_collections.evenkeel.fault_tolerance.plugins.callback import witness


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


def test_an_ansible_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(template, "is_trusted_as_template")
    with pytest.raises(AnsibleError, match=r"needs ansible-core 2\.19 or newer, and this is \d"):
        runpy.run_path(witness.__file__)


def test_a_variable_that_is_nested_too_deep_is_left_out_and_the_others_are_written() -> None:
    for depth in [*range(850, 1010), 100_000]:
        for templates in (False, True):
            found = witness._plain({"deep": nested(depth), "good": [1]}, templates)
            assert found["good"] == [1]
            json.loads(json.dumps(witness._written({"web1": {"vars": found, "groups": []}})))


def test_a_variable_that_is_too_long_or_no_plain_value_is_left_out() -> None:
    known = {"odd": object(), "long": "x" * 20_000_000, "good": {"a": [1, None]}}
    assert witness._plain(known) == {"good": {"a": [1, None]}}


def test_the_keys_of_a_mapping_keep_their_types(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ports = {80: "http", "of": [{True: {None: 1}, "1": 2}], witness.PAIRS: 3}
    first = Manager()
    first.set_nonpersistent_facts("web1", {"ports": ports, "odd": {(1, 2): 3}})
    first.set_host_variable("web1", "included", {443: trust_as_template("{{ ports[80] }}s")})
    second = after(after(first, monkeypatch, tmp_path), monkeypatch, tmp_path)
    assert second.value("web1", "ports") == ports and second.value("web1", "included") == {443: "https"}
    assert "odd" not in second.get_vars(host=second._inventory.get_host("web1")), "JSON has no such keys"


class Manager(VariableManager):
    """Of a run on two hosts."""

    def __init__(self, source: str = "web1,web2,") -> None:
        loader = DataLoader()
        super().__init__(loader, InventoryManager(loader, [source]))
        self.set_inventory(self._inventory)
        self.loader = loader

    def value(self, host: str, name: str) -> Any:
        variables = self.get_vars(host=self._inventory.get_host(host))
        return Templar(self.loader, variables).template(variables[name])


def after(first: Manager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str = "web1,web2,") -> Manager:
    """The next wave, which is a run of its own."""
    monkeypatch.setattr(witness.CallbackModule, "get_option", lambda *_: str(tmp_path))
    one, other, second = witness.CallbackModule(), witness.CallbackModule(), Manager(source)
    one._manager, other._manager = first, second
    one.v2_playbook_on_stats(None)
    other._restore(second._inventory)
    return second


def test_a_template_of_included_variables_stays_one_and_yields_to_what_is_included_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = Manager()
    text = trust_as_template
    first.set_nonpersistent_facts("web1", {"colour": "blue", "word": "{{ 1 + 1 }}"})
    first.set_host_variable("web1", "page", [{"of": text("{{ colour }}")}])
    first.set_host_variable("web1", "colour", text("red"))
    first.set_host_variable("web1", "foreign", "{{ colour }}")
    first.set_host_variable("web1", "strange", ["#jinja2:variable_start_string:'<<'\n<< colour }}"])
    second = after(after(first, monkeypatch, tmp_path), monkeypatch, tmp_path)
    assert second.value("web1", "page") == [{"of": "blue"}], "a template still, and below what tasks set"
    assert second.value("web1", "word") == "{{ 1 + 1 }}", "a text that tasks set is no template"
    assert {"foreign", "strange"}.isdisjoint(second.get_vars(host=second._inventory.get_host("web1")))
    second.set_host_variable("web1", "page", text("{{ colour }} anew"))
    assert second.value("web1", "page") == "blue anew"


def test_a_host_that_add_host_added_is_there_in_later_waves_with_its_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = Manager()
    for given in ({"token": "abc", "odd": object()}, {"at": 6443}):
        witness._add_host(first._inventory, "holder", ["fresh"], given)
    witness._add_host(first._inventory, "web2", ["old"], {"role": "old"})
    second = after(after(first, monkeypatch, tmp_path), monkeypatch, tmp_path)
    assert (second.value("holder", "token"), second.value("holder", "at")) == ("abc", 6443)
    assert second.value("web2", "role") == "old"
    assert {
        name: group.hosts[0].name for name, group in second._inventory.groups.items() if name in ("fresh", "old")
    } == {
        "fresh": "holder",
        "old": "web2",
    }


def test_groups_have_in_later_waves_the_order_of_the_inventory_and_the_groups_of_earlier_waves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "inventory.yml"
    children: dict[str, object] = {"web": {"hosts": {"web2": {}, "web1": {}}}, "lb": {"hosts": {"lb1": {}}}}
    source.write_text(json.dumps({"all": {"children": {"lb": {}, "cluster": {"children": children}}}}))
    first = Manager(str(source))
    before = {name: list(hosts) for name, hosts in first._inventory.get_groups_dict().items()}
    witness._keep_group(first._inventory, first._inventory.get_host("web1"), "blue")
    witness._add_host(first._inventory, "web3", ["web"], {})
    first._inventory.refresh_inventory()
    wanted = {name: list(hosts) for name, hosts in first._inventory.get_groups_dict().items()}
    assert wanted == {
        **before, "blue": ["web1"], "web": ["web2", "web1", "web3"],
        "cluster": wanted["cluster"], "all": wanted["all"],
    }  # fmt: skip
    for _wave in (2, 3):
        first = after(first, monkeypatch, tmp_path, str(source))
        for _ in range(2):
            assert first._inventory.get_groups_dict() == wanted
            first._inventory.refresh_inventory()


def test_a_host_that_an_earlier_wave_added_is_not_left_out_again_by_a_play_before_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With serial, the plays before add_host never come to it, and the wave that added it has told of those after."""
    first = Manager()
    witness._add_host(first._inventory, "holder", ["fresh"], {})
    monkeypatch.setattr(witness.CallbackModule, "get_option", lambda *_: str(tmp_path))
    one, other, second = witness.CallbackModule(), witness.CallbackModule(), Manager()
    one._manager = first
    one.v2_playbook_on_stats(None)
    second._inventory.subset("web1")
    for play in load(second, tmp_path, "- hosts: all\n").get_plays():
        other.v2_playbook_on_play_start(play)
    assert list(other._left_out) == ["web2"]


def test_plays_on_the_controller_see_in_each_wave_what_they_would_see_if_they_ran_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(witness.CallbackModule, "get_option", lambda *_: str(tmp_path))
    for wave in (1, 2, 3):
        manager, one = Manager(), witness.CallbackModule()

        def seen(name: str, manager: Manager = manager) -> Any:
            return manager.get_vars(host=manager._inventory.get_host("localhost")).get(name)

        def put(values: dict[str, Any], manager: Manager = manager) -> None:
            manager.set_nonpersistent_facts("localhost", values)

        first, fleet, last = load(manager, tmp_path, 3 * "- hosts: localhost\n").get_plays()
        fleet.hosts = ["web1"]
        one.v2_playbook_on_play_start(first)
        put({"found": [*(seen("found") or []), "a"], "token": seen("token") or f"t{wave}", "count": seen("count") or 0})
        (tmp_path / f"made{wave - 1}").unlink(missing_ok=True)
        (tmp_path / f"made{wave}").touch()
        put({"directory": {"changed": True, "path": f"/tmp/{wave}"}, "copy": wave, "made": f"{tmp_path}/made{wave}"})
        one.v2_playbook_on_play_start(fleet)
        assert (seen("found"), seen("token"), seen("copy")) == (["a"], "t1", 1), "as in the first wave"
        assert seen("directory")["path"] == f"/tmp/{wave}", "the result of a task of this wave"
        assert seen("made") == f"{tmp_path}/made{wave}", "the path of the first wave is there no more"
        put({"count": seen("count") + 1, "lent": [*(seen("lent") or []), wave]})  # delegated, with delegate_facts
        one.v2_playbook_on_play_start(last)
        assert (seen("found"), seen("lent")) == (["a"], list(range(1, wave + 1)))
        put({"summary": [*(seen("summary") or []), "b"]})
        assert (seen("summary"), seen("count")) == (["b"], wave)
        one.v2_playbook_on_stats(None)


def load(manager: Manager, directory: Path, text: str) -> Playbook:
    (directory / ".evenkeel-around.yml").write_text(text)
    found = Playbook.load(str(directory / ".evenkeel-around.yml"), variable_manager=manager, loader=manager.loader)
    for play in found.get_plays():
        play.post_validate(Templar(manager.loader, manager.get_vars(play=play)))
    return found


PLAYS = """
- hosts: "{{ ansible_limit | default('web2') }}"
- hosts: web1,web2
"""


@pytest.mark.parametrize(("limit", "missed"), [("", ["web1"]), ("web1,web2", [])])
def test_the_limit_is_the_users_and_hosts_for_which_no_play_came_are_noted(
    limit: str, missed: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = {"directory": str(tmp_path), "limit": limit, "playbook_dir": "/project"}
    monkeypatch.setattr(witness.CallbackModule, "get_option", lambda _self, name: known[name])
    (tmp_path / ".evenkeel-around.yml").write_text(PLAYS)
    manager, one = Manager(), witness.CallbackModule()
    monkeypatch.setattr(manager, "_options_vars", {"ansible_limit": "@/scratch/1-limit"})
    playbook = Playbook.load(str(tmp_path / ".evenkeel-around.yml"), variable_manager=manager, loader=manager.loader)
    playbook.get_plays()[0]._included_path = "/imported"  # a play of the user's; the other is the driver's
    one.v2_playbook_on_start(playbook)
    for play in playbook.get_plays():
        play.post_validate(Templar(manager.loader, manager.get_vars(play=play)))
        manager._inventory.restrict_to_hosts(
            [manager._inventory.get_host("web2")]
        )  # a batch of serial, after which end_play may end the play
        one.v2_playbook_on_play_start(play)
    one.v2_playbook_on_stats(None)
    assert [play._included_path for play in playbook.get_plays()] == ["/imported", "/project"]
    assert json.loads((tmp_path / "seen.json").read_text())["missed"] == missed


def test_a_playbook_that_a_task_of_the_users_starts_is_as_without_us(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It inherits our variables of the environment."""
    known = {"directory": str(tmp_path), "limit": "web", "playbook_dir": "/outer"}
    monkeypatch.setattr(witness.CallbackModule, "get_option", lambda _self, name: known[name])
    (tmp_path / "inner.yml").write_text("- hosts: web1\n")
    manager, one = Manager(), witness.CallbackModule()
    playbook = Playbook.load(str(tmp_path / "inner.yml"), variable_manager=manager, loader=manager.loader)
    (play,) = playbook.get_plays()
    one.v2_playbook_on_start(playbook)
    one.v2_playbook_on_play_start(play)
    one.v2_playbook_on_stats(None)
    assert play._included_path is None and "ansible_limit" not in manager.get_vars()
    assert one.disabled and not (tmp_path / "seen.json").exists()


def test_an_option_that_is_empty_stays_so() -> None:
    options = yaml.safe_load(witness.DOCUMENTATION)["options"]
    assert {option["type"] for option in options.values()} == {"str"}, "an empty path is the current directory"


def test_a_playbook_of_ours_has_the_directory_of_the_users_and_its_own_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = {"directory": None, "limit": None, "playbook_dir": "/project"}
    monkeypatch.setattr(witness.CallbackModule, "get_option", lambda _self, name: known[name])
    (tmp_path / ".evenkeel-ours.yml").write_text("- hosts: web1\n")
    manager = Manager()
    monkeypatch.setattr(manager, "_options_vars", {"ansible_limit": "@/scratch/1-limit"})
    playbook = Playbook.load(str(tmp_path / ".evenkeel-ours.yml"), variable_manager=manager, loader=manager.loader)
    witness.CallbackModule().v2_playbook_on_start(playbook)
    assert [play._included_path for play in playbook.get_plays()] == ["/project"]
    assert manager.get_vars()["ansible_limit"] == "@/scratch/1-limit", "it means the hosts that we name"


def test_python_keeps_the_modules_behind_our_plugins_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(witness.CallbackModule, "get_option", lambda *_: "")
    for name in (".evenkeel-around.yml", ".evenkeel-begin.yml", "site.yml"):
        book = SimpleNamespace(_file_name=f"/home/me/{name}", get_plays=list)
        witness.CallbackModule().v2_playbook_on_start(book)
    assert sys.meta_path[0] is witness.Compiled and sys.meta_path.count(witness.Compiled) == 1
    plugins = Path(witness.__file__).parent.parent
    for room, module, file in (
        ("module_utils", "_host", "_host/__init__.py"),
        ("module_utils._host", "durable", "durable.py"),
        ("plugin_utils", "_guard", "_guard.py"),
        ("modules", "ft_guard", "ft_guard.py"),
    ):
        path = plugins.joinpath(*room.split("."))
        name = f"ansible_collections.evenkeel.fault_tolerance.plugins.{room}.{module}"
        found = witness.Compiled.find_spec(name, [str(path)])
        assert found is not None and isinstance(found.loader, SourceFileLoader), name
        assert found.origin == str(path / file) and found.cached, name
    ours = "ansible_collections.evenkeel.fault_tolerance.plugins"
    for other in (
        f"{ours}.modules",
        f"{ours}.modules.nothing",
        "ansible_collections.other.one.plugins.modules.ft_guard",
    ):
        assert witness.Compiled.find_spec(other, [str(plugins / "modules")]) is None, other
