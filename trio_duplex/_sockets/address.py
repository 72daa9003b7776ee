"""The addresses of a stream's two ends: reading them from Trio's sockets, and formatting them."""

from __future__ import annotations

import socket
from collections.abc import Hashable
from functools import lru_cache
from typing import cast

import trio

Address = tuple[str, int] | tuple[str, int, int, int] | str
"""``(host, port)``; for IPv6 ``(host, port, flowinfo, scope)``; or a Unix socket's path."""

Socket = socket.socket | trio.socket.SocketType
"""A plain socket, or one of Trio's."""

# An address in the form for dialling: (host, port), where the host of an IPv6 address may have a
# scope; or the path of a Unix socket.
ListenerAddress = tuple[str, int] | str


def local_address(stream: trio.abc.Stream) -> Address | None:
    """Return the address of our end, or None if the stream does not say."""
    return own_address(stream.socket) if isinstance(stream, trio.SocketStream) else None


def own_address(sock: Socket) -> Address | None:
    """Return the address of our end of a socket, or None if the socket does not say."""
    try:
        return _shared(sock.getsockname())
    except OSError:
        return None


def remote_address(stream: trio.abc.Stream) -> Address | None:
    """Return the address of the peer's end, or None if the stream does not say.

    Call this early, because a socket loses the address when a reset arrives.
    """
    if not isinstance(stream, trio.SocketStream):
        return None
    try:
        return checked_address(stream.socket.getpeername())
    except OSError:
        return None


def listener_address(listener: trio.abc.Listener[trio.abc.Stream]) -> ListenerAddress | None:
    """Return the address of a listener in the form for dialling, or None if it does not say."""
    if not isinstance(listener, trio.SocketListener):
        return None
    try:
        address = checked_address(listener.socket.getsockname())
    except OSError:  # closed by now
        return None
    return dialled(address)


def dialled(address: Address | None) -> ListenerAddress | None:
    """Convert an address to the form for dialling: a scope (RFC 4007 section 11) goes into the host."""
    match address:
        case (host, port, _, scope):
            return (f"{host}%{scope}" if scope and "%" not in host else host, port)
        case _:
            return address


@lru_cache(maxsize=64)
def _shared(address: Hashable) -> Address | None:
    """Return `checked_address`, as the same object for all connections of a listener, to save memory."""
    return checked_address(address)


def checked_address(address: object) -> Address | None:
    """Return an address that came from a socket, or None if it is not one of our kinds."""
    match address:
        # Return the same object and not a copy, because each connection keeps its address.
        case (str(), int()) | (str(), int(), int(), int()):
            return cast("Address", address)
        case str(path) if path:
            return path
        case bytes(path) if path:  # Linux's abstract namespace
            return path.decode("utf-8", "backslashreplace").replace("\0", "@", 1)
        case _:
            return None


def check_address(address: object) -> Address:
    """Return an address that a user gave.

    Raises:
        TypeError: It is not an address.
    """
    found = checked_address(address)
    if found is None:
        raise TypeError(f"an address is (host, port) or the path of a socket, not {address!r}")
    return found


def format_address(address: Address | None) -> str | None:
    """Format an address for people: ``192.0.2.7:80``, ``[2001:db8::1]:80``, a path.

    The result is used in errors and logs, and the name of a Unix socket can be
    anything. So unprintable characters in it are escaped.
    """
    if address is None:
        return None
    if isinstance(address, str):
        if address.isprintable():
            return address
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in address)
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
