"""The events that a server reports: frozen objects, for any number of observers.

An observer is a plain function of one event. It must not block. If it raises, that
is logged, and the observer is disabled.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import attrs

from trio_duplex._errors import PeerRejectedError
from trio_duplex._events.probes import Probe
from trio_duplex._role import Decision, Role
from trio_duplex._stream.connection import Connection


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened; the base of all events.

    Attributes:
        peer: The remote address as text, or None.
    """

    peer: str | None


@attrs.frozen(kw_only=True)
class ConnectionEvent(Event):
    """Something that happened to one connection.

    Attributes:
        number: The number of the connection. Each server counts from 1.
    """

    number: int


@attrs.frozen(kw_only=True)
class Accepted(ConnectionEvent):
    """A connection was accepted; its detection window begins."""


@attrs.frozen(kw_only=True)
class RoleDecided(ConnectionEvent):
    """The role is decided.

    Attributes:
        decision: The role, why, and how long it took.
    """

    decision: Decision


@attrs.frozen(kw_only=True)
class Crossed(ConnectionEvent):
    """Two ClientHellos crossed, and both ends can know who goes on as the TLS client.

    A peer that does not know how to resolve a crossing aborts instead. This event is then
    not reported, and the connection fails with a `~trio_duplex.GlareError`.

    Attributes:
        decision: The decision as it is from now on, with the role that we play.
            If the role has changed, ``waited`` is the time until the peer's
            ClientHello came.
    """

    decision: Decision


@attrs.frozen(kw_only=True)
class PeerChangedKind(ConnectionEvent):
    """A `~trio_duplex.windows.PeerMemory` has changed the kind of a peer.

    Attributes:
        key: The memory's key for the peer, such as its address.
        silent: Whether the peer now counts as silent, and gets the short window.
    """

    key: str
    silent: bool


@attrs.frozen(kw_only=True)
class PolicyFailed(ConnectionEvent):
    """A window policy raised or took too long, which is our own fault and not the peer's.

    The connection goes on, with the window that the policy has for this case.

    Attributes:
        error: What the policy raised; ``trio.TooSlowError`` if it took too long.
    """

    error: Exception


@attrs.frozen(kw_only=True)
class HandshakeCompleted(ConnectionEvent):
    """The peer is authenticated and admitted; the handler comes next.

    Attributes:
        connection: The open connection.
        seconds: From the decision to the end of the handshake.
    """

    connection: Connection
    seconds: float


@attrs.frozen(kw_only=True)
class NegotiationFailed(ConnectionEvent):
    """A connection ended before it reached its handler.

    Attributes:
        error: Why. If it is a `~trio_duplex.DuplexError`, the peer or the network
            is the cause; otherwise we are.
        probe: How the connection looks like a health check or a port scan, or
            None if it does not.
    """

    error: Exception
    probe: Probe | None = None


@attrs.frozen(kw_only=True)
class PeerRejected(NegotiationFailed):
    """A peer was not admitted.

    Attributes:
        error: Why not.
    """

    error: PeerRejectedError


@attrs.frozen(kw_only=True)
class HandlerFailed(ConnectionEvent):
    """An exception left a handler.

    Attributes:
        error: The exception; a group if there were several.
        peer_fault: Whether the peer or the network is the cause: the exception is
            a ``trio.BrokenResourceError`` or `~trio_duplex.DuplexError`, and it
            comes from the handler's own connection, not from another stream.
    """

    error: Exception
    peer_fault: bool


@attrs.frozen(kw_only=True)
class ConnectionClosed(ConnectionEvent):
    """A connection that had reached its handler is closed.

    Attributes:
        connection: The connection, closed.
        seconds: From the end of the handshake to the close.
    """

    connection: Connection
    seconds: float

    @property
    def role(self) -> Role:
        """The TLS role that we played."""
        return self.connection.role

    @property
    def bytes_received(self) -> int:
        """Bytes of application data received through the `~trio_duplex.Connection`."""
        return self.connection.bytes_received

    @property
    def bytes_sent(self) -> int:
        """Bytes of application data sent through the `~trio_duplex.Connection`."""
        return self.connection.bytes_sent


@attrs.frozen(kw_only=True)
class OwnCertificateExpired(Event):
    """A negotiation ended, with or without success, and a certificate of our own has expired.

    Peers refuse us then, in different ways, and not all of them say why. ``peer`` is the
    peer of that negotiation, although the fault is ours.

    Attributes:
        not_after: When the certificate expired.
    """

    not_after: datetime


@attrs.frozen(kw_only=True)
class LimitReached(Event):
    """A connection was dropped or delayed because a limit was reached.

    ``peer`` is the peer of that connection.

    Attributes:
        limit: The name of the limit in `~trio_duplex.Limits`, or ``"open files"``.
        value: The value of the limit; for open files, the one of ``ulimit -n``.
    """

    limit: str
    value: float


@attrs.frozen(kw_only=True)
class ListenerPaused(Event):
    """The machine has no room for one more connection: accepting pauses.

    Attributes:
        error: The error of ``accept``.
        seconds: How long accepting pauses.
    """

    error: OSError
    seconds: float


Observer = Callable[[Event], object]
"""A function that is called with each event; it must not block."""
