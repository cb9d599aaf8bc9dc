# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images of mounted file systems, as a power cut leaves them."""

from __future__ import annotations

import subprocess
from pathlib import Path


def copy_of_a_moment(image: Path, target: Path) -> None:
    """Copy the image as it is at one moment, without any sync; again where its file system has written meanwhile.

    A copy that holds early blocks of before a write and late blocks of after it is no state that a disk ever had.
    """
    while True:
        begun = image.stat().st_mtime_ns
        subprocess.run(["cp", "--sparse=always", image, target], check=True)
        if image.stat().st_mtime_ns == begun:
            return
