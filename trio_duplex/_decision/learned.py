"""A window for unknown peers that is learned from how soon speaking peers speak.

Theory of operation
-------------------

Each speaking peer votes. A peer that was late doubles the window; a peer that was in time
multiplies it by ``2 ** (-e / (1 - e))``. After N votes, L of them late, the window's
logarithm (to base 2) has moved by ``L - (N - L) * e / (1 - e)``. As the window stays in a
range, it follows that ``L <= e * N + log2(range)``: in the long run the rate of wrong roles
is at most ``e``. This holds for *every* distribution of delays below the cap, in every
order. No assumption about networks is needed.

For this to hold, each late vote has to double the value, even at the cap. So the value may
exceed the cap by up to a factor of two; the window that `Learned` chooses never does.

Two limits remain. If one peer in a thousand is starved of CPU for two seconds, then no window
under two seconds has a lower rate of wrong roles than that, and this one grows until it is
long enough. And the bound is about votes: only admitted peers vote, so that strangers can't
move the window.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TypeVar

from trio_duplex._decision.facts import Conduct, Outcome, PeerFacts
from trio_duplex._decision.policy import Choice
from trio_duplex._decision.window import DEFAULT_WINDOW
from trio_duplex._seconds import check_seconds

T = TypeVar("T")

REST = 3600.0
"""Seconds between two votes of one address, so that a peer that reconnects in a loop has one vote."""

MOST_VOTERS = 100_000
"""How many addresses' last votes are remembered. The least recent ones make room for new ones."""


class Learned:
    """Learn the window for unknown peers, with a bound on the rate of wrong roles.

    Give it as ``otherwise`` to a `PeerMemory`, or by itself as ``window=``.

    Args:
        error: The highest rate of wrong roles among speaking peers; 1 in 1,000
            by default.
        floor: The shortest window, in seconds; 0.5 by default.
        cap: The longest window, in seconds, which is also the first one; 5 by
            default.

    Raises:
        TypeError, ValueError: An argument is wrong.
    """

    def __init__(
        self, *, error: float = 1e-3, floor: float = 0.5, cap: float = DEFAULT_WINDOW
    ) -> None:
        if isinstance(error, bool) or not isinstance(error, int | float):  # pyright: ignore[reportUnnecessaryIsInstance] - users' words
            raise TypeError(f"error must be a rate, such as 0.001, not {error!r}")
        if not 0 < error < 0.5:
            raise ValueError(f"error must be a rate between 0 and 0.5, not {error!r}")
        self._error = error
        self._floor = check_seconds("floor", floor)
        self._cap = check_seconds("cap", cap)
        if not 0 < self._floor <= self._cap < math.inf:
            raise ValueError(
                f"floor must be more than 0 and at most cap, which is finite: not {floor:g} and {cap:g}"
            )
        self._shrink = 2 ** (-error / (1 - error))
        self._value = self._cap
        self._voted: OrderedDict[str, float] = OrderedDict()  # when each address last voted
        self._late: OrderedDict[str, None] = OrderedDict()  # were late, not admitted so far
        self._votes = self._late_votes = 0
        self._unmeasured = Choice(self._cap, "learned window not used: round trip unknown")
        self._choice = self._chosen()

    @property
    def seconds(self) -> float:
        """The window as learned so far, in seconds."""
        return min(self._value, self._cap)

    @property
    def votes(self) -> int:
        """How many peers have voted so far."""
        return self._votes

    @property
    def late_votes(self) -> int:
        """How many of the peers that voted were late."""
        return self._late_votes

    def choose(self, peer: PeerFacts, /) -> Choice:
        """Choose the learned window, or the cap if the round trip is unknown or a SYN-ACK was lost."""
        return self._unmeasured if peer.round_trip is None else self._choice

    def learn(self, peer: PeerFacts, outcome: Outcome, /) -> None:
        """Count the vote of a speaking peer that was admitted.

        A peer that was late and then aborts its handshake can't be admitted. Its
        vote counts once the same address is admitted as a speaking peer.
        """
        key = peer.key
        if key is None or outcome.conduct is Conduct.SILENT:
            return
        # Another rule may have given this peer a longer window. The vote is about ours.
        late = outcome.conduct is Conduct.LATE or outcome.waited > self.seconds
        if not outcome.admitted:
            if outcome.conduct is Conduct.LATE:
                _remember(self._late, key, None)
            return
        if key in self._late:
            del self._late[key]
            late = True
        if peer.now - self._voted.get(key, -math.inf) < REST:
            return
        _remember(self._voted, key, peer.now)
        self._votes += 1
        if late:
            self._late_votes += 1
            self._value = min(2 * self._cap, 2 * self._value)
        else:
            self._value = max(self._floor, self._value * self._shrink)
        self._choice = self._chosen()

    def _chosen(self) -> Choice:
        return Choice(self.seconds, f"learned from {self._votes} peers")


def _remember(voters: OrderedDict[str, T], key: str, value: T) -> None:
    voters[key] = value
    voters.move_to_end(key)
    if len(voters) > MOST_VOTERS:
        voters.popitem(last=False)
