"""Peers that speak send us requests; a peer that called home and is silent, we send requests."""

import httpcore
import trio
from http_h11 import serve_http

import trio_duplex
from trio_duplex.httpcore import ConnectionBackend


async def ask_device(connection: trio_duplex.Connection) -> None:
    """We are the TLS client: the peer is an HTTPS server that dialled us."""
    backend = ConnectionBackend(connection)
    async with httpcore.AsyncConnectionPool(network_backend=backend, max_connections=1) as pool:
        device = connection.peer.dns_names[0]  # https:// verifies this name once more
        for path in ("/serial", "/state"):
            response = await pool.request("GET", f"https://{device}{path}")
            print(device, path, response.status, response.content.decode())


async def main() -> None:
    credentials = trio_duplex.Credentials.mutual(
        certificate_chain="node.pem",
        private_key="node.key",
        trust="fleet-ca.pem",
        alpn=["http/1.1"],  # an end that speaks another protocol is refused
    )
    handler = trio_duplex.by_role(server=serve_http, client=ask_device)
    await trio_duplex.serve_tcp(handler, 8443, credentials)


if __name__ == "__main__":
    trio.run(main)
