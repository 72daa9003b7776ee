"""A negotiated stream: TLS in the role that we were given, ready for use."""

from __future__ import annotations

import contextlib
import math
import ssl
from operator import index
from typing import NoReturn

import attrs
import trio

from trio_duplex._errors import PeerRejectedError
from trio_duplex._role import Decision, Role
from trio_duplex._sockets.address import Address, format_address
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

SEND_PIECE = 256 * 1024
"""Bytes handed to TLS at once where there is an idle timeout: a peer that takes
one after another is alive."""


class Connection(trio.abc.Stream):
    """An authenticated TLS stream, and the role that we play on it.

    It is a ``trio.abc.Stream``: every handler written for one takes it
    unchanged. Made by `negotiate`, `serve_tcp`, `serve_listeners`,
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
        idle_timeout: Seconds without a byte either way after which a receive
            raises; ``math.inf`` by default.
        send_timeout: Seconds for one `send_all`, or one
            `wait_send_all_might_not_block`, after which it raises; ``math.inf``
            by default.
        bytes_received: Application data received through `receive_some`.
        bytes_sent: Application data sent through `send_all`.
    """

    __slots__ = (
        "_active",
        "_broken",
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

    @property
    def role(self) -> Role:
        """The TLS role that we play."""
        return self.decision.role

    @property
    def peer(self) -> PeerIdentity:
        """Who the peer's certificate says it is.

        Raises:
            ValueError: The certificate, though trusted, can't be parsed.
        """
        if self._peer is None:  # parsed when somebody asks
            certificate = self._handshake.peer_certificate()
            assert certificate is not None  # or the peer would not have been admitted
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
            if self.idle_timeout == math.inf:
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
            await self._send_alert()
            error = self._late_verdict(cause) or self._explained(exc, cause)
            if error is exc:  # not ours, so neither is its cause to be set
                raise
            raise error from cause
        except trio.ClosedResourceError as exc:
            raise self._given_up(exc) from None
        self.bytes_received += len(data)
        return data

    async def _receive_unless_idle(self, max_bytes: int) -> bytes | bytearray:
        started = trio.current_time()
        while True:
            # Sending counts as life too: then we wait on, from the last of it.
            with trio.move_on_at(max(started, self._active) + self.idle_timeout):
                return await self.tls.receive_some(max_bytes)
            if trio.current_time() >= max(started, self._active) + self.idle_timeout:
                await self._give_up(
                    f"nothing was received or sent for {self.idle_timeout:g} s (idle_timeout)"
                )

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send all of ``data``.

        Raises:
            trio.BrokenResourceError: The connection is broken, or the peer did
                not take it all within ``send_timeout``.
            CertificateRejectedError: As for `receive_some`, where nothing was
                received yet.
            trio.ClosedResourceError: The connection was closed here.
            trio.BusyResourceError: Another task is sending.
        """
        try:
            if self.send_timeout == self.idle_timeout == math.inf:
                await self.tls.send_all(data)
            else:
                await self._send_in_time(data)
        except trio.BrokenResourceError as exc:
            await self._send_alert()
            cause = as_ragged_end(self._handshake.failure or exc.__cause__)
            if self._may_be_refused():  # the verdict stands unread behind the reset
                cause = await self._handshake.unread_alert() or cause
            error = self._late_verdict(cause) or self._explained(exc, cause)
            if error is exc:
                raise
            raise error from cause
        except trio.ClosedResourceError as exc:
            raise self._given_up(exc) from None
        self.bytes_sent += len(data)

    async def _send_in_time(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B")
        with trio.move_on_after(self.send_timeout) as scope:
            for start in range(0, len(view) or 1, SEND_PIECE):
                await self.tls.send_all(view[start : start + SEND_PIECE])
                self._active = trio.current_time()
        if scope.cancelled_caught:
            await self._give_up(
                f"the peer did not take all data within {self.send_timeout:g} s (send_timeout)"
            )

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
            if error is exc:
                raise
            raise error from exc.__cause__
        except trio.ClosedResourceError as exc:
            raise self._given_up(exc) from None
        await self._give_up(f"the peer took no data within {self.send_timeout:g} s (send_timeout)")

    async def aclose(self) -> None:
        """Send a close_notify and close, within ``close_timeout`` seconds.

        Does not wait for the peer's close_notify; but as a TLS 1.3 client that
        has sent and never received, it gives the peer up to a second to hang
        up. If cancelled, or if the peer takes nothing any more, the transport
        is closed by force.
        """
        await close_in_time(self)

    async def _close(self) -> None:
        # An alert, from a call on the bare `tls`. Else it is an answer, such as to a renegotiation
        # that we refuse (RFC 5246 section 7.2.2), and leaves with the close_notify.
        if self._handshake.outgoing.pending and self._handshake.is_broken():
            await self._send_alert()
        try:
            if self._tickets_may_be_unread():
                await self._handshake.take_leave(shield=False)
        finally:
            # Where a timeout, or somebody, has closed the transport, no
            # close_notify can follow, and this is closed as it should be.
            with contextlib.suppress(trio.ClosedResourceError):
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
        return (
            self._may_be_refused() and self.bytes_sent > 0 and not self._handshake.https_compatible
        )

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


async def close_in_time(connection: Connection, *, shield: bool = False) -> None:
    """`Connection.aclose`, shielded if need be: in one scope, because each costs 1 % of a handshake."""
    with trio.move_on_after(connection.close_timeout, shield=shield):
        await connection._close()  # pyright: ignore[reportPrivateUsage] # noqa: SLF001 - a method, almost
