# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Queries to a server that answers as Prometheus does: one value within limits, and everything else."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health import probes
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.probe import CONTROLLER, ProbeResult
from fake_prometheus import Fake, serving, vector

from .conftest import SYSTEM

SECRET = "tok-8841-secret"


@pytest.fixture
def server() -> Iterator[Fake]:
    with serving() as fake:
        yield fake


def look(kind: str, fake: Fake, **options: Any) -> ProbeResult:
    declared = {kind: {"url": fake.url, "query": "q", "timeout": "2s", **options}}
    (result,) = probes.measure(probes.check([declared]), SYSTEM, CONTROLLER)
    return result


@pytest.mark.parametrize(
    ("value", "limits", "state"),
    [
        (1, {"min": 1}, "pass"),
        (0.99, {"min": 1}, "fail"),
        (2, {"max": 2}, "pass"),
        (2.01, {"max": 2}, "fail"),
        (0, {"max": 0}, "pass"),
        (-1, {"min": -2, "max": "0.5"}, "pass"),
        ("NaN", {"min": 0}, "unknown"),
        ("+Inf", {"min": 0}, "unknown"),
        ("-Inf", {"max": 0}, "unknown"),
        ("12,5", {"max": 20}, "unknown"),
    ],
)
def test_one_value_is_judged_by_its_limits(server: Fake, value: Any, limits: dict[str, Any], state: str) -> None:
    server.answer = lambda query: vector(value)
    found = look("prometheus", server, **limits)
    assert (found.state, found.source, found.target) == (state, "controller", "q"), found.detail
    assert server.asked == ["q"]


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (vector(), "no data"),
        (vector(1, 2), "2 series instead of a single one"),
        ({"status": "success", "data": {"resultType": "scalar", "result": [1, "5"]}}, ""),
        ({"status": "success", "data": {"resultType": "string", "result": [1, "5"]}}, "gives a string"),
        ({"status": "success", "data": {"resultType": "matrix", "result": []}}, "gives a matrix"),
        ({"status": "success", "warnings": ["store web2 is down"], **vector(1)}, "may lack something: store web2"),
        ({"status": "error", "error": "parse error"}, "the query failed: parse error"),
        ((400, json.dumps({"status": "error", "error": "1:3: parse\nerror"})), "status 400: 1:3: parse error"),
        ((401, "who are you"), "status 401: Unauthorized"),
        ((503, json.dumps(["x"])), "status 503: Service Unavailable"),
        ((200, "<html>log in</html>"), "does not come from Prometheus"),
        ((200, "[]"), "does not come from Prometheus"),
        ((200, "[" * 100_000), "does not come from Prometheus"),
        (
            (
                200,
                '{"status": "success", "data": {"resultType": "vector", "result": [{"metric": 5, "value": [1, "1"]}]}}',
            ),
            "does not come from Prometheus",
        ),
        (
            (
                200,
                '{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "histogram": []}]}}',
            ),
            "which is no number",
        ),
        ((302, "file:///etc/passwd"), "status 302: it leads elsewhere"),
        ((200, " " * (5 << 20)), "longer than 4 MiB"),
    ],
)
def test_all_that_is_no_value_is_unknown_and_says_why(server: Fake, answer: Any, detail: str) -> None:
    server.answer = lambda query: answer
    found = look("prometheus", server, min=1)
    assert (found.state, detail in found.detail) == ("unknown" if detail else "pass", True), found.detail
    assert len(found.detail) < 500 and "\n" not in found.detail


def test_a_server_that_is_not_there_or_never_ends_is_unknown(server: Fake) -> None:
    over = threading.Event()
    server.answer = lambda query: over.wait(30)
    began = time.monotonic()
    found = look("prometheus", server, min=1, timeout="1s")
    over.set()
    assert found.state == "unknown" and time.monotonic() - began < 4
    server.url = "http://127.0.0.1:1"
    assert "Connection refused" in look("prometheus", server, min=1).detail
    server.url = "http://no-such-host.invalid"
    assert look("prometheus", server, min=1).state == "unknown"


def test_a_redirection_carries_no_token_anywhere(server: Fake) -> None:
    with serving() as other:
        server.answer = lambda query: (302, f"{other.url}/api/v1/query?query=q")
        assert look("prometheus", server, min=1, token=SECRET).state == "unknown"
        assert other.asked == []


