"""Dial with asyncio, and be the TLS server: a silent peer."""

import asyncio
import ssl


class Wait(asyncio.Protocol):
    """Reads nothing, so that no byte of the listener's is lost before TLS is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()


async def call_home(
    host: str, port: int, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Dial, wait for the listener's ClientHello, and be its TLS server.

    Args:
        host: Where to dial.
        port: Likewise.
        context: A context of ``PROTOCOL_TLS_SERVER``, with our certificate, and with
            ``verify_mode = ssl.CERT_REQUIRED`` and the authority to verify the listener by.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.create_connection(Wait, host, port)
    # The window of the listener has to pass first: 5 s by default, and its handshake.
    secure = await loop.start_tls(
        transport, protocol, context, server_side=True, ssl_handshake_timeout=40
    )
    assert secure is not None
    protocol.connection_made(secure)
    return reader, asyncio.StreamWriter(secure, protocol, reader, loop)
