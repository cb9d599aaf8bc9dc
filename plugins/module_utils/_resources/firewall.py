# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource ``firewall``: the nftables ruleset of the running kernel, put back in one transaction of the kernel's.

A table that a program owns (firewalld with ``flags owner``) is that program's alone: it is left as it is.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from .._errors import Damaged, RestoreFailed, UsageError
from .._store.durable import write_all
from .._store.objects import SMALL
from .._system import Completed, System
from .kind import Kind, Restore, Sink
from .step import Step

_TIMEOUT = 60.0
_TABLE = re.compile(r"^table .*?^\}$", re.MULTILINE | re.DOTALL)
_OWNED = re.compile(r"^\tflags [^\n]*\bowner\b", re.MULTILINE)
_SET = re.compile(r"^\t(?:set|map) .*?^\t\}$", re.MULTILINE | re.DOTALL)
_PASSING = re.compile(r"^\t\t(?:flags [^\n]*\bdynamic\b|timeout )", re.MULTILINE)
# nft of newer versions says how many elements are in a set just now.
_COUNT = re.compile(r"^(\t\tsize \d+)\t# count \d+$", re.MULTILINE)
_ELEMENT = re.compile(r'(?:[^,"]|"[^"]*")+')
_FOREIGN = re.compile(r"# Warning: table (\S+ \S+) is managed by (\S+),")
_LINE = re.compile(r"ruleset sha256=([0-9a-f]{64})")


def kind(system: System) -> Kind:
    """The kind. ``system`` runs nft for the check of a declaration, which must be sure that there is a way back."""
    return Kind(
        check=lambda spec: check(spec, system),
        capture=lambda _spec, sink, here: capture(sink, here),
        plan=plan,
        apply=apply,
        verify=verify,
    )


def check(spec: dict[str, Any], system: System) -> dict[str, Any]:
    """The declaration; UsageError when nft is missing, or could not load again what it lists now."""
    if spec:
        raise UsageError(f"firewall: unknown key {sorted(spec)[0]!r}; it takes none, write firewall: {{}}")
    done = _list(system)
    if done.rc != 0:
        raise UsageError(f"firewall: the ruleset cannot be listed: {done.words}; it needs nftables, and root (become)")
    foreign = _FOREIGN.findall(done.out + done.err)
    if foreign:
        tables = ", ".join(f"{table} of {owner}" for table, owner in foreign)
        raise UsageError(
            f"firewall: the table {tables} has expressions that only iptables understands, and nft cannot put back; "
            "take firewall out of the resources, or write those rules for nft (iptables-restore-translate)"
        )
    loaded = _load(lasting(done.out), system, "--check")
    if loaded.rc != 0:
        raise UsageError(
            f"firewall: nft could not load the ruleset again that it lists now: {loaded.words}; "
            "mend that rule, or take firewall out of the resources"
        )
    return {}


def _list(system: System) -> Completed:
    # Stateless: without the values of counters and quotas, and without the time that elements have left.
    return system.run(["nft", "--stateless", "list", "ruleset"], _TIMEOUT)


def lasting(listing: str) -> str:
    """What of a listing is put back: not the tables that a program owns, not the elements of sets that packets add or
    that expire, which come and go by themselves. Pure."""
    return _with_elements(listing, lambda _table, head, elements: [one for one in elements if not _passes(head, one)])


def keeping(text: str, live: str) -> str:
    """A ruleset with those elements in its sets that come and go by themselves, as they are in the listing. Pure."""
    found: dict[tuple[str, str], list[str]] = {}

    def look(table: str, head: str, elements: list[str]) -> list[str]:
        found[table, head] = [one for one in elements if _passes(head, one)]
        return elements

    _with_elements(live, look)
    return _with_elements(text, lambda table, head, elements: elements + found.get((table, head), []))


def _with_elements(listing: str, choose: Callable[[str, str, list[str]], list[str]]) -> str:
    """The tables that nobody owns, each set with the elements that are chosen by table, declaration of the set and
    elements."""
    kept = []
    for table in _TABLE.findall(_COUNT.sub(r"\1", listing)):
        if not _OWNED.search(table):
            name = table.partition("{")[0]
            kept.append(_SET.sub(partial(_set, name, choose), table) + "\n")
    return "".join(kept)


