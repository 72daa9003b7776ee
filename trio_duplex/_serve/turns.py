"""Handshakes take turns: so many at once in one role, the others wait in line.

Who is served next, and who loses its turn for that, goes by three rules.

*By address.* The next turn goes to the address that holds the fewest, among
equals to the one that has waited longest. An address that holds at least twice
as many as the next would then hold gives one up, as soon as one of its peers
has been quiet for longer than the patience. So what one address does costs the
others nothing, be it a flood or a fleet behind a NAT.

*By time.* Among addresses that hold alike, a turn may be taken from a peer that
has been quiet for longer than the patience: it may be mute. But an honest peer
may be as slow, and if the patience were all that counted, a fleet of those
would be shed for ever: each just before it answers. So a quarter of the turns
is left to peers that are late, for as long as their handshake may last. If there
are more, the address that has most of them sheds its youngest, since the oldest
has the best chance of being about to answer.

*By what was learned.* If such a late peer is admitted in the end, then peers
are slow here, and all but a quarter of the turns get that much time, for some
minutes. Only an admitted peer teaches that: a stranger who answers slowly
changes nothing. The quarter that keeps to the patience goes on getting through
mute peers, whatever was learned.

An answer begins a second patience, and no more than that: one byte is an answer.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NoReturn, Protocol

import trio

from trio_duplex._serve.addresses import ByAddress, Ranking
from trio_duplex._serve.limits import Limit

LEARNED_FOR = 300.0
"""Seconds for which slowness is remembered: fleets come back together, after a cut."""

LEARNED_MARGIN = 2.0
"""What to multiply it with: the next may lose a packet, or be the slower device."""

GREEDY = 2
"""An address is greedy if it holds so many times what the next in line would hold.
With a smaller ratio, fleets behind NATs would shed each other's peers over every
small difference."""


class Waiter(Protocol):
    """What can hold a turn."""

    @property
    def key(self) -> Hashable:
        """The address that it counts for."""
        ...

    def drop(self, limit: Limit, value: float) -> None:
        """End, as soon as possible, because of a limit that has that value; then `leave`."""
        ...


class Turns:
    """Handshakes in one role: so many at once, the others wait in line.

    Args:
        most: How many at once.
        patience: Seconds for which a peer may be quiet while others wait.
        limit: The limit which that patience is.
    """

    def __init__(self, most: float, patience: float, limit: Limit) -> None:
        self.most = most
        self.patience = patience
        self.limit = limit
        self._held: dict[Hashable, int] = {}  # turns, by address
        # Holders, each with the moment since which it has been quiet, longest first: within
        # the patience, beyond it, and beyond what was learned. `_sort` moves them on.
        self._fresh: dict[Waiter, float] = {}
        self._slow: dict[Waiter, float] = {}
        self._late: dict[Waiter, float] = {}
        self._waited: dict[Waiter, float] = {}  # those that took long to answer, and how long
        self._late_of: ByAddress[Waiter] = ByAddress()
        self._sheddable: ByAddress[Waiter] = ByAddress()  # the slow and the late
        self._greediest = Ranking()  # their addresses, by the turns that these hold
        self._line: dict[Waiter, trio.Event] = {}
        self._line_of: ByAddress[Waiter] = ByAddress()
        self._next = Ranking()  # the addresses in line, by the turns that they hold
        self._leaving: set[Waiter] = set()  # shed, but still holding their turns
        self._learned = 0.0
        self._learned_at = 0.0
        self._changed = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        """Tell how many turns are held."""
        return len(self._fresh) + len(self._slow) + len(self._late) + len(self._leaving)

    @property
    def in_line(self) -> int:
        """How many wait."""
        return len(self._line)

    @property
    def slow_patience(self) -> float:
        """Seconds for which a peer may be quiet, by what was learned lately."""
        if self._learned and trio.current_time() - self._learned_at > LEARNED_FOR:
            self._learned = 0.0
        return max(self.patience, LEARNED_MARGIN * self._learned)

    def take(self, waiter: Waiter) -> bool:
        """Take a turn if one is free and nobody waits."""
        if self._line or len(self) >= self.most:
            return False
        self._hold(waiter)
        return True

    async def wait(self, waiter: Waiter, timeout: float) -> bool:
        """Wait in line for a turn, and take it.

        Args:
            waiter: Who waits.
            timeout: Seconds to wait at most.

        Returns:
            Whether it got one.
        """
        event = self._line[waiter] = trio.Event()
        self._line_of.add(waiter.key, waiter)
        self._next.set(waiter.key, self._held.get(waiter.key, 0))
        self._changed.unpark_all()
        try:
            with trio.move_on_after(timeout):
                await event.wait()
        except BaseException:
            self.leave(waiter)
            raise
        if waiter in self._line:
            self.leave(waiter)
            return False
        return True

    def answered(self, waiter: Waiter) -> None:
        """Begin another patience: the peer has shown that it takes part. Call it once."""
        now = trio.current_time()
        since = self._quiet_since(waiter)
        if since is not None:
            self._waited[waiter] = now - since
            self._fresh.pop(waiter, None)
            self._not_sheddable(waiter)
            self._fresh[waiter] = now

    def admitted(self, waiter: Waiter) -> None:
        """Learn from a peer that has proved honest how long one may take."""
        now = trio.current_time()
        since = self._quiet_since(waiter)
        took = max(0.0 if since is None else now - since, self._waited.get(waiter, 0.0))
        if took > self.patience and LEARNED_MARGIN * took >= self.slow_patience:
            self._learned, self._learned_at = took, now
            self._changed.unpark_all()

    def _quiet_since(self, waiter: Waiter) -> float | None:
        for zone in (self._fresh, self._slow, self._late):
            if waiter in zone:
                return zone[waiter]
        return None  # it is being shed

    def leave(self, waiter: Waiter) -> None:
        """Give up the turn, or the place in line; may be called again."""
        self._waited.pop(waiter, None)
        if self._line.pop(waiter, None) is not None:
            self._out_of_line(waiter)
        elif self._release(waiter):
            while self._line and len(self) < self.most:
                first = self._line_of.oldest(self._next.lowest())
                event = self._line.pop(first)
                self._out_of_line(first)
                self._hold(first)
                event.set()
        if self._line:
            self._changed.unpark_all()

    def _out_of_line(self, waiter: Waiter) -> None:
        self._line_of.discard(waiter.key, waiter)
        if not self._line_of.count(waiter.key):
            self._next.discard(waiter.key)

    def _hold(self, waiter: Waiter) -> None:
        self._fresh[waiter] = trio.current_time()
        self._count(waiter.key, +1)

    def _release(self, waiter: Waiter) -> bool:
        if waiter in self._leaving:
            self._leaving.remove(waiter)
        elif waiter in self._fresh:
            del self._fresh[waiter]
        elif waiter in self._slow or waiter in self._late:
            self._not_sheddable(waiter)
        else:
            return False
        self._count(waiter.key, -1)
        return True

    def _count(self, key: Hashable, change: int) -> None:
        held = self._held[key] = self._held.get(key, 0) + change
        if not held:
            del self._held[key]
        for ranking in (self._next, self._greediest):
            if key in ranking:
                ranking.set(key, held)

    def _not_sheddable(self, waiter: Waiter) -> None:
        self._slow.pop(waiter, None)
        if self._late.pop(waiter, None) is not None:
            self._late_of.discard(waiter.key, waiter)
        if self._sheddable.discard(waiter.key, waiter) and not self._sheddable.count(waiter.key):
            self._greediest.discard(waiter.key)

    def _sort(self, now: float) -> None:
        """Move on those that have been quiet for too long to stay where they are."""
        while self._fresh:
            waiter, since = next(iter(self._fresh.items()))
            if since + self.patience > now:
                break
            del self._fresh[waiter]
            self._slow[waiter] = since
            self._sheddable.add(waiter.key, waiter)
            self._greediest.set(waiter.key, self._held[waiter.key])
        patience = self.slow_patience
        while self._slow:
            waiter, since = next(iter(self._slow.items()))
            if since + patience > now:
                break
            del self._slow[waiter]
            self._late[waiter] = since
            self._late_of.add(waiter.key, waiter)

    def _victim(self) -> Waiter | None:
        """Return who is to lose its turn to the next in line; None while nobody may be shed."""
        if not self._slow and not self._late:
            return None
        greediest, holds = self._greediest.highest()
        if holds >= GREEDY * (self._held.get(self._next.lowest(), 0) + 1):
            return self._sheddable.youngest(greediest)
        quarter = max(1, self.most // 4) if self.most > 1 else 0
        if len(self._late) > quarter:
            return _youngest(self._late_of, self._late)
        if len(self._slow) + len(self._late) > self.most - quarter:
            return _youngest(self._sheddable, self._slow or self._late)
        return None

    def _next_change(self) -> float:
        """Return when the next one will have been quiet for too long; inf if none will."""
        times = [
            next(iter(zone.values())) + patience
            for zone, patience in (
                (self._fresh, self.patience),
                (self._slow, self.slow_patience),
            )
            if zone
        ]
        return min(times, default=float("inf"))

    async def shed_overdue(self) -> NoReturn:
        """Take turns from peers that have been quiet, one for each that waits; runs for ever."""
        while True:
            self._sort(trio.current_time())
            victim = self._victim() if len(self._line) > len(self._leaving) else None
            if victim is not None:
                self._not_sheddable(victim)
                self._leaving.add(victim)
                victim.drop(self.limit, self.patience)
                continue
            # With nobody in line, there is nothing to do at that time either.
            until = self._next_change() if self._line else float("inf")
            with trio.move_on_at(until):
                await self._changed.park()


def _youngest(of: ByAddress[Waiter], waiters: dict[Waiter, float]) -> Waiter:
    """Return the youngest of the address that has most, or of all if each has one."""
    key = of.most()
    return next(reversed(waiters)) if key is None else of.youngest(key)
