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
    restic repository as well, encrypted, on whatever storage restic knows, and takes it out again for a rollback.
  - A checkpoint counts as pushed once it was fetched back and is what was sent. What is fetched is not believed, every
    hash is computed anew.
  - The repository must exist (C(restic init)). What it keeps is up to C(restic forget) and a key that may do so; this
    module never deletes. Credentials of the storage go into C(environment) of the task.
version_added: 0.2.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
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
        M(evenkeel.fault_tolerance.ft_rollback).
    type: str
    choices: [pushed, fetched]
    default: pushed
  checkpoint:
    description:
      - V(latest), a name, an id, or the first 8 or more digits of one. V(name~1) is the one before the newest of the
        name.
    type: str
    default: latest
  host:
    description:
      - Whose checkpoints, by the name under which the repository keeps them. By default the node name.
    type: str
attributes:
  check_mode:
    support: full
    description: Looks into the repository, and tells what would be pushed or fetched.
  diff_mode:
    support: none
    description: Nothing on the host changes that a difference could show.
  idempotent:
    support: full
    description: A checkpoint that is there is not carried again.
"""

EXAMPLES = r"""
- name: Keep the newest checkpoint away from here as well
  evenkeel.fault_tolerance.ft_offsite:
    repository: sftp:backup@vault.example.org:/srv/restic/web
    password_file: /etc/evenkeel/restic-password
    host: "{{ inventory_hostname }}"

- name: Bring back what web3 had, onto the host that takes its place
  evenkeel.fault_tolerance.ft_offsite:
    repository: sftp:backup@vault.example.org:/srv/restic/web
    password_file: /etc/evenkeel/restic-password
    host: web3
    state: fetched
  register: brought

- name: Put this host back to it
  evenkeel.fault_tolerance.ft_rollback:
    to: "{{ brought.id }}"
"""

RETURN = r"""
id:
  description: The checkpoint.
  returned: success
  type: str
held:
  description: The checkpoints of the host in the repository, oldest first, with C(checkpoint), C(name), C(created) and
    restic's C(snapshot).
  returned: success
  type: list
  elements: dict
planned:
  description: What was to be done, in order.
  returned: always
  type: list
  elements: raw
  sample: ["push before-change (3fc9b689459d) to /srv/restic"]
done:
  description: What was done; on a failure, what was done before it.
  returned: always
  type: list
  elements: raw
proved:
  description: What was measured to hold afterwards.
  returned: always
  type: list
  elements: str
left:
  description: What is not as it should be.
  returned: always
  type: list
  elements: str
msg:
  description: What went wrong, where, and what to do next.
  returned: failure
  type: str
"""

import os
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import run_module
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.offsite import Repository, fetch, push
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

ARGUMENTS = {
    "repository": {"type": "str", "required": True},
    "password_file": {"type": "path", "required": True, "no_log": False},
    "state": {"type": "str", "choices": ["pushed", "fetched"], "default": "pushed"},
    "checkpoint": {"type": "str", "default": "latest"},
    "host": {"type": "str"},
}


def work(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    system = System()
    carry = push if params["state"] == "pushed" else fetch
    repository = Repository(params["repository"], params["password_file"], system)
    host = params["host"] or os.uname().nodename
    return carry(Store(params["store"], system), repository, host, params["checkpoint"], check_mode)


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