@pytest.mark.parametrize(
    ("values", "passing", "state", "said"),
    [
        ([1, 1, 0, 1, 0], 3, "pass", "3 of 5 samples pass; the value 0 is less than 1"),
        ([1, 0, 0, 1, 0], 3, "fail", "2 of 5"),
        ([1, 1, None, None, 0], 3, "unknown", "2 of 5"),
        ([1, 1, None, None, 1], 3, "pass", "3 of 5"),
        ([None, None, None, None, None], 1, "unknown", "0 of 5"),
        ([1, 1, 1, 1, 0], None, "fail", "4 of 5"),
    ],
)
def test_of_several_samples_so_many_must_pass(
    server: Fake, values: list[int | None], passing: int | None, state: str, said: str
) -> None:
    left = list(values)

    def answer(query: str) -> Any:
        value = left.pop(0)
        return vector() if value is None else vector(value)

    server.answer = answer
    found = look("prometheus", server, min=1, samples=5, passing=passing, every="0.01s")
    assert found.state == state and said in found.detail and not left


def test_secrets_go_to_the_server_and_nowhere_else(server: Fake) -> None:
    found = look("prometheus", server, min=1, token=f"{SECRET}\n", headers={"X-Scope-OrgID": 7})
    assert server.headers["authorization"] == f"Bearer {SECRET}" and server.headers["x-scope-orgid"] == "7"
    assert found.state == "pass" and SECRET not in repr(found)
    server.answer = lambda query: (401, f'{{"error": "no such token: {SECRET}"}}')
    quoted = repr(look("prometheus", server, min=1, token=SECRET))
    assert "no such token: ********" in quoted and SECRET not in quoted
    for before in range(260, 310):  # where its words are cut
        refusal = json.dumps({"error": "x" * before + SECRET})
        server.answer = lambda query: (401, refusal)  # noqa: B023  # It is asked at once.
        quoted = look("prometheus", server, min=1, token=SECRET).detail
        assert SECRET[:4] not in quoted, "no part of it either"


GOOD = {"url": "http://p:9090", "query": "up", "min": 1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "ftp://p"}, "url 'ftp://p' is not an http or https address"),
        ({"url": "file:///etc/passwd"}, "is not an http or https address"),
        ({"url": "http://p/?token=x"}, "it has a query"),
        ({"url": "http://p:x"}, "url 'http://p:x': Port could not"),
        ({"url": f"http://me:{SECRET}@p"}, "url holds a user or a password"),
        ({"min": None}, "give min, max or both"),
        ({"min": 3, "max": 2}, "min 3 is more than max 2"),
        ({"min": "much"}, "min must be a number, not 'much'"),
        ({"min": "nan"}, "min must be a number, not 'nan'"),
        ({"samples": 0}, "passing 0 of samples 0"),
        ({"samples": 2, "passing": 3}, "passing 3 of samples 2"),
        ({"samples": 1000}, "numbers from 1 to 100"),
        ({"token": ""}, "token: it is empty"),
        ({"token": " \n"}, "token: it is empty"),
        ({"token": f"{SECRET}\r\nX: 1"}, "token: it is empty, or holds"),
        ({"token": [SECRET]}, "token must be a text, not something else"),
        ({"headers": {"X": f"{SECRET}\n"}}, "headers: 'X' is empty, or holds"),
        ({"headers": {f"X: {'y' * 300}": "1"}}, "headers: 'X: y"),
        ({"tokn": SECRET}, "unknown key 'tokn'"),
    ],
)
def test_a_bad_declaration_is_named_without_its_secrets(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match="item 1: prometheus") as error:
        probes.check([{"prometheus": {**GOOD, **options}}])
    assert words in error.value.message and SECRET not in error.value.message


def test_a_slip_of_the_indentation_shows_no_secret() -> None:
    with pytest.raises(UsageError) as error:
        probes.check([{"prometheus": None, "url": "http://p", "token": SECRET}])
    assert SECRET not in error.value.message and "prometheus, url, token" in error.value.message


