"""One TLS handshake: an `Engine` driven over a transport, until the peer is admitted.

Theory of operation
-------------------

The engine makes no I/O, so what the peer sends is seen here before OpenSSL sees it. With that we

* feed it what the peer had sent before TLS existed;
* look at what the peer's first flight would cost to answer (`_wire/cost.py`), and count the
  bytes of its certificates;
* send what is owed when the handshake fails: the alert. ``trio.SSLStream`` raises first, and
  the peer would see a bare EOF, or hang;
* keep our last flight back until the peer is admitted: one that we turn away
  then does not complete its handshake either, where the last flight is ours.

A TLS 1.3 server's session tickets are owed at that moment, too. They must not be sent before the
first application data; `Engine.hold` says why.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable, Collection
from typing import NoReturn, TypeVar, TypeVarTuple

import trio

from trio_duplex._errors import HandshakeError
from trio_duplex._role import Role
from trio_duplex._sockets.direct import receive, send
from trio_duplex._tls.engine import RECORD_SIZE, Engine
from trio_duplex._tls.groups import usable_groups
from trio_duplex._tls.last_words import send_alert, send_last_words
from trio_duplex._tls.reasons import tls_advice, tls_reason
from trio_duplex._tls.workers import for_flights, for_signatures
from trio_duplex._wire.alerts import (
    ALERT_ACCESS_DENIED,
    ALERT_CERTIFICATE_UNKNOWN,
    ALERT_DECODE_ERROR,
    ALERT_ILLEGAL_PARAMETER,
    ALERT_NO_APPLICATION_PROTOCOL,
    ALERT_UNEXPECTED_MESSAGE,
)
from trio_duplex._wire.cost import (
    is_retry,
    object_to_client_hello,
    object_to_server_hello,
    selects_tls_1_3,
)
from trio_duplex._wire.hello import MAX_HELLO, HelloKind, HelloReader, whole_hello
from trio_duplex._wire.records import CLIENT_HELLO_TYPE, HEADER_SIZE, SERVER_HELLO_TYPE
from trio_duplex._wire.server_name import object_to_name

MAX_CERTIFICATE_BYTES = 32 * 1024
"""The most bytes of the peer's handshake after its hello, by default. A chain of three with RSA
keys of 4,096 bits takes 7 KB, one of two with ML-DSA-87, the largest lattice signatures, 20 KB.
OpenSSL itself takes 100 KB, in which 240 certificates cost 30 ms."""

_INLINE_FLIGHT = 8 * 1024
"""Up to this many bytes, OpenSSL reads the peer's flight in Trio's thread, and above it in a worker
thread: each certificate costs 0.13 ms before any of them is verified, and 32 KiB hold 140 of the
smallest. So no chain delays others for longer than 5 ms. The chains of today have 2 to 5 KB."""

HELLO_PIECE = 4096
"""Bytes to ask for while the peer's hello is not whole, so that little else comes with it."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Handshake:
    """A handshake in one role over one transport.

    Args:
        transport: The raw stream. It is not closed here, whatever happens.
        context: The TLS context for ``role``.
        role: The TLS role that we play.
        peer: The remote address as text, for messages.
        server_hostname: Name to send as SNI, in the client role.
        session: TLS session to resume, in the client role.
        max_certificate_bytes: How many bytes of a handshake the peer may send
            after its hello; nearly all of them are its certificates.
        required_alpn: The ALPN protocols of which one must be selected; empty
            if none need be.
        slow_key: Whether the steps in which we may sign run in a thread
            (`_tls/workers.py`).

    Attributes:
        engine: The TLS connection; after `finish`, a `Flow` carries its data.
    """

    def __init__(
        self,
        transport: trio.abc.Stream,
        context: ssl.SSLContext,
        role: Role,
        *,
        peer: str | None = None,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
        max_certificate_bytes: int = MAX_CERTIFICATE_BYTES,
        required_alpn: Collection[str] = (),
        slow_key: bool = False,
    ) -> None:
        self.engine = Engine(context, role, server_hostname=server_hostname, session=session)
        self._transport = transport
        self._role = role
        self._peer = peer
        self._complete = False  # our end of it
        self._max_flight = max_certificate_bytes
        self._flight = 0  # bytes that the peer has sent behind its hello
        self._our_hello = b""  # in the server role, and what we have sent with it
        self._early = b""  # what came after a hello, and OpenSSL has not been given yet
        self._usable_groups = usable_groups(context.security_level)
        self._chooses_by_name = context.sni_callback is not None
        self._required_alpn = required_alpn
        # The server signs in its answer to the ClientHello, the client in its last flight.
        self._may_sign = slow_key

    def client_hello(self) -> bytes:
        """Make our ClientHello, record headers included; call it first, in the client role.

        It is sent by `send`. In between is the time to remember its ``random``:
        a byte that has left may come back before we run again.
        """
        self.engine.handshake()
        return self.engine.take()

    async def send(self, data: bytes) -> None:
        """Send as it is.

        Raises:
            HandshakeError: The stream broke.
        """
        await self._on_the_wire(send, self._transport, data)

    async def receive(self, max_bytes: int = RECORD_SIZE) -> bytes:
        """Receive some of the peer's handshake, without giving it to OpenSSL.

        Raises:
            HandshakeError: The peer hung up, or the stream broke.
        """
        data = await self._on_the_wire(receive, self._transport, max_bytes)
        if not data:
            raise HandshakeError(
                "the peer hung up during the TLS handshake",
                role=self._role,
                peer=self._peer,
                seen="end of stream",
                advice="its own log should say why"
                if self._role is Role.SERVER
                else "it may be no TLS server, or have refused us without an alert",
                hung_up=True,
            )
        return data

    async def complete(self, received: bytes) -> None:
        """Drive the handshake to our end of it.

        A last flight of ours stays unsent: without it the peer's end is not
        reached, and its handler does not run, until `finish`. So it is in TLS
        1.3 for the client, in a full handshake of TLS 1.2 for the server.

        Args:
            received: What the peer has sent so far and OpenSSL has not seen.

        Raises:
            HandshakeError: The handshake failed, or would have cost too much; our
                alert has been sent, and the peer was given up to
                `LAST_WORDS_TIMEOUT` seconds to read it.
        """
        try:
            if not await self._exchange_hellos(received):
                await self._exchange_flights()
            await self._check_alpn()  # TLS 1.3 tells a client with the certificate
            self._our_hello = b""
            self._complete = True
        except ssl.SSLError as exc:
            raise await self._failure(exc) from exc

    async def _exchange_hellos(self, received: bytes) -> bool:
        """Look at the peer's hello, and only then give it to OpenSSL; a second one likewise.

        Returns:
            Whether the handshake is done.
        """
        serving = self._role is Role.SERVER
        expected = CLIENT_HELLO_TYPE if serving else SERVER_HELLO_TYPE
        retry = False
        while True:
            if (whole := whole_hello(received, expected)) is not None:
                message, behind = whole
            else:
                message, received, behind = await self._read_hello(received, expected, second=retry)
            if serving:
                objection = object_to_client_hello(message, self._usable_groups)
                if self._chooses_by_name:
                    objection = objection or object_to_name(message)
            else:
                objection = object_to_server_hello(message)
            if objection is not None:
                await send_alert(self._transport, objection.alert)
                raise HandshakeError(
                    objection.summary,
                    role=self._role,
                    peer=self._peer,
                    seen=objection.seen,
                    advice=objection.advice,
                )
            # Another hello may follow a HelloRetryRequest, and OpenSSL would go on to it by
            # itself: what came behind this one is held back until that one was looked at.
            early = b""
            if behind > 0 and (serving or is_retry(message)):
                received, early = received[:-behind], received[-behind:]
            # Behind a ServerHello, a chain may have come already.
            if await self._take(received, 0 if serving else len(received) - len(message)):
                self.engine.feed(early)
                return True
            sent = self.engine.take()
            retry = is_retry(sent, HEADER_SIZE) if serving else is_retry(message)
            if sent:
                if not retry:  # before which nothing is selected
                    self._may_sign = False
                    await self._check_alpn()
                self._our_hello = sent
                await self.send(sent)
            if not retry:
                self._early = early
                return False
            received = early or await self.receive(HELLO_PIECE)

    async def _read_hello(
        self, received: bytes, expected: int, *, second: bool
    ) -> tuple[bytes, bytes, int]:
        """Read on until the peer's hello is whole.

        Returns:
            The message, all that was received, and how many bytes of it came behind the
            hello's last record.
        """
        reader, everything = HelloReader(expected, second=second), bytearray()
        while reader.feed(received) is HelloKind.INCOMPLETE:
            everything += received
            received = await self.receive(HELLO_PIECE)
        everything += received
        if reader.kind is HelloKind.COMPLETE:
            return reader.message, bytes(everything), reader.behind
        if reader.kind is HelloKind.OTHER:
            self.engine.feed(everything)
            self.engine.handshake()  # raises: OpenSSL says what is wrong
        alert = ALERT_UNEXPECTED_MESSAGE
        seen, advice = "something else before the end of its hello", None
        if reader.kind is HelloKind.TOO_LONG:
            alert = ALERT_ILLEGAL_PARAMETER
            seen = f"a hello of {reader.size} bytes, {len(everything)} with its record headers"
            advice = f"a hello may have {MAX_HELLO} bytes, in records that are not tiny"
        await send_alert(self._transport, alert)
        raise HandshakeError(
            "the peer's hello can't be read",
            role=self._role,
            peer=self._peer,
            seen=seen,
            advice=advice or "it is faulty, or no honest TLS peer",
        )

    async def _exchange_flights(self) -> None:
        """Do the rest of the handshake, which is mostly certificates, once each end has the other's hello."""
        data, self._early = self._early, b""
        while True:
            data = data or await self.receive()
            if await self._take(data, len(data)):
                return
            data = b""
            if self.engine.owed:
                self._may_sign = False
                await self._check_alpn()
                await self.send(self.engine.take())

    async def _check_alpn(self) -> None:
        """Refuse a peer with which no protocol of ours was selected, before our next flight.

        The alert is sent in the clear, because the peer does not have our next keys yet.

        Raises:
            HandshakeError: No protocol was selected; the alert no_application_protocol has been sent.
        """
        if not self._required_alpn:
            return
        selected = self.engine.ssl_object.selected_alpn_protocol()
        if selected in self._required_alpn:
            return
        await send_alert(self._transport, ALERT_NO_APPLICATION_PROTOCOL)
        raise HandshakeError(
            "no ALPN protocol of ours was selected",
            role=self._role,
            peer=self._peer,
            seen=self._seen_alpn(selected),
            advice=f"have the peer use one of {', '.join(map(repr, self._required_alpn))} (RFC 7301); "
            "if it can't, and may still come in, set alpn_required=False",
        )

    def _seen_alpn(self, selected: str | None) -> str:
        if selected is not None:
            return f"an answer that selects {selected!r}"
        if self._role is Role.SERVER:
            return "a ClientHello that offers no protocol of ours, or none at all"
        return "an answer that selects no protocol"

    async def _take(self, data: bytes, counted: int) -> bool:
        """Give OpenSSL what the peer has sent; tell whether the handshake is done.

        Args:
            data: What it has sent.
            counted: How many of these bytes count as certificates.

        Raises:
            HandshakeError: It has sent more than ``max_certificate_bytes``.
        """
        self._flight += counted
        excess, rest = self._flight - self._max_flight, b""
        if excess > 0:  # what comes after the end of the handshake is not counted
            data, rest = data[:-excess], data[-excess:]
        self.engine.feed(data)
        if self._flight > _INLINE_FLIGHT:
            done = await trio.to_thread.run_sync(self.engine.handshake, limiter=for_flights())
            await trio.lowlevel.checkpoint_if_cancelled()
        elif self._may_sign:
            done = await trio.to_thread.run_sync(self.engine.handshake, limiter=for_signatures())
            await trio.lowlevel.checkpoint_if_cancelled()  # no flight of ours leaves after that
        else:
            done = self.engine.handshake()
        if not done and excess > 0:
            raise await self._refuse_flight()
        if rest:
            self.engine.feed(rest)
        return done

    async def _refuse_flight(self) -> HandshakeError:
        """Send an alert to a peer whose certificates are too long, and raise."""
        if self._role is Role.SERVER and selects_tls_1_3(self._our_hello[HEADER_SIZE:]):
            # The peer expects our alerts encrypted by now, and OpenSSL writes none unasked: it
            # takes a record that can't be one.
            self.engine.feed(bytes(RECORD_SIZE + HEADER_SIZE))
            with contextlib.suppress(ssl.SSLError):
                self.engine.handshake()
            await send_last_words(self._transport, self.engine.take())
        else:
            await send_alert(self._transport, ALERT_CERTIFICATE_UNKNOWN)
        return HandshakeError(
            "the peer's certificate chain is too long",
            role=self._role,
            peer=self._peer,
            seen=f"more than {self._max_flight} bytes of a handshake, and no end of it",
            advice="have the peer send its certificate and intermediates only; if it must be so "
            "long, raise max_certificate_bytes",
        )

    async def refuse_opening(self, received: bytes) -> NoReturn:
        """Refuse a ClientHello that we can't read, whatever OpenSSL thinks of it.

        Raises:
            HandshakeError: Always; OpenSSL's alert has been sent, or decode_error.
        """
        self.engine.feed(received)
        try:
            self.engine.handshake()
        except ssl.SSLError as exc:
            raise await self._failure(exc) from exc
        await send_alert(self._transport, ALERT_DECODE_ERROR)
        raise HandshakeError(
            "the peer's ClientHello can't be read",
            role=self._role,
            peer=self._peer,
            seen=f"no random in its first {len(received)} bytes",
            advice="no honest TLS client cuts its messages like this",
        )

    async def _failure(self, exc: ssl.SSLError) -> HandshakeError:
        """Send the alert, and return the error that says what it was about."""
        await send_last_words(self._transport, self.engine.take())
        return HandshakeError(
            "the TLS handshake failed",
            role=self._role,
            peer=self._peer,
            tls_reason=tls_reason(exc),
            advice=tls_advice(exc),
        )

    async def finish(self) -> None:
        """Send our last flight: the peer is admitted.

        Raises:
            HandshakeError: The stream broke.
        """
        if self._owes_only_tickets():
            self.engine.hold()
        elif words := self.engine.take():
            await self.send(words)

    async def refuse(self) -> None:
        """Turn the peer away after `complete`, and see that off, as `send_last_words` does.

        If it still waits for our last flight, it is sent the alert
        access_denied in its place. That is in the clear, as it must be: OpenSSL
        has changed to keys that the peer does not expect yet (RFC 8446
        section 5: it accepts both then). Otherwise a close_notify is all that
        Python's ``ssl`` can say.
        """
        if self.engine.owed and not self._owes_only_tickets():
            await send_alert(self._transport, ALERT_ACCESS_DENIED)
            return
        self.engine.close_notify()
        await send_last_words(self._transport, self.engine.take())

    def _owes_only_tickets(self) -> bool:
        return self._role is Role.SERVER and self.engine.ssl_object.version() == "TLSv1.3"

    async def _on_the_wire(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        try:
            return await function(*args)
        except trio.BrokenResourceError as exc:
            raise HandshakeError(
                "the connection broke during the TLS handshake",
                role=self._role,
                peer=self._peer,
                seen=str(exc) or None,
                advice="its own log should say why",
                hung_up=not (self._complete and self.engine.peer_certificate()),
            ) from exc
