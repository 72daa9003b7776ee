"""Known silent peers, speaking peers and peers that change over a real path with delay and loss, beside the model.

Each peer has an address of its own and makes its connections one after the other; many
peers do so at once. Each connection is a real TCP connection and a real handshake, and the
listener has the `PeerMemory` that users have. The same peers are then played through the model,
so that a reader can hold one against the other.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import trio

import trio_duplex
from benchmarks.pki import make_ends
from benchmarks.windows.model import World, first_byte_delay, measured_round_trip, retransmission
from benchmarks.windows.wire import DIALLER, DIALLERS, LISTENER, wire
from trio_duplex import events, windows

PORT = 8443
KINDS = ("silent", "speaking", "changing")
TURN = 10
"""Connections after which a changing peer changes."""


@attrs.frozen
class Seen:
    """One connection, as the listener saw it.

    Attributes:
        what: ``spoke``, ``silent``, ``late`` for a speaking peer that was given the wrong role,
            or ``failed`` for whatever else failed.
        waited: Seconds from accept to the decision.
    """

    what: str
    waited: float


@attrs.frozen(kw_only=True)
class Measured:
    """What came of the connections of one run.

    Attributes:
        silent_median: Median seconds from accept to decision for known silent peers.
        full: The share of them that waited a full window, because the path had just lost the
            SYN-ACK, or its answer.
        wrong_speaking: Connections of peers that always speak that got the wrong role.
        wrong_changing: Connections of changing peers that did.
        worst: The most wrong roles of one changing peer.
        changes: How often a changing peer changed from silent to speaking.
        lost: The share of speaking connections whose first ClientHello was lost.
        again: The median of how late it then came, in retransmission timeouts.
        failed: Connections that failed otherwise.
    """

    silent_median: float
    full: float
    wrong_speaking: int
    wrong_changing: int
    worst: int
    changes: int
    lost: float
    again: float
    failed: int


@attrs.frozen(kw_only=True)
class Comparison:
    """A path, and what came of it in fact and by the model.

    Attributes:
        round_trip: Seconds, as set.
        loss: As set.
        real: What was measured.
        model: The same peers in the model.
    """

    round_trip: float
    loss: float
    real: Measured
    model: Measured

    @property
    def bound(self) -> float:
        """The goal for the median wait of known silent peers, in seconds."""
        return 4.5 * self.round_trip + 0.1


def speaks(kind: str, number: int) -> bool:
    """Whether a peer of a kind speaks first on its connection of that number."""
    return kind == "speaking" or (kind == "changing" and number // TURN % 2 == 1)


def host(kind: str, peer: int) -> str:
    """The address of a peer."""
    return str(DIALLERS[256 * KINDS.index(kind) + 1 + peer])


def run(round_trip: float, loss: float, connections: int, peers: int, rate: float) -> Comparison:
    """Make the path, let peers dial over it, and sum up.

    Args:
        round_trip: Seconds.
        loss: The rate at which packets are lost, each way.
        connections: How many of each kind.
        peers: How many peers of each kind make them, up to 250.
        rate: Connections a second, all kinds together, at most. It is the path that is to
            be measured, and not a machine that has too much to do.
    """
    each = connections // peers
    with tempfile.TemporaryDirectory() as folder, wire(round_trip, loss) as path:
        make_ends(folder, ["peer", "node"])
        listener = path.run(LISTENER, trio.run, _listen, folder)
        dialler = path.run(DIALLER, trio.run, _dial, folder, peers, each, 3 * peers / rate)
        os.waitpid(dialler, 0)
        os.kill(listener, 15)
        os.waitpid(listener, 0)
        seen: dict[str, list[Seen]] = {}
        for line in Path(folder, "seen").read_text(encoding="utf-8").splitlines():
            address, what, waited = json.loads(line)
            seen.setdefault(address, []).append(Seen(what, waited))
    return Comparison(
        round_trip=round_trip,
        loss=loss,
        real=sum_up(seen, peers, round_trip),
        model=sum_up(
            play(World(loss=loss, starved=0.0), round_trip, peers, each), peers, round_trip
        ),
    )


def play(world: World, round_trip: float, peers: int, each: int) -> dict[str, list[Seen]]:
    """Let the same peers connect in the model."""
    rng, memory = random.Random(world.seed), windows.PeerMemory()
    seen: dict[str, list[Seen]] = {}
    for kind in KINDS:
        for peer in range(peers):
            mine = seen.setdefault(host(kind, peer), [])
            for number in range(each):
                facts = windows.PeerFacts(
                    remote_address=(host(kind, peer), 40_000),
                    round_trip=measured_round_trip(rng, world, round_trip),
                )
                choice = memory.choose(facts)
                assert isinstance(choice, windows.Choice)
                conduct, waited = windows.Conduct.SILENT, choice.seconds
                if speaks(kind, number):
                    delay = first_byte_delay(rng, world, round_trip)
                    late = delay > choice.seconds
                    conduct = windows.Conduct.LATE if late else windows.Conduct.SPOKE
                    waited = min(delay, choice.seconds)
                admitted = conduct is not windows.Conduct.LATE
                memory.learn(
                    facts, windows.Outcome(conduct=conduct, admitted=admitted, waited=waited)
                )
                mine.append(Seen(conduct.value, waited))
    return seen


def sum_up(seen: Mapping[str, Sequence[Seen]], peers: int, round_trip: float) -> Measured:
    """Sum up what the listener saw of each address."""
    by_kind = {kind: [seen.get(host(kind, peer), ()) for peer in range(peers)] for kind in KINDS}
    # The first three earn it; one that failed was no silence.
    known = [
        each.waited
        for mine in by_kind["silent"]
        for each in [each for each in mine if each.what == "silent"][3:]
    ]
    waits = [each.waited for each in _flat(by_kind["speaking"]) if each.what != "failed"]
    timeout = retransmission(round_trip)
    lost = [waited for waited in waits if waited > 0.75 * timeout]
    wrong = [Counter(each.what for each in mine)["late"] for mine in by_kind["changing"]]
    turns = max(len(mine) for mine in by_kind["changing"]) // TURN
    return Measured(
        silent_median=statistics.median(known) if known else math.nan,
        full=sum(waited >= 5.0 for waited in known) / len(known) if known else math.nan,
        wrong_speaking=sum(each.what == "late" for each in _flat(by_kind["speaking"])),
        wrong_changing=sum(wrong),
        worst=max(wrong),
        changes=peers * (turns // 2),
        lost=len(lost) / len(waits) if waits else math.nan,
        again=statistics.median(lost) / timeout if lost else math.nan,
        failed=sum(each.what == "failed" for mine in seen.values() for each in mine),
    )


def table(comparisons: Iterable[Comparison]) -> str:
    """Write what was measured beside the model, as a Markdown table."""
    lines = [
        (
            "| round trip | | known silent peers wait | goal | a full window | wrong roles: of speaking peers "
            "| of changing ones (changes), most for one | hellos lost | came again after |"
        ),
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in comparisons:
        for name, found in (("measured", each.real), ("model", each.model)):
            lines.append(
                f"| {1000 * each.round_trip:.0f} ms | {name} | {found.silent_median:.3f} s "
                f"| {each.bound:.2f} s | {100 * found.full:.1f} % | {found.wrong_speaking} "
                f"| {found.wrong_changing} ({found.changes}), {found.worst} "
                f"| {100 * found.lost:.1f} % | {found.again:.2f} timeouts |"
            )
        if each.real.failed:
            lines.append(f"\n{each.real.failed} connections failed otherwise.\n")
    return "\n".join(lines)


def _flat(many: Iterable[Sequence[Seen]]) -> Iterator[Seen]:
    return (each for one in many for each in one)


def _credentials(folder: str, name: str) -> trio_duplex.Credentials:
    return trio_duplex.Credentials.mutual(
        certificate_chain=Path(folder, name), trust=Path(folder, "ca")
    )


async def _listen(folder: str) -> None:
    """Serve until killed, with a memory of peers, and write down what became of each connection."""
    waited: dict[int, float] = {}
    with Path(folder, "seen").open("a", encoding="utf-8", buffering=1) as lines:  # noqa: ASYNC230

        def tell(peer: str | None, what: str, seconds: float) -> None:
            address = str(peer).rpartition(":")[0]
            lines.write(json.dumps([address, what, seconds]) + "\n")

        def observe(event: events.Event) -> None:
            match event:
                case events.RoleDecided(number=number, decision=decision):
                    waited[number] = decision.waited
                case events.HandshakeCompleted(peer=peer, number=number, connection=connection):
                    server = connection.role is trio_duplex.Role.SERVER
                    tell(peer, "spoke" if server else "silent", waited.pop(number))
                case events.NegotiationFailed(peer=peer, number=number, error=error):
                    glare = isinstance(error, trio_duplex.GlareError)
                    tell(peer, "late" if glare else "failed", waited.pop(number, 0.0))
                case _:
                    pass

        async def handler(connection: trio_duplex.Connection) -> None:
            await connection.send_all(b"!")

        await trio_duplex.serve_tcp(
            handler,
            PORT,
            _credentials(folder, "node"),
            host=LISTENER,
            window=windows.PeerMemory(),
            observers=[observe],
        )


async def _dial(folder: str, peers: int, each: int, pause: float) -> None:
    """Let all peers dial, each from its address and one connection after the other."""
    credentials, rng = _credentials(folder, "peer"), random.Random(0)

    async def live(kind: str, peer: int) -> None:
        for number in range(each):
            await trio.sleep(rng.uniform(0, 2 * pause))
            role = trio_duplex.Role.CLIENT if speaks(kind, number) else trio_duplex.Role.SERVER
            try:
                connection = await trio_duplex.open_tcp_connection(
                    LISTENER, PORT, credentials, role=role, local_host=host(kind, peer)
                )
                async with connection:
                    await connection.receive_some()
            except (OSError, trio_duplex.DuplexError, trio.BrokenResourceError):
                pass  # the listener tells what it was

    await trio.sleep(0.5)  # until the listener is there
    async with trio.open_nursery() as nursery:
        for kind in KINDS:
            for peer in range(peers):
                nursery.start_soon(live, kind, peer)
