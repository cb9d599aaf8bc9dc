# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The user's own Ansible counts, and what we write is private and does not outlive us."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import yaml

from evenkeel.ansible import configuration, scratch, session
from evenkeel.ansible.asking import program
from evenkeel.ansible.configuration import KEEP_ALIVE, NO_TERMINAL, Ansible, ask_ansible, document, listing
from evenkeel.ansible.event import Event, mapping
from evenkeel.ansible.events import AGAIN
from evenkeel.ansible.options import Options, Secrets
from evenkeel.ansible.runner import Ended, Job
from evenkeel.ansible.session import OnEvent, OwnRun, Session, Stop, UsersRun, open_session
from evenkeel.ansible.targets import Inventory, Targets, chosen_hosts, find_inventory
from evenkeel.changes.preflight import resolved
from evenkeel.collection import collections_path
from evenkeel.outcome import UsageError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    memory = tmp_path / "memory"
    memory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(memory))
    return memory


def test_a_session_does_not_begin_in_memory_without_room(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = str(tmp_path / "none")
    assert scratch._root(none) == root
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_blocks=1, f_bavail=1, f_frsize=4095))
    assert scratch._root(none) == Path(tempfile.gettempdir())


def test_the_users_configuration_is_kept_and_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "ansible.cfg").write_text(
        "[defaults]\ncollections_path = mine\nhost_key_checking = False\ncallback_plugins = calls\nask_pass = True\n"
        "[ssh_connection]\nssh_args = -o ControlMaster=no\n"
    )
    ansible = ask_ansible(str(tmp_path))
    env = ansible.environment()
    assert env["ANSIBLE_COLLECTIONS_PATH"].split(":")[:2] == [str(collections_path()), str(tmp_path / "mine")]
    assert env["ANSIBLE_SSH_ARGS"] == f"-o ControlMaster=no {KEEP_ALIVE}"
    assert env["ANSIBLE_HOST_KEY_CHECKING"] == "False"
    assert env["ANSIBLE_CALLBACK_PLUGINS"] == str(tmp_path / "calls")
    assert Options().with_configuration(dict(ansible.settings)).ask_pass


