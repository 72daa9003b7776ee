"""Scripted peers that each do one thing wrong, at a chosen moment.

Most of them then listen until the other end finishes, so that their report has the
alert that the other end sent, and the time.
"""

from __future__ import annotations

import abc
import contextlib
import socket
from typing import ClassVar

import attrs
import trio

from trio_duplex import Role
from trio_duplex.testing._peers import Peer, TalkingPeer, context_of
from trio_duplex.testing._records import HEADER_SIZE, split_records
from trio_duplex.testing._wire import PeerStream, Wire

PLAINTEXT = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "smtp": b"220 mail.example ESMTP\r\n",
    "proxy": b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 8443\r\n",
    "sip": b"OPTIONS sip:example.org SIP/2.0\r\n\r\n",
    "netconf": b'<?xml version="1.0" encoding="UTF-8"?>\r\n<hello ',
    "sslv2": bytes.fromhex("802e 01 0002 0015 0000 0010") + bytes(37),
    "zeros": bytes(16),
}
"""The first bytes of protocols that are not TLS, by name, for `PlaintextPeer`."""

GARBAGE = b"\x17\x03\x03\x00\x40" + bytes(range(64))
"""A record that can't be decrypted, so the answer is the alert bad_record_mac."""


@attrs.define(slots=False, eq=False, kw_only=True)
class PartialPeer(Peer):
    """Sends the start of a ClientHello, and then nothing, until the other end finishes.

    Attributes:
        size: How many bytes it sends. With 0 it sends nothing at all, and unlike
            a `SilentPeer` does not answer a ClientHello.
    """

    kind: ClassVar[str] = "partial peer"

    size: int = 1

    def plays(self) -> Role | None:
        """Return the client role."""
        return Role.CLIENT

    async def script(self, wire: Wire) -> None:
        """Send the start of a ClientHello, and listen."""
        hello = wire.tls(Role.CLIENT).client_hello()
        if self.size:
            await wire.send(hello[: self.size])
        await wire.receive_to_end()


@attrs.define(slots=False, eq=False, kw_only=True)
class PlaintextPeer(Peer):
    """Speaks first, in a protocol that is not TLS.

    Attributes:
        say: The bytes that it sends; `PLAINTEXT` has examples.
        when_greeted: Whether to wait for the other end's first bytes before that.
    """

    kind: ClassVar[str] = "plaintext peer"

    say: bytes = PLAINTEXT["http"]
    when_greeted: bool = False

    async def script(self, wire: Wire) -> None:
        """Speak, and listen."""
        if self.when_greeted:
            await wire.receive()
        await wire.send(self.say)
        await wire.receive_to_end()


@attrs.define(slots=False, eq=False, kw_only=True)
class LeavingPeer(Peer):
    """A peer that leaves at a chosen moment; the base class of several ways to leave.

    Attributes:
        after: The TLS role in which it first completes a handshake; None to
            leave before TLS begins.
        when_greeted: Whether to wait for the other end's first bytes before
            leaving. Without a handshake, these are its ClientHello; after a
            handshake, its data.
        say: Bytes to send before leaving: raw, or encrypted after a handshake.
        delay: Seconds to wait before leaving.
    """

    after: Role | None = None
    when_greeted: bool = False
    say: bytes = b""
    delay: float = 0.0

    def plays(self) -> Role | None:
        """Return the role of the handshake, if there is one."""
        return self.after

    async def script(self, wire: Wire) -> None:
        """Do everything that comes first, and leave."""
        stream = None
        if self.after is not None:
            stream = wire.tls(self.after)
            await stream.handshake()
        if self.when_greeted:
            await (wire.receive() if stream is None else stream.receive_some())
        if self.say:
            await (wire.send(self.say) if stream is None else stream.send_all(self.say))
        await trio.sleep(self.delay)
        await self.leave(wire)

    @abc.abstractmethod
    async def leave(self, wire: Wire) -> None:
        """Leave."""


@attrs.define(slots=False, eq=False, kw_only=True)
class HangingUpPeer(LeavingPeer):
    """Hangs up with a FIN, without a close_notify."""

    kind: ClassVar[str] = "hanging-up peer"

    async def leave(self, wire: Wire) -> None:
        """Close."""
        await wire.aclose()


@attrs.define(slots=False, eq=False, kw_only=True)
class ResettingPeer(LeavingPeer):
    """Resets the connection (RST)."""

    kind: ClassVar[str] = "resetting peer"

    async def leave(self, wire: Wire) -> None:
        """Close by force."""
        await wire.reset()


