"""The pending peers of a listener in one task: `trio_duplex._serve.waiting_room`, through a server.

Real sockets, since descriptors are what waits there; the same with a task for each peer, where there is
no epoll or what is accepted is not a socket.
"""

from __future__ import annotations

import errno
import gc
import math
import os
import select
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.peers import (
    MemoryListener,
    credentials,
    echo,
    open_descriptors,
    peer_stream,
    receive_exactly,
    reset,
    unix_pair,
)
from tests.support.room import check_empty, check_service_empty
from trio_duplex import (
    DrainResult,
    DuplexListener,
    LimitError,
    Limits,
    NotTLSError,
    PeerClosedError,
    Reason,
    Role,
    Server,
    serve_listeners,
    serve_tcp,
    windows,
)
from trio_duplex._serve import waiting_room
from trio_duplex._serve.acceptor import Listener
from trio_duplex._serve.limits import Limit
from trio_duplex._sockets.accept import BATCH
from trio_duplex._sockets.address import format_address
from trio_duplex._sockets.crowd import AT_ONCE, Crowd, has_epoll
from trio_duplex._wire.announcement import ANNOUNCEMENT
from trio_duplex.events import (
    Accepted,
    ConnectionEvent,
    Event,
    HandshakeCompleted,
    LimitReached,
    NegotiationFailed,
    PolicyFailed,
    RoleDecided,
)

pytestmark = pytest.mark.slow


epoll_only = pytest.mark.skipif(not has_epoll(), reason="there is no epoll here")

SHORT, LONGER = 0.05, 4.0
"""Seconds, for windows that are to end; the longer one where something else is to happen before,
and the machine may be busy."""


def one_by_one(*seconds: float) -> Callable[[windows.PeerFacts], float]:
    """A window for each peer, in the order in which they come."""
    left = iter(seconds)
    return lambda _: next(left)


class Custom(trio.abc.Listener[trio.abc.Stream]):
    """A listener of an application's own, which gives socket streams."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self.socket_listener = listener

    async def accept(self) -> trio.SocketStream:
        return await self.socket_listener.accept()

    async def aclose(self) -> None:
        await self.socket_listener.aclose()


class Place:
    """A listener, and how to dial it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        family = {"unix": socket.AF_UNIX, "tcp6": socket.AF_INET6}.get(kind, socket.AF_INET)
        self._socket = trio.socket.socket(family)
        self._path = str(folder / "socket")

    async def listener(self) -> Listener:
        if self.kind == "unix":
            await self._socket.bind(self._path)
        else:
            await self._socket.bind(("::1" if self.kind == "tcp6" else "127.0.0.1", 0))
        self._socket.listen(1000)
        self.address = self._socket.getsockname()
        listener = trio.SocketListener(self._socket)
        return Custom(listener) if self.kind == "custom" else listener

    async def dial(self, host: str = "127.0.0.1") -> trio.SocketStream:
        sock = trio.socket.socket(self._socket.family)
        try:
            if self._socket.family == socket.AF_INET:
                await sock.bind((host, 0))
            await sock.connect(self.address)
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)


class Watched:
    """A server, all that its observer was told, and how to dial it."""

    def __init__(self, place: Place, server: Server, events: list[Event]) -> None:
        self.place = place
        self.server = server
        self.events = events
        self.dialled: list[trio.SocketStream] = []

    async def dial(self, count: int = 1, host: str = "127.0.0.1") -> list[trio.SocketStream]:
        streams = [await self.place.dial(host) for _ in range(count)]
        self.dialled += streams
        return streams

    async def accepted(self, count: int) -> None:
        await accepted(self.server, count)

    @property
    def pending(self) -> int:
        return self.server.statistics().pending

    def of(self, *kinds: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]

    def errors(self) -> list[Exception]:
        return [event.error for event in self.of(NegotiationFailed)]


@asynccontextmanager
async def serving(
    kind: str = "tcp",
    folder: Path = Path(),
    *,
    limits: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Watched]:
    place = Place(kind, folder)
    listener = await place.listener()
    before = open_descriptors()
    events: list[Event] = []
    options = {"window": math.inf, **options}
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            serve = partial(
                serve_listeners,
                limits=Limits(**(limits or {})),
                observers=[events.append],
                **options,
            )
            server = await nursery.start(serve, echo, [listener], credentials())
            watched = Watched(place, server, events)
            await trio.testing.wait_all_tasks_blocked()  # all of its own tasks run
            yield watched
            server.cancel_scope.cancel()
    for stream in watched.dialled:
        stream.socket.close()
    assert open_descriptors() < before  # the listener was closed, too
    assert watched.pending == 0
    check_empty(server._acceptor.room)
    for service in server._services:
        check_service_empty(service)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await trio.sleep(0.001)


