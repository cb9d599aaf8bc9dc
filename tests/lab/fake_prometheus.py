# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that answers as Prometheus does, with what a test says."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def vector(*values: float | str, **instances: float | str) -> dict[str, Any]:
    """An answer with these values, those of instances by their names."""
    series: list[dict[str, Any]] = [{"metric": {}, "value": [1.5, str(one)]} for one in values]
    series += [{"metric": {"instance": name}, "value": [1.5, str(one)]} for name, one in instances.items()]
    return {"status": "success", "data": {"resultType": "vector", "result": series}}


class Fake:
    """answer: from the query, a document, or a status and a text. asked: the queries; headers: those of the last."""

    def __init__(self) -> None:
        self.answer: Callable[[str], Any] = lambda query: vector(1)
        self.asked: list[str] = []
        self.headers: dict[str, str] = {}
        self.url = ""


@contextmanager
def serving() -> Iterator[Fake]:
    """A server on an address of this machine."""
    fake = Fake()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            query = urllib.parse.parse_qs(url.query).get("query", [""])[0]
            fake.asked.append(query)
            fake.headers = {name.lower(): value for name, value in self.headers.items()}
            said = fake.answer(query)
            status, text = said if isinstance(said, tuple) else (200, json.dumps(said))
            self.send_response(status if url.path.endswith("/api/v1/query") else 404)
            if 300 <= status < 400:
                self.send_header("Location", text)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield fake
    server.shutdown()
    server.server_close()
