"""What an odd peer can do: a TCP connection, and TLS by hand beside it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import trio

from tests.support.peers import ALERT, peer_context, pin, records, reset
from trio_duplex import Role
from trio_duplex._tls.reasons import tls_alert
from trio_duplex._wire.alerts import alert_name

PATIENCE = 20.0
"""Seconds after which a peer gives up waiting for the server: longer than all that it may take."""


class Act:
    """One odd peer on one connection.

    Attributes:
        stream: The raw connection.
        version: The TLS version that the server speaks.
        scratch: A folder of its own.
        received: All that has come, raw.
        sent: All that has gone, raw.
        was_reset: Whether the server reset the connection.
        tls: The TLS object, if TLS has begun, with its two BIOs beside it.
        failure: What TLS failed with, if it did: its object must not be asked again.
        warned: The alert, where it was only a warning.
        over: Set when the connection has ended for the server.
        asked: Set when the peer policy is asked about it, if it is of those who let it wait.
        verdict: The peer policy waits for this, then.
    """

    tls: ssl.SSLObject | None = None

    def __init__(self, stream: trio.SocketStream, version: ssl.TLSVersion, scratch: Path) -> None:
        self.stream = stream
        self.version = version
        self.scratch = scratch
        self.received = b""
        self.sent = b""
        self.warned: str | None = None
        self.over = trio.Event()
        self.asked, self.verdict = trio.Event(), trio.Event()
        self.was_reset = False
        self.failure: ssl.SSLError | None = None
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._fed = 0

    # ------------------------------------------------------------------------------------------ raw

    async def say(self, data: bytes) -> None:
        self.sent += data
        await self.stream.send_all(data)

    async def say_bytewise(self, data: bytes, pause: float) -> None:
        """Each byte in a segment of its own."""
        for byte in data:
            await self.say(bytes([byte]))
            await trio.sleep(pause)

    async def say_urgently(self, byte: bytes) -> None:
        """Out of band."""
        await self.stream.socket.send(byte, socket.MSG_OOB)

    async def hear(self) -> bytes:
        """Some of what the server says; empty when it has finished, one way or the other."""
        with trio.fail_after(PATIENCE):
            try:
                data = bytes(await self.stream.receive_some())
            except trio.BrokenResourceError:
                self.was_reset = True
                return b""
        self.received += data
        return data

    async def hear_out(self) -> None:
        """Until the server has finished."""
        while await self.hear():
            pass

    async def be_greeted(self) -> bytes:
        """Stay silent until its ClientHello is here."""
        hello = await self.hear()
        assert next(records(hello))[1][:1] == b"\x01", "no ClientHello"
        return hello

    async def fin(self) -> None:
        """Half-close."""
        await self.stream.send_eof()

    async def hang_up(self) -> None:
        await self.stream.aclose()

    def reset(self) -> None:
        reset(self.stream)

    async def stop_reading(self) -> None:
        """And wait until the server has had enough of it."""
        with trio.fail_after(PATIENCE):
            await self.over.wait()

    # ------------------------------------------------------------------------------------------ TLS

    def begin(self, role: Role, context: ssl.SSLContext | None = None) -> ssl.SSLObject:
        """Make the TLS object of a peer in this role."""
        if context is None:
            context = peer_context(role, self.version)
        self.tls = context.wrap_bio(self.incoming, self.outgoing, role is Role.SERVER)
        return self.tls

    def hello(self, context: ssl.SSLContext | None = None) -> bytes:
        """Our ClientHello."""
        tls = self.begin(Role.CLIENT, context)
        with contextlib.suppress(ssl.SSLWantReadError), self._failing():
            tls.do_handshake()
        return self.outgoing.read()

    async def flight(self, context: ssl.SSLContext | None = None) -> bytes:
        """Be greeted; the ServerHello and all that goes with it."""
        tls = self.begin(Role.SERVER, context)
        self.incoming.write(await self.be_greeted())
        self._fed = len(self.received)
        try:
            with self._failing():
                tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            await self.say(self.outgoing.read())  # the alert
            raise
        return self.outgoing.read()

    async def handshake(self, role: Role, context: ssl.SSLContext | None = None) -> None:
        """Complete the handshake; with or without success, send what TLS has to say."""
        tls = self.tls or self.begin(role, context)
        while True:
            try:
                with self._failing():
                    tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.say(self.outgoing.read())
                heard = await self.hear()
                self._feed()
                assert heard, "the server left in the handshake"
            except ssl.SSLError:
                await self.say(self.outgoing.read())
                raise
            else:
                await self.say(self.outgoing.read())
                return

    async def open(self, role: Role, context: ssl.SSLContext | None = None) -> None:
        """Complete the handshake, and see that the handler is there."""
        await self.handshake(role, context)
        assert await self.ask(b"hello") == b"hello"

    def seal(self, data: bytes) -> bytes:
        assert self.tls is not None
        self.tls.write(data)
        return self.outgoing.read()

    async def ask(self, data: bytes) -> bytes:
        """Send data over TLS, and receive as much."""
        await self.say(self.seal(data))
        return await self.listen(len(data))

    async def listen(self, count: int) -> bytes:
        """Receive so many bytes over TLS."""
        assert self.tls is not None
        answer = b""
        while len(answer) < count:
            try:
                with self._failing():
                    answer += self.tls.read(count - len(answer))
            except ssl.SSLWantReadError:
                assert await self.hear(), "the server left"
                self._feed()
        return answer

    def close_notify(self) -> bytes:
        """TLS's due end."""
        assert self.tls is not None
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        return self.outgoing.read()

    def alert(self) -> str | None:
        """The alert that the server has sent, in the clear or not; a close_notify is none."""
        if self.warned is not None:
            return self.warned
        for kind, part in records(self.received):
            if kind == ALERT and len(part) == 2 and part[0] == 2:
                return alert_name(part[1])
        if self.tls is None:
            return None
        self._feed()
        with contextlib.suppress(ssl.SSLError), self._failing():
            if self.failure is None:
                self.tls.do_handshake()
                while self.tls.read():
                    pass
        return None if self.failure is None else tls_alert(self.failure)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Keep what TLS fails with.

        OpenSSL answers any later call with SSL_ERROR_SYSCALL. Of that, Python 3.12.3 and later
        make an ``OSError`` from whatever errno was left behind, although no system call was made.
        """
        try:
            yield
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            raise
        except ssl.SSLError as exc:
            self.failure = exc
            raise

    def _feed(self) -> None:
        self.incoming.write(self.received[self._fed :])
        self._fed = len(self.received)


def version_context(role: Role, version: ssl.TLSVersion) -> ssl.SSLContext:
    """The context of a peer that speaks this version alone, whatever the machine's policy."""
    context = peer_context(role)
    context.set_ciphers("ALL:@SECLEVEL=0")
    pin(context, version)
    return context
