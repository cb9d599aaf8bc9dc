# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever the user's Ansible is set to: what works with ``ansible`` works here, and a login that confirms is new."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import logins, processes

from .conftest import Fleet

# New logins are shut out; a connection that is open stays.
SHUT = """
- hosts: site
  gather_facts: false
  tasks:
    - name: Let no new login in
      ansible.builtin.copy:
        dest: /etc/nftables.conf
        content: |
          flush ruleset
          table inet filter {
            chain input {
              type filter hook input priority 0;
              tcp dport 22 ct state new drop;
            }
          }
        mode: "0755"
    - name: Load it
      ansible.builtin.systemd_service: {name: nftables, state: reloaded}
"""
WRITE = """
- hosts: site
  gather_facts: false
  become: true
  tasks:
    - name: Publish version 2
      ansible.builtin.copy: {dest: /srv/www/index.html, content: "<h1>version 2</h1>", mode: "0644"}
"""


@pytest.fixture
def sockets() -> Iterator[str]:
    """A directory for sockets, whose paths have to be short; their connections are closed at the end."""
    with tempfile.TemporaryDirectory(prefix="ek-", dir="/tmp") as path:
        yield path
        for socket in Path(path).glob("*"):
            subprocess.run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "x"], capture_output=True, check=False)


def shared(sockets: str, name: str) -> str:
    return f"-o ControlMaster=auto -o ControlPersist=10m -o ControlPath={sockets}/{name}-%h"


@pytest.mark.long
def test_wherever_a_control_path_is_set_an_open_connection_confirms_no_lock_out(fleet: Fleet, sockets: str) -> None:
    """Each host has it in another place of the inventory, or in the user's own configuration of ssh."""
    config = fleet.home / "ssh_config"
    theirs = f"Host *\n    ControlMaster auto\n    ControlPersist 10m\n    ControlPath {sockets}/4-%h\n"
    config.write_text(theirs + fleet.lab.ssh_config.read_text())
    reach = f"-F {fleet.lab.ssh_config}"
    hosts: dict[str, dict[str, str]] = {
        "web1": {"ansible_ssh_common_args": f"{reach} {shared(sockets, '1')}"},
        "web2": {"ansible_ssh_extra_args": shared(sockets, "2")},
        "web3": {"ansible_ssh_args": shared(sockets, "3")},
        "web4": {"ansible_ssh_common_args": f"-F {config}", "ansible_ssh_args": "-C"},
        "web5": {"ansible_control_path": f"{sockets}/5-%%h"},
    }
    (fleet.home / "inventory" / "z.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    code, result = fleet.change(
        fleet.playbook("shut.yml", SHUT), "--waves", "100%", "--confirm-within", "90s", timeout=400
    )
    assert {one["host"]: one["state"] for one in result["hosts"]} == dict.fromkeys(hosts, "rolled_back"), result
    assert code == 2
    assert all(fleet.lab.ssh(host, ["true"]).returncode == 0 for host in hosts)
    assert all(fleet.state(host)["by"] == "deadline" for host in hosts)


@pytest.mark.long
@pytest.mark.parametrize("key", ["ssh_args", "control_path"])
def test_nor_one_of_ansible_cfg_and_nor_in_the_role(fleet: Fleet, sockets: str, key: str) -> None:
    value = shared(sockets, "c") if key == "ssh_args" else f"{sockets}/c-%%h"
    (fleet.home / "ansible.cfg").write_text(f"[ssh_connection]\n{key} = {value}\n")
    (fleet.home / "tasks.yml").write_text(yaml.safe_dump(yaml.safe_load(SHUT)[0]["tasks"]))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "evenkeel.fault_tolerance.change"]
    variables = {"evenkeel_hosts": "web2", "evenkeel_tasks": "tasks.yml", "evenkeel_confirm_within": "60s"}
    role = subprocess.Popen(
        [*argv, "-i", "inventory", "-e", json.dumps(variables)], cwd=fleet.home, env=fleet.environment()
    )
    try:
        words = ["--limit", "web1", "--confirm-within", "60s"]
        code, result = fleet.change(fleet.playbook("shut.yml", SHUT), *words)
        assert (code, result["hosts"][0]["state"]) == (2, "rolled_back"), result
        assert role.wait(timeout=120) != 0
        assert fleet.disarmed("web2", 90) and fleet.state("web2")["outcome"] == "rolled_back"
    finally:
        role.kill()


