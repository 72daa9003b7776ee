"""How much of what we send the kernel holds unsent: TCP_NOTSENT_LOWAT.

Trio sets 16 KiB on every TCP stream that it makes, so that a `send_all` returns when nearly all
of its data is on its way, and what is written next is not stuck behind a long queue. We encrypt
64 KiB at once; with 16 KiB the kernel takes each such piece in several writes, and
each has a wait of its own.
"""

from __future__ import annotations

import contextlib
import math
import socket

import trio

from trio_duplex._sockets.keepalive import FAMILIES

DEFAULT_UNSENT = 64 * 1024
"""Bytes: one piece of what TLS encrypts at once. Sending in bulk over the loopback took 14 to 25 % less CPU than
with Trio's 16 KiB, and more than this gained nothing (128 KiB, 256 KiB, and no bound at all
were all a little worse)."""

TRIOS_UNSENT = 16 * 1024
"""Bytes, as Trio sets it on each stream that it makes."""

MOST = 2**31 - 1

TCP_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
"""Linux and macOS; elsewhere there is only the size of the send buffer."""


def bound_unsent(stream: trio.abc.Stream, size: float) -> None:
    """Bound what the kernel holds unsent for a TCP stream; other streams are left alone.

    Args:
        stream: Any stream.
        size: Bytes; ``math.inf`` for no bound but the kernel's send buffer.
    """
    if (
        TCP_NOTSENT_LOWAT is None
        or not isinstance(stream, trio.SocketStream)
        or stream.socket.family not in FAMILIES
    ):
        return
    with contextlib.suppress(OSError):  # of one that was closed meanwhile
        most = MOST if size == math.inf else min(int(size), MOST)
        stream.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, most)


def has_trios_bound(stream: trio.abc.Stream) -> bool:
    """Whether the stream is as Trio makes it: its owner has set nothing else."""
    if TCP_NOTSENT_LOWAT is None or not isinstance(stream, trio.SocketStream):
        return False
    with contextlib.suppress(OSError):
        return stream.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT) == TRIOS_UNSENT
    return False
