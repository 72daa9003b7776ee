"""What `Credentials.mutual` trusts: anchors, certificates that vouch for themselves, and revocation lists."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from trio.testing import MockClock

from tests.support.authority import DAY, FLEET, NOW, STRANGERS, Authority, Leaf
from tests.support.trust import GREETING, LISTENER, context, meet
from trio_duplex import (
    Credentials,
    CredentialsError,
    HandshakeError,
    NamedPeer,
    PeerRejectedError,
    PinnedPeer,
    Role,
)
from trio_duplex._trust.vouching import SelfVouching
from trio_duplex.certificates import Grade

pytestmark = pytest.mark.slow

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
each_role = pytest.mark.parametrize("role", list(Role), ids=str)
each_version = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["TLS1.2", "TLS1.3"])


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def self_signed(
    name: str, *, ca: bool | None, days: int = 30, usage: x509.KeyUsage | None = None
) -> Leaf:
    """A device that has signed its own certificate; as an authority, as ``openssl req -x509`` does."""
    key = FLEET.issue("key").key
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 9 * DAY)
        .not_valid_after(NOW + days * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    return Leaf(builder.sign(key, hashes.SHA256()), key)


class Issuing(Authority):
    """An authority in whose place somebody's leaf certificate stands."""

    def __init__(self, leaf: Leaf) -> None:
        self.key, self.certificate = leaf.key, leaf.certificate
        self.name, self.chain = leaf.certificate.subject, (leaf.certificate,)


def trusting(**options: Any) -> Credentials:
    return Credentials.mutual(certificate_chain=LISTENER, **options)


async def admitted(
    credentials: Credentials, role: Role, leaf: Leaf, version: ssl.TLSVersion
) -> bool:
    meeting = await meet(credentials, role, context(role.other, leaf, version=version))
    assert (meeting.error is None) is (meeting.heard == GREETING)
    return meeting.error is None


# ----------------------------------------------------------------------------------------- anchors

INTERMEDIATE = Authority("intermediate", issuer=FLEET)
BELOW = INTERMEDIATE.issue("peer.example")


