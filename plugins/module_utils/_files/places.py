# SPDX-License-Identifier: GPL-3.0-or-later

"""The places where programs and configuration lie, in which changes are looked for that no resource covers."""

from __future__ import annotations

import os
from typing import Any

from .._errors import UsageError
from .._host.options import Options, read
from .._host.paths import check_path
from .declaration import check_patterns

OPTIONS: Options = {
    "paths": {"type": "list", "elements": "str"},
    "exclude": {"type": "list", "elements": "str", "default": []},
}
# The places that matter most come first; places that may hold many files of any user come last.
PATHS = (
    *("/etc", "/boot", "/boot/efi", "/bin", "/sbin", "/lib", "/lib64", "/usr/local", "/usr"),
    *("/var/spool/cron", "/var/spool/at", "/var/lib/systemd/linger"),
    *("/var/lib/gems", "/var/lib/flatpak/exports", "/var/lib/AccountsService/users", "/var/lib/polkit-1"),
    *("/var/lib/NetworkManager/NetworkManager.state", "/var/lib/NetworkManager/NetworkManager-intern.conf"),
    *("/var/lib/selinux", "/var/lib/authselect", "/var/lib/dbus/machine-id"),
    *("/var/lib/extensions", "/var/lib/confexts", "/var/lib/portables"),
    *("/run/systemd/system", "/run/systemd/network", "/run/udev/rules.d", "/run/NetworkManager/conf.d"),
    "/run/polkit-1/rules.d",
    *("/run/sysctl.d", "/run/tmpfiles.d", "/run/sysusers.d", "/run/modprobe.d", "/run/modules-load.d"),
    *("/opt", "/root"),
)
_VOLUMES = ("/var/lib/docker/volumes", "/var/lib/containers/storage/volumes")
# The name of a volume that comes and goes with its container.
_NO_NAME = "[0-9a-f]" * 64
# Directories that hold data, of which only what lies right in them is looked at, beside PATHS.
FLAT = (
    *("/", "/home", "/srv", "/var", "/var/lib", "/var/spool", "/var/www", "/var/lib/machines", "/var/lib/private"),
    *(*_VOLUMES, "/var/lib/flatpak/app", "/snap"),
)
# Data of users and of programs, where a person names a path around them.
_DATA = ("/dev", "/home", "/lost+found", "/media", "/mnt", "/proc", "/run", "/srv", "/sys", "/tmp", "/var")
# Files that programs make anew from other files, and what passes.
EXCLUDE = (
    *("/etc/.pwd.lock", "/etc/.updated", "/etc/adjtime", "/etc/ld.so.cache", "/etc/lvm/archive", "/etc/lvm/backup"),
    *(f"/etc/{name}-" for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")),
    *("/etc/udev/hwdb.bin", "/usr/lib/udev/hwdb.bin", "/usr/lib/locale/locale-archive", "/usr/share/info/dir"),
    *(".ansible", "ansible-tmp-*", "__pycache__", "*.pyc", "*.cache", ".cache", "gschemas.compiled"),
    # Netplan makes them of its files in /etc, whenever it is called.
    *("/run/*netplan*", "/run/NetworkManager/conf.d/10-globally-managed-devices.conf"),
    *(".*_history", ".lesshst", ".viminfo", ".wget-hsts"),
    "/var/lib/docker/volumes/backingFsBlockDev",
    *(f"{volumes}/{_NO_NAME}" for volumes in _VOLUMES),
)


def check(spec: Any) -> dict[str, list[str]]:
    """The declaration of the places that are looked at, with all its keys; UsageError names the fault."""
    found = read(OPTIONS, spec or {}, "outside")
    usual = found["paths"] is None
    paths = list(PATHS) if usual else found["paths"]
    try:
        paths = [os.fsdecode(check_path(os.fsencode(one.rstrip("/") or "/"))) for one in paths]
    except UsageError as error:
        raise UsageError(f"outside: paths: {error.message}") from error
    if not all(found["exclude"]):
        raise UsageError("outside: exclude must be a list of names or paths, with * and ? for what may vary")
    exclude = check_patterns(found["exclude"], "outside: exclude")
    # A path that is declared is asked for, itself too.
    always = [one for one in (*(() if usual else _DATA), *EXCLUDE) if one not in paths]
    return {"paths": list(dict.fromkeys(paths)), "exclude": [*always, *exclude]}
