"""Where a stream's ends are, as Trio's sockets tell it and as people read it."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import cast

import trio

Address = tuple[str, int] | tuple[str, int, int, int] | str
"""``(host, port)``; for IPv6 ``(host, port, flowinfo, scope)``; or a Unix socket's path."""

# What one dials: (host, port), IPv6 with its scope in the host; or a Unix socket's path.
ListenerAddress = tuple[str, int] | str


def local_address(stream: trio.abc.Stream) -> Address | None:
    """The address of our end, or None where the stream has none to tell."""
    if not isinstance(stream, trio.SocketStream):
        return None
    try:
        return _shared(stream.socket.getsockname())
    except OSError:
        return None


def remote_address(stream: trio.abc.Stream) -> Address | None:
    """The address of the peer's end, or None where the stream has none to tell.

    A socket forgets it when a reset arrives: ask early.
    """
    if not isinstance(stream, trio.SocketStream):
        return None
    try:
        return checked_address(stream.socket.getpeername())
    except OSError:
        return None


def listener_address(listener: trio.abc.Listener[trio.abc.Stream]) -> ListenerAddress | None:
    """Where a listener listens, as one dials it, or None where it has no address to tell."""
    if not isinstance(listener, trio.SocketListener):
        return None
    try:
        address = checked_address(listener.socket.getsockname())
    except OSError:  # closed by now
        return None
    return dialled(address)


def dialled(address: Address | None) -> ListenerAddress | None:
    """An address as one dials it: the scope of a link-local one (RFC 4007 section 11) in the host."""
    match address:
        case (host, port, _, scope):
            return (f"{host}%{scope}" if scope and "%" not in host else host, port)
        case _:
            return address


@lru_cache(maxsize=64)
def _shared(address: Hashable) -> Address | None:
    """What `checked_address` says: one object for all connections of a listener, not one for each."""
    return checked_address(address)


def checked_address(address: object) -> Address | None:
    """Return an address that a socket told, or None if there is nothing to tell."""
    match address:
        # What came is kept as it is: most connections have one, for as long as they last.
        case (str(), int()) | (str(), int(), int(), int()):
            return cast("Address", address)
        case str(path) if path:
            return path
        case bytes(path) if path:  # Linux's abstract namespace
            return path.decode("utf-8", "backslashreplace").replace("\0", "@", 1)
        case _:
            return None


def check_address(address: object) -> Address:
    """Give back what is an address.

    Raises:
        TypeError: It is something else.
    """
    found = checked_address(address)
    if found is None:
        raise TypeError(f"an address is (host, port) or the path of a socket, not {address!r}")
    return found


def format_address(address: Address | None) -> str | None:
    """Write an address as people do: ``192.0.2.7:80``, ``[2001:db8::1]:80``, a path.

    Whoever binds a Unix socket picks its name, so what a terminal or a log would
    take for more than text is escaped: it stands in the text of errors.
    """
    if address is None:
        return None
    if isinstance(address, str):
        if address.isprintable():
            return address
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in address)
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
