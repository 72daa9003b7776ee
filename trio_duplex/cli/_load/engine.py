"""The engine of ``trio-duplex load`` and of the benchmarks: peers on epoll, in one thread.

A program that measures a server must not use more CPU than the server. So this does
not use Trio. A peer is a generator over a non-blocking socket that yields what it
waits for, and `Loop` runs thousands of them, with one system call for several peers
at a time. The peers of `trio_duplex.testing` are not suitable, because they keep a
transcript of every byte: they take 11.1 million instructions each, where the peers of
the command take 8.7 million (callgrind; a handshake with verification, and an echo).

The command and the benchmarks share the two parts that measure. `Loop.run_at` starts
peers on a schedule, whether or not the previous one is done, and `Latencies` keeps the
times. ``benchmarks/client.py`` has peers of its own, which verify nothing;
``_load/peers.py`` has those of the command, which behave like real ones.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
import ssl
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

READ, WRITE = select.POLLIN, select.POLLOUT  # epoll uses the same numbers

Wait = tuple[int, int]
"""What a peer waits for: a file descriptor and an event. A peer always uses the same descriptor."""

Peer = Generator[Wait, None, None]

Start = Callable[[float], Peer | None]
"""Called with the time at which a peer is due, on the loop's clock. Returns the peer, or None."""

BATCH = 16
"""How many peers may go on before `Loop.run_at` checks whether another is due. That is
some 5 ms of handshakes."""

TICK = 0.25
"""Seconds between two calls of a ``tick``."""

Address = tuple[Any, ...]
"""A socket address, as ``socket`` takes it."""

IP_BIND_ADDRESS_NO_PORT = 24
"""A Linux option: choose the port in connect(), when the other end is known. Python has it from 3.12 on."""


class Poller(Protocol):
    """Waits for events on sockets; `new_poller` makes one."""

    def register(self, fd: int, eventmask: int, /) -> object: ...

    def modify(self, fd: int, eventmask: int, /) -> object: ...

    def unregister(self, fd: int, /) -> object: ...

    def poll(self, timeout: float, most: int, /) -> list[tuple[int, int]]:
        """Wait ``timeout`` seconds at most, or without a limit if it is negative.

        Returns:
            The events, ``most`` at most, or all if ``most`` is negative.
        """
        ...

    def close(self) -> None: ...


class _Epoll:
    """epoll, with exact timeouts.

    epoll counts in milliseconds, and Python rounds up, so it would wake us up 0.5 ms late on
    average.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.register, self.modify = self._epoll.register, self._epoll.modify
        self.unregister, self.close = self._epoll.unregister, self._epoll.close
        self._selectable = self._epoll.fileno() < FD_SETSIZE

    def poll(self, timeout: float, most: int, /) -> list[tuple[int, int]]:
        if timeout > 0 and self._selectable:
            if timeout >= 0.001:
                timeout = math.floor(1000 * timeout) / 1000  # the next call waits for the rest
            else:
                select.select((self._epoll,), (), (), timeout)  # select counts in microseconds
                timeout = 0.0
        return self._epoll.poll(timeout, most)


class _Poll:
    """``select.poll``, for systems without epoll; it is slower."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self.register, self.modify = self._poll.register, self._poll.modify
        self.unregister = self._poll.unregister

    def poll(self, timeout: float, most: int, /) -> list[tuple[int, int]]:
        found = self._poll.poll(None if timeout < 0 else math.ceil(1000 * timeout))
        return found if most < 0 else found[:most]

    def close(self) -> None:
        """Do nothing, because poll has no descriptor."""


def new_poller() -> Poller:
    """Make a poller. Do so early: it needs a descriptor below 1024 for exact timeouts."""
    return _Epoll() if hasattr(select, "epoll") else _Poll()


FD_SETSIZE = 1024
"""``select`` can't use descriptors from this number on."""


