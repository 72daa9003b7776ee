"""Certificates and servers that the whole package shares."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import trustme

from tests.interop.harness import MESSAGE, EchoServer, Files


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("interop")
    names = ("trust", "ours", "peer", "stranger")
    files = Files(folder, **{name: folder / f"{name}.pem" for name in names})
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(files.trust))
    for path, issuer in (
        (files.ours, authority),
        (files.peer, authority),
        (files.stranger, trustme.CA()),
    ):
        issuer.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(path))
    files.message.write_bytes(MESSAGE)
    return files


@pytest.fixture(scope="module")
def server(files: Files) -> Generator[EchoServer]:
    server = EchoServer(files.credentials)
    yield server
    server.stop()