def test_a_probe_of_another_place_is_not_measured_here(server: Fake) -> None:
    declared = [{"prometheus": {**GOOD, "url": server.url}}, {"tcp": {"port": 1, "from": "peer"}}]
    found = probes.measure(probes.check(declared), SYSTEM)
    assert [one.state for one in found] == ["unknown", "unknown"] and server.asked == []
    assert found[0].detail == "it is to be measured from the controller, and was not"


@pytest.mark.parametrize(
    ("limits", "mine", "others", "state"),
    [
        ({"max_ratio": 2}, 10, [4, 5, 6], "pass"),
        ({"max_ratio": 2}, 10.1, [4, 5, 6], "fail"),
        ({"max_ratio": 2}, 10.1, [5, 5, 900], "fail"),
        ({"max_ratio": 0.5}, 4, [5, 5, 5], "pass"),
        ({"max_difference": 1}, 6, [5], "pass"),
        ({"max_difference": 1}, 6.5, [5], "fail"),
        ({"max_ratio": 2}, 0.001, [0, 0, 0], "fail"),
        ({"max_ratio": 2}, 0, [0, 0, 0], "pass"),
        ({"max_ratio": 2, "max_difference": 0.01}, 0.001, [0, 0, 0], "pass"),
        ({"max_ratio": 2, "max_difference": 0.01}, 0.02, [0, 0, 0], "fail"),
        ({"max_ratio": 1.5, "max_difference": 0.01}, 0.52, [0.5], "pass"),
        ({"max_ratio": 2}, "NaN", [1, 1], "unknown"),
        ({"max_ratio": 2, "min_samples": 3}, 1, [1, 1, "NaN"], "unknown"),
        ({"max_ratio": 2, "min_samples": 2}, 1, [1, 1, "NaN"], "pass"),
        ({"max_ratio": 2}, 1, [], "unknown"),
    ],
)
def test_a_changed_host_is_judged_by_the_unchanged_ones(
    server: Fake, limits: dict[str, Any], mine: Any, others: list[Any], state: str
) -> None:
    names = [f"web{number}" for number in range(2, 2 + len(others))]
    server.answer = lambda query: vector(web1=mine, stranger=0, **dict(zip(names, others, strict=True)))
    found = look("compare", server, host=["web1"], unchanged=["web2", "web3", "web4"], **limits)
    assert found.state == state, found.detail


@pytest.mark.parametrize(
    ("series", "state"),
    [
        (["WEB1:9100", "10.0.0.2:9100"], "pass"),
        (["[fe80::1]:9100", "10.0.0.2"], "pass"),
        (["web1", "10.0.0.2", "10.0.0.20"], "pass"),
        (["web10", "10.0.0.2"], "unknown"),
        (["web1.example.org", "10.0.0.2"], "unknown"),
        (["web1:9100", "web1:9113", "10.0.0.2"], "unknown"),
    ],
)
def test_hosts_are_known_by_name_or_address_with_or_without_a_port(server: Fake, series: list[str], state: str) -> None:
    server.answer = lambda query: vector(**dict.fromkeys(series, 1))
    found = look("compare", server, host=["web1", "fe80::1"], unchanged=["web2", "10.0.0.2"], max_ratio=2)
    assert found.state == state, found.detail


def test_two_series_of_one_host_are_no_answer(server: Fake) -> None:
    server.answer = lambda query: {
        **vector(),
        "data": {
            "resultType": "vector",
            "result": [{"metric": {"instance": "web1", "code": code}, "value": [1, "1"]} for code in ("200", "500")],
        },
    }
    found = look("compare", server, host=["web1"], unchanged=["web2"], max_ratio=2)
    assert found.state == "unknown" and "several series for web1: sum them by instance" in found.detail
    server.answer = lambda query: (500, "")
    assert look("compare", server, host=["web1"], unchanged=["web2"], max_ratio=2).state == "unknown"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give max_ratio, max_difference or both"),
        ({"max_ratio": 0}, "max_ratio must be more than 0"),
        ({"max_difference": -1}, "max_difference not less than 0"),
        ({"max_ratio": 2, "min_samples": 0}, "min_samples must be 1 or more"),
    ],
)
def test_a_comparison_without_a_limit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        probes.check([{"compare": {"url": "http://p", "query": "q", **options}}])
