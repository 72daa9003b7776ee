"""Whose fault is it? `trio_duplex._serve.fault`: only what a handler's own connection raised is the peer's."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio
import trio.testing

from tests.serve.test_serve import Outcome
from tests.support.peers import (
    MemoryListener,
    caught,
    connection_pair,
    each_role,
    each_version,
    memory_pair,
    peer_stream,
    tcp_pair,
)
from trio_duplex import (
    Connection,
    DuplexError,
    HandshakeError,
    NotTLSError,
    Role,
)
from trio_duplex._serve.fault import is_peer_fault
from trio_duplex.events import Event, HandlerFailed

pytestmark = pytest.mark.slow


Handle = Callable[[Connection], Awaitable[object]]


async def broken_stream() -> Connection:
    """A connection of the handler's own, whose other end is gone."""
    ours, theirs = await connection_pair()
    await trio.aclose_forcefully(theirs.transport_stream)
    return ours


# ----------------------------------------------------------------------------------- the handler's own


async def a_broken_channel(connection: Connection) -> None:
    send, receive = trio.open_memory_channel[object](1)
    receive.close()
    await send.send(connection)


async def a_backend(connection: Connection) -> None:
    await (await broken_stream()).receive_some()


async def a_backend_in_the_clear(connection: Connection) -> None:
    ours, theirs = memory_pair()
    await theirs.aclose()
    await ours.send_all(b"x")


async def a_dial_that_fails(connection: Connection) -> None:
    raise HandshakeError("the one that I dialled")


async def what_it_was_told_of_another(connection: Connection) -> None:
    raise NotTLSError("of one that it dialled", received=b"")


async def a_bare_type(connection: Connection) -> None:
    raise trio.BrokenResourceError


async def its_own_stream_after_the_peers(connection: Connection) -> None:
    try:
        await connection.receive_some()
    except trio.BrokenResourceError:
        await a_broken_channel(connection)


async def both(connection: Connection) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.receive_some)
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
            await a_broken_channel(connection)


async def a_closed_connection(connection: Connection) -> None:
    await connection.aclose()
    await connection.receive_some()


# ------------------------------------------------------------------------------------------ the peer's


async def receiving(connection: Connection) -> None:
    await connection.receive_some()


async def iterating(connection: Connection) -> None:
    async for _ in connection:
        pass


async def sending(connection: Connection) -> None:
    while True:
        await connection.send_all(b"x" * 1000)


async def on_the_bare_stream(connection: Connection) -> None:
    await connection.tls.receive_some()


async def on_the_transport(connection: Connection) -> None:
    while True:
        await connection.transport_stream.send_all(b"x" * 1000)


async def in_a_nursery(connection: Connection) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.receive_some)
        nursery.start_soon(trio.sleep_forever)


async def in_two_tasks(connection: Connection) -> None:
    async def hold() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await sending(connection)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(connection.receive_some)


async def raised_later(connection: Connection) -> None:
    error = await caught(connection.receive_some)
    await trio.sleep(1)
    assert error is not None
    raise error


async def by_a_stream_around_it(connection: Connection) -> None:
    try:
        await connection.receive_some()
    except trio.BrokenResourceError as exc:
        raise trio.BrokenResourceError("the stream in the stream") from exc


OWN: list[Handle] = [
    a_broken_channel,
    a_backend,
    a_backend_in_the_clear,
    a_dial_that_fails,
    what_it_was_told_of_another,
    a_bare_type,
    its_own_stream_after_the_peers,
    both,
    a_closed_connection,
]
PEERS: list[Handle] = [
    receiving,
    iterating,
    sending,
    on_the_bare_stream,
    on_the_transport,
    in_a_nursery,
    in_two_tasks,
    raised_later,
    by_a_stream_around_it,
]


def name(handle: Handle) -> str:
    return handle.__name__


async def failing(
    handle: Handle, role: Role, *, raised: bool
) -> tuple[BaseException | None, HandlerFailed | None]:
    """What a server raises and tells of a handler whose peer has just gone without a close_notify."""
    memory, events, result = MemoryListener(), list[Event](), Outcome()
    gone = trio.Event()

    async def handler(connection: Connection) -> None:
        await gone.wait()
        await handle(connection)

    serve = partial(result.serve, window=1, observers=[events.append], raise_handler_errors=raised)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, handler, memory)
        tls = peer_stream(memory.connect(), role.other)
        await tls.do_handshake()
        await trio.aclose_forcefully(tls)
        gone.set()
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    told = [event for event in events if isinstance(event, HandlerFailed)]
    return result.error, told[0] if told else None


@each_role
@pytest.mark.parametrize("handle", OWN, ids=name)
async def test_an_error_of_the_handler_is_not_the_peers_fault(
    handle: Handle,
    role: Role,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, told = await failing(handle, role, raised=False)
    assert told is not None
    assert not told.peer_fault
    (record,) = (r for r in caplog.records if r.levelno >= logging.WARNING)
    assert (record.levelno, bool(record.exc_info)) == (logging.ERROR, True)
    caplog.clear()
    error, told = await failing(handle, role, raised=True)
    assert error is not None
    assert told is None


@each_role
@pytest.mark.parametrize("handle", PEERS, ids=name)
async def test_an_error_of_this_connection_is_the_peers_fault(
    handle: Handle,
    role: Role,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for raised in (False, True):
        error, told = await failing(handle, role, raised=raised)
        assert error is None
        assert told is not None
        assert told.peer_fault
        assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@each_version
async def test_over_tcp(version: object) -> None:
    """A reset is raised by the socket, below TLS."""
    ours, theirs = await tcp_pair()
    server, client = await connection_pair(streams=(ours, theirs))
    other, _ = await connection_pair()
    async with AsyncExitStack() as stack:
        for stream in (server, client):
            stack.push_async_callback(trio.aclose_forcefully, stream)
        await client.transport_stream.aclose()
        for call in (server.receive_some, partial(server.tls.send_all, b"x")):
            error = await caught(call)
            assert isinstance(error, trio.BrokenResourceError | DuplexError)
            assert is_peer_fault(error, server)
            assert not is_peer_fault(error, other)


async def test_only_the_causes_of_a_broken_stream_count() -> None:
    connection = await broken_stream()
    cause = await caught(connection.receive_some)
    assert cause is not None
    assert is_peer_fault(cause, connection)
    error = ValueError()
    error.__cause__ = cause
    assert not is_peer_fault(error, connection)
    assert not is_peer_fault(BaseExceptionGroup("", [cause, error]), connection)
    assert is_peer_fault(BaseExceptionGroup("", [cause, cause]), connection)
