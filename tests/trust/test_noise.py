"""What is not worth a warning: healthy nodes, public roots that ended, and the deprecations of dependencies."""

from __future__ import annotations

import logging
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.support.authority import DAY, FLEET, NOW, STRANGERS, Authority
from trio_duplex import Credentials
from trio_duplex.certificates import Grade, check_certificate

pytestmark = pytest.mark.slow


ENDED, ENDING = Authority("ended", days=0), Authority("ending", days=2)
LEAF = FLEET.issue("node.example")


def negative_root() -> bytes:
    """A root as older bundles hold them, whose serial number is negative."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "old public root")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(0x7F010203)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    serial = bytes.fromhex("02047f010203")
    assert made.count(serial) == 1
    der = made.replace(serial, bytes.fromhex("0204ff010203"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def test_a_bundle_with_odd_roots_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    # Warnings are errors here.
    trust = FLEET.pem + negative_root()
    made = Credentials.mutual(certificate_chain=LEAF, trust=trust)
    made.reload()
    check_certificate(certificate_chain=LEAF, trust=trust)
    assert caplog.records == []


def test_expired_public_roots_cause_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trust = FLEET.pem + ENDED.pem
    Credentials.mutual(certificate_chain=LEAF, trust=trust).reload()
    assert caplog.records == []
    roots = [
        each
        for each in check_certificate(certificate_chain=LEAF, trust=trust)
        if each.what.startswith("trust root")
    ]
    assert [each.grade for each in roots] == [Grade.OK]
    assert "O=ended" in roots[0].detail


def test_a_warning_if_all_roots_have_expired(caplog: pytest.LogCaptureFixture) -> None:
    Credentials.mutual(certificate_chain=LEAF, trust=ENDED.pem)
    assert [r.levelno for r in caplog.records if "trust root" in r.message] == [logging.WARNING]


def test_warnings_about_roots_are_not_repeated_at_each_reload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trust = tmp_path / "trust.pem"
    trust.write_bytes(FLEET.pem + ENDING.pem)
    made = Credentials.mutual(certificate_chain=LEAF, trust=trust)
    assert len(caplog.records) == 1
    made.reload()
    assert len(caplog.records) == 1
    trust.write_bytes(FLEET.pem + ENDING.pem + Authority("ending too", days=2).pem)
    made.reload()
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 2
    assert "ending too" in caplog.records[1].message


def test_warnings_about_our_own_certificate_are_repeated_at_each_reload(
    caplog: pytest.LogCaptureFixture,
) -> None:
    leaf = FLEET.issue("node.example", not_after=NOW + 2 * DAY)
    Credentials.mutual(certificate_chain=leaf, trust=FLEET).reload()
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 2


def test_a_node_whose_issuer_we_do_not_trust_ourselves_is_healthy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="trio_duplex")
    Credentials.mutual(certificate_chain=LEAF, trust=STRANGERS)
    assert [r.levelno for r in caplog.records] == [logging.INFO]
    assert "chain" in caplog.records[0].message
