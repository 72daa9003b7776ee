"""A raw stream in, a connection out: `trio_duplex._stream.negotiate`.

Time is virtual here, and the streams are in memory: a window of 5 s takes milliseconds. Resets and ports
on the wire are in test_serve.py, the alerts of failed handshakes in test_handshake.py.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.peers import (
    RECORD_OVERFLOW,
    UNEXPECTED_MESSAGE,
    RawPeer,
    RecordingStream,
    ResettingStream,
    ScriptedStream,
    caught,
    client_hello,
    connection_pair,
    counting_credentials,
    credentials,
    dial,
    each_role,
    each_version,
    echo,
    memory_pair,
    peer_context,
    peer_stream,
    receive_all,
    receive_exactly,
    tcp_pair,
    unix_pair,
)
from tests.support.records import ALERT, HANDSHAKE, make_record, plain_alerts, recut, split_records
from trio_duplex import (
    Connection,
    Decision,
    DuplexError,
    GlareError,
    HandshakeError,
    HandshakeTimeoutError,
    NamedPeer,
    NotTLSError,
    PeerClosedError,
    PeerIdentity,
    PeerRejectedError,
    Reason,
    Role,
    SelfConnectionError,
    negotiate,
)
from trio_duplex._stream.detect import detect
from trio_duplex._stream.settings import Settings
from trio_duplex._stream.supervision import Supervision

pytestmark = pytest.mark.slow


Script = Callable[[RecordingStream], Awaitable[object]]

# What the wire carries besides TLS, and a word of what it must be called.
FOREIGN = {
    "HTTP": (b"GET / HTTP/1.1\r\nHost: node.example\r\n\r\n", "HTTP"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
    "SMTP": (b"220 mail.example ESMTP\r\n", "SMTP"),
    "PROXY v1": (b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 443\r\n", "PROXY"),
    "PROXY v2": (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12), "PROXY"),
    "SSLv2": (bytes.fromhex("802e0100020015000000100100800700c0"), "SSLv2"),
    "an alert": (bytes.fromhex("15030300020228"), "handshake_failure"),
    "a ServerHello": (bytes.fromhex("160303004a02000046"), "ServerHello"),
    "application data": (bytes.fromhex("1703030010") + bytes(16), "application data"),
    "zeros": (bytes(64), "zeros"),
    "random bytes": (bytes.fromhex("c0ffee00c0ffee00"), "c0ffee"),
    "one letter": (b"S", "S"),
}
NO_TLS = {name: case for name, case in FOREIGN.items() if case[0][0] not in {0x15, 0x16, 0x17}}


ADDRESS = ("192.0.2.7", 4711)


async def negotiated_with(script: Script, **options: Any) -> Connection:
    """Negotiate with a peer that follows this script until we have our result.

    Whatever the error, it says which peer it was, and what to do.
    """
    ours, theirs = memory_pair()
    given: dict[str, Any] = {"credentials": credentials(), "remote_address": ADDRESS} | options
    result: Connection | DuplexError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script, theirs)
        try:
            result = await negotiate(ours, **given)
        except DuplexError as exc:
            result = exc
        closed = ours.closed
        nursery.cancel_scope.cancel()
    if isinstance(result, DuplexError):
        assert closed, "a stream that cannot be used is closed"
        assert result.peer == "192.0.2.7:4711"
        assert result.advice
        raise result  # and not in a group
    assert result is not None
    return result


def sends(*steps: bytes | float, then: str = "stay") -> Script:
    """A script: bytes are sent, seconds are slept; then the peer stays, or leaves."""

    async def script(stream: RecordingStream) -> None:
        for step in steps:
            if isinstance(step, bytes):
                await stream.send_all(step)
            else:
                await trio.sleep(step)
        if then == "leave":
            await stream.aclose()
        else:
            await receive_all(stream)

    return script


# ------------------------------------------------------------------------------------ the decision


@each_version
@each_role
@pytest.mark.parametrize("dialled", [False, True])
async def test_the_fast_path_is_a_checkpoint(
    dialled: bool, role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    """Everything of the peer's is there already, wherever TLS lets that be."""
    ours, theirs = memory_pair()
    peer = peer_stream(theirs, role.other, version)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.do_handshake)
        await trio.testing.wait_all_tasks_blocked()
        with trio.testing.assert_checkpoints():
            if dialled:
                await negotiate(ours, credentials(), role=role)
            else:
                await negotiate(ours, credentials(), window=0 if role is Role.CLIENT else 5)


