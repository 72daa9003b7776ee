"""How a connection ends so that no close cuts its last words off: `trio_duplex._tls.ending`."""

from __future__ import annotations

import math
import socket
import ssl
from contextlib import suppress

import pytest
import trio
import trio.testing

from tests.support.peers import (
    RawPeer,
    RecordingStream,
    ScriptedStream,
    connection_pair,
    credentials,
    each_role,
    each_version,
    memory_pair,
    receive_all,
    tcp_pair,
)
from trio_duplex import Connection, Role, negotiate
from trio_duplex._stream.connection import close_by_force
from trio_duplex._tls.ending import Arrived, Known, Wait, wait_for
from trio_duplex._tls.flow import SEND_PIECE
from trio_duplex._tls.last_words import LAST_WORDS_TIMEOUT

pytestmark = pytest.mark.slow


LONG = 30.0
"""Seconds in which everything here is over, unless something hangs."""

NOTHING_KNOWN = Known()


@pytest.mark.parametrize(
    ("known", "arrived", "waiting", "wait"),
    [
        (NOTHING_KNOWN, Arrived.NOTHING, 0, Wait.NOTHING),
        (NOTHING_KNOWN, Arrived.NOTHING, 1, Wait.DELIVERY),
        (NOTHING_KNOWN, Arrived.DATA, 0, Wait.HANGUP),
        (NOTHING_KNOWN, Arrived.END, 1, Wait.NOTHING),
        (Known(unread=True), Arrived.NOTHING, 0, Wait.HANGUP),
        (Known(unread=True, finished=True), Arrived.NOTHING, 0, Wait.HANGUP),
        (Known(unread=True), Arrived.END, 1, Wait.NOTHING),
        (Known(finished=True), Arrived.NOTHING, 1, Wait.NOTHING),
        (Known(finished=True), Arrived.DATA, 0, Wait.HANGUP),
        (Known(expected=True), Arrived.NOTHING, 1, Wait.QUIET),
        (Known(expected=True, finished=True), Arrived.NOTHING, 1, Wait.NOTHING),
        (Known(expected=True), Arrived.DATA, 0, Wait.HANGUP),
    ],
)
def test_what_to_wait_for(known: Known, arrived: Arrived, waiting: int, wait: Wait) -> None:
    assert wait_for(known, arrived, waiting) is wait


# ------------------------------------------------------------------------- over TCP: no reply is lost


async def tcp_connections(
    role: Role, version: ssl.TLSVersion | None = None, *, https_compatible: bool = False
) -> tuple[Connection, Connection]:
    """Ours in this role, and its peer's."""
    ours, theirs = await tcp_pair()
    server, client = await connection_pair(
        version,
        streams=(ours, theirs) if role is Role.SERVER else (theirs, ours),
        https_compatible=https_compatible,
    )
    return (server, client) if role is Role.SERVER else (client, server)


@pytest.mark.parametrize("https_compatible", [False, True])
@each_version
@each_role
@pytest.mark.parametrize(
    "upload", [11, 5_000, 300_000], ids=["in TLS", "a record", "in the kernel"]
)
async def test_a_reply_before_unread_input_arrives_whole(
    upload: int, role: Role, version: ssl.TLSVersion, https_compatible: bool
) -> None:
    with trio.fail_after(LONG):
        connection, peer = await tcp_connections(role, version, https_compatible=https_compatible)

        async def reply() -> None:
            await connection.receive_some(10)
            await connection.send_all(bytes(100_000))
            await connection.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reply)
            await peer.send_all(bytes(upload))
            assert len(await receive_all(peer)) == 100_000  # and the due end
            await peer.aclose()


