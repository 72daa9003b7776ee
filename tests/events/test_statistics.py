"""Counts of what happened, and of what goes on: `trio_duplex._events.statistics`."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing

from tests.serve.test_room import serving, talk
from tests.support.peers import MemoryListener, peer_stream
from trio_duplex import (
    Connection,
    Decision,
    Histogram,
    NotTLSError,
    PeerRejectedError,
    Reason,
    Role,
    Statistics,
)
from trio_duplex._events.statistics import DECISION_BUCKETS, Counts
from trio_duplex.events import (
    Accepted,
    LimitReached,
    ListenerPaused,
    NegotiationFailed,
    PeerRejected,
    RoleDecided,
)

pytestmark = pytest.mark.slow


def frozen(counts: Counts) -> Statistics:
    return counts.statistics(pending=0, handshaking=dict.fromkeys(Role, 0), observers_disabled=0)


def decided(waited: float, role: Role = Role.SERVER) -> RoleDecided:
    reason = Reason.SPOKE if role is Role.SERVER else Reason.SILENT
    return RoleDecided(number=1, peer=None, decision=Decision(role, reason, waited, 5.0))


def test_nothing_has_happened() -> None:
    statistics = frozen(Counts())
    assert (statistics.accepted, statistics.open, statistics.closed) == (0, 0, 0)
    assert (statistics.decided, statistics.completed, statistics.failed) == ({}, {}, {})
    assert statistics.decision_seconds.count == 0
    assert statistics.decision_seconds.total == 0


def test_it_is_a_frozen_copy() -> None:
    counts = Counts()
    before = frozen(counts)
    counts.count(Accepted(number=1, peer=None))
    counts.count(decided(0.1))
    counts.count(NegotiationFailed(number=1, peer=None, error=NotTLSError("no", received=b"")))
    counts.count(LimitReached(limit="pending", value=3, peer=None))
    assert before == frozen(Counts())
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        before.accepted = 7  # type: ignore[misc]
    after = frozen(counts)
    assert after.accepted == 1
    assert after.decided == {(Role.SERVER, Reason.SPOKE): 1}
    assert after.failed == {"NotTLSError": 1}
    assert after.limits == {"pending": 1}


def test_errors_are_counted_by_class() -> None:
    counts = Counts()
    errors = [ValueError(), ValueError(), NotTLSError("no", received=b"")]
    for error in errors:
        counts.count(NegotiationFailed(number=1, peer=None, error=error))
    counts.count(PeerRejected(number=1, peer=None, error=PeerRejectedError("not you")))
    assert frozen(counts).failed == {"ValueError": 2, "NotTLSError": 1, "PeerRejectedError": 1}


def test_pauses() -> None:
    counts = Counts()
    counts.count(ListenerPaused(error=OSError(), seconds=0.1, peer=None))
    assert frozen(counts).pauses == 1


# ---------------------------------------------------------------------------------------- histogram


@pytest.mark.parametrize(
    ("waited", "bucket"),
    [
        (0.0, 0),
        (DECISION_BUCKETS[0], 0),  # upper bounds are inclusive
        (DECISION_BUCKETS[0] + 1e-9, 1),
        (5.0, DECISION_BUCKETS.index(5.0)),
        (DECISION_BUCKETS[-1], len(DECISION_BUCKETS) - 1),
        (1e6, len(DECISION_BUCKETS)),
    ],
)
def test_decision_buckets(waited: float, bucket: int) -> None:
    counts = Counts()
    counts.count(decided(waited))
    histogram = frozen(counts).decision_seconds
    assert [index for index, count in enumerate(histogram.counts) if count] == [bucket]
    assert histogram.counts[bucket] == histogram.count == 1
    assert histogram.total == waited


def test_the_histogram_sums() -> None:
    counts = Counts()
    times = [0.0005 * step**2 for step in range(200)]
    for index, waited in enumerate(times):
        counts.count(decided(waited, Role.CLIENT if index % 3 else Role.SERVER))
    statistics = frozen(counts)
    histogram = statistics.decision_seconds
    assert len(histogram.counts) == len(histogram.bounds) + 1
    assert histogram.bounds == tuple(sorted(histogram.bounds))
    assert histogram.count == sum(statistics.decided.values()) == 200
    assert histogram.total == pytest.approx(sum(times))
    for index, bound in enumerate(histogram.bounds):
        assert sum(histogram.counts[: index + 1]) == sum(waited <= bound for waited in times)


def test_a_histogram_is_a_value() -> None:
    one = Histogram(bounds=(1.0,), counts=(2, 3), total=9.0)
    assert one == Histogram(bounds=(1.0,), counts=(2, 3), total=9.0)
    assert hash(one) == hash(Histogram(bounds=(1.0,), counts=(2, 3), total=9.0))
    assert one.count == 5


# ------------------------------------------------------------------------------------ of a server


async def test_the_phases_of_a_connection(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()

    async def handler(connection: Connection) -> None:
        async for chunk in connection:
            await connection.send_all(chunk * 2)

    async with serving(memory, handler=handler) as watched:
        tls = peer_stream(memory.connect(), Role.SERVER)
        await trio.sleep(1)
        now = watched.server.statistics()
        assert (now.accepted, now.pending, now.open) == (1, 1, 0)
        await trio.sleep(5)  # it is greeted, and lets us wait
        now = watched.server.statistics()
        assert (now.pending, now.handshaking, now.open) == (0, {Role.CLIENT: 1, Role.SERVER: 0}, 0)
        assert now.decided == {(Role.CLIENT, Reason.SILENT): 1}
        await tls.send_all(b"hello")
        await tls.receive_some()
        now = watched.server.statistics()
        assert (now.handshaking[Role.CLIENT], now.open, now.closed) == (0, 1, 0)
        assert now.completed == {Role.CLIENT: 1}
        assert (now.bytes_received, now.bytes_sent) == (0, 0)  # it is not closed yet
        await tls.aclose()
        await trio.sleep(1)
        now = watched.server.statistics()
        assert (now.open, now.closed) == (0, 1)
        assert (now.bytes_received, now.bytes_sent) == (5, 10)
        assert now.decision_seconds.total == 5
        assert now.observers_disabled == 0


async def test_handlers_that_fail_are_counted_by_class(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()

    async def handler(connection: Connection) -> None:
        raise ZeroDivisionError

    async with serving(memory, handler=handler) as watched:
        for _ in range(2):
            tls = peer_stream(memory.connect(), Role.CLIENT)
            await tls.do_handshake()
        await trio.sleep(1)
        now = watched.server.statistics()
        assert now.handler_failures == {"ZeroDivisionError": 2}
        assert (now.open, now.closed) == (0, 2)


async def test_the_numbers_of_a_busy_server_agree(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryListener()
    async with serving(memory) as watched:
        async with trio.open_nursery() as nursery:
            for number in range(30):
                role = Role.CLIENT if number % 2 else Role.SERVER
                nursery.start_soon(talk, memory.connect(), role, 3)
                if number % 5 == 0:
                    await memory.connect().aclose()
            for _ in range(60):
                await trio.sleep(0.25)
                now = watched.server.statistics()
                ended = sum(now.failed.values()) + now.closed
                live = now.pending + sum(now.handshaking.values()) + now.open
                assert now.accepted == ended + live
                assert now.decision_seconds.count == sum(now.decided.values())
        now = watched.server.statistics()
        assert now.accepted == 36
        assert now.completed == {Role.SERVER: 15, Role.CLIENT: 15}
        assert now.failed == {"PeerClosedError": 6}
