# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy of a process that has loaded Ansible carries out a run of our own playbook, as a process of its own would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import evenkeel
from evenkeel.ansible.answering import MARK
from evenkeel.ansible.asking import OWN, Ready, program, quiet
from evenkeel.ansible.configuration import ask_ansible
from evenkeel.ansible.event import Event, about
from evenkeel.ansible.runner import Ended, Job, Runner

pytest.importorskip("ansible_runner")
# Prints its settings, and the defaults that Ansible's classes have taken from them.
SETTINGS = """
import json, os
from ansible import constants
from ansible.playbook import block, play, task
from ansible.plugins.loader import callback_loader
from ansible.utils import color
kinds = (block.Block, play.Play, task.Task)
found = {name: value for name, value in vars(constants).items() if name.isupper()}
found |= {f"{kind.__name__}.{name}": one.default for kind in kinds for name, one in kind.fattributes.items()}
found = {name: sorted(map(repr, one)) if isinstance(one, (set, frozenset)) else repr(one) for name, one in found.items()
         if not callable(one)}
found |= {"callbacks": callback_loader.config, "color": color.ANSIBLE_COLOR}
open(os.environ["EK_TEST"], "w").write(json.dumps(found))
"""
# A program whose worker has a session of its own, as Ansible's workers have.
WORKER = "import os,sys,time\nif not os.fork():\n    os.setsid()\n    time.sleep(600)\n"


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Path]:
    """The socket of a process that takes over runs."""
    ansible = ask_ansible(str(tmp_path))
    path = tmp_path / "ready"
    assert ansible.ready.take_runs(path)
    yield path


def processes() -> list[psutil.Process]:
    """The processes that have loaded Ansible, without their copies."""
    return [one for one in psutil.Process().children() if any("answering.py" in word for word in one.cmdline())]


def job(tmp_path: Path, code: str, ready: Path | str, env: Mapping[str, str] | None = None, **more: object) -> Job:
    script = tmp_path / "ansible-playbook"
    script.write_text(f"#!{sys.executable}\n{code}")
    script.chmod(0o755)
    settings = {**quiet({}), **ask_ansible(str(tmp_path)).environment(), **OWN, "EK_TEST": str(tmp_path / "found")}
    settings.pop("ANSIBLE_LOG_PATH")
    settings |= env or {}
    return Job([str(script)], str(tmp_path), settings, more.get("passwords", {}), tmp_path, ready=str(ready))  # type: ignore[arg-type]


def execute(job: Job, stop: Callable[[], str] = str, on_event: Callable[[Event], None] = lambda _event: None) -> Ended:
    return Runner(job.cwd, job.scratch).execute(job, on_event, stop)


def carried_out_by(tmp_path: Path) -> int:
    """The parent of the program."""
    return int((tmp_path / "found").read_text())


PARENT = "import os\nopen(os.environ['EK_TEST'], 'w').write(str(os.getppid()))\n"


def test_the_settings_are_those_of_a_process_of_its_own(tmp_path: Path, ready: Path) -> None:
    found = []
    for path in (ready, ""):
        code = f"{SETTINGS}raise SystemExit(3)"
        assert execute(job(tmp_path, code, path)) == Ended(3)
        found.append(json.loads((tmp_path / "found").read_text()))
    copy, alone = found
    # The directory of each run; the log of the process leads to nowhere.
    theirs = {"DEFAULT_LOCAL_TMP", "COLLECTIONS_PATHS", "DEFAULT_CALLBACK_PLUGIN_PATH", "callbacks"}
    assert {name for name in alone if copy.get(name) != alone[name]} <= theirs
    for name in theirs - {"DEFAULT_LOCAL_TMP"}:
        assert copy[name] == alone[name], name
    assert copy["DEFAULT_LOCAL_TMP"] != alone["DEFAULT_LOCAL_TMP"]
    assert os.path.dirname(copy["DEFAULT_LOCAL_TMP"]) == os.path.dirname(alone["DEFAULT_LOCAL_TMP"])


