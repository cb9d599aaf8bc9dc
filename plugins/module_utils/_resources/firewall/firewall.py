# SPDX-License-Identifier: GPL-3.0-or-later

"""The kind ``firewall``: the nftables ruleset of the running kernel, put back in one transaction of the kernel.

Only tables that differ are made anew; of iptables, each in a transaction of its own (see ``iptables``). Rules and
sets that a running program owns stay as they are, and are named (see ``ruleset``).
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from ..._dataclasses import dataclass, field
from ..._errors import Damaged, RestoreFailed, UsageError
from ..._files.step import Step
from ..._host.commands import Completed
from ..._host.options import Options, read
from ..._host.system import System
from ..._store.objects import SMALL
from ..kind import Kind, Restore, Sink, Spec, Suggestion
from . import iptables, loading, ruleset
from .ruleset import Keep, Key, Table

_FOREIGN = r"# Warning: table (\S+) (\S+) is managed by (\S+),"
_PATTERN = re.compile(r"[A-Za-z0-9_*?.:/+-]+( [A-Za-z0-9_*?.:/+-]+){1,2}")
# Version 0.1.0 recorded all tables, also the tables of known programs.
_OLD = r"ruleset sha256=([0-9a-f]{64})"
_IPTABLES = r"iptables (\S+) (\S+) form=([0-9a-f]{64}) sha256=([0-9a-f]{64})"
_LINE = r"rules form=([0-9a-f]{64}) sha256=([0-9a-f]{64})"
# The files of rulesets that are loaded at boot.
_CONFIGURED = (
    *("/etc/nftables.conf", "/etc/sysconfig/nftables.conf", "/etc/nftables/**", "/etc/nftables.d/**"),
    *("/etc/nftables*.nft", "/usr/local/etc/nftables*"),
)
_NO_INTERFACE = r":(\d+):\d+(?:-\d+)?: Error: Interface does not exist"
_LEGACY = (("iptables", "/proc/net/ip_tables_names"), ("ip6tables", "/proc/net/ip6_tables_names"))


class Firewall(Kind):
    """The nftables ruleset of the running kernel, without the values of counters and the state of programs.

    The elements of sets that packets add or that expire are no part of it and stay as they are. So do the tables,
    chains and sets of known programs (fail2ban, docker, podman, kube-proxy, libvirt and others), the elements of sets
    that only shut out and that no file of the configuration fills, and the tables and sets of C(except). The result
    C(left) names them.

    Tables of iptables that nft cannot load again go back by iptables itself. A table that iptables cannot load again
    either stays as it is.

    except: Tables and sets that stay as they are, with C(*) and C(?) for parts that vary. For example
    V([inet mine, 'inet filter banned*']).
    """

    name = "firewall"
    since = "0.2.0"
    order = 60
    options: Options = {"except": {"type": "list", "elements": "str", "default": []}}
    changed_by_programs = True
    read_at_start = False
    on_plain_host: Spec = {}

    def __init__(
        self,
        system: System | None = None,
        configured: Sequence[str] = _CONFIGURED,
        legacy: Sequence[tuple[str, str]] = _LEGACY,
    ) -> None:
        """``system`` runs nft when a declaration is checked: the check proves that nft can load the ruleset again.
        ``configured``: patterns of the files of rulesets. ``legacy``: a program that filters beside nftables, and the
        file of its tables."""
        self.system = system or System()
        self.configured = configured
        self.legacy = legacy

    def for_plain_host(self, beside: Sequence[Spec], taken: Sequence[str]) -> tuple[Spec | None, list[str]]:
        """Without the tables that nft could not load again: one of them would leave all others unprotected."""
        if beside:
            return None, []
        left = self._unloadable()
        words = [f"the table {table} is not protected, as nft could not load it again: {why}" for table, why in left]
        return ({"except": [table for table, _why in left]} if left else {}), words

    def _unloadable(self) -> list[tuple[str, str]]:
        """(the table in the words of ``except``, why nft could not load it again) of such tables, where not all can be
        loaded."""
        done = _list(self.system)
        found = ruleset.tables(done.out) if done.rc == 0 else {}
        foreign = _foreign(done, found, Keep())
        mine = {key: table for key, table in found.items() if key not in foreign}
        if self._loaded(mine, Keep()).rc == 0:
            return []
        alone = [(" ".join(key), self._loaded({key: table}, Keep())) for key, table in mine.items()]
        return [(table, one.words) for table, one in alone if one.rc != 0 and _PATTERN.fullmatch(table)]

    def _loaded(self, mine: Mapping[Key, Table], keep: Keep) -> Completed:
        """The answer of nft on whether it could load these tables again."""
        text = ruleset.transaction(mine, mine, keep, _handles(mine), whole=True)
        return loading.nft(text, self.system, "--check")

    def check(self, spec: Spec) -> dict[str, object]:
        """The declaration; UsageError where nft is missing, or could not load the ruleset again that it lists now."""
        excepts = read(self.options, spec, self.name)["except"]
        if not all(map(_PATTERN.fullmatch, excepts)):
            raise UsageError(
                f"firewall: except must be a list of tables and sets, not {excepts!r}; write a table as 'inet name' "
                "and a set as 'inet table name', with * and ? for what may vary"
            )
        done = _list(self.system)
        if done.rc != 0:
            raise UsageError(
                f"firewall: the ruleset cannot be listed: {done.words}; it needs nftables, and root (become)"
            )
        keep = Keep(_words(excepts))
        found = ruleset.tables(done.out)
        foreign = _foreign(done, found, keep)
        mine = {key: table for key, table in found.items() if key not in foreign}
        loaded = self._loaded(mine, keep)
        if loaded.rc != 0:
            raise UsageError(
                f"firewall: nft could not load the ruleset again that it lists now: {loaded.words}; "
                "mend that rule, leave its table alone (except), or take firewall out of the resources"
            )
        return {"except": sorted(set(excepts))} if excepts else {}

    def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
        """``rules form=<hash> sha256=<name>``: the rules that are put back. Then the tables and sets that are left
        alone, with their owners, and ``iptables <family> <table> form=<hash> sha256=<name>`` for each table that
        iptables puts back. No line where nft does not answer: a rollback may bring nft back."""
        done = _list(system)
        if done.rc != 0:
            return []
        found = ruleset.tables(done.out)
        excepts = _words(spec.get("except", []))
        foreign = _foreign(done, found, Keep(excepts))
        strange = [key for key in foreign if key in found and not ruleset.programs_in(found[key], Keep(excepts))]
        keep = Keep(excepts, set(foreign))
        sets = ruleset.plain_sets(found.values(), keep, _read_all(self.configured))
        keep = Keep(excepts, set(foreign), {(*table.key, block.name) for table, block in sets})
        lines = [f"except {' '.join(words)}" for words in excepts]
        for key, table in found.items():
            saved = iptables.recordable(table, system) if key in strange else None
            if saved is not None:
                name = _stored(iptables.text_of(saved).encode(), sink)
                lines.append(f"iptables {' '.join(key)} form={_form([saved], Keep(excepts))} sha256={name}")
                continue
            owner = foreign.get(key) or keep.table(table)
            if owner:
                lines.append(f"alone table {' '.join(key)} {quote(owner)}")
            elif any(ruleset.programs_in(table, keep)):
                lines.append(f"alone parts {' '.join(key)} {quote(' and '.join(ruleset.programs_in(table, keep)))}")
                lines.append(f"same {table.handle}")
        for table, block in sets:
            lines += [f"alone set {' '.join(table.key)} {block.name}", f"same {table.handle}.{block.handle}"]
        lines += [f"legacy {name}" for name in _legacy(system, self.legacy)]
        text = ruleset.recording(found.values(), keep)
        form = _form(found.values(), keep)
        return [f"rules form={form} sha256={_stored(text.encode(), sink)}", *lines]

    def not_restorable(self, spec: Spec, lines: Sequence[str]) -> list[str]:
        recorded = parse(lines)
        if not recorded.sha:
            return ["firewall: nft does not answer, so that nothing of it is recorded: install nftables"]
        owned = [f"the table {' '.join(key)} ({owner})" for key, owner in recorded.tables.items()]
        owned += [f"what is of {owner} in the table {' '.join(key)}" for key, owner in recorded.parts.items()]
        owned += [f"the elements of the set {' '.join(path)} (no file has them: a program's)" for path in recorded.sets]
        found = [f"firewall: {', '.join(owned)}: left as they are at a rollback"] if owned else []
        if recorded.legacy:
            words = " and ".join(recorded.legacy)
            found.append(f"firewall: what {words} filters beside nftables is not recorded, and not put back")
        return found

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        recorded, live = parse(lines), _live(at.system)
        if not recorded.sha or (live is not None and recorded.matches(live.out, at.system)):
            return []
        detail: dict[str, Any] = {"lines": list(lines)}
        note = _note(recorded, ruleset.tables(live.out)) if live is not None else ""
        if note:
            detail["note"] = note
        return [Step("firewall", "replace", "ruleset", "another ruleset", detail)]

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        """Load the recorded ruleset, all or nothing; on a host that goes back by itself, the tables that can be
        loaded.

        Raises RestoreFailed with the tables that the kernel has refused: they stay as they are.
        """
        for step in steps:
            recorded = parse(step.detail["lines"])
            wrong = _put_back(recorded, at)
            # A rollback that somebody asked for changes no further table where nft has refused.
            if recorded.iptables and (at.unattended or not wrong):
                wrong += _by_iptables(recorded, at)
            if wrong:
                raise RestoreFailed(
                    f"the ruleset of the firewall cannot be loaded, and is not as recorded: {'; '.join(wrong)}",
                    done=[],
                    left=[f"firewall: {one}" for one in wrong],
                )
        return list(steps)

    def verify(self, lines: Sequence[str], system: System) -> list[str]:
        recorded, live = parse(lines), _live(system)
        if not recorded.sha or (live is not None and recorded.matches(live.out, system)):
            return []
        return ["the ruleset of the firewall is another one" if live is not None else "nft does not list the firewall"]

    def access_lines(self, lines: Sequence[str]) -> list[str]:
        return list(lines)

    def outside(self, spec: Spec, lines: Sequence[str], declared: Sequence[Spec], system: System) -> Iterator[str]:
        missing = {one for given in declared for one in given.get("except", [])} - set(spec.get("except", []))
        if missing:
            yield f"with what is left alone now ({', '.join(sorted(missing))})"

    def suggest(self, changed: Mapping[str, str], taken: Sequence[str], at: Restore) -> Suggestion:
        """A declaration of the ruleset, where a changed file holds a ruleset. Another kind has to cover the file
        itself."""
        loads = any(fnmatch.fnmatch(path, pattern) for path in changed for pattern in self.configured)
        return ({} if loads and shutil.which("nft") else None), set()


def _words(patterns: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(one.split(" ")) for one in patterns]


def _list(system: System) -> Completed:
    # Stateless means: without the values of counters and quotas, and without the time that elements have left.
    return system.run(["nft", "--stateless", "--handle", "list", "ruleset"], loading.TIMEOUT)


def _foreign(done: Completed, found: Mapping[Key, Table], keep: Keep) -> dict[Key, str]:
    """The tables that nft says it cannot load again, but for tables that stay anyway -> words on their owner."""
    foreign = {}
    for family, name, manager in re.findall(_FOREIGN, done.out + done.err):
        table = found.get((family, name), Table(family, name, "", ()))
        programs = " and ".join(ruleset.programs_in(table, keep))
        if not keep.table(table):
            by = f"{programs}, by {manager}, with whatever else is in it"
            foreign[table.key] = by if programs else f"{manager}, as nft cannot load it again"
    return foreign


def _handles(found: Mapping[Key, Table]) -> set[str]:
    """The handles of the tables and of their sets. A table that was made anew has another handle."""
    sets = {f"{one.handle}.{block.handle}" for one in found.values() for block in one.blocks if block.is_set}
    return sets | {one.handle for one in found.values()}


# -- recording


def _form(found: Iterable[Table], keep: Keep) -> str:
    return hashlib.sha256(ruleset.form(found, keep).encode()).hexdigest()


def _stored(data: bytes, sink: Sink) -> str:
    if len(data) <= SMALL:
        return sink.add(data)
    with loading.readable(data) as (fd, _path):
        return sink.add_file(fd)[0]


def _read_all(patterns: Sequence[str]) -> str:
    """The text of all these files."""
    found = ""
    for pattern in patterns:
        for path in sorted(glob.glob(pattern, recursive=True)):
            if os.path.isfile(path):
                with open(path, encoding="utf-8", errors="replace") as stream:
                    found += stream.read() + "\n"
    return found


def _legacy(system: System, programs: Sequence[tuple[str, str]]) -> list[str]:
    """The programs in use that filter packets besides nftables."""
    found = []
    for name, path in programs:
        try:
            with open(path, encoding="utf-8") as stream:
                found += [name] if stream.read().strip() else []
        except OSError:
            continue
    listed = system.run(["ipset", "list", "-name"], loading.TIMEOUT)
    return found + (["ipset"] if listed.rc == 0 and listed.out.strip() else [])


# -- the record


@dataclass
class Recorded:
    """The record that the lines hold. ``form`` is "" for the record of an older version, whose ``sha`` has all
    tables."""

    sha: str = ""
    form: str = ""
    excepts: list[tuple[str, ...]] = field(default_factory=list)
    tables: dict[Key, str] = field(default_factory=dict)
    parts: dict[Key, str] = field(default_factory=dict)
    sets: list[tuple[str, str, str]] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    legacy: list[str] = field(default_factory=list)
    iptables: dict[Key, tuple[str, str]] = field(default_factory=dict)

    @property
    def keep(self) -> Keep:
        if self.sha and not self.form:
            return Keep(known=False)
        return Keep(self.excepts, {*self.tables, *self.iptables}, set(self.sets))

    def matches(self, listing: str, system: System) -> bool:
        found = ruleset.tables(listing)
        if not self.form:
            return hashlib.sha256(ruleset.recording(found.values(), self.keep).encode()).hexdigest() == self.sha
        return _form(found.values(), self.keep) == self.form and not self.others(found, system)

    def others(self, found: Mapping[Key, Table], system: System) -> dict[Key, Table | None]:
        """The tables that iptables has to put back, as they are now; None where iptables cannot tell."""
        now = {key: iptables.saved(found[key], system) if key in found else None for key in self.iptables}
        keep = Keep(self.excepts)
        return {key: one for key, one in now.items() if one is None or _form([one], keep) != self.iptables[key][0]}


def parse(lines: Sequence[str]) -> Recorded:
    """The record of the lines. Raises Damaged for a line that ``capture`` cannot have written."""
    found = Recorded()
    for line in lines:
        first, *words = line.split(" ")
        old, new, saved = (re.fullmatch(pattern, line) for pattern in (_OLD, _LINE, _IPTABLES))
        if old is not None:
            found.sha = old[1]
        elif new is not None:
            found.form, found.sha = new[1], new[2]
        elif saved is not None and saved[1] in iptables.FAMILIES:
            found.iptables[saved[1], saved[2]] = (saved[3], saved[4])
        elif first == "except" and len(words) in (2, 3):
            found.excepts.append(tuple(words))
        elif first == "alone" and len(words) == 4 and words[0] == "table":
            found.tables[words[1], words[2]] = unquote(words[3])
        elif first == "alone" and len(words) == 4 and words[0] == "parts":
            found.parts[words[1], words[2]] = unquote(words[3])
        elif first == "alone" and len(words) == 4 and words[0] == "set":
            found.sets.append((words[1], words[2], words[3]))
        elif first == "same" and len(words) == 1:
            found.same.append(words[0])
        elif first == "legacy" and len(words) == 1:
            found.legacy.append(words[0])
        else:
            raise Damaged(f"this line of a manifest is refused: {line[:200]!r}; nothing was changed")
    return found


# -- putting back


def _live(system: System) -> Completed | None:
    """The answer of nft; None where nft does not answer, perhaps because the change removed it."""
    done = _list(system)
    return done if done.rc == 0 else None


def _note(recorded: Recorded, found: Mapping[Key, Table]) -> str:
    """A sentence on the tables of programs that came or went; these tables are left alone."""
    keep = recorded.keep
    came = [
        table for key, table in found.items() if keep.table(table) and key not in {*recorded.tables, *recorded.iptables}
    ]
    words = [f"the table {' '.join(one.key)} of {keep.table(one)} is new, and was left alone" for one in came]
    for key, owner in recorded.tables.items():
        if key not in found:
            words.append(f"the table {' '.join(key)} ({owner}) is gone: it makes it anew when it is restarted")
    return f"firewall: {'; '.join(words)}" if words else ""


def _put_back(recorded: Recorded, at: Restore) -> list[str]:
    """Load the ruleset; sentences on the tables that could not be loaded."""
    try:
        text = b"".join(at.objects.read(recorded.sha)).decode()
    except Damaged as error:
        return [error.message]
    live = _live(at.system)
    if live is None:
        return [_list(at.system).words]
    then, now = ruleset.tables(text), ruleset.tables(live.out)
    whole = not recorded.form
    wanted = ruleset.transaction(then, now, recorded.keep, recorded.same, whole)
    done = loading.nft(wanted, at.system)
    if done.rc != 0:
        # State of a program stands in the way: an element that is part of a permanent element, or a rule of iptables.
        # Access matters more, so load the ruleset without this state.
        bare = {key: Table(*key, "", ()) for key, table in now.items() if not recorded.keep.table(table)}
        plain = ruleset.transaction(then, {**now, **bare}, recorded.keep, recorded.same, whole=True)
        done = loading.nft(plain, at.system)
        if done.rc != 0 and at.unattended:
            return _each(then, {**now, **bare}, recorded, at.system)
    return [] if done.rc == 0 else [done.words]


def _by_iptables(recorded: Recorded, at: Restore) -> list[str]:
    """Put back each table that iptables has saved and that differs; sentences on the tables that failed."""
    live = _live(at.system)
    wrong = []
    for key, now in recorded.others(ruleset.tables(live.out) if live is not None else {}, at.system).items():
        try:
            then = iptables.parse(key, b"".join(at.objects.read(recorded.iptables[key][1])).decode())
        except Damaged as error:
            wrong.append(error.message)
            continue
        merged = ruleset.merge(then, now, Keep(recorded.excepts), ())
        done = iptables.load(merged or then, at.system)
        if done.rc != 0:  # State of a program stands in the way. Access matters more.
            done = iptables.load(then, at.system)
        wrong += [f"table {' '.join(key)}: {done.words}"] if done.rc != 0 else []
    return wrong


def _each(then: Mapping[Key, Table], now: Mapping[Key, Table], recorded: Recorded, system: System) -> list[str]:
    """Put back each table by itself, new tables first, so that a table that cannot be loaded does not hinder others;
    sentences on the tables that failed."""
    wrong = []
    for key in [*(key for key in now if key not in then), *then]:
        before, live = ({key: side[key]} if key in side else {} for side in (then, now))
        text = ruleset.transaction(before, live, recorded.keep, recorded.same, whole=True)
        done = loading.nft(text, system) if text else None
        if done is None or done.rc == 0:
            continue
        words = f"table {' '.join(key)}: {done.words}"
        lines = text.splitlines(keepends=True)
        gone = {int(one) - 1 for one in re.findall(_NO_INTERFACE, done.out + done.err)}
        # Leave out rules whose interface is gone, which match nothing. A rule with "!=" would match: do not leave it
        # out.
        if gone and all(number < len(lines) and "!=" not in lines[number] for number in gone):
            text = "".join(line for number, line in enumerate(lines) if number not in gone)
            if loading.nft(text, system).rc == 0:
                words += f"; all but {len(gone)} of its rules are back"
        wrong.append(words)
    return wrong
