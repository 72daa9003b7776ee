"""TLS 1.3's late verdict: our handshake as client is done before the server has judged us."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.odd_peers.forge import forger, logging_context
from tests.support.authority import DAY, FLEET, NOW, SERVER_AUTH, STRANGERS, Leaf
from tests.support.peers import (
    RawPeer,
    RecordingStream,
    connection_pair,
    credentials,
    dial,
    memory_pair,
    reset,
    tcp_pair,
)
from tests.support.records import ALERT
from tests.support.trust import LISTENER, context, mutual
from trio_duplex import (
    CertificateRejectedError,
    Connection,
    Credentials,
    HandshakeError,
    PeerRejectedError,
    Role,
)
from trio_duplex._sockets.address import format_address
from trio_duplex._tls.last_words import LAST_WORDS_TIMEOUT

pytestmark = pytest.mark.slow


SERVER = FLEET.issue("server.example")
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3

OURS: dict[str, tuple[Leaf, str]] = {
    "unknown_ca": (STRANGERS.issue("node.example"), "unknown_ca"),
    "certificate_expired": (
        FLEET.issue("node.example", not_before=NOW - 9 * DAY, not_after=NOW - DAY),
        "certificate_expired",
    ),
    "unsupported_certificate": (
        FLEET.issue("node.example", usages=[SERVER_AUTH]),
        "unsupported_certificate",
    ),
}


def showing(leaf: Leaf | None) -> Credentials:
    """Credentials that trust the fleet and show this, or nothing."""
    if leaf is not None:
        return Credentials.mutual(certificate_chain=leaf, trust=FLEET, check=False)
    return Credentials(
        server_context=context(Role.SERVER, LISTENER), client_context=context(Role.CLIENT, None)
    )


async def be_server(stream: trio.abc.Stream, version: ssl.TLSVersion) -> None:
    """A server that sends its alert, as servers do that drive OpenSSL by themselves."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context(Role.SERVER, SERVER, version=version).wrap_bio(
        incoming, outgoing, server_side=True
    )
    try:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    await stream.send_all(outgoing.read())
                incoming.write(await stream.receive_some())
            else:
                break
        tls.write(b"welcome")
    except ssl.SSLError:
        pass
    await stream.send_all(outgoing.read())


async def client(version: ssl.TLSVersion, leaf: Leaf | None) -> Connection:
    ours, theirs = memory_pair()
    failure: HandshakeError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_server, theirs, version)
        try:
            return await dial(ours, Role.CLIENT, showing(leaf))
        except HandshakeError as exc:  # bare, not in the nursery's group
            failure = exc
    assert failure is not None
    raise failure


@pytest.mark.parametrize("name", [*OURS, "certificate_required"])
async def test_the_first_read_raises_the_verdict(name: str, autojump_clock: MockClock) -> None:
    leaf = OURS[name][0] if name in OURS else None
    connection = await client(TLS13, leaf)  # which is no acceptance yet
    with pytest.raises(CertificateRejectedError) as caught:
        await connection.receive_some()
    error = caught.value
    assert error.alert == name
    assert error.role is Role.CLIENT
    assert name in str(error)
    # As any handler of Trio streams knows it, and as one of ours.
    assert isinstance(error, trio.BrokenResourceError)
    assert isinstance(error, PeerRejectedError)
    assert isinstance(error.__cause__, ssl.SSLError)
    await connection.aclose()


class Deaf(RecordingStream):
    """A stream that breaks for sending, or for both directions, when told to.

    Attributes:
        deaf: Whether sending raises.
        reading: What receiving raises, if anything.
    """

    deaf = False
    reading: type[Exception] | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.deaf:
            raise trio.BrokenResourceError("it takes no more")
        await super().send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.reading is not None:
            await trio.lowlevel.checkpoint()
            raise self.reading
        return await super().receive_some(max_bytes)


VERDICTS = {
    40: "handshake_failure", 42: "bad_certificate", 43: "unsupported_certificate",
    44: "certificate_revoked", 45: "certificate_expired", 46: "certificate_unknown", 48: "unknown_ca",
    49: "access_denied", 51: "decrypt_error", 116: "certificate_required",
}  # fmt: skip
"""What a server may say of a certificate (RFC 8446 section 6.2), be it OpenSSL's or not."""

