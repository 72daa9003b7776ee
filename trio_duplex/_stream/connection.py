"""A negotiated stream: TLS in the role that we were given, ready for use."""

from __future__ import annotations

import math
import ssl
from typing import NoReturn, TypeAlias

import attrs
import trio

from trio_duplex._errors import PeerRejectedError
from trio_duplex._role import Decision, Role
from trio_duplex._sockets.address import Address, format_address
from trio_duplex._sockets.progress import is_tcp, peer_progress
from trio_duplex._sockets.queues import reset_at_close
from trio_duplex._stream.idle import IdleWatch
from trio_duplex._stream.settings import Settings
from trio_duplex._tls.ending import Known
from trio_duplex._tls.flow import Flow
from trio_duplex._tls.reasons import tls_alert, tls_reason
from trio_duplex._trust.identity import PeerIdentity, read_identity

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


Buffer: TypeAlias = bytes | bytearray | memoryview


class Connection(trio.abc.HalfCloseableStream):
    """An authenticated TLS stream, and the role that we play on it.

    It is a ``trio.abc.HalfCloseableStream``: every handler written for a
    ``trio.abc.Stream`` takes it unchanged. Made by `negotiate`, `serve_tcp`, `serve_listeners`,
    `DuplexListener` and `open_tcp_connection`, never directly.

    Attributes:
        decision: The role taken, why, and how long it took.
        local_address: Our end: ``(host, port)``, IPv6's four fields, a Unix
            socket's path, or None.
        remote_address: The peer's end, likewise.
        cancel_scope: Covers only this connection's handler. Cancel it, or set
            its ``deadline`` (absolute, on Trio's clock), from any task. Where
            no server runs the handler, enter it yourself.
        close_timeout: Seconds for `aclose`; 5 by default.
        idle_timeout: Seconds in which the peer neither sends a byte nor
            acknowledges one of ours, after which a receive raises; ``math.inf``
            by default. Over TCP on Linux the kernel's own counters decide. So a
            transfer that is moving is never ended, and one to a peer that has
            vanished is. Elsewhere, what counts is whole TLS records that were
            received, and pieces of at most 256 KiB that the transport took.
        send_timeout: Seconds for one `send_all`, or one
            `wait_send_all_might_not_block`, after which it raises; ``math.inf``
            by default.
        bytes_received: Application data received through `receive_some`.
    """

    __slots__ = (
        "__weakref__",
        "_broken",
        "_finished",
        "_flow",
        "_gave_up",
        "_peer",
        "bytes_received",
        "cancel_scope",
        "close_timeout",
        "decision",
        "idle_timeout",
        "local_address",
        "remote_address",
        "send_timeout",
    )

    def __init__(
        self,
        flow: Flow,
        *,
        decision: Decision,
        local_address: Address | None,
        remote_address: Address | None,
        settings: Settings,
    ) -> None:
        self._flow = flow
        self._peer: PeerIdentity | None = None
        self.decision = decision
        self.local_address = local_address
        self.remote_address = remote_address
        self.cancel_scope = trio.CancelScope()
        self.close_timeout = settings.close_timeout
        self.idle_timeout = settings.idle_timeout
        self.send_timeout = settings.send_timeout
        self.bytes_received = 0
        self._broken: str | None = None  # why, if TLS itself does not remember it
        self._gave_up = False
        self._finished = False  # the peer has sent its close_notify

    @property
    def tls(self) -> trio.SSLStream[trio.abc.Stream]:
        """The bare ``trio.SSLStream`` over the same transport.

        It is made when it is first asked for, and from then on everything goes through
        it, at about twice the CPU for each call. Facts such as the TLS version are
        attributes of the connection, too, and do not need it. You may call its methods
        instead of the connection's. The connection's methods also send the alert of a
        fatal record error to the peer, and bound the time that closing takes.
        """
        return self._flow.tls

    @property
    def transport_stream(self) -> trio.abc.Stream:
        """The stream under TLS, as it was accepted, dialled or given to `negotiate`."""
        return self._flow.transport

    @property
    def bytes_sent(self) -> int:
        """Application data sent through `send_all`, in bytes."""
        return self._flow.sent

    @property
    def tls_version(self) -> str:
        """``"TLSv1.2"`` or ``"TLSv1.3"``."""
        return self._flow.engine.ssl_object.version() or "unknown"

    @property
    def cipher(self) -> str:
        """The cipher suite, by OpenSSL's name, such as ``"TLS_AES_256_GCM_SHA384"``."""
        cipher = self._flow.engine.ssl_object.cipher()
        return cipher[0] if cipher is not None else "unknown"

    @property
    def selected_alpn_protocol(self) -> str | None:
        """The protocol that was chosen by ALPN (RFC 7301); None if the ends share none."""
        return self._flow.engine.ssl_object.selected_alpn_protocol()

    @property
    def session(self) -> ssl.SSLSession | None:
        """The TLS session, for another connection's handshake to resume.

        In TLS 1.3 the server sends it after the handshake: it has a ticket once something
        was received (RFC 8446 section 4.6.1).
        """
        return self._flow.engine.ssl_object.session

    @property
    def session_reused(self) -> bool:
        """Whether the handshake has resumed an earlier session."""
        return bool(self._flow.engine.ssl_object.session_reused)

    @property
    def server_hostname(self) -> str | None:
        """The name that we sent as SNI in the client role; None if we sent none, and as server."""
        return self._flow.engine.ssl_object.server_hostname

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's own certificate, DER; None if it showed none, which a policy may admit."""
        return self._flow.engine.peer_certificate()

    def get_channel_binding(self, kind: str = "tls-unique") -> bytes | None:
        """Bytes that name this connection to both ends: `ssl.SSLSocket.get_channel_binding`.

        Args:
            kind: One of ``ssl.CHANNEL_BINDING_TYPES``. ``"tls-unique"`` (RFC 5929) is
                not defined for TLS 1.3.

        Raises:
            ValueError: The kind is not one of them.
        """
        return self._flow.engine.ssl_object.get_channel_binding(kind)

    @property
    def role(self) -> Role:
        """The TLS role that we play."""
        return self.decision.role

    @property
    def is_anonymous(self) -> bool:
        """Whether the peer showed no certificate, which needs ``anonymous_clients=True``."""
        return self.peer_certificate is None

    @property
    def peer(self) -> PeerIdentity:
        """Who the peer's certificate says it is.

        Raises:
            ValueError: The certificate, though trusted, can't be parsed; or
                there is none, because the credentials take
                ``anonymous_clients``: ask `is_anonymous` first.
        """
        if self._peer is None:  # parsed when somebody asks
            certificate = self.peer_certificate
            if certificate is None:
                raise ValueError(
                    "the peer is anonymous: it showed no certificate, so nobody knows who it is; "
                    "look at connection.is_anonymous before connection.peer"
                )
            self._peer = read_identity(certificate, tuple(self._flow.engine.peer_chain()))
        return self._peer

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive and decrypt some data; ``b""`` once the peer has ended it with a close_notify.

        Args:
            max_bytes: The most to return, in bytes; None for 256 KiB.

        Raises:
            trio.BrokenResourceError: Nothing more can come. The reason is in the
                message and, as a type, in ``__cause__``: an
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
        try:
            if self.idle_timeout == math.inf:
                data = await self._flow.receive_some(max_bytes)
            else:
                data = await self._receive_unless_idle(max_bytes)
        except trio.BrokenResourceError as exc:
            await self._send_alert()
            self._raise_why(exc)
        except trio.ClosedResourceError as exc:
            raise self._given_up(exc) from None
        if data:
            self.bytes_received += len(data)
        else:
            self._finished = True
        return data

    async def _receive_unless_idle(self, max_bytes: int | None) -> bytes | bytearray:
        flow = self._flow
        transport = flow.transport
        flow.notes_time = True
        watch = IdleWatch(self.idle_timeout, trio.current_time(), countable=is_tcp(transport))
        while True:
            with trio.move_on_at(watch.next_look):
                return await flow.receive_some(max_bytes)
            if watch.is_idle(trio.current_time(), peer_progress(transport), flow.last_sent):
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
        try:
            if self.send_timeout == math.inf:
                await self._flow.send_all(data)
            else:
                await self._send_in_time(data)
        except trio.BrokenResourceError as exc:
            await self._send_alert()
            if self._may_be_refused():  # its verdict may be unread, received before the reset
                await self._flow.unread_alert()  # and is the engine's failure then
            self._raise_why(exc)
        except trio.ClosedResourceError as exc:
            raise self._given_up(exc) from None

    async def _send_in_time(self, data: Buffer) -> None:
        with trio.move_on_after(self.send_timeout) as scope:
            await self._flow.send_all(data)
        if scope.cancelled_caught:
            await self._give_up(
                f"the peer did not take all data within {self.send_timeout:g} s (send_timeout)"
            )

    async def _give_up(self, why: str) -> NoReturn:
        """End the connection because the peer shows no sign of life."""
        self._broken = why
        self._gave_up = True
        if self._flow.https_compatible:  # the peer takes a FIN for a normal end
            reset_at_close(self._flow.transport)
        await trio.aclose_forcefully(self._flow.transport)
        raise trio.BrokenResourceError(why)

    def _given_up(self, error: trio.ClosedResourceError) -> Exception:
        """Replace a closed-here error by the reason, if it was us who gave the connection up."""
        return trio.BrokenResourceError(self._broken) if self._gave_up else error

    def _raise_why(self, error: trio.BrokenResourceError) -> NoReturn:
        """Raise an error that says why, or ``error`` itself."""
        cause = self._flow.engine.failure or error.__cause__
        why = self._late_verdict(cause) or self._explained(error, cause)
        try:
            if why is error:  # not ours, so neither is its cause to be set
                raise error
            raise why from cause
        finally:
            # Otherwise the errors and this frame refer to each other until a collection.
            del error, why, cause

    def _explained(
        self, error: trio.BrokenResourceError, cause: BaseException | None
    ) -> trio.BrokenResourceError:
        """Return an error that says why, or ``error`` itself; what ``SSLStream`` raises has no message."""
        if isinstance(cause, ssl.SSLEOFError):
            why = "the peer ended the stream without close_notify: data may be missing"
        elif isinstance(cause, ssl.SSLError):
            why = f"TLS failed: {tls_reason(cause)}"
        elif str(error):
            self._broken = self._broken or str(error)  # for later calls, which have no words left
            return error
        elif self._broken is not None:
            why = self._broken
        elif self._flow.cut:
            why = "a send ended half-way, so nothing can follow it"
        else:
            return error
        return trio.BrokenResourceError(why)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until `send_all` might not block, ``send_timeout`` seconds at most.

        Raises:
            trio.BrokenResourceError: The connection is broken, or the peer took
                nothing within ``send_timeout``.
            CertificateRejectedError: As for `receive_some`.
            trio.ClosedResourceError: The connection was closed here.
            trio.BusyResourceError: Another task is sending.
        """
        try:
            with trio.move_on_after(self.send_timeout):
                await self._flow.wait_send_all_might_not_block()
                return
        except trio.BrokenResourceError as exc:
            self._raise_why(exc)
        except trio.ClosedResourceError as exc:
            raise self._given_up(exc) from None
        await self._give_up(f"the peer took no data within {self.send_timeout:g} s (send_timeout)")

    async def send_eof(self) -> None:
        """Send a close_notify: we will send nothing more. Receiving goes on.

        A peer with TLS 1.3 may go on sending (RFC 8446 section 6.1). One with
        TLS 1.2 must answer with its own close_notify at once, and drop what it
        has not sent yet (RFC 5246 section 7.2.1); many keep to the rule of
        TLS 1.3 there too, this library among them. A second call does nothing.

        Raises:
            trio.BrokenResourceError: The connection is broken.
            CertificateRejectedError: As for `receive_some`.
            trio.ClosedResourceError: The connection was closed here.
            trio.BusyResourceError: Another task is sending.
        """
        try:
            await self._flow.send_eof()
        except trio.BrokenResourceError as exc:
            self._raise_why(exc)
        except trio.ClosedResourceError as exc:
            raise self._given_up(exc) from None

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

    def _known(self) -> Known:
        """What is known of the peer's side."""
        return Known(
            unread=self._flow.engine.has_unread,
            finished=self._finished,
            expected=self._tickets_may_be_unread(),
        )

    def _may_be_refused(self) -> bool:
        """Whether a TLS 1.3 server may have judged our certificate without our knowing."""
        return (
            self.role is Role.CLIENT and self.bytes_received == 0 and self.tls_version == "TLSv1.3"
        )

    def _tickets_may_be_unread(self) -> bool:
        # A TLS 1.3 server sends session tickets after the handshake, and the first receive reads
        # them. Where there was none, they are unread or still on their way, and the kernel answers
        # them with a reset once we have closed, forgetting what it has not delivered of ours.
        return self._may_be_refused() and self.bytes_sent > 0

    async def _send_alert(self) -> None:
        """Send the alert of a fatal record error: ``SSLStream`` raises and forgets it."""
        if self._flow.engine.failure is not None:
            await self._flow.send_alert()

    def _late_verdict(self, cause: BaseException | None) -> CertificateRejectedError | None:
        if self.role is not Role.CLIENT or not isinstance(cause, ssl.SSLError):
            return None
        alert = tls_alert(cause)
        if alert is None or alert not in CERTIFICATE_ALERTS:
            return None
        return CertificateRejectedError(
            "the peer does not take our certificate",
            role=self.role,
            peer=format_address(self.remote_address),
            tls_reason=f"the peer's alert {alert}",
            advice="compare our certificate with what the peer trusts",
            alert=alert,
        )


