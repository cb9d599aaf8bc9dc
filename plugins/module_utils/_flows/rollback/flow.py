# SPDX-License-Identifier: GPL-3.0-or-later

"""A rollback on the host that holds the checkpoint: the requests for it, and the change that it ends.

``plan`` looks and decides, ``run`` carries out, ``proof`` measures, ``resume`` finishes after a kill.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..._dataclasses import replace
from ..._deadman import changes, command, doubt
from ..._errors import EvenkeelError, RestoreFailed
from ..._host.durable import write_file
from ..._results.change import RolledBack
from ..._services import quiescing
from ..._store.manifest import Manifest
from ..._store.store import UNDO, Store
from .. import footprints
from . import wanted
from .plan import Options
from .resume import resume
from .run import Run

Arm = Callable[[str], changes.Armed]
_COUNTS = "some paths or packages that came back take effect at the next boot alone:"
# Files and packages that take effect at the next boot alone: kernel, initramfs, boot loader, disks and modules.
AT_BOOT = re.compile(
    r"/(boot|efi|(usr/)?lib/modules|etc/(default/grub|kernel|initramfs-tools|dracut|modprobe\.d|modules-load\.d))(/|\.|$)"
    r"|/etc/(fstab|crypttab|modules|dracut\.conf)$"
    r"|(linux-(image|modules)|kernel|grub|systemd-boot|shim|initramfs-tools|dracut)[^/]*$"
)


class Request(NamedTuple):
    """The arguments of ``ft_rollback``; ``confirm_within`` in seconds.

    ``kinds``, ``paths``: only these parts of the checkpoint. ``generation``: refuse unless the host is still at this
    generation. ``swap``: put declared directories back as a whole where that is possible.
    """

    to: str
    kinds: Sequence[str] | None = None
    paths: Sequence[str] = ()
    generation: int | None = None
    swap: bool = False
    confirm_within: float | None = None
    quiesce: Any = None


def rollback(store: Store, request: Request, check_mode: bool = False) -> RolledBack:
    """Roll back because an operator asks for it.

    A change under way ends when ``to`` is its checkpoint, and nothing is armed then; any other target is refused
    meanwhile.
    """
    changes.check_within(request.confirm_within)
    kinds, paths = request.kinds, request.paths
    how = Options(kinds, paths, swap=request.swap, quiesce=quiescing.check(request.quiesce))
    store.check_whole()
    if check_mode:
        changes.fence(store, request.generation)
        manifest = store.manifest(store.resolve(request.to))
        if not _ends(changes.armed(store), manifest.id, how):
            changes.would_refuse(store)
        return _with_warnings(Run(store, manifest, how).predicted())
    with store.locked(first=_may_begin(store, request.to, how)):
        finished = finish(store)
        changes.fence(store, request.generation)
        manifest = store.manifest(store.resolve(request.to))
        change = changes.armed(store)
        if not _ends(change, manifest.id, how):
            changes.refuse_if_armed(store)
        arm = _arming(store, request.confirm_within) if change is None else None
        result = execute(store, manifest, change, "operator", how, arm)
        result.done = [*finished, *result.done]
        result.changed = result.changed or bool(finished)
        stays = doubt.cleared(store, manifest, not kinds and not paths, result.generation)
        result = _with_warnings(result)
        result.warnings = [*(result.warnings or []), *([stays] if stays else [])]
        return result


def _may_begin(store: Store, to: str, how: Options) -> bool:
    """Whether a rollback looks, without the lock, as if it may begin: one that is refused ends no checkpoint that is
    taken beside the change."""
    change = changes.armed(store)
    if change is None or change.overdue(store.system) is not None:
        return True
    return _ends(change, store.resolve(to), how)


def _ends(change: changes.Armed | None, checkpoint: str, how: Options) -> bool:
    """Whether a rollback to the checkpoint may begin: no change is under way, or the rollback ends it."""
    return change is None or (change.checkpoint == checkpoint and not how.kinds)


def _with_warnings(result: RolledBack) -> RolledBack:
    result.warnings = _stale(result)
    return result


def _stale(result: RolledBack) -> list[str]:
    """Sentences on the programs that still work with files that were replaced."""
    return [
        f"{one['unit'] or ', '.join(one['processes'])} still works with files that were replaced, such as "
        f"{one['paths'][0]}; restart it to use the new files"
        for one in result.restart_needed
    ]


def beside(result: RolledBack) -> list[str]:
    """Sentences on what is not as before although the protected state is back, for whoever ends a change: programs that
    go on with the files of the change, and notes. Notes that differ in their
    first word alone are one sentence."""
    alike: dict[str, list[str]] = {}
    for one in result.notes:
        first, _blank, rest = one.partition(" ")
        alike.setdefault(rest, []).append(first)
    notes = []
    for rest, names in alike.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        each = "each of " if len(names) > 1 else ""
        notes.append(f"{each}{', '.join(names[:_NAMED])}{more} {rest}".rstrip())
    return [*_stale(result), *notes]


def _arming(store: Store, within: float | None) -> Arm | None:
    """A function that arms the dead-man with the undo as its target, once there is one."""
    if within is None:
        return None
    from ..._deadman import package  # With the whole agent, which a call that arms nothing does not need.

    agent = package.install(store, finish)
    changes.prepare(store, agent)
    return lambda undo: changes.arm(store, undo, UNDO, changes.Terms(within), agent)


# The most first words that a sentence on several of them names.
_NAMED = 5
_BEGAN = {
    "deadline": "whose time to confirm was over",
    "boot": "which a boot had ended",
    "health": "after whose boot the host was not healthy",
    "settle": "which was told to go back and had not come to an end",
    "operator": "which was being put back by hand",
}


def finish(store: Store, boot: bool = False, agent: bool = False) -> list[str]:
    """Under the lock, before anything else: complete a rollback that was killed, or that a missed deadline asks for.

    ``boot``: early at boot. ``agent``: this process has to boot the host again where that is needed.
    """
    said, back = resume(store, boot)
    change = changes.armed(store)
    change = changes.after_boot(store, change) if change is not None else None
    why = change.overdue(store.system) if change is not None else None
    if change is not None and change.checkpoint in back:
        why = why or "operator"  # The rollback had begun: there is nothing left to confirm.
    if change is not None and why is not None:
        try:
            how = Options(boot=boot, boots=agent or boot)
            result = execute(store, store.manifest(change.checkpoint), change, why, how)
        except EvenkeelError as error:
            error.message = (
                f"this host is in doubt since its change of generation {change.generation}, and could not be put back "
                f"now: {error.cause}. Mend the cause, or accept it as it is (ft_accept)"
            )
            raise
        said.append(
            f"rolled back the unconfirmed change {change.name} (generation {change.generation}), {_BEGAN.get(why, why)}"
        )
        needs = at_boot(change, result)
        if needs and how.boots:
            write_file(store.join("reboot"), b"")
            said.append(f"the host boots again: {needs}")
    return said


def at_boot(change: changes.Armed, result: RolledBack) -> str:
    """Why a host that booted with the change has to boot again: the first paths that were put back and take effect at
    the next boot alone. Empty where it has not."""
    targets = [str(step.get("target", "")) for step in result.done if isinstance(step, dict)]
    paths = [target for target in targets if AT_BOOT.match(target)][:5]
    return f"{_COUNTS} {', '.join(paths)}" if change.boots and paths else ""


def boot_it(change: changes.Armed, result: RolledBack) -> list[str]:
    """A sentence for ``left`` where somebody has to boot the host."""
    needs = at_boot(change, result)
    return [f"boot the host: {needs}"] if needs else []


def execute(
    store: Store,
    manifest: Manifest,
    change: changes.Armed | None,
    by: str,
    how: Options | None = None,
    arm: Arm | None = None,
) -> RolledBack:
    """Roll back, under the lock; ``change`` is over once everything is back. Until then its dead-man tries again, for
    an hour, and the error names everything that is left."""
    how = how or Options()
    if change is None:
        return _on_demand(store, manifest, how, arm)
    asked = wanted.read(store)
    if asked is not None and asked.checkpoint == manifest.id:
        how = replace(how, undo=asked.undo, changed=asked.changed, down=asked.down, undone=asked.failed)
    change = changes.begin_return(store, change, by)
    try:
        run = Run(store, manifest, replace(how, unattended=True))
        result = run.carry_out()
    except EvenkeelError as error:
        error.result["left"] = [str(one) for one in error.result.get("left", [])] or [error.cause]
        change = changes.keep_trying(store, change, by, error.result["left"])
        error.result["armed"] = change.shown()
        raise
    if not how.boot:  # The boot does not wait for it.
        footprints.find_changed(store, change.generation, manifest.id, back=True)
    needs = [] if how.boots else boot_it(change, result)
    changes.conclude(store, change, changes.ROLLED_BACK, by, needs, run.written)
    result.left += needs
    agent = changes.agent_of(store)
    if agent:
        command.install(store, agent)  # The change may have removed it.
    result.changed = True
    return result


def _on_demand(store: Store, manifest: Manifest, how: Options, arm: Arm | None) -> RolledBack:
    run = Run(store, manifest, how, arm)
    try:
        return run.carry_out()
    except EvenkeelError as error:
        if run.change is not None and not run.done and not isinstance(error, RestoreFailed):
            changes.conclude(store, run.change, changes.ROLLED_BACK, "operator")  # Nothing was touched.
            error.result.update(generation=None, armed=None)
        raise
