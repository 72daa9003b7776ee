"""Announcements, as accepted connections hear them and diallers say them: `trio_duplex._stream.detect`."""

from __future__ import annotations

import math
import ssl
from functools import partial
from typing import Any, cast

import pytest
import trio
import trio.testing

from tests.support.peers import (
    RecordingStream,
    credentials,
    each_version,
    echo,
    memory_pair,
    peer_stream,
    receive_exactly,
)
from trio_duplex import (
    Connection,
    Decision,
    DuplexError,
    HandshakeTimeoutError,
    NotTLSError,
    PeerClosedError,
    Reason,
    Role,
    Server,
    negotiate,
    open_tcp_connection,
    serve_tcp,
    windows,
)
from trio_duplex._stream.detect import detect
from trio_duplex._stream.settings import Settings
from trio_duplex._stream.supervision import Supervision
from trio_duplex._wire.announcement import ANNOUNCEMENT

HELLO_REQUEST = bytes.fromhex("160303000400000000")

each_form = pytest.mark.parametrize(
    "announcement",
    [
        *(bytes([0x15, 3, minor, 0, 2, 1, 0x5A]) for minor in (1, 2, 3)),
        *(bytes([0x16, 3, minor, 0, 4]) + bytes(4) for minor in (1, 2, 3)),
    ],
    ids=bytes.hex,
)


async def announced(
    said: bytes, *, pause: float = 0.0, size: int | None = None, **options: Any
) -> Connection:
    """Negotiate with a TLS server that dialled and first says this, so many bytes at a time."""
    ours, theirs = memory_pair()

    async def peer() -> None:
        for start in range(0, len(said), size or len(said)):
            await theirs.send_all(said[start : start + (size or len(said))])
            await trio.sleep(pause)
        await peer_stream(theirs, Role.SERVER).do_handshake()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer)
        return await negotiate(ours, credentials(), **options)


