"""The memory of peers: a peer that was silent before gets a short window.

Theory of operation
-------------------

A peer's address *earns* the short window by ``silences`` handshakes in a row that the peer
completed as the TLS server and in which it was admitted. So a peer needs a certificate that
we trust to earn it. The address *loses* the short window as soon as anybody behind it
speaks first, admitted or not. The full window then applies at once, and twice as many
silences are needed to earn the short one again. An address that has lost it twice hosts
peers of both kinds: it can't earn the short window again while its entry lives.

So a wrong memory leads to at most one wrong role each time that a peer changes its kind. A
stranger behind the same address can do no more than take the short window away from a
peer, which then waits as long as it would without a memory.

The short window is a multiple of the round trip, so that a speaking peer at the
remembered address still has time for its ClientHello to arrive. It is not used if the
round trip is unknown, or if the SYN-ACK had to be sent again.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import lru_cache
from os import PathLike

import attrs

from trio_duplex._decision.facts import Conduct, Outcome, PeerFacts
from trio_duplex._decision.hosts import host_key
from trio_duplex._decision.policy import Change, Choice, Window, as_policy
from trio_duplex._decision.storage import read_text, write_privately
from trio_duplex._decision.window import DEFAULT_WINDOW
from trio_duplex._seconds import check_seconds

VERSION = 1
"""The version of the saved form."""

MOST_SILENCES = 1024
"""The most silences that an address needs for the short window, however often it has spoken."""

LOST_FOR_GOOD = 2
"""How many times an address may lose the short window; after that it counts as one of both kinds."""


@attrs.define(slots=True, eq=False)
class _Entry:
    """What is known of one key; small, because there may be 100,000 of them."""

    silences: int  # how many in a row, each in an admitted connection
    needed: int  # how many silences earn the short window
    times_lost: int  # how often it spoke after it had been silent
    seen: float  # when its last admitted connection was, in wall-clock seconds


@attrs.frozen(kw_only=True)
class MemoryStatistics:
    """What a `PeerMemory` holds and has done.

    Attributes:
        peers: Keys that are remembered.
        silent: Those of them that get the short window.
        mixed: Those of them that host peers of both kinds, and can't earn it.
        remembered: Connections that were given the short window so far.
        forgotten: Keys that expired or made room for others so far.
        changed: How often a key changed its kind so far.
    """

    peers: int
    silent: int
    mixed: int
    remembered: int
    forgotten: int
    changed: int


class PeerMemory:
    """Give peers that were silent before a short window: ``max(floor, round_trips * RTT)``.

    Args:
        otherwise: The window of peers that have not earned the short one:
            seconds, a policy such as `Learned`, or a function of the facts.
        silences: How many admitted silences in a row earn the short window; 3
            by default.
        floor: The shortest window, in seconds; 0.1 by default. Beside the round
            trip, a speaking peer needs some milliseconds to begin.
        round_trips: The short window in round trips; 4 by default, as simulated
            (docs: *Choosing a window*).
        most: How many keys are remembered at most. The least recently used make
            room for new ones.
        life: How long a key is remembered after its last admitted connection, in
            seconds; a week by default.
        key: What counts as one peer: a function of the `PeerFacts` that returns
            text, or None for a peer that is not remembered. By default its
            IPv4 address or IPv6 /64.

    Raises:
        TypeError, ValueError: An argument is wrong.
    """

    def __init__(
        self,
        *,
        otherwise: Window = DEFAULT_WINDOW,
        silences: int = 3,
        floor: float = 0.1,
        round_trips: float = 4.0,
        most: int = 100_000,
        life: float = 7 * 86_400.0,
        key: Callable[[PeerFacts], str | None] | None = None,
    ) -> None:
        for name, count in (("silences", silences), ("most", most)):
            if isinstance(count, bool) or not isinstance(count, int):  # pyright: ignore[reportUnnecessaryIsInstance] - users' words
                raise TypeError(f"{name} must be a whole number, not {count!r}")
            if count < 1:
                raise ValueError(f"{name} must be at least 1, not {count!r}")
        if not check_seconds("life", life):
            raise ValueError("life must be more than 0 s")
        if math.isinf(check_seconds("round_trips", round_trips)) or not round_trips:
            raise ValueError(f"round_trips must be a number above 0, not {round_trips!r}")
        if key is not None and not callable(key):  # pyright: ignore[reportUnnecessaryComparison] - users' words
            raise TypeError(f"key must be a function of the peer's facts, not {key!r}")
        self._otherwise = as_policy(otherwise, "otherwise")
        self._silences = silences
        self._floor = check_seconds("floor", floor)
        self._round_trips = round_trips
        self._most = most
        self._life = life
        self._key = key
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first
        self._remembered = self._forgotten = self._changed = 0

    def __len__(self) -> int:
        return len(self._entries)

    def choose(self, peer: PeerFacts, /) -> Choice | Awaitable[Choice]:
        """Choose the short window for a peer that has earned it, else what ``otherwise`` says."""
        address = peer.remote_address
        if self._key is not None:
            key = self._key(peer)
        elif isinstance(address, tuple):
            key = address[0]
            if key not in self._entries:  # as an IPv4 address is, which is its own key
                key = host_key(key)
        else:
            key = None
        entry = self._entries.get(key) if key is not None else None
        if (
            entry is None
            # `_is_silent` and nearly all of `_is_current`, without the calls: they take a third of it.
            or not (
                0 <= peer.now - entry.seen <= self._life or self._is_current(key, entry, peer.now)
            )
            or entry.silences < entry.needed
            or entry.times_lost >= LOST_FOR_GOOD
            or peer.round_trip is None
        ):
            return self._otherwise.choose(peer)
        self._remembered += 1
        seconds = max(self._floor, self._round_trips * peer.round_trip)
        return _short(math.ceil(1000 * seconds), entry.needed)

    def learn(self, peer: PeerFacts, outcome: Outcome, /) -> Change | None:
        """Take the outcome of a connection into account.

        Only an admitted peer makes a new entry, so that strangers can't fill the
        memory. But a peer need not be admitted to take the short window away from
        its address: it is enough that it speaks first.
        """
        change = None
        key = self._key_of(peer)
        if key is not None:
            silent = outcome.conduct is Conduct.SILENT
            if silent and outcome.admitted:
                change = self._silence(key, peer.now)
            elif not silent:
                change = self._speech(key, peer.now, admitted=outcome.admitted)
        passed_on = self._otherwise.learn(peer, outcome)
        return change or passed_on

    def statistics(self) -> MemoryStatistics:
        """Return what the memory holds now and has done so far, in O(number of keys)."""
        entries = list(self._entries.values())  # in one step: another thread may be calling
        return MemoryStatistics(
            peers=len(entries),
            silent=sum(map(self._is_silent, entries)),
            mixed=sum(entry.times_lost >= LOST_FOR_GOOD for entry in entries),
            remembered=self._remembered,
            forgotten=self._forgotten,
            changed=self._changed,
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write the memory to a file, as versioned JSON.

        The file appears whole or not at all, because it is renamed into place.
        Only its owner can read it, because it says who connects to us.

        Raises:
            OSError: The file can't be written.
        """
        peers = {
            key: [entry.silences, entry.needed, entry.times_lost, int(entry.seen)]
            for key, entry in self._entries.items()
        }
        text = json.dumps({"version": VERSION, "peers": peers}, separators=(",", ":"))
        write_privately(path, text)

    def load(self, path: str | PathLike[str], *, now: float | None = None) -> int:
        """Add the entries of a file to the memory; those already there stay as they are.

        Args:
            path: A file that `save` wrote. If it does not exist, nothing is loaded.
            now: Wall-clock seconds; entries that have expired by then are left
                out. With None, the default, each entry is checked when its peer
                next connects.

        Returns:
            How many peers were loaded.

        Raises:
            OSError: The file can't be read.
            ValueError: `save` did not write the file, or a later version did.
                Nothing was loaded.
        """
        text = read_text(path)
        if text is None:
            return 0
        loaded = 0
        for key, entry in _parsed(text, str(path)).items():
            if now is not None:  # as in `_is_current`
                entry.seen = min(entry.seen, now)
            expired = now is not None and now - entry.seen > self._life
            if not expired and key not in self._entries:
                self._put(key, entry)
                loaded += 1
        return loaded

    def _silence(self, key: str, now: float) -> Change | None:
        entry = self._entries.get(key)
        if entry is None or now - entry.seen > self._life:
            entry = _Entry(silences=0, needed=self._silences, times_lost=0, seen=now)
        was = self._is_silent(entry)
        entry.silences = min(entry.silences + 1, MOST_SILENCES)
        entry.seen = now
        self._put(key, entry)
        if was or not self._is_silent(entry):
            return None
        self._changed += 1
        return Change(key, silent=True)

    def _speech(self, key: str, now: float, *, admitted: bool) -> Change | None:
        entry = self._entries.get(key)
        if entry is None:
            # A peer that has always spoken needs no entry: it has the full window anyway.
            return None
        was = self._is_silent(entry)
        if entry.silences:
            entry.times_lost = min(entry.times_lost + 1, LOST_FOR_GOOD)
            entry.needed = min(2 * entry.needed, MOST_SILENCES)
            entry.silences = 0
        if admitted:
            entry.seen = now
            self._entries.move_to_end(key)
        if not was:
            return None
        self._changed += 1
        return Change(key, silent=False)

    def _put(self, key: str, entry: _Entry) -> None:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)
            self._forgotten += 1

    def _is_current(self, key: str | None, entry: _Entry, now: float) -> bool:
        """Whether an entry has not expired; forget it if it has."""
        # An entry that was written with a wrong clock may be dated in the future. It must expire too.
        entry.seen = min(entry.seen, now)
        if now - entry.seen <= self._life:
            return True
        assert key is not None
        del self._entries[key]
        self._forgotten += 1
        return False

    def _is_silent(self, entry: _Entry) -> bool:
        return entry.silences >= entry.needed and entry.times_lost < LOST_FOR_GOOD

    def _key_of(self, peer: PeerFacts) -> str | None:
        return peer.key if self._key is None else self._key(peer)