@pytest.mark.parametrize(
    "become", ["", "sudo sh -c ", *(pytest.param(one, marks=pytest.mark.long) for one in ("sudo ", "sudo su -c "))]
)
def test_a_host_tells_a_new_login_from_a_session_in_an_old_one(fleet: Fleet, sockets: str, become: str) -> None:
    """As the module does it: from below, whoever it has become."""
    library = "".join(Path(str(one.__file__)).read_text() for one in (processes, logins))
    library = re.sub(r"(?m)^from (__future__|\.\w+) import .*$", "", library)
    source = f"from __future__ import annotations\n{library}\nprint(age(4.0), age(600.0))\n"
    python = "'python3 -'" if become.endswith("-c ") else "python3 -"
    ssh = ["ssh", "-F", str(fleet.lab.ssh_config), "-l", "ops"]
    socket = f"{sockets}/old"

    def ask(control_path: str) -> str:
        argv = [*ssh, "-o", f"ControlPath={control_path}", "web1", become + python]
        return subprocess.run(argv, input=source, capture_output=True, text=True, check=True).stdout.strip()

    subprocess.run([*ssh, "-o", "ControlMaster=yes", "-o", f"ControlPath={socket}", "-fN", "web1"], check=True)
    time.sleep(6)
    assert ask(socket) == "old new"
    assert ask("none").endswith("new")
    assert "old" not in ask("none")
    script = f"cat >/tmp/login.py <<'X'\n{source}X\npython3 /tmp/login.py"
    assert fleet.on("web1", script).strip() == "not shown not shown"