def test_a_copy_takes_over_what_it_can_and_nothing_else(tmp_path: Path, ready: Path) -> None:
    (process,) = processes()
    execute(job(tmp_path, PARENT, ready))
    assert carried_out_by(tmp_path) == process.pid
    for env in (
        {"ANSIBLE_NO_LOG": "True"},  # Ansible has read it when it was loaded.
        {"ANSIBLE_STRATEGY": "free"},
        {"ANSIBLE_LOG_PATH": str(tmp_path / "log")},
        {"ANSIBLE_CALLBACK_PLUGINS": str(tmp_path)},
    ):
        execute(job(tmp_path, PARENT, ready, env))
        assert carried_out_by(tmp_path) != process.pid, env
    execute(job(tmp_path, PARENT, ready, {"ANSIBLE_GATHERING": "smart"}))  # This one is read by each run.
    assert carried_out_by(tmp_path) == process.pid
    execute(job(tmp_path, PARENT, ready, passwords={"^Password:": "x"}))
    assert carried_out_by(tmp_path) != process.pid
    this, beside = job(tmp_path, PARENT, ready), tmp_path / "beside"
    beside.mkdir()
    (beside / "play.yml").write_text("[]")
    for name in ("", "strategy_plugins/linear.py", "connection_plugins/ssh.py"):
        if name:
            (beside / name).parent.mkdir()
            (beside / name).write_text("")
        execute(replace(this, argv=[*this.argv, str(beside / "play.yml")]))
        assert (carried_out_by(tmp_path) == process.pid) is (not name), name
        if name:
            (beside / name).unlink()
    (tmp_path / "ansible.cfg").write_text("[defaults]\nforks = 7\n")  # A process of its own would read it.
    execute(this)
    assert carried_out_by(tmp_path) != process.pid
    (tmp_path / "ansible.cfg").unlink()
    execute(this)
    assert carried_out_by(tmp_path) == process.pid
    process.kill()
    process.wait()
    assert execute(job(tmp_path, PARENT, ready)) == Ended(0)


def test_somebody_who_goes_or_says_nonsense_ends_neither_the_process_nor_its_copies(
    tmp_path: Path, ready: Path
) -> None:
    (process,) = processes()
    for said in (b"", b"{", b"{\n", b"[]\n", b'{"argv": 1}\n', b"x" * 100_000):
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(ready))
            one.sendall(said)
    execute(job(tmp_path, PARENT, ready))
    assert carried_out_by(tmp_path) == process.pid
    end = time.monotonic() + 10
    while process.children() and time.monotonic() < end:
        time.sleep(0.1)
    assert process.children() == [], "a copy must not serve beside the process"


def test_a_run_does_not_wait_for_a_process_that_stands_still(tmp_path: Path, ready: Path) -> None:
    (process,) = processes()
    execute(job(tmp_path, PARENT, ready))
    process.suspend()
    try:
        began = time.monotonic()
        assert execute(job(tmp_path, PARENT, ready), lambda: "late" if time.monotonic() > began + 60 else "") == Ended(
            0
        )
        assert carried_out_by(tmp_path) != process.pid
        (tmp_path / "found").unlink()
    finally:
        process.resume()
    time.sleep(1)
    assert not (tmp_path / "found").exists(), "the run must not begin a second time"