NO_VERDICTS = {10: "unexpected_message", 20: "bad_record_mac", 22: "record_overflow",
               47: "illegal_parameter", 50: "decode_error", 70: "protocol_version",
               80: "internal_error", 109: "missing_extension", 120: "no_application_protocol"}  # fmt: skip


async def connect_and_alert(
    ours: trio.abc.Stream, theirs: RecordingStream, role: Role, code: int, tmp_path: Path
) -> Connection:
    """Connect in a role of ours, and have the peer send an alert after its handshake."""
    log = tmp_path / "keys"
    peer = RawPeer(theirs, role.other, context=logging_context(role.other, TLS13, log))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.shake_hands)
        connection = await dial(ours, role, credentials(TLS13))
    servers = theirs.sent if role is Role.CLIENT else theirs.received
    forge = forger(TLS13, role.other, log, servers)
    await theirs.send_all(forge.seal(ALERT, bytes([2, code])))
    return connection


@pytest.mark.parametrize("sending", [False, True], ids=["receive", "send"])
@pytest.mark.parametrize("code", [*VERDICTS, *NO_VERDICTS])
async def test_every_alert_that_may_be_a_verdict(
    code: int, sending: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    ours, theirs = memory_pair()
    stream = Deaf(ours)
    connection = await connect_and_alert(stream, theirs, Role.CLIENT, code, tmp_path)
    stream.deaf = sending
    with pytest.raises(trio.BrokenResourceError) as caught:
        await (connection.send_all(b"x") if sending else connection.receive_some())
    error = caught.value
    assert isinstance(error, CertificateRejectedError) is (code in VERDICTS)
    if isinstance(error, CertificateRejectedError):
        assert error.alert == VERDICTS[code]
        assert error.role is Role.CLIENT
        assert VERDICTS[code] in (error.tls_reason or "")
        assert error.advice
    await trio.aclose_forcefully(connection)


@pytest.mark.parametrize("code", VERDICTS)
async def test_no_alert_is_a_verdict_in_the_server_role(
    code: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    connection = await connect_and_alert(*memory_pair(), Role.SERVER, code, tmp_path)
    with pytest.raises(trio.BrokenResourceError, match=VERDICTS[code]) as caught:
        await connection.receive_some()
    assert type(caught.value) is trio.BrokenResourceError
    await trio.aclose_forcefully(connection)


async def deaf_connection() -> tuple[Deaf, Connection]:
    """A connection to a server that has sent its welcome, on a stream that can become deaf."""
    ours, theirs = memory_pair()
    stream = Deaf(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_server, theirs, TLS13)
        connection = await dial(stream, Role.CLIENT, mutual())
    return stream, connection


async def send_until_it_breaks(connection: Connection) -> trio.BrokenResourceError:
    with pytest.raises(trio.BrokenResourceError) as caught:
        while True:
            await connection.send_all(b"we speak first")
    return caught.value


async def close(stream: trio.SocketStream) -> None:
    """Before our data comes, which the kernel then answers with a reset."""
    await stream.aclose()


async def hang_up_hard(stream: trio.SocketStream) -> None:
    reset(stream)


@pytest.mark.parametrize("end", [close, hang_up_hard])
async def test_a_send_that_fails_before_the_first_read_raises_the_verdict(
    end: Callable[[trio.SocketStream], Awaitable[None]],
) -> None:
    """Real sockets: the alert stands in the kernel, behind what broke the send."""
    with trio.fail_after(20):
        ours, theirs = await tcp_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(be_server, theirs, TLS13)
            connection = await dial(ours, Role.CLIENT, showing(OURS["unknown_ca"][0]))
        await end(theirs)
        error = await send_until_it_breaks(connection)
        assert isinstance(error, CertificateRejectedError)
        assert error.alert == "unknown_ca"
        assert error.peer == format_address(connection.remote_address)
        assert isinstance(error.__cause__, ssl.SSLError)
        for call in (
            connection.receive_some,
            partial(connection.send_all, b"x"),
            connection.wait_send_all_might_not_block,
            connection.send_eof,
        ):
            with pytest.raises(CertificateRejectedError, match="unknown_ca"):
                await call()
        await connection.aclose()


async def test_a_send_that_fails_after_the_server_has_spoken_is_no_verdict(
    autojump_clock: MockClock,
) -> None:
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_server, theirs, TLS13)
        connection = await dial(ours, Role.CLIENT, showing(LISTENER))
    await theirs.aclose()  # its welcome is there, and nobody has read it
    error = await send_until_it_breaks(connection)
    assert not isinstance(error, CertificateRejectedError)
    await connection.aclose()


async def test_a_send_that_fails_waits_for_no_verdict_that_does_not_come(
    autojump_clock: MockClock,
) -> None:
    """Half broken: it takes nothing, and has nothing to say."""
    ours, theirs = memory_pair()
    stream = Deaf(ours)
    async with trio.open_nursery() as nursery:
        peer = trio.SSLStream(theirs, context(Role.SERVER, SERVER), server_side=True)
        nursery.start_soon(peer.do_handshake)
        connection = await dial(stream, Role.CLIENT, mutual())
    stream.deaf = True
    error = await send_until_it_breaks(connection)
    assert str(error) == "it takes no more"
    assert not isinstance(error, CertificateRejectedError)
    assert trio.current_time() == LAST_WORDS_TIMEOUT
    await trio.aclose_forcefully(connection)
    await trio.aclose_forcefully(peer)


@pytest.mark.parametrize("received", [False, True])
@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("role", list(Role), ids=str)
async def test_only_where_a_verdict_may_be_unread_it_is_looked_for(
    role: Role, version: ssl.TLSVersion, received: bool, autojump_clock: MockClock
) -> None:
    class Deaf(RecordingStream):
        deaf = False

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            if self.deaf:
                raise trio.BrokenResourceError("half of it")
            await super().send_all(data)

    ours, theirs = memory_pair()
    stream = Deaf(ours)
    server, client = await connection_pair(
        version, streams=(stream, theirs) if role is Role.SERVER else (theirs, stream)
    )
    connection, peer = (server, client) if role is Role.SERVER else (client, server)
    if received:
        await peer.send_all(b"x")
        assert await connection.receive_some() == b"x"
    stream.deaf = True
    assert str(await send_until_it_breaks(connection)) == "half of it"
    looked = (role, version, received) == (Role.CLIENT, TLS13, False)
    assert trio.current_time() == (LAST_WORDS_TIMEOUT if looked else 0)
    await trio.aclose_forcefully(connection)


@pytest.mark.parametrize(
    "then", [trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError]
)
async def test_a_send_that_fails_says_so_whatever_the_look_for_a_verdict_meets(
    then: type[Exception], autojump_clock: MockClock
) -> None:
    """It breaks for reading, too; it has closed itself; another task is receiving."""
    stream, connection = await deaf_connection()
    stream.deaf, stream.reading = True, then
    error = await send_until_it_breaks(connection)
    assert str(error) == "it takes no more"
    await trio.aclose_forcefully(connection)


async def test_data_is_no_verdict_and_is_not_waited_behind(autojump_clock: MockClock) -> None:
    """The server has spoken, so it has taken our certificate: nothing more is read."""
    stream, connection = await deaf_connection()
    stream.deaf = True
    before = trio.current_time()
    await send_until_it_breaks(connection)  # the welcome is there, and nobody has read it
    assert trio.current_time() == before
    await trio.aclose_forcefully(connection)


async def test_accepted(autojump_clock: MockClock) -> None:
    connection = await client(TLS13, LISTENER)
    assert await connection.receive_some() == b"welcome"
    await connection.aclose()


@pytest.mark.parametrize("name", [*OURS, "handshake_failure"])
async def test_in_tls_1_2_the_handshake_raises_the_verdict(
    name: str, autojump_clock: MockClock
) -> None:
    leaf = OURS[name][0] if name in OURS else None
    with pytest.raises(HandshakeError) as caught:
        await client(TLS12, leaf)
    assert name in str(caught.value.tls_reason)


async def test_other_ends_are_not_turned_into_a_verdict(autojump_clock: MockClock) -> None:
    """An alert that is no verdict on a certificate; in the server role there is none that late."""
    for role in Role:
        ours, theirs = memory_pair()
        async with trio.open_nursery() as nursery:
            peer = trio.SSLStream(
                theirs, context(role.other, SERVER), server_side=role is Role.CLIENT
            )
            nursery.start_soon(peer.do_handshake)
            connection = await dial(ours, role, mutual())
        await theirs.send_all(bytes.fromhex("17 0303 0020") + bytes(32))  # a corrupt record
        with pytest.raises(trio.BrokenResourceError) as caught:
            await connection.receive_some()
        assert not isinstance(caught.value, CertificateRejectedError)
        await trio.aclose_forcefully(connection)
        await trio.aclose_forcefully(peer)