@pytest.mark.long
def test_where_sudo_wants_a_terminal_a_change_goes_without_pipelining(fleet: Fleet) -> None:
    fleet.on("web1", "echo 'Defaults requiretty' >/etc/sudoers.d/zz-tty; chmod 440 /etc/sudoers.d/zz-tty")
    try:
        inventory = fleet.home / "inventory" / "hosts.yml"
        inventory.write_text(fleet.lab.inventory_as("ops").read_text())
        environment = {key: value for key, value in fleet.environment().items() if key != "ANSIBLE_PIPELINING"}
        fleet.playbook("write.yml", WRITE)
        argv = [sys.executable, "-m", "evenkeel.cli", "change", "write.yml", "-i", "inventory", "-b", "--json"]
        argv += ["--limit", "web1", "--confirm-within", "3m"]
        done = subprocess.run(argv, cwd=fleet.home, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["hosts"][0]["login"] == "new"
        assert fleet.serves("web1", "version 2")
    finally:
        fleet.on("web1", "rm /etc/sudoers.d/zz-tty")


@pytest.mark.long
def test_what_is_advised_takes_the_change_back_whatever_was_recorded_since(fleet: Fleet) -> None:
    """Two hosts keep the change and the third fails; then comes the checkpoint of every night."""
    broken = WRITE + "    - ansible.builtin.fail: {msg: broken}\n      when: inventory_hostname == 'web3'\n"
    words = ["-i", "inventory", "--limit", "web1,web2,web3", "--waves", "2,1"]
    code, out = fleet.evenkeel("change", fleet.playbook("broken.yml", broken), *words, timeout=600)
    assert code == 5 and "KEPT IN PART" in out
    advised = next(line for line in out.splitlines() if line.startswith("  evenkeel rollback"))
    for host in ("web1", "web2"):
        assert fleet.serves(host, "version 2")
        fleet.module(host, "ft_checkpoint", name="nightly", resources=[{"files": {"paths": ["/srv/www"]}}])
    code, out = fleet.evenkeel(*shlex.split(advised)[1:], timeout=600)
    assert code == 0 and "nothing to do" not in out
    assert all(fleet.serves(host, "version 1") and fleet.differs(host) == "" for host in ("web1", "web2"))


def test_one_refused_login_does_not_undo_a_rollback(fleet: Fleet) -> None:
    """The first login after the rollback is turned away, as by an sshd that is busy or just reloads."""
    fleet.module("web1", "ft_checkpoint", name="calm", resources=[{"files": {"paths": ["/srv/www"]}}])
    once = (
        "if [ -e /var/lib/evenkeel/armed ] && [ ! -e /run/refused ]; then touch /run/refused; exit 255; fi\n"
        'exec sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    fleet.on("web1", f"rm -f /run/refused; printf '%s' '{once}' >/run/once; echo version 2 >/srv/www/index.html")
    fleet.on("web1", "echo 'ForceCommand sh /run/once' >>/etc/ssh/sshd_config; systemctl reload ssh")
    code, out = fleet.evenkeel("rollback", "-i", "inventory", "--limit", "web1", timeout=600)
    assert fleet.on("web1", "ls /run/refused", check=False)
    assert code == 0 and fleet.serves("web1", "version 1") and not fleet.armed("web1"), out


# ---- no hosts needed: three directories, reached by local connections


@dataclass
class Directories:
    home: Path

    def run(self, environment: dict[str, str], *words: str) -> tuple[int, dict[str, Any], str]:
        """Exit code, JSON document and all else that was printed, in an environment without a setting of ours."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        argv = [sys.executable, "-m", "evenkeel.cli", *words, "--json"]
        done = subprocess.run(
            argv, cwd=self.home, env={**kept, **environment}, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        err = done.stderr.decode(errors="replace")
        return done.returncode, json.loads(done.stdout), err


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    hosts = {}
    for host in ("h1", "h2"):
        site = tmp_path / host / "site"
        site.mkdir(parents=True)
        hosts[host] = {
            "site": str(site),
            "evenkeel_store": str(tmp_path / host / "store"),
            "evenkeel_resources": [{"files": {"paths": [str(site)]}}],
            "evenkeel_probes": [{"command": {"argv": ["true"]}}],
        }
    everything = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {"all": {"vars": everything, "children": {"web": {"hosts": hosts}}}}
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump(inventory))
    (tmp_path / "site.yml").write_text(
        """
- hosts: web
  gather_facts: false
  tasks:
    - name: Skip
      ansible.builtin.command: "true"
      when: false
    - name: Write
      ansible.builtin.copy: {dest: "{{ site }}/f", content: new, mode: "0644"}
      notify: Go on
  handlers:
    - name: Go on
      ansible.builtin.command: "true"
"""
    )
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "loud.py").write_text(
        """
from ansible.plugins.callback import CallbackBase

class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "loud"
    CALLBACK_NEEDS_ENABLED = True

    def v2_runner_on_ok(self, result):
        print('{"loud": 1}')
        raise ValueError("loud breaks {0} %s [/x]")
"""
    )
    (plugins / "noisy.py").write_text(
        """
from ansible.plugins.inventory import BaseInventoryPlugin

class InventoryModule(BaseInventoryPlugin):
    NAME = "noisy"

    def verify_file(self, path):
        return path.endswith("noisy.yml")

    def parse(self, inventory, loader, path, cache=True):
        print("{not json")
        print("[warning] this takes long")
        print('{"a": 1}')
"""
    )
    (tmp_path / "noisy.yml").write_text("plugin: noisy\n")
    (tmp_path / "password").write_text("secret\n")
    return Directories(tmp_path)


# Each of these by itself was met in somebody's ansible.cfg or environment; what does not exclude each other is put to
# the test together, as each of two runs takes seconds.
@pytest.mark.parametrize(
    ("settings", "environment"),
    [
        pytest.param(
            {
                "defaults": "verbosity=5\nlog_path=./a.log\ncallbacks_enabled=timer,nosuch.thing.cb,junit,tree\n"
                "display_skipped_hosts=false\ndisplay_ok_hosts=false\ncallback_result_format=yaml\nnonsense=1\n"
                "display_args_to_stdout=True\nshow_custom_stats=True\nshow_task_path_on_failure=True\n"
                "check_mode_markers=True\nansible_managed=%%(x)s %%Y {{ foo }}\nremote_tmp=./rt\nlocal_tmp=./lt",
                "diff": "always=yes",
                "galaxy": "server_list=a",
                "nonsense": "a=b",
            },
            {
                "ANSIBLE_FORCE_COLOR": "1",
                "FORCE_COLOR": "1",
                "COLUMNS": "20",
                "ANSIBLE_DISPLAY_TRACEBACK": "always",
                "ANSIBLE_DEVEL_WARNING": "1",
                "ANSIBLE_CALLBACK_TREE_DIR": "./tree",
                "ANSIBLE_STDOUT_CALLBACK": "minimal",
            },
            id="shown",
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"defaults": "callback_plugins=plugins\ncallbacks_enabled=loud\nlog_path=/proc/nope/a.log"},
            {"ANSIBLE_DEBUG": "1", "TERM": "dumb", "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "ascii"},
            id="debug",
            marks=pytest.mark.long,
        ),
        pytest.param(
            {
                "defaults": "strategy=free\nany_errors_fatal=True\ntask_timeout=30\ngathering=smart\n"
                "fact_caching=jsonfile\nfact_caching_connection=./facts\nhash_behaviour=merge\n"
                "vault_password_file=./password\nvault_identity_list=dev@./password\nenable_task_debugger=True",
                "tags": "skip=always",
                "inventory": "export=True",
            },
            {
                "ANSIBLE_NO_LOG": "true",
                "ANSIBLE_INJECT_FACT_VARS": "false",
                "ANSIBLE_FORCE_HANDLERS": "1",
                "ANSIBLE_KEEP_REMOTE_FILES": "1",
                "ANSIBLE_HOST_PATTERN_MISMATCH": "error",
                "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1",
                "ANSIBLE_PLAYBOOK_VARS_ROOT": "all",
            },
            id="run",
        ),
        pytest.param(
            {
                "defaults": "inventory=./inventory.yml,./noisy.yml\ninventory_plugins=plugins\nstrategy=host_pinned\n"
                "pipelining=False\nstdout_callback=oneline",
                "inventory": "enable_plugins=noisy,yaml",
                "ssh_connection": "pipelining=False",
            },
            {"TERM": "", "LC_ALL": "", "LANG": "", "ANSIBLE_VERBOSITY": "4", "ANSIBLE_VERBOSE_TO_STDERR": "1"},
            id="inventory",
            marks=pytest.mark.long,
        ),
    ],
)
def test_what_ansible_can_be_set_to_does_not_break_a_change_or_a_status(
    settings: dict[str, str], environment: dict[str, str], directories: Directories
) -> None:
    text = "".join(f"[{section}]\n{lines}\n" for section, lines in settings.items())
    (directories.home / "ansible.cfg").write_text(text)
    inventory = [] if "inventory=" in settings["defaults"] else ["-i", "inventory.yml"]
    code, result, err = directories.run(environment, "change", "site.yml", *inventory)
    assert code == 0, (result, err)
    assert {one["state"] for one in result["hosts"]} == {"confirmed"} and "Traceback" not in err
    assert (directories.home / "h2" / "site" / "f").read_text() == "new"
    assert {one["login"] for one in result["hosts"]} == {"none"}, "a local connection needs no login"
    code, result, err = directories.run(environment, "status", *inventory)
    assert code == 0 and set(result["hosts"]) == {"h1", "h2"}, (result, err)


def test_a_configuration_with_which_ansible_does_not_work_is_one_sentence(directories: Directories) -> None:
    (directories.home / "ansible.cfg").write_text("[defaults]\nforks = many\n")
    code, result, err = directories.run({}, "status", "-i", "inventory.yml")
    assert code == 1 and re.search(r"forks|FORKS|many", result["reason"]) and "Traceback" not in err
