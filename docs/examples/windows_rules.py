from trio_duplex import Connection, Credentials, serve_tcp, windows

window = windows.ByNetwork(
    {"10.1.0.0/16": windows.SILENT, "10.2.0.0/16": windows.SPEAKING},
    otherwise=windows.PeerMemory(),
)


async def handler(connection: Connection) -> None:
    await connection.send_all(b"220 ready\r\n")


async def main(credentials: Credentials) -> None:
    await serve_tcp(handler, 8443, credentials, window=window)
