"""Many descriptors waited for at once: `trio_duplex._sockets.crowd`. Real sockets: it is the kernel that tells."""

from __future__ import annotations

import gc
import math
import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from tests.support.peers import open_descriptors
from trio_duplex._sockets.crowd import AT_ONCE, STALE, Crowd, has_epoll

pytestmark = [
    pytest.mark.skipif(not has_epoll(), reason="there is no epoll here"),
    pytest.mark.slow,
]


@contextmanager
def pair() -> Iterator[tuple[int, socket.socket]]:
    """Our descriptor, and the peer's socket."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs, ours:
        yield ours.fileno(), theirs


@contextmanager
def pairs(count: int) -> Iterator[list[tuple[int, socket.socket]]]:
    made = [socket.socketpair() for _ in range(count)]
    try:
        yield [(ours.fileno(), theirs) for ours, theirs in made]
    finally:
        for ours, theirs in made:
            ours.close()
            theirs.close()


async def test_first_bytes_and_an_end_of_stream_are_heard_each_from_its_own_socket() -> None:
    with Crowd() as crowd, pair() as (one, one_peer), pair() as (other, other_peer):
        crowd.add(one, math.inf)
        crowd.add(other, math.inf)
        assert len(crowd) == 2
        other_peer.send(b"x")
        assert await crowd.wait() == ([other], [])
        crowd.discard(other)
        assert len(crowd) == 1
        one_peer.close()
        assert await crowd.wait() == ([one], [])


async def test_the_end_of_a_wait_is_heard_in_its_time_and_the_earliest_first(
    mock_clock: trio.testing.MockClock,
) -> None:
    with Crowd() as crowd, pair() as (late, _), pair() as (early, _), pair() as (never, _):
        now = trio.current_time()
        crowd.add(late, now + 60)
        crowd.add(never, math.inf)
        crowd.add(early, now + 30)
        for expected, end in ((early, now + 30), (late, now + 60)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(jump, mock_clock, 30)
                assert await crowd.wait() == ([], [expected])
            assert trio.current_time() >= end
            crowd.discard(expected)
        assert len(crowd) == 1


async def jump(clock: trio.testing.MockClock, seconds: float) -> None:
    """Let time pass, once the others wait for it."""
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(seconds)


async def test_an_end_in_the_past_is_heard_at_once() -> None:
    with Crowd() as crowd, pair() as (ours, _):
        crowd.add(ours, -1.0 if trio.current_time() < 0 else 0.0)
        with trio.fail_after(60):
            assert await crowd.wait() == ([], [ours])


async def test_a_new_entry_may_have_an_earlier_end() -> None:
    heard: list[int] = []
    with Crowd() as crowd, pair() as (slow, _), pair() as (quick, _), trio.fail_after(60):
        crowd.add(slow, trio.current_time() + 3600)

        async def wait() -> None:
            heard.extend((await crowd.wait())[1])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.01)
            crowd.add(quick, trio.current_time() + 0.01)
        assert heard == [quick]


async def test_bytes_that_come_at_the_end_are_told_once() -> None:
    with Crowd() as crowd, pair() as (ours, theirs):
        theirs.send(b"x")
        crowd.add(ours, trio.current_time())
        assert await crowd.wait() == ([], [ours])
        crowd.discard(ours)
        assert len(crowd) == 0


async def test_woken_for_nothing(mock_clock: trio.testing.MockClock) -> None:
    """Whoever finds nothing to read has it watched again, for the bytes and for the end."""
    with Crowd() as crowd, pair() as (ours, theirs):
        theirs.send(b"x")
        crowd.add(ours, trio.current_time() + 30)
        assert await crowd.wait() == ([ours], [])
        os.read(ours, 10)
        crowd.watch_again(ours)
        theirs.send(b"y")
        assert await crowd.wait() == ([ours], [])
        os.read(ours, 10)
        crowd.watch_again(ours)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(jump, mock_clock, 30)
            assert await crowd.wait() == ([], [ours])


@pytest.mark.parametrize("kind", ["readable", "overdue"])
async def test_so_many_at_once_and_no_more(kind: str) -> None:
    count = AT_ONCE + 10
    with Crowd() as crowd, pairs(count) as made:
        end = math.inf if kind == "readable" else 0.0
        for ours, theirs in made:
            crowd.add(ours, end)
            if kind == "readable":
                theirs.send(b"x")
        found: list[int] = []
        for expected in (AT_ONCE, 10):
            several = (await crowd.wait())[kind == "overdue"]
            assert len(several) == expected
            found += several
            for descriptor in several:
                crowd.discard(descriptor)
        assert sorted(found) == sorted(ours for ours, _ in made)


async def test_each_wait_lets_others_run() -> None:
    ran = 0

    async def other() -> None:
        nonlocal ran
        while True:
            await trio.lowlevel.checkpoint()
            ran += 1

    with Crowd() as crowd, pair() as (ours, theirs):
        theirs.send(b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            for end in [math.inf, 0.0] * 5:
                crowd.add(ours, end)
                await crowd.wait()
                crowd.discard(ours)
            assert ran >= 5
            nursery.cancel_scope.cancel()


async def test_a_wait_can_be_ended_from_outside() -> None:
    with Crowd() as crowd, pair() as (ours, _), trio.fail_after(60):
        crowd.add(ours, math.inf)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crowd.wait)
            await trio.sleep(0.01)
            crowd.wake()


async def test_a_wait_is_cancelled_like_any_other() -> None:
    with Crowd() as crowd, pair() as (ours, _):
        crowd.add(ours, math.inf)
        with trio.move_on_after(0.01) as scope:
            await crowd.wait()
        assert scope.cancelled_caught
        assert len(crowd) == 1


async def test_whoever_leaves_before_its_end_leaves_nothing() -> None:
    with Crowd() as crowd, pair() as (ours, _):
        for _ in range(10 * STALE):
            crowd.add(ours, trio.current_time() + 3600)
            crowd.discard(ours)
        assert len(crowd._heap) <= 2 * STALE
        crowd.discard(ours)  # and again
        with trio.move_on_after(0.01) as scope:
            await crowd.wait()
        assert scope.cancelled_caught


async def test_the_number_of_a_closed_descriptor_may_be_anothers() -> None:
    with Crowd() as crowd, pair() as (closed, _), pair() as (ours, theirs):
        crowd.add(closed, trio.current_time() + 0.02)
        crowd.discard(closed)
        os.dup2(ours, closed)
        crowd.add(closed, trio.current_time() + 3600)
        await trio.sleep(0.03)  # the first end, which is nobody's now
        theirs.send(b"x")
        assert await crowd.wait() == ([closed], [])


async def test_a_duplicate_that_outlives_a_closed_descriptor_wakes_nobody_for_ever() -> None:
    """It can't be taken out of the epoll any more."""
    ours, theirs = socket.socketpair()
    with Crowd() as crowd, theirs, ours.dup():
        descriptor = ours.fileno()
        crowd.add(descriptor, math.inf)
        ours.close()
        crowd.discard(descriptor)
        theirs.send(b"x")
        woken = 0
        with trio.move_on_after(0.05):
            while True:
                assert await crowd.wait() == ([], [])
                woken += 1
        assert woken <= 1


async def test_it_gives_its_descriptor_back() -> None:
    before = open_descriptors()
    with Crowd():
        assert open_descriptors() == before + 1
    assert open_descriptors() == before


async def test_no_descriptor_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(select, "epoll", fail)
    with pytest.raises(OSError, match="Too many"):
        Crowd()


async def test_the_collector_tracks_nothing_of_those_who_wait() -> None:
    with Crowd() as crowd, pairs(200) as made:
        gc.collect()
        before = len(gc.get_objects())
        for number, (ours, _) in enumerate(made):
            crowd.add(ours, trio.current_time() + 1000 + number)
        assert len(gc.get_objects()) - before < 20
