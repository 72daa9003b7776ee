"""``--allow`` and ``--deny``: peers of networks that may not come in are reset at accept."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Sequence
from typing import cast

import trio

from trio_duplex.cli._service.logs import log
from trio_duplex.cli._service.values import Network

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close(2) sends a reset


class GatedListener(trio.abc.Listener[trio.SocketStream]):
    """A listener that gives only streams from the networks that may come in.

    A peer without an IP address (of a Unix socket) always may.

    Args:
        listener: What it accepts from.
        allow: The networks that may; none for all.
        deny: The networks that may not, even if they are in ``allow``.
        keepalive: As in `~trio_duplex.Limits`, which reaches plain socket
            listeners only.
    """

    def __init__(
        self,
        listener: trio.abc.Listener[trio.SocketStream],
        *,
        allow: Sequence[Network],
        deny: Sequence[Network],
        keepalive: float,
    ) -> None:
        self._listener = listener
        self._allow = allow
        self._deny = deny
        self._keepalive = keepalive
        self._told = -float("inf")
        self._refused = 0

    async def accept(self) -> trio.SocketStream:
        """Accept the next stream that may come in."""
        while True:
            stream = await self._listener.accept()
            peer = _peer(stream)
            if peer is None or self._may_enter(peer):
                self._keep_alive(stream)
                return stream
            with contextlib.suppress(OSError):
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            stream.socket.close()
            self._tell(peer)

    async def aclose(self) -> None:
        """Close the listener."""
        await self._listener.aclose()

    def _may_enter(self, peer: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        if any(peer in network for network in self._deny):
            return False
        return not self._allow or any(peer in network for network in self._allow)

    def _tell(self, peer: object) -> None:
        self._refused += 1
        now = trio.current_time()
        if now - self._told >= 1:  # a flood of peers is no flood of lines
            log.info("denied", peer=peer, refused=self._refused)
            self._told, self._refused = now, 0

    def _keep_alive(self, stream: trio.SocketStream) -> None:
        if stream.socket.family == socket.AF_UNIX or self._keepalive == float("inf"):
            return
        with contextlib.suppress(OSError):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                idle = min(max(1, round(self._keepalive)), 32_767)
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)


def _peer(stream: trio.SocketStream) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        name = stream.socket.getpeername()
    except OSError:  # it left already: whoever reads finds out
        return None
    if not isinstance(name, tuple):
        return None
    host = str(cast("tuple[object, ...]", name)[0])
    address = ipaddress.ip_address(host.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address
