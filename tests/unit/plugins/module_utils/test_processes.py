# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""No process decides how much memory or time its reader takes, nor as which unit's process or as which program it
counts."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import background, patience, processes
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import plain
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.postgresql import cluster
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import running
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.holders import holders
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.places import Places

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="processes of another user need root")
_MAX = 1 << 18


@pytest.fixture
def foreign() -> Iterator[int]:
    """A process of another user that calls itself Patroni."""
    code = "print(flush=True); import time; time.sleep(60)"
    argv = ["/usr/bin/python3", "-c", code, "/usr/bin/patroni"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, user=12345, group=12345, cwd="/") as process:
        assert process.stdout is not None and process.stdout.readline()
        yield process.pid
        process.kill()


def test_an_entry_is_read_up_to_a_limit() -> None:
    code = "print(flush=True); input()"
    argv = [sys.executable, "-c", code, *["x" * 100_000] * 4]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        words = processes.arguments(process.pid)
        process.kill()
    assert words[2:4] == [code.encode(), b"x" * 100_000] and len(b"\0".join(words)) <= _MAX


@needs_root
def test_the_command_line_of_another_user_is_not_read(foreign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def arguments(pid: int) -> list[bytes]:
        read.append(pid)
        return processes.arguments(pid)

    monkeypatch.setattr(background, "arguments", arguments)
    background._jobs(System(), background._Owners({0}, -1), 0.0, 1e12)
    assert foreign not in read
    background._jobs(System(), background._Owners({12345}, -1), 0.0, 1e12)
    assert foreign in read


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A directory like /proc. Whoever reads the memory of the processes 7 and 8, of one user, is held up; 9 is of
    another one. All three have mapped a file that was replaced."""
    monkeypatch.setattr(processes, "_PATIENCE", 0.3)
    for pid, user in (("7", 12345), ("8", 12345), ("9", 54321)):
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "comm").write_text("daemon\n")
        (tmp_path / pid / "status").write_text(f"Uid:\t{user}\t{user}\t{user}\t{user}\n")
        for name, text in (("cmdline", "serve\0--all\0"), ("maps", "7f00-7f01 r-xp 0 08:01 1   /srv/lib (deleted)\n")):
            if pid == "9":
                (tmp_path / pid / name).write_text(text)
            else:
                os.mkfifo(tmp_path / pid / name)
    yield str(tmp_path)
    for pid in "78":
        for name in ("cmdline", "maps"):
            with contextlib.suppress(OSError):  # Nobody waits there.
                os.close(os.open(tmp_path / pid / name, os.O_WRONLY | os.O_NONBLOCK))


def _replaced_in_all(proc: str) -> list[str]:
    return [name for one in holders(lambda path: path, proc=proc) for name in one["processes"]]


@pytest.mark.parametrize(
    ("look", "seen"),
    [
        (lambda proc: [processes.arguments(pid, proc) for pid in "789"], [[], [], [b"serve", b"--all"]]),
        (lambda proc: [running._mapped(int(pid), proc) for pid in "789"], [set(), set(), {("/srv/lib", True)}]),
        (_replaced_in_all, ["daemon[9]"]),
    ],
    ids=["its command line", "what it maps", "who has replaced files"],
)
def test_a_process_that_holds_up_its_reader_is_given_up_and_all_of_its_user(
    held: str, look: Callable[[str], object], seen: object
) -> None:
    """As with a file system of its own (FUSE) in its memory. Its user may have thousands."""
    began = time.monotonic()
    assert look(held) == seen
    assert 0.3 <= time.monotonic() - began < 0.6


def test_a_process_on_which_something_depends_is_read_though_another_of_its_user_has_held_up_its_reader(
    held: str,
) -> None:
    os.remove(f"{held}/8/cmdline")
    Path(held, "8/cmdline").write_text("serve\0--all\0")
    assert processes.arguments("7", held) == processes.arguments("8", held) == []
    assert processes.arguments_of_one("8", held) == [b"serve", b"--all"]
    assert processes.arguments_of_one("7", held) is None


def test_what_was_found_before_a_process_held_up_its_reader_counts(held: str) -> None:
    """What it has mapped up to there, and all that it has open; whoever asked learns which processes are not whole."""
    Path(held, "8/fd/3").symlink_to("/srv/data (deleted)")
    line = "7f00-7f01 r-xp 0 08:01 1   /srv/lib (deleted)\n"
    fifo = os.open(Path(held, "7/maps"), os.O_RDWR)
    os.write(fifo, line.encode())
    skipped: list[str] = []
    found = holders(lambda path: path, proc=held, skip=skipped.append)
    os.close(fifo)
    paths = {name: one["paths"] for one in found for name in one["processes"]}
    assert paths == {"daemon[7]": ["/srv/lib"], "daemon[8]": ["/srv/data"], "daemon[9]": ["/srv/lib"]}
    assert skipped == ["daemon[7]", "daemon[8]"]


@pytest.mark.parametrize("slow", ["its open files", "its mappings"])
def test_a_process_with_very_many_files_holds_nobody_up(held: str, monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    monkeypatch.setattr(processes, "_PATIENCE", 0.2)
    for number in range(20):
        Path(held, f"9/fd/{number}").symlink_to(f"/srv/{number} (deleted)")
    Path(held, "9/maps").write_text("7f00-7f01 r-xp 0 08:01 1   /srv/lib (deleted)\n7f02-7f03 rw-p 0 00:00 0\n" * 20)

    def replaced(path: bytes) -> bytes:
        if (path == b"/srv/lib") == (slow == "its mappings"):
            time.sleep(0.02)
        return path

    for pid in "78":
        os.rename(Path(held, pid), Path(held, f"x{pid}"))
    skipped: list[str] = []
    (found,) = holders(replaced, proc=held, skip=skipped.append)
    for pid in "78":
        os.rename(Path(held, f"x{pid}"), Path(held, pid))
    assert len(found["paths"]) == 21 and not skipped


def test_no_thread_of_the_kernel_is_read(held: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no memory, and is half of the processes of a host."""
    monkeypatch.setattr(processes, "steadily", None)
    Path(held, "7/status").write_text("Name:\tkthreadd\nUid:\t0\t0\t0\t0\nThreads:\t1\n")
    assert processes.patiently("7", list, held) == (set(), True)


@pytest.mark.parametrize("piece", [1 << 16, 7])
def test_mappings_are_told_as_the_kernel_shows_them(tmp_path: Path, piece: int) -> None:
    lines = [
        "55d4-55d5 r--p 00000000 08:1f 77                         /srv/a file (deleted)",
        "55d5-55d6 r-xp 00001000 08:1f 77                         /srv/a file (deleted)",
        "55d6-55d7 r-xp 00002000 08:1f 77                         /srv/a file (deleted)",
        "55d7-55d8 rw-p 00000000 00:00 0 ",
        "55d8-55d9 rw-s 00000000 00:05 9   /dev/zero\\012",
        "7ffd-7ffe r-xp 00000000 00:00 0      [vdso]",
    ]
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "maps").write_text("".join(f"{line}\n" for line in lines))
    found = [
        (one.path, one.number, one.is_code) for some in processes.mappings(7, str(tmp_path), piece) for one in some
    ]
    code = (b"/srv/a file (deleted)", (os.makedev(8, 0x1F), 77), True)
    assert found == [
        (*code[:2], False),
        *([code] if piece > 7 else [code, code]),
        (b"/dev/zero\\012", (os.makedev(0, 5), 9), False),
        (b"[vdso]", (0, 0), True),
    ]


