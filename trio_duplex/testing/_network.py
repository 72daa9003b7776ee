"""A network in memory: streams that behave like TCP, and take no real time.

The streams of ``trio.testing.memory_stream_pair`` never fill up and can't be reset, so
they are no use for a peer that does not read, or that hangs up by force. The streams
here have a bounded buffer in each direction, and a reset. They never sleep, so under
Trio's ``autojump_clock`` a window of 5 s takes no real time.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Awaitable, Generator
from typing import NamedTuple

import trio

from trio_duplex import Connection, Credentials, Role, negotiate
from trio_duplex.testing._certificates import shared_authority

DEFAULT_CAPACITY = 256 * 1024
"""How many bytes a direction holds before `MemoryStream.send_all` waits: about as many
as the kernel's buffers hold on a loopback connection."""


class _Pipe:
    """One direction of a connection: the bytes that were sent but not received, and how it ended."""

    __slots__ = ("buffer", "capacity", "changed", "ended", "receiver_gone", "reset")

    def __init__(self, capacity: int) -> None:
        self.buffer = bytearray()
        self.capacity = capacity
        self.ended = False
        self.reset = False
        self.receiver_gone = False
        self.changed = trio.lowlevel.ParkingLot()

    @property
    def broken(self) -> bool:
        return self.reset or self.receiver_gone


class _OneAtATime:
    """Allows one task at a time in an operation, and raises for others, as Trio's own streams do."""

    __slots__ = ("_busy", "_what")

    def __init__(self, what: str) -> None:
        self._busy = False
        self._what = what

    @contextlib.contextmanager
    def __call__(self) -> Generator[None]:
        if self._busy:
            raise trio.BusyResourceError(f"another task is {self._what} this stream")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False


class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of a connection in memory; `open_memory_stream_pair` makes two.

    It behaves like a TCP socket. Bytes that were sent before an end of stream or a
    reset can still be received. Closing it with unread bytes resets the connection.
    Sending to an end that is gone raises ``trio.BrokenResourceError``.
    """

    def __init__(self, outgoing: _Pipe, incoming: _Pipe) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._closed = False
        self._sending = _OneAtATime("sending on")
        self._receiving = _OneAtATime("receiving from")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``; this waits while the other end's buffer is full.

        Raises:
            trio.BrokenResourceError: The other end is gone.
            trio.ClosedResourceError: This end was closed, or `send_eof` called.
            trio.BusyResourceError: Another task is sending.
        """
        pipe = self._outgoing
        with self._sending():
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            with memoryview(data) as view:
                sent = 0
                while sent < len(view):
                    room = pipe.capacity - len(pipe.buffer)
                    if room > 0:
                        pipe.buffer += view[sent : sent + room]
                        sent += room
                        pipe.changed.unpark_all()
                    else:
                        await pipe.changed.park()
                        self._check_sendable()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room in the buffer, or until sending would fail at once."""
        pipe = self._outgoing
        with self._sending():
            await trio.lowlevel.checkpoint()
            self._check_open()
            while len(pipe.buffer) >= pipe.capacity and not pipe.broken:
                await pipe.changed.park()
                self._check_open()

    async def send_eof(self) -> None:
        """End this direction. Bytes of the other direction can still be received."""
        with self._sending():
            await trio.lowlevel.checkpoint()
            self._check_open()
            self._outgoing.ended = True
            self._outgoing.changed.unpark_all()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for at least one byte, and return what is there; ``b""`` at the end of the stream.

        Args:
            max_bytes: The most bytes to return; None to return all that have come.

        Raises:
            trio.BrokenResourceError: The other end reset the connection.
            trio.ClosedResourceError: This end was closed.
            trio.BusyResourceError: Another task is receiving.
        """
        if max_bytes is not None:
            max_bytes = operator.index(max_bytes)  # TypeError if it is not an integer
            if max_bytes < 1:
                raise ValueError(f"max_bytes must be at least 1, not {max_bytes!r}")
        pipe = self._incoming
        with self._receiving():
            await trio.lowlevel.checkpoint()
            while True:
                self._check_open()
                if pipe.buffer:
                    # There must be no checkpoint below: bytes taken from the buffer must be returned.
                    size = len(pipe.buffer) if max_bytes is None else max_bytes
                    data = bytes(pipe.buffer[:size])
                    del pipe.buffer[:size]
                    pipe.changed.unpark_all()
                    return data
                if pipe.reset:
                    raise trio.BrokenResourceError("the other end reset the connection")
                if pipe.ended:
                    return b""
                await pipe.changed.park()

    async def aclose(self) -> None:
        """Close this end. The other end sees the end of the stream, or a reset if we left data unread."""
        self._close(reset=bool(self._incoming.buffer))
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        """Close this end by force. The other end sees a reset (RST)."""
        self._close(reset=True)

    def _close(self, *, reset: bool) -> None:
        if self._closed:
            return
        self._closed = True
        self._outgoing.ended = True
        self._outgoing.reset = reset
        self._incoming.receiver_gone = True
        self._incoming.buffer.clear()
        for pipe in (self._outgoing, self._incoming):
            pipe.changed.unpark_all()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")

    def _check_sendable(self) -> None:
        self._check_open()
        if self._outgoing.ended:
            raise trio.ClosedResourceError("send_eof was called on this stream")
        if self._outgoing.broken or self._incoming.reset:
            raise trio.BrokenResourceError("the other end is gone")


