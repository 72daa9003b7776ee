"""Bytes without a pass of the scheduler: `trio_duplex._sockets.direct`. Real sockets, but for the streams that are none."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.support.peers import memory_pair, reset, tcp_pair, unix_pair
from trio_duplex._sockets import direct as _direct
from trio_duplex._sockets.direct import is_direct, receive, receive_nowait, send, send_nowait


async def test_what_has_come_what_has_not_and_the_end() -> None:
    ours, theirs = unix_pair()
    async with ours, theirs:
        assert receive_nowait(ours, 10) is None
        await theirs.send_all(b"abc")
        assert receive_nowait(ours, 2) == b"ab"
        assert receive_nowait(ours, 2) == b"c"
        await theirs.send_eof()
        assert receive_nowait(ours, 2) == b""


async def test_as_much_is_sent_as_fits_and_then_the_rest() -> None:
    ours, theirs = unix_pair()
    data = bytes(range(256)) * 20_000
    async with ours, theirs:
        sent = send_nowait(ours, data)
        assert 0 < sent < len(data)
        assert send_nowait(ours, data) == 0
        received = bytearray()

        async def take() -> None:
            while len(received) < sent + len(data):
                received.extend(await receive(theirs, 100_000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await send(ours, data)
        assert received == data[:sent] + data


async def test_a_send_that_fits_takes_no_pass() -> None:
    ours, theirs = unix_pair()
    async with ours, theirs:
        with trio.testing.assert_no_checkpoints():
            await send(ours, b"hello")
        with trio.testing.assert_checkpoints():
            assert await receive(theirs, 100) == b"hello"


@pytest.mark.parametrize("late", [False, True])
async def test_a_receive_waits_if_it_must(late: bool) -> None:
    ours, theirs = unix_pair()
    async with ours, theirs, trio.open_nursery() as nursery:

        async def speak() -> None:
            if late:
                await trio.testing.wait_all_tasks_blocked()
            await theirs.send_all(b"hello")

        nursery.start_soon(speak)
        assert await receive(ours, 3) == b"hel"


async def test_a_reset_is_a_broken_resource() -> None:
    ours, theirs = await tcp_pair()
    reset(theirs)
    with pytest.raises(trio.BrokenResourceError) as caught:
        await receive(ours, 10)
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    with pytest.raises(trio.BrokenResourceError):
        send_nowait(ours, b"x")
    await trio.aclose_forcefully(ours)


async def test_closed_here_is_not_broken_there() -> None:
    ours, theirs = unix_pair()
    await ours.aclose()
    with pytest.raises(trio.ClosedResourceError):
        receive_nowait(ours, 10)
    with pytest.raises(trio.ClosedResourceError):
        await send(ours, b"x")
    await theirs.aclose()


async def test_other_streams_are_used_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = memory_pair()
    assert not is_direct(ours)
    await send(theirs, b"hello")
    with trio.testing.assert_checkpoints():
        assert await receive(ours, 3) == b"hel"
    # And so are sockets where read(2) takes none.
    monkeypatch.setattr(_direct, "DIRECT", False)
    here, there = unix_pair()
    async with here, there:
        assert not is_direct(here)
        with trio.testing.assert_checkpoints():
            await send(there, b"hello")
        assert await receive(here, 3) == b"hel"