def _set(table: str, choose: Callable[[str, str, list[str]], list[str]], found: re.Match[str]) -> str:
    head, _found, rest = found[0].rpartition("\t}")[0].partition("\t\telements = {")
    elements = [one.strip() for one in _ELEMENT.findall(rest.rpartition("}")[0]) if one.strip()]
    chosen = choose(table, head, elements)
    return head + (f"\t\telements = {{ {', '.join(chosen)} }}\n" if chosen else "") + "\t}"


def _passes(head: str, element: str) -> bool:
    return _PASSING.search(head) is not None or _expires(element)


def _expires(element: str) -> bool:
    return re.search(r"\btimeout\b", re.sub(r'"[^"]*"', "", element)) is not None


def _load(text: str, system: System, *options: str) -> Completed:
    """One transaction: all of it, or nothing. Flushing passes over tables that other programs own."""
    with _readable(b"flush ruleset\n" + text.encode()) as (_fd, path):
        return system.run(["nft", *options, "--file", path], _TIMEOUT)


@contextmanager
def _readable(data: bytes) -> Iterator[tuple[int, str]]:
    """Memory as a file: its descriptor at offset 0, and a path for a command that we start. Nothing is on disk."""
    fd = os.memfd_create("ruleset")
    try:
        write_all(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd, f"/proc/{os.getpid()}/fd/{fd}"
    finally:
        os.close(fd)


def _live(system: System) -> str | None:
    """None when nft does not answer, perhaps because the change removed it."""
    done = _list(system)
    return lasting(done.out) if done.rc == 0 else None


def capture(sink: Sink, system: System) -> list[str]:
    """``ruleset sha256=<name>``. Nothing when nft does not answer: a rollback may bring it back."""
    text = _live(system)
    if text is None:
        return []
    data = text.encode()
    if len(data) <= SMALL:
        return [f"ruleset sha256={sink.add(data)}"]
    with _readable(data) as (fd, _path):
        return [f"ruleset sha256={sink.add_file(fd)[0]}"]


def _recorded(then: Sequence[str]) -> str | None:
    """The name of the recorded ruleset."""
    found = None
    for line in then:
        match = _LINE.fullmatch(line)
        if match is None:
            raise Damaged(f"this line of a manifest is refused: {line[:200]!r}; nothing was changed")
        found = match[1]
    return found


def _differs(then: Sequence[str], system: System) -> bool:
    sha, text = _recorded(then), _live(system)
    return sha is not None and (text is None or hashlib.sha256(text.encode()).hexdigest() != sha)


def plan(then: Sequence[str], at: Restore) -> list[Step]:
    if not _differs(then, at.system):
        return []
    return [Step("firewall", "replace", "ruleset", "another ruleset", {"sha256": _recorded(then)})]


def apply(steps: Sequence[Step], at: Restore) -> list[Step]:
    """Load what was recorded; RestoreFailed when the kernel has not taken it, and then has what it had before."""
    for step in steps:
        try:
            text = b"".join(at.objects.read(step.detail["sha256"])).decode()
            live = at.system.run(["nft", "list", "ruleset"], _TIMEOUT)
            kept = keeping(text, live.out) if live.rc == 0 else text
            done = _load(kept, at.system)
            if done.rc != 0 and kept != text:
                done = _load(text, at.system)  # An element that is here for a while is part of one that was for good.
            wrong = "" if done.rc == 0 else done.words
        except Damaged as error:
            wrong = error.message
        if wrong:
            raise RestoreFailed(
                f"the firewall is as it was before the rollback, because its ruleset cannot be loaded: {wrong}",
                done=[],
                left=[f"firewall: {wrong}"],
            )
    return list(steps)


def verify(then: Sequence[str], system: System) -> list[str]:
    return ["the ruleset of the firewall is another one"] if _differs(then, system) else []


KIND = kind(System())
