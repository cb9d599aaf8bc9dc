# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import STORE
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import reported as report
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.heal import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, EvenkeelError, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durations import seconds
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import retention
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.foreign import check_created
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _heal, _placement
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import (
    check_peers,
    check_variables,
    code_of,
    refused,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import (
    few,
    is_twin,
    silence,
    without_twins,
    words,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._arguments import checked
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._carry import Carrier
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._heal import Known, Standing, Step, Told
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._heal_sealed import Sealed, Task
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._key import Keys
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Inventory
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._scratch import scratch_directory
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._seal import VARIABLE as ENCRYPTION

_EMPTY, _NEW = "its store was empty", "its store is new or was lost: it knew none of the older copies"
# The hosts that are gone whose copies a run looks after. A hostile peer can list thousands that never were.
ORPHANS = 100


class ActionModule(ActionBase):
    """Find bad and missing copies of the host of the task, and rebuild them from good ones."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        try:
            check_variables(variables)
            check_peers(self, variables)
            params = checked({**ARGUMENTS, "store": STORE}, self._task.args)
        except UsageError as error:
            return refused(error, copies=[])
        try:
            healing = Healing(Inventory(self, variables), params, bool(self._task.check_mode))
            if params["forget"]:
                return report(healing.forget(params["forget"]))
            with scratch_directory() as scratch:
                healing.heal(params["host"] or healing.here, params["host"] in (None, healing.here), scratch)
                if params["orphans"]:
                    healing.heal_orphans(_played(variables), scratch)
        except AnsibleConnectionFailure:
            raise
        except (EvenkeelError, AnsibleError, ValueError) as error:
            return report({"failed": True, "msg": str(error), "error": code_of(error), "copies": []})
        return report(healing.result())


def _played(variables: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """The hosts of the play, and those of them that still take part in it."""
    return set(variables.get("ansible_play_hosts_all") or ()), set(variables.get("ansible_play_hosts") or ())


class Healing:
    """The copies of hosts, looked after by the task of the host ``here``.

    Raises EvenkeelError or AnsibleError when the parameters name no peers or no time.
    """

    def __init__(self, inventory: Inventory, params: Mapping[str, Any], check_mode: bool) -> None:
        self._inventory = inventory
        self._host = inventory.here()
        self.here = self._host.name
        self._store = params["store"]
        self._copies = params["copies"]
        self._fewest = _placement.fewest(params["copies"], params.get("min_copies"))
        self._policy = retention.check(params["retention"])
        self._peers = inventory.hosts_of(params["peers"])
        self._variable = params["failure_domain"]
        self._time_limit = seconds(params["time_limit"], "time_limit")
        self._timeout = seconds(params["timeout"], "timeout")
        self._check_mode = check_mode
        self._told = Told()

    def forget(self, owner: str) -> Answer:
        """Have the host of the task move its copies of ``owner`` aside. UsageError if the inventory has ``owner``."""
        if self._inventory.has(owner):
            raise UsageError(
                f"{owner} is in the inventory, and its copies are needed to recover it. Nothing was touched. Take it "
                "out of the inventory first if it is gone for good"
            )
        answer = self._carrier(owner).phase(self._host, "forget")
        if answer.get("failed"):
            return {**answer, "copies": []}
        return {"changed": bool(answer["planned"]), "copies": [], **answer}

    def heal_orphans(self, played: tuple[set[str], set[str]], scratch: str) -> None:
        """Look after the copies of hosts that are not in the inventory any more, or that the run has lost on the way.

        played: the hosts of the play, and those that are left of them.
        """
        carrier = self._carrier(self.here)
        told = self._inventory.each(self._peers, lambda host: carrier.phase(host, "owners"), self._timeout)
        listed = {peer: answer["hosts"] for peer, answer in told.items() if "hosts" in answer}
        everyone, present = played
        orphans = [
            owner
            for owner in _heal.owners_without_task(listed, present | {self.here})
            if not self._inventory.has(owner) or owner in everyone
        ]
        for owner in orphans[:ORPHANS]:
            try:
                self.heal(owner, False, scratch)
            except (EvenkeelError, AnsibleError, ValueError) as error:
                self._told.missing.append(f"the copies of {owner} could not be looked after: {error}")
        if len(orphans) > ORPHANS:
            self._told.left.append(
                f"peers list copies of {len(orphans)} hosts that are gone; those of {ORPHANS} were looked after, and "
                "other runs look after others"
            )

    def heal(self, owner: str, own: bool, scratch: str) -> None:
        """Look after the copies of ``owner``. own: its own store is asked as well."""
        domains = self._domains(owner)
        if own:
            # Whether there are places enough shows at the end: until then as much is healed as can be.
            _placement.check(owner, min(1, self._copies), self._peers, domains)
        keys = self._inventory.keys(owner)
        if not keys:
            if self._check_mode:
                self._told.left.append(f"nobody can tell copies of {owner} from others yet: {keys.where}")
                return
            raise UsageError(f"nobody can tell copies of {owner} from others: {keys.where}. Run ft_replicate first")
        seals = self._inventory.seals(owner)
        if seals:
            task = Task(
                self._inventory,
                self._carrier(owner),
                owner,
                own,
                _placement.preference(owner, self._peers),
                self._copies,
                self._fewest,
                self._policy,
                domains,
                self._time_limit,
                self._timeout,
                self._check_mode,
                scratch,
                seals,
                keys,
            )
            Sealed(task, self._told).heal()
            return
        audit = Audit(owner, own, self._ask(owner, own), keys, self._policy)
        owned = Owned(self, audit, keys, domains, scratch)
        owned.report_findings()
        for checkpoint in audit.wanted(self._policy):
            owned.mend(checkpoint)
        owned.mark()

    def _domains(self, owner: str) -> dict[str, str | None] | None:
        if not self._variable:
            return None
        names = [name for name in [owner, *self._peers] if self._inventory.has(name)]
        return {name: self._inventory.variable(name, self._variable) for name in names}

    def _carrier(self, owner: str) -> Carrier:
        return Carrier("ft_heal", owner, lambda name: self._inventory.store(name, self._store))

    def _ask(self, owner: str, own: bool) -> dict[str, Answer]:
        """The answer of each host to a challenge that none of them can have known before."""
        carrier, nonce = self._carrier(owner), secrets.token_hex(32)
        values = {"nonce": nonce, "time_limit": self._time_limit}
        names = [*([owner] if own else []), *_placement.preference(owner, self._peers)]
        told = self._inventory.each(
            names,
            lambda host: carrier.phase(host, "prove", **values, own=own and host.name == owner),
            self._time_limit + self._timeout,
        )
        return without_twins({name: told[name] for name in names})

    def result(self) -> Answer:
        told = self._told
        found: dict[str, Any] = {
            "changed": bool(told.planned or told.aside),
            "copies": told.copies,
            "planned": [*told.planned, *told.aside],
            "done": [*told.done, *([] if self._check_mode else told.aside)],
            "proved": few(told.proved),
            "left": few(list(dict.fromkeys([*told.missing, *told.short, *told.left]))),
            **({"warnings": few(told.warnings)} if told.warnings else {}),
        }
        wrong = [*told.missing, *told.short]
        if wrong:
            error = Damaged.code if told.missing else EvenkeelError.code
            said = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            found.update(failed=True, error=error, msg=f"{said}. Copies that are whole stay. {_NEXT}")
        elif told.gone:
            found.update(unreachable=True, msg=told.gone)
        return found


_NEXT = "Take a new checkpoint and copies of it (the playbook protect), look at the hosts that are named, and run again"


class Audit:
    """The proofs of the hosts: the entry of each checkpoint on each host, and the verdict on it."""

    def __init__(
        self, owner: str, own: bool, answers: Mapping[str, Answer], keys: Keys, policy: retention.Policy | None
    ) -> None:
        self.owner, self.own = owner, own
        self.answers = answers
        self.silent = {
            host: words(answer.get("msg"))
            for host, answer in answers.items()
            if answer.get("unreachable") or answer.get("failed")
        }
        self.entries: dict[str, dict[str, Answer]] = {}  # id -> host -> its entry
        for host, answer in answers.items():
            for entry in answer.get("held", []):
                self.entries.setdefault(entry["id"], {})[host] = entry
        self.refused: dict[str, str] = {}  # id -> why it gets no copies
        self.marked = {(host, one) for one, on in self.entries.items() for host in on if keys.know(owner, on[host])}
        self.known = self._known()
        self.verdicts = {
            one: _heal.judge(owner if own else "", {h: e["proof"] for h, e in on.items() if e["state"] == "proved"})
            for one, on in self.entries.items()
        }
        self.forgets = self._forgets(policy)

    def _known(self) -> dict[str, Known]:
        """The checkpoints that are the owner's: with a MAC of ours, or held by the owner itself and by a peer, and its
        newest. A peer can make up others."""
        found = {}
        newest = self._newest() if self.own else ""
        for one, on in self.entries.items():
            mine = [on[self.owner]] if self.own and self.owner in on and (len(on) > 1 or one == newest) else []
            for entry in [*mine, *(on[host] for host in on if (host, one) in self.marked)]:
                if entry["created"] and one not in found:
                    try:
                        check_created(entry["created"], time.time())
                    except Damaged as error:
                        self.refused[one] = error.message
                        continue
                    found[one] = Known(one, entry["host"], entry["name"], entry["created"])
        return found

    def _newest(self) -> str:
        """The owner's newest checkpoint of a name of which a peer holds copies: checkpoints of changes get none. Where
        no peer holds any, its newest of all."""
        entries = {one: on for one, on in self.entries.items() if self.owner in on}
        names = {on[self.owner]["name"] for on in entries.values() if len(on) > 1}
        names |= {self.entries[one][host]["name"] for host, one in self.marked if host != self.owner}
        taken = []
        for one, on in entries.items():
            entry = on[self.owner]
            with suppress(Damaged):
                if entry["created"] and entry["name"] in names:
                    check_created(entry["created"], time.time())
                    taken.append((entry["created"], one))
        return max(taken)[1] if taken else str(self.answers.get(self.owner, {}).get("latest", ""))

    def wanted(self, policy: retention.Policy | None) -> list[str]:
        return _heal.wanted(self.known, policy, datetime.now(UTC))

    def state(self, host: str, checkpoint: str) -> str:
        entry = self.entries.get(checkpoint, {}).get(host)
        if entry is None:
            return _heal.NONE
        proved = {"damaged": _heal.DAMAGED, "unread": _heal.UNREAD}.get(entry["state"])
        return proved or self.verdicts[checkpoint][host]

    def _forgets(self, policy: retention.Policy | None) -> str:
        """Why the owner's store has lost its memory, in words; empty where it has not, or is not looked at."""
        if not self.own or self.owner in self.silent:
            return ""
        held = self.answers[self.owner].get("held") or []
        own = {one["id"]: one["name"] for one in held}
        return _EMPTY if not held else _NEW if _heal.has_forgotten(own, self.wanted(policy), self._newest()) else ""

    def own_state(self, checkpoint: str) -> str | None:
        """The state in the owner's store. A store that has lost its memory has lost what it does not know."""
        if not self.own or self.owner in self.silent:
            return None
        state = self.state(self.owner, checkpoint)
        return _heal.DAMAGED if self.forgets and state == _heal.NONE else state

    def peers(self) -> list[str]:
        """The peers that have answered."""
        return [host for host in self.answers if host not in self.silent and not (self.own and host == self.owner)]

    def detail(self, host: str, checkpoint: str) -> str:
        """Why the checkpoint is of no use on the host, in words."""
        entry = self.entries.get(checkpoint, {}).get(host)
        if self.own and host == self.owner and entry is None:
            return self.forgets
        return str(entry["detail"]) if entry else ""


class Owned:
    """The copies of one owner: the report on them, and the copies that are made."""

    def __init__(
        self, healing: Healing, audit: Audit, keys: Keys, domains: dict[str, str | None] | None, scratch: str
    ) -> None:
        self._healing = healing
        self._inventory = healing._inventory
        self._told = healing._told
        self._audit = audit
        self._owner = audit.owner
        self._keys = keys
        self._domains = domains
        self._scratch = scratch
        self._carrier = healing._carrier(audit.owner)
        self._bundles: dict[tuple[str, str, tuple[str, ...]], str] = {}
        # The hosts that have the checkpoint whole now, besides those that have proved it.
        self._whole: dict[str, set[str]] = {}
        # A variable that is missing by mistake must not show what it was to hide.
        self._sealed = [host for host in audit.peers() if audit.answers[host].get("sealed")]
        encrypts = audit.own and bool(audit.answers[audit.owner].get("sealed"))
        self._hidden = encrypts and bool(self._sealed or audit.silent)
        self._wary = {
            host for host in audit.peers() if any(e["state"] == "damaged" for e in self._checkpoints_on(host))
        }

    def _checkpoints_on(self, host: str) -> Sequence[Answer]:
        held: Sequence[Answer] = self._audit.answers[host].get("held", [])
        return held

    def report_findings(self) -> None:
        """Report the findings on each host, before anything is done."""
        audit, told, owner = self._audit, self._told, self._owner
        for host, why in audit.silent.items():
            said = f"{host} {silence(audit.answers[host])}: {why}"
            told.left.append(f"{said}; its copies of {owner} do not count" if host != owner else said)
            if audit.own and host == owner:
                told.gone = f"{said}. Its copies on other hosts were looked after"
        told.left += [
            f"{peer} holds encrypted copies of {owner}, and {ENCRYPTION} is not set: it gets no plain copy"
            for peer in self._sealed
        ]
        if self._hidden:
            told.left.append(
                f"the last copies of {owner} were encrypted, and {ENCRYPTION} is not set: no peer gets a plain copy"
                " while one holds encrypted copies or does not answer"
            )
        for host, answer in audit.answers.items():
            told.left += [f"{host}: {said}" for said in answer.get("left", [])]
            told.aside += [f"{host}: {said}" for said in answer.get("planned", [])]
            bad = (
                [one for one in self._checkpoints_on(host) if one["state"] == "damaged"]
                if host not in audit.silent
                else []
            )
            if bad and answer["before"]:
                told.warnings.append(
                    f"{host} has damage again: earlier runs put aside {answer['before']} files of {_whose(host, owner)}"
                    " there. Look at its disk and its memory"
                )
        told.left += [f"{owner}'s checkpoint {one[:12]} gets no copies: {why}" for one, why in audit.refused.items()]
        for checkpoint in audit.entries:
            self._judge(checkpoint)

    def _judge(self, checkpoint: str) -> None:
        """Name the hosts whose entry of this checkpoint is of no use."""
        audit, told = self._audit, self._told
        for host in audit.entries[checkpoint]:
            state, what = audit.state(host, checkpoint), f"{_whose(host, self._owner)} {checkpoint[:12]}"
            if state == _heal.FALSE:
                told.warnings.append(f"{host} does not hold what it claims: its proof of {what} is wrong; look at it")
            elif state == _heal.DISPUTED:
                told.warnings.append(f"{host} and another host disagree on {what}; neither counts; look at both")
            elif state == _heal.UNREAD:
                told.left.append(f"{host} did not read {what} in time; it counts as before")
            elif checkpoint not in audit.known and not (audit.own and host == self._owner):
                told.left.append(f"{host} has {what}, which no MAC of ours proves: it is left alone")
            elif state == _heal.DAMAGED and checkpoint not in audit.known:
                why = audit.detail(host, checkpoint)
                told.missing.append(f"{what} is damaged on {host}, and no other host has it: {why}")

    def mend(self, checkpoint: str) -> None:
        """Bring the checkpoint to as many copies as are wanted, and rebuild damaged contents."""
        audit = self._audit
        standing = Standing(
            self._owner,
            self._healing._copies,
            {peer: audit.state(peer, checkpoint) for peer in audit.peers()},
            self._domains,
            audit.own_state(checkpoint),
            self._wary,
        )
        for peer in audit.peers() if self._hidden else self._sealed:
            if standing.peers[peer] in (_heal.NONE, _heal.DAMAGED):
                standing.refused(peer, f"{peer} gets no plain copy: copies of {self._owner} were encrypted")
        while steps := standing.steps():
            for step in steps:
                self._make(standing, checkpoint, step)
        self._end(standing, checkpoint)

    def _make(self, standing: Standing, checkpoint: str, step: Step) -> None:
        told, target = self._told, step.target
        whose = f"{_whose(target, self._owner)} {checkpoint[:12]}"
        what = f"{whose} ({self._audit.known[checkpoint].name})"
        why = self._audit.detail(target, checkpoint)
        word = "rebuild" if step.why == _heal.DAMAGED else "place"
        if self._healing._check_mode:
            told.planned.append(f"{word} {what} on {target} from {step.sources[0]}{f': {why}' if why else ''}")
            standing.took(target)
            return
        source, failure = self._carry(step, checkpoint)
        if not source:
            standing.refused(target, failure)
            told.left.append(f"{target} did not get {what}: {failure}")
            if step.why == _heal.DAMAGED:
                told.missing.append(f"{what} on {target} is damaged and could not be rebuilt: {failure}")
            return
        standing.took(target)
        self._whole.setdefault(checkpoint, set()).add(target)
        if step.why == _heal.DAMAGED:
            state = "lost" if why in (_EMPTY, _NEW) else "damaged"
            said = f"{whose} on {target} was {state} ({why}), rebuilt from {source}"
            told.warnings.append(said)
        else:
            said = f"placed {what} on {target} from {source}"
        told.planned.append(said)
        told.done.append(said)

    def _carry(self, step: Step, checkpoint: str) -> tuple[str, str]:
        """Bring the checkpoint to the target: the source that gave it, or empty and the reason."""
        known = self._known_to(step.target, checkpoint)
        mac = self._keys.mac(self._owner, asdict(self._audit.known[checkpoint]))
        at_home = self._audit.own and step.target == self._owner
        phase, values = ("adopt", {"proved": True}) if at_home else ("receive", {"mac": mac})
        why = ""
        for source in step.sources:
            bundle, why = self._bundle(source, checkpoint, known)
            if bundle:
                deliver = partial(self._carrier.deliver, phase=phase, checkpoint=checkpoint, local=bundle, **values)
                answer = self._inventory.each([step.target], deliver, self._healing._timeout)[step.target]
                if not answer.get("failed") and not answer.get("unreachable"):
                    self._told.left += [f"{step.target}: {said}" for said in answer.get("left") or ()]
                    return source, ""
                why = words(answer.get("msg"))
        return "", why

    def _bundle(self, source: str, checkpoint: str, known: tuple[str, ...]) -> tuple[str, str]:
        """The path of the bundle from this source, or empty and the reason."""
        key = (source, checkpoint, known)
        if key not in self._bundles:
            path = os.path.join(self._scratch, f"bundle-{os.urandom(8).hex()}")
            from_replica = not (self._audit.own and source == self._owner)
            found = self._inventory.each(
                [source],
                lambda host: self._carrier.fetch(host, checkpoint, known, from_replica, path, lacking=not from_replica),
                self._healing._timeout,
            )[source]
            if found.get("failed") or found.get("unreachable"):
                return "", f"{source} cannot give it: {words(found.get('msg'))}"
            self._told.left += [f"copies of {checkpoint[:12]}: {said}" for said in found.get("left") or ()]
            self._bundles[key] = path
        return self._bundles[key], ""

    def _known_to(self, target: str, checkpoint: str) -> tuple[str, ...]:
        """The checkpoints whose contents need not be sent: the target has proved them, or got them in this run."""
        audit = self._audit
        good = {one for one in audit.entries if audit.state(target, one) == _heal.GOOD}
        good |= {one for one, hosts in self._whole.items() if target in hosts}
        return tuple(sorted(good - {checkpoint}))

    def _end(self, standing: Standing, checkpoint: str) -> None:
        """Say where the checkpoint stands now, and drop its bundles."""
        told, audit, known = self._told, self._audit, self._audit.known[checkpoint]
        what = f"{known.name} ({checkpoint[:12]}) of {self._owner}"
        counted = standing.counted()
        for peer, state in standing.peers.items():
            if state != _heal.NONE:
                detail = standing.failed.get(peer) or (audit.detail(peer, checkpoint) if state != _heal.GOOD else "")
                told.copies.append(
                    {"host": self._owner, "peer": peer, "id": checkpoint, "state": state, "detail": detail}
                )
            if state == _heal.DAMAGED and standing.sources():
                told.left.append(f"{peer}: the copy of {what} is damaged, and there are enough copies without it")
        if not standing.sources():
            told.missing.append(f"no host that was reached has a whole copy of {what}")
        elif len(counted) < self._healing._copies:
            told.few(
                f"{len(counted)} of {self._healing._copies} copies of {what}: {', '.join(counted) or 'none'}, and no "
                f"other peer in a further failure domain can take one{self._closed()}",
                len(counted) >= self._healing._fewest,
            )
        read = [peer for peer in counted if standing.peers[peer] == _heal.GOOD]
        if read and not self._healing._check_mode:
            told.proved.append(f"{', '.join(read)} hold {what}, read in this run")
        for key in [key for key in self._bundles if key[1] == checkpoint]:
            os.unlink(self._bundles.pop(key))

    def _closed(self) -> str:
        """The peers that get no copy, in words."""
        if self._hidden:
            return " (copies were encrypted, and no peer gets a plain one)"
        if self._sealed:
            return f" ({', '.join(self._sealed)} hold encrypted copies, and get no plain one)"
        twins = [f"{host}: {why}" for host, why in self._audit.silent.items() if is_twin(self._audit.answers[host])]
        return f" ({'; '.join(few(twins))})" if twins else ""

    def mark(self) -> None:
        """Have peers keep our MAC beside good copies that have none of ours, so that a recovery recognizes them."""
        audit = self._audit
        lacking: dict[str, dict[str, str]] = {}
        for one, known in audit.known.items():
            for peer in audit.peers():
                if audit.state(peer, one) == _heal.GOOD and (peer, one) not in audit.marked:
                    lacking.setdefault(peer, {})[one] = self._keys.mac(self._owner, asdict(known))
        if not lacking:
            return
        for peer, macs in lacking.items():
            self._told.planned.append(f"keep the MAC of {len(macs)} copies of {self._owner} on {peer}")
        if self._healing._check_mode:
            return
        answers = self._inventory.each(
            lacking, lambda host: self._carrier.phase(host, "mark", macs=lacking[host.name]), self._healing._timeout
        )
        for peer, answer in answers.items():
            if answer.get("failed") or answer.get("unreachable"):
                self._told.left.append(
                    f"{peer} could not keep MACs of copies of {self._owner}: {words(answer.get('msg'))}"
                )
            else:
                self._told.done.append(f"kept the MAC of {len(lacking[peer])} copies of {self._owner} on {peer}")


def _whose(host: str, owner: str) -> str:
    """The checkpoints of the owner on a host, in words."""
    return f"{owner}'s own checkpoint" if host == owner else f"the copy of {owner}'s checkpoint"
