import ssl

import trio


async def echo(stream: trio.abc.Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


async def main() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile="fleet-ca.pem")
    context.load_cert_chain("node.pem", "node.key")
    context.verify_mode = ssl.CERT_REQUIRED
    await trio.serve_ssl_over_tcp(echo, 8443, context)


if __name__ == "__main__":
    trio.run(main)
