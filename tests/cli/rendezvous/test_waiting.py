"""Who meets whom in the waiting room."""

from __future__ import annotations

from collections import Counter

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.effort import effort
from trio_duplex.cli._rendezvous.waiting import WaitingRoom

pytestmark = pytest.mark.slow


@attrs.frozen(eq=False)
class FakeSpare:
    agent: str
    number: int = 0


Room = WaitingRoom[FakeSpare, str]


def test_agents_take_turns() -> None:
    room = Room()
    for agent in "aabbcc":
        assert room.offer(FakeSpare(agent)) is None
    taken = [room.join(f"client {n}") for n in range(6)]
    assert [spare.agent for spare in taken if spare] == ["a", "b", "c", "a", "b", "c"]


def test_agent_that_comes_back_is_not_favoured() -> None:
    room = Room()
    for agent in "ab":
        room.offer(FakeSpare(agent))
    first = room.join("client")
    assert first is not None
    assert first.agent == "a"
    room.offer(FakeSpare("a"))
    second = room.join("client")
    assert second is not None
    assert second.agent == "b"


def test_newest_spare_of_an_agent_goes_first() -> None:
    room = Room()
    for number in range(3):
        room.offer(FakeSpare("a", number))
    taken = [room.join("client") for _ in range(3)]
    assert [spare.number for spare in taken if spare] == [2, 1, 0]


def test_clients_are_served_in_the_order_in_which_they_came() -> None:
    room = Room()
    for client in ("first", "second", "third"):
        assert room.join(client) is None
    room.leave("second")
    assert room.offer(FakeSpare("a")) == "first"
    assert room.offer(FakeSpare("a")) == "third"
    assert room.offer(FakeSpare("a")) is None
    assert room.counts() == {"a": 1}


def test_who_is_not_there_can_leave() -> None:
    room = Room()
    room.leave("client")
    room.withdraw(FakeSpare("a"))
    spare = FakeSpare("a")
    room.offer(spare)
    room.withdraw(FakeSpare("a"))
    assert room.counts() == {"a": 1}
    room.withdraw(spare)
    room.withdraw(spare)
    assert room.counts() == {}
    assert room.join("client") is None


steps = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.sampled_from("abc")),
        st.tuples(st.just("join"), st.just("")),
        st.tuples(st.just("withdraw"), st.integers(0, 9).map(str)),
        st.tuples(st.just("leave"), st.integers(0, 9).map(str)),
    )
)


@effort
@given(steps)
def test_nobody_is_given_twice_or_lost(story: list[tuple[str, str]]) -> None:
    room = Room()
    waiting: list[FakeSpare] = []
    line: list[str] = []
    clients = 0
    for what, detail in story:
        if what == "offer":
            spare = FakeSpare(detail)
            client = room.offer(spare)
            assert client == (line.pop(0) if line else None)
            if client is None:
                waiting.append(spare)
        elif what == "join":
            clients += 1
            taken = room.join(f"client {clients}")
            if taken is None:
                line.append(f"client {clients}")
                assert not waiting
            else:
                waiting.remove(taken)
        elif what == "withdraw" and waiting:
            room.withdraw(waiting.pop(int(detail) % len(waiting)))
        elif what == "leave" and line:
            room.leave(line.pop(int(detail) % len(line)))
        assert room.in_line == len(line)
        assert room.counts() == Counter(spare.agent for spare in waiting)
        assert {*room.spares} == {*waiting}