async def accepted(server: Server, count: int) -> None:
    await until(lambda: server.statistics().accepted == count)


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def talk(stream: trio.abc.Stream, role: Role) -> None:
    tls = peer_stream(stream, role)
    await tls.send_all(b"hello")
    assert await receive_exactly(tls, 5) == b"hello"
    await tls.aclose()


async def announce(stream: trio.abc.Stream) -> None:
    for byte in ANNOUNCEMENT:
        await stream.send_all(bytes([byte]))
    await talk(stream, Role.SERVER)


@pytest.fixture
def no_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_room, "has_epoll", lambda: False)


@pytest.fixture(params=["epoll", "no epoll"])
def either_way(request: pytest.FixtureRequest) -> str:
    if request.param == "no epoll":
        request.getfixturevalue("no_epoll")
    elif not has_epoll():
        pytest.skip("there is no epoll here")
    return str(request.param)


each_kind = pytest.mark.parametrize("kind", ["tcp", "tcp6", "unix", "custom"])


# ---------------------------------------------------------------------------------- who waits, and how


@each_kind
async def test_every_kind_of_peer_is_served(
    kind: str, either_way: str, socket_folder: Path
) -> None:
    seconds = [math.inf, SHORT, math.inf]
    async with serving(kind, socket_folder, window=one_by_one(*seconds)) as watched:
        await talk((await watched.dial())[0], Role.CLIENT)
        await talk((await watched.dial())[0], Role.SERVER)
        await announce((await watched.dial())[0])
        decisions = [event.decision for event in watched.of(RoleDecided)]
        assert [(decision.role, decision.reason) for decision in decisions] == [
            (Role.SERVER, Reason.SPOKE),
            (Role.CLIENT, Reason.SILENT),
            (Role.CLIENT, Reason.ANNOUNCED),
        ]
        assert [decision.window for decision in decisions] == seconds
        assert decisions[1].waited >= SHORT
        peers = {event.peer for event in watched.of(Accepted, RoleDecided, HandshakeCompleted)}
        assert peers == ({None} if kind == "unix" else peers - {None})
        for number in (1, 2, 3):
            told = [type(event) for event in watched.of(ConnectionEvent) if event.number == number]
            assert told[:3] == [Accepted, RoleDecided, HandshakeCompleted]


@each_kind
async def test_who_waits_has_no_task(kind: str, either_way: str, socket_folder: Path) -> None:
    async with serving(kind, socket_folder) as watched:
        before = tasks()
        await watched.dial(20)
        await until(lambda: watched.pending == 20)
        in_one = kind != "custom" and either_way == "epoll"
        assert tasks() == before + (0 if in_one else 20)


@epoll_only
async def test_the_collector_tracks_nothing_of_who_waits() -> None:
    async with serving(window=3600) as watched:
        await watched.dial(10)
        await until(lambda: watched.pending == 10)
        watched.events.clear()
        gc.collect()
        with ExitStack() as streams:
            for _ in range(300):
                streams.enter_context(socket.create_connection(watched.place.address))
            before = len(gc.get_objects())
            await until(lambda: watched.pending == 310)
            await trio.testing.wait_all_tasks_blocked()  # new ones are still sockets for a turn
            watched.events.clear()  # they are the test's, not the server's
            gc.collect()
            # One for each would be 300. A few dozen are the interpreter's and the test's.
            assert len(gc.get_objects()) - before < 100


@each_kind
async def test_bytes_that_are_there_when_it_is_accepted(
    kind: str, either_way: str, socket_folder: Path
) -> None:
    place = Place(kind, socket_folder)
    listener = await place.listener()
    stream = await place.dial()
    await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
    events: list[Event] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_listeners, observers=[events.append], window=math.inf)
            server = await nursery.start(serve, echo, [listener], credentials())
            await until(lambda: len(events) == 3)
            server.cancel_scope.cancel()
    await stream.aclose()
    assert [type(event) for event in events] == [Accepted, RoleDecided, NegotiationFailed]


