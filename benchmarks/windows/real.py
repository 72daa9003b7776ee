"""Known silent peers and speaking peers over a real path with delay and loss, against the model.

Silent peers dial from one address and, after three connections, are known to a
`PeerMemory`; speaking peers dial from the same machine with another key. Each connection is a
real TCP connection and a real handshake.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from pathlib import Path

import attrs
import trio
import trustme

import trio_duplex
from benchmarks.windows.wire import DIALLER, LISTENER, wire
from trio_duplex import events, windows

PORT = 8443
KINDS = {"silent": trio_duplex.Role.SERVER, "speaking": trio_duplex.Role.CLIENT}


@attrs.frozen(kw_only=True)
class Measured:
    """What came of the connections of one run.

    Attributes:
        round_trip: Seconds, as set.
        loss: As set.
        silent_median: Median seconds from accept to decision for known silent peers.
        bound: 4.5 round trips and 0.1 s: the goal for that median.
        wrong: Speaking peers that got the wrong role, after the first ten.
        speaking: Speaking connections after the first ten.
        failed: Connections that failed otherwise.
    """

    round_trip: float
    loss: float
    silent_median: float
    bound: float
    wrong: int
    speaking: int
    failed: int

    def __str__(self) -> str:
        return (
            f"round trip {1000 * self.round_trip:.0f} ms, loss {100 * self.loss:g} %: known silent peers "
            f"wait {self.silent_median:.3f} s in the median (goal {self.bound:.3f}); "
            f"{self.wrong} of {self.speaking} speaking peers got the wrong role; "
            f"{self.failed} connections failed otherwise"
        )


def run(round_trip: float, loss: float, connections: int) -> Measured:
    """Make the path, let peers dial over it, and sum up.

    Args:
        round_trip: Seconds.
        loss: The rate at which packets are lost, each way.
        connections: How many of each kind.
    """
    with tempfile.TemporaryDirectory() as folder, wire(round_trip, loss) as path:
        authority = trustme.CA()
        for kind in (*KINDS, "node"):
            authority.issue_cert(f"{kind}.example").private_key_and_cert_chain_pem.write_to_path(
                os.fspath(Path(folder, kind))
            )
        authority.cert_pem.write_to_path(os.fspath(Path(folder, "ca")))
        listener = path.run(LISTENER, trio.run, _listen, folder)
        diallers = [path.run(DIALLER, trio.run, _dial, folder, kind, connections) for kind in KINDS]
        for dialler in diallers:
            os.waitpid(dialler, 0)
        os.kill(listener, 15)
        os.waitpid(listener, 0)
        told = [json.loads(line) for line in Path(folder, "told").read_text().splitlines()]
    # What a peer of this kind was decided for; who fails has no identity, and is known by the reason.
    silent = [each["waited"] for each in told if each["reason"] == "remembered"]
    spoke = [each for each in told if each["what"] == "spoke"]
    wrong = sum(each["what"] == "glare" for each in told)
    return Measured(
        round_trip=round_trip,
        loss=loss,
        silent_median=statistics.median(silent) if silent else float("nan"),
        bound=4.5 * round_trip + 0.1,
        wrong=wrong,
        speaking=len(spoke) + wrong,
        failed=sum(each["what"] == "failed" for each in told),
    )


def _credentials(folder: str, name: str) -> trio_duplex.Credentials:
    return trio_duplex.Credentials.mutual(
        certificate_chain=Path(folder, name), trust=Path(folder, "ca")
    )


async def _listen(folder: str) -> None:
    """Serve until killed, with a memory whose key is the peer's port: even for silent peers."""
    told = Path(folder, "told")

    def tell(event: events.Event) -> None:
        match event:
            case events.HandshakeCompleted(connection=connection):
                decision = connection.decision
                what = "spoke" if decision.role is trio_duplex.Role.SERVER else "silent"
                row = {"what": what, "reason": str(decision.reason), "waited": decision.waited}
            case events.NegotiationFailed(error=error):
                glare = isinstance(error, trio_duplex.GlareError)
                row = {"what": "glare" if glare else "failed", "reason": "", "waited": 0.0}
            case _:
                return
        with told.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")

    def key(facts: windows.PeerFacts) -> str | None:
        # Both kinds dial from one address here; their ports tell them apart.
        address = facts.remote_address
        return f"{address[1] % 2}" if isinstance(address, tuple) else None

    async def handler(connection: trio_duplex.Connection) -> None:
        await connection.send_all(b"!")

    await trio_duplex.serve_tcp(
        handler,
        PORT,
        _credentials(folder, "node"),
        host=LISTENER,
        window=windows.PeerMemory(key=key),  # type: ignore[arg-type, unused-ignore]
        observers=[tell],
    )


async def _dial(folder: str, kind: str, connections: int) -> None:
    """Dial so many times, ten at once, from ports that tell the kind."""
    credentials, limiter = _credentials(folder, kind), trio.CapacityLimiter(10)

    async def once(port: int) -> None:
        async with limiter:
            try:
                socket = trio.socket.socket()
                socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
                await socket.bind((DIALLER, port))
                await socket.connect((LISTENER, PORT))
                connection = await trio_duplex.negotiate(
                    trio.SocketStream(socket), credentials, role=KINDS[kind]
                )
                async with connection:
                    await connection.receive_some()
            except (OSError, trio_duplex.DuplexError, trio.BrokenResourceError):
                pass  # the listener tells what it was

    await trio.sleep(0.5)  # until the listener is there
    first = 20_000 + (kind == "speaking")
    for number in range(4):  # to be known first, one after the other
        await once(first + 2 * number)
    async with trio.open_nursery() as nursery:
        for number in range(4, connections):
            nursery.start_soon(once, first + 2 * number)
