import logging
import signal

import trio

import trio_duplex

LOGGER = logging.getLogger("service")
DRAIN_TIME = 10  # seconds that connections have to finish, once we are told to stop


async def echo(connection: trio_duplex.Connection) -> None:
    async for chunk in connection:
        await connection.send_all(chunk)


async def drain(server: trio_duplex.Server, then: trio.CancelScope) -> None:
    result = await server.drain(DRAIN_TIME)
    LOGGER.info("%d connections finished, %d cancelled", result.finished, result.cancelled)
    then.cancel()


async def main() -> None:
    credentials = trio_duplex.Credentials.mutual(
        certificate_chain="node.pem", private_key="node.key", trust="fleet-ca.pem"
    )
    # From before the first connection on, so that no signal just kills us.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(trio_duplex.serve_tcp, echo, 8443, credentials)
            draining = False
            async for number in signals:
                LOGGER.info("stopping: %s", signal.Signals(number).name)
                if draining:  # told twice: do not wait any longer
                    server.cancel_scope.cancel()
                else:
                    draining = True
                    nursery.start_soon(drain, server, nursery.cancel_scope)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    trio.run(main)
