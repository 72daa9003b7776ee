"""What the kernel still has to deliver when we are about to close a connection."""

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
        """Return 0, because Windows does not provide this number."""
        return 0

else:

    def undelivered(sock: trio.socket.SocketType) -> int:
        """Return how many bytes the peer's kernel has not acknowledged. A FIN counts as one byte.

        The result is 0 for a socket that is not TCP: bytes written to a Unix socket are
        in the peer's queue at once, and stay there when we close. It is also 0 if the
        kernel does not provide the number.
        """
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return 0
        try:
            # Four bytes in host order; SIOCOUTQ on a socket, see tcp(7).
            return int(struct.unpack("i", ioctl(sock.fileno(), TIOCOUTQ, bytes(4)))[0])
        except (OSError, ValueError):  # closed in the meantime, or not supported on this system
            return 0


def reset_at_close(stream: trio.abc.Stream) -> None:
    """Make closing a TCP connection send a reset (RST) instead of a FIN."""
    if isinstance(stream, trio.SocketStream):
        with contextlib.suppress(OSError):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
