"""The tools of a scripted peer: the raw connection, and TLS on it.

`Wire` records everything in the transcript, and lets a peer do what a well-behaved
program would not do. `PeerStream` is an independent TLS implementation on an
``ssl.SSLObject``. It shares no code with the library under test, can send its bytes
in small pieces, and sends its alerts.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import trio

from trio_duplex import Role
from trio_duplex.testing._network import MemoryStream
from trio_duplex.testing._records import RecordReader, cut_records
from trio_duplex.testing._transcript import End, Entry, PeerReport, Transcript, alert_of

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

RECEIVE_SIZE = 65536
FAREWELL = 1.0
"""How many seconds a peer waits after its close_notify to see how the other end finishes.
A server that receives a close_notify answers within a round trip."""


class Wire:
    """A raw stream with a transcript, which also allows what a proper program would not do.

    Args:
        stream: The raw stream.
        report: The report to update.
        patience: Seconds that a single send or receive may take.
        context: The TLS context for the role that the peer plays, if it plays one.

    Attributes:
        stream: The raw stream.
        report: The report that is updated.
        secure: The TLS stream on this wire, once its handshake is complete.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        report: PeerReport,
        patience: float,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.stream = stream
        self.report = report
        self.secure: PeerStream | None = None
        self._context = context
        self._patience = patience
        self._started = trio.current_time()
        self._reader = RecordReader()

    @property
    def seconds(self) -> float:
        """Seconds since the peer began."""
        return trio.current_time() - self._started

    @property
    def transcript(self) -> Transcript:
        """The transcript in the report."""
        return self.report.transcript

    def tls(self, role: Role, *, server_hostname: str | None = None) -> PeerStream:
        """Make a TLS stream on the wire. Nothing is sent yet.

        Args:
            role: The TLS role that the peer plays, the one that its ``plays``
                returns.
            server_hostname: Name to send as SNI, in the client role.

        Raises:
            ValueError: The peer plays no TLS role.
        """
        if self._context is None:
            raise ValueError("this peer plays no TLS role: its plays() returns None")
        return PeerStream(self, self._context, role, server_hostname=server_hostname)

    def note(self, text: str) -> None:
        """Add a note to the transcript."""
        self.transcript.entries.append(Entry(self.seconds, "note", text=text))

    async def send(self, data: bytes) -> None:
        """Send raw bytes.

        Raises:
            trio.BrokenResourceError: The other end is gone.
            trio.TooSlowError: It did not accept the bytes within the peer's patience.
        """
        self.transcript.entries.append(Entry(self.seconds, "sent", data))
        await self._with_patience("it did not take what we sent", self.stream.send_all, data)

    async def dribble(self, data: bytes, *, size: int = 1, pause: float = 0.0) -> None:
        """Send raw bytes, ``size`` at a time, with ``pause`` seconds between two sends."""
        for start in range(0, len(data), size):
            if start:
                await trio.sleep(pause)
            await self.send(data[start : start + size])

    async def receive(self) -> bytes:
        """Receive raw bytes; ``b""`` at the end of the stream.

        Raises:
            trio.BrokenResourceError: The other end reset the connection.
            trio.TooSlowError: Nothing came within the peer's patience.
        """
        try:
            data = await self._with_patience(
                "nothing came from it", self.stream.receive_some, RECEIVE_SIZE
            )
        except trio.BrokenResourceError:
            self._ended(End.RESET)
            raise
        if not data:
            self._ended(End.EOF)
            return b""
        data = bytes(data)
        self.transcript.entries.append(Entry(self.seconds, "received", data))
        for record in self._reader.feed(data):
            if record.alert is not None and record.fatal:
                self.report.alert = record.alert
        return data

    async def receive_to_end(self) -> None:
        """Receive until the other end finishes in any way."""
        with contextlib.suppress(trio.BrokenResourceError):
            while await self.receive():
                pass

    async def send_eof(self) -> None:
        """Half-close: send FIN.

        Raises:
            TypeError: The stream can't be half-closed.
        """
        if not isinstance(self.stream, trio.abc.HalfCloseableStream):
            raise TypeError(f"a {type(self.stream).__name__} can't be half-closed")
        self.note("we half-close (FIN)")
        await self.stream.send_eof()

    async def reset(self) -> None:
        """Close by force, with a reset (RST) if the stream supports that."""
        self.note("we reset the connection (RST)")
        match self.stream:
            case trio.SocketStream():
                linger = struct.pack("ii", 1, 0)  # on, for 0 s: close() then sends RST
                self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            case MemoryStream():
                self.stream.reset()
            case _:
                pass
        await trio.aclose_forcefully(self.stream)

    async def aclose(self) -> None:
        """Hang up: close the raw stream, without a close_notify."""
        self.note("we hang up")
        await trio.aclose_forcefully(self.stream)

    async def _with_patience(
        self, what: str, function: Callable[[*Ts], Awaitable[T]], *args: *Ts
    ) -> T:
        with trio.move_on_after(self._patience):
            return await function(*args)
        self.note(f"our patience ends after {self._patience:g} s: {what}")
        raise trio.TooSlowError

    def _ended(self, end: End) -> None:
        if self.report.end is None:
            self.report.end = end
        self.note("the other end " + ("reset the connection" if end is End.RESET else "sent FIN"))


