"""Serving one listener: its nursery, its waiting room, and a task for each connection.

When its role is decided, a connection gets a task for the rest of its life: handshake,
handler, close. The task belongs to the nursery of the listener, so that one listener can be
cancelled or drained without the others.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import attrs
import trio

from trio_duplex._events.events import ConnectionClosed, HandlerFailed
from trio_duplex._serve.acceptor import Acceptor, Listener, unwrap_single
from trio_duplex._serve.fault import is_peer_fault
from trio_duplex._serve.handler import Handler
from trio_duplex._serve.room import Place
from trio_duplex._serve.waiting_room import WaitingRoom
from trio_duplex._stream.connection import Connection, close_by_force, close_in_time
from trio_duplex._stream.turn import was_the_peers_turn


@attrs.define(eq=False, kw_only=True)
class Service:
    """One listener, its nursery, and the connections that it has accepted.

    A context manager, to be entered around `run`: the waiting room holds a file descriptor.

    Raises:
        OSError: There is no file descriptor left.
    """

    listener: Listener
    handler: Handler
    acceptor: Acceptor
    handler_nursery: trio.Nursery | None
    raise_handler_errors: bool
    fail: Callable[[BaseException], None]

    cancel_scope: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    open: int = attrs.field(init=False, default=0)
    ended: int = attrs.field(init=False, default=0)
    _accepting: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    _stopped: trio.Event = attrs.field(init=False, factory=trio.Event)
    _idle: trio.lowlevel.ParkingLot = attrs.field(init=False, factory=trio.lowlevel.ParkingLot)
    waiting_room: WaitingRoom = attrs.field(init=False)
    _negotiating: set[Place] = attrs.field(init=False, factory=set[Place])
    _dropping: bool = attrs.field(init=False, default=False)
    _late: int = attrs.field(init=False, default=0)
    _handling: set[Connection] = attrs.field(init=False, factory=set[Connection])

    def __attrs_post_init__(self) -> None:
        self.waiting_room = WaitingRoom(self.acceptor, self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.waiting_room.__exit__(exc_type, exc, traceback)

    async def run(self) -> None:
        """Serve until drained or cancelled."""
        try:
            # The waiting room drops what came in after its attendant had ended: a task that is due to
            # run does so once more, even if the scope is cancelled before that.
            with self.waiting_room, self.cancel_scope:
                async with trio.open_nursery() as nursery:
                    self.waiting_room.open(nursery)
                    try:
                        with self._accepting:
                            await self.acceptor.accept_each(self.listener, self.waiting_room)
                    except trio.ClosedResourceError:
                        pass  # its owner closed it, and wants no more connections from it
                    except Exception as exc:  # noqa: BLE001 - `serve_listeners` raises it
                        self.fail(exc)
                    finally:
                        with trio.CancelScope(shield=True):
                            await trio.aclose_forcefully(self.listener)
                        self.waiting_room.close_door()
                        self._stopped.set()
        finally:
            self._stopped.set()  # for the case that we were cancelled before we began

    def stop_accepting(self) -> None:
        """Stop accepting and close the listener; `wait_idle` waits until that is done."""
        self._accepting.cancel()

    def drop_unheard(self) -> int:
        """Drop peers that have not sent anything, now and later; return how many there are now."""
        self._dropping = True
        with_a_place = sum([place.drop_unheard() for place in self._negotiating])
        return with_a_place + self.waiting_room.drop_unheard()

    @property
    def leaving_unheard(self) -> int:
        """How many peers `drop_unheard` has dropped that are not gone yet."""
        with_a_place = sum(place.leaves_unheard for place in self._negotiating)
        return with_a_place + self.waiting_room.leaving_unheard

    @property
    def dropped_late(self) -> int:
        """How many peers came in after `drop_unheard`, and were dropped, too."""
        return self._late + self.waiting_room.late

    async def wait_idle(self) -> None:
        """Wait until no connection is open and no new one can come."""
        await self._stopped.wait()
        while self.open:
            await self._idle.park()

    def cancel_connections(self) -> None:
        """Cancel all remaining connections, including handlers in the user's own nursery."""
        for connection in self._handling:
            connection.cancel_scope.cancel()
        self.cancel_scope.cancel()

    # What the waiting room tells.

    def entered(self) -> None:
        """A connection was accepted."""
        self.open += 1

    def begun(self, place: Place) -> None:
        """A connection has a place and a task from now on."""
        self._negotiating.add(place)
        if self._dropping and place.drop_unheard():  # it came in as we stopped accepting
            self._late += 1

    def waits_again(self, place: Place) -> None:
        """A connection has left its place and its task, and waits without them."""
        self._negotiating.discard(place)

    def negotiation_failed(self, place: Place | None) -> None:
        """A negotiation ended without a connection."""
        if place is not None:
            self._negotiating.discard(place)
        self._end()

    def take(self, connection: Connection, place: Place) -> Awaitable[None]:
        """Run the handler on a negotiated connection, then close it."""
        self._negotiating.discard(place)
        # Add it here and not in `_handle`, because a drain may begin before that task starts.
        self._handling.add(connection)
        if self.handler_nursery is None:
            return self._handle(connection, place)
        return self._hand_over(connection, place, self.handler_nursery)

    async def _hand_over(self, connection: Connection, place: Place, nursery: trio.Nursery) -> None:
        try:
            nursery.start_soon(self._handle, connection, place)
        except RuntimeError as exc:  # that nursery is closed
            self._handling.discard(connection)
            await _close(connection, gracefully=False)
            place.end()
            self._end()
            self.fail(exc)

    async def _handle(self, connection: Connection, place: Place) -> None:
        error: Exception | None = None
        finished_properly = False
        opened = trio.current_time()
        if self.acceptor.limits.handler_timeout != math.inf:  # an observer may have set another
            connection.cancel_scope.deadline = opened + self.acceptor.limits.handler_timeout
        try:
            with connection.cancel_scope:
                try:
                    await self.handler(connection)
                    finished_properly = True
                except BaseException as exc:
                    finished_properly = was_the_peers_turn(exc, connection)
                    raise
        except* Exception as group:  # noqa: BLE001 - a handler may raise anything, even with Cancelled
            error = unwrap_single(group)
        finally:
            # A close_notify tells the peer that the data is complete. So do not send one after an
            # error, whether that was a bug or the fault of another stream from which this peer
            # was served. Nor after a cancellation, unless it was the peer's turn to send.
            await _close(connection, gracefully=finished_properly)
            self._handling.discard(connection)
            place.end()
            if error is not None:
                self._failed(error, connection, place)
            self.acceptor.reporter.report(
                ConnectionClosed(
                    number=place.number,
                    peer=place.peer,
                    connection=connection,
                    seconds=trio.current_time() - opened,
                )
            )
            self._end()

    def _failed(self, error: Exception, connection: Connection, place: Place) -> None:
        peer_fault = is_peer_fault(error, connection)
        if self.raise_handler_errors and not peer_fault:
            self.fail(error)
        else:
            self.acceptor.reporter.report(
                HandlerFailed(
                    number=place.number, peer=place.peer, error=error, peer_fault=peer_fault
                )
            )

    def _end(self) -> None:
        self.open -= 1
        self.ended += 1
        if not self.open:
            self._idle.unpark_all()


async def _close(connection: Connection, *, gracefully: bool) -> None:
    """Close a connection, shielded and bounded, without raising for a broken stream."""
    with contextlib.suppress(
        trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError
    ):
        if gracefully:
            await close_in_time(connection, shield=True)
        else:
            await close_by_force(connection)
