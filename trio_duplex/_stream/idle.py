"""Whether a peer is idle: it has neither sent nor acknowledged a byte for a given time.

A send that succeeds does not show that the peer is alive: the kernel takes some hundred
kilobytes for a peer that is gone. A receive that does not return does not show that it is
idle: one TLS record may take longer than the time allowed while the transfer is moving. So
the kernel's counters decide, where there are any. An acknowledgment without bytes is only
an answer to keepalive, and does not count.

The kernel tells how many bytes have come, but not when; and when the last packet came, but
not what it was. So the counters are read once soon after a wait began, when our last answer has usually
been acknowledged, and from then on when the time is over. They are read more often only while
something of ours is on its way.
"""

from __future__ import annotations

from trio_duplex._sockets.progress import Progress

LOOKS = 8
"""How often the counters are read in one ``idle_timeout`` while something of ours is on its
way. A peer is given up too late by at most one such part of the time, and never too early."""


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
            progress: How far the peer has come; None if the kernel does not tell.
            last_sent: When the transport last took something of ours; used if the
                kernel does not tell.
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
