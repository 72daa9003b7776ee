"""Send the answer piece by piece; when cancelled between two, say that there are no more."""

from collections.abc import AsyncIterator

import trio

import trio_duplex


async def measurements() -> AsyncIterator[bytes]:
    while True:
        await trio.sleep(1)
        yield b"21.5\n"


async def handler(connection: trio_duplex.Connection) -> None:
    connection.send_timeout = 5  # seconds, also for what is shielded
    try:
        async for line in measurements():
            with trio.CancelScope(shield=True):  # each line whole
                await connection.send_all(line)
    except trio.Cancelled:
        # No line was cut, so this is a due end: it is ours to say so.
        with trio.CancelScope(shield=True):
            await connection.aclose()
        raise
