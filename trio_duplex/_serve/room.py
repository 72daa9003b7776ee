"""The room for connections: which are admitted, which wait, and which are dropped.

A silent peer costs us work, but costs the peer nothing, so there is a bound for each
kind of cost. A peer in its detection window costs little. When there is no room for
more of these, the address with the most of them makes room: its oldest is dropped. A
peer that we have greeted costs much more, so those handshakes take turns
(`_serve/turns.py`).

This is bookkeeping without I/O. A connection is represented by its number. While it is
pending, it has a holder: the waiting room of its listener, or, once it has a task, its
place. To drop a connection, the room calls its holder. The room owns all transitions: a
place reports what has happened, and changes nothing itself.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Protocol

import trio

from trio_duplex._decision.policy import Change
from trio_duplex._errors import LimitError
from trio_duplex._role import Decision, Role
from trio_duplex._serve.addresses import ByAddress, address_key
from trio_duplex._serve.limits import Limit, Limits, WhenFull, open_files
from trio_duplex._serve.turns import Turns
from trio_duplex._sockets.address import Address, format_address
from trio_duplex._stream.supervision import Supervision

FAIR_CHANCE = 0.5
"""Seconds for which a pending peer can't be dropped to make room when all places are taken.
A speaking peer has spoken by then. Without this, each new peer of a burst would push out the
one before it."""

CROWDING = 8
"""An address that has one in this many of the pending peers makes room before all others, even
if we have to wait until its oldest peer has had its fair chance."""

LimitListener = Callable[[Limit, float, "str | None"], object]


class Told(Protocol):
    """Is told what happens to places."""

    def decided(self, place: Place, decision: Decision) -> None:
        """A role has been decided."""
        ...

    def crossed(self, place: Place, decision: Decision) -> None:
        """Two ClientHellos have crossed; the decision has the role in which it goes on."""
        ...

    def peer_changed(self, place: Place, change: Change) -> None:
        """A memory has changed the kind of a peer."""
        ...

    def policy_failed(self, place: Place, error: Exception) -> None:
        """A window policy has failed."""
        ...


class Holder(Protocol):
    """Holds pending connections: a waiting room holds many, and a place holds its own."""

    def key_of(self, number: int) -> Hashable:
        """Return the key that a connection counts for: its address (see `address_key`), or its number."""
        ...

    def entered_at(self, number: int) -> float:
        """Return when a connection was accepted, on Trio's clock."""
        ...

    def drop_pending(self, number: int, limit: Limit, value: float) -> bool:
        """End a connection because of a limit.

        Returns:
            True if it has ended; `Room.give_up` has been called for it. False if
            it will end soon.
        """
        ...


class NothingSaidError(Exception):
    """The server drains, and this peer has not sent anything yet. This is not reported."""


