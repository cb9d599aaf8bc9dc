# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from textwrap import indent

# The kinds of places at which a host is drained, each with its options.
_HAPROXY = r"""
backend:
  description:
    - Name of the backend. For example V(web).
  type: str
  required: true
server:
  description:
    - Name of the server in that backend. For example V(web1).
  type: str
  required: true
socket:
  description:
    - Socket of HAProxy's runtime API on the balancer, of level admin. It must be root's, or lie where only root can
      write. For example V(/var/lib/haproxy/stats).
  type: str
  default: /run/haproxy/admin.sock
"""
_COMMAND = r"""
drain:
  description:
    - The command that keeps new requests away, a list of words. It must do no harm when it is run again. For example
      V([/usr/local/bin/pool, remove, web1]).
  type: list
  elements: str
  required: true
undrain:
  description:
    - The command that ends that, a list of words. It must do no harm if C(drain) has failed, or was not run. For
      example V([/usr/local/bin/pool, add, web1]).
  type: list
  elements: str
  required: true
check:
  description:
    - A command that ends with 0 when the host is drained and has no request left, and with another code otherwise, a
      list of words. Without it the result says that a drain was asked, not shown. For example
      V([/usr/local/bin/pool, is-drained, web1]).
  type: list
  elements: str
"""
_HOSTS = r"""
hosts:
  description:
    - Names of the balancers, hosts or groups of the inventory. For example V([lb1, lb2]).
  type: list
  elements: str
  required: true
"""
_ABOUT_HAPROXY = (
    "A server of an HAProxy on the balancer, by its runtime API. It is told to drain, so that checks of it go on. It is"
    " drained once it, and all servers that track it, have no session and nothing in their queues."
)
_ABOUT_COMMAND = "A pair of commands on the balancer, for anything that is no HAProxy."


def _kinds(more: str = "") -> str:
    found = []
    for kind, about, options in (("haproxy", _ABOUT_HAPROXY, _HAPROXY), ("command", _ABOUT_COMMAND, _COMMAND)):
        suboptions = indent(more + options, "    ")
        found.append(f"{kind}:\n  description:\n    - {about}\n  type: dict\n  suboptions:{suboptions}")
    return "".join(found)


class ModuleDocFragment:
    # The options of a module that drains at a single place, the host of the task.
    DOCUMENTATION = r"""
options:
"""
    # The option of a module that drains at several places, each on balancers of its own.
    PLACES = r"""
options:
  drain:
    description:
      - The places at which the host is drained, each a mapping with one key.
    type: list
    elements: dict
    suboptions:
"""


# Within the class ansible-test reads plain texts alone.
ModuleDocFragment.DOCUMENTATION += indent(_kinds(), "  ")
ModuleDocFragment.PLACES += indent(_kinds(_HOSTS), "      ")
