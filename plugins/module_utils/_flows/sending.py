# SPDX-License-Identifier: GPL-3.0-or-later

"""Bytes straight from one host to another, over an SSH connection that is good for one transfer.

The sender makes a key for the transfer. The receiver lets this key in with one line, whose forced command copies what
comes into a FIFO that a waiting receiver reads: the key reads nothing, removes nothing and runs nothing else. Once the
first byte has come, the line and the FIFO are gone. Nothing here knows the meaning of the bytes.
"""

from __future__ import annotations

import fcntl
import io
import ipaddress
import os
import pwd
import re
import resource
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Callable, cast

from .._dataclasses import dataclass
from .._errors import Damaged, EvenkeelError
from .._host import authorized, scratch
from .._host.commands import environment
from .._host.system import System
from .._host.trust import read_small
from .._results.copies import Copied, Hop, Opened, Received

# Seconds in which a sender has to come, and in which the next bytes have to come or go.
_COMES = 60.0
_IDLE = 60.0
# The fewest bytes that the next receiver of a chain has to take in that time. It may lie behind a slow line.
_SLOW = 4 << 20
# The pipes; and the buffers before them, which larger pieces pass by without a copy.
_PIPE = 1024 * 1024
# Bytes that an ssh client may say.
_WORDS = 64 * 1024
_BUFFER = 64 * 1024
_CHEAP = "aes128-gcm@openssh.com"
_PUBLIC = r"ssh-ed25519 [A-Za-z0-9+/=]{40,200}"
_HOST_KEY = r"[a-z0-9@.-]{3,60} [A-Za-z0-9+/=]{40,2000}"
_PLACE = r"[A-Za-z0-9_][A-Za-z0-9_.:%-]{0,254}"
_FOLDERS = "/etc/ssh"
Write = Callable[[BinaryIO], None]


@dataclass(frozen=True)
class Target:
    """The receiver of a transfer: the scratch path of the sender's key for it, its address, and how it is known; and
    the seconds in which all bytes have to go."""

    path: str
    address: str
    port: int
    user: str
    host_keys: Sequence[str]
    seconds: float

    def __post_init__(self) -> None:
        keys = all(re.fullmatch(_HOST_KEY, one) for one in self.host_keys) and len(self.host_keys) > 0
        if not keys or not re.fullmatch(_PLACE, self.address) or not re.fullmatch(r"[^\s@-][^\s@]{0,100}", self.user):
            raise EvenkeelError(f"{self.user!r} at {self.address!r} is no place for a connection, or has no host key")


# -- the sender


def make_key(system: System, run: str, address: str, port: int, seconds: float = 0.0) -> Hop:
    """A key for one transfer within these seconds, in a scratch directory of ours, and the address from which this host
    reaches the target, where it tells. EvenkeelError where this host has no OpenSSH client."""
    if not shutil.which("ssh", path=environment()["PATH"]):
        raise EvenkeelError("this host has no ssh client")
    path = scratch.new(run, os.geteuid())
    try:
        scratch.keep(path, system.now() + seconds)
        made = system.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], 60.0)
        if made.rc != 0:
            raise EvenkeelError(f"ssh-keygen made no key: {made.words}")
        with open(path + ".pub", encoding="ascii") as stream:
            public = stream.read().strip()
    except BaseException:
        with suppress(OSError):
            scratch.forget(path)
        raise
    return Hop(path=path, public=public, source=_own_address(address, port))


def _own_address(address: str, port: int) -> str:
    """The address of this host towards the target; empty where it is not known. Nothing is sent."""
    with suppress(OSError, ValueError):
        family, kind, number, _name, place = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, number) as probe:
            probe.connect(place)
            return str(ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]))
    return ""


def send(target: Target, write: Write) -> None:
    """Connect to the target, and give it what ``write`` writes. The key is gone afterwards.

    EvenkeelError where the connection does not come about or breaks; the errors of ``write``.
    """
    line = _Line(target)
    try:
        stream = io.BufferedWriter(line, _BUFFER)
        write(stream)
        stream.flush()
        line.end()
    finally:
        line.stop()