@each_version
@each_role
async def test_an_unread_close_notify_cuts_nothing_off(role: Role, version: ssl.TLSVersion) -> None:
    with trio.fail_after(LONG):
        ours, theirs = await tcp_pair()
        peer = RawPeer(theirs, role.other, version)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.shake_hands)
            window = 0 if role is Role.CLIENT else math.inf
            connection = await negotiate(ours, credentials(), window=window)
        await theirs.send_all(peer.encrypt(b"request"))
        assert await connection.receive_some() == b"request"
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.unwrap()
        await peer.flush()
        async with trio.open_nursery() as nursery:

            async def reply() -> None:
                await connection.send_all(bytes(10_000))
                await connection.aclose()

            nursery.start_soon(reply)
            received = b""
            with suppress(ssl.SSLZeroReturnError):  # a due end, after one's own
                while data := await peer.read():
                    received += data
            assert len(received) == 10_000
            await theirs.aclose()


@each_role
async def test_input_that_arrives_while_the_reply_is_under_way_cuts_nothing_off(
    role: Role,
) -> None:
    with trio.fail_after(LONG):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = trio.socket.socket()
            # A window that the reply does not fit into.
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(theirs.connect, listener.getsockname())
                ours = trio.socket.from_stdlib_socket(
                    (await trio.to_thread.run_sync(listener.accept))[0]
                )
        streams = trio.SocketStream(ours), trio.SocketStream(theirs)
        server, client = await connection_pair(
            streams=streams if role is Role.SERVER else streams[::-1]
        )
        connection, peer = (server, client) if role is Role.SERVER else (client, server)
        if role is Role.CLIENT:  # or it would expect session tickets
            await peer.send_all(b"x")
            await connection.receive_some()
        await connection.send_all(bytes(16_000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.aclose)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert ours.fileno() != -1, "it was closed before it was delivered"
            await peer.send_all(b"late")
            assert len(await receive_all(peer)) == 16_000
            await peer.aclose()


# ------------------------------------------------------------------------------------------ no delay


@each_version
@each_role
async def test_a_close_does_not_wait_if_the_peer_has_ended(
    role: Role, version: ssl.TLSVersion
) -> None:
    with trio.fail_after(LONG):
        connection, peer = await tcp_connections(role, version)
        connection.close_timeout = math.inf
        await connection.send_all(b"x")
        assert await peer.receive_some() == b"x"
        transport = peer.tls.transport_stream
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.tls.unwrap)
            assert await connection.receive_some() == b""
            await connection.aclose()  # the peer's socket stays open
        await transport.aclose()


@each_version
@each_role
async def test_a_close_waits_only_for_delivery_if_nothing_is_unread(
    role: Role, version: ssl.TLSVersion
) -> None:
    with trio.fail_after(LONG):
        connection, peer = await tcp_connections(role, version)
        await peer.send_all(b"x")
        assert await connection.receive_some() == b"x"
        connection.close_timeout = math.inf
        await connection.send_all(b"reply")
        await connection.aclose()  # the peer reads nothing, and does not hang up
        assert await receive_all(peer) == b"reply"
        await peer.aclose()


@each_role
async def test_a_close_with_unread_input_is_bounded(role: Role) -> None:
    connection, peer = await tcp_connections(role)
    await peer.send_all(b"xx")
    assert await connection.receive_some(1) == b"x"
    connection.close_timeout = 0.1
    with trio.fail_after(LONG):
        await connection.aclose()
    transport = connection.transport_stream
    assert isinstance(transport, trio.SocketStream)
    assert transport.socket.fileno() == -1
    await trio.aclose_forcefully(peer)


async def test_a_close_while_another_task_receives(
    autojump_clock: trio.testing.MockClock,
) -> None:
    connection, peer = await connection_pair()
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await connection.receive_some()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await connection.aclose()
    assert trio.current_time() == 0
    assert await peer.receive_some() == b""


async def test_a_close_over_tcp_while_another_task_receives() -> None:
    with trio.fail_after(LONG):
        connection, peer = await tcp_connections(Role.SERVER)
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await connection.receive_some()

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await connection.send_all(b"bye")
            await connection.aclose()
        assert await receive_all(peer) == b"bye"
        await peer.aclose()


