"""One TLS handshake, driven on the BIO pair of a bare ``trio.SSLStream``.

Theory of operation
-------------------

``trio.SSLStream`` is final and takes no initial bytes. But its constructor
calls ``ssl_context.wrap_bio(incoming, outgoing, ...)``, so an object that
stands in the context's place is handed both memory BIOs and the ``SSLObject``.
With these we

* write into ``incoming`` what the peer had sent before TLS existed;
* run ``SSLObject.do_handshake()`` ourselves, and so see the peer's first
  flight before OpenSSL does: what it would cost to answer is looked at then
  (`_wire/cost.py`);
* send what stands in ``outgoing`` when the handshake fails: the alert. Trio's
  stream raises first, and the peer would see a bare EOF, or hang;
* keep our last flight back until the peer is admitted: one that we turn away
  then does not complete its handshake either, where the last flight is ours.

In the end the stream is told that its handshake is done (`_tls/bare.py`), and from
then on is as if it had made it all itself.

A TLS 1.3 server's session tickets wait in ``outgoing`` at that moment. They
must not be sent before the first application data (a peer that does not read
yet could deadlock: python-trio/trio#819), and nothing may overtake them,
because records are numbered: see `_hold_tickets`.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import NoReturn, TypeVar, TypeVarTuple, cast

import trio

from trio_duplex._errors import HandshakeError
from trio_duplex._role import Role
from trio_duplex._sockets.direct import receive, send
from trio_duplex._tls.bare import release
from trio_duplex._tls.chain import verified_chain
from trio_duplex._tls.groups import usable_groups
from trio_duplex._tls.last_words import (
    LAST_WORDS_TIMEOUT,
    send_alert,
    send_last_words,
)
from trio_duplex._tls.reasons import tls_advice, tls_reason
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

RECORD_SIZE = 16 * 1024
"""Bytes of data in a TLS record, at most (RFC 8446 section 5.1)."""

MAX_CERTIFICATE_BYTES = 32 * 1024
"""Bytes of the peer's handshake behind its hello, at most, if nobody says. A chain of three with RSA
keys of 4,096 bits takes 7 KB, one of two with ML-DSA-87, the largest lattice signatures, 20 KB.
OpenSSL itself takes 100 KB, in which 240 certificates cost 30 ms."""

_INLINE_FLIGHT = 8 * 1024
"""Up to here OpenSSL takes the peer's flight in Trio's thread, beyond it in one of its own: each
certificate costs 0.13 ms before any of them is verified, and 32 KiB hold 140 of the smallest. So
no chain holds up others for longer than 5 ms. The chains of today have 2 to 5 KB."""

HELLO_PIECE = 4096
"""Bytes to ask for while the peer's hello is not whole, so that little comes with it unlooked at."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _ContextTap:
    """Stands in an ``SSLContext``'s place and keeps what ``wrap_bio`` is given."""

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    ssl_object: ssl.SSLObject

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession | None) -> None:
        self._context = context
        self._session = session

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        *,
        server_side: bool,
        server_hostname: str | bytes | None,
    ) -> ssl.SSLObject:
        self.incoming = incoming
        self.outgoing = outgoing
        self.ssl_object = self._context.wrap_bio(
            incoming,
            outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
            session=self._session,
        )
        return self.ssl_object


