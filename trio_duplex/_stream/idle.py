"""Whether a peer is idle: it has neither sent nor acknowledged a byte for a given time.

What we hand to the kernel is no sign of life, since the kernel takes some hundred
kilobytes for a peer that is gone. Nor is it a sign when a receive returns: one TLS record
may take longer than the time allowed, and the transfer is moving all the same. So
the kernel's counts decide, where there are any. An acknowledgment without bytes is an
answer to keepalive, and does not count.

The kernel tells how many bytes, not when; and when something came last, not what it was.
So the counts are looked at once soon after a wait began, when our last answer has usually
been acknowledged, and from then on when the time is over; more often only while something
of ours is on its way.
"""

from __future__ import annotations

from trio_duplex._sockets.progress import Progress

LOOKS = 8
"""Looks per ``idle_timeout`` while something of ours is on its way. A peer is given up at
most such a part of the time too late, and never too early."""


class IdleWatch:
    """Watches one wait to receive. Pure: times and counts are passed in.

    Args:
        timeout: Seconds without a byte after which the peer is idle.
        now: When the wait began.
        countable: Whether the kernel tells how far the peer has come.

    Attributes:
        next_look: When to call `is_idle` next.
    """

    def __init__(self, timeout: float, now: float, *, countable: bool) -> None:
        self._timeout = timeout
        self._began = self._alive = now
        self._octets: int | None = None
        self.next_look = now + (timeout / LOOKS if countable else timeout)

    def is_idle(self, now: float, progress: Progress | None, last_sent: float) -> bool:
        """Judge by what is known now, and set `next_look`.

        Args:
            now: The time.
            progress: How far the peer has come; None if nobody tells.
            last_sent: When the transport last took something of ours; what counts
                if nobody tells.
        """
        if progress is None:
            self._alive = max(self._alive, last_sent)
            self.next_look = self._alive + self._timeout
        else:
            if progress.octets != self._octets:
                self._octets = progress.octets
                self._alive = max(self._alive, now - progress.heard)
            self.next_look = self._alive + self._timeout
            if progress.waiting:
                self.next_look = min(self.next_look, now + self._timeout / LOOKS)
        return now >= self._alive + self._timeout
