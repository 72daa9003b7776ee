"""An outsider who relays two connections of ours into each other, or one into itself.

Everything is in memory and in virtual time; the outsider has no certificate and no key.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.support.authority import FLEET, Leaf
from tests.support.patience import window_for
from tests.support.peers import HANDSHAKE_FAILURE, MemoryListener, dial, memory_pair
from tests.support.records import plain_alerts, recut, split_records
from tests.support.trust import context, hear, mutual
from trio_duplex import (
    AnyTrustedPeer,
    Connection,
    Credentials,
    DuplexError,
    HandshakeError,
    NamedPeer,
    PeerPolicy,
    PeerRejectedError,
    Role,
    RolesAllowed,
    SelfConnectionError,
    negotiate,
    open_tcp_connection,
    serve_listeners,
    serve_tcp,
)
from trio_duplex._decision.reflection import SentHellos
from trio_duplex._stream import own_hello
from trio_duplex.events import NegotiationFailed

pytestmark = pytest.mark.slow

A, B = FLEET.issue("a.example"), FLEET.issue("b.example")
DIALLER = FLEET.issue("dialler.example")

Cut = Callable[[bytes], bytes]
CUTS: dict[str, Cut] = {
    "as it is": bytes,
    "in records of one byte": partial(recut, size=1),
    "in records of 37 bytes": partial(recut, size=37),
}


@attrs.define
class Node:
    """A listener of ours, and what came of its connections."""

    credentials: Credentials
    listener: MemoryListener = attrs.field(factory=MemoryListener)
    handled: list[Connection] = attrs.field(factory=list[Connection])
    errors: list[Exception] = attrs.field(factory=list[Exception])
    received: list[bytes] = attrs.field(factory=list[bytes])

    async def handler(self, connection: Connection) -> None:
        self.handled.append(connection)
        await connection.send_all(b"secret")
        with trio.move_on_after(5):
            self.received.append(bytes(await connection.receive_some()))

    def observe(self, event: object) -> None:
        if isinstance(event, NegotiationFailed):
            self.errors.append(event.error)

    async def serve(self) -> None:
        await serve_listeners(
            self.handler, [self.listener], self.credentials, window=1, observers=[self.observe]
        )


async def pump(source: trio.abc.Stream, sink: trio.abc.HalfCloseableStream) -> None:
    try:
        async for data in source:
            await sink.send_all(data)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def splice(silent: Node, speaking: Node, cut: Cut = bytes, *, early: bool = False) -> None:
    """Stay silent towards one node, and relay the ClientHello that it sends into the other.

    Args:
        early: Send the other its first byte before that ClientHello exists: it is always 0x16.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(silent.serve)
        if speaking is not silent:
            nursery.start_soon(speaking.serve)
        asked = silent.listener.connect()
        # Not sooner, or its window ends with that of the first.
        answering = speaking.listener.connect() if early else None
        if answering is not None:
            await answering.send_all(b"\x16")
        hello = b""
        while not list(split_records(hello)):
            hello += await asked.receive_some()
        hello = cut(hello)
        if answering is None:
            answering = speaking.listener.connect()
        await answering.send_all(hello[1:] if early else hello)
        with trio.move_on_after(20):
            async with trio.open_nursery() as relay:
                relay.start_soon(pump, asked, answering)
                relay.start_soon(pump, answering, asked)
        nursery.cancel_scope.cancel()


def kinds(errors: list[Exception]) -> set[type[Exception]]:
    return {type(error) for error in errors}


# ------------------------------------------------------------------------------- into ourselves


@pytest.mark.parametrize("early", [False, True], ids=["", "first byte early"])
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("allow_self", [False, True], ids=["", "shared certificate"])
@pytest.mark.parametrize("listeners", [1, 2])
async def test_spliced_into_ourselves(
    listeners: int, allow_self: bool, cut: Cut, early: bool, autojump_clock: MockClock
) -> None:
    node = Node(mutual(A, allow_self=allow_self))
    other = node if listeners == 1 else Node(mutual(A, allow_self=allow_self))
    await splice(node, other, cut, early=early)
    assert node.handled == other.handled == []
    errors = node.errors if node is other else node.errors + other.errors
    refused, gave_up = sorted(errors, key=lambda error: type(error) is not SelfConnectionError)
    assert type(refused) is SelfConnectionError
    assert refused.role is Role.SERVER
    # Before any handshake, and with an alert, which reached the other half too.
    assert isinstance(gave_up, HandshakeError)
    assert "handshake_failure" in str(gave_up.tls_reason)


