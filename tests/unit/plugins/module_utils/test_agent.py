# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent is the whole library, whatever was loaded where it was made, and needs nothing once it is loaded."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import (
    agent,
    changes,
    invocation,
    package,
    units,
    watcher,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Refused
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.flow import finish
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, settle

HERE = Path(package.__file__ or "").parents[1]
# Refuses every import of what is not loaded or built in, as where Python was moved away.
_BLOCKED = """
import sys, _frozen_importlib
path, root = sys.argv[1:3]
sys.argv = [path]
sys.path.insert(0, path)
from evenkeel_agent._deadman import agent
from evenkeel_agent._agent import way_back
finish = way_back()
agent._load_late()
class Nothing:
    def find_spec(self, name, path=None, target=None):
        raise ModuleNotFoundError(f"not loaded: {name}")
sys.meta_path[:] = [_frozen_importlib.BuiltinImporter, _frozen_importlib.FrozenImporter, Nothing()]
sys.path[:] = []
raise SystemExit(agent._until_done(agent.Store(root, agent.System()), 1, finish))
"""


@cache
def imported(path: Path) -> list[Path]:
    """The files that a file imports relatively, as Python reads them."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for one in [base, *(base / alias.name for alias in node.names)]:
                found += [file for file in (one.with_suffix(".py"), one / "__init__.py") if file.is_file()]
    return found


def closure(name: str) -> set[str]:
    """The files that a module of ours imports relatively, directly or not."""
    todo, found = [HERE / name], set()
    while todo:
        path = todo.pop()
        if str(path.relative_to(HERE)) not in found:
            found.add(str(path.relative_to(HERE)))
            todo += imported(path)
    folders = {folder for name in found for folder in Path(name).parents if folder != Path(".")}
    return found | {str(folder / "__init__.py") for folder in folders}


def test_only_an_import_that_begins_its_line_is_one() -> None:
    some = "from . import a  # from .no import no\nif x:\n\tfrom ..b.c import (  # why\n    d as e,\n    f,\n)\n"
    source = some + "'from .no import no'\n"
    assert set(package._imports(source, "p.q.r")) >= {"p.q.r.a", "p.q.b.c.d", "p.q.b.c.f"}
    assert not [name for name in package._imports(source, "p.q.r") if "no" in name]


def test_the_agent_holds_all_that_it_imports() -> None:
    inside = {path.partition("/")[2] for path in package._sources(finish.__module__, finish.__name__) if "/" in path}
    starts = (
        "_deadman/agent.py",
        "_flows/rollback/flow.py",
        "_flows/console.py",
        "_direct.py",
        "_host/archive.py",
    )
    assert inside == {"__init__.py", "_agent.py"}.union(*map(closure, (*starts, "_calls/packed.py")))


@pytest.mark.parametrize("name", ["ft_checkpoint", "ft_rollback"])
def test_modules_that_arm_carry_all_that_their_agent_needs(name: str) -> None:
    """Where the library cannot be sent, Ansible sends a module with what it imports: nothing else can go into the
    agent."""
    source = (HERE.parent / f"modules/{name}.py").read_text()
    sent = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and ".module_utils." in (node.module or ""):
            base = HERE.joinpath(*(node.module or "").partition(".module_utils.")[2].split("."))
            for one in [base, *(base / alias.name for alias in node.names)]:
                if one.with_suffix(".py").is_file():
                    sent |= closure(str(one.with_suffix(".py").relative_to(HERE)))
    starts = ("_deadman/agent.py", "_flows/rollback/flow.py", "_flows/console.py", "_flows/keeping.py")
    assert set().union(*map(closure, starts)) <= sent and "_calls/packed.py" not in sent


def test_the_agent_is_the_same_whatever_else_is_loaded() -> None:
    script = """
import importlib, sys
base = "ansible_collections.evenkeel.fault_tolerance.plugins.module_utils."
for name in sys.argv[1:]:
    importlib.import_module(base + name)
