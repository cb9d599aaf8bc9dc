# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes outside of the declared resources, on real hosts: named path by path, and turned into resources."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from .conftest import Fleet

# A part of it is protected: /etc/ssh, /etc/nginx, nftables.conf and three services.
HARDEN = """
- hosts: web1
  gather_facts: false
  tasks:
    - name: Let root in by key alone
      ansible.builtin.copy:
        dest: /etc/ssh/sshd_config.d/hard.conf
        content: "PermitRootLogin prohibit-password\\n"
        mode: "0600"
    - name: Set a value of the kernel at boot
      ansible.builtin.copy: {dest: /etc/sysctl.d/99-hard.conf, content: "vm.swappiness = 10\\n", mode: "0644"}
    - name: Forbid empty passwords
      ansible.builtin.lineinfile: {path: /etc/pam.d/common-auth, regexp: '^#?hardened', line: "# hardened"}
    - name: Take the setuid bit from su
      ansible.builtin.file: {path: /usr/bin/su, mode: u-s}
    - name: Bring a tool
      ansible.builtin.copy: {dest: /usr/local/bin/audit, content: "#!/bin/sh\\n", mode: "0755"}
    - name: Remove a file
      ansible.builtin.file: {path: /etc/issue.net, state: absent}
    - name: A file in a directory that holds a protected one, and none of ours
      ansible.builtin.copy: {dest: "/etc/na\\nme", content: "x", mode: "0644"}
    - name: Enable a timer
      ansible.builtin.file:
        src: /lib/systemd/system/fstrim.timer
        dest: /etc/systemd/system/timers.target.wants/fstrim.timer
        state: link
        force: true
"""
FAILS = (
    HARDEN
    + """
    - name: Fail at the end
      ansible.builtin.command: "false"
"""
)
LOCKS_OUT = (
    HARDEN
    + """
    - name: Let nobody in
      ansible.builtin.copy:
        dest: /etc/nftables.conf
        content: |
          flush ruleset
          table inet hard {
            chain input {
              type filter hook input priority 0; policy drop;
              iif lo accept
            }
          }
        mode: "0755"
    - name: From now on
      ansible.builtin.command: nft -f /etc/nftables.conf
"""
)
BESIDE = {
    "/etc/sysctl.d/99-hard.conf": "new",
    "/etc/pam.d/common-auth": "content",
    "/usr/bin/su": "mode",
    "/usr/local/bin/audit": "new",
    "/etc/issue.net": "removed",
    "/etc/na\nme": "new",
    "/etc/systemd/system/timers.target.wants/fstrim.timer": "new",
}


# What brings these paths back, as they were.
PRISTINE = """
cp -a /var/lib/pristine/common-auth /etc/pam.d/; cp -a /var/lib/pristine/issue.net /etc/
rm -f /etc/na*me /usr/local/bin/audit /etc/sysctl.d/99-hard.conf
rm -f /etc/systemd/system/timers.target.wants/fstrim.timer; systemctl daemon-reload
chmod u+s /usr/bin/su
"""
LINK = "/etc/systemd/system/timers.target.wants/fstrim.timer"


@pytest.fixture
def hard(fleet: Fleet) -> Iterator[Fleet]:
    fleet.on("web1", f"cp -a /etc/pam.d/common-auth /etc/issue.net /var/lib/pristine/; rm -f {LINK}; {PRISTINE}")
    yield fleet
    fleet.on("web1", PRISTINE)


def beside(result: dict[str, Any]) -> dict[str, str]:
    (host,) = result["hosts"]
    assert host["outside"]["complete"] and host["outside"]["count"] == len(host["outside"]["paths"])
    return {one["path"]: one["what"] for one in host["outside"]["paths"]}


def test_what_stays_changed_after_a_rollback_is_named_path_by_path(hard: Fleet) -> None:
    code, result = hard.change(hard.playbook("harden.yml", FAILS))
    assert code == 2 and hard.differs("web1") == ""
    assert beside(result) == BESIDE
    mode = hard.on("web1", "stat -c %a /usr/bin/su").strip()
    assert mode == "755", "it does stay changed"
    told = hard.module("web1", "ft_info")["outside"]
    assert {one["path"]: one["what"] for one in told["paths"]} == BESIDE


@pytest.mark.long
def test_a_host_that_hardening_has_locked_goes_back_by_itself_and_what_stays_is_named(hard: Fleet) -> None:
    playbook = hard.playbook("harden.yml", LOCKS_OUT)
    code, result = hard.change(playbook, "--confirm-within", "40s", timeout=300)
    (host,) = result["hosts"]
    assert code == 2 and host["state"] == "rolled_back" and host["by"] == "deadline", result
    assert hard.differs("web1") == "" and "hard" not in hard.on("web1", "nft list ruleset")
    assert beside(result) == BESIDE
    told = hard.module("web1", "ft_info")["outside"]
    assert {one["path"]: one["what"] for one in told["paths"]} == BESIDE


