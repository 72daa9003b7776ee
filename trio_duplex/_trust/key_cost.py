"""Whether a signature with our own key is so slow that it should be made in a thread.

Each handshake signs once with our key, which blocks the event loop. To switch to a thread of Trio's
and back costs 0.15 ms of CPU. A signature takes, measured with OpenSSL 3.0.19 as CPython uses it, in
ms: Ed25519 and ECDSA with P-256 0.04, Ed448 0.2, P-521 0.3, RSA-2048 0.7, P-384 1.0, RSA-3072 2.2,
RSA-4096 5.0. So only the first two are made in the event loop.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519


def is_expensive(certificate: x509.Certificate) -> bool:
    """Whether a signature with this certificate's key takes longer than switching to a thread."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):  # a newer kind than cryptography knows
        return True
    if isinstance(key, ec.EllipticCurvePublicKey):
        return not isinstance(key.curve, ec.SECP256R1)
    return not isinstance(key, ed25519.Ed25519PublicKey)
