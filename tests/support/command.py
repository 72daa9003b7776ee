"""The `trio-duplex` command in a process of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import trio

from tests.support.forked import ROOT, ForkedProcess, can_fork, fork

PYTHON = [sys.executable, "-W", "error"]
PROGRAM = ["-m", "trio_duplex"]
START = [*PYTHON, *PROGRAM]
PATIENCE = 120.0
"""Seconds for a line of the log to come: starting takes seconds when other suites run beside this one."""


class Command:
    """A running command.

    Attributes:
        process: The process.
        lines: What it has logged so far, one string a line.
    """

    def __init__(self, process: trio.Process | ForkedProcess) -> None:
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


async def start_command(
    *arguments: object,
    environ: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
    stderr: int | None = None,
    fresh: bool = False,
) -> trio.Process | ForkedProcess:
    """Start ``trio-duplex``: by a fork if that is no different, and else in a new Python.

    Args:
        arguments: Its command line.
        environ: More environment variables.
        prefix: A command that runs it, such as ``systemd-socket-activate -l 8443``.
        pass_fds: File descriptors that it inherits.
        cwd: Its working directory; ours by default.
        stdin: Its standard input; as for `subprocess.Popen`, and so are the two others.
        stdout: Its standard output.
        stderr: Its standard error.
        fresh: Start a new Python, because the test is about that, or about memory.
    """
    words = [*PROGRAM, *map(str, arguments)]
    whole = {**os.environ, **(environ or {})}
    if not prefix and not fresh and can_fork(whole):
        return fork(
            words,
            environ=whole,
            pass_fds=pass_fds,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
    if cwd is not None:
        whole["PYTHONPATH"] = str(ROOT)
    return await trio.lowlevel.open_process(
        [*prefix, *PYTHON, *words],
        env=whole,
        cwd=cwd,
        pass_fds=pass_fds,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
    )


async def complete_command(
    *arguments: object,
    stdin: bytes = b"",
    stdout: int = subprocess.PIPE,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    fresh: bool = False,
) -> subprocess.CompletedProcess[bytes]:
    """Run ``trio-duplex`` to its end, with these bytes on its standard input.

    The other arguments are those of `start_command`.
    """
    process = await start_command(
        *arguments,
        environ=environ,
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        fresh=fresh,
    )
    written: dict[int, bytes] = {}

    async def feed(pipe: trio.abc.SendStream) -> None:
        async with pipe:
            with contextlib.suppress(trio.BrokenResourceError):  # it does not want to know more
                await pipe.send_all(stdin)

    async def read(number: int, pipe: trio.abc.ReceiveStream) -> None:
        async with pipe:
            written[number] = b"".join([chunk async for chunk in pipe])

    with trio.fail_after(2 * PATIENCE):
        try:
            async with trio.open_nursery() as nursery:
                if process.stdin is not None:
                    nursery.start_soon(feed, process.stdin)
                if process.stdout is not None:
                    nursery.start_soon(read, 1, process.stdout)
                assert process.stderr is not None
                nursery.start_soon(read, 2, process.stderr)
            code = await process.wait()
        finally:
            with trio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.wait()
    line = list(map(str, arguments))
    return subprocess.CompletedProcess(line, code, written.get(1, b""), written[2])


def complete(
    *arguments: object,
    stdout: int = subprocess.PIPE,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """`complete_command` for tests that are not async, with text for bytes."""

    async def main() -> subprocess.CompletedProcess[bytes]:
        return await complete_command(
            *arguments, stdout=stdout, environ=environ, cwd=cwd, fresh=fresh
        )

    done = trio.run(main)
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@contextlib.asynccontextmanager
async def run_command(
    *arguments: object,
    environ: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
    fresh: bool = False,
) -> AsyncIterator[Command]:
    """Start ``trio-duplex`` with these arguments, and kill it in the end if need be.

    The arguments are those of `start_command`.
    """
    process = await start_command(
        *arguments,
        environ=environ,
        prefix=prefix,
        pass_fds=pass_fds,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        fresh=fresh,
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