async def test_a_relay_that_is_faster_than_our_send(autojump_clock: MockClock) -> None:
    """The hello comes back while our sending of it has not even returned."""
    node = Node(mutual(A, allow_self=True))
    relayed = trio.Event()

    class Eager(trio.abc.Stream):
        """Has its peer see what is sent long before `send_all` returns."""

        def __init__(self, stream: trio.abc.Stream) -> None:
            self.stream = stream

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await self.stream.send_all(data)
            await relayed.wait()

        async def wait_send_all_might_not_block(self) -> None:
            await self.stream.wait_send_all_might_not_block()

        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            return await self.stream.receive_some(max_bytes)

        async def aclose(self) -> None:
            await self.stream.aclose()

    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.serve)
        node.listener.push(Eager(ours))
        hello = await theirs.receive_some()
        answering = node.listener.connect()
        await answering.send_all(hello)
        answer = await answering.receive_some()
        assert plain_alerts(bytes(answer)) == [HANDSHAKE_FAILURE]
        relayed.set()
        nursery.cancel_scope.cancel()
    assert kinds(node.errors) == {SelfConnectionError}


async def test_the_hello_of_an_ended_handshake(autojump_clock: MockClock) -> None:
    node = Node(mutual(A))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.serve)
        silent = node.listener.connect()
        hello = bytes(await silent.receive_some())
        await silent.aclose()
        await trio.sleep(60)
        again = node.listener.connect()
        await again.send_all(hello)
        assert plain_alerts(bytes(await again.receive_some())) == [HANDSHAKE_FAILURE]
        await again.aclose()
        nursery.cancel_scope.cancel()
    assert [type(error) for error in node.errors] == [HandshakeError, SelfConnectionError]


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_an_echo(cut: Cut, autojump_clock: MockClock) -> None:
    node = Node(mutual(A))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.serve)
        peer = node.listener.connect()
        await peer.send_all(cut(bytes(await peer.receive_some())))
        assert plain_alerts(bytes(await peer.receive_some())) == [10]  # unexpected_message
        await peer.aclose()
        nursery.cancel_scope.cancel()
    (error,) = node.errors
    assert type(error) is SelfConnectionError
    assert error.role is Role.CLIENT


async def test_two_hellos_of_ours_crosswise(autojump_clock: MockClock) -> None:
    """Silent towards us twice, and each hello relayed into the other connection: not mere glare."""
    node = Node(mutual(A))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.serve)
        first, second = node.listener.connect(), node.listener.connect()
        of_first, of_second = await first.receive_some(), await second.receive_some()
        await first.send_all(of_second)
        await second.send_all(of_first)
        for stream in (first, second):
            assert plain_alerts(bytes(await stream.receive_some())) == [10]
            await stream.aclose()
        nursery.cancel_scope.cancel()
    assert [type(error) for error in node.errors] == [SelfConnectionError] * 2


DECODE_ERROR = 50
EMPTY = bytes.fromhex("16 0303 0000")


