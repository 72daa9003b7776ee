"""The `trio-duplex` command in a process of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence

import trio

START = [sys.executable, "-W", "error", "-m", "trio_duplex"]
PATIENCE = 120.0
"""Seconds for a line of the log to come: starting takes seconds when other suites run beside this one."""


class Command:
    """A running command.

    Attributes:
        process: The process.
        lines: What it has logged so far, one string a line.
    """

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._ended = False
        self._more = trio.Event()

    async def read(self) -> None:
        """Read its log to the end."""
        assert self.process.stderr is not None
        unread = b""
        async for chunk in self.process.stderr:
            *lines, unread = (unread + chunk).split(b"\n")
            self.lines += [line.decode() for line in lines]
            self._more.set()
            self._more = trio.Event()
        self.lines += [unread.decode()] if unread else []
        self._ended = True
        self._more.set()

    async def line(self, *words: str, count: int = 1) -> str:
        """Wait for the log's line with all these words in it, or for the ``count``-th of its kind."""
        with trio.move_on_after(PATIENCE):
            # To the end of the log, which is read after that of the process.
            while len(self.find(*words)) < count and not self._ended:
                await self._more.wait()
        if len(found := self.find(*words)) >= count:
            return found[count - 1]
        raise AssertionError("\n".join([f"no line with {words}:", *self.lines]))

    def find(self, *words: str) -> list[str]:
        """The lines with all these words in them."""
        return [line for line in self.lines if all(word in line for word in words)]

    async def addresses(self, count: int = 1) -> list[tuple[str, int]]:
        """Where it listens: its first ``count`` addresses, in the order of the command line."""
        await self.line("listening", count=count)
        found: list[tuple[str, int]] = []
        for line in self.find("listening"):
            match = re.search(r'address="?\[?([^\]\s"]+)\]?:(\d+)', line)
            assert match is not None, line
            found.append((match[1], int(match[2])))
        return found

    async def stop(self) -> int:
        """Have it drain; give the exit code."""
        if self.process.returncode is None:
            self.process.terminate()
        return await self.process.wait()


@contextlib.asynccontextmanager
async def run_command(
    *arguments: object,
    environ: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
) -> AsyncIterator[Command]:
    """Start ``trio-duplex`` with these arguments, and kill it in the end if need be.

    Args:
        arguments: Its command line.
        environ: More environment variables.
        prefix: A command that runs it, such as ``systemd-socket-activate -l 8443``.
        pass_fds: File descriptors that it inherits.
        stdin: Its standard input.
        stdout: Its standard output.
    """
    process = await trio.lowlevel.open_process(
        [*prefix, *START, *map(str, arguments)],
        env={**os.environ, **(environ or {})},
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
    )
    command = Command(process)
    with trio.fail_after(3 * PATIENCE):  # a test that hangs fails, and leaves no process behind
        async with trio.open_nursery() as nursery:
            nursery.start_soon(command.read)
            try:
                yield command
            finally:
                with trio.CancelScope(shield=True):
                    if process.returncode is None:
                        process.kill()
                    await process.wait()