def test_a_process_that_goes_on_for_ever_is_given_up_all_the_same() -> None:
    def steps() -> Iterator[None]:
        while True:
            time.sleep(0.01)
            yield

    began = time.monotonic()
    assert not patience.steadily(0.1, 0.4, steps) and 0.4 <= time.monotonic() - began < 1


def test_an_error_of_work_that_nobody_waits_for_long_is_raised_where_somebody_waits() -> None:
    def work() -> list[None]:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        patience.within(5, work)
    with pytest.raises(ValueError, match="bad"):
        processes.patiently("self", work)


def test_work_after_work_takes_one_thread_and_no_work_waits_for_work_that_is_held_up() -> None:
    threads: list[threading.Thread] = []
    stop = threading.Event()

    def work() -> None:
        threads.append(threading.current_thread())

    assert all(patience.within(5, work) for _turn in range(20)) and len(set(threads)) < 5
    assert not patience.within(0.05, lambda: stop.wait(10))
    assert patience.within(5, work)
    child = os.fork()
    if child == 0:  # It has none of the threads.
        os._exit(0 if patience.within(5, work) else 1)
    assert os.waitpid(child, 0)[1] == 0
    stop.set()
    for one in set(threads):
        one.join(5)
        assert not one.is_alive()


def test_a_process_of_root_that_is_held_up_takes_no_other_with_it(held: str) -> None:
    """As one that waits for a server of files."""
    for pid in "789":
        Path(held, pid, "status").write_text("Uid:\t0\t0\t0\t0\n")
    assert [processes.arguments(pid, held) for pid in "79"] == [[], [b"serve", b"--all"]]


