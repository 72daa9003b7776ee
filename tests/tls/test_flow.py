"""The way of the bytes, direct and through the bare stream: `trio_duplex._tls.flow`."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import (
    assert_checkpoints,
    check_two_way_stream,
    lockstep_stream_pair,
    memory_stream_pair,
)

from tests.odd_peers.forge import Forger13, expand
from tests.support.authority import AUTHORITY
from tests.support.contexts import new_context
from tests.support.peers import NODE, TLS13, VERSIONS, tcp_pair, unix_pair
from tests.support.records import HANDSHAKE
from trio_duplex import Role
from trio_duplex._tls.ending import Known
from trio_duplex._tls.engine import PART, Engine
from trio_duplex._tls.flow import _READ_SIZE, BATCH, MOST_OWED, RECEIVE_SIZE, SEND_PIECE, Flow

pytestmark = pytest.mark.slow


Ways = tuple[bool, bool]
WAYS: list[Ways] = [(one, other) for one in (False, True) for other in (False, True)]
"""Whether each end's `tls` is asked for."""


@functools.cache
def contexts(version: ssl.TLSVersion) -> dict[Role, ssl.SSLContext]:
    server, client = new_context(Role.SERVER), new_context(Role.CLIENT)
    server.verify_mode = ssl.CERT_NONE
    NODE.configure_cert(server)
    AUTHORITY.configure_trust(client)
    for context in (server, client):
        context.minimum_version = context.maximum_version = version
        context.options |= ssl.OP_NO_RENEGOTIATION
    return {Role.SERVER: server, Role.CLIENT: client}


class _End(Flow, trio.abc.Stream):
    """A flow as Trio's checks want it: with the base class of streams, and closed in time."""

    async def aclose(self, known: Known | None = None) -> None:
        with trio.move_on_after(0.1):
            await super().aclose(known)


def flows(
    ours: trio.abc.Stream,
    theirs: trio.abc.Stream,
    version: ssl.TLSVersion = TLS13,
    ways: Ways = (False, False),
    *,
    https_compatible: bool = False,
) -> tuple[_End, _End]:
    """A server's and a client's end, after a handshake in memory; tickets are held."""
    server, client = (
        Engine(contexts(version)[Role.SERVER], Role.SERVER),
        Engine(contexts(version)[Role.CLIENT], Role.CLIENT),
    )
    while not (client.handshake() & server.handshake()):
        for one, other in ((client, server), (server, client)):
            if words := one.take():
                other.feed(words)
    server.hold()
    ends = (
        _End(ours, server, https_compatible=https_compatible),
        _End(theirs, client, https_compatible=https_compatible),
    )
    for end, bare in zip(ends, ways, strict=True):
        if bare:
            assert type(end.tls) is trio.SSLStream
    return ends


Pair = Callable[[], Awaitable[tuple[trio.abc.Stream, trio.abc.Stream]]]


async def memory() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    return memory_stream_pair()


async def lockstep() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    return lockstep_stream_pair()


async def unix() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    return unix_pair()


TRANSPORTS: dict[str, Pair] = {"memory": memory, "tcp": tcp_pair, "unix": unix}
CLOGGED: dict[str, Pair] = {"lockstep": lockstep}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("ways", WAYS)
async def test_trios_contract_over_memory_clogged_too(
    version: ssl.TLSVersion, ways: Ways, autojump_clock: trio.testing.MockClock
) -> None:
    async def pair() -> tuple[_End, _End]:
        return flows(*memory_stream_pair(), version, ways)

    async def clogged() -> tuple[_End, _End]:
        return flows(*lockstep_stream_pair(), version, ways)

    await check_two_way_stream(pair, clogged)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("ways", WAYS)
@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_trios_contract_over_sockets(
    version: ssl.TLSVersion, ways: Ways, transport: str
) -> None:
    async def pair() -> tuple[_End, _End]:
        return flows(*await TRANSPORTS[transport](), version, ways)

    await check_two_way_stream(pair, None)


