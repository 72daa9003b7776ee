"""The waiting room of one listener: the peers whose role is not decided yet, and one task for all of them.

Until a peer has spoken, or its window has ended, nothing is made for it: no task, no scope, no stream,
and no object that the garbage collector tracks. It is a descriptor, some bytes that say who it is
(`_serve/pending.py`), and an entry in the books. Only for one turn of the scheduler after it was
accepted it is still a socket, and not packed into bytes, because a peer that speaks at once has
mostly spoken by then (`WaitingRoom.look_at_new`). One task, the attendant, waits for all others
(`_sockets/crowd.py`): for first bytes, and for the end of the earliest window, which is the deadline of
its cancel scope. It decides by the bytes and never by the scope, so at the end of a window it reads
once more. Then the peer gets its stream, its place and its task. A peer that has left gets none of
them: its descriptor is closed.

Streams that are not sockets can't be watched in this way, and some systems have no epoll. In these
cases each peer has a task from the beginning, with the window in it (`_stream/detect.py`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Hashable
from types import TracebackType
from typing import Protocol, Self

import attrs
import trio

from trio_duplex._decision.facts import PeerFacts
from trio_duplex._decision.policy import Choice, Fixed
from trio_duplex._errors import LimitError
from trio_duplex._role import Role
from trio_duplex._serve.acceptor import TASK_NAME, Acceptor, unwrap_single
from trio_duplex._serve.limits import Limit
from trio_duplex._serve.pending import Pending, pack, unpack
from trio_duplex._serve.room import DROPPED, Place, key_of, limit_error
from trio_duplex._sockets.accept import Connected
from trio_duplex._sockets.address import Address, Socket, format_address
from trio_duplex._sockets.crowd import AT_ONCE, Crowd, has_epoll
from trio_duplex._stream.connection import Connection
from trio_duplex._stream.detect import OPENING_SIZE, Heard, peer_left_error
from trio_duplex._stream.lesson import Lesson, choose_nowait, facts_of
from trio_duplex._stream.negotiate import abandon


class Owner(Protocol):
    """Gets the connections, and is told which negotiations fail."""

    def entered(self) -> None:
        """A connection was accepted."""
        ...

    def begun(self, place: Place) -> None:
        """A connection has got a place and a task of its own."""
        ...

    def waits_again(self, place: Place) -> None:
        """A connection has given up its place and its task, and waits without them."""
        ...

    def take(self, connection: Connection, place: Place) -> Awaitable[None]:
        """Take over a negotiated connection and its place, until it is closed."""
        ...

    def negotiation_failed(self, place: Place | None) -> None:
        """A negotiation ended without a connection; its place, if it had one, is given up."""
        ...


@attrs.frozen
class _Window:
    """A peer's window, and the facts that a policy chose it by; none for plain seconds."""

    choice: Choice
    facts: PeerFacts | None = None


