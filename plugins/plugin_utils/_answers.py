# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the answers of hosts that do one part of the work: each key in its form and bounded, or the host has failed.

Somebody may have taken over a peer. Every part of its answer is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.foreign import moment_of
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import check_name
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer

# Checkpoints that one host can have or hold.
_MOST = 100_000
_WORDS = 300
# Sentences that a person reads.
_SHOWN = 50
# The word of the key ``error`` of a host that has another name as well.
_TWIN = "Twin"
_ID = re.compile("[0-9a-f]{64}")
_HOST = re.compile("[!-~]{1,255}")
# Such a path stands in the commands for sftp, line by line.
_PATH = re.compile(r"/[A-Za-z0-9_./~+@:-]{1,4000}")
# Parts of a connection from host to host: a key, an address, a user, a key of a host.
_PUBLIC = re.compile("ssh-ed25519 [A-Za-z0-9+/=]{40,200}")
_ADDRESS = re.compile("[0-9A-Fa-f.:]{2,45}")
_USER = re.compile(r"[^\s@-][^\s@]{0,100}")
_HOST_KEY = re.compile(r"[a-z0-9@.-]{3,60} [A-Za-z0-9+/=]{40,2000}")

Form = Callable[[Any], Any]


def words(value: Any, most: int = _WORDS) -> str:
    """The words of a host, as one line of text that can be shown."""
    text = value if isinstance(value, str) else repr(value)
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:most])
    return shown + ("…" if len(text) > most else "")


def warning_texts(told: object) -> list[str]:
    """The texts of the warnings in a result. Ansible wraps those of a module into objects."""
    found = (
        [getattr(getattr(one, "event", None), "msg", one) for one in told] if isinstance(told, (list, tuple)) else []
    )
    return [one for one in found if isinstance(one, str) and one]


