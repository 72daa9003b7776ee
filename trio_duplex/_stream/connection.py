"""A negotiated stream: TLS in the role that we were given, ready for use."""

from __future__ import annotations

import contextlib
import math
import ssl
from operator import index
from typing import NoReturn, TypeAlias

import attrs
import trio

from trio_duplex._errors import PeerRejectedError
from trio_duplex._role import Decision, Role
from trio_duplex._sockets.address import Address, format_address
from trio_duplex._sockets.progress import is_tcp, peer_progress
from trio_duplex._sockets.queues import reset_at_close
from trio_duplex._stream.idle import IdleWatch
from trio_duplex._tls.ending import Known, LeavingTransport
from trio_duplex._tls.handshake import RECORD_SIZE, Handshake
from trio_duplex._tls.last_words import send_last_words
from trio_duplex._tls.reasons import as_ragged_end, tls_alert, tls_reason
from trio_duplex._trust.identity import PeerIdentity

CLOSE_TIMEOUT = 5.0
"""Seconds for a graceful close to send what is left and the close_notify. It
fits one TCP retransmission (3 s); a peer that does not read is not owed more."""


CERTIFICATE_ALERTS = {
    "access_denied",
    "bad_certificate",
    "certificate_expired",
    "certificate_required",
    "certificate_revoked",
    "certificate_unknown",
    "decrypt_error",
    "handshake_failure",
    "unknown_ca",
    "unsupported_certificate",
}
"""Alerts by which a TLS 1.3 server says that it does not take our certificate."""


@attrs.define(slots=False, eq=False, kw_only=True)
class CertificateRejectedError(PeerRejectedError, trio.BrokenResourceError):
    """The peer, as TLS 1.3 server, refused our certificate after our handshake was done.

    In TLS 1.3 the client's handshake returns before the server has judged the
    client's certificate (RFC 8446 section 4.4.2.4 and figure 1): the verdict
    comes with the first read, or with a send that fails before it. It is a
    ``trio.BrokenResourceError`` too, so a handler written for any Trio stream
    knows it.

    Attributes:
        alert: The peer's alert, such as ``"certificate_required"``.
    """

    alert: str


RECEIVE_SIZE = 64 * 1024
"""Bytes to return at most, if nobody says: as many as Trio takes from a socket at once."""

SEND_PIECE = 64 * 1024
"""Bytes handed to TLS at once. They are encrypted in one go, while nobody else runs, and
OpenSSL's buffer grows to hold them: 200 MB at once took a second and a half, and 400 MB.
In pieces of this size it is also three times as fast; smaller ones gain nothing more."""


Buffer: TypeAlias = bytes | bytearray | memoryview


