"""Two ClientHellos cross, and both ends know who goes on as the client: `trio_duplex._stream.crossing`."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import pytest
import trio
import trio.testing

from tests.support.authority import AUTHORITY
from tests.support.peers import (
    INTRUDER,
    RecordingStream,
    ScriptedStream,
    caught,
    credentials,
    each_role,
    each_version,
    memory_pair,
    own_credentials,
    peer_stream,
    pin,
    receive_exactly,
    tcp_pair,
)
from tests.support.records import recut
from trio_duplex import (
    Connection,
    Credentials,
    Decision,
    GlareError,
    HandshakeError,
    Reason,
    Role,
    Server,
    negotiate,
    open_tcp_connection,
    serve_tcp,
)
from trio_duplex.events import Crossed, Event, HandshakeCompleted, RoleDecided

pytestmark = pytest.mark.slow


Send = Callable[[bytes, RecordingStream], Awaitable[None]]


async def both(
    first: trio.abc.Stream, second: trio.abc.Stream, ours: Credentials, **options: Any
) -> list[Connection]:
    """Negotiate on both ends at once, as two that meet without roles arranged beforehand."""
    connections: dict[trio.abc.Stream, Connection] = {}

    async def one(stream: trio.abc.Stream) -> None:
        connections[stream] = await negotiate(
            stream, ours, **{"window": 0, "dialled": True} | options
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, first)
        nursery.start_soon(one, second)
    return [connections[first], connections[second]]


async def talk(first: Connection, second: Connection) -> None:
    """Both ends say something, and finish."""
    for here, there in ((first, second), (second, first)):
        await here.send_all(b"hello")
        assert await receive_exactly(there, 5) == b"hello"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.aclose)
        nursery.start_soon(second.aclose)


def opposite(connections: list[Connection]) -> bool:
    return {connection.role for connection in connections} == set(Role)


@each_version
async def test_both_speak_at_once(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    seen: Counter[Role] = Counter()
    for _ in range(24):
        connections = await both(*memory_pair(), credentials(version))
        assert opposite(connections)
        for connection in connections:
            decision = connection.decision
            reason = Reason.SPOKE if decision.role is Role.SERVER else Reason.SILENT
            assert (decision.reason, decision.window) == (reason, 0)
            assert decision.rule.startswith("two ClientHellos crossed")
        seen[connections[0].role] += 1
        await talk(*connections)
    assert set(seen) == set(Role)  # a coin with one side falls so once in 2 ** 23
    assert trio.current_time() < 24


async def each_byte(data: bytes, stream: RecordingStream) -> None:
    for byte in data:
        await stream.send_all(bytes([byte]))


async def first_in_small_records(size: int, data: bytes, stream: RecordingStream) -> None:
    await stream.send_all(data if stream.sent else recut(data, size))


@each_version
@pytest.mark.parametrize(
    "send",
    [each_byte, partial(first_in_small_records, 1), partial(first_in_small_records, 100)],
    ids=["bytes", "records of 1 byte", "records of 100 bytes"],
)
async def test_hellos_cross_in_pieces(
    send: Send, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    for _ in range(6):
        first, second = (ScriptedStream(each, send) for each in memory_pair())
        connections = await both(first, second, credentials(version))
        assert opposite(connections)
        await talk(*connections)


@each_version
async def test_answer_that_comes_with_the_hello_is_not_lost(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    """The peer has answered our hello before we read its own: both come in one piece."""

    class Late(RecordingStream):
        """Reads what has come when nobody else has anything to do."""

        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            await trio.testing.wait_all_tasks_blocked()
            return await super().receive_some(max_bytes)

    seen: Counter[Role] = Counter()
    while len(seen) < 2:
        first, second = memory_pair()
        connections = await both(Late(first), second, credentials(version))
        assert opposite(connections)
        await talk(*connections)
        seen[connections[0].role] += 1


@each_version
async def test_hello_that_crosses_slowly(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    """Its random is known long before its end: all of it is read, in whatever pieces it comes."""

    async def slowly(data: bytes, stream: RecordingStream) -> None:
        for start in range(0, len(data), 60):
            await stream.send_all(data[start : start + 60])
            await trio.sleep(0.001)

    seen: Counter[Role] = Counter()
    while len(seen) < 2:
        first, second = memory_pair()
        connections = await both(first, ScriptedStream(second, slowly), credentials(version))
        assert opposite(connections)
        await talk(*connections)
        seen[connections[0].role] += 1


async def test_server_that_asks_for_another_key_share(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A HelloRetryRequest after the crossing: the second hello is the client's, in its turn."""
    ours = own_credentials(ssl.TLSVersion.TLSv1_3)
    ours.server_context.set_ecdh_curve("secp384r1")  # of which clients send no share
    for _ in range(6):
        connections = await both(*memory_pair(), ours)
        assert opposite(connections)
        await talk(*connections)


