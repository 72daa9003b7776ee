"""Bounding how much of our data the kernel holds unsent: TCP_NOTSENT_LOWAT.

Trio sets 16 KiB on every TCP stream that it makes, so that a `send_all` returns when nearly all
of its data is on its way, and data that is written next does not have to wait behind a long
queue. But we write 256 KiB at once. With a bound of 16 KiB, the kernel accepts them only in many
writes, and we have to wait before each of them.
"""

from __future__ import annotations

import contextlib
import math
import socket

import trio

DEFAULT_UNSENT = 64 * 1024
"""Bytes. Bulk data over the loopback took 8 to 12 % less CPU than with Trio's 16 KiB (medians of six
runs each). Larger values gained nothing: 128 KiB, 256 KiB and no bound at all were a little worse."""

TRIOS_UNSENT = 16 * 1024
"""The bytes that Trio sets on each stream that it makes."""

MOST = 2**31 - 1

TCP_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
"""The socket option on Linux and macOS. On other systems only the send buffer is a bound."""


def bound_unsent(stream: trio.abc.Stream, size: float) -> None:
    """Bound what the kernel holds unsent for a TCP stream. Other streams are not changed.

    Args:
        stream: Any stream.
        size: Bytes; ``math.inf`` for no bound except the kernel's send buffer.
    """
    if TCP_NOTSENT_LOWAT is None or not isinstance(stream, trio.SocketStream):
        return
    most = MOST if size == math.inf else min(int(size), MOST)
    # It may be no TCP socket, or have been closed in the meantime.
    with contextlib.suppress(OSError):
        stream.socket.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, most)


def has_trios_bound(stream: trio.abc.Stream) -> bool:
    """Whether the stream still has the bound that Trio sets, so its owner has not changed it."""
    if TCP_NOTSENT_LOWAT is None or not isinstance(stream, trio.SocketStream):
        return False
    with contextlib.suppress(OSError):
        return stream.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT) == TRIOS_UNSENT
    return False
