# SPDX-License-Identifier: GPL-3.0-or-later

"""The part of a recovery on the host that is put back: a look before anything comes, and the checkpoint to go back to.

That checkpoint is made from the recorded one, with the state that has to stay as it is here (``derive``). An ordinary
rollback goes to it, so that its undo, its journal and its proof hold for a recovery as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from ..._dataclasses import replace
from ..._deadman import changes, doubt
from ..._errors import Damaged, EvenkeelError, Refused, UsageError
from ..._files import comparison
from ..._files.entry import ABOVE, Entry, path_of
from ..._files.making import NO_PLACE
from ..._files.preflight import NO_ROOM, preflight
from ..._files.scanning import Scan
from ..._files.step import PathStep
from ..._host import machine, scratch
from ..._host.paths import ancestors
from ..._host.trust import read_small
from ..._resources import files, ours, registry
from ..._resources.kind import Restore, is_within
from ..._resources.registry import KINDS, kind_of, own_lines, path_lines, tree_spec
from ..._results.copies import Derived, Surveyed
from ..._store import foreign
from ..._store.manifest import Manifest, Section
from ..._store.objects import Hasher, Writer
from ..._store.store import FOREIGN, RECOVERY, Store
from .. import replicas
from ..rollback import plan
from ..rollback.flow import finish
from . import derive, hardware
from . import preflight as checks

KEEP, TAKE = "keep", "take"
# Refused paths are left out, and what lies below them may be refused next.
_TURNS = 5
_SHOWN = 20
# Bytes of a file of keys that are read.
_LARGEST_KEYS = 1 << 20


class Request(NamedTuple):
    """``checkpoint``: the id of a checkpoint in the store. ``identity``: ``keep`` or ``take``. ``kinds``, ``paths``:
    only these parts of it. ``elsewhere``: it is a checkpoint of another host."""

    checkpoint: str
    identity: str
    kinds: Sequence[str] | None = None
    paths: Sequence[str] = ()
    elsewhere: bool = False


def survey(
    store: Store, checkpoint: str = "", host: str = "", terms: replicas.Terms | None = None, run: str = ""
) -> Surveyed:
    """This host, before anything is brought: what is in the way of a recovery, which host it is, and whether it has the
    ``checkpoint`` of ``host`` already, and in this ``run`` the place of its store. Only looks."""
    store.check_format()
    obstacle = waits = ""
    change, trouble = changes.armed(store), doubt.in_doubt(store)
    if change is not None:
        obstacle = f"a change is under way there (generation {change.generation}): confirm it or roll it back first"
        # A rollback begins with what a change that is over has left.
        waits = obstacle if change.overdue(store.system) is None else ""
    elif trouble is not None:
        obstacle = (
            f"it is in doubt since the change of generation {trouble.generation}: roll it back (ft_rollback), or "
            "accept it as it is (ft_accept)"
        )
    found = machine.read_machine()
    where = ""
    with suppress(EvenkeelError):
        where = store.place(run)
    return Surveyed(
        obstacle=obstacle,
        waits=waits,
        room=foreign.room(scratch.place(store.root), store.root),  # as much as ``land`` will find
        release=found.release,
        architecture=found.architecture,
        host=f"{os.uname().nodename} {_machine_id()} {store.system.boot_id()}",
        held=bool(checkpoint) and replicas.has_adopted(store, host, checkpoint, terms or replicas.Terms()),
        stands_for=_stands_for(store),
        taken=any(checkpoint in ids for ids in store.own_refs().values()),
        place=where,
    )


def _stands_for(store: Store) -> str:
    """The host that the last recovery has put back here; empty for this host itself, and without a recovery."""
    refs = store.refs()
    with suppress(Damaged):
        last = store.head(refs[RECOVERY][-1]).host if refs.get(RECOVERY) else ""
        # A spare that has become a lost host has that host's name.
        if last != os.uname().nodename or any(store.head(one).host == last for one in refs.get(FOREIGN, ())):
            return last
    return ""


def _machine_id() -> str:
    try:
        with open("/etc/machine-id", encoding="ascii", errors="replace") as stream:
            return stream.read(64).strip()
    except OSError:
        return ""


def prepare(store: Store, request: Request, check_mode: bool = False) -> Derived:
    """The checkpoint to go back to, made from the recorded one; Refused, with all reasons, where that must not be.

    Nothing but the store is changed.
    """
    if check_mode:
        return _Preparing(store, request, Hasher(store.objects)).carry_out(check_mode)
    with store.locked():
        with suppress(EvenkeelError):  # A rollback that was killed shall not look like the state of this host.
            finish(store)
        writer = Writer(store.objects)
        try:
            return _Preparing(store, request, writer).carry_out(check_mode)
        finally:
            writer.discard()


class _Preparing:
    """The making of one checkpoint."""

    def __init__(self, store: Store, request: Request, sink: Writer | Hasher) -> None:
        self.store = store
        self.request = request
        self.sink = sink
        self.recorded = store.manifest(request.checkpoint)
        self.then = registry.machine_of(self.recorded.sections)
        self.now = machine.read_machine()
        plan.check_declared(self.recorded)

    def carry_out(self, check_mode: bool) -> Derived:
        sections = plan.chosen(self.recorded, None)
        if not self.now.selinux and self.then.selinux:
            sections = checks.without_labels(sections)
        scans = [self._scan(section) for section in sections]
        keeps = self.request.identity == KEEP
        missing = {} if keeps else hardware.parts_of_missing_hardware(sections, self._content, self._has_part)
        self.keeps_hardware = keeps or bool(missing)
        present = [self._present(section, scan) for section, scan in zip(sections, scans)]
        choices = derive.Choices(
            keeps=keeps,
            parts=list(missing),
            mounts=registry.seen_mounts(),
            ours=ours.paths(self.store.root),
            without=_without(sections),
            refused=self._way_in(sections),
            elsewhere=self.request.elsewhere,
        )
        made = derive.derive(sections, present, choices)
        refused = dict(choices.refused)
        short: dict[str, str] = {}
        for _turn in range(_TURNS):
            more, short = self._refused(made.sections, dict(zip(map(_key, sections), scans)))
            if not more:
                break
            refused.update(more)
            made = derive.derive(sections, present, replace(choices, refused=refused))
        manifest = replace(self.recorded, sections=made.sections)
        self._check_parts(manifest, made.left_out)
        findings = self._findings(made.sections, short)
        findings.refusals += self._trees_that_stay(refused)
        findings.warnings += list(dict.fromkeys(missing.values()))
        if findings.refusals:
            raise Refused(
                f"checkpoint {self.recorded.name} ({self.recorded.id[:12]}) of {self.recorded.host} cannot be put back "
                f"here: {'; '.join(findings.refusals)}. Nothing but the store of Evenkeel was changed",
                left=findings.refusals,
            )
        return Derived(
            id="" if check_mode else self._commit(made.sections),
            left_out=[one for one in made.left_out if self._is_requested(one)],
            notes=findings.warnings,
        )

    def _way_in(self, sections: Sequence[Section]) -> dict[str, str]:
        """The keys by which the controller logs in, which stay here, and why: on a spare, those of another account than
        root, which has them by its identity; else those of which the record has none."""
        login = _login()
        account = _accounts().get(login or "root")
        if account is None or not os.path.isabs(account.home):
            return {}
        folder = os.path.join(os.path.realpath(account.home), ".ssh")
        if self.request.identity == KEEP:
            return {folder: "access"} if login else {}
        path = os.path.join(folder, "authorized_keys")
        if not any(is_within(path, root) for one in sections for root in (tree_spec(one) or {"paths": ()})["paths"]):
            return {}
        here = b""
        with suppress(OSError):  # A pipe in the home of a user would hold us up.
            here = read_small(os.path.realpath(path), _LARGEST_KEYS)[0]
        then = self._content(checks.content_of(sections, path))
        return {folder: "none of the keys that let the controller in is in it"} if checks.locks_out(then, here) else {}

    def _content(self, sha: str) -> bytes:
        """A content of the checkpoint; nothing without one, or where it is damaged, which the rollback names."""
        with suppress(Damaged):
            return b"".join(self.store.objects.read(sha))
        return b""

    def _scan(self, section: Section) -> Scan | None:
        spec = tree_spec(section)
        return None if spec is None else files.scan(spec, self.sink, ours.paths(self.store.root), tolerant=True)

    def _present(self, section: Section, scan: Scan | None) -> Section:
        lines = [] if scan is None else scan.lines()
        kind = KINDS[section.kind]
        if kind.partly_of_the_machine and self.keeps_hardware:
            # Where this host has no such state, its plan says so later.
            with suppress(EvenkeelError):
                hasher = Hasher(self.store.objects)
                lines += kind.capture_for_undo(section.spec, hasher, self.store.system, local_only=True)
        return replace(section, lines=lines)

    def _refused(
        self, sections: Sequence[Section], scans: Mapping[tuple[str, str], Scan | None]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """(paths that cannot be put back here, paths that have no room or attributes without a place), each with the
        reason."""
        steps: list[PathStep] = []
        directories: list[Entry] = []
        for section in sections:
            spec, scan = tree_spec(section), scans[_key(section)]
            if spec is not None and scan is not None:
                then = files.recorded(path_lines(section), spec, scan)
                known = {step.target for step in steps}
                how = plan.Options(self.request.kinds, self.request.paths)
                mine = [one for one in plan.requested(comparison.compare(then, scan), how) if one.target not in known]
                steps += mine
                directories += comparison.directories(then, mine)
        found = preflight(steps, directories, {}, self.store.root)
        short = {path: why for path, why in found.items() if why.startswith((NO_ROOM, NO_PLACE))}
        return {path: why for path, why in found.items() if path not in short}, short

    def _trees_that_stay(self, refused: Mapping[str, str]) -> list[str]:
        """A sentence on each whole directory of the declaration that cannot be put back here: to leave it out would be
        no recovery."""
        found = []
        for section in plan.chosen(self.recorded, self.request.kinds):
            kinds = {os.fsdecode(path_of(line)): line[0] for line in path_lines(section)}
            for root in map(str, (tree_spec(section) or {"paths": ()})["paths"]):
                why = next((why for path, why in refused.items() if is_within(root, path)), "")
                if why and kinds.get(root) == "d" and self._has_part(root):
                    found.append(f"{root}: {why}, or recover other paths alone (paths)")
        return found

    def _is_requested(self, left_out: str) -> bool:
        """Whether paths that are left out lie in the paths of the request."""
        path = left_out.rpartition(" (")[0]
        return not self.request.paths or any(is_within(path, one) or is_within(one, path) for one in self.request.paths)

    def _has_part(self, path: str) -> bool:
        """Whether the paths that were asked for have this one."""
        return not self.request.paths or any(is_within(path, one) for one in self.request.paths)

    def _check_parts(self, manifest: Manifest, left_out: Sequence[str]) -> None:
        """Raise UsageError where a part that was asked for is not in the checkpoint, or stays as it is here."""
        held = {one.kind for one in manifest.sections}
        for kind in self.request.kinds or ():
            if kind not in held and any(words.startswith(f"{kind} (") for words in left_out):
                if self.request.identity == KEEP:
                    raise UsageError(
                        f"{kind} stays as it is on this host (identity: keep); identity: take puts it back"
                    )
                raise UsageError(f"{kind} stays as it is on this host: the record names hardware that is not here")
        plan.chosen(manifest, self.request.kinds)
        plan.check_paths(manifest, self.request.paths)

    def _findings(self, sections: Sequence[Section], short: Mapping[str, str]) -> checks.Findings:
        kinds, paths = plan.Options(self.request.kinds, self.request.paths).kinds, self.request.paths
        wanted = [one for one in sections if not kinds or one.kind in kinds]
        found = checks.compare_machines(self.then, self.now, wanted, paths)
        if self.request.elsewhere:
            found.warnings += self._links_that_go(wanted)
        if short:
            found.refusals += _too_little(short)
        at = Restore(self.store.system, self.store.objects)
        installs = any(kind_of(one).installs for one in wanted)
        for section in wanted:
            with _noting(found.refusals):
                (found.warnings if installs else found.refusals).extend(kind_of(section).lacks_here(own_lines(section)))
            with _noting(found.refusals):
                found.refusals += kind_of(section).cannot_be_had(own_lines(section), at)
            if self.request.elsewhere:
                with _noting(found.refusals):
                    found.refusals += kind_of(section).in_use(own_lines(section), at)
        self._compare_accounts(wanted, found)
        return found

    def _links_that_go(self, sections: Sequence[Section]) -> list[str]:
        """A sentence on each symlink of this host that becomes a directory, at or above a declared path: what it leads
        to is not what was recorded, and may be more."""
        found: dict[str, str] = {}
        for section in sections:
            kinds = {os.fsdecode(path_of(line)): line[0] for line in path_lines(section)}
            roots = [one for one in map(str, (tree_spec(section) or {}).get("paths", ())) if self._has_part(one)]
            for root in roots:
                above = [os.fsdecode(one) for one in ancestors(os.fsencode(root))]
                for path in (one for one in [*above, root] if kinds.get(one) in ("d", ABOVE) and os.path.islink(one)):
                    found[path] = (
                        f"{path} is a symlink to {os.readlink(path)} here, and becomes a directory, as it was recorded:"
                        " what the symlink leads to stays where it is"
                    )
        return list(found.values())

    def _compare_accounts(self, wanted: Sequence[Section], found: checks.Findings) -> None:
        here = _accounts()
        sha = checks.content_of(wanted, checks.PASSWD)
        if sha and self._has_part(checks.PASSWD):
            with suppress(Damaged):  # The rollback names the damage.
                then = checks.accounts(b"".join(self.store.objects.read(sha)))
                more = checks.compare_accounts(then, here, _login())
                found.refusals += more.refusals or self._missing_groups(wanted)
                found.warnings += more.warnings
        elif not sha:
            unknown = checks.owners_unknown(wanted, [one.uid for one in here.values()])
            if unknown:
                found.warnings.append(
                    "files come back with owners that have no account here: uid "
                    f"{', '.join(map(str, unknown[:_SHOWN]))}. Make the accounts, or declare users with the files"
                )
            others = checks.owners_of_another_name(
                wanted, self.then.accounts, {name: one.uid for name, one in here.items()}
            )
            if others:
                said = ", ".join(f"those of {name} (uid {uid}) to {mine}" for uid, name, mine in others[:_SHOWN])
                found.warnings.append(
                    f"files come back to accounts of another name, who have these uids here: {said}. Look at them with"
                    " find -user, and chown them; or declare users with the files"
                )

    def _missing_groups(self, wanted: Sequence[Section]) -> list[str]:
        sha = checks.content_of(wanted, checks.GROUP)
        if not sha or not self._has_part(checks.GROUP):
            return []
        then = b"".join(self.store.objects.read(sha))
        with open(checks.GROUP, "rb") as stream:
            return checks.missing_groups(then, stream.read(), _login())

    def _commit(self, sections: list[Section]) -> str:
        """The id of a checkpoint of the sections: the recorded one where nothing differs and it is of this host, or the
        one of a run before."""
        root = Manifest.root_of(sections)
        refs = self.store.refs()
        own = [] if self.recorded.id in refs.get(FOREIGN, []) else [self.recorded.id]
        for known in (*own, *refs.get(RECOVERY, [])[-1:]):
            with suppress(Damaged):
                if self.store.manifest(known).root == root:
                    return known
        if not isinstance(self.sink, Writer):
            return ""
        return self.store.commit(self.sink, RECOVERY, self.recorded.host, sections).id


def _too_little(short: Mapping[str, str]) -> list[str]:
    """Sentences on the paths that have no room, and on those whose attributes have no place: one for each sort."""
    no_room = [why for why in short.values() if why.startswith(NO_ROOM)]
    no_place = [path for path, why in short.items() if why.startswith(NO_PLACE)]
    found = [f"{len(no_room)} paths have {no_room[0]}"] if no_room else []
    if no_place:
        more = f", and that of {len(no_place) - 1} more paths" if len(no_place) > 1 else ""
        found.append(
            f"{no_place[0]}: {short[no_place[0]]}{more}: mount one that keeps it, or recover other paths alone (paths)"
        )
    return found


def _accounts() -> dict[str, checks.Account]:
    """The accounts of this host."""
    with open(checks.PASSWD, "rb") as stream:
        return checks.accounts(stream.read())


def _login() -> str:
    """The account by which the controller has come here; empty for root or unknown."""
    audited = ""
    with suppress(OSError), open(checks.AUDITED) as stream:
        audited = stream.read(32).strip()
    return checks.login_name(os.environ, audited, _accounts())


def _key(section: Section) -> tuple[str, str]:
    return section.kind, repr(sorted((tree_spec(section) or {}).get("paths", ())))


def _without(sections: Sequence[Section]) -> dict[str, str]:
    """The kinds whose data lie outside of the store, are not here, and did not come with the copy -> why."""
    return {
        kind: f"{path}: {why}"
        for section in sections
        if not kind_of(section).beside(section.spec, section.lines)
        for (kind, path), why in registry.missing_data([section]).items()
    }


@contextmanager
def _noting(notes: list[str]) -> Iterator[None]:
    """Note an error among the refusals, so that all reasons are told at once."""
    try:
        yield
    except EvenkeelError as error:
        notes.append(error.cause)
