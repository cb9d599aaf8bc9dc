#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_call
short_description: Answer the call of another module from the library that lies on the host
description:
  - Not for playbooks. Where a call holds a secret, each module that works on one host has this small module tried
    first; else the library on the host is asked directly. A checkpoint leaves the whole library on the host, where
    there is ample room or a dead-man is armed. Where that is the library of exactly this collection, it answers the
    call, and is not sent again.
  - The library is taken only if no user other than root and the one that runs this module could have written it, and
    if it has the hash that its name holds. Otherwise nothing is done. Then the library is sent with this module,
    compressed. The module that was called is sent where Python cannot load such a library, or where no file can be put
    for this module.
version_added: 0.2.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
options:
  name:
    description: The module that is called, without the name of its collection and without C(ft_).
    type: str
    required: true
    choices:
      - accept
      - checkpoint
      - heal
      - health
      - info
      - offsite
      - recover
      - repeat
      - replicate
      - restart
      - rollback
      - scrub
      - settle
      - suggest
  library:
    description: The SHA-256 of the sources of the library, in hexadecimal digits.
    type: str
    required: true
  arguments:
    description: The arguments of the module that is called.
    type: dict
    required: true
  sent:
    description: A file on the host with the sources that answer this call, as the controller has sent them.
    type: path
attributes:
  check_mode:
    support: full
    description: As the module that is called.
  diff_mode:
    support: full
    description: As the module that is called.
  idempotent:
    support: full
    description: As the module that is called.
"""

EXAMPLES = r"""
- name: Has the last change left this library on the host?
  evenkeel.fault_tolerance.ft_call:
    name: settle
    library: "0000000000000000000000000000000000000000000000000000000000000000"
    arguments:
      generation: 1
  register: call

- name: No other module is called where it has not
  ansible.builtin.assert:
    that: call.absent
"""

RETURN = r"""
absent:
  description: Whether the library is not there, so that nothing was done. Otherwise the result is that of the module.
  returned: where the library is not there
  type: bool
loads:
  description:
    - The compression of a library (O(sent)) that can be sent to the Python of the host, V(bz2) or V(zlib). It is empty
      where none can be loaded, or the one that was sent cannot be read.
  returned: where the library is not there
  type: str
  sample: bz2
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

from importlib import import_module

from ansible.module_utils.basic import AnsibleModule, _load_params
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._found import load, loads

CALLS = [
    "accept",
    "checkpoint",
    "heal",
    "health",
    "info",
    "offsite",
    "recover",
    "repeat",
    "replicate",
    "restart",
    "rollback",
    "scrub",
    "settle",
    "suggest",
]
ARGUMENTS = {
    "name": {"type": "str", "required": True, "choices": CALLS},
    "library": {"type": "str", "required": True},
    "arguments": {"type": "dict", "required": True},
    "store": {"type": "path", "default": "/var/lib/evenkeel"},
    "sent": {"type": "path"},
}


def main() -> None:
    # Without its log, which would show the arguments as one text: the module that is called logs its own.
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True, no_log=True)
    sent = b""
    if module.params["sent"]:
        try:
            with open(module.params["sent"], "rb") as stream:
                sent = stream.read()
        except OSError:  # Over NFS the root of this host may not read the files of the login.
            module.exit_json(absent=True, loads="", invocation={})
    if not load(module.params["store"], module.params["library"], sent):
        # Secrets among the arguments are not for the log of a connection.
        module.exit_json(absent=True, loads=loads(), invocation={})
    name = module.params["name"]
    ours = {key: value for key, value in _load_params().items() if key.startswith("_ansible_")}
    call = {**ours, "_ansible_module_name": f"evenkeel.fault_tolerance.ft_{name}", **module.params["arguments"]}
    spec, work = import_module("evenkeel_agent._calls.every").call(name)
    import_module("evenkeel_agent._adapter").run_module(spec, work, call)


if __name__ == "__main__":
    main()
