"""The memory of peers, and what strangers can do to it: `trio_duplex._decision.memory`."""

from __future__ import annotations

import json
import math
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from trio_duplex import Reason
from trio_duplex._decision.memory import MOST_SILENCES
from trio_duplex.windows import Change, Choice, Conduct, Learned, Outcome, PeerFacts, PeerMemory

DAY = 86_400.0
SILENT = Outcome(conduct=Conduct.SILENT, admitted=True, waited=5.0)
UNADMITTED_SILENCE = Outcome(conduct=Conduct.SILENT, admitted=False, waited=5.0)
SPOKE = Outcome(conduct=Conduct.SPOKE, admitted=True, waited=0.01)
STRANGER_SPOKE = Outcome(conduct=Conduct.SPOKE, admitted=False, waited=0.01)
LATE = Outcome(conduct=Conduct.LATE, admitted=False, waited=0.3)


def peer(host: str = "192.0.2.1", *, rtt: float | None = 0.05, now: float = 0.0) -> PeerFacts:
    return PeerFacts(remote_address=(host, 4711), round_trip=rtt, now=now)


def choose(memory: PeerMemory, facts: PeerFacts) -> Choice:
    choice = memory.choose(facts)
    assert isinstance(choice, Choice)
    return choice


def known(memory: PeerMemory, facts: PeerFacts, times: int = 3) -> None:
    for _ in range(times):
        memory.learn(facts, SILENT)


def test_short_window_is_earned_by_three_silences() -> None:
    memory = PeerMemory()
    for _ in range(3):
        assert choose(memory, peer()) == Choice(5.0)
        memory.learn(peer(), SILENT)
    choice = choose(memory, peer())
    assert choice.seconds == pytest.approx(0.2)  # 4 round trips
    assert choice.remembered
    assert choice.reason_of_silence() is Reason.REMEMBERED


@pytest.mark.parametrize(
    ("rtt", "seconds"), [(0.001, 0.1), (0.025, 0.1), (0.1, 0.4), (2.0, 8.0), (None, 5.0)]
)
def test_short_window_is_four_round_trips_and_never_below_the_floor(
    rtt: float | None, seconds: float
) -> None:
    memory = PeerMemory()
    known(memory, peer())
    assert choose(memory, peer(rtt=rtt)).seconds == pytest.approx(seconds)


def test_only_admitted_silences_count() -> None:
    memory = PeerMemory()
    for _ in range(10):
        memory.learn(peer(), UNADMITTED_SILENCE)
    assert len(memory) == 0
    assert choose(memory, peer()).seconds == 5.0


@pytest.mark.parametrize("outcome", [SPOKE, STRANGER_SPOKE, LATE])
def test_one_opening_restores_the_full_window_and_doubles_the_silences_needed(
    outcome: Outcome,
) -> None:
    memory = PeerMemory()
    known(memory, peer())
    assert memory.learn(peer(), outcome) == Change("192.0.2.1", silent=False)
    assert choose(memory, peer()).seconds == 5.0
    known(memory, peer(), 5)
    assert choose(memory, peer()).seconds == 5.0
    assert memory.learn(peer(), SILENT) == Change("192.0.2.1", silent=True)
    assert choose(memory, peer()).remembered


def test_address_of_both_kinds_never_qualifies() -> None:
    memory = PeerMemory()
    for _ in range(200):
        memory.learn(peer(), SILENT)
        memory.learn(peer(), SPOKE)
    for _ in range(2 * MOST_SILENCES):
        memory.learn(peer(), SILENT)
        assert not choose(memory, peer()).remembered
    assert memory.statistics().mixed == 1


def test_peer_that_only_speaks_needs_no_memory() -> None:
    memory = PeerMemory()
    for _ in range(10):
        memory.learn(peer(), SPOKE)
    assert len(memory) == 0
    known(memory, peer())
    assert choose(memory, peer()).remembered


