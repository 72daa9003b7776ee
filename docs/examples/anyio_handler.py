"""A handler that is written for AnyIO, on a connection."""

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream

import trio_duplex
from trio_duplex.anyio import ConnectionAttribute, ConnectionStream


async def greet(stream: ByteStream) -> None:
    """Knows nothing of TLS roles, nor of Trio."""
    with anyio.fail_after(10):
        name = await BufferedByteReceiveStream(stream).receive_until(b"\n", 100)
    await stream.send(
        b"hello, %s from port %d\n" % (name, stream.extra(SocketAttribute.remote_port))
    )


async def handler(connection: trio_duplex.Connection) -> None:
    stream = ConnectionStream(connection)
    print(stream.extra(ConnectionAttribute.peer), stream.extra(ConnectionAttribute.decision))
    await greet(stream)


async def main() -> None:
    credentials = trio_duplex.Credentials.mutual(
        certificate_chain="node.pem", private_key="node.key", trust="fleet-ca.pem"
    )
    await trio_duplex.serve_tcp(handler, 8443, credentials)


if __name__ == "__main__":
    anyio.run(main, backend="trio")
