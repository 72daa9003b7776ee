"""TCP keepalive: the kernel asks whether a peer that says nothing still lives."""

from __future__ import annotations

import contextlib
import math
import socket

import trio

DEFAULT_KEEPALIVE = 60.0
"""Seconds: below the time after which NAT forgets a connection."""

INTERVAL = 15
COUNT = 4
"""Four questions in a minute, after so many seconds of silence."""

MOST = 32_767
"""Seconds; Linux refuses more."""

FAMILIES = {socket.AF_INET, socket.AF_INET6}


def keep_alive(sock: trio.socket.SocketType, idle: float) -> None:
    """Turn keepalive on for a TCP socket, or for all that a listening one accepts (Linux, BSD).

    Args:
        sock: Any socket; what is not TCP is left alone.
        idle: Seconds of silence until the first question; ``math.inf`` changes nothing.
    """
    if sock.family not in FAMILIES or idle == math.inf:
        return
    options = {
        "TCP_KEEPIDLE": min(max(1, round(idle)), MOST),
        "TCP_KEEPINTVL": INTERVAL,
        "TCP_KEEPCNT": COUNT,
    }
    with contextlib.suppress(OSError):  # of one that was closed meanwhile
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def keep_alive_by_default(stream: trio.abc.Stream) -> None:
    """Turn keepalive on, if it is a TCP connection whose owner has not done so."""
    if not isinstance(stream, trio.SocketStream) or stream.socket.family not in FAMILIES:
        return
    with contextlib.suppress(OSError):
        if not stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            keep_alive(stream.socket, DEFAULT_KEEPALIVE)
