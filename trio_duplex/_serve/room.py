"""Room for connections: who may come in, who waits, and who makes way.

Silence is cheap for the peer and means work for us, so the bounds are where the
cost is. A peer in its detection window costs little; the oldest of them makes
way for the newest. A peer that we have greeted costs ten times as much: those
handshakes take turns, and the oldest greeting that nobody has answered is shed
when others wait.

Bookkeeping alone, without I/O: a place is dropped by cancelling its scope.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from trio_duplex._errors import LimitError
from trio_duplex._role import Decision, Role
from trio_duplex._serve.limits import Limits, WhenFull
from trio_duplex._serve.turns import Turns
from trio_duplex._sockets.address import Address, format_address
from trio_duplex._sockets.crowd import Crowd
from trio_duplex._stream.supervision import Progress

OPEN_FILES = "open files"
"""The limit that is not in `Limits`, but the machine's."""

FAIR_CHANCE = 0.5
"""Seconds that a pending peer is safe from making room when all places are taken.
A speaking peer has spoken by then. Without it, the newest of a burst would each
push out the one before."""

LimitListener = Callable[[str, float, "str | None"], object]


class Place(Progress):
    """One connection's place, from accept to close.

    Attributes:
        number: Counts connections of one server, from 1.
        remote: The peer's address.
        entered: When it came in, on Trio's clock.
        decision: The role decision, once there is one.
        decided_at: When that was, on Trio's clock.
    """

    __slots__ = (
        "_room",
        "_scope",
        "_turn",
        "decided_at",
        "decision",
        "entered",
        "key",
        "number",
        "remote",
    )

    def __init__(self, room: Room, number: int, remote: Address | None, key: str | None) -> None:
        super().__init__()
        self._room = room
        self.number = number
        self.remote = remote
        self.key = key
        self.entered = trio.current_time()
        self.decision: Decision | None = None
        self.decided_at = 0.0
        self._scope: trio.CancelScope | None = None
        self._turn: Turns | None = None

    @property
    def peer(self) -> str | None:
        """The peer's address as text."""
        return format_address(self.remote)

    def sheddable(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        if self.shed is not None:  # before it had a scope
            scope.cancel()

    def readable(self, stream: trio.SocketStream) -> Awaitable[None]:
        return self._room.crowd.readable(stream.socket)

    def decided(self, decision: Decision) -> None:
        self.decision = decision
        self.decided_at = trio.current_time()
        self._room.on_decided(self, decision)

    async def take_turn(self, role: Role) -> None:
        turns = self._room.turns[role]
        if not turns.take(self):
            before = self._scope
            with trio.CancelScope() as scope:
                self.sheddable(scope)
                try:
                    await turns.wait(self)
                except trio.Cancelled:
                    # If it is the handshake's time that is up, then not for the
                    # peer's slowness, but for ours.
                    self.shed = self.shed or self._no_room(
                        "its turn to handshake did not come in time", turns.limit, turns.most
                    )
                    raise
            if self.shed is not None:
                turns.leave(self)
                raise self.shed
            self._scope = before
        self._turn = turns
        self._room.stop_pending(self)

    def answered(self) -> None:
        if self._turn is not None:
            self._turn.progressed(self)

    def drop(self, limit: str, value: float) -> None:
        """Have this connection end, as soon as it runs, for want of room."""
        self.shed = self._no_room("dropped to make room for others", limit, value)
        if self._scope is not None:
            self._scope.cancel()

    def _no_room(self, summary: str, limit: str, value: float) -> LimitError:
        return LimitError(
            summary,
            peer=self.peer,
            role=self.decision.role if self.decision else None,
            seen="as many open files as there can be"
            if limit == OPEN_FILES
            else f"the limit of {value:g} {limit} reached",
            advice="raise ulimit -n, or lower Limits.connections"
            if limit == OPEN_FILES
            else f"raise Limits.{limit} if there is memory for more",
            limit=limit,
            value=value,
        )

    def negotiated(self) -> None:
        """The negotiation is over, well or not."""
        self.shed = None  # its traceback leads to all that there was, and back to us
        if self._turn is not None:
            self._turn.leave(self)
            self._turn = None
        self._scope = None  # it is over, and this lasts as long as the connection
        self._room.stop_pending(self)
        self._room.not_leaving(self)

    def end(self) -> None:
        """The connection is closed; call it exactly once."""
        self.negotiated()
        self._room.free()


class Room:
    """The room that one server has for connections.

    Args:
        limits: The bounds.
        on_limit: Called with the limit's name, its value and the peer when a
            connection gets no place, or is held up. One that had its place
            ends in a `LimitError` instead.
        on_decided: Called with the place and the decision.
    """

    def __init__(
        self,
        limits: Limits,
        on_limit: LimitListener,
        on_decided: Callable[[Place, Decision], object],
    ) -> None:
        self.limits = limits
        self.on_decided = on_decided
        self.turns = {
            Role.CLIENT: Turns(
                limits.client_handshakes, limits.greeting_patience, "client_handshakes"
            ),
            Role.SERVER: Turns(
                limits.server_handshakes, limits.opening_patience, "server_handshakes"
            ),
        }
        self.crowd = Crowd()
        self.taken = 0
        self.number = 0
        self._on_limit = on_limit
        self._pending: dict[Place, None] = {}  # oldest first
        self._by_address: Counter[str] = Counter()
        self._leaving: set[Place] = set()  # dropped, but not gone yet
        self._waiting = 0  # accepted, and without a place yet
        self._freed = trio.lowlevel.ParkingLot()

    @property
    def pending(self) -> int:
        """Peers in their window, or waiting for their turn."""
        return len(self._pending)

    async def enter(self, remote: Address | None) -> Place | None:
        """Give an accepted connection its place, or None if it must be reset.

        Where all are taken, the oldest pending peer makes room. If there is
        none, it waits, so that nobody is accepted behind it.
        """
        key = address_key(remote)
        if not await self._wait_for_room(key, remote):
            return None
        if len(self._pending) >= self.limits.pending:
            self._drop_oldest("pending", self.limits.pending)
        self.number += 1
        self.taken += 1
        place = Place(self, self.number, remote, key)
        self._pending[place] = None
        if key is not None:
            self._by_address[key] += 1
        return place

    async def _wait_for_room(self, key: str | None, remote: Address | None) -> bool:
        limits, told = self.limits, False
        self._waiting += 1
        try:
            while True:
                if key is not None and self._by_address[key] >= limits.pending_per_address:
                    self._on_limit("pending_per_address", limits.pending_per_address, key)
                    return False
                if self.taken < limits.connections:
                    return True
                until = math.inf
                if self._waiting > len(self._leaving):  # or one is on its way out for us
                    if self.make_room("connections", limits.connections):
                        continue
                    until = self._next_chance()
                    if limits.when_full is WhenFull.RESET or (until == math.inf and not told):
                        self._on_limit("connections", limits.connections, format_address(remote))
                        told = True
                    if limits.when_full is WhenFull.RESET:
                        return False
                with trio.move_on_at(until):
                    await self._freed.park()
        finally:
            self._waiting -= 1

    def make_room(self, limit: str, value: float) -> bool:
        """Drop the oldest pending peer, if it has had its fair chance; tell whether."""
        if self._next_chance() > trio.current_time():
            return False
        self._drop_oldest(limit, value)
        return True

    def _next_chance(self) -> float:
        """When the oldest pending peer will have had its fair chance; inf if there is none."""
        oldest = next(iter(self._pending), None)
        return math.inf if oldest is None else oldest.entered + FAIR_CHANCE

    def _drop_oldest(self, limit: str, value: float) -> None:
        oldest = next(iter(self._pending))
        self.stop_pending(oldest)
        self._leaving.add(oldest)
        oldest.drop(limit, value)

    async def wait_freed(self) -> None:
        """Wait until a connection ends."""
        await self._freed.park()

    def stop_pending(self, place: Place) -> None:
        """A place has left the window and the line; may be called again."""
        if self._pending.pop(place, self) is None and place.key is not None:
            self._by_address[place.key] -= 1
            if not self._by_address[place.key]:
                del self._by_address[place.key]

    def not_leaving(self, place: Place) -> None:
        """A dropped place is gone, or its negotiation was over before it heard of it."""
        if place in self._leaving:
            self._leaving.remove(place)
            self._freed.unpark_all()

    def free(self) -> None:
        """A connection has ended."""
        self.taken -= 1
        self._freed.unpark_all()

    async def keep(self) -> None:
        """Hear those who wait, and shed what is overdue; runs for ever beside the listeners."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.crowd.watch)
            for turns in self.turns.values():
                nursery.start_soon(turns.shed_overdue)


def address_key(remote: Address | None) -> str | None:
    """What counts as one address: an IPv4 address, or an IPv6 /64 (RFC 6177)."""
    if not isinstance(remote, tuple):
        return None
    host = remote[0]
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))
