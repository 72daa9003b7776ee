"""What is asked of ``trio-duplex load``: how many peers, of what kinds, in what mix. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from itertools import chain

import attrs

SPEAKING, SILENT = "speaking", "silent"
HTTP, HANG_UP, RESET = "http", "hang-up", "reset"
PARTIAL, GARBAGE, MUTE = "partial", "garbage", "mute"

HOSTILE = {
    HTTP: "speaks plaintext HTTP",
    HANG_UP: "hangs up at once",
    RESET: "resets at once",
    PARTIAL: "sends 20 bytes of a ClientHello, and then nothing",
    GARBAGE: "completes the handshake as TLS client, then sends a record that cannot be decrypted",
    MUTE: "never sends a byte, not even to answer a ClientHello",
}
"""The hostile kinds, each with what it does."""

KINDS = (SPEAKING, SILENT, *HOSTILE)

WITH_CERTIFICATE = frozenset({SPEAKING, SILENT, GARBAGE})
"""Kinds that complete a handshake, and so need something to present."""

TLS_VERSIONS = ("1.2", "1.3")

ALL_HOSTILE = "hostile"
"""In a mix: each of the hostile kinds in turn."""

MAX_PARTS = 10_000
"""The greatest number in a mix: it is how many connections it takes until the mix is exact."""


@attrs.frozen
class Mix:
    """How many of each kind dial, in proportion.

    Attributes:
        parts: From each kind, or ``"hostile"``, to its part of the whole.
    """

    parts: Mapping[str, int]

    @classmethod
    def parse(cls, text: str) -> Mix:
        """Read ``"speaking=8,silent=1,hostile=1"``; a name alone is one part.

        Raises:
            ValueError: It is no mix; the message says why.
        """
        parts: dict[str, int] = {}
        for item in filter(None, map(str.strip, text.split(","))):
            name, equals, number = map(str.strip, item.partition("="))
            if name not in {*KINDS, ALL_HOSTILE}:
                known = ", ".join([SPEAKING, SILENT, ALL_HOSTILE, *HOSTILE])
                raise ValueError(f"no kind of peer is called {name!r}; there are {known}")
            if name in parts:
                raise ValueError(f"{name} is there twice")
            if equals and not (number.isascii() and number.isdigit() and int(number) <= MAX_PARTS):
                raise ValueError(f"{item!r} is not NAME=PARTS with 0 to {MAX_PARTS} parts")
            parts[name] = int(number) if equals else 1
        if not any(parts.values()):
            raise ValueError("nobody is to dial: give a mix such as speaking=8,silent=1,hostile=1")
        divisor = math.gcd(*parts.values())
        return cls({name: number // divisor for name, number in parts.items() if number})

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that dial, in the order in which they are reported."""
        hostile = HOSTILE if ALL_HOSTILE in self.parts else {}
        return tuple(kind for kind in KINDS if kind in self.parts or kind in hostile)

    def draw(self, seed: int) -> Iterator[str]:
        """Say who dials, without end.

        As from a deck that is shuffled anew whenever it has run out: the order
        is random, and the proportions are exact after each deck.
        """
        dice = random.Random(seed)  # noqa: S311 - an order, no secret
        turns = _decks(list(HOSTILE), dice)
        deck = list(chain.from_iterable([name] * part for name, part in self.parts.items()))
        for name in _decks(deck, dice):
            yield next(turns) if name == ALL_HOSTILE else name

    def __str__(self) -> str:
        return ",".join(f"{name}={part}" for name, part in self.parts.items())


@attrs.frozen(kw_only=True)
class Plan:
    """A load.

    Attributes:
        host: Whom to dial, as it was given.
        port: Likewise.
        rate: Peers that are due a second.
        count: How many in all.
        mix: Of what kinds.
        seed: What their order, and the bytes that they send, are drawn from.
        size: Bytes that are sent, and must come back; 0 for the handshake alone.
        tls: The one TLS version, of `TLS_VERSIONS`; None for the newest in common.
        timeout: Seconds that each has from when it dials.
        max_open: How many may be open at once.
    """

    host: str
    port: int
    rate: float
    count: int
    mix: Mix
    seed: int = 0
    size: int = 32
    tls: str | None = None
    timeout: float = 10.0
    max_open: int = 1000

    @property
    def seconds(self) -> float:
        """How long dialling takes."""
        return self.count / self.rate


def _decks(cards: list[str], dice: random.Random) -> Iterator[str]:
    while True:
        yield from dice.sample(cards, len(cards))
