"""The same with httpx: a transport that sends each request over the connection."""

from collections.abc import AsyncIterator

import httpcore
import httpx

import trio_duplex
from trio_duplex.httpcore import ConnectionBackend


class Body(httpx.AsyncByteStream):
    """The body of an answer, as it comes."""

    def __init__(self, response: httpcore.Response) -> None:
        self.response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self.response.aiter_stream():
            yield part

    async def aclose(self) -> None:
        await self.response.aclose()


class ConnectionTransport(httpx.AsyncBaseTransport):
    """What an ``httpx.AsyncClient`` sends its requests through."""

    def __init__(self, connection: trio_duplex.Connection) -> None:
        backend = ConnectionBackend(connection)
        self.pool = httpcore.AsyncConnectionPool(network_backend=backend, max_connections=1)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        response = await self.pool.handle_async_request(
            httpcore.Request(
                request.method,
                url,
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(response.status, headers=response.headers, stream=Body(response))

    async def aclose(self) -> None:
        await self.pool.aclose()


async def ask_device(connection: trio_duplex.Connection) -> None:
    device = connection.peer.dns_names[0]
    transport = ConnectionTransport(connection)
    async with httpx.AsyncClient(transport=transport, base_url=f"https://{device}") as client:
        response = await client.get("/state", timeout=10)
        print(device, response.status_code, response.text)
