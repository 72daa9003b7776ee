from trio_duplex import Connection, Credentials, serve_tcp, windows


async def handler(connection: Connection) -> None:
    await connection.send_all(b"220 ready\r\n")


async def main(credentials: Credentials, file: str) -> None:
    memory = windows.PeerMemory()
    memory.load(file)  # a missing file holds nothing
    try:
        await serve_tcp(handler, 8443, credentials, window=memory)
    finally:
        memory.save(file)  # whole or not at all; readable by its owner only
