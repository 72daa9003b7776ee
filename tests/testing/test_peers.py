"""Each peer does what it says, over TCP and in memory, and reports what it saw."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

import trio_duplex
from trio_duplex import Role
from trio_duplex.testing import (
    ANNOUNCEMENT,
    GARBAGE,
    PLAINTEXT,
    AnnouncingPeer,
    Authority,
    CloggedPeer,
    CrossingPeer,
    DribblingPeer,
    EchoingPeer,
    End,
    Flaw,
    GarbagePeer,
    HalfClosingPeer,
    HangingUpPeer,
    LatePeer,
    MemoryStream,
    PartialPeer,
    Peer,
    PeerCredentials,
    PeerReport,
    PeerStream,
    PlaintextPeer,
    ResettingPeer,
    SilentPeer,
    SpeakingPeer,
    Wire,
    echo,
    open_memory_listener,
    open_memory_stream_pair,
    open_server,
)

pytestmark = pytest.mark.slow


AUTHORITY = Authority()
MINE = AUTHORITY.credentials("server.example")
THEIRS = AUTHORITY.certificate("peer.example")
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@attrs.define
class Place:
    """Where a server listens, and what it made of the last peer."""

    server: trio_duplex.Server
    decisions: list[trio_duplex.Decision]


@asynccontextmanager
async def serving(
    where: str, *, window: float, handler: trio_duplex.Handler = echo
) -> AsyncGenerator[Place]:
    decisions: list[trio_duplex.Decision] = []

    async def noting(connection: trio_duplex.Connection) -> None:
        decisions.append(connection.decision)
        await handler(connection)

    listener = open_memory_listener() if where == "memory" else None
    async with open_server(noting, MINE, window=window, listener=listener) as server:
        yield Place(server, decisions)


@pytest.fixture(params=["memory", "tcp"])
def where(request: pytest.FixtureRequest) -> str:
    """Real sockets never meet virtual time: the clock is Trio's own in these tests."""
    return str(request.param)


async def play(peer: Peer, where: str, *, window: float = 30) -> PeerReport:
    """Throw the peer at a server with this window: one that it means never to reach, or 0.02."""
    if peer.credentials is None:
        peer.credentials = THEIRS
    with trio.fail_after(120):
        async with serving(where, window=window) as place:
            report = await peer.run(place.server)
    assert report is peer.report
    return report


# ---------------------------------------------------------------------- honest ones


@pytest.mark.parametrize("version", VERSIONS)
async def test_speaking_peer(where: str, version: ssl.TLSVersion) -> None:
    credentials = THEIRS.peer_credentials(tls_version=version)
    report = await play(SpeakingPeer(credentials=credentials, say=b"hi"), where)
    report.assert_role(Role.CLIENT)
    assert report.tls_version == version.name.replace("_", ".")
    assert report.heard == b"hi"
    assert report.end is End.CLOSE_NOTIFY
    assert report.alert is None
    assert report.error is None
    assert (
        trio_duplex.openings.classify(report.sent).kind
        is trio_duplex.openings.OpeningKind.CLIENT_HELLO
    )


@pytest.mark.parametrize("version", VERSIONS)
async def test_silent_peer(where: str, version: ssl.TLSVersion) -> None:
    credentials = THEIRS.peer_credentials(tls_version=version)
    report = await play(SilentPeer(credentials=credentials), where, window=0.02)
    report.assert_role(Role.SERVER)
    assert report.heard == b"hello"
    assert report.end is End.CLOSE_NOTIFY
    first = next(entry for entry in report.transcript.entries if entry.kind != "note")
    assert first.kind == "received"


async def test_silent_peer_waits_a_whole_window(autojump_clock: trio.testing.MockClock) -> None:
    async with serving("memory", window=5) as place:
        report = await SilentPeer(credentials=THEIRS).run(place.server)
    first = next(entry for entry in report.transcript.entries if entry.kind != "note")
    assert first.kind == "received"
    assert first.seconds == 5


