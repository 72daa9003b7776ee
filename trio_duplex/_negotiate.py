"""Wait, decide, wrap, handshake: a raw stream in, a `Connection` out.

The order matters. Nothing of TLS exists before the role is decided (a silent
peer then costs kilobytes, not tens of them). The window holds one receive and
one assignment and no other checkpoint: data that arrived as the window closed
is then in the variable, whatever the cancel scope says.
"""

from __future__ import annotations

import contextlib
import math
import ssl
from typing import assert_never

import attrs
import trio

from trio_duplex._address import Address, format_address, local_address, remote_address
from trio_duplex._connection import Connection
from trio_duplex._credentials import Credentials
from trio_duplex._errors import (
    DuplexError,
    GlareError,
    HandshakeError,
    HandshakeTimeoutError,
    NotTLSError,
    PeerClosedError,
    SelfConnectionError,
)
from trio_duplex._handshake import Handshake
from trio_duplex._opening import OpeningKind, classify, client_hello_random
from trio_duplex._role import Decision, Reason, Role
from trio_duplex._window import DEFAULT_WINDOW, check_seconds

DEFAULT_HANDSHAKE_TIMEOUT = 30.0
"""Seconds. A handshake takes two round trips and some milliseconds of CPU; this
leaves room for several lost packets and a device that computes RSA slowly."""

OPENING_SIZE = 4096
"""Bytes to ask for in the window. A ClientHello of today has 300 to 1,800; more
than that just takes a second read, and a buffer is allocated at each try."""

MAX_HELLO_START = 6400
"""Bytes in which the ``random`` of a ClientHello stands, however it is cut into
records that OpenSSL accepts (6,308); who sends more without it is not honest."""


@attrs.frozen
class Settings:
    """How to negotiate, checked when it is made: before any socket is opened."""

    window: float = DEFAULT_WINDOW
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT
    https_compatible: bool = False

    def __attrs_post_init__(self) -> None:
        check_seconds("window", self.window)
        check_seconds("handshake_timeout", self.handshake_timeout)


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
        SelfConnectionError: Our own ClientHello came back.
        ValueError: A duration is negative or NaN, or ``session`` belongs to
            another context; the stream has not been touched.
    """
    settings = Settings(window, handshake_timeout, https_compatible)
    check_session(session, credentials)
    return await accept_role(stream, credentials, settings, session)


def check_session(session: ssl.SSLSession | None, credentials: Credentials) -> None:
    """Raise ValueError if the session can't be resumed with these credentials."""
    if session is not None:
        credentials.client_context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), session=session)


async def accept_role(
    stream: trio.abc.Stream,
    credentials: Credentials,
    settings: Settings,
    session: ssl.SSLSession | None = None,
) -> Connection:
    """`negotiate`, with arguments that have been checked."""
    try:
        remote = remote_address(stream)
        started = trio.current_time()
        opening = await _first_bytes(stream, settings.window, format_address(remote))
        decision = Decision(
            role=Role.CLIENT if opening is None else Role.SERVER,
            reason=Reason.SILENT if opening is None else Reason.SPOKE,
            waited=trio.current_time() - started,
            window=settings.window,
        )
        taken = _TakenRole(stream, credentials, settings, decision, remote, session=session)
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
        taken = _TakenRole(
            stream, credentials, settings, decision, remote, server_hostname=server_hostname
        )
        return await taken.negotiate(b"")
    except BaseException:
        await _abandon(stream)
        raise


async def _abandon(stream: trio.abc.Stream) -> None:
    """Close by force; shielded, or `Cancelled` would replace the exception in flight."""
    with trio.CancelScope(shield=True), contextlib.suppress(trio.BrokenResourceError):
        await trio.aclose_forcefully(stream)


async def _first_bytes(stream: trio.abc.Stream, window: float, peer: str | None) -> bytes | None:
    """Receive the first of the opening, or None if the window stays silent."""
    opening = None
    try:
        with trio.move_on_after(window):
            opening = await stream.receive_some(OPENING_SIZE)
        # The last look: bytes that reached the kernel after the scheduler had
        # given up on them. It rescues one expiry in five of a race.
        if (
            opening is None
            and isinstance(stream, trio.SocketStream)
            and stream.socket.is_readable()
        ):
            opening = await stream.receive_some(OPENING_SIZE)
    except trio.BrokenResourceError as exc:
        raise _left(peer, received=0, reset=True) from exc
    if opening == b"":
        raise _left(peer, received=0, reset=False)
    return opening if opening is None else bytes(opening)


def _left(
    peer: str | None, *, received: int, reset: bool, role: Role | None = None
) -> PeerClosedError:
    return PeerClosedError(
        "the peer left before its opening was complete",
        role=role,
        peer=peer,
        seen=f"{'a reset' if reset else 'end of stream'} after {received} bytes",
        advice="port scans and health checks do this; a real peer would have waited or spoken",
        received=received,
        reset=reset,
    )


