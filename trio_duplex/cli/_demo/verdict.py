"""Comparing what both ends of a demo connection saw with what was expected.

Pure: no sockets, no clock. Each end reports what it saw by itself. The verdict comes
from comparing the two reports with each other.
"""

from __future__ import annotations

import attrs

from trio_duplex import DuplexError, Reason, Role


@attrs.frozen
class Ours:
    """What our end saw.

    Attributes:
        waited: Seconds until the role was decided, or the negotiation failed.
        role: The TLS role that we took, or None.
        reason: Why we took it, or None if we took no role.
        tls: TLS version and cipher, or None.
        received: What the peer sent, decrypted if there was TLS.
        error: The error that ended the connection, or None.
    """

    waited: float
    role: Role | None
    reason: Reason | None = None
    tls: tuple[str, str] | None = None
    received: bytes = b""
    error: Exception | None = None


@attrs.frozen
class Theirs:
    """What the peer's end saw.

    Attributes:
        sent: What it sent, before encryption.
        received: What came back.
        role: The TLS role of its completed handshake, or None.
        tls: TLS version and cipher, or None.
        error: The error that ended it, or None.
    """

    sent: bytes
    received: bytes = b""
    role: Role | None = None
    tls: tuple[str, str] | None = None
    error: Exception | None = None


@attrs.frozen
class Expected:
    """The expected result of a peer.

    Attributes:
        role: The TLS role that we must take, or None if we must not take one.
        reason: The reason that the decision must have, or None if there is none.
        error: The error that must end our end, or None if there must be TLS.
    """

    role: Role | None
    reason: Reason | None
    error: type[DuplexError] | None = None


def faults(expected: Expected, ours: Ours | None, theirs: Theirs, *, window: float) -> list[str]:
    """Find what is not as expected.

    Args:
        expected: The expected result of this peer.
        ours: What our end saw; None if our end has not ended.
        theirs: What the peer saw.
        window: The detection window, in seconds.

    Returns:
        A clause for each fault; empty if all is well.
    """
    if ours is None:
        return ["our end has not ended", *_their_error(theirs)]
    found: list[str] = []
    if not _is_a(ours.error, expected.error):
        found.append(f"our end ended with {_kind(ours.error)}, not with {_kind(expected.error)}")
    if ours.role is not expected.role:
        found.append(f"our role was {ours.role}, not {expected.role}")
    if ours.reason is not expected.reason:
        found.append(f"the reason was {ours.reason}, not {expected.reason}")
    if ours.reason is Reason.SILENT and ours.waited < window:
        found.append(f"silence was concluded after {ours.waited:.3f} s of {window:g} s")
    if ours.received != theirs.sent:
        found.append(f"it sent {_brief(theirs.sent)}, and we received {_brief(ours.received)}")
    answer = b"" if expected.error else theirs.sent
    if theirs.received != answer:
        found.append(f"it received {_brief(theirs.received)}, not {_brief(answer)}")
    their_role = None if expected.error or expected.role is None else expected.role.other
    if theirs.role is not their_role:
        found.append(f"its role was {theirs.role}, not {their_role}")
    if ours.tls != theirs.tls:
        found.append(f"we speak {_tls(ours.tls)}, and it {_tls(theirs.tls)}")
    elif (ours.tls is None) is (expected.error is None):
        found.append(f"there was {_tls(ours.tls)}")
    return found + _their_error(theirs)


def _brief(data: bytes, most: int = 16) -> str:
    """Show bytes in one line. They can be many: with a window of 0, a plaintext peer gets a ClientHello."""
    return repr(data) if len(data) <= 2 * most else f"{data[:most]!r}... ({len(data)} bytes)"


def _their_error(theirs: Theirs) -> list[str]:
    return [] if theirs.error is None else [f"the peer ended with {theirs.error!r}"]


def _is_a(error: Exception | None, kind: type[DuplexError] | None) -> bool:
    return error is None if kind is None else isinstance(error, kind)


def _kind(error: Exception | type[DuplexError] | None) -> str:
    if error is None:
        return "no error"
    return error.__name__ if isinstance(error, type) else type(error).__name__


def _tls(tls: tuple[str, str] | None) -> str:
    return " ".join(tls) if tls else "no TLS"