class Loop:
    """Runs peers, either a number of them at a time or at a given rate. Use it only once.

    Args:
        patience: How long a peer may take from its start, in seconds. After that a
            ``TimeoutError`` is thrown into it, and it must end. None for no limit.
        clock: A monotonic clock in seconds.
        poller: The poller to use, which is not closed; None to make one.

    Attributes:
        errors: How many peers ended in an ``OSError``, by its class.
    """

    def __init__(
        self,
        *,
        patience: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        poller: Poller | None = None,
    ) -> None:
        self.errors: Counter[str] = Counter()
        self._patience = patience
        self._clock = clock
        self._poller = poller or new_poller()
        self._own_poller = poller is None
        self._waiting: dict[int, tuple[Peer, int]] = {}
        self._deadlines: deque[tuple[float, int, Peer]] = deque()  # sorted, as patience is constant
        self._stopped = False
        self._tick: Callable[[], None] | None = None
        self._next_tick = math.inf

    @property
    def open(self) -> int:
        """How many peers have started and not ended."""
        return len(self._waiting)

    def stop(self) -> None:
        """End soon, and close open peers.

        A signal handler may call this. With a ``tick``, it takes at most `TICK` seconds.
        """
        self._stopped = True

    def run(self, peers: Iterator[Peer], in_flight: int) -> None:
        """Run all peers, ``in_flight`` at the same time."""
        try:
            for peer in islice(peers, in_flight):
                self._start(peer)
            while self._waiting and not self._stopped:
                for peer in islice(peers, self._go_on(None, -1)):
                    self._start(peer)
        finally:
            self._close()

    def run_at(
        self, rate: float, starts: Iterable[Start], *, tick: Callable[[], None] | None = None
    ) -> None:
        """Start ``rate`` peers per second, whether or not earlier ones are done.

        Peer n is due n / rate seconds after the first. Each gets the time at which
        it was due, and counts its times from there. So if the server stalls, that
        shows in the times of all peers that were due in the meantime; and so does a
        client that can't keep up with the rate.

        Args:
            rate: Peers per second.
            starts: Functions that start a peer, called when it is due.
            tick: Called every `TICK` seconds, to show the progress.
        """
        first = self._clock()
        if tick is not None:
            self._tick, self._next_tick = tick, first + TICK
        try:
            for number, start in enumerate(starts):
                due = first + number / rate
                while (wait := due - self._clock()) > 0 and not self._stopped:
                    self._go_on(wait, BATCH)
                if self._stopped:
                    break
                if (peer := start(due)) is not None:
                    self._start(peer)
            while self._waiting and not self._stopped:
                self._go_on(None, BATCH)
        finally:
            self._close()

    def _go_on(self, timeout: float | None, most: int) -> int:
        """Wait for events, and resume the peers that got one; return how many peers ended."""
        until = self._next_tick
        if self._deadlines:
            until = min(until, self._deadlines[0][0])
        if until < math.inf:
            wait = max(0.0, until - self._clock())
            timeout = wait if timeout is None else min(timeout, wait)
        ended = 0
        for fd, _ in self._poller.poll(-1 if timeout is None else timeout, most):
            peer, event = self._waiting[fd]
            ended += self._advance(peer, (fd, event))
        if until < math.inf and (now := self._clock()) >= until:
            ended += self._expire(now)
            if self._tick is not None and now >= self._next_tick:
                self._next_tick = now + TICK
                self._tick()
        return ended

    def _expire(self, now: float) -> int:
        ended = 0
        while self._deadlines and self._deadlines[0][0] <= now:
            _, fd, peer = self._deadlines.popleft()
            waiting, event = self._waiting.get(fd, (None, 0))
            if waiting is peer:  # otherwise it has ended
                ended += self._advance(
                    peer, (fd, event), TimeoutError(errno.ETIMEDOUT, "timed out")
                )
        return ended

    def _start(self, peer: Peer) -> None:
        self._advance(peer, None)

    def _advance(self, peer: Peer, waited: Wait | None, error: OSError | None = None) -> int:
        """Resume a peer; return how many peers ended by that (0 or 1)."""
        try:
            fd, event = next(peer) if error is None else peer.throw(error)
        except (StopIteration, OSError) as exc:
            if waited is not None:
                del self._waiting[waited[0]]
                # Closing the socket would unregister it, too, but some peers keep their socket open.
                with contextlib.suppress(OSError, KeyError):
                    self._poller.unregister(waited[0])
            if isinstance(exc, OSError):
                self.errors[type(exc).__name__] += 1
            return 1
        if waited is None:
            self._poller.register(fd, event)
            if self._patience is not None:
                self._deadlines.append((self._clock() + self._patience, fd, peer))
        elif event != waited[1]:
            self._poller.modify(fd, event)
        self._waiting[fd] = (peer, event)
        return 0

    def _close(self) -> None:
        for peer, _ in self._waiting.values():
            peer.close()
        self._waiting.clear()
        if self._own_poller:
            self._poller.close()


