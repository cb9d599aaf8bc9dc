# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from textwrap import indent

from ansible_collections.evenkeel.fault_tolerance.plugins.doc_fragments._process import PROCESS

_COMMON = r"""
    timeout:
      description:
        - How long the measurement may take; after that the health is unknown. For example V(2s).
      type: str
      default: 5s
    severity:
      description:
        - With V(fail) the probe decides. With V(warn) its result is reported, and decides nothing. For example V(warn).
      type: str
      choices: [fail, warn]
      default: fail
"""
_KINDS = (
    r"""
http:
  description:
    - "Passes when the address answers with a wanted status. For example
      V(http: {url: http://localhost/, status: 200})."
  type: dict
  suboptions:
    url:
      description:
        - Address, of http or https, without a user and a password. For example V(http://localhost:8080/health).
      type: str
      required: true
    status:
      description:
        - The status codes that pass. For example V([200, 204]).
      type: list
      elements: int
      default: [200]
    body:
      description:
        - A regular expression that the body of the answer has to match somewhere. For example V(ready).
      type: str
"""
    + _COMMON
    + r"""
tcp:
  description:
    - "Passes when the port accepts connections. For example V(tcp: {port: 80})."
  type: dict
  suboptions:
    port:
      description:
        - Number of the port. For example V(80).
      type: int
      required: true
    host:
      description:
        - Name or address, as the host itself sees it. For example V(10.0.0.7).
      type: str
      default: 127.0.0.1
"""
    + _COMMON
    + r"""
service:
  description:
    - "Passes when the service is active. For example V(service: {name: nginx})."
    - Give either C(name) or C(process).
  type: dict
  suboptions:
    name:
      description:
        - A systemd unit. For example V(nginx).
      type: str
    process:
      description:
        - "A service without systemd, as the option C(process) of M(evenkeel.fault_tolerance.ft_restart). For example
          V({name: app, pidfile: /run/app.pid, argv: [/opt/app/serve]})."
      type: dict
      suboptions:
"""
    + indent(PROCESS, " " * 8)
    + _COMMON
    + r"""
command:
  description:
    - "Passes when the command ends with the wanted exit code. For example V(command: {argv: [/opt/app/check]})."
  type: dict
  suboptions:
    argv:
      description:
        - The command, a list of words. For example V([pg_isready, --quiet]).
      type: list
      elements: str
      required: true
    rc:
      description:
        - The exit code that passes. For example V(1).
      type: int
      default: 0
"""
    + _COMMON
    + r"""
file:
  description:
    - Passes when the file has the wanted content. Of what a symlink leads to it tells only whether it is as wanted.
  type: dict
  suboptions:
    path:
      description:
        - Absolute path of the file. For example V(/srv/www/index.html).
      type: str
      required: true
    sha256:
      description:
        - SHA-256 of its content as sha256sum prints it, 64 hexadecimal digits. For example
          V(2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae).
      type: str
      required: true
"""
    + _COMMON
)


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  probes:
    description:
      - Measurements of health, each a mapping with one key, the kind.
    type: list
    elements: dict
    suboptions:
"""


# Within the class ansible-test reads plain texts alone.
ModuleDocFragment.DOCUMENTATION += indent(_KINDS, " " * 6)
