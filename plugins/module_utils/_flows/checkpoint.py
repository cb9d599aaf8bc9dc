# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Taking a checkpoint of the declared resources, and arming the dead-man with it."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

from .._deadman import changes, doubt, package
from .._errors import Damaged, EvenkeelError, Refused
from .._resources import registry
from .._services import quiescing
from .._store import retention as keeping
from .._store.manifest import LOG, Manifest, Section
from .._store.objects import Hasher, Writer
from .._store.store import Store, check_name, objects_of
from .rollback.flow import finish


def checkpoint(
    store: Store,
    name: str | None,
    resources: Any,
    confirm_within: float | None = None,
    retention: dict[str, Any] | None = None,
    host: str | None = None,
    check_mode: bool = False,
    kind: str = "snapshot",
    quiesce: Any = None,
    require_restorable: bool = False,
) -> dict[str, Any]:
    """Take a checkpoint (``ft_checkpoint``); the result as documented there. ``confirm_within`` in seconds.

    A state that the newest checkpoint of this name holds already is not recorded twice. Of ``kind`` log is only what
    changed since that one, if it can be built on. With ``require_restorable`` what could not be put back refuses it.
    """
    declared = registry.check(resources)
    name = check_name(name or time.strftime("checkpoint-%Y%m%dT%H%M%S", time.gmtime(store.system.now())))
    policy = keeping.check(retention)
    hooks = quiescing.check(quiesce)
    host = host or os.uname().nodename
    changes.check_within(confirm_within)
    if check_mode:
        store.check_format()
        if confirm_within is not None:
            doubt.refuse_if_in_doubt(store)
        hasher = Hasher(store.objects)
        sections = registry.capture(declared, hasher, store.system, store.root)
        lacking = _lacking(sections, require_restorable)
        root = Manifest.root_of(sections)
        known = _known(store, name, root, sections)
        result = _result(known, name, root, known is None or confirm_within is not None)
        result["left"] = lacking
        base = store.base_of(name, host, sections) if known is None and kind == LOG else None
        if base is not None:
            result["kind"] = LOG
        again = sum(not store.objects.has(sha) for sha in objects_of(known)) if known is not None else 0
        if again:
            result["changed"] = True
            result["planned"].append(f"store {again} contents again that the store has lost")
        if policy is not None:
            made = store.plan_prune(name, policy, _needed(store, known or base), coming=known is None)
            result["kept"] = made.kept
            result["planned"] += [f"forget checkpoint {one[:12]}" for one in made.gone]
            result["changed"] = result["changed"] or bool(made.gone)
        return result
    with store.locked():
        said = finish(store)
        agent = ""
        if confirm_within is not None:
            doubt.refuse_if_in_doubt(store)
            agent = package.install(store, finish)
            changes.prepare(store, agent)
        started = store.system.monotonic()
        writer = Writer(store.objects)
        try:
            still = quiescing.Quiesced(hooks, store.system)
            with registry.locked([section.kind for section in declared], store.system):
                sections = registry.capture(declared, writer, store.system, store.root, still)
            lacking = _lacking(sections, require_restorable)
        except EvenkeelError:
            writer.discard()
            raise
        root = Manifest.root_of(sections)
        known, again = _known(store, name, root, sections), 0
        stats: dict[str, Any] = {"new_objects": writer.new_objects, "new_bytes": writer.new_bytes}
        stats["paths"] = sum(len(registry.path_lines(section)) for section in sections)
        if known is None:
            base = store.base_of(name, host, sections) if kind == LOG else None
            manifest = store.commit(writer, name, host, sections, base)
        else:
            # What the store has lost of it (a scrub put it aside) is here again.
            again = writer.new_objects
            (writer.publish if again else writer.discard)()
            manifest = known
        stats["pause"] = round(still.seconds, 3)
        stats["seconds"] = round(store.system.monotonic() - started, 3)
        result = _result(manifest, name, root, known is None)
        result["stats"] = stats
        result["consistency"] = "engine" if registry.consistent(sections) else "quiesced" if hooks else "crash"
        result["done"] = said + ([f"checkpoint {name} ({manifest.id[:12]})"] if known is None else [])
        if again:
            result["changed"] = True
            result["done"].append(f"stored {again} contents again that the store had lost")
        if confirm_within is not None:
            change = changes.arm(store, manifest.id, name, confirm_within, agent)
            result.update(changed=True, generation=change.generation, armed=change.shown())
            result["done"].append(f"armed generation {change.generation}: rolled back unless confirmed in time")
        if policy is not None:
            made = store.prune(name, policy, _needed(store, manifest), registry.forgetting(store))
            result["kept"] = made.kept
            result["done"] += [f"forgot checkpoint {one[:12]}" for one in made.gone]
            result["changed"] = result["changed"] or bool(made.gone)
        result["left"] = lacking
        result["proved"] = [f"{stats['paths']} paths and their contents are durable"]
        return result


def _lacking(sections: list[Section], refuse: bool) -> list[str]:
    """What a rollback to the sections could not put back, in words; Refused for it, where that is asked for."""
    found = registry.not_restorable(sections)
    if found and refuse:
        raise Refused(
            f"a rollback could not put back all of it, and that is required (require_restorable): {'; '.join(found)}. "
            "Nothing was recorded or armed. Mend it, or declare what can be put back",
            left=found,
        )
    return found


def _needed(store: Store, manifest: Manifest | None) -> set[str]:
    """Ids that no retention may drop: the checkpoint just taken, and that of the change under way."""
    change = changes.armed(store)
    return {one.id for one in [manifest] if one} | {one.checkpoint for one in [change] if one}


def _known(store: Store, name: str, root: str, sections: list[Section]) -> Manifest | None:
    """The newest checkpoint of this name, if it holds exactly these sections, whose root is ``root``."""
    ids = store.refs().get(name)
    try:
        newest = store.record(ids[-1], whole=False) if ids else None
        if newest is None or newest.root != root:
            return None
        return store.manifest(newest.id) if newest.kind == LOG else replace(newest, sections=sections)
    except Damaged:
        return None  # It cannot be gone back to, whatever it holds.


def _result(manifest: Manifest | None, name: str, root: str, changed: bool) -> dict[str, Any]:
    return {
        "changed": changed,
        "id": manifest.id if manifest else "",
        "name": name,
        "kind": manifest.kind if manifest else "snapshot",
        "root": root,
        "generation": None,
        "armed": None,
        "stats": {},
        "kept": {},
        "planned": [f"checkpoint {name}"] if changed else [],
        "done": [],
        "proved": [],
        "left": [],
    }