# ------------------------------------------------------------------------------------------ what peers are made of


def dial(
    address: Address, *, family: int = socket.AF_INET, source: Address | None = None
) -> Generator[Wait, None, socket.socket]:
    """Open a TCP connection.

    Args:
        address: The address to dial.
        family: The address family.
        source: Our own address, with port 0 for a free port; None to let the
            kernel choose.

    Raises:
        OSError: Nobody listens there, or we have no descriptor or port left.
    """
    sock = socket.socket(family)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source is not None:
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind(source)
        error = sock.connect_ex(address)
        if error == errno.EINPROGRESS:
            yield sock.fileno(), WRITE
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
    except BaseException:
        sock.close()
        raise
    return sock


def tls(sock: ssl.SSLSocket, function: Callable[[], T]) -> Generator[Wait, None, T]:
    """Call a method of a non-blocking TLS socket until it is done.

    Raises:
        ConnectionResetError: The other end has reset the connection; also on Python 3.11, whose
            ``ssl`` says then that the stream has ended.
    """
    while True:
        try:
            return function()
        except ssl.SSLEOFError as exc:
            if was_reset(sock):
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from exc
            raise
        except ssl.SSLWantReadError:
            yield sock.fileno(), READ
        except ssl.SSLWantWriteError:
            yield sock.fileno(), WRITE


def was_reset(sock: socket.socket) -> bool:
    """Whether the read or write that has just failed did so because of a reset.

    After a reset the socket has no peer any more. It has none either if a reset follows the end of
    the stream, but then the error is still there to be asked for: the read has found the end.
    """
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        return False
    try:
        sock.getpeername()
    except OSError:
        return True
    return False


def send(sock: ssl.SSLSocket, data: bytes) -> Generator[Wait, None, None]:
    """Send all of the data."""
    sent = 0
    while sent < len(data):
        sent += yield from tls(sock, partial(sock.send, memoryview(data)[sent:]))


def client_hello(context: ssl.SSLContext) -> bytes:
    """Make a ClientHello."""
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


# -------------------------------------------------------------------------------------------------------- latencies


class Latencies:
    """Keeps all times, in seconds, so that percentiles are exact.

    The number of times is bounded, and a million of them take 8 MB. A histogram
    would need less memory, but the library for it (HdrHistogram) takes 3 µs to add a
    value, which takes 0.2 µs here, and it needs a compiler to install on ARM.
    """

    def __init__(self) -> None:
        self._values = array("d")
        self.add = self._values.append

    def __len__(self) -> int:
        return len(self._values)

    def percentile(self, percent: float, *, since: int = 0) -> float:
        """Return the time within which this percentage was done (nearest rank); NaN without values.

        Args:
            percent: Above 0, up to 100.
            since: How many values to leave out, counted from the first.
        """
        ordered = sorted(self._values[since:])
        if not ordered:
            return math.nan
        # Round first, because 99.9 % of 1000 is 999.0000000000001.
        return ordered[max(0, math.ceil(round(percent * len(ordered) / 100, 6)) - 1)]

    def tells(self, percent: float) -> bool:
        """Whether there are enough values for a percentile to say more than the maximum does."""
        return len(self) * (100 - percent) >= 100 - 1e-6