package = importlib.import_module(base + "_deadman.package")
flow = importlib.import_module(base + "_flows.rollback.flow")
# Of the code that is compiled from them, a few bytes tell which texts this process has interned.
print(package._digest(package._sources(flow.__name__, "finish")))
"""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    made = {
        subprocess.run(
            [sys.executable, "-c", script, *names], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for names in ([], ["_flows." + name for name in ("replicas", "scrub", "offsite", "restarting.flow", "info")])
    }
    assert len(made) == 1


def test_a_loaded_agent_needs_no_python_any_more(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "start", lambda *_words: None)
    live = tmp_path / "live"
    live.mkdir()
    (live / "file").write_text("before")
    checkpoint(store, "change", [{"files": {"paths": [str(live)]}}], confirm_within=60.0)
    (live / "file").write_text("after")
    (live / "new").write_text("after")
    armed = Path(store.join("armed"))
    armed.write_text(json.dumps(dict(json.loads(armed.read_text()), due=0.0)))
    (agent,) = Path(store.join("agent")).iterdir()
    argv = ["/usr/bin/env", "python3", "-I", "-c", _BLOCKED, str(agent), store.root]
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (live / "file").read_text() == "before" and not (live / "new").exists()


def test_the_way_back_is_whole_before_it_waits(store: Store) -> None:
    """The change may take the archive away, or Python: nothing of the library, no kind, and nothing of Python that the
    way back uses is loaded later."""
    program = """
import sys
sys.path.insert(0, sys.argv[1])
from evenkeel_agent._agent import way_back
from evenkeel_agent._deadman import agent
way_back()
agent._load_late()
print(*sys.modules)
from evenkeel_agent._resources import registry
sys.path[:], sys.meta_path[:] = [], []
print(*[kind.name for kind in registry.KINDS.values()])
"""
    with store.locked():
        argv = [sys.executable, "-I", "-S", "-c", program, package.install(store, finish)]
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded, kinds = map(str.split, done.stdout.splitlines())
    assert kinds == list(registry.KINDS)
    needed = closure("_deadman/agent.py") | closure("_flows/rollback/flow.py")
    names = {f"evenkeel_agent.{name[:-3]}".replace("/", ".").removesuffix(".__init__") for name in needed}
    assert names <= set(loaded)
    # A process that waits measures no probe: after a planned boot a process of its own does.
    probes = {path for path in needed if path.startswith("_health/")}
    booted = {HERE / path for path in {*probes, "_deadman/booted.py"}}
    importers = {path for path in needed if booted & set(imported(HERE / path))} - {*probes, "_deadman/booted.py"}
    assert importers == {"_deadman/agent.py"} and "ssl" not in loaded
    late = {
        name
        for path in needed - probes
        for node in ast.walk(ast.parse((HERE / path).read_text()))
        for name in (
            [one.name for one in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    # Arming a change, a mistake in a declaration, and tests need these: the way back does not.
    assert late - set(loaded) <= {"argparse", "dataclasses", "difflib", "zipfile", "__future__"}


def test_python_reads_the_code_of_each_module_once(store: Store) -> None:
    program = """
import marshal, sys, types, zipimport
read = []
loads = lambda data: read.append(1) or marshal.loads(data)
sys.path.insert(0, sys.argv[1])
zipimport.marshal = types.SimpleNamespace(loads=loads)
from evenkeel_agent._agent import way_back
way_back()
mine = [one for name, one in sys.modules.items() if name.startswith("evenkeel_agent.")]
for one in mine:
    assert one.__file__ == zipimport.zipimporter.get_filename(one.__loader__, one.__name__), one.__name__
    read.pop()
print(len(mine), len(read))
"""
    with store.locked():
        argv = [sys.executable, "-I", "-c", program, package.install(store, finish)]
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules, times = map(int, done.stdout.split())
    assert modules > 100 and times < modules + 20, done.stdout


def test_a_call_that_arms_loads_no_command_for_a_person(store: Store) -> None:
    program = """
