#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_replicate
short_description: Keep copies of a host's checkpoint on its peers
description:
  - Copies a checkpoint of this host to other hosts of the inventory, at most one copy in each failure domain.
  - The copies travel straight from host to host over SSH where O(transport) allows it and the hosts can meet, and
    otherwise through the controller, over its own connections. The result tells which way each copy took, and why.
  - Other hosts reach a peer at its inventory variable C(evenkeel_address), a name or an address with a port where that
    is not 22 (V(10.1.0.5:2222)); where it is not set, as Ansible reaches it.
  - Each copy gets a MAC, by which M(evenkeel.fault_tolerance.ft_recover) recognizes it. The key of the MAC is the
    variable C(evenkeel_key) of this host, a text of 32 characters or more or a list of such texts. The first key makes
    MACs, and MACs of all keys are accepted. Without that variable the key is in the file C(.evenkeel-key) beside the
    inventory, which the first copy makes. No host ever has the key.
  - Where the variable C(evenkeel_encryption_key) of this host is set (a text of 32 characters or more, or a list of
    them, of which the first encrypts), the copies are encrypted by C(openssl) before they leave the host. A peer
    verifies them without a key. Plain copies that it holds from before do not count then, and a warning names them. A
    peer with encrypted copies gets no plain copy where the variable is missing. Where the last copies of this host were
    encrypted, no peer gets one until all peers say that they hold no encrypted copies.
  - A copy counts once its receiver has computed every hash again and the copy is durable there.
  - Each host has an order of its own over the peers, so that the load spreads and a later run chooses the same peers.
    The next peer replaces a peer that cannot be reached or does not take the copy.
  - A copy holds also what the host keeps beside its store, such as the base and the log of a database.
  - O(retention) decides which copies of this host each peer keeps.
  - O(store) counts for the host of the task. On another host its own variable C(evenkeel_store) counts, where it is
    set.
version_added: 0.1.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._retention
  - evenkeel.fault_tolerance._phase
options:
  copies:
    description:
      - The number of copies, besides the checkpoint of the host itself.
    type: int
    default: 2
  min_copies:
    description:
      - The number of copies without which the task fails. With fewer than O(copies) and no fewer than this number the
        task succeeds with a warning, also where there are no more peers. By default O(copies).
    type: int
    version_added: 0.2.0
  peers:
    description:
      - Names of the hosts, or of groups of the inventory, that may hold the copies. The host itself never does.
      - They will hold the whole checkpoint, secrets too; encrypted with C(evenkeel_encryption_key).
    type: list
    elements: str
    required: true
  failure_domain:
    description:
      - Name of the inventory variable of the failure domain. No two copies lie in one failure domain, and no copy lies
        in the domain of the host while there are others. By default every peer is a domain of its own.
    type: str
  checkpoint:
    description:
      - V(latest), a name, an id, or the first 8 or more digits of an id. V(name~1) is the last but one of the
        name.
    type: str
    default: latest
  host:
    description:
      - Name under which the peers keep the copies. By default the name of this host in the inventory. The peers are in
        the order of that host, and it holds none of the copies itself.
    type: str
  transport:
    description:
      - V(ssh) sends each copy straight from this host to the peer. The host makes a key for the transfer. The peer lets
        it in with one line in the file of keys of the login user, which allows nothing but to write this copy to a
        receiver that waits for it, and which is removed with its first byte. A peer that cannot be reached so has
        failed.
      - V(chain) sends copies from this host to a peer, from there to the next peer, and so on, each in the same way.
        What is lost on the way is sent by V(ssh), and else by V(relay).
      - V(relay) sends copies through the controller. No host gets a key to another host.
      - V(auto) takes V(chain) for a bundle of 64 MiB or more that several peers lack, otherwise V(ssh), and V(relay)
        where that does not work.
    type: str
    default: auto
    choices: [auto, ssh, chain, relay]
    version_added: 0.2.0
  timeout:
    description:
      - How long a peer may take for its part; after that it counts as unreachable.
    type: str
    default: 1h
attributes:
  check_mode:
    support: full
    description: Copies nothing, and tells which peers would get a copy.
  diff_mode:
    support: none
    description: Nothing on a host changes that a difference could show.
  idempotent:
    support: full
    description: A copy that is whole is not sent again.
"""

EXAMPLES = r"""
- name: Two copies of the newest checkpoint, in other racks
  evenkeel.fault_tolerance.ft_replicate:
    copies: 2
    peers: web
    failure_domain: rack

- name: Two copies if that is possible, one at the least, and no key on any host
  evenkeel.fault_tolerance.ft_replicate:
    copies: 2
    min_copies: 1
    peers: web
    transport: relay
"""

RETURN = r"""
id:
  description: The checkpoint.
  returned: when it was found
  type: str
copies:
  description:
    - One entry for each peer that was asked.
  returned: when a peer was asked
  type: list
  elements: dict
  contains:
    peer:
      description: The host that was asked.
      type: str
    domain:
      description: Its failure domain.
      type: str
    id:
      description: The checkpoint.
      type: str
    state:
      description:
        - V(verified) for a copy that counts, V(planned) in check mode, and V(failed) or V(unreachable) otherwise.
      type: str
    detail:
      description: The state in words.
      type: str
    transport:
      description: The way of the copy, V(ssh), V(chain) or V(relay); empty where nothing was sent.
      type: str
    reason:
      description: Why a copy that was to go straight went by V(relay), or empty.
      type: str
planned:
  description: The copies to be made.
  returned: always
  type: list
  elements: str
done:
  description: The copies that were made.
  returned: always
  type: list
  elements: str
proved:
  description:
    - The copies that their receivers have hashed and stored in this run, and those that they have whole since an
      earlier one, as far as names and sizes show. M(evenkeel.fault_tolerance.ft_scrub) hashes them again.
  returned: always
  type: list
  elements: str
left:
  description:
    - The peers that hold no copy although they were asked, and why; or the copies that are missing. Data that a copy
      does not hold, such as a database that another backup program looks after. Old copies that a peer could not
      forget.
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.replicate import OPTIONS as ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.replicate import work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