def _text(pattern: re.Pattern[str]) -> Form:
    def form(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError
        return value

    return form


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise ValueError
    return value


def _one_of(*known: str) -> Form:
    return _text(re.compile("|".join(known)))


def _all(form: Form, most: int = _MOST) -> Form:
    def many(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise ValueError
        return [form(one) for one in value]

    return many


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return check_name(value)


def _created(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    moment_of(value)
    return value


def _or_nothing(form: Form) -> Form:
    return lambda value: "" if value in ("", None) else form(value)


def _copy(value: Any) -> Answer:
    if not isinstance(value, dict):
        raise ValueError
    found = _read(_COPY, value)
    if (
        found["state"] == "verified"
        and not found["sealed"]
        and not (found["name"] and found["created"] and found["host"])
    ):
        raise ValueError
    return found


def _mapping(forms: Mapping[str, Form]) -> Form:
    def mapping(value: Any) -> Answer:
        if not isinstance(value, dict):
            raise ValueError
        return _read(forms, value)

    return mapping


_SEALED: dict[str, Form] = {
    "sha256": _text(_ID),
    "base": _or_nothing(_text(_ID)),
    "size": _number,
    "nonce": _text(_ID),
    "tag": _text(_ID),
    "key": _text(re.compile("[0-9a-f]{16}")),
    "card": _text(re.compile("[A-Za-z0-9_=-]{1,4000}")),
}
_COPY: dict[str, Form] = {
    "id": _text(_ID),
    "host": _or_nothing(_text(_HOST)),
    "name": _or_nothing(_name),
    "created": _or_nothing(_created),
    "mac": _or_nothing(_text(_ID)),
    "state": _one_of("verified", "damaged"),
    "detail": words,
    "release": lambda value: words(value or "", 100),
    "architecture": lambda value: words(value or "", 100),
    "bytes": lambda value: _number(value or 0),
    "sealed": _or_nothing(_mapping(_SEALED)),
}


def _hop(value: Any) -> Answer:
    if not isinstance(value, dict):
        raise ValueError
    return _read({"path": _text(_PATH), "public": _text(_PUBLIC), "source": _or_nothing(_text(_ADDRESS))}, value)


def _examined(value: Any) -> Answer:
    if not isinstance(value, dict):
        raise ValueError
    found = _read(_HELD, value)
    if found["state"] == "proved" and not (found["proof"] and found["name"] and found["created"] and found["host"]):
        raise ValueError
    return found


_HELD: dict[str, Form] = {**_COPY, "state": _one_of("proved", "damaged", "unread"), "proof": _or_nothing(_text(_ID))}
_POSSESSED: dict[str, Form] = {
    **_COPY,
    "state": _one_of("verified", "damaged", "unread"),
    "sealed": _mapping({**_SEALED, "proof": _or_nothing(_text(_ID))}),
}
# By phase: the keys of the answer that are read. All others are left where they are.
_ANSWERS: dict[str, dict[str, Form]] = {
    "offer": {
        "id": _text(_ID),
        "host": _text(_HOST),
        "name": _name,
        "created": _created,
        "held": _all(_text(_ID)),
        "lacking": _all(words, 100),
        "has_log": lambda value: value is True,
        "place": _or_nothing(_text(_ID)),
        "age": _or_nothing(_number),
        "encrypted": lambda value: value is True,
    },
    "noted": {},
    "have": {
        "ids": _all(_text(_ID)),
        "macs": _or_nothing(_number),
        "id": _or_nothing(_text(_ID)),
        "state": _or_nothing(_one_of("verified", "damaged")),
        "mac": _or_nothing(_text(_ID)),
        "sealed": _or_nothing(_number),
        "plain": _or_nothing(_number),
        "bases": _or_nothing(
            _all(_mapping({"id": _text(_ID), "sha256": _text(_ID), "bytes": _number, "length": _number}))
        ),
        "place": _or_nothing(_text(_ID)),
    },
    "export": {"path": _text(_PATH), "bytes": _number, "left": _or_nothing(_all(words, 100))},
    "discard": {},
    "land": {"path": _text(_PATH), "room": _number},
    "receive": {"state": _one_of("verified"), "bytes": _number, "left": _or_nothing(_all(words, 100))},
    "prepare": {"hops": _all(_hop, 1000), "sizes": _all(_number, 1000)},
    "open": {
        "path": _text(_PATH),
        "user": _text(_USER),
        "room": _number,
        "host_keys": _all(_text(_HOST_KEY), 20),
    },
    "send": {"bytes": _number},
    "take": {
        "state": _one_of("verified"),
        "bytes": _number,
        "onward": words,
        "left": _or_nothing(_all(words, 100)),
    },
    "close": {},
    "adopt": {"state": _one_of("verified"), "bytes": _number},
    "candidates": {"candidates": _all(_copy, _MOST // 5), "place": _or_nothing(_text(_ID))},
    "prove": {
        "held": _all(_examined, _MOST // 5),
        "latest": _or_nothing(_text(_ID)),
        "before": _number,
        "sealed": _or_nothing(_number),
        "place": _or_nothing(_text(_ID)),
        "planned": _all(words, 1000),
        "left": _all(words, 1000),
    },
    "possess": {
        "candidates": _all(_mapping(_POSSESSED), _MOST // 5),
        "place": _or_nothing(_text(_ID)),
        "planned": _all(words, 1000),
        "left": _all(words, 1000),
    },
    "owners": {"hosts": _all(_text(_HOST), _MOST // 5)},
    "mark": {},
    "forget": {"planned": _all(words, 10), "done": _all(words, 10)},
    "survey": {
        "obstacle": words,
        "waits": words,
        "room": _number,
        "release": words,
        "architecture": words,
        "host": words,
        "held": lambda value: value is True,
        "stands_for": words,
        "taken": lambda value: value is True,
        "place": _or_nothing(_text(_ID)),
    },
    "derive": {
        "id": _or_nothing(_text(_ID)),
        "left_out": _all(words),
        "notes": _all(lambda one: words(one, 2000), 1000),
    },
}


def read(phase: str, answer: Answer) -> Answer:
    """The answer of a host to a phase; or that it has ``failed``, with ``msg`` and ``error``."""
    if answer.get("failed"):
        return failed(words(answer.get("msg") or "it gives no reason"), words(answer.get("error") or "", 40))
    try:
        return _read(_ANSWERS[phase], answer)
    except ValueError as error:
        return failed(f"its answer has no form of ours: {words(error.args[0])}", "Damaged")


def failed(why: str, error: str = "EvenkeelError") -> Answer:
    return {"failed": True, "msg": why, "error": error}


def first_names(told: Mapping[str, Answer]) -> dict[str, str]:
    """Each name, with the first name whose answer tells of the same store. A host that is asked under two names would
    count as two."""
    places: dict[str, str] = {}
    return {
        name: places.setdefault(str(answer["place"]), name) if answer.get("place") else name
        for name, answer in told.items()
    }


def without_twins(told: Mapping[str, Answer]) -> dict[str, Answer]:
    """The answers, each store once: its first name counts, and the others have failed."""
    found = dict(told)
    for name, other in first_names(told).items():
        if other != name:
            found[name] = failed(f"it is {other} under another name, by its store", _TWIN)
    return found


def silence(answer: Answer) -> str:
    """Why a host has no answer, in words."""
    if answer.get("unreachable"):
        return "cannot be reached"
    return "does not count" if is_twin(answer) else "did not answer as it should"


def is_twin(answer: Answer) -> bool:
    """Whether the host counts under another name."""
    return answer.get("error") == _TWIN


def _read(forms: Mapping[str, Form], answer: Answer) -> Answer:
    found = {}
    for key, form in forms.items():
        try:
            found[key] = form(answer.get(key))
        except (ValueError, OverflowError, EvenkeelError) as error:
            inner = (
                error.args[0]
                if isinstance(error, ValueError) and not isinstance(error, UnicodeError) and error.args
                else f"{key}: {words(answer.get(key), 100)}"
            )
            raise ValueError(inner) from None
    return found


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1 << 63:
        raise ValueError
    return float(value)


def _observation(value: Any) -> Answer:
    if not isinstance(value, dict):
        raise ValueError
    state = _one_of("pass", "fail", "unknown")
    return _read({"source": words, "state": state, "detail": lambda text: words(text, 2000)}, value)


# An answer about an operation (``_flows.operations``).
_OPERATED: dict[str, Form] = {
    "answer": _one_of("begun", "verified", "not_verified", "running", "unshown", "in_doubt", "restore", "refused"),
    "why": lambda text: words(text, 2000),
    "after": _time,
    "verification": _one_of("pass", "fail", "unknown"),
    "observations": _all(_observation, 1000),
    "open": _yes_or_no,
    "attempts": _number,
    "token": _or_nothing(_text(re.compile("[0-9a-f]{32}"))),
    "checkpoint": _or_nothing(_text(_ID)),
    "at": _time,
    "result": _or_nothing(_text(re.compile(r"\{.*\}", re.DOTALL))),
}


def operated(answer: Answer) -> Answer:
    """The answer of a host about an operation; or that it is ``unreachable`` or has ``failed``, with ``msg``."""
    if answer.get("unreachable"):
        return {"unreachable": True, "msg": words(str(answer.get("msg") or ""))}
    if answer.get("failed"):
        return failed(words(answer.get("msg") or "it says nothing of why", 2000), words(answer.get("error") or "", 40))
    try:
        return _read(_OPERATED, answer)
    except ValueError as error:
        return failed(f"it answers what no host of ours does: {words(error.args[0])}", "BadAnswer")


def few(said: list[str]) -> list[str]:
    """The first sentences, as many as a person reads: a peer can make up any number."""
    return said if len(said) <= _SHOWN else [*said[:_SHOWN], f"and {len(said) - _SHOWN} more"]
