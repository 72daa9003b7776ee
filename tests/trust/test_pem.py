"""Certificates and keys from wherever users have them."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
import trustme

from tests.support.trust import FLEET
from trio_duplex import Credentials, CredentialsError
from trio_duplex._trust.pem import as_file, find_private_key, read_pem

LEAF = FLEET.issue("node.example")


def test_read(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    path.write_bytes(LEAF.chain_pem)
    for source in (path, str(path), LEAF.chain_pem):
        assert read_pem(source, "it") == LEAF.chain_pem
    assert read_pem(LEAF, "it") == LEAF.key_pem + LEAF.chain_pem
    assert read_pem(FLEET, "it") == FLEET.pem
    authority = trustme.CA()
    assert read_pem(authority, "it") == authority.cert_pem.bytes()


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for source in (tmp_path / "absent.pem", str(tmp_path)):
        with pytest.raises(CredentialsError) as caught:
            read_pem(source, "trust roots")
        assert isinstance(caught.value.__cause__, OSError)
        (defect,) = caught.value.defects
        assert "trust roots" in defect
        assert str(tmp_path) in defect


@pytest.mark.parametrize("kind", ["PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"])
def test_find_private_key(kind: str) -> None:
    block = f"-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----".encode()
    assert find_private_key(b"Bag Attributes\n" + LEAF.chain_pem + block + b"\n") == block
    assert find_private_key(block[:-1]) is None
    assert find_private_key(LEAF.chain_pem) is None


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "folder"])
def test_as_file(memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif not hasattr(os, "memfd_create"):
        pytest.skip("no memfd_create")
    with as_file(b"secret") as path:
        assert Path(path).read_bytes() == b"secret"
        if memory:
            assert path.startswith("/proc/self/fd/")
        else:
            assert Path(path).parent.stat().st_mode & 0o077 == 0
    assert not Path(path).exists()


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "folder"])
def test_no_key_is_left_on_a_disk(
    memory: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if not memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    Credentials.mutual(certificate_chain=LEAF, trust=FLEET)
    assert list(tmp_path.iterdir()) == []


def test_openssl_takes_it() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with as_file(LEAF.private_key_and_cert_chain_pem.bytes()) as path:
        context.load_cert_chain(path)


def test_credentials_errors_tell_each_defect() -> None:
    error = CredentialsError("one", "two")
    assert error.defects == ("one", "two")
    assert "one" in str(error)
    assert "two" in str(error)
    assert isinstance(error, ValueError)
