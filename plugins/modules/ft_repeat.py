#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_repeat
short_description: Repeat an operation until it is verified, and never more often than it may be
description:
  - Runs any module, or a file of tasks, as an operation until the operation's own verification passes. C(until) and
    C(retries) of a task know only what the module says. Here probes measure the effect, and decide.
  - Verification comes first. Where it passes already, the operation is not run, and the result of the earlier run is
    returned if there was one. So the probes must measure the effect of the operation, and fail before it.
  - The host keeps a journal of operations by O(id). An attempt is on disk there before it begins. Where the controller
    was killed in an attempt, or the connection was lost, the next attempt (of this run or of a later one) waits until
    no process of that attempt runs any more and verification has told whether it took effect.
  - Fails where the operation is not verified in time, and names the reason in RV(outcome). An unreachable host fails as
    well, so that C(rescue) runs for it.
  - The operation runs with the connection, privileges and environment of this task, and C(module_defaults) count for it
    as for any task.
version_added: 0.2.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._phase
  - evenkeel.fault_tolerance._verify
options:
  id:
    description:
      - The name of the operation on this host, up to 120 letters, digits and C(._:@+-). The journal knows it by this.
      - An operation that is to be done again under C(class=once) needs another one.
    type: str
    required: true
  module:
    description:
      - The module that is run, by its full name. Modules with an action plugin are run by it, as in a task. Either this
        or O(tasks) is needed.
    type: str
  args:
    description:
      - The arguments of O(module).
    type: dict
  tasks:
    description:
      - A YAML file of tasks that are the operation, up to 100 of them. It is found as C(include_tasks) finds it, in the
        C(tasks) of a role, or beside the playbook. It is read and checked before anything is touched.
      - The tasks run in order. The first that fails ends the attempt, and the next attempt begins from the first task.
        Each task sees what those before it have registered, and facts that they have set. The play does not.
      - A task can have C(name), C(args), C(when), C(loop), C(loop_control), C(register), C(vars), C(environment),
        C(become) and its like, C(no_log), C(changed_when), C(failed_when), C(ignore_errors), C(check_mode), C(diff),
        C(module_defaults) and C(collections). All other keywords, blocks, handlers, includes and C(meta) are refused.
    type: str
  class:
    description:
      - V(idempotent) may be carried out again at any time.
      - V(compensatable) may be carried out again once the checkpoint O(restore) is put back, and not while an earlier
        attempt runs.
      - V(once) must never take effect twice. An attempt begins only where verification fails, never where it is
        unknown. Where the module says that it was done and verification does not pass, or where an attempt was cut off
        and verification is unknown, nothing is repeated. Once verified, it never runs again under this O(id).
    type: str
    choices: [idempotent, compensatable, once]
    default: idempotent
  restore:
    description:
      - The checkpoint that is put back before each further attempt, by its name. The journal keeps the id that the name
        has at the first attempt. A later run that goes on with the same operation restores that very checkpoint, even
        if the name has a newer one.
    type: str
  attempts:
    description:
      - How often the operation may be carried out. The deadline comes first.
    type: int
    default: 5
  unreachable_attempts:
    description:
      - How often the host may fail to answer, over the whole task. These do not count as attempts.
    type: int
    default: 5
  deadline:
    description:
      - The time for everything. No attempt begins after it. One that runs is not waited for any longer, and may go on
        on the host; where it may have taken effect, verification is measured once more.
    type: str
    default: 10m
  backoff:
    description:
      - The longest wait before the first retry. It doubles with every retry. Each wait is a random time between nothing
        and this, so that hosts that failed together do not come again together.
    type: str
    default: 1s
  backoff_limit:
    description:
      - The longest wait before any retry. It is random as well.
    type: str
    default: 30s
  retry_budget:
    description:
      - Retries within a minute that all hosts of the run together have for this task, a number, or a share of the hosts
        of the play such as V(20%), which is taken of ten hosts at least. A host that gets none waits for one, and fails
        where none comes before the deadline.
    type: str
    default: 100%
  vote:
    description:
      - How many observations of how many must agree, such as V(2 of 3), more than half. Each measures all probes. With
        no such majority the verification is unknown.
    type: str
    default: 1 of 1
  voters:
    description:
      - Names of hosts or groups that make the observations, one each, as many as O(vote) says. They measure O(verify)
        where they are, so that its probes name the host to look at. By default the host itself makes all of them.
    type: list
    elements: str
  group:
    description:
      - Names of hosts or groups. A probe with C(from=peer) is measured from one of them. By default all hosts of the
        play.
    type: list
    elements: str
  verify_within:
    description:
      - How long to wait for the probes to pass after the module has said that all went well. After a failure they are
        measured once.
    type: str
    default: 10s
  soak:
    description:
      - How long they must keep passing then.
    type: str
    default: 0s
  interval:
    description:
      - Time between two rounds of probes, and between two observations.
    type: str
    default: 1s
attributes:
  check_mode:
    support: full
    description:
      - Measures the verification. Where the operation would run, its tasks run in check mode, and one that does not
        support that is named in a warning.
  diff_mode:
    support: full
    description: Shows the differences that the tasks of the last attempt show.
  idempotent:
    support: full
    description: An operation that is verified is not run again.