@contextlib.asynccontextmanager
async def connected(
    transport: str = "tcp", version: ssl.TLSVersion = TLS13, ways: Ways = (False, False)
) -> AsyncIterator[tuple[_End, _End]]:
    ours, theirs = await {**TRANSPORTS, **CLOGGED}[transport]()
    ends = flows(ours, theirs, version, ways)
    try:
        yield ends
    finally:
        for end in ends:
            await trio.aclose_forcefully(end.transport)


async def receive_exactly(end: Flow, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await end.receive_some()
        assert more
        data += more
    return data


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "size",
    [0, 1, 16_384, 16_385, SEND_PIECE, SEND_PIECE + 1, BATCH, BATCH + 1, 2 * BATCH + 7, 3_000_000],
)
async def test_data_of_any_size_both_ways_at_once(
    transport: str, version: ssl.TLSVersion, size: int
) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    async with connected(transport, version) as ends, trio.open_nursery() as nursery:
        for end in ends:
            nursery.start_soon(end.send_all, data)
        for end in ends:
            assert await receive_exactly(end, size) == data


async def test_a_receive_gives_all_records_that_have_come() -> None:
    async with connected() as (ours, theirs):
        for _ in range(10):
            await theirs.send_all(b"x" * 1000)
        assert await ours.receive_some() == b"x" * 10_000
        for _ in range(10):
            await theirs.send_all(b"y" * 16_384)
        receives = received = 0
        while received < 10 * 16_384:
            received += len(await ours.receive_some())
            receives += 1
        assert receives < 5  # of ten records; how many have come is the kernel's
        await theirs.wait_send_all_might_not_block()


@pytest.mark.parametrize("most", [PART - 1, PART, PART + 1, RECEIVE_SIZE, None])
async def test_openssl_buffers_one_part_however_much_has_come(most: int | None) -> None:
    """Its buffer grows, and is never made smaller."""
    data = bytes(range(256)) * 16_384
    pending = []

    class Incoming:
        def __init__(self, inner: ssl.MemoryBIO) -> None:
            self.inner = inner

        def write(self, data: bytes | memoryview) -> int:
            written = self.inner.write(data)
            pending.append(self.inner.pending)
            return written

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    async with connected() as (ours, theirs), trio.open_nursery() as nursery:
        ours.engine._incoming = Incoming(ours.engine._incoming)  # type: ignore[assignment]
        nursery.start_soon(theirs.send_all, data)
        received = bytearray()
        while len(received) < len(data):
            received += await ours.receive_some(most)
    assert received == data
    assert len(pending) > len(data) // PART // 2
    assert max(pending) < 2 * PART


@pytest.mark.parametrize("most", [1, 7, 16_384, 20_000])
async def test_receive_returns_at_most_max_bytes(most: int) -> None:
    async with connected() as (ours, theirs):
        await theirs.send_all(b"x" * 50_000)
        received = 0
        while received < 50_000:
            data = await ours.receive_some(most)
            assert 1 <= len(data) <= most
            received += len(data)


@pytest.mark.parametrize("ways", WAYS)
@pytest.mark.parametrize("version", VERSIONS)
async def test_cancelled_receive_loses_nothing(ways: Ways, version: ssl.TLSVersion) -> None:
    async with connected("tcp", version, ways) as (ours, theirs):
        sent = b"".join(number.to_bytes(4, "big") for number in range(5_000))

        async def send() -> None:
            for start in range(0, len(sent), 40):
                await theirs.send_all(sent[start : start + 40])

        received = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for attempt in itertools.count():
                with trio.CancelScope() as scope:
                    if attempt % 2:
                        scope.cancel()
                    received += await ours.receive_some()
                if len(received) == len(sent):
                    break
        assert received == sent


async def test_close_notify_that_was_read_ahead_comes_after_the_data() -> None:
    async with connected() as (ours, theirs):
        await theirs.send_all(b"last")
        await theirs.aclose()
        assert await ours.receive_some() == b"last"
        assert ours.engine.ended
        for _ in range(3):
            with assert_checkpoints():
                assert await ours.receive_some() == b""


