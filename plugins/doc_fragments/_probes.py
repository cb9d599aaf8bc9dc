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
_FROM = r"""
    from:
      description:
        - The place that it is measured from. V(host) is the host itself, V(controller) the machine that runs Ansible,
          V(peer) another host of the group, so that a host is seen as its users see it. For example V(controller).
      type: str
      choices: [host, controller, peer]
      default: host
"""
_SERVER = r"""
    url:
      description:
        - Address of the server, of http or https, without a user and a password. A redirection is not followed. For
          example V(http://prometheus.example.org:9090).
      type: str
      required: true
    token:
      description:
        - A bearer token, best from a vault. It stays on the controller and is not shown. For example
          V(a text from a vault).
      type: str
    headers:
      description:
        - "Further headers, best from a vault. They stay on the controller and are not shown. For example
          V({X-Scope-OrgID: web})."
      type: dict
    ca:
      description:
        - File on the controller with the certificates that prove the certificate of the server, instead of those of the
          system. For example V(/etc/ssl/prometheus-ca.pem).
      type: str
"""
# The kinds of probes, each with its options.
KINDS = (
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
    + _FROM
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
    + _FROM
    + _COMMON
    + r"""
service:
  description:
    - "Passes when the service is active. A container that has a health check must be healthy as well: while its engine
      says V(starting) or V(unhealthy), the probe fails. For example V(service: {name: nginx})."
    - Give either C(name), C(process) or C(container).
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
    + r"""
    container:
      description:
        - "A service in a container, as the option C(container) of M(evenkeel.fault_tolerance.ft_restart). For example
          V({name: app, engine: podman})."
      type: dict
      suboptions:
        name:
          description:
            - Name of the container. For example V(app).
          type: str
          required: true
        engine:
          description:
            - The engine that runs it. By default podman, or docker where there is no podman. For example V(docker).
          type: str
          choices: [podman, docker]
"""
    + _COMMON
    + r"""
command:
  description:
    - "Passes when the command ends with the wanted exit code. It is unknown where the command cannot be started (126,
      127), runs out of time (124), or is ended by a signal (129 to 192). For example V(command: {argv:
      [/opt/app/check]})."
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
    + _FROM
    + _COMMON
    + r"""
file:
  description:
    - Passes when the file has the wanted content. For a file behind a symlink it tells only whether it has that
      content.
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
    + r"""
address:
  description:
    - "Passes when exactly one machine answers for the address on the wire (ARP, neighbour discovery), this host or
      another. It fails where nobody answers, and where two machines do. For example V(address: {address: 10.0.0.100})."
    - Only root can ask on the wire, and only on a network of the machine that asks. Otherwise it is unknown.
  type: dict
  suboptions:
    address:
      description:
        - A service address that moves between hosts, IPv4 or IPv6. For example V(10.0.0.100).
      type: str
      required: true
    interface:
      description:
        - The interface to ask on. By default the one that has the address, or has an address in its network. For
          example V(eth1).
      type: str
"""
    + _FROM
    + _COMMON
    + r"""
prometheus:
  description:
    - "Passes when a query to Prometheus, or to a server with the same HTTP API, gives a single value within limits.
      For example V(prometheus: {url: http://localhost:9090, query: up, min: 1})."
    - It is measured from the controller. No data, several series, a value that is no finite number, a warning, and an
      error are unknown, which is not healthy.
  type: dict
  suboptions:
    query:
      description:
        - The query in PromQL. It is templated for each host. For example
          V(up{instance="{{ inventory_hostname }}:9100"}).
      type: str
      required: true
    min:
      description:
        - The least value that passes. Give this, C(max) or both. For example V(1).
      type: float
    max:
      description:
        - The greatest value that passes. For example V(0.01).
      type: float
    samples:
      description:
        - The number of queries for one measurement. For example V(5).
      type: int
      default: 1
    passing:
      description:
        - The number of samples that have to pass; by default all. For example V(3).
      type: int
    every:
      description:
        - Time between two samples. For example V(2s).
      type: str
      default: 1s
"""
    + _SERVER
    + _COMMON
    + r"""
compare:
  description:
    - "Passes unless the value of this host is above the median of the hosts that the change has not reached, by a query
      to Prometheus that gives a series for each host. For example
      V(compare: {url: http://localhost:9090, query: 'sum by (instance) (rate(errors_total[1m]))', max_ratio: 2})."
    - The median of the values of the hosts not reached is the usual value. With both C(max_ratio) and
      C(max_difference) a host fails when it exceeds both.
    - It is judged where a change is settled, and where its confirmed hosts are measured again. With fewer than
      C(min_samples) unchanged hosts in the group, as in the last wave, there is nothing to compare with. Then it is
      reported as not judged, and decides nothing.
  type: dict
  suboptions:
    query:
      description:
        - The query in PromQL, with one series for each host. For example
          V(sum by (instance) (rate(http_errors_total[1m]))).
      type: str
      required: true
    label:
      description:
        - The label that holds the name or the address of the host, with or without a port. For example V(node).
      type: str
      default: instance
    max_ratio:
      description:
        - The multiple of the usual value beyond which a host fails. Give this, C(max_difference) or both. For example
          V(1.5).
      type: float
    max_difference:
      description:
        - The amount by which the value may exceed the usual value. For example V(0.01).
      type: float
    min_samples:
      description:
        - How many unchanged hosts must have a value; with fewer the result is unknown. For example V(3).
      type: int
      default: 1
    host:
      description:
        - Names of this host in the label. By default its name in the inventory and its address. For example V([web1]).
      type: list
      elements: str
    unchanged:
      description:
        - Names of the hosts to compare with. By default the option C(unchanged) of the module. For example
          V([web2, web3]).
      type: list
      elements: str
"""
    + _SERVER
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
ModuleDocFragment.DOCUMENTATION += indent(KINDS, " " * 6)
