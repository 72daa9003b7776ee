"""Certificates and keys from wherever users have them; and no key where it could be read."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.authority import AUTHORITY, FLEET
from tests.support.contexts import new_context
from tests.support.peers import open_descriptors
from trio_duplex import Credentials, CredentialsError, Role
from trio_duplex._trust.pem import Pem, Source, as_file

pytestmark = pytest.mark.slow


LEAF = FLEET.issue("node.example")


def read(source: Any) -> Pem:
    return Source(source, "it").read()


def test_read(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    path.write_bytes(LEAF.chain_pem)
    for source in (path, str(path), LEAF.chain_pem):
        assert read(source).data == LEAF.chain_pem
        assert read(source).what == "it"
    assert read(path).path == str(path)
    assert read(LEAF.chain_pem).path is None
    assert read(LEAF).data == LEAF.key_pem + LEAF.chain_pem
    assert read(FLEET).data == FLEET.pem
    assert read(AUTHORITY).data == AUTHORITY.cert_pem.bytes()


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for source in (tmp_path / "absent.pem", str(tmp_path), f"{tmp_path}/a\0b"):
        with pytest.raises(CredentialsError) as caught:
            Source(source, "trust roots").read()
        (defect,) = caught.value.defects
        assert "trust roots" in defect
    with pytest.raises(CredentialsError) as caught:
        read(tmp_path)
    assert isinstance(caught.value.__cause__, OSError)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "odd", [17, bytearray(LEAF.chain_pem), object()], ids=["a number", "a bytearray", "an object"]
)
def test_invalid_sources(odd: object) -> None:
    with pytest.raises(TypeError, match=type(odd).__name__):
        read(odd)


KEY = LEAF.key_pem.decode()
KEY_LINES = KEY.splitlines()[1:-1]
SHORT_KEY = base64.b64encode(  # 48 bytes: no kind of key is shorter
    ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    )
).decode()


@pytest.mark.parametrize(
    "text",
    [KEY, KEY_LINES[0] + "\n", "".join(KEY_LINES), SHORT_KEY, LEAF.chain_pem.decode(), Path(KEY)],
    ids=["PEM", "a line of it", "base64", "a short key", "certificate", "as a Path"],
)
def test_text_that_is_given_as_a_path_is_not_shown(text: Any) -> None:
    with pytest.raises(CredentialsError) as caught:
        read(text)
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert "it" in str(caught.value)
    assert "bytes" in str(caught.value)
    assert_not_shown(str(caught.value))
    assert_not_shown(repr(Source(text, "it")))


def assert_not_shown(text: str) -> None:
    for line in (*KEY_LINES, SHORT_KEY):
        assert line[:16] not in text


@pytest.mark.parametrize("path", ["a/b.pem", "/etc/ssl/" + 40 * "x", "MIIB", "node key.pem", ""])
def test_paths_that_are_paths_are_shown(path: str) -> None:
    assert repr(Source(path, "it")) == repr(path)
    assert repr(Source(Path(path), "it")) == repr(str(Path(path)))


def test_nothing_in_memory_is_shown() -> None:
    for given in (KEY.encode(), LEAF, FLEET):
        assert repr(Source(given, "it")) == "<given in memory>"
    assert repr(Pem("it", KEY.encode())) == f"<it: {len(KEY)} bytes>"
    assert base64.b64decode("".join(KEY_LINES)) not in repr(Pem("it", KEY.encode())).encode()


# ------------------------------------------------------------------------------------- as a file


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "folder"])
def test_as_file(memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif not hasattr(os, "memfd_create"):
        pytest.skip("no memfd_create")
    with as_file(Pem("it", b"secret")) as path:
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


def test_openssl_can_load_the_file() -> None:
    context = new_context(Role.SERVER)
    with as_file(Pem("it", LEAF.private_key_and_cert_chain_pem.bytes())) as path:
        context.load_cert_chain(path)


def test_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a chroot: OpenSSL can't be given a file in memory by name."""
    exists = Path.exists
    monkeypatch.setattr(
        Path,
        "exists",
        lambda path, **options: not str(path).startswith("/proc") and exists(path, **options),
    )
    before = open_descriptors()
    with pytest.raises(CredentialsError, match="/proc"):
        Credentials.mutual(certificate_chain=LEAF, trust=FLEET)
    assert open_descriptors() == before


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "folder"])
def test_no_file_can_be_made(memory: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **options: object) -> Any:
        raise OSError(24, "Too many open files")

    if memory:
        monkeypatch.setattr(os, "memfd_create", fail, raising=False)
    else:
        monkeypatch.delattr(os, "memfd_create", raising=False)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(CredentialsError):
        Credentials.mutual(certificate_chain=LEAF, trust=FLEET)


def test_credentials_errors_tell_each_defect() -> None:
    error = CredentialsError("one", "two")
    assert error.defects == ("one", "two")
    assert "one" in str(error)
    assert "two" in str(error)
    assert isinstance(error, ValueError)
