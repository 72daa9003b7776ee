"""The engine of ``trio-duplex load`` and of the benchmarks: peers on epoll, in one thread.

Whoever measures a server must not cost more than it does. So this is not Trio:
a peer is a generator over a non-blocking socket that yields what it waits for,
and `Loop` runs thousands of them with one system call for every few. The peers
of `trio_duplex.testing` would have been there already, but they keep a
transcript of every byte, and take 11.1 million instructions each where those
of the command take 8.7 (callgrind; a handshake with verification, an echo).

What measures is here, once, for both: `Loop.run_at` paces (a peer is due when
the schedule says, not when the one before is done), `Latencies` keeps the
times. ``benchmarks/client.py`` plays its own peers on it, which verify nothing,
and ``_load_peers`` those of the command, which behave as real ones do.
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

READ, WRITE = select.POLLIN, select.POLLOUT  # epoll's are the same numbers

Wait = tuple[int, int]
"""What a peer waits for: a file descriptor, the same one all its life, and an event on it."""

Peer = Generator[Wait, None, None]

Start = Callable[[float], Peer | None]
"""Makes a peer that was due at that time, on the loop's clock; or decides not to."""

BATCH = 16
"""How many peers may go on before `Loop.run_at` looks whether another is due: some
5 ms of handshakes."""

TICK = 0.25
"""Seconds between two calls of a ``tick``."""

Address = tuple[Any, ...]
"""A socket address, as ``socket`` takes it."""

IP_BIND_ADDRESS_NO_PORT = 24
"""Linux: choose the port when dialling, when the far end is known. Python names it from 3.12 on."""


class Poller(Protocol):
    """What `Loop` waits with; `new_poller` makes one."""

    def register(self, fd: int, eventmask: int, /) -> object: ...

    def modify(self, fd: int, eventmask: int, /) -> object: ...

    def unregister(self, fd: int, /) -> object: ...

    def poll(self, timeout: float, most: int, /) -> list[tuple[int, int]]:
        """Wait so many seconds, or for ever if negative; return so many events, or all if negative."""
        ...

    def close(self) -> None: ...


class _Epoll:
    """epoll, but on time: it knows milliseconds, and Python rounds up, half of one on average."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.register, self.modify = self._epoll.register, self._epoll.modify
        self.unregister, self.close = self._epoll.unregister, self._epoll.close
        self._selectable = self._epoll.fileno() < FD_SETSIZE

    def poll(self, timeout: float, most: int, /) -> list[tuple[int, int]]:
        if timeout > 0 and self._selectable:
            if timeout >= 0.001:
                timeout = math.floor(1000 * timeout) / 1000  # the rest is for the next time
            else:
                select.select((self._epoll,), (), (), timeout)  # which knows microseconds
                timeout = 0.0
        return self._epoll.poll(timeout, most)


class _Poll:
    """``select.poll``, where epoll is not: slower, and everywhere."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self.register, self.modify = self._poll.register, self._poll.modify
        self.unregister = self._poll.unregister

    def poll(self, timeout: float, most: int, /) -> list[tuple[int, int]]:
        found = self._poll.poll(None if timeout < 0 else math.ceil(1000 * timeout))
        return found if most < 0 else found[:most]

    def close(self) -> None:
        """Nothing to close: it is no descriptor."""


def new_poller() -> Poller:
    """Make one; early, while its descriptor is below 1024, or it is late by a millisecond."""
    return _Epoll() if hasattr(select, "epoll") else _Poll()


FD_SETSIZE = 1024
"""Descriptors from here on are too many for ``select``."""