@each_role
@each_version
async def test_an_intermediate_is_an_anchor(
    role: Role, version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    credentials = trusting(trust=INTERMEDIATE)
    assert await admitted(credentials, role, BELOW, version)
    assert not await admitted(credentials, role, FLEET.issue("peer.example"), version)


KEY_CERT_SIGN = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
DIGITAL_SIGNATURE = x509.KeyUsage(True, False, False, False, False, False, False, False, False)


@each_role
@each_version
@pytest.mark.parametrize(
    "stray",
    [
        self_signed("stray.example", ca=False),
        self_signed("stray.example", ca=None),
        self_signed("stray.example", ca=None, usage=KEY_CERT_SIGN),  # OpenSSL lets it issue
        self_signed("stray.example", ca=True, usage=DIGITAL_SIGNATURE),
        STRANGERS.issue("stray.example"),
    ],
    ids=["CA:FALSE", "v3 of no kind", "keyCertSign only", "may not sign", "a leaf"],
)
async def test_a_certificate_that_is_not_an_authority_is_not_a_root(
    stray: Leaf, role: Role, version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    """What the check says is what happens."""
    credentials = trusting(trust=FLEET.pem + pem(stray.certificate))
    (said,) = (check for check in credentials.checks if check.grade is Grade.WARNING)
    assert "block 2" in said.detail
    assert "trusted_certificates" in said.detail
    assert stray.certificate.subject.rfc4514_string() in said.what
    assert credentials.context(role).cert_store_stats()["x509"] == 1
    assert not await admitted(credentials, role, stray, version)
    assert not await admitted(credentials, role, Issuing(stray).issue("peer.example"), version)
    assert await admitted(credentials, role, FLEET.issue("peer.example"), version)


@pytest.mark.parametrize("check", [True, False])
def test_nobody_could_be_admitted(check: bool) -> None:
    stray = self_signed("stray.example", ca=False)
    with pytest.raises(CredentialsError) as caught:
        trusting(trust=pem(stray.certificate), check=check)
    assert "CN=stray.example" in caught.value.defects[0]
    assert "trusted_certificates" in str(caught.value)
    with pytest.raises(CredentialsError, match="trusted_certificates"):
        trusting()


# --------------------------------------------------------------------- each vouches for itself only

DEVICES = {
    "CA:TRUE": self_signed("device.example", ca=True),
    "CA:FALSE": self_signed("device.example", ca=False),
    "v3 of no kind": self_signed("device.example", ca=None),
    "of an authority unknown to us": STRANGERS.issue("device.example"),
}


@each_role
@each_version
@pytest.mark.parametrize("with_trust", [True, False], ids=["trust", "no trust"])
@pytest.mark.parametrize("kind", DEVICES)
async def test_a_certificate_that_vouches_for_itself(
    kind: str, with_trust: bool, role: Role, version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    device, other = DEVICES[kind], self_signed("other.example", ca=True)
    options: dict[str, Any] = {"trust": FLEET} if with_trust else {}
    credentials = trusting(
        trusted_certificates=pem(device.certificate, other.certificate), **options
    )
    assert await admitted(credentials, role, device, version)
    # Of nobody else: not what it has issued, directly or not, nor its namesake.
    child = Authority("child", issuer=Issuing(device))
    for stranger in (
        Issuing(device).issue("peer.example"),
        child.issue("peer.example"),
        self_signed("device.example", ca=True),
        STRANGERS.issue("peer.example"),
    ):
        assert not await admitted(credentials, role, stranger, version)
    # Authorities are as ever.
    for member in (FLEET.issue("peer.example"), BELOW):
        assert await admitted(credentials, role, member, version) is with_trust


@each_role
async def test_the_refusal_says_what_was_seen(role: Role, autojump_clock: MockClock) -> None:
    device = DEVICES["CA:TRUE"]
    credentials = trusting(trusted_certificates=pem(device.certificate))
    peer = context(role.other, Issuing(device).issue("peer.example"))
    error = (await meet(credentials, role, peer)).error
    assert isinstance(error, PeerRejectedError)
    assert error.role is role
    assert "trusted_certificates" in (error.advice or "")


@each_role
@each_version
@pytest.mark.parametrize("ca", [True, False])
async def test_the_policy_is_asked_of_them(
    ca: bool, role: Role, version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    first, second = (self_signed(f"{name}.example", ca=ca) for name in ("first", "second"))
    both = pem(first.certificate, second.certificate)
    for policy in (PinnedPeer(first.fingerprint), NamedPeer("first.example")):
        credentials = trusting(trusted_certificates=both, peer=policy)
        assert await admitted(credentials, role, first, version)
        assert not await admitted(credentials, role, second, version)


@each_role
@each_version
async def test_one_that_has_expired(
    role: Role, version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    old = self_signed("old.example", ca=True, days=-1)
    credentials = trusting(trusted_certificates=pem(old.certificate), trust=FLEET)
    (said,) = (check for check in credentials.checks if check.grade is Grade.WARNING)
    assert "CN=old.example" in said.what
    assert not await admitted(credentials, role, old, version)


def test_trusted_certificates_show_in_repr_and_checks() -> None:
    credentials = trusting(trusted_certificates=pem(DEVICES["CA:TRUE"].certificate))
    assert "trusted_certificates" in repr(credentials)
    assert "trusted certificates" in [check.what for check in credentials.checks]


def chain(*links: bytes) -> Sequence[bytes]:
    return links


def test_a_resumed_session_has_no_chain() -> None:
    """It is believed if its certificate was seen with a chain before."""
    vouching = SelfVouching(frozenset({b"device"}), frozenset({b"root"}))
    assert vouching.vouched_for(b"device", [])
    assert not vouching.vouched_for(b"leaf", [])
    assert not vouching.vouched_for(b"other", [b"other", b"device"])
    assert not vouching.vouched_for(b"other", [])
    assert vouching.vouched_for(b"leaf", [b"leaf", b"middle", b"root"])
    assert vouching.vouched_for(b"leaf", [])
    for number in range(5000):
        vouching.vouched_for(b"%d" % number, [b"%d" % number, b"root"])
    assert vouching.vouched_for(b"4999", [])
    assert not vouching.vouched_for(b"leaf", [])  # bounded


# -------------------------------------------------------------------------------- revocation lists


def revocation_list(
    *revoked: Leaf | Authority,
    issuer: Authority = FLEET,
    end: datetime = NOW + DAY,
    start: datetime = NOW - 9 * DAY,
    signer: Authority | None = None,
) -> bytes:
    numbers = [each.certificate.serial_number for each in revoked]
    made = issuer.revocation_list(*numbers, start=start, end=end, signer=signer)
    return made.public_bytes(Encoding.PEM)


GOOD, BAD = FLEET.issue("good.example"), FLEET.issue("bad.example")


@each_role
@each_version
async def test_who_was_revoked(
    role: Role, version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    credentials = trusting(trust=FLEET, revocation_lists=revocation_list(BAD))
    assert await admitted(credentials, role, GOOD, version)
    meeting = await meet(credentials, role, context(role.other, BAD, version=version))
    assert isinstance(meeting.error, HandshakeError)
    assert "revoked" in (meeting.error.tls_reason or "")


@each_role
async def test_an_authority_that_was_revoked(role: Role, autojump_clock: MockClock) -> None:
    good, bad = (Authority(name, issuer=FLEET) for name in ("good", "bad"))
    lists = revocation_list(bad) + b"".join(revocation_list(issuer=each) for each in (good, bad))
    credentials = trusting(trust=FLEET, revocation_lists=lists)
    assert await admitted(credentials, role, good.issue("peer.example"), TLS13)
    assert not await admitted(credentials, role, bad.issue("peer.example"), TLS13)


@each_role
@each_version
@pytest.mark.parametrize(
    ("lists", "told"),
    [
        (revocation_list(end=NOW - DAY), "expired"),
        (revocation_list(issuer=STRANGERS), "missing"),
        (revocation_list(start=NOW + timedelta(hours=1)), "not yet"),
        (revocation_list(signer=STRANGERS), "signature"),
    ],
    ids=["expired", "of another", "not yet valid", "forged"],
)
async def test_a_list_that_cannot_be_used_is_our_own_fault(
    lists: bytes,
    told: str,
    role: Role,
    version: ssl.TLSVersion,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    credentials = trusting(trust=FLEET, revocation_lists=lists, check=False)
    meeting = await meet(credentials, role, context(role.other, GOOD, version=version))
    assert isinstance(meeting.error, HandshakeError)
    advice = meeting.error.advice or ""
    assert "our own" in advice
    assert "reload" in advice
    assert told in advice
    records = [each for each in caplog.records if "failed" in each.getMessage()]
    assert [each.levelno for each in records] == [logging.ERROR]  # the peer's are INFO


@pytest.mark.parametrize(
    "lists",
    [
        revocation_list(end=NOW - DAY),
        revocation_list(start=NOW + timedelta(hours=1)),
        revocation_list(signer=STRANGERS),
    ],
    ids=["expired", "not yet valid", "forged"],
)
def test_a_list_that_cannot_be_used_is_refused(lists: bytes) -> None:
    with pytest.raises(CredentialsError, match="revocation list 1 of 'O=fleet'"):
        trusting(trust=FLEET, revocation_lists=lists)


def test_a_root_without_a_list_is_a_warning() -> None:
    credentials = trusting(
        trust=FLEET.pem + STRANGERS.pem, revocation_lists=revocation_list(issuer=STRANGERS)
    )
    (said,) = (check for check in credentials.checks if check.grade is Grade.WARNING)
    assert "O=fleet" in said.what


def test_revocation_lists_ask_for_roots() -> None:
    lists = revocation_list(issuer=INTERMEDIATE) + revocation_list()
    with pytest.raises(CredentialsError, match="O=intermediate"):
        trusting(trust=INTERMEDIATE, revocation_lists=lists)
    with pytest.raises(CredentialsError, match="trusted_certificates"):
        trusting(trusted_certificates=FLEET.pem, trust=FLEET, revocation_lists=lists)


@each_role
async def test_an_intermediate_beside_its_root_under_revocation_lists(
    role: Role, autojump_clock: MockClock
) -> None:
    lists = revocation_list(issuer=INTERMEDIATE) + revocation_list()
    credentials = trusting(trust=INTERMEDIATE.pem + FLEET.pem, revocation_lists=lists)
    assert await admitted(credentials, role, BELOW, TLS13)
    assert await admitted(credentials, role, GOOD, TLS13)
