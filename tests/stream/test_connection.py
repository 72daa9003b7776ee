"""A negotiated stream: Trio's contract for streams, alerts, bounded closing: `trio_duplex._stream.connection`."""

from __future__ import annotations

import array
import itertools
import math
import ssl
import weakref
from collections.abc import Callable

import pytest
import trio
import trio.testing

from tests.support.peers import (
    TLS12,
    RawPeer,
    RecordingStream,
    ScriptedStream,
    connection_pair,
    credentials,
    each_role,
    each_version,
    memory_pair,
    peer_stream,
    receive_all,
    receive_exactly,
    reset,
    tcp_pair,
    unix_pair,
)
from tests.support.records import APPLICATION_DATA
from trio_duplex import Connection, Role, negotiate
from trio_duplex._stream.settings import CLOSE_TIMEOUT
from trio_duplex._tls.last_words import LAST_WORDS_TIMEOUT

pytestmark = pytest.mark.slow


async def connected(
    role: Role, version: ssl.TLSVersion | None = None
) -> tuple[Connection, RawPeer, RecordingStream]:
    """A connection of ours in this role, its peer, and the transport between."""
    ours, theirs = memory_pair()
    peer = RawPeer(theirs, role.other, version)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.shake_hands)
        connection = await negotiate(ours, credentials(), window=0 if role is Role.CLIENT else 5)
    return connection, peer, ours


# ------------------------------------------------------------------------------ Trio's own contract


each_way = pytest.mark.parametrize("bare", [False, True], ids=["direct", "bare"])
"""Whether `Connection.tls` is asked for at once, after which everything goes through it."""


async def open_pair(
    bare: bool,
    version: ssl.TLSVersion,
    streams: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
) -> tuple[Connection, Connection]:
    ends = await connection_pair(version, streams=streams)
    for end in ends:
        assert not bare or type(end.tls) is trio.SSLStream
    return ends


@each_version
@each_way
async def test_contract_in_memory(
    bare: bool, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    async def pair() -> tuple[Connection, Connection]:
        return await open_pair(bare, version)

    async def clogged() -> tuple[Connection, Connection]:
        return await open_pair(bare, version, trio.testing.lockstep_stream_pair())

    await trio.testing.check_half_closeable_stream(pair, clogged)


@each_version
async def test_contract_with_held_tickets(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    async def pair() -> tuple[Connection, Connection]:
        return await connection_pair(version, server=credentials(version, session_tickets=2))

    await trio.testing.check_half_closeable_stream(pair, None)


@each_version
@each_way
@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_contract_over_sockets(transport: str, bare: bool, version: ssl.TLSVersion) -> None:
    async def pair() -> tuple[Connection, Connection]:
        streams = await tcp_pair() if transport == "tcp" else unix_pair()
        ends = await open_pair(bare, version, streams)
        for end in ends:
            end.close_timeout = 0.3  # Trio's check sends without a pause until a close is over
        return ends

    with trio.fail_after(30):
        await trio.testing.check_half_closeable_stream(pair, None)


async def test_it_is_a_stream_and_tells_what_it_is() -> None:
    streams = await tcp_pair("::1")
    server, client = await connection_pair(streams=streams)
    async with server, client:
        assert isinstance(server, trio.abc.Stream)
        assert (server.role, client.role) == (Role.SERVER, Role.CLIENT)
        assert server.role is server.decision.role
        assert server.local_address == client.remote_address == streams[0].socket.getsockname()
        assert server.remote_address == client.local_address == streams[1].socket.getsockname()
        assert not server.cancel_scope.cancel_called
        assert server.cancel_scope.deadline == math.inf


async def test_it_can_be_weakly_referenced(autojump_clock: trio.testing.MockClock) -> None:
    server, client = await connection_pair()
    open_ = weakref.WeakSet([server, client])
    assert server in open_
    for end in server, client:
        await trio.aclose_forcefully(end)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        bytearray(3),
        memoryview(array.array("Q", range(1000))),
        memoryview(bytes(12)).cast("B", (3, 4)),
        memoryview(array.array("I", [])),
    ],
)
async def test_bytes_are_counted_and_not_items(
    data: bytes | bytearray | memoryview, autojump_clock: trio.testing.MockClock
) -> None:
    server, client = await connection_pair()
    await client.send_all(data)
    await client.send_all(b"!")
    expected = bytes(data) + b"!"
    assert await receive_exactly(server, len(expected)) == expected
    assert client.bytes_sent == server.bytes_received == len(expected)


