"""The BIO pair: alerts reach the peer, tickets wait their turn: `trio_duplex._tls.handshake`.

An alert in the clear is read on the raw wire; one that is encrypted, by the peer's OpenSSL, whose word for
an alert that it was *sent* has ``ALERT`` in it (what it finds wrong itself has not).
"""

from __future__ import annotations

import math
import ssl
from datetime import UTC, datetime, timedelta

import pytest
import trio
import trio.testing

from tests.support.authority import AUTHORITY, STRANGER
from tests.support.peers import (
    HANDSHAKE_FAILURE,
    INTRUDER,
    PROTOCOL_VERSION,
    RECORD_OVERFLOW,
    TLS12,
    TLS13,
    UNKNOWN_CA,
    RawPeer,
    RecordingStream,
    client_hello,
    connection_pair,
    credentials,
    each_role,
    each_version,
    memory_pair,
    peer_context,
    pin,
    receive_all,
    receive_exactly,
    tcp_pair,
)
from tests.support.records import (
    APPLICATION_DATA,
    HANDSHAKE,
    make_record,
    plain_alerts,
    split_records,
)
from trio_duplex import Connection, HandshakeError, Role, negotiate
from trio_duplex._tls.last_words import LAST_WORDS_DRAIN, LAST_WORDS_TIMEOUT, send_last_words
from trio_duplex._tls.reasons import tls_reason


async def refuse(
    peer: RawPeer, ours: trio.abc.Stream, *, data: bytes = b"", window: float = 5.0
) -> tuple[HandshakeError, str]:
    """Fail to negotiate with this peer: what we say of it, and what the peer says of us."""
    refused = ""

    async def find_out() -> None:
        nonlocal refused
        refused = await peer.refused(data=data)
        await peer.stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(find_out)
        with pytest.raises(HandshakeError) as caught:
            await negotiate(ours, credentials(), window=window)
    return caught.value, refused


# --------------------------------------------------------------------- our alert reaches the peer


