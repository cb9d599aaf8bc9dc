# SPDX-License-Identifier: GPL-3.0-or-later

"""The timer by units of systemd.

The units that are needed until the next boot lie in ``/run``: no checkpoint holds them, and no rollback puts them
back or removes them. A timer fires at the deadline, on a clock that no change of the date moves. A second timer fires
every few seconds, so that the agent sees whether the watcher still runs. Both timers start the same service. Only the
units for the boot lie in ``/etc``.

systemd (since version 246) finds units that it has not loaded yet without a reload. A reload costs much, and starts
many timers of others anew. So the end of a change unloads its timers, and arming reloads systemd only where the timers
do not run as they are written.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache

from .._errors import Refused, UsageError
from .._host.durable import fsync_dir, remove_file, write_file
from .._host.paths import make_dirs
from .._host.system import System
from .._host.trust import stranger, trusted
from .._store.store import Store
from . import glance
from .invocation import agent_arguments, python

_ETC, _RUN = "/etc/systemd/system", "/run/systemd/system"
# Directories whose units take precedence over units in /run.
_BEFORE = ("/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient", _ETC)
DEFAULT = "/var/lib/evenkeel"
# Texts without a special meaning in a unit file: no blank, quote, specifier, variable or wildcard.
_PLAIN = r"[A-Za-z0-9/._@+:-]+"
# The Pythons to try, in this order, where the Python that armed the change does not run.
PYTHONS = (
    "/usr/libexec/platform-python /usr/bin/python3 /usr/local/bin/python3 /usr/bin/python3.* /usr/local/bin/python3.*"
)
_MORE_PYTHONS = "/opt/*/bin/python3"
_FIT = "import sys; sys.exit(sys.version_info < (3, 9))"
# These lines undo settings that an administrator may have made for all units (service.d, timer.d,
# DefaultEnvironment=), and that must not reach our units.
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
# The properties that tell whether a unit runs as its files are, and when a timer elapses.
_LOADED = "LoadState,ActiveState,FragmentPath,DropInPaths,NeedDaemonReload,NextElapseUSecMonotonic,ExecStart"
# Seconds by which the time of a timer may differ from the deadline, since systemd counts microseconds.
_EXACT = 0.01
# The units of time in which systemctl prints a span -> seconds.
_SPANS = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
    "month": 2629800.0,
    "y": 31557600.0,
}
# Our units stop at shutdown, but not by hand, by a pattern, or for an isolated target.
_STAYS = "DefaultDependencies=no\nConflicts=shutdown.target\nBefore=shutdown.target\n"
_HELD = "RefuseManualStop=yes\nIgnoreOnIsolate=yes\n"


class SystemdTimer:
    """The backend of systemd units (see ``Timer``)."""

    def is_available(self, system: System) -> bool:
        return system.has_systemd()

    def prepare(self, store: Store, agent: str) -> None:
        check_paths(store)
        install_boot(store, agent)

    def arm(self, store: Store, number: int, agent: str) -> None:
        """Do nothing: the units hold the deadline, which is not set yet."""

    def ensure(self, store: Store, number: int, due: float, agent: str, patience: float) -> None:
        ensure(store, number, due, agent, patience)

    def fire(self, store: Store) -> None:
        start_service(store)

    def disarm(self, store: Store) -> None:
        stop_timers(store)


def unit(store: Store, kind: str = "deadman") -> str:
    """The name of a unit, without its type. A store that is not the default has units of its own."""
    if store.root == DEFAULT:
        return f"evenkeel-{kind}"
    # Escape the path as systemd-escape --path does: no two paths get the same name.
    path = re.sub(r"^\.|[^A-Za-z0-9:_./]", lambda found: f"\\x{ord(found[0]):02x}", store.root.strip("/"))
    return f"evenkeel-{kind}-" + path.replace("/", "-")


def check_paths(store: Store) -> None:
    """Raise UsageError for a path with a character that has a special meaning in a unit file."""
    for label, path, remedy in (
        ("the store path", store.root, "choose a store path"),
        ("the path of Python", python(), "choose an interpreter (ansible_python_interpreter) with a path"),
    ):
        if not re.fullmatch(_PLAIN, path):
            raise UsageError(
                f"the dead-man cannot be armed: {label} {path!r} cannot stand in a unit of systemd; {remedy} of "
                "letters, digits and / . _ - + @ :. Nothing was changed"
            )


def install_boot(store: Store, agent: str) -> None:
    """Put the units for the boot in place. Remove masks, and units of an older version, that take precedence over our
    units."""
    _clear(store)
    _write(_unlike(_boot_files(store, agent)))
    _link(store)


def _link(store: Store) -> bool:
    """Make the links that start the units at boot. Return whether any was missing or wrong: whoever disables all units
    of others (systemctl preset-all) removes them."""
    mended = False
    # systemd starts boot-complete.target only where it counts the attempts to boot an entry of the boot loader.
    for kind, folder in (("boot", "sysinit.target.wants"), ("health", "boot-complete.target.requires")):
        name, wants = f"{unit(store, kind)}.service", os.path.join(_ETC, folder)
        _make_folder(wants)
        link, target = os.path.join(wants, name), os.path.join(_ETC, name)
        if not os.path.islink(link) or os.readlink(link) != target:
            with suppress(FileNotFoundError):
                os.unlink(link)
            os.symlink(target, link)
            fsync_dir(wants)
            mended = True
    return mended


def ensure(store: Store, number: int, due: float, agent: str, patience: float = 30.0) -> bool:
    """Make sure that the units of this change are in place and its timers run. Return whether a repair was needed.

    ``due``: in seconds of the monotonic clock. Raises Refused where systemd does not obey.
    """
    files = {**_boot_files(store, agent), **_run_files(store, number, due, agent)}
    other = _unlike(files)
    timers = [unit(store) + ".timer", unit(store, "watch") + ".timer"]
    if any([_clear(store), _link(store), other]):
        _write(other)
        store.system.run(["systemctl", "start", *timers], patience)
        if _run_as_written(store, number, due, patience):
            return True
    else:
        shown = store.system.run(["systemctl", "show", "--property=LoadState,ActiveState", *timers], patience)
        if shown.rc == 0 and shown.out.count("LoadState=loaded") == shown.out.count("ActiveState=active") == 2:
            return False
    systemctl(store, "daemon-reload", patience=patience)
    systemctl(store, "start", *timers, patience=patience)
    return True


def _run_as_written(store: Store, number: int, due: float, patience: float) -> bool:
    """Whether both timers run and systemd has loaded them, and their service, from our files as they are now.

    systemd tells a file from the one that it has loaded by a later time alone. Where somebody has set the clock back,
    it takes the service of the change before for this one.
    """
    timers = [f"{unit(store, kind)}.timer" for kind in ("deadman", "watch")]
    names = [*timers, f"{unit(store)}.service"]
    shown = store.system.run(["systemctl", "show", f"--property={_LOADED}", *names], patience)
    blocks = [block.splitlines() for block in shown.out.strip().split("\n\n")]
    found = [dict(line.split("=", 1) for line in block if "=" in line) for block in blocks]
    if shown.rc != 0 or len(found) != len(names):
        return False
    for name, values in zip(names, found):
        path = os.path.join(_RUN, name)
        wanted = {"LoadState": "loaded", "FragmentPath": path, "NeedDaemonReload": "no"}
        if name in timers:
            wanted["ActiveState"] = "active"
        last = _drop_in(path)
        # systemctl quotes a path with an escape, as that of a store with a dash in its path.
        forms = {last, '"' + last.replace("\\", "\\\\") + '"'}
        if not wanted.items() <= values.items() or forms.isdisjoint(values.get("DropInPaths", "").split()):
            return False
    if f" {_task(number)}; " not in found[-1].get("ExecStart", ""):
        return False
    return abs(_seconds(found[0].get("NextElapseUSecMonotonic", "")) - due) < _EXACT


def _seconds(span: str) -> float:
    """A span of time as systemctl prints it, such as ``1h 2min 3.5s``; below 0 where it is none."""
    words = [re.fullmatch(r"([0-9.]+)([a-z]+)", word) for word in span.split()]
    if not words or any(word is None or word[2] not in _SPANS for word in words):
        return -1.0
    return sum(float(word[1]) * _SPANS[word[2]] for word in words if word is not None)


def start_service(store: Store) -> None:
    """Start the service that the timers start, and do not wait for it. A running service goes on alone."""
    store.system.run(["systemctl", "start", "--no-block", unit(store) + ".service"], 10.0)


def start_health(store: Store) -> None:
    """Start the unit that measures the host once it has booted, and do not wait for it."""
    store.system.run(["systemctl", "start", "--no-block", unit(store, "health") + ".service"], 10.0)


def stop_timers(store: Store) -> None:
    """Stop both timers of a change that is over, so that systemd unloads them. The timer of the deadline refuses to be
    stopped: only the start of a unit that conflicts with it stops it. That unit has a file for this moment alone, and
    ends at once by itself.

    Where this fails, the timer of the deadline elapses by itself, and the service that it starts finds nothing to do.
    """
    if not (os.path.exists(os.path.join(_RUN, f"{unit(store)}.timer")) and _start_over(store)):
        stop_watch(store)


def _start_over(store: Store) -> bool:
    """Start the unit that conflicts with the timers. Return whether systemd took that."""
    name = f"{unit(store, 'over')}.target"
    path = os.path.join(_RUN, name)
    with suppress(OSError):
        try:
            _write({path: _over_text(store)})
            return store.system.run(["systemctl", "start", "--no-block", name], 10.0).rc == 0
        finally:
            remove_file(path)
    return False


def _over_text(store: Store) -> str:
    return (
        "[Unit]\nDescription=End the timers of a change that is over\nDefaultDependencies=no\nStopWhenUnneeded=yes\n"
        f"Conflicts={unit(store)}.timer {unit(store, 'watch')}.timer shutdown.target\n"
    )


def stop_watch(store: Store) -> None:
    """Stop the timer that checks the watcher, and leave the timer of the deadline alone: it may be that of a change
    that is just being armed."""
    store.system.run(["systemctl", "stop", "--no-block", unit(store, "watch") + ".timer"], 10.0)


def start_watch(store: Store) -> None:
    """Start the timer that checks the watcher."""
    store.system.run(["systemctl", "start", "--no-block", unit(store, "watch") + ".timer"], 10.0)


def forget_failures(store: Store) -> None:
    """Have systemd forget that our units failed, as a host in doubt has them do: the doubt is over."""
    if store.system.has_systemd():
        names = [f"{unit(store, kind)}.service" for kind in ("deadman", "boot", "health")]
        store.system.run(["systemctl", "reset-failed", *names], 10.0)


def systemctl(store: Store, *words: str, patience: float = 30.0) -> None:
    done = store.system.run(["systemctl", *words], patience)
    if done.rc != 0:
        raise Refused(f"the dead-man cannot be armed: systemctl {' '.join(words)}: {done.words}; nothing was changed")


def _task(number: int) -> str:
    """The words by which the agent knows the change at whose deadline it starts."""
    return f"deadline --generation {number}"


def _run_files(store: Store, number: int, due: float, agent: str) -> dict[str, str]:
    deadman, watch = unit(store), unit(store, "watch")
    service = (
        "Type=simple\nKillMode=process\nRestart=on-failure\nRestartSec=2\nRestartPreventExitStatus=3\n"
        "RestartForceExitStatus=SIGHUP SIGINT SIGTERM SIGPIPE SIGKILL\nLogLevelMax=notice\n"
        f"{_ALOOF}ExecStart=\nExecStart={_exec_start(store, agent, _task(number))}\n"
    )
    # AccuracySec: by default systemd lets timers coalesce within a minute. OnStartupSec: the only time that does not
    # begin anew at a reload, and that counts from the same moment in a container.
    deadline = (
        "OnActiveSec=\n"
        f"OnStartupSec={round((due - _started(store.system)) * 1_000_000)}us\n"
        "AccuracySec=100ms\nRandomizedDelaySec=0\nRemainAfterElapse=no\n"
    )
    every = f"{glance.TICK:g}"
    tick = f"OnActiveSec=\nOnActiveSec={every}\nOnUnitInactiveSec={every}\nAccuracySec=1s\nRandomizedDelaySec=0\n"
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
    # The early unit runs before any program starts that the change may have broken. It queues units, and never waits
    # for them.
    # KillMode: a process that the rollback starts again stays in the agent's control group, and outlives the agent.
    late = _unit_files(
        _ETC,
        unit(store, "health") + ".service",
        "Description=Measure this host after a reboot that its change planned\n"
        f"DefaultDependencies=no\nAfter=multi-user.target {unit(store, 'boot')}.service\n"
        "Before=boot-complete.target shutdown.target\nConflicts=shutdown.target\n"
        f"ConditionPathExists={store.root}/armed\n",
        f"Type=oneshot\nKillMode=process\n{_ALOOF}ExecStart=\nExecStart={_exec_start(store, agent, 'health')}\n",
    )
    early = _unit_files(
        _ETC,
        unit(store, "boot") + ".service",
        "Description=Put this host back after a reboot in the middle of a change\n"
        "DefaultDependencies=no\nAfter=local-fs.target systemd-remount-fs.service\n"
        f"Before=sysinit.target shutdown.target\nConflicts=shutdown.target\nRequiresMountsFor={store.root}\n"
        f"ConditionPathExistsGlob=|{store.root}/armed\nConditionPathExistsGlob=|{store.root}/journal/*\n"
        f"ConditionPathExists=|{store.root}/resume\n",
        f"Type=oneshot\nKillMode=process\n{_ALOOF}ExecStart=\nExecStart={_exec_start(store, agent, 'boot')}\n",
        "\n[Install]\nWantedBy=sysinit.target\n",
    )
    return {**early, **late}


def _unit_files(folder: str, name: str, head: str, body: str, tail: str = "") -> dict[str, str]:
    """Path -> text of the unit, and of its last drop-in: it repeats the unit's body after the drop-ins for all units
    of its type."""
    section = "Timer" if name.endswith(".timer") else "Service"
    return {
        os.path.join(folder, name): f"[Unit]\n{head}\n[{section}]\n{body}{tail}",
        _drop_in(os.path.join(folder, name)): f"[{section}]\n{body}",
    }


def _drop_in(path: str) -> str:
    """The path of the last drop-in of the unit with this file."""
    return os.path.join(f"{path}.d", "zzz-evenkeel.conf")


def _exec_start(store: Store, agent: str, task: str) -> str:
    """The value of ExecStart=: a shell that tries the Pythons in turn until the agent has come to its end."""
    run = " ".join(word if re.fullmatch(_PLAIN, word) else f'"{word}"' for word in agent_arguments(agent))
    script = (
        f'for p in {pythons(store.system)}; do [ -x "$$p" ] || continue; "$$p" {run} --store {store.root} {task}; '
        f"r=$$?; case $$r in 0|3) exit $$r;; esac; done; "
        f"[ ! -e {store.root}/armed ] || {{ echo no Python on this host has run {agent}; exit 1; }}"
    )
    return f"/bin/sh -c '{script}'"


def pythons(system: System) -> str:
    """The Pythons that run the agent for root, in the order in which they are tried, as words of the shell.

    Root must run no program that another user can replace. Where our own Python is one, it stands last, and only where
    no other on this host can run the agent.
    """
    more = [path for path in sorted(glob.glob(_MORE_PYTHONS)) if _is_trusted(path)]
    own = [shlex.quote(python())]
    if _is_trusted(python()):
        return " ".join([*own, PYTHONS, *more])
    return " ".join([PYTHONS, *more, *([] if _another(system) else own)])


def trusted_python(system: System) -> str:
    """The Python that runs the agent for root: our own, or another one where a user can replace our own."""
    return python() if _is_trusted(python()) else _another(system) or python()


def doubtful_python(system: System) -> str:
    """A sentence where a user can replace the only Python that can run the agent; else empty."""
    if _is_trusted(trusted_python(system)):
        return ""
    return (
        f"the agent runs with {python()}, which users other than root can replace, and no other Python on this host "
        "runs it: install one of root's (3.9 or newer), or choose one with ansible_python_interpreter"
    )


def _another(system: System) -> str:
    """The first other Python of root's that can run the agent; empty where there is none."""
    found = [path for word in (*PYTHONS.split(), _MORE_PYTHONS) for path in sorted(glob.glob(word))]
    return _fit(system, tuple(path for path in found if _is_trusted(path)))


