"""The engine: its schedule on a clock that we wind, its sockets on real ones."""

from __future__ import annotations

import math
import random
import select
import socket
from contextlib import closing
from functools import partial
from itertools import count, repeat

import pytest

from trio_duplex.cli._load import engine as _load_engine
from trio_duplex.cli._load.engine import (
    BATCH,
    READ,
    TICK,
    WRITE,
    Latencies,
    Loop,
    Peer,
    dial,
    new_poller,
)


class Wound:
    """A clock and a poller in one: time passes when nobody has anything to do, or by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.registered: dict[int, int] = {}
        self.ready: dict[int, float] = {}  # from a descriptor to when it is ready
        self.asked: list[int] = []
        self.closed = False

    def __call__(self) -> float:
        return self.now

    def register(self, fd: int, eventmask: int, /) -> None:
        assert fd not in self.registered
        self.registered[fd] = eventmask

    def modify(self, fd: int, eventmask: int, /) -> None:
        assert fd in self.registered
        self.registered[fd] = eventmask

    def unregister(self, fd: int, /) -> None:
        del self.registered[fd]

    def poll(self, timeout: float, most: int, /) -> list[tuple[int, int]]:
        self.asked.append(most)
        times = [self.ready[fd] for fd in self.registered if fd in self.ready]
        until = min(times, default=math.inf)
        if timeout >= 0:
            until = min(until, self.now + timeout)
        assert until < math.inf, "it would wait for ever"
        self.now = max(self.now, until)
        found = [
            (fd, mask)
            for fd, mask in self.registered.items()
            if self.ready.get(fd, math.inf) <= self.now
        ]
        return found if most < 0 else found[:most]

    def close(self) -> None:
        self.closed = True


def loop_on(clock: Wound, patience: float | None = None) -> Loop:
    return Loop(patience=patience, clock=clock, poller=clock)


# ---------------------------------------------------------------------------------------------------- the schedule


def test_peers_are_due_at_even_distances_whatever_becomes_of_them() -> None:
    clock = Wound()
    due: list[float] = []
    started: list[float] = []

    def peer(at: float) -> Peer:
        due.append(at)
        started.append(clock.now)
        fd = len(due)
        clock.ready[fd] = at + 10  # a server that stalls
        yield fd, READ

    loop_on(clock).run_at(4, repeat(peer, 6))
    assert due == [100.0, 100.25, 100.5, 100.75, 101.0, 101.25]
    assert started == due
    assert clock.now == 111.25  # the last has been waited for


def test_a_late_start_gets_the_time_at_which_it_was_due() -> None:
    clock = Wound()
    late: list[float] = []

    def peer(at: float) -> Peer:
        late.append(clock.now - at)
        clock.now += 0.6 if len(late) == 1 else 0.0  # we were busy
        yield from ()

    loop_on(clock).run_at(4, repeat(peer, 5))
    # Nothing is left out or put off: the next three are made up for at once.
    assert late == pytest.approx([0, 0.35, 0.1, 0, 0])


def test_a_start_that_returns_none_is_skipped() -> None:
    clock = Wound()
    asked: list[float] = []
    loop_on(clock).run_at(1, repeat(asked.append, 3))
    assert asked == [100.0, 101.0, 102.0]
    assert clock.now == 102.0


def test_few_go_on_before_the_next_is_due() -> None:
    clock = Wound()
    at: list[float] = []

    def slow(number: int, due: float) -> Peer:
        at.append(clock.now - due)
        clock.ready[number] = 100.1
        yield number, READ
        clock.now += 0.001  # a handshake's worth

    starts = [partial(slow, number) for number in range(200)]
    loop_on(clock).run_at(1000, starts)
    assert set(clock.asked) == {BATCH}
    assert max(at) <= 0.001 * BATCH + 1e-6


def test_closed_loop_keeps_so_many_in_flight() -> None:
    clock = Wound()
    loop = loop_on(clock)
    seen: list[int] = []

    def peer(number: int) -> Peer:
        clock.ready[number] = clock.now + 1 + number % 3
        yield number, READ
        seen.append(loop.open)
        yield number, WRITE  # modified, not registered again
        assert clock.registered[number] == WRITE

    loop.run((peer(number) for number in range(20)), 4)
    assert len(seen) == 20
    assert max(seen) == 4
    assert not clock.registered
    assert not loop.errors


def test_errors_are_counted_by_class_and_end_nobody_else() -> None:
    clock = Wound()

    def peer(number: int) -> Peer:
        if number == 2:
            raise ConnectionRefusedError
        clock.ready[number] = clock.now
        yield number, READ
        if number % 2:
            raise ConnectionResetError

    loop = loop_on(clock)
    loop.run((peer(number) for number in range(5)), 2)
    assert loop.errors == {"ConnectionResetError": 2, "ConnectionRefusedError": 1}


def test_patience_ends() -> None:
    clock = Wound()
    ended: list[tuple[int, float]] = []

    def peer(number: int, due: float) -> Peer:
        if number == 1:  # of three, this one is answered
            clock.ready[number] = clock.now + 0.5
        try:
            yield number, READ
        except TimeoutError:
            ended.append((number, clock.now - due))
            if number == 2:
                raise

    loop = loop_on(clock, patience=3)
    loop.run_at(1, [partial(peer, number) for number in range(3)])
    assert ended == [(0, 3.0), (2, 3.0)]
    assert loop.errors == {"TimeoutError": 1}
    assert not clock.registered


def test_ticks_come_while_nothing_happens_and_do_not_pile_up() -> None:
    clock = Wound()
    ticks: list[float] = []

    def peer(_: float) -> Peer:
        clock.ready[1] = clock.now + 3
        yield 1, READ

    def tick() -> None:
        ticks.append(clock.now - 100)
        clock.now += 1.0 if len(ticks) == 2 else 0.0

    loop_on(clock).run_at(1, [peer], tick=tick)
    assert ticks == pytest.approx([TICK, 2 * TICK, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3.0])


@pytest.mark.parametrize("while_dialling", [True, False])
def test_stop_closes_what_is_open(while_dialling: bool) -> None:
    clock = Wound()
    closed: list[float] = []
    fds = count(1)

    def peer(_: float) -> Peer:
        try:
            yield next(fds), READ
        finally:
            closed.append(clock.now)

    def tick() -> None:
        loop.stop()

    loop = loop_on(clock)
    loop.run_at(10, repeat(peer, 100 if while_dialling else 2), tick=tick)
    assert clock.now == 100 + TICK
    assert len(closed) == (3 if while_dialling else 2)
    assert loop.open == 0
    assert not clock.closed  # it belongs to who made it


# -------------------------------------------------------------------------------------------------------- the kernel


@pytest.fixture(params=["epoll", "poll"])
def poller_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "poll":
        monkeypatch.delattr(select, "epoll", raising=False)
    elif not hasattr(select, "epoll"):
        pytest.skip("no epoll")
    assert isinstance(request.param, str)
    return request.param


def test_a_conversation(poller_kind: str) -> None:
    heard: list[bytes] = []

    def talk(ours: socket.socket, theirs: socket.socket) -> Peer:
        with ours, theirs:
            yield ours.fileno(), WRITE
            ours.send(b"hello")
            yield ours.fileno(), WRITE
            theirs.send(b"and you")
            yield ours.fileno(), READ
            heard.append(ours.recv(100))

    loop = Loop(patience=60)
    loop.run((talk(*socket.socketpair()) for _ in range(10)), 3)
    assert heard == [b"and you"] * 10


def test_pollers_keep_to_the_most_that_is_asked(poller_kind: str) -> None:
    poller = new_poller()
    pairs = [socket.socketpair() for _ in range(5)]
    try:
        for ours, _ in pairs:
            poller.register(ours.fileno(), WRITE)
        assert len(poller.poll(0, 2)) == 2
        assert len(poller.poll(-1, -1)) == 5
        poller.modify(pairs[0][0].fileno(), READ)
        poller.unregister(pairs[1][0].fileno())
        assert len(poller.poll(1, -1)) == 3
        for ours, _ in pairs[2:]:
            poller.unregister(ours.fileno())
        assert poller.poll(0.0005, -1) == []
        assert poller.poll(0.0015, -1) == []
    finally:
        poller.close()
        for pair in pairs:
            for end in pair:
                end.close()


def test_epoll_beyond_what_select_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_load_engine, "FD_SETSIZE", 0)
    with closing(new_poller()) as poller:
        assert poller.poll(0.0005, -1) == []


def test_dial() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found: list[socket.socket] = []

        def one(source: tuple[str, int] | None) -> Peer:
            found.append((yield from dial(server.getsockname(), source=source)))

        loop = Loop(patience=60)
        loop.run(iter([one(None), one(("127.0.0.1", 0))]), 2)
        assert not loop.errors
        for sock in found:
            with sock:
                assert sock.getpeername() == server.getsockname()
                assert not sock.getblocking()


def test_dialling_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()

    def one() -> Peer:
        with pytest.raises(ConnectionRefusedError):
            yield from dial(address)

    loop = Loop(patience=60)
    loop.run(iter([one()]), 1)
    assert not loop.errors


def test_an_address_that_cannot_be_dialled_at_all() -> None:
    def one() -> Peer:
        yield from dial(("255.255.255.255", 1))  # that is for who may broadcast

    loop = Loop(patience=60)
    loop.run(iter([one()]), 1)
    assert loop.errors.total() == 1


# ---------------------------------------------------------------------------------------------------------- latencies


def test_percentiles_are_the_nearest_rank() -> None:
    times = Latencies()
    values = [n / 1000 for n in range(1, 1001)]
    random.Random(3).shuffle(values)
    for value in values:
        times.add(value)
    assert len(times) == 1000
    assert [times.percentile(p) for p in (0.01, 50, 90, 99, 99.9, 100)] == [
        0.001,
        0.5,
        0.9,
        0.99,
        0.999,
        1.0,
    ]


def test_percentiles_of_few_and_none() -> None:
    times = Latencies()
    assert math.isnan(times.percentile(50))
    assert not times.tells(50)
    for value in (3.0, 1.0, 2.0):
        times.add(value)
    assert (times.percentile(50), times.percentile(99), times.percentile(100)) == (2.0, 3.0, 3.0)
    assert times.percentile(50, since=2) == 2.0
    assert math.isnan(times.percentile(50, since=3))


@pytest.mark.parametrize(("percent", "enough"), [(50, 2), (90, 10), (99, 100), (99.9, 1000)])
def test_from_how_many_values_a_percentile_says_more_than_the_greatest(
    percent: float, enough: int
) -> None:
    times = Latencies()
    for _ in range(enough - 1):
        times.add(1.0)
    assert not times.tells(percent)
    times.add(1.0)
    assert times.tells(percent)
