"""`check_certificate` shakes hands with itself, so that it is never greener than TLS: `trio_duplex._trust.rehearsal`."""

from __future__ import annotations

import ssl
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from tests.support.authority import (
    CLIENT_AUTH,
    DAY,
    FLEET,
    NOW,
    SERVER_AUTH,
    Authority,
    Leaf,
    rsa_key,
)
from tests.support.tools import require_tool
from tests.support.trust import LISTENER, context
from trio_duplex import Credentials, CredentialsError, Role
from trio_duplex._trust.rehearsal import WHAT, _failures, _shake_hands
from trio_duplex.certificates import Check, Grade, check_certificate

pytestmark = pytest.mark.slow


OK, WARNING, DEFECT = Grade.OK, Grade.WARNING, Grade.DEFECT


def issued(
    key: Any,
    *,
    names: int = 1,
    critical: bool = False,
    identified: bool = True,
    subject: str | None = "leaf",
) -> bytes:
    """A certificate of the fleet, and its key."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
        )
        .issuer_name(FLEET.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + timedelta(days=90))
        .add_extension(x509.ExtendedKeyUsage([SERVER_AUTH, CLIENT_AUTH]), critical=False)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(f"n{n}.example") for n in range(names)]),
            critical=critical,
        )
    if identified:
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(FLEET.key.public_key()),
            critical=False,
        )
    certificate: bytes = builder.sign(FLEET.key, hashes.SHA256()).public_bytes(Encoding.PEM)
    private: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate + private


def handshakes(pem: bytes, trust: Any) -> list[Check]:
    checks = check_certificate(certificate_chain=pem, trust=trust)
    return [check for check in checks if check.what == WHAT]


P256 = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize("trust", [FLEET, None], ids=["issuer known", "issuer unknown"])
@pytest.mark.parametrize(
    ("made", "grade"),
    [
        (lambda: issued(P256), OK),
        (lambda: issued(ec.generate_private_key(ec.SECP521R1())), OK),
        (lambda: issued(rsa_key()), OK),
        (lambda: issued(P256, identified=False), WARNING),  # strict peers want it
        # They want the names to be critical then (RFC 5280 section 4.2.1.6).
        (lambda: issued(P256, subject=None), WARNING),
        (lambda: issued(P256, subject=None, critical=True), OK),
        (lambda: issued(P256, subject=None, names=0), WARNING),
        (lambda: issued(rsa.generate_private_key(65537, 1024)), DEFECT),
        (lambda: issued(ec.generate_private_key(ec.SECP224R1())), DEFECT),
        (lambda: issued(P256, names=8_000), DEFECT),  # more than 100 KB
    ],
    ids=[
        "P-256",
        "P-521",
        "RSA-2048",
        "no AKI",
        "no subject",
        "no subject, critical names",
        "neither subject nor names",
        "RSA-1024",
        "P-224",
        "100 KB",
    ],
)
def test_each_has_a_verdict(made: Any, grade: Grade, trust: Any) -> None:
    found = handshakes(made(), trust)
    assert {check.grade for check in found} == {grade}
    if len(found) == 1:  # could not be loaded
        assert found[0].role is None
    else:
        assert {check.role for check in found} == set(Role)


@pytest.mark.interop
def test_a_sha1_signature_has_a_verdict(tmp_path: Path) -> None:
    openssl = require_tool("openssl")
    (tmp_path / "ca.pem").write_bytes(FLEET.pem)
    (tmp_path / "ca.key").write_bytes(
        FLEET.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (tmp_path / "ext").write_text(
        "subjectAltName=DNS:n.example\nextendedKeyUsage=serverAuth,clientAuth\n"
    )
    for command in (
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out csr -subj /CN=x",
        "x509 -req -sha1 -in csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile ext -out pem",
    ):
        subprocess.run([openssl, *command.split()], cwd=tmp_path, check=True, capture_output=True)
    pem = (tmp_path / "pem").read_bytes() + (tmp_path / "key").read_bytes()
    assert {check.grade for check in handshakes(pem, FLEET)} == {DEFECT}
    with pytest.raises(CredentialsError):
        Credentials.mutual(certificate_chain=pem, trust=FLEET)


@pytest.mark.parametrize("usage", [SERVER_AUTH, CLIENT_AUTH])
def test_a_certificate_for_one_role_fails_in_the_other(usage: x509.ObjectIdentifier) -> None:
    leaf = FLEET.issue("node.example", usages=[usage])
    found = check_certificate(certificate_chain=leaf, trust=FLEET)
    grades = {check.role: check.grade for check in found if check.what == WHAT}
    fit = Role.SERVER if usage == SERVER_AUTH else Role.CLIENT
    assert grades == {fit: OK, fit.other: DEFECT}


def test_below_an_intermediate() -> None:
    leaf = Authority("between", issuer=FLEET).issue("node.example")
    for trust in (FLEET, None, Authority("elsewhere")):
        found = check_certificate(certificate_chain=leaf, trust=trust)
        assert [check.grade for check in found if check.what == WHAT] == [OK, OK]


def test_an_issuer_that_only_lenient_peers_accept() -> None:
    """Its basic constraints are not critical (RFC 5280 section 4.2.1.9)."""
    key, name = P256, x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "between")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(FLEET.name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 90 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(FLEET.key.public_key()),
            critical=False,
        )
        .sign(FLEET.key, hashes.SHA256())
    )
    between = Authority("between", issuer=FLEET)
    between.key, between.certificate, between.chain = key, made, (made,)
    leaf = between.issue("node.example")
    found = check_certificate(certificate_chain=leaf, trust=FLEET)
    assert [check.grade for check in found if check.what == WHAT] == [WARNING, WARNING]


def test_a_certificate_that_vouches_for_itself_needs_no_key_identifier() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(P256.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 90 * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("n.example")]), critical=False)
        .sign(P256, hashes.SHA256())
    )
    leaf = Leaf(made, P256)
    found = check_certificate(certificate_chain=leaf)
    assert [check.grade for check in found if check.what == WHAT] == [OK, OK]


def test_trust_that_mutual_refuses_is_a_defect() -> None:
    leaf = FLEET.issue("node.example")
    trust = leaf.certificate.public_bytes(Encoding.PEM)
    with pytest.raises(CredentialsError):
        Credentials.mutual(certificate_chain=leaf, trust=trust)
    found = check_certificate(certificate_chain=leaf, trust=trust)
    assert DEFECT in {check.grade for check in found}


@pytest.mark.parametrize("days", [(-9, -1), (1, 9)], ids=["expired", "not yet valid"])
def test_what_is_not_valid_now_is_reported_only_by_its_dates(days: tuple[int, int]) -> None:
    start, end = (NOW + number * DAY for number in days)
    leaf = FLEET.issue("node.example", not_before=start, not_after=end)
    found = check_certificate(certificate_chain=leaf, trust=FLEET, now=start + 5 * DAY)
    assert DEFECT not in {check.grade for check in found}


def test_the_password_is_asked_for_once() -> None:
    asked: list[None] = []

    def password() -> bytes:
        asked.append(None)
        return b"secret"

    pem = issued(P256)
    certificate = pem[: pem.index(b"-----BEGIN PRIVATE KEY")]
    key = P256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    found = check_certificate(
        certificate_chain=certificate, private_key=key, trust=FLEET, password=password
    )
    assert {check.grade for check in found} == {OK}
    assert len(asked) == 1


@pytest.mark.parametrize("role", list(Role), ids=str)
@pytest.mark.parametrize(
    ("version", "other"),
    [(ssl.TLSVersion.TLSv1_2, "TLS 1.3"), (ssl.TLSVersion.TLSv1_3, "TLS 1.2")],
    ids=["TLS1.2", "TLS1.3"],
)
def test_both_tls_versions_are_tried(version: ssl.TLSVersion, other: str, role: Role) -> None:
    ours, peer = context(role, LISTENER), context(role.other, LISTENER)
    server = ours if role is Role.SERVER else peer
    server.minimum_version = server.maximum_version = version
    (failure,) = _failures(ours, peer, role)
    assert other in failure


def test_a_handshake_that_does_not_end_has_failed() -> None:
    """Never greener than TLS: nobody has been seen to accept the certificate."""

    class Waiting:
        """A context, and the TLS object that it makes."""

        def wrap_bio(self, *_: object, **__: object) -> Waiting:
            return self

        def do_handshake(self) -> None:
            raise ssl.SSLWantReadError

    class Done(Waiting):
        def do_handshake(self) -> None:
            pass

    ends: list[tuple[Any, Any]] = [(Waiting(), Done()), (Done(), Waiting())]
    for server, client in ends:
        with pytest.raises(ssl.SSLError):
            _shake_hands(server, client)
    _shake_hands(*2 * [cast("Any", Done())])
