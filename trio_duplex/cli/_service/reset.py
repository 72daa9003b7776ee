"""Close a TCP connection so that the other end sees a cut, and not an end."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import sys

import trio

if sys.platform != "win32":
    import fcntl
    import termios

DELIVERY = 5.0
"""Seconds in which the other end may take what was sent to it before it is cut."""

_LOOKS = (0.001, 0.005, 0.02, 0.1)
"""Seconds between two looks at what is still unsent; the last goes on."""


def reset_on_close(stream: trio.SocketStream | socket.socket) -> None:
    """Have the next close send a reset: half of what was to be sent must not look like all of it."""
    with contextlib.suppress(OSError):  # of one that is closed already
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def wait_delivered(stream: trio.SocketStream | socket.socket) -> None:
    """Wait until the other end has acknowledged all that was sent, `DELIVERY` seconds at most.

    A reset drops what it has not: so call this first, where the connection from which the data
    came has broken. It is shielded.
    """
    if sys.platform == "win32":
        return  # it does not tell
    sock = stream.socket if isinstance(stream, trio.SocketStream) else stream
    with trio.move_on_after(DELIVERY, shield=True):
        looks = itertools.chain(_LOOKS, itertools.repeat(_LOOKS[-1]))
        for look in looks:
            try:
                unsent = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
            except (OSError, ValueError):  # it is closed
                return
            if not int.from_bytes(unsent, sys.byteorder):
                return
            await trio.sleep(look)
