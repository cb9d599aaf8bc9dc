# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What comes from a peer is restored only as far as it was declared for the host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Refused, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.declared import refuse_outside
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.manifest import Manifest, Section
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import adopt, checkpoint

from .conftest import SYSTEM

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
NGINX = "/etc/systemd/system/nginx.service"


def look(kind: str, spec: dict[str, Any], declared: Any, *lines: str, proved: bool = False) -> None:
    manifest = Manifest("2026-11-23T23:50:11.123456Z", "web1", "x", [Section(kind, spec, list(lines))], id="0" * 64)
    refuse_outside(manifest, declared, "web1", proved, SYSTEM)


def unit(name: str) -> str:
    return "unit " + json.dumps({"active": True, "enabled": "enabled", "exists": True, "name": name})


PROCESS = {"name": "app", "pidfile": "/run/app.pid", "argv": ["/usr/bin/app"]}
WHOLE = {**PROCESS, "chdir": "/", "reload_signal": "", "stop_signal": "TERM"}
NONE: dict[str, Any] = {"names": ["nginx.service"], "processes": []}
CLUSTER = {"cluster": "15/main", "data": "/var/lib/postgresql/15/main", "archive": "/srv/archive", "unit": ""}


@pytest.mark.parametrize(
    "kind, spec, declared, lines",
    [
        ("files", {"paths": ["/etc/nginx"], "exclude": []}, [{"files": {"paths": ["/etc/nginx/"]}}], []),
        ("files", {"paths": ["/etc/nginx/a"], "exclude": ["x"]}, [{"files": {"paths": ["/srv", "/etc/nginx"]}}], []),
        (
            "files",
            {"paths": ["/srv"], "exclude": ["*.log", "tmp"]},
            [{"files": {"paths": ["/srv"], "exclude": ["tmp"]}}],
            [f"f /srv/a 644 0 0 1 size=0 sha256={EMPTY}"],
        ),
        (
            "files",
            {"paths": ["/srv"], "exclude": ["./a", "tmp/"]},
            [{"files": {"paths": ["/srv"], "exclude": ["./a", "tmp/"]}}],
            [],
        ),
        ("services", {**NONE, "trees": [NGINX]}, [{"services": {"names": ["nginx"]}}], [unit("nginx.service")]),
        ("services", {"names": [], "processes": [WHOLE]}, [{"services": {"processes": [PROCESS]}}], []),
        (
            "sysctl",
            {"names": ["vm/swappiness"]},
            [{"sysctl": {"names": ["vm.swappiness"]}}],
            ["value vm/swappiness =60"],
        ),
        (
            "packages",
            {"names": ["nginx"]},
            [{"packages": {"names": ["nginx", "curl"]}}],
            ["deb nginx:amd64 1.0 manual"],
        ),
        ("packages", {"names": None}, [{"packages": {}}], ["deb nginx:amd64 1.0 manual"]),
        ("users", {"trees": ["/etc/passwd", "/etc/shadow"]}, [{"users": {}}], []),
        ("firewall", {"except": ["inet x"]}, [{"firewall": {}}], []),
        ("subvolumes", {"paths": ["/srv"]}, [{"subvolumes": {"paths": ["/srv"]}}], []),
        (
            "postgresql",
            {**CLUSTER, "trees": ["/etc/postgresql/15/main"]},
            [{"postgresql": {"cluster": "15/main", "archive": "/srv/archive"}}],
            [],
        ),
    ],
)
def test_what_is_declared_is_taken(kind: str, spec: dict[str, Any], declared: Any, lines: list[str]) -> None:
    look(kind, spec, declared, *lines)


