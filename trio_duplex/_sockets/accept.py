"""Accepting a connection together with the peer's address that accept(2) returns.

``trio.SocketListener.accept`` drops the address, and ``getpeername`` fails on a socket
whose peer has sent a reset in the meantime, as port scans and health checks do.
"""

from __future__ import annotations

import errno

import trio

from trio_duplex._sockets.address import Address, checked_address, remote_address

_CLOSED = {errno.EBADF, errno.ENOTSOCK}

_PASSING = {
    getattr(errno, name)
    for name in (
        # Errors of the new connection, which Linux reports here: "should be treated like EAGAIN".
        *("ENETDOWN", "EPROTO", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH"),
        *("EOPNOTSUPP", "ENETUNREACH"),
        # Other errors in accept(2): the peer has left, a firewall forbids the connection, and
        # those that "various Linux kernels can return".
        *("ECONNABORTED", "EPERM", "ENOSR", "ESOCKTNOSUPPORT", "EPROTONOSUPPORT", "ETIMEDOUT"),
        "ECONNRESET",
    )
    if hasattr(errno, name)
}
"""Errors that concern only one connection, and not the listener, by the manual page accept(2)."""


async def accept(
    listener: trio.abc.Listener[trio.abc.Stream],
) -> tuple[trio.abc.Stream, Address | None]:
    """Accept a connection, like ``listener.accept()``, and return the peer's address, too.

    Returns:
        The stream, and the peer's address or None if the stream does not say.

    Raises:
        OSError: The listener failed, or the machine has no room.
        trio.ClosedResourceError: The listener was closed.
    """
    if not isinstance(listener, trio.SocketListener):
        stream = await listener.accept()
        return stream, remote_address(stream)
    while True:
        try:
            sock, address = await listener.socket.accept()
        except OSError as exc:
            if exc.errno in _CLOSED:
                raise trio.ClosedResourceError("this listener was already closed") from None
            if exc.errno not in _PASSING:
                raise
        else:
            return trio.SocketStream(sock), checked_address(address)
