"""Step 5: stop without cutting a device off."""

import signal
import sys
from functools import partial

import trio
from call_home import Inventory
from manager_4 import manager_credentials

import trio_duplex


async def drain(server: trio_duplex.Server, then: trio.CancelScope) -> None:
    result = await server.drain(timeout=10)
    print(f"{result.finished} finished, {result.cancelled} cancelled", flush=True)
    then.cancel()


async def main(port: int) -> None:
    inventory = Inventory()
    serve = partial(trio_duplex.serve_tcp, host="127.0.0.1", window=1)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, inventory.handle, port, manager_credentials())
            print("listening on", *server.addresses, flush=True)
            draining = False
            async for _ in signals:
                if draining:  # told twice: do not wait any longer
                    nursery.cancel_scope.cancel()
                draining = True
                nursery.start_soon(drain, server, nursery.cancel_scope)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
