"""Who may come in, who waits, and who makes way: `trio_duplex._serve.room`, through a server.

Time is virtual and the listeners are in memory, but where addresses and resets count.
"""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from tests.support.peers import (
    MemoryListener,
    RecordingStream,
    caught,
    client_hello,
    credentials,
    echo,
    peer_stream,
    receive_all,
    receive_exactly,
)
from tests.support.room import check_empty, check_service_empty
from trio_duplex import (
    Connection,
    Decision,
    DuplexListener,
    HandshakeTimeoutError,
    LimitError,
    Limits,
    PeerClosedError,
    Reason,
    Role,
    Server,
    WhenFull,
    serve_listeners,
    windows,
)
from trio_duplex._serve.acceptor import Acceptor, Listener
from trio_duplex._serve.limits import Limit, open_files
from trio_duplex._serve.room import FAIR_CHANCE, Place, Room
from trio_duplex._sockets.address import Address
from trio_duplex.events import (
    Accepted,
    ConnectionClosed,
    Event,
    HandshakeCompleted,
    LimitReached,
    ListenerPaused,
    NegotiationFailed,
)

pytestmark = pytest.mark.slow


E = TypeVar("E", bound=Event)


class Watched:
    """A server, and all that its observer was told."""

    def __init__(
        self, server: Server, events: list[Event], times: list[tuple[float, Event]]
    ) -> None:
        self.server = server
        self.events = events
        self.times = times

    @property
    def ended(self) -> list[float]:
        """When negotiations failed, in virtual time."""
        return [when for when, event in self.times if isinstance(event, NegotiationFailed)]

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def failed(self) -> list[type[Exception]]:
        return [type(event.error) for event in self.of(NegotiationFailed)]

    def shed(self) -> list[int]:
        """The numbers of those that made way, in that order."""
        return [
            event.number
            for event in self.of(NegotiationFailed)
            if isinstance(event.error, LimitError)
        ]

    @property
    def room(self) -> Room:
        return self.server._acceptor.room

    def live(self) -> tuple[int, int, int]:
        """Those pending, handshaking and open."""
        now = self.server.statistics()
        return now.pending, sum(now.handshaking.values()), now.open

    def assert_empty(self) -> None:
        """All is given back, in public view and inside."""
        assert self.live() == (0, 0, 0)
        check_empty(self.room)
        for service in self.server._services:
            check_service_empty(service)


@asynccontextmanager
async def serving(
    *listeners: Listener, handler: Any = echo, **options: Any
) -> AsyncIterator[Watched]:
    """A server with limits, each of which is given by its name."""
    events: list[Event] = []
    times: list[tuple[float, Event]] = []
    server_options = {
        name: options.pop(name) for name in ("window", "handshake_timeout") if name in options
    }
    async with trio.open_nursery() as nursery:
        serve = partial(
            serve_listeners,
            limits=Limits(**options),
            observers=[events.append, lambda event: times.append((trio.current_time(), event))],
            **server_options,
        )
        server = await nursery.start(serve, handler, listeners, credentials())
        watched = Watched(server, events, times)
        yield watched
        server.cancel_scope.cancel()
    watched.assert_empty()


async def talk(stream: trio.abc.Stream, role: Role, seconds: float = 0) -> None:
    """An honest peer: handshake, echo, stay for a while, close."""
    tls = peer_stream(stream, role)
    await tls.send_all(b"hello")
    assert await receive_exactly(tls, 5) == b"hello"
    await trio.sleep(seconds)
    await tls.aclose()


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


# ------------------------------------------------------------------------- peers in their window


async def test_the_oldest_pending_peer_makes_room_for_the_newest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(memory, pending=3) as watched:
        peers = []
        for _ in range(5):
            peers.append(memory.connect())
            await trio.sleep(0.1)
        assert watched.shed() == [1, 2]
        assert watched.live() == (3, 0, 0)
        for peer in peers[:2]:  # and they are told at once
            assert await peer.receive_some() == b""
        limits = watched.of(LimitReached)
        assert [(event.limit, event.value) for event in limits] == [("pending", 3)] * 2
        (first, _) = (event.error for event in watched.of(NegotiationFailed))
        assert isinstance(first, LimitError)
        assert (first.limit, first.value, first.role) == ("pending", 3, None)


