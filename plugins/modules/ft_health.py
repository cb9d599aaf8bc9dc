#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_health
short_description: Measure the health of a host
description:
  - Measures all probes until they have passed for the whole soak, or until the deadline. A probe passes, fails, or is
    unknown because it could not be measured; unknown never counts as healthy.
  - Without any probe a host that answers is healthy.
  - Fails unless the host is healthy.
version_added: 0.1.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._probes
  - evenkeel.fault_tolerance._evidence
options:
  soak:
    description:
      - How long all probes must keep passing, with no restart of a probed service. With V(0s) one round is enough.
    type: str
    default: 0s
  deadline:
    description:
      - How long to wait for that. Never less than the soak; with V(0s) a host that is not healthy fails at once.
    type: str
    default: 0s
  interval:
    description:
      - Time between two rounds.
    type: str
    default: 1s
  addresses:
    description:
      - Service addresses that move between hosts, each as C(evenkeel_virtual_addresses) names it. The result then says
        which of them this host has now, and whether it is ready to take them.
    type: list
    elements: str
    version_added: 0.2.0
attributes:
  check_mode:
    support: full
    description: Only reads.
  diff_mode:
    support: none
    description: Only reads.
  idempotent:
    support: full
    description: Only reads.
"""

EXAMPLES = r"""
- name: Wait up to two minutes until nginx has served for ten seconds
  evenkeel.fault_tolerance.ft_health:
    probes:
      - http: {url: http://localhost/, status: 200}
      - service: {name: nginx}
    soak: 10s
    deadline: 2m
"""

RETURN = r"""
state:
  description: V(pass), V(fail) or V(unknown).
  returned: unless it was refused
  type: str
probes:
  description: The last round.
  returned: unless it was refused
  type: list
  elements: dict
  contains:
    kind:
      description: Kind of the probe.
      type: str
    target:
      description: Address, unit, command or path that it measures.
      type: str
    state:
      description: V(pass), V(fail) or V(unknown).
      type: str
    detail:
      description: The measurement in words.
      type: str
    seconds:
      description: Seconds that the measurement took.
      type: float
    identity:
      description: A text that changes with each start of the service. Empty for other probes.
      type: str
    restarts:
      description: The number of times that its service manager has restarted the service.
      type: int
    severity:
      description: V(fail) for a probe that decides, V(warn) for a probe that is only reported.
      type: str
    source:
      description: The place that it was measured from, V(host), V(controller), or V(peer) and its name.
      type: str
waited:
  description: Seconds that it took.
  returned: unless it was refused
  type: float
soaked:
  description: Seconds for which all had been passing.
  returned: unless it was refused
  type: float
restarts:
  description: Restarts of probed services that were seen meanwhile.
  returned: unless it was refused
  type: int
address:
  description: The part of this host in the service addresses.
  returned: with O(addresses), unless it was refused
  type: dict
  contains:
    holds:
      description: The service addresses that the host has now.
      type: list
      elements: str
    ready:
      description: Whether it takes them when their holder gives them up, as keepalived told last.
      type: bool
    why:
      description: The reason why it is not ready. Empty where it is.
      type: str
host_state:
  description: Whether a change is under way, as M(evenkeel.fault_tolerance.ft_info) returns it.
  returned: unless it was refused
  type: dict
  contains:
    generation:
      description: Number of the newest change; 0 before the first.
      type: int
    armed:
      description: The change that waits for its confirmation; null when there is none.
      type: dict
      contains:
        generation:
          description: Number of the change.
          type: int
        checkpoint:
          description: Id of the checkpoint that the host goes back to.
          type: str
        name:
          description: Name of that checkpoint.
          type: str
        until:
          description: When the time to confirm ends, in seconds since the epoch.
          type: float
        within:
          description: The time to confirm, in seconds.
          type: float
        back:
          description:
            - By whom its rollback began, V(settle), V(deadline), V(boot), V(health) or V(operator). Absent before.
          type: str
        left:
          description: State that could not be put back so far. Absent where nothing is left.
          type: list
          elements: str
        tries_until:
          description: Until when the host tries that again, in seconds since the epoch. Absent where nothing is left.
          type: float
        change:
          description: The change over several hosts to which this belongs. Absent where the host changes alone.
          type: str
        hosts:
          description: The number of hosts of that change. Absent where the host changes alone.
          type: int
        stage:
          description:
            - V(held) once the host is healthy and waits for the others of that change, V(approved) once a person has
              let it go on, V(decided) once all are to keep it. Absent before.
          type: str
        remaining:
          description: Seconds until the time to confirm ends, whatever the clock of the host says; 0 once it is over.
          type: float
        overdue:
          description: For how many seconds the host should have been going back; null while there is time.
          type: float
    last:
      description: How the last change ended; null before the first.
      type: dict
      contains:
        generation:
          description: Number of the change.
          type: int
        outcome:
          description: V(confirmed), V(rolled_back), V(in_doubt) or V(accepted).
          type: str
        by:
          description: The cause of the end, V(settle), V(deadline), V(boot), V(health) or V(operator).
          type: str
        at:
          description: When it ended, in seconds since the epoch.
          type: float
        checkpoint:
          description: Id of the checkpoint of the change.
          type: str
        left:
          description: State that could not be put back.
          type: list
          elements: str
        until:
          description: The end of further attempts, in seconds since the epoch; 0 without any.
          type: float
        rollback:
          description:
            - Generation of the rollback that ended the doubt, where it has to be confirmed itself.
          type: int
        written:
          description: The paths that services wrote as they started again, with their lines of a manifest.
          type: dict
          contains:
            PATH:
              description: The line of this path in a manifest. Each path is a key of its own.
              type: str
        change:
          description: The change over several hosts that it was part of. Empty where the host changed alone.
          type: str
        hosts:
          description: The number of hosts of that change. 0 where the host changed alone.
          type: int
        boots:
          description: The number of boots that the change planned and that have come.
          type: int
    doubt:
      description: The end in doubt of a change, until it is resolved; null without doubt.
      type: dict
      contains:
        generation:
          description: Number of the change.
          type: int
        outcome:
          description: V(confirmed), V(rolled_back), V(in_doubt) or V(accepted).
          type: str
        by:
          description: The cause of the end, V(settle), V(deadline), V(boot), V(health) or V(operator).
          type: str
        at:
          description: When it ended, in seconds since the epoch.
          type: float
        checkpoint:
          description: Id of the checkpoint of the change.
          type: str
        left:
          description: State that could not be put back.
          type: list
          elements: str
        until:
          description: The end of further attempts, in seconds since the epoch; 0 without any.
          type: float
        rollback:
          description:
            - Generation of the rollback that ended the doubt, where it has to be confirmed itself.
          type: int
        written:
          description: The paths that services wrote as they started again, with their lines of a manifest.
          type: dict
          contains:
            PATH:
              description: The line of this path in a manifest. Each path is a key of its own.
              type: str
        change:
          description: The change over several hosts that it was part of. Empty where the host changed alone.
          type: str
        hosts:
          description: The number of hosts of that change. 0 where the host changed alone.
          type: int
        boots:
          description: The number of boots that the change planned and that have come.
          type: int
    interrupted:
      description: Whether a rollback was interrupted and waits to be finished.
      type: bool
    restart:
      description:
        - The restart that is open on the host, or was cut off there. Null where none is.
      type: dict
      contains:
        generation:
          description: The number of the restart on this host.
          type: int
        target:
          description: The unit, process or container, V(host), or V(owed).
          type: str
        mode:
          description: How it is restarted.
          type: str
        request:
          description: A hash of the target and the mode.
          type: str
        stage:
          description:
            - V(begun) before anything was done to the target, V(acting), V(acted) once it is healthy again, or
              V(failed).
          type: str
        drained:
          description: The places at which a controller drained the host for it, as the controller keeps them.
          type: list
          elements: dict
          contains:
            host:
              description: The host at which it was drained, such as a balancer.
              type: str
            kind:
              description: The kind of the drain, as an option of M(evenkeel.fault_tolerance.ft_drain).
              type: str
            options:
              description: The options of that kind.
              type: dict
              contains:
                OPTION:
                  description: An option, as M(evenkeel.fault_tolerance.ft_drain) takes it. Each is a key of its own.
                  type: raw
            words:
              description: The place in words.
              type: str
        roll:
          description: The roll of several hosts that it belongs to. Empty for none.
          type: str
        hosts:
          description: The number of hosts of that roll.
          type: int
        identity:
          description: The identity of the target before.
          type: str
        boot:
          description: The boot under which the stage was reached.
          type: str
        at:
          description: The time of the stage, in seconds since the epoch.
          type: float
        pid:
          description: The process that acts on the target. 0 for none.
          type: int
        started:
          description: The clock tick at which that process started.
          type: int
        running:
          description: Whether that process still lives.
          type: bool
planned:
  description: Empty, as this module only reads.
  returned: always
  type: list
  elements: raw
done:
  description: Empty, as this module only reads.
  returned: always
  type: list
  elements: raw
proved:
  description: The facts that were measured afterwards.
  returned: always
  type: list
  elements: str
left:
  description: The probes that do not pass.
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.health import ARGUMENTS, work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