def test_wrong_roles_are_at_most_one_per_change_of_kind() -> None:
    # A speaking peer that is always too late for the short window: the worst there is.
    memory, wrong = PeerMemory(), 0
    known(memory, peer())
    for _ in range(1000):
        if choose(memory, peer()).remembered:
            wrong += 1
            memory.learn(peer(), LATE)
        else:
            memory.learn(peer(), SPOKE)
    assert wrong == 1


def test_entry_expires() -> None:
    memory = PeerMemory(life=7 * DAY)
    known(memory, peer())
    assert choose(memory, peer(now=6.9 * DAY)).remembered
    assert not choose(memory, peer(now=7.1 * DAY)).remembered
    assert len(memory) == 0
    assert memory.statistics().forgotten == 1


def test_filling_the_memory_evicts_the_least_recently_used() -> None:
    memory = PeerMemory(most=3)
    known(memory, peer("192.0.2.1"))
    known(memory, peer("192.0.2.2"))
    known(memory, peer("192.0.2.3"))
    memory.learn(peer("192.0.2.1"), SILENT)
    known(memory, peer("192.0.2.4"))
    assert len(memory) == 3
    assert choose(memory, peer("192.0.2.1")).remembered
    assert not choose(memory, peer("192.0.2.2")).remembered


def test_strangers_can_not_fill_the_memory() -> None:
    memory = PeerMemory(most=10)
    known(memory, peer())
    for number in range(1000):
        for outcome in (UNADMITTED_SILENCE, STRANGER_SPOKE, LATE):
            memory.learn(peer(f"198.51.{number // 250}.{number % 250}"), outcome)
    assert len(memory) == 1
    assert choose(memory, peer()).remembered


def test_stranger_behind_a_neighbours_address_costs_it_the_shortcut_only() -> None:
    memory = PeerMemory(otherwise=5.0)
    known(memory, peer())
    for _ in range(100):
        memory.learn(peer(), STRANGER_SPOKE)
        assert choose(memory, peer()) == Choice(5.0)


def test_strangers_opening_does_not_keep_an_entry_alive() -> None:
    memory = PeerMemory(life=DAY)
    known(memory, peer())
    memory.learn(peer(now=0.9 * DAY), STRANGER_SPOKE)
    choose(memory, peer(now=1.1 * DAY))
    assert len(memory) == 0


def test_ipv6_counts_by_64() -> None:
    memory = PeerMemory()
    known(memory, peer("2001:db8::1"))
    assert choose(memory, peer("2001:db8::2")).remembered
    assert not choose(memory, peer("2001:db8:0:1::1")).remembered


def test_key_function_of_the_user() -> None:
    memory = PeerMemory(key=lambda facts: "all" if facts.remote_address else None)
    known(memory, peer("192.0.2.1"))
    assert choose(memory, peer("203.0.113.9")).remembered
    assert choose(memory, PeerFacts(round_trip=0.1)).seconds == 5.0


def test_otherwise_chooses_and_learns_for_unknown_peers() -> None:
    learned = Learned(floor=0.5)
    memory = PeerMemory(otherwise=learned)
    for number in range(100):
        memory.learn(peer(f"192.0.2.{number}"), SPOKE)
    assert learned.votes == 100
    assert choose(memory, peer()).seconds == learned.seconds < 5.0


def test_statistics() -> None:
    memory = PeerMemory()
    known(memory, peer())
    memory.learn(peer("192.0.2.2"), SILENT)
    choose(memory, peer())
    statistics = memory.statistics()
    assert (statistics.peers, statistics.silent, statistics.mixed) == (2, 1, 0)
    assert (statistics.remembered, statistics.changed) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"silences": 0}, ValueError),
        ({"silences": 1.5}, TypeError),
        ({"most": True}, TypeError),
        ({"floor": -1}, ValueError),
        ({"round_trips": 0}, ValueError),
        ({"round_trips": math.inf}, ValueError),
        ({"life": 0}, ValueError),
        ({"otherwise": "5"}, TypeError),
        ({"key": "host"}, TypeError),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        PeerMemory(**arguments)