async def test_a_speaking_peer_is_served_while_silent_ones_fill_their_share(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(memory, pending=10) as watched:
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                for _ in range(500):
                    memory.connect()
                    await trio.sleep(0.002)

            nursery.start_soon(flood)
            for _ in range(20):
                began = trio.current_time()
                await talk(memory.connect(), Role.CLIENT)
                assert trio.current_time() == began  # never held up
                await trio.sleep(0.05)
        assert watched.server.statistics().completed == {Role.SERVER: 20}
        assert watched.live()[0] == 10
        assert watched.server.statistics().limits == {"pending": 490}


@pytest.mark.parametrize("size", [1, 5, 60])
async def test_a_peer_in_the_middle_of_its_opening_is_pending_too(
    size: int, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()
    part = client_hello()[:size]
    async with serving(memory, pending=2) as watched:
        peers = [memory.connect() for _ in range(2)]
        for peer in peers:
            await peer.send_all(part)
        await settled()
        assert watched.live() == ((2, 0, 0) if size < 43 else (0, 2, 0))
        memory.connect()
        await trio.sleep(1)
        assert watched.shed() == ([1] if size < 43 else [])


async def test_a_peer_that_is_dropped_as_its_window_closes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Before, at and after the very moment: it ends once, and for want of room or of time."""
    memory = MemoryListener()
    async with serving(memory, pending=1, window=5, handshake_timeout=7) as watched:
        for offset in (-1e-6, 0, 1e-6):
            memory.connect()
            await trio.sleep(5 + offset)
            memory.connect()
            await trio.sleep(30)
        failed = watched.of(NegotiationFailed)
        assert [event.number for event in sorted(failed, key=lambda e: e.number)] == [*range(1, 7)]
        assert {type(event.error) for event in failed} <= {LimitError, HandshakeTimeoutError}
        watched.assert_empty()


# ---------------------------------------------------------------------------------- per address


class Deaf:
    """Does not mind what happens to places."""

    def decided(self, place: Place, decision: Decision) -> None:
        pass

    def crossed(self, place: Place, decision: Decision) -> None:
        pass

    def peer_changed(self, place: Place, change: windows.Change) -> None:
        pass

    def policy_failed(self, place: Place, error: Exception) -> None:
        pass


class Visitors:
    """Connections that come in, and have a place each."""

    def __init__(self, room: Room) -> None:
        self.room = room

    async def enter(self, remote: Address) -> Place | None:
        number = await self.room.enter(remote)
        if number is None:
            return None
        place = Place(self.room, number, remote, trio.current_time())
        self.room.hold(number, place.key, place)
        return place


def a_room(**options: Any) -> tuple[Room, list[tuple[str, float, str | None]]]:
    told: list[tuple[str, float, str | None]] = []
    room = Room(Limits(**options), lambda *limit: told.append(limit), Deaf())
    return room, told


async def test_the_newest_peer_of_an_address_is_dropped() -> None:
    room, told = a_room(pending_per_address=2)
    visitors = Visitors(room)
    one = [await visitors.enter(("192.0.2.7", port)) for port in (1, 2, 3)]
    other = await visitors.enter(("192.0.2.8", 1))
    assert one[0] is not None
    assert one[1] is not None
    assert one[2] is None
    assert other is not None
    assert told == [("pending_per_address", 2, "192.0.2.7")]
    one[0].negotiated()  # it is pending no more, though open
    assert await visitors.enter(("192.0.2.7", 4)) is not None
    assert await visitors.enter(("::ffff:192.0.2.7", 5, 0, 0)) is None
    assert room.taken == 4


async def test_streams_without_an_ip_address_do_not_count(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(memory, pending_per_address=1) as watched:
        for _ in range(5):
            memory.connect()
        await trio.sleep(1)
        assert watched.live() == (5, 0, 0)


async def test_per_address_over_tcp() -> None:
    with trio.fail_after(20):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with serving(*listeners, pending_per_address=2) as watched:
            (address,) = watched.server.addresses
            assert isinstance(address, tuple)
            dial = partial(trio.open_tcp_stream, address[0], address[1])
            silent = [await dial() for _ in range(2)]
            await until(lambda: watched.live() == (2, 0, 0))
            await dialled_and_reset(address)
            (limit,) = watched.of(LimitReached)
            assert (limit.limit, limit.peer) == ("pending_per_address", "127.0.0.1")
            await silent[0].aclose()  # that makes room
            await until(lambda: watched.live() == (1, 0, 0))
            await talk(await dial(), Role.CLIENT)
            await silent[1].aclose()


async def dialled_and_reset(address: Any) -> None:
    """Dial, and read ECONNRESET: with the first read, if not in connecting already."""
    with trio.socket.socket() as sock:
        with pytest.raises(ConnectionResetError):
            await sock.connect(address)
            await sock.recv(1)


async def until(condition: Any) -> None:
    """Poll: sockets have no virtual time."""
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.002)


# --------------------------------------------------------------------------- connections in all


async def test_peers_within_the_limits_are_not_dropped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(memory, connections=3) as watched:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(talk, memory.connect(), Role.SERVER)
        await settled()
        assert watched.of(LimitReached) == []
        assert watched.server.statistics().completed == {Role.CLIENT: 3}


@pytest.mark.parametrize("when_full", WhenFull)
async def test_when_full_the_oldest_pending_peer_makes_room(
    when_full: WhenFull, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()
    async with serving(memory, connections=3, when_full=when_full) as watched:
        for _ in range(3):
            memory.connect()
        await trio.sleep(1)
        await talk(memory.connect(), Role.CLIENT)
        assert trio.current_time() == 1
        assert watched.shed() == [1]  # and no more than needed
        assert [event.limit for event in watched.of(LimitReached)] == ["connections"]


async def test_when_all_are_busy_the_newest_waits(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    async with serving(memory, connections=2) as watched:
        async with trio.open_nursery() as nursery:
            for seconds in (10, 20):
                nursery.start_soon(talk, memory.connect(), Role.CLIENT, seconds)
            await trio.sleep(1)
            assert watched.live() == (0, 0, 2)
            began = trio.current_time()
            late = [memory.connect() for _ in range(3)]
            for stream in late:
                nursery.start_soon(talk, stream, Role.CLIENT)
            await trio.sleep(5)
            # One is held, and no more are accepted behind it.
            assert len(watched.of(Accepted)) == 2
            assert len(memory.tries) == 3
            (held,) = watched.of(LimitReached)
            assert (held.limit, held.value) == ("connections", 2)
            assert began < 2
        # They had to wait for no more than the first to leave.
        await settled()
        assert watched.server.statistics().closed == 5
        assert trio.current_time() == 20
        times = [event.seconds for event in watched.of(ConnectionClosed)]
        assert sorted(times) == [0, 0, 0, 10, 20]


def decision(role: Role) -> Decision:
    return Decision(role, Reason.SILENT if role is Role.CLIENT else Reason.SPOKE, 0.0, 5.0)


async def entered(room: Room) -> Place:
    number = await room.enter(("192.0.2.7", 4711))
    assert number is not None
    place = Place(room, number, ("192.0.2.7", 4711), trio.current_time())
    room.hold(number, place.key, place)
    return place


@pytest.mark.parametrize(
    ("others", "waited", "goes"),
    [
        (1, True, "crowd"),
        (1, False, "crowd"),  # it is one in eight: it goes when it has had its chance
        (40, True, "crowd"),  # it is not, but it has had its chance
        (40, False, "oldest"),
    ],
)
async def test_who_goes_first(
    others: int, waited: bool, goes: str, autojump_clock: trio.testing.MockClock
) -> None:
    """An address with several pending peers, if it crowds us, or as soon as that is fair."""
    room, _ = a_room()
    visitors = Visitors(room)
    oldest = await visitors.enter(("192.0.2.1", 1))
    for number in range(1, others):
        await visitors.enter((f"198.51.100.{number}", 1))
    await trio.sleep(10)
    crowd = [await visitors.enter(("192.0.2.7", port)) for port in (1, 2)]
    if waited:
        await trio.sleep(FAIR_CHANCE)
    assert oldest is not None
    assert crowd[0] is not None
    expected = crowd[0] if goes == "crowd" else oldest
    assert room._first_to_go() == expected.number


@pytest.mark.parametrize("after", list(Role), ids=str)
async def test_a_crossing_gives_up_the_turn_of_the_other_role_only(after: Role) -> None:
    room, _ = a_room()
    place = await entered(room)
    place.decided(decision(Role.CLIENT))
    assert room.take_turn_nowait(place, Role.CLIENT)
    assert (len(room.turns[Role.CLIENT]), room.pending) == (1, 0)
    place.crossed(decision(after))
    stays = after is Role.CLIENT
    assert (len(room.turns[Role.CLIENT]), room.pending) == ((1, 0) if stays else (0, 1))
    place.negotiated()
    place.end()
    assert (len(room.turns[Role.CLIENT]), room.pending, room.taken) == (0, 0, 0)


@pytest.mark.parametrize("role", list(Role), ids=str)
async def test_who_has_spoken_is_not_unheard(role: Role) -> None:
    room, _ = a_room()
    place = await entered(room)
    place.decided(decision(role))
    assert place.drop_unheard() is (role is Role.CLIENT)
    assert place.leaves_unheard is (role is Role.CLIENT)


async def test_a_stage_of_one_that_was_dropped_before_is_cancelled() -> None:
    room, _ = a_room()
    place, other = await entered(room), await entered(room)
    place.drop(Limit.PENDING, 1)
    assert place.stage(math.inf).cancel_called
    assert not other.stage(math.inf).cancel_called
    with pytest.raises(LimitError) as caught:
        place.check()
    assert caught.value.limit is Limit.PENDING
    other.check()


async def test_who_was_to_make_room_and_stays_is_waited_for_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It was dropped as its negotiation ended well, and did not hear of it."""
    told: list[tuple[str, float, str | None]] = []
    nobody: Any = None
    room = Room(Limits(connections=1), lambda *what: told.append(what), nobody)
    number = await room.enter(None)
    assert number == 1
    first = Place(room, number, None, trio.current_time())
    room.hold(number, first.key, first)
    await trio.sleep(FAIR_CHANCE)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def second() -> None:
            assert await room.enter(None) == 2

        await trio.testing.wait_all_tasks_blocked()
        assert told == []  # somebody is leaving for it
        first.negotiated()
        await trio.testing.wait_all_tasks_blocked()
        assert told == [(Limit.CONNECTIONS, 1, None)]  # nobody is: it waits for an end
        first.end()


async def test_who_waits_for_long_is_told_of_once(autojump_clock: trio.testing.MockClock) -> None:
    """Each time that a place is free, another one gets it."""
    listeners = [MemoryListener() for _ in range(3)]
    async with serving(*listeners, connections=1) as watched:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, listeners[0].connect(), Role.CLIENT, 10)
            await trio.sleep(1)
            for memory in listeners:
                nursery.start_soon(talk, memory.connect(), Role.CLIENT, 10)
            await trio.sleep(30)
            assert watched.live() == (0, 0, 1)
        await settled()
        assert watched.server.statistics().closed == 4
        assert [event.limit for event in watched.of(LimitReached)] == ["connections"] * 3


async def test_when_all_are_busy_the_newest_is_reset() -> None:
    with trio.fail_after(20):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        options: dict[str, Any] = {"connections": 2, "when_full": "reset"}
        async with serving(*listeners, **options) as watched:
            (address,) = watched.server.addresses
            assert isinstance(address, tuple)
            dial = partial(trio.open_tcp_stream, address[0], address[1])
            busy = [peer_stream(await dial(), Role.CLIENT) for _ in range(2)]
            for tls in busy:
                await tls.do_handshake()
            await until(lambda: watched.live() == (0, 0, 2))
            for _ in range(3):
                await dialled_and_reset(address)
            limits = watched.of(LimitReached)
            assert [(event.limit, event.value) for event in limits] == [("connections", 2)] * 3
            assert len(watched.of(Accepted)) == 2
            await busy[0].aclose()
            await until(lambda: watched.live() == (0, 0, 1))
            await talk(await dial(), Role.CLIENT)
            await busy[1].aclose()


async def test_a_reset_is_told_also_where_a_pending_peer_could_go_soon(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(memory, connections=2, when_full="reset") as watched:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, memory.connect(), Role.CLIENT, 10)
            await trio.sleep(1)
            memory.connect()
            await trio.sleep(FAIR_CHANCE / 2)
            late = memory.connect()
            with pytest.raises(trio.BrokenResourceError):
                await send_until_broken(late)
            assert trio.current_time() < 1 + FAIR_CHANCE
            assert [event.limit for event in watched.of(LimitReached)] == ["connections"]
            nursery.cancel_scope.cancel()


async def send_until_broken(stream: trio.abc.Stream) -> None:
    while True:
        await stream.send_all(b"x")
        await trio.sleep(0.01)


async def test_a_burst_of_speaking_peers_does_not_push_itself_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(memory, connections=3) as watched:
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(talk, memory.connect(), Role.CLIENT, 0.1)
        assert watched.shed() == []
        assert watched.server.statistics().completed == {Role.SERVER: 30}
        assert trio.current_time() == pytest.approx(1)


async def test_a_young_pending_peer_makes_room_when_it_has_had_its_chance(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(memory, connections=2) as watched:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, memory.connect(), Role.CLIENT, 10)
            await trio.sleep(1)
            memory.connect()
            await trio.sleep(0.1)
            await talk_within(memory.connect(), Role.CLIENT, FAIR_CHANCE - 0.1)
            assert watched.shed() == [2]


async def test_two_listeners_share_the_room(autojump_clock: trio.testing.MockClock) -> None:
    one, other = MemoryListener(), MemoryListener()
    async with serving(one, other, connections=4) as watched:
        for _ in range(2):
            one.connect()
            other.connect()
        await trio.sleep(1)
        # Both need a place at once: two are shed, not more, however they wake each other.
        await gather(
            partial(talk, one.connect(), Role.CLIENT), partial(talk, other.connect(), Role.CLIENT)
        )
        await trio.sleep(1)
        assert sorted(watched.shed()) == [1, 2]
        assert watched.live() == (2, 0, 0)


async def test_a_drain_does_not_wait_for_peers_without_a_place(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(memory, connections=1) as watched:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, memory.connect(), Role.CLIENT, 10)
            await trio.sleep(1)
            waiting = memory.connect()
            await trio.sleep(1)
            result = await watched.server.drain(60)
            assert await waiting.receive_some() == b""
        assert (result.finished, result.cancelled) == (1, 0)
        assert trio.current_time() == 10


# -------------------------------------------------------------------------- handshakes take turns


async def gather(*functions: Any) -> None:
    async with trio.open_nursery() as nursery:
        for function in functions:
            nursery.start_soon(function)


@pytest.mark.parametrize("role", Role)
async def test_a_burst_of_proper_peers_gets_through(
    role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    """Many more than there are turns, each of which takes a while to answer."""
    memory = MemoryListener()
    most = 0

    class Slow(RecordingStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            if not self.sent:
                await trio.sleep(0.1)
            await super().send_all(data)

    limits = {"client_handshakes": 4, "server_handshakes": 4}
    async with serving(memory, **limits) as watched:

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, watched.live()[1])
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            peers = [partial(talk, Slow(memory.connect()), role.other) for _ in range(40)]
            await gather(*peers)
            nursery.cancel_scope.cancel()
        statistics = watched.server.statistics()
        assert statistics.completed == {role: 40}
        assert statistics.limits == {}
        assert most <= 4
        if role is Role.CLIENT:  # ten turns of a tenth of a second, after the window
            assert trio.current_time() == pytest.approx(6, abs=0.02)
            assert most == 4


async def test_silent_peers_wait_for_their_turn_without_tls(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    options: dict[str, Any] = {"client_handshakes": 2, "greeting_patience": math.inf}
    async with serving(memory, **options) as watched:
        peers = [memory.connect() for _ in range(5)]
        await trio.sleep(6)
        assert watched.live() == (3, 2, 0)
        assert watched.server.statistics().handshaking == {Role.CLIENT: 2, Role.SERVER: 0}
        assert watched.server.statistics().decided == {(Role.CLIENT, Reason.SILENT): 5}
        greeted = 0
        for peer in peers:
            with trio.move_on_after(0.1):
                greeted += bool(await peer.receive_some())
        assert greeted == 2


async def test_an_unanswered_greeting_is_shed_while_others_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(memory, client_handshakes=2, window=1) as watched:
        for _ in range(2):
            memory.connect()
            await trio.sleep(0.1)
        await trio.sleep(10)
        assert watched.shed() == []  # nobody waits: they have their handshake_timeout
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, memory.connect(), Role.SERVER)
            await trio.sleep(1.01)
            assert watched.shed() == [2]  # overdue, and one is enough
            await trio.sleep(5)
        assert watched.shed() == [2]
        assert watched.live() == (0, 1, 0)
        (error,) = {event.error for event in watched.of(NegotiationFailed)}
        assert isinstance(error, LimitError)
        assert (error.limit, error.value, error.role) == ("greeting_patience", 0.5, Role.CLIENT)
        (limit,) = watched.of(LimitReached)
        assert (limit.limit, limit.value) == ("greeting_patience", 0.5)


async def test_greeting_patience_is_how_long_a_greeting_may_go_unanswered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(memory, client_handshakes=8, window=0, greeting_patience=0.5) as watched:
        times: list[float] = []
        for _ in range(30):  # mute: eight at once, of which all but a quarter go each half second
            memory.connect()
        await trio.sleep(0.1)
        for _ in range(10):
            await trio.sleep(0.25)
            times += [trio.current_time()] * (len(watched.shed()) - len(times))
        assert times == [0.6] * 6 + [1.1] * 6 + [1.6] * 6 + [2.1] * 4
        assert watched.live() == (0, 8, 0)  # nobody waits for their turns
        await trio.sleep(40)
        assert watched.failed().count(HandshakeTimeoutError) == 8


@pytest.mark.parametrize("at", [0.0, 0.1, 0.4])
async def test_an_answer_begins_a_second_patience_but_only_once(
    at: float, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()
    async with serving(memory, client_handshakes=1, window=0, greeting_patience=0.5) as watched:
        answers = memory.connect()
        await answers.receive_some()
        await trio.sleep(at)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, memory.connect(), Role.SERVER)
            for byte in (b"\x16", b"\x03", b"\x03"):  # more bytes are no more answers
                await answers.send_all(byte)
                await trio.sleep(0.1)
            await trio.sleep(0.19)
            assert watched.shed() == []
            await trio.sleep(0.02)
            assert watched.shed() == [1]
        assert watched.server.statistics().completed == {Role.CLIENT: 1}


async def test_a_turn_that_stalls_in_the_server_role_is_shed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    hello = client_hello()
    async with serving(memory, server_handshakes=2, opening_patience=3) as watched:
        for _ in range(2):
            await memory.connect().send_all(hello)
        await trio.sleep(1)
        await talk_within(memory.connect(), Role.CLIENT, 2.0)
        await trio.sleep(0.1)
        assert len(watched.shed()) == 1
        assert watched.of(LimitReached)[0].limit == "opening_patience"
        assert watched.live() == (0, 1, 0)


async def talk_within(stream: trio.abc.Stream, role: Role, seconds: float) -> None:
    began = trio.current_time()
    await talk(stream, role)
    assert trio.current_time() - began == pytest.approx(seconds, abs=0.01)


async def test_the_roles_have_turns_of_their_own(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    options: dict[str, Any] = {"client_handshakes": 1, "server_handshakes": 1, "window": 1}
    async with serving(memory, **options, greeting_patience=math.inf) as watched:
        for _ in range(3):
            memory.connect()
        await trio.sleep(2)
        assert watched.live() == (2, 1, 0)
        await talk_within(memory.connect(), Role.CLIENT, 0)


async def test_turns_are_given_in_order_of_arrival(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    async with serving(memory, client_handshakes=1, window=1) as watched:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(talk, memory.connect(), Role.SERVER)
                await trio.sleep(0.001)
        assert [event.number for event in watched.of(HandshakeCompleted)] == [1, 2, 3, 4, 5, 6]


async def test_a_peer_that_waits_for_a_turn_may_be_dropped_for_a_newer_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    options: dict[str, Any] = {"client_handshakes": 1, "greeting_patience": math.inf}
    async with serving(memory, **options, pending=2, window=1) as watched:
        for _ in range(3):
            memory.connect()
            await trio.sleep(1.1)
        assert watched.live() == (2, 1, 0)
        memory.connect()
        await trio.sleep(0.1)
        assert watched.shed() == [2]
        assert watched.live() == (2, 1, 0)


@pytest.mark.parametrize("role", Role)
async def test_turn_timeout_is_a_limit_error(
    role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    """The peer did nothing wrong; it must not be said to be slow."""
    memory = MemoryListener()
    options: dict[str, Any] = {
        "client_handshakes": 1,
        "greeting_patience": math.inf,
        "server_handshakes": 1,
        "opening_patience": math.inf,
    }
    opening = client_hello() if role is Role.SERVER else b""
    async with serving(
        memory, **options, window=1, turn_timeout=10, handshake_timeout=100
    ) as watched:
        for _ in range(3):
            if opening:
                await memory.connect().send_all(opening)
            else:
                memory.connect()
            await trio.sleep(0.5)
        await trio.sleep(9.4)  # they have spoken at once, or were silent for a second
        if role is Role.CLIENT:
            await trio.sleep(1)
        assert watched.live() == (1, 1, 0)
        await trio.sleep(0.6)
        assert watched.live() == (0, 1, 0)
        assert watched.failed() == [LimitError] * 2
        limits = watched.of(LimitReached)
        assert [(event.limit, event.value) for event in limits] == [("turn_timeout", 10)] * 2
        (role_of_error,) = {
            event.error.role
            for event in watched.of(NegotiationFailed)
            if isinstance(event.error, LimitError)
        }
        assert role_of_error is role


@pytest.mark.parametrize("role", Role)
async def test_time_in_line_does_not_count_against_the_peer(
    role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    """It waits for longer than a handshake may take, and then has all the time of one."""
    memory = MemoryListener()
    options: dict[str, Any] = {
        "client_handshakes": 1,
        "greeting_patience": math.inf,
        "server_handshakes": 1,
        "opening_patience": math.inf,
    }
    opening = client_hello() if role is Role.SERVER else b""
    async with serving(
        memory, **options, window=0.5, turn_timeout=math.inf, handshake_timeout=10
    ) as watched:
        for _ in range(3):
            stream = memory.connect()
            if opening:
                await stream.send_all(opening)
        await trio.sleep(31)
        failed = watched.of(NegotiationFailed)
        assert [type(event.error) for event in failed] == [HandshakeTimeoutError] * 3
        began = 0.0 if role is Role.SERVER else 0.5
        assert watched.ended == pytest.approx([began + 10, began + 20, began + 30])


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.parametrize("role", Role)
async def test_a_shedding_at_any_step_of_a_handshake_leaks_nothing(
    steps: int, role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    """One is dropped n scheduler steps after it got its turn: it ends, or is served."""
    memory = MemoryListener()
    limits = {"client_handshakes": 1, "server_handshakes": 1, "window": 1}
    async with serving(memory, **limits) as watched:
        turns = watched.room.turns[role]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caught, partial(talk, memory.connect(), role.other))
            await trio.sleep(1 if role is Role.CLIENT else 0)
            while not len(turns) and not watched.of(HandshakeCompleted):
                await trio.lowlevel.checkpoint()
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            for place in (*turns._fresh, *turns._slow, *turns._late):
                place.drop(Limit.GREETING_PATIENCE, 0.5)
            nursery.start_soon(talk, memory.connect(), role.other)
        statistics = watched.server.statistics()
        assert statistics.accepted == 2
        assert statistics.completed[role] + sum(statistics.failed.values()) == 2
        assert watched.failed() in ([], [LimitError])
        assert len(watched.of(LimitReached)) == len(watched.failed())


@pytest.mark.parametrize("steps", range(8))
async def test_a_drop_at_any_step_of_waiting_for_a_turn_leaks_nothing(
    steps: int, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()
    async with serving(memory, client_handshakes=1, window=1, handshake_timeout=3) as watched:
        memory.connect()
        await trio.sleep(0.5)
        memory.connect()
        await trio.sleep(1.499999)  # the second waits; the first is about to be shed for it
        with trio.move_on_after(0.000001):
            await trio.sleep_forever()
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        if watched.room.pending:
            watched.room._drop_pending(next(iter(watched.room._pending)), Limit.PENDING)
        await talk(memory.connect(), Role.SERVER)
        await trio.sleep(10)
        watched.assert_empty()
        assert len(watched.failed()) == 2


async def test_a_turn_handed_over_by_one_that_is_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """All in line are cancelled at once with the holder: no turn is left behind."""
    memory = MemoryListener()
    async with serving(memory, client_handshakes=2, window=1) as watched:
        for _ in range(10):
            memory.connect()
        await trio.sleep(1.2)
        assert watched.live() == (8, 2, 0)
        watched.server.listener_scope(memory).cancel()
        await trio.sleep(1)
        watched.assert_empty()


# --------------------------------------------------------------------- what the machine has no room for


async def test_without_descriptors_the_oldest_pending_peer_makes_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(memory) as watched:
        for _ in range(3):
            memory.connect()
        await trio.sleep(1)
        memory.failures = [OSError(errno.EMFILE, "Too many open files")]
        memory.connect()  # accepted by the call that has been made already
        await talk(memory.connect(), Role.CLIENT)
        assert trio.current_time() == 1  # no pause, since one made room
        assert watched.shed() == [1]
        (paused,) = watched.of(ListenerPaused)
        assert paused.error.errno == errno.EMFILE
        (limit,) = watched.of(LimitReached)
        assert (limit.limit, limit.value) == ("open files", open_files())


async def test_without_descriptors_and_pending_peers_it_pauses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    memory.failures = [OSError(errno.ENOMEM, "no memory") for _ in range(3)]
    async with serving(memory) as watched:
        stream = memory.connect()
        await talk(stream, Role.CLIENT)
        assert [event.seconds for event in watched.of(ListenerPaused)] == [0.1] * 3
        assert trio.current_time() == pytest.approx(0.3)
        assert watched.of(LimitReached) == []


# ------------------------------------------------------------------------- slots on every way out


async def test_no_slot_leaks_after_any_mix_of_failures(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()

    async def handler(connection: Connection) -> None:
        async for chunk in connection:
            if chunk == b"raise":
                raise ZeroDivisionError
            if chunk == b"cancel":
                connection.cancel_scope.cancel()
            await connection.send_all(chunk)

    async def silent(stream: RecordingStream) -> None:
        await receive_all(stream)

    async def leaves(stream: RecordingStream) -> None:
        await trio.sleep(0.5)
        await stream.aclose()

    async def leaves_when_greeted(stream: RecordingStream) -> None:
        await stream.receive_some()
        await stream.aclose()

    async def garbage(stream: RecordingStream) -> None:
        await stream.send_all(b"SSH-2.0-x\r\n")

    async def partial_hello(stream: RecordingStream) -> None:
        await stream.send_all(client_hello()[:50])
        await receive_all(stream)

    async def says(word: bytes, role: Role, stream: RecordingStream) -> None:
        tls = peer_stream(stream, role)
        await tls.send_all(word)
        await tls.receive_some()
        await stream.aclose()

    scripts: list[Callable[[RecordingStream], Awaitable[None]]] = [
        silent,
        leaves,
        leaves_when_greeted,
        garbage,
        partial_hello,
        *(
            partial(says, word, role)
            for word in (b"hello", b"raise", b"cancel")
            for role in Role
        ),
    ]  # fmt: skip
    options: dict[str, Any] = {
        "pending": 12,
        "connections": 20,
        "client_handshakes": 2,
        "server_handshakes": 2,
        "window": 1,
        "handshake_timeout": 4,
    }
    async with serving(memory, handler=handler, **options) as watched:
        async with trio.open_nursery() as nursery:
            for number in range(120):
                script = scripts[number % len(scripts)]
                nursery.start_soon(caught, partial(script, memory.connect()))
                await trio.sleep(0.05)
        await trio.sleep(60)
        watched.assert_empty()
        statistics = watched.server.statistics()
        assert statistics.accepted == 120
        ended = statistics.closed + sum(statistics.failed.values())
        ended += sum(statistics.probes.values())
        assert ended == 120
        assert min(statistics.completed[role] for role in Role) > 0
        assert {"LimitError", "NotTLSError", "PeerClosedError"} <= set(statistics.failed)
        assert len(watched.of(LimitReached)) >= len(watched.shed()) > 0


async def test_a_duplex_listener_gives_its_places_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    listener = DuplexListener(memory, credentials(), limits=Limits(connections=2, pending=1))
    acceptor: Acceptor = listener._acceptor
    async with listener, trio.open_nursery() as nursery:
        for _ in range(5):  # more than there is room for: each place is free when it is accepted
            nursery.start_soon(talk, memory.connect(), Role.CLIENT)
            connection = await listener.accept()
            nursery.start_soon(serve_one, connection)
        memory.connect()
        with trio.move_on_after(1):
            await listener.accept()
        memory.connect()
        with trio.move_on_after(1):
            await listener.accept()
        assert acceptor.statistics().limits == {"pending": 1}
        assert acceptor.room.taken == 1
    assert acceptor.room.taken == 0
    assert acceptor.statistics().failed == {"LimitError": 1}


async def serve_one(connection: Connection) -> None:
    async with connection:
        await echo(connection)


# ------------------------------------------------------------------------------- seconds that bound


async def test_handler_timeout(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    async with serving(memory, handler_timeout=7) as watched:
        tls = peer_stream(memory.connect(), Role.CLIENT)
        await tls.do_handshake()
        assert await tls.receive_some() == b""  # a close_notify: it ends in due form
        assert trio.current_time() == 7
        await trio.sleep(1)
        (closed,) = watched.of(ConnectionClosed)
        assert closed.seconds == 7
        assert watched.server.statistics().handler_failures == {}


@pytest.mark.parametrize("timeout", [math.inf, 7])
async def test_a_deadline_that_an_observer_has_set_holds_without_a_handler_timeout(
    timeout: float, autojump_clock: trio.testing.MockClock
) -> None:
    memory, events = MemoryListener(), list[Event]()

    def observe(event: Event) -> None:
        events.append(event)
        if isinstance(event, HandshakeCompleted):
            event.connection.cancel_scope.deadline = trio.current_time() + 3

    async with trio.open_nursery() as nursery:
        serve = partial(
            serve_listeners, limits=Limits(handler_timeout=timeout), observers=[observe]
        )
        server: Server = await nursery.start(serve, echo, [memory], credentials())
        tls = peer_stream(memory.connect(), Role.CLIENT)
        await tls.do_handshake()
        assert await tls.receive_some() == b""
        assert trio.current_time() == min(3 if timeout == math.inf else timeout, 7)
        server.cancel_scope.cancel()


async def test_close_timeout(autojump_clock: trio.testing.MockClock) -> None:
    """The peer takes nothing any more, not even the close_notify."""
    memory = MemoryListener()

    class Clogged(RecordingStream):
        clogged = False

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            if self.clogged:
                await trio.sleep_forever()
            await super().send_all(data)

    async def returns(connection: Connection) -> None:
        await connection.receive_some()
        ours.clogged = True

    pair = trio.testing.memory_stream_pair()
    ours = Clogged(pair[0])
    async with serving(memory, handler=returns, close_timeout=2.5) as watched:
        memory.push(ours)
        tls = peer_stream(pair[1], Role.CLIENT)
        await tls.send_all(b"hello")
        await trio.sleep(2.4)
        assert watched.live() == (0, 0, 1)
        await trio.sleep(0.2)
        assert ours.closed
        (closed,) = watched.of(ConnectionClosed)
        assert closed.seconds == 2.5
        assert watched.live() == (0, 0, 0)


# ------------------------------------------------------------------------------------ TCP keepalive


@pytest.mark.parametrize(
    ("limits", "idle", "milliseconds"),
    [
        ({}, 60, 120_000),
        ({"keepalive": 0.2}, 1, 60_200),
        ({"keepalive": 86_400}, 32_767, 86_460_000),
        ({"keepalive": math.inf}, None, 0),
        ({"ack_timeout": 0.0001}, 60, 1),
        ({"ack_timeout": 30}, 60, 30_000),
        ({"ack_timeout": 1e9}, 60, 2**31 - 1),
        ({"ack_timeout": math.inf}, 60, 0),
        ({"keepalive": math.inf, "ack_timeout": 7}, None, 7_000),
    ],
)
async def test_keepalive(limits: dict[str, float], idle: int | None, milliseconds: int) -> None:
    found: list[tuple[int, int, int]] = []

    async def handler(connection: Connection) -> None:
        stream = connection.transport_stream
        assert isinstance(stream, trio.SocketStream)
        found.append(
            (
                stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            )
        )

    with trio.fail_after(20):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with serving(*listeners, handler=handler, **limits) as watched:
            (address,) = watched.server.addresses
            assert isinstance(address, tuple)
            tls = peer_stream(await trio.open_tcp_stream(address[0], address[1]), Role.CLIENT)
            assert await tls.receive_some() == b""
            await tls.aclose()
    ((on, seconds, unacknowledged),) = found
    assert on == (idle is not None)
    if idle is not None:
        assert seconds == idle
    assert unacknowledged == milliseconds


async def test_a_peer_that_leaves_while_it_waits_is_noticed_at_its_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(memory, window=1, client_handshakes=1) as watched:
        memory.connect()
        await trio.sleep(0.1)
        gone = memory.connect()
        await trio.sleep(1.1)
        await gone.aclose()
        await trio.sleep(5)
        assert watched.shed() == [1]
        assert PeerClosedError not in watched.failed()
        assert len(watched.failed()) == 2


@pytest.mark.parametrize("keep_silent", [False, True])
async def test_a_drain_drops_peers_that_have_said_nothing(
    keep_silent: bool, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()
    async with serving(memory, window=1, client_handshakes=1, handshake_timeout=30) as watched:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, memory.connect(), Role.CLIENT, 5)
            silent = [memory.connect() for _ in range(3)]
            await trio.sleep(1.2)  # one is greeted, and two are in line
            silent.append(memory.connect())
            spoken = memory.connect()
            await spoken.send_all(client_hello()[:3])
            await trio.sleep(0.1)
            result = await watched.server.drain(10, keep_silent=keep_silent)
        assert result.dropped == (0 if keep_silent else 4)
        assert result.finished >= 1
        assert result.cancelled >= 1
        assert await silent[-1].receive_some() == b"" or keep_silent


async def test_connections_per_address() -> None:
    room, told = a_room(connections_per_address=1)
    visitors = Visitors(room)
    one = await visitors.enter(("192.0.2.7", 1))
    assert one is not None
    one.negotiated()  # open now, and it counts on
    assert await visitors.enter(("192.0.2.7", 2)) is None
    assert told == [("connections_per_address", 1, "192.0.2.7")]
    assert await visitors.enter(("192.0.2.8", 1)) is not None
    one.end()
    assert await visitors.enter(("192.0.2.7", 3)) is not None


@pytest.mark.parametrize("role", Role)
async def test_connections_per_identity(role: Role, autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    async with serving(memory, connections_per_identity=1, window=1) as watched:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, memory.connect(), role.other, 10)
            await trio.sleep(2)
            await caught(partial(talk, memory.connect(), role.other))
            await trio.sleep(2)  # its alert is to reach it
            assert [event.limit for event in watched.of(LimitReached)] == [
                "connections_per_identity"
            ]
        await trio.sleep(1)
        await talk(memory.connect(), role.other)


async def test_a_flood_from_one_address_pushes_out_only_its_own() -> None:
    room, _ = a_room(pending=10, pending_per_address=math.inf)
    visitors = Visitors(room)
    honest = [await visitors.enter((f"192.0.2.{number}", 1)) for number in range(5)]
    for port in range(100):
        assert await visitors.enter(("198.51.100.1", port)) is not None
    assert all(place and place.number in room._pending for place in honest)
    assert room.pending == 10