@pytest.mark.parametrize(
    ("empty", "kind", "alert"),
    [(1, SelfConnectionError, HANDSHAKE_FAILURE), (30, HandshakeError, DECODE_ERROR)],
)
async def test_a_hello_hidden_among_empty_records(
    empty: int, kind: type[Exception], alert: int, autojump_clock: MockClock
) -> None:
    """OpenSSL reads through them. We know our own, or hand on nothing that we can't read."""
    node = Node(mutual(A, allow_self=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.serve)
        silent = node.listener.connect()
        cut = recut(bytes(await silent.receive_some()), 1)
        parts = (cut[start : start + 6] for start in range(0, len(cut), 6))
        peer = node.listener.connect()
        await peer.send_all((EMPTY * empty).join(parts))
        assert plain_alerts(bytes(await peer.receive_some())) == [alert]
        await peer.aclose()
        nursery.cancel_scope.cancel()
    assert [type(error) for error in node.errors] == [kind]


@pytest.mark.parametrize("how", ["as client", "as server"])
@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({}, True),
        ({"role": True}, False),
        ({"role": True, "dialled": False}, True),
        ({"role": True, "dialled": True}, False),
        ({"dialled": True}, False),
        ({"dialled": False}, True),
    ],
    ids=str,
)
async def test_own_hello_is_found_even_if_the_role_is_known(
    options: dict[str, bool], refused: bool, how: str, autojump_clock: MockClock
) -> None:
    """A stream may be accepted and its role known: our own hello is still no peer's."""
    credentials = mutual(A, allow_self=True)

    def negotiation(stream: trio.abc.Stream, role: Role) -> Callable[[], Awaitable[Connection]]:
        given: dict[str, Any] = dict(options)
        if "role" in given:
            given["role"] = role
        return partial(negotiate, stream, credentials, window=1, **given)

    errors: list[Exception] = []

    async def end(function: Callable[[], Awaitable[Connection]]) -> None:
        try:
            await function()
        except DuplexError as exc:
            errors.append(exc)

    async with trio.open_nursery() as nursery:
        silent, asked = memory_pair()
        nursery.start_soon(end, negotiation(silent, Role.CLIENT))
        hello = bytes(await asked.receive_some())
        if how == "as client":  # a second one, whose own hello is answered with the first
            other, answering = memory_pair()
            nursery.start_soon(end, negotiation(other, Role.CLIENT))
            await answering.receive_some()
        else:
            other, answering = memory_pair()
            nursery.start_soon(end, negotiation(other, Role.SERVER))
        await answering.send_all(hello)
        await answering.receive_some()
        for stream in (asked, answering):
            await stream.aclose()
    assert (SelfConnectionError in kinds(errors)) is refused


# ---------------------------------------------------------------------------------- into siblings


