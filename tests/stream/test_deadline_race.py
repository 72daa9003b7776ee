"""First bytes that arrive just as the detection window closes.

Whatever the scheduler makes of it, no byte may be lost and nobody may hang. Either we are TLS
server and the bytes reached TLS, so that the handshake and an echo succeed; or we are TLS client,
have sent a ClientHello of our own, and the peer's is told apart as glare. Real sockets, because
what is raced is the kernel's readiness against Trio's deadline; and a thread that sends, because
what a task sends comes when the scheduler lets it, and never while it is at its own work.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Self

import pytest
import trio

from tests.support.peers import RawPeer, credentials, peer_context
from trio_duplex import (
    Connection,
    Credentials,
    GlareError,
    Reason,
    Role,
    negotiate,
    serve_listeners,
)
from trio_duplex._sockets.address import format_address
from trio_duplex.events import Accepted, ConnectionClosed, Event, NegotiationFailed

TRIES = 2_000 if os.environ.get("TRIO_DUPLEX_LONG") else 160
"""Arrivals within the jitter; `nox -s soak` has the time for many."""

MOST = 280.0
"""Seconds for all tries, also those on a busy machine that came too late to be counted."""

WINDOW = 0.05
"""Seconds. Short, but not so short that a busy machine has used it up before the peer is asked."""

JITTER = 0.001
"""Seconds before or after the end of the window, in which the peer speaks."""

GAP = 0.003
"""Seconds between tries, so that some 17 are under way at once. If all windows closed together,
the test would only measure how long it takes to serve a crowd."""

HANG = 60.0
"""Seconds after which a try hangs; the last words of one take up to a second."""

MESSAGE = b"the bytes that came with the last breath of the window"


class Speaker(threading.Thread):
    """Sends what it is told, when it is told, whatever the scheduler is at."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(daemon=True)
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, int, bytes, Callable[[float], object]]] = []
        self._order = itertools.count()
        self._stopped = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self.join()

    def speak(
        self, when: float, descriptor: int, data: bytes, sent: Callable[[float], object]
    ) -> None:
        """Send, and call `sent` with the time at which it had arrived: loopback takes none.

        The descriptor is ours from now on: its number must not be another's when its time comes.
        """
        with self._changed:
            heapq.heappush(self._waiting, (when, next(self._order), descriptor, data, sent))
            self._changed.notify()

    def run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped:
                    left = self._waiting[0][0] - self._clock() if self._waiting else None
                    if left is not None and left <= 0:
                        break
                    self._changed.wait(left)
                if self._stopped:
                    for waiting in self._waiting:
                        os.close(waiting[2])
                    return
                _, _, descriptor, data, sent = heapq.heappop(self._waiting)
            with contextlib.suppress(BrokenPipeError):  # we hung up: the race will say so
                os.write(descriptor, data)
            sent(self._clock())
            os.close(descriptor)


@pytest.fixture
def _threads_take_turns_quickly() -> Generator[None]:
    """A thread waits for the interpreter for 5 ms by default: five times the whole jitter."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(JITTER / 10)
    yield
    sys.setswitchinterval(before)


class InWaitingRoom:
    """Waits as a server's pending peers do: all in one task."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._roles: dict[str, Role | Exception] = {}
        self._changed = trio.lowlevel.ParkingLot()

    def observe(self, event: Event) -> None:
        peer = str(event.peer)
        if isinstance(event, Accepted):
            self._began[peer] = trio.current_time()
        elif isinstance(event, ConnectionClosed):
            self._roles[peer] = event.connection.role
        elif isinstance(event, NegotiationFailed):
            glare = isinstance(event.error, GlareError)
            self._roles[peer] = Role.CLIENT if glare else event.error
        self._changed.unpark_all()

    async def began(self, peer: str) -> float:
        while peer not in self._began:
            await self._changed.park()
        return self._began.pop(peer)  # another may have its port later

    async def role(self, peer: str) -> Role:
        while peer not in self._roles:
            await self._changed.park()
        role = self._roles.pop(peer)
        if isinstance(role, Exception):
            raise role
        return role


