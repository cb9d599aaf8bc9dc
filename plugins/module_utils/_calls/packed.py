# SPDX-License-Identifier: GPL-3.0-or-later

"""All calls, for those that pack the library (``_deadman/package.py``). Nothing imports this file: a module of Ansible
brings its own call alone."""

from __future__ import annotations

from . import (
    accept,
    checkpoint,
    drain,
    heal,
    health,
    info,
    offsite,
    recover,
    repeat,
    replicate,
    restart,
    rollback,
    scrub,
    settle,
    suggest,
)

ALL = (
    accept,
    checkpoint,
    drain,
    heal,
    health,
    info,
    offsite,
    recover,
    repeat,
    replicate,
    restart,
    rollback,
    scrub,
    settle,
    suggest,
)
