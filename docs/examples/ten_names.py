"""The names that most programs need, each in a few lines."""

import math
from functools import partial

import trio

import trio_duplex
from trio_duplex import Connection, Credentials, Role


async def handle(connection: Connection) -> None:
    """Connection: a trio.abc.Stream that knows its role and its peer."""
    print(connection.peer.names, connection.role, connection.decision.waited)
    async for chunk in connection:
        await connection.send_all(chunk)


def credentials_for(peer_name: str) -> Credentials:
    """Credentials and NamedPeer: what we present, whom we trust, and who may come in."""
    return Credentials.mutual(
        certificate_chain="node.pem",
        private_key="node.key",
        trust="fleet-ca.pem",
        peer=trio_duplex.NamedPeer(peer_name),
    )


async def run(credentials: Credentials) -> None:
    """serve_tcp, Limits and Server: listen, within bounds, and stop in order."""
    limits = trio_duplex.Limits(connections=1000, pending_per_address=math.inf)
    async with trio.open_nursery() as nursery:
        serve = partial(trio_duplex.serve_tcp, host="127.0.0.1", limits=limits)
        server = await nursery.start(serve, handle, 0, credentials)
        print(server.addresses, server.statistics().accepted)
        await server.drain(timeout=10)


async def ask(host: str, port: int, credentials: Credentials) -> bytes:
    """open_tcp_connection and Role: dial, as a silent peer if the role is the server's."""
    async with await trio_duplex.open_tcp_connection(
        host, port, credentials, role=Role.SERVER
    ) as connection:
        await connection.send_all(b"question")
        await connection.send_eof()
        return b"".join([bytes(chunk) async for chunk in connection])


async def take(stream: trio.abc.Stream, credentials: Credentials) -> None:
    """negotiate and DuplexError: one stream that somebody else has accepted."""
    try:
        connection = await trio_duplex.negotiate(stream, credentials, window=2)
    except trio_duplex.DuplexError as exc:
        print(exc.peer, exc.seen, exc.tls_reason, exc.advice)
        return
    async with connection:
        await handle(connection)


async def greet(connection: Connection) -> None:
    await connection.send_all(b"220 ready\r\n")


choose = trio_duplex.by_role(server=greet, client=handle)
"""by_role: one handler of two."""