@epoll_only
async def test_a_peer_that_speaks_at_once_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is heard a turn of the scheduler after it was accepted."""
    watched_ones: list[int] = []
    add = Crowd.add

    def note(crowd: Crowd, descriptor: int, end: float) -> None:
        watched_ones.append(descriptor)
        add(crowd, descriptor, end)

    monkeypatch.setattr(Crowd, "add", note)
    async with serving() as watched:
        speaking, silent = [socket.create_connection(watched.place.address) for _ in range(2)]
        with speaking, silent:
            name = format_address(speaking.getsockname())

            def speak(event: Event) -> None:
                if isinstance(event, Accepted) and event.peer == name:
                    speaking.sendall(b"GET / HTTP/1.1\r\n\r\n")

            watched.server._acceptor.reporter._observers.append(speak)
            await until(watched.errors)
            await until(lambda: watched.pending == 1)
        assert isinstance(watched.errors()[0], NotTLSError)
        assert len(watched_ones) == 1


@epoll_only
async def test_who_has_spoken_is_heard_before_others_wait_for_its_place() -> None:
    """With one place, the second of a batch waits for it, and the first is not taken for silent."""
    async with serving(limits={"connections": 1}) as watched:
        with ExitStack() as peers:
            for _ in range(2):  # before the server's tasks run
                peer = peers.enter_context(socket.create_connection(watched.place.address))
                peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
            await until(lambda: len(watched.errors()) == 2)
        assert [type(error) for error in watched.errors()] == [NotTLSError, NotTLSError]


# ------------------------------------------------------------------------------- leaving while it waits


@pytest.mark.parametrize("how", ["end", "reset"])
@each_kind
async def test_a_peer_that_leaves(
    kind: str, how: str, either_way: str, socket_folder: Path
) -> None:
    async with serving(kind, socket_folder) as watched:
        (stream,) = await watched.dial()
        await until(lambda: watched.pending)
        name = stream.socket.getsockname()
        if how == "end":
            await stream.aclose()
        else:
            reset(stream)
        await until(watched.errors)
        (error,) = watched.errors()
        assert isinstance(error, PeerClosedError)
        # A Unix socket knows no reset.
        assert (error.received, error.reset) == (0, how == "reset" and kind != "unix")
        if kind != "unix":
            assert str(name[1]) in str(error.peer)
        assert watched.of(RoleDecided) == []
        assert watched.server.statistics().accepted == 1
        await until(lambda: not watched.pending)
        assert watched.server._acceptor.room.taken == 0


async def test_a_half_closed_peer_has_left_too(either_way: str) -> None:
    async with serving() as watched:
        (stream,) = await watched.dial()
        await until(lambda: watched.pending)
        await stream.send_eof()
        assert await stream.receive_some(1) == b""
        await until(watched.errors)
        assert isinstance(watched.errors()[0], PeerClosedError)


@pytest.mark.parametrize("way", ["listener", "server", "outside"])
async def test_a_cancellation_closes_all_who_wait(way: str, either_way: str) -> None:
    count = 3 * AT_ONCE
    async with serving() as watched:
        await watched.dial(count)
        await until(lambda: watched.pending == count)
        (listener,) = watched.server.listeners
        {
            "listener": watched.server.listener_scope(listener),
            "server": watched.server.cancel_scope,
            "outside": watched.server.listener_scope(listener),
        }[way].cancel()
        for stream in watched.dialled:
            assert await stream.receive_some(1) == b""
        assert watched.errors() == []  # nobody is told of what was cancelled
        assert watched.server.statistics().accepted == count


async def test_a_listener_that_its_owner_closes_leaves_who_waits_alone(either_way: str) -> None:
    async with serving(window=LONGER) as watched:
        streams = await watched.dial(2)
        await until(lambda: watched.pending == 2)
        await watched.server.listeners[0].aclose()
        await talk(streams[0], Role.CLIENT)
        await talk(streams[1], Role.SERVER)


@pytest.mark.parametrize("keep_silent", [False, True])
async def test_a_drain_drops_who_has_said_nothing(either_way: str, keep_silent: bool) -> None:
    count = 2 * AT_ONCE + 3
    async with serving(window=3600.0) as watched:
        await watched.dial(count)
        await until(lambda: watched.pending == count)
        if keep_silent:
            result = await watched.server.drain(0.01, keep_silent=True)
            assert (result.finished, result.cancelled, result.dropped) == (0, count, 0)
        else:
            result = await watched.server.drain(20)
            assert (result.finished, result.cancelled, result.dropped) == (0, 0, count)
        for stream in watched.dialled:
            assert await stream.receive_some(1) == b""
        assert watched.errors() == []


async def test_a_drain_waits_for_who_is_in_the_middle_of_its_hello(either_way: str) -> None:
    async with serving(window=3600.0) as watched:
        slow, mute = await watched.dial(2)
        await slow.send_all(b"\x16\x03\x01")
        (service,) = watched.server._services
        await until(lambda: watched.pending == 2)
        await until(lambda: any(place.has_spoken for place in service._negotiating))
        async with trio.open_nursery() as nursery:
            results: list[DrainResult] = []

            @nursery.start_soon
            async def drain() -> None:
                results.append(await watched.server.drain(LONGER))

            assert await mute.receive_some(1) == b""
            assert not results
        assert results == [DrainResult(finished=0, cancelled=1, dropped=1)]


async def test_a_drain_lets_silent_peers_be_greeted_if_told_so(either_way: str) -> None:
    async with serving(window=LONGER) as watched:
        (stream,) = await watched.dial()
        await until(lambda: watched.pending)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, stream, Role.SERVER)
            result = await watched.server.drain(60, keep_silent=True)
        assert (result.finished, result.cancelled, result.dropped) == (1, 0, 0)


@epoll_only
async def test_woken_for_nothing_is_not_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel may say that there is something to read, and think better of it."""
    wait, told = Crowd.wait, list[int]()

    async def wait_or_be_woken(crowd: Crowd) -> tuple[list[int], list[int]]:
        readable, overdue = await wait(crowd)
        if not told:
            told.extend(crowd._ends)
            readable = list(told)
        return readable, overdue

    async with serving() as watched:
        (stream,) = await watched.dial()
        await until(lambda: watched.pending)
        monkeypatch.setattr(Crowd, "wait", wait_or_be_woken)
        (service,) = watched.server._services
        crowd = service.waiting_room._crowd
        assert crowd is not None
        for _ in range(2):  # the first is a wait that has begun before
            crowd.wake()
            await trio.testing.wait_all_tasks_blocked()
        assert len(told) == 1
        assert watched.pending == 1
        assert watched.of(RoleDecided) == []
        await talk(stream, Role.CLIENT)