@lru_cache(maxsize=4096)  # to make one takes longer than to find the entry
def _short(milliseconds: int, silences: int) -> Choice:
    """The short window, in whole milliseconds: the round trip is not known better than that."""
    return Choice(milliseconds / 1000, f"silent {silences} times in a row or more", remembered=True)


def _parsed(text: str, path: str) -> dict[str, _Entry]:
    """Parse the saved form, and raise ValueError if any of it is wrong."""
    try:
        saved = json.loads(text)
        version, peers = saved["version"], saved["peers"]
        if version != VERSION:
            raise ValueError(f"version {version!r}, where {VERSION} is understood")
        entries: dict[str, _Entry] = {}
        for key, (silences, needed, lost, seen) in peers.items():
            numbers = (silences, needed, lost, seen)
            if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
                raise ValueError(f"{key!r} does not have four whole numbers")
            if min(numbers) < 0 or needed < 1:
                raise ValueError(f"{key!r} has numbers out of range")
            entries[key] = _Entry(
                silences=min(silences, MOST_SILENCES),
                needed=min(needed, MOST_SILENCES),
                times_lost=min(lost, LOST_FOR_GOOD),
                seen=float(seen),
            )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise ValueError(
            f"{path} is not a memory of peers that PeerMemory.save wrote ({exc}): "
            f"remove the file; the memory then learns the peers anew"
        ) from exc
    return entries
