# SPDX-License-Identifier: GPL-3.0-or-later

"""A stream encrypted by ``openssl enc`` (AES-256-CTR). A ciphertext without its secret tells its size alone.

The cipher does not notice a changed or shortened ciphertext: the caller compares its SHA-256. A secret is random, and
belongs to one stream. It goes to openssl over a pipe, never as an argument, and nothing here is written to a disk.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from typing import IO, BinaryIO, Callable, cast

from .._errors import EvenkeelError
from .commands import environment

# A ciphertext is longer than its text by the word Salted__ and a salt.
OVERHEAD = 16
_BUFFER = 256 * 1024
# Versions of OpenSSL and LibreSSL have other defaults: everything is given here. A secret is no password that could be
# guessed, so the number of iterations is the lowest that all of them take for a default.
_CIPHER = ("enc", "-aes-256-ctr", "-pbkdf2", "-iter", "10000", "-md", "sha256", "-salt", "-bufsize", str(_BUFFER))
_SET_PIPE_SIZE = 1031  # fcntl.F_SETPIPE_SZ, which Python has from 3.10 on
_PIPE_SIZE = 1024 * 1024
_MISSING = (
    "openssl is not installed on this host, and encrypted copies need it: install the package openssl, and run again"
)

# Writes the whole input into the stream.
Feed = Callable[[BinaryIO], object]


def check() -> None:
    """EvenkeelError unless openssl is here and reads what it has encrypted. Called before anything is sent."""
    text, secret = os.urandom(1000), os.urandom(32).hex()
    with encrypted(secret, lambda stream: stream.write(text)) as made:
        cipher = made.read()
    with decrypted(secret, lambda stream: stream.write(cipher)) as found:
        plain = found.read()
    if len(cipher) != len(text) + OVERHEAD or plain != text:
        raise EvenkeelError("openssl does not read what it has encrypted on this host: reinstall it, and run again")


@contextmanager
def encrypted(secret: str, feed: Feed) -> Iterator[BufferedReader]:
    """The ciphertext of what ``feed`` writes, to be read to its end.

    ``feed`` runs in a thread of its own. Its error is raised at the end: until then the ciphertext must not be used.
    """
    with _openssl("-e", secret, feed) as stream:
        yield stream


@contextmanager
def decrypted(secret: str, feed: Feed) -> Iterator[BufferedReader]:
    """The text of the ciphertext that ``feed`` writes, as ``encrypted``."""
    with _openssl("-d", secret, feed) as stream:
        yield stream


@contextmanager
def _openssl(direction: str, secret: str, feed: Feed) -> Iterator[BufferedReader]:
    process = _started(direction, secret)
    errors: list[BaseException] = []
    feeder = threading.Thread(target=_feed, args=(process.stdin, feed, errors), daemon=True)
    feeder.start()
    try:
        yield _there(process.stdout)
        feeder.join()
        if process.wait() or [error for error in errors if isinstance(error, BrokenPipeError)]:
            said = _there(process.stderr).read(2000).decode("utf-8", "replace").strip().replace("\n", " / ")
            raise EvenkeelError(f"openssl failed on this host: {said or process.returncode}")
        for error in errors:
            raise error
    finally:
        process.kill()
        process.wait()
        # The feeder may wait for its own source: it ends with the next byte that nobody takes.
        _there(process.stdout).close()
        _there(process.stderr).close()


def _started(direction: str, secret: str) -> subprocess.Popen[bytes]:
    variables = environment()
    program = shutil.which("openssl", path=variables["PATH"])
    if program is None:
        raise EvenkeelError(_MISSING)
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function  # its streams are read while it runs
            [program, *_CIPHER, direction, "-pass", f"fd:{reading}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[reading],
            bufsize=_BUFFER,
            env=variables,
        )
        os.write(writing, secret.encode("ascii") + b"\n")
    except OSError as error:
        raise EvenkeelError(f"openssl cannot be started on this host: {error.strerror}") from error
    finally:
        os.close(reading)
        os.close(writing)
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):  # A user may have no room for larger pipes: these are only slower.
            fcntl.fcntl(_there(stream).fileno(), _SET_PIPE_SIZE, _PIPE_SIZE)
    return process


def _feed(stream: BinaryIO, feed: Feed, errors: list[BaseException]) -> None:
    try:
        with stream:
            feed(stream)
    except BaseException as error:
        errors.append(error)


def _there(stream: IO[bytes] | None) -> BufferedReader:
    """The stream of a process: it has all three."""
    return cast(BufferedReader, stream)