async def test_silent_peer_against_a_dialler() -> None:
    # A raw stream is a target too; here the silent peer has accepted it.
    listener = open_memory_listener()
    async with open_server(listener=listener, credentials=MINE, window=30):
        stream = await listener.dial()
        report = await SpeakingPeer(credentials=THEIRS).run(stream)
        report.assert_role(Role.CLIENT)
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"the peer has closed it")


async def test_talk_replaces_saying_and_hearing(where: str) -> None:
    async def talk(stream: PeerStream) -> None:
        for word in (b"one", b"two"):
            await stream.send_all(word)
            assert await stream.receive_some(3) == word
        assert stream.ssl_object.getpeercert()

    report = await play(SpeakingPeer(talk=talk), where)
    assert report.heard == b"onetwo"
    assert report.error is None


async def test_error_in_talk_is_raised() -> None:
    async def talk(stream: PeerStream) -> None:
        raise ZeroDivisionError

    async with serving("memory", window=30) as place:
        with pytest.raises(ZeroDivisionError):
            await SpeakingPeer(credentials=THEIRS, talk=talk).run(place.server)


async def test_late_peer_in_time_and_too_late(autojump_clock: trio.testing.MockClock) -> None:
    async with serving("memory", window=5) as place:
        report = await LatePeer(credentials=THEIRS, late_by=4.5).run(place.server)
        report.assert_role(Role.CLIENT)
        assert place.decisions[-1].waited == 4.5
        report = await LatePeer(credentials=THEIRS, late_by=5.5).run(place.server)
        report.assert_role(None)
        assert isinstance(report.error, ssl.SSLError)
        assert report.error.reason == "UNEXPECTED_MESSAGE"


