"""The plan of ``trio-duplex load``: how many peers, of what kinds, in what proportions. Pure."""

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
"""The hostile kinds of peers, and what each does."""

KINDS = (SPEAKING, SILENT, *HOSTILE)

WITH_CERTIFICATE = frozenset({SPEAKING, SILENT, GARBAGE})
"""The kinds that complete a handshake, and so need a certificate."""

TLS_VERSIONS = ("1.2", "1.3")

ALL_HOSTILE = "hostile"
"""In a mix: each of the hostile kinds in turn."""

MAX_PARTS = 10_000
"""The largest number in a mix. After as many connections as the sum of all numbers, the
proportions are exact."""


@attrs.frozen
class Mix:
    """How many of each kind dial, in proportion.

    Attributes:
        parts: From each kind, or ``"hostile"``, to its part of the whole.
    """

    parts: Mapping[str, int]

    @classmethod
    def parse(cls, text: str) -> Mix:
        """Parse ``"speaking=8,silent=1,hostile=1"``; a name without a number is one part.

        Raises:
            ValueError: The text is not a mix; the message says why.
        """
        parts: dict[str, int] = {}
        for item in filter(None, map(str.strip, text.split(","))):
            name, equals, number = map(str.strip, item.partition("="))
            if name not in {*KINDS, ALL_HOSTILE}:
                known = ", ".join([SPEAKING, SILENT, ALL_HOSTILE, *HOSTILE])
                raise ValueError(f"{name!r} is not a kind of peer; the kinds are {known}")
            if name in parts:
                raise ValueError(f"{name} appears twice")
            if equals and not (number.isascii() and number.isdigit() and int(number) <= MAX_PARTS):
                raise ValueError(f"{item!r} is not NAME=PARTS with 0 to {MAX_PARTS} parts")
            parts[name] = int(number) if equals else 1
        if not any(parts.values()):
            raise ValueError("the mix has no peers: give one such as speaking=8,silent=1,hostile=1")
        divisor = math.gcd(*parts.values())
        return cls({name: number // divisor for name, number in parts.items() if number})

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that dial, in the order in which they are reported."""
        hostile = HOSTILE if ALL_HOSTILE in self.parts else {}
        return tuple(kind for kind in KINDS if kind in self.parts or kind in hostile)

    def draw(self, seed: int) -> Iterator[str]:
        """Yield the kind of each peer that dials, without end.

        This is like dealing from a deck of cards that is shuffled whenever it is
        empty: the order is random, and the proportions are exact after each deck.
        """
        dice = random.Random(seed)  # noqa: S311 - an order is not a secret
        turns = _decks(list(HOSTILE), dice)
        deck = list(chain.from_iterable([name] * part for name, part in self.parts.items()))
        for name in _decks(deck, dice):
            yield next(turns) if name == ALL_HOSTILE else name

    def __str__(self) -> str:
        return ",".join(f"{name}={part}" for name, part in self.parts.items())


@attrs.frozen(kw_only=True)
class Plan:
    """Everything that the user has asked for.

    Attributes:
        host: The host to dial, as the user gave it.
        port: The port to dial.
        rate: How many peers are due per second.
        count: How many peers there are in all.
        mix: Of what kinds they are.
        seed: The seed for their order, and for the bytes that they send.
        size: How many bytes are sent and must come back; 0 for only a handshake.
        tls: The only TLS version, of `TLS_VERSIONS`; None for the newest one that
            both ends support.
        timeout: How long each peer may take from when it dials, in seconds.
        max_open: How many peers may be open at once.
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
