# SPDX-License-Identifier: GPL-3.0-or-later

"""A listing of nftables as tables, blocks and the items in blocks; their owners; and how two listings are merged.

Pure. A program owns the objects that it adds and removes while it runs: a table, chains and sets in another owner's
table, the rules that lead to these, and the elements of a set. Such objects stay as they are when the rest is put
back (docs/firewall.md).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple


class Program(NamedTuple):
    """Patterns of the names that a program gives to its tables, to its chains and sets, and to its interfaces."""

    name: str
    tables: str
    parts: str
    interfaces: str = "(?!)"


_NOTHING = "(?!)"
# The names come from the programs; docs/firewall.md gives the sources. firewalld and ufw are not here: their rules
# are the administrator's own policy, and can lock people out.
PROGRAMS = (
    Program("fail2ban", "f2b-table|fail2ban", "f2b-.*|addr6?-set-.*"),
    Program("docker", "docker-bridges", "DOCKER.*", r"docker0|docker_gwbridge|br-[0-9a-f]{12}"),
    Program("podman", "netavark", "NETAVARK.*|nv_[0-9a-f]+_.*", r"podman\d+"),
    Program("cni", "cni|cni_hostport", "CNI-.*|cni-.*", r"cni\d+|cni-podman\d+"),
    Program("kubernetes", "kube-proxy|kube-network-policies|kindnet.*", "KUBE-.*", r"kube-ipvs0|kube-bridge"),
    Program("calico", "calico", "cali-.*", r"cali[0-9a-f]{11}"),
    Program("cilium", "cilium", "(OLD_)?CILIUM_.*", r"cilium_.*|lxc[0-9a-f]+"),
    Program("flannel", "flannel-ipv[46]", "FLANNEL-.*", r"flannel[.-].*"),
    Program("weave", _NOTHING, "WEAVE.*", "weave"),
    Program("antrea", "antrea", "ANTREA-.*", r"antrea-gw\d+"),
    Program("libvirt", "libvirt_network", "LIBVIRT_.*", r"virbr\d+"),
    Program("lxd", "lxd", "lxd_.*", r"lxdbr\d+"),
    Program("incus", "incus", "incus_.*", r"incusbr\d+"),
    Program("lxc", "lxc", _NOTHING, r"lxcbr\d+"),
    Program("crowdsec", "crowdsec6?", "crowdsec6?-.*|CROWDSEC_CHAIN|crowdsec-.*"),
    Program("sshguard", "sshguard", "sshguard"),
    Program("tailscale", "tailscale", "ts-.*", r"tailscale\d+"),
    Program("wg-quick", "wg-quick-.*", _NOTHING),
    Program("NetworkManager", "nm-shared-.*", "nm-sh-.*"),
    Program("systemd", r"io\.systemd\.nat", _NOTHING),
    Program("miniupnpd", "miniupnpd", "(pre|post)?(routing_)?miniupnpd.*|MINIUPNPD.*"),
)
_COMMENT = re.compile(r" # handle \d+$", re.MULTILINE)
_TABLE = re.compile(r"^table (\S+) (\S+) \{([^\n]*)\n(.*?)^\}$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^\t(\S[^\n]*?) (\S+) \{([^\n]*)\n(.*?)^\t\}\n?", re.MULTILINE | re.DOTALL)
_OWNED = re.compile(r"^\tflags [^\n]*\bowner\b", re.MULTILINE)
_PASSING = re.compile(r"^\t\t(?:flags [^\n]*\bdynamic\b|timeout )", re.MULTILINE)
# Newer versions of nft show how many elements are in a set.
_COUNT = re.compile(r"^(\t\tsize \d+)\t# count \d+$", re.MULTILINE)
_ELEMENT = r'(?:[^,"]|"[^"]*")+'
_RULE = re.compile(r"^\t\t\S.*?(?=^\t\t\S|\Z)", re.MULTILINE | re.DOTALL)
_QUOTED = r'"[^"]*"'
# Tables and chains that iptables makes as soon as it looks at a table.
_BUILT_IN = ("filter", "nat", "mangle", "raw", "security")
BUILT_IN_CHAINS = ("INPUT", "OUTPUT", "FORWARD", "PREROUTING", "POSTROUTING")

Key = tuple[str, str]


class Block(NamedTuple):
    """A chain with its rules, a set or map with its elements, or another object of a table, which has no items."""

    kind: str
    name: str
    head: str
    items: tuple[str, ...] = ()
    handle: str = ""

    @property
    def is_set(self) -> bool:
        return self.kind in ("set", "map")

    def text(self) -> str:
        if self.is_set:
            inside = f"\t\telements = {{ {', '.join(self.items)} }}\n" if self.items else ""
        else:
            inside = "".join(self.items)
        return f"\t{self.kind} {self.name} {{\n{self.head}{inside}\t}}\n"


class Table(NamedTuple):
    family: str
    name: str
    head: str
    blocks: tuple[Block, ...]
    handle: str = ""
    owner: bool = False

    @property
    def key(self) -> Key:
        return self.family, self.name

    def text(self) -> str:
        parts = ([self.head] if self.head else []) + [block.text() for block in self.blocks]
        return f"table {self.family} {self.name} {{\n" + "\n".join(parts) + "}\n"

    def find(self, block: Block) -> Block | None:
        return next((one for one in self.blocks if (one.kind, one.name) == (block.kind, block.name)), None)


def tables(listing: str) -> dict[Key, Table]:
    """The tables of a listing, which may lack handles."""
    found = {}
    for family, name, about, body in _TABLE.findall(_COUNT.sub(r"\1", listing)):
        blocks = tuple(_block(*one) for one in _BLOCK.findall(body))
        head = "".join(line for line in _BLOCK.sub("", body).splitlines(True) if line.strip())
        handle = re.search(r"\bhandle (\d+)", about)
        number = handle[1] if handle else ""
        found[family, name] = Table(family, name, head, blocks, number, _OWNED.search(body) is not None)
    return found


def _block(kind: str, name: str, about: str, body: str) -> Block:
    number = re.search(r"\bhandle (\d+)", about)
    handle = number[1] if number else ""
    if kind in ("set", "map"):
        head, _found, rest = body.partition("\t\telements = {")
        elements = [one.strip() for one in re.findall(_ELEMENT, rest.rpartition("}")[0]) if one.strip()]
        return Block(kind, name, head, tuple(re.sub(r"\s*\n\s*", " ", one) for one in elements), handle)
    if kind != "chain":
        return Block(kind, name, _COMMENT.sub("", body), (), handle)
    lines = _RULE.findall(_COMMENT.sub("", body))
    heads = [line for line in lines if re.match(r'\t\t(type .* hook .*;$|comment ")', line)]
    return Block(kind, name, "".join(heads), tuple(line for line in lines if line not in heads), handle)


class Keep(NamedTuple):
    """The tables, chains and sets that stay as they are.

    ``tables`` and ``sets``: from the record. ``excepts``: from the declaration, each of two or three words.
    ``known``: whether objects with names of known programs stay, too.
    """

    excepts: Collection[tuple[str, ...]] = ()
    tables: Collection[Key] = ()
    sets: Collection[tuple[str, str, str]] = ()
    known: bool = True

    def table(self, table: Table) -> str:
        """The owner of the whole table; "" where no program owns it and no exception names it."""
        if table.owner:
            return "the program that made it"
        if self._excepted(table.key):
            return "except"
        if table.key in self.tables:
            return "another program"
        return next((one.name for one in PROGRAMS if re.fullmatch(one.tables, table.name)), "") if self.known else ""

    def part(self, name: str) -> str:
        """The known program that gives such a name to its chains and sets in tables of others; "" for another
        name."""
        return next((one.name for one in PROGRAMS if re.fullmatch(one.parts, name)), "") if self.known else ""

    def elements(self, table: Table, block: Block) -> bool:
        """Whether all elements of the set stay as they are."""
        path = (*table.key, block.name)
        return block.kind == "set" and (path in self.sets or self._excepted(path))

    def rule(self, rule: str, table: Table, chain: Block) -> bool:
        """Whether the rule, in the words of nft or of iptables, belongs to a program. Such a rule leads to the
        program's chain or set; or it stands in a chain that iptables makes for all programs, and names the program's
        interface."""
        bare = re.sub(_QUOTED, '""', rule)
        names = re.findall(r"(?:\b(?:jump|goto) | -[jg] | --match-set |@)(\S+)", bare)
        if any(self.part(name.rstrip(",}")) for name in names):
            return True
        shared = table.name in _BUILT_IN and chain.name in ("FORWARD", "PREROUTING", "POSTROUTING")
        if not self.known or not shared:
            return False
        passing = re.findall(r'\b[io]ifname (?:!= )?"([^"]*)"', rule) + re.findall(r" -[io] (\S+)", bare)
        return any(re.fullmatch(one.interfaces, name) for name in passing for one in PROGRAMS)

    def _excepted(self, path: tuple[str, ...]) -> bool:
        return any(len(one) == len(path) and all(map(fnmatchcase, path, one)) for one in self.excepts)


def form(found: Iterable[Table], keep: Keep) -> str:
    """The text of all tables that are put back, sorted. Equal texts mean that there is no difference."""
    formed = (_form(table, keep) for table in found)
    return "".join(sorted(one.text() for one in formed if one is not None))


def _form(table: Table, keep: Keep) -> Table | None:
    if keep.table(table):
        return None
    blocks = []
    for block in table.blocks:
        if keep.part(block.name):
            continue
        if block.is_set:
            block = block._replace(items=() if keep.elements(table, block) else tuple(lasting(block)))
        elif block.kind == "chain":
            block = block._replace(items=tuple(one for one in block.items if not keep.rule(one, table, block)))
            if not block.items and _made_by_looking(table, block):
                continue
        blocks.append(block._replace(handle=""))
    of_programs = bool(table.blocks) and all(keep.part(block.name) for block in table.blocks)
    if not blocks and (table.name in _BUILT_IN or of_programs):
        return None
    return table._replace(blocks=tuple(blocks), handle="")


def _made_by_looking(table: Table, chain: Block) -> bool:
    """Whether the chain is an empty chain such as iptables makes whenever it looks at a table: it has no effect."""
    accepts = re.search(r"policy (?!accept)", chain.head) is None
    return table.name in _BUILT_IN and chain.name in BUILT_IN_CHAINS and accepts


def lasting(block: Block) -> list[str]:
    """The elements, without elements that packets add or that expire: these come and go by themselves."""
    return [one for one in block.items if not _passes(block.head, one)]


def _passes(head: str, element: str) -> bool:
    return _PASSING.search(head) is not None or _expires(element)


def _expires(element: str) -> bool:
    return re.search(r"\btimeout\b", re.sub(_QUOTED, "", element)) is not None


def recording(found: Iterable[Table], keep: Keep) -> str:
    """The text that the store keeps: the tables that are put back, with the present objects of programs in them, in
    case a change removes these."""
    kept = []
    for table in found:
        if not keep.table(table):
            blocks = [one._replace(items=tuple(lasting(one))) if one.is_set else one for one in table.blocks]
            kept.append(table._replace(blocks=tuple(blocks)).text())
    return "".join(kept)


def transaction(
    then: Mapping[Key, Table], now: Mapping[Key, Table], keep: Keep, same: Collection[str], whole: bool = False
) -> str:
    """The transaction that brings the tables back to ``then``, without the tables that do not differ.

    ``same``: the recorded handles of tables and of sets (``table.set``). A table or set that still has such a handle
    has stayed since, and a program has removed the items that are missing in it. ``whole``: make all tables anew, in
    the order of ``then``.
    """
    text = ""
    for key in [*then, *(key for key in now if key not in then)]:
        before, live = then.get(key), now.get(key)
        if any(one is not None and keep.table(one) for one in (before, live)):
            continue
        if not whole and form([before] if before else [], keep) == form([live] if live else [], keep):
            continue
        if live is not None:
            text += "add table {0} {1}\ndelete table {0} {1}\n".format(*key)
        merged = merge(before, live, keep, same)
        text += merged.text() if merged is not None else ""
    return text


def merge(recorded: Table | None, live: Table | None, keep: Keep, same: Collection[str]) -> Table | None:
    """The recorded table, with the objects that programs have in it now."""
    if live is None:
        return recorded
    if recorded is None:
        blocks = [_of_programs(live, one, keep) for one in live.blocks]
        left = tuple(one for one in blocks if one is not None)
        return live._replace(blocks=left) if left else None
    stayed = live.handle in same
    merged = []
    for block in recorded.blocks:
        there = live.find(block)
        if keep.part(block.name):
            if there is not None or not stayed:
                merged.append(there or block)
        elif block.is_set and there is not None:
            merged.append(block._replace(items=_elements(recorded, block, live, there, keep, same)))
        elif block.kind == "chain" and there is not None:
            merged.append(block._replace(items=_rules(recorded, block, there, keep, stayed)))
        else:
            merged.append(block)
    for block in live.blocks:
        mine = _of_programs(live, block, keep) if recorded.find(block) is None else None
        merged += [mine] if mine is not None else []
    return recorded._replace(blocks=tuple(merged))


def _of_programs(table: Table, block: Block, keep: Keep) -> Block | None:
    """The part of the block that a program has made."""
    if keep.part(block.name):
        return block
    rules = tuple(one for one in block.items if block.kind == "chain" and keep.rule(one, table, block))
    return block._replace(items=rules) if rules else None


def _elements(
    recorded: Table, block: Block, live: Table, there: Block, keep: Keep, same: Collection[str]
) -> tuple[str, ...]:
    if keep.elements(recorded, block):
        if f"{live.handle}.{there.handle}" in same:
            return there.items
        return (*there.items, *(one for one in block.items if one not in there.items))
    passing = [one for one in there.items if there.head == block.head and _passes(block.head, one)]
    return (*block.items, *(one for one in passing if one not in block.items))


def _rules(table: Table, block: Block, there: Block, keep: Keep, stayed: bool) -> tuple[str, ...]:
    """The recorded rules, and the present rules of programs before or behind them, as these stand now."""
    mine = [rule for rule in block.items if not keep.rule(rule, table, block)]
    first: list[str] = []
    last: list[str] = []
    seen = False
    for rule in there.items:
        if keep.rule(rule, table, there):
            (last if seen else first).append(rule)
        else:
            seen = True
    gone = [] if stayed else [one for one in block.items if keep.rule(one, table, block) and one not in there.items]
    return (*first, *gone, *mine, *last)


def only_shuts_out(table: Table, name: str) -> bool:
    """Whether rules use the set, and each of these rules only shuts out the elements of the set."""
    used = False
    for chain in table.blocks:
        for rule in chain.items if chain.kind == "chain" else ():
            bare = re.sub(_QUOTED, '""', rule)
            if re.search(rf"@{re.escape(name)}(?!\S)", bare) is None:
                continue
            used = True
            shuts = re.search(r"\b(drop|reject)\b", bare) is not None
            if not shuts or re.search(rf"!= @{re.escape(name)}(?!\S)", bare) is not None:
                return False
    return used


def plain_sets(found: Iterable[Table], keep: Keep, configured: str) -> list[tuple[Table, Block]]:
    """The sets whose elements come from a running program: no configuration file fills them, and rules only shut out
    their elements. A set that lets packets in never counts: elements that a change removed from it must come back."""
    kept = []
    for table in found:
        for block in table.blocks if not keep.table(table) else ():
            plain = block.kind == "set" and _PASSING.search(block.head) is None and not keep.part(block.name)
            if plain and not _has_elements(configured, block.name) and only_shuts_out(table, block.name):
                kept.append((table, block))
    return kept


def _has_elements(configured: str, name: str) -> bool:
    word = re.escape(name)
    inside = rf"\bset\s+{word}\s*\{{[^{{}}]*\belements\b"
    return re.search(rf"{inside}|\belement\s+\S+\s+\S+\s+{word}\b", configured) is not None


def programs_in(table: Table, keep: Keep) -> Sequence[str]:
    """The known programs that have chains or sets in the table of another owner."""
    return sorted({keep.part(block.name) for block in table.blocks} - {""})
