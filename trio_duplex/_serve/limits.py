"""`Limits`: bounds on connections, handshakes and seconds, and the advice when one is reached.

They are pure numbers, checked when a `Limits` is made. `_serve/room.py` enforces them.
"""

from __future__ import annotations

import enum
import math
import sys
from typing import Any, Self

import attrs

from trio_duplex._seconds import check_seconds
from trio_duplex._sockets.keepalive import DEFAULT_KEEPALIVE
from trio_duplex._sockets.unsent import DEFAULT_UNSENT

if sys.platform != "win32":
    import resource

MOST_CONNECTIONS = 18_000
"""The default never exceeds this, however many file descriptors are allowed, to bound the memory."""

MOST_PENDING = 15_000
MOST_PENDING_PER_ADDRESS = 1_000

APPLICATION_SHARE = 10
"""One in this many file descriptors is left for listeners, files, and what handlers open."""

LEAST_APPLICATION_SHARE = 100

SMALL = 16
"""Defaults derived from ``connections`` are at least this, because a share of so few is useless."""


class WhenFull(enum.Enum):
    """What to do with a new connection when ``Limits.connections`` are open."""

    WAIT = "wait"
    """Hold it and stop accepting. Further connections wait in the kernel's backlog."""

    RESET = "reset"
    """Drop it at once, with a reset, so that it can go elsewhere."""


class Limit(enum.StrEnum):
    """A limit that a connection can reach. Each is equal to its name in `Limits`, except OPEN_FILES.

    Attributes:
        seen: What was reached, for messages, with a place for ``value``.
        advice: What to do about it.
    """

    CONNECTIONS = (
        "connections",
        "as many connections as there may be ({value:g})",
        "raise Limits.connections, and ulimit -n with it, if there is memory for more",
    )
    CONNECTIONS_PER_ADDRESS = (
        "connections_per_address",
        "as many connections of its address as there may be ({value:g})",
        "raise Limits.connections_per_address if these are all proper peers",
    )
    CONNECTIONS_PER_IDENTITY = (
        "connections_per_identity",
        "as many connections of its certificate as there may be ({value:g})",
        "find out why the peer leaves connections open, or raise Limits.connections_per_identity",
    )
    PENDING = (
        "pending",
        "as many pending peers as there may be ({value:g})",
        "raise Limits.pending if there is memory for more",
    )
    PENDING_PER_ADDRESS = (
        "pending_per_address",
        "as many pending peers of its address as there may be ({value:g})",
        "behind a load balancer or NAT, raise Limits.pending_per_address",
    )
    GREETING_PATIENCE = (
        "greeting_patience",
        "no answer to our ClientHello for {value:g} s, while others waited for their turn",
        (
            "if peers are slow and not mute, raise Limits.greeting_patience above the time that they "
            "take to answer, or Limits.client_handshakes if there is memory for more"
        ),
    )
    OPENING_PATIENCE = (
        "opening_patience",
        "a handshake that lasted for {value:g} s, while others waited for their turn",
        (
            "if peers are slow and not stalling, raise Limits.opening_patience above the time that "
            "their handshakes take, or Limits.server_handshakes if there is memory for more"
        ),
    )
    TURN_TIMEOUT = (
        "turn_timeout",
        "no turn to handshake for {value:g} s",
        (
            "raise Limits.client_handshakes (silent peers) or Limits.server_handshakes (speaking "
            "peers) if there is memory for more, or Limits.turn_timeout"
        ),
    )
    OPEN_FILES = (
        "open files",
        "as many open files as there can be ({value:g})",
        "raise ulimit -n, or lower Limits.connections",
    )

    seen: str
    advice: str

    def __new__(cls, name: str, seen: str, advice: str) -> Self:
        member = str.__new__(cls, name)
        member._value_ = name
        member.seen = seen
        member.advice = advice
        return member


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


