# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A receiver takes what was announced, from one sender, once; a sender connects to one known host with one key."""

from __future__ import annotations

import os
import pwd
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import sending
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import scratch, trust
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.copies import Copied

PUBLIC = "ssh-ed25519 " + "A" * 68
HOST_KEY = "ssh-ed25519 " + "B" * 68


@pytest.fixture(autouse=True)
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(scratch, "_TOP", str(folder))
    monkeypatch.setattr(sending, "_COMES", 5.0)
    monkeypatch.setattr(sending, "_IDLE", 2.0)
    return folder


def pipe() -> str:
    path = scratch.new("run1", os.geteuid())
    scratch.make_pipe(path, os.geteuid())
    return path


def sender(path: str, *pieces: bytes, stays: float = 0.0) -> threading.Thread:
    def write() -> None:
        with open(path, "wb", buffering=0) as stream:
            for piece in pieces:
                stream.write(piece)
            time.sleep(stays)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def all_of(into: list[bytes]) -> Callable[[BinaryIO], Copied]:
    def store(stream: BinaryIO) -> Copied:
        into.append(stream.read())
        return Copied(id="1", state="verified", bytes=len(into[0]))

    return store


def test_what_was_announced_is_stored_and_the_way_in_is_gone(top: Path) -> None:
    path, got = pipe(), list[bytes]()
    sender(path, b"x" * 70_000, b"y" * 30_000)
    found = sending.receive(path, 100_000, all_of(got))
    assert got == [b"x" * 70_000 + b"y" * 30_000] and (found.bytes, found.onward) == (100_000, "")
    assert os.listdir(top) == []


def test_more_than_was_announced_is_refused() -> None:
    path, got = pipe(), list[bytes]()
    sender(path, b"x" * 1001)
    with pytest.raises(Damaged, match="more bytes came"):
        sending.receive(path, 1000, all_of(got))
    assert got == []


def test_less_than_was_announced_ends_early_and_silence_ends_the_transfer() -> None:
    path, got = pipe(), list[bytes]()
    sender(path, b"x" * 10)
    sending.receive(path, 1000, all_of(got))
    assert got == [b"x" * 10]  # The form of a bundle tells that it is cut off.
    path = pipe()
    sender(path, b"x" * 10, stays=20)
    with pytest.raises(EvenkeelError, match="no bytes came within"):
        sending.receive(path, 1000, all_of(got))


def test_nobody_is_awaited_for_ever_nor_after_the_transfer_was_called_off(top: Path) -> None:
    with pytest.raises(EvenkeelError, match="no sender came"):
        sending.receive(pipe(), 10, all_of([]))
    assert os.listdir(top) == []
    path = pipe()
    threading.Timer(0.5, scratch.forget, [path]).start()
    began = time.monotonic()
    with pytest.raises(EvenkeelError, match="called off"):
        sending.receive(path, 10, all_of([]))
    assert time.monotonic() - began < 4


