"""Attackers, and honest peers beside them: one kind in one process, which tells in a line of JSON how it went.

``python -m benchmarks.fairness_peers KIND FOLDER PORT OPTIONS``, the options as JSON. All dial
127.0.0.1; what differs is where from, because fairness goes by address, and 127/8 has many.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import trio

from benchmarks import pki
from benchmarks.processes import raise_file_limit

IP_BIND_ADDRESS_NO_PORT = 24
"""Linux: choose the port when dialling, when the far end is known."""

GIVE_UP = 20.0
"""Seconds after which an honest peer counts as one that did not get in."""

Contexts = dict[str, ssl.SSLContext]


async def dial(port: int, source: str) -> trio.SocketStream:
    """Open a TCP connection from a loopback address."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    await sock.bind((source, 0))
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


async def ticks(rate: float, seconds: float) -> AsyncIterator[int]:
    """Count, ``rate`` times a second, for so long."""
    start = trio.current_time()
    for number in range(int(rate * seconds)):
        await trio.sleep_until(start + number / rate)
        yield number


# ----------------------------------------------------------------------------- attackers


@attrs.define
class Attack:
    """Dial at a rate, from a number of addresses, and never take part.

    Attributes:
        answer: What to send once the server has greeted; nothing if empty.
    """

    port: int
    rate: float
    seconds: float
    addresses: int
    answer: bytes = b""
    dials: int = 0
    sent: int = 0
    held: int = 0
    most: int = 0

    async def run(self) -> dict[str, float]:
        """Attack, and tell what was spent."""
        async with trio.open_nursery() as nursery:
            async for number in ticks(self.rate, self.seconds):
                nursery.start_soon(self.one, f"127.0.1.{1 + number % self.addresses}")
            nursery.cancel_scope.cancel()
        return {
            "dials": self.dials / self.seconds,
            "bytes": self.sent / self.seconds,
            "held": self.most,
        }

    async def one(self, source: str) -> None:
        """Dial once, and stay until the server hangs up."""
        try:
            async with await dial(self.port, source) as stream:
                self.dials += 1
                self.held += 1
                self.most = max(self.most, self.held)
                try:
                    while await stream.receive_some(4096):
                        await stream.send_all(self.answer)
                        self.sent += len(self.answer)
                finally:
                    self.held -= 1
        except (OSError, trio.BrokenResourceError):
            pass


async def attack(port: int, _: Contexts, **options: Any) -> dict[str, float]:  # noqa: ANN401 - from JSON
    options["answer"] = bytes.fromhex(options.get("answer", ""))
    return await Attack(port, **options).run()


# ----------------------------------------------------------------------------- honest peers


@attrs.define
class Honest:
    """Silent and speaking peers that come at a steady rate, each from an address of its own."""

    port: int
    contexts: Contexts
    seconds: float
    rate: float
    took: dict[str, list[float]] = attrs.field(factory=lambda: {"client": [], "server": []})
    failed: dict[str, int] = attrs.field(factory=lambda: {"client": 0, "server": 0})

    async def run(self) -> dict[str, object]:
        """Come, and tell who got in, and how long that took."""
        async with trio.open_nursery() as nursery:
            async for number in ticks(self.rate, self.seconds):
                for role in ("client", "server"):
                    nursery.start_soon(self.one, role, f"127.0.2.{1 + number % 250}")
        return {"took": self.took, "failed": self.failed}

    async def one(self, role: str, source: str) -> None:
        """Dial once, and try to get in."""
        began = trio.current_time()
        with trio.move_on_after(GIVE_UP):
            try:
                async with await dial(self.port, source) as stream:
                    await meet(stream, self.contexts[role], role)
                    self.took[role].append(trio.current_time() - began)
                    return
            except (OSError, trio.BrokenResourceError, ssl.SSLError):
                pass
        self.failed[role] += 1


async def meet(stream: trio.abc.Stream, context: ssl.SSLContext, role: str) -> None:
    """Shake hands, and wait for an echo: then the peer is in."""
    tls = trio.SSLStream(stream, context, server_side=role == "server")
    await tls.send_all(b"x")
    if not await tls.receive_some(1):
        raise trio.BrokenResourceError("hung up")


async def honest(port: int, contexts: Contexts, **options: Any) -> dict[str, object]:  # noqa: ANN401 - from JSON
    return await Honest(port, contexts, **options).run()


# ----------------------------------------------------------------------------- fleets


class Slow(trio.abc.Stream):
    """A device that takes a time to answer the first that it hears."""

    def __init__(self, stream: trio.abc.Stream, delay: float) -> None:
        self.stream, self.delay = stream, delay

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As ``trio.abc.Stream`` has it."""
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As ``trio.abc.Stream`` has it."""
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As ``trio.abc.Stream`` has it."""
        data = await self.stream.receive_some(max_bytes)
        delay, self.delay = self.delay, 0
        if data and delay:
            await trio.sleep(delay)
        return data

    async def aclose(self) -> None:
        """As ``trio.abc.Stream`` has it."""
        await self.stream.aclose()


@attrs.define
class Fleet:
    """Devices that all come within three seconds, and redial until they are in."""

    port: int
    contexts: Contexts
    role: str
    devices: int
    delay: float
    backoff: float
    seconds: float
    dials: int = 0
    served: int = 0
    done: trio.Event = attrs.field(factory=trio.Event)

    async def run(self) -> dict[str, float]:
        """Come, and tell when all were served."""
        began = trio.current_time()
        with trio.move_on_after(self.seconds):
            async with trio.open_nursery() as nursery:
                for number in range(self.devices):
                    nursery.start_soon(self.device, number)
                await self.done.wait()
                nursery.cancel_scope.cancel()
        return {
            "served": self.served,
            "dials": self.dials,
            "seconds": trio.current_time() - began,
        }

    async def device(self, number: int) -> None:
        """Dial until it is in."""
        await trio.sleep(3 * number / self.devices)
        source = f"127.0.{3 + number // 250}.{1 + number % 250}"
        while True:
            self.dials += 1
            try:
                async with await dial(self.port, source) as stream:
                    await meet(Slow(stream, self.delay), self.contexts[self.role], self.role)
                    self.served += 1
                    if self.served == self.devices:
                        self.done.set()
                    return
            except (OSError, trio.BrokenResourceError, ssl.SSLError):
                await trio.sleep(self.backoff)


async def fleet(port: int, contexts: Contexts, **options: Any) -> dict[str, float]:  # noqa: ANN401 - from JSON
    return await Fleet(port, contexts, **options).run()


KINDS: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
    "attack": attack,
    "honest": honest,
    "fleet": fleet,
}


def main() -> None:
    """Play one kind."""
    kind, folder, port, options = sys.argv[1:]
    raise_file_limit()
    contexts = {
        role: pki.context(Path(folder), server=role == "server", mutual=False, tickets=0)
        for role in ("client", "server")
    }

    async def play() -> dict[str, Any]:
        return await KINDS[kind](int(port), contexts, **json.loads(options))

    result = trio.run(play)
    print(json.dumps({**result, "cpu": time.process_time()}), flush=True)


if __name__ == "__main__":
    main()
