#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_scrub
short_description: Read everything that the store of a host holds, to find damage
description:
  - Reads every pack, content and checkpoint of the store, and of the copies it keeps for other hosts, and computes its
    hash anew. Disks lose data silently; this finds it while an intact copy can still be had.
  - Damaged files are put aside (C(quarantine) in the store) and named by checkpoint and path, and the module fails.
    The next checkpoint stores again the contents that the host still has. The others come from a replica, with
    M(evenkeel.fault_tolerance.ft_recover); a copy that is damaged is sent again by
    M(evenkeel.fault_tolerance.ft_replicate).
  - Runs with the lowest priority (nice 19) and locks nothing while it reads.
version_added: 0.2.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
options:
  time_limit:
    description:
      - Stop after this time, in seconds or as V(10m). The next run goes on with the oldest parts. The time is
        looked at after each pack (up to 32 MiB) or folder of larger contents.
      - By default all is read.
    type: str
  share:
    description:
      - How much of the time, in percent, to spend reading. For the rest the disk is left to others.
    type: int
    default: 50
attributes:
  check_mode:
    support: full
    description: Reads and reports, and puts nothing aside.
  diff_mode:
    support: none
    description: Nothing on the host changes that a difference could show.
  idempotent:
    support: full
    description: A store in which nothing is damaged stays as it is.
"""

EXAMPLES = r"""
- name: Read for half an hour, every night
  evenkeel.fault_tolerance.ft_scrub:
    time_limit: 30m

- name: Read all, as fast as it goes
  evenkeel.fault_tolerance.ft_scrub:
    share: 100
"""

RETURN = r"""
damaged:
  description: Damaged or missing data, in the store or, for V(subvolumes) and V(postgresql), outside of it.
  returned: unless it was refused
  type: list
  elements: dict
  sample:
    - kind: object
      id: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
      problem: it is missing
      checkpoints: [{"name": "before", "id": "3fc9b689459d738f8c88a3a48aa9e33542016b7a4052e001aaa536fca74813cb"}]
      paths: [/etc/nginx/nginx.conf]
      host: ""
  contains:
    kind:
      description: V(object), V(pack), V(manifest), V(sealed) (an encrypted bundle), V(subvolumes) or V(postgresql).
      type: str
    id:
      description: Name of the object, the pack, the bundle or the checkpoint, or the path.
      type: str
    problem:
      description: The problem in words.
      type: str
    checkpoints:
      description: The checkpoints that need it.
      type: list
      elements: dict
      contains:
        name:
          description: Name of the checkpoint.
          type: str
        id:
          description: Its id.
          type: str
    paths:
      description: The paths that need it.
      type: list
      elements: str
    host:
      description: The host whose copy it is. Empty for the store of the host itself.
      type: str
complete:
  description: Whether this run has read all.
  returned: unless it was refused
  type: bool
oldest:
  description: When the part of the store was read that was read longest ago; null before all has been read once.
  returned: unless it was refused
  type: str
  sample: "2026-11-25T03:00:12Z"
unverified:
  description: How many packs and folders of contents have never been read.
  returned: unless it was refused
  type: int
last_pass:
  description: The end of the last pass over the whole store, in any number of runs; null before the first.
  returned: unless it was refused
  type: str
stats:
  description: The files and bytes that this run has read.
  returned: unless it was refused
  type: dict
  contains:
    files:
      description: Packs and contents that this run has read.
      type: int
    bytes:
      description: Bytes of them.
      type: int
    seconds:
      description: Seconds that it took.
      type: float
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.scrub import ARGUMENTS, work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