@epoll_only
async def test_a_drain_does_not_drop_who_has_spoken_just_now() -> None:
    """Even if the attendant has not read it yet: it was there before the drain."""
    async with serving() as watched:
        mute, speaks = await watched.dial(2)
        await until(lambda: watched.pending == 2)
        assert isinstance(speaks.socket, trio.socket.SocketType)
        assert os.write(speaks.socket.fileno(), b"GET / HTTP/1.1\r\n\r\n")
        result = await watched.server.drain(20)
        assert result.dropped == 1
        (decided,) = watched.of(RoleDecided)
        assert decided.decision.reason is Reason.SPOKE
        assert await mute.receive_some(1) == b""


@epoll_only
async def test_who_is_dropped_while_others_are_looked_at_is_not_looked_at() -> None:
    """By an observer, which is told of one of them between two others."""
    async with serving() as watched:
        streams = await watched.dial(3)
        await until(lambda: watched.pending == 3)
        room = watched.server._acceptor.room
        dropped = list[bool]()

        def drop(event: Event) -> None:
            if isinstance(event, NegotiationFailed) and not dropped:
                dropped.append(True)
                for number in {1, 2, 3} - {event.number}:
                    room._drop_pending(number, Limit.PENDING)

        watched.server._acceptor.reporter._observers.append(drop)
        for stream in streams:
            stream.socket.close()
        await until(lambda: len(watched.of(NegotiationFailed)) == 3)
        assert watched.pending == 0


@epoll_only
async def test_the_tasks_of_a_server_have_names_of_ours() -> None:
    """For debuggers, and for Trio's instruments."""
    async with serving() as watched:
        (stream,) = await watched.dial()
        await until(lambda: watched.pending)
        assert "trio_duplex attendant" in names_of_tasks()
        await stream.send_all(b"\x16")
        await until(lambda: "trio_duplex connection" in names_of_tasks())


