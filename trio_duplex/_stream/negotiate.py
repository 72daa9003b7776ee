"""Wait, decide, wrap, handshake: a raw stream in, a `Connection` out.

The order matters. Nothing of TLS exists before the role is decided (a silent
peer then costs kilobytes, not tens of them). The window holds one receive and
one assignment and no other checkpoint: data that arrived as the window closed
is then in the variable, whatever the cancel scope says.
"""

from __future__ import annotations

import contextlib
import ssl

import trio

from trio_duplex._decision.policy import Window
from trio_duplex._decision.window import DEFAULT_WINDOW
from trio_duplex._role import Decision, Reason, Role
from trio_duplex._sockets.address import Address, check_address
from trio_duplex._sockets.address import remote_address as stream_address
from trio_duplex._sockets.keepalive import keep_alive_by_default
from trio_duplex._sockets.unsent import DEFAULT_UNSENT, has_trios_bound
from trio_duplex._stream.connection import Connection
from trio_duplex._stream.detect import Detected, detect
from trio_duplex._stream.negotiation import Negotiation, Resumption
from trio_duplex._stream.settings import DEFAULT_HANDSHAKE_TIMEOUT, Settings
from trio_duplex._stream.supervision import Supervision
from trio_duplex._stream.take_role import take_role
from trio_duplex._tls.handshake import MAX_CERTIFICATE_BYTES
from trio_duplex._trust.credentials import Credentials, check_credentials


async def negotiate(
    stream: trio.abc.Stream,
    credentials: Credentials,
    *,
    window: Window = DEFAULT_WINDOW,
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,
    https_compatible: bool = False,
    max_certificate_bytes: int = MAX_CERTIFICATE_BYTES,
    session: ssl.SSLSession | None = None,
    role: Role | None = None,
    server_hostname: str | None = None,
    dialled: bool | None = None,
    announcements: bool = True,
    announce: bool = False,
    remote_address: Address | None = None,
) -> Connection:
    """Take the TLS role that the peer does not, and complete the handshake.

    TCP keepalive is turned on, at a minute of silence, unless the socket has it already. The kernel
    holds 64 KiB unsent in place of Trio's 16, unless the socket has another TCP_NOTSENT_LOWAT.

    Args:
        stream: A stream, of TCP or any other ``trio.abc.Stream``: one that was
            accepted or, with ``role``, one that we dialled. It is closed if
            anything fails, cancellation included.
        credentials: What we present and whom we trust, for both roles.
        window: The detection window, in seconds. Bytes within it: we are the
            TLS server. Silence: we are the TLS client. 0 treats every peer
            that has not spoken yet as silent; ``math.inf`` waits for ever. Or a
            policy of `trio_duplex.windows`, or a function of the peer's facts.
        handshake_timeout: Seconds from the decision to the end of the
            handshake, however the peer paces its bytes.
        https_compatible: Let the peer end the stream without a close_notify,
            and send none; as for ``trio.SSLStream``.
        max_certificate_bytes: How many bytes of a handshake the peer may send
            after its hello, nearly all of them its certificates. Post-quantum
            chains fit into the default of 32 KiB. Each certificate costs about
            0.13 ms of CPU before any of them is verified.
        session: A TLS session of ``credentials.client_context`` to resume if
            we become the TLS client (FTPS data connections need it).
        role: The role that we play, if it is known: there is no window then,
            and ``handshake_timeout`` begins at once. None detects it.
        server_hostname: The name to send as SNI if we become the TLS client;
            None takes it from the credentials' ``peer`` policy.
        dialled: Whether we dialled this stream. On one that was accepted, a
            ClientHello of our own that an outsider relays back to us is
            refused; say False where such a stream is given a ``role``. None,
            the default, treats a stream with a ``role`` as dialled. True and no
            ``role``, with a ``window`` of 0, is for two ends that meet without
            roles arranged beforehand, such as through a relay: both speak at
            once, and the crossing is resolved.
        announcements: Whether to understand an announcement, by which a dialler
            says that it will be the TLS server: then we are the TLS client at
            once. With False an announcement is a `NotTLSError`, as any other
            alert at the start is.
        announce: Whether to send an announcement; only with ``role=Role.SERVER``.
        remote_address: Where the peer is, for policies, messages and
            `Connection.remote_address`, if the stream does not tell (it is not
            a socket) or tells that of a proxy between us. None asks the stream.
            Policies such as `NamedByAddress` rely on it, so take it only from
            a source that you trust.

    Returns:
        The open connection, with its role.

    Raises:
        PeerClosedError: The peer left before its opening was complete.
        NotTLSError: The opening is not a ClientHello, or the answer to our
            own ClientHello is not TLS.
        HandshakeError: TLS failed; our alert has been sent. A
            HandshakeTimeoutError says that it took too long, a GlareError that
            both ends sent a ClientHello, and that the peer can't resolve it or
            our ``role`` was given.
        PeerRejectedError: The credentials' ``peer`` policy does not admit the
            peer. A SelfConnectionError says that it is ourselves.
        ValueError: A duration is negative or NaN, or ``session`` belongs to
            another context; the stream has not been touched.
        TypeError: ``credentials`` or ``remote_address`` is of another type;
            likewise.
    """
    check_credentials(credentials)
    settings = Settings(
        window,
        handshake_timeout,
        https_compatible,
        max_certificate_bytes=max_certificate_bytes,
        announcements=announcements,
        unsent_bytes=DEFAULT_UNSENT if has_trios_bound(stream) else None,
    )
    check_announce(announce, role)
    # Pin the current contexts: the session is tied to them, and a reload would replace them.
    resumption = None if session is None else Resumption.of(session, credentials.material)
    remote = stream_address(stream) if remote_address is None else check_address(remote_address)
    supervision = Supervision()
    keep_alive_by_default(stream)
    try:
        if role is None:
            detected = await detect(stream, settings, remote, supervision)
        else:
            detected = Detected(Decision(Role(role), Reason.RULE, waited=0.0, window=0.0))
        return await take_role(
            Negotiation(
                stream,
                settings,
                lambda: credentials.material,
                detected,
                remote,
                supervision,
                resumption=resumption,
                server_hostname=server_hostname,
                accepted=role is None if dialled is None else not dialled,
                either=role is None,
                announce=announce,
            )
        )
    except BaseException:
        await abandon(stream)
        raise


def check_announce(announce: object, role: Role | None) -> None:
    """Raise ValueError if we can't announce that we will be the TLS server."""
    if announce and role is not Role.SERVER:
        raise ValueError(
            f"announce=True says that we will be the TLS server, and role={role} does not"
        )


async def abandon(stream: trio.abc.Stream) -> None:
    """Close by force; shielded, or `Cancelled` would replace the exception in flight.

    A socket is closed directly, without a checkpoint, because a flood of strangers ends here. Trio's
    function would cancel a scope and have `Cancelled` raised in it, for a close that never waits.
    """
    if isinstance(stream, trio.SocketStream):
        stream.socket.close()
        return
    with trio.CancelScope(shield=True), contextlib.suppress(trio.BrokenResourceError):
        await trio.aclose_forcefully(stream)
