"""Who gets the next turn, and who loses one for that: `trio_duplex._serve.turns`, in virtual time."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.support.room import check_turns_empty
from trio_duplex._serve.limits import Limit
from trio_duplex._serve.turns import LEARNED_FOR, Turns

pytestmark = pytest.mark.slow


settled = trio.testing.wait_all_tasks_blocked


class Peer:
    """A peer of some address, which takes a turn and answers after a while, or never.

    It is one of the kit's kind no more than it must be: bytes and TLS are elsewhere.
    """

    def __init__(self, turns: Turns, key: str, answers_after: float = math.inf) -> None:
        self.turns = turns
        self.key = key
        self.answers_after = answers_after
        self.limit: Limit | None = None
        self.began: float | None = None
        self.ended: float | None = None
        self.honest = True
        self._scope = trio.CancelScope()

    def drop(self, limit: Limit, value: float) -> None:
        assert value == self.turns.patience
        self.limit = limit
        self._scope.cancel()

    async def run(self, handshake_timeout: float = 30.0, turn_timeout: float = math.inf) -> None:
        """Wait for a turn, hold it until it answers or is dropped, and leave."""
        try:
            with self._scope:
                if not self.turns.take(self) and not await self.turns.wait(self, turn_timeout):
                    return
                self.began = trio.current_time()
                with trio.move_on_after(handshake_timeout):
                    await trio.sleep(self.answers_after)
                    if self.honest:
                        self.turns.admitted(self)
                    else:
                        self.turns.answered(self)
                        await trio.sleep_forever()
        finally:
            self.turns.leave(self)
            self.ended = trio.current_time()

    @property
    def served(self) -> bool:
        return self.ended is not None and self.limit is None and self.began is not None


@asynccontextmanager
async def turning(most: float, patience: float = 0.5) -> AsyncIterator[tuple[Turns, trio.Nursery]]:
    turns = Turns(most, patience, Limit.GREETING_PATIENCE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.shed_overdue)
        yield turns, nursery
        nursery.cancel_scope.cancel()
    await settled()
    check_turns_empty(turns)


Start = Callable[..., Peer]


def starter(turns: Turns, nursery: trio.Nursery) -> Start:
    def start(key: str, answers_after: float = math.inf) -> Peer:
        peer = Peer(turns, key, answers_after)
        nursery.start_soon(peer.run)
        return peer

    return start


async def start_in_order(start: Start, count: int, key: str, seconds: float) -> list[Peer]:
    """Start peers one after the other: Trio runs the tasks of one moment in any order."""
    peers: list[Peer] = []
    for _ in range(count):
        peers.append(start(key, seconds))
        await settled()
    return peers


async def test_an_answer_of_a_peer_that_has_no_turn_changes_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It was shed, and its answer came all the same."""
    async with turning(1) as (turns, _):
        peer = Peer(turns, "a")
        turns.answered(peer)
        turns.admitted(peer)
        turns.leave(peer)
        assert turns.take(peer)
        turns.leave(peer)


# ------------------------------------------------------------------------------------ by address


async def test_turns_alternate_between_addresses(autojump_clock: trio.testing.MockClock) -> None:
    async with turning(1, patience=math.inf) as (turns, nursery):
        start = starter(turns, nursery)
        start("x", 1)
        await settled()
        many = await start_in_order(start, 5, "many", 1)
        few = await start_in_order(start, 2, "few", 1)
        one = start("one", 1)
        await trio.sleep(20)
        order = sorted([*many, *few, one], key=lambda peer: peer.began or 0)
        assert [peer.key for peer in order] == [
            "many",
            "few",
            "one",
            "many",
            "few",
            "many",
            "many",
            "many",
        ]
        assert [
            peer for peer in order if peer.key == "many"
        ] == many  # and first come, first served


async def test_the_next_turn_goes_to_the_address_that_holds_fewest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with turning(4, patience=math.inf) as (turns, nursery):
        start = starter(turns, nursery)
        for key, seconds in (("a", 9), ("a", 9), ("b", 9), ("x", 1)):
            start(key, seconds)
        await settled()
        first, second = start("a", 9), start("b", 9)
        await trio.sleep(2)
        assert (first.began, second.began) == (None, 1)


