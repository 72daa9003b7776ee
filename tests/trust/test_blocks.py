"""PEM block by block: what is there, what can't be used, and the command that converts it."""

from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs7,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from tests.support.authority import DAY, FLEET, NOW
from tests.support.tools import require_tool
from trio_duplex import Credentials, CredentialsError
from trio_duplex._trust.blocks import (
    Block,
    blocks,
    find_private_key,
    load_certificates,
    load_revocation_lists,
    locate_certificates,
    parse_private_key,
)
from trio_duplex._trust.pem import Pem, Source

LEAF = FLEET.issue("node.example")
CERTIFICATE = LEAF.certificate.public_bytes(Encoding.PEM)
LIST = FLEET.revocation_list()
REQUEST = (
    x509.CertificateSigningRequestBuilder()
    .subject_name(x509.Name([]))
    .sign(LEAF.key, hashes.SHA256())
)


def pem_of(data: bytes, what: str = "trust roots") -> Pem:
    return Pem(what, data)


def block(label: str, text: bytes = b"AAAA") -> bytes:
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label.encode(), text, label.encode())


def test_blocks_are_numbered_and_their_text_is_kept() -> None:
    data = b"Bag Attributes\n" + LEAF.chain_pem + b"comment\n" + LEAF.key_pem
    first, second = blocks(pem_of(data))
    assert (first.number, first.label, first.is_key) == (1, "CERTIFICATE", False)
    assert (second.number, second.label, second.is_key) == (2, "PRIVATE KEY", True)
    assert first.text == LEAF.chain_pem.strip()
    assert second.text == LEAF.key_pem.strip()
    assert LEAF.key_pem.splitlines()[1].decode() not in repr(second)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("label", ["CERTIFICATE", "X509 CERTIFICATE"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "UTF-8 mark"])
def test_certificates_among_other_things(end: bytes, label: str, mark: bytes) -> None:
    certificate = CERTIFICATE.replace(b"CERTIFICATE", label.encode())
    data = mark + b"\n".join(
        [certificate, block("EC PARAMETERS"), LEAF.key_pem, block("DH PARAMETERS"), FLEET.pem]
    ).replace(b"\n", end)
    assert load_certificates(pem_of(data)) == [LEAF.certificate, FLEET.certificate]
    assert [each.number for each in locate_certificates(pem_of(data))] == [1, 5]
    whole = Credentials.mutual(certificate_chain=data, trust=data, check=False)
    assert whole.server_context.cert_store_stats()["x509_ca"] == 1


@pytest.mark.parametrize("kind", ["PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"])
def test_find_private_key(kind: str) -> None:
    key = block(kind)
    found = find_private_key(pem_of(b"Bag Attributes\n" + LEAF.chain_pem + key))
    assert found.text == key.strip()
    assert found.number == 2
    for absent in (key[:-7], LEAF.chain_pem, b""):
        with pytest.raises(CredentialsError):
            find_private_key(pem_of(absent, "private key"))


def encrypted(password: bytes = b"secret", form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return LEAF.key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(password))


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_key_is_decrypted(form: PrivateFormat) -> None:
    found = find_private_key(pem_of(encrypted(form=form)))
    key = parse_private_key(found, lambda: b"secret")
    assert key.public_key() == LEAF.key.public_key()
    for wrong in (b"wrong", b"", None):
        with pytest.raises(CredentialsError, match="password"):
            parse_private_key(found, lambda wrong=wrong: wrong)  # type: ignore[misc]


def test_the_password_function_is_not_called_without_need() -> None:
    def ask() -> bytes:
        raise AssertionError

    key = parse_private_key(find_private_key(pem_of(LEAF.key_pem)), ask)
    assert key.public_key() == LEAF.key.public_key()


