# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Outcomes are posted, one line each, and a receiver that is broken breaks nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from evenkeel.ansible.caller import Caller
from evenkeel.ansible.options import Options
from evenkeel.ansible.targets import Inventory, Targets
from evenkeel.changes import flow
from evenkeel.changes.notify import Notifier, check
from evenkeel.changes.request import Request
from evenkeel.outcome import UsageError
from evenkeel.progress import Kind, Phase, Progress


class Receiver:
    """An HTTP server that answers as told, and keeps what was posted."""

    def __init__(self) -> None:
        self.answer, self.pause = 200, 0.0
        self.got: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append({"path": self.path, "type": self.headers["Content-Type"], "body": body})
                time.sleep(receiver.pause)
                self.send_response(receiver.answer)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook/SECRET"

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(one["body"]) for one in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


def host(phase: Phase, *names: str, text: str = "") -> Progress:
    return Progress(Kind.HOST, text, names, phase)


def test_each_outcome_of_a_host_is_one_line(receiver: Receiver) -> None:
    notifier, told = Notifier(receiver.url, "20261128-ab", "site.yml"), list[Progress]()
    report = notifier.listening(told.append)
    facts = [
        Progress(Kind.NOTE, "a note"),
        host(Phase.BEGIN, "web1", "web2"),
        host(Phase.FAILED, "web2", text="the password hunter2 is wrong"),
        host(Phase.HELD, "web1"),
        host(Phase.HELD, "web1"),
        host(Phase.CONFIRMED, "web1"),
        host(Phase.ROLLED_BACK, "web2", text="the password hunter2 is wrong"),
        host(Phase.IN_DOUBT, "web3"),
        host(Phase.UNTOUCHED, "web4", "web5"),
    ]
    for fact in facts:
        report(fact)
    assert notifier.close() == [] and told == facts
    lines = receiver.lines()
    assert [(one["host"], one["outcome"]) for one in lines] == [
        ("web1", "held"),
        ("web1", "confirmed"),
        ("web2", "rolled_back"),
        ("web3", "in_doubt"),
        ("web4", "untouched"),
        ("web5", "untouched"),
    ]
    assert all(one.keys() == {"change", "playbook", "host", "outcome", "at"} for one in lines)
    assert lines[0]["change"] == "20261128-ab" and lines[0]["playbook"] == "site.yml"
    assert {one["type"] for one in receiver.got} == {"application/json"}
    assert all(one["body"].count(b"\n") == 1 and b"hunter2" not in one["body"] for one in receiver.got)


def test_nobody_who_wants_to_know_costs_nothing() -> None:
    notifier = Notifier("", "c", "site.yml")
    told = list[Progress]()
    assert notifier.listening(told.append) == told.append
    assert notifier.close() == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "file:///etc/passwd",
        "example.org/hook",
        "http://",
        "https://example.org:0x/",
        "http://[::1",
        "https://example.org/a b",
        "https://example.org/\r\nX: y",
        "https://me:SECRET@example.org/",
    ],
)
def test_another_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as error:
        check(url)
    assert "evenkeel_notify" in str(error.value) and "SECRET" not in str(error.value)


@pytest.mark.parametrize(("answer", "why"), [(500, "it answers 500"), (404, "it answers 404"), (302, "it answers 302")])
def test_a_receiver_that_refuses_is_a_note(answer: int, why: str, receiver: Receiver) -> None:
    receiver.answer = answer
    notifier = Notifier(receiver.url, "c", "site.yml")
    report = notifier.listening(lambda _fact: None)
    report(host(Phase.CONFIRMED, "web1", "web2"))
    place = receiver.url.removesuffix("/hook/SECRET")
    assert notifier.close() == [f"2 outcomes were not posted to {place}: {why}"]
    assert [one["path"] for one in receiver.got] == ["/hook/SECRET"] * 2, "a redirect was followed"


def test_a_receiver_that_is_not_there_is_a_note() -> None:
    notifier = Notifier("http://127.0.0.1:1/SECRET", "c", "site.yml")
    notifier.listening(lambda _fact: None)(host(Phase.CONFIRMED, "web1"))
    (said,) = notifier.close()
    assert "1 outcome was not posted to http://127.0.0.1:1: " in said and "refused" in said and "SECRET" not in said


def test_a_slow_receiver_delays_nothing(receiver: Receiver) -> None:
    receiver.pause = 30.0
    notifier = Notifier(receiver.url, "c", "site.yml", last=0.5)
    report = notifier.listening(lambda _fact: None)
    start = time.monotonic()
    report(host(Phase.CONFIRMED, *(f"web{number}" for number in range(50))))
    assert time.monotonic() - start < 0.3
    (said,) = notifier.close()
    assert time.monotonic() - start < 2.0 and "49 outcomes were not posted" in said


def test_an_error_that_nobody_thought_of_is_a_note() -> None:
    def broken(_url: str, _data: bytes) -> None:
        raise RuntimeError("https://example.org/SECRET is odd")

    notifier = Notifier("https://example.org/SECRET", "c", "site.yml", broken)
    notifier.listening(lambda _fact: None)(host(Phase.CONFIRMED, "web1"))
    assert notifier.close() == ["1 outcome was not posted to https://example.org: https://example.org is odd"]


def test_a_receiver_that_takes_no_more_lines_loses_them() -> None:
    hold = threading.Event()

    def post(_url: str, _data: bytes) -> None:
        hold.wait(10)

    notifier = Notifier("https://example.org/", "c", "site.yml", post, last=0.1, waiting=2)
    report = notifier.listening(lambda _fact: None)
    report(host(Phase.CONFIRMED, *(f"web{number}" for number in range(9))))
    assert notifier._lines.qsize() == 2 and "were not posted" in notifier.close()[0]
    hold.set()


def prepared(request: Request, variables: dict[str, dict[str, Any]]) -> flow.Change:
    hosts = tuple(variables)
    targets = Targets(hosts, hosts, (), Inventory(hosts, {}, variables))
    session: Any = None
    return flow._prepare(session, request, targets, Caller())


def test_the_url_comes_from_the_command_line_or_from_a_variable() -> None:
    own = {"evenkeel_resources": [{"files": {"paths": ["/etc/nginx"]}}], "evenkeel_probes": [{"tcp": {"port": 80}}]}
    assert prepared(Request("s", Options()), {"web1": own}).notifier._url == ""
    both = {one: {**own, "evenkeel_notify": "https://example.org/a"} for one in ("web1", "web2")}
    assert prepared(Request("s", Options()), both).notifier._url == "https://example.org/a"
    differ = {"web1": both["web1"], "web2": {**own, "evenkeel_notify": "https://example.org/SECRET"}}
    with pytest.raises(UsageError, match="differs") as error:
        prepared(Request("s", Options()), differ)
    assert "SECRET" not in str(error.value)
    said = Request("s", Options(), notify="https://example.org/b")
    assert prepared(said, both).notifier._url == "https://example.org/b"
    with pytest.raises(UsageError, match="takes a URL"):
        prepared(Request("s", Options(), notify="ftp://example.org/"), both)