async def test_faulty_record_does_not_cost_the_data_before_it() -> None:
    async with connected() as (ours, theirs):
        await theirs.send_all(b"good")
        await theirs.transport.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        await trio.testing.wait_all_tasks_blocked()
        assert await ours.receive_some() == b"good"
        for call in (ours.receive_some, ours.receive_some):
            with pytest.raises(trio.BrokenResourceError):
                await call()
        assert ours.engine.failure is not None
        assert ours.engine.failure.reason == "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
        assert ours.engine.failure.__traceback__ is None


async def test_ragged_end_is_broken_and_with_https_compatible_an_end() -> None:
    for https_compatible in (False, True):
        ours, theirs = flows(*await tcp_pair(), https_compatible=https_compatible)
        await trio.aclose_forcefully(theirs.transport)
        if https_compatible:
            assert await ours.receive_some() == b""
        else:
            with pytest.raises(trio.BrokenResourceError) as info:
                await ours.receive_some()
            assert isinstance(info.value.__cause__, ssl.SSLEOFError)
        await ours.aclose()


async def test_send_that_was_cancelled_under_way_breaks_the_stream() -> None:
    async with connected() as (ours, theirs):
        with trio.move_on_after(0.01) as scope:
            await ours.send_all(bytes(20_000_000))
        assert scope.cancelled_caught
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"more")
        received = 0
        with trio.move_on_after(0.5), contextlib.suppress(trio.BrokenResourceError):
            while data := await theirs.receive_some():
                received += len(data)
        assert received < 20_000_000


async def test_conflicts_are_refused_and_harmless() -> None:
    async with connected() as (ours, theirs), trio.open_nursery() as nursery:
        received: list[bytes | bytearray] = []

        async def receive() -> None:
            received.append(await ours.receive_some())

        nursery.start_soon(receive)
        nursery.start_soon(ours.send_all, bytes(20_000_000))
        await trio.testing.wait_all_tasks_blocked()
        for call in (
            ours.receive_some,
            functools.partial(ours.send_all, b"x"),
            ours.wait_send_all_might_not_block,
        ):
            with pytest.raises(trio.BusyResourceError):
                await call()
        await receive_exactly(theirs, 20_000_000)
        await theirs.send_all(b"still good")
    assert received == [b"still good"]


class Passing(trio.abc.Stream):
    """Passes everything on; the base class of streams that do not."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


class Failing(Passing):
    """Passes on, but the next `send_all` raises when it has sent half."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.fails = False
        self.sent = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.fails:
            self.fails = False
            await self.stream.send_all(memoryview(data)[: len(data) // 2])
            raise OSError("half of it has left")
        self.sent += len(data)
        await super().send_all(data)


async def test_nothing_follows_a_send_that_failed_half_way() -> None:
    """No data, and at the close no close_notify."""
    ours, theirs = memory_stream_pair()
    failing = Failing(ours)
    end, peer = flows(failing, theirs)
    failing.fails = True
    with pytest.raises(OSError, match="half"):
        await end.send_all(b"some data")
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError):
            await end.send_all(b"more")
    await end.aclose()
    assert failing.sent == 0
    with pytest.raises(trio.BrokenResourceError):
        await peer.receive_some()


async def test_once_there_is_a_bare_stream_all_goes_through_it() -> None:
    async with connected() as (ours, theirs):
        await ours.send_all(b"one")
        assert ours.tls is ours.tls
        assert ours._bridge is not None
        await ours.send_all(b"two")
        assert ours._bridge.writes == 1
        await theirs.send_all(b"three")
        receiving = ours.tls.receive_some
        async with trio.open_nursery() as nursery:
            assert await ours.receive_some() == b"three"
            nursery.start_soon(receiving)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):  # by the stream's own detector
                await ours.receive_some()
            nursery.cancel_scope.cancel()