class Loop:
    """Runs peers, once: so many at a time, or at a given rate.

    Args:
        patience: Seconds from its start after which a peer is thrown a
            ``TimeoutError``; it must then end. None gives it all the time.
        clock: Seconds, never going back.
        poller: What it waits with, which is not closed then; None makes one.

    Attributes:
        errors: How many peers ended in which ``OSError``.
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
        self._deadlines: deque[tuple[float, int, Peer]] = deque()  # in order: all have one patience
        self._stopped = False
        self._tick: Callable[[], None] | None = None
        self._next_tick = math.inf

    @property
    def open(self) -> int:
        """How many peers have begun and not ended."""
        return len(self._waiting)

    def stop(self) -> None:
        """End soon, and close what is open; for a signal handler. With a ``tick``, within `TICK`."""
        self._stopped = True

    def run(self, peers: Iterator[Peer], in_flight: int) -> None:
        """Run all of them, ``in_flight`` at once."""
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
        """Start ``rate`` peers a second, whether the earlier ones are done or not.

        The n-th is due n / rate seconds after the first. Each is told when it
        was due, and times from there: a server that stalls then shows in the
        times of all who would have dialled meanwhile, and so does a client
        that cannot keep up.

        Args:
            rate: Peers a second.
            starts: Makes them, each when it is due.
            tick: Called every `TICK` seconds, to show how it goes.
        """
        first = self._clock()
        if tick is not None:
            self._tick, self._next_tick = tick, first + TICK
        try:
            for number, start in enumerate(starts):
                due = first + number / rate
                while (left := due - self._clock()) > 0 and not self._stopped:
                    self._go_on(left, BATCH)
                if self._stopped:
                    break
                if (peer := start(due)) is not None:
                    self._start(peer)
            while self._waiting and not self._stopped:
                self._go_on(None, BATCH)
        finally:
            self._close()

    def _go_on(self, timeout: float | None, most: int) -> int:
        """Wait, and let peers go on that can; tell how many ended."""
        until = self._next_tick
        if self._deadlines:
            until = min(until, self._deadlines[0][0])
        if until < math.inf:
            left = max(0.0, until - self._clock())
            timeout = left if timeout is None else min(timeout, left)
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
            if waiting is peer:  # else it has ended
                ended += self._advance(
                    peer, (fd, event), TimeoutError(errno.ETIMEDOUT, "timed out")
                )
        return ended

    def _start(self, peer: Peer) -> None:
        self._advance(peer, None)

    def _advance(self, peer: Peer, waited: Wait | None, error: OSError | None = None) -> int:
        """Let a peer go on; tell how many peers ended by it (none or one)."""
        try:
            fd, event = next(peer) if error is None else peer.throw(error)
        except (StopIteration, OSError) as exc:
            if waited is not None:
                del self._waiting[waited[0]]
                # Closing a socket does it too, but some peers keep theirs.
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
        address: Whom to dial.
        family: The address family.
        source: Our own address; its port 0 takes a free one. None leaves it
            to the kernel.

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
    """Call a method of a non-blocking TLS socket until it is done."""
    while True:
        try:
            return function()
        except ssl.SSLWantReadError:
            yield sock.fileno(), READ
        except ssl.SSLWantWriteError:
            yield sock.fileno(), WRITE


def send(sock: ssl.SSLSocket, data: bytes) -> Generator[Wait, None, None]:
    """Send all of it."""
    sent = 0
    while sent < len(data):
        sent += yield from tls(sock, partial(sock.send, memoryview(data)[sent:]))


def client_hello(context: ssl.SSLContext) -> bytes:
    """A ClientHello, as bytes."""
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


# -------------------------------------------------------------------------------------------------------- latencies


class Latencies:
    """Times in seconds, every one of them, so that percentiles are exact.

    A run is bounded, and a million of them are 8 MB. A histogram would need
    less, but the library that makes one (HdrHistogram) takes 3 µs for what is
    0.2 µs here, and a compiler to install on ARM.
    """

    def __init__(self) -> None:
        self._values = array("d")
        self.add = self._values.append

    def __len__(self) -> int:
        return len(self._values)

    def percentile(self, percent: float, *, since: int = 0) -> float:
        """The time within which so many per cent were done (nearest rank); NaN if there is none.

        Args:
            percent: Above 0, up to 100.
            since: Leave out so many, from the first.
        """
        ordered = sorted(self._values[since:])
        if not ordered:
            return math.nan
        # Rounded first, since 99.9 of 1000 is 999.0000000000001.
        return ordered[max(0, math.ceil(round(percent * len(ordered) / 100, 6)) - 1)]

    def tells(self, percent: float) -> bool:
        """Whether there are enough values for that percentile to be more than the greatest of them."""
        return len(self) * (100 - percent) >= 100 - 1e-6
