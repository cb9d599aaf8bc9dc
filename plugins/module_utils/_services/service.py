# SPDX-License-Identifier: GPL-3.0-or-later

"""A service, whatever runs it: the protocol that the backends follow, and the choice between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from .._errors import UsageError
from .._host.system import System
from . import container as containers
from .container import ContainerService
from .process import ProcessService, check
from .state import ServiceState
from .systemd import SystemdService, check_name

# The resource of a step that changes a service, of a rollback or of a restart.
SERVICES = "services"


class Service(Protocol):
    """A service. A new backend is a class with these members in a file of this room, and a branch in
    ``declared_service``."""

    # The kind in words, for a message that there is none.
    what: ClassVar[str]

    @property
    def name(self) -> str:
        """The name for results and messages."""

    def observe(self, system: System) -> ServiceState:
        """The state now. ServiceFailed when the service manager does not tell it."""

    def act(self, verb: str, system: System, wait: bool = True) -> ServiceState:
        """Start, stop, restart or reload the service, and prove it; the state afterwards. ServiceFailed otherwise.

        ``wait`` False: early at boot a service manager only queues the job, and nothing is proved.
        """


def declared_service(
    name: str | None, process: Mapping[str, Any] | None, container: Mapping[str, Any] | None = None
) -> Service:
    """The service of a declaration: a systemd unit by ``name``, a ``process`` or a ``container``. UsageError for none
    of them, or several, and for a name that names no single unit."""
    if [bool(name), bool(process), bool(container)].count(True) != 1:
        raise UsageError("give either name, a systemd unit, or process, or container")
    if container:
        return ContainerService(containers.check(container))
    return ProcessService(check(process)) if process else SystemdService(check_name(name or ""))
