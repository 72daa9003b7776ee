"""How a waiting room ends: what comes in at that moment is closed, and nobody waits for ever."""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from tests.support.peers import credentials, echo
from trio_duplex import (
    DrainResult,
    Limits,
    NotTLSError,
    PeerClosedError,
    Server,
    serve_listeners,
)
from trio_duplex._serve import waiting_room
from trio_duplex._sockets.crowd import AT_ONCE, has_epoll
from trio_duplex.events import Accepted, Event, NegotiationFailed, Observer

pytestmark = pytest.mark.slow


async def settle() -> None:
    """Wait until what is under way has happened: nothing does any more for a moment."""
    await trio.testing.wait_all_tasks_blocked(0.03)


async def listening(count: int) -> list[trio.SocketListener]:
    return [(await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] for _ in range(count)]


@asynccontextmanager
async def serving(
    listeners: list[trio.SocketListener],
    window: object = math.inf,
    limits: Limits | None = None,
    observers: Iterable[Observer] = (),
) -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:
        serve = partial(serve_listeners, window=window, limits=limits, observers=observers)  # type: ignore[arg-type]
        server = await nursery.start(serve, echo, listeners, credentials())
        yield server
        server.cancel_scope.cancel()


def dial(listener: trio.SocketListener) -> socket.socket:
    sock = socket.socket()
    sock.connect(listener.socket.getsockname())
    sock.setblocking(False)
    return sock


async def dial_and_leave(listener: trio.SocketListener) -> None:
    """Have the listener accept one, so that it goes on accepting in the same way."""
    dial(listener).close()
    await settle()


class Answer:
    """An async policy that waits to be told."""

    def __init__(self, window: float) -> None:
        self.window = window
        self.given = trio.Event()

    async def __call__(self, _: object) -> float:
        await self.given.wait()
        return self.window


async def check_nothing_left(
    server: Server, listener: trio.SocketListener, peer: socket.socket
) -> None:
    assert server.statistics().pending == 0
    with trio.fail_after(60):
        assert await server.drain(0.5, listener=listener) == DrainResult(
            finished=0, cancelled=0, dropped=0
        )
    with pytest.raises(OSError) as ended:
        assert peer.recv(1) == b""
        raise ConnectionResetError
    assert not isinstance(ended.value, BlockingIOError)


async def test_a_peer_that_comes_as_the_listener_ends_is_closed() -> None:
    for _ in range(10):  # it depends on the order of two tasks in one pass of the scheduler
        first, second = await listening(2)
        async with serving([first, second]) as server:
            await dial_and_leave(first)
            scope = server.listener_scope(first)
            peer = dial(first)
            scope.deadline = trio.current_time()
            await settle()
            await check_nothing_left(server, first, peer)
            peer.close()


async def test_a_window_that_is_chosen_as_the_listener_is_cancelled() -> None:
    for _ in range(10):
        first, second = await listening(2)
        policy = Answer(math.inf)
        async with serving([first, second], policy) as server:
            peer = dial(first)
            await settle()
            policy.given.set()
            server.listener_scope(first).cancel()
            await settle()
            await check_nothing_left(server, first, peer)
            peer.close()


def speak(peer: socket.socket) -> None:
    peer.send(b"GET / HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize("act", [speak, socket.socket.close])
async def test_a_window_that_is_chosen_for_the_last_peer_of_a_closed_listener(
    act: Callable[[socket.socket], None],
) -> None:
    (listener,) = await listening(1)
    policy = Answer(0.2)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_listeners, window=policy)
            await nursery.start(serve, echo, [listener], credentials())
            peer = dial(listener)
            await settle()
            await listener.aclose()
            await settle()
            act(peer)
            await settle()
            policy.given.set()
            # The server ends by itself.
    peer.close()


async def test_the_last_peer_of_a_closed_listener_makes_room_for_another() -> None:
    first, second = await listening(2)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_listeners, window=math.inf, limits=Limits(pending=1))
            await nursery.start(serve, echo, [first, second], credentials())
            pushed_out = dial(first)
            await settle()
            await first.aclose()
            await settle()
            pushing = dial(second)
            await settle()
            await second.aclose()
            pushing.close()
    pushed_out.close()


async def test_a_drain_keeps_peers_that_have_spoken_but_were_not_read_yet() -> None:
    count = 3 * AT_ONCE
    (listener,) = await listening(1)
    limits = Limits(
        server_handshakes=count,
        pending_per_address=math.inf,
        connections=2 * count,
        pending=2 * count,
    )
    async with serving([listener], limits=limits) as server:
        peers = [dial(listener) for _ in range(count)]
        while server.statistics().pending < count:
            await trio.sleep(0.01)
        for peer in peers:
            peer.send(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        result = await server.drain(0.5)
        assert (result.cancelled, result.dropped) == (count, 0)
        for peer in peers:
            peer.close()


async def test_a_drain_counts_peers_that_come_at_that_moment_as_dropped() -> None:
    for _ in range(10):
        (listener,) = await listening(1)
        async with serving([listener]) as server:
            await dial_and_leave(listener)
            peers = [dial(listener) for _ in range(50)]
            await trio.lowlevel.checkpoint()
            result = await server.drain(5)
            assert (result.finished, result.cancelled) == (0, 0)
            for peer in peers:
                peer.close()


@pytest.mark.skipif(not has_epoll(), reason="there is no epoll here")
async def test_a_drain_looks_at_peers_that_are_accepted_at_that_moment() -> None:
    """Those that have spoken go on, and the others are dropped and counted."""
    (listener,) = await listening(1)
    events = list[Event]()
    async with serving([listener], observers=[events.append]) as server:
        await dial_and_leave(listener)
        (service,) = server._services
        dropped = list[int]()

        def drop(event: Event) -> None:  # as a drain does; this one has not entered yet
            if isinstance(event, Accepted) and not dropped:
                service.stop_accepting()
                dropped.append(service.drop_unheard())

        server._acceptor.reporter._observers.append(drop)
        peers = [dial(listener) for _ in range(5)]
        for peer in peers[::2]:
            peer.send(b"GET / HTTP/1.1\r\n\r\n")
        await service.wait_idle()
        assert (dropped, service.dropped_late) == ([0], 2)
        errors = [event.error for event in events if isinstance(event, NegotiationFailed)]
        assert [type(error) for error in errors] == [PeerClosedError, *[NotTLSError] * 3]
        for peer in peers:
            peer.close()


async def test_listeners_are_closed_if_cancelled_and_without_a_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none() -> None:
        raise OSError(24, "EMFILE")

    monkeypatch.setattr(waiting_room, "Crowd", none)
    listeners = await listening(3)
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(OSError, match="EMFILE"):
            await serve_listeners(echo, listeners, credentials())
    assert [listener.socket.fileno() for listener in listeners] == [-1, -1, -1]
