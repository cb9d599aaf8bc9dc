#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_heal
short_description: Rebuild bad and missing copies of a host's checkpoints from good ones
description:
  - Has this host and all peers prove which checkpoints of this host they hold. The proof needs a nonce that is new in
    each run, so that nobody can give it without reading all contents. The same reading finds damage, and puts it aside.
  - A copy that is damaged is rebuilt where it lies. Where there are fewer than O(copies), because a peer is gone or
    unreachable or has lost its copy, further peers get one, at most one in each failure domain. Damage in the store of
    this host itself is repaired from a copy, and a store that holds nothing, or knows
    none of the older copies, gets its checkpoints back.
  - A peer whose proof is wrong does not hold what it claims. It is named, its copy does not count, and another peer
    gets one. The proof of this host decides; without it, the proof that most hosts give.
  - Encrypted copies go from peer to peer as they are. The store of this host is neither asked nor repaired then,
    because it has no ciphertext. Its newest checkpoint is left to M(evenkeel.fault_tolerance.ft_replicate). Where two
    peers hold the same bundle and give different proofs, the controller fetches it and decides. Where no other peer
    holds the same bundle, what the peer says of its own reading is all that is known. Where the variable
    C(evenkeel_encryption_key) is not set, a peer with encrypted copies gets no plain one. Where the last copies of this
    host were encrypted, no peer gets one until all peers say that they hold no encrypted copies.
  - Each host that receives a copy computes every hash again, so that no bad copy can become the source of another.
  - Nothing is ever deleted. Copies beyond O(copies) stay, and so do the copies of hosts that are not in the inventory
    any more, until O(forget) names such a host.
  - The copies get a MAC as with M(evenkeel.fault_tolerance.ft_replicate), and travel in the same way. Copies without a
    MAC of ours are left alone, unless this host itself has the same checkpoint.
  - O(store) counts for the host of the task. On another host its own variable C(evenkeel_store) counts, where it is
    set.
version_added: 0.2.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._retention
  - evenkeel.fault_tolerance._phase
options:
  copies:
    description:
      - The number of copies, besides the checkpoint of the host itself. Fewer copies in the end are a failure.
    type: int
    default: 2
  min_copies:
    description:
      - The number of copies without which the task fails. With fewer than O(copies) and no fewer than this number the
        task succeeds with a warning. By default O(copies).
    type: int
  peers:
    description:
      - Names of the hosts, or of groups of the inventory, that may hold the copies. The host itself never does.
      - Copies on other hosts do not count.
    type: list
    elements: str
    required: true
  failure_domain:
    description:
      - Name of the inventory variable of the failure domain. Of several copies in one failure domain one counts. By
        default every peer is a domain of its own.
    type: str
  host:
    description:
      - The host whose copies are looked after, by its name on the peers. By default the host of the task. The own store
        of another host is not asked, so that it may be gone.
    type: str
  orphans:
    description:
      - Look also after the copies of all hosts that the inventory does not have any more, and of hosts of the play that
        failed or were unreachable before this task. One task of a run is enough.
    type: bool
    default: false
  forget:
    description:
      - Name of a host that the inventory does not have any more. The host of the task moves its copies of that host to
        the directory C(quarantine/replicas) of its store, where nothing finds them. Nothing else is done, and nothing
        is deleted.
    type: str
  retention:
    description:
      - The checkpoints that are to have as many copies. By default all of which there is a copy. The newest checkpoint
        is always among them. No copy is removed.
  time_limit:
    description:
      - How long each host may read. The newest checkpoint is always read whole. Other runs read other checkpoints.
    type: str
    default: 10m
  timeout:
    description:
      - How long a host may take for its part besides reading; after that it counts as unreachable.
    type: str
    default: 1h
attributes:
  check_mode:
    support: full
    description: Puts nothing aside and copies nothing, and tells what would be rebuilt and where.
  diff_mode:
    support: none
    description: Nothing on a host changes that a difference could show.
  idempotent:
    support: full
    description: A copy that is whole is not sent again.
"""

EXAMPLES = r"""
- name: Prove and heal the copies of this host
  evenkeel.fault_tolerance.ft_heal:
    copies: 2
    peers: web
    failure_domain: rack

- name: Look after the copies of a host that is gone, from peer to peer
  evenkeel.fault_tolerance.ft_heal:
    host: web3
    peers: web
  run_once: true

- name: Nobody needs the copies of web3 any more
  evenkeel.fault_tolerance.ft_heal:
    forget: web3
    peers: web
"""

RETURN = r"""
copies:
  description:
    - The state of each checkpoint on each peer at the end.
  returned: always
  type: list
  elements: dict
  contains:
    host:
      description: The host whose checkpoint it is.
      type: str
    peer:
      description: The host that holds the copy.
      type: str
    id:
      description: The checkpoint.
      type: str
    state:
      description:
        - V(good) for a copy that was read in this run; V(unread) for a copy for which there was no time; V(damaged);
          V(false) where the proof is wrong; V(disputed) where two hosts give different proofs; V(refused) where the
          peer did not take a copy.
      type: str
    detail:
      description: The state in words.
      type: str
planned:
  description: The copies to be rebuilt or placed.
  returned: always
  type: list
  elements: str
done:
  description: The copies that were rebuilt or placed.
  returned: always
  type: list
  elements: str
proved:
  description: The copies that were read in this run.
  returned: always
  type: list
  elements: str
left:
  description:
    - Copies that could not be rebuilt, hosts that did not answer, and all that was not read or is left alone.
    - Data that a new copy does not hold, such as a database that another backup program looks after.
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.heal import OPTIONS as ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.heal import work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
