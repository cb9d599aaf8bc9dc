# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from typing import Any

_NOTHING = re.compile(r"(?:[;.] )?\bnothing was (?:changed|touched)\b", re.IGNORECASE)


class EvenkeelError(Exception):
    """What went wrong, where, and what to do next; with what had been planned, done and proved until then.

    ``result`` holds the keys that a success would have returned, so that a failed task reports the same words.
    """

    def __init__(self, message: str, **result: Any) -> None:
        super().__init__(message)
        self.message = message
        self.result = result

    @property
    def cause(self) -> str:
        """The message of one thing that failed among others: that nothing was changed is true of that thing alone."""
        return _NOTHING.sub("", self.message)


class UsageError(EvenkeelError):
    """Bad input: a parameter, a file of the user's, a name that does not exist. Nothing was touched."""


class Refused(EvenkeelError):
    """The request is understood and not allowed now: fenced, armed by another run, guarded. Nothing was touched."""


class Busy(Refused):
    """Another operation holds the lock of this store."""


class NotFound(UsageError):
    """No checkpoint of that name or id."""


class Damaged(EvenkeelError):
    """Stored data does not match its hash, or cannot be read. Nothing was touched on its strength."""


class RestoreFailed(EvenkeelError):
    """A rollback could not be completed; ``left`` says what is not as it should be."""


class Unhealthy(EvenkeelError):
    """Probes did not pass for the whole soak before the deadline."""


class ServiceFailed(EvenkeelError):
    """A service did not do what it was told, or it could not be proved that it did."""
