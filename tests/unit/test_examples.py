# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every example that a reader may copy is tried: those of modules and filters, and those of the pages.

An example of a module runs in check mode on a fleet of directories, with the paths and ports of this machine, and a
systemd that says what a healthy one says. An example that does not run says why in ``NOT_RUN``, or on a page in a
comment ``<!-- not run: why -->`` above it; whoever adds a reason names the test that runs the same.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import shutil
import sys
import threading
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils import _adapter
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._variables import OF_THE_DRIVER
from ready_ansible import run_playbook

from evenkeel import cli
from evenkeel.collection import FQCN, collections_path

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "plugins/modules").glob("ft_*.py"))
FILTERS = sorted((ROOT / "plugins/filter").glob("*.yml"))
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "roles").glob("*/README.md")])
# Tasks of modules' examples by name. Their arguments are validated all the same.
NOT_RUN = {
    "Keep the newest checkpoint away from here as well": "needs restic and a server: test_offsite.py",
    "Bring back the newest state of this host, whose store is lost": "needs restic and a server: test_offsite.py",
    "Bring the newest state of web3, which is lost, to this spare": "needs restic and a server: test_offsite.py",
    "Let this spare take the place of web3, as itself": "needs what the one before has brought: test_offsite.py",
    "Put this host back to it": "needs what the one before has brought: test_offsite.py",
    "Back to an older firewall, if we can still get in then": "needs nftables and root: test_system_state.py",
    "Take web1 out of the backend, and wait for its sessions": "needs HAProxy: tests/integration/test_drain.py",
    "Let requests come to it again": "needs HAProxy: tests/integration/test_drain.py",
    "The same for a balancer that has commands": "needs commands of the user's: test_drain.py",
    "Prepare this host to hold 10.0.0.100": "needs that address and root: tests/integration/test_virtual_address.py",
    "Nobody needs the copies of web3 any more": "web3 has left the inventory by then: action/test_heal.py",
    "We can": "needs what the one before has armed: test_system_state.py",
}
SYSTEMCTL = """#!/bin/sh
# Every unit is there and serves.
first=yes
for word; do case $word in
    --property=*) ;;
    *.service) [ -n "$first" ] || echo; first=
        printf '%s\\n' "Id=$word" LoadState=loaded UnitFileState=enabled ActiveState=active SubState=running \\
            InvocationID=0123456789abcdef NRestarts=0 CanReload=yes Job= ActiveEnterTimestampMonotonic=1000000 \\
            FragmentPath=/lib/systemd/system/$word Transient=no CanStop=yes NeedDaemonReload=no ;;
esac; done
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. note: the line above it."""

    page: Path
    line: int
    language: str
    text: str
    note: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def left_out(self) -> bool:
        return re.fullmatch(r"<!-- not run: \w.* -->", self.note) is not None


def blocks(language: str) -> Iterator[Block]:
    for page in PAGES:
        lines = page.read_text().splitlines()
        fences = [number for number, line in enumerate(lines) if line.strip().startswith("```")]
        for begin, end in zip(fences[::2], fences[1::2], strict=True):
            if lines[begin].strip().removeprefix("```") in language.split():
                text = "\n".join(lines[begin + 1 : end]) + "\n"
                yield Block(page, begin + 1, language, text, lines[begin - 1] if begin else "")


def examples(module: Path) -> list[dict[str, Any]]:
    """The tasks of its EXAMPLES."""
    tasks: list[dict[str, Any]] = yaml.safe_load(_examples(module))
    return tasks


def files(module: Path) -> Iterator[tuple[str, str]]:
    """The files that its EXAMPLES show in comments: (name, content), on the directory of a host."""
    for name, lines in re.findall(r"^# (\S+\.yml):\n((?:#   .*\n)+)", _examples(module), re.MULTILINE):
        yield name, json.dumps(yaml.safe_load(lines.replace("#   ", ""))).replace("/opt/", "{{ base }}/opt/")


