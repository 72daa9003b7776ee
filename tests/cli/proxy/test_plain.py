"""The backend's socket: bytes and ends as they are, whether or not the kernel has room."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import pytest
import trio
import trio.testing

from trio_duplex.cli._proxy.plain import PlainSocket

pytestmark = pytest.mark.slow


def pair() -> tuple[PlainSocket, trio.SocketStream]:
    """Our end and the other, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        ours.setblocking(False)
        theirs, _ = listening.accept()
    return PlainSocket(ours), trio.SocketStream(trio.socket.from_stdlib_socket(theirs))


async def test_more_than_the_kernel_holds_each_way() -> None:
    data = os.urandom(16 << 20)
    ours, theirs = pair()
    with ours:
        await both_ways(ours, theirs, data)


async def both_ways(ours: PlainSocket, theirs: trio.SocketStream, data: bytes) -> None:
    received, returned = bytearray(), bytearray()
    async with theirs:

        async def read_slowly() -> None:
            async for piece in theirs:
                received.extend(piece)
            await theirs.send_all(received)
            await theirs.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_slowly)
            await ours.send_all(data)
            ours.send_eof()
            while piece := await ours.receive_some(1 << 16):
                returned += piece
    assert received == returned == data


async def test_a_reset_is_an_error() -> None:
    ours, theirs = pair()
    with ours:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await theirs.aclose()
        with pytest.raises(trio.BrokenResourceError) as raised:
            await ours.receive_some(1)
        assert isinstance(raised.value.__cause__, ConnectionResetError)
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")


async def test_closing_wakes_who_waits() -> None:
    ours, theirs = pair()
    async with theirs, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await ours.receive_some(1)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        ours.close()
    ours.close()  # again changes nothing


@pytest.mark.parametrize("due", [True, False])
async def test_an_exception_closes_with_a_reset(due: bool) -> None:
    ours, theirs = pair()
    with contextlib.suppress(ArithmeticError), ours:
        await ours.send_all(b"x")
        if not due:
            raise ArithmeticError
    async with theirs:
        assert await theirs.receive_some() == b"x"
        if due:
            assert await theirs.receive_some() == b""
        else:
            with pytest.raises(trio.BrokenResourceError):
                await theirs.receive_some()