import gc, sys
path, root = sys.argv[1:]
sys.path.insert(0, path)
from evenkeel_agent._calls.checkpoint import ARGUMENTS, work
given = {name: option.get("default") for name, option in ARGUMENTS.items()}
work({**given, "store": root, "resources": [{"files": {"paths": ["/etc/hostname"]}}]}, False)
print(gc.get_threshold()[0], [name for name in sys.modules if name.endswith(("_flows.console", "_flows.keeping"))])
"""
    with store.locked():
        argv = [sys.executable, "-I", "-c", program, package.install(store, finish), store.root]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "20000 []\n"


def test_the_code_that_no_change_loads_is_compressed(tmp_path: Path) -> None:
    path = tmp_path / "agent.pyz"
    path.write_bytes(package._zipapp(package.sources()))
    with zipfile.ZipFile(path) as archive:
        stored = {one.filename for one in archive.infolist() if one.compress_type == zipfile.ZIP_STORED}
    for often in ("_deadman/agent", "_direct", "_calls/settle", "_flows/rollback/run", "_resources/users"):
        assert f"evenkeel_agent/{often}.pyc" in stored
    assert not [path for path in stored if "/_resources/postgresql/" in path], "few hosts have it"
    assert not stored & {f"evenkeel_agent/{seldom}.pyc" for seldom in ("_calls/recover", "_calls/offsite")}


def test_another_python_takes_the_source(tmp_path: Path) -> None:
    """What this Python was made into is for it alone; a broken one is passed over."""
    sources = package._sources(finish.__module__, finish.__name__)
    path = tmp_path / "agent.pyz"
    path.write_bytes(package._zipapp(sources))
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        other = {name: archive.read(name) for name in names}
    assert {name + "c" for name in sources} | {*sources, package._DIGEST} == names
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in other.items():
            archive.writestr(name, data if name.endswith(".py") else b"\0\0\r\n" + data[4:])
    argv = ["/usr/bin/env", "python3", "-I", str(path), "--store", str(tmp_path), "check"]
    assert subprocess.run(argv, cwd="/", check=False).returncode == 0


def test_an_agent_knows_its_sources_without_reading_them(store: Store) -> None:
    """The controller finds it by them (``_found``), and a checkpoint by the same agent leaves it as it is."""
    with store.locked():
        made = package.install(store, finish)
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from evenkeel_agent._deadman import package
from evenkeel_agent._flows.rollback.flow import finish
package._loaded = None
print(package._own_digest(finish))
"""
    argv = [sys.executable, "-I", "-c", script, made]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() == package.digest()


def test_a_timer_that_finds_all_well_loads_no_way_back(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "start", lambda *_words: None)
    (tmp_path / "live").mkdir()
    ensured = []
    monkeypatch.setattr(changes, "ensure_timers", lambda *_words: ensured.append(True))
    change = checkpoint(store, "change", [{"files": {"paths": [str(tmp_path / "live")]}}], confirm_within=60.0)

    def way_back() -> agent.Finish:
        raise AssertionError("it was loaded")

    words = ["--store", store.root, "deadline", "--generation", str(change["generation"])]
    assert agent.main(way_back, words) == 0 and ensured
    armed = Path(store.join("armed"))
    armed.write_text(json.dumps(dict(json.loads(armed.read_text()), due=time.monotonic() + 5.0)))
    with pytest.raises(AssertionError, match="it was loaded"):  # while it waits Python may go
        agent.main(way_back, words)


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_late_timer_leaves_the_next_change_its_timers(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over: bool, meanwhile: bool
) -> None:
    """No lock keeps a timer of the change before from what arming the next change does."""
    monkeypatch.setattr(watcher, "start", lambda *_words: None)
    (tmp_path / "live").mkdir()
    done: list[str] = []

    def arm() -> int:
        change = checkpoint(store, "change", [{"files": {"paths": [str(tmp_path / "live")]}}], confirm_within=60.0)
        return int(change["generation"])

    def end() -> None:
        settle(store, number, [{"command": {"argv": ["true"]}}], 0.0, 0.1, 0.05)

    def note(what: str, next_begins: bool = False) -> None:
        done.append(what)
        if next_begins and meanwhile and len(done) == 1:
            if not over:
                end()
            arm()

    number = arm()
    if over:
        end()
    monkeypatch.setattr(
        changes, "ensure_timers", lambda _store, change, _agent: note(f"ensure {change.generation}", True)
    )
    monkeypatch.setattr(units, "stop_watch", lambda _store: note("stop", True))
    monkeypatch.setattr(units, "start_watch", lambda _store: note("start"))
    words = ["--store", store.root, "deadline", "--generation", str(number)]
    assert agent.main(lambda: finish, words) == 0
    expected = {
        (True, False): ["stop"],
        (True, True): ["stop", "start"],
        (False, False): [f"ensure {number}"],
        (False, True): [f"ensure {number}", f"ensure {number + 1}"],
    }
    assert done == expected[over, meanwhile]
    if over and meanwhile:
        done.clear()
        assert agent.main(lambda: finish, words) == 0 and done == [], "the next change is armed"


