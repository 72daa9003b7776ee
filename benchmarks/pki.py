"""One throw-away authority, and a P-256 certificate that every subject and client has.

The command refuses a peer that presents its own, so it has another. Benchmarks do not use the tests'
authority: a benchmark may run against an older version of trio_duplex, beside its own tests, and servers
in other languages need files of other kinds. The benchmarks of keys and chains (`costs`, `slow_key`) sign
their certificates themselves, because these are what they measure.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12


def make(folder: Path) -> Path:
    """Write ca.pem, chain.pem, node.key, node.pem (chain and key in one) and command.pem to a folder."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    node = authority.issue_cert(
        "localhost", "127.0.0.1", common_name="node", key_type=trustme.KeyType.ECDSA
    )
    authority.cert_pem.write_to_path(folder / "ca.pem")
    node.private_key_pem.write_to_path(folder / "node.key")
    (folder / "chain.pem").write_bytes(b"".join(pem.bytes() for pem in node.cert_chain_pems))
    node.private_key_and_cert_chain_pem.write_to_path(folder / "node.pem")
    command = authority.issue_cert(
        "localhost", "127.0.0.1", common_name="command", key_type=trustme.KeyType.ECDSA
    )
    command.private_key_and_cert_chain_pem.write_to_path(folder / "command.pem")
    (folder / "node.p12").write_bytes(_pkcs12(authority, node))
    return folder


def make_ends(folder: str, names: Iterable[str]) -> None:
    """Write ``ca``, and a certificate with its key for each name under that name, to a folder."""
    authority = trustme.CA()
    for name in names:
        leaf = authority.issue_cert(f"{name}.example")
        leaf.private_key_and_cert_chain_pem.write_to_path(Path(folder, name))
    authority.cert_pem.write_to_path(Path(folder, "ca"))


def _pkcs12(authority: trustme.CA, node: trustme.LeafCert) -> bytes:
    """Chain, authority and key as Java reads them, under a password that is no secret."""
    key = serialization.load_pem_private_key(node.private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    leaf, *others = [
        x509.load_pem_x509_certificate(pem.bytes())
        for pem in (*node.cert_chain_pems, authority.cert_pem)
    ]
    return pkcs12.serialize_key_and_certificates(
        b"node", key, leaf, others, serialization.BestAvailableEncryption(b"benchmark")
    )


def context(
    folder: Path, *, server: bool, tickets: int = 2, mutual: bool = True, version: str | None = None
) -> ssl.SSLContext:
    """A context such as `trio_duplex.Credentials.mutual` makes, for any subject.

    Args:
        folder: What `make` filled.
        server: Whether it is for the TLS server.
        tickets: TLS 1.3 session tickets to give out; 2 is OpenSSL's default.
        mutual: Whether to ask for the peer's certificate, and verify it.
        version: ``"TLSv1_2"`` or ``"TLSv1_3"`` to allow that one alone.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.load_cert_chain(folder / "node.pem")
    if mutual:  # loading it has OpenSSL send it, too
        made.load_verify_locations(folder / "ca.pem")
    made.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
    made.options |= ssl.OP_NO_RENEGOTIATION
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if server:
        made.num_tickets = tickets
    if version is not None:
        made.minimum_version = made.maximum_version = ssl.TLSVersion[version]
    return made
