"""What a stranger's hello, key and chain cost us in CPU, in both roles: our half of a handshake in memory.

``python -m benchmarks.costs ROUNDS`` tells in a line of JSON, in seconds, by role and by what the peer
asks for or shows. All else is as `trio_duplex.Credentials.mutual` makes it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

import trio_duplex

GROUPS = ("X25519", "prime256v1", "secp384r1", "secp521r1", "X448")
RSA_BITS = (2048, 3072, 4096)
INTERMEDIATES = (1, 3, 10, 60)
"""60 of the smallest are 25 KB, of the 32 KiB that are taken."""

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
NOW = dt.datetime.now(dt.UTC)


@attrs.frozen
class Issued:
    """A certificate, its key, and what is above it, up to the root, which is left out."""

    certificate: x509.Certificate
    key: Key
    above: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        """All in one."""
        chain = (self.certificate, *self.above)
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + b"".join(
            each.public_bytes(Encoding.PEM) for each in chain
        )


def issue(name: str, by: Issued | None, key: Key | None = None, *, ca: bool = False) -> Issued:
    """Issue a certificate; by itself if by nobody."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - dt.timedelta(days=1))
        .not_valid_after(NOW + dt.timedelta(days=90))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(by.key if by else key, hashes.SHA256())
    )
    above = (
        (by.certificate, *by.above)
        if by and by.certificate.issuer != by.certificate.subject
        else ()
    )
    return Issued(certificate, key, above)


def peers(root: Issued) -> Iterator[tuple[str, Issued, str | None]]:
    """What peers show, and the one group that they have: a name for each, and these."""
    plain = issue("peer", root)
    yield "ordinary", plain, None
    for group in GROUPS:
        yield group, plain, group
    for bits in RSA_BITS:
        yield f"RSA {bits}", issue("peer", root, rsa.generate_private_key(65537, bits)), None
    for length in INTERMEDIATES:
        authority = root
        for number in range(length):
            authority = issue(f"a{number}", authority, ca=True)
        yield f"{length} intermediates", issue("peer", authority), None


def our_half(ours: ssl.SSLContext, theirs: ssl.SSLContext, *, serving: bool) -> float:
    """Make a handshake, and return the CPU seconds of our half."""
    to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
    us = ours.wrap_bio(to_us, to_them, server_side=serving)
    them = theirs.wrap_bio(to_them, to_us, server_side=not serving)
    spent, done = 0.0, set[ssl.SSLObject]()
    while len(done) < 2:
        for each in (us, them):
            began = time.process_time()
            with contextlib.suppress(ssl.SSLWantReadError):
                each.do_handshake()
                done.add(each)
            if each is us:
                spent += time.process_time() - began
    return spent


def measure(rounds: int) -> dict[str, float]:
    """All of them, in turn, so that noise hits all alike."""
    root = issue("root", None, ca=True)
    credentials = trio_duplex.Credentials.mutual(
        certificate_chain=issue("us", root).pem,
        trust=root.certificate.public_bytes(Encoding.PEM),
        check=False,  # of the smallest certificates
    )
    found: dict[str, list[float]] = {}
    cases = []
    for name, shown, group in peers(root):
        for serving in (True, False):
            theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if serving else ssl.PROTOCOL_TLS_SERVER)
            theirs.check_hostname = False
            theirs.verify_mode = ssl.CERT_NONE
            with tempfile.NamedTemporaryFile() as file:
                Path(file.name).write_bytes(shown.pem)
                theirs.load_cert_chain(file.name)
            theirs.verify_mode = ssl.CERT_NONE if serving else ssl.CERT_OPTIONAL
            theirs.load_verify_locations(cadata=root.certificate.public_bytes(Encoding.DER))
            if group is not None:
                theirs.set_ecdh_curve(group)
            cases.append((f"{'server' if serving else 'client'}: {name}", theirs, serving))
    for _ in range(rounds):
        for name, theirs, serving in cases:
            role = trio_duplex.Role.SERVER if serving else trio_duplex.Role.CLIENT
            spent = our_half(credentials.context(role), theirs, serving=serving)
            found.setdefault(name, []).append(spent)
    return {name: statistics.median(times) for name, times in found.items()}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))), flush=True)