# --------------------------------------------------------- what can't be used: number and subject


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (CERTIFICATE[:-10], ["block 2", "END", "cut"]),
        (block("CERTIFICATE"), ["block 2", "can't be read"]),
        (block("PKCS7"), ["block 2", "PKCS#7", "openssl pkcs7 -print_certs -in"]),
        (block("TRUSTED CERTIFICATE"), ["block 2", "trust settings", "openssl x509 -in"]),
        (block("CERTIFICATE REQUEST"), ["block 2", "request"]),
        (LIST.public_bytes(Encoding.PEM), ["block 2", "revocation_lists"]),
    ],
    ids=["cut", "malformed", "PKCS7", "TRUSTED", "request", "CRL"],
)
def test_a_block_that_cannot_be_used_is_named(second: bytes, told: list[str]) -> None:
    with pytest.raises(CredentialsError) as caught:
        load_certificates(pem_of(FLEET.pem + second + FLEET.pem))
    (defect,) = caught.value.defects
    for word in (*told, "trust roots"):
        assert word in defect


def test_all_unusable_blocks_are_named() -> None:
    with pytest.raises(CredentialsError) as caught:
        load_certificates(pem_of(block("PKCS7") + FLEET.pem + block("CERTIFICATE")))
    first, second = caught.value.defects
    assert "block 1" in first
    assert "block 3" in second


def test_a_truncated_block_does_not_hide_the_next() -> None:
    found = blocks(pem_of(CERTIFICATE[:-20] + FLEET.pem))
    assert [each.text is None for each in found] == [True, False]


def trusted(certificate: x509.Certificate) -> bytes:
    """As ``openssl x509 -trustout`` writes it: trust settings behind the certificate."""
    der = certificate.public_bytes(Encoding.DER) + bytes.fromhex("300c300a06082b06010505070301")
    return block("TRUSTED CERTIFICATE", base64.encodebytes(der).strip())


def small_certificate() -> x509.Certificate:
    """One of less than 256 bytes, so that its length is in one byte behind 0x81."""
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "fleet")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .sign(key, None)
    )
    assert made.public_bytes(Encoding.DER)[1] == 0x81
    return made


@pytest.mark.parametrize("certificate", [FLEET.certificate, small_certificate()], ids=["", "small"])
def test_a_trusted_block_is_named_by_subject(certificate: x509.Certificate) -> None:
    with pytest.raises(CredentialsError, match="O=fleet"):
        load_certificates(pem_of(trusted(certificate)))


def test_a_certificate_in_place_of_a_revocation_list() -> None:
    with pytest.raises(CredentialsError, match=r"block 1.*O=fleet"):
        load_revocation_lists(pem_of(FLEET.pem, "revocation lists"))


def test_revocation_lists() -> None:
    text = LIST.public_bytes(Encoding.PEM)
    assert load_revocation_lists(pem_of(text + b"\n" + text)) == [LIST, LIST]
    for wrong in (b"", block("X509 CRL"), text[:-9]):
        with pytest.raises(CredentialsError):
            load_revocation_lists(pem_of(wrong))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (LEAF.key_pem, "private key in its place"),
        (block("PUBLIC KEY"), "PUBLIC KEY"),
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"nonsense", "not PEM"),
        (b"\x30", "DER"),
        (b"\x30\x82\x01\x00" + bytes(256), "DER"),
        (CERTIFICATE.decode().encode("utf-16"), "UTF-16"),
        (CERTIFICATE.decode().encode("utf-16-le"), "UTF-16LE"),
        (CERTIFICATE.decode().encode("utf-16-be"), "UTF-16BE"),
        (bytes.fromhex("300b06092a864886f70d010702"), "PKCS#7"),  # its length in one byte
        (REQUEST.public_bytes(Encoding.DER), "request"),
        (bytes.fromhex("feedfeed00000002"), "keytool"),
    ],
)
def test_the_error_says_what_the_file_is(data: bytes, told: str) -> None:
    with pytest.raises(CredentialsError) as caught:
        load_certificates(pem_of(data))
    (defect,) = caught.value.defects
    assert told in defect
    assert "trust roots" in defect


