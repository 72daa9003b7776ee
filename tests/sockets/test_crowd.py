"""Many sockets waited for at once: `trio_duplex._sockets.crowd`. Real sockets: it is the kernel that tells."""

from __future__ import annotations

import math
import os
import select
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import pytest
import trio
import trio.testing

from tests.support.peers import MemoryListener, credentials, echo, open_descriptors, unix_pair
from trio_duplex import DuplexListener, Reason, Server, serve_listeners
from trio_duplex._sockets.crowd import AT_ONCE, Crowd
from trio_duplex._stream.detect import detect
from trio_duplex._stream.settings import Settings
from trio_duplex._stream.supervision import Supervision

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")


@contextmanager
def pair() -> Iterator[tuple[trio.socket.SocketType, socket.socket]]:
    ours, theirs = socket.socketpair()
    with theirs, trio.socket.from_stdlib_socket(ours) as wrapped:
        yield wrapped, theirs


@asynccontextmanager
async def watched() -> AsyncIterator[Crowd]:
    crowd = Crowd()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.watch)
        await trio.testing.wait_all_tasks_blocked()
        yield crowd
        nursery.cancel_scope.cancel()


def waiting_for_trio() -> int:
    statistics = trio.lowlevel.current_statistics().io_statistics
    return statistics.tasks_waiting_read


async def wait(crowd: Crowd, sock: trio.socket.SocketType, heard: list[str], name: str) -> None:
    await crowd.readable(sock)
    heard.append(name)


@linux_only
async def test_each_is_woken_for_its_own_bytes_alone() -> None:
    heard: list[str] = []
    with pair() as (left, left_peer), pair() as (right, right_peer):
        async with watched() as crowd, trio.open_nursery() as nursery:
            before = waiting_for_trio()
            nursery.start_soon(wait, crowd, left, heard, "left")
            nursery.start_soon(wait, crowd, right, heard, "right")
            await trio.testing.wait_all_tasks_blocked()
            assert len(crowd) == 2
            assert waiting_for_trio() == before
            right_peer.send(b"x")
            while not heard:
                await trio.lowlevel.checkpoint()
            assert heard == ["right"]
            assert len(crowd) == 1
            left_peer.close()  # an end is to be heard, too
        assert heard == ["right", "left"]
        assert len(crowd) == 0


@linux_only
async def test_what_is_there_already_is_heard_and_again() -> None:
    with pair() as (ours, theirs):
        theirs.send(b"xy")
        async with watched() as crowd:
            for _ in range(2):  # nothing is read in between
                await crowd.readable(ours)


@linux_only
async def test_more_than_are_woken_at_once() -> None:
    heard: list[str] = []
    count = AT_ONCE + 10
    with pair() as (ours, theirs):
        theirs.send(b"x")
        copies = [ours.dup() for _ in range(count)]
        async with watched() as crowd, trio.open_nursery() as nursery:
            for number, copy in enumerate(copies):
                nursery.start_soon(wait, crowd, copy, heard, str(number))
        for copy in copies:
            copy.close()
    assert sorted(map(int, heard)) == list(range(count))


@linux_only
async def test_a_cancelled_wait_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pair() as (ours, theirs):
        async with watched() as crowd:
            with trio.move_on_after(0) as scope:
                await crowd.readable(ours)
            assert scope.cancelled_caught
            assert len(crowd) == 0
            theirs.send(b"x")  # and the same descriptor can be waited for anew
            await crowd.readable(ours)


@linux_only
async def test_the_end_of_the_watch_cancels_with_those_who_wait() -> None:
    with pair() as (ours, _):
        crowd = Crowd()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crowd.watch)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(wait, crowd, ours, [], "never")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert len(crowd) == 0


async def test_without_a_watch_it_waits_as_trio_does() -> None:
    with pair() as (ours, theirs):
        theirs.send(b"x")
        await Crowd().readable(ours)


async def test_where_there_is_no_epoll_trio_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "other")
    monkeypatch.setattr(select, "epoll", None)
    with pair() as (ours, theirs):
        async with watched() as crowd:
            theirs.send(b"x")
            await crowd.readable(ours)


