"""Detecting a TCP peer that has disappeared: keepalive, and a bound on unacknowledged data.

Keepalive probes a silent peer. It does not run while data of ours is unacknowledged: the
kernel then retransmits that data, by default for 15 minutes, before it gives up.
TCP_USER_TIMEOUT bounds this time (RFC 5482). On Linux it also applies while a living peer
accepts nothing because its receive buffer is full.
"""

from __future__ import annotations

import contextlib
import math
import socket

import trio

DEFAULT_KEEPALIVE = 60.0
"""Seconds of silence before the first probe; less than the time after which NAT drops a connection."""

INTERVAL = 15
COUNT = 4
"""After the silence there are four probes, one each 15 s, before the kernel gives up."""

PATIENCE = INTERVAL * COUNT
"""Seconds that the probes take. The bound on unacknowledged data is the silence plus this
time, so that a peer that has disappeared is detected after the same time, whether or not we
were sending to it."""

MOST = 32_767
"""The most seconds before the first probe that Linux accepts."""

MOST_MILLISECONDS = 2**31 - 1
"""The largest TCP_USER_TIMEOUT. It is an ``unsigned int``, but Linux treats it as an ``int``."""

TCP_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
"""The socket option on Linux. On other systems only the kernel's own timeout applies."""

FAMILIES = {socket.AF_INET, socket.AF_INET6}


def default_ack_timeout(keepalive: float) -> float:
    """Return the default bound on unacknowledged data, in seconds: when keepalive would give up."""
    return keepalive + PATIENCE


def keep_alive(sock: trio.socket.SocketType, idle: float, ack_timeout: float | None = None) -> None:
    """Set both bounds for a TCP socket, or for all that a listening socket accepts (Linux, BSD).

    Args:
        sock: Any socket. If it is not TCP, nothing is done.
        idle: Seconds of silence before the first probe; ``math.inf`` changes nothing.
        ack_timeout: Seconds for sent data to be acknowledged; None for `default_ack_timeout`,
            ``math.inf`` changes nothing.
    """
    if sock.family not in FAMILIES:
        return
    if ack_timeout is None:
        ack_timeout = default_ack_timeout(idle)
    with contextlib.suppress(OSError):  # the socket may have been closed in the meantime
        if idle != math.inf:
            options = {
                "TCP_KEEPIDLE": min(max(1, round(idle)), MOST),
                "TCP_KEEPINTVL": INTERVAL,
                "TCP_KEEPCNT": COUNT,
            }
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in options.items():
                if hasattr(socket, name):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if ack_timeout != math.inf and TCP_USER_TIMEOUT is not None:
            milliseconds = min(max(1, round(ack_timeout * 1000)), MOST_MILLISECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, milliseconds)


def keep_alive_by_default(stream: trio.abc.Stream) -> None:
    """Set both bounds on a TCP connection, unless its owner has turned keepalive on."""
    if not isinstance(stream, trio.SocketStream) or stream.socket.family not in FAMILIES:
        return
    with contextlib.suppress(OSError):
        if not stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            owners = TCP_USER_TIMEOUT and stream.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT)
            keep_alive(stream.socket, DEFAULT_KEEPALIVE, math.inf if owners else None)
