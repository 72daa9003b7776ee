"""Whole openings, of any kind: each ends in time, in a connection or in one of our errors.

In virtual time, so that a peer may dribble for as long as it likes.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import event, given
from hypothesis import strategies as st

from tests.support.peers import (
    INTRUDER,
    NODE,
    VERSIONS,
    MemoryListener,
    RecordingStream,
    client_hello,
    credentials,
    echo,
    peer_context,
    peer_stream,
)
from tests.support.records import HANDSHAKE, make_record, recut, split_records
from trio_duplex import Connection, DuplexError, Limits, Role, Server, negotiate, serve_listeners
from trio_duplex._tls.last_words import LAST_WORDS_TIMEOUT

from .effort import effort

pytestmark = pytest.mark.slow

WINDOW = 5.0
HANDSHAKE_TIMEOUT = 30.0
IN_TIME = WINDOW + HANDSHAKE_TIMEOUT + LAST_WORDS_TIMEOUT

CREDENTIALS = credentials()
HELLOS = [client_hello(peer_context(Role.CLIENT, version)) for version in VERSIONS]
CONTEXTS = {
    (role, version, known): peer_context(role, version, certificate=NODE if known else INTRUDER)
    for role in Role
    for version in VERSIONS
    for known in (False, True)
}


# ------------------------------------------------------------------------------------------- streams


class Near(RecordingStream):
    """Our end of a stream that the peer can reset."""

    reset = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await super().receive_some(max_bytes)
        if not data and self.reset:
            raise trio.BrokenResourceError("reset")
        return data


END = "silence", "end", "reset"


class Far:
    """The peer's end."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, near: Near) -> None:
        self.stream = stream
        self._near = near

    async def leave(self, how: str) -> None:
        """Fall silent for ever, send the end of the stream, or reset the connection."""
        if how == "silence":
            await trio.sleep_forever()
        self._near.reset = how == "reset"
        await (self.stream.send_eof() if how == "end" else self.stream.aclose())


def pair() -> tuple[Near, Far]:
    ours, theirs = trio.testing.memory_stream_pair()
    near = Near(ours)
    return near, Far(theirs, near)


# -------------------------------------------------------------------------------------- what they send

delays = st.one_of(
    st.just(0.0),
    st.sampled_from([0.001, WINDOW - 0.001, WINDOW, WINDOW + 0.001, HANDSHAKE_TIMEOUT]),
    st.floats(0, 40),
)

fragments = st.one_of(
    st.binary(max_size=50),
    st.builds(
        lambda hello, start, length: hello[start : start + length],
        st.sampled_from(HELLOS),
        st.sampled_from([0, 0, 0, 1, 5, 43]),
        st.integers(0, 600),
    ),
    st.builds(
        lambda hello, size, length: recut(hello, size)[:length],
        st.sampled_from(HELLOS),
        st.integers(1, 60),
        st.integers(0, 4000),
    ),
    st.builds(make_record, st.integers(0x14, 0x18), st.binary(max_size=60)),
    st.builds(
        lambda start, tail: start + tail,
        st.sampled_from(
            [b"\x16\x03\x01", b"\x16\x03\x03\x40\x01\x01", b"\x15\x03\x03\x00\x02", b"\x80\x2e\x01"]
        ),
        st.binary(max_size=20),
    ),
)


@attrs.frozen
class Talk:
    """A peer that says this and that, listens to nothing, and leaves in some way.

    Attributes:
        parts: For each: seconds to wait, and what then to send.
        end: How it leaves.
    """

    parts: Sequence[tuple[float, bytes]]
    end: str

    async def __call__(self, far: Far) -> None:
        for delay, data in self.parts:
            await trio.sleep(delay)
            await far.stream.send_all(data)
        await far.leave(self.end)


talks = st.builds(Talk, st.lists(st.tuples(delays, fragments), max_size=6), st.sampled_from(END))


@attrs.frozen
class Mangling:
    """What happens to one flight of a real peer, on its way to us.

    Attributes:
        kind: What is done to it.
        where: At which part of it, from 0 to 1.
        data: With which bytes.
        pieces: In how many pieces it comes.
        delay: Seconds before each of them.
        end: How the peer leaves, where it is cut short.
    """

    kind: str
    where: float
    data: bytes
    pieces: int
    delay: float
    end: str

    def apply(self, flight: bytes, before: bytes) -> bytes:
        at = int(self.where * len(flight))
        head, tail = flight[:at], flight[at:]
        size = len(self.data)
        match self.kind:
            case "flip":
                flipped = bytes(a ^ b for a, b in zip(tail, self.data, strict=False))
                return head + flipped + tail[len(flipped) :]
            case "insert":
                return head + self.data + tail
            case "delete":
                return head + tail[size:]
            case "double":
                return flight + flight
            case "swap":
                return tail + head
            case "replay":
                return before + flight
            case "recut":
                return self._recut(flight, size + 1)
            case "cut":
                return head
            case _:
                return flight

    def _recut(self, flight: bytes, size: int) -> bytes:
        return b"".join(
            recut(make_record(kind, part), size) if kind == HANDSHAKE else make_record(kind, part)
            for kind, part in split_records(flight)
        )


KINDS = "nothing", "flip", "insert", "delete", "double", "swap", "replay", "recut", "cut"
manglings = st.builds(
    Mangling,
    st.sampled_from(KINDS),
    st.floats(0, 1),
    st.binary(min_size=1, max_size=40),
    st.integers(1, 5),
    st.one_of(st.just(0.0), st.floats(0, 12)),
    st.sampled_from(END),
)