def names_of_tasks() -> set[str]:
    root = trio.lowlevel.current_root_task()
    assert root is not None
    names, tasks_left = set[str](), [root]
    while tasks_left:
        task = tasks_left.pop()
        names.add(task.name)
        tasks_left += [child for each in task.child_nurseries for child in each.child_tasks]
    return names


async def test_a_stream_that_its_owner_closes_in_its_window_ends_no_server() -> None:
    listener = MemoryListener()
    ours, theirs = unix_pair()
    listener.push(ours)
    with trio.fail_after(20):
        async with theirs, trio.open_nursery() as nursery:
            serve = partial(serve_listeners, window=math.inf)
            server: Server = await nursery.start(serve, echo, [listener], credentials())
            await trio.testing.wait_all_tasks_blocked()
            await trio.aclose_forcefully(ours)
            await trio.testing.wait_all_tasks_blocked()
            assert sum(server.statistics().failed.values()) == 1
            result = await server.drain(0)
    assert result.finished + result.cancelled + result.dropped == 0  # it had ended before


async def test_listeners_that_nobody_asked_leave_no_descriptor() -> None:
    mine = credentials()
    before = open_descriptors()
    closed, entered = (DuplexListener(MemoryListener(), mine) for _ in range(2))
    await closed.aclose()
    async with entered:
        pass
    assert open_descriptors() == before


# --------------------------------------------------------------------------------------------- limits


async def test_the_oldest_makes_room_at_once(either_way: str) -> None:
    async with serving(limits={"pending": 3}) as watched:
        for count in range(1, 6):
            await watched.dial()
            await watched.accepted(count)
        for stream in watched.dialled[:2]:
            assert await stream.receive_some(1) == b""
        await until(lambda: len(watched.errors()) == 2)
        assert watched.pending == 3
        errors = watched.errors()
        assert [(type(error), getattr(error, "limit", None)) for error in errors] == [
            (LimitError, "pending")
        ] * 2
        assert [event.number for event in watched.of(NegotiationFailed)] == [1, 2]
        assert [event.limit for event in watched.of(LimitReached)] == ["pending"] * 2


async def test_when_all_places_are_taken_a_waiting_peer_goes(either_way: str) -> None:
    async with serving(limits={"connections": 2}) as watched:
        await watched.dial(2)
        await until(lambda: watched.pending == 2)
        await trio.sleep(0.6)  # they have had their fair chance
        await talk((await watched.dial())[0], Role.CLIENT)
        await until(watched.errors)
        assert [event.number for event in watched.of(NegotiationFailed)] == [1]
        assert [event.limit for event in watched.of(LimitReached)] == ["connections"]
        assert watched.pending == 1


async def test_a_flood_from_one_address_pushes_out_only_its_own(either_way: str) -> None:
    async with serving(limits={"pending": 10, "pending_per_address": math.inf}) as watched:
        honest = [(await watched.dial(host=f"127.0.1.{number}"))[0] for number in range(1, 6)]
        await until(lambda: watched.pending == 5)
        await watched.dial(50, host="127.0.2.1")
        await until(lambda: watched.server.statistics().accepted == 55)
        assert watched.pending == 10
        await until(lambda: len(watched.errors()) == 45)
        assert all(
            str(event.peer).startswith("127.0.2.1:") for event in watched.of(NegotiationFailed)
        )
        await talk(honest[0], Role.CLIENT)


async def test_per_address_the_newest_is_reset(either_way: str) -> None:
    async with serving(limits={"pending_per_address": 2}) as watched:
        await watched.dial(2, host="127.0.1.1")
        await until(lambda: watched.pending == 2)
        with pytest.raises((ConnectionResetError, trio.BrokenResourceError)):
            for stream in await watched.dial(host="127.0.1.1"):
                await stream.receive_some(1)
        await watched.dialled[0].aclose()
        await until(lambda: watched.pending == 1)
        await watched.dial(host="127.0.1.1")
        await until(lambda: watched.pending == 2)


