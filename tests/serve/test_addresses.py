"""What counts as one address, and who holds how much: `trio_duplex._serve.addresses`."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from trio_duplex._serve.addresses import ByAddress, Ranking, address_key


@pytest.mark.parametrize(
    ("remote", "key"),
    [
        (("192.0.2.7", 4711), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 4711, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::", 4711, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:3::", 4711, 0, 0), "2001:db8:1:3::/64"),
        (("::ffff:192.0.2.7", 4711, 0, 0), "192.0.2.7"),
        (("fe80::1%eth0", 4711, 0, 2), "fe80::/64"),
        (("::1", 4711, 0, 0), "::/64"),
        (("64:ff9b::192.0.2.7", 4711, 0, 0), "192.0.2.7"),
        (("64:ff9b::c000:208", 4711, 0, 0), "192.0.2.8"),
        (("64:ff9b:0:0:0:1:c000:207", 4711, 0, 0), "64:ff9b::/64"),
        (("64:ff9b:1::c000:207", 4711, 0, 0), "64:ff9b:1::/64"),
        ("/run/node.sock", None),
        (None, None),
    ],
)
def test_what_counts_as_one_address(remote: Any, key: str | None) -> None:
    assert address_key(remote) == key


def test_a_ranking_gives_lowest_and_highest_and_among_equals_the_first() -> None:
    ranking = Ranking()
    for key, number in (("a", 3), ("b", 1), ("c", 1), ("d", 3)):
        ranking.set(key, number)
    assert ranking.lowest() == "b"
    assert ranking.highest() == ("a", 3)
    ranking.set("b", 1)  # no change: it keeps its position
    assert ranking.lowest() == "b"
    ranking.set("b", 2)
    assert ranking.lowest() == "c"
    ranking.set("b", 1)  # behind those who have had it for longer
    assert ranking.lowest() == "c"
    for key in "acx":
        ranking.discard(key)
    assert (ranking.lowest(), ranking.highest()) == ("b", ("d", 3))
    assert ("a" in ranking, "b" in ranking, len(ranking)) == (False, True, 2)


@pytest.mark.parametrize("seed", range(5))
def test_items_by_address_are_as_in_a_list_for_each(seed: int) -> None:
    chance = random.Random(seed)
    items: ByAddress[object] = ByAddress()
    expected: dict[str, list[object]] = {key: [] for key in "abc"}
    for _ in range(2000):
        key = chance.choice("abc")
        mine = expected[key]
        if chance.random() < 0.5:
            mine.append(object())
            items.add(key, mine[-1])
        elif mine:
            item = mine.pop(chance.randrange(len(mine)))
            assert items.discard(key, item)
            assert not items.discard(key, item)
        assert not items.discard(key, object())
        assert items.count(key) == len(mine)
        if mine:
            assert items.oldest(key) is mine[0]
            assert items.youngest(key) is mine[-1]
        counts = {key: len(mine) for key, mine in expected.items() if len(mine) > 1}
        most = items.most()
        assert (most is None) == (not counts)
        assert most is None or counts[str(most)] == max(counts.values())
    assert len(items) == len(Counter(key for key, mine in expected.items() if mine))
