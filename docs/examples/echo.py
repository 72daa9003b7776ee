import trio

import trio_duplex


async def echo(connection: trio_duplex.Connection) -> None:
    print(connection.remote_address, connection.decision)
    async for chunk in connection:  # a trio.abc.Stream, whichever role we play
        await connection.send_all(chunk)


async def main() -> None:
    credentials = trio_duplex.Credentials.mutual(
        certificate_chain="node.pem", private_key="node.key", trust="fleet-ca.pem"
    )
    await trio_duplex.serve_tcp(echo, 8443, credentials)


if __name__ == "__main__":
    trio.run(main)
