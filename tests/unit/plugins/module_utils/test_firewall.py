# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource firewall: what lasts of a ruleset is recorded, and loaded again in one go, also by a real nft."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import flows
import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, RestoreFailed, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.step import Step
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.firewall import firewall, ruleset
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.firewall.ruleset import Keep
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Restore, Sink, Spec
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.services import Services
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Hasher, Writer
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, info, rollback

FIREWALL: list[dict[str, Any]] = [{"firewall": {}}]


def tabs(text: str) -> str:
    return text.replace("    ", "\t")


RULES = tabs("""\
table inet filter {
    set learned {
        type ipv4_addr
        size 100
        flags dynamic
        elements = { 10.0.0.1, 10.0.0.2,
                 10.0.0.3 }
    }

    set banned {
        type ipv4_addr
        flags timeout
        elements = { 10.0.0.1 comment "no timeout, a } b", 10.0.0.2 timeout 5m comment "x, y",
                 10.0.0.3 }
    }

    set ends {
        type ipv4_addr
        timeout 1m
        elements = { 10.0.0.1 }
    }

    map ports {
        type inet_service : verdict
        elements = { 22 : accept, 23 : drop }
    }

    chain input {
        type filter hook input priority filter; policy accept;
        tcp dport 22 accept comment "table inet x {"
    }
}
""")
OWNED = "table ip firewalld { # progname firewalld\n\tflags owner,persist\n\n\tchain c {\n\t}\n}\n"
LASTING = tabs("""\
table inet filter {
    set learned {
        type ipv4_addr
        size 100
        flags dynamic
    }

    set banned {
        type ipv4_addr
        flags timeout
        elements = { 10.0.0.1 comment "no timeout, a } b", 10.0.0.3 }
    }

    set ends {
        type ipv4_addr
        timeout 1m
    }

    map ports {
        type inet_service : verdict
        elements = { 22 : accept, 23 : drop }
    }

    chain input {
        type filter hook input priority filter; policy accept;
        tcp dport 22 accept comment "table inet x {"
    }
}
""")
TABLE = re.compile(r"^table .*?^\}\n", re.MULTILINE | re.DOTALL)
SIMPLE = "table inet filter {\n\tchain c {\n\t}\n}\n"


@dataclass
class Nft:
    """A kernel's ruleset in memory. ``broken``: what nft says instead of loading or listing anything."""

    rules: str = SIMPLE
    warnings: str = ""
    broken: str = ""
    ipsets: str = ""
    loads: list[str] = field(default_factory=list)

    def run(self, argv: Sequence[str], _timeout: float) -> Completed:
        words = tuple(argv)
        if words[0] == "ipset":
            return Completed(words, 0 if self.ipsets else 127, self.ipsets, "")
        assert words[0] == "nft"
        if self.broken:
            return Completed(words, 1, "", self.broken)
        if words[-1] == "ruleset":
            return Completed(words, 0, self.rules, self.warnings)
        text = Path(words[-1]).read_text()
        if any("bogus" in table for table in TABLE.findall(text)):
            return Completed(words, 1, "", "Error: syntax error, bogus")
        if "--check" not in words:
            gone = re.findall(r"^delete table (.*)$", text, re.MULTILINE)
            kept = [one for one in TABLE.findall(self.rules) if not any(one.startswith(f"table {g} ") for g in gone)]
            self.rules = "".join(kept + TABLE.findall(text))
            self.loads.append(self.rules)
        return Completed(words, 0, "", "")


@pytest.fixture
def nft(store: Store, monkeypatch: pytest.MonkeyPatch) -> Nft:
    nft = Nft()
    monkeypatch.setattr(firewall, "_LEGACY", ())
    monkeypatch.setattr(firewall, "_CONFIGURED", ())
    store.system = replace(store.system, run=nft.run)
    kind = firewall.Firewall(store.system)
    monkeypatch.setitem(registry.KINDS, "firewall", kind)
    return nft


def lasting(listing: str) -> str:
    return ruleset.recording(ruleset.tables(listing).values(), Keep())


def loaded(text: str, live: str, keep: Keep | None = None, same: Collection[str] = ()) -> str:
    """The tables that one transaction makes of the live ones."""
    made = ruleset.transaction(ruleset.tables(text), ruleset.tables(live), keep or Keep(), same)
    return "".join(TABLE.findall(made))


