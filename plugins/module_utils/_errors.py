# SPDX-License-Identifier: GPL-3.0-or-later

"""The errors of the library. The code of each stands in the result of a failed task, and exit codes follow from it."""

from __future__ import annotations

import re
from typing import Any, ClassVar

_NOTHING = re.compile(r"(?:[;.] )?\bnothing was (?:changed|touched)\b", re.IGNORECASE)


class EvenkeelError(Exception):
    """A failure: its message says what happened, where, and what to do next.

    ``result`` holds the keys that a success would have returned, so that a failed task reports the same keys.
    ``code`` is the key ``error`` of that report, and does not change with the name of the class.
    """

    code: ClassVar[str] = "EvenkeelError"

    def __init__(self, message: str, **result: Any) -> None:
        super().__init__(message)
        self.message = message
        self.result = result

    @property
    def cause(self) -> str:
        """The message without "nothing was changed", which need not be true where this is one failure among others."""
        return _NOTHING.sub("", self.message)


class UsageError(EvenkeelError):
    """Bad input: a parameter, a file of the user's, a name that does not exist. Nothing was touched."""

    code = "UsageError"


class Refused(EvenkeelError):
    """The request is understood and not allowed now: fenced, armed by another run, guarded. Nothing was touched."""

    code = "Refused"


class Busy(Refused):
    """The lock of this store is held by another operation."""

    code = "Busy"


class NotFound(UsageError):
    """No checkpoint has that name or id."""

    code = "NotFound"


class Damaged(EvenkeelError):
    """Stored data do not match their hash, or cannot be read. Nothing that depends on them was touched."""

    code = "Damaged"


class RestoreFailed(EvenkeelError):
    """A rollback could not be completed; ``left`` names everything that is not as recorded."""

    code = "RestoreFailed"


class Unhealthy(EvenkeelError):
    """Probes did not pass for the whole soak before the deadline."""

    code = "Unhealthy"


class ServiceFailed(EvenkeelError):
    """A service did not start, stop or reload as requested, or could not be proved to have done so."""

    code = "ServiceFailed"


# The codes of failures that have no class here: of the operating system, and of an answer that no module of ours gives.
OS_ERROR = "OSError"
BAD_ANSWER = "BadAnswer"
# All words of the key ``error`` of a result; docs/errors.md explains them.
CODES = frozenset(
    one.code
    for one in (EvenkeelError, UsageError, Refused, Busy, NotFound, Damaged, RestoreFailed, Unhealthy, ServiceFailed)
) | {OS_ERROR, BAD_ANSWER}