@needs_root
def test_for_the_data_of_a_program_no_memory_of_other_users_is_looked_at(
    held: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "_MIXED", (f"{tmp_path}/opt",))
    (tmp_path / "opt/app/store/now").mkdir(parents=True)
    for folder, _names, _files in os.walk(tmp_path / "opt"):
        os.chown(folder, 54321, -1)
    with open(tmp_path / "opt/app/store/now/log", "w") as stream:
        os.symlink(os.readlink(f"/proc/self/fd/{stream.fileno()}"), tmp_path / "9/fd/3")
        for pid in "789":
            os.symlink("/", tmp_path / pid / "cwd")
            os.symlink("/usr/bin/python3", tmp_path / pid / "exe")
        began = time.monotonic()
        found, _said = plain.left_out([f"{tmp_path}/opt"], [], {}, held)
    assert found == [f"{tmp_path}/opt/app/store"] and time.monotonic() - began < 0.3


def test_files_that_a_process_maps_again_and_again_take_no_memory(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    line = f"7f00-7f01 r-xp 00000000 08:01 1   /srv/{'long' * 200} (deleted)\n"
    (tmp_path / "7" / "maps").write_text(line * 5000 + "x" * (_MAX + 1))
    (tmp_path / "7" / "comm").write_text("daemon\n")
    tracemalloc.start()
    found = holders(lambda path: path, proc=str(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [one["processes"] for one in found] == [["daemon[7]"]] and peak < 4 * _MAX < len(line) * 5000


@pytest.mark.parametrize(
    ("group", "unit", "service"),
    [
        ("0::/system.slice/system-app.slice/app@1.service", "app@1.service", "app@1.service"),
        ("0::/system.slice/app.service/nginx.service", "app.service", "app.service"),
        ("0::/user.slice/user-7.slice/user@7.service/app.slice/nginx.service", "user@7.service", ""),
        ("0::/user.slice/user-7.slice/session-1.scope", "session-1.scope", ""),
        ("0::/machine.slice/libpod-1.scope/system.slice/nginx.service", "libpod-1.scope", ""),
        ("0::/docker/1/system.slice/nginx.service", "", ""),
        (
            "3:cpu:/system.slice/other.service\n1:name=systemd:/system.slice/app.service\n0::/",
            "app.service",
            "app.service",
        ),
        ("", "", ""),
    ],
)
def test_the_unit_of_a_process_is_the_one_that_systemd_made(
    tmp_path: Path, group: str, unit: str, service: str
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(group + "\n")
    places = Places(str(tmp_path))
    assert places.unit("7") == unit and places.service(7) == service


@needs_root
def test_patroni_counts_where_it_can_act_on_the_cluster(foreign: int) -> None:
    assert not cluster._patroni({0, 23456})
    assert cluster._patroni({0, 12345})