"""

EXAMPLES = r"""
- name: Migrate a database, whatever happens in between
  evenkeel.fault_tolerance.ft_repeat:
    id: migrate-42
    module: ansible.builtin.command
    args: {argv: [/opt/app/migrate, --to, "42"]}
    verify:
      - command: {argv: [/opt/app/migrate, --check, "42"]}
    attempts: 5
    deadline: 10m

- name: Call a function until it has succeeded
  evenkeel.fault_tolerance.ft_repeat:
    id: join-cluster
    module: ansible.builtin.shell
    args:
      cmd: . /opt/app/functions && join_cluster
    verify:
      - command: {argv: [test, -e, /opt/app/joined]}
    deadline: 5m

# upgrade.yml:
#   - name: Write the configuration
#     ansible.builtin.copy: {dest: /opt/app/config, content: "version: {{ version }}", mode: "0644"}
#   - name: Unpack
#     ansible.builtin.command: {argv: [/opt/app/unpack, "{{ version }}"]}
#     register: unpacked
#   - name: Start
#     ansible.builtin.command: {argv: [/opt/app/start, "{{ unpacked.stdout }}"]}
- name: Upgrade in several tasks, from the first one each time
  evenkeel.fault_tolerance.ft_repeat:
    id: upgrade-42
    tasks: upgrade.yml
    verify:
      - command: {argv: [grep, -qx, "42", /opt/app/running]}
  vars:
    version: "42"

- name: Enrol this host, once, and believe two looks of three
  evenkeel.fault_tolerance.ft_repeat:
    id: enrol-2026
    class: once
    module: ansible.builtin.uri
    args: {url: "https://inventory.example.org/hosts", method: POST, status_code: 201}
    verify:
      - command: {argv: [test, -s, /etc/enrolled]}
    vote: 2 of 3

- name: Upgrade with a script that may stop half-way, from the same state each time
  evenkeel.fault_tolerance.ft_repeat:
    id: upgrade-7
    class: compensatable
    restore: before-upgrade
    module: ansible.builtin.command
    args: {argv: [/opt/app/upgrade, "7"]}
    verify:
      - http: {url: http://localhost/version}
    soak: 5s
"""

RETURN = r"""
id:
  description: The operation.
  returned: unless it was refused
  type: str
  sample: migrate-42
outcome:
  description:
    - V(verified), or the reason of the failure. V(failed) where the operation did not take effect in time or attempts,
      V(unreachable) where the host did not answer and nothing was begun, V(refused) where nothing was to be done,
      V(in_doubt) where it may have taken effect. Empty in check mode where the operation would run.
  returned: unless it was refused
  type: str
  sample: verified
attempts:
  description: The attempts of this task, in order. Empty where the operation was verified before.
  returned: unless it was refused
  type: list
  elements: dict
  contains:
    number:
      description: Its number in this task.
      type: int
    said:
      description: The operation's own word, V(ok) or V(failed), or V(no answer).
      type: str
    msg:
      description: Its words on a failure.
      type: str
    seconds:
      description: How long it took.
      type: float
waited:
  description: Seconds that passed between attempts and looks.
  returned: unless it was refused
  type: float
result:
  description:
    - The result of the module, of the last attempt. Where the operation was verified before, the result of the attempt
      that was. The journal keeps none under C(no_log), and none that is longer than 64 KiB; it is empty then.
    - For O(tasks) it is the result of the last task that was not skipped, with those of all tasks in C(results). Each
      tells its C(task). Once all together are longer than 32 KiB, only the outcome of each further one is kept, and
      C(shortened) is set.
  returned: unless it was refused
  type: dict
  contains:
    KEY:
      description: Each key that the module returns, as the documentation of the module tells.
      type: raw
    results:
      description: The results of all tasks that were not skipped, in order. Returned for O(tasks).
      type: list
      elements: dict
      contains:
        task:
          description: The name of the task.
          type: str
        shortened:
          description: Whether only the outcome of this task was kept. Absent where all was.
          type: bool
        KEY:
          description: Each key that the module of the task returns.
          type: raw
  sample: {"changed": true, "rc": 0, "stdout": "migrated to 42"}
verification:
  description: The last verification.
  returned: unless it was refused
  type: dict
  contains:
    state:
      description: V(pass), V(fail) or V(unknown). Null where the host did not answer.
      type: str
    observations:
      description: The observations of it. Empty where an operation that happens once was verified before.
      type: list
      elements: dict
      contains:
        source:
          description: V(host), or the name of the host that made it.
          type: str
        state:
          description: V(pass), V(fail) or V(unknown).
          type: str
        detail:
          description: The measurement in words.
          type: str
planned:
  description: The operations that were to be run.
  returned: always
  type: list
  elements: raw
  sample: [{"resource": "operation", "action": "ansible.builtin.command", "target": "migrate-42"}]
done:
  description: The attempts, in words; on a failure, those before it.
  returned: always
  type: list
  elements: raw
proved:
  description: The facts that were measured afterwards.
  returned: always
  type: list
  elements: str
left:
  description: State that is not as requested.
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.repeat import OPTIONS as ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.repeat import work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
