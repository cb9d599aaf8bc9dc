# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library, as a host has it, for tests of several directories."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import package
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.flow import finish
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store


@pytest.fixture(autouse=True)
def own_umask() -> Iterator[None]:
    """Two threads of one process that use a store may leave the umask of one of them."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """The same sources give the same package, and compiling them takes a second: tests do it once."""
    made: dict[str, bytes] = {}
    zipapp = package._zipapp

    def remembered(sources: dict[str, str]) -> bytes:
        digest = package._digest(sources)
        if digest not in made:
            made[digest] = zipapp(sources)
        return made[digest]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "_zipapp", remembered)
        yield


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with nothing in it but the library, which an earlier checkpoint has left there."""
    store = Store(str(tmp_path_factory.mktemp("library") / "store"), System())
    with store.locked():
        package.install(store, finish)
    return Path(store.root)
