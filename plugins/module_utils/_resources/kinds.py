# SPDX-License-Identifier: GPL-3.0-or-later
# Written by make options.

"""The kinds of state, in the order in which they are put back."""

from __future__ import annotations

from .files import Files
from .firewall.firewall import Firewall
from .kind import Kind
from .mounts import Mounts
from .network.network import Network
from .packages.packages import Packages
from .postgresql.postgresql import PostgreSQL
from .services import Services
from .subvolumes.subvolumes import Subvolumes
from .sysctl import Sysctl
from .system import WholeSystem
from .users import Users

IN_ORDER: tuple[Kind, ...] = (
    Packages(),
    Files(),
    Users(),
    Mounts(),
    Subvolumes(),
    Network(),
    Sysctl(),
    WholeSystem(),
    Firewall(),
    PostgreSQL(),
    Services(),
)
