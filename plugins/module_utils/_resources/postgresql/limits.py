# SPDX-License-Identifier: GPL-3.0-or-later

"""The state of a cluster that a rollback does not bring back as it was, as its running server tells it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from .. import json_line
from . import cluster

# A publisher sends nothing twice: a subscription that goes back lacks what it has received since.
SUBSCRIPTIONS = """select 'subscription ' || subname || ' in ' || datname
from pg_subscription join pg_database on pg_database.oid = subdbid order by 1"""
# The files of configuration that others include, the certificates and the keys.
_FILES = """select distinct sourcefile from pg_file_settings where sourcefile is not null
union select setting from pg_settings where setting <> ''
and name in ('ssl_cert_file', 'ssl_key_file', 'ssl_ca_file', 'ssl_crl_file') order by 1"""
# Libraries may write records of their own into the log, from this version on.
_MANAGERS, _WITH_MANAGERS = "select rm_name from pg_get_wal_resource_managers() where not rm_builtin order by 1", 15
# Names in a line.
_MOST, _LONGEST = 100, 300


def lines(server: cluster.Server, seen: cluster.Seen, configuration: Sequence[str]) -> list[str]:
    """The line that names what a rollback does not bring back; none where there is nothing::

        limits {"kept": [...], "managers": [...], "subscriptions": [...]}

    ``configuration``: the names of the files in the data directory that the checkpoint holds.
    """
    questions = {"kept": _FILES, "subscriptions": SUBSCRIPTIONS}
    if int(seen["version"]) >= _WITH_MANAGERS:
        questions["managers"] = _MANAGERS
    parts = [f"'{key}', array(select one from ({question}) as q(one))" for key, question in questions.items()]
    found = json.loads(" ".join(server.ask(f"select json_build_object({', '.join(parts)})")))
    found["kept"] = _below(server, found["kept"], configuration)
    made = {key: sorted(one[:_LONGEST] for one in names)[:_MOST] for key, names in found.items()}
    return [json_line.write("limits", made)] if any(made.values()) else []


def kept(server: cluster.Server, configuration: Sequence[str]) -> list[str]:
    """The files of the data directory, as paths below it, that the server reads and that no checkpoint holds: a
    rollback leaves them as they are. Raises Refused where the server does not answer."""
    return _below(server, server.ask(_FILES), configuration)


def _below(server: cluster.Server, found: Sequence[str], configuration: Sequence[str]) -> list[str]:
    paths = {os.path.normpath(os.path.join(server.data, one)) for one in found}
    here = [one for one in paths if one.startswith(f"{server.data}/") and os.path.exists(one)]
    return sorted({os.path.relpath(one, server.data) for one in here} - set(configuration))


def sentences(lines: Sequence[str]) -> list[str]:
    """Sentences on what a rollback to the lines does not bring back."""
    for line in lines:
        if line.startswith("limits "):
            with json_line.read(line) as (_word, found):
                return [said.format(", ".join(map(str, found[key]))) for key, said in _SAID.items() if found.get(key)]
    return []


_SAID: Mapping[str, str] = {
    "kept": "postgresql: files in the data directory that the server reads stay as they are in a rollback: {}",
    "managers": "postgresql: a library writes records of its own into the log, and a rollback over one fails: {}",
    "subscriptions": "postgresql: changes that a publisher has sent since are not sent again after a rollback: {}",
}
