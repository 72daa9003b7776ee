"""Mixes: how they are read, and who dials."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from trio_duplex.cli._load.plan import HOSTILE, KINDS, MAX_PARTS, Mix, Plan


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("speaking=8,silent=1,hostile=1", {"speaking": 8, "silent": 1, "hostile": 1}),
        (" speaking = 9 , silent=3, ", {"speaking": 3, "silent": 1}),  # in lowest terms
        ("http", {"http": 1}),
        ("hang-up=2,silent=0", {"hang-up": 1}),
        (f"mute={MAX_PARTS},speaking", {"mute": MAX_PARTS, "speaking": 1}),
    ],
)
def test_mixes(text: str, parts: dict[str, int]) -> None:
    mix = Mix.parse(text)
    assert mix.parts == parts
    assert Mix.parse(str(mix)) == mix


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no peers"),
        (",", "no peers"),
        ("speaking=0", "no peers"),
        ("http2=1", "'http2'"),
        ("=1", "''"),
        ("speaking=1,speaking=2", "twice"),
        ("speaking=", "'speaking='"),
        ("speaking=-1", "-1"),
        ("speaking=0.5", "0.5"),
        ("speaking=nan", "nan"),
        ("speaking=²", "²"),
        (f"speaking={MAX_PARTS + 1}", str(MAX_PARTS)),
    ],
)
def test_invalid_mixes(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Mix.parse(text)


def test_an_unknown_kind_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="not a kind") as caught:
        Mix.parse("talking")
    assert all(kind in str(caught.value) for kind in (*KINDS, "hostile"))


def test_proportions_are_exact_after_each_deck() -> None:
    drawn = Mix.parse("speaking=8,silent=1,hostile=1").draw(seed=7)
    for _ in range(12):
        deck = Counter(islice(drawn, 10))
        assert (deck["speaking"], deck["silent"]) == (8, 1)
        assert sum(deck[kind] for kind in HOSTILE) == 1


def test_hostile_means_each_in_turn() -> None:
    drawn = list(islice(Mix.parse("hostile").draw(seed=7), 3 * len(HOSTILE)))
    assert Counter(drawn) == dict.fromkeys(HOSTILE, 3)
    assert len(set(drawn[: len(HOSTILE)])) == len(HOSTILE)


def test_the_seed_decides_the_order() -> None:
    mix = Mix.parse("speaking=5,silent=5,hostile=2")
    first, again, other = (list(islice(mix.draw(seed), 60)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert Counter(first)["speaking"] == Counter(other)["speaking"]


def test_kinds_are_reported_in_one_order() -> None:
    assert Mix.parse("hostile,silent,speaking").kinds == KINDS
    assert Mix.parse("mute,http").kinds == ("http", "mute")
    assert Mix.parse("http=3,hostile=1").kinds == tuple(HOSTILE)


def test_how_long_dialling_takes() -> None:
    plan = Plan(host="a.example", port=1, rate=20, count=50, mix=Mix.parse("http"))
    assert plan.seconds == 2.5
