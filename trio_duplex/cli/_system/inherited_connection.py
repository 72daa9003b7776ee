"""One connection that was accepted for us: inetd's way, and that of ``Accept=yes``."""

from __future__ import annotations

import os
import socket

import trio

STANDARD = (0, 1, 2)


class InheritedConnection(trio.abc.Listener[trio.SocketStream]):
    """A listener that gives the one stream that we inherited, and then is closed.

    A server whose listeners are closed ends when its connections have, so that
    the process serves this one and exits.

    Args:
        sock: The connected socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._stream: trio.SocketStream | None = trio.SocketStream(
            trio.socket.from_stdlib_socket(sock)
        )

    async def accept(self) -> trio.SocketStream:
        """Give the stream.

        Raises:
            trio.ClosedResourceError: It was given already.
        """
        await trio.lowlevel.checkpoint()
        if self._stream is None:
            raise trio.ClosedResourceError("the one connection was given already")
        stream, self._stream = self._stream, None
        return stream

    async def aclose(self) -> None:
        """Close the stream, if nobody has it."""
        if self._stream is not None:
            await self._stream.aclose()
            self._stream = None
        else:
            await trio.lowlevel.checkpoint()


def free_standard_streams(sock: socket.socket) -> None:
    """Point standard input, output and error away from the connection.

    inetd makes the connection all three; what we log would go to the peer, in
    plaintext.
    """
    connection = os.fstat(sock.fileno())
    for number in STANDARD:
        if number == sock.fileno():
            continue
        try:
            standard = os.fstat(number)
        except OSError:  # closed
            continue
        if (standard.st_dev, standard.st_ino) == (connection.st_dev, connection.st_ino):
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, number)
            if nowhere != number:
                os.close(nowhere)
