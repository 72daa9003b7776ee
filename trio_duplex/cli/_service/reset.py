"""Close a TCP connection so that the other end sees a cut, and not an end."""

from __future__ import annotations

import contextlib
import socket
import struct

import trio


def reset_on_close(stream: trio.SocketStream | socket.socket) -> None:
    """Have the next close send a reset: half of what was to be sent must not look like all of it."""
    with contextlib.suppress(OSError):  # of one that is closed already
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