class Handshake:
    """A handshake in one role over one transport, and afterwards its outgoing BIO.

    Args:
        transport: The raw stream. It is not closed here, whatever happens.
        context: The TLS context for ``role``.
        role: The TLS role that we play.
        peer: The remote address as text, for messages.
        server_hostname: Name to send as SNI, in the client role.
        session: TLS session to resume, in the client role.
        https_compatible: As for ``trio.SSLStream``.
        max_certificate_bytes: How many bytes of a handshake the peer may send
            after its hello; nearly all of them are its certificates.
        required_alpn: The ALPN protocols of which one must be selected; empty
            if none need be.

    Attributes:
        tls: The bare ``trio.SSLStream`` over ``transport``.
        outgoing: What OpenSSL has written and nobody has sent yet.
        https_compatible: As given.
        failure: The fatal error that `read_on` has met.
        aside: Data that was received and decrypted before `send_close_notify`.
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
        https_compatible: bool = False,
        max_certificate_bytes: int = MAX_CERTIFICATE_BYTES,
        required_alpn: Collection[str] = (),
    ) -> None:
        tap = _ContextTap(context, session)
        self.tls: trio.SSLStream[trio.abc.Stream] = trio.SSLStream(
            transport,
            cast("ssl.SSLContext", tap),  # of which SSLStream calls wrap_bio alone
            server_side=role is Role.SERVER,
            server_hostname=server_hostname,
            https_compatible=https_compatible,
        )
        self.outgoing = tap.outgoing
        self.https_compatible = https_compatible
        self.failure: ssl.SSLError | None = None
        self._incoming = tap.incoming
        self._ssl_object = tap.ssl_object
        self._transport = transport
        self._role = role
        self._peer = peer
        self.aside = b""
        self._certificate: bytes | None = b""  # until it is asked for
        self._max_flight = max_certificate_bytes
        self._flight = 0  # bytes that the peer has sent behind its hello
        self._our_hello = b""  # in the server role, and what we have sent with it
        self._usable_groups = usable_groups(context.security_level)
        self._chooses_by_name = context.sni_callback is not None
        self._required_alpn = required_alpn

    def read_on(self, data: bytes | bytearray, most: int) -> bytes | bytearray:
        """Add to received data what has come with it, up to ``most`` bytes in all.

        ``SSLStream`` gives one record at a time, 16 KiB at most, and each takes
        a pass of the scheduler. A later record that is faulty does not cost the
        data before it: it is `failure`, for the next receive.
        """
        parts, left = [data], most - len(data)
        try:
            while left > 0 and self._incoming.pending:
                # Room for one record: for more, it would be taken and given back.
                more = self._ssl_object.read(min(left, RECORD_SIZE))
                if not more:
                    break
                parts.append(more)
                left -= len(more)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            self.failure = exc.with_traceback(None)  # whose frames would hold us
        return b"".join(parts) if len(parts) > 1 else data

    def has_unread(self) -> bool:
        """Whether TLS holds anything of the peer's that nobody has received."""
        return bool(self.aside or self._incoming.pending or self._ssl_object.pending())

    def take_aside(self, most: int) -> bytes:
        """Take what `send_close_notify` has put aside, up to so many bytes."""
        taken, self.aside = self.aside[:most], self.aside[most:]
        return taken

    async def send_close_notify(self) -> None:
        """Send the close_notify; what the peer sends can still be received.

        ``SSLObject.unwrap`` writes it, and looks for the peer's at once. Data that it
        finds in its place is a fatal error, so no data may be there: what has come is put
        aside before. Nothing awaits in between.

        Raises:
            trio.BrokenResourceError: The transport takes no more.
        """
        if pending := self._ssl_object.pending():  # the rest of a record, decrypted already
            self.aside = self._ssl_object.read(pending)
        unread = self._incoming.read()
        try:
            self._ssl_object.unwrap()
        except ssl.SSLWantReadError:
            pass
        finally:
            if unread:
                self._incoming.write(unread)
        data = self.outgoing.read()
        while True:
            try:
                await self._transport.send_all(data)
            except trio.BusyResourceError:  # a receive answers a key update: it went first
                await trio.lowlevel.checkpoint()
            else:
                return

    def is_broken(self) -> bool:
        """Whether TLS has failed for good, whoever's call it was that found out."""
        try:
            self._ssl_object.getpeercert(binary_form=True)
        except ValueError:  # after a fatal error, OpenSSL takes the handshake for not done
            return True
        return False

    def client_hello(self) -> bytes:
        """Make our ClientHello, record headers included; call it first, in the client role.

        It is sent by `send`. In between is the time to remember its ``random``:
        a byte that has left may come back before we run again.
        """
        self._advance()
        return self.outgoing.read()

    async def send(self, data: bytes) -> None:
        """Send as it is.

        Raises:
            HandshakeError: The stream broke.
        """
        await self._on_the_wire(send, self._transport, data)

    def peer_certificate(self) -> bytes | None:
        """The peer's leaf certificate, DER, once the handshake is done; None if it gave none."""
        if self._certificate == b"":  # kept, because after a fatal error OpenSSL has forgotten it
            self._certificate = self._ssl_object.getpeercert(binary_form=True)
        return self._certificate

    @property
    def session_reused(self) -> bool:
        """Whether a session was resumed, so that the peer's certificate was not verified again."""
        return bool(self._ssl_object.session_reused)

    def peer_chain(self) -> Sequence[bytes]:
        """The chain as TLS verified it, leaf first, DER; empty if the session was resumed."""
        return verified_chain(self._ssl_object)

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
            self._early = b""  # what came behind a hello, and OpenSSL has not seen yet
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
            message = whole_hello(received, expected)
            if message is not None:
                behind = len(received) - HEADER_SIZE - int.from_bytes(received[3:5], "big")
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
                self._incoming.write(early)
                return True
            sent = self.outgoing.read()
            retry = is_retry(sent, HEADER_SIZE) if serving else is_retry(message)
            if sent:
                if not retry:  # before which nothing is selected
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
            self._incoming.write(everything)
            self._advance()  # raises: OpenSSL knows best what is wrong
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
        """The rest, once each end has the other's hello: certificates, above all."""
        data, self._early = self._early, b""
        while True:
            data = data or await self.receive()
            if await self._take(data, len(data)):
                return
            data = b""
            if self.outgoing.pending:
                await self._check_alpn()
                await self.send(self.outgoing.read())

    async def _check_alpn(self) -> None:
        """Refuse a peer with which no protocol of ours was selected, in place of a flight of ours.

        It is told in the clear, as it must be: it has not seen our next keys yet.

        Raises:
            HandshakeError: None was; the alert no_application_protocol has been sent.
        """
        selected = self._ssl_object.selected_alpn_protocol()
        if not self._required_alpn or selected in self._required_alpn:
            return
        self.outgoing.read()
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
        if excess > 0:  # what is behind the end of the handshake is not counted
            data, rest = data[:-excess], data[-excess:]
        self._incoming.write(data)
        if self._flight <= _INLINE_FLIGHT:
            done = self._advance()
        else:
            done = await trio.to_thread.run_sync(self._advance, limiter=_one_at_a_time())
        if not done and excess > 0:
            raise await self._refuse_flight()
        if rest:
            self._incoming.write(rest)
        return done

    async def _refuse_flight(self) -> HandshakeError:
        """Send an alert to a peer whose certificates are too long, and say so."""
        if self._role is Role.SERVER and selects_tls_1_3(self._our_hello[HEADER_SIZE:]):
            # The peer expects our alerts encrypted by now, and OpenSSL writes none unasked: it
            # takes a record that can't be one.
            self._incoming.write(bytes(RECORD_SIZE + HEADER_SIZE))
            with contextlib.suppress(ssl.SSLError):
                self._advance()
            await send_last_words(self._transport, self.outgoing)
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
        self._incoming.write(received)
        try:
            self._advance()
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
        """Send the alert, and say what it was about."""
        await send_last_words(self._transport, self.outgoing)
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
        if self._only_tickets_pending():
            _hold_tickets(self._ssl_object, self.outgoing)
        elif self.outgoing.pending:
            await self.send(self.outgoing.read())
        if not release(self.tls):  # it finds the handshake done, and nothing to send
            await self._on_the_wire(self.tls.do_handshake)

    async def refuse(self) -> None:
        """Turn the peer away after `complete`, and see that off, as `send_last_words` does.

        If it still waits for our last flight, it is sent the alert
        access_denied in its place. That is in the clear, as it must be: OpenSSL
        has changed to keys that the peer does not expect yet (RFC 8446
        section 5: it accepts both then). Otherwise a close_notify is all that
        Python's ``ssl`` can say.
        """
        if self.outgoing.pending and not self._only_tickets_pending():
            self.outgoing.read()
            await send_alert(self._transport, ALERT_ACCESS_DENIED)
            return
        await self.take_leave()

    async def take_leave(self, *, shield: bool = True) -> None:
        """Send a close_notify and see it off, as `send_last_words` does."""
        with contextlib.suppress(ssl.SSLError):  # OpenSSL waits for the peer's, we do not
            self._ssl_object.unwrap()
        await send_last_words(self._transport, self.outgoing, shield=shield)

    async def unread_alert(self) -> ssl.SSLError | None:
        """What the peer said before a send of ours broke; Trio's stream reads no more then."""
        with (
            trio.move_on_after(LAST_WORDS_TIMEOUT),
            contextlib.suppress(
                trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError
            ),
        ):
            while data := await self._transport.receive_some():
                self._incoming.write(data)
                try:
                    self._ssl_object.read(1)
                except ssl.SSLWantReadError:
                    continue
                except ssl.SSLError as exc:
                    return exc
                break  # application data
        return None

    def _only_tickets_pending(self) -> bool:
        return self._role is Role.SERVER and self._ssl_object.version() == "TLSv1.3"

    def _advance(self) -> bool:
        """Let OpenSSL go as far as it can; tell whether the handshake is done."""
        try:
            self._ssl_object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

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
                hung_up=not self._certificate,  # else it has said who it is
            ) from exc


