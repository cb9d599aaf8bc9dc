# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What roles decide before they change anything, and what they hand to modules."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ready_ansible import run_playbook

from evenkeel.collection import collections_path

ROLES = Path(__file__).parents[2] / "roles"
LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_pipelining": True}
OURS = "/usr/bin/python3 -IS /usr/local/lib/evenkeel_archive_wal.py %p %f /var/lib/postgresql/15/main.evenkeel/wal"


def server(command: str = "", mode: str = "on", library: str | None = "", file: str | None = None) -> str:
    """What a cluster says of itself. file: what its configuration says, where that is not what the server runs."""
    running = command if mode == "on" else "(disabled)"
    known = {"mode": mode, "level": "replica", "command": running, "library": library}
    return json.dumps({**known, "file": file or command or None})


@pytest.mark.parametrize("path", sorted((ROLES.parent / "playbooks").glob("*.yml")), ids=lambda path: path.stem)
def test_a_play_of_ours_keeps_to_its_strategy_whatever_the_configuration_says(path: Path) -> None:
    strategies = [play.get("strategy") for play in yaml.safe_load(path.read_text())]
    assert set(strategies) == {"ansible.builtin.linear"}, "the guard runs once for all hosts, and no play may wait"


def test_a_variable_of_a_task_has_a_name_that_no_user_takes_for_another_thing() -> None:
    """An extra variable comes before a variable of a task, whoever has written it."""
    plays = sorted((ROLES.parent / "playbooks").glob("*.yml"))
    loaded = {path: yaml.safe_load(path.read_text()) for path in plays}
    tasks = {path: [one for play in found for one in play.get("tasks", [])] for path, found in loaded.items()}
    tasks |= {path: _all_tasks(path) for path in ROLES.glob("*/tasks/*.yml")}
    odd = []
    for path, those in tasks.items():
        own = path.stem if path in plays else path.parts[-3]
        for one in those:
            names = {*one.get("vars", {}), *one.get("ansible.builtin.set_fact", {}), one.get("register", "evenkeel_")}
            known = ("evenkeel_", "ansible_ssh_retries", f"{own}_", "begin_", "settle_")
            odd += [f"{path.name}: {name}" for name in names if not name.startswith(known)]
    assert len(tasks) > 30 and odd == []


_HEEDS = {"ignore_errors": False, "ignore_unreachable": False}
# Tasks that cannot fail, and those that heed what the role that they name heeds.
_PASSED_ON = {"ansible.builtin.meta", "ansible.builtin.import_role"}


def _heedless(tasks: list[dict[str, Any]], heeds: bool) -> list[str]:
    """The names of the tasks to which a play with ``ignore_errors`` or ``ignore_unreachable`` hands that on."""
    found = []
    for one in tasks:
        includes = {"ansible.builtin.include_tasks", "ansible.builtin.include_role"} & one.keys()  # asks no host
        said = heeds or one.items() >= ({"ignore_errors": False} if includes else _HEEDS).items()
        parts = [one[part] for part in ("block", "rescue", "always") if part in one]
        found += [name for part in parts for name in _heedless(part, said)]
        found += [one["name"]] if not parts and not said and not _PASSED_ON & one.keys() else []
    return found


def test_a_play_that_ignores_errors_ignores_none_of_ours() -> None:
    """Otherwise a refused guard or a failed checkpoint would let the content run, protected by nothing."""
    included = {"look.yml", "present.yml", "systemd.yml", "cron.yml"}  # by tasks in a block that heeds errors
    found = {
        str(path.relative_to(ROLES)): names
        for path in sorted(ROLES.glob("*/tasks/*.yml"))
        if (names := _heedless(yaml.safe_load(path.read_text()), heeds=path.name in included))
    }
    assert found == {}
    # A playbook that imports ours hands on no keyword, so that the plays themselves count.
    plays = [play for path in (ROLES.parent / "playbooks").glob("*.yml") for play in yaml.safe_load(path.read_text())]
    keywords = [set(one) for play in plays for one in [play, *play.get("tasks", [])]]
    assert len(plays) >= 20 and not set().union(*keywords) & _HEEDS.keys()