@each_version
@each_role
async def test_an_untrusted_peer_gets_unknown_ca(
    role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    context = peer_context(role.other, version, certificate=INTRUDER)
    error, refused = await refuse(RawPeer(theirs, role.other, context=context), ours)
    assert refused == "TLSV1_ALERT_UNKNOWN_CA"
    encrypted = (role, version) == (Role.SERVER, TLS13)
    assert plain_alerts(ours.sent) == ([] if encrypted else [UNKNOWN_CA])
    assert error.role is role
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
    assert error.advice


@each_version
@each_role
async def test_a_certificate_that_has_expired_reads_certificate_expired(
    role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    yesterday = datetime.now(UTC) - timedelta(days=1)
    old = AUTHORITY.issue_cert("old.example", not_after=yesterday)
    context = peer_context(role.other, version, certificate=old)
    error, refused = await refuse(RawPeer(theirs, role.other, context=context), ours)
    assert refused == "SSLV3_ALERT_CERTIFICATE_EXPIRED"
    assert "expired" in (error.tls_reason or "")


@each_version
async def test_a_client_without_a_certificate_gets_certificate_required(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    context = peer_context(Role.CLIENT, version, certificate=None)
    error, refused = await refuse(RawPeer(theirs, Role.CLIENT, context=context), ours)
    if version is TLS12:  # which has no alert of its own for it
        assert refused == "SSLV3_ALERT_HANDSHAKE_FAILURE"
        assert plain_alerts(ours.sent) == [HANDSHAKE_FAILURE]
    else:
        assert refused == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert "certificate" in (error.tls_reason or "")
    assert error.advice


async def test_a_client_of_tls_1_1_reads_protocol_version(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    context = peer_context(Role.CLIENT)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # or OpenSSL 3 would not even try
    pin(context, ssl.TLSVersion.TLSv1_1)
    error, refused = await refuse(RawPeer(theirs, Role.CLIENT, context=context), ours)
    assert refused == "TLSV1_ALERT_PROTOCOL_VERSION"
    assert plain_alerts(ours.sent) == [PROTOCOL_VERSION]
    assert error.advice


async def test_a_server_of_tls_1_1_reads_protocol_version(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    body = b"\x03\x02" + bytes(32) + b"\x00" + b"\xc0\x13" + b"\x00"  # RFC 4346, section 7.4.1.3
    server_hello = b"\x02" + len(body).to_bytes(3, "big") + body

    async def peer() -> None:
        await theirs.receive_some()
        await theirs.send_all(make_record(HANDSHAKE, server_hello))
        await receive_all(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer)
        with pytest.raises(HandshakeError) as caught:
            await negotiate(ours, credentials())
    assert plain_alerts(theirs.received) == [PROTOCOL_VERSION]
    assert caught.value.role is Role.CLIENT


async def test_no_shared_cipher_reads_handshake_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    context = peer_context(Role.CLIENT, TLS12)
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # our certificate is of elliptic curves
    error, refused = await refuse(RawPeer(theirs, Role.CLIENT, context=context), ours)
    assert refused == "SSLV3_ALERT_HANDSHAKE_FAILURE"
    assert plain_alerts(ours.sent) == [HANDSHAKE_FAILURE]
    assert error.tls_reason == "no shared cipher"


async def test_a_client_hello_that_goes_on_in_a_record_too_long_is_refused_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    hello = client_hello()
    first, rest = hello[:5], hello[5:]
    fragment = first[:3] + (20).to_bytes(2, "big") + rest[:20]  # of the right size; the next is not

    async def peer() -> None:
        await theirs.send_all(fragment + b"\x16\x03\x03\xff\xff" + bytes(100))
        await receive_all(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer)
        with pytest.raises(HandshakeError):
            await negotiate(ours, credentials())
    assert plain_alerts(theirs.received) == [RECORD_OVERFLOW]
    assert trio.current_time() < 2  # and not after the handshake timeout


async def test_a_later_handshake_record_that_is_too_long_reads_record_overflow(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Once the random is known, the rest of the ClientHello is OpenSSL's to judge."""
    ours, theirs = memory_pair()
    hello = client_hello()
    fragment = hello[:3] + (50).to_bytes(2, "big") + hello[5:55]

    async def peer() -> None:
        await theirs.send_all(fragment + b"\x16\x03\x03\xff\xff" + bytes(100))
        await receive_all(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer)
        with pytest.raises(HandshakeError):
            await negotiate(ours, credentials())
    assert plain_alerts(theirs.received) == [RECORD_OVERFLOW]


@each_version
@each_role
async def test_over_tcp_no_reset_overtakes_the_alert(role: Role, version: ssl.TLSVersion) -> None:
    """Even where much of what the peer sent has not been read when we give up on it."""
    with trio.fail_after(10):
        ours, theirs = await tcp_pair()
        context = peer_context(role.other, version, certificate=INTRUDER)
        peer = RawPeer(theirs, role.other, context=context)
        # Data right behind the peer's last flight: only TLS 1.3 lets a client send it so early.
        early = bytes(100_000) if (role, version) == (Role.SERVER, TLS13) else b""
        window = math.inf if role is Role.SERVER else 0
        _, refused = await refuse(peer, ours, data=early, window=window)
        assert refused == "TLSV1_ALERT_UNKNOWN_CA"


@each_version
@each_role
async def test_an_alert_of_the_peer_has_its_name(
    role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    """The peer does not trust *us*."""
    ours, theirs = memory_pair()
    context = peer_context(role.other, version, trust=STRANGER)
    peer = RawPeer(theirs, role.other, context=context)

    async def refuse_us() -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            await peer.shake_hands()
        await peer.flush()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refuse_us)
        if (role, version) == (Role.CLIENT, TLS13):
            # Connected is not accepted: the server has not judged our certificate yet.
            connection = await negotiate(ours, credentials())
            with pytest.raises(trio.BrokenResourceError) as late:
                await connection.receive_some()
            assert isinstance(late.value.__cause__, ssl.SSLError)
            assert tls_reason(late.value.__cause__) == "the peer's alert unknown_ca"
            return
        with pytest.raises(HandshakeError) as caught:
            await negotiate(ours, credentials())
    assert caught.value.tls_reason == "the peer's alert unknown_ca"
    assert caught.value.role is role


# --------------------------------------------------------------------------------- the last words


class Endless(RecordingStream):
    """A peer that never stops sending."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        self.received += bytes(65536)
        return bytes(65536)


async def test_last_words_end_the_stream(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = memory_pair()
    await theirs.send_all(b"unread")
    await theirs.send_eof()
    with trio.testing.assert_checkpoints():
        await send_last_words(ours, b"alert")
    assert ours.received == b"unread"
    assert trio.current_time() == 0


async def test_last_words_are_heard_and_then_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_last_words, ours, b"alert")
        assert await receive_all(theirs) == b"alert"
        assert trio.current_time() == 0
    assert trio.current_time() == LAST_WORDS_TIMEOUT  # and the peer did not hang up


async def test_last_words_are_bounded_if_nobody_listens(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, _ = trio.testing.lockstep_stream_pair()
    await send_last_words(ours, b"alert")
    assert trio.current_time() == LAST_WORDS_TIMEOUT == 1.0


async def test_last_words_are_sent_despite_cancellation(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await send_last_words(ours, b"alert")
    assert await receive_all(theirs) == b"alert"


async def test_last_words_do_not_drain_for_ever() -> None:
    ours = Endless(memory_pair()[0])
    await send_last_words(ours, b"alert")
    assert LAST_WORDS_DRAIN <= len(ours.received) < LAST_WORDS_DRAIN + 65536


async def test_last_words_on_a_stream_that_has_no_half_close(
    autojump_clock: trio.testing.MockClock,
) -> None:
    connection, other = await connection_pair()
    outer = connection.tls  # which is none
    await send_last_words(outer, b"alert")
    assert await receive_exactly(other, 5) == b"alert"
    assert trio.current_time() == 0


async def test_no_last_words_no_half_close(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = memory_pair()
    await send_last_words(ours, b"")
    await ours.send_all(b"still open")
    assert await receive_exactly(theirs, 10) == b"still open"
    assert trio.current_time() == 0


async def test_last_words_to_a_stream_that_is_gone() -> None:
    ours, theirs = memory_pair()
    await theirs.aclose()
    await send_last_words(ours, b"alert")
    await ours.aclose()
    await send_last_words(ours, b"alert")


async def test_last_words_are_not_sent_while_another_task_is_sending(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, b"data")
        await trio.testing.wait_all_tasks_blocked()
        assert not await send_last_words(ours, b"alert")
        assert await receive_exactly(theirs, 4) == b"data"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_last_words, ours, b"alert")
        assert await receive_all(theirs) == b"alert"


# -------------------------------------------------------------------------------- session tickets


async def with_tickets(stream: trio.abc.Stream, peer: RawPeer, tickets: int = 2) -> Connection:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.shake_hands)
        return await negotiate(stream, credentials(TLS13, session_tickets=tickets))


def wire(stream: RecordingStream, since: int) -> int:
    """How many records of encrypted data went out."""
    return sum(kind == APPLICATION_DATA for kind, _ in split_records(stream.sent[since:]))


@pytest.mark.parametrize("tickets", [0, 2, 3])
async def test_tickets_go_with_the_first_data_and_not_before(
    tickets: int, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    peer = RawPeer(theirs, Role.CLIENT, TLS13)
    connection = await with_tickets(ours, peer, tickets)
    since = len(ours.sent)
    await theirs.send_all(peer.encrypt(b"question"))
    assert await receive_exactly(connection, 8) == b"question"
    assert wire(ours, since) == 0
    await connection.send_all(b"answer")
    assert await peer.read() == b"answer"
    assert wire(ours, since) == tickets + 1
    await connection.send_all(b"more")
    assert await peer.read() == b"more"
    assert wire(ours, since) == tickets + 2
    assert peer.tls.session is not None
    assert peer.tls.session.has_ticket is bool(tickets)


async def test_a_peer_that_does_not_read_yet_is_not_made_to(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Over a stream without any buffer, tickets in the handshake would be a deadlock."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    peer = RawPeer(theirs, Role.CLIENT, TLS13)
    with trio.fail_after(20):
        connection = await with_tickets(ours, peer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.send_all, peer.encrypt(b"first"))
            assert await receive_exactly(connection, 5) == b"first"
            nursery.start_soon(connection.send_all, b"second")
            assert await peer.read() == b"second"


async def test_the_tickets_of_a_connection_that_is_only_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    peer = RawPeer(theirs, Role.CLIENT, TLS13)
    connection = await with_tickets(ours, peer)
    await connection.aclose()
    assert await peer.read() == b""
    assert peer.tls.session is not None
    assert peer.tls.session.has_ticket


@pytest.mark.parametrize("waiting", [False, True], ids=["at once", "in a waiting receive"])
@pytest.mark.parametrize("sent_before", [False, True])
async def test_an_alert_goes_behind_the_tickets(
    waiting: bool, sent_before: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Ahead of them it would be out of sequence, and the peer could not read it."""
    ours, theirs = memory_pair()
    peer = RawPeer(theirs, Role.CLIENT, TLS13)
    connection = await with_tickets(ours, peer)

    async def receive() -> None:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await connection.receive_some()
        assert isinstance(caught.value.__cause__, ssl.SSLError)

    async with trio.open_nursery() as nursery:
        if waiting:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
        if sent_before:
            await connection.send_all(b"data")
        await theirs.send_all(b"\x17\x03\x03\xff\xff" + bytes(100))
        if not waiting:
            nursery.start_soon(receive)
        if sent_before:
            assert await peer.read() == b"data"
        with pytest.raises(ssl.SSLError) as refused:
            await peer.read()
    assert refused.value.reason == "TLSV1_ALERT_RECORD_OVERFLOW"
    assert peer.tls.session is not None
    assert peer.tls.session.has_ticket


@pytest.mark.parametrize("how", ["data", "close"])
async def test_the_tickets_can_be_used(how: str, autojump_clock: trio.testing.MockClock) -> None:
    mine = credentials(TLS13, session_tickets=2)
    context = peer_context(Role.CLIENT, TLS13)
    session = None
    for resumed in (False, True):
        ours, theirs = memory_pair()
        peer = RawPeer(theirs, Role.CLIENT, context=context, session=session)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.shake_hands)
            connection = await negotiate(ours, mine)
        assert peer.tls.session_reused is resumed
        assert connection.session_reused is resumed
        if how == "data":
            await connection.send_all(b"x")
            await peer.read()
        else:
            await connection.aclose()
            assert await peer.read() == b""
        session = peer.tls.session


async def test_the_bare_tls_stream_sends_the_tickets_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    peer = RawPeer(theirs, Role.CLIENT, TLS13)
    connection = await with_tickets(ours, peer)
    await connection.tls.do_handshake()  # done already
    await connection.tls.send_all(b"bare")
    assert await peer.read() == b"bare"
    assert peer.tls.session is not None
    assert peer.tls.session.has_ticket


# ------------------------------------------------------------------------------- TLS in words


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("TLSV1_ALERT_UNKNOWN_CA", "the peer's alert unknown_ca"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "the peer's alert certificate_required"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "the peer's alert handshake_failure"),
        ("NO_SHARED_CIPHER", "no shared cipher"),
    ],
)
def test_reasons_in_the_words_of_tls(reason: str, words: str) -> None:
    error = ssl.SSLError(1, "")
    error.reason = reason
    assert tls_reason(error) == words


def test_an_error_without_a_reason_is_told_as_it_is() -> None:
    error = ssl.SSLError(1, "odd")
    error.reason = ""
    assert "odd" in tls_reason(error)
