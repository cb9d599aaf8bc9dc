# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a port takes connections: each is made and closed at once, and nothing is sent."""

from __future__ import annotations

import socket
from typing import Any

Address = tuple[Any, ...]


def reach(host: str, port: int, seconds: float) -> None:
    """Connect to the first address of the name that takes a connection. Raises OSError."""
    failed: OSError | None = None
    for family, _kind, _protocol, _name, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            return connect(family, address, seconds)
        except OSError as error:
            failed = failed or error
    raise failed or OSError(f"{host} has no address")


def connect(family: int, address: Address, seconds: float) -> None:
    """Connect to the address, never from its own port. Raises OSError.

    From its own port to itself a connection succeeds without a listener, and keeps a service off that port.
    """
    with socket.socket(family, socket.SOCK_STREAM) as end:
        end.bind(("", 0))
        if end.getsockname()[1] == address[1]:  # While this one holds the port, another gets another.
            return connect(family, address, seconds)
        end.settimeout(seconds)
        end.connect(address)
    return None
