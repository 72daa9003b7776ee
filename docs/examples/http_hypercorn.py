"""An ASGI application for the peers that speak, by Hypercorn's server of one connection."""

from typing import cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, LifespanState

import trio_duplex


def serve_asgi(app: ASGIFramework) -> trio_duplex.Handler:
    """A handler that serves an ASGI application to peers of which we are the TLS server."""
    config = Config()
    context = WorkerContext(None)

    async def handler(connection: trio_duplex.Connection) -> None:
        state: LifespanState = {}
        tls = cast("trio.SSLStream[trio.SocketStream]", connection.tls)  # a bare SSLStream over TCP
        await TCPServer(ASGIWrapper(app), config, context, state, tls)

    return handler
