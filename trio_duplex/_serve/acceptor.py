"""Accepting and negotiating for one server, under its limits, and reporting every event.

Detection is never part of ``accept``, where one silent peer would delay all connections
after it by a whole window. The `Room` admits each accepted connection, which then waits
in the waiting room of its listener until its role is decided. After that it has a task
of its own, and a failure ends only that connection.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn, Protocol

import attrs
import trio

from trio_duplex._decision.policy import Change
from trio_duplex._errors import LimitError, PeerRejectedError
from trio_duplex._events.events import (
    Accepted,
    Crossed,
    HandshakeCompleted,
    LimitReached,
    ListenerPaused,
    NegotiationFailed,
    Observer,
    OwnCertificateExpired,
    PeerChangedKind,
    PeerRejected,
    PolicyFailed,
    RoleDecided,
)
from trio_duplex._events.probes import MutedNetworks, Network, probe_of
from trio_duplex._events.report import Reporter
from trio_duplex._events.statistics import Statistics
from trio_duplex._role import Decision
from trio_duplex._serve.limits import (
    Limit,
    Limits,
    check_limits,
    open_files,
    raise_open_files,
)
from trio_duplex._serve.room import NothingSaidError, Place, Room
from trio_duplex._sockets.accept import Connected, Entrance
from trio_duplex._sockets.address import Address, format_address
from trio_duplex._sockets.keepalive import keep_alive
from trio_duplex._stream.detect import Detected, Heard, conclude, detect
from trio_duplex._stream.negotiate import abandon
from trio_duplex._stream.negotiation import Negotiation, Resumption
from trio_duplex._stream.settings import Settings
from trio_duplex._stream.take_role import take_role
from trio_duplex._trust.admission import Material
from trio_duplex._trust.credentials import Credentials, check_credentials

if TYPE_CHECKING:
    from trio_duplex._serve.waiting_room import Owner

CAPACITY_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""The errors of accept(2) if the machine has no room for one more connection."""

CAPACITY_PAUSE = 0.1
"""Seconds until the next try after such an error, the same as in ``trio.serve_listeners``."""

TASK_NAME = "trio_duplex connection"
"""The name of all connections' tasks. Trio would otherwise make a string of 100 bytes for each."""

Listener = trio.abc.Listener[trio.abc.Stream]


class Numbered(Protocol):
    """A connection that events can be about: a `Place`, or a peer that has none yet."""

    @property
    def number(self) -> int:
        """The number of the connection; each server counts from 1."""
        ...

    @property
    def remote(self) -> Address | None:
        """The peer's address."""
        ...


class Guests(Protocol):
    """Takes the accepted connections of one listener."""

    def enter(self, connection: Connected, remote: Address | None, number: int) -> object:
        """Take a connection, with its peer's address and its number."""
        ...

    def look_at_new(self) -> object:
        """Look for first bytes of those that have entered since the last call, which may have come by now."""
        ...


