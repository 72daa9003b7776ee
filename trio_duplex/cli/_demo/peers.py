"""The peers of the demo, and the service that they dial.

The peers do not use trio_duplex: like the peers of a real application, they use Trio's
own TLS or plain TCP. Our end is `trio_duplex.negotiate` and an echo on every stream
that a plain ``trio.serve_listeners`` accepts, with a memory of peers for the window.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import attrs
import trio
import trustme

import trio_duplex
from trio_duplex import NotTLSError, PeerClosedError, Reason, Role, windows
from trio_duplex.cli._demo.verdict import Expected, Ours, Theirs, faults
from trio_duplex.cli._options import format_host_port

PATIENCE = 10.0
"""Seconds that a peer has beyond the window. It needs only milliseconds, but the machine may be
busy. This bounds the demo if something hangs."""

NODE_NAME = "node.example"

ANNOUNCEMENT = bytes.fromhex("1503030002015a")
"""A TLS warning, user_canceled, that asks the other end to begin (docs: *The announcement*)."""

T = TypeVar("T")


@attrs.frozen
class Authority:
    """Throw-away certificates for the node (our end) and for its peers."""

    credentials: trio_duplex.Credentials
    peer_client: ssl.SSLContext
    peer_server: ssl.SSLContext

    @classmethod
    def create(cls) -> Authority:
        """Make a certificate authority, and what it issues."""
        authority = trustme.CA()
        of_peer = authority.issue_cert("peer.example")
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.verify_mode = ssl.CERT_REQUIRED
        for context in (client, server):
            # trustme also accepts contexts of pyOpenSSL, whose types are not installed.
            authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]
            of_peer.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
        credentials = trio_duplex.Credentials.mutual(
            certificate_chain=authority.issue_cert(NODE_NAME), trust=authority
        )
        return cls(credentials=credentials, peer_client=client, peer_server=server)


@attrs.frozen
class Peer:
    """A peer that dials in.

    Attributes:
        name: What it is, in two words.
        behave: Plays the peer's part on its TCP stream, and returns what it saw.
        expected: The expected result.
        again: The name of an earlier peer, if this one is the same peer that dials
            again. It waits until the earlier one has ended. Otherwise empty.
    """

    name: str
    behave: Callable[[trio.SocketStream, Authority], Awaitable[Theirs]]
    expected: Expected
    again: str = ""


@attrs.frozen
class Outcome:
    """The result of a peer.

    Attributes:
        name: The peer's name.
        address: The address that it dialled from, as text.
        ours: What our end saw; None if our end has not ended.
        theirs: What the peer saw.
        faults: What is not as expected.
    """

    name: str
    address: str
    ours: Ours | None
    theirs: Theirs
    faults: Sequence[str]


# ---------------------------------------------------------------------------------------------------------- peers


async def speak_tls(stream: trio.SocketStream, authority: Authority) -> Theirs:
    """Be a TLS client: send the ClientHello at once."""
    tls = trio.SSLStream(stream, authority.peer_client, server_hostname=NODE_NAME)
    return await _converse(tls, b"I spoke first")


async def wait_for_tls(stream: trio.SocketStream, authority: Authority) -> Theirs:
    """Be a TLS server that has dialled: send nothing until the other end's ClientHello comes."""
    tls = trio.SSLStream(stream, authority.peer_server, server_side=True)
    return await _converse(tls, b"I waited for you")


async def announce(stream: trio.SocketStream, authority: Authority) -> Theirs:
    """Be a TLS server that announces itself, so that it need not wait."""
    await stream.send_all(ANNOUNCEMENT)
    return await wait_for_tls(stream, authority)


async def speak_http(stream: trio.SocketStream, authority: Authority) -> Theirs:  # noqa: ARG001
    """Be an HTTP client at the wrong port."""
    request = b"GET / HTTP/1.1\r\nHost: node.example\r\n\r\n"
    await stream.send_all(request)
    answer = b""
    async for chunk in stream:
        answer += chunk
    return Theirs(sent=request, received=answer)


