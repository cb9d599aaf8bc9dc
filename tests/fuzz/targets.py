# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that parses bytes of others, as functions of bytes. Each ends well or with an error of our own."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import doubt
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import journals
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.info import host_state
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import text as _text
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import draining, haproxy
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.manifest import Manifest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Objects
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _guard
from rich.console import Console

from evenkeel.ansible import answers, child
from evenkeel.ansible.event import about
from evenkeel.ansible.events import PREFIX, Record, feed, judge, rescued
from evenkeel.ansible.options import Options
from evenkeel.changes import decide
from evenkeel.commands import playbook
from evenkeel.commands.status import Status
from evenkeel.outcome import Exit, RunResult, UsageError
from evenkeel.plan import measured
from evenkeel.show import summary

# What may come out of a parser besides its result.
OURS = (EvenkeelError, UsageError, answers.BadAnswer)
SYSTEM = replace(System(), has_systemd=lambda: False)
OBJECT = b"contents of a file"
SHA = hashlib.sha256(OBJECT).hexdigest().encode()
_LINES = (
    b'resource files {"exclude":[],"paths":["/etc"]}\nd /etc 755 0 0 17\nf /etc/x 644 0 0 17 size=18 sha256='
    + SHA
    + b"\n"
)
MANIFEST = (
    b"evenkeel-manifest 1\ncreated 2026-11-23T23:50:11.123456Z\nhost web1\nkind snapshot\nname n\nparent -\nroot "
    + hashlib.sha256(_LINES).hexdigest().encode()
    + b"\n\n"
    + _LINES
)
BUNDLE = b"evenkeel-pack 1\n%s %d\n%s\nmanifest %d\n%s\n" % (SHA, len(OBJECT), OBJECT, len(MANIFEST), MANIFEST)
ARMED = (
    b'{"generation": 3, "checkpoint": "ab", "name": "n", "until": 1.0, "within": 600.0, "boot_id": "b", "due": 1.0,'
    b' "back": "", "left": ["p"], "tries_until": 0.0}'
)
EVENTS = (
    b'{"generation": 1, "outcome": "in_doubt", "by": "settle", "at": 1.0, "checkpoint": "ab", "left": ["p"]}\n'
    b'{"generation": 2, "outcome": "rolled_back", "by": "operator", "at": 2.0, "checkpoint": "ab", "left": [],'
    b' "rollback": 2}\n'
    b'{"generation": 3, "outcome": "confirmed", "by": "settle", "at": 3.0, "checkpoint": "", "left": []}\n'
)
RESULT = json.dumps(
    {
        "msg": "m",
        "changed": True,
        "failed": True,
        "error": "Refused",
        "id": "ab",
        "outcome": "confirmed",
        "by": "settle",
        "armed": {"generation": 3, "checkpoint": "ab", "until": 1.0, "within": 600, "left": ["p"], "overdue": None},
        "last": {"outcome": "rolled_back", "by": "boot", "at": 1.0},
        "doubt": {"left": ["p"], "at": 1.0, "checkpoint": "ab"},
        "checkpoints": [{"id": "ab", "name": "n", "names": ["n"], "created": "2026-11-23T23:50:11Z", "left": ["p"]}],
        "replicas": {"web9": ["ab"]},
        "health": {"probes": [{"kind": "tcp", "target": ":80", "restarts": 1}]},
        "probes": [{"kind": "service", "target": "x", "restarts": 2}],
        "done": ["a", {"action": "replace", "target": "/x"}],
        "results": [{"failed": True, "item": 1, "msg": "x"}],
        "stderr": "a\nb",
        "timedout": {"period": 3},
    }
).encode()


def text(data: bytes) -> None:
    """Names of files, to results and back."""
    name = data.decode("utf-8", "surrogateescape")
    shown = _text.escape(name)
    assert shown.encode("utf-8") is not None and _text.unescape(shown) == name
    assert all(one.isprintable() or one in "\n\t" or ord(one) >= 0x7F for one in shown)
    _text.unescape(data.decode("utf-8", "replace"))


def manifest(data: bytes) -> None:
    """A manifest, as a peer may have made it up: its hash is right."""
    found = Manifest.parse(data, hashlib.sha256(data).hexdigest())
    with contextlib.suppress(*OURS):
        found.following(found)


def bundle(data: bytes) -> None:
    """A bundle, as the controller brings it from a peer."""
    with _store() as store:
        at = data.rfind(b"evenkeel-manifest")
        wanted = hashlib.sha256(data[at:].rstrip(b"\n") + b"\n" if at >= 0 else b"").hexdigest()
        path = os.path.join(store.root, "..", "bundle")
        Path(path).write_bytes(data)
        with replicas.opened(path) as incoming:
            replicas.receive(store, "web1", wanted, incoming)


