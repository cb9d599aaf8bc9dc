# SPDX-License-Identifier: GPL-3.0-or-later
# Written by make options.

"""The kinds of state, in the order in which they are put back: what is known of a kind before its module is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .kind import Row

if TYPE_CHECKING:  # These are for all that pack the library, for a host or for its agent.
    from .files import Files  # noqa: F401
    from .firewall.firewall import Firewall  # noqa: F401
    from .mounts import Mounts  # noqa: F401
    from .network.network import Network  # noqa: F401
    from .packages.packages import Packages  # noqa: F401
    from .postgresql.postgresql import PostgreSQL  # noqa: F401
    from .services import Services  # noqa: F401
    from .subvolumes.subvolumes import Subvolumes  # noqa: F401
    from .sysctl import Sysctl  # noqa: F401
    from .system import WholeSystem  # noqa: F401
    from .users import Users  # noqa: F401

IN_ORDER: dict[str, Row] = {
    "packages": Row(
        ".packages.packages",
        "Packages",
        {
            "names": {"type": "list", "elements": "str"},
            "keep": {"type": "str", "choices": ["change", "all"], "default": "change"},
            "purge": {"type": "bool", "default": False},
        },
        ["installs", "keeps_data_outside", "on_plain_host", "partly_of_the_machine"],
    ),
    "files": Row(
        ".files",
        "Files",
        {
            "paths": {"type": "list", "elements": "str", "required": True},
            "exclude": {"type": "list", "elements": "str", "default": []},
        },
        ["on_plain_host", "only_paths"],
    ),
    "users": Row(".users", "Users", {}, ["lock_guards_access", "on_plain_host", "precedes_files"]),
    "mounts": Row(
        ".mounts",
        "Mounts",
        {"except": {"type": "list", "elements": "str", "default": []}},
        ["changes_files", "mounts_file_systems", "of_the_machine"],
    ),
    "subvolumes": Row(
        ".subvolumes.subvolumes",
        "Subvolumes",
        {"paths": {"type": "list", "elements": "str", "required": True}},
        ["captured_at_rest", "exchanges_trees", "keeps_data_outside"],
    ),
    "network": Row(
        ".network.network",
        "Network",
        {
            "interfaces": {"type": "list", "elements": "str", "default": []},
            "except": {"type": "list", "elements": "str", "default": []},
        },
        ["applies_files", "changed_by_programs", "changes_files", "of_the_machine", "on_plain_host"],
    ),
    "sysctl": Row(
        ".sysctl",
        "Sysctl",
        {"names": {"type": "list", "elements": "str"}},
        ["changed_by_programs", "on_plain_host", "partly_of_the_machine"],
    ),
    "system": Row(".system", "WholeSystem", {}, ["stands_for_others"]),
    "firewall": Row(
        ".firewall.firewall",
        "Firewall",
        {"except": {"type": "list", "elements": "str", "default": []}},
        ["changed_by_programs", "on_plain_host"],
    ),
    "postgresql": Row(
        ".postgresql.postgresql",
        "PostgreSQL",
        {"cluster": {"type": "str"}, "data": {"type": "str"}, "unit": {"type": "str"}, "archive": {"type": "str"}},
        ["all_or_nothing", "consistent", "has_log", "keeps_data_outside"],
    ),
    "services": Row(
        ".services",
        "Services",
        {
            "names": {"type": "list", "elements": "str"},
            "except": {"type": "list", "elements": "str", "default": []},
            "processes": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "pidfile": {"type": "str", "required": True},
                    "argv": {"type": "list", "elements": "str", "required": True},
                    "chdir": {"type": "str", "default": "/"},
                    "reload_signal": {"type": "str"},
                    "stop_signal": {"type": "str", "default": "TERM"},
                },
            },
        },
        ["on_plain_host", "starts_programs"],
    ),
}
