"""Wait, decide, wrap, handshake: a raw stream in, a `Connection` out.

The order matters. Nothing of TLS exists before the role is decided (a silent
peer then costs kilobytes, not tens of them). The window holds one receive and
one assignment and no other checkpoint: data that arrived as the window closed
is then in the variable, whatever the cancel scope says.
"""

from __future__ import annotations

import ssl

import trio

from trio_duplex._address import Address, format_address, remote_address
from trio_duplex._connection import Connection
from trio_duplex._credentials import Credentials
from trio_duplex._progress import Progress
from trio_duplex._role import Decision, Reason, Role
from trio_duplex._take_role import (
    DEFAULT_HANDSHAKE_TIMEOUT,
    OPENING_SIZE,
    Settings,
    TakenRole,
    left,
)
from trio_duplex._window import DEFAULT_WINDOW


async def negotiate(
    stream: trio.abc.Stream,
    credentials: Credentials,
    *,
    window: float = DEFAULT_WINDOW,
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,
    https_compatible: bool = False,
    session: ssl.SSLSession | None = None,
) -> Connection:
    """Take the TLS role that the peer does not, and complete the handshake.

    Args:
        stream: An accepted stream, of TCP or any other ``trio.abc.Stream``. It
            is closed if anything fails, cancellation included.
        credentials: What we present and whom we trust, for both roles.
        window: The detection window, in seconds. Bytes within it: we are the
            TLS server. Silence: we are the TLS client. 0 takes every peer for
            silent that has not spoken yet; ``math.inf`` waits for ever.
        handshake_timeout: Seconds from the decision to the end of the
            handshake, however the peer paces its bytes.
        https_compatible: Let the peer end the stream without a close_notify,
            and send none; as for ``trio.SSLStream``.
        session: A TLS session of ``credentials.client_context`` to resume if
            we become the TLS client (FTPS data connections need it).

    Returns:
        The open connection, with its role.

    Raises:
        PeerClosedError: The peer left before its opening was complete.
        NotTLSError: The opening is no ClientHello, or the answer to our own
            ClientHello is no TLS.
        HandshakeError: TLS failed; our alert has been sent. A
            HandshakeTimeoutError says that it took too long, a GlareError that
            both ends sent a ClientHello.
        PeerRejectedError: The credentials' ``peer`` policy does not admit the
            peer. A SelfConnectionError says that it is ourselves.
        ValueError: A duration is negative or NaN, or ``session`` belongs to
            another context; the stream has not been touched.
    """
    settings = Settings(window, handshake_timeout, https_compatible)
    check_session(session, credentials)
    return await accept_role(
        stream, credentials, settings, session, remote=remote_address(stream), progress=Progress()
    )


def check_session(session: ssl.SSLSession | None, credentials: Credentials) -> None:
    """Raise ValueError if the session can't be resumed with these credentials."""
    if session is not None:
        credentials.client_context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), session=session)


async def accept_role(
    stream: trio.abc.Stream,
    credentials: Credentials,
    settings: Settings,
    session: ssl.SSLSession | None = None,
    *,
    remote: Address | None,
    progress: Progress,
) -> Connection:
    """`negotiate`, with arguments that have been checked.

    Args:
        stream: See `negotiate`, as for the next three.
        credentials: Their state at the decision is what counts.
        settings: Window and timeouts.
        session: To resume in the client role.
        remote: The peer's address.
        progress: Is told each stage, and may hold it up or end it.
    """
    try:
        started = trio.current_time()
        opening = await _first_bytes(stream, settings.window, format_address(remote), progress)
        decision = Decision(
            role=Role.CLIENT if opening is None else Role.SERVER,
            reason=Reason.SILENT if opening is None else Reason.SPOKE,
            waited=trio.current_time() - started,
            window=settings.window,
        )
        progress.decided(decision)
        taken = TakenRole(
            stream,
            credentials.material,
            settings,
            decision,
            remote,
            session=session,
            progress=progress,
        )
        return await taken.negotiate(opening or b"")
    except BaseException:
        await _abandon(stream)
        raise


async def dial_role(
    stream: trio.abc.Stream,
    credentials: Credentials,
    settings: Settings,
    role: Role,
    server_hostname: str | None = None,
) -> Connection:
    """Complete the handshake in a role that the caller fixed. Closes on failure."""
    try:
        decision = Decision(role=role, reason=Reason.RULE, waited=0.0, window=0.0)
        remote = remote_address(stream)
        taken = TakenRole(
            stream,
            credentials.material,
            settings,
            decision,
            remote,
            server_hostname=server_hostname,
            accepted=False,
        )
        return await taken.negotiate(b"")
    except BaseException:
        await _abandon(stream)
        raise


async def _abandon(stream: trio.abc.Stream) -> None:
    """Close by force; shielded, or `Cancelled` would replace the exception in flight."""
    with trio.CancelScope(shield=True):
        await trio.aclose_forcefully(stream)


async def _first_bytes(
    stream: trio.abc.Stream, window: float, peer: str | None, progress: Progress
) -> bytes | None:
    """Receive the first of the opening, or None if the window stays silent."""
    opening = None
    try:
        with trio.move_on_after(window) as scope:
            progress.sheddable(scope)
            opening = await stream.receive_some(OPENING_SIZE)
        if progress.shed is not None:
            raise progress.shed
        # The last look: bytes that reached the kernel after the scheduler had
        # given up on them. It rescues one expiry in five of a race.
        if (
            opening is None
            and isinstance(stream, trio.SocketStream)
            and stream.socket.is_readable()
        ):
            opening = await stream.receive_some(OPENING_SIZE)
    except trio.BrokenResourceError as exc:
        raise left(peer, received=0, reset=True) from exc
    if opening == b"":
        raise left(peer, received=0, reset=False)
    return opening if opening is None else bytes(opening)