def test_what_comes_and_goes_by_itself_is_not_part_of_it() -> None:
    assert lasting("# Warning: x\n" + OWNED + RULES + OWNED) == LASTING
    assert lasting(LASTING) == LASTING
    assert lasting("") == ""


def test_what_comes_and_goes_by_itself_stays_as_it_is() -> None:
    changed = RULES.replace("policy accept", "policy drop")
    assert loaded(LASTING, "") == LASTING and loaded("", RULES) == "" and loaded(LASTING, RULES) == ""
    kept = loaded(LASTING, OWNED + changed)
    assert lasting(kept) == LASTING
    assert "elements = { 10.0.0.1, 10.0.0.2, 10.0.0.3 }" in kept
    assert 'elements = { 10.0.0.1 comment "no timeout, a } b", 10.0.0.3, 10.0.0.2 timeout 5m comment "x, y" }' in kept
    # Newer versions of nft say how many elements there are just now.
    counted = changed.replace("\t\tsize 100\n", "\t\tsize 100\t# count 3\n")
    assert counted != changed and lasting(counted.replace("policy drop", "policy accept")) == LASTING
    assert loaded(LASTING, OWNED + counted) == kept
    # A set of another kind, or in another table, is another set.
    assert loaded(LASTING, changed.replace("table inet filter", "table ip filter")) == LASTING
    assert "10.0.0.1, 10.0.0.2" not in loaded(LASTING, changed.replace("ipv4_addr", "ipv6_addr"))


def test_what_a_known_program_has_in_tables_of_others_stays_and_all_else_goes_back() -> None:
    mine = tabs("""\
table ip filter {
    chain INPUT {
        type filter hook input priority filter; policy accept;
    }

    chain FORWARD {
        type filter hook forward priority filter; policy accept;
        tcp dport 80 accept
    }
}
""")
    live = tabs("""\
table ip filter {
    chain INPUT {
        type filter hook input priority filter; policy drop;
    }

    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        counter jump DOCKER-USER
        tcp dport 9 accept
    }

    chain DOCKER-USER {
        return
    }

    chain extra {
    }
}
table ip6 nat {
    chain DOCKER {
        return
    }

    chain extra {
    }
}
table inet shut {
    chain c {
    }
}
""")
    kept = ruleset.tables(loaded(mine, live))
    assert [key for key, table in kept.items() if table.blocks] == [("ip", "filter"), ("ip6", "nat")]
    filtering = {block.name: block for block in kept["ip", "filter"].blocks}
    assert list(filtering) == ["INPUT", "FORWARD", "DOCKER-USER"] and "policy accept" in filtering["INPUT"].head
    rules = [rule.strip() for rule in filtering["FORWARD"].items]
    assert rules == ["counter jump DOCKER-USER", "tcp dport 80 accept"]
    assert [block.name for block in kept["ip6", "nat"].blocks] == ["DOCKER"]
    # Once the program is gone, what was recorded of it is all there is.
    assert loaded(mine, mine.replace("tcp dport 80 accept", "drop")) == mine


def test_an_element_that_stands_in_the_way_is_given_up(store: Store, nft: Nft) -> None:
    nft.rules = RULES
    checkpoint(store, "before", FIREWALL)
    nft.rules = RULES.replace("accept comment", "drop comment").replace("10.0.0.2 timeout", "bogus timeout")
    rollback(store, "before")
    assert nft.rules == LASTING


def test_a_ruleset_comes_back_and_its_undo_too(store: Store, nft: Nft) -> None:
    taken = checkpoint(store, "before", FIREWALL)
    assert checkpoint(store, "before", FIREWALL)["id"] == taken["id"]
    nft.rules = RULES
    predicted = rollback(store, "before", check_mode=True)["planned"]
    assert nft.loads == []
    result = rollback(store, "before")
    assert nft.rules == SIMPLE and result["done"] == predicted
    assert [one["target"] for one in predicted] == ["ruleset"] and not rollback(store, "before")["changed"]
    rollback(store, "undo")
    assert nft.rules == LASTING