@pytest.mark.parametrize("record_size", [None, 1])
@pytest.mark.parametrize("whole_handshake", [False, True])
async def test_dribbling_peer(
    record_size: int | None, whole_handshake: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving("memory", window=5) as place:
        report = await DribblingPeer(
            credentials=THEIRS,
            pause=0.001,
            record_size=record_size,
            whole_handshake=whole_handshake,
        ).run(place.server)
        report.assert_role(Role.CLIENT)
    sizes = [len(entry.data) for entry in report.transcript.entries if entry.kind == "sent"]
    dribbled = sizes.index(next(size for size in sizes if size > 1))
    assert dribbled > (1500 if whole_handshake else 250)
    assert report.heard == b"hello"
    if record_size:
        assert report.sent[3:5] == b"\0\1"


async def test_dribbling_peer_over_tcp() -> None:
    report = await play(DribblingPeer(pause=0, size=40), "tcp")
    report.assert_role(Role.CLIENT)


async def test_announcing_peer_announces_and_then_serves() -> None:
    ours, theirs = open_memory_stream_pair()
    async with trio.open_nursery() as nursery:
        peer = AnnouncingPeer(credentials=THEIRS)
        nursery.start_soon(peer.run, theirs)
        assert await ours.receive_some(len(ANNOUNCEMENT)) == ANNOUNCEMENT
        await trio.testing.wait_all_tasks_blocked()
        connection = await trio_duplex.negotiate(ours, MINE, window=0)
        assert connection.role is Role.CLIENT
        async with connection:
            assert await connection.receive_some() == b"hello"
            await connection.send_all(b"back")
    peer.report.assert_role(Role.SERVER)
    assert peer.report.sent.startswith(ANNOUNCEMENT)


# ------------------------------------------------------------------------- odd ones


@pytest.mark.parametrize("size", [0, 1, 100])
async def test_partial_peer_then_says_nothing_more(
    size: int, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = open_memory_stream_pair()
    peer = PartialPeer(size=size, patience=60)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.run, theirs)
        got = b""
        with trio.move_on_after(50):
            while True:
                got += await ours.receive_some()
        await ours.aclose()
    assert len(got) == size == len(peer.report.sent)
    assert got == b"\x16\x03\x01"[:size] or size == 100
    assert peer.report.end is End.EOF
    assert peer.report.seconds == 50


@pytest.mark.parametrize("name", PLAINTEXT)
async def test_plaintext_peer(where: str, name: str) -> None:
    report = await play(PlaintextPeer(say=PLAINTEXT[name]), where)
    assert report.sent == PLAINTEXT[name]
    assert (
        trio_duplex.openings.classify(report.sent).kind is trio_duplex.openings.OpeningKind.NOT_TLS
    )
    assert report.received == b""
    assert report.end is not None


async def test_plaintext_peer_in_answer(where: str) -> None:
    report = await play(PlaintextPeer(when_greeted=True), where, window=0.02)
    kinds = [entry.kind for entry in report.transcript.entries if entry.kind != "note"]
    assert kinds[:2] == ["received", "sent"]


async def take(stream: trio.abc.Stream) -> bytes:
    got = b""
    while chunk := await stream.receive_some():
        got += chunk
    return got


async def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        theirs = await trio.open_tcp_stream("127.0.0.1", port)
        return await listener.accept(), theirs


async def memory_pair() -> tuple[MemoryStream, MemoryStream]:
    return open_memory_stream_pair()


PAIRS: dict[str, Callable[[], object]] = {"memory": memory_pair, "tcp": tcp_pair}


@pytest.mark.parametrize("greeted", [False, True])
async def test_leaving_before_tls(where: str, greeted: bool) -> None:
    for cls in (HangingUpPeer, HalfClosingPeer, ResettingPeer):
        ours, theirs = await PAIRS[where]()  # type: ignore[misc]
        peer = cls(say=b"bye", when_greeted=greeted, delay=0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.run, theirs)
            if greeted:
                await ours.send_all(b"good day")
            if cls is ResettingPeer:
                with pytest.raises(trio.BrokenResourceError):
                    await take(ours)
            else:
                assert await take(ours) == b"bye"
            if cls is HalfClosingPeer:
                await ours.send_all(b"are you there?")
            await ours.aclose()
        assert peer.report.received == (
            (b"good day" if greeted else b"")
            + (b"are you there?" if cls is HalfClosingPeer else b"")
        )
        assert peer.report.seconds >= 0.01


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("cls", [HangingUpPeer, HalfClosingPeer, ResettingPeer])
async def test_leaving_after_the_handshake(
    where: str,
    cls: type[HangingUpPeer | HalfClosingPeer | ResettingPeer],
    role: Role,
) -> None:
    causes: list[BaseException | None] = []

    async def handler(connection: trio_duplex.Connection) -> None:
        assert await connection.receive_some() == b"bye"
        with pytest.raises(trio.BrokenResourceError) as info:
            await connection.receive_some()
        causes.append(info.value.__cause__)

    peer = cls(credentials=THEIRS, after=role, say=b"bye", delay=0.05)
    with trio.fail_after(120):
        async with serving(where, window=0.02 if role is Role.SERVER else 30, handler=handler) as p:
            report = await peer.run(p.server)
    report.assert_role(role)
    assert len(causes) == 1
    # A bare FIN is an SSLEOFError; a reset is what the stream says of it.
    assert isinstance(causes[0], ssl.SSLEOFError) == (cls is not ResettingPeer)


@pytest.mark.parametrize("size", [None, 1])
async def test_echoing_peer(where: str, size: int | None) -> None:
    report = await play(EchoingPeer(size=size), where, window=0.02)
    assert report.alert == "unexpected_message"
    hello = next(entry.data for entry in report.transcript.entries if entry.kind == "received")
    assert report.sent.startswith(hello)


async def test_crossing_peer_makes_glare(where: str, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = await PAIRS[where]()  # type: ignore[misc]
    peer = CrossingPeer(credentials=THEIRS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.run, theirs)
        with pytest.raises(trio_duplex.GlareError):
            await trio_duplex.negotiate(ours, MINE, window=0)
    peer.report.assert_role(None)
    assert isinstance(peer.report.error, ssl.SSLError)
    assert peer.report.error.reason == "UNEXPECTED_MESSAGE"
    for hello in (peer.report.sent, peer.report.received):
        assert (
            trio_duplex.openings.classify(hello).kind
            is trio_duplex.openings.OpeningKind.CLIENT_HELLO
        )


async def test_crossing_peer_that_resolves(where: str) -> None:
    roles: set[Role] = set()
    while len(roles) < 2:
        ours, theirs = await PAIRS[where]()  # type: ignore[misc]
        peer = CrossingPeer(credentials=THEIRS, resolves=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.run, theirs)
            connection = await trio_duplex.negotiate(ours, MINE, window=0)
            async with connection:
                await connection.send_all(await connection.receive_some())
        peer.report.assert_role(connection.role.other)
        assert peer.report.heard == b"hello"
        roles.add(connection.role)


async def test_crossing_peer_gives_up_when_nobody_greets() -> None:
    ours, theirs = open_memory_stream_pair()
    await ours.aclose()
    report = await CrossingPeer().run(theirs)
    assert report.sent == b""
    assert report.end is End.EOF


async def test_crossing_peer_gives_up_in_the_middle_of_a_hello() -> None:
    ours, theirs = open_memory_stream_pair()
    await ours.send_all(b"\x16\x03\x01\x02\x00\x01")
    await ours.send_eof()
    report = await CrossingPeer(resolves=True).run(theirs)
    assert isinstance(report.error, EOFError)


class HalfAnsweringPeer(Peer):
    """Answers a ClientHello with all but the last bytes of its flight, and completes it later."""

    def plays(self) -> Role | None:
        return Role.SERVER

    async def script(self, wire: Wire) -> None:
        stream = wire.tls(Role.SERVER)
        hello = await wire.receive()
        assert await stream.answer(hello[:50]) == b""
        flight = await stream.answer(hello[50:])
        await wire.send(flight[:-1])
        await wire.send(flight[-1:])
        await stream.handshake()
        await stream.farewell()


@pytest.mark.parametrize("version", VERSIONS)
async def test_answer_makes_a_flight_and_handshake_goes_on(
    where: str, version: ssl.TLSVersion
) -> None:
    credentials = THEIRS.peer_credentials(tls_version=version)
    report = await play(HalfAnsweringPeer(credentials=credentials), where, window=0.02)
    report.assert_role(Role.SERVER)
    assert report.error is None


async def test_handshake_that_has_failed_is_not_tried_again() -> None:
    ours, theirs = open_memory_stream_pair()

    class Twice(HalfAnsweringPeer):
        async def script(self, wire: Wire) -> None:
            stream = wire.tls(Role.SERVER)
            with pytest.raises(ssl.SSLError):
                await stream.answer(await wire.receive())
            leave_errno_behind()
            await stream.handshake()

    await ours.send_all(GARBAGE)
    report = await Twice().run(theirs)
    assert isinstance(report.error, trio.BrokenResourceError)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("half_close", [False, True])
async def test_clogged_peer(
    role: Role, half_close: bool, autojump_clock: trio.testing.MockClock
) -> None:
    stuck: list[float] = []

    async def handler(connection: trio_duplex.Connection) -> None:
        started = trio.current_time()
        assert await connection.receive_some() == b"hello"
        with pytest.raises(trio.BrokenResourceError):
            await connection.send_all(bytes(2**20))
        stuck.append(trio.current_time() - started)

    peer = CloggedPeer(credentials=THEIRS, after=role, half_close=half_close, hold=77)
    async with serving("memory", window=5, handler=handler) as place:
        report = await peer.run(place.server)
        report.assert_role(role)
    assert stuck == [77]


async def test_clogged_peer_over_tcp() -> None:
    async def handler(connection: trio_duplex.Connection) -> None:
        with trio.move_on_after(0.2) as scope:
            await connection.send_all(bytes(32 * 2**20))
        assert scope.cancelled_caught
        await trio.aclose_forcefully(connection)

    async with serving("tcp", window=30, handler=handler) as place:
        report = await CloggedPeer(credentials=THEIRS, hold=4).run(place.server)
        report.assert_role(Role.CLIENT)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", Role)
async def test_garbage_peer_reads_the_alert(
    where: str, role: Role, version: ssl.TLSVersion
) -> None:
    credentials = THEIRS.peer_credentials(tls_version=version)
    window = 0.02 if role is Role.SERVER else 30
    report = await play(GarbagePeer(credentials=credentials, after=role), where, window=window)
    report.assert_role(role)
    assert report.alert == "bad_record_mac"
    assert isinstance(report.error, trio.BrokenResourceError)


def leave_errno_behind() -> None:
    """As any socket does that has nothing to read."""
    one, other = socket.socketpair()
    with one, other, pytest.raises(BlockingIOError):
        one.setblocking(False)
        one.recv(1)


async def test_tls_that_has_failed_stays_failed() -> None:
    """OpenSSL is not asked again: from 3.12.3 on, Python makes of its answer what errno holds."""

    async def handler(connection: trio_duplex.Connection) -> None:
        await connection.transport_stream.send_all(GARBAGE)
        with pytest.raises(trio.BrokenResourceError):
            await connection.receive_some()

    async def talk(stream: PeerStream) -> None:
        for _ in range(2):
            leave_errno_behind()
            with pytest.raises(trio.BrokenResourceError, match=r"(?i)bad.record.mac"):
                await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError, match=r"(?i)bad.record.mac"):
            await stream.send_all(b"hello?")
        leave_errno_behind()  # and then the farewell, which receives

    async with serving("memory", window=30, handler=handler) as place:
        report = await SpeakingPeer(credentials=THEIRS, talk=talk).run(place.server)
    assert report.error is None
    assert sum("TLS failed" in entry.text for entry in report.transcript.entries) == 1


# ------------------------------------------------------------- what they all can do


@pytest.mark.parametrize("cls", [SpeakingPeer, SilentPeer])
async def test_flawed_certificate_brings_an_alert(cls: type[Peer], where: str) -> None:
    peer = cls(credentials=AUTHORITY.flawed(Flaw.EXPIRED))
    report = await play(peer, where, window=0.02 if cls is SilentPeer else 30)
    assert report.alert == "certificate_expired"
    assert report.error is not None


@pytest.mark.parametrize("cls", [SpeakingPeer, SilentPeer])
async def test_peer_that_refuses_us_says_so(cls: type[Peer], where: str) -> None:
    # The other way round: the peer's own alert, as OpenSSL's programs send it.
    ours, theirs = await PAIRS[where]()  # type: ignore[misc]
    peer = cls(credentials=attrs.evolve(THEIRS, trust_pem=Authority().trust_pem))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.run, theirs)
        with pytest.raises((trio_duplex.HandshakeError, trio.BrokenResourceError)):
            connection = await trio_duplex.negotiate(
                ours, MINE, window=0.05 if cls is SilentPeer else 30
            )
            async with connection:
                await connection.receive_some()
    assert isinstance(peer.report.error, ssl.SSLCertVerificationError)


