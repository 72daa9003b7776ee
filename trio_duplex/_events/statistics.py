"""Counting events, and the frozen `Statistics` made from the counts."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from datetime import datetime

import attrs

from trio_duplex._events.events import (
    Accepted,
    ConnectionClosed,
    Crossed,
    Event,
    HandlerFailed,
    HandshakeCompleted,
    LimitReached,
    ListenerPaused,
    NegotiationFailed,
    PeerChangedKind,
    PolicyFailed,
    RoleDecided,
)
from trio_duplex._events.probes import Probe
from trio_duplex._role import Reason, Role

DECISION_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds, from a local ClientHello (under 5 ms) and a cold JVM
(350 ms) to the default window (5 s) and beyond."""


@attrs.frozen(kw_only=True)
class Histogram:
    """How many values there are in each bucket.

    Attributes:
        bounds: Upper bounds of the buckets, in seconds, inclusive.
        counts: How many values are in each bucket. The last bucket, which has no
            bound, is for all values above.
        total: The sum of all values, in seconds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts)


@attrs.frozen(kw_only=True)
class Statistics:
    """A server's counts at one moment.

    Attributes:
        accepted: Connections accepted so far.
        decided: Role decisions so far, by role and reason, as they were when
            the window ended.
        crossings: How often two ClientHellos crossed so far, by the role in
            which we went on. If that is the server role, ``decided`` has counted
            the client role for this connection. If the peer aborted instead, the
            connection is in ``failed`` as ``GlareError``.
        changed_kind: How often a `windows.PeerMemory` changed the kind of a peer
            so far, by the new kind: ``"silent"`` or ``"speaking"``.
        policy_failures: Window policies that raised or took too long so far, by
            the error's class name.
        completed: Handshakes completed so far, by role.
        failed: Negotiations that failed so far, by the error's class name.
        probes: Further failed negotiations, which are not in ``failed`` because
            they look like a health check or a port scan, by kind of probe.
        handler_failures: Exceptions that left handlers, by class name.
        closed: Connections closed so far that had reached their handler.
        limits: Connections dropped or held up so far, by the limit's name.
        pauses: How often the machine had no room for a connection.
        bytes_received: Bytes of application data received on closed connections.
        bytes_sent: Bytes of application data sent on closed connections.
        pending: Peers now in their window, or waiting for their turn.
        handshaking: Handshakes under way now, by role.
        open: Connections now with their handler.
        observers_disabled: Observers that raised, and are not called any more.
        decision_seconds: How long role decisions took.
        certificate_not_after: When the first of our own certificates expires;
            None if we present none.
    """

    accepted: int
    decided: Mapping[tuple[Role, Reason], int]
    crossings: Mapping[Role, int]
    changed_kind: Mapping[str, int]
    policy_failures: Mapping[str, int]
    completed: Mapping[Role, int]
    failed: Mapping[str, int]
    probes: Mapping[Probe, int]
    handler_failures: Mapping[str, int]
    closed: int
    limits: Mapping[str, int]
    pauses: int
    bytes_received: int
    bytes_sent: int
    pending: int
    handshaking: Mapping[Role, int]
    open: int
    observers_disabled: int
    decision_seconds: Histogram
    certificate_not_after: datetime | None = None


class Counts:
    """Counts events. The numbers of current connections come from the caller."""

    def __init__(self) -> None:
        self.accepted = 0
        self.closed = 0
        self.pauses = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.decided: Counter[tuple[Role, Reason]] = Counter()
        self.crossings: Counter[Role] = Counter()
        self.changed_kind: Counter[str] = Counter()
        self.policy_failures: Counter[str] = Counter()
        self.completed: Counter[Role] = Counter()
        self.failed: Counter[str] = Counter()
        self.probes: Counter[Probe] = Counter()
        self.handler_failures: Counter[str] = Counter()
        self.limits: Counter[str] = Counter()
        self._decision_counts = [0] * (len(DECISION_BUCKETS) + 1)
        self._decision_total = 0.0

    def count(self, event: Event) -> None:
        """Count an event."""
        match event:
            case Accepted():
                self.accepted += 1
            case RoleDecided(decision=decision):
                self.decided[decision.role, decision.reason] += 1
                self._decision_counts[bisect_left(DECISION_BUCKETS, decision.waited)] += 1
                self._decision_total += decision.waited
            case HandshakeCompleted(connection=connection):
                self.completed[connection.role] += 1
            case NegotiationFailed(probe=Probe() as probe):
                self.probes[probe] += 1
            case NegotiationFailed(error=error):
                self.failed[type(error).__name__] += 1
            case HandlerFailed(error=error):
                self.handler_failures[type(error).__name__] += 1
            case ConnectionClosed():
                self.closed += 1
                self.bytes_received += event.bytes_received
                self.bytes_sent += event.bytes_sent
            case LimitReached(limit=limit):
                self.limits[limit] += 1
            case ListenerPaused():
                self.pauses += 1
            case _:
                self._count_windows(event)

    def _count_windows(self, event: Event) -> None:
        """Count an event about detection windows."""
        match event:
            case Crossed(decision=decision):
                self.crossings[decision.role] += 1
            case PeerChangedKind(silent=silent):
                self.changed_kind["silent" if silent else "speaking"] += 1
            case PolicyFailed(error=error):
                self.policy_failures[type(error).__name__] += 1
            case _:
                pass

    def statistics(
        self,
        *,
        pending: int,
        handshaking: Mapping[Role, int],
        observers_disabled: int,
        certificate_not_after: datetime | None = None,
    ) -> Statistics:
        """Make `Statistics` from the counts and the caller's current numbers."""
        return Statistics(
            accepted=self.accepted,
            decided=dict(self.decided),
            crossings=dict(self.crossings),
            changed_kind=dict(self.changed_kind),
            policy_failures=dict(self.policy_failures),
            completed=dict(self.completed),
            failed=dict(self.failed),
            probes=dict(self.probes),
            handler_failures=dict(self.handler_failures),
            closed=self.closed,
            limits=dict(self.limits),
            pauses=self.pauses,
            bytes_received=self.bytes_received,
            bytes_sent=self.bytes_sent,
            pending=pending,
            handshaking=dict(handshaking),
            open=self.completed.total() - self.closed,
            observers_disabled=observers_disabled,
            decision_seconds=Histogram(
                bounds=DECISION_BUCKETS,
                counts=tuple(self._decision_counts),
                total=self._decision_total,
            ),
            certificate_not_after=certificate_not_after,
        )
