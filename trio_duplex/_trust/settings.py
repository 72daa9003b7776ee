"""Finding out which trust roots a context rejects in its role, which Python can't read from it.

A ``TRUSTED CERTIFICATE`` block of PEM says for which purposes its certificate may
be a trust root, for instance only for TLS servers (``openssl x509 -addtrust``,
``-addreject``). Python returns the certificates of a context without these settings.
So we try them out. For each trust root, we begin a TLS 1.2 handshake in memory in
which the peer presents that root, and OpenSSL says whether it rejects it. The
handshake goes no further than that.
"""

from __future__ import annotations

import contextlib
import ssl
import warnings
from collections.abc import Generator, Iterable
from functools import cache

from trio_duplex._role import Role
from trio_duplex._wire.records import HANDSHAKE, MAX_FRAGMENT, write_record

_REJECTED = 28
"""X509_V_ERR_CERT_REJECTED, which has no name in Python."""

_SERVER_HELLO, _CERTIFICATE = 2, 11


def rejected_roots(
    context: ssl.SSLContext, role: Role, roots: Iterable[bytes]
) -> frozenset[bytes] | None:
    """Find those of the roots (DER) that OpenSSL rejects in ``role``.

    Returns:
        The rejected roots. None if they can't be found out, because the handshake
        failed before the context looked at a certificate.
    """
    with _tls_1_2(context):
        answers = {root: _is_rejected(context, role, root) for root in roots}
    if None in answers.values():
        return None
    return frozenset(root for root, rejected in answers.items() if rejected)


@contextlib.contextmanager
def _tls_1_2(context: ssl.SSLContext) -> Generator[None]:
    """Set a context to TLS 1.2 during the block, because TLS 1.3 encrypts certificates."""
    lowest, highest, options = context.minimum_version, context.maximum_version, context.options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about old versions of the user's
        try:
            context.options &= ~ssl.OP_NO_TLSv1_2
            # Set them in this order, so that the minimum is never above the maximum.
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            yield
        finally:
            context.maximum_version, context.minimum_version = highest, lowest
            context.options = options


def _is_rejected(context: ssl.SSLContext, role: Role, root: bytes) -> bool | None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=role is Role.SERVER)
    certificates = len(root).to_bytes(3, "big") + root
    certificates = len(certificates).to_bytes(3, "big") + certificates
    try:
        if role is Role.SERVER:
            incoming.write(_client_hello())
        else:
            _advance(tls)
            incoming.write(_message(_SERVER_HELLO, _server_hello(context)))
        _advance(tls)
    except (ssl.SSLError, ValueError):  # ValueError: no suite
        return None
    incoming.write(_message(_CERTIFICATE, certificates))
    try:
        _advance(tls)
    except ssl.SSLCertVerificationError as exc:
        return exc.verify_code == _REJECTED
    except ssl.SSLError:  # verified, and refused later for another reason
        return False
    return False


def _advance(tls: ssl.SSLObject) -> None:
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()


def _message(kind: int, body: bytes) -> bytes:
    """Put a handshake message into records of its own (RFC 5246 sections 6.2.1 and 7.4)."""
    message = bytes([kind]) + len(body).to_bytes(3, "big") + body
    pieces = (message[at : at + MAX_FRAGMENT] for at in range(0, len(message), MAX_FRAGMENT))
    return b"".join(write_record(HANDSHAKE, piece) for piece in pieces)


@cache
def _client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ALL:@SECLEVEL=0")
    outgoing = ssl.MemoryBIO()
    _advance(context.wrap_bio(ssl.MemoryBIO(), outgoing))
    return outgoing.read()


def _server_hello(context: ssl.SSLContext) -> bytes:
    """Make a ServerHello: version, random, no session, a suite of the context, RFC 5746's extension."""
    suite, *_ = (
        suite["id"] & 0xFFFF
        for suite in context.get_ciphers()
        if suite["protocol"] != "TLSv1.3" and suite["auth"] in ("auth-rsa", "auth-ecdsa")
    )
    extensions = bytes.fromhex("0005 ff01 0001 00")
    return b"\x03\x03" + bytes(32) + b"\x00" + suite.to_bytes(2, "big") + b"\x00" + extensions
