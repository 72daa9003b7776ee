"""Serve from a program that runs on asyncio: Trio is its guest, in the same thread."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import trio

import trio_duplex

T = TypeVar("T")


async def work(name: str) -> bytes:
    """What the program does on asyncio."""
    await asyncio.sleep(0.01)
    return f"hello, {name}\n".encode()


async def on_asyncio(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of asyncio's from Trio, and wait for what it returns."""
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()
    task = loop.create_task(coroutine)
    task.add_done_callback(lambda _: token.run_sync_soon(done.set))
    try:
        await done.wait()
    finally:
        task.cancel()  # which does nothing to one that is done
    return task.result()


async def serve(loop: asyncio.AbstractEventLoop, credentials: trio_duplex.Credentials) -> None:
    async def handler(connection: trio_duplex.Connection) -> None:
        await connection.send_all(await on_asyncio(loop, work(str(connection.peer))))

    await trio_duplex.serve_tcp(handler, 8443, credentials)


async def main() -> None:
    credentials = trio_duplex.Credentials.mutual(
        certificate_chain="node.pem", private_key="node.key", trust="fleet-ca.pem"
    )
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    scope = trio.CancelScope()

    async def guest() -> None:
        with scope:
            await serve(loop, credentials)

    trio.lowlevel.start_guest_run(
        guest,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=finished.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    try:
        outcome = await asyncio.shield(finished)
    except asyncio.CancelledError:  # Control-C, or whoever runs us
        scope.cancel()
        outcome = await finished
    outcome.unwrap()


if __name__ == "__main__":
    asyncio.run(main())
