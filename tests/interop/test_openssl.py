"""OpenSSL's own programs: `s_client` dials as TLS client, `s_server` as TLS server.

`s_server` can't dial, so `socat` does it for it: it connects to us and to the Unix socket of
`s_server`, and relays.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.harness import (
    MESSAGE,
    SILENT_HOST,
    TIMEOUT,
    VERSIONS,
    WINDOW,
    EchoServer,
    Files,
    Relay,
    Version,
    exchange,
    plaintext_alerts,
    program,
    python_context,
    wait_until,
)
from tests.support.tools import require_tool
from trio_duplex import Credentials, HandshakeError, PeerRejectedError, Reason, Role

pytestmark = pytest.mark.interop

OPTION = {"1.1": "-tls1_1", "1.2": "-tls1_2", "1.3": "-tls1_3"}
OLD = ("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")


def s_client(
    port: int, files: Files, *options: str, certificate: Path | None
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """A speaking peer that dials `port`."""
    present = () if certificate is None else ("-cert", certificate, "-key", certificate)
    return program(
        require_tool("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-quiet",
        "-CAfile", files.trust, "-verify_return_error", *present, *options,
    )  # fmt: skip


@contextlib.contextmanager
def s_server(
    port: int, files: Files, folder: Path, *options: str, certificate: Path
) -> Generator[subprocess.Popen[bytes]]:
    """A silent peer that dials `port`."""
    openssl, socat = require_tool("openssl"), require_tool("socat")
    # Relative paths: OpenSSL 3.0 takes no Unix socket's of more than 31 characters, the kernel none of more than 107.
    with program(
        openssl, "s_server", "-unix", "socket", "-naccept", "1", "-quiet",
        "-CAfile", files.trust, "-Verify", "1", "-verify_return_error",
        "-cert", certificate, "-key", certificate, *options, cwd=folder,
    ) as process:  # fmt: skip
        wait_until((folder / "socket").exists, "s_server's socket")
        # Bound is not listening yet: hence the retries.
        unix = "UNIX-CONNECT:socket,retry=2000,interval=0.05"
        with program(socat, unix, f"TCP:127.0.0.1:{port},bind={SILENT_HOST}", cwd=folder):
            yield process


def report(process: subprocess.Popen[bytes]) -> bytes:
    """What a program wrote to stderr until its end."""
    assert process.stdin is not None
    _, stderr = process.communicate(timeout=TIMEOUT)
    return stderr


# ------------------------------------------------------------------------- both roles, one port


@pytest.mark.parametrize("version", VERSIONS)
def test_s_client_gets_a_server(server: EchoServer, files: Files, version: Version) -> None:
    with s_client(server.port, files, OPTION[version], certificate=files.peer) as peer:
        assert exchange(peer) == MESSAGE
        assert peer.wait(TIMEOUT) == 0
    outcome = server.outcome()
    assert outcome.role is Role.SERVER
    assert outcome.opened.decision.reason is Reason.SPOKE
    assert outcome.version == f"TLSv{version}"
    assert outcome.is_echo()


@pytest.mark.parametrize("version", VERSIONS)
def test_s_server_that_dials_in_gets_a_client(
    server: EchoServer, files: Files, tmp_path: Path, version: Version
) -> None:
    options = (OPTION[version],)
    with s_server(server.port, files, tmp_path, *options, certificate=files.peer) as peer:
        assert exchange(peer) == MESSAGE
        assert peer.wait(TIMEOUT) == 0
    outcome = server.outcome()
    assert outcome.role is Role.CLIENT
    assert outcome.opened.decision.reason is Reason.SILENT
    assert outcome.opened.decision.waited >= WINDOW
    assert outcome.version == f"TLSv{version}"
    assert outcome.is_echo()


# ------------------------------------------------------- refused peers read why, in both roles
#
# Twice: as the peer reports it, and on the wire. In TLS 1.3 the alert is encrypted, and the
# peer's report is the only witness.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", Role)
def test_a_peer_that_we_do_not_trust_reads_unknown_ca(
    server: EchoServer, files: Files, tmp_path: Path, role: Role, version: Version
) -> None:
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(Relay(server.watched_port, role.other))
        if role is Role.SERVER:
            peer = stack.enter_context(
                s_client(relay.port, files, OPTION[version], certificate=files.stranger)
            )
        else:
            peer = stack.enter_context(
                s_server(relay.port, files, tmp_path, OPTION[version], certificate=files.stranger)
            )
        assert b"SSL alert number 48" in report(peer)
        relay.wait()
    if version == "1.2":
        assert plaintext_alerts(relay.from_target) == [(2, 48)]
        assert bytes.fromhex("15 03 03 00 02 02 30") in relay.from_target
    error = server.outcome().error
    assert type(error) is HandshakeError
    assert error.role is role
    assert error.tls_reason is not None
    assert error.tls_reason.startswith("certificate verify failed")


@pytest.mark.parametrize(
    ("version", "number"),
    [
        pytest.param("1.2", 40, id="1.2-handshake_failure"),
        pytest.param("1.3", 116, id="1.3-certificate_required"),
    ],
)
def test_a_peer_without_certificate_reads_that_it_needs_one(
    server: EchoServer, files: Files, version: Version, number: int
) -> None:
    with Relay(server.watched_port, Role.CLIENT) as relay:
        with s_client(relay.port, files, OPTION[version], certificate=None) as peer:
            assert f"SSL alert number {number}".encode() in report(peer)
        relay.wait()
    if version == "1.2":
        assert plaintext_alerts(relay.from_target) == [(2, number)]
    error = server.outcome().error
    assert type(error) is HandshakeError
    assert error.role is Role.SERVER


def test_a_client_of_tls_1_1_reads_protocol_version(server: EchoServer, files: Files) -> None:
    with Relay(server.watched_port, Role.CLIENT) as relay:
        with s_client(relay.port, files, *OLD, certificate=files.peer) as peer:
            assert b"SSL alert number 70" in report(peer)
        relay.wait()
    assert plaintext_alerts(relay.from_target) == [(2, 70)]
    error = server.outcome().error
    assert type(error) is HandshakeError
    assert error.role is Role.SERVER


def test_a_server_of_tls_1_1_says_protocol_version_to_us(
    server: EchoServer, files: Files, tmp_path: Path
) -> None:
    # Here the verdict is the peer's, and what is checked is that we hear it.
    with (
        Relay(server.watched_port, Role.SERVER) as relay,
        s_server(relay.port, files, tmp_path, *OLD, certificate=files.peer) as peer,
    ):
        assert b"unsupported protocol" in report(peer)
        relay.wait()
    assert plaintext_alerts(relay.to_target) == [(2, 70)]
    error = server.outcome().error
    assert type(error) is HandshakeError
    assert error.role is Role.CLIENT
    assert error.tls_reason is not None
    assert error.tls_reason.endswith("protocol_version")


# ------------------------------------------------------------------------------------- ALPN


@pytest.fixture(scope="module")
def picky_server(files: Files) -> Generator[EchoServer]:
    server = EchoServer(
        Credentials.mutual(certificate_chain=files.ours, trust=files.trust, alpn=["fleet/1"])
    )
    yield server
    server.stop()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("alpn", [None, "http/1.1", "http/1.1,fleet/1"])
def test_a_peer_that_selects_no_protocol_of_ours(
    picky_server: EchoServer,
    files: Files,
    tmp_path: Path,
    alpn: str | None,
    role: Role,
    version: Version,
) -> None:
    if alpn == "http/1.1" and role is Role.CLIENT:
        pytest.skip("s_server refuses us itself then")
    options = (OPTION[version], *(("-alpn", alpn) if alpn else ()))
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(Relay(picky_server.watched_port, role.other))
        if role is Role.SERVER:
            peer = s_client(relay.port, files, *options, certificate=files.peer)
        else:
            peer = s_server(relay.port, files, tmp_path, *options, certificate=files.peer)
        process = stack.enter_context(peer)
        if served := "fleet/1" in (alpn or ""):
            assert exchange(process) == MESSAGE
        else:
            assert b"SSL alert number 120" in report(process)
        process.wait(TIMEOUT)
        relay.wait()
    if not served:
        assert plaintext_alerts(relay.from_target)[-1:] == [(2, 120)]
        error = picky_server.outcome().error
        assert type(error) is HandshakeError
        assert error.role is role
    else:
        assert picky_server.outcome().is_echo()


# --------------------------------------------------------------------------- pre-shared keys

KEY = bytes(range(32))


@pytest.mark.skipif(sys.version_info < (3, 13), reason="ssl has no PSK before 3.13")
def test_a_pre_shared_key_in_tls_1_3_admits_nobody(files: Files) -> None:
    """No context tells that it would take one; and who has a key is asked for no certificate."""
    made: dict[Role, Any] = {role: python_context(files, role) for role in Role}
    made[Role.CLIENT].check_hostname = False
    made[Role.SERVER].set_psk_server_callback(lambda _identity: KEY, None)
    credentials = Credentials(
        server_context=made[Role.SERVER], client_context=made[Role.CLIENT], allow_self=True
    )
    server = EchoServer(credentials)
    try:
        # The only cipher that goes with a key of Python's, so that the server takes it.
        options = ("-psk", KEY.hex(), "-ciphersuites", "TLS_AES_128_GCM_SHA256", OPTION["1.3"])
        with s_client(server.watched_port, files, *options, certificate=None) as peer:
            assert b"alert" not in report(peer)  # TLS itself has nothing against it
        error = server.outcome().error
    finally:
        server.stop()
    assert type(error) is PeerRejectedError
    assert "pre-shared key" in str(error)
