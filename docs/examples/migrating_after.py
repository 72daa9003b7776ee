import trio

import trio_duplex


async def echo(stream: trio.abc.Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


async def main() -> None:
    credentials = trio_duplex.Credentials.mutual(
        certificate_chain="node.pem", private_key="node.key", trust="fleet-ca.pem"
    )
    await trio_duplex.serve_tcp(echo, 8443, credentials)


if __name__ == "__main__":
    trio.run(main)