class Place(Supervision):
    """One connection's place, from accept to close.

    Attributes:
        number: Counts connections of one server, from 1.
        remote: The peer's address.
        key: The key that it counts for: its address (see `address_key`), or its
            number if it has no address.
        entered: When it was accepted, on Trio's clock.
        decision: The role decision, once there is one.
        decided_at: When the role was decided, on Trio's clock; not set before.
        has_spoken: Whether the peer has sent anything.
        identity: A digest of its certificate, if `Limits` bound identities.
        turns: The turns of which it holds one, or for which it waits; or None.
    """

    __slots__ = (
        "_ended_by",
        "_room",
        "_scope",
        "decided_at",
        "decision",
        "entered",
        "has_spoken",
        "identity",
        "key",
        "number",
        "remote",
        "turns",
    )

    def __init__(self, room: Room, number: int, remote: Address | None, entered: float) -> None:
        self._room = room
        self._scope: trio.CancelScope | None = None
        self._ended_by: Exception | None = None
        self.number = number
        self.remote = remote
        self.key: Hashable = key_of(number, remote)
        self.entered = entered
        self.decision: Decision | None = None
        self.decided_at: float
        self.has_spoken = False
        self.identity: bytes | None = None
        self.turns: Turns | None = None

    @property
    def peer(self) -> str | None:
        """The peer's address as text."""
        return format_address(self.remote)

    # Called by the negotiation; see `Supervision`.

    def stage(self, deadline: float) -> trio.CancelScope:
        scope = self._scope = trio.CancelScope(deadline=deadline)
        if self._ended_by is not None:  # it was dropped before it had a scope
            scope.cancel()
        return scope

    def check(self) -> None:
        if self._ended_by is not None:
            raise self._ended_by

    def decided(self, decision: Decision) -> None:
        self.has_spoken = decision.role is Role.SERVER
        self.decision = decision
        self.decided_at = trio.current_time()
        self._room.told.decided(self, decision)

    def spoke(self) -> None:
        self.has_spoken = True

    def crossed(self, decision: Decision) -> None:
        changed = self.decision is None or decision.role is not self.decision.role
        self.decision = decision
        if changed:
            self._room.give_up_turn(self)
        self._room.told.crossed(self, decision)

    def peer_changed(self, change: Change) -> None:
        self._room.told.peer_changed(self, change)

    def policy_failed(self, error: Exception) -> None:
        self._room.told.policy_failed(self, error)

    async def take_turn(self, role: Role) -> None:
        if self._room.take_turn_nowait(self, role):
            return
        scope = self._scope
        assert scope is not None  # this is part of a stage
        began, deadline = trio.current_time(), scope.deadline
        scope.deadline = math.inf  # stop the peer's time, because the wait is not its fault
        try:
            await self._room.wait_for_turn(self, role)
        finally:
            scope.deadline = deadline + (trio.current_time() - began)

    def answered(self) -> None:
        self.has_spoken = True
        if self.turns is not None:
            self.turns.answered(self)

    def admitted(self, certificate: bytes | None) -> None:
        self._room.admit(self, certificate)

    # Called by the room and by the server.

    def key_of(self, number: int) -> Hashable:  # noqa: ARG002 - its own
        return self.key

    def entered_at(self, number: int) -> float:  # noqa: ARG002 - its own
        return self.entered

    def drop_pending(self, number: int, limit: Limit, value: float) -> bool:  # noqa: ARG002 - its own
        self.drop(limit, value)
        return False

    def drop(self, limit: Limit, value: float) -> None:
        """Make this connection end, as soon as its task runs, because of a limit."""
        self._end(self.limit_error(DROPPED, limit, value))

    def drop_unheard(self) -> bool:
        """Make this connection end if the peer has not sent anything; return whether it will."""
        if self.has_spoken or self._ended_by is not None:
            return False
        self._end(NothingSaidError())
        return True

    @property
    def leaves_unheard(self) -> bool:
        """Whether `drop_unheard` has dropped it, and its task has not ended yet."""
        return isinstance(self._ended_by, NothingSaidError)

    def _end(self, error: Exception) -> None:
        self._ended_by = error
        if self._scope is not None:
            self._scope.cancel()

    def limit_error(self, summary: str, limit: Limit, value: float) -> LimitError:
        """Return the error for this connection if it ends because of a limit."""
        role = self.decision.role if self.decision else None
        return limit_error(summary, limit, value, peer=self.peer, role=role)

    def negotiated(self) -> None:
        """Note that the negotiation has ended, with or without success."""
        # Drop both references, because a place lives as long as its connection. The scope has
        # ended, and the error's traceback refers to all objects of the negotiation and to us.
        self._ended_by = self._scope = None
        self._room.negotiated(self)

    def end(self) -> None:
        """Note that the connection is closed. Call this exactly once, after `negotiated`."""
        self._room.free(self)


DROPPED = "dropped to make room for others"


def limit_error(
    summary: str, limit: Limit, value: float, *, peer: str | None, role: Role | None = None
) -> LimitError:
    """Return the error of a connection that ends because of a limit."""
    return LimitError(
        summary,
        peer=peer,
        role=role,
        seen=limit.seen.format(value=value),
        advice=limit.advice,
        limit=limit,
        value=value,
    )


def key_of(number: int, remote: Address | None) -> Hashable:
    """Return the key that a connection counts for: its address (see `address_key`), or its number."""
    key = address_key(remote)
    return number if key is None else key