async def hang_up(stream: trio.SocketStream, authority: Authority) -> Theirs:  # noqa: ARG001
    """Be a port scan, or a health check."""
    await stream.aclose()
    return Theirs(sent=b"")


async def _converse(tls: trio.SSLStream[trio.SocketStream], message: bytes) -> Theirs:
    await tls.do_handshake()
    await tls.send_all(message)
    echo = b""
    while len(echo) < len(message) and (chunk := await tls.receive_some()):
        echo += chunk
    theirs = Theirs(
        sent=message,
        received=echo,
        role=Role.SERVER if tls.server_side else Role.CLIENT,
        tls=_version_and_cipher(tls),
    )
    await tls.aclose()
    return theirs


PEERS = (
    # The silent peer dials first, to show that the others do not have to wait for it.
    Peer("silent peer", wait_for_tls, Expected(Role.CLIENT, Reason.SILENT)),
    Peer("speaking peer", speak_tls, Expected(Role.SERVER, Reason.SPOKE)),
    Peer("announced peer", announce, Expected(Role.CLIENT, Reason.ANNOUNCED)),
    Peer("plaintext peer", speak_http, Expected(Role.SERVER, Reason.SPOKE, NotTLSError)),
    Peer("vanishing peer", hang_up, Expected(None, None, PeerClosedError)),
    Peer(
        "remembered peer",
        wait_for_tls,
        Expected(Role.CLIENT, Reason.REMEMBERED),
        again="silent peer",
    ),
)


# -------------------------------------------------------------------------------------------------------- our end


_REASONS = {Role.SERVER: Reason.SPOKE, Role.CLIENT: Reason.SILENT, None: None}


async def _serve(
    stream: trio.SocketStream, credentials: trio_duplex.Credentials, window: windows.PeerMemory
) -> Ours:
    """Negotiate and echo, and return what we saw."""
    started = trio.current_time()
    try:
        connection = await trio_duplex.negotiate(stream, credentials, window=window)
    except trio_duplex.DuplexError as exc:
        return Ours(
            waited=trio.current_time() - started,
            role=exc.role,
            # The error has only the role. For the peers that must fail, the reason follows from it.
            reason=_REASONS[exc.role],
            received=exc.received if isinstance(exc, NotTLSError) else b"",
            error=exc,
        )
    received, error = b"", None
    async with connection:
        try:
            async for chunk in connection:
                received += chunk
                await connection.send_all(chunk)
        except trio.BrokenResourceError as exc:
            error = exc
    return Ours(
        waited=connection.decision.waited,
        role=connection.role,
        reason=connection.decision.reason,
        tls=(connection.tls_version, connection.cipher),
        received=received,
        error=error,
    )


def _version_and_cipher(tls: trio.SSLStream[Any]) -> tuple[str, str]:
    return str(tls.version()), str(tls.cipher()[0])


# --------------------------------------------------------------------------------------------------- both together


class _ByAddress(Generic[T]):
    """Facts about each peer, by the address that it dialled from."""

    def __init__(self) -> None:
        self._known: dict[str, T] = {}
        self._changed = trio.Condition()

    async def put(self, address: str, known: T) -> None:
        async with self._changed:
            self._known[address] = known
            self._changed.notify_all()

    async def wait_for(self, address: str) -> T:
        async with self._changed:
            while address not in self._known:
                await self._changed.wait()
            return self._known[address]

    def get(self, address: str) -> T | None:
        return self._known.get(address)


