import logging
from functools import partial

import trio

import trio_duplex

LOGGER = logging.getLogger("echo")


async def echo(connection: trio_duplex.Connection) -> None:
    LOGGER.info("%s is here, and we are the TLS %s", connection.peer, connection.decision)
    async for chunk in connection:
        await connection.send_all(chunk)


async def main() -> None:
    credentials = trio_duplex.Credentials.mutual(
        certificate_chain="lab/node.example.pem",
        private_key="lab/node.example.key",
        trust="lab/ca.pem",
    )
    serve = partial(trio_duplex.serve_tcp, host="127.0.0.1", window=1)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, echo, 8443, credentials)
        LOGGER.info("listening on %s", server.addresses)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)  # who was refused, and why, is logged too
    trio.run(main)