async def test_bare_stream_refuses_a_send_while_one_is_under_way_on_the_direct_way() -> None:
    async with connected() as (ours, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, bytes(6_000_000))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await ours.tls.send_all(b"between")
        assert await receive_exactly(theirs, 6_000_000) == bytes(6_000_000)


async def test_bare_stream_refuses_a_rival_of_a_call_on_the_direct_way() -> None:
    async with connected() as (ours, theirs):
        received: list[bytes | bytearray] = []

        async def receive() -> None:
            received.append(await ours.receive_some())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await ours.tls.receive_some()
            await ours.tls.send_all(b"meanwhile")
            assert await theirs.receive_some() == b"meanwhile"
            await theirs.send_all(b"first")
        assert received == [b"first"]
        await theirs.send_all(b"second")
        assert await ours.receive_some() == b"second"


@pytest.mark.parametrize("version", VERSIONS)
async def test_bare_stream_gets_what_was_read_ahead(version: ssl.TLSVersion) -> None:
    async with connected("tcp", version) as (ours, theirs):
        await theirs.send_all(b"one, two")
        assert await ours.receive_some(3) == b"one"
        assert ours.tls.version() == ours.engine.ssl_object.version()
        assert ours.tls.transport_stream is ours.transport
        assert await ours.tls.receive_some() == b", two"
        await ours.tls.send_all(b"three")
        assert await theirs.receive_some() == b"three"


@pytest.mark.parametrize("version", VERSIONS)
async def test_bare_stream_can_be_unwrapped_with_what_follows(version: ssl.TLSVersion) -> None:
    async with connected("tcp", version) as (ours, theirs), trio.open_nursery() as nursery:

        async def leave_tls() -> None:
            stream, rest = await theirs.tls.unwrap()
            assert rest == b""
            await stream.send_all(b"plain")

        nursery.start_soon(leave_tls)
        stream, rest = await ours.tls.unwrap()
        plain = bytes(rest)
        while len(plain) < 5:
            plain += await stream.receive_some()
        assert plain == b"plain"


async def test_failure_on_the_bare_stream_is_known_to_the_engine() -> None:
    async with connected() as (ours, theirs):
        await theirs.transport.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(trio.BrokenResourceError):
            await ours.tls.receive_some()
        assert ours.engine.failure is not None


@pytest.mark.parametrize("ways", WAYS)
@pytest.mark.parametrize("transport", ["memory", "tcp"])
async def test_held_tickets_leave_in_front_of_the_first_data(transport: str, ways: Ways) -> None:
    async with connected(transport, TLS13, ways) as (ours, theirs):
        assert (
            theirs.engine.ssl_object.session is None
            or not theirs.engine.ssl_object.session.has_ticket
        )
        await ours.send_all(b"data")
        assert await theirs.receive_some() == b"data"
        assert theirs.engine.ssl_object.session is not None
        assert theirs.engine.ssl_object.session.has_ticket


class Rekeyer(Forger13):
    """Forges key updates, each of which asks for an answer (RFC 8446 section 4.6.3)."""

    def __init__(self, secret: bytes) -> None:
        super().__init__(secret)
        self._secret = secret

    def update(self) -> bytes:
        made = self.seal(HANDSHAKE, b"\x18\0\0\x01\x01")
        self._secret = expand(self._secret, b"traffic upd", 48)
        self.__init__(self._secret)  # type: ignore[misc]
        self.number = 0
        return made


@contextlib.contextmanager
def rekeying(tmp_path: Path) -> Iterator[Callable[[], Rekeyer]]:
    """Have the keys of the next flows logged, and make what forges the client's records."""
    log = tmp_path / "keys"
    context = contexts(TLS13)[Role.CLIENT]
    context.keylog_filename = str(log)

    def made() -> Rekeyer:
        (secret,) = (
            bytes.fromhex(line.split()[2])
            for line in log.read_text().splitlines()
            if line.startswith("CLIENT_TRAFFIC_SECRET_0")
        )
        return Rekeyer(secret)

    try:
        yield made
    finally:
        contexts.cache_clear()


