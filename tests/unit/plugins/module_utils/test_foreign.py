# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bundles and manifests that nobody honest writes are refused in a sentence, and leave nothing behind."""

from __future__ import annotations

import hashlib
import os
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.entry import Entry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.copies import Copied
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import foreign
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import receive

MAGIC = b"evenkeel-pack 1\n"
FILES = 'resource files {"exclude":[],"paths":["/etc/x"]}\n'
EMPTY = hashlib.sha256(b"").hexdigest()


def manifest(body: str = FILES, **fields: str) -> bytes:
    data = body.encode()
    values = {
        "created": "2026-11-23T23:50:11.123456Z",
        "host": "web1",
        "kind": "snapshot",
        "name": "x",
        "parent": "-",
        "root": hashlib.sha256(data).hexdigest(),
        **fields,
    }
    head = "".join(f"{key} {value}\n" for key, value in values.items())
    return f"evenkeel-manifest 1\n{head}\n".encode() + data


def bundle(*parts: bytes) -> bytes:
    return MAGIC + b"".join(b"manifest %d\n" % len(part) + part + b"\n" for part in parts)


def take(store: Store, tmp_path: Path, data: bytes, wanted: str = "0" * 64) -> Copied:
    path = tmp_path / "bundle"
    path.write_bytes(data)
    return receive(store, "web1", wanted, str(path))


def offered(store: Store, tmp_path: Path, data: bytes) -> Copied:
    return take(store, tmp_path, bundle(data), hashlib.sha256(data).hexdigest())


@pytest.fixture
def today(store: Store) -> Store:
    """A store in November 2026, whatever the clock of this machine."""
    return Store(store.root, replace(store.system, now=lambda: 1795700000.0))


@pytest.mark.parametrize(
    "rest",
    [
        b"0" * 64 + b" -1\nxxx\n",
        b"0" * 64 + b" +1\nx\n",
        b"0" * 64 + b" 1_0\n0123456789\n",
        b"0" * 64 + b" 900000000000000\nxxx\n",
        b"0" * 64 + b" 1000000000000000000000\nxxx\n",
        b"manifest 900000000000000\nxxx\n",
        b"manifest -1\nxxx\n",
        b"manifest " + b"9" * 5000 + b"\nx",
        b"x" * 100_000,
        b"",
    ],
)
def test_a_length_that_the_bundle_does_not_have_is_refused_before_anything_is_written(
    today: Store, tmp_path: Path, rest: bytes
) -> None:
    began = time.monotonic()
    with pytest.raises(Damaged):
        take(today, tmp_path, MAGIC + rest)
    assert time.monotonic() - began < 5
    left = [name for _at, _folders, names in os.walk(os.path.join(today.root, "replicas")) for name in names]
    assert sorted(left) == ["FORMAT", "lock"]


@pytest.mark.parametrize(
    "body",
    [
        "resource files " + "[" * 100_000 + "]" * 100_000 + "\n",
        'resource files {"paths":' + "[" * 30 + "]" * 30 + "}\n",
        'resource files {"paths":' + "9" * 100 + "}\n",
        'resource files {"paths":NaN}\n',
        "resource files []\n",
        "resource ../files {}\n",
        FILES + "sha256=" + EMPTY + "\n",
        FILES + "f /etc/x/a 644 0 0 1 size=0 sha256=../../../etc/shadow\n",
        FILES + "f /etc/x/a 644 0 0 1 size=99999999999999999999 sha256=" + EMPTY + "\n",
        FILES + "f /etc/x/a 100644 0 0 1 size=0 sha256=" + EMPTY + "\n",
        FILES + "f /etc/x/a 644 0 0 1e9 size=0 sha256=" + EMPTY + "\n",
        FILES + "f /etc/x/\x1b[2J 644 0 0 1 size=0 sha256=" + EMPTY + "\n",
        "resource packages {}\ndpkg nginx 1.0 sha256=../../../etc/shadow\n",
    ],
)
def test_a_line_that_we_never_write_is_refused(today: Store, tmp_path: Path, body: str) -> None:
    with pytest.raises(Damaged, match="is refused|manifest [0-9a-f]{64} cannot be read"):
        offered(today, tmp_path, manifest(body))
    assert replicas.have(today, "web1").ids == []


