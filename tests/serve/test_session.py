"""The session that a server resumes in the client role: the option ``session`` of `serve_tcp` and its kin."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.authority import AUTHORITY
from tests.support.peers import (
    NODE,
    TLS12,
    MemoryListener,
    connection_pair,
    credentials,
    each_version,
    peer_context,
    peer_stream,
    pin,
    receive_all,
    receive_exactly,
)
from trio_duplex import (
    Connection,
    Credentials,
    DuplexListener,
    Role,
    Server,
    negotiate,
    serve_listeners,
    serve_tcp,
)
from trio_duplex.events import Event, NegotiationFailed

pytestmark = pytest.mark.slow


CONTEXT = ssl.SSLContext


async def a_session(mine: Credentials, theirs: CONTEXT) -> ssl.SSLSession:
    """What the control connection of an FTPS client has."""
    ours, other = trio.testing.memory_stream_pair()
    tls = peer_stream(other, Role.SERVER, context=theirs)
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await tls.send_all(b"x")

        nursery.start_soon(serve)
        connection = await negotiate(ours, mine, role=Role.CLIENT)
        await receive_exactly(connection, 1)
    session = connection.session
    assert isinstance(session, ssl.SSLSession)
    await trio.aclose_forcefully(connection)
    await trio.aclose_forcefully(tls)
    return session


async def tell_reused(connection: Connection) -> None:
    await connection.send_all(b"reused" if connection.session_reused else b"full")


@asynccontextmanager
async def serving(memory: MemoryListener, mine: Credentials, **options: Any) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        serve = partial(serve_listeners, window=1, **options)
        await nursery.start(serve, tell_reused, [memory], mine)
        yield
        nursery.cancel_scope.cancel()


async def dialled(memory: MemoryListener, role: Role, context: CONTEXT | None = None) -> bytes:
    tls = peer_stream(memory.connect(), role, context=context)
    return await receive_all(tls)


@each_version
async def test_a_server_resumes_the_given_session(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    memory, mine, theirs = (
        MemoryListener(),
        credentials(version),
        peer_context(Role.SERVER, version),
    )
    session = await a_session(mine, theirs)
    asked: list[object] = []

    def find(address: object) -> ssl.SSLSession | None:
        asked.append(address)
        return session if len(asked) == 1 else None

    async with serving(memory, mine, session=find):
        assert await dialled(memory, Role.SERVER, theirs) == b"reused"
        assert await dialled(memory, Role.SERVER, theirs) == b"full"
        assert await dialled(memory, Role.CLIENT) == b"full"
    assert asked == [
        None,
        None,
    ]  # a memory stream has no address, and as TLS server nobody is asked


async def test_the_session_function_gets_the_remote_address() -> None:
    asked: list[object] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tcp, host="127.0.0.1", window=0, session=asked.append)
            server: Server = await nursery.start(serve, tell_reused, 0, credentials())
            stream = await trio.open_tcp_stream(*server.addresses[0])
            tls = peer_stream(stream, Role.SERVER)
            assert await receive_all(tls) == b"full"
            await trio.aclose_forcefully(tls)
            nursery.cancel_scope.cancel()
    assert len(asked) == 1
    assert isinstance(asked[0], tuple)
    assert asked[0][0] == "127.0.0.1"


async def test_a_duplex_listener_resumes_sessions_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory, mine, theirs = MemoryListener(), credentials(TLS12), peer_context(Role.SERVER, TLS12)
    session = await a_session(mine, theirs)
    async with DuplexListener(memory, mine, window=1, session=lambda _: session) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialled, memory, Role.SERVER, theirs)
            async with await listener.accept() as connection:
                assert connection.session_reused


async def test_a_session_from_before_a_reload_is_ignored(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    files = tmp_path / "node.pem"
    files.write_bytes(NODE.private_key_and_cert_chain_pem.bytes())
    mine = Credentials.mutual(certificate_chain=files, trust=AUTHORITY, allow_self=True)
    pin(mine.client_context, TLS12)
    memory, theirs = MemoryListener(), peer_context(Role.SERVER, TLS12)
    session = await a_session(mine, theirs)
    async with serving(memory, mine, session=lambda _: session):
        assert await dialled(memory, Role.SERVER, theirs) == b"reused"
        mine.reload()
        assert await dialled(memory, Role.SERVER, theirs) == b"full"


async def test_a_session_function_that_fails_ends_only_its_own_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory, events = MemoryListener(), list[Event]()
    errors: list[Exception] = [ZeroDivisionError()]

    def find(address: object) -> None:
        if errors:
            raise errors[0]

    async with serving(memory, credentials(), session=find, observers=[events.append]):
        with pytest.raises((trio.BrokenResourceError, ssl.SSLError)):
            await dialled(memory, Role.SERVER)
        await trio.sleep(1)
        (failed,) = (event for event in events if isinstance(event, NegotiationFailed))
        assert failed.error is errors.pop()
        assert await dialled(memory, Role.SERVER) == b"full"


async def test_a_session_instead_of_a_function_is_refused() -> None:
    mine = credentials(TLS12)
    _, client = await connection_pair(client=mine)
    wrong: Any = client.session
    memory = MemoryListener()
    with pytest.raises(TypeError):
        await serve_listeners(tell_reused, [memory], mine, session=wrong)
    with pytest.raises(TypeError):
        DuplexListener(memory, mine, session=wrong)
    with pytest.raises(TypeError):
        await serve_tcp(tell_reused, 0, mine, session=wrong)
    assert not memory.closed
