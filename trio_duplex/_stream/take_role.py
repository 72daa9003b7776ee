"""From a role to a connection: the handshake, what may go wrong, and the verdict.

The role is decided by now. What is left is under one absolute deadline: see the
rest of the opening, look for our own ClientHello in it, do the handshake on the
BIO pair, and ask whether this peer may take part.

The role may still change, once: where the peer's ClientHello crossed ours and has the
larger random, we start over as the server (`_decision/glare.py`). The decision, the
turn and what the policy learns change with it.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable
from contextlib import nullcontext
from typing import assert_never

import attrs
import trio

from trio_duplex._decision.facts import Conduct
from trio_duplex._decision.glare import Crossing, Resolution, resolve
from trio_duplex._decision.reflection import SentHellos
from trio_duplex._errors import (
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
from trio_duplex._stream.lesson import Lesson
from trio_duplex._stream.settings import Settings
from trio_duplex._stream.supervision import Supervision
from trio_duplex._tls.flow import Flow
from trio_duplex._tls.handshake import Handshake
from trio_duplex._tls.last_words import send_alert
from trio_duplex._trust.admission import Material
from trio_duplex._trust.policy import server_name
from trio_duplex._wire.alerts import ALERT_HANDSHAKE_FAILURE, ALERT_RECORD_OVERFLOW
from trio_duplex._wire.announcement import ANNOUNCEMENT
from trio_duplex._wire.foreign import advice_on
from trio_duplex._wire.hello import (
    HelloKind,
    HelloReader,
    client_hello_random,
    random_may_follow,
)
from trio_duplex._wire.opening import OpeningKind, classify, is_overlong
from trio_duplex._wire.records import CLIENT_HELLO_TYPE

SENT_HELLOS = SentHellos()
"""Of the whole process: the two ends of a splice may be two listeners of it."""


@attrs.define(eq=False)
class TakenRole:
    """A role taken on one stream: all that its handshake, and its errors, go by.

    Args:
        stream: The raw stream; closing it on failure is the caller's task.
        in_force: Tells what we present and whom we trust, as it is now. The
            handshake begins with that, and at the verdict it is asked again.
        settings: The timeouts.
        decision: The role; another one after glare in which the peer stays client.
        began: When the time for the handshake began.
        remote: The peer's address.
        session: TLS session to resume in the client role.
        session_of: The state of the credentials to which the session belongs.
        server_hostname: Name to send as SNI in the client role.
        accepted: Whether the peer dialled: only then may it be ourselves.
        either: Whether we may play the other role, too, if two ClientHellos cross.
        announce: Whether to announce our role, in the server role.
        lesson: Where the window policy learns what becomes of it.
        supervision: Is told each stage, and may hold it up or end it.
    """

    stream: trio.abc.Stream
    in_force: Callable[[], Material]
    settings: Settings
    decision: Decision
    began: float
    remote: Address | None
    session: ssl.SSLSession | None = None
    session_of: Material | None = None
    server_hostname: str | None = None
    accepted: bool = True
    either: bool = True
    announce: bool = False
    lesson: Lesson | None = None
    supervision: Supervision = attrs.field(factory=Supervision)
    _made: list[Material] = attrs.field(factory=list[Material], init=False)
    _late_by: float | None = attrs.field(default=None, init=False)  # of the peer's ClientHello

    @property
    def peer(self) -> str | None:
        return format_address(self.remote)

    async def negotiate(self, opening: bytes) -> Connection:
        """Handshake and judge the peer; ``opening`` is what came in the window."""
        timeout = self.settings.handshake_timeout
        phase = "the TLS handshake was not complete"
        with self.supervision.stage(self.began + timeout):
            match self.decision.role:
                case Role.SERVER:
                    handshake = await self._as_server(opening)
                case Role.CLIENT:
                    handshake = await self._as_client(opening)
                case _:
                    assert_never(self.decision.role)
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
        role = self.decision.role
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
            self._learn_from_admitted()
        except Exception:  # a refusal, or a policy that failed: out either way
            await handshake.refuse()
            raise
        await handshake.finish()

    def _learn_from_admitted(self) -> None:
        if self.lesson is None:
            return
        if self._late_by is not None:
            self.lesson.tell(Conduct.LATE, self._late_after(), admitted=True)
        else:
            conduct = Conduct.SPOKE if self.decision.role is Role.SERVER else Conduct.SILENT
            self.lesson.tell(conduct, self.decision.waited, admitted=True)

    def _late_after(self) -> float:
        """Seconds from accept to the peer's ClientHello, which came after the window."""
        assert self._late_by is not None
        counted_in = self.decision.role is Role.SERVER
        return self.decision.waited + (0.0 if counted_in else self._late_by)

    async def _as_server(self, received: bytes) -> Handshake:
        if self.announce:
            try:
                await self.stream.send_all(ANNOUNCEMENT)
            except trio.BrokenResourceError as exc:
                raise self._left(0, reset=True) from exc
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

    async def _as_client(self, received: bytes) -> Handshake:
        handshake = await self._begin_as_client(received)
        if isinstance(handshake, bytes):
            return await self._start_over_as_server(handshake)
        return handshake

    async def _begin_as_client(self, received: bytes) -> Handshake | bytes:
        """Say our ClientHello, and go by what comes back.

        Args:
            received: What has come behind an announcement.

        Returns:
            The handshake, at our end of it; or, where the peer's ClientHello crossed ours
            and it is the peer that stays client, all that it has sent.
        """
        await self.supervision.take_turn(Role.CLIENT)
        handshake = self._handshake()
        hello = handshake.client_hello()
        random = client_hello_random(hello)
        assert random is not None  # OpenSSL's own
        # Before the first byte leaves: a relay is as quick as the scheduler.
        with SENT_HELLOS.remember(random) if self.accepted else nullcontext():
            await handshake.send(hello)
            answer = received or await handshake.receive(OPENING_SIZE)
            arrived = trio.current_time()
            self.supervision.answered()
            answer, kind = await self._read_answer(handshake, answer)
            if kind is OpeningKind.OTHER_TLS:
                await handshake.complete(answer)
                return handshake
            crossing, answer = await self._crossing(handshake, random, answer, arrived - self.began)
            if crossing.resolution is Resolution.SERVER:
                return answer
            await self._complete_as_before(handshake, answer[crossing.dropped :])
            return handshake

    async def _read_answer(self, handshake: Handshake, answer: bytes) -> tuple[bytes, OpeningKind]:
        """Read on until the answer to our ClientHello tells what it is.

        Returns:
            All that was received; and ``OTHER_TLS`` for an answer, as TLS goes, or
            ``CLIENT_HELLO``.
        """
        while (opening := classify(answer)).kind is OpeningKind.INCOMPLETE:
            answer += await handshake.receive(OPENING_SIZE)
        if opening.kind is OpeningKind.NOT_TLS:
            await self._answer_overlong_record(answer)
            raise NotTLSError(
                "the peer answered our ClientHello, but not as a TLS server",
                role=Role.CLIENT,
                peer=self.peer,
                seen=opening.looks_like,
                advice=advice_on(opening.looks_like),
                received=answer[:64],
            )
        return answer, opening.kind

    async def _crossing(
        self, handshake: Handshake, ours: bytes, answer: bytes, late_by: float
    ) -> tuple[Crossing, bytes]:
        """Tell glare from an echo, and find out who goes on as the client.

        Returns:
            The resolution, `Resolution.CLIENT` or `Resolution.SERVER`, and all that
            the peer has sent.

        Raises:
            SelfConnectionError: It is a ClientHello of ours. The peer was sent an alert,
                as in the next case.
            GlareError: The crossing can't be resolved, or must not.
        """
        left: HandshakeError | None = None
        crossing = Crossing(Resolution.MALFORMED)
        try:
            while client_hello_random(answer) is None and random_may_follow(answer):
                answer += await handshake.receive(OPENING_SIZE)
        except HandshakeError as exc:
            left = exc
        theirs = client_hello_random(answer)
        if theirs == ours or (self.accepted and theirs in SENT_HELLOS):
            refusal = left or await self._refuse_client_hello(handshake, answer)
            raise self._our_own_hello("a ClientHello of ours came back") from refusal
        self._late_by = late_by
        if self.lesson is not None:
            self.lesson.tell(Conduct.LATE, self._late_after(), admitted=False)
        if self.either and left is None and theirs is not None:
            # Through a reader, because to resolve takes time in proportion to what has
            # come, and it may come byte by byte.
            reader, parts = HelloReader(CLIENT_HELLO_TYPE), [answer]
            try:
                while reader.feed(parts[-1]) is HelloKind.INCOMPLETE:
                    parts.append(await handshake.receive(OPENING_SIZE))
            except HandshakeError as exc:
                left = exc
            answer = b"".join(parts)
            crossing = resolve(ours, answer)
        if crossing.resolution not in (Resolution.CLIENT, Resolution.SERVER):
            refusal = left or await self._refuse_client_hello(handshake, answer)
            raise self._glare(refusal) from refusal
        self._take_role_after_glare(crossing.resolution)
        return crossing, answer

    async def _refuse_client_hello(
        self, handshake: Handshake, hello: bytes
    ) -> HandshakeError | None:
        """Have OpenSSL write the alert unexpected_message, and send it."""
        try:
            await handshake.complete(hello)
        except HandshakeError as exc:
            return exc
        return None

    def _take_role_after_glare(self, resolution: Resolution) -> None:
        """Change the decision, which names the role that we go on in, and say so."""
        assert self._late_by is not None
        before = self.decision
        why = f"{before.rule}; " if before.rule else ""
        if resolution is Resolution.CLIENT:
            rule = f"{why}two ClientHellos crossed, and ours had the larger random"
            self.decision = attrs.evolve(before, rule=rule)
        else:
            self.decision = Decision(
                Role.SERVER,
                Reason.SPOKE,
                waited=before.waited + self._late_by,
                window=before.window,
                rule=f"{why}two ClientHellos crossed, and the peer's had the larger random",
            )
        self.supervision.crossed(self.decision)

    async def _start_over_as_server(self, received: bytes) -> Handshake:
        """Forget our ClientHello, and answer the peer's."""
        self._made.clear()
        await self.supervision.take_turn(Role.SERVER)
        handshake = self._handshake()
        try:
            await handshake.complete(received)
        except HandshakeError as exc:
            if self._is_abort(exc):
                raise self._glare(exc) from exc
            raise
        return handshake

    async def _complete_as_before(self, handshake: Handshake, rest: bytes) -> None:
        """Go on as the client: what follows the peer's ClientHello is the answer to ours."""
        try:
            rest, kind = await self._read_answer(
                handshake, rest or await handshake.receive(OPENING_SIZE)
            )
            if kind is OpeningKind.CLIENT_HELLO:  # another one
                refusal = await self._refuse_client_hello(handshake, rest)
                raise self._glare(refusal) from refusal
            await handshake.complete(rest)
        except HandshakeError as exc:
            if self._is_abort(exc):
                raise self._glare(exc) from exc
            raise

    def _is_abort(self, error: HandshakeError) -> bool:
        """Whether a failure after glare is the end of a peer that knows nothing of this."""
        # It sends its alert in the clear. Where we have gone on as a TLS 1.3 server, OpenSSL
        # expects another version in the record's header by now, and says only that.
        reason = error.tls_reason or ""
        aborted = error.hung_up or "unexpected_message" in reason or "wrong version" in reason
        return aborted and not isinstance(error, GlareError)

    def _glare(self, refusal: HandshakeError | None) -> GlareError:
        assert self._late_by is not None
        late_by = self._late_by
        return GlareError(
            f"both ends sent a ClientHello: the window was missed by {late_by:.3f} s",
            role=Role.CLIENT,  # as which we sent ours
            peer=self.peer,
            seen="a ClientHello in answer to ours",
            tls_reason=refusal.tls_reason if refusal else None,
            advice=self._advice_on_glare(),
            missed_by=late_by,
            window=self.decision.window,
        )

    def _advice_on_glare(self) -> str:
        if not self.accepted and self.either:
            return "the peer is a TLS client and can't resolve this: dial with role=Role.SERVER"
        if not self.accepted:  # the window was the listener's
            return (
                "the listener took us for silent, or is no TLS server: have its window raised, "
                "or dial with role=Role.SERVER, or with role=None for either"
            )
        if self.decision.reason is Reason.RULE:
            return f"a rule takes this peer for silent, and it speaks: change it ({self.decision.rule})"
        # The next tenth of a second above what would just have missed again.
        enough = (math.floor(self._late_after() * 10) + 1) / 10
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
