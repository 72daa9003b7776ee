"""Handshakes take turns: a bounded number at the same time in one role; further peers wait in line.

A peer needs a turn because a handshake takes memory, and it may keep the turn only
while it makes progress. Three rules decide which peer gets the next turn, and which
peer loses its turn for that. (To take a turn away is called to *shed* the peer.)

*By address.* The next turn goes to the address that holds the fewest turns; among
equal addresses, to the one that has waited longest. An address is greedy if it holds
at least twice as many turns as the next address would hold with one more. It then
gives one up, as soon as one of its peers has been quiet for longer than the patience.
So neither a flood from one address nor a fleet behind a NAT can take all turns from
other addresses.

*By time.* If no address is greedy, a turn may be taken from a peer that has been
quiet for longer than the patience, because it may be mute and never answer. But a
proper peer may be slow, too. If only the patience counted, a fleet of such peers
would never be served: each would lose its turn just before it answers. So a quarter
of the turns is left to peers that are late, for as long as their handshake may last.
If there are more late peers than that, the address with the most of them loses its
youngest, because the oldest one is the most likely to answer soon.

*By experience.* If a late peer is admitted in the end, peers here are slow, and all
turns except a quarter get twice as much time as it took, for some minutes. Only an
admitted peer has this effect: a stranger that answers slowly changes nothing. The
other quarter of the turns keeps to the patience, so that mute peers are always
removed from some turns, whatever was learned.

When a peer answers, its patience begins again, but only once, because one byte is
enough for an answer.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NoReturn, Protocol

import trio

from trio_duplex._serve.addresses import ByAddress, Ranking
from trio_duplex._serve.limits import Limit

LEARNED_FOR = 300.0
"""Seconds for which slowness is remembered. After an outage, a whole fleet reconnects at once."""

LEARNED_MARGIN = 2.0
"""The factor for the learned time. The next peer may lose a packet, or be a slower device."""

GREEDY = 2
"""An address is greedy if it holds this many times as many turns as the next in line would hold.
With a smaller factor, fleets behind NATs would take turns from each other because of every small
difference."""


class Waiter(Protocol):
    """A peer that can hold a turn, or wait for one."""

    @property
    def key(self) -> Hashable:
        """The address that it counts for."""
        ...

    def drop(self, limit: Limit, value: float) -> None:
        """End as soon as possible because of a limit with this value, and then call `leave`."""
        ...


class Turns:
    """The turns of one role. Peers without a turn wait in line.

    Args:
        most: How many turns there are.
        patience: Seconds for which a peer may be quiet while others wait.
        limit: The limit that defines the patience, for errors.
    """

    def __init__(self, most: float, patience: float, limit: Limit) -> None:
        self.most = most
        self.patience = patience
        self.limit = limit
        self._held: dict[Hashable, int] = {}  # how many turns each address holds
        # The peers that hold turns, each with the time since which it has been quiet, the longest
        # first: _fresh within the patience, _slow beyond the patience, and _late beyond the learned
        # time. `_sort` moves them from one to the next.
        self._fresh: dict[Waiter, float] = {}
        self._slow: dict[Waiter, float] = {}
        self._late: dict[Waiter, float] = {}
        self._waited: dict[Waiter, float] = {}  # how long peers took until they answered
        self._late_of: ByAddress[Waiter] = ByAddress()  # the late peers of each address
        self._sheddable: ByAddress[Waiter] = ByAddress()  # the slow and late peers of each address
        self._greediest = Ranking()  # the addresses of these, by how many turns they hold
        self._line: dict[Waiter, trio.Event] = {}  # the peers that wait
        self._line_of: ByAddress[Waiter] = ByAddress()  # the waiting peers of each address
        self._next = Ranking()  # the addresses of these, by how many turns they hold
        self._leaving: set[Waiter] = set()  # peers that were shed, but still hold their turns
        self._learned = 0.0
        self._learned_at: float  # when that was; not set while nothing was learned
        self._changed = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        """Return how many turns are held."""
        return len(self._fresh) + len(self._slow) + len(self._late) + len(self._leaving)

    @property
    def in_line(self) -> int:
        """How many peers wait."""
        return len(self._line)

    @property
    def slow_patience(self) -> float:
        """Seconds for which a peer may be quiet, with what was learned recently."""
        if self._learned and trio.current_time() - self._learned_at > LEARNED_FOR:
            self._learned = 0.0
        return max(self.patience, LEARNED_MARGIN * self._learned)

    def take(self, waiter: Waiter) -> bool:
        """Take a turn if one is free and no peer is in line; return whether it did."""
        free = not self._line and len(self) < self.most
        if free:
            self._hold(waiter)
        return free

    async def wait(self, waiter: Waiter, timeout: float) -> bool:
        """Wait in line for a turn, and take it.

        Args:
            waiter: The peer that waits.
            timeout: How many seconds to wait at most.

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
        """Begin the patience again, because the peer has answered. Call this only once for a turn."""
        now = trio.current_time()
        since = self._quiet_since(waiter)
        if since is not None:
            self._waited[waiter] = now - since
            self._fresh.pop(waiter, None)
            self._not_sheddable(waiter)
            self._fresh[waiter] = now

    def admitted(self, waiter: Waiter) -> None:
        """Learn from an admitted peer how long a peer may take."""
        now = trio.current_time()
        since = self._fresh.get(waiter)
        if since is None:
            since = self._quiet_since(waiter)
        took = max(0.0 if since is None else now - since, self._waited.get(waiter, 0.0))
        if took > self.patience and LEARNED_MARGIN * took >= self.slow_patience:
            # `shed_overdue` need not be woken: at worst it wakes up too early, and sheds nobody.
            self._learned, self._learned_at = took, now

    def _quiet_since(self, waiter: Waiter) -> float | None:
        for zone in (self._fresh, self._slow, self._late):
            if waiter in zone:
                return zone[waiter]
        return None  # it was shed

    def leave(self, waiter: Waiter) -> None:
        """Give up the turn or the place in line, if there is one. This may be called again."""
        self._waited.pop(waiter, None)
        if self._line.pop(waiter, None) is not None:
            self._out_of_line(waiter)
        else:
            self._release(waiter)
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

    def _release(self, waiter: Waiter) -> None:
        if waiter in self._leaving:
            self._leaving.remove(waiter)
        elif waiter in self._fresh:
            del self._fresh[waiter]
        elif waiter in self._slow or waiter in self._late:
            self._not_sheddable(waiter)
        else:
            return
        self._count(waiter.key, -1)

    def _count(self, key: Hashable, change: int) -> None:
        held = self._held[key] = self._held.get(key, 0) + change
        if not held:
            del self._held[key]
        if self._line or self._slow or self._late:  # or both rankings are empty
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
        """Move peers that have been quiet for too long from fresh to slow, and from slow to late."""
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
        """Return the peer that loses its turn to the next in line; None if no peer may be shed."""
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
        """Return when the next peer will have been quiet for too long; inf if there is none."""
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
        """Take turns from peers that have been quiet, one for each peer in line; runs for ever."""
        while True:
            self._sort(trio.current_time())
            victim = self._victim() if len(self._line) > len(self._leaving) else None
            if victim is not None:
                self._not_sheddable(victim)
                self._leaving.add(victim)
                victim.drop(self.limit, self.patience)
                continue
            # Without a peer in line, nothing has to be done at that time.
            until = self._next_change() if self._line else float("inf")
            with trio.move_on_at(until):
                await self._changed.park()


def _youngest(of: ByAddress[Waiter], waiters: dict[Waiter, float]) -> Waiter:
    """Return the youngest peer of the address with the most, or of all if each address has one."""
    key = of.most()
    return next(reversed(waiters)) if key is None else of.youngest(key)