@epoll_only
async def test_two_listeners_share_the_limits_and_make_room_for_each_other() -> None:
    events: list[Event] = []
    listeners = [
        listener
        for _ in range(2)
        for listener in await trio.open_tcp_listeners(0, host="127.0.0.1")
    ]
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            serve = partial(
                serve_listeners,
                window=math.inf,
                limits=Limits(pending=2),
                observers=[events.append],
            )
            server: Server = await nursery.start(serve, echo, listeners, credentials())
            dialled = []
            for number in range(4):
                address = listeners[number % 2].socket.getsockname()
                dialled.append(await trio.open_tcp_stream(*address))
                await accepted(server, number + 1)
            for stream in dialled[:2]:
                assert await stream.receive_some(1) == b""
            assert server.statistics().pending == 2
            server.cancel_scope.cancel()
    for stream in dialled:
        await stream.aclose()


# -------------------------------------------------------------------------------------------- batches


class Passes:
    """How much happened between two passes of the scheduler."""

    def __init__(self) -> None:
        self.most = 0
        self.total = 0
        self._now = 0

    def count(self) -> None:
        self.total += 1
        self._now += 1
        self.most = max(self.most, self._now)

    async def watch(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self._now = 0


async def test_accepts_are_bounded(either_way: str) -> None:
    place = Place("tcp", Path())
    listener = await place.listener()
    count = 4 * BATCH
    streams = [socket.create_connection(place.address) for _ in range(count)]
    passes = Passes()

    def observe(event: Event) -> None:
        if isinstance(event, Accepted):
            passes.count()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(passes.watch)
            serve = partial(serve_listeners, window=math.inf, observers=[observe])
            server: Server = await nursery.start(serve, echo, [listener], credentials())
            await until(lambda: server.statistics().accepted == count)
            nursery.cancel_scope.cancel()
    for stream in streams:
        stream.close()
    assert BATCH // 2 < passes.most <= 2 * BATCH  # two, if the watcher came first and then last


@epoll_only
@pytest.mark.parametrize("what", ["leave", "speak", "stay silent"])
async def test_decisions_are_bounded(what: str) -> None:
    count = 5 * AT_ONCE
    passes = Passes()
    kind = NegotiationFailed if what == "leave" else RoleDecided

    def observe(event: Event) -> None:
        if isinstance(event, kind):
            passes.count()

    place = Place("tcp", Path())
    listener = await place.listener()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            window = 2.0 if what == "stay silent" else math.inf
            serve = partial(serve_listeners, window=window, observers=[observe])
            server: Server = await nursery.start(serve, echo, [listener], credentials())
            nursery.start_soon(passes.watch)
            streams = [socket.create_connection(place.address) for _ in range(count)]
            await accepted(server, count)
            for stream in streams:
                if what == "leave":
                    stream.close()
                elif what == "speak":
                    stream.send(b"GET / HTTP/1.1\r\n\r\n")
            await until(lambda: passes.total == count)
            nursery.cancel_scope.cancel()
    for stream in streams:
        stream.close()
    assert 0 < passes.most <= 2 * AT_ONCE  # two, if the watcher came first and then last


@epoll_only
@pytest.mark.parametrize("how", ["cancelled", "drained"])
async def test_drops_are_bounded(how: str) -> None:
    """Also where the one who drops them is cancelled: others go on meanwhile."""
    count = 5 * AT_ONCE
    left: list[int] = []
    place = Place("tcp", Path())
    listener = await place.listener()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_listeners, window=math.inf)
            server: Server = await nursery.start(serve, echo, [listener], credentials())
            streams = [socket.create_connection(place.address) for _ in range(count)]
            await accepted(server, count)
            (service,) = server._services

            async def watch() -> None:
                while len(service.waiting_room):
                    left.append(len(service.waiting_room))
                    await trio.lowlevel.cancel_shielded_checkpoint()

            nursery.start_soon(watch)
            if how == "drained":
                assert (await server.drain(30)).dropped == count
            else:
                server.cancel_scope.cancel()
    for stream in streams:
        stream.close()
    steps = [before - after for before, after in zip(left, [*left[1:], 0], strict=True)]
    assert 0 < max(steps) <= 2 * AT_ONCE  # two, if the watcher came first and then last


# -------------------------------------------------------------------------------------------- windows


