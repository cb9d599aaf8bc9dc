#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_guard
short_description: Decide whether a disruptive step may start now
description:
  - Measures the health of a whole group now, and refuses the step when too few hosts would stay healthy, when too many
    are in the middle of a change, or when a host that is about to change is not there.
  - A host that is unreachable, or whose health is unknown, counts as unhealthy. A host of the wave may be unhealthy,
    as the change may be its cure, but it must be reachable and in the middle of nothing.
  - Where O(probes) is not given, each host's own variable C(evenkeel_probes) counts. A host with no probes is healthy
    when it is reachable.
  - Refuses, too, when this run has lost a host already. Ansible itself goes on to the next batch of a play with
    C(serial) past an unreachable host, even with C(max_fail_percentage) and C(any_errors_fatal).
  - Where a host of the wave has one of its C(evenkeel_virtual_addresses) now, it refuses unless a host outside of the
    wave is healthy and ready to take the address. Then it has the address handed over, and refuses unless another host
    has it by then.
  - Runs once for all hosts of a batch, and a refusal fails them all. It does not work with the strategy C(free).
  - O(store) counts for the host of the task. On another host its own variable C(evenkeel_store) counts, where it is
    set.
version_added: 0.1.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._probes
options:
  group:
    description:
      - Names of the hosts, or of groups of the inventory, whose health counts; the limit of the run does not narrow
        it.
    type: list
    elements: str
    required: true
  wave:
    description:
      - Names of the hosts that are about to change. By default the hosts of this batch.
    type: list
    elements: str
  min_healthy:
    description:
      - How many hosts of the group must be healthy besides the wave, as a number, a percentage or V(quorum) (more
        than half of the group). By default there is no limit.
    type: str
  max_unavailable:
    description:
      - How many hosts may be in flight at once, as a number or a percentage of the group. This wave counts, and so
        does every host that an earlier run left in the middle of a change, or that does not answer. By default there
        is no limit.
    type: str
  guard_domain:
    description:
      - Name of the inventory variable of the failure domain. With it, the hosts in flight must all be of one
        failure domain.
      - This option was named C(failure_domain) before version 0.2.0.
    type: str
    aliases: [failure_domain]
  confirmed:
    description:
      - Refuse unless every host of an earlier batch of this play ended V(confirmed). For plays that arm every host.
    type: bool
    default: false
  change:
    description:
      - Name of the change over several hosts that asks. Hosts that are healthy and held for it count as healthy, and
        not as in flight.
    type: str
    version_added: 0.2.0
  restart:
    description:
      - The step is a restart. A host of the wave that an earlier restart left in the middle may then be restarted,
        which finishes that one. Without it such a host is refused, and it counts as in flight in any case.
    type: bool
    default: false
    version_added: 0.2.0
  timeout:
    description:
      - How long a host may take to answer; after that it counts as unreachable.
    type: str
    default: 30s
attributes:
  check_mode:
    support: full
    description: Measures and decides the same, and hands nothing over. O(confirmed) is left out, as nothing was armed.
  diff_mode:
    support: none
    description: Changes no file.
  idempotent:
    support: full
    description: Changes nothing but the holder of a service address, once.
"""

EXAMPLES = r"""
- name: Keep a quorum of the web servers serving
  evenkeel.fault_tolerance.ft_guard:
    group: web
    min_healthy: quorum
    max_unavailable: 1
    probes:
      - http: {url: http://localhost/, status: 200}
"""

RETURN = r"""
decision:
  description: V(proceed) or V(refuse).
  returned: always
  type: str
reasons:
  description: The reasons of a refusal, each a sentence with the names of the hosts and the next step.
  returned: always
  type: list
  elements: str
healthy:
  description: Hosts whose probes pass now.
  returned: when it was measured
  type: list
  elements: str
unhealthy:
  description: Hosts of which a probe fails.
  returned: when it was measured
  type: list
  elements: str
unknown:
  description: Hosts whose health is not known, including unreachable hosts.
  returned: when it was measured
  type: list
  elements: str
in_flight:
  description: Hosts in the middle of a change of any run.
  returned: when it was measured
  type: list
  elements: str
planned:
  description: The move of a service address to a host outside of the wave, where it is needed.
  returned: always
  type: list
  elements: str
done:
  description: The measurements, and the move of a service address.
  returned: always
  type: list
  elements: str
proved:
  description: The answer of each host.
  returned: always
  type: list
  elements: str
left:
  description: The reasons against the step.
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
  description: The reasons in one text.
  returned: failure
  type: str
"""

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import run_module
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health import probes
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.options import Options, Params, renamed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.result import Result

ARGUMENTS: Options = {
    "group": {"type": "list", "elements": "str", "required": True},
    "wave": {"type": "list", "elements": "str"},
    "probes": probes.OPTION,
    "min_healthy": {"type": "str"},
    "max_unavailable": {"type": "str"},
    "guard_domain": {"type": "str", **renamed("failure_domain")},
    "confirmed": {"type": "bool", "default": False},
    "change": {"type": "str"},
    "restart": {"type": "bool", "default": False},
    "timeout": {"type": "str", "default": "30s"},
}


def work(params: Params, check_mode: bool) -> Result:
    raise UsageError(
        "ft_guard decides on the controller, and nothing was decided: call it by its full name"
        " evenkeel.fault_tolerance.ft_guard, from a playbook"
    )


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