@each_version
async def test_another_failure_after_the_crossing_is_not_told_as_glare(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    """One that has resolved the crossing, and whose certificate nobody here trusts."""
    stranger = Credentials.mutual(certificate_chain=INTRUDER, trust=AUTHORITY)
    pinned = credentials(version)
    for role in Role:
        pin(stranger.context(role), version)
    roles: set[Role] = set()
    while len(roles) < 2:
        first, second = memory_pair()
        async with trio.open_nursery() as nursery:

            async def be_stranger(stream: trio.abc.Stream = second) -> None:
                connection = await negotiate(stream, stranger, window=0, dialled=True)
                await caught(connection.receive_some)

            nursery.start_soon(caught, be_stranger)
            with pytest.raises(HandshakeError) as refused:
                await negotiate(first, pinned, window=0, dialled=True)
        assert type(refused.value) is HandshakeError
        assert "verify" in (refused.value.tls_reason or "")
        assert refused.value.role is not None
        roles.add(refused.value.role)


@each_version
async def test_over_tcp(version: ssl.TLSVersion) -> None:
    with trio.fail_after(30):
        for _ in range(6):
            first, second = await tcp_pair()
            connections = await both(first, second, credentials(version))
            assert opposite(connections)
            await talk(*connections)


async def test_silent_end_is_served_as_by_a_client(
    autojump_clock: trio.testing.MockClock,
) -> None:
    first, second = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(negotiate, second, credentials(), role=Role.SERVER))
        connection = await negotiate(first, credentials(), window=0, dialled=True)
    assert connection.decision == Decision(Role.CLIENT, Reason.SILENT, 0.0, 0.0)


