#!/usr/bin/env python3
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print the bytes that a call of each module sends to a host: `tests/benchmark/payload.py [COLLECTIONS]`.

COLLECTIONS is a directory with another version of the collection, of which only the whole modules are measured.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COLLECTION = "ansible_collections/evenkeel/fault_tolerance"


def whole(collections: Path, module: str) -> int:
    """The bytes of a module as Ansible sends it, with all that it imports and without arguments."""
    from ansible.executor.module_common import modify_module
    from ansible.parsing.dataloader import DataLoader
    from ansible.template import Templar

    built = modify_module(
        module_name=f"evenkeel.fault_tolerance.{module}",
        module_path=str(collections / COLLECTION / f"plugins/modules/{module}.py"),
        module_args={},
        templar=Templar(loader=DataLoader()),
        task_vars={"ansible_playbook_python": sys.executable},
        module_compression="ZIP_DEFLATED",
        remote_is_local=True,
    )
    return len(built.b_module_data)


def sizes(collections: Path, name: str) -> tuple[int, int, int]:
    """The bytes of a call on a host without the library and with it, and of the whole module. The arguments are not
    counted."""
    from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _direct

    program = len(_direct.program({"name": name, "arguments": {}}))
    return 2 * program + len(_direct.archive(name, "bz2")), program, whole(collections, f"ft_{name}")


def main() -> None:
    collections = Path(sys.argv[1] if sys.argv[1:] else ROOT / ".build").resolve()
    os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(collections)
    sys.path.insert(0, str(collections))
    from ansible.plugins.loader import init_plugin_loader

    init_plugin_loader([])
    if sys.argv[1:]:
        for path in sorted((collections / COLLECTION / "plugins/modules").glob("ft_*.py")):
            print(f"| {path.stem} | {whole(collections, path.stem) / 1000:.0f} |")
        return
    from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.every import CALLS

    print("| call | first | later | whole module |")
    print("|---|---|---|---|")
    for name in CALLS:
        print(f"| `ft_{name}` |", " | ".join(f"{size / 1000:.0f}" for size in sizes(collections, name)), "|")


if __name__ == "__main__":
    main()
