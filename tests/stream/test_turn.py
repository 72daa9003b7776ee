"""Whose turn it was when a handler was cancelled, and what its peer reads: `trio_duplex._stream.turn`."""

from __future__ import annotations

import runpy
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.support.peers import (
    MemoryListener,
    connection_pair,
    credentials,
    each_role,
    each_version,
    peer_stream,
)
from trio_duplex import Connection, Role, Server, serve_listeners
from trio_duplex._serve.handler import Handler
from trio_duplex.testing import open_memory_stream_pair

pytestmark = pytest.mark.slow


EXAMPLES = Path(__file__).parents[2] / "docs/examples"


async def receives(connection: Connection) -> None:
    await connection.receive_some()


async def iterates(connection: Connection) -> None:
    async for _ in connection:
        pass


async def receives_unless_idle(connection: Connection) -> None:
    connection.idle_timeout = 1_000
    await connection.receive_some()


async def receives_on_the_tls_stream(connection: Connection) -> None:
    await connection.tls.receive_some()


async def receives_beside_a_timer(connection: Connection) -> None:
    with trio.move_on_after(1_000):
        await connection.receive_some()


async def receives_in_a_child(connection: Connection) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.receive_some)
        nursery.start_soon(trio.sleep_forever)


async def sleeps_forever(connection: Connection) -> None:
    await trio.sleep_forever()


async def computes(connection: Connection) -> None:
    while True:
        await trio.sleep(0.1)


async def waits_for_a_backend(connection: Connection) -> None:
    await trio.Event().wait()


async def waits_for_a_backend_in_a_child(connection: Connection) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.receive_some)
        nursery.start_soon(trio.Event().wait)


async def receives_elsewhere(connection: Connection) -> None:
    stream, _ = trio.testing.memory_stream_pair()
    await stream.receive_some()


async def receives_on_another_connection(connection: Connection) -> None:
    other, _ = await connection_pair()
    await other.receive_some()


async def receives_on_another_tls_stream(connection: Connection) -> None:
    other, _ = await connection_pair()
    await other.tls.receive_some()


async def cleans_up_elsewhere(connection: Connection) -> None:
    try:
        await connection.receive_some()
    finally:
        await trio.sleep(1)


async def sends(connection: Connection) -> None:
    await connection.send_all(bytes(10_000_000))


async def fails_when_cancelled(connection: Connection) -> None:
    try:
        await connection.receive_some()
    finally:
        raise ZeroDivisionError


async def returns_when_cancelled(connection: Connection) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(1)


closes_for_itself: Handler = runpy.run_path(str(EXAMPLES / "closing.py"))["handler"]


PEERS_TURN = (
    closes_for_itself,
    receives,
    iterates,
    receives_unless_idle,
    receives_on_the_tls_stream,
    receives_beside_a_timer,
    receives_in_a_child,
    sleeps_forever,
    returns_when_cancelled,
)
OURS = (
    computes,
    waits_for_a_backend,
    waits_for_a_backend_in_a_child,
    receives_elsewhere,
    receives_on_another_connection,
    receives_on_another_tls_stream,
    cleans_up_elsewhere,
    sends,
    fails_when_cancelled,
)


async def by_draining(server: Server, connection: Connection) -> None:
    await server.drain(0)


async def by_its_own_scope(server: Server, connection: Connection) -> None:
    connection.cancel_scope.cancel()


async def by_a_deadline(server: Server, connection: Connection) -> None:
    connection.cancel_scope.deadline = trio.current_time()


Stop = Callable[[Server, Connection], Awaitable[None]]


@pytest.mark.parametrize("stop", [by_draining, by_its_own_scope, by_a_deadline])
@pytest.mark.parametrize("handler", [*PEERS_TURN, *OURS])
async def test_a_cancelled_handler(
    handler: Handler, stop: Stop, autojump_clock: trio.testing.MockClock
) -> None:
    await check(handler, stop, Role.SERVER, None, whole=handler in PEERS_TURN)


@each_version
@each_role
@pytest.mark.parametrize("handler", [receives, computes])
async def test_a_cancelled_handler_in_each_role(
    handler: Handler,
    role: Role,
    version: ssl.TLSVersion | None,
    autojump_clock: trio.testing.MockClock,
) -> None:
    await check(handler, by_draining, role, version, whole=handler is receives)


async def check(
    handler: Handler, stop: Stop, role: Role, version: ssl.TLSVersion | None, *, whole: bool
) -> None:
    open_: list[Connection] = []

    async def half(connection: Connection) -> None:
        open_.append(connection)
        await connection.send_all(b"half")
        await handler(connection)

    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_listeners, window=1)
        server: Server = await nursery.start(serve, half, [listener], credentials())
        ours, theirs = open_memory_stream_pair()  # which holds so much, and no more
        listener.push(ours)
        peer = peer_stream(theirs, role.other, version)
        assert await peer.receive_some() == b"half"
        await trio.testing.wait_all_tasks_blocked()
        await stop(server, open_[0])
        if whole:
            assert await rest(peer) == b""
        else:
            with pytest.raises(trio.BrokenResourceError):
                await rest(peer)
        server.cancel_scope.cancel()


async def rest(peer: trio.SSLStream[trio.abc.Stream]) -> bytes:
    data = b""
    async for chunk in peer:
        data += chunk
    return data


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_program_in_a_handler_is_no_due_end(
    error: type[BaseException], autojump_clock: trio.testing.MockClock
) -> None:
    async def half(connection: Connection) -> None:
        await connection.send_all(b"half")
        raise error

    listener = MemoryListener()
    peer = peer_stream(listener.connect(), Role.CLIENT)
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await rest(peer)

        nursery.start_soon(read)
        with pytest.raises(error):
            await serve_listeners(half, [listener], credentials())
