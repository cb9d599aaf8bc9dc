# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One line of a file of keys comes and goes; nothing else in it changes, and no link of its owner is followed."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import authorized
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.authorized import Entry

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="somebody else's file needs root")
NOW = 1_800_000_000.0
KEY = "ssh-ed25519 AAAA"


def ours(until: float, run: str = "run1") -> str:
    return f'restrict,expiry-time="{authorized.expiry(until)}",command="exec true" {KEY} evenkeel-{run}'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "authorized_keys"
    path.write_bytes(b'# mine\nssh-rsa AAAA me@home\r\nfrom="*.x" ssh-rsa BBBB evenkeel-lookalike\n\xff\xfe odd')
    path.chmod(0o640)
    return path


def entry(path: Path, line: str = "", owner: int | None = None) -> Entry:
    return Entry(str(path), os.geteuid() if owner is None else owner, line or ours(NOW + 60))


def test_a_line_comes_and_goes_and_every_other_byte_stays(file: Path) -> None:
    before, mode = file.read_bytes(), stat.S_IMODE(file.stat().st_mode)
    authorized.add(entry(file), NOW)
    assert file.read_bytes() == ours(NOW + 60).encode() + b"\n" + before
    assert stat.S_IMODE(file.stat().st_mode) == mode
    authorized.remove(entry(file))
    assert file.read_bytes() == before and os.listdir(file.parent) == [file.name]


def test_attributes_of_the_file_stay(file: Path) -> None:
    try:
        os.setxattr(file, "user.context", b"ssh_home")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    authorized.add(entry(file), NOW)
    assert os.getxattr(file, "user.context") == b"ssh_home"


def test_lines_of_killed_runs_go_once_their_time_is_over_and_others_stay(file: Path) -> None:
    over, running = ours(NOW - 1, "killed"), ours(NOW + 1, "another")
    file.write_text(f"{over}\n{running}\n{KEY} me\n")
    authorized.add(entry(file), NOW)
    assert file.read_text() == f"{ours(NOW + 60)}\n{running}\n{KEY} me\n"


def test_the_time_is_that_of_the_system_whatever_the_zone_of_this_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    said = authorized.expiry(NOW)
    environment = {key: value for key, value in os.environ.items() if key != "TZ"}
    date = ["date", "-d", f"@{NOW:.0f}", "+%Y%m%d%H%M%S"]
    assert said == subprocess.run(date, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert os.environ["TZ"] == "Pacific/Kiritimati"


def test_what_is_no_plain_file_of_the_user_is_left_alone(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "shadow"
    target.write_text("root:x")
    link, twin, pipe = tmp_path / "link", tmp_path / "twin", tmp_path / "pipe"
    link.symlink_to(target)
    os.link(target, twin)
    os.mkfifo(pipe)
    for path in (link, twin, pipe, tmp_path):
        with pytest.raises(EvenkeelError, match="could not be changed"):
            authorized.add(entry(path), NOW)
    assert target.read_text() == "root:x" and link.is_symlink()
    folder = tmp_path / "folder"
    folder.symlink_to(tmp_path)
    with pytest.raises(EvenkeelError):
        authorized.add(entry(folder / file.name), NOW)
    file.write_bytes(b"x" * 1_100_000)
    with pytest.raises(EvenkeelError, match="more than"):
        authorized.add(entry(file), NOW)


@needs_root
def test_a_user_cannot_lead_root_anywhere(tmp_path: Path) -> None:
    """The change is made with the rights of the owner: not even a file that root could write is reached."""
    user = pwd.getpwnam("nobody")
    home, secret = tmp_path / "home", tmp_path / "secret"
    home.mkdir()
    secret.mkdir(mode=0o700)
    (secret / "authorized_keys").write_text("of root\n")
    for path in tmp_path.parents:
        if path != Path("/"):
            path.chmod(path.stat().st_mode | 0o111)
    tmp_path.chmod(0o755)
    os.chown(home, user.pw_uid, user.pw_gid)
    (home / "up").symlink_to(secret)
    with pytest.raises(EvenkeelError):
        authorized.add(entry(home / "up" / "authorized_keys", owner=user.pw_uid), NOW)
    assert (secret / "authorized_keys").read_text() == "of root\n"
    keys = home / "authorized_keys"
    keys.write_text(f"{KEY} me\n")
    os.chown(keys, user.pw_uid, user.pw_gid)
    authorized.add(entry(keys, owner=user.pw_uid), NOW)
    assert keys.stat().st_uid == user.pw_uid and keys.read_text().endswith(f"\n{KEY} me\n")


def test_a_file_that_is_gone_has_no_line_to_remove(tmp_path: Path) -> None:
    authorized.remove(entry(tmp_path / "gone"))
    with pytest.raises(EvenkeelError, match="it is gone"):
        authorized.add(entry(tmp_path / "gone"), NOW)


def test_the_file_is_the_first_that_sshd_reads(tmp_path: Path) -> None:
    me = pwd.getpwuid(os.geteuid())
    user = pwd.struct_passwd((me.pw_name, "x", me.pw_uid, me.pw_gid, "", str(tmp_path), "/bin/sh"))
    (tmp_path / ".ssh").mkdir()
    patterns = [".ssh/authorized_keys", f"{tmp_path}/keys-%u-%%"]
    with pytest.raises(EvenkeelError, match="no file of keys"):
        authorized.file_of(user, patterns)
    (tmp_path / f"keys-{me.pw_name}-%").touch()
    if os.geteuid() != 0:  # As root, others could replace a file below the directory of a test.
        assert authorized.file_of(user, patterns)[0] == f"{tmp_path}/keys-{me.pw_name}-%"
        (tmp_path / ".ssh" / "authorized_keys").touch()
        assert authorized.file_of(user, patterns)[0] == f"{tmp_path}/.ssh/authorized_keys"