def pack(data: bytes) -> None:
    """A pack and its index, half of the bytes each."""
    with _store() as store:
        objects = Objects(store.root)
        name = hashlib.sha256(data).hexdigest() + ".pack"
        place = objects.pack_path(name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        body, _mark, index = data.partition(b"--index--")
        Path(place).write_bytes(body)
        if index:
            Path(place.removesuffix(".pack") + ".idx").write_bytes(index)
        objects.index()
        for _sha, _contents in objects.pack_contents(place):
            pass


def journal(data: bytes) -> None:
    """The plan of an interrupted rollback and its staging directories. It is read and closed, not carried out here."""
    plan, _mark, anchors = data.partition(b"--anchors--")
    with _store() as store:
        folder = store.join("journal", "1-1")
        os.makedirs(folder)
        Path(folder, "plan").write_bytes(plan)
        Path(folder, "anchors").write_bytes(anchors)
        with contextlib.suppress(*OURS, *journals.MALFORMED):
            journals.read(folder)
        journals.close(folder)


def armed(data: bytes) -> None:
    """What a host remembers of its change under way and of those before."""
    record, _mark, events = data.partition(b"--events--")
    with _store() as store:
        Path(store.join("armed")).write_bytes(record)
        Path(store.join("events")).write_bytes(events)
        Path(store.join("generation")).write_bytes(events[:20] if events.isdigit() else b"3\n")
        doubt.in_doubt(store)
        host_state(store.root, SYSTEM)


def result(data: bytes) -> None:
    """The result of a task on a host, through all that the driver makes of it."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(said, dict):
        _guard.measured(said)
        _guard.measured({"state": "pass", "host_state": said})
    record = Record(mark="m")
    for task in ("ft_checkpoint", "ft_settle", "ft_health", "ft_info", "ft_rollback"):
        for status in ("ok", "failed", "unreachable"):
            event = {"event": f"runner_on_{status}", "stdout": "x", "project_update_id": 1}
            event["event_data"] = {"host": "web1", "task": "t", "resolved_action": PREFIX + task, "res": said}
            event = json.loads(child.event_line(event, 1))
            feed(record, event)
            about(event)
            last = record.of("web1", task)
            assert last is not None
            decide.armed(last.result, 1.0, 2.0, 600.0)
            decide.adopted(last.result, 0.0, 1e9)
            decide.settled(record, "web1")
            decide.begun(record, ["web1"], {})
            probes = (last.result.get("health") or {}).get("probes") or []
            decide.sick(record, {"web1": probes})
            row = playbook.row(record, "web1")
            Status().exit_code([row])
            json.dumps(row, allow_nan=False)
            stream = io.StringIO()
            console = Console(file=stream, width=100)
            for command in ("status", "rollback"):
                found = RunResult(command, Exit.FAILED, str(row["msg"]), {"web1": row}, [], 1.0)
                summary.print_run(found, console)
                summary.print_status(found, console, Options())
            measured.reported(["web1"], {"web1": row})
            shown = stream.getvalue()
            assert all(one.isprintable() or one == "\n" for one in shown), ascii(shown)
    feed(record, {"event": "runner_on_failed", "event_data": {"host": "web1", "task": "t", "res": said}})
    judge(record, ["web1"], rc=2)
    rescued(record, "web1")


def status(data: bytes) -> None:
    """A file of ``evenkeel status --json`` that a plan takes numbers from."""
    with tempfile.TemporaryDirectory(dir=_MEMORY) as home:
        path = os.path.join(home, "status.json")
        Path(path).write_bytes(data)
        found = measured.read_status(path)
        measured.reported(list(map(str, found)), found)


_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextlib.contextmanager
def _store() -> Iterator[Store]:
    home = tempfile.mkdtemp(dir=_MEMORY)
    try:
        store = Store(os.path.join(home, "store"), SYSTEM)
        with store.locked():
            pass
        yield store
    finally:
        shutil.rmtree(home, ignore_errors=True)


# Name -> the parser and what it understands, to start from.
def drained(data: bytes) -> None:
    """The words of HAProxy on its servers, and the record of a drain."""
    states, _mark, rest = data.decode("utf-8", "replace").partition("--stats--")
    stats, _mark, record = rest.partition("--record--")
    address = haproxy.Address("web", "web1", "/s")
    with contextlib.suppress(EvenkeelError):
        haproxy.parse_bits(states, address)
    with contextlib.suppress(EvenkeelError):
        found = haproxy.view(0, haproxy.parse_servers(stats), address)
        found.alone(found.carried)
    try:
        place = draining.Place.read(json.loads(record))
    except (ValueError, RecursionError):
        return
    assert draining.Place.read(place.record()) == place and place.words


TARGETS: dict[str, tuple[Callable[[bytes], Any], list[bytes]]] = {
    "text": (text, [b"/srv/caf\xe9", rb"a\x5c\xe9", "\x1b[2J\u202e".encode()]),
    "manifest": (manifest, [MANIFEST, MANIFEST.replace(b"snapshot", b"log").replace(b"d /etc", b"+d /etc")]),
    "bundle": (bundle, [BUNDLE]),
    "pack": (pack, [b"evenkeel-pack 1\n" + OBJECT + b"\n--index--" + SHA + b" 16 18\n"]),
    "journal": (journal, [b'{"note": {}, "steps": []}--anchors--[["/srv/.evenkeel-stage-1-1", 17], "/srv/old"]']),
    "armed": (armed, [ARMED + b"--events--" + EVENTS, ARMED + b"--events--"]),
    "drained": (
        drained,
        [
            b"1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state\n3 web 1 web1 127.0.0.1 2 8\n\n"
            b"--stats--# pxname,svname,qcur,scur,stot,status,weight,tracked,check_status,last_chk\n"
            b"web,web1,0,1,7,DRAIN,1,,L4OK,\nweb,web2,0,0,3,DOWN,1,web/web1,L4CON,Connection refused\n\n"
            b'--record--{"host": "lb1", "kind": "haproxy", "options": {"backend": "web", "server": "web1",'
            b' "socket": "/s"}}'
        ],
    ),
    "result": (result, [RESULT]),
    "status": (status, [b'{"hosts": {"web1": ' + RESULT + b"}}"]),
}
