"""No private key and no password in any message, cause, `repr` or variable of a traceback."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import attrs
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from tests.support.authority import CLIENT_AUTH, FLEET, Leaf
from trio_duplex import Credentials, CredentialsError
from trio_duplex._trust.blocks import blocks
from trio_duplex._trust.mutual import MutualSource
from trio_duplex._trust.pem import Pem
from trio_duplex.certificates import check_certificate

LEAF = FLEET.issue("node.example")
PASSWORD = b"a password that nobody may read"
LOCKED = LEAF.key.private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD)
)
DER = LEAF.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
OTHER = FLEET.issue("other.example")


def secrets() -> Iterator[str]:
    for text in (LEAF.key_pem, LOCKED, OTHER.key_pem):
        for line in text.decode().splitlines()[1:-1]:
            # Of the last line, too; the others begin with what all keys begin with.
            yield line[-40:] if len(line) > 40 else line
    yield PASSWORD.decode()
    yield repr(DER)[20:60]


SECRETS = tuple(secrets())


def assert_no_secret(text: str) -> None:
    assert not [secret for secret in SECRETS if secret in text], text


def frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def every(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that a printed traceback, or an error tracker, goes on to."""
    if error is not None:
        yield error
        yield from every(error.__cause__)
        yield from every(error.__context__)


def assert_nothing_is_told(function: Callable[..., object], options: dict[str, Any]) -> None:
    seen = 0
    with pytest.raises((ValueError, TypeError)) as caught:
        function(**options)
    for error in every(caught.value):
        assert_no_secret(f"{error!r} {error} {error.args} {vars(error)}")
        for traceback in frames(error.__traceback__):
            if traceback.tb_frame.f_code.co_filename == __file__:
                continue  # the caller's own variables are the caller's
            for name, value in traceback.tb_frame.f_locals.items():
                seen += 1
                assert_no_secret(f"{name} = {value!r}")
    assert seen  # it was looked at


