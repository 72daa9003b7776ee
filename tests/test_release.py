"""TLS objects are freed when they are done with, without the garbage collector."""

from __future__ import annotations

import gc
import ssl
import weakref
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest
import trio
import trio.testing

from tests.support.peers import (
    TLS13,
    MemoryListener,
    client_hello,
    connection_pair,
    credentials,
    each_role,
    each_version,
    echo,
    memory_pair,
)
from tests.support.records import APPLICATION_DATA, make_record
from trio_duplex import Connection, HandshakeError, Limits, Role, Server, negotiate, serve_listeners
from trio_duplex._tls.handshake import Handshake

pytestmark = pytest.mark.slow


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[object]]:
    """The TLS objects that handshakes have made."""
    found: list[weakref.ref[object]] = []
    init = Handshake.__init__

    def remember(self: Handshake, *args: object, **options: object) -> None:
        init(self, *args, **options)  # type: ignore[arg-type]
        found.append(weakref.ref(self.engine.ssl_object))

    monkeypatch.setattr(Handshake, "__init__", remember)
    return found


def tls_objects(*connections: Connection) -> list[weakref.ref[object]]:
    return [weakref.ref(each._flow.engine.ssl_object) for each in connections]


@each_version
@pytest.mark.parametrize("bare", [False, True])
async def test_closed_connections_are_freed(
    version: ssl.TLSVersion,
    bare: bool,
    no_collection: None,
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, client = await connection_pair(version)
    held = tls_objects(server, client)
    if bare:
        held += [weakref.ref(server.tls), weakref.ref(client.tls)]
    await client.send_all(b"x")
    await server.receive_some()
    await client.aclose()
    await trio.aclose_forcefully(server)
    del client, server
    await trio.testing.wait_all_tasks_blocked()  # Trio still holds what it last raised
    assert {ref() for ref in held} == {None}


@pytest.mark.parametrize("tickets", [0, 2])
async def test_a_server_that_never_sends_is_freed(
    tickets: int, no_collection: None, autojump_clock: trio.testing.MockClock
) -> None:
    """Its session tickets are still held when it is closed by force."""
    server, client = await connection_pair(
        TLS13, server=credentials(TLS13, session_tickets=tickets)
    )
    held = tls_objects(server)
    await trio.aclose_forcefully(server)
    await trio.aclose_forcefully(client)
    del client, server
    await trio.testing.wait_all_tasks_blocked()
    assert held[0]() is None


@each_version
async def test_connections_that_end_in_a_fault_behind_their_data_are_freed(
    version: ssl.TLSVersion, no_collection: None, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    server, client = await connection_pair(version, streams=(ours, theirs))
    (held,) = tls_objects(server)
    await client.send_all(b"x")
    await theirs.send_all(make_record(APPLICATION_DATA, b"no key of ours has made this"))
    assert await server.receive_some() == b"x"
    with suppress(trio.BrokenResourceError):  # what pytest.raises would keep, with all its frames
        await server.receive_some()
    await server.aclose()
    await trio.aclose_forcefully(client)
    del client, server
    await trio.testing.wait_all_tasks_blocked()
    assert held() is None


async def test_a_closed_connection_still_tells_its_facts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server, client = await connection_pair(TLS13)
    for connection in (client, server):
        await connection.aclose()
        assert connection.tls_version == connection.tls.version() == "TLSv1.3"
        assert connection.peer.names == ("node.example",)
        for use in (
            connection.tls.do_handshake,
            connection.tls.receive_some,
            connection.receive_some,
        ):
            with pytest.raises(trio.ClosedResourceError):
                await use()
        await connection.tls.aclose()
        await connection.aclose()


@each_role
async def test_failed_handshakes_are_freed(
    role: Role,
    no_collection: None,
    made: list[weakref.ref[object]],
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    if role is Role.SERVER:
        await theirs.send_all(client_hello()[:100])
    with suppress(HandshakeError):  # what pytest.raises would keep, with all its frames
        await negotiate(ours, credentials(), window=1, handshake_timeout=1)
    await trio.testing.wait_all_tasks_blocked()
    assert len(made) == 1
    assert made[0]() is None


async def test_greetings_that_make_room_are_freed(
    no_collection: None,
    made: list[weakref.ref[object]],
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Five hundred a second of them, 90 KB each, are not to wait for a collection."""
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            partial(
                serve_listeners,
                window=0,
                limits=Limits(client_handshakes=1, greeting_patience=0.5),
            ),
            echo,
            [listener],
            credentials(),
        )
        mute = [listener.connect() for _ in range(5)]
        await trio.sleep(10)
        assert server.statistics().failed == {"LimitError": 4}
        assert len(made) == 5
        assert [ref() is None for ref in made] == [True, True, True, True, False]
        assert await mute[0].receive_some()  # the greeting
        nursery.cancel_scope.cancel()
