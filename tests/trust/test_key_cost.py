"""Which keys of ours are slow: `trio_duplex._trust.key_cost`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import NameOID

from tests.support.authority import AUTHORITY, FLEET, rsa_key
from tests.support.contexts import new_context
from tests.support.der import with_unknown_curve
from tests.support.peers import NODE, pin
from trio_duplex import Credentials, Role
from trio_duplex._trust.key_cost import is_expensive

pytestmark = pytest.mark.slow


SLOW = FLEET.issue("node.example", key=rsa_key()).as_trustme()

KEYS: dict[str, tuple[Callable[[], CertificateIssuerPrivateKeyTypes], bool]] = {
    "Ed25519": (ed25519.Ed25519PrivateKey.generate, False),
    "P-256": (lambda: ec.generate_private_key(ec.SECP256R1()), False),
    "P-384": (lambda: ec.generate_private_key(ec.SECP384R1()), True),
    "P-521": (lambda: ec.generate_private_key(ec.SECP521R1()), True),
    "Ed448": (ed448.Ed448PrivateKey.generate, True),
    "RSA": (rsa_key, True),
}


def certificate(key: CertificateIssuerPrivateKeyTypes) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    now = datetime.now(UTC)
    edwards = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, None if edwards else hashes.SHA256())
    )


@pytest.mark.parametrize("kind", KEYS)
def test_kind_of_key_decides(kind: str) -> None:
    make, expensive = KEYS[kind]
    assert is_expensive(certificate(make())) is expensive


def test_an_unknown_kind_of_key_is_taken_for_a_slow_one() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert is_expensive(with_unknown_curve(certificate(key))) is True


def mutual(leaf: trustme.LeafCert, *, handshake_threads: bool = True) -> Credentials:
    return Credentials.mutual(
        certificate_chain=leaf, trust=AUTHORITY, handshake_threads=handshake_threads
    )


def test_known_when_the_credentials_are_built() -> None:
    assert mutual(SLOW)._material.slow_key
    assert not mutual(SLOW, handshake_threads=False)._material.slow_key
    assert not mutual(NODE)._material.slow_key


def test_slow_certificate_chosen_by_name_counts() -> None:
    made = Credentials.mutual(
        certificate_chain=NODE,
        trust=AUTHORITY,
        certificates_by_name={"other.example": FLEET.issue("other.example", key=rsa_key())},
    )
    assert made._material.slow_key


@pytest.mark.parametrize("chooses", [False, True])
@pytest.mark.parametrize("threads", [False, True])
def test_contexts_of_the_users_own(chooses: bool, threads: bool) -> None:
    contexts = {role: new_context(role) for role in Role}
    for context in contexts.values():
        SLOW.configure_cert(context)
        AUTHORITY.configure_trust(context)
        pin(context, None)
    if chooses:
        contexts[Role.SERVER].sni_callback = lambda *_: None
    made = Credentials(
        server_context=contexts[Role.SERVER],
        client_context=contexts[Role.CLIENT],
        allow_asymmetric=chooses,
        handshake_threads=threads,
    )
    # A function of the user's need not expect to be called in a thread.
    assert made._material.slow_key is (threads and not chooses)