CHAIN, KEY = LEAF.chain_pem, LEAF.key_pem
WRONG: dict[str, dict[str, Any]] = {
    "key as str": {"private_key": KEY.decode()},
    "key and chain as str": {
        "certificate_chain": (KEY + CHAIN).decode(),
        "private_key": None,
    },
    "trust": {"trust": b"nonsense"},
    "trust is a key": {"trust": KEY},
    "trust is the key as str": {"trust": KEY.decode()},
    "absent trust": {"trust": "no/such/file"},
    "key of another": {"private_key": OTHER.key_pem},
    "cut key": {"private_key": KEY[:-30]},
    "broken key": {"private_key": KEY.replace(b"M", b"N")},
    "key in DER": {"private_key": DER},
    "key in the chain's place": {"certificate_chain": KEY},
    "wrong password": {"private_key": LOCKED, "password": PASSWORD + b"!"},
    "no password": {"private_key": LOCKED},
    "password as str": {"private_key": LOCKED, "password": PASSWORD.decode()},
    "function returns a str": {"private_key": LOCKED, "password": PASSWORD.decode},
    "function returns a wrong one": {"private_key": LOCKED, "password": lambda: PASSWORD * 2},
    "long password": {"private_key": LOCKED, "password": PASSWORD * 40},
    "a key as bytearray": {"private_key": bytearray(KEY)},
    "alpn": {"alpn": "h2"},
    "ciphers": {"ciphers": "nonsense"},
    "keylog": {"keylog": "no/such/folder/file"},
    "unfit": {"certificate_chain": FLEET.issue(usages=[CLIENT_AUTH], key=LEAF.key).chain_pem},
    "by name": {"certificates_by_name": {"a.example": (OTHER.chain_pem, KEY)}},
    "by name, as str": {"certificates_by_name": {"a.example": (OTHER.chain_pem, KEY.decode())}},
    "no DNS name": {"certificates_by_name": {"192.0.2.7": (CHAIN, KEY)}},
    "nobody trusted": {"trust": None},
    "lists": {"revocation_lists": KEY},
    "trusted": {"trusted_certificates": KEY, "trust": None},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_mutual(wrong: str) -> None:
    right: dict[str, Any] = {"certificate_chain": CHAIN, "private_key": KEY, "trust": FLEET}
    assert_nothing_is_told(Credentials.mutual, right | WRONG[wrong])


CHECKED = {"key as str", "trust", "trust is a key", "cut key", "broken key", "key in DER"} | {
    "wrong password",
    "no password",
    "password as str",
    "function returns a str",
    "a key as bytearray",
}


@pytest.mark.parametrize("wrong", sorted(CHECKED))
def test_check_certificate(wrong: str) -> None:
    right: dict[str, Any] = {"certificate_chain": CHAIN, "private_key": KEY, "trust": FLEET}
    assert_nothing_is_told(check_certificate, right | WRONG[wrong])


def test_out_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("os.memfd_create", fail)
    right: dict[str, Any] = {"certificate_chain": CHAIN, "private_key": KEY, "trust": FLEET}
    assert_nothing_is_told(Credentials.mutual, right)


@pytest.mark.parametrize("call", ["load_cert_chain", "load_verify_locations"])
def test_whatever_openssl_has_no_descriptor_for(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise at a reload, which leaves in force what was."""
    right: dict[str, Any] = {"certificate_chain": CHAIN, "private_key": KEY, "trust": FLEET}
    made = Credentials.mutual(**right)
    before = made.material

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(ssl.SSLContext, call, fail)
    assert_nothing_is_told(Credentials.mutual, right)
    with pytest.raises(CredentialsError):
        made.reload()
    assert made.material is before


def test_every_repr() -> None:
    """Also of what is private: an error tracker does not ask what is."""
    made = Credentials.mutual(
        certificate_chain=CHAIN,
        private_key=LOCKED,
        password=PASSWORD,
        trust=FLEET,
        certificates_by_name={"a.example": (OTHER.chain_pem, OTHER.key_pem)},
    )
    source = made._source
    assert isinstance(source, MutualSource)
    for value in (
        made,
        source,
        made.material,
        *(getattr(source, a.name) for a in attrs.fields(MutualSource)),
    ):
        assert_no_secret(repr(value))
    for block in blocks(Pem("it", KEY + LOCKED)):
        assert_no_secret(repr(block))


# ----------------------------------------------------------------------------------- the password


@pytest.mark.slow
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("function", [False, True], ids=["bytes", "function"])
def test_encrypted_keys(form: PrivateFormat, function: bool) -> None:
    asked = 0

    def ask() -> bytes:
        nonlocal asked
        asked += 1
        return PASSWORD

    def lock(leaf: Leaf) -> bytes:
        return leaf.key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(PASSWORD))

    made = Credentials.mutual(
        certificate_chain=CHAIN,
        private_key=lock(LEAF),
        password=ask if function else PASSWORD,
        trust=FLEET,
        certificates_by_name={"other.example": (OTHER.chain_pem, lock(OTHER))},
    )
    assert asked == int(function)  # once for all keys
    made.reload()
    assert asked == 2 * int(function)  # it may have changed


def test_a_password_that_is_not_needed_is_not_asked_for() -> None:
    def ask() -> bytes:
        raise AssertionError

    Credentials.mutual(certificate_chain=LEAF, trust=FLEET, password=ask)
    Credentials.mutual(certificate_chain=LEAF, trust=FLEET, password=PASSWORD)


def test_a_password_function_that_fails() -> None:
    def ask() -> bytes:
        raise LookupError("the vault is sealed")

    with pytest.raises(ValueError, match="LookupError") as caught:
        Credentials.mutual(certificate_chain=CHAIN, private_key=LOCKED, password=ask, trust=FLEET)
    assert isinstance(caught.value.__cause__, LookupError)


@pytest.mark.slow
def test_check_certificate_takes_a_password() -> None:
    checks = check_certificate(
        certificate_chain=CHAIN, private_key=LOCKED, password=PASSWORD, trust=FLEET
    )
    assert checks[0].what == "private key"


# --------------------------------------------------------------------------------------- the keylog


def keylog(path: Path) -> Credentials:
    return Credentials.mutual(certificate_chain=LEAF, trust=FLEET, keylog=path)


def test_an_existing_keylog_is_made_private_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text("# kept\n")
    path.chmod(0o666)
    made = keylog(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().startswith("# kept\n")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]  # once
    path.chmod(0o644)
    made.reload()
    assert path.stat().st_mode & 0o777 == 0o600
    for context in (made.server_context, made.client_context):
        assert context.keylog_filename == str(path)


@pytest.mark.parametrize("dangling", [False, True])
def test_a_keylog_follows_no_symbolic_link(tmp_path: Path, dangling: bool) -> None:
    target, link = tmp_path / "target", tmp_path / "keys"
    if not dangling:
        target.write_text("precious\n")
        target.chmod(0o644)
    link.symlink_to(target)
    with pytest.raises(ValueError, match="symbolic link"):
        keylog(link)
    if dangling:
        assert not target.exists()
    else:
        assert target.read_text() == "precious\n"
        assert target.stat().st_mode & 0o777 == 0o644


@pytest.mark.slow
def test_a_keylog_that_is_no_plain_file(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null"), Path("a\0b")):
        with pytest.raises(ValueError, match="keylog"):
            keylog(path)


def test_a_keylog_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").touch()
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    with pytest.raises(ValueError, match="another user"):
        keylog(tmp_path / "keys")


def test_a_keylog_that_is_replaced_while_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "keys", tmp_path / "other"
    other.touch(0o644)
    chmod = __import__("os").fchmod

    def race(descriptor: int, mode: int) -> None:
        chmod(descriptor, mode)
        path.unlink()
        path.symlink_to(other)

    monkeypatch.setattr("os.fchmod", race)
    with pytest.raises(ValueError, match="replaced"):
        keylog(path)