@pytest.mark.parametrize(
    "fields",
    [
        {"created": "tomorrow"},
        {"created": "2026-11-23T23:50:11"},
        {"created": "2026-13-45T23:50:11.123456Z"},
        {"created": "9999-12-31T23:59:59.999999Z"},
        {"created": "2026-12-24T00:00:00.000000Z"},
        {"name": "../../x"},
        {"name": "a\x1b]0;x\x07"},
        {"name": "x" * 200},
        {"host": "a\x1b]0;x"},
        {"host": "h" * 3000},
        {"kind": "other"},
        {"parent": "../../x"},
        {"root": "0" * 64},
    ],
)
def test_a_field_out_of_form_is_refused(today: Store, tmp_path: Path, fields: dict[str, str]) -> None:
    assert offered(today, tmp_path, manifest()).state == "verified"
    with pytest.raises(Damaged):
        offered(today, tmp_path, manifest(**fields))
    assert len(replicas.have(today, "web1").ids) == 1


def test_clocks_may_be_some_hours_apart(today: Store, tmp_path: Path) -> None:
    assert offered(today, tmp_path, manifest(created="2026-11-27T01:00:00.000000Z")).state == "verified"


def test_a_content_that_has_no_name_of_one_is_neither_read_nor_put_aside(store: Store, tmp_path: Path) -> None:
    """Its name is where it lies: it would lead out of the store."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with store.locked():
        name = ".." + str(secret)
        problem = store.objects.verify(name)
        assert problem is not None and "not the name of a content" in problem
        with pytest.raises(Damaged):
            store.quarantine(name)
    assert secret.read_text() == "secret"


def test_a_log_has_no_more_records_than_we_write(today: Store, tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="more than 100"):
        take(today, tmp_path, bundle(*[manifest()] * 101))


def test_a_bundle_for_which_there_is_no_room_is_refused(
    today: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "room", lambda *_directories: 100)
    with pytest.raises(EvenkeelError, match="has room for 100"):
        offered(today, tmp_path, manifest())


def test_two_files_on_one_file_system_share_its_room(tmp_path: Path) -> None:
    one, both = foreign.room(str(tmp_path / "not" / "there")), foreign.room(str(tmp_path), str(tmp_path / "not"))
    assert 0 < both <= one // 2 + 10 * 1024 * 1024


def test_a_copy_of_a_date_to_come_is_whole_and_the_controller_refuses_its_date(today: Store, tmp_path: Path) -> None:
    """0.1.0 took such copies. A host whose clock is behind holds them as well."""
    data = manifest(created="2096-10-02T07:06:40.000000Z")
    later = Store(today.root, replace(today.system, now=lambda: 4e9))
    offered(later, tmp_path, data)
    (found,) = replicas.candidates(today, "web1").candidates
    assert (found.state, found.created) == ("verified", "2096-10-02T07:06:40.000000Z")
    with pytest.raises(Damaged, match="2096"):
        foreign.check_created(found.created, today.system.now())


def test_a_file_of_the_far_future_is_one_that_there_can_be(today: Store, tmp_path: Path) -> None:
    line = f"f /etc/x 644 0 0 13569489360987654321 size=0 sha256={EMPTY}"
    assert Entry.parse(line).mtime == 13569489360987654321
    with pytest.raises(Damaged, match="missing or damaged here"):  # The content is, as it was not sent.
        offered(today, tmp_path, manifest(FILES + line + "\n"))


@pytest.mark.parametrize(
    "line",
    [
        "f /x 644 4294967296 0 1 size=0 sha256=" + EMPTY,
        "f /x 644 -1 0 1 size=0 sha256=" + EMPTY,
        "f /x 644 0 0 9223372036854775808000000000 size=0 sha256=" + EMPTY,
        "f /x 644 0 0 1 size=-1 sha256=" + EMPTY,
        "b /x 644 0 0 1 rdev=18446744073709551616",
        "l /x 777 0 0 1 target=a%00b",
    ],
)
def test_numbers_that_no_system_call_takes_are_refused(line: str) -> None:
    with pytest.raises(Damaged):
        Entry.parse(line)


def test_a_log_of_few_bytes_that_say_that_much_stays_takes_no_more_memory_than_one_state(
    today: Store, tmp_path: Path
) -> None:
    lines = "D / 755 0 0 0\nD /etc 755 0 0 0\nd /etc/x 755 0 0 0\n"
    lines += "".join(f"p /etc/x/{number:08d} 644 0 0 0\n" for number in range(20_000))
    parts = [manifest(FILES + lines)]
    root = hashlib.sha256((FILES + lines).encode()).hexdigest()
    for number in range(90):
        at = f"2026-11-23T23:50:12.{number:06d}Z"
        parent = hashlib.sha256(parts[-1]).hexdigest()
        parts.append(manifest(f"{FILES}=20003\n", created=at, kind="log", parent=parent, root=root))
    wanted = hashlib.sha256(parts[-1]).hexdigest()
    tracemalloc.start()
    try:
        assert take(today, tmp_path, bundle(*parts), wanted).state == "verified"
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
    assert len(replicas.candidates(today, "web1").candidates) == 91
