"""What both roles need to know of one negotiation, and the one place where a handshake takes its turn."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import attrs
import trio

from trio_duplex._decision.facts import Conduct
from trio_duplex._role import Decision, Role
from trio_duplex._sockets.address import Address, format_address
from trio_duplex._stream.detect import Detected
from trio_duplex._stream.lesson import Lesson
from trio_duplex._stream.settings import Settings
from trio_duplex._stream.supervision import Supervision
from trio_duplex._tls.handshake import Handshake
from trio_duplex._trust.admission import Material
from trio_duplex._trust.policy import server_name


@attrs.frozen(eq=False)
class Resumption:
    """A TLS session to resume in the client role.

    Attributes:
        session: The session.
        material: The state of the credentials to which it belongs: a reload in the
            meantime must not part them.
    """

    session: ssl.SSLSession
    material: Material

    @classmethod
    def of(cls, session: ssl.SSLSession, material: Material) -> Resumption:
        """Make one.

        Raises:
            ValueError: The session belongs to another context.
        """
        context = material.context(Role.CLIENT)
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), session=session)
        return cls(session, material)

    @classmethod
    def found(
        cls,
        settings: Settings,
        detected: Detected,
        remote: Address | None,
        in_force: Callable[[], Material],
    ) -> Resumption | None:
        """Ask the server's ``session`` option, if we are the TLS client.

        A session of a context that a reload has replaced meanwhile is left out, because a
        reload must not cost connections.
        """
        if detected.decision.role is not Role.CLIENT or settings.session is None:
            return None
        material, session = in_force(), settings.session(remote)
        try:
            return None if session is None else cls.of(session, material)
        except ValueError:
            return None


@attrs.frozen(eq=False)
class Attempt:
    """A handshake under way.

    Attributes:
        handshake: The handshake.
        material: Our certificate, and what the peer is verified against.
    """

    handshake: Handshake
    material: Material


@attrs.frozen(eq=False)
class Negotiation:
    """A negotiation whose role is decided. It is made once, by the function that has the stream.

    Attributes:
        stream: The raw stream; closing it on failure is the caller's task.
        settings: How to negotiate.
        in_force: Returns what we present and whom we trust at the moment. It is asked
            when the handshake begins, and again at the verdict.
        detected: The result of the detection window.
        remote: The peer's address.
        supervision: Is told each stage, and may hold it up or end it.
        resumption: What to resume in the client role.
        server_hostname: Name to send as SNI in the client role; None takes it from
            the peer policy.
        accepted: Whether the peer dialled: only then may it be ourselves.
        either: Whether we may play the other role, too, if two ClientHellos cross.
        announce: Whether to announce our role, in the server role.
    """

    stream: trio.abc.Stream
    settings: Settings
    in_force: Callable[[], Material]
    detected: Detected
    remote: Address | None
    supervision: Supervision
    resumption: Resumption | None = None
    server_hostname: str | None = None
    accepted: bool = True
    either: bool = True
    announce: bool = False

    @property
    def peer(self) -> str | None:
        """The peer's address as text."""
        return format_address(self.remote)

    @property
    def decision(self) -> Decision:
        """The role that was decided by the window."""
        return self.detected.decision

    @property
    def lesson(self) -> Lesson | None:
        """Where the window policy learns what becomes of the connection."""
        return self.detected.lesson

    async def begin(self, role: Role) -> Attempt:
        """Wait for a turn to handshake in ``role``, and then make the TLS object.

        Raises:
            LimitError: The turn did not come in time.
        """
        await self.supervision.take_turn(role)
        return self.attempt(role)

    def attempt(self, role: Role) -> Attempt:
        """Make the TLS object without a turn, which is for a peer that is refused at once."""
        client = role is Role.CLIENT
        resumption = self.resumption if client else None
        material = self.in_force() if resumption is None else resumption.material
        name = self.server_hostname
        if client and name is None:
            name = server_name(material.peer, self.remote)
        handshake = Handshake(
            self.stream,
            material.context(role),
            role,
            peer=self.peer,
            server_hostname=name if client else None,
            session=None if resumption is None else resumption.session,
            max_certificate_bytes=self.settings.max_certificate_bytes,
            required_alpn=material.required_alpn[role],
            slow_key=material.slow_key,
        )
        return Attempt(handshake, material)

    def learn(self, conduct: Conduct, waited: float, *, admitted: bool) -> None:
        """Tell the window policy what became of the connection, if it learns at all."""
        if self.lesson is not None:
            self.lesson.tell(conduct, waited, admitted=admitted)
