# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The dead-man's first hand: units of systemd.

What is needed until the next boot lies in ``/run``: no checkpoint holds it, and no rollback puts it back or takes it
away. There is a timer for the deadline, in a time that nothing moves, one that comes by every now and then to see that
the watcher is there, and the service that both start. Only the unit for the boot lies in ``/etc``.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache

from .._errors import Refused, UsageError
from .._host.durable import fsync_dir, remove_file, write_file
from .._host.system import System
from .._host.trust import stranger
from .._store.store import Store

_ETC, _RUN = "/etc/systemd/system", "/run/systemd/system"
# Where others could have put something in front of what is in /run.
_BEFORE = ("/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient", _ETC)
_DEFAULT = "/var/lib/evenkeel"
# What stands for itself in every line of a unit file: no blank, quote, specifier, variable or wildcard.
_PLAIN = re.compile(r"[A-Za-z0-9/._@+:-]+")
# Seconds between two looks after the watcher.
TICK = 20.0
# What may stand in place of the Python that armed, in the order of trying.
_PYTHONS = (
    "/usr/libexec/platform-python /usr/bin/python3 /usr/local/bin/python3 /usr/bin/python3.* /usr/local/bin/python3.*"
)
_MORE_PYTHONS = "/opt/*/bin/python3"
# Reads the agent once, and runs what it has read if it has this hash: nobody can exchange it between the two. There is
# no quote in it, which would end the words of a unit.
_CHECKED = (
    "import hashlib,os,sys;a=sys.argv;f=os.open(a[1],os.O_NOFOLLOW|os.O_NONBLOCK);d=os.read(f,1<<26);"
    "hashlib.sha256(d).hexdigest()==a[2] or sys.exit(a[3]);"
    "m=hasattr(os,a[4])and os.memfd_create(a[2]);m is False or os.write(m,d);"
    "sys.path.insert(0,a[1] if m is False else a[5]+str(m));sys.argv=[a[1],*a[6:]];"
    "from evenkeel_agent._agent import main;sys.exit(main())"
)
_HASH = re.compile(r"-[0-9a-f]{12}([0-9a-f]{64})\.pyz$")
# What somebody may have set for all units (service.d, timer.d, DefaultEnvironment=) and must not reach ours.
_ALOOF = """\
User=root
Group=root
SupplementaryGroups=
DynamicUser=no
WorkingDirectory=/
RootDirectory=
RootImage=
ExecCondition=
ExecStartPre=
ExecStartPost=
ExecStop=
ExecStopPost=
PassEnvironment=
EnvironmentFile=
Environment=
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
UnsetEnvironment=
UnsetEnvironment=PYTHONPATH PYTHONHOME PYTHONSTARTUP LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT ENV BASH_ENV
UMask=0022
OOMScoreAdjust=-1000
Nice=0
PrivateTmp=no
PrivateDevices=no
PrivateNetwork=no
PrivateUsers=no
PrivateMounts=no
ProtectSystem=no
ProtectHome=no
ProtectProc=default
ProcSubset=all
ProtectKernelTunables=no
ProtectKernelModules=no
ProtectKernelLogs=no
ProtectControlGroups=no
ProtectClock=no
ProtectHostname=no
ReadOnlyPaths=
InaccessiblePaths=
NoExecPaths=
TemporaryFileSystem=
NoNewPrivileges=no
CapabilityBoundingSet=~
SystemCallFilter=
SystemCallArchitectures=
RestrictAddressFamilies=
RestrictNamespaces=no
RestrictRealtime=no
RestrictSUIDSGID=no
MemoryDenyWriteExecute=no
LockPersonality=no
IPAddressDeny=
MemoryMax=infinity
TasksMax=infinity
CPUQuota=
LimitFSIZE=infinity
LimitCPU=infinity
RuntimeMaxSec=infinity
StandardInput=null
StandardOutput=journal
StandardError=journal
SyslogLevel=notice
"""
# Not stopped by hand, by a pattern, or by what isolates a target; stopped as the host goes down.
_STAYS = "DefaultDependencies=no\nConflicts=shutdown.target\nBefore=shutdown.target\n"
_HELD = "RefuseManualStop=yes\nIgnoreOnIsolate=yes\n"


def unit(store: Store, kind: str = "deadman") -> str:
    """Unit name; stores elsewhere than the default have units of their own."""
    if store.root == _DEFAULT:
        return f"evenkeel-{kind}"
    # As systemd-escape --path does: no two paths have the same name.
    path = re.sub(r"^\.|[^A-Za-z0-9:_./]", lambda found: f"\\x{ord(found[0]):02x}", store.root.strip("/"))
    return f"evenkeel-{kind}-" + path.replace("/", "-")