def test_no_setting_of_the_users_lets_a_run_wait_or_an_answer_lose_the_variables_of_groups(tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").write_text("[defaults]\nenable_task_debugger = True\n[inventory]\nexport = True\n")
    (tmp_path / "inv.yml").write_text("all: {children: {web: {hosts: {web1: }, vars: {evenkeel_waves: '1'}}}}")
    ansible = ask_ansible(str(tmp_path))
    assert ansible.environment()["ANSIBLE_ENABLE_TASK_DEBUGGER"] == "False"
    found = find_inventory(Options(inventory=("inv.yml",)), ansible, Secrets(), str(tmp_path))
    assert found.variables["web1"]["evenkeel_waves"] == "1"


def test_what_a_host_says_of_itself_is_no_variable_of_the_inventory(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"evenkeel_stop_if": [{"command": {"argv": ["id"]}}], "evenkeel_wvaes": 1, "mine": "7", "ansible_place": "x"}
    (tmp_path / "facts").mkdir()
    (tmp_path / "facts" / "web1").write_text(json.dumps(said))
    (tmp_path / "facts" / "s1_web1").write_text(json.dumps({"__payload__": json.dumps(said)}))
    (tmp_path / "ansible.cfg").write_text(
        "[defaults]\nfact_caching = jsonfile\nfact_caching_connection = ./facts\n[inventory]\nenable_plugins = yaml,"
        " constructed\n"
    )
    (tmp_path / "a.yml").write_text("all: {hosts: {web1: {evenkeel_waves: '{{ mine }}', mine: '1'}}}")
    (tmp_path / "b.yml").write_text("plugin: constructed\ngroups: {there: ansible_place == 'x'}\n")
    options, ansible = Options(inventory=("a.yml", "b.yml")), ask_ansible(str(tmp_path))
    found = find_inventory(options, ansible, Secrets(), str(tmp_path))
    assert {name for name in found.variables["web1"] if name != "ansible_local"} == {"evenkeel_waves", "mine"}
    assert found.groups["there"] == {"web1"}, "a group that the inventory makes from facts stays"
    events: list[Event] = []
    with open_session(ansible, options, Secrets(), tmp_path) as one:
        wanted = {"evenkeel_hosts": ["web1"], "evenkeel_asked": {"web1": ["evenkeel_waves"]}}
        one.run_own(OwnRun("variables", wanted, ["web1"], unseen=True), events.append, lambda: "")
    told = [mapping(mapping(event["event_data"])["res"]) for event in events if event["event"] == "runner_on_ok"]
    assert [mapping(one["msg"]) for one in told] == [{"evenkeel_waves": "1"}]


def test_host_keys_are_checked_unless_the_user_says_otherwise() -> None:
    assert Ansible("/", {}, "").environment()["ANSIBLE_HOST_KEY_CHECKING"] == "True"


def test_a_vault_password_reaches_a_listing_through_a_pipe_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret.yml"
    path.write_text("colour: blue\n")
    listing([program("ansible-vault"), "encrypt", str(path)], Ansible("/", {}, ""), {}, {"default": "hunter2"})
    assert path.read_text().startswith("$ANSIBLE_VAULT")
    done = listing(
        [program("ansible-inventory"), "--list", "-i", "web1,", f"--extra-vars=@{path}"],
        Ansible("/", {}, ""),
        {},
        {"default": "hunter2"},
    )
    assert '"colour": "blue"' in done.stdout
    with pytest.raises(UsageError) as error:
        listing([program("ansible-vault"), "view", str(path)], Ansible("/", {}, ""), {}, {"default": "hunter3"})
    assert "hunter" not in str(error.value)


def test_the_scratch_directory_is_private_and_goes_with_the_session(root: Path, tmp_path: Path) -> None:
    with open_session(Ansible("/", {}, ""), Options(), Secrets(), tmp_path) as one:
        assert one.scratch.parent == root
        assert stat.S_IMODE(one.scratch.stat().st_mode) == 0o700
        written = one._write("vars.json", "{}")
        assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert list(root.iterdir()) == []


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("uid", "logind", "lingers", "in_memory"),
    [(0, True, False, True), (999, True, False, True), (1000, True, False, False), (1000, True, True, True)]
    + [(1000, False, False, True)],
)
def test_the_scratch_directory_of_a_service_outlives_each_login_of_its_user(
    uid: int, logind: bool, lingers: bool, in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"run/systemd/users": logind, "var/lib/systemd/linger/me": lingers, "dev/shm": True, "tmp": True}
    for name, wanted in places.items():
        if wanted:
            (tmp_path / name).mkdir(parents=True)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: SimpleNamespace(pw_name="me"))
    with scratch.scratch_directory(None, str(tmp_path)) as one:
        assert one.parent == tmp_path / ("dev/shm" if in_memory else "tmp")


