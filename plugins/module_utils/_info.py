# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host remembers: reads only, and takes no lock."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from ._deadman import host_state
from ._store.store import Store


def info(store: Store) -> dict[str, Any]:
    """The result of ``ft_info``, as documented there. A host without a store has an empty one."""
    store.check_format()
    folder = store.join("replicas")
    hosts = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    replicas = {
        host: [one.id for one in Store(os.path.join(folder, host), store.system).checkpoints()] for host in hosts
    }
    checkpoints = [asdict(one) for one in store.checkpoints()]
    return {
        "changed": False,
        "checkpoints": checkpoints,
        "replicas": replicas,
        **host_state(store.root, store.system),
    }
