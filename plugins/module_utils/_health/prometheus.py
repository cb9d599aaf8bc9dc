# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask a server that speaks the HTTP API of Prometheus, and the probe that does so."""

from __future__ import annotations

import json
import math
import re
import time
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from .._errors import UsageError
from .._host.durations import seconds
from .._host.options import Options
from .._host.secret import secrets, text_without
from .._host.system import System
from .probe import CONTROLLER, FAIL, PASS, UNKNOWN, Measurement, Probe, split_url

if TYPE_CHECKING:
    from http.client import HTTPConnection

SERVER: Options = {
    "url": {"type": "str", "required": True},
    "query": {"type": "str", "required": True},
    "token": {"type": "str", "no_log": True},
    "headers": {"type": "dict", "no_log": True},
    "ca": {"type": "str"},
}
_PATH = "/api/v1/query"
# Bytes of an answer that are read, series of it, and characters of the words in it.
_BODY_LIMIT = 4 << 20
_MOST_SERIES = 10_000
_WORDS = 300
_MOST_SAMPLES = 100
_NAME = "[A-Za-z0-9-]{1,100}"
_VALUE = "[\\x20-\\x7e]{1,8000}"


class NoAnswer(Exception):
    """The server gave no answer that can be used: why, in words that hold no secret."""


class Series(NamedTuple):
    """A series of an answer: its labels, and its value, which may be no finite number."""

    labels: Mapping[str, str]
    value: float


class Server:
    """A server, and how it is asked. UsageError for a declaration that is wrong; its message holds no secret."""

    def __init__(self, declared: Mapping[str, Any]) -> None:
        self.url = _address(declared["url"])
        headers = {str(name): str(value) for name, value in (declared["headers"] or {}).items()}
        if declared["token"] is not None:
            headers["Authorization"] = f"Bearer {str(declared['token']).strip()}".strip()
        for name, value in headers.items():
            if not re.fullmatch(_NAME, name) or not re.fullmatch(_VALUE, value) or value == "Bearer":
                raise UsageError(
                    "token: it is empty, or holds a character that no header can hold"
                    if name == "Authorization"
                    else f"headers: {name[:100]!r} is empty, or holds a character that no header can hold"
                )
        self._headers = {"User-Agent": "evenkeel", "Accept": "application/json", **headers}
        self._ca = declared["ca"]
        self._secrets = secrets(SERVER, declared)

    def ask(self, query: str, timeout: float) -> list[Series]:
        """The series that the query gives now; a scalar counts as one series. Raises NoAnswer within ``timeout``.

        A redirection is not followed: it would carry the token to an address that nobody has declared.
        """
        from http.client import HTTPException  # as in probes.py

        end = time.monotonic() + timeout
        asked = urllib.parse.urlencode({"query": query, "timeout": f"{timeout:g}s"})
        connection = self._connection(timeout)
        try:
            connection.request("GET", f"{urllib.parse.urlsplit(self.url).path}?{asked}", headers=self._headers)
            answer = connection.getresponse()
            body = _read(answer, end)
        except (OSError, HTTPException, ValueError) as error:
            # A fault of http.client may show the header that it does not like.
            raise NoAnswer(
                f"no answer: {_cut(error if isinstance(error, OSError) else type(error).__name__)}"
            ) from None
        finally:
            connection.close()
        try:
            if answer.status != 200:
                raise NoAnswer(_refusal(answer.status, answer.reason, body))
            return _series(body)
        except NoAnswer as error:  # A server may quote what it was sent. A part of a secret is found no more.
            raise NoAnswer(_cut(text_without(str(error), self._secrets))) from None

    def _connection(self, timeout: float) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        url = urllib.parse.urlsplit(self.url)
        host = str(url.hostname)
        if url.scheme == "http":
            return HTTPConnection(host, url.port, timeout=timeout)
        import ssl  # A Python without it can still be asked over http.

        try:
            context = ssl.create_default_context(cafile=self._ca)
        except (OSError, ValueError) as error:
            raise NoAnswer(f"ca {self._ca}: {_cut(getattr(error, 'strerror', None) or error)}") from None
        return HTTPSConnection(host, url.port, timeout=timeout, context=context)


def _address(written: str) -> str:
    url = split_url(written, "token or headers")
    if url.query or url.fragment or re.search(r"[^!-~]", written):
        raise UsageError(
            "url is not the address of a server, as http://localhost:9090: it has a query, a fragment or a sign that no"
            " address has"
        )
    return written.rstrip("/") if url.path.rstrip("/").endswith(_PATH) else f"{written.rstrip('/')}{_PATH}"


