"""A server in a process of its own, for tests that fill, watch or stop a whole process.

``python child.py FOLDER OPTIONS`` serves an echo with the certificates of a folder that
`write_certificates` has filled. It says on stdout, one JSON object a line, where it listens and then,
for each line on stdin, how it is; at the end of stdin it stops. Its log goes to stderr.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import math
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import trio
import trustme

import trio_duplex

if TYPE_CHECKING:
    from tests.support.forked import ForkedProcess


class Options(TypedDict, total=False):
    """What `Child.start` may be told, each with its default.

    Attributes:
        descriptors: File descriptors that it may have; as many as the system allows.
        window: Seconds; 5.
        handshake_timeout: Seconds; 30.
    """

    descriptors: int
    window: float
    handshake_timeout: float


class Look(TypedDict):
    """How a child is.

    Attributes:
        descriptors: File descriptors that it has open.
        tasks: Its Trio tasks.
        resident: Bytes of memory.
        pending: Peers in their window or in line.
        handshaking: Handshakes under way.
        open: Connections with their handler.
        accepted: Connections so far.
        completed: Handshakes so far.
        failed: Negotiations that failed so far, by error.
        probes: Beside those, what looks like a health check so far, by kind.
    """

    descriptors: int
    tasks: int
    resident: int
    pending: int
    handshaking: int
    open: int
    accepted: int
    completed: int
    failed: dict[str, int]
    probes: dict[str, int]


def write_certificates(folder: Path, authority: trustme.CA) -> None:
    """Write what a child needs into a folder."""
    node = authority.issue_cert("child.example")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    node.private_key_and_cert_chain_pem.write_to_path(folder / "node.pem")


class Child:
    """A child, as the parent sees it.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        log: What it has logged, one string a line; complete once it has stopped.
    """

    port: int

    def __init__(self, process: trio.Process | ForkedProcess, log: Path) -> None:
        self._process = process
        self._log = log
        self._unread = b""

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, folder: Path, *, fresh: bool = False, **options: Unpack[Options]
    ) -> AsyncIterator[Child]:
        """Start a child, and have it stopped in the end.

        Args:
            folder: Where its certificates are.
            fresh: In a new Python, because its memory is measured.
            options: What it is told.
        """
        from tests.support.forked import can_fork, fork  # not in the child, which is a program

        log = folder / "log"
        words = [__file__, str(folder), json.dumps(options)]
        with log.open("wb") as stderr:
            process: trio.Process | ForkedProcess
            if can_fork(os.environ) and not fresh:
                process = fork(
                    words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr.fileno()
                )
            else:
                process = await trio.lowlevel.open_process(
                    [sys.executable, "-W", "error", *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                )
        child = cls(process, log)
        try:
            child.port = (await child._line())["port"]
            yield child
            assert process.stdin is not None
            await process.stdin.aclose()
            assert await process.wait() == 0, log.read_text()
        finally:
            with trio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        await trio.aclose_forcefully(pipe)

    async def look(self) -> Look:
        """Ask it how it is."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(b"look\n")
        look: Look = await self._line()
        return look

    async def _line(self) -> Any:
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            chunk = await self._process.stdout.receive_some()
            assert chunk, self.log
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    async def idle(self) -> Look:
        """Wait until it has no connection any more."""
        while True:
            look = await self.look()
            if not look["pending"] and not look["handshaking"] and not look["open"]:
                return look
            await trio.sleep(0.02)

    @property
    def log(self) -> list[str]:
        return self._log.read_text().splitlines()


# ------------------------------------------------------------------------------------------ the child


async def main(folder: Path, options: Options) -> None:
    credentials = trio_duplex.Credentials.mutual(
        certificate_chain=folder / "node.pem", trust=folder / "ca.pem"
    )
    if "descriptors" in options:
        most = options["descriptors"]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    statm = os.open("/proc/self/statm", os.O_RDONLY)
    stdin = trio.lowlevel.FdStream(os.dup(0))
    async with trio.open_nursery() as nursery:
        server: trio_duplex.Server = await nursery.start(
            partial(
                trio_duplex.serve_tcp,
                echo,
                0,
                credentials,
                host="127.0.0.1",
                # It is the machine that is to run out of room, and all peers have one address.
                limits=trio_duplex.Limits(connections=18_000, pending_per_address=math.inf),
                window=options.get("window", 5),
                handshake_timeout=options.get("handshake_timeout", 30),
            )
        )
        (address,) = server.addresses
        assert isinstance(address, tuple)
        print(json.dumps({"port": address[1]}), flush=True)
        async for asked in stdin:
            for _ in asked.splitlines():
                gc.collect()
                print(json.dumps(look(server, statm)), flush=True)
        server.cancel_scope.cancel()


async def echo(connection: trio_duplex.Connection) -> None:
    async for chunk in connection:
        await connection.send_all(chunk)


def look(server: trio_duplex.Server, statm: int) -> Look:
    statistics = server.statistics()
    return {
        "descriptors": sum(map(is_open, range(HIGHEST_DESCRIPTOR))),
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "resident": int(os.pread(statm, 100, 0).split()[1]) * resource.getpagesize(),
        "pending": statistics.pending,
        "handshaking": sum(statistics.handshaking.values()),
        "open": statistics.open,
        "accepted": statistics.accepted,
        "completed": sum(statistics.completed.values()),
        "failed": dict(statistics.failed),
        "probes": {str(probe): count for probe, count in statistics.probes.items()},
    }


def is_open(descriptor: int) -> bool:
    # Rather than to list /proc/self/fd, for which there may be no descriptor left.
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


HIGHEST_DESCRIPTOR = 2000
"""Nothing here has more connections than that at once."""


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    trio.run(main, Path(sys.argv[1]), json.loads(sys.argv[2]))
