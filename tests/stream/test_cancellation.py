"""Cancelling at every step of a connection's life: nothing is left behind, no error is swallowed.

Each life is lived again and again, and stopped after one of its steps, after a later one, and so on
to its last. A step is one task running from one checkpoint to the next: ours, or the peer's.
"""

from __future__ import annotations

import itertools
import os
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests.support.authority import AUTHORITY
from tests.support.peers import (
    INTRUDER,
    NODE,
    TLS12,
    TLS13,
    MemoryListener,
    RecordingStream,
    each_role,
    memory_pair,
    open_descriptors,
    peer_context,
    peer_stream,
    pin,
)
from tests.support.room import check_empty
from trio_duplex import (
    Connection,
    Credentials,
    DuplexError,
    DuplexListener,
    Limits,
    Role,
    Server,
    negotiate,
    open_tcp_connection,
    serve_listeners,
)
from trio_duplex._serve.acceptor import Acceptor
from trio_duplex._stream.own_hello import SENT_HELLOS
from trio_duplex.events import (
    ConnectionClosed,
    HandlerFailed,
    HandshakeCompleted,
    NegotiationFailed,
)

pytestmark = pytest.mark.slow

BOUND = 200.0
"""Seconds within which all must have ended. Of virtual time: every timeout here is far below."""

WINDOWS = {Role.SERVER: 5.0, Role.CLIENT: 0.01}
"""Seconds: who speaks has them, and who is silent over real sockets waits them out."""

SOME = 1 if os.environ.get("TRIO_DUPLEX_LONG") else 3
"""Only every third step is tried, unless the time is there (`nox -s fuzz`): each Python begins at another."""


class StopError(Exception):
    """What another task of the application fails with."""


class HandlerError(Exception):
    """What a handler fails with."""


class Stepper(trio.abc.Instrument):
    """Calls `stop` once, after so many steps of any task, counted from when it is set."""

    def __init__(self, after: int) -> None:
        self._after = after
        self.steps = 0
        self.stop: Callable[[], object] | None = None

    def stopped(self) -> bool:
        return self.steps >= self._after

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.stop is not None and not self.stopped():
            self.steps += 1
            if self.stopped():
                self.stop()


def at_every_step(
    life: Callable[[Stepper], Awaitable[object]],
    *,
    real: bool = False,
    least: int = 20,
) -> None:
    """Live a life again and again, each time stopped `SOME` steps later, and once to its end.

    Args:
        life: What to run, each time in a run of its own.
        real: With sockets, hence by the real clock.
        least: It must have at least so many steps, or it is not the life that it should be.
    """
    descriptors = open_descriptors() if real else 0
    first = 1 + sys.version_info.minor % SOME
    for after in itertools.count(first, SOME):
        stepper = Stepper(after)
        clock = None if real else trio.testing.MockClock(autojump_threshold=0)
        trio.run(life, stepper, clock=clock, instruments=[stepper])
        assert not SENT_HELLOS._open, f"a ClientHello is held, stopped after step {after}"
        if real:
            assert open_descriptors() <= descriptors, f"sockets leak, stopped after step {after}"
        if not stepper.stopped():
            assert after > least
            break


# ------------------------------------------------------------------------------------------- contexts


@cache
def ours(version: ssl.TLSVersion) -> Credentials:
    """Our credentials, with a peer policy that takes its time."""

    async def policy(*_: object) -> None:
        await trio.sleep(0.001)

    made = Credentials.mutual(certificate_chain=NODE, trust=AUTHORITY, peer=policy, allow_self=True)
    for role in Role:
        pin(made.context(role), version)
    return made


@cache
def theirs(role: Role, version: ssl.TLSVersion, *, known: bool = True) -> ssl.SSLContext:
    return peer_context(role, version, certificate=NODE if known else INTRUDER)


# -------------------------------------------------------------------------------------------- networks


