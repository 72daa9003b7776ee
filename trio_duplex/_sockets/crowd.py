"""Waiting for the first bytes of thousands of sockets, each until a time of its own, in one task.

A task that waits for a socket holds frames, a scope and a timer: 2.9 KB, and 21 objects that the
garbage collector walks again and again. In a crowd a socket is its descriptor and the end of its wait:
two numbers, of which the collector knows nothing.

The descriptors are watched by an epoll of our own, which is itself readable as soon as one of them is,
and is all that Trio's sees of them. The ends are in a heap. `Crowd.wait` waits for whichever comes
first, under one ``trio.move_on_at``, so the end of a wait is still that of a cancel scope.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import select
from types import TracebackType
from typing import Self

import trio

AT_ONCE = 64
"""Descriptors of each kind that one `Crowd.wait` returns; more are there at the next call. Each may
begin a handshake, of a third of a millisecond, before others run."""

NANOSECONDS = 1e9
"""In the heap an end and its descriptor are one integer: the end in nanoseconds, then 32 bits of
descriptor. A tuple of the two is twice as large, and the collector tracks it."""

DESCRIPTOR_BITS = 32

NEVER, OVERDUE = -1, -2
"""In place of that integer, for a descriptor that is not in the heap, or not any more."""

FAR = 1e9
"""Seconds on Trio's clock, about 30 years. An end beyond that counts as no end."""

STALE = 64
"""Out-of-date entries that the heap may hold, in addition to one for each descriptor."""


def has_epoll() -> bool:
    """Whether this system can watch a crowd."""
    return hasattr(select, "epoll")


class Crowd:
    """Descriptors that are waited for, each until its end. A context manager.

    It does not own the descriptors. Call `discard` before you close one.

    Raises:
        OSError: There is no descriptor left for it.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ends: dict[int, int] = {}  # of each descriptor, as it is in the heap
        self._heap: list[int] = []
        self._scope = trio.CancelScope()
        # Its deadline: to ask Trio for that takes as long as all the rest of `add`.
        self._until = math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._epoll.close()

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, descriptor: int, end: float) -> None:
        """Watch a descriptor.

        Args:
            descriptor: A socket's, which does not block.
            end: Until when, on Trio's clock; ``math.inf`` for without end.
        """
        # Once, because a descriptor that was closed, but has a duplicate in a forked process, can't
        # be taken out any more, and would be readable for ever.
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLONESHOT)
        if end >= FAR:
            self._ends[descriptor] = NEVER
            return
        entry = round(end * NANOSECONDS) << DESCRIPTOR_BITS | descriptor
        heapq.heappush(self._heap, entry)
        self._ends[descriptor] = entry
        if end < self._until:
            self._until = self._scope.deadline = end

    def discard(self, descriptor: int) -> None:
        """Watch a descriptor no longer, if it is watched."""
        if self._ends.pop(descriptor, None) is None:
            return
        with contextlib.suppress(OSError):
            self._epoll.unregister(descriptor)
        if len(self._heap) > 2 * len(self._ends) + STALE:
            self._heap = [entry for entry in self._ends.values() if entry >= 0]
            heapq.heapify(self._heap)

    def watch_again(self, descriptor: int) -> None:
        """Watch a descriptor again that `wait` has returned as readable, but that was not."""
        self._epoll.modify(descriptor, select.EPOLLIN | select.EPOLLONESHOT)

    def wake(self) -> None:
        """Make `wait` return soon, even if it has found nothing."""
        self._until = self._scope.deadline = -math.inf

    async def wait(self) -> tuple[list[int], list[int]]:
        """Wait until a descriptor is readable, or its time is over. Always a checkpoint.

        Returns:
            The descriptors that are readable, and those whose time is over: at most `AT_ONCE` of
            each. Call `discard` for each of them, or `watch_again` for one that turned out to have
            nothing to read.
        """
        self._until = self._next_end()
        with trio.move_on_at(self._until) as self._scope:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
        # No end is earlier than that, so mostly there is nothing to look for.
        overdue = self._overdue() if self._until <= trio.current_time() else []
        return self.readable(AT_ONCE), overdue

    def readable(self, most: int) -> list[int]:
        """Return descriptors that are readable now, and were not returned before. Does not wait."""
        return [
            descriptor
            for descriptor, _ in self._epoll.poll(0, most)
            # Or a duplicate has outlived it. Nobody is told twice.
            if self._ends.get(descriptor, OVERDUE) != OVERDUE
        ]

    def _next_end(self) -> float:
        while self._heap and self._is_stale(self._heap[0]):
            heapq.heappop(self._heap)
        return _end(self._heap[0]) if self._heap else math.inf

    def _is_stale(self, entry: int) -> bool:
        return self._ends.get(_descriptor(entry)) != entry

    def _overdue(self) -> list[int]:
        # They are compared as the scope's deadline is, or what was rounded up would never be due.
        now, found = trio.current_time(), list[int]()
        while len(found) < AT_ONCE and self._next_end() <= now:
            descriptor = _descriptor(heapq.heappop(self._heap))
            self._ends[descriptor] = OVERDUE
            found.append(descriptor)
        return found


def _descriptor(entry: int) -> int:
    return entry & (1 << DESCRIPTOR_BITS) - 1


def _end(entry: int) -> float:
    return (entry >> DESCRIPTOR_BITS) / NANOSECONDS