# ------------------------------------------------------------------- saved and loaded


def test_memory_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    memory = PeerMemory()
    known(memory, peer("192.0.2.1", now=100.0))
    known(memory, peer("2001:db8::1", now=200.0))
    memory.learn(peer("192.0.2.1", now=300.0), SPOKE)
    memory.save(path)
    again = PeerMemory()
    assert again.load(path, now=400.0) == 2
    assert choose(again, peer("2001:db8::9", now=400.0)).remembered
    known(again, peer("192.0.2.1", now=400.0), 5)
    assert not choose(again, peer("192.0.2.1", now=400.0)).remembered
    known(again, peer("192.0.2.1", now=400.0), 1)
    assert choose(again, peer("192.0.2.1", now=400.0)).remembered


def test_saved_file_is_private_versioned_and_the_only_one(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.write_text("before")
    path.chmod(0o644)
    memory = PeerMemory()
    known(memory, peer())
    memory.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["version"] == 1
    assert [*tmp_path.iterdir()] == [path]


def test_failed_save_leaves_the_former_file(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(OSError):
        PeerMemory().save(target)
    assert [*tmp_path.iterdir()] == [target]
    with pytest.raises(OSError):
        PeerMemory().save(tmp_path / "missing" / "peers.json")


def test_missing_file_holds_nothing(tmp_path: Path) -> None:
    assert PeerMemory().load(tmp_path / "none", now=0.0) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"version":2,"peers":{}}',
        '{"version":1,"peers":[]}',
        '{"version":1,"peers":{"a":[1,2,3]}}',
        '{"version":1,"peers":{"a":[1,2,3,"4"]}}',
        '{"version":1,"peers":{"a":[1,0,0,4]}}',
        '{"version":1,"peers":{"a":[-1,1,0,4]}}',
        '{"version":1,"peers":{"good":[3,3,0,1],"a":[1,2,3,true]}}',
        "[" * 100_000,
    ],
)
def test_malformed_file_loads_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "peers.json"
    path.write_text(text)
    memory = PeerMemory()
    with pytest.raises(ValueError, match="memory of peers"):
        memory.load(path, now=0.0)
    assert len(memory) == 0


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "peers.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError):
        PeerMemory().load(tmp_path / "peers.json", now=0.0)


def test_load_leaves_out_expired_entries_and_corrects_future_dates(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    memory = PeerMemory(life=DAY)
    known(memory, peer("192.0.2.1", now=0.0))
    known(memory, peer("192.0.2.2", now=100 * DAY))
    memory.save(path)
    again = PeerMemory(life=DAY)
    assert again.load(path, now=2 * DAY) == 1
    assert choose(again, peer("192.0.2.2", now=2.9 * DAY)).remembered
    assert not choose(again, peer("192.0.2.2", now=3.1 * DAY)).remembered


def test_load_keeps_existing_entries(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    old = PeerMemory()
    old.learn(peer(), SILENT)
    old.save(path)
    memory = PeerMemory()
    known(memory, peer())
    assert memory.load(path, now=0.0) == 0
    assert choose(memory, peer()).remembered


@pytest.mark.slow
def test_size_of_a_remembered_peer(tmp_path: Path) -> None:
    memory, count = PeerMemory(), 2_000
    for number in range(count):
        known(memory, peer(f"2001:db8:{number:x}::1", now=1_790_000_000.0))
    memory.save(tmp_path / "peers.json")
    assert (tmp_path / "peers.json").stat().st_size / count < 100
    key, entry = next(iter(memory._entries.items()))
    parts = (key, entry, entry.seen)
    assert sum(map(sys.getsizeof, parts)) + 150 < 400  # 150: its share of the ordered dict
