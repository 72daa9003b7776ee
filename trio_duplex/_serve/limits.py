"""How much of everything: bounds on connections, handshakes and seconds.

Pure numbers, checked when they are made. `_serve/room.py` keeps to them.
"""

from __future__ import annotations

import enum
import math
from typing import Any

import attrs

from trio_duplex._seconds import check_seconds
from trio_duplex._sockets.keepalive import DEFAULT_KEEPALIVE


class WhenFull(enum.Enum):
    """What to do with a new connection when ``Limits.connections`` are open."""

    WAIT = "wait"
    """Hold it, and accept no more: the kernel's backlog holds those behind it."""

    RESET = "reset"
    """Drop it at once, with a reset, so that it can go elsewhere."""


def _count(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    name = attribute.name
    if value == math.inf:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number or math.inf, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value!r}")


def _seconds(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_seconds(attribute.name, value)


def _positive_seconds(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not check_seconds(attribute.name, value):
        raise ValueError(f"{attribute.name} must be more than 0 s; math.inf turns it off")


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds for one server. Counts take ``math.inf`` for no limit.

    The defaults are for a process with 20,000 file descriptors.

    Attributes:
        connections: Connections in all, from accept to close. 18,000: the
            other 2,000 descriptors are for listeners, files, and what handlers
            open. Where a handler opens one for each connection (a proxy), set
            it to less than half of what ``ulimit -n`` says.
        when_full: What to do beyond that, when no pending peer can make room.
        pending: Peers that are in the detection window, or wait for their turn
            to handshake. At the limit, the oldest makes room for the newest, so
            that a speaking peer is never kept out by silent ones. 15,000 of
            them cost about 60 MB (3.9 KB each, measured).
        pending_per_address: The same for one remote address (an IPv6 /64).
            Beyond it the newest is dropped. 1,000: no single host needs 200 new
            connections a second, but a load balancer that hides addresses does;
            behind one, set ``math.inf``. Peers without an IP address do not count.
        client_handshakes: Handshakes at once in the client role. The memory of
            a silent peer sits behind our ClientHello (about 90 KB, measured):
            256 of them take 23 MB. The others wait for their turn at 3.9 KB.
        server_handshakes: Handshakes at once in the server role. 1,000 take
            about 50 MB, and more than a second of CPU to complete.
        greeting_patience: Seconds that a ClientHello of ours may go unanswered
            while others wait for their turn; then the oldest is shed. 0.5: two
            round trips around the globe. With 256 at once, a server so gets
            through 512 mute peers a second. Where nobody waits, only
            ``handshake_timeout`` counts.
        opening_patience: Seconds that a handshake in the server role may last
            while others wait for their turn; then the oldest is shed. 3: one
            TCP retransmission.
        close_timeout: Seconds for a graceful close. 5: fits one retransmission.
        handler_timeout: Seconds for a handler, set as the deadline of
            ``connection.cancel_scope``. Off.
        idle_timeout: Seconds in which the peer neither sends a byte nor
            acknowledges one, after which a receive raises
            ``trio.BrokenResourceError``. Off.
        send_timeout: Seconds for one ``send_all``, or one
            ``wait_send_all_might_not_block``, after which it raises
            ``trio.BrokenResourceError``: the peer does not read. Off.
        keepalive: Seconds of silence on a TCP connection after which the kernel
            asks whether the peer still lives; it then gives it a minute. 60:
            below the time after which NAT forgets. ``math.inf`` turns it off.
        ack_timeout: Seconds for a TCP peer to acknowledge what we sent, after
            which the kernel resets the connection (TCP_USER_TIMEOUT, Linux;
            elsewhere it does so after many minutes). While something is
            unacknowledged, keepalive does not run, so without this a peer that
            is gone without a trace is found after 15 minutes. None: a minute
            more than ``keepalive``, so that it is found after the same time,
            whether or not we were sending. A peer that lives and takes nothing
            at all for so long is reset, too: raise it, or set ``math.inf``,
            where readers may pause for longer.

    Raises:
        TypeError: A count is no whole number.
        ValueError: A count is below 1, or a duration is negative or NaN.
    """

    connections: float = attrs.field(default=18_000, validator=_count)
    when_full: WhenFull = attrs.field(default=WhenFull.WAIT, converter=WhenFull)
    pending: float = attrs.field(default=15_000, validator=_count)
    pending_per_address: float = attrs.field(default=1_000, validator=_count)
    client_handshakes: float = attrs.field(default=256, validator=_count)
    server_handshakes: float = attrs.field(default=1_000, validator=_count)
    greeting_patience: float = attrs.field(default=0.5, validator=_seconds)
    opening_patience: float = attrs.field(default=3.0, validator=_seconds)
    close_timeout: float = attrs.field(default=5.0, validator=_seconds)
    handler_timeout: float = attrs.field(default=math.inf, validator=_positive_seconds)
    idle_timeout: float = attrs.field(default=math.inf, validator=_positive_seconds)
    send_timeout: float = attrs.field(default=math.inf, validator=_positive_seconds)
    keepalive: float = attrs.field(default=DEFAULT_KEEPALIVE, validator=_positive_seconds)
    ack_timeout: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_positive_seconds)
    )


def check_limits(value: object) -> Limits:
    """Return limits, the defaults for None.

    Raises:
        TypeError: It is something else, such as a number of connections.
    """
    if value is None:
        return Limits()
    if not isinstance(value, Limits):
        raise TypeError(f"limits must be trio_duplex.Limits(...), not {value!r}")
    return value
