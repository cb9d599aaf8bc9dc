# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of hosts that wait for each other: all of them confirm the change, or all go back.

The decision is written on every host before the first host confirms. If this process dies in between, the hosts still
hold the decision, and ``evenkeel resume`` brings them to one end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from evenkeel.ansible.events import Record, feed
from evenkeel.ansible.session import OwnRun
from evenkeel.changes import decide
from evenkeel.changes.context import Context
from evenkeel.changes.settle import Settlement
from evenkeel.outcome import HostResult, State
from evenkeel.progress import Phase

# Seconds that a host may take to be taken back.
_BACK = 300.0


@dataclass
class Ending:
    """hosts: the results of the hosts of the change. armed: the dead-men of the hosts that have, or had, a dead-man."""

    context: Context
    hosts: Mapping[str, HostResult]
    armed: dict[str, decide.Armed]

    def confirm(self, names: Sequence[str]) -> str:
        """Confirm these hosts, all or none. Returns why they went back, or nothing."""
        reason = self._decide(names) if len(names) > 1 else ""
        if not reason:
            # These hosts were healthy for the whole soak before they were held, so that the last step can be short.
            self._settle(names, decide.PROBE, {"evenkeel_soak": "0s"})
            unconfirmed = [host for host in names if self.hosts[host].state is not State.CONFIRMED]
            if not unconfirmed:
                return ""
            reason = f"{unconfirmed[0]}: {self.hosts[unconfirmed[0]].why}"
        self.back(names, reason)
        return reason

    def back(self, names: Sequence[str], reason: str) -> None:
        """Have these hosts go back, the last wave first. A host that cannot go back is named, and stops no others."""
        open_or_kept = (State.HELD, State.CONFIRMED)
        for wave in sorted({self.hosts[host].wave for host in names}, reverse=True):
            wanted = [h for h in names if self.hosts[h].wave == wave and self.hosts[h].state in open_or_kept]
            kept = [host for host in wanted if self.hosts[host].state is State.CONFIRMED]
            if wanted:
                self._settle(wanted, decide.TAKE_BACK, {})
            for host in wanted:
                result = self.hosts[host]
                if result.state is State.ROLLED_BACK:
                    result.why = f"went back with the others: {reason}"
                elif result.state is State.IN_DOUBT and host in kept:
                    result.why = f"it was confirmed, and could not be taken back with the others: {result.why}"
                elif result.state is State.CONFIRMED and result.by == decide.OPERATOR:
                    result.why = "a person confirmed the change there, so it keeps it"

    def _decide(self, names: Sequence[str]) -> str:
        """Write the decision to keep the change on every host. Returns why that could not be done, or nothing."""
        text = "all are healthy: the decision to keep the change is written on each"
        self.context.tell(Phase.SETTLE, *names, text=text)
        whys, now = self._write(names), self.context.clock.now()
        retried = [host for host, why in whys.items() if decide.may_retry(self.armed[host], why, now)]
        if retried:
            self.context.rest(decide.QUIET)
            whys = {**{host: why for host, why in whys.items() if host not in retried}, **self._write(retried)}
        return next((f"{host} could not be told to keep the change: {why}" for host, why in whys.items()), "")

    def _write(self, names: Sequence[str]) -> dict[str, str]:
        """Write the decision on these hosts, at the same time. Returns why that could not be done, host by host."""
        record, context = Record(), self.context
        run = OwnRun(
            "settle",
            context.variables_for(
                list(names),
                evenkeel_generations={host: self.armed[host].generation for host in names},
                evenkeel_verdicts=dict.fromkeys(names, decide.DECIDE),
            ),
            list(names),
            fresh=True,
        )
        ended = context.session.run_own(run, lambda event: feed(record, event), self._in_time(names))
        whys = {}
        for host in names:
            # The host has a new deadline.
            self.armed[host] = decide.with_time(record, host, self.armed[host], context.clock.now())
            answer = decide.settled(record, host)
            found = record.of(host, "ft_settle")
            if found is not None and decide.kept_by_a_person(found.result, self.armed[host].generation):
                continue
            if answer is None or answer.state is not State.HELD:
                whys[host] = decide.why_unsettled(record, host) or ended.stopped or ended.errors
        return whys

    def _settle(self, names: Sequence[str], how: str, variables: Mapping[str, object]) -> None:
        now, armed = self.context.clock.now(), {host: self.armed[host] for host in names}
        if how == decide.TAKE_BACK:  # also of hosts whose deadline was over long ago
            latest = now + _BACK * self.context.session.rounds(len(names))
            armed = {host: replace(one, latest=max(one.latest, latest)) for host, one in armed.items()}
        hosts = {host: self.hosts[host] for host in names}
        Settlement(self.context, hosts, armed, {}, how=how, variables=variables).run()

    def _in_time(self, names: Sequence[str]) -> Callable[[], str]:
        return self.context.until(min(self.armed[host].earliest for host in names))
