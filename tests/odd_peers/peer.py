"""One odd peer: a peer of the shipped kit that plays a function."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar

import attrs
import trio

from tests.support.peers import receive_exactly, shared_peer_context
from tests.support.records import split_records
from trio_duplex import Role
from trio_duplex.testing import Peer, PeerStream, Wire


@attrs.define(slots=False, eq=False, kw_only=True)
class OddPeer(Peer):
    """One odd peer on one connection to a `tests.odd_peers.stage.Stage`.

    Attributes:
        play: What it does.
        version: The TLS version that the server speaks.
        scratch: A folder of its own.
        patience: Longer than all that the server may take.
        over: Set when the connection has ended for the server.
        asked: Set when the peer policy is asked about this peer and waits for `verdict`.
        verdict: To be set by a play that lets the peer policy wait.
        warned: The alert that the peer has read, if it was only a warning.
        begun: The TLS stream, once TLS has begun; its handshake need not be complete.
    """

    kind: ClassVar[str] = "odd peer"

    play: Callable[[OddPeer], Awaitable[object]]
    version: ssl.TLSVersion
    scratch: Path
    patience: float = 20.0
    over: trio.Event = attrs.field(factory=trio.Event)
    asked: trio.Event = attrs.field(factory=trio.Event)
    verdict: trio.Event = attrs.field(factory=trio.Event)
    warned: str | None = attrs.field(init=False, default=None)
    begun: PeerStream | None = attrs.field(init=False, default=None)
    wire: Wire = attrs.field(init=False, repr=False)

    async def script(self, wire: Wire) -> None:
        """Play."""
        self.wire = wire
        await self.play(self)

    @property
    def alert(self) -> str | None:
        """The alert that the server has sent, encrypted or not; a close_notify does not count."""
        return self.warned or self.report.alert

    @property
    def tcp(self) -> trio.SocketStream:
        """The raw connection."""
        assert isinstance(self.wire.stream, trio.SocketStream)
        return self.wire.stream

    @property
    def tls(self) -> PeerStream:
        """The TLS stream."""
        assert self.begun is not None
        return self.begun

    def begin(self, role: Role, context: ssl.SSLContext | None = None) -> PeerStream:
        """Make the TLS stream of a peer in this role."""
        self.begun = PeerStream(self.wire, context or shared_peer_context(role, self.version), role)
        return self.begun

    def hello(self, context: ssl.SSLContext | None = None) -> bytes:
        """Begin as TLS client, and make the ClientHello."""
        return self.begin(Role.CLIENT, context).client_hello()

    async def be_greeted(self) -> bytes:
        """Stay silent until the server's ClientHello is here."""
        hello = await self.wire.receive()
        assert next(split_records(hello))[1][:1] == b"\x01", "no ClientHello"
        return hello

    async def flight(self, context: ssl.SSLContext | None = None) -> bytes:
        """Be greeted, begin as TLS server, and make the ServerHello and all that goes with it."""
        tls = self.begin(Role.SERVER, context)
        return await tls.answer(await self.be_greeted())

    async def open(self, role: Role, context: ssl.SSLContext | None = None) -> None:
        """Complete the handshake, and see that the handler is there."""
        await (self.begun or self.begin(role, context)).handshake()
        assert await self.ask(b"hello") == b"hello"

    async def ask(self, data: bytes) -> bytes:
        """Send data over TLS, and receive as much."""
        await self.tls.send_all(data)
        return await receive_exactly(self.tls, len(data))

    async def listen(self) -> None:
        """Receive until the server has finished, and decrypt what can be decrypted, for the alert.

        A handshake that is not complete is continued, but nothing of it is sent.
        """
        with contextlib.suppress(ssl.SSLError, EOFError, trio.BrokenResourceError):
            if self.begun is not None:
                if self.wire.secure is None:
                    await self.begun.handshake(send=_send_nothing)
                while await self.begun.receive_some():
                    pass
        await self.wire.receive_to_end()


async def _send_nothing(_: bytes) -> None:
    pass


Play = Callable[[OddPeer], Awaitable[object]]