@each_form
async def test_announced_role_is_taken_at_once(
    announcement: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    connection = await announced(announcement, window=math.inf)
    decision = connection.decision
    assert (decision.role, decision.reason, decision.waited) == (Role.CLIENT, Reason.ANNOUNCED, 0)
    assert trio.current_time() == 0.0


@each_form
@pytest.mark.parametrize("size", [1, 2, 5, 6])
async def test_in_pieces(
    size: int, announcement: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    """The rest of it is not in the window's time: the peer has spoken, and is not asked to hurry."""
    connection = await announced(announcement, size=size, pause=2.0, window=1.0)
    assert connection.decision.reason is Reason.ANNOUNCED
    assert connection.decision.waited == 2.0 * ((len(announcement) - 1) // size)


class Told(Supervision):
    """A server's part, which reports decisions."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.has_spoken = False

    def spoke(self) -> None:
        self.has_spoken = True

    def decided(self, decision: Decision) -> None:
        self.decisions.append(decision)


async def broken_off(stream: RecordingStream, theirs: RecordingStream) -> DuplexError:
    """What the detection raises if the peer sends a part of an announcement after half a second.

    By then it is known that the peer has spoken, and a server reports that.
    """
    told = Told()
    await trio.sleep(1.0)
    async with trio.open_nursery() as nursery:

        async def begin() -> None:
            await trio.sleep(0.5)
            await theirs.send_all(ANNOUNCEMENT[:3])
            await trio.sleep(2.0)
            await theirs.aclose()

        nursery.start_soon(begin)
        with pytest.raises(DuplexError) as caught:
            await detect(stream, Settings(2.5, 1.75), ("192.0.2.7", 4711), told)
        nursery.cancel_scope.cancel()
    assert told.has_spoken
    assert told.decisions == [Decision(Role.SERVER, Reason.SPOKE, waited=0.5, window=2.5)]
    assert caught.value.peer == "192.0.2.7:4711"
    assert caught.value.role is Role.SERVER
    assert caught.value.advice
    return caught.value


async def test_piece_of_one_that_never_goes_on_meets_the_handshake_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    error = await broken_off(ours, theirs)
    assert isinstance(error, HandshakeTimeoutError)
    assert error.timeout == 1.75
    assert "3 bytes" in (error.seen or "")
    assert trio.current_time() == 1.0 + 0.5 + 1.75


class LeavingStream(RecordingStream):
    """A stream whose peer has left, as soon as something was received."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, *, by_reset: bool) -> None:
        super().__init__(stream)
        self._by_reset = by_reset

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self.received:
            return await super().receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        if self._by_reset:
            raise trio.BrokenResourceError
        return b""


@pytest.mark.parametrize("by_reset", [False, True])
async def test_peer_that_leaves_in_its_announcement(
    by_reset: bool, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    error = await broken_off(LeavingStream(ours, by_reset=by_reset), theirs)
    assert isinstance(error, PeerClosedError)
    assert (error.received, error.reset) == (3, by_reset)
    assert "3 bytes" in (error.seen or "")


async def test_listener_that_has_gone_before_the_announcement(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    await theirs.aclose()
    with pytest.raises(PeerClosedError) as caught:
        await negotiate(ours, credentials(), role=Role.SERVER, announce=True)
    assert (caught.value.received, caught.value.reset) == (0, True)
    assert caught.value.role is Role.SERVER
    assert isinstance(caught.value.__cause__, trio.BrokenResourceError)


@pytest.mark.parametrize("form", [ANNOUNCEMENT, HELLO_REQUEST], ids=["alert", "HelloRequest"])
@pytest.mark.parametrize(
    "options",
    [{"announcements": False}, {"window": windows.SPEAKING}],
    ids=["refused", "rule"],
)
async def test_not_understood_if_told_so(
    form: bytes, options: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    """A peer of which a rule says that it always speaks can't make a client of us, either."""
    ours, theirs = memory_pair()
    await theirs.send_all(form)
    with pytest.raises(NotTLSError) as caught:
        await negotiate(ours, credentials(), **options)
    assert caught.value.role is Role.SERVER
    assert caught.value.received == form


@each_form
async def test_one_that_comes_after_the_window_is_passed_over(
    announcement: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    connection = await announced(announcement, window=0)
    assert connection.decision.reason is Reason.SILENT


async def test_stripped_once_and_exactly(autojump_clock: trio.testing.MockClock) -> None:
    """What follows is for TLS to judge: a second one is a warning, and garbage is no TLS server."""
    assert (await announced(2 * ANNOUNCEMENT)).decision.reason is Reason.ANNOUNCED
    with pytest.raises(NotTLSError) as caught:
        ours, theirs = memory_pair()
        await theirs.send_all(ANNOUNCEMENT + b"SSH-2.0-x\r\n")
        await negotiate(ours, credentials())
    assert caught.value.role is Role.CLIENT
    assert caught.value.received == b"SSH-2.0-x\r\n"


@each_version
async def test_dialler_announces_over_tcp(version: ssl.TLSVersion) -> None:
    """The listener would wait for ever, and does not have to."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tcp, host="127.0.0.1", window=math.inf)
            server: Server = await nursery.start(serve, echo, 0, credentials(version))
            ((host, port),) = cast("list[tuple[str, int]]", server.addresses)
            connection = await open_tcp_connection(
                host, port, credentials(version), role=Role.SERVER, announce=True
            )
            async with connection:
                assert connection.decision.reason is Reason.RULE
                await connection.send_all(b"hello")
                assert await receive_exactly(connection, 5) == b"hello"
                assert server.statistics().decided == {(Role.CLIENT, Reason.ANNOUNCED): 1}
            server.cancel_scope.cancel()


async def test_what_is_said_on_the_wire(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = memory_pair()

    async def peer(stream: RecordingStream) -> None:
        await peer_stream(stream, Role.CLIENT).do_handshake()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer, theirs)  # as most TLS clients do, it ignores the warning
        connection = await negotiate(ours, credentials(), role=Role.SERVER, announce=True)
    assert ours.sent.startswith(ANNOUNCEMENT + b"\x16")
    assert connection.role is Role.SERVER


@pytest.mark.parametrize("role", [None, Role.CLIENT])
async def test_only_a_server_can_announce(
    role: Role | None, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(ValueError, match="announce"):
        await negotiate(memory_pair()[0], credentials(), role=role, announce=True)
