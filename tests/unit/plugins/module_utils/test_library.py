# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library on a host answers only where nobody else could have written it, and as it was written."""

from __future__ import annotations

import bz2
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils import _found
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import package
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.flow import finish
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._found import library, load, loads
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

NOBODY = 65534


def of_another(agent: Path) -> None:
    os.chown(agent, NOBODY, NOBODY)


def written_by_all(agent: Path) -> None:
    agent.chmod(0o666)


def in_a_directory_of_another(agent: Path) -> None:
    os.chown(agent.parent, NOBODY, NOBODY)


def behind_a_link(agent: Path) -> None:
    agent.parent.rename(agent.parent.with_name("elsewhere"))
    agent.parent.symlink_to(agent.parent.with_name("elsewhere"))


def a_link(agent: Path) -> None:
    agent.rename(agent.parent.parent / agent.name)
    agent.symlink_to(agent.parent.parent / agent.name)


def a_pipe(agent: Path) -> None:
    agent.unlink()
    os.mkfifo(agent)


def of_other_content(agent: Path) -> None:
    agent.chmod(0o600)
    agent.write_bytes(agent.read_bytes()[:-1])


def of_another_version(agent: Path) -> None:
    agent.rename(agent.with_name(agent.name.replace("evenkeel-", "evenkeel-0")))


SPOILT = [
    in_a_directory_of_another,
    behind_a_link,
    a_link,
    a_pipe,
    of_another,
    written_by_all,
    of_other_content,
    of_another_version,
]


@pytest.fixture
def agent(store: Store) -> Path:
    Path(store.root).mkdir(mode=0o700)
    return Path(package.install(store, finish))


def test_the_library_is_found_by_what_the_controller_knows_of_it(store: Store, agent: Path) -> None:
    assert library(store.root, package.digest()) == agent.read_bytes()
    assert library(store.root, package.digest().swapcase()) == b"", "of other sources"
    assert library(str(agent.parents[2] / "nowhere"), package.digest()) == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
@pytest.mark.parametrize("spoil", SPOILT)
def test_a_library_that_is_not_ours_or_not_safe_is_passed_over(
    store: Store, agent: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(agent)
    assert library(store.root, package.digest()) == b""


def test_a_python_without_files_in_memory_loads_no_library(
    store: Store, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert not load(store.root, package.digest()) and loads() == ""


def test_a_python_tells_what_it_can_load(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loads() == "bz2"
    monkeypatch.delattr(_found, "bz2")
    assert loads() == "zlib"

    def forbidden(_name: str) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "memfd_create", forbidden)
    assert loads() == "", "in a sandbox"


@pytest.mark.parametrize("compress", [bz2.compress, zlib.compress])
def test_what_is_sent_is_unpacked(compress: Callable[[bytes], bytes]) -> None:
    assert _found._unpacked(compress(b"a library")) == b"a library"


def test_the_library_is_left_only_where_something_is_kept(store: Store) -> None:
    package.leave(store, finish)
    assert not Path(store.root).exists()
    Path(store.root).mkdir(mode=0o700)
    package.leave(store, finish)
    assert library(store.root, package.digest())


def test_a_module_that_brought_its_own_call_alone_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(store.root).mkdir(mode=0o700)
    monkeypatch.setattr(package, "find_spec", lambda name: None)
    package.leave(store, finish)
    assert not Path(store.root, "agent").exists()


@pytest.mark.parametrize("sent", [b"no archive", bz2.compress(b"a library")[:-1], zlib.compress(b"a library")[:-1]])
def test_a_library_that_came_damaged_is_not_loaded(store: Store, agent: Path, sent: bytes) -> None:
    assert not load(store.root, package.digest(), sent)
