"""One program beside one connection: its input, its output, its errors, and its end."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence

import trio

from trio_duplex import Connection

PIECE = 64 * 1024
"""Bytes at once in each direction; also the size of Linux's pipes."""

PIPE_GRACE = 1.0
"""Seconds after a program's exit in which its pipes must come to their end: what
is in them is there at once, and only a child that it left behind holds them open."""

EXIT_PATIENCE = 1.0
"""Seconds in which a program that has closed its output must exit, or it only half-closes."""

LONGEST_LINE = 4096
"""Bytes of a line that a program writes to stderr; a longer one is told in pieces."""


async def run_program(
    connection: Connection,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    eof_grace: float,
    term_grace: Callable[[], float],
    tell: Callable[[str], object],
) -> tuple[int, bool]:
    """Start a program with a connection on its standard input and output, and see it through.

    The peer's end becomes the end of its input. Once that has come, it must
    write or exit within ``eof_grace``, or gets SIGTERM, and SIGKILL
    ``term_grace`` later; likewise when we are cancelled. A signal goes to all
    processes of its process group. If it closes its output and goes on, the peer
    is told that end.

    Args:
        connection: The connection; it is left open.
        command: The program and its arguments.
        environment: Its whole environment.
        eof_grace: Seconds.
        term_grace: Gives seconds, when it is needed.
        tell: Called with each line that it writes to stderr.

    Returns:
        The exit code, negative for the signal that ended it; and whether all
        that it wrote was sent to the peer.

    Raises:
        OSError: It can't be started.
    """
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        process_group=0,
    )
    beside = _Beside(connection, process, tell)
    try:
        await beside.run(eof_grace=eof_grace)
    finally:
        with trio.CancelScope(shield=True):
            await _end(process, term_grace)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    await trio.aclose_forcefully(pipe)
    assert process.returncode is not None
    return process.returncode, beside.delivered


class _Beside:
    """The tasks that run beside a program."""

    def __init__(
        self, connection: Connection, process: trio.Process, tell: Callable[[str], object]
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._connection = connection
        self._process = process
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._tell = tell
        self._leave = trio.CancelScope()  # its deadline is set when the peer has ended
        self._reading = trio.CancelScope()  # of its output; with a deadline once it has exited
        self._exited = False
        self.delivered = False

    async def run(self, *, eof_grace: float) -> None:
        """Carry bytes until the program has exited, or the grace is over."""
        self._grace = eof_grace
        with self._leave:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._feed)
                errors_done, output_done = trio.Event(), trio.Event()
                nursery.start_soon(self._log_errors, errors_done)
                nursery.start_soon(self._carry_output, output_done)
                await self._process.wait()
                # What it wrote is still in the pipe, and is sent however slowly the peer takes it.
                self._exited = True
                self._leave.deadline = math.inf
                self._reading.deadline = trio.current_time() + PIPE_GRACE
                await output_done.wait()
                with trio.move_on_after(PIPE_GRACE):
                    await errors_done.wait()
                nursery.cancel_scope.cancel()

    def _peer_ended(self) -> None:
        if not self._exited:
            grace = trio.current_time() + self._grace
            self._leave.deadline = min(self._leave.deadline, grace)

    async def _feed(self) -> None:
        """From the peer to the program's input."""
        try:
            while data := await self._connection.receive_some(PIECE):
                try:
                    await self._stdin.send_all(data)
                except trio.BrokenResourceError:
                    # The program reads no more input, but it may still write. When it does, we see
                    # whether the peer is still there.
                    await self._wait_for_the_peer()
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(self._stdout)  # nobody takes its output any more
        await self._stdin.aclose()
        self._peer_ended()

    async def _wait_for_the_peer(self) -> None:
        """Read and drop what comes, until the peer has ended: nothing else shows that it left."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await self._connection.receive_some(PIECE):
                pass
        self._peer_ended()

    async def _carry_output(self, done: trio.Event) -> None:
        """From the program's output to the peer."""
        try:
            while data := await self._read_output():
                await self._connection.send_all(data)
                if self._leave.deadline != math.inf:  # it still has something to say
                    self._leave.deadline = trio.current_time() + self._grace
            self.delivered = True
            await self._end_output()
        except trio.ClosedResourceError:
            pass  # the peer has gone
        except trio.BrokenResourceError:
            with contextlib.suppress(trio.ClosedResourceError):
                await trio.aclose_forcefully(self._stdout)
                await self._stdin.aclose()
            self._peer_ended()
        finally:
            done.set()

    async def _read_output(self) -> bytes | bytearray:
        deadline = trio.current_time() + PIPE_GRACE if self._exited else math.inf
        with trio.CancelScope(deadline=deadline) as self._reading:
            return await self._stdout.receive_some(PIECE)
        return b""  # it has exited, and a child of its own holds the pipe open

    async def _end_output(self) -> None:
        """Tell the peer of an end of the output that is not that of the program.

        One that exits closes its output a moment sooner, and its exit code then says
        how the connection is to end.
        """
        with trio.move_on_after(EXIT_PATIENCE):
            await self._process.wait()
            return
        await self._connection.send_eof()

    async def _log_errors(self, done: trio.Event) -> None:
        """Tell what it writes to stderr, line by line."""
        unread = b""
        async for data in self._stderr:
            *lines, unread = (unread + data).split(b"\n")
            while len(unread) > LONGEST_LINE:
                lines.append(unread[:LONGEST_LINE])
                unread = unread[LONGEST_LINE:]
            for line in lines:
                self._tell(line.decode("utf-8", "backslashreplace"))
        if unread:
            self._tell(unread.decode("utf-8", "backslashreplace"))
        done.set()


async def _end(process: trio.Process, term_grace: Callable[[], float]) -> None:
    """Have a program end: SIGTERM, and SIGKILL when the grace is over."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with trio.move_on_after(term_grace()):
            await process.wait()
    if process.poll() is None:
        _signal(process, signal.SIGKILL)
        await process.wait()


def _signal(process: trio.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
