#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_offsite
short_description: Keep checkpoints in a restic repository, away from the fleet
description:
  - Replicas (M(evenkeel.fault_tolerance.ft_replicate)) lie on hosts of the same fleet. This puts a checkpoint into a
    restic repository as well, encrypted, on any storage that restic supports, and takes it out again for a rollback.
  - A checkpoint counts as pushed once it was fetched back and equals the bundle that was sent. A fetched bundle is not
    trusted - every hash is computed anew.
  - The repository must exist (C(restic init)). C(restic forget), with a key that may do so, removes old checkpoints;
    this module never deletes. Credentials of the storage go into C(environment) of the task.
version_added: 0.2.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._phase
requirements:
  - restic, on the host
options:
  repository:
    description:
      - Address of the repository, as restic takes it. Better without a password, which Ansible may log; give that in
        C(environment) of the task.
    type: str
    required: true
  password_file:
    description:
      - File on the host that holds the password of the repository.
    type: path
    required: true
  state:
    description:
      - V(pushed) puts a checkpoint of the store into the repository. V(fetched) takes one into the store, for
        M(evenkeel.fault_tolerance.ft_rollback). A checkpoint of another host becomes a copy of that host, as a peer has
        it, for M(evenkeel.fault_tolerance.ft_recover), which knows what has to stay as it is here.
    type: str
    choices: [pushed, fetched]
    default: pushed
  checkpoint:
    description:
      - V(latest), a name, an id, or the first 8 or more digits of an id. V(name~1) is the last but one of the
        name.
    type: str
    default: latest
  host:
    description:
      - The host of the checkpoints, by its name in the repository. By default the node name. This host is known by its
        name in the inventory and by its node name; every other name is another host.
    type: str
attributes:
  check_mode:
    support: full
    description: Looks into the repository, and names the checkpoint that would be pushed or fetched.
  diff_mode:
    support: none
    description: Nothing on the host changes that a difference could show.
  idempotent:
    support: full
    description:
      - A checkpoint that is there is not carried again. It is fetched and compared where a run was cut before it
        compared what it had pushed, or the store does not know of that.
"""

EXAMPLES = r"""
- name: Keep the newest checkpoint away from here as well
  evenkeel.fault_tolerance.ft_offsite:
    repository: sftp:backup@vault.example.org:/srv/restic/web
    password_file: /etc/evenkeel/restic-password
    host: "{{ inventory_hostname }}"

- name: Bring back the newest state of this host, whose store is lost
  evenkeel.fault_tolerance.ft_offsite:
    repository: sftp:backup@vault.example.org:/srv/restic/web
    password_file: /etc/evenkeel/restic-password
    host: "{{ inventory_hostname }}"
    state: fetched
  register: brought

- name: Put this host back to it
  evenkeel.fault_tolerance.ft_rollback:
    checkpoint: "{{ brought.id }}"

- name: Bring the newest state of web3, which is lost, to this spare
  evenkeel.fault_tolerance.ft_offsite:
    repository: sftp:backup@vault.example.org:/srv/restic/web
    password_file: /etc/evenkeel/restic-password
    host: web3
    state: fetched
  register: of_web3

- name: Let this spare take the place of web3, as itself
  evenkeel.fault_tolerance.ft_recover:
    host: web3
    checkpoint: "{{ of_web3.id }}"
    peers: ["{{ inventory_hostname }}"]
"""

RETURN = r"""
id:
  description: The checkpoint.
  returned: success
  type: str
held:
  description: The checkpoints of the host in the repository, oldest first.
  returned: success
  type: list
  elements: dict
  contains:
    checkpoint:
      description: Id of the checkpoint.
      type: str
    name:
      description: Its name.
      type: str
    created:
      description: When it was taken, as ISO 8601 writes it.
      type: str
    snapshot:
      description: Id of the snapshot of restic that holds it.
      type: str
    path:
      description: Path of the bundle in that snapshot.
      type: str
planned:
  description: The planned steps, in order.
  returned: always
  type: list
  elements: raw
  sample: ["push before-change (3fc9b689459d) to /srv/restic"]
done:
  description: The steps that were done; on a failure, the steps before it.
  returned: always
  type: list
  elements: raw
proved:
  description: The facts that were measured afterwards.
  returned: always
  type: list
  elements: str
left:
  description: Data that the copy does not hold, such as a database that another backup program looks after.
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.offsite import OPTIONS as ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.offsite import work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
