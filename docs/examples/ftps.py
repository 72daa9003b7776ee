"""Data connections of FTPS in active mode: the FTP server dials us, and is the TLS server."""

import ssl

import trio

import trio_duplex


async def receive_file(
    listener: trio.SocketListener,
    credentials: trio_duplex.Credentials,
    control_session: ssl.SSLSession | None,
) -> bytes:
    """Accept one data connection, and receive what it brings.

    Args:
        listener: Where we told the server to connect, by ``EPRT`` or ``PORT``.
        credentials: As for the control connection.
        control_session: The TLS session of the control connection. Many servers, vsftpd among
            them, refuse a data connection that does not resume it.
    """
    async with await trio_duplex.negotiate(
        await listener.accept(),
        credentials,
        window=trio_duplex.windows.SILENT,  # RFC 4217, section 7: the FTP client is the TLS client
        session=control_session,
    ) as connection:
        return b"".join([bytes(chunk) async for chunk in connection])