def open_memory_stream_pair(
    capacity: int = DEFAULT_CAPACITY,
) -> tuple[MemoryStream, MemoryStream]:
    """Make two connected raw streams.

    Args:
        capacity: How many bytes each direction holds before sending waits.

    Raises:
        ValueError: ``capacity`` is less than 1.
    """
    if capacity < 1:
        raise ValueError(f"capacity must be at least 1 byte, not {capacity!r}")
    there, back = _Pipe(capacity), _Pipe(capacity)
    return MemoryStream(there, back), MemoryStream(back, there)


class MemoryListener(trio.abc.Listener[MemoryStream]):
    """A listener in memory; `open_memory_listener` makes one, and `dial` connects to it."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._arrivals, self._queue = trio.open_memory_channel[MemoryStream](math.inf)
        self._closed = False

    async def accept(self) -> MemoryStream:
        """Wait for the next stream.

        Raises:
            trio.ClosedResourceError: The listener was closed.
        """
        return await self._queue.receive()

    async def dial(self) -> MemoryStream:
        """Connect, and return the dialler's end.

        As with TCP, this does not wait until the connection is accepted.

        Raises:
            ConnectionRefusedError: The listener was closed.
        """
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise ConnectionRefusedError("nobody listens: the memory listener was closed")
        ours, theirs = open_memory_stream_pair(self._capacity)
        self._arrivals.send_nowait(theirs)
        return ours

    async def aclose(self) -> None:
        """Stop listening. Connections that were not accepted yet are reset."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(trio.WouldBlock):
                while True:
                    self._queue.receive_nowait().reset()
            self._queue.close()
            self._arrivals.close()
        await trio.lowlevel.checkpoint()


def open_memory_listener(capacity: int = DEFAULT_CAPACITY) -> MemoryListener:
    """Make a listener in memory, for `trio_duplex.serve_listeners` or any other Trio server.

    Dial it with `MemoryListener.dial`, `open_memory_connection`, or a scripted
    peer's ``run``.

    Args:
        capacity: How many bytes each direction of a connection holds before
            sending waits.

    Raises:
        ValueError: ``capacity`` is less than 1.
    """
    if capacity < 1:
        raise ValueError(f"capacity must be at least 1 byte, not {capacity!r}")
    return MemoryListener(capacity)


async def open_memory_connection(
    listener: MemoryListener,
    credentials: Credentials,
    *,
    role: Role = Role.CLIENT,
    handshake_timeout: float = 30.0,
) -> Connection:
    """Dial a memory listener in either role, like `trio_duplex.open_tcp_connection` without TCP.

    Args:
        listener: The listener to dial.
        credentials: What we present and whom we trust.
        role: The TLS role that we play.
        handshake_timeout: Seconds for the handshake. As TLS server, we also wait
            for the listener's window in that time.

    Raises:
        ConnectionRefusedError: The listener was closed.
        trio_duplex.DuplexError: As for `trio_duplex.open_tcp_connection`.
    """
    stream = await listener.dial()
    return await negotiate(
        stream, credentials, role=Role(role), handshake_timeout=handshake_timeout
    )


class ConnectionPair(NamedTuple):
    """The two ends of a connection, named after the TLS role that each plays."""

    server: Connection
    client: Connection


async def open_connection_pair(
    server_credentials: Credentials | None = None,
    client_credentials: Credentials | None = None,
    *,
    capacity: int = DEFAULT_CAPACITY,
) -> ConnectionPair:
    """Make the two negotiated ends of a connection in memory.

    The server end has accepted a speaking peer; the client end has dialled it.
    Close both when you are done.

    Args:
        server_credentials: Credentials of the server end; None for throw-away ones.
        client_credentials: Credentials of the client end; None for throw-away ones.
        capacity: How many bytes each direction holds before sending waits.

    Raises:
        trio_duplex.DuplexError: The negotiation failed.
    """
    mine = server_credentials or shared_authority().credentials("server.example")
    yours = client_credentials or shared_authority().credentials("client.example")
    accepted, dialled = open_memory_stream_pair(capacity)
    ends: dict[Role, Connection] = {}
    failures: list[Exception] = []

    async def open_end(role: Role, negotiation: Awaitable[Connection]) -> None:
        try:
            ends[role] = await negotiation
        except Exception as exc:  # noqa: BLE001 - raised below, without a group
            failures.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_end, Role.SERVER, negotiate(accepted, mine, window=math.inf))
        nursery.start_soon(open_end, Role.CLIENT, negotiate(dialled, yours, role=Role.CLIENT))
    if failures:
        for end in ends.values():
            await trio.aclose_forcefully(end)
        raise failures[0]
    return ConnectionPair(ends[Role.SERVER], ends[Role.CLIENT])
