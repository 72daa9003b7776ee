"""Accepting connections, each together with the peer's address that accept(2) returns.

``trio.SocketListener.accept`` drops the address, and ``getpeername`` fails on a socket
whose peer has sent a reset in the meantime, as port scans and health checks do.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

import trio

from trio_duplex._sockets.address import Address, Socket, checked_address, remote_address

BATCH = 64
"""Connections to accept before others may run: about a millisecond."""

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

Connected = Socket | trio.abc.Stream
"""An accepted connection: a socket that does not block, and is not wrapped yet; or a stream."""


class Entrance:
    """Accepts connections from one listener. A context manager.

    Where the listener is a socket of Trio's own, accept(2) is called directly, up to `BATCH` times
    before others run: Trio's ``accept`` lets the scheduler pass twice for each.

    Args:
        listener: Any listener of streams; it is not closed.
        after_batch: Called when no further connection is waiting, or after a whole batch, in both
            cases one turn of the scheduler later. Where `accept` goes by Trio's, each connection is a
            batch. It is not called if ``listener`` is no SocketListener, nor when `accept` raises.
    """

    def __init__(
        self,
        listener: trio.abc.Listener[trio.abc.Stream],
        after_batch: Callable[[], object] = lambda: None,
    ) -> None:
        self._listener = listener
        self._after_batch = after_batch
        self._batch_ends = False  # and the next call begins with that
        self._direct: socket.socket | None = None  # the same descriptor as the listener's
        self._left = 0  # of the batch

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._direct is not None:
            self._direct.detach()

    async def accept(self) -> tuple[Connected, Address | None]:
        """Accept a connection, like ``listener.accept()``, and return the peer's address, too.

        This is a checkpoint if it has to wait, and after each batch.

        Returns:
            The connection, and the peer's address or None if it does not say.

        Raises:
            OSError: The listener failed, or the machine has no room.
            trio.ClosedResourceError: The listener was closed.
        """
        if not isinstance(self._listener, trio.SocketListener):
            stream = await self._listener.accept()
            return stream, remote_address(stream)
        while True:
            try:
                if self._direct is not None:
                    sock, address = await self._accept_directly(self._listener, self._direct)
                else:
                    sock, address = await self._accept_by_trio(self._listener)
            except OSError as exc:
                self._left = 0
                if exc.errno in _CLOSED:
                    raise trio.ClosedResourceError("this listener was already closed") from None
                if exc.errno not in _PASSING:
                    raise
            else:
                return sock, checked_address(address)

    async def _accept_by_trio(self, listener: trio.SocketListener) -> tuple[Socket, object]:
        self._after_batch()  # of one connection; the call before has let others run
        sock, address = await listener.socket.accept()
        # A socket of another class may accept in another way.
        descriptor = listener.socket.fileno()
        if os.name == "posix" and type(sock) is type(listener.socket) and descriptor != -1:
            self._direct = socket.socket(fileno=descriptor)
            self._direct.settimeout(0)  # it is so already; this overrides setdefaulttimeout()
            self._left = BATCH - 1
            self._batch_ends = True
        return sock, address

    async def _accept_directly(
        self, listener: trio.SocketListener, direct: socket.socket
    ) -> tuple[Socket, object]:
        while True:
            if listener.socket.fileno() == -1:  # and the number may be another file's
                raise trio.ClosedResourceError("this listener was already closed")
            if self._batch_ends and not self._left:
                self._batch_ends = False
                await trio.lowlevel.checkpoint()
                self._after_batch()
                continue
            if not self._left:
                await trio.lowlevel.wait_readable(listener.socket)
                self._left = BATCH
                continue  # it may have been closed meanwhile
            try:
                sock, address = direct.accept()
            except BlockingIOError:
                self._left = 0
            else:
                self._left -= 1
                self._batch_ends = True
                sock.settimeout(0)
                return sock, address