@linux_only
async def test_a_closed_socket() -> None:
    async with watched() as crowd:
        with pair() as (ours, _):
            pass
        with pytest.raises(trio.ClosedResourceError):
            await crowd.readable(ours)


# ------------------------------------------------------- what nobody should do, but an application may


async def wait_in(
    scope: trio.CancelScope, crowd: Crowd, sock: trio.socket.SocketType, heard: list[str]
) -> None:
    with scope:
        await wait(crowd, sock, heard, "closed")


@linux_only
async def test_a_socket_closed_meanwhile_costs_its_own_wait_alone() -> None:
    heard: list[str] = []
    scope = trio.CancelScope()
    with pair() as (closed, _), pair() as (other, peer):
        async with watched() as crowd, trio.open_nursery() as nursery:
            nursery.start_soon(wait_in, scope, crowd, closed, heard)
            nursery.start_soon(wait, crowd, other, heard, "other")
            await trio.testing.wait_all_tasks_blocked()
            closed.close()
            scope.cancel()
            assert len(crowd) == 1
            peer.send(b"x")
    assert scope.cancelled_caught
    assert heard == ["other"]


@linux_only
async def test_the_number_of_a_closed_socket_may_be_anothers() -> None:
    heard: list[str] = []
    scope = trio.CancelScope()
    ours, theirs = socket.socketpair()
    with ours, theirs, pair() as (closed, _):
        async with watched() as crowd, trio.open_nursery() as nursery:
            nursery.start_soon(wait_in, scope, crowd, closed, heard)
            await trio.testing.wait_all_tasks_blocked()
            number = closed.fileno()
            closed.close()
            os.dup2(ours.fileno(), number)
            with trio.socket.from_stdlib_socket(socket.socket(fileno=number)) as other:
                nursery.start_soon(wait, crowd, other, heard, "other")
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                theirs.send(b"x")
                while not heard:
                    await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert heard == ["other"]


@linux_only
@pytest.mark.parametrize("cancelled", [False, True], ids=["it waits", "it is cancelled"])
async def test_a_duplicate_may_outlive_a_closed_socket(cancelled: bool) -> None:
    """It can't be taken out of the epoll any more, and must not wake us for ever."""
    heard: list[str] = []
    scope = trio.CancelScope()
    with trio.fail_after(10), pair() as (closed, peer), closed.dup():
        async with watched() as crowd, trio.open_nursery() as nursery:
            nursery.start_soon(wait_in, scope, crowd, closed, heard)
            await trio.testing.wait_all_tasks_blocked()
            closed.close()
            if cancelled:
                scope.cancel()
            peer.send(b"x")
            await trio.testing.wait_all_tasks_blocked()
    assert heard == ([] if cancelled else ["closed"])


async def test_a_stream_closed_in_its_window_ends_no_server() -> None:
    listener = MemoryListener()
    ours, theirs = unix_pair()
    listener.push(ours)
    async with theirs, trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            partial(serve_listeners, echo, [listener], credentials(), window=math.inf)
        )
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(ours)
        result = await server.drain(0)
    assert result.finished + result.cancelled + result.dropped == 1


async def test_listeners_that_nobody_asked_leave_no_descriptor() -> None:
    mine = credentials()
    before = open_descriptors()
    closed, entered = (DuplexListener(MemoryListener(), mine) for _ in range(2))
    await closed.aclose()
    async with entered:
        pass
    assert open_descriptors() == before


async def test_woken_for_nothing_is_not_silence() -> None:
    """A kernel may say that there is something to read, and think better of it."""

    class Jumpy(Supervision):
        woken = 0

        def readable(self, stream: trio.SocketStream) -> Awaitable[None]:
            self.woken += 1
            if self.woken == 1:
                return trio.lowlevel.checkpoint()
            theirs.send(b"x")
            return super().readable(stream)

    with pair() as (ours, theirs):
        supervision = Jumpy()
        settings = Settings(window=math.inf)
        detected = await detect(trio.SocketStream(ours), settings, None, supervision)
    seen = detected.decision.reason, detected.opening, supervision.woken
    assert seen == (Reason.SPOKE, b"x", 2)
