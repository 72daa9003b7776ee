"""Scripted peers: the base classes, and the peers that do nothing wrong.

A peer is a script for the far end of a connection. ``await peer.run(target)``
dials, plays the script to its end and returns a report; ``peer.run_sync`` does
the same for a test that does not use Trio. A peer can be run any number of times.
To write your own peer, subclass `Peer` and define `Peer.script`.
"""

from __future__ import annotations

import abc
import functools
import ssl
from collections.abc import Awaitable, Callable
from typing import ClassVar

import attrs
import trio

from trio_duplex import Role
from trio_duplex.testing._certificates import Certificate, Contexts, PeerCredentials, anonymous
from trio_duplex.testing._target import Target, connect
from trio_duplex.testing._transcript import PeerReport, Transcript
from trio_duplex.testing._wire import PeerStream, Wire

ANNOUNCEMENT = bytes.fromhex("15 0303 0002 01 5a")
"""The usual announcement: the TLS alert user_canceled at level warning, "please begin yourself"."""

HELLO_REQUEST = bytes.fromhex("16 0303 0004 00000000")
"""The other form of the announcement: a plaintext HelloRequest in a record of its own (RFC 5246,
section 7.4.1.1)."""

Talk = Callable[[PeerStream], Awaitable[object]]
"""What to do with a peer's open TLS stream: an async function of it."""


@attrs.define(slots=False, eq=False, kw_only=True)
class Peer(abc.ABC):
    """A scripted peer; the base class of all.

    Attributes:
        credentials: What the peer presents and whom it trusts. With None, it
            presents a certificate that nobody trusts, and trusts everybody.
            Peers that come from a fixture get a certificate of
            ``duplex_authority``.
        patience: Seconds that a single send or receive may take before the
            peer gives up; its report then has a ``trio.TooSlowError``. The
            default of 60 is twice the time that a server allows a handshake.
        report: What the peer has seen so far in its latest run.
    """

    kind: ClassVar[str] = "scripted peer"
    """The name of this kind of peer in reports."""

    credentials: Contexts | None = None
    patience: float = 60.0
    report: PeerReport = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.report = self._new_report()

    def plays(self) -> Role | None:
        """Return the TLS role that the peer is going to play; None for no TLS at all."""
        return None

    @abc.abstractmethod
    async def script(self, wire: Wire) -> None:
        """Play the peer's part.

        Args:
            wire: The connection, which is closed afterwards. `Wire.tls` makes a
                TLS stream on it.
        """

    async def run(self, target: Target) -> PeerReport:
        """Dial, play the script to its end, and return the report.

        This does not raise because of anything that the other end does; see the
        report for that. Errors of the test itself (for instance in a ``talk``)
        do raise.

        Args:
            target: ``(host, port)``; a `trio_duplex.Server`; a
                `MemoryListener`; anything with such an ``address``; or a raw
                stream.

        Raises:
            OSError: Nobody listens there.
        """
        # Make the context before the connection, so that it takes no time of the other end's window.
        credentials = self.credentials or self.default_credentials()
        role = self.plays()
        context = None if role is None else context_of(credentials, role)
        self.report = report = self._new_report()
        stream, how = await connect(target)
        wire = Wire(stream, report, self.patience, context)
        wire.note(how)
        try:
            await self.script(wire)
        except (ssl.SSLError, EOFError, trio.BrokenResourceError, trio.TooSlowError) as exc:
            report.error = exc
            wire.note(f"the script ends early: {exc!r}")
        finally:
            report.seconds = wire.seconds
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
        return report

    def run_sync(self, target: Target) -> PeerReport:
        """Run the peer from a test that does not use Trio; this blocks until the peer has ended.

        Raises:
            OSError: Nobody listens there.
            RuntimeError: This was called inside Trio; await `run` there.
        """
        return trio.run(self.run, target)

    def default_credentials(self) -> Contexts:
        """Return what the peer presents and trusts if it was given no credentials."""
        return anonymous()

    def _new_report(self) -> PeerReport:
        return PeerReport(self.kind, Transcript(self.kind))


def context_of(credentials: Contexts, role: Role) -> ssl.SSLContext:
    """Return the context of these credentials for a TLS role."""
    # To make a context takes a millisecond, and a thousand peers may share a certificate.
    if isinstance(credentials, Certificate | PeerCredentials):
        return _cached_context(credentials, role)
    return credentials.context(role)  # do not cache this one: `Credentials` can be reloaded


