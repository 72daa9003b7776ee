"""From a listener to negotiated connections, under limits, with everything told.

Detection never sits inside ``accept``: one silent peer would hold up everybody
behind it by a whole window. Each accepted connection is admitted by the `Room`, and
waits in the waiting room of its listener until its role is decided. Then it has a task
of its own; what fails costs only that connection.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NoReturn, Protocol

import attrs
import trio

from trio_duplex._decision.rules import Change
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
"""What accept(2) says when the machine has no room for one more."""

CAPACITY_PAUSE = 0.1
"""Seconds until the next try after that: Trio's own figure."""

TASK_NAME = "trio_duplex connection"
"""Of each connection's task; Trio would make a new string of 100 bytes for each."""

Listener = trio.abc.Listener[trio.abc.Stream]


class Numbered(Protocol):
    """What can be told apart in events: a `Place`, or a peer that has none yet."""

    @property
    def number(self) -> int:
        """Counts connections of one server."""
        ...

    @property
    def remote(self) -> Address | None:
        """The peer's address."""
        ...


class Acceptor:
    """Accepts and negotiates for one server, on any number of listeners.

    Args:
        credentials: What is in force; may be replaced.
        settings: How to negotiate.
        limits: The bounds, for all listeners together; None for the defaults.
        observers: Functions of one event.
        muted_networks: Networks whose peers are not worth a line of the log.

    Raises:
        TypeError: One of them is something else.
        ValueError: A muted network is none.
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

    async def accept_each(
        self, listener: Listener, enter: Callable[[Connected, Address | None, int], object]
    ) -> NoReturn:
        """Accept for ever; ``enter`` takes over each connection, its peer's address and its number.

        Raises:
            OSError: ``accept`` failed for good. Where it only lacks room, the
                oldest pending peer makes room, and it is tried again.
            trio.ClosedResourceError: The listener was closed.
        """
        if isinstance(listener, trio.SocketListener):
            keep_alive(listener.socket, self.limits.keepalive, self.limits.ack_timeout)
        with Entrance(listener) as entrance:
            while True:
                try:
                    connection, remote = await entrance.accept()
                except OSError as exc:
                    if exc.errno not in CAPACITY_ERRNOS:
                        raise
                    await self._pause(listener, exc)
                    continue
                number = None
                try:
                    number = await self.room.enter(remote)
                finally:
                    if number is None:  # or cancelled
                        await _reset(connection)
                if number is not None:
                    self.reporter.report(Accepted(number=number, peer=format_address(remote)))
                    enter(connection, remote, number)

    async def attend(
        self, stream: trio.abc.Stream, place: Place, owner: Owner, heard: Heard | None = None
    ) -> None:
        """Negotiate, and hand over; on failure report it, and give up the place.

        It is what a connection's task runs, with nothing around it: each frame is held
        for each of them.

        Args:
            stream: The accepted stream.
            place: Its place.
            owner: Gets the connection.
            heard: What the wait for the first bytes has brought; None to wait for them here.
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
        except* Exception as group:  # noqa: BLE001 - a policy may raise anything, beside Cancelled
            self.failed(place, sole(group))
        finally:
            place.negotiated()
            if connection is None:
                place.end()
                owner.lost(place)
        del detecting, heard  # this frame lasts as long as the connection
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
            resumption=Resumption.found(settings, detected, remote, self._in_force()),
        )

    def tell_of_expiry(self, place: Numbered) -> None:
        """Report that a certificate of ours has ended, if it has: whatever the peer's alert, if any, says."""
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
        """The counts so far and the live numbers, frozen."""
        return self.reporter.counts.statistics(
            pending=self.room.pending,
            handshaking={role: len(turns) for role, turns in self.room.turns.items()},
            observers_disabled=self.reporter.disabled,
            certificate_not_after=self._in_force().not_after,
        )

    async def run_background_tasks(self) -> None:
        """Say what the limits are, then run what the room needs; for ever, beside the listeners."""
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

    # What the room tells of its places.

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
            # accept(2) asks for a descriptor before it looks for a connection.
            # It fails with EMFILE also if none is there, for which nobody should make room.
            await trio.lowlevel.wait_readable(listener.socket)
            return
        self.reporter.report(ListenerPaused(error=error, seconds=CAPACITY_PAUSE, peer=None))
        taken = self.room.taken
        self.room.make_room(Limit.OPEN_FILES)
        if self.room.taken < taken:  # it is gone already
            await trio.lowlevel.checkpoint()
            return
        with trio.move_on_after(CAPACITY_PAUSE):
            await self.room.wait_freed()


def sole(group: ExceptionGroup[Exception]) -> Exception:
    """The exception that ``except*`` wrapped, or the group where it holds more."""
    return group.exceptions[0] if len(group.exceptions) == 1 else group


async def _reset(connection: Connected) -> None:
    """Close at once and, over TCP, with a reset: no lingering, no TIME_WAIT."""
    if isinstance(connection, trio.SocketStream):
        connection = connection.socket
    if isinstance(connection, trio.abc.Stream):
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(connection)
        return
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
