"""The exception tree: what a negotiation can end in, other than a connection.

Each exception carries its facts as attributes, and builds from them a message
that says role, peer, what was seen, the TLS reason, and what to do. Trio's own
``BrokenResourceError``, ``ClosedResourceError`` and ``BusyResourceError`` keep
their meaning on an open connection and have no place here.

Errors can be copied and pickled, as a worker process needs it. What the copy
lacks is what Python leaves out of every copy: cause, context and traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from trio_duplex._role import Role

# attrs makes the constructors: the first argument is the summary, all facts
# are keyword-only. Identity is what counts for an exception, not equality.


@attrs.define(slots=False, eq=False, kw_only=True)
class DuplexError(Exception):
    """A connection could not be negotiated; the base of all errors here.

    Attributes:
        summary: What went wrong, in one clause.
        role: The TLS role that we had taken, or None if none was taken yet.
        peer: The remote address as text, such as ``"192.0.2.7:4711"``, or None
            where the stream has none to tell.
        seen: What the peer did or sent, or None.
        tls_reason: What TLS says, such as ``"unknown_ca"``, or None.
        advice: What to do about it, or None.
    """

    summary: str = attrs.field(kw_only=False)
    role: Role | None = None
    peer: str | None = None
    seen: str | None = None
    tls_reason: str | None = None
    advice: str | None = None

    def __str__(self) -> str:
        who = f"peer {self.peer}" if self.peer else "peer"
        playing = f"as TLS {self.role}" if self.role else "no TLS role taken yet"
        facts = [who, playing]
        if self.seen:
            facts.append(f"saw {self.seen}")
        if self.tls_reason:
            facts.append(f"TLS says {self.tls_reason}")
        text = f"{self.summary} ({'; '.join(facts)})"
        return f"{text}: {self.advice}" if self.advice else text

    def __reduce__(self) -> tuple[Callable[..., DuplexError], tuple[object, ...], dict[str, Any]]:
        # Python would call the class with `args`, all of them positional, which is not how these
        # classes are called. So nothing is called: the facts are attributes, and are put back.
        return _new, (type(self), *self.args), self.__dict__


@attrs.define(slots=False, eq=False, kw_only=True)
class PeerClosedError(DuplexError):
    """The peer left before its opening was complete: EOF or a reset.

    Port scans and health checks look like this.

    Attributes:
        received: How many bytes of an opening had come.
        reset: Whether it left with a reset (RST) rather than an EOF (FIN).
    """

    received: int
    reset: bool


@attrs.define(slots=False, eq=False, kw_only=True)
class NotTLSError(DuplexError):
    """The peer does not begin as its TLS role must.

    Either its opening is no ClientHello, in which case no TLS object was ever
    made for it, or it answered our ClientHello in another protocol.

    Attributes:
        received: The first bytes themselves, at most 64 of them. What they
            look like is ``seen``, such as ``"an SSH banner"``.
    """

    received: bytes


@attrs.define(slots=False, eq=False, kw_only=True)
class HandshakeError(DuplexError):
    """The TLS handshake failed; ``__cause__`` is what ``ssl`` or the stream said.

    Attributes:
        hung_up: Whether the peer left in the middle of it, without an alert,
            and before it had said who it is.
    """

    hung_up: bool = False


@attrs.define(slots=False, eq=False, kw_only=True)
class HandshakeTimeoutError(HandshakeError):
    """The TLS handshake was not complete within ``handshake_timeout``.

    Attributes:
        timeout: The timeout that applied, in seconds.
    """

    timeout: float


@attrs.define(slots=False, eq=False, kw_only=True)
class GlareError(HandshakeError):
    """Both ends sent a ClientHello: the window closed before the peer's arrived.

    Attributes:
        missed_by: Seconds from the end of our detection window to the arrival
            of the peer's ClientHello.
        window: The detection window that applied, in seconds.
    """

    missed_by: float
    window: float


@attrs.define(slots=False, eq=False, kw_only=True)
class PeerRejectedError(DuplexError):
    """The peer, or we, may not take part in this connection."""


@attrs.define(slots=False, eq=False, kw_only=True)
class SelfConnectionError(PeerRejectedError):
    """The peer is ourselves: our own ClientHello, or our own identity, came back."""


@attrs.define(slots=False, eq=False, kw_only=True)
class LimitError(DuplexError):
    """The connection was dropped, though nothing was wrong with it, for want of room.

    Attributes:
        limit: The name of the limit in `Limits`, or ``"open files"``.
        value: Its value; for open files what ``ulimit -n`` says.
    """

    limit: str
    value: float


def _new(cls: type[DuplexError], *args: object) -> DuplexError:
    """Make an error that has only its ``args``; `pickle` and `copy` add the facts."""
    return cls.__new__(cls, *args)
