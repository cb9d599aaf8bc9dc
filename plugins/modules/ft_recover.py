#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_recover
short_description: Recover a host from the copy of a checkpoint on a peer
description:
  - Recovers a host whose files or store are lost or damaged, or lets a spare take the place of another host.
  - Asks every peer for its checkpoints of the host. Each peer computes every hash again; a damaged copy is named and
    never used.
  - Peers decide nothing. A copy counts when it has the MAC that M(evenkeel.fault_tolerance.ft_replicate) made with the
    key of the controller, which is the variable C(evenkeel_key) of O(host), or the file C(.evenkeel-key) beside the
    inventory. A copy without a MAC, such as a copy of version 0.1.0, is taken only by its whole id, with a warning.
  - Takes the newest such checkpoint into the store of this host, if all of it lies inside what the variable
    C(evenkeel_resources) of O(host) declares, then puts the host back to it, on the same path as
    M(evenkeel.fault_tolerance.ft_rollback). Where the newest checkpoint cannot be brought, the checkpoint before it is
    taken, and RV(left) says so.
  - An encrypted copy is read with the variable C(evenkeel_encryption_key) of O(host). A copy that no key of it reads is
    V(locked), and is not used.
  - Without a verified copy nothing is changed.
  - O(store) counts for the host of the task. On another host its own variable C(evenkeel_store) counts, where it is
    set.
version_added: 0.1.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._phase
options:
  host:
    description:
      - The host whose data are recovered, by its name on the peers. By default the name of this host in the inventory.
    type: str
  checkpoint:
    description:
      - V(latest), a name, an id, or the first 8 or more digits of an id. V(name~1) is the last but one of the
        name.
    type: str
    default: latest
  peers:
    description:
      - Names of the hosts, or of groups of the inventory, that may hold a copy.
    type: list
    elements: str
    required: true
  timeout:
    description:
      - How long a peer may take for its part; after that it counts as unreachable.
    type: str
    default: 10m
  undeclared:
    description:
      - Restore also state that the variable C(evenkeel_resources) of O(host) does not declare, after you have examined
        it, and a checkpoint without a MAC that names another host.
    type: bool
    default: false
    version_added: 0.2.0
attributes:
  check_mode:
    support: partial
    description: Changes nothing and tells which copy would be used.
    details:
      - It cannot name the paths that differ from that copy before the copy has been brought.
  diff_mode:
    support: full
    description: Shows the manifest lines now and then (attributes and hashes, never contents, which may be secret).
  idempotent:
    support: full
    description: A host that is as recorded is not touched.
"""

EXAMPLES = r"""
- name: Bring back the state of this host
  evenkeel.fault_tolerance.ft_recover:
    peers: web

- name: Let this spare take the place of web3
  evenkeel.fault_tolerance.ft_recover:
    host: web3
    peers: web
"""

RETURN = r"""
source:
  description: The peer whose copy was used.
  returned: success
  type: str
id:
  description: The checkpoint that the host was put back to.
  returned: success
  type: str
candidates:
  description:
    - The copies of every peer.
  returned: always
  type: list
  elements: dict
  contains:
    peer:
      description: The host that was asked.
      type: str
    id:
      description: The checkpoint. Empty where the peer holds none.
      type: str
    host:
      description: The host that the checkpoint names.
      type: str
    name:
      description: Name of the checkpoint.
      type: str
    created:
      description: When it was taken, as ISO 8601 writes it.
      type: str
    state:
      description:
        - V(verified), V(unproved) (whole, without a MAC of ours), V(locked) (encrypted, without a key that reads it),
          V(refused), V(damaged), V(none), V(failed) or V(unreachable).
      type: str
    detail:
      description: The state in words.
      type: str
undo:
  description: The checkpoint of the replaced state; empty when nothing was replaced.
  returned: success
  type: str
restart_needed:
  description:
    - Programs that still have replaced files open, mapped or as their working directory, and see the new files only
      after a restart. Declared services have been restarted already.
  returned: success
  type: list
  elements: dict
  sample: [{"unit": "php-fpm.service", "processes": ["php-fpm[812]"], "paths": ["/srv/www/app.php"]}]
  contains:
    unit:
      description: The unit that the processes belong to. Empty where they belong to none.
      type: str
    processes:
      description: The processes, each with its id in brackets.
      type: list
      elements: str
    paths:
      description: Some of the files.
      type: list
      elements: str
planned:
  description: The planned steps, in order.
  returned: always
  type: list
  elements: raw
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
  description: State that is not as requested, including damaged copies and unreachable peers.
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.every import CALLS

_CALL = CALLS["recover"]
ARGUMENTS = _CALL[0]


def main() -> None:
    run_module(*_CALL)


if __name__ == "__main__":
    main()