def test_a_private_directory_that_was_removed_is_made_anew_unless_it_is_of_another(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_session(Ansible("/", {}, ""), Options(), Secrets(), tmp_path) as one:
        shutil.rmtree(one.scratch)
        vars(one.runner)["execute"] = lambda *_: Ended(0)
        one.run_users(UsersRun("site.yml", ["web1"], ["web1"], "mark"), lambda event: None, lambda: "")
        shutil.rmtree(one.scratch)
        one.run_own(OwnRun("settle", {}, ["web1"], fresh=True), lambda event: None, lambda: "")
        assert stat.S_IMODE(one.scratch.stat().st_mode) == 0o700
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        with pytest.raises(PermissionError, match="somebody else's"):
            one._write("vars.json", "{}")
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(("other", "mode"), [(1, 0o700), (0, 0o755)])
def test_no_directory_of_another_user_holds_the_scratch_directory(
    root: Path, other: int, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the XDG_RUNTIME_DIR of the user who called su or sudo -E."""
    root.chmod(mode)
    user = os.getuid() + other
    monkeypatch.setattr(os, "getuid", lambda: user)
    with open_session(Ansible("/", {}, ""), Options(), Secrets(), root) as one:
        assert one.scratch.parent != root


def test_a_limit_to_no_host_is_none_to_all(root: Path) -> None:
    with open_session(Ansible("/", {}, ""), Options(), Secrets(), None) as one:
        assert Path(one._limit([])[1][1:]).read_text() == "!all\n"


def test_the_controller_in_an_inventory_is_no_host_of_a_command_and_alone_an_error(root: Path, tmp_path: Path) -> None:
    (tmp_path / "inv").write_text("web1\nlocalhost ansible_connection=local\n")
    options = Options(inventory=(str(tmp_path / "inv"),))
    with open_session(ask_ansible(str(tmp_path)), options, Secrets(), None) as one:
        assert one.list_own("status", {}, "") == ("web1",)
        with pytest.raises(UsageError, match="no host of the fleet, under the name localhost"):
            one.list_own("status", {}, "localhost")


def test_where_no_directory_counts_our_playbook_lies_alone(root: Path) -> None:
    with open_session(Ansible("/", {}, ""), Options(), Secrets(), None) as one:
        assert [path.name for path in one._own("status").parent.iterdir()] == [".evenkeel-status.yml"]


def test_no_process_for_each_host_checks_arguments_that_the_first_task_checks_for_all(root: Path) -> None:
    names = ("begin", "settle", "restart", "protect", "recover", "rollback")
    with open_session(Ansible("/", {}, ""), Options(), Secrets(), None) as one:
        text = {name: one._own(name).read_text() for name in names}
    checked = [name for name, found in text.items() if "rolespec_validate: true" in found]
    assert checked == ["protect", "recover", "rollback"]
    assert "name: evenkeel.fault_tolerance.settle\n        rolespec_validate: false\n" in text["settle"]


def test_a_host_that_the_inventory_has_dropped_keeps_no_other_host_from_its_answer(root: Path, tmp_path: Path) -> None:
    python = "ansible_python_interpreter={{ ansible_playbook_python }}"
    text = f"web1\n[all:vars]\nansible_connection=local\nevenkeel_store={tmp_path}/store\n{python}\n"
    (tmp_path / "inv").write_text(text)
    hosts, events = ["web1", "gone"], list[Event]()
    with open_session(ask_ansible("/"), Options(inventory=(str(tmp_path / "inv"),)), Secrets(), None) as one:
        one.run_own(OwnRun("status", {"evenkeel_hosts": hosts}, hosts), events.append, lambda: "")
        answered = [mapping(event["event_data"])["host"] for event in events if event["event"] == "runner_on_ok"]
        assert answered == ["web1"]
        for run in (
            OwnRun("begin", {"evenkeel_hosts": hosts}, hosts),
            OwnRun("status", {"evenkeel_hosts": "gone"}, hosts),
        ):
            events.clear()
            assert one.run_own(run, events.append, lambda: "").rc
            assert "runner_on_ok" not in [event["event"] for event in events], "a wrong name of a person's is an error"


def test_tasks_for_the_playbook_around_a_role_are_left_out_of_a_run_of_the_driver() -> None:
    skipped = Ansible("/", {}, "").own()["ANSIBLE_SKIP_TAGS"]
    role = collections_path() / "ansible_collections/evenkeel/fault_tolerance/roles/begin/tasks/main.yml"
    (begin,) = yaml.safe_load(role.read_text())
    tagged = [task["name"] for task in begin["block"] if skipped in task.get("tags", [])]
    assert [one.partition(" ")[0] for one in tagged] == ["Refuse", "Refuse", "Remember"]


def test_what_a_killed_session_left_is_removed_and_what_a_living_one_uses_is_not(root: Path, tmp_path: Path) -> None:
    left = root / "evenkeel-left"
    left.mkdir()
    (left / "lock").touch()
    with open_session(Ansible("/", {}, ""), Options(), Secrets(), tmp_path) as one:
        assert not left.exists()
        with open_session(Ansible("/", {}, ""), Options(), Secrets(), tmp_path):
            assert one.scratch.exists()


def test_our_playbook_lies_among_what_lies_beside_the_users(root: Path, tmp_path: Path) -> None:
    base = tmp_path / "project"
    (base / "group_vars").mkdir(parents=True)
    (base / "group_vars" / "all.yml").write_text("a: 1\n")
    with open_session(Ansible(str(base), {}, ""), Options(), Secrets(), base) as one:
        playbook = one._own("status")
        assert (playbook.parent / "group_vars" / "all.yml").read_text() == "a: 1\n"
        assert "ft_info" in playbook.read_text()
        assert chosen_hosts(
            str(playbook), "", Options(inventory=("web1,web2,",)), ask_ansible(str(base)), Secrets()
        ) == ("web1", "web2")


CALLBACK = """
from ansible.plugins.callback import CallbackBase
class CallbackModule(CallbackBase):
    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, "notification", "spy"
    def v2_runner_on_ok(self, result):
        open(PATH, "a").write(repr(result._result))
"""


@pytest.mark.long
def test_no_log_and_no_callback_of_the_users_sees_the_values_of_variables(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, log, spied = tmp_path / "project", tmp_path / "ansible.log", tmp_path / "spied"
    for folder in (base / "callback_plugins", tmp_path / "calls"):
        folder.mkdir(parents=True)
        (folder / f"spy_{folder.name}.py").write_text(CALLBACK.replace("PATH", repr(str(spied))))
    (base / "inventory.yml").write_text('{"all": {"hosts": {"web1": {"secret": "hunter2", "a": "{{ secret }}"}}}}')
    log.touch()
    monkeypatch.setenv("ANSIBLE_LOG_PATH", str(log))
    monkeypatch.setenv("ANSIBLE_CALLBACK_PLUGINS", str(tmp_path / "calls"))
    options = Options(inventory=(str(base / "inventory.yml"),))
    ansible = ask_ansible(str(base))
    assert "hunter2" in json.dumps(find_inventory(options, ansible, Secrets(), str(base)).variables)
    seen: list[Event] = []
    with open_session(ansible, options, Secrets(), base) as one:
        wanted = {"evenkeel_hosts": ["web1"], "evenkeel_asked": {"web1": ["a"]}}
        for unseen in (True, False):
            assert not spied.exists() and "hunter2" not in log.read_text()
            one.run_own(OwnRun("variables", wanted, ["web1"], unseen=unseen), seen.append, lambda: "")
            assert "hunter2" in json.dumps(seen)
    assert "hunter2" in spied.read_text() and "hunter2" in log.read_text(), "as those of any other run"
    assert not {"seen.json", "carried.json"} & {path.name for path in base.iterdir()}, "nothing is left there"


@pytest.mark.long
def test_a_wave_sees_the_limit_and_the_directory_of_a_run_without_the_driver(root: Path, tmp_path: Path) -> None:
    for name in ("common", "prod/group_vars"):
        (tmp_path / name).mkdir(parents=True)
    play = "- hosts: \"{{ ansible_limit | default('web') }}\"\n  gather_facts: false\n  tasks: [debug: {var: told}]\n"
    (tmp_path / "common" / "site.yml").write_text(play)
    (tmp_path / "prod" / "site.yml").symlink_to("../common/site.yml")
    told = "told: \"{{ ansible_limit | default('no limit') }} {{ playbook_dir }}\"\n"
    (tmp_path / "prod" / "group_vars" / "all.yml").write_text(told)
    (tmp_path / "inv").write_text("[web]\nweb1\nweb2\n[all:vars]\nansible_connection=local\n")
    base, found = tmp_path / "prod", list[tuple[str, object]]()

    def on_event(event: Event) -> None:
        if event.get("event") == "runner_on_ok":
            data = mapping(event["event_data"])
            res = mapping(data["res"])
            found.append((str(data["host"]), res.get("told") or mapping(res.get("msg") or {}).get("told")))

    for limit, ran in (("", ["web1"]), ("web2", [])):
        options = Options(inventory=(str(tmp_path / "inv"),), limit=limit)
        with open_session(ask_ansible(str(base)), options, Secrets(), base) as one:
            one.run_users(UsersRun("site.yml", ["web1"], ["web1"], "mark"), on_event, lambda: "")
            seen = one.seen()
            assert seen is not None and list(seen.missed) == (["web1"] if limit else [])
            assert [told for told in found if told[1]] == [(host, f"no limit {base}") for host in ran]
            found.clear()
            wanted = {"evenkeel_hosts": ["web1"], "evenkeel_asked": {"web1": ["told"]}}
            one.run_own(OwnRun("variables", wanted, ["web1"]), on_event, lambda: "")
            assert str(found.pop()[1]).endswith(f" {base}"), "a run of ours sees what the playbook sees"


def test_the_values_of_variables_are_resolved_unseen() -> None:
    asked: list[OwnRun] = []

    class Asked:
        def run_own(self, run: OwnRun, on_event: OnEvent, stop: Stop) -> Ended:
            asked.append(run)
            on_event({"event": "runner_on_ok", "event_data": {"host": "web1", "res": {"msg": {"evenkeel_waves": "1"}}}})
            return Ended(0)

    known = {"web1": {"evenkeel_waves": "{{ waves }}"}}
    targets = Targets(("web1",), ("web1",), (), Inventory(("web1",), {}, known))
    found = resolved(cast(Session, Asked()), targets, stop=lambda: "")
    assert found.inventory.variables["web1"]["evenkeel_waves"] == "1" and [run.unseen for run in asked] == [True]


def test_a_playbook_of_ours_is_whole_whenever_another_run_reads_it(root: Path, tmp_path: Path) -> None:
    with open_session(Ansible("/", {}, ""), Options(), Secrets(), tmp_path) as one:
        path = one._own("settle")
        with path.open() as reading:
            one._own("settle")
            assert reading.read() == path.read_text(), "the run before has its own"
            assert os.fstat(reading.fileno()).st_ino != path.stat().st_ino


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"b": [1]}}',
        'Using /etc/ansible/ansible.cfg as config file\n{"a": {"b": [1]}}\n',
        ' 8928 1795835085.7: starting run\n[WARNING]: odd\n{not json\n{"x": 1}\n{\n"a": {\n"b": [\n1\n]}}\nbye {\n',
        '[1, 2]\n{"a": {"b": [1]}}',
    ],
)
def test_a_document_is_read_whatever_else_was_printed(text: str) -> None:
    assert document(text, dict) == {"a": {"b": [1]}}


@pytest.mark.parametrize("text", ["", "no", "[1]", "{broken", "\x1b[31mERROR! %s {0}\x1b[0m"])
def test_no_document_is_a_usage_error_with_what_was_said(text: str) -> None:
    with pytest.raises(UsageError, match="did not answer in JSON"):
        document(text, dict)


@pytest.mark.parametrize(
    ("configuration", "environment", "pipelining"),
    [
        ("", {}, None),
        ("[defaults]\nverbosity = 4\n[ssh_connection]\npipelining = False\n", {}, False),
        ("[connection]\npipelining = True\n", {"ANSIBLE_DEBUG": "1", "ANSIBLE_VERBOSITY": "3"}, True),
        ("", {"ANSIBLE_PIPELINING": "0"}, False),
        ("", {"ANSIBLE_SSH_PIPELINING": "1"}, True),
    ],
)
def test_pipelining_is_ours_to_choose_only_where_the_user_does_not(
    configuration: str,
    environment: dict[str, str],
    pipelining: bool | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "ansible.cfg").write_text(configuration)
    ansible = ask_ansible(str(tmp_path))
    assert ansible.pipelining is pipelining
    assert ansible.own().get("ANSIBLE_PIPELINING") == (None if pipelining is not None else "True")


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("sudo: sorry, you must have a tty to run sudo", True),
        ("sudo: no tty present and no askpass program specified", True),
        ("sudo: a terminal is required to read the password", True),
        ("sudo: a password is required", False),
        ("the tty subsystem", False),
    ],
)
def test_what_sudo_says_when_it_wants_a_terminal_is_known(said: str, found: bool) -> None:
    assert bool(NO_TERMINAL.search(json.dumps({"module_stderr": f"{said}\r\n"}))) is found


def failing(task: str = "ft_guard", said: str = "sudo: sorry, you must have a tty to run sudo") -> Event:
    action = f"evenkeel.fault_tolerance.{task}"
    data = {"host": "web1", "task": "t", "resolved_action": action, "res": {"module_stderr": said}}
    return {"event": "runner_on_failed", "event_data": data}


DONE: Event = {
    "event": "runner_on_ok",
    "event_data": {"host": "web2", "resolved_action": "evenkeel.fault_tolerance.ft_checkpoint"},
}


@pytest.mark.parametrize(
    ("events", "pipelining", "runs"),
    [
        ([failing()], None, ["True", "False"]),
        ([failing()], True, [None]),  # the user's own word
        ([failing(said="no room")], None, ["True"]),
        ([DONE, failing("ft_checkpoint")], None, ["True"]),  # a host was armed: that run counts
    ],
)
def test_a_run_that_sudo_kept_from_beginning_for_want_of_a_terminal_is_run_without_pipelining(
    events: list[Event],
    pipelining: bool | None,
    runs: list[str | None],
    root: Path,
    tmp_path: Path,
) -> None:
    seen: list[str | None] = []

    def execute(job: Job, on_event: OnEvent, _stop: Stop) -> Ended:
        seen.append(job.env.get("ANSIBLE_PIPELINING"))
        for event in events if len(seen) == 1 else []:
            on_event(event)
        return Ended(2)

    told: list[Event] = []
    with open_session(Ansible("/", {}, "", pipelining), Options(), Secrets(), tmp_path) as one:
        vars(one.runner)["execute"] = execute
        one.run_own(OwnRun("begin", {}, ["web1"]), told.append, lambda: "")
        assert seen == runs
        assert ({"event": AGAIN} in told) is (len(runs) == 2)
        one.run_own(OwnRun("settle", {}, ["web1"]), told.append, lambda: "")
        assert seen == [*runs, runs[-1]], "and so are the runs that follow"


def test_the_run_that_follows_is_prepared_while_hosts_are_at_their_tasks(root: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def execute(_job: Job, on_event: OnEvent, _stop: Stop) -> Ended:
        on_event({"event": "playbook_on_start"})
        assert told == []
        on_event({"event": "playbook_on_task_start"})
        return Ended(0)

    with open_session(Ansible("/", {}, ""), Options(), Secrets(), tmp_path) as one:
        vars(one.runner).update(execute=execute, prepare=lambda: told.append("prepared"))
        one.run_users(UsersRun("site.yml", ["web1"], ["web1"], "mark"), lambda _event: None, lambda: "")
    assert told == ["prepared"]


def test_host_names_and_values_of_any_letters_are_written_as_utf_8(root: Path, tmp_path: Path) -> None:
    with open_session(Ansible("/", {}, ""), Options(), Secrets(), tmp_path) as one:
        word = one._limit(["wéb1", "日本", "odd\udcff"])[1]
        assert Path(word[1:]).read_bytes() == "wéb1\n日本\n".encode() + b"odd\xff\n"


@pytest.mark.parametrize(
    ("said", "point"),
    [
        ("ERROR: no such key\nOrigin: /etc/x:1\n\n1 - a", "ERROR: no such key"),
        ("ERROR: not an int\nTraceback (most recent call last):\n  File x\nValueError: many\n", "ERROR: not an int"),
        ("Traceback (most recent call last):\n  File x\nValueError: 100% {0}\n", "ValueError: 100% {0}"),
        (
            "[WARNING]: a.yml is no script\nOrigin: <inventory>\n\n[ERROR]: Could not find b.yml\nOrigin: /etc/x:1\n",
            "[ERROR]: Could not find b.yml",
        ),
        ("", ""),
    ],
)
def test_of_what_an_error_of_ansible_says_the_point_is_kept(said: str, point: str) -> None:
    assert configuration._point(said) == point


@pytest.mark.parametrize(
    ("run", "option", "seconds"),
    [
        (OwnRun("status", {}, ["web1"], question=True), None, "300"),
        (OwnRun("begin", {}, ["web1"]), None, "21600"),
        (OwnRun("rollback", {}, ["web1"]), 90.0, "90"),
        (OwnRun("settle", {}, ["web1"], answer_within=12.2), 90.0, "13"),
        (OwnRun("status", {}, ["web1"], question=True), float("inf"), "100000000"),
        (OwnRun("status", {}, ["web1"]), 0.0, "1"),
    ],
)
def test_every_task_of_ours_has_a_deadline_on_each_host(
    run: OwnRun, option: float | None, seconds: str, root: Path, tmp_path: Path
) -> None:
    seen: list[str] = []

    def play(job: Job, on_event: OnEvent, stop: Stop) -> Ended:
        seen.extend(re.findall(r"^  timeout: (\d+)$", Path(job.argv[-1]).read_text(), re.MULTILINE))
        return Ended(0)

    with open_session(Ansible("/", {}, ""), Options(answer_within=option), Secrets(), tmp_path) as one:
        vars(one.runner)["execute"] = play
        one.run_own(run, lambda event: None, lambda: "")
    assert seen == [seconds]


@pytest.mark.parametrize(
    ("hosts", "common", "settings", "forks", "rounds"),
    [
        (30, (), {"DEFAULT_FORKS": 5}, "30", 1),
        (120, (), {"DEFAULT_FORKS": "5"}, "50", 3),
        (120, ("--forks=80",), {"DEFAULT_FORKS": 5}, "80", 2),
        (3, ("--forks=10", "--forks=2"), {}, "3", 1),
        (3, ("--forks=many",), {}, "3", 1),  # Ansible itself refuses it
    ],
)
def test_the_hosts_of_a_wave_are_asked_side_by_side(
    hosts: int,
    common: tuple[str, ...],
    settings: dict[str, object],
    forks: str,
    rounds: int,
    root: Path,
    tmp_path: Path,
) -> None:
    seen: list[Sequence[str]] = []

    def play(job: Job, on_event: OnEvent, stop: Stop) -> Ended:
        seen.append(job.argv)
        return Ended(0)

    with open_session(Ansible("/", settings, ""), Options(common=common), Secrets(), tmp_path) as one:
        vars(one.runner)["execute"] = play
        one.run_own(OwnRun("settle", {}, [f"web{number}" for number in range(hosts)]), lambda event: None, lambda: "")
        one.run_own(OwnRun("heal", {}, ["web1", "web2"], wide=False), lambda event: None, lambda: "")
        one.run_users(UsersRun("site.yml", ["web1"], ["web1"], "mark"), lambda event: None, lambda: "")
        assert one.rounds(hosts) == rounds
    words = list(seen[0])
    assert words[words.index("--forks") + 1] == forks and words.index("--forks") > len(common)
    assert not any("--forks" in argv for argv in seen[1:]), "where nobody waits the user's forks count alone"


def test_facts_that_would_slow_every_wave_are_not_kept(root: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    with open_session(Ansible("/", {}, ""), Options(), Secrets(), tmp_path) as one:

        def play(job: Job, on_event: OnEvent, stop: Stop) -> Ended:
            (one.scratch / "facts").mkdir()
            for name, size in (("s1_web1", 20_000_000), ("s1_web2", 100), ("s1_s1_web2", 20_000_000), ("web3", 100)):
                (one.scratch / "facts" / name).write_bytes(b" " * size)
            return Ended(0)

        vars(one.runner)["execute"] = play
        one.run_own(OwnRun("facts", {}, ["web1"], facts=True), events.append, lambda: "")
        assert {path.name for path in (one.scratch / "facts").iterdir()} == {"s1_web2", "web3"}
    assert {mapping(event["event_data"])["host"] for event in events} == {"web1", "s1_web2"}


def test_a_host_that_changes_gathers_its_facts_anew(root: Path, tmp_path: Path) -> None:
    with open_session(Ansible("/", {}, ""), Options(), Secrets(), tmp_path) as one:
        (one.scratch / "facts").mkdir()
        for name in ("s1_web1", "web2", "s1_web3", "s1_s1_web1"):
            (one.scratch / "facts" / name).touch()
        vars(one.runner)["execute"] = lambda *_: Ended(0)
        one.run_users(UsersRun("site.yml", ["web1"], ["web1", "web2"], "mark"), lambda event: None, lambda: "")
        assert {path.name for path in (one.scratch / "facts").iterdir()} == {"s1_web3", "s1_s1_web1"}


def test_a_run_of_the_users_playbook_knows_their_limit_and_every_run_their_directory(
    root: Path, tmp_path: Path
) -> None:
    seen: list[dict[str, str]] = []

    def play(job: Job, on_event: OnEvent, stop: Stop) -> Ended:
        seen.append(dict(job.env))
        return Ended(0)

    with open_session(Ansible("/", {}, ""), Options(limit="web*"), Secrets(), tmp_path) as one:
        vars(one.runner)["execute"] = play
        one.run_users(UsersRun("site.yml", ["web1"], ["web1"], "mark"), lambda event: None, lambda: "")
        one.run_own(OwnRun("status", {}, ["web1"]), lambda event: None, lambda: "")
    assert [env.get("EVENKEEL_LIMIT") for env in seen] == ["web*", None]
    assert {env["EVENKEEL_PLAYBOOK_DIR"] for env in seen} == {str(tmp_path)}
    assert all(env["ANSIBLE_CALLBACKS_ENABLED"] == "evenkeel.fault_tolerance.witness" for env in seen)


def test_the_login_that_a_fresh_run_shares_is_its_own_and_ends_with_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_LONGEST_SOCKET_DIRECTORY", 1000)
    seen: list[str] = []
    masters: list[subprocess.Popen[bytes]] = []
    ssh = tmp_path / "ssh"  # stands for a master, by its name and its words
    shutil.copy(shutil.which("sleep") or "", ssh)

    def play(job: Job, on_event: OnEvent, stop: Stop) -> Ended:
        seen.append(job.env["EVENKEEL_SOCKETS"])
        words = [f"ssh: {seen[-1]}/0123 [mux]" if seen[-1] else "ssh", "300"]
        masters.append(subprocess.Popen(words, executable=str(ssh)))
        return Ended(0)

    with open_session(Ansible("/", {}, ""), Options(), Secrets(), tmp_path) as one:
        vars(one.runner)["execute"] = play
        for fresh in (True, False, True):
            one.run_own(OwnRun("settle", {}, ["web1"], fresh=fresh), lambda event: None, lambda: "")
        one.run_users(UsersRun("site.yml", ["web1"], ["web1"], "mark"), lambda event: None, lambda: "")
        assert seen[1] == seen[3] == "" and seen[0] != seen[2] and Path(seen[0]).parent == one.scratch
        assert [master.poll() is None for master in masters] == [False, True, False, True]
    for master in masters:
        master.kill()
        master.wait()


@pytest.mark.parametrize("text", ["{", "[]", '{"touched": 3}', '{"touched": [], "left_out": 5}', "[" * 100_000])
def test_what_cannot_be_read_of_a_run_was_not_seen(text: str, root: Path, tmp_path: Path) -> None:
    with open_session(Ansible("/", {}, ""), Options(), Secrets(), tmp_path) as one:
        (one.scratch / "witness").mkdir()
        (one.scratch / "witness" / "seen.json").write_text(text)
        assert one.seen() is None
