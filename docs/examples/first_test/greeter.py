from trio_duplex import Connection, Role


async def greet(connection: Connection) -> None:
    if connection.role is Role.SERVER:  # red: a silent peer wants its greeting, too
        await connection.send_all(b"hello\n")