class Connection(trio.abc.HalfCloseableStream):
    """An authenticated TLS stream, and the role that we play on it.

    It is a ``trio.abc.HalfCloseableStream``: every handler written for a
    ``trio.abc.Stream`` takes it unchanged. Made by `negotiate`, `serve_tcp`, `serve_listeners`,
    `DuplexListener` and `open_tcp_connection`, never directly.

    Attributes:
        tls: The bare ``trio.SSLStream``, over the bare transport
            (``tls.transport_stream``). Its own methods may be used in place of
            the connection's, which add that the alert of a fatal record error
            reaches the peer, and that closing is bounded.
        decision: The role taken, why, and how long it took.
        local_address: Our end: ``(host, port)``, IPv6's four fields, a Unix
            socket's path, or None.
        remote_address: The peer's end, likewise.
        cancel_scope: Covers this connection's handler alone. Cancel it, or set
            its ``deadline`` (absolute, on Trio's clock), from any task. Where
            no server runs the handler, enter it yourself.
        close_timeout: Seconds for `aclose`; 5 by default.
        idle_timeout: Seconds in which the peer neither sends a byte nor
            acknowledges one of ours, after which a receive raises; ``math.inf``
            by default. Over TCP on Linux the kernel's counts tell, so that a
            transfer which moves is never ended, and one into the void is.
            Elsewhere whole TLS records count that were received, and pieces of
            64 KiB that the transport took.
        send_timeout: Seconds for one `send_all`, or one
            `wait_send_all_might_not_block`, after which it raises; ``math.inf``
            by default.
        bytes_received: Application data received through `receive_some`.
        bytes_sent: Application data sent through `send_all`, in bytes.
    """

    __slots__ = (
        "__weakref__",
        "_active",
        "_broken",
        "_cut",
        "_ended",
        "_finished",
        "_gave_up",
        "_handshake",
        "_peer",
        "bytes_received",
        "bytes_sent",
        "cancel_scope",
        "close_timeout",
        "decision",
        "idle_timeout",
        "local_address",
        "remote_address",
        "send_timeout",
        "tls",
    )

    def __init__(
        self,
        handshake: Handshake,
        *,
        decision: Decision,
        local_address: Address | None,
        remote_address: Address | None,
    ) -> None:
        self.tls = handshake.tls
        self._handshake = handshake
        self._peer: PeerIdentity | None = None
        self.decision = decision
        self.local_address = local_address
        self.remote_address = remote_address
        self.cancel_scope = trio.CancelScope()
        self.close_timeout = CLOSE_TIMEOUT
        self.idle_timeout = math.inf
        self.send_timeout = math.inf
        self.bytes_received = 0
        self.bytes_sent = 0
        self._active = 0.0
        self._broken: str | None = None  # why, if it is
        self._gave_up = False
        self._cut = False  # a send was cancelled half-way, and the peer must notice
        self._ended = False  # we have sent ours
        self._finished = False  # the peer has sent its close_notify

    @property
    def _transport(self) -> trio.abc.Stream | None:
        """None if it was unwrapped: what `trio.SSLStream` does, and its type does not say."""
        return self.tls.transport_stream

    @property
    def role(self) -> Role:
        """The TLS role that we play."""
        return self.decision.role

    @property
    def is_anonymous(self) -> bool:
        """Whether the peer showed no certificate, which needs ``anonymous_clients=True``."""
        return self._handshake.peer_certificate() is None

    @property
    def peer(self) -> PeerIdentity:
        """Who the peer's certificate says it is.

        Raises:
            ValueError: The certificate, though trusted, can't be parsed; or
                there is none, because the credentials take
                ``anonymous_clients``: ask `is_anonymous` first.
        """
        if self._peer is None:  # parsed when somebody asks
            certificate = self._handshake.peer_certificate()
            if certificate is None:
                raise ValueError(
                    "the peer is anonymous: it showed no certificate, so nobody knows who it is; "
                    "look at connection.is_anonymous before connection.peer"
                )
            self._peer = PeerIdentity.from_der(certificate, self._handshake.peer_chain())
        return self._peer

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive and decrypt some data; ``b""`` when the peer has ended it in due form.

        Args:
            max_bytes: The most to return, in bytes; None for 64 KiB.

        Raises:
            trio.BrokenResourceError: Nothing more can come. What ended it is
                in the message and, as a type, in ``__cause__``: an
                ``ssl.SSLEOFError`` is a ragged end (no close_notify: data may
                be missing), any other ``ssl.SSLError`` a broken TLS protocol
                (the peer is sent the alert) or the peer's own alert, an
                ``OSError`` such as ``ConnectionResetError`` the network's or a
                reset, None a timeout of ours.
            CertificateRejectedError: The peer, a TLS 1.3 server, does not take
                our certificate; comes with the first read.
            trio.ClosedResourceError: The connection was closed here.
            trio.BusyResourceError: Another task is receiving.
        """
        most = RECEIVE_SIZE if max_bytes is None else index(max_bytes)
        first = min(most, RECORD_SIZE)
        try:
            data: bytes | bytearray
            if self._handshake.aside:
                await trio.lowlevel.checkpoint()
                data = self._handshake.take_aside(first)
            elif self.idle_timeout == math.inf:
                data = await self.tls.receive_some(first)
            else:
                data = await self._receive_unless_idle(first)
            if data and self._handshake.failure is None:
                data = self._handshake.read_on(data, most)
            elif self._handshake.failure is not None:
                raise trio.BrokenResourceError
        except trio.BrokenResourceError as exc:
            # After the first error, OpenSSL says no more what it was.
            cause = as_ragged_end(self._handshake.failure or exc.__cause__)
            # Python has two ways to tell the peer's close_notify, and this one once we have sent ours.
            if isinstance(cause, ssl.SSLZeroReturnError) or (self._ended and self._finished):
                self._finished = True
                return b""
            await self._send_alert()
            error = self._late_verdict(cause) or self._explained(exc, cause)
            try:
                if error is exc:  # not ours, so neither is its cause to be set
                    raise
                raise error from cause
            finally:
                del error, cause  # else this frame holds what holds it: only a collection frees it
        except trio.ClosedResourceError as exc:
            raise self._given_up(exc) from None
        self.bytes_received += len(data)
        if not data and most:
            self._finished = True
        return data

    async def _receive_unless_idle(self, max_bytes: int) -> bytes | bytearray:
        transport = self._transport
        watch = IdleWatch(self.idle_timeout, trio.current_time(), countable=is_tcp(transport))
        while True:
            with trio.move_on_at(watch.next_look):
                return await self.tls.receive_some(max_bytes)
            if watch.is_idle(trio.current_time(), peer_progress(transport), self._active):
                await self._give_up(
                    f"the peer neither sent nor acknowledged anything for {self.idle_timeout:g} s "
                    "(idle_timeout)"
                )

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send all of ``data``.

        Raises:
            trio.BrokenResourceError: The connection is broken, or the peer did
                not take it all within ``send_timeout``.
            CertificateRejectedError: As for `receive_some`, where nothing was
                received yet.
            trio.ClosedResourceError: The connection was closed here, or
                `send_eof` was called.
            trio.BusyResourceError: Another task is sending.
        """
        if self._ended:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("send_eof was called on this connection")
        if self._cut:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError(self._broken)
        try:
            if self.send_timeout == math.inf:
                await self._send_in_pieces(data)
            else:
                await self._send_in_time(data)
        except trio.BrokenResourceError as exc:
            await self._send_alert()
            cause = as_ragged_end(self._handshake.failure or exc.__cause__)
            if self._may_be_refused():  # the verdict stands unread behind the reset
                cause = await self._handshake.unread_alert() or cause
            error = self._late_verdict(cause) or self._explained(exc, cause)
            try:
                if error is exc:
                    raise
                raise error from cause
            finally:
                del error, cause  # likewise
        except trio.ClosedResourceError as exc:
            raise self._given_up(exc) from None

    async def _send_in_time(self, data: Buffer) -> None:
        with trio.move_on_after(self.send_timeout) as scope:
            await self._send_in_pieces(data)
        if scope.cancelled_caught:
            await self._give_up(
                f"the peer did not take all data within {self.send_timeout:g} s (send_timeout)"
            )

    async def _send_in_pieces(self, data: Buffer) -> None:
        if type(data) is bytes and len(data) <= SEND_PIECE:  # as most are
            await self._send_piece(data, 0)
            return
        with memoryview(data) as view:
            if view.nbytes <= SEND_PIECE:
                await self._send_piece(data, 0)
                return
            with view.cast("B") as octets:
                for start in range(0, len(octets), SEND_PIECE):
                    with octets[start : start + SEND_PIECE] as piece:
                        await self._send_piece(piece, start)

    async def _send_piece(self, piece: Buffer, before: int) -> None:
        try:
            await self.tls.send_all(piece)
        except (trio.Cancelled, KeyboardInterrupt):
            # The TLS stream knows that it is broken where a piece was cut, but not where the cut
            # was between two. Nor does a close of it tell, if a FIN is taken for a due end.
            if before or self._handshake.https_compatible:
                self._cut = True
                self._broken = self._broken or "a send was cancelled half-way"
            raise
        self.bytes_sent += piece.nbytes if isinstance(piece, memoryview) else len(piece)
        if self.idle_timeout != math.inf:
            self._active = trio.current_time()

    async def _give_up(self, why: str) -> NoReturn:
        """End the connection for want of life in the peer."""
        self._broken = why
        self._gave_up = True
        await trio.aclose_forcefully(self.tls.transport_stream)
        raise trio.BrokenResourceError(why)

    def _given_up(self, error: trio.ClosedResourceError) -> Exception:
        """What another task's call is told: not that it was closed here, if it was given up."""
        return trio.BrokenResourceError(self._broken) if self._gave_up else error

    def _explained(
        self, error: trio.BrokenResourceError, cause: BaseException | None
    ) -> trio.BrokenResourceError:
        """An error that says why, or ``error`` itself: ``SSLStream`` has no words for it."""
        if isinstance(cause, ssl.SSLEOFError):
            self._broken = "the peer ended the stream without close_notify: data may be missing"
        elif isinstance(cause, ssl.SSLError):
            self._broken = f"TLS failed: {tls_reason(cause)}"
        elif str(error) or self._broken is None:
            return error
        return trio.BrokenResourceError(self._broken)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until `send_all` might not block, ``send_timeout`` seconds at most.

        Raises:
            trio.BrokenResourceError: The connection is broken, or the peer took
                nothing within ``send_timeout``.
            trio.ClosedResourceError: The connection was closed here.
            trio.BusyResourceError: Another task is sending.
        """
        try:
            with trio.move_on_after(self.send_timeout):
                await self.tls.wait_send_all_might_not_block()
                return
        except trio.BrokenResourceError as exc:
            error = self._explained(exc, exc.__cause__)
            try:
                if error is exc:
                    raise
                raise error from exc.__cause__
            finally:
                del error  # likewise
        except trio.ClosedResourceError as exc:
            raise self._given_up(exc) from None
        await self._give_up(f"the peer took no data within {self.send_timeout:g} s (send_timeout)")

    async def send_eof(self) -> None:
        """Send the close_notify: nothing more comes from us. Receiving goes on.

        A peer with TLS 1.3 may go on sending (RFC 8446 section 6.1). One with
        TLS 1.2 must answer with its own close_notify at once, and drop what it
        has not sent yet (RFC 5246 section 7.2.1); many keep to the rule of
        TLS 1.3 there too, this library among them. To do it again changes nothing.

        Raises:
            trio.BrokenResourceError: The connection is broken.
            trio.ClosedResourceError: The connection was closed here.
            trio.BusyResourceError: Another task is sending.
        """
        await self.wait_send_all_might_not_block()
        if self._ended:
            return
        if self._cut or self._handshake.is_broken():
            raise trio.BrokenResourceError(self._broken)
        self._ended = True
        await self._handshake.send_close_notify()

    async def aclose(self) -> None:
        """Send a close_notify and close, within ``close_timeout`` seconds.

        Does not wait for the peer's close_notify, and takes no time if the peer
        has sent it before. But close(2) with unread input is a reset, which cuts
        off what the peer has not received yet. So over TCP, if anything of the
        peer's is unread, this sends FIN, and reads and drops until the peer hangs
        up; if our last bytes are not acknowledged yet, until they are. A TLS 1.3
        client that has sent and never received gives the peer a second to hang
        up, for the session tickets that may be on their way.

        If cancelled, or if the peer takes nothing any more, the transport is
        closed by force. So is a connection on which a `send_all` was cancelled
        half-way: no close_notify may follow it.
        """
        await close_in_time(self)

    async def _close(self) -> None:
        if self._cut:
            await self._close_by_force()
            return
        # An alert, from a call on the bare `tls`. Else it is an answer, such as to a renegotiation
        # that we refuse (RFC 5246 section 7.2.2), and leaves with the close_notify.
        if self._handshake.outgoing.pending and self._handshake.is_broken():
            await self._send_alert()
        # Where a timeout, or somebody, has closed the transport, no
        # close_notify can follow, and this is closed as it should be.
        with contextlib.suppress(trio.ClosedResourceError):
            await self._close_tls()

    async def _close_tls(self) -> None:
        transport = self._transport
        # None: it was unwrapped, and is its owner's. In the other case another task is closing it.
        if transport is None or isinstance(transport, LeavingTransport):
            await self.tls.aclose()
            return
        known = Known(
            unread=self._handshake.has_unread(),
            finished=self._finished,
            expected=self._tickets_may_be_unread(),
        )
        self.tls.transport_stream = LeavingTransport(
            transport,
            self._handshake.outgoing,
            known,
            fin_is_the_end=self._handshake.https_compatible,
        )
        try:
            await self.tls.aclose()
        finally:
            self.tls.transport_stream = transport

    async def _close_by_force(self) -> None:
        transport = self._transport
        if transport is not None:
            if self._handshake.https_compatible:  # whose peer takes a FIN for a due end
                reset_at_close(transport)
            await trio.aclose_forcefully(transport)
        with contextlib.suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            await self.tls.aclose()

    def _may_be_refused(self) -> bool:
        """Whether a TLS 1.3 server may have judged our certificate without our knowing."""
        return (
            self.role is Role.CLIENT
            and self.bytes_received == 0
            and self.tls.version() == "TLSv1.3"
        )

    def _tickets_may_be_unread(self) -> bool:
        # A TLS 1.3 server sends session tickets after the handshake, and the first receive takes
        # them. Where there was none, they are unread or still on their way, and the kernel answers
        # them with a reset once we have closed, forgetting what it has not delivered of ours.
        return self._may_be_refused() and self.bytes_sent > 0

    async def _send_alert(self) -> None:
        """Send the alert of a fatal record error: ``SSLStream`` raises and forgets it."""
        await send_last_words(self.tls.transport_stream, self._handshake.outgoing)

    def _late_verdict(self, cause: BaseException | None) -> CertificateRejectedError | None:
        if self.role is not Role.CLIENT or not isinstance(cause, ssl.SSLError):
            return None
        alert = tls_alert(cause)
        if alert is None or alert not in CERTIFICATE_ALERTS:
            return None
        self._broken = f"TLS failed: {tls_reason(cause)}"
        return CertificateRejectedError(
            "the peer does not take our certificate",
            role=self.role,
            peer=format_address(self.remote_address),
            tls_reason=f"the peer's alert {alert}",
            advice="compare our certificate with what the peer trusts",
            alert=alert,
        )


async def close_by_force(connection: Connection) -> None:
    """Close at once, shielded, and in such a way that the peer can tell it from a due end.

    There is no close_notify; and no FIN but a reset, where the peer takes a FIN for a due
    end (``https_compatible``).
    """
    with trio.CancelScope(shield=True):
        await connection._close_by_force()  # pyright: ignore[reportPrivateUsage] # noqa: SLF001 - likewise


async def close_in_time(connection: Connection, *, shield: bool = False) -> None:
    """`Connection.aclose`, shielded if need be: in one scope, because each costs 1 % of a handshake."""
    with trio.move_on_after(connection.close_timeout, shield=shield):
        await connection._close()  # pyright: ignore[reportPrivateUsage] # noqa: SLF001 - a method, almost
