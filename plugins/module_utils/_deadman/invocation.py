# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line that runs the agent: Python in isolated mode, and only the file that was installed."""

from __future__ import annotations

import re
import sys

# The code reads the agent once, and runs the bytes that it read if they have this hash: nobody can exchange the file
# in between. A Python that is too old for it ends, so that another is tried. The code holds no quote, which would end a
# word in a unit file.
_CHECKED = (
    "import hashlib,os,sys;sys.version_info<(3,9)and sys.exit(1);"
    "a=sys.argv;f=os.open(a[1],os.O_NOFOLLOW|os.O_NONBLOCK);d=os.read(f,1<<26);"
    "hashlib.sha256(d).hexdigest()==a[2] or sys.exit(a[3]);"
    "m=hasattr(os,a[4])and os.memfd_create(a[2]);m is False or os.write(m,d);"
    "sys.path.insert(0,a[1] if m is False else a[5]+str(m));sys.argv=[a[1],*a[6:]];"
    "from evenkeel_agent._agent import main;sys.exit(main())"
)
# The agent needs Python's own library alone, and none of the files with which others have it load more (*.pth).
_ISOLATED = ("-I", "-S", "-X", "utf8")
_HASH = r"-[0-9a-f]{12}([0-9a-f]{64})\.pyz$"


def python() -> str:
    """The path of the Python that runs us."""
    return sys.executable or "/usr/bin/python3"


def agent_hash(agent: str) -> str:
    """The SHA-256 that the agent must have, taken from its file name; empty for an agent of version 0.1.0."""
    found = re.search(_HASH, agent)
    return found[1] if found else ""


def agent_arguments(agent: str) -> list[str]:
    """The arguments for Python that run the agent in isolated mode, and only with the hash of its file name. Names
    are UTF-8 in every locale, as in a call of the controller: the same text is the same path."""
    if not agent_hash(agent):
        return [*_ISOLATED, agent]
    refusal = f"{agent} is not as it was installed, and is not run"
    return [*_ISOLATED, "-c", _CHECKED, agent, agent_hash(agent), refusal, "memfd_create", "/proc/self/fd/"]