@attrs.define(slots=False, eq=False, kw_only=True)
class HalfClosingPeer(LeavingPeer):
    """Half-closes: sends FIN, and goes on listening until the other end finishes."""

    kind: ClassVar[str] = "half-closing peer"

    async def leave(self, wire: Wire) -> None:
        """Send FIN, and listen."""
        await wire.send_eof()
        await _listen(wire)


@attrs.define(slots=False, eq=False, kw_only=True)
class EchoingPeer(Peer):
    """Sends back all raw bytes that it receives, including our own ClientHello.

    Attributes:
        size: Bytes to send at a time; None to send them as they came.
    """

    kind: ClassVar[str] = "echoing peer"

    size: int | None = None

    async def script(self, wire: Wire) -> None:
        """Echo until the other end finishes."""
        while data := await wire.receive():
            await wire.dribble(data, size=self.size or len(data))


@attrs.define(slots=False, eq=False, kw_only=True)
class CrossingPeer(TalkingPeer):
    """Makes glare: waits for the other end's ClientHello, and answers with its own.

    For the other end this is the same as a real crossing, but it does not depend on a
    clock. The peer then aborts with the alert unexpected_message, as most TLS clients do.

    Attributes:
        resolves: Whether it resolves the crossing instead, as `trio_duplex` does: the
            end whose ClientHello has the larger random stays the TLS client. Then it
            talks; its report has the role.
    """

    kind: ClassVar[str] = "crossing peer"

    resolves: bool = False

    def plays(self) -> Role | None:
        """Return the client role, which is also that of the other end."""
        return Role.CLIENT

    async def script(self, wire: Wire) -> None:
        """Wait, cross, and abort or resolve the crossing."""
        theirs = await wire.receive()
        if not theirs:
            return
        stream = wire.tls(Role.CLIENT)
        ours = stream.client_hello()
        await wire.send(ours)
        if self.resolves:
            while (hello := next(split_records(theirs), None)) is None:
                if not (more := await wire.receive()):
                    raise EOFError("the other end finished in the middle of its ClientHello")
                theirs += more
            if ours[_RANDOM] > theirs[_RANDOM]:
                _, message = hello
                theirs = theirs[HEADER_SIZE + len(message) :]  # drop their hello, and stay client
            else:
                context = context_of(self.credentials or self.default_credentials(), Role.SERVER)
                stream = PeerStream(wire, context, Role.SERVER)
        await stream.handshake(received=theirs)
        await self.converse(stream)


_RANDOM = slice(11, 43)  # of a ClientHello in one record; this peer supports no other


@attrs.define(slots=False, eq=False, kw_only=True)
class CloggedPeer(Peer):
    """Completes the handshake, and never reads again.

    Over TCP, the kernels' buffers still hold some 100 KB before the other end's
    sending blocks; over memory streams, it is their capacity.

    Attributes:
        after: The TLS role in which it completes the handshake.
        say: Bytes that it sends after the handshake, to provoke an answer.
        half_close: Whether it then also sends FIN.
        hold: Seconds until it hangs up.
    """

    kind: ClassVar[str] = "clogged peer"

    after: Role = Role.CLIENT
    say: bytes = b"hello"
    half_close: bool = False
    hold: float = 5.0

    def plays(self) -> Role | None:
        """Return the role of the handshake."""
        return self.after

    async def script(self, wire: Wire) -> None:
        """Handshake, stop reading, and hang up in the end."""
        if isinstance(wire.stream, trio.SocketStream):
            with contextlib.suppress(OSError):
                wire.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream = wire.tls(self.after)
        await stream.handshake()
        if self.say:
            await stream.send_all(self.say)
        if self.half_close:
            await wire.send_eof()
        wire.note(f"we read no more, for {self.hold:g} s")
        await trio.sleep(self.hold)
        await wire.aclose()


@attrs.define(slots=False, eq=False, kw_only=True)
class GarbagePeer(Peer):
    """Completes the handshake, and then sends garbage on the wire.

    Attributes:
        after: The TLS role in which it completes the handshake.
        garbage: The raw bytes; `GARBAGE` by default.
    """

    kind: ClassVar[str] = "garbage peer"

    after: Role = Role.CLIENT
    garbage: bytes = GARBAGE

    def plays(self) -> Role | None:
        """Return the role of the handshake."""
        return self.after

    async def script(self, wire: Wire) -> None:
        """Handshake, send garbage, and listen."""
        stream = wire.tls(self.after)
        await stream.handshake()
        await wire.send(self.garbage)
        await _listen(wire)


async def _listen(wire: Wire) -> None:
    """Listen until the other end finishes, and decrypt what comes if TLS has begun."""
    if wire.secure is None:
        await wire.receive_to_end()
    else:
        while await wire.secure.receive_some():
            pass