def check_paths(store: Store) -> None:
    """Raise UsageError for a path that unit files would take for something else, and fail when the time comes."""
    for what, path, mend in (
        ("the store path", store.root, "choose a store path"),
        ("the path of Python", python(), "choose an interpreter (ansible_python_interpreter) with a path"),
    ):
        if not _PLAIN.fullmatch(path):
            raise UsageError(
                f"the dead-man cannot be armed: {what} {path!r} cannot stand in a unit of systemd; {mend} of letters, "
                "digits and / . _ - + @ :. Nothing was changed"
            )


def python() -> str:
    return sys.executable or "/usr/bin/python3"


def hash_of(agent: str) -> str:
    """The hash that the agent is to have, from its name; empty for one of version 0.1.0, which has none."""
    found = _HASH.search(agent)
    return found[1] if found else ""


def words_of(agent: str) -> list[str]:
    """The words behind Python that run the agent: isolated, and only as it was installed."""
    if not hash_of(agent):
        return ["-I", agent]
    why = f"{agent} is not as it was installed, and is not run"
    return ["-I", "-c", _CHECKED, agent, hash_of(agent), why, "memfd_create", "/proc/self/fd/"]


def install_boot(store: Store, agent: str) -> None:
    """Put the unit for the boot in place, before a checkpoint is taken, so that it is part of no change; remove what
    an older version, or somebody, has put in front of the units of the dead-man."""
    name = unit(store, "boot") + ".service"
    wants = os.path.join(_ETC, "sysinit.target.wants")
    os.makedirs(wants, exist_ok=True)
    _clear(store)
    _write(_boot_files(store, agent))
    link, target = os.path.join(wants, name), os.path.join(_ETC, name)
    if not os.path.islink(link) or os.readlink(link) != target:
        with suppress(FileNotFoundError):
            os.unlink(link)
        os.symlink(target, link)
        fsync_dir(wants)


def stand(store: Store, number: int, due: float, agent: str, patience: float = 30.0) -> bool:
    """See to it that the units of this change are in place and its timers run; whether something had to be done.

    ``due`` in seconds of the monotonic clock. Raises Refused when systemd does not do as it is told.
    """
    files = {**_boot_files(store, agent), **_run_files(store, number, due, agent)}
    mended = _clear(store) or any(_read(path) != text for path, text in files.items())
    timers = [unit(store) + ".timer", unit(store, "watch") + ".timer"]
    if mended:
        _write({path: text for path, text in files.items() if _read(path) != text})
    else:
        shown = store.system.run(["systemctl", "show", "--property=LoadState,ActiveState", *timers], patience)
        if shown.rc == 0 and shown.out.count("LoadState=loaded") == shown.out.count("ActiveState=active") == 2:
            return False
    systemctl(store, "daemon-reload", patience=patience)
    systemctl(store, "start", *timers, patience=patience)
    return True


def start(store: Store) -> None:
    """Start what the timer would start. Nothing is waited for, and what runs already goes on alone."""
    store.system.run(["systemctl", "start", "--no-block", unit(store) + ".service"], 10.0)


def rest(store: Store) -> None:
    """No change is under way: no more looks after a watcher. The timer of the deadline elapses by itself, and what it
    starts finds nothing to do."""
    store.system.run(["systemctl", "stop", "--no-block", unit(store, "watch") + ".timer"], 10.0)


def systemctl(store: Store, *words: str, patience: float = 30.0) -> None:
    done = store.system.run(["systemctl", *words], patience)
    if done.rc != 0:
        raise Refused(f"the dead-man cannot be armed: systemctl {' '.join(words)}: {done.words}; nothing was changed")


def _run_files(store: Store, number: int, due: float, agent: str) -> dict[str, str]:
    deadman, watch = unit(store), unit(store, "watch")
    service = (
        "Type=simple\nKillMode=process\nRestart=on-failure\nRestartSec=2\nRestartPreventExitStatus=3\n"
        "RestartForceExitStatus=SIGHUP SIGINT SIGTERM SIGPIPE SIGKILL\nLogLevelMax=notice\n"
        f"{_ALOOF}ExecStart=\nExecStart={_command(store, agent, f'deadline --generation {number}')}\n"
    )
    # AccuracySec: timers coalesce, by default within a minute. OnStartupSec: the only time that a reload does not begin
    # anew and that counts from the same moment in a container.
    deadline = (
        "OnActiveSec=\n"
        f"OnStartupSec={round((due - _started(store.system)) * 1_000_000)}us\n"
        "AccuracySec=100ms\nRandomizedDelaySec=0\nRemainAfterElapse=no\n"
    )
    tick = f"OnActiveSec=\nOnActiveSec={TICK:g}\nOnUnitInactiveSec={TICK:g}\nAccuracySec=1s\nRandomizedDelaySec=0\n"
    return {
        **_unit_files(
            _RUN,
            f"{deadman}.service",
            "Description=Put this host back: a change was not confirmed in time\n"
            f"StartLimitIntervalSec=0\n{_STAYS}{_HELD}",
            service,
        ),
        **_unit_files(
            _RUN,
            f"{deadman}.timer",
            f"Description=Deadline for the confirmation of a change\n{_STAYS}{_HELD}",
            deadline,
        ),
        **_unit_files(
            _RUN,
            f"{watch}.timer",
            f"Description=Look after the watcher of a change\n{_STAYS}IgnoreOnIsolate=yes\n",
            tick,
            f"Unit={deadman}.service\n",
        ),
    }


