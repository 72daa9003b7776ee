"""The exception tree: `trio_duplex._errors`."""

from __future__ import annotations

import pytest

from trio_duplex import (
    DuplexError,
    GlareError,
    HandshakeError,
    HandshakeTimeoutError,
    NotTLSError,
    PeerClosedError,
    PeerRejectedError,
    Role,
    SelfConnectionError,
)


@pytest.mark.parametrize(
    ("error", "parent"),
    [
        (DuplexError, Exception),
        (PeerClosedError, DuplexError),
        (NotTLSError, DuplexError),
        (HandshakeError, DuplexError),
        (HandshakeTimeoutError, HandshakeError),
        (GlareError, HandshakeError),
        (PeerRejectedError, DuplexError),
        (SelfConnectionError, PeerRejectedError),
    ],
)
def test_the_tree(error: type[Exception], parent: type[Exception]) -> None:
    assert error.__bases__ == (parent,)


def test_message_tells_all_that_is_known() -> None:
    error = HandshakeError(
        "the TLS handshake failed",
        role=Role.CLIENT,
        peer="192.0.2.7:4711",
        seen="a certificate",
        tls_reason="unknown_ca",
        advice="trust it",
    )
    text = str(error)
    for fact in (
        "the TLS handshake failed",
        "client",
        "192.0.2.7:4711",
        "a certificate",
        "unknown_ca",
        "trust it",
    ):
        assert fact in text


def test_message_without_facts_has_no_holes() -> None:
    error = DuplexError("it failed")
    assert (error.role, error.peer, error.seen, error.tls_reason, error.advice) == (None,) * 5
    assert str(error).startswith("it failed (")
    assert "None" not in str(error)
    assert "\n" not in str(error)


def test_facts_of_each() -> None:
    closed = PeerClosedError("left", received=3, reset=True)
    assert (closed.received, closed.reset) == (3, True)
    assert NotTLSError("no", received=b"SSH-").received == b"SSH-"
    assert HandshakeTimeoutError("late", timeout=30.0).timeout == 30.0
    glare = GlareError("crossed", missed_by=0.25, window=5.0)
    assert (glare.missed_by, glare.window) == (0.25, 5.0)


def test_identity_counts_not_equality() -> None:
    one, two = DuplexError("same"), DuplexError("same")
    assert one != two
    assert len({one, two}) == 2


def test_a_traceback_and_a_cause_can_be_attached() -> None:
    cause = ValueError("why")

    def fail() -> None:
        raise SelfConnectionError("ourselves") from cause

    with pytest.raises(PeerRejectedError) as caught:
        fail()
    assert caught.value.__cause__ is cause
    assert caught.value.__traceback__ is not None
    caught.value.add_note("attrs leaves room for notes")
