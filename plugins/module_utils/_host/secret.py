# SPDX-License-Identifier: GPL-3.0-or-later

"""The secrets among the arguments of a call, and values without them, as Ansible masks them in results of modules.

``remove_values`` of Ansible is not on a host that answers without Ansible's code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from .options import Options, Params
from .text import sentence

# The words of Ansible for a value that is a secret, and for a part of a text.
WHOLE = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"
_PART = "*" * 8


def secrets(options: Options, params: Params) -> list[str]:
    """The values that are not for any log, at every depth, longest first. Each is also there without the blanks
    around it, as Python quotes it and as a line for a person shows it. Blanks alone are no secret: they would take all
    words of a result apart."""
    found = {text for text in _secrets(options, params) if text.strip()}
    forms = {form for text in found for form in (text, text.strip(), repr(text)[1:-1], sentence(text))}
    return sorted(forms, key=lambda form: (-len(form), form))


def without(value: object, secrets: Sequence[str]) -> object:
    """The value, with the words of Ansible in place of the secrets in its texts and numbers. Keys of mappings stay."""
    if not secrets or value is None or isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        return {key: without(inner, secrets) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without(inner, secrets) for inner in value]
    if isinstance(value, (int, float)):
        return WHOLE if any(secret in str(value) for secret in secrets) else value
    return text_without(value, secrets) if isinstance(value, str) else value


def text_without(text: str, secrets: Sequence[str]) -> str:
    """The text, with the words of Ansible in place of the secrets."""
    if text in secrets:
        return WHOLE
    for secret in secrets:
        text = text.replace(secret, _PART)
    return text


def traceback_without(error: BaseException, secrets: Sequence[str]) -> str:
    """The traceback of an error, without the secrets in its message."""
    import traceback  # Nearly no call needs it.

    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return text_without("".join(lines).rstrip(), secrets)


def _secrets(options: Options, params: Params) -> Iterator[str]:
    for key, option in options.items():
        value = params.get(key)
        if option.get("no_log"):
            yield from _texts(value or None)  # To Ansible, a zero is a secret in a list alone.
        elif option.get("options"):
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, Mapping):
                    yield from _secrets(option["options"], inner)


def _texts(value: object) -> Iterator[str]:
    """All texts and numbers in a value; an empty text and a yes or no is none."""
    if isinstance(value, str):
        yield from [value] if value else []
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, Iterable):
        for inner in value:
            yield from _texts(inner)
    elif value is not None and not isinstance(value, bool):
        yield str(value)
