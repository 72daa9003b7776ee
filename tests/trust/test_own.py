"""Is our own certificate fit for both roles?"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from trio.testing import MockClock

from tests.support.authority import (
    AUTHORITY,
    CLIENT_AUTH,
    DAY,
    FLEET,
    NOW,
    SERVER_AUTH,
    STRANGERS,
    Authority,
    Leaf,
)
from tests.support.der import as_v1, with_unknown_curve, without_next_update
from tests.support.trust import GREETING, context, meet, mutual
from trio_duplex import Credentials, CredentialsError, Role
from trio_duplex._trust import own as _own
from trio_duplex._trust.own import EXPIRY_WARNING
from trio_duplex._trust.rehearsal import WHAT as HANDSHAKE
from trio_duplex.certificates import Check, Grade
from trio_duplex.certificates import check_certificate as check_all

pytestmark = pytest.mark.slow


LEAF = FLEET.issue("node.example")


def check_certificate(**options: Any) -> tuple[Check, ...]:
    """What the text says. How the handshake went is in test_rehearsal.py."""
    return tuple(check for check in check_all(**options) if check.what != HANDSHAKE)


def check(
    leaf: Leaf = LEAF, trust: Authority | None = FLEET, **options: object
) -> dict[str, Check]:
    """The checks by what they are of; those of one role as ``"key usage server"``."""
    checks = check_certificate(certificate_chain=leaf, trust=trust, **options)
    return {f"{check.what} {check.role}" if check.role else check.what: check for check in checks}


def bad(checks: dict[str, Check]) -> dict[str, Grade]:
    return {what: check.grade for what, check in checks.items() if check.grade is not Grade.OK}


def test_a_good_certificate_passes_all_checks() -> None:
    checks = check()
    assert bad(checks) == {}
    assert list(checks) == [
        "private key",
        "chain",
        "validity",
        "key usage server",
        "key usage client",
        "names",
        "trust roots",
    ]
    assert "node.example" in checks["names"].detail
    for one in checks.values():
        assert one.what in str(one)
        assert one.detail in str(one)
    assert "server" in str(checks["key usage server"])


def test_of_trustme() -> None:
    assert bad(check(AUTHORITY.issue_cert("a.example"), AUTHORITY)) == {}  # type: ignore[arg-type]


def test_a_key_of_another_certificate() -> None:
    checks = check_certificate(
        certificate_chain=LEAF.chain_pem, private_key=FLEET.issue("b.example").key_pem, trust=FLEET
    )
    assert checks[0].what == "private key"
    assert checks[0].grade is Grade.DEFECT


def test_a_key_of_another_certificate_is_named_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.key"
    path.write_bytes(FLEET.issue("b.example").key_pem)
    checks = check_certificate(certificate_chain=LEAF.chain_pem, private_key=path, trust=FLEET)
    assert str(path) in str(checks[0])


@pytest.mark.parametrize(
    "key",
    [
        LEAF.chain_pem,
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        LEAF.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        ),
    ],
    ids=["none", "malformed", "encrypted"],
)
def test_no_key_that_can_be_read(key: bytes) -> None:
    with pytest.raises(CredentialsError):
        check_certificate(certificate_chain=LEAF.chain_pem, private_key=key)


def test_a_certificate_whose_key_cannot_be_read() -> None:
    pem = with_unknown_curve(LEAF.certificate).public_bytes(Encoding.PEM)
    with pytest.raises(CredentialsError):
        check_certificate(certificate_chain=pem, private_key=LEAF.key_pem)


def test_no_certificate_that_can_be_read() -> None:
    for pem in (
        b"",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        LEAF.key_pem,
    ):
        with pytest.raises(CredentialsError):
            check_certificate(certificate_chain=pem)
        with pytest.raises(CredentialsError):
            check_certificate(certificate_chain=LEAF, trust=pem)


# ---------------------------------------------------------------------------------------- chain

INTERMEDIATE = Authority("intermediate", issuer=FLEET)
BELOW = INTERMEDIATE.issue("node.example")


def chain_of(*certificates: x509.Certificate, trust: Authority | None) -> Check:
    pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    checks = check_certificate(certificate_chain=pem, private_key=BELOW.key_pem, trust=trust)
    return next(check for check in checks if check.what == "chain")


def test_chains() -> None:
    leaf, middle, root = BELOW.certificate, INTERMEDIATE.certificate, FLEET.certificate
    assert chain_of(leaf, middle, root, trust=None).grade is Grade.OK
    assert chain_of(leaf, middle, root, trust=STRANGERS).grade is Grade.OK
    assert chain_of(leaf, middle, trust=FLEET).grade is Grade.OK
    assert chain_of(leaf, trust=INTERMEDIATE).grade is Grade.OK
    # Peers may know more than we do: doubtful, not defective.
    assert chain_of(leaf, trust=FLEET).grade is Grade.WARNING
    assert chain_of(leaf, middle, trust=None).grade is Grade.WARNING
    assert chain_of(leaf, middle, trust=STRANGERS).grade is Grade.WARNING
    assert chain_of(leaf, root, trust=FLEET).grade is Grade.DEFECT
    assert chain_of(leaf, root, middle, trust=FLEET).grade is Grade.DEFECT
    assert chain_of(leaf, leaf, trust=FLEET).grade is Grade.DEFECT
    # The name of an issuer is no proof.
    namesake = Authority("fleet")
    assert chain_of(leaf, middle, trust=namesake).grade is Grade.WARNING
    # What we would look for is named.
    assert "O=fleet" in chain_of(leaf, middle, trust=STRANGERS).detail
    assert "O=intermediate" in chain_of(leaf, trust=INTERMEDIATE).detail


def test_a_public_authority(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that this system's own TLS clients know: what is named, peers will know too."""
    monkeypatch.setattr(_own, "_system_roots", lambda: {FLEET.certificate.subject.public_bytes()})
    assert chain_of(BELOW.certificate, INTERMEDIATE.certificate, trust=STRANGERS).grade is Grade.OK