class Acceptor:
    """Accepts and negotiates for one server, on any number of listeners.

    Args:
        credentials: The credentials in force, which may be replaced.
        settings: How to negotiate.
        limits: The bounds, for all listeners together; None for the defaults.
        observers: Functions of one event.
        muted_networks: Networks whose peers are logged only at DEBUG.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A muted network can't be parsed.
    """

    def __init__(
        self,
        credentials: Credentials,
        settings: Settings,
        limits: Limits | None,
        observers: Iterable[Observer],
        *,
        muted_networks: Iterable[str | Network] = (),
    ) -> None:
        check_credentials(credentials)
        limits = check_limits(limits)
        if limits.raise_open_files:
            raise_open_files()
        self.credentials = credentials
        self.limits = limits
        self.reporter = Reporter(observers, MutedNetworks(muted_networks))
        self.room = Room(limits, self._limit_reached, self)
        self.settings = attrs.evolve(
            settings,
            close_timeout=limits.close_timeout,
            idle_timeout=limits.idle_timeout,
            send_timeout=limits.send_timeout,
            unsent_bytes=limits.unsent_bytes,
        )

    async def accept_each(self, listener: Listener, guests: Guests) -> NoReturn:
        """Accept for ever, and pass each connection to ``guests``.

        Raises:
            OSError: ``accept`` failed permanently. If it fails only because there is
                no room, the oldest pending peer makes room, and we try again.
            trio.ClosedResourceError: The listener was closed.
        """
        if isinstance(listener, trio.SocketListener):
            keep_alive(listener.socket, self.limits.keepalive, self.limits.ack_timeout)
        with Entrance(listener, guests.look_at_new) as entrance:
            while True:
                try:
                    connection, remote = await entrance.accept()
                except OSError as exc:
                    if exc.errno not in CAPACITY_ERRNOS:
                        raise
                    guests.look_at_new()
                    await self._pause(listener, exc)
                    continue
                if self.room.is_full:  # so that none that has spoken is taken for silent
                    guests.look_at_new()
                number = None
                try:
                    number = await self.room.enter(remote)
                finally:
                    if number is None:  # or cancelled
                        await _reset(connection)
                if number is not None:
                    self.reporter.report(Accepted(number=number, peer=format_address(remote)))
                    guests.enter(connection, remote, number)

    async def attend(
        self, stream: trio.abc.Stream, place: Place, owner: Owner, heard: Heard | None = None
    ) -> None:
        """Negotiate, and pass the connection to its owner; report a failure, and give up the place.

        A connection's task runs this method directly, because every frame around it would
        take memory for each connection.

        Args:
            stream: The accepted stream.
            place: Its place.
            owner: Gets the connection.
            heard: The result of waiting for the first bytes; None to wait for them here.
        """
        connection = None
        settings, remote = self.settings, place.remote
        if heard is None:
            detecting = detect(stream, settings, remote, place)
        else:
            detecting = conclude(heard, stream, settings, remote, place)
        try:
            try:
                connection = await take_role(self._negotiation(stream, await detecting, place))
            finally:
                if connection is None:
                    await abandon(stream)
        except* Exception as group:  # noqa: BLE001 - a policy may raise anything, even with Cancelled
            self.failed(place, unwrap_single(group))
        finally:
            place.negotiated()
            if connection is None:
                place.end()
                owner.negotiation_failed(place)
        del detecting, heard  # this frame lives as long as the connection
        self.tell_of_expiry(place)
        if connection is None:
            return
        self.reporter.report(
            HandshakeCompleted(
                number=place.number,
                peer=place.peer,
                connection=connection,
                seconds=trio.current_time() - place.decided_at,
            )
        )
        await owner.take(connection, place)

    def _negotiation(
        self, stream: trio.abc.Stream, detected: Detected, place: Place
    ) -> Negotiation:
        remote, settings = place.remote, self.settings
        return Negotiation(
            stream,
            settings,
            self._in_force,
            detected,
            remote,
            place,
            resumption=None
            if settings.session is None
            else Resumption.found(settings, detected, remote, self._in_force),
        )

    def tell_of_expiry(self, place: Numbered) -> None:
        """Report it if a certificate of ours has expired, because the peer's alert may not say so."""
        material = self._in_force()
        if material.not_after is not None and material.has_expired:
            self.reporter.report(
                OwnCertificateExpired(
                    peer=format_address(place.remote), not_after=material.not_after
                )
            )

    def _in_force(self) -> Material:
        return self.credentials.material

    def statistics(self) -> Statistics:
        """Return the counts so far and the current numbers."""
        return self.reporter.counts.statistics(
            pending=self.room.pending,
            handshaking={role: len(turns) for role, turns in self.room.turns.items()},
            observers_disabled=self.reporter.disabled,
            certificate_not_after=self._in_force().not_after,
        )

    async def run_background_tasks(self) -> None:
        """Log the limits, then run the background tasks of the room for ever."""
        self.reporter.log.limits(
            connections=self.limits.connections,
            pending=self.limits.pending,
            pending_per_address=self.limits.pending_per_address,
            open_files=open_files(),
        )
        await self.room.run_background_tasks()

    def failed(self, place: Numbered, error: Exception) -> None:
        """Report that a negotiation has failed."""
        if isinstance(error, NothingSaidError):
            return
        number, peer = place.number, format_address(place.remote)
        probe = probe_of(error, muted=peer in self.reporter.muted)
        if isinstance(error, PeerRejectedError):
            self.reporter.report(PeerRejected(number=number, peer=peer, error=error, probe=probe))
        else:
            if isinstance(error, LimitError):
                self._limit_reached(error.limit, error.value, peer)
            self.reporter.report(
                NegotiationFailed(number=number, peer=peer, error=error, probe=probe)
            )

    # The room's `Told` protocol.

    def decided(self, place: Place, decision: Decision) -> None:
        """Report a role decision."""
        self.reporter.report(RoleDecided(number=place.number, peer=place.peer, decision=decision))

    def crossed(self, place: Place, decision: Decision) -> None:
        """Report that two ClientHellos crossed."""
        self.reporter.report(Crossed(number=place.number, peer=place.peer, decision=decision))

    def peer_changed(self, place: Place, change: Change) -> None:
        """Report what a memory of peers has learned."""
        self.reporter.report(
            PeerChangedKind(
                number=place.number, peer=place.peer, key=change.key, silent=change.silent
            )
        )

    def policy_failed(self, place: Numbered, error: Exception) -> None:
        """Report that a window policy has failed."""
        peer = format_address(place.remote)
        self.reporter.report(PolicyFailed(number=place.number, peer=peer, error=error))

    def _limit_reached(self, limit: str, value: float, peer: str | None) -> None:
        self.reporter.report(LimitReached(limit=limit, value=value, peer=peer))

    async def _pause(self, listener: Listener, error: OSError) -> None:
        if isinstance(listener, trio.SocketListener) and not listener.socket.is_readable():
            # accept(2) allocates a descriptor before it looks for a connection, so it fails with
            # EMFILE even on an empty backlog. Make room only if a connection is waiting.
            await trio.lowlevel.wait_readable(listener.socket)
            return
        self.reporter.report(ListenerPaused(error=error, seconds=CAPACITY_PAUSE, peer=None))
        taken = self.room.taken
        self.room.make_room(Limit.OPEN_FILES)
        if self.room.taken < taken:  # the dropped peer has already ended
            await trio.lowlevel.checkpoint()
            return
        with trio.move_on_after(CAPACITY_PAUSE):
            await self.room.wait_freed()


def unwrap_single(group: ExceptionGroup[Exception]) -> Exception:
    """Return the exception in a group made by ``except*``, or the group if it has several."""
    return group.exceptions[0] if len(group.exceptions) == 1 else group


async def _reset(connection: Connected) -> None:
    """Close at once, over TCP with a reset, so that nothing lingers and there is no TIME_WAIT."""
    if isinstance(connection, trio.SocketStream):
        connection = connection.socket
    if isinstance(connection, trio.abc.Stream):
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(connection)
        return
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
