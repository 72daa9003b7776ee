"""The targets that a scripted peer can connect to, and how it connects."""

from __future__ import annotations

import ipaddress
from typing import Protocol, runtime_checkable

import trio

from trio_duplex import Server
from trio_duplex.testing._network import MemoryListener


@runtime_checkable
class HasAddress(Protocol):
    """Something that listens: a `ThreadServer`, or a server of yours."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        ...


Target = trio.abc.Stream | MemoryListener | Server | HasAddress | tuple[str, int]
"""What a peer connects to: ``(host, port)``; a running `trio_duplex.Server`; a
`MemoryListener`; any object with an ``address`` of host and port; or a raw stream,
which the peer then closes."""


async def connect(target: Target) -> tuple[trio.abc.Stream, str]:
    """Dial the target; return the raw stream, and a description for the transcript.

    Raises:
        OSError: Nobody listens there.
        TypeError: The target can't be dialled.
    """
    match target:
        case trio.abc.Stream():
            return target, "given a stream"
        case MemoryListener():
            return await target.dial(), "dialled a memory listener"
        case Server():
            return await connect(_where(target))
        case (str(host), int(port)):
            pass
        case HasAddress():
            host, port = target.address
        case _:
            raise TypeError(
                f"can't dial {target!r}: give a (host, port), a server, a memory listener or a stream"
            )
    return await trio.open_tcp_stream(host, port), f"dialled {host}, port {port}"


def _where(server: Server) -> MemoryListener | tuple[str, int]:
    """Return the first address of a server, in a form that can be dialled on this machine."""
    for listener in server.listeners:
        if isinstance(listener, MemoryListener):
            return listener
    for address in server.addresses:
        if isinstance(address, tuple):
            host, port = address[:2]
            ip = ipaddress.ip_address(host.partition("%")[0])
            if ip.is_unspecified:
                host = "127.0.0.1" if ip.version == 4 else "::1"
            return host, port
    raise TypeError("the server listens neither on TCP nor in memory: give the peer a stream")
