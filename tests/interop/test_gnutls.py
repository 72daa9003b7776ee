"""GnuTLS's own programs: `gnutls-cli` dials as TLS client, `gnutls-serv` as TLS server (by `socat`)."""

from __future__ import annotations

import random

import pytest
import trio

from tests.interop.harness import (
    MESSAGE,
    TIMEOUT,
    VERSIONS,
    WINDOW,
    EchoServer,
    Files,
    Version,
    exchange,
    program,
)
from tests.support.ports import held_port
from tests.support.tools import require_tool
from trio_duplex import Connection, Reason, Role, negotiate

pytestmark = pytest.mark.interop

PRIORITY = "NORMAL:-VERS-ALL:+VERS-TLS{}"

LINE = 4096
"""Bytes. `gnutls-serv --echo` answers line by line, and loses its way in lines of 16 KiB."""


@pytest.mark.parametrize("version", VERSIONS)
def test_gnutls_cli_gets_a_server(server: EchoServer, files: Files, version: Version) -> None:
    with program(
        require_tool("gnutls-cli"), "--port", str(server.port), "--logfile", "/dev/null",
        "--priority", PRIORITY.format(version), "--x509cafile", files.trust,
        "--x509certfile", files.peer, "--x509keyfile", files.peer, "127.0.0.1",
    ) as peer:  # fmt: skip
        assert exchange(peer) == MESSAGE
        assert peer.wait(TIMEOUT) == 0
    outcome = server.outcome()
    assert outcome.role is Role.SERVER
    assert outcome.opened.decision.reason is Reason.SPOKE
    assert outcome.version == f"TLSv{version}"
    assert outcome.is_echo()


@pytest.mark.parametrize("version", VERSIONS)
async def test_gnutls_serv_that_dials_in_gets_a_client(files: Files, version: Version) -> None:
    # It types nothing of its own: so here it is the one who echoes.
    gnutls_serv, socat = require_tool("gnutls-serv"), require_tool("socat")
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    _, ours = listener.socket.getsockname()
    with (
        trio.fail_after(TIMEOUT),
        held_port() as port,
        program(
            gnutls_serv, "--port", str(port), "--echo", "--crlf", "--quiet", "--require-client-cert",
            "--priority", PRIORITY.format(version), "--x509cafile", files.trust,
            "--x509certfile", files.peer, "--x509keyfile", files.peer,
            discard=True,  # every line that it echoes
        ),
        program(socat, f"TCP:127.0.0.1:{port},retry=2000,interval=0.05", f"TCP:127.0.0.1:{ours}"),
    ):  # fmt: skip
        async with listener:
            stream = await listener.accept()
        async with await negotiate(stream, files.credentials, window=WINDOW) as connection:
            assert connection.role is Role.CLIENT
            assert connection.decision.reason is Reason.SILENT
            assert connection.tls_version == f"TLSv{version}"
            await check_echo(connection)


async def check_echo(connection: Connection) -> None:
    """Send 1 MiB of text, line by line, and have it come back as it was."""
    text = random.Random(2104)
    for _ in range((1 << 20) // LINE):
        line = text.randbytes(LINE // 2).hex().encode()[1:] + b"\n"
        await connection.send_all(line)
        echo = b""
        while len(echo) < len(line):
            chunk = await connection.receive_some()
            assert chunk
            echo += chunk
        assert echo == line
