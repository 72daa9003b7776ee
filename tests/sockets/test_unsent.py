"""What the kernel holds unsent: `trio_duplex._sockets.unsent`."""

from __future__ import annotations

import math
import socket
from functools import partial

import pytest
import trio

from tests.support.peers import credentials, memory_pair, tcp_pair, unix_pair
from trio_duplex import Connection, Limits, Role, Server, negotiate, open_tcp_connection, serve_tcp
from trio_duplex._sockets.unsent import (
    DEFAULT_UNSENT,
    TCP_NOTSENT_LOWAT,
    TRIOS_UNSENT,
    bound_unsent,
    has_trios_bound,
)

pytestmark = pytest.mark.skipif(TCP_NOTSENT_LOWAT is None, reason="the system has no such bound")


def bound(stream: trio.abc.Stream) -> int:
    assert isinstance(stream, trio.SocketStream)
    assert TCP_NOTSENT_LOWAT is not None
    value = stream.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT)
    assert isinstance(value, int)
    return value


@pytest.mark.parametrize(("size", "kept"), [(1, 1), (100_000, 100_000), (math.inf, 2**31 - 1)])
async def test_tcp_stream_is_bounded(size: float, kept: int) -> None:
    for stream in await tcp_pair():
        async with stream:
            assert bound(stream) == TRIOS_UNSENT
            assert has_trios_bound(stream)
            bound_unsent(stream, size)
            assert bound(stream) == kept
            assert not has_trios_bound(stream)
        bound_unsent(stream, size)  # closed by now
        assert not has_trios_bound(stream)


async def test_streams_without_such_a_bound_are_left_alone() -> None:
    for stream in (*memory_pair(), *unix_pair()):
        async with stream:
            bound_unsent(stream, 1)
            assert not has_trios_bound(stream)


@pytest.mark.parametrize("size", [DEFAULT_UNSENT, 5_000])
async def test_server_bounds_each_connection(size: int) -> None:
    seen: list[int] = []

    async def note(connection: Connection) -> None:
        seen.append(bound(connection.transport_stream))

    async with trio.open_nursery() as nursery:
        limits = Limits() if size == DEFAULT_UNSENT else Limits(unsent_bytes=size)
        server: Server = await nursery.start(
            partial(serve_tcp, host="127.0.0.1", limits=limits), note, 0, credentials()
        )
        port = server.addresses[0][1]
        assert isinstance(port, int)
        client = await open_tcp_connection("127.0.0.1", port, credentials())
        async with client:
            assert bound(client.transport_stream) == DEFAULT_UNSENT
            assert await client.receive_some() == b""
        nursery.cancel_scope.cancel()
    assert seen == [size]


async def test_owners_own_bound_is_kept() -> None:
    ours, theirs = await tcp_pair()
    bound_unsent(ours, 7_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(negotiate, role=Role.CLIENT, dialled=True), theirs, credentials()
        )
        connection = await negotiate(ours, credentials(), role=Role.SERVER, dialled=False)
        assert bound(connection.transport_stream) == 7_000
    assert bound(theirs) == DEFAULT_UNSENT
    for stream in (ours, theirs):
        await trio.aclose_forcefully(stream)
