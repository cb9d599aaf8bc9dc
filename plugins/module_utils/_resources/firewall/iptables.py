# SPDX-License-Identifier: GPL-3.0-or-later

"""The tables of iptables-nft that nft cannot load again, as iptables saves and loads them.

Such a table is a ``Table`` too: its chains hold their rules in the words of iptables. iptables replaces a whole table
in one transaction of the kernel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..._host.commands import Completed
from ..._host.system import System
from . import loading
from .ruleset import BUILT_IN_CHAINS, Block, Key, Table

FAMILIES = {"ip": "iptables-nft", "ip6": "ip6tables-nft"}
_CHAIN = re.compile(r"^:(\S+) (\S+)", re.MULTILINE)
_RULE = re.compile(r"^-A (\S+) .*\n", re.MULTILINE)
# The expressions of nftables that iptables itself makes. It saves another one as a rule that means something else.
_STATEMENTS = ("xt", "counter", "accept", "drop", "return", "jump", "goto")
_LIMIT = {"rate", "burst", "per"}
_META = ("l4proto", "iifname", "oifname", "mark")
_FIELDS = {
    "ip": ("saddr", "daddr", "protocol", "frag-off"),
    "ip6": ("saddr", "daddr", "nexthdr"),
    "tcp": ("sport", "dport", "flags"),
    "udp": ("sport", "dport"),
}


def saved(table: Table, system: System) -> Table | None:
    """The table in the words of iptables; None where iptables cannot tell all of it. ``table``: as nft lists it."""
    # iptables cannot tell of a flag of the table, of a set, and of a chain of another hook.
    heads = [block.head for block in table.blocks if block.name not in BUILT_IN_CHAINS]
    if table.family not in FAMILIES or table.head or any(heads):
        return None
    done = system.run([f"{FAMILIES[table.family]}-save", "--table", table.name], loading.TIMEOUT)
    whole = done.rc == 0 and f"\n*{table.name}\n" in f"\n{done.out}" and "\nCOMMIT\n" in done.out
    return parse(table.key, done.out) if whole else None


def recordable(table: Table, system: System) -> Table | None:
    """The table in the words of iptables; None where iptables could not load it again."""
    if not _is_of_iptables(table.key, system):
        return None
    found = saved(table, system)
    return found if found is not None and load(found, system, "--test").rc == 0 else None


def parse(key: Key, text: str) -> Table:
    """The table of a text that iptables saved, without counters."""
    rules: dict[str, list[str]] = {}
    for rule in _RULE.finditer(text):
        rules.setdefault(rule[1], []).append(rule[0])
    blocks = [
        Block("chain", name, f"\t\tpolicy {policy.lower()};\n", tuple(rules.get(name, ())))
        for name, policy in sorted(_CHAIN.findall(text))
    ]
    return Table(*key, "", tuple(blocks))


def text_of(table: Table) -> str:
    """The text from which iptables loads the table."""
    chains = "".join(
        f":{block.name} {policy.upper()} [0:0]\n"
        for block in table.blocks
        for policy in re.findall(r"policy (\S+);", block.head)
    )
    return f"*{table.name}\n{chains}{''.join(rule for block in table.blocks for rule in block.items)}COMMIT\n"


def load(table: Table, system: System, *options: str) -> Completed:
    """Replace the table in one transaction: all of its rules, or no rule."""
    return loading.load([f"{FAMILIES[table.family]}-restore", *options], text_of(table), system)


def _is_of_iptables(key: Key, system: System) -> bool:
    """Whether each expression in the table is one that iptables makes."""
    done = system.run(["nft", "--json", "list", "table", *key], loading.TIMEOUT)
    try:
        rules = [one["rule"]["expr"] for one in json.loads(done.out)["nftables"] if "rule" in one]
        return done.rc == 0 and all(_is_made(*next(iter(one.items()))) for rule in rules for one in rule)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return False  # This nft writes no JSON, or JSON that we do not know.


def _is_made(word: str, value: Any) -> bool:
    if word == "limit":
        return set(value) <= _LIMIT
    if word != "match":
        return word in _STATEMENTS
    left, right = value["left"], value["right"]
    field: Mapping[str, Any] = left["&"][0] if "&" in left else left
    payload = field.get("payload", {})
    known = field.get("meta", {}).get("key") in _META or payload.get("field") in _FIELDS.get(
        payload.get("protocol", ""), ()
    )
    is_set = "set" in right if isinstance(right, Mapping) else str(right).startswith("@")
    return known and value["op"] in ("==", "!=") and not is_set
