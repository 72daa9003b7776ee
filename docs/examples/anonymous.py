import trio_duplex


async def public(connection: trio_duplex.Connection) -> None:
    """We are the TLS server: this may be anybody."""
    if connection.is_anonymous:
        await connection.send_all(b"hello, whoever you are")
    else:
        await connection.send_all(b"hello, %s" % str(connection.peer).encode())


async def trusted(connection: trio_duplex.Connection) -> None:
    """We are the TLS client: the peer has shown a certificate that the fleet vouches for."""
    await connection.send_all(b"hello, %s" % str(connection.peer).encode())


handler = trio_duplex.by_role(server=public, client=trusted)
