"""How much of everything: bounds on connections, handshakes and seconds.

Pure numbers, checked when they are made, and what to say when one is met.
`_serve/room.py` keeps to them.
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
"""By default, however many descriptors there may be: the memory is bounded too."""

MOST_PENDING = 15_000
MOST_PENDING_PER_ADDRESS = 1_000

APPLICATION_SHARE = 10
"""One in so many descriptors is left to listeners, files, and what handlers open."""

LEAST_APPLICATION_SHARE = 100

SMALL = 16
"""Bounds that are derived from ``connections`` do not go below this: there is nothing to share."""


class WhenFull(enum.Enum):
    """What to do with a new connection when ``Limits.connections`` are open."""

    WAIT = "wait"
    """Hold it, and accept no more: the kernel's backlog holds those behind it."""

    RESET = "reset"
    """Drop it at once, with a reset, so that it can go elsewhere."""


class Limit(enum.StrEnum):
    """A limit that a connection can meet. Equal to its name, which `Limits` has too, but one.

    Attributes:
        seen: What to say of it, with ``value`` to be filled in.
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
        "raise Limits.connections_per_address if the peers there are honest",
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
        What ``ulimit -n`` says; inf where there is no limit, or none to ask for.
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
    files = open_files(hard=limits.raise_open_files is True)
    if files == math.inf:
        return MOST_CONNECTIONS
    share = min(max(LEAST_APPLICATION_SHARE, files // APPLICATION_SHARE), files // 2)
    return max(1, min(MOST_CONNECTIONS, int(files - share)))


def _pending(limits: Limits) -> float:
    return _share_of_connections(limits, 5, 6, MOST_PENDING)


def _pending_per_address(limits: Limits) -> float:
    return _share_of_connections(limits, 1, 4, MOST_PENDING_PER_ADDRESS)


def _share_of_connections(limits: Limits, part: int, parts: int, most: int) -> int:
    if not isinstance(limits.connections, int):  # inf; or wrong, and refused soon
        return most
    return min(most, max(SMALL, limits.connections * part // parts))


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds for one server. Counts take ``math.inf`` for no limit.

    With all of the largest defaults reached at once (15,000 pending peers, 256
    greeted, 1,000 handshakes in the server role, and 1,744 open connections) a
    server on CPython 3.11 takes 265 MB, of which it has 28 before anybody comes
    (measured); what handlers keep comes on top.

    Attributes:
        raise_open_files: Whether a server that starts with these raises the
            process's limit of open files (``ulimit -n``) to the hard limit
            first. Off: it is the application's to decide.
        connections: Connections in all, from accept to close. By default what
            ``ulimit -n`` says, less a tenth, and less 100 at least, for
            listeners, files, and what handlers open; 18,000 at most. Where a
            handler opens a descriptor for each connection (a proxy), set it to
            less than half of what ``ulimit -n`` says.
        when_full: What to do beyond that, when no pending peer can make room.
        connections_per_address: Connections of one remote address (an IPv4
            address or an IPv6 /64), pending ones included. Beyond it the newest
            is reset. Off: many peers may be behind one address.
        connections_per_identity: Connections of one peer identity, which is one
            certificate, after their handshakes. Beyond it the newest is refused
            with the alert ``access_denied``. Off.
        pending: Peers that are in the detection window, or wait for their turn
            to handshake. At the limit, the address that has most of them makes
            room, and its oldest is dropped, so that a speaking peer is never
            kept out by silent ones. By default five sixths of ``connections``,
            and 15,000 at most: these cost about 60 MB (3.9 KB each, measured).
        pending_per_address: The same for one remote address. Beyond it the
            newest is reset. By default a quarter of ``connections``, and 1,000
            at most: no single host needs 200 new connections a second, but a
            load balancer that hides addresses does; behind one, set
            ``math.inf``. Peers without an IP address do not count.
        client_handshakes: Handshakes at once in the client role. The memory of
            a silent peer sits behind our ClientHello (about 90 KB, measured):
            256 of them take 23 MB. The others wait for their turn at 3.9 KB.
        server_handshakes: Handshakes at once in the server role. 1,000 take
            about 50 MB, and more than a second of CPU to complete.
        turn_timeout: Seconds that a peer may wait for its turn, after which it
            is dropped with a `LimitError`. That time does not count against
            the peer: ``handshake_timeout`` stops meanwhile. 30.
        greeting_patience: Seconds that a ClientHello of ours may go unanswered
            while others wait for their turn; then the peer may lose it. An
            answer begins as many seconds more. 0.5: two round trips around the
            globe. With 256 at once, a server so gets through 384 mute peers a
            second, since a quarter of the turns is left to peers that are
            slower; if such peers are then admitted, that time is learned, and
            more turns get it. Where nobody waits, only ``handshake_timeout``
            counts.
        opening_patience: The same for handshakes in the server role, in which
            there is nothing to answer: seconds that one may last while others
            wait for their turn. 3: one TCP retransmission.
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
        unsent_bytes: How much of what we send the kernel holds unsent for one TCP
            connection (TCP_NOTSENT_LOWAT, on Linux and macOS). 65,536, in place of Trio's
            16,384: bulk data costs a seventh less CPU (measured). Less of it keeps what
            is written last, such as a heartbeat, closer to the wire; more of it
            gained nothing. ``math.inf`` leaves only the send buffer as a bound.

    Raises:
        TypeError: A count is no whole number.
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
    """Return limits, the defaults for None.

    Raises:
        TypeError: It is something else, such as a number of connections.
    """
    if value is None:
        return Limits()
    if not isinstance(value, Limits):
        raise TypeError(f"limits must be trio_duplex.Limits(...), not {value!r}")
    return value
