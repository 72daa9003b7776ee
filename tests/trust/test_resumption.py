"""A session that is resumed over TCP is judged as a new one, though TLS verifies nothing anew."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from tests.support.authority import DAY, FLEET, NOW, Leaf
from tests.support.trust import GREETING, context, mutual
from tests.trust.test_trusted_certificates import (
    DEVICES,
    pem,
    revocation_list,
    self_signed,
    trusting,
)
from trio_duplex import (
    Connection,
    Credentials,
    HandshakeError,
    PeerIdentity,
    PeerRejectedError,
    PinnedPeer,
    Role,
    Server,
    open_tcp_connection,
    serve_tcp,
)
from trio_duplex.events import Event, NegotiationFailed

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
each_role = pytest.mark.parametrize("role", list(Role), ids=str)
each_version = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["TLS1.2", "TLS1.3"])
MEMBER = FLEET.issue("peer.example")

pytestmark = pytest.mark.slow


@attrs.frozen
class Met:
    """What came of one connection.

    Attributes:
        error: Why we refused the peer; None if we did not.
        reused: Whether the handshake resumed the session.
        session: What the TLS client may resume.
    """

    error: Exception | None
    reused: bool
    session: ssl.SSLSession | None


Dial = Callable[[ssl.SSLSession | None], Awaitable[Met]]


def peer_serves(listener: socket.socket, theirs: ssl.SSLContext) -> bool:
    """Be a TLS server in a thread: greet, and tell whether the session was resumed."""
    accepted, _ = listener.accept()
    accepted.settimeout(20)
    with theirs.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False) as tls:
        try:
            tls.do_handshake()
            tls.sendall(GREETING)
            tls.recv(1)
        except OSError:
            pass  # it was refused, perhaps before its handshake was done
        return bool(tls.session_reused)


async def meet_as_client(
    credentials: Credentials, theirs: ssl.SSLContext, session: ssl.SSLSession | None
) -> Met:
    """We dial as TLS client, and resume the session."""
    error, found, reused = None, None, False
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def peer() -> None:
                nonlocal reused
                reused = await trio.to_thread.run_sync(peer_serves, listener, theirs)

            try:
                async with await open_tcp_connection(
                    "127.0.0.1", port, credentials, role=Role.CLIENT, session=session
                ) as connection:
                    assert await connection.receive_some() == GREETING
                    found = connection.tls.session
            except PeerRejectedError as exc:
                error = exc
    return Met(error, reused, found)


def peer_dials(
    port: int, theirs: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[bool, ssl.SSLSession | None]:
    """Be a TLS client in a thread: hear the greeting, if there is one."""
    dialled = socket.create_connection(("127.0.0.1", port), timeout=20)
    with theirs.wrap_socket(dialled, session=session) as tls:
        try:
            tls.recv(len(GREETING))
        except OSError:
            pass  # we refuse by an alert
        return bool(tls.session_reused), tls.session


async def meet_as_server(
    credentials: Credentials, theirs: ssl.SSLContext, session: ssl.SSLSession | None
) -> Met:
    """A TLS client dials us, and resumes the session."""
    errors: list[Exception] = []

    def observe(event: Event) -> None:
        if isinstance(event, NegotiationFailed):
            errors.append(event.error)

    async def greet(connection: Connection) -> None:
        await connection.send_all(GREETING)

    async with trio.open_nursery() as nursery:
        serve = partial(serve_tcp, host="127.0.0.1", observers=[observe])
        server: Server = await nursery.start(serve, greet, 0, credentials)
        port = int(server.addresses[0][1])
        reused, found = await trio.to_thread.run_sync(peer_dials, port, theirs, session)
        await server.drain(10)
    return Met(errors[0] if errors else None, reused, found)


def dialler(credentials: Credentials, role: Role, leaf: Leaf, version: ssl.TLSVersion) -> Dial:
    theirs = context(role.other, leaf, version=version)
    meets = meet_as_server if role is Role.SERVER else meet_as_client
    return partial(meets, credentials, theirs)


def is_on(credentials: Credentials, day: datetime) -> None:
    """Set the clock by which these credentials judge."""
    credentials._material = attrs.evolve(credentials._material, now=lambda: day)


@each_role
@each_version
@pytest.mark.parametrize("kind", ["CA:TRUE", "CA:FALSE"])
async def test_a_certificate_that_vouches_for_itself_resumes(
    kind: str, version: ssl.TLSVersion, role: Role
) -> None:
    device = DEVICES[kind]
    credentials = trusting(
        trusted_certificates=pem(device.certificate),
        peer=PinnedPeer(device.fingerprint),
        session_tickets=1,
    )
    dial = dialler(credentials, role, device, version)
    first = await dial(None)
    second = await dial(first.session)
    assert (first.error, second.error) == (None, None)
    assert (first.reused, second.reused) == (False, True)


@each_role
@each_version
async def test_a_peer_of_an_authority_resumes_beside_trusted_certificates(
    version: ssl.TLSVersion, role: Role
) -> None:
    """A resumed session has no chain: the certificate was seen with one."""
    device = self_signed("device.example", ca=True)
    credentials = trusting(
        trust=FLEET, trusted_certificates=pem(device.certificate), session_tickets=1
    )
    dial = dialler(credentials, role, MEMBER, version)
    first = await dial(None)
    second = await dial(first.session)
    assert (first.error, second.error) == (None, None)
    assert second.reused


@each_role
@each_version
@pytest.mark.parametrize("trusted", ["by an authority", "for itself"])
async def test_the_certificate_expires_between(
    trusted: str, version: ssl.TLSVersion, role: Role
) -> None:
    leaf = MEMBER if trusted == "by an authority" else DEVICES["CA:TRUE"]
    options = {"trusted_certificates": pem(leaf.certificate)} if leaf is not MEMBER else {}
    credentials = trusting(trust=FLEET, session_tickets=1, **options)
    dial = dialler(credentials, role, leaf, version)
    first = await dial(None)
    assert first.error is None
    last_day = leaf.certificate.not_valid_after_utc
    for day, admitted in ((NOW, True), (last_day - DAY, True), (last_day + DAY, False)):
        is_on(credentials, day)
        again = await dial(first.session)
        assert again.reused
        assert (again.error is None) is admitted
        if again.error is not None:
            assert isinstance(again.error, PeerRejectedError)
            assert again.error.role is role
            assert again.error.peer is not None
        first = again if again.session is not None else first


@each_role
async def test_the_policy_in_force_is_asked_of_a_resumed_session(role: Role) -> None:
    asked: list[Role] = []

    def policy(identity: PeerIdentity, ours: Role, address: object) -> None:
        asked.append(ours)

    credentials = mutual(peer=policy, session_tickets=1)
    dial = dialler(credentials, role, MEMBER, TLS12)
    second = await dial((await dial(None)).session)
    assert second.reused
    assert asked == [role, role]


@each_role
@each_version
async def test_the_revocation_list_expires_between(version: ssl.TLSVersion, role: Role) -> None:
    """An expired list refuses every peer below its authority, in a resumed session as in a new one."""
    credentials = trusting(
        trust=FLEET, revocation_lists=revocation_list(end=NOW + DAY), session_tickets=1
    )
    dial = dialler(credentials, role, MEMBER, version)
    first = await dial(None)
    assert first.error is None
    is_on(credentials, NOW)
    second = await dial(first.session)
    assert (second.error, second.reused) == (None, True)
    is_on(credentials, NOW + 2 * DAY)
    third = await dial(second.session or first.session)
    assert third.reused
    assert isinstance(third.error, PeerRejectedError)
    assert third.error.role is role


@each_version
@pytest.mark.parametrize("resumes", [False, True])
async def test_trust_that_is_withdrawn_while_we_dial(
    resumes: bool, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    """A session to resume does not pin the trust by which the peer is judged."""
    trust = tmp_path / "trust.pem"
    trust.write_bytes(pem(FLEET.certificate))
    credentials = Credentials.mutual(certificate_chain=FLEET.issue("node.example"), trust=trust)
    theirs = context(Role.SERVER, MEMBER, version=version)
    first = await meet_as_client(credentials, theirs, None)
    session = first.session if resumes else None

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with trio.open_nursery() as nursery:
            withdrawn = trio.Event()

            @nursery.start_soon
            async def peer() -> None:
                await withdrawn.wait()
                await trio.to_thread.run_sync(peer_serves, listener, theirs)

            @nursery.start_soon
            async def withdraw() -> None:
                await trio.sleep(0.2)  # until we have dialled, and wait for the peer's answer
                trust.write_bytes(pem(self_signed("other.example", ca=True).certificate))
                credentials.reload()
                withdrawn.set()

            with pytest.raises((PeerRejectedError, HandshakeError)):
                async with await open_tcp_connection(
                    "127.0.0.1", port, credentials, role=Role.CLIENT, session=session
                ):
                    pass