@pytest.mark.long
def test_a_person_reads_it_and_gets_resources_that_cover_all_of_it(hard: Fleet) -> None:
    playbook = hard.playbook("harden.yml", FAILS)
    _code, out = hard.evenkeel("change", playbook, "-i", "inventory")
    flat = " ".join(out.split())
    assert "what is protected is as before; 7 paths outside of it stay changed: " in flat
    assert "evenkeel suggest -i inventory --limit web1" in flat
    code, out = hard.evenkeel("suggest", "-i", "inventory", "--limit", "web1")
    assert code == 0
    suggested = yaml.safe_load(out[re.search("^#", out, re.MULTILINE).start() :])["evenkeel_resources"]  # type: ignore[union-attr]
    kinds = {kind: spec for one in suggested for kind, spec in one.items()}
    assert kinds["services"] == {"names": ["fstrim.timer"]}
    assert set(kinds["files"]["paths"]) == {
        *("/etc/sysctl.d", "/etc/pam.d", "/usr/bin/su", "/usr/local/bin", "/etc/issue.net", "/etc/na\nme")
    }
    # The hosts as they were, and the same change once more, with what was suggested.
    hard.on("web1", PRISTINE)
    declared = yaml.safe_load((hard.home / "inventory/group_vars/all.yml").read_text())["evenkeel_resources"]
    (hard.home / "all.yml").write_text(yaml.safe_dump([*declared, *suggested]))
    code, result = hard.change(playbook, "--resources", "all.yml")
    assert code == 2 and beside(result) == {}
    assert hard.on("web1", "stat -c %a /usr/bin/su; ls /etc/na*me /usr/local/bin/audit || true").split()[0] == "4755"
    assert hard.on("web1", "ls /etc/issue.net").strip() == "/etc/issue.net"


def test_a_confirmed_change_names_what_it_keeps_beside(hard: Fleet) -> None:
    code, result = hard.change(hard.playbook("harden.yml", HARDEN))
    assert code == 0 and beside(result) == BESIDE


def test_a_host_that_goes_back_by_itself_remembers_what_stays_changed(hard: Fleet) -> None:
    resources = [{"files": {"paths": ["/etc/nginx"]}}]
    begun = hard.module("web1", "ft_checkpoint", name="c", resources=resources, confirm_within="4s")
    assert not begun["failed"]
    hard.on("web1", "chmod u-s /usr/bin/su; echo x >> /etc/nginx/nginx.conf")
    assert hard.disarmed("web1") and hard.state("web1")["by"] == "deadline"
    assert hard.differs("web1") == ""
    told = hard.module("web1", "ft_info")["outside"]
    assert told["paths"] == [{"path": "/usr/bin/su", "what": "mode"}], json.dumps(told)


@pytest.mark.long
def test_a_clock_that_the_change_sets_back_hides_nothing(hard: Fleet) -> None:
    """Containers share the clock of the machine, so the times in the record are moved instead."""
    resources = [{"files": {"paths": ["/etc/nginx"]}}]
    begun = hard.module("web1", "ft_checkpoint", name="c", resources=resources, confirm_within="60s")
    hard.on("web1", "chmod u-s /usr/bin/su; touch -d '2001-01-01' /usr/local/bin/audit /etc/issue.net")
    told = hard.module("web1", "ft_settle", generation=begun["generation"])["outside"]
    found = {one["path"]: one["what"] for one in told["paths"]}
    assert found == {"/usr/bin/su": "mode", "/usr/local/bin/audit": "new", "/etc/issue.net": "content or time"}


def test_a_package_that_comes_is_covered_where_packages_are_declared(hard: Fleet) -> None:
    """Built on the spot: a program, a configuration file, and a script that writes beside both."""
    hard.on(
        "web1",
        """
        rm -rf /tmp/p; mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin /tmp/p/usr/share/hardened /tmp/p/etc
        printf 'Package: hardened\\nVersion: 1\\nArchitecture: all\\n' > /tmp/p/DEBIAN/control
        printf 'Maintainer: x\\nDescription: x\\n' >> /tmp/p/DEBIAN/control
        printf '#!/bin/sh\\necho x > /etc/beside\\n' > /tmp/p/DEBIAN/postinst; chmod 755 /tmp/p/DEBIAN/postinst
        echo x > /tmp/p/usr/bin/hardened; echo x > /tmp/p/usr/share/hardened/data; echo x > /tmp/p/etc/hardened.conf
        echo /etc/hardened.conf > /tmp/p/DEBIAN/conffiles
        dpkg-deb --build /tmp/p /tmp/hardened.deb
        """,
    )
    for resources, bare in (
        ([{"packages": {"names": ["hardened"]}}], {"/etc/beside", "/etc/hardened.conf"}),
        (
            [{"files": {"paths": ["/etc/nginx"]}}],
            {"/etc/beside", "/etc/hardened.conf", "/usr/bin/hardened", "/usr/share/hardened"},
        ),
    ):
        begun = hard.module("web1", "ft_checkpoint", name="c", resources=resources, confirm_within="120s")
        hard.on("web1", "dpkg -i /tmp/hardened.deb")
        told = hard.module("web1", "ft_settle", generation=begun["generation"])
        assert {one["path"] for one in told["outside"]["paths"]} == bare
        suggested = hard.module("web1", "ft_suggest")["suggested"]
        hard.on("web1", "dpkg -P hardened; rm -f /etc/beside")
    assert {"packages": {"names": ["hardened"]}} in suggested
