import trio_duplex


async def dial(
    host: str, port: int, credentials: trio_duplex.Credentials
) -> trio_duplex.Connection:
    return await trio_duplex.open_tcp_connection(
        host, port, credentials, role=trio_duplex.Role.SERVER, announce=True
    )
