# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Streams through openssl: nothing of the secret is seen, and no error of either end is lost."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import openssl

SECRET = "5ec4e7" * 10


def put(data: bytes) -> openssl.Feed:
    return lambda stream: stream.write(data)


def encrypted(data: bytes) -> bytes:
    with openssl.encrypted(SECRET, put(data)) as stream:
        return stream.read()


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_001])
def test_what_was_encrypted_is_decrypted(size: int) -> None:
    data = os.urandom(size)
    cipher = encrypted(data)
    assert len(cipher) == size + openssl.OVERHEAD and cipher != encrypted(data)
    with openssl.decrypted(SECRET, put(cipher)) as stream:
        assert stream.read() == data


def test_it_is_what_openssl_itself_reads() -> None:
    """By hand, with the same options: a copy outlives this project."""
    argv = ["openssl", "enc", "-d", "-aes-256-ctr", "-pbkdf2", "-iter", "10000", "-md", "sha256", "-pass"]
    done = subprocess.run([*argv, f"pass:{SECRET}"], input=encrypted(b"text"), capture_output=True, check=True)
    assert done.stdout == b"text"


def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put this script in the place of openssl."""
    path = tmp_path / "openssl"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_the_secret_is_in_no_argument_and_no_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tmp_path / "said"
    program(tmp_path, monkeypatch, f'echo "$@" >{said}; env >>{said}; exec /usr/bin/openssl "$@"')
    encrypted(b"text")
    assert "-pass fd:" in said.read_text() and SECRET not in said.read_text()


def test_an_error_of_the_source_is_raised_at_the_end() -> None:
    def feed(stream: BinaryIO) -> None:
        stream.write(b"x" * 300_000)
        raise Damaged("this content is damaged")

    with pytest.raises(Damaged, match="this content"), openssl.encrypted(SECRET, feed) as stream:
        stream.read()


@pytest.mark.parametrize("script", ["echo 'no such cipher' >&2; exit 1", "head -c 1000; echo killed >&2; kill -9 $$"])
def test_an_openssl_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program(tmp_path, monkeypatch, script)
    with (
        pytest.raises(EvenkeelError, match="openssl failed on this host.*(no such cipher|killed)"),
        openssl.encrypted(SECRET, put(b"x" * 3_000_000)) as stream,
    ):
        stream.read()


@pytest.mark.parametrize(
    ("script", "said"),
    [("cat", "does not read what it has encrypted"), ("echo 'bad option' >&2; exit 1", "bad option")],
)
def test_an_openssl_that_cannot_do_it_is_found_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    program(tmp_path, monkeypatch, script)
    with pytest.raises(EvenkeelError, match=said):
        openssl.check()


def test_a_reader_that_stops_early_leaves_no_process_and_no_thread() -> None:
    def feed(stream: BinaryIO) -> None:
        while True:
            stream.write(b"x" * 100_000)

    before: Any = threading.active_count()
    with pytest.raises(Damaged), openssl.encrypted(SECRET, feed) as stream:
        stream.read(10)
        raise Damaged("it is garbled")
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon:
            thread.join(5)
    assert threading.active_count() <= before
    assert not subprocess.run(["pgrep", "-P", str(os.getpid()), "openssl"], capture_output=True, check=False).stdout
