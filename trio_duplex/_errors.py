"""The exceptions that a negotiation can end in.

Each exception carries its facts as attributes, and builds a message from them
that says role, peer, what was seen, the TLS reason, and what to do. Trio's own
``BrokenResourceError``, ``ClosedResourceError`` and ``BusyResourceError`` keep
their meaning on an open connection, and are not part of this tree.

Errors can be copied and pickled, which worker processes need. Cause, context
and traceback are lost, because Python never copies them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from trio_duplex._role import Role

# attrs makes the constructors: the first argument is the summary, and all facts
# are keyword-only. Exceptions compare by identity (eq=False), as usual in Python.


@attrs.define(slots=False, eq=False, kw_only=True)
class DuplexError(Exception):
    """A connection could not be negotiated; the base of all errors here.

    Attributes:
        summary: What went wrong, in one clause.
        role: The TLS role that we had taken, or None if none was taken yet.
        peer: The remote address as text, such as ``"192.0.2.7:4711"``, or None
            if the stream does not say.
        seen: What the peer did or sent, or None.
        tls_reason: The reason that TLS gives, such as ``"unknown_ca"``, or None.
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
        # By default, Python would call the class with all facts as positional arguments, but they
        # are keyword-only. So the copy is made without a call, and gets its facts as attributes.
        return _new, (type(self), *self.args), self.__dict__


@attrs.define(slots=False, eq=False, kw_only=True)
class PeerClosedError(DuplexError):
    """The peer left before its opening was complete: EOF or a reset.

    Port scans and health checks look like this.

    Attributes:
        received: How many bytes of an opening had come.
        reset: Whether the peer left with a reset (RST) rather than an EOF (FIN).
    """

    received: int
    reset: bool


@attrs.define(slots=False, eq=False, kw_only=True)
class NotTLSError(DuplexError):
    """The peer does not begin as its TLS role must.

    Either it spoke first, but its opening is not a ClientHello (we then made no TLS
    object for it), or it answered our ClientHello in another protocol.

    Attributes:
        received: The first bytes, at most 64 of them. ``seen`` says what they
            look like, such as ``"an SSH banner"``.
    """

    received: bytes


@attrs.define(slots=False, eq=False, kw_only=True)
class HandshakeError(DuplexError):
    """The TLS handshake failed; ``__cause__`` is the error of ``ssl`` or of the stream.

    Attributes:
        hung_up: Whether the peer left in the middle of the handshake, without an
            alert and before it had presented a certificate.
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
    """Both ends sent a ClientHello: our window ended before the peer's ClientHello arrived.

    Attributes:
        missed_by: Seconds from the end of our detection window to the arrival
            of the peer's ClientHello.
        window: The detection window that applied, in seconds.
    """

    missed_by: float
    window: float


@attrs.define(slots=False, eq=False, kw_only=True)
class PeerRejectedError(DuplexError):
    """The peer is not admitted, or the peer has refused us."""


@attrs.define(slots=False, eq=False, kw_only=True)
class SelfConnectionError(PeerRejectedError):
    """The peer is ourselves: we received our own ClientHello, or our own certificate or key."""


@attrs.define(slots=False, eq=False, kw_only=True)
class LimitError(DuplexError):
    """The connection was dropped because a limit was reached; nothing was wrong with the peer.

    Attributes:
        limit: The name of the limit in `Limits`, or ``"open files"``.
        value: The value of the limit; for open files, the one of ``ulimit -n``.
    """

    limit: str
    value: float


def _new(cls: type[DuplexError], *args: object) -> DuplexError:
    """Make an error with only its ``args``; `pickle` and `copy` then add the facts."""
    return cls.__new__(cls, *args)