def _examples(module: Path) -> str:
    found = re.search(r'^EXAMPLES = r"""\n(.*?)"""', module.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{module.name} has no EXAMPLES"
    return found[1]


# -- arguments


class Spec(Exception):
    """How a module calls AnsibleModule."""


def arguments_of(module: str) -> dict[str, Any]:
    """The keywords with which the module makes its AnsibleModule."""

    def caught(**keywords: Any) -> None:
        raise Spec(keywords)

    found = __import__(f"ansible_collections.{FQCN}.plugins.modules.{module}", fromlist=["main"])
    as_we_are = mock.patch.object(_adapter, "mark_as_ours")
    with mock.patch.object(_adapter, "_Module", caught), as_we_are, pytest.raises(Spec) as raised:
        found.main()
    keywords: dict[str, Any] = raised.value.args[0]
    return keywords


RULES = ("mutually_exclusive", "required_together", "required_one_of", "required_if", "required_by")


def invalid(spec: dict[str, Any], given: dict[str, Any], rules: dict[str, Any] | None = None) -> list[str]:
    """What Ansible says against the arguments. A template is of whatever type is asked for."""
    known = {key: value for key, value in given.items() if not (isinstance(value, str) and "{{" in value)}
    for key in given.keys() - known.keys():
        spec = {**spec, key: {"type": "raw"}}
        known[key] = given[key]
    chosen = {key: value for key, value in (rules or {}).items() if key in RULES}
    messages: list[str] = ArgumentSpecValidator(deepcopy(spec), **chosen).validate(known).error_messages
    return messages


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_examples_of_modules_have_valid_arguments(path: Path) -> None:
    tasks = examples(path)
    assert any(f"{FQCN}.{path.stem}" in task for task in tasks)
    for task in tasks:
        for action, given in task.items():
            if action.startswith(f"{FQCN}."):
                keywords = arguments_of(action.rpartition(".")[2])
                assert invalid(keywords["argument_spec"], given or {}, keywords) == [], task["name"]


def test_an_example_that_is_wrong_is_found() -> None:
    keywords = arguments_of("ft_restart")
    assert "mode" in invalid(keywords["argument_spec"], {"name": "nginx", "mode": "tepid"}, keywords)[0]
    assert "nmae" in invalid(keywords["argument_spec"], {"nmae": "nginx"}, keywords)[0]


# -- runs


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Of a web server on this machine."""
    (tmp_path / "site").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *words: Any) -> None:
            super().__init__(*words, directory=str(tmp_path / "site"))

        def log_message(self, *words: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def placed(value: Any, port: int) -> Any:
    """The same on this machine: below the directory of the host, with the port of the web server, and soon over."""
    if isinstance(value, dict):
        return {key: "0.2s" if key == "soak" else placed(one, port) for key, one in value.items()}
    if isinstance(value, list):
        return [placed(one, port) for one in value]
    if isinstance(value, str) and value.startswith("/") and not value.startswith("/usr/"):
        return "{{ base }}" + value
    if isinstance(value, str):
        return re.sub(r"http://localhost(:8080)?/", f"http://127.0.0.1:{port}/", value)
    return port if value == 80 and not isinstance(value, bool) else value


def prepared() -> list[dict[str, Any]]:
    """What the examples take for given: checkpoints with copies on peers, and an undo."""
    nginx = [{"files": {"paths": ["{{ base }}/etc/nginx", "{{ base }}/srv/www"]}}]
    return [
        {f"{FQCN}.ft_checkpoint": {"name": "before-upgrade", "host": "{{ inventory_hostname }}", "resources": nginx}},
        # Bundles lie in /var/tmp, where other tests on this machine may clear away what does not move on.
        {
            f"{FQCN}.ft_replicate": {"copies": 2, "peers": "web"},
            "register": "copied",
            "until": "copied is succeeded",
            "retries": 5,
        },
        {"ansible.builtin.lineinfile": {"path": "{{ base }}/etc/nginx/nginx.conf", "line": "# newer"}},
        {f"{FQCN}.ft_rollback": {"to": "before-upgrade"}},
    ]


def run(home: Path, plays: list[dict[str, Any]], *words: str) -> str:
    """What ansible-playbook prints of them; hosts are directories below ``home``."""
    web = {f"web{n}": {"rack": f"r{n}"} for n in (1, 2, 3)}
    shared = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "base": f"{home}/{{{{ inventory_hostname }}}}",
        "evenkeel_store": "{{ base }}/store",
        "evenkeel_key": "0123456789abcdef" * 4,
        "evenkeel_resources": [{"files": {"paths": ["{{ base }}/etc/nginx", "{{ base }}/srv/www"]}}],
    }
    inventory = {"all": {"vars": shared, "children": {"web": {"hosts": web}}}}
    (home / "inventory.yml").write_text(yaml.safe_dump(inventory))
    (home / "site.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
    return ansible_playbook(home, "-i", "inventory.yml", "site.yml", *words)


def ansible_playbook(home: Path, *words: str) -> str:
    (home / "bin").mkdir(exist_ok=True)
    (home / "bin" / "systemctl").write_text(SYSTEMCTL)
    (home / "bin" / "systemctl").chmod(0o755)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")},
        "ANSIBLE_COLLECTIONS_PATH": str(collections_path()),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_LOCAL_TEMP": str(home / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": "1",
        "PATH": f"{home}/bin:{os.environ['PATH']}",
    }
    done = run_playbook(words, home, environment)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_examples_of_modules_run(tmp_path: Path, port: int, library: Path) -> None:
    for host in ("web1", "web2", "web3"):
        shutil.copytree(library, tmp_path / host / "store")
        for name in ("etc/nginx/nginx.conf", "srv/www/index.html", "srv/app/data"):
            (tmp_path / host / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / host / name).write_text("first\n")
    tasks, names = [], set()
    for path in MODULES:
        for name, content in files(path):
            (tmp_path / name).write_text(content)
        for task in examples(path):
            names.add(task["name"])
            if task["name"] not in NOT_RUN:
                tasks.append({**placed(task, port), "name": f"{path.stem}: {task['name']}"})
    assert set(NOT_RUN) <= names, f"there is no such example: {set(NOT_RUN) - names}"
    play = {"gather_facts": False, "module_defaults": {f"group/{FQCN}.evenkeel": {"store": "{{ evenkeel_store }}"}}}
    before = {**play, "hosts": "web1,web3", "tasks": prepared()}
    checked = {**play, "hosts": "web1", "tasks": [{**one, "check_mode": True} for one in tasks]}
    said = run(tmp_path, [before, checked], "-e", '{"begun": {"generation": 0}}')
    ran = re.findall(r"^TASK \[(ft_\w+: .*)\] \**\n(\w+):", said, re.MULTILINE)
    assert [name for name, _word in ran] == [task["name"] for task in tasks]
    # Nothing is in doubt here; test_doubt.py accepts what is.
    assert [name for name, word in ran if word == "skipping"] == ["ft_accept: I have looked, and mended it by hand"]


def test_operations_of_the_examples_are_repeated_until_they_have_succeeded(tmp_path: Path, library: Path) -> None:
    """For good, with programs that succeed at the third call."""
    shutil.copytree(library, tmp_path / "web1/store")
    app = tmp_path / "web1/opt/app"
    app.mkdir(parents=True)
    third = f"echo . >> {app}/$0-calls; [ $(wc -l < {app}/$0-calls) -gt 2 ] &&"
    (app / "functions").write_text(f"join_cluster() {{ {third} touch {app}/joined; }}\n".replace("$0", "join"))
    (app / "unpack").write_text('#!/bin/sh\necho "$1"\n')
    (app / "start").write_text(f"#!/bin/sh\n{third} echo $1 > {app}/running\n".replace("$0", "start"))
    for name in ("unpack", "start"):
        (app / name).chmod(0o755)
    (module,) = (path for path in MODULES if path.stem == "ft_repeat")
    for name, content in files(module):
        (tmp_path / name).write_text(content)
    wanted = ("Call a function until it has succeeded", "Upgrade in several tasks, from the first one each time")
    shown = [task for task in examples(module) if task["name"] in wanted]
    tasks = json.loads(json.dumps(shown).replace("/opt/", "{{ base }}/opt/"))
    for task in tasks:
        task[f"{FQCN}.ft_repeat"] |= {"store": "{{ evenkeel_store }}", "backoff": "0.1s", "verify_within": "0s"}
    said = run(tmp_path, [{"hosts": "web1", "gather_facts": False, "tasks": tasks}])
    assert said.count("changed: [web1]") == len(wanted)
    assert [len((app / f"{name}-calls").read_text().split()) for name in ("join", "start")] == [3, 3]
    assert (app / "config").read_text() == "version: 42" and (app / "joined").exists()


def digits(number: str) -> int:
    """How many of them count."""
    return len(number.partition("e")[0].replace(".", "").lstrip("0"))


def test_examples_of_filters_come_to_what_they_say(tmp_path: Path) -> None:
    plays: list[dict[str, Any]] = []
    promised = {}
    for path in FILTERS:
        text = yaml.safe_load(path.read_text())["EXAMPLES"]
        (example,) = yaml.safe_load(text)
        if "hosts" in example:
            plays.append({**example, "gather_facts": False, "vars": {"target": "web"}, "tasks": []})
            continue
        said = re.search(r"# (.+)$", text, re.MULTILINE)
        assert said, f"{path.name}: the example does not say what it comes to"
        promised[path.stem] = said[1]
        plays.append({"hosts": "web1", "gather_facts": False, "tasks": [{**example, "name": path.stem}]})
    message = re.compile(r'^TASK \[(\w+)\] \*+\nok: \[web1\] => \{\n +"msg": (.*?)\n\}\n', re.MULTILINE | re.DOTALL)
    found = dict(message.findall(run(tmp_path, plays)))
    assert set(found) == set(promised)
    for name, text in promised.items():
        value = yaml.safe_load(found[name])
        if text.startswith("order "):
            assert value["order"] == text.removeprefix("order ").split(", ")
        else:
            precision = f".{digits(text)}g"
            assert format(float(value), precision) == format(float(text), precision), name


# -- pages


@cache
def variables() -> dict[str, list[dict[str, Any]]]:
    """name -> how each role that takes the variable declares it; none for those of a playbook, and of the driver."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in OF_THE_DRIVER}
    for path in (ROOT / "playbooks").glob("*.yml"):
        for name in re.findall(r"\bevenkeel_\w+", path.read_text()):
            found.setdefault(name, [])
    for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"):
        for name, spec in yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"].items():
            found.setdefault(name, []).append(spec)
    return found


def check_variables(given: dict[str, Any], where: str) -> None:
    known = variables()
    for name, value in given.items():
        assert name in known, f"{where}: {name} is no variable of a role or playbook"
        for spec in known[name]:
            assert invalid({name: spec}, {name: value}) == [], where


def test_yaml_of_the_pages_is_what_ansible_takes(tmp_path: Path) -> None:
    """Variables are validated as the roles declare them; plays and tasks pass the syntax check."""
    files: list[str] = []
    for block in blocks("yaml"):
        if block.left_out:
            continue
        read = yaml.safe_load(block.text)
        if isinstance(read, dict):
            check_variables(read, str(block))
            continue
        plays = [one for one in read if {"hosts", "ansible.builtin.import_playbook"} & set(one)]
        assert plays in ([], read), f"{block}: plays and tasks in one list"
        for one in [*read, *(task for play in plays for task in play.get("tasks", []))]:
            check_variables(one.get("vars", {}), str(block))
        files.append(f"{block.page.stem}-{len(files)}.yml")
        whole = read if plays else [{"hosts": "all", "tasks": read}]
        (tmp_path / files[-1]).write_text(yaml.safe_dump(whole, sort_keys=False))
    assert len(files) > 2
    hosts = "web1,web2,databases,"
    # A playbook of the collection wants its hosts: those of the inventory are enough for it.
    ansible_playbook(tmp_path, "-i", hosts, "-e", "evenkeel_hosts=all", "--syntax-check", *files)


def test_commands_of_the_pages_are_those_of_the_driver_and_the_playbooks() -> None:
    seen = set()
    known = variables()
    for block in blocks("console"):
        for line in re.sub(r"\\\n", "", block.text).splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True) if line.startswith("$ ") else []
            if words[:1] == ["evenkeel"]:
                args = cli.parser().parse_args(words[1:])  # Ends the test where it takes them not.
                playbook = ROOT / "playbooks" / f"{words[1]}.yml"
                if (
                    words[1] != "change"
                    and playbook.is_file()
                    and "evenkeel_hosts | default(none)" in playbook.read_text()
                ):
                    said = args.limit or {"host", "hosts"} & set(vars(args))
                    assert said, f"{block}: this playbook runs on no host unless they are named: {line}"
                seen.add(words[1])
            for word in words[1:] if words[:1] == ["ansible-playbook"] else []:
                if word.startswith(f"{FQCN}."):
                    assert (ROOT / "playbooks" / f"{word.removeprefix(f'{FQCN}.')}.yml").is_file(), block
                if word.startswith("evenkeel_"):
                    assert word.partition("=")[0] in known, block
    assert {"change", "rollback", "protect", "recover", "restart"} <= seen