def test_a_late_timer_does_not_run_on_for_a_change_that_could_not_be_armed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[int] = []
    monkeypatch.setattr(units, "stop_watch", lambda _store: stopped.append(1))
    monkeypatch.setattr(units, "start_watch", lambda _store: pytest.fail("started"))
    with store.locked():
        Path(store.join("generation")).write_text("8\n")
    words = ["--store", store.root, "deadline", "--generation", "7"]
    assert agent.main(lambda: finish, words) == 0 and not stopped, "the next change is just being armed"
    long_ago = time.time() - 600.0
    os.utime(store.join("generation"), (long_ago, long_ago))
    assert agent.main(lambda: finish, words) == 0 and stopped == [1]


def run_unit(
    store: Store, agent: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> subprocess.CompletedProcess[str]:
    """Run what the unit of the service would run, with this Python as the one that armed."""
    monkeypatch.setattr(units, "python", lambda: python)
    words = units._exec_start(store, str(agent), "check")
    script = words.partition("-c '")[2].removesuffix("'").replace("$$", "$").replace("%%", "%")
    return subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)


def test_the_unit_finds_another_python(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = tmp_path / "agent.pyz"
    agent.write_bytes(package._zipapp(package._sources(finish.__module__, finish.__name__)))
    other = tmp_path / "python3.99"
    other.write_text(f'#!/bin/sh\necho tried >>{tmp_path}/tried; exec {sys.executable} "$@"\n')
    other.chmod(0o755)
    os.makedirs(store.root)
    Path(store.join("armed")).write_text("{}")
    monkeypatch.setattr(units, "PYTHONS", f"/bin/false {other}")
    assert run_unit(store, agent, "/nowhere/python3", monkeypatch).returncode == 0
    assert (tmp_path / "tried").read_text().count("tried") == 2, "asked for its version, then run"
    monkeypatch.setattr(units, "PYTHONS", "/bin/false")
    done = run_unit(store, agent, "/nowhere/python3", monkeypatch)
    assert done.returncode == 1 and "no Python on this host has run" in done.stdout
    os.unlink(store.join("armed"))
    assert run_unit(store, agent, "/nowhere/python3", monkeypatch).returncode == 0, "nothing is started over and over"


@pytest.mark.parametrize("name", ["agent.pyz", f"evenkeel-{'0' * 76}.pyz"])
def test_a_name_is_the_same_path_in_every_locale(name: str) -> None:
    """The same as in a call of the controller (``test_library.py``)."""
    options = invocation.agent_arguments(name)
    options = options[: options.index("-c") if "-c" in options else options.index(name)]
    argv = [sys.executable, *options, "-c", "import sys; print(sys.flags.utf8_mode, sys.flags.isolated)"]
    done = subprocess.run(argv, env={"LC_ALL": "C.UTF-8"}, capture_output=True, text=True, check=True)
    assert done.stdout == "1 1\n"


@pytest.mark.parametrize("exchanged", ["not", "content", "link", "fifo"])
def test_the_agent_runs_only_as_it_was_installed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: str
) -> None:
    """The hash is in the name that the units of root hold; what lies below a store that a change has opened up is not
    believed for its place."""
    with store.locked():
        agent = Path(package.install(store, finish))
    if exchanged != "not":
        evil = tmp_path / "evil.pyz"
        with zipfile.ZipFile(evil, "w") as archive:
            for name in ("__main__.py", "evenkeel_agent/__init__.py", "evenkeel_agent/_agent.py"):
                archive.writestr(name, f"open({str(tmp_path / 'pwned')!r}, 'w')\ndef main(): return 0\n")
        assert subprocess.run([sys.executable, "-I", str(evil)], check=True) and (tmp_path / "pwned").exists()
        (tmp_path / "pwned").unlink()
        agent.unlink()
        if exchanged == "content":
            evil.rename(agent)
        else:
            agent.symlink_to(evil) if exchanged == "link" else os.mkfifo(agent)
    Path(store.join("armed")).write_text("{}")
    monkeypatch.setattr(units, "PYTHONS", "")
    done = run_unit(store, agent, sys.executable, monkeypatch)
    assert not (tmp_path / "pwned").exists()
    assert (done.returncode == 0) == (exchanged == "not"), done.stderr
    if exchanged == "content":
        assert f"{agent} is not as it was installed" in done.stderr
    if exchanged != "not":
        with pytest.raises(Refused, match="its watcher does not start"):
            watcher.start(store, 1, str(agent))
        assert not (tmp_path / "pwned").exists()