def test_a_large_ruleset_and_an_empty_one(store: Store, nft: Nft) -> None:
    nft.rules = large = SIMPLE.replace("\t}\n", "\t\ttcp dport 1 accept\n" * 5000 + "\t}\n")
    checkpoint(store, "large", FIREWALL)
    nft.rules = ""
    empty = checkpoint(store, "empty", FIREWALL)["id"]
    rollback(store, "large")
    assert nft.rules == large and store.verify(store.manifest(empty)) == {}
    rollback(store, "empty")
    assert nft.rules == ""


@pytest.mark.parametrize(
    ("rules", "broken", "said"),
    [
        ("table ip filter {\n\tchain c {\n\t\tbogus\n\t}\n}\n", "", "could not load the ruleset again .*bogus"),
        (SIMPLE, "nft: No such file or directory", "cannot be listed: nft: No such file.*needs nftables"),
    ],
)
def test_what_could_not_be_put_back_is_refused(store: Store, nft: Nft, rules: str, broken: str, said: str) -> None:
    nft.rules, nft.broken = rules, broken
    with pytest.raises(UsageError, match=said):
        checkpoint(store, "before", FIREWALL)
    assert not store.exists


def test_a_table_that_nft_cannot_load_again_stays_and_all_else_goes_back(store: Store, nft: Nft) -> None:
    strange = "table ip nat {\n\tchain c {\n\t\tbogus\n\t}\n}\n"
    nft.warnings = "# Warning: table ip nat is managed by iptables-nft, do not touch!\n"
    nft.rules = SIMPLE + strange
    left = checkpoint(store, "before", FIREWALL)["left"]
    assert "the table ip nat (iptables-nft, as nft cannot load it again)" in left[0]
    strange = strange.replace("bogus", "bogus too")
    nft.rules = strange + "table inet lock {\n\tchain c {\n\t}\n}\n"
    rollback(store, "before")
    assert nft.rules == strange + SIMPLE


def test_it_takes_no_keys(nft: Nft) -> None:
    with pytest.raises(UsageError, match="unknown key 'tables'"):
        registry.check([{"firewall": {"tables": []}}])


def test_a_ruleset_that_is_refused_leaves_the_one_that_is_there(store: Store, nft: Nft) -> None:
    checkpoint(store, "before", FIREWALL)
    nft.rules = "table ip bogus {\n}\n"
    rollback(store, "before")
    with pytest.raises(RestoreFailed, match="firewall: Error: syntax error"):
        rollback(store, "undo")
    assert nft.rules == SIMPLE


def test_a_host_that_goes_back_by_itself_loads_the_tables_that_it_can(store: Store, nft: Nft) -> None:
    checkpoint(store, "any", FIREWALL)
    bogus = "table ip bogus {\n}\n"
    nft.rules = SIMPLE + bogus
    writer = Writer(store.objects)
    kind = firewall.Firewall()
    lines = kind.capture({}, writer, store.system)
    writer.publish()
    bogus = bogus.replace("}", "\tchain c {\n\t}\n}")
    nft.rules = "table inet shut {\n}\n" + bogus
    at = Restore(store.system, store.objects, unattended=True)
    with pytest.raises(RestoreFailed, match="syntax error") as failed:
        kind.apply(kind.plan(lines, at), at)
    assert failed.value.result["left"] == ["firewall: table ip bogus: Error: syntax error, bogus"]
    assert nft.rules == bogus + SIMPLE


def test_files_come_back_even_where_nft_is_gone(store: Store, nft: Nft, tree: Path) -> None:
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}, *FIREWALL])
    (tree / "a").write_text("changed")
    nft.broken = "nft: No such file or directory"
    with pytest.raises(RestoreFailed, match="nft: No such file") as failed:
        rollback(store, "before", confirm_within=60.0)
    assert (tree / "a").read_text() == "first"
    # Half a rollback is nothing to keep unasked.
    assert failed.value.result["generation"] == info(store)["armed"]["generation"] == 1


def test_a_ruleset_missing_in_the_store_is_found_before_a_file_changes(store: Store, nft: Nft, tree: Path) -> None:
    checkpoint(store, "files", [{"files": {"paths": [str(tree)]}}])
    packs = set(Path(store.join("packs")).iterdir())
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}, *FIREWALL])
    for path in set(Path(store.join("packs")).iterdir()) - packs:
        path.unlink()
    (tree / "a").write_text("changed")
    nft.rules = ""
    with pytest.raises(Damaged, match="nothing was changed"):
        rollback(store, "before")
    assert (tree / "a").read_text() == "changed" and nft.loads == []


