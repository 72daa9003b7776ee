"""Run a subcommand under Trio, and end it promptly and quietly when it is told to stop."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable

import click
import trio


def run(main: Callable[[], Awaitable[int]]) -> int:
    """Run ``main`` until it returns, or until SIGINT or SIGTERM cancels it.

    Returns:
        The exit code: what ``main`` returned; 128 plus the signal's number
        (130, 143); 1 if the reader of our output has left.
    """
    code = 1
    try:
        code = trio.run(_until_signalled, main)
    except* KeyboardInterrupt:  # before or after _until_signalled listens
        code = 128 + signal.SIGINT
    except* (BrokenPipeError, SystemExit):
        # SystemExit is rich's word for a broken pipe. Python flushes stdout
        # once more at exit, and that must not fail loudly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


async def _until_signalled(main: Callable[[], Awaitable[int]]) -> int:
    code = 0
    failure: Exception | None = None

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal code
                async for number in signals:
                    code = 128 + number
                    click.echo(f"Stopped by {signal.Signals(number).name}.", err=True)
                    nursery.cancel_scope.cancel()
                    return

            nursery.start_soon(watch)
            try:
                code = await main()
            except Exception as exc:  # noqa: BLE001 - raised below, out of our nursery's group
                failure = exc
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return code
