"""Certificates and servers that the whole package shares."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.interop.harness import MESSAGE, EchoServer, Files
from tests.support.authority import AUTHORITY, STRANGER


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("interop")
    names = ("trust", "ours", "peer", "stranger")
    files = Files(folder, **{name: folder / f"{name}.pem" for name in names})
    AUTHORITY.cert_pem.write_to_path(str(files.trust))
    for path, issuer in (
        (files.ours, AUTHORITY),
        (files.peer, AUTHORITY),
        (files.stranger, STRANGER),
    ):
        issuer.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(path))
    files.message.write_bytes(MESSAGE)
    return files


@pytest.fixture(scope="module")
def server(files: Files) -> Generator[EchoServer]:
    server = EchoServer(files.credentials)
    yield server
    server.stop()