def open_files(*, hard: bool = False) -> float:
    """Return how many descriptors this process may have, by its soft limit or its hard one.

    Args:
        hard: Whether to return the hard limit, which the soft one can be raised to.

    Returns:
        The value of ``ulimit -n``; inf if there is no limit, or no way to read it.
    """
    if sys.platform == "win32":
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[hard]
    return math.inf if limit == resource.RLIM_INFINITY else limit


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one.

    Raises:
        OSError, ValueError: The system does not allow it.
    """
    if sys.platform != "win32":
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _connections(limits: Limits) -> float:
    """Work out the default: ``min(ulimit_n - ulimit_n // 10, 18_000)``, and less of a low one."""
    files = open_files(hard=limits.raise_open_files is True)
    if files == math.inf:
        return MOST_CONNECTIONS
    share = min(max(LEAST_APPLICATION_SHARE, files // APPLICATION_SHARE), files // 2)
    return max(1, min(MOST_CONNECTIONS, int(files - share)))


def _pending(limits: Limits) -> float:
    """Work out the default: ``min(connections * 5 // 6, 15_000)``."""
    return _share_of_connections(limits, 5, 6, MOST_PENDING)


def _pending_per_address(limits: Limits) -> float:
    """Work out the default: ``min(connections // 4, 1_000)``."""
    return _share_of_connections(limits, 1, 4, MOST_PENDING_PER_ADDRESS)


def _share_of_connections(limits: Limits, part: int, parts: int, most: int) -> int:
    if not isinstance(
        limits.connections, int
    ):  # inf, or a wrong value that a validator will refuse
        return most
    return min(most, max(SMALL, limits.connections * part // parts))


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds for one server. Counts take ``math.inf`` for no limit.

    If all of the largest defaults are reached at once (15,000 pending peers, 256
    greeted peers, 1,000 handshakes in the server role, and 1,744 open connections),
    a server on CPython 3.11 takes 265 MB, 28 MB of them before the first connection
    (measured). Memory that handlers use comes on top.

    Attributes:
        raise_open_files: Whether a server that starts with these limits first
            raises the process's limit of open files (``ulimit -n``) to the hard
            limit. Off by default, because the application should decide this.
        connections: All connections, from accept to close. The default is the
            value of ``ulimit -n`` less a tenth, and less at least 100, for
            listeners, files, and what handlers open; at most 18,000. If the
            handler opens a descriptor for each connection (a proxy), set this
            to less than half of ``ulimit -n``.
        when_full: What to do with a connection beyond ``connections`` if no
            pending peer can make room for it.
        connections_per_address: Connections of one remote address (an IPv4
            address or an IPv6 /64), including pending ones. Beyond this limit,
            the newest connection is reset. Off by default, because many peers
            may be behind one address.
        connections_per_identity: Connections of one peer identity (one
            certificate), after their handshakes. Beyond this limit, the newest
            is refused with the alert ``access_denied``. Off by default.
        pending: Peers that are in the detection window, or wait for their turn
            to handshake. At the limit, the address with the most pending peers
            makes room: its oldest one is dropped. So silent peers never keep a
            speaking peer out. The default is five sixths of ``connections``,
            and at most 15,000, which take about 8 MB in their windows (0.55 KB
            each, measured), and about 60 MB in line for their turn (3.9 KB each).
        pending_per_address: The same for one remote address. Beyond this limit,
            the newest is reset. The default is a quarter of ``connections``,
            and at most 1,000. No single host needs 200 new connections a
            second, but a load balancer that hides addresses does: behind one,
            set ``math.inf``. Peers without an IP address do not count.
        client_handshakes: Handshakes at the same time in the client role. A
            silent peer needs most of its memory after our ClientHello (about
            90 KB, measured), so 256 of them take 23 MB. The others wait for
            their turn, and take 3.9 KB each.
        server_handshakes: Handshakes at the same time in the server role. 1,000
            take about 50 MB, and more than a second of CPU to complete.
        turn_timeout: Seconds that a peer may wait for its turn before it is
            dropped with a `LimitError`. ``handshake_timeout`` does not run
            during that time, because the peer can't help it. 30 by default.
        greeting_patience: Seconds that a peer may leave our ClientHello
            unanswered while others wait for their turn. After that it may lose
            its turn. Once it begins to answer, it gets the same time again. The
            default of 0.5 is two round trips around the globe. With 256
            handshakes at the same time, a server then gets through 384 mute
            peers a second: a quarter of the turns is reserved for slower peers.
            If such peers are then admitted, their time is learned, and more
            turns last that long. If no peer waits for a turn, only
            ``handshake_timeout`` applies.
        opening_patience: Seconds that a handshake in the server role may last
            while others wait for their turn; like ``greeting_patience``, but
            for the whole handshake. 3 by default, which is one TCP
            retransmission.
        close_timeout: Seconds for a graceful close. The default of 5 leaves
            time for one retransmission.
        handler_timeout: Seconds for a handler, set as the deadline of
            ``connection.cancel_scope``. Off by default.
        idle_timeout: Seconds in which the peer neither sends nor acknowledges
            a byte, after which a receive raises ``trio.BrokenResourceError``.
            Off by default.
        send_timeout: Seconds for one ``send_all``, or one
            ``wait_send_all_might_not_block``, after which it raises
            ``trio.BrokenResourceError``, because the peer does not read. Off by
            default.
        keepalive: Seconds of silence on a TCP connection after which the kernel
            probes whether the peer still lives. The peer then has a minute to
            answer. The default of 60 is less than the time after which NAT
            drops a connection. ``math.inf`` turns it off.
        ack_timeout: Seconds for a TCP peer to acknowledge what we sent, after
            which the kernel resets the connection (TCP_USER_TIMEOUT on Linux;
            other systems wait for many minutes). Keepalive does not run while
            something is unacknowledged, so without this limit it takes 15
            minutes to detect that a peer has disappeared. With None, the
            default, it is a minute more than ``keepalive``, so that this takes
            the same time whether or not we were sending. A living peer that
            accepts nothing for so long is reset, too: raise the limit, or set
            ``math.inf``, if peers may stop reading for longer.
        unsent_bytes: How much of our data the kernel holds unsent for one TCP
            connection (TCP_NOTSENT_LOWAT, on Linux and macOS). 65,536 by default,
            and not Trio's 16,384, because bulk data then costs up to a tenth less CPU
            (measured). With a smaller value, data that is written last, such as a
            heartbeat, waits behind less; a larger value gained nothing. With
            ``math.inf``, only the send buffer is a bound.

    Raises:
        TypeError: A count is not a whole number.
        ValueError: A count is below 1, or a duration is negative or NaN.
    """

    raise_open_files: bool = attrs.field(
        default=False, validator=attrs.validators.instance_of(bool)
    )
    connections: float = attrs.field(
        default=attrs.Factory(_connections, takes_self=True), validator=_count
    )
    when_full: WhenFull = attrs.field(default=WhenFull.WAIT, converter=WhenFull)
    connections_per_address: float = attrs.field(default=math.inf, validator=_count)
    connections_per_identity: float = attrs.field(default=math.inf, validator=_count)
    pending: float = attrs.field(default=attrs.Factory(_pending, takes_self=True), validator=_count)
    pending_per_address: float = attrs.field(
        default=attrs.Factory(_pending_per_address, takes_self=True), validator=_count
    )
    client_handshakes: float = attrs.field(default=256, validator=_count)
    server_handshakes: float = attrs.field(default=1_000, validator=_count)
    turn_timeout: float = attrs.field(default=30.0, validator=_seconds)
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
    unsent_bytes: float = attrs.field(default=DEFAULT_UNSENT, validator=_count)


def check_limits(value: object) -> Limits:
    """Return the limits that a user gave, or the defaults for None.

    Raises:
        TypeError: The value is something else, such as a number of connections.
    """
    if value is None:
        return Limits()
    if not isinstance(value, Limits):
        raise TypeError(f"limits must be trio_duplex.Limits(...), not {value!r}")
    return value
