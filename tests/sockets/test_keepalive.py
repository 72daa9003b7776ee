"""The kernel asks whether a silent peer still lives: `trio_duplex._sockets.keepalive`.

That a server's connections have it, and how `Limits.keepalive` sets it: `test_room.py`.
"""

from __future__ import annotations

import socket

import pytest
import trio

from tests.support.peers import (
    connection_pair,
    credentials,
    each_role,
    peer_stream,
    tcp_pair,
    unix_pair,
)
from trio_duplex import Connection, Role, negotiate, open_tcp_connection
from trio_duplex._sockets.keepalive import DEFAULT_KEEPALIVE

pytestmark = pytest.mark.slow


def keepalive_of(connection: Connection) -> tuple[int, int, int]:
    """Whether it is on, after how many seconds, and the milliseconds for unacknowledged data."""
    stream = connection.transport_stream
    assert isinstance(stream, trio.SocketStream)
    return (
        stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
    )


ON = (1, round(DEFAULT_KEEPALIVE), 120_000)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_connection_that_was_negotiated_has_it(host: str) -> None:
    try:
        streams = await tcp_pair(host)
    except OSError:
        assert host == "::1"
        pytest.skip("no IPv6 on loopback")
    for connection in await connection_pair(streams=streams):
        assert keepalive_of(connection) == ON
        await trio.aclose_forcefully(connection)


@each_role
async def test_a_connection_that_was_dialled_has_it(role: Role) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host, port = listener.socket.getsockname()

    async def answer() -> None:
        async with await listener.accept() as stream:
            await peer_stream(stream, role.other).do_handshake()

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        connection = await open_tcp_connection(host, port, credentials(), role=role)
        assert keepalive_of(connection) == ON
        await trio.aclose_forcefully(connection)


async def test_what_its_owner_has_set_stays() -> None:
    ours, theirs = await tcp_pair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7)
    one, other = await connection_pair(streams=(ours, theirs))
    assert keepalive_of(one) == (1, 7, 0)
    for connection in (one, other):
        await trio.aclose_forcefully(connection)


async def test_a_bound_on_unacknowledged_data_that_its_owner_has_set_stays() -> None:
    ours, theirs = await tcp_pair()
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 7_000)
    one, other = await connection_pair(streams=(ours, theirs))
    assert keepalive_of(one) == (1, 60, 7_000)
    for connection in (one, other):
        await trio.aclose_forcefully(connection)


async def test_what_is_not_tcp_is_left_alone() -> None:
    ours, theirs = unix_pair()
    for connection in await connection_pair(streams=(ours, theirs)):
        await trio.aclose_forcefully(connection)


async def test_a_socket_that_was_closed_before_is_told_as_ever() -> None:
    ours, theirs = await tcp_pair()
    await ours.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await negotiate(ours, credentials())
    await theirs.aclose()
