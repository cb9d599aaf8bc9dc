# SPDX-License-Identifier: GPL-3.0-or-later

"""The locales of this host."""

from __future__ import annotations

import ctypes
import os

# LC_CTYPE_MASK and LC_COLLATE_MASK of Linux.
_TEXT = 1 << 0 | 1 << 3


def has_locale(name: str) -> bool:
    """Whether a program here can sort and read text by this locale."""
    libc = ctypes.CDLL(None)
    libc.newlocale.restype = ctypes.c_void_p
    libc.newlocale.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
    libc.freelocale.argtypes = [ctypes.c_void_p]
    found = libc.newlocale(_TEXT, os.fsencode(name), None)
    if found:
        libc.freelocale(found)
    return bool(found)