class Mangled(RecordingStream):
    """A stream whose flights are mangled, the first by the first mangling, and so on."""

    def __init__(self, far: Far, manglings: Sequence[Mangling]) -> None:
        super().__init__(far.stream)
        self._far = far
        self._manglings = list(manglings)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        flight = bytes(data)
        if not self._manglings:
            await super().send_all(flight)
            return
        mangling = self._manglings.pop(0)
        mangled = mangling.apply(flight, self.sent)
        step = len(mangled) // mangling.pieces + 1
        for start in range(0, len(mangled), step):
            await trio.sleep(mangling.delay)
            await super().send_all(mangled[start : start + step])
        if mangling.kind == "cut":
            await self._far.leave(mangling.end)


@attrs.frozen
class RealPeer:
    """A real TLS peer of any role, behind a line that mangles what it sends."""

    role: Role
    version: ssl.TLSVersion
    known: bool
    delay: float
    manglings: Sequence[Mangling]

    async def __call__(self, far: Far) -> None:
        stream = Mangled(far, self.manglings)
        tls = peer_stream(stream, self.role, context=CONTEXTS[self.role, self.version, self.known])
        await trio.sleep(self.delay)
        await tls.do_handshake()
        await tls.send_all(b"hello")
        await tls.receive_some()
        await tls.aclose()


real_peers = st.builds(
    RealPeer,
    st.sampled_from(list(Role)),
    st.sampled_from(VERSIONS),
    st.sampled_from([True, True, True, False]),
    st.one_of(st.just(0.0), delays),
    st.lists(manglings, max_size=4),
)

Peer = Callable[[Far], Awaitable[object]]


async def play(peer: Peer, far: Far) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await peer(far)


# ------------------------------------------------------------------------------------------ properties


def run(main: Callable[..., Awaitable[Any]], *args: object) -> Any:
    return trio.run(main, *args, clock=trio.testing.MockClock(autojump_threshold=0))


async def check_opening(peer: Peer) -> Connection | DuplexError:
    """Negotiate with a peer, and see that it ends as it must; return in what."""
    near, far = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(play, peer, far)
        started = trio.current_time()
        outcome: Connection | DuplexError
        try:
            outcome = await negotiate(
                near, CREDENTIALS, window=WINDOW, handshake_timeout=HANDSHAKE_TIMEOUT
            )
        except DuplexError as error:
            outcome = error
        else:
            assert not near.closed
            await check_use(outcome)
        assert near.closed
        assert trio.current_time() - started <= IN_TIME + 200 * isinstance(outcome, Connection)
        nursery.cancel_scope.cancel()
    assert str(outcome).isprintable()
    event(type(outcome).__name__)
    return outcome


async def check_use(connection: Connection) -> None:
    """Use a connection as a handler would; and whatever happens, it can be closed."""
    with suppress(trio.BrokenResourceError), trio.move_on_after(100):
        if await connection.receive_some():
            await connection.send_all(b"hello")
    await connection.aclose()


@effort
@given(talks)
def test_anything(talk: Talk) -> None:
    outcome = run(check_opening, talk)
    assert not isinstance(outcome, Connection)  # nobody comes in without a certificate


@effort
@given(real_peers)
def test_mangled_flights(peer: RealPeer) -> None:
    outcome = run(check_opening, peer)
    if not peer.known:
        assert not isinstance(outcome, Connection)


@effort
@given(st.sampled_from(list(Role)), st.sampled_from(VERSIONS), st.data())
def test_flights_that_are_only_cut_and_late(
    role: Role, version: ssl.TLSVersion, data: st.DataObject
) -> None:
    # None of this is an error, so none may be found.
    harmless = st.builds(
        Mangling,
        st.sampled_from(["nothing", "recut"]),
        st.just(0.0),
        st.binary(min_size=3, max_size=40),
        st.integers(1, 5),
        st.floats(0, WINDOW / 6),
        st.just("silence"),
    )
    peer = RealPeer(role, version, True, 0.0, data.draw(st.lists(harmless, max_size=1)))
    outcome = run(check_opening, peer)
    assert isinstance(outcome, Connection), outcome
    assert outcome.role is role.other


@effort
@given(st.lists(st.one_of(talks, real_peers), min_size=1, max_size=5), st.data())
def test_a_server_with_many_of_them(peers: list[Peer], data: st.DataObject) -> None:
    limits = Limits(
        connections=data.draw(st.integers(1, 6)),
        pending=data.draw(st.integers(1, 6)),
        client_handshakes=data.draw(st.integers(1, 3)),
        server_handshakes=data.draw(st.integers(1, 3)),
        when_full=data.draw(st.sampled_from(["wait", "reset"])),
        idle_timeout=100,
        send_timeout=100,
    )
    run(serve_them, peers, limits)


async def serve_them(peers: list[Peer], limits: Limits) -> None:
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        serve = partial(
            serve_listeners, window=WINDOW, handshake_timeout=HANDSHAKE_TIMEOUT, limits=limits
        )
        server: Server = await nursery.start(serve, echo, [listener], CREDENTIALS)
        ends = []
        for peer in peers:
            near, far = pair()
            ends.append(near)
            listener.push(near)
            nursery.start_soon(play, peer, far)
        while not all(near.closed for near in ends):
            await trio.sleep(10)
            # One after the other, if there is room for one, with its handler.
            assert trio.current_time() < len(peers) * (IN_TIME + 210)
        await trio.testing.wait_all_tasks_blocked()
        statistics = server.statistics()
        refused = statistics.limits.get("connections", 0)
        ended = statistics.closed + sum(statistics.failed.values())
        ended += sum(statistics.probes.values())  # failed too, but told apart
        assert ended == statistics.accepted
        assert len(peers) - refused <= ended <= len(peers)
        assert (statistics.open, statistics.pending) == (0, 0)
        assert not any(statistics.handshaking.values())
        assert server._acceptor.room.taken == 0
        nursery.cancel_scope.cancel()
