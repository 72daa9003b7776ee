"""Cutting a connection, after what was sent has arrived: `trio_duplex.cli._service.reset`."""

from __future__ import annotations

import socket

import pytest
import trio

from trio_duplex.cli._service import reset
from trio_duplex.cli._service.reset import reset_on_close, wait_delivered

pytestmark = pytest.mark.slow


SENT = bytes(range(256)) * 8000


async def pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = await trio.open_tcp_stream(*listener.getsockname())
        accepted, _ = listener.accept()
    accepted.setblocking(False)
    return one, trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


async def test_all_arrives_before_the_cut() -> None:
    ours, theirs = await pair()
    received = bytearray()

    async def slow_reader() -> None:
        await trio.sleep(0.3)
        with pytest.raises(trio.BrokenResourceError):
            while data := await theirs.receive_some():
                received.extend(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow_reader)
        await ours.send_all(SENT)
        await wait_delivered(ours)
        reset_on_close(ours)
        await ours.aclose()
    assert bytes(received) == SENT
    await theirs.aclose()


async def test_an_end_that_takes_nothing_is_waited_for_no_longer_than_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reset, "DELIVERY", 0.1)
    ours, theirs = await pair()
    with trio.move_on_after(0.2):
        while True:
            await ours.send_all(SENT)
    with trio.fail_after(60):
        await wait_delivered(ours)
    for stream in (ours, theirs):
        await stream.aclose()
    await wait_delivered(ours)  # of one that is closed
