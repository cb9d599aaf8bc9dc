# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The key by which copies are known."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._key import FILE, Keys, find, make

COPY = {"id": "a" * 64, "host": "web1", "name": "protected", "created": "2026-11-23T23:50:11.123456Z"}
ONE, OTHER = "1" * 64, "2" * 64


def signed(keys: Keys, owner: str = "web1") -> dict[str, Any]:
    return {**COPY, "mac": keys.mac(owner, COPY)}


def test_a_mac_is_of_one_host_and_one_copy() -> None:
    keys = Keys([ONE], "")
    copy = signed(keys)
    assert keys.know("web1", copy)
    assert not keys.know("web2", copy)
    for field in COPY:
        assert not keys.know("web1", {**copy, field: COPY[field].replace("1", "2").replace("a", "b").replace("p", "q")})
    for mac in ("", None, "0" * 64, copy["mac"][:-1]):
        assert not keys.know("web1", {**copy, "mac": mac})


def test_without_a_key_nothing_is_known(tmp_path: Path) -> None:
    keys = find(None, str(tmp_path))
    assert not keys and not keys.know("web1", signed(Keys([ONE], ""))) and FILE in keys.where
    assert not find(None, None)
    with pytest.raises(UsageError, match="set evenkeel_key"):
        make(None)


def test_of_several_the_first_makes_macs_and_all_are_known() -> None:
    both = find([OTHER, ONE], None)
    assert both.know("web1", signed(find(ONE, None))) and both.know("web1", signed(find([OTHER], None)))
    assert not find(ONE, None).know("web1", signed(both))


def test_all_who_make_it_at_once_have_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _number: make(str(tmp_path)), range(32)))
    assert len({keys.mac("web1", COPY) for keys in made}) == 1
    assert os.listdir(tmp_path) == [FILE] and (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert find(None, str(tmp_path)).know("web1", signed(made[0]))


@pytest.mark.parametrize("given", ["short", [ONE, "short"], {"a": 1}, 5, []])
def test_a_key_that_is_none_is_refused(given: Any, tmp_path: Path) -> None:
    if not given:
        assert not find(given, str(tmp_path))
        return
    with pytest.raises(UsageError):
        find(given, str(tmp_path))


def test_a_key_that_others_can_read_or_give_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text(ONE)
    path.chmod(0o640)
    with pytest.raises(UsageError, match="0600"):
        find(None, str(tmp_path))
    path.rename(tmp_path / "real")
    (tmp_path / "real").chmod(0o600)
    path.symlink_to("real")
    with pytest.raises(
        UsageError, match="cannot be read: it is a symlink. A key that lies elsewhere.*evenkeel_key, in a"
    ):
        find(None, str(tmp_path))
    path.unlink()
    path.write_text("")
    path.chmod(0o600)
    with pytest.raises(UsageError, match="openssl"):
        find(None, str(tmp_path))


def test_a_job_of_awx_makes_no_key_that_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tmp_path / "job" / "inventory"
    job.mkdir(parents=True)
    monkeypatch.setenv("AWX_ISOLATED_DATA_DIR", str(tmp_path / "job" / "artifacts" / "7"))
    with pytest.raises(UsageError, match="gone at its end: set evenkeel_key"):
        make(str(job))
    assert os.listdir(job) == []
    # The driver runs Ansible in the same way, on an inventory that stays.
    assert make(str(tmp_path))