@each_version
@pytest.mark.parametrize("delay", [0, 0.001, 2.5, 4.999999])
async def test_bytes_within_the_window_make_us_the_server(
    version: ssl.TLSVersion, delay: float, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:

        async def peer() -> None:
            await trio.sleep(delay)
            async with peer_stream(theirs, Role.CLIENT, version) as tls:
                await tls.send_all(b"question")
                assert await receive_exactly(tls, 6) == b"answer"

        nursery.start_soon(peer)
        connection = await negotiate(ours, credentials())
        assert connection.decision == Decision(Role.SERVER, Reason.SPOKE, delay, 5.0)
        assert connection.role is Role.SERVER
        assert connection.tls_version == version.name.replace("_", ".")
        assert await receive_exactly(connection, 8) == b"question"
        await connection.send_all(b"answer")


@each_version
async def test_silence_through_the_window_makes_us_the_client(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:

        async def peer() -> None:
            async with peer_stream(theirs, Role.SERVER, version) as tls:
                await tls.send_all(b"question")
                assert await receive_exactly(tls, 6) == b"answer"

        nursery.start_soon(peer)
        connection = await negotiate(ours, credentials())
        assert connection.decision == Decision(Role.CLIENT, Reason.SILENT, 5.0, 5.0)
        assert connection.tls_version == version.name.replace("_", ".")
        assert await receive_exactly(connection, 8) == b"question"
        await connection.send_all(b"answer")
    assert trio.current_time() == 5.0
    assert time.perf_counter() - began < 5  # on a busy machine, too: the time was virtual


@pytest.mark.parametrize("window", [0, 0.5, 60])
async def test_the_window_is_as_long_as_we_say(
    window: float, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer_stream(theirs, Role.SERVER).do_handshake)
        connection = await negotiate(ours, credentials(), window=window)
    assert connection.decision == Decision(Role.CLIENT, Reason.SILENT, window, window)


async def test_an_unbounded_window_waits_for_the_peer_to_speak(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:

        async def peer() -> None:
            await trio.sleep(1e6)
            await peer_stream(theirs, Role.CLIENT).do_handshake()

        nursery.start_soon(peer)
        connection = await negotiate(ours, credentials(), window=math.inf)
    assert connection.decision == Decision(Role.SERVER, Reason.SPOKE, 1e6, math.inf)


async def test_a_stream_that_was_closed_here_is_no_peer_that_left() -> None:
    ours, theirs = unix_pair()
    async with theirs:
        await ours.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await negotiate(ours, credentials())


async def test_a_window_of_0_hears_a_peer_that_has_spoken_already() -> None:
    ours, theirs = unix_pair()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer_stream(theirs, Role.CLIENT).do_handshake)
            await trio.testing.wait_all_tasks_blocked()
            connection = await negotiate(ours, credentials(), window=0)
        assert connection.decision.reason is Reason.SPOKE
        await trio.aclose_forcefully(connection)
        await theirs.aclose()


async def test_for_a_peer_that_has_spoken_already_no_window_begins() -> None:
    """On a busy server that is most of them, and a window costs a cancel scope and a pass of the scheduler."""

    class NoStage(Supervision):
        def stage(self, deadline: float) -> trio.CancelScope:
            raise AssertionError

    ours, theirs = unix_pair()
    hello = client_hello()
    await theirs.send_all(hello)
    detected = await detect(ours, Settings(math.inf), None, NoStage())
    assert (detected.decision.role, detected.decision.reason) == (Role.SERVER, Reason.SPOKE)
    assert detected.opening == hello
    for stream in (ours, theirs):
        await stream.aclose()


async def test_the_last_look_finds_what_the_window_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A scheduler that is late: the bytes are in the kernel when it has given up on them."""
    ours, theirs = unix_pair()

    async def late(_: object) -> None:
        try:
            await trio.sleep_forever()
        finally:
            os.write(theirs.socket.fileno(), client_hello())

    monkeypatch.setattr(trio.lowlevel, "wait_readable", late)
    with trio.fail_after(10), pytest.raises(HandshakeTimeoutError) as caught:
        await negotiate(ours, credentials(), window=0.001, handshake_timeout=0.05)
    assert caught.value.role is Role.SERVER  # and not a client that meets glare
    await theirs.aclose()


@pytest.mark.parametrize("size", [*range(1, 6), 20, 42])
async def test_one_byte_of_a_client_hello_at_the_end_of_the_window_is_a_speaking_peer(
    size: int, autojump_clock: trio.testing.MockClock
) -> None:
    async def send(data: bytes, stream: RecordingStream) -> None:
        if not stream.sent:
            await trio.sleep(4.5)
            await stream.send_all(data[:size])
            await trio.sleep(10)
            await stream.send_all(data[size:])
        else:
            await stream.send_all(data)

    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer_stream(ScriptedStream(theirs, send), Role.CLIENT).do_handshake)
        connection = await negotiate(ours, credentials())
    assert connection.decision == Decision(Role.SERVER, Reason.SPOKE, 4.5, 5.0)
    assert trio.current_time() == 14.5


@each_version
@pytest.mark.parametrize("size", [1, 7, 100])
async def test_a_client_hello_in_small_records(
    version: ssl.TLSVersion, size: int, autojump_clock: trio.testing.MockClock
) -> None:
    async def send(data: bytes, stream: RecordingStream) -> None:
        await stream.send_all(data if stream.sent else recut(data, size))

    ours, theirs = memory_pair()
    peer = peer_stream(ScriptedStream(theirs, send), Role.CLIENT, version)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.do_handshake)
        connection = await negotiate(ours, credentials())
    assert connection.role is Role.SERVER


# -------------------------------------------------------------------- peers that leave in the window


@pytest.mark.parametrize("delay", [0.0, 2.5, 4.999])
@pytest.mark.parametrize("by_reset", [False, True])
async def test_a_peer_that_leaves_in_the_window(
    delay: float, by_reset: bool, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    mine, made = counting_credentials()
    stream: trio.abc.Stream = ResettingStream(ours) if by_reset else ours
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sends(0.0 if by_reset else delay, then="leave"), theirs)
        with pytest.raises(PeerClosedError) as caught:
            await negotiate(stream, mine)
    assert caught.value.received == 0
    assert caught.value.reset is by_reset
    assert caught.value.role is None
    assert isinstance(caught.value.__cause__, trio.BrokenResourceError) is by_reset
    assert ours.closed
    assert made == []


@pytest.mark.parametrize("size", range(1, 6))
async def test_a_peer_that_leaves_in_its_opening(
    size: int, autojump_clock: trio.testing.MockClock
) -> None:
    hello = client_hello()
    with pytest.raises(PeerClosedError) as caught:
        await negotiated_with(sends(hello[:size], 1.0, then="leave"))
    assert (caught.value.received, caught.value.reset) == (size, False)
    assert caught.value.role is Role.SERVER

    ours, _ = memory_pair()
    with pytest.raises(PeerClosedError) as caught:
        await negotiate(ResettingStream(ours, hello[:size]), credentials())
    assert (caught.value.received, caught.value.reset) == (size, True)
    assert caught.value.role is Role.SERVER


async def test_a_peer_that_falls_silent_in_its_opening(
    autojump_clock: trio.testing.MockClock,
) -> None:
    mine, made = counting_credentials()
    with pytest.raises(HandshakeTimeoutError) as caught:
        await negotiated_with(sends(4.0, client_hello()[:5]), credentials=mine)
    assert (caught.value.role, caught.value.timeout) == (Role.SERVER, 30.0)
    assert trio.current_time() == 4.0 + 30.0
    assert made == []


# --------------------------------------------------------------------------------- what is not TLS


@pytest.mark.parametrize(("sent", "seen"), FOREIGN.values(), ids=FOREIGN)
async def test_bytes_that_are_no_client_hello(
    sent: bytes, seen: str, autojump_clock: trio.testing.MockClock
) -> None:
    mine, made = counting_credentials()
    with pytest.raises(NotTLSError) as caught:
        await negotiated_with(sends(1.0, sent), credentials=mine)
    error = caught.value
    assert seen in (error.seen or "")
    assert error.received == sent[:64]
    assert error.role is Role.SERVER
    assert made == [], "no TLS object is ever made for them"
    assert trio.current_time() == 1.0, "they were known at once"


@each_role
async def test_an_opening_longer_than_a_record_may_be_is_told_so(
    role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    """It is TLS, so it is answered; to another protocol an alert would be noise."""
    alerts = []
    for opening in (b"\x16\x03\x01\xff\xff\x02", b"SSH-2.0-x\r\n"):
        ours, theirs = memory_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sends(0.0 if role is Role.SERVER else 5.5, opening), theirs)
            with pytest.raises(NotTLSError) as caught:
                await negotiate(ours, credentials())
            nursery.cancel_scope.cancel()
        assert caught.value.role is role
        alerts.append(plain_alerts(ours.sent))
    assert alerts == [[RECORD_OVERFLOW], []]


@each_version
async def test_a_client_hello_that_hides_its_random_is_refused_before_its_turn(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    """OpenSSL would wait for the rest, and take it; but RFC 8446 section 5.1 forbids empty records."""

    async def send(data: bytes, stream: RecordingStream) -> None:
        if not stream.sent:
            await stream.send_all(make_record(HANDSHAKE, data[5:25]) + make_record(HANDSHAKE, b""))
            await trio.sleep(0.5)
            data = make_record(HANDSHAKE, data[25:])
        await stream.send_all(data)

    ours, theirs = memory_pair()
    peer = peer_stream(ScriptedStream(theirs, send), Role.CLIENT, version)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caught, peer.do_handshake)
        with pytest.raises(HandshakeError) as refused:
            await negotiate(ours, credentials())
    assert refused.value.role is Role.SERVER
    assert len(plain_alerts(ours.sent)) == 1


async def test_foreign_bytes_one_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    mine, made = counting_credentials()
    # Five bytes of a record header, then no ClientHello.
    with pytest.raises(NotTLSError) as caught:
        await negotiated_with(
            sends(b"\x16", 1.0, b"\x03", 1.0, b"\x01", 1.0, b"\x00\x10", 1.0, b"\x02"),
            credentials=mine,
        )
    assert caught.value.received == b"\x16\x03\x01\x00\x10\x02"
    assert made == []


@pytest.mark.parametrize("delay", [0.0, 5.5], ids=["instead of a ClientHello", "in answer to ours"])
async def test_of_many_foreign_bytes_few_are_kept(
    delay: float, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(NotTLSError) as caught:
        await negotiated_with(sends(delay, b"GET /" + b"x" * 100_000))
    assert len(caught.value.received) == 64


async def test_no_tls_object_exists_before_the_decision(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    mine, made = counting_credentials()
    seen: list[tuple[float, int]] = []
    async with trio.open_nursery() as nursery:

        async def look() -> None:
            for _ in range(7):
                seen.append((trio.current_time(), len(made)))
                await trio.sleep(1)

        nursery.start_soon(look)
        nursery.start_soon(negotiate, ours, mine)
        await trio.sleep(6.5)
        assert made == [Role.CLIENT]
        nursery.start_soon(peer_stream(theirs, Role.SERVER).do_handshake)
    assert [count for moment, count in seen if moment < 5] == [0] * 5


@pytest.mark.parametrize(("sent", "seen"), NO_TLS.values(), ids=NO_TLS)
async def test_a_server_that_answers_in_another_protocol(
    sent: bytes, seen: str, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(stream: RecordingStream) -> None:
        await stream.receive_some()
        await stream.send_all(sent)

    with pytest.raises(NotTLSError) as caught:
        await negotiated_with(script)
    assert seen in (caught.value.seen or "")
    assert caught.value.received == sent[:64]
    assert caught.value.role is Role.CLIENT


async def test_a_banner_that_comes_after_the_window(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(NotTLSError) as caught:
        await negotiated_with(sends(5.5, b"220 mail.example ESMTP\r\n"))
    assert caught.value.role is Role.CLIENT


# ---------------------------------------------------------------------------- the handshake timeout


@pytest.mark.parametrize("timeout", [0.5, 7, 30])
@each_role
async def test_the_handshake_timeout(
    role: Role, timeout: float, autojump_clock: trio.testing.MockClock
) -> None:
    script = sends(1.0, client_hello()) if role is Role.SERVER else sends()
    with pytest.raises(HandshakeTimeoutError) as caught:
        await negotiated_with(script, handshake_timeout=timeout)
    assert caught.value.role is role
    assert caught.value.timeout == timeout
    assert trio.current_time() == (1.0 if role is Role.SERVER else 5.0) + timeout


async def test_an_unbounded_handshake_timeout(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:

        async def peer() -> None:
            await trio.sleep(1e6)
            await peer_stream(theirs, Role.SERVER).do_handshake()

        nursery.start_soon(peer)
        await negotiate(ours, credentials(), handshake_timeout=math.inf)
    assert trio.current_time() == 1e6


async def test_a_dribbled_client_hello_does_not_extend_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def dribble(stream: RecordingStream) -> None:
        for byte in client_hello():
            await stream.send_all(bytes([byte]))
            await trio.sleep(0.7)

    with pytest.raises(HandshakeTimeoutError):
        await negotiated_with(dribble)
    assert trio.current_time() == 30.0


@each_version
async def test_a_dribbled_server_flight_does_not_extend_it(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    async def send(data: bytes, stream: RecordingStream) -> None:
        for byte in data:
            await stream.send_all(bytes([byte]))
            await trio.sleep(0.7)

    async def dribble(stream: RecordingStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await peer_stream(ScriptedStream(stream, send), Role.SERVER, version).do_handshake()

    with pytest.raises(HandshakeTimeoutError):
        await negotiated_with(dribble)
    assert trio.current_time() == 5.0 + 30.0


async def test_a_peer_that_takes_nothing_does_not_extend_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, _ = trio.testing.lockstep_stream_pair()
    with pytest.raises(HandshakeTimeoutError):
        await negotiate(ours, credentials())
    assert trio.current_time() == 5.0 + 30.0


# ------------------------------------------------------------------------------------------- glare


def with_random(hello: bytes, *, largest: bool) -> bytes:
    """The same ClientHello with the largest of all randoms, or the least."""
    return hello[:11] + (b"\xff" if largest else b"\0") * 32 + hello[43:]


async def abort(stream: RecordingStream) -> None:
    """The end of a TLS client that knows nothing of crossings, when it reads our ClientHello."""
    await stream.send_all(bytes([ALERT, 3, 3, 0, 2, 2, UNEXPECTED_MESSAGE]))
    await stream.aclose()


@each_version
@pytest.mark.parametrize("larger", list(Role), ids=str)
@pytest.mark.parametrize("late", [0.0, 0.25, 3.0])
async def test_glare_says_by_how_much(
    version: ssl.TLSVersion, late: float, larger: Role, autojump_clock: trio.testing.MockClock
) -> None:
    """A peer that knows nothing of crossings has aborted, whoever would stay client."""
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:

        async def peer() -> None:
            # At `late` = 0, after our ClientHello and yet in the same instant.
            await (trio.sleep(5.0 + late) if late else theirs.stream.receive_some())
            await theirs.send_all(with_random(client_hello(), largest=larger is Role.SERVER))
            await abort(theirs)

        nursery.start_soon(peer)
        with pytest.raises(GlareError) as caught:
            await negotiate(ours, credentials(version))
    error = caught.value
    assert error.missed_by == late
    assert error.window == 5.0
    assert error.role is Role.CLIENT
    # The number to set would have been enough, and is not far off.
    (advised, was) = (float(number) for number in re.findall(r"[\d.]+(?= s)", error.advice or ""))
    assert 5.0 + late < advised < 5.0 + late + 0.101
    assert was == 5.0
    assert isinstance(error.__cause__, HandshakeError)


@pytest.mark.parametrize("role", [None, Role.CLIENT])
async def test_hello_in_answer_that_can_not_be_read_is_refused_with_an_alert(
    role: Role | None, autojump_clock: trio.testing.MockClock
) -> None:
    """Something shares its last record; or our role was given, and nothing may be resolved."""
    ours, theirs = memory_pair()

    async def peer() -> None:
        hello = client_hello()
        await trio.sleep(5.5)
        if role is None:
            size = int.from_bytes(hello[3:5], "big") + 1
            hello = hello[:3] + size.to_bytes(2, "big") + hello[5:] + b"\0"
        await theirs.send_all(hello)
        await receive_all(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer)
        with pytest.raises(GlareError) as caught:
            await negotiate(ours, credentials(), role=role)
        nursery.cancel_scope.cancel()
    assert plain_alerts(ours.sent) == [UNEXPECTED_MESSAGE]
    assert caught.value.tls_reason


@pytest.mark.parametrize("size", [1, 5, 200])
async def test_glare_with_a_client_hello_in_pieces(
    size: int, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    pieces = recut(client_hello(), size)

    async def peer() -> None:
        await trio.sleep(5.5)
        for start in range(0, len(pieces), 3):
            await theirs.send_all(pieces[start : start + 3])
            await trio.sleep(0.001)
        await abort(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer)
        with pytest.raises(GlareError) as caught:
            await negotiate(ours, credentials())
        nursery.cancel_scope.cancel()
    assert caught.value.missed_by == 0.5  # its first byte tells


async def test_one_of_ours_that_must_be_client_is_not_made_a_server(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """One that listens, and one that dials and is as slow to speak as the window is long."""
    listening, dialling = memory_pair()
    errors = []

    async def cross(stream: trio.abc.Stream, role: Role | None) -> None:
        await trio.sleep(1.0 if role else 0.0)
        with pytest.raises(GlareError) as caught:
            await negotiate(stream, credentials(), window=1.0, role=role)
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cross, listening, None)
        nursery.start_soon(cross, dialling, Role.CLIENT)
    assert [error.missed_by for error in errors] == [0.0, 0.0]
    assert trio.current_time() < 1.0 + 1.5


async def test_two_accepted_ends_of_one_process_that_cross_are_ourselves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Not glare: a relay between two of our own listeners looks like this."""
    errors = []

    async def one(stream: trio.abc.Stream) -> None:
        with pytest.raises(SelfConnectionError) as caught:
            await negotiate(stream, credentials(), window=1.0)
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        for stream in memory_pair():
            nursery.start_soon(one, stream)
    assert [error.role for error in errors] == [Role.CLIENT, Role.CLIENT]
    assert trio.current_time() < 1.0 + 1.5


async def test_glare_of_a_peer_that_leaves_in_its_client_hello(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(GlareError) as caught:
        await negotiated_with(sends(5.5, client_hello()[:20], then="leave"))
    assert caught.value.missed_by == 0.5
    assert "ClientHello" in (caught.value.seen or "")


async def test_a_crossing_client_hello_of_empty_records_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Nobody honest needs so many bytes to get to the random."""
    start, empty = bytes.fromhex("160303000101"), bytes.fromhex("1603030000")
    with pytest.raises(GlareError):
        await negotiated_with(sends(5.5, start + 2000 * empty))
    assert trio.current_time() < 5.5 + 1.5


async def test_a_crossing_client_hello_that_never_ends_meets_the_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(HandshakeTimeoutError):
        await negotiated_with(sends(5.5, client_hello()[:20]))
    assert trio.current_time() == 5.0 + 30.0


@each_role
async def test_glare_where_we_dialled(role: Role, autojump_clock: trio.testing.MockClock) -> None:
    """As client, the listener took us for silent; as server, a ClientHello is what we wait for."""
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        if role is Role.SERVER:
            nursery.start_soon(peer_stream(theirs, Role.CLIENT).do_handshake)
            connection = await dial(ours, role)
            assert connection.role is Role.SERVER
            return
        nursery.start_soon(sends(0.75, client_hello()), theirs)
        with pytest.raises(GlareError) as caught:
            await dial(ours, role)
        nursery.cancel_scope.cancel()
    assert caught.value.missed_by == 0.75
    assert "role=None" in (caught.value.advice or "")
    # We had no window, so none of ours can be named as the one to raise.
    assert re.findall(r"[\d.]+ s", caught.value.advice or "") == []


# -------------------------------------------------------------------------------------------- echo


async def return_to_sender(stream: RecordingStream) -> None:
    await echo(stream)


async def return_recut(stream: RecordingStream) -> None:
    hello = await stream.receive_some()
    for byte in recut(bytes(hello), 1):
        await stream.send_all(bytes([byte]))


@pytest.mark.parametrize("script", [return_to_sender, return_recut])
async def test_an_echo_of_our_client_hello_is_ourselves(
    script: Script, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(SelfConnectionError) as caught:
        await negotiated_with(script)
    assert caught.value.role is Role.CLIENT
    assert "ClientHello" in (caught.value.seen or "")
    assert trio.current_time() <= 5.0 + 1.0


async def test_an_echo_to_a_dialler_is_ourselves_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo, theirs)
        with pytest.raises(SelfConnectionError) as caught:
            await dial(ours, Role.CLIENT)
        nursery.cancel_scope.cancel()
    assert plain_alerts(ours.sent) == [UNEXPECTED_MESSAGE]
    assert isinstance(caught.value.__cause__, HandshakeError)


# ------------------------------------------------------------------- peers that fail the handshake


async def test_a_peer_that_leaves_after_our_client_hello(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def script(stream: RecordingStream) -> None:
        await stream.receive_some()
        await stream.aclose()

    with pytest.raises(HandshakeError) as caught:
        await negotiated_with(script)
    assert type(caught.value) is HandshakeError
    assert caught.value.role is Role.CLIENT
    assert caught.value.seen == "end of stream"


async def test_a_peer_that_leaves_after_its_client_hello(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(HandshakeError) as caught:
        await negotiated_with(sends(client_hello(), 1.0, then="leave"))
    assert type(caught.value) is HandshakeError
    assert caught.value.role is Role.SERVER


@each_role
async def test_a_peer_that_resets_in_the_handshake(
    role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    ours, _ = memory_pair()
    hello = client_hello() if role is Role.SERVER else b""
    stream = ResettingStream(ours, hello)
    with pytest.raises(HandshakeError) as caught:
        await (dial(stream, role) if role is Role.CLIENT else negotiate(stream, credentials()))
    assert type(caught.value) is HandshakeError
    assert caught.value.role is role
    assert isinstance(caught.value.__cause__, trio.BrokenResourceError)


async def test_an_alert_in_answer_to_our_client_hello_is_told_by_name(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(HandshakeError) as caught:
        await negotiated_with(sends(5.5, bytes.fromhex("15030300020246")))
    assert "protocol version" in (caught.value.tls_reason or "").replace("_", " ")


# ------------------------------------------------------------------------------------- what follows


@each_version
@each_role
async def test_data_that_came_with_the_end_of_the_handshake_is_not_lost(
    role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    """The peer's last flight and its first data in one segment, where TLS lets it."""
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        peer = RawPeer(theirs, role.other, version)
        nursery.start_soon(partial(peer.shake_hands, data=b"early"))
        connection = await negotiate(ours, credentials())
        assert await receive_exactly(connection, 5) == b"early"


@each_role
async def test_the_tls_stream_is_bare_over_the_bare_transport(
    role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer_stream(theirs, role.other).do_handshake)
        connection = await negotiate(ours, credentials())
    assert type(connection.tls) is trio.SSLStream
    assert connection.transport_stream is ours


@pytest.mark.parametrize("make", [tcp_pair, unix_pair])
@each_role
async def test_the_transport_is_the_socket_that_was_accepted(
    role: Role, make: Callable[[], Any]
) -> None:
    with trio.fail_after(10):
        ours, theirs = await make() if make is tcp_pair else make()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer_stream(theirs, role.other).do_handshake)
            window = 0 if role is Role.CLIENT else math.inf
            if role is Role.CLIENT:
                assert not ours.socket.is_readable()
            connection = await negotiate(ours, credentials(), window=window)
        assert connection.role is role
        assert connection.transport_stream is ours
        assert type(ours) is trio.SocketStream
        await trio.aclose_forcefully(connection)
        await theirs.aclose()


async def test_tls_within_tls(autojump_clock: trio.testing.MockClock) -> None:
    """Any stream will do, also one that cannot be half closed."""
    outer_server, outer_client = await connection_pair()
    server, client = await connection_pair(streams=(outer_server, outer_client))
    await server.send_all(b"inner")
    assert await receive_exactly(client, 5) == b"inner"


# ------------------------------------------------------------------------------------------- options


@each_version
async def test_a_session_is_resumed_in_the_client_role(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    theirs, mine = credentials(version, session_tickets=2), credentials(version)
    server, client = await connection_pair(server=theirs, client=mine)
    await server.send_all(b"x")  # takes the tickets of TLS 1.3 along
    await receive_exactly(client, 1)
    assert not client.session_reused
    server, client = await connection_pair(server=theirs, client=mine, session=client.session)
    assert client.session_reused
    assert server.session_reused
    await client.send_all(b"resumed")
    assert await receive_exactly(server, 7) == b"resumed"


async def test_a_session_has_no_part_in_the_server_role(
    autojump_clock: trio.testing.MockClock,
) -> None:
    mine = credentials(ssl.TLSVersion.TLSv1_2)
    _, client = await connection_pair(server=mine, client=mine)
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer_stream(theirs, Role.CLIENT).do_handshake)
        connection = await negotiate(ours, mine, session=client.session)
    assert connection.role is Role.SERVER
    assert not connection.session_reused


async def test_a_session_of_other_credentials_is_refused_at_the_door(
    autojump_clock: trio.testing.MockClock,
) -> None:
    _, client = await connection_pair(ssl.TLSVersion.TLSv1_2)
    ours, _ = memory_pair()
    with pytest.raises(ValueError):
        await negotiate(ours, credentials(), session=client.session)
    assert not ours.closed


@each_role
@pytest.mark.parametrize("given", [None, "given.example"])
@pytest.mark.parametrize("policy", [None, NamedPeer("node.example")])
async def test_the_name_that_is_sent_to_a_tls_server(
    policy: NamedPeer | None,
    given: str | None,
    role: Role,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The one that was given, or that of the policy; as TLS server there is none to send."""
    sent: list[object] = []
    context = peer_context(role.other)
    if role is Role.CLIENT:
        context.sni_callback = lambda tls, name, context: sent.append(name)
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer_stream(theirs, role.other, context=context).do_handshake)
        connection = await negotiate(
            ours, credentials(peer=policy), window=1, server_hostname=given
        )
    expected = given or (None if policy is None else "node.example")
    assert connection.role is role
    assert sent == ([expected] if role is Role.CLIENT else [])
    assert connection.server_hostname == (expected if role is Role.CLIENT else None)


@each_role
@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("192.0.2.7", 4711), "192.0.2.7:4711"),
        (("2001:db8::1", 4711, 0, 0), "[2001:db8::1]:4711"),
        ("/run/peer", "/run/peer"),
    ],
)
async def test_the_address_that_is_given_is_the_peers(
    role: Role, address: Any, text: str, autojump_clock: trio.testing.MockClock
) -> None:
    """For the connection, the policy, and in both kinds of errors."""
    asked: list[object] = []

    def policy(peer: PeerIdentity, role: Role, remote: object) -> bool:
        asked.append(remote)
        return len(asked) == 1

    mine = credentials(peer=policy)
    for attempt in range(2):
        ours, theirs = memory_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caught, peer_stream(theirs, role.other).do_handshake)
            if attempt == 0:
                connection = await negotiate(ours, mine, window=1, remote_address=address)
                assert (connection.role, connection.remote_address) == (role, address)
            else:
                with pytest.raises(PeerRejectedError) as refused:
                    await negotiate(ours, mine, window=1, remote_address=address)
                assert refused.value.peer == text
            nursery.cancel_scope.cancel()
    assert asked == [address, address]
    ours, theirs = memory_pair()
    await theirs.aclose()
    with pytest.raises(PeerClosedError) as left:
        await negotiate(ours, mine, window=1, remote_address=address)
    assert left.value.peer == text


@pytest.mark.parametrize("wrong", ["", 4711, ("192.0.2.7",), ("192.0.2.7", "4711"), (None, 1)])
async def test_what_is_no_address_is_refused_at_the_door(wrong: Any) -> None:
    ours, _ = memory_pair()
    with pytest.raises(TypeError):
        await negotiate(ours, credentials(), remote_address=wrong)
    assert not ours.closed


@each_version
@each_role
async def test_https_compatible_takes_a_bare_end_of_stream(
    role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    for https_compatible in (True, False):
        ours, theirs = memory_pair()
        async with trio.open_nursery() as nursery:
            peer = peer_stream(theirs, role.other, version)
            nursery.start_soon(peer.do_handshake)
            connection = await negotiate(ours, credentials(), https_compatible=https_compatible)
        await peer.send_all(b"all there is")
        await theirs.aclose()  # with no close_notify
        assert await receive_exactly(connection, 12) == b"all there is"
        if https_compatible:
            assert await connection.receive_some() == b""
        else:
            with pytest.raises(trio.BrokenResourceError) as caught:
                await connection.receive_some()
            assert isinstance(caught.value.__cause__, ssl.SSLEOFError)  # no reset


@each_version
@each_role
async def test_https_compatible_sends_no_close_notify(
    role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    for https_compatible in (True, False):
        ours, theirs = memory_pair()
        async with trio.open_nursery() as nursery:
            peer = peer_stream(theirs, role.other, version)
            nursery.start_soon(peer.do_handshake)
            connection = await negotiate(ours, credentials(), https_compatible=https_compatible)
        before = len(ours.sent)
        await connection.aclose()
        after = list(split_records(ours.sent[before:]))
        assert len(after) == (0 if https_compatible else 1)
        if https_compatible:
            with pytest.raises(trio.BrokenResourceError):
                await peer.receive_some()
        else:
            assert await peer.receive_some() == b""


@each_version
@pytest.mark.parametrize(
    ("server", "client", "chosen"),
    [
        (("a", "b"), ("b", "a"), "a"),
        (("a",), ("a", "b"), "a"),
        ((), (), None),
    ],
)
async def test_alpn(
    version: ssl.TLSVersion,
    server: tuple[str, ...],
    client: tuple[str, ...],
    chosen: str | None,
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends = await connection_pair(
        server=credentials(version, alpn=server), client=credentials(version, alpn=client)
    )
    assert [end.tls.selected_alpn_protocol() for end in ends] == [chosen, chosen]


async def test_a_cancel_scope_of_its_own_is_there_to_be_entered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    _, connection = await connection_pair()
    connection.cancel_scope.deadline = trio.current_time() + 3
    with connection.cancel_scope:
        await connection.receive_some()
    assert connection.cancel_scope.cancelled_caught
    assert trio.current_time() == 3


# ------------------------------------------------------------------------------- wrong arguments


NO_DURATIONS = [
    (-1, ValueError),
    (-math.inf, ValueError),
    (math.nan, ValueError),
    (True, TypeError),
    ("5", TypeError),
    (None, TypeError),
]


@pytest.mark.parametrize(("value", "error"), NO_DURATIONS)
@pytest.mark.parametrize("option", ["window", "handshake_timeout"])
async def test_invalid_duration_is_refused_at_once(
    option: str, value: Any, error: type[Exception], autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    with pytest.raises(error, match=option):
        await negotiate(ours, credentials(), **{option: value})
    assert not ours.closed
    # The stream has not been touched, and can be negotiated yet.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer_stream(theirs, Role.CLIENT).do_handshake)
        await negotiate(ours, credentials())


async def test_what_are_no_credentials_is_refused_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, _ = memory_pair()
    for wrong in (None, peer_context(Role.SERVER)):
        with pytest.raises(TypeError):
            await negotiate(ours, wrong)  # type: ignore[arg-type]
    assert not ours.closed


# ------------------------------------------------------------------------- cancellation and closing


@pytest.mark.parametrize("after", [2.0, 5.0, 7.0])
async def test_cancelled_in_the_window_or_in_the_handshake_it_closes_the_stream(
    after: float, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    with trio.move_on_after(after) as scope:
        await negotiate(ours, credentials())
    assert scope.cancelled_caught
    assert trio.current_time() == after
    assert ours.closed
    await receive_all(theirs)  # comes to an end


@each_role
async def test_cancelled_at_every_step_of_a_handshake_it_closes_the_stream(
    role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    done = False

    async def negotiate_in(scope: trio.CancelScope, stream: trio.abc.Stream) -> None:
        nonlocal done
        with scope:
            await negotiate(stream, credentials(), window=1)
            done = True

    async def shake_hands(stream: trio.abc.Stream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await peer_stream(stream, role.other).do_handshake()

    for steps in itertools.count():
        ours, theirs = memory_pair()
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(negotiate_in, scope, ours)
            if role is Role.CLIENT:
                await trio.sleep(1)
            nursery.start_soon(shake_hands, theirs)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert ours.closed is not done
            nursery.cancel_scope.cancel()
        if done:
            break
        assert steps < 1000
    assert steps > 5


class ClosingSlowly(RecordingStream):
    """A stream whose close takes its time, if it is given any."""

    async def aclose(self) -> None:
        await super().aclose()
        await trio.sleep(3600)


async def test_an_exception_in_flight_is_not_replaced_by_a_cancellation(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scope = trio.CancelScope()

    class Cancelling(ClosingSlowly):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.lowlevel.checkpoint()
            scope.cancel()
            return b"SSH-2.0-x\r\n"

    ours = Cancelling(memory_pair()[0])
    with pytest.raises(NotTLSError), scope:
        await negotiate(ours, credentials())
    assert ours.closed
    assert trio.current_time() == 0, "nor does the close take any time"


class BreakingAtClose(RecordingStream):
    """A stream that has something to say in its end."""

    async def aclose(self) -> None:
        await super().aclose()
        raise trio.BrokenResourceError


@pytest.mark.parametrize("dialled", [False, True])
async def test_an_exception_in_flight_is_not_replaced_by_one_of_the_close(
    dialled: bool, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    await theirs.send_all(b"SSH-2.0-x\r\n")
    stream = BreakingAtClose(ours)
    with pytest.raises(NotTLSError):
        await (dial(stream, Role.CLIENT) if dialled else negotiate(stream, credentials()))
    assert stream.closed


# -------------------------------------------------------------------------------------- dialling


@each_version
@each_role
async def test_a_fixed_role_needs_no_window(
    role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer_stream(theirs, role.other, version).do_handshake)
        connection = await dial(ours, role)
    assert connection.decision == Decision(role, Reason.RULE, 0.0, 0.0)
    assert connection.tls_version == version.name.replace("_", ".")
    assert trio.current_time() == 0


async def test_a_dialler_that_stays_silent_gets_its_turn_after_the_listeners_window(
    autojump_clock: trio.testing.MockClock,
) -> None:
    listening, dialling = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(negotiate, listening, credentials())
        connection = await dial(dialling, Role.SERVER)
    assert connection.role is Role.SERVER
    assert trio.current_time() == 5.0


@each_role
async def test_a_dialler_too_has_a_handshake_timeout(
    role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    ours, _ = memory_pair()
    with pytest.raises(HandshakeTimeoutError) as caught:
        await dial(ours, role, timeout=7)
    assert (caught.value.role, caught.value.timeout) == (role, 7)
    assert trio.current_time() == 7
    assert ours.closed


@pytest.mark.parametrize("leaves_by_reset", [False, True])
async def test_a_dialler_whose_listener_hangs_up(
    leaves_by_reset: bool, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    await theirs.aclose()
    stream = ResettingStream(ours) if leaves_by_reset else ours
    with pytest.raises(PeerClosedError) as caught:
        await dial(stream, Role.SERVER)
    assert (caught.value.received, caught.value.reset) == (0, leaves_by_reset)


async def test_a_cancelled_negotiation_has_closed_its_socket() -> None:
    with contextlib.ExitStack() as stack:
        ours, theirs = (stack.enter_context(each) for each in trio.socket.socketpair())
        with trio.CancelScope() as scope:
            scope.cancel()
            await negotiate(trio.SocketStream(ours), credentials())
        assert scope.cancelled_caught
        assert ours.fileno() == -1
        assert await theirs.recv(1) == b""