async def test_two_tasks_close_at_once() -> None:
    with trio.fail_after(LONG):
        connection, peer = await tcp_connections(Role.SERVER)
        transport = connection.transport_stream
        await peer.send_all(b"xx")
        assert await connection.receive_some(1) == b"x"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.aclose)
            nursery.start_soon(connection.aclose)
            assert await receive_all(peer) == b""
            await peer.aclose()
        assert connection.transport_stream is transport


# ------------------------------------------------------------------------------------ other streams


@each_version
@each_role
async def test_another_stream_is_drained_if_tls_has_unread_input(
    role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    server, client = await connection_pair(version)
    connection, peer = (server, client) if role is Role.SERVER else (client, server)
    await peer.send_all(b"xx")
    assert await connection.receive_some(1) == b"x"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.aclose)
        await trio.sleep(1)
        assert await peer.receive_some() == b""
        await peer.aclose()
    assert trio.current_time() == 1


@each_version
@each_role
@pytest.mark.parametrize("happened", ["nothing", "sent", "sent, received", "sent, ended"])
async def test_only_a_client_that_never_received_waits_a_second_for_tickets(
    happened: str, role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    server, client = await connection_pair(version)
    connection, peer = (server, client) if role is Role.SERVER else (client, server)
    if happened != "nothing":
        await connection.send_all(b"x")
    if happened == "sent, received":
        await peer.send_all(b"x")
        assert await connection.receive_some() == b"x"
    if happened == "sent, ended":
        await peer.send_eof()
        assert await connection.receive_some() == b""
    await connection.aclose()
    waits = (happened, role, version) == ("sent", Role.CLIENT, ssl.TLSVersion.TLSv1_3)
    assert trio.current_time() == (LAST_WORDS_TIMEOUT if waits else 0)


# --------------------------------------------------------------------------- a cut must not look whole


@pytest.mark.parametrize("https_compatible", [False, True])
@each_version
@each_role
async def test_a_close_by_force_sends_no_close_notify(
    role: Role, version: ssl.TLSVersion, https_compatible: bool
) -> None:
    with trio.fail_after(LONG):
        connection, peer = await tcp_connections(role, version, https_compatible=https_compatible)
        await close_by_force(connection)
        with pytest.raises(trio.BrokenResourceError):
            await peer.receive_some()
        await peer.aclose()


@each_version
async def test_a_send_that_was_cancelled_between_two_pieces(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    """TLS itself is not broken then, and could send a close_notify."""
    cut = trio.CancelScope()
    pieces = 0

    async def send(data: bytes, stream: RecordingStream) -> None:
        nonlocal pieces
        await stream.send_all(data)
        if len(data) > SEND_PIECE:
            pieces += 1
            cut.cancel()

    ours, theirs = memory_pair()
    connection, peer = await connection_pair(version, streams=(ScriptedStream(ours, send), theirs))
    with cut:
        await connection.send_all(bytes(3 * SEND_PIECE))
    assert cut.cancelled_caught
    assert pieces == 1
    assert connection.bytes_sent == SEND_PIECE
    with trio.testing.assert_checkpoints(), pytest.raises(trio.BrokenResourceError):
        await connection.send_all(b"x")
    await connection.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await receive_all(peer)


async def test_large_data_is_sent_in_pieces(autojump_clock: trio.testing.MockClock) -> None:
    sizes: list[int] = []

    async def send(data: bytes, stream: RecordingStream) -> None:
        sizes.append(len(data))
        await stream.send_all(data)

    ours, theirs = memory_pair()
    connection, peer = await connection_pair(streams=(ScriptedStream(ours, send), theirs))
    sizes.clear()
    data = memoryview(bytes(range(256)) * 4096).cast("I")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.send_all, data)
        received = bytearray()
        while len(received) < data.nbytes:
            received += await peer.receive_some()
    assert bytes(received) == bytes(data)
    assert connection.bytes_sent == data.nbytes == 1 << 20
    assert max(sizes) < 1.02 * SEND_PIECE
