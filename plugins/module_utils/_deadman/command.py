# SPDX-License-Identifier: GPL-3.0-or-later

"""The command ``evenkeel-host`` for a person on the host: a script that runs the agent. Arming installs the
command."""

from __future__ import annotations

import os
import shlex

from .._resources import ours
from .._store.store import Store
from . import units
from .invocation import agent_arguments

# The agent's task for the script; the words of the person follow.
TASK = "host"
# The agent's task for the hooks of package managers.
KEEP = "keep"
_SCRIPT = """\
#!/bin/sh
{mark}
# Arming a change writes this file anew. It may be deleted. How to use it: evenkeel-host --help
if [ "$(id -u)" != 0 ]; then
  echo "evenkeel-host: only root can do this; try sudo $0" >&2
  exit 1
fi
if [ ! -f {agent} ]; then
  echo {gone} >&2
  exit 1
fi
for python in {pythons}; do
  [ -x "$python" ] && "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null &&
    exec "$python" {arguments} {task} --store {store} "$@"
done
echo "evenkeel-host: no Python on this host runs it (3.9 or newer is needed)" >&2
exit 1
"""


def install(store: Store, agent: str) -> str:
    """Write the command for this store, and return why it could not be written; empty where it is in place. A change
    works without the command."""
    path = ours.COMMAND
    if not is_host(store):
        return ""
    why = ours.place(path, _script(store, agent).encode(), 0o755)
    return f"evenkeel-host is not installed: {why}" if why else ""


def is_host(store: Store) -> bool:
    """Whether this machine is the host. A machine may also play several hosts, each with a store of its own."""
    return os.geteuid() == 0 and (store.system.has_systemd() or store.root == units.DEFAULT)


def _script(store: Store, agent: str) -> str:
    gone = f"evenkeel-host: its program {agent} is gone; the next change that is armed here brings it back"
    return _SCRIPT.format(
        mark=ours.MARK.decode(),
        agent=shlex.quote(agent),
        gone=shlex.quote(gone),
        pythons=units.pythons(store.system),
        arguments=shlex.join(agent_arguments(agent)),
        task=TASK,
        store=shlex.quote(store.root),
    )
