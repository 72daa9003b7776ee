"""Handshakes take turns: so many at once in one role, the others wait in line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from trio_duplex._serve.room import Place


class Turns:
    """Handshakes in one role: so many at once, the others wait in line.

    Args:
        most: How many at once.
        patience: Seconds after which one that has not progressed may be shed.
        limit: The name of the limit in `Limits`.
    """

    def __init__(self, most: float, patience: float, limit: str) -> None:
        self.most = most
        self.patience = patience
        self.limit = limit
        self._holders: set[Place] = set()
        self._since: dict[Place, float] = {}  # those that may be shed, oldest first
        self._line: dict[Place, trio.Event] = {}
        self._leaving: set[Place] = set()  # shed, but still holding their turns
        self._changed = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self._holders)

    def take(self, place: Place) -> bool:
        """Take a turn if one is free and nobody waits."""
        if self._line or len(self._holders) >= self.most:
            return False
        self._hold(place)
        return True

    async def wait(self, place: Place) -> None:
        """Wait in line for a turn, and take it."""
        event = self._line[place] = trio.Event()
        self._changed.unpark_all()
        try:
            await event.wait()
        except BaseException:
            self.leave(place)
            raise

    def progressed(self, place: Place) -> None:
        """The peer has shown that it takes part: no longer to be shed."""
        self._since.pop(place, None)

    def leave(self, place: Place) -> None:
        """Give up the turn, or the place in line."""
        self._line.pop(place, None)
        self._since.pop(place, None)
        self._leaving.discard(place)
        if place in self._holders:
            self._holders.remove(place)
            while self._line and len(self._holders) < self.most:
                first = next(iter(self._line))
                self._hold(first)
                self._line.pop(first).set()
        if self._line:
            self._changed.unpark_all()

    def _hold(self, place: Place) -> None:
        self._holders.add(place)
        self._since[place] = trio.current_time()

    async def shed_overdue(self) -> None:
        """Shed the oldest that make no progress, one for each that waits; runs for ever."""
        while True:
            oldest = next(iter(self._since), None)
            # Without an oldest, all are answered, and bound by their own timeout.
            if oldest is None or len(self._line) <= len(self._leaving):
                await self._changed.park()
                continue
            overdue = self._since[oldest] + self.patience
            if trio.current_time() < overdue:
                await trio.sleep_until(overdue)
                continue
            del self._since[oldest]
            self._leaving.add(oldest)
            oldest.drop(self.limit, self.most)