def _read(stream: Any, end: float) -> bytes:
    """The whole body. Each read may take as long as the timeout, and a server can make many of them."""
    found = b""
    while chunk := stream.read1(1 << 16):
        found += chunk
        if len(found) > _BODY_LIMIT:
            raise NoAnswer(f"the answer is longer than {_BODY_LIMIT >> 20} MiB")
        if time.monotonic() > end:
            raise NoAnswer("the answer did not end in time")
    return found


def _refusal(status: int, reason: str, body: bytes) -> str:
    if 300 <= status < 400:
        return f"status {status}: it leads elsewhere, where nothing is asked; write the address of the server itself"
    try:
        said = json.loads(body)["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        said = reason
    return f"status {status}: {said}"


def _series(body: bytes) -> list[Series]:
    """The series of an answer, in the form that Prometheus promises. Raises NoAnswer for another."""
    try:
        answer = json.loads(body)
        if answer["status"] != "success":
            raise NoAnswer(f"the query failed: {answer.get('error')}")
        if answer.get("warnings"):
            raise NoAnswer(f"the answer may lack something: {answer['warnings'][0]}")
        kind, result = answer["data"]["resultType"], answer["data"]["result"]
        if kind == "scalar":
            return [Series({}, float(result[1]))]
        if kind != "vector":
            raise NoAnswer(f"the query gives a {kind}, where one value for each series is needed")
        if len(result) > _MOST_SERIES:
            raise NoAnswer(f"the query gives more than {_MOST_SERIES} series")
        return [Series({str(k): str(v) for k, v in one["metric"].items()}, _value(one)) for one in result]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise NoAnswer("the answer does not come from Prometheus: is the url that of the server?") from None


def _value(sample: Mapping[str, Any]) -> float:
    # A series of native histograms has no value.
    return float(sample["value"][1]) if "value" in sample else math.nan


def _cut(words: Any) -> str:
    text = " ".join(str(words).split())
    return text if len(text) <= _WORDS else text[: _WORDS - 1] + "…"


class PrometheusProbe(Probe):
    """A query to Prometheus gives a single value, which lies within limits."""

    kind = "prometheus"
    SOURCES = (CONTROLLER,)
    OPTIONS = {
        **SERVER,
        "min": {"type": "float"},
        "max": {"type": "float"},
        "samples": {"type": "int", "default": 1},
        "passing": {"type": "int", "no_log": False},
        "every": {"type": "str", "default": "1s"},
    }

    def prepare(self, declared: Mapping[str, Any]) -> str:
        self._server, self._query = Server(declared), str(declared["query"])
        self._min, self._max = declared["min"], declared["max"]
        if self._min is None and self._max is None:
            raise UsageError("give min, max or both: the limits of the value that passes")
        if None not in (self._min, self._max) and self._min > self._max:
            raise UsageError(f"min {self._min:g} is more than max {self._max:g}: no value would pass")
        self._samples: int = declared["samples"]
        self._passing: int = self._samples if declared["passing"] is None else declared["passing"]
        if not 0 < self._passing <= self._samples <= _MOST_SAMPLES:
            raise UsageError(
                f"passing {self._passing} of samples {self._samples}: write numbers from 1 to {_MOST_SAMPLES},"
                " passing not the larger one"
            )
        self._every = seconds(declared["every"], "every")
        self._each = self.timeout
        self.timeout = self._samples * self._each + (self._samples - 1) * self._every
        return self._query

    def measure(self, system: System) -> Measurement:
        states, said = [], ""
        for number in range(self._samples):
            if number:
                system.sleep(self._every)
            found = self._sample()
            states.append(found.state)
            if not said or found.state != PASS:
                said = found.detail
        passed, failed = states.count(PASS), states.count(FAIL)
        detail = said if self._samples == 1 else f"{passed} of {self._samples} samples pass; {said}"
        if passed >= self._passing:
            return Measurement(PASS, detail)
        return Measurement(FAIL if self._samples - failed < self._passing else UNKNOWN, detail)

    def _sample(self) -> Measurement:
        try:
            series = self._server.ask(self._query, self._each)
        except NoAnswer as error:
            return Measurement(UNKNOWN, str(error))
        if len(series) != 1:
            wanted = (
                "no data" if not series else f"{len(series)} series instead of a single one: sum them, or choose one"
            )
            return Measurement(UNKNOWN, f"the query gives {wanted}")
        value = series[0].value
        if not math.isfinite(value):
            return Measurement(UNKNOWN, f"the value is {value}, which is no number")
        if self._min is not None and value < self._min:
            return Measurement(FAIL, f"the value {value:g} is less than {self._min:g}")
        if self._max is not None and value > self._max:
            return Measurement(FAIL, f"the value {value:g} is more than {self._max:g}")
        return Measurement(PASS, f"the value is {value:g}")
