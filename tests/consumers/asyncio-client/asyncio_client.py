"""Asks a server for something, on asyncio: knows nothing of Trio."""

from __future__ import annotations

import asyncio
import ssl


class RefusedError(Exception):
    """The server did not want us."""


async def ask(
    host: str, port: int, question: bytes, *, context: ssl.SSLContext, name: str | None = None
) -> bytes:
    """Send the question, and return all of the answer.

    Raises:
        RefusedError: The server did not accept us, or we did not accept it.
        TimeoutError: It said nothing for a second.
    """
    try:
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=name or host
        )
    except ssl.SSLError as exc:
        raise RefusedError(exc.reason) from exc
    try:
        writer.write(question + b"\n")
        await writer.drain()
        async with asyncio.timeout(1):
            return (await reader.readline()).removesuffix(b"\n")
    except (ssl.SSLError, ConnectionError) as exc:
        raise RefusedError(str(exc)) from exc
    finally:
        writer.transport.abort()