def told(*lines: str) -> System:
    def run(argv: Sequence[str], _timeout: float) -> Completed:
        assert argv[:2] == ["sshd", "-T"]
        return Completed(tuple(argv), 0 if lines else 255, "\n".join(lines), "")

    return replace(System(), run=run)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the login user, with a key in the file that sshd reads."""
    found = tmp_path / "home"
    (found / ".ssh").mkdir(parents=True)
    (found / ".ssh" / "authorized_keys").write_text("ssh-rsa AAAA me\n")
    (tmp_path / "host_key.pub").write_text(f"{HOST_KEY} root@host\n")
    monkeypatch.setattr(trust, "stranger", lambda _path, _owners: "")
    return found


def user(home: Path) -> pwd.struct_passwd:
    """The login user: we ourselves, with another home."""
    me = pwd.getpwuid(os.geteuid())
    return pwd.struct_passwd((me.pw_name, "x", me.pw_uid, me.pw_gid, "", str(home), "/bin/sh"))


def admission(**more: object) -> sending.Admission:
    values: dict[str, object] = {"run": "run1", "public": PUBLIC, "source": "10.0.0.1", "seconds": 600, **more}
    return sending.Admission(**values)  # type: ignore[arg-type]


def test_the_line_lets_a_key_copy_into_one_pipe_and_do_nothing_else(home: Path, tmp_path: Path, top: Path) -> None:
    system = told(f"hostkey {tmp_path}/host_key", "authorizedkeysfile .ssh/authorized_keys .ssh/authorized_keys2")
    found = sending.open_for(system, admission(), user(home), 1000)
    assert (found.room, found.host_keys) == (1000, [HOST_KEY])
    line, rest = (home / ".ssh" / "authorized_keys").read_text().split("\n", 1)
    assert rest == "ssh-rsa AAAA me\n"
    assert line.startswith('restrict,expiry-time="') and line.endswith(f'" {PUBLIC} evenkeel-run1')
    assert 'from="10.0.0.1",' in line
    command = line.partition('command="')[2].rpartition('" ssh')[0]
    got: list[bytes] = []
    feed = subprocess.Popen(["sh", "-c", command, "sh"], stdin=subprocess.PIPE)
    assert feed.stdin is not None
    feed.stdin.write(b"hello")
    feed.stdin.close()
    sending.receive(found.path, 5, all_of(got))
    assert got == [b"hello"] and feed.wait() == 0
    assert (home / ".ssh" / "authorized_keys").read_text() == "ssh-rsa AAAA me\n" and os.listdir(top) == []
    # A second time there is nothing to write to, and nothing comes into being.
    assert subprocess.run(["sh", "-c", command], input=b"again", check=False).returncode != 0
    assert os.listdir(top) == []


def test_a_sender_whom_nobody_awaits_ends_in_time(home: Path, tmp_path: Path) -> None:
    sending.open_for(told(f"hostkey {tmp_path}/host_key"), admission(seconds=1), user(home), 1000)
    line = (home / ".ssh" / "authorized_keys").read_text().split("\n", 1)[0]
    command = line.partition('command="')[2].rpartition('" ssh')[0]
    assert subprocess.run(["sh", "-c", command], input=b"hello", timeout=20, check=False).returncode != 0


@pytest.mark.parametrize(
    "lines, reason",
    [
        (["forcecommand internal-sftp"], "ForceCommand"),
        (["pubkeyauthentication no"], "takes no keys"),
        (["authorizedkeysfile none"], "no file of keys"),
    ],
)
def test_where_sshd_would_do_something_else_nothing_is_written(
    home: Path, tmp_path: Path, top: Path, lines: list[str], reason: str
) -> None:
    with pytest.raises(EvenkeelError, match=reason):
        sending.open_for(told(f"hostkey {tmp_path}/host_key", *lines), admission(), user(home), 1000)
    assert os.listdir(top) == [] and (home / ".ssh" / "authorized_keys").read_text() == "ssh-rsa AAAA me\n"


@pytest.mark.parametrize("more", [{"public": 'ssh-ed25519 A"\nssh-rsa B'}, {"source": '10.0.0.1",command="id'}])
def test_nothing_of_a_sender_can_become_another_line(home: Path, tmp_path: Path, more: dict[str, object]) -> None:
    with pytest.raises((EvenkeelError, ValueError)):
        sending.open_for(told(f"hostkey {tmp_path}/host_key"), admission(**more), user(home), 1000)
    assert (home / ".ssh" / "authorized_keys").read_text() == "ssh-rsa AAAA me\n"


def test_the_next_call_of_a_module_removes_the_line_of_a_killed_run(home: Path, tmp_path: Path, top: Path) -> None:
    sending.open_for(told(f"hostkey {tmp_path}/host_key"), admission(), user(home), 1000)
    scratch.reclaim("run1", time.time() + 60)
    assert (home / ".ssh" / "authorized_keys").read_text() != "ssh-rsa AAAA me\n"  # It is this run's own.
    scratch.reclaim("another", time.time() + 500)
    assert (home / ".ssh" / "authorized_keys").read_text() != "ssh-rsa AAAA me\n"  # It may wait for a slow host.
    scratch.reclaim("another", time.time() + 660)
    assert (home / ".ssh" / "authorized_keys").read_text() == "ssh-rsa AAAA me\n" and os.listdir(top) == []


def test_the_client_knows_one_key_and_one_host_and_reads_no_settings(top: Path) -> None:
    hop = sending.make_key(System(), "run1", "127.0.0.1", 22, 100.0)
    scratch.reclaim("another", time.time() + 60)
    assert hop.source == "127.0.0.1" and hop.public.startswith("ssh-ed25519 ")
    assert os.stat(hop.path).st_mode & 0o777 == 0o600
    target = sending.Target(hop.path, "10.0.0.2", 2222, "ops", [HOST_KEY], 60.0)
    argv = sending._client(target)
    assert argv[:3] == ["ssh", "-F", "none"] and argv[-6:] == ["-p", "2222", "-l", "ops", "--", "10.0.0.2"]
    for setting in ("StrictHostKeyChecking=yes", "BatchMode=yes", "IdentitiesOnly=yes", f"IdentityFile={hop.path}"):
        assert setting in argv
    assert not any("PRIVATE" in word for word in argv)
    name = os.path.basename(os.path.dirname(hop.path))
    assert Path(f"{hop.path}.known").read_text() == f"{name} {HOST_KEY}\n"
    with pytest.raises(EvenkeelError):
        sending.send(sending.Target(hop.path, "127.0.0.1", 1, "ops", [HOST_KEY], 60.0), lambda stream: None)
    assert os.listdir(top) == []


def line(does: str, seconds: float) -> sending._Line:
    """A connection whose client is this shell script."""
    path = scratch.new("run1", os.geteuid())
    Path(path).touch()
    target = sending.Target(path, "10.0.0.2", 22, "ops", [HOST_KEY], seconds)
    return sending._Line(target, ["sh", "-c", does])


def test_a_receiver_that_says_without_end_fills_no_disk(top: Path) -> None:
    there = line("while :; do echo no place for it is here, and more; done >&2", 60.0)
    try:
        with pytest.raises(EvenkeelError, match="ssh to 10.0.0.2"):
            there.end()
        # A busy machine sets the limit a moment after the first words. They end there.
        size = os.fstat(there._said.fileno()).st_size
        time.sleep(0.3)
        assert os.fstat(there._said.fileno()).st_size == size < 64 * sending._WORDS
    finally:
        there.stop()
    assert os.listdir(top) == []


def test_a_receiver_that_takes_a_little_from_time_to_time_holds_nobody_for_ever() -> None:
    there = line("while head -c 4096 >/dev/null; do sleep 0.1; done", 1.0)
    began = time.monotonic()
    try:
        with pytest.raises(EvenkeelError, match="took no more bytes"):
            while time.monotonic() - began < 20:
                there.write(b"x" * 4096)
    finally:
        there.stop()
    assert time.monotonic() - began < 10


def test_the_cheapest_cipher_is_asked_for_first_and_no_other_is_left_out() -> None:
    told = b"user root\nciphers chacha20-poly1305@openssh.com,aes128-ctr,aes128-gcm@openssh.com\ncompression no\n"
    wanted = "aes128-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr"
    for processor in (b"flags\t\t: fpu aes avx\n", b"Features\t: fp asimd aes\n"):
        assert sending._cheapest_first(processor, told) == wanted
    assert sending._cheapest_first(b"flags\t\t: fpu vaes avx\nbugs\t: aes \n", told) == ""
    assert sending._cheapest_first(b"flags\t\t: fpu aes avx\n", told.replace(b"aes128-gcm", b"aes256-gcm")) == ""
    assert sending._cheapest_first(b"flags\t\t: fpu aes avx\n", b"") == ""


class Slow:
    """A next receiver that takes so many bytes at a time."""

    def __init__(self, count: int) -> None:
        self.count = count

    def write(self, view: memoryview) -> int:
        time.sleep(0.05)
        return min(self.count, len(view))

    def stop(self) -> None: ...


def test_a_next_receiver_is_given_up_for_taking_few_bytes_and_not_for_being_the_slower_one() -> None:
    for count, is_given_up in ((1, True), (50, False)):
        onward, slow = sending._Onward(None, 0.3, 60), cast(Any, Slow(count))
        onward._line = slow
        began = time.monotonic()
        onward.write(memoryview(bytes(1000)))
        assert ("too slowly" in onward.why, onward._line is None) == (is_given_up, is_given_up)
        assert time.monotonic() - began > 0.9 or is_given_up
        onward.write(memoryview(bytes(100)))


@pytest.mark.parametrize(
    "more",
    [{"address": "-oProxyCommand=id"}, {"user": "-l"}, {"user": "a b"}, {"host_keys": []}, {"host_keys": ["x\ny z"]}],
)
def test_no_part_of_a_place_is_an_option_of_the_client(more: dict[str, object]) -> None:
    values = {"path": "/x/key", "address": "10.0.0.2", "port": 22, "user": "ops", "host_keys": [HOST_KEY], **more}
    values["seconds"] = 60.0
    with pytest.raises(EvenkeelError, match="is no place"):
        sending.Target(**values)  # type: ignore[arg-type]