@contextlib.asynccontextmanager
async def rekeyed(
    transport: str, tmp_path: Path
) -> AsyncIterator[tuple[_End, trio.abc.Stream, Rekeyer]]:
    """Our server's end, its peer's transport, and what forges the peer's records."""
    with rekeying(tmp_path) as forger:
        async with connected(transport) as (ours, theirs):
            yield ours, theirs.transport, forger()


@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_answers_that_receiving_must_send_are_bounded(transport: str, tmp_path: Path) -> None:
    """A peer that asks for key updates and reads nothing is not read from for ever."""
    async with rekeyed(transport, tmp_path) as (ours, theirs, forge):
        assert isinstance(ours.transport, trio.SocketStream)
        ours.transport.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        asked = taken = 0

        async def ask() -> None:
            nonlocal asked
            while True:
                await theirs.send_all(b"".join(forge.update() for _ in range(500)))
                asked += 500

        async def receive() -> None:
            await ours.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(receive)
            while taken != asked or not asked:
                taken = asked
                await trio.testing.wait_all_tasks_blocked(0.02)
            # What the kernels hold for both ends, and what we owe.
            assert ours.engine.owed + sum(map(len, ours._unsent)) <= 2 * (MOST_OWED + _READ_SIZE)
            assert ours._wire_held, "it does not wait for the wire, as one who owes much does"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("transport", ["tcp", "memory"])
async def test_receive_that_answers_a_key_update_makes_no_send_busy(
    transport: str, tmp_path: Path
) -> None:
    async with rekeyed(transport, tmp_path) as (ours, theirs, forge):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(20):
                await theirs.send_all(forge.update())
                await ours.send_all(b"never busy")
            nursery.cancel_scope.cancel()
        assert ours.engine.failure is None
        assert not ours.cut


async def test_close_waits_for_a_send_that_is_under_way() -> None:
    """A close_notify between two of its pieces would make a part look whole."""
    async with connected() as (ours, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, bytes(20_000_000))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(Flow.aclose, ours)
        received = 0
        while data := await theirs.receive_some():
            received += len(data)
        assert received == 20_000_000


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("ways", WAYS)
async def test_each_call_is_one_checkpoint_or_waits(
    transport: str, version: ssl.TLSVersion, ways: Ways
) -> None:
    async with connected(transport, version, ways) as (ours, theirs):
        await theirs.send_all(bytes(1000))
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await trio.lowlevel.checkpoint()
            for call in (
                functools.partial(ours.receive_some, 10),
                functools.partial(ours.receive_some, 10),
                functools.partial(ours.send_all, b"x"),
                functools.partial(ours.send_all, b""),
            ):
                before = turns
                with assert_checkpoints():
                    await call()
                if not any(ways) and transport != "memory":
                    assert turns - before <= 2
            nursery.cancel_scope.cancel()


def test_freed_at_once() -> None:
    import gc
    import weakref

    async def main() -> weakref.ref[ssl.SSLObject]:
        ours, _ = flows(*memory_stream_pair())
        reference = weakref.ref(ours.engine.ssl_object)
        await trio.aclose_forcefully(ours.transport)
        return reference

    gc.disable()
    try:
        assert trio.run(main)() is None
    finally:
        gc.enable()


async def test_many_small_answers_that_had_to_wait_are_sent_later(tmp_path: Path) -> None:
    """``writev`` takes a bounded number of pieces."""
    async with rekeyed("unix", tmp_path) as (ours, theirs, forge), trio.open_nursery() as nursery:
        while not ours._push():  # until the kernel takes no more
            ours.engine.write(bytes(SEND_PIECE))
        nursery.start_soon(ours.receive_some)
        for _ in range(1_100):  # the answers to these are pieces of their own
            await theirs.send_all(forge.update())
            await trio.testing.wait_all_tasks_blocked()
        while ours._unsent:
            await theirs.receive_some()
            ours._push()
        nursery.cancel_scope.cancel()