@lru_cache(maxsize=1)
def _fit(system: System, paths: tuple[str, ...]) -> str:
    return next((path for path in paths if system.run([path, "-I", "-c", _FIT], 10.0).rc == 0), "")


def _is_trusted(program: str) -> bool:
    """Whether root alone owns the program and can replace it, and whatever it leads to."""
    try:
        found = os.stat(program)
    except OSError:  # A dangling link, as in a virtual environment after an upgrade.
        return False
    # The check of a name below it includes the program itself, where it is a link.
    is_foreign = stranger(f"{program}/any", trusted()) or found.st_uid not in trusted() or found.st_mode & 0o022
    return bool(re.fullmatch(_PLAIN, program)) and not is_foreign


@lru_cache(maxsize=1)
def _started(system: System) -> float:
    """The start of systemd, in seconds of the monotonic clock: OnStartupSec= counts from it."""
    shown = system.run(["systemctl", "show", "--property=UserspaceTimestampMonotonic"], 10.0)
    found = re.search(r"=(\d+)", shown.out)
    if shown.rc != 0 or found is None:
        raise Refused(f"the dead-man cannot be armed: systemctl show: {shown.words}; nothing was changed")
    return int(found[1]) / 1_000_000


def _clear(store: Store) -> bool:
    """Remove units that take precedence over our units: units of an older version, and masks. Return whether there
    were any."""
    names = [f"{unit(store)}.service", f"{unit(store)}.timer", f"{unit(store, 'watch')}.timer"]
    found = [path for folder in _BEFORE for name in names if os.path.lexists(path := os.path.join(folder, name))]
    for path in found:
        remove_file(path)
    return bool(found)


def _unlike(files: Mapping[str, str]) -> dict[str, str]:
    """The files that do not hold their text."""
    return {path: text for path, text in files.items() if _read(path) != text}


def _write(files: Mapping[str, str]) -> None:
    for path, text in files.items():
        _make_folder(os.path.dirname(path))
        if os.path.islink(path):
            os.unlink(path)  # A mask.
        write_file(path, text.encode(), 0o644)
        os.chmod(path, 0o644)


def _make_folder(path: str) -> None:
    """Make a directory of units, which all may read. A directory of the host keeps its mode; those of drop-ins for our
    units are ours."""
    is_ours = not os.path.isdir(path) or path.endswith(".d")
    make_dirs(path)
    if is_ours:
        os.chmod(path, 0o755)


def _read(path: str) -> str | None:
    """The text of a file; None where it is missing, is a link or cannot be read."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as stream:
            return stream.read()
    except (OSError, ValueError):
        return None
