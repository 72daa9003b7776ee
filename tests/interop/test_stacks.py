"""Other TLS stacks, each in both roles and both versions of TLS: Go, Node, Java, Python.

Each dials by itself and then takes its role on the connected socket, as a program does that was
written for call-home. The sources are in `peers/`; one run of a program tries all four cases.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12

from tests.interop.harness import (
    MESSAGE,
    VERSIONS,
    WINDOW,
    EchoServer,
    Files,
    Outcome,
    Version,
    dial,
    python_context,
    python_dials,
    run,
)
from tests.support.tools import require_tool
from trio_duplex import Reason, Role

pytestmark = pytest.mark.interop

SOURCES = Path(__file__).with_name("peers")
CASES = [(manner, version) for manner in ("silent", "speaking") for version in VERSIONS]


def go(files: Files) -> tuple[list[str | Path], Path]:
    program = files.folder / "peer-go"
    environment = {**os.environ, "GOCACHE": str(files.folder / "go-cache"), "GO111MODULE": "off"}
    source = SOURCES / "peer.go"
    built = run(require_tool("go"), "build", "-o", program, source, environment=environment)
    assert built.returncode == 0, built.stderr.decode()
    return [program], files.peer


def node(files: Files) -> tuple[list[str | Path], Path]:
    return [require_tool("node"), SOURCES / "peer.mjs"], files.peer


def java(files: Files) -> tuple[list[str | Path], Path]:
    require_tool("javac")  # without the compiler, java takes no source file
    keystore = files.folder / "peer.p12"
    pem = files.peer.read_bytes()
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    certificate = x509.load_pem_x509_certificate(pem)
    encryption = serialization.BestAvailableEncryption(b"peer")
    keystore.write_bytes(
        pkcs12.serialize_key_and_certificates(b"node", key, certificate, None, encryption)
    )
    return [require_tool("java"), "-XX:TieredStopAtLevel=1", SOURCES / "Peer.java"], keystore


Outcomes = dict[tuple[str, str], Outcome]


@pytest.fixture(scope="module", params=[go, node, java], ids=lambda param: str(param.__name__))
def outcomes(request: pytest.FixtureRequest, server: EchoServer, files: Files) -> Outcomes:
    """What became of each case of one program, all of which went well from its point of view."""
    prepare: Callable[[Files], tuple[list[str | Path], Path]] = request.param
    command, certificate = prepare(files)
    cases = [":".join(case) for case in CASES]
    done = run(*command, str(server.port), files.trust, certificate, files.message, *cases)
    expected = [f"{case} ok" for case in cases]
    assert done.stdout.decode().splitlines() == expected, done.stderr.decode()
    return {case: server.outcome() for case in CASES}


@pytest.mark.parametrize("version", VERSIONS)
def test_speaking_peer(outcomes: Outcomes, version: Version) -> None:
    check(outcomes["speaking", version], Role.SERVER, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_silent_peer(outcomes: Outcomes, version: Version) -> None:
    check(outcomes["silent", version], Role.CLIENT, version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", Role)
def test_python_with_blocking_sockets(
    server: EchoServer, files: Files, role: Role, version: Version
) -> None:
    context = python_context(files, role.other, [version])
    with dial(server.port, role.other) as sock:
        assert python_dials(sock, context, role.other) == MESSAGE
    check(server.outcome(), role, version)


def check(outcome: Outcome, role: Role, version: Version) -> None:
    assert outcome.role is role
    decision = outcome.opened.decision
    if role is Role.SERVER:
        assert decision.reason is Reason.SPOKE
    else:
        assert decision.reason is Reason.SILENT
        assert decision.waited >= WINDOW
    assert outcome.version == f"TLSv{version}"
    assert outcome.is_echo()