async def dial_in(
    peers: Sequence[Peer],
    listener: trio.SocketListener,
    authority: Authority,
    window: float,
    report: Callable[[Outcome], None],
) -> None:
    """Let all peers dial the listener, in order, and report each outcome when it is known.

    Args:
        peers: The peers. They do not wait for each other, except for a peer that
            dials again.
        listener: The listener to accept from. It is closed in the end.
        authority: The certificates.
        window: The detection window, in seconds.
        report: Called with each outcome, when both ends have ended.
    """
    meeting = _Meeting(authority, window, report)
    ended = {peer.name: trio.Event() for peer in peers}
    host, port, *_ = listener.socket.getsockname()

    async def dial(peer: Peer) -> None:
        try:
            stream = await trio.open_tcp_stream(host, port)
        except OSError as exc:
            meeting.finish(peer, "nowhere", None, Theirs(sent=b"", error=exc))
            ended[peer.name].set()
        else:
            dialling.start_soon(talk, peer, stream)

    async def dial_again(peer: Peer) -> None:
        await ended[peer.again].wait()
        await dial(peer)

    async def talk(peer: Peer, stream: trio.SocketStream) -> None:
        await meeting.talk(peer, stream)
        ended[peer.name].set()

    async with trio.open_nursery() as service:
        service.start_soon(trio.serve_listeners, meeting.accepted, [listener])
        async with trio.open_nursery() as dialling:
            for peer in peers:
                if peer.again in ended:
                    dialling.start_soon(dial_again, peer)
                else:
                    await dial(peer)
        service.cancel_scope.cancel()


class _Meeting:
    """Runs both ends of each connection, and compares what they have seen."""

    def __init__(
        self, authority: Authority, window: float, report: Callable[[Outcome], None]
    ) -> None:
        self._authority = authority
        self._window = window
        self._report = report
        self._views = _ByAddress[Ours]()
        self._dialled = _ByAddress[Peer]()
        self._unmeasured: set[str] = set()
        # One silence is enough here. The default of three would make the demo too long.
        self._memory = windows.PeerMemory(
            otherwise=window, floor=min(0.1, window), silences=1, key=self._known_as
        )

    def _known_as(self, facts: windows.PeerFacts) -> str | None:
        """Return a key for the memory: the peer's name, because all peers have the same address."""
        assert isinstance(facts.remote_address, tuple)
        address = format_host_port(*facts.remote_address[:2])
        if facts.round_trip is None:  # only on Linux: elsewhere no peer gets the short window
            self._unmeasured.add(address)
        peer = self._dialled.get(address)
        return None if peer is None else peer.again or peer.name

    async def accepted(self, stream: trio.SocketStream) -> None:
        """Be our end of a connection."""
        address = format_host_port(*stream.socket.getpeername()[:2])
        await self._dialled.wait_for(address)
        ours = await _serve(stream, self._authority.credentials, self._memory)
        await self._views.put(address, ours)

    async def talk(self, peer: Peer, stream: trio.SocketStream) -> None:
        """Be the peer's end, and report what both have seen."""
        address = format_host_port(*stream.socket.getsockname()[:2])
        theirs, ours = Theirs(sent=b"", error=trio.TooSlowError()), None
        with trio.move_on_after(self._window + PATIENCE):
            try:
                async with stream:
                    await self._dialled.put(address, peer)
                    theirs = await peer.behave(stream, self._authority)
            except trio.BrokenResourceError as exc:
                # Trio's exception only says that the stream is broken; its cause says why.
                cause = exc.__cause__ if isinstance(exc.__cause__, Exception) else exc
                theirs = Theirs(sent=b"", error=cause)
            ours = await self._views.wait_for(address)
        self.finish(peer, address, ours, theirs)

    def finish(self, peer: Peer, address: str, ours: Ours | None, theirs: Theirs) -> None:
        """Report the result of a peer."""
        expected = peer.expected
        if expected.reason is Reason.REMEMBERED and address in self._unmeasured:
            expected = attrs.evolve(expected, reason=Reason.SILENT)
        found = faults(expected, ours, theirs, window=self._window)
        self._report(Outcome(peer.name, address, ours, theirs, found))
