#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_roll
short_description: Plan a rolling restart
description:
  - Looks at every host of the play, and plans a rolling restart of them. The result tells which hosts are restarted, in
    which waves, and why others are left out. Nothing is restarted, and nothing is written.
  - Hosts that an earlier run left in the middle of a restart come first, as they may be down already. Hosts that lead
    their group come last, one at a time. All others keep the order of the inventory.
  - Fails when a host cannot be asked, when it cannot be restarted as requested, or when another run restarts it now.
  - Runs once for all hosts of the play. The arguments are those of M(evenkeel.fault_tolerance.ft_restart), which is
    called for each host afterwards. An argument that comes from a variable of the role C(restart), such as
    C(evenkeel_service), counts for each host as it is set there.
  - Refuses two hosts whose variable C(evenkeel_drain) names the same place.
version_added: 0.2.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._process
options:
  name:
    description:
      - The systemd unit that is restarted. For example V(nginx).
    type: str
  container:
    description:
      - The container that is restarted.
    type: dict
    suboptions:
      name:
        description:
          - Name of the container. For example V(app).
        type: str
        required: true
      engine:
        description:
          - The engine that runs it. By default podman, or docker where there is no podman. For example V(docker).
        type: str
        choices: [podman, docker]
  owed:
    description:
      - Restart the units that run replaced programs or libraries, on the hosts that have such units.
    type: bool
    default: false
  scope:
    description:
      - V(host) restarts the host itself.
    type: str
    choices: [host]
  mode:
    description:
      - How it is restarted, as the option of M(evenkeel.fault_tolerance.ft_restart).
    type: str
    choices: [cold, warm, reboot, soft-reboot, kexec]
  ladder:
    description:
      - Ways to restart, tried in turn, as the option of M(evenkeel.fault_tolerance.ft_restart).
    type: list
    elements: str
    choices: [warm, cold, rollback, reboot]
  last:
    description:
      - A command, as a list of words, that exits with 0 on the host that leads its group. For example
        V([/usr/local/bin/is-leader]).
    type: list
    elements: str
  waves:
    description:
      - Sizes of the waves, each a number of hosts or a percentage of them. The last size repeats.
    type: list
    elements: str
    default: ['1']
  guard_domain:
    description:
      - Name of the inventory variable of the failure domain. With it, the hosts of a wave are all of one domain.
    type: str
  resume:
    description:
      - Leave out the hosts that an interrupted roll of the same restart has restarted already.
    type: bool
    default: false
  timeout:
    description:
      - How long a host may take to answer.
    type: str
    default: 30s
attributes:
  check_mode:
    support: full
    description: Plans the same.
  diff_mode:
    support: none
    description: Changes nothing.
  idempotent:
    support: full
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Plan to restart nginx, two hosts at a time
  evenkeel.fault_tolerance.ft_roll:
    name: nginx
    waves: ['2']
  register: planned
  run_once: true

- name: Show the plan
  ansible.builtin.debug:
    var: planned.waves
  run_once: true
"""

RETURN = r"""
roll:
  description: The roll, for M(evenkeel.fault_tolerance.ft_restart). An interrupted roll that goes on keeps its id.
  returned: always
  type: dict
  contains:
    id:
      description: Its id.
      type: str
    hosts:
      description: The number of its hosts.
      type: int
    leaders:
      description: The hosts that lead their groups (O(last)), and come last.
      type: list
      elements: str
waves:
  description: The hosts of each wave.
  returned: always
  type: list
  elements: list
  sample: [[web1], [web2, web3]]
group:
  description: All hosts that were looked at. Their health counts for the roll, unless another group is named.
  returned: always
  type: list
  elements: str
against:
  description: The reasons of a refusal by host; under an empty name for all.
  returned: always
  type: dict
  contains:
    HOST:
      description: The reason against this host. Each such host is a key of its own.
      type: str
  sample: {web2: 'web2: unreachable: timed out. Repair that, or leave the host out, and run again.'}
order:
  description: All hosts that are restarted, in order.
  returned: always
  type: list
  elements: str
left_out:
  description: The hosts that are not restarted, each with the reason.
  returned: always
  type: dict
  contains:
    HOST:
      description: The reason why this host is left out. Each such host is a key of its own.
      type: str
  sample: {web3: nothing is owed}
notes:
  description: Sentences about the plan, such as a restart that an earlier run left.
  returned: always
  type: list
  elements: str
forecast:
  description: The forecast of this restart from earlier restarts on these hosts.
  returned: always
  type: dict
  contains:
    tries:
      description: The number of earlier restarts.
      type: int
    seconds:
      description: Seconds that the roll takes, from the slowest host; null without earlier restarts.
      type: float
    risk:
      description: The chance that a restart of the roll fails; null without earlier restarts.
      type: float
units:
  description: The units of each host that owe a restart, where O(owed) asks for it.
  returned: always
  type: dict
  contains:
    HOST:
      description: The units of this host. Each such host is a key of its own.
      type: list
      elements: str
  sample: {web1: [nginx.service]}
above:
  description: The further debts of hosts, such as a reboot, each a sentence.
  returned: always
  type: dict
  contains:
    HOST:
      description: The sentences on this host. Each such host is a key of its own.
      type: list
      elements: str
  sample: {web1: [a reboot (kernel 6.1.0-30 is installed)]}
planned:
  description: The hosts of each wave, in words.
  returned: always
  type: list
  elements: str
done:
  description: The hosts that were looked at.
  returned: always
  type: list
  elements: str
proved:
  description: Nothing.
  returned: always
  type: list
  elements: str
left:
  description: The reasons against the roll.
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls import restart
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.options import Options, Params
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.result import Result

# The options that name the service, each with the variable that the role restart takes for it.
TARGET = (
    ("name", "evenkeel_service"),
    ("process", "evenkeel_process"),
    ("container", "evenkeel_container"),
    ("owed", "evenkeel_owed"),
    ("scope", "evenkeel_scope"),
    ("mode", "evenkeel_mode"),
    ("ladder", "evenkeel_ladder"),
    ("last", "evenkeel_last"),
)
ARGUMENTS: Options = {
    **{name: restart.ARGUMENTS[name] for name, _variable in TARGET},
    "waves": {"type": "list", "elements": "str", "default": ["1"]},
    "guard_domain": {"type": "str"},
    "resume": {"type": "bool", "default": False},
    "timeout": {"type": "str", "default": "30s"},
}


def work(params: Params, check_mode: bool) -> Result:
    raise UsageError(
        "ft_roll plans on the controller, and nothing was planned: call it by its full name"
        " evenkeel.fault_tolerance.ft_roll, from a playbook"
    )


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
