"""Two ends joined: what arrives, what is told, and whose fault an end was. In virtual time."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from tests.support.peers import receive_all, receive_exactly
from trio_duplex.cli._rendezvous.pair import (
    ANSWERED_PATIENCE,
    UNANSWERED_PATIENCE,
    BrokenEndError,
    End,
    Pair,
    first_error,
)
from trio_duplex.cli._service.reset import reset_on_close

pytestmark = pytest.mark.slow


class Joined:
    """A pair in the middle, and the two outer ends."""

    def __init__(self, *, answering_can_end: bool = False) -> None:
        self.asker, self.asking = trio.testing.memory_stream_pair()
        self.answerer, self.answering = trio.testing.memory_stream_pair()
        answering = End.of("answering", self.answering)
        if not answering_can_end:  # as TLS can't
            answering = End("answering", answering.receive, answering.send)
        self.pair = Pair(End.of("asking", self.asking), answering)
        self.ended: float | None = None
        self.error: BrokenEndError | None = None

    async def forward(self, first: bytes = b"") -> None:
        try:
            await self.pair.forward(first)
        except* BrokenEndError as group:
            self.error = first_error(group)
        self.ended = trio.current_time()
        for stream in (self.asking, self.answering):
            await stream.aclose()


async def test_bytes_go_both_ways_until_the_answering_end_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    joined = Joined()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joined.forward, b"GET ")
        await joined.asker.send_all(b"/")
        assert await receive_exactly(joined.answerer, 5) == b"GET /"
        await joined.answerer.send_all(b"200")
        await joined.answerer.send_eof()
        assert await receive_all(joined.asker) == b"200"
    assert joined.error is None
    assert (joined.pair.sent, joined.pair.received) == (5, 3)
    assert joined.ended == pytest.approx(0)


async def test_end_of_the_asking_end_is_told_where_it_can_be(
    autojump_clock: trio.testing.MockClock,
) -> None:
    joined = Joined(answering_can_end=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joined.forward)
        await joined.asker.send_all(b"all that there is")
        await joined.asker.send_eof()
        assert await receive_all(joined.answerer) == b"all that there is"
        await trio.sleep(UNANSWERED_PATIENCE / 2)
        await joined.answerer.send_all(b"answer")
        await joined.answerer.send_eof()
        assert await receive_all(joined.asker) == b"answer"
    assert joined.error is None


async def test_end_that_has_hung_up_is_left_soon(autojump_clock: trio.testing.MockClock) -> None:
    joined = Joined()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joined.forward, b"question")
        assert await receive_exactly(joined.answerer, 8) == b"question"
        await trio.sleep(1)
        await joined.answerer.send_all(b"answer")
        assert await receive_exactly(joined.asker, 6) == b"answer"
        await joined.asker.send_eof()
    assert joined.ended == pytest.approx(1 + ANSWERED_PATIENCE)


async def test_end_that_waits_for_its_answer_is_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    joined = Joined()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joined.forward, b"question")
        await joined.asker.send_eof()
        await trio.sleep(UNANSWERED_PATIENCE - 1)
        for _ in range(5):  # an answer that goes on is never cut
            await joined.answerer.send_all(b"x")
            await trio.sleep(ANSWERED_PATIENCE - 1)
        await joined.answerer.send_eof()
        assert await receive_all(joined.asker) == b"xxxxx"
    assert joined.error is None


async def test_end_that_is_never_answered_is_left_in_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    joined = Joined()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joined.forward, b"question")
        await joined.asker.send_eof()
    assert joined.ended == pytest.approx(UNANSWERED_PATIENCE)


@pytest.mark.parametrize("end", ["asking", "answering"])
async def test_end_that_breaks_is_named(end: str, autojump_clock: trio.testing.MockClock) -> None:
    joined = Joined()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(joined.forward)
        await trio.testing.wait_all_tasks_blocked()
        broken, other = joined.asker, joined.answerer
        if end == "answering":
            broken, other = other, broken
        # Closed for reading, so that what is forwarded to it can't be delivered.
        await trio.aclose_forcefully(broken.receive_stream)
        await other.send_all(b"x")
    assert joined.error is not None
    assert joined.error.end == end


async def test_slow_receiver_holds_its_sender_up() -> None:
    ours, theirs = socket.socketpair()
    asker, asking = (
        trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in (ours, theirs)
    )
    answerer, answering = trio.testing.lockstep_stream_pair()
    pair = Pair(End.of("asking", asking), End.of("answering", answering))
    async with asker, asking, answerer, answering, trio.open_nursery() as nursery:
        nursery.start_soon(pair.forward)
        sent = 0
        with trio.move_on_after(0.2):
            while True:
                await asker.send_all(bytes(65536))
                sent += 65536
        assert sent < 16 * 2**20
        nursery.cancel_scope.cancel()


async def test_cut_is_seen_as_a_reset() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        theirs = await trio.open_tcp_stream(*listener.socket.getsockname())
        ours = await listener.accept()
        reset_on_close(ours)
        await trio.aclose_forcefully(ours)
        async with theirs:
            with pytest.raises(trio.BrokenResourceError):
                await theirs.receive_some()
        reset_on_close(ours)  # of one that is closed: nothing