def test_it_takes_no_run_over_when_ansible_was_replaced(tmp_path: Path) -> None:
    package = tmp_path / "other" / "ansible"
    package.parent.mkdir()
    found = subprocess.run(
        [sys.executable, "-c", "import ansible, os; print(os.path.dirname(ansible.__file__))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    package.mkdir()
    for name in os.listdir(found):
        (package / name).symlink_to(Path(found, name))
    (package / "constants.py").unlink()
    (package / "constants.py").write_bytes(Path(found, "constants.py").read_bytes())
    env = {**quiet(os.environ), "PYTHONPATH": str(package.parent)}
    ready, path = Ready(), tmp_path / "ready"
    ready.run([program("ansible-inventory"), "--list", "-i", "web1,"], str(tmp_path), env, {})
    (process,) = processes()
    assert ready.take_runs(path)
    more = {"PYTHONPATH": env["PYTHONPATH"]}
    execute(job(tmp_path, PARENT, path, more))
    assert carried_out_by(tmp_path) == process.pid
    text = (package / "constants.py").read_bytes()
    (package / "constants.py").unlink()
    (package / "constants.py").write_bytes(text)
    execute(job(tmp_path, PARENT, path, more))
    assert carried_out_by(tmp_path) != process.pid


def test_a_playbook_runs_as_in_a_process_of_its_own(tmp_path: Path, ready: Path) -> None:
    (tmp_path / "play.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  connection: local\n  tasks:\n"
        '  - ansible.builtin.debug: {msg: \'{{ inventory_hostname }} {{ lookup("env", "EK_TEST") | basename }}\'}\n'
        "  - ansible.builtin.fail: {msg: no}\n    when: inventory_hostname == 'web2'\n"
    )
    found = []
    for path in (ready, ""):
        events: list[Event] = []
        this = job(tmp_path, "", path)
        this = replace(this, argv=[program("ansible-playbook"), "-i", "web1,web2,", "play.yml"])
        ended = execute(this, on_event=events.append)
        assert ended.rc == 2 and not ended.errors
        found.append(sorted((str(one["event"]), str(about(one)[1].get("msg"))) for one in events))
    assert found[0] == found[1] and ("runner_on_ok", "web1 found") in found[0]


def test_a_run_that_ends_before_its_time_leaves_no_process_behind(tmp_path: Path, ready: Path) -> None:
    events: list[Event] = []
    code = f"{WORKER}print('up', flush=True)\ntime.sleep(600)"
    ended = execute(job(tmp_path, code, ready), lambda: "too late" if events else "", events.append)
    assert ended.stopped == "too late" and not _ours(tmp_path)
    assert execute(job(tmp_path, f"{WORKER}os.kill(os.getpid(), 9)", ready)).rc is None
    assert not _ours(tmp_path)
    assert execute(job(tmp_path, PARENT, ready)) == Ended(0)  # The process still takes runs over.
    assert carried_out_by(tmp_path) == processes()[0].pid


def test_a_signal_to_the_program_that_stands_for_a_run_reaches_the_run(tmp_path: Path, ready: Path) -> None:
    code = (
        "import signal,sys,time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('up', flush=True)\ntime.sleep(600)"
    )

    def on_event(event: Event) -> None:
        if "up" in str(event.get("stdout")):
            found = [
                one for one in psutil.Process().children(recursive=True) if "handing.py" in " ".join(one.cmdline())
            ]
            found[0].terminate()

    assert execute(job(tmp_path, code, ready), on_event=on_event) == Ended(5)


def test_each_run_has_names_and_ends_of_threads_of_its_own(tmp_path: Path, ready: Path) -> None:
    code = (
        "import os,threading,time\nfrom ansible.utils.vars import get_unique_id\n"
        "def work():\n    time.sleep(0.5)\n    open(os.environ['EK_TEST'], 'w').write(get_unique_id())\n"
        "threading.Thread(target=work).start()\n"
    )
    found = []
    for _ in range(2):
        execute(job(tmp_path, code, ready))
        found.append((tmp_path / "found").read_text())
        (tmp_path / "found").unlink()
    assert found[0] and found[0] != found[1]


@pytest.mark.parametrize("victim", ["driver", "child", "stand-in"])
def test_a_run_ends_with_each_process_that_it_needs(victim: str, tmp_path: Path) -> None:
    code = f"{WORKER}print('up', flush=True)\ntime.sleep(600)"
    (tmp_path / "ansible-playbook").write_text(f"#!{sys.executable}\n{code}")
    (tmp_path / "ansible-playbook").chmod(0o755)
    driver = (
        "import sys\nfrom pathlib import Path\nfrom evenkeel.ansible.asking import OWN, quiet\n"
        "from evenkeel.ansible.configuration import ask_ansible\nfrom evenkeel.ansible.runner import Job, Runner\n"
        f"here={str(tmp_path)!r}\nansible=ask_ansible(here)\nassert ansible.ready.take_runs(Path(here,'ready'))\n"
        "env={**quiet({}),**ansible.environment(),**OWN,'EK_TEST':'x'}\n"
        "job=Job([here+'/ansible-playbook'],here,env,{},Path(here),ready=here+'/ready')\n"
        "runner=Runner(here,Path(here))\n"
        "print(runner.execute(job,lambda event: print(event.get('stdout',''),flush=True),lambda: ''),flush=True)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(evenkeel.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert any("up" in line for line in process.stdout)
        whole = psutil.Process(process.pid).children(recursive=True)
        words = {"driver": driver, "child": "evenkeel.ansible.child", "stand-in": "handing.py"}
        known = [psutil.Process(process.pid), *whole]
        next(one for one in known if any(words[victim] in word for word in one.cmdline())).kill()
        rest = process.stdout.read()
    assert "rc=None" in rest or victim == "driver"
    _, alive = psutil.wait_procs(whole, timeout=30)
    assert len(whole) >= 4 and not alive


def _ours(tmp_path: Path) -> list[psutil.Process]:
    """The processes of runs in this directory, after a moment."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        found = []
        for one in psutil.process_iter():
            try:
                mark = one.environ().get(MARK, "")
                if one.cwd() == str(tmp_path) and mark.strip("0") and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(one)
            except psutil.Error:
                pass
        if not found:
            return []
        time.sleep(0.1)
    return found