@attrs.frozen
class _TakenRole:
    """A role taken on one stream: all that its handshake, and its errors, go by."""

    stream: trio.abc.Stream
    credentials: Credentials
    settings: Settings
    decision: Decision
    remote: Address | None
    session: ssl.SSLSession | None = None
    server_hostname: str | None = None

    @property
    def peer(self) -> str | None:
        return format_address(self.remote)

    async def negotiate(self, opening: bytes) -> Connection:
        """Handshake, under one absolute deadline; ``opening`` is what came in the window."""
        role, timeout = self.decision.role, self.settings.handshake_timeout
        with trio.move_on_after(timeout):
            match role:
                case Role.SERVER:
                    handshake = await self._as_server(opening)
                case Role.CLIENT:
                    handshake = await self._as_client()
                case _:
                    assert_never(role)
            return Connection(
                handshake.tls,
                handshake.outgoing,
                decision=self.decision,
                local_address=local_address(self.stream),
                remote_address=self.remote,
            )
        raise HandshakeTimeoutError(
            f"the TLS handshake was not complete within {timeout:g} s",
            role=role,
            peer=self.peer,
            advice="the peer is slow, or no TLS "
            f"{role.other}; if it is slow, raise handshake_timeout",
            timeout=timeout,
        )

    def _handshake(self) -> Handshake:
        role = self.decision.role
        return Handshake(
            self.stream,
            self.credentials.context(role),
            role,
            peer=self.peer,
            server_hostname=self.server_hostname,
            session=self.session if role is Role.CLIENT else None,
            https_compatible=self.settings.https_compatible,
        )

    async def _as_server(self, received: bytes) -> Handshake:
        # Six bytes tell a ClientHello. They may come one at a time.
        while (opening := classify(received)).kind is OpeningKind.INCOMPLETE:
            try:
                more = await self.stream.receive_some(OPENING_SIZE)
            except trio.BrokenResourceError as exc:
                raise self._left(len(received), reset=True) from exc
            if not more:
                raise self._left(len(received), reset=False)
            received += more
        if opening.kind is not OpeningKind.CLIENT_HELLO:
            raise NotTLSError(
                "the peer spoke, but not as a TLS client",
                role=Role.SERVER,
                peer=self.peer,
                seen=opening.looks_like,
                advice="send this peer to another port, or set it to TLS",
                received=received[:64],
            )
        handshake = self._handshake()
        await handshake.complete(received)
        return handshake

    def _left(self, received: int, *, reset: bool) -> PeerClosedError:
        return _left(self.peer, received=received, reset=reset, role=Role.SERVER)

    async def _as_client(self) -> Handshake:
        handshake = self._handshake()
        window_closed = trio.current_time()
        hello = await handshake.send_client_hello()
        answer = await handshake.receive(OPENING_SIZE)
        arrived = trio.current_time()
        while (opening := classify(answer)).kind is OpeningKind.INCOMPLETE:
            answer += await handshake.receive(OPENING_SIZE)
        match opening.kind:
            case OpeningKind.OTHER_TLS:
                await handshake.complete(answer)
                return handshake
            case OpeningKind.CLIENT_HELLO:
                raise await self._crossing(handshake, hello, answer, arrived - window_closed)
            case OpeningKind.NOT_TLS:
                raise NotTLSError(
                    "the peer answered our ClientHello, but not as a TLS server",
                    role=Role.CLIENT,
                    peer=self.peer,
                    seen=opening.looks_like,
                    advice="send this peer to another port, or set it to TLS",
                    received=answer[:64],
                )
            case _:
                assert_never(opening.kind)

    async def _crossing(
        self, handshake: Handshake, hello: bytes, answer: bytes, missed_by: float
    ) -> DuplexError:
        """Tell glare from an echo, once OpenSSL has refused the peer's ClientHello."""
        refusal: HandshakeError | None = None
        try:
            while client_hello_random(answer) is None and len(answer) < MAX_HELLO_START:
                answer += await handshake.receive(OPENING_SIZE)
            await handshake.complete(answer)  # sends the alert unexpected_message
        except HandshakeError as exc:
            refusal = exc
        if client_hello_random(answer) == client_hello_random(hello):
            error: DuplexError = SelfConnectionError(
                "our own ClientHello came back",
                role=Role.CLIENT,
                peer=self.peer,
                seen="an echo of what we sent",
                advice="the peer echoes, or relays to ourselves: it is no TLS server",
            )
        else:
            error = GlareError(
                f"both ends sent a ClientHello: the window was missed by {missed_by:.3f} s",
                role=Role.CLIENT,
                peer=self.peer,
                seen="a ClientHello in answer to ours",
                tls_reason=refusal.tls_reason if refusal else None,
                advice=self._advice_on_glare(missed_by),
                missed_by=missed_by,
                window=self.decision.window,
            )
        error.__cause__ = refusal
        return error

    def _advice_on_glare(self, missed_by: float) -> str:
        if self.decision.reason is Reason.RULE:  # we dialled: the window was the listener's
            return (
                "the listener took us for silent, or is no TLS server: have its window raised, "
                "or dial as TLS server"
            )
        # The next tenth of a second above what would just have missed again.
        enough = (math.floor((self.decision.waited + missed_by) * 10) + 1) / 10
        return (
            f"set window to at least {enough:g} s on the side that listens "
            f"(it was {self.decision.window:g} s), or make the peer speak sooner"
        )
