"""Certificates and lists that cryptography does not build, put together from the DER of those that it does."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding


def wrap(tag: int, content: bytes) -> bytes:
    """An element of DER (X.690 section 8.1)."""
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size, "big") + content


def as_v1(certificate: x509.Certificate) -> x509.Certificate:
    """The same without its version, as X.509 v1 has it; the signature no longer fits."""
    der = certificate.public_bytes(Encoding.DER)
    version = bytes.fromhex("a003020102")
    assert version in der
    tbs = certificate.tbs_certificate_bytes
    content = tbs[tbs.index(version) + len(version) :]
    tail = der[der.index(tbs) + len(tbs) :]
    made = x509.load_der_x509_certificate(wrap(0x30, wrap(0x30, content) + tail))
    assert made.version is x509.Version.v1
    return made


def with_unknown_curve(certificate: x509.Certificate) -> x509.Certificate:
    """The same with its key (of P-256) on an elliptic curve that cryptography does not know."""
    secp256r1, unknown = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030177")
    der = certificate.public_bytes(Encoding.DER)
    assert secp256r1 in der
    return x509.load_der_x509_certificate(der.replace(secp256r1, unknown))


def without_next_update(
    made: x509.CertificateRevocationList, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> x509.CertificateRevocationList:
    """The same without the time of the next one, signed with its issuer's key (an elliptic one)."""
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    tbs = made.tbs_certlist_bytes
    # version, signature, issuer, thisUpdate, nextUpdate: two UTCTimes, of 15 bytes each.
    first = tbs.index(b"\x17\x0d")
    assert tbs[first + 15 : first + 17] == b"\x17\x0d"
    algorithm = tbs[tbs.index(b"\x02\x01\x01") + 3 :][:12]
    assert algorithm == bytes.fromhex("300a06082a8648ce3d040302")  # ecdsa-with-SHA256
    start = 2 if tbs[1] < 0x80 else 2 + (tbs[1] & 0x7F)
    short = wrap(0x30, tbs[start : first + 15] + tbs[first + 30 :])
    signature = key.sign(short, ec.ECDSA(hashes.SHA256()))
    whole = wrap(0x30, short + algorithm + wrap(0x03, b"\0" + signature))
    return x509.load_der_x509_crl(whole)