async def test_each_peer_has_its_own_window(either_way: str) -> None:
    policy = windows.ByNetwork(
        {"127.0.1.0/24": SHORT, "127.0.2.0/24": windows.SILENT, "127.0.3.0/24": windows.SPEAKING},
        otherwise=math.inf,
    )
    async with serving(window=policy) as watched:
        (speaking,) = await watched.dial(host="127.0.3.1")
        (other,) = await watched.dial()
        await until(lambda: watched.pending == 2)
        await talk((await watched.dial(host="127.0.1.1"))[0], Role.SERVER)
        await talk((await watched.dial(host="127.0.2.1"))[0], Role.SERVER)
        await talk(speaking, Role.CLIENT)
        await talk(other, Role.CLIENT)
        decisions = {
            str(event.peer).partition(":")[0]: event.decision for event in watched.of(RoleDecided)
        }
        assert {
            host: (decision.reason, decision.window) for host, decision in decisions.items()
        } == {
            "127.0.1.1": (Reason.SILENT, SHORT),
            "127.0.2.1": (Reason.RULE, 0.0),
            "127.0.3.1": (Reason.SPOKE, math.inf),
            "127.0.0.1": (Reason.SPOKE, math.inf),
        }


async def test_a_shorter_window_that_comes_later_ends_first(either_way: str) -> None:
    async with serving(window=one_by_one(3600.0, SHORT, 3600.0, 0.0)) as watched:
        for number in range(1, 5):
            await watched.dial()
            await watched.accepted(number)
        await until(lambda: len(watched.of(RoleDecided)) == 2)
        assert sorted(event.number for event in watched.of(RoleDecided)) == [2, 4]
        assert watched.pending == 2


async def test_a_memory_of_peers_learns_of_them(either_way: str) -> None:
    memory = windows.PeerMemory(otherwise=SHORT, silences=1, floor=LONGER)
    async with serving(window=memory) as watched:
        for _ in range(2):
            await talk((await watched.dial())[0], Role.SERVER)
        first, second = (event.decision for event in watched.of(RoleDecided))
        assert (first.reason, first.window) == (Reason.SILENT, SHORT)
        assert (second.reason, second.window) == (Reason.REMEMBERED, LONGER)
        await talk((await watched.dial())[0], Role.CLIENT)
        assert watched.server.statistics().changed_kind == {"silent": 1, "speaking": 1}


class Slow:
    """An async function that chooses a window when it is told to."""

    def __init__(self, seconds: float = math.inf) -> None:
        self.seconds = seconds
        self.asked = 0
        self.answer = trio.Event()

    async def __call__(self, peer: windows.PeerFacts) -> float:
        self.asked += 1
        await self.answer.wait()
        return self.seconds


async def test_a_policy_that_takes_its_time(either_way: str) -> None:
    slow = Slow()
    async with serving(window=windows.Ask(slow, timeout=60)) as watched:
        before = tasks()
        await watched.dial(5)
        await until(lambda: slow.asked == 5)
        assert (watched.pending, tasks()) == (5, before + 5)
        slow.answer.set()
        if either_way == "epoll":
            await until(lambda: tasks() == before)
        assert watched.pending == 5
        for stream in watched.dialled:
            await talk(stream, Role.CLIENT)
        assert {event.decision.window for event in watched.of(RoleDecided)} == {math.inf}


async def test_a_window_begins_when_it_is_chosen(either_way: str) -> None:
    slow = Slow(SHORT)
    async with serving(window=windows.Ask(slow, timeout=60)) as watched:
        (stream,) = await watched.dial()
        await until(lambda: slow.asked)
        await trio.sleep(0.1)
        assert watched.of(RoleDecided) == []
        slow.answer.set()
        await talk(stream, Role.SERVER)
        (decided,) = watched.of(RoleDecided)
        assert decided.decision.waited >= 0.1 + SHORT


async def test_a_window_that_is_chosen_during_a_drain_is_waited_for(either_way: str) -> None:
    """Nobody can come any more, and yet one will wait."""
    slow = Slow(SHORT)
    async with serving(window=windows.Ask(slow, timeout=60)) as watched:
        (stream,) = await watched.dial()
        await until(lambda: slow.asked)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, stream, Role.SERVER)

            async def answer() -> None:
                (service,) = watched.server._services
                await until(lambda: service._accepting.cancel_called)
                await trio.testing.wait_all_tasks_blocked()
                slow.answer.set()

            nursery.start_soon(answer)
            with trio.fail_after(60):
                result = await watched.server.drain(60, keep_silent=True)
        assert result == DrainResult(finished=1, cancelled=0)


