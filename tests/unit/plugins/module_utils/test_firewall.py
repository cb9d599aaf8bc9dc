# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource firewall: what lasts of a ruleset is recorded, and loaded again in one go, also by a real nft."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._checkpoint import checkpoint
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, RestoreFailed, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._info import info
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import firewall, registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Kind, Restore
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.step import Step
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._rollback import rollback
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Hasher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._system import Completed

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
SIMPLE = "table inet filter {\n\tchain c {\n\t}\n}\n"


@dataclass
class Nft:
    """A kernel's ruleset in memory. ``broken``: what nft says instead of loading or listing anything."""

    rules: str = SIMPLE
    warnings: str = ""
    broken: str = ""
    loads: list[str] = field(default_factory=list)

    def run(self, argv: Sequence[str], _timeout: float) -> Completed:
        words = tuple(argv)
        assert words[0] == "nft"
        if self.broken:
            return Completed(words, 1, "", self.broken)
        if words[-1] == "ruleset":
            return Completed(words, 0, self.rules, self.warnings)
        text = Path(words[-1]).read_text()
        assert text.startswith("flush ruleset\n")
        if "bogus" in text:
            return Completed(words, 1, "", "Error: syntax error, bogus")
        if "--check" not in words:
            self.rules = text.partition("\n")[2]
            self.loads.append(self.rules)
        return Completed(words, 0, "", "")


@pytest.fixture
def nft(store: Store, monkeypatch: pytest.MonkeyPatch) -> Nft:
    nft = Nft()
    store.system = replace(store.system, run=nft.run)
    kind = firewall.kind(store.system)
    monkeypatch.setitem(registry.LATE, "firewall", kind)
    monkeypatch.setitem(registry.KINDS, "firewall", kind)
    return nft


def test_what_comes_and_goes_by_itself_is_not_part_of_it() -> None:
    assert firewall.lasting("# Warning: x\n" + OWNED + RULES + OWNED) == LASTING
    assert firewall.lasting(LASTING) == LASTING
    assert firewall.lasting("") == ""


def test_what_comes_and_goes_by_itself_stays_as_it_is() -> None:
    assert firewall.keeping(LASTING, "") == LASTING and firewall.keeping("", RULES) == ""
    assert firewall.lasting(firewall.keeping(LASTING, RULES)) == LASTING
    kept = firewall.keeping(LASTING, OWNED + RULES)
    assert "elements = { 10.0.0.1, 10.0.0.2, 10.0.0.3 }" in kept
    assert 'elements = { 10.0.0.1 comment "no timeout, a } b", 10.0.0.3, 10.0.0.2 timeout 5m comment "x, y" }' in kept
    # Newer versions of nft say how many elements there are just now.
    counted = RULES.replace("\t\tsize 100\n", "\t\tsize 100\t# count 3\n")
    assert counted != RULES and firewall.lasting(counted) == LASTING
    assert firewall.keeping(LASTING, OWNED + counted) == kept
    # A set of another kind, or in another table, is another set.
    assert firewall.keeping(LASTING, RULES.replace("table inet filter", "table ip filter")) == LASTING
    assert "10.0.0.1, 10.0.0.2" not in firewall.keeping(LASTING, RULES.replace("ipv4_addr", "ipv6_addr"))


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
    ("rules", "warnings", "broken", "said"),
    [
        ("table ip filter {\n\tchain c {\n\t\tbogus\n\t}\n}\n", "", "", "could not load the ruleset again .*bogus"),
        (
            SIMPLE,
            "# Warning: table ip nat is managed by iptables-nft, do not touch!\n",
            "",
            "the table ip nat of iptables-nft has expressions that only iptables understands",
        ),
        (SIMPLE, "", "nft: No such file or directory", "cannot be listed: nft: No such file.*needs nftables"),
    ],
)
def test_what_could_not_be_put_back_is_refused(
    store: Store, nft: Nft, rules: str, warnings: str, broken: str, said: str
) -> None:
    nft.rules, nft.warnings, nft.broken = rules, warnings, broken
    with pytest.raises(UsageError, match=said):
        checkpoint(store, "before", FIREWALL)
    assert not store.exists


def test_it_takes_no_keys(nft: Nft) -> None:
    with pytest.raises(UsageError, match="unknown key 'tables'"):
        registry.check([{"firewall": {"tables": []}}])


def test_a_ruleset_that_is_refused_leaves_the_one_that_is_there(store: Store, nft: Nft) -> None:
    checkpoint(store, "before", FIREWALL)
    nft.rules = "table ip bogus {\n}\n"
    rollback(store, "before")
    with pytest.raises(RestoreFailed, match="as it was before the rollback.*syntax error"):
        rollback(store, "undo")
    assert nft.rules == SIMPLE


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

    def start(steps: Sequence[Step], _at: Restore) -> list[Step]:
        started.append(nft.rules)
        nft.rules = RULES
        return list(steps)

    service = Kind(
        check=lambda spec: spec,
        capture=lambda _spec, _sink, _system: ["running"],
        plan=lambda _then, _at: [] if started else [Step("services", "restart", "nftables.service")],
        apply=start,
        verify=lambda _then, _system: [],
    )
    monkeypatch.setitem(registry.LATE, "services", service)
    monkeypatch.setitem(registry.KINDS, "services", service)
    checkpoint(store, "before", [*FIREWALL, {"services": {}}])
    nft.rules = ""
    result = rollback(store, "before")
    assert started == [SIMPLE] and nft.rules == SIMPLE
    assert [one["resource"] for one in result["done"]] == ["firewall", "services", "firewall"]


@pytest.mark.parametrize("line", ["ruleset sha256=../../x", "ruleset", "rules sha256=" + "0" * 64])
def test_a_doctored_line_is_refused(store: Store, nft: Nft, line: str) -> None:
    with pytest.raises(Damaged, match="refused"):
        firewall.plan([line], Restore(store.system, store.objects))


def test_a_memory_file_is_not_left_open(store: Store, nft: Nft) -> None:
    before = len(os.listdir("/proc/self/fd"))
    firewall.check({}, store.system)
    firewall.capture(Hasher(), store.system)
    assert len(os.listdir("/proc/self/fd")) == before


_REAL = (
    """
import subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._checkpoint import checkpoint
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._info import info
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._rollback import rollback
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._settle import settle
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._system import System
store = Store(sys.argv[2], System(has_systemd=lambda: False))
def nft(text): subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
def listed(*words): return subprocess.check_output(["nft", "-s", "list", *words], text=True)
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

foreign = "iptables-nft -A INPUT -m string --algo bm --string x -j DROP"
if subprocess.call(foreign, shell=True) == 0:
    try: checkpoint(store, "foreign", [{"firewall": {}}])
    except UsageError as error: assert "ip filter of iptables-nft" in error.message, error.message
    else: raise AssertionError("recorded")
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
