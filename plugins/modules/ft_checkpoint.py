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
version_added: 0.1.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
options:
  name:
    description:
      - Name of the checkpoint. A name that is in use moves on to the new checkpoint; older ones stay, by their ids.
      - By default a name made of the time.
      - Up to 120 printable ASCII characters without blanks, slashes and C(.tmp-), most of them letters and digits, and
        not V(latest).
    type: str
  kind:
    description:
      - V(snapshot) records the whole state. V(log) records what changed since the newest checkpoint of the name, so
        that what is written grows with the change and not with what is protected.
      - A log begins with a snapshot, and anew with one when O(resources) or O(host) are others than before, when the
        newest checkpoint of the name cannot be read, and after 100 records. O(retention) keeps, with a record, all that
        it follows.
      - Every record can be gone back to, by its id or as V(name~1), V(name~2) and so on, counted back from the newest.
    type: str
    choices: [snapshot, log]
    default: snapshot
    version_added: 0.2.0
  resources:
    description:
      - What is to be protected, each a mapping with one key, the kind.
      - V(files) takes C(paths) (absolute) and C(exclude) (shell patterns; with a slash against the whole path,
        otherwise against each name). A byte of a name that is not UTF-8 is written C(\xe9), here as in all results,
        and a backslash that would read so C(\x5c).
      - V(packages) takes C(names), or nothing for all packages, of dpkg or rpm (with rpm's Python module; locks of
        dnf are files). Versions, holds and the marks auto and manual are recorded, and the package files are kept in
        the store, from the cache of apt or dnf or else the mirror. What was not installed is removed again, but its
        configuration and data stay, unless C(purge) is V(true) (dpkg alone). As many are put back as can be; each of
        the others is named with its cause.
      - V(postgresql) takes C(cluster) (of Debian's, such as V(15/main)), or C(data) (a data directory) and C(unit); and
        C(archive), the directory of its archived log and base backups, by default C(data) with C(.evenkeel) behind it.
        The role C(postgresql) sets it up.
      - V(subvolumes) takes C(paths), each the root of a writable btrfs subvolume that is not mounted itself, below
        directories that root alone can write to. It needs btrfs-progs. What is kept is a snapshot, in
        C(.evenkeel-snapshots) beside the subvolume. It takes no time and no room at first, and is on that disk alone.
        Replicas and restic do not carry it. Subvolumes within one are refused, because a snapshot leaves them out.
        Reading files changes their times of access, and with them the subvolume, unless it is mounted with
        C(noatime).
      - V(services) takes C(names) (systemd units) and C(processes) (mappings with C(name), C(pidfile), C(argv)).
        The administrator's unit files and drop-ins, and the links by which the units are enabled, are part of it. Units
        are recorded under their own names, whatever alias is written; a pattern or a template is refused. What a
        rollback could not do for a unit is said in C(left).
      - V(users) takes nothing. It is the accounts and groups in passwd, shadow, group, gshadow, subuid and subgid, read
        and put back as one set under the lock of useradd and its like.
      - V(sysctl) takes C(names), keys of the running kernel such as V(net.ipv4.ip_forward). What sets them at boot are
        files.
      - V(firewall) takes nothing, or C(except). It is the nftables ruleset of the running kernel, without the values of
        counters. The elements of sets that packets add or that expire are no part of it and stay as they are. So do the
        tables, chains and sets of programs that are known (fail2ban, docker, podman, kube-proxy, libvirt and others),
        the elements of sets that only shut out and that no file of the configuration fills, and what C(except) names,
        each a table such as V(inet mine) or a set such as V(inet filter banned), with V(*) and V(?). RV(left) names
        them. Refused where iptables keeps rules of nobody known that nft cannot load again.
    type: list
    elements: dict
    required: true
  quiesce:
    description:
      - What is to stand still while files are read and snapshots made, in this order, each a mapping with one key.
      - V(stop) and V(freeze) take a systemd unit, which is started or thawed again; one that does not run is left
        alone. What runs and requires a unit that is stopped is stopped before it and started after it.
      - V(command) takes C(argv) and C(after), both lists of words; C(after) has to do no harm where C(argv) has failed.
      - All of it is let go in the reverse order, whatever happens, also when the module is killed. Nothing is held in
        check mode.
    type: list
    elements: dict
  confirm_within:
    description:
      - Arm the dead-man with this time to confirm, in seconds or as V(10m).
    type: str
  retention:
    description:
      - "Which checkpoints of the name to keep, and which of those that rollbacks leave (C(undo)), for example
        V({last: 10}) or V({within: 2d, daily: 7, weekly: 4, monthly: 12}). By default all are kept."
      - C(last) keeps as many of the newest; C(hourly), C(daily), C(weekly), C(monthly) and C(yearly) the newest of as
        many hours, days (UTC), weeks (ISO 8601), months and years that have one; C(within) all up to an age. What any
        of the rules keeps stays.
      - What nothing needs any more lies in the trash of the store for the time C(grace), V(1d) by default, and is
        deleted by a later run with O(retention); a checkpoint that needs it before that takes it back.
      - Nothing is deleted, and the module fails, when a checkpoint of the store cannot be read, because what it needs
        could not be told from garbage.
    type: dict
  host:
    description:
      - Host name to record. By default the node name.
    type: str
  require_restorable:
    description:
      - Refuse, with nothing recorded or armed, where a rollback could not put back all that O(resources) declares.
        What that is is named in RV(left), with this option or without.
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
      - packages: {}
      - files: {paths: [/etc]}

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

- name: Record every hour what changed, and keep a record of each of the last 48 hours and the last 30 days
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
armed:
  description: The change under way, with C(generation), C(until) (seconds since the epoch) and C(within).
  returned: success
  type: dict
stats:
  description:
    - Counts of C(paths), C(new_objects) and C(new_bytes), the C(seconds) it took, and those of the C(pause) in which
      what O(quiesce) names stood still.
  returned: success
  type: dict
consistency:
  description:
    - V(crash) when files were read while programs ran, as a power cut would leave them (those of a subvolume all at the
      same moment); V(quiesced) when O(quiesce)
      held those that it names still; V(engine) when all is in the hands of a program that knows a consistent moment, as
      PostgreSQL does.
  returned: success, but not in check mode
  type: str
kept:
  description: With O(retention), for each checkpoint that it keeps the rules that do.
  returned: success
  type: dict
  sample: {"3fc9b689459d738f8c88a3a48aa9e33542016b7a4052e001aaa536fca74813cb": ["last", "daily 2026-11-25"]}
planned:
  description: What was to be done, in order.
  returned: always
  type: list
  elements: raw
  sample: [{"resource": "files", "action": "replace", "target": "/etc/nginx/nginx.conf", "why": "content"}]
done:
  description: What was done; on a failure, what was done before it.
  returned: always
  type: list
  elements: raw
proved:
  description: What was measured to hold afterwards.
  returned: always
  type: list
  elements: str
left:
  description: What a rollback to this checkpoint could not put back, such as packages whose files could not be had.
  returned: always
  type: list
  elements: str
msg:
  description: What went wrong, where, and what to do next.
  returned: failure
  type: str
"""

from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import run_module
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.checkpoint import checkpoint
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durations import seconds
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

ARGUMENTS = {
    "name": {"type": "str"},
    "kind": {"type": "str", "choices": ["snapshot", "log"], "default": "snapshot"},
    "resources": {"type": "list", "elements": "dict", "required": True},
    "quiesce": {"type": "list", "elements": "dict"},
    "confirm_within": {"type": "str"},
    "retention": {"type": "dict"},
    "host": {"type": "str"},
    "require_restorable": {"type": "bool", "default": False},
}


def work(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    within = params["confirm_within"]
    return checkpoint(
        Store(params["store"], System()),
        params["name"],
        params["resources"],
        None if within is None else seconds(within, "confirm_within"),
        params["retention"],
        params["host"],
        check_mode,
        params["kind"],
        params["quiesce"],
        params["require_restorable"],
    )


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
