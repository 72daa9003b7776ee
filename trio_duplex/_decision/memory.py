"""The memory of peers: who was silent before need not wait out the whole window again.

Theory of operation
-------------------

An entry is earned and lost. A peer's address *earns* a short window by ``silences``
handshakes in a row that it completed as the TLS server and in which it was admitted:
nobody earns it without a certificate that we trust. It *loses* it by one opening, of
whoever is behind that address: the full window is back at once, and what must be earned
the next time is doubled. An address that has lost it twice hosts peers of both kinds
and never earns it again while the entry lives.

So a wrong memory costs at most one wrong role for each change of kind, and a stranger
behind the same address can cost his neighbour the shortcut, and nothing else: the
neighbour waits as he would without a memory.

The short window is a multiple of the round trip, so that a speaking peer at the
remembered address still has time for its ClientHello to arrive. It is not used where
the round trip is unknown, or where the SYN-ACK had to be sent again.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from os import PathLike

import attrs

from trio_duplex._decision.facts import Conduct, Outcome, PeerFacts
from trio_duplex._decision.rules import Change, Choice, Window, as_policy
from trio_duplex._decision.storage import read_text, write_privately
from trio_duplex._decision.window import DEFAULT_WINDOW
from trio_duplex._seconds import check_seconds

VERSION = 1
"""Of the saved form."""

MOST_SILENCES = 1024
"""The most silences that an address must earn after it has spoken again and again."""

LOST_FOR_GOOD = 2
"""How often an address may turn out to speak before it counts as one of both kinds."""


@attrs.define(slots=True, eq=False)
class _Entry:
    """What is known of one key; small, because there may be 100,000 of them."""

    silences: int  # in a row, each in an admitted connection
    needed: int  # how many make a silent peer
    lost: int  # how often it spoke after it had been silent
    seen: float  # wall-clock seconds, of its last admitted connection


@attrs.frozen(kw_only=True)
class MemoryStatistics:
    """What a `PeerMemory` holds and has done.

    Attributes:
        peers: Keys that are remembered.
        silent: Those of them that get the short window.
        mixed: Those that host both kinds, and never get it.
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
        floor: The shortest window, in seconds; 0.1 by default. A speaking peer
            needs some milliseconds beside the round trip to begin.
        round_trips: The short window in round trips; 4 by default, as simulated
            (docs: *Choosing a window*).
        most: How many keys are remembered; the least recently used make room.
        life: Seconds after its last admitted connection for which a key is
            remembered; a week by default.
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
        entry = self._entry(peer)
        if entry is None or not self._is_silent(entry) or peer.round_trip is None:
            return self._otherwise.choose(peer)
        self._remembered += 1
        seconds = max(self._floor, self._round_trips * peer.round_trip)
        return Choice(seconds, f"silent {entry.silences} times in a row", remembered=True)

    def learn(self, peer: PeerFacts, outcome: Outcome, /) -> Change | None:
        """Take what became of a connection into account.

        Only admitted peers make an entry, so that a stranger can't fill the
        memory. But anybody's opening ends the shortcut of its address.
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
        """What it holds now and has done so far. Takes time in proportion to what it holds."""
        entries = list(self._entries.values())  # at once: it may be asked from another thread
        return MemoryStatistics(
            peers=len(entries),
            silent=sum(map(self._is_silent, entries)),
            mixed=sum(entry.lost >= LOST_FOR_GOOD for entry in entries),
            remembered=self._remembered,
            forgotten=self._forgotten,
            changed=self._changed,
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write what is remembered to a file, as versioned JSON.

        The file appears whole or not at all (it is renamed into place), and
        only its owner can read it: it says who connects.

        Raises:
            OSError: It can't be written.
        """
        peers = {
            key: [entry.silences, entry.needed, entry.lost, int(entry.seen)]
            for key, entry in self._entries.items()
        }
        text = json.dumps({"version": VERSION, "peers": peers}, separators=(",", ":"))
        write_privately(path, text)

    def load(self, path: str | PathLike[str], *, now: float | None = None) -> int:
        """Remember what a file holds, beside what is remembered already.

        Args:
            path: A file that `save` wrote. A missing file holds nothing.
            now: Wall-clock seconds, to leave out entries that have expired.
                With None, the default, they are found when their peer next
                connects.

        Returns:
            How many peers were loaded.

        Raises:
            OSError: It can't be read.
            ValueError: It was not written by `save`, or by a later version;
                nothing was loaded.
        """
        text = read_text(path)
        if text is None:
            return 0
        loaded = 0
        for key, entry in _parsed(text, str(path)).items():
            if now is not None:  # as in `_entry`
                entry.seen = min(entry.seen, now)
            expired = now is not None and now - entry.seen > self._life
            if not expired and key not in self._entries:
                self._put(key, entry)
                loaded += 1
        return loaded

    def _silence(self, key: str, now: float) -> Change | None:
        entry = self._entries.get(key)
        if entry is None or now - entry.seen > self._life:
            entry = _Entry(silences=0, needed=self._silences, lost=0, seen=now)
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
            # Who only ever spoke needs no entry: the full window is what it has.
            return None
        was = self._is_silent(entry)
        if entry.silences:
            entry.lost = min(entry.lost + 1, LOST_FOR_GOOD)
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

    def _entry(self, peer: PeerFacts) -> _Entry | None:
        key = self._key_of(peer)
        entry = self._entries.get(key) if key is not None else None
        if entry is None:
            return None
        # A file from the future, or from a wrong clock, must not live for ever.
        entry.seen = min(entry.seen, peer.now)
        if peer.now - entry.seen > self._life:
            assert key is not None
            del self._entries[key]
            self._forgotten += 1
            return None
        return entry

    def _is_silent(self, entry: _Entry) -> bool:
        return entry.silences >= entry.needed and entry.lost < LOST_FOR_GOOD

    def _key_of(self, peer: PeerFacts) -> str | None:
        return peer.key if self._key is None else self._key(peer)


def _parsed(text: str, path: str) -> dict[str, _Entry]:
    """Read the saved form: all of it, or ValueError."""
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
                lost=min(lost, LOST_FOR_GOOD),
                seen=float(seen),
            )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise ValueError(
            f"{path} is not a memory of peers that PeerMemory.save wrote ({exc}): "
            f"remove it, and the peers are learned anew"
        ) from exc
    return entries