@pytest.mark.parametrize("way", ["cancelled", "drained", "dropped", "left"])
async def test_what_becomes_of_a_peer_whose_window_is_being_chosen(
    way: str, either_way: str
) -> None:
    slow = Slow()
    policy = windows.Ask(slow, timeout=60)
    async with serving(window=policy, limits={"pending": 1}) as watched:
        (stream,) = await watched.dial()
        await until(lambda: slow.asked)
        if way == "cancelled":
            watched.server.listener_scope(watched.server.listeners[0]).cancel()
        elif way == "drained":
            assert (await watched.server.drain(10)).dropped == 1
        elif way == "dropped":
            await watched.dial()
        else:
            await stream.aclose()
            slow.answer.set()
            await until(watched.errors)
        if way != "left":
            assert await stream.receive_some(1) == b""
        await until(lambda: watched.pending == (way == "dropped"))
        if way == "dropped":
            await until(watched.errors)
        kinds = {"dropped": [LimitError], "left": [PeerClosedError]}.get(way, [])
        assert [type(error) for error in watched.errors()] == kinds


async def test_a_policy_that_fails(either_way: str) -> None:
    def fails(_: object) -> float:
        raise ZeroDivisionError

    async with serving(window=windows.Ask(fails, otherwise=SHORT)) as watched:
        await talk((await watched.dial())[0], Role.SERVER)
        (failed,) = watched.of(PolicyFailed)
        assert (type(failed.error), failed.number) == (ZeroDivisionError, 1)
        assert str(failed.peer).startswith("127.0.0.1:")


class Broken:
    """A policy that raises in its own `choose`."""

    def choose(self, peer: windows.PeerFacts, /) -> windows.Choice:
        raise ZeroDivisionError

    def learn(self, peer: windows.PeerFacts, outcome: windows.Outcome, /) -> None:
        pass


async def test_a_policy_of_the_users_own_that_fails(either_way: str) -> None:
    async with serving(window=Broken()) as watched:
        await talk((await watched.dial())[0], Role.CLIENT)
        assert len(watched.of(PolicyFailed)) == 1
        (decided,) = watched.of(RoleDecided)
        assert decided.decision.window == 5.0


# ---------------------------------------------------------------------------- where there is no descriptor


class NoDescriptors:
    """Lets so many epolls be opened, and no more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
        self.left = left
        self._open = select.epoll
        monkeypatch.setattr(select, "epoll", self)

    def __call__(self) -> select.epoll:
        if not self.left:
            raise OSError(errno.EMFILE, "Too many open files")
        self.left -= 1
        return self._open()


@epoll_only
async def test_a_server_without_a_descriptor_for_its_waiting_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listeners = [
        listener
        for _ in range(2)
        for listener in await trio.open_tcp_listeners(0, host="127.0.0.1")
    ]
    before = open_descriptors()
    NoDescriptors(monkeypatch, left=1)
    with pytest.raises(OSError, match="Too many"):
        await serve_listeners(echo, listeners, credentials())
    assert open_descriptors() == before - 2
    with pytest.raises(OSError, match="Too many"):
        await serve_tcp(echo, 0, credentials(), host="127.0.0.1")
    assert open_descriptors() == before - 2


@epoll_only
async def test_a_duplex_listener_without_one_may_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    before = open_descriptors()
    none = NoDescriptors(monkeypatch, left=0)
    with trio.fail_after(20):
        async with (
            DuplexListener(listener, credentials()) as duplex,
            trio.open_nursery() as nursery,
        ):
            with pytest.raises(OSError, match="Too many"):
                await duplex.accept()
            none.left = 1
            stream = await trio.open_tcp_stream(*listener.socket.getsockname())
            nursery.start_soon(talk, stream, Role.CLIENT)
            async with await duplex.accept() as connection:
                await echo(connection)
    assert open_descriptors() == before - 1


@epoll_only
async def test_a_system_that_watches_no_more_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Crowd, "add", add)
    async with serving(window=one_by_one(math.inf, SHORT)) as watched:
        await talk((await watched.dial())[0], Role.CLIENT)
        await talk((await watched.dial())[0], Role.SERVER)
