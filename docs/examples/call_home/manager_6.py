"""Step 6: see what happens."""

import logging
import signal
import sys
from functools import partial

import prometheus_client
import trio
from call_home import Inventory
from manager_4 import manager_credentials
from manager_5 import drain

import trio_duplex
from trio_duplex.metrics import ServerCollector

LOGGER = logging.getLogger("manager")


def watch(inventory: Inventory, event: trio_duplex.events.Event) -> None:
    """An observer: told of everything, in the order in which it happens."""
    if isinstance(event, trio_duplex.events.ConnectionClosed):
        LOGGER.info("%d devices known, %d refused", len(inventory.states), inventory.refused)


async def main(port: int, metrics_port: int) -> None:
    inventory = Inventory()
    serve = partial(
        trio_duplex.serve_tcp, host="127.0.0.1", window=1, observers=[partial(watch, inventory)]
    )
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, inventory.handle, port, manager_credentials())
            prometheus_client.REGISTRY.register(ServerCollector(server))
            prometheus_client.start_http_server(metrics_port, addr="127.0.0.1")
            LOGGER.info("listening on %s", server.addresses)
            draining = False
            async for _ in signals:
                if draining:
                    nursery.cancel_scope.cancel()
                draining = True
                nursery.start_soon(drain, server, nursery.cancel_scope)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    trio.run(main, int(sys.argv[1]), int(sys.argv[2]))
