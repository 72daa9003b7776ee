"""Finding out by handshakes in memory what can't be read from a TLS context.

There is no network and no clock. The other end is a context of our own that verifies nothing.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterator
from itertools import takewhile

from trio_duplex._wire.records import HANDSHAKE, read_records

_SERVER_HELLO, _CERTIFICATE = 2, 11
_FLIGHTS = 4  # the most flights of each end; with a HelloRetryRequest there are three
_PRE_SHARED_KEY = 41  # RFC 8446 section 4.2


def presented_certificates(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> frozenset[bytes]:
    """Find out which leaf certificates two contexts present.

    Returns:
        The certificates, DER. That of the client context is found only if the two
        contexts trust each other, as in a fleet with one authority.
    """
    found: set[bytes | None] = set()
    for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
        with contextlib.suppress(ssl.SSLError):
            found.add(_server_certificate(server_context, version))
    with contextlib.suppress(ssl.SSLError):
        found.add(_client_certificate(server_context, client_context))
    return frozenset(filter(None, found))


def offers_shared_key(client_context: ssl.SSLContext) -> bool:
    """Whether a client context would authenticate by a pre-shared key instead."""
    to_server = ssl.MemoryBIO()
    try:
        _advance(client_context.wrap_bio(ssl.MemoryBIO(), to_server))
    except ssl.SSLError:  # this context can't even make a ClientHello
        return False
    hello = next(body for _, body in _messages(to_server.read()))
    # RFC 8446 section 4.1.2: legacy_version, random, then vectors with their lengths.
    suites, position = _vector(hello, 34 + 1 + hello[34], length_bytes=2)
    _, position = _vector(hello, position, length_bytes=1)
    extensions, _ = _vector(hello, position, length_bytes=2)
    # OpenSSL offers these suites only if it has a callback for the key.
    with_key = {c["id"] & 0xFFFF for c in client_context.get_ciphers() if "PSK" in c["name"]}
    offered = {int.from_bytes(suites[at : at + 2], "big") for at in range(0, len(suites), 2)}
    return bool(with_key & offered) or _PRE_SHARED_KEY in _extension_types(extensions)


def takes_shared_key(server_context: ssl.SSLContext) -> bool:
    """Whether a server context accepts pre-shared keys, as far as we can find out.

    In TLS 1.2 we can: the server then agrees to a cipher suite for such keys. In
    TLS 1.3 it depends on the name of the key, which we can't guess. Python before
    3.13 does not support pre-shared keys at all.
    """
    probe = _context_without_checks()
    # Typed by hand: the type checkers read the standard library of 3.11.
    set_psk: Callable[[Callable[[object], tuple[str, bytes]]], None] | None
    set_psk = getattr(probe, "set_psk_client_callback", None)
    if set_psk is None:
        return False
    probe.maximum_version = ssl.TLSVersion.TLSv1_2
    probe.set_ciphers("PSK:@SECLEVEL=0")
    set_psk(lambda _hint: ("probe", bytes(32)))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    _advance(probe.wrap_bio(to_client, to_server))
    try:
        _advance(server_context.wrap_bio(to_server, to_client, server_side=True))
    except ssl.SSLError:  # no shared cipher, or no TLS 1.2
        return False
    return any(kind == _SERVER_HELLO for kind, _ in _messages(to_client.read()))


def _vector(data: bytes, position: int, *, length_bytes: int) -> tuple[bytes, int]:
    """Return a vector of RFC 8446 section 3.4, and where it ends."""
    start = position + length_bytes
    end = start + int.from_bytes(data[position:start], "big")
    return data[start:end], end


def _extension_types(extensions: bytes) -> Iterator[int]:
    position = 0
    while position < len(extensions):
        yield int.from_bytes(extensions[position : position + 2], "big")
        _, position = _vector(extensions, position + 2, length_bytes=2)


def _context_without_checks() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the other end is a context of our own
    return context


def _server_certificate(server_context: ssl.SSLContext, version: ssl.TLSVersion) -> bytes | None:
    probe = _context_without_checks()
    probe.minimum_version = probe.maximum_version = version
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = probe.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_FLIGHTS):
        if _advance(client):
            return client.getpeercert(binary_form=True)
        _advance(server)
        flight = to_client.read()
        # In TLS 1.2 the server wants the probe's certificate before it goes on, but its own
        # certificate is not encrypted: list (3 bytes of length), leaf (3 bytes), DER.
        for kind, body in _messages(flight):
            if kind == _CERTIFICATE:
                return body[6 : 6 + int.from_bytes(body[3:6], "big")]
        to_client.write(flight)
    return None


def _client_certificate(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> bytes | None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_FLIGHTS):
        _advance(client)
        if _advance(server):
            return server.getpeercert(binary_form=True)
    return None


def _advance(tls: ssl.SSLObject) -> bool:
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each handshake message that is not encrypted."""
    records = takewhile(lambda record: record[0] == HANDSHAKE, read_records(data))
    payload = b"".join(contents for _, contents in records)
    while len(payload) >= 4:
        end = 4 + int.from_bytes(payload[1:4], "big")
        yield payload[0], payload[4:end]
        payload = payload[end:]
