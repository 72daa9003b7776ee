"""What a server's observers are told: `trio_duplex._events.events`, in both roles, in order, once."""

from __future__ import annotations

from typing import Any, get_type_hints

import attrs
import pytest
import trio
import trio.testing

from tests.serve.test_room import serving, talk
from tests.support.authority import AUTHORITY
from tests.support.peers import (
    NODE,
    TLS12,
    MemoryListener,
    client_hello,
    each_role,
    each_version,
    peer_stream,
    receive_exactly,
)
from trio_duplex import (
    Connection,
    Credentials,
    Decision,
    HandshakeTimeoutError,
    NotTLSError,
    PeerClosedError,
    Reason,
    Role,
    SelfConnectionError,
    events,
)
from trio_duplex.events import (
    Accepted,
    ConnectionClosed,
    ConnectionEvent,
    Event,
    HandlerFailed,
    HandshakeCompleted,
    NegotiationFailed,
    PeerRejected,
    RoleDecided,
)

pytestmark = pytest.mark.slow


EVENTS = [
    value for value in vars(events).values() if isinstance(value, type) and issubclass(value, Event)
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_events_are_frozen_and_by_keyword(event: type[Event]) -> None:
    assert attrs.has(event)
    made = object.__new__(event)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(made, "peer", "192.0.2.7:4711")  # noqa: B010 - mypy knows that it is frozen
    assert all(field.kw_only for field in attrs.fields(event))
    assert "peer" in get_type_hints(event)


def only(events: list[Event]) -> list[ConnectionEvent]:
    """All of one connection, and nothing else."""
    found = [event for event in events if isinstance(event, ConnectionEvent)]
    assert len(found) == len(events)
    return found


@each_role
@each_version
async def test_a_connection_that_ends_well(
    role: Role, version: Any, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()
    async with serving(memory) as watched:
        await trio.sleep(3)
        stream = memory.connect()
        tls = peer_stream(stream, role.other, version)
        await trio.sleep(0.25)
        await tls.send_all(b"hello")
        assert await receive_exactly(tls, 5) == b"hello"
        await trio.sleep(20)
        await tls.aclose()
        await trio.sleep(1)
        accepted, decided, completed, closed = only(watched.events)
    assert {event.number for event in only(watched.events)} == {1}
    assert {event.peer for event in watched.events} == {None}  # as a memory stream has none
    assert isinstance(accepted, Accepted)
    waited = 0.25 if role is Role.SERVER else 5.0
    reason = Reason.SPOKE if role is Role.SERVER else Reason.SILENT
    assert isinstance(decided, RoleDecided)
    assert decided.decision == Decision(role, reason, waited, 5.0)
    assert isinstance(completed, HandshakeCompleted)
    assert completed.seconds == 0
    assert completed.connection.decision == decided.decision
    assert completed.connection.peer.dns_names == ("node.example",)
    assert isinstance(closed, ConnectionClosed)
    assert closed.connection is completed.connection
    assert closed.role is role
    assert (closed.bytes_received, closed.bytes_sent) == (5, 5)
    assert closed.seconds == pytest.approx(20, abs=0.001)


async def test_over_tcp_the_peer_has_a_name() -> None:
    with trio.fail_after(20):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with serving(*listeners) as watched:
            (address,) = watched.server.addresses
            stream = await trio.open_tcp_stream("127.0.0.1", address[1])  # type: ignore[arg-type]
            host, port = stream.socket.getsockname()
            await talk(stream, Role.CLIENT)
            while not watched.of(ConnectionClosed):
                await trio.sleep(0.001)
        assert {event.peer for event in watched.events} == {f"{host}:{port}"}
        assert [type(event) for event in watched.events] == [
            Accepted,
            RoleDecided,
            HandshakeCompleted,
            ConnectionClosed,
        ]


@pytest.mark.parametrize(
    ("send", "seconds", "error", "decided"),
    [
        (None, 0.0, PeerClosedError, False),
        (b"\x16\x03", 0.0, PeerClosedError, True),
        (b"SSH-2.0-x\r\n", 0.0, NotTLSError, True),
        (client_hello()[:99], 40.0, HandshakeTimeoutError, True),
        (b"", 40.0, HandshakeTimeoutError, True),
    ],
    ids=["leaves", "leaves in its opening", "no TLS", "falls silent", "is mute"],
)
async def test_a_negotiation_that_fails(
    send: bytes | None,
    seconds: float,
    error: type[Exception],
    decided: bool,
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(memory) as watched:
        stream = memory.connect()
        if send:
            await stream.send_all(send)
        await trio.sleep(seconds)
        await stream.aclose()
        await trio.sleep(1)
        *before, failed = only(watched.events)
    assert [type(event) for event in before] == [Accepted, RoleDecided][: 1 + decided]
    assert isinstance(failed, NegotiationFailed)
    assert type(failed.error) is error
    assert failed.number == 1


async def test_a_peer_that_may_not_take_part(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    async with serving(memory) as watched:
        stream = memory.connect()
        data = await stream.receive_some()  # our ClientHello, after the window
        await stream.send_all(data)  # which comes back
        await trio.sleep(2)
        await stream.aclose()
        *_, rejected = only(watched.events)
    assert isinstance(rejected, PeerRejected)
    assert isinstance(rejected.error, SelfConnectionError)
    assert sum(isinstance(event, NegotiationFailed) for event in watched.events) == 1


async def test_a_policy_that_raises_is_our_fault(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def failing(*args: object) -> bool:
        raise ZeroDivisionError

    memory = MemoryListener()
    async with serving(memory) as watched:
        watched.server.replace_credentials(
            Credentials.mutual(
                certificate_chain=NODE, trust=AUTHORITY, peer=failing, allow_self=True
            )
        )
        tls = peer_stream(memory.connect(), Role.CLIENT, TLS12)
        with pytest.raises(trio.BrokenResourceError):
            await tls.do_handshake()
        await trio.sleep(5)
        *_, failed = only(watched.events)
    assert isinstance(failed, NegotiationFailed)
    assert type(failed.error) is ZeroDivisionError


@pytest.mark.parametrize(
    ("error", "peer_fault"),
    [
        (ZeroDivisionError(), False),
        (
            trio.BrokenResourceError(),
            False,
        ),  # of what? `tests/serve/test_fault.py` has those that count
        (NotTLSError("of one that it dialled", received=b""), False),
        (ExceptionGroup("", [trio.BrokenResourceError(), ZeroDivisionError()]), False),
        (trio.ClosedResourceError(), False),
    ],
)
async def test_a_handler_that_fails(
    error: Exception, peer_fault: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async def handler(connection: Connection) -> None:
        await connection.receive_some()
        raise error

    memory = MemoryListener()
    async with serving(memory, handler=handler) as watched:
        tls = peer_stream(memory.connect(), Role.CLIENT)
        await tls.send_all(b"hello")
        await trio.sleep(1)
        *before, failed, closed = only(watched.events)
    assert [type(event) for event in before] == [Accepted, RoleDecided, HandshakeCompleted]
    assert isinstance(failed, HandlerFailed)
    assert failed.peer_fault is peer_fault
    if isinstance(error, ExceptionGroup):
        assert isinstance(failed.error, ExceptionGroup)
    else:
        assert failed.error is error
    assert isinstance(closed, ConnectionClosed)
    assert closed.bytes_received == 5


async def test_connections_are_numbered_over_all_listeners(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, other = MemoryListener(), MemoryListener()
    async with serving(one, other) as watched:
        for listener in (one, other, one):
            await talk(listener.connect(), Role.CLIENT)
            await trio.sleep(1)
        assert [event.number for event in watched.of(Accepted)] == [1, 2, 3]
        assert [event.number for event in watched.of(ConnectionClosed)] == [1, 2, 3]


@each_role
async def test_each_is_told_once_whatever_the_order(
    role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()
    async with serving(memory) as watched:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(talk, memory.connect(), role.other, number % 7)
        await trio.sleep(1)
    for number in range(1, 21):
        own = [event for event in only(watched.events) if event.number == number]
        assert [type(event) for event in own] == [
            Accepted,
            RoleDecided,
            HandshakeCompleted,
            ConnectionClosed,
        ]


async def test_a_connection_that_is_cancelled_in_negotiation_is_nobodys_fault(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with serving(memory) as watched:
        memory.connect()
        await trio.sleep(1)
        watched.server.cancel_scope.cancel()
    assert [type(event) for event in watched.events] == [Accepted]
