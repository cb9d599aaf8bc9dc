#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_drain
short_description: Drain a server on its balancer, and make it ready again
description:
  - Runs on the balancer. Keeps new requests away from a server and waits until its sessions have ended, or lets
    requests come to it again and waits until the balancer says that it is up.
  - A drain is refused, with nothing touched, where no other server of the backend is up, and where somebody else has
    drained the server or has put it into maintenance.
  - Where sessions are left at the deadline, or the backend loses its other servers meanwhile, the server is made ready
    again and the module fails.
version_added: 0.2.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._drain
options:
  state:
    description:
      - V(look) only reads. V(drained) keeps new requests away until no session is left. V(ready) ends that.
    type: str
    choices: [look, drained, ready]
    required: true
  ours:
    description:
      - An earlier call has drained the server. A drain that is there is then no refusal. V(ready) refuses a server that
        somebody else has put into maintenance since.
    type: bool
    default: false
  deadline:
    description:
      - How long to wait until no session is left, or until the server is up.
    type: str
    default: 1m
attributes:
  check_mode:
    support: full
    description: Predicts the step, and refuses as the module itself would. Does not wait.
  diff_mode:
    support: none
    description: The state of a balancer has no text to compare.
  idempotent:
    support: partial
    description: A server that is ready, or drained by an earlier call (O(ours)), is not told so again. A command pair
      without C(check) is run each time.
"""

EXAMPLES = r"""
- name: Take web1 out of the backend, and wait for its sessions
  evenkeel.fault_tolerance.ft_drain:
    state: drained
    haproxy: {backend: web, server: web1}
    deadline: 2m
  delegate_to: lb1

- name: Let requests come to it again
  evenkeel.fault_tolerance.ft_drain:
    state: ready
    haproxy: {backend: web, server: web1}
    ours: true
  delegate_to: lb1

- name: The same for a balancer that has commands
  evenkeel.fault_tolerance.ft_drain:
    state: drained
    command:
      drain: [/usr/local/bin/pool, remove, web1]
      undrain: [/usr/local/bin/pool, add, web1]
      check: [/usr/local/bin/pool, is-drained, web1]
  delegate_to: router1
"""

RETURN = r"""
kind:
  description: V(haproxy) or V(command).
  returned: unless an argument is wrong
  type: str
name:
  description: The server as V(backend/server), or the program of the command pair.
  returned: unless an argument is wrong
  type: str
  sample: web/web1
state:
  description:
    - The last state that was seen, V(ready), V(drained), V(maintenance), or V(unknown) where no check tells.
    - A server that is told to drain is V(drained) while C(sessions) are left, too.
  returned: unless an argument is wrong
  type: str
status:
  description: That state in the words of HAProxy, or the end of the check.
  returned: unless an argument is wrong
  type: str
  sample: DRAIN
sessions:
  description: The sessions of the server and those that waited for it, at the last look. Null for commands.
  returned: unless an argument is wrong
  type: int
served:
  description:
    - The requests that were answered since the server was made ready, in a look of at most a second. Null where that
      was not measured.
  returned: unless an argument is wrong
  type: int
waited:
  description: Seconds that it took until no session was left, or until the server was up.
  returned: unless an argument is wrong
  type: float
obstacle:
  description: The reason why a drain is refused now. Empty for none, and for V(ready), which does not ask.
  returned: unless an argument is wrong
  type: str
planned:
  description: The planned step, or none.
  returned: always
  type: list
  elements: raw
  sample: [{"resource": "haproxy", "action": "drain", "target": "web/web1"}]
done:
  description: The steps that were done; on a failure, the step that takes a drain back as well.
  returned: always
  type: list
  elements: raw
proved:
  description: The facts that were measured.
  returned: always
  type: list
  elements: str
left:
  description: The server, where it is not as requested and was not put back.
  returned: always
  type: list
  elements: str
error:
  description:
    - The reason in one word, for programs. The exit code of the command C(evenkeel) follows from it.
    - V(UsageError) for an argument, a variable or a name that is wrong, V(NotFound) for a checkpoint that is missing,
      V(Refused) for a request that is not allowed now, V(Busy) while another operation holds the store.
    - V(Damaged) for data that do not match their hash, V(RestoreFailed) for a rollback that could not put back
      everything, V(Unhealthy) for probes that did not pass, V(ServiceFailed) for a service that did not act as
      requested, V(OSError) for a failed system call, V(BadAnswer) for an answer of a host that no module gives,
      V(EvenkeelError) for everything else.
  returned: failure
  type: str
  sample: Refused
msg:
  description: The failure, its place, and what to do next.
  returned: failure
  type: str
"""

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import run_module
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.drain import ARGUMENTS, work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
