"""Standard input and output as a stream, whatever they are: a terminal, a pipe or a file.

They are read and written in threads. To wait for them with the event loop would
need them non-blocking, which a regular file can't be, and which a terminal would
be for the shell too.
"""

from __future__ import annotations

import os
import sys

import trio

PIECE = 64 * 1024


class OutputError(Exception):
    """Standard output takes no more; the text says why, and is empty where its reader has left."""


class StandardStreams(trio.abc.Stream):
    """Receives from standard input, sends to standard output; closing it closes neither."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read what is there; ``b""`` at the end."""
        if sys.stdin is None:  # started with it closed
            await trio.lowlevel.checkpoint()
            return b""
        try:
            # A read from a terminal can't be interrupted: if cancelled, its thread is left behind.
            return await trio.to_thread.run_sync(
                os.read, sys.stdin.fileno(), max_bytes or PIECE, abandon_on_cancel=True
            )
        except OSError as exc:
            raise trio.BrokenResourceError(f"can't read standard input: {exc.strerror}") from exc

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of it.

        Raises:
            OutputError: It can't be written: the disk is full, or the reader has left.
        """
        if sys.stdout is None:
            await trio.lowlevel.checkpoint()
            return
        view = memoryview(data)
        try:
            while view:
                written = await trio.to_thread.run_sync(
                    os.write, sys.stdout.fileno(), view, abandon_on_cancel=True
                )
                view = view[written:]
        except OSError as exc:
            # A reader that has left knows that it has: `head` is told nothing either.
            left = isinstance(exc, BrokenPipeError)
            raise OutputError(
                "" if left else f"can't write standard output: {exc.strerror}"
            ) from exc

    async def wait_send_all_might_not_block(self) -> None:
        """Do not wait: the thread does."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Leave both as they are."""
        await trio.lowlevel.checkpoint()


async def copy(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
    """Copy to the source's end; the next piece is received only when the last was taken."""
    while data := await source.receive_some(PIECE):
        await sink.send_all(data)