def test_the_roots_of_this_system_can_be_read() -> None:
    known = ssl.create_default_context().cert_store_stats()["x509_ca"]
    assert len(_own._system_roots()) <= known
    assert bool(_own._system_roots()) is bool(known)


def test_roots_of_this_system_that_are_not_quite_x509(monkeypatch: pytest.MonkeyPatch) -> None:
    class System(ssl.SSLContext):
        def load_default_certs(self, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
            pass

        def get_ca_certs(self, binary_form: bool = False) -> Any:
            return [b"odd", FLEET.certificate.public_bytes(Encoding.DER)]

    monkeypatch.setattr(ssl, "SSLContext", System)
    assert _own._load_system_roots.__wrapped__() == {FLEET.certificate.subject.public_bytes()}


def test_roots_of_this_system_that_could_not_be_read_are_read_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There may have been no descriptor left."""

    class Nothing(ssl.SSLContext):
        def load_default_certs(self, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
            pass

    _own._load_system_roots.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(ssl, "SSLContext", Nothing)
        assert _own._system_roots() == frozenset()
    assert _own._system_roots() == _own._load_system_roots.__wrapped__()


# ------------------------------------------------------------------------------------- validity


@pytest.mark.parametrize(
    ("at", "grade"),
    [
        (NOW - 2 * DAY, Grade.DEFECT),
        (NOW - DAY + timedelta(seconds=1), Grade.OK),
        (NOW, Grade.OK),
        (NOW + 83 * DAY - timedelta(minutes=1), Grade.OK),
        (NOW + 83 * DAY + timedelta(minutes=1), Grade.WARNING),
        (NOW + 90 * DAY - timedelta(minutes=1), Grade.WARNING),
        (NOW + 90 * DAY + timedelta(minutes=1), Grade.DEFECT),
    ],
)
def test_validity(at: datetime, grade: Grade) -> None:
    checks = check(now=at)
    assert checks["validity"].grade is grade
    assert set(bad(checks)) <= {"validity", "trust root 'O=fleet'"}
    assert ("trust roots" in checks) is ("trust root 'O=fleet'" not in checks)


def test_the_bounds_of_validity_belong_to_it() -> None:
    """RFC 5280 section 4.1.2.5: both inclusive."""
    leaf = FLEET.issue("a.example")
    start, end = leaf.certificate.not_valid_before_utc, leaf.certificate.not_valid_after_utc
    second = timedelta(seconds=1)
    for at, grade in (
        (start - second, Grade.DEFECT),
        (start, Grade.OK),
        (end - EXPIRY_WARNING, Grade.OK),
        (end - EXPIRY_WARNING + second, Grade.WARNING),
        (end, Grade.WARNING),
        (end + second, Grade.DEFECT),
    ):
        assert _own._check_validity(leaf.certificate, at, leaf=True).grade is grade


def test_the_bounds_of_a_revocation_list_belong_to_it() -> None:
    start, end = NOW.replace(microsecond=0), NOW.replace(microsecond=0) + DAY
    made = FLEET.revocation_list(start=start, end=end)
    second = timedelta(seconds=1)
    for at, grade in (
        (start - second, Grade.DEFECT),
        (start, Grade.OK),
        (end, Grade.OK),
        (end + second, Grade.DEFECT),
    ):
        (said,) = _own.check_revocation_lists([made], [FLEET.certificate], at)
        assert said.grade is grade
        assert (f"{end:%Y-%m-%d %H:%M}" in said.detail) is (at >= start)


def test_a_revocation_list_without_an_end_is_good_for_ever() -> None:
    """RFC 5280 section 5.1.2.5 demands nextUpdate, but there are lists without it."""
    made = without_next_update(FLEET.revocation_list(start=NOW - DAY, end=NOW), FLEET.key)
    assert made.next_update_utc is None
    (said,) = _own.check_revocation_lists([made], [FLEET.certificate], NOW + 9000 * DAY)
    assert said.grade is Grade.OK


def test_a_revocation_list_of_a_root_whose_key_cannot_be_read() -> None:
    root, made = (
        with_unknown_curve(FLEET.certificate),
        FLEET.revocation_list(start=NOW - DAY, end=NOW + DAY),
    )
    (said,) = _own.check_revocation_lists([made], [root], NOW)
    assert said.grade is Grade.DEFECT


def test_validity_at_present() -> None:
    assert check()["validity"].grade is Grade.OK
    expired = FLEET.issue("a.example", not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    assert bad(check(expired)) == {"validity": Grade.DEFECT}
    soon = FLEET.issue("a.example", not_after=datetime.now(UTC) + 6 * DAY)
    assert bad(check(soon)) == {"validity": Grade.WARNING}


def test_an_intermediate_that_ends() -> None:
    short = Authority("short", issuer=FLEET, days=30)
    assert bad(check(short.issue("a.example"), now=NOW + 31 * DAY)) == {
        "validity of 'O=short'": Grade.DEFECT
    }


# ---------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("usages", "unfit"),
    [
        (None, set()),
        ([SERVER_AUTH, CLIENT_AUTH], set()),
        ([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, SERVER_AUTH, CLIENT_AUTH], set()),
        ([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], {Role.SERVER, Role.CLIENT}),
        ([SERVER_AUTH], {Role.CLIENT}),
        ([CLIENT_AUTH], {Role.SERVER}),
        ([ExtendedKeyUsageOID.EMAIL_PROTECTION], {Role.SERVER, Role.CLIENT}),
    ],
)
def test_key_usage_names_the_role_that_cannot_be_played(
    usages: list[x509.ObjectIdentifier] | None, unfit: set[Role]
) -> None:
    checks = check(FLEET.issue("a.example", usages=usages))
    assert bad(checks) == {f"key usage {role}": Grade.DEFECT for role in unfit}
    for role in unfit:
        assert {Role.SERVER: "serverAuth", Role.CLIENT: "clientAuth"}[role] in checks[
            f"key usage {role}"
        ].detail


ANY_USAGE = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
ISSUERS: dict[str, tuple[Authority, dict[str, Grade]]] = {
    "good": (Authority("a", issuer=FLEET), {}),
    "both usages": (Authority("b", issuer=FLEET, usages=[SERVER_AUTH, CLIENT_AUTH]), {}),
    "for servers only": (
        Authority("c", issuer=FLEET, usages=[SERVER_AUTH]),
        {"key usage client": Grade.DEFECT},
    ),
    "for clients only": (
        Authority("d", issuer=FLEET, usages=[CLIENT_AUTH]),
        {"key usage server": Grade.DEFECT},
    ),
    "for anything": (
        Authority("e", issuer=FLEET, usages=[ANY_USAGE]),
        {f"key usage {role}": Grade.DEFECT for role in Role},
    ),
    "no authority": (Authority("f", issuer=FLEET, ca=False), {"chain": Grade.DEFECT}),
    "may not sign": (Authority("g", issuer=FLEET, sign=False), {"chain": Grade.DEFECT}),
    "as long as it may be": (Authority("h", issuer=FLEET, path_length=0), {}),
    "longer than it may be": (
        Authority("i", issuer=Authority("j", issuer=FLEET, path_length=0)),
        {"chain": Grade.DEFECT},
    ),
}


@pytest.mark.parametrize("role", list(Role), ids=str)
@pytest.mark.parametrize("issuer", ISSUERS)
async def test_issuers_are_judged_as_openssl_does(
    issuer: str, role: Role, autojump_clock: MockClock
) -> None:
    """What is no defect in our eyes, a peer takes; what is one, it refuses."""
    authority, expected = ISSUERS[issuer]
    leaf = authority.issue("node.example")
    assert bad(check(leaf)) == expected
    meeting = await meet(
        mutual(leaf, check=False), role, context(role.other, FLEET.issue("peer.example"))
    )
    taken = not {"chain", f"key usage {role}"} & expected.keys()
    assert (meeting.heard == GREETING) is taken


@pytest.mark.parametrize("role", list(Role), ids=str)
async def test_openssl_does_not_accept_any_extended_key_usage(
    role: Role, autojump_clock: MockClock
) -> None:
    credentials = mutual(FLEET.issue("node.example", usages=[ANY_USAGE]), check=False)
    peer = context(role.other, FLEET.issue("peer.example"))
    assert (await meet(credentials, role, peer)).heard != GREETING


def test_a_key_that_may_not_sign() -> None:
    checks = check(FLEET.issue("a.example", digital_signature=False))
    assert bad(checks) == {f"key usage {role}": Grade.DEFECT for role in Role}


def test_no_key_usage_extension_allows_all() -> None:
    subject = x509.Name([])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(FLEET.name)
        .public_key(LEAF.key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 30 * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example")]), critical=True)
        .sign(FLEET.key, hashes.SHA256())
    )
    assert bad(check(Leaf(made, LEAF.key))) == {}


# ---------------------------------------------------------------------------------------- names


def test_no_names() -> None:
    assert bad(check(FLEET.issue(common_name="node.example"))) == {"names": Grade.WARNING}


def odd(extension: x509.ObjectIdentifier) -> Leaf:
    """A certificate with an extension that nobody can read."""
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(FLEET.name)
        .public_key(LEAF.key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 30 * DAY)
        .add_extension(x509.UnrecognizedExtension(extension, b"odd"), critical=False)
        .sign(FLEET.key, hashes.SHA256())
    )
    return Leaf(made, LEAF.key)


def test_extensions_that_cannot_be_read() -> None:
    with pytest.raises(CredentialsError):
        check(odd(x509.ExtendedKeyUsage.oid))
    with pytest.raises(CredentialsError):
        check(odd(x509.SubjectAlternativeName.oid))


# ---------------------------------------------------------------------------------- trust roots


def test_trust_roots() -> None:
    old = Authority("old", days=1)
    pem = b"".join(
        [FLEET.pem, old.pem, LEAF.certificate.public_bytes(Encoding.PEM)],
    )
    checks = check_certificate(certificate_chain=LEAF, trust=pem, now=NOW + 2 * DAY)
    grades = {one.what: one.grade for one in checks if one.what.startswith("trust root")}
    assert (
        grades
        == {
            "trust roots": Grade.OK,  # `tests/trust/test_noise.py`: of one that has expired, no more is said
            "trust root 'CN=leaf'": Grade.WARNING,  # no authority
        }
    )


@pytest.mark.parametrize("role", list(Role), ids=str)
async def test_a_root_that_is_older_than_extensions(role: Role, autojump_clock: MockClock) -> None:
    """X.509 v1 can't say that it is an authority. OpenSSL accepts it as a root, and so do we."""
    pem = as_v1(old_certificate(FLEET.name)).public_bytes(Encoding.PEM)
    checks = check_certificate(certificate_chain=LEAF, trust=pem)
    assert [one.grade for one in checks if one.what.startswith("trust root")] == [Grade.OK]
    credentials = Credentials.mutual(certificate_chain=LEAF, trust=pem, handshake_threads=False)
    meeting = await meet(credentials, role, context(role.other, FLEET.issue("peer.example")))
    assert meeting.error is None


def test_an_old_certificate_that_another_has_issued_is_no_root() -> None:
    pem = as_v1(old_certificate(STRANGERS.name)).public_bytes(Encoding.PEM)
    with pytest.raises(CredentialsError):
        Credentials.mutual(certificate_chain=LEAF, trust=pem, check=False)


def old_certificate(issuer: x509.Name) -> x509.Certificate:
    """One of the fleet's authority without any extension."""
    return (
        x509.CertificateBuilder()
        .subject_name(FLEET.name)
        .issuer_name(issuer)
        .public_key(FLEET.key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 30 * DAY)
        .sign(FLEET.key, hashes.SHA256())
    )
