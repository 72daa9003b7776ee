"""From dial to the listener's first byte, for peers that need not wait, beside speaking ones; and for first contacts.

The peers are bare TCP: what is measured is when the listener's first byte arrives. The pending
peers in the background are of a network of which a rule says that they always speak, so that
they wait without end and cost nothing else.
"""

from __future__ import annotations

import math
import os
import ssl
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import attrs
import trio

import trio_duplex
from benchmarks.pki import make_ends
from trio_duplex import windows

WINDOW = 1.0
"""Seconds that a first contact waits here; 5 would only make it take longer."""

ANNOUNCEMENT = bytes.fromhex("1503030002015a")
PENDING, FIRST, RULE = "127.1.0.0/16", "127.2.0.0/16", "127.3.0.1"
REMEMBERED, OTHER = "127.4.0.1", "127.5.0.1"
KINDS = ("speaking", "announced", "by rule", "remembered")


@attrs.frozen(kw_only=True)
class Times:
    """Seconds from dial to first byte.

    Attributes:
        pending: How many peers were pending.
        median: Of peers that need not wait, by kind.
        first: Beyond the window, of first contacts, at the 99th percentile.
    """

    pending: int
    median: dict[str, float]
    first: float

    def __str__(self) -> str:
        speaking = self.median["speaking"]
        lines = [f"{self.pending} pending; a speaking peer has its answer after {_ms(speaking)}"]
        for kind, goal in (("announced", 0.005), ("by rule", 0.005), ("remembered", 0.105)):
            beyond = self.median[kind] - (speaking if goal < 0.1 else 0.0)
            what = "later" if goal < 0.1 else "after the dial"
            lines.append(f"{kind}: {_ms(beyond)} {what} (goal {_ms(goal)})")
        lines.append(f"first contact: the window and {_ms(self.first)} at p99 (goal 20.0 ms)")
        return "\n".join(lines)


def percentile(values: Iterable[float], share: float) -> float:
    """Give the value that so large a share does not exceed; NaN for none."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else math.nan


def run(pending: int, dials: int) -> Times:
    """Serve in a process of its own, let peers dial, and sum up.

    Args:
        pending: How many peers wait in the background.
        dials: How often each kind of peer dials.
    """
    with tempfile.TemporaryDirectory() as folder:
        make_ends(folder, ["peer", "node"])
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                trio.run(_serve, folder, writing)
            finally:
                os._exit(1)
        try:
            port = int(os.read(reading, 16))
            return trio.run(_measure, folder, port, pending, dials)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(reading)
            os.close(writing)


def _credentials(folder: str, name: str) -> trio_duplex.Credentials:
    return trio_duplex.Credentials.mutual(
        certificate_chain=Path(folder, name), trust=Path(folder, "ca")
    )


async def _serve(folder: str, told: int) -> None:
    async def handler(connection: trio_duplex.Connection) -> None:
        await connection.receive_some()

    window = windows.ByNetwork(
        {PENDING: windows.SPEAKING, FIRST: WINDOW, RULE: windows.SILENT},
        otherwise=windows.PeerMemory(otherwise=WINDOW),
    )
    limits = trio_duplex.Limits(connections=18_000, pending=18_000, pending_per_address=math.inf)
    async with trio.open_nursery() as nursery:
        serve = partial(trio_duplex.serve_tcp, host="127.0.0.1", window=window, limits=limits)
        server: trio_duplex.Server = await nursery.start(
            serve, handler, 0, _credentials(folder, "node")
        )
        (address,) = server.addresses
        os.write(told, str(address[1]).encode())


async def _measure(folder: str, port: int, pending: int, dials: int) -> Times:
    credentials = _credentials(folder, "peer")
    hello = ssl.MemoryBIO()
    tls = credentials.client_context.wrap_bio(ssl.MemoryBIO(), hello)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    opening = hello.read()

    async def first_byte(host: str, say: bytes = b"") -> float:
        began = trio.current_time()
        stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=host)
        async with stream:
            if say:
                await stream.send_all(say)
            assert await stream.receive_some(1)
            return trio.current_time() - began

    waiting: list[trio.SocketStream] = []
    for number in range(pending):
        host = f"127.1.{number >> 8 & 255}.{number & 255}"
        waiting.append(await trio.open_tcp_stream("127.0.0.1", port, local_address=host))
    for _ in range(3):
        await (
            await trio_duplex.open_tcp_connection(
                "127.0.0.1",
                port,
                credentials,
                role=trio_duplex.Role.SERVER,
                local_host=REMEMBERED,
            )
        ).aclose()
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(dials):
        times["speaking"].append(await first_byte(OTHER, opening))
        times["announced"].append(await first_byte(OTHER, ANNOUNCEMENT))
        times["by rule"].append(await first_byte(RULE))
        times["remembered"].append(await first_byte(REMEMBERED))
    beyond: list[float] = []

    async def first_contact(number: int) -> None:
        await trio.sleep(0.01 * number)
        taken = await first_byte(f"127.2.{number >> 8 & 255}.{number & 255}")
        beyond.append(taken - WINDOW)

    async with trio.open_nursery() as nursery:
        for number in range(5 * dials):
            nursery.start_soon(first_contact, number)
    for stream in waiting:
        await trio.aclose_forcefully(stream)
    return Times(
        pending=pending,
        median={kind: percentile(taken, 0.5) for kind, taken in times.items()},
        first=percentile(beyond, 0.99),
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