@functools.lru_cache(maxsize=64)
def _cached_context(credentials: Certificate | PeerCredentials, role: Role) -> ssl.SSLContext:
    return credentials.context(role)


@attrs.define(slots=False, eq=False, kw_only=True)
class TalkingPeer(Peer):
    """A peer that completes the handshake and then talks.

    Attributes:
        say: Bytes that it sends once the handshake is complete.
        hear: How many bytes of an answer it waits for before it sends a
            close_notify. Bytes that come later, until the other end finishes,
            too, are also in the report.
        talk: An async function of the open stream, to be used instead of
            ``say`` and ``hear``.
    """

    say: bytes = b"hello"
    hear: int = 1
    talk: Talk | None = None

    async def converse(self, stream: PeerStream) -> None:
        """Talk, and finish with a close_notify."""
        if self.talk is not None:
            await self.talk(stream)
        else:
            if self.say:
                await stream.send_all(self.say)
            while len(stream.wire.report.heard) < self.hear and await stream.receive_some():
                pass
        await stream.farewell()


@attrs.define(slots=False, eq=False, kw_only=True)
class SpeakingPeer(TalkingPeer):
    """A TLS client: it sends its ClientHello at once.

    Attributes:
        server_hostname: Name to send as SNI; None to send none.
    """

    kind: ClassVar[str] = "speaking peer"

    server_hostname: str | None = None

    def plays(self) -> Role | None:
        """Return the client role."""
        return Role.CLIENT

    async def script(self, wire: Wire) -> None:
        """Handshake as TLS client, and talk."""
        stream = wire.tls(Role.CLIENT, server_hostname=self.server_hostname)
        await stream.handshake()
        await self.converse(stream)


@attrs.define(slots=False, eq=False, kw_only=True)
class SilentPeer(TalkingPeer):
    """A TLS server that dialled: it stays silent until a ClientHello comes."""

    kind: ClassVar[str] = "silent peer"

    def plays(self) -> Role | None:
        """Return the server role."""
        return Role.SERVER

    async def script(self, wire: Wire) -> None:
        """Wait for the ClientHello, handshake as TLS server, and talk."""
        stream = wire.tls(Role.SERVER)
        await stream.handshake()
        await self.converse(stream)


@attrs.define(slots=False, eq=False, kw_only=True)
class AnnouncingPeer(SilentPeer):
    """A silent peer that sends an announcement first.

    Attributes:
        announcement: The bytes of the announcement: the alert user_canceled, or
            another form.
    """

    kind: ClassVar[str] = "announcing peer"

    announcement: bytes = ANNOUNCEMENT

    async def script(self, wire: Wire) -> None:
        """Announce the role, then be silent."""
        await wire.send(self.announcement)
        await super().script(wire)


@attrs.define(slots=False, eq=False, kw_only=True)
class LatePeer(SpeakingPeer):
    """A speaking peer that waits before it sends the ClientHello.

    If the other end has sent its own by then, the two cross. This is how real
    programs that are slow to start behave. For a crossing that does not depend on
    a clock, see `CrossingPeer`.

    Attributes:
        late_by: Seconds from the connection to the ClientHello.
    """

    kind: ClassVar[str] = "late peer"

    late_by: float = 1.0

    async def script(self, wire: Wire) -> None:
        """Wait, then be a speaking peer."""
        await trio.sleep(self.late_by)
        await super().script(wire)


@attrs.define(slots=False, eq=False, kw_only=True)
class DribblingPeer(SpeakingPeer):
    """A speaking peer that sends its ClientHello a few bytes at a time.

    Attributes:
        size: Bytes to send at a time.
        pause: Seconds between two sends.
        record_size: First cut the ClientHello into TLS records with this many
            bytes of content each; None leaves it in one record.
        whole_handshake: Whether to send the rest of the handshake in the same way.
    """

    kind: ClassVar[str] = "dribbling peer"

    size: int = 1
    pause: float = 0.001
    record_size: int | None = None
    whole_handshake: bool = False

    async def script(self, wire: Wire) -> None:
        """Dribble, then talk."""
        stream = wire.tls(Role.CLIENT, server_hostname=self.server_hostname)
        await self._dribble(wire, stream.client_hello(record_size=self.record_size))
        if self.whole_handshake:
            await stream.handshake(send=lambda data: self._dribble(wire, data))
        else:
            await stream.handshake()
        await self.converse(stream)

    async def _dribble(self, wire: Wire, data: bytes) -> None:
        await wire.dribble(data, size=self.size, pause=self.pause)