class Forgetful(SentHellos):
    """The memory of another process: it never knows a hello again."""

    def __contains__(self, random: object) -> bool:
        return False


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each listener is as if in a process of its own."""
    monkeypatch.setattr(own_hello, "SENT_HELLOS", Forgetful())


def siblings(peer: PeerPolicy, version: ssl.TLSVersion) -> tuple[Node, Node]:
    made = mutual(A, peer=peer), mutual(B, peer=peer)
    for credentials in made:
        credentials.server_context.minimum_version = version
        credentials.server_context.maximum_version = version
    return Node(made[0]), Node(made[1])


each_version = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS1.2", "TLS1.3"]
)


@each_version
async def test_siblings_that_admit_each_other_are_spliced(
    version: ssl.TLSVersion, processes: None, autojump_clock: MockClock
) -> None:
    """Without names or roles, siblings can be spliced. This is why the documentation asks for them."""
    silent, speaking = siblings(AnyTrustedPeer(), version)
    await splice(silent, speaking)
    assert [connection.role for connection in silent.handled] == [Role.CLIENT]
    assert [connection.role for connection in speaking.handled] == [Role.SERVER]
    assert silent.received == speaking.received == [b"secret"]


@each_version
@pytest.mark.parametrize(
    "policy",
    [RolesAllowed({"dialler.example": Role}), NamedPeer("dialler.example")],
    ids=["RolesAllowed", "NamedPeer"],
)
async def test_siblings_that_never_dial(
    policy: PeerPolicy, version: ssl.TLSVersion, processes: None, autojump_clock: MockClock
) -> None:
    silent, speaking = siblings(policy, version)
    await splice(silent, speaking)
    assert silent.handled == speaking.handled == []
    errors = silent.errors + speaking.errors
    assert PeerRejectedError in kinds(errors)
    assert kinds(errors) <= {PeerRejectedError, HandshakeError}
    assert len(errors) == 2


async def test_in_tls_1_3_it_is_enough_that_one_refuses(
    processes: None, autojump_clock: MockClock
) -> None:
    """Nodes dial each other too, but only ever as TLS clients."""
    policy = RolesAllowed({"a.example": Role.CLIENT, "b.example": Role.CLIENT})
    silent, speaking = siblings(policy, ssl.TLSVersion.TLSv1_3)
    await splice(silent, speaking)
    assert silent.handled == speaking.handled == []
    (refused,) = silent.errors
    assert type(refused) is PeerRejectedError
    assert refused.role is Role.CLIENT
    (gave_up,) = speaking.errors
    assert isinstance(gave_up, HandshakeError)
    assert "access_denied" in str(gave_up.tls_reason)


@each_version
@pytest.mark.parametrize("per_role", [False, True], ids=["one name", "a name for each role"])
async def test_siblings_with_a_protocol_for_each_role(
    per_role: bool, version: ssl.TLSVersion, processes: None, autojump_clock: MockClock
) -> None:
    """One name for both stops ends of other protocols only, not listeners of ours."""
    alpn = {Role.SERVER: ["to-the-hub"], Role.CLIENT: ["from-the-hub"]} if per_role else ["hub"]
    silent, speaking = (Node(mutual(leaf, alpn=alpn)) for leaf in (A, B))
    for node in (silent, speaking):
        node.credentials.server_context.maximum_version = version
    await splice(silent, speaking)
    assert len(silent.handled) == len(speaking.handled) == (0 if per_role else 1)
    if per_role:
        assert kinds(silent.errors + speaking.errors) == {HandshakeError}
        there = Node(mutual(B, alpn=alpn))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.serve)
            for role in Role:  # those who dial have them the other way round
                dialler = context(role, DIALLER)
                dialler.set_alpn_protocols(alpn[role.other])  # type: ignore[call-overload]
                assert await hear(there.listener.connect(), role, dialler) == b"secret"
            nursery.cancel_scope.cancel()


async def test_roles_do_not_hinder_honest_peers(autojump_clock: MockClock) -> None:
    node = Node(mutual(A, peer=RolesAllowed({"dialler.example": Role.CLIENT})))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.serve)
        heard = await hear(node.listener.connect(), Role.CLIENT, context(Role.CLIENT, DIALLER))
        refused = await hear(node.listener.connect(), Role.SERVER, context(Role.SERVER, DIALLER))
        nursery.cancel_scope.cancel()
    assert heard == b"secret"
    assert refused == "access_denied"


# ------------------------------------------------------------------------------- our own identity


def same_key() -> Leaf:
    return FLEET.issue("a.example", key=A.key)


@pytest.mark.parametrize("leaf", [A, same_key()], ids=["certificate", "key"])
@pytest.mark.parametrize("role", list(Role), ids=str)
async def test_our_own_identity_comes_back(
    role: Role, leaf: Leaf, autojump_clock: MockClock
) -> None:
    """From where no ClientHello of ours was seen: another process of ours, or a thief."""
    for allow_self in (False, True):
        node = Node(mutual(A, allow_self=allow_self))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.serve)
            await hear(node.listener.connect(), role.other, context(role.other, leaf))
            nursery.cancel_scope.cancel()
        if allow_self:
            assert [connection.role for connection in node.handled] == [role]
        else:
            (error,) = node.errors
            assert type(error) is SelfConnectionError
            assert error.role is role


@pytest.mark.parametrize("role", list(Role), ids=str)
async def test_dialler_and_listener_in_one_process(role: Role) -> None:
    """Real sockets, no virtual time: honest connections within a process are none of the above."""
    node = Node(mutual(A))

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(
                serve_tcp,
                node.handler,
                0,
                node.credentials,
                host="127.0.0.1",
                window=window_for(role),
            )
        )
        host, port = server.addresses[0]
        connection = await open_tcp_connection(host, port, mutual(DIALLER), role=role)
        async with connection:
            assert await connection.receive_some() == b"secret"
            await connection.send_all(b"thanks")
        await server.drain(10)
    assert [handled.role for handled in node.handled] == [role.other]
    assert node.received == [b"thanks"]


async def test_a_dialler_knows_itself_by_its_certificate(autojump_clock: MockClock) -> None:
    """Whoever redirects our dialling to our own listener gets nothing either."""
    ours, theirs = memory_pair()
    outcomes: list[Exception] = []

    async def end(function: Callable[[], Awaitable[Connection]]) -> None:
        with pytest.raises((PeerRejectedError, HandshakeError)) as caught:
            await function()
        outcomes.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end, partial(negotiate, ours, mutual(A)))
        nursery.start_soon(end, partial(dial, theirs, Role.CLIENT, mutual(A)))
    assert SelfConnectionError in kinds(outcomes)
    assert len(outcomes) == 2