def test_the_role_postgresql_replaces_no_command_of_others_unasked(tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "none": {"said": server()},
        "off": {"said": server(mode="off", library=None)},
        "ours": {"said": server(OURS)},
        "ours_elsewhere": {"said": server(OURS.replace("/var/lib", "/srv"))},
        "both": {"said": server(f"{OURS} && pgbackrest --stanza=main archive-push %p")},
        "allowed": {"said": server("wal-g wal-push %p"), "evenkeel_postgresql_replace_archive": True},
        "pgbackrest": {"said": server("pgbackrest --stanza=main archive-push %p")},
        "not_loaded": {"said": server(OURS, file="barman-wal-archive backup main %p")},
        "not_running": {"said": server("test ! -f /a/%f && cp %p /a/%f | cat", mode="off")},
        "wrapped": {"said": server(f"maybe {OURS[:-4]}; pgbackrest archive-push %p")},
        "library": {"said": server(library="basic_archive")},
        "misspelt": {"said": server(), "evenkeel_postgresql_dta": "/srv/pg"},
    }
    refused = {"pgbackrest", "not_loaded", "not_running", "wrapped", "library"}
    (tmp_path / "setpriv").write_text('#!/bin/sh\nprintf "%s\\n" "$SAID"\n')
    (tmp_path / "setpriv").chmod(0o755)
    for case in cases.values():
        case.update(**LOCAL)
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": cases}}))
    play = {
        "hosts": "all",
        "gather_facts": False,
        "environment": {"SAID": "{{ said }}", "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        "roles": [{"role": "evenkeel.fault_tolerance.postgresql", "evenkeel_postgresql_cluster": "15/main"}],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False))
    words = ["--check", "-i", "hosts.yml", "play.yml"]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections_path()), "ANSIBLE_NOCOLOR": "1"}
    done = run_playbook(words, tmp_path, environment)
    found = dict(re.findall(r"^fatal: \[(\w+)\]: FAILED! => (.*would replace it.*)", done.stdout, re.M))
    assert set(found) == refused, done.stdout + done.stderr
    assert "archives with pgbackrest" in found["pgbackrest"] and "archives with barman" in found["not_loaded"]
    assert "archives with a command of others" in found["not_running"]
    assert "no variable is named evenkeel_postgresql_dta; there are evenkeel_postgresql_archive" in done.stdout
    recap = re.search(r"^misspelt +: (.*)", done.stdout, re.M)
    assert recap is not None and recap[1].startswith("ok=1 ") and "failed=1" in recap[1]
    changed = dict(re.findall(r"^(\w+) +: ok=\d+ +changed=(\d+)", done.stdout, re.M))
    assert {changed[host] for host in refused} == {"0"} and int(changed["none"]) > 0


def test_the_role_postgresql_gives_nothing_away_to_which_a_symlink_leads(tmp_path: Path) -> None:
    tasks = _all_tasks(ROLES / "postgresql/tasks/main.yml")
    at = next(number for number, one in enumerate(tasks) if one["name"] == "Look at the places of the archive")
    (make,) = (number for number, one in enumerate(tasks) if one["name"] == "Make the archive")
    late = {"ansible.builtin.command": f"ln -sT {tmp_path}/private {{{{ postgresql_archive }}}}"}
    late["when"] = "inventory_hostname == 'late'"
    mine = [*tasks[at : at + 2], late, *tasks[make : make + 3]]
    for name in ("owner", "group"):  # The account need not be here.
        assert [one["ansible.builtin.file"].pop(name) for one in mine[3:5]] == ["postgres", "postgres"]
    names = ("new", "whole", "wal", "late", *(["roots"] if os.geteuid() == 0 else []))
    cases = {name: {"evenkeel_postgresql_archive": f"{tmp_path}/{name}/15/main.evenkeel"} for name in names}
    (tmp_path / "setpriv").write_text('#!/bin/sh\n[ "$1" = --reuid=postgres ] && shift 3 && exec "$@"\n')
    (tmp_path / "setpriv").chmod(0o755)
    for name in cases:
        (tmp_path / name / "15").mkdir(parents=True)
    (tmp_path / "private").mkdir(mode=0o755)
    (tmp_path / "wal/15/main.evenkeel").mkdir()
    for link in (tmp_path / "whole/15/main.evenkeel", tmp_path / "wal/15/main.evenkeel/wal"):
        link.symlink_to(tmp_path / "private")
        if os.geteuid() == 0:
            os.lchown(link, 65534, 65534)
    (tmp_path / "target").mkdir()
    if "roots" in cases:
        (tmp_path / "roots/15/main.evenkeel").symlink_to(tmp_path / "target")
    hosts = {name: {**LOCAL, **case, "evenkeel_postgresql_cluster": "15/main"} for name, case in cases.items()}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    play = {"hosts": "all", "gather_facts": False, "tasks": mine, "vars_files": [f"{ROLES}/postgresql/vars/main.yml"]}
    play["environment"] = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False))
    words = ["-i", "hosts.yml", "play.yml"]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
    done = run_playbook(words, tmp_path, environment)
    failed = dict(re.findall(r"^(\w+) +: ok=.* failed=(\d)", done.stdout, re.M))
    refused = {"whole", "wal", "late"}
    assert failed == {name: str(int(name in refused)) for name in cases}, done.stdout + done.stderr
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o755 and os.listdir(tmp_path / "private") == []
    for name in set(cases) - refused:
        assert sorted(os.listdir(tmp_path / name / "15/main.evenkeel")) == ["base", "wal"]
    assert "late/15/main.evenkeel already exists as a link" in done.stdout
    assert "wal/15/main.evenkeel/wal: a symlink that is not root's" in done.stdout


