"""The handler, an application's async function of one connection, and `by_role`."""

from __future__ import annotations

from typing import Protocol, assert_never

from trio_duplex._role import Role
from trio_duplex._stream.connection import Connection


class Handler(Protocol):
    """Serves one connection: any async function of a `Connection`.

    The connection is closed when the function returns. An exception ends only that
    connection: it is logged, or raised if ``raise_handler_errors`` is set.
    """

    async def __call__(self, connection: Connection, /) -> object:
        """Serve the connection."""


def by_role(*, server: Handler, client: Handler) -> Handler:
    """Combine two handlers into one that chooses by the TLS role that *we* play.

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