def test_the_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    for data in (block("PUBLIC KEY"), b"nonsense", FLEET.pem + block("CERTIFICATE")):
        path.write_bytes(data)
        with pytest.raises(CredentialsError) as caught:
            load_certificates(Source(path, "trust roots").read())
        (defect,) = caught.value.defects
        assert str(path) in defect
        assert "trust roots" in defect


def test_a_missing_key() -> None:
    with pytest.raises(CredentialsError, match="private_key"):
        find_private_key(pem_of(LEAF.chain_pem, "certificate chain"))
    with pytest.raises(CredentialsError, match=r"1 \(CERTIFICATE\)"):
        find_private_key(pem_of(LEAF.chain_pem, "private key"))
    der = LEAF.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(CredentialsError, match="openssl pkey -inform DER"):
        find_private_key(pem_of(der, "private key"))
    ssh = LEAF.key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    with pytest.raises(CredentialsError, match="ssh-keygen"):
        find_private_key(pem_of(ssh, "private key"))


# ------------------------------------------------------------------- the command does what it says

CONVERTED = {
    "DER": LEAF.der,
    "PKCS7 in DER": pkcs7.serialize_certificates([LEAF.certificate], Encoding.DER),
    "PKCS7": pkcs7.serialize_certificates([LEAF.certificate], Encoding.PEM),
    "PKCS12": pkcs12.serialize_key_and_certificates(
        b"node", LEAF.key, LEAF.certificate, None, NoEncryption()
    ),
    "UTF-16": CERTIFICATE.decode().encode("utf-16"),
    "UTF-16LE": CERTIFICATE.decode().encode("utf-16-le"),
    "UTF-16BE": CERTIFICATE.decode().encode("utf-16-be"),
    "TRUSTED": trusted(LEAF.certificate),
}


def follow_advice(error: CredentialsError, folder: Path) -> Path:
    """Run the command that an error names, as a person would who pastes it."""
    (defect,) = error.defects
    found = re.search(r": ((openssl|iconv|ssh-keygen) .*)$", defect)
    assert found
    require_tool(found[2])
    command = found[1]
    if found[2] == "ssh-keygen":
        command += " -N '' -P '' -q"
    subprocess.run(
        command + (" -passin pass:" if " pkcs12 " in command else ""),
        shell=True,
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=60,
    )
    return folder / "a file.pem"


@pytest.mark.interop
@pytest.mark.parametrize("kind", CONVERTED)
def test_the_command_that_converts_a_certificate(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a file"
    path.write_bytes(CONVERTED[kind])
    with pytest.raises(CredentialsError) as caught:
        load_certificates(Source(path, "certificate chain").read())
    made = follow_advice(caught.value, tmp_path)
    assert load_certificates(Source(made, "certificate chain").read()) == [LEAF.certificate]


@pytest.mark.interop
@pytest.mark.parametrize("kind", ["DER", "traditional DER", "OpenSSH"])
def test_the_command_that_converts_a_key(kind: str, tmp_path: Path) -> None:
    encoding = Encoding.PEM if kind == "OpenSSH" else Encoding.DER
    form = {
        "DER": PrivateFormat.PKCS8,
        "traditional DER": PrivateFormat.TraditionalOpenSSL,
        "OpenSSH": PrivateFormat.OpenSSH,
    }[kind]
    path = tmp_path / "a file"
    path.write_bytes(LEAF.key.private_bytes(encoding, form, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(CredentialsError) as caught:
        find_private_key(Source(path, "private key").read())
    made = follow_advice(caught.value, tmp_path)
    found: Block = find_private_key(Source(path if kind == "OpenSSH" else made, "key").read())
    assert parse_private_key(found, lambda: None).public_key() == LEAF.key.public_key()


def test_old_roots_of_a_system_bundle_cause_no_warning() -> None:
    """cryptography warns of some of them, and warnings are errors here."""
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if not bundle.exists():
        pytest.skip("no bundle")
    assert load_certificates(Source(bundle, "trust roots").read())
