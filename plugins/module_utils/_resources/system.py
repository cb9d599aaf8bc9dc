# SPDX-License-Identifier: GPL-3.0-or-later

"""The kind ``system``: the whole state of a plain host. It stands for declarations of other kinds."""

from __future__ import annotations

from collections.abc import Sequence

from .._files.step import Step
from .._host.options import read
from .._host.system import System
from .kind import Kind, Restore, Sink, Spec


class WholeSystem(Kind):
    """All that a plain host consists of; the default where nothing is declared.

    It stands for C(files) of C(/etc), C(/usr/local), C(/opt), C(/root/.ssh), C(/var/spool/cron), C(/var/lib/pam),
    the answers of debconf and the C(.ssh/authorized_keys) of the account by which the controller has logged in, and for
    C(packages), C(users), C(network), C(services), C(sysctl) and C(firewall). Takes nothing. For example V(system: {}).

    A kind that is declared beside it comes in place of its own part of that kind; C(files) are left out of its trees,
    C(services) and C(sysctl) out of its names.

    Left out are C(/etc/machine-id), caches, mounts from elsewhere, the data below C(/opt) and C(/usr/local) of programs
    that run at the checkpoint, as far as open files, owners and names tell, and what makes these trees larger than
    256 MB. The result C(left) names all of it.
    """

    name = "system"
    since = "0.2.0"
    stands_for_others = True

    def check(self, spec: Spec) -> dict[str, object]:
        return read(self.options, spec, self.name)

    def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
        return []

    def not_restorable(self, spec: Spec, lines: Sequence[str]) -> list[str]:
        return [str(one) for one in spec.get("not", ())]

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        return []

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        return []

    def verify(self, lines: Sequence[str], system: System) -> list[str]:
        return []

    def outside(self, spec: Spec, lines: Sequence[str], declared: Sequence[Spec], system: System) -> list[str]:
        return []