async def test_peers_without_credentials_are_strangers() -> None:
    report = await play(SpeakingPeer(credentials=PeerCredentials()), "memory")
    assert report.alert == "certificate_required"
    async with serving("memory", window=30) as place:
        report = await SpeakingPeer().run(place.server)
    assert report.alert == "unknown_ca"


async def test_patience_ends_a_peer_that_hangs(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = open_memory_stream_pair()
    report = await SilentPeer(patience=33).run(theirs)
    assert isinstance(report.error, trio.TooSlowError)
    assert report.seconds == 33
    assert await take(ours) == b""


async def test_eof_in_the_handshake_is_told() -> None:
    ours, theirs = open_memory_stream_pair()
    await ours.send_eof()
    report = await SilentPeer().run(theirs)
    assert isinstance(report.error, EOFError)
    assert report.end is End.EOF


async def test_reset_is_told(where: str) -> None:
    ours, theirs = await PAIRS[where]()  # type: ignore[misc]
    async with trio.open_nursery() as nursery:
        peer = SilentPeer()
        nursery.start_soon(peer.run, theirs)
        await ResettingPeer(delay=0.01).run(ours)
    assert peer.report.end is End.RESET
    assert isinstance(peer.report.error, trio.BrokenResourceError)


async def test_cancelled_peer_hangs_up() -> None:
    ours, theirs = open_memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(SilentPeer().run, theirs)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert await take(ours) == b""


async def test_peer_of_one_s_own_and_runs_again() -> None:
    class Stutterer(Peer):
        kind = "stuttering peer"

        async def script(self, wire: Wire) -> None:
            await wire.send(b"s-s-s")
            wire.note("and so on")
            with pytest.raises(ValueError, match="no TLS role"):
                wire.tls(Role.CLIENT)

    peer = Stutterer()
    for _ in range(2):
        _, theirs = open_memory_stream_pair()
        report = await peer.run(theirs)
        assert report.sent == b"s-s-s"
        assert report.peer == "stuttering peer"


async def test_half_close_of_a_stream_that_can_not_is_a_type_error() -> None:
    async with serving("memory", window=30) as place:
        connection = await trio_duplex.testing.open_memory_connection(
            place.server.listeners[0],  # type: ignore[arg-type]
            AUTHORITY.credentials("x.example"),
        )
        with pytest.raises(TypeError, match="half-closed"):
            await HalfClosingPeer().run(connection.tls)


async def test_targets() -> None:
    async with open_server(credentials=MINE, host="0.0.0.0", window=30) as server:
        (address,) = server.addresses
        assert isinstance(address, tuple)

        class Own:
            address = ("127.0.0.1", server.addresses[0][1])

        for target in (server, ("127.0.0.1", address[1]), Own()):
            report = await SpeakingPeer(credentials=THEIRS).run(target)  # type: ignore[arg-type]
            report.assert_role(Role.CLIENT)
    with pytest.raises(TypeError, match="can't dial"):
        await SpeakingPeer().run("localhost:80")  # type: ignore[arg-type]
    with pytest.raises(OSError, match="connect"):
        await SpeakingPeer().run(("127.0.0.1", address[1]))


async def test_server_without_an_address_can_not_be_dialled() -> None:
    class Elsewhere(trio.abc.Listener[trio.abc.Stream]):
        async def accept(self) -> trio.abc.Stream:
            await trio.sleep_forever()
            raise AssertionError

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    async with open_server(credentials=MINE, listener=Elsewhere()) as server:
        with pytest.raises(TypeError, match="neither on TCP nor in memory"):
            await SpeakingPeer().run(server)


def test_run_sync_without_trio() -> None:
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listening:
        got: list[bytes] = []

        def serve() -> None:
            stream, _ = listening.accept()
            with stream:
                got.append(stream.recv(100))

        thread = threading.Thread(target=serve)
        thread.start()
        report = PlaintextPeer(say=b"hello there").run_sync(listening.getsockname())
        thread.join()
    assert got == [b"hello there"]
    assert report.end is not None


async def test_run_sync_inside_trio_is_refused() -> None:
    peer = PlaintextPeer()
    with pytest.raises(RuntimeError):
        peer.run_sync(("127.0.0.1", 1))