async def test_the_remote_address_outlives_the_peer() -> None:
    ours, theirs = await tcp_pair()
    address = theirs.socket.getsockname()
    server, _ = await connection_pair(streams=(ours, theirs))
    reset(theirs)
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    await server.aclose()
    assert server.remote_address == address


@each_version
async def test_every_fast_path_is_a_checkpoint(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    server, client = await connection_pair(version)
    with trio.testing.assert_checkpoints():
        await client.send_all(b"twice")
    with trio.testing.assert_checkpoints():
        await client.send_all(b"")
    with trio.testing.assert_checkpoints():
        await client.wait_send_all_might_not_block()
    with trio.testing.assert_checkpoints():
        assert await server.receive_some(2) == b"tw"
    with trio.testing.assert_checkpoints():  # decrypted already
        assert await server.receive_some(3) == b"ice"
    for end in (client, server):
        with trio.testing.assert_checkpoints():
            await end.aclose()
        with trio.testing.assert_checkpoints():
            await end.aclose()
        for call in (
            end.receive_some,
            lambda end=end: end.send_all(b"x"),
            end.wait_send_all_might_not_block,
        ):
            with pytest.raises(trio.ClosedResourceError):
                await call()


async def test_two_tasks_at_once(autojump_clock: trio.testing.MockClock) -> None:
    server, _ = await connection_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await server.receive_some()
        nursery.cancel_scope.cancel()


@each_version
async def test_nothing_is_lost_when_a_receive_is_cancelled(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    server, client = await connection_pair(version)
    sent = bytes(range(256)) * 20
    received = b""
    ended = False

    async def send() -> None:
        for start in range(0, len(sent), 100):
            await client.send_all(sent[start : start + 100])
        await client.aclose()

    async def receive(scope: trio.CancelScope) -> None:
        nonlocal received, ended
        with scope:
            chunk = await server.receive_some(70)
            received += chunk
            ended = not chunk

    steps = itertools.cycle(range(12))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while not ended:
            scope = trio.CancelScope()
            async with trio.open_nursery() as attempt:
                attempt.start_soon(receive, scope)
                for _ in range(next(steps)):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
    assert received == sent


# ------------------------------------------------------------------------ alerts of an open connection


def corrupted(peer: RawPeer) -> bytes:
    """A record whose last byte has changed on the way."""
    good = peer.encrypt(b"data")
    return good[:-1] + bytes([good[-1] ^ 1])


def oversized(peer: RawPeer) -> bytes:
    """A record of more than TLS allows: 2 to the 14th and some, RFC 8446 section 5.2."""
    return OVERSIZED


OVERSIZED = bytes([APPLICATION_DATA]) + b"\x03\x03\xff\xff" + bytes(1000)


BAD_RECORDS = [
    pytest.param(corrupted, "SSLV3_ALERT_BAD_RECORD_MAC", id="bad_record_mac"),
    pytest.param(oversized, "TLSV1_ALERT_RECORD_OVERFLOW", id="record_overflow"),
]


@each_version
@each_role
@pytest.mark.parametrize(("bad", "alert"), BAD_RECORDS)
async def test_the_alert_of_a_fatal_record_error_reaches_the_peer(
    bad: Callable[[RawPeer], bytes],
    alert: str,
    role: Role,
    version: ssl.TLSVersion,
    autojump_clock: trio.testing.MockClock,
) -> None:
    connection, peer, transport = await connected(role, version)
    await peer.stream.send_all(peer.encrypt(b"good"))
    await peer.stream.send_all(bad(peer))
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            assert await receive_exactly(connection, 4) == b"good"
            for _ in range(2):  # broken it stays
                with pytest.raises(trio.BrokenResourceError):
                    await connection.receive_some()
            with pytest.raises(trio.BrokenResourceError):
                await connection.send_all(b"x")
            await connection.aclose()

        nursery.start_soon(receive)
        with pytest.raises(ssl.SSLError) as refused:
            await peer.read()
        assert refused.value.reason == alert
        assert await peer.stream.receive_some() == b"", "one alert, and the end of the stream"
        await peer.stream.aclose()
    assert transport.closed
    assert trio.current_time() < LAST_WORDS_TIMEOUT


@each_version
@each_role
async def test_over_tcp_no_reset_overtakes_that_alert(role: Role, version: ssl.TLSVersion) -> None:
    with trio.fail_after(10):
        ours, theirs = await tcp_pair()
        peer = RawPeer(theirs, role.other, version)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.shake_hands)
            window = 0 if role is Role.CLIENT else math.inf
            connection = await negotiate(ours, credentials(), window=window)
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    await receive_all(connection)
                await connection.aclose()

            nursery.start_soon(receive)
            await theirs.send_all(corrupted(peer) + bytes(100_000))
            with pytest.raises(ssl.SSLError) as refused:
                await peer.read()
            assert refused.value.reason == "SSLV3_ALERT_BAD_RECORD_MAC"
            await theirs.aclose()


@pytest.mark.parametrize("by", ["aclose", "send_all"])
async def test_the_alert_of_a_call_on_the_bare_tls_stream_is_sent_later(
    by: str, autojump_clock: trio.testing.MockClock
) -> None:
    connection, peer, _ = await connected(Role.SERVER)
    await peer.stream.send_all(corrupted(peer))
    with pytest.raises(trio.BrokenResourceError):
        await connection.tls.receive_some()
    async with trio.open_nursery() as nursery:

        async def go_on() -> None:
            if by == "send_all":
                with pytest.raises(trio.BrokenResourceError):
                    await connection.send_all(b"x")
            else:
                await connection.aclose()

        nursery.start_soon(go_on)
        with pytest.raises(ssl.SSLError) as refused:
            await peer.read()
        await peer.stream.aclose()
    assert refused.value.reason == "SSLV3_ALERT_BAD_RECORD_MAC"
    await connection.aclose()


async def test_an_alert_while_another_task_is_sending_is_sent_when_it_can_be(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Behind the data, in sequence."""
    go_on = trio.Event()
    slow = False

    async def send(data: bytes, stream: RecordingStream) -> None:
        if slow and not go_on.is_set():
            await go_on.wait()
        await stream.send_all(data)

    ours, theirs = memory_pair()
    peer = RawPeer(theirs, Role.CLIENT)

    class Slow(ScriptedStream):
        """One that knows when it is in use, as a socket does."""

        sending = False

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            if self.sending:
                raise trio.BusyResourceError
            self.sending = True
            await super().send_all(data)
            self.sending = False

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.shake_hands)
        connection = await negotiate(Slow(ours, send), credentials())
    slow = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.send_all, b"data")
        await trio.testing.wait_all_tasks_blocked()
        await theirs.send_all(corrupted(peer))
        with pytest.raises(trio.BrokenResourceError):
            await connection.receive_some()
        go_on.set()
        assert await peer.read() == b"data"
        nursery.start_soon(connection.aclose)
        with pytest.raises(ssl.SSLError) as refused:
            await peer.read()
        await theirs.aclose()
    assert refused.value.reason == "SSLV3_ALERT_BAD_RECORD_MAC"


async def test_an_alert_that_nobody_takes_holds_nothing_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    streams = trio.testing.lockstep_stream_pair()
    server, _ = await connection_pair(streams=streams)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams[1].send_all, OVERSIZED)
        with pytest.raises(trio.BrokenResourceError):
            await server.receive_some()
    assert trio.current_time() == LAST_WORDS_TIMEOUT


@each_role
async def test_a_ragged_end_and_a_reset_are_told_apart(
    role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    connection, peer, _ = await connected(role)
    await peer.stream.aclose()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await connection.receive_some()
    assert isinstance(caught.value.__cause__, ssl.SSLEOFError)


async def test_a_reset_has_another_cause_than_a_ragged_end() -> None:
    with trio.fail_after(10):
        ours, theirs = await tcp_pair()
        server, _ = await connection_pair(streams=(ours, theirs))
        reset(theirs)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await server.receive_some()
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        await server.aclose()


# ------------------------------------------------------------------------------------------ closing


@each_version
@each_role
async def test_closing_sends_close_notify_and_waits_for_none(
    role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    connection, peer, transport = await connected(role, version)
    await connection.aclose()
    assert transport.closed
    assert trio.current_time() == 0
    assert await peer.read() == b""


async def test_closing_is_bounded_if_the_peer_reads_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    streams = trio.testing.lockstep_stream_pair()
    server, _ = await connection_pair(streams=streams)
    await server.aclose()
    assert trio.current_time() == CLOSE_TIMEOUT == 5.0
    with pytest.raises(trio.ClosedResourceError):
        await server.send_all(b"x")
    await receive_all(streams[1])  # comes to an end: the transport was closed by force


async def test_closing_is_bounded_if_another_task_is_stuck_in_sending(
    autojump_clock: trio.testing.MockClock,
) -> None:
    streams = trio.testing.lockstep_stream_pair()
    server, _ = await connection_pair(streams=streams)
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await server.send_all(b"never read")

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await server.aclose()
    assert trio.current_time() == CLOSE_TIMEOUT


async def test_closing_by_force_takes_no_time(autojump_clock: trio.testing.MockClock) -> None:
    streams = trio.testing.lockstep_stream_pair()
    server, _ = await connection_pair(streams=streams)
    await trio.aclose_forcefully(server)
    assert trio.current_time() == 0
    assert await streams[1].receive_some() == b""


async def test_a_close_that_is_cancelled_closes(autojump_clock: trio.testing.MockClock) -> None:
    streams = trio.testing.lockstep_stream_pair()
    server, _ = await connection_pair(streams=streams)
    with trio.move_on_after(2) as scope:
        await server.aclose()
    assert scope.cancelled_caught
    assert trio.current_time() == 2
    await receive_all(streams[1])


async def test_closing_after_the_peer_has_gone() -> None:
    with trio.fail_after(10):
        for leave in (reset, lambda stream: stream.socket.close()):
            ours, theirs = await tcp_pair()
            server, _ = await connection_pair(streams=(ours, theirs))
            leave(theirs)
            await server.aclose()
            assert ours.socket.fileno() == -1


async def test_a_stream_that_was_unwrapped_is_its_owners(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, client = await connection_pair(TLS12)
    transport = server.transport_stream
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.tls.unwrap)
        raw, trailing = await server.tls.unwrap()
    assert raw is transport
    assert trailing == b""
    await server.aclose()
    await raw.send_all(b"in the clear")


@each_role
async def test_a_connection_may_be_used_as_a_context(
    role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    connection, peer, transport = await connected(role)
    async with connection:
        await connection.send_all(b"bye")
    assert transport.closed
    assert await peer.read() == b"bye"
    assert await peer.read() == b""


async def test_data_of_a_megabyte_each_way() -> None:
    data = bytes(range(256)) * 4096
    with trio.fail_after(30):
        server, client = await connection_pair(streams=unix_pair())
        for one, other in ((server, client), (client, server)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.send_all, data)
                assert await receive_exactly(other, len(data)) == data
        await server.aclose()
        await client.aclose()


async def test_receive_through_iteration_ends_with_the_close_notify(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:

        async def peer() -> None:
            async with peer_stream(theirs, Role.CLIENT) as tls:
                await tls.send_all(b"one")
                await tls.send_all(b"two")

        nursery.start_soon(peer)
        connection = await negotiate(ours, credentials())
        assert await receive_all(connection) == b"onetwo"