def test_a_service_that_sets_up_its_own_rules_does_not_have_the_last_word(
    store: Store, nft: Nft, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    class Service(Services):
        def check(self, spec: Spec) -> dict[str, object]:
            return {}

        def trees(self, spec: Spec) -> list[str]:
            return []

        def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
            return []

        def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
            return [] if started else [Step("services", "start", "nftables.service")]

        def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
            started.append(nft.rules)
            nft.rules = RULES
            return list(steps)

        def verify(self, lines: Sequence[str], system: System) -> list[str]:
            return []

    monkeypatch.setitem(registry.KINDS, "services", Service())
    checkpoint(store, "before", [*FIREWALL, {"services": {}}])
    nft.rules = ""
    result = rollback(store, "before")
    assert started == [SIMPLE] and nft.rules == SIMPLE
    assert [one["resource"] for one in result["done"]] == ["firewall", "services", "firewall"]


def test_a_record_of_version_0_1_0_comes_back_with_all_its_tables(store: Store, nft: Nft) -> None:
    bans = SIMPLE.replace("filter", "f2b-table")
    checkpoint(store, "any", FIREWALL)
    writer = Writer(store.objects)
    line = f"ruleset sha256={writer.add((bans + LASTING).encode())}"
    writer.publish()
    at = Restore(store.system, store.objects)
    nft.rules = LASTING + bans + SIMPLE.replace("filter", "new")
    kind = firewall.Firewall()
    steps = kind.plan([line], at)
    assert kind.apply(steps, at) == steps and nft.rules == bans + LASTING
    assert kind.plan([line], at) == [] and kind.verify([line], store.system) == []
    assert kind.not_restorable({}, [line]) == []


def test_what_filters_beside_nftables_is_said(store: Store, nft: Nft, monkeypatch: Any, tmp_path: Path) -> None:
    (tmp_path / "names").write_text("filter\n")
    monkeypatch.setattr(firewall, "_LEGACY", [("iptables", str(tmp_path / "names")), ("ip6tables", "/nowhere")])
    nft.ipsets = "banned\n"
    assert "what iptables and ipset filters beside nftables" in checkpoint(store, "a", FIREWALL)["left"][0]


def test_a_set_that_a_file_fills_is_the_administrator_s(
    store: Store, nft: Nft, monkeypatch: Any, tmp_path: Path
) -> None:
    nft.rules = tabs("""\
table inet site {
    set banned {
        type ipv4_addr
        elements = { 10.0.0.1 }
    }

    chain in {
        ip saddr @banned drop
    }
}
""")
    (tmp_path / "site.nft").write_text("table inet site { set banned { type ipv4_addr; elements = { 10.0.0.1 }\n}\n}")
    assert "inet site banned" in checkpoint(store, "a", FIREWALL)["left"][0]
    monkeypatch.setattr(firewall, "_CONFIGURED", [str(tmp_path / "*")])
    assert checkpoint(store, "b", FIREWALL)["left"] == []
    before = nft.rules
    nft.rules = before.replace("10.0.0.1", "10.0.0.2")
    assert not rollback(store, "a")["changed"]
    rollback(store, "b")
    assert nft.rules == before


@pytest.mark.parametrize(
    ("rules", "shut"),
    [
        (["ip saddr @s drop"], True),
        (["ip saddr @s counter reject"], True),
        (["ip saddr != @s drop"], False),
        (["ip saddr @s accept"], False),
        (["ip saddr @s jump allowed"], False),
        (["ip saddr @s drop", "ip daddr @s accept"], False),
        (['ip saddr @s accept comment "drop"'], False),
        (["ip saddr @s2 drop"], False),
        ([], False),
    ],
)
def test_a_set_that_lets_in_is_never_a_program_s(rules: list[str], shut: bool) -> None:
    body = "".join(f"\t\t{rule}\n" for rule in rules)
    found = ruleset.tables(f"table ip t {{\n\tset s {{\n\t\ttype ipv4_addr\n\t}}\n\n\tchain c {{\n{body}\t}}\n}}\n")
    assert bool(ruleset.plain_sets(found.values(), Keep(), "")) is shut


@pytest.mark.parametrize("bad", ["inet", "a b c d", "inet x; flush", "", 1])
def test_what_is_excepted_is_typed(nft: Nft, bad: Any) -> None:
    with pytest.raises(UsageError, match="except must be a list of tables and sets"):
        registry.check([{"firewall": {"except": [bad]}}])


@pytest.mark.parametrize(
    "line", ["ruleset sha256=../../x", "ruleset", "rules sha256=" + "0" * 64, "alone set x", "alone", "except x"]
)
def test_a_doctored_line_is_refused(store: Store, nft: Nft, line: str) -> None:
    with pytest.raises(Damaged, match="refused"):
        firewall.Firewall().plan([line], Restore(store.system, store.objects))


@pytest.mark.parametrize("memory", [True, False])
def test_a_memory_file_is_not_left_open(store: Store, nft: Nft, memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not memory:  # as in some builds of Python
        monkeypatch.delattr(os, "memfd_create")
    before = len(os.listdir("/proc/self/fd"))
    firewall.Firewall(store.system).check({})
    firewall.Firewall().capture({}, Hasher(), store.system)
    assert len(os.listdir("/proc/self/fd")) == before


_REAL = (
    f"import sys; sys.path.append({str(Path(flows.__file__).parent)!r})"
    + """
import re, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from flows import checkpoint, info, rollback, settle
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
store = Store(sys.argv[2], System(has_systemd=lambda: False))
def nft(text): subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
def listed(*words):
    out = subprocess.check_output(["nft", "-s", "list", *words], text=True)
    return "".join(sorted(re.findall(r"(?ms)^table .*?^}\\n", out)))
"""
    + '''
nft("""
table inet filter {
  counter hits { packets 3 bytes 4 }
  set learned { type ipv4_addr; flags dynamic,timeout; timeout 1m; size 100; }
  set allowed { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.0.0/16, 1.1.1.1, 1.1.1.3, 1.1.1.5 } }
  map ports { type inet_service : verdict; elements = { 22 : accept } }
  chain input { type filter hook input priority 0; policy accept;
    ct state established,related counter name hits accept comment "a } b"
    update @learned { ip saddr limit rate 10/second }
    meter m { ip saddr limit rate 3/second } accept
    tcp dport vmap @ports
    log prefix "table inet x {"
  }
}
table ip6 sleeping { flags dormant; }
""")
before = listed("ruleset")
taken = checkpoint(store, "before", [{"firewall": {}}])
nft("add element inet filter learned { 1.2.3.4 }")
assert "packets 3" in subprocess.check_output(["nft", "reset", "counters"], text=True)
assert checkpoint(store, "before", [{"firewall": {}}])["id"] == taken["id"]
nft("""flush ruleset
table inet filter { chain input { type filter hook input priority 0; policy drop; }; }""")
locked = listed("ruleset")
owner = subprocess.Popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
owner.stdin.write("add table ip own { flags owner; }\\nadd chain ip own kept\\n"); owner.stdin.flush()
# The two are two transactions of nft's: the table is listed before its chain is.
while "chain kept" not in listed("ruleset"): time.sleep(0.05)
own = listed("table", "ip", "own")
assert "flags owner" in own

# Not confirmed: the way out is open again, and the rollback undone.
result = rollback(store, "before", confirm_within=4)
assert listed("ruleset").replace(own, "") == before, listed("ruleset")
assert result["armed"]["name"] == "undo" and info(store)["armed"]["generation"] == result["generation"]
end = time.monotonic() + 30
while info(store)["armed"] and time.monotonic() < end: time.sleep(0.1)
assert info(store)["last"]["by"] == "deadline" and listed("ruleset").replace(own, "") == locked, listed("ruleset")

# Confirmed: it stays.
result = rollback(store, "before", confirm_within=60)
assert settle(store, result["generation"], [], 0.0, 5.0, 0.1)["outcome"] == "confirmed"
assert listed("ruleset").replace(own, "") == before
owner.stdin.close(); owner.wait()

# What a packet added meanwhile is still there.
nft("add element inet filter learned { 9.9.9.9 }")
nft("add rule inet filter input tcp dport 9 drop")
rollback(store, "before")
assert "9.9.9.9" in listed("ruleset") and "dport 9" not in listed("ruleset")
nft("flush set inet filter learned")
assert listed("ruleset") == before

# What programs own stays as it is now, and is named; what shuts us out beside it goes.
nft("""flush ruleset
table inet site {
  set banned { type ipv4_addr; elements = { 192.0.2.20 } }
  set trusted { type ipv4_addr; elements = { 192.0.2.1 } }
  set f2b-sshd { type ipv4_addr; elements = { 198.51.100.1 } }
  chain in { type filter hook input priority 0; policy accept;
    ip saddr @banned drop
    ip saddr @f2b-sshd drop
    ip saddr @trusted accept
    tcp dport 1 drop
  }
}
table inet f2b-table { chain c { tcp dport 7 drop; }; }
table ip mine { set m { type ipv4_addr; }; chain c { ip saddr @m accept; }; }
""")
taken = checkpoint(store, "programs", [{"firewall": {"except": ["ip mi*"]}}])
for words in ("inet f2b-table (fail2ban)", "fail2ban in the table inet site", "inet site banned", "ip mine (except)"):
    assert words in taken["left"][0], (words, taken["left"])
assert "trusted" not in taken["left"][0]
nft("""delete element inet site banned { 192.0.2.20 }
add element inet site banned { 192.0.2.10 }
delete element inet site trusted { 192.0.2.1 }
add element inet site f2b-sshd { 198.51.100.2 }
insert rule inet site in tcp dport 22 drop
flush chain inet f2b-table c
add element ip mine m { 192.0.2.9 }
table inet lock { chain c { type filter hook input priority -5; tcp dport 22 drop; }; }
table ip docker-bridges { chain c { tcp dport 8 accept; }; }
""")
planned = rollback(store, "programs", check_mode=True)["planned"]
assert rollback(store, "programs")["done"] == planned
now = listed("ruleset")
for words in ("{ 192.0.2.10 }", "{ 192.0.2.1 }", "{ 198.51.100.1, 198.51.100.2 }", "dport 8", "192.0.2.9"):
    assert words in now, (words, now)
for words in ("dport 22", "inet lock", "dport 7", "192.0.2.20"):
    assert words not in now, (words, now)
assert not rollback(store, "programs")["changed"]
nft("flush set inet site banned")
assert not rollback(store, "programs")["changed"]

# A change that flushes all of it has taken away what programs had there.
nft("flush ruleset; table inet site { set banned { type ipv4_addr; elements = { 192.0.2.30 }; }; }")
rollback(store, "programs")
now = listed("ruleset")
for words in ("192.0.2.20", "192.0.2.30", "{ 192.0.2.1 }", "198.51.100.1", "saddr @f2b-sshd drop"):
    assert words in now, (words, now)
nft("flush ruleset")

foreign = "iptables-nft -A INPUT -m string --algo bm --string x -j DROP"
if subprocess.call(foreign, shell=True) == 0:
    left = checkpoint(store, "foreign", [{"firewall": {}}])["left"]
    assert "ip filter (iptables-nft, as nft cannot load it again)" in left[0], left
    subprocess.check_call(["iptables-nft", "-N", "DOCKER"])
    subprocess.check_call(["iptables-nft", "-A", "INPUT", "-j", "DOCKER"])
    left = checkpoint(store, "docker", [{"firewall": {}}])["left"]
    assert "ip filter (docker, by iptables-nft, with whatever else is in it)" in left[0], left
    before = listed("ruleset")
    nft("table inet lock { chain c { type filter hook input priority -5; tcp dport 22 drop; }; }")
    rollback(store, "docker")
    assert listed("ruleset") == before, listed("ruleset")
print("all of it")
'''
)


@pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root")
def test_a_real_ruleset_comes_back_and_the_dead_man_undoes_a_rollback(tmp_path: Path) -> None:
    base = next(path for path in sys.path if os.path.isdir(os.path.join(path, "ansible_collections", "evenkeel")))
    argv = ["unshare", "--net", sys.executable, "-c", _REAL, base, str(tmp_path / "store")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all of it\n"