async def test_an_address_that_holds_most_gives_up_a_turn_when_one_is_quiet(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with turning(8) as (turns, nursery):
        start = starter(turns, nursery)
        greedy = [start("greedy") for _ in range(8)]
        await trio.sleep(20)
        other = start("other", 0.1)
        await settled()
        assert other.began == 20  # all of them have been quiet for long enough
        assert sum(peer.limit is Limit.GREETING_PATIENCE for peer in greedy) == 1


@pytest.mark.one_python
@pytest.mark.parametrize("addresses", [1, 4])
async def test_a_mute_flood_costs_other_addresses_a_patience_at_most(
    addresses: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with turning(8) as (turns, nursery):
        start = starter(turns, nursery)
        honest: list[Peer] = []

        async def flood() -> None:
            for number in range(3_000):
                start(f"bad {number % addresses}")
                await trio.sleep(0.005)

        nursery.start_soon(flood)
        await trio.sleep(3)
        for number in range(10):
            honest.append(start(f"good {number}", 0.2))
            await trio.sleep(1)
            honest_began = honest[-1].began
            assert honest_began is not None
            assert honest_began - (number + 3) <= 0.5
        assert all(peer.served for peer in honest)


@pytest.mark.parametrize("same_address", [False, True])
async def test_answers_of_one_byte_do_not_starve_others(
    same_address: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with turning(64) as (turns, nursery):

        async def flood() -> None:
            for _ in range(600):
                peer = Peer(turns, "bad", 0.001)
                peer.honest = False
                nursery.start_soon(peer.run)
                await trio.sleep(1 / 28)

        nursery.start_soon(flood)
        await trio.sleep(10)
        for number in range(10):
            honest = starter(turns, nursery)("bad" if same_address else f"good {number}", 0.1)
            await trio.sleep(1)
            assert honest.served


@pytest.mark.parametrize(("most", "greedy", "shed"), [(4, 3, 0), (8, 6, 1), (8, 5, 0)])
async def test_small_differences_between_addresses_cost_no_turn(
    most: int, greedy: int, shed: int, autojump_clock: trio.testing.MockClock
) -> None:
    """One address gives up a turn if it holds twice what the next would hold, and not before."""
    async with turning(most) as (turns, nursery):
        start = starter(turns, nursery)
        start("taught us to be patient", 10)
        await trio.sleep(10)
        await settled()
        peers = [start("greedy") for _ in range(greedy)]
        await trio.sleep(1)
        for _ in range(most - greedy):
            start("other", 0.4)
        start("other", 0.1)
        await trio.sleep(0.3)
        assert sum(peer.limit is not None for peer in peers) == shed


# ---------------------------------------------------------------------- by time, and what was learned


async def test_with_one_address_all_but_a_quarter_keep_to_the_patience(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with turning(8) as (turns, nursery):
        start = starter(turns, nursery)
        peers = await start_in_order(start, 8, "a", math.inf)
        waiting = [start("a") for _ in range(20)]
        await trio.sleep(0.51)
        assert [peer.limit is None for peer in peers] == [True] * 2 + [False] * 6
        assert sum(peer.began is not None for peer in waiting) == 6
        await trio.sleep(0.5)
        assert sum(peer.limit is None for peer in peers) == 2
        assert sum(peer.began is not None for peer in waiting) == 12


async def test_no_more_are_shed_than_wait(autojump_clock: trio.testing.MockClock) -> None:
    async with turning(8) as (turns, nursery):
        start = starter(turns, nursery)
        peers = [start("a") for _ in range(8)]
        await trio.sleep(10)
        start("a", 0.1)
        await trio.sleep(10)
        assert sum(peer.limit is not None for peer in peers) == 1


async def test_only_an_admitted_peer_changes_the_patience(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with turning(8) as (turns, nursery):
        stranger = Peer(turns, "stranger", 5)
        stranger.honest = False
        nursery.start_soon(stranger.run)
        await trio.sleep(29)
        assert turns.slow_patience == 0.5
        quick = starter(turns, nursery)("honest", 0.4)
        await trio.sleep(1)
        assert quick.served
        assert turns.slow_patience == 0.5
        slow = starter(turns, nursery)("honest", 5)
        await trio.sleep(6)
        assert slow.served
        assert turns.slow_patience == 10
        await trio.sleep(LEARNED_FOR - 1)  # since it was admitted: not more than that
        assert turns.slow_patience == 10
        await trio.sleep(1)
        assert turns.slow_patience == 0.5


async def test_what_was_learned_is_remembered_since_the_last_such_peer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with turning(8) as (turns, nursery):
        for _ in range(2):
            starter(turns, nursery)("honest", 5)
            await trio.sleep(200)
        assert turns.slow_patience == 10
        await trio.sleep(LEARNED_FOR)
        assert turns.slow_patience == 0.5


async def test_the_patience_of_others_goes_on_when_a_peer_has_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with turning(2) as (turns, nursery):
        answers = Peer(turns, "a")
        assert turns.take(answers)
        await trio.sleep(0.1)
        (mute,) = await start_in_order(starter(turns, nursery), 1, "a", math.inf)
        (other,) = await start_in_order(starter(turns, nursery), 1, "b", 0.1)
        await trio.sleep(0.3)
        turns.answered(answers)
        await trio.sleep(1)
        assert mute.limit is Limit.GREETING_PATIENCE
        assert other.began == 0.6
        turns.leave(answers)


async def test_a_late_peer_that_answers_holds_one_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with turning(8) as (turns, nursery):
        late = Peer(turns, "late")
        assert turns.take(late)
        await start_in_order(starter(turns, nursery), 8, "others", math.inf)
        await trio.sleep(0.9)
        turns.answered(late)
        assert (len(turns), late.limit) == (8, None)
        turns.leave(late)
        await settled()
        assert len(turns) == 7


async def test_the_longest_silence_before_or_after_the_answer_is_learned(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with turning(8) as (turns, _):
        for before, after in ((2, 1), (1, 3)):
            peer = Peer(turns, "a")
            assert turns.take(peer)
            await trio.sleep(before)
            turns.answered(peer)
            await trio.sleep(after)
            turns.admitted(peer)
            turns.leave(peer)
            assert turns.slow_patience == 2 * max(before, after)


async def test_patience_is_learned_only_of_peers_that_took_longer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with turning(8, patience=0.5) as (turns, nursery):
        punctual = starter(turns, nursery)("honest", 0.5)
        await trio.sleep(1)
        assert punctual.served
        assert turns.slow_patience == 0.5


async def test_a_quarter_of_the_turns_keeps_to_the_patience_whatever_was_learned(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """So mute peers are always removed from some turns, and slow ones keep the others."""
    async with turning(8) as (turns, nursery):
        start = starter(turns, nursery)
        start("a", 5)
        await trio.sleep(5)
        await settled()
        assert turns.slow_patience == 10
        first = await start_in_order(start, 8, "a", math.inf)
        waiting = await start_in_order(start, 20, "a", math.inf)
        began = trio.current_time()
        await trio.sleep(0.6)
        assert [peer.limit is None for peer in first] == [True] * 6 + [False] * 2
        assert sum(peer.began is not None for peer in waiting) == 2
        await trio.sleep(9)
        assert all(peer.limit is None for peer in first[:6])  # within what was learned
        # The two turns went on to the next each time that the patience was over.
        assert sum(peer.began is not None for peer in waiting) == 20
        assert trio.current_time() - began < 10


async def test_without_a_peer_in_line_nothing_is_to_be_done(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A server whose turns are enough does not wake up for each peer that is quiet."""
    async with turning(2) as (turns, _):
        peer = Peer(turns, "a")
        assert turns.take(peer)
        turns._changed.unpark_all()  # as if somebody had waited, and given up
        await settled()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf
        turns.leave(peer)


async def time_to_serve(
    devices: int, most: int, patience: float, answer: float, addresses: int, redial: float = 0.5
) -> tuple[float, int]:
    """Serve a fleet that redials until each device was served once; seconds, and sheddings."""
    served: set[int] = set()
    shed = 0
    chance = random.Random(5)
    async with turning(most, patience) as (turns, nursery):
        done = trio.Event()

        async def device(number: int) -> None:
            nonlocal shed
            await trio.sleep(chance.uniform(0, 1))
            while True:
                peer = Peer(turns, f"{number % addresses}", answer)
                await peer.run()
                if peer.served:
                    served.add(number)
                    if len(served) == devices:
                        done.set()
                    return
                shed += 1
                await trio.sleep(redial)

        began = trio.current_time()
        for number in range(devices):
            nursery.start_soon(device, number)
        await done.wait()
        return trio.current_time() - began, shed


@pytest.mark.one_python
@pytest.mark.parametrize(
    ("patience", "answer"),
    [(0.5, 0.4), (0.5, 0.8), (0.5, 3.0), (0.5, 25.0), (3.0, 4.0)],
)
@pytest.mark.parametrize("addresses", [1, 20, 10_000])
@pytest.mark.parametrize("devices", [24, 150])
async def test_slow_fleets_converge(
    devices: int,
    addresses: int,
    patience: float,
    answer: float,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """All are served, in twice the time at most that endless patience would take."""
    most = 16
    endless, none = await time_to_serve(devices, most, math.inf, answer, addresses)
    seconds, shed = await time_to_serve(devices, most, patience, answer, addresses)
    assert none == 0
    assert seconds <= 2 * endless
    assert shed == 0 or answer > patience


async def test_a_slow_fleet_is_served_beside_a_mute_flood(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The fleet is behind one address, and the flood behind another."""
    async with turning(32) as (turns, nursery):
        start = starter(turns, nursery)

        async def flood() -> None:
            while True:
                start("bad")
                await trio.sleep(0.005)

        nursery.start_soon(flood)
        await trio.sleep(5)
        served: Counter[bool] = Counter()

        async def device() -> None:
            while True:
                peer = Peer(turns, "fleet", 0.8)
                await peer.run()
                served[peer.served] += 1
                if peer.served:
                    return
                await trio.sleep(0.5)

        for _ in range(100):
            nursery.start_soon(device)
        await trio.sleep(12)
        assert served[True] == 100


# ------------------------------------------------------------------------------------ ways out


async def test_a_turn_that_comes_as_the_wait_ends_is_taken(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with turning(1, patience=math.inf) as (turns, nursery):
        holder, waits = Peer(turns, "a", 1), Peer(turns, "b", 1)
        nursery.start_soon(holder.run)
        await settled()
        nursery.start_soon(waits.run, 30.0, 1.0)
        await trio.sleep(10)
        assert waits.began in (None, 1.0)
        assert holder.served
        late = Peer(turns, "c", 1)
        await late.run()
        assert late.served


async def test_a_free_turn_is_not_taken_before_those_in_line(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with turning(1, patience=math.inf) as (turns, nursery):
        holder = Peer(turns, "a")
        assert turns.take(holder)
        waiting = starter(turns, nursery)("b", 1)
        await settled()
        assert not turns.take(Peer(turns, "c"))
        turns.leave(holder)
        assert not turns.take(Peer(turns, "c"))
        await settled()
        assert waiting.began == 0


@pytest.mark.parametrize("end", ["in time", "timeout", "cancelled"])
async def test_who_no_longer_waits_is_not_in_line(
    end: str, autojump_clock: trio.testing.MockClock
) -> None:
    """At once, whatever it does next: a turn that is given to it would be lost to the others."""
    async with turning(1, patience=math.inf) as (turns, _):
        holder, waits, later = (Peer(turns, key) for key in ("a", "b", "c"))
        assert turns.take(holder)
        if end == "in time":
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def leave() -> None:
                    await trio.sleep(1)
                    turns.leave(holder)

                assert await turns.wait(waits, math.inf)
            assert len(turns) == 1
        elif end == "timeout":
            assert await turns.wait(waits, 1) is False
        else:
            with trio.move_on_after(1) as scope:
                await turns.wait(waits, math.inf)
            assert scope.cancelled_caught
        assert turns.in_line == 0
        assert trio.current_time() == 1
        turns.leave(holder if end != "in time" else waits)
        assert turns.take(later)
        turns.leave(later)


async def test_a_shed_peer_holds_its_turn_until_it_has_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Its memory is not free before. It is told once, and whatever it does then changes nothing."""
    told: list[Limit] = []

    class Stubborn(Peer):
        def drop(self, limit: Limit, value: float) -> None:
            told.append(limit)

    async with turning(1) as (turns, nursery):
        shed = Stubborn(turns, "a")
        assert turns.take(shed)
        await trio.sleep(1)
        first, second = await start_in_order(starter(turns, nursery), 2, "b", 0.1)
        await trio.sleep(5)
        assert told == [Limit.GREETING_PATIENCE]
        assert (len(turns), turns.in_line) == (1, 2)
        turns.answered(shed)
        turns.admitted(shed)
        await settled()
        assert turns.slow_patience == 0.5  # it was too late to teach us
        assert (first.began, second.began) == (None, None)
        turns.leave(shed)
        turns.leave(shed)
        await trio.sleep(1)
        assert (first.began, second.began) == (6, 6.1)
        assert told == [Limit.GREETING_PATIENCE]


async def test_a_peer_that_is_shed_in_line_for_another_turn_loses_only_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Those behind it move up, and the next turn is not its any more."""
    async with turning(1, patience=math.inf) as (turns, nursery):
        start = starter(turns, nursery)
        start("x", 2)
        await settled()
        first, second, third = await start_in_order(start, 3, "a", 1)
        await trio.sleep(1)
        first.drop(Limit.PENDING, turns.patience)
        await settled()
        assert turns.in_line == 2
        await trio.sleep(9)
        assert (first.began, second.began, third.began) == (None, 2, 3)
        assert not first.served