class WaitingRoom:
    """The pending peers of one listener. A context manager, to be entered around its nursery.

    Args:
        acceptor: Negotiates with them, and is told what fails.
        owner: Gets their connections.

    Raises:
        OSError: There is no descriptor left.
    """

    def __init__(self, acceptor: Acceptor, owner: Owner) -> None:
        self._acceptor = acceptor
        self._room = acceptor.room
        self._policy = acceptor.settings.window
        self._owner = owner
        self._crowd = Crowd() if has_epoll() else None
        self._nursery: trio.Nursery | None = None
        # By descriptor, oldest first; packed, except for those that are new.
        self._waiting: dict[int, bytes | Pending] = {}
        self._descriptors: dict[int, int] = {}  # by number
        # Plain seconds are the same for all; other windows are one for each peer, by descriptor.
        self._same = _Window(self._policy.choice) if isinstance(self._policy, Fixed) else None
        self._windows: dict[int, _Window] = {}
        # Those at which `look_at_new` has to look: they are not in the crowd, and still sockets; with
        # the ends of their windows.
        self._new: dict[int, tuple[Socket, float]] = {}
        self._asking = 0  # peers whose window is still being chosen
        # Family, type and protocol of the listener's sockets, which the kernel need not be asked again.
        self._kind: tuple[int, int, int] | None = None
        self._accepting = True
        self._dropping = False
        self.late = 0  # peers that came in after `drop_unheard`, and are dropped too

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._drop_some(len(self._waiting))
        if self._crowd is not None:
            self._crowd.__exit__(exc_type, exc, traceback)

    def __len__(self) -> int:
        """Return how many peers wait without a task."""
        return len(self._waiting)

    def open(self, nursery: trio.Nursery) -> None:
        """Start the attendant; it and the tasks of peers run in ``nursery``. Call this once, before `enter`."""
        self._nursery = nursery
        if self._crowd is not None:
            nursery.start_soon(self._attend, self._crowd, name="trio_duplex attendant")

    def close_door(self) -> None:
        """Let the attendant end when no peer is left, because no new one will enter."""
        self.look_at_new()
        self._accepting = False
        if self._crowd is not None:
            self._crowd.wake()

    def drop_unheard(self) -> int:
        """Drop the peers that wait, now and later; return how many there are now."""
        self.look_at_new()
        if self._crowd is not None and self._waiting and not self._dropping:
            # A peer that has spoken goes on, even if the attendant has not come to it yet.
            for descriptor in self._crowd.readable(len(self._waiting)):
                self._look(self._crowd, descriptor, overdue=False)
        self._dropping = True
        if self._crowd is not None:
            self._crowd.wake()
        return len(self._waiting)

    @property
    def leaving_unheard(self) -> int:
        """How many peers `drop_unheard` has dropped that are not gone yet."""
        return len(self._waiting) if self._dropping else 0

    # ------------------------------------------------------------------------------------ entering

    def enter(self, connection: Connected, remote: Address | None, number: int) -> None:
        """Let an accepted connection wait. The room has admitted it and given it its number.

        If it is a socket, the waiting room owns it from now on. `look_at_new` comes next.
        """
        self._owner.entered()
        if isinstance(connection, trio.abc.Stream):
            self._begin_to_detect(connection, remote, number)
        elif self._crowd is None:
            self._begin_to_detect(_stream(connection), remote, number)
        else:
            self._enter_socket(self._crowd, connection, remote, number)

    def look_at_new(self) -> None:
        """Read the first bytes of those that have entered, if they are there; let the others wait.

        To wait, and to be found again among the others, costs 2 % of a handshake. A peer that speaks
        at once has mostly been heard one turn of the scheduler after it was accepted.
        """
        while self._new:
            assert self._crowd is not None  # only those that wait in it are new
            self._look(self._crowd, next(iter(self._new)), overdue=False)

    def _enter_socket(
        self, crowd: Crowd, sock: Socket, remote: Address | None, number: int
    ) -> None:
        pending = Pending(number, trio.current_time(), remote)
        if self._kind is None:
            self._kind = (sock.family, sock.type, sock.proto)
        if self._same is not None:
            self._wait(sock, pending, self._same, pending.entered)
            return
        facts = facts_of(sock, remote)
        choice = choose_nowait(
            self._policy, facts, lambda exc: self._acceptor.policy_failed(pending, exc)
        )
        if isinstance(choice, Choice):
            self._wait(sock, pending, _Window(choice, facts), pending.entered)
            return
        place = self._place(pending)
        self._asking += 1
        self._start(self._ask, crowd, _stream(sock), place, facts, choice)

    def _begin_to_detect(
        self, stream: trio.abc.Stream, remote: Address | None, number: int
    ) -> None:
        place = self._place(Pending(number, trio.current_time(), remote))
        self._start(self._acceptor.attend, stream, place, self._owner)

    def _place(self, pending: Pending, *, has_spoken: bool = False) -> Place:
        place = Place(self._room, pending.number, pending.remote, pending.entered)
        place.has_spoken = has_spoken
        self._room.hold(place.number, place.key, place)
        self._owner.begun(place)
        return place

    def _start(self, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        assert self._nursery is not None  # `open` comes first
        self._nursery.start_soon(function, *arguments, name=TASK_NAME)

    async def _ask(
        self, crowd: Crowd, stream: trio.SocketStream, place: Place, facts: PeerFacts, asked: object
    ) -> None:
        """Wait until an async policy has chosen the window; then let the peer wait like the others."""
        choice: Choice | None = None
        try:
            try:
                choice = await Lesson(self._policy, facts, place).settle(asked)
                place.check()
            except BaseException:
                choice = None
                await abandon(stream)
                raise
        except* Exception as group:  # noqa: BLE001 - a policy may raise anything, beside Cancelled
            self._acceptor.failed(place, unwrap_single(group))
        finally:
            self._asking -= 1
            if choice is None:
                place.negotiated()
                place.end()
                self._owner.negotiation_failed(place)
                crowd.wake()
        if choice is not None:
            self._owner.waits_again(place)
            pending = Pending(place.number, place.entered, place.remote)
            window = _Window(choice, facts)
            self._wait(stream.socket, pending, window, trio.current_time())
            self.look_at_new()
            if not self._accepting:
                crowd.wake()  # it may have been the last, and need not wait at all

    def _wait(self, sock: Socket, pending: Pending, window: _Window, begun: float) -> None:
        """Let a peer wait for its first bytes until the end of its window, which began at ``begun``."""
        descriptor = sock.fileno()
        # With a rule for silent peers we do not read first: whether a peer that speaks anyway is
        # served, or crosses our ClientHello, would then depend on chance.
        if window.choice.role is Role.CLIENT:
            self._decide(sock, pending, window, None)
            return
        self._new[descriptor] = sock, begun + window.choice.seconds
        self._waiting[descriptor] = pending
        self._descriptors[pending.number] = descriptor
        if window is not self._same:
            self._windows[descriptor] = window
        self._room.hold(pending.number, key_of(pending.number, pending.remote), self)
        if self._dropping:  # the attendant may come first, and drops all that wait
            self.look_at_new()

    def _watch(self, crowd: Crowd, descriptor: int) -> None:
        """Watch a peer that has been new until now."""
        sock, end = self._new[descriptor]
        try:
            crowd.add(descriptor, end)
        except OSError:  # the system watches no more of them (fs.epoll.max_user_watches)
            sock, pending, _ = self._take_out(crowd, descriptor)
            self._begin_to_detect(_stream(sock), pending.remote, pending.number)
            return
        del self._new[descriptor]
        sock.detach()
        pending = self._of(descriptor)
        self._waiting[descriptor] = pack(pending.number, pending.entered, pending.remote)
        if self._dropping:
            self.late += 1
            crowd.wake()

    # ------------------------------------------------------------------------------------- waiting

    async def _attend(self, crowd: Crowd) -> None:
        """Wait for all peers until none is left and no new one can enter. Batches are bounded."""
        try:
            while self._waiting or self._accepting or self._asking:
                if self._dropping and self._waiting:
                    self._drop_some(AT_ONCE)
                    await trio.lowlevel.checkpoint()
                    continue
                readable, overdue = await crowd.wait()
                if not self._dropping:
                    for descriptor in readable:
                        self._look(crowd, descriptor, overdue=False)
                    for descriptor in overdue:
                        self._look(crowd, descriptor, overdue=True)
        finally:
            with trio.CancelScope(shield=True):
                while self._waiting:
                    self._drop_some(AT_ONCE)
                    await trio.lowlevel.checkpoint()

    def _look(self, crowd: Crowd, descriptor: int, *, overdue: bool) -> None:
        """Read what a peer has sent, and decide. At the end of its window this is the last read."""
        if descriptor not in self._waiting:  # an observer has caused it to be dropped meanwhile
            return
        opening: bytes | None = None
        reset = False
        try:
            opening = os.read(descriptor, OPENING_SIZE)
        except BlockingIOError:
            if descriptor in self._new:
                self._watch(crowd, descriptor)
                return
            if not overdue:
                # A kernel may report a socket as readable although there is nothing to read.
                crowd.watch_again(descriptor)
                return
        except OSError:
            reset = True
        sock, pending, window = self._take_out(crowd, descriptor)
        if reset or opening == b"":
            error = peer_left_error(format_address(pending.remote), received=0, reset=reset)
            self._end(sock, pending, error)
        else:
            self._decide(sock, pending, window, opening)

    def _take_out(self, crowd: Crowd, descriptor: int) -> tuple[Socket, Pending, _Window]:
        new = self._new.pop(descriptor, None)
        if new is not None:
            sock, _ = new
        else:
            assert self._kind is not None  # this descriptor has been a socket before
            sock = socket.socket(*self._kind, fileno=descriptor)
            crowd.discard(descriptor)
        pending = self._of(descriptor)
        del self._waiting[descriptor], self._descriptors[pending.number]
        return sock, pending, self._same or self._windows.pop(descriptor)

    # ------------------------------------------------------------------------------------- leaving

    def _decide(
        self, sock: Socket, pending: Pending, window: _Window, opening: bytes | None
    ) -> None:
        """Begin the negotiation, because the first bytes are there or the window has ended."""
        stream = _stream(sock)
        place = self._place(pending, has_spoken=opening is not None)
        lesson = None if window.facts is None else Lesson(self._policy, window.facts, place)
        heard = Heard(opening, window.choice, lesson, pending.entered)
        self._start(self._acceptor.attend, stream, place, self._owner, heard)

    def _end(self, sock: Socket, pending: Pending, error: Exception | None) -> None:
        sock.close()
        if error is not None:
            self._acceptor.failed(pending, error)
            self._acceptor.tell_of_expiry(pending)
        self._room.give_up(pending.number, key_of(pending.number, pending.remote))
        self._owner.negotiation_failed(None)

    def _drop_some(self, most: int) -> None:
        """Close the oldest peers, without an event: they have sent nothing."""
        while self._waiting and most > 0:
            self._end_waiting(next(iter(self._waiting)), None)
            most -= 1

    def _end_waiting(self, descriptor: int, error: LimitError | None) -> None:
        assert self._crowd is not None
        sock, pending, _ = self._take_out(self._crowd, descriptor)
        self._end(sock, pending, error)

    # The room's `Holder` protocol.

    def key_of(self, number: int) -> Hashable:
        """Return the key under which a connection counts."""
        return key_of(number, self._find(number).remote)

    def entered_at(self, number: int) -> float:
        """Return when a connection was accepted."""
        return self._find(number).entered

    def _find(self, number: int) -> Pending:
        return self._of(self._descriptors[number])

    def _of(self, descriptor: int) -> Pending:
        waiting = self._waiting[descriptor]
        return waiting if isinstance(waiting, Pending) else unpack(waiting)

    def drop_pending(self, number: int, limit: Limit, value: float) -> bool:
        """Close a connection to make room for others."""
        peer = format_address(self._find(number).remote)
        error = limit_error(DROPPED, limit, value, peer=peer)
        self._end_waiting(self._descriptors[number], error)
        if not self._accepting and self._crowd is not None:
            self._crowd.wake()  # it may have been the last
        return True


def _stream(sock: Socket) -> trio.SocketStream:
    if isinstance(sock, socket.socket):
        sock = trio.socket.from_stdlib_socket(sock)
    return trio.SocketStream(sock)
