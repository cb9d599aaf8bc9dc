# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The place of the collection that belongs to this driver: inside the wheel, or the checkout itself."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

FQCN = "evenkeel.fault_tolerance"
_INSIDE = Path("ansible_collections", "evenkeel", "fault_tolerance")


def collections_path(package: Path = Path(__file__).parent) -> Path:
    """The directory to put first on ANSIBLE_COLLECTIONS_PATH so that ``evenkeel.fault_tolerance.*`` resolves.

    package: the directory of the evenkeel package. In a wheel the collection lies in it; in a checkout (or an
    editable install of one) ``.build/`` of the checkout holds a link to its root, made here if missing.
    Raises FileNotFoundError when neither is there.
    """
    carried = package / "collections"
    if (carried / _INSIDE).is_dir():
        return carried
    checkout = package.parent.parent
    if not (checkout / "galaxy.yml").is_file():
        raise FileNotFoundError(f"{FQCN} is neither in {carried} nor in a checkout at {checkout}: reinstall evenkeel")
    link = checkout / ".build" / _INSIDE
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another process was faster
            link.symlink_to("../../..", target_is_directory=True)
    return checkout / ".build"


def make_importable() -> None:
    """Let this process import ``ansible_collections.evenkeel.fault_tolerance``."""
    root = str(collections_path())
    if root not in sys.path:
        sys.path.append(root)
    import ansible_collections

    # The package `ansible` brings an ansible_collections of its own, which hides all others on the path.
    ours = f"{root}/ansible_collections"
    if ours not in list(ansible_collections.__path__):
        ansible_collections.__path__.append(ours)
