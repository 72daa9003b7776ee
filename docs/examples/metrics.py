import prometheus_client
import trio

import trio_duplex
from trio_duplex.metrics import ServerCollector


async def echo(connection: trio_duplex.Connection) -> None:
    async for chunk in connection:
        await connection.send_all(chunk)


async def main() -> None:
    credentials = trio_duplex.Credentials.mutual(
        certificate_chain="node.pem", private_key="node.key", trust="fleet-ca.pem"
    )
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_duplex.serve_tcp, echo, 8443, credentials)
        prometheus_client.REGISTRY.register(ServerCollector(server))
        prometheus_client.start_http_server(9464, addr="127.0.0.1")


if __name__ == "__main__":
    trio.run(main)
