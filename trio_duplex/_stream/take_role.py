"""From a role to a connection: the handshake, what may go wrong, and the verdict.

The role is decided by now. What is left is under one absolute deadline: see the
rest of the opening, look for our own ClientHello in it, do the handshake on the
BIO pair, and ask whether this peer may take part.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable
from contextlib import nullcontext
from typing import assert_never

import attrs
import trio

from trio_duplex._decision.reflection import SentHellos
from trio_duplex._errors import (
    DuplexError,
    GlareError,
    HandshakeError,
    HandshakeTimeoutError,
    NotTLSError,
    PeerClosedError,
    SelfConnectionError,
)
from trio_duplex._role import Decision, Reason, Role
from trio_duplex._sockets.address import Address, format_address, local_address
from trio_duplex._stream.connection import Connection
from trio_duplex._stream.detect import OPENING_SIZE, peer_left_error
from trio_duplex._stream.settings import Settings
from trio_duplex._stream.supervision import Supervision
from trio_duplex._tls.flow import Flow
from trio_duplex._tls.handshake import Handshake
from trio_duplex._tls.last_words import send_alert
from trio_duplex._trust.admission import Material
from trio_duplex._trust.policy import server_name
from trio_duplex._wire.alerts import ALERT_HANDSHAKE_FAILURE, ALERT_RECORD_OVERFLOW
from trio_duplex._wire.foreign import advice_on
from trio_duplex._wire.hello import client_hello_random, random_may_follow
from trio_duplex._wire.opening import OpeningKind, classify, is_overlong

SENT_HELLOS = SentHellos()
"""Of the whole process: the two ends of a splice may be two listeners of it."""


@attrs.frozen
class TakenRole:
    """A role taken on one stream: all that its handshake, and its errors, go by.

    Args:
        stream: The raw stream; closing it on failure is the caller's task.
        in_force: Tells what we present and whom we trust, as it is now. The
            handshake begins with that, and at the verdict it is asked again.
        settings: The timeouts.
        decision: The role.
        remote: The peer's address.
        session: TLS session to resume in the client role.
        session_of: The state of the credentials to which the session belongs.
        server_hostname: Name to send as SNI in the client role.
        accepted: Whether the peer dialled: only then may it be ourselves.
        supervision: Is told each stage, and may hold it up or end it.
    """

    stream: trio.abc.Stream
    in_force: Callable[[], Material]
    settings: Settings
    decision: Decision
    remote: Address | None
    session: ssl.SSLSession | None = None
    session_of: Material | None = None
    server_hostname: str | None = None
    accepted: bool = True
    supervision: Supervision = attrs.field(factory=Supervision)
    _began: float = attrs.field(factory=trio.current_time, init=False)
    _made: list[Material] = attrs.field(factory=list[Material], init=False)

    @property
    def peer(self) -> str | None:
        return format_address(self.remote)

    async def negotiate(self, opening: bytes) -> Connection:
        """Handshake and judge the peer; ``opening`` is what came in the window."""
        role, timeout = self.decision.role, self.settings.handshake_timeout
        phase = "the TLS handshake was not complete"
        with self.supervision.stage(trio.current_time() + timeout):
            match role:
                case Role.SERVER:
                    handshake = await self._as_server(opening)
                case Role.CLIENT:
                    handshake = await self._as_client()
                case _:
                    assert_never(role)
            phase = "the peer policy had not decided"
            await self._admit(handshake)
            return Connection(
                Flow(
                    self.stream,
                    handshake.engine,
                    https_compatible=self.settings.https_compatible,
                ),
                decision=self.decision,
                local_address=local_address(self.stream),
                remote_address=self.remote,
            )
        self.supervision.check()
        raise HandshakeTimeoutError(
            f"{phase} within {timeout:g} s",
            role=role,
            peer=self.peer,
            advice=f"the peer is slow, or no TLS {role.other}; if slow, raise handshake_timeout",
            timeout=timeout,
        )

    def _handshake(self) -> Handshake:
        role = self.decision.role
        client = role is Role.CLIENT
        material = (self.session_of if client else None) or self.in_force()
        name = self.server_hostname
        if client and name is None:
            name = server_name(material.peer, self.remote)
        self._made.append(material)
        return Handshake(
            self.stream,
            material.context(role),
            role,
            peer=self.peer,
            server_hostname=name if client else None,
            session=self.session if client else None,
            max_certificate_bytes=self.settings.max_certificate_bytes,
            required_alpn=material.required_alpn[role],
        )

    async def _admit(self, handshake: Handshake) -> None:
        (verified_by,) = self._made
        judged_by: Material | None = None
        try:
            # A policy may take its time, and be replaced meanwhile: then the new one is asked too.
            while (in_force := self.in_force()) is not judged_by:
                await in_force.admit(
                    handshake.engine.peer_certificate(),
                    handshake.engine.peer_chain,
                    self.decision.role,
                    self.remote,
                    verified_by=verified_by,
                    resumed=handshake.engine.session_reused,
                )
                judged_by = in_force
            self.supervision.admitted(handshake.engine.peer_certificate())
        except Exception:  # a refusal, or a policy that failed: out either way
            await handshake.refuse()
            raise
        await handshake.finish()

    async def _as_server(self, received: bytes) -> Handshake:
        received, random = await self._read_opening(received)
        if random is None:  # it might be ours
            await self._handshake().refuse_opening(received)
        if self.accepted and random in SENT_HELLOS:
            await send_alert(self.stream, ALERT_HANDSHAKE_FAILURE)
            raise self._our_own_hello("the peer sent us a ClientHello of ours")
        await self.supervision.take_turn(Role.SERVER)
        handshake = self._handshake()
        await handshake.complete(received)
        return handshake

    async def _read_opening(self, received: bytes) -> tuple[bytes, bytes | None]:
        """Read on until the opening tells what it is and, if a ClientHello, whose.

        Six bytes tell a ClientHello, 43 its random; they may come one at a time.

        Returns:
            All that was received, and the random; None if it can't be found.
        """
        while True:
            opening = classify(received)
            match opening.kind:
                case OpeningKind.INCOMPLETE:
                    pass
                case OpeningKind.CLIENT_HELLO:
                    random = client_hello_random(received)
                    if random is not None or not random_may_follow(received):
                        return received, random
                case OpeningKind.OTHER_TLS | OpeningKind.NOT_TLS:
                    await self._answer_overlong_record(received)
                    raise NotTLSError(
                        "the peer spoke, but not as a TLS client",
                        role=Role.SERVER,
                        peer=self.peer,
                        seen=opening.looks_like,
                        advice=advice_on(opening.looks_like),
                        received=received[:64],
                    )
                case _:
                    assert_never(opening.kind)
            try:
                more = await self.stream.receive_some(OPENING_SIZE)
            except trio.BrokenResourceError as exc:
                raise self._left(len(received), reset=True) from exc
            if not more:
                raise self._left(len(received), reset=False)
            received += more

    async def _answer_overlong_record(self, received: bytes) -> None:
        if is_overlong(received):  # the one fault of a first record that a TLS peer has made
            await send_alert(self.stream, ALERT_RECORD_OVERFLOW)

    def _left(self, received: int, *, reset: bool) -> PeerClosedError:
        return peer_left_error(self.peer, received=received, reset=reset, role=Role.SERVER)

    async def _as_client(self) -> Handshake:
        await self.supervision.take_turn(Role.CLIENT)
        handshake = self._handshake()
        hello = handshake.client_hello()
        random = client_hello_random(hello)
        assert random is not None  # OpenSSL's own
        # Before the first byte leaves: a relay is as quick as the scheduler.
        with SENT_HELLOS.remember(random) if self.accepted else nullcontext():
            await handshake.send(hello)
            answer = await handshake.receive(OPENING_SIZE)
            arrived = trio.current_time()
            self.supervision.answered()
            while (opening := classify(answer)).kind is OpeningKind.INCOMPLETE:
                answer += await handshake.receive(OPENING_SIZE)
            match opening.kind:
                case OpeningKind.OTHER_TLS:
                    await handshake.complete(answer)
                    return handshake
                case OpeningKind.CLIENT_HELLO:
                    missed_by = arrived - self._began
                    raise await self._crossing(handshake, random, answer, missed_by)
                case OpeningKind.NOT_TLS:
                    await self._answer_overlong_record(answer)
                    raise NotTLSError(
                        "the peer answered our ClientHello, but not as a TLS server",
                        role=Role.CLIENT,
                        peer=self.peer,
                        seen=opening.looks_like,
                        advice=advice_on(opening.looks_like),
                        received=answer[:64],
                    )
                case _:
                    assert_never(opening.kind)

    async def _crossing(
        self, handshake: Handshake, ours: bytes, answer: bytes, missed_by: float
    ) -> DuplexError:
        """Tell glare from an echo, once OpenSSL has refused the peer's ClientHello."""
        refusal: HandshakeError | None = None
        try:
            while client_hello_random(answer) is None and random_may_follow(answer):
                answer += await handshake.receive(OPENING_SIZE)
            await handshake.complete(answer)  # sends the alert unexpected_message
        except HandshakeError as exc:
            refusal = exc
        theirs = client_hello_random(answer)
        if theirs == ours or (self.accepted and theirs in SENT_HELLOS):
            error: DuplexError = self._our_own_hello("a ClientHello of ours came back")
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

    def _our_own_hello(self, summary: str) -> SelfConnectionError:
        return SelfConnectionError(
            summary,
            role=self.decision.role,
            peer=self.peer,
            seen="a ClientHello that this process sent on an accepted connection",
            advice="the peer echoes, or relays us to ourselves: find out who does at its address",
        )
