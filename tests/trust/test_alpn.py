"""ALPN: a peer with which no protocol of ours is selected is refused by default."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.support.authority import FLEET
from tests.support.peers import MemoryListener, RecordingStream, memory_pair
from tests.support.records import plain_alerts
from tests.support.trust import GREETING, LISTENER, context, hear, meet, mutual
from trio_duplex import (
    AnyTrustedPeer,
    Connection,
    Credentials,
    HandshakeError,
    NamedPeer,
    PeerRejectedError,
    Role,
    negotiate,
    serve_listeners,
)

pytestmark = pytest.mark.slow

PEER = FLEET.issue("peer.example")
NO_APPLICATION_PROTOCOL = 120
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
each_role = pytest.mark.parametrize("role", list(Role), ids=str)
each_version = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["TLS1.2", "TLS1.3"])

Alpn = Sequence[str] | Mapping[Role, Sequence[str]]


def of_contexts(**options: Any) -> Credentials:
    return Credentials(
        server_context=context(Role.SERVER, LISTENER),
        client_context=context(Role.CLIENT, LISTENER),
        **options,
    )


each_kind = pytest.mark.parametrize("make", [mutual, of_contexts], ids=["mutual", "contexts"])


def peer(
    role: Role, version: ssl.TLSVersion | None = None, alpn: Sequence[str] = ()
) -> ssl.SSLContext:
    made = context(role, PEER, version=version)
    if alpn:
        made.set_alpn_protocols(list(alpn))
    return made


@each_version
@each_role
@each_kind
@pytest.mark.parametrize("theirs", [(), ("other",)], ids=["none", "another"])
async def test_a_peer_that_selects_none_is_refused(
    theirs: Sequence[str],
    make: Callable[..., Credentials],
    role: Role,
    version: ssl.TLSVersion,
    autojump_clock: MockClock,
) -> None:
    meeting = await meet(make(alpn=["ours"]), role, peer(role.other, version, theirs))
    assert meeting.handled == []
    assert meeting.heard == "no_application_protocol"
    assert type(meeting.error) is HandshakeError
    assert meeting.error.role is role
    assert meeting.error.seen is not None
    assert "'ours'" in str(meeting.error.advice)
    assert "alpn_required=False" in str(meeting.error.advice)


@each_version
@each_role
@each_kind
@pytest.mark.parametrize("theirs", [(), ("other",)], ids=["none", "another"])
async def test_no_common_protocol_is_allowed_if_alpn_is_not_required(
    theirs: Sequence[str],
    make: Callable[..., Credentials],
    role: Role,
    version: ssl.TLSVersion,
    autojump_clock: MockClock,
) -> None:
    credentials = make(alpn=["ours"], alpn_required=False)
    meeting = await meet(credentials, role, peer(role.other, version, theirs))
    assert (meeting.error, meeting.heard) == (None, GREETING)
    (connection,) = meeting.handled
    assert connection.selected_alpn_protocol is None


@each_version
@each_role
@each_kind
async def test_one_common_protocol_is_enough(
    make: Callable[..., Credentials],
    role: Role,
    version: ssl.TLSVersion,
    autojump_clock: MockClock,
) -> None:
    credentials = make(alpn=["first", "second"])
    meeting = await meet(credentials, role, peer(role.other, version, ["second", "other"]))
    assert (meeting.error, meeting.heard) == (None, GREETING)
    (connection,) = meeting.handled
    assert connection.selected_alpn_protocol == "second"


@each_version
@each_role
@each_kind
@pytest.mark.parametrize("asking", list(Role), ids=str)
async def test_each_role_requires_its_own_protocols(
    asking: Role,
    make: Callable[..., Credentials],
    role: Role,
    version: ssl.TLSVersion,
    autojump_clock: MockClock,
) -> None:
    meeting = await meet(make(alpn={asking: ["ours"]}), role, peer(role.other, version))
    assert (meeting.error is None) is (role is not asking)


@each_kind
async def test_after_a_hello_retry_request(
    make: Callable[..., Credentials], autojump_clock: MockClock
) -> None:
    """Nothing is selected before the second ClientHello."""
    credentials = make(alpn=["ours"])
    credentials.server_context.set_ecdh_curve("secp384r1")
    for alpn, heard in ((["ours"], GREETING), ([], "no_application_protocol")):
        meeting = await meet(credentials, Role.SERVER, peer(Role.CLIENT, TLS13, alpn))
        assert meeting.heard == heard
    picky = peer(Role.SERVER, TLS13, ["ours"])
    picky.set_ecdh_curve("secp384r1")
    meeting = await meet(credentials, Role.CLIENT, picky)
    assert meeting.heard == GREETING


@each_version
@each_role
async def test_the_peer_gets_no_flight_that_would_end_its_handshake(
    role: Role, version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    """The alert is in its place, in the clear, as the peer expects it there."""
    ours, theirs = memory_pair()
    recording = RecordingStream(ours)
    outcome: list[BaseException] = []

    async def end() -> None:
        with pytest.raises(HandshakeError) as caught:
            await negotiate(recording, mutual(alpn=["ours"]), role=role, dialled=False)
        outcome.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        heard = await hear(theirs, role.other, peer(role.other, version))
    assert heard == "no_application_protocol"
    assert plain_alerts(recording.sent) == [NO_APPLICATION_PROTOCOL]
    if role is Role.SERVER:  # not even our certificate
        assert LISTENER.der not in recording.sent
        assert len(recording.sent) == 7


@each_version
async def test_a_certificate_by_name_asks_for_it_too(
    version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    class Asking(ssl.SSLContext):
        def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
            return super().wrap_bio(*args, **options | {"server_hostname": "tenant.example"})

    credentials = mutual(
        alpn=["ours"], certificates_by_name={"tenant.example": FLEET.issue("tenant.example")}
    )
    asking = context(Role.CLIENT, PEER, version=version, kind=Asking)
    assert (await meet(credentials, Role.SERVER, asking)).heard == "no_application_protocol"
    asking.set_alpn_protocols(["ours"])
    assert (await meet(credentials, Role.SERVER, asking)).heard == GREETING


@each_version
@each_role
async def test_a_resumed_session_needs_a_protocol_too(
    role: Role, version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    """A session does not carry its protocol over: each handshake selects anew."""
    server = mutual(alpn=["ours"], session_tickets=1).server_context
    if role is Role.CLIENT:
        server = peer(Role.SERVER, alpn=["ours"])
    client = mutual(PEER if role is Role.SERVER else LISTENER, alpn=["ours"])
    client.client_context.maximum_version = version
    credentials = client if role is Role.CLIENT else mutual(alpn=["ours"], session_tickets=1)

    async def connect(session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        ours, theirs = memory_pair()

        async def serve() -> None:
            if role is Role.SERVER:
                tls = (await negotiate(ours, credentials, role=role, dialled=False)).tls
            else:
                tls = trio.SSLStream(ours, server, server_side=True)
            await tls.send_all(GREETING)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            connection = await negotiate(theirs, client, role=Role.CLIENT, session=session)
            await connection.receive_some()
            assert connection.session_reused is (session is not None)
        held: ssl.SSLSession | None = connection.session
        return held

    session = await connect(await connect(None))
    (client.client_context if role is Role.SERVER else server).set_alpn_protocols(["other"])
    with pytest.raises(ExceptionGroup) as caught:
        await connect(session)
    errors = {type(error): error for error in caught.value.exceptions}
    refused = errors[HandshakeError]
    assert isinstance(refused, HandshakeError)
    assert "ALPN" in str(refused)


@each_role
@pytest.mark.parametrize(
    ("before", "after", "admitted"),
    [
        ([], ["ours"], False),
        (["other"], ["ours"], False),
        (["other"], ["ours", "other"], True),
        (["other"], [], True),
    ],
)
async def test_what_is_in_force_at_the_verdict_counts(
    before: Sequence[str],
    after: Sequence[str],
    admitted: bool,
    role: Role,
    autojump_clock: MockClock,
) -> None:
    listener = MemoryListener()
    replaced = trio.Event()

    async def slowly(*_: object) -> None:
        if not replaced.is_set():
            server.replace_credentials(mutual(alpn=after))
            replaced.set()

    async def handler(connection: Connection) -> None:
        await connection.send_all(GREETING)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(serve_listeners, handler, [listener], mutual(alpn=before, peer=slowly))
        )
        heard = await hear(listener.connect(), role.other, peer(role.other, TLS13, before))
        assert replaced.is_set()
        assert (heard == GREETING) is admitted
        nursery.cancel_scope.cancel()


@each_version
@pytest.mark.parametrize("alpn", [[], ["ours"]], ids=["without ALPN", "with ALPN"])
async def test_an_https_server_of_the_same_authorities_is_refused(
    alpn: Sequence[str], version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    """An outsider who stays silent, and relays our ClientHello to a TLS server of the fleet's.

    That one has no part in this: it asks for a certificate and serves HTTP.
    """
    listener = MemoryListener()
    handled: list[Connection] = []
    reached: list[bytes] = []
    near, far = memory_pair()

    async def handler(connection: Connection) -> None:
        handled.append(connection)
        await connection.send_all(b"what we say as an authenticated client")

    async def https() -> None:
        tls = trio.SSLStream(far, peer(Role.SERVER, version, ["http/1.1"]), server_side=True)
        with pytest.raises(trio.BrokenResourceError) if alpn else trio.CancelScope():
            reached.append(bytes(await tls.receive_some()))

    async def relay(source: trio.abc.Stream, sink: trio.abc.HalfCloseableStream) -> None:
        async for data in source:
            await sink.send_all(data)
        await sink.send_eof()

    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(serve_listeners, handler, [listener], mutual(alpn=alpn, peer=AnyTrustedPeer()))
        )
        outsider = listener.connect()
        async with trio.open_nursery() as relaying:
            relaying.start_soon(https)
            relaying.start_soon(relay, outsider, near)
            relaying.start_soon(relay, near, outsider)
            await trio.sleep(30)
            relaying.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    assert len(handled) == len(reached) == (0 if alpn else 1)


async def test_an_https_server_is_refused_by_its_name_too(autojump_clock: MockClock) -> None:
    credentials = mutual(peer=NamedPeer("device.example"))
    meeting = await meet(credentials, Role.CLIENT, peer(Role.SERVER))
    assert type(meeting.error) is PeerRejectedError


@pytest.mark.parametrize("alpn", ["h2", [""], ["x" * 256], {"server": ["h2"]}], ids=str)
def test_contexts_of_the_user_are_checked_too(alpn: Alpn) -> None:
    with pytest.raises(ValueError):
        of_contexts(alpn=alpn)
