"""What a policy does to a connection: slow ones, failing ones, cancelled ones, and peers without names."""

from __future__ import annotations

import logging
import ssl
import sys
from functools import cache, partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_duplex
from tests.support.authority import FLEET
from tests.support.peers import MemoryListener, dial, memory_pair
from tests.support.trust import GREETING, LISTENER, context, hear, meet, mutual
from trio_duplex import (
    AllOf,
    AnyOf,
    AnyTrustedPeer,
    Connection,
    Credentials,
    HandshakeTimeoutError,
    NamedByAddress,
    NamedPeer,
    PeerIdentity,
    PeerPolicy,
    PeerRejectedError,
    PinnedPeer,
    Role,
    RolesAllowed,
    negotiate,
    serve_listeners,
)
from trio_duplex._sockets.address import Address
from trio_duplex._trust import policies as policies_module
from trio_duplex._trust import policy as policy_module

pytestmark = pytest.mark.slow

PEER = FLEET.issue("peer.example")
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
each_role = pytest.mark.parametrize("role", list(Role), ids=str)
each_version = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["TLS1.2", "TLS1.3"])


@cache
def peer(role: Role, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    return context(role, PEER, version=version)


class BugError(Exception):
    """What a policy raises that was not meant to."""


@each_role
@each_version
@pytest.mark.parametrize("answer", [BugError(), "yes", 1])
async def test_a_policy_that_fails_admits_nobody_and_ends_nothing(
    answer: object,
    version: ssl.TLSVersion,
    role: Role,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    asked = 0

    async def policy(*_: object) -> Any:
        nonlocal asked
        asked += 1
        if asked > 1:
            return None
        if isinstance(answer, Exception):
            raise answer
        return answer

    listener = MemoryListener()
    handled: list[Connection] = []

    async def handler(connection: Connection) -> None:
        handled.append(connection)
        await connection.send_all(GREETING)

    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(serve_listeners, handler, [listener], mutual(peer=policy), window=1)
        )
        heard = await hear(listener.connect(), role.other, peer(role.other, version))
        assert heard in (b"", "access_denied")
        assert handled == []
        # The next one is served.
        assert await hear(listener.connect(), role.other, peer(role.other, version)) == GREETING
        nursery.cancel_scope.cancel()
    assert len(handled) == 1
    (logged,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert logged.levelno == logging.ERROR
    assert logged.exc_info is not None


@each_role
@each_version
async def test_a_policy_is_under_the_deadline_of_the_handshake(
    role: Role, version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    ended: list[float] = []

    async def policy(*_: object) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear, theirs, role.other, peer(role.other, version))
        with pytest.raises(HandshakeTimeoutError) as caught:
            await dial(ours, role, mutual(peer=AllOf(policy)), timeout=7)
    assert caught.value.timeout == 7
    assert caught.value.role is role
    assert ended == [7.0]
    assert ours.closed


@each_role
@each_version
async def test_cancelled_while_a_policy_is_deciding(
    role: Role, version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    thinking = trio.Event()

    async def policy(*_: object) -> None:
        thinking.set()
        await trio.sleep_forever()

    ours, theirs = memory_pair()
    heard: list[bytes | str] = []

    async def be_peer() -> None:
        heard.append(await hear(theirs, role.other, peer(role.other, version)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_peer)
        async with trio.open_nursery() as inner:
            inner.start_soon(partial(dial, ours, role, mutual(peer=policy)))
            await thinking.wait()
            inner.cancel_scope.cancel()
        assert ours.closed
    assert heard == ["broken"]  # its stream ended, without a word


@each_role
async def test_a_policy_sees_the_identity_and_our_role(
    role: Role, autojump_clock: MockClock
) -> None:
    asked: list[tuple[PeerIdentity, Role, object]] = []

    def policy(identity: PeerIdentity, role: Role, where: object, /) -> None:
        asked.append((identity, role, where))

    meeting = await meet(mutual(peer=policy), role, peer(role.other))
    ((identity, told, where),) = asked
    (connection,) = meeting.handled
    assert identity == connection.peer
    assert identity.dns_names == ("peer.example",)
    assert told is role
    assert where is None  # streams in memory are nowhere
    assert len(identity.chain) == 2
    assert connection.peer is connection.peer


class Refusing:
    """Refuses in the way of a subclass: whatever its base would have said."""

    def __call__(self, who: PeerIdentity, role: Role, where: Address | None, /) -> None:
        raise PeerRejectedError("not this one")


FINGERPRINT = "sha256:" + PeerIdentity.from_der(PEER.der).certificate_sha256
ADMITTING: dict[type, tuple[Any, ...]] = {
    AnyTrustedPeer: (),
    NamedPeer: ("peer.example",),
    PinnedPeer: (FINGERPRINT,),
    NamedByAddress: (lambda address: "peer.example",),
    RolesAllowed: ({"peer.example": Role},),
    AllOf: (AnyTrustedPeer(),),
    AnyOf: (AnyTrustedPeer(),),
}


@cache
def asking(base: type, inside: type | None) -> list[tuple[Credentials, bool]]:
    """Credentials with a policy that admits the peer, and with its subclass that refuses."""
    refusing = type(f"Refusing{base.__name__}", (Refusing, base), {})
    made = []
    for kind, admitted in ((base, True), (refusing, False)):
        policy = kind(*ADMITTING[base])
        if inside is not None:
            policy = inside(policy)
        made.append((mutual(peer=policy), admitted))
    return made


@each_role
@each_version
@pytest.mark.parametrize("inside", [None, AllOf, AnyOf], ids=["", "in AllOf", "in AnyOf"])
@pytest.mark.parametrize("base", ADMITTING, ids=lambda base: base.__name__)
async def test_a_subclass_of_a_policy_is_asked(
    base: type,
    inside: type | None,
    version: ssl.TLSVersion,
    role: Role,
    autojump_clock: MockClock,
) -> None:
    for credentials, admitted in asking(base, inside):
        meeting = await meet(credentials, role, peer(role.other, version))
        assert (meeting.error is None) is admitted
        assert bool(meeting.handled) is admitted
        if not admitted:
            assert type(meeting.error) is PeerRejectedError


def test_every_policy_has_its_subclass_tested() -> None:
    public = {getattr(trio_duplex, name) for name in trio_duplex.__all__}
    policies = {
        value
        for module in (policy_module, policies_module)
        for value in vars(module).values()
        if isinstance(value, type) and value in public and "__call__" in vars(value)
    }
    assert policies - {PeerPolicy} == set(ADMITTING)


@each_role
async def test_rejected_although_the_stream_breaks_meanwhile(
    role: Role, autojump_clock: MockClock
) -> None:
    ours, theirs = memory_pair()

    async def policy(*_: object) -> bool:
        await theirs.aclose()
        return False

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear_or_not, theirs, role.other)
        with pytest.raises(PeerRejectedError):
            await dial(ours, role, mutual(peer=policy))
    assert ours.closed


async def hear_or_not(stream: trio.abc.Stream, role: Role) -> None:
    try:
        await hear(stream, role, peer(role))
    except trio.ClosedResourceError:
        pass


# --------------------------------------------------------------------- peers without a certificate


def asymmetric() -> Credentials:
    """Credentials that ask for nothing: only the one rule is left."""
    made = {role: context(role, LISTENER) for role in Role}
    for one in made.values():
        one.verify_mode = ssl.CERT_NONE
    return Credentials(
        server_context=made[Role.SERVER],
        client_context=made[Role.CLIENT],
        peer=AnyTrustedPeer(),
        allow_asymmetric=True,
    )


@each_version
async def test_an_anonymous_client_is_refused_even_if_tls_asks_for_nothing(
    version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    anonymous = context(Role.CLIENT, None, version=version)
    meeting = await meet(asymmetric(), Role.SERVER, anonymous)
    assert type(meeting.error) is PeerRejectedError
    assert meeting.handled == []
    assert meeting.heard == ("access_denied" if version is TLS12 else b"")


async def test_an_anonymous_server_is_refused_even_if_tls_asks_for_nothing(
    autojump_clock: MockClock,
) -> None:
    credentials = asymmetric()
    anonymous = context(Role.SERVER, None, version=TLS12)
    anonymous.verify_mode = ssl.CERT_NONE
    for one in (anonymous, credentials.client_context):
        one.set_ciphers("aNULL:@SECLEVEL=0")
        one.maximum_version = TLS12
    meeting = await meet(credentials, Role.CLIENT, anonymous)
    assert type(meeting.error) is PeerRejectedError
    assert meeting.handled == []


@pytest.mark.skipif(sys.version_info < (3, 13), reason="ssl has no PSK before 3.13")
@each_role
@each_version
async def test_a_pre_shared_key_is_refused(
    version: ssl.TLSVersion, role: Role, autojump_clock: MockClock
) -> None:
    """Also where it could not be seen when the credentials were built.

    CERT_REQUIRED does not help: OpenSSL asks for no certificate where it has a key. (In TLS 1.3, a
    server that has one of its own takes the key only of a client that offers few ciphers, which
    Python's can't be told: tests/interop/test_openssl.py.)
    """
    key = b"k" * 32
    without_own = (Role.SERVER, TLS13)
    made = {
        each: context(each, None if (role, version) == without_own else LISTENER, version=version)
        for each in Role
    }
    credentials = Credentials(
        server_context=made[Role.SERVER], client_context=made[Role.CLIENT], allow_self=True
    )
    made[role.other] = context(role.other, None, version=version)
    if version is TLS12:
        for one in made.values():
            one.set_ciphers("PSK:@SECLEVEL=0")
    server: Any = made[Role.SERVER]
    client: Any = made[Role.CLIENT]
    server.set_psk_server_callback(lambda identity: key, None)
    client.set_psk_client_callback(lambda hint: ("me", key))
    meeting = await meet(credentials, role, made[role.other])
    assert type(meeting.error) is PeerRejectedError
    assert meeting.handled == []
    assert meeting.heard != GREETING


@each_role
async def test_a_policy_of_names_for_negotiate_too(role: Role, autojump_clock: MockClock) -> None:
    """One rule, whatever height the user comes in at."""
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear_or_not, theirs, role.other)
        with pytest.raises(PeerRejectedError):
            await negotiate(ours, mutual(peer=NamedPeer("a.example")), window=1)


@each_version
async def test_a_resumed_session_is_judged_again(
    version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    """It carries the certificate, so the same peer that was admitted once can be refused now."""
    asked: list[PeerIdentity] = []

    def policy(identity: PeerIdentity, role: Role, where: object, /) -> bool:
        asked.append(identity)
        return len(asked) == 1

    ours = mutual(peer=policy, session_tickets=1)
    theirs = peer(Role.CLIENT, version)
    session = None
    resumed: list[bool | None] = []
    listener = MemoryListener()

    async def handler(connection: Connection) -> None:
        await connection.send_all(GREETING)
        await connection.receive_some()

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_listeners, handler, [listener], ours))
        for expected in (GREETING, b""):
            stream = listener.connect()
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = theirs.wrap_bio(incoming, outgoing, session=session)
            heard = b""
            while True:
                try:
                    heard = tls.read(100)
                except ssl.SSLWantReadError:
                    if outgoing.pending:
                        await stream.send_all(outgoing.read())
                    incoming.write(await stream.receive_some())
                except ssl.SSLZeroReturnError:
                    break
                else:
                    break
            assert heard == expected
            session = tls.session
            resumed.append(tls.session_reused)
            await stream.aclose()
        nursery.cancel_scope.cancel()
    assert resumed == [False, True]
    assert len(asked) == 2
    assert asked[0] == asked[1]