def test_a_damaged_agent_is_written_anew(store: Store) -> None:
    with store.locked():
        agent = Path(package.install(store, finish))
        whole = agent.read_bytes()
        assert package.install(store, finish) == str(agent)
        agent.chmod(0o600)
        agent.write_bytes(whole[:-1])
        again = Path(package.install(store, finish))
    assert again.read_bytes() == whole or again != agent
    assert invocation.agent_hash(str(again)) == hashlib.sha256(again.read_bytes()).hexdigest()


@pytest.mark.skipif(os.geteuid() != 0, reason="somebody else's directory needs root")
def test_no_python_in_somebodys_directory_is_tried(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, owner in (("roots", 0), ("users", 12345)):
        (tmp_path / name / "bin").mkdir(parents=True)
        (tmp_path / name / "bin" / "python3").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name / "bin" / "python3").chmod(0o755)
        os.chown(tmp_path / name / "bin", owner, owner)
    monkeypatch.setattr(units, "_MORE_PYTHONS", f"{tmp_path}/*/bin/python3")
    words = units._exec_start(store, "/agent.pyz", "check")
    assert f"{tmp_path}/roots/bin/python3" in words and "users/bin" not in words


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")
@pytest.mark.parametrize("disk", ["full", "read-only"])
def test_the_deadline_holds_on_a_disk_that_is(tmp_path: Path, disk: str) -> None:
    """The store's own disk. What is protected lies on another one, as it would on a host with several."""
    place, live = tmp_path / "disk", tmp_path / "live"
    place.mkdir()
    live.mkdir()
    (live / "file").write_text("before")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", place], check=False).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        store = Store(str(place / "store"), replace(System(), has_systemd=lambda: False))
        checkpoint(store, "change", [{"files": {"paths": [str(live)]}}], confirm_within=4.0)
        (live / "file").write_text("after")
        if disk == "full":
            with suppress(OSError), open(place / "fill", "wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(4096))
            assert os.statvfs(place).f_bfree == 0
        else:
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        limit = time.monotonic() + 60
        while changes.armed(store) is not None and time.monotonic() < limit:
            time.sleep(0.1)
        event = changes.last_event(store)
        assert event is not None and event.outcome == "rolled_back" and (live / "file").read_text() == "before"
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