class _Line(io.RawIOBase):
    """A connection to a target: an ssh client and its input. ``stop`` ends it in any case, and removes the key.

    ``client``: the command of another client.
    """

    def __init__(self, target: Target, client: Sequence[str] = ()) -> None:
        self._target, self._place = target, f"{target.address} port {target.port}"
        # The directory of the key is not taken for a leftover of a killed run while we have the key open.
        self._key = open(target.path, "rb")  # noqa: SIM115 - closed by stop
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self._process = subprocess.Popen(  # pylint: disable=ansible-bad-function  # it takes a stream
            client or _client(target),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            env=environment(),
        )
        # The receiver decides what the client says: with more words it ends, and leaves no core
        for limit, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, _WORDS)):
            with suppress(OSError, ValueError):  # A lower limit is there already.
                resource.prlimit(self._process.pid, limit, (most, most))
        self._until = time.monotonic() + target.seconds
        self._input = cast(BinaryIO, self._process.stdin)
        os.set_blocking(self._input.fileno(), False)
        _widen(self._input.fileno())
        self._poll = select.poll()
        self._poll.register(self._input.fileno(), select.POLLOUT)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        while (left := self._until - time.monotonic()) > 0 and self._poll.poll(int(min(_IDLE, left) * 1000)):
            try:
                return os.write(self._input.fileno(), data)
            except BlockingIOError:
                continue
            except BrokenPipeError:
                self.end()
                break
        raise EvenkeelError(f"{self._place} took no more bytes")

    def end(self) -> None:
        """Close the connection. EvenkeelError unless the receiver has taken all bytes."""
        self._input.close()
        try:
            rc = self._process.wait(_IDLE)
        except subprocess.TimeoutExpired:
            raise EvenkeelError(f"{self._place} did not end the connection within {_IDLE:g} s") from None
        if rc != 0:
            self._said.seek(0)
            words = self._said.read(8192).decode("utf-8", "replace").strip().splitlines()
            raise EvenkeelError(f"ssh to {self._place}: {words[-1].strip() if words else f'ended with {rc}'}")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._input, self._said, self._key):
            stream.close()
        with suppress(OSError, EvenkeelError):
            scratch.forget(self._target.path)


