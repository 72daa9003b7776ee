"""A window for first contacts that is learned from how soon speaking peers speak.

Theory of operation
-------------------

Each speaking peer votes. One that was late doubles the window; one that was in time
takes a factor of ``2 ** (-e / (1 - e))`` off it. Over N votes with L late ones the
window's logarithm has then moved by at most ``L - (N - L) * e / (1 - e)``, and as it stays
in a range, ``L <= e * N + log2(range)``: the rate of wrong roles is at most ``e`` in the
long run, *whatever* the distribution of delays below the cap is and in whatever order they
come. No assumption about networks is needed.

For that, a late vote has to count whole. So the value that is doubled may exceed the cap,
by up to a factor of two; the window that is given never does.

Two limits, honestly. Where one peer in a thousand is starved for two seconds, no window
under two seconds can err less often than that, and this one will grow until it does not.
And the promise is about votes: peers that are never admitted do not vote, so that a
stranger moves nothing.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TypeVar

from trio_duplex._decision.facts import Conduct, Outcome, PeerFacts
from trio_duplex._decision.rules import Choice
from trio_duplex._decision.window import DEFAULT_WINDOW
from trio_duplex._seconds import check_seconds

T = TypeVar("T")

REST = 3600.0
"""Seconds between two votes of one address: a peer that reconnects in a loop is one voice."""

MOST_VOTERS = 100_000
"""Addresses whose last vote is remembered; the least recent make room."""


class Learned:
    """Learn the window of first contacts, with a stated rate of wrong roles.

    Give it as ``otherwise`` to a `PeerMemory`, or by itself as ``window=``.

    Args:
        error: The rate of wrong roles among speaking peers, at most; 1 in
            1,000 by default.
        floor: The shortest window, in seconds; 0.5 by default.
        cap: The longest window, in seconds, and the first; 5 by default.

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
        self._late: OrderedDict[str, None] = OrderedDict()  # were late, and may be admitted yet
        self._votes = self._late_votes = 0

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
        """How many of them were late."""
        return self._late_votes

    def choose(self, peer: PeerFacts, /) -> Choice:
        """Choose the learned window; the cap where the SYN-ACK was lost or the path is unknown."""
        if peer.round_trip is None:
            return Choice(self._cap, "learned window not used: round trip unknown")
        return Choice(self.seconds, f"learned from {self._votes} peers")

    def learn(self, peer: PeerFacts, outcome: Outcome, /) -> None:
        """Count the vote of a speaking peer that was admitted.

        A peer that was late and breaks off can't be admitted: its vote waits
        until the same address is admitted as a speaking peer.
        """
        key = peer.key
        if key is None or outcome.conduct is Conduct.SILENT:
            return
        # Also where another rule gave it a longer window: it is this one that is judged.
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


def _remember(voters: OrderedDict[str, T], key: str, value: T) -> None:
    voters[key] = value
    voters.move_to_end(key)
    if len(voters) > MOST_VOTERS:
        voters.popitem(last=False)