class Backlog(MemoryListener):
    """A listener in memory that leaves nobody waiting when it is closed, as the kernel does."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: list[RecordingStream] = []

    def dial(self, pair: Callable[[], tuple[Any, trio.abc.Stream]]) -> trio.abc.Stream:
        near, far = pair()
        self.streams.append(RecordingStream(near))
        self.push(self.streams[-1])
        return far

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            while self._out.statistics().current_buffer_used:
                await trio.aclose_forcefully(self._out.receive_nowait())
            await super().aclose()


class MemoryNetwork:
    """Streams in memory, for virtual time."""

    def __init__(self, pair: Callable[[], tuple[Any, trio.abc.Stream]]) -> None:
        self.listener = Backlog()
        self._pair = pair

    async def dial(self) -> trio.abc.Stream:
        return self.listener.dial(self._pair)

    def check(self) -> None:
        assert self.listener.closed
        assert all(stream.closed for stream in self.listener.streams)


class TCPNetwork:
    """Sockets; that they are closed is seen from the descriptors of the process."""

    def __init__(self) -> None:
        self.listener: trio.SocketListener

    async def dial(self) -> trio.abc.Stream:
        return await trio.open_tcp_stream(*self.listener.socket.getsockname()[:2])

    def check(self) -> None:
        assert self.listener.socket.fileno() == -1


Network = MemoryNetwork | TCPNetwork


async def open_network(*, real: bool, pair: Callable[[], tuple[Any, trio.abc.Stream]]) -> Network:
    if not real:
        return MemoryNetwork(pair)
    network = TCPNetwork()
    (network.listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return network


# ---------------------------------------------------------------------------------------------- lives


@attrs.define
class Stage:
    """Where a life is lived, and from where it is stopped."""

    server: Server
    nursery: trio.Nursery
    connection: Connection | None = None
    fail: trio.Event = attrs.field(factory=trio.Event)
    drain: trio.Event = attrs.field(factory=trio.Event)


def _cancel_connection(stage: Stage) -> None:
    assert stage.connection is not None
    stage.connection.cancel_scope.cancel()


WAYS: dict[str, Callable[[Stage], object]] = {
    "server": lambda stage: stage.server.cancel_scope.cancel(),
    "listener": lambda stage: stage.server.listener_scope(stage.server.listeners[0]).cancel(),
    "nursery": lambda stage: stage.nursery.cancel_scope.cancel(),
    "sibling": lambda stage: stage.fail.set(),
    "drain": lambda stage: stage.drain.set(),
    "connection": _cancel_connection,
}


@attrs.define
class Life:
    """A server and its peers, from the first accept to the last close.

    Attributes:
        role: The role that we play.
        way: How it is stopped: a key of `WAYS`.
        version: Of TLS.
        peers: How many come.
        known: Whether their certificates come from our authority.
        mute: Whether they fall silent for ever once they have our ClientHello.
        clogged: Whether they read nothing after the handshake.
        bug: Whether the handler fails in the end.
        handlers_outside: Whether handlers run in the nursery around the server.
        limits: Of the server.
        real: Whether over sockets.
        pair: Makes the two ends of each stream, where it is not over sockets.
    """

    role: Role
    way: str
    version: ssl.TLSVersion = TLS13
    peers: int = 1
    known: bool = True
    mute: bool = False
    clogged: bool = False
    bug: bool = False
    handlers_outside: bool = False
    limits: Limits | None = None
    real: bool = False
    pair: Callable[[], tuple[Any, trio.abc.Stream]] = memory_pair

    async def __call__(self, stepper: Stepper) -> None:
        network = await open_network(real=self.real, pair=self.pair)
        events: list[Any] = []
        raised: list[HandlerError] = []
        failures: list[StopError] = []
        stage: Stage | None = None
        left = Countdown(self.peers)

        async def handler(connection: Connection) -> None:
            data = await connection.receive_some()
            await trio.sleep(0.001)
            await connection.send_all(data)
            if self.bug:
                raised.append(HandlerError())
                raise raised[-1]

        def observe(event: object) -> None:
            events.append(event)
            if self.way == "connection" and isinstance(event, HandshakeCompleted):
                assert stage is not None
                stage.connection = event.connection
                stepper.stop = partial(WAYS[self.way], stage)

        with trio.fail_after(BOUND):
            async with trio.open_nursery() as peers:
                try:
                    async with trio.open_nursery() as nursery:
                        server: Server = await nursery.start(
                            partial(
                                serve_listeners,
                                handler,
                                [network.listener],
                                ours(self.version),
                                window=WINDOWS[self.role],
                                limits=self.limits,
                                observers=[observe],
                                handler_nursery=nursery if self.handlers_outside else None,
                            )
                        )
                        stage = Stage(server, nursery)
                        nursery.start_soon(self._fail, stage)
                        nursery.start_soon(self._drain, stage)
                        if self.way != "connection":
                            stepper.stop = partial(WAYS[self.way], stage)
                        for _ in range(self.peers):
                            peers.start_soon(self._peer, network, left, events)
                        await left.zero.wait()
                        nursery.cancel_scope.cancel()
                except* StopError as group:
                    failures.extend(group.exceptions)  # type: ignore[arg-type]
                # Nothing of ours is left when the nursery is; the peers may still be leaving.
                assert stage is not None
                network.check()
                check_idle(stage.server._acceptor)
                assert [service.open for service in stage.server._services] == [0]

        handed_over = [event for event in events if isinstance(event, HandshakeCompleted)]
        closed = [event for event in events if isinstance(event, ConnectionClosed)]
        assert len(closed) == len(handed_over)
        in_handler = [event.error for event in events if isinstance(event, HandlerFailed)]
        assert [error for error in in_handler if isinstance(error, HandlerError)] == raised
        assert stage.server.statistics().open == 0
        for event in events:
            if isinstance(event, NegotiationFailed):
                assert isinstance(event.error, DuplexError)
        if ALERTED in events:  # then we knew of an error, and did not forget it for the cancelling
            assert any(isinstance(event, NegotiationFailed) for event in events)
        if self.way == "connection":  # which is one of several
            assert ECHOED in events
        if self.way == "sibling" and stepper.stopped() and not left.zero.is_set():
            assert len(failures) == 1

    async def _fail(self, stage: Stage) -> None:
        await stage.fail.wait()
        raise StopError

    async def _drain(self, stage: Stage) -> None:
        await stage.drain.wait()
        await stage.server.drain(0)
        stage.nursery.cancel_scope.cancel()

    async def _peer(self, network: Network, left: Countdown, events: list[Any]) -> None:
        """A TLS peer of the other role, which outlives us, whatever we do."""
        stream = None
        try:
            stream = await network.dial()
            await self._talk(stream, events)
        except OSError:
            assert self.real  # too late: the listener was closed
        except trio.BrokenResourceError as exc:
            if "ALERT" in (getattr(exc.__cause__, "reason", None) or ""):
                events.append(ALERTED)
        finally:
            if stream is not None:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(stream)
            left.down()

    async def _talk_to_the_end(self, stream: trio.abc.Stream) -> None:
        try:
            with suppress(trio.BrokenResourceError):
                await self._talk(stream, [])
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async def _talk(self, stream: trio.abc.Stream, events: list[Any]) -> None:
        context = theirs(self.role.other, self.version, known=self.known)
        tls = peer_stream(stream, self.role.other, context=context)
        if self.mute:
            async for _ in stream:
                pass
            return
        await tls.do_handshake()
        await tls.send_all(b"hello")
        if self.clogged:
            await trio.sleep(20)
            return
        async for _ in tls:
            events.append(ECHOED)  # noqa: PERF401 - a comprehension would lose them at an error


ALERTED = "a peer has had an alert of ours"
ECHOED = "a peer has had its data back"


class Countdown:
    """Sets `zero` when it has been counted down."""

    def __init__(self, count: int) -> None:
        self.zero = trio.Event()
        self._count = count

    def down(self) -> None:
        self._count -= 1
        if not self._count:
            self.zero.set()


def check_idle(acceptor: Acceptor) -> None:
    """Nobody has a place, a turn, or a place in line."""
    check_empty(acceptor.room)


# ---------------------------------------------------------------------------------------------- server


@pytest.mark.parametrize("way", ["server", "nursery", "sibling", "drain"])
@each_role
def test_a_whole_life(role: Role, way: str) -> None:
    at_every_step(Life(role, way))


@each_role
def test_a_whole_life_in_tls_1_2(role: Role) -> None:
    at_every_step(Life(role, "listener", version=TLS12))


@pytest.mark.parametrize("way", ["server", "drain"])
@each_role
def test_a_whole_life_over_sockets(role: Role, way: str) -> None:
    at_every_step(Life(role, way, real=True), real=True)


def test_one_of_two_connections() -> None:
    at_every_step(Life(Role.SERVER, "connection", peers=2, real=True), real=True)
    at_every_step(Life(Role.CLIENT, "connection", peers=2))


@each_role
def test_a_peer_that_is_refused(role: Role) -> None:
    at_every_step(Life(role, "server", known=False))


def test_a_handler_that_fails() -> None:
    at_every_step(Life(Role.SERVER, "nursery", bug=True))


@each_role
def test_a_peer_that_stops_reading(role: Role) -> None:
    at_every_step(Life(role, "drain", clogged=True, pair=trio.testing.lockstep_stream_pair))


@pytest.mark.parametrize("mute", [False, True], ids=["speaking", "mute"])
def test_peers_that_wait_for_their_turn(mute: bool) -> None:
    limits = Limits(client_handshakes=1, greeting_patience=0.1)
    at_every_step(Life(Role.CLIENT, "server", peers=2, limits=limits, mute=mute))


def test_peers_for_whom_there_is_no_room() -> None:
    at_every_step(Life(Role.SERVER, "server", peers=2, limits=Limits(connections=1)))
    limits = Limits(pending_per_address=1)  # of which there are none in memory
    at_every_step(Life(Role.CLIENT, "server", peers=2, limits=limits, real=True), real=True)


@pytest.mark.parametrize("way", ["nursery", "drain"])
def test_handlers_in_a_nursery_of_their_own(way: str) -> None:
    at_every_step(Life(Role.SERVER, way, handlers_outside=True))


# -------------------------------------------------------------------------- one stream, and a listener


@each_role
def test_negotiate(role: Role) -> None:
    # In virtual time; over a stream that has to be closed although we are being cancelled.
    async def life(stepper: Stepper) -> None:
        near, far = memory_pair()
        connection: Connection | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Life(role, "")._talk_to_the_end, far)
            with trio.fail_after(BOUND), trio.CancelScope() as scope:
                stepper.stop = scope.cancel
                connection = await negotiate(near, ours(TLS13), window=WINDOWS[role])
            assert near.closed is (connection is None)
            if connection is not None:
                await trio.aclose_forcefully(connection)

    at_every_step(life, least=15)


@each_role
def test_dialling(role: Role) -> None:
    async def life(stepper: Stepper) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        host, port = listener.socket.getsockname()

        async def answer() -> None:
            await Life(role, "")._talk_to_the_end(await listener.accept())

        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with trio.fail_after(BOUND), trio.CancelScope() as scope:
                stepper.stop = scope.cancel
                connection = await open_tcp_connection(host, port, ours(TLS13), role=role)
                await trio.aclose_forcefully(connection)
            nursery.cancel_scope.cancel()  # where nobody has dialled

    at_every_step(life, real=True, least=15)


@pytest.mark.parametrize(
    ("role", "way"),
    [(Role.SERVER, "closed"), (Role.CLIENT, "cancelled"), (Role.CLIENT, "nursery")],
    ids=str,
)
def test_a_duplex_listener(role: Role, way: str) -> None:
    async def life(stepper: Stepper) -> None:
        listener = Backlog()

        async def close() -> None:
            await stop.wait()
            await duplex.aclose()

        async def take(scope: trio.CancelScope) -> None:
            with scope, suppress(trio.ClosedResourceError):
                await trio.aclose_forcefully(await duplex.accept())

        stop = trio.Event()
        with trio.fail_after(BOUND):
            async with trio.open_nursery() as peers:
                for _ in range(2):  # one to be taken by accept(), and one that nobody takes
                    far = listener.dial(memory_pair)
                    peers.start_soon(Life(role, "")._talk_to_the_end, far)
                async with trio.open_nursery() as nursery:
                    duplex = DuplexListener(
                        listener, ours(TLS13), window=WINDOWS[role], nursery=nursery
                    )
                    taking = trio.CancelScope()
                    stepper.stop = {
                        "closed": stop.set,
                        "cancelled": taking.cancel,
                        "nursery": nursery.cancel_scope.cancel,
                    }[way]
                    nursery.start_soon(close)
                    try:
                        await take(taking)
                    finally:
                        with trio.CancelScope(shield=True):
                            await duplex.aclose()
                        nursery.cancel_scope.cancel()
                assert listener.closed
                assert all(stream.closed for stream in listener.streams)
                check_idle(duplex._acceptor)

    at_every_step(life)
