"""A connection as an AnyIO stream: `trio_duplex.anyio`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
import trio
import trio.testing
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.text import TextReceiveStream
from anyio.streams.tls import TLSAttribute

from tests.support.patience import window_for
from tests.support.peers import credentials
from trio_duplex import Connection, Role, open_tcp_connection, serve_tcp
from trio_duplex.anyio import ConnectionAttribute, ConnectionStream
from trio_duplex.testing import open_connection_pair

pytestmark = pytest.mark.slow


Streams = dict[Role, ConnectionStream]

each_role = pytest.mark.parametrize("role", list(Role))


@asynccontextmanager
async def open_pair() -> AsyncIterator[Streams]:
    pair = await open_connection_pair()
    ends = {each.role: ConnectionStream(each) for each in (pair.server, pair.client)}
    try:
        yield ends
    finally:
        for stream in ends.values():
            await stream.aclose()


@each_role
async def test_what_is_sent_is_received_until_the_end(
    role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_pair() as ends:
        sender: ByteStream = ends[role]
        receiver: ByteStream = ends[role.other]
        data = bytes(range(256)) * 1000
        received = bytearray()

        async def receive() -> None:
            async for chunk in receiver:
                assert isinstance(chunk, bytes)
                received.extend(chunk)

        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            await sender.send(data)
            await sender.send_eof()
        assert bytes(received) == data
        with pytest.raises(anyio.EndOfStream):
            await receiver.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await sender.send(b"more")
        await receiver.send(b"the other way")
        assert await sender.receive() == b"the other way"


@each_role
async def test_anyio_s_own_streams_go_on_top(
    role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_pair() as ends:
        await ends[role].send("ä\nö".encode())
        buffered = BufferedByteReceiveStream(ends[role.other])
        assert await buffered.receive_until(b"\n", 10) == "ä".encode()
        assert await TextReceiveStream(buffered).receive() == "ö"


async def test_max_bytes(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pair() as ends:
        await ends[Role.CLIENT].send(b"abc")
        assert await ends[Role.SERVER].receive(2) == b"ab"
        assert await ends[Role.SERVER].receive(2) == b"c"
        with pytest.raises(ValueError, match="max_bytes"):
            await ends[Role.SERVER].receive(0)


@each_role
async def test_a_cut_is_no_end(role: Role, autojump_clock: trio.testing.MockClock) -> None:
    async with open_pair() as ends:
        cut = ends[role].extra(ConnectionAttribute.connection)
        await trio.aclose_forcefully(cut.tls.transport_stream)
        with pytest.raises(anyio.BrokenResourceError) as info:
            await ends[role.other].receive()
        assert isinstance(info.value.__cause__, trio.BrokenResourceError)
        assert str(info.value) == str(info.value.__cause__)


@each_role
async def test_errors_of_use(role: Role, autojump_clock: trio.testing.MockClock) -> None:
    async with open_pair() as ends:
        stream = ends[role]
        async with anyio.create_task_group() as group:
            group.start_soon(stream.receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(anyio.BusyResourceError):
                await stream.receive()
            group.cancel_scope.cancel()
        await stream.aclose()
        for call in (stream.receive, stream.send_eof):
            with pytest.raises(anyio.ClosedResourceError):
                await call()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"x")


@each_role
async def test_attributes(role: Role, autojump_clock: trio.testing.MockClock) -> None:
    async with open_pair() as ends:
        stream = ends[role]
        connection = stream.extra(ConnectionAttribute.connection)
        assert stream.extra(ConnectionAttribute.decision) is connection.decision
        assert stream.extra(ConnectionAttribute.peer) == connection.peer
        assert stream.extra(TLSAttribute.server_side) is (role is Role.SERVER)
        assert stream.extra(TLSAttribute.tls_version) == "TLSv1.3"
        assert stream.extra(TLSAttribute.cipher) == connection.tls.cipher()
        assert stream.extra(TLSAttribute.alpn_protocol) is None
        assert stream.extra(TLSAttribute.standard_compatible) is True
        assert stream.extra(TLSAttribute.peer_certificate_binary) == connection.peer.certificate
        assert stream.extra(TLSAttribute.peer_certificate)
        for absent in (TLSAttribute.ssl_object, SocketAttribute.remote_port):
            with pytest.raises(anyio.TypedAttributeLookupError):
                stream.extra(absent)


@each_role
async def test_attributes_of_the_socket(role: Role) -> None:
    seen: list[tuple[object, ...]] = []

    async def handler(connection: Connection) -> None:
        stream = ConnectionStream(connection)
        ours, theirs = SocketAttribute.local_address, SocketAttribute.remote_address
        seen.append((stream.extra(ours), stream.extra(theirs)))
        assert stream.extra(ours)[1] == stream.extra(SocketAttribute.local_port)
        assert stream.extra(theirs)[1] == stream.extra(SocketAttribute.remote_port)
        await stream.send(b"x")

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            lambda task_status: serve_tcp(
                handler,
                0,
                credentials(),
                host="127.0.0.1",
                window=window_for(role.other),
                task_status=task_status,
            )
        )
        host, port = server.addresses[0]
        dialled = await open_tcp_connection(host, port, credentials(), role=role.other)
        async with dialled:
            assert await dialled.receive_some() == b"x"
            assert seen == [(dialled.remote_address, dialled.local_address)]
        nursery.cancel_scope.cancel()


def test_without_the_extra_the_error_names_it() -> None:
    code = (
        "import sys; sys.modules['anyio'] = None\n"
        "try:\n    import trio_duplex.anyio\n"
        "except ModuleNotFoundError as exc: print(exc)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "pip install 'trio-duplex[anyio]'" in result.stdout


def test_the_library_does_not_import_it() -> None:
    code = "import sys, trio_duplex; trio_duplex.serve_tcp; print({'anyio', 'httpcore'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"
