"""Thousands of short connections of all kinds against one server, which is to be as it was before.

``python tests/soak.py [CONNECTIONS]``; 20,000 by default. The server is a process of its own; the
peers are the test kit's, in this one. It ends with an error if descriptors, tasks or places are left,
or if memory has grown by more than `MOST_GROWTH` since the warm-up.
"""

from __future__ import annotations

import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path

import attrs
import trio

from tests.support.child import Child, Look, write_certificates
from tests.support.peers import client_hello
from trio_duplex.testing import (
    Authority,
    Certificate,
    HangingUpPeer,
    PartialPeer,
    PlaintextPeer,
    ResettingPeer,
    SilentPeer,
    SpeakingPeer,
)

CONNECTIONS = 20_000
WARM_UP = 2_000
"""Connections until everything has been loaded, and the allocator has its arenas."""

MOST_GROWTH = 5e6
"""Bytes."""

WINDOW = 2.0
"""Seconds: long enough that no speaking peer misses it, however busy the machine is."""

HANDSHAKE_TIMEOUT = 3.0
"""Seconds, after which who has fallen silent is dropped."""

AT_ONCE = 100
"""Peers. Most of these wait out a window or a handshake timeout; so many are there at once also in the
warm-up, or what memory they need would look like growth."""

SHAKING_AT_ONCE = 8
"""Speaking peers: they share this process's CPU, and must not miss the window for that."""


Kind = Callable[["Peers"], Coroutine[object, object, None]]


@attrs.frozen
class Peers:
    """All kinds of them; each is a method that dials and comes to its end."""

    address: tuple[str, int]
    certificate: Certificate
    stranger_certificate: Certificate
    shaking: trio.CapacityLimiter = attrs.field(
        factory=partial(trio.CapacityLimiter, SHAKING_AT_ONCE)
    )

    async def speaking(self) -> None:
        async with self.shaking:
            await self._echoed(SpeakingPeer)

    async def silent(self) -> None:
        await self._echoed(SilentPeer)

    async def _echoed(self, cls: type[SpeakingPeer | SilentPeer]) -> None:
        data = random.randbytes(random.randrange(1, 2000))
        peer = cls(credentials=self.certificate, say=data, hear=len(data))
        report = await peer.run(self.address)
        assert report.heard == data, report
        assert report.error is None, report

    async def stranger(self) -> None:
        """A client with a certificate of another authority: it must be told so."""
        async with self.shaking:
            report = await SpeakingPeer(credentials=self.stranger_certificate).run(self.address)
        assert report.alert == "unknown_ca", report

    async def garbage(self) -> None:
        report = await PlaintextPeer(say=random.choice(GARBAGE)).run(self.address)
        # A record that is longer than TLS allows is answered by an alert; the rest by nothing.
        assert report.received == b"" or report.alert == "record_overflow", report
        assert report.end is not None or report.error is not None, report

    async def hangs_up(self) -> None:
        await HangingUpPeer().run(self.address)

    async def resets(self) -> None:
        await ResettingPeer(say=random.choice((b"", part_of_hello()))).run(self.address)

    async def breaks_off(self) -> None:
        """It stops in the middle of its ClientHello, and leaves, or has to be dropped."""
        if random.random() < 0.5:
            await HangingUpPeer(say=part_of_hello()).run(self.address)
            return
        report = await PartialPeer(size=len(part_of_hello())).run(self.address)
        assert report.end is not None, report

    async def mute(self) -> None:
        """It has our ClientHello, and says nothing to that; it is dropped."""
        report = await PartialPeer(size=0).run(self.address)
        assert report.received, report


SHARES: dict[Kind, int] = {
    Peers.speaking: 30,
    Peers.silent: 8,
    Peers.stranger: 10,
    Peers.garbage: 18,
    Peers.hangs_up: 14,
    Peers.resets: 10,
    Peers.breaks_off: 8,
    Peers.mute: 2,
}
"""Of a hundred."""

GARBAGE = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    bytes(1000),
    random.Random(1).randbytes(500).replace(b"\x16", b"\x17"),
    b"\x16\x03\x01\xff\xff",
)


HELLO = client_hello()


def part_of_hello() -> bytes:
    return HELLO[: random.randrange(1, len(HELLO))]


async def send_in(peers: Peers, kinds: Iterable[Kind]) -> None:
    """Have all these peers dial, so many at once, and come to their ends."""
    at_once = trio.CapacityLimiter(AT_ONCE)

    async def come(kind: Kind, place: object) -> None:
        try:
            await kind(peers)
        finally:
            at_once.release_on_behalf_of(place)

    async with trio.open_nursery() as nursery:
        for kind in kinds:
            place = object()
            await at_once.acquire_on_behalf_of(place)
            nursery.start_soon(come, kind, place)


def mixed(count: int) -> list[Kind]:
    hundred = [kind for kind, share in SHARES.items() for _ in range(share)]
    kinds = list(itertools.islice(itertools.cycle(hundred), count))
    random.shuffle(kinds)
    return kinds


async def soak(count: int, folder: Path) -> None:
    warm_up = min(WARM_UP, count * 2 // 3)
    authority = Authority()
    write_certificates(folder, authority.ca)
    options = {"window": WINDOW, "handshake_timeout": HANDSHAKE_TIMEOUT}
    async with Child.start(folder, fresh=True, **options) as server:  # type: ignore[arg-type]
        peers = Peers(
            ("127.0.0.1", server.port),
            authority.certificate("peer.example"),
            attrs.evolve(Authority().certificate("peer.example"), trust_pem=authority.trust_pem),
        )
        await peers.speaking()  # what a first connection loads is none of its own
        looks = [await server.idle()]
        started = time.monotonic()
        kinds = mixed(count)
        for part in (kinds[:warm_up], kinds[warm_up:]):
            await send_in(peers, part)
            looks.append(await server.idle())
        report(looks, kinds, time.monotonic() - started, len(server.log))
    assert not [line for line in server.log if "Traceback" in line]
    check(looks, kinds)


def report(looks: list[Look], kinds: list[Kind], seconds: float, log: int) -> None:
    counts = Counter(kind.__name__ for kind in kinds)
    print(f"{len(kinds)} connections in {seconds:.1f} s: {len(kinds) / seconds:.0f} a second")
    print("  " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    print(f"{'':26}{'before':>10}{'warm':>10}{'after':>10}")
    for name in ("descriptors", "tasks", "accepted", "completed"):
        print(f"  {name:24}" + "".join(f"{look[name]:10}" for look in looks))
    print(f"  {'resident, MB':24}" + "".join(f"{look['resident'] / 1e6:10.2f}" for look in looks))
    for error, count in sorted({**looks[-1]["failed"], **looks[-1]["probes"]}.items()):
        print(f"  {error:44}{count:10}")
    print(f"  {'log lines':44}{log:10}")


def check(looks: list[Look], kinds: list[Kind]) -> None:
    before, warm, after = looks
    assert after["descriptors"] == before["descriptors"]
    assert after["tasks"] == before["tasks"]
    assert after["resident"] - warm["resident"] < MOST_GROWTH
    assert after["accepted"] == before["accepted"] + len(kinds)
    served = sum(kind in {Peers.speaking, Peers.silent} for kind in kinds)
    assert after["completed"] == before["completed"] + served
    failed = sum(after["failed"].values()) + sum(after["probes"].values())
    assert failed == len(kinds) - served


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        trio.run(soak, int(sys.argv[1]) if len(sys.argv) > 1 else CONNECTIONS, Path(folder))
