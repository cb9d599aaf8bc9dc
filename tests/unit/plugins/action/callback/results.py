# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the result of each host's last task to the file RESULTS, as JSON."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: results
type: aggregate
short_description: The results of the last tasks, for the tests
description: [Writes them to a file.]
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "results"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._results: dict[str, Any] = {}

    def _keep(self, result: Any, **_more: Any) -> None:
        self._results[result._host.get_name()] = json.loads(json.dumps(dict(result._result), default=str))

    v2_runner_on_ok = v2_runner_on_failed = v2_runner_on_unreachable = _keep

    def v2_playbook_on_stats(self, stats: Any) -> None:
        with open(os.environ["RESULTS"], "w", encoding="utf-8") as stream:
            json.dump(self._results, stream)
