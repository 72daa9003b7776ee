"""What a TCP peer has sent and acknowledged, according to our kernel (TCP_INFO, Linux)."""

from __future__ import annotations

import socket
import struct
import sys

import attrs
import trio

from trio_duplex._sockets.queues import undelivered

SIZE = 136
"""Bytes of ``struct tcp_info`` up to and with ``tcpi_bytes_received`` (Linux 4.1)."""

TIMES = struct.Struct("=4I")
TIMES_OFFSET = 44
"""``tcpi_last_data_sent``, ``_ack_sent``, ``_data_recv``, ``_ack_recv``: milliseconds ago."""

COUNTS = struct.Struct("=2Q")
COUNTS_OFFSET = 120
"""``tcpi_bytes_acked`` and ``tcpi_bytes_received``."""


@attrs.frozen
class Progress:
    """How far the peer has come.

    Attributes:
        octets: The sum of bytes that it has acknowledged and sent so far.
        heard: Seconds since anything came from it, including an acknowledgment
            without data.
        waiting: How many of our bytes it has not acknowledged.
    """

    octets: int
    heard: float
    waiting: int


def is_tcp(stream: trio.abc.Stream | None) -> bool:
    """Whether the stream is a TCP connection on a system where `peer_progress` may work."""
    return (
        sys.platform == "linux"
        and isinstance(stream, trio.SocketStream)
        and stream.socket.family in (socket.AF_INET, socket.AF_INET6)
    )


def peer_progress(stream: trio.abc.Stream | None) -> Progress | None:
    """Ask the kernel; None if the stream is not a TCP connection, or the kernel has no answer."""
    if not is_tcp(stream):
        return None
    assert isinstance(stream, trio.SocketStream)
    try:
        info = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, SIZE)
    except OSError:  # closed in the meantime
        return None
    if len(info) < SIZE:
        return None
    _, _, data_received, ack_received = TIMES.unpack_from(info, TIMES_OFFSET)
    return Progress(
        octets=sum(COUNTS.unpack_from(info, COUNTS_OFFSET)),
        heard=min(data_received, ack_received) / 1000,
        waiting=undelivered(stream.socket),
    )