class PeerStream(trio.abc.Stream):
    """A peer's TLS stream.

    Args:
        wire: The wire underneath.
        context: The TLS context for ``role``.
        role: The TLS role that the peer plays.
        server_hostname: Name to send as SNI, in the client role.
    """

    def __init__(
        self,
        wire: Wire,
        context: ssl.SSLContext,
        role: Role,
        *,
        server_hostname: str | None = None,
    ) -> None:
        self.wire = wire
        self._role = role
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl_object = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=role is Role.SERVER,
            server_hostname=server_hostname,
        )
        self._flushing = trio.Lock()
        self._failure: ssl.SSLError | None = None

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """The underlying object, for facts such as the cipher and the other end's certificate."""
        return self._ssl_object

    def client_hello(self, *, record_size: int | None = None) -> bytes:
        """Make the ClientHello without sending it. Call this once, in the client role, before all else.

        Args:
            record_size: Cut it into records with this many bytes of content each;
                None leaves it in one record.
        """
        with contextlib.suppress(ssl.SSLWantReadError):
            self._ssl_object.do_handshake()
        hello = self._outgoing.read()
        return hello if record_size is None else cut_records(hello, record_size)

    async def answer(self, received: bytes) -> bytes:
        """Make the flight that answers the other end's bytes, without sending it.

        So a peer can send only a part of its ServerHello, or all but its Finished.
        `handshake` goes on from there.

        Args:
            received: Bytes of the other end's handshake that the wire has received.

        Returns:
            The flight; empty if more bytes are needed.

        Raises:
            ssl.SSLError: The handshake failed; our alert has been sent.
            trio.BrokenResourceError: TLS has failed before.
        """
        await self._advance(received)
        return self._outgoing.read()

    async def _advance(self, received: bytes) -> bool:
        """Give OpenSSL bytes of the handshake; return whether it is complete."""
        self._check_not_failed()
        self._incoming.write(received)
        try:
            self._ssl_object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as exc:
            await self._fail(exc)
            raise
        return True

    async def handshake(
        self,
        *,
        send: Callable[[bytes], Awaitable[None]] | None = None,
        received: bytes = b"",
    ) -> None:
        """Complete the TLS handshake.

        Args:
            send: Sends our flights; None for `Wire.send`.
            received: Bytes of the other end's handshake that the wire has already
                received.

        Raises:
            ssl.SSLError: The handshake failed; our alert has been sent.
            EOFError: The other end finished in the middle of the handshake.
            trio.BrokenResourceError: The other end is gone, or TLS has failed before.
            trio.TooSlowError: A step took longer than the peer's patience.
        """
        send = send or self.wire.send
        done = await self._advance(received)
        while True:
            if self._outgoing.pending:
                await send(self._outgoing.read())
            if done:
                break
            data = await self.wire.receive()
            if not data:
                raise EOFError("the other end finished in the middle of the handshake")
            done = await self._advance(data)
        report = self.wire.report
        report.role = self._role
        report.tls_version = self._ssl_object.version()
        self.wire.secure = self
        self.wire.note(f"handshake complete: we are the TLS {self._role}, {report.tls_version}")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send; see ``trio.abc.SendStream``."""
        self._check_not_failed()
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                try:
                    sent += self._ssl_object.write(view[sent:])
                except ssl.SSLError as exc:
                    await self._fail(exc)
                    raise trio.BrokenResourceError(str(exc)) from exc
        await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until sending might not block; see ``trio.abc.SendStream``."""
        await self.wire.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive and decrypt; ``b""`` when the other end has finished, even without a close_notify.

        Raises:
            trio.BrokenResourceError: A TLS alert or a reset ended the stream.
            trio.TooSlowError: Nothing came within the peer's patience.
        """
        report = self.wire.report
        await trio.lowlevel.checkpoint()
        while True:
            self._check_not_failed()
            try:
                data = self._ssl_object.read(max_bytes or RECEIVE_SIZE)
            except ssl.SSLWantReadError:
                await self._flush_unless_sending()  # TLS 1.3 may have to answer a key update
                raw = await self.wire.receive()
                if not raw:
                    return b""
                self._incoming.write(raw)
                continue
            except ssl.SSLZeroReturnError:  # a close_notify, if we have sent ours before
                data = b""
            except ssl.SSLError as exc:
                await self._fail(exc)
                raise trio.BrokenResourceError(str(exc)) from exc
            if not data and report.end is None:
                report.end = End.CLOSE_NOTIFY
                self.wire.note("the other end sent close_notify")
            report.hear(data)
            return data

    async def send_close_notify(self) -> None:
        """Send a close_notify. The wire stays open."""
        with contextlib.suppress(ssl.SSLError):  # do not wait for the answer
            self._ssl_object.unwrap()
        await self._flush()

    async def farewell(self) -> None:
        """Send a close_notify, and wait for up to a second for the other end to finish."""
        with contextlib.suppress(trio.BrokenResourceError, trio.TooSlowError):
            await self.send_close_notify()
            with trio.move_on_after(FAREWELL):
                while await self.receive_some():
                    pass

    async def aclose(self) -> None:
        """Send a close_notify and hang up, without waiting for the other end."""
        try:
            await self.send_close_notify()
        except trio.BrokenResourceError:
            pass
        finally:
            with trio.CancelScope(shield=True):
                await self.wire.aclose()

    async def _fail(self, error: ssl.SSLError) -> None:
        """Record an error, and send the alert that OpenSSL has written."""
        self._failure = error
        if (alert := alert_of(error)) is not None:
            self.wire.report.alert = alert
        self.wire.note(f"TLS failed: {error.reason or error}")
        with contextlib.suppress(trio.BrokenResourceError, trio.TooSlowError):
            await self._flush_unless_sending()

    def _check_not_failed(self) -> None:
        """Raise again if TLS has failed before, because OpenSSL must not be called after a failure.

        It would return SSL_ERROR_SYSCALL, and from 3.12.3 on Python then raises an ``OSError`` with
        an errno that was left over from something else, such as a ``BlockingIOError``.
        """
        if self._failure is not None:
            raise trio.BrokenResourceError(str(self._failure)) from self._failure

    async def _flush(self) -> None:
        """Send what OpenSSL has written, in order, after a task that is already sending."""
        if self._outgoing.pending:
            async with self._flushing:
                while data := self._outgoing.read():
                    await self.wire.send(data)

    async def _flush_unless_sending(self) -> None:
        """Send what OpenSSL has written, unless another task is sending, which then sends it.

        The receiving task must not wait for the sending task, because that may be waiting until
        the other end reads, and the other end until we read.
        """
        if not self._flushing.locked():
            await self._flush()