class Gate(Passing):
    """A stream that takes nothing until it is opened."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.opened = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.opened.wait()
        await super().send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.opened.wait()


async def test_a_send_that_is_cancelled_while_it_waits_for_the_wire_is_cut(tmp_path: Path) -> None:
    """Its first piece is encrypted by then: a close_notify behind that would make it look whole."""
    inner, far = memory_stream_pair()
    near = Gate(inner)
    with rekeying(tmp_path) as forger:
        ours, theirs = flows(near, far)
        forge = forger()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def receive() -> None:
            with contextlib.suppress(trio.ClosedResourceError):
                await ours.receive_some()

        await trio.testing.wait_all_tasks_blocked()
        await far.send_all(forge.update() + forge.update())  # the receive holds the wire now
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_blocked, scope)
            await ours.send_all(b"x" * (3 * BATCH))
        assert scope.cancelled_caught
        assert ours.cut
        near.opened.set()
        await trio.testing.wait_all_tasks_blocked()
        await ours.aclose()
    with pytest.raises(trio.BrokenResourceError):
        while await theirs.receive_some():
            pass


async def cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_a_flood_of_key_updates_lets_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They carry no data, and can fill one read after the other."""

    class Quiet(Rekeyer):
        def update(self) -> bytes:
            made = self.seal(HANDSHAKE, b"\x18\0\0\x01\x00")  # asks for no answer
            self._secret = expand(self._secret, b"traffic upd", 48)
            self.__init__(self._secret)  # type: ignore[misc]
            self.number = 0
            return made

    async with rekeyed("tcp", tmp_path) as (ours, _, forge):
        forge.__class__ = Quiet
        flood = 50

        async def fill(flow: Flow, most: int) -> bool:  # as a socket that always has more
            nonlocal flood
            flood -= 1
            flow.engine.feed(forge.update() if flood else forge.seal(0x17, b"the end"))
            return False

        monkeypatch.setattr(Flow, "_fill", fill)
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            assert bytes(await ours.receive_some()) == b"the end"
            assert turns >= 40  # about one for each update
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("attempt", range(6))  # it depends on the order of tasks in one pass
@pytest.mark.parametrize("end", ["send_eof", "aclose"])
async def test_an_end_does_not_overtake_what_the_bare_stream_has_taken(
    end: str, attempt: int, tmp_path: Path
) -> None:
    """A receive on it answers key updates; its record must leave before ours."""
    near, far = await tcp_pair()
    with rekeying(tmp_path) as forger:
        ours, theirs = flows(near, far)
        forge = forger()
    lock = ours.tls._inner_send_lock

    async def receive() -> None:
        with contextlib.suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            await ours.receive_some()

    async def other() -> None:
        while not lock.locked():
            await trio.lowlevel.checkpoint()
        await (ours.send_eof() if end == "send_eof" else ours.aclose())
        ended.set()

    ended = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(other)
        await trio.sleep(0.05)
        await far.send_all(forge.update() + forge.update())
        with trio.fail_after(60):
            await ended.wait()
        nursery.cancel_scope.cancel()
    with trio.fail_after(60):
        while await theirs.receive_some():
            pass
    for stream in (near, far):
        await trio.aclose_forcefully(stream)


# ------------------------------------------------------- closing where nothing is to be waited for


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_a_peer_that_has_ended_is_closed_without_a_checkpoint(
    transport: str, version: ssl.TLSVersion
) -> None:
    async with connected(transport, version) as (ours, theirs):
        await ours.send_all(b"all")
        theirs.engine.close_notify()
        await theirs.transport.send_all(theirs.engine.take())
        assert await ours.receive_some() == b""
        with trio.testing.assert_no_checkpoints():
            assert ours.close_nowait(Known(finished=True)) is None
        assert descriptor(ours) == -1
        with pytest.raises(trio.ClosedResourceError):
            await ours.receive_some()
        await ours.aclose()  # which has nothing left to do
        assert await receive_exactly(theirs, 3) == b"all"
        assert await theirs.receive_some() == b""