@pytest.mark.parametrize(
    "kind, spec, declared, lines, named",
    [
        ("files", {"paths": ["/etc/sudoers.d"]}, [], [], "files /etc/sudoers.d"),
        ("files", {"paths": ["/etc/nginx2"], "exclude": []}, [{"files": {"paths": ["/etc/nginx"]}}], [], "/etc/nginx2"),
        ("files", {"paths": ["/etc"], "exclude": []}, [{"files": {"paths": ["/etc/nginx"]}}], [], "files /etc"),
        ("files", {"paths": [5], "exclude": []}, [{"files": {"paths": ["/etc/nginx"]}}], [], "nobody declares"),
        (
            "files",
            {"paths": ["/etc/a", "/srv"], "exclude": []},
            [{"files": {"paths": ["/srv"]}}],
            [],
            "files /etc/a",
        ),
        (
            "files",
            {"paths": ["/srv"], "exclude": []},
            [{"files": {"paths": ["/srv"], "exclude": ["secret"]}}],
            [],
            "left out now (secret)",
        ),
        (
            "files",
            {"paths": ["/srv"], "exclude": ["secret"]},
            [{"files": {"paths": ["/srv"], "exclude": ["secret"]}}],
            ["d /srv 755 0 0 1", "d /srv/secret 755 0 0 1"],
            "files /srv/secret",
        ),
        (
            "files",
            {"paths": ["/srv/secret/x"], "exclude": ["secret"]},
            [{"files": {"paths": ["/srv"], "exclude": ["secret"]}}],
            [],
            "files /srv/secret/x",
        ),
        ("services", NONE, [{"files": {"paths": ["/etc"]}}], [], "services nginx.service"),
        ("services", NONE, [{"services": {"names": ["apache2"]}}], [], "services nginx.service"),
        ("services", NONE, [{"services": {"names": ["nginx"]}}], [unit("evil.service")], "services evil.service"),
        (
            "services",
            {**NONE, "trees": ["/etc/sudoers.d"]},
            [{"services": {"names": ["nginx"]}}],
            [],
            "/etc/sudoers.d",
        ),
        (
            "services",
            {**NONE, "trees": ["/etc/systemd/system/evil.service"]},
            [{"services": {"names": ["nginx"]}}],
            [],
            "evil.service",
        ),
        (
            "services",
            {"names": [], "processes": [{**WHOLE, "argv": ["/tmp/evil"]}]},
            [{"services": {"processes": [PROCESS]}}],
            [],
            "process app",
        ),
        (
            "services",
            {"names": [], "processes": [WHOLE]},
            [{"services": {"processes": [PROCESS]}}],
            ["process " + json.dumps({"active": True, "definition": {**WHOLE, "argv": ["/tmp/evil"]}})],
            "process app",
        ),
        ("services", {"names": 5}, [{"services": {"names": ["nginx"]}}], [], "nobody declares"),
        ("sysctl", {"names": ["kernel/core_pattern"]}, [{"sysctl": {"names": ["vm.swappiness"]}}], [], "core_pattern"),
        (
            "sysctl",
            {"names": ["vm/swappiness"]},
            [{"sysctl": {"names": ["vm.swappiness"]}}],
            ["value kernel/core_pattern =%7C/tmp/evil"],
            "core_pattern",
        ),
        ("packages", {"names": None}, [{"packages": {"names": ["nginx"]}}], [], "without a limit"),
        (
            "packages",
            {"names": ["nginx"]},
            [{"packages": {"names": ["nginx"]}}],
            ["deb evil:amd64 1.0 manual"],
            "evil:amd64",
        ),
        (
            "packages",
            {"names": ["nginx"]},
            [{"packages": {"names": ["nginx"]}}],
            ["overrides", "override /bin/sh root root 4755"],
            "with owners and modes",
        ),
        (
            "packages",
            {"names": ["nginx"]},
            [{"packages": {"names": ["nginx"]}}],
            ["diversions", "diversion /bin/sh /bin/sh.real"],
            "with diversions",
        ),
        ("packages", {"names": None, "purge": True}, [{"packages": {}}], [], "purge"),
        ("users", {"trees": ["/etc/sudoers.d"]}, [{"users": {}}], [], "/etc/sudoers.d"),
        ("firewall", {}, [{"firewall": {"except": ["inet x"]}}], [], "left alone now (inet x)"),
        ("subvolumes", {"paths": ["/srv", "/home"]}, [{"subvolumes": {"paths": ["/srv"]}}], [], "subvolumes /home"),
        (
            "postgresql",
            {**CLUSTER, "data": "/etc"},
            [{"postgresql": {"cluster": "15/main", "archive": "/srv/archive"}}],
            [],
            "postgresql 15/main",
        ),
        ("nonsense", {}, [{"files": {"paths": ["/etc"]}}], [], "nonsense"),
    ],
)
def test_what_is_not_declared_is_named_and_refused(
    kind: str, spec: dict[str, Any], declared: Any, lines: list[str], named: str
) -> None:
    with pytest.raises(Refused) as refused:
        look(kind, spec, declared, *lines)
    assert named in refused.value.message and "undeclared" in refused.value.message


def test_of_what_is_proved_units_may_have_names_that_this_host_has_lost() -> None:
    spec = {**NONE, "trees": ["/etc/systemd/system/web.service.d"]}
    look("services", spec, [{"services": {"names": ["nginx"]}}], proved=True)
    with pytest.raises(Refused):
        look("services", {**NONE, "trees": ["/etc/cron.d"]}, [{"services": {"names": ["nginx"]}}], proved=True)


@pytest.mark.parametrize("declared", ["/etc", [5], [{"a": {}, "b": {}}], [{"nonsense": {}}], [{"files": ["/etc"]}]])
def test_a_declaration_that_is_none_is_named(declared: Any) -> None:
    with pytest.raises(UsageError, match="evenkeel_resources"):
        look("files", {"paths": ["/etc"], "exclude": []}, declared)


def test_what_is_refused_leaves_nothing_in_the_store(store: Store, tree: Path, tmp_path: Path) -> None:
    there = Store(str(tmp_path / "there"), store.system)
    taken = checkpoint(there, "before", [{"files": {"paths": [str(tree)]}}], host="web1")
    bundle = str(tmp_path / "bundle")
    replicas.export(there, "web1", taken["id"], [], bundle, from_replica=False)
    for declared, host in (([], "web1"), ([{"files": {"paths": [str(tree)]}}], "web2")):
        with pytest.raises(Refused):
            adopt(store, host, taken["id"], bundle, declared)
        assert store.checkpoints() == [] and not list(Path(store.root, "packs").iterdir())
    adopt(store, "web1", taken["id"], bundle, [{"files": {"paths": [str(tree)]}}])
    assert [one.id for one in store.checkpoints()] == [taken["id"]]