def test_no_file_that_the_role_postgresql_writes_is_given_to_postgres() -> None:
    """The directory of a configuration is that of postgres, and may be a symlink to one in which a file counts."""
    tasks = _all_tasks(ROLES / "postgresql/tasks/main.yml")
    copies = {copy["dest"]: copy["owner"] for one in tasks if (copy := one.get("ansible.builtin.copy"))}
    assert len(copies) == 2 and set(copies.values()) == {"root"}, copies


@pytest.mark.parametrize(
    ("known", "verdict"),
    [
        ({}, "probe"),
        ({"ansible_failed_task": {"uuid": "b", "name": "Migrate"}}, "roll_back"),
        ({"ansible_failed_task": {"uuid": "b", "name": "Migrate"}, "begin_failed": "a"}, "roll_back"),
        ({"ansible_failed_task": {"uuid": "a"}, "begin_failed": "a"}, "probe"),
        ({"ansible_failed_task": {"name": "Migrate"}, "ansible_failed_result": {"msg": "bad"}}, "roll_back"),
        (
            {"ansible_failed_task": {"uuid": "b", "name": "Migrate"}, "evenkeel_probes": [{"tcp": {"port": 80}}]},
            "probe",
        ),
        (
            {
                "ansible_failed_task": {"uuid": "b", "name": "Migrate"},
                "evenkeel_probes": [{"tcp": {}}],
                "evenkeel_rescued": "fail",
            },
            "roll_back",
        ),
        (
            {
                "ansible_failed_task": {"uuid": "b", "name": "Migrate"},
                "evenkeel_probes": [{"tcp": {"severity": "warn"}}],
            },
            "roll_back",
        ),
    ],
)
def test_a_failure_that_was_rescued_counts_against_the_change_in_which_it_was(
    known: dict[str, Any], verdict: str
) -> None:
    begin = _all_tasks(ROLES / "begin/tasks/main.yml")
    (settle,) = yaml.safe_load((ROLES / "settle/tasks/main.yml").read_text())
    (remember,) = [
        one["ansible.builtin.set_fact"]["begin_failed"] for one in begin if "ansible.builtin.set_fact" in one
    ]

    def value(text: str, variables: dict[str, Any]) -> Any:
        own = {name: trust_as_template(one) for name, one in settle["vars"].items()}
        found = Templar(loader=DataLoader(), variables={**own, "inventory_hostname": "web1", **variables})
        return found.template(trust_as_template(text))

    text = settle["evenkeel.fault_tolerance.ft_settle"]["verdict"]
    assert value(text, known) == verdict
    reason = settle["evenkeel.fault_tolerance.ft_settle"]["reason"]
    said = value(reason, {"omit": "omitted", **known})
    assert said == ("omitted" if verdict == "probe" else "Migrate failed")
    nameless = value(
        settle["vars"]["settle_reason"], {"ansible_failed_task": {"name": trust_as_template("{{ item }}")}}
    )
    assert nameless == "a task failed"
    if verdict == "roll_back":  # the same failure, where it was before the change
        assert value(text, {**known, "begin_failed": value(remember, known)}) == "probe"