async def close_by_force(connection: Connection) -> None:
    """Close at once, shielded, in such a way that the peer does not take it for a normal end.

    No close_notify is sent. Where the peer takes a FIN for a normal end
    (``https_compatible``), the connection is reset.
    """
    with trio.CancelScope(shield=True):
        await connection._flow.close_by_force()  # pyright: ignore[reportPrivateUsage] # noqa: SLF001 - likewise


async def close_in_time(connection: Connection, *, shield: bool = False) -> None:
    """`Connection.aclose`, shielded if need be: in one scope, because each costs 1 % of a handshake."""
    flow = connection._flow  # pyright: ignore[reportPrivateUsage] # noqa: SLF001 - a method, almost
    known = connection._known()  # pyright: ignore[reportPrivateUsage] # noqa: SLF001 - likewise
    # Without the shield, it must be a checkpoint, and so can be cancelled before anything is said.
    rest = flow.close_nowait(known) if shield else known
    if rest is not None:
        with trio.move_on_after(connection.close_timeout, shield=shield):
            await flow.aclose(rest)


def made_streams(connection: Connection) -> tuple[trio.abc.Stream, ...]:
    """The connection, its transport, and its bare stream if there is one; none is made."""
    flow = connection._flow  # pyright: ignore[reportPrivateUsage] # noqa: SLF001 - likewise
    return (
        (connection, flow.transport)
        if flow.bare is None
        else (connection, flow.transport, flow.bare)
    )
