"""What the kernel still holds of a connection as we are about to close it."""

from __future__ import annotations

import contextlib
import socket
import struct

import trio

try:
    from fcntl import ioctl
    from termios import TIOCOUTQ
except ImportError:  # pragma: no cover - Windows

    def undelivered(sock: trio.socket.SocketType) -> int:  # noqa: ARG001 - as below
        """Not known here: 0."""
        return 0

else:

    def undelivered(sock: trio.socket.SocketType) -> int:
        """How many bytes the peer's kernel has not acknowledged, a FIN counted as one.

        0 for a socket that is not TCP: what was written to a Unix socket is in the
        peer's queue already, and stays there when we close. 0, too, where the kernel
        does not tell.
        """
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return 0
        try:
            # Four bytes in host order; SIOCOUTQ on a socket, see tcp(7).
            return int(struct.unpack("i", ioctl(sock.fileno(), TIOCOUTQ, bytes(4)))[0])
        except (OSError, ValueError):  # closed meanwhile, or no such question on this system
            return 0


def reset_at_close(stream: trio.abc.Stream) -> None:
    """Have a TCP connection closed with a reset (RST) in place of a FIN."""
    if isinstance(stream, trio.SocketStream):
        with contextlib.suppress(OSError):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
