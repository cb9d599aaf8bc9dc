#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_suggest
short_description: Suggest the resources that would have covered the last change
description:
  - When a change ends, the host remembers which paths it changed that no declared resource covers. This module makes
    declarations of them, to be added to C(evenkeel_resources), files by the directory of the program that they
    configure, units by their files and links, packages that were installed, keys of the kernel that changed files set.
  - The package manager is asked which package owns a path. Changes nothing.
version_added: 0.2.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
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
- name: Ask for the resources that would have covered the last change
  evenkeel.fault_tolerance.ft_suggest:
  register: seen

- name: Show them, to be added to evenkeel_resources
  ansible.builtin.debug:
    msg: "{{ seen.suggested }}"
"""

RETURN = r"""
outside:
  description:
    - The paths that the last change changed and that no declared resource covers, so that they stay changed
      after a rollback. Null where that is not known, as after a boot, or where
      O(evenkeel.fault_tolerance.ft_checkpoint#module:outside) names no place.
  returned: success
  type: dict
  contains:
    paths:
      description: The first 100 of them. A new or removed directory stands for all of its contents.
      type: list
      elements: dict
      contains:
        path:
          description: The path, its first 500 bytes.
          type: str
        what:
          description:
            - The difference, V(new), V(removed), V(replaced) by another file, or one or more of V(content),
              V(content or time), V(mode) and V(owner) with commas between them. V(changed) stands for what these words
              do not tell, such as capabilities.
            - For the running kernel, V(mounted), V(unmounted), V(another mount) or V(mount options) of a mount,
              V(swap on) or V(swap off), V(loaded) or V(unloaded) of a module, V(set up) or V(taken down) of a mapped
              disk or a loop device, or V(value) of a setting.
          type: str
    count:
      description: The number of all such paths.
      type: int
    complete:
      description: Whether all places could be looked at, within the limits for that and without an error.
      type: bool
suggested:
  description:
    - Declarations of resources, to be added to those of the last change, which would have covered RV(outside).
  returned: success
  type: list
  elements: dict
  contains:
    KIND:
      description: The options of the resource, under its kind, such as V(files). Each entry has one such key.
      type: dict
      contains:
        OPTION:
          description:
            - An option of that kind, as O(evenkeel.fault_tolerance.ft_checkpoint#module:resources) takes it. Each
              option is a key of its own.
          type: raw
  sample: [{"files": {"paths": ["/etc/ssh"]}}, {"services": {"names": ["ssh.service"]}}]
planned:
  description: The planned steps, in order.
  returned: always
  type: list
  elements: raw
  sample: []
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.suggest import ARGUMENTS, work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
