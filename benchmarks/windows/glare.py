"""Two ends that dial each other at the same moment: do all of them connect, and who plays which role?

The ends are two network namespaces with delay between them. Each pair opens TCP
simultaneously, as in hole punching: both SYNs cross, and then both ClientHellos. Some pairs
have a legacy end, which is plain ``trio.SSLStream`` and can't resolve a crossing.
"""

from __future__ import annotations

import json
import math
import os
import ssl
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import trio

import trio_duplex
from benchmarks.pki import make_ends
from benchmarks.windows.wire import DIALLER, LISTENER, wire

ENDS = (LISTENER, DIALLER)
FIRST_PORT = 20_000
PORTS = 20_000
PATIENCE = 30.0
"""Seconds after which an end counts as hanging."""

NEAR, CLIENT, SERVER = "ours", "legacy client", "legacy server"


@attrs.frozen(kw_only=True)
class Meetings:
    """What came of simultaneous dials.

    Attributes:
        pairs: Pairs whose two ends are ours.
        connected: Those that connected, and talked both ways in opposite roles.
        crossed: Those of them whose two ClientHellos crossed.
        near_client: Those of the crossed whose near end became the TLS client.
        uncrossed_near_client: Those of the others whose near end did.
        legacy: What our end came to opposite legacy ends, by their kind.
        hung: Ends that came to no end within 30 s, legacy ones included.
    """

    pairs: int
    connected: int
    crossed: int
    near_client: int
    uncrossed_near_client: int
    legacy: Mapping[str, Mapping[str, int]]
    hung: int

    @property
    def deviations(self) -> float:
        """How far from even the roles of crossed pairs are, in standard deviations of a fair coin."""
        if not self.crossed:
            return math.nan
        return (self.near_client - self.crossed / 2) / (math.sqrt(self.crossed) / 2)

    def __str__(self) -> str:
        lines = [
            f"{self.connected} of {self.pairs} pairs connected, in opposite roles; {self.hung} ends hung",
            (
                f"{self.crossed} crossed: one end became the TLS client in {self.near_client}, "
                f"{self.deviations:+.1f} standard deviations from even"
            ),
            (
                f"{self.connected - self.crossed} did not, because one end had the other's hello before it "
                f"spoke: the same end became the client in {self.uncrossed_near_client}"
            ),
        ]
        lines += [
            f"opposite a {kind}: "
            + ", ".join(f"{what} {count}" for what, count in sorted(found.items()))
            for kind, found in self.legacy.items()
        ]
        return "\n".join(lines)


def kind(number: int, legacy: float) -> str:
    """What the far end of a pair is; the same whichever end asks."""
    if legacy and number % round(2 / legacy) == 0:
        return CLIENT
    if legacy and number % round(2 / legacy) == 1:
        return SERVER
    return NEAR


def run(pairs: int, *, round_trip: float, loss: float, legacy: float, pause: float) -> Meetings:
    """Let pairs meet, and sum up.

    Args:
        pairs: How many, up to 20,000.
        round_trip: Seconds.
        loss: The rate at which packets are lost, each way.
        legacy: The share of pairs with a legacy end, half of them clients.
        pause: Seconds from one pair to the next.
    """
    with tempfile.TemporaryDirectory() as folder, wire(round_trip, loss) as path:
        make_ends(folder, ENDS)
        plan = _Plan(pairs=pairs, legacy=legacy, begin=time.monotonic() + 2, pause=pause)
        numbers = [path.run(end, trio.run, _live, folder, end, plan) for end in ENDS]
        for number in numbers:
            os.waitpid(number, 0)
        near, far = ([*_told(Path(folder, f"{end}.told"))] for end in ENDS)
    return sum_up(dict(near), dict(far), pairs, legacy)


def sum_up(
    near: Mapping[int, Mapping[str, Any]],
    far: Mapping[int, Mapping[str, Any]],
    pairs: int,
    legacy: float,
) -> Meetings:
    """Sum up what the two ends of each pair have told, by its number."""
    nothing = {"what": "nothing", "crossed": False}
    counts: Counter[str] = Counter()
    opposite: dict[str, Counter[str]] = {CLIENT: Counter(), SERVER: Counter()} if legacy else {}
    for number in range(pairs):
        here, there = near.get(number, nothing), far.get(number, nothing)
        counts["hung"] += [here["what"], there["what"]].count("hung")
        match kind(number, legacy):
            case str(name) if name is not NEAR:
                opposite[name][str(here["what"])] += 1
                continue
            case _:
                pass
        counts["pairs"] += 1
        if {here["what"], there["what"]} != {"client", "server"}:
            continue
        counts["connected"] += 1
        group = "crossed" if here["crossed"] and there["crossed"] else "uncrossed"
        counts[group] += 1
        counts[f"{group} near client"] += here["what"] == "client"
    return Meetings(
        pairs=counts["pairs"],
        connected=counts["connected"],
        crossed=counts["crossed"],
        near_client=counts["crossed near client"],
        uncrossed_near_client=counts["uncrossed near client"],
        legacy=opposite,
        hung=counts["hung"],
    )


def _told(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield row["number"], row


@attrs.frozen(kw_only=True)
class _Plan:
    """When the pairs meet: the same for both ends."""

    pairs: int
    legacy: float
    begin: float
    pause: float


async def _live(folder: str, end: str, plan: _Plan) -> None:
    """Be one end of all pairs."""
    credentials = trio_duplex.Credentials.mutual(
        certificate_chain=Path(folder, end), trust=Path(folder, "ca")
    )
    contexts = {CLIENT: credentials.client_context, SERVER: credentials.server_context}
    remote = ENDS[1 - ENDS.index(end)]

    with Path(folder, f"{end}.told").open("w", encoding="utf-8", buffering=1) as lines:  # noqa: ASYNC230

        async def one(number: int) -> None:
            row: dict[str, Any] = {"number": number, "what": "hung", "crossed": False}
            played = kind(number, plan.legacy) if end == ENDS[1] else NEAR
            with trio.move_on_after(PATIENCE):
                port = FIRST_PORT + number % PORTS
                stream = await open_simultaneously((end, port), (remote, port))
                try:
                    if played is NEAR:
                        connection = await trio_duplex.negotiate(
                            stream, credentials, window=0, dialled=True
                        )
                        async with connection:
                            await _talk(connection)
                        row["crossed"] = bool(connection.decision.rule)
                        row["what"] = str(connection.role)
                    else:
                        async with stream:
                            await _talk(
                                trio.SSLStream(
                                    stream, contexts[played], server_side=played is SERVER
                                )
                            )
                        row["what"] = played
                except (trio_duplex.DuplexError, trio.BrokenResourceError, ssl.SSLError) as exc:
                    row["what"] = type(exc).__name__
            lines.write(json.dumps(row) + "\n")

        async with trio.open_nursery() as nursery:
            for number in range(plan.pairs):
                await trio.sleep(max(0.0, plan.begin + number * plan.pause - time.monotonic()))
                nursery.start_soon(one, number)


async def open_simultaneously(local: tuple[str, int], remote: tuple[str, int]) -> trio.SocketStream:
    """Dial a peer that dials us: again, until both SYNs are on the way at once."""
    while True:
        socket = trio.socket.socket()
        try:
            socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
            await socket.bind(local)
            await socket.connect(remote)
        except OSError:
            socket.close()
            await trio.sleep(0.02)
        except BaseException:
            socket.close()
            raise
        else:
            return trio.SocketStream(socket)


async def _talk(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"x")
    if await stream.receive_some(1) != b"x":
        raise trio.BrokenResourceError
