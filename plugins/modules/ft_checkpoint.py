#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_checkpoint
short_description: Take a checkpoint of a host, and arm its dead-man
description:
  - Records the declared resources of the host, complete and durable, under a name.
  - With O(confirm_within) the host arms itself; unless the change is confirmed by
    M(evenkeel.fault_tolerance.ft_settle) in time, or when the host boots before that, it rolls itself back.
  - A host in doubt (RV(evenkeel.fault_tolerance.ft_info#module:doubt)) is not armed, until it was rolled back, or
    accepted as it is with M(evenkeel.fault_tolerance.ft_accept).
  - A state that the newest checkpoint of the name holds already is not recorded again.
  - O(quiesce) holds programs still while files are read and snapshots made.
  - O(retention) decides which checkpoints of the name to keep, and which undos of rollbacks (C(undo)). Nothing is
    deleted, and the module fails, when a checkpoint of the store cannot be read, because the contents that it needs
    could not be told from garbage.
version_added: 0.1.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._retention
  - evenkeel.fault_tolerance._quiesce
  - evenkeel.fault_tolerance._resources
  - evenkeel.fault_tolerance._probes
options:
  name:
    description:
      - Name of the checkpoint. A name that is in use moves on to the new checkpoint. Older checkpoints stay, by their
        ids.
      - By default a name made of the time.
      - Up to 120 printable ASCII characters without blanks, slashes and C(.tmp-), most of them letters and digits, and
        not V(latest).
    type: str
  kind:
    description:
      - V(snapshot) records the whole state. V(log) records the changes since the newest checkpoint of the name, so that
        the record grows with the change and not with the protected state.
      - A log begins with a snapshot, and begins anew with a snapshot when O(resources) or O(host) differ, when the
        newest checkpoint of the name cannot be read, and after 100 records. O(retention) keeps, with a record, all that
        it follows.
      - Every record can be gone back to, by its id or as V(name~1), V(name~2) and so on, counted back from the newest.
    type: str
    choices: [snapshot, log]
    default: snapshot
    version_added: 0.2.0
  only_logs:
    description:
      - Record only the resources that have a log of their own (C(postgresql)), by default under the name V(logs). Such
        a checkpoint is cheap, so that it can be taken and copied every minute. V(latest) never means a checkpoint of
        that name.
    type: bool
    default: false
    version_added: 0.2.0
  confirm_within:
    description:
      - Arm the dead-man with this time to confirm, in seconds or as V(10m).
    type: str
  at_most:
    description:
      - How long the change may stay unconfirmed when M(evenkeel.fault_tolerance.ft_settle) extends it, counted from its
        beginning.
    type: str
    default: 1h
    version_added: 0.2.0
  reboots:
    description:
      - The number of boots that the change plans. After so many boots the host still waits for its confirmation, which
        then needs such a boot; a further boot is a rollback at once, as the first boot is with V(0).
      - After such a boot the host measures the O(probes) that it can measure alone, once it has started everything that
        it starts at a boot. If they do not pass in time, it goes back at once; if they pass, it waits on. While the
        user that armed it is logged in again over SSH, the host leaves the decision to that user, and to the deadline.
    type: int
    default: 0
    version_added: 0.2.0
  soak:
    description:
      - How long the probes must keep passing after a boot.
    type: str
    default: 0s
    version_added: 0.2.0
  deadline:
    description:
      - How long to wait for that. The time to confirm bounds it, too.
    type: str
    default: 2m
    version_added: 0.2.0
  interval:
    description:
      - Time between two rounds of probes.
    type: str
    default: 1s
    version_added: 0.2.0
  change:
    description:
      - The change over several hosts that this host is part of. The host remembers it, so that a run that was killed
        can be brought to one end on all of them.
    type: dict
    version_added: 0.2.0
    suboptions:
      id:
        description: The name of the change, the same on all its hosts. For example V(fleet-2026-11-28-1).
        type: str
        required: true
      hosts:
        description: The number of its hosts. For example V(20).
        type: int
        required: true
  host:
    description:
      - Host name to record. By default the node name.
    type: str
  outside:
    description:
      - The places in which changes are looked for that no resource covers, while a change is armed
        (O(confirm_within)). M(evenkeel.fault_tolerance.ft_settle) names them. Links are not followed, and other file
        systems below a path are not entered.
    type: dict
    version_added: 0.2.0
    suboptions:
      paths:
        description:
          - The trees to look at, in this order, in place of the usual trees. The usual trees hold programs and
            configuration, and are C(/etc), C(/boot), C(/bin), C(/sbin), C(/lib), C(/usr), C(/var/spool/cron),
            C(/var/spool/at), C(/var/lib/systemd/linger), C(/var/lib/gems), C(/var/lib/flatpak/exports), C(/opt) and
            C(/root). With an empty list nothing is looked at. For example V([/etc, /usr, /srv/app]).
        type: list
        elements: str
      exclude:
        description:
          - More names and paths to leave out, with C(*) and C(?) for parts that vary. For example
            V([/opt/agent/state, '*.lock']).
        type: list
        elements: str
        default: []
  require_restorable:
    description:
      - Refuse, with nothing recorded or armed, where a rollback could not put back everything that O(resources)
        declares. RV(left) names that state with or without this option.
    type: bool
    default: false
    version_added: 0.2.0
attributes:
  check_mode:
    support: full
    description: Writes nothing, and predicts whether a checkpoint would be recorded.
  diff_mode:
    support: none
    description: Nothing on the host changes that a difference could show.
  idempotent:
    support: partial
    description: An unchanged state is not recorded again; arming is an act each time.
"""

EXAMPLES = r"""
- name: Remember all packages, so that an upgrade can be taken back without a network
  evenkeel.fault_tolerance.ft_checkpoint:
    name: before-upgrade
    resources:
      - packages: {keep: all}
      - files: {paths: [/etc]}

- name: Begin a change with all of a plain host protected
  evenkeel.fault_tolerance.ft_checkpoint:
    name: before-change
    confirm_within: 10m

- name: Protect the site of a plain host as well
  evenkeel.fault_tolerance.ft_checkpoint:
    name: before-change
    resources:
      - system: {}
      - files: {paths: [/srv/www], exclude: ['*.log']}
    confirm_within: 10m

- name: Remember how nginx is set up
  evenkeel.fault_tolerance.ft_checkpoint:
    name: before-upgrade
    resources:
      - files: {paths: [/etc/nginx, /srv/www], exclude: ['*.log']}
      - services: {names: [nginx]}

- name: Remember the files of an application while it stands still
  evenkeel.fault_tolerance.ft_checkpoint:
    name: nightly
    resources:
      - files: {paths: [/srv/app]}
    quiesce:
      - command: {argv: [/opt/app/maintenance, 'on'], after: [/opt/app/maintenance, 'off']}
      - freeze: app

- name: Begin a change that undoes itself unless it is confirmed
  evenkeel.fault_tolerance.ft_checkpoint:
    name: before-change
    resources:
      - files: {paths: [/etc/nginx]}
      - services: {names: [nginx]}
    confirm_within: 10m
  register: begun

- name: Begin a change that boots the host, which goes back at once when nginx does not serve after that
  evenkeel.fault_tolerance.ft_checkpoint:
    name: before-kernel
    resources:
      - packages: {}
    confirm_within: 20m
    reboots: 1
    probes:
      - http: {url: http://localhost/, status: 200}
    soak: 10s

- name: Look for changes that no resource covers in the places of an application as well
  evenkeel.fault_tolerance.ft_checkpoint:
    name: before-change
    resources:
      - files: {paths: [/srv/app/config]}
    confirm_within: 10m
    outside:
      paths: [/etc, /usr, /srv/app]
      exclude: [/srv/app/uploads]

- name: Record the changes of every hour, and keep a record of each of the last 48 hours and the last 30 days
  evenkeel.fault_tolerance.ft_checkpoint:
    name: journal
    kind: log
    resources:
      - files: {paths: [/etc]}
    retention: {hourly: 48, daily: 30}
"""

RETURN = r"""
id:
  description: The checkpoint, the SHA-256 of its manifest; empty in check mode when it is yet to be taken.
  returned: success
  type: str
name:
  description: Its name.
  returned: success
  type: str
kind:
  description: Whether it is a V(snapshot) or a record of a V(log).
  returned: success
  type: str
root:
  description: SHA-256 of the recorded state; equal states have equal roots.
  returned: success
  type: str
generation:
  description: Number of this change on this host, to be given to M(evenkeel.fault_tolerance.ft_settle).
  returned: success
  type: int
remaining:
  description: Seconds that were left to confirm the change as the host answered.
  returned: with O(confirm_within), unless it was refused
  type: float
armed:
  description: The change under way; null without O(confirm_within).
  returned: success
  type: dict
  contains:
    generation:
      description: Number of the change.
      type: int
    checkpoint:
      description: Id of the checkpoint that the host goes back to.
      type: str
    name:
      description: Name of that checkpoint.
      type: str
    until:
      description: When the time to confirm ends, in seconds since the epoch.
      type: float
    within:
      description: The time to confirm, in seconds.
      type: float
    back:
      description: The cause of its rollback, V(settle), V(deadline), V(boot), V(health) or V(operator). Absent before.
      type: str
    left:
      description: State that could not be put back so far. Absent where nothing is left.
      type: list
      elements: str
    tries_until:
      description: Until when the host tries that again, in seconds since the epoch. Absent where nothing is left.
      type: float
    change:
      description: The change over several hosts to which this belongs. Absent where the host changes alone.
      type: str
    hosts:
      description: The number of hosts of that change. Absent where the host changes alone.
      type: int
    stage:
      description:
        - V(held) once the host is healthy and waits for the others of that change, V(approved) once a person has
          let it go on, V(decided) once all are to keep it. Absent before.
      type: str
stats:
  description:
    - Figures of the record. Empty in check mode.
  returned: success
  type: dict
  contains:
    paths:
      description: Paths of files that were recorded.
      type: int
    new_objects:
      description: Contents that the store did not have.
      type: int
    new_bytes:
      description: Bytes of these contents.
      type: int
    seconds:
      description: Seconds that the recording took.
      type: float
    pause:
      description: Seconds in which the programs of O(quiesce) stood still.
      type: float
consistency:
  description:
    - V(crash) when files were read while programs ran, as a power cut would leave them (files of a subvolume all at the
      same moment); V(quiesced) when the programs of O(quiesce) stood still; V(engine) when a program that knows a
      consistent moment, such as PostgreSQL, holds all of the state.
  returned: success, but not in check mode
  type: str
protects:
  description:
    - What is protected, where O(resources) holds C(system), which stands for other kinds; empty otherwise.
  returned: success
  type: list
  elements: str
  sample: ["packages", "files (/etc, /opt, /usr/local)", "users", "services"]
kept:
  description: With O(retention), for each checkpoint that it keeps the rules that do.
  returned: success
  type: dict
  sample: {"3fc9b689459d738f8c88a3a48aa9e33542016b7a4052e001aaa536fca74813cb": ["last", "daily 2026-11-25"]}
planned:
  description: The planned steps, in order.
  returned: always
  type: list
  elements: raw
  sample: [{"resource": "files", "action": "replace", "target": "/etc/nginx/nginx.conf", "why": "content"}]
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
  description:
    - State that a rollback to this checkpoint could not put back, such as packages without a package file.
    - Last, what a rollback would do beside its work, which O(require_restorable) does not refuse. It replaces a file
      under a service that has it open for writing and is not named in O(resources), and it parts a file from its names
      (hard links) outside of O(resources).
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.checkpoint import ARGUMENTS, work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