_THREAD: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("trio_duplex flights")


def _one_at_a_time() -> trio.CapacityLimiter:
    """Lets one long flight be processed at once: strangers get one CPU for theirs, together."""
    try:
        return _THREAD.get()
    except LookupError:
        _THREAD.set(limiter := trio.CapacityLimiter(1))
        return limiter


def _hold_tickets(ssl_object: ssl.SSLObject, outgoing: ssl.MemoryBIO) -> None:
    """Keep session tickets back until something else is about to be sent.

    Whatever OpenSSL writes next (application data, close_notify, an alert, a
    key update), the tickets go in front of it: they were numbered first.
    """
    held = outgoing.read()
    if not held:
        return
    names = ("read", "write", "unwrap")

    def releasing(method: Callable[..., T]) -> Callable[..., T]:
        def call(*args: object) -> T:
            nonlocal held
            try:
                return method(*args)
            finally:
                # A task that waits to receive keeps calling this, while another's
                # send has long released them.
                if held and outgoing.pending:
                    for name in names:
                        delattr(ssl_object, name)  # the class's own again, at full speed
                    later = outgoing.read()
                    outgoing.write(held + later)
                    held = b""

        return call

    for name in names:
        setattr(ssl_object, name, releasing(getattr(ssl_object, name)))
