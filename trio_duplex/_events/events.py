"""What happened: frozen events, for any number of observers.

An observer is a plain function of one event. It must not block, and cannot do
harm: one that raises is logged and disabled.
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
        number: Which connection: they are counted from 1, for each server.
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

    A peer that does not know how to resolve it has aborted by then: the connection fails
    with a `~trio_duplex.GlareError`.

    Attributes:
        decision: The decision as it is from now on. It names the role that we
            play; if that has changed, ``waited`` counts until the peer's
            ClientHello came.
    """

    decision: Decision


@attrs.frozen(kw_only=True)
class PeerChangedKind(ConnectionEvent):
    """A `~trio_duplex.windows.PeerMemory` takes a peer for another kind from now on.

    Attributes:
        key: The memory's key for the peer, such as its address.
        silent: Whether it is known as a silent peer now, and gets the short window.
    """

    key: str
    silent: bool


@attrs.frozen(kw_only=True)
class PolicyFailed(ConnectionEvent):
    """A window policy raised or took too long: our own fault, not the peer's.

    The connection goes on, with the window that the policy names for this case.

    Attributes:
        error: What it raised; a ``trio.TooSlowError`` if it took too long.
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
        error: Why. A `~trio_duplex.DuplexError` is the peer's or the network's doing,
            anything else is ours.
        probe: How it looks like a health check or a port scan, or None if it
            does not.
    """

    error: Exception
    probe: Probe | None = None


@attrs.frozen(kw_only=True)
class PeerRejected(NegotiationFailed):
    """A peer that may not take part was turned away.

    Attributes:
        error: Why.
    """

    error: PeerRejectedError


@attrs.frozen(kw_only=True)
class HandlerFailed(ConnectionEvent):
    """An exception left a handler.

    Attributes:
        error: The exception; a group if there were several.
        peer_fault: Whether it is the peer's or the network's doing: a
            ``trio.BrokenResourceError`` or `~trio_duplex.DuplexError` that the
            handler's own connection raised, and no other stream of the handler's.
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
    """A negotiation ended, well or not, while a certificate of our own had expired.

    Peers refuse us then, each in its own words, and not all of them say why.
    ``peer`` is whose negotiation it was; the fault is ours.

    Attributes:
        not_after: When the certificate ended.
    """

    not_after: datetime


@attrs.frozen(kw_only=True)
class LimitReached(Event):
    """A connection was dropped or held up for want of room; ``peer`` is whose.

    Attributes:
        limit: The name of the limit in `~trio_duplex.Limits`, or ``"open files"``.
        value: Its value; for open files what ``ulimit -n`` says.
    """

    limit: str
    value: float


@attrs.frozen(kw_only=True)
class ListenerPaused(Event):
    """The machine has no room for one more connection: accepting pauses.

    Attributes:
        error: What ``accept`` said.
        seconds: Until the next try.
    """

    error: OSError
    seconds: float


Observer = Callable[[Event], object]
"""A function that is called with each event; it must not block."""
