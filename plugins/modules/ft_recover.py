#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_recover
short_description: Recover a host, or a spare in its place, from the copy of a checkpoint on a peer
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
    taken, and RV(left) says so. Where there is no room for the newest, the recovery ends.
  - On another host the checkpoint is listed apart from the checkpoints of that host itself, and only a recovery goes
    back to it. A spare that stands in for a third host loses the state of that one, and a warning says so.
  - Another host than that of the checkpoint stays itself (O(identity)). What is a mount point there, or cannot be put
    back there, is left out and named (RV(left_out)).
  - Everything that can refuse does so before the first change of this host, and all reasons are told at once - a
    change under way there, another release or architecture where packages or the whole of C(/etc) come back, too
    little room, package files that nobody has, an account by which the controller could not log in any more. A
    checkpoint that was brought stays in the store then.
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
      - Names of the hosts, or of groups of the inventory, that may hold a copy. A spare may hold one itself.
    type: list
    elements: str
    required: true
  timeout:
    description:
      - How long a peer may take for its part; after that it counts as unreachable.
    type: str
    default: 1h
  undeclared:
    description:
      - Restore also state that the variable C(evenkeel_resources) of O(host) does not declare, after you have examined
        it, and a checkpoint without a MAC that names another host.
    type: bool
    default: false
    version_added: 0.2.0
  identity:
    description:
      - V(keep) leaves as it is what makes this host itself - host name, machine id, keys of the host, access,
        network, disks and boot. The default where O(host) is another host.
      - V(take) makes this host the lost one. It is refused while O(host) still answers. Disks, boot and network stay
        as they are where the checkpoint names a disk, or network cards, that are not here; a warning says so.
    type: str
    choices: [keep, take]
    version_added: 0.2.0
  kinds:
    description:
      - Put back only these kinds of resources. By default all.
    type: list
    elements: str
    version_added: 0.2.0
  paths:
    description:
      - Put back only these paths, with everything below them. This means O(kinds=files) where O(kinds) is not given.
    type: list
    elements: str
    version_added: 0.2.0
  min_copies:
    description:
      - Take only a checkpoint of which so many peers hold a verified copy. A newer checkpoint with fewer copies is
        named.
    type: int
    default: 1
    version_added: 0.2.0
  onto:
    description:
      - Names of hosts or groups, such as V(spares). Names the first of them that can take the place of O(host)
        (RV(onto)), and changes nothing. It answers, no change is under way there, it does not stand in for a third
        host, it has room, and its release and architecture are those of the checkpoint, as far as the peer knows them.
    type: list
    elements: str
    version_added: 0.2.0
attributes:
  check_mode:
    support: partial
    description: Changes nothing and tells which copy would be used.
    details:
      - It cannot name the paths that differ from that copy, nor what is left out, before the copy has been brought.
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

- name: Let this spare take the place of web3, under its own name
  evenkeel.fault_tolerance.ft_recover:
    host: web3
    peers: web

- name: Let this spare become web3, which is off
  evenkeel.fault_tolerance.ft_recover:
    host: web3
    peers: web
    identity: take

- name: Bring back one tree, from a checkpoint that two peers hold
  evenkeel.fault_tolerance.ft_recover:
    peers: web
    paths: [/srv/www]
    min_copies: 2
"""

RETURN = r"""
source:
  description: The peer whose copy was used, or this host where its store had the whole checkpoint already.
  returned: success
  type: str
id:
  description: The checkpoint that the host was put back to.
  returned: success
  type: str
created:
  description: When that checkpoint was taken, as ISO 8601 writes it.
  returned: success
  type: str
age:
  description: The age of that checkpoint in seconds when the recovery began. Later changes are lost (RPO).
  returned: success
  type: int
  sample: 732
seconds:
  description: How long the recovery took, from the first question to the last proof (RTO).
  returned: success
  type: float
  sample: 14.2
identity:
  description: V(keep) or V(take).
  returned: success
  type: str
restored:
  description:
    - The checkpoint in the store of this host to which it was rolled back. It is RV(id), or made from that with the
      state that stays as it is here.
  returned: success
  type: str
left_out:
  description: The recorded state that was left out, each with the reason in brackets.
  returned: success
  type: list
  elements: str
  sample: ["/etc/hostname (name)", "/etc/fstab (disks)"]
onto:
  description: The host that can take the place of the lost one.
  returned: with O(onto)
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
      after a restart. Declared services have been restarted already, but those that a rollback never stops, such as
      the network's.
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.recover import OPTIONS as ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.recover import work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