def test_handlers_of_the_content_run_before_the_change_is_settled_and_fail_it(tmp_path: Path) -> None:
    def replaced(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The tasks of the role, with words in place of the roles and of the connection."""
        for one in tasks:
            for part in ("block", "rescue"):
                replaced(one.get(part, []))
            name = one.pop("ansible.builtin.import_role", {}).get("name", "").rpartition(".")[2]
            if name or one.get("ansible.builtin.meta") == "reset_connection":
                one.pop("ansible.builtin.meta", None)
                one["ansible.builtin.debug"] = {"msg": f"says {name} {{{{ evenkeel_verdicts | default('') }}}}"}
        return tasks

    tasks = replaced(yaml.safe_load((ROLES / "change/tasks/main.yml").read_text()))
    handler = {"name": "Reload", "ansible.builtin.debug": {"msg": "says reload"}, "failed_when": "fails"}
    known = {
        "begin_checkpoint": {"_here_until": 1e11},
        "evenkeel_tasks": f"{tmp_path}/content.yml",
        "ansible_connection": "local",
    }
    play = {"hosts": "all", "gather_facts": False, "vars": known, "tasks": tasks, "handlers": [handler]}
    content = {"ansible.builtin.debug": {"msg": "says content"}, "changed_when": True, "notify": "Reload"}
    (tmp_path / "content.yml").write_text(yaml.safe_dump([{"name": "Change it", **content}]))
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False))
    hosts = {"good": {"fails": False}, "bad": {"fails": True}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    words = ["-i", "hosts.yml", "play.yml"]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
    done = run_playbook(words, tmp_path, environment)
    said = re.findall(r'\[(\w+)\][^\[]*?says ([^"\n]*)"', done.stdout)
    found = {host: [words.strip() for one, words in said if one == host and words.strip()] for host in hosts}
    assert found["good"] == ["begin", "content", "reload", "settle {'good': 'probe'}"], done.stdout + done.stderr
    assert found["bad"][:4] == ["begin", "content", "reload", "settle {'bad': 'roll_back'}"], done.stdout + done.stderr
    assert re.search(r"^bad +: .*failed=1 .*rescued=1", done.stdout, re.M)


def test_a_run_for_the_logs_alone_reads_no_store() -> None:
    role = ROLES / "protect"
    tasks = _all_tasks(role / "tasks/main.yml")
    assert [one["when"] for one in tasks if {"ft_scrub", "ft_heal"} & {key.rpartition(".")[2] for key in one}] == [
        "protect_heal",
        "protect_heal",
    ]
    text = yaml.safe_load((role / "vars/main.yml").read_text())["protect_heal"]
    cases: list[tuple[dict[str, object], bool]] = [
        ({}, True),
        ({"evenkeel_only_logs": True}, False),
        ({"evenkeel_only_logs": "no"}, True),
        ({"evenkeel_only_logs": True, "evenkeel_heal": True}, True),
        ({"evenkeel_heal": False}, False),
    ]
    for variables, wanted in cases:
        assert Templar(loader=DataLoader(), variables=variables).template(trust_as_template(text)) is wanted


def test_checkpoints_of_the_log_do_not_lie_in_the_trash_for_a_day() -> None:
    """A run every minute makes 1,440 of them a day."""
    role = ROLES / "protect"
    tasks = _all_tasks(role / "tasks/main.yml")
    calls = [one[key] for one in tasks for key in one if key.rpartition(".")[2] in ("ft_checkpoint", "ft_replicate")]
    assert {call["retention"] for call in calls} == {"{{ protect_retention }}"}
    text = yaml.safe_load((role / "vars/main.yml").read_text())["protect_retention"]
    cases: list[tuple[dict[str, object], object]] = [
        ({"evenkeel_only_logs": True}, {"last": 60, "grace": "1h"}),
        ({"evenkeel_only_logs": True, "evenkeel_retention": {"daily": 7}}, {"daily": 7, "grace": "1h"}),
        ({"evenkeel_only_logs": True, "evenkeel_retention": {"last": 9, "grace": "2d"}}, {"last": 9, "grace": "2d"}),
        ({"evenkeel_retention": {"daily": 7}}, {"daily": 7}),
        ({"omit": "left out"}, "left out"),
    ]
    for variables, wanted in cases:
        assert Templar(loader=DataLoader(), variables=variables).template(trust_as_template(text)) == wanted


def test_the_hosts_of_the_command_line_replace_no_peers_of_the_inventory() -> None:
    tasks = _all_tasks(ROLES / "protect/tasks/main.yml")
    tasks += yaml.safe_load((ROLES.parent / "playbooks/heal.yml").read_text())[0]["tasks"]
    calls = [one[key] for one in tasks for key in one if key.rpartition(".")[2] in ("ft_replicate", "ft_heal")]
    (text,) = {call["peers"] for call in calls}
    cases: list[tuple[dict[str, object], list[str]]] = [
        ({"evenkeel_peers": ["b"], "evenkeel_fleet": ["a", "b", "c"]}, ["b"]),
        ({"evenkeel_fleet": ["a", "b", "c"]}, ["a", "b", "c"]),
        ({}, ["a", "b"]),
    ]
    for variables, wanted in cases:
        known = {"ansible_play_hosts_all": ["a", "b"], **variables}
        assert Templar(loader=DataLoader(), variables=known).template(trust_as_template(text)) == wanted


def test_every_role_that_copies_takes_the_wanted_way() -> None:
    tasks = [one for file in ROLES.glob("*/tasks/*.yml") for one in _all_tasks(file)]
    calls = [
        one["evenkeel.fault_tolerance.ft_replicate"] for one in tasks if "evenkeel.fault_tolerance.ft_replicate" in one
    ]
    assert len(calls) > 1
    assert {call.get("transport") for call in calls} == {"{{ evenkeel_transport | default(omit) }}"}


def test_the_role_schedule_refuses_what_could_not_run_and_writes_no_secret(tmp_path: Path) -> None:
    """In check mode, as cron and as systemd: a program that stands for crontab, and one that knows no time."""
    good: dict[str, Any] = {
        "evenkeel_schedule": "02:30",
        "evenkeel_schedule_directory": f"{tmp_path}/a b%",
        "evenkeel_schedule_command": ["/bin/echo", "it's", "protect"],
        "evenkeel_schedule_user": "ops",
        "evenkeel_schedule_name": "good",
        "booted": "/nowhere",
    }
    unnamed = {key: value for key, value in good.items() if key != "evenkeel_schedule_name"}
    cases = {
        "time": good,
        "word": {**good, "evenkeel_schedule": "weekly"},
        "absent": {"evenkeel_schedule_state": "absent", "booted": "/nowhere"},
        "calendar": {**good, "evenkeel_schedule": "Mon *-*-* 02:30"},
        "unset": {key: value for key, value in good.items() if key != "evenkeel_schedule"},
        "directory": {**good, "evenkeel_schedule_directory": "/nowhere"},
        "program": {**good, "evenkeel_schedule_command": ["no-such-program"]},
        "line": {**good, "evenkeel_schedule_command": ["/bin/echo", "a\nb"]},
        "secret": {**good, "evenkeel_schedule_command": ["/bin/echo", "-e", "evenkeel_key=x"]},
        "file": {**good, "evenkeel_schedule_command": ["/bin/echo", "-e", "@vars.yml"]},
        "misspelt": {**good, "evenkeel_schedule_comand": ["evenkeel", "heal"]},
        "systemd": {**good, "booted": "/", "evenkeel_schedule": "sometimes"},
        "known": {**good, "booted": "/", "evenkeel_schedule_on_failure": "mail@%n.service"},
        "suffix": {**good, "booted": "/", "evenkeel_schedule_on_failure": "notify-mail"},
        "alert": {**good, "booted": "/", "evenkeel_schedule_on_failure": "notify@%n.service"},
        "name": {**good, "evenkeel_schedule_name": "a/b"},
        "another": unnamed,
        "meant": {**good, "evenkeel_schedule_name": "evenkeel-protect"},
        "unit": {**unnamed, "booted": "/"},
    }
    (tmp_path / "a b%").mkdir()
    quoted = "'it'" + '"' + "'" + '"' + "'s'"
    start = f"cd '{tmp_path}/a b\\%' && "
    (tmp_path / "evenkeel-protect").write_text(f"* * * * * ops {start}/bin/echo {quoted} protect --only-logs\n")
    unit = 'ExecStart="/bin/echo" "it\'s" "protect"\n'
    (tmp_path / "evenkeel-protect.service").write_text(f"WorkingDirectory={tmp_path}/elsewhere\n{unit}")
    cat = 'case "$*" in *mail@.service) exit 0; esac; echo No files found; exit 1'
    fakes = {"crontab": "exit 0", "systemd-analyze": "echo Failed to parse; exit 1", "systemctl": cat}
    for name, said in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\nexec >&2\n{said}\n")
        (tmp_path / name).chmod(0o755)
    hosts = {name: {**LOCAL, **case} for name, case in cases.items()}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    play = {
        "hosts": "all",
        "gather_facts": False,
        "environment": {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        "roles": [{"role": "evenkeel.fault_tolerance.schedule"}],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False))
    place = f"{tmp_path}/{{{{ schedule_name }}}}"
    booted = f"schedule_booted='{{{{ booted }}}}' schedule_units='{place}' schedule_entry='{place}'"
    words = ["--check", "--diff", "-i", "hosts.yml", "-e", booted]
    words += ["play.yml"]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections_path()), "ANSIBLE_NOCOLOR": "1"}
    done = run_playbook(words, tmp_path, environment)
    found = dict(re.findall(r'^fatal: \[(\w+)\]: FAILED! => .*"msg": "(.*)"', done.stdout, re.M))
    assert found.keys() == cases.keys() - {"time", "word", "absent", "file", "meant"}, done.stdout + done.stderr
    assert [why for why in found.values() if "Nothing was touched" not in why] == []
    for case, why in {
        "calendar": "without systemd it is one of hourly",
        "unset": "evenkeel_schedule is not set",
        "directory": "and /nowhere is none",
        "program": "there is no program no-such-program",
        "line": "no control characters",
        "secret": "write -e @FILE",
        "misspelt": "no variable is named evenkeel_schedule_comand; there are evenkeel_schedule, ",
        "systemd": "Failed to parse",
        "known": "Failed to parse",
        "suffix": "ends in its sort",
        "alert": "systemd does not know notify@.service (No files found)",
        "name": "letters, digits",
        "another": "there is a schedule evenkeel-protect of another directory or command",
        "unit": "there is a schedule evenkeel-protect of another directory or command",
    }.items():
        assert why in found[case], case
    path = "PATH=/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    job = f"{start}{path} /bin/echo {quoted} protect"
    assert f"+30 02 * * * ops {job}" in done.stdout and f"+@weekly ops {job}" in done.stdout
    assert "evenkeel_key=x" not in re.sub(r"(?m)^fatal.*$", "", done.stdout)


@pytest.mark.parametrize(
    ("words", "good"),
    [
        ("-e evenkeel_key=x", False),
        ("-e @vars.yml", True),
        ("--extra-vars=@vars.yml", True),
        ("--extra-vars=evenkeel_key=x", False),
        ("--extra evenkeel_key=x", False),
        ("-beevenkeel_key=x", False),
        ("-be @f -tdeploy --exit x", True),
    ],
)
def test_the_role_schedule_tells_a_secret_from_a_file(words: str, good: bool) -> None:
    tasks = _all_tasks(ROLES / "schedule/tasks/look.yml")
    (said,) = (one for one in tasks if one["name"] == "Refuse a secret that everybody could read")
    text = "{{ " + said["ansible.builtin.assert"]["that"] + " }}"
    assert _templated(text, schedule_command=["/bin/echo", *words.split()]) is good


def test_the_guard_never_gets_the_failure_domain_of_copies() -> None:
    """A domain that keeps copies apart would have the guard refuse every batch of two domains."""
    given = {}
    for path in sorted(ROLES.glob("*/tasks/*.yml")):
        for task in _all_tasks(path):
            for module in ("ft_guard", "ft_replicate"):
                words = task.get(f"evenkeel.fault_tolerance.{module}")
                if words is not None:
                    said = words["guard_domain" if module == "ft_guard" else "failure_domain"]
                    (given[path.parts[-3]],) = set(re.findall(r"evenkeel_\w*domain", said))
                    options = yaml.safe_load((path.parents[1] / "meta/argument_specs.yml").read_text())
                    assert given[path.parts[-3]] in options["argument_specs"]["main"]["options"]
    assert given == {
        "begin": "evenkeel_guard_domain",
        "restart": "evenkeel_guard_domain",
        "protect": "evenkeel_failure_domain",
        "recover": "evenkeel_failure_domain",
    }


def test_a_spare_gets_the_copies_of_the_lost_host_as_that_host_declares_them(tmp_path: Path) -> None:
    """By Ansible, which shows what the task would be given: a spare is in no group of the lost host."""
    task = _all_tasks(ROLES / "recover/tasks/main.yml")[-1]
    call = task["evenkeel.fault_tolerance.ft_replicate"]
    shown = {key: call[key] for key in ("copies", "peers", "failure_domain")}
    web = {"evenkeel_copies": 2, "evenkeel_peers": ["web1", "web2"], "evenkeel_failure_domain": "rack"}
    other = {"evenkeel_copies": 1, "evenkeel_peers": ["spare"], "evenkeel_failure_domain": "of the inventory"}
    hosts = {"web3": web, "spare": {}, "other": other}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    play = {
        "hosts": "spare,other",
        "gather_facts": False,
        "vars": {"evenkeel_failure_domain": "row"},
        "tasks": [
            {"ansible.builtin.set_fact": {"told": shown}, "when": task["when"]},
            {"debug": {"msg": "{{ told | default({}) }}"}},
        ],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False))
    words = ["-i", "hosts.yml", "play.yml", "-e"]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default"}
    own = {"copies": 1, "peers": ["spare"], "failure_domain": "row"}
    for lost, wanted in {"web3": (known(web), known(web)), "gone": ({}, own), "": ({}, own)}.items():
        done = run_playbook([*words, f"evenkeel_recover_host={lost}" if lost else "{}"], tmp_path, environment)
        told = {
            host: json.loads(text)["msg"]
            for host, text in re.findall(r"^ok: \[(\w+)\] => (\{\n.*?^\})", done.stdout, re.M | re.S)
        }
        assert (told["spare"], told["other"]) == wanted, done.stdout + done.stderr


def known(variables: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("evenkeel_"): value for key, value in variables.items()}


def _all_tasks(file: Path) -> list[dict[str, Any]]:
    """The tasks of a file, those in blocks too."""
    found: list[dict[str, Any]] = []

    def walk(tasks: list[dict[str, Any]]) -> None:
        for task in tasks:
            found.append(task)
            walk([*task.get("block", []), *task.get("rescue", []), *task.get("always", [])])

    walk(yaml.safe_load(file.read_text()) or [])
    return found


def _tasks(role: str) -> dict[str, dict[str, Any]]:
    """The arguments of each module of ours that the role calls."""
    tasks = _all_tasks(ROLES / role / "tasks/main.yml")
    return {key.rpartition(".")[2]: value for task in tasks for key, value in task.items() if ".ft_" in key}


def _templated(text: str, **variables: Any) -> Any:
    return Templar(DataLoader(), variables=variables).template(trust_as_template(text))


def test_a_restart_is_measured_by_the_hosts_that_the_guard_asks() -> None:
    tasks = _tasks("restart")
    assert tasks["ft_restart"]["group"] == tasks["ft_guard"]["group"]


@pytest.mark.parametrize(
    ("variables", "group"),
    [
        ({}, "all"),
        ({"evenkeel_group": "spares"}, "spares"),
        ({"evenkeel_recover_host": "web1", "hostvars": {"web1": {"evenkeel_group": "web"}}}, "web"),
        ({"evenkeel_recover_host": "web1", "hostvars": {"web1": {}}, "evenkeel_group": "web"}, "web"),
    ],
)
def test_a_recovery_is_measured_by_the_hosts_of_the_lost_one(variables: dict[str, Any], group: str) -> None:
    found = _templated(_tasks("recover")["ft_health"]["group"], **{"hostvars": {}, **variables})
    assert found == group


def test_a_recovery_makes_its_copies_also_where_it_is_not_healthy() -> None:
    text = yaml.safe_load((ROLES / "recover/tasks/main.yml").read_text())
    (proved,) = (task for task in text if "block" in task)
    assert any("evenkeel.fault_tolerance.ft_replicate" in task for task in proved["always"])
    assert "min_copies" in _tasks("recover")["ft_replicate"]
