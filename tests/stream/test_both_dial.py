"""Two ends that both dial, through a relay or each other, without roles: `docs/examples/both_dial.py`."""

from __future__ import annotations

import json
import os
import runpy
import ssl
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from tests.support.authority import AUTHORITY
from tests.support.peers import NODE, credentials, each_version, receive_exactly
from tests.support.tools import require_tool
from trio_duplex import Connection, Role

pytestmark = pytest.mark.slow


EXAMPLE = Path(__file__).parents[2] / "docs/examples/both_dial.py"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


async def talk(ends: list[Connection]) -> None:
    assert {end.role for end in ends} == set(Role)
    for here, there in (ends, reversed(ends)):
        await here.send_all(b"hello")
        assert await receive_exactly(there, 5) == b"hello"
    for end in ends:
        await end.aclose()


@each_version
async def test_meet_at_a_relay(version: ssl.TLSVersion, example: dict[str, Any]) -> None:
    """Whichever comes first, and whether the hellos cross or not."""
    ours = credentials(version)
    with trio.fail_after(120):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        address = listener.socket.getsockname()
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(example["relay"], listener)
            for passes in (0, 0, 0, 1, 3, 10, 30):
                ends: list[Connection] = []

                async def meet(passes: int, ends: list[Connection] = ends) -> None:
                    for _ in range(passes):  # of the scheduler: the other one may come first
                        await trio.lowlevel.checkpoint()
                    ends.append(await example["meet_at_relay"](*address, ours))

                async with trio.open_nursery() as meeting:
                    meeting.start_soon(meet, 0)
                    meeting.start_soon(meet, passes)
                await talk(ends)
            nursery.cancel_scope.cancel()


HALFWAY = """
import json, os, runpy, ssl, sys, time, trio, trio_duplex
from pathlib import Path
from benchmarks.windows.wire import DIALLER, LISTENER, wire

example, version, folder = runpy.run_path(sys.argv[1]), ssl.TLSVersion[sys.argv[2]], Path(sys.argv[3])

async def meet(here, there):
    credentials = trio_duplex.Credentials.mutual(
        certificate_chain=folder / "node", trust=folder / "ca", allow_self=True
    )
    for context in (credentials.client_context, credentials.server_context):
        context.minimum_version = context.maximum_version = version
    told = []
    for port in range(20000, 20004):
        connection = await example["meet_halfway"]((here, port), (there, port), credentials)
        async with connection:
            await connection.send_all(b"hello")
            assert await connection.receive_some(5) == b"hello"
            # Both have said all that they have to say before either hangs up.
            await connection.send_all(b".")
            assert await connection.receive_some(1) == b"."
        told.append([str(connection.role), bool(connection.decision.rule)])
    (folder / here).write_text(json.dumps(told))

with wire(0.1, 0.0) as path:
    ends = [(LISTENER, DIALLER), (DIALLER, LISTENER)]
    for pid in [path.run(end[0], trio.run, meet, *end) for end in ends]:
        os.waitpid(pid, 0)
print(json.dumps([json.loads((folder / end[0]).read_text()) for end in ends]))
"""


def in_own_namespaces() -> list[str]:
    """What goes before a command that makes network namespaces; skips where none can be made."""
    if sys.platform != "linux" or not Path("/dev/net/tun").exists():
        pytest.skip("network namespaces and TUN devices are Linux's")
    if os.geteuid() == 0:
        return []
    return [require_tool("unshare"), "--user", "--map-root-user", "--net"]


@each_version
def test_meet_halfway_over_a_wire_with_delay(version: ssl.TLSVersion, tmp_path: Path) -> None:
    """TCP opened simultaneously: loopback has no delay in which two SYNs could cross."""
    prefix = in_own_namespaces()
    AUTHORITY.cert_pem.write_to_path(str(tmp_path / "ca"))
    NODE.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "node"))
    done = subprocess.run(
        [*prefix, sys.executable, "-c", HALFWAY, str(EXAMPLE), version.name, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if "Permission denied" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("no permission to make network namespaces")  # in a container, for example
    assert done.returncode == 0, done.stderr
    here, there = cast("list[list[tuple[str, bool]]]", json.loads(done.stdout))
    assert all(
        {one[0], other[0]} == {"client", "server"} for one, other in zip(here, there, strict=True)
    )
    assert Counter(crossed for _, crossed in here)[True] >= 1  # or nothing was shown
