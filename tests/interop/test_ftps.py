"""FTPS in active mode, with vsftpd: the server dials us for each file, and is the TLS server there.

RFC 4217, sections 7 and 9: whoever dials, the FTP client is the TLS client. So we accept a data
connection, hear nothing, and become the TLS client. On top of that vsftpd asks for the TLS session of
the control connection on each data connection, so that nobody else can step in, and calls a transfer
complete only when it has ended in due form: a file that we send with our close_notify, and one that we
receive with our close.
"""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.interop.harness import TIMEOUT, TLS_VERSIONS, VERSIONS, Files, Version, program
from tests.support.tools import require_tool
from trio_duplex import Connection, Credentials, Reason, Role, negotiate

pytestmark = pytest.mark.interop

WINDOW = 0.3

HELD = 0.2
"""Seconds in which a reply that is held back does not come."""

CONTENT = random.Random(959).randbytes(300_000)

CONFIGURATION = """
listen=NO
run_as_launching_user=YES
seccomp_sandbox=NO
anonymous_enable=YES
no_anon_password=YES
anon_root={root}
write_enable=YES
anon_upload_enable=YES
connect_from_port_20=NO
ssl_enable=YES
allow_anon_ssl=YES
force_anon_logins_ssl=YES
force_anon_data_ssl=YES
ssl_ciphers=HIGH
rsa_cert_file={certificate}
rsa_private_key_file={certificate}
ca_certs_file={trust}
require_cert=YES
require_ssl_reuse=YES
strict_ssl_read_eof=YES
strict_ssl_write_shutdown=YES
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What vsftpd shows to its users."""
    root = tmp_path / "root"
    uploads = root / "uploads"
    uploads.mkdir(parents=True)
    (root / "file").write_bytes(CONTENT)
    root.chmod(0o555)  # vsftpd serves no root that its users may write to
    return root


class FTPClient:
    """A user who has logged in over TLS, by hand, and protects the data connections too.

    Args:
        stream: The control connection, as TCP made it.
        listener: For the data connections.
        credentials: For both.
    """

    def __init__(
        self, stream: trio.SocketStream, listener: trio.SocketListener, credentials: Credentials
    ) -> None:
        self.credentials = credentials
        self._control: trio.abc.Stream = stream
        self._listener = listener
        self._received = b""

    async def reply(self) -> str:
        """Wait for the next reply, and return its code."""
        while b"\r\n" not in self._received:
            chunk = await self._control.receive_some()
            assert chunk, "the control connection ended"
            self._received += chunk
        line, _, self._received = self._received.partition(b"\r\n")
        assert line[3:4] == b" ", line  # none of those here has a second line
        return line[:3].decode()

    async def command(self, command: str) -> str:
        """Send a command, and return the code of the reply."""
        await self._control.send_all(f"{command}\r\n".encode())
        return await self.reply()

    async def log_in(self) -> None:
        assert await self.reply() == "220"
        assert await self.command("AUTH TLS") == "234"
        self.tls = trio.SSLStream(self._control, self.credentials.client_context)
        await self.tls.do_handshake()
        self._control = self.tls
        assert await self.command("USER anonymous") == "230"
        assert await self.command("PBSZ 0") == "200"
        assert await self.command("PROT P") == "200"
        assert await self.command("TYPE I") == "200"

    async def transfer(self, command: str, *, resume: bool = True) -> Connection:
        """Begin a transfer: have the server dial us, and become its TLS client."""
        _, port = self._listener.socket.getsockname()
        assert await self.command(f"EPRT |1|127.0.0.1|{port}|") == "200"
        assert await self.command(command) == "150"
        connection = await negotiate(
            await self._listener.accept(),
            self.credentials,
            window=WINDOW,
            session=self.tls.session if resume else None,
        )
        assert connection.role is Role.CLIENT
        assert connection.decision.reason is Reason.SILENT
        assert connection.session_reused is resume
        assert connection.tls_version == self.tls.version()
        return connection

    async def receive(self, command: str) -> bytes:
        """Receive all of a listing or a file."""
        connection = await self.transfer(command)
        async with connection:
            data = b"".join([bytes(chunk) async for chunk in connection])
            with trio.move_on_after(HELD):  # we have read the end, and have not closed
                pytest.fail(f"a reply came too soon: {await self.reply()}")
        assert await self.reply() == "226"
        return data


@asynccontextmanager
async def logged_in(root: Path, files: Files, version: Version) -> AsyncGenerator[FTPClient]:
    """A client, and a vsftpd of its own, which is given the connection as inetd gives it."""
    vsftpd = require_tool("vsftpd")
    configuration = root.parent / "vsftpd.conf"
    configuration.write_text(
        CONFIGURATION.format(root=root, certificate=files.peer, trust=files.trust)
    )
    credentials = files.credentials
    credentials.client_context.maximum_version = TLS_VERSIONS[version]
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(TIMEOUT):
        async with listener:
            with socket.create_server(("127.0.0.1", 0)) as control:
                stream = await trio.open_tcp_stream(*control.getsockname())
                accepted, _ = control.accept()
            with accepted, program(vsftpd, configuration, stdin=accepted):
                async with stream:
                    client = FTPClient(stream, listener, credentials)
                    await client.log_in()
                    assert client.tls.version() == f"TLSv{version}"
                    yield client


@pytest.mark.parametrize("version", VERSIONS)
async def test_listing_download_and_upload(root: Path, files: Files, version: Version) -> None:
    async with logged_in(root, files, version) as client:
        assert (await client.receive("NLST")).split() == [b"file", b"uploads"]
        assert await client.receive("RETR file") == CONTENT
        async with await client.transfer("STOR uploads/copy") as connection:
            await connection.send_all(CONTENT)
        assert await client.reply() == "226"
        assert (root / "uploads" / "copy").read_bytes() == CONTENT
        assert await client.command("QUIT") == "221"


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_data_connection_of_another_session_is_refused(
    root: Path, files: Files, version: Version
) -> None:
    # Without this, the test above could pass with sessions that are not asked for.
    async with logged_in(root, files, version) as client:
        async with await client.transfer("RETR file", resume=False) as connection:
            assert await connection.receive_some() == b""
        assert await client.reply() == "522"