@pytest.mark.parametrize("version", VERSIONS)
async def test_input_that_was_found_at_the_last_look_is_not_forgotten(
    version: ssl.TLSVersion,
) -> None:
    """It was dropped; so to close now would be no reset, but the peer's next piece would be one."""
    async with connected("tcp", version) as (ours, theirs):
        await ours.send_all(b"all")
        await theirs.send_all(b"unread")
        rest = ours.close_nowait(Known(finished=False))
        assert rest == Known(unread=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Flow.aclose, ours, rest)
            await trio.testing.wait_all_tasks_blocked()
            assert descriptor(ours) != -1
            await theirs.send_all(b"more")
            assert await receive_exactly(theirs, 3) == b"all"
            assert await theirs.receive_some() == b""  # said once
            await trio.testing.wait_all_tasks_blocked()
            assert descriptor(ours) != -1  # until it hangs up
            await trio.aclose_forcefully(theirs.transport)
        assert descriptor(ours) == -1


@pytest.mark.parametrize(
    "state", ["memory", "bare", "https", "cut", "broken", "failed", "sending", "closed"]
)
async def test_any_other_connection_is_left_as_it_is(state: str) -> None:
    streams = memory_stream_pair() if state == "memory" else await tcp_pair()
    ours, theirs = flows(*streams, https_compatible=state == "https")
    async with trio.open_nursery() as nursery:
        match state:
            case "bare":
                assert ours.tls is ours.bare
            case "cut":
                ours.cut = True
            case "broken":
                await trio.aclose_forcefully(theirs.transport)
                with pytest.raises(trio.BrokenResourceError):
                    await ours.receive_some()
            case "failed":
                ours.engine.feed(b"\x17\x03\x03\x00\x20" + bytes(32))
                with pytest.raises(ssl.SSLError):
                    ours.engine.read(1)
            case "sending":
                nursery.start_soon(ours.send_all, bytes(10_000_000))
                await trio.testing.wait_all_tasks_blocked()
            case "closed":
                await ours.aclose()
            case _:
                pass
        known = Known(finished=True)
        owed = ours.engine.owed
        assert ours.close_nowait(known) is known
        assert ours.engine.owed == owed  # nothing was said
        assert state in ("memory", "closed") or descriptor(ours) != -1
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(ours.transport)
    await trio.aclose_forcefully(theirs.transport)


async def test_last_words_that_do_not_fit_are_left_to_aclose() -> None:
    async with connected("unix") as (ours, _):
        with pytest.raises(BlockingIOError):
            while True:
                os.write(descriptor(ours), bytes(4096))
        known = Known(finished=True)
        assert ours.close_nowait(known) is known
        assert descriptor(ours) != -1


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_receiving_on_a_transport_that_was_closed_says_so_each_time(transport: str) -> None:
    async with connected(transport) as (ours, _):
        await trio.aclose_forcefully(ours.transport)
        for _attempt in range(2):
            with pytest.raises(trio.ClosedResourceError):
                await ours.receive_some()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_transport_that_was_closed_before_is_left_to_aclose(
    version: ssl.TLSVersion,
) -> None:
    """Where nothing is left to say, the last look is the first to find out."""
    async with connected("tcp", version) as (ours, _):
        await ours.send_eof()
        await trio.aclose_forcefully(ours.transport)
        known = Known()
        assert ours.close_nowait(known) is known
        await ours.aclose(known)
        assert ours.tls.transport_stream is ours.transport  # closed, like the connection
        with pytest.raises(trio.ClosedResourceError):
            await ours.tls.receive_some()


def descriptor(flow: Flow) -> int:
    assert isinstance(flow.transport, trio.SocketStream)
    return flow.transport.socket.fileno()
