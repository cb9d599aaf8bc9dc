#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_address
short_description: Prepare a host to hold a service address
description:
  - Installs the program by which keepalived learns, every second, whether this host may have the address. It may while
    its probes pass, while it sees a majority of the group on the wire, and while no other host has the address and
    cannot be heard.
  - Makes the configuration of keepalived, and does not install it. The role
    C(evenkeel.fault_tolerance.virtual_address) has keepalived check it, installs it, and starts keepalived.
  - Refuses a wrong declaration, and a configuration of keepalived that the role did not write, before anything is
    touched.
version_added: 0.2.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._probes
options:
  addresses:
    description:
      - The service addresses, each with the length of its prefix. They move together.
    type: list
    elements: str
    required: true
  address:
    description:
      - The address of this host itself.
    type: str
    required: true
  members:
    description:
      - The addresses of all hosts that may hold the service addresses, this host among them. The first takes over
        first.
    type: list
    elements: str
    required: true
  router_id:
    description:
      - The virtual router id of VRRP, from 1 to 255. No other group on the same network may have it.
    type: int
    required: true
  interface:
    description:
      - The interface for the service addresses. By default the one that has O(address).
    type: str
  witnesses:
    description:
      - Addresses on the same network that count as members when a majority is asked for. By default the gateway of the
        interface, where the number of members is even, and none otherwise.
    type: list
    elements: str
attributes:
  check_mode:
    support: full
    description: Writes nothing, and names the files that would be written.
  diff_mode:
    support: none
    description: The program is not text. The role shows the difference of the configuration.
  idempotent:
    support: full
    description: Files that are as they should be are not written again.
"""

EXAMPLES = r"""
- name: Prepare this host to hold 10.0.0.100
  evenkeel.fault_tolerance.ft_address:
    addresses: [10.0.0.100/24]
    address: 10.0.0.11
    members: [10.0.0.11, 10.0.0.12]
    router_id: 51
    probes:
      - http: {url: http://localhost/, status: 200}
  register: prepared
"""

RETURN = r"""
interface:
  description: The interface for the service addresses.
  returned: unless it was refused
  type: str
  sample: eth0
witnesses:
  description: The addresses besides the members that count for a majority.
  returned: unless it was refused
  type: list
  elements: str
configuration:
  description: The configuration of keepalived.
  returned: unless it was refused
  type: str
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
  description: State that differs from the state before the change, and stays so.
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.address import ARGUMENTS, work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