class Room:
    """The room that one server has for connections.

    Args:
        limits: The bounds.
        on_limit: Called with the limit, its value and the peer when a
            connection gets no place, or is held up. One that had its place
            ends in a `LimitError` instead.
        told: Is told what happens to places.
    """

    def __init__(
        self,
        limits: Limits,
        on_limit: LimitListener,
        told: Told,
    ) -> None:
        self.limits = limits
        self.told = told
        self.turns = {
            Role.CLIENT: Turns(
                limits.client_handshakes, limits.greeting_patience, Limit.GREETING_PATIENCE
            ),
            Role.SERVER: Turns(
                limits.server_handshakes, limits.opening_patience, Limit.OPENING_PATIENCE
            ),
        }
        self.taken = 0
        self.number = 0
        self._on_limit = on_limit
        self._pending: dict[int, Holder] = {}  # by number, oldest first
        self._pending_of: ByAddress[int] = ByAddress()
        # These are counted only if they are bounded, because each needs an entry for each connection.
        self._taken_of: Counter[Hashable] = Counter()
        self._identities: Counter[Hashable] = Counter()
        self._leaving: set[int] = set()  # dropped, but the task has not ended yet
        self._waiting = 0  # accepted, but without a place
        self._freed = trio.lowlevel.ParkingLot()

    @property
    def pending(self) -> int:
        """How many peers are in their window, or wait for their turn."""
        return len(self._pending)

    @property
    def is_full(self) -> bool:
        """Whether somebody must make room for the next that enters."""
        limits = self.limits
        return self.taken >= limits.connections or len(self._pending) >= limits.pending

    async def enter(self, remote: Address | None) -> int | None:
        """Admit an accepted connection: give it its number, or None if it must be reset.

        If all places are taken, a pending peer makes room for it. If no peer is pending, this
        waits until a place is free, so that no other connection is accepted meanwhile. Call
        `hold` next.
        """
        key = address_key(remote)
        if key is not None and not self._address_may_enter(key):
            return None
        if self.taken >= self.limits.connections and not await self._wait_for_room(key, remote):
            return None
        if len(self._pending) >= self.limits.pending:
            crowding = self._crowding()
            self._drop_pending(
                next(iter(self._pending)) if crowding is None else crowding, Limit.PENDING
            )
        self.number += 1
        self.taken += 1
        if key is not None and self.limits.connections_per_address != math.inf:
            self._taken_of[key] += 1
        return self.number

    def hold(self, number: int, key: Hashable, holder: Holder) -> None:
        """Set the holder of a pending connection."""
        if number in self._leaving:
            return
        if number not in self._pending:
            self._pending_of.add(key, number)
        self._pending[number] = holder

    def give_up(self, number: int, key: Hashable) -> None:
        """Free the room of a connection that has ended while it was pending."""
        self._stop_pending(number, key)
        self._free(key, None)

    async def _wait_for_room(self, key: str | None, remote: Address | None) -> bool:
        limits, told = self.limits, False
        self._waiting += 1
        try:
            while self.taken >= limits.connections:
                until = math.inf
                if self._waiting > len(self._leaving):  # or one is on its way out for us
                    if self.make_room(Limit.CONNECTIONS):
                        continue
                    until = self._next_chance()
                    if limits.when_full is WhenFull.RESET or (until == math.inf and not told):
                        self._on_limit(
                            Limit.CONNECTIONS, limits.connections, format_address(remote)
                        )
                        told = True
                    if limits.when_full is WhenFull.RESET:
                        return False
                with trio.move_on_at(until):
                    await self._freed.park()
                # Others of its address may have come in meanwhile, by another listener.
                if key is not None and not self._address_may_enter(key):
                    return False
            return True
        finally:
            self._waiting -= 1

    def _address_may_enter(self, key: str) -> bool:
        limits = self.limits
        if self._pending_of.count(key) >= limits.pending_per_address:
            self._on_limit(Limit.PENDING_PER_ADDRESS, limits.pending_per_address, key)
            return False
        if self._taken_of and self._taken_of[key] >= limits.connections_per_address:
            self._on_limit(Limit.CONNECTIONS_PER_ADDRESS, limits.connections_per_address, key)
            return False
        return True

    def make_room(self, limit: Limit) -> bool:
        """Drop a pending peer, if one has had its fair chance; return whether there was one."""
        if self._next_chance() > trio.current_time():
            return False
        victim = self._first_to_go()
        assert victim is not None  # otherwise _next_chance() is inf
        self._drop_pending(victim, limit)
        return True

    def _next_chance(self) -> float:
        """Return when the first peer to drop will have had its fair chance; inf if none is pending."""
        victim = self._first_to_go()
        return math.inf if victim is None else self._entered_at(victim) + FAIR_CHANCE

    def _first_to_go(self) -> int | None:
        """Return the oldest pending peer of the address with the most of them, or of all."""
        crowding = self._crowding()
        if crowding is not None and (
            self._entered_at(crowding) + FAIR_CHANCE <= trio.current_time()
            or self._pending_of.count(self._pending[crowding].key_of(crowding)) * CROWDING
            >= len(self._pending)
        ):
            return crowding
        return next(iter(self._pending), None)

    def _entered_at(self, number: int) -> float:
        return self._pending[number].entered_at(number)

    def _crowding(self) -> int | None:
        """Return the oldest pending peer of the address with the most; None if each has only one."""
        key = self._pending_of.most()
        return None if key is None else self._pending_of.oldest(key)

    def _drop_pending(self, number: int, limit: Limit) -> None:
        holder = self._pending[number]
        self._stop_pending(number, holder.key_of(number))
        self._leaving.add(number)
        if holder.drop_pending(number, limit, self._value(limit)):
            self._leaving.discard(number)

    def _value(self, limit: Limit) -> float:
        if limit is Limit.OPEN_FILES:
            return open_files()
        value: float = getattr(self.limits, limit)
        return value

    async def wait_freed(self) -> None:
        """Wait until a connection ends."""
        await self._freed.park()

    def take_turn_nowait(self, place: Place, role: Role) -> bool:
        """Take a turn, if one is free; return whether it did. The place is then no longer pending."""
        turns = place.turns = self.turns[role]
        if turns.take(place):
            self._stop_pending(place.number, place.key)
            return True
        return False

    async def wait_for_turn(self, place: Place, role: Role) -> None:
        """Wait in line for a turn. After that the place is no longer pending.

        Raises:
            LimitError: There was no turn within ``Limits.turn_timeout``.
        """
        timeout = self.limits.turn_timeout
        if not await self.turns[role].wait(place, timeout):
            raise place.limit_error(
                "its turn to handshake did not come in time", Limit.TURN_TIMEOUT, timeout
            )
        self._stop_pending(place.number, place.key)

    def give_up_turn(self, place: Place) -> None:
        """Give up a place's turn, because it needs one in the other role; it is pending again."""
        if place.turns is not None:
            place.turns.leave(place)
            place.turns = None
        self.hold(place.number, place.key, place)

    def admit(self, place: Place, certificate: bytes | None) -> None:
        """Note that the policy has admitted a peer, and count its identity.

        Raises:
            LimitError: The identity has as many connections as it may have.
        """
        assert place.turns is not None  # the policy is asked after the handshake, which took a turn
        place.turns.admitted(place)
        most = self.limits.connections_per_identity
        if most != math.inf and certificate is not None:
            identity = hashlib.sha256(certificate).digest()
            if self._identities[identity] >= most:
                raise place.limit_error(
                    "this peer has enough connections", Limit.CONNECTIONS_PER_IDENTITY, most
                )
            self._identities[identity] += 1
            place.identity = identity

    def negotiated(self, place: Place) -> None:
        """Give up a place's turn, because its negotiation has ended. This may be called again."""
        if place.turns is not None:
            place.turns.leave(place)
            place.turns = None
        self._stop_pending(place.number, place.key)
        if place.number in self._leaving:  # it was dropped, even if it succeeded before it noticed
            self._leaving.remove(place.number)
            self._freed.unpark_all()

    def free(self, place: Place) -> None:
        """Free the room of a connection that has ended."""
        self._free(place.key, place.identity)

    def _free(self, key: Hashable, identity: bytes | None) -> None:
        self.taken -= 1
        if self._taken_of:
            _count_down(self._taken_of, key)
        if identity is not None:
            _count_down(self._identities, identity)
        self._freed.unpark_all()

    def _stop_pending(self, number: int, key: Hashable) -> None:
        if self._pending.pop(number, None) is not None:
            self._pending_of.discard(key, number)

    async def run_background_tasks(self) -> None:
        """Take turns from quiet peers; runs for ever."""
        async with trio.open_nursery() as nursery:
            for turns in self.turns.values():
                nursery.start_soon(turns.shed_overdue)


def _count_down(counter: Counter[Hashable], key: Hashable) -> None:
    if key in counter:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]