@pytest.mark.slow
@pytest.mark.usefixtures("_threads_take_turns_quickly")
@pytest.mark.parametrize("crowded", [False, True], ids=["alone", "in a waiting room"])
async def test_the_deadline_race_loses_no_byte_and_never_hangs(crowded: bool) -> None:
    tries = TRIES // 2 if crowded else TRIES
    mine, context = credentials(), peer_context(Role.CLIENT)
    chance = random.Random(5_000)
    token = trio.lowlevel.current_trio_token()
    waiting = InWaitingRoom()
    # Those that arrived within the jitter: what became of them, and how many came in time.
    roles: Counter[Role] = Counter()
    in_time: Counter[bool] = Counter()

    async def race(stream: trio.SocketStream | None, dialled: trio.SocketStream) -> None:
        peer = RawPeer(dialled, Role.CLIENT, context=context)
        hello = peer.first_flight()
        arrived = trio.Event()
        arrival = 0.0
        echo: list[bytes] = []

        def sent(when: float) -> None:
            nonlocal arrival
            arrival = when
            token.run_sync_soon(arrived.set)

        with trio.fail_after(HANG):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(go_on, peer, arrived, echo)
                name = format_address(dialled.socket.getsockname())
                assert name is not None
                # Nothing yields between this look at the clock and negotiate()'s own.
                began = trio.current_time() if stream is not None else await waiting.began(name)
                expiry = began + WINDOW
                when = expiry + chance.uniform(-JITTER, JITTER)
                speaker.speak(when, os.dup(dialled.socket.fileno()), hello, sent)
                if stream is not None:
                    role = await serve(stream, mine)
                else:
                    role = await waiting.role(name)
        assert echo == ([MESSAGE] if role is Role.SERVER else [])
        if abs(arrival - expiry) <= JITTER:
            roles[role] += 1
            in_time[arrival < expiry] += 1

    def has_raced() -> bool:
        """Each side of the end, and each outcome, was met, or it was no race."""
        sides = min(in_time[True], in_time[False])
        outcomes = min(roles[Role.SERVER], roles[Role.CLIENT])
        return roles.total() >= tries and sides > tries // 10 and outcomes > 0

    most = trio.current_time() + MOST
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listener.socket.getsockname()
    with Speaker(trio.lowlevel.current_clock().current_time) as speaker:
        async with listener, trio.open_nursery() as servers:
            if crowded:
                options: dict[str, Any] = {"window": WINDOW, "observers": [waiting.observe]}
                serving = partial(serve_listeners, raise_handler_errors=True, **options)
                await servers.start(serving, echo_one, [listener], mine)
            async with trio.open_nursery() as nursery:
                while not has_raced() and trio.current_time() < most:
                    dialled = await trio.open_tcp_stream(*address)
                    stream = None if crowded else await listener.accept()
                    nursery.start_soon(race, stream, dialled)
                    await trio.sleep(GAP)
            servers.cancel_scope.cancel()
    assert has_raced(), f"this machine is too busy for a race: {in_time}, {roles}"


async def serve(stream: trio.SocketStream, mine: Credentials) -> Role:
    """Our end: negotiate, and echo one message; anything but success and glare is a failure."""
    try:
        connection = await negotiate(stream, mine, window=WINDOW)
    except GlareError:
        return Role.CLIENT
    async with connection:
        await echo_one(connection)
    return connection.role


async def echo_one(connection: Connection) -> None:
    assert connection.decision.reason is Reason.SPOKE
    await connection.send_all(await connection.receive_some())


async def go_on(peer: RawPeer, arrived: trio.Event, echo: list[bytes]) -> None:
    """The peer's end, once it has spoken."""
    try:
        await arrived.wait()
        await peer.shake_hands(data=MESSAGE)
        echo.append(await peer.read())
    except ssl.SSLError as exc:
        if exc.reason != "UNEXPECTED_MESSAGE":  # our ClientHello: glare
            raise
    finally:
        await trio.aclose_forcefully(peer.stream)