@each_version
@each_role
async def test_legacy_ends_never_hang(
    role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    """Among many that meet at once: a plain TLS server is served, a plain TLS client has crossed."""
    ended: Counter[str] = Counter()
    advice: set[str] = set()

    async def legacy(stream: RecordingStream) -> None:
        tls = peer_stream(stream, role, version)
        try:
            await tls.do_handshake()
            ended["legacy: connected"] += 1
        except trio.BrokenResourceError:
            ended["legacy: failed"] += 1
        await trio.aclose_forcefully(tls)

    async def ours(stream: RecordingStream) -> None:
        try:
            connection = await negotiate(stream, credentials(version), window=0, dialled=True)
        except GlareError as exc:
            advice.add(exc.advice or "")
            ended["ours: glare"] += 1
        else:
            ended[f"ours: {connection.role}"] += 1
            await trio.aclose_forcefully(connection)

    async def meet(stream: RecordingStream, other: RecordingStream) -> None:
        for connection in await both(stream, other, credentials(version)):
            ended[f"both: {connection.role}"] += 1
            await trio.aclose_forcefully(connection)

    async with trio.open_nursery() as nursery:
        for number in range(60):
            here, there = memory_pair()
            if number % 3:
                nursery.start_soon(meet, here, there)
            else:
                nursery.start_soon(ours, here)
                nursery.start_soon(legacy, there)
    assert trio.current_time() < 5  # nobody has waited for a timeout
    assert ended["both: client"] == ended["both: server"] == 40
    assert ended.total() == 120
    if role is Role.SERVER:
        assert (ended["ours: client"], ended["legacy: connected"]) == (20, 20)
    else:  # or it came so early that ours saw it in time
        assert ended["ours: glare"] + ended["ours: server"] == 20
        assert ended["ours: glare"] == ended["legacy: failed"] >= 1
        assert "role=Role.SERVER" in advice.pop()  # by which such a peer is met
        assert not advice


@each_version
async def test_listener_meets_a_dialler_that_was_late(version: ssl.TLSVersion) -> None:
    """A dialler of ours that will play either role; turns, events and counts follow the role."""
    events: list[Event] = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def echo_once(connection: Connection) -> None:
                await connection.send_all(await connection.receive_some())

            serve = partial(serve_tcp, host="127.0.0.1", window=0, observers=[events.append])
            server: Server = await nursery.start(serve, echo_once, 0, credentials(version))
            ((host, port),) = cast("list[tuple[str, int]]", server.addresses)
            roles: Counter[Role] = Counter()
            while len(roles) < 2:
                stream = await trio.open_tcp_stream(host, port)
                while server.statistics().handshaking[Role.CLIENT] == 0:
                    await trio.sleep(0.001)
                # Its own hello is in no relation to ours; it has not read that yet.
                connection = await cross_late(stream, credentials(version))
                roles[connection.role] += 1
                await connection.send_all(b"hello")
                assert await receive_exactly(connection, 5) == b"hello"
                await connection.aclose()
            statistics = server.statistics()
            while statistics.closed < roles.total():
                await trio.sleep(0.01)
                statistics = server.statistics()
            await server.drain(1)
    total = roles.total()
    assert statistics.decided == {(Role.CLIENT, Reason.SILENT): total}
    assert statistics.crossings == {role.other: count for role, count in roles.items()}
    assert statistics.completed == statistics.crossings
    assert statistics.handshaking == {Role.SERVER: 0, Role.CLIENT: 0}
    assert (statistics.pending, statistics.open, statistics.failed) == (0, 0, {})
    for number in range(1, total + 1):
        mine = [event for event in events if getattr(event, "number", 0) == number]
        kinds = [type(event) for event in mine]
        assert kinds.index(RoleDecided) < kinds.index(Crossed) < kinds.index(HandshakeCompleted)
        (crossed,) = [event for event in mine if isinstance(event, Crossed)]
        (completed,) = [event for event in mine if isinstance(event, HandshakeCompleted)]
        assert crossed.decision == completed.connection.decision


async def cross_late(stream: trio.SocketStream, ours: Credentials) -> Connection:
    """Speak although the listener has: its hello is looked for only after ours is sent."""

    class Deaf(trio.abc.Stream):
        """Hears nothing until it has spoken."""

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await stream.send_all(data)

        async def wait_send_all_might_not_block(self) -> None:
            await stream.wait_send_all_might_not_block()

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return bytes(await stream.receive_some(max_bytes))

        async def aclose(self) -> None:
            await stream.aclose()

    return await negotiate(Deaf(), ours, window=0, dialled=True)


async def test_dial_in_either_role() -> None:
    """Towards a listener that waits, a dialler that will play either role is the client."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def nothing(connection: Connection) -> None:
                await connection.receive_some()

            serve = partial(serve_tcp, host="127.0.0.1")
            server: Server = await nursery.start(serve, nothing, 0, credentials())
            ((host, port),) = cast("list[tuple[str, int]]", server.addresses)
            connection = await open_tcp_connection(host, port, credentials(), role=None)
            assert connection.role is Role.CLIENT
            assert connection.decision.window == 0
            await connection.aclose()
            server.cancel_scope.cancel()
