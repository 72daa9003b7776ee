"""The memory of the ClientHellos that we sent."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.records import make_record
from trio_duplex._decision.reflection import RECENT, SentHellos
from trio_duplex._wire.hello import client_hello_random, random_may_follow

pytestmark = pytest.mark.slow


def random(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_remembered_during_and_after() -> None:
    sent = SentHellos()
    assert random(1) not in sent
    with sent.remember(random(1)):
        assert random(1) in sent
    assert random(1) in sent
    assert random(2) not in sent
    assert None not in sent
    assert len(sent) == 1


def test_remembered_after_an_exception() -> None:
    sent = SentHellos()
    try:
        with sent.remember(random(1)):
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert random(1) in sent


def test_remembers_all_open_and_a_given_number_of_ended_handshakes() -> None:
    sent = SentHellos(recent=3)
    with sent.remember(random(0)):
        for number in range(1, 11):
            with sent.remember(random(number)):
                pass
        assert [number for number in range(11) if random(number) in sent] == [0, 8, 9, 10]
    assert [number for number in range(11) if random(number) in sent] == [0, 9, 10]
    assert len(sent) == 3


def test_bounded_by_default() -> None:
    sent = SentHellos()
    for number in range(RECENT + 100):
        with sent.remember(random(number)):
            pass
    assert len(sent) == RECENT
    assert random(99) not in sent
    assert random(100) in sent


@given(st.lists(st.integers(0, 5), max_size=40))
def test_never_more_than_open_and_recent(steps: list[int]) -> None:
    """Opening and closing in any order."""
    sent = SentHellos(recent=2)
    still_open: dict[int, tuple[bytes, AbstractContextManager[None]]] = {}
    for number, step in enumerate(steps):
        if step in still_open:
            opened, manager = still_open.pop(step)
            manager.__exit__(None, None, None)
            assert opened in sent
        else:
            manager = sent.remember(random(number))
            manager.__enter__()
            still_open[step] = (random(number), manager)
        assert all(opened in sent for opened, _ in still_open.values())
        assert len(sent) <= len(still_open) + 2
    for _, manager in still_open.values():
        manager.__exit__(None, None, None)


def record(payload: bytes, kind: int = 0x16) -> bytes:
    return make_record(kind, payload, b"\x03\x01")


@given(st.lists(st.integers(1, 60), min_size=40, max_size=40), st.data())
def test_random_may_follow_in_any_proper_cutting(sizes: list[int], data: st.DataObject) -> None:
    """However the hello is cut, more bytes are worth waiting for until the random has come."""
    message = b"\x01\x00\x02\x00\x03\x03" + bytes(range(32)) + bytes(474)
    hello, at = b"", 0
    for size in sizes:
        if message[at:]:
            hello += record(message[at : at + size])
            at += size
    prefix = hello[: data.draw(st.integers(0, len(hello)))]
    assert client_hello_random(prefix) is not None or random_may_follow(prefix)


@pytest.mark.parametrize(
    "hello",
    [
        record(b"\x01") + record(b""),
        record(b"\x01") + record(b"\x01\x5a", 0x15),
        record(b"\x01") + bytes.fromhex("16 0303 4001"),
        record(b"\x01") + bytes.fromhex("16 02"),
        record(b"\x01") + record(b"\0") * 37,
    ],
    ids=["empty", "alert", "too long", "version", "no room for it"],
)
def test_random_can_not_follow_any_more(hello: bytes) -> None:
    assert client_hello_random(hello) is None
    assert not random_may_follow(hello)
