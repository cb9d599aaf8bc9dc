# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies beside a playbook of ours is what the caller, and nobody else, has put there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evenkeel.ansible.beside import beside, link
from evenkeel.ansible.options import Options
from evenkeel.collection import collections_path
from evenkeel.outcome import UsageError


@pytest.fixture
def base(tmp_path: Path) -> Path:
    found = tmp_path / "project"
    (found / "filter_plugins").mkdir(parents=True, mode=0o755)
    found.chmod(0o755)
    return found


def test_the_current_directory_counts_where_it_is_the_callers(base: Path) -> None:
    assert beside(Options(), str(base), {}) == str(base)


@pytest.mark.parametrize("open_to_all", [".", "filter_plugins"])
def test_nothing_counts_that_everybody_could_have_written(open_to_all: str, base: Path) -> None:
    (base / open_to_all).chmod(0o1777)
    with pytest.raises(UsageError, match=rf"filter_plugins.*Nothing was touched. Say --playbook-dir {base}"):
        beside(Options(inventory=("/etc/ansible/hosts", "web1,")), str(base), {})
    assert beside(Options(playbook_dir=str(base)), "/", {}) == str(base), "the caller says so"


def test_who_can_replace_the_inventory_or_the_configuration_decides_already(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = Options(inventory=("hosts.yml",))
    base.chmod(0o777)
    assert beside(named, str(base), {}) == str(base)
    assert beside(Options(), str(base), {"CONFIG_FILE": str(base / "ansible.cfg")}) == str(base)
    with pytest.raises(UsageError):
        beside(Options(inventory=(str(tmp_path / "hosts.yml"),)), str(base), {"CONFIG_FILE": None})
    base.chmod(0o1777)  # Nobody replaces the files of others there.
    with pytest.raises(UsageError):
        beside(named, str(base), {})
    base.chmod(0o755)
    (base / "filter_plugins").chmod(0o777)
    with pytest.raises(UsageError):
        beside(named, str(base), {})


@pytest.mark.parametrize("theirs", [".", "filter_plugins"])
def test_nothing_counts_that_another_user_owns(theirs: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.lstat

    def lstat(path: str) -> os.stat_result:
        found = list(real(path))
        found[4] = os.getuid() + 7 if os.path.samefile(path, base / theirs) else found[4]
        return os.stat_result(found)

    monkeypatch.setattr(os, "lstat", lstat)
    with pytest.raises(UsageError, match="belongs to another user"):
        beside(Options(), str(base), {})
    monkeypatch.setenv("SUDO_UID", str(os.getuid() + 7))
    if os.getuid() == 0:
        assert beside(Options(), str(base), {}) == str(base)


def test_a_directory_without_anything_that_ansible_uses_is_no_reason_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "site.yml").touch()
    tmp_path.chmod(0o1777)
    assert beside(Options(), str(tmp_path), {}) == ""


def test_files_in_a_circle_are_links_like_others(base: Path, tmp_path: Path) -> None:
    (base / "loop").symlink_to("loop")
    (tmp_path / "here").mkdir()
    link(base, tmp_path / "here", "filter_plugins")
    assert [one.name for one in (tmp_path / "here").iterdir()] == ["loop"]


def test_a_collection_beside_a_playbook_hides_none_but_that_of_another_driver(base: Path, tmp_path: Path) -> None:
    for name in ("evenkeel/fault_tolerance", "evenkeel/other", "community/general"):
        (base / "collections" / "ansible_collections" / name).mkdir(parents=True)
    here = tmp_path / "here"
    here.mkdir()
    link(base, here)
    found = here / "collections" / "ansible_collections"
    ours = collections_path() / "ansible_collections" / "evenkeel" / "fault_tolerance"
    assert (found / "evenkeel" / "fault_tolerance").resolve() == ours.resolve()
    for name in ("evenkeel/other", "community/general"):
        assert (found / name).resolve() == base / "collections" / "ansible_collections" / name