def _client(target: Target) -> list[str]:
    """The command of the client. It reads no configuration, and knows the keys of this target alone."""
    name = os.path.basename(os.path.dirname(target.path))
    known = target.path + ".known"
    with open(known, "w", encoding="ascii", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
        stream.writelines(f"{name} {key}\n" for key in target.host_keys)
    options = {
        "BatchMode": "yes",
        "ClearAllForwardings": "yes",
        "Compression": "no",
        "ConnectTimeout": "10",
        "ControlMaster": "no",
        "ControlPath": "none",
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": name,
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "IdentityFile": target.path,
        "LogLevel": "ERROR",
        "PreferredAuthentications": "publickey",
        "ServerAliveCountMax": "3",
        "ServerAliveInterval": "5",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "UserKnownHostsFile": known,
    }
    if ciphers := _offered():
        options["Ciphers"] = ciphers
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    return ["ssh", "-F", "none", "-T", *words, "-p", str(target.port), "-l", target.user, "--", target.address]


def _offered() -> str:
    """The ciphers that the client asks for, as it tells them; those that cost this processor least come first."""
    with suppress(OSError, subprocess.SubprocessError), open("/proc/cpuinfo", "rb") as stream:
        processor = stream.read(16384)
        done = subprocess.run(  # pylint: disable=ansible-bad-function  # as the client itself
            ["ssh", "-F", "none", "-G", "--", "localhost"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            env=environment(),
            check=False,
        )
        return _cheapest_first(processor, done.stdout)
    return ""


def _cheapest_first(processor: bytes, told: bytes) -> str:
    """All ciphers of the client's settings, AES-GCM first where the processor has AES: it takes half the time of the
    usual first choice. Servers that lack it agree on another. Empty where the client's own order stays."""
    found = re.search(rb"(?m)^ciphers ([a-z0-9@.,-]+)$", told)
    known = found[1].decode("ascii").split(",") if found else []
    if _CHEAP not in known or not re.search(rb"(?m)^(?:flags|Features)\s*:.* aes(?: |$)", processor):
        return ""
    return ",".join(sorted(known, key=lambda one: one != _CHEAP))


# -- the receiver


@dataclass(frozen=True)
class Admission:
    """The sender that is let in: its key, its address where it is known, and the seconds for the transfer."""

    run: str
    public: str
    source: str
    seconds: int


def open_for(system: System, admission: Admission, user: pwd.struct_passwd, room: int) -> Opened:
    """Let the sender in as the login user. EvenkeelError, with the reason, where sshd would not
    let it in as we mean it. Nothing stays behind then."""
    if not re.fullmatch(_PUBLIC, admission.public):
        raise EvenkeelError(f"{admission.public[:60]!r} is no key of a sender")
    source = f'from="{ipaddress.ip_address(admission.source)}",' if admission.source else ""
    owner = user.pw_uid
    settings = _sshd(system, user.pw_name, admission.source or "127.0.0.1")
    _refuse_unfit(settings)
    host_keys = _host_keys(settings.get("hostkey", []))
    file, keeper = authorized.file_of(user, (settings.get("authorizedkeysfile") or [".ssh/authorized_keys"])[0].split())
    now = system.now()
    path = scratch.new(admission.run, owner)
    try:
        scratch.keep(path, now + admission.seconds)
        scratch.make_pipe(path, owner)
        # By sh: the login shell may be one in which a redirection means something else.
        # Nobody may ever read the FIFO: to open it takes part of the time.
        command = f"exec timeout {admission.seconds} sh -c '[ -p {path} ] && exec cat >{path}'"
        until = authorized.expiry(now + admission.seconds)
        line = (
            f'restrict,expiry-time="{until}",{source}command="{command}" {admission.public} '
            f"{authorized.MARK}{admission.run}"
        )
        scratch.admit(path, authorized.Entry(file, keeper, line), now)
    except BaseException:
        with suppress(OSError, EvenkeelError):
            scratch.forget(path)
        raise
    return Opened(path=path, user=user.pw_name, room=room, host_keys=host_keys)


def _sshd(system: System, user: str, address: str) -> dict[str, list[str]]:
    """The settings of sshd for this login, where it tells them."""
    told = system.run(["sshd", "-T", "-C", f"user={user},host={address},addr={address}"], 20.0)
    found: dict[str, list[str]] = {}
    for line in told.out.splitlines() if told.rc == 0 else ():
        key, _space, value = line.partition(" ")
        found.setdefault(key.lower(), []).append(value.strip())
    return found


def _refuse_unfit(settings: dict[str, list[str]]) -> None:
    """EvenkeelError where sshd would run another command, or take no key."""
    command = (settings.get("forcecommand") or ["none"])[0]
    if command != "none":
        raise EvenkeelError("sshd there has a ForceCommand for the login user")
    if (settings.get("pubkeyauthentication") or ["yes"])[0] == "no":
        raise EvenkeelError("sshd there takes no keys (PubkeyAuthentication no)")


def _host_keys(files: Sequence[str]) -> list[str]:
    """The public keys of the host: those that sshd names, or those in its usual place."""
    if not files and os.path.isdir(_FOLDERS):
        names = [one for one in sorted(os.listdir(_FOLDERS)) if re.fullmatch("ssh_host_.*_key", one)]
        files = [os.path.join(_FOLDERS, one) for one in names]
    found = []
    for file in files:
        with suppress(OSError, UnicodeDecodeError):
            key = " ".join(read_small(f"{file}.pub", 16384)[0].decode("ascii").split()[:2])
            if re.fullmatch(_HOST_KEY, key):
                found.append(key)
    if not found:
        raise EvenkeelError("no host keys of an OpenSSH server are there")
    return found


def receive(path: str, size: int, store: Callable[[BinaryIO], Copied], onward: Target | None = None) -> Received:
    """Wait for the sender at the FIFO ``path``, and have what comes stored, as it comes: ``size`` bytes and no more.

    With ``onward`` the same bytes go on to the next receiver. A failure there does not hinder the copy here.
    EvenkeelError where no sender comes.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    next_one = _Onward(onward)
    try:
        try:
            _widen(fd)
            _await(fd, path)
        finally:
            # From here on the key of the sender lets nobody in.
            with suppress(OSError, EvenkeelError):
                scratch.forget(path)
        with io.BufferedReader(_Inflow(fd, size, next_one), _BUFFER) as stream:
            found = store(stream)
        next_one.end()
    finally:
        next_one.stop()
        os.close(fd)
    return Received(**vars(found), onward=next_one.why)


def _await(fd: int, path: str) -> None:
    """Wait for the first bytes. EvenkeelError where none come, or the path is gone: somebody has called it off."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    for _turn in range(int(_COMES * 5)):
        if poll.poll(200):
            return
        if not os.path.lexists(path):
            raise EvenkeelError("the transfer was called off, and nothing was stored")
    raise EvenkeelError(f"no sender came within {_COMES:g} s, and nothing was stored")


class _Inflow(io.RawIOBase):
    """The bytes of a FIFO: as many as were announced. Damaged where more of them come."""

    def __init__(self, fd: int, size: int, onward: _Onward) -> None:
        self._fd, self._left, self._onward = fd, size, onward
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: self._left]
        if not view:
            return 0
        count = self._some(view)
        self._left -= count
        self._onward.write(view[:count])
        if count and not self._left and self._some(memoryview(bytearray(1))):
            raise Damaged("more bytes came than were announced; nothing of them was kept")
        return count

    def _some(self, view: memoryview) -> int:
        if not self._poll.poll(int(_IDLE * 1000)):
            raise EvenkeelError(f"no bytes came within {_IDLE:g} s; nothing of them was kept")
        return os.readv(self._fd, [view])


class _Onward:
    """The next receiver, for as long as it takes what it gets. ``why``: the reason why it does not, or empty.

    The copy here waits for it with each piece. It is given up where it takes fewer than ``slow`` bytes in ``idle``
    seconds of waiting.
    """

    def __init__(self, target: Target | None, idle: float = _IDLE, slow: int = _SLOW) -> None:
        self.why = ""
        self._idle, self._slow = idle, slow
        self._waited, self._taken = 0.0, 0
        self._line: _Line | None = None
        if target is not None:
            try:
                self._line = _Line(target)
            except OSError as error:
                self.why = f"no connection could be begun: {error}"

    def write(self, view: memoryview) -> None:
        while self._line is not None and view:
            began = time.monotonic()
            try:
                count = self._line.write(view)
                view = view[count:]
                self._waited, self._taken = self._waited + time.monotonic() - began, self._taken + count
                if self._waited > self._idle:
                    if self._taken < self._slow:
                        raise EvenkeelError("it takes bytes too slowly: they are sent to it apart")
                    self._waited, self._taken = 0.0, 0
            except EvenkeelError as error:
                self.why = error.message
                self.stop()

    def end(self) -> None:
        if self._line is not None:
            try:
                self._line.end()
            except EvenkeelError as error:
                self.why = error.message

    def stop(self) -> None:
        if self._line is not None:
            self._line.stop()
        self._line = None


def _widen(fd: int) -> None:
    """Let the pipe hold more at once, where the kernel allows that."""
    with suppress(OSError):
        fcntl.fcntl(fd, 1031, _PIPE)  # F_SETPIPE_SZ
