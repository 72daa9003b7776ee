"""Peers whose trouble OpenSSL or Python has no clear word for: one line of log each, and nothing on stderr."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from tests.support.authority import FLEET
from tests.support.hellos import vector
from tests.support.peers import (
    MemoryListener,
    RecordingStream,
    client_hello,
    each_role,
    receive_all,
)
from tests.support.records import HANDSHAKE, make_record, plain_alerts
from tests.support.trust import AskingContext, context, hear, mutual
from trio_duplex import Connection, HandshakeError, Role, serve_listeners
from trio_duplex._tls.handshake import MAX_CERTIFICATE_BYTES
from trio_duplex.events import Event, NegotiationFailed

pytestmark = pytest.mark.slow


OTHER = FLEET.issue("other.example")
PROXY = {
    "v1": b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 8443\r\n",
    "v2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12),
}
HUGE = FLEET.issue(*(f"{'x' * 60}.{'y' * 60}.{number:03}.example" for number in range(680)))
"""94 KB of certificate; OpenSSL takes up to 100."""


def asking_for(name: bytes) -> bytes:
    """A ClientHello for a name that Python would not send."""
    peer = AskingContext(ssl.PROTOCOL_TLS_CLIENT)
    peer.check_hostname = False
    peer.name, peer.objects = "z" * len(name), []
    return client_hello(peer).replace(b"z" * len(name), name)


async def idle(_: Connection) -> None:
    await trio.sleep_forever()


async def dial_in(
    listener: MemoryListener, message: bytes, *, awaits_hello: bool = False
) -> RecordingStream:
    stream = listener.connect()
    if awaits_hello:
        await stream.receive_some(4096)
    await stream.send_all(message)
    with trio.move_on_after(5):
        await receive_all(stream)
    await stream.aclose()
    return stream


@pytest.mark.parametrize("name", [b"\xff\xfe\xfd.example", "bücher.example".encode()])
async def test_a_name_that_is_not_ascii_is_one_line(
    name: bytes,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    autojump_clock: MockClock,
) -> None:
    """Python would print "Exception ignored in", and a traceback, for each hello."""
    caplog.set_level(logging.INFO, logger="trio_duplex")
    listener = MemoryListener()
    credentials = mutual(certificates_by_name={"other.example": OTHER})
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_listeners, idle, [listener], credentials))
        for _ in range(3):
            stream = await dial_in(listener, asking_for(name))
            assert plain_alerts(stream.received) == [112]
        await server.drain(1)
    lines = [each.getMessage() for each in caplog.records if "limits" not in each.getMessage()]
    assert [line.split()[0] for line in lines] == ["failed", "repeated"]
    assert "not ASCII" in lines[0]
    assert "count=2" in lines[1]
    assert all(each.levelno == logging.INFO and not each.exc_info for each in caplog.records)
    assert capfd.readouterr().err == ""


async def test_without_certificates_by_name_no_name_matters(autojump_clock: MockClock) -> None:
    error, stream = await meet_raw(asking_for(b"\xff\xfe\xfd.example"))
    assert isinstance(error, HandshakeError)  # it hung up, as we went on
    assert error.hung_up
    assert stream.received[:1] == bytes([HANDSHAKE])


@pytest.mark.parametrize("version", PROXY)
async def test_a_proxy_header_says_what_to_turn_off(
    version: str, autojump_clock: MockClock
) -> None:
    error, _ = await meet_raw(PROXY[version])
    assert f"PROXY protocol {version} header" in str(error)
    assert "turn off send-proxy" in str(error)


async def test_a_peer_without_safe_renegotiation_is_told_to_update(
    autojump_clock: MockClock,
) -> None:
    """RFC 5746 is of 2010: a ServerHello of TLS 1.2 that says nothing of it."""
    body = b"\x03\x03" + os.urandom(32) + b"\0" + b"\xc0\x2b" + b"\0" + vector(b"")
    answer = make_record(HANDSHAKE, b"\x02" + len(body).to_bytes(3, "big") + body)
    error, _ = await meet_raw(answer, awaits_hello=True)
    assert isinstance(error, HandshakeError)
    assert "legacy renegotiation" in (error.tls_reason or "")
    assert "RFC 5746" in (error.advice or "")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_certificate_that_fits_in_no_ticket(version: ssl.TLSVersion) -> None:
    error = await meet_huge(Role.SERVER, version, max_certificate_bytes=200_000)
    assert isinstance(error, HandshakeError)
    assert "internal error" in (error.tls_reason or "")
    assert "64 KB" in (error.advice or "")


@each_role
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_certificate_of_that_size_is_refused_by_default(
    role: Role, version: ssl.TLSVersion
) -> None:
    error = await meet_huge(role, version)
    assert isinstance(error, HandshakeError)
    assert "max_certificate_bytes" in (error.advice or "")


async def meet_huge(
    role: Role, version: ssl.TLSVersion, max_certificate_bytes: int = MAX_CERTIFICATE_BYTES
) -> Exception | None:
    # By the real clock: long certificates are read in a thread, for which the other does not wait.
    listener, errors = MemoryListener(), list[Exception]()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(
                serve_listeners,
                idle,
                [listener],
                mutual(session_tickets=1),
                observers=[_errors_into(errors)],
                window=0 if role is Role.CLIENT else 5,
                max_certificate_bytes=max_certificate_bytes,
            )
        )
        await hear(listener.connect(), role.other, context(role.other, HUGE, version=version))
        await server.drain(1)
    return errors[0] if errors else None


async def meet_raw(
    message: bytes, *, awaits_hello: bool = False
) -> tuple[Exception, RecordingStream]:
    listener, errors = MemoryListener(), list[Exception]()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(
                serve_listeners,
                idle,
                [listener],
                mutual(),
                observers=[_errors_into(errors)],
            )
        )
        stream = await dial_in(listener, message, awaits_hello=awaits_hello)
        await server.drain(1)
    (error,) = errors
    return error, stream


def _errors_into(errors: list[Exception]) -> Callable[[Event], None]:
    def observe(event: Event) -> None:
        if isinstance(event, NegotiationFailed):
            errors.append(event.error)

    return observe