def _boot_files(store: Store, agent: str) -> dict[str, str]:
    # Early: before what the change may have broken starts. The units it starts are queued, never waited for.
    # KillMode: a process that the rollback starts again stays in the agent's control group, and outlives the agent.
    return _unit_files(
        _ETC,
        unit(store, "boot") + ".service",
        "Description=Put this host back after a reboot in the middle of a change\n"
        "DefaultDependencies=no\nAfter=local-fs.target systemd-remount-fs.service\n"
        f"Before=sysinit.target shutdown.target\nConflicts=shutdown.target\nRequiresMountsFor={store.root}\n"
        f"ConditionPathExistsGlob=|{store.root}/armed\nConditionPathExistsGlob=|{store.root}/journal/*\n"
        f"ConditionPathExists=|{store.root}/resume\n",
        f"Type=oneshot\nKillMode=process\n{_ALOOF}ExecStart=\nExecStart={_command(store, agent, 'boot')}\n",
        "\n[Install]\nWantedBy=sysinit.target\n",
    )


def _unit_files(folder: str, name: str, head: str, body: str, tail: str = "") -> dict[str, str]:
    """The unit, and its body once more as the last of its drop-ins: after those for all units of its type."""
    section = "Timer" if name.endswith(".timer") else "Service"
    return {
        os.path.join(folder, name): f"[Unit]\n{head}\n[{section}]\n{body}{tail}",
        os.path.join(folder, f"{name}.d", "zzz-evenkeel.conf"): f"[{section}]\n{body}",
    }


def _command(store: Store, agent: str, what: str) -> str:
    """The words of ExecStart=: a shell that tries one Python after the other until the agent has come to its end."""
    run = " ".join(word if _PLAIN.fullmatch(word) else f'"{word}"' for word in words_of(agent))
    # Of a directory of somebody else's root runs nothing.
    more = " ".join(path for path in sorted(glob.glob(_MORE_PYTHONS)) if _is_roots(path))
    script = (
        f'for p in {python()} {_PYTHONS} {more}; do [ -x "$$p" ] || continue; "$$p" {run} --store {store.root} {what}; '
        f"r=$$?; case $$r in 0|3) exit $$r;; esac; done; "
        f"[ ! -e {store.root}/armed ] || {{ echo no Python on this host has run {agent}; exit 1; }}"
    )
    return f"/bin/sh -c '{script}'"


def _is_roots(python: str) -> bool:
    """Whether the program is, and can become, nobody's but root's."""
    try:
        found = os.stat(python)
    except OSError:  # A link that leads nowhere any more, as of a virtual environment after an upgrade.
        return False
    return bool(_PLAIN.fullmatch(python)) and not (stranger(python, {0}) or found.st_uid or found.st_mode & 0o022)


@lru_cache(maxsize=1)
def _started(system: System) -> float:
    """When this systemd came up, in seconds of the monotonic clock: what OnStartupSec= counts from."""
    shown = system.run(["systemctl", "show", "--property=UserspaceTimestampMonotonic"], 10.0)
    found = re.search(r"=(\d+)", shown.out)
    if shown.rc != 0 or found is None:
        raise Refused(f"the dead-man cannot be armed: systemctl show: {shown.words}; nothing was changed")
    return int(found[1]) / 1_000_000


def _clear(store: Store) -> bool:
    """Remove what stands before the units in /run: those of an older version, and masks. Whether there was any."""
    names = [f"{unit(store)}.service", f"{unit(store)}.timer", f"{unit(store, 'watch')}.timer"]
    found = [path for folder in _BEFORE for name in names if os.path.lexists(path := os.path.join(folder, name))]
    for path in found:
        remove_file(path)
    return bool(found)


def _write(files: Mapping[str, str]) -> None:
    for path, text in files.items():
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        os.chmod(os.path.dirname(path), 0o755)
        if os.path.islink(path):
            os.unlink(path)  # A mask.
        write_file(path, text.encode(), 0o644)
        os.chmod(path, 0o644)


def _read(path: str) -> str | None:
    """The text of a file that is no link, or None."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as stream:
            return stream.read()
    except (OSError, ValueError):
        return None
