# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The next step of a person, as a command line that can be pasted where the last command was typed."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evenkeel.ansible.options import Options
from evenkeel.outcome import ChangeResult, Exit, HostResult, Owed, State, read_owed, some_of
from evenkeel.show import owed

# More hosts than this are named in a file: no terminal takes a line of a thousand names.
_IN_LINE = 20
# A host may take so many seconds after its deadline to put itself back; the clocks of two machines differ too.
_LATE = 10.0


def after_change(result: ChangeResult, options: Options) -> list[str]:
    """The next steps after a change: each command on a line of its own, after the sentence that says why."""
    of = {state: [host for host in result.hosts if host.state is state] for state in State}
    lines = []
    if of[State.IN_DOUBT]:
        lines.append("Ask the hosts in doubt for their state, once they answer:")
        lines += _shown("status", options, [host.host for host in of[State.IN_DOUBT]])
    if of[State.CONFIRMED] and result.exit_code is not Exit.DONE:
        lines.append("Confirmed hosts keep the change. To take it back there as well:")
        lines += going_back(of[State.CONFIRMED], options)
    if result.exit_code in (Exit.FAILED, Exit.PARTLY) and of[State.ROLLED_BACK]:
        then = "; run it again" if stopped(result) else "; repair what failed and run it again"
        then = then if result.command == "change" else ""
        lines.append(f"On the hosts that were rolled back what is protected is as before{then}.")
    beside = [host.host for host in result.hosts if host.outside and host.outside["count"]]
    if beside:
        lines.append("Paths changed that nothing protects. The resources that would have covered them:")
        lines += _shown("suggest", options, beside)
    if result.touched_outside:
        names = ", ".join(result.touched_outside)
        lines.append(
            f"Tasks of a wave also ran on hosts outside of it, and nothing protects or confirms these hosts: {names}"
        )
    lines += restarting({host.host: host.owed for host in of[State.CONFIRMED]}, options)
    unseen = [host.host for host in of[State.CONFIRMED] if host.login == "not shown"]
    if unseen:
        lines.append(
            f"Whether a new login is let in was not shown on {some_of(unseen)}: the connection, or its become, does not"
            " show the host an SSH login."
        )
    return lines


def stopped(result: ChangeResult) -> bool:
    """Whether the user ended the change, and nothing failed."""
    return result.reason.startswith("stopped by the user")


def after_status(
    rows: Mapping[str, Mapping[str, Any]], options: Options, split: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """The next steps for hosts that a status shows overdue, or in doubt. split: the hosts of each change that a
    resumption would bring to one end."""
    lines = []
    for ident, hosts in (split or {}).items():
        lines.append(
            "A change that all its hosts were to keep, or none, was left in the middle. This brings it to one end:"
        )
        lines += _shown("resume", options, hosts, "--change", ident)
    late = {host: row for host, row in rows.items() if overdue(row, time.time())}
    if late:
        lines.append("Overdue: nothing has put these hosts back in time. This does:")
        lines += _back({host: str(row["armed"].get("checkpoint") or "") for host, row in late.items()}, options)
    doubt = {host: row["doubt"] for host, row in rows.items() if row.get("doubt") and host not in late}
    if doubt:
        trying = [host for host in doubt if going_on(rows[host])]
        if trying:
            lines.append(f"These hosts have not put back everything, and try again by themselves: {some_of(trying)}")
        lines.append("In doubt: the next change is refused until such a host was put back,")
        lines += _back({host: str(change.get("checkpoint") or "") for host, change in doubt.items()}, options)
        lines.append("or is accepted as it is:")
        lines += _shown("accept", options, list(doubt), positional=True)
    left = [host for host, row in rows.items() if row.get("restart") and not row["restart"].get("running")]
    if left:
        lines.append(
            f"No run has finished the restart of {some_of(left)}. The same restart once more does, and makes them ready"
            " at their balancers: evenkeel restart, with the same options"
        )
    return lines + restarting({host: read_owed(row.get("owed")) for host, row in rows.items()}, options)


def restarting(due: Mapping[str, Sequence[Owed]], options: Options) -> list[str]:
    """The next steps for restarts that are due on hosts."""
    lines = []
    units = owed.hosts_of(due.items(), owed.SERVICE)
    if units:
        lines.append("Units still run files that were replaced. This restarts them, host by host, as health allows:")
        lines += _shown("restart", options, units, "--owed")
    boots = owed.hosts_of(due.items(), *owed.BOOTS)
    if boots:
        lines.append("Owed a reboot. This boots them, host by host, as health allows:")
        lines += _shown("restart", options, boots, "--mode", "reboot")
    return lines


def overdue(info: Mapping[str, Any], now: float) -> bool:
    """Whether a host should have put itself back by ``now`` (epoch seconds), from the answer of ft_info."""
    armed = info.get("armed")
    if not isinstance(armed, Mapping) or going_on(info):
        return False
    if "overdue" in armed:  # as the host's own clock has it
        return isinstance(armed["overdue"], (int, float)) and armed["overdue"] > _LATE
    return float(armed.get("until") or now) + _LATE < now


def going_on(info: Mapping[str, Any]) -> bool:
    """Whether a host says that it is going back, and repeats failed steps."""
    armed = info.get("armed") or {}
    return bool(armed.get("back") or armed.get("tries_until") or armed.get("left"))


def going_back(hosts: Sequence[HostResult], options: Options) -> list[str]:
    """The command that takes a change back on its ``hosts``, to the very checkpoints that it took."""
    return _back({host.host: host.checkpoint or "" for host in hosts}, options)


def _back(checkpoints: Mapping[str, str], options: Options) -> list[str]:
    """The checkpoints are named by their ids: of each host its own, whatever has been taken since."""
    if not all(checkpoints.values()):
        return _shown("rollback", options, list(checkpoints))
    if len(checkpoints) == 1:
        to = next(iter(checkpoints.values()))
    elif len(checkpoints) <= _IN_LINE:
        to = ",".join(f"{host}={ident[:16]}" for host, ident in checkpoints.items())
    else:
        to = "@" + _file("checkpoints", ".txt", (f"{host} {ident}" for host, ident in checkpoints.items()))
    return _shown("rollback", options, list(checkpoints), "--checkpoint", to)


def _shown(name: str, options: Options, hosts: Sequence[str], *words: str, positional: bool = False) -> list[str]:
    reach, missing = options.words_to_reach()
    if positional:
        named = list(hosts)
    elif len(hosts) <= _IN_LINE:
        named = ["--limit", ",".join(hosts)]
    else:
        named = ["--limit", "@" + _file(name, ".retry", hosts)]
    left_out = "  (with the other --extra-vars of this run as well, where they are needed to reach the hosts)"
    return ["  " + shlex.join(["evenkeel", name, *reach, *named, *words]), *([left_out] if missing else [])]


def _file(name: str, suffix: str, lines: Iterable[str]) -> str:
    """Write a file for a command, here or else among temporary files. Returns its path.

    suffix: a suffix that Ansible ignores in an inventory that is a directory.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    for directory, shown in ((os.getcwd, os.path.relpath), (tempfile.gettempdir, str)):
        try:
            number, path = tempfile.mkstemp(suffix, f"evenkeel-{name}-{stamp}-", directory())
        except OSError:
            continue
        with os.fdopen(number, "wb") as stream:
            stream.write(text)
        return shown(path)
    return "FILE"
