"""Accepting a connection together with the address that accept(2) tells.

``trio.SocketListener.accept`` drops it, and a socket whose peer has sent a reset
meanwhile has no ``getpeername`` any more: port scans and health checks end like that.
"""

from __future__ import annotations

import errno

import trio

from trio_duplex._sockets.address import Address, checked_address, remote_address

_CLOSED = {errno.EBADF, errno.ENOTSOCK}

_PASSING = {
    getattr(errno, name)
    for name in (
        # Linux gives out errors of the new connection itself: "should be treated like EAGAIN".
        *("ENETDOWN", "EPROTO", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH"),
        *("EOPNOTSUPP", "ENETUNREACH"),
        # Others that accept(2) knows: the peer has left, a firewall forbids it, and what
        # "various Linux kernels can return".
        *("ECONNABORTED", "EPERM", "ENOSR", "ESOCKTNOSUPPORT", "EPROTONOSUPPORT", "ETIMEDOUT"),
        "ECONNRESET",
    )
    if hasattr(errno, name)
}
"""What is the matter with one connection only, by the manual page accept(2)."""


async def accept(
    listener: trio.abc.Listener[trio.abc.Stream],
) -> tuple[trio.abc.Stream, Address | None]:
    """Accept a connection, as ``listener.accept()`` does, and tell where its peer is.

    Returns:
        The stream, and the peer's address, or None where the stream has none to tell.

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
