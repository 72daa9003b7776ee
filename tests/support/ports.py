"""Ports at which nobody listens, and that the system gives to nobody else meanwhile."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def held_port(host: str = "127.0.0.1") -> Iterator[int]:
    """A TCP port of loopback that is taken for this test.

    Its socket is bound and does not listen. Dials are refused, and a server that asks for just
    this port gets it, because both have SO_REUSEADDR. One that is closed before it is used may be
    given to another suite on the same machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, 0))
        yield held.getsockname()[1]
