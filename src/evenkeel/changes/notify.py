# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Outcomes of hosts, posted as JSON to a URL. A thread posts them, so that no change waits for it or fails by it."""

from __future__ import annotations

import json
import queue
import threading
import time
import urllib.error
import urllib.parse
from collections.abc import Callable
from typing import Any

from evenkeel.outcome import UsageError
from evenkeel.progress import Kind, Phase, Progress, Report

# The phases in which a host has reached an outcome; held is a provisional outcome.
_OUTCOMES = (Phase.HELD, Phase.CONFIRMED, Phase.ROLLED_BACK, Phase.UNTOUCHED, Phase.IN_DOUBT)
# Seconds for a post, and for the remaining posts at the end of the change.
_PATIENCE, _LAST = 5.0, 5.0
# The number of lines that may wait for a slow receiver.
_WAITING = 10_000

Post = Callable[[str, bytes], None]


def _post(url: str, data: bytes) -> None:
    """Post one line. Raises OSError or ValueError."""
    from urllib import request  # Most changes notify nobody.

    class NoRedirect(request.HTTPRedirectHandler):
        """Refuses redirects: a redirect could lead anywhere, and turns a POST into a GET."""

        def redirect_request(self, *_words: Any) -> None:
            return None

    asked = request.Request(url, data, {"Content-Type": "application/json"}, method="POST")
    request.build_opener(NoRedirect()).open(asked, timeout=_PATIENCE).close()


def check(url: str) -> str:
    """The URL, if lines can be posted to it; UsageError otherwise, without the URL, which may hold a secret."""
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError("--notify (evenkeel_notify) takes a URL, as in https://example.org/hook")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "--notify (evenkeel_notify): a name and a password in the URL are not sent; use a URL with a token"
        )
    return url


class Notifier:
    """Posts a line for each outcome of a host of the ``change``. url: empty where nothing is to be posted.

    last: seconds for the remaining posts at the end of the change. waiting: the number of lines that may wait for a
    slow receiver.
    """

    def __init__(
        self, url: str, change: str, playbook: str, post: Post = _post, last: float = _LAST, waiting: int = _WAITING
    ) -> None:
        self._url = check(url) if url else ""
        self._about = {"change": change, "playbook": playbook}
        self._post = post
        self._lines: queue.Queue[bytes | None] = queue.Queue(waiting)
        self._rest = last
        self._last: dict[str, Phase] = {}
        self._unsent = 0
        self._why = ""
        self._thread: threading.Thread | None = None

    def listening(self, report: Report) -> Report:
        """A report that posts outcomes, and passes everything on."""
        if not self._url:
            return report

        def heard(progress: Progress) -> None:
            report(progress)
            if progress.kind is Kind.HOST and progress.phase in _OUTCOMES:
                for host in progress.hosts:
                    self._say(host, progress.phase)

        return heard

    def close(self) -> list[str]:
        """Wait a moment for lines that are not posted yet. Returns sentences on the lines that were lost."""
        if self._thread is None:
            return []
        try:
            self._lines.put_nowait(None)
            self._thread.join(self._rest)
        except queue.Full:
            pass
        left = self._unsent + sum(line is not None for line in list(self._lines.queue))
        if not left and not self._thread.is_alive():
            return []
        why = self._why or "it does not answer in time"
        number = "1 outcome was" if left <= 1 else f"{left} outcomes were"
        return [f"{number} not posted to {self._place()}: {why}"]

    def _say(self, host: str, phase: Phase) -> None:
        if self._last.get(host) is phase:
            return
        self._last[host] = phase
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="evenkeel-notify", daemon=True)
            self._thread.start()
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {**self._about, "host": host, "outcome": phase.replace(" ", "_"), "at": at}
        try:
            self._lines.put_nowait(json.dumps(line).encode() + b"\n")
        except queue.Full:
            self._unsent += 1

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._post(self._url, line)
            except urllib.error.HTTPError as error:
                self._fail(f"it answers {error.code}")
                error.close()
            except Exception as error:  # no error of a post has an effect on the change
                reason = getattr(error, "reason", error)
                self._fail(str(reason).replace(self._url, self._place()) or type(error).__name__)

    def _fail(self, why: str) -> None:
        self._unsent += 1
        self._why = why

    def _place(self) -> str:
        """The URL without the parts that may be secret."""
        parts = urllib.parse.urlsplit(self._url)
        return f"{parts.scheme}://{parts.netloc}"
