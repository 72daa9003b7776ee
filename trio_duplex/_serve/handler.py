"""What an application writes: an async function of one connection."""

from __future__ import annotations

from typing import Protocol, assert_never

from trio_duplex._role import Role
from trio_duplex._stream.connection import Connection


class Handler(Protocol):
    """What serves one connection: any async function of a `Connection`.

    The connection is closed when it returns. An exception ends its own
    connection alone: it is logged, or raised if ``raise_handler_errors`` says so.
    """

    async def __call__(self, connection: Connection, /) -> object:
        """Serve the connection."""


def by_role(*, server: Handler, client: Handler) -> Handler:
    """Make one handler of two, chosen by the TLS role that *we* play.

    Args:
        server: Serves connections on which we are the TLS server.
        client: Serves connections on which we are the TLS client.
    """

    async def handler(connection: Connection, /) -> object:
        match connection.role:
            case Role.SERVER:
                return await server(connection)
            case Role.CLIENT:
                return await client(connection)
            case _ as role:
                assert_never(role)

    return handler
